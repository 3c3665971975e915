/* published.h - the arithmetic breadth-first plan as the paper's Table 5 books it. */
#ifndef SALF_EXAMPLE_PUBLISHED_H
#define SALF_EXAMPLE_PUBLISHED_H

#include <stdint.h>

#include "salf.h"

/* Turns options of ARITHMETIC growth with BREADTH infill into CUSTOM growth with weights that give the published
 * counts; weights [m] must live until the planner is made. Options of any other growth or infill stay as they are, so
 * that a run of several methods may be asked for it as a whole. Errors: those of salf_planner_create. */
salf_status published_plan(salf_context *context, int32_t m, int64_t n_data, salf_planner_options *options,
                           double *weights);

#endif
