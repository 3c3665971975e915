/* test_policy_ranks.c - policies on three ranks (threads): all get the decision of their data together, where each
 * alone would have chosen otherwise, and none hangs when one has bad input.
 */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "harness.h"

#define RANKS 3
#define M     4

/* ---- collectives ---- */

typedef struct group {
    pthread_barrier_t barrier;
    char parts[RANKS][1024];
    int32_t broken_link; /* collectives fail, on all ranks */
} group;

typedef struct member {
    group *all;
    int32_t rank;
    int32_t kind;
    salf_policy_options options;
    int32_t n_steps;
    salf_observation seen[4];
    int64_t planner_stage; /* BUDGET: tasks done before */
    /* results of the last step */
    salf_status status;
    char message[512];
    int32_t cut;
    uint8_t trainable[M];
    double rate[M];
    int64_t rows;
} member;

static void combine(void *out, const group *all, int64_t i, int32_t dtype, int32_t operation) {
    double real = 0, x;
    int64_t whole = 0, n;
    for (int r = 0; r < RANKS; r++)
        if (dtype == SALF_F64) {
            memcpy(&x, all->parts[r] + 8 * i, 8);
            real += x;
        } else {
            memcpy(&n, all->parts[r] + 8 * i, 8);
            whole = operation == SALF_ALL_REDUCE_SUM ? whole + n : r == 0 || n < whole ? n : whole;
        }
    memcpy(out, dtype == SALF_F64 ? (void *)&real : (void *)&whole, 8);
}

static int32_t all_reduce(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    member *me = user;
    memcpy(me->all->parts[me->rank], buffer, (size_t)count * 8);
    pthread_barrier_wait(&me->all->barrier);
    for (int64_t i = 0; i < count; i++) combine((char *)buffer + 8 * i, me->all, i, dtype, operation);
    pthread_barrier_wait(&me->all->barrier);
    return me->all->broken_link;
}

/* ---- a rank ---- */

static salf_status make_planner(salf_context *context, int64_t stage, salf_planner **planner) {
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.matching = SALF_MATCH_NONE;
    salf_status status = salf_planner_create(planner, context, M, 8, &o);
    salf_task task;
    for (int64_t i = 0; status == SALF_OK && i < stage; i++) {
        status = salf_planner_next(*planner, 9, &task);
        if (status == SALF_OK) status = salf_planner_done(*planner);
    }
    return status == SALF_OK ? salf_planner_next(*planner, 9, &task) : status;
}

static void take_steps(member *me, salf_policy *policy) {
    for (int32_t i = 0; i < me->n_steps; i++) {
        salf_decision d = {.struct_size = sizeof d};
        me->seen[i].struct_size = sizeof me->seen[i];
        me->status = salf_policy_decide(policy, &me->seen[i], &d);
        me->cut = -1;
        if (me->status != SALF_OK) continue;
        me->cut = d.cut;
        me->rows = d.eof ? d.rows : -1;
        memcpy(me->trainable, d.trainable, sizeof me->trainable);
        memcpy(me->rate, d.rate_scale, sizeof me->rate);
    }
}

static void *work(void *user) {
    member *me = user;
    salf_context_options o;
    salf_options_init(&o, sizeof o);
    o.backend = SALF_BACKEND_REFERENCE;
    o.rank = me->rank;
    o.ranks = RANKS;
    o.all_reduce = all_reduce;
    o.communicator_user = me;
    salf_context *context = NULL;
    salf_planner *planner = NULL;
    salf_policy *policy = NULL;
    me->status = salf_context_create(&context, &o);
    if (me->status == SALF_OK && me->kind == SALF_POLICY_BUDGET)
        me->status = make_planner(context, me->planner_stage, &planner);
    me->options.planner = planner;
    if (me->status == SALF_OK) me->status = salf_policy_create(&policy, context, me->kind, M, &me->options);
    if (me->status == SALF_OK) take_steps(me, policy);
    if (me->status != SALF_OK) strncpy(me->message, salf_last_error(), sizeof me->message - 1);
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    return NULL;
}

/* ---- a test's frame ---- */

static group all;
static member members[RANKS];

static void begin(int32_t kind) {
    memset(members, 0, sizeof members);
    all.broken_link = 0;
    for (int r = 0; r < RANKS; r++) {
        members[r] = (member){.all = &all, .rank = r, .kind = kind, .n_steps = 1};
        salf_options_init(&members[r].options, sizeof members[r].options);
    }
}

