/*
 * score.c - the rows that states are scored against in ce and rank, and the walk over them.
 *
 * Whole vocabulary, basis scores: s_i = b_i . h / (|b_i| |h|) = w_i . z / |b_i| with z = P h / |h|, over the head as
 * the host stores it: no [V][D] table, no [rows][V] scores. With a table, on the input side and for candidates: s_i =
 * b_i . z / |b_i| with z = h / |h|. Logits: s_i = cap(scale w_i . h + bias_i). Cost: rows * n * D multiply-adds a walk.
 *
 * Float32 products: w_i . z / |b_i| is a sum whose terms reach |w_i| |z| / |b_i|, so its rounding error is near
 * 2^-24 |w_i| |z| / |b_i| (twice 2^-24 for z and the products, random in sign). The largest |w_i| / |b_i| is known with
 * the norms, |z| with z; for a query that lets the error pass F32_ERROR its products are made in float64
 * (query->needs_f64). ce divides scores by t, and their errors with them: below 1 the limit shrinks with t. With h
 * itself as z the bound is 2^-24 and float32 serves; logits are made as models make them, in float32, but for sharp
 * temperatures.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "basis/score.h"

/* A tenth of the 1e-5 within which a deviation agrees with its definition, whatever the backend. */
#define F32_ERROR 1e-6

/* Multiply-adds of a block on the host, a tenth of a second or less of one processor with vector kernels; and rows that
 * a block has at least, so that packing the queries again costs nothing beside it. */
#define PATIENCE    ((int64_t)1 << 31)
#define LEAST_BLOCK 4096

/* Temperatures below this keep a running maximum also of cosines: exp((s - 1) / t) is at least exp(-2 * 128), far from
 * where float64 ends, down to here. */
#define SHARP (1.0 / 128)

/* Temperatures below this take logits in float64: their float32 error, 2^-24 of 20 or so, is 2e-5 of a deviation. */
#define SHARP_LOGITS (1.0 / 16)

/* t divides scores, which are cosines: below 1 it makes the softmax over the vocabulary sharper. It divides their
 * errors too, some 1e-13 in float64 where the head's condition is small: below the least the deviation of a token that
 * scores highest, which is 0, would be off by more than 1e-7; at 1e-30 it was, by 1e14. Within these bounds a loss fits
 * float32, and nothing that is computed leaves float64: (s_i - s_l) / t is at most 2e6, and 4e82 with the largest
 * logits that float32 states and heads make. */
#define LEAST_TEMPERATURE 1e-6
#define MOST_TEMPERATURE  1e30

salf_status slf_temperature_read(double *temperature) {
    if (*temperature == 0) *temperature = 1;
    return SLF_CHECK_RANGES({"temperature", *temperature, LEAST_TEMPERATURE, MOST_TEMPERATURE});
}

/* ---- making: which rows ---- */

/* Rows that are float32 in the backend already, [n][D]. */
static void use_kept_rows(slf_vocabulary *vocabulary, const float *rows) {
    const int64_t n = vocabulary->n, dim = vocabulary->basis->info.hidden;
    const salf_tensor view = slf_tensor_device(vocabulary->context, rows, SALF_F32, n, dim);
    vocabulary->kept = (slf_matrix){.view = view, .n_rows = n, .n_cols = dim};
    vocabulary->matrix = &vocabulary->kept;
}

/* Basis rows of the candidates [n][D] in float32: solved where that is possible, else copied from those that are held.
 * z is h / |h| then, and products are with rows b_i themselves: no amplification. A zero row is no error here, as no
 * label was asked for: its inverse norm is 0, and so is its similarity to everything. */
