/*
 * basis.c - the semantic basis (paper 2.1): life, options, and the rows it gives.
 *
 * Output side: row l of (W_o^+)^T = P w_l, P = (W_o^T W_o)^+ [D][D]; input side: row l of W_i. Making one costs a pass
 * over the head for its Gram matrix (V D^2), a factor (O(D^3)) and 2 D^2 a label. Immutable afterwards, but for the
 * norms of the whole vocabulary, which the first that needs them computes under a lock.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "basis/basis.h"

/* ---- life ---- */

/* Options of a basis of a matrix [vocab][hidden], whoever makes it, and whether there can be one. RTOL drops singular
 * values below rtol sigma_max, as the pseudo-inverse of a float32 framework does; EXACT only what float64 cannot tell
 * from 0; RIDGE drops none, and adds the ridge to the square of each. */
salf_status slf_basis_read_options(salf_basis_options *own, const salf_basis_options *theirs, int64_t vocab,
                                   int64_t hidden) {
    SLF_TRY(slf_options_read(own, sizeof *own, theirs, "salf_basis_options"));
    SLF_TRY(slf_check_word("mode", "SALF_BASIS", own->mode));
    SLF_TRY(slf_check_word("side", "SALF_SIDE", own->side));
    SLF_TRY(slf_check_word("prepare", "SALF_PREPARE", own->prepare));
    if (!(own->rtol >= 0 && own->rtol < 1)) return slf_fail(SALF_E_ARGUMENT, "rtol is %g, not in [0, 1)", own->rtol);
    if (!(own->ridge >= 0) || isinf(own->ridge) || (own->mode == SALF_BASIS_RIDGE && !(own->ridge > 0)))
        return slf_fail(SALF_E_ARGUMENT, "ridge is %g, not a finite number above 0", own->ridge);
    if (vocab < 1 || hidden < 1 || vocab > INT32_MAX)
        return slf_fail(SALF_E_SHAPE, "a matrix [%" PRId64 "][%" PRId64 "] has no basis", vocab, hidden);
    /* LAPACK counts in 32 bits, also twice D; and V D doubles must leave room for sums of a few such sizes in 63. */
    if (hidden > INT32_MAX / 2 || vocab > INT64_MAX / 64 / hidden)
        return slf_fail(SALF_E_OVERFLOW, "a matrix [%" PRId64 "][%" PRId64 "] is too large for a basis", vocab, hidden);
    return SALF_OK;
}

/* padded_vocab is kept for messages only: labels between vocab and it are told apart from labels that are nonsense. */
salf_status slf_basis_new(salf_basis **out, salf_context *context, salf_model *model, const salf_basis_options *options,
                          int64_t vocab, int64_t padded_vocab, int64_t hidden) {
    salf_basis *basis;
    const slf_matrix *matrix = !model ? NULL : options->side == SALF_SIDE_INPUT ? &model->embedding : &model->head;
    /* Host memory every backend reads; device memory that of the model's context, which may be another than ours. */
    if (matrix && !slf_tensor_is_in(&matrix->view, SALF_MEMORY_HOST) && model->context != context &&
        (model->context->backend != context->backend || model->context->options.device != context->options.device))
        return slf_fail(SALF_E_ARGUMENT,
                        "the model's matrix is in memory of its own context's device, which backend %s "
                        "of the basis's context does not read",
                        context->backend->name);
    SLF_TRY(SLF_ALLOC_ZERO(context, basis, 1));
    basis->norm_cache = slf_alloc_zero(context, 1, sizeof *basis->norm_cache);
    if (!basis->norm_cache || !slf_lock_make(&basis->norm_cache->lock)) {
        if (basis->norm_cache) slf_fail(SALF_E_NO_MEMORY, "no mutex could be made");
        SLF_FREE(context, basis->norm_cache, basis);
        return SALF_E_NO_MEMORY;
    }
    /* Nothing below fails, so that whoever gets the basis can destroy it. */
    atomic_init(&basis->references, 1);
    basis->context = SLF_RETAIN(context);
    if (model) {
        basis->model = SLF_RETAIN(model);
        basis->matrix = slf_matrix_is_empty(matrix) || slf_matrix_is_shard(matrix) ? NULL : matrix;
        basis->shard = slf_matrix_is_shard(matrix) ? matrix : NULL;
    }
    basis->options = *options;
    basis->padded_vocab = padded_vocab;
    /* The default rtol is that of the float32 pseudo-inverse which the paper's authors used: max(V, D) 2^-23. */
    const bool output = options->side == SALF_SIDE_OUTPUT;
    const double rtol = options->rtol > 0 ? options->rtol : (double)SLF_MAX(vocab, hidden) * 0x1p-23;
    /* A number that the side or the mode does not use is 0; rank and spectrum come with P. */
    basis->info = (salf_basis_info){.struct_size = sizeof basis->info,
                                    .mode = options->mode,
                                    .side = options->side,
                                    .hidden = hidden,
                                    .vocab = vocab,
                                    .rtol = output && options->mode == SALF_BASIS_RTOL ? rtol : 0,
                                    .ridge = output && options->mode == SALF_BASIS_RIDGE ? options->ridge : 0};
    *out = basis;
    return SALF_OK;
}

