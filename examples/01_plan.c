/*
 * 01_plan.c - plan a budget: how many of 16000 data train at which depth of a 32-layer model.
 *
 * The arithmetic growth books e+1 data for layer e, round after round, and what is left is dealt out one datum a layer.
 * A datum booked at layer e leaves the e layers below it frozen, which saves e/32 of its backward pass.
 *
 *   cc 01_plan.c $(pkg-config --cflags --libs salf) -o plan
 */
#include <inttypes.h>
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 32, DATA = 16000 };

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

int main(void) {
    salf_context *context;
    check(salf_context_create(&context, NULL));

    salf_planner_options options;
    salf_options_init(&options, sizeof options);
    options.growth = SALF_GROWTH_ARITHMETIC;
    options.infill = SALF_INFILL_DEPTH;
    salf_planner *planner;
    check(salf_planner_create(&planner, context, LAYERS, DATA, &options));

    int64_t counts[LAYERS];
    double saving;
    check(salf_planner_counts(planner, counts));
    check(salf_planner_saving(planner, &saving));
    for (int layer = 0; layer < LAYERS; layer++)
        printf("layer %2d trains from %" PRId64 " data\n", layer, counts[layer]);
    printf("saving %.3f of full back-propagation\n", saving);

    salf_planner_destroy(planner);
    salf_context_destroy(context);
    return EXIT_SUCCESS;
}
