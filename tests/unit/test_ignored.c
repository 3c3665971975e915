/*
 * test_ignored.c - rows without a right next token (SALF_LABEL_IGNORE): a probe, a loss, a policy and a signal give for
 * the others what they give without them; and data of several rows, which have the mean of these.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { V = 40, D = 10, M = 3, ROWS = 6, KEPT = 4, NONE = SALF_LABEL_IGNORE };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};
static const int32_t labels[ROWS] = {NONE, 4, 17, NONE, 39, 4};
static const int64_t kept[KEPT] = {1, 2, 4, 5};
static const int64_t order[ROWS] = {5, 3, 1, 0, 4, 2}; /* a row index of the caller's */

typedef struct {
    float w[V * D];
    float states[M + 1][ROWS * D];
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
} world;

static world *make_world(int32_t backend) {
    world *x = calloc(1, sizeof *x);
    uint64_t seed = 5;
    oracle_head(x->w, V, D, 4, 11);
    for (int k = 0; k <= M; k++)
        for (int i = 0; i < ROWS * D; i++) x->states[k][i] = (float)harness_normal(&seed);
    x->context = harness_context(backend, NULL);
    x->model = oracle_model(x->context, x->w, V, D, M);
    CHECK_OK(salf_basis_create(&x->basis, x->model, labels + 1, 2, NULL));
    return x;
}

static void drop_world(world *x) {
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    free(x);
}

/* Observes all spaces; rows (may be NULL): which of the states. */
static void observe(salf_probe *probe, const world *x, const int32_t *tokens, int64_t n, const int64_t *rows) {
    CHECK_OK(salf_probe_begin(probe, tokens, n));
    for (int32_t k = 0; k <= M; k++) {
        salf_tensor states = oracle_view(x->states[k], SALF_F32, n, D);
        states.row_index = rows;
        CHECK_OK(salf_probe_observe(probe, k, &states, SALF_STATE_RAW));
    }
}

static salf_probe *make_probe(const world *x, int32_t metric, int32_t rows_per_datum) {
    const salf_probe_options o = {.struct_size = sizeof o, .metric = metric, .rows_per_datum = rows_per_datum};
    salf_probe *probe;
    CHECK_OK(salf_probe_create(&probe, x->basis, &o));
    return probe;
}

/* Numbers of row r of one trace are, in all bits, those of row s of another. */
static void check_rows_equal(const salf_trace *one, int64_t r, const salf_trace *other, int64_t s) {
    ck_assert_mem_eq(one->deviations + r * (M + 1), other->deviations + s * (M + 1), (M + 1) * sizeof(double));
    ck_assert_mem_eq(one->gains + r * M, other->gains + s * M, M * sizeof(double));
    ck_assert_int_eq(one->eof[r], other->eof[s]);
}

static void check_left_out(const salf_trace *trace, int64_t r) {
    for (int k = 0; k <= M; k++) ck_assert(isnan(trace->deviations[r * (M + 1) + k]));
    for (int k = 0; k < M; k++) ck_assert(isnan(trace->gains[r * M + k]));
    ck_assert_int_eq(trace->eof[r], M);
}

