/*
 * ops.c - matrix products through BLAS, elementwise operations and attention in plain loops written so that a compiler
 * vectorises them: no calls inside, sums in independent lanes, restrict on what cannot overlap.
 *
 * Cost: attention 2 n^2 head_dim a head forward and 5 backward, nothing being computed above the diagonal; all else a
 * few operations an element.
 */
#include "ops.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "vectorised.h"

/* Fused multiply-adds where the processor has them, and minima and maxima without branches, which keep loops from being
 * vectorised (nobody asks for traps here); without this gcc keeps to the letter of C11. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT ON
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast", "no-trapping-math")
#endif

/* Independent sums, so that additions need not wait for each other: one register of AVX-512, two of AVX2. Their
 * order is fixed, so that a result is the same in every run on one machine. */
#define LANES 16

void ops_gemm_nn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb,
                beta, c, (int)ldc);
}

void ops_gemm_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta,
                c, (int)ldc);
}

void ops_gemm_tn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta,
                c, (int)ldc);
}

/* The lanes are added from the first to the last. */
VECTORISED_PART float sum_lanes(const float *lane) {
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

VECTORISED float ops_dot(const float *restrict x, const float *restrict y, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j] * y[i + j];
    }
    float rest = 0.0f;
    for (; i < n; i++) rest += x[i] * y[i];
    return sum_lanes(lane) + rest;
}

/* The maximum is exact in any order, so that the rest may go into a lane. */
VECTORISED float ops_max(const float *x, int64_t n) {
    float lane[LANES];
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    }
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int j = 1; j < LANES; j++) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    return lane[0];
}

VECTORISED void ops_scale(float *x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

/* exp by range reduction x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial of degree 6 for exp(r). Adding 1.5 * 2^23
 * rounds to the integer n and leaves it in the low bits. ln 2 is taken off in two parts (Cody and Waite):
 * 0.693359375 has few enough bits for its product with n to be exact. The first neglected term, r^7 / 5040, is below
 * 1.2e-7. */
VECTORISED_PART float exp_float(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000 + 127) * (1 << 23); /* n from 1.5 * 2^23 + n, then 2^n by its exponent */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

VECTORISED float ops_exp_sum(float *x, float shift, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) x[i + j] = exp_float(x[i + j] - shift);
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j];
    }
    float rest = 0.0f;
    for (; i < n; i++) rest += x[i] = exp_float(x[i] - shift);
    return sum_lanes(lane) + rest;
}

/* The mean square is a sum of floats, the rest of the scale is in double: it is one number a row. */
VECTORISED void ops_norm(const float *x, const int64_t *row, int64_t rows, int64_t width, const float *weight,
                         double eps, float *y, float *scale) {
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + (row ? row[i] : i) * width;
        scale[i] = (float)(1.0 / sqrt((double)ops_dot(in, in, width) / (double)width + eps));
        float *restrict out = y + i * width;
        for (int64_t j = 0; j < width; j++) out[j] = in[j] * scale[i] * weight[j];
    }
}

VECTORISED void ops_norm_apply(const float *x, const float *scale, const int64_t *row, int64_t rows, int64_t width,
                               const float *weight, float *y) {
    for (int64_t i = 0; i < rows; i++) {
        const int64_t from = row ? row[i] : i;
        const float *in = x + from * width, r = scale[from];
        float *restrict out = y + i * width;
        for (int64_t j = 0; j < width; j++) out[j] = in[j] * r * weight[j];
    }
}

VECTORISED void ops_norm_weight_backward(const float *x, const float *scale, const int64_t *row, int64_t rows,
                                         int64_t width, const float *d_y, float *d_weight) {
    for (int64_t i = 0; i < rows; i++) {
        const int64_t from = row ? row[i] : i;
        const float *in = x + from * width, *dy = d_y + i * width, r = scale[from];
        float *restrict dw = d_weight;
        for (int64_t j = 0; j < width; j++) dw[j] += dy[j] * in[j] * r;
    }
}

