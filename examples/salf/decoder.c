/*
 * decoder.c - a decoder's parameters: their order in memory, their initial values or where they come from.
 *
 * All values lie in one block and all gradients in another, in the order of the parameter table. Matrices that are
 * fused (q, k, v; gate, up; the A of their adapters) are neighbours in that order, so that a product over all of them
 * is one call of BLAS. While the table is built every layer notes the index of each of its parameters; only tensors of
 * a file are looked up by name. Memory: 4 bytes a parameter, 4 more for each that trains.
 */
#include "decoder.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "memory.h"
#include "rng.h"

/* Of this thread, as the library keeps its own. */
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

int64_t decoder_n_parameters(const decoder *d) {
    return d->n_parameters;
}

decoder_parameter *decoder_parameter_at(decoder *d, int64_t index) {
    return index >= 0 && index < d->n_parameters ? &d->parameters[index] : NULL;
}

/* ---- the parameter table ---- */

/* A layer has at most 2 norms, 7 matrices, 3 biases and 14 adapter matrices; outside the layers there are the
 * embedding, the final norm and a head. */
enum { MOST_OF_A_LAYER = 26, OUTSIDE_LAYERS = 3 };

/* Appends a parameter and returns its index. In layer k its name is "model.layers.k." and name, else name alone. */
static int64_t add_parameter(decoder *d, int32_t group, int32_t role, int64_t rows, int64_t cols, const char *name,
                             const char *suffix) {
    decoder_parameter *p = &d->parameters[d->n_parameters];
    const int in_layer = group >= 0 && group < d->config.n_layers;
    *p = (decoder_parameter){.group = group, .role = role, .rows = rows, .cols = cols, .count = rows * cols};
    if (in_layer) {
        snprintf(p->name, sizeof p->name, "model.layers.%d.%s%s", (int)group, name, suffix);
    } else {
        snprintf(p->name, sizeof p->name, "%s%s", name, suffix);
    }
    p->decays = rows > 1;
    if (in_layer) p->trains = role >= DECODER_LORA_A || d->training.lora_rank == 0;
    if (group == DECODER_EMBEDDING) p->trains = d->training.train_embedding != 0;
    if (group == d->config.n_layers) p->trains = d->training.train_head != 0;
    if (d->inference) p->trains = 0;
    return d->n_parameters++;
}

/* The matrices of a layer and the projections they are fused into, in the order of their outputs there. */
static const struct {
    int32_t site; /* SALF_MATRIX_* */
    int32_t projection;
    const char *name;
} matrices[] = {
    {SALF_MATRIX_Q, PROJECT_QKV, "self_attn.q_proj"},     {SALF_MATRIX_K, PROJECT_QKV, "self_attn.k_proj"},
    {SALF_MATRIX_V, PROJECT_QKV, "self_attn.v_proj"},     {SALF_MATRIX_O, PROJECT_O, "self_attn.o_proj"},
    {SALF_MATRIX_GATE, PROJECT_GATE_UP, "mlp.gate_proj"}, {SALF_MATRIX_UP, PROJECT_GATE_UP, "mlp.up_proj"},
    {SALF_MATRIX_DOWN, PROJECT_DOWN, "mlp.down_proj"},
};

/* Rows of a matrix. */
static int64_t outputs_of(const decoder *d, int32_t site) {
    if (site == SALF_MATRIX_Q) return d->query_width;
    if (site == SALF_MATRIX_K || site == SALF_MATRIX_V) return d->kv_width;
    return site == SALF_MATRIX_GATE || site == SALF_MATRIX_UP ? d->config.ffn_hidden : d->config.hidden;
}

/* Adds the parameters of a projection of layer k: the weights of its matrices, then their biases, then their A, then
 * their B, so that what is fused are neighbours. */
