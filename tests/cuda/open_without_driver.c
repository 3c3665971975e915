/* open_without_driver.c - opens the plugin named by its argument on a machine without a driver: asked for, the device
 * is an error that says what is missing; "auto" logs that and takes the cpu. Prints what went wrong, else the message.
 */
#include <stdio.h>
#include <string.h>

#include "salf.h"

static char logged[512];

static void keep(void *user, int32_t level, const char *message) {
    (void)user, (void)level;
    snprintf(logged, sizeof logged, "%s", message);
}

int main(int argc, char **argv) {
    salf_context_options options;
    salf_context_info info;
    salf_context *context = NULL;
    salf_options_init(&options, sizeof options);
    salf_options_init(&info, sizeof info);
    options.backend = SALF_BACKEND_CUDA;
    options.plugin_path = argc > 1 ? argv[1] : NULL;
    options.log = keep;
    options.log_level = SALF_LOG_INFO;
    const salf_status status = salf_context_create(&context, &options);
    printf("%s", salf_last_error());
    if (status != SALF_E_DEVICE || context || !strstr(salf_last_error(), "no CUDA driver is installed")) {
        printf(" [status %d]", (int)status);
        return 1;
    }
    options.backend = SALF_BACKEND_AUTO;
    if (salf_context_create(&context, &options) != SALF_OK || salf_context_get_info(context, &info) != SALF_OK ||
        info.backend != SALF_BACKEND_CPU) {
        printf(" [auto: %s]", salf_last_error());
        return 1;
    }
    salf_context_destroy(context);
    if (!strstr(logged, "no cuda backend (no CUDA driver is installed")) {
        printf(" [logged: '%s']", logged);
        return 1;
    }
    return 0;
}
