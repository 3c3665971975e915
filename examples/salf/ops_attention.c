/*
 * ops_attention.c - causal softmax attention over one sequence, some of its queries or all, and its gradient.
 *
 * Cost: 2 n^2 head_dim a head forward and 5 backward (6 with a soft cap, which is computed again), nothing being
 * computed above the diagonal; with a window, n times the window in place of n^2.
 */
#include <math.h>
#include <string.h>

#include "ops.h"
#include "ops_inline.h"

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

/* Transposed keys or values; in the backward d_scores, before it a row of weights that nobody keeps; and for the
 * backward of a soft cap keys and values, and a row of scores. */
int64_t ops_attention_scratch(const ops_heads *shape, int64_t n, int32_t backward) {
    const int64_t capped = backward && shape->softcap > 0.0 ? shape->head_dim + 1 : 0;
    return (shape->head_dim + (backward ? n : 1) + capped) * padded_rows(n);
}

/* Query i sees rows first_seen_by ... rows_seen_by - 1. */
static int64_t rows_seen_by(const ops_queries *q, int64_t i) {
    return (q->position ? q->position[i] - q->first : i) + 1;
}

static int64_t first_seen_by(const ops_heads *shape, const ops_queries *q, int64_t i) {
    const int64_t seen = rows_seen_by(q, i);
    return shape->window > 0 && seen > shape->window ? seen - shape->window : 0;
}

/* Down to a whole number of lanes: products are taken from there on, as columns are in whole lanes. */
static int64_t whole_lanes(int64_t n) {
    return n / LANES * LANES;
}

static float score_scale(const ops_heads *shape) {
    return (float)(shape->scale > 0.0 ? shape->scale : 1.0 / sqrt((double)shape->head_dim));
}

/* What the forward of a head reads and writes. */
typedef struct head_pass {
    const float *keys; /* [size][padded n], transposed, so that a query's products with all are sums of rows */
    const float *v;    /* [n] apart by step */
    int64_t step;
    int64_t offset; /* of the head in a query */
    float *weights; /* [q->n] apart by w_step; 0: each over the last */
    int64_t w_step;
    float *out; /* [q->n] apart by out_step */
    int64_t out_step;
} head_pass;

