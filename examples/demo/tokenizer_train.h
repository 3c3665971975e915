/* tokenizer_train.h - makes tokenizers in the .bin form that tokenizer.h reads. */
#ifndef SALF_DEMO_TOKENIZER_TRAIN_H
#define SALF_DEMO_TOKENIZER_TRAIN_H

#include "tokenizer.h"

/* Trains `size` pieces (3 special, 256 bytes, then characters and merges, most frequent first; ties by the order of the
 * bytes) on n texts. Merges stay inside words: a piece holds a space only as its first byte. The same texts give the
 * same file on every machine. Returns 0 or -1 with a message. */
int tokenizer_train(tokenizer **out, const char *const *texts, int64_t n, int32_t size, char *message,
                    size_t message_size);

/* Writes a file, through a temporary name. Returns 0 or -1 with a message. */
int tokenizer_save(const tokenizer *t, const char *path, char *message, size_t message_size);

#endif