static salf_status use_candidate_basis(slf_vocabulary *vocabulary) {
    const salf_basis *basis = vocabulary->basis;
    const salf_context *context = vocabulary->context;
    const slf_label_rows *held = &basis->held;
    const int32_t *candidates = vocabulary->candidates;
    const int64_t n = vocabulary->n, dim = basis->info.hidden;
    slf_label_rows *own = &vocabulary->own;
    if (held->labels && basis->matrix) {
        SLF_TRY(slf_basis_solve(basis, candidates, n, NULL, true, own));
    } else {
        SLF_TRY(slf_label_rows_make(own, context, NULL, n, dim));
        for (int64_t i = 0; i < n; i++) {
            const int64_t row = slf_label_row(held, candidates[i]);
            if (row < 0)
                return slf_fail(SALF_E_LABEL,
                                "candidate %" PRId32 " has no row in the basis, and there is no model to solve it from",
                                candidates[i]);
            SLF_TRY(slf_device_copy(context, own->rows + i * dim, held->rows + row * dim,
                                    (uint64_t)dim * sizeof *own->rows));
            own->host_norms[i] = held->host_norms[row];
        }
    }
    slf_invert_norms(own->host_norms, n);
    SLF_TRY(slf_upload(context, own->norms, own->host_norms, (uint64_t)n * sizeof *own->norms));
    use_kept_rows(vocabulary, own->rows);
    vocabulary->inverse_norms = own->norms;
    vocabulary->amplification = 1;
    return slf_sync(context);
}

salf_status slf_vocabulary_follow(slf_vocabulary *vocabulary) {
    const salf_model *model = vocabulary->basis->model;
    const salf_context *context = vocabulary->context;
    const int32_t *candidates = vocabulary->candidates;
    const int64_t n = vocabulary->n, dim = vocabulary->basis->info.hidden;
    float *bias = NULL, *rows = NULL; /* host [n], [n][D]; in the order of the candidates, where there are any */
    salf_status status = SALF_OK;
    if (!vocabulary->rule.logits) return SALF_OK;
    if (vocabulary->bias) {
        SLF_DO(SLF_ALLOC(context, bias, n));
        for (int64_t i = 0; i < n; i++) bias[i] = model->logit_bias[candidates ? candidates[i] : i];
        SLF_DO(slf_upload(context, vocabulary->bias, bias, (uint64_t)n * sizeof *bias));
    }
    if (candidates) {
        SLF_DO(SLF_ALLOC(context, rows, n * dim));
        SLF_DO(slf_matrix_fetch(context, &model->head, candidates, n, rows));
        SLF_DO(slf_upload(context, vocabulary->own.rows, rows, (uint64_t)(n * dim) * sizeof *rows));
    }
    /* The host's copies go when this returns, and a device may not have read them yet. */
    SLF_DO(slf_sync(context));
done:
    SLF_FREE(context, bias, rows);
    return status;
}

/* The head as the model has it, read in place, or the rows of candidates copied to the backend; and the biases. */
static salf_status use_logits(slf_vocabulary *vocabulary) {
    const salf_model *model = vocabulary->basis->model;
    const salf_context *context = vocabulary->context;
    const int64_t n = vocabulary->n, dim = vocabulary->basis->info.hidden;
    if (!model || slf_matrix_is_empty(&model->head))
        return slf_fail(SALF_E_ARGUMENT, "logits need a model with a head, and the basis has none at hand");
    if (vocabulary->candidates && slf_matrix_is_shard(&model->head))
        return slf_fail(SALF_E_UNSUPPORTED, "logits over candidates need the whole head, and the model has a shard");
    vocabulary->rule.logits = 1;
    vocabulary->rule.logit_scale = model->info.logit_scale;
    vocabulary->rule.softcap = model->info.logit_softcap;
    if (model->logit_bias) SLF_TRY(SLF_DEVICE_ALLOC(context, vocabulary->bias, n));
    vocabulary->matrix = &model->head;
    if (vocabulary->candidates) {
        SLF_TRY(slf_label_rows_make(&vocabulary->own, context, NULL, n, dim));
        use_kept_rows(vocabulary, vocabulary->own.rows);
    }
    return slf_vocabulary_follow(vocabulary);
}

/* Every token: the table's rows where the basis has one, else the head, with inverse norms of the basis rows. With a
 * head the sums' vector adds up rows w_i where b_i = P w_i is meant: P once at the end is cheaper than V times. On the
 * input side there is none. */
