/*
 * passes.c - passes over all valid rows of a matrix, block by block: fingerprint and Gram matrix, the table of all
 * basis rows, and the norms |b_i|.
 *
 * Cost: scan V D; Gram V D^2 multiply-adds halved by symmetry; table and norms V D^2 each. A block takes a part of the
 * workspace; rows that come from a callback are staged in it as float32, others are read where they lie.
 */
#include <inttypes.h>
#include <math.h>

#include "basis/basis.h"

/* What a pass does with rows first ... of the matrix. */
typedef salf_status (*block_fn)(void *pass, const salf_tensor *block, int64_t first);

/* Takes rows 0 ... valid-1 through body in blocks of as many as fit the workspace with floats_per_row of scratch each.
 * 0: body needs no scratch, and then a device, which has tiles of its own, gets a view whole. */
static salf_status pass_over_rows(const salf_context *context, const slf_matrix *matrix, int64_t valid,
                                  int64_t floats_per_row, block_fn body, void *pass) {
    int64_t rows = slf_block_rows(context, SLF_MAX(floats_per_row, matrix->n_cols));
    if (floats_per_row == 0 && matrix->view.data && slf_device_readable(context)) rows = valid;
    rows = SLF_MIN(rows, valid);
    float *buffer = NULL; /* [rows][D] for a callback; a view needs none */
    salf_status status = SALF_OK;
    if (!matrix->view.data) SLF_DO(SLF_ALLOC(context, buffer, rows * matrix->n_cols));
    for (int64_t first = 0; first < valid; first += rows) {
        salf_tensor block;
        SLF_DO(slf_matrix_block(matrix, first, SLF_MIN(valid - first, rows), buffer, &block));
        SLF_DO(body(pass, &block, first));
        if (buffer) SLF_DO(slf_sync(context)); /* the callback fills it again */
    }
done:
    slf_free(context, buffer);
    return status;
}

/* ---- fingerprint and Gram matrix ---- */

typedef struct {
    const salf_context *context;
    double *gram; /* NULL: not wanted */
    uint64_t hash;
} scan_pass;

static salf_status scan_block(void *pass, const salf_tensor *block, int64_t first) {
    scan_pass *scan = pass;
    int64_t bad_row = -1;
    const slf_scan_job job = {
        .rows = block, .first_row = first, .gram = scan->gram, .hash = &scan->hash, .bad_row = &bad_row};
    SLF_TRY(scan->context->backend->scan(scan->context->impl, &job));
    if (bad_row < 0) return SALF_OK;
    return slf_fail(SALF_E_NONFINITE, "row %" PRId64 " of the matrix holds NaN or infinity", first + bad_row);
}

salf_status slf_matrix_scan(const salf_context *context, const slf_matrix *matrix, int64_t valid, double *gram,
                            uint64_t *fingerprint) {
    scan_pass scan = {.context = context, .gram = gram};
    SLF_TRY(pass_over_rows(context, matrix, valid, 0, scan_block, &scan));
    *fingerprint = scan.hash;
    return SALF_OK;
}

/* ---- norms ---- */

void slf_invert_norms(double *norms, int64_t n) {
    for (int64_t i = 0; i < n; i++) norms[i] = norms[i] > 0 ? 1 / norms[i] : 0;
}

static salf_status check_norms(const double *norms, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(norms[i])) return slf_fail(SALF_E_NONFINITE, "basis row %" PRId64 " is not finite", i);
    return SALF_OK;
}

/* P, or NULL where basis rows are rows of the matrix. */
static const double *projection_of(const salf_basis *basis) {
    return basis->info.side == SALF_SIDE_OUTPUT ? basis->p : NULL;
}

/* Copies inverse norms [n] to the backend, into the cache. Waits: the caller's copy may go. */
static salf_status fill_norm_cache(const salf_basis *basis, const double *inverse, double amplification) {
    void *device;
    SLF_TRY(slf_device_copy_of(basis->context, inverse, (uint64_t)basis->info.vocab, sizeof *inverse, &device));
    basis->norm_cache->inverse_norms = device;
    basis->norm_cache->amplification = amplification;
    return slf_sync(basis->context);
}

typedef struct {
    const salf_basis *basis;
    double *w_norms; /* backend [vocab] */
    double *b_norms; /* backend [vocab] */
} norm_pass;

static salf_status norm_block(void *pass, const salf_tensor *block, int64_t first) {
    const norm_pass *norms = pass;
    const salf_context *context = norms->basis->context;
    const slf_apply_job of_w = {.rows = block, .norms = norms->w_norms + first};
    const slf_apply_job of_b = {.p = projection_of(norms->basis), .rows = block, .norms = norms->b_norms + first};
    SLF_TRY(context->backend->apply(context->impl, &of_w));
    return context->backend->apply(context->impl, &of_b);
}

