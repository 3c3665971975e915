/*
 * rows.c - basis rows of chosen labels, held in a basis or solved for a batch.
 *
 * Output side: B = W P for the rows w_l [n][D] of the head, one product with P [D][D] a label (2 D^2 flops). Input
 * side: the rows of W_i themselves. Each row is kept in float64 on the host, which is what the API gives, and in
 * float32 with its norm in backend memory, which is what states are compared with.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "basis/basis.h"
#include "core/carve.h"

/* ---- life ---- */

/* The host's arrays in one block and the backend's in another, measured and placed by the same lines. */
static void lay_out_label_rows(slf_label_rows *rows, bool table, int64_t dim, slf_carver *host, slf_carver *device) {
    const int64_t elements = rows->n * dim; /* fits 63 bits: slf_basis_read_options refuses larger heads */
    rows->host_norms = slf_carve(host, rows->n, sizeof *rows->host_norms);
    rows->rows = slf_carve(device, elements, sizeof *rows->rows);
    rows->norms = slf_carve(device, rows->n, sizeof *rows->norms);
    if (table) return;
    rows->labels = slf_carve(host, rows->n, sizeof *rows->labels);
    rows->exact = slf_carve(host, elements, sizeof *rows->exact);
}

/* The float64 form takes 8 n D bytes of the host. A table, with n = V, does without: it would be twice the head. */
salf_status slf_label_rows_make(slf_label_rows *rows, const salf_context *context, const int32_t *labels, int64_t n,
                                int64_t dim) {
    slf_carver host = {0}, device = {0};
    *rows = (slf_label_rows){.n = n};
    lay_out_label_rows(rows, !labels, dim, &host, &device);
    salf_status status;
    SLF_DO((rows->host_block = slf_alloc(context, host.used, 1)) ? SALF_OK : SALF_E_NO_MEMORY);
    SLF_DO(slf_device_alloc(context, device.used, 1, &rows->device_block));
    host = (slf_carver){.base = rows->host_block};
    device = (slf_carver){.base = rows->device_block};
    lay_out_label_rows(rows, !labels, dim, &host, &device);
    if (labels && n > 0) memcpy(rows->labels, labels, (size_t)n * sizeof *labels);
done:
    if (status != SALF_OK) slf_label_rows_free(context, rows);
    return status;
}

/* Also of rows that are all zero bytes, or half made. */
void slf_label_rows_free(const salf_context *context, slf_label_rows *rows) {
    slf_free(context, rows->host_block);
    slf_device_free(context, rows->device_block);
    memset(rows, 0, sizeof *rows);
}

/* float32 copies of the exact rows, rounded once: the error of a deviation by it is some 2^-24. By blocks, so that no
 * second copy of all rows is needed. */
salf_status slf_label_rows_upload(const slf_label_rows *rows, const salf_context *context, int64_t dim) {
    const int64_t block = SLF_MIN(rows->n, slf_block_rows(context, dim));
    float *rounded;
    salf_status status;
    SLF_DO(SLF_ALLOC(context, rounded, block * dim));
    for (int64_t first = 0; first < rows->n; first += block) {
        const int64_t count = SLF_MIN(rows->n - first, block) * dim;
        for (int64_t i = 0; i < count; i++) rounded[i] = (float)rows->exact[first * dim + i];
        SLF_DO(slf_upload(context, rows->rows + first * dim, rounded, (uint64_t)count * sizeof *rounded));
        SLF_DO(slf_sync(context)); /* the next block takes the same memory */
    }
    SLF_DO(slf_upload(context, rows->norms, rows->host_norms, (uint64_t)rows->n * sizeof(double)));
done:
    slf_free(context, rounded);
    return status;
}

/* ---- solving ---- */

/* B = W P by blocks, in float64; only the backend's copies are rounded. A row is zero when the head's is (a token that
 * was never trained), or when its part in the kept space is nothing but rounding (noise, see factor.c): the direction
 * of such a row means nothing, and a similarity with it would be 0/0. */
