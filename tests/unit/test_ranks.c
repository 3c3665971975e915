/*
 * test_ranks.c - what ranks that were configured otherwise than the others get: SALF_E_MISMATCH on all of them, naming
 * what, for every collective and every option; and what the others get where one rank fails. Never other cuts, a wrong
 * basis, collectives of different sizes or a rank that waits for ever (world.h finds the last two).
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "world.h"

enum { M = 4, V = 12, D = 3 };

static world_rank ranks[WORLD_RANKS];

/* ---- agreement by itself ---- */

typedef struct agreement_case {
    salf_status statuses[WORLD_RANKS];
    int32_t decides; /* this rank decides meanwhile; -1: none */
} agreement_case;

static salf_status decide_once(salf_context *context, int32_t kind, const salf_policy_options *options, int64_t step) {
    salf_policy *policy = NULL;
    salf_decision d = {.struct_size = sizeof d};
    salf_status status = salf_policy_create(&policy, context, kind, M, options);
    if (status == SALF_OK)
        status =
            salf_policy_decide(policy, &(salf_observation){.struct_size = sizeof(salf_observation), .step = step}, &d);
    salf_policy_destroy(policy);
    return status;
}

static salf_status agree(world_rank *me) {
    const agreement_case *c = me->user;
    if (me->rank == c->decides) return decide_once(me->context, SALF_POLICY_FULL, NULL, 0);
    return salf_context_agree(me->context, c->statuses[me->rank]);
}

static void same_rank(salf_context_options *o, const void *user) {
    (void)user;
    o->rank = 0;
}

static void one_more(salf_context_options *o, const void *user) {
    (void)user;
    o->ranks = o->rank == 2 ? 4 : 3;
}

START_TEST(ranks_agree_or_say_who_failed) {
    agreement_case c = {.decides = -1};
    world_run(agree, &c, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    c.statuses[1] = SALF_E_IO;
    world_run(agree, &c, NULL, ranks);
    for (int r = 0; r < WORLD_RANKS; r++) ck_assert_int_eq(ranks[r].status, r == 1 ? SALF_E_IO : SALF_E_MISMATCH);
    ck_assert_msg(harness_contains(ranks[2].message, "rank 1 failed with SALF_E_IO"), "%s", ranks[2].message);
    c.statuses[2] = SALF_E_INTERNAL;
    world_run(agree, &c, NULL, ranks);
    ck_assert_msg(harness_contains(ranks[0].message, "rank 1 failed with SALF_E_IO; the last that failed is rank 2"),
                  "%s", ranks[0].message);
    /* a number that is no status is that rank's mistake, and the others do not wait for it */
    c = (agreement_case){.decides = -1, .statuses = {0, 7, 0}};
    world_run(agree, &c, NULL, ranks);
    for (int r = 0; r < WORLD_RANKS; r++) ck_assert_int_eq(ranks[r].status, r == 1 ? SALF_E_ARGUMENT : SALF_E_MISMATCH);
    ck_assert_msg(harness_contains(ranks[0].message, "rank 1 failed with SALF_E_ARGUMENT"), "%s", ranks[0].message);
    /* in different calls */
    c = (agreement_case){.decides = 2};
    world_run(agree, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "one rank is in salf_context_agree, another in salf_policy_decide");
    c.statuses[0] = SALF_E_NO_MEMORY;
    world_run(agree, &c, NULL, ranks);
    ck_assert_int_eq(ranks[0].status, SALF_E_NO_MEMORY);
    for (int r = 1; r < WORLD_RANKS; r++)
        ck_assert_msg(harness_contains(ranks[r].message, "rank 0 failed with SALF_E_NO_MEMORY"), "%s",
                      ranks[r].message);
    /* alone there is nobody to ask */
    salf_context *alone = harness_context(SALF_BACKEND_CPU, NULL);
    CHECK_OK(salf_context_agree(alone, SALF_OK));
    ck_assert_int_eq(salf_context_agree(alone, SALF_E_IO), SALF_E_IO);
    CHECK_FAILS(salf_context_agree(alone, 7), SALF_E_ARGUMENT, "status is 7");
    CHECK_FAILS(salf_context_agree(alone, -100), SALF_E_ARGUMENT, "status is -100");
    CHECK_FAILS(salf_context_agree(NULL, SALF_OK), SALF_E_NULL, "context is NULL");
    salf_context_destroy(alone);
}
END_TEST

START_TEST(contexts_that_disagree_about_the_ranks) {
    agreement_case c = {.decides = -1};
    world_run(agree, &c, one_more, ranks);
    world_all(ranks, SALF_E_MISMATCH, "ranks of the context: ");
    world_run(agree, &c, same_rank, ranks);
    world_all(ranks, SALF_E_MISMATCH, "3 ranks have the numbers 0 ... 0");
}
END_TEST

static int32_t refuse(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    (void)user, (void)buffer, (void)count, (void)dtype, (void)operation;
    return 5;
}

START_TEST(two_ranks_are_ranks) {
    salf_context *context;
    const salf_context_options o = {
        .struct_size = sizeof o, .backend = SALF_BACKEND_CPU, .ranks = 2, .all_reduce = refuse};
    CHECK_OK(salf_context_create(&context, &o));
    CHECK_FAILS(salf_context_agree(context, SALF_OK), SALF_E_CALLBACK, "returned 5 on rank 0");
    salf_context_destroy(context);
}
END_TEST

/* ---- policies: every kind, every option ---- */

typedef struct policy_case {
    int32_t kind, odd_kind; /* of rank 1 */
    salf_policy_options options, odd;
    int64_t step, odd_step;
    int32_t tells; /* rank 1 tells that it has failed, in place of deciding */
    int32_t norms; /* RGN: rank 1 gives some, the others none */
    int32_t older; /* rank 1 has made a decision before; 2: all have, from other gradients on rank 1 */
} policy_case;

static int32_t ask(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)user, (void)step, (void)trace;
    return n_layers / 2;
}

