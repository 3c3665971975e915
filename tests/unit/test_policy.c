/* test_policy.c - every kind: invariants of a decision, save and load at every step, known sequences, bad input.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define M        6
#define INTERVAL 3 /* steps of a turn */

static int32_t host_cut(void *user, int64_t step, int32_t m, const salf_trace *trace) {
    (void)user;
    (void)trace;
    return (int32_t)(step * 5 % m);
}

static const int32_t script[4] = {0, 3, 1, 5};

static salf_policy *make(salf_context *context, int32_t kind, salf_planner *planner, int32_t reduction) {
    salf_policy_options o;
    salf_options_init(&o, sizeof o);
    o.reduction = reduction;
    o.first_layer = 2;
    o.total_steps = 40;
    o.interval = INTERVAL;
    o.seed = 11;
    o.train_embedding = 1;
    o.script = script;
    o.n_script = 4;
    o.callback = host_cut;
    o.planner = planner;
    salf_policy *policy = NULL;
    CHECK_OK(salf_policy_create(&policy, context, kind, M, &o));
    return policy;
}

typedef struct inputs {
    salf_observation seen;
    salf_trace trace;
    int32_t eof[5];
    double gains[5 * M];
    double norms[2][M];
} inputs;

static void look(inputs *in, int64_t step, uint64_t salt) {
    uint64_t random = (uint64_t)step * 77 + salt;
    for (int r = 0; r < 5; r++) {
        in->eof[r] = 0;
        for (int k = 0; k < M; k++) {
            in->gains[r * M + k] = harness_uniform(&random);
            if (in->gains[r * M + k] > in->gains[r * M + in->eof[r]]) in->eof[r] = k;
        }
    }
    for (int k = 0; k < M; k++)
        in->norms[0][k] = harness_uniform(&random), in->norms[1][k] = 1 + harness_uniform(&random);
    in->trace = (salf_trace){.rows = 5, .n_layers = M, .gains = in->gains, .eof = in->eof};
    in->seen = (salf_observation){.struct_size = sizeof in->seen,
                                  .step = step,
                                  .trace = &in->trace,
                                  .gradient_l1 = in->norms[0],
                                  .gradient_norm = in->norms[0],
                                  .parameter_norm = in->norms[1]};
}

/* Norms of a turn come with a turn's last step, of INTERVAL steps. */
static salf_decision decide(salf_policy *policy, int64_t step, uint64_t salt) {
    inputs in;
    look(&in, step, salt);
    if (step % INTERVAL != 0) in.seen.gradient_l1 = NULL;
    salf_decision d;
    salf_options_init(&d, sizeof d);
    CHECK_OK(salf_policy_decide(policy, &in.seen, &d));
    return d;
}

static void check_shape(const salf_decision *d, uint8_t *before) {
    uint8_t now[M];
    memcpy(now, before, M);
    for (int i = 0; i < d->n_added; i++) ck_assert(!now[d->added[i]]++);
    for (int i = 0; i < d->n_removed; i++) ck_assert(now[d->removed[i]]--);
    ck_assert_mem_eq(now, d->trainable, M);
    memcpy(before, now, M);
    for (int k = 0; k < d->cut; k++) ck_assert(!d->trainable[k]);
    for (int k = 0; k < M; k++) ck_assert(d->trainable[k] || d->rate_scale[k] == 0);
    if (!d->eof) return;
    for (int64_t i = 1; i < d->rows; i++) ck_assert_int_le(d->eof[d->order[i - 1]], d->eof[d->order[i]]);
    for (int k = 0; k < M; k++) {
        int64_t count = 0;
        for (int64_t r = 0; r < d->rows; r++) count += d->eof[r] <= k;
        ck_assert_int_eq(d->active_rows[k], count);
    }
}

static void check_same(const salf_decision *a, const salf_decision *b) {
    ck_assert_int_eq(a->cut, b->cut);
    ck_assert_int_eq(a->graph_changed, b->graph_changed);
    ck_assert_int_eq(a->n_added, b->n_added);
    ck_assert_int_eq(a->n_removed, b->n_removed);
    ck_assert_int_eq(a->n_reset, b->n_reset);
    ck_assert_mem_eq(a->trainable, b->trainable, M);
    ck_assert_mem_eq(a->rate_scale, b->rate_scale, M * sizeof(double));
}

