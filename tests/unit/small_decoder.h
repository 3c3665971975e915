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
    const int64_t n = decoder_n_parameters(d), each = (n - 2) / decoder_get_config(d)->n_layers;
    const size_t prefix = strlen("model.layers.0."), length = strlen(name);
    for (int64_t i = 1 + k * each; i < 1 + (k + 1) * each; i++) {
        const decoder_parameter *p = decoder_parameter_at(d, i);
        const char *rest = p->name + prefix;
        if (strncmp(rest, name, length) == 0 && strcmp(rest + length + 1, suffix) == 0) return p;
    }
    return NULL;
}

static void norm(decoder *d, const float *weight, const double *x, double *y) {
    const int64_t hidden = decoder_get_config(d)->hidden;
    double squares = 0.0;
    for (int64_t j = 0; j < hidden; j++) squares += x[j] * x[j];
    const double scale = 1.0 / sqrt(squares / (double)hidden + decoder_get_config(d)->norm_eps);
    for (int64_t j = 0; j < hidden; j++) y[j] = x[j] * scale * (double)weight[j];
}

static double lora_scale; /* alpha / rank of the last case that was made */

/* y = W x + bias + (alpha / rank) B A x for a row. */
static void linear(decoder *d, int32_t k, const char *name, const double *x, double *y) {
    const decoder_parameter *w = of_layer(d, k, name, "weight"), *bias = of_layer(d, k, name, "bias");
    const decoder_parameter *a = of_layer(d, k, name, "lora_A.weight"), *b = of_layer(d, k, name, "lora_B.weight");
    for (int64_t i = 0; i < w->rows; i++) {
        y[i] = bias ? (double)bias->values[i] : 0.0;
        for (int64_t j = 0; j < w->cols; j++) y[i] += (double)w->values[i * w->cols + j] * x[j];
    }
    for (int64_t r = 0; a && r < a->rows; r++) {
        double low = 0.0;
        for (int64_t j = 0; j < a->cols; j++) low += (double)a->values[r * a->cols + j] * x[j];
        low *= lora_scale;
        for (int64_t i = 0; i < b->rows; i++) y[i] += (double)b->values[i * b->cols + r] * low;
    }
}

static void rotate(const decoder_config *c, double *x, int64_t position) {
    const int half = c->head_dim / 2;
    for (int i = 0; i < half; i++) {
        const double angle = (double)position * pow(c->rope_theta, -2.0 * i / c->head_dim);
        const double a = x[i], b = x[i + half];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + half] = b * cos(angle) + a * sin(angle);
    }
}

static void attention(const decoder_config *c, int64_t n, double q[][64], double k[][64], double v[][64],
                      double out[][64]) {
    for (int64_t i = 0; i < n; i++) {
        for (int h = 0; h < c->n_heads; h++) {
            const int query = h * c->head_dim, key = h / (c->n_heads / c->n_kv_heads) * c->head_dim;
            double weight[MOST_ROWS], sum = 0.0;
            for (int64_t j = 0; j <= i; j++) {
                double score = 0.0;
                for (int e = 0; e < c->head_dim; e++) score += q[i][query + e] * k[j][key + e];
                sum += weight[j] = exp(score / sqrt(c->head_dim));
            }
            for (int e = 0; e < c->head_dim; e++) {
                out[i][query + e] = 0.0;
                for (int64_t j = 0; j <= i; j++) out[i][query + e] += weight[j] / sum * v[j][key + e];
            }
        }
    }
}

