/*
 * small_decoder.h - a decoder small enough to be checked: a plain double-precision forward pass, one sequence at a
 * time, and gradients by central differences of it. Each test file of the decoder has its own copy, as not all tests
 * link it.
 */
#ifndef SALF_TEST_SMALL_DECODER_H
#define SALF_TEST_SMALL_DECODER_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder.h"
#include "harness.h"

#define CHECK_REFUSED(call, status, words)                                                                \
    do {                                                                                                  \
        ck_assert_int_eq(call, status);                                                                   \
        ck_assert_msg(harness_contains(decoder_error(), words), "'%s' lacks %s", decoder_error(), words); \
    } while (0)

#define MOST_ROWS 32

/* ---- the oracle ---- */

static const decoder_parameter *find(decoder *d, const char *name) {
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        if (strcmp(decoder_parameter_at(d, i)->name, name) == 0) return decoder_parameter_at(d, i);
    }
    return NULL;
}

/* The parameters of a layer are a stretch of the table; looking there only keeps the tests quick. */
static const decoder_parameter *of_layer(decoder *d, int32_t k, const char *name, const char *suffix) {
    const decoder_config *c = decoder_get_config(d);
    const int64_t outside = 2 + (c->tied ? 0 : 1) + c->norm_bias;
    const int64_t each = (decoder_n_parameters(d) - outside) / c->n_layers;
    const size_t prefix = strlen("model.layers.0."), length = strlen(name);
    for (int64_t i = 1 + k * each; i < 1 + (k + 1) * each; i++) {
        const decoder_parameter *p = decoder_parameter_at(d, i);
        const char *rest = p->name + prefix;
        if (strncmp(rest, name, length) == 0 && rest[length] == '.' && strcmp(rest + length + 1, suffix) == 0) return p;
    }
    return NULL;
}

/* y = a norm of the n numbers x, by the parameters w and bias (NULL: none). y may be x. */
static void norm(decoder *d, const decoder_parameter *w, const decoder_parameter *bias, int64_t n, const double *x,
                 double *y) {
    const int32_t kind = decoder_get_config(d)->layers.norm_kind;
    double mean = 0.0, squares = 0.0;
    for (int64_t j = 0; j < n && kind == SALF_NORM_LAYER; j++) mean += x[j] / (double)n;
    for (int64_t j = 0; j < n; j++) squares += (x[j] - mean) * (x[j] - mean);
    const double scale = 1.0 / sqrt(squares / (double)n + decoder_get_config(d)->norm_eps);
    for (int64_t j = 0; j < n; j++) {
        y[j] = (x[j] - mean) * scale * ((double)w->values[j] + (kind == SALF_NORM_RMS1P));
        if (bias) y[j] += (double)bias->values[j];
    }
}

static void final_norm(decoder *d, const double *x, double *y) {
    norm(d, find(d, "model.norm.weight"), find(d, "model.norm.bias"), decoder_get_config(d)->hidden, x, y);
}

/* The layer's norm of this name, of n numbers at a time; without such a norm y = x. */
static void layer_norm(decoder *d, int32_t k, const char *name, int64_t count, const double *x, double *y) {
    const decoder_parameter *w = name ? of_layer(d, k, name, "weight") : NULL;
    if (y != x) memcpy(y, x, (size_t)count * sizeof *y);
    for (int64_t i = 0; w && i < count; i += w->cols) norm(d, w, of_layer(d, k, name, "bias"), w->cols, y + i, y + i);
}

static double lora_scale; /* alpha / rank of the last case that was made */

/* y = rows first ... first + rows - 1 of W x + bias + (alpha / rank) B A x. */
static void linear_part(decoder *d, int32_t k, const char *name, int64_t first, int64_t rows, const double *x,
                        double *y) {
    const decoder_parameter *w = of_layer(d, k, name, "weight"), *bias = of_layer(d, k, name, "bias");
    const decoder_parameter *a = of_layer(d, k, name, "lora_A.weight"), *b = of_layer(d, k, name, "lora_B.weight");
    for (int64_t i = 0; i < rows; i++) {
        y[i] = bias ? (double)bias->values[first + i] : 0.0;
        for (int64_t j = 0; j < w->cols; j++) y[i] += (double)w->values[(first + i) * w->cols + j] * x[j];
    }
    for (int64_t r = 0; a && r < a->rows; r++) {
        double low = 0.0;
        for (int64_t j = 0; j < a->cols; j++) low += (double)a->values[r * a->cols + j] * x[j];
        low *= lora_scale;
        for (int64_t i = 0; i < rows; i++) y[i] += (double)b->values[(first + i) * b->cols + r] * low;
    }
}

