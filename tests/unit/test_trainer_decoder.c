/*
 * test_trainer_decoder.c - the decoder of the host program against a plain double-precision forward pass, one sequence
 * at a time: values, and gradients by central differences of that forward.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adamw.h"
#include "decoder.h"
#include "harness.h"
#include "memory.h"

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
        low *= decoder_get_training(d)->lora_alpha / decoder_get_training(d)->lora_rank;
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
    scramble(c->d);
    c->batch = (decoder_batch){TOKENS, OFFSETS, N_SEQUENCES, HEAD_ROWS, N_HEADS_ROWS};
    uint64_t state = 4;
    for (int i = 0; i < MOST_ROWS * 12; i++) c->d_normed[i] = (float)harness_normal(&state);
}

/* Head rows of all kinds: every row, of one sequence only, the first of each, several and none, one, none at all. */
static const struct {
    int64_t n;
    int64_t rows[18];
} HEAD_CHOICES[] = {
    {18, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}},
    {7, {8, 9, 10, 11, 12, 13, 14}},
    {5, {0, 5, 8, 15, 16}},
    {6, {1, 4, 9, 10, 14, 17}},
    {1, {6}},
    {0, {0}},
};
#define N_HEAD_CHOICES 6

static void set_heads(small_case *c, int choice) {
    c->batch.head_rows = HEAD_CHOICES[choice].rows;
    c->batch.n_head_rows = HEAD_CHOICES[choice].n;
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

/* ---- tests ---- */

typedef struct seen_spaces {
    int32_t next;
    double worst;
    const decoder_batch *batch;
    const double *expected; /* [n_sequences] of [m + 1][n][D] */
} seen_spaces;

/* In the last space rows that are not head rows hold zeros. */
static int32_t is_computed(const decoder_batch *batch, int32_t space, int64_t row) {
    if (space < N_LAYERS) return 1;
    for (int64_t i = 0; i < batch->n_head_rows; i++) {
        if (batch->head_rows[i] == row) return 1;
    }
    return 0;
}

static salf_status compare_space(void *user, int32_t space, int64_t rows, const float *states) {
    seen_spaces *seen = user;
    ck_assert_int_eq(space, seen->next++);
    ck_assert_int_eq(rows, OFFSETS[N_SEQUENCES]);
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        const int64_t n = OFFSETS[s + 1] - OFFSETS[s];
        const double *expected = seen->expected + OFFSETS[s] * 12 * (N_LAYERS + 1) + space * n * 12;
        for (int64_t i = 0; i < n * 12; i++) {
            const int32_t computed = is_computed(seen->batch, space, OFFSETS[s] + i / 12);
            const double error = fabs((double)states[OFFSETS[s] * 12 + i] - (computed ? expected[i] : 0.0));
            if (error > seen->worst) seen->worst = error;
        }
    }
    return SALF_OK;
}

START_TEST(forward_agrees_with_a_plain_one_in_every_space) {
    const decoder_training lora = {.lora_rank = 3, .lora_alpha = 5.0};
    small_case c;
    make_case(&c, 1, 0, &lora);
    static double x[MOST_ROWS][64], expected[18 * 12 * (N_LAYERS + 1)];
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        oracle(c.d, TOKENS + OFFSETS[s], OFFSETS[s + 1] - OFFSETS[s], x, expected + OFFSETS[s] * 12 * (N_LAYERS + 1));
    }
    for (int i = 0; i < 2 * N_HEAD_CHOICES; i++) {
        set_heads(&c, i / 2);
        seen_spaces seen = {0, 0.0, &c.batch, expected};
        ck_assert_int_eq(decoder_forward(c.d, &c.batch, i % 2, compare_space, &seen), SALF_OK);
        ck_assert_int_eq(seen.next, N_LAYERS + 1);
        ck_assert_msg(seen.worst < 2e-5, "head rows %d, keep %d: %g", i / 2, i % 2, seen.worst);
    }
    decoder_free(c.d);
}
END_TEST

