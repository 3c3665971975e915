/*
 * scaled.c - matrices and vectors from a file. In types that backends do not take (float64, FP8 e4m3fn or int8 with
 * scales, quantised ones) rows are made when they are asked for, so that no copy [V][D] comes into being.
 *
 * w[r][c] = element * scale; scales are one for all, one a row, or one for each block of rows and columns. As
 * transformers and vLLM have them: weight_scale_inv (DeepSeek's, which despite its name multiplies) and weight_scale;
 * SCB (bitsandbytes) is the largest magnitude of a row, which 127 stands for.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/dtypes.h"
#include "io/gguf.h"
#include "io/io.h"
#include "model/model.h"

/* Elements as float32, of any of the types that are read here. Bytes need not be aligned. */
static void elements_to_f32(const slf_entry *entry, int64_t first, int64_t n, float *out) {
    const uint8_t *bytes = entry->data;
    if (entry->dtype == SALF_F64) {
        for (int64_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, bytes + (first + i) * 8, sizeof x);
            out[i] = (float)x;
        }
    } else if (entry->dtype == SALF_F32) {
        memcpy(out, bytes + first * 4, (size_t)n * 4);
    } else if (entry->dtype == SALF_BF16 || entry->dtype == SALF_F16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, bytes + (first + i) * 2, sizeof half);
            out[i] = entry->dtype == SALF_BF16 ? slf_bf16_to_f32(half) : slf_f16_to_f32(half);
        }
    } else if (entry->dtype == SALF_I8) {
        for (int64_t i = 0; i < n; i++) out[i] = (float)(int8_t)bytes[first + i];
    } else {
        /* FP8 e4m3fn: sign, four bits of exponent with bias 7, three of mantissa, so that a mantissa counts 2^-9 or
         * more; no infinities, and all ones is NaN. */
        for (int64_t i = 0; i < n; i++) {
            const int bits = bytes[first + i], exponent = bits >> 3 & 15, mantissa = bits & 7;
            const float magnitude =
                exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 10);
            out[i] = (bits & 0x7F) == 0x7F ? NAN : bits & 0x80 ? -magnitude : magnitude;
        }
    }
}

/* salf_rows_fn: rows first ... of the matrix, times their scales. */
static int32_t scaled_rows(void *user, int64_t first, int64_t count, float *out) {
    const slf_scaled *s = user;
    for (int64_t r = first; r < first + count; r++, out += s->n_cols) {
        elements_to_f32(s->entry, r * s->n_cols, s->n_cols, out);
        const float *scales = s->scales ? s->scales + r / s->block_rows * s->scales_per_row : NULL;
        for (int64_t c = 0; scales && c < s->n_cols; c++) out[c] *= scales[c / s->block_cols];
    }
    return 0;
}

/* The scales of an entry "x.weight" are "x.weight_scale" and so on; how many rows and columns share one follows from
 * their shape, for blocks with what the configuration says. */
static salf_status read_scales(slf_scaled *s, const salf_context *context, const salf_tensors *tensors,
                               const int64_t block[2], const char *path) {
    static const char *const names[] = {"weight_scale_inv", "weight_scale", "SCB"};
    const slf_entry *entry = s->entry;
    const int64_t rows = entry->shape[0], cols = entry->shape[1];
    if (entry->dtype != SALF_I8 && strcmp(entry->type_name, "F8_E4M3") != 0)
        return slf_fail(SALF_E_DTYPE, "%s: tensor '%s' is of type %s, which is not usable as a head or an embedding",
                        path, entry->name, entry->type_name);
    /* 1. the scales there are, under one name: of two, either might be meant */
    const slf_entry *scale = NULL;
    bool of_127 = false;
    const char *dot = strrchr(entry->name, '.');
    for (int k = 0; dot && k < 3; k++) {
        char name[256];
        const int length = snprintf(name, sizeof name, "%.*s.%s", (int)(dot - entry->name), entry->name, names[k]);
        const slf_entry *found = length < (int)sizeof name ? slf_tensors_entry(tensors, name) : NULL;
        if (found && scale)
            return slf_fail(SALF_E_MISMATCH, "%s: '%s' and '%s' are there; which are the scales of '%s'?", path,
                            scale->name, found->name, entry->name);
        if (found) scale = found;
        of_127 = of_127 || (found && k == 2);
    }
    if (!scale)
        return slf_fail(SALF_E_DTYPE, "%s: tensor '%s' is of type %s, and no '%s' of its scales is there", path,
                        entry->name, entry->type_name, names[1]);
    /* 2. one for all, one a row, or one a block; the last blocks may be cut off */
    const int64_t n = slf_shape_elements(scale->shape, scale->n_dims);
    const bool by_row = n == rows && (scale->n_dims == 1 || (scale->n_dims == 2 && scale->shape[1] == 1));
    if (n != 1 && by_row) s->block_rows = 1;
    if (n != 1 && !by_row && block[0] > 0 && block[1] > 0) {
        s->block_rows = block[0];
        s->block_cols = block[1];
        s->scales_per_row = (cols - 1) / block[1] + 1;
    }
    const bool grid = s->scales_per_row == 1 || (scale->n_dims == 2 && scale->shape[1] == s->scales_per_row);
    if (!slf_entry_is_real(scale) || n != s->scales_per_row * ((rows - 1) / s->block_rows + 1) || !grid)
        return slf_fail(SALF_E_MISMATCH,
                        "%s: tensor '%s' (%s) has %" PRId64 " scales for the %" PRId64 " x %" PRId64 " of '%s'", path,
                        scale->name, scale->type_name, n, rows, cols, entry->name);
    /* 3. as float32 */
    SLF_TRY(SLF_ALLOC(context, s->scales, n));
    elements_to_f32(scale, 0, n, s->scales);
    for (int64_t i = 0; i < n; i++) {
        if (of_127) s->scales[i] /= 127;
        if (!isfinite(s->scales[i]))
            return slf_fail(SALF_E_NONFINITE, "%s: tensor '%s': element %" PRId64 " is not finite", path, scale->name,
                            i);
    }
    return SALF_OK;
}

