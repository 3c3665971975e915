/*
 * bench_growth.c - how time grows when one size doubles in turn, against the exponent that counting operations gives.
 *
 *   bench_growth [--row NAME]
 *
 * Sizes are real ones: heads from a quarter of Qwen2's vocabulary to all of it, and from GPT-2's width to that of Phi-3
 * mini over 32,000 tokens; states of a batch, beyond the caches at both ends. What is not counted (passes over the
 * head, products of D^2) stays small there, and matrix products run at the BLAS's full rate.
 *
 * Every row makes one size four times as large and quotes log2(time(4 n) / time(n)) / 2, the two taking turns because
 * the machine's speed drifts, beside the same figure for the operations. Basis: V D^2 for the Gram matrix and 5/3 D^3
 * for three Cholesky factors (two of them proofs about the spectrum) and an inverse; probe: rows * spaces * D; planner:
 * data + layers.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "salf.h"

typedef struct {
    salf_context *context;
    float *numbers;
    int64_t vocab, hidden, rows, spaces, data;
} sizes;

static salf_tensor view(const sizes *s, int64_t rows) {
    return (salf_tensor){
        .data = s->numbers, .rows = rows, .cols = s->hidden, .row_stride = s->hidden, .dtype = SALF_F32};
}

static salf_basis *make_basis(const sizes *s) {
    const salf_model_options o = {
        .struct_size = sizeof o, .n_layers = 1, .hidden = s->hidden, .vocab = s->vocab, .head = view(s, s->vocab)};
    const int32_t labels[2] = {1, 2};
    salf_model *model;
    salf_basis *basis;
    BENCH_OK(salf_model_create(&model, s->context, &o));
    BENCH_OK(salf_basis_create(&basis, model, labels, 2, NULL));
    salf_model_destroy(model);
    return basis;
}

static void run_basis(void *user) {
    salf_basis_destroy(make_basis(user));
}

static double basis_operations(const sizes *s) {
    const double v = (double)s->vocab, d = (double)s->hidden;
    return v * d * d + 5.0 / 3.0 * d * d * d;
}

typedef struct {
    sizes s;
    salf_probe *probe;
    int32_t *labels;
} probing;

static void run_probe(void *user) {
    const probing *p = user;
    salf_trace trace;
    BENCH_OK(salf_probe_begin(p->probe, p->labels, p->s.rows));
    for (int32_t k = 0; k < p->s.spaces; k++) {
        salf_tensor states = view(&p->s, p->s.rows);
        states.data = p->s.numbers + (int64_t)k * p->s.rows * p->s.hidden;
        BENCH_OK(salf_probe_observe(p->probe, k, &states, SALF_STATE_RAW));
    }
    BENCH_OK(salf_probe_end(p->probe, &trace));
}

static probing make_probe(sizes s) {
    const salf_probe_options o = {.struct_size = sizeof o, .n_layers = (int32_t)s.spaces - 1, .lens = SALF_LENS_RAW};
    const salf_model_options mo = {.struct_size = sizeof mo,
                                   .n_layers = (int32_t)s.spaces - 1,
                                   .hidden = s.hidden,
                                   .vocab = 2 * s.hidden,
                                   .head = view(&s, 2 * s.hidden)};
    probing p = {.s = s};
    salf_model *model;
    salf_basis *basis;
    p.labels = bench_alloc((uint64_t)s.rows * sizeof *p.labels);
    for (int64_t r = 0; r < s.rows; r++) p.labels[r] = (int32_t)(r % 6);
    BENCH_OK(salf_model_create(&model, s.context, &mo));
    BENCH_OK(salf_basis_create(&basis, model, p.labels, 6, NULL));
    BENCH_OK(salf_probe_create(&p.probe, basis, &o));
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    return p;
}

static void free_probe(probing *p) {
    salf_probe_destroy(p->probe);
    free(p->labels);
}

static void run_planner(void *user) {
    const sizes *s = user;
    const salf_planner_options o = {.struct_size = sizeof o,
                                    .growth = SALF_GROWTH_ARITHMETIC,
                                    .infill = SALF_INFILL_DEPTH,
                                    .matching = SALF_MATCH_NONE,
                                    .seed = 1};
    salf_planner *planner;
    BENCH_OK(salf_planner_create(&planner, s->context, 32, s->data, &o));
    BENCH_OK(salf_planner_match(planner));
    salf_planner_destroy(planner);
}

enum { MOST_ROUNDS = 15 };

/* One run of each to warm up, and then `rounds` of both in turn. */
static void growth_row(const char *what, bench_fn run, void *small, void *large, int rounds, double operations) {
    double times[MOST_ROUNDS], times_of_4[MOST_ROUNDS], ratios[MOST_ROUNDS];
    for (int i = -1; i < rounds; i++) {
        const int at = i < 0 ? 0 : i;
        times[at] = bench_median(run, small, 1);
        times_of_4[at] = bench_median(run, large, 1);
        ratios[at] = times_of_4[at] / times[at];
    }
    printf("| %-40s | %10.3f ms | %10.3f ms | %9.2f | %9.2f |\n", what, bench_middle(times, rounds) * 1e3,
           bench_middle(times_of_4, rounds) * 1e3, log2(bench_middle(ratios, rounds)) / 2, log2(operations) / 2);
    fflush(stdout);
}

static void bench_basis(sizes s) {
    s.vocab = 37984, s.hidden = 896;
    sizes more = s;
    more.vocab *= 4;
    growth_row("basis, V 37984 to 151936, D 896", run_basis, &s, &more, 5,
               basis_operations(&more) / basis_operations(&s));
    s.vocab = 32000, s.hidden = 768;
    sizes wider = s;
    wider.hidden *= 4;
    growth_row("basis, D 768 to 3072, V 32000", run_basis, &s, &wider, 3,
               basis_operations(&wider) / basis_operations(&s));
}

static void bench_probe(sizes s) {
    s.hidden = 896, s.rows = 4096, s.spaces = 9;
    sizes more_rows = s, more_spaces = s;
    more_rows.rows *= 4;
    more_spaces.spaces *= 4;
    probing small = make_probe(s), long_one = make_probe(more_rows), deep = make_probe(more_spaces);
    growth_row("cosine probe, rows 4096 to 16384", run_probe, &small, &long_one, MOST_ROUNDS, 4);
    growth_row("cosine probe, spaces 9 to 36", run_probe, &small, &deep, MOST_ROUNDS, 4);
    free_probe(&small);
    free_probe(&long_one);
    free_probe(&deep);
}

static void bench_planner(sizes s) {
    s.data = 20000000;
    sizes more = s;
    more.data *= 4;
    growth_row("match without eof, 20 to 80 million data", run_planner, &s, &more, 3, 4);
}

int main(int argc, char **argv) {
    const bench_options options = bench_read_options(argc, argv, "basis probe planner");
    sizes s = {0};
    const salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_CPU, .threads = bench_threads()};
    BENCH_OK(salf_context_create(&s.context, &o));
    s.numbers = bench_random((uint64_t)151936 * 896);
    printf("\n| %-40s | %13s | %13s | %9s | %9s |\n", "size", "time", "time at 4x", "exponent", "expected");
    printf("|%.42s|%.15s|%.15s|%.11s|%.11s|\n", "------------------------------------------",
           "--------------:", "--------------:", "----------:", "----------:");
    if (bench_wants(&options, "basis")) bench_basis(s);
    if (bench_wants(&options, "probe")) bench_probe(s);
    if (bench_wants(&options, "planner")) bench_planner(s);
    free(s.numbers);
    salf_context_destroy(s.context);
    return 0;
}
