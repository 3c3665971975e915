/* memory.c - see memory.h. */
#include "memory.h"

#include <stdlib.h>

static _Thread_local int64_t left = -1; /* allocations before the one that fails; negative: none fails */

void memory_fail_after(int64_t n) {
    left = n;
}

static int fails(void) {
    return left >= 0 && left-- == 0;
}

void *memory_take(int64_t count, size_t size) {
    if (fails() || count < 0) return NULL;
    return calloc(count > 0 ? (size_t)count : 1, size);
}

float *memory_take_floats(int64_t count) {
    if (fails() || count < 0 || count > PTRDIFF_MAX / 8) return NULL;
    return aligned_alloc(64, (count > 0 ? (size_t)count : 16) * sizeof(float));
}
