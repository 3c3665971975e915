/* numbers.h - small arithmetic that everybody needs: the smaller of two, order, products that may not fit, norms. Not
 * installed. */
#ifndef SALF_NUMBERS_H
#define SALF_NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Both evaluate an argument twice: pass values, not calls. */
#define SLF_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SLF_MAX(a, b) ((a) > (b) ? (a) : (b))

/* For qsort, ascending; a difference of two numbers may not fit their type. */
#define SLF_ORDER_(name, type)                                 \
    static inline int name(const void *a, const void *b) {     \
        const type x = *(const type *)a, y = *(const type *)b; \
        return (x > y) - (x < y);                              \
    }
SLF_ORDER_(slf_order_i32, int32_t)
SLF_ORDER_(slf_order_i64, int64_t)
SLF_ORDER_(slf_order_f64, double)
/* Of structs that begin with a name: by its bytes, so that the order is the same in every locale. */
static inline int slf_order_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* a * b + c, or UINT64_MAX when that does not fit 64 bits. No block of memory is so large, so that a size which was
 * computed with this can be handed to an allocator unchecked: it refuses. */
static inline uint64_t slf_mul_add(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product, sum;
    return __builtin_mul_overflow(a, b, &product) || __builtin_add_overflow(product, c, &sum) ? UINT64_MAX : sum;
}

/* a * b in 128 bits: the high and the low half. By halves of 32 bits: C has no wider type than 64, and compilers have
 * one (__int128) on 64-bit machines alone. */
static inline void slf_multiply_wide(uint64_t a, uint64_t b, uint64_t product[2]) {
    const uint64_t a1 = a >> 32, a0 = a & UINT32_MAX, b1 = b >> 32, b0 = b & UINT32_MAX;
    const uint64_t low = a0 * b0, cross = a1 * b0 + (low >> 32); /* neither sum overflows: (2^32-1)^2 + 2^32-1 < 2^64 */
    const uint64_t middle = a0 * b1 + (cross & UINT32_MAX);
    product[0] = a1 * b1 + (cross >> 32) + (middle >> 32);
    product[1] = middle << 32 | (low & UINT32_MAX);
}

/* Sign of a * b - c * d, exact for all numbers of which b and d are not negative. */
static inline int slf_compare_products(int64_t a, int64_t b, int64_t c, int64_t d) {
    uint64_t x[2], y[2];
    slf_multiply_wide(a < 0 ? 0 - (uint64_t)a : (uint64_t)a, (uint64_t)b, x);
    slf_multiply_wide(c < 0 ? 0 - (uint64_t)c : (uint64_t)c, (uint64_t)d, y);
    const int x_sign = (x[0] | x[1]) == 0 ? 0 : a < 0 ? -1 : 1, y_sign = (y[0] | y[1]) == 0 ? 0 : c < 0 ? -1 : 1;
    if (x_sign != y_sign) return x_sign < y_sign ? -1 : 1;
    const int size = x[0] != y[0] ? (x[0] < y[0] ? -1 : 1) : (x[1] > y[1]) - (x[1] < y[1]);
    return x_sign < 0 ? -size : size;
}

static inline int slf_all_finite(const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

/* Euclidean norm of n numbers, in float64 and in order; NaN or infinity when an element is or a square overflows, which
 * none of a float32 number does. */
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