/* With r the scale: d_x = r (w d_y) - x r^3 / D * sum(w d_y x). */
VECTORISED void ops_norm_backward(const float *x, const float *scale, const int64_t *row, int64_t rows, int64_t width,
                                  const float *weight, const float *d_y, float *d_x, float *d_weight) {
    if (d_weight) ops_norm_weight_backward(x, scale, row, rows, width, d_y, d_weight);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t from = row ? row[i] : i;
        const float *in = x + from * width, *dy = d_y + i * width, r = scale[from];
        float *restrict dx = d_x + i * width;
        float lane[LANES] = {0};
        int64_t j = 0;
        for (; j + LANES <= width; j += LANES) {
            for (int l = 0; l < LANES; l++) lane[l] += weight[j + l] * dy[j + l] * in[j + l];
        }
        float sum = 0.0f;
        for (; j < width; j++) sum += weight[j] * dy[j] * in[j];
        const float along = (sum + sum_lanes(lane)) * r * r * r / (float)width;
        for (j = 0; j < width; j++) dx[j] += r * weight[j] * dy[j] - along * in[j];
    }
}

/* silu(g) = g / (1 + exp(-g)). */
VECTORISED void ops_swiglu(const float *gate_up, const int64_t *row, int64_t rows, int64_t width, float *hidden) {
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = gate_up + (row ? row[i] : i) * 2 * width, *up = gate + width;
        float *restrict out = hidden + i * width;
        for (int64_t j = 0; j < width; j++) out[j] = gate[j] / (1.0f + exp_float(-gate[j])) * up[j];
    }
}

/* With s the sigmoid of the gate: d silu / d gate = s + gate s (1 - s). Parameters may be restrict where gcc heeds
 * it. */
VECTORISED_PART void swiglu_row_backward(int64_t width, const float *restrict gate, const float *restrict up,
                                         const float *restrict dh, float *restrict d_gate, float *restrict d_up,
                                         float *restrict hidden) {
    for (int64_t j = 0; j < width; j++) {
        const float sigmoid = 1.0f / (1.0f + exp_float(-gate[j])), silu = gate[j] * sigmoid;
        d_gate[j] = dh[j] * up[j] * (sigmoid + silu * (1.0f - sigmoid));
        d_up[j] = dh[j] * silu;
        hidden[j] = silu * up[j];
    }
}

VECTORISED void ops_swiglu_backward(const float *gate_up, const int64_t *row, int64_t rows, int64_t width,
                                    const float *d_hidden, float *d_gate_up, float *hidden) {
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = gate_up + (row ? row[i] : i) * 2 * width;
        float *d_gate = d_gate_up + i * 2 * width;
        swiglu_row_backward(width, gate, gate + width, d_hidden + i * width, d_gate, d_gate + width,
                            hidden + i * width);
    }
}

/* Pair i of a head turns by position * theta^(-2 i / head_dim). */
void ops_rope_table(float *table, int64_t positions, int64_t head_dim, double theta) {
    const int64_t half = head_dim / 2;
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)p * pow(theta, -2.0 * (double)i / (double)head_dim);
            table[p * head_dim + i] = (float)cos(angle);
            table[p * head_dim + half + i] = (float)sin(angle);
        }
    }
}

/* (a, b) becomes (a cos - b sin, b cos + a sin), the pairs being the halves of a head. The gradient turns back. */
VECTORISED void ops_rope(float *x, int64_t n, int64_t stride, int64_t n_heads, int64_t head_dim, const float *table,
                         float direction) {
    const int64_t half = head_dim / 2;
    for (int64_t p = 0; p < n; p++) {
        const float *cosine = table + p * head_dim, *sine = cosine + half;
        for (int64_t h = 0; h < n_heads; h++) {
            float *restrict low = x + p * stride + h * head_dim, *restrict high = low + half;
            for (int64_t i = 0; i < half; i++) {
                const float a = low[i], b = high[i], s = direction * sine[i];
                low[i] = a * cosine[i] - b * s;
                high[i] = b * cosine[i] + a * s;
            }
        }
    }
}

/* ---- attention ---- */

/* A vector type says what gcc does not find by itself in a loop as short: that the lanes stay in registers. They do
 * when the vector is no longer than a register, here of AVX2, and is read in one piece, wherever it lies. */
