/*
 * algebra.c - the linear algebra of the reference backend, in plain loops: products, Cholesky factors, eigenvectors.
 *
 * Eigenvectors come by cyclic Jacobi rotations: each sweep visits every pair (p, q) and rotates so that A_pq becomes 0;
 * convergence is quadratic, some ten sweeps of 3 D^3 multiply-adds. A Cholesky factor takes D^3 / 3, the inverse from
 * it D^3.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "reference.h"

/* ---- products ---- */

/* (R^T R)^-1 x: R^T u = x from the first row on, then R y = u from the last. */
static void solve_cholesky(const double *r, int64_t dim, const double *x, double *y) {
    memcpy(y, x, (size_t)dim * sizeof *y);
    for (int64_t i = 0; i < dim; i++) {
        y[i] /= r[i * dim + i];
        for (int64_t j = i + 1; j < dim; j++) y[j] -= r[i * dim + j] * y[i];
    }
    for (int64_t i = dim - 1; i >= 0; i--) {
        for (int64_t j = i + 1; j < dim; j++) y[i] -= r[i * dim + j] * y[j];
        y[i] /= r[i * dim + i];
    }
}

/* beta 0 must not read y, nor alpha 0 a and x: they may be unset. */
salf_status slf_reference_matvec(void *self, const slf_matvec_job *job) {
    (void)self;
    if (job->kind == SLF_SOLVE) {
        solve_cholesky(job->a, job->rows, job->x, job->y);
        return SALF_OK;
    }
    const bool columns = job->kind == SLF_TIMES_COLUMNS, symmetric = job->kind == SLF_TIMES_SYMMETRIC;
    const int64_t n = columns ? job->cols : job->rows, terms = columns ? job->rows : job->cols;
    const bool read = job->alpha > 0 || job->alpha<0, add = job->beta> 0 || job->beta < 0;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t j = 0; read && j < terms; j++) {
            /* of a symmetric matrix the upper triangle is read, for which row and column may change places */
            const bool turned = columns || (symmetric && j < i);
            const double a = turned ? job->a[j * job->cols + i] : job->a[i * job->cols + j];
            sum += a * job->x[j];
        }
        job->y[i] = (read ? job->alpha * sum : 0) + (add ? job->beta * job->y[i] : 0);
    }
    return SALF_OK;
}

/* ---- Cholesky ---- */

/* Row by row from the top: once a row of R is known, what it contributes is taken off all rows below it, so that every
 * inner loop runs along a row. */
salf_status slf_reference_potrf(void *self, const slf_potrf_job *job) {
    const int64_t dim = job->dim;
    double *r = job->factor;
    (void)self;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = i; j < dim; j++) r[i * dim + j] = job->sign * job->a[i * dim + j] + (i == j ? job->shift : 0);
    *job->exists = 0;
    for (int64_t i = 0; i < dim; i++) {
        if (!(r[i * dim + i] > 0)) return SALF_OK;
        const double root = sqrt(r[i * dim + i]);
        for (int64_t j = i; j < dim; j++) r[i * dim + j] /= root;
        for (int64_t p = i + 1; p < dim; p++) /* what row i leaves of the rows below */
            for (int64_t j = p; j < dim; j++) r[p * dim + j] -= r[i * dim + p] * r[i * dim + j];
    }
    *job->exists = 1;
    return SALF_OK;
}

/* Row i of the inverse is the solution for the unit vector e_i; its elements from the diagonal on count for both
 * triangles, so that the result is symmetric to the last bit. */
salf_status slf_reference_potri(void *self, const slf_potri_job *job) {
    const int64_t dim = job->dim;
    double *unit = slf_host_doubles(self, 2 * dim);
    if (!unit) return SALF_E_NO_MEMORY;
    double *row = unit + dim;
    for (int64_t i = 0; i < dim; i++) {
        for (int64_t j = 0; j < dim; j++) unit[j] = i == j;
        solve_cholesky(job->factor, dim, unit, row);
        for (int64_t j = i; j < dim; j++) job->inverse[i * dim + j] = job->inverse[j * dim + i] = row[j];
    }
    slf_host_free(self, unit);
    *job->exists = 1;
    return SALF_OK;
}

/* ---- eigenvectors ---- */

