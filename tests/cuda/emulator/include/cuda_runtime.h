/*
 * cuda_runtime.h - the language of kernels, for a C++ compiler: a launch makes a closure that the emulated stream runs
 * when somebody waits for it, each thread of a block as a fiber of its own.
 */
#ifndef EMULATED_CUDA_RUNTIME_H
#define EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};

/* Where the running thread is; set by the scheduler at every switch. */
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* Dynamic shared memory of the running block: exactly the bytes of the launch, NaN when the block starts. */
void *emulated_shared(void);
void __syncthreads(void);
/* Waits for the lanes in mask and gives what each of them passed, [32] of 8 bytes. */
const unsigned char *emulated_exchange(unsigned int mask, const void *value, size_t size, int operation);

template <typename T> T emulated_shuffle(unsigned int mask, T value, unsigned int lane, int operation) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    T result;
    std::memcpy(&result, emulated_exchange(mask, &value, sizeof value, operation) + 8 * (lane & 31), sizeof result);
    return result;
}
template <typename T> T __shfl_xor_sync(unsigned int mask, T value, int distance) {
    return emulated_shuffle(mask, value, threadIdx.x ^ static_cast<unsigned int>(distance), 1);
}
template <typename T> T __shfl_down_sync(unsigned int mask, T value, unsigned int distance) {
    const unsigned int lane = threadIdx.x & 31, from = lane + distance;
    return emulated_shuffle(mask, value, from < 32 ? from : lane, 2);
}
template <typename T> T __shfl_sync(unsigned int mask, T value, int lane) {
    return emulated_shuffle(mask, value, static_cast<unsigned int>(lane), 3);
}

/* Threads of a device run one at a time. */
inline unsigned long long atomicAdd(unsigned long long *to, unsigned long long value) {
    const unsigned long long old = *to;
    *to += value;
    return old;
}
inline unsigned long long atomicMin(unsigned long long *to, unsigned long long value) {
    const unsigned long long old = *to;
    if (value < old) *to = value;
    return old;
}
inline int atomicExch(int *to, int value) {
    const int old = *to;
    *to = value;
    return old;
}

inline float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
using std::isfinite;
using std::isnan;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned int numAttrs;
};

/* Checks the shape, then enqueues. */
cudaError_t emulated_launch(const cudaLaunchConfig_t *config, std::function<void()> body);
/* A pointer that a kernel is given has to be one to device memory, or NULL. */
void emulated_check_argument(const void *pointer);

template <typename T> void emulated_check(const T &argument) {
    if constexpr (std::is_pointer_v<T>) emulated_check_argument(argument);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
    std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
    std::apply([](const auto &...each) { (emulated_check(each), ...); }, values);
    return emulated_launch(config, [kernel, values] { std::apply(kernel, values); });
}

#endif
