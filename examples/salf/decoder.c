/*
 * decoder.c - a decoder's parameters: their order in memory, their initial values or where they come from.
 *
 * All values lie in one block and all gradients in another, in the order of the parameter table. Matrices that are
 * fused (q, k, v; gate, up; the A of their adapters) are neighbours in that order. Memory: 4 bytes a parameter, 4 more
 * for each that trains.
 */
#include "decoder.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "memory.h"
#include "rng.h"

static _Thread_local char error_message[512];

const char *decoder_error(void) {
    return error_message;
}

salf_status decoder_fail(salf_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_message, sizeof error_message, format, arguments);
    va_end(arguments);
    return status;
}

salf_status decoder_fail_library(salf_status status) {
    return decoder_fail(status, "%s", salf_last_error());
}

const decoder_config *decoder_get_config(const decoder *d) {
    return &d->config;
}
const decoder_training *decoder_get_training(const decoder *d) {
    return &d->training;
}
int64_t decoder_n_parameters(const decoder *d) {
    return d->n_parameters;
}

decoder_parameter *decoder_parameter_at(decoder *d, int64_t index) {
    return index >= 0 && index < d->n_parameters ? &d->parameters[index] : NULL;
}

/* ---- the parameter table ---- */

/* What makes a parameter train. */
enum { WITH_EMBEDDING, WITH_LAYER, WITH_HEAD, WITH_LORA };

static int32_t trains(const decoder *d, int kind) {
    if (d->inference) return 0;
    switch (kind) {
    case WITH_EMBEDDING:
        return d->training.train_embedding != 0;
    case WITH_HEAD:
        return d->training.train_head != 0;
    case WITH_LORA:
        return 1;
    default:
        return d->training.lora_rank == 0;
    }
}

typedef struct table_builder {
    decoder *d;
    int32_t group;
} table_builder;

static void add(table_builder *b, int kind, int64_t rows, int64_t cols, const char *name, const char *suffix) {
    decoder *d = b->d;
    if (d->n_parameters == d->parameter_capacity) return; /* the capacity is the most a layer can have, times m */
    decoder_parameter *p = &d->parameters[d->n_parameters++];
    memset(p, 0, sizeof *p);
    if (b->group >= 0 && b->group < d->config.n_layers) {
        snprintf(p->name, sizeof p->name, "model.layers.%d.%s%s", (int)b->group, name, suffix);
    } else {
        snprintf(p->name, sizeof p->name, "%s%s", name, suffix);
    }
    p->group = b->group;
    p->trains = trains(d, kind);
    p->decays = rows > 1;
    p->rows = rows;
    p->cols = cols;
    p->count = rows * cols;
}

typedef struct part {
    int32_t site; /* SALF_MATRIX_* */
    int64_t out;
    const char *name;
} part;

static int32_t has_adapter(const table_builder *b, int32_t site) {
    return b->d->training.lora_rank > 0 && (b->d->training.lora_targets & site);
}

/* Weights of the parts of a projection, then their A, then their B: fused ones are neighbours. */
static void add_projection(table_builder *b, const part *parts, int n, int64_t in, int32_t bias) {
    const int64_t rank = b->d->training.lora_rank;
    for (int i = 0; i < n; i++) add(b, WITH_LAYER, parts[i].out, in, parts[i].name, ".weight");
    for (int i = 0; bias && i < n; i++) add(b, WITH_LAYER, 1, parts[i].out, parts[i].name, ".bias");
    for (int i = 0; i < n; i++) {
        if (has_adapter(b, parts[i].site)) add(b, WITH_LORA, rank, in, parts[i].name, ".lora_A.weight");
    }
    for (int i = 0; i < n; i++) {
        if (has_adapter(b, parts[i].site)) add(b, WITH_LORA, parts[i].out, rank, parts[i].name, ".lora_B.weight");
    }
}

