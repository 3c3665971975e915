/* jsonl.c - JSON lines: fields are written as they come; reading is one line at a time. */
#define _DEFAULT_SOURCE /* flock */
#include "jsonl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "salf.h"
#include "tokenizer_unicode.h"

/* Of the last bytes before a place, at most as many as fit; *hash 0 and -1 when they cannot be read. */
static int hash_tail(int file, int64_t bytes, int64_t *tail) {
    char last[4096];
    const size_t n = bytes < (int64_t)sizeof last ? (size_t)bytes : sizeof last;
    const ssize_t got = pread(file, last, n, (off_t)(bytes - (int64_t)n));
    const uint64_t hash = salf_hash(0, last, n);
    memcpy(tail, &hash, sizeof hash);
    return got == (ssize_t)n && n > 0 && last[n - 1] == '\n' ? 0 : -1;
}

/* Which file it is, as a number that is not 0: an empty log has no tail to be known by. */
static int64_t hash_place(const struct stat *about) {
    const uint64_t place[2] = {(uint64_t)about->st_dev, (uint64_t)about->st_ino};
    return (int64_t)(salf_hash(0, place, sizeof place) >> 1 | 1);
}

const char jsonl_begun[] = "holds something already, which this run would overwrite; name another file, or remove it";

int jsonl_is_begun(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0;
}

/* A run that is resumed keeps the lines up to its checkpoint and drops those behind: they will be written again. The
 * file is opened to be read as well, for its tail; what is no file only to be written to. */
int jsonl_open(jsonl_writer *w, const char *path, jsonl_place keep, char *message, size_t message_size) {
    struct stat about;
    int64_t tail;
    *w = (jsonl_writer){0};
    if (!strcmp(path, "-") || !strcmp(path, "/dev/stdout")) {
        w->file = stdout;
        return 0;
    }
    const int is_file = stat(path, &about) != 0 || S_ISREG(about.st_mode);
    const int file = open(path, (is_file ? O_RDWR | O_CREAT : O_WRONLY) | O_CLOEXEC | O_NOCTTY, 0666);
    const char *wrong = NULL;
    if (file < 0 || fstat(file, &about) != 0) {
        wrong = strerror(errno);
    } else if (is_file && flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        wrong = "another run writes here";
    } else if (is_file && keep.bytes == 0 && about.st_size > 0 && keep.tail != hash_place(&about)) {
        wrong = jsonl_begun;
    } else if (keep.bytes > 0 && (!is_file || about.st_size < keep.bytes)) {
        wrong = "has fewer bytes than when the checkpoint was made, so that it cannot be continued";
    } else if (keep.bytes > 0 && (hash_tail(file, keep.bytes, &tail) != 0 || tail != keep.tail)) {
        wrong = "is not the log that this run has written";
    } else if (is_file && (ftruncate(file, (off_t)keep.bytes) != 0 || lseek(file, (off_t)keep.bytes, SEEK_SET) < 0)) {
        wrong = strerror(errno);
    } else if (!(w->file = fdopen(file, "wb"))) {
        wrong = strerror(errno);
    }
    if (!wrong) return 0;
    if (file >= 0) close(file);
    snprintf(message, message_size, "%s: %s", path, wrong);
    return -1;
}

/* Notes the first error. Returns 0, or -1 when there is one. */
static int note_error(jsonl_writer *w, int failed) {
    if (failed && !w->error) w->error = errno ? errno : EIO;
    return w->error ? -1 : 0;
}

/* A log that somebody has removed meanwhile would be written to its end for nobody. */
static int is_removed(jsonl_writer *w) {
    struct stat about;
    const int gone = w->file && w->file != stdout && fstat(fileno(w->file), &about) == 0 && about.st_nlink == 0;
    if (gone) errno = ENOENT;
    return gone;
}

/* Standard output, a device and a pipe have no length to come back to. */
int jsonl_sync(jsonl_writer *w, jsonl_place *place) {
    struct stat about;
    *place = (jsonl_place){0};
    if (!w->file) return 0;
    if (note_error(w, fflush(w->file) != 0 || is_removed(w)) != 0) return -1;
    if (w->file == stdout || fstat(fileno(w->file), &about) != 0 || !S_ISREG(about.st_mode)) return 0;
    if (note_error(w, fsync(fileno(w->file))) != 0) return -1;
    place->bytes = ftell(w->file);
    if (place->bytes > 0) return note_error(w, hash_tail(fileno(w->file), place->bytes, &place->tail));
    place->tail = hash_place(&about);
    return 0;
}

int jsonl_close(jsonl_writer *w) {
    if (is_removed(w)) note_error(w, 1);
    if (w->file) note_error(w, w->file == stdout ? fflush(stdout) : fclose(w->file));
    const int error = w->error;
    *w = (jsonl_writer){0};
    return error;
}

/* Writes go through here: the first that fails is remembered, and nobody in between has to look. */
static void put_raw(jsonl_writer *w, const char *text) {
    if (w->file) note_error(w, fputs(text, w->file) == EOF);
}

/* A JSON string. Control characters are escaped, and what is not UTF-8 becomes U+FFFD byte by byte. */
static void put_string(jsonl_writer *w, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    put_raw(w, "\"");
    while (*s) {
        char part[8];
        const int n = utf8_length((const char *)s, 4); /* the byte 0 at the end goes on no sequence */
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
    if (w->file) note_error(w, fflush(w->file));
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

/* A value of any kind. Values are nested as deep as the program has built them. */
static void put_value(jsonl_writer *w, json_t *value) {
    const int is_object = json_is_object(value);
    const char *key, *comma = "";
    json_t *part;
    size_t i;
    if (is_object || json_is_array(value)) put_raw(w, is_object ? "{" : "[");
    json_object_foreach(value, key, part) {
        put_raw(w, comma);
        put_string(w, key);
        put_raw(w, ": ");
        put_value(w, part);
        comma = ", ";
    }
    json_array_foreach(value, i, part) {
        put_raw(w, comma);
        put_value(w, part);
        comma = ", ";
    }
    if (is_object || json_is_array(value)) put_raw(w, is_object ? "}" : "]");
    if (json_is_string(value)) put_string(w, json_string_value(value));
    if (json_is_integer(value)) put_int(w, json_integer_value(value));
    if (json_is_real(value)) put_real(w, json_real_value(value));
    if (json_is_boolean(value)) put_raw(w, json_is_true(value) ? "true" : "false");
    if (json_is_null(value)) put_raw(w, "null");
}

const char *jsonl_print(json_t *value) {
    jsonl_writer w = {.file = stdout};
    if (!value) return "out of memory";
    put_value(&w, value);
    put_raw(&w, "\n");
    json_decref(value);
    return w.error || fflush(stdout) != 0 ? "cannot write to standard output" : NULL;
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
        json_t *object = length ? json_read(line, length, JSON_REJECT_DUPLICATES, &error) : NULL;
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
