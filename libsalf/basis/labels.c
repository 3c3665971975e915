/*
 * labels.c - basis rows of chosen labels.
 *
 * Output side: B = W P for the rows w_l [n][D] of the head, one product with P [D][D] a label (2 D^2 flops). Input
 * side: the rows of W_i themselves. Each row is kept in float64 on the host, and in float32 with its norm in backend
 * memory.
 */
#include <stdlib.h>
#include <string.h>

#include "basis/basis.h"

salf_status slf_label_check(int32_t label, int64_t vocab, int64_t padded_vocab, const char *who) {
    if (label >= 0 && label < vocab) return SALF_OK;
    if (label >= 0 && label < padded_vocab)
        return slf_fail(SALF_E_PADDING, "%s: label %d is on a padding row; the vocabulary ends at %lld", who,
                        (int)label, (long long)vocab - 1);
    return slf_fail(SALF_E_LABEL, "%s: label %d is outside the vocabulary of %lld tokens", who, (int)label,
                    (long long)vocab);
}

static int compare_labels(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int64_t slf_labels_sort(int32_t *labels, int64_t n) {
    int64_t unique = 0;
    if (n > 0) qsort(labels, (size_t)n, sizeof *labels, compare_labels);
    for (int64_t i = 0; i < n; i++)
        if (unique == 0 || labels[i] != labels[unique - 1]) labels[unique++] = labels[i];
    return unique;
}

salf_status slf_labels_unique(const salf_context *context, const int32_t *labels, int64_t n, int64_t vocab,
                              int64_t padded_vocab, const char *who, int32_t **out, int64_t *n_out) {
    if (n < 0) return slf_fail(SALF_E_ARGUMENT, "%s: %lld labels", who, (long long)n);
    if (n > 0 && !labels) return slf_fail(SALF_E_NULL, "%s: labels is NULL with %lld labels", who, (long long)n);
    for (int64_t i = 0; i < n; i++) SLF_TRY(slf_label_check(labels[i], vocab, padded_vocab, who));
    int32_t *sorted = slf_alloc(context, (uint64_t)n, sizeof *sorted);
    if (!sorted) return SALF_E_NO_MEMORY;
    if (n > 0) memcpy(sorted, labels, (size_t)n * sizeof *sorted);
    *out = sorted;
    *n_out = slf_labels_sort(sorted, n);
    return SALF_OK;
}

int64_t slf_label_find(const int32_t *labels, int64_t n, int32_t label) {
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (labels[middle] < label)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && labels[low] == label ? low : -1;
}

void slf_label_rows_free(const salf_context *context, slf_label_rows *rows) {
    slf_free(context, rows->labels);
    slf_free(context, rows->exact);
    slf_free(context, rows->host_norms);
    slf_device_free(context, rows->rows);
    slf_device_free(context, rows->norms);
    memset(rows, 0, sizeof *rows);
}

/* Rows of a matrix in device memory come by way of the backend. */
static salf_status fetch_from_device(const salf_context *context, const slf_matrix *matrix, int64_t row, double *device,
                                     double *host, float *out) {
    const salf_tensor view = slf_tensor_slice(&matrix->view, row, 1);
    SLF_TRY(slf_rows_to_host(context, &view, device, host));
    for (int64_t i = 0; i < matrix->n_cols; i++) out[i] = (float)host[i];
    return SALF_OK;
}

static salf_status fetch_all_from_device(const salf_context *context, const slf_matrix *matrix, const int32_t *labels,
                                         int64_t n, float *out) {
    void *device = NULL;
    double *host = slf_alloc(context, (uint64_t)matrix->n_cols, sizeof *host);
    salf_status status =
        host ? slf_device_alloc(context, (uint64_t)matrix->n_cols, sizeof(double), &device) : SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < n && status == SALF_OK; i++)
        status = fetch_from_device(context, matrix, labels[i], device, host, out + i * matrix->n_cols);
    slf_device_free(context, device);
    slf_free(context, host);
    return status;
}

salf_status slf_basis_fetch(const salf_basis *basis, const slf_matrix *matrix, const int32_t *labels, int64_t n,
                            float *out) {
    if (matrix->view.data && matrix->view.memory == SALF_MEMORY_DEVICE)
        return fetch_all_from_device(basis->context, matrix, labels, n, out);
    for (int64_t i = 0; i < n; i++) SLF_TRY(slf_matrix_row(matrix, labels[i], out + i * matrix->n_cols));
    return SALF_OK;
}

