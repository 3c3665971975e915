/*
 * decoder_backward.h - a backward at work: the order of its rows, and of the layer and block at hand which take part.
 *
 * Sequences are in order of their eof, and compact rows are those of the batch in that order, so that the sequences on
 * which layer k's backward runs (eof <= k) are a prefix that shrinks on the way down. What the forward kept is read
 * through the row of each compact row; when the order is the batch's own nothing is gathered at all.
 */
#ifndef SALF_EXAMPLE_DECODER_BACKWARD_H
#define SALF_EXAMPLE_DECODER_BACKWARD_H

#include "decoder_internal.h"

typedef struct backward {
    decoder *d;
    const decoder_plan *plan;
    int64_t *sequence; /* [n_sequences] by eof, stable */
    int64_t *first;    /* [n_sequences + 1] first compact row of each in that order */
    int64_t *square;   /* [n_sequences] of the batch's order: sum of n^2 over the sequences before */
    int64_t *sparse;   /* [n_sequences] the same of n times head rows */
    int64_t *row;      /* [T] row of the batch of each compact row */
    int64_t *compact;  /* [T] the inverse */
    int64_t *head;     /* [n_head_rows] index in the batch's head rows of each compact head row */
    int64_t *head_row; /* [n_head_rows] compact row of each compact head row, ascending */
    int64_t *head_of;  /* [n_head_rows] row of the batch of each compact head row */
    int64_t *head_end; /* [n_sequences] compact head rows of the sequences of that order up to each */
    int32_t shuffled;  /* 1: row is not the identity */
    int64_t n_active;  /* sequences of the layer at hand */

    /* of the block at hand, in compact rows */
    int64_t begin; /* its sequences of the order: begin ... end - 1 */
    int64_t end;
    int64_t at; /* first row */
    int64_t rows;
    int64_t head_at; /* first head row */
    int64_t heads;
    int32_t heads_only; /* 1: its tail are the head rows */
    int64_t tail_at;    /* its first row among all tails */
    int64_t n_tail;
} backward;

/* As the plan has it; whether its weights may train at all, the gradient pointers say. */
static inline int32_t layer_trains(const backward *b, int32_t k) {
    return !b->plan->trainable || b->plan->trainable[k];
}

/* Head rows of the first `sequences` of the order. */
static inline int64_t heads_before(const backward *b, int64_t sequences) {
    return sequences > 0 ? b->head_end[sequences - 1] : 0;
}

/* The backward of layer k on the block at hand: gradients of its weights where it trains, and of the stream before it
 * from the stream's behind it. lowest 1: nothing below needs the latter, so that it is left out. */
void backward_block(backward *b, int32_t k, int32_t lowest);

#endif
