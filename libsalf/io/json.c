/*
 * json.c - JSON through jansson, as Python reads it: what people have was written there, and nobody can mend a file in
 * the cache of a hub. Integers are exact to 64 bits, nesting is bounded. jansson takes its memory from malloc: its own
 * hooks are process-wide, and a library must not set them. When malloc fails inside it, it does not always say so: the
 * lack of memory may look like bad JSON.
 */
#include <inttypes.h>
#include <string.h>

#include "io.h"

/* A bound against files that are no configuration and no index at all. A configuration has a few kB; an index has some
 * 100 bytes a tensor, so that this one may name 600,000. */
#define LARGEST_FILE ((uint64_t)64 << 20)

/* ---- what Python writes and JSON does not have ---- */

/* The text on its way to the parser, which asks for it piece by piece, so that nothing is copied. What is not JSON is
 * replaced in passing: NaN, Infinity and numbers beyond float64 by strings of the same letters, integers beyond 64 bits
 * by reals, NUL characters and lone surrogates in strings by U+FFFD. */
typedef struct {
    const char *at, *end;
    bool in_string;
    const char *pieces[3]; /* of the token before at, not handed over yet */
    size_t lengths[3];
    int n_pieces;
} json_source;

static void put_piece(json_source *source, const char *text, size_t length) {
    source->pieces[source->n_pieces] = text;
    source->lengths[source->n_pieces++] = length;
}

/* What the number [at, end) needs for the parser to take it: quotes around it ("\""), ".0" behind it, or nothing ("").
 * Its order is the place of the first digit that is not 0, by the exponent; float64 ends at 1.7976931348623158e308. */
