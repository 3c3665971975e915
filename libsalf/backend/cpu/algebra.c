/*
 * algebra.c - the linear algebra of the cpu backend, through OpenBLAS: its CBLAS, and LAPACK by the Fortran entry
 * points (the distribution's OpenBLAS has no LAPACKE), with 32-bit sizes.
 *
 * The upper triangle of a row-major matrix is the lower one of a column-major matrix, and R of R^T R is Fortran's L.
 */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "cpu.h"

void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);

/* dsyevd's workspace, 2 D^2 + 6 D + 1 numbers, has to fit its 32 bits. */
enum { MOST_DIM = 32766 };

/* Callers hand over Gram matrices of any D. */
static salf_status check_dim(const slf_services *services, int64_t dim) {
    if (dim <= MOST_DIM) return SALF_OK;
    return services->fail(SALF_E_OVERFLOW, "D = %lld is more than LAPACK's 32-bit sizes allow (%d)", (long long)dim,
                          (int)MOST_DIM);
}

/* A product reads the matrix once and is bound by memory; Lanczos needs some tens of them, and their BLAS threads. */
salf_status slf_cpu_matvec(void *self, const slf_matvec_job *job) {
    const slf_services *services = &((slf_cpu *)self)->host.services;
    const bool square = job->kind == SLF_TIMES_SYMMETRIC || job->kind == SLF_SOLVE;
    if (square) SLF_TRY(check_dim(services, job->rows)); /* other sizes are at most as large, or 400 */
    const int rows = (int)job->rows, cols = (int)job->cols;
    slf_blas_enter(services, job->rows * job->cols);
    switch (job->kind) {
    case SLF_TIMES_SYMMETRIC:
        cblas_dsymv(CblasRowMajor, CblasUpper, rows, job->alpha, job->a, rows, job->x, 1, job->beta, job->y, 1);
        break;
    case SLF_SOLVE:
        cblas_dcopy(rows, job->x, 1, job->y, 1);
        cblas_dtrsv(CblasRowMajor, CblasUpper, CblasTrans, CblasNonUnit, rows, job->a, rows, job->y, 1);
        cblas_dtrsv(CblasRowMajor, CblasUpper, CblasNoTrans, CblasNonUnit, rows, job->a, rows, job->y, 1);
        break;
    default:
        cblas_dgemv(CblasRowMajor, job->kind == SLF_TIMES_COLUMNS ? CblasTrans : CblasNoTrans, rows, cols, job->alpha,
                    job->a, cols, job->x, 1, job->beta, job->y, 1);
    }
    slf_blas_leave();
    return SALF_OK;
}

/* A matrix without a factor is an answer (info > 0, the pivot that is not positive), not an error. */
salf_status slf_cpu_potrf(void *self, const slf_potrf_job *job) {
    const slf_services *services = &((slf_cpu *)self)->host.services;
    const int64_t dim = job->dim;
    const int n = (int)dim;
    int info = 0;
    SLF_TRY(check_dim(services, dim));
    for (int64_t i = 0; i < dim * dim; i++) job->factor[i] = job->sign * job->a[i];
    for (int64_t i = 0; i < dim; i++) job->factor[i * dim + i] += job->shift;
    slf_blas_enter(services, dim * dim * dim / 3);
    dpotrf_("L", &n, job->factor, &n, &info);
    slf_blas_leave();
    if (info < 0)
        return services->fail(SALF_E_INTERNAL, "dpotrf: parameter %d for a matrix of size %lld", -info, (long long)dim);
    *job->exists = info == 0;
    return SALF_OK;
}

/* The lower triangle from the upper one: P is read as full by products. */
static void mirror_upper(double *p, int64_t dim) {
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < i; j++) p[i * dim + j] = p[j * dim + i];
}

/* info > 0: an element of the diagonal is zero, which a factor of dpotrf has none of but by underflow. */
salf_status slf_cpu_potri(void *self, const slf_potri_job *job) {
    const slf_services *services = &((slf_cpu *)self)->host.services;
    const int64_t dim = job->dim;
    const int n = (int)dim;
    int info = 0;
    slf_blas_enter(services, dim * dim * dim / 3);
    dpotri_("L", &n, job->factor, &n, &info);
    slf_blas_leave();
    if (info < 0)
        return services->fail(SALF_E_INTERNAL, "dpotri: parameter %d for a matrix of size %lld", -info, (long long)dim);
    *job->exists = info == 0;
    if (info > 0) return SALF_OK;
    memcpy(job->inverse, job->factor, (size_t)(dim * dim) * sizeof *job->inverse);
    mirror_upper(job->inverse, dim);
    return SALF_OK;
}

/* Divide and conquer: about 9 D^3 multiply-adds with the vectors, and 2 D^2 numbers of workspace beside A. */
salf_status slf_cpu_syevd(void *self, const slf_syevd_job *job) {
    const slf_host *host = self;
    const slf_services *services = &host->services;
    SLF_TRY(check_dim(services, job->dim));
    const int n = (int)job->dim, lwork = 1 + 6 * n + 2 * n * n, liwork = 3 + 5 * n; /* what dsyevd asks for */
    int info = 0;
    double *work = slf_host_doubles(host, lwork);
    int *iwork = work ? services->alloc(services->context, (uint64_t)liwork, sizeof *iwork) : NULL;
    const bool there = iwork != NULL;
    if (there) {
        slf_blas_enter(services, job->dim * job->dim * job->dim);
        dsyevd_("V", "L", &n, job->a, &n, job->lambda, work, &lwork, iwork, &liwork, &info);
        slf_blas_leave();
    }
    slf_host_free(host, iwork);
    slf_host_free(host, work);
    if (!there) return SALF_E_NO_MEMORY;
    if (info == 0) return SALF_OK;
    return services->fail(SALF_E_NUMERIC, "dsyevd: info %d for a Gram matrix of size %d", info, n);
}

/* As V^T V of the rows sqrt(w_k) v_k, which dsyrk makes at half the cost of a product; weights are 0 or more. */
salf_status slf_cpu_syrk(void *self, const slf_syrk_job *job) {
    const slf_services *services = &((slf_cpu *)self)->host.services;
    const int64_t dim = job->dim;
    const int n = (int)dim;
    for (int64_t k = 0; k < dim; k++)
        for (int64_t i = 0; i < dim; i++) job->vectors[k * dim + i] *= sqrt(job->weights[k]);
    slf_blas_enter(services, dim * dim * dim / 3);
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, n, 1, job->vectors, n, 0, job->out, n);
    slf_blas_leave();
    mirror_upper(job->out, dim);
    return SALF_OK;
}
