/* tokenizer_internal.h - what reading, encoding and training of tokenizers share. */
#ifndef SALF_EXAMPLE_TOKENIZER_INTERNAL_H
#define SALF_EXAMPLE_TOKENIZER_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "tokenizer.h"
#include "tokenizer_regex.h"
#include "tokenizer_unicode.h"

typedef struct tokenizer_entry {
    char *bytes; /* [length], and a 0 behind; NULL: no piece has this id */
    int32_t length;
    float score;
} tokenizer_entry;

struct tokenizer {
    int32_t size;
    int32_t first_byte; /* id of <0x00>; -1: no byte pieces */
    tokenizer_entry *pieces;
    int32_t *slots; /* [mask + 1] open addressing: id or -1 */
    uint64_t mask;
    struct tokenizer_json *json; /* NULL: of a .bin file */
    uint64_t content;            /* hash of its file */
};

/* Id of a piece, or -1. */
int32_t tokenizer_find(const tokenizer *t, const char *bytes, int32_t length);
/* Builds the hash of pieces `first` and up once all are set. Returns 0, or -1 when memory is short. */
int tokenizer_index(tokenizer *t, int32_t first);
/* Sets piece id, which has room in t->pieces. Returns 0, or -1 when memory is short. */
int tokenizer_set(tokenizer *t, int32_t id, float score, const char *bytes, int32_t length);
/* Bytes of the character at s: 1 ... 4; a byte that begins none is taken alone with its followers. */
int32_t tokenizer_character_length(const char *s);

/* ---- tokenizer.json ---- */

/* Ids that grow as they are needed. failed: memory ran out. */
typedef struct id_list {
    int32_t *ids;
    int64_t n, room;
    bool failed;
} id_list;
void id_list_add(id_list *list, int32_t id);

/* ---- tokenizer_bpe.c: from a word to ids ---- */

/* Of a pair of neighbours: in which order it is joined, and into what. */
typedef struct bpe_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: a free place */
    int32_t rank, id;
} bpe_merge;

typedef struct bpe_model {
    bpe_merge *merges; /* [mask + 1] open addressing */
    uint64_t mask;
    bool ignore_merges; /* a word that is a piece is that piece */
    bool byte_fallback; /* a character that is no piece becomes its bytes, where all of them are pieces */
    bool fuse_unknown;  /* a run of unknown characters is one piece */
    int32_t unknown;    /* -1: unknown characters vanish */
    int32_t bytes[256]; /* ids of <0x00> ...; -1: none */
} bpe_model;

/* Memory of a call that is used for one word after another; free_scratch ends it. */
typedef struct bpe_scratch {
    int32_t *ids, *next, *before; /* [room] */
    int64_t room;
    struct bpe_candidate *heap;
    int64_t heap_n, heap_room;
} bpe_scratch;
void bpe_free_scratch(bpe_scratch *scratch);

/* Room for n merges. Returns 0, or -1 when memory is short. */
int bpe_make_room(bpe_model *m, int64_t n);
/* Of equal pairs the last one set counts. */
void bpe_set_merge(bpe_model *m, int32_t left, int32_t right, int32_t rank, int32_t id);
/* Appends the ids of a word of valid UTF-8. */
void bpe_encode(const tokenizer *t, const bpe_model *m, const char *word, size_t n, bpe_scratch *scratch, id_list *out);

/* ---- tokenizer_json.c: the file; tokenizer_steps.c: encoding ---- */

enum { STEP_COMPOSE, STEP_PREPEND, STEP_REPLACE }; /* of normalising */
enum { STEP_BYTES, STEP_SPLIT, STEP_DIGITS, STEP_METASPACE };
/* What happens to the matches of a split. */
enum { KEEP_ISOLATED, KEEP_NONE, KEEP_ONLY, KEEP_JOINED, KEEP_WITH_BEFORE, KEEP_WITH_NEXT };
enum { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS };

typedef struct tokenizer_step {
    int kind;
    char *from, *to; /* PREPEND: to. REPLACE: both. SPLIT by a text: from. METASPACE: to, the sign for a space */
    regex *pattern;  /* SPLIT, BYTES; NULL: none */
    int matches;     /* KEEP_* of SPLIT; of DIGITS ISOLATED or JOINED; of METASPACE NONE where it does not split */
    int prefix;      /* PREFIX_* of METASPACE and BYTES */
} tokenizer_step;

enum { STEPS_MOST = 12, TEMPLATE_MOST = 16 };

typedef struct added_token {
    int32_t id;
    bool single_word, takes_left, takes_right, normalized;
} added_token;

/* Tokens that are found in text as they stand, as a tree of bytes: children are a list of siblings. */
typedef struct token_tree {
    struct token_node {
        int32_t child, sibling, token; /* token: number of an added token; -1: none ends here */
        unsigned char byte;
    } * nodes; /* [n]; node 0 is the root */
    int32_t n, room;
} token_tree;

typedef struct tokenizer_json {
    tokenizer_step normal[STEPS_MOST], split[STEPS_MOST];
    int n_normal, n_split;
    added_token *added; /* [n_added] */
    int32_t n_added;
    token_tree contents;        /* of all, as they stand in the file */
    token_tree raw, normalized; /* those that are found before and after normalising */
    bpe_model model;
    int32_t before[TEMPLATE_MOST], behind[TEMPLATE_MOST]; /* ids around every text */
    int n_before, n_behind;
} tokenizer_json;

/* Reads the text [n] of a tokenizer.json into t, which is zeroed. Returns 0, or -1 with a message without the path; t
 * is to be destroyed in both cases. */
int tokenizer_json_read(tokenizer *t, const char *text, size_t n, char *message, size_t message_size);
/* Whether the text [n] of the tokenizer_config.json beside it wants ids that t gives: tokens and spaces around texts,
 * and the added tokens. Returns 0, or -1 with a message without the path. */
int tokenizer_json_check_config(const tokenizer *t, const char *text, size_t n, char *message, size_t message_size);
void tokenizer_json_destroy(tokenizer_json *json);
/* Ids of a text, without those around it when bare. Returns 0, or -1: memory is short, or a pattern takes too long. */
int tokenizer_json_encode(const tokenizer *t, const char *text, size_t n, bool bare, id_list *out);
/* What normalising makes of a text. */
void tokenizer_normalise(const tokenizer_json *json, const char *text, size_t n, text_buffer *out);

#endif
