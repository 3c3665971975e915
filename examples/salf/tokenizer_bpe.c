/* tokenizer_bpe.c - byte-pair encoding by rank, as the package tokenizers does it: characters become pieces, then the
 * pair of neighbours with the lowest rank is joined, the leftmost of equals, until no pair of the list is left. Pairs
 * wait in a heap, so that a word of n characters takes O(n log n); those that a merge has overtaken are recognised when
 * they come up. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_internal.h"

/* A pair that may be joined: the place of its left part, its rank, what it becomes. */
typedef struct bpe_candidate {
    int32_t rank, place, id;
} bpe_candidate;

void bpe_free_scratch(bpe_scratch *s) {
    free(s->ids);
    free(s->next);
    free(s->before);
    free(s->heap);
    *s = (bpe_scratch){0};
}

/* ---- merges ---- */

int bpe_make_room(bpe_model *m, int64_t n) {
    uint64_t room = 16;
    while (room < 2 * (uint64_t)n) room *= 2;
    m->merges = malloc(room * sizeof *m->merges);
    if (!m->merges) return -1;
    m->mask = room - 1;
    memset(m->merges, -1, room * sizeof *m->merges); /* pairs UINT64_MAX */
    return 0;
}

/* Its place in the table, or the free one where it would be. At most half of the places are taken. */
static bpe_merge *merge_place(const bpe_model *m, int32_t left, int32_t right) {
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t i = pair * 0x9E3779B97F4A7C15u; /* the golden ratio: neighbouring ids spread */
    for (i = (i >> 29) & m->mask;; i = (i + 1) & m->mask)
        if (m->merges[i].pair == pair || m->merges[i].pair == UINT64_MAX) return &m->merges[i];
}

void bpe_set_merge(bpe_model *m, int32_t left, int32_t right, int32_t rank, int32_t id) {
    *merge_place(m, left, right) = (bpe_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id};
}

/* ---- heap: the lowest rank on top, then the leftmost ---- */

static bool comes_before(const bpe_candidate *a, const bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->place < b->place;
}

/* Puts the pair of place and the one behind it into the heap, if it can be joined. Returns 0, or -1 without memory. */
static int push_pair(const bpe_model *m, bpe_scratch *s, int32_t place) {
    const int32_t next = place < 0 ? -1 : s->next[place];
    const bpe_merge *merge = next < 0 ? NULL : merge_place(m, s->ids[place], s->ids[next]);
    if (!merge || merge->pair == UINT64_MAX) return 0;
    if (s->heap_n == s->heap_room) {
        const int64_t room = 2 * s->heap_room + 64;
        bpe_candidate *larger = realloc(s->heap, (size_t)room * sizeof *larger);
        if (!larger) return -1;
        s->heap = larger;
        s->heap_room = room;
    }
    const bpe_candidate own = {merge->rank, place, merge->id};
    int64_t i = s->heap_n++;
    for (; i > 0 && comes_before(&own, &s->heap[(i - 1) / 2]); i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = own;
    return 0;
}

static bpe_candidate pop_pair(bpe_scratch *s) {
    const bpe_candidate top = s->heap[0], last = s->heap[--s->heap_n];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < s->heap_n; i = child) {
        if (child + 1 < s->heap_n && comes_before(&s->heap[child + 1], &s->heap[child])) child++;
        if (!comes_before(&s->heap[child], &last)) break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

/* ---- words ---- */

void id_list_add(id_list *out, int32_t id) {
    if (out->n == out->room) {
        const int64_t room = 2 * out->room + 64;
        int32_t *larger = out->failed ? NULL : realloc(out->ids, (size_t)room * sizeof *larger);
        if (!larger) {
            out->failed = true;
            return;
        }
        out->ids = larger;
        out->room = room;
    }
    out->ids[out->n++] = id;
}

/* Pieces of the characters of a word into s->ids. Returns how many: not more than the word has bytes. */
static int32_t split_word(const tokenizer *t, const bpe_model *m, const char *word, size_t n, bpe_scratch *s) {
    int32_t count = 0;
    bool pending = false; /* an unknown character that has not been written yet */
    for (size_t i = 0; i < n;) {
        const int32_t length = tokenizer_character_length(word + i);
        const int32_t id = tokenizer_find(t, word + i, length);
        bool bytes = id < 0 && m->byte_fallback;
        for (int32_t b = 0; bytes && b < length; b++) bytes = m->bytes[(unsigned char)word[i + (size_t)b]] >= 0;
        if (bytes) {
            for (int32_t b = 0; b < length; b++) s->ids[count++] = m->bytes[(unsigned char)word[i + (size_t)b]];
        } else if (id >= 0) {
            if (pending) s->ids[count++] = m->unknown;
            pending = false;
            s->ids[count++] = id;
        } else if (m->unknown >= 0) {
            if (pending && !m->fuse_unknown) s->ids[count++] = m->unknown;
            pending = true;
        }
        i += (size_t)length;
    }
    if (pending) s->ids[count++] = m->unknown;
    return count;
}

void bpe_encode(const tokenizer *t, const bpe_model *m, const char *word, size_t n, bpe_scratch *s, id_list *out) {
    const int32_t whole = m->ignore_merges && n < INT32_MAX ? tokenizer_find(t, word, (int32_t)n) : -1;
    if (whole >= 0) {
        id_list_add(out, whole);
        return;
    }
    /* 1. room for as many pieces as there are bytes */
    if (n > (size_t)s->room) {
        const size_t room = n + n / 2 + 64;
        bpe_free_scratch(s);
        s->ids = malloc(room * sizeof *s->ids);
        s->next = malloc(room * sizeof *s->next);
        s->before = malloc(room * sizeof *s->before);
        s->room = (int64_t)room;
        if (!s->ids || !s->next || !s->before) {
            bpe_free_scratch(s);
            out->failed = true;
            return;
        }
    }
    /* 2. a list of pieces, linked both ways, and every pair of neighbours that may be joined */
    const int32_t count = split_word(t, m, word, n, s);
    s->heap_n = 0;
    for (int32_t i = 0; i < count; i++) {
        s->next[i] = i + 1 < count ? i + 1 : -1;
        s->before[i] = i - 1;
    }
    bool failed = false;
    for (int32_t i = 0; i + 1 < count && !failed; i++) failed = push_pair(m, s, i) != 0;
    /* 3. join. A pair whose left part is gone (-1) or has become another since it was pushed is passed over. */
    while (s->heap_n > 0 && !failed) {
        const bpe_candidate top = pop_pair(s);
        const int32_t right = s->ids[top.place] < 0 ? -1 : s->next[top.place];
        if (right < 0) continue;
        const bpe_merge *merge = merge_place(m, s->ids[top.place], s->ids[right]);
        if (merge->pair == UINT64_MAX || merge->id != top.id) continue;
        s->ids[top.place] = top.id;
        s->ids[right] = -1;
        s->next[top.place] = s->next[right];
        if (s->next[right] >= 0) s->before[s->next[right]] = top.place;
        failed = push_pair(m, s, s->before[top.place]) != 0 || push_pair(m, s, top.place) != 0;
    }
    if (failed) out->failed = true;
    for (int32_t i = 0; i < count; i++)
        if (s->ids[i] >= 0) id_list_add(out, s->ids[i]);
}
