/* random.h - counter-based random numbers, and the fingerprint of a row. Not installed. */
#ifndef SALF_RANDOM_H
#define SALF_RANDOM_H

#include <stdint.h>

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): 128 random bits for a key and
 * a counter; the same on every platform, no state. */
void slf_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]);
/* 64 random bits for (seed, stream, index). */
uint64_t slf_random_bits(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in 0 ... bound-1 (bound > 0), exactly uniform by rejection. */
uint64_t slf_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);
/* Uniform in [0, 1), 53 bits. */
double slf_random_unit(uint64_t seed, uint64_t stream, uint64_t index);

/* Hash of row row_id from its float32 bits (-0 as 0); a matrix' fingerprint is the sum over its rows modulo 2^64, so
 * that it depends neither on blocks and ranks nor on the dtype the rows are stored in. Not meant against an adversary.
 */
uint64_t slf_row_hash(const float *row, int64_t cols, int64_t row_id);

#endif
