/* tokenizer.c - pieces of a byte-pair tokenizer: look-up by hash; the .bin form and its encoding. Files of the other
 * form are read in tokenizer_json.c.
 *
 * Encoding a text of n characters with a .bin tokenizer costs n look-ups, then two look-ups and one pass over the
 * scores of the neighbours for each merge: O(n^2) additions of small constant, a few microseconds for a sentence. */
#include "tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "files.h"
#include "message.h"
#include "salf.h"
#include "tokenizer_internal.h"

/* Bounds that no real tokenizer comes near (the largest in use have some 2^18 ids); a hostile file cannot make the
 * reader ask for more. */
enum { SIZE_MOST = 1 << 24, PIECE_MOST = 1 << 16, SIZE_BYTES_MOST = 1 << 30 };

/* FNV-1a. The shift brings high bits down to those that the mask keeps. */
static uint64_t hash_bytes(const char *bytes, int32_t length) {
    uint64_t h = 14695981039346656037u;
    for (int32_t i = 0; i < length; i++) h = (h ^ (unsigned char)bytes[i]) * 1099511628211u;
    return h ^ (h >> 29);
}

/* Linear probing from the hash on; the table is never full, so that the search ends. */
int32_t tokenizer_find(const tokenizer *t, const char *bytes, int32_t length) {
    for (uint64_t i = hash_bytes(bytes, length) & t->mask;; i = (i + 1) & t->mask) {
        const int32_t id = t->slots[i];
        if (id < 0) return -1;
        if (t->pieces[id].length == length && !memcmp(t->pieces[id].bytes, bytes, (size_t)length)) return id;
    }
}

/* Fills the hash table, which is at most half full, so that a search ends at a free slot soon. */
int tokenizer_index(tokenizer *t, int32_t first_id) {
    uint64_t room = 16;
    while (room < 2 * (uint64_t)t->size) room *= 2;
    t->slots = malloc(room * sizeof *t->slots);
    if (!t->slots) return -1;
    t->mask = room - 1;
    memset(t->slots, -1, room * sizeof *t->slots);
    /* 1. the pieces; of equal ones the first counts */
    for (int32_t id = first_id; id < t->size; id++) {
        const tokenizer_entry *p = &t->pieces[id];
        if (!p->bytes || tokenizer_find(t, p->bytes, p->length) >= 0) continue;
        uint64_t i = hash_bytes(p->bytes, p->length) & t->mask;
        while (t->slots[i] >= 0) i = (i + 1) & t->mask;
        t->slots[i] = id;
    }
    /* 2. byte pieces stand at consecutive ids from `<0x00>` on, or the file has none */
    t->first_byte = -1;
    const int32_t first = tokenizer_find(t, "<0x00>", 6);
    if (first < 0 || first > t->size - 256) return 0;
    for (int32_t b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        const tokenizer_entry *p = &t->pieces[first + b];
        if (p->length != 6 || memcmp(p->bytes, name, 6)) return 0;
    }
    t->first_byte = first;
    return 0;
}

int tokenizer_set(tokenizer *t, int32_t id, float score, const char *bytes, int32_t length) {
    char *copy = malloc((size_t)length + 1);
    if (!copy) return -1;
    memcpy(copy, bytes, (size_t)length);
    copy[length] = 0;
    t->pieces[id] = (tokenizer_entry){.bytes = copy, .length = length, .score = score};
    return 0;
}

void tokenizer_destroy(tokenizer *t) {
    if (!t) return;
    for (int32_t i = 0; i < t->size && t->pieces; i++) free(t->pieces[i].bytes);
    free(t->pieces);
    free(t->slots);
    tokenizer_json_destroy(t->json);
    free(t);
}

/* ---- file ---- */

/* Of tokenizer.model (SentencePiece, tiktoken), vocab.json with merges.txt, tekken.json. */
static const char of_other_files[] =
    "; of other files transformers makes a tokenizer.json: AutoTokenizer, save_pretrained";

/* Numbers in the file are little-endian, whatever the machine. */
static uint32_t get_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Reads pieces until the end of the data: u32 longest piece, then for each a float score, a u32 length and the bytes.
 * Every length is checked against what is left before it is used. message gets what is wrong. */