/* The four projections' parts; returns their number. */
static int projection_parts(const decoder *d, int which, part *parts, int64_t *in) {
    const int64_t hidden = d->config.hidden, ffn = d->config.ffn_hidden;
    *in = which == PROJECT_O ? d->query_width : which == PROJECT_DOWN ? ffn : hidden;
    switch (which) {
    case PROJECT_QKV:
        parts[0] = (part){SALF_MATRIX_Q, d->query_width, "self_attn.q_proj"};
        parts[1] = (part){SALF_MATRIX_K, d->kv_width, "self_attn.k_proj"};
        parts[2] = (part){SALF_MATRIX_V, d->kv_width, "self_attn.v_proj"};
        return 3;
    case PROJECT_O:
        parts[0] = (part){SALF_MATRIX_O, hidden, "self_attn.o_proj"};
        return 1;
    case PROJECT_GATE_UP:
        parts[0] = (part){SALF_MATRIX_GATE, ffn, "mlp.gate_proj"};
        parts[1] = (part){SALF_MATRIX_UP, ffn, "mlp.up_proj"};
        return 2;
    default:
        parts[0] = (part){SALF_MATRIX_DOWN, hidden, "mlp.down_proj"};
        return 1;
    }
}

static void add_layer(table_builder *b) {
    part parts[MAX_ADAPTERS];
    int64_t in;
    add(b, WITH_LAYER, 1, b->d->config.hidden, "input_layernorm", ".weight");
    for (int which = 0; which < N_PROJECTIONS; which++) {
        if (which == PROJECT_GATE_UP) add(b, WITH_LAYER, 1, b->d->config.hidden, "post_attention_layernorm", ".weight");
        const int n = projection_parts(b->d, which, parts, &in);
        add_projection(b, parts, n, in, which == PROJECT_QKV && b->d->config.attention_bias);
    }
}

#define MOST_OF_A_LAYER 26 /* 2 norms, 7 matrices, 3 biases, 14 adapter matrices */

static salf_status build_table(decoder *d) {
    const decoder_config *c = &d->config;
    d->parameter_capacity = (int64_t)c->n_layers * MOST_OF_A_LAYER + 3;
    d->parameters = memory_take(d->parameter_capacity, sizeof *d->parameters);
    if (!d->parameters) return decoder_fail(SALF_E_NO_MEMORY, "no memory for %d layers", (int)c->n_layers);
    table_builder b = {d, DECODER_EMBEDDING};
    add(&b, WITH_EMBEDDING, c->vocab, c->hidden, "model.embed_tokens", ".weight");
    for (b.group = 0; b.group < c->n_layers; b.group++) add_layer(&b);
    add(&b, WITH_HEAD, 1, c->hidden, "model.norm", ".weight");
    if (!c->tied) add(&b, WITH_HEAD, c->vocab, c->hidden, "lm_head", ".weight");
    return SALF_OK;
}

#define MOST_VALUES (1LL << 56) /* so that no sum of sizes in bytes overflows */

static salf_status allocate_values(decoder *d) {
    int64_t values = 0, gradients = 0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (d->parameters[i].count > MOST_VALUES - values) {
            return decoder_fail(SALF_E_NO_MEMORY, "no memory for a model of more than %lld parameters", MOST_VALUES);
        }
        values += d->parameters[i].count;
        if (d->parameters[i].trains) gradients += d->parameters[i].count;
    }
    d->values = memory_take(values, sizeof *d->values);
    d->gradients = memory_take(gradients, sizeof *d->gradients);
    d->layers = memory_take(d->config.n_layers, sizeof *d->layers);
    d->records = memory_take(d->config.n_layers, sizeof *d->records);
    d->live = memory_take((int64_t)d->config.n_layers + 2, 1);
    if (!d->values || !d->gradients || !d->layers || !d->records || !d->live) {
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld parameters", (long long)values);
    }
    float *value = d->values, *gradient = d->gradients;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        p->values = value;
        value += p->count;
        if (p->trains) p->gradient = gradient, gradient += p->count;
    }
    return SALF_OK;
}

/* ---- pointers of the layers into the table, read in the order it was built ---- */

