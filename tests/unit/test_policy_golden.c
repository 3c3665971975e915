/* test_policy_golden.c - decisions of each policy against numbers worked out by hand, and its draws against chi-square.
 */
#include <math.h>
#include <string.h>

#include "harness.h"

static salf_context *context;

static void open_context(void) {
    context = harness_context(SALF_BACKEND_REFERENCE, NULL);
}

static void close_context(void) {
    salf_context_destroy(context);
}

static salf_policy *make(int32_t kind, int32_t m, const salf_policy_options *o) {
    salf_policy *policy = NULL;
    CHECK_OK(salf_policy_create(&policy, context, kind, m, o));
    return policy;
}

static salf_policy_options options(void) {
    salf_policy_options o;
    salf_options_init(&o, sizeof o);
    return o;
}

static salf_decision decide(salf_policy *policy, salf_observation seen) {
    seen.struct_size = sizeof seen;
    salf_decision d = {.struct_size = sizeof d};
    CHECK_OK(salf_policy_decide(policy, &seen, &d));
    return d;
}

static salf_decision at(salf_policy *policy, int64_t step) {
    return decide(policy, (salf_observation){.step = step});
}

static int32_t count_trainable(const salf_decision *d) {
    int32_t count = 0;
    for (int32_t k = 0; k < d->n_layers; k++) count += d->trainable[k];
    return count;
}

static void check_rates(const salf_decision *d, const double *want) {
    for (int32_t k = 0; k < d->n_layers; k++) {
        ck_assert_msg(fabs(d->rate_scale[k] - want[k]) < 1e-12, "step %d layer %d: %.15f, not %.15f", (int)d->step, k,
                      d->rate_scale[k], want[k]);
        ck_assert_int_eq(d->trainable[k], want[k] > 0);
    }
}

/* ---- LISA ---- */

START_TEST(lisa_draws_pairs_uniformly) {
    salf_policy_options o = options();
    o.interval = 3;
    o.n_active = 2;
    o.seed = 5;
    salf_policy *policy = make(SALF_POLICY_LISA, 6, &o);
    double pairs[36] = {0}, repeats = 0;
    uint8_t last[6] = {0};
    for (int64_t step = 0; step < 9000; step++) {
        const salf_decision d = at(policy, step);
        ck_assert_int_eq(count_trainable(&d), 2);
        ck_assert_int_eq(d.train_embedding + d.train_head, 0);
        if (step % 3 != 0) {
            ck_assert_mem_eq(last, d.trainable, 6);
            ck_assert_int_eq(d.graph_changed, 0);
        } else {
            int32_t deep = 5;
            while (!d.trainable[deep]) deep--;
            pairs[d.cut * 6 + deep]++;
            repeats += memcmp(last, d.trainable, 6) == 0;
        }
        memcpy(last, d.trainable, 6);
    }
    double chi = 0;
    for (int32_t a = 0; a < 6; a++)
        for (int32_t b = a + 1; b < 6; b++) chi += (pairs[a * 6 + b] - 200) * (pairs[a * 6 + b] - 200) / 200;
    ck_assert_msg(chi < 42, "chi-square of 14 degrees of freedom: %g", chi);
    ck_assert_msg(repeats > 130 && repeats < 270, "%g intervals in a row with one draw, of 3000 / 15", repeats);
    salf_policy_destroy(policy);
}
END_TEST

START_TEST(lisa_always_on_reaches_the_bottom) {
    salf_policy_options o = options();
    o.interval = 1;
    o.n_active = 1;
    o.always_on = 1;
    salf_policy *policy = make(SALF_POLICY_LISA, 4, &o);
    for (int64_t step = 0; step < 20; step++) {
        const salf_decision d = at(policy, step);
        ck_assert_int_eq(d.cut, 0);
        ck_assert_int_eq(d.train_embedding + d.train_head, 2);
        ck_assert_int_eq(count_trainable(&d), 1);
    }
    salf_policy_destroy(policy);
    policy = make(SALF_POLICY_LISA, 1, &(salf_policy_options){.struct_size = sizeof o, .interval = 1});
    const salf_decision d = at(policy, 0); /* two layers by default, but there is one */
    ck_assert_int_eq(count_trainable(&d), 1);
    salf_policy_destroy(policy);
}
END_TEST

/* ---- BLOCK, LIFT ---- */