START_TEST(dense_gradients_agree_with_differences) {
    const decoder_training dense = {.train_embedding = 1, .train_head = 1};
    for (int32_t bias = 0; bias < 2; bias++) {
        small_case c;
        make_case(&c, bias, bias, &dense);
        check_gradients(&c, NULL);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(lora_gradients_agree_with_differences) {
    const int32_t targets[] = {0, SALF_MATRIX_Q | SALF_MATRIX_V, SALF_MATRIX_K | SALF_MATRIX_UP, SALF_MATRIX_DOWN,
                               SALF_MATRIX_O | SALF_MATRIX_GATE};
    for (int i = 0; i < 5; i++) {
        const decoder_training lora = {.lora_rank = 2, .lora_targets = targets[i], .lora_alpha = 3.0};
        small_case c;
        make_case(&c, 1, 1, &lora);
        check_gradients(&c, NULL);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(every_sequence_is_cut_at_its_own_depth) {
    static const int32_t eof[][N_SEQUENCES] = {{0, 1, 2, 3, 4}, {3, 0, 4, 1, 1}, {2, 2, 2, 2, 2},
                                               {4, 3, 2, 1, 0}, {1, 1, 4, 1, 1}, {0, 0, 0, 0, 3}};
    for (int dense = 0; dense < 2; dense++) {
        const decoder_training training = {.lora_rank = dense ? 0 : 3, .train_embedding = dense, .train_head = 1};
        small_case c;
        make_case(&c, 1, 0, &training);
        for (int i = 0; i < 6; i++) {
            const decoder_plan plan = {eof[i], NULL, 1, 1};
            check_gradients(&c, &plan);
        }
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(gradients_with_head_rows_of_all_kinds) {
    static const int32_t eof[][N_SEQUENCES] = {{0, 0, 0, 0, 0}, {3, 0, 3, 1, 1}, {3, 3, 3, 4, 0}};
    for (int i = 0; i < 3 * N_HEAD_CHOICES; i++) {
        const decoder_training training = {.lora_rank = i % 2 ? 3 : 0, .train_embedding = 1, .train_head = 1};
        const decoder_plan plan = {eof[i % 3], NULL, 1, 1};
        small_case c;
        make_case(&c, 1, 0, &training);
        set_heads(&c, i / 3);
        check_gradients(&c, &plan);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(only_the_layers_asked_for_get_gradients) {
    static const int32_t eof[] = {1, 0, 3, 0, 2};
    for (int dense = 0; dense < 2; dense++) {
        const decoder_training training = {.lora_rank = dense ? 0 : 2, .train_embedding = 1};
        small_case c;
        make_case(&c, 0, 1, &training);
        for (unsigned mask = 0; mask < 1u << N_LAYERS; mask++) {
            uint8_t trainable[N_LAYERS];
            for (unsigned k = 0; k < N_LAYERS; k++) trainable[k] = mask >> k & 1u;
            const decoder_plan plan = {mask % 3 ? eof : NULL, trainable, mask & 1, 1};
            check_gradients(&c, &plan);
        }
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(nothing_runs_when_no_sequence_trains) {
    static const int32_t eof[] = {4, 4, 4, 4, 4};
    const decoder_training dense = {.train_embedding = 1, .train_head = 1};
    const decoder_plan plan = {eof, NULL, 1, 1};
    small_case c;
    make_case(&c, 0, 1, &dense);
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, &plan), SALF_OK);
    for (int32_t g = -1; g <= N_LAYERS; g++) ck_assert_int_eq(decoder_is_live(c.d, g), 0);
    decoder_free(c.d);
}
END_TEST

START_TEST(cross_entropy_and_its_gradients_are_right) {
    const decoder_training dense = {.train_head = 1};
    const int32_t labels[N_HEADS_ROWS] = {0, 22, 5, 5, 1, 9, 10};
    small_case c;
    make_case(&c, 0, 0, &dense);
    float logits[N_HEADS_ROWS * 23], losses[N_HEADS_ROWS], d_normed[N_HEADS_ROWS * 12];
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_logits(c.d, NULL, 23, logits), SALF_OK);
    decoder_clear_gradients(c.d);
    ck_assert_int_eq(decoder_cross_entropy(c.d, labels, 0.5, 1, losses, d_normed), SALF_OK);
    const decoder_parameter *head = find(c.d, "lm_head.weight");
    double d_head[23 * 12] = {0};
    for (int i = 0; i < N_HEADS_ROWS; i++) {
        double sum = 0.0, expected[12] = {0};
        for (int v = 0; v < 23; v++) sum += exp((double)logits[i * 23 + v]);
        ck_assert_double_eq_tol(losses[i], log(sum) - (double)logits[i * 23 + labels[i]], 1e-5);
        for (int v = 0; v < 23; v++) {
            const double dz = 0.5 * (exp((double)logits[i * 23 + v]) / sum - (v == labels[i]));
            for (int j = 0; j < 12; j++) expected[j] += dz * (double)head->values[v * 12 + j];
            for (int j = 0; j < 12; j++) d_head[v * 12 + j] += dz * (double)decoder_normed(c.d)[i * 12 + j];
        }
        for (int j = 0; j < 12; j++) ck_assert_double_eq_tol(d_normed[i * 12 + j], expected[j], 1e-5);
    }
    for (int i = 0; i < 23 * 12; i++) ck_assert_double_eq_tol(head->gradient[i], d_head[i], 1e-5);
    const int32_t some[] = {22, 0, 3};
    float few[N_HEADS_ROWS * 3];
    ck_assert_int_eq(decoder_logits(c.d, some, 3, few), SALF_OK);
    for (int i = 0; i < N_HEADS_ROWS * 3; i++) {
        ck_assert_double_eq_tol(few[i], logits[i / 3 * 23 + some[i % 3]], 1e-5);
    }
    decoder_free(c.d);
}
END_TEST

START_TEST(gradients_add_up_until_they_are_cleared) {
    const decoder_training lora = {.lora_rank = 2};
    small_case c;
    make_case(&c, 0, 1, &lora);
    double l1[N_LAYERS], once[N_LAYERS], twice[N_LAYERS];
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, NULL), SALF_OK);
    decoder_gradient_norms(c.d, l1, once);
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, NULL), SALF_OK);
    decoder_gradient_norms(c.d, NULL, twice);
    double total = 0.0;
    for (int k = 0; k < N_LAYERS; k++) {
        ck_assert_double_eq_tol(twice[k], 2.0 * once[k], 1e-5 * once[k]);
        ck_assert_double_ge(l1[k], once[k]);
        total += twice[k] * twice[k];
    }
    ck_assert_double_eq_tol(decoder_clip_gradients(c.d, 0.25), sqrt(total), 1e-6 * sqrt(total));
    ck_assert_double_eq_tol(decoder_clip_gradients(c.d, 0.0), 0.25, 1e-6);
    decoder_clear_gradients(c.d);
    decoder_gradient_norms(c.d, l1, once);
    for (int k = 0; k < N_LAYERS; k++) ck_assert(l1[k] == 0.0 && once[k] == 0.0);
    decoder_free(c.d);
}
END_TEST

START_TEST(same_calls_give_the_same_bits) {
    const decoder_training dense = {.train_embedding = 1, .train_head = 1};
    static const int32_t eof[] = {1, 0, 3, 0, 2};
    const decoder_plan plan = {eof, NULL, 1, 1};
    small_case a, b;
    make_case(&a, 1, 1, &dense);
    make_case(&b, 1, 1, &dense);
    const int64_t offsets[] = {0, 18};
    const decoder_batch other = {TOKENS, offsets, 1, HEAD_ROWS, 1};
    ck_assert_int_eq(decoder_forward(b.d, &other, 1, NULL, NULL), SALF_OK);
    for (int i = 0; i < 2; i++) {
        decoder *d = i ? b.d : a.d;
        decoder_clear_gradients(d);
        ck_assert_int_eq(decoder_forward(d, &a.batch, 1, NULL, NULL), SALF_OK);
        ck_assert_int_eq(decoder_backward(d, a.d_normed, &plan), SALF_OK);
    }
    for (int64_t i = 0; i < decoder_n_parameters(a.d); i++) {
        const decoder_parameter *p = decoder_parameter_at(a.d, i), *q = decoder_parameter_at(b.d, i);
        ck_assert_mem_eq(p->gradient, q->gradient, (size_t)p->count * sizeof(float));
    }
    decoder_free(a.d);
    decoder_free(b.d);
}
END_TEST

#define CHECK_REFUSED(call, status, words)                                                                \
    do {                                                                                                  \
        ck_assert_int_eq(call, status);                                                                   \
        ck_assert_msg(harness_contains(decoder_error(), words), "'%s' lacks %s", decoder_error(), words); \
    } while (0)

START_TEST(bad_input_is_named) {
    small_case c;
    make_case(&c, 0, 1, NULL);
    CHECK_REFUSED(decoder_backward(c.d, c.d_normed, NULL), SALF_E_SEQUENCE, "inference");
    const int32_t outside[] = {1, 23};
    const int64_t offsets[] = {0, 2}, empty[] = {0, 2, 2}, rows[] = {1, 1}, far[] = {2};
    const decoder_batch bad[] = {{outside, offsets, 1, rows, 1},
                                 {TOKENS, empty, 2, rows, 1},
                                 {TOKENS, offsets, 1, rows, 2},
                                 {TOKENS, offsets, 1, far, 1},
                                 {TOKENS, offsets, 0, rows, 1}};
    static const char *const words[] = {"token 23", "sequence 1", "head row 1", "is 2", "n_sequences is 0"};
    for (int i = 0; i < 5; i++) {
        CHECK_REFUSED(decoder_forward(c.d, &bad[i], 0, NULL, NULL), SALF_E_ARGUMENT, words[i]);
    }
    float losses[N_HEADS_ROWS];
    const int32_t labels[N_HEADS_ROWS] = {0, 1, 40};
    CHECK_REFUSED(decoder_cross_entropy(c.d, labels, 1.0, 0, losses, NULL), SALF_E_SEQUENCE, "forward");
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 0, NULL, NULL), SALF_OK);
    CHECK_REFUSED(decoder_cross_entropy(c.d, labels, 1.0, 0, losses, NULL), SALF_E_LABEL, "40");
    decoder_free(c.d);
    decoder *d;
    decoder_config config = small_config(0, 1);
    config.n_kv_heads = 3;
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_ARGUMENT, "3 kv heads");
    ck_assert_ptr_null(d);
}
END_TEST

