/*
 * plan.h - parts of the budget planner: counts of the layers, matching of data to them, progress, and its saved form.
 *
 * A planner is the plan (options and counts c_e, fixed when it is made) and the progress through it, which a load
 * replaces as a whole. Progress comes in three kinds, told apart by options.matching: OFFLINE and NONE settle which
 * data train where at once and then only hand them out; ONLINE decides layer by layer, as eof are reported; STREAM
 * hands out data in order and cuts batch by batch.
 *
 * All numbers are of all ranks together, and the same on each: a task is one of all ranks, and a rank's part of it is
 * what a host sees. So a blob that one rank saved is for every rank, and for any number of them.
 */
#ifndef SALF_PLAN_H
#define SALF_PLAN_H

#include "core/blob.h"
#include "core/ids.h"
#include "core/ranks.h"

/* The order in which data fill layers: a Fisher-Yates shuffle of all ids, carried out only as far as it is drawn. It is
 * a function of seed and N alone, and what was drawn is used, so that a save need keep nothing of it. */
enum { SLF_DRAWS_AHEAD = 64 };
typedef struct slf_draws {
    uint32_t *ids;                   /* [N] from `count` on: what is not drawn yet. NULL until the first draw */
    int64_t count;                   /* draws so far */
    uint32_t place[SLF_DRAWS_AHEAD]; /* of the draws with one count div SLF_DRAWS_AHEAD: where in ids each is */
} slf_draws;

/* What is known of the task at hand. */
enum {
    SLF_PHASE_IDLE = 0,     /* there is none */
    SLF_PHASE_PROBE = 1,    /* a PROBE task is given out */
    SLF_PHASE_REPORTED = 2, /* its eof are reported; what the layer accepted is not known to be trained */
    SLF_PHASE_TRAIN = 3     /* a TRAIN task is given out */
};

typedef struct slf_offline {
    uint16_t *eof;    /* OFFLINE: [N], SLF_EOF_UNKNOWN where none is set; NULL until the first is */
    uint32_t *data;   /* [N] ids by layer, of each the matched before the filled; NULL until settled */
    int64_t position; /* of them, those that are trained */
} slf_offline;

typedef struct slf_online {
    uint64_t *used; /* [N bits] matched to a layer or drawn to fill one; NULL until the first task */
    int64_t scan;   /* ids below were offered to the layer whose turn it is */
    int64_t held;   /* ids and cuts of so many data come first in the task's memory: booked, and not yet trained. The
                       data of a PROBE task stand behind them */
    slf_draws draws;
} slf_online;

/* Data that never compete with those of another group for a cut. */
typedef struct slf_group {
    int64_t id;     /* as the host names it; of the one that further groups share, of the first of these */
    int64_t size;   /* data it will have, all in all; 0: not known */
    int64_t rows;   /* data it has had, those of the task at hand among them */
    int64_t passed; /* of them: left by a stage to a deeper layer */
    int64_t fresh;  /* of them: in the batch that is being assigned */
} slf_group;

typedef struct slf_stream {
    int64_t position; /* data of the tasks that are done */
    int64_t *taken;   /* [m] data of each layer, those of the task at hand among them */
    int64_t *batches; /* [m] one_cut: batches of each layer */
    int32_t n_groups, group_room;
    bool sized;            /* sizes of all groups were given before the first task */
    slf_group *groups;     /* [group_room]; the last of max_groups + 1 is the one that further groups share */
    int64_t *group_taken;  /* [group_room][m], in the block of groups */
    int64_t *group_counts; /* [group_room][m], likewise. sized: counts of each group's own plan */
    slf_ids known;         /* of all groups but that */
} slf_stream;