START_TEST(all_kinds_hold_together_and_resume) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_planner *planner = NULL;
    salf_task task;
    CHECK_OK(salf_planner_create(&planner, context, M, 50, NULL));
    CHECK_OK(salf_planner_next(planner, 4, &task));
    for (int32_t kind = 0; salf_constant_word("SALF_POLICY", kind); kind++) {
        salf_policy *one = make(context, kind, planner, SALF_REDUCE_PREFIX);
        salf_policy *two = make(context, kind, planner, SALF_REDUCE_PREFIX);
        uint8_t before[M] = {0};
        for (int64_t step = 0; step < 45; step++) {
            const salf_decision a = decide(one, step, 1), b = decide(two, step, 1);
            check_shape(&a, before);
            check_same(&a, &b);
            uint8_t bytes[2048];
            uint64_t size = sizeof bytes;
            CHECK_OK(salf_policy_save(two, bytes, &size));
            salf_policy_destroy(two);
            two = make(context, kind, planner, SALF_REDUCE_PREFIX);
            ck_assert_int_ne(salf_policy_load(two, bytes, size - 1), SALF_OK);
            CHECK_OK(salf_policy_load(two, bytes, size));
        }
        inputs in;
        look(&in, 44, 1);
        salf_decision d = {.struct_size = sizeof d};
        CHECK_FAILS(salf_policy_decide(one, &in.seen, &d), SALF_E_SEQUENCE, "step 44 after step 44");
        salf_policy_destroy(one);
        salf_policy_destroy(two);
    }
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

START_TEST(known_cuts) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    static const struct {
        int32_t kind;
        int32_t cut[8]; /* steps 0, 3, 6 ... */
    } table[] = {{SALF_POLICY_SUFFIX, {2, 2, 2, 2, 2, 2, 2, 2}},   {SALF_POLICY_HALF, {3, 3, 3, 3, 3, 3, 3, 3}},
                 {SALF_POLICY_LIFT, {0, 1, 2, 3, 4, 5, 0, 1}},     {SALF_POLICY_LIFT_STAR, {0, 1, 2, 3, 4, 5, 0, 1}},
                 {SALF_POLICY_SCRIPTED, {0, 5, 5, 5, 5, 5, 5, 5}}, {SALF_POLICY_LINEAR, {0, 0, 0, 0, 0, 1, 1, 1}}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        salf_policy *policy = make(context, table[i].kind, NULL, 0);
        for (int64_t t = 0; t < 8; t++) {
            const salf_decision d = decide(policy, 3 * t, 1);
            ck_assert_msg(d.cut == table[i].cut[t], "kind %d step %d: cut %d", table[i].kind, (int)(3 * t), d.cut);
        }
        salf_policy_destroy(policy);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(bad_options_are_named) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_policy *policy = NULL;
    salf_policy_options o;
    CHECK_FAILS(salf_policy_create(&policy, context, -1, 4, NULL), SALF_E_ARGUMENT, "kind is -1");
    CHECK_FAILS(salf_policy_create(&policy, context, 9999, 4, NULL), SALF_E_ARGUMENT, "kind is 9999, which is none of");
    CHECK_FAILS(salf_policy_create(&policy, context, 0, 0, NULL), SALF_E_ARGUMENT, "n_layers is 0");
    CHECK_FAILS(salf_policy_create(&policy, context, SALF_POLICY_LIFT, 4, NULL), SALF_E_ARGUMENT, "total_steps is 0");
    static const int32_t by_total[] = {SALF_POLICY_FREEZEOUT, SALF_POLICY_LINEAR};
    for (int i = 0; i < 2; i++) {
        o = (salf_policy_options){.struct_size = sizeof o};
        CHECK_FAILS(salf_policy_create(&policy, context, by_total[i], 4, &o), SALF_E_ARGUMENT, "total_steps is 0");
        o.total_steps = 1;
        CHECK_OK(salf_policy_create(&policy, context, by_total[i], 4, &o));
        salf_policy_destroy(policy);
    }
    /* the first layer's rate, 1 / t0 or its cube, would be infinite */
    o = (salf_policy_options){.struct_size = sizeof o, .total_steps = 9, .scale_rate = 1, .start = 1e-310};
    CHECK_FAILS(salf_policy_create(&policy, context, SALF_POLICY_FREEZEOUT, 4, &o), SALF_E_ARGUMENT, "start is 1e-310");
    CHECK_FAILS(salf_policy_create(&policy, context, SALF_POLICY_BUDGET, 4, NULL), SALF_E_NULL, "planner");
    CHECK_FAILS(salf_policy_create(&policy, context, SALF_POLICY_CALLBACK, 4, NULL), SALF_E_NULL, "callback");
#define BAD(field, value, words)     \
    salf_options_init(&o, sizeof o); \
    o.field = value;                 \
    CHECK_FAILS(salf_policy_create(&policy, context, 0, 4, &o), SALF_E_ARGUMENT, words)
    BAD(reduction, 5, "reduction is 5");
    BAD(first_layer, 4, "first_layer is 4");
    BAD(order, 4, "order is 4, which is none of SALF_ORDER_... (DEFAULT, FORWARD");
    BAD(interval, -1, "interval is -1");
    BAD(total_steps, -1, "total_steps is -1");
    BAD(n_active, 5, "n_active is 5");
    BAD(cubic, 2, "cubic is 2");
    BAD(start, 1.5, "start is 1.5, not in 0 ... 1");
    BAD(start, NAN, "start is nan");
    BAD(level, -1, "level is -1");
    BAD(percentile, 101, "percentile is 101");
    BAD(reserved, 1, "reserved is 1");
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, all_kinds_hold_together_and_resume);
    HARNESS_ADD(suite, known_cuts);
    HARNESS_ADD(suite, bad_options_are_named);
}
