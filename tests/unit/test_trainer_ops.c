/*
 * test_trainer_ops.c - the trainer's operations against double precision, and their gradients against differences of
 * it. Widths are chosen on both sides of the vector width, so that the loops' remainders are covered.
 */
#include <math.h>
#include <string.h>

#include "harness.h"
#include "ops.h"

#define MOST 512

static void fill(float *x, int64_t n, double scale, uint64_t *state) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * harness_normal(state));
}

START_TEST(sums_and_exponentials_are_accurate) {
    float x[MOST], y[MOST];
    uint64_t state = 1;
    for (int64_t n = 1; n < 70; n += 3) {
        double dot = 0.0, sum = 0.0, most = -INFINITY;
        fill(x, n, 4.0, &state);
        fill(y, n, 1.0, &state);
        for (int64_t i = 0; i < n; i++) {
            dot += (double)x[i] * (double)y[i];
            sum += exp((double)x[i] - 3.0);
            most = fmax(most, (double)x[i]);
        }
        ck_assert_double_eq_tol(ops_dot(x, y, n), dot, 1e-4);
        ck_assert((double)ops_max(x, n) == most);
        memcpy(y, x, sizeof x);
        ck_assert_double_eq_tol(ops_exp_sum(y, 3.0f, n), sum, 1e-5 * sum);
        for (int64_t i = 0; i < n; i++) {
            const double expected = exp((double)(x[i] - 3.0f));
            ck_assert_double_eq_tol(y[i], expected, 1e-6 * expected);
        }
    }
    float far[] = {-1e30f, -200.0f, 0.0f};
    ops_exp_sum(far, 0.0f, 3);
    ck_assert(far[0] >= 0.0f && far[0] < 1e-37f && far[1] < 1e-37f && far[2] == 1.0f);
}
END_TEST

/* Sum of c_i y_i for the norm of a row, in double. */
static double norm_loss(const ops_norm *norm, const float *x, const float *c) {
    const double n = (double)norm->width;
    double mean = 0.0, squares = 0.0, loss = 0.0;
    for (int64_t j = 0; norm->centred && j < norm->width; j++) mean += (double)x[j] / n;
    for (int64_t j = 0; j < norm->width; j++) squares += ((double)x[j] - mean) * ((double)x[j] - mean);
    for (int64_t j = 0; j < norm->width; j++) {
        const double y = ((double)x[j] - mean) / sqrt(squares / n + norm->eps);
        loss += (double)c[j] *
                (y * ((double)norm->weight[j] + (double)norm->plus) + (norm->bias ? (double)norm->bias[j] : 0.0));
    }
    return loss;
}

/* Central difference of f by x[j]. */
#define DIFFERENCE(out, x, j, f)                         \
    do {                                                 \
        const float was_ = (x)[j], step_ = 1e-4f;        \
        (x)[j] = was_ + step_;                           \
        const double up_ = (double)(x)[j], above_ = (f); \
        (x)[j] = was_ - step_;                           \
        (out) = (above_ - (f)) / (up_ - (double)(x)[j]); \
        (x)[j] = was_;                                   \
    } while (0)

