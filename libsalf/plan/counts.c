/*
 * counts.c - how many data each layer gets: c_e, e = 0 ... m-1, of sum N (paper 3.4, Appendix A.3).
 *
 * UNIFORM divides, CUSTOM shares by largest remainder. The others give each layer a capacity, an absolute number of
 * data: ratio^e rounded down, or e + 1. While N exceeds the sum S of all capacities, N div S whole rounds are booked
 * and the rest is infilled; the paper says so for ARITHMETIC, and GEOMETRIC follows it, as a plan must book all N.
 * Infilling in turns fills every layer to min(capacity, t) for the largest t that fits, found by bisection, and gives
 * what is left of turn t + 1 to the shallowest layers not full. Cost O(m log N), whatever N.
 */
#include <math.h>
#include <stdlib.h>

#include "plan/plan.h"

static void count_uniform(int32_t m, int64_t n, int64_t *counts) {
    for (int32_t e = 0; e < m; e++) counts[e] = n / m + (e < n % m);
}

/* ---- custom shares ---- */

typedef struct remainder_of {
    double rest;
    int32_t layer;
} remainder_of;

static int by_rest(const void *a, const void *b) {
    const remainder_of *x = a, *y = b;
    if (x->rest != y->rest) return x->rest > y->rest ? -1 : 1;
    return (x->layer > y->layer) - (x->layer < y->layer);
}

/* Weights relative to the largest, so that their sum cannot overflow. */
static double weight_scale(const double *weights, int32_t m, double *sum, int32_t *largest) {
    *largest = 0;
    for (int32_t e = 1; e < m; e++)
        if (weights[e] > weights[*largest]) *largest = e;
    *sum = 0;
    for (int32_t e = 0; e < m; e++) *sum += weights[e] / weights[*largest];
    return weights[*largest];
}

/* Shares are rounded down, then one each by remainder, ties to the shallowest. Beyond 2^53 the shares themselves are
 * rounded; what that leaves over or short, more than one a layer, goes to the layer of the largest weight. */
static salf_status count_custom(const salf_context *context, const double *weights, int32_t m, int64_t n,
                                int64_t *counts) {
    remainder_of *rests = slf_alloc(context, (uint64_t)m, sizeof *rests);
    if (!rests) return SALF_E_NO_MEMORY;
    double sum;
    int32_t largest, positive = 0;
    const double scale = weight_scale(weights, m, &sum, &largest);
    int64_t left = n;
    for (int32_t e = 0; e < m; e++) {
        const double share = fmin((double)n * (weights[e] / scale / sum), 0x1p62), whole = floor(share);
        counts[e] = (int64_t)whole;
        left -= counts[e];
        if (weights[e] > 0) rests[positive++] = (remainder_of){share - whole, e};
    }
    if (left < 0 || left > positive) {
        counts[largest] += left;
        left = 0;
    }
    qsort(rests, (size_t)positive, sizeof *rests, by_rest);
    for (int64_t i = 0; i < left; i++) counts[rests[i].layer]++;
    slf_free(context, rests);
    return SALF_OK;
}

/* ---- capacities and infilling ---- */

/* Capacities, none above n: more than all data is as good as all. The product is exact for ratio 2, and one rounding a
 * layer otherwise, the same on every platform. */
static void set_capacities(const salf_planner_options *options, int32_t m, int64_t n, int64_t *capacity) {
    double power = 1;
    bool full = false;
    for (int32_t e = 0; e < m; e++) {
        if (options->growth == SALF_GROWTH_ARITHMETIC) {
            capacity[e] = e + (int64_t)1 < n ? e + (int64_t)1 : n;
            continue;
        }
        full = full || power >= (double)n;
        capacity[e] = full || (int64_t)power > n ? n : (int64_t)power;
        power *= options->ratio;
    }
}

/* Sum of min(capacity, level), or limit + 1 where that is more than limit. */
static int64_t sum_up_to(const int64_t *capacity, int32_t m, int64_t level, int64_t limit) {
    int64_t sum = 0;
    for (int32_t e = 0; e < m; e++) {
        const int64_t part = capacity[e] < level ? capacity[e] : level;
        if (part > limit - sum) return limit + 1;
        sum += part;
    }
    return sum;
}

static void infill_breadth(const int64_t *capacity, int32_t m, int64_t rest, int64_t *counts) {
    for (int32_t e = 0; e < m && rest > 0; e++) {
        const int64_t part = capacity[e] < rest ? capacity[e] : rest;
        counts[e] += part;
        rest -= part;
    }
}

static void infill_depth(const int64_t *capacity, int32_t m, int64_t rest, int64_t *counts) {
    int64_t level = 0, above = rest + 1; /* `level` turns fit, `above` do not or bring nothing more */
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
        counts[e] += (capacity[e] < level ? capacity[e] : level) + extra;
        rest -= extra;
    }
}

static salf_status count_capacities(const salf_context *context, const salf_planner_options *options, int32_t m,
                                    int64_t n, int64_t *counts) {
    int64_t *capacity = slf_alloc(context, (uint64_t)m, sizeof *capacity);
    if (!capacity) return SALF_E_NO_MEMORY;
    set_capacities(options, m, n, capacity);
    const int64_t sum = sum_up_to(capacity, m, n, n); /* n + 1 stands for more than n */
    const int64_t rounds = n / sum;
    for (int32_t e = 0; e < m; e++) counts[e] = rounds * capacity[e];
    if (options->infill == SALF_INFILL_BREADTH)
        infill_breadth(capacity, m, n - rounds * sum, counts);
    else
        infill_depth(capacity, m, n - rounds * sum, counts);
    slf_free(context, capacity);
    return SALF_OK;
}

salf_status slf_planner_count(const salf_context *context, const salf_planner_options *options, int32_t m, int64_t n,
                              int64_t *counts) {
    if (options->growth == SALF_GROWTH_CUSTOM) return count_custom(context, options->weights, m, n, counts);
    if (options->growth != SALF_GROWTH_UNIFORM) return count_capacities(context, options, m, n, counts);
    count_uniform(m, n, counts);
    return SALF_OK;
}
