/*
 * test_backend_probe.c - slots of the backends that compare states with a basis: cosine and query; and
 * the kernels of the cpu backend for each instruction set.
 *
 * Oracles are the definitions, in long double. float32 lanes err by at most LANES_OFF in a cosine: 33 additions of
 * terms whose absolute sum is at most |h| |b|, each to 2^-24.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "core/dtypes.h"
#include "parity.h"

#define LANES_OFF 2.5e-6

enum { LABELS = 4, NORMS = 6 };

/* A basis, and final norms of every kind over it. */
typedef struct {
    float *rows; /* [LABELS][dim] */
    double norms[LABELS];
    float *weight, *bias;
    int32_t *which;
} basis;

static basis basis_of(uint64_t *seed, int64_t dim, int64_t rows) {
    basis b = {.rows = parity_zeros(LABELS * dim, sizeof(float)),
               .weight = parity_zeros(dim, sizeof(float)),
               .bias = parity_zeros(dim, sizeof(float)),
               .which = parity_zeros(rows, sizeof(int32_t))};
    for (int64_t l = 0; l < LABELS; l++) {
        double square = 0;
        for (int64_t i = 0; i < dim; i++) {
            const float value = (float)(harness_normal(seed) * pow(10, (double)l - 2));
            b.rows[l * dim + i] = value;
            square += (double)value * (double)value;
        }
        b.norms[l] = sqrt(square);
    }
    for (int64_t i = 0; i < dim; i++) {
        b.weight[i] = (float)(1 + 0.5 * harness_normal(seed));
        b.bias[i] = (float)(0.5 * harness_normal(seed));
    }
    for (int64_t r = 0; r < rows; r++) b.which[r] = (int32_t)((r * 3 + 1) % LABELS);
    return b;
}

static void basis_free(basis *b) {
    free(b->rows), free(b->weight), free(b->bias), free(b->which);
}

static slf_norm norm_of(const basis *b, int kind) {
    static const int32_t kinds[NORMS] = {SALF_NORM_NONE,  SALF_NORM_RMS,   SALF_NORM_RMS,
                                         SALF_NORM_LAYER, SALF_NORM_LAYER, SALF_NORM_RMS};
    return (slf_norm){.kind = kinds[kind],
                      .eps = 1e-5f,
                      .weight = kind == 0 || kind == 1 || kind == 3 ? NULL : b->weight,
                      .bias = kind == 4 || kind == 5 ? b->bias : NULL};
}

static slf_own_rows own_of(const basis *b) {
    return (slf_own_rows){b->rows, b->norms, b->which};
}

/* ---- cosine ---- */

/* Off by more where the normed state is small against what was subtracted or added to get there. */
static double allowance(const parity_case *c, const slf_norm *norm, const double *h) {
    long double *x = parity_zeros(c->dim, sizeof *x), square = 0, size = 0;
    parity_norm_row(norm, h, c->dim, x);
    for (int64_t i = 0; i < c->dim; i++) {
        const long double w = norm && norm->weight ? (long double)norm->weight[i] : 1;
        const long double b = norm && norm->bias ? (long double)norm->bias[i] : 0;
        square += x[i] * x[i];
        size += (fabsl(x[i]) + fabsl(b)) * (fabsl(x[i]) + fabsl(b)) + w * w * (norm ? 1 : 0);
    }
    free(x);
    const double ratio = square > 0 ? (double)sqrtl(size / square) : 1;
    return (c->id == SALF_BACKEND_REFERENCE ? 1e-13 * (double)(c->dim + 4) : LANES_OFF) * fmax(1, ratio);
}

