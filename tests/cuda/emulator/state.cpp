/* state.cpp - what the emulated device is, counters, failures on demand, errors as text. */
#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <vector>

#include "cuda.h"
#include "internal.h"

namespace emulator {

std::recursive_mutex lock;
emulator_counts counts;
emulator_device current = {2, 13000, 9, 0, 1ull << 30};
bool broken;

static int64_t fail_in = -1;
static const char *failed_call;
static thread_local cudaError_t last_error = cudaSuccess;
static thread_local std::vector<int> context_stack; /* of devices; empty: none is current */

void misuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::fprintf(stderr, "emulated device: ");
    std::vfprintf(stderr, format, arguments);
    std::fputc('\n', stderr);
    va_end(arguments);
    std::abort();
}

bool enter_fails(const char *call) {
    counts.calls++;
    if (fail_in < 0 || fail_in-- > 0) return false;
    failed_call = call;
    return true;
}

cudaError_t remember(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

cudaError_t enter(const char *call) {
    if (broken) return remember(cudaErrorIllegalAddress);
    if (!enter_fails(call)) return cudaSuccess;
    const bool memory = std::string_view(call).find("lloc") != std::string_view::npos;
    return remember(memory ? cudaErrorMemoryAllocation : cudaErrorInvalidValue);
}

int current_ordinal() {
    return context_stack.empty() ? 0 : context_stack.back();
}

static cudaError_t no_device() {
    if (current.driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
    return current.count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

} // namespace emulator

using namespace emulator;

/* ---- the driver's context calls: a context is the number of its device plus one ---- */

static CUcontext context_of(int ordinal) {
    return reinterpret_cast<CUcontext>(static_cast<intptr_t>(ordinal + 1));
}

static CUresult retain_context(CUcontext *context, CUdevice ordinal) {
    const guard held(lock);
    if (broken || enter_fails("cuDevicePrimaryCtxRetain")) return CUDA_ERROR_UNKNOWN;
    counts.contexts++;
    *context = context_of(ordinal);
    return CUDA_SUCCESS;
}

static CUresult release_context(CUdevice) {
    const guard held(lock);
    counts.contexts--;
    return CUDA_SUCCESS;
}

static CUresult push_context(CUcontext context) {
    const guard held(lock);
    if (enter_fails("cuCtxPushCurrent")) return CUDA_ERROR_UNKNOWN;
    context_stack.push_back(static_cast<int>(reinterpret_cast<intptr_t>(context)) - 1);
    return CUDA_SUCCESS;
}

static CUresult pop_context(CUcontext *context) {
    const guard held(lock);
    if (context_stack.empty()) misuse("cuCtxPopCurrent without a context");
    *context = context_of(context_stack.back());
    context_stack.pop_back();
    return CUDA_SUCCESS;
}

extern "C" {

void emulator_set_device(const emulator_device *wish) {
    const guard held(lock);
    current = *wish;
}

emulator_counts emulator_get_counts(void) {
    const guard held(lock);
    return counts;
}

void emulator_reset_counts(void) {
    const guard held(lock);
    emulator_counts fresh = {};
    fresh.live_device = counts.live_device;
    fresh.live_host = counts.live_host;
    fresh.live_handles = counts.live_handles;
    fresh.contexts = counts.contexts;
    counts = fresh;
}

void emulator_fail_call(int64_t n) {
    const guard held(lock);
    fail_in = n;
    failed_call = nullptr;
}

const char *emulator_failed(void) {
    const guard held(lock);
    return failed_call;
}

void emulator_break(int now) {
    const guard held(lock);
    broken = now != 0;
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
        return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    default:
        return "cudaErrorOther";
    }
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    default:
        return "an error of the emulated device";
    }
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

cudaError_t cudaDriverGetVersion(int *version) {
    const guard held(lock);
    *version = current.driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int, unsigned long long,
                                             enum cudaDriverEntryPointQueryResult *status) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaGetDriverEntryPointByVersion")) return error;
    const std::string_view name = symbol;
    *status = cudaDriverEntryPointSuccess;
    if (name == "cuDevicePrimaryCtxRetain")
        *function = reinterpret_cast<void *>(&retain_context);
    else if (name == "cuDevicePrimaryCtxRelease")
        *function = reinterpret_cast<void *>(&release_context);
    else if (name == "cuCtxPushCurrent")
        *function = reinterpret_cast<void *>(&push_context);
    else if (name == "cuCtxPopCurrent")
        *function = reinterpret_cast<void *>(&pop_context);
    else
        *status = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaGetDeviceCount")) return error;
    *count = current.count;
    return remember(no_device());
}

cudaError_t cudaGetDevice(int *ordinal) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaGetDevice")) return error;
    *ordinal = current_ordinal();
    return remember(no_device());
}

cudaError_t cudaSetDevice(int ordinal) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaSetDevice")) return error;
    if (const cudaError_t error = no_device()) return remember(error);
    if (ordinal < 0 || ordinal >= current.count) return remember(cudaErrorInvalidDevice);
    if (context_stack.empty()) context_stack.push_back(ordinal);
    context_stack.back() = ordinal;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int ordinal) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaDeviceGetAttribute")) return error;
    if (ordinal < 0 || ordinal >= current.count) return remember(cudaErrorInvalidDevice);
    *value = attribute == cudaDevAttrComputeCapabilityMajor   ? current.major
             : attribute == cudaDevAttrComputeCapabilityMinor ? current.minor
                                                              : 4;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int ordinal) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaGetDeviceProperties")) return error;
    if (ordinal < 0 || ordinal >= current.count) return remember(cudaErrorInvalidDevice);
    *properties = {"the emulated device", static_cast<size_t>(current.memory), 1 << 20};
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *whole) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaMemGetInfo")) return error;
    *whole = static_cast<size_t>(current.memory);
    *left = *whole - static_cast<size_t>(counts.live_device);
    return cudaSuccess;
}

} /* extern "C" */