static salf_status make_task(salf_context *context, salf_planner **planner) {
    const salf_planner_options o = {.struct_size = sizeof o, .matching = SALF_MATCH_STREAM};
    salf_task task;
    salf_status status = salf_planner_create(planner, context, M, 30, &o);
    return status == SALF_OK ? salf_planner_next(*planner, 4, &task) : status;
}

static salf_status decide(world_rank *me) {
    static const double gains[2 * M] = {1, 2, 0, 0, 3, 0, 0, 1}, norms[M] = {1, 1, 2, 3};
    static const double turns[2][M] = {{8, 4, 4, 4}, {4, 4, 12, 12}}; /* changed from 4: AUTOFREEZE freezes 0, 2 */
    static const int32_t eof[2] = {1, 0};
    const policy_case *c = me->user;
    const bool odd = me->rank == 1;
    const salf_trace trace = {.rows = 2, .n_layers = M, .gains = gains, .eof = eof};
    const int32_t kind = odd ? c->odd_kind : c->kind;
    salf_policy_options options = odd ? c->odd : c->options;
    salf_policy *policy = NULL;
    salf_decision d = {.struct_size = sizeof d};
    salf_observation seen = {.struct_size = sizeof seen, .step = odd ? c->odd_step : c->step, .trace = &trace};
    if (odd && c->tells) return salf_context_agree(me->context, SALF_E_NONFINITE);
    if (odd && c->norms) seen.gradient_norm = seen.parameter_norm = norms;
    if (c->older == 2) seen.gradient_l1 = norms;
    salf_status status = SALF_OK;
    if (kind == SALF_POLICY_BUDGET) status = make_task(me->context, &options.planner);
    if (status == SALF_OK) status = salf_policy_create(&policy, me->context, kind, M, &options);
    /* as a rank that went on from a save, and another not: its blob comes from a policy that decided alone */
    if (status == SALF_OK && (odd || c->older == 2) && c->older) {
        salf_context *alone = NULL;
        salf_policy *other = NULL;
        unsigned char blob[1024];
        uint64_t size = sizeof blob;
        salf_observation before = {.struct_size = sizeof before};
        const double level[M] = {4, 4, 4, 4};
        const salf_context_options here = {.struct_size = sizeof here, .backend = SALF_BACKEND_CPU};
        status = salf_context_create(&alone, &here);
        if (status == SALF_OK) status = salf_policy_create(&other, alone, kind, M, &options);
        for (; status == SALF_OK && before.step < (c->older == 2 ? 3 : 1); before.step++) {
            before.gradient_l1 = before.step < 2 ? level : turns[odd];
            status = salf_policy_decide(other, &before, &d);
        }
        if (status == SALF_OK) status = salf_policy_save(other, blob, &size);
        if (status == SALF_OK) status = salf_policy_load(policy, blob, size);
        salf_policy_destroy(other);
        salf_context_destroy(alone);
    }
    if (status == SALF_OK) status = salf_policy_decide(policy, &seen, &d);
    salf_policy_destroy(policy);
    salf_planner_destroy(options.planner);
    return status;
}

