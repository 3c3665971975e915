/* json.h - JSON: a tree of values in memory of a context, its reader and its writer. Not installed. */
#ifndef SALF_JSON_H
#define SALF_JSON_H

#include "core/core.h"

enum { SLF_JSON_NULL, SLF_JSON_FALSE, SLF_JSON_TRUE, SLF_JSON_INTEGER, SLF_JSON_REAL, SLF_JSON_STRING };
enum { SLF_JSON_ARRAY = SLF_JSON_STRING + 1, SLF_JSON_OBJECT };

/* A value. Containers count as one more reference to what they hold. */
typedef struct slf_json {
    const salf_context *context; /* whose memory it is */
    int32_t kind;                /* SLF_JSON_* */
    int32_t references;
    int64_t n, room;         /* of items */
    struct slf_json **items; /* in their order */
    char **keys;             /* of an object, beside the items */
    uint32_t *table;         /* of an object: 1 + place of a key, from its hash on; NULL for a few keys */
    union {
        int64_t integer;
        double real;
        char *text; /* UTF-8 without NUL inside */
    };
} slf_json;

/* ---- json_tree.c ---- */

/* What returns a value gives one to be released, and NULL with the message set when there is no memory. Anything may be
 * NULL here, and is then a value of no kind, without items: so look-ups can be chained. */
slf_json *slf_json_new(const salf_context *context, int32_t kind);
slf_json *slf_json_integer(const salf_context *context, int64_t value);
/* length bytes of text, or all up to its end where that is negative. */
slf_json *slf_json_text(const salf_context *context, const char *text, int64_t length);
void slf_json_release(slf_json *json);
/* Puts value behind the items of an array (key NULL) or at a key of an object, where it replaces what is there. Takes
 * value over in every case, also NULL, which is SALF_E_NO_MEMORY: so what returns a value can be nested in this. */
salf_status slf_json_put(slf_json *json, const char *key, slf_json *value);
/* Another container of the same items; those of from on top of what there is; one key less. */
slf_json *slf_json_copy(const slf_json *json);
salf_status slf_json_update(slf_json *json, const slf_json *from);
void slf_json_remove(slf_json *json, const char *key);

/* All below are borrowed. */
slf_json *slf_json_get(const slf_json *json, const char *key);
slf_json *slf_json_at(const slf_json *json, int64_t i);
int64_t slf_json_size(const slf_json *json);
bool slf_json_is(const slf_json *json, int32_t kind);
bool slf_json_is_flag(const slf_json *json);       /* true or false */
bool slf_json_is_number(const slf_json *json);     /* integer or real */
int64_t slf_json_to_integer(const slf_json *json); /* 0 for what is none */
double slf_json_to_number(const slf_json *json);
const char *slf_json_to_text(const slf_json *json); /* NULL for what is none */
/* An integer and a real are never equal; keys have no order. */
bool slf_json_equal(const slf_json *a, const slf_json *b);
/* Without spaces, keys in their order; up to size bytes, no NUL behind. The length of the whole. */
size_t slf_json_write(const slf_json *json, char *text, size_t size);

/* name and value of each item of an object, in order. */
#define SLF_JSON_EACH(json, name, value)        SLF_JSON_EACH_(json, name, value, __LINE__)
#define SLF_JSON_EACH_(json, name, value, line) SLF_JSON_EACH_AT_(json, name, value, line)
#define SLF_JSON_EACH_AT_(json, name, value, line)                                             \
    for (int64_t slf_at_##line = 0;                                                            \
         slf_at_##line < slf_json_size(json) &&                                                \
         ((name) = (json)->keys[slf_at_##line], (value) = (json)->items[slf_at_##line], true); \
         slf_at_##line++)

/* ---- json.c ---- */

/* Parses one JSON object; path names the source in messages. unique: a key that stands twice is an error, else the last
 * one counts. SALF_E_CORRUPT, SALF_E_NO_MEMORY. You release it. */
salf_status slf_json_parse(slf_json **out, const salf_context *context, const void *bytes, uint64_t size, bool unique,
                           const char *path);
/* {"key": value, ...} from "key=value key=value ...", the library's own short form; a value is a number, true, false,
 * or else a word, and null where it is left out. *out is NULL, or an object which gets these as well. SALF_E_NO_MEMORY:
 * *out is NULL, and released. You release it. */
salf_status slf_json_words(slf_json **out, const salf_context *context, const char *text);
/* From a file of at most 64 MiB, which may begin with a byte order mark; keys as without unique. */
salf_status slf_json_load(slf_json **out, const salf_context *context, const char *path);
/* Whether JSON can hold the text as a string. */
bool slf_is_utf8(const char *text);

#endif
