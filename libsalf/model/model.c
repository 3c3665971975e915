/*
 * model.c - what the library must know of a language model: head and embedding [V][D] as views or callbacks, the final
 * norm, how logits are made. Matrices stay borrowed; the norm and the logit bias, which are small, are copied as
 * float32.
 */
#include "model/model.h"

#include <math.h>
#include <string.h>

/* ---- rows of a matrix ---- */

/* A quarter of the workspace: a block is used together with its conversion and a tile of products. */
int64_t slf_block_rows(const salf_context *context, int64_t cols) {
    const uint64_t bytes = (uint64_t)(cols > 0 ? cols : 1) * sizeof(float);
    const uint64_t rows = context->options.workspace_limit / 4 / bytes;
    if (rows < 1) return 1;
    return rows < (uint64_t)INT32_MAX ? (int64_t)rows : INT32_MAX;
}

static salf_status rows_by_callback(const slf_matrix *matrix, int64_t first, int64_t count, float *out) {
    const int32_t result = matrix->rows(matrix->user, first, count, out);
    if (result == 0) return SALF_OK;
    return slf_fail(SALF_E_CALLBACK, "the callback for rows %lld ... %lld returned %d", (long long)first,
                    (long long)(first + count - 1), (int)result);
}

salf_status slf_matrix_block(const slf_matrix *matrix, int64_t first, int64_t count, float *buffer,
                             salf_tensor *block) {
    if (!matrix->view.data) {
        SLF_TRY(rows_by_callback(matrix, first, count, buffer));
        *block = slf_tensor_host(buffer, SALF_F32, count, matrix->n_cols);
        return SALF_OK;
    }
    const int64_t stride = matrix->view.row_stride ? matrix->view.row_stride : matrix->n_cols;
    *block = matrix->view;
    block->rows = count;
    if (block->row_index)
        block->row_index += first;
    else
        block->data = (char *)block->data + first * stride * slf_dtype_size(block->dtype);
    return SALF_OK;
}

salf_status slf_matrix_row(const slf_matrix *matrix, int64_t row, float *out) {
    if (!matrix->view.data) return rows_by_callback(matrix, row, 1, out);
    slf_row_to_f32(&matrix->view, row, out);
    return SALF_OK;
}

/* ---- checks of a description ---- */

static salf_status check_sizes(const salf_model_options *o) {
    if (o->n_layers < 1 || o->n_layers > 65535)
        return slf_fail(SALF_E_ARGUMENT, "salf_model_create: n_layers is %d, not in 1 ... 65535", (int)o->n_layers);
    if (o->hidden < 1 || o->hidden > (int64_t)1 << 24)
        return slf_fail(SALF_E_ARGUMENT, "salf_model_create: hidden is %lld, not in 1 ... 2^24", (long long)o->hidden);
    if (o->vocab < 1 || o->vocab > INT32_MAX)
        return slf_fail(SALF_E_ARGUMENT, "salf_model_create: vocab is %lld, not in 1 ... 2^31-1", (long long)o->vocab);
    return SALF_OK;
}

static salf_status check_numbers(const salf_model_options *o, int64_t vocab) {
    if (o->valid_vocab < 0 || o->valid_vocab > vocab)
        return slf_fail(SALF_E_ARGUMENT, "valid_vocab is %lld, not in 0 ... vocab = %lld", (long long)o->valid_vocab,
                        (long long)vocab);
    if (!isfinite(o->norm_eps) || o->norm_eps < 0)
        return slf_fail(SALF_E_ARGUMENT, "norm_eps is %g; 0 or a positive number is needed", o->norm_eps);
    if (!isfinite(o->logit_scale)) return slf_fail(SALF_E_ARGUMENT, "logit_scale is %g", o->logit_scale);
    if (!isfinite(o->logit_softcap) || o->logit_softcap < 0)
        return slf_fail(SALF_E_ARGUMENT, "logit_softcap is %g; 0 or a positive number is needed", o->logit_softcap);
    return SALF_OK;
}

