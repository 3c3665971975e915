/*
 * matrix.c - rows of the head or the embedding, [V][D]: a view, which is read where it lies, or a callback, which fills
 * a block of the workspace with float32. Rows of labels, blocks, and walks over all rows.
 */
#include <inttypes.h>

#include "backend/device_memory.h"
#include "core/random.h"
#include "core/ranks.h"
#include "model/model.h"

/* A quarter of the workspace: a block is used together with its conversion and a tile of products. */
int64_t slf_block_rows(const salf_context *context, int64_t cols) {
    const uint64_t bytes = (uint64_t)SLF_MAX(cols, 1) * sizeof(float);
    const uint64_t rows = context->options.workspace_limit / 4 / bytes;
    return (int64_t)SLF_MAX(1, SLF_MIN(rows, INT32_MAX)); /* BLAS counts rows in 32 bits */
}

/* The values are the host's: not even NaN is looked for, which a scan reports. */
static salf_status rows_by_callback(const slf_matrix *matrix, int64_t first, int64_t count, float *out) {
    const int32_t result = matrix->rows(matrix->user, first, count, out);
    if (result == 0) return SALF_OK;
    return slf_fail(SALF_E_CALLBACK, "the callback for rows %" PRId64 " ... %" PRId64 " returned %d", first,
                    first + count - 1, (int)result);
}

/* block is a view of the matrix itself, or of buffer, [count][D]; either is good until the next block. */
salf_status slf_matrix_block(const slf_matrix *matrix, int64_t first, int64_t count, float *buffer,
                             salf_tensor *block) {
    if (matrix->view.data) {
        *block = slf_tensor_slice(&matrix->view, first - matrix->first, count);
        return SALF_OK;
    }
    SLF_TRY(rows_by_callback(matrix, first, count, buffer));
    *block = slf_tensor_host(buffer, SALF_F32, count, matrix->n_cols);
    return SALF_OK;
}

/* A callback is asked for single rows: the labels of a task lie far apart, and it may read from a disk. */
salf_status slf_matrix_fetch(const salf_context *context, const slf_matrix *matrix, const int32_t *labels, int64_t n,
                             float *out) {
    const int64_t dim = matrix->n_cols;
    if (!matrix->view.data || matrix->view.memory == SALF_MEMORY_HOST) {
        for (int64_t i = 0; i < n; i++, out += dim) {
            const int64_t row = labels ? labels[i] : i;
            if (matrix->view.data)
                slf_row_to_f32(&matrix->view, row, out);
            else
                SLF_TRY(rows_by_callback(matrix, row, 1, out));
        }
        return SALF_OK;
    }
    /* Rows in device memory come one by one through the backend, which widens any type to float64. */
    double *device = NULL, *host = NULL;
    salf_status status;
    SLF_DO(SLF_ALLOC(context, host, dim));
    SLF_DO(SLF_DEVICE_ALLOC(context, device, dim));
    for (int64_t i = 0; i < n; i++) {
        const salf_tensor row = slf_tensor_slice(&matrix->view, labels ? labels[i] : i, 1);
        SLF_DO(slf_rows_to_host(context, &row, device, host));
        for (int64_t j = 0; j < dim; j++) out[i * dim + j] = (float)host[j];
    }
done:
    slf_device_free(context, device);
    slf_free(context, host);
    return status;
}

/* ---- walks over all rows ---- */

/* On failure nothing is held; a buffer is the caller's to free, by slf_free. */
salf_status slf_matrix_walk_open(slf_matrix_walk *walk, const salf_context *context, const slf_matrix *matrix,
                                 int64_t valid, int64_t floats_per_row, const char *what) {
    /* A view that the backend reads in place needs no pieces, where the caller makes nothing of a row that takes
     * memory. */
    int64_t rows = slf_block_rows(context, SLF_MAX(floats_per_row, matrix->n_cols));
    if (floats_per_row == 0 && matrix->view.data && slf_device_readable(context)) rows = valid;
    *walk = (slf_matrix_walk){.context = context,
                              .matrix = matrix,
                              .what = what,
                              .valid = slf_matrix_end(matrix, valid),
                              .rows = SLF_MIN(rows, valid),
                              .next = matrix->first};
    if (matrix->view.data) return SALF_OK;
    return SLF_ALLOC(context, walk->buffer, walk->rows * matrix->n_cols);
}

