/* test_planner_memory.c - planners when allocations fail: each call reports it, can be made again, and the plan is the
 * same in the end; memory a datum takes.
 */
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define M 5
#define N 97

typedef struct plan_case {
    int32_t matching;
    int32_t growth;
    uint32_t want[N]; /* ids in the order of training, once known */
    bool known;
} plan_case;

static salf_planner_options options_of(const plan_case *c) {
    static const double weights[M] = {1, 0, 3, 2, 2};
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.matching = c->matching;
    o.growth = c->growth;
    o.weights = weights;
    o.probe_limit = 30;
    o.seed = 4;
    return o;
}

/* The first failure of a run is kept; the call that failed is made again, and must then succeed. */
#define AGAIN(first, call)                              \
    do {                                                \
        const salf_status again_ = (call);              \
        if (again_ != SALF_OK) {                        \
            ck_assert_int_eq(first, SALF_OK);           \
            (first) = again_;                           \
            ck_assert_int_eq(again_, SALF_E_NO_MEMORY); \
            CHECK_OK(call);                             \
        }                                               \
    } while (0)

static salf_status saved_and_loaded(const salf_planner *planner, salf_planner *copy) {
    static uint8_t bytes[4096];
    uint64_t size = sizeof bytes;
    const salf_status status = salf_planner_save(planner, bytes, &size);
    return status == SALF_OK ? salf_planner_load(copy, bytes, size) : status;
}

/* Works the plan through, in turns with a copy that is loaded from it: both are real planners. */
static salf_status work_through(salf_planner *planners[2], uint32_t trained[N]) {
    salf_status first = SALF_OK;
    int64_t count = 0;
    for (int turn = 0;; turn ^= 1) {
        salf_planner *planner = planners[turn];
        salf_task task;
        AGAIN(first, salf_planner_next(planner, 12, &task));
        if (task.kind == SALF_TASK_DONE) break;
        if (task.kind == SALF_TASK_PROBE) {
            int32_t eof[12];
            uint8_t accepted[12];
            for (int64_t i = 0; i < task.n_data; i++) eof[i] = (int32_t)(task.data[i] * 7 % M);
            AGAIN(first, salf_planner_report(planner, eof, task.n_data, accepted));
        } else {
            ck_assert_int_le(count + task.n_data, N);
            memcpy(trained + count, task.data, (size_t)task.n_data * sizeof *trained);
            count += task.n_data;
            AGAIN(first, salf_planner_done(planner));
        }
        AGAIN(first, saved_and_loaded(planner, planners[turn ^ 1]));
    }
    ck_assert_int_eq(count, N);
    return first;
}

static salf_status prepare(salf_planner *planner, const plan_case *c) {
    salf_status first = SALF_OK;
    if (c->matching != SALF_MATCH_OFFLINE) return first;
    for (int32_t i = 0; i < N; i++) {
        const int32_t eof = i * 7 % M;
        AGAIN(first, salf_planner_set_eof(planner, i, 1, &eof));
    }
    return first;
}

static salf_status live(harness_memory *memory, int32_t backend, void *user) {
    plan_case *c = user;
    const salf_planner_options o = options_of(c);
    salf_context *context = NULL;
    salf_planner *planners[2] = {NULL, NULL};
    uint32_t trained[N];
    salf_status status = harness_context_or_status(&context, backend, memory);
    for (int i = 0; i < 2 && status == SALF_OK; i++) {
        status = salf_planner_create(&planners[i], context, M, N, &o);
        ck_assert((status == SALF_OK) == (planners[i] != NULL));
    }
    if (status == SALF_OK) status = prepare(planners[0], c);
    if (status == SALF_OK) { /* a failure before is not hidden by a success after */
        status = work_through(planners, trained);
        if (!c->known) memcpy(c->want, trained, sizeof trained);
        c->known = true;
        ck_assert_mem_eq(trained, c->want, sizeof trained);
    }
    salf_planner_destroy(planners[0]);
    salf_planner_destroy(planners[1]);
    salf_context_destroy(context);
    return status;
}

