/* fuzz_safetensors.c - any bytes as a safetensors file: refused with a message, or every element can be read. */
#include <stdlib.h>
#include <string.h>

#include "from_memory.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every element row by row as users do, so that none lies outside the file. */
static void touch(const salf_tensor *view) {
    static volatile uint8_t sink;
    const int64_t bytes = view->cols * slf_dtype_size(view->dtype);
    if (bytes == 0) return; /* any number of rows without elements */
    for (int64_t r = 0; r < view->rows; r++) {
        const uint8_t *row = slf_tensor_row(view, r);
        if ((uintptr_t)row % (uintptr_t)slf_dtype_size(view->dtype) != 0) abort();
        for (int64_t i = 0; i < bytes; i++) sink = row[i];
    }
    (void)sink;
}

static void use(const salf_tensors *tensors) {
    const int64_t n = salf_tensors_count(tensors);
    for (int64_t i = 0; i < n; i++) {
        salf_named_tensor at, found;
        const salf_status status = salf_tensors_at(tensors, i, &at);
        if (status == SALF_E_DTYPE || (status == SALF_E_UNSUPPORTED && at.n_dims == 0)) continue;
        if (status != SALF_OK || salf_tensors_find(tensors, at.name, &found) != SALF_OK) abort();
        if (found.view.data != at.view.data || strcmp(found.name, at.name) != 0) abort();
        touch(&at.view);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    salf_tensors *tensors;
    const salf_status status = tensors_from_memory(&tensors, place_context(), false, data, size);
    if (status != SALF_OK && (tensors || salf_last_error()[0] == '\0')) abort();
    if (status == SALF_OK) use(tensors);
    salf_tensors_destroy(tensors);
    return 0;
}
