/*
 * passes.c - passes over all valid rows of a matrix, block by block: fingerprint and Gram matrix, the table of all
 * basis rows, and the norms |b_i|.
 *
 * Cost: scan V D; Gram V D^2 multiply-adds halved by symmetry; table and norms V D^2 each. A block takes a part of the
 * workspace; rows that come from a callback are staged in it as float32, others are read where they lie.
 */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "basis/basis.h"

/* One walk over a matrix: the block at hand and the room for rows of a callback. */
typedef struct {
    const salf_context *context;
    const slf_matrix *matrix;
    int64_t valid; /* rows to visit */
    int64_t rows;  /* of a full block */
    int64_t first; /* of the block at hand */
    float *buffer; /* [rows][D], or NULL where the matrix is a view */
    salf_tensor block;
} matrix_walk;

/* Blocks for as many rows as fit with floats_per_row of scratch each; 0: the caller needs none, and then a device,
 * which has tiles of its own, gets a view whole. */
static salf_status walk_begin(matrix_walk *walk, const salf_context *context, const slf_matrix *matrix, int64_t valid,
                              int64_t floats_per_row) {
    int64_t rows = slf_block_rows(context, floats_per_row > matrix->n_cols ? floats_per_row : matrix->n_cols);
    if (floats_per_row == 0 && matrix->view.data && slf_device_readable(context)) rows = valid;
    *walk = (matrix_walk){.context = context, .matrix = matrix, .valid = valid, .rows = rows < valid ? rows : valid};
    if (matrix->view.data) return SALF_OK;
    walk->buffer = slf_alloc(context, (uint64_t)walk->rows * (uint64_t)matrix->n_cols, sizeof(float));
    return walk->buffer ? SALF_OK : SALF_E_NO_MEMORY;
}

/* Loads the block at walk->first; the caller advances first by block.rows. */
static salf_status walk_load(matrix_walk *walk) {
    const int64_t left = walk->valid - walk->first;
    return slf_matrix_block(walk->matrix, walk->first, left < walk->rows ? left : walk->rows, walk->buffer,
                            &walk->block);
}

/* A buffer that a callback fills is filled again for the next block. */
static salf_status walk_wait(const matrix_walk *walk) {
    return walk->buffer ? slf_sync(walk->context) : SALF_OK;
}

static void walk_end(matrix_walk *walk) {
    slf_free(walk->context, walk->buffer);
}

const slf_matrix *slf_model_side(const salf_model *model, int32_t side) {
    const slf_matrix *matrix = side == SALF_SIDE_INPUT ? &model->embedding : &model->head;
    return slf_matrix_is_empty(matrix) ? NULL : matrix;
}

const slf_matrix *slf_basis_matrix(const salf_basis *basis) {
    return basis->model ? slf_model_side(basis->model, basis->info.side) : NULL;
}

static salf_status scan_block(matrix_walk *walk, double *gram, uint64_t *hash) {
    int64_t bad_row = -1;
    const slf_scan_job job = {
        .rows = &walk->block, .first_row = walk->first, .gram = gram, .hash = hash, .bad_row = &bad_row};
    SLF_TRY(walk_load(walk));
    SLF_TRY(walk->context->backend->scan(walk->context->impl, &job));
    if (bad_row >= 0)
        return slf_fail(SALF_E_NONFINITE, "row %lld of the matrix holds NaN or infinity",
                        (long long)(walk->first + bad_row));
    return gram ? walk_wait(walk) : SALF_OK;
}

salf_status slf_matrix_scan(const salf_context *context, const slf_matrix *matrix, int64_t valid, double *gram,
                            uint64_t *fingerprint) {
    matrix_walk walk;
    uint64_t hash = 0;
    salf_status status = walk_begin(&walk, context, matrix, valid, 0);
    for (; walk.first < valid && status == SALF_OK; walk.first += walk.block.rows)
        status = scan_block(&walk, gram, &hash);
    walk_end(&walk);
    if (status == SALF_OK) *fingerprint = hash;
    return status;
}

/* ---- norms of all rows: |w_i| and |b_i|, made in the backend block by block and read once ---- */

typedef struct {
    double *device; /* backend: w [vocab], then b [vocab] */
    double *w;      /* host [vocab]: |w_i| */
    double *b;      /* host [vocab]: |b_i| */
} norm_room;

static salf_status norms_begin(norm_room *norms, const salf_basis *basis) {
    const salf_context *context = basis->context;
    const uint64_t n = (uint64_t)basis->info.vocab;
    void *device;
    *norms = (norm_room){.w = slf_alloc(context, 2 * n, sizeof(double))};
    if (!norms->w) return SALF_E_NO_MEMORY;
    norms->b = norms->w + n;
    SLF_TRY(slf_device_alloc(context, 2 * n, sizeof(double), &device));
    norms->device = device;
    return SALF_OK;
}

