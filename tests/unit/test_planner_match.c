/* test_planner_match.c - which data train where: a literal Algorithm 4, online against offline, a kill at every call.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "plan/plan.h"

static salf_planner *make(salf_context *context, int32_t m, int64_t n, int32_t matching, int64_t limit) {
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.growth = SALF_GROWTH_ARITHMETIC;
    o.infill = SALF_INFILL_DEPTH;
    o.matching = matching;
    o.seed = 42;
    o.probe_limit = limit;
    salf_planner *planner = NULL;
    CHECK_OK(salf_planner_create(&planner, context, m, n, &o));
    return planner;
}

/* Some layers hold nothing. */
static salf_planner *make_gaps(salf_context *context, int32_t m, int64_t n) {
    static const double weights[11] = {0, 2, 0, 0, 1, 3, 0, 1, 0, 2, 0};
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.growth = SALF_GROWTH_CUSTOM;
    o.weights = weights;
    o.matching = SALF_MATCH_OFFLINE;
    salf_planner *planner = NULL;
    CHECK_OK(salf_planner_create(&planner, context, m, n, &o));
    return planner;
}

static int32_t eof_of(int64_t id, int32_t m) {
    return (int32_t)((uint64_t)(id * id * 31 + id * 7) % (uint64_t)m);
}

static void set_all(salf_planner *planner, int32_t m, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const int32_t eof = eof_of(i, m);
        CHECK_OK(salf_planner_set_eof(planner, i, 1, &eof));
    }
}

START_TEST(offline_follows_algorithm_4) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int64_t n = 1; n < 300; n += 13)
        for (int32_t m = 1; m < 12; m++) {
            salf_planner *planner = m % 2 ? make(context, m, n, SALF_MATCH_OFFLINE, 0) : make_gaps(context, m, n);
            set_all(planner, m, n);
            CHECK_OK(salf_planner_match(planner));
            bool used[300] = {false};
            for (int32_t e = 0; e < m; e++) {
                salf_stage stage;
                CHECK_OK(salf_planner_get_stage(planner, e, &stage));
                int64_t matched = 0;
                for (int64_t i = 0; i < n && matched < stage.count; i++)
                    if (!used[i] && eof_of(i, m) <= e) {
                        ck_assert_int_eq(stage.data[matched], i);
                        used[i] = true;
                        matched++;
                    }
                ck_assert_int_eq(stage.matched, matched);
                ck_assert_int_eq(stage.filled, stage.count - matched);
                for (int64_t i = matched; i < stage.count; i++) {
                    ck_assert(!used[stage.data[i]]);
                    used[stage.data[i]] = true;
                }
            }
            for (int64_t i = 0; i < n; i++) ck_assert(used[i]);
            salf_planner_destroy(planner);
        }
    salf_context_destroy(context);
}
END_TEST

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

/* Trained ids in order, n of them; returns the number of calls. */
static int run_all(salf_context *context, int32_t m, int64_t n, int32_t matching, int64_t limit, int64_t most, int kill,
                   uint32_t *trained) {
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
            CHECK_OK(salf_planner_next(planner, most, &task));
            ck_assert_int_eq(task.kind, SALF_TASK_TRAIN);
            ck_assert_int_eq(task.n_data, taken);
        }
        ck_assert_int_le(count + task.n_data, n);
        memcpy(trained + count, task.data, (size_t)task.n_data * sizeof *trained);
        count += task.n_data;
        STEP();
        CHECK_OK(salf_planner_done(planner));
    }
    ck_assert_int_eq(count, n);
    salf_planner_destroy(planner);
    return calls;
}

START_TEST(online_equals_offline_and_survives_kills) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    uint32_t offline[300], online[300], limited[300], again[300];
    run_all(context, 7, 131, SALF_MATCH_OFFLINE, 0, 1000, -1, offline);
    for (int64_t most = 1; most < 300; most = most * 2 + 1) {
        run_all(context, 7, 131, SALF_MATCH_ONLINE, 0, most, -1, online);
        ck_assert_mem_eq(offline, online, 131 * sizeof *online);
        run_all(context, 7, 131, SALF_MATCH_OFFLINE, 0, most, -2, online);
        ck_assert_mem_eq(offline, online, 131 * sizeof *online);
    }
    const int calls = run_all(context, 7, 131, SALF_MATCH_ONLINE, 20, 9, -1, limited);
    for (int kill = -2; kill < calls; kill++) {
        run_all(context, 7, 131, SALF_MATCH_ONLINE, 20, 9, kill, again);
        ck_assert_mem_eq(limited, again, sizeof *again * 131);
    }
    salf_context_destroy(context);
}
END_TEST

