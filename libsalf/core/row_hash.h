/* row_hash.h - the fingerprint of a row, for the host (random.c) and for kernels: the row's hash is slf_hash_row of the
 * sum over its elements of slf_hash_element, in any order. */
#ifndef SALF_ROW_HASH_H
#define SALF_ROW_HASH_H

#include <stdint.h>

#ifdef __CUDACC__
#define SLF_ANYWHERE __host__ __device__
#else
#define SLF_ANYWHERE
#endif

SLF_ANYWHERE static inline uint64_t slf_hash_mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

/* Element i from its float32 bits; -0 counts as 0. */
SLF_ANYWHERE static inline uint64_t slf_hash_element(uint32_t bits, int64_t i) {
    if (bits == 0x80000000u) bits = 0;
    return (uint64_t)(bits + 0x9E3779B9u) * (2 * (uint64_t)i + 0x9E3779B97F4A7C15u);
}

SLF_ANYWHERE static inline uint64_t slf_hash_row(uint64_t sum, int64_t row_id) {
    return slf_hash_mix(sum ^ slf_hash_mix((uint64_t)row_id + 0x632BE59BD9B4E019u));
}

#endif
