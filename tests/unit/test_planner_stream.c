/* test_planner_stream.c - streaming budgets: the chairman's bound at every datum of random plans, exact ends for any
 * batches, staged plans, assignments against a plain reading and against every permutation, groups, kills, ranks. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "harness.h"
#include "payload.h"

enum { MOST_LAYERS = 40, MOST_DATA = 2000 };

/* Numbers that differ from test to test, and from run to run not. */
static uint64_t draw(uint64_t index, uint64_t bound) {
    return slf_random_below(1, 2, index, bound);
}

static salf_planner *make(salf_context *context, int32_t m, int64_t n, const salf_planner_options *options) {
    salf_planner_options o = *options;
    o.struct_size = sizeof o;
    o.matching = SALF_MATCH_STREAM;
    salf_planner *planner = NULL;
    CHECK_OK(salf_planner_create(&planner, context, m, n, &o));
    return planner;
}

/* ---- what a datum's gains are, and its group ---- */

typedef struct batch {
    int32_t eof[MOST_DATA], groups[MOST_DATA];
    double gains[MOST_DATA * 8];
} batch;

static void look_at(batch *b, const salf_task *task, int32_t m, int32_t n_groups, salf_trace *trace) {
    for (int64_t i = 0; i < task->n_data; i++) {
        const uint64_t id = task->data[i];
        b->groups[i] = (int32_t)draw(7000 + id, (uint64_t)n_groups) * 11 - 5;
        b->eof[i] = 0;
        for (int32_t k = 0; k < m && k < 8; k++) {
            b->gains[i * m + k] = (double)draw(id * 8 + (uint64_t)k, 21) - 10;
            if (b->gains[i * m + k] > b->gains[i * m + b->eof[i]]) b->eof[i] = k;
        }
    }
    *trace = (salf_trace){.rows = task->n_data, .n_layers = m, .gains = b->gains, .eof = b->eof};
}

/* The next task, answered where it asks; false at the end. */
static bool next(salf_planner *planner, int64_t size, int32_t m, int32_t n_groups, salf_task *task) {
    static batch b;
    salf_trace trace;
    CHECK_OK(salf_planner_next(planner, size, task));
    if (task->kind == SALF_TASK_PROBE) {
        ck_assert_ptr_null(task->eof);
        look_at(&b, task, m, n_groups, &trace);
        CHECK_OK(salf_planner_assign(planner, &trace, b.groups, task));
    }
    if (task->kind == SALF_TASK_DONE) return false;
    ck_assert_int_eq(task->kind, SALF_TASK_TRAIN);
    int32_t lowest = m;
    for (int64_t i = 0; i < task->n_data; i++) lowest = task->eof[i] < lowest ? task->eof[i] : lowest;
    ck_assert_int_eq(task->layer, lowest);
    return true;
}

static int64_t most(const int64_t *counts, int32_t m) {
    int64_t sum = 0;
    for (int32_t e = 0; e < m; e++) sum += counts[e] > 0;
    return sum;
}

/* ---- the chairman ---- */

/* A random plan: weights with zeros among them, some tiny beside others. */
static void random_weights(uint64_t plan, int32_t m, double *weights) {
    for (int32_t e = 0; e < m; e++) {
        const uint64_t kind = draw(plan * 100 + (uint64_t)e, 6);
        weights[e] = kind == 0 ? 0 : kind == 1 ? 1e-3 : (double)(1 + draw(plan * 900 + (uint64_t)e, 50));
    }
    weights[plan % (uint64_t)m] = 1;
}