/* A probe or a loss keeps its basis alive, and a basis its model and context, so that a host may destroy them in any
 * order. Also of one that is half made. */
void salf_basis_destroy(salf_basis *basis) {
    if (!basis || !SLF_RELEASED(basis)) return;
    salf_context *context = basis->context;
    slf_label_rows_free(context, &basis->held);
    slf_free(context, basis->label_rows);
    slf_device_free(context, basis->norm_cache->inverse_norms);
    slf_lock_end(&basis->norm_cache->lock);
    slf_free(context, basis->norm_cache);
    slf_device_free(context, basis->p);
    salf_model_destroy(basis->model);
    slf_free(context, basis);
    salf_context_destroy(context);
}

/* ---- making ---- */

/* Zero rows are refused here, where the host names the label, and not in the middle of its training. */
salf_status slf_basis_complete(salf_basis *basis, const int32_t *labels, int64_t n, const float *w) {
    const double *inverse_norms;
    double amplification;
    /* Also where a table follows: it names the label of a zero row, which a table takes as it is. */
    SLF_TRY(slf_basis_solve(basis, labels, n, w, false, &basis->held));
    if (basis->options.prepare == SALF_PREPARE_TABLE) return slf_basis_make_table(basis);
    if (basis->options.prepare == SALF_PREPARE_VOCABULARY)
        return slf_basis_norms(basis, &inverse_norms, &amplification);
    return SALF_OK;
}

/* Of a model, or of a newer state of it. Labels and options are checked first, since the passes over the head may take
 * minutes. */
