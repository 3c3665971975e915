/*
 * json.c - reads JSON as Python writes it: what people have was written there, and nobody can mend a file in the cache
 * of a hub. So NaN, Infinity and numbers beyond float64 are taken, as strings of the same letters, which no reader of
 * numbers accepts; integers beyond 64 bits are reals; NUL characters and halves of characters in strings are U+FFFD.
 * Nesting is bounded, and so is the stack.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

/* A bound against files that are no configuration and no index at all. A configuration has a few kB; an index has some
 * 100 bytes a tensor, so that this one may name 600,000. */
#define LARGEST_FILE SLF_SMALL_FILE

/* Configurations nest five deep. A level takes some 200 bytes of stack. MOST_DIGITS: of a number, its point and all. */
enum { MOST_DEPTH = 64, MOST_DIGITS = 1000 };

typedef struct {
    const salf_context *context;
    const char *begin, *at, *end;
    const char *path; /* for messages; NULL: none wanted */
    bool unique;
    int32_t depth;
} json_reader;

/* ---- characters ---- */

/* The line is that of the file, which people edit by hand. */
static salf_status bad_json(const json_reader *r, const char *what) {
    int64_t line = 1;
    for (const char *c = r->begin; c < r->at; c++) line += *c == '\n';
    if (r->at >= r->end) return slf_fail(SALF_E_CORRUPT, "%s: line %" PRId64 ": %s, but it ends", r->path, line, what);
    return slf_fail(SALF_E_CORRUPT, "%s: line %" PRId64 ": %s, not '%.*s'", r->path, line, what,
                    (int)SLF_MIN(r->end - r->at, 20), r->at);
}

/* The next character that is no space; 0 at the end, and for a NUL character, which no value begins with. */
static char next_char(json_reader *r) {
    while (r->at < r->end && memchr(" \t\r\n", *r->at, 4)) r->at++;
    return r->at < r->end ? *r->at : 0;
}

/* Whether the text goes on with this word; then behind it. */
static bool take_word(json_reader *r, const char *word) {
    const size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

/* A \u escape at p: its code; -1 where there is none. */
static int32_t escape_at(const char *p, const char *end) {
    int32_t code = 0;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        const char digit = p[i];
        code = 16 * code + (digit >= '0' && digit <= '9'   ? digit - '0'
                            : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                            : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                           : 0x10000);
    }
    return code > 0xFFFF ? -1 : code;
}

/* A character as UTF-8; its bytes, at most 4. */
static size_t put_code(char *out, int32_t code) {
    const uint32_t c = (uint32_t)code;
    const size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--) out[i] = (char)(0x80 | (c >> 6 * (n - 1 - i) & 0x3F));
    out[0] = (char)(first[n] | c >> 6 * (n - 1));
    return n;
}

/* ---- strings and numbers ---- */

/* A string, of which at is behind its first quote; its bytes are no more than those it is written with. */
static salf_status read_string(json_reader *r, slf_json **out) {
    /* 1. where it ends: at the next quote that no backslash stands before */
    const char *close = r->at;
    while (close < r->end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= r->end) {
        r->at = r->end;
        return bad_json(r, "a string");
    }
    /* 2. a copy, over which the text without its escapes is written: no escape is shorter than what it stands for */
    slf_json *string = slf_json_text(r->context, r->at, close - r->at);
    if (!string) return SALF_E_NO_MEMORY;
    char *to = string->text;
    const char *wrong = NULL;
    while (r->at < close && !wrong) {
        static const char names[] = "\"\\/bfnrt", named[] = "\"\\/\b\f\n\r\t";
        const int32_t code = escape_at(r->at, close), next = code < 0 ? -1 : escape_at(r->at + 6, close);
        const char *name = *r->at == '\\' ? strchr(names, r->at[1]) : NULL;
        if (code >= 0xD800 && code < 0xDC00 && next >= 0xDC00 && next < 0xE000) { /* two make one beyond 0xFFFF */
            to += put_code(to, 0x10000 + (code - 0xD800) * 0x400 + next - 0xDC00);
            r->at += 12;
        } else if (code >= 0) { /* half of one makes none */
            to += put_code(to, code == 0 || (code >= 0xD800 && code < 0xE000) ? 0xFFFD : code);
            r->at += 6;
        } else if (name && *name) {
            *to++ = named[name - names];
            r->at += 2;
        } else if (*r->at == '\\' || (unsigned char)*r->at < 0x20) {
            wrong = "a character of a string";
        } else {
            *to++ = *r->at++;
        }
    }
    /* 3. names of tensors and files go into messages and other files, so that they have to be text */
    *to = 0;
    if (!wrong && !slf_is_utf8(string->text)) wrong = "a string in UTF-8";
    if (wrong) {
        slf_json_release(string);
        return bad_json(r, wrong);
    }
    r->at = close + 1;
    *out = string;
    return SALF_OK;
}

