/*
 * blas.c - the linear algebra of the cpu backend by CBLAS and LAPACK, whichever library has them.
 *
 * LAPACK is called by its Fortran entry points (the distribution's OpenBLAS has no LAPACKE), CBLAS by prototypes of our
 * own, in which its enumerations are int: no header of any BLAS is needed, and none can be the wrong one. Sizes are of
 * 32 bits. The upper triangle of a row-major matrix is the lower one of a column-major matrix, and R of R^T R is
 * Fortran's L.
 */
#ifndef SALF_PLAIN_BLAS
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

#include "core/core.h"
#include "cpu.h"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, UPPER = 121, NON_UNIT = 131 }; /* values of CBLAS */

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                 int ldb, float beta, float *c, int ldc);
void cblas_dgemm(int order, int ta, int tb, int m, int n, int k, double alpha, const double *a, int lda,
                 const double *b, int ldb, double beta, double *c, int ldc);
void cblas_dsyrk(int order, int uplo, int trans, int n, int k, double alpha, const double *a, int lda, double beta,
                 double *c, int ldc);
void cblas_dsymv(int order, int uplo, int n, double alpha, const double *a, int lda, const double *x, int incx,
                 double beta, double *y, int incy);
void cblas_dgemv(int order, int trans, int m, int n, double alpha, const double *a, int lda, const double *x, int incx,
                 double beta, double *y, int incy);
void cblas_dtrsv(int order, int uplo, int trans, int diag, int n, const double *a, int lda, double *x, int incx);
void cblas_dcopy(int n, const double *x, int incx, double *y, int incy);
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);

/* OpenBLAS alone has these. Weak: NULL where another library serves. */
__attribute__((weak)) int openblas_get_num_threads(void);
__attribute__((weak)) void openblas_set_num_threads(int n);

/* ---- threads ---- */

/* OpenBLAS has one count for the process. So a call never raises it, which would start threads that stay: it lowers the
 * host's count to what the context allows, and for small products to 1. While calls overlap the lowest of what they
 * want is set, so that none has more than it asked for. The last to leave puts the host's count back, unless somebody
 * has set another one meanwhile, which then is the host's wish. */
static pthread_mutex_t blas_lock = PTHREAD_MUTEX_INITIALIZER;
static int blas_users, blas_saved, blas_set;
static atomic_int blas_process; /* that the above is of; 0: not used yet, -p: process p is making it its own */

int slf_blas_threads(void) {
    return openblas_get_num_threads ? openblas_get_num_threads() : 1;
}

/* What threads of the parent held or had set at a fork nobody gives back in the child: it begins anew, with the host's
 * count. */
static void blas_begin_process(void) {
    const int me = (int)getpid();
    for (int was; (was = atomic_load(&blas_process)) != me;)
        if (was != -me && atomic_compare_exchange_strong(&blas_process, &was, -me)) {
            pthread_mutex_init(&blas_lock, NULL);
            if (blas_users > 0 && openblas_get_num_threads() == blas_set) openblas_set_num_threads(blas_saved);
            blas_users = 0;
            atomic_store(&blas_process, me);
        }
}

/* Around every call of BLAS that may use threads; work: its multiply-adds. */
static void blas_enter(const slf_cpu *cpu, int64_t work) {
    if (!openblas_set_num_threads) return;
    const int asked = cpu->host.services.options->threads;
    const int wanted = work < SLF_SMALL_WORK ? 1 : asked > 0 ? asked : INT_MAX;
    blas_begin_process();
    pthread_mutex_lock(&blas_lock);
    const int now = openblas_get_num_threads();
    if (blas_users++ == 0 || now != blas_set) blas_saved = now;
    blas_set = SLF_MIN(now, wanted);
    if (blas_set != now) openblas_set_num_threads(blas_set);
    pthread_mutex_unlock(&blas_lock);
}

static void blas_leave(void) {
    if (!openblas_set_num_threads) return;
    pthread_mutex_lock(&blas_lock);
    if (--blas_users == 0 && openblas_get_num_threads() == blas_set && blas_set != blas_saved)
        openblas_set_num_threads(blas_saved);
    pthread_mutex_unlock(&blas_lock);
}

const char *slf_cpu_blas_name(void) {
    return openblas_get_num_threads ? "openblas" : "cblas";
}

/* ---- products ---- */

salf_status slf_blas_product(const slf_cpu *cpu, const salf_product *job) {
    const int m = (int)job->m, n = (int)job->n, k = (int)job->k, ta = job->a_transposed ? TRANS : NO_TRANS;
    const int lda = (int)job->a_stride, ldb = (int)job->b_stride, ldc = (int)job->c_stride;
    const int tb = job->b_transposed ? TRANS : NO_TRANS;
    blas_enter(cpu, job->upper ? job->m * job->n * job->k / 2 : job->m * job->n * job->k);
    /* X^T X: dsyrk computes the upper triangle only, half the operations of a product */
    if (job->upper)
        cblas_dsyrk(ROW_MAJOR, UPPER, ta, n, k, job->alpha, job->a, lda, job->beta, job->c, ldc);
    else if (job->dtype == SALF_F64)
        cblas_dgemm(ROW_MAJOR, ta, tb, m, n, k, job->alpha, job->a, lda, job->b, ldb, job->beta, job->c, ldc);
    else
        cblas_sgemm(ROW_MAJOR, ta, tb, m, n, k, (float)job->alpha, job->a, lda, job->b, ldb, (float)job->beta, job->c,
                    ldc);
    blas_leave();
    return SALF_OK;
}

