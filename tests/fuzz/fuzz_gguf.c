/* fuzz_gguf.c - any bytes as a GGUF file: refused with a message, or every tensor can be read, its rows widened, and
 * its fields asked for. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "from_memory.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every byte of every tensor lies in the file; rows become as many numbers as there are columns. */
static void touch(salf_tensors *tensors) {
    static volatile uint8_t sink;
    for (int64_t i = 0; i < tensors->n; i++) {
        slf_entry *e = &tensors->entries[i];
        salf_named_tensor named;
        const salf_status status = salf_tensors_at(tensors, i, &named);
        if (status != SALF_OK && status != SALF_E_DTYPE) abort();
        if (status == SALF_OK && (uintptr_t)e->data % 8 != (uintptr_t)tensors->entries[0].data % 8) abort();
        for (uint64_t b = 0; b < e->end - e->begin; b++) sink = e->data[b];
        if (e->n_dims != 2 || !e->packed || e->shape[0] < 1 || e->shape[1] > 4096) continue;
        float *row = malloc((size_t)e->shape[1] * sizeof *row + 1);
        if (!row) abort();
        for (int64_t r = 0; r < e->shape[0] && r < 1000; r++)
            if (slf_entry_rows(e, r, 1, row) != 0) abort();
        free(row);
    }
    (void)sink;
}

static void ask(const salf_tensors *tensors) {
    for (int64_t i = 0; i < tensors->n_fields; i++) {
        const char *key = tensors->fields[i].key;
        char text[64];
        int64_t integer = 7;
        double real = 7;
        if (slf_gguf_integer(tensors, "input", key, i % 2 == 0, 0, 1000, &integer) == SALF_OK &&
            (integer < 0 || integer > 1000))
            abort();
        if (slf_gguf_real(tensors, "input", key, 0, &real) == SALF_OK && !(isfinite(real) && real >= 0)) abort();
        slf_gguf_text(tensors, key, text, sizeof text);
        if (strlen(text) >= sizeof text || slf_gguf_field(tensors, key) != &tensors->fields[i]) abort();
    }
    const slf_file_field *tokens = slf_gguf_field(tensors, "tokenizer.ggml.tokens");
    const int64_t n = slf_gguf_tokens(tensors);
    if (n < -1 || (n > 0 && (!tokens || (uint64_t)n > tokens->count))) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    salf_tensors *tensors;
    const salf_status status = tensors_from_memory(&tensors, place_context(), true, data, size);
    if (status != SALF_OK && (tensors || salf_last_error()[0] == '\0')) abort();
    if (status == SALF_OK) {
        touch(tensors);
        ask(tensors);
    }
    salf_tensors_destroy(tensors);
    return 0;
}
