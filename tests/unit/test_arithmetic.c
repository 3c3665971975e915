/* What the host's thread computes with - denormal numbers flushed, another rounding, NaN trapped - changes no bit of
 * what the library gives, and is as it was afterwards. */
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "backend/cpu/cpu.h"
#include "core/dtypes.h"
#include "harness.h"
#include "oracle.h"

enum { V = 60, D = 40, M = 2, ROWS = 4, SPACES = M + 1 };

/* Everything that is computed of a head, to be compared to the last bit. */
typedef struct {
    uint64_t fingerprint;
    double rows[ROWS * D];
    double deviations[8][ROWS * SPACES]; /* by metric */
    float loss[2][ROWS], gradient[2][ROWS * D];
} numbers;

static const int32_t labels[ROWS] = {3, 17, 59, 0};
static const int32_t dtypes[] = {SALF_F32, SALF_BF16, SALF_F16};

/* Rows [n][D] of a type. Of float16 nearly all are subnormal (below 6.1e-5), of the others every fifth (below 1.2e-38).
 */
static void fill(void *out, int32_t dtype, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n * D; i++) {
        const double x = harness_normal(&seed);
        if (dtype == SALF_F16)
            ((uint16_t *)out)[i] = harness_to_f16((float)(x * 2e-5));
        else if (dtype == SALF_BF16)
            ((uint16_t *)out)[i] = harness_to_bf16((float)(i % 5 ? x : x * 1e-38));
        else
            ((float *)out)[i] = (float)(i % 5 ? x : x * 1e-38);
    }
}

static float head[V * D], states[SPACES][ROWS * D]; /* of the type at hand */

/* Bytes that no call writes are 0 on both sides of a comparison. */
static numbers *compute(int32_t backend, int32_t threads, int32_t dtype) {
    numbers *all = calloc(1, sizeof *all);
    const salf_context_options c = {.struct_size = sizeof c, .backend = backend, .threads = threads};
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    CHECK_OK(salf_context_create(&context, &c));
    const salf_model_options m = {.struct_size = sizeof m,
                                  .n_layers = M,
                                  .hidden = D,
                                  .vocab = V,
                                  .head = oracle_view(head, dtype, V, D),
                                  .norm_kind = SALF_NORM_LAYER};
    CHECK_OK(salf_model_create(&model, context, &m));
    CHECK_OK(salf_model_fingerprint(model, &all->fingerprint));
    CHECK_OK(salf_basis_create(&basis, model, labels, ROWS, NULL));
    const salf_tensor rows = oracle_view(all->rows, SALF_F64, ROWS, D);
    CHECK_OK(salf_basis_rows(basis, labels, ROWS, &rows));
    for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
        const salf_probe_options p = {.struct_size = sizeof p, .metric = metric, .lens = SALF_LENS_NORMED};
        salf_probe *probe;
        salf_trace trace;
        CHECK_OK(salf_probe_create(&probe, basis, &p));
        CHECK_OK(salf_probe_begin(probe, labels, ROWS));
        for (int32_t k = 0; k < SPACES; k++) {
            const salf_tensor view = oracle_view(states[k], dtype, ROWS, D);
            CHECK_OK(salf_probe_observe(probe, k, &view, SALF_STATE_RAW));
        }
        CHECK_OK(salf_probe_end(probe, &trace));
        memcpy(all->deviations[metric], trace.deviations, sizeof all->deviations[metric]);
        salf_probe_destroy(probe);
    }
    for (int32_t kind = SALF_LOSS_COSINE; kind <= SALF_LOSS_CE; kind++) {
        const salf_loss_options l = {.struct_size = sizeof l, .kind = kind, .temperature = 0.1};
        const salf_tensor view = oracle_view(states[0], dtype, ROWS, D);
        const salf_tensor loss = oracle_view(all->loss[kind], SALF_F32, ROWS, 1);
        const salf_tensor gradient = oracle_view(all->gradient[kind], SALF_F32, ROWS, D);
        salf_loss *made;
        CHECK_OK(salf_loss_create(&made, basis, &l));
        CHECK_OK(salf_loss_compute(made, labels, &view, 1e-3, &loss, &gradient));
        salf_loss_destroy(made);
    }
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return all;
}