/* A projection by its own name, or by its rows of the fused one. */
static void linear(decoder *d, int32_t k, const char *name, const char *fused, int64_t first, int64_t rows,
                   const double *x, double *y) {
    const int alone = of_layer(d, k, name, "weight") != NULL;
    linear_part(d, k, alone ? name : fused, alone ? 0 : first, rows, x, y);
}

/* Share of pair i's frequency that remains, by the formulas of transformers, written down a second time. */
static double turn_rate(const decoder_config *c, int32_t slides, int i) {
    const salf_decoder_info *l = &c->layers;
    const double theta = slides && l->local_rope_theta > 0.0 ? l->local_rope_theta : l->rope_theta;
    const double rate = 1.0 / pow(theta, 2.0 * i / l->rotary_dims), length = (double)l->rope_original_positions;
    if ((slides && l->local_rope_theta > 0.0) || l->rope == SALF_ROPE_DEFAULT) return rate;
    if (l->rope == SALF_ROPE_LINEAR) return rate / l->rope_factor;
    if (l->rope == SALF_ROPE_LLAMA3) {
        const double wave = 2.0 * 3.14159265358979323846 / rate;
        if (wave > length / l->rope_low_factor) return rate / l->rope_factor;
        if (wave < length / l->rope_high_factor) return rate;
        const double smooth = (length / wave - l->rope_low_factor) / (l->rope_high_factor - l->rope_low_factor);
        return (1.0 - smooth) * rate / l->rope_factor + smooth * rate;
    }
    double edge[2];
    for (int e = 0; e < 2; e++) {
        const double turns = e ? l->rope_beta_slow : l->rope_beta_fast;
        edge[e] = l->rotary_dims * log(length / (turns * 2.0 * 3.14159265358979323846)) / (2.0 * log(theta));
    }
    const double low = fmax(floor(edge[0]), 0.0), high = fmin(ceil(edge[1]), l->rotary_dims - 1.0);
    const double ramp = fmin(fmax((i - low) / (high - low + (high == low ? 0.001 : 0.0)), 0.0), 1.0);
    return rate / l->rope_factor * ramp + rate * (1.0 - ramp);
}

static void rotate(const decoder_config *c, int32_t slides, double *x, int64_t position) {
    const int half = c->layers.rotary_dims / 2;
    const int scaled = c->layers.rope == SALF_ROPE_YARN && !(slides && c->layers.local_rope_theta > 0.0);
    const double factor = scaled ? c->layers.rope_attention_factor : 1.0;
    for (int i = 0; i < half; i++) {
        const double angle = (double)position * turn_rate(c, slides, i), a = x[i], b = x[i + half];
        x[i] = factor * (a * cos(angle) - b * sin(angle));
        x[i + half] = factor * (b * cos(angle) + a * sin(angle));
    }
}

static void attention(const decoder_config *c, int32_t slides, int64_t n, double q[][64], double k[][64],
                      double v[][64], double out[][64]) {
    const double cap = c->layers.attention_softcap;
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = slides && i >= c->layers.sliding_window ? i - c->layers.sliding_window + 1 : 0;
        for (int h = 0; h < c->n_heads; h++) {
            const int query = h * c->head_dim, key = h / (c->n_heads / c->n_kv_heads) * c->head_dim;
            double weight[MOST_ROWS], sum = 0.0;
            for (int64_t j = first; j <= i; j++) {
                double score = 0.0;
                for (int e = 0; e < c->head_dim; e++) score += q[i][query + e] * k[j][key + e];
                score *= c->layers.attention_scale;
                sum += weight[j] = exp(cap > 0.0 ? cap * tanh(score / cap) : score);
            }
            for (int e = 0; e < c->head_dim; e++) {
                out[i][query + e] = 0.0;
                for (int64_t j = first; j <= i; j++) out[i][query + e] += weight[j] / sum * v[j][key + e];
            }
        }
    }
}

static double activation(int32_t kind, double x) {
    if (kind == SALF_ACTIVATION_SILU) return x / (1.0 + exp(-x));
    if (kind == SALF_ACTIVATION_GELU) return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    if (kind == SALF_ACTIVATION_GELU_TANH)
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    return x > 0.0 ? x : 0.0;
}

