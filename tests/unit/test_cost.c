/* test_cost.c - the cost model against counting loops, its bounds, bad input. */
#include <math.h>

#include "harness.h"

static salf_cost_options small(void) {
    salf_cost_options o;
    salf_options_init(&o, sizeof o);
    o.n_layers = 4, o.hidden = 6, o.ffn_hidden = 10, o.vocab = 17, o.n_heads = 3, o.n_kv_heads = 1;
    o.gated_ffn = 1, o.rows = 2, o.row_tokens = 5;
    return o;
}

static double product(int a, int b, int c) {
    double flops = 0;
    for (int i = 0; i < a; i++)
        for (int j = 0; j < b; j++)
            for (int k = 0; k < c; k++) flops += 2;
    return flops;
}

START_TEST(equals_counting_loops) {
    salf_cost_options o = small();
    o.cut = 1;
    salf_cost cost = {.struct_size = sizeof cost};
    CHECK_OK(salf_cost_estimate(&o, &cost));
    const double dense = product(5, 6, 6) * 2 + product(5, 6, 2) * 2 + product(5, 6, 10) * 2 + product(5, 10, 6);
    double scores = 0;
    for (int head = 0; head < 3; head++)
        for (int i = 0; i < 5; i++)
            for (int j = 0; j <= i; j++) scores += 2 * 2 + 2 * 2; /* a dot product and a weighted sum of head_dim 2 */
    ck_assert_double_eq(cost.forward, 2 * 4 * (dense + scores));
    ck_assert_double_eq(cost.activation_gradient, 2 * 3 * (dense + 2 * scores));
    ck_assert_double_eq(cost.weight_gradient, 2 * 3 * dense);
    ck_assert_double_eq(cost.head, 2 * product(2, 6, 17));
    ck_assert_double_eq(cost.depth_saving, 0.25);
}
END_TEST

START_TEST(deeper_never_costs_more) {
    salf_cost_options o = small();
    for (int lora = 0; lora < 2; lora++) {
        double last = HUGE_VAL;
        o.lora_rank = lora * 4;
        for (o.cut = 0; o.cut <= 4; o.cut++) {
            salf_cost cost = {.struct_size = sizeof cost};
            CHECK_OK(salf_cost_estimate(&o, &cost));
            ck_assert(cost.total <= last && cost.total <= cost.full_total);
            if (o.cut == 0) ck_assert_double_eq(cost.total, cost.full_total);
            last = cost.total;
        }
    }
    o.cut = 0;
    const int32_t eof[2] = {1, 3};
    const uint8_t one[4] = {0, 1, 0, 0};
    salf_cost a = {.struct_size = sizeof a}, b = a;
    o.eof = eof;
    CHECK_OK(salf_cost_estimate(&o, &a));
    ck_assert_double_eq(a.depth_saving, 0.5);
    o.trainable = one;
    CHECK_OK(salf_cost_estimate(&o, &b));
    ck_assert_double_eq(a.activation_gradient, b.activation_gradient);
    ck_assert_double_eq(a.weight_gradient, 4 * b.weight_gradient);
}
END_TEST

/* What a plan saves follows from its counts: a stream's batches cost what their rows cost one by one, so that a batch
 * with cuts in the plan's proportions stands for the run. */
START_TEST(a_plan_is_priced_from_its_counts) {
    enum { N = 40 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_planner_options p = {.struct_size = sizeof p,
                                    .growth = SALF_GROWTH_ARITHMETIC,
                                    .infill = SALF_INFILL_DEPTH,
                                    .matching = SALF_MATCH_STREAM,
                                    .stream_order = SALF_STREAM_MIXED};
    salf_planner *planner = NULL;
    CHECK_OK(salf_planner_create(&planner, context, 4, N, &p));
    salf_cost_options o = small();
    o.lora_rank = 4;
    int64_t counts[4];
    int32_t eof[N];
    double by_counts = 0, by_batches = 0, saving;
    salf_cost cost = {.struct_size = sizeof cost};
    CHECK_OK(salf_planner_counts(planner, counts));
    for (int32_t e = 0, i = 0; e < 4; e++)
        for (int64_t k = 0; k < counts[e]; k++) eof[i++] = e;
    o.eof = eof;
    o.rows = N;
    CHECK_OK(salf_cost_estimate(&o, &cost));
    by_counts = cost.total;
    CHECK_OK(salf_planner_saving(planner, &saving));
    ck_assert_double_eq_tol(cost.depth_saving, saving, 1e-12);
    for (salf_task task;;) {
        CHECK_OK(salf_planner_next(planner, 7, &task));
        if (task.kind == SALF_TASK_DONE) break;
        o.eof = task.eof;
        o.rows = task.n_data;
        CHECK_OK(salf_cost_estimate(&o, &cost));
        by_batches += cost.total;
        CHECK_OK(salf_planner_done(planner));
    }
    ck_assert_double_eq_tol(by_batches, by_counts, 1e-9 * by_counts);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

START_TEST(bad_fields_are_named) {
    salf_cost cost = {.struct_size = sizeof cost};
#define BAD(field, value, words)                                            \
    do {                                                                    \
        salf_cost_options o = small();                                      \
        o.field = value;                                                    \
        CHECK_FAILS(salf_cost_estimate(&o, &cost), SALF_E_ARGUMENT, words); \
    } while (0)
    BAD(n_layers, 0, "n_layers is 0");
    BAD(hidden, 7, "hidden is 7");
    BAD(n_kv_heads, 2, "n_kv_heads is 2");
    BAD(cut, 5, "cut is 5");
    BAD(lora_rank, -1, "lora_rank is -1");
    BAD(matrices, 128, "matrices is 128");
    BAD(head_positions, 11, "head_positions is 11");
    BAD(metric, 99, "metric is 99");
    BAD(matrices = SALF_MATRIX_GATE; o.gated_ffn, 0, "matrices is gate alone");
    BAD(train_embedding = 1; o.cut, 1, "the embedding trains, but cut is 1");
    BAD(rows, 0, "rows is 0");
    salf_cost_options all = small();
    all.head_positions = all.rows * all.row_tokens;
    CHECK_OK(salf_cost_estimate(&all, &cost));
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, equals_counting_loops);
    HARNESS_ADD(suite, deeper_never_costs_more);
    HARNESS_ADD(suite, a_plan_is_priced_from_its_counts);
    HARNESS_ADD(suite, bad_fields_are_named);
}