/* Basis rows of a block of w [n][D] into exact [n][D]. */
static salf_status solve_block(const salf_basis *basis, const float *w, int64_t n, double *device, double *exact) {
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden;
    if (basis->info.side == SALF_SIDE_INPUT) {
        for (int64_t i = 0; i < n * dim; i++) exact[i] = (double)w[i];
        return SALF_OK;
    }
    const salf_tensor rows = slf_tensor_host(w, SALF_F32, n, dim);
    const slf_apply_job job = {.p = basis->p, .rows = &rows, .out = device};
    SLF_TRY(context->backend->apply(context->impl, &job));
    return slf_download(context, exact, device, (uint64_t)(n * dim) * sizeof(double));
}

/* Norms of the count rows from first on, 0 for zero rows; refuses those unless zero_ok. w [count][D]. */
static salf_status row_norms(const salf_basis *basis, const float *w, int64_t first, int64_t count, bool zero_ok,
                             slf_label_rows *rows) {
    const int64_t dim = basis->info.hidden;
    for (int64_t i = first; i < first + count; i++) {
        const double norm = slf_norm2(rows->exact + i * dim, dim);
        const double w_norm = slf_norm2_f32(w + (i - first) * dim, dim);
        const bool zero = w_norm <= 0 || norm <= basis->noise * w_norm;
        rows->host_norms[i] = zero ? 0 : norm;
        if (!(norm <= 1e300)) /* also NaN */
            return slf_fail(SALF_E_NONFINITE, "basis row of label %d is not finite", (int)rows->labels[i]);
        if (zero && !zero_ok)
            return slf_fail(SALF_E_ZERO_ROW, "label %d: its %s is zero", (int)rows->labels[i],
                            w_norm <= 0 ? "row of the matrix" : "basis row after truncation");
    }
    return SALF_OK;
}

/* The float32 copies in backend memory, by blocks. */
static salf_status upload_rows(const salf_context *context, int64_t dim, slf_label_rows *rows) {
    const int64_t block = slf_block_rows(context, dim);
    float *staging = slf_alloc(context, (uint64_t)((rows->n < block ? rows->n : block) * dim), sizeof *staging);
    if (!staging) return SALF_E_NO_MEMORY;
    salf_status status = SALF_OK;
    for (int64_t first = 0; first < rows->n && status == SALF_OK; first += block) {
        const int64_t count = (rows->n - first < block ? rows->n - first : block) * dim;
        for (int64_t i = 0; i < count; i++) staging[i] = (float)rows->exact[first * dim + i];
        status = slf_upload(context, rows->rows + first * dim, staging, (uint64_t)count * sizeof *staging);
        if (status == SALF_OK) status = slf_sync(context); /* staging is used again */
    }
    slf_free(context, staging);
    return status;
}

static salf_status alloc_rows(const salf_context *context, const int32_t *labels, int64_t n, int64_t dim,
                              slf_label_rows *rows) {
    const uint64_t elements = (uint64_t)n * (uint64_t)dim;
    void *device_rows = NULL, *device_norms = NULL;
    rows->n = n;
    rows->labels = slf_alloc(context, (uint64_t)n, sizeof *rows->labels);
    rows->exact = slf_alloc(context, elements, sizeof *rows->exact);
    rows->host_norms = slf_alloc(context, (uint64_t)n, sizeof *rows->host_norms);
    if (!rows->labels || !rows->exact || !rows->host_norms) return SALF_E_NO_MEMORY;
    if (n > 0) memcpy(rows->labels, labels, (size_t)n * sizeof *labels);
    SLF_TRY(slf_device_alloc(context, elements, sizeof(float), &device_rows));
    rows->rows = device_rows;
    SLF_TRY(slf_device_alloc(context, (uint64_t)n, sizeof(double), &device_norms));
    rows->norms = device_norms;
    return SALF_OK;
}

/* Room for a block of labels. */
typedef struct {
    int64_t rows;
    float *w;       /* host [rows][D]; NULL where the caller has W's rows */
    double *device; /* backend [rows][D] */
} solve_room;

static salf_status room_begin(const salf_basis *basis, int64_t n, bool fetch, solve_room *room) {
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden, block = slf_block_rows(context, 3 * dim);
    void *device = NULL;
    *room = (solve_room){.rows = n < block ? n : block};
    const uint64_t elements = (uint64_t)room->rows * (uint64_t)dim;
    if (fetch) room->w = slf_alloc(context, elements, sizeof *room->w);
    if (fetch && !room->w) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_device_alloc(context, elements, sizeof(double), &device));
    room->device = device;
    return SALF_OK;
}

