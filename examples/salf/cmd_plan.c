/* cmd_plan.c - `salf plan`: how many data train at which depth, and what it saves (paper, section 3.4). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "args.h"
#include "commands.h"
#include "jsonl.h"
#include "salf.h"

typedef struct plan_settings {
    int32_t layers;
    int64_t data;
    int32_t growth;
    int32_t infill;
    int32_t as_published;
    int32_t json;
    double ratio;
    const char *weights;
    int32_t growth_given;
} plan_settings;

static int read_settings(plan_settings *s, int argc, char **argv) {
    const args_option options[] = {
        {.name = "layers",
         .kind = ARGS_INT32,
         .value = &s->layers,
         .metavar = "M",
         .help = "layers of the model",
         .least = 1,
         .most = 1e6,
         .required = 1},
        {.name = "data",
         .kind = ARGS_INT,
         .value = &s->data,
         .metavar = "N",
         .help = "data to train on",
         .least = 1,
         .most = 4e18,
         .required = 1},
        {.name = "growth",
         .kind = ARGS_CHOICE,
         .value = &s->growth,
         .choices = "uniform|geometric|arithmetic|custom",
         .help = "how capacities grow with the depth of freezing (default uniform)",
         .given = &s->growth_given},
        {.name = "infill",
         .kind = ARGS_CHOICE,
         .value = &s->infill,
         .choices = "breadth|depth",
         .help = "how what is left fills the layers: one after the other, or in turns (default breadth)"},
        {.name = "ratio",
         .kind = ARGS_REAL,
         .value = &s->ratio,
         .metavar = "R",
         .help = "factor from layer to layer of geometric growth, above 1 (default 2)"},
        {.name = "weights",
         .kind = ARGS_TEXT,
         .value = &s->weights,
         .metavar = "W,...",
         .help = "share of each layer, for custom growth: M numbers, not negative"},
        {.name = "as-published",
         .kind = ARGS_FLAG,
         .value = &s->as_published,
         .help = "book arithmetic breadth-first plans as Table 5 of the paper does, class k at layer k mod M"},
        {.name = "json", .kind = ARGS_FLAG, .value = &s->json, .help = "print one JSON object"},
    };
    const args_command command = {.name = "plan",
                                  .summary = "Prints how many data are to train with each freezing depth: "
                                             "`layer<TAB>count` lines, then `saving<TAB>value`.",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    return args_parse(&command, argc, argv, NULL);
}

/* Weights of custom growth as a list of one number a layer. Returns -1 to go on, or an exit code. */
static int read_weights(plan_settings *s, double **weights) {
    char message[256];
    int64_t n;
    *weights = NULL;
    if (!s->weights) {
        if (s->growth == SALF_GROWTH_CUSTOM) return args_misuse("plan", "--growth custom needs --weights");
        return -1;
    }
    if (s->growth_given && s->growth != SALF_GROWTH_CUSTOM)
        return args_misuse("plan", "--weights is for --growth custom");
    s->growth = SALF_GROWTH_CUSTOM;
    const int code = args_real_list(s->weights, weights, &n, message, sizeof message);
    if (code != EXIT_CODE_OK) return args_say(code, "plan", "--weights: %s", message);
    if (n == s->layers) return -1;
    free(*weights);
    *weights = NULL;
    return args_misuse("plan", "--weights: %" PRId64 " numbers for %" PRId32 " layers", n, s->layers);
}

static int print_json(const plan_settings *s, const int64_t *counts, double saving) {
    static const char *const growths[] = {"uniform", "geometric", "arithmetic", "custom"};
    jsonl_writer w = {.file = stdout};
    jsonl_begin(&w, NULL);
    jsonl_int(&w, "layers", s->layers);
    jsonl_int(&w, "data", s->data);
    jsonl_text(&w, "growth", growths[s->growth]);
    jsonl_text(&w, "infill", s->infill == SALF_INFILL_DEPTH ? "depth" : "breadth");
    jsonl_ints(&w, "counts", counts, s->layers);
    jsonl_real(&w, "saving", saving);
    jsonl_end(&w);
    return w.failed ? args_fail("plan", "cannot write to standard output") : EXIT_CODE_OK;
}

static int print_plan(const plan_settings *s, const int64_t *counts, double saving) {
    if (s->json) return print_json(s, counts, saving);
    for (int32_t e = 0; e < s->layers; e++) printf("%" PRId32 "\t%" PRId64 "\n", e, counts[e]);
    printf("saving\t%.6f\n", saving);
    return EXIT_CODE_OK;
}

/* What the planner refuses as an argument the user gave on the command line. */
static int plan_error(salf_status status) {
    if (status == SALF_E_ARGUMENT || status == SALF_E_OVERFLOW) return args_misuse("plan", "%s", salf_last_error());
    return args_fail_salf("plan");
}

static int make_plan(const plan_settings *s, const double *weights) {
    salf_context *context = NULL;
    salf_planner *planner = NULL;
    salf_planner_options options;
    double saving;
    int64_t *counts = malloc((size_t)s->layers * sizeof *counts);
    if (!counts) return args_fail("plan", "out of memory");
    salf_options_init(&options, sizeof options);
    options.growth = s->growth;
    options.infill = s->infill;
    options.ratio = s->ratio;
    options.weights = weights;
    salf_status status = salf_context_create(&context, NULL);
    if (!status) status = salf_planner_create(&planner, context, s->layers, s->data, &options);
    if (!status) status = salf_planner_counts(planner, counts);
    if (!status) status = salf_planner_saving(planner, &saving);
    const int code = status ? plan_error(status) : print_plan(s, counts, saving);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    free(counts);
    return code;
}

int cmd_plan(int argc, char **argv) {
    plan_settings s = {0};
    double *weights;
    int code = read_settings(&s, argc, argv);
    if (code < 0) code = read_weights(&s, &weights);
    if (code >= 0) return code;
    code = make_plan(&s, weights);
    free(weights);
    return code;
}