/* Names of the norms before attention, of its output, before the feed-forward part, of its output. */
static const char *const NORM_NAMES[][4] = {
    {"input_layernorm", NULL, "post_attention_layernorm", NULL},
    {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"},
    {NULL, "post_attention_layernorm", NULL, "post_feedforward_layernorm"},
};

static void oracle_layer(decoder *d, int32_t layer, int64_t n, double x[][64]) {
    static double q[MOST_ROWS][64], k[MOST_ROWS][64], v[MOST_ROWS][64], mixed[MOST_ROWS][64];
    const decoder_config *c = decoder_get_config(d);
    const char *const *names = NORM_NAMES[c->layers.block];
    const int32_t slides = c->layers.sliding && c->layers.sliding[layer];
    const int64_t width = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim, ffn = c->ffn_hidden;
    const char *up_name = of_layer(d, layer, "mlp.gate_up_proj", "weight") ? "mlp.gate_up_proj" : "mlp.up_proj";
    double y[64], gate[64], up[64], out[64];
    for (int64_t i = 0; i < n; i++) {
        layer_norm(d, layer, names[0], c->hidden, x[i], y);
        linear(d, layer, "self_attn.q_proj", "self_attn.qkv_proj", 0, width, y, q[i]);
        linear(d, layer, "self_attn.k_proj", "self_attn.qkv_proj", width, kv, y, k[i]);
        linear(d, layer, "self_attn.v_proj", "self_attn.qkv_proj", width + kv, kv, y, v[i]);
        layer_norm(d, layer, "self_attn.q_norm", width, q[i], q[i]);
        layer_norm(d, layer, "self_attn.k_norm", kv, k[i], k[i]);
        for (int h = 0; h < c->n_heads; h++) rotate(c, slides, q[i] + h * c->head_dim, i);
        for (int h = 0; h < c->n_kv_heads; h++) rotate(c, slides, k[i] + h * c->head_dim, i);
    }
    attention(c, slides, n, q, k, v, mixed);
    for (int64_t i = 0; i < n; i++) {
        linear(d, layer, "self_attn.o_proj", "", 0, c->hidden, mixed[i], out);
        layer_norm(d, layer, names[1], c->hidden, out, out);
        for (int64_t j = 0; j < c->hidden; j++) x[i][j] += c->layers.residual_scale * out[j];
        layer_norm(d, layer, names[2], c->hidden, x[i], y);
        if (c->layers.gated_ffn) {
            linear(d, layer, "mlp.gate_proj", up_name, 0, ffn, y, gate);
            linear(d, layer, "mlp.up_proj", up_name, ffn, ffn, y, up);
        } else {
            linear(d, layer, "mlp.up_proj", "", 0, ffn, y, gate);
        }
        for (int64_t j = 0; j < ffn; j++)
            gate[j] = activation(c->layers.activation, gate[j]) * (c->layers.gated_ffn ? up[j] : 1.0);
        linear(d, layer, "mlp.down_proj", "", 0, c->hidden, gate, out);
        layer_norm(d, layer, names[3], c->hidden, out, out);
        for (int64_t j = 0; j < c->hidden; j++) x[i][j] += c->layers.residual_scale * out[j];
    }
}

/* Runs one sequence through all layers; x [n][.] becomes the last space. spaces (may be NULL) [m + 1][n][D]. */
static void oracle(decoder *d, const int32_t *tokens, int64_t n, double x[][64], double *spaces) {
    const decoder_config *c = decoder_get_config(d);
    const decoder_parameter *embedding = find(d, "model.embed_tokens.weight");
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < c->hidden; j++)
            x[i][j] = c->embedding_scale * (double)embedding->values[tokens[i] * c->hidden + j];
    }
    for (int32_t k = 0; k <= c->n_layers; k++) {
        for (int64_t i = 0; spaces && i < n * c->hidden; i++) *spaces++ = x[i / c->hidden][i % c->hidden];
        if (k < c->n_layers) oracle_layer(d, k, n, x);
    }
}

/* ---- a small case ---- */

typedef struct small_case {
    decoder *d;
    decoder_batch batch;
    float d_normed[MOST_ROWS * 12]; /* the loss is sum of d_normed * normed */
} small_case;

static const int32_t TOKENS[] = {3, 7, 22, 0, 9, 4, 4, 11, 1, 2, 3, 5, 8, 13, 21, 20, 6, 7};
static const int64_t OFFSETS[] = {0, 5, 8, 15, 16, 18};
static const int64_t HEAD_ROWS[] = {2, 4, 7, 10, 14, 15, 17};
#define N_SEQUENCES  5
#define N_HEADS_ROWS 7
#define N_LAYERS     4

static decoder_config small_config(int32_t bias, int32_t tied) {
    return (decoder_config){.n_layers = N_LAYERS,
                            .n_heads = 4,
                            .n_kv_heads = 2,
                            .head_dim = 4,
                            .hidden = 12,
                            .ffn_hidden = 20,
                            .vocab = 23,
                            .max_positions = 32,
                            .norm_eps = 1e-5,
                            .tied = tied,
                            .bos_token = 1,
                            .eos_token = 2,
                            .layers = {.struct_size = sizeof(salf_decoder_info),
                                       .gated_ffn = 1,
                                       .norm_kind = SALF_NORM_RMS,
                                       .biases = bias ? SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V : 0,
                                       .rope = SALF_ROPE_DEFAULT,
                                       .rope_theta = 100.0}};
}

