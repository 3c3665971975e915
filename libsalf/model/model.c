/*
 * model.c - what the library must know of a language model: head and embedding [V][D] as views or callbacks, the final
 * norm, how logits are made. Matrices stay borrowed; the norm and the logit bias, which are small, are copied as
 * float32.
 *
 * A model is immutable but for salf_model_update, so that bases and probes of several threads may share it. A host that
 * trains a borrowed head changes what later calls read (salf_basis_check tells); one that trains the final norm or the
 * bias says so, and probes follow.
 */
#include "model/model.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/dtypes.h"

/* ---- making a model ---- */

salf_status slf_model_new(salf_model **out, salf_context *context) {
    salf_model *model;
    SLF_TRY(SLF_ALLOC_ZERO(context, model, 1));
    atomic_init(&model->references, 1);
    model->context = SLF_RETAIN(context);
    *out = model;
    return SALF_OK;
}

/* One matrix under both names. Whichever is there serves for both; where both are given the head is taken, since it is
 * what states are scored against. */
void slf_model_tie(salf_model *model) {
    if (!model->info.tied) return;
    if (slf_matrix_is_empty(&model->head)) model->head = model->embedding;
    model->embedding = model->head;
}

/* Copies a vector [1][n] as float32; data NULL: leaves *out. */
static salf_status copy_vector(const salf_context *context, const salf_tensor *view, int64_t n, const char *name,
                               float **out) {
    if (!view->data) return SALF_OK;
    SLF_TRY(slf_tensor_check(view, name, 1, n, false));
    float *copy;
    SLF_TRY(SLF_ALLOC(context, copy, n));
    slf_row_to_f32(view, 0, copy);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(copy[i])) {
            slf_free(context, copy);
            return slf_fail(SALF_E_NONFINITE, "%s: element %" PRId64 " is not finite", name, i);
        }
    *out = copy;
    return SALF_OK;
}

/* RMS1P (Gemma) stores weight - 1: it is added here once, so that backends know two kinds only. */
salf_status slf_model_set_norm(salf_model *model, int32_t kind, const salf_tensor *weight, const salf_tensor *bias) {
    const int64_t dim = model->info.hidden;
    SLF_TRY(slf_check_word("norm_kind", "SALF_NORM", kind));
    if (weight->data && kind == SALF_NORM_NONE)
        return slf_fail(SALF_E_ARGUMENT, "norm_weight is given, but norm_kind is SALF_NORM_NONE");
    if (bias->data && kind != SALF_NORM_LAYER)
        return slf_fail(SALF_E_ARGUMENT, "norm_bias is given, but norm_kind is %d, not SALF_NORM_LAYER", (int)kind);
    SLF_TRY(copy_vector(model->context, weight, dim, "norm_weight", &model->norm_weight));
    SLF_TRY(copy_vector(model->context, bias, dim, "norm_bias", &model->norm_bias));
    if (kind == SALF_NORM_RMS1P)
        for (int64_t i = 0; model->norm_weight && i < dim; i++) model->norm_weight[i] += 1;
    model->info.norm_kind = kind;
    return SALF_OK;
}

/* One number a row of the head, [V]: it is added to the logits before they are capped, and basis scores leave it
 * out. */
salf_status slf_model_set_logit_bias(salf_model *model, const salf_tensor *bias) {
    return copy_vector(model->context, bias, model->info.vocab, "logit_bias", &model->logit_bias);
}

/* Rows of a matrix that lies transposed, [D][V]: a callback of our own. Each of the D rows has a piece of all that are
 * asked for next to each other. */
static int32_t gather_rows(void *user, int64_t first, int64_t count, float *out) {
    const salf_tensor *columns = user;
    for (int64_t k = 0; k < columns->rows; k++) {
        const void *row = slf_tensor_row(columns, k);
        for (int64_t i = 0; i < count; i++)
            out[i * columns->rows + k] = slf_float_element(row, columns->dtype, first + i);
    }
    return 0;
}