static int parse_pieces(tokenizer *t, const unsigned char *data, int64_t size, char *message, size_t message_size) {
    int64_t room = 0, at = 4;
    const uint32_t longest = size >= 4 ? get_u32(data) : 0;
    if (size < 4) return message_fail(message, message_size, "ends inside its header");
    if (longest < 1 || longest > PIECE_MOST) {
        return message_fail(message, message_size, "longest piece is said to have %" PRIu32 " bytes%s", longest,
                            longest > PIECE_MOST ? of_other_files : "");
    }
    for (; at < size && t->size < SIZE_MOST; at += 8 + t->pieces[t->size - 1].length) {
        if (size - at < 8) return message_fail(message, message_size, "ends inside piece %" PRId32, t->size);
        const uint32_t bits = get_u32(data + at), length = get_u32(data + at + 4);
        float score;
        memcpy(&score, &bits, sizeof score);
        if (length > longest || !isfinite(score)) {
            snprintf(message, message_size, "piece %" PRId32 " has a length of %" PRIu32 " and a score of %g", t->size,
                     length, (double)score);
            return -1;
        }
        if (size - at - 8 < length) return message_fail(message, message_size, "ends inside piece %" PRId32, t->size);
        if (t->size == room) {
            room = room ? 2 * room : 1024;
            tokenizer_entry *pieces = realloc(t->pieces, (size_t)room * sizeof *pieces);
            if (!pieces) return message_fail(message, message_size, "out of memory");
            t->pieces = pieces;
        }
        if (tokenizer_set(t, t->size, score, (const char *)data + at + 8, (int32_t)length))
            return message_fail(message, message_size, "out of memory");
        t->size++;
    }
    if (at < size) return message_fail(message, message_size, "has more than %d pieces", SIZE_MOST);
    if (t->size < 4) return message_fail(message, message_size, "has only %" PRId32 " pieces", t->size);
    return 0;
}

/* The tokenizer of a folder, as Hugging Face calls it or as the demonstration does; NULL with a reason in what. */
static char *file_in_folder(const char *folder, char *what, size_t what_size) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.bin"};
    struct stat found;
    char *path = malloc(strlen(folder) + 32);
    for (int i = 0; path && i < 2; i++) {
        snprintf(path, strlen(folder) + 32, "%s/%s", folder, names[i]);
        if (stat(path, &found) == 0) return path;
    }
    snprintf(what, what_size, "%s%s",
             path ? "neither tokenizer.json nor tokenizer.bin is in this folder" : "out of memory",
             path ? of_other_files : "");
    free(path);
    return NULL;
}

/* What transformers reads beside tokenizer.json, where the folder has it. */
static int check_beside(const tokenizer *t, const char *folder, char *what, size_t what_size) {
    char *path = malloc(strlen(folder) + 32), said[256];
    struct stat about;
    size_t size;
    if (!path) return message_fail(what, what_size, "out of memory");
    sprintf(path, "%s/tokenizer_config.json", folder);
    const int found = stat(path, &about) == 0;
    char *data = found ? file_read(path, &size, what, what_size) : NULL;
    free(path);
    if (!data) return found ? -1 : 0;
    const int failed = tokenizer_json_check_config(t, data, size, said, sizeof said);
    free(data);
    return failed ? message_fail(what, what_size, "tokenizer_config.json: %s", said) : 0;
}

/* The file is read whole, then taken apart; nothing of it is kept but the pieces. */
int tokenizer_load(tokenizer **out, const char *path, char *message, size_t message_size) {
    char what[400] = "out of memory";
    tokenizer *t = NULL;
    size_t size = 0;
    struct stat about;
    *out = NULL;
    const int is_folder = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    char *inside = is_folder ? file_in_folder(path, what, sizeof what) : NULL;
    if (is_folder && !inside) {
        snprintf(message, message_size, "%s: %s", path, what);
        return -1;
    }
    char *data = file_read(inside ? inside : path, &size, message, message_size);
    if (!data) {
        free(inside);
        return -1;
    }
    if (size >= SIZE_BYTES_MOST) {
        snprintf(what, sizeof what, "larger than 1 GiB");
    } else if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        snprintf(what, sizeof what, "a GGUF file; the tokenizer.json of its model is needed");
    } else if ((t = calloc(1, sizeof *t)) == NULL) {
        snprintf(what, sizeof what, "out of memory");
    } else if (size > 0 && data[0] == '{') { /* no .bin file: its longest piece would have 123 bytes and more */
        if (tokenizer_json_read(t, data, size, what, sizeof what) == 0) *out = t;
    } else if (parse_pieces(t, (const unsigned char *)data, (long)size, what, sizeof what) == 0) {
        if (tokenizer_index(t, 3) == 0) /* the special ones are never made from text */
            *out = t;
        else
            snprintf(what, sizeof what, "out of memory");
    }
    if (*out) t->content = salf_hash(0, data, size);
    free(data);
    if (*out && t->json && inside && check_beside(t, path, what, sizeof what)) *out = NULL;
    if (!*out) snprintf(message, message_size, "%s: %s", inside ? inside : path, what);
    free(inside);
    if (!*out) tokenizer_destroy(t);
    return *out ? 0 : -1;
}

