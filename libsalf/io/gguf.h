/* gguf.h - files of llama.cpp: reading one, its metadata, its quantised types. Not installed. */
#ifndef SALF_GGUF_H
#define SALF_GGUF_H

#include "io.h"

/* ---- gguf.c ---- */

/* Checks a GGUF file in memory and adds its tensors, shapes in the order of numpy (rows first, where the file has the
 * length of a row first). Bytes stay borrowed. The file that is mapped first also gives the handle its fields and, for
 * salf_tensors_metadata, those whose value is a text. parts: how many files its model is split into, 1 for most; a
 * later part must carry its number. */
salf_status slf_gguf_read(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path, int64_t *parts);

/* The field of a key; NULL when there is none. */
const slf_file_field *slf_gguf_field(const salf_tensors *tensors, const char *key);
/* A field's value in least ... most. A missing one leaves *out; so does, with each, a list of unequal numbers, one for
 * each layer. SALF_E_CORRUPT for one of another type or out of range. path begins messages. */
salf_status slf_gguf_integer(const salf_tensors *tensors, const char *path, const char *key, bool each, int64_t least,
                             int64_t most, int64_t *out);
/* A finite number in least ... largest double; otherwise as above. */
salf_status slf_gguf_real(const salf_tensors *tensors, const char *path, const char *key, double least, double *out);
/* Copies a text of less than size bytes; "" when it is missing, no text, longer, or has a byte 0. */
void slf_gguf_text(const salf_tensors *tensors, const char *key, char *text, size_t size);
/* Tokens of the tokenizer, without those that the converter made up at the end to fill the rows of the embedding (their
 * type is 5, unused, and token i is called [PADi]); -1 when the file has no list of tokens, or another one of types. */
int64_t slf_gguf_tokens(const salf_tensors *tensors);

/* Whether a path is a file, no folder, that begins as GGUF files do or is called one (shards.c). */
bool slf_path_is_gguf(const char *path);

/* ---- quant.c: element types ---- */

typedef struct slf_gguf_type {
    const char *name;
    int32_t dtype;    /* SALF_F32 ...: usable where it lies; 0: not */
    int32_t packed;   /* quantised type that slf_unpack_row knows, > 0; 0: none */
    int32_t elements; /* of a block; 1 where elements stand alone */
    int32_t bytes;    /* of a block */
} slf_gguf_type;

/* NULL for a number that is no type of this version of the format. */
const slf_gguf_type *slf_gguf_type_of(uint32_t number);
/* n elements of a quantised row as float32; n is a multiple of the type's block. */
void slf_unpack_row(int32_t packed, const uint8_t *row, int64_t n, float *out);
/* A salf_rows_fn over a two-dimensional entry (user) that is quantised. */
int32_t slf_entry_rows(void *user, int64_t first, int64_t count, float *out);

#endif
