/* lapack.c - the LAPACK routines in use, through their Fortran entry points (32-bit integers). */
#include "cpu.h"

void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotri_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);

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

int64_t slf_lapack_eigen_work(int n, int vectors) {
    const int64_t m = n;
    return vectors ? 1 + 6 * m + 2 * m * m : 2 * m + 1;
}

int64_t slf_lapack_eigen_iwork(int n, int vectors) {
    return vectors ? 3 + 5 * (int64_t)n : 1;
}

int slf_lapack_eigen(int n, double *a, double *lambda, int vectors, double *work, int *iwork) {
    const int lwork = (int)slf_lapack_eigen_work(n, vectors), liwork = (int)slf_lapack_eigen_iwork(n, vectors);
    int info = 0;
    dsyevd_(vectors ? "V" : "N", "L", &n, a, &n, lambda, work, &lwork, iwork, &liwork, &info);
    return info;
}
