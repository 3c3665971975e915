/*
 * gradients.c - policies that look at gradients: AUTOFREEZE and RGN. Time O(m log m) and O(m) a decision.
 *
 * AUTOFREEZE sums the L1 norms a(k) of each layer over a turn and all ranks, and compares with the turn before:
 * change(k) = |a'(k) - a(k)| / a'(k) of layers that are not frozen yet. Layers below the first whose change reaches the
 * percentile (linear interpolation between the changes in order) are frozen for good. The largest change always reaches
 * it, so that one layer stays.
 * RGN: rate scale of a layer = (gradient norm / parameter norm) / the largest such ratio; 1 before the first norms.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "policy/policy.h"

/* 0 is a norm: of a layer that is frozen, or whose gradients vanish. */
static salf_status check_norms(const double *norms, int32_t m, const char *name) {
    for (int32_t k = 0; k < m; k++) {
        if (!isfinite(norms[k])) return slf_fail(SALF_E_NONFINITE, "%s of layer %" PRId32 " is %g", name, k, norms[k]);
        if (norms[k] < 0) return slf_fail(SALF_E_ARGUMENT, "%s of layer %" PRId32 " is %g, below 0", name, k, norms[k]);
    }
    return SALF_OK;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Change of a layer from the turn before to the one that has ended; from 0 to anything is the largest of all. */
static double gradient_change(const salf_policy *p, int32_t k) {
    const double before = p->last.previous[k], now = p->next.summed[k];
    if (before == 0) return now == 0 ? 0 : HUGE_VAL;
    return fabs(before - now) / before;
}

/* Norms that arrive with a step belong to the steps before it: they still count into the turn that this step ends. */
salf_status slf_decide_autofreeze(salf_policy *p, const salf_observation *seen) {
    const size_t bytes = (size_t)p->m * sizeof(double);
    const double *norms = seen->gradient_l1;
    /* 1. norms of all ranks; none are there at the first decision */
    salf_status local = p->early;
    memset(p->scratch, 0, bytes);
    if (local == SALF_OK && norms) local = check_norms(norms, p->m, "gradient_l1");
    if (local == SALF_OK && !norms && p->last.step >= 0)
        local = slf_fail(SALF_E_NULL, "gradient_l1 is NULL at step %" PRId64 ", after the first decision", seen->step);
    if (local == SALF_OK && norms) memcpy(p->scratch, norms, bytes);
    /* A sum of norms and not the norm of a sum: gradients of data-parallel ranks that were averaged before are the
     * same on each, and then the factor cancels out in the relative change. */
    SLF_TRY(slf_policy_sum(p, local, p->scratch, p->m));
    const bool again = seen->step == p->last.step; /* after a load: counted already */
    for (int32_t k = 0; k < p->m && !again; k++) p->next.summed[k] += p->scratch[k];
    /* 2. a step in another turn ends the last one. Before the first step it was turn 0 */
    const slf_turn turn = slf_policy_turn(p, seen->step);
    const slf_turn before = p->last.step < 0 ? (slf_turn){0, 0} : slf_policy_turn(p, p->last.step);
    if (turn.round != before.round || turn.place != before.place) {
        if (p->last.compared) { /* two turns to compare: the prefix to freeze */
            const int32_t first = p->last.frozen, n = p->m - first;
            double *changes = p->scratch;
            for (int32_t i = 0; i < n; i++) changes[i] = gradient_change(p, first + i);
            qsort(changes, (size_t)n, sizeof *changes, ascending);
            /* As numpy.percentile's default: the place lies between two changes in order, and the bound between them in
             * proportion. Where the upper one is infinite (a layer whose gradients were 0) any share of it is too. */
            const double place = p->options.percentile / 100 * (n - 1);
            const int32_t low = (int32_t)place;
            const double share = place - low;
            double bound = changes[low];
            if (share > 0) bound = isinf(changes[low + 1]) ? HUGE_VAL : bound + share * (changes[low + 1] - bound);
            p->next.frozen = first;
            while (p->next.frozen < p->m - 1 && gradient_change(p, p->next.frozen) < bound) p->next.frozen++;
        }
        memcpy(p->next.previous, p->next.summed, bytes);
        memset(p->next.summed, 0, bytes);
        p->next.compared = 1;
    }
    slf_policy_suffix(p, p->next.frozen);
    return SALF_OK;
}

/* Both norms or, at the first decision, none; and a ratio that is a number. */
static salf_status check_norm_pair(const salf_policy *p, const salf_observation *seen) {
    SLF_TRY(p->early);
    const bool gradients = seen->gradient_norm != NULL, parameters = seen->parameter_norm != NULL;
    if (gradients != parameters || (!gradients && p->last.step >= 0))
        return slf_fail(SALF_E_NULL, "%s is NULL at step %" PRId64, gradients ? "parameter_norm" : "gradient_norm",
                        seen->step);
    if (!gradients) return SALF_OK;
    SLF_TRY(check_norms(seen->gradient_norm, p->m, "gradient_norm"));
    SLF_TRY(check_norms(seen->parameter_norm, p->m, "parameter_norm"));
    for (int32_t k = 0; k < p->m; k++)
        if (seen->gradient_norm[k] != 0 && !isfinite(seen->gradient_norm[k] / seen->parameter_norm[k]))
            return slf_fail(SALF_E_ARGUMENT, "parameter_norm of layer %" PRId32 " is %g, gradient_norm %g", k,
                            seen->parameter_norm[k], seen->gradient_norm[k]);
    return SALF_OK;
}

/* Ratios are summed over the ranks: each rank's norms are of its own part of the gradients, and the factor of ranks
 * cancels out against the largest. */
salf_status slf_decide_rgn(salf_policy *p, const salf_observation *seen) {
    const salf_status local = check_norm_pair(p, seen);
    double *ratios = p->scratch, largest = 0;
    memset(ratios, 0, (size_t)p->m * sizeof *ratios);
    for (int32_t k = 0; local == SALF_OK && seen->gradient_norm && k < p->m; k++)
        ratios[k] = seen->gradient_norm[k] == 0 ? 0 : seen->gradient_norm[k] / seen->parameter_norm[k];
    SLF_TRY(slf_policy_sum(p, local, ratios, p->m));
    /* All ratios 0, as at the first decision, leave every rate at 1. */
    for (int32_t k = 0; k < p->m; k++) largest = fmax(largest, ratios[k]);
    slf_policy_suffix(p, 0);
    for (int32_t k = 0; k < p->m && largest > 0; k++) p->rate_scale[k] = ratios[k] / largest;
    return SALF_OK;
}
