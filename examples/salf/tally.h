/* tally.h - what a run of one method has done so far, and the table of several runs. */
#ifndef SALF_EXAMPLE_TALLY_H
#define SALF_EXAMPLE_TALLY_H

#include <stdint.h>
#include <stdio.h>

#include "methods.h"

/* Every figure is a double, counts too (exact below 2^53), so that a tally is one array in a checkpoint. */
enum {
    TALLY_STEPS,      /* optimizer updates */
    TALLY_TRAINED,    /* data trained */
    TALLY_PASSED,     /* data run forward in training, those that were probed and not taken included */
    TALLY_PROBED,     /* data probed */
    TALLY_DEPTH,      /* sum over data trained of their cut / m */
    TALLY_FLOPS,      /* predicted operations of all steps */
    TALLY_FULL_FLOPS, /* predicted operations had everything been trained */
    TALLY_LOSS,       /* sum of the training loss over data trained */
    TALLY_FORWARD,    /* seconds: forward, with loss and its gradient */
    TALLY_PROBE,      /* seconds: probe; offline also its whole inference pass */
    TALLY_BACKWARD,   /* seconds */
    TALLY_UPDATE,     /* seconds: clipping and optimizer */
    TALLY_F1,         /* macro F1 on the test data */
    TALLY_ACCURACY,
    TALLY_N
};

typedef struct tally {
    double v[TALLY_N];
} tally;

/* Cost saving as the paper defines it, of what was really trained: mean of cut / m. */
double tally_saving(const tally *t);
/* Saving of the whole step by the cost model, probe counted. */
double tally_predicted(const tally *t);
/* Monotonic clock in seconds. */
double tally_clock(void);

/* One line a method; the last column, backward time relative to lora[full], where that is among them. */
void tally_table(FILE *out, const method *methods, const tally *tallies, int count);
/* What its columns mean, for readers at a terminal. */
void tally_legend(FILE *out);

#endif
