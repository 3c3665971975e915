/* calls.h - what fuzz_calls.c makes of its bytes: numbers, mostly small, and views of any shape within memory of their
 * own. Behind the last byte all are 0. */
#ifndef SALF_FUZZ_CALLS_H
#define SALF_FUZZ_CALLS_H

#include <math.h>
#include <stdint.h>

#include "salf.h"

enum { ROOM = 1 << 14, HALF = ROOM / 2 };

static const uint8_t *next_byte, *end_byte;
static uint8_t byte(void) {
    return next_byte < end_byte ? *next_byte++ : 0;
}
static int32_t below(int32_t n) {
    return byte() % n;
}
/* Mostly small, sometimes at an end of its type. */
static int64_t number(void) {
    static const int64_t ends[] = {-1, INT32_MAX, INT64_MAX, INT64_MIN, 0, UINT32_MAX, 1 << 16, -7};
    const uint8_t b = byte();
    return b < 224 ? b % 12 : ends[b % 8];
}
static int32_t word(void) {
    return (int32_t)number();
}
static double real(void) {
    static const double values[] = {0, 1, 0.5, 2, -1, 1e-30, 1e30, 1e300, 50, (double)INFINITY};
    const uint8_t b = byte();
    return values[b % 10];
}

static double memory_in[ROOM], memory_out[ROOM]; /* views lie in their middle, so that strides may be negative */
static int64_t index_in[16];
static int32_t labels[64], eof[64];

static void fill(void) {
    float *values = (float *)memory_in;
    uint64_t state = 9;
    for (int i = 0; i < 2 * ROOM; i++) values[i] = (float)((state = state * 6364136223846793005u + 1) >> 40) / 8e6f - 1;
    for (int i = 0; i < 64; i++) labels[i] = i % 11, eof[i] = i % 4;
}

/* Within the middle half of its memory whatever its shape: at most 12 rows, 64 elements apart, of 8 bytes. */
static salf_tensor view(double *memory, int64_t rows, int64_t cols) {
    salf_tensor v = {.data = memory + HALF, .rows = rows, .cols = cols, .dtype = SALF_F32};
    const uint8_t b = byte();
    if (b & 1) return v;
    if (b & 2) v.rows = below(13) - 1;
    if (b & 4) v.cols = below(16) - 1;
    if (b & 8) v.row_stride = below(128) - 64;
    if (b & 16) v.dtype = below(11);
    if (b & 32) v.memory = below(3);
    if (b & 64) v.data = below(4) ? v.data : NULL;
    if (b & 128) {
        v.row_index = index_in;
        for (int i = 0; i < 16; i++) index_in[i] = below(13) - 1;
    }
    return v;
}

#endif
