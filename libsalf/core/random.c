/*
 * random.c - counter-based random numbers, and the fingerprint of a row.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 64-bit key
 * and a 128-bit counter to 128 random bits by ten rounds of multiplication and exchange. It has no state, so a draw
 * depends only on (seed, stream, index): equal on every rank, platform and after every resume.
 */
#include <string.h>

#include "core/core.h"
#include "core/random.h"
#include "core/row_hash.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

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

static void pieces_plain(uint64_t seed, uint64_t stream, uint64_t block, uint16_t *out) {
    for (int i = 0; i < SLF_PIECES / 8; i++) {
        uint32_t words[4];
        slf_philox(seed, block + (uint64_t)i, stream, words);
        for (int w = 0; w < 4; w++) {
            out[8 * i + 2 * w] = (uint16_t)words[w];
            out[8 * i + 2 * w + 1] = (uint16_t)(words[w] >> 16);
        }
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Four blocks to a vector, one word of each in the lower half of a lane: there the multiplication takes its factors,
 * and what is left in the upper halves does not matter. Four vectors, whose chains of ten rounds overlap. */
SLF_AVX2 static void pieces_avx2(uint64_t seed, uint64_t stream, uint64_t block, uint16_t *out) {
    enum { VECTORS = SLF_PIECES / 32 };
    const __m256i by0 = _mm256_set1_epi64x(MULTIPLIER0), by1 = _mm256_set1_epi64x(MULTIPLIER1);
    __m256i c0[VECTORS], c1[VECTORS], c2[VECTORS], c3[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        c0[v] = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)block + 4 * v), _mm256_set_epi64x(3, 2, 1, 0));
        c1[v] = _mm256_srli_epi64(c0[v], 32);
        c2[v] = _mm256_set1_epi64x((int64_t)stream);
        c3[v] = _mm256_set1_epi64x((int64_t)(stream >> 32));
    }
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, key0 += WEYL0, key1 += WEYL1) {
        const __m256i k0 = _mm256_set1_epi64x(key0), k1 = _mm256_set1_epi64x(key1);
        for (int v = 0; v < VECTORS; v++) {
            const __m256i product0 = _mm256_mul_epu32(by0, c0[v]), product1 = _mm256_mul_epu32(by1, c2[v]);
            c0[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1[v]), k0);
            c2[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3[v]), k1);
            c1[v] = product1;
            c3[v] = product0;
        }
    }
    for (int v = 0; v < VECTORS; v++) { /* words 0 and 1, 2 and 3 of each block, then the blocks in order */
        const __m256i low = _mm256_blend_epi32(c0[v], _mm256_slli_epi64(c1[v], 32), 0xAA);
        const __m256i high = _mm256_blend_epi32(c2[v], _mm256_slli_epi64(c3[v], 32), 0xAA);
        const __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);
        __m256i *to = (__m256i *)(void *)(out + 32 * v);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
}
#else
#define pieces_avx2 pieces_plain
#endif

void slf_random_pieces(uint64_t seed, uint64_t stream, uint64_t index, uint16_t out[SLF_PIECES]) {
    const uint64_t block = index * (SLF_PIECES / 8);
    if (SLF_HAS_AVX2())
        pieces_avx2(seed, stream, block, out);
    else
        pieces_plain(seed, stream, block, out);
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