/* ---- memory that runs out ---- */

/* Makes a model, trains a step and saves it, with the status of the first call that fails. Every output of a call that
 * fails is NULL or as it was. */
static salf_status live_once(const decoder_training *training, const char *folder, salf_context *context) {
    const decoder_config config = small_config(1, 0);
    const decoder_batch batch = {TOKENS, OFFSETS, N_SEQUENCES, HEAD_ROWS, N_HEADS_ROWS};
    const int32_t labels[N_HEADS_ROWS] = {0, 22, 5, 5, 1, 9, 10};
    float losses[N_HEADS_ROWS], d_normed[N_HEADS_ROWS * 12];
    decoder *d = NULL;
    adamw *a = NULL;
    salf_status status = decoder_create(&d, context, &config, training, 5);
    ck_assert_int_eq(status == SALF_OK, d != NULL);
    if (!status) {
        status = adamw_create(&a, d, NULL);
        ck_assert_int_eq(status == SALF_OK, a != NULL);
    }
    if (!status) status = decoder_forward(d, &batch, 1, NULL, NULL);
    if (!status) status = decoder_cross_entropy(d, labels, 1.0, 1, losses, d_normed);
    if (!status) status = decoder_backward(d, d_normed, NULL);
    if (!status) {
        const decoder_parameter *p = decoder_parameter_at(d, decoder_n_parameters(d) - 1);
        const float was = p->values[0];
        status = adamw_step(a, 0.1, NULL);
        if (status) ck_assert(p->values[0] == was && adamw_steps(a)[1] == 0);
    }
    if (!status) status = decoder_save(d, folder, SALF_BF16);
    adamw_free(a);
    decoder_free(d);
    return status;
}

