/*
 * factor.c - P = Q f(Lambda) Q^T from G = Q Lambda Q^T by cyclic Jacobi rotations.
 *
 * Each sweep visits every pair (p, q) and rotates so that G_pq becomes 0; convergence is quadratic, some ten sweeps of
 * 3 D^3 multiply-adds. Singular values of the head are sqrt(max(lambda, 0)).
 */
#include <float.h>
#include <math.h>

#include "../spectrum.h"
#include "core/core.h"
#include "reference.h"

enum { MOST_SWEEPS = 60 };

/* Rows p and q of m [..][dim] become c p - s q and s p + c q. */
static void rotate_rows(double *m, int64_t dim, int64_t p, int64_t q, double c, double s) {
    for (int64_t k = 0; k < dim; k++) {
        const double a = m[p * dim + k], b = m[q * dim + k];
        m[p * dim + k] = c * a - s * b;
        m[q * dim + k] = s * a + c * b;
    }
}

static void rotate_columns(double *m, int64_t dim, int64_t p, int64_t q, double c, double s) {
    for (int64_t k = 0; k < dim; k++) {
        const double a = m[k * dim + p], b = m[k * dim + q];
        m[k * dim + p] = c * a - s * b;
        m[k * dim + q] = s * a + c * b;
    }
}

/* Rotates rows and columns p, q of g so that the element off between them becomes 0, and Q^T along. The three elements
 * that the angle determines are set from it, free of the others' rounding. */
static void rotate(double *g, double *qt, int64_t dim, int64_t p, int64_t q) {
    const double off = g[p * dim + q], a = g[p * dim + p], b = g[q * dim + q];
    const double theta = (b - a) / (2 * off);
    const double t = copysign(1, theta) / (fabs(theta) + hypot(theta, 1));
    const double c = 1 / sqrt(t * t + 1);
    rotate_rows(g, dim, p, q, c, t * c);
    rotate_columns(g, dim, p, q, c, t * c);
    rotate_rows(qt, dim, p, q, c, t * c);
    g[p * dim + p] = a - t * off;
    g[q * dim + q] = b + t * off;
    g[p * dim + q] = g[q * dim + p] = 0;
}

/* One sweep; whether any pair was worth a rotation. An element is rounding when it is small against its own two
 * diagonal elements, so that small eigenvalues of a positive matrix come out to high relative accuracy (Demmel and
 * Veselic); floor stops what rounding leaves where G has no rank. */
static bool sweep(double *g, double *qt, int64_t dim, double floor) {
    bool rotated = false;
    for (int64_t p = 0; p < dim; p++)
        for (int64_t q = p + 1; q < dim; q++) {
            const double off = fabs(g[p * dim + q]);
            const double own = DBL_EPSILON * sqrt(fabs(g[p * dim + p])) * sqrt(fabs(g[q * dim + q]));
            if (off <= floor || off <= own) continue;
            rotate(g, qt, dim, p, q);
            rotated = true;
        }
    return rotated;
}

/* Completes the lower triangle, makes Q^T the identity; the Frobenius norm, which is not finite when G is not. */
static double prepare(double *g, double *qt, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++) {
            if (j < i) g[i * dim + j] = g[j * dim + i];
            qt[i * dim + j] = i == j;
            sum = hypot(sum, g[i * dim + j]);
        }
    return sum;
}

/* P = Q diag(weight) Q^T from Q^T [dim][dim]. */
static void assemble(double *p, const double *qt, const double *weight, int64_t dim) {
    for (int64_t i = 0; i < dim * dim; i++) p[i] = 0;
    for (int64_t k = 0; k < dim; k++) {
        if (weight[k] == 0) continue;
        const double *q = qt + k * dim;
        for (int64_t i = 0; i < dim; i++)
            for (int64_t j = 0; j < dim; j++) p[i * dim + j] += weight[k] * (q[i] * q[j]);
    }
}

static salf_status factor_with(const slf_services *services, int64_t dim, double *gram, double *qt, double *lambda,
                               const slf_factor_request *request, slf_factor_result *result) {
    const double size = prepare(gram, qt, dim);
    if (!isfinite(size))
        return services->fail(SALF_E_NUMERIC, "the Gram matrix [%lld][%lld] is not finite", (long long)dim,
                              (long long)dim);
    int sweeps = 0;
    while (sweep(gram, qt, dim, size * DBL_EPSILON * DBL_EPSILON))
        if (++sweeps == MOST_SWEEPS)
            return services->fail(SALF_E_NUMERIC, "Jacobi rotations did not converge in %d sweeps", sweeps);
    for (int64_t k = 0; k < dim; k++) lambda[k] = gram[k * dim + k];
    SLF_TRY(slf_spectrum_weights(services, dim, lambda, request, result));
    assemble(gram, qt, lambda, dim);
    return SALF_OK;
}

salf_status slf_reference_factor(void *self, const slf_factor_job *job) {
    const slf_host *host = self;
    const int64_t dim = job->dim;
    double *qt = slf_host_doubles(host, dim * dim + dim);
    if (!qt) return SALF_E_NO_MEMORY;
    const salf_status status =
        factor_with(&host->services, dim, job->gram, qt, qt + dim * dim, job->request, job->result);
    slf_host_free(host, qt);
    return status;
}