/* Digits from p on; behind them, or NULL where there is none. */
static const char *behind_digits(const char *p, const char *end) {
    const char *begin = p;
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p > begin ? p : NULL;
}

/* An integer where there is neither point nor exponent and it fits 64 bits, else a real; beyond float64 a string. Never
 * part of the function that calls itself for each level of nesting: its text would be on the stack as often. */
__attribute__((noinline)) static salf_status read_number(json_reader *r, slf_json **out) {
    /* 1. where it ends, by the grammar: a sign, digits without a leading zero, a fraction, an exponent */
    const char *begin = r->at + (*r->at == '-'), *p = behind_digits(begin, r->end);
    bool real = false;
    if (!p || (*begin == '0' && p > begin + 1)) return bad_json(r, "a number");
    if (p < r->end && *p == '.') {
        real = true;
        p = behind_digits(p + 1, r->end);
    }
    if (p && p < r->end && (*p == 'e' || *p == 'E')) {
        real = true;
        p += p + 1 < r->end && (p[1] == '+' || p[1] == '-');
        p = behind_digits(p + 1, r->end);
    }
    if (!p || p - r->at > MOST_DIGITS) return bad_json(r, p ? "a number of at most 1000 digits" : "a number");
    /* 2. its value. The C library reads numbers up to the nearest, to the last bit; it needs an end, and the point that
     * the host's locale has, which may be of several bytes (Pashto) */
    char text[MOST_DIGITS + 1 + MB_LEN_MAX];
    const char *point = memchr(r->at, '.', (size_t)(p - r->at)), *behind = point ? point + 1 : p;
    snprintf(text, sizeof text, "%.*s%s%.*s", (int)((point ? point : p) - r->at), r->at,
             point ? localeconv()->decimal_point : "", (int)(p - behind), behind);
    errno = 0;
    const long long integer = strtoll(text, NULL, 10);
    real = real || errno == ERANGE;
    const double value = real ? strtod(text, NULL) : 0;
    /* 3. what float64 does not hold keeps its letters: no reader of numbers takes it, and nothing computes with it */
    if (isinf(value))
        *out = slf_json_text(r->context, r->at, p - r->at);
    else
        *out = slf_json_new(r->context, real ? SLF_JSON_REAL : SLF_JSON_INTEGER);
    if (!*out) return SALF_E_NO_MEMORY;
    if (real && !isinf(value)) (*out)->real = value;
    if (!real) (*out)->integer = integer;
    r->at = p;
    return SALF_OK;
}

/* ---- values ---- */

static salf_status read_value(json_reader *r, slf_json **out);

/* An array or an object, from behind its bracket to behind the other one. Of a key that stands twice the last one
 * counts, as in Python, unless unique refuses it: two readers of one file must not find two places for a tensor. */
