/* tally.h - what a run of one method has done so far, and the table of several runs. */
#ifndef SALF_EXAMPLE_TALLY_H
#define SALF_EXAMPLE_TALLY_H

#include <stdint.h>
#include <stdio.h>

#include "json.h"
#include "methods.h"

/* Every figure is a double, counts too (exact below 2^53), so that a tally is one array in a checkpoint. Seconds of the
 * parts of a step are processor seconds of all threads: those by the clock say little on a busy machine. */
enum {
    TALLY_STEPS,      /* optimizer updates */
    TALLY_TRAINED,    /* data trained */
    TALLY_PASSED,     /* forward passes of data in training, those that were probed and not taken included; one that
                         begins at layer e, from kept states, counts 1 - e / m */
    TALLY_PROBED,     /* data probed */
    TALLY_MATCHED,    /* data trained at a layer that their own eof asked for or allowed (budgets); at the end */
    TALLY_MODE,       /* share of the probed data whose eof is the most frequent one; at the end */
    TALLY_DEPTH,      /* sum over data trained of their cut / m */
    TALLY_FLOPS,      /* predicted operations of all steps */
    TALLY_FULL_FLOPS, /* predicted operations had everything been trained */
    TALLY_LOSS,       /* sum of the training loss over data trained */
    TALLY_FORWARD,    /* seconds: forward, with loss and its gradient */
    TALLY_PROBE,      /* seconds: probe, with the forward of data that were probed and not trained then */
    TALLY_BACKWARD,   /* seconds */
    TALLY_UPDATE,     /* seconds: clipping and optimizer */
    TALLY_WALL,       /* seconds by the clock: the whole training, without tests, log and checkpoints */
    TALLY_CPU,        /* the same in processor seconds */
    TALLY_MEMORY, /* bytes, at most: what training holds above weights and adapters, that is, activations and scratch
                         of the largest batch, gradients, moments, and states kept in memory for later epochs */
    TALLY_F1,     /* macro F1 on the test data */
    TALLY_ACCURACY,
    TALLY_VARIANCE, /* of TALLY_F1, by the draw of the test data */
    TALLY_N
};

enum { TALLY_SEEDS_MAX = 100 };

typedef struct tally {
    double v[TALLY_N];
} tally;

/* Depth saving, which the paper calls cost saving, of what was really trained: mean of cut / m. */
double tally_saving(const tally *t);
/* Saving of the whole step by the cost model, probe and lost forward passes counted. */
double tally_predicted(const tally *t);
/* Processor seconds of this process. */
double tally_clock(void);

/* A stretch of time, by the clock and in processor seconds. */
typedef struct tally_mark {
    double wall;
    double cpu;
} tally_mark;

tally_mark tally_now(void);
/* Books the time since a mark as training. */
void tally_lap(tally *t, const tally_mark *since);

/* Every method with every seed. */
typedef struct tally_list {
    const method *methods; /* [n_methods] */
    int n_methods;
    int n_seeds;
    const tally *runs;      /* [n_seeds][n_methods] */
    const tally *untrained; /* scores of the model as it came; NULL: not known */
} tally_list;

/* Mean over the seeds, and the standard deviation of a sample (0 with one seed). */
typedef struct tally_spread {
    double mean;
    double sd;
} tally_spread;

/* A figure of method number i: one of the enumeration above, or of those that follow from several. */
enum { TALLY_SAVING = TALLY_N, TALLY_PREDICTED, TALLY_FORWARDS };
tally_spread tally_figure(const tally_list *list, int i, int figure);
/* Processor time of the whole training relative to lora[full] of the same seed; mean NaN where that is not there. */
tally_spread tally_time_ratio(const tally_list *list, int i);

/* A line for each method, and one for the model as it came; at most 80 columns. */
void tally_table(FILE *out, const tally_list *list);
/* What its columns mean, for readers at a terminal. */
void tally_legend(FILE *out);
/* The same as one JSON object, new; NULL when memory is short. */
json_t *tally_json(const tally_list *list);

#endif
