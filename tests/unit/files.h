/* files.h - files that tests write by hand, among them safetensors files that lie. */
#ifndef SALF_TEST_FILES_H
#define SALF_TEST_FILES_H

#include <stddef.h>
#include <stdint.h>

/* A path in the test's scratch folder (harness_path) that stays valid; freed by the caller. */
char *files_path(const char *name);
void files_write(const char *path, const void *bytes, size_t n);
/* Up to room bytes of a file; returns how many. */
size_t files_read(const char *path, uint8_t *bytes, size_t room);

/* A safetensors file: header length, header, and n bytes of data that count from 0. Returns its size. */
size_t files_build_tensors(uint8_t *out, const char *header, size_t n);
/* The same as a file of at most 2048 bytes. */
void files_write_tensors(const char *path, const char *header, size_t n);

#endif
