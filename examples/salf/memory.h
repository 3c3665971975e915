/* memory.h - memory of the decoder, its optimizer and pretraining: sizes are checked, and nothing asks for 0 bytes. */
#ifndef SALF_EXAMPLE_MEMORY_H
#define SALF_EXAMPLE_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Zeroed memory for count elements, at least one, released by free(); NULL when there is none. calloc refuses products
 * that overflow. */
static inline void *memory_take(int64_t count, size_t size) {
    if (count < 0) return NULL;
    return calloc(count > 0 ? (size_t)count : 1, size);
}

/* Memory for floats at a multiple of 64 bytes, a cache line and the widest vector; contents undefined. count is a
 * multiple of 16, as aligned_alloc asks for whole lines. Released by free(). */
static inline float *memory_take_floats(int64_t count) {
    if (count < 0 || count > PTRDIFF_MAX / 8) return NULL;
    return aligned_alloc(64, (count > 0 ? (size_t)count : 16) * sizeof(float));
}

#endif