/* RMSNorm, that of Gemma, LayerNorm with and without bias. */
START_TEST(norms_and_their_gradients) {
    const int64_t row[] = {2, 0};
    for (int i = 0; i < 4 * 4; i++) {
        const int kind = i % 4;
        const int64_t n = 5 + i / 4 * 11;
        float x[3 * 40], w[40], bias[40], c[2 * 40], y[2 * 40], moments[6], all[3 * 40];
        float dx[2 * 40] = {0}, dw[40] = {0}, db[40] = {0};
        double dw_expected[40] = {0};
        uint64_t state = 3;
        ops_norm norm = {.weight = w, .d_weight = dw, .width = n, .eps = 1e-5, .centred = kind >= 2};
        if (kind == 1) norm.plus = 1.0f;
        if (kind == 3) norm.bias = bias, norm.d_bias = db;
        fill(x, 3 * n, 1.0, &state);
        fill(w, n, 1.0, &state);
        fill(bias, n, 1.0, &state);
        fill(c, 2 * n, 1.0, &state);
        ops_norm_moments(&norm, x, NULL, 3, moments);
        ops_norm_apply(&norm, x, moments, NULL, 3, all);
        ops_norm_apply(&norm, x, moments, row, 2, y);
        ck_assert_mem_eq(y, all + 2 * n, (size_t)n * sizeof(float));
        ck_assert_mem_eq(y + n, all, (size_t)n * sizeof(float));
        ops_norm_backward(&norm, x, moments, row, 2, c, dx);
        for (int64_t r = 0; r < 2; r++) {
            float *from = x + row[r] * n, *cr = c + r * n;
            double loss = 0.0, expected;
            for (int64_t j = 0; j < n; j++) loss += (double)cr[j] * (double)y[r * n + j];
            ck_assert_double_eq_tol(loss, norm_loss(&norm, from, cr), 1e-5);
            for (int64_t j = 0; j < n; j++) {
                DIFFERENCE(expected, from, j, norm_loss(&norm, from, cr));
                ck_assert_double_eq_tol(dx[r * n + j], expected, 2e-5);
                DIFFERENCE(expected, w, j, norm_loss(&norm, from, cr));
                dw_expected[j] += expected;
            }
        }
        for (int64_t j = 0; j < n; j++) {
            ck_assert_double_eq_tol(dw[j], dw_expected[j], 2e-5);
            if (norm.bias) ck_assert_double_eq_tol(db[j], (double)c[j] + (double)c[n + j], 1e-6);
        }
    }
}
END_TEST

/* act(gate) * up, or act(gate) alone. */
static double activated(int32_t kind, float gate, const float *up) {
    const double x = (double)gate, rate = sqrt(2.0 / 3.14159265358979323846);
    double y = x > 0.0 ? x : 0.0;
    if (kind == OPS_SILU) y = x / (1.0 + exp(-x));
    if (kind == OPS_GELU) y = 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    if (kind == OPS_GELU_TANH) y = 0.5 * x * (1.0 + tanh(rate * (x + 0.044715 * x * x * x)));
    return up ? y * (double)*up : y;
}

START_TEST(activations_and_their_gradients) {
    const int64_t row[] = {1, 0}, n = 21;
    for (int i = 0; i < 8; i++) {
        const int32_t kind = i / 2, gated = i % 2;
        const int64_t step = gated ? 2 * n : n;
        float x[2 * 42], hidden[2 * 21], again[2 * 21], d_hidden[2 * 21], d_x[2 * 42];
        uint64_t state = 9;
        fill(x, 2 * step, 3.0, &state);
        fill(d_hidden, 2 * n, 1.0, &state);
        ops_activate(kind, gated, x, 2, n, hidden);
        ops_activate_backward(kind, gated, x, row, 2, n, d_hidden, d_x, again);
        for (int64_t r = 0; r < 2; r++) {
            float *gate = x + row[r] * step;
            for (int64_t j = 0; j < n; j++) {
                float *up = gated ? gate + n + j : NULL;
                const double dh = (double)d_hidden[r * n + j];
                double expected;
                ck_assert_double_eq_tol(again[r * n + j], hidden[row[r] * n + j], 1e-5);
                ck_assert_double_eq_tol(again[r * n + j], activated(kind, gate[j], up),
                                        2e-6 * (1 + fabs((double)again[r * n + j])));
                DIFFERENCE(expected, gate, j, activated(kind, gate[j], up) * dh);
                ck_assert_double_eq_tol(d_x[r * step + j], expected, 3e-5);
                if (!up) continue;
                DIFFERENCE(expected, up, 0, activated(kind, gate[j], up) * dh);
                ck_assert_double_eq_tol(d_x[r * step + n + j], expected, 3e-5);
            }
        }
    }
}
END_TEST