/* All |w_i| and |b_i|, made in the backend and read once: then 1 / |b_i|, 0 for a row that is nothing but noise, and
 * the amplification. */
static salf_status compute_norms(const salf_basis *basis) {
    const salf_context *context = basis->context;
    const int64_t n = basis->info.vocab;
    if (!basis->matrix)
        return slf_fail(SALF_E_ARGUMENT,
                        "the whole vocabulary of %" PRId64
                        " tokens is asked for, but the basis has neither its table nor a model at hand",
                        n);
    double *host = NULL, *device = NULL, amplification = 0; /* both [2][vocab]: |w_i|, then |b_i| */
    salf_status status;
    SLF_DO(SLF_ALLOC(context, host, 2 * n));
    SLF_DO(SLF_DEVICE_ALLOC(context, device, 2 * n));
    norm_pass pass = {.basis = basis, .w_norms = device, .b_norms = device + n};
    SLF_DO(pass_over_rows(context, basis->matrix, n, 0, norm_block, &pass));
    SLF_DO(slf_download(context, host, device, 2 * (uint64_t)n * sizeof *host));
    const double *w = host;
    double *b = host + n;
    SLF_DO(check_norms(b, n));
    for (int64_t i = 0; i < n; i++) {
        if (b[i] <= basis->noise * w[i]) b[i] = 0;
        if (b[i] > 0) amplification = fmax(amplification, w[i] / b[i]);
    }
    slf_invert_norms(b, n);
    SLF_DO(fill_norm_cache(basis, b, amplification));
done:
    slf_device_free(context, device);
    slf_free(context, host);
    return status;
}

salf_status slf_basis_norms(const salf_basis *basis, const double **inverse_norms, double *amplification) {
    slf_norm_cache *cache = basis->norm_cache;
    pthread_mutex_lock(&cache->lock);
    const salf_status status = cache->inverse_norms ? SALF_OK : compute_norms(basis);
    *inverse_norms = cache->inverse_norms;
    *amplification = cache->amplification;
    pthread_mutex_unlock(&cache->lock);
    return status;
}

bool slf_basis_has_norms(const salf_basis *basis) {
    pthread_mutex_lock(&basis->norm_cache->lock);
    const bool has = basis->norm_cache->inverse_norms != NULL;
    pthread_mutex_unlock(&basis->norm_cache->lock);
    return has;
}

/* ---- table ---- */

typedef struct {
    const salf_basis *basis;
    slf_label_rows *table;
} table_pass;

static salf_status table_block(void *pass, const salf_tensor *block, int64_t first) {
    const table_pass *making = pass;
    const salf_basis *basis = making->basis;
    const slf_apply_job job = {.p = projection_of(basis),
                               .rows = block,
                               .norms = making->table->norms + first,
                               .rounded = making->table->rows + first * basis->info.hidden,
                               .noise = basis->noise};
    return basis->context->backend->apply(basis->context->impl, &job);
}

/* Products over a table are with the basis rows themselves, so that nothing is amplified. */
salf_status slf_basis_use_table_norms(salf_basis *basis, const slf_label_rows *table) {
    double *inverse;
    SLF_TRY(SLF_ALLOC(basis->context, inverse, table->n));
    for (int64_t i = 0; i < table->n; i++) inverse[i] = table->host_norms[i];
    slf_invert_norms(inverse, table->n);
    const salf_status status = fill_norm_cache(basis, inverse, 1);
    slf_free(basis->context, inverse);
    return status;
}

/* Norms are those of the float32 rows, as a file of them gives. */
salf_status slf_basis_make_table(salf_basis *basis) {
    const salf_context *context = basis->context;
    const int64_t vocab = basis->info.vocab, dim = basis->info.hidden;
    slf_label_rows table;
    salf_status status;
    SLF_DO(slf_label_rows_make(&table, context, NULL, vocab, dim));
    table_pass pass = {.basis = basis, .table = &table};
    SLF_DO(pass_over_rows(context, basis->matrix, vocab, 3 * dim, table_block, &pass));
    SLF_DO(slf_download(context, table.host_norms, table.norms, (uint64_t)vocab * sizeof(double)));
    SLF_DO(check_norms(table.host_norms, vocab));
    SLF_DO(slf_basis_use_table_norms(basis, &table));
    slf_label_rows_free(context, &basis->held);
    basis->held = table;
    slf_device_free(context, basis->p); /* every row is there: nothing needs P any more */
    basis->p = NULL;
    return SALF_OK;
done:
    slf_label_rows_free(context, &table);
    return status;
}
