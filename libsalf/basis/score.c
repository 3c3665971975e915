/*
 * score.c - the rows that states are scored against in ce and rank, and the walk over them.
 *
 * Whole vocabulary, basis scores: s_i = b_i . h / (|b_i| |h|) = w_i . z / |b_i| with z = P h / |h|, over the head as
 * the host stores it: no [V][D] table, no [rows][V] scores. With a table, on the input side and for candidates: s_i =
 * b_i . z / |b_i| with z = h / |h|. Logits: s_i = cap(scale w_i . h + bias_i). Cost: rows * n * D multiply-adds a walk.
 *
 * Float32 products: w_i . z / |b_i| is a sum whose terms reach |w_i| |z| / |b_i|, so its rounding error is near
 * 2^-24 |w_i| |z| / |b_i| (twice 2^-24 for z and the products, random in sign). The largest |w_i| / |b_i| is known with
 * the norms, |z| with z; for a row whose product lets the error pass 1e-6 they are made in float64 (query->needs_f64).
 * With h itself as z the bound is 2^-24 and float32 serves; logits are made as models make them, in float32.
 */
#include <math.h>
#include <string.h>

#include "basis/score.h"

#define F32_ERROR 1e-6

struct slf_vocabulary {
    const salf_basis *basis; /* kept alive by the owner */
    salf_context *context;
    const slf_matrix *matrix;    /* rows as the host stores them; NULL: rows */
    const float *rows;           /* backend [n][D], the table's or owned_rows */
    const double *inverse_norms; /* backend [n]; NULL: logits */
    int64_t n;
    int32_t *candidates; /* host [n], ascending; NULL: the whole vocabulary */
    int32_t *ids;        /* backend [n]; NULL with candidates NULL */
    float *bias;         /* backend [n]; NULL: none */
    float *owned_rows;
    double *owned_norms;
    float *block; /* host [block_rows][D], for rows of a callback; NULL where the matrix is a view */
    int64_t block_rows;
    double growth; /* max |x_i| inverse_norm_i */
    bool projected;
    slf_score_rule rule;
};

const slf_score_rule *slf_vocabulary_rule(const slf_vocabulary *vocabulary) {
    return &vocabulary->rule;
}

bool slf_vocabulary_projected(const slf_vocabulary *vocabulary) {
    return vocabulary->projected;
}

salf_status slf_vocabulary_check(const slf_vocabulary *vocabulary, int32_t label, const char *who) {
    if (!vocabulary->candidates || slf_label_find(vocabulary->candidates, vocabulary->n, label) >= 0) return SALF_OK;
    return slf_fail(SALF_E_LABEL, "%s: label %d is not among the %lld candidates", who, (int)label,
                    (long long)vocabulary->n);
}

void slf_vocabulary_destroy(slf_vocabulary *vocabulary) {
    if (!vocabulary) return;
    salf_context *context = vocabulary->context;
    slf_free(context, vocabulary->candidates);
    slf_device_free(context, vocabulary->ids);
    slf_device_free(context, vocabulary->bias);
    slf_device_free(context, vocabulary->owned_rows);
    slf_device_free(context, vocabulary->owned_norms);
    slf_free(context, vocabulary->block);
    slf_free(context, vocabulary);
}

/* ---- the whole vocabulary ---- */

static salf_status use_whole_basis(slf_vocabulary *v) {
    SLF_TRY(slf_basis_norms(v->basis, &v->inverse_norms, &v->growth));
    if (!v->basis->held.labels) {
        v->rows = v->basis->held.rows;
        v->growth = 1;
        return SALF_OK;
    }
    v->matrix = slf_basis_matrix(v->basis);
    if (!v->matrix) return slf_fail(SALF_E_ARGUMENT, "the whole vocabulary needs the basis's table or a model");
    v->projected = v->basis->info.side == SALF_SIDE_OUTPUT;
    return SALF_OK;
}

