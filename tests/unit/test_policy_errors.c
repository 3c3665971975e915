/* test_policy_errors.c - bad observations and blobs: each names its value and changes nothing; allocations that fail.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"
#include "payload.h"

#define M 4

static salf_context *context;

static void open_context(void) {
    context = harness_context(SALF_BACKEND_REFERENCE, NULL);
}

static void close_context(void) {
    salf_context_destroy(context);
}

static const double gains[2 * M] = {0, 1, 0, 0, 0, 1, 0, 2};
static const double norms[M] = {1, 2, 3, 4};
static const int32_t eof[2] = {1, 3};
static const int32_t script[2] = {3, 1};

static int32_t cut_of(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)step, (void)trace;
    return user ? *(const int32_t *)user : n_layers - 1;
}

static salf_policy_options options(void) {
    salf_policy_options o;
    salf_options_init(&o, sizeof o);
    o.total_steps = 40;
    o.interval = 2;
    o.script = script;
    o.n_script = 2;
    o.callback = cut_of;
    return o;
}

static salf_policy *make(int32_t kind, int32_t reduction) {
    salf_policy_options o = options();
    o.reduction = reduction;
    salf_policy *policy = NULL;
    CHECK_OK(salf_policy_create(&policy, context, kind, M, &o));
    return policy;
}

static salf_trace good_trace(void) {
    return (salf_trace){.rows = 2, .n_layers = M, .gains = gains, .eof = eof};
}

/* The call fails as told, leaves the decision alone, and the same policy then decides as a fresh one. */
static void check_refused(int32_t kind, int32_t reduction, const salf_observation *bad, salf_status status,
                          const char *words) {
    const salf_trace trace = good_trace();
    const salf_observation good = {.struct_size = sizeof good,
                                   .step = 5,
                                   .trace = &trace,
                                   .gradient_l1 = norms,
                                   .gradient_norm = norms,
                                   .parameter_norm = norms};
    salf_policy *policy = make(kind, reduction), *fresh = make(kind, reduction);
    salf_decision d = {.struct_size = sizeof d, .cut = 77}, want = {.struct_size = sizeof want};
    CHECK_FAILS(salf_policy_decide(policy, bad, &d), status, words);
    ck_assert_int_eq(d.cut, 77);
    CHECK_OK(salf_policy_decide(policy, &good, &d));
    CHECK_OK(salf_policy_decide(fresh, &good, &want));
    ck_assert_int_eq(d.cut, want.cut);
    ck_assert_int_eq(d.n_added, want.n_added);
    ck_assert_mem_eq(d.rate_scale, want.rate_scale, M * sizeof(double));
    salf_policy_destroy(policy);
    salf_policy_destroy(fresh);
}

/* ---- the trace ---- */

static void refuse_trace(int32_t kind, int32_t reduction, salf_trace trace, salf_status status, const char *words) {
    const salf_observation seen = {.struct_size = sizeof seen, .step = 3, .trace = &trace};
    check_refused(kind, reduction, &seen, status, words);
}

START_TEST(bad_traces_are_named) {
    static const int32_t low[2] = {0, -1}, high[2] = {4, 0};
    for (int32_t reduction = 0; reduction < 5; reduction++)
        for (int both = 0; both < 2; both++) {
            const int32_t kind = both ? SALF_POLICY_CALLBACK : SALF_POLICY_SALF;
            salf_trace t = good_trace();
            t.n_layers = 9;
            refuse_trace(kind, reduction, t, SALF_E_SHAPE, "trace of 9 layers for a policy of 4");
            t = good_trace();
            t.rows = -6;
            refuse_trace(kind, reduction, t, SALF_E_ARGUMENT, "-6 rows");
            t = good_trace();
            t.eof = low;
            refuse_trace(kind, reduction, t, SALF_E_ARGUMENT, "eof of row 1 is -1, not in 0 ... 3");
            t.eof = high;
            refuse_trace(kind, reduction, t, SALF_E_ARGUMENT, "eof of row 0 is 4");
            t.eof = NULL;
            refuse_trace(kind, reduction, t, SALF_E_NULL, "eof of the trace is NULL");
        }
    salf_trace t = good_trace();
    t.gains = NULL;
    refuse_trace(SALF_POLICY_SALF, SALF_REDUCE_MEAN_GAIN, t, SALF_E_NULL, "gains of the trace is NULL");
    static const double huge[2 * M] = {0, 1e308, 0, 0, 0, 1e308, 0, 2};
    t = good_trace();
    t.gains = huge;
    refuse_trace(SALF_POLICY_SALF, SALF_REDUCE_MEAN_GAIN, t, SALF_E_OVERFLOW, "the gains of layer 1 sum to inf");
    t = good_trace();
    t.rows = 0;
    for (int32_t reduction = 0; reduction < 5; reduction++) {
        refuse_trace(SALF_POLICY_SALF, reduction, t, SALF_E_ARGUMENT, "0 rows");
        const salf_observation none = {.struct_size = sizeof none};
        check_refused(SALF_POLICY_SALF, reduction, &none, SALF_E_NULL, "trace is NULL");
    }
}
END_TEST