static policy_case case_of(int32_t kind) {
    static const int32_t script[3] = {1, 2, 3};
    policy_case c = {.kind = kind, .odd_kind = kind, .step = 3, .odd_step = 3};
    salf_options_init(&c.options, sizeof c.options);
    c.options.total_steps = 40;
    c.options.interval = 2;
    c.options.script = script;
    c.options.n_script = 3;
    c.options.callback = ask;
    c.odd = c.options;
    return c;
}

START_TEST(policies_of_every_kind_agree) {
    for (int32_t kind = 0; salf_constant_word("SALF_POLICY", kind); kind++) {
        policy_case c = case_of(kind);
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_OK, "");
        c.odd_step = 4;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "step: ");
        c = case_of(kind);
        c.odd_kind = kind == SALF_POLICY_FULL ? SALF_POLICY_HALF : SALF_POLICY_FULL;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "the ranks differ in kind: ");
        c = case_of(kind);
        c.tells = 1;
        world_run(decide, &c, NULL, ranks);
        ck_assert_int_eq(ranks[1].status, SALF_E_NONFINITE);
        ck_assert_int_eq(ranks[0].status, SALF_E_MISMATCH);
        ck_assert_msg(harness_contains(ranks[2].message, "rank 1 failed with SALF_E_NONFINITE"), "%s",
                      ranks[2].message);
        c = case_of(kind);
        c.odd_step = -1;
        world_run(decide, &c, NULL, ranks);
        world_one(ranks, 1, SALF_E_ARGUMENT, "step is -1");
    }
}
END_TEST

/* Whichever option differs, for whichever kind: an option of another kind is a sign of another configuration. */
START_TEST(every_option_of_a_policy_is_compared) {
    static const struct {
        size_t at;
        int32_t value;
        const char *named;
    } numbers[] = {
        {offsetof(salf_policy_options, train_embedding), 1, "train_embedding"},
        {offsetof(salf_policy_options, train_head), 1, "train_head"},
        {offsetof(salf_policy_options, order), SALF_ORDER_BACKWARD, "order"},
        {offsetof(salf_policy_options, first_layer), 2, "first_layer"},
        {offsetof(salf_policy_options, reduction), SALF_REDUCE_MODE, "reduction"},
        {offsetof(salf_policy_options, n_active), 3, "n_active"},
        {offsetof(salf_policy_options, always_on), 1, "always_on"},
        {offsetof(salf_policy_options, keep_moments), 1, "keep_moments"},
        {offsetof(salf_policy_options, cubic), 1, "cubic, scale_rate"},
        {offsetof(salf_policy_options, scale_rate), 1, "cubic, scale_rate"},
        {offsetof(salf_policy_options, rates), SALF_RATES_BY_ROWS, "rates"},
    };
    for (int32_t kind = 0; salf_constant_word("SALF_POLICY", kind); kind++) {
        policy_case c = case_of(kind);
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            c.odd = c.options;
            memcpy((char *)&c.odd + numbers[i].at, &numbers[i].value, sizeof numbers[i].value);
            world_run(decide, &c, NULL, ranks);
            world_all(ranks, SALF_E_MISMATCH, numbers[i].named);
        }
        c.odd = c.options;
        c.odd.total_steps = 41;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "total_steps: ");
        c.odd = c.options;
        c.odd.interval = 3;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "interval: ");
        c.odd = c.options;
        c.odd.seed = UINT64_MAX - 3;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "seed: ");
        c.odd = c.options;
        c.odd.level = 0.25;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "level (bits)");
        c.odd = c.options;
        c.odd.start = 0.25;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "start (bits)");
        c.odd = c.options;
        c.odd.percentile = 25;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "percentile (bits)");
    }
    policy_case c = case_of(SALF_POLICY_SCRIPTED);
    c.odd.n_script = 2;
    world_run(decide, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "script (hash)");
    for (int at = 0; at < 3; at++) { /* a cut of it, wherever it stands */
        int32_t other[3] = {1, 2, 3};
        other[at] = 0;
        c.odd = c.options;
        c.odd.script = other;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "script (hash)");
    }
    c = case_of(SALF_POLICY_RGN);
    c.norms = 1;
    world_run(decide, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "gradient norms");
}
END_TEST

