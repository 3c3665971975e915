/*
 * bench_linear.c - libsalf's own linear algebra against that of the BLAS it is built with, on one thread, in processor
 * seconds: docs/performance.md, "Without a BLAS". Argument: D (1024). SALF_KERNELS chooses the kernels.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cpu/plain.h"
#include "core/core.h"

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#ifndef SALF_PLAIN_BLAS
/* The two sides of a row: the call by BLAS, and our own. */
#define ROW(name, by_blas, prepare, own)                                              \
    do {                                                                              \
        prepare;                                                                      \
        const double start = seconds();                                               \
        salf_status status = by_blas;                                                 \
        const double middle = seconds();                                              \
        prepare;                                                                      \
        const double again = seconds();                                               \
        if (status == SALF_OK) status = own;                                          \
        const double ours = seconds() - again, theirs = middle - start;               \
        if (status != SALF_OK) return puts(salf_last_error()), 1;                     \
        printf("%-28s %10.4f s %10.4f s %6.2f\n", name, theirs, ours, ours / theirs); \
    } while (0)

int main(int argc, char **argv) {
    const int64_t n = argc > 1 && atoll(argv[1]) > 0 ? atoll(argv[1]) : 1024;
    const salf_context_options options = {.struct_size = sizeof options, .backend = SALF_BACKEND_CPU, .threads = 1};
    salf_context *context;
    if (salf_context_create(&context, &options) != SALF_OK) return puts(salf_last_error()), 1;
    const slf_cpu *cpu = context->impl;
    const size_t bytes = (size_t)(n * n) * sizeof(double);
    double *x = malloc(bytes), *g = malloc(bytes), *r = malloc(bytes), *scratch = malloc(bytes);
    if (!x || !g || !r || !scratch) return puts("out of memory"), 1;
    uint64_t seed = 1;
    for (int64_t i = 0; i < n * n; i++) x[i] = (double)((seed = seed * 6364136223846793005u + 1) >> 40) * 0x1p-24 - 0.5;
    printf("D = %lld, kernels %s; %s, its own, ratio\n", (long long)n, cpu->kernels->name, cpu->blas_name);
    salf_product job = {.dtype = SALF_F64, .m = n, .n = n, .k = n, .a = x, .b = x, .c = g, .alpha = 1};
    job.a_stride = job.b_stride = job.c_stride = n;
    ROW("product", slf_blas_product(cpu, &job), (void)0, slf_plain_product(cpu, &job));
    job.dtype = SALF_F32;
    job.b_transposed = 1;
    ROW("product, float32", slf_blas_product(cpu, &job), (void)0, slf_plain_product(cpu, &job));
    job.dtype = SALF_F64;
    job.b_transposed = 0;
    job.a_transposed = job.upper = 1;
    ROW("X^T X, upper triangle", slf_blas_product(cpu, &job), (void)0, slf_plain_product(cpu, &job));
    for (int64_t i = 0; i < n; i++) g[i * n + i] += 1;
    int32_t exists;
    ROW("Cholesky factor", slf_blas_potrf(cpu, n, r, &exists), memcpy(r, g, bytes),
        slf_plain_potrf(cpu, n, r, &exists));
    ROW("inverse from it", slf_blas_potri(cpu, n, r, scratch, &exists),
        (memcpy(r, g, bytes), slf_blas_potrf(cpu, n, r, &exists)), slf_plain_potri(cpu, n, r, scratch, &exists));
    const slf_matvec_job times = {
        .kind = SLF_TIMES_SYMMETRIC, .rows = n, .cols = n, .a = g, .x = x, .y = scratch, .alpha = 1};
    ROW("product with a vector", slf_blas_matvec(cpu, &times), (void)0, slf_plain_matvec(cpu, &times));
    const slf_syevd_job eigen = {.dim = n, .a = r, .lambda = scratch};
    ROW("eigenvectors", slf_blas_syevd(cpu, &eigen), memcpy(r, g, bytes), slf_plain_syevd(cpu, &eigen));
    free(scratch);
    free(r);
    free(g);
    free(x);
    salf_context_destroy(context);
    return 0;
}
#else
int main(void) {
    return puts("built without a BLAS: there is nothing to compare with") < 0;
}
#endif