static void run(void) {
    pthread_t threads[RANKS];
    ck_assert_int_eq(pthread_barrier_init(&all.barrier, NULL, RANKS), 0);
    for (int r = 0; r < RANKS; r++) ck_assert_int_eq(pthread_create(&threads[r], NULL, work, &members[r]), 0);
    for (int r = 0; r < RANKS; r++) pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&all.barrier);
}

static void check_cut(int32_t cut) {
    for (int r = 0; r < RANKS; r++) {
        ck_assert_msg(members[r].status == SALF_OK, "rank %d: %s", r, members[r].message);
        ck_assert_msg(members[r].cut == cut, "rank %d: cut %d, not %d", r, members[r].cut, cut);
        ck_assert_mem_eq(members[r].trainable, members[0].trainable, M);
        ck_assert_mem_eq(members[r].rate, members[0].rate, sizeof members[0].rate);
    }
}

/* The rank fails with its own error, the others with SALF_E_MISMATCH. */
static void check_failure(int32_t rank, salf_status status, const char *words) {
    for (int r = 0; r < RANKS; r++)
        ck_assert_msg(members[r].status == (r == rank ? status : SALF_E_MISMATCH), "rank %d: %s: %s", r,
                      salf_status_name(members[r].status), members[r].message);
    ck_assert_msg(harness_contains(members[rank].message, words), "'%s' lacks '%s'", members[rank].message, words);
}

static void check_all(salf_status status, const char *words) {
    for (int r = 0; r < RANKS; r++)
        ck_assert_msg(members[r].status == status && harness_contains(members[r].message, words), "rank %d: %s: %s", r,
                      salf_status_name(members[r].status), members[r].message);
}

/* ---- SALF ---- */

/* Alone the ranks would cut at 0, 1 and 3; the sum of gains is largest at 2. Of the eof 0 0, 1 1 2 2 and 3 2 the
 * smallest is 0, the lower median 1 and the mode 2. */
static const double gains[RANKS][16] = {
    {5, 0, 4, 0, 1, 0, 1, 0}, {0, 3, 2, 0, 0, 3, 2, 0, 0, 1, 1, 0, 0, 1, 1, 0}, {0, 0, 1, 2, 0, 0, 1, 2}};
static const int32_t eof[RANKS][4] = {{0, 0}, {1, 1, 2, 2}, {3, 2}};
static const int64_t n_rows[RANKS] = {2, 4, 2};

static void give_traces(salf_trace traces[RANKS], int32_t reduction) {
    begin(SALF_POLICY_SALF);
    for (int r = 0; r < RANKS; r++) {
        traces[r] = (salf_trace){.rows = n_rows[r], .n_layers = M, .gains = gains[r], .eof = eof[r]};
        members[r].seen[0].trace = &traces[r];
        members[r].options.reduction = reduction;
    }
}

START_TEST(salf_takes_the_data_of_all_ranks) {
    static const int32_t cuts[5] = {2, 0, 1, 2, 0};
    for (int32_t reduction = 0; reduction < 5; reduction++) {
        salf_trace traces[RANKS];
        give_traces(traces, reduction);
        run();
        check_cut(cuts[reduction]);
        for (int r = 0; r < RANKS; r++) ck_assert_int_eq(members[r].rows, n_rows[r]);
        traces[0].rows = traces[1].rows = 0; /* the last rank's rows are all there are: eof 3 and 2 */
        run();
        check_cut(reduction == SALF_REDUCE_MEAN_GAIN ? 3 : 2);
        traces[2].rows = 0;
        run();
        for (int r = 0; r < RANKS; r++) ck_assert_int_eq(members[r].status, SALF_E_ARGUMENT);
    }
}
END_TEST

START_TEST(salf_with_one_bad_rank_hangs_nobody) {
    static const int32_t high[2] = {1, 4};
    for (int32_t reduction = 0; reduction < 5; reduction++)
        for (int r = 0; r < RANKS; r++) {
            salf_trace traces[RANKS];
            give_traces(traces, reduction);
            members[r].seen[0].trace = NULL;
            run();
            check_failure(r, SALF_E_NULL, "trace is NULL");
            members[r].seen[0].trace = &traces[r];
            traces[r].rows = 2;
            traces[r].eof = high;
            run();
            check_failure(r, SALF_E_ARGUMENT, "eof of row 1 is 4");
            traces[r].eof = eof[r];
            all.broken_link = 1;
            run();
            for (int i = 0; i < RANKS; i++) ck_assert_int_eq(members[i].status, SALF_E_CALLBACK);
        }
}
END_TEST

