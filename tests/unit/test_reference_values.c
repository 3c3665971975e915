/*
 * Basis rows and deviations of three trained models against reference values that a program of its own computed in
 * double precision, on every CPU backend. Skipped, aloud, where the shared material is absent.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "llama_forward.h"
#include "oracle.h"

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};
static const char *const models[] = {"stories260k", "stories656k", "stories3m"};

enum { LINE = 1 << 20, MAX_D = 256, MAX_SPACES = 16 };

static FILE *open_shared(const char *format, const char *model, const char *rest) {
    char name[256];
    snprintf(name, sizeof name, format, model, rest);
    const char *path = harness_shared(name);
    return path ? fopen(path, "r") : NULL;
}

static salf_model *open_model(salf_context *context, const char *name) {
    char folder[128];
    salf_model *model = NULL;
    snprintf(folder, sizeof folder, "models/%s", name);
    const char *path = harness_shared(folder);
    if (path) CHECK_OK(salf_model_open(&model, context, path, NULL));
    return model;
}

static int numbers(char *text, double *out, int room) {
    int n = 0;
    for (char *part = strtok(text, "\t,\n"); part && n < room; part = strtok(NULL, "\t,\n")) out[n++] = atof(part);
    return n;
}

/* ---- basis ---- */

static void check_row(const salf_basis *basis, char *line, int64_t d) {
    double expected[MAX_D + 1], row[MAX_D], error = 0;
    ck_assert_int_eq(numbers(line, expected, MAX_D + 1), d + 1);
    const int32_t label = (int32_t)expected[0];
    const salf_tensor out = oracle_view(row, SALF_F64, 1, d);
    CHECK_OK(salf_basis_rows(basis, &label, 1, &out));
    for (int64_t j = 0; j < d; j++) error += pow(row[j] - expected[j + 1], 2);
    const double relative = sqrt(error / oracle_dot(expected + 1, expected + 1, d));
    ck_assert_msg(relative < 1e-9, "token %d: relative error %g", (int)label, relative);
}

static void check_header(const salf_basis *basis, const char *line) {
    salf_basis_info info = {.struct_size = sizeof info};
    long long rank;
    double largest, smallest;
    const char *at = strstr(line, "rank ");
    ck_assert_ptr_nonnull(at);
    ck_assert_int_eq(sscanf(at, "rank %lld; largest %lf smallest %lf", &rank, &largest, &smallest), 3);
    CHECK_OK(salf_basis_get_info(basis, &info));
    ck_assert_int_eq(info.rank, rank);
    ck_assert(fabs(info.sigma_max / largest - 1) < 1e-6);
    ck_assert(fabs(info.sigma_min / smallest - 1) < 1e-2); /* known to the proof's precision where none is dropped */
}

static void check_basis_file(salf_model *model, const char *name, const char *rtol) {
    FILE *file = open_shared("reference/basis_%s_rtol%s.tsv", name, rtol);
    if (!file) return;
    char *line = malloc(LINE);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = strcmp(rtol, "0") == 0 ? SALF_BASIS_EXACT : SALF_BASIS_RTOL;
    options.rtol = atof(rtol);
    salf_basis *basis;
    salf_model_info shape = {.struct_size = sizeof shape};
    CHECK_OK(salf_model_get_info(model, &shape));
    CHECK_OK(salf_basis_create(&basis, model, NULL, 0, &options));
    int rows = 0;
    while (fgets(line, LINE, file)) {
        if (line[0] == '#' && strstr(line, "rank ")) check_header(basis, line);
        if (line[0] == '#') continue;
        check_row(basis, line, shape.hidden);
        rows++;
    }
    ck_assert_int_eq(rows, 10);
    salf_basis_destroy(basis);
    free(line);
    fclose(file);
}

START_TEST(basis_rows) {
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < 3; i++) {
            salf_context *context = harness_context(backends[k], NULL);
            salf_model *model = open_model(context, models[i]);
            if (model) {
                check_basis_file(model, models[i], "0");
                check_basis_file(model, models[i], "0.1");
            }
            salf_model_destroy(model);
            salf_context_destroy(context);
        }
}
END_TEST

/* ---- deviations ---- */

typedef struct {
    int number; /* of the data line */
    int32_t label;
    int32_t lens;
    int32_t metric;
    int n_tokens;
    int32_t tokens[512];
    double deviations[MAX_SPACES];
    int32_t eof;
} reference_line;

