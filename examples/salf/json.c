/*
 * json.c - Jansson's memory. Its reader does not tell a lack of memory from bad JSON, and in one place takes it for
 * impossible and ends the process (an assertion in lex_unget_unsave, up to 2.14). So its reader never sees one: the
 * allocation that fails leaves it by longjmp, and what it had taken by then is freed here, for which each block knows
 * its neighbours. Everywhere else Jansson's calls fail as they are documented to.
 */
#include "json.h"

#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>

/* In front of each block of Jansson's, in a ring; the newest is behind the ring's own. Aligned as malloc's blocks. */
typedef union block {
    struct {
        union block *newer, *older;
    } in;
    max_align_t align;
} block;

static block ring = {.in = {&ring, &ring}};
static jmp_buf *reader; /* where a reader that lacks memory is left to; NULL: nothing is read */

static void *take_block(size_t size) {
    block *b = size <= SIZE_MAX - sizeof *b ? malloc(sizeof *b + size) : NULL;
    if (!b && reader) longjmp(*reader, 1);
    if (!b) return NULL;
    b->in.newer = &ring;
    b->in.older = ring.in.older;
    ring.in.older = b->in.older->in.newer = b;
    return b + 1;
}

static void free_block(void *memory) {
    if (!memory) return;
    block *b = (block *)memory - 1;
    b->in.newer->in.older = b->in.older;
    b->in.older->in.newer = b->in.newer;
    free(b);
}

/* Before main, as no block may be freed by another function than it was taken by. */
__attribute__((constructor)) static void use_blocks(void) {
    json_set_alloc_funcs(take_block, free_block);
}

json_t *json_read(const char *text, size_t n, size_t flags, json_error_t *error) {
    const block *const before = ring.in.older; /* the newest of those that are not the reader's */
    jmp_buf here;
    if (setjmp(here)) {
        reader = NULL;
        while (ring.in.older != before) free_block(ring.in.older + 1);
        *error = (json_error_t){.line = -1, .text = "out of memory"};
        return NULL;
    }
    reader = &here;
    json_t *value = json_loadb(text, n, flags, error);
    reader = NULL;
    return value;
}