START_TEST(soft_caps_and_their_gradients) {
    for (int i = 0; i < 4; i++) {
        const float cap = i % 2 ? 3.0f : 0.0f, scale = i / 2 ? 0.3f : 1.0f;
        float x[37], y[37], d[37];
        uint64_t state = 12;
        fill(x, 37, 4.0, &state);
        fill(x, 9, 0.05, &state); /* small ones, where tanh is a series */
        memcpy(y, x, sizeof x);
        for (int j = 0; j < 37; j++) d[j] = 1.0f;
        ops_softcap(y, 37, scale, cap);
        ops_softcap_backward(d, y, 37, scale, cap);
        for (int j = 0; j < 37; j++) {
            const double at = (double)scale * (double)x[j], t = cap > 0 ? tanh(at / (double)cap) : 0.0;
            const double expected = cap > 0 ? (double)cap * t : at;
            ck_assert_double_eq_tol(y[j], expected, 1e-6 * fabs(expected));
            ck_assert_double_eq_tol(d[j], (double)scale * (1.0 - t * t), 2e-6);
        }
    }
}
END_TEST

START_TEST(rotation_keeps_lengths_and_is_undone) {
    for (int half = 2; half < 4; half++) { /* a part of a head, or all of it */
        const double frequencies[] = {1.0, 0.2, 0.03}, factor = 1.3;
        float table[7 * 6], x[7 * 20], was[7 * 20];
        uint64_t state = 6;
        ops_rope_table(table, 7, half, frequencies, factor);
        fill(x, 7 * 20, 1.0, &state);
        memcpy(was, x, sizeof x);
        ops_rope(x, 7, 20, 3, 6, half, table, 1.0f);
        for (int p = 0; p < 7; p++) {
            for (int i = 0; i < half; i++) { /* of head 1 */
                const double angle = p * frequencies[i], a = was[p * 20 + 6 + i], b = was[p * 20 + 6 + half + i];
                ck_assert_double_eq_tol(x[p * 20 + 6 + i], factor * (a * cos(angle) - b * sin(angle)), 2e-6);
                ck_assert_double_eq_tol(x[p * 20 + 6 + half + i], factor * (b * cos(angle) + a * sin(angle)), 2e-6);
            }
            for (int i = 6 + 2 * half; i < 12; i++) ck_assert(x[p * 20 + i] == was[p * 20 + i]);
            ck_assert(x[p * 20 + 18] == was[p * 20 + 18]); /* beyond the heads */
        }
        ops_rope(x, 7, 20, 3, 6, half, table, -1.0f);
        for (int i = 0; i < 7 * 20; i++) {
            const int turned = i % 20 < 18 && i % 20 % 6 < 2 * half;
            ck_assert_double_eq_tol(x[i], (double)was[i] * (turned ? factor * factor : 1.0), 2e-6);
        }
    }
}
END_TEST

/* Plain; with a scale and a cap; with a window; with all. */
static const ops_heads HEADS[] = {{4, 2, 6, 0.0, 0.0, 0},
                                  {4, 2, 6, 0.7, 1.5, 0},
                                  {4, 2, 6, 0.0, 0.0, 3},
                                  {4, 2, 6, 0.9, 2.0, 17},
                                  {4, 2, 6, 0.3, 0.0, 1}};
#define N_SHAPES 5
#define ROWS     37
#define WIDTH    48
#define SCRATCH  (13 * 48 + 48 * ROWS)

/* Sum of c * attention, in double. */
static double attention_loss(const ops_heads *shape, const float *qkv, const float *c) {
    const double scale = shape->scale > 0.0 ? shape->scale : 1.0 / sqrt(6.0), cap = shape->softcap;
    double loss = 0.0;
    for (int h = 0; h < 4; h++) {
        for (int i = 0; i < ROWS; i++) {
            double sum = 0.0, along = 0.0;
            for (int j = 0; j <= i; j++) {
                const float *q = qkv + i * WIDTH + h * 6, *k = qkv + j * WIDTH + 24 + h / 2 * 6, *v = k + 12;
                double score = 0.0, value = 0.0;
                if (shape->window && i - j >= shape->window) continue;
                for (int e = 0; e < 6; e++) {
                    score += scale * (double)q[e] * (double)k[e];
                    value += (double)v[e] * (double)c[i * 24 + h * 6 + e];
                }
                if (cap > 0.0) score = cap * tanh(score / cap);
                sum += exp(score);
                along += exp(score) * value;
            }
            loss += along / sum;
        }
    }
    return loss;
}

