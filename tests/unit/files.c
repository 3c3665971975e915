/* files.c - see files.h. */
#include "files.h"

#include <stdio.h>
#include <string.h>

#include "harness.h"

char *files_path(const char *name) {
    char *path = strdup(harness_path(name));
    ck_assert_ptr_nonnull(path);
    return path;
}

void files_write(const char *path, const void *bytes, size_t n) {
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "%s", path);
    ck_assert_uint_eq(fwrite(bytes, 1, n, file), n);
    ck_assert_int_eq(fclose(file), 0);
}

size_t files_read(const char *path, uint8_t *bytes, size_t room) {
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s", path);
    const size_t n = fread(bytes, 1, room, file);
    fclose(file);
    return n;
}

size_t files_build_tensors(uint8_t *out, const char *header, size_t n) {
    const size_t length = strlen(header);
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(out + 8, header, length);
    for (size_t i = 0; i < n; i++) out[8 + length + i] = (uint8_t)i;
    return 8 + length + n;
}

void files_write_tensors(const char *path, const char *header, size_t n) {
    uint8_t bytes[2048];
    ck_assert_uint_lt(strlen(header) + n + 8, sizeof bytes);
    files_write(path, bytes, files_build_tensors(bytes, header, n));
}
