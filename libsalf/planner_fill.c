/*
 * planner_fill.c - the random order in which data fill layers.
 *
 * Filling: one random permutation of all ids for the whole plan; each fill takes the next unused ones. This is a
 * uniform sample at every stage: all that happened so far depends on the eof and on the prefix of the permutation read
 * so far, given which the unread rest is uniformly ordered, and so are the unused among it; and everything in the
 * prefix is used.
 *
 * Permutation: each id draws one of 2^b buckets, and each bucket is shuffled (Fisher-Yates) when a part of it is read;
 * the order within buckets that are read whole does not matter. Uniform: bucket draws are independent and alike for all
 * ids, so that, given the sizes, every way to deal the ids out is equally likely, and within a bucket every order is.
 * Buckets of some 2^16 ids stay in cache, where a shuffle of all would miss it at every step.
 *
 * Online the permutation is one of ids, 4 bytes each. Where all data are settled at once it need not be: labels are
 * dealt out in the order of their ids, 1 or 2 bytes each, the fills change them there, and a second walk in order of id
 * meets each at the place where the first one put it. So nothing is read or written at random but by 2^b streams.
 */
#include <string.h>

#include "planner_internal.h"

/* Streams of the counter-based generator. */
#define STREAM_BUCKET 0x706C616E6275636Bu
#define STREAM_DRAW   0x706C616E64726177u
#define MOST_BITS     12

/* ---- a permutation of ids ---- */

static uint32_t bucket_of(uint32_t word, int32_t bits) {
    return bits == 0 ? 0 : word >> (32 - bits);
}

/* Calls for ids 4i ... 4i+3 share one block of random bits. */
static void deal(slf_shuffle *s, uint32_t *at, bool place) {
    for (int64_t first = 0; first < s->count; first += 4) {
        uint32_t words[4];
        slf_philox(s->seed, (uint64_t)first / 4, STREAM_BUCKET, words);
        const int64_t end = s->count - first < 4 ? s->count - first : 4;
        for (int64_t i = 0; i < end; i++) {
            const uint32_t position = at[bucket_of(words[i], s->bits)]++;
            if (place) s->ids[position] = (uint32_t)(first + i);
        }
    }
}

/* Positions first ... end-1 of the permutation, whose elements are items [end-first]. */
static void shuffle_items(uint64_t seed, uint32_t first, uint32_t end, uint32_t *items) {
    for (uint32_t i = first; i < end; i++) {
        const uint32_t j = i + (uint32_t)slf_random_below(seed, STREAM_DRAW, i, end - i);
        const uint32_t item = items[j - first];
        items[j - first] = items[i - first];
        items[i - first] = item;
    }
}

/* Ids into their buckets. */
static void deal_all(slf_shuffle *s) {
    const uint32_t buckets = (uint32_t)1 << s->bits;
    uint32_t *cursor = s->bucket_at + buckets + 1; /* [buckets] */
    deal(s, s->bucket_at + 1, false);
    for (uint32_t b = 0; b < buckets; b++) {
        cursor[b] = s->bucket_at[b];
        s->bucket_at[b + 1] += s->bucket_at[b];
    }
    deal(s, cursor, true);
    s->dealt = true;
}

/* Buckets are 2^bits. */
static int32_t bits_for(int64_t count) {
    int32_t bits = 0;
    while (bits < MOST_BITS && count >> bits > 65536) bits++;
    return bits;
}

salf_status slf_shuffle_begin(slf_shuffle *s, const salf_context *context, int64_t count, uint64_t seed) {
    const int32_t bits = bits_for(count);
    *s = (slf_shuffle){.count = count, .seed = seed, .bits = bits};
    const uint32_t buckets = (uint32_t)1 << bits;
    s->ids = slf_alloc(context, (uint64_t)count, sizeof *s->ids);
    s->bucket_at = slf_alloc_zero(context, 2 * (uint64_t)buckets + 1, sizeof *s->bucket_at);
    if (!s->ids || !s->bucket_at) {
        slf_shuffle_free(s, context);
        return SALF_E_NO_MEMORY;
    }
    return SALF_OK;
}

void slf_shuffle_free(slf_shuffle *s, const salf_context *context) {
    slf_free(context, s->ids);
    slf_free(context, s->bucket_at);
    *s = (slf_shuffle){0};
}