static void link_projection(decoder *d, int which, projection *out, const decoder_parameter **next) {
    part parts[MAX_ADAPTERS];
    const int n = projection_parts(d, which, parts, &out->in);
    const decoder_parameter *p = *next;
    out->weight = p->values;
    out->d_weight = p->gradient;
    for (int i = 0; i < n; i++) out->out += parts[i].out;
    out->y_stride = out->out;
    p += n;
    if (which == PROJECT_QKV && d->config.attention_bias) {
        out->bias = p->values;
        out->d_bias = p->gradient;
        p += n;
    }
    int64_t first = 0;
    const int32_t group = p->group;
    const decoder_parameter *a = p;
    for (int i = 0; i < n; first += parts[i].out, i++) {
        if (p->group != group || !strstr(a->name, "lora_A") || !(d->training.lora_targets & parts[i].site)) continue;
        out->adapters[out->n_adapters++] = (adapter){first, parts[i].out, NULL, NULL};
    }
    *next = p + 2 * out->n_adapters;
    if (!out->n_adapters) return;
    out->rank = d->training.lora_rank;
    out->low_stride = (int64_t)out->n_adapters * out->rank;
    out->scale = (float)(d->training.lora_alpha / d->training.lora_rank);
    out->a = a->values;
    out->d_a = a->gradient;
    for (int i = 0; i < out->n_adapters; i++) {
        out->adapters[i].b = p[out->n_adapters + i].values;
        out->adapters[i].d_b = p[out->n_adapters + i].gradient;
    }
}

static void link_layers(decoder *d) {
    const decoder_parameter *p = d->parameters;
    d->embedding = p->values;
    d->d_embedding = p->gradient;
    p++;
    for (int32_t k = 0; k < d->config.n_layers; k++) {
        decoder_layer *layer = &d->layers[k];
        layer->norm1 = p->values;
        layer->d_norm1 = p++->gradient;
        link_projection(d, PROJECT_QKV, &layer->projections[PROJECT_QKV], &p);
        link_projection(d, PROJECT_O, &layer->projections[PROJECT_O], &p);
        layer->norm2 = p->values;
        layer->d_norm2 = p++->gradient;
        link_projection(d, PROJECT_GATE_UP, &layer->projections[PROJECT_GATE_UP], &p);
        link_projection(d, PROJECT_DOWN, &layer->projections[PROJECT_DOWN], &p);
    }
    d->final_norm = p->values;
    d->d_final_norm = p++->gradient;
    d->head = d->config.tied ? d->embedding : p->values;
    d->d_head = d->config.tied ? d->d_embedding : p->gradient;
}

/* ---- initial values ---- */

static void init_adapters(decoder *d) {
    uint64_t state = d->training.seed;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        if (!strstr(p->name, "lora_A")) continue;
        const double bound = 1.0 / sqrt((double)p->cols);
        for (int64_t j = 0; j < p->count; j++) p->values[j] = (float)(bound * (2.0 * rng_uniform(&state) - 1.0));
    }
}

static void init_fresh(decoder *d, uint64_t seed) {
    const double back = 0.02 / sqrt(2.0 * d->config.n_layers);
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        if (strstr(p->name, "lora_")) continue;
        if (!p->decays) {
            const float value = strstr(p->name, ".bias") ? 0.0f : 1.0f;
            for (int64_t j = 0; j < p->count; j++) p->values[j] = value;
            continue;
        }
        const int into_stream = strstr(p->name, "o_proj") || strstr(p->name, "down_proj");
        for (int64_t j = 0; j < p->count; j++) {
            p->values[j] = (float)((into_stream ? back : 0.02) * rng_normal(&seed));
        }
    }
}

/* ---- weights of a checkpoint ---- */

