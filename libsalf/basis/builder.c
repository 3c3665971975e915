/*
 * builder.c - an output-side basis from row blocks of the head in any order, on any number of ranks.
 *
 * What was added so far is one vector of doubles that adds up over builders:
 *   Gram matrix [D][D] (upper triangle), rows of the labels [n][D] (zeros until they pass), number of rows seen,
 * checksum of their ids [4], fingerprint [4], number of builders, configuration [4]. Checksum, fingerprint and
 * configuration are sums modulo 2^64 in four parts of 16 bits, each part summed exactly. The checksum makes a row show
 * that was added twice in place of another one; a configuration that is not as many times the builder's own shows that
 * others were added for other labels, whose rows mean other tokens, or with other options. Cost of a block: rows *
 * D^2 multiply-adds halved, and D^2 additions. For V < D the rows of all tokens are kept in the labels' place, since
 * the Gram matrix alone resolves less there.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "basis/basis.h"
#include "core/fingerprint.h"
#include "core/ranks.h"

/* The end of the vector. */
enum { PARTS = 4 }; /* of a 64-bit sum */
typedef struct {
    double rows, ids[PARTS], fingerprint[PARTS], builders, configuration[PARTS];
} sums_seen;
enum { TRAILER = sizeof(sums_seen) / sizeof(double) };

struct salf_basis_builder {
    salf_context *context;
    salf_basis_options options;
    int64_t vocab;
    int64_t hidden;
    int32_t *labels; /* [n_labels] ascending */
    int64_t n_labels;
    int32_t *kept; /* [n_kept] ascending: labels, or all tokens for V < D */
    int64_t n_kept;
    int64_t count;          /* doubles in values: D^2 + n_kept D + TRAILER */
    uint64_t configuration; /* hash of what builders whose sums are added must have in common */
    double *values;         /* host: what was added so far */
    double *gram;           /* backend [D][D], of the block at hand; also scratch */
    double *row;            /* host [D] */
};

/* Where row number i of the kept ones is summed, [D]: zeros until its block passes, on the one rank that has it. */
static double *kept_row(const salf_basis_builder *builder, int64_t i) {
    return builder->values + builder->hidden * (builder->hidden + i);
}

static sums_seen *seen_by(const salf_basis_builder *builder) {
    return (sums_seen *)(builder->values + builder->count - TRAILER);
}

/* ---- 64-bit sums in doubles ---- */

/* Each part grows by less than 2^16 an addition: exact for 2^37 rows. */
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

/* What two builders have to share for their sums to mean anything together, and bases made of them to be the same. */
static void list_builder_fields(const salf_basis_builder *builder, slf_agreement *a) {
    const salf_basis_options *o = &builder->options;
    slf_agreement_add(a, "vocab of the builders", (uint64_t)builder->vocab);
    slf_agreement_add(a, "hidden of the builders", (uint64_t)builder->hidden);
    slf_agreement_add(a, "how many different labels the builders have", (uint64_t)builder->n_labels);
    slf_agreement_add_array(a, "labels of the builders (hash)", builder->labels,
                            (uint64_t)builder->n_labels * sizeof *builder->labels);
    slf_agreement_add(a, "mode of the basis", (uint64_t)o->mode);
    slf_agreement_add(a, "prepare of the basis", (uint64_t)o->prepare);
    slf_agreement_add(a, "rtol (bits)", slf_bits_of(o->rtol));
    slf_agreement_add(a, "ridge (bits)", slf_bits_of(o->ridge));
}

/* ---- life ---- */

