/*
 * json.c - JSON through jansson: integers are exact to 64 bits, a key that stands twice is an error, nesting is
 * bounded. jansson takes its memory from malloc: its own hooks are process-wide, and a library must not set them.
 * When malloc fails inside it, it does not always say so: the lack of memory may look like bad JSON.
 */
#include <inttypes.h>

#include "io.h"

/* A bound against files that are no configuration and no index at all. A configuration has a few kB; an index has some
 * 100 bytes a tensor, so that this one may name 600,000. */
#define LARGEST_FILE ((uint64_t)64 << 20)

/* The message has the line in the file, which people edit by hand. */
salf_status slf_json_parse(json_t **out, const void *bytes, uint64_t size, const char *path) {
    json_error_t error;
    *out = NULL;
    json_t *json = json_loadb(bytes, (size_t)size, JSON_REJECT_DUPLICATES, &error);
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

/* Mapped rather than read: the parser needs the bytes only once, and no second buffer. */
salf_status slf_json_load(json_t **out, const char *path) {
    slf_map map;
    *out = NULL;
    SLF_TRY(slf_map_open(&map, path));
    salf_status status;
    if (map.size == 0)
        status = slf_fail(SALF_E_TRUNCATED, "%s: the file is empty", path);
    else if (map.size > LARGEST_FILE)
        status = slf_fail(SALF_E_CORRUPT, "%s: %" PRIu64 " bytes are too many for a JSON file", path, map.size);
    else
        status = slf_json_parse(out, map.bytes, map.size, path);
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
