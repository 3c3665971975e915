/* test_planner_match.c - which data train where: a literal Algorithm 4 at all sizes, online against offline, a kill at
 * every call. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "harness.h"
#include "payload.h"

/* Of the plans that are made: whether tasks go on over the end of a layer. */
static int32_t full_batches;

static salf_planner *make(salf_context *context, int32_t m, int64_t n, int32_t matching, int64_t limit) {
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.growth = SALF_GROWTH_ARITHMETIC;
    o.infill = SALF_INFILL_DEPTH;
    o.matching = matching;
    o.seed = 42;
    o.probe_limit = limit;
    o.full_batches = full_batches;
    salf_planner *planner = NULL;
    CHECK_OK(salf_planner_create(&planner, context, m, n, &o));
    return planner;
}

/* ---- Algorithm 4, read literally ---- */

/* How eof lie: all ids alike, spread over all layers, deep (most layers are filled), shallow, or in long runs. */
enum { EOF_FIRST, EOF_LAST, EOF_SPREAD, EOF_DEEP, EOF_SHALLOW, EOF_RUNS, EOF_SHAPES };

static int32_t eof_of(int64_t id, int32_t m) {
    return (int32_t)((uint64_t)(id * id * 31 + id * 7) % (uint64_t)m);
}

static int32_t shaped_eof(int shape, int64_t id, int32_t m) {
    switch (shape) {
    case EOF_FIRST:
        return 0;
    case EOF_LAST:
        return m - 1;
    case EOF_SPREAD:
        return eof_of(id, m);
    case EOF_DEEP:
        return m - 1 - eof_of(id, m) / 3;
    case EOF_SHALLOW:
        return eof_of(id, m) / 3;
    default:
        return (int32_t)(id / 1000 % m);
    }
}

typedef struct literal_plan {
    int32_t m;
    int64_t n;
    int64_t *counts, *matched; /* [m] */
    int32_t *eof;              /* [n]; NULL: NONE */
    uint32_t *order;           /* [n] the random order of fills */
    uint32_t *data;            /* [n] ids in the order of training */
    bool *used;                /* [n] */
} literal_plan;

/* The whole shuffle, as docs/concepts.md describes it. */
static void shuffle_all(uint32_t *order, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (int64_t i = 0; i < n; i++) {
        const int64_t j = i + (int64_t)slf_random_below(seed, 0x706C616E64726177u, (uint64_t)i, (uint64_t)(n - i));
        const uint32_t id = order[j];
        order[j] = order[i];
        order[i] = id;
    }
}

/* Step by step as the algorithm stands there: no sorting, no sets. */
static void match_literally(literal_plan *plan) {
    bool *used = plan->used;
    memset(used, 0, (size_t)plan->n * sizeof *used);
    int64_t at = 0, drawn = 0;
    for (int32_t e = 0; e < plan->m; e++) {
        int64_t count = 0;
        for (int64_t i = 0; plan->eof && i < plan->n && count < plan->counts[e]; i++)
            if (!used[i] && plan->eof[i] <= e) {
                used[i] = true;
                plan->data[at++] = (uint32_t)i;
                count++;
            }
        plan->matched[e] = count;
        while (count < plan->counts[e]) {
            const uint32_t id = plan->order[drawn++];
            if (used[id]) continue;
            used[id] = true;
            plan->data[at++] = id;
            count++;
        }
    }
    ck_assert_int_eq(at, plan->n);
}

static literal_plan *literal_create(int32_t m, int64_t n, uint64_t seed) {
    literal_plan *plan = malloc(sizeof *plan);
    ck_assert_ptr_nonnull(plan);
    *plan = (literal_plan){.m = m, .n = n};
    plan->counts = calloc((size_t)m, sizeof *plan->counts);
    plan->matched = calloc((size_t)m, sizeof *plan->matched);
    plan->eof = calloc((size_t)n, sizeof *plan->eof);
    plan->order = calloc((size_t)n, sizeof *plan->order);
    plan->data = calloc((size_t)n, sizeof *plan->data);
    plan->used = calloc((size_t)n, sizeof *plan->used);
    ck_assert(plan->counts && plan->matched && plan->eof && plan->order && plan->data && plan->used);
    shuffle_all(plan->order, n, seed);
    return plan;
}

