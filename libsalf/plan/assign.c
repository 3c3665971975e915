/*
 * assign.c - which row gets which of the cuts that a quota drew for a batch (stream.c): at random, by eof, by gains.
 *
 * RANDOM: Fisher and Yates, draw i of the counter-based generator at (seed, position + i).
 * EOF: Algorithm 4 inside the group: e ascending, rows in order with eof <= e; what is missing comes from a shuffle.
 * GAIN: the least sum of L_i(e) = sum over k < e of max(g_k, 0) over the rows i. Up to 64 rows exactly, by shortest
 * augmenting paths, O(n^3); above, the deepest cuts go first, each to the rows that lose least there, O(m n log n).
 */
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "plan/plan.h"

/* Stream of the counter-based generator: "planrows" in ASCII. */
#define STREAM_ROWS 0x706C616E726F7773u

enum { EXACT_ROWS = 64 };

void slf_stream_shuffle(uint64_t seed, int64_t position, int32_t *values, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t j = i + (int64_t)slf_random_below(seed, STREAM_ROWS, (uint64_t)(position + i), (uint64_t)(n - i));
        const int32_t value = values[j];
        values[j] = values[i];
        values[i] = value;
    }
}

/* Rows that have no cut yet have -1. */
static void assign_by_eof(const slf_assignment *job) {
    int32_t *const cuts = job->cuts;
    /* 1. who comes when nobody's eof fits: the rows shuffled, at the draws of their own positions */
    for (int64_t i = 0; i < job->n; i++) job->ranked[i].row = job->rows[i];
    for (int64_t i = 0; i < job->n; i++) {
        const uint64_t at = (uint64_t)(job->position + job->rows[i]);
        const int64_t j = i + (int64_t)slf_random_below(job->seed, STREAM_ROWS, at, (uint64_t)(job->n - i));
        const int64_t row = job->ranked[j].row;
        job->ranked[j].row = job->ranked[i].row;
        job->ranked[i].row = row;
    }
    /* 2. layer by layer */
    int64_t drawn = 0;
    for (int32_t e = 0; e < job->m; e++) {
        for (int64_t i = 0; i < job->n && job->quota[e] > 0; i++) {
            const int64_t row = job->rows[i];
            if (cuts[row] >= 0 || job->eof[row] > e) continue;
            cuts[row] = e;
            job->quota[e]--;
        }
        for (; job->quota[e] > 0; drawn++) {
            const int64_t row = job->ranked[drawn].row;
            if (cuts[row] >= 0) continue;
            cuts[row] = e;
            job->quota[e]--;
        }
    }
}

/* Least sum of costs, a row to each place (Kuhn's problem, by shortest augmenting paths with potentials): places are
 * the cuts that were drawn, in order. Index 0 of the arrays is the row, or place, that is not there. The same costs
 * give the same result everywhere; of equal sums the one that is found first stands. */
static void assign_exactly(const slf_assignment *job) {
    const int n = (int)job->n;
    int32_t layer[EXACT_ROWS + 1] = {0}; /* of each place */
    int row_at[EXACT_ROWS + 1] = {0}, before[EXACT_ROWS + 1] = {0};
    double row_price[EXACT_ROWS + 1] = {0}, place_price[EXACT_ROWS + 1] = {0};
    for (int32_t e = 0, place = 1; e < job->m; e++)
        for (int64_t k = 0; k < job->quota[e]; k++) layer[place++] = e;
    for (int row = 1; row <= n; row++) {
        /* 1. the cheapest path from this row to a place that is free, through places that are not */
        double least[EXACT_ROWS + 1];
        bool seen[EXACT_ROWS + 1] = {false};
        int place = 0;
        for (int j = 0; j <= n; j++) least[j] = HUGE_VAL;
        row_at[0] = row;
        while (row_at[place] != 0) {
            const int i = row_at[place];
            const double *lost = job->lost + job->rows[i - 1] * job->m;
            int next = 0;
            seen[place] = true;
            for (int j = 1; j <= n; j++) {
                if (seen[j]) continue;
                const double cost = lost[layer[j]] - row_price[i] - place_price[j];
                if (cost < least[j]) {
                    least[j] = cost;
                    before[j] = place;
                }
                if (next == 0 || least[j] < least[next]) next = j;
            }
            const double step = least[next];
            for (int j = 0; j <= n; j++) {
                if (seen[j]) {
                    row_price[row_at[j]] += step;
                    place_price[j] -= step;
                } else {
                    least[j] -= step;
                }
            }
            place = next;
        }
        /* 2. each row on the path moves one place on */
        for (; place != 0; place = before[place]) row_at[place] = row_at[before[place]];
    }
    for (int j = 1; j <= n; j++) job->cuts[job->rows[row_at[j] - 1]] = layer[j];
}

/* Least loss first, ties to the earlier row. */
static int by_loss(const void *a, const void *b) {
    const slf_ranked *x = a, *y = b;
    if (x->lost != y->lost) return x->lost < y->lost ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static void assign_greedily(const slf_assignment *job) {
    int64_t left = job->n;
    for (int64_t i = 0; i < left; i++) job->ranked[i].row = job->rows[i];
    for (int32_t e = job->m - 1; e >= 0; e--) {
        if (job->quota[e] == 0) continue;
        for (int64_t i = 0; i < left; i++) job->ranked[i].lost = job->lost[job->ranked[i].row * job->m + e];
        qsort(job->ranked, (size_t)left, sizeof *job->ranked, by_loss);
        for (int64_t i = 0; i < job->quota[e]; i++) job->cuts[job->ranked[i].row] = e;
        left -= job->quota[e];
        memmove(job->ranked, job->ranked + job->quota[e], (size_t)left * sizeof *job->ranked);
    }
}

void slf_stream_assign(const slf_assignment *job) {
    memset(job->quota, 0, (size_t)job->m * sizeof *job->quota);
    for (int64_t i = 0; i < job->n; i++) {
        job->quota[job->cuts[job->rows[i]]]++;
        job->cuts[job->rows[i]] = -1;
    }
    if (!job->lost)
        assign_by_eof(job);
    else if (job->n <= EXACT_ROWS)
        assign_exactly(job);
    else
        assign_greedily(job);
}
