/*
 * factor.c - Cholesky factors and inverses by blocks, made of the parts that blas.c and plain_factor.c each have.
 *
 * A factor R, A = R^T R, is made block row by block row: the block on the diagonal by the factor of a small matrix, the
 * rest of its rows by a triangular solve, and what all of them leave of the matrix below by one product, where the
 * D^3 / 3 multiply-adds are. The inverse (R^T R)^-1 = W^T W comes from W = R^-T, a lower triangle: W_i = R_ii^-T (E_i -
 * sum_k<i R_ki^T W_k), and then a sum over block rows of W, each of which reaches as far as its last column: D^3 / 6
 * multiply-adds for each of the two, as many as LAPACK's dpotri has, but for what blocks on the diagonal waste.
 *
 * Between blocks the host is asked whether to go on.
 */
#include <string.h>

#include "core/core.h"
#include "cpu.h"

salf_status slf_potrf_by_blocks(const slf_cpu *cpu, const slf_factor_parts *by, int64_t dim, double *r,
                                int32_t *exists) {
    const slf_services *services = &cpu->host.services;
    salf_product job = {.dtype = SALF_F64, .a_transposed = 1, .upper = 1, .alpha = -1, .beta = 1};
    job.a_stride = job.b_stride = job.c_stride = dim;
    *exists = 0;
    for (int64_t i = 0; i < dim; i += by->block) {
        double *block = r + i * dim + i;
        int32_t positive;
        job.k = SLF_MIN(dim - i, by->block);
        job.m = job.n = dim - i - job.k;
        SLF_TRY(by->diagonal(cpu, job.k, block, dim, &positive));
        if (!positive) return SALF_OK;
        if (job.n > 0) {
            by->forward(cpu, block, job.k, block + job.k, dim, job.n);
            job.a = job.b = block + job.k;
            job.c = block + job.k * dim + job.k;
            SLF_TRY(by->product(cpu, &job));
        }
        SLF_TRY(services->proceed(services->context, "Cholesky factor", i + job.k, dim));
    }
    *exists = 1;
    return SALF_OK;
}

salf_status slf_potri_by_blocks(const slf_cpu *cpu, const slf_factor_parts *by, int64_t dim, double *r, double *scratch,
                                int32_t *exists) {
    const slf_services *services = &cpu->host.services;
    salf_product job = {.dtype = SALF_F64, .a_transposed = 1, .alpha = -1};
    double *w = scratch;
    job.a_stride = job.b_stride = job.c_stride = dim;
    /* A pivot that is not positive is no factor's, but by underflow; R is then as it was. */
    *exists = 0;
    for (int64_t i = 0; i < dim; i++)
        if (!(r[i * dim + i] > 0)) return SALF_OK;
    /* 1. W, whose zeros above the diagonal are read by products that reach over it */
    memset(w, 0, (size_t)(dim * dim) * sizeof *w);
    for (int64_t i = 0; i < dim; i += by->block) {
        job.m = SLF_MIN(dim - i, by->block);
        for (int64_t c = 0; c < i; c += SLF_FACTOR_CHUNK) { /* columns of W from c on begin with its row c */
            job.n = SLF_MIN(i - c, SLF_FACTOR_CHUNK);
            job.k = i - c;
            job.a = r + c * dim + i;
            job.b = w + c * dim + c;
            job.c = w + i * dim + c;
            SLF_TRY(by->product(cpu, &job));
        }
        for (int64_t j = i; j < i + job.m; j++) w[j * dim + j] = 1;
        by->forward(cpu, r + i * dim + i, job.m, w + i * dim, dim, i + job.m);
        SLF_TRY(services->proceed(services->context, "inverse", i / 2, dim));
    }
    /* 2. W^T W; nothing is left of R by now */
    memset(r, 0, (size_t)(dim * dim) * sizeof *r);
    job.upper = 1;
    job.alpha = job.beta = 1;
    job.c = r;
    for (int64_t i = 0; i < dim; i += by->block) {
        job.k = SLF_MIN(dim - i, by->block);
        job.m = job.n = i + job.k;
        job.a = job.b = w + i * dim;
        SLF_TRY(by->product(cpu, &job));
        SLF_TRY(services->proceed(services->context, "inverse", (dim + i) / 2, dim));
    }
    *exists = 1;
    return SALF_OK;
}