static const char *number_needs(const char *at, const char *end) {
    int64_t order = 0, exponent = 0;
    char leading[20] = ""; /* the first digits that count: as many as decide */
    size_t n = 0;
    bool point = false;
    const char *p = at + (*at == '-');
    for (; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.')
            point = true;
        else if (n == 0 && *p == '0')
            order -= point; /* a zero before the first digit: it counts behind the point only */
        else {
            if (n < sizeof leading - 1) leading[n] = *p;
            n++;
            order += !point;
        }
    }
    const bool real = point || p < end;
    const bool negative = end - p > 1 && p[1] == '-';
    for (p += p < end; p < end; p++)
        if (*p >= '0' && *p <= '9' && exponent < 100000) exponent = 10 * exponent + (*p - '0');
    order += negative ? -exponent : exponent;
    if (n > 0 && (order > 309 || (order == 309 && strcmp(leading, "1797693134862315807") > 0))) return "\"";
    return !real && (order > 19 || (order == 19 && strcmp(leading, "9223372036854775807") > 0)) ? ".0" : "";
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

/* The next piece of text. Inside a string: up to its end or its next escape, or one escape. Outside: a word of Python,
 * a number, or one character. */
static void take_token(json_source *s) {
    static const char *const words[] = {"\"NaN\"", "\"Infinity\"", "\"-Infinity\""};
    const char *p = s->at;
    const size_t left = (size_t)(s->end - p);
    size_t length = 0;
    if (s->in_string) {
        while (p + length < s->end && p[length] != '"' && p[length] != '\\') length++;
        const int32_t code = escape_at(p, s->end), next = code < 0 ? -1 : escape_at(p + 6, s->end);
        /* Two escapes make one character beyond 0xFFFF; half of one makes none. */
        const bool pair = code >= 0xD800 && code < 0xDC00 && next >= 0xDC00 && next < 0xE000;
        const bool lone = code >= 0xD800 && code < 0xE000 && !pair;
        if (length == 0 && *p == '"') s->in_string = false;
        if (length == 0) length = code >= 0 ? (pair ? 12 : 6) : *p == '\\' && s->end - p > 1 ? 2 : 1;
        put_piece(s, code == 0 || lone ? "\\ufffd" : p, length); /* as long as what it replaces */
        s->at += length;
        return;
    }
    for (int i = 0; i < 3; i++) {
        length = strlen(words[i]) - 2;
        if (left < length || memcmp(p, words[i] + 1, length) != 0) continue;
        put_piece(s, words[i], length + 2);
        s->at += length;
        return;
    }
    /* Not every such text is a number; the parser refuses those that are none. */
    for (length = 0; length < left && memchr("0123456789+-.eE", p[length], 15); length++) {
    }
    if (length > 0 && (*p == '-' || (*p >= '0' && *p <= '9'))) {
        const char *needs = number_needs(p, p + length);
        if (*needs == '"') put_piece(s, needs, 1);
        put_piece(s, p, length);
        if (*needs) put_piece(s, needs, strlen(needs));
    } else {
        length = 1;
        s->in_string = *p == '"';
        put_piece(s, p, length);
    }
    s->at += length;
}

/* For json_load_callback: up to room bytes, 0 at the end. */
static size_t feed_parser(void *buffer, size_t room, void *user) {
    json_source *s = user;
    size_t used = 0;
    while (used < room) {
        if (s->n_pieces == 0 && s->at == s->end) break;
        if (s->n_pieces == 0) take_token(s);
        const size_t n = SLF_MIN(s->lengths[0], room - used);
        memcpy((char *)buffer + used, s->pieces[0], n);
        used += n;
        s->pieces[0] += n;
        s->lengths[0] -= n;
        if (s->lengths[0] > 0) continue;
        s->n_pieces--;
        memmove(s->pieces, s->pieces + 1, 2 * sizeof *s->pieces);
        memmove(s->lengths, s->lengths + 1, 2 * sizeof *s->lengths);
    }
    return used;
}

/* The message has the line in the file, which people edit by hand. Of a key that stands twice the last one counts, as
 * in Python, unless unique refuses it: two readers of one file must not find two places for a tensor. */
salf_status slf_json_parse(json_t **out, const void *bytes, uint64_t size, bool unique, const char *path) {
    json_source source = {.at = bytes, .end = (const char *)bytes + size};
    json_error_t error;
    *out = NULL;
    json_t *json = json_load_callback(feed_parser, &source, unique ? JSON_REJECT_DUPLICATES : 0, &error);
    if (!json && !*error.text) /* only a lack of memory leaves no text */
        return slf_fail(SALF_E_NO_MEMORY, "%s: out of memory while reading JSON", path);
    if (!json) return slf_fail(SALF_E_CORRUPT, "%s: line %d: %s", path, error.line, error.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return slf_fail(SALF_E_CORRUPT, "%s: not a JSON object", path);
    }
    *out = json;
    return SALF_OK;
}

salf_status slf_json_words(json_t **out, const char *text) {
    *out = json_object();
    while (*out && *text) {
        const size_t length = strcspn(text, "= "), whole = strcspn(text, " ");
        char name[64];
        memcpy(name, text, SLF_MIN(length, sizeof name - 1));
        name[SLF_MIN(length, sizeof name - 1)] = 0;
        json_t *value = json_null();
        if (length < whole) value = json_loadb(text + length + 1, whole - length - 1, JSON_DECODE_ANY, NULL);
        if (!value) value = json_stringn(text + length + 1, whole - length - 1);
        if (json_object_set_new(*out, name, value) != 0) { /* takes value in every case */
            json_decref(*out);
            *out = NULL;
        }
        text += whole;
        text += strspn(text, " ");
    }
    return *out ? SALF_OK : slf_fail(SALF_E_NO_MEMORY, "out of memory");
}

/* Mapped rather than read: the parser needs the bytes only once, and no second buffer. */
salf_status slf_json_load(json_t **out, const char *path) {
    slf_map map;
    *out = NULL;
    SLF_TRY(slf_map_open(&map, path));
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
        status = slf_json_parse(out, map.bytes + mark, map.size - mark, false, path);
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