START_TEST(a_rank_that_went_on_from_a_save_alone) {
    static const int32_t kinds[] = {SALF_POLICY_LISA, SALF_POLICY_AUTOFREEZE, SALF_POLICY_LIFT, SALF_POLICY_FULL};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        policy_case c = case_of(kinds[i]);
        c.options.interval = c.odd.interval = 9; /* no turn ends in between */
        c.older = 1;
        world_run(decide, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "the step of the last decision: ");
    }
    policy_case c = case_of(SALF_POLICY_AUTOFREEZE);
    c.options.interval = c.odd.interval = 1;
    c.older = 2;
    world_run(decide, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "the frozen depth: ");
}
END_TEST

/* ---- builders ---- */

typedef struct builder_case {
    const int32_t *labels, *odd; /* of rank 1 */
    int64_t n, n_odd;
    int64_t vocab, odd_vocab;
    salf_basis_options options, odd_options;
    int32_t tells, bad_row;
} builder_case;

static float head[V + 1][D];

static salf_status build(world_rank *me) {
    const builder_case *c = me->user;
    const bool odd = me->rank == 1;
    salf_basis_builder *builder = NULL;
    salf_basis *basis = NULL;
    float rows[4][D];
    memcpy(rows, head[4 * me->rank], sizeof rows);
    if (odd && c->bad_row) rows[2][1] = NAN;
    const salf_tensor block = {.data = rows, .rows = 4, .cols = D, .dtype = SALF_F32};
    salf_status status =
        salf_basis_builder_create(&builder, me->context, odd ? c->odd_vocab : c->vocab, D, odd ? c->odd : c->labels,
                                  odd ? c->n_odd : c->n, odd ? &c->odd_options : &c->options);
    salf_status added = SALF_OK;
    if (status == SALF_OK) added = salf_basis_builder_add(builder, 4 * me->rank, &block);
    if (odd && c->tells) status = salf_context_agree(me->context, SALF_E_IO);
    if (status == SALF_OK) status = salf_basis_builder_all_reduce(builder);
    if (status == SALF_OK) status = salf_basis_builder_finish(&basis, builder, NULL);
    (void)added; /* the sums tell all ranks */
    salf_basis_destroy(basis);
    salf_basis_builder_destroy(builder);
    return status;
}

static const int32_t some[3] = {1, 2, 3}, others[3] = {1, 2, 11}, same[4] = {3, 2, 1, 1};

static builder_case builders(void) {
    builder_case c = {.labels = some, .odd = some, .n = 3, .n_odd = 3, .vocab = V, .odd_vocab = V};
    for (int i = 0; i < (V + 1) * D; i++) head[i / D][i % D] = (float)((i * 7 + 3) % 11) - 4.5f + 0.1f * (float)(i % 5);
    salf_options_init(&c.options, sizeof c.options);
    c.odd_options = c.options;
    return c;
}

