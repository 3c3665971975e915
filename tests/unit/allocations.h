/*
 * allocations.h - allocations that fail when a test wants it. The test program that includes this file is linked with
 * --wrap (in tests.mk), so that malloc and its kin of everything linked to it, the library too, come here: no code is
 * left out, and none of it has a seam for the test.
 */
#ifndef SALF_TEST_ALLOCATIONS_H
#define SALF_TEST_ALLOCATIONS_H

#include <stdbool.h>
#include <stdlib.h>

static _Thread_local long allocations_until = -1; /* allocations before the one that fails; negative: none fails */
static _Thread_local long allocations_made;

static bool allocation_fails(void) {
    allocations_made++;
    return allocations_until >= 0 && allocations_until-- == 0;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t size) {
    return allocation_fails() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t count, size_t size) {
    return allocation_fails() ? NULL : __real_calloc(count, size);
}
void *__wrap_realloc(void *block, size_t size) {
    return allocation_fails() ? NULL : __real_realloc(block, size);
}
void *__wrap_aligned_alloc(size_t align, size_t size) {
    return allocation_fails() ? NULL : __real_aligned_alloc(align, size);
}
char *__wrap_strdup(const char *text) {
    return allocation_fails() ? NULL : __real_strdup(text);
}

#endif
