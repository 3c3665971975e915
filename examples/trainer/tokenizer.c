/*
 * tokenizer.c - a byte-pair tokenizer from a .bin file, in which all numbers are little endian: the length of the
 * longest piece, then for every piece its score (float32), its length and its bytes. Piece 0 stands for what is
 * unknown, 1 for the start, 2 for the end. Pieces of single bytes, where there are any, begin at "<0x00>".
 *
 * Joining two pieces of a text of n characters looks at all neighbours again, O(n^2) look-ups in all: fine for prompts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer.h"

typedef struct piece {
    const char *bytes;
    int32_t length, id;
    float score;
} piece;

struct tokenizer {
    int32_t n, first_byte; /* pieces; id of <0x00>, or -1 */
    piece *pieces;         /* [n] by id */
    piece *sorted;         /* [n] by length and bytes, so that a piece is found by its bytes */
    memory *memory;
};

static int by_bytes(const void *left, const void *right) {
    const piece *a = left, *b = right;
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    return memcmp(a->bytes, b->bytes, (size_t)a->length);
}

static int by_bytes_and_id(const void *left, const void *right) {
    const int order = by_bytes(left, right);
    return order ? order : ((const piece *)left)->id < ((const piece *)right)->id ? -1 : 1;
}

/* Id of the piece with these bytes, the first of equal ones; -1 where there is none. Text never makes pieces 0 to 2. */
static int32_t find_piece(const tokenizer *t, const char *bytes, int64_t length) {
    const piece key = {.bytes = bytes, .length = (int32_t)length};
    const piece *found = bsearch(&key, t->sorted, (size_t)t->n, sizeof key, by_bytes);
    if (!found) return -1;
    while (found > t->sorted && by_bytes(found - 1, &key) == 0) found--;
    while (found->id < 3) {
        if (++found == t->sorted + t->n || by_bytes(found, &key) != 0) return -1;
    }
    return found->id;
}

tokenizer *tokenizer_open(const char *path, int64_t vocab) {
    memory *chain = NULL;
    tokenizer *t = take(&chain, 1, sizeof *t);
    int64_t size;
    const char *file = read_file(&chain, NULL, path, 0, &size);
    t->pieces = take(&chain, vocab, sizeof *t->pieces);
    for (int64_t at = 4; at < size;) {
        uint32_t length;
        piece *p = &t->pieces[t->n];
        if (t->n == vocab) fail("%s has more pieces than the model's vocabulary, %lld", path, (long long)vocab);
        if (size - at < 8) fail("%s ends inside piece %d", path, (int)t->n);
        memcpy(&p->score, file + at, 4);
        memcpy(&length, file + at + 4, 4);
        if (length > (uint64_t)(size - at - 8)) fail("%s ends inside piece %d", path, (int)t->n);
        p->bytes = file + at + 8;
        p->length = (int32_t)length;
        p->id = t->n++;
        at += 8 + (int64_t)length;
    }
    t->sorted = take(&chain, t->n, sizeof *t->sorted);
    memcpy(t->sorted, t->pieces, (size_t)t->n * sizeof *t->sorted);
    qsort(t->sorted, (size_t)t->n, sizeof *t->sorted, by_bytes_and_id);
    t->first_byte = find_piece(t, "<0x00>", 6);
    t->memory = chain;
    return t;
}

void tokenizer_free(tokenizer *t) {
    memory *chain = t->memory;
    free_chain(&chain);
}

/* Bytes of the UTF-8 character at s. */
static int64_t character_length(const char *s) {
    int64_t n = 1;
    while (((unsigned char)s[0] & 0x80) && n < 4 && ((unsigned char)s[n] & 0xC0) == 0x80) n++;
    return n;
}

/* The piece that two neighbours make together, or -1. */
static int32_t join_pieces(const tokenizer *t, int32_t a, int32_t b) {
    char bytes[512];
    const piece *p = &t->pieces[a], *q = &t->pieces[b];
    if (a == 0 || b == 0 || (size_t)p->length + (size_t)q->length > sizeof bytes) return -1;
    memcpy(bytes, p->bytes, (size_t)p->length);
    memcpy(bytes + p->length, q->bytes, (size_t)q->length);
    return find_piece(t, bytes, p->length + q->length);
}

int64_t tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids) {
    int64_t n = 0, length;
    int unknown = 0;
    ids[n++] = 1;
    /* 1. every character as a piece, as its bytes, or as one unknown for a run of them */
    for (const char *s = text; *s; s += length) {
        length = character_length(s);
        const int32_t id = find_piece(t, s, length);
        if (id >= 0) {
            ids[n++] = id;
        } else if (t->first_byte >= 0) {
            for (int64_t i = 0; i < length; i++) ids[n++] = t->first_byte + (unsigned char)s[i];
        } else if (!unknown) {
            ids[n++] = 0;
        }
        unknown = id < 0 && t->first_byte < 0;
    }
    /* 2. of all neighbours that make a piece join those with the best score, until none are left */
    for (;;) {
        int64_t best = -1;
        int32_t joined = -1;
        for (int64_t i = 1; i + 1 < n; i++) {
            const int32_t id = join_pieces(t, ids[i], ids[i + 1]);
            if (id >= 0 && (best < 0 || t->pieces[id].score > t->pieces[joined].score)) {
                best = i;
                joined = id;
            }
        }
        if (best < 0) return n;
        ids[best] = joined;
        memmove(ids + best + 1, ids + best + 2, (size_t)(n - best - 2) * sizeof *ids);
        n--;
    }
}

int64_t tokenizer_length(const tokenizer *t, int32_t id) {
    return t->pieces[id].length;
}
