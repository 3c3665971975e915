/* jsonl.h - JSON lines: a writer that needs no memory, a reader over Jansson. The events of a fine-tuning run are
 * described in docs/formats.md. */
#ifndef SALF_EXAMPLE_JSONL_H
#define SALF_EXAMPLE_JSONL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A writer that is zeroed, or whose file is NULL, takes every call and writes nothing. Numbers that are not finite are
 * written as null, strings that are not UTF-8 with U+FFFD in place of each wrong byte. */
typedef struct jsonl_writer {
    FILE *file;
    int open;   /* inside an object */
    int failed; /* a write failed; jsonl_close tells */
} jsonl_writer;

/* Opens a file, of which the first keep bytes stay (0: a new file); "-" is standard output. Returns 0 or -1 with a
 * message. */
int jsonl_open(jsonl_writer *w, const char *path, int64_t keep, char *message, size_t message_size);
/* Bytes written so far, flushed and synced, for a later jsonl_open with keep; 0 for a writer without a file, -1 on
 * failure.
 */
int64_t jsonl_sync(jsonl_writer *w);
/* Returns 0, or -1 when any write failed. The writer is zeroed. */
int jsonl_close(jsonl_writer *w);

/* One line: begin, fields, end. event NULL: an object without that key. */
void jsonl_begin(jsonl_writer *w, const char *event);
void jsonl_text(jsonl_writer *w, const char *key, const char *value);
void jsonl_int(jsonl_writer *w, const char *key, int64_t value);
void jsonl_real(jsonl_writer *w, const char *key, double value); /* shortest form that reads back the same */
void jsonl_texts(jsonl_writer *w, const char *key, const char *const *values, int64_t n);
void jsonl_ints(jsonl_writer *w, const char *key, const int64_t *values, int64_t n);
void jsonl_real_rows(jsonl_writer *w, const char *key, const double *values, int64_t rows, int64_t columns);
void jsonl_int_rows(jsonl_writer *w, const char *key, const int64_t *values, int64_t rows, int64_t columns);
void jsonl_end(jsonl_writer *w); /* ends the line and flushes it */

/* Calls take for each line of a file, in order; a last line that was cut short (no line end) is left out. take returns
 * 0 to go on, anything else to stop, which is given back. Returns 0, or -1 with a message naming file and line. */
struct json_t;
typedef int (*jsonl_take_fn)(void *user, const struct json_t *object);
int jsonl_read(const char *path, jsonl_take_fn take, void *user, char *message, size_t message_size);

#endif