START_TEST(block_permutes_each_round_and_resets) {
    for (int32_t keep = 0; keep < 2; keep++) {
        salf_policy_options o = options();
        o.interval = 2;
        o.seed = 9;
        o.keep_moments = keep;
        salf_policy *policy = make(SALF_POLICY_BLOCK, 5, &o);
        double first[5] = {0}, chi = 0;
        int32_t changed = 0, before[5] = {0};
        for (int64_t round = 0; round < 1000; round++) {
            int32_t seen[5] = {0}, order[5];
            for (int64_t turn = 0; turn < 5; turn++) {
                const int64_t step = (round * 5 + turn) * 2;
                const salf_decision d = at(policy, step);
                order[turn] = d.cut;
                ck_assert_int_eq(count_trainable(&d), 1);
                ck_assert_int_eq(seen[d.cut]++, 0);
                ck_assert_int_eq(d.n_reset, !keep);
                if (!keep) ck_assert_int_eq(d.reset[0], d.cut);
                const salf_decision next = at(policy, step + 1);
                ck_assert_int_eq(next.cut, order[turn]);
                ck_assert_int_eq(next.n_reset, 0);
            }
            first[order[0]]++;
            changed += memcmp(order, before, sizeof order) != 0;
            memcpy(before, order, sizeof order);
        }
        for (int32_t k = 0; k < 5; k++) chi += (first[k] - 200) * (first[k] - 200) / 200;
        ck_assert_msg(chi < 24, "chi-square of 4 degrees of freedom: %g", chi);
        ck_assert_msg(changed > 970, "only %d of 1000 rounds differ from the last", changed);
        salf_policy_destroy(policy);
    }
}
END_TEST

/* Turn floor(4 s / 17): turns begin at 0, 5, 9, 13, and again at 17. */
START_TEST(lift_takes_turns) {
    static const int32_t want[2][9] = {{0, 0, 1, 1, 2, 2, 3, 3, 0}, {3, 3, 2, 2, 1, 1, 0, 0, 3}};
    static const int64_t steps[9] = {0, 4, 5, 8, 9, 12, 13, 16, 17};
    for (int32_t backward = 0; backward < 2; backward++)
        for (int32_t star = 0; star < 2; star++) {
            salf_policy_options o = options();
            o.total_steps = 17;
            o.order = backward ? SALF_ORDER_BACKWARD : SALF_ORDER_DEFAULT;
            salf_policy *policy = make(star ? SALF_POLICY_LIFT_STAR : SALF_POLICY_LIFT, 4, &o);
            for (int i = 0; i < 9; i++) {
                const salf_decision d = at(policy, steps[i]);
                ck_assert_int_eq(d.cut, want[backward][i]);
                ck_assert_int_eq(count_trainable(&d), star ? 4 - d.cut : 1);
                ck_assert_int_eq(d.n_reset, 0);
            }
            salf_policy_destroy(policy);
        }
}
END_TEST

/* Without an interval a run of S steps has m turns, step s in turn floor(s m / S), and goes on beyond S; fewer steps
 * than layers leave layers out, evenly. */
START_TEST(turns_share_a_run_exactly) {
    for (int32_t m = 1; m < 9; m++)
        for (int64_t total = 1; total < 40; total++) {
            const salf_policy_options o = {.struct_size = sizeof o, .total_steps = total};
            salf_policy *policy = make(SALF_POLICY_LIFT, m, &o);
            for (int64_t step = 0; step < 3 * total; step++) {
                const int32_t want = (int32_t)(step * m / total % m), cut = at(policy, step).cut;
                if (cut != want)
                    ck_abort_msg("m %d, %d steps, step %d: layer %d", (int)m, (int)total, (int)step, (int)cut);
            }
            salf_policy_destroy(policy);
        }
    static const struct {
        int32_t m;
        int64_t total, step;
        int32_t cut;
    } far[] = {{7, INT64_MAX, 0, 0},
               {7, INT64_MAX, INT64_MAX / 7, 1}, /* 2^63 - 1 is a multiple of 7 */
               {7, INT64_MAX, INT64_MAX / 2, 3},
               {7, INT64_MAX, INT64_MAX / 7 * 6, 6},
               {7, INT64_MAX, INT64_MAX - 1, 6},
               {7, INT64_MAX, INT64_MAX, 0},
               {INT32_MAX / 4096, INT64_MAX, INT64_MAX - 1, INT32_MAX / 4096 - 1},
               {5, 3, INT64_MAX, 1}, /* 2^63 - 1 = 3 q + 1: floor(5 / 3) */
               {5, 1, INT64_MAX, 0}};
    for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
        const salf_policy_options o = {.struct_size = sizeof o, .total_steps = far[i].total};
        salf_policy *policy = make(SALF_POLICY_LIFT_STAR, far[i].m, &o);
        const int32_t cut = at(policy, far[i].step).cut;
        ck_assert_msg(cut == far[i].cut, "row %zu: layer %d", i, (int)cut);
        salf_policy_destroy(policy);
    }
}
END_TEST

