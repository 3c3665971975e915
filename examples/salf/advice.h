/* advice.h - what a pilot of several methods and seeds says: does a method pay that freezes layers?
 *
 * Intervals are about 95 %: t sqrt(s^2 / S + v), from the deviation s over S seeds and the variance v of macro F1 by
 * the draw of the test texts (metrics.h), which is at least that of the accuracy p of K texts, p (1 - p) / K, K and p
 * with two right and two wrong answers more. t is Student's quantile for the degrees of freedom of that sum (Welch and
 * Satterthwaite): two or three seeds say little of their deviation, and one says nothing of it, so that its intervals
 * are of the texts alone. Classes with two or three test texts make it some 90 % (simulated). Of a difference both
 * methods' chances count, though they meet the same texts and seeds: that errs to the wide side. */
#ifndef SALF_EXAMPLE_ADVICE_H
#define SALF_EXAMPLE_ADVICE_H

#include <stdint.h>
#include <stdio.h>

#include "tally.h"

/* Verdicts. */
enum {
    ADVICE_UNTAUGHT, /* training as a whole taught nothing beyond chance, so that methods cannot be told apart */
    ADVICE_FREEZE,   /* the chosen method saves, and its F1 is as good: at most 0.01 below */
    ADVICE_TRADE,    /* it saves, and its F1 is lower, by less than chance may do */
    ADVICE_FULL,     /* the best of those that save loses more than chance may do, or none saves */
    ADVICE_UNTIMED   /* lora[full] took less than a tick of the processor's clock: no cost can be compared */
};

/* A method beside lora[full]. */
typedef struct advice_line {
    tally_spread f1;
    double half;            /* of its interval */
    double difference;      /* of F1 to lora[full], seed by seed */
    double difference_half; /* of its interval */
    double time;            /* of the whole training, relative */
    double memory;          /* relative */
    int saves;              /* 1: a twentieth of the time, or a quarter of the memory */
    int front;              /* 1: no method has more F1 for less time */
} advice_line;

typedef struct advice {
    int verdict;
    int full;   /* index of lora[full] */
    int choice; /* of the method that is advised; lora[full]'s where none is */
    double untrained;
    double cached; /* lora[half] with --cache over three epochs, relative to lora[full], from the parts that were
                      measured; 0: not among the methods */
    advice_line lines[METHODS_MAX];
} advice;

/* From a pilot whose list holds lora[full] and the untrained model, tested on n_test texts. Returns 0, or -1 without
 * lora[full]. */
int advice_make(advice *out, const tally_list *list, int64_t n_test);

/* How the pilot was made, for the words. */
typedef struct advice_case {
    const char *model, *tokenizer, *data; /* as the user gave them; tokenizer may be NULL */
    double rate;
    int rate_chosen;                   /* 1: by the pilot, for all methods */
    int64_t n_train, n_test, of_train; /* used, and what there is */
    int64_t batch;
    const char *prompt, *label_words, *lens; /* options that were given to the pilot; NULL: none */
    int32_t rank;                            /* likewise; 0: none */
    int seeds_asked;
    double seconds;
} advice_case;

/* The verdict in words, a chart, and the lines to paste; at most 80 columns but for the lines to paste. */
void advice_print(FILE *out, const advice *a, const tally_list *list, const advice_case *c);
/* The same as JSON, new; NULL when memory is short. */
json_t *advice_json(const advice *a, const tally_list *list, const advice_case *c);

#endif
