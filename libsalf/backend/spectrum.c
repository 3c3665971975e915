/*
 * spectrum.c - P from a Gram matrix G = Q Lambda Q^T: (G + ridge I)^-1, or the pseudo-inverse over the eigenvalues that
 * are kept. Singular values of the head are sigma = sqrt(lambda).
 *
 * Two ways. Eigenvectors: P = Q f(Lambda) Q^T, some 9 D^3 multiply-adds, much of it at the speed of memory. Cholesky,
 * where no eigenvalue is dropped: P = (G + ridge I)^-1, three factors of D^3 / 3 and an inverse of 2/3 D^3 (on a device
 * 2 D^3). That none is dropped has to be proven first, without eigenvectors: G - tau^2 I has a Cholesky factor exactly
 * where every eigenvalue exceeds tau^2 (Sylvester's law of inertia). tau is relative to sigma_max, which Lanczos finds
 * in some tens of products of D^2; and that nothing larger was missed is proven in the same way.
 *
 * The algorithm stands here once. G and P lie in backend memory, and a backend has the five primitives that it needs.
 */
#include "backend/spectrum.h"

#include <float.h>
#include <math.h>

#include "core/random.h"

/* lambda_min / lambda_max below which the inverse is left to the eigenvectors. The inverse by Cholesky errs by some
 * D 2^-52 lambda_max / lambda_min of |P|, everywhere: at 1e-8 that is 1e-4 for D = 5000, as far as is tolerable.
 * Eigenvectors keep an error in the directions that it belongs to. */
#define TRUSTED 1e-8

/* What separates "every eigenvalue lies above a threshold" from "at it": a thousand times the 1e-9 to which Lanczos
 * finds lambda_max, and above the rounding of a Cholesky factor, D 2^-52 of lambda_max, up to D = 10^9. In a threshold
 * on singular values it is 5e-7, less than anyone can mean by a tolerance. */
#define MARGIN (1 + 1e-6)

/* What a computation shares. */
typedef struct {
    const salf_context *context;
    int64_t dim;
    double *gram; /* backend, in place */
    const slf_factor_request *request;
    slf_factor_result *result;
} inversion;

/* Whether sign * G + shift I is positive definite; its factor. */
static salf_status cholesky(const inversion *v, double sign, double shift, double *factor, int32_t *exists) {
    const slf_potrf_job job = {
        .dim = v->dim, .a = v->gram, .sign = sign, .shift = shift, .factor = factor, .exists = exists};
    return v->context->backend->potrf(v->context->impl, &job);
}

/* P by Cholesky in place of G where it is proven that nothing is dropped; else *done is 0 and G as it was. */
static salf_status by_cholesky(const inversion *v, double *scratch, int32_t *done) {
    const salf_context *context = v->context;
    const int64_t dim = v->dim;
    const bool ridge = v->request->mode == SALF_BASIS_RIDGE;
    const double rtol = ridge ? sqrt((double)dim * DBL_EPSILON) : v->request->rtol;
    const slf_matvec_job product = {.kind = SLF_TIMES_SYMMETRIC, .rows = dim, .cols = dim, .a = v->gram, .alpha = 1};
    const slf_matvec_job solution = {.kind = SLF_SOLVE, .rows = dim, .cols = dim, .a = scratch, .alpha = 1};
    double most = 0, inverse = 0;
    int32_t yes = 0;
    *done = 0;

    /* 1. lambda_max, and proof that it is: MARGIN lambda_max I - G has a Cholesky factor */
    SLF_TRY(slf_lanczos_largest(context, &product, &most, &yes));
    if (!yes || !(most > 0)) return SALF_OK;
    SLF_TRY(cholesky(v, -1, MARGIN * most, scratch, &yes));
    if (!yes) return SALF_OK;

    /* 2. nothing is dropped: G - tau^2 I has one, and lambda_min - tau^2 is the smallest eigenvalue of R^T R */
    const double square = rtol * rtol * most * MARGIN;
    SLF_TRY(cholesky(v, 1, -square, scratch, &yes));
    if (!yes) return SALF_OK;
    SLF_TRY(slf_lanczos_largest(context, &solution, &inverse, &yes));
    const double least = square + 1 / inverse;
    if (!yes || !(least > TRUSTED * most)) return SALF_OK;

    /* 3. the inverse */
    SLF_TRY(cholesky(v, 1, ridge ? v->request->ridge : 0, scratch, &yes));
    if (!yes) return SALF_OK;
    const slf_potri_job invert = {.dim = dim, .factor = scratch, .inverse = v->gram, .exists = done};
    SLF_TRY(context->backend->potri(context->impl, &invert));
    if (*done)
        *v->result = (slf_factor_result){.method = SALF_METHOD_CHOLESKY,
                                         .rank = dim,
                                         .sigma_max = sqrt(most),
                                         .sigma_min = sqrt(least),
                                         .sigma_min_kept = sqrt(least),
                                         .dropped = v->result->dropped};
    return SALF_OK;
}

/* Eigenvalues lambda [dim], in any order, become the weights of P = Q diag(f) Q^T: 1 / lambda of those that are kept, 0
 * of those that are not, 1 / (lambda + ridge) of all with a ridge. Rounding makes zeros negative: they count as 0. */