static void check_cosine_norm(const parity_case *c, const parity_matrix *h, const basis *b, const slf_norm *norm) {
    enum { STRIDE = 3 };
    double *out = parity_zeros(c->rows * STRIDE + 1, sizeof *out);
    for (int64_t i = 0; i <= c->rows * STRIDE; i++) out[i] = 7.5;
    CHECK_OK(parity_cosine(c, &h->view, norm, own_of(b), out, STRIDE));
    for (int64_t r = 0; r < c->rows; r++) {
        const double *row = h->value + r * c->dim;
        const int32_t l = b->which[r];
        const long double expected = parity_deviation(norm, row, b->rows + l * c->dim, b->norms[l], c->dim);
        parity_near(c, "cosine", r, out[r * STRIDE], (double)expected, allowance(c, norm, row));
    }
    for (int64_t i = 0; i <= c->rows * STRIDE; i++)
        if (i % STRIDE != 0 || i == c->rows * STRIDE) ck_assert_double_eq(out[i], 7.5);
    free(out);
}

/* D = 1 under LayerNorm has the constant state, which is left to the test of special rows. */
static bool degenerate(const parity_case *c, const slf_norm *norm) {
    return c->dim == 1 && norm->kind == SALF_NORM_LAYER && !norm->bias;
}

static void check_cosine(const parity_case *c) {
    uint64_t seed = 11;
    parity_matrix h = parity_normal(&seed, c->rows, c->dim, c->dtype, c->scattered);
    basis b = basis_of(&seed, c->dim, c->rows);
    check_cosine_norm(c, &h, &b, NULL);
    for (int kind = 0; kind < NORMS; kind++) {
        const slf_norm norm = norm_of(&b, kind);
        if (!degenerate(c, &norm)) check_cosine_norm(c, &h, &b, &norm);
    }
    basis_free(&b);
    parity_matrix_free(&h);
}

START_TEST(cosine_is_the_deviation) {
    parity_each(check_cosine);
}
END_TEST

/* Rows that float32 squares cannot hold, zero rows and rows with NaN or infinity, each alone among plain ones. */
static void check_cosine_special(const parity_case *c) {
    static const double scale[] = {1, 1e30, 3e37, 1e-18, 1e-25, 1e-30, 1e-40, 0, 1};
    enum { ROWS = sizeof scale / sizeof *scale + 3 };
    uint64_t seed = 12;
    parity_case wide = *c;
    wide.rows = ROWS;
    double *values = parity_doubles(&seed, ROWS * c->dim);
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t i = 0; i < c->dim; i++) values[r * c->dim + i] *= r < ROWS - 3 ? scale[r] : 1;
    values[(ROWS - 3) * c->dim] = NAN;
    values[(ROWS - 2) * c->dim + c->dim / 2] = INFINITY;
    values[(ROWS - 1) * c->dim + c->dim - 1] = -INFINITY;
    basis b = basis_of(&seed, c->dim, ROWS);
    for (int scattered = 0; scattered < 2; scattered++) {
        wide.scattered = scattered;
        for (wide.dtype = SALF_F32; wide.dtype <= SALF_BF16; wide.dtype++) {
            parity_matrix h = parity_matrix_of(values, ROWS, c->dim, wide.dtype, scattered);
            check_cosine_norm(&wide, &h, &b, NULL);
            for (int kind = 0; kind < NORMS; kind++) {
                const slf_norm norm = norm_of(&b, kind);
                check_cosine_norm(&wide, &h, &b, &norm);
            }
            parity_matrix_free(&h);
        }
    }
    basis_free(&b);
    free(values);
}

START_TEST(cosine_of_special_rows) {
    parity_backends(40, 0, check_cosine_special);
    parity_backends(1500, 0, check_cosine_special);
}
END_TEST

/* States far from the origin: LayerNorm subtracts a mean that is large against the rest. */
static void check_cosine_offset(const parity_case *c) {
    uint64_t seed = 13;
    double *values = parity_doubles(&seed, c->rows * c->dim);
    for (int64_t i = 0; i < c->rows * c->dim; i++) values[i] += 1000;
    parity_matrix h = parity_matrix_of(values, c->rows, c->dim, SALF_F32, false);
    basis b = basis_of(&seed, c->dim, c->rows);
    for (int64_t i = 0; i < LABELS * c->dim; i++) b.rows[i] = fabsf(b.rows[i]); /* an error of the mean adds up */
    for (int kind = 3; kind < 5; kind++) {
        const slf_norm norm = norm_of(&b, kind);
        check_cosine_norm(c, &h, &b, &norm);
    }
    basis_free(&b);
    parity_matrix_free(&h);
    free(values);
}