/* In the options 0 means "as it is": as the checkpoint has it, or the default. */
salf_status slf_model_set_numbers(salf_model *model, const salf_model_options *o) {
    salf_model_info *info = &model->info;
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(o, valid_vocab, 0, info->vocab)));
    if (o->valid_vocab > 0) {
        info->valid_vocab = o->valid_vocab;
        info->vocab_from = SALF_VOCAB_OPTION;
    }
    /* Logits are cap(scale w . h + bias) with cap(x) = softcap tanh(x / softcap), and softcap 0 caps nothing. So a cap
     * that a checkpoint has cannot be switched off here: 0 leaves it as it is. */
    if (o->norm_eps != 0) info->norm_eps = o->norm_eps;
    if (o->logit_scale != 0) info->logit_scale = o->logit_scale;
    if (o->logit_softcap != 0) info->logit_softcap = o->logit_softcap;
    if (!(info->logit_softcap >= 0) || isinf(info->logit_softcap))
        return slf_fail(SALF_E_ARGUMENT, "logit_softcap is %g; 0 or a positive number is needed", info->logit_softcap);
    /* Norms add eps in float32; and logits, which are products of two float32 numbers times the scale, divided by a
     * temperature, stay within float64 and keep their digits there. Beyond, ranks would be of infinities or zeros. */
    if (info->norm_eps != 0 && !(info->norm_eps >= 1e-37 && info->norm_eps <= 1e30))
        return slf_fail(SALF_E_ARGUMENT, "norm_eps is %g, neither 0 nor in 1e-37 ... 1e30", info->norm_eps);
    const double size = fabs(info->logit_scale);
    if (!(size >= 1e-100 && size <= 1e100))
        return slf_fail(SALF_E_ARGUMENT, "logit_scale is %g; its size has to be in 1e-100 ... 1e100",
                        info->logit_scale);
    /* For the host to know. Rows that a callback makes are float32 in any case, and have no type of their own. */
    info->head_dtype = model->head.view.data ? model->head.view.dtype : 0;
    if (model->head.rows == gather_rows) info->head_dtype = ((const salf_tensor *)model->head.user)->dtype;
    return SALF_OK;
}

/* ---- a described model ---- */

/* A view stays the host's memory, a callback the host's function: neither is copied, and both must outlive the model. A
 * callback's rows are not looked at here, a view's shape and addresses are. A stride below the columns would read
 * numbers of the next row as this one's: whoever gives one means a transposed matrix. columns: NULL, or where the view
 * of such a one is kept. */
static salf_status describe_matrix(slf_matrix *matrix, const salf_model *model, const salf_tensor *view,
                                   salf_rows_fn rows, void *user, salf_tensor *columns, const char *name) {
    const bool device_ok = slf_device_readable(model->context);
    const int64_t dim = model->info.hidden, vocab = slf_matrix_is_shard(matrix) ? matrix->held : model->info.vocab;
    matrix->view = *view;
    matrix->rows = rows;
    matrix->user = user;
    matrix->n_rows = model->info.vocab;
    matrix->n_cols = dim;
    if (!view->data && columns) return slf_fail(SALF_E_ARGUMENT, "%s_transposed is 1, but %s is no view", name, name);
    if (columns && slf_matrix_is_shard(matrix))
        return slf_fail(SALF_E_UNSUPPORTED, "%s is a shard and transposed; give it by rows", name);
    if (!view->data) return SALF_OK;
    if (rows) return slf_fail(SALF_E_ARGUMENT, "%s is given as a view and as a callback", name);
    if (columns && (view->memory == SALF_MEMORY_DEVICE || view->index_memory == SALF_MEMORY_DEVICE))
        return slf_fail(SALF_E_UNSUPPORTED, "%s is transposed and in device memory; give it by rows there", name);
    SLF_TRY(slf_tensor_check(view, name, columns ? dim : vocab, columns ? vocab : dim, device_ok));
    const int64_t stride = view->row_stride;
    if (view->row_index && stride != 0 && stride < view->cols && -stride < view->cols)
        return slf_fail(SALF_E_SHAPE, "%s: row stride %" PRId64 " is less than its %" PRId64 " columns", name, stride,
                        view->cols);
    if (!columns) return SALF_OK;
    *columns = *view;
    matrix->view = (salf_tensor){0};
    matrix->rows = gather_rows;
    matrix->user = columns;
    return SALF_OK;
}

