/*
 * json_tree.c - values of JSON in memory of a context: look-ups, changes, comparison, text.
 *
 * A library of its own, small as it is, since memory is a context's: JSON libraries take theirs from malloc, by hooks
 * that are the host's if anybody's, and tell a lack of it as bad JSON or end the process.
 */
#include "json.h"

#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "core/fingerprint.h"

/* Up to so many keys are looked through one by one. An index of shards has one a tensor, which takes the table. */
enum { FEW_KEYS = 16, MOST_PROBES = 2000 };

/* ---- life ---- */

/* Zeros are null, 0, or an empty container: whoever makes another value sets what is in it. */
slf_json *slf_json_new(const salf_context *context, int32_t kind) {
    slf_json *json = slf_alloc_zero(context, 1, sizeof *json);
    if (!json) return NULL;
    json->context = context;
    json->kind = kind;
    json->references = 1;
    return json;
}

slf_json *slf_json_integer(const salf_context *context, int64_t value) {
    slf_json *json = slf_json_new(context, SLF_JSON_INTEGER);
    if (json) json->integer = value;
    return json;
}

/* A copy, since the text of a file goes away with its mapping. */
slf_json *slf_json_text(const salf_context *context, const char *text, int64_t length) {
    const size_t n = length < 0 ? strlen(text) : (size_t)length;
    slf_json *json = slf_json_new(context, SLF_JSON_STRING);
    if (!json) return NULL;
    json->text = slf_alloc(context, n + 1, 1);
    if (!json->text) {
        slf_free(context, json);
        return NULL;
    }
    memcpy(json->text, text, n);
    json->text[n] = 0;
    return json;
}

/* As deep as values are nested, which the parser bounds. */
void slf_json_release(slf_json *json) {
    if (!json || --json->references > 0) return;
    for (int64_t i = 0; i < json->n; i++) {
        slf_json_release(json->items[i]);
        if (json->keys) slf_free(json->context, json->keys[i]);
    }
    if (json->kind == SLF_JSON_STRING) slf_free(json->context, json->text);
    SLF_FREE(json->context, json->items, json->keys, json->table, json);
}

/* ---- objects ---- */

/* FNV-1a, its halves mixed. */
static uint64_t hash_key(const char *key) {
    const uint64_t hash = slf_fnv1a(SLF_FNV_BEGIN, key, strlen(key));
    return hash ^ hash >> 32;
}

/* Where a key stands in an object, -1 for nowhere. The table has twice the room of the keys, a power of two, so that a
 * free place ends every search. */
static int64_t place_of(const slf_json *json, const char *key) {
    if (!json->table) {
        for (int64_t i = 0; i < json->n; i++)
            if (strcmp(json->keys[i], key) == 0) return i;
        return -1;
    }
    const uint64_t mask = 2 * (uint64_t)json->room - 1;
    for (uint64_t at = hash_key(key) & mask; json->table[at] != 0; at = (at + 1) & mask)
        if (strcmp(json->keys[json->table[at] - 1], key) == 0) return json->table[at] - 1;
    return -1;
}

/* Item i of an object into its table, if it has one. Half of the table is free, so that millions of keys lie within
 * some tens of places of where they belong; a file whose keys do not has been made for that, to take hours. */
static salf_status enter_key(slf_json *json, int64_t i) {
    if (!json->table) return SALF_OK;
    const uint64_t mask = 2 * (uint64_t)json->room - 1, begin = hash_key(json->keys[i]);
    for (uint64_t probe = 0; probe < MOST_PROBES; probe++) {
        uint32_t *const entry = &json->table[(begin + probe) & mask];
        if (*entry != 0) continue;
        *entry = (uint32_t)i + 1;
        return SALF_OK;
    }
    return slf_fail(SALF_E_CORRUPT, "keys of a JSON object are chosen so that looking them up takes long");
}

/* Room for one item more, twice as many at a time, so that n items are moved 2 n times at most. What there is stays as
 * it is when there is no memory. */