static void literal_destroy(literal_plan *plan) {
    free(plan->counts), free(plan->matched), free(plan->eof), free(plan->order), free(plan->data), free(plan->used);
    free(plan);
}

static const char *case_of(const literal_plan *plan, int32_t growth, int32_t infill, int shape) {
    static char text[128];
    snprintf(text, sizeof text, "m %d, N %lld, growth %d, infill %d, eof of shape %d", (int)plan->m, (long long)plan->n,
             (int)growth, (int)infill, shape);
    return text;
}

/* Each id once, whatever the literal plan says. No assertion a datum here and below: each costs a system call. */
static void check_each_id_once(literal_plan *plan, const uint32_t *data, const char *what) {
    memset(plan->used, 0, (size_t)plan->n * sizeof *plan->used);
    for (int64_t i = 0; i < plan->n; i++) {
        if (data[i] >= plan->n || plan->used[data[i]])
            ck_abort_msg("%s: id %u, again or of no datum", what, (unsigned)data[i]);
        plan->used[data[i]] = true;
    }
}

/* One plan of the library, matched beforehand, against the literal one. shape < 0: NONE. */
static void compare_with_literal(salf_context *context, literal_plan *plan, int32_t growth, int32_t infill, int shape,
                                 uint64_t seed) {
    static const double weights[11] = {0, 2, 0, 0, 1, 3, 0, 1, 0, 2, 0}; /* some layers hold nothing */
    double *own = calloc((size_t)plan->m, sizeof *own);
    for (int32_t e = 0; e < plan->m; e++) own[e] = plan->m < 3 ? 1 : weights[e % 11];
    salf_planner_options o = {
        .struct_size = sizeof o, .growth = growth, .infill = infill, .seed = seed, .weights = own};
    o.matching = shape < 0 ? SALF_MATCH_NONE : SALF_MATCH_OFFLINE;
    const char *what = case_of(plan, growth, infill, shape);
    salf_planner *planner;
    CHECK_OK(salf_planner_create(&planner, context, plan->m, plan->n, &o));
    CHECK_OK(salf_planner_counts(planner, plan->counts));
    int32_t *const eof = plan->eof;
    for (int64_t i = 0; i < plan->n; i++) eof[i] = shaped_eof(shape, i, plan->m);
    if (shape >= 0) CHECK_OK(salf_planner_set_eof(planner, 0, plan->n, eof));
    plan->eof = shape < 0 ? NULL : eof;
    match_literally(plan);
    plan->eof = eof;
    CHECK_OK(salf_planner_match(planner));
    int64_t at = 0;
    const uint32_t *first = NULL;
    for (int32_t e = 0; e < plan->m; e++) {
        salf_stage stage;
        CHECK_OK(salf_planner_get_stage(planner, e, &stage));
        if (e == 0) first = stage.data;
        ck_assert_msg(stage.data == first + at && stage.count == plan->counts[e], "%s: layer %d", what, (int)e);
        ck_assert_msg(stage.matched == plan->matched[e] && stage.matched + stage.filled == stage.count,
                      "%s: layer %d: matched %lld, not %lld", what, (int)e, (long long)stage.matched,
                      (long long)plan->matched[e]);
        at += stage.count;
    }
    for (int64_t i = 0; i < plan->n; i++)
        if (first[i] != plan->data[i])
            ck_abort_msg("%s: place %lld: %u, not %u", what, (long long)i, (unsigned)first[i], (unsigned)plan->data[i]);
    check_each_id_once(plan, first, what);
    salf_planner_destroy(planner);
    free(own);
}

START_TEST(small_plans_follow_algorithm_4) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int64_t n = 1; n < 300; n += n < 70 ? 3 : 37)
        for (int32_t m = 1; m < 12; m++) {
            literal_plan *plan = literal_create(m, n, (uint64_t)n);
            for (int32_t growth = SALF_GROWTH_UNIFORM; growth <= SALF_GROWTH_CUSTOM; growth++)
                for (int shape = -1; shape < EOF_SHAPES; shape++)
                    compare_with_literal(context, plan, growth, shape & 1, shape, (uint64_t)n);
            literal_destroy(plan);
        }
    salf_context_destroy(context);
}
END_TEST