START_TEST(a_probe_leaves_rows_out) {
    for (size_t b = 0; b < 2; b++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++)
            for (int indexed = 0; indexed < 2; indexed++) {
                world *x = make_world(backends[b]);
                salf_probe *probe = make_probe(x, metric, 0), *plain = make_probe(x, metric, 1);
                int32_t tokens[KEPT];
                int64_t rows[KEPT];
                salf_trace trace, wanted, partial;
                for (int i = 0; i < KEPT; i++) tokens[i] = labels[kept[i]];
                for (int i = 0; i < KEPT; i++) rows[i] = indexed ? order[kept[i]] : kept[i];
                observe(plain, x, tokens, KEPT, rows);
                CHECK_OK(salf_probe_end(plain, &wanted));
                observe(probe, x, labels, ROWS, indexed ? order : NULL);
                CHECK_OK(salf_probe_end(probe, &trace));
                ck_assert_int_eq(trace.rows, ROWS);
                ck_assert_int_eq(trace.n_nonfinite, 0);
                for (int i = 0; i < KEPT; i++) check_rows_equal(&trace, kept[i], &wanted, i);
                check_left_out(&trace, 0);
                check_left_out(&trace, 3);
                /* in parts, and then again without any */
                observe(probe, x, labels, ROWS, indexed ? order : NULL);
                CHECK_OK(salf_probe_partial(probe, &partial));
                ck_assert_int_eq(partial.rows, ROWS);
                for (int k = 0; k <= M; k++) ck_assert(isnan(partial.deviations[3 * (M + 1) + k]));
                ck_assert_mem_eq(partial.deviations + M + 1, wanted.deviations, 2 * (M + 1) * sizeof(double));
                observe(probe, x, tokens, KEPT, rows);
                CHECK_OK(salf_probe_end(probe, &trace));
                for (int i = 0; i < KEPT; i++) check_rows_equal(&trace, i, &wanted, i);
                /* all of them */
                const int32_t nothing[2] = {NONE, NONE};
                observe(probe, x, nothing, 2, NULL);
                CHECK_OK(salf_probe_end(probe, &trace));
                ck_assert_int_eq(trace.rows, 2);
                check_left_out(&trace, 1);
                salf_probe_destroy(plain);
                salf_probe_destroy(probe);
                drop_world(x);
            }
}
END_TEST

/* Messages have the caller's numbers, and other labels that are none stay errors. */
START_TEST(what_is_wrong_is_named_as_the_caller_counts) {
    world *x = make_world(SALF_BACKEND_CPU);
    salf_probe *probe = make_probe(x, SALF_METRIC_COSINE, 0);
    const int32_t wrong[2] = {NONE, -1};
    salf_trace trace;
    CHECK_FAILS(salf_probe_begin(probe, wrong, 2), SALF_E_LABEL, "label -1");
    x->states[2][4 * D] = NAN;
    observe(probe, x, labels, ROWS, NULL);
    CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_NONFINITE, "row 4 in space 2");
    CHECK_OK(salf_probe_begin(probe, labels, ROWS));
    const salf_tensor few = oracle_view(x->states[0], SALF_F32, KEPT, D);
    CHECK_FAILS(salf_probe_observe(probe, 0, &few, SALF_STATE_RAW), SALF_E_SHAPE, "4");
    salf_probe_destroy(probe);
    drop_world(x);
}
END_TEST