/* Every kind of turns follows the same ones: 7 steps for 4 layers, turns at 0, 2, 4 and 6, and then at 7, 9, 11, 13. */
START_TEST(all_kinds_of_turns_share_them) {
    static const uint8_t begins[14] = {1, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1};
    static const double same[4] = {1, 1, 1, 1}, other[4] = {1, 2, 2, 3};
    const salf_policy_options o = {.struct_size = sizeof o, .total_steps = 7, .n_active = 1, .seed = 3};
    salf_policy *block = make(SALF_POLICY_BLOCK, 4, &o), *lisa = make(SALF_POLICY_LISA, 4, &o);
    salf_policy *freeze = make(SALF_POLICY_AUTOFREEZE, 4, &o);
    int32_t drawn = 0, changed = 0;
    for (int64_t step = 0; step < 14; step++) {
        ck_assert_int_eq(at(block, step).n_reset, begins[step]);
        const int32_t cut = at(lisa, step).cut;
        if (!begins[step]) ck_assert_int_eq(cut, drawn);
        changed += cut != drawn;
        drawn = cut;
        /* norms of a turn come with the step after: turn 1 differs from turn 0, and in layer 0 least; the turns after
         * it change all layers alike. They are wanted one step before */
        const double *norms = step == 0 || !begins[step] ? NULL : step == 4 ? other : same;
        const salf_decision d = decide(freeze, (salf_observation){.step = step, .gradient_l1 = norms});
        ck_assert_int_eq(d.cut, step < 4 ? 0 : 1);
        ck_assert_int_eq(d.gradients_wanted, step == 13 ? 1 : begins[step + 1]);
    }
    ck_assert_int_gt(changed, 2);
    salf_policy_destroy(block);
    salf_policy_destroy(lisa);
    salf_policy_destroy(freeze);
}
END_TEST

/* A run that is killed between a decision and its step goes on with moments that were saved before they were reset. */
START_TEST(a_phase_begins_again_after_a_load) {
    static const int32_t begins[] = {1, 0, 1, 0, 1};
    salf_policy_options o = options();
    o.interval = 2;
    salf_policy *policy = make(SALF_POLICY_BLOCK, 4, &o);
    for (int64_t step = 0; step < 5; step++) {
        uint8_t bytes[1024];
        uint64_t size = sizeof bytes;
        const salf_decision d = at(policy, step);
        ck_assert_int_eq(d.n_reset, begins[step]);
        const int32_t cut = d.cut;
        CHECK_OK(salf_policy_save(policy, bytes, &size));
        salf_policy *loaded = make(SALF_POLICY_BLOCK, 4, &o);
        CHECK_OK(salf_policy_load(loaded, bytes, size));
        const salf_decision again = at(loaded, step);
        ck_assert_int_eq(again.n_reset, begins[step]);
        ck_assert_int_eq(again.cut, cut);
        if (again.n_reset) ck_assert_int_eq(again.reset[0], cut);
        salf_policy_destroy(loaded);
    }
    salf_policy_destroy(policy);
}
END_TEST

/* ---- FREEZEOUT, LINEAR ---- */

