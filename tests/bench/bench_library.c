/*
 * bench_library.c - the library's own rows: basis, probe, scores, planner, each against its floor and its peer.
 *
 *   bench_library [--quick] [--row NAME]     --quick takes a vocabulary eight times smaller and leaves out PyTorch
 *
 * Shapes: the head of Qwen2-0.5B, 151,936 x 896 float32, and that of GPT-2 XL, 50,257 x 1,600 bfloat16.
 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "salf.h"

void sgesdd_(const char *jobz, const int32_t *m, const int32_t *n, float *a, const int32_t *lda, float *s, float *u,
             const int32_t *ldu, float *vt, const int32_t *ldvt, float *work, const int32_t *lwork, int32_t *iwork,
             int32_t *info);

typedef struct {
    salf_context *context;
    bench_options options;
} bench;

static const int32_t labels[6] = {11, 202, 3003, 4004, 5005, 6006};

static salf_tensor matrix(void *data, int32_t dtype, int64_t rows, int64_t cols) {
    return (salf_tensor){.data = data, .rows = rows, .cols = cols, .row_stride = cols, .dtype = dtype};
}

static salf_model *describe(const bench *b, void *head, int32_t dtype, int64_t vocab, int64_t hidden) {
    salf_model_options o = {.struct_size = sizeof o,
                            .n_layers = 24,
                            .hidden = hidden,
                            .vocab = vocab,
                            .head = matrix(head, dtype, vocab, hidden),
                            .norm_kind = SALF_NORM_RMS};
    salf_model *model;
    BENCH_OK(salf_model_create(&model, b->context, &o));
    return model;
}

/* float32 to bfloat16 by truncation: the values do not matter here. */
static uint16_t *to_bf16(const float *values, uint64_t count) {
    uint16_t *halves = bench_alloc(count * sizeof *halves);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    return halves;
}

/* float32 to float16 by scaling and truncation, for values below 1 in magnitude. */
static uint16_t *to_f16(const float *values, uint64_t count) {
    uint16_t *halves = bench_alloc(count * sizeof *halves);
    for (uint64_t i = 0; i < count; i++) {
        const float scaled = values[i] * 0x1p-112f;
        uint32_t bits;
        memcpy(&bits, &scaled, sizeof bits);
        halves[i] = (uint16_t)((bits >> 16 & 0x8000u) | (bits >> 13 & 0x7fffu));
    }
    return halves;
}

/* ---- basis ---- */

typedef struct {
    salf_model *model;
    int32_t prepare;
} basis_work;

static void run_basis(void *user) {
    const basis_work *w = user;
    const salf_basis_options o = {.struct_size = sizeof o, .prepare = w->prepare};
    salf_basis *basis;
    BENCH_OK(salf_basis_create(&basis, w->model, labels, 6, &o));
    salf_basis_destroy(basis);
}

/* The singular value decomposition that a pseudo-inverse by the same OpenBLAS needs: thin, [V][D] seen as [D][V]
 * column-major. */
static double time_sgesdd(const float *head, int64_t vocab, int64_t hidden) {
    const int32_t m = (int32_t)hidden, n = (int32_t)vocab;
    float *a = bench_alloc((uint64_t)vocab * (uint64_t)hidden * sizeof *a);
    float *vt = bench_alloc((uint64_t)vocab * (uint64_t)hidden * sizeof *vt);
    float *u = bench_alloc((uint64_t)hidden * (uint64_t)hidden * sizeof *u);
    float *s = bench_alloc((uint64_t)hidden * sizeof *s), best;
    int32_t *integers = bench_alloc((uint64_t)hidden * 8 * sizeof *integers), info = 0, query = -1;
    memcpy(a, head, (uint64_t)vocab * (uint64_t)hidden * sizeof *a);
    sgesdd_("S", &m, &n, a, &m, s, u, &m, vt, &m, &best, &query, integers, &info);
    const int32_t lwork = (int32_t)best;
    float *work = bench_alloc((uint64_t)lwork * sizeof *work);
    const double start = bench_now();
    sgesdd_("S", &m, &n, a, &m, s, u, &m, vt, &m, work, &lwork, integers, &info);
    const double seconds = bench_now() - start;
    free(a), free(vt), free(u), free(s), free(integers), free(work);
    return info == 0 ? seconds : 0;
}