START_TEST(every_allocation_may_fail) {
    for (int32_t matching = SALF_MATCH_ONLINE; matching <= SALF_MATCH_NONE; matching++)
        for (int32_t growth = SALF_GROWTH_UNIFORM; growth <= SALF_GROWTH_CUSTOM; growth++) {
            plan_case c = {.matching = matching, .growth = growth};
            harness_fail_each_allocation(live, SALF_BACKEND_REFERENCE, &c);
            ck_assert(c.known);
            bool seen[N] = {false};
            for (int i = 0; i < N; i++) {
                ck_assert(c.want[i] < N && !seen[c.want[i]]);
                seen[c.want[i]] = true;
            }
        }
}
END_TEST

/* A match that failed can also be given up for a save: eof are still eof. */
START_TEST(eof_outlive_a_match_that_failed) {
    for (int64_t fail = 0; fail < 12; fail++) {
        harness_memory memory = {.fail_at = -1};
        salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
        plan_case c = {.matching = SALF_MATCH_OFFLINE};
        const salf_planner_options o = options_of(&c);
        salf_planner *planner = NULL, *copy = NULL, *fresh = NULL;
        CHECK_OK(salf_planner_create(&planner, context, M, N, &o));
        CHECK_OK(salf_planner_create(&copy, context, M, N, &o));
        CHECK_OK(salf_planner_create(&fresh, context, M, N, &o));
        CHECK_OK(prepare(planner, &c));
        CHECK_OK(prepare(fresh, &c));
        memory.fail_at = memory.calls + fail;
        const salf_status status = salf_planner_match(planner);
        memory.fail_at = -1;
        if (status != SALF_OK) {
            ck_assert_int_eq(status, SALF_E_NO_MEMORY);
            CHECK_OK(saved_and_loaded(planner, copy));
            CHECK_OK(salf_planner_match(copy));
            CHECK_OK(salf_planner_match(fresh));
            for (int32_t e = 0; e < M; e++) {
                salf_stage a, b;
                CHECK_OK(salf_planner_get_stage(copy, e, &a));
                CHECK_OK(salf_planner_get_stage(fresh, e, &b));
                ck_assert_int_eq(a.matched, b.matched);
                ck_assert_mem_eq(a.data, b.data, (size_t)a.count * sizeof *a.data);
            }
        } else {
            ck_assert_int_gt(fail, 4);
        }
        salf_planner_destroy(planner);
        salf_planner_destroy(copy);
        salf_planner_destroy(fresh);
        salf_context_destroy(context);
    }
}
END_TEST

/* The most that a plan of many data holds at once: 16 bytes a datum, while fills are drawn 14.25. */
START_TEST(memory_per_datum_is_small) {
    const int64_t n = 1000000;
    harness_memory memory = {.fail_at = -1};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.matching = SALF_MATCH_OFFLINE;
    o.growth = SALF_GROWTH_ARITHMETIC;
    salf_planner *planner = NULL;
    CHECK_OK(salf_planner_create(&planner, context, 80, n, &o));
    ck_assert_int_lt(memory.most, 100000); /* counts need nothing per datum */
    int32_t eof[1000];
    for (int64_t i = 0; i < n; i += 1000) {
        for (int64_t j = 0; j < 1000; j++) eof[j] = 79 - (int32_t)((i + j) * 31 % 20); /* most is filled */
        CHECK_OK(salf_planner_set_eof(planner, i, 1000, eof));
    }
    CHECK_OK(salf_planner_match(planner));
    ck_assert_msg(memory.most < n * 16, "%lld bytes", (long long)memory.most);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, every_allocation_may_fail);
    HARNESS_ADD(suite, eof_outlive_a_match_that_failed);
    HARNESS_ADD(suite, memory_per_datum_is_small);
}
