/*
 * quant.c - the element types of GGUF files, and quantised rows as float32.
 *
 * A quantised row is cut into blocks of 32 or 256 elements. A block holds small integers q, packed in bits, and scales:
 * element i is scale * value(q_i) - minimum, where scale and minimum are those of the block, or of 16 or 32 elements
 * of it. The types differ in where the bits lie and how scales are packed, which is a table here; one loop reads them
 * all. Every product and every sum is rounded to float32 by itself and in the order of ggml's reference code, so that
 * the values are equal, bit for bit, to those of the Python package gguf (tests/unit/test_gguf.c).
 */
#include <string.h>

#include "core/dtypes.h"
#include "gguf.h"

/* ---- bits ---- */

/* Where some bits of each q lie: width of them an element, from byte `place` of the block on. A run of `run` bytes
 * holds run * 8 / width elements: first the lowest bits of each of its bytes, then the next ones. width 0: none. */
typedef struct {
    uint8_t width, run, place;
} bit_layout;

/* How scales are packed. ONE: a float16 for the block. MXFP4: an exponent for it. The others have a float16 as well,
 * and small integers that it is multiplied with, for each group of 16 or 32 elements. */
enum { SCALE_ONE, SCALE_EXPONENT, SCALE_NIBBLES, SCALE_3K, SCALE_45K, SCALE_BYTES, SCALE_IQ4 };

typedef struct {
    slf_gguf_type type;
    bit_layout low, high;   /* q = low | high << (width of low); a low of 8 bits is a signed byte */
    int16_t offset;         /* value(q) = q - offset, unless values */
    const int8_t *values;   /* value(q) = values[q] */
    uint8_t scales;         /* SCALE_* */
    int16_t scale, minimum; /* bytes of the block where their float16 lie; minimum -1: none */
} packing;

/* The 4-bit code books: "nonlinear" of ggml (IQ4_NL, IQ4_XS), and FP4 E2M1 of the OCP microscaling formats, doubled. */
static const int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t fp4_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

#define PLAIN(number, name, dtype, bytes) [number] = {.type = {name, dtype, 0, 1, bytes}}
/* A type that has a size, and no more here. */
#define OTHER(number, name, elements, bytes)  [number] = {.type = {name, 0, 0, elements, bytes}}
#define PACKED(number, name, elements, bytes) .type = {name, 0, number, elements, bytes}

