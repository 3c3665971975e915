/* jsonl.h - JSON lines: a writer that needs no memory, a reader. The events of a fine-tuning run are
 * described in docs/formats.md. */
#ifndef SALF_EXAMPLE_JSONL_H
#define SALF_EXAMPLE_JSONL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "json.h"

/* A writer that is zeroed, or whose file is NULL, takes every call and writes nothing. Numbers that are not finite are
 * written as null, strings that are not UTF-8 with U+FFFD in place of each wrong byte. */
typedef struct jsonl_writer {
    FILE *file;
    int open;  /* inside an object */
    int error; /* of the first write that failed, a number of errno; 0: none has */
} jsonl_writer;

/* A place between two lines of a log. */
typedef struct jsonl_place {
    int64_t bytes; /* before it; 0: nothing yet, no log, or one that has no length */
    int64_t tail;  /* hash of the last of them; of which file it is where there are none; 0: no file */
} jsonl_place;

/* Opens a log and locks it, so that no other run writes there. The lines before the place stay, which must be those
 * that were there then, and what follows is cut. Of a new log (keep zero) a file with something in it is refused. "-"
 * is standard output; devices and pipes are written to. Returns 0 or -1 with a message. */
int jsonl_open(jsonl_writer *w, const char *path, jsonl_place keep, char *message, size_t message_size);
/* Whether a file has something in it that a new log would overwrite, and what is said of it: for before the work. */
int jsonl_is_begun(const char *path);
extern const char jsonl_begun[];
/* The place behind what was written so far, which is on the disk by then. -1 when any write has failed. */
int jsonl_sync(jsonl_writer *w, jsonl_place *place);
/* Returns 0, or the first error. The writer is zeroed. */
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
typedef int (*jsonl_take_fn)(void *user, const json_t *object);
int jsonl_read(const char *path, jsonl_take_fn take, void *user, char *message, size_t message_size);

/* Writes a value and a line end to standard output, and releases it, which may be NULL for want of memory. NULL, or
 * what went wrong, in words. Jansson's own writer passes over a lack of memory and writes half. */
const char *jsonl_print(json_t *value);

#endif
