/* methods.h - the fine-tuning methods by the paper's names, and what each asks of libsalf. */
#ifndef SALF_EXAMPLE_METHODS_H
#define SALF_EXAMPLE_METHODS_H

#include <stddef.h>
#include <stdint.h>

#include "salf.h"

#define METHOD_NAME_SIZE 32
#define METHODS_MAX      32 /* in one list */

/* How a method decides. policy is BUDGET where a planner spreads the data over the depths; growth and infill are that
 * planner's. probes is 1 where the depth of a datum comes from its own deviations, by metric; a budget without a probe
 * draws the data of a layer at random. */
typedef struct method {
    char name[METHOD_NAME_SIZE];
    int32_t policy; /* SALF_POLICY_FULL, HALF, LIFT, LIFT_STAR, SALF or BUDGET */
    int32_t growth; /* SALF_GROWTH_* */
    int32_t infill; /* SALF_INFILL_* */
    int32_t probes;
    int32_t metric; /* SALF_METRIC_* */
} method;

/* One name, such as "salf[geom][df]" or "salf[half][ce]". Returns 0, or -1 when there is no such method. */
int method_parse(method *out, const char *name, size_t length);

/* Appends the methods of a comma-separated list to out [METHODS_MAX], of which *count are in use. Returns 0, or -1 with
 * a one-line message that names the part at fault. */
int method_list_parse(method *out, int *count, const char *list, char *message, size_t message_size);

/* All names without metric suffix, separated by blanks: for help and for error messages. */
void method_known_names(char *out, size_t size);

#endif
