/* numbers.h - small arithmetic that everybody needs: the smaller of two, order, products that may not fit, norms. Not
 * installed. */
#ifndef SALF_NUMBERS_H
#define SALF_NUMBERS_H

#include <math.h>
#include <stdint.h>

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

/* a * b + c, or UINT64_MAX when that does not fit 64 bits. No block of memory is so large, so that a size which was
 * computed with this can be handed to an allocator unchecked: it refuses. */
static inline uint64_t slf_mul_add(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product, sum;
    return __builtin_mul_overflow(a, b, &product) || __builtin_add_overflow(product, c, &sum) ? UINT64_MAX : sum;
}

/* Sign of a * b - c * d, exact: a product of two such numbers fits 127 bits. */
__extension__ typedef __int128 slf_wide;
static inline int slf_compare_products(int64_t a, int64_t b, int64_t c, int64_t d) {
    const slf_wide x = (slf_wide)a * b, y = (slf_wide)c * d;
    return (x > y) - (x < y);
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
