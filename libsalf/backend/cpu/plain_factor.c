/*
 * plain_factor.c - products with vectors without a BLAS, and what factor.c makes factors and inverses of: triangular
 * solves, and the factor of a block.
 */
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "plain.h"

/* BLOCK: rows of a block; small against D, for what is done by hand, large enough for a product. CHUNK: columns that a
 * solve takes at a time, 64 x 256 numbers in the second cache. */
enum { BLOCK = 64, CHUNK = 256 };

/* ---- vectors ---- */

/* Eight chains: compilers make vectors of them, and an addition need not wait for the one before. */
double slf_plain_dot(const double *x, const double *y, int64_t n) {
    double lanes[8] = {0}, rest = 0;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) lanes[k] += x[i + k] * y[i + k];
    for (; i < n; i++) rest += x[i] * y[i];
    return (((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))) + rest;
}

/* Each element stands alone: no order to keep, and nothing to round twice. */
void slf_plain_axpy(int64_t n, double a, const double *x, double *y) {
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* Four rows at a time, each element of the triangle read once for both of its places: y and x pass through the cache a
 * quarter as often as the matrix passes through memory, which bounds this. */
void slf_plain_symv(int64_t n, const double *a, int64_t stride, const double *x, double *y) {
    for (int64_t i = 0; i < n; i++) y[i] = 0;
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const double *r0 = a + i * stride, *r1 = r0 + stride, *r2 = r1 + stride, *r3 = r2 + stride;
        const double x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
        double s0[4] = {0}, s1[4] = {0}, s2[4] = {0}, s3[4] = {0};
        for (int64_t p = 0; p < 4; p++) /* the 4 x 4 block on the diagonal */
            for (int64_t q = 0; q < 4; q++)
                y[i + p] += (p < q ? a[(i + p) * stride + i + q] : a[(i + q) * stride + i + p]) * x[i + q];
        int64_t j = i + 4;
        for (; j + 4 <= n; j += 4)
            for (int k = 0; k < 4; k++) {
                const double e0 = r0[j + k], e1 = r1[j + k], e2 = r2[j + k], e3 = r3[j + k], xj = x[j + k];
                s0[k] += e0 * xj;
                s1[k] += e1 * xj;
                s2[k] += e2 * xj;
                s3[k] += e3 * xj;
                y[j + k] += (e0 * x0 + e1 * x1) + (e2 * x2 + e3 * x3);
            }
        for (; j < n; j++) {
            s0[0] += r0[j] * x[j];
            s1[0] += r1[j] * x[j];
            s2[0] += r2[j] * x[j];
            s3[0] += r3[j] * x[j];
            y[j] += (r0[j] * x0 + r1[j] * x1) + (r2[j] * x2 + r3[j] * x3);
        }
        y[i] += (s0[0] + s0[2]) + (s0[1] + s0[3]);
        y[i + 1] += (s1[0] + s1[2]) + (s1[1] + s1[3]);
        y[i + 2] += (s2[0] + s2[2]) + (s2[1] + s2[3]);
        y[i + 3] += (s3[0] + s3[2]) + (s3[1] + s3[3]);
    }
    for (; i < n; i++) { /* at most three rows are left */
        const double *row = a + i * stride;
        y[i] += row[i] * x[i] + slf_plain_dot(row + i + 1, x + i + 1, n - i - 1);
        slf_plain_axpy(n - i - 1, x[i], row + i + 1, y + i + 1);
    }
}

/* ---- triangular solves ---- */

/* Row after row from the first: what a row of X has left in those below is taken off them, along rows. */
static void plain_forward(const slf_cpu *cpu, const double *r, int64_t n, double *x, int64_t stride, int64_t cols) {
    (void)cpu;
    for (int64_t c0 = 0; c0 < cols; c0 += CHUNK) {
        const int64_t width = SLF_MIN(cols - c0, CHUNK);
        for (int64_t i = 0; i < n; i++) {
            double *row = x + i * stride + c0;
            for (int64_t t = 0; t < i; t++) slf_plain_axpy(width, -r[t * stride + i], x + t * stride + c0, row);
            for (int64_t c = 0; c < width; c++) row[c] /= r[i * stride + i];
        }
    }
}