static salf_status take_matrix(slf_matrix *matrix, const salf_context *context, const salf_tensor *view,
                               salf_rows_fn rows, void *user, const char *name, const salf_model_options *o) {
    const bool device_ok = context->backend->capabilities & SLF_CAN_DEVICE;
    *matrix = (slf_matrix){.n_rows = o->vocab, .n_cols = o->hidden};
    if (view->data && rows)
        return slf_fail(SALF_E_ARGUMENT, "salf_model_create: %s is given as a view and as a callback", name);
    if (view->data) SLF_TRY(slf_tensor_check(view, name, o->vocab, o->hidden, device_ok));
    matrix->view = *view;
    matrix->rows = rows;
    matrix->user = user;
    return SALF_OK;
}

salf_status slf_model_copy_vector(const salf_context *context, const salf_tensor *view, int64_t n, const char *name,
                                  float **out) {
    if (!view->data) return SALF_OK;
    SLF_TRY(slf_tensor_check(view, name, 1, n, false));
    float *copy = slf_alloc(context, (uint64_t)n, sizeof *copy);
    if (!copy) return SALF_E_NO_MEMORY;
    slf_row_to_f32(view, 0, copy);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(copy[i])) {
            slf_free(context, copy);
            return slf_fail(SALF_E_NONFINITE, "%s: element %lld is not finite", name, (long long)i);
        }
    *out = copy;
    return SALF_OK;
}

salf_status slf_model_take_norm(salf_model *model, int32_t kind, const salf_tensor *weight, const salf_tensor *bias) {
    const int64_t dim = model->info.hidden;
    if (kind < SALF_NORM_NONE || kind > SALF_NORM_RMS1P)
        return slf_fail(SALF_E_ARGUMENT, "norm_kind is %d, none of SALF_NORM_*", (int)kind);
    if (weight->data && kind == SALF_NORM_NONE)
        return slf_fail(SALF_E_ARGUMENT, "norm_weight is given, but norm_kind is SALF_NORM_NONE");
    if (bias->data && kind != SALF_NORM_LAYER)
        return slf_fail(SALF_E_ARGUMENT, "norm_bias is given, but norm_kind is %d, not SALF_NORM_LAYER", (int)kind);
    SLF_TRY(slf_model_copy_vector(model->context, weight, dim, "norm_weight", &model->norm_weight));
    SLF_TRY(slf_model_copy_vector(model->context, bias, dim, "norm_bias", &model->norm_bias));
    if (kind == SALF_NORM_RMS1P)
        for (int64_t i = 0; model->norm_weight && i < dim; i++) model->norm_weight[i] += 1;
    model->info.norm_kind = kind;
    return SALF_OK;
}

/* One matrix serves as both: whichever is given. */
void slf_model_tie(salf_model *model) {
    if (!model->info.tied) return;
    if (slf_matrix_is_empty(&model->head)) model->head = model->embedding;
    model->embedding = model->head;
}

static salf_status take_matrices(salf_model *model, const salf_model_options *o) {
    const salf_context *context = model->context;
    SLF_TRY(take_matrix(&model->head, context, &o->head, o->head_rows, o->head_rows_user, "head", o));
    SLF_TRY(take_matrix(&model->embedding, context, &o->embedding, o->embedding_rows, o->embedding_rows_user,
                        "embedding", o));
    if (o->tied != 0 && o->tied != 1) return slf_fail(SALF_E_ARGUMENT, "salf_model_create: tied is %d", (int)o->tied);
    if (slf_matrix_is_empty(&model->head) && slf_matrix_is_empty(&model->embedding))
        return slf_fail(SALF_E_NULL, "salf_model_create: neither head nor embedding is given");
    slf_model_tie(model);
    return SALF_OK;
}

/* ---- life ---- */

salf_status slf_model_new(salf_model **out, salf_context *context) {
    salf_model *model = slf_alloc_zero(context, 1, sizeof *model);
    if (!model) return SALF_E_NO_MEMORY;
    atomic_init(&model->references, 1);
    model->context = slf_context_retain(context);
    *out = model;
    return SALF_OK;
}

salf_model *slf_model_retain(salf_model *model) {
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
    return model;
}

void salf_model_destroy(salf_model *model) {
    if (!model || atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1) return;
    salf_context *context = model->context;
    slf_free(context, model->norm_weight);
    slf_free(context, model->norm_bias);
    slf_free(context, model->logit_bias);
    salf_tensors_destroy(model->tensors);
    slf_free(context, model);
    slf_context_release(context);
}