START_TEST(cosine_under_layer_norm_far_from_zero) {
    parity_backends(2100, 9, check_cosine_offset);
}
END_TEST

/* A state equal to its basis row, opposite to it, and at right angles. */
static void check_cosine_golden(const parity_case *c) {
    const float rows[] = {3, 0, 4, 0};
    const double norms[] = {5}, states[] = {3, 0, 4, 0, -6, 0, -8, 0, 0, 2, 0, -1, 4, 0, -3, 0};
    const int32_t which[] = {0, 0, 0, 0};
    double out[4];
    parity_matrix h = parity_matrix_of(states, 4, 4, SALF_F16, false);
    CHECK_OK(parity_cosine(c, &h.view, NULL, (slf_own_rows){rows, norms, which}, out, 1));
    static const double expected[] = {0, 2, 1, 1};
    for (int64_t r = 0; r < 4; r++) parity_near(c, "golden", r, out[r], expected[r], 1e-15);
    parity_matrix_free(&h);
}

START_TEST(cosine_golden) {
    parity_backends(4, 4, check_cosine_golden);
}
END_TEST

/* ---- queries ---- */

static void check_query_norm(const parity_case *c, const parity_matrix *h, const slf_norm *norm) {
    double *out = parity_zeros(c->rows * c->dim + 1, sizeof *out);
    long double *x = parity_zeros(c->dim, sizeof *x);
    for (int32_t unit = 0; unit < 2; unit++) {
        out[c->rows * c->dim] = 7.5;
        const slf_query_job job = {.states = &h->view, .norm = norm, .z = out, .unit = unit};
        CHECK_OK(c->backend->query(c->impl, &job));
        for (int64_t r = 0; r < c->rows; r++) {
            long double square = 0;
            parity_norm_row(norm, h->value + r * c->dim, c->dim, x);
            for (int64_t i = 0; i < c->dim; i++) square += x[i] * x[i];
            const long double length = unit ? sqrtl(square) : 1;
            for (int64_t i = 0; i < c->dim; i++)
                parity_near(c, "query", r * c->dim + i, out[r * c->dim + i],
                            length > 0 ? (double)(x[i] / length) : (double)NAN, 1e-11);
        }
        ck_assert_double_eq(out[c->rows * c->dim], 7.5);
    }
    free(out), free(x);
}

static void check_query(const parity_case *c) {
    uint64_t seed = 14;
    parity_matrix h = parity_normal(&seed, c->rows, c->dim, c->dtype, c->scattered);
    basis b = basis_of(&seed, c->dim, c->rows);
    check_query_norm(c, &h, NULL);
    for (int kind = 0; kind < NORMS; kind++) {
        const slf_norm norm = norm_of(&b, kind);
        if (!degenerate(c, &norm)) check_query_norm(c, &h, &norm);
    }
    basis_free(&b);
    parity_matrix_free(&h);
}

START_TEST(query_by_the_definition) {
    parity_each(check_query);
}
END_TEST

static void check_query_special(const parity_case *c) {
    const double states[] = {0, 0, 0, NAN, 1, 2, 1, INFINITY, 0, 1e30, -1e30, 0, 1e-40, 0, 0};
    double out[15];
    parity_matrix h = parity_matrix_of(states, 5, 3, SALF_F32, false);
    const slf_query_job job = {.states = &h.view, .z = out, .unit = 1};
    CHECK_OK(c->backend->query(c->impl, &job));
    for (int i = 0; i < 6; i++) ck_assert(isnan(out[i]));
    ck_assert(isnan(out[7]));
    ck_assert_double_eq_tol(out[9], sqrt(0.5), 1e-15);
    ck_assert_double_eq_tol(out[12], 1, 1e-15);
    /* for logits states are as they are, but that no product with an infinite one is a number */
    const slf_query_job plain = {.states = &h.view, .z = out, .gain = 1};
    CHECK_OK(c->backend->query(c->impl, &plain));
    for (int i = 0; i < 3; i++) ck_assert(out[i] == 0);
    ck_assert(isnan(out[3]) && out[4] == 1 && out[6] == 1 && isnan(out[7]) && out[8] == 0);
    ck_assert(out[9] == (double)1e30f && out[12] == (double)1e-40f);
    parity_matrix_free(&h);
}