/* Six rows as data of 3 and 2 rows: the mean of those with a label, none of them in the last. */
START_TEST(data_of_several_rows_have_their_mean) {
    for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
        world *x = make_world(SALF_BACKEND_CPU);
        for (int32_t per = 2; per <= 3; per++) {
            static const int32_t last_empty[ROWS] = {4, NONE, 17, 39, NONE, NONE};
            const int32_t *tokens = per == 3 ? labels : last_empty;
            salf_probe *probe = make_probe(x, metric, per), *single = make_probe(x, metric, 0);
            salf_trace data, rows;
            observe(single, x, tokens, ROWS, NULL);
            CHECK_OK(salf_probe_end(single, &rows));
            observe(probe, x, tokens, ROWS, NULL);
            CHECK_OK(salf_probe_end(probe, &data));
            ck_assert_int_eq(data.rows, ROWS / per);
            for (int d = 0; d < ROWS / per; d++) {
                double mean[M + 1] = {0}, best = -HUGE_VAL;
                int n = 0, eof = 0;
                for (int r = d * per; r < (d + 1) * per; r++) {
                    if (tokens[r] == NONE) continue;
                    n++;
                    for (int k = 0; k <= M; k++) mean[k] += rows.deviations[r * (M + 1) + k];
                }
                if (n == 0) {
                    check_left_out(&data, d);
                    continue;
                }
                for (int k = 0; k <= M; k++)
                    ck_assert(fabs(data.deviations[d * (M + 1) + k] - mean[k] / n) <= 1e-12 * (1 + fabs(mean[k])));
                for (int k = 0; k < M; k++)
                    if (mean[k] - mean[k + 1] > best + 1e-12) best = mean[k] - mean[k + 1], eof = k;
                ck_assert_int_eq(data.eof[d], eof);
            }
            CHECK_FAILS(salf_probe_begin(probe, tokens, 5), SALF_E_SHAPE, "5 rows; rows_per_datum is ");
            salf_probe_destroy(single);
            salf_probe_destroy(probe);
        }
        drop_world(x);
    }
    world *x = make_world(SALF_BACKEND_CPU);
    const salf_probe_options o = {.struct_size = sizeof o, .rows_per_datum = -1};
    salf_probe *probe;
    salf_trace trace;
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &o), SALF_E_ARGUMENT, "rows_per_datum is -1");
    /* one bad row makes its datum train fully, or is an error that names the datum */
    x->states[1][5 * D] = INFINITY;
    probe = make_probe(x, SALF_METRIC_COSINE, 2);
    observe(probe, x, labels, ROWS, NULL);
    CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_NONFINITE, "row 2 in space 1");
    salf_probe_destroy(probe);
    const salf_probe_options full = {
        .struct_size = sizeof full, .rows_per_datum = 2, .nonfinite = SALF_NONFINITE_TRAIN_FULLY};
    CHECK_OK(salf_probe_create(&probe, x->basis, &full));
    observe(probe, x, labels, ROWS, NULL);
    CHECK_OK(salf_probe_end(probe, &trace));
    ck_assert_int_eq(trace.n_nonfinite, 1);
    ck_assert_int_eq(trace.eof[2], 0);
    salf_probe_destroy(probe);
    drop_world(x);
}
END_TEST

/* ---- who reads traces ---- */

static const double nan_gains[3] = {NAN, NAN, NAN};

/* Rows 1 and 3 of four are left out; the others have eof 2 and 1. */
static void fill_trace(salf_trace *trace, double gains[4 * M], int32_t eof[4]) {
    static const double both[2][M] = {{0, 1, 5}, {0, 6, 1}};
    for (int r = 0; r < 4; r++) memcpy(gains + r * M, r % 2 ? nan_gains : both[r / 2], sizeof both[0]);
    const int32_t own[4] = {2, M, 1, M};
    memcpy(eof, own, sizeof own);
    *trace = (salf_trace){.rows = 4, .n_layers = M, .gains = gains, .eof = eof};
}

START_TEST(policies_leave_rows_out) {
    static const int32_t cuts[5] = {1, 1, 1, 1, 1};
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (int32_t reduction = 0; reduction < 5; reduction++) {
        double gains[4 * M];
        int32_t eof[4];
        salf_trace trace;
        salf_policy *policy;
        salf_decision d = {.struct_size = sizeof d};
        const salf_policy_options o = {.struct_size = sizeof o, .reduction = reduction};
        salf_observation seen = {.struct_size = sizeof seen, .trace = &trace};
        fill_trace(&trace, gains, eof);
        CHECK_OK(salf_policy_create(&policy, context, SALF_POLICY_SALF, M, &o));
        CHECK_OK(salf_policy_decide(policy, &seen, &d));
        ck_assert_int_eq(d.cut, cuts[reduction]);
        ck_assert_int_eq(d.rows, 4);
        ck_assert_int_eq(d.eof[1], M);
        ck_assert_int_eq(d.eof[3], M);
        ck_assert_int_eq(d.eof[0], reduction == SALF_REDUCE_PREFIX ? 2 : 1);
        ck_assert_int_eq(d.active_rows[M - 1], 2); /* of the four */
        ck_assert_int_eq(d.active_rows[0], 0);
        ck_assert_int_eq(d.order[2], 1);
        ck_assert_int_eq(d.order[3], 3);
        ck_assert(d.rate_scale[M - 1] == 1);
        ck_assert(d.rate_scale[1] == (reduction == SALF_REDUCE_PREFIX ? 0.5 : 1));
        /* nobody with a label */
        for (int r = 0; r < 4; r++) eof[r] = M;
        for (int i = 0; i < 4 * M; i++) gains[i] = NAN;
        seen.step = 1;
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_ARGUMENT, "0 rows with a label");
        eof[2] = M + 1;
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_ARGUMENT, "eof of row 2 is 4");
        salf_policy_destroy(policy);
    }
    salf_context_destroy(context);
}
END_TEST