salf_status slf_basis_solve(const salf_basis *basis, const int32_t *labels, int64_t n, const float *w, bool zero_ok,
                            slf_label_rows *out) {
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden;
    const int64_t block = SLF_MIN(n, slf_block_rows(context, 3 * dim)); /* w in float32, b in float64 */
    slf_label_rows rows = {0};
    float *fetched = NULL;
    double *product = NULL; /* backend [block][D] */
    salf_status status;
    SLF_DO(slf_label_rows_make(&rows, context, labels, n, dim));
    if (!w) SLF_DO(SLF_ALLOC(context, fetched, block * dim));
    SLF_DO(SLF_DEVICE_ALLOC(context, product, block * dim));
    for (int64_t first = 0; first < n; first += block) {
        const int64_t count = SLF_MIN(n - first, block);
        SLF_DO(slf_proceed(context, "basis rows", first, n));
        /* 1. rows of W */
        const float *from = w ? w + first * dim : fetched;
        if (!w) SLF_DO(slf_matrix_fetch(context, basis->matrix, labels + first, count, fetched));
        /* 2. B = W P, or B = W on the input side, which has no P */
        const salf_tensor view = slf_tensor_host(from, SALF_F32, count, dim);
        const slf_apply_job job = {.p = basis->p, .rows = &view, .out = product};
        SLF_DO(context->backend->apply(context->impl, &job));
        SLF_DO(slf_download(context, rows.exact + first * dim, product, (uint64_t)(count * dim) * sizeof(double)));
        /* 3. |b_l|, and which rows are zero */
        for (int64_t i = 0; i < count; i++) {
            const double norm = slf_norm2(rows.exact + (first + i) * dim, dim),
                         w_norm = slf_norm2_f32(from + i * dim, dim);
            const bool zero = w_norm <= 0 || norm <= basis->noise * w_norm;
            rows.host_norms[first + i] = zero ? 0 : norm;
            if (!isfinite(norm)) /* elements above 1e154 too: their squares overflow */
                SLF_DO(slf_fail(SALF_E_NONFINITE, "basis row of label %" PRId32 " is not finite", labels[first + i]));
            if (zero && !zero_ok)
                SLF_DO(slf_fail(SALF_E_ZERO_ROW, "label %" PRId32 ": its %s is zero", labels[first + i],
                                w_norm <= 0 ? "row of the matrix" : "basis row after truncation"));
        }
    }
    SLF_DO(slf_label_rows_upload(&rows, context, dim));
    /* Only now: rows that a batch failed to replace stay good for the next one. */
    slf_label_rows_free(context, out);
    *out = rows;
    rows = (slf_label_rows){0};
done:
    slf_label_rows_free(context, &rows);
    slf_device_free(context, product);
    slf_free(context, fetched);
    return status;
}

/* ---- rows of a batch ---- */

/* A table has every token's row in its place. */
int64_t slf_label_row(const slf_label_rows *rows, int32_t label) {
    if (!rows->labels) return label < rows->n ? label : -1;
    return slf_label_find(rows->labels, rows->n, label);
}

/* The row of each label, -1 where rows has none; whether it has all. */
static bool find_label_rows(const slf_label_rows *rows, const int32_t *labels, int64_t n, int32_t *row_of) {
    bool all = true;
    for (int64_t i = 0; i < n; i++) {
        row_of[i] = (int32_t)slf_label_row(rows, labels[i]);
        all = all && row_of[i] >= 0;
    }
    return all;
}

/* All of a batch's labels come from one place: mixing held rows with solved ones would need a table of pointers where
 * the backend takes one array. Solved rows stay for the next batch and are thrown away when it needs others. */
salf_status slf_label_set_prepare(slf_label_set *set, const salf_basis *basis, const int32_t *labels, int64_t n,
                                  int32_t *row_of) {
    const int64_t vocab = basis->info.vocab;
    bool held = true;
    /* 1. A basis made for the labels of the task holds them all: the usual case, and nothing is solved. */
    for (int64_t i = 0; i < n; i++) {
        SLF_TRY(slf_label_check(labels[i], vocab, basis->padded_vocab));
        row_of[i] = (int32_t)slf_label_row(&basis->held, labels[i]);
        held = held && row_of[i] >= 0;
        if (row_of[i] < 0 && !basis->matrix)
            return slf_fail(SALF_E_LABEL,
                            "label %" PRId32 " has no row in the basis, and there is no model to solve it from",
                            labels[i]);
        if (row_of[i] >= 0 && !(basis->held.host_norms[row_of[i]] > 0))
            return slf_fail(SALF_E_ZERO_ROW, "label %" PRId32 ": its basis row is zero", labels[i]);
    }
    /* 2. else the rows of the batch before may serve, and only then are new ones solved: 2 D^2 a label */
    if (!held && !find_label_rows(&set->own, labels, n, row_of)) {
        int32_t *unique;
        int64_t n_unique;
        SLF_TRY(slf_labels_unique(basis->context, labels, n, vocab, basis->padded_vocab, &unique, &n_unique));
        const salf_status status = slf_basis_solve(basis, unique, n_unique, NULL, false, &set->own);
        slf_free(basis->context, unique);
        SLF_TRY(status);
        find_label_rows(&set->own, labels, n, row_of);
    }
    set->used = held ? &basis->held : &set->own;
    return SALF_OK;
}