/* A loaded planner has a task, but not the size that was asked for: the share of a batch would be of nothing. */
START_TEST(a_loaded_planner_is_asked_first) {
    const salf_planner_options plans[] = {
        {.struct_size = sizeof *plans, .matching = SALF_MATCH_NONE},
        {.struct_size = sizeof *plans, .matching = SALF_MATCH_STREAM, .stream_order = SALF_STREAM_MIXED}};
    for (int i = 0; i < 2; i++) {
        salf_planner *planner, *loaded;
        salf_task task;
        uint8_t blob[4096];
        uint64_t size = sizeof blob;
        CHECK_OK(salf_planner_create(&planner, context, M, 40, &plans[i]));
        CHECK_OK(salf_planner_create(&loaded, context, M, 40, &plans[i]));
        CHECK_OK(salf_planner_next(planner, 6, &task));
        CHECK_OK(salf_planner_save(planner, blob, &size));
        CHECK_OK(salf_planner_load(loaded, blob, size));
        salf_policy_options o = options();
        o.planner = loaded;
        salf_policy *policy;
        CHECK_OK(salf_policy_create(&policy, context, SALF_POLICY_BUDGET, M, &o));
        const salf_observation seen = {.struct_size = sizeof seen};
        salf_decision d = {.struct_size = sizeof d, .cut = 77};
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_SEQUENCE, "call salf_planner_next first");
        ck_assert_int_eq(d.cut, 77);
        CHECK_OK(salf_planner_next(loaded, 8, &task));
        ck_assert_int_eq(task.n_data, 6);
        CHECK_OK(salf_policy_decide(policy, &seen, &d));
        ck_assert(d.batch_share > 0.74 && d.batch_share < 0.76);
        salf_policy_destroy(policy);
        salf_planner_destroy(loaded);
        salf_planner_destroy(planner);
    }
}
END_TEST

/* Rows of a trace that are no data: PREFIX alone would cut them apart, and is refused where the host has said how many
 * data there are. Two rows stand for one datum of two tokens, or for data that a trace lacks. */
START_TEST(rows_that_are_no_data_are_refused_for_prefix) {
    for (int32_t reduction = 0; reduction < 5; reduction++)
        for (int32_t n_data = -1; n_data < 4; n_data++)
            for (int both = 0; both < 2; both++) {
                const int32_t kind = both ? SALF_POLICY_CALLBACK : SALF_POLICY_SALF;
                const salf_trace t = good_trace(); /* of two rows */
                const salf_observation seen = {.struct_size = sizeof seen, .n_data = n_data, .step = 3, .trace = &t};
                char words[128];
                snprintf(words, sizeof words, "reduction prefix: a trace of 2 rows for %d data", (int)n_data);
                if (n_data < 0) {
                    check_refused(kind, reduction, &seen, SALF_E_ARGUMENT, "n_data is -1");
                } else if (reduction == SALF_REDUCE_PREFIX && n_data != 0 && n_data != 2) {
                    check_refused(kind, reduction, &seen, SALF_E_SHAPE, words);
                } else {
                    salf_decision d = {.struct_size = sizeof d};
                    salf_policy *policy = make(kind, reduction);
                    CHECK_OK(salf_policy_decide(policy, &seen, &d));
                    ck_assert_int_eq(d.rows, 2);
                    salf_policy_destroy(policy);
                }
            }
}
END_TEST

/* ---- norms ---- */

static void refuse_norms(int32_t kind, salf_observation seen, salf_status status, const char *words) {
    seen.struct_size = sizeof seen;
    check_refused(kind, 0, &seen, status, words);
}

