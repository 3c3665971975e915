/* kernels_avx2.h - what the files for AVX2, FMA and F16C share. */
#ifndef SALF_KERNELS_AVX2_H
#define SALF_KERNELS_AVX2_H

#include "cpu.h"

#ifdef SLF_HAVE_X86
#include <immintrin.h>

#define AVX2        __attribute__((target("avx2,fma,f16c")))
#define INLINE_AVX2 static inline __attribute__((always_inline)) AVX2

enum { QUAD = 4 };

/* exp of kernels.c for four numbers, without the first `skipped` terms of its polynomial, a constant where this is
 * inlined: with 0 to 2 ulp; with 3 to 3e-13, remainder (ln 2 / 2)^11 / 11!. max and min give their second operand where
 * one is NaN. */
INLINE_AVX2 __m256d exp_quad(__m256d x, size_t skipped) {
    static const double inverse[] = {SLF_INVERSE_FACTORIALS};
    const __m256d magic = _mm256_set1_pd(0x1.8p52);
    const __m256d v = _mm256_min_pd(_mm256_set1_pd(709), _mm256_max_pd(_mm256_set1_pd(-708), x));
    const __m256d shifted = _mm256_fmadd_pd(v, _mm256_set1_pd(0x1.71547652b82fep0), magic);
    const __m256d whole = _mm256_sub_pd(shifted, magic);
    __m256d r = _mm256_fnmadd_pd(whole, _mm256_set1_pd(0x1.62e42feep-1), v);
    r = _mm256_fnmadd_pd(whole, _mm256_set1_pd(0x1.a39ef35793c76p-33), r);
    __m256d sum = _mm256_set1_pd(inverse[skipped]);
    for (size_t k = skipped + 1; k < sizeof inverse / sizeof *inverse; k++)
        sum = _mm256_fmadd_pd(sum, r, _mm256_set1_pd(inverse[k]));
    const __m256i exponent = _mm256_add_epi64(_mm256_castpd_si256(shifted), _mm256_set1_epi64x(1023));
    return _mm256_mul_pd(sum, _mm256_castsi256_pd(_mm256_slli_epi64(exponent, 52)));
}

#endif

#endif