/* ---- look-up ---- */

int32_t tokenizer_size(const tokenizer *t) {
    return t->size;
}

uint64_t tokenizer_content(const tokenizer *t) {
    return t->content;
}

int tokenizer_is_json(const tokenizer *t) {
    return t->json != NULL;
}

const char *tokenizer_piece(const tokenizer *t, int32_t id, int32_t *length) {
    if (id < 0 || id >= t->size) return NULL;
    if (length) *length = t->pieces[id].length;
    return t->pieces[id].bytes;
}

/* ---- encoding ---- */

int32_t tokenizer_character_length(const char *s) {
    const unsigned char *u = (const unsigned char *)s;
    int32_t n = 1;
    if (u[0] < 0x80) return 1;
    while (n < 4 && (u[n] & 0xC0) == 0x80) n++;
    return n;
}

/* Ids of the characters of a text behind one space, as models of this family expect it. A character that is no piece
 * becomes its bytes, or where there are no byte pieces one TOKEN_UNKNOWN for a whole run of such characters. */
static int64_t split_characters(const tokenizer *t, const char *text, int32_t *ids) {
    int64_t n = 0;
    int after_unknown = 0;
    const char *space = " ";
    for (const char *s = space; *s; s = s == space ? text : s + tokenizer_character_length(s)) {
        const int32_t length = tokenizer_character_length(s);
        const int32_t id = tokenizer_find(t, s, length);
        if (id >= 0) {
            ids[n++] = id;
        } else if (t->first_byte >= 0) {
            for (int32_t b = 0; b < length; b++) ids[n++] = t->first_byte + (unsigned char)s[b];
        } else if (!after_unknown) {
            ids[n++] = TOKEN_UNKNOWN;
        }
        after_unknown = id < 0 && t->first_byte < 0;
    }
    return n;
}

/* The piece that ids a and b make together, or -1. What is unknown joins nothing. */
static int32_t joined_piece(const tokenizer *t, int32_t a, int32_t b, char *scratch) {
    if (a == TOKEN_UNKNOWN || b == TOKEN_UNKNOWN) return -1;
    const tokenizer_entry *p = &t->pieces[a], *q = &t->pieces[b];
    memcpy(scratch, p->bytes, (size_t)p->length);
    memcpy(scratch + p->length, q->bytes, (size_t)q->length);
    return tokenizer_find(t, scratch, p->length + q->length);
}

/* Byte-pair encoding: the neighbours whose piece has the highest score are joined, the leftmost of equals, until
 * none make a piece. After a merge only the two pairs at its sides are looked up again. ids [n]; joined [n]: piece
 * of (i, i+1) or -1. Returns how many are left. */
static int64_t merge_pairs(const tokenizer *t, int32_t *ids, int32_t *joined, int64_t n, char *scratch) {
    for (int64_t i = 0; i + 1 < n; i++) joined[i] = joined_piece(t, ids[i], ids[i + 1], scratch);
    for (;;) {
        int64_t best = -1;
        for (int64_t i = 0; i + 1 < n; i++) {
            if (joined[i] < 0) continue;
            if (best < 0 || t->pieces[joined[i]].score > t->pieces[joined[best]].score) best = i;
        }
        if (best < 0) return n;
        ids[best] = joined[best];
        const size_t rest = (size_t)(n - best - 2);
        memmove(ids + best + 1, ids + best + 2, rest * sizeof *ids);
        if (rest) memmove(joined + best + 1, joined + best + 2, (rest - 1) * sizeof *joined);
        n--;
        if (best > 0) joined[best - 1] = joined_piece(t, ids[best - 1], ids[best], scratch);
        if (best + 1 < n) joined[best] = joined_piece(t, ids[best], ids[best + 1], scratch);
    }
}