/* The one struct whose fields are views: none of them may be cut in two either (options.c). */
salf_status slf_model_read_options(salf_model_options *own, const salf_model_options *theirs) {
    static const size_t views[] = {offsetof(salf_model_options, head), offsetof(salf_model_options, embedding),
                                   offsetof(salf_model_options, norm_weight), offsetof(salf_model_options, norm_bias),
                                   offsetof(salf_model_options, logit_bias)};
    SLF_TRY(slf_options_read(own, sizeof *own, theirs, "salf_model_options"));
    for (size_t i = 0; theirs && i < sizeof views / sizeof *views; i++)
        if (theirs->struct_size > views[i] && theirs->struct_size < views[i] + sizeof(salf_tensor))
            return slf_fail(SALF_E_STRUCT, "salf_model_options: struct_size is %u, which ends inside of a tensor",
                            theirs->struct_size);
    return SALF_OK;
}

/* What is set up so far goes with the model on failure: destroy frees whatever is not NULL. */
salf_status salf_model_create(salf_model **out, salf_context *context, const salf_model_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(context, options);
    salf_model_options o;
    SLF_TRY(slf_model_read_options(&o, options));
    /* 1. shape; the bounds keep every product that is made of these within 64 bits */
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(&o, n_layers, 1, 65535), SLF_RANGE(&o, hidden, 1, 1 << 24),
                             SLF_RANGE(&o, vocab, 1, INT32_MAX), SLF_RANGE(&o, tied, 0, 1),
                             SLF_RANGE(&o, head_transposed, 0, 1), SLF_RANGE(&o, embedding_transposed, 0, 1)));
    salf_model *model;
    salf_status status;
    SLF_TRY(slf_model_new(&model, context));
    /* What no option says: the eps that torch gives its norms, no factor on logits or embedding, no ids of tokens. */
    model->info = (salf_model_info){.struct_size = sizeof model->info,
                                    .n_layers = o.n_layers,
                                    .tied = o.tied,
                                    .hidden = o.hidden,
                                    .vocab = o.vocab,
                                    .valid_vocab = o.vocab,
                                    .norm_eps = 1e-5,
                                    .logit_scale = 1,
                                    .embedding_scale = 1,
                                    .bos_token = -1,
                                    .eos_token = -1,
                                    .model_type = ""};
    if (o.accept)
        SLF_DO(SLF_FAIL(SALF_E_ARGUMENT, "accept is '%s', but a described model has no configuration", o.accept));
    /* 2. head and embedding. A shard is of the head alone: nothing walks over an embedding */
    if (o.shard_rows < 0 || o.shard_first < 0 || o.shard_rows > o.vocab || o.shard_first > o.vocab - o.shard_rows ||
        (o.shard_rows == 0 && o.shard_first != 0))
        SLF_DO(SLF_FAIL(SALF_E_ARGUMENT,
                        "shard_first is %" PRId64 " and shard_rows %" PRId64 ", of a vocab of %" PRId64, o.shard_first,
                        o.shard_rows, o.vocab));
    model->head = (slf_matrix){.first = o.shard_first, .held = o.shard_rows};
    SLF_DO(describe_matrix(&model->head, model, &o.head, o.head_rows, o.head_rows_user,
                           o.head_transposed ? &model->columns[0] : NULL, "head"));
    SLF_DO(describe_matrix(&model->embedding, model, &o.embedding, o.embedding_rows, o.embedding_rows_user,
                           o.embedding_transposed ? &model->columns[1] : NULL, "embedding"));
    if (slf_matrix_is_empty(&model->head) && slf_matrix_is_empty(&model->embedding))
        SLF_DO(SLF_FAIL(SALF_E_NULL, "neither head nor embedding is given"));
    slf_model_tie(model);
    /* 3. from states to logits */
    SLF_DO(slf_model_set_norm(model, o.norm_kind, &o.norm_weight, &o.norm_bias));
    SLF_DO(slf_model_set_logit_bias(model, &o.logit_bias));
    SLF_DO(slf_model_set_numbers(model, &o));
    *out = model;
done:
    if (status != SALF_OK) salf_model_destroy(model);
    return status;
}

/* ---- following a host that trains ---- */

/* A new vector for one that is there, checked and widened; *out stays NULL where none is given. */
static salf_status read_update(const salf_model *model, const salf_tensor *view, const float *now, int64_t n,
                               const char *name, float **out) {
    if (view->data && !now) return slf_fail(SALF_E_ARGUMENT, "%s is given, but the model was made without one", name);
    return copy_vector(model->context, view, n, name, out);
}

/* The vectors keep their addresses, and what stands for 1 + weight its form: probes copy from here. All are read before
 * the first is replaced. */
