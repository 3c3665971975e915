/* run.h - the training of one method: what trainloop.c drives and runstate.c saves. */
#ifndef SALF_EXAMPLE_RUN_H
#define SALF_EXAMPLE_RUN_H

#include "adamw.h"
#include "feed.h"
#include "finetune.h"

/* Kinds of norms that a policy may look at. */
enum { RUN_NORMS = 3 };

typedef struct run {
    session *s;
    const method *m;
    int index; /* of the method in the settings */
    feed feed;
    decoder *decoder;
    adamw *optimizer;
    salf_loss *loss;   /* NULL for the language-model loss */
    probe_rider rider; /* probe NULL where the method has none */
    prompt_batch batch;
    salf_decision decision; /* the last */
    tally tally;
    int64_t tasks;       /* batches run; the policy's step */
    double rate;         /* of the last update */
    int64_t pending;     /* rows whose gradients wait for the update */
    int32_t stage;       /* layer of the pending rows' stage; -1 without a planner */
    int64_t *eof_counts; /* [m]: own eof of the data probed */
    double *norms;       /* [RUN_NORMS][m] at the last update: L1 and L2 of the layers' gradients, L2 of what trains */
    double *rates;       /* [m] scratch: rate factors of the layers */
    int32_t *cuts;       /* [batch] cut of each row, m: not trained */
    int32_t *compact;    /* [batch] scratch: cuts of the rows that train */
    uint8_t *accepted;   /* [batch] */
    float *losses;       /* [batch] */
    float *gradient;     /* [batch][D] of the normed states */
} run;

/* Writes the checkpoint file: all of a run between two updates, or (r NULL) only that methods 0 ... finished-1 are
 * done. tallies [n_methods]. */
int runstate_save(session *s, run *r, int finished, const tally *tallies);
/* What a checkpoint says of the run as a whole. */
typedef struct runstate_start {
    int finished;       /* methods done, their tallies filled in */
    int inside;         /* 1: it also holds the next method in the middle of its training */
    int64_t log_length; /* bytes */
} runstate_start;

/* Reads it; all zero when there is no file. Fails, naming the option, when the settings are not those of the file. */
int runstate_begin(session *s, runstate_start *start, tally *tallies);
/* Restores a fresh run of the method in the middle. */
int runstate_load(session *s, run *r);

#endif