static salf_status create_basis(salf_basis **out, salf_model *model, const int32_t *labels, int64_t n_labels,
                                const salf_basis_options *theirs) {
    const salf_model_info *shape = &model->info;
    salf_context *context = model->context;
    /* Padding rows belong to no token: they take no part in P, in the fingerprint or in any score. */
    const int64_t vocab = shape->valid_vocab, dim = shape->hidden;
    salf_basis_options options;
    SLF_TRY(slf_basis_read_options(&options, theirs, vocab, dim));
    salf_basis *basis = NULL;
    int32_t *unique = NULL; /* [n] */
    int64_t n = 0;
    double *gram = NULL; /* backend [D][D] */
    float *w = NULL;     /* host [V][D], for V < D */
    salf_status status;
    SLF_DO(slf_labels_unique(context, labels, n_labels, vocab, shape->vocab, &unique, &n));
    SLF_DO(slf_basis_new(&basis, context, model, &options, vocab, shape->vocab, dim));
    const slf_matrix *matrix = basis->matrix;
    uint64_t *fingerprint = &basis->info.fingerprint;
    if (basis->shard)
        SLF_DO(slf_fail(SALF_E_UNSUPPORTED, "the model has a shard of the head; its basis comes from a builder"));
    if (!matrix)
        SLF_DO(slf_fail(SALF_E_ARGUMENT, "the model has no %s to make a basis of",
                        options.side == SALF_SIDE_INPUT ? "embedding" : "head"));
    /* 1. the fingerprint and P: by the Gram matrix or, for V < D, by W itself; the input side has none */
    if (options.side == SALF_SIDE_INPUT) {
        SLF_DO(slf_matrix_scan(context, matrix, vocab, NULL, fingerprint, NULL));
    } else if (slf_basis_is_small(&options, vocab, dim)) {
        SLF_DO(slf_matrix_scan(context, matrix, vocab, NULL, fingerprint, NULL));
        SLF_DO(SLF_ALLOC(context, w, vocab * dim));
        SLF_DO(slf_matrix_fetch(context, matrix, NULL, vocab, w));
        SLF_DO(slf_basis_factor_small(basis, w));
    } else {
        SLF_DO(SLF_DEVICE_ALLOC(context, gram, dim * dim));
        SLF_DO(slf_zero_doubles(context, gram, (uint64_t)(dim * dim)));
        SLF_DO(slf_matrix_scan(context, matrix, vocab, gram, fingerprint, NULL));
        SLF_DO(slf_basis_factor(basis, gram));
        gram = NULL; /* it is P now, and the basis's */
    }
    /* 2. rows of the labels, and what is to be prepared of all tokens */
    SLF_DO(slf_basis_complete(basis, unique, n, NULL));
    *out = basis;
    basis = NULL;
done:
    SLF_FREE(context, w, unique);
    slf_device_free(context, gram);
    salf_basis_destroy(basis);
    return status;
}

salf_status salf_basis_create(salf_basis **out, salf_model *model, const int32_t *labels, int64_t n_labels,
                              const salf_basis_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(model);
    return create_basis(out, model, labels, n_labels, options);
}

/* A new basis by the old one's options, for a head that has been trained: nothing of the old factor helps, since P
 * depends on every row. Where the old basis held a table, the options ask for one again, and there are no labels to
 * pass on. */
salf_status salf_basis_refresh(salf_basis **out, const salf_basis *old, salf_model *model) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(old, model);
    if (model->info.hidden != old->info.hidden)
        return SLF_FAIL(SALF_E_SHAPE, "the model's hidden size is %" PRId64 ", the basis's %" PRId64,
                        model->info.hidden, old->info.hidden);
    /* Nothing to do for the same matrix with the same rows: one reading of it tells. The old basis is immutable, and
     * serves under both handles. */
    if (model == old->model && model->info.valid_vocab == old->info.vocab) {
        const slf_message kept = slf_message_keep();
        const salf_status same = salf_basis_check(old, model);
        if (same == SALF_OK) {
            *out = (salf_basis *)(uintptr_t)old; /* only its count of references changes */
            (void)SLF_RETAIN(*out);
            return SALF_OK;
        }
        if (same != SALF_E_STALE) return same;
        slf_message_restore(&kept);
    }
    /* As they were asked for, not as they turned out: a default rtol follows the new head. */
    salf_basis_options options = old->options;
    options.struct_size = sizeof options;
    return create_basis(out, model, old->held.labels, old->held.labels ? old->held.n : 0, &options);
}

/* ---- what it gives ---- */

/* has_norms may become 1 at any time: a probe that shares the basis may have needed them. */
salf_status salf_basis_get_info(const salf_basis *basis, salf_basis_info *info) {
    SLF_REQUIRE(basis, info);
    salf_basis_info own = basis->info;
    own.n_labels = basis->held.n;
    own.has_table = basis->held.labels == NULL;
    own.has_norms = slf_basis_has_norms(basis);
    return slf_info_write(info, &own, sizeof own, "salf_basis_info");
}