/* Three layers that stop at 0.5, 0.75 and 1 of the run; cubed 0.125, 0.421875 and 1. */
START_TEST(freezeout_anneals_by_half_cosine) {
    const struct {
        int32_t cubic, scale;
        int64_t step;
        double rate[3];
    } table[] = {{0, 0, 0, {1, 1, 1}},
                 {0, 0, 25, {0.5, 0.75, 0.853553390593273762}},
                 {0, 0, 50, {0, 0.25, 0.5}},
                 {0, 0, 75, {0, 0, 0.146446609406726238}},
                 {0, 1, 0, {2, 4.0 / 3, 1}},
                 {0, 1, 25, {1, 1, 0.853553390593273762}},
                 {1, 0, 12, {0.003942649342761, 0.813301905682, 0.964888242944}},
                 {1, 0, 13, {0, 0.783442799113, 0.958877312842}},
                 {1, 1, 0, {8, 64.0 / 27, 1}},
                 {0, 0, 100, {0, 0, 0}},
                 {0, 0, 999, {0, 0, 0}}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        salf_policy_options o = options();
        o.total_steps = 100;
        o.cubic = table[i].cubic;
        o.scale_rate = table[i].scale;
        salf_policy *policy = make(SALF_POLICY_FREEZEOUT, 3, &o);
        const salf_decision d = at(policy, table[i].step);
        int32_t cut = 0;
        while (cut < 3 && table[i].rate[cut] == 0) cut++;
        ck_assert_int_eq(d.cut, cut); /* 3 when nothing trains */
        for (int32_t k = 0; k < 3; k++)
            ck_assert_msg(fabs(d.rate_scale[k] - table[i].rate[k]) < 1e-11, "row %zu layer %d: %.12f", i, k,
                          d.rate_scale[k]);
        salf_policy_destroy(policy);
    }
}
END_TEST

/* Layer 1 of 3 stops at 0.2 + 0.8 / 2, which float64 makes 0.6 and a bit: at step 60 of 100 it is frozen all the same.
 */
START_TEST(freezeout_freezes_at_the_step_itself) {
    salf_policy_options o = options();
    o.total_steps = 100;
    o.start = 0.2;
    salf_policy *policy = make(SALF_POLICY_FREEZEOUT, 3, &o);
    ck_assert_int_eq(at(policy, 59).cut, 1);
    const salf_decision d = at(policy, 60);
    ck_assert_int_eq(d.cut, 2);
    ck_assert_int_eq(d.n_removed, 1);
    salf_policy_destroy(policy);
}
END_TEST

/* floor(5 (x - 0.2) / 0.8) of 10 layers. */
START_TEST(linear_grows_after_its_start) {
    static const int64_t steps[] = {0, 20, 35, 36, 51, 52, 68, 84, 99, 100, 1000};
    static const int32_t cuts[] = {0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 5};
    salf_policy_options o = options();
    o.total_steps = 100;
    o.start = 0.2;
    salf_policy *policy = make(SALF_POLICY_LINEAR, 10, &o);
    for (int i = 0; i < 11; i++) ck_assert_int_eq(at(policy, steps[i]).cut, cuts[i]);
    salf_policy_destroy(policy);
    o.level = 1;
    policy = make(SALF_POLICY_LINEAR, 10, &o);
    ck_assert_int_eq(at(policy, 60).cut, 5);
    const salf_decision d = at(policy, 100);
    ck_assert_int_eq(d.cut, 10);
    ck_assert_int_eq(d.n_removed, 5);
    salf_policy_destroy(policy);
}
END_TEST

/* ---- AUTOFREEZE, RGN ---- */

/* Cut after each interval of two steps; norms of an interval arrive with the next one's first decision, and are wanted
 * by its last. */
static void freeze_by(double percentile, const double sums[6][4], const int32_t cuts[6]) {
    salf_policy_options o = options();
    o.interval = 2;
    o.percentile = percentile;
    salf_policy *policy = make(SALF_POLICY_AUTOFREEZE, 4, &o);
    ck_assert_int_eq(at(policy, 0).cut, 0);
    for (int64_t i = 0; i < 6; i++) {
        salf_decision d = at(policy, 2 * i + 1);
        ck_assert_int_eq(d.cut, i == 0 ? 0 : cuts[i - 1]);
        ck_assert_int_eq(d.gradients_wanted, 1);
        d = decide(policy, (salf_observation){.step = 2 * i + 2, .gradient_l1 = sums[i]});
        ck_assert_msg(d.cut == cuts[i], "percentile %g, interval %d: cut %d", percentile, (int)i, d.cut);
        ck_assert_int_eq(d.gradients_wanted, 0);
    }
    salf_policy_destroy(policy);
}

