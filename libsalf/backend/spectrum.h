/* spectrum.h - the inverse of a Gram matrix, and what is known of its eigenvalues. Not installed. */
#ifndef SALF_SPECTRUM_H
#define SALF_SPECTRUM_H

#include "device_memory.h"

typedef struct slf_factor_request {
    int32_t mode; /* SALF_BASIS_* */
    double rtol;  /* threshold on singular values relative to sigma_max; for EXACT sqrt(D * 2^-52) */
    double ridge;
} slf_factor_request;

typedef struct slf_factor_result {
    int32_t method; /* SALF_METHOD_* */
    int64_t rank;
    double sigma_max;
    double sigma_min;      /* smallest of all */
    double sigma_min_kept; /* smallest kept */
    double *dropped; /* NULL, or host [dim]: where something is dropped, a vector with a part in every direction of it,
                        which G does not tell from 0. Else it stays as it is */
} slf_factor_result;

/* P [dim][dim], full, in place of the upper triangle of a Gram matrix in backend memory. Waits. Scratch: at most
 * 2 dim^2 numbers and some vectors. SALF_E_NUMERIC for a matrix that is not finite. */
salf_status slf_spectrum_invert(const salf_context *context, int64_t dim, double *gram,
                                const slf_factor_request *request, slf_factor_result *result);

/* The largest eigenvalue of a symmetric operator y = A x on [rows], to 1e-9 of it or better (lanczos.c). product says
 * how to apply it; its x and y are unused. *converged is 0 where it is not reached, because too many eigenvalues crowd
 * around it. Waits. */
salf_status slf_lanczos_largest(const salf_context *context, const slf_matvec_job *product, double *largest,
                                int32_t *converged);

#endif
