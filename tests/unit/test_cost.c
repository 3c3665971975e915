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
    BAD(rows, 0, "rows is 0");
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, equals_counting_loops);
    HARNESS_ADD(suite, deeper_never_costs_more);
    HARNESS_ADD(suite, bad_fields_are_named);
}