START_TEST(chairman_keeps_its_bound_at_every_datum) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (uint64_t plan = 0; plan < 400; plan++) {
        const int32_t m = 1 + (int32_t)draw(plan, MOST_LAYERS);
        const int64_t n = 1 + (int64_t)draw(5000 + plan, MOST_DATA);
        double weights[MOST_LAYERS];
        int64_t counts[MOST_LAYERS], had[MOST_LAYERS] = {0}, t = 0;
        random_weights(plan, m, weights);
        const salf_planner_options o = {
            .growth = SALF_GROWTH_CUSTOM, .weights = weights, .stream_order = SALF_STREAM_MIXED, .seed = plan};
        salf_planner *planner = make(context, m, n, &o);
        CHECK_OK(salf_planner_counts(planner, counts));
        const int64_t layers = most(counts, m);
        salf_task task;
        while (next(planner, 1, m, 1, &task)) {
            ck_assert_int_eq(task.n_data, 1);
            ck_assert_int_eq(task.data[0], t);
            had[task.eof[0]]++;
            t++;
            /* |a - c t / N| <= 1 - 1 / (2 m' - 2), in integers */
            for (int32_t e = 0; e < m; e++) {
                const int64_t miss = llabs(had[e] * n - counts[e] * t);
                CHECK_EACH(layers == 1 ? miss == 0 : miss * (2 * layers - 2) <= n * (2 * layers - 3),
                           "plan %d, t %d, layer %d: %d of %d", (int)plan, (int)t, (int)e, (int)had[e], (int)counts[e]);
            }
            CHECK_OK(salf_planner_done(planner));
        }
        ck_assert_int_eq(t, n);
        for (int32_t e = 0; e < m; e++) ck_assert_int_eq(had[e], counts[e]);
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- counts do not depend on batches ---- */

/* What each layer has had of the first `until` data. */
static void run_until(salf_planner *planner, int64_t until, int64_t size, int32_t m, int32_t n_groups, int64_t *had) {
    memset(had, 0, (size_t)m * sizeof *had);
    salf_task task;
    for (int64_t t = 0; t < until; t += task.n_data) {
        ck_assert(next(planner, until - t < size ? until - t : size, m, n_groups, &task));
        for (int64_t i = 0; i < task.n_data; i++) {
            ck_assert_int_eq(task.data[i], t + i);
            had[task.eof[i]]++;
        }
        CHECK_OK(salf_planner_done(planner));
    }
}

START_TEST(counts_do_not_depend_on_batches) {
    enum { M = 7, N = 173 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    static const int64_t sizes[] = {1, 2, 5, 16, 64, 200};
    for (int32_t assignment = 0; assignment <= SALF_ASSIGN_GAIN; assignment++)
        for (int32_t order = 0; order <= SALF_STREAM_MIXED; order++)
            for (int64_t until = 1; until <= N; until += 43) {
                int64_t first[M], had[M];
                for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                    const salf_planner_options o = {.growth = SALF_GROWTH_ARITHMETIC,
                                                    .infill = SALF_INFILL_DEPTH,
                                                    .assignment = assignment,
                                                    .stream_order = order,
                                                    .seed = 3};
                    salf_planner *planner = make(context, M, N, &o);
                    run_until(planner, until, sizes[s], M, 5, s ? had : first);
                    if (s) ck_assert_mem_eq(had, first, sizeof had);
                    for (int32_t e = 0; e < M; e++) {
                        salf_stage stage;
                        CHECK_OK(salf_planner_get_stage(planner, e, &stage));
                        ck_assert_int_eq(stage.matched + stage.filled, first[e]);
                        ck_assert_int_eq(stage.probed, assignment ? first[e] : 0);
                        if (!assignment) ck_assert_int_eq(stage.matched, 0);
                        /* at the end exact, but for groups that run MIXED without sizes: within their number */
                        const int64_t slack = assignment && order ? 4 : 0;
                        if (until == N) ck_assert_int_le(llabs(first[e] - stage.count), slack);
                    }
                    salf_planner_destroy(planner);
                }
            }
    salf_context_destroy(context);
}
END_TEST

/* STAGED by itself is the plan read from left to right. */
START_TEST(staged_goes_from_shallow_to_deep) {
    enum { M = 5, N = 57 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_planner_options o = {.growth = SALF_GROWTH_GEOMETRIC, .seed = 9};
    salf_planner *planner = make(context, M, N, &o);
    int64_t counts[M];
    salf_task task;
    int32_t layer = 0;
    CHECK_OK(salf_planner_counts(planner, counts));
    while (next(planner, 1, M, 1, &task)) {
        while (counts[layer] == 0) layer++;
        ck_assert_int_eq(task.eof[0], layer);
        counts[layer]--;
        CHECK_OK(salf_planner_done(planner));
    }
    ck_assert_int_eq(counts[M - 1], 0);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

/* With a choice a stage passes about probe_limit rows on; every group passes the same share. */
START_TEST(stages_pass_rows_on_alike_in_every_group) {
    enum { M = 6, N = 1200, GROUPS = 4 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_planner_options o = {.assignment = SALF_ASSIGN_EOF, .probe_limit = 100};
    salf_planner *planner = make(context, M, N, &o);
    int64_t rows[GROUPS] = {0}, passed[GROUPS] = {0}, counts[M], at_first[M] = {0};
    static batch b;
    salf_trace trace;
    salf_task task;
    CHECK_OK(salf_planner_counts(planner, counts));
    for (int64_t t = 0; t < N; t += task.n_data) {
        CHECK_OK(salf_planner_next(planner, 24, &task));
        look_at(&b, &task, M, GROUPS, &trace);
        CHECK_OK(salf_planner_assign(planner, &trace, b.groups, &task));
        int32_t stage = 0;
        while (stage < M - 1 && counts[stage] == 0) stage++;
        for (int64_t i = 0; i < task.n_data; i++) {
            const int g = (b.groups[i] + 5) / 11;
            rows[g]++;
            passed[g] += task.eof[i] > stage;
            counts[task.eof[i]]--;
            if (t < 288) at_first[task.eof[i]]++;
        }
        CHECK_OK(salf_planner_done(planner));
    }
    for (int32_t e = 0; e < M; e++) ck_assert_int_eq(counts[e], 0);
    /* 100 of 300 rows: a third, until nothing is left below */
    ck_assert_int_eq(at_first[0] + at_first[1], 288);
    ck_assert_int_le(at_first[1], 288 / 3);
    ck_assert_int_gt(at_first[1], 288 / 3 - GROUPS);
    for (int g = 0; g < GROUPS; g++)
        ck_assert_msg(fabs((double)passed[g] / (double)rows[g] - 1.0 / 3) < 0.05, "group %d: %d of %d", g,
                      (int)passed[g], (int)rows[g]);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

/* A limit beyond all data, as large as the field holds, is as good as all: rows pass while a deeper layer has room. */
START_TEST(any_limit_can_be_given) {
    enum { M = 3, N = 300 };
    static const int64_t limits[] = {SALF_PROBE_ALL, N, N + 1, INT64_MAX};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    int64_t first[M], had[M];
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const salf_planner_options o = {.assignment = SALF_ASSIGN_EOF, .probe_limit = limits[i]};
        salf_planner *planner = make(context, M, N, &o);
        run_until(planner, 120, 30, M, 2, i ? had : first);
        ck_assert_int_eq(first[0], 30); /* a quarter: N of N + 3 N pass */
        if (i) ck_assert_mem_eq(first, had, sizeof had);
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- assignments ---- */

/* Fisher and Yates over the quota's layers in order of position. */
START_TEST(random_is_the_documented_shuffle) {
    enum { M = 6, N = 90, SIZE = 30 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_planner_options o = {.stream_order = SALF_STREAM_MIXED, .seed = 77};
    salf_planner *one = make(context, M, N, &o), *whole = make(context, M, N, &o);
    salf_task task;
    for (int64_t t = 0; t < N; t += SIZE) {
        int32_t quota[SIZE];
        for (int64_t i = 0; i < SIZE; i++) {
            ck_assert(next(one, 1, M, 1, &task));
            quota[i] = task.eof[0];
            CHECK_OK(salf_planner_done(one));
        }
        for (int64_t i = 0; i < SIZE; i++) {
            const uint64_t at = (uint64_t)(t + i), left = (uint64_t)(SIZE - i);
            const int64_t j = i + (int64_t)slf_random_below(77, 0x706C616E726F7773u, at, left);
            const int32_t value = quota[j];
            quota[j] = quota[i];
            quota[i] = value;
        }
        ck_assert(next(whole, SIZE, M, 1, &task));
        ck_assert_mem_eq(task.eof, quota, sizeof quota);
        CHECK_OK(salf_planner_done(whole));
    }
    salf_planner_destroy(one);
    salf_planner_destroy(whole);
    salf_context_destroy(context);
}
END_TEST

/* Within one group: shallow layers take the first rows whose eof fits; who does not fit anywhere is drawn. */
START_TEST(eof_is_algorithm_4_in_the_batch) {
    enum { M = 5, N = 600, SIZE = 40 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_planner_options o = {.assignment = SALF_ASSIGN_EOF, .stream_order = SALF_STREAM_MIXED};
    salf_planner *planner = make(context, M, N, &o);
    int64_t matched = 0, booked = 0;
    for (int64_t t = 0; t < N; t += SIZE) {
        static batch b;
        salf_trace trace;
        salf_task task;
        CHECK_OK(salf_planner_next(planner, SIZE, &task));
        look_at(&b, &task, M, 1, &trace);
        CHECK_OK(salf_planner_assign(planner, &trace, b.groups, &task));
        int64_t quota[M] = {0};
        bool used[SIZE] = {false};
        for (int i = 0; i < SIZE; i++) quota[task.eof[i]]++;
        for (int32_t e = 0; e < M; e++) {
            int64_t left = quota[e];
            for (int i = 0; i < SIZE && left > 0; i++) {
                if (used[i] || b.eof[i] > e) continue;
                used[i] = true;
                ck_assert_int_eq(task.eof[i], e);
                left--;
                matched++;
            }
            for (int i = 0; i < SIZE; i++) /* those drawn: as many as were missing, and none of them fits */
                if (!used[i] && task.eof[i] == e) {
                    used[i] = true;
                    ck_assert_int_gt(b.eof[i], e);
                    left--;
                }
            ck_assert_int_eq(left, 0);
        }
        CHECK_OK(salf_planner_done(planner));
    }
    for (int32_t e = 0; e < M; e++) {
        salf_stage stage;
        CHECK_OK(salf_planner_get_stage(planner, e, &stage));
        booked += stage.matched;
    }
    ck_assert_int_eq(booked, matched);
    ck_assert_int_gt(matched, N / 2);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

static double lost(const batch *b, int32_t m, int64_t row, int32_t cut) {
    double sum = 0;
    for (int32_t k = 0; k < cut; k++) sum += fmax(b->gains[row * m + k], 0);
    return sum;
}

/* The least of all permutations of cuts over rows. */
static double least_of_all(const batch *b, int32_t m, int32_t *cuts, int64_t row, int64_t n) {
    double least = row == n ? 0 : INFINITY;
    for (int64_t j = row; j < n; j++) {
        int32_t kept = cuts[row];
        cuts[row] = cuts[j];
        cuts[j] = kept;
        least = fmin(least, lost(b, m, row, cuts[row]) + least_of_all(b, m, cuts, row + 1, n));
        kept = cuts[row];
        cuts[row] = cuts[j];
        cuts[j] = kept;
    }
    return least;
}

START_TEST(gain_loses_least_of_all_assignments) {
    enum { M = 6, N = 420, SIZE = 7 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_planner_options o = {.assignment = SALF_ASSIGN_GAIN, .stream_order = SALF_STREAM_MIXED};
    salf_planner *planner = make(context, M, N, &o);
    for (int64_t t = 0; t < N; t += SIZE) {
        static batch b;
        salf_trace trace;
        salf_task task;
        int32_t cuts[SIZE];
        double sum = 0;
        CHECK_OK(salf_planner_next(planner, SIZE, &task));
        look_at(&b, &task, M, 1, &trace);
        CHECK_OK(salf_planner_assign(planner, &trace, b.groups, &task));
        for (int64_t i = 0; i < SIZE; i++) sum += lost(&b, M, i, cuts[i] = task.eof[i]);
        ck_assert_double_eq_tol(sum, least_of_all(&b, M, cuts, 0, SIZE), 1e-9);
        CHECK_OK(salf_planner_done(planner));
    }
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

/* Beyond 64 rows: deepest cuts first, each to the row that loses least. At 64 the exact one is no worse than that. */
START_TEST(gain_of_many_rows_is_the_documented_greedy) {
    enum { M = 6, N = 200 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int64_t size = 64; size <= N; size += N - 64) {
        const salf_planner_options o = {.assignment = SALF_ASSIGN_GAIN, .stream_order = SALF_STREAM_MIXED};
        salf_planner *planner = make(context, M, N, &o);
        static batch b;
        salf_trace trace;
        salf_task task;
        CHECK_OK(salf_planner_next(planner, size, &task));
        look_at(&b, &task, M, 1, &trace);
        CHECK_OK(salf_planner_assign(planner, &trace, b.groups, &task));
        int64_t quota[M] = {0};
        bool used[N] = {false};
        double sum = 0, greedy = 0;
        for (int64_t i = 0; i < size; i++) quota[task.eof[i]]++;
        for (int64_t i = 0; i < size; i++) sum += lost(&b, M, i, task.eof[i]);
        for (int32_t e = M - 1; e >= 0; e--)
            for (; quota[e] > 0; quota[e]--) {
                int64_t best = -1;
                for (int64_t i = 0; i < size; i++)
                    if (!used[i] && (best < 0 || lost(&b, M, i, e) < lost(&b, M, best, e))) best = i;
                used[best] = true;
                greedy += lost(&b, M, best, e);
                if (size > 64) ck_assert_int_eq(task.eof[best], e);
            }
        ck_assert_double_le(sum, greedy + 1e-9);
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

/* Rows whose gains are no numbers are to train fully: they get the shallowest cuts. Enormous gains stay numbers. */
START_TEST(rows_without_gains_get_the_shallowest_cuts) {
    enum { M = 4, SIZE = 8 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_planner_options o = {.assignment = SALF_ASSIGN_GAIN, .stream_order = SALF_STREAM_MIXED};
    salf_planner *planner = make(context, M, SIZE, &o);
    double gains[SIZE * M];
    const int32_t eof[SIZE] = {0}, groups[SIZE] = {0};
    for (int i = 0; i < SIZE * M; i++) gains[i] = i % 3 ? 1e308 : 1;
    gains[2 * M + 3] = NAN;
    gains[5 * M] = INFINITY;
    const salf_trace trace = {.rows = SIZE, .n_layers = M, .gains = gains, .eof = eof};
    salf_task task;
    CHECK_OK(salf_planner_next(planner, SIZE, &task));
    CHECK_OK(salf_planner_assign(planner, &trace, groups, &task));
    ck_assert_int_eq(task.eof[2], 0);
    ck_assert_int_eq(task.eof[5], 0);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

/* ---- groups ---- */

/* Sizes known: totals and each group's counts are exact in both orders, each group's within one of its share. */
START_TEST(groups_of_known_size_are_exact) {
    enum { M = 6, N = 500, GROUPS = 7 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int32_t order = 0; order <= SALF_STREAM_MIXED; order++) {
        const salf_planner_options o = {.growth = SALF_GROWTH_ARITHMETIC,
                                        .assignment = SALF_ASSIGN_EOF,
                                        .stream_order = order,
                                        .max_groups = GROUPS};
        salf_planner *planner = make(context, M, N, &o);
        int64_t counts[M], sizes[GROUPS] = {0}, had[GROUPS][M] = {{0}};
        int32_t ids[GROUPS];
        for (int g = 0; g < GROUPS; g++) ids[g] = g * 11 - 5;
        for (uint64_t i = 0; i < N; i++) sizes[draw(7000 + i, GROUPS)]++;
        CHECK_OK(salf_planner_set_groups(planner, ids, sizes, GROUPS));
        CHECK_OK(salf_planner_counts(planner, counts));
        for (int64_t t = 0; t < N;) {
            static batch b;
            salf_trace trace;
            salf_task task;
            CHECK_OK(salf_planner_next(planner, 32, &task));
            look_at(&b, &task, M, GROUPS, &trace);
            CHECK_OK(salf_planner_assign(planner, &trace, b.groups, &task));
            for (int64_t i = 0; i < task.n_data; i++) had[(b.groups[i] + 5) / 11][task.eof[i]]++;
            t += task.n_data;
            CHECK_OK(salf_planner_done(planner));
        }
        for (int32_t e = 0; e < M; e++) {
            int64_t sum = 0;
            for (int g = 0; g < GROUPS; g++) {
                const double share = (double)counts[e] * (double)sizes[g] / N;
                sum += had[g][e];
                ck_assert_msg(fabs((double)had[g][e] - share) < 2, "layer %d of group %d: %d, share %g", (int)e, g,
                              (int)had[g][e], share);
            }
            ck_assert_int_eq(sum, counts[e]);
        }
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

static char heard[256];
static int times_heard;

static void hear(void *user, int32_t level, const char *message) {
    (void)user;
    ck_assert_int_eq(level, SALF_LOG_WARNING);
    snprintf(heard, sizeof heard, "%s", message);
    times_heard++;
}

/* Further groups share one, and it is said once. */
START_TEST(more_groups_than_there_is_room_for_share_one) {
    enum { M = 4, N = 400 };
    salf_context_options options = {.struct_size = sizeof options, .backend = SALF_BACKEND_REFERENCE, .log = hear};
    salf_context *context;
    CHECK_OK(salf_context_create(&context, &options));
    for (int32_t room = 1; room < 60; room += 29) {
        const salf_planner_options o = {
            .assignment = SALF_ASSIGN_EOF, .stream_order = SALF_STREAM_MIXED, .max_groups = room};
        salf_planner *planner = make(context, M, N, &o);
        int64_t had[M];
        times_heard = 0;
        run_until(planner, N, 50, M, 64, had);
        ck_assert_int_eq(times_heard, 1);
        ck_assert_msg(strstr(heard, "max_groups") != NULL, "%s", heard);
        for (int32_t e = 0; e < M; e++) ck_assert_int_le(llabs(had[e] - N / M), room);
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- one cut a batch ---- */

START_TEST(one_cut_a_batch_stays_within_a_batch_of_the_plan) {
    enum { M = 6, N = 1024, SIZE = 16 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int32_t order = 0; order <= SALF_STREAM_MIXED; order++) {
        const salf_planner_options o = {.growth = SALF_GROWTH_ARITHMETIC, .stream_order = order, .one_cut = 1};
        salf_planner *planner = make(context, M, N, &o);
        int64_t counts[M], had[M] = {0};
        salf_task task;
        CHECK_OK(salf_planner_counts(planner, counts));
        for (int64_t t = SIZE; next(planner, SIZE, M, 1, &task); t += SIZE) {
            for (int64_t i = 0; i < task.n_data; i++) ck_assert_int_eq(task.eof[i], task.layer);
            had[task.layer] += task.n_data;
            /* the share at t: in proportion, or the plan read from left to right */
            for (int64_t e = 0, below = 0; e < M; below += counts[e++]) {
                const int64_t inside = t - below < 0 ? 0 : t - below > counts[e] ? counts[e] : t - below;
                ck_assert_int_le(llabs(had[e] - (order ? counts[e] * t / N : inside)), SIZE);
            }
            CHECK_OK(salf_planner_done(planner));
        }
        for (int32_t e = 0; e < M; e++) ck_assert_int_le(llabs(had[e] - counts[e]), SIZE);
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- kills ---- */

static const salf_planner_options kinds[] = {
    {.seed = 5},
    {.seed = 5, .stream_order = SALF_STREAM_MIXED},
    {.seed = 5, .stream_order = SALF_STREAM_MIXED, .one_cut = 1},
    {.seed = 5, .one_cut = 1},
    {.seed = 5, .assignment = SALF_ASSIGN_EOF},
    {.seed = 5, .assignment = SALF_ASSIGN_EOF, .stream_order = SALF_STREAM_MIXED, .max_groups = 2},
    {.seed = 5, .assignment = SALF_ASSIGN_GAIN},
    {.seed = 5, .assignment = SALF_ASSIGN_GAIN, .stream_order = SALF_STREAM_MIXED},
};
enum { KINDS = sizeof kinds / sizeof *kinds, KILL_M = 5, KILL_N = 60, KILL_GROUPS = 4 };

static salf_planner *make_kind(salf_context *context, size_t kind, bool sized) {
    salf_planner *planner = make(context, KILL_M, KILL_N, &kinds[kind]);
    int32_t ids[KILL_GROUPS];
    int64_t sizes[KILL_GROUPS] = {0};
    for (int g = 0; g < KILL_GROUPS; g++) ids[g] = g * 11 - 5;
    for (uint64_t i = 0; i < KILL_N; i++) sizes[draw(7000 + i, KILL_GROUPS)]++;
    if (sized) CHECK_OK(salf_planner_set_groups(planner, ids, sizes, KILL_GROUPS));
    return planner;
}

/* A run that is saved and loaded into another planner before every call has the same cuts. */
START_TEST(a_kill_at_every_call_changes_nothing) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t kind = 0; kind < 2 * KINDS; kind++) {
        const bool sized = kind >= KINDS;
        const salf_planner_options *o = &kinds[kind % KINDS];
        if (sized && (!o->assignment || o->max_groups)) continue;
        salf_planner *whole = make_kind(context, kind % KINDS, sized),
                     *killed = make_kind(context, kind % KINDS, sized);
        for (bool more = true; more;) {
            static batch b;
            int32_t cuts[KILL_N];
            salf_task task;
            if ((more = next(whole, 7, KILL_M, KILL_GROUPS, &task))) {
                memcpy(cuts, task.eof, (size_t)task.n_data * sizeof *cuts);
                CHECK_OK(salf_planner_done(whole));
            }
            /* before next, with the task open, with its cuts known, and done: each time by another planner, into which
             * sizes need not be set */
            for (int call = 0; call < 4; call++) {
                uint8_t bytes[4096];
                uint64_t size = sizeof bytes;
                salf_trace trace;
                CHECK_OK(salf_planner_save(killed, bytes, &size));
                salf_planner_destroy(killed);
                killed = make_kind(context, kind % KINDS, false);
                CHECK_OK(salf_planner_load(killed, bytes, size));
                if (call == 0 || call == 2) CHECK_OK(salf_planner_next(killed, 7, &task));
                if (!more) {
                    CHECK_OK(salf_planner_next(killed, 7, &task));
                    ck_assert_int_eq(task.kind, SALF_TASK_DONE);
                    break;
                }
                if (call == 1 && o->assignment) {
                    CHECK_OK(salf_planner_next(killed, 7, &task));
                    look_at(&b, &task, KILL_M, KILL_GROUPS, &trace);
                    CHECK_OK(salf_planner_assign(killed, &trace, b.groups, &task));
                }
                if (call == 2) ck_assert_mem_eq(task.eof, cuts, (size_t)task.n_data * sizeof *cuts);
                if (call == 3) CHECK_OK(salf_planner_done(killed));
            }
        }
        salf_planner_destroy(whole);
        salf_planner_destroy(killed);
    }
    salf_context_destroy(context);
}
END_TEST

/* Every byte behind the options changed in some ways, with a right checksum: refused, or the planner hands out every
 * datum that is left once, in order, each with a cut that is one, and ends. */
START_TEST(blobs_that_lie_are_refused_or_serve) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    int64_t refused = 0, accepted = 0;
    for (size_t kind = 0; kind < 2 * KINDS; kind++) {
        if (kind >= KINDS && (!kinds[kind % KINDS].assignment || kinds[kind % KINDS].max_groups)) continue;
        salf_planner *planner = make_kind(context, kind % KINDS, kind >= KINDS);
        salf_task task;
        for (int tasks = 0; tasks < 5; tasks++) {
            if (tasks % 2 == 0 && tasks < 4) ck_assert(next(planner, 9, KILL_M, KILL_GROUPS, &task));
            uint8_t bytes[4096];
            uint64_t size = sizeof bytes;
            CHECK_OK(salf_planner_save(planner, bytes, &size));
            if (tasks % 2 == 0 && tasks < 4) CHECK_OK(salf_planner_done(planner));
            if (tasks == 3) CHECK_OK(salf_planner_next(planner, 9, &task)); /* PROBE, or TRAIN again */
            for (uint64_t at = 32 + 12 * 8; at < size; at += at + 9 * 8 < size ? 1 + at % 3 : 1) /* all of the cuts */
                for (int way = 0; way < 4; way++) {
                    static const uint8_t flips[4] = {0x01, 0x03, 0x06, 0xFF};
                    payload p = {.size = size - 32};
                    uint8_t whole[4096];
                    uint64_t room = sizeof whole;
                    memcpy(p.bytes, bytes + 32, p.size);
                    p.bytes[at - 32] ^= flips[way];
                    CHECK_OK(slf_blob_save("PLAN", 4, write_payload, &p, whole, &room));
                    salf_planner *other = make_kind(context, kind % KINDS, false);
                    if (salf_planner_load(other, whole, room) != SALF_OK) {
                        refused++;
                    } else {
                        accepted++;
                        int64_t t = -1;
                        static batch b;
                        for (int calls = 0;; calls++) {
                            salf_trace trace;
                            if (calls > KILL_N + 1) ck_abort_msg("no end");
                            CHECK_OK(salf_planner_next(other, 9, &task));
                            if (task.kind == SALF_TASK_DONE) break;
                            if (task.kind == SALF_TASK_PROBE) {
                                look_at(&b, &task, KILL_M, KILL_GROUPS, &trace);
                                /* a group with other sizes than its data have: an error that names it */
                                if (salf_planner_assign(other, &trace, b.groups, &task) != SALF_OK) break;
                            }
                            for (int64_t i = 0; i < task.n_data; i++) {
                                if (t >= 0 && task.data[i] != t + 1) ck_abort_msg("datum %d", (int)task.data[i]);
                                if (task.eof[i] < 0 || task.eof[i] >= KILL_M) ck_abort_msg("cut %d", task.eof[i]);
                                if (kinds[kind % KINDS].one_cut && task.eof[i] != task.eof[0]) ck_abort_msg("two cuts");
                                t = task.data[i];
                            }
                            CHECK_OK(salf_planner_done(other));
                        }
                    }
                    salf_planner_destroy(other);
                }
        }
        salf_planner_destroy(planner);
    }
    ck_assert_int_gt(refused, 4 * accepted);
    ck_assert_int_gt(accepted, 20);
    salf_context_destroy(context);
}
END_TEST

/* ---- ranks ---- */

enum { RANKS = 3, RANK_M = 5, RANK_N = 131 };

typedef struct rank {
    int32_t index, kind, bad; /* bad: this rank's trace is wrong at the second task */
    salf_status status;
    int32_t cuts[RANK_N];
    int64_t counts[RANK_M];
} rank;

static pthread_barrier_t barrier;
static int64_t parts[RANKS][4096];

static int32_t all_reduce(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    const rank *me = user;
    memcpy(parts[me->index], buffer, (size_t)count * 8);
    pthread_barrier_wait(&barrier);
    for (int64_t i = 0; i < count; i++) {
        double real = 0, x;
        int64_t whole = operation == SALF_ALL_REDUCE_SUM ? 0 : INT64_MAX;
        for (int r = 0; r < RANKS; r++) {
            memcpy(&x, &parts[r][i], 8);
            real += x;
            if (operation == SALF_ALL_REDUCE_SUM)
                whole += parts[r][i];
            else
                whole = parts[r][i] < whole ? parts[r][i] : whole;
        }
        memcpy((char *)buffer + 8 * i, dtype == SALF_F64 ? (void *)&real : (void *)&whole, 8);
    }
    pthread_barrier_wait(&barrier);
    return 0;
}

/* Data of each rank, by id, in the cuts of all; libcheck is not for threads. */
static void *work(void *user) {
    rank *me = user;
    salf_context_options o = {.struct_size = sizeof o,
                              .backend = SALF_BACKEND_REFERENCE,
                              .rank = me->index,
                              .ranks = RANKS,
                              .all_reduce = all_reduce,
                              .communicator_user = me};
    salf_planner_options p = kinds[me->kind];
    p.struct_size = sizeof p;
    p.matching = SALF_MATCH_STREAM;
    salf_context *context = NULL;
    salf_planner *planner = NULL;
    salf_policy *policy = NULL;
    batch *b = malloc(sizeof *b);
    me->status = b ? salf_context_create(&context, &o) : SALF_E_NO_MEMORY;
    if (!me->status) me->status = salf_planner_create(&planner, context, RANK_M, RANK_N, &p);
    const salf_policy_options q = {.struct_size = sizeof q, .planner = planner};
    if (!me->status) me->status = salf_policy_create(&policy, context, SALF_POLICY_BUDGET, RANK_M, &q);
    for (int64_t step = 0; !me->status; step++) {
        salf_task task;
        salf_trace trace;
        salf_decision d = {.struct_size = sizeof d};
        const salf_observation seen = {.struct_size = sizeof seen, .step = step};
        me->status = salf_planner_next(planner, 8, &task);
        if (me->status || task.kind == SALF_TASK_DONE) break;
        if (task.kind == SALF_TASK_PROBE) {
            for (int64_t i = 0; i < task.n_data; i++) b->groups[i] = (int32_t)(task.data[i] % 3);
            for (int64_t i = 0; i < task.n_data; i++) b->eof[i] = (int32_t)(task.data[i] * 7 % RANK_M);
            for (int64_t i = 0; i < task.n_data * RANK_M; i++) b->gains[i] = (double)((task.data[0] + i) % 5);
            trace = (salf_trace){.rows = task.n_data, .n_layers = RANK_M, .gains = b->gains, .eof = b->eof};
            if (me->bad && step == 1) b->eof[1] = RANK_M;
            me->status = salf_planner_assign(planner, &trace, b->groups, &task);
        }
        if (!me->status) me->status = salf_policy_decide(policy, &seen, &d);
        for (int64_t i = 0; !me->status && i < task.n_data; i++) {
            me->cuts[task.data[i]] = d.eof[i];
            if (d.eof[i] != task.eof[i] || d.cut > d.eof[i]) me->status = SALF_E_INTERNAL;
        }
        if (!me->status) me->status = salf_planner_done(planner);
    }
    for (int32_t e = 0; e < RANK_M && !me->status; e++) {
        salf_stage stage;
        me->status = salf_planner_get_stage(planner, e, &stage);
        me->counts[e] = stage.matched + stage.filled;
    }
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    free(b);
    return NULL;
}

static void run_ranks(rank *ranks, int32_t kind, int32_t bad) {
    pthread_t threads[RANKS];
    ck_assert_int_eq(pthread_barrier_init(&barrier, NULL, RANKS), 0);
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (rank){.index = r, .kind = kind, .bad = r == bad};
        for (int i = 0; i < RANK_N; i++) ranks[r].cuts[i] = -1;
        ck_assert_int_eq(pthread_create(&threads[r], NULL, work, &ranks[r]), 0);
    }
    for (int r = 0; r < RANKS; r++) pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&barrier);
}

/* Every datum on one rank; the ranks' cuts together are those of one process with their batches joined, RANDOM to the
 * datum and in every kind by the counts. The last batch is uneven: 131 = 5 * 24 + 11. */
START_TEST(ranks_make_one_stream) {
    static rank ranks[RANKS];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int32_t kind = 0; kind < (int32_t)KINDS; kind++) {
        int32_t cuts[RANK_N];
        salf_planner *alone = make(context, RANK_M, RANK_N, &kinds[kind]);
        salf_task task;
        run_ranks(ranks, kind, -1);
        for (int r = 0; r < RANKS; r++) ck_assert_msg(!ranks[r].status, "kind %d: %d", (int)kind, ranks[r].status);
        for (int i = 0; i < RANK_N; i++) {
            int owners = 0;
            for (int r = 0; r < RANKS; r++) {
                owners += ranks[r].cuts[i] >= 0;
                if (ranks[r].cuts[i] >= 0) cuts[i] = ranks[r].cuts[i];
            }
            ck_assert_int_eq(owners, 1);
        }
        int64_t had[RANK_M] = {0};
        for (int i = 0; i < RANK_N; i++) had[cuts[i]]++;
        for (int r = 0; r < RANKS; r++) ck_assert_mem_eq(ranks[r].counts, had, sizeof had);
        for (int64_t i = 0; !kinds[kind].assignment && next(alone, 8 * RANKS, RANK_M, 1, &task); i += task.n_data) {
            ck_assert_mem_eq(task.eof, cuts + i, (size_t)task.n_data * sizeof *cuts);
            CHECK_OK(salf_planner_done(alone));
        }
        salf_planner_destroy(alone);
    }
    /* one rank's trace is wrong: all fail, and none hangs */
    run_ranks(ranks, 4, 1);
    ck_assert_int_eq(ranks[0].status, SALF_E_MISMATCH);
    ck_assert_int_eq(ranks[1].status, SALF_E_ARGUMENT);
    ck_assert_int_eq(ranks[2].status, SALF_E_MISMATCH);
    salf_context_destroy(context);
}
END_TEST

/* ---- what is wrong is named ---- */

START_TEST(bad_values_are_named) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_planner *planner = NULL;
    salf_planner_options o = {.struct_size = sizeof o, .matching = SALF_MATCH_STREAM};
    const struct {
        int32_t assignment, order, one_cut, max_groups;
        const char *words;
    } bad[] = {{3, 0, 0, 0, "assignment is 3"},
               {0, 2, 0, 0, "stream_order is 2"},
               {0, 0, 2, 0, "one_cut is 2"},
               {0, 0, 0, -1, "max_groups is -1"},
               {SALF_ASSIGN_EOF, 0, 1, 0, "one_cut with assignment eof"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.assignment = bad[i].assignment;
        o.stream_order = bad[i].order;
        o.one_cut = bad[i].one_cut;
        o.max_groups = bad[i].max_groups;
        CHECK_FAILS(salf_planner_create(&planner, context, 4, 10, &o), SALF_E_ARGUMENT, bad[i].words);
    }
    o = (salf_planner_options){.struct_size = sizeof o, .assignment = SALF_ASSIGN_GAIN};
    CHECK_FAILS(salf_planner_create(&planner, context, 4, 10, &o), SALF_E_ARGUMENT, "assignment gain");
    o = (salf_planner_options){.struct_size = sizeof o, .matching = SALF_MATCH_STREAM};
    CHECK_OK(salf_planner_create(&planner, context, 4, (int64_t)1 << 33, &o));
    salf_task task;
    CHECK_FAILS(salf_planner_next(planner, 4, &task), SALF_E_OVERFLOW, "8589934592 data");
    salf_planner_destroy(planner);

    /* groups */
    const int32_t ids[3] = {4, 5, 4};
    int64_t sizes[3] = {3, 3, 4};
    planner = make(context, 4, 10, &(salf_planner_options){.max_groups = 3});
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 2), SALF_E_SEQUENCE, "assignment random");
    CHECK_FAILS(salf_planner_match(planner), SALF_E_SEQUENCE, "stream");
    CHECK_OK(salf_planner_next(planner, 4, &task));
    CHECK_FAILS(salf_planner_assign(planner, NULL, NULL, &task), SALF_E_SEQUENCE, "no PROBE task");
    salf_planner_destroy(planner);
    planner = make(context, 4, 10, &(salf_planner_options){.assignment = SALF_ASSIGN_GAIN, .max_groups = 3});
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 0), SALF_E_ARGUMENT, "0 groups");
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 4), SALF_E_ARGUMENT, "4 groups");
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 3), SALF_E_ARGUMENT, "group 4 is given twice");
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 2), SALF_E_ARGUMENT, "6 data");
    sizes[1] = 0;
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 2), SALF_E_ARGUMENT, "group 5 has 0 data");
    sizes[1] = 8;
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 2), SALF_E_ARGUMENT,
                "group 5 has 8 data, not 1 ... the 7");
    sizes[1] = 7;
    CHECK_OK(salf_planner_set_groups(planner, ids, sizes, 2));
    CHECK_FAILS(salf_planner_set_groups(planner, ids, sizes, 2), SALF_E_SEQUENCE, "are set");

    /* the answer to a PROBE task; each failure leaves it open */
    double gains[4 * 4] = {0};
    int32_t eof[4] = {0, 1, 2, 3}, groups[4] = {4, 4, 5, 6};
    uint8_t accepted[4];
    salf_trace trace = {.rows = 4, .n_layers = 4, .eof = eof, .gains = gains};
    CHECK_OK(salf_planner_next(planner, 4, &task));
    CHECK_FAILS(salf_planner_report(planner, eof, 4, accepted), SALF_E_SEQUENCE, "salf_planner_assign");
    CHECK_FAILS(salf_planner_done(planner), SALF_E_SEQUENCE, "no report");
    CHECK_FAILS(salf_planner_assign(planner, NULL, groups, &task), SALF_E_NULL, "needs a trace");
    CHECK_FAILS(salf_planner_assign(planner, &trace, NULL, &task), SALF_E_NULL, "groups is NULL");
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, NULL), SALF_E_NULL, "task");
    trace.rows = 3;
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_SHAPE, "3 rows");
    trace.rows = 4;
    trace.n_layers = 5;
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_SHAPE, "5 layers");
    trace.n_layers = 4;
    trace.gains = NULL;
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_NULL, "gains of the trace");
    trace.gains = gains;
    eof[2] = 4;
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_ARGUMENT, "eof of row 2 is 4");
    eof[2] = 2;
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_ARGUMENT, "group 6 is not among");
    for (int i = 0; i < 4; i++) groups[i] = 4;
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_ARGUMENT, "group 4 has more data");
    groups[3] = 5;
    ck_assert_int_eq(task.kind, SALF_TASK_PROBE);
    CHECK_OK(salf_planner_assign(planner, &trace, groups, &task));
    ck_assert_int_eq(task.kind, SALF_TASK_TRAIN);
    CHECK_OK(salf_planner_done(planner));
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