static salf_status use_whole_basis(slf_vocabulary *vocabulary) {
    const salf_basis *basis = vocabulary->basis;
    const salf_context *context = vocabulary->context;
    const int64_t n = vocabulary->n;
    SLF_TRY(slf_basis_norms(basis, &vocabulary->inverse_norms, &vocabulary->amplification));
    if (!basis->held.labels) {
        use_kept_rows(vocabulary, basis->held.rows);
        return SALF_OK;
    }
    vocabulary->matrix = basis->shard ? basis->shard : basis->matrix;
    if (!vocabulary->matrix)
        return slf_fail(SALF_E_ARGUMENT, "the whole vocabulary needs the basis's table or a model");
    vocabulary->p = basis->p;
    /* Heads may have any scale that float32 holds, and P has the inverse square of it, which float32 does not: z =
     * P h / |h| of a head of 1e-22 is 1e44. So P is multiplied by a power of two near sigma_max^2, which brings the
     * length of z between 1 and the squared condition, and inverse norms are divided by it: scores are what they were.
     * Within 2^-40 ... 2^40, which is any head that was ever trained, there is no gain, and no copy of the norms. */
    int exponent;
    frexp(basis->info.sigma_max * basis->info.sigma_max + basis->info.ridge, &exponent);
    if (!vocabulary->p || (exponent >= -40 && exponent <= 40)) return SALF_OK;
    const double gain = ldexp(1, exponent);
    double *norms; /* host [n] */
    salf_status status;
    SLF_DO(SLF_ALLOC(context, norms, n));
    SLF_DO(slf_download(context, norms, vocabulary->inverse_norms, (uint64_t)n * sizeof *norms));
    for (int64_t i = 0; i < n; i++) norms[i] /= gain;
    SLF_DO(SLF_DEVICE_COPY_OF(context, vocabulary->scaled_norms, norms, n));
    SLF_DO(slf_sync(context)); /* the host's copy goes */
    vocabulary->inverse_norms = vocabulary->scaled_norms;
    vocabulary->amplification /= gain;
    vocabulary->rule.gain = gain;
done:
    slf_free(context, norms);
    return status;
}

/* The error names the option that asks for what is not there. What is made here serves every batch that follows. */
salf_status slf_vocabulary_create(slf_vocabulary **out, salf_basis *basis, const int32_t *candidates,
                                  int64_t n_candidates, int32_t scores, double temperature) {
    const salf_context *context = basis->context;
    const bool output = basis->info.side == SALF_SIDE_OUTPUT;
    slf_vocabulary *vocabulary;
    salf_status status;
    if (n_candidates < 0) return slf_fail(SALF_E_ARGUMENT, "a list of %" PRId64 " candidates", n_candidates);
    if (candidates && n_candidates == 0) return slf_fail(SALF_E_ARGUMENT, "a candidate list with 0 tokens");
    SLF_TRY(SLF_ALLOC_ZERO(context, vocabulary, 1));
    vocabulary->basis = basis;
    vocabulary->context = basis->context;
    vocabulary->n = basis->info.vocab;
    /* The shift is 1, the largest cosine: then all u_i are at most 1. */
    vocabulary->rule =
        (slf_score_rule){.inverse_temperature = 1 / temperature, .shift = 1, .logit_scale = 1, .gain = 1};
    /* 1. which tokens */
    if (n_candidates > 0) {
        SLF_DO(slf_labels_unique(context, candidates, n_candidates, basis->info.vocab, basis->padded_vocab,
                                 &vocabulary->candidates, &vocabulary->n));
    }
    /* 2. their rows */
    if (scores == SALF_SCORE_LOGITS)
        SLF_DO(use_logits(vocabulary));
    else
        SLF_DO(vocabulary->candidates ? use_candidate_basis(vocabulary) : use_whole_basis(vocabulary));
    /* Equal rows of the head have basis rows and norms that are equal but for the rounding of the products they come
     * from, and of float32 where the rows are kept in it. */
    const double rounding = fmax(basis->rounding, 0x1p-50);
    const bool kept_rows = vocabulary->matrix == &vocabulary->kept && scores == SALF_SCORE_BASIS;
    if (output) vocabulary->rule.norm_error = kept_rows ? fmax(rounding, 0x1p-21) : rounding;
    if (output && kept_rows) vocabulary->rule.alike = fmin(rounding, 0x1p-22);
    /* Of rows of its own the backend has all that scores need: 8 n D bytes of the host are given back. */
    slf_free(context, vocabulary->own.host_block);
    vocabulary->own.host_block = NULL;
    /* 3. a callback's rows need a block, made once for all walks; for others backends have tiles of their own */
    vocabulary->block_rows = vocabulary->n;
    if (!vocabulary->matrix->view.data) {
        const int64_t fitting = slf_block_rows(context, vocabulary->matrix->n_cols);
        vocabulary->block_rows = SLF_MIN(vocabulary->n, fitting);
        SLF_DO(SLF_ALLOC(context, vocabulary->block, vocabulary->block_rows * vocabulary->matrix->n_cols));
    }
    *out = vocabulary;
    return SALF_OK;
done:
    slf_vocabulary_destroy(vocabulary);
    return status;
}

