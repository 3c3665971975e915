/* fuzz_checkpoint.c - any bytes as a checkpoint: a configuration up to the first byte 0, then a safetensors file. Its
 * parts are found or refused with a message; what the library keeps of it can be read. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "from_memory.h"
#include "model/model.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A head, also in a type that is widened: every row of it, and its scales, lie in the file. */
static void read_rows(salf_context *context, salf_tensors *tensors, const slf_entry *head, const slf_config *config) {
    salf_model model = {.context = context, .tensors = tensors};
    slf_scaled scaled = {0};
    slf_matrix matrix = {0};
    model.info.vocab = head->shape[0];
    model.info.hidden = head->shape[1];
    const salf_status status = slf_matrix_open(&matrix, &scaled, &model, head, config->scale_block, "input");
    if (status == SALF_OK) {
        float *row = malloc((size_t)matrix.n_cols * sizeof *row + 1);
        for (int64_t r = 0; row && matrix.rows && r < matrix.n_rows; r++)
            if (matrix.rows(matrix.user, r, 1, row) != 0) abort();
        free(row);
    } else if (salf_last_error()[0] == '\0') {
        abort();
    }
    slf_free(context, scaled.scales);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    if (!end) return 0;
    salf_context *context = place_context();
    slf_json *json = NULL;
    salf_tensors *tensors = NULL;
    slf_config config = {0};
    slf_parts parts;
    salf_status status = slf_json_parse(&json, context, data, (uint64_t)(end - data), false, "input");
    if (status == SALF_OK) status = slf_config_read(&config, context, json, "input", "k");
    if (status == SALF_OK)
        status = tensors_from_memory(&tensors, context, false, end + 1, size - (size_t)(end + 1 - data));
    if (status == SALF_OK) status = slf_parts_find(&parts, tensors, &config, "input");
    if (status != SALF_OK && salf_last_error()[0] == '\0') abort();
    if (status == SALF_OK && strlen(config.unsupported) >= sizeof config.unsupported) abort();
    if (status == SALF_OK && parts.head && parts.head->n_dims == 2 && parts.head->shape[0] > 0 &&
        parts.head->shape[1] > 0)
        read_rows(context, tensors, parts.head, &config);
    salf_tensors_destroy(tensors);
    slf_config_free(&config);
    slf_json_release(json);
    return 0;
}