/* Of a .bin file. The empty text is the start token alone. ids: room for strlen(text) + 2, always enough. */
static int64_t encode_pieces(const tokenizer *t, const char *text, int32_t *ids) {
    ids[0] = TOKEN_START;
    if (!*text) return 1;
    const int64_t n = split_characters(t, text, ids + 1);
    /* No piece that is made has more bytes than all of these together, or than the longest that there is. */
    int64_t total = 0;
    int32_t longest = 0;
    for (int64_t i = 1; i <= n; i++) total += t->pieces[ids[i]].length;
    for (int32_t i = 0; i < t->size; i++)
        if (t->pieces[i].length > longest) longest = t->pieces[i].length;
    if (total < longest) longest = (int32_t)total;
    int32_t *joined = malloc((size_t)n * sizeof *joined);
    char *scratch = malloc(2 * (size_t)longest + 1);
    const int64_t left = joined && scratch ? merge_pairs(t, ids + 1, joined, n, scratch) + 1 : -1;
    free(joined);
    free(scratch);
    return left;
}

int32_t *tokenizer_encode_new(const tokenizer *t, const char *text, int64_t *n) {
    if (t->json) {
        id_list list = {0};
        list.ids = malloc(sizeof *list.ids); /* no ids are a list, too */
        list.room = list.ids ? 1 : 0;
        if (list.ids && tokenizer_json_encode(t, text, strlen(text), false, &list) == 0) {
            *n = list.n;
            return list.ids;
        }
        free(list.ids);
        return NULL;
    }
    int32_t *ids = malloc((strlen(text) + 2) * sizeof *ids);
    *n = ids ? encode_pieces(t, text, ids) : -1;
    if (*n >= 0) return ids;
    free(ids);
    return NULL;
}

int32_t *tokenizer_prompt_new(const tokenizer *t, const char *text, int64_t *n) {
    int32_t *ids = tokenizer_encode_new(t, text, n);
    if (ids && t->json) *n -= t->json->n_behind;
    return ids;
}

/* Whether a piece is nothing but a space, as it is, as a sign for it, or as a visible byte. */
static bool is_lone_space(const tokenizer *t, int32_t id) {
    static const char *const spaces[] = {" ", "\xE2\x96\x81", "\xC4\xA0"}; /* U+2581, U+0120 */
    for (int i = 0; i < (t->json ? 3 : 1); i++)
        if (t->pieces[id].bytes && strcmp(t->pieces[id].bytes, spaces[i]) == 0) return true;
    return false;
}

int32_t tokenizer_id_behind(const tokenizer *t, const char *prompt, const char *word) {
    const size_t length = strlen(prompt);
    text_buffer text = {0};
    int64_t n, n_whole = 0;
    text_append(&text, prompt, length);
    if (length == 0 || prompt[length - 1] != ' ') text_append(&text, " ", 1);
    text_append(&text, word, strlen(word));
    int32_t *ids = tokenizer_prompt_new(t, prompt, &n);
    int32_t *whole = ids && !text.failed ? tokenizer_prompt_new(t, text.bytes, &n_whole) : NULL;
    int32_t id = whole ? TOKEN_NONE : TOKEN_NO_MEMORY;
    if (whole && n < n_whole && memcmp(ids, whole, (size_t)n * sizeof *ids) == 0) {
        if (n + 1 < n_whole && is_lone_space(t, whole[n])) n++;
        if (whole[n] != (t->json ? t->json->model.unknown : TOKEN_UNKNOWN)) id = whole[n];
    }
    free(text.bytes);
    free(ids);
    free(whole);
    return id;
}

int32_t tokenizer_first_id(const tokenizer *t, const char *word) {
    if (t->json) {
        /* Where pieces end in spaces, the ids of "a" do not begin those of "a word", but those of "a " do. */
        const int32_t id = tokenizer_id_behind(t, "a", word);
        return id == TOKEN_NONE ? tokenizer_id_behind(t, "a ", word) : id;
    }
    int64_t n;
    int32_t *ids = tokenizer_encode_new(t, word, &n);
    const int behind_space = ids && n > 2 && is_lone_space(t, ids[1]);
    int32_t id = !ids ? TOKEN_NO_MEMORY : n > 1 ? ids[1 + behind_space] : TOKEN_UNKNOWN;
    if (id == TOKEN_UNKNOWN) id = TOKEN_NONE;
    free(ids);
    return id;
}