static int32_t index_of(const char *text, const char *const *names) {
    for (int32_t i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) return i;
    ck_abort_msg("unknown word %s", text);
    return -1;
}

static void parse_line(char *text, int spaces, reference_line *line) {
    static const char *const lenses[] = {"hf", "normed", "raw"}, *const metrics[] = {"cosine", "ce", "rank"};
    char *field[32], *save = NULL;
    int n = 0;
    double tokens[512];
    for (char *part = strtok_r(text, "\t\n", &save); part && n < 32; part = strtok_r(NULL, "\t\n", &save))
        field[n++] = part;
    ck_assert_int_eq(n, 5 + spaces + 1);
    line->number = atoi(field[0]);
    line->label = atoi(field[1]);
    line->n_tokens = numbers(field[2], tokens, 512);
    for (int i = 0; i < line->n_tokens; i++) line->tokens[i] = (int32_t)tokens[i];
    line->lens = index_of(field[3], lenses);
    line->metric = index_of(field[4], metrics);
    for (int i = 0; i < spaces; i++) line->deviations[i] = atof(field[5 + i]);
    line->eof = atoi(field[5 + spaces]);
}

static void compare(const reference_line *line, const salf_trace *trace, int spaces) {
    const double tolerance = line->metric == SALF_METRIC_RANK ? 3 : 1e-5;
    for (int i = 0; i < spaces; i++)
        ck_assert_msg(fabs(trace->deviations[i] - line->deviations[i]) <= tolerance,
                      "line %d lens %d metric %d space %d: %.9g, not %.9g", line->number, (int)line->lens,
                      (int)line->metric, i, trace->deviations[i], line->deviations[i]);
    if (trace->eof[0] == line->eof) return;
    /* another layer only where its gain is as good to rounding */
    const double gap = trace->gains[trace->eof[0]] - trace->gains[line->eof];
    ck_assert_msg(gap <= 2 * tolerance, "line %d lens %d metric %d: eof %d, not %d", line->number, (int)line->lens,
                  (int)line->metric, (int)trace->eof[0], (int)line->eof);
}

static void probe_line(salf_basis *basis, const reference_line *line, const float *states, int64_t d, int spaces) {
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.lens = line->lens;
    options.metric = line->metric;
    salf_probe *probe;
    salf_trace trace;
    CHECK_OK(salf_probe_create(&probe, basis, &options));
    CHECK_OK(salf_probe_begin(probe, &line->label, 1));
    for (int32_t i = 0; i < spaces; i++) {
        const salf_tensor view = oracle_view(states + i * d, SALF_F32, 1, d);
        CHECK_OK(salf_probe_observe(probe, i, &view, SALF_STATE_RAW));
    }
    CHECK_OK(salf_probe_end(probe, &trace));
    compare(line, &trace, spaces);
    salf_probe_destroy(probe);
}

static void check_deviations(salf_model *model, const char *name) {
    FILE *file = open_shared("reference/deviations_%s%s.tsv", name, "_trec");
    if (!file) return;
    salf_model_info shape = {.struct_size = sizeof shape};
    CHECK_OK(salf_model_get_info(model, &shape));
    const int spaces = shape.n_layers + 1;
    char *text = malloc(LINE);
    float *states = calloc((size_t)(spaces * shape.hidden), sizeof *states);
    reference_line *line = calloc(1, sizeof *line);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = SALF_BASIS_EXACT;
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, model, NULL, 0, &options));
    int last = -1, lines = 0;
    while (fgets(text, LINE, file)) {
        if (text[0] == '#') continue;
        parse_line(text, spaces, line);
        if (line->number != last) llama_last_states(model, line->tokens, line->n_tokens, states);
        last = line->number;
        probe_line(basis, line, states, shape.hidden, spaces);
        lines++;
    }
    ck_assert_int_eq(lines, 12 * 6);
    salf_basis_destroy(basis);
    free(line);
    free(states);
    free(text);
    fclose(file);
}

START_TEST(deviations) {
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < 3; i++) {
            salf_context *context = harness_context(backends[k], NULL);
            salf_model *model = open_model(context, models[i]);
            if (model) check_deviations(model, models[i]);
            salf_model_destroy(model);
            salf_context_destroy(context);
        }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, basis_rows);
    HARNESS_ADD(suite, deviations);
}
