/*
 * factor.c - P from the Gram matrix: Cholesky where nothing is dropped, else eigenvectors.
 *
 * When G - tau^2 I has a Cholesky factor, every eigenvalue exceeds tau^2 (Sylvester's law of inertia), so that nothing
 * is dropped and P = (G + ridge I)^-1 by Cholesky; lambda_max and lambda_min come from Lanczos on G and on that
 * factor's inverse. 5/3 D^3 multiply-adds and a few hundred products of D^2; eigenvectors cost some 9 D^3, much of it
 * at the speed of memory. Scratch: at most 2 D*D and some vectors.
 */
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "../spectrum.h"
#include "core/core.h"
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

/* Eigenvalues (ascending) of the upper triangle of a [dim][dim], which becomes the eigenvectors as rows. */
static salf_status eigen(const slf_host *host, int64_t dim, double *a, double *lambda) {
    const slf_services *services = &host->services;
    double *work = slf_host_doubles(host, slf_lapack_eigen_work((int)dim));
    if (!work) return SALF_E_NO_MEMORY;
    int *iwork = services->alloc(services->context, (uint64_t)slf_lapack_eigen_iwork((int)dim), sizeof(int));
    const int info = iwork ? slf_lapack_eigen((int)dim, a, lambda, work, iwork) : 0;
    const bool failed = !iwork;
    slf_host_free(host, iwork);
    slf_host_free(host, work);
    if (failed) return SALF_E_NO_MEMORY;
    return info ? services->fail(SALF_E_NUMERIC, "dsyevd: info %d for a Gram matrix of size %lld", info, (long long)dim)
                : SALF_OK;
}

typedef struct {
    const double *matrix; /* upper triangle */
    int dim;
} symmetric;

static void multiply(void *user, const double *x, double *y) {
    const symmetric *a = user;
    cblas_dsymv(CblasRowMajor, CblasUpper, a->dim, 1, a->matrix, a->dim, x, 1, 0, y, 1);
}

/* y = (R^T R)^-1 x for the Cholesky factor R. */
static void solve(void *user, const double *x, double *y) {
    const symmetric *a = user;
    cblas_dcopy(a->dim, x, 1, y, 1);
    cblas_dtrsv(CblasRowMajor, CblasUpper, CblasTrans, CblasNonUnit, a->dim, a->matrix, a->dim, y, 1);
    cblas_dtrsv(CblasRowMajor, CblasUpper, CblasNoTrans, CblasNonUnit, a->dim, a->matrix, a->dim, y, 1);
}

/* What is proven of G: lambda_max, lambda_min, and whether the latter exceeds the threshold's square. */
typedef struct {
    double most, least;
    bool nothing_dropped;
} extremes;

/* lambda_max by Lanczos, and proof that it is: (1 + 1e-6) lambda_max I - G has a Cholesky factor. */
static salf_status largest(const slf_host *host, int64_t dim, const double *gram, double *scratch, extremes *found) {
    symmetric g = {gram, (int)dim};
    bool converged = false;
    found->most = 0;
    SLF_TRY(slf_lanczos_largest(host, dim, multiply, &g, &found->most, &converged));
    if (!converged || !(found->most > 0)) return SALF_OK;
    for (int64_t i = 0; i < dim * dim; i++) scratch[i] = -gram[i];
    for (int64_t i = 0; i < dim; i++) scratch[i * dim + i] += found->most * (1 + 1e-6);
    found->nothing_dropped = !slf_lapack_cholesky((int)dim, scratch);
    return SALF_OK;
}