static salf_status whole_run(harness_memory *memory, int32_t backend, void *user) {
    static batch b;
    const size_t *kind = user;
    salf_context *context = NULL;
    salf_planner *planner = NULL, *other = NULL;
    salf_planner_options o = kinds[*kind];
    o.struct_size = sizeof o;
    o.matching = SALF_MATCH_STREAM;
    uint8_t bytes[4096];
    uint64_t size = sizeof bytes;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (!status) status = salf_planner_create(&planner, context, KILL_M, KILL_N, &o);
    if (!status && o.assignment == SALF_ASSIGN_GAIN)
        status = salf_planner_set_groups(planner, (int32_t[]){0, 1}, (int64_t[]){30, 30}, 2);
    for (salf_task task = {0}; !status;) {
        salf_trace trace;
        status = salf_planner_next(planner, 20, &task);
        if (status || task.kind == SALF_TASK_DONE) break;
        look_at(&b, &task, KILL_M, 1, &trace);
        for (int64_t i = 0; i < task.n_data; i++) b.groups[i] = (int32_t)(task.data[i] % 2);
        if (task.kind == SALF_TASK_PROBE) status = salf_planner_assign(planner, &trace, b.groups, &task);
        size = sizeof bytes;
        if (!status) status = salf_planner_save(planner, bytes, &size);
        if (!status) status = salf_planner_done(planner);
    }
    if (!status) status = salf_planner_create(&other, context, KILL_M, KILL_N, &o);
    if (!status) status = salf_planner_load(other, bytes, size);
    salf_planner_destroy(planner);
    salf_planner_destroy(other);
    salf_context_destroy(context);
    return status;
}

