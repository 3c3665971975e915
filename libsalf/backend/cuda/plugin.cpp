/*
 * plugin.cpp - life of the cuda backend and its table, the one symbol of libsalf-cuda.so.
 *
 * A context has a cuBLAS and a cuSOLVER handle of its own on the host's stream, and retains the device's primary
 * context, in which the host's own CUDA code works. cuBLAS gets its workspace here, so that it allocates nothing later
 * and chooses the same way each time; its math mode allows no TF32.
 */
#include <stdio.h>
#include <string.h>

#include "device.h"

/* The oldest compute capability that current toolkits compile for; the plugin holds no code for older ones. */
enum { LEAST_MAJOR = 7, LEAST_MINOR = 5 };

/* What NVIDIA recommends for cuBLAS: 32 MiB from compute capability 9.0, 4 MiB below. */
static uint64_t blas_workspace_bytes(int major) {
    return static_cast<uint64_t>(major >= 9 ? 32 : 4) << 20;
}

/* ---- is there a device? ---- */

/* Says what is missing in terms of versions: the usual case is a driver older than the toolkit. */
static salf_status no_driver(const slf_services *services, cudaError_t error) {
    int version = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess) version = 0;
    const int major = CUDART_VERSION / 1000, minor = CUDART_VERSION % 1000 / 10;
    if (version == 0)
        return services->fail(SALF_E_DEVICE,
                              "no CUDA driver is installed; this plugin needs one for CUDA %d.%d or "
                              "newer",
                              major, minor);
    return services->fail(SALF_E_DEVICE,
                          "the driver is for CUDA %d.%d, this plugin needs one for CUDA %d.%d or newer: %s",
                          version / 1000, version % 1000 / 10, major, minor, cudaGetErrorString(error));
}

/* The device that the host asks for is there. cudaGetDeviceCount is the first call of the runtime: what is wrong with
 * the installation shows in its status. */
static salf_status check_ordinal(const slf_services *services) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    slf_cuda_forget(error);
    if (error == cudaErrorInsufficientDriver) return no_driver(services, error);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return services->fail(SALF_E_DEVICE, "there is no CUDA device");
    if (error != cudaSuccess) return services->fail(SALF_E_DEVICE, "cudaGetDeviceCount: %s", cudaGetErrorString(error));
    if (services->options->device >= count)
        return services->fail(SALF_E_ARGUMENT, "device is %d, and there are %d CUDA devices, counted from 0",
                              static_cast<int>(services->options->device), count);
    return SALF_OK;
}

/* Older devices would find no machine code for themselves in the plugin. The name of what they have becomes the name of
 * the kernels. */
static salf_status check_capability(slf_device *device, int *major) {
    int minor = 0;
    SLF_CUDA(device, cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device->ordinal));
    SLF_CUDA(device, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device->ordinal));
    if (*major < LEAST_MAJOR || (*major == LEAST_MAJOR && minor < LEAST_MINOR))
        return device->services.fail(SALF_E_DEVICE, "device %d has compute capability %d.%d, and %d.%d is the least",
                                     device->ordinal, *major, minor, LEAST_MAJOR, LEAST_MINOR);
    snprintf(device->kernels, sizeof device->kernels, "sm_%d%d", *major, minor);
    return SALF_OK;
}

/* ---- open ---- */

/* A workspace of the library's own: the one of cuBLAS is allocated at first use, which would break "allocates nothing
 * after the first step" and captures; and with the workspace the choice of algorithms may change. */
static salf_status open_blas(slf_device *device, int major) {
    const slf_libraries &lib = device->libraries;
    const uint64_t bytes = blas_workspace_bytes(major);
    SLF_BLAS(device, lib.cublasCreate(&device->blas));
    SLF_BLAS(device, lib.cublasSetStream(device->blas, device->stream)); /* before the workspace, which it resets */
    SLF_TRY(slf_device_memory(device, bytes, &device->blas_workspace.memory));
    device->blas_workspace.bytes = bytes;
    SLF_BLAS(device, lib.cublasSetWorkspace(device->blas, device->blas_workspace.memory, bytes));
    /* TF32 keeps 10 bits of a float32 product: ranks of scores that lie close would come out in another order. */
    SLF_BLAS(device, lib.cublasSetMathMode(device->blas, CUBLAS_PEDANTIC_MATH));
    return SALF_OK;
}

/* Used when a basis is made; its workspaces are asked for call by call. */
static salf_status open_solver(slf_device *device) {
    const slf_libraries &lib = device->libraries;
    SLF_SOLVER(device, lib.cusolverDnCreate(&device->solver));
    SLF_SOLVER(device, lib.cusolverDnSetStream(device->solver, device->stream));
    SLF_SOLVER(device, lib.cusolverDnCreateParams(&device->solver_params));
    return SALF_OK;
}

/* With the context current: what needs one. What has been opened when a step fails is freed by slf_cuda_close. */
static salf_status open_parts(slf_device *device, int major) {
    SLF_TRY(slf_libraries_open(&device->libraries, &device->services));
    SLF_TRY(open_blas(device, major));
    SLF_TRY(open_solver(device));
    SLF_CUDA(device, cudaHostAlloc(&device->host_result, SLF_RESULT_BYTES, cudaHostAllocDefault));
    return slf_device_memory(device, SLF_RESULT_BYTES, &device->device_result);
}

