/*
 * decoder.c - a decoder is made: from a configuration with fresh weights, or from a checkpoint; and given back.
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
    if (c->n_heads % c->n_kv_heads)
        return decoder_fail(SALF_E_ARGUMENT, "%d heads cannot share %d kv heads", (int)c->n_heads, (int)c->n_kv_heads);
    if (!(c->norm_eps > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "norm_eps is %g", c->norm_eps);
    if (!(c->embedding_scale > 0.0 && c->logit_scale > 0.0 && c->logit_softcap >= 0.0))
        return decoder_fail(SALF_E_ARGUMENT, "embedding_scale is %g, logit_scale %g, logit_softcap %g",
                            c->embedding_scale, c->logit_scale, c->logit_softcap);
    if (c->prefix && strlen(c->prefix) > 48) return decoder_fail(SALF_E_ARGUMENT, "prefix %s is too long", c->prefix);
    return SALF_OK;
}

/* The same of what the layers compute. */
static salf_status check_layers(const decoder_config *c) {
    const salf_decoder_info *l = &c->layers;
    const struct {
        const char *name;
        int32_t value;
        int32_t least;
        int32_t most;
    } choices[] = {{"activation", l->activation, SALF_ACTIVATION_SILU, SALF_ACTIVATION_RELU},
                   {"gated_ffn", l->gated_ffn, 0, 1},
                   {"block", l->block, SALF_BLOCK_PRE_NORM, SALF_BLOCK_POST_NORM},
                   {"qk_norm", l->qk_norm, SALF_QK_NORM_NONE, SALF_QK_NORM_ALL},
                   {"norm_kind", l->norm_kind, SALF_NORM_LAYER, SALF_NORM_RMS1P},
                   {"biases", l->biases, 0, SALF_MATRIX_ALL},
                   {"fused", l->fused, 0, SALF_MATRIX_ALL},
                   {"rope", l->rope, SALF_ROPE_NONE, SALF_ROPE_YARN},
                   {"rotary_dims", l->rotary_dims, 0, c->head_dim}};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        if (choices[i].value < choices[i].least || choices[i].value > choices[i].most)
            return decoder_fail(SALF_E_ARGUMENT, "%s is %d, not %d ... %d", choices[i].name, (int)choices[i].value,
                                (int)choices[i].least, (int)choices[i].most);
    }
    if (l->rotary_dims % 2) return decoder_fail(SALF_E_ARGUMENT, "rotary_dims %d is odd", (int)l->rotary_dims);
    if (!(l->attention_scale > 0.0 && l->attention_softcap >= 0.0 && isfinite(l->residual_scale)))
        return decoder_fail(SALF_E_ARGUMENT, "attention_scale is %g, attention_softcap %g, residual_scale %g",
                            l->attention_scale, l->attention_softcap, l->residual_scale);
    if (l->sliding_window < 0)
        return decoder_fail(SALF_E_ARGUMENT, "sliding_window is %lld", (long long)l->sliding_window);
    return decoder_check_rope(c);
}

/* Zeros become the neutral values that they stand for; without a description the layers are a Llama's. */
static void fill_config(decoder_config *c) {
    salf_decoder_info *l = &c->layers;
    if (l->struct_size == 0) {
        *l = (salf_decoder_info){.struct_size = sizeof *l,
                                 .gated_ffn = 1,
                                 .norm_kind = SALF_NORM_RMS,
                                 .rope = SALF_ROPE_DEFAULT,
                                 .rope_theta = c->rope_theta};
    }
    if (c->embedding_scale == 0.0) c->embedding_scale = 1.0;
    if (c->logit_scale == 0.0) c->logit_scale = 1.0;
    if (l->norm_kind != SALF_NORM_LAYER) c->norm_bias = 0;
    if (l->rope == SALF_ROPE_NONE) l->rotary_dims = 0;
    if (l->rope != SALF_ROPE_NONE && l->rotary_dims == 0) l->rotary_dims = c->head_dim;
    if (l->attention_scale == 0.0) l->attention_scale = 1.0 / sqrt((double)c->head_dim);
    if (l->residual_scale == 0.0) l->residual_scale = 1.0;
    if (l->sliding_window == 0) l->sliding = NULL;
    l->unsupported = l->prefix = NULL;
}

/* What the configuration points to becomes the decoder's own. */
static salf_status own_config(decoder *d) {
    decoder_config *c = &d->config;
    snprintf(d->prefix, sizeof d->prefix, "%s", c->prefix ? c->prefix : "model.");
    c->prefix = d->prefix;
    if (!c->layers.sliding) return SALF_OK;
    d->sliding = memory_take(c->n_layers, 1);
    if (!d->sliding) return decoder_fail(SALF_E_NO_MEMORY, "no memory for %d layers", (int)c->n_layers);
    memcpy(d->sliding, c->layers.sliding, (size_t)c->n_layers);
    c->layers.sliding = d->sliding;
    return SALF_OK;
}

