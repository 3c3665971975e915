/*
 * policy.h - what the files of policy/ share.
 *
 * A kind of policy decides which layers train at a step, and how fast. The frame around it (salf_policy_decide) adds
 * what follows from that: cut, embedding and head, what changed since the last decision, the order of the rows.
 */
#ifndef SALF_POLICY_H
#define SALF_POLICY_H

#include "core/ranks.h"
#include "plan/plan.h"

/* What carries over from one decision to the next, and is saved. */
typedef struct slf_policy_record {
    int64_t step; /* of the decision; -1: none yet */
    int32_t embedding, head;
    int32_t frozen;     /* AUTOFREEZE: length of the frozen prefix */
    int32_t compared;   /* AUTOFREEZE: a whole turn stands in previous */
    uint8_t *trainable; /* [m] */
    double *previous;   /* [m] AUTOFREEZE: L1 norms of the turn before */
} slf_policy_record;

struct salf_policy {
    salf_context *context;
    int32_t kind;
    int32_t m;
    bool takes_turns;            /* total_steps is divided into them where there is no interval; a load must know */
    bool loaded;                 /* the last step may be asked again */
    salf_policy_options options; /* with defaults in place; script is the copy below, planner retained */
    int32_t *script;
    slf_policy_record last; /* what the last decision left */
    slf_policy_record next; /* of the decision being made; the two change places when it has succeeded */

    /* the decision being made */
    salf_status early;   /* what is wrong with the call itself, told to the other ranks when they meet */
    double *rate_scale;  /* [m] */
    double *scratch;     /* [m+1] */
    int64_t *histogram;  /* [m+2]: by eof, where m is a row that trains nothing, and a place more for sorting */
    int64_t *active;     /* [m] */
    int32_t *permuted;   /* [m] layers in the order of their turns */
    int32_t *changes[3]; /* [m] each: added, removed, reset */
    int32_t n_reset;
    int32_t gradients_wanted;
    double batch_share;
    int64_t rows; /* -1: no trace, no task */
    int64_t row_room;
    int64_t *order; /* [row_room] */
    int32_t *eof;   /* [row_room], in the block of order */
};

/* Whether two steps lie in different turns. */
bool slf_policy_turns_between(const salf_policy *policy, int64_t before, int64_t step);

/* Layers from cut up train, at full rate. */
void slf_policy_suffix(salf_policy *policy, int32_t cut);
/* Room for rows in policy->eof and order; what stood there is lost. */
salf_status slf_policy_rows(salf_policy *policy, int64_t rows);
/* All ranks come here once a decision, with what is wrong with their own call (local): they have the same policy, are
 * at the same step and follow the same plan, or all of them fail. least: NULL, or a number of this rank, which becomes
 * the least of all. */
salf_status slf_policy_agree(salf_policy *policy, salf_status local, const salf_observation *seen, int64_t *least);

/* The kinds. */
typedef salf_status slf_decide(salf_policy *policy, const salf_observation *seen);
slf_decide slf_decide_lift, slf_decide_lift_star, slf_decide_block, slf_decide_lisa; /* turns.c */
slf_decide slf_decide_freezeout, slf_decide_linear, slf_decide_ramp;
slf_decide slf_decide_salf, slf_decide_callback, slf_decide_budget; /* rows.c */
slf_decide slf_decide_autofreeze, slf_decide_rgn;                   /* gradients.c */

#endif
