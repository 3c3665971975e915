/* published.c - see published.h.
 *
 * Algorithm 4 gives class k = 1 ... m a capacity of k and books it at layer k - 1. Table 5 has class k at layer
 * k mod m: the largest class comes first and trains everything. The library plans as the algorithm does. CUSTOM growth
 * meets weights exactly when they are the counts themselves: its quotas N w / sum w are then whole numbers. */
#include "published.h"

#include <stdlib.h>

salf_status published_plan(salf_context *context, int32_t m, int64_t n_data, salf_planner_options *options,
                           double *weights) {
    if (options->growth != SALF_GROWTH_ARITHMETIC || options->infill != SALF_INFILL_BREADTH) return SALF_OK;
    salf_planner *planner = NULL;
    int64_t *counts = malloc((size_t)m * sizeof *counts);
    salf_status status = counts ? salf_planner_create(&planner, context, m, n_data, options) : SALF_E_NO_MEMORY;
    if (!status) status = salf_planner_counts(planner, counts);
    for (int32_t k = 1; k <= m && !status; k++) weights[k % m] = (double)counts[k - 1];
    if (!status) {
        options->growth = SALF_GROWTH_CUSTOM;
        options->weights = weights;
    }
    salf_planner_destroy(planner);
    free(counts);
    return status;
}
