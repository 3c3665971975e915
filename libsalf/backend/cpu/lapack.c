/* lapack.c - the LAPACK routines in use, through their Fortran entry points (32-bit integers). */
#include "cpu.h"

void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);
void dstevx_(const char *jobz, const char *range, const int *n, double *d, double *e, const double *vl,
             const double *vu, const int *il, const int *iu, const double *abstol, int *m, double *w, double *z,
             const int *ldz, double *work, int *iwork, int *ifail, int *info);

int slf_lapack_cholesky(int n, double *a) {
    int info = 0;
    dpotrf_("L", &n, a, &n, &info);
    return info;
}

int slf_lapack_cholesky_inverse(int n, double *a) {
    int info = 0;
    dpotri_("L", &n, a, &n, &info);
    return info;
}

int64_t slf_lapack_eigen_work(int n) {
    const int64_t m = n;
    return 1 + 6 * m + 2 * m * m;
}

int64_t slf_lapack_eigen_iwork(int n) {
    return 3 + 5 * (int64_t)n;
}

int slf_lapack_eigen(int n, double *a, double *lambda, double *work, int *iwork) {
    const int lwork = (int)slf_lapack_eigen_work(n), liwork = (int)slf_lapack_eigen_iwork(n);
    int info = 0;
    dsyevd_("V", "L", &n, a, &n, lambda, work, &lwork, iwork, &liwork, &info);
    return info;
}

int slf_lapack_tridiagonal_largest(int n, double *diagonal, double *side, double *value, double *vector, double *work,
                                   int *iwork) {
    const double unused = 0, tolerance = 0;
    int found = 0, info = 0;
    double *values = work; /* dstevx may store n values, more than are asked for */
    dstevx_("V", "I", &n, diagonal, side, &unused, &unused, &n, &n, &tolerance, &found, values, vector, &n, work + n,
            iwork, iwork + 5 * n, &info);
    *value = values[0];
    return info != 0 ? info : found == 1 ? 0 : 1;
}