static salf_status read_items(json_reader *r, slf_json *json) {
    /* One loop for both: an object is an array whose values have a key and a colon before them. */
    const bool object = json->kind == SLF_JSON_OBJECT;
    const char close = object ? '}' : ']';
    char c = next_char(r);
    if (c == close) {
        r->at++;
        return SALF_OK;
    }
    for (;; r->at++) { /* at stands behind a bracket or a comma */
        slf_json *key = NULL, *value = NULL;
        salf_status status = SALF_OK;
        /* a key is read as any string, and copied by the object */
        if (object) {
            if (next_char(r) != '"') return bad_json(r, "a key in quotes");
            r->at++;
            SLF_TRY(read_string(r, &key));
            if (r->unique && slf_json_get(json, key->text))
                status = slf_fail(SALF_E_CORRUPT, "%s: the key '%s' stands twice", r->path, key->text);
            else if (next_char(r) != ':')
                status = bad_json(r, "a colon");
            else
                r->at++;
        }
        if (status == SALF_OK) status = read_value(r, &value);
        if (status == SALF_OK) status = slf_json_put(json, key ? key->text : NULL, value);
        slf_json_release(key);
        SLF_TRY(status);
        c = next_char(r);
        if (c != ',' && c != close) return bad_json(r, object ? "a comma or }" : "a comma or ]");
        if (c == close) break;
    }
    r->at++;
    return SALF_OK;
}

/* Words of JSON, and those that Python has beside them. */
static salf_status read_value(json_reader *r, slf_json **out) {
    static const char *const words[] = {[SLF_JSON_NULL] = "null", [SLF_JSON_FALSE] = "false", [SLF_JSON_TRUE] = "true"};
    static const char *const letters[] = {"NaN", "Infinity", "-Infinity"};
    const char c = next_char(r);
    if (c == '"') {
        r->at++;
        return read_string(r, out);
    }
    for (int32_t kind = SLF_JSON_NULL; kind <= SLF_JSON_TRUE; kind++)
        if (take_word(r, words[kind])) return (*out = slf_json_new(r->context, kind)) ? SALF_OK : SALF_E_NO_MEMORY;
    for (int i = 0; i < 3; i++)
        if (take_word(r, letters[i]))
            return (*out = slf_json_text(r->context, letters[i], -1)) ? SALF_OK : SALF_E_NO_MEMORY;
    if (c != '{' && c != '[') return c == '-' || (c >= '0' && c <= '9') ? read_number(r, out) : bad_json(r, "a value");
    /* Values in a value: each level is a call, so that the depth of a file must not be the depth of the stack. */
    if (r->depth == MOST_DEPTH) return bad_json(r, "a value nested less than 64 deep");
    slf_json *json = slf_json_new(r->context, c == '{' ? SLF_JSON_OBJECT : SLF_JSON_ARRAY);
    if (!json) return SALF_E_NO_MEMORY;
    r->at++;
    r->depth++;
    const salf_status status = read_items(r, json);
    r->depth--;
    if (status == SALF_OK)
        *out = json;
    else
        slf_json_release(json);
    return status;
}

salf_status slf_json_parse(slf_json **out, const salf_context *context, const void *bytes, uint64_t size, bool unique,
                           const char *path) {
    json_reader r = {context, bytes, bytes, (const char *)bytes + size, path, unique, 0};
    slf_json *json = NULL;
    *out = NULL;
    /* Files that are read here hold an object. What begins otherwise is no JSON at all, most likely, and nothing behind
     * an object is passed over: it may be what somebody hides from readers that stop there. */
    if (next_char(&r) != '{' && r.at < r.end && *r.at != '[') return bad_json(&r, "'{'");
    salf_status status = read_value(&r, &json);
    if (status == SALF_OK && next_char(&r) != 0) status = bad_json(&r, "nothing more");
    if (status == SALF_OK && r.at < r.end) status = bad_json(&r, "nothing more"); /* a NUL character */
    if (status == SALF_OK && json->kind != SLF_JSON_OBJECT)
        status = slf_fail(SALF_E_CORRUPT, "%s: not a JSON object", path);
    if (status == SALF_OK)
        *out = json;
    else
        slf_json_release(json);
    return status;
}

