/*
 * kernels.c - inner loops in plain C, and the choice at run time between them and those of kernels_avx2.c.
 *
 * Sums run over 32 independent lanes, so that the compiler can turn them into vectors.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/dtypes.h"
#include "cpu.h"

#ifdef SLF_HAVE_X86
#include <cpuid.h>
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Four vectors of AVX2 or two of AVX-512: enough chains that an addition need not wait for the one before. The sums of
 * a level depend on this number and on SLF_PIECE alone, not on the length of a processor's vectors. */
enum { LANES = 32 };

/* Pairs of lanes are added first, so that rounding grows with their logarithm. */
INLINE double lanes_sum(float lanes[LANES]) {
    for (int width = LANES / 2; width >= 4; width /= 2)
        for (int k = 0; k < width; k++) lanes[k] += lanes[k + width];
    return ((double)lanes[0] + (double)lanes[1]) + ((double)lanes[2] + (double)lanes[3]);
}

/* Element i of a row as it is summed; a and b as in slf_kernels.reduce. */
INLINE float shifted(const void *row, int32_t dtype, int64_t i, const slf_affine *a, const float *b) {
    const float h = slf_float_element(row, dtype, i);
    if (!a) return h;
    return b ? ((h - a->high) - a->low) * a->scale * a->weight[i] + a->bias[i] : (h - a->high) - a->low;
}

/* Elements first ... last-1, at most SLF_PIECE. dtype, and whether a and b are NULL, are constants where this is
 * inlined: each combination is compiled by itself. What does not fill the lanes goes to the first of them. */
INLINE void plain_piece(const void *row, int32_t dtype, int64_t first, int64_t last, const slf_affine *a,
                        const float *b, slf_pair *out) {
    float d[LANES] = {0}, s[LANES] = {0};
    int64_t i = first;
    for (; i + LANES <= last; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const float x = shifted(row, dtype, i + k, a, b);
            d[k] += b ? x * b[i + k] : x;
            s[k] += x * x;
        }
    for (int k = 0; i < last; i++, k++) {
        const float x = shifted(row, dtype, i, a, b);
        d[k] += b ? x * b[i] : x;
        s[k] += x * x;
    }
    out->first += lanes_sum(d);
    out->second += lanes_sum(s);
}

/* Pieces of a row in float32 lanes, and float64 from piece to piece. */
INLINE void reduce_typed(const void *row, int32_t dtype, int64_t n, const slf_affine *a, const float *b,
                         slf_pair *out) {
    /* A lane adds SLF_PIECE / LANES products before its sum goes to float64: that many times 2^-24 bounds its relative
     * rounding error, however long the row. */
    for (int64_t first = 0; first < n; first += SLF_PIECE) {
        const int64_t last = n - first < SLF_PIECE ? n : first + SLF_PIECE;
        /* which of the two are there has to be seen by the compiler, or the loops stay scalar */
        if (a && b)
            plain_piece(row, dtype, first, last, a, b, out);
        else if (a)
            plain_piece(row, dtype, first, last, a, NULL, out);
        else if (b)
            plain_piece(row, dtype, first, last, NULL, b, out);
    }
}

/* next is not used: a prefetch in these loops would keep compilers from making vectors of them. */
static slf_pair reduce_plain(const void *row, int32_t dtype, int64_t n, const slf_affine *a, const float *b,
                             const void *next) {
    (void)next;
    slf_pair out = {0, 0};
    switch (dtype) { /* a copy of the loops for each type */
#define REDUCE(type, name, bytes, element)      \
    case type:                                  \
        reduce_typed(row, type, n, a, b, &out); \
        break;
        SLF_FLOAT_TYPES(REDUCE)
    }
    return out;
}

/* exp(x) = 2^n exp(r), |r| <= ln 2 / 2: Taylor to r^13, whose remainder r^14 / 14! is below 2^-57. n = x / ln 2,
 * rounded by adding 1.5 * 2^52, after which it stands in the low bits. r = x - n ln 2 with ln 2 in two parts, the first
 * with so few bits that n times it is exact. Arguments are clamped to -708 ... 709, between which the result is a
 * normal number; NaN stays NaN. There are no branches, so that compilers make vectors of it. */