START_TEST(builders_agree_before_they_sum) {
    builder_case c = builders();
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    c.odd = same; /* in another order, one twice: the same labels */
    c.n_odd = 4;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    c = builders();
    c.odd = others;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "labels of the builders (hash)");
    c.n_odd = 2;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "how many different labels the builders have: ");
    ck_assert(harness_contains(ranks[1].message, "2 on rank 1, 2 ... 3 on all"));
    c = builders();
    c.odd_vocab = V + 1;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "vocab of the builders");
    c = builders();
    c.odd_options.mode = SALF_BASIS_EXACT;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "mode of the basis");
    c = builders();
    c.odd_options.rtol = 1e-3;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "rtol (bits)");
    c = builders();
    c.options.mode = c.odd_options.mode = SALF_BASIS_RIDGE;
    c.options.ridge = 0.5;
    c.odd_options.ridge = 0.25;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "ridge (bits)");
    c = builders();
    c.tells = 1;
    world_run(build, &c, NULL, ranks);
    ck_assert_int_eq(ranks[1].status, SALF_E_IO);
    ck_assert_msg(harness_contains(ranks[0].message, "rank 1 failed with SALF_E_IO"), "%s", ranks[0].message);
    c = builders();
    c.bad_row = 1;
    world_run(build, &c, NULL, ranks);
    world_all(ranks, SALF_E_SEQUENCE, "8 rows of 12");
}
END_TEST