/* Changes: .125 .3125 .0625 .5, then (from layer 1 on) 0 1 .25, then (from 2 on) 0 0, 0 1, and layer 3 alone. */
START_TEST(autofreeze_takes_the_prefix_that_changes_least) {
    static const double sums[6][4] = {{16, 16, 32, 32}, {18, 21, 30, 48}, {0, 21, 60, 60},
                                      {0, 0, 60, 60},   {0, 0, 60, 120},  {0, 0, 0, 7}};
    freeze_by(50, sums, (const int32_t[6]){0, 1, 2, 2, 3, 3});  /* bounds .21875, .25, 0, .5 */
    freeze_by(100, sums, (const int32_t[6]){0, 3, 3, 3, 3, 3}); /* the largest change */
    static const double one_by_one[6][4] = {{16, 16, 16, 16}, {17, 18, 20, 24}, {0, 18, 25, 12},
                                            {0, 0, 25, 24},   {0, 0, 25, 24},   {0, 0, 0, 24}};
    freeze_by(1e-6, one_by_one, (const int32_t[6]){0, 1, 2, 3, 3, 3}); /* hardly above the least */
    static const double from_zero[6][4] = {{0, 1, 1, 1}, {0, 1, 2, 1}, {3, 1, 2, 1},
                                           {3, 1, 2, 1}, {3, 1, 2, 1}, {3, 1, 2, 1}};
    freeze_by(100, from_zero, (const int32_t[6]){0, 2, 2, 2, 2, 2});
    static const double growing[6][4] = {{0, 1, 1, 1}, {1, 1, 2, 1}, {1, 1, 2, 1},
                                         {1, 1, 2, 1}, {1, 1, 2, 1}, {1, 1, 2, 1}};
    freeze_by(100, growing, (const int32_t[6]){0, 0, 0, 0, 0, 0}); /* from 0 to 1 is the largest change of all */
}
END_TEST

/* Steps of a turn that was not announced still need its norms; those of no turn are refused, and nothing changes. */
START_TEST(autofreeze_takes_norms_of_whole_turns_only) {
    static const double norms[4] = {1, 1, 1, 1}, later[4] = {1, 2, 2, 2};
    salf_policy_options o = options();
    o.interval = 3;
    salf_policy *policy = make(SALF_POLICY_AUTOFREEZE, 4, &o);
    salf_decision d = {.struct_size = sizeof d};
    salf_observation seen = {.struct_size = sizeof seen, .step = 7, .gradient_l1 = norms};
    CHECK_OK(salf_policy_decide(policy, &seen, &d)); /* the first: of no turn */
    seen.step = 8;
    CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_ARGUMENT, "gradient_l1 at step 8, which ends no turn");
    seen.gradient_l1 = NULL;
    CHECK_OK(salf_policy_decide(policy, &seen, &d));
    seen.step = 11;
    CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_NULL, "NULL at step 11, which ends a turn");
    seen.gradient_l1 = norms;
    CHECK_OK(salf_policy_decide(policy, &seen, &d));
    seen.step = 12;
    seen.gradient_l1 = later;
    CHECK_OK(salf_policy_decide(policy, &seen, &d));
    ck_assert_int_eq(d.cut, 1);
    salf_policy_destroy(policy);
}
END_TEST

/* ---- RAMP, and rates by rows ---- */

START_TEST(ramp_takes_the_share_of_the_plan) {
    static const int64_t plan[3] = {1, 2, 7};
    salf_policy_options o = options();
    salf_policy *policy = make(SALF_POLICY_RAMP, 4, NULL);
    salf_decision d = at(policy, 0);
    check_rates(&d, (const double[4]){0.25, 0.5, 0.75, 1});
    ck_assert(d.cut == 0 && d.batch_share == 1);
    salf_policy_destroy(policy);
    const double weights[4] = {0, 1, 2, 7};
    const salf_planner_options p = {
        .struct_size = sizeof p, .growth = SALF_GROWTH_CUSTOM, .matching = SALF_MATCH_NONE, .weights = weights};
    CHECK_OK(salf_planner_create(&o.planner, context, 4, 10, &p));
    policy = make(SALF_POLICY_RAMP, 4, &o);
    d = at(policy, 3);
    check_rates(&d, (const double[4]){0, (double)plan[0] / 10, 0.3, 1});
    ck_assert_int_eq(d.cut, 1); /* a layer that no datum trains is frozen */
    salf_policy *other = NULL;
    CHECK_FAILS(salf_policy_create(&other, context, SALF_POLICY_RAMP, 5, &o), SALF_E_SHAPE, "planner of 4 layers");
    salf_planner_destroy(o.planner); /* the policy keeps it */
    d = at(policy, 4);
    check_rates(&d, (const double[4]){0, 0.1, 0.3, 1});
    salf_policy_destroy(policy);
}
END_TEST

