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
#include <string.h>
#include <unistd.h>

#include "core/carve.h"
#include "core/core.h"
#include "cpu.h"

enum {
    ROW_MAJOR = 101,
    COLUMN_MAJOR = 102,
    NO_TRANS = 111,
    TRANS = 112,
    UPPER = 121,
    LOWER = 122,
    NON_UNIT = 131,
    LEFT = 141
}; /* values of CBLAS */

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
void cblas_dtrsm(int order, int side, int uplo, int trans, int diag, int m, int n, double alpha, const double *a,
                 int lda, double *b, int ldb);
void cblas_dsyr2k(int order, int uplo, int trans, int n, int k, double alpha, const double *a, int lda, const double *b,
                  int ldb, double beta, double *c, int ldc);
void cblas_dcopy(int n, const double *x, int incx, double *y, int incy);
int idamax_(const int *n, const double *x, const int *incx);
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dlatrd_(const char *uplo, const int *n, const int *nb, double *a, const int *lda, double *e, double *tau,
             double *w, const int *ldw);
void dsytd2_(const char *uplo, const int *n, double *a, const int *lda, double *d, double *e, double *tau, int *info);
void dstedc_(const char *compz, const int *n, double *d, double *e, double *z, const int *ldz, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);
void dormtr_(const char *side, const char *uplo, const char *trans, const int *m, const int *n, const double *a,
             const int *lda, const double *tau, double *c, const int *ldc, double *work, const int *lwork, int *info);

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