static void exp_plain(double *x, int64_t n) {
    static const double inverse[] = {SLF_INVERSE_FACTORIALS};
    for (int64_t i = 0; i < n; i++) {
        double v = x[i];
        v = v < -708 ? -708 : v;
        v = v > 709 ? 709 : v;
        /* Adding 1.5 * 2^52 leaves no bits behind the point: the sum is rounded to a whole number, by the rounding
         * mode, and taking the constant off again is exact. */
        const double shifted = v * 0x1.71547652b82fep0 + 0x1.8p52;
        const double whole = shifted - 0x1.8p52;
        const double r = v - whole * 0x1.62e42feep-1 - whole * 0x1.a39ef35793c76p-33;
        /* Horner's rule from the highest term: thirteen multiply-adds, the last with 1. */
        double sum = inverse[0];
        for (int k = 1; k < 14; k++) sum = sum * r + inverse[k];
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        /* The low bits of the shifted number are n in two's complement; with the bias added they are the exponent of
         * 2^n, and the shift drops all that stood above them. */
        bits = (bits + 1023) << 52;
        double power;
        memcpy(&power, &bits, sizeof power);
        x[i] = sum * power;
    }
}

/* u_i = exp(x_i) in place, sum u_i and sum u_i s_i. */
static slf_pair exp_sums_plain(double *x, const double *s, int64_t n) {
    exp_plain(x, n);
    slf_pair out = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        out.first += x[i];
        out.second += x[i] * s[i];
    }
    return out;
}

const slf_kernels slf_kernels_plain = {.name = "c",
                                       .blocks = {&slf_block_plain_f32, &slf_block_plain_f64},
                                       .rotate = slf_rotate_plain,
                                       .widen = slf_floats_widen,
                                       .reduce = reduce_plain,
                                       .exp = exp_plain,
                                       .exp_sums = exp_sums_plain};

/* ---- which of them ---- */

#ifdef SLF_HAVE_X86
/* The sums are those of AVX2 in both: only the products of register blocks are wider. Sums over states are bound by
 * memory, which they reach at 256 bits already. */
#define AVX2_LOOPS slf_collect_avx2, slf_rotate_avx2, slf_widen_avx2, slf_reduce_avx2, slf_exp_avx2, slf_exp_sums_avx2
static const slf_kernels kernels_avx2 = {"avx2", {&slf_block_avx2_f32, &slf_block_avx2_f64}, AVX2_LOOPS};
static const slf_kernels kernels_avx512 = {"avx512", {&slf_block_avx512_f32, &slf_block_avx512_f64}, AVX2_LOOPS};

/* AVX2, FMA and F16C; the last has no name in __builtin_cpu_supports of all compilers. */
static bool has_avx2(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C);
}

#endif

/* Asked for again at each call: contexts are made rarely, and nothing is kept for the process. */
const slf_kernels *slf_kernels_at(int rank) {
    const slf_kernels *usable[3];
    int n = 0;
#ifdef SLF_HAVE_X86
    if (has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        usable[n++] = &kernels_avx512;
    if (has_avx2()) usable[n++] = &kernels_avx2;
#endif
    /* Always the last: what every processor has. */
    usable[n++] = &slf_kernels_plain;
    return rank < n ? usable[rank] : NULL;
}

salf_status slf_kernels_choose(const slf_services *services, const slf_kernels **out) {
    const char *wish = slf_environment("SALF_KERNELS");
    const slf_kernels *kernels = *out = slf_kernels_at(0);
    char names[32] = ""; /* of three at most */
    if (!wish || !*wish) return SALF_OK;
    for (int rank = 0; (kernels = slf_kernels_at(rank)) != NULL; rank++) {
        if (strcmp(kernels->name, wish) == 0) {
            *out = kernels;
            return SALF_OK;
        }
        slf_list_word(names, sizeof names, ", ", kernels->name);
    }
    return services->fail(SALF_E_BACKEND, "the environment variable SALF_KERNELS is '%s'; this processor has %s", wish,
                          names);
}
