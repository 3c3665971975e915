/* plan.h - parts of the budget planner: counts, the order of fills, the settling of all data, state. */
#ifndef SALF_PLAN_H
#define SALF_PLAN_H

#include "core/core.h"

/* fill.c: the random order of fills, the same offline and online. */
#define SLF_WIDTHS 3
typedef struct slf_width {
    int32_t shift;       /* keys of a bucket: 2^shift */
    uint32_t limit;      /* the first key */
    uint32_t first, end; /* numbers of its buckets */
} slf_width;

typedef struct slf_fill_order {
    uint64_t seed;
    int64_t count;
    uint32_t buckets;            /* number 0 is the front, drawn one by one */
    int32_t widths;              /* 0: all is the front */
    slf_width width[SLF_WIDTHS]; /* the narrowest, behind the front, first */
} slf_fill_order;

slf_fill_order slf_fill_order_of(int64_t count, int32_t m, uint64_t seed);

/* The ids that are drawn one by one. */
typedef struct slf_front {
    uint32_t *ids; /* room for all; the first n are in use: shuffled ones in the order of the draws */
    int64_t n;
    int64_t shuffled; /* ahead of drawn, so that what belongs to them can be called into the cache */
    int64_t drawn;
    bool all; /* the front was used up, and these are all ids */
} slf_front;

void slf_front_list(slf_front *front, const slf_fill_order *order, bool all);
uint32_t slf_front_next(slf_front *front, const slf_fill_order *order);

/* Online: the next missing data that are not used become used and pending. unused [buckets] is work space. */
void slf_fill_online(slf_front *front, const slf_fill_order *order, uint32_t *unused, uint64_t *used, uint64_t *pending,
                     int64_t missing);

typedef struct slf_planner_state slf_planner_state;

/* Pieces of a walk over all ids, which threads may share. */
enum { SLF_FILL_PIECES = 16 };

/* Offline: fills of all layers, from the number of data of each label in each bucket. */
typedef struct slf_fills {
    const slf_fill_order *order;
    void *labels; /* of the state, as by_fill */
    uint64_t *by_fill;
    slf_front front;
    uint32_t *cells; /* [pieces][m+1][buckets] data by label and bucket, of which the first piece holds the sums */
    uint32_t *open;  /* [buckets] those whose label is above the layer at hand */
    uint16_t *stage; /* [buckets] the layer that a bucket fills */
    int64_t listed[SLF_FILL_PIECES]; /* ids of the front in each piece */
    uint32_t back[SLF_WIDTHS];       /* buckets of each width from here on fill a layer */
    uint32_t closed;                 /* labels below are not in open */
    uint32_t m;
    bool byte;
    bool begun;
} slf_fills;

/* room: [count], until all fills are taken. What the state holds changes with the first take only. */
salf_status slf_fills_begin(slf_fills *fills, const salf_planner *planner, const slf_planner_state *state,
                            uint32_t *room);
void slf_fills_free(slf_fills *fills, const salf_context *context);
/* The next missing data whose label is above layer fill it; unused [m+1], counts by label, lose them. Data of whole
 * buckets keep their labels until they are settled. */
void slf_fills_take(slf_fills *fills, uint32_t layer, int64_t missing, int64_t *unused);
/* Labels and by_fill of data first ... end-1, first a multiple of SLF_PIECES, once all is taken. */
void slf_fills_settle(const slf_fills *fills, int64_t first, int64_t end);

/* Task at hand: none, given and not answered, or reported and not done. */
enum { SLF_TASK_NONE = 0, SLF_TASK_GIVEN = 1, SLF_TASK_REPORTED = 2 };

/* What changes while a plan is worked through; replaced as a whole by a load. */
struct slf_planner_state {
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
    slf_front front;   /* ids NULL until something is drawn */
    uint32_t *unused;  /* [buckets] */
};

struct salf_planner {
    atomic_int references;
    salf_context *context;
    salf_planner_options options;
    int32_t m;
    int64_t n;
    double *weights; /* [m] or NULL */
    int64_t *counts; /* [m] */
    slf_fill_order order;
    slf_planner_state state;
};

salf_planner *slf_planner_retain(salf_planner *planner);
/* The task at hand, kind DONE where there is none. */
void slf_planner_task(const salf_planner *planner, salf_task *task);
int32_t slf_planner_layers(const salf_planner *planner);

/* counts.c */
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

/* place.c */
typedef struct slf_part {
    uint32_t at, end; /* where the next id goes; where the part is full */
} slf_part;

typedef struct slf_placing {
    const salf_planner *planner;
    slf_planner_state *state;
    const slf_fills *fills;
    size_t kinds; /* labels that a label's type has */
    int64_t chunk, chunks, pieces;
    uint32_t *counts; /* [chunks][2][kinds] data by label, without and with those that fill */
    slf_part *parts;  /* [pieces][2m] */
    uint32_t *target; /* [pieces][2m+1] */
    bool byte;
} slf_placing;

salf_status slf_placing_begin(slf_placing *placing, const salf_planner *planner, slf_planner_state *state);
void slf_placing_free(slf_placing *placing, const salf_context *context);
/* Counts labels, after settling them where there are fills. */
void slf_placing_count(slf_placing *placing, const slf_fills *fills);
int64_t slf_placing_sum(const slf_placing *placing, uint32_t label, bool fill);
/* Ids by layer, matched before filled, ascending: data [N] from labels and by_fill as counted, and matched [m]; labels
 * become layers. */
void slf_placing_run(slf_placing *placing);

/* match.c */
/* Marked as unknown where not all are written at once. */
salf_status slf_planner_new_labels(const salf_planner *planner, bool unknown, void **labels);
salf_status slf_planner_settle(salf_planner *planner);
/* Data [N] from labels, here layers, and by_fill; matched and filled [m] are counted. */
salf_status slf_planner_collect(const salf_planner *planner, slf_planner_state *state);

/* state.c */
salf_status slf_state_init(slf_planner_state *state, const salf_planner *planner);
void slf_state_free(slf_planner_state *state, const salf_planner *planner);
salf_status slf_state_room(slf_planner_state *state, const salf_planner *planner, int64_t n);
salf_status slf_state_draws(slf_planner_state *state, const salf_planner *planner);
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
/* Calls a line that will be written into the cache. */
#if defined(__GNUC__)
#define SLF_PREFETCH(address) __builtin_prefetch(address, 1)
#else
#define SLF_PREFETCH(address) ((void)(address))
#endif

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
