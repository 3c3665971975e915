/* tokenizer.h - byte-pair tokenizers: the tokenizer.json of Hugging Face models, and the .bin form of small Llama-style
 * ones (files and encoding: docs/formats.md). examples/demo has a trainer that writes the latter. */
#ifndef SALF_EXAMPLE_TOKENIZER_H
#define SALF_EXAMPLE_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

/* Of .bin files. */
enum { TOKEN_UNKNOWN = 0, TOKEN_START = 1, TOKEN_END = 2 };
/* What tokenizer_first_id says instead of an id. */
enum { TOKEN_NO_MEMORY = -1, TOKEN_NONE = -2 };
/* As many ids may lie beyond a model's vocabulary: Gemma 3's models without images have no row for the token of one,
 * and who adds a [PAD] mostly leaves the model as it is. More of them are another model's. */
enum { TOKENS_BEYOND_MOST = 64 };

/* Immutable once made: safe to share between threads. */
typedef struct tokenizer tokenizer;

/* Reads a file, or tokenizer.json or else tokenizer.bin in a folder, whose tokenizer_config.json must not want other
 * ids. Returns 0, or -1 with *out NULL and a one-line message that begins with the path. */
int tokenizer_load(tokenizer **out, const char *path, char *message, size_t message_size);
void tokenizer_destroy(tokenizer *t);

/* Number of ids. */
int32_t tokenizer_size(const tokenizer *t);
/* Hash of the file that it was read from. */
uint64_t tokenizer_content(const tokenizer *t);
/* Bytes of a piece, borrowed, 0-terminated; *length may be NULL. NULL for an id out of range. */
const char *tokenizer_piece(const tokenizer *t, int32_t id, int32_t *length);

/* Whether it was read from a tokenizer.json. */
int tokenizer_is_json(const tokenizer *t);
/* Ids of a text in a fresh list, freed by the caller, with what the tokenizer puts around every text (a .bin one: the
 * start token in front). Bytes that are no UTF-8 become U+FFFD with a tokenizer.json. NULL when memory is short, and
 * when a pattern of the file takes more than some hundred steps a byte. */
int32_t *tokenizer_encode_new(const tokenizer *t, const char *text, int64_t *n);
/* The same of a text that goes on: without what the tokenizer puts behind every text, such as an end token. */
int32_t *tokenizer_prompt_new(const tokenizer *t, const char *text, int64_t *n);
/* First id of a word as it stands inside a text, that is behind a space; where the space is a token of its own, the one
 * after it. TOKEN_NONE when it has none, TOKEN_NO_MEMORY. */
int32_t tokenizer_first_id(const tokenizer *t, const char *word);
/* The id that follows those of a prompt where word stands behind it, and a space between them unless the prompt ends
 * in one; where that space is a token of its own, the one after it. TOKEN_NONE also where the prompt's own ids become
 * others, as the tokenizer joins the space or the word to them. */
int32_t tokenizer_id_behind(const tokenizer *t, const char *prompt, const char *word);

#endif
