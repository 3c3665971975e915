/* jsonl.c - JSON lines: fields are written as they come; reading is Jansson's, one line at a time. */
#include "jsonl.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"

/* A run that is resumed keeps the lines up to its checkpoint and drops those behind: they will be written again. */
int jsonl_open(jsonl_writer *w, const char *path, int64_t keep, char *message, size_t message_size) {
    *w = (jsonl_writer){0};
    if (!strcmp(path, "-")) return w->file = stdout, 0;
    FILE *file = fopen(path, keep > 0 ? "r+b" : "wb");
    if (!file) return snprintf(message, message_size, "%s: cannot be opened for writing", path), -1;
    if (keep > 0 && (fseek(file, 0, SEEK_END) || ftell(file) < keep || ftruncate(fileno(file), (off_t)keep) ||
                     fseek(file, (long)keep, SEEK_SET))) {
        fclose(file);
        snprintf(message, message_size, "%s: has fewer than the %" PRId64 " bytes it is to be continued after", path,
                 keep);
        return -1;
    }
    w->file = file;
    return 0;
}

/* Standard output has no length to come back to. */
int64_t jsonl_sync(jsonl_writer *w) {
    if (!w->file) return 0;
    if (fflush(w->file)) return w->failed = 1, -1;
    if (w->file == stdout) return 0;
    if (fsync(fileno(w->file))) return w->failed = 1, -1;
    return ftell(w->file);
}

int jsonl_close(jsonl_writer *w) {
    int failed = w->failed;
    if (w->file == stdout) {
        failed |= fflush(stdout) != 0;
    } else if (w->file) {
        failed |= fclose(w->file) != 0;
    }
    *w = (jsonl_writer){0};
    return failed ? -1 : 0;
}

/* Writes go through here: the first that fails is remembered, and nobody in between has to look. */
static void put_raw(jsonl_writer *w, const char *text) {
    if (w->file && fputs(text, w->file) == EOF) w->failed = 1;
}

/* Length of the valid UTF-8 sequence at s, or 0. Overlong forms, surrogates and numbers above U+10FFFF are not valid.
 */
static int utf8_length(const unsigned char *s) {
    if (s[0] < 0x80) return 1;
    const int n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
    }
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0;
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0;
    return n;
}

/* A JSON string. Control characters are escaped, and what is not UTF-8 becomes U+FFFD byte by byte. */
static void put_string(jsonl_writer *w, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    put_raw(w, "\"");
    while (*s) {
        char part[8];
        const int n = utf8_length(s);
        if (*s == '"' || *s == '\\') {
            snprintf(part, sizeof part, "\\%c", *s);
        } else if (*s < 0x20 || *s == 0x7F) {
            snprintf(part, sizeof part, "\\u%04x", *s);
        } else if (n == 0) {
            snprintf(part, sizeof part, "\\ufffd");
        } else {
            memcpy(part, s, (size_t)n);
            part[n] = 0;
        }
        put_raw(w, part);
        s += n ? n : 1;
    }
    put_raw(w, "\"");
}

/* The fewest digits, 6 at least, that read back as the same double; 17 always do. JSON has no word for what is not
 * finite. */
static void put_real(jsonl_writer *w, double value) {
    char text[40] = "null";
    for (int digits = 6; isfinite(value) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) >= value && strtod(text, NULL) <= value) break;
    }
    put_raw(w, text);
}

static void put_int(jsonl_writer *w, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    put_raw(w, text);
}

/* The key of the next field, with the comma that parts it from the one before: open is 2 once a field was written. */
static void put_key(jsonl_writer *w, const char *key) {
    if (w->open > 1) put_raw(w, ",");
    w->open = 2;
    put_string(w, key);
    put_raw(w, ":");
}

void jsonl_begin(jsonl_writer *w, const char *event) {
    w->open = 1;
    put_raw(w, "{");
    if (event) jsonl_text(w, "event", event);
}

/* Flushed, so that a log can be watched, and a kill loses at most the line being written. */
void jsonl_end(jsonl_writer *w) {
    put_raw(w, "}\n");
    if (w->file && fflush(w->file)) w->failed = 1;
    w->open = 0;
}

void jsonl_text(jsonl_writer *w, const char *key, const char *value) {
    put_key(w, key);
    put_string(w, value);
}

void jsonl_int(jsonl_writer *w, const char *key, int64_t value) {
    put_key(w, key);
    put_int(w, value);
}

void jsonl_real(jsonl_writer *w, const char *key, double value) {
    put_key(w, key);
    put_real(w, value);
}

/* An array; rows of them make a matrix. */
static void put_reals(jsonl_writer *w, const double *values, int64_t n) {
    put_raw(w, "[");
    for (int64_t i = 0; i < n; i++) {
        if (i) put_raw(w, ",");
        put_real(w, values[i]);
    }
    put_raw(w, "]");
}

static void put_ints(jsonl_writer *w, const int64_t *values, int64_t n) {
    put_raw(w, "[");
    for (int64_t i = 0; i < n; i++) {
        if (i) put_raw(w, ",");
        put_int(w, values[i]);
    }
    put_raw(w, "]");
}

void jsonl_texts(jsonl_writer *w, const char *key, const char *const *values, int64_t n) {
    put_key(w, key);
    put_raw(w, "[");
    for (int64_t i = 0; i < n; i++) {
        if (i) put_raw(w, ",");
        put_string(w, values[i]);
    }
    put_raw(w, "]");
}

void jsonl_ints(jsonl_writer *w, const char *key, const int64_t *values, int64_t n) {
    put_key(w, key);
    put_ints(w, values, n);
}

void jsonl_real_rows(jsonl_writer *w, const char *key, const double *values, int64_t rows, int64_t columns) {
    put_key(w, key);
    put_raw(w, "[");
    for (int64_t i = 0; i < rows; i++) {
        if (i) put_raw(w, ",");
        put_reals(w, values + i * columns, columns);
    }
    put_raw(w, "]");
}

void jsonl_int_rows(jsonl_writer *w, const char *key, const int64_t *values, int64_t rows, int64_t columns) {
    put_key(w, key);
    put_raw(w, "[");
    for (int64_t i = 0; i < rows; i++) {
        if (i) put_raw(w, ",");
        put_ints(w, values + i * columns, columns);
    }
    put_raw(w, "]");
}

int jsonl_read(const char *path, jsonl_take_fn take, void *user, char *message, size_t message_size) {
    size_t size, length;
    char *text = file_read(path, &size, message, message_size), *end;
    int code = text ? 0 : -1;
    /* The last line has no end where a kill cut it short; then it is left out. */
    char *line = text;
    for (int64_t number = 1; code == 0 && (end = memchr(line, '\n', size)) != NULL; number++) {
        length = (size_t)(end - line);
        json_error_t error;
        json_t *object = length ? json_loadb(line, length, JSON_REJECT_DUPLICATES, &error) : NULL;
        if (json_is_object(object)) {
            code = take(user, object);
        } else if (length) {
            snprintf(message, message_size, "%s:%" PRId64 ": %s", path, number, object ? "not an object" : error.text);
            code = -1;
        }
        json_decref(object);
        size -= length + 1;
        line = end + 1;
    }
    free(text);
    return code;
}
