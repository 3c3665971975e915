/* tokenizer_internal.h - what reading and training of tokenizers share. */
#ifndef SALF_EXAMPLE_TOKENIZER_INTERNAL_H
#define SALF_EXAMPLE_TOKENIZER_INTERNAL_H

#include <stdint.h>

#include "tokenizer.h"

typedef struct tokenizer_entry {
    char *bytes; /* [length], and a 0 behind */
    int32_t length;
    float score;
} tokenizer_entry;

struct tokenizer {
    int32_t size;
    int32_t first_byte; /* id of <0x00>; -1: no byte pieces */
    tokenizer_entry *pieces;
    int32_t *slots; /* [mask + 1] open addressing: id or -1 */
    uint64_t mask;
};

/* Id of a piece, or -1. */
int32_t tokenizer_find(const tokenizer *t, const char *bytes, int32_t length);
/* Builds the hash once all pieces are set. Returns 0, or -1 when memory is short. */
int tokenizer_index(tokenizer *t);
/* Sets piece id, which has room in t->pieces. Returns 0, or -1 when memory is short. */
int tokenizer_set(tokenizer *t, int32_t id, float score, const char *bytes, int32_t length);
/* Bytes of the character at s: 1 ... 4; a byte that begins none is taken alone with its followers. */
int32_t tokenizer_character_length(const char *s);

#endif