static void add_projection(decoder *d, int32_t k, int32_t which) {
    projection *p = &d->layers[k].projections[which];
    const int64_t rank = d->training.lora_rank;
    const int biased = which == PROJECT_QKV && d->config.attention_bias;
    const int32_t role = which == PROJECT_O || which == PROJECT_DOWN ? DECODER_INTO_STREAM : DECODER_MATRIX;
    const char *names[MOST_PARTS];
    p->in = which == PROJECT_O ? d->query_width : which == PROJECT_DOWN ? d->config.ffn_hidden : d->config.hidden;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        if (matrices[i].projection != which) continue;
        projection_part *part = &p->parts[p->n_parts];
        names[p->n_parts++] = matrices[i].name;
        part->first = p->out;
        part->count = outputs_of(d, matrices[i].site);
        part->adapted = rank > 0 && (d->training.lora_targets & matrices[i].site) != 0;
        p->out += part->count;
    }
    for (int i = 0; i < p->n_parts; i++)
        p->parts[i].weight = add_parameter(d, k, role, p->parts[i].count, p->in, names[i], ".weight");
    for (int i = 0; i < p->n_parts && biased; i++)
        p->parts[i].bias = add_parameter(d, k, DECODER_BIAS, 1, p->parts[i].count, names[i], ".bias");
    for (int i = 0; i < p->n_parts; i++) {
        if (p->parts[i].adapted)
            p->parts[i].a = add_parameter(d, k, DECODER_LORA_A, rank, p->in, names[i], ".lora_A.weight");
    }
    for (int i = 0; i < p->n_parts; i++) {
        if (p->parts[i].adapted)
            p->parts[i].b = add_parameter(d, k, DECODER_LORA_B, p->parts[i].count, rank, names[i], ".lora_B.weight");
    }
}

/* The table, in the order in which fused parameters are neighbours. */
static salf_status build_table(decoder *d) {
    const decoder_config *c = &d->config;
    d->parameters = memory_take((int64_t)c->n_layers * MOST_OF_A_LAYER + OUTSIDE_LAYERS, sizeof *d->parameters);
    d->layers = memory_take(c->n_layers, sizeof *d->layers);
    if (!d->parameters || !d->layers)
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for %d layers", (int)c->n_layers);
    add_parameter(d, DECODER_EMBEDDING, DECODER_MATRIX, c->vocab, c->hidden, "model.embed_tokens", ".weight");
    for (int32_t k = 0; k < c->n_layers; k++) {
        decoder_layer *layer = &d->layers[k];
        layer->norm1_id = add_parameter(d, k, DECODER_NORM, 1, c->hidden, "input_layernorm", ".weight");
        add_projection(d, k, PROJECT_QKV);
        add_projection(d, k, PROJECT_O);
        layer->norm2_id = add_parameter(d, k, DECODER_NORM, 1, c->hidden, "post_attention_layernorm", ".weight");
        add_projection(d, k, PROJECT_GATE_UP);
        add_projection(d, k, PROJECT_DOWN);
    }
    d->final_norm_id = add_parameter(d, c->n_layers, DECODER_NORM, 1, c->hidden, "model.norm", ".weight");
    if (!c->tied) add_parameter(d, c->n_layers, DECODER_MATRIX, c->vocab, c->hidden, "lm_head", ".weight");
    return SALF_OK;
}

#define MOST_VALUES (1LL << 56) /* so that no sum of sizes in bytes overflows */

/* One block of values and one of gradients, handed out in the order of the table. */
static salf_status allocate_values(decoder *d) {
    int64_t values = 0, gradients = 0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (d->parameters[i].count > MOST_VALUES - values)
            return decoder_fail(SALF_E_NO_MEMORY, "no memory for a model of more than %lld parameters", MOST_VALUES);
        values += d->parameters[i].count;
        if (d->parameters[i].trains) gradients += d->parameters[i].count;
    }
    d->values = memory_take(values, sizeof *d->values);
    d->gradients = memory_take(gradients, sizeof *d->gradients);
    d->records = memory_take(d->config.n_layers, sizeof *d->records);
    d->live = memory_take((int64_t)d->config.n_layers + 2, 1);
    if (!d->values || !d->gradients || !d->records || !d->live)
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld parameters", (long long)values);
    float *value = d->values, *gradient = d->gradients;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        p->values = value;
        value += p->count;
        if (p->trains) p->gradient = gradient, gradient += p->count;
    }
    return SALF_OK;
}

/* The pointers of a projection, from the indices of its parts. The first of the fused parameters stands for all. */
static void link_projection(decoder *d, projection *p) {
    const decoder_parameter *table = d->parameters;
    p->weight = table[p->parts[0].weight].values;
    p->d_weight = table[p->parts[0].weight].gradient;
    p->y_stride = p->out;
    if (p->parts[0].bias) {
        p->bias = table[p->parts[0].bias].values;
        p->d_bias = table[p->parts[0].bias].gradient;
    }
    for (int i = 0; i < p->n_parts; i++) {
        const projection_part *part = &p->parts[i];
        if (!part->adapted) continue;
        if (p->n_adapters == 0) p->a = table[part->a].values, p->d_a = table[part->a].gradient;
        p->adapters[p->n_adapters++] =
            (adapter){part->first, part->count, table[part->b].values, table[part->b].gradient};
    }
    if (p->n_adapters == 0) return;
    p->rank = d->training.lora_rank;
    p->scale = (float)(d->training.lora_alpha / d->training.lora_rank);
    p->low_stride = (int64_t)p->n_adapters * p->rank;
}

