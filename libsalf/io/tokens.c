/*
 * tokens.c - how many tokens the tokenizer beside a checkpoint has: the largest id of model.vocab and added_tokens in
 * tokenizer.json, plus one. Heads are padded beyond that, to a multiple that machines like.
 *
 * Such a file has up to 40 MB, most of it merges that are of no interest here; so it is not parsed but walked through:
 * one pass over its bytes that knows strings, brackets, and the keys on the way to where it is. Cost: O(bytes), no
 * memory.
 */
#include <inttypes.h>
#include <string.h>

#include "io.h"

enum { DEEPEST = 64, MOST_TOKENS = INT32_MAX };

/* Of the brackets that are open: the key whose value they are (its text in the file, with quotes), and their kind. */
typedef struct {
    const char *key[DEEPEST];
    size_t length[DEEPEST];
    bool object[DEEPEST];
    int32_t depth; /* of open brackets; [depth] is the key that was read last in the innermost */
} json_place;

static bool key_is(const json_place *place, int32_t depth, const char *quoted) {
    return place->length[depth] == strlen(quoted) && memcmp(place->key[depth], quoted, place->length[depth]) == 0;
}

/* The walk. Depth 1 is the file's object, 2 and 3 are "model" and "vocab": an object {piece: id}, or the list
 * [piece, score] of a unigram model, whose ids count from 0. In "added_tokens" each token is an object with its "id".
 * Where brackets and strings do not end as they should, the file is not believed at all. */
salf_status slf_tokens_count_in(int64_t *out, const void *bytes, uint64_t size, const char *path) {
    const char *p = bytes, *end = p + size, *kind = slf_file_kind(bytes, size);
    int64_t most = -1, pieces = 0;
    if (kind) return slf_fail(SALF_E_UNSUPPORTED, "%s: %s", path, kind);
    json_place at = {.depth = 0};
    while (p < end) {
        const bool vocabulary = at.depth >= 3 && key_is(&at, 1, "\"model\"") && key_is(&at, 2, "\"vocab\"");
        const bool in_vocabulary = at.depth == 3 && at.object[3] && vocabulary;
        const bool in_token = at.depth == 3 && key_is(&at, 1, "\"added_tokens\"") && key_is(&at, 3, "\"id\"");
        if (*p == '"') {
            const char *after = p + 1; /* to the closing quote, and behind it */
            while (after < end && *after != '"') after += *after == '\\' && end - after > 1 ? 2 : 1;
            if (after++ == end) goto broken;
            /* A string before a colon is a key: that of the value which follows at this depth. */
            const char *next = after;
            while (next < end && strchr(" \t\r\n", *next) && *next) next++;
            if (next < end && *next == ':') {
                at.key[at.depth] = p;
                at.length[at.depth] = (size_t)(after - p);
            }
            p = after;
        } else if (*p == '{' || *p == '[') {
            if (vocabulary && at.depth == 3 && !at.object[3] && *p == '[') pieces++;
            if (++at.depth >= DEEPEST) goto broken;
            at.object[at.depth] = *p++ == '{';
            at.length[at.depth] = 0;
        } else if (*p == '}' || *p == ']') {
            if (at.depth == 0 || at.object[at.depth] != (*p++ == '}')) goto broken;
            at.depth--;
        } else if ((in_vocabulary || in_token) && *p >= '0' && *p <= '9') {
            /* Ids are not negative; a piece's score, which may be, is nowhere looked at. There is a byte before, as all
             * of this is in an object. */
            if (p[-1] == '-') goto broken;
            int64_t id = 0;
            while (p < end && *p >= '0' && *p <= '9' && id <= MOST_TOKENS) id = 10 * id + (*p++ - '0');
            if (id > MOST_TOKENS || (p < end && strchr(".eE", *p) && *p)) goto broken;
            most = SLF_MAX(most, id);
        } else {
            p++;
        }
    }
    most = SLF_MAX(most, pieces - 1);
    if (at.depth == 0 && most >= 0) {
        *out = most + 1;
        return SALF_OK;
    }
broken:
    return slf_fail(SALF_E_CORRUPT, "%s: no ids in model.vocab or added_tokens; set valid_vocab, or mend the file",
                    path);
}

/* No tokenizer is no error. */
salf_status slf_tokens_count(int64_t *out, const salf_context *context, const char *folder) {
    slf_map map;
    *out = 0;
    char *path = slf_path_join(context, folder, "tokenizer.json");
    if (!path) return SALF_E_NO_MEMORY;
    salf_status status = SALF_OK;
    if (slf_path_exists(path)) {
        status = slf_map_open(&map, context, path, SLF_SMALL_FILE);
        if (status == SALF_OK) {
            status = slf_tokens_count_in(out, map.bytes, map.size, path);
            slf_map_close(&map);
        }
    }
    slf_free(context, path);
    return status;
}
