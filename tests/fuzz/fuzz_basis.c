/* fuzz_basis.c - any bytes as a basis file: refused with a message, or a basis that can be used. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "salf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A basis that was accepted gives its rows and can score a state. */
static void use(salf_basis *basis) {
    salf_basis_info info = {.struct_size = sizeof info};
    const int32_t *labels;
    int64_t n;
    if (salf_basis_get_info(basis, &info) != SALF_OK || salf_basis_get_labels(basis, &labels, &n) != SALF_OK) abort();
    if (!labels || n == 0 || info.hidden > 4096) return;
    double *row = malloc((size_t)info.hidden * sizeof *row);
    const salf_tensor out = {.data = row, .rows = 1, .cols = info.hidden, .dtype = SALF_F64};
    if (row && salf_basis_rows(basis, labels, 1, &out) != SALF_OK) abort();
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[] = "/tmp/salf-fuzz-basis-XXXXXX";
    const int file = mkstemp(path);
    if (file < 0) return 0;
    const ssize_t written = write(file, data, size);
    close(file);
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_REFERENCE;
    salf_context *context;
    salf_basis *basis;
    if (written == (ssize_t)size && salf_context_create(&context, &options) == SALF_OK) {
        if (salf_basis_load(&basis, context, path, NULL) == SALF_OK)
            use(basis);
        else if (salf_last_error()[0] == '\0')
            abort();
        salf_basis_destroy(basis);
        salf_context_destroy(context);
    }
    unlink(path);
    return 0;
}