START_TEST(large_plans_follow_algorithm_4) {
    static const struct {
        int32_t m;
        int64_t n;
    } sizes[] = {{1, 70001}, {7, 70001}, {300, 70001}, {6, 1000000}, {32, 1000000}, {80, 1000000}};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        literal_plan *plan = literal_create(sizes[c].m, sizes[c].n, 42);
        for (int shape = -1; shape < EOF_SHAPES; shape++) {
            const int32_t growth = (shape + 1 + (int32_t)c) % 4; /* every growth meets every shape at some size */
            compare_with_literal(context, plan, growth, shape & 1, shape, 42);
        }
        literal_destroy(plan);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- the same online, and over kills ---- */

static void set_all(salf_planner *planner, int32_t m, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const int32_t eof = eof_of(i, m);
        CHECK_OK(salf_planner_set_eof(planner, i, 1, &eof));
    }
}

/* Saves, destroys and loads the planner before the call numbered kill (-1: never, -2: before every call). */
static salf_planner *reborn(salf_context *context, salf_planner *planner, int32_t m, int64_t n, int32_t matching,
                            int64_t limit) {
    uint64_t size = 0;
    CHECK_OK(salf_planner_save(planner, NULL, &size));
    uint8_t *bytes = malloc(size);
    CHECK_OK(salf_planner_save(planner, bytes, &size));
    salf_planner_destroy(planner);
    salf_planner *next = make(context, m, n, matching, limit);
    for (uint64_t cut = 0; cut < size; cut += 37) ck_assert_int_ne(salf_planner_load(next, bytes, cut), SALF_OK);
    bytes[size / 2] ^= 1;
    CHECK_FAILS(salf_planner_load(next, bytes, size), SALF_E_CORRUPT, "damaged");
    bytes[size / 2] ^= 1;
    CHECK_OK(salf_planner_load(next, bytes, size));
    free(bytes);
    return next;
}

/* Trained ids in order, n of them, and their cuts; returns the number of calls. */
static int run_all(salf_context *context, int32_t m, int64_t n, int32_t matching, int64_t limit, int64_t most, int kill,
                   uint32_t *trained, int32_t *cuts) {
    salf_planner *planner = make(context, m, n, matching, limit);
    if (matching == SALF_MATCH_OFFLINE) set_all(planner, m, n);
    int calls = 0;
    int64_t count = 0;
#define STEP() \
    if (calls++ == kill || kill == -2) planner = reborn(context, planner, m, n, matching, limit)
    for (;;) {
        salf_task task;
        STEP();
        CHECK_OK(salf_planner_next(planner, most, &task));
        if (task.kind == SALF_TASK_DONE) break;
        STEP();
        CHECK_OK(salf_planner_next(planner, most, &task)); /* the same again */
        if (task.kind == SALF_TASK_PROBE) {
            int32_t eof[300];
            uint8_t accepted[300];
            for (int64_t i = 0; i < task.n_data; i++) eof[i] = eof_of(task.data[i], m);
            CHECK_FAILS(salf_planner_done(planner), SALF_E_SEQUENCE, "no report");
            CHECK_OK(salf_planner_report(planner, eof, task.n_data, accepted));
            STEP();
            int64_t taken = 0;
            for (int64_t i = 0; i < task.n_data; i++) taken += accepted[i];
            if (taken == 0) continue;
            ck_assert(!full_batches); /* which trains later what a probe accepts */
            CHECK_OK(salf_planner_next(planner, most, &task));
            ck_assert_int_eq(task.kind, SALF_TASK_TRAIN);
            ck_assert_int_eq(task.n_data, taken);
        }
        ck_assert_int_le(count + task.n_data, n);
        if (full_batches) ck_assert_int_eq(task.n_data, most < n - count ? most : n - count);
        ck_assert(!task.eof == !full_batches && (!task.eof || task.eof[0] == task.layer));
        for (int64_t i = 0; i < task.n_data; i++) cuts[count + i] = task.eof ? task.eof[i] : task.layer;
        memcpy(trained + count, task.data, (size_t)task.n_data * sizeof *trained);
        count += task.n_data;
        STEP();
        CHECK_OK(salf_planner_done(planner));
    }
    ck_assert_int_eq(count, n);
    salf_planner_destroy(planner);
    return calls;
}

