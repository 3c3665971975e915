/*
 * builder.c - an output-side basis from row blocks of the head in any order, on any number of ranks.
 *
 * The partial state is one vector of doubles that adds up over builders:
 *   Gram matrix [D][D] (upper triangle), rows of the labels [n][D] (zeros until they pass), number of rows seen,
 * checksum of their ids [4], fingerprint [4]. The last two are sums modulo 2^64 in four parts of 16 bits, each part
 * summed exactly. The checksum makes a row added twice in place of another one show. Cost of a block: rows * D^2
 * multiply-adds halved, and D^2 additions. For V < D the rows of all tokens are kept in the labels' place, since the
 * Gram matrix alone resolves less there.
 */
#include <math.h>
#include <string.h>

#include "basis/basis.h"
#include "core/random.h"

#define PARTS        4                   /* of a 64-bit sum */
#define TRAILER      (1 + PARTS + PARTS) /* rows seen, checksum, fingerprint */
#define CHECK_STREAM 0x62617369733a6964u

struct salf_basis_builder {
    salf_context *context;
    salf_basis_options options;
    int64_t vocab;
    int64_t hidden;
    int32_t *labels; /* [n_labels] ascending */
    int64_t n_labels;
    int32_t *kept; /* [n_kept] ascending: labels, or all tokens for V < D */
    int64_t n_kept;
    int64_t count; /* doubles in values */
    double *values;
    double *gram; /* backend [D][D]: the block at hand */
    double *row;  /* host [D] */
};

static double *kept_rows(const salf_basis_builder *b) {
    return b->values + b->hidden * b->hidden;
}

static double *trailer(const salf_basis_builder *b) {
    return b->values + b->count - TRAILER;
}

/* ---- 64-bit sums in doubles ---- */

static void add_parts(double parts[PARTS], uint64_t value) {
    for (int i = 0; i < PARTS; i++) parts[i] += (double)(value >> 16 * i & 0xffff);
}

/* The sum modulo 2^64; false when a part is no count that additions could have made. */
static bool join_parts(const double parts[PARTS], uint64_t *value) {
    *value = 0;
    for (int i = 0; i < PARTS; i++) {
        if (!(parts[i] >= 0 && parts[i] < 0x1p53) || parts[i] != floor(parts[i])) return false;
        *value += (uint64_t)parts[i] << 16 * i;
    }
    return true;
}

static uint64_t id_hash(int64_t id) {
    return slf_random_bits(CHECK_STREAM, 0, (uint64_t)id);
}

/* ---- life ---- */

static salf_status keep_all(salf_basis_builder *b) {
    b->kept = slf_alloc(b->context, (uint64_t)b->vocab, sizeof *b->kept);
    if (!b->kept) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < b->vocab; i++) b->kept[i] = (int32_t)i;
    b->n_kept = b->vocab;
    return SALF_OK;
}

static salf_status keep_labels(salf_basis_builder *b) {
    b->kept = slf_alloc(b->context, (uint64_t)b->n_labels, sizeof *b->kept);
    if (!b->kept) return SALF_E_NO_MEMORY;
    if (b->n_labels > 0) memcpy(b->kept, b->labels, (size_t)b->n_labels * sizeof *b->kept);
    b->n_kept = b->n_labels;
    return SALF_OK;
}

static salf_status fill(salf_basis_builder *b, const int32_t *labels, int64_t n_labels) {
    void *gram;
    SLF_TRY(slf_labels_unique(b->context, labels, n_labels, b->vocab, b->vocab, "salf_basis_builder_create", &b->labels,
                              &b->n_labels));
    SLF_TRY(slf_basis_is_small(&b->options, b->vocab, b->hidden) ? keep_all(b) : keep_labels(b));
    b->count = b->hidden * b->hidden + b->n_kept * b->hidden + TRAILER;
    b->values = slf_alloc_zero(b->context, (uint64_t)b->count, sizeof *b->values);
    b->row = slf_alloc(b->context, (uint64_t)b->hidden, sizeof *b->row);
    if (!b->values || !b->row) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_device_alloc(b->context, (uint64_t)(b->hidden * b->hidden), sizeof(double), &gram));
    b->gram = gram;
    return SALF_OK;
}

salf_status salf_basis_builder_create(salf_basis_builder **out, salf_context *context, int64_t vocab, int64_t hidden,
                                      const int32_t *labels, int64_t n_labels, const salf_basis_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    salf_basis_options own;
    SLF_TRY(slf_basis_read_options(&own, options, vocab, hidden));
    if (own.side == SALF_SIDE_INPUT)
        return slf_fail(SALF_E_ARGUMENT,
                        "salf_basis_builder_create: the input side needs no builder: its rows are the basis");
    salf_basis_builder *b = slf_alloc_zero(context, 1, sizeof *b);
    if (!b) return SALF_E_NO_MEMORY;
    b->context = slf_context_retain(context);
    b->options = own;
    b->vocab = vocab;
    b->hidden = hidden;
    const salf_status status = fill(b, labels, n_labels);
    if (status != SALF_OK)
        salf_basis_builder_destroy(b);
    else
        *out = b;
    return status;
}

