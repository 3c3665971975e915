/* feed.h - which data come next, and under which policy: a seeded shuffle in batches, or the planner's tasks over it.
 */
#ifndef SALF_EXAMPLE_FEED_H
#define SALF_EXAMPLE_FEED_H

#include <stdint.h>

#include "methods.h"
#include "salf.h"

/* What the order of a run follows from. */
typedef struct feed_options {
    int32_t n_layers;
    int32_t first_layer;  /* SUFFIX */
    int32_t reduction;    /* SALF_REDUCE_* of the unbudgeted salf */
    int32_t matching;     /* SALF_MATCH_*, of budgets with a probe */
    int32_t assignment;   /* STREAM: SALF_ASSIGN_* of budgets with a probe; -1: the method's own */
    int32_t stream_order; /* STREAM: SALF_STREAM_*; -1: the method's own */
    int32_t n_groups;     /* STREAM: groups of data that share no cuts, at most */
    int32_t as_published; /* books arithmetic breadth-first plans as Table 5 does (published.h) */
    int64_t n_data;
    int64_t epochs;
    int64_t batch;
    double probe_limit; /* ONLINE: most data probed for a layer, in multiples of n_data * epochs / n_layers; 0: no
                           limit, negative: the library's default */
    uint64_t seed;
} feed_options;

/* Data to run. A budget over several epochs is one plan over epochs * n_data data. */
typedef struct feed_task {
    int32_t kind;       /* SALF_TASK_* ; TRAIN without a planner too */
    int32_t layer;      /* -1 without a planner; STREAM: the lowest */
    const int32_t *eof; /* STREAM, TRAIN: [n] the cut of each; else NULL */
    int64_t n;
    const uint32_t *data; /* [n] rows of the training set; valid until the next call */
} feed_task;

/* The order, and how far it has come. */
typedef struct feed {
    feed_options options;
    int64_t total;         /* epochs * n_data */
    int64_t position;      /* without a planner: data handed out and done */
    int64_t pending;       /* without a planner: data of the task at hand */
    uint32_t *order;       /* [total] rows of the training set, each epoch shuffled on its own */
    uint32_t *rows;        /* [batch] the task's */
    salf_planner *planner; /* NULL without a budget */
    int32_t matching;      /* its SALF_MATCH_* */
    int32_t grouped;       /* 1: it asks for the groups of its data */
    int32_t mixed;         /* 1: all layers get data at all times */
    salf_policy *policy;
} feed;

/* All of it follows from the options, so that a resumed run makes the same feed and loads the states into it. */
salf_status feed_create(feed *out, salf_context *context, const method *m, const feed_options *options);
void feed_destroy(feed *f);
/* The next task, of at most as many data (1 ... batch), the same one until feed_done. kind SALF_TASK_DONE: the run is
 * complete. */
salf_status feed_next(feed *f, int64_t most, feed_task *task);
salf_status feed_done(feed *f);

#endif
