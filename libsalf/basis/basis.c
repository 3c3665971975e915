/*
 * basis.c - the semantic basis (paper 2.1): life, options, and the rows it gives.
 *
 * Output side: row l of (W_o^+)^T = P w_l, P = (W_o^T W_o)^+ [D][D]; input side: row l of W_i. Making one costs a pass
 * over the head for its Gram matrix (V D^2), a factor (O(D^3)) and 2 D^2 a label. Immutable afterwards, but for the
 * norms of the whole vocabulary, which the first that needs them computes under a lock.
 */
#include <math.h>
#include <string.h>

#include "basis/basis.h"

/* ---- options ---- */

static salf_status check_mode(const salf_basis_options *options) {
    if (options->mode < SALF_BASIS_RTOL || options->mode > SALF_BASIS_RIDGE)
        return slf_fail(SALF_E_ARGUMENT, "basis: mode %d is none of SALF_BASIS_*", (int)options->mode);
    if (options->side != SALF_SIDE_OUTPUT && options->side != SALF_SIDE_INPUT)
        return slf_fail(SALF_E_ARGUMENT, "basis: side %d is none of SALF_SIDE_*", (int)options->side);
    if (options->prepare < SALF_PREPARE_LABELS || options->prepare > SALF_PREPARE_TABLE)
        return slf_fail(SALF_E_ARGUMENT, "basis: prepare %d is none of SALF_PREPARE_*", (int)options->prepare);
    if (!(options->rtol >= 0 && options->rtol < 1))
        return slf_fail(SALF_E_ARGUMENT, "basis: rtol is %g, not in [0, 1)", options->rtol);
    if (!(options->ridge >= 0) || isinf(options->ridge) || (options->mode == SALF_BASIS_RIDGE && !(options->ridge > 0)))
        return slf_fail(SALF_E_ARGUMENT, "basis: ridge is %g, not a finite number above 0", options->ridge);
    return SALF_OK;
}

salf_status slf_basis_read_options(salf_basis_options *own, const salf_basis_options *theirs, int64_t vocab,
                                   int64_t hidden) {
    SLF_TRY(slf_options_read(own, sizeof *own, theirs, "salf_basis_options"));
    SLF_TRY(check_mode(own));
    if (vocab < 1 || hidden < 1 || vocab > INT32_MAX)
        return slf_fail(SALF_E_SHAPE, "basis: a matrix [%lld][%lld] has no basis", (long long)vocab, (long long)hidden);
    if (hidden > INT32_MAX / 2 || vocab > INT64_MAX / 64 / hidden)
        return slf_fail(SALF_E_OVERFLOW, "basis: a matrix [%lld][%lld] is too large", (long long)vocab,
                        (long long)hidden);
    return SALF_OK;
}

/* ---- life ---- */

static double default_rtol(int64_t vocab, int64_t hidden) {
    return (double)(vocab > hidden ? vocab : hidden) * 0x1p-23;
}