/* dsyevd's workspace, 2 D^2 + 6 D + 1 numbers, has to fit its 32 bits. */
enum { MOST_DIM = 32766 };

/* Callers hand over Gram matrices of any D. */
static salf_status check_dim(const slf_cpu *cpu, int64_t dim) {
    if (dim <= MOST_DIM) return SALF_OK;
    return cpu->host.services.fail(SALF_E_OVERFLOW, "D = %lld is more than LAPACK's 32-bit sizes allow (%d)",
                                   (long long)dim, (int)MOST_DIM);
}

/* A product reads the matrix once and is bound by memory; Lanczos needs some tens of them, and their BLAS threads. */
salf_status slf_blas_matvec(const slf_cpu *cpu, const slf_matvec_job *job) {
    const bool square = job->kind == SLF_TIMES_SYMMETRIC || job->kind == SLF_SOLVE;
    if (square) SLF_TRY(check_dim(cpu, job->rows)); /* other sizes are at most as large, or 400 */
    const int rows = (int)job->rows, cols = (int)job->cols;
    blas_enter(cpu, job->rows * job->cols);
    switch (job->kind) {
    case SLF_TIMES_SYMMETRIC:
        cblas_dsymv(ROW_MAJOR, UPPER, rows, job->alpha, job->a, rows, job->x, 1, job->beta, job->y, 1);
        break;
    case SLF_SOLVE:
        cblas_dcopy(rows, job->x, 1, job->y, 1);
        cblas_dtrsv(ROW_MAJOR, UPPER, TRANS, NON_UNIT, rows, job->a, rows, job->y, 1);
        cblas_dtrsv(ROW_MAJOR, UPPER, NO_TRANS, NON_UNIT, rows, job->a, rows, job->y, 1);
        break;
    default:
        cblas_dgemv(ROW_MAJOR, job->kind == SLF_TIMES_COLUMNS ? TRANS : NO_TRANS, rows, cols, job->alpha, job->a, cols,
                    job->x, 1, job->beta, job->y, 1);
    }
    blas_leave();
    return SALF_OK;
}

/* ---- LAPACK ---- */

/* info < 0 names a parameter, which is a fault of ours; info > 0 is an answer: there is no factor, or (dpotri) an
 * element of the diagonal is zero, which a factor of dpotrf has none of but by underflow. */
static salf_status answer(const slf_cpu *cpu, const char *function, int info, int64_t dim, int32_t *exists) {
    if (info < 0)
        return cpu->host.services.fail(SALF_E_INTERNAL, "%s: parameter %d for a matrix of size %lld", function, -info,
                                       (long long)dim);
    *exists = info == 0;
    return SALF_OK;
}

salf_status slf_blas_potrf(const slf_cpu *cpu, int64_t dim, double *r, int32_t *exists) {
    SLF_TRY(check_dim(cpu, dim));
    const int n = (int)dim;
    int info = 0;
    blas_enter(cpu, dim * dim * dim / 3);
    dpotrf_("L", &n, r, &n, &info);
    blas_leave();
    return answer(cpu, "dpotrf", info, dim, exists);
}

salf_status slf_blas_potri(const slf_cpu *cpu, int64_t dim, double *r, double *scratch, int32_t *exists) {
    const int n = (int)dim;
    int info = 0;
    (void)scratch;
    blas_enter(cpu, dim * dim * dim / 3);
    dpotri_("L", &n, r, &n, &info);
    blas_leave();
    return answer(cpu, "dpotri", info, dim, exists);
}

/* Divide and conquer: about 9 D^3 multiply-adds with the vectors, and 2 D^2 numbers of workspace beside A. */
salf_status slf_blas_syevd(const slf_cpu *cpu, const slf_syevd_job *job) {
    const slf_services *services = &cpu->host.services;
    SLF_TRY(check_dim(cpu, job->dim));
    const int n = (int)job->dim, lwork = 1 + 6 * n + 2 * n * n, liwork = 3 + 5 * n; /* what dsyevd asks for */
    int info = 0;
    double *work = slf_host_doubles(&cpu->host, lwork);
    int *iwork = work ? services->alloc(services->context, (uint64_t)liwork, sizeof *iwork) : NULL;
    const bool there = iwork != NULL;
    if (there) {
        blas_enter(cpu, job->dim * job->dim * job->dim);
        dsyevd_("V", "L", &n, job->a, &n, job->lambda, work, &lwork, iwork, &liwork, &info);
        blas_leave();
    }
    slf_host_free(&cpu->host, iwork);
    slf_host_free(&cpu->host, work);
    if (!there) return SALF_E_NO_MEMORY;
    if (info == 0) return SALF_OK;
    return services->fail(SALF_E_NUMERIC, "dsyevd: info %d for a Gram matrix of size %d", info, n);
}
#else
#include "backend/backend.h"

const char *slf_cpu_blas_name(void) {
    return "plain";
}
#endif