/* And the same again in full batches: the same data in the same order at the same layers. */
START_TEST(online_equals_offline_and_survives_kills) {
    enum { N = 131 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    uint32_t offline[N], online[N], limited[N], drawn[N], again[N];
    int32_t layers[N], limited_layers[N], drawn_layers[N], cuts[N];
    run_all(context, 7, N, SALF_MATCH_OFFLINE, 0, 1000, -1, offline, layers);
    run_all(context, 7, N, SALF_MATCH_NONE, 0, 1000, -1, drawn, drawn_layers);
    run_all(context, 7, N, SALF_MATCH_ONLINE, 20, 9, -1, limited, limited_layers);
    for (full_batches = 0; full_batches < 2; full_batches++) {
        for (int64_t most = 1; most < 300; most = most * 2 + 1) {
            run_all(context, 7, N, SALF_MATCH_ONLINE, SALF_PROBE_ALL, most, -1, online, cuts);
            ck_assert_mem_eq(offline, online, sizeof online);
            ck_assert_mem_eq(layers, cuts, sizeof cuts);
            run_all(context, 7, N, SALF_MATCH_OFFLINE, 0, most, -2, online, cuts);
            ck_assert_mem_eq(offline, online, sizeof online);
            ck_assert_mem_eq(layers, cuts, sizeof cuts);
            run_all(context, 7, N, SALF_MATCH_NONE, 0, most, -2, online, cuts);
            ck_assert_mem_eq(drawn, online, sizeof online);
            ck_assert_mem_eq(drawn_layers, cuts, sizeof cuts);
        }
        const int calls = run_all(context, 7, N, SALF_MATCH_ONLINE, 20, 9, -1, again, cuts);
        for (int kill = -2; kill < calls; kill++) {
            run_all(context, 7, N, SALF_MATCH_ONLINE, 20, 9, kill, again, cuts);
            ck_assert_mem_eq(limited, again, sizeof again);
            ck_assert_mem_eq(limited_layers, cuts, sizeof cuts);
        }
    }
    full_batches = 0;
    salf_context_destroy(context);
}
END_TEST

/* Each layer is offered at most its limit of data, whatever it takes of them; the library's own limit is
 * N div (2 m) + 1. Every eof is the last layer's, so that layers below it take nothing, and are filled. */
START_TEST(probes_stay_within_their_limit) {
    static const int64_t limits[][2] = {{0, 131 / 14 + 1}, {1, 1}, {20, 20}, {500, 131}, {SALF_PROBE_ALL, 131}};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t c = 0; c < sizeof limits / sizeof *limits; c++) {
        salf_planner *planner = make(context, 7, 131, SALF_MATCH_ONLINE, limits[c][0]);
        int64_t probed[7] = {0};
        for (salf_task task;;) {
            int32_t eof[4] = {6, 6, 6, 6};
            uint8_t accepted[4];
            CHECK_OK(salf_planner_next(planner, 4, &task));
            if (task.kind == SALF_TASK_DONE) break;
            if (task.kind == SALF_TASK_TRAIN) {
                CHECK_OK(salf_planner_done(planner));
                continue;
            }
            probed[task.layer] += task.n_data;
            CHECK_OK(salf_planner_report(planner, eof, task.n_data, accepted));
        }
        int64_t left = 131;
        for (int32_t e = 0; e < 7; e++) {
            salf_stage stage;
            CHECK_OK(salf_planner_get_stage(planner, e, &stage));
            if (e < 6) ck_assert_int_eq(probed[e], limits[c][1] < left ? limits[c][1] : left);
            ck_assert_int_le(probed[e], limits[c][1]);
            ck_assert_int_eq(stage.probed, probed[e]);
            ck_assert_int_eq(stage.matched + stage.filled, stage.count);
            if (e < 6) ck_assert_int_eq(stage.matched, 0);
            left -= stage.count;
        }
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

/* Late eof, so that most layers are filled, and tasks of many sizes. */
START_TEST(large_plans_are_the_same_online) {
    static const struct {
        int32_t m, shape;
        int64_t most;
    } plans[] = {{9, EOF_DEEP, 70001}, {5, EOF_RUNS, 997}, {300, EOF_DEEP, 20000}, {80, EOF_LAST, 5000}};
    const int64_t n = 70001;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    int32_t *eof = malloc((size_t)n * sizeof *eof), *probed = malloc((size_t)n * sizeof *eof);
    uint32_t *trained = malloc((size_t)n * sizeof *trained);
    uint8_t *accepted = malloc((size_t)n);
    ck_assert(eof && probed && trained && accepted);
    for (size_t c = 0; c < sizeof plans / sizeof *plans; c++) {
        const int32_t m = plans[c].m;
        for (int64_t i = 0; i < n; i++) eof[i] = shaped_eof(plans[c].shape, i, m);
        salf_planner *offline = make(context, m, n, SALF_MATCH_OFFLINE, 0);
        salf_planner *online = make(context, m, n, SALF_MATCH_ONLINE, SALF_PROBE_ALL);
        CHECK_OK(salf_planner_set_eof(offline, 0, n, eof));
        CHECK_OK(salf_planner_match(offline));
        int64_t count = 0;
        for (salf_task task;;) {
            CHECK_OK(salf_planner_next(online, plans[c].most, &task));
            if (task.kind == SALF_TASK_DONE) break;
            if (task.kind == SALF_TASK_PROBE) {
                for (int64_t i = 0; i < task.n_data; i++) probed[i] = eof[task.data[i]];
                CHECK_OK(salf_planner_report(online, probed, task.n_data, accepted));
                continue; /* what is accepted comes again as a TRAIN task */
            }
            ck_assert_int_le(task.n_data, n - count);
            memcpy(trained + count, task.data, (size_t)task.n_data * sizeof *trained);
            count += task.n_data;
            CHECK_OK(salf_planner_done(online));
        }
        ck_assert_int_eq(count, n);
        const uint32_t *data = NULL;
        int64_t filled = 0;
        for (int32_t e = 0; e < m; e++) {
            salf_stage stage, seen;
            CHECK_OK(salf_planner_get_stage(offline, e, &stage));
            CHECK_OK(salf_planner_get_stage(online, e, &seen));
            ck_assert(stage.matched == seen.matched && stage.filled == seen.filled && seen.data == NULL);
            if (e == 0) data = stage.data;
            filled += stage.filled;
        }
        ck_assert_int_gt(filled, plans[c].shape == EOF_RUNS ? -1 : n / 8);
        ck_assert_mem_eq(data, trained, (size_t)n * sizeof *data);
        salf_planner_destroy(offline);
        salf_planner_destroy(online);
    }
    free(eof), free(probed), free(trained), free(accepted);
    salf_context_destroy(context);
}
END_TEST

/* ---- blobs that lie ---- */

enum { LIE_M = 5, LIE_N = 70 };

/* One call and its answer; trained counts how often each datum is. Eof are deep, so that there are fills. */
static bool step_plan(salf_planner *planner, int trained[LIE_N]) {
    salf_task task;
    int32_t eof[LIE_N];
    uint8_t accepted[LIE_N];
    CHECK_OK(salf_planner_next(planner, 3, &task));
    if (task.kind == SALF_TASK_DONE) return false;
    if (task.layer >= LIE_M || task.n_data > LIE_N) ck_abort_msg("layer %d, %d data", task.layer, (int)task.n_data);
    for (int64_t i = 0; i < task.n_data; i++) eof[i] = 2 + (int32_t)(task.data[i] % 3);
    if (task.kind == SALF_TASK_PROBE) {
        CHECK_OK(salf_planner_report(planner, eof, task.n_data, accepted));
        return true;
    }
    for (int64_t i = 0; i < task.n_data; i++) {
        if (task.eof && (task.eof[i] < task.layer || task.eof[i] >= LIE_M)) ck_abort_msg("cut %d", task.eof[i]);
        trained[task.data[i]]++;
    }
    CHECK_OK(salf_planner_done(planner));
    return true;
}

/* What a load accepts must serve: no datum comes twice, every layer gets its count, and there is an end. */
static void check_serves(salf_planner *planner) {
    int trained[LIE_N] = {0};
    int64_t counts[LIE_M];
    CHECK_OK(salf_planner_counts(planner, counts));
    for (int calls = 0; step_plan(planner, trained); calls++)
        if (calls > 20 * LIE_N) ck_abort_msg("no end");
    for (int i = 0; i < LIE_N; i++)
        if (trained[i] > 1) ck_abort_msg("datum %d comes %d times", i, trained[i]);
    for (int32_t e = 0; e < LIE_M; e++) {
        salf_stage stage;
        CHECK_OK(salf_planner_get_stage(planner, e, &stage));
        if (stage.matched + stage.filled != counts[e]) ck_abort_msg("layer %d is not full", (int)e);
    }
}

/* Every byte of blobs from every call of a run, changed in some ways behind a right checksum, and pairs of words
 * exchanged. */
START_TEST(blobs_that_lie_are_refused_or_serve) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    int64_t refused = 0, accepted = 0;
    for (int32_t kind = 0; kind < 6; kind++) {
        const int32_t matching = kind % 3; /* ONLINE, OFFLINE, NONE; in full batches too */
        full_batches = kind / 3;
        salf_planner *planner = make(context, LIE_M, LIE_N, matching, 11);
        if (matching == SALF_MATCH_OFFLINE) set_all(planner, LIE_M, LIE_N);
        int trained[LIE_N] = {0}, open = 1;
        do {
            uint8_t bytes[1024], whole[1024];
            uint64_t size = sizeof bytes;
            salf_task task; /* as the last answer left it, and then with a task open */
            if (open ^= 1) CHECK_OK(salf_planner_next(planner, 3, &task));
            CHECK_OK(salf_planner_save(planner, bytes, &size));
            for (uint64_t at = 32 + 12 * 8; at < size; at++)
                for (int way = 0; way < 5; way++) {
                    static const uint8_t flips[4] = {0x01, 0x03, 0x06, 0xFF};
                    payload p = {.size = size - 32};
                    uint64_t room = sizeof whole;
                    memcpy(p.bytes, bytes + 32, p.size);
                    if (way < 4) p.bytes[at - 32] ^= flips[way];
                    if (way == 4 && (at % 8 != 0 || at + 16 > size)) continue;
                    if (way == 4) { /* a word becomes the next one's twin */
                        if (memcmp(bytes + at, bytes + at + 8, 8) == 0) continue;
                        memcpy(p.bytes + at - 32, bytes + at + 8, 8);
                    }
                    CHECK_OK(slf_blob_save("PLAN", 4, write_payload, &p, whole, &room));
                    salf_planner *other = make(context, LIE_M, LIE_N, matching, 11);
                    if (salf_planner_load(other, whole, room) == SALF_OK) {
                        accepted++;
                        check_serves(other);
                    } else {
                        refused++;
                    }
                    salf_planner_destroy(other);
                }
        } while (!open || step_plan(planner, trained));
        salf_planner_destroy(planner);
    }
    full_batches = 0;
    ck_assert_int_gt(refused, 4 * accepted);
    ck_assert_int_gt(accepted, 100);
    salf_context_destroy(context);
}
END_TEST

/* Layer of each datum under NONE over many seeds: chi-square of a 4 x 12 table, 33 degrees of freedom. */
START_TEST(fills_are_uniform) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    double seen[4][12] = {{0}};
    for (uint64_t seed = 0; seed < 6000; seed++) {
        salf_planner_options o;
        salf_options_init(&o, sizeof o);
        o.matching = SALF_MATCH_NONE;
        o.seed = seed;
        salf_planner *planner = NULL;
        CHECK_OK(salf_planner_create(&planner, context, 4, 12, &o));
        CHECK_OK(salf_planner_match(planner));
        for (int32_t e = 0; e < 4; e++) {
            salf_stage stage;
            CHECK_OK(salf_planner_get_stage(planner, e, &stage));
            for (int64_t i = 0; i < stage.count; i++) seen[e][stage.data[i]]++;
        }
        salf_planner_destroy(planner);
    }
    double chi = 0;
    for (int e = 0; e < 4; e++)
        for (int i = 0; i < 12; i++) chi += (seen[e][i] - 1500) * (seen[e][i] - 1500) / 1500;
    ck_assert_msg(chi < 70, "chi-square %g", chi);
    salf_context_destroy(context);
}
END_TEST