START_TEST(query_of_special_rows) {
    parity_backends(3, 5, check_query_special);
}
END_TEST

/* ---- cosine_loss ---- */

static void check_gradient_row(const parity_case *c, const basis *b, const double *h, int64_t r, double scale,
                               const float *gradient) {
    const int32_t l = b->which[r];
    double *moved = parity_zeros(c->dim, sizeof *moved), length = 0;
    memcpy(moved, h, (size_t)c->dim * sizeof *moved);
    for (int64_t i = 0; i < c->dim; i++) length += h[i] * h[i];
    length = sqrt(length);
    for (int64_t i = 0; i < c->dim; i += 1 + c->dim / 7) {
        const double step = 1e-5 * length;
        moved[i] = h[i] + step;
        const long double above = parity_deviation(NULL, moved, b->rows + l * c->dim, b->norms[l], c->dim);
        moved[i] = h[i] - step;
        const long double below = parity_deviation(NULL, moved, b->rows + l * c->dim, b->norms[l], c->dim);
        moved[i] = h[i];
        const double expected = scale * (double)((above - below) / (2 * (long double)step));
        parity_near(c, "gradient", r * c->dim + i, (double)gradient[i], expected, 1e-6 * fabs(scale) / length);
    }
    free(moved);
}

static void check_cosine_loss(const parity_case *c) {
    uint64_t seed = 15;
    const double scale = -2.5;
    parity_matrix h = parity_normal(&seed, c->rows, c->dim, c->dtype, c->scattered);
    parity_matrix g = parity_normal(&seed, c->rows, c->dim, SALF_F32, c->scattered);
    basis b = basis_of(&seed, c->dim, c->rows);
    float *loss = parity_zeros(c->rows + 1, sizeof *loss), *alone = parity_zeros(c->rows + 1, sizeof *alone);
    slf_cosine_job job = {.states = &h.view, .own = own_of(&b), .losses = {loss, &g.view, scale}};
    CHECK_OK(c->backend->cosine(c->impl, &job));
    job.losses = (slf_loss_out){alone, NULL, scale};
    CHECK_OK(c->backend->cosine(c->impl, &job));
    for (int64_t r = 0; r < c->rows; r++) {
        const int32_t l = b.which[r];
        const double *row = h.value + r * c->dim;
        const long double expected = parity_deviation(NULL, row, b.rows + l * c->dim, b.norms[l], c->dim);
        parity_near(c, "loss", r, (double)loss[r], (double)expected, 4e-7);
        ck_assert_float_eq(loss[r], alone[r]);
        check_gradient_row(c, &b, row, r, scale, slf_tensor_row(&g.view, r));
    }
    free(loss), free(alone);
    basis_free(&b);
    parity_matrix_free(&h);
    parity_matrix_free(&g);
}

START_TEST(cosine_loss_and_gradient) {
    parity_each(check_cosine_loss);
}
END_TEST

static void check_cosine_loss_special(const parity_case *c) {
    const float rows[] = {3, 0, 4};
    const double norms[] = {5}, states[] = {0, 0, 0, 1, NAN, 0, 1, 0, INFINITY};
    const int32_t which[] = {0, 0, 0};
    float loss[3] = {0};
    parity_matrix h = parity_matrix_of(states, 3, 3, SALF_F32, false);
    const slf_cosine_job job = {.states = &h.view, .own = {rows, norms, which}, .losses = {loss, NULL, 1}};
    CHECK_OK(c->backend->cosine(c->impl, &job));
    for (int r = 0; r < 3; r++) ck_assert(isnan(loss[r]));
    parity_matrix_free(&h);
}