salf_status slf_basis_new(salf_basis **out, salf_context *context, salf_model *model, const salf_basis_options *options,
                          int64_t vocab, int64_t padded_vocab, int64_t hidden) {
    salf_basis *basis = slf_alloc_zero(context, 1, sizeof *basis);
    if (!basis) return SALF_E_NO_MEMORY;
    atomic_init(&basis->references, 1);
    const salf_status status = slf_norm_cache_create(context, &basis->cache);
    if (status != SALF_OK) {
        slf_free(context, basis);
        return status;
    }
    basis->context = slf_context_retain(context);
    basis->model = model ? slf_model_retain(model) : NULL;
    basis->options = *options;
    basis->padded_vocab = padded_vocab;
    const bool output = options->side == SALF_SIDE_OUTPUT;
    const double rtol = options->rtol > 0 ? options->rtol : default_rtol(vocab, hidden);
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

salf_basis *slf_basis_retain(salf_basis *basis) {
    atomic_fetch_add_explicit(&basis->references, 1, memory_order_relaxed);
    return basis;
}

void salf_basis_destroy(salf_basis *basis) {
    if (!basis || atomic_fetch_sub_explicit(&basis->references, 1, memory_order_acq_rel) != 1) return;
    salf_context *context = basis->context;
    slf_label_rows_free(context, &basis->held);
    slf_norm_cache_destroy(context, basis->cache);
    slf_device_free(context, basis->p);
    salf_model_destroy(basis->model);
    slf_free(context, basis);
    slf_context_release(context);
}

/* ---- making ---- */

salf_status slf_basis_complete(salf_basis *basis, const int32_t *labels, int64_t n, const float *w) {
    const double *inverse_norms;
    double growth;
    SLF_TRY(slf_basis_solve(basis, labels, n, w, false, &basis->held));
    if (basis->options.prepare == SALF_PREPARE_TABLE) return slf_basis_make_table(basis);
    if (basis->options.prepare == SALF_PREPARE_VOCABULARY) return slf_basis_norms(basis, &inverse_norms, &growth);
    return SALF_OK;
}

/* P of the whole head by its Gram matrix; also the fingerprint. */
static salf_status factor_head(salf_basis *basis, const slf_matrix *matrix) {
    const salf_context *context = basis->context;
    const uint64_t elements = (uint64_t)basis->info.hidden * (uint64_t)basis->info.hidden;
    void *gram;
    SLF_TRY(slf_device_alloc(context, elements, sizeof(double), &gram));
    salf_status status = slf_zero_doubles(context, gram, elements);
    if (status == SALF_OK) status = slf_matrix_scan(context, matrix, basis->info.vocab, gram, &basis->info.fingerprint);
    if (status == SALF_OK) status = slf_basis_factor(basis, gram);
    if (status != SALF_OK) slf_device_free(context, gram);
    return status;
}

/* The same for V < D. */
static salf_status factor_few(salf_basis *basis, const slf_matrix *matrix) {
    const int64_t vocab = basis->info.vocab;
    SLF_TRY(slf_matrix_scan(basis->context, matrix, vocab, NULL, &basis->info.fingerprint));
    int32_t *all = slf_alloc(basis->context, (uint64_t)vocab, sizeof *all);
    float *w = slf_alloc(basis->context, (uint64_t)(vocab * basis->info.hidden), sizeof *w);
    salf_status status = all && w ? SALF_OK : SALF_E_NO_MEMORY;
    for (int64_t i = 0; all && i < vocab; i++) all[i] = (int32_t)i;
    if (status == SALF_OK) status = slf_basis_fetch(basis, matrix, all, vocab, w);
    if (status == SALF_OK) status = slf_basis_factor_small(basis, w);
    slf_free(basis->context, all);
    slf_free(basis->context, w);
    return status;
}

static salf_status fill(salf_basis *basis, const slf_matrix *matrix, const int32_t *labels, int64_t n) {
    if (basis->info.side == SALF_SIDE_INPUT)
        SLF_TRY(slf_matrix_scan(basis->context, matrix, basis->info.vocab, NULL, &basis->info.fingerprint));
    else if (slf_basis_is_small(&basis->options, basis->info.vocab, basis->info.hidden))
        SLF_TRY(factor_few(basis, matrix));
    else
        SLF_TRY(factor_head(basis, matrix));
    return slf_basis_complete(basis, labels, n, NULL);
}

static salf_status create(salf_basis **out, salf_model *model, const int32_t *labels, int64_t n_labels,
                          const salf_basis_options *theirs) {
    const salf_model_info *shape = &model->info;
    salf_basis_options options;
    SLF_TRY(slf_basis_read_options(&options, theirs, shape->valid_vocab, shape->hidden));
    const slf_matrix *matrix = slf_model_side(model, options.side);
    if (!matrix)
        return slf_fail(SALF_E_ARGUMENT, "salf_basis_create: the model has no %s",
                        options.side == SALF_SIDE_INPUT ? "embedding" : "head");
    int32_t *unique = NULL;
    int64_t n = 0;
    SLF_TRY(slf_labels_unique(model->context, labels, n_labels, shape->valid_vocab, shape->vocab, "salf_basis_create",
                              &unique, &n));
    salf_basis *basis = NULL;
    salf_status status =
        slf_basis_new(&basis, model->context, model, &options, shape->valid_vocab, shape->vocab, shape->hidden);
    if (status == SALF_OK) status = fill(basis, matrix, unique, n);
    slf_free(model->context, unique);
    if (status != SALF_OK)
        salf_basis_destroy(basis);
    else
        *out = basis;
    return status;
}

salf_status salf_basis_create(salf_basis **out, salf_model *model, const int32_t *labels, int64_t n_labels,
                              const salf_basis_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(model);
    return create(out, model, labels, n_labels, options);
}

salf_status salf_basis_refresh(salf_basis **out, const salf_basis *old, salf_model *model) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(old);
    SLF_REQUIRE(model);
    if (model->info.hidden != old->info.hidden)
        return slf_fail(SALF_E_SHAPE, "salf_basis_refresh: the model's hidden size is %lld, the basis's %lld",
                        (long long)model->info.hidden, (long long)old->info.hidden);
    salf_basis_options options = old->options;
    options.struct_size = sizeof options;
    return create(out, model, old->held.labels, old->held.labels ? old->held.n : 0, &options);
}

/* ---- what it gives ---- */

salf_status salf_basis_get_info(const salf_basis *basis, salf_basis_info *info) {
    SLF_REQUIRE(basis);
    SLF_REQUIRE(info);
    salf_basis_info own = basis->info;
    own.n_labels = basis->held.n;
    own.has_table = basis->held.labels == NULL;
    own.has_norms = slf_basis_has_norms(basis);
    return slf_info_write(info, &own, sizeof own, "salf_basis_info");
}