static salf_status make_room(slf_json *json) {
    if (json->n < json->room) return SALF_OK;
    const int64_t room = SLF_MAX(2 * json->room, 4);
    slf_json **items = slf_alloc(json->context, (uint64_t)room, sizeof *items);
    const bool object = json->kind == SLF_JSON_OBJECT, tabled = object && room > FEW_KEYS;
    char **keys = object ? slf_alloc(json->context, (uint64_t)room, sizeof *keys) : NULL;
    uint32_t *table = tabled ? slf_alloc_zero(json->context, 2 * (uint64_t)room, sizeof *table) : NULL;
    if (!items || (object && !keys) || (tabled && !table)) {
        SLF_FREE(json->context, items, keys, table);
        return SALF_E_NO_MEMORY;
    }
    if (json->n > 0) memcpy(items, json->items, (size_t)json->n * sizeof *items);
    if (json->n > 0 && object) memcpy(keys, json->keys, (size_t)json->n * sizeof *keys);
    SLF_FREE(json->context, json->items, json->keys, json->table);
    json->items = items;
    json->keys = keys;
    json->table = table;
    json->room = room;
    for (int64_t i = 0; i < json->n; i++) SLF_TRY(enter_key(json, i));
    return SALF_OK;
}

/* An object that has failed for want of order in its keys is good for nothing but release. */
salf_status slf_json_put(slf_json *json, const char *key, slf_json *value) {
    if (!value) return SALF_E_NO_MEMORY;
    /* a key that is there keeps its place among the others */
    const int64_t at = key ? place_of(json, key) : -1;
    if (at >= 0) {
        slf_json_release(json->items[at]);
        json->items[at] = value;
        return SALF_OK;
    }
    /* all that can fail comes before the item counts, but for the table, whose failure is that of the whole */
    char *own = NULL;
    salf_status status = make_room(json);
    if (status == SALF_OK && key && !(own = slf_strdup(json->context, key))) status = SALF_E_NO_MEMORY;
    if (status != SALF_OK) {
        slf_json_release(value);
        return status;
    }
    json->items[json->n] = value;
    if (key) json->keys[json->n] = own;
    json->n++;
    return key ? enter_key(json, json->n - 1) : SALF_OK;
}

/* Values are shared, not copied: they are never changed once they are in a container. */
salf_status slf_json_update(slf_json *json, const slf_json *from) {
    for (int64_t i = 0; i < slf_json_size(from); i++) {
        from->items[i]->references++;
        SLF_TRY(slf_json_put(json, from->keys ? from->keys[i] : NULL, from->items[i]));
    }
    return SALF_OK;
}

/* A shallow one: of a configuration whose keys are crossed off as they are read. */
slf_json *slf_json_copy(const slf_json *json) {
    slf_json *copy = slf_json_new(json->context, json->kind);
    if (!copy || slf_json_update(copy, json) == SALF_OK) return copy;
    slf_json_release(copy);
    return NULL;
}

/* Of configurations, which are small: the items behind move up, and the table is made anew. */
void slf_json_remove(slf_json *json, const char *key) {
    const int64_t at = json ? place_of(json, key) : -1;
    if (at < 0) return;
    slf_json_release(json->items[at]);
    slf_free(json->context, json->keys[at]);
    json->n--;
    memmove(json->items + at, json->items + at + 1, (size_t)(json->n - at) * sizeof *json->items);
    memmove(json->keys + at, json->keys + at + 1, (size_t)(json->n - at) * sizeof *json->keys);
    if (json->table) memset(json->table, 0, 2 * (size_t)json->room * sizeof *json->table);
    for (int64_t i = 0; i < json->n; i++) (void)enter_key(json, i); /* fewer than fitted before */
}

/* ---- look-ups ---- */

/* None of these fails: a file that lacks a key, or has something else there, gives NULL or 0, and the reader who needed
 * it says which key that was. */
bool slf_json_is(const slf_json *json, int32_t kind) {
    return json && json->kind == kind;
}

bool slf_json_is_flag(const slf_json *json) {
    return slf_json_is(json, SLF_JSON_TRUE) || slf_json_is(json, SLF_JSON_FALSE);
}

bool slf_json_is_number(const slf_json *json) {
    return slf_json_is(json, SLF_JSON_INTEGER) || slf_json_is(json, SLF_JSON_REAL);
}

/* A key or an index, of values of other kinds NULL: what is looked for in it is not there. */
slf_json *slf_json_get(const slf_json *json, const char *key) {
    const int64_t at = slf_json_is(json, SLF_JSON_OBJECT) ? place_of(json, key) : -1;
    return at >= 0 ? json->items[at] : NULL;
}

slf_json *slf_json_at(const slf_json *json, int64_t i) {
    return slf_json_is(json, SLF_JSON_ARRAY) && i >= 0 && i < json->n ? json->items[i] : NULL;
}