/* Memory is D^2 doubles on both sides and D for each kept row, whatever the size of the head. */
salf_status salf_basis_builder_create(salf_basis_builder **out, salf_context *context, int64_t vocab, int64_t hidden,
                                      const int32_t *labels, int64_t n_labels, const salf_basis_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(context);
    salf_basis_options own;
    SLF_TRY(slf_basis_read_options(&own, options, vocab, hidden));
    /* Nothing is to be summed for it. */
    if (own.side == SALF_SIDE_INPUT)
        return SLF_FAIL(SALF_E_ARGUMENT, "the input side needs no builder: its rows are the basis");
    const bool all = slf_basis_is_small(&own, vocab, hidden);
    salf_basis_builder *builder;
    salf_status status;
    SLF_TRY(SLF_ALLOC_ZERO(context, builder, 1));
    builder->context = SLF_RETAIN(context);
    builder->options = own;
    builder->vocab = vocab;
    builder->hidden = hidden;
    SLF_DO(slf_labels_unique(context, labels, n_labels, vocab, vocab, &builder->labels, &builder->n_labels));
    builder->n_kept = all ? vocab : builder->n_labels;
    SLF_DO(SLF_ALLOC(context, builder->kept, builder->n_kept));
    for (int64_t i = 0; i < builder->n_kept; i++) builder->kept[i] = all ? (int32_t)i : builder->labels[i];
    /* One vector, so that ranks exchange everything with one sum. */
    builder->count = hidden * hidden + builder->n_kept * hidden + TRAILER;
    SLF_DO(SLF_ALLOC_ZERO(context, builder->values, builder->count));
    SLF_DO(SLF_ALLOC(context, builder->row, hidden));
    SLF_DO(SLF_DEVICE_ALLOC(context, builder->gram, hidden * hidden));
    slf_agreement fields = {0};
    list_builder_fields(builder, &fields);
    for (int32_t i = 0; i < fields.n; i++)
        builder->configuration = slf_hash_mix(builder->configuration ^ fields.fields[i].value);
    seen_by(builder)->builders = 1;
    add_parts(seen_by(builder)->configuration, builder->configuration);
    *out = builder;
    return SALF_OK;
done:
    salf_basis_builder_destroy(builder);
    return status;
}

/* Also of one that is half made. */
void salf_basis_builder_destroy(salf_basis_builder *builder) {
    if (!builder) return;
    salf_context *context = builder->context;
    SLF_FREE(context, builder->labels, builder->kept, builder->values, builder->row);
    slf_device_free(context, builder->gram);
    slf_free(context, builder);
    salf_context_destroy(context);
}

/* ---- adding ---- */

/* Everything that can be wrong with the rows shows before the values change, and so does the host's wish to end. After
 * a failure of the device they are in between, and the builder is lost; finish then refuses it, since the rows do not
 * count as seen. */
salf_status salf_basis_builder_add(salf_basis_builder *builder, int64_t first, const salf_tensor *rows) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(builder, rows);
    const salf_context *context = builder->context;
    const int64_t dim = builder->hidden;
    SLF_TRY(slf_tensor_check(rows, "rows", -1, dim, slf_device_readable(context)));
    if (first < 0 || first > builder->vocab || rows->rows > builder->vocab - first)
        return SLF_FAIL(SALF_E_SHAPE, "%" PRId64 " rows from %" PRId64 " on are outside the vocabulary of %" PRId64,
                        rows->rows, first, builder->vocab);
    if (rows->rows == 0) return SALF_OK;
    /* 1. the block's Gram matrix (backend), hash, and whether it is finite */
    uint64_t hash = 0;
    int64_t bad_row = -1;
    const slf_scan_job job = {.rows = rows,
                              .first_row = first,
                              .gram = builder->gram,
                              .hash = &hash,
                              .bad_row = &bad_row,
                              .total = builder->vocab};
    SLF_TRY(slf_zero_doubles(context, builder->gram, (uint64_t)(dim * dim)));
    SLF_TRY(context->backend->scan(context->impl, &job));
    if (bad_row >= 0) return SLF_FAIL(SALF_E_NONFINITE, "row %" PRId64 " holds NaN or infinity", first + bad_row);
    /* 2. the Gram matrix into the values, a row at a time, since a second [D][D] on the host would be large */
    for (int64_t i = 0; i < dim; i++) {
        const uint64_t bytes = (uint64_t)(dim - i) * sizeof *builder->row;
        SLF_TRY(slf_download(context, builder->row + i, builder->gram + i * dim + i, bytes));
        for (int64_t j = i; j < dim; j++) builder->values[i * dim + j] += builder->row[j];
    }
    /* 3. the rows to be kept, by way of the backend, which reads every type in every memory; gram is scratch now */
    for (int64_t i = 0; i < builder->n_kept; i++) {
        const int64_t r = builder->kept[i] - first;
        if (r < 0 || r >= rows->rows) continue;
        const salf_tensor row = slf_tensor_slice(rows, r, 1);
        SLF_TRY(slf_rows_to_host(context, &row, builder->gram, builder->row));
        double *out = kept_row(builder, i);
        for (int64_t j = 0; j < dim; j++) out[j] += builder->row[j];
    }
    /* 4. what was seen, last: rows that did not get this far do not count */
    sums_seen *seen = seen_by(builder);
    seen->rows += (double)rows->rows;
    for (int64_t r = first; r < first + rows->rows; r++) add_parts(seen->ids, slf_rows_checksum(r, r + 1));
    add_parts(seen->fingerprint, hash);
    return SALF_OK;
}

