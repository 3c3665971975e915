/* cache.h - states at a boundary below which nothing trains any more, kept from epoch to epoch: a forward of the same
 * datum begins there.
 *
 * An entry is [T][D] states of one space for one datum, of T tokens; later states of a deeper space take its place. It
 * carries a hash of the datum's tokens, so that states are never used for a text that has changed. Room is given to the
 * data in the order in which they come; when it is used up, those that come later have none. */
#ifndef SALF_EXAMPLE_CACHE_H
#define SALF_EXAMPLE_CACHE_H

#include <stddef.h>
#include <stdint.h>

typedef struct state_cache state_cache;

typedef struct cache_options {
    int64_t bytes;      /* room for states */
    int32_t bf16;       /* 1: rounded to bfloat16, half the room */
    const char *folder; /* where a file for them is made, which vanishes with the process; NULL: in memory */
    int64_t n_data;
    int64_t width; /* D */
} cache_options;

/* Takes the room. Returns 0, or -1 with *out NULL and a message: a folder that cannot be written, a full disk, or
 * memory that is short. */
int cache_open(state_cache **out, const cache_options *options, char *message, size_t message_size);
void cache_close(state_cache *c);

/* The space whose states are kept for a datum with these n tokens; 0: none. */
int32_t cache_space(const state_cache *c, int64_t datum, const int32_t *tokens, int64_t n);
/* Copies them to states [n][D]. */
void cache_get(const state_cache *c, int64_t datum, int64_t n, float *states);
/* Keeps states of a space, above 0. With bf16 states become what a later cache_get gives, whether or not there is room,
 * so that results do not depend on what is kept. Returns 1 where there is room, else 0. */
int cache_put(state_cache *c, int64_t datum, int32_t space, const int32_t *tokens, int64_t n, float *states);
/* Bytes of memory that it takes now, without those of a file. */
int64_t cache_bytes(const state_cache *c);

#endif
