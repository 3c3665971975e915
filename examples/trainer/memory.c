/* memory.c - memory that is freed in one go, and errors that end the program. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "trainer.h"

/* The block's first 64 bytes are its link, so that what follows begins on a cache line of its own. */
enum { LINK = 64 };

void *take(memory **chain, int64_t count, int64_t size) {
    if (count < 0 || count > (INT64_MAX - LINK) / 2 / size) fail("no memory for %lld things", (long long)count);
    memory *block = aligned_alloc(LINK, (size_t)(LINK + (count * size + LINK - 1) / LINK * LINK));
    if (!block) fail("no memory for %lld bytes", (long long)(count * size));
    block->next = *chain;
    *chain = block;
    char *bytes = (char *)block + LINK;
    for (int64_t i = 0; i < count * size; i++) bytes[i] = 0;
    return bytes;
}

void free_chain(memory **chain) {
    while (*chain) {
        memory *next = (*chain)->next;
        free(*chain);
        *chain = next;
    }
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("trainer: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void check(salf_status status, const char *what) {
    if (status != SALF_OK) fail("%s: %s", what, salf_last_error());
}
