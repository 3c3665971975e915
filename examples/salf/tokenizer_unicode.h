/* tokenizer_unicode.h - UTF-8, categories of characters, composed form. */
#ifndef SALF_EXAMPLE_TOKENIZER_UNICODE_H
#define SALF_EXAMPLE_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that grow as they are needed. failed: memory ran out, and what was appended since is lost. */
typedef struct text_buffer {
    char *bytes;
    size_t n, room;
    bool failed;
} text_buffer;

void text_append(text_buffer *t, const char *bytes, size_t n);
void text_append_code(text_buffer *t, uint32_t code);

/* Length of the UTF-8 sequence at the start of n > 0 bytes; 0 where it is none, or not whole. */
int utf8_length(const char *s, size_t n);
/* The character at the start of n > 0 bytes of valid UTF-8, and its length. */
uint32_t utf8_code(const char *s, int *length);
/* A copy in which each byte that belongs to no valid character is U+FFFD, as Python's errors="replace" nearly has it.
 * */
void utf8_repair(text_buffer *out, const char *s, size_t n);

/* The bit of a character's general category in a mask of them. */
uint32_t unicode_category(uint32_t code);
/* Mask of the categories whose names begin so ("L", "Nd"); 0 when there are none. */
uint32_t unicode_mask(const char *name, size_t length);
/* White_Space, \s of regular expressions. */
bool unicode_is_space(uint32_t code);

/* Appends normalisation form C of valid UTF-8. */
void unicode_compose(text_buffer *out, const char *s, size_t n);

#endif
