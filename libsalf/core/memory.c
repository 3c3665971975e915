/*
 * memory.c - host memory through the context's hooks.
 *
 * A block is preceded by one alignment unit that holds its whole size: the free hook is given the size back, and no
 * caller has to remember it.
 */
#define _DEFAULT_SOURCE /* madvise */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef _WIN32
#include <malloc.h>
#endif

#include "core/core.h"

/* The size of a huge page on x86-64 and arm64. Blocks of at least four of them ask for huge pages: below that, rounding
 * a block up to whole pages would waste more than a fifth of it. */
#define HUGE_PAGE   ((size_t)2 << 20)
#define LARGE_BLOCK (4 * HUGE_PAGE)

/* The first touch of a page costs several times what writing it does, hence huge pages. Where the system has none to
 * give, nothing changes. */
static void *default_alloc(void *user, size_t size, size_t align) {
    (void)user;
    const bool large = size >= LARGE_BLOCK;
    if (large && align < HUGE_PAGE) align = HUGE_PAGE;
    const size_t whole = (size + align - 1) / align * align; /* aligned_alloc takes multiples only */
#ifdef _WIN32                                                /* whose C library has no aligned_alloc */
    void *memory = whole >= size ? _aligned_malloc(whole, align) : NULL;
#else
    void *memory = whole >= size ? aligned_alloc(align, whole) : NULL;
#endif
#ifdef MADV_HUGEPAGE
    if (memory && large) (void)madvise(memory, whole, MADV_HUGEPAGE);
#endif
    return memory;
}

static void default_free(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
#ifdef _WIN32
    _aligned_free(memory);
#else
    free(memory);
#endif
}

void slf_memory_defaults(salf_context_options *options) {
    if (options->alloc) return;
    options->alloc = default_alloc;
    options->free = default_free;
}

/* The limit leaves room for the unit in front and for an allocator that rounds up to one more. */
void *slf_alloc(const salf_context *context, uint64_t count, uint64_t size) {
    if (size != 0 && count > (SIZE_MAX - 2 * SLF_ALIGNMENT) / size) {
        slf_fail(SALF_E_NO_MEMORY, "out of memory: %" PRIu64 " elements of %" PRIu64 " bytes exceed the address space",
                 count, size);
        return NULL;
    }
    const size_t whole = (size_t)(count * size) + SLF_ALIGNMENT;
    char *block = context->options.alloc(context->options.alloc_user, whole, SLF_ALIGNMENT);
    if (!block) {
        slf_fail(SALF_E_NO_MEMORY, "out of memory: %zu bytes asked for", whole);
        return NULL;
    }
    memcpy(block, &whole, sizeof whole);
    return block + SLF_ALIGNMENT;
}

void *slf_alloc_zero(const salf_context *context, uint64_t count, uint64_t size) {
    void *memory = slf_alloc(context, count, size);
    if (memory) memset(memory, 0, (size_t)(count * size));
    return memory;
}

void slf_free(const salf_context *context, void *memory) {
    if (!memory) return;
    char *block = (char *)memory - SLF_ALIGNMENT;
    size_t whole;
    memcpy(&whole, block, sizeof whole);
    context->options.free(context->options.alloc_user, block, whole);
}

void slf_free_all(const salf_context *context, void *const *blocks, size_t n) {
    for (size_t i = 0; i < n; i++) slf_free(context, blocks[i]);
}

char *slf_strdup(const salf_context *context, const char *text) {
    const size_t size = strlen(text) + 1;
    char *copy = slf_alloc(context, size, 1);
    if (copy) memcpy(copy, text, size);
    return copy;
}