static void oracle_layer(decoder *d, int32_t layer, int64_t n, double x[][64]) {
    static double q[MOST_ROWS][64], k[MOST_ROWS][64], v[MOST_ROWS][64], mixed[MOST_ROWS][64];
    const decoder_config *c = decoder_get_config(d);
    double y[64], gate[64], up[64], out[64];
    for (int64_t i = 0; i < n; i++) {
        norm(d, of_layer(d, layer, "input_layernorm", "weight")->values, x[i], y);
        linear(d, layer, "self_attn.q_proj", y, q[i]);
        linear(d, layer, "self_attn.k_proj", y, k[i]);
        linear(d, layer, "self_attn.v_proj", y, v[i]);
        for (int h = 0; h < c->n_heads; h++) rotate(c, q[i] + h * c->head_dim, i);
        for (int h = 0; h < c->n_kv_heads; h++) rotate(c, k[i] + h * c->head_dim, i);
    }
    attention(c, n, q, k, v, mixed);
    for (int64_t i = 0; i < n; i++) {
        linear(d, layer, "self_attn.o_proj", mixed[i], out);
        for (int64_t j = 0; j < c->hidden; j++) x[i][j] += out[j];
        norm(d, of_layer(d, layer, "post_attention_layernorm", "weight")->values, x[i], y);
        linear(d, layer, "mlp.gate_proj", y, gate);
        linear(d, layer, "mlp.up_proj", y, up);
        for (int64_t j = 0; j < c->ffn_hidden; j++) gate[j] = gate[j] / (1.0 + exp(-gate[j])) * up[j];
        linear(d, layer, "mlp.down_proj", gate, out);
        for (int64_t j = 0; j < c->hidden; j++) x[i][j] += out[j];
    }
}

/* Runs one sequence through all layers; x [n][.] becomes the last space. spaces (may be NULL) [m + 1][n][D]. */
static void oracle(decoder *d, const int32_t *tokens, int64_t n, double x[][64], double *spaces) {
    const decoder_config *c = decoder_get_config(d);
    const decoder_parameter *embedding = find(d, "model.embed_tokens.weight");
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < c->hidden; j++) x[i][j] = (double)embedding->values[tokens[i] * c->hidden + j];
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
                            .rope_theta = 100.0,
                            .attention_bias = bias,
                            .tied = tied,
                            .bos_token = 1,
                            .eos_token = 2};
}

/* Every parameter random and of a size that makes each operation matter. */
static void scramble(decoder *d) {
    uint64_t state = 99;
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        decoder_parameter *p = decoder_parameter_at(d, i);
        const double scale = strstr(p->name, "norm") ? 0.2 : p->rows == 1 ? 0.3 : 0.9 / sqrt((double)p->cols);
        for (int64_t j = 0; j < p->count; j++) {
            p->values[j] = (float)((strstr(p->name, "norm") ? 1.0 : 0.0) + scale * harness_normal(&state));
        }
    }
}

static void make_case(small_case *c, int32_t bias, int32_t tied, const decoder_training *training) {
    const decoder_config config = small_config(bias, tied);
    ck_assert_msg(decoder_create(&c->d, NULL, &config, training, 5) == SALF_OK, "%s", decoder_error());
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

/* Loss over the sequences with eof <= depth. */
static double oracle_loss(const small_case *c, const int32_t *eof, int32_t depth) {
    static double x[MOST_ROWS][64];
    double loss = 0.0, y[64];
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        if (eof && eof[s] > depth) continue;
        oracle(c->d, TOKENS + OFFSETS[s], OFFSETS[s + 1] - OFFSETS[s], x, NULL);
        for (int i = 0; i < c->batch.n_head_rows; i++) {
            const int64_t row = c->batch.head_rows[i];
            if (row < OFFSETS[s] || row >= OFFSETS[s + 1]) continue;
            norm(c->d, find(c->d, "model.norm.weight")->values, x[row - OFFSETS[s]], y);
            for (int j = 0; j < 12; j++) loss += (double)c->d_normed[i * 12 + j] * y[j];
        }
    }
    return loss;
}

static double difference(const small_case *c, decoder_parameter *p, int64_t j, const int32_t *eof, int32_t depth) {
    const float was = p->values[j], up = was + 6e-5f, down = was - 6e-5f;
    p->values[j] = up;
    const double above = oracle_loss(c, eof, depth);
    p->values[j] = down;
    const double below = oracle_loss(c, eof, depth);
    p->values[j] = was;
    return (above - below) / ((double)up - (double)down);
}

/* The plan itself keeps the group from training. */
static int32_t is_frozen(const decoder_plan *plan, int32_t group) {
    if (!plan) return 0;
    if (group == DECODER_EMBEDDING) return !plan->train_embedding;
    if (group == N_LAYERS) return !plan->train_head;
    return plan->trainable && !plan->trainable[group];
}

/* Gradients of every parameter, at some of its elements, against differences. */
static void check_gradients(small_case *c, const decoder_plan *plan) {
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
