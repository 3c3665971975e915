/* memory.h - the one place where the decoder, its optimizer and pretraining take memory, so that tests can make any of
 * their allocations fail. */
#ifndef SALF_EXAMPLE_MEMORY_H
#define SALF_EXAMPLE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory for count elements, at least one, released by free(); NULL when there is none. */
void *memory_take(int64_t count, size_t size);
/* Memory for floats at a multiple of 64 bytes, contents undefined; count is a multiple of 16. Released by free(). */
float *memory_take_floats(int64_t count);

/* For tests: in this thread the allocation after the next n fails, and no later one; a negative n takes that back. */
void memory_fail_after(int64_t n);

#endif