/* Mode number k of a host's thread; false past the last. */
static bool host_mode(int k) {
    static const int roundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    if (k < 4) return fesetround(roundings[k]) == 0;
#if defined(__x86_64__)
    if (k == 4) return _mm_setcsr(_mm_getcsr() | 0x8040), true;  /* FTZ and DAZ */
    if (k == 5) return _mm_setcsr(_mm_getcsr() & ~0x80u), true;  /* an invalid operation is a signal */
    if (k == 6) return _mm_setcsr(_mm_getcsr() & ~0x600u), true; /* a division by 0 and an overflow are */
#endif
    return false;
}

static void check_modes(int32_t backend, int32_t threads) {
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++) {
        fill(head, dtypes[t], V, 3); /* before a mode is set: the test computes in the host's, too */
        for (int k = 0; k < SPACES; k++) fill(states[k], dtypes[t], ROWS, 100 + (uint64_t)k);
        numbers *expected = compute(backend, threads, dtypes[t]);
        for (int k = 1;; k++) {
            fenv_t ours;
            fegetenv(&ours);
            if (!host_mode(k)) break;
#if defined(__x86_64__)
            const unsigned before = _mm_getcsr();
            numbers *got = compute(backend, threads, dtypes[t]);
            ck_assert_uint_eq(_mm_getcsr() & 0xffc0, before & 0xffc0); /* but for flags, which the test raises too */
#else
            numbers *got = compute(backend, threads, dtypes[t]);
#endif
            fesetenv(&ours);
            ck_assert_msg(memcmp(expected, got, sizeof *got) == 0, "mode %d, dtype %d, backend %d", k, (int)dtypes[t],
                          (int)backend);
            free(got);
        }
        free(expected);
    }
}

START_TEST(modes_of_the_host_change_no_bit) {
    check_modes(SALF_BACKEND_REFERENCE, 0);
    check_modes(SALF_BACKEND_CPU, 1);
}
END_TEST

/* Workers that start in a flushing thread do not flush. */
START_TEST(nor_do_they_in_threads) {
    check_modes(SALF_BACKEND_CPU, 3);
}
END_TEST

/* What plain numbers give: plans, decisions, prices, signals. */
typedef struct {
    int64_t counts[2][200][4];
    double saving[200], rates[4][4], share[3];
    salf_cost cost;
} plain_numbers;

static plain_numbers *compute_plain(void) {
    static const double weights[] = {0.1, 0.2, 0.3, 0.7}, tiny[] = {1e-310, 3e-310, 2e-310, 1e-310};
    static const double gains[] = {1e-160, 3, 1e-310, 2, 0.1, 0.2, 0.3, 0.7};
    static const int32_t eof[] = {1, 3}, groups[] = {5, 6};
    plain_numbers *all = calloc(1, sizeof *all);
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    /* 1. counts, of weights of which rounding decides, of some below 2^-1022, and of capacities beyond float64 */
    for (int i = 0; i < 400; i++) {
        salf_planner *planner;
        const salf_planner_options o = {.struct_size = sizeof o,
                                        .growth = i < 200 ? SALF_GROWTH_CUSTOM : SALF_GROWTH_GEOMETRIC,
                                        .ratio = i < 200 ? 0 : 1e200,
                                        .weights = i % 2 ? weights : tiny};
        CHECK_OK(salf_planner_create(&planner, context, 4, 1000 * (i % 200) + 7, &o));
        CHECK_OK(salf_planner_counts(planner, all->counts[i / 200][i % 200]));
        CHECK_OK(salf_planner_saving(planner, &all->saving[i % 200]));
        salf_planner_destroy(planner);
    }
    /* 2. decisions */
    static const int32_t kinds[] = {SALF_POLICY_FREEZEOUT, SALF_POLICY_LINEAR, SALF_POLICY_RGN, SALF_POLICY_SALF};
    const salf_trace trace = {.rows = 2, .n_layers = 4, .gains = gains, .eof = eof};
    for (int i = 0; i < 4; i++) {
        const salf_policy_options o = {.struct_size = sizeof o, .total_steps = 7, .cubic = 1, .start = 0.3};
        const salf_observation seen = {
            .struct_size = sizeof seen, .step = 3, .trace = &trace, .gradient_norm = tiny, .parameter_norm = weights};
        salf_decision d = {.struct_size = sizeof d};
        salf_policy *policy;
        CHECK_OK(salf_policy_create(&policy, context, kinds[i], 4, &o));
        CHECK_OK(salf_policy_decide(policy, &seen, &d));
        memcpy(all->rates[i], d.rate_scale, sizeof all->rates[i]);
        salf_policy_destroy(policy);
    }
    /* 3. a price, and a signal */
    const salf_cost_options o = {.struct_size = sizeof o,
                                 .n_layers = 7,
                                 .hidden = 999,
                                 .ffn_hidden = 1234567,
                                 .vocab = 98765,
                                 .n_heads = 9,
                                 .rows = 3,
                                 .row_tokens = 1000003,
                                 .cut = 3};
    all->cost.struct_size = sizeof all->cost;
    CHECK_OK(salf_cost_estimate(&o, &all->cost));
    const salf_signal_options s = {.struct_size = sizeof s, .n_layers = 4};
    salf_signal_info info = {.struct_size = sizeof info};
    salf_signal *signal;
    CHECK_OK(salf_signal_create(&signal, context, &s));
    for (int i = 0; i < 3; i++) CHECK_OK(salf_signal_add(signal, &trace, groups, NULL, eof));
    CHECK_OK(salf_signal_get(signal, &info));
    all->share[0] = info.group_share;
    all->share[1] = info.group_chance;
    all->share[2] = info.group_adjusted;
    salf_signal_destroy(signal);
    salf_context_destroy(context);
    return all;
}

