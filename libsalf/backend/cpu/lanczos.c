/*
 * lanczos.c - the largest eigenvalue of a symmetric operator on [dim], by Lanczos with full reorthogonalisation.
 *
 * After k steps the tridiagonal T [k][k] holds the operator on the Krylov space; its largest eigenvalue theta, with
 * eigenvector s, is within beta_k |s_k| of one of the operator's, and quadratically closer where that one stands
 * apart. k products with the operator and 2 k^2 dim multiply-adds; k * dim doubles of scratch.
 */
#include <cblas.h>
#include <math.h>

#include "core/core.h"
#include "core/random.h"
#include "cpu.h"

/* Steps at most, and between two looks at the residual. */
enum { MOST_STEPS = 400, LOOK = 8 };

/* Residual relative to theta at which the value is taken. */
#define CONVERGED 1e-9

typedef struct {
    int64_t dim, most;
    double *basis;        /* [most + 1][dim] orthonormal */
    double *alpha, *beta; /* [most] */
    double *copy;         /* [2][most], for LAPACK, which destroys them */
    double *vector;       /* [most] */
    double *work;         /* [6][most] */
    int *iwork;           /* [6][most] */
} lanczos;

/* A start with a part in every eigenspace: fixed random numbers. */
static void start(const lanczos *l) {
    for (int64_t i = 0; i < l->dim; i++) l->basis[i] = slf_random_unit(1, 0, (uint64_t)i) - 0.5;
    const double length = cblas_dnrm2((int)l->dim, l->basis, 1);
    cblas_dscal((int)l->dim, 1 / length, l->basis, 1);
}

/* Step k: alpha_k, beta_k and basis vector k + 1; false when the Krylov space is complete. */
static bool step(const lanczos *l, int64_t k, slf_operator_fn product, void *user) {
    const int d = (int)l->dim, n = (int)k + 1;
    double *w = l->basis + (k + 1) * l->dim;
    product(user, l->basis + k * l->dim, w);
    const double size = cblas_dnrm2(d, w, 1);
    l->alpha[k] = cblas_ddot(d, l->basis + k * l->dim, 1, w, 1);
    for (int pass = 0; pass < 2; pass++) { /* w -= Q^T (Q w); twice is enough */
        cblas_dgemv(CblasRowMajor, CblasNoTrans, n, d, 1, l->basis, d, w, 1, 0, l->vector, 1);
        cblas_dgemv(CblasRowMajor, CblasTrans, n, d, -1, l->basis, d, l->vector, 1, 1, w, 1);
    }
    l->beta[k] = cblas_dnrm2(d, w, 1);
    if (!(l->beta[k] > 1e-14 * size)) return false;
    cblas_dscal(d, 1 / l->beta[k], w, 1);
    return true;
}

/* theta of the first k steps and its residual; LAPACK's info. */
static int ritz(const lanczos *l, int64_t k, double *theta, double *residual) {
    double *diagonal = l->copy, *side = l->copy + l->most;
    cblas_dcopy((int)k, l->alpha, 1, diagonal, 1);
    cblas_dcopy((int)k, l->beta, 1, side, 1);
    const int info = slf_lapack_tridiagonal_largest((int)k, diagonal, side, theta, l->vector, l->work, l->iwork);
    *residual = l->beta[k - 1] * fabs(l->vector[k - 1]);
    return info;
}

static bool iterate(const lanczos *l, slf_operator_fn product, void *user, double *largest) {
    start(l);
    for (int64_t k = 1; k <= l->most; k++) {
        const bool complete = !step(l, k - 1, product, user) || k == l->dim;
        if (!complete && k % LOOK != 0) continue;
        double theta = 0, residual = 0;
        if (ritz(l, k, &theta, &residual) != 0 || !isfinite(theta)) return false;
        if (complete || residual <= CONVERGED * fabs(theta)) {
            *largest = theta;
            return true;
        }
    }
    return false;
}

salf_status slf_lanczos_largest(const slf_host *host, int64_t dim, slf_operator_fn product, void *user, double *largest,
                                bool *converged) {
    const int64_t most = dim < MOST_STEPS ? dim : MOST_STEPS;
    double *memory = slf_host_doubles(host, (most + 1) * dim + 14 * most);
    if (!memory) return SALF_E_NO_MEMORY;
    lanczos l = {.dim = dim, .most = most, .basis = memory, .alpha = memory + (most + 1) * dim};
    l.beta = l.alpha + most;
    l.copy = l.beta + most;
    l.vector = l.copy + 2 * most;
    l.work = l.vector + most;
    l.iwork = (int *)(l.work + 6 * most);
    *converged = iterate(&l, product, user, largest);
    slf_host_free(host, memory);
    return SALF_OK;
}
