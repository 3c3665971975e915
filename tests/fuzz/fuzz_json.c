/* fuzz_json.c - any bytes as JSON: refused with a message, or a tree whose keys are all found, and which is the same when
 * it is copied, and when it is written and read again. */
#include "io/json.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every key leads to its own value, and what has no place is no value. */
static void look(const slf_json *json) {
    const bool is_object = slf_json_is(json, SLF_JSON_OBJECT);
    MUST(is_object || slf_json_is(json, SLF_JSON_ARRAY) || slf_json_size(json) == 0);
    for (int64_t i = 0; i < slf_json_size(json); i++) {
        MUST(!is_object || slf_json_get(json, json->keys[i]) == json->items[i]);
        MUST(is_object || slf_json_at(json, i) == json->items[i]);
        look(json->items[i]);
    }
    MUST(!slf_json_at(json, slf_json_size(json)) && !slf_json_at(json, -1));
    MUST(!slf_json_is(json, SLF_JSON_STRING) || slf_is_utf8(slf_json_to_text(json)));
}

/* Written into room of exactly its size, where a sanitizer sees what is beyond, and into none. */
static slf_json *again(const slf_json *json) {
    slf_json *read = NULL;
    const size_t n = slf_json_write(json, NULL, 0);
    char *text = malloc(n);
    MUST(n >= 2 && text && slf_json_write(json, text, n) == n);
    MUST(slf_json_parse(&read, place_context(), text, n, true, "written") == SALF_OK);
    free(text);
    return read;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    slf_json *json, *unique;
    const salf_status status = slf_json_parse(&json, place_context(), data, size, false, "input");
    const salf_status strict = slf_json_parse(&unique, place_context(), data, size, true, "input");
    MUST(status == SALF_OK || (!json && !unique && strict != SALF_OK && salf_last_error()[0]));
    MUST(strict != SALF_OK || slf_json_equal(json, unique));
    slf_json_release(unique);
    if (status != SALF_OK) return 0;
    look(json);
    slf_json *read = again(json), *copy = slf_json_copy(json);
    MUST(slf_json_equal(json, read) && slf_json_equal(copy, json));
    if (slf_json_size(copy) > 0) {
        const char *key = json->keys[slf_json_size(copy) / 2];
        slf_json_remove(copy, key);
        MUST(!slf_json_get(copy, key) && slf_json_get(json, key) && slf_json_size(copy) == slf_json_size(json) - 1);
        look(copy);
        MUST(slf_json_update(copy, json) == SALF_OK && slf_json_equal(copy, json));
    }
    slf_json_release(read);
    slf_json_release(copy);
    slf_json_release(json);
    return 0;
}