/* ---- candidates ---- */

/* w rows of the candidates, host [n][D]. */
static salf_status fetch_candidates(const slf_vocabulary *v, const slf_matrix *matrix, float **w) {
    float *rows = slf_alloc(v->context, (uint64_t)v->n * (uint64_t)v->basis->info.hidden, sizeof *rows);
    if (!rows) return SALF_E_NO_MEMORY;
    const salf_status status = slf_basis_fetch(v->basis, matrix, v->candidates, v->n, rows);
    if (status != SALF_OK)
        slf_free(v->context, rows);
    else
        *w = rows;
    return status;
}

/* Basis rows of the candidates from what the basis holds; SALF_E_LABEL when one is not held. */
static salf_status copy_held(const slf_vocabulary *v, float *rows, double *norms) {
    const slf_label_rows *held = &v->basis->held;
    const int64_t dim = v->basis->info.hidden;
    for (int64_t i = 0; i < v->n; i++) {
        const int64_t place = held->labels ? slf_label_find(held->labels, held->n, v->candidates[i]) : v->candidates[i];
        if (place < 0)
            return slf_fail(SALF_E_LABEL,
                            "candidate %d has no row in the basis, and there is no model to solve it from",
                            (int)v->candidates[i]);
        SLF_TRY(slf_download(v->context, rows + i * dim, held->rows + place * dim, (uint64_t)dim * sizeof *rows));
        norms[i] = held->host_norms[place];
    }
    return SALF_OK;
}

/* Takes rows [n][D] and norms [n] from host memory; norms become inverse. */
static salf_status upload_candidates(slf_vocabulary *v, const float *rows, double *norms) {
    const uint64_t n = (uint64_t)v->n;
    void *device_rows, *device_norms;
    for (int64_t i = 0; i < v->n; i++) norms[i] = norms[i] > 0 ? 1 / norms[i] : 0;
    SLF_TRY(slf_device_copy_of(v->context, rows, n * (uint64_t)v->basis->info.hidden, sizeof *rows, &device_rows));
    v->rows = v->owned_rows = device_rows;
    SLF_TRY(slf_device_copy_of(v->context, norms, n, sizeof *norms, &device_norms));
    v->inverse_norms = v->owned_norms = device_norms;
    return slf_sync(v->context);
}

static salf_status gather_held(slf_vocabulary *v) {
    float *rows = slf_alloc(v->context, (uint64_t)v->n * (uint64_t)v->basis->info.hidden, sizeof *rows);
    double *norms = slf_alloc(v->context, (uint64_t)v->n, sizeof *norms);
    salf_status status = rows && norms ? copy_held(v, rows, norms) : SALF_E_NO_MEMORY;
    if (status == SALF_OK) status = upload_candidates(v, rows, norms);
    slf_free(v->context, rows);
    slf_free(v->context, norms);
    return status;
}

/* The solved rows change hands: vocabulary keeps the device copy. */
static salf_status gather_solved(slf_vocabulary *v) {
    slf_label_rows solved = {0};
    void *device_norms;
    SLF_TRY(slf_basis_solve(v->basis, v->candidates, v->n, NULL, true, &solved));
    for (int64_t i = 0; i < v->n; i++) solved.host_norms[i] = solved.host_norms[i] > 0 ? 1 / solved.host_norms[i] : 0;
    salf_status status =
        slf_device_copy_of(v->context, solved.host_norms, (uint64_t)v->n, sizeof(double), &device_norms);
    if (status == SALF_OK) {
        v->inverse_norms = v->owned_norms = device_norms;
        v->rows = v->owned_rows = solved.rows;
        solved.rows = NULL;
        status = slf_sync(v->context);
    }
    slf_label_rows_free(v->context, &solved);
    return status;
}

static salf_status use_candidates_basis(slf_vocabulary *v) {
    v->growth = 1;
    return v->basis->held.labels && slf_basis_matrix(v->basis) ? gather_solved(v) : gather_held(v);
}