/* Around every call of BLAS that may use threads; work: its multiply-adds. */
static void blas_enter(const slf_cpu *cpu, int64_t work) {
    if (!openblas_set_num_threads) return;
    const int asked = cpu->host.services.options->threads;
    int wanted = asked > 0 ? asked : INT_MAX;
    if (work < SLF_SMALL_WORK) wanted = 1;
    /* What threads of the parent held or had set at a fork nobody gives back in the child: it begins anew, with the
     * host's count. */
    const int me = (int)getpid();
    for (int was; (was = atomic_load(&blas_process)) != me;)
        if (was != -me && atomic_compare_exchange_strong(&blas_process, &was, -me)) {
            pthread_mutex_init(&blas_lock, NULL);
            if (blas_users > 0 && openblas_get_num_threads() == blas_set) openblas_set_num_threads(blas_saved);
            blas_users = 0;
            atomic_store(&blas_process, me);
        }
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

/* Libraries with sizes of 64 bits (ILP64) have functions of the same names, read what lies beside an int of ours, and
 * end the process where that makes no sense. This count is 3 in its low half and negative as a whole: the largest of
 * (1, 2, 1) is the second, and of a negative number of elements none is, which is 0. */
salf_status slf_blas_check(const slf_services *services) {
    const _Alignas(int64_t) int n[2] = {3, INT_MIN}, step[2] = {1, 0};
    const double x[3] = {1, 2, 1};
    if (idamax_(n, x, step) == 2) return SALF_OK;
    return services->fail(SALF_E_BACKEND, "the BLAS that libsalf is linked to does not take sizes of 32 bits; "
                                          "libraries with sizes of 64 (ILP64) have a form with 32 (LP64): link that");
}

/* ---- products ---- */

/* Row-major throughout, as CBLAS takes it. A product of which the upper triangle is wanted has A for B wherever
 * BLAS is asked for it (the Gram matrix, P from eigenvectors): that is dsyrk. The plain eigenvectors, where B is
 * another matrix, have a product of their own. */
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

/* dstedc's workspace, D^2 + 4 D + 1 numbers, has to fit its 32 bits, and twice that what versions may add to it. */
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

/* Rows of a block: at D = 8,192 one takes a second of one processor, at 4,096 a quarter. Large enough for products to
 * be as fast as those of LAPACK's own blocks, or faster. */
enum { BLOCK = 256 };

/* info < 0 names a parameter, which is a fault of ours; info > 0 is an answer: there is no factor. */
static salf_status blas_diagonal(const slf_cpu *cpu, int64_t n, double *block, int64_t stride, int32_t *exists) {
    const int size = (int)n, lda = (int)stride;
    int info = 0;
    blas_enter(cpu, n * n * n / 6);
    dpotrf_("L", &size, block, &lda, &info);
    blas_leave();
    *exists = info == 0;
    if (info >= 0) return SALF_OK;
    return cpu->host.services.fail(SALF_E_INTERNAL, "dpotrf: parameter %d for a matrix of size %d", -info, size);
}

/* R^T X = B in place of B; dtrsm reads the upper triangle alone. */
static void blas_forward(const slf_cpu *cpu, const double *r, int64_t n, double *x, int64_t stride, int64_t cols) {
    blas_enter(cpu, n * n * cols / 2);
    cblas_dtrsm(ROW_MAJOR, LEFT, UPPER, TRANS, NON_UNIT, (int)n, (int)cols, 1, r, (int)stride, x, (int)stride);
    blas_leave();
}

static const slf_factor_parts blas_parts = {
    .block = BLOCK, .product = slf_blas_product, .diagonal = blas_diagonal, .forward = blas_forward};

salf_status slf_blas_potrf(const slf_cpu *cpu, int64_t dim, double *r, int32_t *exists) {
    SLF_TRY(check_dim(cpu, dim));
    return slf_potrf_by_blocks(cpu, &blas_parts, dim, r, exists);
}

salf_status slf_blas_potri(const slf_cpu *cpu, int64_t dim, double *r, double *scratch, int32_t *exists) {
    return slf_potri_by_blocks(cpu, &blas_parts, dim, r, scratch, exists);
}

/* What eigenvectors work in, beside A, which has the reflections that make it tridiagonal: Z [n][n], work [lwork]. */
typedef struct {
    int n, lwork, liwork;
    double *d, *e, *tau; /* [n] the diagonal, which becomes the eigenvalues; what is beside it; factors */
    double *z, *work;
    int *iwork;
} eigen_space;

static void lay_out_eigen(eigen_space *s, slf_carver *block) {
    s->e = slf_carve(block, s->n, sizeof(double));
    s->tau = slf_carve(block, s->n, sizeof(double));
    s->z = slf_carve(block, (int64_t)s->n * s->n, sizeof(double));
    s->work = slf_carve(block, s->lwork, sizeof(double));
    s->iwork = slf_carve(block, s->liwork, sizeof(int));
}

/* About 9 D^3 multiply-adds, and 2 D^2 numbers beside A. */
salf_status slf_blas_syevd(const slf_cpu *cpu, const slf_syevd_job *job) {
    enum { PANEL = 32 };
    const slf_services *services = &cpu->host.services;
    SLF_TRY(check_dim(cpu, job->dim));
    const int n = (int)job->dim, panel = PANEL;
    double *a = job->a;
    eigen_space s = {.n = n, .lwork = 1 + 4 * n + n * n, .liwork = 3 + 5 * n, .d = job->lambda}; /* dstedc's */
    s.lwork = SLF_MAX(s.lwork, PANEL * n); /* a panel's; dormtr makes do with what there is */
    slf_carver block = {0};
    int i = 0, info = 0;
    lay_out_eigen(&s, &block);
    void *const memory = services->alloc(services->context, block.used, 1);
    if (!memory) return SALF_E_NO_MEMORY;
    block = (slf_carver){.base = memory};
    lay_out_eigen(&s, &block);
    salf_status status;
    /* 1. A = Q T Q^T, as dsytrd does it: PANEL columns at a time by reflections, each of which takes a product of A
     * with a vector, and then all of them from the matrix behind, by one product. That is done here and not by dsytrd,
     * as it takes half of the time and the host is to be asked in between. */
    for (; n - i > 2 * PANEL; i += PANEL) {
        const int rest = n - i, behind = rest - PANEL;
        double *corner = a + (int64_t)i * n + i;
        SLF_DO(services->proceed(services->context, "eigenvectors", i / 2, n));
        blas_enter(cpu, (int64_t)rest * rest * PANEL);
        dlatrd_("L", &rest, &panel, corner, &n, s.e + i, s.tau + i, s.work, &n);
        cblas_dsyr2k(COLUMN_MAJOR, LOWER, NO_TRANS, behind, PANEL, -1, corner + PANEL, n, s.work + PANEL, n, 1,
                     corner + (int64_t)PANEL * n + PANEL, n);
        blas_leave();
        for (int j = i; j < i + PANEL; j++) {
            a[(int64_t)j * n + j + 1] = s.e[j];
            s.d[j] = a[(int64_t)j * n + j];
        }
    }
    const int rest = n - i;
    blas_enter(cpu, (int64_t)rest * rest * rest);
    dsytd2_("L", &rest, a + (int64_t)i * n + i, &n, s.d + i, s.e + i, s.tau + i, &info);
    blas_leave();
    /* 2. divide and conquer on T, the one step that cannot be ended: a tenth of the time or less where eigenvalues
     * cluster, and a third at most; 1.6 to 2.0 s of a core at D = 4096, for a second difference and for a Gram matrix
     * of random rows */
    blas_enter(cpu, job->dim * job->dim * job->dim);
    dstedc_("I", &n, s.d, s.e, s.z, &n, s.work, &s.lwork, s.iwork, &s.liwork, &info);
    blas_leave();
    if (info != 0) SLF_DO(services->fail(SALF_E_NUMERIC, "dstedc: info %d for a Gram matrix of size %d", info, n));
    /* 3. its vectors times Q; columns there are rows here */
    for (int c = 0; c < n; c += BLOCK) {
        const int columns = SLF_MIN(n - c, BLOCK);
        SLF_DO(services->proceed(services->context, "eigenvectors", (n + c) / 2, n));
        blas_enter(cpu, (int64_t)n * n * columns);
        dormtr_("L", "L", "N", &n, &columns, a, &n, s.tau, s.z + (int64_t)c * n, &n, s.work, &s.lwork, &info);
        blas_leave();
        if (info != 0) SLF_DO(services->fail(SALF_E_INTERNAL, "dormtr: info %d for a matrix of size %d", info, n));
    }
    memcpy(a, s.z, (size_t)n * (size_t)n * sizeof *s.z);
done:
    slf_host_free(&cpu->host, memory);
    return status;
}
#else
#include "backend/backend.h"

const char *slf_cpu_blas_name(void) {
    return "plain";
}
#endif
