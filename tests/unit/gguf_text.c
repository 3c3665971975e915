/* gguf_text.c - see gguf_text.h. */
#include "gguf_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "harness.h"

size_t gguf_assemble(uint8_t *bytes, size_t size, const char *text) {
    size_t n = 0;
    memset(bytes, 0, size);
    for (const char *word = text; *word;) {
        const size_t length = strcspn(word, " ");
        const char *value = memchr(word, ':', length) ? (const char *)memchr(word, ':', length) + 1 : word;
        const size_t letters = (size_t)(word + length - value);
        const uint64_t number = strtoull(value, NULL, 0);
        ck_assert_uint_le(n + length + 64 + (*word == 'z' || *word == 'd' ? number : 0), size);
        if (*word == '\'') {
            memcpy(bytes + n, word + 1, length - 1);
            n += length - 1;
        } else if (*word == 's') {
            bytes[n] = (uint8_t)letters;
            memcpy(bytes + n + 8, value, letters);
            n += 8 + letters;
        } else if (*word == 'f') {
            const float real = strtof(value, NULL);
            memcpy(bytes + n, &real, sizeof real);
            n += sizeof real;
        } else if (*word == 'z' || *word == 'd') {
            for (uint64_t i = 0; *word == 'd' && i < number; i++) bytes[n + i] = (uint8_t)i;
            n += number;
        } else if (strncmp(word, "pad", 3) == 0) {
            n = (n + 31) / 32 * 32;
        } else {
            const size_t width = (size_t)(*word - '0');
            ck_assert_msg(width <= 8 && word[1] == ':', "'%s'", word);
            for (size_t i = 0; i < width; i++) bytes[n + i] = (uint8_t)(number >> 8 * i);
            n += width;
        }
        word += length + (word[length] == ' ');
    }
    return n;
}

void gguf_write(const char *path, const char *text) {
    static uint8_t bytes[1 << 16];
    files_write(path, bytes, gguf_assemble(bytes, sizeof bytes, text));
}
