/* cmd_plan.c - `salf plan`: how many data train at which depth, and what it saves (paper, section 3.4). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "args.h"
#include "commands.h"
#include "jsonl.h"
#include "published.h"
#include "salf.h"

typedef struct plan_settings {
    int32_t layers;
    int64_t data;
    int32_t growth;
    int32_t growth_given;
    int32_t infill;
    int32_t infill_given;
    int32_t as_published;
    int32_t json;
    double ratio;
    int32_t ratio_given;
    const char *weights;
} plan_settings;

#define AT(field) offsetof(plan_settings, field)

static const args_option plan_table[] = {
    {"layers", 0, ARGS_INT32, AT(layers), "M", .help = "layers of the model", .least = 1, .most = 1e6, .required = 1},
    {"data", 0, ARGS_INT, AT(data), "N", .help = "data to train on", .least = 1, .most = 4e18, .required = 1},
    {"growth", 0, ARGS_CHOICE, AT(growth), .family = "SALF_GROWTH", .given = AT(growth_given),
     .help = "how capacities grow with the depth of freezing (default uniform)"},
    {"infill", 0, ARGS_CHOICE, AT(infill), .family = "SALF_INFILL", .given = AT(infill_given),
     .help = "geometric and arithmetic growth: how what is left fills the layers, one after the other, or in turns "
             "(default breadth)"},
    {"ratio", 0, ARGS_REAL, AT(ratio), "R", .given = AT(ratio_given),
     .help = "factor from layer to layer of geometric growth, above 1 (default 2)"},
    {"weights", 0, ARGS_TEXT, AT(weights), "W,...",
     .help = "share of each layer: M numbers, not negative; they mean --growth custom"},
    {"as-published", 0, ARGS_FLAG, AT(as_published),
     .help = "book arithmetic breadth-first plans as Table 5 of the paper does, class k at layer k mod M"},
    {"json", 0, ARGS_FLAG, AT(json), .help = "print one JSON object"},
};
#undef AT

static const args_command plan_command = {
    .name = "plan",
    .summary = "Prints how many data are to train with each freezing depth: `layer<TAB>count` lines, then "
               "`saving<TAB>value`.",
    .options = plan_table,
    .n_options = sizeof plan_table / sizeof *plan_table,
};

/* Weights of custom growth as a list of one number a layer, NULL for other growths. Returns -1 to go on, or an exit
 * code. */
static int read_weights(plan_settings *s, double **weights) {
    char message[256];
    int64_t n;
    *weights = NULL;
    if (!s->weights && s->growth == SALF_GROWTH_CUSTOM) return args_misuse("plan", "--growth custom needs --weights");
    if (!s->weights) return -1;
    if (s->growth_given && s->growth != SALF_GROWTH_CUSTOM)
        return args_misuse("plan", "--weights is for --growth custom");
    s->growth = SALF_GROWTH_CUSTOM;
    const int code = args_real_list(s->weights, weights, &n, message, sizeof message);
    if (code != EXIT_CODE_OK) return args_say(code, "plan", "--weights: %s", message);
    if (n == s->layers) return -1;
    free(*weights);
    return args_misuse("plan", "--weights: %" PRId64 " numbers for %" PRId32 " layers", n, s->layers);
}

/* Lines for people and awk, or one object for programs. */
static int print_plan(const plan_settings *s, const int64_t *counts, double saving) {
    if (!s->json) {
        for (int32_t e = 0; e < s->layers; e++) printf("%" PRId32 "\t%" PRId64 "\n", e, counts[e]);
        printf("saving\t%.6f\n", saving);
        return EXIT_CODE_OK;
    }
    jsonl_writer w = {.file = stdout};
    jsonl_begin(&w, NULL);
    jsonl_int(&w, "layers", s->layers);
    jsonl_int(&w, "data", s->data);
    jsonl_text(&w, "growth", salf_constant_word("SALF_GROWTH", s->growth));
    jsonl_text(&w, "infill", salf_constant_word("SALF_INFILL", s->infill));
    jsonl_ints(&w, "counts", counts, s->layers);
    jsonl_real(&w, "saving", saving);
    jsonl_end(&w);
    return w.error ? args_fail("plan", "cannot write to standard output") : EXIT_CODE_OK;
}

/* Makes the plan and prints it; returns the exit code. */
static int make_plan(const plan_settings *s, const double *weights) {
    salf_context *context = NULL;
    salf_planner *planner = NULL;
    salf_planner_options options;
    double saving;
    salf_options_init(&options, sizeof options);
    options.growth = s->growth;
    options.infill = s->infill;
    options.ratio = s->ratio;
    options.weights = weights;
    double *booked = malloc((size_t)s->layers * sizeof *booked);
    int64_t *counts = malloc((size_t)s->layers * sizeof *counts);
    if (!booked || !counts) {
        free(booked);
        free(counts);
        return args_fail("plan", "out of memory");
    }
    /* Plain integers: no device is looked for. */
    const salf_context_options here = {.struct_size = sizeof here, .backend = SALF_BACKEND_REFERENCE};
    salf_status status = salf_context_create(&context, &here);
    if (!status && s->as_published) status = published_plan(context, s->layers, s->data, &options, booked);
    if (!status) status = salf_planner_create(&planner, context, s->layers, s->data, &options);
    if (!status) status = salf_planner_counts(planner, counts);
    if (!status) status = salf_planner_saving(planner, &saving);
    /* What the planner refuses as an argument stood on the command line. */
    const int misused = status == SALF_E_ARGUMENT || status == SALF_E_OVERFLOW;
    int code = EXIT_CODE_OK;
    if (status == SALF_E_NO_MEMORY) {
        code = args_fail("plan", "out of memory");
    } else if (status) {
        code = args_say(misused ? EXIT_CODE_USAGE : EXIT_CODE_FAILED, "plan", "%s", salf_last_error());
    } else {
        code = print_plan(s, counts, saving);
    }
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    free(booked);
    free(counts);
    return code;
}

int cmd_plan(int argc, char **argv) {
    plan_settings s = {0};
    double *weights;
    int code = args_parse(&plan_command, &s, argc, argv, NULL);
    /* What would change nothing is refused, and a ratio of 0, which the library takes for its default. */
    const int geometric = s.growth == SALF_GROWTH_GEOMETRIC, arithmetic = s.growth == SALF_GROWTH_ARITHMETIC;
    if (code < 0 && s.as_published && (!arithmetic || s.infill != SALF_INFILL_BREADTH))
        code = args_misuse("plan", "--as-published is for --growth arithmetic, breadth-first");
    if (code < 0 && s.ratio_given && !geometric) code = args_misuse("plan", "--ratio is for --growth geometric");
    if (code < 0 && s.ratio_given && !(s.ratio > 1)) code = args_misuse("plan", "--ratio: %g is not above 1", s.ratio);
    if (code < 0 && s.infill_given && !geometric && !arithmetic)
        code = args_misuse("plan", "--infill is for --growth geometric or arithmetic");
    if (code < 0) code = read_weights(&s, &weights);
    if (code >= 0) return code;
    code = make_plan(&s, weights);
    free(weights);
    return code;
}
