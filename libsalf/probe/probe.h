/* probe.h - the fields of a probe, shared by its files. Not installed. */
#ifndef SALF_PROBE_H
#define SALF_PROBE_H

#include "basis/score.h"

/* How a metric's deviation comes from a few numbers a row and space. A new metric is a row in observe.c's table. */
typedef struct slf_metric {
    int32_t vocabulary; /* 1: walks it, and leaves sums; 0: the similarity to the label's own row is all */
    int32_t sums;       /* mask of SLF_SUM_*; what a walk leaves for each entry */
    /* Entry at of the results; the target is not NaN. */
    double (*deviation)(const salf_probe *probe, int64_t at);
} slf_metric;

/* Where a probe stands: no batch, one that takes spaces, one whose results are on their way. */
enum { SLF_BATCH_NONE = 0, SLF_BATCH_OPEN = 1, SLF_BATCH_FLUSHED = 2 };

/* The batch at hand: R rows in S = m+1 spaces. Of the rows that the caller gives, those with a label to ignore are left
 * out: nothing is computed for them, and the trace has them again. */
typedef struct slf_probe_batch {
    int32_t phase;      /* SLF_BATCH_* */
    int32_t last_space; /* -1: none yet */
    int64_t given;
    int64_t rows;             /* R; given, where none is left out */
    int64_t *kept;            /* host [R]: the caller's number of each row, ascending */
    int64_t *index;           /* host [S][R]: row indices of views over these; NULL where none is left out */
    uint8_t *observed;        /* host [S] */
    int32_t *labels;          /* host [R] */
    int32_t *row_of;          /* host [R]; where the vocabulary is walked [S][R], the same for each space */
    int32_t *device_row_of;   /* row_of in backend memory */
    slf_label_set set;        /* kept from batch to batch */
    const void *target_rows;  /* backend: what row_of counts in, and ... */
    const void *target_norms; /* the rows' norms; NULL for a walk */
    slf_target_rows targets;  /* for a walk; place host [S][R] */
    int32_t *device_place;    /* place in backend memory, where rows have to be fetched */
} slf_probe_batch;

/* On the host. By entry, [S][R], copies of what the run has; NULL where the metric has none of it. */
typedef struct slf_probe_results {
    double *target;
    double *sum;
    double *maximum;
    int64_t *count;
    double *deviations; /* [given][S], at the end [data][S] */
    double *gains;      /* [given][m], of which data are used */
    int32_t *eof;       /* [given], likewise */
} slf_probe_results;

/* What a graph that captured observe ... flush refers to: the addresses in it are fixed, and only what is behind them
 * may change from one launch to the next. */
typedef struct slf_recording {
    int64_t rows; /* 0: nothing to replay */
    const void *device_block;
    const void *host_block;
    const void *target_rows;
    const void *target_norms;
} slf_recording;

struct salf_probe {
    salf_context *context;
    salf_basis *basis;
    salf_probe_options options; /* defaults filled in; candidates not kept */
    const slf_metric *metric;
    slf_vocabulary *vocabulary; /* NULL where the metric needs none */
    slf_norm norm;              /* the model's final norm; kind NONE without */
    float *norm_vectors;        /* backend [2][D], weight and bias, of which norm may have either or none */
    int64_t followed;           /* version of the model whose vectors these are; -1: none yet */
    void *done;                 /* event: the results are on the host */
    slf_block_pair blocks;      /* the batch's arrays are parts of these two, but for observed */
    slf_probe_batch batch;
    slf_score_run run; /* the queue; entries are [S][R] */
    slf_probe_results results;
    slf_recording recording;
};

static inline int32_t slf_probe_spaces(const salf_probe *probe) {
    return probe->options.n_layers + 1;
}

/* probe.c: takes the model's norm, bias and candidates' rows where these were replaced since. */
salf_status slf_probe_follow(salf_probe *probe);
/* observe.c: the row of a metric; NULL for one that has none. */
const slf_metric *slf_metric_of(int32_t metric);
/* SALF_E_SEQUENCE unless every space of a batch was observed. */
salf_status slf_probe_check_complete(const salf_probe *probe);
/* Finishes what waits, enqueues the copies of the results to the host, and marks the event behind them. Once a batch:
 * afterwards it is flushed, and this does nothing. */
salf_status slf_probe_collect(salf_probe *probe);
/* The same, and waits: the deviations of all spaces are there, and the batch is over. */
salf_status slf_probe_await(salf_probe *probe);

#endif
