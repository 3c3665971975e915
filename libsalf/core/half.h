/* half.h - 16-bit floating-point values to float32, exactly (both formats embed in float32). */
#ifndef SALF_HALF_H
#define SALF_HALF_H

#include <stdint.h>
#include <string.h>

static inline float slf_float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* bfloat16 is the upper half of a float32. */
static inline float slf_bf16_to_f32(uint16_t half) {
    return slf_float_from_bits((uint32_t)half << 16);
}

/* IEEE binary16: the exponent is re-biased by multiplication with 2^112, which also normalises subnormals. */
static inline float slf_f16_to_f32(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    if ((half & 0x7c00u) == 0x7c00u) return slf_float_from_bits(sign | 0x7f800000u | magnitude);
    const float scaled = slf_float_from_bits(magnitude) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    return slf_float_from_bits(sign | bits);
}

#endif
