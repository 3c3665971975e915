/*
 * hash.c - is it still the same? A hash of bytes, in order; of files, and of what is being written.
 *
 * h = mix(h ^ w) for each word w of 8 bytes, little-endian, then for the bytes that are left and for how many there
 * were. mix is a bijection (slf_hash_mix), so that two texts that differ in one word, be it by one bit, never have the
 * same hash; others have it with chance 2^-64. It finds damage and mistakes; it is no defence against an adversary.
 * Some 2 GB a second.
 */
#include <string.h>

#include "core/fingerprint.h"
#include "io.h"

static uint64_t word_of(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word); /* tensor files are for little-endian machines, and this with them */
    return word;
}

/* Pieces of any length: what fills no word waits in part. */
void slf_sum_add(slf_sum *sum, const void *bytes, uint64_t n) {
    const uint8_t *at = bytes, *end = at + n;
    while (at < end) {
        const uint64_t waiting = sum->n & 7;
        if (waiting == 0 && end - at >= 8) {
            sum->hash = slf_hash_mix(sum->hash ^ word_of(at));
            at += 8;
            sum->n += 8;
            continue;
        }
        sum->part[waiting] = *at++;
        sum->n++;
        if (waiting == 7) sum->hash = slf_hash_mix(sum->hash ^ word_of(sum->part));
    }
}

uint64_t slf_sum_end(const slf_sum *sum) {
    uint8_t rest[8] = {0};
    memcpy(rest, sum->part, (size_t)(sum->n & 7));
    return slf_hash_mix(slf_hash_mix(sum->hash ^ word_of(rest)) ^ sum->n);
}

uint64_t salf_hash(uint64_t before, const void *bytes, uint64_t n) {
    slf_sum sum = {.hash = before};
    if (bytes) slf_sum_add(&sum, bytes, n);
    return slf_sum_end(&sum);
}