static int32_t cut_of(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)step, (void)n_layers, (void)trace;
    return *(const int32_t *)user;
}

/* Five rows at 1 1 2 3 3: layers 1 to 3 are trained by 2, 3 and 5 of them. */
START_TEST(rates_follow_the_rows_that_train_a_layer) {
    static const int32_t eof[5] = {3, 1, 3, 2, 1};
    static const double gains[20] = {0}, share[4] = {0, .4, .6, 1}, whole[4] = {0, 1, 1, 1};
    const salf_trace trace = {.rows = 5, .n_layers = 4, .gains = gains, .eof = eof};
    salf_policy_options o = options();
    for (int32_t rates = 0; salf_constant_word("SALF_RATES", rates); rates++)
        for (int callback = 0; callback < 2; callback++) {
            int32_t cut = 1;
            o.rates = rates;
            o.reduction = SALF_REDUCE_PREFIX;
            o.callback = cut_of;
            o.callback_user = &cut;
            salf_policy *policy = make(callback ? SALF_POLICY_CALLBACK : SALF_POLICY_SALF, 4, &o);
            salf_decision d = decide(policy, (salf_observation){.step = 0, .trace = &trace});
            check_rates(&d, rates == SALF_RATES_WHOLE ? whole : share);
            ck_assert(d.cut == 1 && d.batch_share == 1 && d.active_rows[2] == 3);
            if (callback) { /* no rows below the cut: those above 2 go with it */
                cut = 2;
                d = decide(policy, (salf_observation){.step = 1, .trace = &trace});
                check_rates(&d,
                            rates == SALF_RATES_WHOLE ? (const double[4]){0, 0, 1, 1} : (const double[4]){0, 0, .6, 1});
                d = decide(policy, (salf_observation){.step = 2}); /* no rows, no shares */
                check_rates(&d, (const double[4]){0, 0, 1, 1});
            }
            salf_policy_destroy(policy);
            o.reduction = SALF_REDUCE_SMALLEST; /* all rows train every layer above one cut */
            policy = make(callback ? SALF_POLICY_CALLBACK : SALF_POLICY_SALF, 4, &o);
            cut = 1;
            d = decide(policy, (salf_observation){.step = 0, .trace = &trace});
            check_rates(&d, whole);
            salf_policy_destroy(policy);
        }
    salf_policy *other = NULL;
    o.rates = 3;
    CHECK_FAILS(salf_policy_create(&other, context, SALF_POLICY_FULL, 4, &o), SALF_E_ARGUMENT, "rates is 3");
}
END_TEST

/* A stream's rows have their own cuts; a plan's layer that ends inside a batch gives a part of one. */
START_TEST(budgets_say_what_their_rows_are_worth) {
    salf_policy_options o = options();
    salf_planner_options p = {.struct_size = sizeof p, .matching = SALF_MATCH_STREAM, .assignment = SALF_ASSIGN_EOF};
    salf_task task;
    salf_decision d = {.struct_size = sizeof d};
    for (int32_t rates = 0; salf_constant_word("SALF_RATES", rates); rates++) {
        static const int32_t eof[8] = {3, 3, 0, 1, 2, 2, 0, 1}, groups[8] = {0, 1, 0, 1, 0, 1, 0, 1};
        const salf_trace trace = {.rows = 8, .n_layers = 4, .eof = eof};
        const salf_observation seen = {.struct_size = sizeof seen};
        CHECK_OK(salf_planner_create(&o.planner, context, 4, 20, &p));
        o.rates = rates;
        salf_policy *policy = make(SALF_POLICY_BUDGET, 4, &o);
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_SEQUENCE, "no task");
        CHECK_OK(salf_planner_next(o.planner, 8, &task));
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_SEQUENCE, "call salf_planner_assign first");
        CHECK_OK(salf_planner_assign(o.planner, &trace, groups, &task));
        d = at(policy, 0);
        ck_assert_mem_eq(d.eof, task.eof, sizeof eof);
        ck_assert(d.cut == task.layer && d.batch_share == 1 && d.rows == 8);
        for (int32_t k = 0; k < 4; k++) {
            double rows = 0;
            for (int i = 0; i < 8; i++) rows += task.eof[i] <= k;
            ck_assert_double_eq((double)d.active_rows[k], rows);
            ck_assert_double_eq(d.rate_scale[k], k < d.cut ? 0 : rates == SALF_RATES_WHOLE ? 1 : rows / 8);
        }
        CHECK_OK(salf_planner_done(o.planner));
        salf_planner_destroy(o.planner);
        salf_policy_destroy(policy);
    }
    /* 5 data a layer in batches of 4: 4 and 1 */
    p = (salf_planner_options){.struct_size = sizeof p, .matching = SALF_MATCH_NONE};
    o.rates = 0;
    CHECK_OK(salf_planner_create(&o.planner, context, 4, 20, &p));
    salf_policy *policy = make(SALF_POLICY_BUDGET, 4, &o);
    for (int64_t step = 0; step < 8; step++) {
        CHECK_OK(salf_planner_next(o.planner, 4, &task));
        d = at(policy, step);
        ck_assert_double_eq(d.batch_share, step % 2 ? 0.25 : 1);
        ck_assert_double_eq(d.rate_scale[3], 1);
        CHECK_OK(salf_planner_done(o.planner));
    }
    salf_planner_destroy(o.planner);
    salf_policy_destroy(policy);
}
END_TEST