START_TEST(cosine_loss_of_special_rows) {
    parity_backends(3, 3, check_cosine_loss_special);
}
END_TEST

/* ---- threads ---- */

/* The count of threads does not show in any bit. */
START_TEST(threads_do_not_change_results) {
    enum { ROWS = 300, D = 777 };
    uint64_t seed = 16;
    parity_matrix h = parity_normal(&seed, ROWS, D, SALF_BF16, false);
    basis b = basis_of(&seed, D, ROWS);
    double *first = parity_zeros(ROWS * D, sizeof *first), *again = parity_zeros(ROWS * D, sizeof *again);
    for (int32_t id = SALF_BACKEND_REFERENCE; id <= SALF_BACKEND_CPU; id++)
        for (int kind = 0; kind < NORMS; kind++)
            for (int32_t threads = 0; threads <= 3; threads++) {
                salf_context *context = parity_context(id, threads);
                const slf_norm norm = norm_of(&b, kind);
                double *out = threads == 0 ? first : again;
                const parity_case c = {.backend = context->backend, .impl = context->impl};
                CHECK_OK(parity_cosine(&c, &h.view, &norm, own_of(&b), out, 1));
                ck_assert_mem_eq(first, out, ROWS * sizeof *first);
                salf_context_destroy(context);
            }
    free(first), free(again);
    basis_free(&b);
    parity_matrix_free(&h);
}
END_TEST

/* ---- kernels ---- */

START_TEST(exp_to_two_units) {
    enum { N = 1 << 16 };
    double *x = parity_zeros(N, sizeof *x), *y = parity_zeros(N, sizeof *y);
    const slf_kernels *kernels;
    for (int which = 0; (kernels = slf_kernels_at(which)) != NULL; which++) {
        double most = 0;
        for (int i = 0; i < N; i++) x[i] = y[i] = -708 + 1417 * (double)i / N + 1e-3 * sin(i);
        for (int i = 0; i < 200; i++) x[i] = y[i] = (i - 100) * 1e-3;
        kernels->exp(y, N - 1); /* odd, so that every kernel has a remainder */
        for (int i = 0; i < N - 1; i++) {
            if (x[i] < -708 || x[i] > 709) continue;
            const long double exact = expl((long double)x[i]);
            most = fmax(most, (double)fabsl((long double)y[i] / exact - 1));
        }
        ck_assert_msg(most <= 2 * DBL_EPSILON, "%s: relative error %.3g units", kernels->name, most / DBL_EPSILON);
        double special[] = {0, -0.0, -1e300, -INFINITY, 709, 1e300, NAN};
        kernels->exp(special, 7);
        ck_assert_double_eq(special[0], 1);
        ck_assert_double_eq(special[1], 1);
        ck_assert(special[2] >= 0 && special[2] < 1e-307);
        ck_assert(special[3] >= 0 && special[3] < 1e-307);
        ck_assert(special[4] > 8e307 && isfinite(special[4]));
        ck_assert(special[5] > 8e307);
        ck_assert(isnan(special[6]));
    }
    free(x), free(y);
}
END_TEST

static void kernels_of(int32_t backend, const char *wish, const char *expected) {
    salf_context_info info = {.struct_size = sizeof info};
    setenv("SALF_KERNELS", wish, 1);
    salf_context *context = parity_context(backend, 0);
    unsetenv("SALF_KERNELS");
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_str_eq(info.kernels, expected);
    salf_context_destroy(context);
}