START_TEST(bad_norms_are_named) {
    static const double nan[M] = {1, NAN, 1, 1}, infinite[M] = {1, 1, 1, INFINITY}, negative[M] = {1, 1, -2.5, 1};
    static const double zero[M] = {1, 1, 0, 1}, tiny[M] = {1, 1, 1, 1e-310}, huge[M] = {1, 1, 1, 1e10};
    const int32_t a = SALF_POLICY_AUTOFREEZE, r = SALF_POLICY_RGN;
    refuse_norms(a, (salf_observation){.gradient_l1 = nan}, SALF_E_NONFINITE, "gradient_l1 of layer 1 is nan");
    refuse_norms(a, (salf_observation){.gradient_l1 = infinite}, SALF_E_NONFINITE, "gradient_l1 of layer 3 is inf");
    refuse_norms(a, (salf_observation){.gradient_l1 = negative}, SALF_E_ARGUMENT, "gradient_l1 of layer 2 is -2.5");
    const struct {
        const double *gradient, *parameter;
        salf_status status;
        const char *words;
    } table[] = {{nan, norms, SALF_E_NONFINITE, "gradient_norm of layer 1"},
                 {norms, infinite, SALF_E_NONFINITE, "parameter_norm of layer 3 is inf"},
                 {negative, norms, SALF_E_ARGUMENT, "gradient_norm of layer 2 is -2.5"},
                 {norms, negative, SALF_E_ARGUMENT, "parameter_norm of layer 2 is -2.5"},
                 {norms, zero, SALF_E_ARGUMENT, "parameter_norm of layer 2 is 0"},
                 {huge, tiny, SALF_E_ARGUMENT, "parameter_norm of layer 3 is 1e-310"},
                 {norms, NULL, SALF_E_NULL, "parameter_norm is NULL at step 0"},
                 {NULL, norms, SALF_E_NULL, "gradient_norm is NULL at step 0"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        refuse_norms(r, (salf_observation){.gradient_norm = table[i].gradient, .parameter_norm = table[i].parameter},
                     table[i].status, table[i].words);
}
END_TEST

START_TEST(norms_may_be_missing_at_first_only) {
    static const int32_t kinds[2] = {SALF_POLICY_AUTOFREEZE, SALF_POLICY_RGN};
    for (int i = 0; i < 2; i++) {
        salf_policy *policy = make(kinds[i], 0);
        salf_observation seen = {.struct_size = sizeof seen};
        salf_decision d = {.struct_size = sizeof d};
        CHECK_OK(salf_policy_decide(policy, &seen, &d));
        seen.step = 6;
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_NULL, "is NULL at step 6");
        salf_policy_destroy(policy);
    }
}
END_TEST

/* ---- steps, structs, the host's answers ---- */

START_TEST(steps_only_rise) {
    const salf_trace trace = good_trace();
    for (int32_t kind = 0; salf_constant_word("SALF_POLICY", kind); kind++) {
        if (kind == SALF_POLICY_BUDGET) continue; /* its planner tells it what to do */
        salf_policy *policy = make(kind, 0);
        salf_observation seen = {.struct_size = sizeof seen,
                                 .step = -1,
                                 .trace = &trace,
                                 .gradient_l1 = norms,
                                 .gradient_norm = norms,
                                 .parameter_norm = norms};
        salf_decision d = {.struct_size = sizeof d};
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_ARGUMENT, "step is -1");
        seen.step = INT64_MAX;
        CHECK_OK(salf_policy_decide(policy, &seen, &d));
        ck_assert_int_eq(d.step, INT64_MAX);
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_SEQUENCE, "step 9223372036854775807 after step");
        seen.step = 8;
        CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_SEQUENCE, "step 8 after step 9223372036854775807");
        salf_policy_destroy(policy);
    }
}
END_TEST

START_TEST(structs_of_other_sizes) {
    salf_policy *policy = make(SALF_POLICY_SUFFIX, 0);
    salf_observation seen = {.struct_size = 3};
    salf_decision d = {.struct_size = sizeof d};
    CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_STRUCT, "salf_observation");
    CHECK_FAILS(salf_policy_decide(policy, NULL, &d), SALF_E_NULL, "seen is NULL");
    seen.struct_size = sizeof seen;
    CHECK_FAILS(salf_policy_decide(policy, &seen, NULL), SALF_E_NULL, "decision");
    CHECK_FAILS(salf_policy_decide(NULL, &seen, &d), SALF_E_NULL, "policy");
    d.struct_size = 0;
    CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_STRUCT, "salf_decision");
    struct {
        salf_observation seen;
        int64_t more;
    } longer = {.seen = {.struct_size = sizeof longer}, .more = 1};
    d.struct_size = sizeof d;
    CHECK_FAILS(salf_policy_decide(policy, &longer.seen, &d), SALF_E_STRUCT, "salf_observation");
    longer.more = 0;
    CHECK_OK(salf_policy_decide(policy, &longer.seen, &d)); /* step 0 is still to be had: nothing was kept */
    ck_assert_int_eq(d.n_added, M);
    salf_policy_destroy(policy);
}
END_TEST

