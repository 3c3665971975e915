/*
 * assign.c - which row gets which of the cuts that a quota drew for a batch (stream.c): at random, by eof, by gains.
 *
 * RANDOM: Fisher and Yates, draw i of the counter-based generator at (seed, position + i).
 * EOF: Algorithm 4 inside the group: e ascending, rows in order with eof <= e; what is missing comes from a shuffle.
 * GAIN: the least sum of L_i(e) = sum over k < e of max(g_k, 0) over the rows i. Up to 64 rows exactly; above,
 * the deepest cuts go first, each to the rows that lose least there, O(m n log n).
 */
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "plan/plan.h"

enum { EXACT_ROWS = 64 };

/* So that sums over 64 rows and 65,534 layers stay finite. */
#define LOST_MOST 1e300

void slf_stream_sum_lost(double *gains, int64_t n, int32_t m) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double *row = gains + i * m, sum = 0;
        for (int32_t e = 0; e < m; e++) {
            const double gain = row[e];
            row[e] = sum > LOST_MOST ? LOST_MOST : sum; /* NaN stays */
            sum += isfinite(gain) ? fmax(gain, 0) : NAN;
        }
        row[0] = isnan(sum) ? NAN : 0; /* marks the row; nothing is lost at layer 0 */
        if (row[m - 1] > most) most = row[m - 1];
    }
    for (int64_t i = 0; i < n; i++) {
        double *row = gains + i * m;
        if (!isnan(row[0])) continue;
        for (int32_t e = 0; e < m; e++) row[e] = e * (most + 1);
    }
}

/* The least sum of costs over all assignments of up to 64 rows to as many places (Kuhn's problem): a row at a time,
 * along the cheapest path of moves to a place that is free, with potentials. O(n^3).
 *
 * Places are the cuts that were drawn, in order. Index 0 of the arrays is the row, or place, that is not there. The
 * same costs give the same result everywhere; of equal sums the one that is found first stands. */
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

int slf_by_loss(const void *a, const void *b) {
    const slf_ranked *x = a, *y = b;
    if (x->lost != y->lost) return x->lost < y->lost ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static void assign_by_eof(const slf_assignment *job) {
    /* 1. who comes when nobody's eof fits: the rows shuffled, at the draws of their own positions */
    for (int64_t i = 0; i < job->n; i++) job->ranked[i].row = job->rows[i];
    for (int64_t i = 0; i < job->n; i++) {
        const uint64_t at = (uint64_t)(job->position + job->rows[i]);
        const int64_t j = i + (int64_t)slf_random_below(job->seed, SLF_STREAM_ROWS, at, (uint64_t)(job->n - i));
        const int64_t row = job->ranked[j].row;
        job->ranked[j].row = job->ranked[i].row;
        job->ranked[i].row = row;
    }
    /* 2. layer by layer */
    int64_t drawn = 0;
    for (int32_t e = 0; e < job->m; e++) {
        for (int64_t i = 0; i < job->n && job->quota[e] > 0; i++) {
            const int64_t row = job->rows[i];
            if (job->cuts[row] >= 0 || job->eof[row] > e) continue;
            job->cuts[row] = e;
            job->quota[e]--;
        }
        for (; job->quota[e] > 0; drawn++) {
            const int64_t row = job->ranked[drawn].row;
            if (job->cuts[row] >= 0) continue;
            job->cuts[row] = e;
            job->quota[e]--;
        }
    }
}

/* Counts how often each layer was drawn; rows that have no cut yet have -1 from here on. */
void slf_stream_assign(const slf_assignment *job) {
    memset(job->quota, 0, (size_t)job->m * sizeof *job->quota);
    for (int64_t i = 0; i < job->n; i++) {
        job->quota[job->cuts[job->rows[i]]]++;
        job->cuts[job->rows[i]] = -1;
    }
    if (!job->lost || job->n <= EXACT_ROWS) {
        (job->lost ? assign_exactly : assign_by_eof)(job);
        return;
    }
    /* of more rows: the deepest cuts first, each to the rows that lose least by it */
    for (int32_t e = job->m - 1; e >= 0; e--) {
        if (job->quota[e] == 0) continue;
        int64_t left = 0;
        for (int64_t i = 0; i < job->n; i++) {
            const int64_t row = job->rows[i];
            if (job->cuts[row] >= 0) continue;
            job->ranked[left++] = (slf_ranked){.row = row, .lost = job->lost[row * job->m + e]};
        }
        qsort(job->ranked, (size_t)left, sizeof *job->ranked, slf_by_loss);
        for (int64_t i = 0; i < job->quota[e]; i++) job->cuts[job->ranked[i].row] = e;
    }
}