/* ---- partial sums: what ranks or processes exchange ---- */

/* Borrowed, not a copy: a host sends the numbers to another process, or adds those of another to them, one by one. All
 * are sums, the counts included. */
salf_status salf_basis_builder_partial(salf_basis_builder *builder, double **values, int64_t *count) {
    SLF_REQUIRE(builder, values, count);
    *values = builder->values;
    *count = builder->count;
    return SALF_OK;
}

/* Builders of threads or of parts of a head. Their labels must be equal: places in the vector follow from them. */
salf_status salf_basis_builder_merge(salf_basis_builder *builder, const salf_basis_builder *other) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(builder, other);
    if (builder == other) return SLF_FAIL(SALF_E_ARGUMENT, "a builder cannot be merged with itself");
    if (builder->vocab != other->vocab || builder->hidden != other->hidden)
        return SLF_FAIL(SALF_E_SHAPE, "[%" PRId64 "][%" PRId64 "] and [%" PRId64 "][%" PRId64 "]", builder->vocab,
                        builder->hidden, other->vocab, other->hidden);
    if (builder->n_kept != other->n_kept ||
        (builder->n_kept > 0 &&
         memcmp(builder->kept, other->kept, (size_t)builder->n_kept * sizeof *builder->kept) != 0))
        return SLF_FAIL(SALF_E_MISMATCH, "the labels differ (%" PRId64 " and %" PRId64 " rows kept)", builder->n_kept,
                        other->n_kept);
    /* In float64, so that the order in which blocks and ranks come shows in the last bits of the Gram matrix only. */
    for (int64_t i = 0; i < builder->count; i++) builder->values[i] += other->values[i];
    return SALF_OK;
}

/* Every rank has the sums of all afterwards, and makes the same basis of them; D^2 + n D + 14 doubles are exchanged,
 * n: labels or, for V < D, tokens. */
salf_status salf_basis_builder_all_reduce(salf_basis_builder *builder) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(builder);
    slf_agreement agreement = {.meeting = SLF_MEET_salf_basis_builder_all_reduce};
    list_builder_fields(builder, &agreement);
    SLF_TRY(slf_agree(builder->context, SALF_OK, &agreement));
    return slf_all_reduce(builder->context, builder->values, builder->count, SALF_F64, SALF_ALL_REDUCE_SUM);
}

/* ---- finishing ---- */

/* The kept rows of ascending labels as float32 [n][D], exactly: sums of one row and zeros. The labels are among the
 * kept. NULL without memory. */
static float *copy_kept_rows(const salf_basis_builder *builder, const int32_t *labels, int64_t n) {
    float *w = slf_alloc(builder->context, (uint64_t)(n * builder->hidden), sizeof *w);
    for (int64_t i = 0; w && i < n; i++) {
        const double *row = kept_row(builder, slf_label_find(builder->kept, builder->n_kept, labels[i]));
        for (int64_t j = 0; j < builder->hidden; j++) w[i * builder->hidden + j] = (float)row[j];
    }
    return w;
}

/* Whether every row was added once, on builders of one kind, and the fingerprint. Doubles hold counts exactly up to
 * 2^53. */
