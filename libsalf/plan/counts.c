/*
 * counts.c - how many data each layer gets: c_e, e = 0 ... m-1, of sum N (paper 3.4, Appendix A.3).
 *
 * UNIFORM divides, CUSTOM shares by largest remainder. The others give each layer a capacity, an absolute number of
 * data: ratio^e rounded down, or e + 1. While N exceeds the sum S of all capacities, N div S whole rounds are booked
 * and the rest is infilled; the paper says so for ARITHMETIC, and GEOMETRIC follows it, as a plan must book all N.
 * Time O(m log N), whatever N.
 */
#include <math.h>
#include <stdlib.h>

#include "plan/plan.h"

/* Shares n w_e / sum w rounded down, then one more each in the order of what rounding took. Layers of weight 0 get
 * nothing. */
static salf_status count_by_weight(const salf_context *context, const double *weights, int32_t m, int64_t n,
                                   int64_t *counts) {
    slf_ranked *rests; /* largest first, ties to the shallowest */
    SLF_TRY(SLF_ALLOC(context, rests, m));
    /* 1. weights relative to the largest, as their own sum may overflow */
    int32_t largest = 0, positive = 0;
    for (int32_t e = 1; e < m; e++)
        if (weights[e] > weights[largest]) largest = e;
    double sum = 0;
    for (int32_t e = 0; e < m; e++) sum += weights[e] / weights[largest];
    /* 2. whole shares */
    int64_t left = n;
    for (int32_t e = 0; e < m; e++) {
        const double share = fmin((double)n * (weights[e] / weights[largest] / sum), 0x1p62), whole = floor(share);
        counts[e] = (int64_t)whole;
        left -= counts[e];
        if (weights[e] > 0) rests[positive++] = (slf_ranked){.lost = whole - share, .row = e};
    }
    /* 3. what is left. Beyond 2^53 data a share is not exact, and then it may be more than one a layer, or below 0:
     * all of that goes to the layer of the largest weight */
    if (left < 0 || left > positive) {
        counts[largest] += left;
        left = 0;
    }
    qsort(rests, (size_t)positive, sizeof *rests, slf_by_loss);
    for (int64_t i = 0; i < left; i++) counts[rests[i].row]++;
    slf_free(context, rests);
    return SALF_OK;
}

/* Sum of min(capacity, level) over the layers, or limit + 1 where that is more than limit. */
static int64_t sum_up_to(const int64_t *capacity, int32_t m, int64_t level, int64_t limit) {
    int64_t sum = 0;
    for (int32_t e = 0; e < m; e++) {
        const int64_t part = SLF_MIN(capacity[e], level);
        if (part > limit - sum) return limit + 1;
        sum += part;
    }
    return sum;
}

/* Of the growths with a capacity for each layer, infilling depth-first goes in turns, shallow to deep: each layer that
 * is not full gets one. After t whole turns a layer holds min(capacity, t), and so bisection finds the largest t whose
 * sum is at most the rest; the turn after it ends where the rest does. */
salf_status slf_plan_counts(const salf_context *context, const salf_planner_options *options, int32_t m, int64_t n,
                            int64_t *counts) {
    if (options->growth == SALF_GROWTH_CUSTOM) return count_by_weight(context, options->weights, m, n, counts);
    for (int32_t e = 0; e < m; e++) counts[e] = n / m + (e < n % m);
    if (options->growth == SALF_GROWTH_UNIFORM) return SALF_OK;
    int64_t *capacity;
    SLF_TRY(SLF_ALLOC(context, capacity, m));
    /* 1. capacities, none above n: more than all data is as good as all, and cannot overflow. The power is exact for
     * ratio 2, and otherwise one rounding a layer, the same on every platform */
    double power = 1;
    for (int32_t e = 0; e < m; e++) {
        const double size = options->growth == SALF_GROWTH_ARITHMETIC ? e + 1.0 : power;
        capacity[e] = size < (double)n ? (int64_t)size : n;
        power *= options->ratio; /* may become infinite */
    }
    /* 2. whole rounds; a sum above n counts as n + 1, so that there is none */
    const int64_t sum = sum_up_to(capacity, m, n, n), rounds = n / sum;
    for (int32_t e = 0; e < m; e++) counts[e] = rounds * capacity[e];
    /* 3. the rest, less than the sum of all capacities */
    int64_t rest = n - rounds * sum;
    if (options->infill == SALF_INFILL_BREADTH) {
        for (int32_t e = 0; e < m; e++) {
            const int64_t part = SLF_MIN(capacity[e], rest);
            counts[e] += part;
            rest -= part;
        }
    } else {
        /* `level` turns fit, `above` do not. rest + 1 never fit: one layer that holds so many takes more than rest by
         * itself, and without such a layer all are full by then. */
        int64_t level = 0, above = rest + 1;
        while (above - level > 1) {
            const int64_t middle = level + (above - level) / 2;
            if (sum_up_to(capacity, m, middle, rest) <= rest)
                level = middle;
            else
                above = middle;
        }
        rest -= sum_up_to(capacity, m, level, rest);
        for (int32_t e = 0; e < m; e++) {
            const bool extra = rest > 0 && capacity[e] > level;
            counts[e] += SLF_MIN(capacity[e], level) + extra;
            rest -= extra;
        }
    }
    slf_free(context, capacity);
    return SALF_OK;
}