static void bench_basis(const bench *b, int64_t vocab, int64_t hidden, int32_t dtype, bool table) {
    char name[48];
    snprintf(name, sizeof name, "%dx%d %s", (int)vocab, (int)hidden, dtype == SALF_BF16 ? "bfloat16" : "float32");
    float *head = bench_random((uint64_t)(vocab * hidden));
    uint16_t *halves = dtype == SALF_BF16 ? to_bf16(head, (uint64_t)(vocab * hidden)) : NULL;
    basis_work w = {describe(b, halves ? (void *)halves : head, dtype, vocab, hidden), SALF_PREPARE_LABELS};
    const double flops = (double)vocab * (double)hidden * (double)hidden;
    const double peer = time_sgesdd(head, vocab, hidden);
    char what[96];
    snprintf(what, sizeof what, "basis, 6 labels, %s", name);
    bench_limits limits;
    double seconds = bench_beside(run_basis, &w, 5, BENCH_DSYRK, &limits);
    bench_row(what, seconds, flops / limits.dsyrk, "float64 Gram at dsyrk", peer, "sgesdd, same OpenBLAS");
    if (table) {
        w.prepare = SALF_PREPARE_TABLE;
        snprintf(what, sizeof what, "basis, full table, %s", name);
        seconds = bench_beside(run_basis, &w, 3, BENCH_DSYRK | BENCH_SGEMM, &limits);
        bench_row(what, seconds, flops / limits.dsyrk + 2 * flops / limits.sgemm, "Gram and sgemm of table", peer,
                  "sgesdd, same OpenBLAS");
    }
    salf_model_destroy(w.model);
    free(head), free(halves);
}

/* ---- probe ---- */

typedef struct {
    salf_probe *probe;
    const int32_t *labels;
    char *states;
    int64_t rows, hidden, space_bytes;
    int32_t spaces, dtype;
} probe_work;

static void run_probe(void *user) {
    const probe_work *w = user;
    salf_trace trace;
    BENCH_OK(salf_probe_begin(w->probe, w->labels, w->rows));
    for (int32_t k = 0; k < w->spaces; k++) {
        const salf_tensor view = matrix(w->states + k * w->space_bytes, w->dtype, w->rows, w->hidden);
        BENCH_OK(salf_probe_observe(w->probe, k, &view, SALF_STATE_RAW));
    }
    BENCH_OK(salf_probe_end(w->probe, &trace));
}

static int32_t *some_labels(int64_t rows) {
    int32_t *chosen = bench_alloc((uint64_t)rows * sizeof *chosen);
    for (int64_t r = 0; r < rows; r++) chosen[r] = labels[r % 6];
    return chosen;
}

