/*
 * kernels.h - what kernels share: elements of rows, sums over a block, shared memory. Sums are made in an order that
 * depends on shapes alone; nothing floating-point is added atomically. So a step gives the same bits each time it runs
 * on the same device, and a graph that is replayed gives those of the step that was captured.
 *
 * Everything compiles a second time as C++ for the host (SLF_EMULATED), where threads run as fibers: a kernel may use
 * shared memory, barriers, shuffles and atomics of integers, and nothing that only nvcc knows.
 */
#ifndef SALF_CUDA_KERNELS_H
#define SALF_CUDA_KERNELS_H

#include "../../core/dtypes.h"
#include "device.h"

/* Shared memory of the launch. */
template <typename T> static __device__ inline T *slf_shared() {
#ifdef SLF_EMULATED
    return static_cast<T *>(emulated_shared());
#else
    extern __shared__ __align__(16) unsigned char slf_shared_bytes[];
    return reinterpret_cast<T *>(slf_shared_bytes);
#endif
}

/* Where row r of a view begins. */
static __device__ inline const void *slf_row(const slf_rows &rows, int64_t r) {
    const int64_t row = rows.index ? rows.index[r] : r;
    const int64_t bytes = rows.dtype == SALF_F64 ? 8 : slf_float_size(rows.dtype);
    return static_cast<const char *>(rows.data) + row * rows.stride * bytes;
}

/* Element i of a row, also of a float64 one. */
static __device__ inline float slf_element_f32(const void *row, int32_t dtype, int64_t i) {
    return dtype == SALF_F64 ? static_cast<float>(static_cast<const double *>(row)[i])
                             : slf_float_element(row, dtype, i);
}

/* In float64, exactly, whatever the type. */
static __device__ inline double slf_element(const void *row, int32_t dtype, int64_t i) {
    return dtype == SALF_F64 ? static_cast<const double *>(row)[i]
                             : static_cast<double>(slf_element_f32(row, dtype, i));
}

/* Kernels of this backend mostly need two sums at once: a product and a square, or a sum and a weighted one. */
struct slf_two {
    double first, second;
};

/* Shared memory that slf_block_sum needs. */
enum { SLF_SUM_BYTES = 32 * 2 * 8 };

/* By halves: every lane ends with the same sum, in the same order. */
static __device__ inline slf_two slf_warp_sum(slf_two x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        x.first += __shfl_xor_sync(0xffffffffu, x.first, distance);
        x.second += __shfl_xor_sync(0xffffffffu, x.second, distance);
    }
    return x;
}

/* The sums over all threads of a block, to each of them: by warps, then over the warps in order. Two barriers, one of
 * them because an earlier sum may still be read. */
static __device__ inline slf_two slf_block_sum(slf_two x) {
    slf_two *partial = slf_shared<slf_two>();
    const unsigned warps = blockDim.x / 32;
    x = slf_warp_sum(x);
    __syncthreads(); /* an earlier sum may still be read */
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    slf_two sum = {0, 0};
    for (unsigned w = 0; w < warps; w++) {
        sum.first += partial[w].first;
        sum.second += partial[w].second;
    }
    return sum;
}

/* The largest over all threads of a block; NaN does not count. */
static __device__ inline double slf_block_most(double x) {
    double *partial = slf_shared<double>();
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const double other = __shfl_xor_sync(0xffffffffu, x, distance);
        if (other > x) x = other;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    double most = partial[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++)
        if (partial[w] > most) most = partial[w];
    return most;
}

/* As reference/score.c has it: a cosine, 0 for a zero row, or a logit. */
static __device__ inline double slf_score_from(const slf_score_rule &rule, double product, double inverse_norm,
                                               double bias) {
    if (!rule.logits) return inverse_norm > 0 ? product * inverse_norm : 0;
    const double logit = rule.logit_scale * product + bias;
    return rule.softcap > 0 ? rule.softcap * tanh(logit / rule.softcap) : logit;
}

/* By how much an element of a row may differ from the label's where the two are one row: by nothing, or by the rounding
 * to float32 of what came out of different tiles of a product. */
static __device__ inline double slf_alike(const slf_score_rule &rule, double inverse_norm, double own) {
    return rule.alike > 0 && inverse_norm > 0 ? rule.alike / inverse_norm + 0x1p-23 * fabs(own) : 0;
}

/* Without the header of the host's NAN. */
static __device__ inline double slf_nan() {
    return __uint_as_float(0x7fc00000u);
}

#endif