/* ---- CALLBACK ---- */

static int32_t ask(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)step, (void)n_layers, (void)trace;
    return *(const int32_t *)user;
}

START_TEST(callback_takes_the_shallowest_cut) {
    int32_t cuts[RANKS] = {3, 1, 2};
    begin(SALF_POLICY_CALLBACK);
    for (int r = 0; r < RANKS; r++) {
        members[r].options.callback = ask;
        members[r].options.callback_user = &cuts[r];
    }
    run();
    check_cut(1);
    for (int r = 0; r < RANKS; r++) ck_assert_int_eq(members[r].rows, -1);
    cuts[2] = -7;
    run();
    check_failure(2, SALF_E_CALLBACK, "returned -7 at step 0");
    cuts[2] = M;
    run();
    check_failure(2, SALF_E_CALLBACK, "returned 4");
}
END_TEST

/* Of the 8 rows of all ranks 2, 4, 7 and 8 reach the layers: every rank has these shares, not those of its own rows. */
START_TEST(callback_scales_rates_by_the_rows_of_all_ranks) {
    static const double shares[M] = {0.25, 0.5, 0.875, 1};
    salf_trace traces[RANKS];
    int32_t cut = 0;
    give_traces(traces, SALF_REDUCE_PREFIX);
    for (int r = 0; r < RANKS; r++) {
        members[r].kind = SALF_POLICY_CALLBACK;
        members[r].options.rates = SALF_RATES_BY_ROWS;
        members[r].options.callback = ask;
        members[r].options.callback_user = &cut;
    }
    run();
    check_cut(0);
    for (int k = 0; k < M; k++) ck_assert_double_eq(members[0].rate[k], shares[k]);
}
END_TEST

/* ---- BUDGET ---- */

START_TEST(budget_needs_planners_at_one_layer) {
    begin(SALF_POLICY_BUDGET);
    for (int r = 0; r < RANKS; r++) members[r].planner_stage = 2;
    run();
    check_cut(2);
    for (int r = 0; r < RANKS; r++) ck_assert_int_eq(members[r].rows, r < 2); /* the task's two data, shared out */
    members[1].planner_stage = 3;
    run();
    for (int r = 0; r < RANKS; r++) {
        ck_assert_int_eq(members[r].status, SALF_E_MISMATCH);
        ck_assert_msg(harness_contains(members[r].message, "the layer of the task: "), "%s", members[r].message);
    }
    members[1].planner_stage = 4;
    run();
    check_failure(1, SALF_E_SEQUENCE, "no task");
}
END_TEST

/* ---- AUTOFREEZE, RGN ---- */

/* Changes of the sums: 0 2/3 2/3 2/3, so that layer 0 is frozen; alone, the ranks have 1 0 0 0, 0 0 2 2 and 1 2 0 0,
 * and would freeze 0, 2 and 0 layers. */
START_TEST(autofreeze_sums_over_ranks) {
    static const double before[M] = {4, 4, 4, 4};
    static const double after[RANKS][M] = {{8, 4, 4, 4}, {4, 4, 12, 12}, {0, 12, 4, 4}};
    begin(SALF_POLICY_AUTOFREEZE);
    for (int r = 0; r < RANKS; r++) {
        members[r].options.interval = 1;
        members[r].n_steps = 3;
        members[r].seen[1] = (salf_observation){.step = 1, .gradient_l1 = before};
        members[r].seen[2] = (salf_observation){.step = 2, .gradient_l1 = after[r]};
    }
    run();
    check_cut(1);
    for (int r = 0; r < RANKS; r++) members[r].seen[2].gradient_l1 = after[(r + 1) % RANKS];
    run();
    check_cut(1); /* whatever rank brings them */
    static const double huge[M] = {1, 1e308, 1, 1};
    for (int r = 0; r < RANKS; r++) members[r].seen[2].gradient_l1 = huge;
    run();
    check_all(SALF_E_NONFINITE, "gradient_l1, summed over the ranks, of layer 1 is inf");
    for (int r = 0; r < RANKS; r++) members[r].seen[2].gradient_l1 = after[r];
    members[1].seen[2].gradient_l1 = NULL;
    run();
    check_failure(1, SALF_E_NULL, "gradient_l1 is NULL");
}
END_TEST