typedef struct slf_progress {
    int32_t layer;  /* whose turn it is; m when the plan is complete. STREAM: lowest cut of the task at hand, else 0 */
    int32_t phase;  /* SLF_PHASE_* */
    int64_t task_n; /* data of the task at hand; once reported, those that the layer accepted */
    int64_t asked;  /* most data a rank wanted of it, not saved: the next call says it again */
    int64_t first, own; /* of the task's data this rank's: where they begin, and how many. Not saved */
    /* [m] each, one block, with STREAM's taken and batches behind them: */
    int64_t *matched, *filled, *probed;
    /* The task's data, of all ranks, one block: */
    int64_t room;
    int32_t *cuts;     /* [room] in phase TRAIN of STREAM and full_batches */
    int32_t *group_of; /* [room] STREAM: index of each row's group */
    uint32_t *ids;     /* [room] but for OFFLINE and NONE, which have them in offline.data */
    union {
        slf_offline offline; /* OFFLINE, NONE */
        slf_online online;   /* ONLINE */
        slf_stream stream;   /* STREAM */
    };
} slf_progress;

struct salf_planner {
    atomic_int references; /* the owner's, and one for each policy that follows the plan */
    salf_context *context;
    salf_planner_options options; /* with defaults in place; weights is NULL or [m], in the block of counts */
    int32_t m;
    int64_t n;
    int64_t *counts; /* [m] */
    slf_progress progress;
};

static inline bool slf_plan_is_online(const salf_planner *planner) {
    return planner->options.matching == SALF_MATCH_ONLINE;
}

static inline bool slf_plan_is_stream(const salf_planner *planner) {
    return planner->options.matching == SALF_MATCH_STREAM;
}

/* OFFLINE and NONE: all is known before the first task. */
static inline bool slf_plan_settles(const salf_planner *planner) {
    return !slf_plan_is_online(planner) && !slf_plan_is_stream(planner);
}

/* Rows of one TRAIN task have cuts of their own: a batch of a stream holds many layers, and one that is filled up over
 * the end of a layer holds two or more. */
static inline bool slf_plan_has_cuts(const salf_planner *planner) {
    return slf_plan_is_stream(planner) || planner->options.full_batches;
}

/* ---- progress.c ---- */

/* The task at hand, kind DONE where there is none. */
void slf_planner_task(const salf_planner *planner, salf_task *task);
/* Data of all layers below: where a layer's data begin once all are settled. */
int64_t slf_plan_data_below(const salf_planner *planner, int32_t layer);
/* Progress before the first call. On failure there is nothing to free. */
salf_status slf_progress_init(slf_progress *progress, const salf_planner *planner);
void slf_progress_free(slf_progress *progress, const salf_planner *planner);
/* Room for n data of a task; what is there is lost, but for the data that ONLINE holds. */
salf_status slf_progress_room(slf_progress *progress, const salf_planner *planner, int64_t n);
/* Opens a TRAIN task of n settled data, with the cut of each where tasks go on over the end of a layer. */
salf_status slf_progress_settled(slf_progress *progress, const salf_planner *planner, int64_t n);
/* This rank's part of the task: all ranks share its data out evenly, the first ranks one more. */
void slf_progress_share(slf_progress *progress, const salf_planner *planner);

/* ---- counts.c ---- */

/* Counts c_e [m], sum n. */
salf_status slf_plan_counts(const salf_context *context, const salf_planner_options *options, int32_t m, int64_t n,
                            int64_t *counts);

/* ---- match.c ---- */

/* Stands for an eof that is not set; so 65,534 is the deepest layer that data can be matched to. */
#define SLF_EOF_UNKNOWN UINT16_MAX

/* Data are numbered in 32 bits and eof in 16; plans of more can only be counted. */
salf_status slf_plan_check_size(const salf_planner *planner);
/* OFFLINE, NONE: which data train where. Fills progress->offline.data, matched and filled, or changes nothing. */
salf_status slf_plan_settle(const salf_planner *planner, slf_progress *progress);
/* The first draw needs memory, 4 bytes a datum; does nothing after that. */
salf_status slf_draws_prepare(slf_draws *draws, const salf_planner *planner);
/* The next n ids of the order that are not used yet, into ids; they become used. So many there must be. */
void slf_draws_unused(slf_draws *draws, const salf_planner *planner, uint64_t *used, int64_t n, uint32_t *ids);