/* The pointers that the passes read. */
static void link_layers(decoder *d) {
    const decoder_parameter *table = d->parameters;
    for (int32_t k = 0; k < d->config.n_layers; k++) {
        decoder_layer *layer = &d->layers[k];
        layer->norm1 = table[layer->norm1_id].values;
        layer->d_norm1 = table[layer->norm1_id].gradient;
        layer->norm2 = table[layer->norm2_id].values;
        layer->d_norm2 = table[layer->norm2_id].gradient;
        for (int which = 0; which < N_PROJECTIONS; which++) link_projection(d, &layer->projections[which]);
    }
    const decoder_parameter *head = &table[d->config.tied ? 0 : d->n_parameters - 1];
    d->embedding = table[0].values;
    d->d_embedding = table[0].gradient;
    d->final_norm = table[d->final_norm_id].values;
    d->d_final_norm = table[d->final_norm_id].gradient;
    d->head = head->values;
    d->d_head = head->gradient;
}

/* ---- initial values ---- */

/* A is uniform in +-1/sqrt(inputs) and B is zero, as memory comes: training starts from the model as it is. */
static void init_adapters(decoder *d) {
    uint64_t sequence = d->training.seed;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        if (p->role != DECODER_LORA_A) continue;
        const double bound = 1.0 / sqrt((double)p->cols);
        for (int64_t j = 0; j < p->count; j++) p->values[j] = (float)(bound * (2.0 * rng_uniform(&sequence) - 1.0));
    }
}

/* Matrices are normal with deviation 0.02. What is added to the stream, 2 m times in a pass, gets 0.02 / sqrt(2 m), so
 * that the stream's variance at the end does not grow with m (the initialisation of GPT-2). Norms are 1, biases 0. */
static void init_fresh(decoder *d, uint64_t seed) {
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        const double deviation = p->role == DECODER_INTO_STREAM ? 0.02 / sqrt(2.0 * d->config.n_layers) : 0.02;
        const int drawn = p->role == DECODER_MATRIX || p->role == DECODER_INTO_STREAM;
        for (int64_t j = 0; j < p->count; j++) {
            if (drawn) p->values[j] = (float)(deviation * rng_normal(&seed));
            if (p->role == DECODER_NORM) p->values[j] = 1.0f;
        }
    }
}

/* ---- weights of a checkpoint ---- */