/* Late eof, so that much is filled, in buckets of several widths; labels of one byte and of two. In some the front is
 * one for fewer layers, and is used up. */
START_TEST(large_fills_are_the_same_online) {
    static const struct {
        int32_t m, spread, front;
    } plans[] = {{5, 2, 0}, {300, 100, 0}, {3, 1, 0}, {80, 20, 1}, {300, 100, 1}, {60, 60, 2}};
    const int64_t n = 150000;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    int32_t *eof = malloc((size_t)n * sizeof *eof), *probed = malloc((size_t)n * sizeof *eof);
    uint8_t *accepted = malloc((size_t)n), *seen = calloc((size_t)n, 1);
    for (size_t c = 0; c < sizeof plans / sizeof *plans; c++) {
        const int32_t m = plans[c].m;
        for (int64_t i = 0; i < n; i++) eof[i] = m - 1 - eof_of(i, plans[c].spread);
        salf_planner *offline = make(context, m, n, SALF_MATCH_OFFLINE, 0);
        salf_planner *online = make(context, m, n, SALF_MATCH_ONLINE, 0);
        if (plans[c].front > 0) offline->order = online->order = slf_fill_order_of(n, plans[c].front, 42);
        CHECK_OK(salf_planner_set_eof(offline, 0, n, eof));
        CHECK_OK(salf_planner_match(offline));
        memset(seen, 0, (size_t)n);
        int64_t at = 0;
        int32_t layer = 0;
        for (;;) {
            salf_task task;
            salf_stage stage;
            CHECK_OK(salf_planner_next(online, n, &task));
            if (task.kind == SALF_TASK_DONE) break;
            at = task.layer == layer ? at : 0;
            layer = task.layer;
            if (task.kind == SALF_TASK_PROBE) {
                for (int64_t i = 0; i < task.n_data; i++) probed[i] = eof[task.data[i]];
                CHECK_OK(salf_planner_report(online, probed, task.n_data, accepted));
                if (!memchr(accepted, 1, (size_t)task.n_data)) continue;
                CHECK_OK(salf_planner_next(online, n, &task));
            }
            CHECK_OK(salf_planner_get_stage(offline, layer, &stage));
            for (int64_t i = 0; i < task.n_data; i++) {
                ck_assert_int_lt(at, stage.count);
                ck_assert_int_eq(task.data[i], stage.data[at++]);
                ck_assert_int_eq(seen[task.data[i]]++, 0);
            }
            CHECK_OK(salf_planner_done(online));
        }
        ck_assert_ptr_null(memchr(seen, 0, (size_t)n));
        if (plans[c].front > 0) ck_assert(online->order.widths > 0 && online->state.front.all);
        salf_planner_destroy(offline);
        salf_planner_destroy(online);
    }
    free(eof), free(probed), free(accepted), free(seen);
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

/* What fills the first two layers, over many seeds, by eof and position of the ids: as many of each of 2 x 16 groups,
 * with buckets of all widths. Chi-square of 2 x 32 cells of a sample without replacement. */
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
        ck_assert_int_eq(planner->order.widths, SLF_WIDTHS);
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
    CHECK_FAILS(salf_planner_match(planner), SALF_E_SEQUENCE, "ONLINE");
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, offline_follows_algorithm_4);
    HARNESS_ADD(suite, online_equals_offline_and_survives_kills);
    HARNESS_ADD(suite, large_fills_are_the_same_online);
    HARNESS_ADD(suite, fills_are_uniform);
    HARNESS_ADD(suite, large_fills_are_uniform);
    HARNESS_ADD(suite, calls_out_of_order_and_bad_values);
}
