/*
 * keys.c - reads a JSON object key by key and knows what was not read.
 *
 * A reader that takes what it knows and passes over the rest computes another model than the file describes as soon as
 * the rest means something. So that cannot be forgotten for a key, taking a value and accounting for it are one call.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io.h"

/* The copy is a shallow one: its values are those of json, with a count more. */
salf_status slf_keys_open(slf_keys *keys, slf_json *json, slf_json *defaults, const char *path, const char *object) {
    *keys = (slf_keys){.json = json, .defaults = defaults, .path = path, .object = object};
    keys->left = json ? slf_json_copy(json) : NULL;
    return keys->left || !json ? SALF_OK : SALF_E_NO_MEMORY;
}

/* Also of keys that were never opened, if they are 0. */
void slf_keys_close(slf_keys *keys) {
    slf_json_release(keys->left);
    keys->left = NULL;
}

/* null is a value of its own in transformers: it replaces the default, and then mostly means that something is off. */
slf_json *slf_keys_take(slf_keys *keys, const char *name) {
    slf_json *value = slf_json_get(keys->json, name);
    slf_json_remove(keys->left, name);
    if (!value) value = slf_json_get(keys->defaults, name);
    return slf_json_is(value, SLF_JSON_NULL) ? NULL : value;
}

/* A key that is missing or null leaves *out, in all of these: the caller puts the default there. Negative numbers have
 * no meaning in any key that is read so. */
salf_status slf_keys_number(slf_keys *keys, const char *name, double *out) {
    const slf_json *value = slf_keys_take(keys, name);
    if (!value) return SALF_OK;
    const double x = slf_json_to_number(value);
    if (!slf_json_is_number(value) || !isfinite(x) || x < 0)
        return slf_fail(SALF_E_CORRUPT, "%s: %s%s is not a number of 0 or more", keys->path, keys->object, name);
    *out = x;
    return SALF_OK;
}

/* For a number that is always used: with null in its place the model does not run, and no default was meant. */
salf_status slf_keys_given(slf_keys *keys, const char *name, double *out) {
    if (slf_json_is(slf_json_get(keys->json, name), SLF_JSON_NULL))
        return slf_fail(SALF_E_CORRUPT, "%s: %s%s is null, where a number is needed", keys->path, keys->object, name);
    return slf_keys_number(keys, name, out);
}

/* For what divides or is a base: there 0 computes nothing. The default is held to the same. */
salf_status slf_keys_positive(slf_keys *keys, const char *name, double *out) {
    SLF_TRY(slf_keys_number(keys, name, out));
    if (*out <= 0) SLF_TRY(slf_keys_given(keys, name, out)); /* which names null */
    if (*out <= 0) return slf_fail(SALF_E_CORRUPT, "%s: %s%s is %g", keys->path, keys->object, name, *out);
    return SALF_OK;
}

/* For a factor: 0 leaves nothing of what it stands before, and is no number that anybody meant. */
salf_status slf_keys_factor(slf_keys *keys, const char *name, double *out) {
    SLF_TRY(slf_keys_given(keys, name, out));
    return slf_keys_positive(keys, name, out);
}

/* For a soft cap, cap tanh(x / cap): null is none. 0 makes NaN or a constant of x in transformers, and other readers
 * take it for none. */
salf_status slf_keys_cap(slf_keys *keys, const char *name, double *out) {
    const bool stands = slf_json_is_number(slf_json_get(keys->json, name));
    return stands ? slf_keys_positive(keys, name, out) : slf_keys_number(keys, name, out);
}

/* 0 and 1 are refused: a file that says so was not written by transformers. */
salf_status slf_keys_flag(slf_keys *keys, const char *name, int32_t *out) {
    const slf_json *value = slf_keys_take(keys, name);
    if (!value) return SALF_OK;
    if (!slf_json_is_flag(value))
        return slf_fail(SALF_E_CORRUPT, "%s: %s%s is neither true nor false", keys->path, keys->object, name);
    *out = slf_json_is(value, SLF_JSON_TRUE);
    return SALF_OK;
}

/* Python makes 64.0 a float, and transformers takes it where it counts: so it is taken here. Above 2^53 a float may
 * have been rounded, but no bound is that high. */
salf_status slf_keys_integer(slf_keys *keys, const char *name, int64_t most, int64_t *out) {
    const slf_json *value = slf_keys_take(keys, name);
    if (!value) return SALF_OK;
    const double x = slf_json_to_number(value);
    if (!slf_json_is_number(value) || x != floor(x))
        return slf_fail(SALF_E_CORRUPT, "%s: %s%s is no integer", keys->path, keys->object, name);
    if (x < 1 || x > (double)most || (slf_json_is(value, SLF_JSON_INTEGER) && slf_json_to_integer(value) > most))
        return slf_fail(SALF_E_CORRUPT, "%s: %s%s is %.17g, not in 1 ... %" PRId64, keys->path, keys->object, name, x,
                        most);
    *out = slf_json_is(value, SLF_JSON_INTEGER) ? slf_json_to_integer(value) : (int64_t)x;
    return SALF_OK;
}

/* Two names of one size have to agree: which of them counts depends on who reads. Defaults go by the first name, and
 * give way to any name that the file has. */
salf_status slf_keys_size(slf_keys *keys, const char *const *names, int64_t most, bool several, int64_t *out) {
    const char *found = NULL;
    for (int i = 0; i < SLF_NAMES && names[i]; i++) {
        const bool stands = slf_json_get(keys->json, names[i]) != NULL;
        int64_t value = 0; /* not in 1 ... most: there was none */
        if (i > 0 && !stands) continue;
        SLF_TRY(slf_keys_integer(keys, names[i], most, &value));
        if (value == 0 || (found && several)) continue;
        if (found && *out != value)
            return slf_fail(SALF_E_CORRUPT, "%s: %s is %" PRId64 ", but %s is %" PRId64, keys->path, found, *out,
                            names[i], value);
        if (stands) found = names[i];
        *out = value;
    }
    return SALF_OK;
}

/* The text ends where the buffer does: what counts is that it is not empty, and its beginning. */
void slf_decoder_lacks(slf_config *config, const char *object, const char *name, const slf_json *value) {
    char *text = config->unsupported;
    const size_t size = sizeof config->unsupported, used = strlen(text);
    char shown[96] = "";
    const size_t length = value ? slf_json_write(value, shown, sizeof shown - 1) : 0;
    shown[SLF_MIN(length, sizeof shown - 1)] = 0;
    if (length >= sizeof shown) memcpy(shown + sizeof shown - 4, "...", 4);
    snprintf(text + used, size - used, "%s%s%s%s%s", used ? "; " : "", object, name, *shown ? " = " : "", shown);
}
