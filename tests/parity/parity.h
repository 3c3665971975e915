/* parity.h - what the parity tests share: matrices in every form a backend must read, cases, backends. */
#ifndef SALF_TEST_PARITY_H
#define SALF_TEST_PARITY_H

#include "core/core.h"
#include "unit/harness.h"

/* A matrix as a backend sees it, and what it holds. */
typedef struct parity_matrix {
    salf_tensor view;
    double *value; /* [rows][cols], exactly what the view's elements are */
    void *storage;
    int64_t *index;
} parity_matrix;

/* One point of backend x shape x form. */
typedef struct parity_case {
    salf_context *context;
    const slf_backend *backend;
    void *impl;
    int32_t id;
    int32_t dtype;
    bool scattered; /* rows apart by more than cols, in another order through row_index */
    int64_t rows;
    int64_t dim;
} parity_case;

/* Rounds values [rows][cols] to dtype. */
parity_matrix parity_matrix_of(const double *values, int64_t rows, int64_t cols, int32_t dtype, bool scattered);
/* The same of standard normal values. */
parity_matrix parity_normal(uint64_t *seed, int64_t rows, int64_t cols, int32_t dtype, bool scattered);
void parity_matrix_free(parity_matrix *matrix);

/* Runs check for every backend, shape and form; one context for each backend and, for the cpu backend, for each
 * instruction set that the processor has. */
void parity_each(void (*check)(const parity_case *c));
/* Runs check once for each of these with a shape of dim and rows, float32, not scattered. */
void parity_backends(int64_t dim, int64_t rows, void (*check)(const parity_case *c));

salf_context *parity_context(int32_t backend, int32_t threads);

double *parity_doubles(uint64_t *seed, int64_t count); /* standard normal; free with free */
void *parity_zeros(int64_t count, size_t size);
/* |value - expected| <= tolerance, or both NaN. what and the case are shown on failure. */
void parity_near(const parity_case *c, const char *what, int64_t at, double value, double expected, double tolerance);

/* Orthogonal [n][n] by Gram-Schmidt in long double; free with free. */
long double *parity_orthogonal(uint64_t *seed, int64_t n);
/* The final norm, as the header defines it, into out [dim]. */
void parity_norm_row(const slf_norm *norm, const double *h, int64_t dim, long double *out);
/* 1 - cos, NaN for a zero or non-finite state. */
long double parity_deviation(const slf_norm *norm, const double *h, const float *b, double norm_b, int64_t dim);

/* The cosine slot as its deviations. */
salf_status parity_cosine(const parity_case *c, const salf_tensor *states, const slf_norm *norm, slf_own_rows own,
                          double *out, int64_t out_stride);

#endif