/* SALF_KERNELS names what the processor has; the fastest without it, and the reference is plain C in any case. */
START_TEST(kernels_by_the_environment) {
    const slf_kernels *kernels;
    salf_context *context = (void *)&kernels;
    for (int rank = 0; (kernels = slf_kernels_at(rank)) != NULL; rank++) {
        kernels_of(SALF_BACKEND_CPU, kernels->name, kernels->name);
        kernels_of(SALF_BACKEND_REFERENCE, kernels->name, "c");
    }
    kernels_of(SALF_BACKEND_CPU, "", slf_kernels_at(0)->name);
    kernels_of(SALF_BACKEND_REFERENCE, "sse9", "c");
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_CPU;
    setenv("SALF_KERNELS", "sse9", 1);
    CHECK_FAILS(salf_context_create(&context, &options), SALF_E_BACKEND, "SALF_KERNELS is 'sse9'; this processor has");
    unsetenv("SALF_KERNELS");
    ck_assert_ptr_null(context);
}
END_TEST

/* Every 16-bit pattern, at every length up to a few vectors. */
START_TEST(widen_is_exact) {
    static uint16_t halves[1 << 16];
    static float out[1 << 16];
    const slf_kernels *kernels;
    for (int i = 0; i < 1 << 16; i++) halves[i] = (uint16_t)i;
    for (int which = 0; (kernels = slf_kernels_at(which)) != NULL; which++)
        for (int32_t dtype = SALF_BF16; dtype <= SALF_F16; dtype++) {
            kernels->widen(halves, dtype, 1 << 16, out);
            for (int i = 0; i < 1 << 16; i++) {
                const int exponent = i >> 10 & 31, mantissa = i & 1023;
                double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
                if (exponent == 31) value = mantissa ? (double)NAN : (double)INFINITY;
                const uint32_t bits = (uint32_t)i << 16;
                float expected = (float)(i & 0x8000 ? -value : value);
                if (dtype == SALF_BF16) memcpy(&expected, &bits, sizeof expected);
                const bool same = isnan(expected) ? isnan(out[i]) : memcmp(&expected, &out[i], sizeof expected) == 0;
                CHECK_EACH(same, "%s: dtype %d, %#x gives %g", kernels->name, (int)dtype, (unsigned)i, (double)out[i]);
            }
            for (int n = 0; n < 70; n++) {
                out[n] = 5;
                kernels->widen(halves + 16000, dtype, n, out);
                ck_assert_float_eq(out[n], 5);
            }
        }
}
END_TEST

/* Sums over x_i b_i (or x_i) and x_i^2 by their definition; scale bounds the sum of magnitudes of the first. */
static slf_pair exact_sums(const void *row, int32_t dtype, int64_t n, const slf_affine *a, const float *b,
                           double *scale) {
    slf_pair sums = {0, 0};
    *scale = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half = ((const uint16_t *)row)[dtype == SALF_F32 ? 0 : i];
        double x = dtype == SALF_F32    ? (double)((const float *)row)[i]
                   : dtype == SALF_BF16 ? (double)slf_bf16_to_f32(half)
                                        : (double)slf_f16_to_f32(half);
        if (a) x = x - (double)a->high - (double)a->low;
        if (a && b) x = x * (double)a->scale * (double)a->weight[i] + (double)a->bias[i];
        sums.first += b ? x * (double)b[i] : x;
        sums.second += x * x;
        *scale += fabs(b ? x * (double)b[i] : x);
    }
    return sums;
}

