/*
 * exact.c - the least sum of costs over all assignments of up to 64 rows to as many places (Kuhn's problem): a row at a
 * time, along the cheapest path of moves to a place that is free, with potentials. O(n^3).
 */
#include "plan/plan.h"

/* Places are the cuts that were drawn, in order. Index 0 of the arrays is the row, or place, that is not there. The
 * same costs give the same result everywhere; of equal sums the one that is found first stands. */
void slf_stream_assign_exactly(const slf_assignment *job) {
    const int n = (int)job->n;
    int32_t layer[SLF_EXACT_ROWS + 1] = {0}; /* of each place */
    int row_at[SLF_EXACT_ROWS + 1] = {0}, before[SLF_EXACT_ROWS + 1] = {0};
    double row_price[SLF_EXACT_ROWS + 1] = {0}, place_price[SLF_EXACT_ROWS + 1] = {0};
    for (int32_t e = 0, place = 1; e < job->m; e++)
        for (int64_t k = 0; k < job->quota[e]; k++) layer[place++] = e;
    for (int row = 1; row <= n; row++) {
        /* 1. the cheapest path from this row to a place that is free, through places that are not */
        double least[SLF_EXACT_ROWS + 1];
        bool seen[SLF_EXACT_ROWS + 1] = {false};
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