/* Bits of an IEEE half as a float. A subnormal (exponent 0) lacks the leading bit of the others. */
static float half_to_float(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    double value = exponent == 31  ? (fraction ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
    return (float)(half & 0x8000 ? -value : value);
}

/* Fills x [count] from a stored tensor of any floating-point type. 0, or -1 when the type is not known. */
static int convert_values(float *x, const void *data, int32_t dtype, int64_t count) {
    const uint16_t *half = data;
    switch (dtype) {
    case SALF_F32:
        memcpy(x, data, sizeof *x * (size_t)count);
        return 0;
    case SALF_F16:
        for (int64_t i = 0; i < count; i++) x[i] = half_to_float(half[i]);
        return 0;
    case SALF_BF16:
        for (int64_t i = 0; i < count; i++) {
            const uint32_t bits = (uint32_t)half[i] << 16; /* the upper half of a float's bits */
            memcpy(&x[i], &bits, sizeof bits);
        }
        return 0;
    default:
        return -1;
    }
}

/* A parameter from the file, under its name with or without "model." in front. */
static salf_status load_parameter(decoder *d, const salf_tensors *file, decoder_parameter *p) {
    salf_named_tensor t;
    const int prefixed = strncmp(p->name, "model.", 6) == 0;
    salf_status status = salf_tensors_find(file, p->name, &t);
    if (status == SALF_E_NOT_FOUND && prefixed) status = salf_tensors_find(file, p->name + 6, &t);
    /* A tied matrix may be stored under the head's name only. */
    if (status == SALF_E_NOT_FOUND && d->config.tied && p->group == DECODER_EMBEDDING)
        status = salf_tensors_find(file, "lm_head.weight", &t);
    if (status == SALF_E_NOT_FOUND) return decoder_fail(status, "the checkpoint lacks tensor %s", p->name);
    if (status) return decoder_fail_library(status);
    if (t.view.rows != p->rows || t.view.cols != p->cols)
        return decoder_fail(SALF_E_MISMATCH, "tensor %s is [%lld][%lld], not [%lld][%lld]", p->name,
                            (long long)t.view.rows, (long long)t.view.cols, (long long)p->rows, (long long)p->cols);
    if (convert_values(p->values, t.view.data, t.view.dtype, p->count) != 0)
        return decoder_fail(SALF_E_DTYPE, "tensor %s has element type %d, not F32, BF16 or F16", p->name,
                            (int)t.view.dtype);
    return SALF_OK;
}

/* ---- create, open, free ---- */

/* Bounds far above any model that fits into memory; with them products of two of these sizes stay below 2^63. */
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
        if (fields[i].value < 1 || fields[i].value > fields[i].most)
            return decoder_fail(SALF_E_ARGUMENT, "%s is %lld, not 1 ... %lld", fields[i].name,
                                (long long)fields[i].value, (long long)fields[i].most);
    }
    if (c->head_dim % 2) return decoder_fail(SALF_E_ARGUMENT, "head_dim %d is odd", (int)c->head_dim);
    if (c->n_heads % c->n_kv_heads)
        return decoder_fail(SALF_E_ARGUMENT, "%d heads cannot share %d kv heads", (int)c->n_heads, (int)c->n_kv_heads);
    if (!(c->norm_eps > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "norm_eps is %g", c->norm_eps);
    if (!(c->rope_theta > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "rope_theta is %g", c->rope_theta);
    return SALF_OK;
}

/* A decoder of this configuration without its initial values; on failure *out is NULL. */
static salf_status allocate_decoder(decoder **out, salf_context *context, const decoder_config *config,
                                    const decoder_training *training) {
    *out = NULL;
    salf_status status = check_config(config);
    if (status) return status;
    decoder *d = memory_take(1, sizeof *d);
    if (!d) return decoder_fail(SALF_E_NO_MEMORY, "no memory for a decoder");
    d->context = context;
    d->config = *config;
    d->query_width = (int64_t)config->n_heads * config->head_dim;
    d->kv_width = (int64_t)config->n_kv_heads * config->head_dim;
    d->inference = training == NULL;
    if (training) d->training = *training;
    decoder_training *t = &d->training;
    if (t->lora_rank < 0 || t->lora_rank > 65536)
        status = decoder_fail(SALF_E_ARGUMENT, "lora_rank is %d", (int)t->lora_rank);
    else if (t->lora_targets & ~SALF_MATRIX_ALL)
        status = decoder_fail(SALF_E_ARGUMENT, "lora_targets is %d", (int)t->lora_targets);
    if (!t->lora_targets) t->lora_targets = SALF_MATRIX_ALL;
    if (t->lora_alpha == 0.0) t->lora_alpha = t->lora_rank;
    if (!status) status = build_table(d);
    if (!status) status = allocate_values(d);
    if (status) {
        decoder_free(d);
        return status;
    }
    link_layers(d);
    init_adapters(d);
    *out = d;
    return SALF_OK;
}

salf_status decoder_create(decoder **out, salf_context *context, const decoder_config *config,
                           const decoder_training *training, uint64_t seed) {
    const salf_status status = allocate_decoder(out, context, config, training);
    if (!status) init_fresh(*out, seed);
    return status;
}

salf_status decoder_open(decoder **out, salf_context *context, const salf_model *model,
                         const decoder_training *training) {
    salf_model_info info;
    *out = NULL;
    salf_options_init(&info, sizeof info);
    salf_status status = salf_model_get_info(model, &info);
    if (status) return decoder_fail_library(status);
    const int known =
        info.family == SALF_FAMILY_LLAMA || info.family == SALF_FAMILY_QWEN2 || info.family == SALF_FAMILY_MISTRAL;
    if (!known || info.norm_kind != SALF_NORM_RMS)
        return decoder_fail(SALF_E_UNSUPPORTED,
                            "only Llama, Mistral and Qwen2 models can be trained here, not family %d",
                            (int)info.family);
    const salf_tensors *file = salf_model_get_tensors(model);
    if (!file) return decoder_fail(SALF_E_ARGUMENT, "the model was not opened from a checkpoint");
    const decoder_config config = {.n_layers = info.n_layers,
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
    decoder *d;
    status = allocate_decoder(&d, context, &config, training);
    for (int64_t i = 0; !status && i < d->n_parameters; i++) {
        if (d->parameters[i].role < DECODER_LORA_A) status = load_parameter(d, file, &d->parameters[i]);
    }
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