void salf_basis_builder_destroy(salf_basis_builder *builder) {
    if (!builder) return;
    salf_context *context = builder->context;
    slf_free(context, builder->labels);
    slf_free(context, builder->kept);
    slf_free(context, builder->values);
    slf_free(context, builder->row);
    slf_device_free(context, builder->gram);
    slf_free(context, builder);
    slf_context_release(context);
}

/* ---- adding ---- */

/* Picks the kept rows out of a block into float64 [n][D] of the state, by way of the backend. */
static salf_status pick_rows(salf_basis_builder *b, int64_t first, const salf_tensor *rows) {
    for (int64_t i = 0; i < b->n_kept; i++) {
        const int64_t r = b->kept[i] - first;
        if (r < 0 || r >= rows->rows) continue;
        const salf_tensor row = slf_tensor_slice(rows, r, 1);
        SLF_TRY(slf_rows_to_host(b->context, &row, b->gram, b->row)); /* gram is scratch here */
        double *out = kept_rows(b) + i * b->hidden;
        for (int64_t j = 0; j < b->hidden; j++) out[j] += b->row[j];
    }
    return SALF_OK;
}

/* Adds the block's Gram matrix from backend memory, a row at a time. */
static salf_status add_gram(salf_basis_builder *b) {
    const int64_t dim = b->hidden;
    for (int64_t i = 0; i < dim; i++) {
        SLF_TRY(slf_download(b->context, b->row + i, b->gram + i * dim + i, (uint64_t)(dim - i) * sizeof *b->row));
        for (int64_t j = i; j < dim; j++) b->values[i * dim + j] += b->row[j];
    }
    return SALF_OK;
}

/* The block's Gram matrix in backend memory, and its hash. */
static salf_status scan_rows(const salf_basis_builder *b, int64_t first, const salf_tensor *rows, uint64_t *hash) {
    int64_t bad_row = -1;
    const slf_scan_job job = {.rows = rows, .first_row = first, .gram = b->gram, .hash = hash, .bad_row = &bad_row};
    SLF_TRY(slf_zero_doubles(b->context, b->gram, (uint64_t)(b->hidden * b->hidden)));
    SLF_TRY(b->context->backend->scan(b->context->impl, &job));
    if (bad_row >= 0)
        return slf_fail(SALF_E_NONFINITE, "salf_basis_builder_add: row %lld holds NaN or infinity",
                        (long long)(first + bad_row));
    return SALF_OK;
}

static salf_status check_block(const salf_basis_builder *b, int64_t first, const salf_tensor *rows) {
    SLF_TRY(slf_tensor_check(rows, "salf_basis_builder_add: rows", -1, b->hidden, slf_device_readable(b->context)));
    if (first < 0 || first > b->vocab || rows->rows > b->vocab - first)
        return slf_fail(SALF_E_SHAPE, "salf_basis_builder_add: rows %lld ... %lld are outside the vocabulary of %lld",
                        (long long)first, (long long)(first + rows->rows - 1), (long long)b->vocab);
    return SALF_OK;
}

static void count_rows(salf_basis_builder *b, int64_t first, int64_t rows, uint64_t hash) {
    double *end = trailer(b);
    end[0] += (double)rows;
    for (int64_t r = 0; r < rows; r++) add_parts(end + 1, id_hash(first + r));
    add_parts(end + 1 + PARTS, hash);
}

salf_status salf_basis_builder_add(salf_basis_builder *builder, int64_t first, const salf_tensor *rows) {
    SLF_REQUIRE(builder);
    SLF_REQUIRE(rows);
    uint64_t hash = 0;
    SLF_TRY(check_block(builder, first, rows));
    if (rows->rows == 0) return SALF_OK;
    SLF_TRY(scan_rows(builder, first, rows, &hash));
    SLF_TRY(add_gram(builder)); /* before picking, whose scratch it is */
    SLF_TRY(pick_rows(builder, first, rows));
    count_rows(builder, first, rows->rows, hash);
    return SALF_OK;
}

/* ---- partial states ---- */

salf_status salf_basis_builder_partial(salf_basis_builder *builder, double **values, int64_t *count) {
    SLF_REQUIRE(builder);
    SLF_REQUIRE(values);
    SLF_REQUIRE(count);
    *values = builder->values;
    *count = builder->count;
    return SALF_OK;
}

salf_status salf_basis_builder_merge(salf_basis_builder *builder, const salf_basis_builder *other) {
    SLF_REQUIRE(builder);
    SLF_REQUIRE(other);
    if (builder == other)
        return slf_fail(SALF_E_ARGUMENT, "salf_basis_builder_merge: a builder cannot be merged with itself");
    if (builder->vocab != other->vocab || builder->hidden != other->hidden)
        return slf_fail(SALF_E_SHAPE, "salf_basis_builder_merge: [%lld][%lld] and [%lld][%lld]",
                        (long long)builder->vocab, (long long)builder->hidden, (long long)other->vocab,
                        (long long)other->hidden);
    if (builder->n_kept != other->n_kept ||
        (builder->n_kept > 0 &&
         memcmp(builder->kept, other->kept, (size_t)builder->n_kept * sizeof *builder->kept) != 0))
        return slf_fail(SALF_E_MISMATCH, "salf_basis_builder_merge: the labels differ (%lld and %lld rows kept)",
                        (long long)builder->n_kept, (long long)other->n_kept);
    for (int64_t i = 0; i < builder->count; i++) builder->values[i] += other->values[i];
    return SALF_OK;
}