/* A decoder of this configuration without its initial values, names as in file; on failure *out is NULL. */
static salf_status allocate_decoder(decoder **out, salf_context *context, const decoder_config *config,
                                    const decoder_training *training, const salf_tensors *file) {
    *out = NULL;
    decoder_config filled = *config;
    fill_config(&filled);
    salf_status status = check_config(&filled);
    if (!status) status = check_layers(&filled);
    if (status) return status;
    decoder *d = memory_take(1, sizeof *d);
    if (!d) return decoder_fail(SALF_E_NO_MEMORY, "no memory for a decoder");
    d->context = context;
    d->config = filled;
    d->query_width = (int64_t)config->n_heads * config->head_dim;
    d->kv_width = (int64_t)config->n_kv_heads * config->head_dim;
    d->gate_width = config->ffn_hidden * (filled.layers.gated_ffn ? 2 : 1);
    d->inference = training == NULL;
    if (training) d->training = *training;
    decoder_training *t = &d->training;
    if (t->lora_rank < 0 || t->lora_rank > 65536)
        status = decoder_fail(SALF_E_ARGUMENT, "lora_rank is %d", (int)t->lora_rank);
    else if (t->lora_targets & ~SALF_MATRIX_ALL)
        status = decoder_fail(SALF_E_ARGUMENT, "lora_targets is %d", (int)t->lora_targets);
    /* with nothing else asked for, nothing would train */
    else if (t->lora_targets & SALF_MATRIX_GATE && t->lora_targets != SALF_MATRIX_ALL && !filled.layers.gated_ffn)
        status = decoder_fail(SALF_E_ARGUMENT, "LoRA on gate, which the feed-forward blocks of this model do not have");
    if (!t->lora_targets) t->lora_targets = SALF_MATRIX_ALL;
    if (t->lora_alpha == 0.0) t->lora_alpha = t->lora_rank;
    if (!status) status = own_config(d);
    if (!status) status = decoder_build(d, file);
    if (status) {
        decoder_free(d);
        return status;
    }
    init_adapters(d);
    *out = d;
    return SALF_OK;
}

salf_status decoder_create(decoder **out, salf_context *context, const decoder_config *config,
                           const decoder_training *training, uint64_t seed) {
    const salf_status status = allocate_decoder(out, context, config, training, NULL);
    if (!status) init_fresh(*out, seed);
    return status;
}

/* The configuration of an opened model, or why it is not one that can be run here. */
static salf_status describe_model(const salf_model *model, const salf_tensors *file, decoder_config *c) {
    salf_model_info info;
    salf_decoder_info layers;
    salf_options_init(&info, sizeof info);
    salf_options_init(&layers, sizeof layers);
    salf_status status = salf_model_get_info(model, &info);
    if (!status) status = salf_model_get_decoder(model, &layers);
    if (status) return decoder_fail_library(status);
    if (layers.unsupported)
        return decoder_fail(SALF_E_UNSUPPORTED, "this decoder cannot run the checkpoint's layers: %s%s",
                            layers.unsupported,
                            strstr(layers.unsupported, "general.architecture")
                                ? " (of a GGUF file head, norm and embedding are read; take the checkpoint folder)"
                                : "");
    if (info.norm_kind != layers.norm_kind)
        return decoder_fail(SALF_E_UNSUPPORTED, "the final norm is of kind %d, the layers' of kind %d",
                            (int)info.norm_kind, (int)layers.norm_kind);
    char name[160];
    snprintf(name, sizeof name, "%snorm.bias", layers.prefix);
    *c = (decoder_config){.n_layers = info.n_layers,
                          .n_heads = info.n_heads,
                          .n_kv_heads = info.n_kv_heads,
                          .head_dim = info.head_dim,
                          .hidden = info.hidden,
                          .ffn_hidden = info.ffn_hidden,
                          .vocab = info.vocab,
                          .max_positions = info.max_positions,
                          .norm_eps = info.norm_eps,
                          .tied = info.tied,
                          .bos_token = info.bos_token,
                          .eos_token = info.eos_token,
                          .embedding_scale = info.embedding_scale,
                          .logit_scale = info.logit_scale,
                          .logit_softcap = info.logit_softcap,
                          .norm_bias = decoder_has_tensor(file, name),
                          .prefix = layers.prefix,
                          .layers = layers};
    return SALF_OK;
}

salf_status decoder_check(const salf_model *model) {
    decoder_config config;
    const salf_tensors *file = salf_model_get_tensors(model);
    if (!file) return decoder_fail(SALF_E_ARGUMENT, "the model was not opened from a checkpoint");
    return describe_model(model, file, &config);
}

salf_status decoder_open(decoder **out, salf_context *context, const salf_model *model,
                         const decoder_training *training) {
    decoder_config config;
    decoder *d = NULL;
    const salf_tensors *file = salf_model_get_tensors(model);
    *out = NULL;
    if (!file) return decoder_fail(SALF_E_ARGUMENT, "the model was not opened from a checkpoint");
    salf_status status = describe_model(model, file, &config);
    if (!status) status = allocate_decoder(&d, context, &config, training, file);
    if (!status) status = decoder_load(d, file);
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
    free(d->rope[0]);
    free(d->rope[1]);
    free(d->order);
    free(d->sliding);
    free(d);
}
