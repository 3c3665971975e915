/* fuzz_basis.c - any bytes as a basis file: refused with a message, or a basis that can be used. */
#include "place.h"

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
    salf_basis *basis;
    place_make();
    place_write("basis", data, size);
    if (salf_basis_load(&basis, place_context(), place_path("basis"), NULL) == SALF_OK)
        use(basis);
    else
        MUST(!basis && salf_last_error()[0]);
    salf_basis_destroy(basis);
    return 0;
}
