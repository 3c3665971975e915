/* test_planner_ranks.c - plans of Algorithm 4 on one to four ranks (threads): the same data at the same steps and cuts
 * as one process has with their batches joined, each on one rank; also when every rank is killed before every call, and
 * when one of them fails.
 */
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { JOINED = 12, N_MOST = 160, ATTEMPTS = 6 * N_MOST };

typedef struct plan_run {
    salf_planner_options options;
    int32_t m;
    int64_t n;
    bool killed;   /* saved, destroyed and loaded before every call; then nothing decides, as policies are not */
    int32_t bad;   /* what the last rank does wrong, once, at its second report; GOOD: nothing */
    bool goes_on;  /* after it */
    int64_t batch; /* of a rank */
} plan_run;
enum { GOOD = 0, BAD_EOF, BAD_COUNT, NO_EOF, NO_ROOM, TELLS, DECIDES, ASSIGNS };

/* What became of each datum, on each rank; libcheck is not for threads. */
typedef struct plan_log {
    int32_t cut[N_MOST], step[N_MOST], times[N_MOST];
    int32_t steps, wrong;                    /* wrong: line of the first thing that should not be */
    double share[ATTEMPTS], scale[ATTEMPTS]; /* batch_share and the shallowest training layer's rate of each step */
    int32_t cuts[ATTEMPTS];
} plan_log;
static plan_log logs[WORLD_MOST];
static world_rank ranks[WORLD_MOST];

static int32_t eof_at(int64_t id, int32_t m) {
    return (int32_t)((uint64_t)(id * id * 31 + id * 7) % (uint64_t)m);
}

static salf_status make_plan(salf_context *context, const plan_run *c, salf_planner **planner) {
    salf_status status = salf_planner_create(planner, context, c->m, c->n, &c->options);
    for (int64_t i = 0; c->options.matching == SALF_MATCH_OFFLINE && status == SALF_OK && i < c->n; i++) {
        const int32_t eof = eof_at(i, c->m);
        status = salf_planner_set_eof(*planner, i, 1, &eof);
    }
    return status;
}

/* As a process that was killed finds it. */
static salf_status reborn(salf_context *context, const plan_run *c, salf_planner **planner) {
    uint8_t bytes[8192];
    uint64_t size = sizeof bytes;
    if (!c->killed) return SALF_OK;
    salf_status status = salf_planner_save(*planner, bytes, &size);
    salf_planner_destroy(*planner);
    *planner = NULL;
    if (status == SALF_OK) status = salf_planner_create(planner, context, c->m, c->n, &c->options);
    return status == SALF_OK ? salf_planner_load(*planner, bytes, size) : status;
}

/* The call of a rank that does something else; the planner is as it was afterwards. */
static salf_status do_wrong(const plan_run *c, world_rank *me, salf_planner *planner, salf_policy *policy,
                            const salf_task *task) {
    int32_t eof[JOINED] = {0}, wrong[JOINED + 1] = {0};
    uint8_t accepted[JOINED + 1];
    salf_task same;
    salf_decision d = {.struct_size = sizeof d};
    const salf_observation seen = {.struct_size = sizeof seen, .step = N_MOST};
    const salf_trace trace = {.rows = task->n_data, .n_layers = c->m, .eof = eof};
    wrong[0] = c->m;
    if (c->bad == BAD_EOF) return salf_planner_report(planner, wrong, task->n_data, accepted);
    if (c->bad == BAD_COUNT) return salf_planner_report(planner, eof, task->n_data + 1, accepted);
    if (c->bad == NO_EOF) return salf_planner_report(planner, NULL, task->n_data, accepted);
    if (c->bad == NO_ROOM) return salf_planner_report(planner, eof, task->n_data, NULL);
    if (c->bad == TELLS) return salf_context_agree(me->context, SALF_E_DEVICE);
    if (c->bad == DECIDES) return salf_policy_decide(policy, &seen, &d);
    return salf_planner_assign(planner, &trace, eof, &same);
}