static salf_status check_sums(const salf_basis_builder *builder, uint64_t *fingerprint) {
    const sums_seen *seen = seen_by(builder);
    uint64_t ids;
    double own[PARTS] = {0};
    add_parts(own, builder->configuration);
    for (int i = 0; i < PARTS; i++)
        if (!(seen->builders >= 1) || seen->configuration[i] != seen->builders * own[i])
            return slf_fail(SALF_E_MISMATCH,
                            "the partial sums are of %g builders, and not all had the labels and options of this one",
                            seen->builders);
    if (seen->rows != (double)builder->vocab)
        return slf_fail(SALF_E_SEQUENCE, "%.0f rows of %" PRId64 " were added to the builder", seen->rows,
                        builder->vocab);
    if (!join_parts(seen->ids, &ids) || ids != slf_rows_checksum(0, builder->vocab))
        return slf_fail(SALF_E_SEQUENCE, "%.0f rows of %" PRId64 " were added, but some twice and some not at all",
                        seen->rows, builder->vocab);
    if (!join_parts(seen->fingerprint, fingerprint))
        return slf_fail(SALF_E_CORRUPT, "the partial sums hold %g where a count must be", seen->fingerprint[0]);
    return SALF_OK;
}

/* The builder stays as it is: more may be added, or a second basis made of it. Every row must have been added once:
 * there are as many as rows, and the checksum is right. A row that was added twice while another is missing gets by
 * with probability 2^-64. */
salf_status salf_basis_builder_finish(salf_basis **out, salf_basis_builder *builder, salf_model *model) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(builder);
    const salf_context *context = builder->context;
    const int64_t vocab = builder->vocab, dim = builder->hidden;
    /* 1. what was added, and whether a basis can come of it */
    uint64_t fingerprint = 0; /* compilers do not see that check_sums sets it */
    SLF_TRY(check_sums(builder, &fingerprint));
    if (!model && builder->options.prepare != SALF_PREPARE_LABELS)
        return SLF_FAIL(SALF_E_ARGUMENT, "prepare %" PRId32 " needs a model", builder->options.prepare);
    if (model && (model->info.hidden != dim || model->info.valid_vocab != vocab))
        return SLF_FAIL(SALF_E_SHAPE,
                        "the model's head is [%" PRId64 "][%" PRId64 "], the builder's [%" PRId64 "][%" PRId64 "]",
                        model->info.valid_vocab, model->info.hidden, vocab, dim);
    salf_basis *basis = NULL;
    double *gram = NULL;          /* backend [D][D] */
    float *all = NULL, *w = NULL; /* host: all rows [V][D], those of the labels [n][D] */
    salf_status status;
    SLF_DO(slf_basis_new(&basis, builder->context, model, &builder->options, vocab, model ? model->info.vocab : vocab,
                         dim));
    basis->info.fingerprint = fingerprint;
    if (model) SLF_DO(salf_basis_check(basis, model));
    /* 2. P from the sums */
    if (slf_basis_is_small(&builder->options, vocab, dim)) {
        SLF_DO((all = copy_kept_rows(builder, builder->kept, builder->n_kept)) ? SALF_OK : SALF_E_NO_MEMORY);
        SLF_DO(slf_basis_factor_small(basis, all));
    } else {
        SLF_DO(SLF_DEVICE_COPY_OF(context, gram, builder->values, dim * dim));
        SLF_DO(slf_basis_factor(basis, gram));
        gram = NULL; /* it is P now, and the basis's */
    }
    /* 3. rows of the labels */
    SLF_DO((w = copy_kept_rows(builder, builder->labels, builder->n_labels)) ? SALF_OK : SALF_E_NO_MEMORY);
    SLF_DO(slf_basis_complete(basis, builder->labels, builder->n_labels, w));
    if (basis->shard) { /* other ranks have most of them */
        basis->label_rows = w;
        w = NULL;
    }
    *out = basis;
    basis = NULL;
done:
    SLF_FREE(context, w, all);
    slf_device_free(context, gram);
    salf_basis_destroy(basis);
    return status;
}