/* A host that sums the partial vectors itself, or merges. */
START_TEST(partial_sums_of_other_builders_are_found) {
    const int32_t *lists[] = {some, others, same};
    const int64_t lengths[] = {3, 3, 4};
    const salf_status wanted[] = {SALF_OK, SALF_E_MISMATCH, SALF_OK};
    builder_case c = builders();
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (int kind = 0; kind < 4; kind++) {
        salf_basis_builder *one, *two;
        salf_basis *basis;
        double *sum, *part;
        int64_t n, n_part;
        salf_basis_options o = c.options;
        if (kind == 3) o.rtol = 1e-3;
        CHECK_OK(salf_basis_builder_create(&one, context, V, D, some, 3, &c.options));
        CHECK_OK(salf_basis_builder_create(&two, context, V, D, kind < 3 ? lists[kind] : some,
                                           kind < 3 ? lengths[kind] : 3, &o));
        const salf_tensor first = {.data = head, .rows = 7, .cols = D, .dtype = SALF_F32};
        const salf_tensor rest = {.data = head[7], .rows = V - 7, .cols = D, .dtype = SALF_F32};
        CHECK_OK(salf_basis_builder_add(one, 0, &first));
        CHECK_OK(salf_basis_builder_add(two, 7, &rest));
        CHECK_OK(salf_basis_builder_partial(one, &sum, &n));
        CHECK_OK(salf_basis_builder_partial(two, &part, &n_part));
        ck_assert_int_eq(n, n_part);
        for (int64_t i = 0; i < n; i++) sum[i] += part[i];
        const salf_status status = salf_basis_builder_finish(&basis, one, NULL);
        ck_assert_int_eq(status, kind < 3 ? wanted[kind] : SALF_E_MISMATCH);
        if (status != SALF_OK) ck_assert(harness_contains(salf_last_error(), "of 2 builders, and not all had"));
        salf_basis_destroy(basis);
        salf_basis_builder_destroy(one);
        salf_basis_builder_destroy(two);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- plans ---- */

typedef struct plan_case {
    salf_planner_options options, odd; /* of rank 1 */
    int64_t n, odd_n, max_data, odd_max;
    int32_t decides; /* 1: salf_policy_decide, 0: salf_planner_assign */
    int32_t sizes;   /* rank 1 has set its groups */
    int32_t bad;     /* what rank 1 does wrong */
    int32_t stages;  /* rank 1 has done so many tasks */
} plan_case;
enum { GOES_WRONG_TRACE = 1, GOES_WRONG_TASK = 2, GOES_WRONG_PHASE = 3, TELLS = 4 };

static salf_status plan(world_rank *me) {
    static double gains[16 * M];
    static int32_t eof[16], groups[16];
    static const int32_t ids[2] = {0, 1};
    static const int64_t sizes[2] = {10, 20};
    const plan_case *c = me->user;
    const bool odd = me->rank == 1;
    salf_planner *planner = NULL;
    salf_policy *policy = NULL;
    salf_task task = {0};
    salf_decision d = {.struct_size = sizeof d};
    salf_status status =
        salf_planner_create(&planner, me->context, M, odd ? c->odd_n : c->n, odd ? &c->odd : &c->options);
    if (status == SALF_OK && odd && c->sizes) status = salf_planner_set_groups(planner, ids, sizes, 2);
    if (status == SALF_OK && !(odd && c->bad == GOES_WRONG_PHASE))
        status = salf_planner_next(planner, odd ? c->odd_max : c->max_data, &task);
    for (int i = 0; i < c->stages && odd && status == SALF_OK; i++) {
        status = salf_planner_done(planner);
        if (status == SALF_OK) status = salf_planner_next(planner, c->odd_max, &task);
    }
    const salf_trace trace = {
        .rows = odd && c->bad == GOES_WRONG_TRACE ? 1 : task.n_data, .n_layers = M, .gains = gains, .eof = eof};
    if (status == SALF_OK && odd && c->bad == TELLS) {
        status = salf_context_agree(me->context, SALF_E_DEVICE);
    } else if (status == SALF_OK && c->decides) {
        salf_policy_options o = {.struct_size = sizeof o, .planner = planner};
        status = salf_policy_create(&policy, me->context, SALF_POLICY_BUDGET, M, &o);
        const salf_observation seen = {.struct_size = sizeof seen};
        if (status == SALF_OK) status = salf_policy_decide(policy, &seen, &d);
    } else if (status == SALF_OK) {
        status = salf_planner_assign(planner, &trace, groups, odd && c->bad == GOES_WRONG_TASK ? NULL : &task);
    }
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    return status;
}

static plan_case plans(int32_t matching, int32_t assignment) {
    plan_case c = {.n = 30, .odd_n = 30, .max_data = 4, .odd_max = 4, .decides = assignment == SALF_ASSIGN_RANDOM};
    salf_options_init(&c.options, sizeof c.options);
    c.options.matching = matching;
    c.options.assignment = assignment;
    c.odd = c.options;
    return c;
}

START_TEST(streams_agree) {
    for (int32_t assignment = SALF_ASSIGN_RANDOM; assignment <= SALF_ASSIGN_GAIN; assignment++) {
        plan_case c = plans(SALF_MATCH_STREAM, assignment);
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_OK, "");
        c.odd_max = 5;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "rows of the task, of all ranks: ");
        c = plans(SALF_MATCH_STREAM, assignment);
        c.odd_n = 31;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "n_data: ");
        c = plans(SALF_MATCH_STREAM, assignment);
        c.odd.seed = 7;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "seed: ");
        c = plans(SALF_MATCH_STREAM, assignment);
        c.odd.stream_order = SALF_STREAM_MIXED;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "stream_order, one_cut");
        c = plans(SALF_MATCH_STREAM, assignment);
        c.odd.growth = SALF_GROWTH_ARITHMETIC;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "growth: ");
        c = plans(SALF_MATCH_STREAM, assignment);
        c.bad = TELLS;
        world_run(plan, &c, NULL, ranks);
        ck_assert_int_eq(ranks[1].status, SALF_E_DEVICE);
        ck_assert_msg(harness_contains(ranks[2].message, "rank 1 failed with SALF_E_DEVICE"), "%s", ranks[2].message);
    }
    plan_case c = plans(SALF_MATCH_STREAM, SALF_ASSIGN_EOF);
    c.sizes = 1;
    world_run(plan, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "groups (hash)");
    /* a rank that has gone one task further than the others */
    c = plans(SALF_MATCH_STREAM, SALF_ASSIGN_RANDOM);
    c.stages = 1;
    world_run(plan, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "position in the stream: ");
    c = plans(SALF_MATCH_STREAM, SALF_ASSIGN_GAIN);
    c.odd.assignment = SALF_ASSIGN_EOF; /* would sum fewer numbers */
    world_run(plan, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "assignment: ");
    c = plans(SALF_MATCH_STREAM, SALF_ASSIGN_EOF);
    c.bad = GOES_WRONG_TRACE;
    world_run(plan, &c, NULL, ranks);
    world_one(ranks, 1, SALF_E_SHAPE, "trace of 1 rows for a task of 4");
    c.bad = GOES_WRONG_TASK;
    world_run(plan, &c, NULL, ranks);
    world_one(ranks, 1, SALF_E_NULL, "task is NULL");
    c.bad = GOES_WRONG_PHASE;
    world_run(plan, &c, NULL, ranks);
    world_one(ranks, 1, SALF_E_SEQUENCE, "no PROBE task of a stream is open");
}
END_TEST

