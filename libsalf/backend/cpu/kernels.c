/*
 * kernels.c - inner loops, compiled for several instruction sets and chosen at run time.
 *
 * Each loop is written once in plain C over 32 independent lanes, so that the compiler can turn it into vectors.
 */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "../../half.h"
#include "cpu.h"

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#define HAVE_X86 1
#endif

enum { LANES = 32 };

INLINE void widen_loop(const void *in, int32_t dtype, int64_t n, float *out) {
    const uint16_t *halves = in;
    if (dtype == SALF_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else if (dtype == SALF_BF16) {
        for (int64_t i = 0; i < n; i++) out[i] = slf_bf16_to_f32(halves[i]);
    } else {
        for (int64_t i = 0; i < n; i++) out[i] = slf_f16_to_f32(halves[i]);
    }
}

INLINE void dot_square_loop(const float *h, const float *b, int64_t n, double *dot, double *square) {
    float d[LANES] = {0}, s[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            d[k] += h[i + k] * b[i + k];
            s[k] += h[i + k] * h[i + k];
        }
    for (int k = 0; i < n; i++, k++) {
        d[k] += h[i] * b[i];
        s[k] += h[i] * h[i];
    }
    for (int k = 0; k < LANES; k++) {
        *dot += (double)d[k];
        *square += (double)s[k];
    }
}

/* exp(x) = 2^n exp(r), |r| <= ln 2 / 2: Taylor to r^13, whose remainder is below 2^-57. Arguments are clamped to
 * -708 ... 709; NaN stays NaN. Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits. */
INLINE void exp_loop(double *x, int64_t n) {
    static const double inverse[] = {
        1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
    for (int64_t i = 0; i < n; i++) {
        double v = x[i];
        v = v < -708 ? -708 : v;
        v = v > 709 ? 709 : v;
        const double shifted = v * 0x1.71547652b82fep0 + 0x1.8p52;
        const double whole = shifted - 0x1.8p52;
        const double r = v - whole * 0x1.62e42feep-1 - whole * 0x1.a39ef35793c76p-33;
        double sum = inverse[0];
        for (int k = 1; k < 14; k++) sum = sum * r + inverse[k];
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 1023) << 52;
        double power;
        memcpy(&power, &bits, sizeof power);
        x[i] = sum * power;
    }
}

#define KERNELS(suffix, label, attributes)                                                                        \
    attributes static void widen_##suffix(const void *in, int32_t dtype, int64_t n, float *out) {                 \
        widen_loop(in, dtype, n, out);                                                                            \
    }                                                                                                             \
    attributes static void dot_square_##suffix(const float *h, const float *b, int64_t n, double *d, double *s) { \
        dot_square_loop(h, b, n, d, s);                                                                           \
    }                                                                                                             \
    attributes static void exp_##suffix(double *x, int64_t n) {                                                   \
        exp_loop(x, n);                                                                                           \
    }                                                                                                             \
    static const slf_kernels kernels_##suffix = {label, widen_##suffix, dot_square_##suffix, exp_##suffix};

KERNELS(plain, "c", )
#ifdef HAVE_X86
KERNELS(avx2, "avx2", __attribute__((target("avx2,fma"))))
KERNELS(avx512, "avx512", __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))))
#endif

const slf_kernels *slf_kernels_at(int which) {
    const slf_kernels *usable[3];
    int n = 0;
#ifdef HAVE_X86
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        usable[n++] = &kernels_avx512;
    if (avx2) usable[n++] = &kernels_avx2;
#endif
    usable[n++] = &kernels_plain;
    return which < n ? usable[which] : NULL;
}

const slf_kernels *slf_kernels_select(void) {
    return slf_kernels_at(0);
}