/* ---- stream.c ---- */

/* Opens the next task of at most `most` data of all ranks; there is none at the end. */
salf_status slf_stream_next(salf_planner *planner, int64_t most);

salf_status slf_stream_check_options(const salf_planner_options *options);

/* ---- quota.c ---- */

/* The chairman's choice for position t + 1, of n in all, after taken [m]. */
int32_t slf_quota_chairman(const int64_t *counts, int64_t n, int32_t m, int64_t t, const int64_t *taken);
/* The layer of the next row of a group; NULL for all data as one group, without a choice. */
int32_t slf_quota_layer(const salf_planner *planner, slf_stream *stream, slf_group *group);

/* ---- groups.c ---- */

/* Index of a group, made where it is not there yet; the shared one's beyond max_groups. */
salf_status slf_stream_group(slf_progress *progress, const salf_planner *planner, int64_t id, int32_t *index);
/* Counts of each group's own plan, from sizes that sum to N. */
salf_status slf_stream_share(slf_progress *progress, const salf_planner *planner);
/* Groups of the task's rows, found [2 i] of row i, and its rows by group, each group's in order: ordered [task_n].
 * fresh becomes where a group's rows end there. Fails where a group gets more rows than its size. */
salf_status slf_stream_sort(slf_progress *progress, const salf_planner *planner, const int64_t *found,
                            int64_t *ordered);

/* ---- assign.c ---- */

/* Rows in the order of what is lost, for qsort: least first, ties to the earlier row. */
typedef struct slf_ranked {
    double lost;
    int64_t row;
} slf_ranked;
int slf_by_loss(const void *a, const void *b);

/* Which of the rows of one group gets which of the cuts that were drawn for them. All but rows and n is the batch's. */
typedef struct slf_assignment {
    const int64_t *rows; /* [n] ascending, of a batch */
    int64_t n;
    int32_t m;
    int32_t *cuts;      /* by row; those of `rows` change places */
    const int32_t *eof; /* by row: EOF */
    const double *lost; /* [row][m] positive gains below each layer: GAIN; NULL for EOF */
    uint64_t seed;
    int64_t position;   /* in the stream, of row 0; with the seed it says what is drawn */
    slf_ranked *ranked; /* [n] scratch */
    int64_t *quota;     /* [m] scratch */
} slf_assignment;
void slf_stream_assign(const slf_assignment *job);
/* Positive gains below each layer, in the place of gains [n][m]. A row whose gains are no numbers is to train fully:
 * every layer that it loses counts more than all gains of any other row. */
void slf_stream_sum_lost(double *gains, int64_t n, int32_t m);
/* Stream of the counter-based generator, by positions of data: "planrows" in ASCII. */
#define SLF_STREAM_ROWS 0x706C616E726F7773u

/* ---- save.c ---- */

/* What ranks that follow one plan must have in common: the plan, how far it has come, and the task at hand. */
void slf_plan_agree(const salf_planner *planner, slf_agreement *agreement);

/* ---- bits: a set of data, in words of 64, lowest first ---- */

static inline bool slf_bit_get(const uint64_t *bits, int64_t i) {
    return bits[i >> 6] >> (i & 63) & 1;
}
static inline void slf_bit_flip(uint64_t *bits, int64_t i) {
    bits[i >> 6] ^= (uint64_t)1 << (i & 63);
}
static inline int64_t slf_bit_words(int64_t n) {
    return n / 64 + (n % 64 != 0);
}
/* Up to `most` ids of 0 ... n-1 that are not in the set, ascending, from *from on; *from moves behind the last one that
 * was looked at. Returns how many. */
int64_t slf_bits_absent(const uint64_t *bits, int64_t n, int64_t most, int64_t *from, uint32_t *ids);

#endif
