/* random.h - counter-based random numbers: a draw is a function of (seed, stream, index), with no state between draws.
 * Not installed. */
#ifndef SALF_RANDOM_H
#define SALF_RANDOM_H

#include <stdint.h>

/* 128 random bits for a key and a counter. */
void slf_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]);
/* 64 random bits for (seed, stream, index). */
uint64_t slf_random_bits(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in 0 ... bound-1 (bound > 0), exactly uniform by rejection. */
uint64_t slf_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);
/* The first `count` places of a Fisher-Yates shuffle of n values, by the draws from index on. */
void slf_shuffle(int32_t *values, int64_t n, int64_t count, uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, 1), 53 bits. */
double slf_random_unit(uint64_t seed, uint64_t stream, uint64_t index);

#endif