/* What fills the first two layers, over many seeds, by eof and position of the ids: as many of each of 2 x 16 groups.
 * Chi-square of 2 x 32 cells of a sample without replacement. */
START_TEST(large_fills_are_uniform) {
    enum { N = 80000, M = 4, SEEDS = 40, GROUPS = 32 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    int32_t *eof = malloc(N * sizeof *eof);
    for (int32_t i = 0; i < N; i++) eof[i] = 2 + i % 2;
    double chi = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        salf_planner_options o;
        salf_options_init(&o, sizeof o);
        o.matching = SALF_MATCH_OFFLINE;
        o.seed = seed;
        salf_planner *planner = NULL;
        CHECK_OK(salf_planner_create(&planner, context, M, N, &o));
        CHECK_OK(salf_planner_set_eof(planner, 0, N, eof));
        CHECK_OK(salf_planner_match(planner));
        for (int32_t e = 0; e < 2; e++) {
            salf_stage stage;
            double seen[GROUPS] = {0};
            CHECK_OK(salf_planner_get_stage(planner, e, &stage));
            ck_assert_int_eq(stage.filled, N / M);
            for (int64_t i = 0; i < stage.count; i++)
                seen[stage.data[i] % 2 + 2 * (stage.data[i] / (N / (GROUPS / 2)))]++;
            const double expected = (double)N / M / GROUPS, variance = expected * (1 - 1.0 / M);
            for (int g = 0; g < GROUPS; g++) chi += (seen[g] - expected) * (seen[g] - expected) / variance;
        }
        salf_planner_destroy(planner);
    }
    const double freedom = SEEDS * 2 * (GROUPS - 1), distance = 5 * sqrt(2 * freedom);
    ck_assert_msg(fabs(chi - freedom) < distance, "chi-square %g, expected %g +- %g", chi, freedom, distance);
    free(eof);
    salf_context_destroy(context);
}
END_TEST