/* Every parameter random and of a size that makes each operation matter. */
static void scramble(decoder *d) {
    uint64_t state = 99;
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        decoder_parameter *p = decoder_parameter_at(d, i);
        const double scale = strstr(p->name, "norm") ? 0.2 : p->rows == 1 ? 0.3 : 0.9 / sqrt((double)p->cols);
        for (int64_t j = 0; j < p->count; j++) {
            p->values[j] = (float)((strstr(p->name, "norm.weight") ? 1.0 : 0.0) + scale * harness_normal(&state));
        }
    }
}

static void make_case_of(small_case *c, const decoder_config *config, const decoder_training *training) {
    ck_assert_msg(decoder_create(&c->d, NULL, config, training, 5) == SALF_OK, "%s", decoder_error());
    lora_scale = training && training->lora_alpha > 0.0 ? training->lora_alpha / training->lora_rank : 1.0;
    scramble(c->d);
    c->batch = (decoder_batch){.tokens = TOKENS,
                               .offsets = OFFSETS,
                               .n_sequences = N_SEQUENCES,
                               .head_rows = HEAD_ROWS,
                               .n_head_rows = N_HEADS_ROWS};
    uint64_t state = 4;
    for (int i = 0; i < MOST_ROWS * 12; i++) c->d_normed[i] = (float)harness_normal(&state);
}

static inline void make_case(small_case *c, int32_t bias, int32_t tied, const decoder_training *training) {
    const decoder_config config = small_config(bias, tied);
    make_case_of(c, &config, training);
}

/* Loss over the sequences with eof <= depth. */
static inline double oracle_loss(const small_case *c, const int32_t *eof, int32_t depth) {
    static double x[MOST_ROWS][64];
    double loss = 0.0, y[64];
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        if (eof && eof[s] > depth) continue;
        oracle(c->d, TOKENS + OFFSETS[s], OFFSETS[s + 1] - OFFSETS[s], x, NULL);
        for (int i = 0; i < c->batch.n_head_rows; i++) {
            const int64_t row = c->batch.head_rows[i];
            if (row < OFFSETS[s] || row >= OFFSETS[s + 1]) continue;
            final_norm(c->d, x[row - OFFSETS[s]], y);
            for (int j = 0; j < 12; j++) loss += (double)c->d_normed[i * 12 + j] * y[j];
        }
    }
    return loss;
}

static inline double difference(const small_case *c, decoder_parameter *p, int64_t j, const int32_t *eof,
                                int32_t depth) {
    const float was = p->values[j], up = was + 6e-5f, down = was - 6e-5f;
    p->values[j] = up;
    const double above = oracle_loss(c, eof, depth);
    p->values[j] = down;
    const double below = oracle_loss(c, eof, depth);
    p->values[j] = was;
    return (above - below) / ((double)up - (double)down);
}

/* The plan itself keeps the group from training. */
static inline int32_t is_frozen(const decoder_plan *plan, int32_t group) {
    if (!plan) return 0;
    if (group == DECODER_EMBEDDING) return !plan->train_embedding;
    if (group == N_LAYERS) return !plan->train_head;
    return plan->trainable && !plan->trainable[group];
}

/* Gradients of every parameter, at some of its elements, against differences. */
static inline void check_gradients(small_case *c, const decoder_plan *plan) {
    const int32_t *eof = plan ? plan->eof : NULL;
    uint64_t state = 12;
    decoder_clear_gradients(c->d);
    ck_assert_int_eq(decoder_forward(c->d, &c->batch, 1, NULL, NULL), SALF_OK);
    ck_assert_msg(decoder_backward(c->d, c->d_normed, plan) == SALF_OK, "%s", decoder_error());
    for (int64_t i = 0; i < decoder_n_parameters(c->d); i++) {
        decoder_parameter *p = decoder_parameter_at(c->d, i);
        if (!p->trains || strcmp(p->name, "lm_head.weight") == 0) continue;
        const int32_t depth = p->group < 0 ? 0 : p->group < N_LAYERS ? p->group : N_LAYERS - 1;
        const int32_t frozen = is_frozen(plan, p->group);
        if (frozen) ck_assert_int_eq(decoder_is_live(c->d, p->group), 0);
        if (!decoder_is_live(c->d, p->group)) {
            for (int64_t s = 0; s < N_SEQUENCES && !frozen; s++) ck_assert_int_gt(eof[s], depth);
            continue;
        }
        for (int n = 0; n < 4; n++) {
            const int64_t j = (int64_t)(harness_uniform(&state) * (double)p->count);
            const double expected = difference(c, p, j, eof, depth), got = (double)p->gradient[j];
            ck_assert_msg(fabs(got - expected) < 2e-4 * (1.0 + fabs(expected)), "%s[%lld]: %.8g, differences give %.8g",
                          p->name, (long long)j, got, expected);
        }
    }
}

#endif
