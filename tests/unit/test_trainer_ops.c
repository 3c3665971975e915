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
static double norm_loss(const float *x, const float *w, const float *c, int64_t n) {
    double squares = 0.0, loss = 0.0;
    for (int64_t j = 0; j < n; j++) squares += (double)x[j] * (double)x[j];
    for (int64_t j = 0; j < n; j++) {
        loss += (double)c[j] * (double)x[j] * (double)w[j] / sqrt(squares / (double)n + 1e-5);
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

START_TEST(norm_and_its_gradient) {
    const int64_t row[] = {2, 0};
    for (int64_t n = 5; n < 40; n += 11) {
        float x[3 * 40], w[40], c[2 * 40], y[2 * 40], scale[3], all[3 * 40], dx[2 * 40] = {0}, dw[40] = {0};
        double dw_expected[40] = {0};
        uint64_t state = 3;
        fill(x, 3 * n, 1.0, &state);
        fill(w, n, 1.0, &state);
        fill(c, 2 * n, 1.0, &state);
        ops_norm(x, NULL, 3, n, w, 1e-5, all, scale);
        ops_norm_apply(x, scale, row, 2, n, w, y);
        ck_assert_mem_eq(y, all + 2 * n, (size_t)n * sizeof(float));
        ck_assert_mem_eq(y + n, all, (size_t)n * sizeof(float));
        ops_norm_backward(x, scale, row, 2, n, w, c, dx, dw);
        for (int64_t i = 0; i < 2; i++) {
            float *from = x + row[i] * n;
            double loss = 0.0, expected;
            for (int64_t j = 0; j < n; j++) loss += (double)c[i * n + j] * (double)y[i * n + j];
            ck_assert_double_eq_tol(loss, norm_loss(from, w, c + i * n, n), 1e-5);
            for (int64_t j = 0; j < n; j++) {
                DIFFERENCE(expected, from, j, norm_loss(from, w, c + i * n, n));
                ck_assert_double_eq_tol(dx[i * n + j], expected, 2e-5);
                DIFFERENCE(expected, w, j, norm_loss(from, w, c + i * n, n));
                dw_expected[j] += expected;
            }
        }
        for (int64_t j = 0; j < n; j++) ck_assert_double_eq_tol(dw[j], dw_expected[j], 2e-5);
    }
}
END_TEST

static double swiglu(float gate, float up) {
    return (double)gate / (1.0 + exp(-(double)gate)) * (double)up;
}

START_TEST(swiglu_and_its_gradient) {
    const int64_t row[] = {1, 0}, n = 21;
    float x[2 * 42], hidden[2 * 21], again[2 * 21], d_hidden[2 * 21], d_x[2 * 42];
    uint64_t state = 9;
    fill(x, 2 * 2 * n, 3.0, &state);
    fill(d_hidden, 2 * n, 1.0, &state);
    ops_swiglu(x, row, 2, n, hidden);
    ops_swiglu_backward(x, row, 2, n, d_hidden, d_x, again);
    for (int64_t i = 0; i < 2 * n; i++) ck_assert_double_eq_tol(again[i], hidden[i], 1e-5);
    for (int64_t i = 0; i < 2; i++) {
        float *gate = x + row[i] * 2 * n, *up = gate + n;
        for (int64_t j = 0; j < n; j++) {
            double expected;
            ck_assert_double_eq_tol(hidden[i * n + j], swiglu(gate[j], up[j]), 1e-5);
            DIFFERENCE(expected, gate, j, swiglu(gate[j], up[j]) * (double)d_hidden[i * n + j]);
            ck_assert_double_eq_tol(d_x[i * 2 * n + j], expected, 2e-5);
            DIFFERENCE(expected, up, j, swiglu(gate[j], up[j]) * (double)d_hidden[i * n + j]);
            ck_assert_double_eq_tol(d_x[i * 2 * n + n + j], expected, 2e-5);
        }
    }
}
END_TEST

START_TEST(rotation_keeps_lengths_and_is_undone) {
    float table[7 * 6], x[7 * 20], was[7 * 20];
    uint64_t state = 6;
    ops_rope_table(table, 7, 6, 100.0);
    fill(x, 7 * 20, 1.0, &state);
    memcpy(was, x, sizeof x);
    ops_rope(x, 7, 20, 3, 6, table, 1.0f);
    for (int p = 0; p < 7; p++) {
        for (int i = 0; i < 3; i++) { /* of head 1 */
            const double angle = p * pow(100.0, -2.0 * i / 6.0), a = was[p * 20 + 6 + i], b = was[p * 20 + 9 + i];
            ck_assert_double_eq_tol(x[p * 20 + 6 + i], a * cos(angle) - b * sin(angle), 1e-6);
            ck_assert_double_eq_tol(x[p * 20 + 9 + i], b * cos(angle) + a * sin(angle), 1e-6);
        }
        ck_assert(x[p * 20 + 18] == was[p * 20 + 18]); /* beyond the heads */
    }
    ops_rope(x, 7, 20, 3, 6, table, -1.0f);
    for (int i = 0; i < 7 * 20; i++) ck_assert_double_eq_tol(x[i], was[i], 1e-6);
}
END_TEST

static const ops_heads HEADS = {4, 2, 6};
#define ROWS  9
#define WIDTH 48

/* Sum of c * attention, in double. */
static double attention_loss(const float *qkv, const float *c) {
    double loss = 0.0;
    for (int h = 0; h < 4; h++) {
        for (int i = 0; i < ROWS; i++) {
            double sum = 0.0, along = 0.0;
            for (int j = 0; j <= i; j++) {
                const float *q = qkv + i * WIDTH + h * 6, *k = qkv + j * WIDTH + 24 + h / 2 * 6, *v = k + 12;
                double score = 0.0, value = 0.0;
                for (int e = 0; e < 6; e++) {
                    score += (double)q[e] * (double)k[e];
                    value += (double)v[e] * (double)c[i * 24 + h * 6 + e];
                }
                sum += exp(score / sqrt(6.0));
                along += exp(score / sqrt(6.0)) * value;
            }
            loss += along / sum;
        }
    }
    return loss;
}

START_TEST(attention_and_its_gradient) {
    float qkv[ROWS * WIDTH], c[ROWS * 24], out[ROWS * 24], weights[4 * ROWS * ROWS], d_qkv[ROWS * WIDTH];
    float scratch[6 * 16 + 16 * ROWS];
    const ops_queries all = {ROWS, qkv, WIDTH, NULL, 0};
    uint64_t state = 31;
    fill(qkv, ROWS * WIDTH, 1.0, &state);
    fill(c, ROWS * 24, 1.0, &state);
    ops_attention(&HEADS, ROWS, qkv, &all, weights, out, scratch);
    double loss = 0.0;
    for (int i = 0; i < ROWS * 24; i++) loss += (double)out[i] * (double)c[i];
    ck_assert_double_eq_tol(loss, attention_loss(qkv, c), 1e-4);
    for (int i = 0; i < ROWS; i++) {
        for (int j = i + 1; j < ROWS; j++) ck_assert(weights[i * ROWS + j] == 0.0f);
    }
    memset(d_qkv, 0x7f, sizeof d_qkv); /* it is overwritten */
    ops_attention_backward(&HEADS, ROWS, qkv, &all, weights, c, d_qkv, d_qkv, scratch);
    for (int j = 0; j < ROWS * WIDTH; j++) {
        double expected;
        DIFFERENCE(expected, qkv, j, attention_loss(qkv, c));
        ck_assert_msg(fabs((double)d_qkv[j] - expected) < 2e-5, "%d: %g, not %g", j, (double)d_qkv[j], expected);
    }
}
END_TEST

/* Some of the queries: the same outputs, and the gradients of a loss that ignores the others. */
START_TEST(attention_of_some_queries) {
    static const int64_t position[] = {100, 103, 108};
    float qkv[ROWS * WIDTH], q[3 * 24], c[ROWS * 24] = {0}, some_c[3 * 24], out[ROWS * 24], some[3 * 24];
    float weights[4 * ROWS * ROWS], d_qkv[ROWS * WIDTH], some_d[ROWS * WIDTH], d_q[3 * 24], scratch[6 * 16 + 16 * ROWS];
    const ops_queries all = {ROWS, qkv, WIDTH, NULL, 0}, three = {3, q, 24, position, 100};
    uint64_t state = 37;
    fill(qkv, ROWS * WIDTH, 1.0, &state);
    fill(some_c, 3 * 24, 1.0, &state);
    for (int i = 0; i < 3; i++) {
        memcpy(q + i * 24, qkv + (position[i] - 100) * WIDTH, 24 * sizeof *q);
        memcpy(c + (position[i] - 100) * 24, some_c + i * 24, 24 * sizeof *c);
    }
    ops_attention(&HEADS, ROWS, qkv, &all, weights, out, scratch);
    ops_attention_backward(&HEADS, ROWS, qkv, &all, weights, c, d_qkv, d_qkv, scratch);
    ops_attention(&HEADS, ROWS, qkv, &three, weights, some, scratch);
    ops_attention_backward(&HEADS, ROWS, qkv, &three, weights, some_c, some_d, d_q, scratch);
    for (int i = 0; i < 3 * 24; i++) {
        const int64_t row = position[i / 24] - 100;
        ck_assert_double_eq_tol(some[i], out[row * 24 + i % 24], 1e-6);
        ck_assert_double_eq_tol(d_q[i], d_qkv[row * WIDTH + i % 24], 1e-6);
    }
    for (int i = 0; i < ROWS * WIDTH; i++) {
        if (i % WIDTH >= 24) ck_assert_double_eq_tol(some_d[i], d_qkv[i], 1e-6);
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
    HARNESS_ADD(suite, norm_and_its_gradient);
    HARNESS_ADD(suite, swiglu_and_its_gradient);
    HARNESS_ADD(suite, rotation_keeps_lengths_and_is_undone);
    HARNESS_ADD(suite, attention_of_some_queries);
    HARNESS_ADD(suite, rows_are_spread_in_place);
    HARNESS_ADD(suite, long_sums_are_kept_in_double);
    HARNESS_ADD(suite, attention_and_its_gradient);
    HARNESS_ADD(suite, products_take_the_transpose_they_name);
}
