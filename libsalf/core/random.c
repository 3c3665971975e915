/*
 * random.c - counter-based random numbers.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 64-bit key
 * and a 128-bit counter to 128 random bits by ten rounds of multiplication and exchange. It keeps nothing between
 * draws, so a draw depends only on (seed, stream, index): equal on every rank, platform and after every resume.
 */
#include "core/random.h"

#include <string.h>

/* The paper's multipliers; keys advance by the golden ratio and by sqrt(3) - 1, both times 2^32. */
#define MULTIPLIER0 0xD2511F53u
#define MULTIPLIER1 0xCD9E8D57u
#define WEYL0       0x9E3779B9u
#define WEYL1       0xBB67AE85u

void slf_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]) {
    uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
    uint32_t c[4] = {(uint32_t)counter_low, (uint32_t)(counter_low >> 32), (uint32_t)counter_high,
                     (uint32_t)(counter_high >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t product0 = (uint64_t)MULTIPLIER0 * c[0];
        const uint64_t product1 = (uint64_t)MULTIPLIER1 * c[2];
        c[0] = (uint32_t)(product1 >> 32) ^ c[1] ^ key0;
        c[1] = (uint32_t)product1;
        c[2] = (uint32_t)(product0 >> 32) ^ c[3] ^ key1;
        c[3] = (uint32_t)product0;
        key0 += WEYL0;
        key1 += WEYL1;
    }
    memcpy(out, c, sizeof c);
}

uint64_t slf_random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t words[4];
    slf_philox(seed, index, stream, words);
    return (uint64_t)words[1] << 32 | words[0];
}

/* 2^64 mod bound draws at the bottom would make some results likelier: they are rejected and drawn again from a counter
 * that no index can reach, the stream's complement, with the number of the try in the key. Fewer than two tries are
 * needed on average. */
uint64_t slf_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound) {
    uint64_t bits = slf_random_bits(seed, stream, index);
    if (bits >= bound) return bits % bound;      /* as nearly always: the excess is below bound */
    const uint64_t excess = (0 - bound) % bound; /* 2^64 mod bound */
    for (uint64_t attempt = 1; bits < excess; attempt++)
        bits = slf_random_bits(seed ^ (attempt * 0x9E3779B97F4A7C15u), ~stream, index);
    return bits % bound;
}

void slf_shuffle(int32_t *values, int64_t n, int64_t count, uint64_t seed, uint64_t stream, uint64_t index) {
    for (int64_t i = 0; i < count; i++) {
        const int64_t j = i + (int64_t)slf_random_below(seed, stream, index + (uint64_t)i, (uint64_t)(n - i));
        const int32_t value = values[j];
        values[j] = values[i];
        values[i] = value;
    }
}

double slf_random_unit(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(slf_random_bits(seed, stream, index) >> 11) * 0x1p-53;
}