/* ---- logits ---- */

static salf_status upload_bias(slf_vocabulary *v, const float *bias) {
    void *device;
    if (!bias) return SALF_OK;
    float *picked = slf_alloc(v->context, (uint64_t)v->n, sizeof *picked);
    if (!picked) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < v->n; i++) picked[i] = bias[v->candidates ? v->candidates[i] : i];
    salf_status status = slf_device_copy_of(v->context, picked, (uint64_t)v->n, sizeof *picked, &device);
    if (status == SALF_OK) {
        v->bias = device;
        status = slf_sync(v->context);
    }
    slf_free(v->context, picked);
    return status;
}

static salf_status use_logits(slf_vocabulary *v, const char *who) {
    const salf_model *model = v->basis->model;
    if (!model || slf_matrix_is_empty(&model->head))
        return slf_fail(SALF_E_ARGUMENT, "%s: logits need a model with a head, and the basis has none at hand", who);
    v->rule.logits = 1;
    v->rule.logit_scale = model->info.logit_scale;
    v->rule.softcap = model->info.logit_softcap;
    SLF_TRY(upload_bias(v, model->logit_bias));
    if (!v->candidates) {
        v->matrix = &model->head;
        return SALF_OK;
    }
    float *w = NULL;
    void *device;
    SLF_TRY(fetch_candidates(v, &model->head, &w));
    salf_status status =
        slf_device_copy_of(v->context, w, (uint64_t)v->n * (uint64_t)v->basis->info.hidden, sizeof *w, &device);
    if (status == SALF_OK) {
        v->rows = v->owned_rows = device;
        status = slf_sync(v->context);
    }
    slf_free(v->context, w);
    return status;
}

/* ---- making ---- */

static salf_status take_candidates(slf_vocabulary *v, const int32_t *candidates, int64_t n, const char *who) {
    void *ids;
    v->n = v->basis->info.vocab;
    if (n < 0) return slf_fail(SALF_E_ARGUMENT, "%s: %lld candidates", who, (long long)n);
    if (!candidates && n == 0) return SALF_OK;
    if (n == 0) return slf_fail(SALF_E_ARGUMENT, "%s: a candidate list with 0 tokens", who);
    SLF_TRY(slf_labels_unique(v->context, candidates, n, v->basis->info.vocab, v->basis->padded_vocab, who,
                              &v->candidates, &v->n));
    SLF_TRY(slf_device_copy_of(v->context, v->candidates, (uint64_t)v->n, sizeof(int32_t), &ids));
    v->ids = ids;
    return SALF_OK;
}

static salf_status choose_rows(slf_vocabulary *v, int32_t scores, const char *who) {
    if (scores == SALF_SCORE_LOGITS) return use_logits(v, who);
    return v->candidates ? use_candidates_basis(v) : use_whole_basis(v);
}

/* Room for a block of a matrix that a callback serves, once for all walks; for others backends have their own tiles. */
static salf_status make_block(slf_vocabulary *v) {
    if (!v->matrix) return SALF_OK;
    v->block_rows = v->n;
    if (v->matrix->view.data) return SALF_OK;
    const int64_t fitting = slf_block_rows(v->context, v->matrix->n_cols);
    v->block_rows = fitting < v->n ? fitting : v->n;
    v->block = slf_alloc(v->context, (uint64_t)v->block_rows * (uint64_t)v->matrix->n_cols, sizeof *v->block);
    return v->block ? SALF_OK : SALF_E_NO_MEMORY;
}

static salf_status fill(slf_vocabulary *v, const int32_t *candidates, int64_t n, int32_t scores, const char *who) {
    SLF_TRY(take_candidates(v, candidates, n, who));
    SLF_TRY(choose_rows(v, scores, who));
    return make_block(v);
}