static salf_status norms_read(const norm_room *norms, const salf_basis *basis) {
    return slf_download(basis->context, norms->w, norms->device, 2 * (uint64_t)basis->info.vocab * sizeof(double));
}

static void norms_end(norm_room *norms, const salf_basis *basis) {
    slf_free(basis->context, norms->w);
    slf_device_free(basis->context, norms->device);
}

static salf_status check_norms(const double *norms, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(norms[i])) return slf_fail(SALF_E_NONFINITE, "basis row %lld is not finite", (long long)i);
    return SALF_OK;
}

/* ---- table ---- */

/* The next block of the walk, as rows of the table. */
static salf_status table_block(const salf_basis *basis, matrix_walk *walk, slf_label_rows *table) {
    SLF_TRY(walk_load(walk));
    const slf_apply_job job = {.p = basis->info.side == SALF_SIDE_OUTPUT ? basis->p : NULL,
                               .rows = &walk->block,
                               .norms = table->norms + walk->first,
                               .rounded = table->rows + walk->first * basis->info.hidden,
                               .noise = basis->noise};
    SLF_TRY(basis->context->backend->apply(basis->context->impl, &job));
    return walk_wait(walk);
}

/* 1 / norm in place, 0 for 0. */
static void invert(double *norms, int64_t n) {
    for (int64_t i = 0; i < n; i++) norms[i] = norms[i] > 0 ? 1 / norms[i] : 0;
}

/* The inverse norms of a table, for the scores over it. */
static salf_status cache_table_norms(salf_basis *basis, const slf_label_rows *table) {
    const uint64_t n = (uint64_t)table->n;
    void *device;
    double *inverse = slf_alloc(basis->context, n, sizeof *inverse);
    if (!inverse) return SALF_E_NO_MEMORY;
    memcpy(inverse, table->host_norms, n * sizeof *inverse);
    invert(inverse, table->n);
    const salf_status status = slf_device_copy_of(basis->context, inverse, n, sizeof *inverse, &device);
    slf_free(basis->context, inverse);
    if (status != SALF_OK) return status;
    slf_norm_cache_set(basis->cache, device, 1);
    return slf_sync(basis->context);
}

static salf_status alloc_table(const salf_basis *basis, slf_label_rows *table) {
    const uint64_t n = (uint64_t)basis->info.vocab;
    void *rows, *norms;
    table->n = basis->info.vocab;
    table->host_norms = slf_alloc(basis->context, n, sizeof *table->host_norms);
    if (!table->host_norms) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_device_alloc(basis->context, n * (uint64_t)basis->info.hidden, sizeof(float), &rows));
    table->rows = rows;
    SLF_TRY(slf_device_alloc(basis->context, n, sizeof(double), &norms));
    table->norms = norms;
    return SALF_OK;
}

/* Norms are of the float32 rows, as a file of them would give. */
static salf_status fill_table(salf_basis *basis, slf_label_rows *table) {
    matrix_walk walk;
    salf_status status =
        walk_begin(&walk, basis->context, slf_basis_matrix(basis), basis->info.vocab, 3 * basis->info.hidden);
    for (; status == SALF_OK && walk.first < walk.valid; walk.first += walk.block.rows)
        status = table_block(basis, &walk, table);
    if (status == SALF_OK)
        status = slf_download(basis->context, table->host_norms, table->norms, (uint64_t)table->n * sizeof(double));
    walk_end(&walk);
    return status == SALF_OK ? check_norms(table->host_norms, table->n) : status;
}

salf_status slf_basis_make_table(salf_basis *basis) {
    slf_label_rows table = {0};
    salf_status status = alloc_table(basis, &table);
    if (status == SALF_OK) status = fill_table(basis, &table);
    if (status == SALF_OK) status = cache_table_norms(basis, &table);
    if (status != SALF_OK) {
        slf_label_rows_free(basis->context, &table);
        return status;
    }
    slf_label_rows_free(basis->context, &basis->held);
    basis->held = table;
    slf_device_free(basis->context, basis->p); /* every row is there: P has no further use */
    basis->p = NULL;
    return SALF_OK;
}

/* ---- norms of the vocabulary, once ---- */

struct slf_norm_cache {
    pthread_mutex_t lock;
    double *inverse_norms; /* backend [vocab]; NULL until computed, never changed after */
    double growth;
};

