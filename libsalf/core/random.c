/*
 * random.c - counter-based random numbers, and the fingerprint of a row.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 64-bit key
 * and a 128-bit counter to 128 random bits by ten rounds of multiplication and exchange. It has no state, so a draw
 * depends only on (seed, stream, index): equal on every rank, platform and after every resume.
 */
#include <string.h>

#include "core/random.h"
#include "core/row_hash.h"

#define MULTIPLIER0 0xD2511F53u
#define MULTIPLIER1 0xCD9E8D57u
#define WEYL0       0x9E3779B9u
#define WEYL1       0xBB67AE85u

static void philox_round(uint32_t c[4], uint32_t key0, uint32_t key1) {
    const uint64_t product0 = (uint64_t)MULTIPLIER0 * c[0];
    const uint64_t product1 = (uint64_t)MULTIPLIER1 * c[2];
    const uint32_t next0 = (uint32_t)(product1 >> 32) ^ c[1] ^ key0;
    const uint32_t next2 = (uint32_t)(product0 >> 32) ^ c[3] ^ key1;
    c[0] = next0;
    c[1] = (uint32_t)product1;
    c[2] = next2;
    c[3] = (uint32_t)product0;
}

void slf_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]) {
    uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
    uint32_t c[4] = {(uint32_t)counter_low, (uint32_t)(counter_low >> 32), (uint32_t)counter_high,
                     (uint32_t)(counter_high >> 32)};
    for (int round = 0; round < 10; round++) {
        philox_round(c, key0, key1);
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

/* Draws above the largest multiple of bound are rejected and drawn again from a counter that no index can reach: the
 * stream's complement, with the number of the try. Fewer than two tries are needed on average. */
uint64_t slf_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound) {
    uint64_t bits = slf_random_bits(seed, stream, index);
    if (bits >= bound) return bits % bound;      /* as nearly always: what follows is below bound */
    const uint64_t excess = (0 - bound) % bound; /* 2^64 mod bound */
    for (uint64_t attempt = 1; bits < excess; attempt++)
        bits = slf_random_bits(seed ^ (attempt * 0x9E3779B97F4A7C15u), ~stream, index);
    return bits % bound;
}

double slf_random_unit(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(slf_random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

uint64_t slf_row_hash(const float *row, int64_t cols, int64_t row_id) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < cols; i++) {
        uint32_t bits;
        memcpy(&bits, row + i, sizeof bits);
        sum += slf_hash_element(bits, i);
    }
    return slf_hash_row(sum, row_id);
}
