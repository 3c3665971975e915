/*
 * block.h - the product of a register block, rows x columns, as one text for every instruction set.
 *
 * q [height][2 width] (+)= the rows' elements times zt [n][2 width]: two vectors of columns, the sums of all rows in
 * registers. An element is spread over a vector and meets both; what is left is as many multiply-adds as loads allow.
 * Intrinsics of x86 differ by prefix and type alone; PLAIN_VECTOR makes the same names of vectors of 16 bytes, which
 * gcc and clang have for every processor (NEON, SSE2).
 */
#ifndef SALF_BLOCK_H
#define SALF_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { SLF_BLOCK_HEIGHT = 8 }; /* most rows of a register block */

/* A register block: its rows, whether products of an earlier stretch are there, and up to as many stretches of elements
 * of size bytes to call into the cache meanwhile. */
typedef struct slf_register_rows {
    const void *const *rows;
    bool more;
    const char *next[SLF_BLOCK_HEIGHT];
    int64_t calls, size;
} slf_register_rows;

/* For float32 or for float64. */
typedef struct slf_block_kernel {
    int rows, columns;
    /* q [rows][columns] = sum_k rows[j][k] zt[k], k < n; with more it is added. */
    void (*product)(const slf_register_rows *rows, const void *zt, int64_t n, void *q);
} slf_block_kernel;

#define SLF_UNROLL _Pragma("GCC unroll 8")

/* LINE: elements between two calls for memory, a cache line of float32. */
enum { SLF_BLOCK_LINE = 16 };

#define SLF_BLOCK_PRODUCT(name, attributes, number, vector, width, height, prefix, type)                          \
    attributes static void block_##name(const slf_register_rows *r, const void *columns, int64_t n, void *sums) { \
        const number *zt = columns, *x[height];                                                                   \
        number *q = sums;                                                                                         \
        vector low[height], high[height];                                                                         \
        SLF_UNROLL for (int j = 0; j < height; j++) low[j] = high[j] = prefix##_setzero_##type();                 \
        SLF_UNROLL for (int j = 0; j < height; j++) x[j] = r->rows[j];                                            \
        for (int64_t k = 0; k < n;) {                                                                             \
            const int64_t end = n - k < SLF_BLOCK_LINE ? n : k + SLF_BLOCK_LINE;                                  \
            for (int64_t c = 0; c < r->calls; c++) __builtin_prefetch(r->next[c] + k * r->size);                  \
            for (; k < end; k++) {                                                                                \
                const vector z0 = prefix##_loadu_##type(zt + k * 2 * width);                                      \
                const vector z1 = prefix##_loadu_##type(zt + k * 2 * width + width);                              \
                SLF_UNROLL for (int j = 0; j < height; j++) {                                                     \
                    const vector e = prefix##_set1_##type(x[j][k]);                                               \
                    low[j] = prefix##_fmadd_##type(e, z0, low[j]);                                                \
                    high[j] = prefix##_fmadd_##type(e, z1, high[j]);                                              \
                }                                                                                                 \
            }                                                                                                     \
        }                                                                                                         \
        SLF_UNROLL for (int j = 0; j < height; j++) {                                                             \
            number *out = q + j * 2 * width;                                                                      \
            if (r->more) {                                                                                        \
                low[j] = prefix##_add_##type(prefix##_loadu_##type(out), low[j]);                                 \
                high[j] = prefix##_add_##type(prefix##_loadu_##type(out + width), high[j]);                       \
            }                                                                                                     \
            prefix##_storeu_##type(out, low[j]);                                                                  \
            prefix##_storeu_##type(out + width, high[j]);                                                         \
        }                                                                                                         \
    }                                                                                                             \
    const slf_block_kernel slf_block_##name = {height, 2 * width, block_##name};

/* Vectors of 16 bytes with the names that the text above needs. */
#define SLF_PLAIN_VECTOR(number, type)                                                              \
    typedef number plain_##type __attribute__((vector_size(16)));                                   \
    static inline plain_##type plain_setzero_##type(void) {                                         \
        return (plain_##type){0};                                                                   \
    }                                                                                               \
    static inline plain_##type plain_set1_##type(number x) {                                        \
        return (plain_##type){0} + x;                                                               \
    }                                                                                               \
    static inline plain_##type plain_add_##type(plain_##type a, plain_##type b) {                   \
        return a + b;                                                                               \
    }                                                                                               \
    static inline plain_##type plain_fmadd_##type(plain_##type a, plain_##type b, plain_##type c) { \
        return a * b + c;                                                                           \
    }                                                                                               \
    static inline plain_##type plain_loadu_##type(const number *x) {                                \
        plain_##type v;                                                                             \
        memcpy(&v, x, sizeof v);                                                                    \
        return v;                                                                                   \
    }                                                                                               \
    static inline void plain_storeu_##type(number *x, plain_##type v) {                             \
        memcpy(x, &v, sizeof v);                                                                    \
    }
SLF_PLAIN_VECTOR(float, ps)
SLF_PLAIN_VECTOR(double, pd)

#endif