/* One step: the data that train, in a batch with a cut each; every rank decides, also one without a datum. */
static salf_status train(const plan_run *c, plan_log *l, salf_policy *policy, const salf_task *task,
                         const uint8_t *accepted) {
    salf_decision d = {.struct_size = sizeof d, .cut = task->layer, .rows = -1};
    const salf_observation seen = {.struct_size = sizeof seen, .step = l->steps};
    if (policy) {
        const salf_status status = salf_policy_decide(policy, &seen, &d);
        if (status != SALF_OK) return status;
        l->share[l->steps] = d.batch_share;
        l->scale[l->steps] = d.rate_scale[d.cut];
    }
    int64_t rows = 0;
    for (int64_t i = 0; i < task->n_data; i++) {
        const uint32_t id = task->data[i];
        if (accepted && !accepted[i]) continue;
        if (id >= c->n) return SALF_E_INTERNAL;
        l->cut[id] = task->eof ? task->eof[i] : task->layer;
        l->step[id] = l->steps;
        l->times[id]++;
        if (policy && (d.eof[rows] != l->cut[id] || d.cut > l->cut[id])) l->wrong = __LINE__;
        rows++;
    }
    if (policy && d.rows != rows) l->wrong = __LINE__;
    l->cuts[l->steps++] = d.cut;
    return SALF_OK;
}

static salf_status follow(world_rank *me) {
    const plan_run *c = me->user;
    plan_log *l = &logs[me->rank];
    salf_planner *planner = NULL;
    salf_policy *policy = NULL;
    salf_status status = make_plan(me->context, c, &planner);
    const salf_policy_options o = {.struct_size = sizeof o, .planner = planner};
    if (status == SALF_OK && !c->killed)
        status = salf_policy_create(&policy, me->context, SALF_POLICY_BUDGET, c->m, &o);
    for (int reports = 0, calls = 0; status == SALF_OK; calls++) {
        salf_task task;
        int32_t eof[JOINED];
        uint8_t accepted[JOINED];
        if (calls >= ATTEMPTS) l->wrong = __LINE__;
        status = reborn(me->context, c, &planner);
        if (status == SALF_OK) status = salf_planner_next(planner, c->batch, &task);
        if (status != SALF_OK || task.kind == SALF_TASK_DONE || l->wrong) break;
        if (task.n_data > c->batch) l->wrong = __LINE__;
        const bool probes = task.kind == SALF_TASK_PROBE;
        uint32_t ids[JOINED]; /* of the batch: the task's own array is lent until the next call */
        memcpy(ids, task.data, (size_t)task.n_data * sizeof *ids);
        if (probes) {
            for (int64_t i = 0; i < task.n_data; i++) eof[i] = eof_at(task.data[i], c->m);
            status = reborn(me->context, c, &planner);
            if (status == SALF_OK && c->killed) status = salf_planner_next(planner, c->batch, &task);
            const bool fails = c->bad != GOOD && reports++ == 1;
            if (status == SALF_OK && fails) {
                const uint8_t untouched = accepted[0] = 7;
                status = me->rank == 1 ? do_wrong(c, me, planner, policy, &task)
                                       : salf_planner_report(planner, eof, task.n_data, accepted);
                if (accepted[0] != untouched) l->wrong = __LINE__;
                if (c->goes_on) status = status == SALF_OK ? SALF_E_INTERNAL : SALF_OK;
            }
            if (status == SALF_OK) status = salf_planner_report(planner, eof, task.n_data, accepted);
            if (c->killed) continue; /* what was accepted comes again */
            for (int64_t i = 0; status == SALF_OK && i < task.n_data; i++)
                if (accepted[i] && c->options.full_batches) l->wrong = __LINE__;
        }
        task.data = ids;
        if (status == SALF_OK && !(probes && c->options.full_batches))
            status = train(c, l, policy, &task, probes ? accepted : NULL);
        if (status == SALF_OK) status = salf_planner_done(planner);
    }
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    return status;
}

/* One rank's log from all of theirs; what all must have alike is compared. */
static plan_log joined(int32_t n_ranks, int64_t n) {
    plan_log all = logs[0];
    for (int32_t r = 0; r < n_ranks; r++) {
        ck_assert_int_eq(logs[r].wrong, 0);
        ck_assert_int_eq(logs[r].steps, all.steps);
        ck_assert_mem_eq(logs[r].share, all.share, sizeof all.share);
        ck_assert_mem_eq(logs[r].scale, all.scale, sizeof all.scale);
        ck_assert_mem_eq(logs[r].cuts, all.cuts, sizeof all.cuts);
        for (int64_t i = 0; r > 0 && i < n; i++) {
            all.times[i] += logs[r].times[i];
            if (!logs[r].times[i]) continue;
            all.cut[i] = logs[r].cut[i];
            all.step[i] = logs[r].step[i];
        }
    }
    for (int64_t i = 0; i < n; i++) ck_assert_int_eq(all.times[i], 1);
    return all;
}