/* w_ij = softmax over the j that i sees of cap(scale q_i . k_j), out_i = sum_j w_ij v_j. */
VECTORISED static void head_forward(const ops_heads *shape, const ops_queries *q, int64_t n, const head_pass *p) {
    const float scale = score_scale(shape), cap = (float)shape->softcap;
    const int64_t size = shape->head_dim;
    for (int64_t i = 0; i < q->n; i++) {
        float *w = p->weights + i * p->w_step;
        const int64_t end = rows_seen_by(q, i), begin = first_seen_by(shape, q, i), at = whole_lanes(begin);
        row_products(size, scale, q->values + i * q->stride + p->offset, p->keys + at, padded_rows(n), end - at,
                     w + at);
        if (cap > 0.0f) ops_softcap(w + begin, end - begin, 1.0f, cap);
        const float inverse = 1.0f / ops_exp_sum(w + begin, ops_max(w + begin, end - begin), end - begin);
        for (int64_t j = begin; j < end; j++) w[j] *= inverse;
        memset(w, 0, sizeof *w * (size_t)begin);
        memset(w + end, 0, sizeof *w * (size_t)(n - end));
        combine_rows(end - begin, 1.0f, w + begin, 1, p->v + begin * p->step, p->step, size, 0.0f,
                     p->out + i * p->out_step);
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
        const head_pass pass = {.keys = scratch,
                                .v = v,
                                .step = width,
                                .offset = h * size,
                                .weights = weights ? weights + h * q->n * n : scratch + size * padded_rows(n),
                                .w_step = weights ? n : 0,
                                .out = out + h * size,
                                .out_step = shape->n_heads * size};
        head_forward(shape, q, n, &pass);
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
    float *keys;     /* [size][padded n], transposed, and a row of scores behind: where there is a soft cap */
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

/* d_s of a row through the soft cap: times 1 - (y / cap)^2, y being the score that was capped. */
VECTORISED_PART void uncap_row(const ops_heads *shape, const head_gradient *g, const float *query, int64_t n,
                               int64_t begin, int64_t end, float *d_scores) {
    const int64_t room = padded_rows(n), at = whole_lanes(begin);
    const float cap = (float)shape->softcap;
    float *y = g->keys + g->size * room;
    row_products(g->size, score_scale(shape), query, g->keys + at, room, end - at, y + at);
    ops_softcap(y + begin, end - begin, 1.0f, cap);
    ops_softcap_backward(d_scores + begin, y + begin, end - begin, 1.0f, cap);
}

/* With d_w = d_out v^T: d_s = w (d_w - sum_j w d_w), through the cap; d_q = d_s k, d_k = d_s^T q, d_v = w^T d_out. */
VECTORISED static void head_backward(const ops_heads *shape, const ops_queries *q, int64_t n, const head_gradient *g) {
    const float scale = score_scale(shape);
    for (int64_t i = 0; i < q->n; i++) {
        const float *w = g->weights + i * n;
        float *restrict ds = g->d_scores + i * n;
        const int64_t end = rows_seen_by(q, i), begin = first_seen_by(shape, q, i), at = whole_lanes(begin);
        row_products(g->size, 1.0f, g->d_out + i * g->d_out_step, g->values + at, padded_rows(n), end - at, ds + at);
        const float mean = ops_dot(w + begin, ds + begin, end - begin);
        for (int64_t j = begin; j < end; j++) ds[j] = w[j] * (ds[j] - mean);
        if (shape->softcap > 0.0) uncap_row(shape, g, q->values + i * q->stride + g->offset, n, begin, end, ds);
        combine_rows(end - begin, scale, ds + begin, 1, g->k + begin * g->step, g->step, g->size, 0.0f,
                     g->d_q + i * q->stride + g->offset);
    }
    if (q->n == 1) { /* most sequences in the last layer: no sums to keep in lanes */
        const int64_t end = rows_seen_by(q, 0), begin = first_seen_by(shape, q, 0);
        memset(g->d_scores, 0, sizeof *g->d_scores * (size_t)begin);
        memset(g->d_scores + end, 0, sizeof *g->d_scores * (size_t)(n - end));
        spread_row(n, 1.0f, g->weights, g->d_out, g->size, g->beta, g->d_v, g->step);
        spread_row(n, scale, g->d_scores, q->values + g->offset, g->size, g->beta, g->d_k, g->step);
        return;
    }
    for (int64_t j = 0, i = 0, last = 0; j < n;
         j++) { /* queries before i do not see row j, nor do those from last on */
        while (i < q->n && rows_seen_by(q, i) <= j) i++;
        while (last < q->n && first_seen_by(shape, q, last) <= j) last++;
        const int64_t left = last > i ? last - i : 0;
        combine_rows(left, 1.0f, g->weights + i * n + j, n, g->d_out + i * g->d_out_step, g->d_out_step, g->size,
                     g->beta, g->d_v + j * g->step);
        combine_rows(left, scale, g->d_scores + i * n + j, n, q->values + i * q->stride + g->offset, q->stride, g->size,
                     g->beta, g->d_k + j * g->step);
    }
}

void ops_attention_backward(const ops_heads *shape, int64_t n, const float *qkv, const ops_queries *q,
                            const float *weights, const float *d_out, float *d_qkv, float *d_q, float *scratch) {
    const int64_t size = shape->head_dim, queries = shape->n_heads * size, room = padded_rows(n);
    const int64_t width = queries + 2 * shape->n_kv_heads * size, group = shape->n_heads / shape->n_kv_heads;
    float *keys = scratch + (size + n) * room;
    for (int64_t h = 0; h < shape->n_heads; h++) {
        const int64_t key = queries + h / group * size, value = key + shape->n_kv_heads * size;
        if (h % group == 0) transpose_rows(n, size, qkv + value, width, scratch);
        if (h % group == 0 && shape->softcap > 0.0) transpose_rows(n, size, qkv + key, width, keys);
        const head_gradient g = {.weights = weights + h * q->n * n,
                                 .k = qkv + key,
                                 .values = scratch,
                                 .d_out = d_out + h * size,
                                 .d_k = d_qkv + key,
                                 .d_v = d_qkv + value,
                                 .d_q = d_q,
                                 .d_scores = scratch + size * room,
                                 .keys = keys,
                                 .size = size,
                                 .offset = h * size,
                                 .step = width,
                                 .d_out_step = queries,
                                 .beta = h % group == 0 ? 0.0f : 1.0f};
        head_backward(shape, q, n, &g);
    }
}