int64_t slf_json_size(const slf_json *json) {
    return json ? json->n : 0; /* of what is no container, too */
}

/* A real is no integer, even where it has no fraction: who takes 64.0 for a size asks for the number. */
int64_t slf_json_to_integer(const slf_json *json) {
    return slf_json_is(json, SLF_JSON_INTEGER) ? json->integer : 0;
}

double slf_json_to_number(const slf_json *json) {
    return slf_json_is(json, SLF_JSON_REAL) ? json->real : (double)slf_json_to_integer(json);
}

const char *slf_json_to_text(const slf_json *json) {
    return slf_json_is(json, SLF_JSON_STRING) ? json->text : NULL;
}

/* As deep as values are nested. With as many keys on both sides, each of a's found in b is all there is. */
bool slf_json_equal(const slf_json *a, const slf_json *b) {
    if (!a || !b || a->kind != b->kind || a->n != b->n) return false;
    if (a->kind == SLF_JSON_INTEGER) return a->integer == b->integer;
    if (a->kind == SLF_JSON_REAL) return !(a->real < b->real || a->real > b->real);
    if (a->kind == SLF_JSON_STRING) return strcmp(a->text, b->text) == 0;
    for (int64_t i = 0; i < a->n; i++) {
        const slf_json *other = a->keys ? slf_json_get(b, a->keys[i]) : b->items[i];
        if (!slf_json_equal(a->items[i], other)) return false;
    }
    return true;
}

/* ---- text ---- */

/* What is written so far; beyond size only counted. */
typedef struct {
    char *text;
    size_t size, length;
} json_writer;

/* So one function both measures and writes, as a header's length stands before it in its file. */
static void write_bytes(json_writer *w, const char *bytes, size_t n) {
    if (w->length < w->size) memcpy(w->text + w->length, bytes, SLF_MIN(n, w->size - w->length));
    w->length += n;
}

/* In quotes. Control characters have short names or numbers; all else stands as it is, as the text is UTF-8. */
static void write_string(json_writer *w, const char *text) {
    static const char named[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    write_bytes(w, "\"", 1);
    for (const char *c = text; *c; c++) {
        const char *found = strchr(named, *c);
        char escape[8] = {'\\', found ? names[found - named] : 0};
        if (found)
            write_bytes(w, escape, 2);
        else if ((unsigned char)*c < 0x20)
            write_bytes(w, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04X", (unsigned)(unsigned char)*c));
        else
            write_bytes(w, c, 1);
    }
    write_bytes(w, "\"", 1);
}

/* One line without spaces. What is written is read again as the same value: integers as such, reals with a point or an
 * exponent. */
static void write_value(json_writer *w, const slf_json *json) {
    static const char *const words[] = {"null", "false", "true"};
    char number[40];
    if (json->kind <= SLF_JSON_TRUE) {
        write_bytes(w, words[json->kind], strlen(words[json->kind]));
    } else if (json->kind == SLF_JSON_INTEGER) {
        write_bytes(w, number, (size_t)snprintf(number, sizeof number, "%" PRId64, json->integer));
    } else if (json->kind == SLF_JSON_REAL) {
        /* 17 digits give the same number back; the host's locale may have another point */
        snprintf(number, sizeof number - 2, "%.17g", json->real);
        const char *theirs = localeconv()->decimal_point;
        char *point = strstr(number, theirs);
        if (point) memmove(point + 1, point + strlen(theirs), strlen(point + strlen(theirs)) + 1);
        if (point) *point = '.';
        if (!strpbrk(number, ".eni")) strcat(number, ".0"); /* not of infinity and NaN */
        write_bytes(w, number, strlen(number));
    } else if (json->kind == SLF_JSON_STRING) {
        write_string(w, json->text);
    } else {
        write_bytes(w, json->keys || json->kind == SLF_JSON_OBJECT ? "{" : "[", 1);
        for (int64_t i = 0; i < json->n; i++) {
            if (i > 0) write_bytes(w, ",", 1);
            if (json->keys) {
                write_string(w, json->keys[i]);
                write_bytes(w, ":", 1);
            }
            write_value(w, json->items[i]);
        }
        write_bytes(w, json->kind == SLF_JSON_OBJECT ? "}" : "]", 1);
    }
}

size_t slf_json_write(const slf_json *json, char *text, size_t size) {
    json_writer w = {text, size, 0};
    write_value(&w, json);
    return w.length;
}
