/*
 * fingerprint.h - which matrix was it? A hash of a matrix' values that tells whether a basis was made from this head.
 *
 * Element i of a row has the hash slf_hash_element of its float32 bits (-0 as 0); a row that of the sum over its
 * elements and its number, slf_hash_row; a matrix the sum over its rows. Sums are modulo 2^64, so that elements and
 * rows may be added in any order: the fingerprint depends neither on blocks, threads and ranks nor on the type that the
 * rows are stored in. It finds damage and mistakes; it is no defence against an adversary.
 *
 * The inline parts are for kernels of any backend. Not installed.
 */
#ifndef SALF_FINGERPRINT_H
#define SALF_FINGERPRINT_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SLF_ANYWHERE __host__ __device__
#else
#define SLF_ANYWHERE
#endif

/* A bijection in which every bit of x reaches every bit of the result: xorshift and multiplication, twice (the mixer
 * known as degski64). */
SLF_ANYWHERE static inline uint64_t slf_hash_mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

/* Multiplying value and place, both moved by odd constants so that neither is 0, makes swapped elements differ. */
SLF_ANYWHERE static inline uint64_t slf_hash_element(uint32_t bits, int64_t i) {
    if (bits == 0x80000000u) bits = 0;
    return (uint64_t)(bits + 0x9E3779B9u) * (2 * (uint64_t)i + 0x9E3779B97F4A7C15u);
}

SLF_ANYWHERE static inline uint64_t slf_hash_row(uint64_t sum, int64_t row_id) {
    return slf_hash_mix(sum ^ slf_hash_mix((uint64_t)row_id + 0x632BE59BD9B4E019u));
}

/* Hash of row row_id, [cols] in host memory. */
static inline uint64_t slf_row_hash(const float *row, int64_t cols, int64_t row_id) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < cols; i++) {
        uint32_t bits;
        memcpy(&bits, row + i, sizeof bits);
        sum += slf_hash_element(bits, i);
    }
    return slf_hash_row(sum, row_id);
}

/* FNV-1a in its 64-bit form (G. Fowler, L. C. Noll, K.-P. Vo), of bytes that may be a piece of more: begins with
 * SLF_FNV_BEGIN, goes on with the hash of the pieces before. */
#define SLF_FNV_BEGIN 0xCBF29CE484222325u
#define SLF_FNV_PRIME 0x100000001B3u
static inline uint64_t slf_fnv1a(uint64_t hash, const void *bytes, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * SLF_FNV_PRIME;
    return hash;
}

#endif