salf_status slf_model_take_numbers(salf_model *model, const salf_model_options *o) {
    SLF_TRY(check_numbers(o, model->info.vocab));
    if (o->valid_vocab > 0) model->info.valid_vocab = o->valid_vocab;
    if (o->norm_eps > 0) model->info.norm_eps = o->norm_eps;
    if (o->logit_scale != 0) model->info.logit_scale = o->logit_scale;
    if (o->logit_softcap > 0) model->info.logit_softcap = o->logit_softcap;
    model->info.head_dtype = slf_matrix_is_empty(&model->head) || !model->head.view.data ? 0 : model->head.view.dtype;
    return SALF_OK;
}

static salf_status describe(salf_model *model, const salf_model_options *o) {
    model->info = (salf_model_info){.struct_size = sizeof model->info,
                                    .n_layers = o->n_layers,
                                    .tied = o->tied,
                                    .hidden = o->hidden,
                                    .vocab = o->vocab,
                                    .valid_vocab = o->vocab,
                                    .norm_eps = 1e-5,
                                    .logit_scale = 1,
                                    .embedding_scale = 1,
                                    .bos_token = -1,
                                    .eos_token = -1};
    SLF_TRY(take_matrices(model, o));
    SLF_TRY(slf_model_take_norm(model, o->norm_kind, &o->norm_weight, &o->norm_bias));
    SLF_TRY(slf_model_copy_vector(model->context, &o->logit_bias, o->vocab, "logit_bias", &model->logit_bias));
    return slf_model_take_numbers(model, o);
}

salf_status salf_model_create(salf_model **out, salf_context *context, const salf_model_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    SLF_REQUIRE(options);
    salf_model_options own;
    SLF_TRY(slf_options_read(&own, sizeof own, options, "salf_model_options"));
    SLF_TRY(check_sizes(&own));
    salf_model *model;
    SLF_TRY(slf_model_new(&model, context));
    const salf_status status = describe(model, &own);
    if (status != SALF_OK)
        salf_model_destroy(model);
    else
        *out = model;
    return status;
}

/* ---- queries ---- */

salf_status salf_model_get_info(const salf_model *model, salf_model_info *info) {
    SLF_REQUIRE(model);
    SLF_REQUIRE(info);
    return slf_info_write(info, &model->info, sizeof model->info, "salf_model_info");
}

const salf_tensors *salf_model_get_tensors(const salf_model *model) {
    return model ? model->tensors : NULL;
}

static salf_status scan_blocks(const salf_model *model, const slf_matrix *matrix, float *buffer, int64_t rows,
                               uint64_t *hash) {
    const slf_backend *backend = model->context->backend;
    const int64_t valid = model->info.valid_vocab;
    for (int64_t first = 0; first < valid; first += rows) {
        salf_tensor block;
        int64_t bad_row;
        SLF_TRY(slf_matrix_block(matrix, first, valid - first < rows ? valid - first : rows, buffer, &block));
        const slf_scan_job job = {.rows = &block, .first_row = first, .hash = hash, .bad_row = &bad_row};
        SLF_TRY(backend->scan(model->context->impl, &job));
    }
    return SALF_OK;
}

salf_status salf_model_fingerprint(const salf_model *model, uint64_t *fingerprint) {
    SLF_REQUIRE(model);
    SLF_REQUIRE(fingerprint);
    const slf_matrix *matrix = slf_matrix_is_empty(&model->head) ? &model->embedding : &model->head;
    const int64_t rows = slf_block_rows(model->context, model->info.hidden);
    float *buffer = NULL;
    if (!matrix->view.data) {
        const int64_t most = rows < model->info.valid_vocab ? rows : model->info.valid_vocab;
        buffer = slf_alloc(model->context, (uint64_t)most * (uint64_t)model->info.hidden, sizeof *buffer);
        if (!buffer) return SALF_E_NO_MEMORY;
    }
    uint64_t hash = 0;
    const salf_status status = scan_blocks(model, matrix, buffer, rows, &hash);
    slf_free(model->context, buffer);
    if (status == SALF_OK) *fingerprint = hash;
    return status;
}