/* The driver's own calls have numbers only; their texts would be another entry point to find. */
static salf_status driver_check(const slf_device *device, CUresult result, const char *call) {
    if (result == CUDA_SUCCESS) return SALF_OK;
    return device->services.fail(SALF_E_DEVICE, "%s: driver error %d (device %d)", call, static_cast<int>(result),
                                 device->ordinal);
}

/* In an order in which each step can tell its own failure: device, capability, driver calls, context, libraries. */
static salf_status open_device(slf_device *device) {
    int major = 0;
    CUcontext popped = nullptr;
    SLF_TRY(check_ordinal(&device->services));
    SLF_TRY(check_capability(device, &major));
    SLF_TRY(slf_driver_open(&device->libraries, &device->services));
    SLF_TRY(driver_check(device, device->libraries.retain_context(&device->context, device->ordinal),
                         "cuDevicePrimaryCtxRetain"));
    device->retained = 1;
    SLF_TRY(driver_check(device, device->libraries.push_context(device->context), "cuCtxPushCurrent"));
    const salf_status status = open_parts(device, major);
    device->libraries.pop_context(&popped);
    return status;
}

/* The device is made whole or not at all: what was opened before a failure is closed as it would be at the end. */
salf_status slf_cuda_open(void **self, const slf_services *services, const char **kernels) {
    slf_device *device = static_cast<slf_device *>(services->alloc(services->context, 1, sizeof(slf_device)));
    if (!device) return SALF_E_NO_MEMORY;
    memset(device, 0, sizeof *device);
    device->services = *services;
    device->ordinal = services->options->device;
    /* NULL is the default stream, which waits for all others; a host that overlaps work gives one of its own. */
    device->stream = static_cast<cudaStream_t>(services->options->stream);
    salf_status status = SALF_OK;
    if (pthread_mutex_init(&device->lock, nullptr) == 0)
        device->locked = 1;
    else
        status = services->fail(SALF_E_NO_MEMORY, "no mutex could be made");
    if (status == SALF_OK) status = open_device(device);
    if (status != SALF_OK) {
        slf_cuda_close(device);
        return status;
    }
    *self = device;
    *kernels = device->kernels;
    return SALF_OK;
}

/* ---- close: what fails here cannot be reported, and the host shall not find it ---- */

/* cudaFree(NULL) is a success, so that nothing has to be known of how far opening went. */
static void free_memory(slf_device *device) {
    for (int k = 0; k < SLF_SCRATCH_KINDS; k++) slf_cuda_forget(cudaFree(device->scratch[k].memory));
    for (int k = 0; k < SLF_STAGES; k++) {
        if (device->stages[k].passed) slf_cuda_forget(cudaEventDestroy(device->stages[k].passed));
        slf_cuda_forget(cudaFreeHost(device->stages[k].memory));
    }
    while (device->retired) {
        slf_retired *next = device->retired->next;
        slf_cuda_forget(cudaFree(device->retired->memory));
        device->services.free(device->services.context, device->retired);
        device->retired = next;
    }
    slf_cuda_forget(cudaFreeHost(device->host_result));
    slf_cuda_forget(cudaFree(device->device_result));
}

/* With the context current. What is under way may use what is freed, so that the stream ends first. */
static void free_parts(slf_device *device) {
    const slf_libraries &lib = device->libraries;
    /* The handles go after the stream has ended and before the memory that cuBLAS was lent. */
    slf_cuda_forget(cudaStreamSynchronize(device->stream));
    free_memory(device);
    if (device->solver_params) lib.cusolverDnDestroyParams(device->solver_params);
    if (device->solver) lib.cusolverDnDestroy(device->solver);
    if (device->blas) lib.cublasDestroy(device->blas);
    slf_cuda_forget(cudaFree(device->blas_workspace.memory));
}

/* Also of a device that was opened in part. The primary context is released, never reset: it is the host's too. */
void slf_cuda_close(void *self) {
    if (!self) return;
    slf_device *device = static_cast<slf_device *>(self);
    CUcontext popped = nullptr;
    if (device->retained && device->libraries.push_context(device->context) == CUDA_SUCCESS) {
        free_parts(device);
        device->libraries.pop_context(&popped);
    }
    if (device->retained) device->libraries.release_context(device->ordinal);
    if (device->locked) pthread_mutex_destroy(&device->lock);
    const slf_services services = device->services;
    services.free(services.context, device);
}

static const slf_backend table = {SLF_BACKEND_ABI, sizeof(slf_backend), SALF_BACKEND_CUDA, SLF_CAN_DEVICE,
                                  "cuda",          SLF_ROWS(slf_cuda_)};

extern "C" __attribute__((visibility("default"))) const slf_backend *salf_backend_plugin(uint32_t abi_version) {
    return abi_version == SLF_BACKEND_ABI ? &table : nullptr;
}