static float half_to_float(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    double value = exponent == 31  ? (fraction ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
    return (float)(half & 0x8000 ? -value : value);
}

static float brain_to_float(uint16_t brain) {
    const uint32_t bits = (uint32_t)brain << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

int decoder_convert(float *x, const void *data, int32_t dtype, int64_t count) {
    if (dtype == SALF_F32) {
        memcpy(x, data, sizeof *x * (size_t)count);
        return 0;
    }
    if (dtype != SALF_BF16 && dtype != SALF_F16) return -1;
    const uint16_t *half = data;
    for (int64_t i = 0; i < count; i++) x[i] = dtype == SALF_BF16 ? brain_to_float(half[i]) : half_to_float(half[i]);
    return 0;
}

/* A tied head may be the only matrix that is stored. */
static salf_status find_tensor(const decoder *d, const salf_tensors *file, const char *name, salf_named_tensor *out) {
    const char *short_name = strncmp(name, "model.", 6) == 0 ? name + 6 : name;
    salf_status status = salf_tensors_find(file, name, out);
    if (status == SALF_E_NOT_FOUND) status = salf_tensors_find(file, short_name, out);
    if (status == SALF_E_NOT_FOUND && d->config.tied && strstr(name, "embed_tokens")) {
        status = salf_tensors_find(file, "lm_head.weight", out);
    }
    return status;
}

static salf_status load_parameter(decoder *d, const salf_tensors *file, decoder_parameter *p) {
    salf_named_tensor t;
    const salf_status status = find_tensor(d, file, p->name, &t);
    if (status == SALF_E_NOT_FOUND) return decoder_fail(status, "the checkpoint lacks tensor %s", p->name);
    if (status) return decoder_fail_library(status);
    if (t.view.rows != p->rows || t.view.cols != p->cols) {
        const int64_t rows = t.n_dims == 1 ? 1 : t.view.rows, cols = t.n_dims == 1 ? t.shape[0] : t.view.cols;
        if (rows != p->rows || cols != p->cols) {
            return decoder_fail(SALF_E_MISMATCH, "tensor %s is [%lld][%lld], not [%lld][%lld]", p->name,
                                (long long)rows, (long long)cols, (long long)p->rows, (long long)p->cols);
        }
    }
    if (decoder_convert(p->values, t.view.data, t.view.dtype, p->count)) {
        return decoder_fail(SALF_E_DTYPE, "tensor %s has element type %d, not F32, BF16 or F16", p->name,
                            (int)t.view.dtype);
    }
    return SALF_OK;
}

static salf_status load_values(decoder *d, const salf_model *model) {
    const salf_tensors *file = salf_model_get_tensors(model);
    if (!file) return decoder_fail(SALF_E_ARGUMENT, "the model was not opened from a checkpoint");
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (strstr(d->parameters[i].name, "lora_")) continue;
        const salf_status status = load_parameter(d, file, &d->parameters[i]);
        if (status) return status;
    }
    return SALF_OK;
}

/* ---- create, open, free ---- */

static salf_status check_config(const decoder_config *c) {
    const struct {
        const char *name;
        int64_t value;
        int64_t most;
    } fields[] = {{"n_layers", c->n_layers, 4096},
                  {"n_heads", c->n_heads, 65536},
                  {"n_kv_heads", c->n_kv_heads, c->n_heads},
                  {"head_dim", c->head_dim, 65536},
                  {"hidden", c->hidden, 1 << 24},
                  {"ffn_hidden", c->ffn_hidden, 1 << 26},
                  {"vocab", c->vocab, INT32_MAX},
                  {"max_positions", c->max_positions, INT32_MAX}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].value < 1 || fields[i].value > fields[i].most) {
            return decoder_fail(SALF_E_ARGUMENT, "%s is %lld, not 1 ... %lld", fields[i].name,
                                (long long)fields[i].value, (long long)fields[i].most);
        }
    }
    if (c->head_dim % 2) return decoder_fail(SALF_E_ARGUMENT, "head_dim %d is odd", (int)c->head_dim);
    if (c->n_heads % c->n_kv_heads) {
        return decoder_fail(SALF_E_ARGUMENT, "%d heads cannot share %d kv heads", (int)c->n_heads, (int)c->n_kv_heads);
    }
    if (!(c->norm_eps > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "norm_eps is %g", c->norm_eps);
    if (!(c->rope_theta > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "rope_theta is %g", c->rope_theta);
    return SALF_OK;
}

static salf_status set_training(decoder *d, const decoder_training *training) {
    d->inference = training == NULL;
    if (!training) return SALF_OK;
    d->training = *training;
    if (training->lora_rank < 0 || training->lora_rank > 65536) {
        return decoder_fail(SALF_E_ARGUMENT, "lora_rank is %d", (int)training->lora_rank);
    }
    if (training->lora_targets & ~SALF_MATRIX_ALL) {
        return decoder_fail(SALF_E_ARGUMENT, "lora_targets is %d", (int)training->lora_targets);
    }
    if (!training->lora_targets) d->training.lora_targets = SALF_MATRIX_ALL;
    if (training->lora_alpha == 0.0) d->training.lora_alpha = training->lora_rank;
    return SALF_OK;
}

static salf_status prepare(decoder *d, const decoder_training *training) {
    d->query_width = (int64_t)d->config.n_heads * d->config.head_dim;
    d->kv_width = (int64_t)d->config.n_kv_heads * d->config.head_dim;
    salf_status status = check_config(&d->config);
    if (!status) status = set_training(d, training);
    if (!status) status = build_table(d);
    if (!status) status = allocate_values(d);
    if (status) return status;
    link_layers(d);
    init_adapters(d);
    return SALF_OK;
}

static salf_status allocate(decoder **out, salf_context *context) {
    *out = memory_take(1, sizeof **out);
    if (!*out) return decoder_fail(SALF_E_NO_MEMORY, "no memory for a decoder");
    (*out)->context = context;
    return SALF_OK;
}

salf_status decoder_create(decoder **out, salf_context *context, const decoder_config *config,
                           const decoder_training *training, uint64_t seed) {
    decoder *d = NULL;
    *out = NULL;
    salf_status status = allocate(&d, context);
    if (status) return status;
    d->config = *config;
    status = prepare(d, training);
    if (status) {
        decoder_free(d);
        return status;
    }
    init_fresh(d, seed);
    *out = d;
    return SALF_OK;
}

static salf_status read_config(decoder_config *c, const salf_model *model) {
    salf_model_info info;
    salf_options_init(&info, sizeof info);
    const salf_status status = salf_model_get_info(model, &info);
    if (status) return decoder_fail_library(status);
    const int32_t known =
        info.family == SALF_FAMILY_LLAMA || info.family == SALF_FAMILY_QWEN2 || info.family == SALF_FAMILY_MISTRAL;
    if (!known || info.norm_kind != SALF_NORM_RMS) {
        return decoder_fail(SALF_E_UNSUPPORTED,
                            "only Llama, Mistral and Qwen2 models can be trained here, not family %d",
                            (int)info.family);
    }
    *c = (decoder_config){.n_layers = info.n_layers,
                          .n_heads = info.n_heads,
                          .n_kv_heads = info.n_kv_heads,
                          .head_dim = info.head_dim,
                          .hidden = info.hidden,
                          .ffn_hidden = info.ffn_hidden,
                          .vocab = info.vocab,
                          .max_positions = info.max_positions,
                          .norm_eps = info.norm_eps,
                          .rope_theta = info.rope_theta,
                          .attention_bias = info.attention_bias,
                          .tied = info.tied,
                          .bos_token = info.bos_token,
                          .eos_token = info.eos_token};
    return SALF_OK;
}

salf_status decoder_open(decoder **out, salf_context *context, const salf_model *model,
                         const decoder_training *training) {
    decoder *d = NULL;
    *out = NULL;
    salf_status status = allocate(&d, context);
    if (status) return status;
    status = read_config(&d->config, model);
    if (!status) status = prepare(d, training);
    if (!status) status = load_values(d, model);
    if (status) {
        decoder_free(d);
        return status;
    }
    *out = d;
    return SALF_OK;
}

void decoder_free(decoder *d) {
    if (!d) return;
    free(d->parameters);
    free(d->values);
    free(d->gradients);
    free(d->layers);
    free(d->records);
    free(d->live);
    free(d->arena.memory);
    free(d->rope);
    free(d->order);
    free(d);
}