#if defined(__GNUC__)
typedef float half __attribute__((vector_size(LANES / 2 * sizeof(float))));
typedef float loose_half __attribute__((vector_size(LANES / 2 * sizeof(float)), aligned(sizeof(float)), may_alias));
#define ADD_SCALED(sum, factor, row) ((sum) += (factor) * (row))
#else
typedef struct half {
    float lane[LANES / 2];
} half;
typedef half loose_half;
#define ADD_SCALED(sum, factor, row) \
    for (int j = 0; j < LANES / 2; j++) (sum).lane[j] += (factor) * (row).lane[j]
#endif

/* LANES numbers. */
typedef struct lanes {
    half low;
    half high;
} lanes;

/* sum += c x. */
VECTORISED_PART void add_scaled_row(lanes *sum, float c, const float *x) {
    const loose_half *row = (const loose_half *)x;
    ADD_SCALED(sum->low, c, row[0]);
    ADD_SCALED(sum->high, c, row[1]);
}

VECTORISED_PART void add_lanes(lanes *sum, const lanes *other) {
    ADD_SCALED(sum->low, 1.0f, other->low);
    ADD_SCALED(sum->high, 1.0f, other->high);
}

/* sum [LANES] of c_i x_i over i < n, c_i apart by c_step and rows x_i by x_step; four sums, so that none waits for the
 * addition before. */
VECTORISED_PART void sum_rows(int64_t n, const float *c, int64_t c_step, const float *x, int64_t x_step, float *sum) {
    static const lanes zero;
    lanes first = zero, second = zero, third = zero, fourth = zero;
    for (; n >= 4; n -= 4, c += 4 * c_step, x += 4 * x_step) {
        add_scaled_row(&first, c[0], x);
        add_scaled_row(&second, c[c_step], x + x_step);
        add_scaled_row(&third, c[2 * c_step], x + 2 * x_step);
        add_scaled_row(&fourth, c[3 * c_step], x + 3 * x_step);
    }
    for (; n > 0; n--, c += c_step, x += x_step) add_scaled_row(&first, c[0], x);
    add_lanes(&first, &second);
    add_lanes(&third, &fourth);
    add_lanes(&first, &third);
    memcpy(sum, &first, sizeof first);
}

/* y [width] = (with beta 1: +=) scale times the same sum over rows of any width. */
VECTORISED_PART void combine_rows(int64_t n, float scale, const float *c, int64_t c_step, const float *x,
                                  int64_t x_step, int64_t width, float beta, float *restrict y) {
    float sum[LANES];
    int64_t e = 0;
    for (; e + LANES <= width; e += LANES) {
        sum_rows(n, c, c_step, x + e, x_step, sum);
        for (int j = 0; j < LANES; j++) y[e + j] = scale * sum[j] + (beta == 0.0f ? 0.0f : y[e + j]);
    }
    for (; e < width; e++) {
        float rest = 0.0f;
        for (int64_t i = 0; i < n; i++) rest += c[i * c_step] * x[i * x_step + e];
        y[e] = scale * rest + (beta == 0.0f ? 0.0f : y[e]);
    }
}

/* y [width] = scale * x . column j of `columns` [size][room], j < width; room is a multiple of LANES. */
VECTORISED_PART void row_products(int64_t size, float scale, const float *x, const float *columns, int64_t room,
                                  int64_t width, float *restrict y) {
    float sum[LANES];
    for (int64_t first = 0; first < width; first += LANES) {
        const int64_t left = width - first < LANES ? width - first : LANES;
        sum_rows(size, x, 1, columns + first, room, sum);
        for (int64_t j = 0; j < left; j++) y[first + j] = scale * sum[j];
    }
}

/* Rows up to a whole number of lanes. */
static int64_t padded_rows(int64_t n) {
    return (n + LANES - 1) / LANES * LANES;
}

/* columns [size][padded n] = transpose of rows x [n][size] apart by step, padded with zeros. */
static void transpose_rows(int64_t n, int64_t size, const float *x, int64_t step, float *columns) {
    const int64_t room = padded_rows(n);
    for (int64_t e = 0; e < size; e++) {
        for (int64_t i = 0; i < n; i++) columns[e * room + i] = x[i * step + e];
        for (int64_t i = n; i < room; i++) columns[e * room + i] = 0.0f;
    }
}

/* Transposed keys or values; in the backward d_scores, before it a row of weights that nobody keeps. */
int64_t ops_attention_scratch(const ops_heads *shape, int64_t n, int32_t backward) {
    return (shape->head_dim + (backward ? n : 1)) * padded_rows(n);
}