static void room_end(const salf_context *context, solve_room *room) {
    slf_free(context, room->w);
    slf_device_free(context, room->device);
}

static salf_status solve_all(const salf_basis *basis, const float *w, bool zero_ok, slf_label_rows *rows) {
    const int64_t dim = basis->info.hidden;
    solve_room room;
    salf_status status = room_begin(basis, rows->n, !w, &room);
    for (int64_t first = 0; first < rows->n && status == SALF_OK; first += room.rows) {
        const int64_t count = rows->n - first < room.rows ? rows->n - first : room.rows;
        const float *block = w ? w + first * dim : room.w;
        if (!w) status = slf_basis_fetch(basis, slf_basis_matrix(basis), rows->labels + first, count, room.w);
        if (status == SALF_OK) status = solve_block(basis, block, count, room.device, rows->exact + first * dim);
        if (status == SALF_OK) status = row_norms(basis, block, first, count, zero_ok, rows);
    }
    room_end(basis->context, &room);
    return status;
}

salf_status slf_basis_solve(const salf_basis *basis, const int32_t *labels, int64_t n, const float *w, bool zero_ok,
                            slf_label_rows *out) {
    const salf_context *context = basis->context;
    slf_label_rows rows = {0};
    salf_status status = alloc_rows(context, labels, n, basis->info.hidden, &rows);
    if (status == SALF_OK) status = solve_all(basis, w, zero_ok, &rows);
    if (status == SALF_OK) status = upload_rows(context, basis->info.hidden, &rows);
    if (status == SALF_OK) status = slf_upload(context, rows.norms, rows.host_norms, (uint64_t)n * sizeof(double));
    if (status != SALF_OK) {
        slf_label_rows_free(context, &rows);
        return status;
    }
    slf_label_rows_free(context, out);
    *out = rows;
    return SALF_OK;
}

/* Place of a label in rows, or -1. */
static int64_t find_row(const slf_label_rows *rows, int32_t label) {
    if (!rows->labels) return label < rows->n ? label : -1;
    return slf_label_find(rows->labels, rows->n, label);
}

/* Fills which and returns true when rows has every label. */
static bool find_all(const slf_label_rows *rows, const int32_t *labels, int64_t n, int32_t *which) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t place = find_row(rows, labels[i]);
        if (place < 0) return false;
        which[i] = (int32_t)place;
    }
    return true;
}

/* Solves all labels of the batch from the model's rows. */
static salf_status solve_batch(slf_label_set *set, const salf_basis *basis, const int32_t *labels, int64_t n) {
    int32_t *unique;
    int64_t n_unique;
    SLF_TRY(slf_labels_unique(basis->context, labels, n, basis->info.vocab, basis->padded_vocab, "labels", &unique,
                              &n_unique));
    const salf_status status = slf_basis_solve(basis, unique, n_unique, NULL, false, &set->own);
    slf_free(basis->context, unique);
    return status;
}

static salf_status check_held(const salf_basis *basis, const int32_t *labels, int64_t n, const char *who) {
    for (int64_t i = 0; i < n; i++) {
        SLF_TRY(slf_label_check(labels[i], basis->info.vocab, basis->padded_vocab, who));
        const int64_t place = find_row(&basis->held, labels[i]);
        if (place < 0 && !slf_basis_matrix(basis))
            return slf_fail(SALF_E_LABEL,
                            "%s: label %d has no row in the basis, and there is no model to solve it from", who,
                            (int)labels[i]);
        if (place >= 0 && !(basis->held.host_norms[place] > 0))
            return slf_fail(SALF_E_ZERO_ROW, "%s: label %d: its basis row is zero", who, (int)labels[i]);
    }
    return SALF_OK;
}

salf_status slf_label_set_prepare(slf_label_set *set, const salf_basis *basis, const int32_t *labels, int64_t n,
                                  int32_t *which, const char *who) {
    SLF_TRY(check_held(basis, labels, n, who));
    if (find_all(&basis->held, labels, n, which)) {
        set->used = &basis->held;
        return SALF_OK;
    }
    if (!find_all(&set->own, labels, n, which)) {
        SLF_TRY(solve_batch(set, basis, labels, n));
        if (!find_all(&set->own, labels, n, which))
            return slf_fail(SALF_E_INTERNAL, "%s: a solved label is missing", who);
    }
    set->used = &set->own;
    return SALF_OK;
}

void slf_label_set_free(const salf_context *context, slf_label_set *set) {
    slf_label_rows_free(context, &set->own);
    set->used = NULL;
}