START_TEST(callbacks_that_fail) {
    int32_t answer = -3;
    salf_policy_options o = options();
    o.callback_user = &answer;
    salf_policy *policy = NULL;
    CHECK_OK(salf_policy_create(&policy, context, SALF_POLICY_CALLBACK, M, &o));
    salf_observation seen = {.struct_size = sizeof seen, .step = 2};
    salf_decision d = {.struct_size = sizeof d};
    CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_CALLBACK, "returned -3 at step 2");
    answer = M;
    CHECK_FAILS(salf_policy_decide(policy, &seen, &d), SALF_E_CALLBACK, "returned 4 at step 2, not 0 ... 3");
    answer = 2;
    CHECK_OK(salf_policy_decide(policy, &seen, &d));
    ck_assert_int_eq(d.cut, 2);
    ck_assert_ptr_null(d.eof);
    salf_policy_destroy(policy);
}
END_TEST

/* ---- blobs ---- */

static uint64_t save(const salf_policy *policy, uint8_t bytes[1024]) {
    uint64_t size = 1024;
    CHECK_OK(salf_policy_save(policy, bytes, &size));
    return size;
}

START_TEST(blobs_of_other_policies_name_what_differs) {
    salf_policy_options o = options();
    salf_policy *one = make(SALF_POLICY_LISA, 0), *other = NULL;
    uint8_t bytes[1024];
    const uint64_t size = save(one, bytes);
#define DIFFERS(kind, m, field, value, words)                                  \
    o = options();                                                             \
    o.field = value;                                                           \
    CHECK_OK(salf_policy_create(&other, context, kind, m, &o));                \
    CHECK_FAILS(salf_policy_load(other, bytes, size), SALF_E_MISMATCH, words); \
    salf_policy_destroy(other)
    DIFFERS(SALF_POLICY_RANDOM, M, seed, 0, "kind is 7 in the blob, 13");
    DIFFERS(SALF_POLICY_LISA, 5, seed, 0, "n_layers is 4 in the blob, 5");
    DIFFERS(SALF_POLICY_LISA, M, seed, 8, "seed is 0 in the blob, 8");
    DIFFERS(SALF_POLICY_LISA, M, n_active, 3, "n_active is 2 in the blob, 3");
    DIFFERS(SALF_POLICY_LISA, M, interval, 9, "interval is 2 in the blob, 9");
    DIFFERS(SALF_POLICY_LISA, M, always_on, 1, "always_on");
    DIFFERS(SALF_POLICY_LISA, M, reduction, 1, "reduction");
    DIFFERS(SALF_POLICY_LISA, M, start, 0.25, "start");
    salf_policy_destroy(one);
}
END_TEST

/* A blob with one byte of its payload changed, behind a right header. */
static salf_status load_altered(salf_policy *policy, const uint8_t *bytes, uint64_t size, uint64_t i) {
    uint8_t whole[1024];
    payload p = {.size = size - 32};
    memcpy(p.bytes, bytes + 32, size - 32);
    p.bytes[i - 32] ^= 0x80;
    uint64_t room = sizeof whole;
    CHECK_OK(slf_blob_save("POLI", 3, write_payload, &p, whole, &room));
    return salf_policy_load(policy, whole, room);
}

/* Every byte of the blob damaged, noticed by the checksum or only by its reader: a load that fails leaves the policy
 * as it was, also for its next blobs. */