int64_t slf_shuffle_take(slf_shuffle *s, int64_t most, const uint32_t **ids) {
    if (!s->dealt) deal_all(s);
    while ((uint64_t)s->drawn >= s->bucket_at[s->bucket + 1]) {
        s->bucket++;
        s->ordered = false;
    }
    const int64_t left = (int64_t)s->bucket_at[s->bucket + 1] - s->drawn;
    if (most < left && !s->ordered) {
        const uint32_t first = s->bucket_at[s->bucket];
        shuffle_items(s->seed, first, s->bucket_at[s->bucket + 1], s->ids + first);
        s->ordered = true;
    }
    const int64_t n = most < left ? most : left;
    *ids = s->ids + s->drawn;
    s->drawn += n;
    return n;
}

/* ---- labels in the order of the permutation ---- */

/* Walks over all ids go in pieces, which threads may share: each has its own places to count up from. */
enum { PIECES = 16 };

typedef struct {
    slf_fills *fills;
    void *labels; /* in order of id */
    uint64_t *by_fill;
} fill_job;

/* First id of a piece: a multiple of 64, so that words of by_fill have one writer. */
static int64_t piece_begin(const slf_fills *f, int64_t piece) {
    const int64_t words = slf_bit_words(f->count), at = (words / PIECES * piece + words % PIECES * piece / PIECES) * 64;
    return at < f->count ? at : f->count;
}

static uint32_t *piece_places(const slf_fills *f, int64_t piece) {
    return f->places + (piece << f->bits);
}

/* Draws the buckets of a piece's ids and counts them. */
static void draw_piece(void *user, int64_t first, int64_t last) {
    slf_fills *f = ((const fill_job *)user)->fills;
    for (int64_t piece = first; piece < last; piece++) {
        const int64_t end = piece_begin(f, piece + 1);
        uint32_t *count = piece_places(f, piece);
        for (int64_t id = piece_begin(f, piece); id < end; id += 4) {
            uint32_t words[4];
            slf_philox(f->seed, (uint64_t)id / 4, STREAM_BUCKET, words);
            for (int64_t i = 0; i < 4 && id + i < end; i++) {
                f->bucket[id + i] = (uint16_t)bucket_of(words[i], f->bits);
                count[f->bucket[id + i]]++;
            }
        }
    }
}

/* Counts of the pieces become the places at which each begins in each bucket; the size of the largest bucket. */
static uint32_t place_pieces(slf_fills *f) {
    uint32_t at = 0, largest = 0;
    for (uint32_t b = 0; b < (uint32_t)1 << f->bits; b++) {
        f->bucket_at[b] = at;
        for (int64_t piece = 0; piece < PIECES; piece++) {
            uint32_t *place = piece_places(f, piece) + b;
            const uint32_t count = *place;
            *place = at;
            at += count;
        }
        if (at - f->bucket_at[b] > largest) largest = at - f->bucket_at[b];
    }
    f->bucket_at[(uint32_t)1 << f->bits] = at;
    return largest;
}

/* After a walk each place is where the next piece begins; back to where it began. */
static void rewind_pieces(slf_fills *f) {
    const size_t buckets = (size_t)1 << f->bits;
    memmove(f->places + buckets, f->places, (PIECES - 1) * buckets * sizeof *f->places);
    memcpy(f->places, f->bucket_at, buckets * sizeof *f->places);
}

static inline void deal_labels(slf_fills *f, const void *labels, int64_t piece, bool byte) {
    uint32_t *place = piece_places(f, piece);
    const int64_t end = piece_begin(f, piece + 1);
    for (int64_t i = piece_begin(f, piece); i < end; i++)
        slf_label_write(byte, f->labels, place[f->bucket[i]]++, slf_label_read(byte, labels, i));
}

static void deal_piece(void *user, int64_t first, int64_t last) {
    const fill_job *job = user;
    for (int64_t piece = first; piece < last; piece++) {
        if (job->fills->byte)
            deal_labels(job->fills, job->labels, piece, true);
        else
            deal_labels(job->fills, job->labels, piece, false);
    }
}