START_TEST(calls_out_of_order_and_bad_values) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_planner *planner = make(context, 4, 10, SALF_MATCH_OFFLINE, 0);
    const int32_t eof[2] = {0, 4};
    salf_task task;
    CHECK_FAILS(salf_planner_set_eof(planner, 3, 2, eof), SALF_E_ARGUMENT, "datum 4 is 4");
    CHECK_FAILS(salf_planner_set_eof(planner, 9, 2, eof), SALF_E_ARGUMENT, "of 10");
    CHECK_FAILS(salf_planner_set_eof(planner, 0, 2, eof), SALF_E_ARGUMENT, "datum 1 is 4");
    CHECK_OK(salf_planner_set_eof(planner, 10, 0, NULL)); /* of no data nothing is asked */
    CHECK_FAILS(salf_planner_match(planner), SALF_E_SEQUENCE, "datum 0 ");
    CHECK_OK(salf_planner_set_eof(planner, 0, 1, eof));
    CHECK_FAILS(salf_planner_set_eof(planner, 1, 2, eof), SALF_E_ARGUMENT, "datum 2 is 4");
    CHECK_FAILS(salf_planner_match(planner), SALF_E_SEQUENCE, "datum 1 ");
    CHECK_FAILS(salf_planner_next(planner, 0, &task), SALF_E_ARGUMENT, "max_data is 0");
    CHECK_FAILS(salf_planner_done(planner), SALF_E_SEQUENCE, "no task");
    salf_planner_destroy(planner);
    planner = make(context, 4, 10, SALF_MATCH_ONLINE, 0);
    uint8_t accepted[2];
    CHECK_FAILS(salf_planner_report(planner, eof, 2, accepted), SALF_E_SEQUENCE, "no PROBE");
    CHECK_OK(salf_planner_next(planner, 2, &task));
    CHECK_FAILS(salf_planner_report(planner, eof, 1, accepted), SALF_E_SHAPE, "1 eof");
    CHECK_FAILS(salf_planner_report(planner, eof, 2, accepted), SALF_E_ARGUMENT, "is 4");
    CHECK_FAILS(salf_planner_report(planner, NULL, 2, accepted), SALF_E_NULL, "salf_planner_report: eof is NULL");
    CHECK_FAILS(salf_planner_report(planner, eof, 2, NULL), SALF_E_NULL, "salf_planner_report: accepted is NULL");
    CHECK_FAILS(salf_planner_match(planner), SALF_E_SEQUENCE, "online");
    salf_planner_destroy(planner);
    planner = make(context, 70000, 70000, SALF_MATCH_OFFLINE, 0); /* an eof is kept in 16 bits */
    CHECK_FAILS(salf_planner_set_eof(planner, 0, 1, eof), SALF_E_OVERFLOW, "70000 layers");
    salf_planner_destroy(planner);
    for (int32_t wrong = -1; wrong <= 2; wrong += 3) {
        const salf_planner_options o = {.struct_size = sizeof o, .full_batches = wrong};
        char words[64];
        snprintf(words, sizeof words, "full_batches is %d, not in 0 ... 1", (int)wrong);
        CHECK_FAILS(salf_planner_create(&planner, context, 4, 10, &o), SALF_E_ARGUMENT, words);
    }
    const salf_planner_options later = {.struct_size = sizeof later, .reserved = 1};
    CHECK_FAILS(salf_planner_create(&planner, context, 4, 10, &later), SALF_E_ARGUMENT, "reserved is 1");
    salf_context_destroy(context);
}
END_TEST

