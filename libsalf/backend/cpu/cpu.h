/* cpu.h - what the files of the cpu backend share. */
#ifndef SALF_CPU_H
#define SALF_CPU_H

#include "../reference/reference.h"

/* Inner loops for one instruction set. */
typedef struct slf_kernels {
    const char *name;
    /* n elements of a dtype (F32, BF16, F16) as float32. */
    void (*widen)(const void *in, int32_t dtype, int64_t n, float *out);
    /* *dot += sum h_i b_i, *square += sum h_i^2 over at most 1024 elements, in float32 lanes. */
    void (*dot_square)(const float *h, const float *b, int64_t n, double *dot, double *square);
    /* x_i = exp(x_i), to 2 ulp for results that are normal numbers. */
    void (*exp)(double *x, int64_t n);
} slf_kernels;

/* Kernels that this processor can run, the fastest first; NULL past the last. */
const slf_kernels *slf_kernels_at(int which);
const slf_kernels *slf_kernels_select(void);

typedef struct slf_cpu_state {
    slf_host_state host; /* first: slots of the reference take this state */
    const slf_kernels *kernels;
} slf_cpu_state;

/* Sets the BLAS thread count for the length of a call when the context asks for one. The count is OpenBLAS's own and
 * process-wide: it is saved when the first such call enters and restored when the last one leaves. */
void slf_blas_enter(const slf_services *services);
void slf_blas_leave(const slf_services *services);

/* Column-major lower triangle = row-major upper triangle, [n][n], n <= 32766. Return LAPACK's info. */
int slf_lapack_cholesky(int n, double *a);
int slf_lapack_cholesky_inverse(int n, double *a);
/* Workspace of slf_lapack_eigen, in doubles and in ints. */
int64_t slf_lapack_eigen_work(int n, int vectors);
int64_t slf_lapack_eigen_iwork(int n, int vectors);
int slf_lapack_eigen(int n, double *a, double *lambda, int vectors, double *work, int *iwork);

salf_status slf_cpu_factor(void *state, int64_t dim, double *gram, const slf_factor_request *request,
                           slf_factor_result *result);
salf_status slf_cpu_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                          const int32_t *ids, const double *inverse_norm, const float *bias, const slf_score_rule *rule,
                          const slf_score_sums *sums);
salf_status slf_cpu_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                           const double *norms, const int32_t *which, double *out, int64_t out_stride);

#endif
