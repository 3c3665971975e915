/* probe.h - the fields of a probe, shared by its files. */
#ifndef SALF_PROBE_H
#define SALF_PROBE_H

#include "basis/score.h"

/* Where a probe stands in its batch. */
enum { SLF_BATCH_NONE = 0, SLF_BATCH_OPEN = 1, SLF_BATCH_FLUSHED = 2 };

/* Rows of the head that the batch's labels have, for their logits. */
typedef struct slf_logit_rows {
    salf_tensor view;  /* rows that which counts in, in backend memory */
    const float *bias; /* of the same rows, backend; NULL: none */
    /* Rows that had to be fetched; grown when a batch needs more. */
    int64_t room;    /* labels */
    int32_t *labels; /* host, ascending */
    float *w;        /* host: rows [n][D], then biases [n] */
    float *device;   /* the same in backend memory */
} slf_logit_rows;

/* What a graph that captured observe ... flush refers to. */
typedef struct slf_recording {
    int64_t rows; /* 0: nothing to replay */
    const void *device_block;
    const void *host_block;
    const void *label_rows;
    const void *label_numbers; /* their norms, or biases */
} slf_recording;

struct salf_probe {
    salf_context *context;
    salf_basis *basis;
    salf_probe_options options; /* defaults filled in; candidates not kept */
    slf_vocabulary *vocabulary; /* NULL with COSINE */
    slf_norm norm;              /* the model's final norm; kind NONE without */
    float *norm_weight;         /* backend [D]; NULL: ones */
    float *norm_bias;

    /* The batch at hand. S = m+1 spaces, R rows. */
    int32_t state;
    int32_t last_space; /* -1: none yet */
    int64_t rows;
    uint8_t *observed; /* [S] */
    int32_t *labels;   /* host [R]; CE and RANK [S][R], the same for each space */
    int32_t *which;    /* host [R]: place in the label set or in logit_rows' view */
    slf_label_set set;
    slf_logit_rows logit_rows;
    int32_t *device_labels; /* backend [S][R]; CE and RANK only */
    int32_t *device_which;  /* backend [R] */
    void *done;             /* event: the results are on the host */
    slf_recording recording;

    /* Results by space, in backend memory. */
    double *distances; /* COSINE: [R][S] deviations */
    double *target;    /* CE and RANK, as those below: [S][R] scores of the right tokens */
    double *sum;       /* CE: [S][R] */
    double *maximum;   /* CE with logits: [S][R] */
    int64_t *count;    /* RANK: [S][R] */

    /* On the host, read at the end. */
    double *host_target; /* [S][R] */
    double *host_sum;
    double *host_maximum;
    int64_t *host_count;
    double *deviations; /* [R][S] */
    double *gains;      /* [R][m] */
    int32_t *eof;       /* [R] */

    /* The two blocks that the batch's arrays above and below are parts of. */
    void *device_block;
    void *host_block;
    uint64_t device_bytes;
    uint64_t host_bytes;

    /* CE and RANK: queries that wait for a walk over the vocabulary, so that one serves many. They are entries from
     * first on of the arrays [S][R] above. */
    int64_t chunk; /* rows of a space that become queries at once */
    int64_t room;  /* most queries that wait */
    int64_t first;
    int64_t waiting;
    double *z;          /* backend [room][D] */
    int32_t *needs_f64; /* backend [room] */
};

/* logits.c: rows of the head for the batch's labels, and which of them each label has. */
salf_status slf_probe_logit_rows(salf_probe *probe);
void slf_logit_rows_free(const salf_context *context, slf_logit_rows *rows);

/* observe.c: takes the states of a space into the results, or into queries that wait; norm NULL: as they are. */
salf_status slf_probe_reduce(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm);
/* Finishes what waits and enqueues the copies of the results to the host. */
salf_status slf_probe_collect(salf_probe *probe);
/* Fills deviations from what was collected; NaN for a space that was not observed. */
void slf_probe_deviations(salf_probe *probe);

#endif