START_TEST(every_allocation_may_fail) {
    for (size_t kind = 0; kind < KINDS; kind++) harness_fail_each_allocation(whole_run, SALF_BACKEND_REFERENCE, &kind);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, chairman_keeps_its_bound_at_every_datum);
    HARNESS_ADD(suite, counts_do_not_depend_on_batches);
    HARNESS_ADD(suite, staged_goes_from_shallow_to_deep);
    HARNESS_ADD(suite, stages_pass_rows_on_alike_in_every_group);
    HARNESS_ADD(suite, any_limit_can_be_given);
    HARNESS_ADD(suite, random_is_the_documented_shuffle);
    HARNESS_ADD(suite, eof_is_algorithm_4_in_the_batch);
    HARNESS_ADD(suite, gain_loses_least_of_all_assignments);
    HARNESS_ADD(suite, gain_of_many_rows_is_the_documented_greedy);
    HARNESS_ADD(suite, rows_without_gains_get_the_shallowest_cuts);
    HARNESS_ADD(suite, groups_of_known_size_are_exact);
    HARNESS_ADD(suite, more_groups_than_there_is_room_for_share_one);
    HARNESS_ADD(suite, one_cut_a_batch_stays_within_a_batch_of_the_plan);
    HARNESS_ADD(suite, a_kill_at_every_call_changes_nothing);
    HARNESS_ADD(suite, blobs_that_lie_are_refused_or_serve);
    HARNESS_ADD(suite, ranks_make_one_stream);
    HARNESS_ADD(suite, bad_values_are_named);
    HARNESS_ADD(suite, every_allocation_may_fail);
}
