/* run.h - the training of one method with one seed: what trainloop.c drives, trainstep.c does and runstate.c saves. */
#ifndef SALF_EXAMPLE_RUN_H
#define SALF_EXAMPLE_RUN_H

#include "adamw.h"
#include "cache.h"
#include "feed.h"
#include "finetune.h"

/* Kinds of norms that a policy may look at. */
enum { RUN_NORMS = 3 };

/* States of a batch, [tokens][D]; grows as needed. */
typedef struct state_room {
    float *states;
    int64_t tokens;
} state_room;

typedef struct run {
    session *s;
    const method *m;
    int index; /* of the run */
    feed feed;
    decoder *decoder;
    adamw *optimizer;
    salf_loss *loss;     /* NULL for the language-model loss */
    probe_rider rider;   /* probe NULL where the method has none */
    salf_signal *signal; /* what the probe's answers are worth; NULL where the method has none */
    prompt_batch batch;
    salf_decision decision; /* the last */
    tally tally;
    int64_t tasks;       /* batches run; the policy's step */
    double rate;         /* of the last update */
    double forward;      /* seconds of the last forward, without its probe */
    int64_t pending;     /* rows whose gradients wait for the update */
    int32_t lowest;      /* layer that the update will reach; m where no gradients wait */
    int64_t *eof_counts; /* [m]: own eof of the data probed */
    double *norms;       /* [RUN_NORMS][m] at the last update: L1 and L2 of the layers' gradients, L2 of what trains */
    float *turn;         /* [turn_size] AUTOFREEZE: gradients of the layers summed over the turn; else NULL */
    int64_t turn_size;
    int64_t turn_ends;  /* 1: the next decision ends the turn */
    double *reach;      /* [m]: of the pending rows, the sum of the layer's rate factors over those that train it */
    int32_t *cuts;      /* [batch] cut of each row, m: not trained */
    uint32_t *rows;     /* [batch] scratch: data of the batch by their cuts */
    int32_t *compact;   /* [batch] scratch: cuts of the rows that train */
    uint8_t *accepted;  /* [batch] */
    int32_t *control;   /* [batch] eof that a control has put in place of the probe's */
    float *losses;      /* [batch] */
    float *gradient;    /* [batch][D] of the normed states */
    state_cache *cache; /* NULL: nothing is kept from epoch to epoch */
    int64_t n_kept;     /* of the data, the first have room there */
    int64_t group;      /* data that are run up to the boundary together */
    prompt_batch group_batch;
    state_room group_states;
    state_room states; /* of the batch at the boundary */
    double skipped;    /* layers that the batch's forward did not run, summed over its rows; less those run ahead for
                          other data of their groups */
} run;

/* One batch: forward, decision, and the backward of the rows that train; the update comes when enough rows have. */
int run_task(run *r, const feed_task *task);
/* Applies the gradients that have added up. */
int update_weights(run *r);
/* OFFLINE: the eof of all data, by the weights before training. */
int probe_all(run *r);

/* AUTOFREEZE: room for the sums of a turn; adds the gradients of an update; L1 norms [m] of the sums, which begin anew.
 * */
int turn_open(run *r);
void turn_add(run *r);
void turn_end(run *r, double *norms);

/* Makes room for states at the boundary, where --cache asks for it and the method has one; says so where there is none.
 * */
void boundary_open(run *r);
/* Whether a method's boundary can rise above 0, and whether it then stays where it is. mixed: of a stream of that
 * order. */
int boundary_rises(const method *m, int mixed, int *stays);
void boundary_close(run *r);
/* For a batch that is filled with these data and decided: lets its forward begin where nothing trains any more. */
int boundary_begin(run *r, const uint32_t *data);
/* Bytes of memory held for it. */
int64_t boundary_bytes(const run *r);

/* Books the batch by its cuts: depth, rows and predicted operations. Returns the rows that train, or -1. */
int64_t book_batch(run *r, int probed);
/* Adds the predicted operations of rows with these cuts; not trained: their forward and probe alone. */
int book_rows(run *r, const int32_t *cuts, int64_t rows, int probed, int trained);

/* Saves all of a run between two updates, or (r NULL) only that runs 0 ... finished-1 are done. tallies [runs + 1]. */
int runstate_save(session *s, run *r, int finished, tally *tallies);
/* What a checkpoint says of the run as a whole. */
typedef struct runstate_start {
    int found;       /* 1: there is one */
    int finished;    /* runs done, their tallies filled in */
    int inside;      /* 1: it also holds the next one in the middle of its training */
    jsonl_place log; /* how far the log had come */
} runstate_start;

/* Opens the folder of --checkpoint and reads what is there; all zero when that is nothing. Fails, naming the option,
 * when this run is another one, and where a run lies there that is not to be resumed. */
int runstate_begin(session *s, runstate_start *start, tally *tallies);
/* Restores a fresh run that was in the middle. */
int runstate_load(session *s, run *r);

#endif