salf_status salf_basis_get_labels(const salf_basis *basis, const int32_t **labels, int64_t *n_labels) {
    SLF_REQUIRE(basis);
    SLF_REQUIRE(labels);
    SLF_REQUIRE(n_labels);
    *labels = basis->held.labels;
    *n_labels = basis->held.n;
    return SALF_OK;
}

static salf_status check_out(const salf_tensor *out, int64_t rows, int64_t cols) {
    SLF_REQUIRE(out);
    if (out->dtype != SALF_F32 && out->dtype != SALF_F64)
        return slf_fail(SALF_E_DTYPE, "salf_basis_rows: out has dtype %d (%s) where float32 or float64 is needed",
                        (int)out->dtype, slf_dtype_name(out->dtype));
    salf_tensor shape = *out;
    shape.dtype = SALF_F32; /* the check knows input types */
    return slf_tensor_check(&shape, "salf_basis_rows: out", rows, cols, false);
}

/* Row `place` of used, in float64. narrow [D] is room for a float32 row. */
static salf_status read_row(const salf_basis *basis, const slf_label_rows *used, int64_t place, float *narrow,
                            double *row) {
    const int64_t dim = basis->info.hidden;
    if (used->exact) {
        memcpy(row, used->exact + place * dim, (size_t)dim * sizeof *row);
        return SALF_OK;
    }
    SLF_TRY(slf_download(basis->context, narrow, used->rows + place * dim, (uint64_t)dim * sizeof *narrow));
    for (int64_t i = 0; i < dim; i++) row[i] = (double)narrow[i];
    return SALF_OK;
}

static void write_row(const salf_tensor *out, int64_t r, const double *row) {
    const int64_t index = out->row_index ? out->row_index[r] : r;
    const int64_t offset = index * (out->row_stride ? out->row_stride : out->cols);
    if (out->dtype == SALF_F64)
        memcpy((double *)out->data + offset, row, (size_t)out->cols * sizeof *row);
    else
        for (int64_t i = 0; i < out->cols; i++) ((float *)out->data)[offset + i] = (float)row[i];
}

static salf_status copy_rows(const salf_basis *basis, const slf_label_rows *used, const int32_t *which, int64_t n,
                             const salf_tensor *out) {
    const uint64_t dim = (uint64_t)basis->info.hidden;
    float *narrow = slf_alloc(basis->context, dim, sizeof *narrow);
    double *row = slf_alloc(basis->context, dim, sizeof *row);
    salf_status status = narrow && row ? SALF_OK : SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < n && status == SALF_OK; i++) {
        status = read_row(basis, used, which[i], narrow, row);
        if (status == SALF_OK) write_row(out, i, row);
    }
    slf_free(basis->context, narrow);
    slf_free(basis->context, row);
    return status;
}

salf_status salf_basis_rows(const salf_basis *basis, const int32_t *labels, int64_t n_labels, const salf_tensor *out) {
    SLF_REQUIRE(basis);
    if (n_labels < 0) return slf_fail(SALF_E_ARGUMENT, "salf_basis_rows: %lld labels", (long long)n_labels);
    if (n_labels > 0) SLF_REQUIRE(labels);
    SLF_TRY(check_out(out, n_labels, basis->info.hidden));
    int32_t *which = slf_alloc(basis->context, (uint64_t)n_labels, sizeof *which);
    if (!which) return SALF_E_NO_MEMORY;
    slf_label_set set = {0};
    salf_status status = slf_label_set_prepare(&set, basis, labels, n_labels, which, "salf_basis_rows");
    if (status == SALF_OK) status = copy_rows(basis, set.used, which, n_labels, out);
    slf_label_set_free(basis->context, &set);
    slf_free(basis->context, which);
    return status;
}

salf_status salf_basis_check(const salf_basis *basis, const salf_model *model) {
    SLF_REQUIRE(basis);
    SLF_REQUIRE(model);
    const slf_matrix *matrix = slf_model_side(model, basis->info.side);
    if (!matrix || model->info.hidden != basis->info.hidden || model->info.valid_vocab != basis->info.vocab)
        return slf_fail(SALF_E_STALE, "the basis is of a matrix [%lld][%lld], the model's is [%lld][%lld]%s",
                        (long long)basis->info.vocab, (long long)basis->info.hidden, (long long)model->info.valid_vocab,
                        (long long)model->info.hidden, matrix ? "" : " and absent");
    uint64_t fingerprint = 0;
    SLF_TRY(slf_matrix_scan(model->context, matrix, basis->info.vocab, NULL, &fingerprint));
    if (fingerprint != basis->info.fingerprint)
        return slf_fail(SALF_E_STALE, "the basis was made from a head with fingerprint %016llx, the model's is %016llx",
                        (unsigned long long)basis->info.fingerprint, (unsigned long long)fingerprint);
    return SALF_OK;
}