/* Also of one that is half made. The basis and its model's matrix are borrowed. */
void slf_vocabulary_destroy(slf_vocabulary *vocabulary) {
    if (!vocabulary) return;
    salf_context *context = vocabulary->context;
    slf_free(context, vocabulary->candidates);
    slf_device_free(context, vocabulary->bias);
    slf_device_free(context, vocabulary->scaled_norms);
    slf_label_rows_free(context, &vocabulary->own);
    SLF_FREE(context, vocabulary->block, vocabulary);
}

/* ---- what it is ---- */

/* A label that is no candidate has no target among the scores: its rank, and the ce loss, would mean nothing. */
salf_status slf_vocabulary_check(const slf_vocabulary *vocabulary, int32_t label) {
    if (!vocabulary->candidates || slf_label_find(vocabulary->candidates, vocabulary->n, label) >= 0) return SALF_OK;
    return slf_fail(SALF_E_LABEL, "label %" PRId32 " is not among the %" PRId64 " candidates", label, vocabulary->n);
}

/* Rows of a callback, of a head in host memory under a device, and those that other ranks have. */
bool slf_target_rows_lay_out(slf_target_rows *targets, const slf_vocabulary *vocabulary, int64_t n, slf_carver *device,
                             slf_carver *host) {
    const slf_matrix *matrix = vocabulary->matrix;
    const int64_t dim = vocabulary->basis->info.hidden;
    if (matrix->view.data && !slf_matrix_is_shard(matrix) &&
        slf_tensor_is_in(&matrix->view, slf_backend_memory(vocabulary->context)))
        return false;
    targets->fetched_labels = slf_carve(host, n, sizeof *targets->fetched_labels);
    targets->fetched = slf_carve(host, n * dim, sizeof *targets->fetched);
    targets->device_fetched = slf_carve(device, n * dim, sizeof *targets->device_fetched);
    return true;
}

/* Fetched once a batch: n D numbers. With basis scores over a head these are rows of W, not of the basis. */
salf_status slf_target_rows_prepare(slf_target_rows *targets, const slf_vocabulary *vocabulary, const int32_t *labels,
                                    int64_t n) {
    const salf_context *context = vocabulary->context;
    const slf_matrix *matrix = vocabulary->matrix;
    const int64_t dim = vocabulary->basis->info.hidden;
    int32_t *sorted = targets->fetched_labels;
    float *fetched = targets->fetched;
    int64_t n_fetched = 0;
    if (fetched && n > 0) {
        memcpy(sorted, labels, (size_t)n * sizeof *labels);
        n_fetched = slf_labels_sort(sorted, n);
        SLF_TRY(slf_matrix_is_shard(matrix) ? slf_shard_label_rows(vocabulary->basis, sorted, n_fetched, fetched)
                                            : slf_matrix_fetch(context, matrix, sorted, n_fetched, fetched));
    }
    for (int64_t r = 0; r < n; r++) {
        const int32_t *candidates = vocabulary->candidates;
        targets->place[r] = candidates ? (int32_t)slf_label_find(candidates, vocabulary->n, labels[r]) : labels[r];
        targets->row_of[r] = fetched ? (int32_t)slf_label_find(sorted, n_fetched, labels[r]) : targets->place[r];
    }
    targets->rows = matrix->view;
    if (!fetched) return SALF_OK;
    targets->rows = slf_tensor_device(context, targets->device_fetched, SALF_F32, n_fetched, dim);
    return slf_upload(context, targets->device_fetched, fetched, (uint64_t)(n_fetched * dim) * sizeof *fetched);
}

