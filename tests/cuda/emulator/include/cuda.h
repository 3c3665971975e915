/* cuda.h - the types of the driver's context calls, declared for the emulated device. */
#ifndef EMULATED_CUDA_H
#define EMULATED_CUDA_H

typedef struct CUctx_st *CUcontext;
typedef int CUdevice;
typedef enum cudaError_enum { CUDA_SUCCESS = 0, CUDA_ERROR_UNKNOWN = 999 } CUresult;

#endif
