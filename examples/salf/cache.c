/* cache.c - see cache.h. A put or get costs one pass over T D numbers. Room is one stretch of memory or of a file that
 * has no name any more; nothing is ever moved in it. */
#include "cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rng.h"

typedef struct cache_entry {
    int64_t at;     /* byte in the room */
    int64_t size;   /* bytes there; 0: none given yet */
    int64_t tokens; /* T */
    uint64_t hash;  /* of the tokens */
    int32_t space;  /* 0: nothing kept */
} cache_entry;

struct state_cache {
    cache_options options;
    cache_entry *entries; /* [n_data] */
    unsigned char *room;  /* [options.bytes] */
    int64_t used;
};

/* FNV-1a over the numbers, mixed at the end: two texts that differ anywhere have the same one with chance 2^-64. */
static uint64_t hash_tokens(const int32_t *tokens, int64_t n) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < n; i++) hash = (hash ^ (uint32_t)tokens[i]) * 0x100000001b3u;
    return rng_hash(hash ^ (uint64_t)n);
}

/* A file of this size without a name, mapped. All its blocks are taken at once: a disk that is full later would end the
 * process at the write into the map. */
static void *map_file(const char *folder, int64_t bytes, char *message, size_t message_size) {
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/salf-states-XXXXXX", folder);
    const int file = n > 0 && (size_t)n < sizeof path ? mkstemp(path) : -1;
    if (file < 0) {
        snprintf(message, message_size, "%.200s: %s", folder,
                 n > 0 && (size_t)n < sizeof path ? strerror(errno) : "too long");
        return NULL;
    }
    unlink(path);
    const int refused = posix_fallocate(file, 0, (off_t)bytes);
    void *room = refused ? MAP_FAILED : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (room == MAP_FAILED) snprintf(message, message_size, "%.200s: %s", folder, strerror(refused ? refused : errno));
    close(file);
    return room == MAP_FAILED ? NULL : room;
}

int cache_open(state_cache **out, const cache_options *options, char *message, size_t message_size) {
    *out = NULL;
    state_cache *c = calloc(1, sizeof *c);
    if (c) {
        c->options = *options;
        c->entries = calloc((size_t)options->n_data, sizeof *c->entries);
        if (!options->folder) c->room = malloc((size_t)options->bytes); /* pages come when they are first written */
    }
    if (!c || !c->entries || (!options->folder && !c->room)) {
        snprintf(message, message_size, "out of memory");
        cache_close(c);
        return -1;
    }
    if (options->folder) c->room = map_file(options->folder, options->bytes, message, message_size);
    if (!c->room) {
        cache_close(c);
        return -1;
    }
    *out = c;
    return 0;
}

void cache_close(state_cache *c) {
    if (!c) return;
    if (c->options.folder && c->room) munmap(c->room, (size_t)c->options.bytes);
    if (!c->options.folder) free(c->room);
    free(c->entries);
    free(c);
}

static int64_t size_of(const state_cache *c, int64_t n) {
    return n * c->options.width * (c->options.bf16 ? 2 : 4);
}

int32_t cache_space(const state_cache *c, int64_t datum, const int32_t *tokens, int64_t n) {
    const cache_entry *e = &c->entries[datum];
    return e->space > 0 && e->tokens == n && e->hash == hash_tokens(tokens, n) ? e->space : 0;
}

void cache_get(const state_cache *c, int64_t datum, int64_t n, float *states) {
    const unsigned char *from = c->room + c->entries[datum].at;
    if (!c->options.bf16) {
        memcpy(states, from, (size_t)size_of(c, n));
        return;
    }
    for (int64_t i = 0; i < n * c->options.width; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(&states[i], &bits, sizeof bits);
    }
}

/* The upper half of a float, rounded to nearest, ties to even; a NaN stays one. */
static uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

int cache_put(state_cache *c, int64_t datum, int32_t space, const int32_t *tokens, int64_t n, float *states) {
    cache_entry *e = &c->entries[datum];
    const int64_t size = size_of(c, n);
    if (c->options.bf16) {
        for (int64_t i = 0; i < n * c->options.width; i++) {
            const uint32_t bits = (uint32_t)to_bf16(states[i]) << 16;
            memcpy(&states[i], &bits, sizeof bits);
        }
    }
    /* A datum whose text has changed keeps its room where that is enough. */
    if (size > e->size) {
        if (size > c->options.bytes - c->used) {
            e->space = 0;
            return 0;
        }
        e->at = c->used;
        e->size = size;
        c->used += size;
    }
    e->tokens = n;
    e->hash = hash_tokens(tokens, n);
    e->space = space;
    unsigned char *to = c->room + e->at;
    if (!c->options.bf16) memcpy(to, states, (size_t)size);
    for (int64_t i = 0; c->options.bf16 && i < n * c->options.width; i++) {
        const uint16_t half = to_bf16(states[i]);
        memcpy(to + 2 * i, &half, sizeof half);
    }
    return 1;
}

int64_t cache_bytes(const state_cache *c) {
    return c->options.n_data * (int64_t)sizeof *c->entries + (c->options.folder ? 0 : c->used);
}