START_TEST(attention_and_its_gradient) {
    static float qkv[ROWS * WIDTH], c[ROWS * 24], out[ROWS * 24], again[ROWS * 24], weights[4 * ROWS * ROWS];
    static float d_qkv[ROWS * WIDTH], scratch[SCRATCH];
    const ops_queries all = {ROWS, qkv, WIDTH, NULL, 0};
    for (int s = 0; s < N_SHAPES; s++) {
        const ops_heads *shape = &HEADS[s];
        uint64_t state = 31;
        ck_assert_int_le(ops_attention_scratch(shape, ROWS, 1), SCRATCH);
        fill(qkv, ROWS * WIDTH, 1.0, &state);
        fill(c, ROWS * 24, 1.0, &state);
        memset(weights, 0x7f, sizeof weights);
        ops_attention(shape, ROWS, qkv, &all, weights, out, scratch);
        ops_attention(shape, ROWS, qkv, &all, NULL, again, scratch);
        ck_assert_mem_eq(out, again, sizeof out);
        double loss = 0.0;
        for (int i = 0; i < ROWS * 24; i++) loss += (double)out[i] * (double)c[i];
        ck_assert_double_eq_tol(loss, attention_loss(shape, qkv, c), 1e-4);
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < ROWS; j++) {
                const int seen = j <= i && (!shape->window || i - j < shape->window);
                ck_assert(seen || weights[i * ROWS + j] == 0.0f);
            }
        }
        memset(d_qkv, 0x7f, sizeof d_qkv); /* it is overwritten */
        ops_attention_backward(shape, ROWS, qkv, &all, weights, c, d_qkv, d_qkv, scratch);
        for (int j = 0; j < ROWS * WIDTH; j += 1 + j % 5) {
            double expected;
            DIFFERENCE(expected, qkv, j, attention_loss(shape, qkv, c));
            ck_assert_msg(fabs((double)d_qkv[j] - expected) < 3e-5, "%d: %g, not %g", j, (double)d_qkv[j], expected);
        }
    }
}
END_TEST

/* Some of the queries, or one: the same outputs, and the gradients of a loss that ignores the others. */
START_TEST(attention_of_some_queries) {
    static const int64_t position[] = {100, 117, 136};
    static float qkv[ROWS * WIDTH], q[3 * 24], c[ROWS * 24], some_c[3 * 24], out[ROWS * 24], some[3 * 24];
    static float weights[4 * ROWS * ROWS], d_qkv[ROWS * WIDTH], some_d[ROWS * WIDTH], d_q[3 * 24], scratch[SCRATCH];
    const ops_queries all = {ROWS, qkv, WIDTH, NULL, 0};
    for (int s = 0; s < 2 * N_SHAPES; s++) {
        const ops_heads *shape = &HEADS[s / 2];
        const int64_t n = s % 2 ? 1 : 3;
        const int64_t *at = s % 2 ? position + 1 : position;
        const ops_queries few = {n, q, 24, at, 100};
        uint64_t state = 37;
        fill(qkv, ROWS * WIDTH, 1.0, &state);
        fill(some_c, 3 * 24, 1.0, &state);
        memset(c, 0, sizeof c);
        for (int64_t i = 0; i < n; i++) {
            memcpy(q + i * 24, qkv + (at[i] - 100) * WIDTH, 24 * sizeof *q);
            memcpy(c + (at[i] - 100) * 24, some_c + i * 24, 24 * sizeof *c);
        }
        ops_attention(shape, ROWS, qkv, &all, weights, out, scratch);
        ops_attention_backward(shape, ROWS, qkv, &all, weights, c, d_qkv, d_qkv, scratch);
        ops_attention(shape, ROWS, qkv, &few, weights, some, scratch);
        ops_attention_backward(shape, ROWS, qkv, &few, weights, some_c, some_d, d_q, scratch);
        for (int64_t i = 0; i < n * 24; i++) {
            const int64_t row = at[i / 24] - 100;
            ck_assert_double_eq_tol(some[i], out[row * 24 + i % 24], 1e-6);
            ck_assert_double_eq_tol(d_q[i], d_qkv[row * WIDTH + i % 24], 1e-6);
        }
        for (int i = 0; i < ROWS * WIDTH; i++) {
            if (i % WIDTH >= 24) ck_assert_double_eq_tol(some_d[i], d_qkv[i], 1e-6);
        }
    }
}
END_TEST