/* ---- a run: queries wait, and a walk answers them ---- */

/* Logits may be of any size; cosines fit exp by a fixed shift until t is small. */
bool slf_score_run_has_maximum(int32_t sums, const slf_score_rule *rule) {
    return (sums & SLF_SUM_EXP) != 0 && (rule->logits || rule->inverse_temperature > 1 / SHARP);
}

/* What a walk leaves is 8 bytes a kind and entry, but for the gradient's vector; z takes most of the memory. */
void slf_score_run_lay_out(slf_score_run *run, slf_carver *device, int64_t entries, int64_t dim, int32_t sums,
                           const slf_score_rule *rule) {
    const bool gradient = sums & SLF_SUM_GRADIENT;
    run->z = slf_carve(device, run->room * dim, sizeof *run->z);
    run->needs_f64 = slf_carve(device, run->room, sizeof *run->needs_f64);
    run->target = slf_carve(device, entries, sizeof *run->target);
    run->reach = sums & SLF_SUM_COUNT ? slf_carve(device, entries, sizeof *run->reach) : NULL;
    run->sums = (slf_score_sums){0};
    if (sums & SLF_SUM_EXP) run->sums.sum = slf_carve(device, entries, sizeof *run->sums.sum);
    if (slf_score_run_has_maximum(sums, rule))
        run->sums.maximum = slf_carve(device, entries, sizeof *run->sums.maximum);
    if (sums & SLF_SUM_COUNT) run->sums.count = slf_carve(device, entries, sizeof *run->sums.count);
    if (gradient) run->sums.weighted = slf_carve(device, entries, sizeof *run->sums.weighted);
    if (gradient) run->sums.vector = slf_carve(device, entries * dim, sizeof *run->sums.vector);
}

/* The caller's states are read here once and never again: what waits is z, so that the host may overwrite its
 * memory. */
salf_status slf_score_run_add(slf_score_run *run, const slf_vocabulary *vocabulary, const salf_tensor *states,
                              const slf_norm *norm, int64_t entry) {
    const slf_backend *backend = vocabulary->context->backend;
    void *impl = vocabulary->context->impl;
    /* Entries of a walk are neighbours, so that the sums of a walk are one piece of each array. Entries that are made
     * again after a failure: their queries that wait are forgotten. */
    if (run->waiting > 0 && run->first + run->waiting > entry) run->waiting = SLF_MAX(entry - run->first, 0);
    if (run->first + run->waiting != entry) SLF_TRY(slf_score_run_walk(run, vocabulary));
    for (int64_t first = 0, n; first < states->rows; first += n) {
        if (run->waiting == run->room) SLF_TRY(slf_score_run_walk(run, vocabulary));
        const int64_t left = SLF_MIN(states->rows - first, run->room - run->waiting);
        n = SLF_MIN(left, run->chunk);
        const salf_tensor chunk = slf_tensor_slice(states, first, n);
        const slf_score_rule *rule = &vocabulary->rule;
        const int64_t at = entry + first;
        double *z = run->z + run->waiting * states->cols;
        int32_t *needs_f64 = run->needs_f64 + run->waiting;
        /* 1. z = gain P h / |h|, h / |h| or h. Which queries need float64 is decided in the backend, without waiting:
         * those with 2^-24 |z| amplification > F32_ERROR min(t, 1), that is with |z| above this limit. It is infinite
         * where all rows are zero. */
        const double t = run->sums.sum ? fmin(1 / rule->inverse_temperature, 1) : 1;
        const double of_logits = t < SHARP_LOGITS ? 0 : (double)INFINITY;
        const slf_query_job query = {.states = &chunk,
                                     .norm = norm,
                                     .p = vocabulary->p,
                                     .z = z,
                                     .needs_f64 = needs_f64,
                                     .limit =
                                         rule->logits ? of_logits : F32_ERROR * t * 0x1p24 / vocabulary->amplification,
                                     .gain = rule->gain,
                                     .unit = !rule->logits};
        SLF_TRY(backend->query(impl, &query));
        /* 2. the targets, from the rows that the walk will meet */
        const slf_target_job job = {.z = z,
                                    .rows = n,
                                    .w = &run->own,
                                    .row_of = run->row_of + at,
                                    .place = run->place + at,
                                    .inverse_norms = vocabulary->inverse_norms,
                                    .bias = vocabulary->bias,
                                    .rule = rule,
                                    .target = run->target + at,
                                    .reach = run->reach ? run->reach + at : NULL,
                                    .needs_f64 = needs_f64};
        SLF_TRY(backend->target(impl, &job));
        if (run->waiting == 0) run->first = entry + first;
        run->waiting += n;
    }
    return SALF_OK;
}