/* Rows that query i sees. */
static int64_t rows_seen_by(const ops_queries *q, int64_t i) {
    return (q->position ? q->position[i] - q->first : i) + 1;
}

/* One head: w_ij = softmax over j <= i of q_i . k_j / sqrt(size), out_i = sum_j w_ij v_j. Keys come transposed, so
 * that the products of a query with all keys are sums of rows. w [q->n] apart by w_step (0: each over the last), and out
 * [q->n][size] apart by out_step. */
VECTORISED static void head_forward(const ops_queries *q, int64_t n, int64_t size, int64_t offset, const float *keys,
                                    const float *v, int64_t step, float *weights, int64_t w_step, float *out,
                                    int64_t out_step) {
    const float scale = (float)(1.0 / sqrt((double)size));
    for (int64_t i = 0; i < q->n; i++) {
        float *w = weights + i * w_step;
        const int64_t seen = rows_seen_by(q, i);
        row_products(size, scale, q->values + i * q->stride + offset, keys, padded_rows(n), seen, w);
        const float inverse = 1.0f / ops_exp_sum(w, ops_max(w, seen), seen);
        for (int64_t j = 0; j < seen; j++) w[j] *= inverse;
        memset(w + seen, 0, sizeof *w * (size_t)(n - seen));
        combine_rows(seen, 1.0f, w, 1, v, step, size, 0.0f, out + i * out_step);
    }
}

/* Heads of a group share keys and values, which are transposed once for all of them. */
void ops_attention(const ops_heads *shape, int64_t n, const float *qkv, const ops_queries *q, float *weights,
                   float *out, float *scratch) {
    const int64_t size = shape->head_dim, width = (shape->n_heads + 2 * shape->n_kv_heads) * size;
    const int64_t group = shape->n_heads / shape->n_kv_heads;
    for (int64_t h = 0; h < shape->n_heads; h++) {
        const float *k = qkv + (shape->n_heads + h / group) * size, *v = k + shape->n_kv_heads * size;
        if (h % group == 0) transpose_rows(n, size, k, width, scratch);
        float *kept = weights ? weights + h * q->n * n : scratch + size * padded_rows(n);
        head_forward(q, n, size, h * size, scratch, v, width, kept, weights ? n : 0, out + h * size,
                     shape->n_heads * size);
    }
}

/* What the backward of a head reads and writes; k, v and their gradients apart by step. */
typedef struct head_gradient {
    const float *weights; /* [q->n][n] */
    const float *k;
    const float *values; /* [size][padded n], transposed */
    const float *d_out;  /* [q->n] apart by d_out_step */
    float *d_k;
    float *d_v;
    float *d_q;      /* [q->n] apart by q->stride */
    float *d_scores; /* [q->n][n] */
    int64_t size;
    int64_t offset; /* of the head in a query */
    int64_t step;
    int64_t d_out_step;
    float beta; /* 1: heads of a group add up in their shared k and v */
} head_gradient;

/* y_j [width] = (with beta 1: +=) scale c_j x for j < n, rows apart by y_step. */
VECTORISED_PART void spread_row(int64_t n, float scale, const float *c, const float *restrict x, int64_t width,
                                float beta, float *y, int64_t y_step) {
    for (int64_t j = 0; j < n; j++) {
        float *restrict row = y + j * y_step;
        for (int64_t e = 0; e < width; e++) row[e] = scale * (c[j] * x[e]) + (beta == 0.0f ? 0.0f : row[e]);
    }
}

