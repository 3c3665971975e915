/* policy.h - what the families of policies share. */
#ifndef SALF_POLICY_H
#define SALF_POLICY_H

#include "plan/plan.h"

/* What carries over from one decision to the next; saved. */
typedef struct slf_policy_memory {
    int64_t last_step; /* -1: none yet */
    int64_t interval;  /* AUTOFREEZE: number of the interval being summed */
    int32_t embedding;
    int32_t head;
    int32_t frozen;   /* AUTOFREEZE: length of the frozen prefix */
    int32_t compared; /* AUTOFREEZE: a full interval stands in previous */
} slf_policy_memory;

struct salf_policy {
    salf_context *context;
    int32_t kind;
    int32_t m;
    bool loaded; /* the last step may be asked again */
    salf_policy_options options;
    int64_t turn_steps; /* interval, default filled in */
    int32_t *script;
    salf_planner *planner;

    slf_policy_memory memory;
    uint8_t *trained; /* [m] of the last decision */
    double *summed;   /* [m] AUTOFREEZE: L1 norms of this interval */
    double *previous; /* [m] AUTOFREEZE: of the interval before */

    /* the decision being made */
    salf_status early; /* what is wrong with the call itself: kinds that talk to other ranks tell them first */
    slf_policy_memory next;
    uint8_t *trainable;    /* [m] */
    double *rate_scale;    /* [m] */
    double *next_summed;   /* [m] */
    double *next_previous; /* [m] */
    double *scratch;       /* [m+2] */
    int64_t *histogram;    /* [m+2] */
    int32_t *turns;        /* [m] */
    int32_t *added;        /* [m], then removed [m], reset [m] in one block */
    int32_t n_reset;
    int64_t rows; /* -1: no trace, no task */
    int64_t row_room;
    int32_t *eof;    /* [row_room] */
    int64_t *order;  /* [row_room] */
    int64_t *active; /* [m] */
};

/* Streams of the counter-based generator. */
#define SLF_STREAM_TURNS  0x706F6C7475726E73u
#define SLF_STREAM_RANDOM 0x706F6C72616E6420u

/* Layers from cut up train, at full rate. */
void slf_policy_suffix(salf_policy *policy, int32_t cut);
/* First `count` of a permutation of the layers for a round into policy->turns. */
void slf_policy_draw(salf_policy *policy, int64_t round, int32_t count);
salf_status slf_policy_rows(salf_policy *policy, int64_t rows);
/* Fits a check on this rank into a sum over all: values [n+1], of which the last counts ranks that failed. All ranks
 * fail where one does, and none waits. */
salf_status slf_policy_sum(salf_policy *policy, salf_status local, double *values, int64_t n);

typedef salf_status (*slf_decide_fn)(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_salf(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_callback(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_budget(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_lift(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_lisa(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_freezeout(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_linear(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_autofreeze(salf_policy *policy, const salf_observation *seen);
salf_status slf_decide_rgn(salf_policy *policy, const salf_observation *seen);

#endif