/* The library's own tables are lists of words, "name name=value ...": a line that people can read and change, where
 * JSON in a C string would be mostly backslashes. No file comes this way, so that nothing of it is checked again. NULL
 * has no words. */
salf_status slf_json_words(slf_json **out, const salf_context *context, const char *text) {
    salf_status status = SALF_OK;
    if (!*out) *out = slf_json_new(context, SLF_JSON_OBJECT);
    if (!*out) return SALF_E_NO_MEMORY;
    while (text && *text && status == SALF_OK) {
        const size_t length = strcspn(text, "= "), whole = strcspn(text, " ");
        char name[64];
        memcpy(name, text, SLF_MIN(length, sizeof name - 1));
        name[SLF_MIN(length, sizeof name - 1)] = 0;
        /* What JSON would be other than a word begins with a digit, or is true or false. */
        json_reader r = {.context = context, .begin = text, .at = text + length + 1, .end = text + whole, .path = ""};
        slf_json *value = NULL;
        if (length == whole)
            value = slf_json_new(context, SLF_JSON_NULL);
        else if (strchr("-0123456789", *r.at) || strncmp(r.at, "true", 4) == 0 || strncmp(r.at, "false", 5) == 0)
            status = read_value(&r, &value);
        else
            value = slf_json_text(context, r.at, r.end - r.at);
        if (status == SALF_OK) status = slf_json_put(*out, name, value);
        text += whole;
        text += strspn(text, " ");
    }
    if (status == SALF_OK) return SALF_OK;
    slf_json_release(*out);
    *out = NULL;
    return status;
}

/* Files that are too large to be read are mapped, to see what they are. */
salf_status slf_json_load(slf_json **out, const salf_context *context, const char *path) {
    slf_map map;
    *out = NULL;
    SLF_TRY(slf_map_open(&map, context, path, SLF_SMALL_FILE));
    salf_status status;
    const char *kind = slf_file_kind(map.bytes, map.size); /* of other kinds none begins as JSON does */
    if (kind)
        status = slf_fail(SALF_E_UNSUPPORTED, "%s: %s", path, kind);
    else if (map.size == 0)
        status = slf_fail(SALF_E_TRUNCATED, "%s: the file is empty", path);
    else if (map.size > LARGEST_FILE)
        status = slf_fail(SALF_E_CORRUPT, "%s: %" PRIu64 " bytes are too many for a JSON file", path, map.size);
    else {
        const uint64_t mark = map.size >= 3 && memcmp(map.bytes, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0; /* of Windows */
        status = slf_json_parse(out, context, map.bytes + mark, map.size - mark, false, path);
    }
    slf_map_close(&map);
    return status;
}

/* Refuses what RFC 3629 does: bytes that begin no sequence, sequences cut short, a longer sequence for what fits a
 * shorter one, surrogates, codes above 0x10FFFF. */
bool slf_is_utf8(const char *text) {
    /* By length of a sequence: bits of its first byte that belong to the code, smallest code that needs it. */
    static const unsigned char bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        const int length = *at < 0x80                  ? 1
                           : *at >= 0xC2 && *at < 0xE0 ? 2
                           : *at >= 0xE0 && *at < 0xF0 ? 3
                           : *at >= 0xF0 && *at < 0xF5 ? 4
                                                       : 0;
        if (length == 0) return false;
        uint32_t code = *at & bits[length];
        for (int i = 1; i < length; i++) {
            if ((at[i] & 0xC0) != 0x80) return false; /* also the end of the text */
            code = code << 6 | (at[i] & 0x3Fu);
        }
        if (code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
        at += length;
    }
    return true;
}