/* Indexed by the number in the file (ggml_type). A name NULL: no such type, or one that was taken back. */
static const packing packings[] = {
    PLAIN(0, "F32", SALF_F32, 4),
    PLAIN(1, "F16", SALF_F16, 2),
    [2] = {PACKED(2, "Q4_0", 32, 18), .low = {4, 16, 2}, .offset = 8, .minimum = -1},
    [3] = {PACKED(3, "Q4_1", 32, 20), .low = {4, 16, 4}, .minimum = 2},
    [6] = {PACKED(6, "Q5_0", 32, 22), .low = {4, 16, 6}, .high = {1, 1, 2}, .offset = 16, .minimum = -1},
    [7] = {PACKED(7, "Q5_1", 32, 24), .low = {4, 16, 8}, .high = {1, 1, 4}, .minimum = 2},
    [8] = {PACKED(8, "Q8_0", 32, 34), .low = {8, 32, 2}, .minimum = -1},
    OTHER(9, "Q8_1", 32, 40),
    [10] = {PACKED(10, "Q2_K", 256, 84), .low = {2, 32, 16}, .scales = SCALE_NIBBLES, .scale = 80, .minimum = 82},
    [11] = {PACKED(11, "Q3_K", 256, 110), .low = {2, 32, 32}, .high = {1, 32, 0}, .offset = 4, .scales = SCALE_3K,
            .scale = 108, .minimum = -1},
    [12] = {PACKED(12, "Q4_K", 256, 144), .low = {4, 32, 16}, .scales = SCALE_45K, .minimum = 2},
    [13] = {PACKED(13, "Q5_K", 256, 176), .low = {4, 32, 48}, .high = {1, 32, 16}, .scales = SCALE_45K, .minimum = 2},
    [14] = {PACKED(14, "Q6_K", 256, 210), .low = {4, 64, 0}, .high = {2, 32, 128}, .offset = 32, .scales = SCALE_BYTES,
            .scale = 208, .minimum = -1},
    OTHER(15, "Q8_K", 256, 292),
    OTHER(16, "IQ2_XXS", 256, 66),
    OTHER(17, "IQ2_XS", 256, 74),
    OTHER(18, "IQ3_XXS", 256, 98),
    OTHER(19, "IQ1_S", 256, 50),
    [20] = {PACKED(20, "IQ4_NL", 32, 18), .low = {4, 16, 2}, .values = nonlinear, .minimum = -1},
    OTHER(21, "IQ3_S", 256, 110),
    OTHER(22, "IQ2_S", 256, 82),
    [23] = {PACKED(23, "IQ4_XS", 256, 136), .low = {4, 16, 8}, .values = nonlinear, .scales = SCALE_IQ4, .minimum = -1},
    PLAIN(24, "I8", SALF_I8, 1),
    OTHER(25, "I16", 1, 2),
    PLAIN(26, "I32", SALF_I32, 4),
    PLAIN(27, "I64", SALF_I64, 8),
    PLAIN(28, "F64", SALF_F64, 8),
    OTHER(29, "IQ1_M", 256, 56),
    PLAIN(30, "BF16", SALF_BF16, 2),
    OTHER(34, "TQ1_0", 256, 54),
    OTHER(35, "TQ2_0", 256, 66),
    [39] = {PACKED(39, "MXFP4", 32, 17), .low = {4, 16, 1}, .values = fp4_doubled, .scales = SCALE_EXPONENT,
            .minimum = -1},
    OTHER(40, "NVFP4", 64, 36),
    OTHER(41, "Q1_0", 128, 18),
};
enum { N_PACKINGS = sizeof packings / sizeof *packings, LARGEST_BLOCK = 256 };

const slf_gguf_type *slf_gguf_type_of(uint32_t number) {
    return number < N_PACKINGS && packings[number].type.name ? &packings[number].type : NULL;
}

/* Adds the bits of a layout to q [n], shifted up by shift. */
static void add_bits(bit_layout layout, const uint8_t *block, int32_t n, int shift, uint8_t *q) {
    if (layout.width == 0) return;
    const int32_t run = layout.run, width = layout.width;
    const unsigned mask = (1u << width) - 1;
    const uint8_t *from = block + layout.place;
    for (int32_t i = 0; i < n; from += run)
        for (int32_t low = 0; low < 8; low += width, i += run)
            for (int32_t l = 0; l < run; l++) q[i + l] |= (uint8_t)((from[l] >> low & mask) << shift);
}

/* ---- scales ---- */