START_TEST(every_allocation_may_fail) {
    char folder[] = "/tmp/salf-decoder-XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    const decoder_training kinds[] = {{.train_embedding = 1, .train_head = 1}, {.lora_rank = 2}};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int kind = 0; kind < 2; kind++) {
        int64_t n = 0;
        for (salf_status status = SALF_E_NO_MEMORY; status; n++) {
            memory_fail_after(n);
            status = live_once(&kinds[kind], folder, context);
            memory_fail_after(-1);
            if (!status) break;
            ck_assert_int_eq(status, SALF_E_NO_MEMORY);
            ck_assert_msg(harness_contains(decoder_error(), "no memory"), "%s", decoder_error());
            snprintf(path, sizeof path, "%s/model.safetensors", folder);
            ck_assert_int_ne(access(path, F_OK), 0);
        }
        ck_assert_int_gt(n, 20); /* 7 of the decoder, 3 of the optimizer, 3 of the forward, moments, 3 to save */
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        ck_assert_int_eq(remove(path), 0);
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    ck_assert_int_eq(remove(path), 0);
    ck_assert_int_eq(rmdir(folder), 0);
    salf_context_destroy(context);
}
END_TEST

/* A forward that found no memory is as if it had not been: the next one is right, and so is its backward. */
START_TEST(a_forward_without_memory_can_be_repeated) {
    const decoder_training lora = {.lora_rank = 2};
    const int64_t offsets[] = {0, 2};
    const decoder_batch little = {TOKENS, offsets, 1, offsets, 1};
    small_case c;
    make_case(&c, 1, 1, &lora);
    for (int64_t n = 0; n < 3; n++) {
        decoder_clear_gradients(c.d);
        if (n == 0) ck_assert_int_eq(decoder_forward(c.d, &little, 1, NULL, NULL), SALF_OK);
        memory_fail_after(n);
        CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_NO_MEMORY, "no memory");
        memory_fail_after(-1);
        float logit[N_HEADS_ROWS];
        CHECK_REFUSED(decoder_logits(c.d, TOKENS, 1, logit), SALF_E_SEQUENCE, "no forward");
        check_gradients(&c, NULL);
        decoder_free(c.d);
        make_case(&c, 1, 1, &lora);
    }
    decoder_free(c.d);
}
END_TEST