static int32_t deepest(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)user, (void)step;
    return trace ? 0 : n_layers - 1;
}

START_TEST(callbacks_streams_and_signals) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    double gains[4 * M];
    int32_t eof[4];
    const int32_t groups[4] = {7, 7, 8, 8}, cuts[4] = {2, M, 2, M};
    salf_trace trace;
    fill_trace(&trace, gains, eof);
    /* CALLBACK with PREFIX: each row at its own eof */
    salf_policy *policy;
    salf_decision d = {.struct_size = sizeof d};
    const salf_policy_options o = {.struct_size = sizeof o, .callback = deepest, .reduction = SALF_REDUCE_PREFIX};
    const salf_observation seen = {.struct_size = sizeof seen, .trace = &trace};
    CHECK_OK(salf_policy_create(&policy, context, SALF_POLICY_CALLBACK, M, &o));
    CHECK_OK(salf_policy_decide(policy, &seen, &d));
    ck_assert_int_eq(d.eof[0], 2);
    ck_assert_int_eq(d.eof[1], M);
    ck_assert(d.rate_scale[1] == 0.5 && d.rate_scale[2] == 1);
    salf_policy_destroy(policy);
    /* a stream trains every datum, and so needs an eof of each */
    salf_planner *planner;
    salf_task task;
    const salf_planner_options stream = {
        .struct_size = sizeof stream, .matching = SALF_MATCH_STREAM, .assignment = SALF_ASSIGN_EOF};
    CHECK_OK(salf_planner_create(&planner, context, M, 8, &stream));
    CHECK_OK(salf_planner_next(planner, 4, &task));
    CHECK_FAILS(salf_planner_assign(planner, &trace, groups, &task), SALF_E_ARGUMENT, "eof of row 1 is 3");
    salf_planner_destroy(planner);
    /* a signal counts the others */
    salf_signal *signal;
    salf_signal_info info = {.struct_size = sizeof info};
    const salf_signal_options s = {.struct_size = sizeof s, .n_layers = M};
    CHECK_OK(salf_signal_create(&signal, context, &s));
    CHECK_OK(salf_signal_add(signal, &trace, groups, NULL, cuts));
    CHECK_OK(salf_signal_get(signal, &info));
    ck_assert_int_eq(info.rows, 2);
    ck_assert_int_eq(info.grouped_rows, 2);
    ck_assert_int_eq(info.trained, 2);
    salf_signal_destroy(signal);
    salf_context_destroy(context);
}
END_TEST

/* ---- losses ---- */

static salf_status compute(harness_memory *memory, int32_t backend, void *user) {
    const int32_t *tokens = user;
    float losses[ROWS], gradient[ROWS * D];
    world *x = calloc(1, sizeof *x);
    uint64_t seed = 5;
    oracle_head(x->w, V, D, 4, 11);
    for (int i = 0; i < ROWS * D; i++) x->states[0][i] = (float)harness_normal(&seed);
    const salf_tensor states = oracle_view(x->states[0], SALF_F32, ROWS, D);
    const salf_tensor out = oracle_view(losses, SALF_F32, ROWS, 1), grad = oracle_view(gradient, SALF_F32, ROWS, D);
    const salf_model_options o = {
        .struct_size = sizeof o, .n_layers = 1, .hidden = D, .vocab = V, .head = oracle_view(x->w, SALF_F32, V, D)};
    salf_loss *loss = NULL;
    salf_status status = harness_context_or_status(&x->context, backend, memory);
    if (status == SALF_OK) status = salf_model_create(&x->model, x->context, &o);
    if (status == SALF_OK) status = salf_basis_create(&x->basis, x->model, labels + 1, 2, NULL);
    if (status == SALF_OK) status = salf_loss_create(&loss, x->basis, NULL);
    if (status == SALF_OK) status = salf_loss_compute(loss, tokens, &states, 1, &out, &grad);
    salf_loss_destroy(loss);
    drop_world(x);
    return status;
}

