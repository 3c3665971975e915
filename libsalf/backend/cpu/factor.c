/*
 * factor.c - P from the Gram matrix: Cholesky where nothing is dropped, else eigenvectors.
 *
 * Eigenvalues alone cost 4/3 D^3. When G - tau^2 I has a Cholesky factor, every eigenvalue exceeds tau^2 (Sylvester's
 * law of inertia), so that nothing is dropped and P = (G + ridge I)^-1 by Cholesky, D^3. Scratch: at most 2 D*D.
 */
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "../../internal.h"
#include "cpu.h"

enum { MOST_DIM = 32766 }; /* 2 D^2 + 6 D + 1 fits 32 bits */

/* lambda_min / lambda_max below which the float64 inverse is left to the eigenvectors. */
#define TRUSTED 1e-8

static bool gram_finite(const double *gram, int64_t dim) {
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = i; j < dim; j++)
            if (!isfinite(gram[i * dim + j])) return false;
    return true;
}

static void mirror(double *p, int64_t dim) {
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < i; j++) p[i * dim + j] = p[j * dim + i];
}

static void copy_shifted(double *to, const double *gram, int64_t dim, double shift) {
    memcpy(to, gram, (size_t)(dim * dim) * sizeof *to);
    for (int64_t i = 0; i < dim; i++) to[i * dim + i] += shift;
}

/* Eigenvalues (ascending) of the upper triangle; a [dim][dim] is destroyed, or holds the vectors as rows. */
static salf_status eigen(const slf_host_state *host, int64_t dim, double *a, double *lambda, int vectors) {
    const slf_services *services = &host->services;
    double *work = slf_host_doubles(host, slf_lapack_eigen_work((int)dim, vectors));
    if (!work) return SALF_E_NO_MEMORY;
    int *iwork = services->alloc(services->context, (uint64_t)slf_lapack_eigen_iwork((int)dim, vectors), sizeof(int));
    const int info = iwork ? slf_lapack_eigen((int)dim, a, lambda, vectors, work, iwork) : 0;
    const bool failed = !iwork;
    slf_host_free(host, iwork);
    slf_host_free(host, work);
    if (failed) return SALF_E_NO_MEMORY;
    return info ? services->fail(SALF_E_NUMERIC, "dsyevd: info %d for a Gram matrix of size %lld", info, (long long)dim)
                : SALF_OK;
}

/* Cholesky's P into scratch; false when it is not proven that it is the answer. */
static bool by_cholesky(const double *gram, double *scratch, int64_t dim, const double *lambda,
                        const slf_factor_request *request) {
    const bool ridge = request->mode == SALF_BASIS_RIDGE;
    const double most = lambda[dim - 1], add = ridge ? request->ridge : 0;
    const double rtol = ridge ? sqrt((double)dim * DBL_EPSILON) : request->rtol;
    if (!(lambda[0] > TRUSTED * most) || !(lambda[0] > rtol * rtol * most)) return false;
    copy_shifted(scratch, gram, dim, -rtol * rtol * most * (1 + 1e-6));
    if (slf_lapack_cholesky((int)dim, scratch)) return false;
    copy_shifted(scratch, gram, dim, add);
    return !slf_lapack_cholesky((int)dim, scratch) && !slf_lapack_cholesky_inverse((int)dim, scratch);
}

/* P = sum w_k q_k q_k^T, from eigenvectors in the rows of gram, through dsyrk of sqrt(w_k) q_k. */
static salf_status by_vectors(const slf_host_state *host, int64_t dim, double *gram, double *lambda,
                              const slf_factor_request *request, slf_factor_result *result) {
    SLF_TRY(eigen(host, dim, gram, lambda, 1));
    SLF_TRY(slf_reference_spectrum(&host->services, dim, lambda, request, result));
    double *p = slf_host_doubles(host, dim * dim);
    if (!p) return SALF_E_NO_MEMORY;
    for (int64_t k = 0; k < dim; k++)
        for (int64_t i = 0; i < dim; i++) gram[k * dim + i] *= sqrt(lambda[k]);
    const int n = (int)dim;
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, n, 1, gram, n, 0, p, n);
    memcpy(gram, p, (size_t)(dim * dim) * sizeof *p);
    slf_host_free(host, p);
    return SALF_OK;
}

static salf_status factor_with(const slf_host_state *host, int64_t dim, double *gram, double *lambda,
                               const slf_factor_request *request, slf_factor_result *result) {
    double *scratch = slf_host_doubles(host, dim * dim);
    if (!scratch) return SALF_E_NO_MEMORY;
    copy_shifted(scratch, gram, dim, 0);
    salf_status status = eigen(host, dim, scratch, lambda, 0);
    const bool cheap = status == SALF_OK && by_cholesky(gram, scratch, dim, lambda, request);
    if (cheap) memcpy(gram, scratch, (size_t)(dim * dim) * sizeof *gram);
    slf_host_free(host, scratch);
    if (status != SALF_OK) return status;
    if (!cheap) return by_vectors(host, dim, gram, lambda, request, result);
    status = slf_reference_spectrum(&host->services, dim, lambda, request, result);
    result->method = SALF_METHOD_CHOLESKY;
    return status;
}

salf_status slf_cpu_factor(void *state, int64_t dim, double *gram, const slf_factor_request *request,
                           slf_factor_result *result) {
    const slf_host_state *host = state;
    if (dim > MOST_DIM)
        return host->services.fail(SALF_E_OVERFLOW, "D = %lld is more than LAPACK's 32-bit sizes allow (%d)",
                                   (long long)dim, (int)MOST_DIM);
    if (!gram_finite(gram, dim))
        return host->services.fail(SALF_E_NUMERIC, "the Gram matrix [%lld][%lld] is not finite", (long long)dim,
                                   (long long)dim);
    double *lambda = slf_host_doubles(host, dim);
    if (!lambda) return SALF_E_NO_MEMORY;
    slf_blas_enter(&host->services);
    const salf_status status = factor_with(host, dim, gram, lambda, request, result);
    slf_blas_leave(&host->services);
    slf_host_free(host, lambda);
    if (status == SALF_OK) mirror(gram, dim);
    return status;
}
