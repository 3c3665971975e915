/* checkpoint.h - everything a run needs to go on after a kill, in one safetensors file. */
#ifndef SALF_EXAMPLE_CHECKPOINT_H
#define SALF_EXAMPLE_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "salf.h"

/* Collects borrowed arrays, owned blobs and strings, then writes them at once. An error is kept and given by
 * checkpoint_write, so that the calls in between need no check. */
typedef struct checkpoint_writer {
    salf_named_tensor *tensors;
    int64_t n_tensors;
    char **metadata; /* key, value, key, value, ...; owned */
    int64_t n_metadata;
    void **owned; /* names and blobs */
    int64_t n_owned;
    int failed; /* 1: out of memory */
} checkpoint_writer;

/* A borrowed array of count elements, kept by the caller until the file is written. */
void checkpoint_put(checkpoint_writer *writer, const char *name, int32_t dtype, int64_t count, const void *data);
/* A copy of bytes, stored as U8. */
void checkpoint_put_bytes(checkpoint_writer *writer, const char *name, const void *bytes, uint64_t size);
void checkpoint_put_text(checkpoint_writer *writer, const char *key, const char *value);
/* Writes the file atomically and empties the writer, in every case. */
salf_status checkpoint_write(checkpoint_writer *writer, salf_context *context, const char *path);

/* Copies an array of exactly count elements out of a file. On failure message says what is missing or different. */
int checkpoint_get(const salf_tensors *file, const char *name, int32_t dtype, int64_t count, void *out, char *message,
                   size_t message_size);
/* The bytes of a blob, borrowed from the file. */
int checkpoint_get_bytes(const salf_tensors *file, const char *name, const void **bytes, uint64_t *size, char *message,
                         size_t message_size);
/* Compares pairs (option, value) [n_pairs] with those of a file; the message names the first option that differs. */
int checkpoint_check_text(const salf_tensors *file, const char *const *pairs, int64_t n_pairs, char *message,
                          size_t message_size);

#endif