START_TEST(a_loss_of_rows_without_a_label_is_zero) {
    for (size_t b = 0; b < 2; b++)
        for (int32_t kind = SALF_LOSS_COSINE; kind <= SALF_LOSS_CE; kind++) {
            world *x = make_world(backends[b]);
            const salf_loss_options o = {.struct_size = sizeof o, .kind = kind};
            salf_loss *loss;
            float losses[ROWS], wanted[KEPT], gradient[ROWS * D], wanted_gradient[KEPT * D];
            int32_t tokens[KEPT], all[ROWS];
            CHECK_OK(salf_loss_create(&loss, x->basis, &o));
            memset(losses, 1, sizeof losses);
            memset(gradient, 1, sizeof gradient);
            for (int i = 0; i < KEPT; i++) tokens[i] = labels[kept[i]];
            salf_tensor some = oracle_view(x->states[1], SALF_F32, KEPT, D);
            some.row_index = kept;
            const salf_tensor states = oracle_view(x->states[1], SALF_F32, ROWS, D);
            const salf_tensor out = oracle_view(losses, SALF_F32, ROWS, 1),
                              few = oracle_view(wanted, SALF_F32, KEPT, 1);
            const salf_tensor grad = oracle_view(gradient, SALF_F32, ROWS, D);
            const salf_tensor few_grad = oracle_view(wanted_gradient, SALF_F32, KEPT, D);
            CHECK_OK(salf_loss_compute(loss, tokens, &some, 0.5, &few, &few_grad));
            CHECK_OK(salf_loss_compute(loss, labels, &states, 0.5, &out, &grad));
            const float zeros[D] = {0};
            for (int r = 0, i = 0; r < ROWS; r++) {
                const bool left = labels[r] == NONE;
                ck_assert(losses[r] == (left ? 0 : wanted[i]));
                ck_assert_mem_eq(gradient + r * D, left ? zeros : wanted_gradient + i * D, sizeof zeros);
                i += !left;
            }
            CHECK_OK(salf_loss_compute(loss, labels, &states, 0.5, &out, NULL));
            /* none at all; and errors, which write nothing */
            for (int r = 0; r < ROWS; r++) all[r] = NONE;
            CHECK_OK(salf_loss_compute(loss, all, &states, 0.5, &out, &grad));
            for (int r = 0; r < ROWS; r++) ck_assert(losses[r] == 0 && gradient[r * D + 1] == 0);
            memset(losses, 1, sizeof losses);
            x->states[1][4 * D] = NAN;
            const float before = losses[0];
            CHECK_FAILS(salf_loss_compute(loss, labels, &states, 0.5, &out, &grad), SALF_E_NONFINITE, "row 4");
            for (int j = 0; j < D; j++) x->states[1][4 * D + j] = 0;
            CHECK_FAILS(salf_loss_compute(loss, labels, &states, 0.5, &out, &grad), SALF_E_NUMERIC, "row 4 is zero");
            all[1] = -99;
            CHECK_FAILS(salf_loss_compute(loss, all, &states, 0.5, &out, &grad), SALF_E_LABEL, "-99");
            ck_assert(losses[0] == before && losses[5] == before && gradient[0] == 0);
            salf_loss_destroy(loss);
            drop_world(x);
        }
    harness_fail_each_allocation(compute, SALF_BACKEND_CPU, (void *)(uintptr_t)labels);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, a_probe_leaves_rows_out);
    HARNESS_ADD(suite, what_is_wrong_is_named_as_the_caller_counts);
    HARNESS_ADD(suite, data_of_several_rows_have_their_mean);
    HARNESS_ADD(suite, policies_leave_rows_out);
    HARNESS_ADD(suite, callbacks_streams_and_signals);
    HARNESS_ADD(suite, a_loss_of_rows_without_a_label_is_zero);
}