/* With d_w = d_out v^T: d_s = w (d_w - sum_j w d_w), d_q = d_s k, d_k = d_s^T q, d_v = w^T d_out. */
VECTORISED static void head_backward(const ops_queries *q, int64_t n, const head_gradient *g) {
    const float scale = (float)(1.0 / sqrt((double)g->size));
    for (int64_t i = 0; i < q->n; i++) {
        const float *w = g->weights + i * n;
        float *restrict ds = g->d_scores + i * n;
        const int64_t seen = rows_seen_by(q, i);
        row_products(g->size, 1.0f, g->d_out + i * g->d_out_step, g->values, padded_rows(n), seen, ds);
        const float mean = ops_dot(w, ds, seen);
        for (int64_t j = 0; j < seen; j++) ds[j] = w[j] * (ds[j] - mean);
        combine_rows(seen, scale, ds, 1, g->k, g->step, g->size, 0.0f, g->d_q + i * q->stride + g->offset);
    }
    if (q->n == 1) { /* most sequences in the last layer: no sums to keep in lanes */
        const int64_t seen = rows_seen_by(q, 0);
        memset(g->d_scores + seen, 0, sizeof *g->d_scores * (size_t)(n - seen));
        spread_row(n, 1.0f, g->weights, g->d_out, g->size, g->beta, g->d_v, g->step);
        spread_row(n, scale, g->d_scores, q->values + g->offset, g->size, g->beta, g->d_k, g->step);
        return;
    }
    for (int64_t j = 0, i = 0; j < n; j++) { /* queries before i do not see row j */
        while (i < q->n && rows_seen_by(q, i) <= j) i++;
        const int64_t left = q->n - i;
        combine_rows(left, 1.0f, g->weights + i * n + j, n, g->d_out + i * g->d_out_step, g->d_out_step, g->size,
                     g->beta, g->d_v + j * g->step);
        combine_rows(left, scale, g->d_scores + i * n + j, n, q->values + i * q->stride + g->offset, q->stride, g->size,
                     g->beta, g->d_k + j * g->step);
    }
}

void ops_attention_backward(const ops_heads *shape, int64_t n, const float *qkv, const ops_queries *q,
                            const float *weights, const float *d_out, float *d_qkv, float *d_q, float *scratch) {
    const int64_t size = shape->head_dim, queries = shape->n_heads * size;
    const int64_t width = queries + 2 * shape->n_kv_heads * size, group = shape->n_heads / shape->n_kv_heads;
    for (int64_t h = 0; h < shape->n_heads; h++) {
        const int64_t key = queries + h / group * size, value = key + shape->n_kv_heads * size;
        if (h % group == 0) transpose_rows(n, size, qkv + value, width, scratch);
        const head_gradient g = {.weights = weights + h * q->n * n,
                                 .k = qkv + key,
                                 .values = scratch,
                                 .d_out = d_out + h * size,
                                 .d_k = d_qkv + key,
                                 .d_v = d_qkv + value,
                                 .d_q = d_q,
                                 .d_scores = scratch + size * padded_rows(n),
                                 .size = size,
                                 .offset = h * size,
                                 .step = width,
                                 .d_out_step = queries,
                                 .beta = h % group == 0 ? 0.0f : 1.0f};
        head_backward(q, n, &g);
    }
}

VECTORISED void ops_add(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void ops_gather(float *y, const float *x, const int64_t *row, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) memcpy(y + i * width, x + row[i] * width, sizeof *y * (size_t)width);
}

/* Moves from the end, so that within one array nothing is overwritten before it is moved: row[i] >= i. */
void ops_scatter(float *y, const float *x, const int64_t *row, int64_t n, int64_t rows, int64_t width) {
    const size_t bytes = sizeof *y * (size_t)width;
    for (int64_t i = rows - 1; i >= 0; i--) {
        if (n > 0 && row[n - 1] == i) {
            memmove(y + i * width, x + --n * width, bytes);
        } else {
            memset(y + i * width, 0, bytes);
        }
    }
}

void ops_column_sums(float *y, const float *x, int64_t stride, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) ops_add(y, x + i * stride, width);
}

void ops_add_bias(float *y, const float *bias, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) ops_add(y + i * width, bias, width);
}

VECTORISED_PART double sum_wide_lanes(const double *lane) {
    double sum = 0.0;
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

VECTORISED double ops_sum_abs(const float *x, int64_t n) {
    double lane[LANES] = {0};
    for (int64_t i = 0; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lane[j] += fabs((double)x[i + j]);
    }
    for (int64_t i = n / LANES * LANES; i < n; i++) lane[0] += fabs((double)x[i]);
    return sum_wide_lanes(lane);
}

VECTORISED double ops_sum_squares(const float *x, int64_t n) {
    double lane[LANES] = {0};
    for (int64_t i = 0; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    }
    for (int64_t i = n / LANES * LANES; i < n; i++) lane[0] += (double)x[i] * (double)x[i];
    return sum_wide_lanes(lane);
}