static void bench_cosine(const bench *b, salf_basis *basis, int64_t hidden) {
    enum { ROWS = 4096, SPACES = 25 };
    static const struct {
        int32_t dtype;
        int32_t bytes;
        const char *name;
    } types[] = {{SALF_F32, 4, "float32"}, {SALF_BF16, 2, "bfloat16"}, {SALF_F16, 2, "float16"}};
    const uint64_t count = (uint64_t)(ROWS * SPACES * hidden);
    float *states = bench_random(count);
    const salf_probe_options o = {.struct_size = sizeof o, .n_layers = SPACES - 1, .lens = SALF_LENS_RAW};
    probe_work w = {.labels = some_labels(ROWS), .rows = ROWS, .hidden = hidden, .spaces = SPACES};
    BENCH_OK(salf_probe_create(&w.probe, basis, &o));
    for (size_t t = 0; t < 3; t++) {
        void *data = t == 0 ? (void *)states : t == 1 ? (void *)to_bf16(states, count) : (void *)to_f16(states, count);
        w.states = data;
        w.dtype = types[t].dtype;
        w.space_bytes = ROWS * hidden * types[t].bytes;
        char arguments[96], what[96];
        snprintf(arguments, sizeof arguments, "cosine %d %d %d %s", ROWS, SPACES, (int)hidden, types[t].name);
        snprintf(what, sizeof what, "cosine probe, 4096 rows x 25 x %d, %s", (int)hidden, types[t].name);
        bench_limits limits;
        const double seconds = bench_beside(run_probe, &w, 63, BENCH_READ, &limits);
        bench_row(what, seconds, (double)w.space_bytes * SPACES / limits.read, "read bandwidth",
                  b->options.quick ? 0 : bench_torch(arguments), "torch cosine_similarity");
        if (t > 0) free(data);
    }
    salf_probe_destroy(w.probe);
    free(states);
}

static void bench_score(const bench *b, salf_basis *basis, int64_t vocab, int64_t hidden) {
    enum { ROWS = 32, SPACES = 25 };
    float *states = bench_random((uint64_t)(ROWS * SPACES * hidden));
    probe_work w = {.labels = some_labels(ROWS),
                    .states = (char *)states,
                    .rows = ROWS,
                    .hidden = hidden,
                    .space_bytes = ROWS * hidden * 4,
                    .spaces = SPACES,
                    .dtype = SALF_F32};
    const double flops = 2.0 * ROWS * SPACES * (double)vocab * (double)hidden;
    char arguments[96];
    snprintf(arguments, sizeof arguments, "score %d %d %d %d", ROWS, SPACES, (int)hidden, (int)vocab);
    const double peer = b->options.quick ? 0 : bench_torch(arguments);
    for (int32_t metric = SALF_METRIC_CE; metric <= SALF_METRIC_RANK; metric++) {
        const salf_probe_options o = {
            .struct_size = sizeof o, .n_layers = SPACES - 1, .metric = metric, .lens = SALF_LENS_RAW};
        BENCH_OK(salf_probe_create(&w.probe, basis, &o));
        bench_limits limits;
        const double seconds = bench_beside(run_probe, &w, 7, BENCH_SGEMM, &limits);
        bench_row(metric == SALF_METRIC_CE ? "ce, whole vocabulary, 32 rows x 25"
                                           : "rank, whole vocabulary, 32 rows x 25",
                  seconds, flops / limits.sgemm, "the product at sgemm", peer, "torch normalise, matmul, ce");
        salf_probe_destroy(w.probe);
    }
    free(states);
}

/* ---- planner ---- */

typedef struct {
    const bench *b;
    int32_t *eof;
    int64_t n;
    void *copy;
    double seconds;
} planner_work;

static salf_planner *make_planner(const planner_work *w, int32_t matching) {
    const salf_planner_options o = {.struct_size = sizeof o,
                                    .growth = SALF_GROWTH_ARITHMETIC,
                                    .infill = SALF_INFILL_DEPTH,
                                    .matching = matching,
                                    .seed = 42};
    salf_planner *planner;
    BENCH_OK(salf_planner_create(&planner, w->b->context, 80, w->n, &o));
    return planner;
}

static void run_counts(void *user) {
    const planner_work *w = user;
    int64_t counts[80];
    salf_planner *planner = make_planner(w, SALF_MATCH_OFFLINE);
    BENCH_OK(salf_planner_counts(planner, counts));
    salf_planner_destroy(planner);
}

static void run_match(void *user) {
    planner_work *w = user;
    salf_planner *planner = make_planner(w, SALF_MATCH_OFFLINE);
    const double start = bench_now();
    BENCH_OK(salf_planner_set_eof(planner, 0, w->n, w->eof));
    BENCH_OK(salf_planner_match(planner));
    w->seconds = bench_now() - start;
    salf_planner_destroy(planner);
}