/* Waits for the block before where a callback is to fill the same memory: the backend may still read it. */
salf_status slf_matrix_walk_load(slf_matrix_walk *walk) {
    SLF_TRY(slf_proceed(walk->context, walk->what, walk->next, walk->valid));
    if (walk->buffer && walk->next > walk->matrix->first) SLF_TRY(slf_sync(walk->context));
    walk->first = walk->next;
    const int64_t left = walk->valid - walk->first;
    SLF_TRY(slf_matrix_block(walk->matrix, walk->first, SLF_MIN(left, walk->rows), walk->buffer, &walk->block));
    walk->next += walk->block.rows;
    return SALF_OK;
}

/* ---- fingerprint and Gram matrix ---- */

/* "basis:id" in ASCII: a stream of random bits of its own. */
#define ROW_STREAM 0x62617369733a6964u

uint64_t slf_rows_checksum(int64_t first, int64_t end) {
    uint64_t sum = 0;
    for (int64_t i = first; i < end; i++) sum += slf_random_bits(ROW_STREAM, 0, (uint64_t)i);
    return sum;
}

/* G = sum of w_i^T w_i over all rows, so that blocks may come in any size. The hash is a sum as well. Cost: V D, and
 * with G V D^2 multiply-adds, halved by symmetry. */
salf_status slf_matrix_scan(const salf_context *context, const slf_matrix *matrix, int64_t valid, double *gram,
                            uint64_t *fingerprint, int64_t *bad_row) {
    slf_matrix_walk walk;
    uint64_t hash = 0;
    int64_t bad = -1, first_bad = -1;
    salf_status status;
    SLF_DO(slf_matrix_walk_open(&walk, context, matrix, valid, 0, gram ? "Gram matrix" : "fingerprint"));
    while (walk.next < walk.valid) {
        SLF_DO(slf_matrix_walk_load(&walk));
        const slf_scan_job job = {
            .rows = &walk.block, .first_row = walk.first, .gram = gram, .hash = &hash, .bad_row = &bad, .total = valid};
        SLF_DO(context->backend->scan(context->impl, &job));
        if (bad >= 0 && first_bad < 0) first_bad = walk.first + bad;
        if (bad >= 0 && !bad_row)
            SLF_DO(slf_fail(SALF_E_NONFINITE, "row %" PRId64 " of the matrix holds NaN or infinity", first_bad));
    }
    if (walk.buffer) SLF_DO(slf_sync(context)); /* before it goes */
done:
    slf_free(context, walk.buffer);
    /* The hash of a shard's rows becomes that of all ranks', which have to be all rows once: by how many they are, and
     * by their checksum. Sums modulo 2^64 go as two halves, which no number of ranks carries out of 63 bits. */
    if (slf_matrix_is_shard(matrix)) {
        slf_agreement agreement = {.meeting = SLF_MEET_salf_model_fingerprint};
        slf_agreement_add(&agreement, "vocab of the models", (uint64_t)matrix->n_rows);
        slf_agreement_add(&agreement, "hidden of the models", (uint64_t)matrix->n_cols);
        slf_agreement_add(&agreement, "valid_vocab of the models", (uint64_t)valid);
        SLF_TRY(slf_agree(context, status, &agreement));
        const int64_t end = SLF_MAX(slf_matrix_end(matrix, valid), matrix->first);
        uint64_t rows = slf_rows_checksum(matrix->first, end);
        int64_t sums[] = {end - matrix->first, (int64_t)(uint32_t)hash, (int64_t)(hash >> 32), (int64_t)(uint32_t)rows,
                          (int64_t)(rows >> 32)};
        SLF_TRY(slf_all_reduce(context, sums, 5, SALF_I64, SALF_ALL_REDUCE_SUM));
        hash = (uint64_t)sums[1] + ((uint64_t)sums[2] << 32);
        rows = (uint64_t)sums[3] + ((uint64_t)sums[4] << 32);
        if (sums[0] != valid || rows != slf_rows_checksum(0, valid))
            return slf_fail(SALF_E_MISMATCH, "the ranks' shards have %" PRId64 " rows of %" PRId64 "%s", sums[0], valid,
                            sums[0] == valid ? ", some twice and some not at all" : "");
    }
    SLF_TRY(status);
    *fingerprint = hash;
    if (bad_row) *bad_row = first_bad;
    return SALF_OK;
}