salf_status salf_basis_builder_all_reduce(salf_basis_builder *builder) {
    SLF_REQUIRE(builder);
    return slf_all_reduce(builder->context, builder->values, builder->count, SALF_F64, SALF_ALL_REDUCE_SUM);
}

/* ---- finishing ---- */

static salf_status check_coverage(const salf_basis_builder *b, uint64_t *fingerprint) {
    const double *end = trailer(b);
    uint64_t seen, wanted = 0;
    if (end[0] != (double)b->vocab)
        return slf_fail(SALF_E_SEQUENCE, "salf_basis_builder_finish: %.0f rows of %lld were added", end[0],
                        (long long)b->vocab);
    for (int64_t i = 0; i < b->vocab; i++) wanted += id_hash(i);
    if (!join_parts(end + 1, &seen) || seen != wanted)
        return slf_fail(SALF_E_SEQUENCE,
                        "salf_basis_builder_finish: %.0f rows of %lld were added, but some twice and some not at all",
                        end[0], (long long)b->vocab);
    if (!join_parts(end + 1 + PARTS, fingerprint))
        return slf_fail(SALF_E_CORRUPT, "salf_basis_builder_finish: the partial state holds %g where a count must be",
                        end[1 + PARTS]);
    return SALF_OK;
}

/* The kept rows of ascending labels as float32, exactly: sums of one row and zeros. */
static float *rows_of(const salf_basis_builder *b, const int32_t *labels, int64_t n) {
    float *w = slf_alloc(b->context, (uint64_t)(n * b->hidden), sizeof *w);
    for (int64_t i = 0; w && i < n; i++) {
        const double *row = kept_rows(b) + slf_label_find(b->kept, b->n_kept, labels[i]) * b->hidden;
        for (int64_t j = 0; j < b->hidden; j++) w[i * b->hidden + j] = (float)row[j];
    }
    return w;
}

static salf_status factor_state(const salf_basis_builder *b, salf_basis *basis) {
    void *gram;
    if (slf_basis_is_small(&b->options, b->vocab, b->hidden)) {
        float *w = rows_of(b, b->kept, b->n_kept);
        const salf_status status = w ? slf_basis_factor_small(basis, w) : SALF_E_NO_MEMORY;
        slf_free(b->context, w);
        return status;
    }
    SLF_TRY(slf_device_copy_of(b->context, b->values, (uint64_t)(b->hidden * b->hidden), sizeof(double), &gram));
    const salf_status status = slf_basis_factor(basis, gram);
    if (status != SALF_OK) slf_device_free(b->context, gram);
    return status;
}

static salf_status finish(const salf_basis_builder *b, salf_basis *basis) {
    SLF_TRY(factor_state(b, basis));
    float *w = rows_of(b, b->labels, b->n_labels);
    const salf_status status = w ? slf_basis_complete(basis, b->labels, b->n_labels, w) : SALF_E_NO_MEMORY;
    slf_free(b->context, w);
    return status;
}

static salf_status check_model(const salf_basis_builder *b, const salf_model *model) {
    if (!model && b->options.prepare != SALF_PREPARE_LABELS)
        return slf_fail(SALF_E_ARGUMENT, "salf_basis_builder_finish: prepare %d needs a model",
                        (int)b->options.prepare);
    if (model && (model->info.hidden != b->hidden || model->info.valid_vocab != b->vocab))
        return slf_fail(SALF_E_SHAPE,
                        "salf_basis_builder_finish: the model's head is [%lld][%lld], the builder's [%lld][%lld]",
                        (long long)model->info.valid_vocab, (long long)model->info.hidden, (long long)b->vocab,
                        (long long)b->hidden);
    return SALF_OK;
}

salf_status salf_basis_builder_finish(salf_basis **out, salf_basis_builder *builder, salf_model *model) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(builder);
    uint64_t fingerprint = 0;
    SLF_TRY(check_coverage(builder, &fingerprint));
    SLF_TRY(check_model(builder, model));
    salf_basis *basis;
    SLF_TRY(slf_basis_new(&basis, builder->context, model, &builder->options, builder->vocab,
                          model ? model->info.vocab : builder->vocab, builder->hidden));
    basis->info.fingerprint = fingerprint;
    salf_status status = model ? salf_basis_check(basis, model) : SALF_OK;
    if (status == SALF_OK) status = finish(builder, basis);
    if (status != SALF_OK)
        salf_basis_destroy(basis);
    else
        *out = basis;
    return status;
}
