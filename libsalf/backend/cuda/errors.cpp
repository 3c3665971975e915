/* errors.cpp - statuses of CUDA, cuBLAS and cuSOLVER as those of libsalf, each with the call, its text and the device;
 * and the way into a slot. */
#include <string.h>

#include "device.h"

/* Length of a call's name: what stands before its arguments. */
static int name_length(const char *call) {
    return static_cast<int>(strcspn(call, "("));
}

/* The name without what it was reached through. */
static const char *plain_name(const char *call) {
    const char *member = strstr(call, "libraries.");
    return member ? member + strlen("libraries.") : call;
}

/* The runtime keeps the last error for cudaGetLastError; an error that was there before ours is the host's and stays,
 * which is why a success clears nothing. */
void slf_cuda_forget(cudaError_t error) {
    if (error != cudaSuccess) cudaGetLastError();
}

salf_status slf_cuda_check(const slf_device *device, cudaError_t error, const char *call) {
    if (error == cudaSuccess) return SALF_OK;
    cudaGetLastError(); /* the host shall not find it */
    return device->services.fail(error == cudaErrorMemoryAllocation ? SALF_E_NO_MEMORY : SALF_E_DEVICE,
                                 "%.*s: %s (%s, device %d)", name_length(call), call, cudaGetErrorString(error),
                                 cudaGetErrorName(error), device->ordinal);
}

/* A failing cuBLAS call may leave an error of the runtime behind. */
salf_status slf_blas_check(const slf_device *device, cublasStatus_t status, const char *call) {
    if (status == CUBLAS_STATUS_SUCCESS) return SALF_OK;
    cudaGetLastError();
    call = plain_name(call);
    return device->services.fail(status == CUBLAS_STATUS_ALLOC_FAILED ? SALF_E_NO_MEMORY : SALF_E_DEVICE,
                                 "%.*s: %s (cuBLAS status %d, device %d)", name_length(call), call,
                                 device->libraries.cublasGetStatusString(status), static_cast<int>(status),
                                 device->ordinal);
}

salf_status slf_solver_check(const slf_device *device, cusolverStatus_t status, const char *call) {
    if (status == CUSOLVER_STATUS_SUCCESS) return SALF_OK;
    cudaGetLastError();
    call = plain_name(call);
    return device->services.fail(status == CUSOLVER_STATUS_ALLOC_FAILED ? SALF_E_NO_MEMORY : SALF_E_DEVICE,
                                 "%.*s: cuSOLVER status %d (device %d)", name_length(call), call,
                                 static_cast<int>(status), device->ordinal);
}

/* Whether the stream is being captured; the default stream never is. */
static salf_status look_at_capture(slf_device *device) {
    device->capturing = 0;
    if (device->stream == nullptr || device->stream == cudaStreamLegacy) return SALF_OK;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    SLF_CUDA(device, cudaStreamIsCapturing(device->stream, &status));
    device->capturing = status == cudaStreamCaptureStatusActive;
    /* Once captured, memory may not be given back before the device is closed: a graph may still be launched. */
    device->captured = device->captured || device->capturing;
    return SALF_OK;
}

/* The lock first: the context is pushed on this thread's stack and popped in reverse order. */
slf_entry::slf_entry(void *self, bool quiet) : device(static_cast<slf_device *>(self)), status(SALF_OK), pushed(false) {
    pthread_mutex_lock(&device->lock);
    /* The host may have another device current in this thread. Pushed and popped, its choice is as it was when the
     * slot returns, also after a failure. */
    const CUresult result = device->libraries.push_context(device->context);
    pushed = result == CUDA_SUCCESS;
    if (quiet) return;
    status = pushed ? look_at_capture(device)
                    : device->services.fail(SALF_E_DEVICE, "cuCtxPushCurrent: driver error %d (device %d)",
                                            static_cast<int>(result), device->ordinal);
}

slf_entry::~slf_entry() {
    CUcontext popped;
    if (pushed) device->libraries.pop_context(&popped);
    pthread_mutex_unlock(&device->lock);
}
