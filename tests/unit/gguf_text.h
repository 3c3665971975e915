/* gguf_text.h - GGUF files that tests write by hand, from a text. */
#ifndef SALF_TEST_GGUF_TEXT_H
#define SALF_TEST_GGUF_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Words of the text, one space apart, become bytes: 'abc those letters; N:V a little-endian number of N bytes; s:abc a
 * length of 8 bytes and the letters; f:V a float32; z:N N zero bytes; d:N N bytes that count 0, 1, ...; pad zeros up to
 * a multiple of 32. Returns how many there are; fails the test when more than size. */
size_t gguf_assemble(uint8_t *bytes, size_t size, const char *text);
/* The same as a file. */
void gguf_write(const char *path, const char *text);

/* A header with so many tensors and fields (as text), the field of a text, of a u32, of a float32. */
#define GGUF_HEAD(tensors, fields)  "'GGUF 4:3 8:" tensors " 8:" fields " "
#define GGUF_TEXT(key, value)       "s:" key " 4:8 s:" value " "
#define GGUF_U32(key, value)        "s:" key " 4:4 4:" value " "
#define GGUF_F32(key, value)        "s:" key " 4:6 f:" value " "
#define GGUF_VECTOR(name, n, place) "s:" name " 4:1 8:" n " 4:0 8:" place " "
/* type: number of the format; the length of a row first. */
#define GGUF_MATRIX(name, cols, rows, type, place) "s:" name " 4:2 8:" cols " 8:" rows " 4:" type " 8:" place " "

#endif