START_TEST(rows_are_spread_in_place) {
    static const int64_t row[] = {1, 2, 5};
    float x[7 * 3], y[7 * 3];
    uint64_t state = 5;
    fill(x, 7 * 3, 1.0, &state);
    ops_scatter(y, x, row, 3, 7, 3);
    for (int i = 0; i < 7 * 3; i++) {
        const int at = i / 3 == 1 ? 0 : i / 3 == 2 ? 1 : i / 3 == 5 ? 2 : -1;
        ck_assert(y[i] == (at < 0 ? 0.0f : x[at * 3 + i % 3]));
    }
    ops_scatter(x, x, row, 3, 7, 3);
    ck_assert_mem_eq(x, y, sizeof x);
    ops_scatter(x, x, NULL, 0, 7, 3);
    for (int i = 0; i < 7 * 3; i++) ck_assert(x[i] == 0.0f);
}
END_TEST

START_TEST(long_sums_are_kept_in_double) {
    float x[MOST];
    double sum = 0.0, squares = 0.0;
    uint64_t state = 6;
    fill(x, MOST, 3.0, &state);
    for (int64_t n = 0; n < MOST; n++) {
        ck_assert_double_eq_tol(ops_sum_abs(x, n), sum, 1e-12 * (1.0 + sum));
        ck_assert_double_eq_tol(ops_sum_squares(x, n), squares, 1e-12 * (1.0 + squares));
        sum += fabs((double)x[n]);
        squares += (double)x[n] * (double)x[n];
    }
    ops_scale(x, -2.0f, MOST - 5);
    ck_assert_double_eq_tol(ops_sum_squares(x, MOST - 5) / 4.0 + ops_sum_squares(x + MOST - 5, 5), squares,
                            1e-6 * squares);
}
END_TEST

START_TEST(products_take_the_transpose_they_name) {
    const float a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 0, 2, -1, 3, 1}; /* a [2][3] or [3][2]; b [3][2] or [2][3] */
    float c[9] = {0};
    ops_gemm_nn(2, 2, 3, 1.0f, a, 3, b, 2, 0.0f, c, 2);
    ck_assert(c[0] == 14 && c[1] == 1 && c[2] == 32 && c[3] == 1);
    ops_gemm_nt(2, 2, 3, 1.0f, a, 3, b, 3, 0.0f, c, 2);
    ck_assert(c[0] == 7 && c[1] == 8 && c[2] == 16 && c[3] == 17);
    ops_gemm_tn(2, 2, 3, 2.0f, a, 2, b, 2, 1.0f, c, 2);
    ck_assert(c[0] == 7 + 44 && c[1] == 8 + 4 && c[2] == 16 + 56 && c[3] == 17 + 4);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, sums_and_exponentials_are_accurate);
    HARNESS_ADD(suite, norms_and_their_gradients);
    HARNESS_ADD(suite, activations_and_their_gradients);
    HARNESS_ADD(suite, soft_caps_and_their_gradients);
    HARNESS_ADD(suite, rotation_keeps_lengths_and_is_undone);
    HARNESS_ADD(suite, attention_of_some_queries);
    HARNESS_ADD(suite, rows_are_spread_in_place);
    HARNESS_ADD(suite, long_sums_are_kept_in_double);
    HARNESS_ADD(suite, attention_and_its_gradient);
    HARNESS_ADD(suite, products_take_the_transpose_they_name);
}
