/*
 * ops_inline.h - what the operations' loops share: lanes, and the elementary functions that are part of them.
 *
 * Loops are written so that a compiler vectorises them: no calls inside, sums in independent lanes, restrict on what
 * cannot overlap.
 */
#ifndef SALF_EXAMPLE_OPS_INLINE_H
#define SALF_EXAMPLE_OPS_INLINE_H

#include <stdint.h>
#include <string.h>

#include "vectorised.h"

/* Fused multiply-adds where the processor has them, and minima and maxima without branches, which keep loops from being
 * vectorised (nobody asks for traps here); without this gcc keeps to the letter of C11. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT ON
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast", "no-trapping-math")
#endif

/* Independent sums, so that additions need not wait for each other: one register of AVX-512, two of AVX2. Their
 * order is fixed, so that a result is the same in every run on one machine. */
#define LANES 16

/* The lanes are added from the first to the last. */
VECTORISED_PART float sum_lanes(const float *lane) {
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

/* exp by range reduction x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial of degree 6 for exp(r). Adding 1.5 * 2^23
 * rounds to the integer n and leaves it in the low bits. ln 2 is taken off in two parts (Cody and Waite):
 * 0.693359375 has few enough bits for its product with n to be exact. The first neglected term, r^7 / 5040, is below
 * 1.2e-7. */
VECTORISED_PART float exp_float(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits; /* unsigned: of a NaN, which p has kept, they are any number */
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000u + 127u) << 23; /* n from 1.5 * 2^23 + n, then 2^n by its exponent */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* tanh = 1 - 2 / (1 + exp(2 x)) loses digits where it is small: there the series x - x^3/3 + 2 x^5/15 - 17 x^7/315 +
 * 62 x^9/2835, whose next term is below 1.2e-7 of it up to 1/3. */
VECTORISED_PART float tanh_float(float x) {
    const float s = x * x;
    const float series = x * (1.0f + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835)))));
    const float other = 1.0f - 2.0f / (1.0f + exp_float(2.0f * x));
    return s < 1.0f / 9 ? series : other;
}

#endif
