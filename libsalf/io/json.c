/*
 * json.c - JSON through jansson: integers are exact to 64 bits, a key that stands twice is an error, nesting is
 * bounded. jansson takes its memory from malloc: its own hooks are process-wide, and a library must not set them.
 */
#include "io.h"

#define LARGEST_FILE ((uint64_t)64 << 20)

salf_status slf_json_parse(json_t **out, const void *bytes, uint64_t size, const char *path) {
    json_error_t error;
    *out = NULL;
    json_t *json = json_loadb(bytes, (size_t)size, JSON_REJECT_DUPLICATES, &error);
    if (!json && json_error_code(&error) == json_error_out_of_memory)
        return slf_fail(SALF_E_NO_MEMORY, "%s: out of memory while reading JSON", path);
    if (!json) return slf_fail(SALF_E_CORRUPT, "%s: line %d: %s", path, error.line, error.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return slf_fail(SALF_E_CORRUPT, "%s: not a JSON object", path);
    }
    *out = json;
    return SALF_OK;
}

salf_status slf_json_load(json_t **out, const char *path) {
    slf_map map;
    *out = NULL;
    SLF_TRY(slf_map_open(&map, path));
    salf_status status;
    if (map.size == 0)
        status = slf_fail(SALF_E_TRUNCATED, "%s: the file is empty", path);
    else if (map.size > LARGEST_FILE)
        status =
            slf_fail(SALF_E_CORRUPT, "%s: %llu bytes are too many for a JSON file", path, (unsigned long long)map.size);
    else
        status = slf_json_parse(out, map.bytes, map.size, path);
    slf_map_close(&map);
    return status;
}