START_TEST(rgn_scales_by_the_largest_ratio) {
    static const double gradient[3] = {1, 2, 3}, parameter[3] = {4, 4, 2}, zero[3] = {0, 0, 0};
    salf_policy *policy = make(SALF_POLICY_RGN, 3, NULL);
    salf_decision d = at(policy, 0);
    check_rates(&d, (const double[3]){1, 1, 1});
    d = decide(policy, (salf_observation){.step = 1, .gradient_norm = gradient, .parameter_norm = parameter});
    ck_assert_int_eq(d.cut, 0);
    check_rates(&d, (const double[3]){1.0 / 6, 1.0 / 3, 1});
    d = decide(policy, (salf_observation){.step = 2, .gradient_norm = zero, .parameter_norm = zero});
    check_rates(&d, (const double[3]){1, 1, 1});
    salf_policy_destroy(policy);
}
END_TEST

/* ---- RANDOM, SCRIPTED ---- */

START_TEST(random_is_uniform_and_has_no_memory) {
    salf_policy_options o = options();
    o.seed = 3;
    salf_policy *policy = make(SALF_POLICY_RANDOM, 7, &o), *late = make(SALF_POLICY_RANDOM, 7, &o);
    double seen[7] = {0}, chi = 0;
    for (int64_t step = 0; step < 7000; step++) {
        const salf_decision d = at(policy, step);
        seen[d.cut]++;
        ck_assert_int_eq(count_trainable(&d), 7 - d.cut);
        if (step % 1000 == 17) ck_assert_int_eq(at(late, step).cut, d.cut);
    }
    for (int k = 0; k < 7; k++) chi += (seen[k] - 1000) * (seen[k] - 1000) / 1000;
    ck_assert_msg(chi < 28, "chi-square of 6 degrees of freedom: %g", chi);
    salf_policy_destroy(policy);
    salf_policy_destroy(late);
}
END_TEST

START_TEST(script_holds_its_last_cut) {
    int32_t script[3] = {2, 0, 3};
    salf_policy_options o = options();
    o.script = script;
    o.n_script = 3;
    salf_policy *policy = make(SALF_POLICY_SCRIPTED, 4, &o);
    memset(script, 0, sizeof script); /* it was copied */
    static const int32_t cuts[5] = {2, 0, 3, 3, 3};
    for (int64_t step = 0; step < 5; step++) ck_assert_int_eq(at(policy, step).cut, cuts[step]);
    salf_policy_destroy(policy);
}
END_TEST

/* docs/formats.md: the fourteenth number of a saved policy, behind the header of 32 bytes, is 2 cubic + scale_rate. */
START_TEST(a_save_has_the_options_of_freezeout_in_their_place) {
    for (int32_t form = 0; form < 4; form++) {
        salf_policy_options o = options();
        uint8_t bytes[1024];
        uint64_t size = sizeof bytes;
        o.total_steps = 9;
        o.cubic = form / 2;
        o.scale_rate = form % 2;
        salf_policy *policy = make(SALF_POLICY_FREEZEOUT, 3, &o);
        CHECK_OK(salf_policy_save(policy, bytes, &size));
        ck_assert_int_eq(bytes[32 + 13 * 8], form);
        for (int i = 1; i < 8; i++) ck_assert_int_eq(bytes[32 + 13 * 8 + i], 0);
        salf_policy_destroy(policy);
    }
}
END_TEST