salf_status slf_norm_cache_create(const salf_context *context, slf_norm_cache **out) {
    slf_norm_cache *cache = slf_alloc_zero(context, 1, sizeof *cache);
    if (!cache) return SALF_E_NO_MEMORY;
    if (pthread_mutex_init(&cache->lock, NULL) != 0) {
        slf_free(context, cache);
        return slf_fail(SALF_E_NO_MEMORY, "no mutex could be made");
    }
    *out = cache;
    return SALF_OK;
}

void slf_norm_cache_destroy(const salf_context *context, slf_norm_cache *cache) {
    if (!cache) return;
    slf_device_free(context, cache->inverse_norms);
    pthread_mutex_destroy(&cache->lock);
    slf_free(context, cache);
}

void slf_norm_cache_set(slf_norm_cache *cache, double *inverse_norms, double growth) {
    cache->inverse_norms = inverse_norms;
    cache->growth = growth;
}

bool slf_basis_has_norms(const salf_basis *basis) {
    pthread_mutex_lock(&basis->cache->lock);
    const bool has = basis->cache->inverse_norms != NULL;
    pthread_mutex_unlock(&basis->cache->lock);
    return has;
}

static salf_status norms_block(const salf_basis *basis, matrix_walk *walk, double *w_norms, double *b_norms) {
    const slf_backend *backend = basis->context->backend;
    slf_apply_job job = {.rows = &walk->block, .norms = w_norms + walk->first};
    SLF_TRY(walk_load(walk));
    SLF_TRY(backend->apply(basis->context->impl, &job));
    job.p = basis->info.side == SALF_SIDE_OUTPUT ? basis->p : NULL;
    job.norms = b_norms + walk->first;
    SLF_TRY(backend->apply(basis->context->impl, &job));
    return walk_wait(walk);
}

static salf_status measure(const salf_basis *basis, norm_room *norms) {
    matrix_walk walk;
    SLF_TRY(norms_begin(norms, basis));
    salf_status status = walk_begin(&walk, basis->context, slf_basis_matrix(basis), basis->info.vocab, 0);
    for (; status == SALF_OK && walk.first < walk.valid; walk.first += walk.block.rows)
        status = norms_block(basis, &walk, norms->device, norms->device + basis->info.vocab);
    walk_end(&walk);
    return status == SALF_OK ? norms_read(norms, basis) : status;
}

/* 1 / |b_i|, 0 for a row that is nothing but noise, and the largest |w_i| / |b_i|. */
static salf_status all_norms(const salf_basis *basis, double *inverse, double *growth) {
    norm_room norms;
    salf_status status = measure(basis, &norms);
    if (status == SALF_OK) status = check_norms(norms.b, basis->info.vocab);
    for (int64_t i = 0; i < basis->info.vocab && status == SALF_OK; i++) {
        inverse[i] = norms.b[i] <= basis->noise * norms.w[i] ? 0 : norms.b[i];
        if (inverse[i] > 0 && norms.w[i] / inverse[i] > *growth) *growth = norms.w[i] / inverse[i];
    }
    if (status == SALF_OK) invert(inverse, basis->info.vocab);
    norms_end(&norms, basis);
    return status;
}

static salf_status compute_norms(const salf_basis *basis) {
    const uint64_t n = (uint64_t)basis->info.vocab;
    double growth = 0;
    void *device = NULL;
    if (!slf_basis_matrix(basis))
        return slf_fail(SALF_E_ARGUMENT,
                        "the whole vocabulary of %lld tokens is asked for, but the basis has neither its "
                        "table nor a model at hand",
                        (long long)basis->info.vocab);
    double *inverse = slf_alloc(basis->context, n, sizeof *inverse);
    if (!inverse) return SALF_E_NO_MEMORY;
    salf_status status = all_norms(basis, inverse, &growth);
    if (status == SALF_OK) status = slf_device_copy_of(basis->context, inverse, n, sizeof *inverse, &device);
    if (status == SALF_OK) status = slf_sync(basis->context);
    slf_free(basis->context, inverse);
    if (status == SALF_OK)
        slf_norm_cache_set(basis->cache, device, growth);
    else
        slf_device_free(basis->context, device);
    return status;
}

salf_status slf_basis_norms(const salf_basis *basis, const double **inverse_norms, double *growth) {
    slf_norm_cache *cache = basis->cache;
    pthread_mutex_lock(&cache->lock);
    const salf_status status = cache->inverse_norms ? SALF_OK : compute_norms(basis);
    *inverse_norms = cache->inverse_norms;
    *growth = cache->growth;
    pthread_mutex_unlock(&cache->lock);
    return status;
}
