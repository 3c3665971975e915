/* tokenizer_train.c - byte-pair training: words with their counts, then the most frequent adjacent pair, again and
 * again.
 *
 * The texts become a table of distinct words (a word is a space and what follows up to the next space) with counts.
 * Each merge counts all pairs over the distinct words, O(total length of the distinct words), which for a few thousand
 * words and a thousand merges is a second. Ties go to the pair of the smaller ids, so the result is the same
 * everywhere. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "message.h"
#include "salf.h"
#include "tokenizer_internal.h"
#include "tokenizer_train.h"

/* A distinct word of the texts. */
typedef struct word {
    const char *text; /* borrowed, begins behind the space */
    int32_t length;
    int64_t count;
    int32_t *ids; /* [n], the space included */
    int32_t n;
} word;

enum { FIRST_LEARNT = 3 + 256 }; /* ids before it are fixed */

typedef struct trainer {
    tokenizer *t;
    int32_t room; /* of t->pieces */
    word *words;
    int64_t n_words;
    int64_t *pairs; /* [room][room] counts */
} trainer;

/* In the order of their bytes, a prefix before what it begins. */
static int compare_words(const void *a, const void *b) {
    const word *x = a, *y = b;
    const int32_t n = x->length < y->length ? x->length : y->length;
    const int c = memcmp(x->text, y->text, (size_t)n);
    return c ? c : (x->length > y->length) - (x->length < y->length);
}

/* All words of all texts, then sorted and equal ones made one. */
static int collect_words(trainer *tr, const char *const *texts, int64_t n) {
    int64_t most = n; /* words of n texts: one more than they have spaces */
    for (int64_t i = 0; i < n; i++) {
        for (const char *s = texts[i]; *s; s++) most += *s == ' ';
    }
    tr->words = calloc((size_t)most + 1, sizeof *tr->words);
    if (!tr->words) return -1;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        for (const char *s = texts[i]; s;) {
            const char *end = strchr(s, ' ');
            const size_t length = end ? (size_t)(end - s) : strlen(s);
            if (length < 256) tr->words[total++] = (word){.text = s, .length = (int32_t)length, .count = 1};
            s = end ? end + 1 : NULL;
        }
    }
    if (total == 0) return -1;
    qsort(tr->words, (size_t)total, sizeof *tr->words, compare_words);
    int64_t kept = 0;
    for (int64_t i = 1; i < total; i++) {
        if (compare_words(&tr->words[kept], &tr->words[i])) {
            tr->words[++kept] = tr->words[i];
        } else {
            tr->words[kept].count++;
        }
    }
    tr->n_words = kept + 1;
    return 0;
}

/* Merges made later get lower scores, characters the lowest. */
static int add_entry(trainer *tr, float score, const char *bytes, int32_t length) {
    if (tr->t->size == tr->room) return -1;
    if (tokenizer_set(tr->t, tr->t->size, score, bytes, length)) return -1;
    tr->t->size++;
    return 0;
}

/* The ids that every file of this form begins with: three special pieces, then the 256 bytes. */
static int add_fixed(trainer *tr) {
    int failed = add_entry(tr, 0, "<unk>", 5) || add_entry(tr, 0, "\n<s>\n", 5) || add_entry(tr, 0, "\n</s>\n", 6);
    for (int b = 0; b < 256 && !failed; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        failed = add_entry(tr, 0, name, 6);
    }
    return failed ? -1 : 0;
}

/* Id of a character, added when it is new: printable ASCII first, all others are left to the byte pieces. */
static int add_characters(trainer *tr) {
    const float lowest = -(float)tr->room;
    int used[128] = {0};
    used[' '] = 1;
    for (int64_t i = 0; i < tr->n_words; i++) {
        for (int32_t k = 0; k < tr->words[i].length; k++) {
            const unsigned char c = (unsigned char)tr->words[i].text[k];
            if (c < 128 && c >= 32) used[c] = 1;
        }
    }
    for (int c = 32; c < 127; c++) {
        const char byte = (char)c;
        if (used[c] && add_entry(tr, lowest, &byte, 1)) return -1;
    }
    return 0;
}

/* Characters stand behind the fixed pieces; others are their byte's piece. */
static int32_t character_id(const trainer *tr, char c) {
    for (int32_t id = FIRST_LEARNT; id < tr->t->size; id++) {
        if (tr->t->pieces[id].length == 1 && tr->t->pieces[id].bytes[0] == c) return id;
    }
    return 3 + (unsigned char)c;
}

/* Every word as the ids of its characters, a space in front. */
static int split_words(trainer *tr) {
    for (int64_t i = 0; i < tr->n_words; i++) {
        word *w = &tr->words[i];
        w->ids = malloc(((size_t)w->length + 1) * sizeof *w->ids);
        if (!w->ids) return -1;
        w->ids[0] = character_id(tr, ' ');
        for (int32_t k = 0; k < w->length; k++) w->ids[k + 1] = character_id(tr, w->text[k]);
        w->n = w->length + 1;
    }
    return 0;
}