/* Plans are the same on all: each rank's own data, or a place of its own, would drift apart. */
START_TEST(other_plans_agree) {
    static const int32_t matchings[] = {SALF_MATCH_ONLINE, SALF_MATCH_NONE};
    for (int i = 0; i < 2; i++) {
        plan_case c = plans(matchings[i], SALF_ASSIGN_RANDOM);
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_OK, "");
        c.odd_n = 40;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "n_data: ");
        c = plans(matchings[i], SALF_ASSIGN_RANDOM);
        c.odd.probe_limit = 3;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "probe_limit: ");
        c = plans(matchings[i], SALF_ASSIGN_RANDOM);
        c.odd_max = 3;
        world_run(plan, &c, NULL, ranks);
        world_all(ranks, SALF_E_MISMATCH, "the most that was asked for");
    }
    plan_case c = plans(SALF_MATCH_NONE, SALF_ASSIGN_RANDOM);
    c.stages = 1;
    world_run(plan, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "the layer of the task: ");
    static const double weights[M] = {1, 1, 1, 1}, other[M] = {1, 1, 1, 1.5};
    c = plans(SALF_MATCH_NONE, SALF_ASSIGN_RANDOM);
    c.options.growth = c.odd.growth = SALF_GROWTH_CUSTOM;
    c.options.weights = weights;
    c.odd.weights = other;
    world_run(plan, &c, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "weights (hash)");
}
END_TEST

/* A stream that knows no ranks would give each of them all rows of a task. */
static salf_status follow_a_lonely_stream(world_rank *me) {
    const salf_context_options here = {.struct_size = sizeof here, .backend = SALF_BACKEND_CPU};
    const salf_planner_options o = {.struct_size = sizeof o, .matching = SALF_MATCH_STREAM};
    salf_policy_options p = {.struct_size = sizeof p};
    salf_context *alone = NULL;
    salf_policy *policy = NULL;
    salf_status status = salf_context_create(&alone, &here);
    if (status == SALF_OK) status = salf_planner_create(&p.planner, alone, M, 30, &o);
    if (status == SALF_OK) status = salf_policy_create(&policy, me->context, SALF_POLICY_BUDGET, M, &p);
    salf_policy_destroy(policy);
    salf_planner_destroy(p.planner);
    salf_context_destroy(alone);
    return status;
}

START_TEST(a_stream_is_for_the_ranks_of_its_policy) {
    world_run(follow_a_lonely_stream, NULL, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "a planner for 1 ranks, and a policy for 3");
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, ranks_agree_or_say_who_failed);
    HARNESS_ADD(suite, contexts_that_disagree_about_the_ranks);
    HARNESS_ADD(suite, two_ranks_are_ranks);
    HARNESS_ADD(suite, policies_of_every_kind_agree);
    HARNESS_ADD(suite, every_option_of_a_policy_is_compared);
    HARNESS_ADD(suite, a_rank_that_went_on_from_a_save_alone);
    HARNESS_ADD(suite, builders_agree_before_they_sum);
    HARNESS_ADD(suite, partial_sums_of_other_builders_are_found);
    HARNESS_ADD(suite, streams_agree);
    HARNESS_ADD(suite, other_plans_agree);
    HARNESS_ADD(suite, a_stream_is_for_the_ranks_of_its_policy);
}
