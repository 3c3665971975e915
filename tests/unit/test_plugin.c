/*
 * test_plugin.c - loading a backend plugin: each way to fail has its own message, and "auto" goes on with the cpu.
 *
 * The plugins are those of tests/plugin, built beside this program's folder.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "harness.h"

/* Path of a plugin that was built for these tests: ../plugin/name beside this program. */
static const char *plugin(const char *name) {
    static char path[4200];
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(length, 0);
    self[length] = 0;
    *strrchr(self, '/') = 0;
    snprintf(path, sizeof path, "%s/../plugin/%s", self, name);
    return path;
}

static salf_status open_with(salf_context **context, int32_t backend, const char *path) {
    const salf_context_options o = {.struct_size = sizeof o, .backend = backend, .plugin_path = path};
    return salf_context_create(context, &o);
}

static void refused(const char *behaviour, salf_status status, const char *words) {
    salf_context *context;
    setenv("SALF_FAKE_PLUGIN", behaviour, 1);
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, plugin("fake_plugin.so")), status, words);
    ck_assert_ptr_null(context);
    CHECK_OK(open_with(&context, SALF_BACKEND_AUTO, plugin("fake_plugin.so")));
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_CPU);
    salf_context_destroy(context);
    unsetenv("SALF_FAKE_PLUGIN");
}

START_TEST(a_plugin_that_does_not_fit_is_refused) {
    refused("null", SALF_E_PLUGIN, "does not speak version");
    refused("version", SALF_E_PLUGIN, "backend table of version");
    refused("size", SALF_E_PLUGIN, "bytes needed");
    refused("device", SALF_E_DEVICE, "device 0 is of paper");
}
END_TEST

START_TEST(a_library_that_is_no_plugin_is_refused) {
    salf_context *context;
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, plugin("empty_plugin.so")), SALF_E_PLUGIN,
                "salf_backend_plugin");
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, plugin("missing.so")), SALF_E_PLUGIN, "missing.so");
    FILE *file = fopen(harness_path("text.so"), "w");
    ck_assert_ptr_nonnull(file);
    fputs("not a library\n", file);
    fclose(file);
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, harness_path("text.so")), SALF_E_PLUGIN, "text.so");
}
END_TEST

START_TEST(a_plugin_is_never_searched_for) {
    salf_context *context;
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, "fake_plugin.so"), SALF_E_PLUGIN, "not absolute");
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, "./fake_plugin.so"), SALF_E_PLUGIN, "not absolute");
    /* Beside the program there is none, whatever lies in the current directory. */
    CHECK_FAILS(open_with(&context, SALF_BACKEND_CUDA, NULL), SALF_E_PLUGIN, "libsalf-cuda.so");
}
END_TEST

START_TEST(a_fitting_plugin_is_used) {
    salf_context *context[2];
    for (int i = 0; i < 2; i++)
        CHECK_OK(open_with(&context[i], i == 0 ? SALF_BACKEND_CUDA : SALF_BACKEND_AUTO, plugin("fake_plugin.so")));
    for (int i = 0; i < 2; i++) {
        salf_context_info info = {.struct_size = sizeof info};
        CHECK_OK(salf_context_get_info(context[i], &info));
        ck_assert_int_eq(info.backend, SALF_BACKEND_CUDA);
        ck_assert_str_eq(info.kernels, "fake");
        salf_context_destroy(context[i]);
    }
}
END_TEST

static void keep_log(void *user, int32_t level, const char *message) {
    (void)level;
    snprintf(user, 200, "%s", message);
}

/* Where nothing speaks of a device AUTO leaves the plugin alone, whose initialisers do not survive a lack of memory;
 * who names the backend gets it. Only on such a machine: the plugin lies beside this program meanwhile. */
START_TEST(auto_opens_no_plugin_without_a_driver) {
    char beside[4200], log[200] = "";
    if (slf_plugin_worth_opening()) {
        printf("SKIPPED: auto without a driver, there is a sign of one\n");
        return;
    }
    snprintf(beside, sizeof beside, "%s", plugin("fake_plugin.so"));
    char *end = strstr(beside, "/../plugin/");
    ck_assert_ptr_nonnull(end);
    strcpy(end, "/libsalf-cuda.so");
    unlink(beside);
    ck_assert_int_eq(symlink("../plugin/fake_plugin.so", beside), 0);
    const int32_t wishes[] = {SALF_BACKEND_CUDA, SALF_BACKEND_AUTO}, got[] = {SALF_BACKEND_CUDA, SALF_BACKEND_CPU};
    for (int i = 0; i < 2; i++) {
        const salf_context_options o = {.struct_size = sizeof o,
                                        .backend = wishes[i],
                                        .log = keep_log,
                                        .log_user = log,
                                        .log_level = SALF_LOG_INFO};
        salf_context *context;
        salf_context_info info = {.struct_size = sizeof info};
        const salf_status status = salf_context_create(&context, &o);
        if (i == 1) unlink(beside);
        CHECK_OK(status);
        CHECK_OK(salf_context_get_info(context, &info));
        ck_assert_int_eq(info.backend, got[i]);
        salf_context_destroy(context);
    }
    ck_assert_str_eq(log, "no cuda backend (no sign of a device's driver); using cpu");
    ck_assert_str_eq(salf_last_error(), ""); /* a call that succeeds leaves no message */
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, auto_opens_no_plugin_without_a_driver);
    HARNESS_ADD(suite, a_plugin_that_does_not_fit_is_refused);
    HARNESS_ADD(suite, a_library_that_is_no_plugin_is_refused);
    HARNESS_ADD(suite, a_plugin_is_never_searched_for);
    HARNESS_ADD(suite, a_fitting_plugin_is_used);
}