/* Whether G - tau^2 I has a Cholesky factor; lambda_min - tau^2 is then the smallest eigenvalue of its product. */
static salf_status smallest(const slf_host *host, int64_t dim, const double *gram, double rtol, double *scratch,
                            extremes *found) {
    symmetric factor = {scratch, (int)dim};
    const double square = rtol * rtol * found->most * (1 + 1e-6);
    double inverse = 0;
    bool converged = false;
    copy_shifted(scratch, gram, dim, -square);
    found->nothing_dropped = !slf_lapack_cholesky((int)dim, scratch);
    if (!found->nothing_dropped) return SALF_OK;
    SLF_TRY(slf_lanczos_largest(host, dim, solve, &factor, &inverse, &converged));
    found->least = square + 1 / inverse;
    found->nothing_dropped = converged && found->least > TRUSTED * found->most;
    return SALF_OK;
}

/* P by Cholesky in place of G where it is proven that nothing is dropped; else *done is false and G as it was. */
static salf_status by_cholesky(const slf_host *host, int64_t dim, double *gram, double *scratch,
                               const slf_factor_request *request, slf_factor_result *result, bool *done) {
    const bool ridge = request->mode == SALF_BASIS_RIDGE;
    const double rtol = ridge ? sqrt((double)dim * DBL_EPSILON) : request->rtol;
    extremes found = {0};
    *done = false;
    SLF_TRY(largest(host, dim, gram, scratch, &found));
    if (found.nothing_dropped) SLF_TRY(smallest(host, dim, gram, rtol, scratch, &found));
    if (!found.nothing_dropped) return SALF_OK;
    copy_shifted(scratch, gram, dim, ridge ? request->ridge : 0);
    if (slf_lapack_cholesky((int)dim, scratch) || slf_lapack_cholesky_inverse((int)dim, scratch)) return SALF_OK;
    memcpy(gram, scratch, (size_t)(dim * dim) * sizeof *gram);
    *result = (slf_factor_result){.method = SALF_METHOD_CHOLESKY,
                                  .rank = dim,
                                  .sigma_max = sqrt(found.most),
                                  .sigma_min = sqrt(found.least),
                                  .sigma_min_kept = sqrt(found.least)};
    *done = true;
    return SALF_OK;
}

/* P = sum w_k q_k q_k^T, from eigenvectors in the rows of gram, through dsyrk of sqrt(w_k) q_k. */
static salf_status by_vectors(const slf_host *host, int64_t dim, double *gram, double *lambda,
                              const slf_factor_request *request, slf_factor_result *result) {
    SLF_TRY(eigen(host, dim, gram, lambda));
    SLF_TRY(slf_spectrum_weights(&host->services, dim, lambda, request, result));
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

static salf_status factor_with(const slf_host *host, int64_t dim, double *gram, double *lambda,
                               const slf_factor_request *request, slf_factor_result *result) {
    double *scratch = slf_host_doubles(host, dim * dim);
    if (!scratch) return SALF_E_NO_MEMORY;
    bool done = false;
    const salf_status status = by_cholesky(host, dim, gram, scratch, request, result, &done);
    slf_host_free(host, scratch);
    if (status != SALF_OK || done) return status;
    return by_vectors(host, dim, gram, lambda, request, result);
}

salf_status slf_cpu_factor(void *self, const slf_factor_job *job) {
    const slf_host *host = self;
    const int64_t dim = job->dim;
    double *gram = job->gram;
    if (dim > MOST_DIM)
        return host->services.fail(SALF_E_OVERFLOW, "D = %lld is more than LAPACK's 32-bit sizes allow (%d)",
                                   (long long)dim, (int)MOST_DIM);
    if (!gram_finite(gram, dim))
        return host->services.fail(SALF_E_NUMERIC, "the Gram matrix [%lld][%lld] is not finite", (long long)dim,
                                   (long long)dim);
    double *lambda = slf_host_doubles(host, dim);
    if (!lambda) return SALF_E_NO_MEMORY;
    slf_blas_enter(&host->services);
    const salf_status status = factor_with(host, dim, gram, lambda, job->request, job->result);
    slf_blas_leave(&host->services);
    slf_host_free(host, lambda);
    if (status == SALF_OK) mirror(gram, dim);
    return status;
}