START_TEST(nor_of_what_needs_no_head) {
    plain_numbers *expected = compute_plain();
    for (int k = 1;; k++) {
        fenv_t ours;
        fegetenv(&ours);
        if (!host_mode(k)) break;
        plain_numbers *got = compute_plain();
        fesetenv(&ours);
        ck_assert_msg(memcmp(expected, got, sizeof *got) == 0, "mode %d", k);
        free(got);
    }
    free(expected);
}
END_TEST

/* All 65,536 halves against the definition: sign, 5 bits of exponent, 10 of mantissa. */
START_TEST(halves_are_widened_exactly) {
    for (uint32_t half = 0; half < 65536; half++) {
        const int exponent = (int)(half >> 10 & 31), mantissa = (int)(half & 1023);
        const double sign = half >> 15 ? -1 : 1;
        const float got = slf_f16_to_f32((uint16_t)half);
        if (exponent == 31 && mantissa)
            ck_assert(isnan(got));
        else if (exponent == 31)
            ck_assert((double)got == sign * (double)INFINITY);
        else
            ck_assert((double)got == sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24)));
        ck_assert_int_eq(signbit(got) != 0, (int)(half >> 15));
    }
}
END_TEST

/* Every kernel of this processor: to 2 ulp between the bounds, and at the bounds beyond them; NaN stays NaN. */
START_TEST(exponentials_end_at_their_bounds) {
    static const double x[] = {-1e300, -709, -708, -1, 0, 1, 708.5, 709, 709.7, 800, 1e300};
    enum { N = sizeof x / sizeof *x };
    for (int rank = 0; slf_kernels_at(rank); rank++) {
        double got[N + 1];
        memcpy(got, x, sizeof x);
        got[N] = (double)NAN;
        slf_kernels_at(rank)->exp(got, N + 1);
        for (int i = 0; i < N; i++) {
            const double want = exp(fmax(fmin(x[i], 709), -708));
            ck_assert_msg(fabs(got[i] - want) <= 0x1p-51 * want, "kernel %d: exp(%g) is %g", rank, x[i], got[i]);
        }
        ck_assert(isnan(got[N]));
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, modes_of_the_host_change_no_bit);
    HARNESS_ADD(suite, nor_do_they_in_threads);
    HARNESS_ADD(suite, nor_of_what_needs_no_head);
    HARNESS_ADD(suite, halves_are_widened_exactly);
    HARNESS_ADD(suite, exponentials_end_at_their_bounds);
}