salf_status salf_model_update(salf_model *model, const salf_model_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(model, options);
#define FIXED(field) \
    { #field, offsetof(salf_model_options, field), sizeof(((salf_model_options *)0)->field) }
    static const struct {
        const char *name;
        size_t offset, size;
    } fixed[] = {FIXED(n_layers),    FIXED(hidden),        FIXED(vocab),           FIXED(valid_vocab),
                 FIXED(head),        FIXED(embedding),     FIXED(head_rows),       FIXED(embedding_rows),
                 FIXED(tied),        FIXED(norm_kind),     FIXED(norm_eps),        FIXED(logit_scale),
                 FIXED(accept),      FIXED(logit_softcap), FIXED(head_transposed), FIXED(embedding_transposed),
                 FIXED(shard_first), FIXED(shard_rows)};
#undef FIXED
    const int64_t dim = model->info.hidden, vocab = model->info.vocab;
    salf_model_options o;
    float *weight = NULL, *norm_bias = NULL, *bias = NULL;
    salf_status status;
    SLF_TRY(slf_model_read_options(&o, options));
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        for (size_t k = 0; k < fixed[i].size; k++)
            if (((const char *)&o)[fixed[i].offset + k] != 0)
                return SLF_FAIL(SALF_E_ARGUMENT,
                                "%s is set; norm_weight, norm_bias and logit_bias can be replaced, nothing else",
                                fixed[i].name);
    SLF_DO(read_update(model, &o.norm_weight, model->norm_weight, dim, "norm_weight", &weight));
    SLF_DO(read_update(model, &o.norm_bias, model->norm_bias, dim, "norm_bias", &norm_bias));
    SLF_DO(read_update(model, &o.logit_bias, model->logit_bias, vocab, "logit_bias", &bias));
    /* A weight that was stored less 1 (slf_model_set_norm) comes in that form again, whoever trained it. */
    const float plus = model->info.norm_kind == SALF_NORM_RMS1P ? 1 : 0;
    for (int64_t i = 0; weight && i < dim; i++) model->norm_weight[i] = weight[i] + plus;
    if (norm_bias) memcpy(model->norm_bias, norm_bias, (size_t)dim * sizeof *norm_bias);
    if (bias) memcpy(model->logit_bias, bias, (size_t)vocab * sizeof *bias);
    /* Probes compare it with the version that they have copied, and copy again where it is another. */
    model->version++;
done:
    SLF_FREE(model->context, weight, norm_bias, bias);
    return status;
}

/* The context goes last: the memory of everything else is given back through its hooks. */
void salf_model_destroy(salf_model *model) {
    if (!model || !SLF_RELEASED(model)) return;
    salf_context *context = model->context;
    SLF_FREE(context, model->norm_weight, model->norm_bias, model->logit_bias, model->scaled[0].scales,
             model->scaled[1].scales, model->sliding, model->unsupported, model->prefix);
    salf_tensors_destroy(model->tensors);
    slf_free(context, model);
    salf_context_destroy(context);
}

/* ---- queries ---- */

salf_status salf_model_get_info(const salf_model *model, salf_model_info *info) {
    SLF_REQUIRE(model, info);
    return slf_info_write(info, &model->info, sizeof model->info, "salf_model_info");
}

salf_status salf_model_get_decoder(const salf_model *model, salf_decoder_info *info) {
    SLF_REQUIRE(model, info);
    if (!model->tensors)
        return SLF_FAIL(SALF_E_UNSUPPORTED, "a described model says nothing of its layers; only a checkpoint does");
    return slf_info_write(info, &model->decoder, sizeof model->decoder, "salf_decoder_info");
}

const salf_tensors *salf_model_get_tensors(const salf_model *model) {
    return model ? model->tensors : NULL;
}

/* The sum of the rows' hashes (core/fingerprint.h). Padding does not count, so that two models that differ only in how
 * far they are padded have one fingerprint. Rows that are not finite have a hash as well. */
salf_status salf_model_fingerprint(const salf_model *model, uint64_t *fingerprint) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(model, fingerprint);
    const slf_matrix *matrix = slf_matrix_is_empty(&model->head) ? &model->embedding : &model->head;
    int64_t bad_row; /* not the question here */
    return slf_matrix_scan(model->context, matrix, model->info.valid_vocab, NULL, fingerprint, &bad_row);
}
