/*
 * libraries.h - cuBLAS, cuSOLVER and the driver's context calls, found when a device is there.
 *
 * They are opened by soname rather than linked: a machine without a device then loads none of their hundreds of
 * megabytes to learn that, and no other version that the process holds can take their place. The real libraries are
 * checked for these names by tests/cuda.
 */
#ifndef SALF_CUDA_LIBRARIES_H
#define SALF_CUDA_LIBRARIES_H

#include <cublas_v2.h>
#include <cuda.h>
#include <cusolverDn.h>

#include "../backend.h"

#define SLF_BLAS_CALLS(X)    \
    X(cublasCreate_v2)       \
    X(cublasDestroy_v2)      \
    X(cublasSetStream_v2)    \
    X(cublasSetWorkspace_v2) \
    X(cublasSetMathMode)     \
    X(cublasGetStatusString) \
    X(cublasSgemm_v2)        \
    X(cublasDgemm_v2)        \
    X(cublasDsyrk_v2)        \
    X(cublasDsymv_v2)        \
    X(cublasDgemv_v2)        \
    X(cublasDtrsv_v2)

#define SLF_SOLVER_CALLS(X)        \
    X(cusolverDnCreate)            \
    X(cusolverDnDestroy)           \
    X(cusolverDnSetStream)         \
    X(cusolverDnCreateParams)      \
    X(cusolverDnDestroyParams)     \
    X(cusolverDnXpotrf_bufferSize) \
    X(cusolverDnXpotrf)            \
    X(cusolverDnXpotrs)            \
    X(cusolverDnXsyevd_bufferSize) \
    X(cusolverDnXsyevd)

#define SLF_LIBRARY_NUMBER_(number) #number
#define SLF_LIBRARY_NUMBER(number)  SLF_LIBRARY_NUMBER_(number)
#define SLF_BLAS_LIBRARY            "libcublas.so." SLF_LIBRARY_NUMBER(CUBLAS_VER_MAJOR)
#define SLF_SOLVER_LIBRARY          "libcusolver.so." SLF_LIBRARY_NUMBER(CUSOLVER_VER_MAJOR)

typedef struct slf_libraries {
#define SLF_LIBRARY_MEMBER(name) decltype(&::name) name;
    SLF_BLAS_CALLS(SLF_LIBRARY_MEMBER)
    SLF_SOLVER_CALLS(SLF_LIBRARY_MEMBER)
#undef SLF_LIBRARY_MEMBER
    CUresult (*retain_context)(CUcontext *context, CUdevice device);
    CUresult (*release_context)(CUdevice device);
    CUresult (*push_context)(CUcontext context);
    CUresult (*pop_context)(CUcontext *context);
} slf_libraries;

/* SALF_E_PLUGIN naming the library or the function that is missing. */
salf_status slf_libraries_open(slf_libraries *libraries, const slf_services *services);
/* The driver's calls; before any other of them. */
salf_status slf_driver_open(slf_libraries *libraries, const slf_services *services);

#endif
