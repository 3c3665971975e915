/*
 * plain.h - the linear algebra of the cpu backend without a BLAS: products, Cholesky factors, eigenvectors.
 *
 * The same names with BLAS in front are made by CBLAS and LAPACK (blas.c); which of the two the backend calls is
 * decided when the library is built (SLF_BUILT_IN). These functions are in every build, so that its tests run them.
 * Matrices are row-major. The host's own product and factor (salf_blas) take the place of either.
 */
#ifndef SALF_PLAIN_H
#define SALF_PLAIN_H

#include "cpu.h"

/* Columns of zt that a product packs at a time, in bytes, and products in a stretch: 192 KiB together, which a second
 * cache holds beside what else is read. */
enum { SLF_PACK_BYTES = 1024, SLF_PACK_DEPTH = 192 };

/* A product within these files: the host's, or the plain one. */
salf_status slf_plain_multiply(const slf_cpu *cpu, const salf_product *job);
/* x . y and y += a x, [n]. */
double slf_plain_dot(const double *x, const double *y, int64_t n);
void slf_plain_axpy(int64_t n, double a, const double *x, double *y);
/* y [n] = A x of a symmetric matrix of which the upper triangle is read, a row of it every `stride` numbers. */
void slf_plain_symv(int64_t n, const double *a, int64_t stride, const double *x, double *y);

#endif
