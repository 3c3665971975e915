/*
 * gradients.c - policies that look at gradients: AUTOFREEZE and RGN. Cost O(m log m) and O(m).
 *
 * AUTOFREEZE sums the L1 norms a(k) of each layer over an interval and all ranks, and compares with the interval
 * before: change(k) = |a'(k) - a(k)| / a'(k) of layers not frozen yet. Layers below the first whose change reaches the
 * percentile (linear interpolation) are frozen for good; the largest change always reaches it, so one layer stays.
 * RGN: rate scale of a layer = (gradient norm / parameter norm) / the largest such ratio; 1 before the first norms.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "policy/policy.h"

static salf_status check_norms(const double *norms, int32_t m, const char *name) {
    for (int32_t k = 0; k < m; k++) {
        if (!isfinite(norms[k]))
            return slf_fail(SALF_E_NONFINITE, "salf_policy_decide: %s of layer %d is %g", name, (int)k, norms[k]);
        if (norms[k] < 0)
            return slf_fail(SALF_E_ARGUMENT, "salf_policy_decide: %s of layer %d is %g, below 0", name, (int)k,
                            norms[k]);
    }
    return SALF_OK;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double change_of(const salf_policy *p, int32_t k) {
    const double before = p->previous[k], now = p->next_summed[k];
    if (before == 0) return now == 0 ? 0 : HUGE_VAL;
    return fabs(before - now) / before;
}

/* Length of the prefix to freeze after a comparison of two intervals. */
static int32_t frozen_after(salf_policy *p) {
    const int32_t first = p->memory.frozen, n = p->m - first;
    for (int32_t i = 0; i < n; i++) p->scratch[i] = change_of(p, first + i);
    qsort(p->scratch, (size_t)n, sizeof *p->scratch, ascending);
    const double place = p->options.percentile / 100 * (n - 1);
    const int32_t low = (int32_t)place;
    const double share = place - low;
    double bound = p->scratch[low];
    if (share > 0) bound = isinf(p->scratch[low + 1]) ? HUGE_VAL : bound + share * (p->scratch[low + 1] - bound);
    int32_t k = first;
    while (k < p->m - 1 && change_of(p, k) < bound) k++;
    return k;
}

/* L1 norms of all ranks into sums [m+1]; none are there at the first decision. */
static salf_status sum_norms(salf_policy *p, const salf_observation *seen, double *sums) {
    const double *norms = seen->gradient_l1;
    salf_status local = p->early;
    memset(sums, 0, ((size_t)p->m + 1) * sizeof *sums);
    if (local == SALF_OK && norms)
        local = check_norms(norms, p->m, "gradient_l1");
    else if (local == SALF_OK && p->memory.last_step >= 0)
        local = slf_fail(SALF_E_NULL, "salf_policy_decide: gradient_l1 is NULL at step %lld, after the first decision",
                         (long long)seen->step);
    if (norms && local == SALF_OK) memcpy(sums, norms, (size_t)p->m * sizeof *sums);
    return slf_policy_sum(p, local, sums, p->m);
}

salf_status slf_decide_autofreeze(salf_policy *p, const salf_observation *seen) {
    const size_t bytes = (size_t)p->m * sizeof(double);
    SLF_TRY(sum_norms(p, seen, p->scratch));
    const bool again = seen->step == p->memory.last_step; /* after a load: counted already */
    for (int32_t k = 0; k < p->m && !again; k++) p->next_summed[k] += p->scratch[k];
    const int64_t interval = seen->step / p->turn_steps;
    if (interval > p->memory.interval) {
        if (p->memory.compared) p->next.frozen = frozen_after(p);
        memcpy(p->next_previous, p->next_summed, bytes);
        memset(p->next_summed, 0, bytes);
        p->next.compared = 1;
        p->next.interval = interval;
    }
    slf_policy_suffix(p, p->next.frozen);
    return SALF_OK;
}

static salf_status check_pair(const salf_policy *p, const salf_observation *seen) {
    SLF_TRY(p->early);
    const bool gradients = seen->gradient_norm != NULL, parameters = seen->parameter_norm != NULL;
    if (gradients != parameters || (!gradients && p->memory.last_step >= 0))
        return slf_fail(SALF_E_NULL, "salf_policy_decide: %s is NULL at step %lld",
                        gradients ? "parameter_norm" : "gradient_norm", (long long)seen->step);
    if (!gradients) return SALF_OK;
    SLF_TRY(check_norms(seen->gradient_norm, p->m, "gradient_norm"));
    SLF_TRY(check_norms(seen->parameter_norm, p->m, "parameter_norm"));
    for (int32_t k = 0; k < p->m; k++) {
        if (seen->gradient_norm[k] == 0 || isfinite(seen->gradient_norm[k] / seen->parameter_norm[k])) continue;
        return slf_fail(SALF_E_ARGUMENT, "salf_policy_decide: parameter_norm of layer %d is %g, gradient_norm %g",
                        (int)k, seen->parameter_norm[k], seen->gradient_norm[k]);
    }
    return SALF_OK;
}

salf_status slf_decide_rgn(salf_policy *p, const salf_observation *seen) {
    const salf_status local = check_pair(p, seen);
    double largest = 0;
    memset(p->scratch, 0, ((size_t)p->m + 1) * sizeof *p->scratch);
    for (int32_t k = 0; local == SALF_OK && seen->gradient_norm && k < p->m; k++)
        p->scratch[k] = seen->gradient_norm[k] == 0 ? 0 : seen->gradient_norm[k] / seen->parameter_norm[k];
    SLF_TRY(slf_policy_sum(p, local, p->scratch, p->m));
    for (int32_t k = 0; k < p->m; k++) largest = fmax(largest, p->scratch[k]);
    slf_policy_suffix(p, 0);
    for (int32_t k = 0; k < p->m && largest > 0; k++) p->rate_scale[k] = p->scratch[k] / largest;
    return SALF_OK;
}