/* One pass of copying over what the matching reads and writes: an eof of 4 bytes, which is kept in 2, and an id of 4.
 */
static void run_one_pass(void *user) {
    planner_work *w = user;
    memcpy(w->copy, w->eof, (uint64_t)w->n * 4);
    memcpy((char *)w->copy + 4 * w->n, w->eof, (uint64_t)w->n * 2);
    memcpy(w->copy, (char *)w->eof, (uint64_t)w->n * 4);
}

/* Uniform over layers first ... 79. */
static void make_eof(planner_work *w, int32_t first) {
    uint64_t state = 1;
    for (int64_t i = 0; i < w->n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        w->eof[i] = first + (int32_t)((state >> 33) % (uint64_t)(80 - first));
    }
}

static void bench_planner(const bench *b) {
    planner_work w = {.b = b, .n = b->options.quick ? 1000000 : 10000000};
    w.eof = bench_alloc((uint64_t)w.n * sizeof *w.eof);
    w.copy = bench_alloc((uint64_t)w.n * 6);
    make_eof(&w, 0);
    char what[96];
    snprintf(what, sizeof what, "plan counts, %lld data, 80 layers", (long long)w.n);
    bench_row(what, bench_median(run_counts, &w, 15), 0, "", 0, "");
    snprintf(what, sizeof what, "Algorithm 4 offline, %lld data, 80 layers", (long long)w.n);
    const double pass = bench_median(run_one_pass, &w, 9);
    bench_row(what, bench_median(run_match, &w, 5), pass, "memcpy of its arrays", 0, "");
    make_eof(&w, 60); /* a quarter of the depths: most layers lack data, which are drawn */
    snprintf(what, sizeof what, "the same with late eof and many fills, %lld data", (long long)w.n);
    bench_row(what, bench_median(run_match, &w, 5), pass, "memcpy of its arrays", 0, "");
    free(w.eof), free(w.copy);
}

static void bench_probes(const bench *b, int64_t vocab, int64_t hidden) {
    float *head = bench_random((uint64_t)(vocab * hidden));
    salf_model *model = describe(b, head, SALF_F32, vocab, hidden);
    salf_basis *basis;
    const bool score = bench_wants(&b->options, "score");
    const salf_basis_options o = {.struct_size = sizeof o,
                                  .prepare = score ? SALF_PREPARE_VOCABULARY : SALF_PREPARE_LABELS};
    BENCH_OK(salf_basis_create(&basis, model, labels, 6, &o));
    if (bench_wants(&b->options, "cosine")) bench_cosine(b, basis, hidden);
    if (score) bench_score(b, basis, vocab, hidden);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    free(head);
}

int main(int argc, char **argv) {
    bench b = {.options = bench_read_options(argc, argv, "basis basis-bfloat16 cosine score planner")};
    const int64_t shrink = b.options.quick ? 8 : 1;
    const salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_CPU, .threads = bench_threads()};
    BENCH_OK(salf_context_create(&b.context, &o));
    salf_context_info info = {.struct_size = sizeof info};
    BENCH_OK(salf_context_get_info(b.context, &info));
    printf("libsalf %s, kernels %s, %d threads\n\n", salf_version_string(), info.kernels, bench_threads());
    bench_header();
    if (bench_wants(&b.options, "basis")) bench_basis(&b, 151936 / shrink, 896, SALF_F32, true);
    if (bench_wants(&b.options, "basis-bfloat16")) bench_basis(&b, 50257 / shrink, 1600, SALF_BF16, false);
    if (bench_wants(&b.options, "cosine") || bench_wants(&b.options, "score")) bench_probes(&b, 151936 / shrink, 896);
    if (bench_wants(&b.options, "planner")) bench_planner(&b);
    salf_context_destroy(b.context);
    return 0;
}