START_TEST(sizes_that_cannot_be_held_are_refused) {
    decoder *d;
    decoder_config config = small_config(0, 1);
    config.n_layers = 4096, config.hidden = 1 << 24, config.ffn_hidden = 1 << 26;
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_NO_MEMORY, "parameters");
    ck_assert_ptr_null(d);
}
END_TEST

START_TEST(a_model_is_not_saved_where_it_cannot_be) {
    small_case c;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const decoder_config config = small_config(0, 1);
    ck_assert_int_eq(decoder_create(&c.d, context, &config, NULL, 1), SALF_OK);
    CHECK_REFUSED(decoder_save(c.d, "/nonexistent/folder", SALF_F32), SALF_E_IO, "/nonexistent/folder");
    CHECK_REFUSED(decoder_save(c.d, "/dev/null", SALF_F32), SALF_E_IO, "/dev/null");
    CHECK_REFUSED(decoder_save(c.d, "/tmp", SALF_I32), SALF_E_DTYPE, "type");
    decoder_free(c.d);
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, forward_agrees_with_a_plain_one_in_every_space);
    HARNESS_ADD(suite, dense_gradients_agree_with_differences);
    HARNESS_ADD(suite, lora_gradients_agree_with_differences);
    HARNESS_ADD(suite, every_sequence_is_cut_at_its_own_depth);
    HARNESS_ADD(suite, gradients_with_head_rows_of_all_kinds);
    HARNESS_ADD(suite, only_the_layers_asked_for_get_gradients);
    HARNESS_ADD(suite, nothing_runs_when_no_sequence_trains);
    HARNESS_ADD(suite, cross_entropy_and_its_gradients_are_right);
    HARNESS_ADD(suite, gradients_add_up_until_they_are_cleared);
    HARNESS_ADD(suite, same_calls_give_the_same_bits);
    HARNESS_ADD(suite, bad_input_is_named);
    HARNESS_ADD(suite, every_allocation_may_fail);
    HARNESS_ADD(suite, a_forward_without_memory_can_be_repeated);
    HARNESS_ADD(suite, sizes_that_cannot_be_held_are_refused);
    HARNESS_ADD(suite, a_model_is_not_saved_where_it_cannot_be);
}