/* Borrowed. A table holds every token and has no list: NULL with the number of tokens. */
salf_status salf_basis_get_labels(const salf_basis *basis, const int32_t **labels, int64_t *n_labels) {
    SLF_REQUIRE(basis, labels, n_labels);
    *labels = basis->held.labels;
    *n_labels = basis->held.n;
    return SALF_OK;
}

/* Labels that the basis does not hold are solved for this call, and forgotten: the basis is immutable. A basis holds
 * its labels' rows in float64; a table has float32 only, in the backend, from where each row is fetched. */
salf_status salf_basis_rows(const salf_basis *basis, const int32_t *labels, int64_t n_labels, const salf_tensor *out) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(basis);
    if (n_labels < 0) return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " labels", n_labels);
    if (n_labels > 0) SLF_REQUIRE(labels);
    SLF_REQUIRE(out);
    if (out->dtype != SALF_F32 && out->dtype != SALF_F64)
        return SLF_FAIL(SALF_E_DTYPE, "out has dtype %" PRId32 " (%s) where float32 or float64 is needed", out->dtype,
                        slf_dtype_name(out->dtype));
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden;
    /* Host memory only: rows are for a host to look at, and the backend has its own. */
    salf_tensor shape = *out;
    shape.dtype = SALF_F32; /* the check knows input types, which float64 is not */
    SLF_TRY(slf_tensor_check(&shape, "out", n_labels, dim, false));
    SLF_TRY(slf_tensor_check_apart(context, out, "out"));
    int32_t *row_of = NULL; /* [n_labels] */
    float *rounded = NULL;  /* [D]: a row of the table */
    slf_label_set set = {0};
    salf_status status;
    SLF_DO(SLF_ALLOC(context, row_of, n_labels));
    SLF_DO(SLF_ALLOC(context, rounded, dim));
    SLF_DO(slf_label_set_prepare(&set, basis, labels, n_labels, row_of));
    for (int64_t i = 0; i < n_labels; i++) {
        const slf_label_rows *rows = set.used;
        const int64_t from = row_of[i] * dim, to = slf_tensor_offset(out, i);
        if (!rows->exact) SLF_DO(slf_download(context, rounded, rows->rows + from, (uint64_t)dim * sizeof *rounded));
        for (int64_t j = 0; j < dim; j++) {
            const double value = rows->exact ? rows->exact[from + j] : (double)rounded[j];
            if (out->dtype == SALF_F64)
                ((double *)out->data)[to + j] = value;
            else
                ((float *)out->data)[to + j] = (float)value;
        }
    }
done:
    slf_label_rows_free(context, &set.own);
    SLF_FREE(context, rounded, row_of);
    return status;
}

/* By the fingerprint of all rows, since a head that was trained has the same shape and pointer. Reads the head once,
 * V D; a host that trains its head asks every so many steps. */
salf_status salf_basis_check(const salf_basis *basis, const salf_model *model) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(basis, model);
    const slf_matrix *matrix = basis->info.side == SALF_SIDE_INPUT ? &model->embedding : &model->head;
    const bool absent = slf_matrix_is_empty(matrix);
    /* 1. what can be seen without reading the head */
    if (absent || model->info.hidden != basis->info.hidden || model->info.valid_vocab != basis->info.vocab)
        return slf_fail(SALF_E_STALE,
                        "the basis is of a matrix [%" PRId64 "][%" PRId64 "], the model's is [%" PRId64 "][%" PRId64
                        "]%s",
                        basis->info.vocab, basis->info.hidden, model->info.valid_vocab, model->info.hidden,
                        absent ? " and absent" : "");
    /* 2. every row */
    uint64_t fingerprint = 0;
    SLF_TRY(slf_matrix_scan(model->context, matrix, basis->info.vocab, NULL, &fingerprint, NULL));
    if (fingerprint != basis->info.fingerprint)
        return slf_fail(SALF_E_STALE,
                        "the basis was made from a head with fingerprint %016" PRIx64 ", the model's is %016" PRIx64,
                        basis->info.fingerprint, fingerprint);
    return SALF_OK;
}
