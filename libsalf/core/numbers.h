/* numbers.h - small arithmetic that everybody needs: the smaller of two, products that may not fit, norms. Not
 * installed. */
#ifndef SALF_NUMBERS_H
#define SALF_NUMBERS_H

#include <math.h>
#include <stdint.h>

/* Both evaluate an argument twice: pass values, not calls. */
#define SLF_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SLF_MAX(a, b) ((a) > (b) ? (a) : (b))

/* a * b + c, or UINT64_MAX when that does not fit 64 bits. No block of memory is so large, so that a size which was
 * computed with this can be handed to an allocator unchecked: it refuses. */
static inline uint64_t slf_mul_add(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product, sum;
    return __builtin_mul_overflow(a, b, &product) || __builtin_add_overflow(product, c, &sum) ? UINT64_MAX : sum;
}

/* Euclidean norm of n numbers, in float64; NaN or infinity when an element is or a square overflows. */
static inline double slf_norm2(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

static inline double slf_norm2_f32(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

#endif