/* A plan in full batches is another one, in a save of each version. */
START_TEST(saves_know_full_batches) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int32_t matching = SALF_MATCH_ONLINE; matching <= SALF_MATCH_NONE; matching++) {
        uint8_t bytes[1024], whole[1024];
        uint64_t size = sizeof bytes, room = sizeof whole;
        salf_planner *parts = make(context, 3, 9, matching, 0);
        full_batches = 1;
        salf_planner *full = make(context, 3, 9, matching, 0);
        full_batches = 0;
        CHECK_OK(salf_planner_save(parts, bytes, &size));
        CHECK_FAILS(salf_planner_load(full, bytes, size), SALF_E_MISMATCH, "full_batches is 0 in the blob, 1 in this");
        /* version 3 has no such option; its other bytes are the same */
        payload p = {.size = size - 32 - 8};
        memcpy(p.bytes, bytes + 32, 11 * 8);
        memcpy(p.bytes + 11 * 8, bytes + 32 + 12 * 8, size - 32 - 12 * 8);
        CHECK_OK(slf_blob_save("PLAN", 3, write_payload, &p, whole, &room));
        CHECK_OK(salf_planner_load(parts, whole, room));
        CHECK_FAILS(salf_planner_load(full, whole, room), SALF_E_MISMATCH, "full_batches is 0 in the blob, 1 in this");
        size = sizeof bytes;
        CHECK_OK(salf_planner_save(full, bytes, &size));
        CHECK_FAILS(salf_planner_load(parts, bytes, size), SALF_E_MISMATCH, "full_batches is 1 in the blob, 0 in this");
        salf_planner_destroy(parts);
        salf_planner_destroy(full);
    }
    salf_context_destroy(context);
}
END_TEST

