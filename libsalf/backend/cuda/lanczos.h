/* lanczos.h - the largest eigenvalue of a symmetric operator on the device; used by factor.cu. */
#ifndef SALF_CUDA_LANCZOS_H
#define SALF_CUDA_LANCZOS_H

#include "device.h"

/* y = A x, enqueued. */
struct slf_operator {
    virtual salf_status apply(const double *x, double *y) = 0;

  protected:
    ~slf_operator() = default;
};

/* To about 1e-9 of it or better; not reached (*converged false) where too many eigenvalues crowd around it. Scratch of
 * 401 dim doubles. Waits. */
salf_status slf_lanczos(slf_device *device, int64_t dim, slf_operator *product, double *largest, bool *converged);

#endif