/* Where a sum is wanted, its entries from at on, n of them: they begin at 0. */
static salf_status begin_sum(const salf_context *context, double **sum, int64_t at, int64_t n) {
    if (!*sum) return SALF_OK;
    *sum += at;
    return slf_zero_doubles(context, *sum, (uint64_t)n);
}

/* Sums are cleared here and not where queries are made, so that a walk which fails half-way can be made again. */
salf_status slf_score_run_walk(slf_score_run *run, const slf_vocabulary *vocabulary) {
    const salf_context *context = vocabulary->context;
    const slf_matrix *matrix = vocabulary->matrix; /* of a shard the rows that are here */
    const int64_t at = run->first, n = run->waiting, dim = matrix->n_cols;
    salf_status status = SALF_OK;
    if (n == 0) return SALF_OK; /* first may be an entry of a larger batch */
    const slf_query query = {.rows = n,
                             .dim = dim,
                             .z = run->z,
                             .target = run->target + at,
                             .reach = run->reach ? run->reach + at : NULL,
                             .own = &run->own,
                             .own_of = run->row_of + at,
                             .needs_f64 = run->needs_f64};
    /* 1. sums start at 0, maxima at -infinity */
    slf_score_sums sums = run->sums;
    if (sums.count) sums.count += at;
    if (sums.maximum) sums.maximum += at;
    SLF_DO(begin_sum(context, &sums.sum, at, n));
    SLF_DO(begin_sum(context, &sums.weighted, at, n));
    SLF_DO(begin_sum(context, &sums.vector, at * dim, n * dim));
    if (sums.count) SLF_DO(slf_zero_doubles(context, sums.count, (uint64_t)n));
    if (sums.maximum) SLF_DO(context->backend->fill(context->impl, sums.maximum, n, -INFINITY));
    /* 2. every row of the vocabulary, block by block; a backend keeps scores of a tile at most, and sums. On the host a
     * block ends where it is time to ask whether to go on; by the shapes alone, so that sums are the same whoever asks.
     * A device gets all that there is, and is not waited for. */
    int64_t most = vocabulary->block_rows;
    if (!slf_device_readable(context)) most = SLF_MIN(most, SLF_MAX(PATIENCE / (n * dim), LEAST_BLOCK));
    const int64_t end = slf_matrix_end(matrix, vocabulary->n);
    for (int64_t first = matrix->first; first < end; first += most) {
        const int64_t count = SLF_MIN(end - first, most);
        salf_tensor block;
        SLF_DO(slf_proceed(context, "scores", first, end));
        SLF_DO(slf_matrix_block(matrix, first, count, vocabulary->block, &block));
        const slf_score_job job = {.query = &query,
                                   .block = &block,
                                   .inverse_norms =
                                       vocabulary->inverse_norms ? vocabulary->inverse_norms + first : NULL,
                                   .bias = vocabulary->bias ? vocabulary->bias + first : NULL,
                                   .rule = &vocabulary->rule,
                                   .sums = &sums};
        SLF_DO(context->backend->score(context->impl, &job));
        if (vocabulary->block) SLF_DO(slf_sync(context)); /* the callback fills it again */
    }
done:
    /* 3. of rows that lie on several ranks all sums. Whatever went wrong on one, all come here */
    if (slf_matrix_is_shard(matrix)) status = slf_shards_add_up(vocabulary, status, &sums, n, dim);
    /* What was answered keeps its entries until the caller reads them; the memory of z is free for others. */
    if (status == SALF_OK) run->waiting = 0;
    return status;
}
