/*
 * basis_rows.c - passes over all valid rows of a matrix, block by block: fingerprint and Gram matrix, the table of all
 * basis rows, and the norms |b_i|.
 *
 * Cost: scan V D; Gram V D^2 multiply-adds halved by symmetry; table and norms V D^2 each. A block takes a part of the
 * workspace; rows that come from a callback are staged in it as float32, others are read where they lie.
 */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "basis_internal.h"

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

static salf_status walk_begin(matrix_walk *walk, const salf_context *context, const slf_matrix *matrix, int64_t valid,
                              int64_t floats_per_row) {
    const int64_t rows = slf_block_rows(context, floats_per_row);
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
    const slf_backend *backend = walk->context->backend;
    void *state = walk->context->backend_state;
    int64_t bad_row = -1;
    SLF_TRY(walk_load(walk));
    SLF_TRY(backend->scan(state, &walk->block, walk->first, hash, &bad_row));
    if (bad_row >= 0)
        return slf_fail(SALF_E_NONFINITE, "row %lld of the matrix holds NaN or infinity",
                        (long long)(walk->first + bad_row));
    if (!gram) return SALF_OK;
    SLF_TRY(backend->gram(state, &walk->block, gram));
    return walk->buffer ? backend->sync(state) : SALF_OK; /* the buffer is filled again */
}

salf_status slf_matrix_scan(const salf_context *context, const slf_matrix *matrix, int64_t valid, double *gram,
                            uint64_t *fingerprint) {
    matrix_walk walk;
    uint64_t hash = 0;
    salf_status status = walk_begin(&walk, context, matrix, valid, matrix->n_cols);
    for (; walk.first < valid && status == SALF_OK; walk.first += walk.block.rows)
        status = scan_block(&walk, gram, &hash);
    walk_end(&walk);
    if (status == SALF_OK) *fingerprint = hash;
    return status;
}

/* ---- rows and norms of a block ---- */

/* Room for a block in float64. */
typedef struct {
    matrix_walk walk;
    double *device; /* backend [rows][D] */
    double *host;   /* [rows][D] */
    double *w_norm; /* [rows] */
    float *narrow;  /* [rows][D]; table only */
} block_room;

static salf_status room_begin(block_room *room, const salf_basis *basis, bool narrow) {
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden;
    void *device;
    memset(room, 0, sizeof *room);
    SLF_TRY(walk_begin(&room->walk, context, slf_basis_matrix(basis), basis->info.vocab, 6 * dim));
    const uint64_t elements = (uint64_t)room->walk.rows * (uint64_t)dim;
    room->host = slf_alloc(context, elements, sizeof *room->host);
    room->w_norm = slf_alloc(context, (uint64_t)room->walk.rows, sizeof *room->w_norm);
    if (narrow) room->narrow = slf_alloc(context, elements, sizeof *room->narrow);
    if (!room->host || !room->w_norm || (narrow && !room->narrow)) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_device_alloc(context, elements, sizeof(double), &device));
    room->device = device;
    return SALF_OK;
}

static void room_end(block_room *room, const salf_basis *basis) {
    slf_free(basis->context, room->host);
    slf_free(basis->context, room->w_norm);
    slf_free(basis->context, room->narrow);
    slf_device_free(basis->context, room->device);
    slf_free(basis->context, room->walk.buffer);
}

/* Loads the next block and |w_i| of its rows; host then holds the rows of W in float64. */
static salf_status load_with_norms(block_room *room, const salf_basis *basis) {
    const int64_t dim = basis->info.hidden;
    SLF_TRY(walk_load(&room->walk));
    SLF_TRY(slf_rows_to_host(basis->context, &room->walk.block, room->device, room->host));
    for (int64_t i = 0; i < room->walk.block.rows; i++) room->w_norm[i] = slf_norm2(room->host + i * dim, dim);
    return SALF_OK;
}

