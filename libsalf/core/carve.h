/* carve.h - one block of memory in many parts.
 *
 * Write the layout once, as a function that carves part after part, and run it twice: with base NULL it only adds up
 * what the block needs; with the block's address it hands the parts out. The two runs cannot disagree, and one
 * allocation is all there is to check and to free. Not installed; plugins include it too. */
#ifndef SALF_CARVE_H
#define SALF_CARVE_H

#include <stddef.h>

#include "core/numbers.h"

typedef struct slf_carver {
    char *base;    /* NULL: measure */
    uint64_t used; /* bytes so far; UINT64_MAX once they do not fit 64 bits, which every allocator refuses */
} slf_carver;

/* A cache line, and the alignment of slf_alloc: parts that threads write side by side do not share a line. */
#define SLF_PART_ALIGNMENT 64u

/* The next part, count elements of size bytes; NULL while measuring. A count below 0 does not fit. */
static inline void *slf_carve(slf_carver *block, int64_t count, uint64_t size) {
    void *part = block->base ? block->base + block->used : NULL;
    const uint64_t end = slf_mul_add(count < 0 ? UINT64_MAX : (uint64_t)count, size, block->used);
    const uint64_t over = end % SLF_PART_ALIGNMENT;
    block->used = over ? slf_mul_add(1, end, SLF_PART_ALIGNMENT - over) : end;
    return part;
}

#endif
