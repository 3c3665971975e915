/* planner_internal.h - parts of the budget planner: counts, the order of fills, the settling of all data, state. */
#ifndef SALF_PLANNER_INTERNAL_H
#define SALF_PLANNER_INTERNAL_H

#include "internal.h"

/* planner_fill.c: a random permutation of 0 ... count-1: memory at once, so that reading cannot fail; work when it is
 * first read, and as far as it is read. */
typedef struct slf_shuffle {
    uint32_t *ids;       /* [count]; NULL until begun */
    uint32_t *bucket_at; /* [2^bits + 1] */
    int64_t count;
    int64_t drawn; /* positions read so far */
    uint64_t seed;
    int32_t bits;
    uint32_t bucket; /* that holds position drawn */
    bool dealt;
    bool ordered; /* that bucket is shuffled */
} slf_shuffle;

salf_status slf_shuffle_begin(slf_shuffle *shuffle, const salf_context *context, int64_t count, uint64_t seed);
void slf_shuffle_free(slf_shuffle *shuffle, const salf_context *context);
/* The next 1 ... most elements, most > 0; count in all. Their order means nothing, so where whole buckets are taken
 * none is drawn. */
int64_t slf_shuffle_take(slf_shuffle *shuffle, int64_t most, const uint32_t **ids);

/* The labels of all data in the order of such a permutation, for plans that are settled at once. */
typedef struct slf_fills {
    uint16_t *bucket;    /* [count] of each id */
    void *labels;        /* [count] in order of the permutation; NULL until begun */
    uint32_t *bucket_at; /* [2^bits + 1] */
    uint32_t *places;    /* [pieces][2^bits] of the labels of each piece's ids */
    uint32_t *order;     /* [largest bucket] order of the bucket at hand */
    int64_t count;
    int64_t drawn; /* places read so far */
    uint64_t seed;
    int32_t bits;
    uint32_t at_bucket; /* that holds place drawn */
    bool byte;
    bool ordered; /* that bucket has its order */
} slf_fills;

salf_status slf_fills_begin(slf_fills *fills, const salf_context *context, void *labels, bool byte, int64_t count,
                            uint64_t seed);
void slf_fills_free(slf_fills *fills, const salf_context *context);
/* The next missing data whose label is above layer get the label layer; unused, counts by label, lose them. */
void slf_fills_take(slf_fills *fills, uint32_t layer, int64_t missing, int64_t *unused);
/* What was taken, to the labels in order of id. Once. */
void slf_fills_collect(slf_fills *fills, const salf_context *context, void *labels, uint64_t *by_fill);

/* Task at hand: none, given and not answered, or reported and not done. */
enum { SLF_TASK_NONE = 0, SLF_TASK_GIVEN = 1, SLF_TASK_REPORTED = 2 };

/* What changes while a plan is worked through; replaced as a whole by a load. */
typedef struct slf_planner_state {
    int32_t layer;      /* whose turn it is; m when the plan is complete */
    int32_t task_state; /* SLF_TASK_* */
    int32_t task_kind;
    int32_t reserved;
    int64_t task_n;
    uint32_t *task_ids; /* ONLINE: [task_room] */
    int64_t task_room;
    int64_t *matched; /* [m], followed by filled [m] and probed [m] in one block */
    int64_t *filled;
    int64_t *probed;

    /* OFFLINE, NONE */
    bool settled;
    void *labels;      /* [N] u8 or u16: eof of each datum, once settled its layer; NULL until needed */
    uint64_t *by_fill; /* [N bits] settled: drawn to fill, not matched */
    uint32_t *data;    /* [N] settled: ids by layer, matched before filled, ascending */
    int64_t position;  /* data of this layer that were trained */

    /* ONLINE */
    uint64_t *used;    /* [N bits] belongs to a layer; NULL until the first task */
    uint64_t *pending; /* [N bits] drawn to fill this layer, not yet given out */
    int64_t scan;      /* ids below were probed for this layer */
    slf_shuffle shuffle;
} slf_planner_state;

struct salf_planner {
    atomic_int references;
    salf_context *context;
    salf_planner_options options;
    int32_t m;
    int64_t n;
    double *weights; /* [m] or NULL */
    int64_t *counts; /* [m] */
    slf_planner_state state;
};

salf_planner *slf_planner_retain(salf_planner *planner);
/* The task at hand, kind DONE where there is none. */
void slf_planner_task(const salf_planner *planner, salf_task *task);
int32_t slf_planner_layers(const salf_planner *planner);

/* planner_counts.c */
salf_status slf_planner_count(const salf_context *context, const salf_planner_options *options, int32_t m, int64_t n,
                              int64_t *counts);

/* Labels are one byte where m allows, else two; the largest value means unknown. Loops take their width once, as the
 * compiler cannot: a byte that is written may lie anywhere. */
#define SLF_MOST_LABELS 65535
static inline bool slf_label_is_byte(int32_t m) {
    return m < UINT8_MAX;
}
static inline uint32_t slf_label_read(bool byte, const void *labels, int64_t i) {
    return byte ? ((const uint8_t *)labels)[i] : ((const uint16_t *)labels)[i];
}
static inline void slf_label_write(bool byte, void *labels, int64_t i, uint32_t value) {
    if (byte)
        ((uint8_t *)labels)[i] = (uint8_t)value;
    else
        ((uint16_t *)labels)[i] = (uint16_t)value;
}
static inline uint32_t slf_label_unknown(bool byte) {
    return byte ? UINT8_MAX : UINT16_MAX;
}

/* planner_match.c */
salf_status slf_planner_new_labels(const salf_planner *planner, void **labels);
salf_status slf_planner_settle(salf_planner *planner);
/* Ids by layer, matched before filled, ascending: data [N] from labels and by_fill. matched, filled [m] are counted. */
salf_status slf_planner_collect(const salf_planner *planner, slf_planner_state *state);

/* planner_state.c */
salf_status slf_state_init(slf_planner_state *state, const salf_planner *planner);
void slf_state_free(slf_planner_state *state, const salf_planner *planner);
salf_status slf_state_room(slf_planner_state *state, const salf_planner *planner, int64_t n);
salf_status slf_state_online(slf_planner_state *state, const salf_planner *planner);

static inline bool slf_bit_get(const uint64_t *bits, int64_t i) {
    return bits[i >> 6] >> (i & 63) & 1;
}
static inline void slf_bit_set(uint64_t *bits, int64_t i) {
    bits[i >> 6] |= (uint64_t)1 << (i & 63);
}
static inline void slf_bit_clear(uint64_t *bits, int64_t i) {
    bits[i >> 6] &= ~((uint64_t)1 << (i & 63));
}
static inline int64_t slf_bit_words(int64_t n) {
    return n / 64 + (n % 64 != 0);
}
/* Number of the lowest set bit of a word that is not 0. */
static inline int32_t slf_lowest_bit(uint64_t word) {
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int32_t i = 0;
    while (!(word >> i & 1)) i++;
    return i;
#endif
}

#endif