/* Norm of basis row i of the block, or 0 where that row is zero. NaN passes. */
static double judged_norm(const salf_basis *basis, const block_room *room, int64_t i, double norm) {
    return norm <= basis->noise * room->w_norm[i] ? 0 : norm;
}

/* ---- table ---- */

static salf_status table_block(salf_basis *basis, block_room *room, slf_label_rows *table) {
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden, first = room->walk.first;
    SLF_TRY(load_with_norms(room, basis));
    const int64_t count = room->walk.block.rows;
    if (basis->info.side == SALF_SIDE_OUTPUT) {
        SLF_TRY(context->backend->apply(context->backend_state, basis->p, &room->walk.block, room->device));
        SLF_TRY(slf_download(context, room->host, room->device, (uint64_t)(count * dim) * sizeof(double)));
    }
    for (int64_t i = 0; i < count; i++) {
        const double *row = room->host + i * dim;
        const double norm = judged_norm(basis, room, i, slf_norm2(row, dim));
        if (!isfinite(norm)) return slf_fail(SALF_E_NONFINITE, "basis row %lld is not finite", (long long)(first + i));
        float *narrow = room->narrow + i * dim;
        for (int64_t j = 0; j < dim; j++) narrow[j] = norm > 0 ? (float)row[j] : 0;
        table->host_norms[first + i] = slf_norm2_f32(narrow, dim); /* of what is kept, as a file of it would give */
    }
    SLF_TRY(slf_upload(context, table->rows + first * dim, room->narrow, (uint64_t)(count * dim) * sizeof(float)));
    return context->backend->sync(context->backend_state); /* narrow is used again */
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
    return basis->context->backend->sync(basis->context->backend_state);
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

static salf_status fill_table(salf_basis *basis, slf_label_rows *table) {
    block_room room;
    salf_status status = room_begin(&room, basis, true);
    for (; status == SALF_OK && room.walk.first < room.walk.valid; room.walk.first += room.walk.block.rows)
        status = table_block(basis, &room, table);
    room_end(&room, basis);
    if (status != SALF_OK) return status;
    return slf_upload(basis->context, table->norms, table->host_norms, (uint64_t)table->n * sizeof(double));
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

static salf_status norms_block(const salf_basis *basis, block_room *room, double *device_norms, double *inverse,
                               double *growth) {
    const salf_context *context = basis->context;
    SLF_TRY(load_with_norms(room, basis));
    const int64_t count = room->walk.block.rows, first = room->walk.first;
    double *norms = inverse + first;
    if (basis->info.side == SALF_SIDE_OUTPUT) {
        SLF_TRY(context->backend->apply_norms(context->backend_state, basis->p, &room->walk.block, device_norms));
        SLF_TRY(slf_download(context, norms, device_norms, (uint64_t)count * sizeof(double)));
    } else {
        memcpy(norms, room->w_norm, (size_t)count * sizeof(double));
    }
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(norms[i]))
            return slf_fail(SALF_E_NONFINITE, "basis row %lld is not finite", (long long)(first + i));
        norms[i] = judged_norm(basis, room, i, norms[i]);
        if (norms[i] > 0 && room->w_norm[i] / norms[i] > *growth) *growth = room->w_norm[i] / norms[i];
    }
    invert(norms, count);
    return SALF_OK;
}

static salf_status all_norms(const salf_basis *basis, double *inverse, double *growth) {
    block_room room;
    void *device_norms = NULL;
    salf_status status = room_begin(&room, basis, false);
    if (status == SALF_OK)
        status = slf_device_alloc(basis->context, (uint64_t)room.walk.rows, sizeof(double), &device_norms);
    for (; status == SALF_OK && room.walk.first < room.walk.valid; room.walk.first += room.walk.block.rows)
        status = norms_block(basis, &room, device_norms, inverse, growth);
    slf_device_free(basis->context, device_norms);
    room_end(&room, basis);
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
    if (status == SALF_OK) status = basis->context->backend->sync(basis->context->backend_state);
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