/* The most frequent pair; pieces of bytes do not merge. Returns its count. */
static int64_t best_pair(trainer *tr, int32_t *a, int32_t *b) {
    const int64_t n = tr->t->size;
    memset(tr->pairs, 0, (size_t)(n * n) * sizeof *tr->pairs);
    int64_t best = 0;
    *a = *b = 0;
    for (int64_t i = 0; i < tr->n_words; i++) {
        const word *w = &tr->words[i];
        for (int32_t k = 0; k + 1 < w->n; k++) {
            if (w->ids[k] >= FIRST_LEARNT && w->ids[k + 1] >= FIRST_LEARNT)
                tr->pairs[w->ids[k] * n + w->ids[k + 1]] += w->count;
        }
    }
    for (int64_t p = 0; p < n * n; p++) {
        if (tr->pairs[p] <= best) continue;
        best = tr->pairs[p];
        *a = (int32_t)(p / n);
        *b = (int32_t)(p % n);
    }
    return best;
}

/* Puts the piece `made` in place of each pair (a, b), from the left. */
static void replace_pair(trainer *tr, int32_t a, int32_t b, int32_t made) {
    for (int64_t i = 0; i < tr->n_words; i++) {
        word *w = &tr->words[i];
        int32_t n = 0;
        for (int32_t k = 0; k < w->n; k++) {
            const int pair = w->ids[k] == a && k + 1 < w->n && w->ids[k + 1] == b;
            w->ids[n++] = pair ? made : w->ids[k];
            k += pair;
        }
        w->n = n;
    }
}

/* Merges until the table is full or no pair is left. */
static int learn_merges(trainer *tr) {
    int32_t a, b;
    for (int32_t rank = 1; tr->t->size < tr->room && best_pair(tr, &a, &b) > 0; rank++) {
        char bytes[512];
        const tokenizer_entry *p = &tr->t->pieces[a], *q = &tr->t->pieces[b];
        memcpy(bytes, p->bytes, (size_t)p->length);
        memcpy(bytes + p->length, q->bytes, (size_t)q->length);
        /* Two ways to one piece keep the score of the first. */
        if (add_entry(tr, -(float)rank, bytes, p->length + q->length)) return -1;
        replace_pair(tr, a, b, tr->t->size - 1);
    }
    return 0;
}

int tokenizer_train(tokenizer **out, const char *const *texts, int64_t n, int32_t size, char *message,
                    size_t message_size) {
    *out = NULL;
    if (size < 360 || size > 8192) {
        return message_fail(message, message_size, "a tokenizer of %d pieces cannot be trained; 360 ... 8192 can",
                            (int)size);
    }
    trainer tr = {.t = calloc(1, sizeof *tr.t), .room = size};
    if (tr.t) tr.t->pieces = calloc((size_t)size, sizeof *tr.t->pieces);
    tr.pairs = malloc((size_t)size * (size_t)size * sizeof *tr.pairs);
    const int failed = !tr.t || !tr.t->pieces || !tr.pairs || collect_words(&tr, texts, n) || add_fixed(&tr) ||
                       add_characters(&tr) || split_words(&tr) || learn_merges(&tr) || tokenizer_index(tr.t, 3);
    for (int64_t i = 0; i < tr.n_words; i++) free(tr.words[i].ids);
    free(tr.words);
    free(tr.pairs);
    if (failed) {
        tokenizer_destroy(tr.t);
        return message_fail(message, message_size, "out of memory, or no words in the text");
    }
    *out = tr.t;
    return 0;
}

/* ---- file ---- */

static void put_u32(unsigned char *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(value >> (8 * i));
}

/* The longest piece, then score, length and bytes of each. */
static void write_pieces(FILE *file, const void *what) {
    const tokenizer *t = what;
    unsigned char bytes[8];
    uint32_t longest = 1;
    for (int32_t i = 0; i < t->size; i++) {
        if ((uint32_t)t->pieces[i].length > longest) longest = (uint32_t)t->pieces[i].length;
    }
    put_u32(bytes, longest);
    fwrite(bytes, 1, 4, file);
    for (int32_t i = 0; i < t->size; i++) {
        const tokenizer_entry *p = &t->pieces[i];
        uint32_t bits;
        memcpy(&bits, &p->score, sizeof bits);
        put_u32(bytes, bits);
        put_u32(bytes + 4, (uint32_t)p->length);
        fwrite(bytes, 1, 8, file);
        fwrite(p->bytes, 1, (size_t)p->length, file);
    }
}

int tokenizer_save(const tokenizer *t, const char *path, char *message, size_t message_size) {
    size_t size = 0;
    char *bytes = file_compose(write_pieces, t, &size);
    int failed = !bytes;
    if (failed)
        snprintf(message, message_size, "out of memory");
    else if ((failed = salf_file_save(file_output(path), bytes, size)) != 0)
        snprintf(message, message_size, "%s", salf_last_error());
    free(bytes);
    return failed ? -1 : 0;
}