salf_status slf_fills_begin(slf_fills *f, const salf_context *context, void *labels, bool byte, int64_t count,
                            uint64_t seed) {
    *f = (slf_fills){.count = count, .seed = seed, .bits = bits_for(count), .byte = byte};
    const uint64_t buckets = (uint64_t)1 << f->bits;
    f->bucket = slf_alloc(context, (uint64_t)count, sizeof *f->bucket);
    f->labels = slf_alloc(context, (uint64_t)count, byte ? 1 : 2);
    f->bucket_at = slf_alloc(context, buckets + 1, sizeof *f->bucket_at);
    f->places = slf_alloc_zero(context, PIECES * buckets, sizeof *f->places);
    if (!f->bucket || !f->labels || !f->bucket_at || !f->places) return SALF_E_NO_MEMORY;
    fill_job job = {.fills = f, .labels = labels};
    slf_parallel_for(context, PIECES, 1, draw_piece, &job);
    f->order = slf_alloc(context, place_pieces(f), sizeof *f->order);
    if (!f->order) return SALF_E_NO_MEMORY;
    slf_parallel_for(context, PIECES, 1, deal_piece, &job);
    rewind_pieces(f);
    return SALF_OK;
}

void slf_fills_free(slf_fills *f, const salf_context *context) {
    slf_free(context, f->bucket);
    slf_free(context, f->labels);
    slf_free(context, f->bucket_at);
    slf_free(context, f->places);
    slf_free(context, f->order);
    *f = (slf_fills){0};
}

/* The bucket at hand gets its order: places of labels. */
static void order_bucket(slf_fills *f) {
    const uint32_t first = f->bucket_at[f->at_bucket], end = f->bucket_at[f->at_bucket + 1];
    for (uint32_t i = first; i < end; i++) f->order[i - first] = i;
    shuffle_items(f->seed, first, end, f->order);
    f->ordered = true;
}

/* Reads n labels from drawn on, and gives those above layer to it; how many. */
static inline int64_t read_on(slf_fills *f, uint32_t layer, int64_t n, int64_t *unused, bool byte) {
    const uint32_t *order = f->ordered ? f->order + (f->drawn - f->bucket_at[f->at_bucket]) : NULL;
    int64_t taken = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t place = order ? order[i] : f->drawn + i;
        const uint32_t label = slf_label_read(byte, f->labels, place);
        if (label <= layer) continue;
        unused[label]--;
        slf_label_write(byte, f->labels, place, layer);
        taken++;
    }
    f->drawn += n;
    return taken;
}

void slf_fills_take(slf_fills *f, uint32_t layer, int64_t missing, int64_t *unused) {
    while (missing > 0) {
        while ((uint64_t)f->drawn >= f->bucket_at[f->at_bucket + 1]) {
            f->at_bucket++;
            f->ordered = false;
        }
        const int64_t left = (int64_t)f->bucket_at[f->at_bucket + 1] - f->drawn;
        if (missing < left && !f->ordered) order_bucket(f);
        const int64_t n = missing < left ? missing : left;
        missing -= f->byte ? read_on(f, layer, n, unused, true) : read_on(f, layer, n, unused, false);
    }
}

static inline void collect(slf_fills *f, void *labels, uint64_t *by_fill, int64_t piece, bool byte) {
    uint32_t *place = piece_places(f, piece);
    const int64_t end = piece_begin(f, piece + 1);
    for (int64_t first = piece_begin(f, piece); first < end; first += 64) {
        const int64_t n = end - first < 64 ? end - first : 64;
        uint64_t changed = 0; /* without a branch on it, which nothing could predict */
        for (int64_t k = 0; k < n; k++) {
            const uint32_t now = slf_label_read(byte, f->labels, place[f->bucket[first + k]]++);
            changed |= (uint64_t)(now != slf_label_read(byte, labels, first + k)) << k;
            slf_label_write(byte, labels, first + k, now);
        }
        by_fill[first / 64] = changed;
    }
}

static void collect_piece(void *user, int64_t first, int64_t last) {
    const fill_job *job = user;
    for (int64_t piece = first; piece < last; piece++) {
        if (job->fills->byte)
            collect(job->fills, job->labels, job->by_fill, piece, true);
        else
            collect(job->fills, job->labels, job->by_fill, piece, false);
    }
}

void slf_fills_collect(slf_fills *f, const salf_context *context, void *labels, uint64_t *by_fill) {
    fill_job job = {.fills = f, .labels = labels, .by_fill = by_fill};
    slf_parallel_for(context, PIECES, 1, collect_piece, &job);
}
