/* probe_internal.h - the probe's state, shared by its two files. */
#ifndef SALF_PROBE_INTERNAL_H
#define SALF_PROBE_INTERNAL_H

#include "basis_internal.h"

/* Where a probe stands in its batch. */
enum { SLF_BATCH_NONE = 0, SLF_BATCH_OPEN = 1, SLF_BATCH_FLUSHED = 2 };

/* Label rows of the head for logits, float32 on the host: [n][D] for ascending labels [n]. Grown when a batch needs
 * more. */
typedef struct slf_logit_rows {
    int64_t n;
    int64_t labels_room;
    int64_t w_room; /* rows */
    int32_t *labels;
    float *w;
} slf_logit_rows;

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
    int32_t *labels;   /* host [R] */
    int32_t *which;    /* host [R]: place in the label set or in logit_rows */
    slf_label_set set;
    slf_logit_rows logit_rows;
    int32_t *device_labels; /* backend [R] */
    int32_t *device_which;  /* backend [R] */

    /* Results by space, in backend memory. */
    double *distances; /* COSINE: [R][S] deviations; else [R] of the space at hand */
    double *sum;       /* CE: [S][R] */
    double *maximum;   /* CE with logits: [S][R] */
    int64_t *count;    /* RANK: [S][R] */
    double *target;    /* [R] of the space at hand */

    /* On the host. */
    double *host_target; /* [S][R] */
    double *host_sum;    /* CE: [S][R], read at the end */
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

    /* Room for a chunk of rows, CE and RANK only. */
    int64_t chunk;
    double *scratch; /* backend [chunk][D] */
    double *z;       /* backend [chunk][D] */
    double *host_z;  /* [chunk][D] */
};

/* probe_observe.c: takes the states of a space into the results; norm NULL: as they are. */
salf_status slf_probe_reduce(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm);
/* Enqueues the copies of the results to the host. */
salf_status slf_probe_collect(salf_probe *probe);
/* Fills deviations from what was collected; NaN for a space that was not observed. */
void slf_probe_deviations(salf_probe *probe);

#endif