/* Sweeps at most: they end after some ten, by far. */
enum { MOST_SWEEPS = 60 };

/* Rows p and q of m [..][dim] become c p - s q and s p + c q. */
static void rotate_rows(double *m, int64_t dim, int64_t p, int64_t q, double c, double s) {
    for (int64_t k = 0; k < dim; k++) {
        const double a = m[p * dim + k], b = m[q * dim + k];
        m[p * dim + k] = c * a - s * b;
        m[q * dim + k] = s * a + c * b;
    }
}

salf_status slf_reference_syevd(void *self, const slf_syevd_job *job) {
    const slf_host *host = self;
    const int64_t dim = job->dim;
    double *g = job->a, *qt = slf_host_doubles(host, dim * dim), size = 0;
    salf_status status = SALF_OK;
    if (!qt) return SALF_E_NO_MEMORY;
    /* 1. G in full, Q^T = I, and the Frobenius norm of G, against which rounding is small */
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++) {
            if (j < i) g[i * dim + j] = g[j * dim + i];
            qt[i * dim + j] = i == j;
            size = hypot(size, g[i * dim + j]);
        }
    /* 2. sweeps over all pairs, until none is worth a rotation. An element is rounding when it is small against its own
     * two diagonal elements, so that small eigenvalues of a positive matrix come out to high relative accuracy (Demmel
     * and Veselic); the floor stops what rounding leaves where G has no rank. */
    const double floor = size * DBL_EPSILON * DBL_EPSILON;
    bool rotated = true;
    for (int sweeps = 1; rotated && status == SALF_OK; sweeps++) {
        rotated = false;
        for (int64_t p = 0; p < dim; p++)
            for (int64_t q = p + 1; q < dim; q++) {
                const double off = g[p * dim + q], a = g[p * dim + p], b = g[q * dim + q];
                if (fabs(off) <= floor || fabs(off) <= DBL_EPSILON * sqrt(fabs(a)) * sqrt(fabs(b))) continue;
                /* Rotates rows and columns p, q of G so that the element off between them becomes 0, and Q^T along, by
                 * the smaller of the two angles that do, at most 45 degrees: with it, sweeps converge (Rutishauser's
                 * choice). hypot keeps theta^2 from overflowing where off is tiny. */
                const double theta = (b - a) / (2 * off);
                const double t = copysign(1, theta) / (fabs(theta) + hypot(theta, 1));
                const double c = 1 / sqrt(t * t + 1);
                rotate_rows(g, dim, p, q, c, t * c);
                for (int64_t k = 0; k < dim; k++) { /* and columns */
                    const double x = g[k * dim + p], y = g[k * dim + q];
                    g[k * dim + p] = c * x - t * c * y;
                    g[k * dim + q] = t * c * x + c * y;
                }
                rotate_rows(qt, dim, p, q, c, t * c);
                /* the three elements that the angle determines are set from it, free of the others' rounding */
                g[p * dim + p] = a - t * off;
                g[q * dim + q] = b + t * off;
                g[p * dim + q] = g[q * dim + p] = 0;
                rotated = true;
            }
        if (rotated && sweeps == MOST_SWEEPS)
            status = host->services.fail(SALF_E_NUMERIC, "Jacobi rotations did not converge in %d sweeps", sweeps);
    }
    /* 3. the diagonal holds the eigenvalues */
    for (int64_t k = 0; k < dim; k++) job->lambda[k] = g[k * dim + k];
    memcpy(g, qt, (size_t)(dim * dim) * sizeof *g);
    slf_host_free(host, qt);
    return status;
}

/* Vectors of weight 0 are those that were dropped. */
salf_status slf_reference_syrk(void *self, const slf_syrk_job *job) {
    const int64_t dim = job->dim;
    double *p = job->out;
    (void)self;
    for (int64_t i = 0; i < dim * dim; i++) p[i] = 0;
    for (int64_t k = 0; k < dim; k++) {
        if (!(job->weights[k] > 0)) continue;
        const double *q = job->vectors + k * dim;
        for (int64_t i = 0; i < dim; i++)
            for (int64_t j = 0; j < dim; j++) p[i * dim + j] += job->weights[k] * (q[i] * q[j]);
    }
    return SALF_OK;
}
