/*
 * dtypes.h - the floating-point types of elements: one list, and how each becomes float32, exactly. This is the only
 * place where bfloat16, float16 or what may follow is widened: the host's plain loops, the kernels of the cpu backend
 * and those of the device (which compile this file for themselves) take it from here.
 */
#ifndef SALF_DTYPES_H
#define SALF_DTYPES_H

#include <stdint.h>
#include <string.h>

#include "salf.h"

#ifdef __CUDACC__
#define SLF_WIDENING static __host__ __device__ inline
#elif defined(__GNUC__)
#define SLF_WIDENING static inline __attribute__((always_inline))
#else
#define SLF_WIDENING static inline
#endif

/* Type, name, bytes, element i as float32. Float64, which only rows that the library itself made have, is apart. */
#define SLF_FLOAT_TYPES(X)                        \
    X(SALF_F32, "float32", 4, slf_f32_element)    \
    X(SALF_BF16, "bfloat16", 2, slf_bf16_element) \
    X(SALF_F16, "float16", 2, slf_f16_element)

SLF_WIDENING float slf_float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* bfloat16 is the upper half of a float32. */
SLF_WIDENING float slf_bf16_to_f32(uint16_t half) {
    return slf_float_from_bits((uint32_t)half << 16);
}

/* IEEE binary16. A number that is normal keeps its bits, its exponent re-biased by 112; a subnormal one is its
 * mantissa, a whole number, times 2^-24, so that no float32 is denormal on the way: a processor that flushes those
 * gives the same bits, and others are spared their slow path. Both are made and one is taken, without a branch, so that
 * compilers make vectors of it; a GPU has an instruction. */
SLF_WIDENING float slf_f16_to_f32(uint16_t half) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#else
    const uint32_t magnitude = half & 0x7fffu;
    const float small = (float)(int32_t)magnitude * 5.9604644775390625e-8f; /* 2^-24 */
    uint32_t small_bits;
    memcpy(&small_bits, &small, sizeof small_bits);
    const uint32_t special = 0u - (uint32_t)(magnitude >= 0x7c00u); /* infinity and NaN: exponent 255 */
    const uint32_t normal_bits = ((magnitude << 13) + (112u << 23)) | (special & 0x7f800000u);
    const uint32_t is_small = 0u - (uint32_t)(magnitude < 0x0400u);
    const uint32_t bits = (small_bits & is_small) | (normal_bits & ~is_small);
    return slf_float_from_bits(bits | (uint32_t)(half & 0x8000u) << 16);
#endif
}

SLF_WIDENING float slf_f32_element(const void *row, int64_t i) {
    return ((const float *)row)[i];
}

SLF_WIDENING float slf_bf16_element(const void *row, int64_t i) {
    return slf_bf16_to_f32(((const uint16_t *)row)[i]);
}

SLF_WIDENING float slf_f16_element(const void *row, int64_t i) {
    return slf_f16_to_f32(((const uint16_t *)row)[i]);
}

/* Element i of a row of one of these types. Where dtype is a constant nothing is left of the choice. */
SLF_WIDENING float slf_float_element(const void *row, int32_t dtype, int64_t i) {
#define SLF_ELEMENT_(type, name, bytes, element) dtype == type ? element(row, i):
    return SLF_FLOAT_TYPES(SLF_ELEMENT_) 0;
}

/* In a switch over the type: out[i] = element i of row, i < n. A loop for each: none chooses at every element. */
#define SLF_FLOAT_LOOP(type, name, bytes, element)                \
    case type:                                                    \
        for (int64_t i = 0; i < n; i++) out[i] = element(row, i); \
        break;

/* n elements of a row of one of these types. */
static inline void slf_floats_widen(const void *row, int32_t dtype, int64_t n, float *out) {
    switch (dtype) { SLF_FLOAT_TYPES(SLF_FLOAT_LOOP) }
}

/* Bytes of an element; 0 for what is none of these types. */
SLF_WIDENING int64_t slf_float_size(int32_t dtype) {
#define SLF_SIZE_(type, name, bytes, element) dtype == type ? bytes:
    return SLF_FLOAT_TYPES(SLF_SIZE_) 0;
}

#endif