salf_status slf_vocabulary_create(slf_vocabulary **out, salf_basis *basis, const int32_t *candidates,
                                  int64_t n_candidates, int32_t scores, double temperature, const char *who) {
    slf_vocabulary *v = slf_alloc_zero(basis->context, 1, sizeof *v);
    if (!v) return SALF_E_NO_MEMORY;
    v->basis = basis;
    v->context = basis->context;
    v->rule = (slf_score_rule){.inverse_temperature = 1 / temperature, .shift = 1, .logit_scale = 1};
    const salf_status status = fill(v, candidates, n_candidates, scores, who);
    if (status != SALF_OK)
        slf_vocabulary_destroy(v);
    else
        *out = v;
    return status;
}

/* ---- use ---- */

salf_status slf_vocabulary_query(const slf_vocabulary *vocabulary, const salf_tensor *states, const slf_norm *norm,
                                 double *z, int32_t *needs_f64) {
    const slf_query_job job = {.states = states,
                               .norm = norm,
                               .p = vocabulary->projected ? vocabulary->basis->p : NULL,
                               .z = z,
                               .needs_f64 = vocabulary->projected ? needs_f64 : NULL,
                               /* infinite where all rows are zero */
                               .limit = F32_ERROR * 0x1p24 / vocabulary->growth,
                               .unit = !vocabulary->rule.logits};
    return vocabulary->context->backend->query(vocabulary->context->impl, &job);
}

/* What lies in the backend's memory whatever the vocabulary is of: candidates' rows or a table. */
static salf_tensor own_rows(const slf_vocabulary *v) {
    return slf_tensor_device(v->context, v->rows, SALF_F32, v->n, v->basis->info.hidden);
}

bool slf_vocabulary_rows(const slf_vocabulary *vocabulary, salf_tensor *rows, const float **bias) {
    const slf_matrix *matrix = vocabulary->matrix;
    if (matrix && (!matrix->view.data || !slf_tensor_at_hand(vocabulary->context, &matrix->view))) return false;
    *rows = matrix ? matrix->view : own_rows(vocabulary);
    *bias = vocabulary->bias;
    return true;
}

int32_t slf_vocabulary_place(const slf_vocabulary *vocabulary, int32_t label) {
    if (!vocabulary->candidates) return label;
    return (int32_t)slf_label_find(vocabulary->candidates, vocabulary->n, label);
}

static salf_status walk_block(const slf_vocabulary *v, const slf_query *query, const salf_tensor *block, int64_t first,
                              const slf_score_sums *sums) {
    const slf_score_job job = {.query = query,
                               .block = block,
                               .first = first,
                               .ids = v->ids ? v->ids + first : NULL,
                               .inverse_norms = v->inverse_norms ? v->inverse_norms + first : NULL,
                               .bias = v->bias ? v->bias + first : NULL,
                               .rule = &v->rule,
                               .sums = sums};
    return v->context->backend->score(v->context->impl, &job);
}

static salf_status walk_matrix(const slf_vocabulary *v, const slf_query *query, const slf_score_sums *sums) {
    const slf_matrix *matrix = v->matrix;
    for (int64_t first = 0; first < v->n; first += v->block_rows) {
        const int64_t left = v->n - first;
        salf_tensor block;
        SLF_TRY(slf_matrix_block(matrix, first, left < v->block_rows ? left : v->block_rows, v->block, &block));
        SLF_TRY(walk_block(v, query, &block, first, sums));
        if (v->block) SLF_TRY(slf_sync(v->context)); /* the block is filled again */
    }
    return SALF_OK;
}

salf_status slf_vocabulary_walk(const slf_vocabulary *vocabulary, const slf_query *query, const slf_score_sums *sums) {
    if (vocabulary->matrix) return walk_matrix(vocabulary, query, sums);
    const salf_tensor block = own_rows(vocabulary);
    return walk_block(vocabulary, query, &block, 0, sums);
}
