/*
 * gradients.c - policies that look at gradients: AUTOFREEZE and RGN. Time O(m log m) and O(m) a decision.
 *
 * AUTOFREEZE takes the L1 norm a(k) of each layer's gradient accumulated over a turn (the norm of the sum: noise that
 * cancels from step to step does not count), and compares with the turn before: change(k) = |a'(k) - a(k)| / a'(k) of
 * layers that are not frozen yet. Layers below the first whose change reaches the percentile (linear interpolation
 * between the changes in order) are frozen for good. The largest change always reaches it, so that one layer stays.
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

/* Change of a layer from the turn before to the one that has ended; from 0 to anything is the largest of all. */
static double gradient_change(const salf_policy *p, int32_t k) {
    const double before = p->last.previous[k], now = p->next.previous[k];
    if (before == 0) return now == 0 ? 0 : HUGE_VAL;
    return fabs(before - now) / before;
}

/* The step that begins a turn needs the norms of the turn that it ends. No other may have some: norms of less than a
 * turn, as hosts of version 0.1 passed them at every step, would be taken for those of a whole one. Before the first
 * decision nothing has trained, and norms say nothing. */
salf_status slf_decide_autofreeze(salf_policy *p, const salf_observation *seen) {
    const size_t bytes = (size_t)p->m * sizeof(double);
    const double *norms = seen->gradient_l1;
    const bool goes_on = p->last.step >= 0 && seen->step > p->last.step; /* not the first, nor again after a load */
    salf_status local = p->early;
    bool begins = false;
    if (local == SALF_OK && norms) local = check_norms(norms, p->m, "gradient_l1");
    if (local == SALF_OK && goes_on) {
        begins = slf_policy_turns_between(p, p->last.step, seen->step);
        if (begins && !norms)
            local = slf_fail(SALF_E_NULL, "gradient_l1 is NULL at step %" PRId64 ", which ends a turn", seen->step);
        if (!begins && norms)
            local =
                slf_fail(SALF_E_ARGUMENT,
                         "gradient_l1 at step %" PRId64 ", which ends no turn; gradients_wanted says when", seen->step);
    }
    /* 1. norms of all ranks. Gradients of data-parallel ranks that were averaged before are the same on each, and then
     * the factor cancels out in the relative change */
    SLF_TRY(slf_policy_agree(p, local, seen, NULL));
    memset(p->scratch, 0, bytes);
    if (begins) memcpy(p->scratch, norms, bytes);
    SLF_TRY(slf_all_reduce(p->context, p->scratch, p->m, SALF_F64, SALF_ALL_REDUCE_SUM));
    SLF_TRY(
        check_norms(p->scratch, p->m, "gradient_l1, summed over the ranks,")); /* a sum may overflow, on all alike */
    /* 2. two turns to compare: the prefix to freeze */
    if (begins) {
        memcpy(p->next.previous, p->scratch, bytes);
        p->next.compared = 1;
    }
    if (begins && p->last.compared) {
        const int32_t first = p->last.frozen, n = p->m - first;
        double *changes = p->scratch;
        for (int32_t i = 0; i < n; i++) changes[i] = gradient_change(p, first + i);
        qsort(changes, (size_t)n, sizeof *changes, slf_order_f64);
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
    slf_policy_suffix(p, p->next.frozen);
    /* 3. the next step is taken to be the one after this */
    p->gradients_wanted = slf_policy_turns_between(p, seen->step, SLF_MIN(seen->step, INT64_MAX - 1) + 1);
    return SALF_OK;
}

/* Ratios are summed over the ranks: each rank's norms are of its own part of the gradients, and the factor of ranks
 * cancels out against the largest. */
salf_status slf_decide_rgn(salf_policy *p, const salf_observation *seen) {
    const bool gradients = seen->gradient_norm != NULL, parameters = seen->parameter_norm != NULL;
    salf_status local = p->early; /* what is wrong with this rank's input */
    double *ratios = p->scratch, largest = 0;
    memset(ratios, 0, (size_t)p->m * sizeof *ratios);
    /* 1. both norms or, at the first decision, none */
    if (local == SALF_OK && (gradients != parameters || (!gradients && p->last.step >= 0)))
        local = slf_fail(SALF_E_NULL, "%s is NULL at step %" PRId64, gradients ? "parameter_norm" : "gradient_norm",
                         seen->step);
    if (local == SALF_OK && gradients) local = check_norms(seen->gradient_norm, p->m, "gradient_norm");
    if (local == SALF_OK && gradients) local = check_norms(seen->parameter_norm, p->m, "parameter_norm");
    /* 2. their ratios. A layer without gradients has 0, also where its parameters are all 0; with gradients such a
     * layer has no ratio. */
    for (int32_t k = 0; local == SALF_OK && gradients && k < p->m; k++) {
        ratios[k] = seen->gradient_norm[k] == 0 ? 0 : seen->gradient_norm[k] / seen->parameter_norm[k];
        if (!isfinite(ratios[k]))
            local = slf_fail(SALF_E_ARGUMENT, "parameter_norm of layer %" PRId32 " is %g, gradient_norm %g", k,
                             seen->parameter_norm[k], seen->gradient_norm[k]);
    }
    SLF_TRY(slf_policy_agree(p, local, seen, NULL));
    SLF_TRY(slf_all_reduce(p->context, ratios, p->m, SALF_F64, SALF_ALL_REDUCE_SUM));
    SLF_TRY(check_norms(ratios, p->m, "gradient_norm / parameter_norm, summed over the ranks,"));
    /* 3. rates relative to the largest */
    /* All ratios 0, as at the first decision, leave every rate at 1. */
    for (int32_t k = 0; k < p->m; k++) largest = fmax(largest, ratios[k]);
    slf_policy_suffix(p, 0);
    for (int32_t k = 0; k < p->m && largest > 0; k++) p->rate_scale[k] = ratios[k] / largest;
    return SALF_OK;
}