/* What backends take is used where it lies. */
salf_status slf_matrix_open(slf_matrix *matrix, slf_scaled *s, const salf_model *model, const slf_entry *entry,
                            const int64_t block[2], const char *path) {
    const salf_tensors *tensors = model->tensors;
    const int64_t rows = model->info.vocab, cols = model->info.hidden;
    if (!entry) return SALF_OK;
    if (entry->n_dims != 2 || entry->shape[0] != rows || entry->shape[1] != cols)
        return slf_fail(SALF_E_MISMATCH,
                        "%s: tensor '%s' has %d dimensions, [%" PRId64 "][%" PRId64
                        "]; the configuration says [%" PRId64 "][%" PRId64 "]",
                        path, entry->name, (int)entry->n_dims, entry->n_dims > 0 ? entry->shape[0] : 0,
                        entry->n_dims > 1 ? entry->shape[1] : 0, rows, cols);
    *s = (slf_scaled){.entry = entry, .n_cols = cols, .block_rows = rows, .block_cols = cols, .scales_per_row = 1};
    *matrix = (slf_matrix){.n_rows = rows, .n_cols = cols};
    if (slf_float_size(entry->dtype) > 0) {
        salf_named_tensor named;
        SLF_TRY(salf_tensors_find(tensors, entry->name, &named));
        matrix->view = named.view;
        return slf_tensor_check(&named.view, entry->name, rows, cols, false);
    }
    matrix->rows = entry->packed ? slf_entry_rows : scaled_rows;
    matrix->user = entry->packed ? (void *)(tensors->entries + (entry - tensors->entries)) : s;
    return entry->packed || entry->dtype == SALF_F64 ? SALF_OK : read_scales(s, model->context, tensors, block, path);
}

/* By way of a copy, as the model keeps its own, checked and in float32. */
salf_status slf_model_use_vectors(salf_model *model, int32_t norm_kind, const slf_entry *const entries[3], float plus,
                                  const char *path) {
    const int64_t sizes[3] = {model->info.hidden, model->info.hidden, model->info.vocab};
    float *vectors[3] = {NULL, NULL, NULL};
    salf_tensor views[3] = {{0}, {0}, {0}};
    salf_status status;
    for (int k = 0; k < 3; k++) {
        const slf_entry *entry = entries[k];
        const int64_t n = sizes[k];
        if (!entry) continue;
        if (entry->n_dims != 1 || entry->shape[0] != n)
            SLF_DO(slf_fail(SALF_E_MISMATCH,
                            "%s: tensor '%s' has %d dimensions and %" PRId64
                            " elements, the configuration says %" PRId64,
                            path, entry->name, (int)entry->n_dims, slf_shape_elements(entry->shape, entry->n_dims), n));
        if (!slf_entry_is_real(entry))
            SLF_DO(slf_fail(SALF_E_DTYPE, "%s: tensor '%s' is of type %s, where floating-point numbers are needed",
                            path, entry->name, entry->type_name));
        SLF_DO(SLF_ALLOC(model->context, vectors[k], n));
        elements_to_f32(entry, 0, n, vectors[k]);
        for (int64_t i = 0; k == 0 && plus != 0 && i < n; i++) vectors[k][i] += plus;
        views[k] = slf_tensor_host(vectors[k], SALF_F32, 1, n);
    }
    SLF_DO(slf_model_set_norm(model, norm_kind, &views[0], &views[1]));
    SLF_DO(slf_model_set_logit_bias(model, &views[2]));
done:
    SLF_FREE(model->context, vectors[0], vectors[1], vectors[2]);
    return status;
}