/* ---- SALF ---- */

/* Means 1.2 1 1.4 0.9 with the fifth row, whose gains are not finite, left out. */
START_TEST(reductions_of_one_batch) {
    static const double gains[6][4] = {{.5, .2, .1, 0},  {.3, .2, .9, .1},      {.1, .4, .2, .3},
                                       {.1, .1, .1, .4}, {NAN, 9, INFINITY, 9}, {.2, .1, .1, .1}};
    static const int32_t eof[6] = {0, 2, 1, 3, 0, 3};
    const salf_trace trace = {.rows = 6, .n_layers = 4, .gains = *gains, .eof = eof};
    static const int32_t cuts[5] = {2, 0, 1, 0, 0}; /* eof sorted 0 0 1 2 3 3: lower median 1, tie of 0 and 3 */
    for (int32_t reduction = 0; reduction < 5; reduction++) {
        salf_policy_options o = options();
        o.reduction = reduction;
        salf_policy *policy = make(SALF_POLICY_SALF, 4, &o);
        const salf_decision d = decide(policy, (salf_observation){.trace = &trace});
        ck_assert_msg(d.cut == cuts[reduction], "reduction %d: cut %d", reduction, d.cut);
        const bool prefix = reduction == SALF_REDUCE_PREFIX;
        static const int64_t order[6] = {0, 4, 2, 1, 3, 5}, active[4] = {2, 3, 4, 6};
        for (int64_t r = 0; r < 6; r++) {
            ck_assert_int_eq(d.eof[r], prefix ? eof[r] : d.cut);
            ck_assert_int_eq(d.order[r], prefix ? order[r] : r);
        }
        for (int32_t k = 0; k < 4; k++) ck_assert_int_eq(d.active_rows[k], prefix ? active[k] : k < d.cut ? 0 : 6);
        salf_policy_destroy(policy);
    }
    static const double bad[4] = {NAN, NAN, NAN, NAN}, alike[4] = {.25, .5, .5, .25};
    static const int32_t full[1] = {0};
    salf_policy *policy = make(SALF_POLICY_SALF, 4, NULL);
    const salf_trace lost = {.rows = 1, .n_layers = 4, .n_nonfinite = 1, .gains = bad, .eof = full};
    ck_assert_int_eq(decide(policy, (salf_observation){.trace = &lost}).cut, 0);
    salf_policy_destroy(policy);
    policy = make(SALF_POLICY_SALF, 4, NULL);
    const salf_trace tie = {.rows = 1, .n_layers = 4, .gains = alike, .eof = full};
    ck_assert_int_eq(decide(policy, (salf_observation){.trace = &tie}).cut, 1); /* the shallow one */
    salf_policy_destroy(policy);
}
END_TEST

#define ADD(function) HARNESS_ADD_BETWEEN(suite, function, open_context, close_context)

void harness_suite(Suite *suite) {
    ADD(lisa_draws_pairs_uniformly);
    ADD(lisa_always_on_reaches_the_bottom);
    ADD(block_permutes_each_round_and_resets);
    ADD(a_phase_begins_again_after_a_load);
    ADD(lift_takes_turns);
    ADD(turns_share_a_run_exactly);
    ADD(all_kinds_of_turns_share_them);
    ADD(freezeout_anneals_by_half_cosine);
    ADD(freezeout_freezes_at_the_step_itself);
    ADD(linear_grows_after_its_start);
    ADD(autofreeze_takes_the_prefix_that_changes_least);
    ADD(autofreeze_takes_norms_of_whole_turns_only);
    ADD(ramp_takes_the_share_of_the_plan);
    ADD(rates_follow_the_rows_that_train_a_layer);
    ADD(budgets_say_what_their_rows_are_worth);
    ADD(rgn_scales_by_the_largest_ratio);
    ADD(random_is_uniform_and_has_no_memory);
    ADD(script_holds_its_last_cut);
    ADD(a_save_has_the_options_of_freezeout_in_their_place);
    ADD(reductions_of_one_batch);
}
