/*
 * ops.c - matrix products through BLAS, sums, and rows that are moved. Cost: a few operations an element.
 */
#include "ops.h"

#include <math.h>
#include <string.h>

#include "ops_inline.h"

/* Multiply-adds below which a product has one thread: what a processor does in a millisecond. Threads of BLAS spin for
 * twenty times as long when they have nothing more to do, which with a product each few hundred microseconds is always:
 * whole processors, for nothing that could be noticed, and on a busy machine instead of what would have been done. */
#define SMALL_PRODUCT ((int64_t)1 << 25)

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 }; /* values of CBLAS */

/* By a prototype of its own, as any library has it: each names its header otherwise. */
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                 int ldb, float beta, float *c, int ldc);
/* OpenBLAS alone has these. Weak: NULL where another library serves, whose threads are its own affair. */
__attribute__((weak)) int openblas_get_num_threads(void);
__attribute__((weak)) void openblas_set_num_threads(int n);
__attribute__((weak)) char *openblas_get_config(void);
__attribute__((weak)) char *openblas_get_corename(void);

const char *ops_blas(void) {
    return openblas_get_config ? openblas_get_config() : "CBLAS";
}

const char *ops_blas_core(void) {
    return openblas_get_corename ? openblas_get_corename() : "unknown";
}

int ops_use_threads(int32_t n) {
    if (n > 0 && openblas_set_num_threads) openblas_set_num_threads(n);
    return openblas_get_num_threads ? openblas_get_num_threads() : 1;
}

/* Arguments as cblas_sgemm has them, for row-major matrices. */
static void multiply(int of_a, int of_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                     const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    const int threads = ops_use_threads(0);
    const int alone = threads > 1 && m * n * k < SMALL_PRODUCT;
    if (alone) openblas_set_num_threads(1); /* a number in OpenBLAS's memory: nothing starts or ends */
    cblas_sgemm(ROW_MAJOR, of_a, of_b, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
    if (alone) openblas_set_num_threads(threads);
}

void ops_gemm_nn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc) {
    multiply(NO_TRANS, NO_TRANS, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void ops_gemm_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc) {
    multiply(NO_TRANS, TRANS, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void ops_gemm_tn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc) {
    multiply(TRANS, NO_TRANS, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
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

VECTORISED void ops_add(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

VECTORISED void ops_add_scaled(float *restrict y, const float *restrict x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += factor * x[i];
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

void ops_add_bias(float *y, int64_t stride, const float *bias, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; i++) ops_add(y + i * stride, bias, width);
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