/* y = alpha A x + beta y in its four forms; what is not to be read may be unset. */
salf_status slf_plain_matvec(const slf_cpu *cpu, const slf_matvec_job *job) {
    /* On the calling thread: a matrix is read once, at the speed of memory, which one thread has most of. */
    const int64_t rows = job->rows, cols = job->cols, n = job->kind == SLF_TIMES_COLUMNS ? cols : rows;
    /* 0 is told by comparisons, as compilers warn of == on doubles. */
    const bool read = job->alpha < 0 || job->alpha > 0, add = job->beta < 0 || job->beta > 0;
    double *y = job->y;
    if (job->kind == SLF_TIMES_SYMMETRIC && read) { /* A x beside y, which both go into */
        double *product = slf_host_doubles(&cpu->host, n);
        if (!product) return SALF_E_NO_MEMORY;
        slf_plain_symv(n, job->a, n, job->x, product);
        for (int64_t i = 0; i < n; i++) y[i] = job->alpha * product[i] + (add ? job->beta * y[i] : 0);
        slf_host_free(&cpu->host, product);
        return SALF_OK;
    }
    /* (R^T R) y = x by two triangles, each read along its rows: the first takes a solved element off all that follow,
     * the second takes all that are solved off the next. */
    if (job->kind == SLF_SOLVE) {
        memcpy(y, job->x, (size_t)n * sizeof *y);
        for (int64_t i = 0; i < n; i++) { /* R^T u = x */
            y[i] /= job->a[i * n + i];
            slf_plain_axpy(n - i - 1, -y[i], job->a + i * n + i + 1, y + i + 1);
        }
        for (int64_t i = n - 1; i >= 0; i--) /* R y = u */
            y[i] = (y[i] - slf_plain_dot(job->a + i * n + i + 1, y + i + 1, n - i - 1)) / job->a[i * n + i];
        return SALF_OK;
    }
    for (int64_t i = 0; i < n; i++) y[i] = add ? job->beta * y[i] : 0;
    for (int64_t i = 0; i < rows && read; i++) {
        if (job->kind == SLF_TIMES_COLUMNS)
            slf_plain_axpy(cols, job->alpha * job->x[i], job->a + i * cols, y);
        else
            y[i] += job->alpha * slf_plain_dot(job->a + i * cols, job->x, cols);
    }
    return SALF_OK;
}

/* ---- Cholesky ---- */

/* Row by row; no factor where a pivot is not positive, or not a number. */
static salf_status plain_diagonal(const slf_cpu *cpu, int64_t n, double *block, int64_t stride, int32_t *exists) {
    (void)cpu;
    *exists = 0;
    for (int64_t p = 0; p < n; p++) {
        if (!(block[p * stride + p] > 0)) return SALF_OK;
        const double root = sqrt(block[p * stride + p]);
        for (int64_t j = p; j < n; j++) block[p * stride + j] /= root;
        for (int64_t q = p + 1; q < n; q++)
            slf_plain_axpy(n - q, -block[p * stride + q], block + p * stride + q, block + q * stride + q);
    }
    *exists = 1;
    return SALF_OK;
}

/* As a step of another algorithm here; by the host where it has a product. */
salf_status slf_plain_multiply(const slf_cpu *cpu, const salf_product *job) {
    return slf_product(cpu, job, slf_plain_product);
}

static const slf_factor_parts plain_parts = {
    .block = BLOCK, .product = slf_plain_multiply, .diagonal = plain_diagonal, .forward = plain_forward};

salf_status slf_plain_potrf(const slf_cpu *cpu, int64_t dim, double *r, int32_t *exists) {
    return slf_potrf_by_blocks(cpu, &plain_parts, dim, r, exists);
}

salf_status slf_plain_potri(const slf_cpu *cpu, int64_t dim, double *r, double *scratch, int32_t *exists) {
    return slf_potri_by_blocks(cpu, &plain_parts, dim, r, scratch, exists);
}
