/* tokenizer.h - byte-pair tokenizer in the .bin form of small Llama-style models (file and encoding: docs/formats.md).
 * examples/demo has a trainer that writes such files. */
#ifndef SALF_EXAMPLE_TOKENIZER_H
#define SALF_EXAMPLE_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

enum { TOKEN_UNKNOWN = 0, TOKEN_START = 1, TOKEN_END = 2 };

/* Immutable once made: safe to share between threads. */
typedef struct tokenizer tokenizer;

/* Reads a file. Returns 0, or -1 with *out NULL and a one-line message that begins with the path. */
int tokenizer_load(tokenizer **out, const char *path, char *message, size_t message_size);
void tokenizer_destroy(tokenizer *t);

/* Number of ids. */
int32_t tokenizer_size(const tokenizer *t);
/* Bytes of a piece, borrowed, 0-terminated; *length may be NULL. NULL for an id out of range. */
const char *tokenizer_piece(const tokenizer *t, int32_t id, int32_t *length);

/* Ids of a text, with the start token in front, into ids, which has room for strlen(text) + 2 (always enough). Returns
 * their number, or -1 when memory is short. */
int64_t tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids);
/* The same into a fresh list, freed by the caller; NULL when memory is short. */
int32_t *tokenizer_encode_new(const tokenizer *t, const char *text, int64_t *n);
/* First id of a word as it stands inside a text, that is behind a space; where the space is a token of its own, the one
 * after it. TOKEN_UNKNOWN when it has none, -1 when memory is short. */
int32_t tokenizer_first_id(const tokenizer *t, const char *word);

#endif