/* Of any layer, and where they give the same counts: somebody changed the plan, and perhaps not all of it. */
START_TEST(saves_know_their_weights) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    double weights[4] = {1, 0, 3, 2};
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.growth = SALF_GROWTH_CUSTOM;
    o.weights = weights;
    uint8_t bytes[1024];
    uint64_t size = sizeof bytes;
    salf_planner *planner, *other;
    CHECK_OK(salf_planner_create(&planner, context, 4, 9, &o));
    CHECK_OK(salf_planner_save(planner, bytes, &size));
    for (int e = 0; e < 4; e++) {
        char words[96];
        const double saved = weights[e];
        weights[e] = saved + 1e-9;
        snprintf(words, sizeof words, "weight %d is %.17g in the blob, %.17g in this one", e, saved, weights[e]);
        CHECK_OK(salf_planner_create(&other, context, 4, 9, &o));
        CHECK_FAILS(salf_planner_load(other, bytes, size), SALF_E_MISMATCH, words);
        salf_planner_destroy(other);
        weights[e] = saved;
    }
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, small_plans_follow_algorithm_4);
    HARNESS_ADD(suite, large_plans_follow_algorithm_4);
    HARNESS_ADD(suite, online_equals_offline_and_survives_kills);
    HARNESS_ADD(suite, probes_stay_within_their_limit);
    HARNESS_ADD(suite, large_plans_are_the_same_online);
    HARNESS_ADD(suite, blobs_that_lie_are_refused_or_serve);
    HARNESS_ADD(suite, saves_know_full_batches);
    HARNESS_ADD(suite, saves_know_their_weights);
    HARNESS_ADD(suite, fills_are_uniform);
    HARNESS_ADD(suite, large_fills_are_uniform);
    HARNESS_ADD(suite, calls_out_of_order_and_bad_values);
}