static salf_status eigen_weights(const inversion *v, double *lambda) {
    const bool ridge = v->request->mode == SALF_BASIS_RIDGE;
    double most = 0, least = HUGE_VAL, least_kept = HUGE_VAL;
    int64_t rank = 0;
    for (int64_t k = 0; k < v->dim; k++) {
        if (!isfinite(lambda[k]))
            return slf_fail(SALF_E_NUMERIC, "eigenvalue %lld of the Gram matrix is not finite", (long long)k);
        lambda[k] = fmax(lambda[k], 0);
        most = fmax(most, sqrt(lambda[k]));
        least = fmin(least, sqrt(lambda[k]));
    }
    /* with a ridge nothing is dropped, and the rank counts what float64 tells from zero */
    const double threshold = most * (ridge ? sqrt((double)v->dim * DBL_EPSILON) : v->request->rtol);
    for (int64_t k = 0; k < v->dim; k++) {
        const double sigma = sqrt(lambda[k]), shifted = lambda[k] + (ridge ? v->request->ridge : 0);
        const bool counted = sigma > threshold;
        rank += counted;
        if (counted || ridge) least_kept = fmin(least_kept, sigma);
        lambda[k] = (counted || ridge) && shifted > 0 ? 1 / shifted : 0;
    }
    *v->result = (slf_factor_result){.method = SALF_METHOD_EIGEN,
                                     .rank = rank,
                                     .sigma_max = most,
                                     .sigma_min = least,
                                     .sigma_min_kept = isfinite(least_kept) ? least_kept : 0,
                                     .dropped = v->result->dropped};
    return SALF_OK;
}

/* P by eigenvectors in place of G. */
static salf_status by_eigenvectors(const inversion *v) {
    const salf_context *context = v->context;
    const slf_backend *backend = context->backend;
    const int64_t dim = v->dim;
    const uint64_t bytes = (uint64_t)dim * sizeof(double);
    double *host = NULL;                             /* host [dim]: eigenvalues, and then weights */
    double *lambda = NULL, *mixed = NULL, *p = NULL; /* backend [dim], [dim], [dim][dim] */
    salf_status status;
    SLF_DO(SLF_ALLOC(context, host, dim));
    SLF_DO(SLF_DEVICE_ALLOC(context, lambda, dim));
    const slf_syevd_job eigen = {.dim = dim, .a = v->gram, .lambda = lambda};
    SLF_DO(backend->syevd(context->impl, &eigen));
    SLF_DO(slf_download(context, host, lambda, bytes));
    SLF_DO(eigen_weights(v, host));
    if (v->result->dropped && v->result->rank < dim) {
        /* Random parts of the eigenvectors, rows of gram, whose weight is 0: one vector, so that one product with the
         * head shows whether any of them is more than 0 there. */
        double *parts = v->result->dropped;
        for (int64_t k = 0; k < dim; k++) parts[k] = host[k] > 0 ? 0 : slf_random_unit(2, 0, (uint64_t)k) - 0.5;
        SLF_DO(SLF_DEVICE_ALLOC(context, mixed, dim));
        const slf_matvec_job sum = {
            .kind = SLF_TIMES_COLUMNS, .rows = dim, .cols = dim, .a = v->gram, .x = lambda, .y = mixed, .alpha = 1};
        SLF_DO(slf_upload(context, lambda, parts, bytes));
        SLF_DO(backend->matvec(context->impl, &sum));
        SLF_DO(slf_download(context, parts, mixed, bytes));
    }
    SLF_DO(slf_upload(context, lambda, host, bytes));
    SLF_DO(SLF_DEVICE_ALLOC(context, p, dim * dim));
    const slf_syrk_job assemble = {.dim = dim, .vectors = v->gram, .weights = lambda, .out = p};
    SLF_DO(backend->syrk(context->impl, &assemble));
    SLF_DO(slf_device_copy(context, v->gram, p, (uint64_t)dim * bytes));
    SLF_DO(slf_sync(context)); /* host is read until then */
done:
    slf_device_free(context, p);
    slf_device_free(context, mixed);
    slf_device_free(context, lambda);
    slf_free(context, host);
    return status;
}

/* Scratch for Cholesky goes back before eigenvectors take theirs, which bounds both at 2 dim^2. */
salf_status slf_spectrum_invert(const salf_context *context, int64_t dim, double *gram,
                                const slf_factor_request *request, slf_factor_result *result) {
    const inversion v = {context, dim, gram, request, result};
    double *ones = NULL, *scratch = NULL, *host = NULL; /* backend [2][dim], backend [dim][dim], host [dim] */
    int32_t found = 0;
    salf_status status;
    /* 1. G is finite. NaN and infinity spread to the sums G 1, and finite numbers do not reach infinity there: elements
     * of G are sums of products of float32 numbers, below 1e77 a term. */
    SLF_DO(SLF_ALLOC(context, host, dim));
    SLF_DO(SLF_DEVICE_ALLOC(context, ones, 2 * dim));
    SLF_DO(context->backend->fill(context->impl, ones, dim, 1));
    const slf_matvec_job sums = {
        .kind = SLF_TIMES_SYMMETRIC, .rows = dim, .cols = dim, .a = gram, .x = ones, .y = ones + dim, .alpha = 1};
    SLF_DO(context->backend->matvec(context->impl, &sums));
    SLF_DO(slf_download(context, host, ones + dim, (uint64_t)dim * sizeof *host));
    for (int64_t i = 0; i < dim; i++)
        if (!isfinite(host[i]))
            SLF_DO(
                slf_fail(SALF_E_NUMERIC, "the Gram matrix [%lld][%lld] is not finite", (long long)dim, (long long)dim));
    /* 2. the shorter way, where it serves */
    SLF_DO(SLF_DEVICE_ALLOC(context, scratch, dim * dim));
    status = by_cholesky(&v, scratch, &found);
done:
    slf_device_free(context, scratch);
    slf_device_free(context, ones);
    slf_free(context, host);
    /* 3. the longer one, which always does */
    return status != SALF_OK || found ? status : by_eigenvectors(&v);
}