/* Two bytes at any address: blocks have odd sizes. */
static float float16_at(const uint8_t *bytes) {
    return slf_f16_to_f32((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* The integers that the block's scale and minimum are multiplied with, one a group. Returns the binary logarithm
 * of the elements of a group. */
static int group_scales(const packing *p, const uint8_t *block, int8_t *scale, int8_t *minimum) {
    const uint8_t *s = block + 4; /* of the 4- and 5-bit types */
    switch (p->scales) {
    case SCALE_NIBBLES: /* 16 bytes: scale in the lower half, minimum in the upper */
        for (int g = 0; g < 16; g++) {
            scale[g] = (int8_t)(block[g] & 15);
            minimum[g] = (int8_t)(block[g] >> 4);
        }
        return 4;
    case SCALE_3K: /* 16 numbers of 6 bits, minus 32: 4 bits each in 8 bytes, then 2 bits each in 4 */
        s = block + 96;
        for (int g = 0; g < 16; g++)
            scale[g] = (int8_t)(((s[g % 8] >> g / 8 * 4 & 15) | (s[8 + g % 4] >> g / 4 * 2 & 3) << 4) - 32);
        return 4;
    case SCALE_45K: /* 8 scales and 8 minima of 6 bits: the first four of each whole, the others' top bits above them */
        for (int g = 0; g < 4; g++) {
            scale[g] = (int8_t)(s[g] & 63);
            minimum[g] = (int8_t)(s[4 + g] & 63);
            scale[4 + g] = (int8_t)((s[8 + g] & 15) | s[g] >> 6 << 4);
            minimum[4 + g] = (int8_t)(s[8 + g] >> 4 | s[4 + g] >> 6 << 4);
        }
        return 5;
    case SCALE_BYTES:
        memcpy(scale, block + 192, 16);
        return 4;
    case SCALE_IQ4: /* 8 numbers of 6 bits, minus 32: 4 bits each in bytes 4 ... 7, 2 bits each in bytes 2 and 3 */
        for (int g = 0; g < 8; g++)
            scale[g] = (int8_t)(((s[g / 2] >> g % 2 * 4 & 15) | (block[2 + g / 4] >> g % 4 * 2 & 3) << 4) - 32);
        return 5;
    default: /* SCALE_ONE, SCALE_EXPONENT: of 32 elements */
        return 5;
    }
}

/* ---- rows ---- */

/* 1 to 2 ns an element. The table's row is read in the loop over elements, where its values stay in registers. */
void slf_unpack_row(int32_t packed, const uint8_t *row, int64_t n, float *out) {
    const packing *p = &packings[packed];
    for (int64_t at = 0; at < n; at += p->type.elements, row += p->type.bytes) {
        uint8_t q[LARGEST_BLOCK] = {0};
        int8_t scale[16], minimum[16] = {0};
        add_bits(p->low, row, p->type.elements, 0, q);
        add_bits(p->high, row, p->type.elements, p->low.width, q);
        const int shift = group_scales(p, row, scale, minimum);
        const bool whole = p->scales == SCALE_ONE || p->scales == SCALE_EXPONENT;
        /* An exponent e stands for 2^(e - 127), here 2^(e - 128) because its code book is doubled; the two smallest are
         * subnormal. */
        const float all = p->scales != SCALE_EXPONENT ? float16_at(row + p->scale)
                          : row[0] < 2                ? slf_float_from_bits(0x00200000u << row[0])
                                                      : slf_float_from_bits((uint32_t)(row[0] - 1) << 23);
        const float least = p->minimum < 0 ? 0 : float16_at(row + p->minimum);
        float by[16], under[16];
        for (int g = 0; g << shift < p->type.elements; g++) {
            by[g] = whole ? all : all * (float)scale[g];
            under[g] = whole ? -least : least * (float)minimum[g];
        }
        for (int32_t i = 0; i < p->type.elements; i++) {
            const int g = i >> shift;
            const int value = p->values ? p->values[q[i]] : p->low.width == 8 ? (int8_t)q[i] : q[i] - p->offset;
            /* One operation a line: compilers may join those of a line to one that rounds once. */
            const float product = by[g] * (float)value;
            out[at + i] = p->minimum < 0 ? product : product - under[g];
        }
    }
}

/* Blocks do not cross rows, so that a row is found by its number. Never fails; checked when the model was opened is
 * that the rows exist. */
int32_t slf_entry_rows(void *user, int64_t first, int64_t count, float *out) {
    const slf_entry *entry = user;
    const int64_t cols = entry->shape[1];
    const uint64_t row_bytes = (entry->end - entry->begin) / (uint64_t)entry->shape[0];
    const uint8_t *row = entry->data + (uint64_t)first * row_bytes;
    for (int64_t r = 0; r < count; r++, row += row_bytes, out += cols) slf_unpack_row(entry->packed, row, cols, out);
    return 0;
}