/* Every kernel, type and kind of sum, at lengths around its blocks and pieces. */
START_TEST(reduce_by_definition) {
    enum { N = 2 * SLF_PIECE + 50 };
    static float row[N], b[N], weight[N], bias[N];
    static uint16_t halves[2][N];
    uint64_t seed = 5;
    const slf_affine affine = {0.5f, 1e-8f, 1.25f, weight, bias};
    const slf_kernels *kernels;
    for (int i = 0; i < N; i++) {
        row[i] = (float)harness_normal(&seed), b[i] = (float)harness_normal(&seed);
        weight[i] = (float)harness_normal(&seed), bias[i] = (float)harness_normal(&seed);
        halves[0][i] = (uint16_t)(0x3f80 + i % 128 + (i % 3 ? 0 : 0x8000)); /* +- 1 ... 2 */
        halves[1][i] = (uint16_t)(0x3c00 + i % 1024 + (i % 3 ? 0 : 0x8000));
    }
    for (int which = 0; (kernels = slf_kernels_at(which)) != NULL; which++)
        for (int n = 0; n <= N; n += n < 140 || (n > SLF_PIECE - 70 && n < SLF_PIECE + 70) ? 1 : 61)
            for (int kind = 0; kind < 9; kind++) {
                const int32_t dtype = kind / 3 == 0 ? SALF_F32 : kind / 3 == 1 ? SALF_BF16 : SALF_F16;
                const void *in = dtype == SALF_F32 ? (const void *)row : halves[dtype == SALF_F16];
                const slf_affine *a = kind % 3 > 0 ? &affine : NULL;
                const float *basis_row = kind % 3 != 1 ? b : NULL;
                double scale;
                const slf_pair exact = exact_sums(in, dtype, n, a, basis_row, &scale);
                const slf_pair got = kernels->reduce(in, dtype, n, a, basis_row, in);
                ck_assert_msg(fabs(got.first - exact.first) <= LANES_OFF * scale &&
                                  fabs(got.second - exact.second) <= LANES_OFF * exact.second,
                              "%s: kind %d, %d elements: %.9g and %.9g, not %.9g and %.9g", kernels->name, kind, n,
                              got.first, got.second, exact.first, exact.second);
            }
}
END_TEST

/* ---- allocation ---- */

static salf_status body(harness_memory *memory, int32_t backend, void *user) {
    enum { D = 12, ROWS = 5 };
    const int slot = *(const int *)user;
    salf_context *context = NULL;
    uint64_t seed = 17;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    const parity_case c = {.backend = context->backend, .impl = context->impl};
    parity_matrix h = parity_normal(&seed, ROWS, D, SALF_BF16, true);
    basis b = basis_of(&seed, D, ROWS);
    double out[ROWS * D], p[D * D] = {1};
    float loss[ROWS];
    const slf_norm norm = norm_of(&b, slot % NORMS);
    h.index[0] = 0; /* a row of NaN, for the way that takes */
    if (slot < NORMS)
        status = parity_cosine(&c, &h.view, &norm, own_of(&b), out, 1);
    else if (slot < NORMS + 2)
        status = c.backend->query(
            c.impl,
            &(slf_query_job){
                .states = &h.view, .norm = &norm, .p = slot == NORMS ? NULL : p, .z = out, .gain = 1, .unit = 1});
    else
        status = c.backend->cosine(c.impl,
                                   &(slf_cosine_job){.states = &h.view, .own = own_of(&b), .losses = {loss, NULL, 1}});
    basis_free(&b);
    parity_matrix_free(&h);
    salf_context_destroy(context);
    return status;
}

START_TEST(failing_allocations_leak_nothing) {
    for (int32_t id = SALF_BACKEND_REFERENCE; id <= SALF_BACKEND_CPU; id++)
        for (int slot = 0; slot <= NORMS + 2; slot++) harness_fail_each_allocation(body, id, &slot);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, cosine_is_the_deviation);
    HARNESS_ADD(suite, cosine_of_special_rows);
    HARNESS_ADD(suite, cosine_under_layer_norm_far_from_zero);
    HARNESS_ADD(suite, cosine_golden);
    HARNESS_ADD(suite, query_by_the_definition);
    HARNESS_ADD(suite, query_of_special_rows);
    HARNESS_ADD(suite, cosine_loss_and_gradient);
    HARNESS_ADD(suite, cosine_loss_of_special_rows);
    if (harness_plugin()) return; /* what follows is about the backends that are built in */
    HARNESS_ADD(suite, reduce_by_definition);
    HARNESS_ADD(suite, threads_do_not_change_results);
    HARNESS_ADD(suite, kernels_by_the_environment);
    HARNESS_ADD(suite, exp_to_two_units);
    HARNESS_ADD(suite, widen_is_exact);
    HARNESS_ADD(suite, failing_allocations_leak_nothing);
}