START_TEST(damaged_blobs_change_nothing) {
    static const int32_t kinds[2] = {SALF_POLICY_AUTOFREEZE, SALF_POLICY_HALF};
    for (int i = 0; i < 2; i++) {
        salf_policy *one = make(kinds[i], 0), *two = make(kinds[i], 0);
        uint8_t bytes[1024], first[1024], second[1024];
        salf_observation seen = {.struct_size = sizeof seen, .gradient_l1 = norms};
        salf_decision d = {.struct_size = sizeof d};
        int refused = 0;
        for (; seen.step < 5; seen.step++) {
            CHECK_OK(salf_policy_decide(one, &seen, &d));
            seen.gradient_l1 = d.gradients_wanted ? norms : NULL;
        }
        const uint64_t size = save(one, bytes);
        CHECK_OK(salf_policy_load(two, bytes, size));
        for (uint64_t at = 0; at < size; at++) {
            bytes[at] ^= 0x80;
            ck_assert_int_ne(salf_policy_load(two, bytes, size), SALF_OK);
            bytes[at] ^= 0x80;
            if (at < 32 || load_altered(two, bytes, size, at) != SALF_OK)
                refused++;
            else
                CHECK_OK(salf_policy_load(two, bytes, size));
        }
        ck_assert_int_gt(refused, 200);
        for (; seen.step < 9; seen.step++) {
            CHECK_OK(salf_policy_decide(one, &seen, &d));
            CHECK_OK(salf_policy_decide(two, &seen, &d));
            seen.gradient_l1 = d.gradients_wanted ? norms : NULL;
            ck_assert_uint_eq(save(one, first), size);
            ck_assert_uint_eq(save(two, second), size);
            ck_assert_mem_eq(first, second, size);
        }
        salf_policy_destroy(one);
        salf_policy_destroy(two);
    }
}
END_TEST

/* ---- memory ---- */

/* Batches of 1, 2 and 4 rows make the rows grow twice. */
static salf_status decide_growing(salf_policy *policy) {
    static const double many[4 * M] = {0, 1, 0, 0, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1, 0, 2};
    static const int32_t cuts[4] = {1, 3, 1, 3};
    salf_status status = SALF_OK;
    int32_t wanted = 1;
    for (int64_t step = 0; status == SALF_OK && step < 3; step++) {
        const salf_trace trace = {.rows = (int64_t)1 << step, .n_layers = M, .gains = many, .eof = cuts};
        const salf_observation seen = {.struct_size = sizeof seen,
                                       .step = step,
                                       .trace = &trace,
                                       .gradient_l1 = wanted ? norms : NULL,
                                       .gradient_norm = norms,
                                       .parameter_norm = norms};
        salf_decision d = {.struct_size = sizeof d};
        status = salf_policy_decide(policy, &seen, &d);
        if (status != SALF_OK) { /* it can be asked again */
            CHECK_OK(salf_policy_decide(policy, &seen, &d));
            ck_assert_int_eq(d.step, step);
        }
        wanted = d.gradients_wanted;
    }
    return status;
}

static salf_status save_and_load(salf_policy *policy) {
    uint8_t bytes[1024];
    uint64_t size = sizeof bytes;
    const salf_status status = salf_policy_save(policy, bytes, &size);
    return status == SALF_OK ? salf_policy_load(policy, bytes, size) : status;
}

static salf_status live(harness_memory *memory, int32_t backend, void *user) {
    const int32_t kind = *(const int32_t *)user;
    salf_policy_options o = options();
    salf_context *own = NULL;
    salf_policy *policy = NULL;
    salf_task task;
    salf_status status = harness_context_or_status(&own, backend, memory);
    if (status == SALF_OK && kind == SALF_POLICY_BUDGET) status = salf_planner_create(&o.planner, own, M, 9, NULL);
    if (status == SALF_OK && o.planner) status = salf_planner_next(o.planner, 4, &task);
    if (status == SALF_OK) {
        status = salf_policy_create(&policy, own, kind, M, &o);
        ck_assert((status == SALF_OK) == (policy != NULL));
    }
    if (status == SALF_OK) status = decide_growing(policy);
    if (status == SALF_OK) status = save_and_load(policy);
    salf_planner_destroy(o.planner);
    salf_policy_destroy(policy);
    salf_context_destroy(own);
    return status;
}

START_TEST(every_allocation_may_fail) {
    for (int32_t kind = 0; salf_constant_word("SALF_POLICY", kind); kind++)
        harness_fail_each_allocation(live, SALF_BACKEND_REFERENCE, &kind);
}
END_TEST

#define ADD(function) HARNESS_ADD_BETWEEN(suite, function, open_context, close_context)

void harness_suite(Suite *suite) {
    ADD(bad_traces_are_named);
    ADD(a_loaded_planner_is_asked_first);
    ADD(rows_that_are_no_data_are_refused_for_prefix);
    ADD(bad_norms_are_named);
    ADD(norms_may_be_missing_at_first_only);
    ADD(steps_only_rise);
    ADD(structs_of_other_sizes);
    ADD(callbacks_that_fail);
    ADD(blobs_of_other_policies_name_what_differs);
    ADD(damaged_blobs_change_nothing);
    HARNESS_ADD(suite, every_allocation_may_fail);
}