static plan_log run_plan(plan_run *c, int32_t n_ranks) {
    memset(logs, 0, sizeof logs);
    c->batch = JOINED / n_ranks;
    world_run_of(n_ranks, follow, c, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    return joined(n_ranks, c->n);
}

static plan_run plan_of(int32_t matching, int32_t full_batches, int32_t m, int64_t n) {
    plan_run c = {.m = m, .n = n};
    salf_options_init(&c.options, sizeof c.options);
    c.options.growth = m == 5 ? SALF_GROWTH_ARITHMETIC : SALF_GROWTH_UNIFORM;
    c.options.matching = matching;
    c.options.full_batches = full_batches;
    c.options.seed = 42;
    return c;
}

/* Sizes with a rest for each number of ranks, fewer data than ranks among them. */
START_TEST(ranks_train_what_one_would) {
    static const struct {
        int32_t m;
        int64_t n;
    } sizes[] = {{6, N_MOST}, {5, 131}, {1, 25}, {7, 3}, {4, 12}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int32_t kind = 0; kind < 6; kind++) {
            plan_run c = plan_of(kind % 3, kind / 3, sizes[s].m, sizes[s].n);
            const plan_log alone = run_plan(&c, 1);
            for (int32_t n = 2; n <= WORLD_MOST; n++) {
                const plan_log together = run_plan(&c, n);
                ck_assert_mem_eq(&alone, &together, sizeof alone);
            }
            /* full batches: as few steps as there can be, each of a whole batch but the last */
            const int64_t fewest = (c.n + JOINED - 1) / JOINED;
            ck_assert(c.options.full_batches ? alone.steps == fewest : alone.steps >= fewest);
            for (int i = 0; c.options.full_batches && i < fewest - 1; i++) ck_assert(alone.share[i] == 1);
        }
}
END_TEST

/* 160 data on 4 ranks of 4: as few steps as the data fill, where ends of layers and probes made more. */
START_TEST(full_batches_save_steps) {
    plan_run c = plan_of(SALF_MATCH_ONLINE, 1, 6, N_MOST);
    memset(logs, 0, sizeof logs);
    c.batch = 4;
    world_run_of(4, follow, &c, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    ck_assert_int_eq(joined(4, c.n).steps, 10);
    /* each datum at the layer that it has without */
    const plan_log full = joined(4, c.n);
    c = plan_of(SALF_MATCH_ONLINE, 0, 6, N_MOST);
    memset(logs, 0, sizeof logs);
    c.batch = 4;
    world_run_of(4, follow, &c, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    ck_assert_mem_eq(full.cut, joined(4, c.n).cut, sizeof full.cut);
    ck_assert_int_gt(joined(4, c.n).steps, 12); /* 12 layers' ends alone would make */
}
END_TEST

/* All killed before every call: the same cuts, and in full batches the same steps. */
START_TEST(ranks_survive_kills) {
    for (int32_t kind = 0; kind < 6; kind++)
        for (int32_t n = 1; n <= WORLD_MOST; n++) {
            plan_run c = plan_of(kind % 3, kind / 3, 5, 131);
            const plan_log whole = run_plan(&c, n);
            c.killed = true;
            const plan_log killed = run_plan(&c, n);
            ck_assert_mem_eq(whole.cut, killed.cut, sizeof whole.cut);
            if (c.options.full_batches) ck_assert_mem_eq(whole.step, killed.step, sizeof whole.step);
        }
}
END_TEST

/* A rank that fails tells the others, whose planners are as they were: all report again and go on to the same plan. */
START_TEST(a_rank_that_fails_is_named) {
    static const struct {
        salf_status status;
        const char *words;
    } wrong[] = {[BAD_EOF] = {SALF_E_ARGUMENT, "is 5, not in 0 ... 4"},
                 [BAD_COUNT] = {SALF_E_SHAPE, "2 eof for a task of 1 data"},
                 [NO_EOF] = {SALF_E_NULL, "salf_planner_report: eof is NULL"},
                 [NO_ROOM] = {SALF_E_NULL, "salf_planner_report: accepted is NULL"},
                 [TELLS] = {SALF_E_DEVICE, ""},
                 [DECIDES] = {SALF_E_MISMATCH, "salf_policy_decide"},
                 [ASSIGNS] = {SALF_E_SEQUENCE, "salf_planner_assign: no PROBE task of a stream"}};
    for (int32_t full = 0; full < 2; full++) {
        plan_run c = plan_of(SALF_MATCH_ONLINE, full, 5, 131);
        const plan_log right = run_plan(&c, 3);
        for (c.bad = BAD_EOF; c.bad <= ASSIGNS; c.bad++) {
            c.goes_on = false;
            memset(logs, 0, sizeof logs);
            world_run_of(3, follow, &c, NULL, ranks);
            if (c.bad == DECIDES)
                world_all(ranks, SALF_E_MISMATCH, "one rank is in salf_planner_report, another in salf_policy_decide");
            else
                world_one(ranks, 1, wrong[c.bad].status, wrong[c.bad].words);
            for (int r = 0; r < 3; r++) ck_assert_int_eq(logs[r].wrong, 0);
            c.goes_on = true;
            const plan_log after = run_plan(&c, 3);
            ck_assert_mem_eq(&right, &after, sizeof right);
        }
    }
}
END_TEST

/* A save is of all ranks: one rank's is for each of as many as go on with it. */
static uint8_t saved[8192];
static uint64_t saved_size;

static salf_status save_midway(world_rank *me) {
    const plan_run *c = me->user;
    salf_planner *planner = NULL;
    salf_status status = make_plan(me->context, c, &planner);
    for (int tasks = 0; status == SALF_OK && tasks < 9; tasks++) {
        salf_task task;
        int32_t eof[JOINED];
        uint8_t accepted[JOINED];
        status = salf_planner_next(planner, c->batch, &task);
        for (int64_t i = 0; i < task.n_data; i++) eof[i] = eof_at(task.data[i], c->m);
        if (status == SALF_OK && task.kind == SALF_TASK_PROBE)
            status = salf_planner_report(planner, eof, task.n_data, accepted);
        if (status == SALF_OK && tasks < 8) status = salf_planner_done(planner);
    }
    if (me->rank == 0) saved_size = sizeof saved;
    if (status == SALF_OK && me->rank == 0) status = salf_planner_save(planner, saved, &saved_size);
    salf_planner_destroy(planner);
    return status;
}

static salf_status go_on(world_rank *me) {
    const plan_run *c = me->user;
    plan_log *l = &logs[me->rank];
    salf_planner *planner = NULL;
    salf_status status = salf_planner_create(&planner, me->context, c->m, c->n, &c->options);
    if (status == SALF_OK) status = salf_planner_load(planner, saved, saved_size);
    while (status == SALF_OK) {
        salf_task task;
        int32_t eof[JOINED];
        uint8_t accepted[JOINED];
        status = salf_planner_next(planner, c->batch, &task);
        if (status != SALF_OK || task.kind == SALF_TASK_DONE) break;
        for (int64_t i = 0; i < task.n_data; i++) eof[i] = eof_at(task.data[i], c->m);
        if (task.kind == SALF_TASK_PROBE) {
            status = salf_planner_report(planner, eof, task.n_data, accepted);
            continue;
        }
        status = train(c, l, NULL, &task, NULL);
        if (status == SALF_OK) status = salf_planner_done(planner);
    }
    salf_planner_destroy(planner);
    return status;
}

START_TEST(a_save_serves_any_number_of_ranks) {
    for (int32_t kind = 0; kind < 6; kind++) {
        plan_run c = plan_of(kind % 3, kind / 3, 5, 131);
        plan_log first = {0};
        for (int32_t n = WORLD_MOST; n > 0; n--) {
            memset(logs, 0, sizeof logs);
            c.batch = JOINED / WORLD_MOST;
            if (n == WORLD_MOST) world_run_of(WORLD_MOST, save_midway, &c, NULL, ranks);
            if (n == WORLD_MOST) world_all(ranks, SALF_OK, "");
            c.batch = JOINED / n;
            world_run_of(n, go_on, &c, NULL, ranks);
            world_all(ranks, SALF_OK, "");
            plan_log all = {0};
            for (int32_t r = 0; r < n; r++)
                for (int64_t i = 0; i < c.n; i++) {
                    all.times[i] += logs[r].times[i];
                    if (logs[r].times[i]) all.cut[i] = logs[r].cut[i];
                }
            if (n == WORLD_MOST) first = all;
            ck_assert_mem_eq(first.times, all.times, sizeof all.times);
            ck_assert_mem_eq(first.cut, all.cut, sizeof all.cut);
        }
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, ranks_train_what_one_would);
    HARNESS_ADD(suite, full_batches_save_steps);
    HARNESS_ADD(suite, ranks_survive_kills);
    HARNESS_ADD(suite, a_rank_that_fails_is_named);
    HARNESS_ADD(suite, a_save_serves_any_number_of_ranks);
}