START_TEST(rgn_sums_over_ranks) {
    static const double gradient[RANKS][M] = {{4, 0, 0, 0}, {0, 2, 3, 0}, {0, 4, 0, 1}};
    static const double parameter[M] = {1, 1, 1, 1};
    static const double want[M] = {4.0 / 6, 1, 0.5, 1.0 / 6};
    begin(SALF_POLICY_RGN);
    for (int r = 0; r < RANKS; r++)
        members[r].seen[0] = (salf_observation){.gradient_norm = gradient[r], .parameter_norm = parameter};
    run();
    check_cut(0);
    for (int k = 0; k < M; k++) ck_assert(fabs(members[0].rate[k] - want[k]) < 1e-15);
    static const double huge[M] = {1e308, 0, 0, 0};
    for (int r = 0; r < RANKS; r++) members[r].seen[0].gradient_norm = huge;
    run();
    check_all(SALF_E_NONFINITE, "gradient_norm / parameter_norm, summed over the ranks, of layer 0 is inf");
    for (int r = 0; r < RANKS; r++) members[r].seen[0].gradient_norm = gradient[r];
    members[0].seen[0].parameter_norm = gradient[2];
    run();
    check_failure(0, SALF_E_ARGUMENT, "parameter_norm of layer 0 is 0");
}
END_TEST

/* A call that is wrong in itself, on one rank, is told to the others. */
START_TEST(a_step_back_on_one_rank_hangs_nobody) {
    static const double norms[M] = {1, 2, 3, 4};
    static const int32_t script[1] = {1};
    int32_t cut = 1;
    for (int32_t kind = 0; salf_constant_word("SALF_POLICY", kind); kind++)
        for (int32_t bad = 0; bad < RANKS; bad++) {
            salf_trace traces[RANKS];
            give_traces(traces, SALF_REDUCE_MEDIAN);
            for (int r = 0; r < RANKS; r++) {
                members[r].kind = kind;
                members[r].options.interval = 1;
                members[r].options.total_steps = 9;
                members[r].options.script = script;
                members[r].options.n_script = 1;
                members[r].options.callback = ask;
                members[r].options.callback_user = &cut;
                members[r].n_steps = 2;
                members[r].seen[0] = (salf_observation){.step = 6,
                                                        .trace = &traces[r],
                                                        .gradient_l1 = norms,
                                                        .gradient_norm = norms,
                                                        .parameter_norm = norms};
                members[r].seen[1] = members[r].seen[0];
                members[r].seen[1].step = r == bad ? 5 : 7;
            }
            run();
            check_failure(bad, SALF_E_SEQUENCE, "step 5 after step 6");
        }
}
END_TEST

/* Draws depend on seed and step alone. */
START_TEST(draws_are_the_same_on_every_rank) {
    static const int32_t kinds[] = {SALF_POLICY_LISA, SALF_POLICY_BLOCK, SALF_POLICY_RANDOM};
    for (int i = 0; i < 3; i++)
        for (int64_t step = 0; step < 20; step++) {
            begin(kinds[i]);
            for (int r = 0; r < RANKS; r++) {
                members[r].options.interval = 1;
                members[r].seen[0].step = step;
            }
            run();
            check_cut(members[0].cut);
        }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, salf_takes_the_data_of_all_ranks);
    HARNESS_ADD(suite, salf_with_one_bad_rank_hangs_nobody);
    HARNESS_ADD(suite, callback_takes_the_shallowest_cut);
    HARNESS_ADD(suite, callback_scales_rates_by_the_rows_of_all_ranks);
    HARNESS_ADD(suite, budget_needs_planners_at_one_layer);
    HARNESS_ADD(suite, autofreeze_sums_over_ranks);
    HARNESS_ADD(suite, rgn_sums_over_ranks);
    HARNESS_ADD(suite, a_step_back_on_one_rank_hangs_nobody);
    HARNESS_ADD(suite, draws_are_the_same_on_every_rank);
}
