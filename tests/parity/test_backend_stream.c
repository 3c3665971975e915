/*
 * test_backend_stream.c - slots that keep a device's work in its stream: events, fills, page-locked memory, and what
 * would otherwise be worked out on the host between two slots (rounded rows, limits, targets, similarities).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "parity.h"

static void check_events(const parity_case *c) {
    void *event = NULL, *memory = NULL;
    int32_t ready = 0;
    CHECK_OK(c->backend->wait(c->impl, event, &ready)); /* never marked */
    ck_assert_int_eq(ready, 1);
    CHECK_OK(c->backend->wait(c->impl, event, NULL));
    CHECK_OK(c->backend->alloc(c->impl, SLF_MEMORY_PINNED, 64, &memory));
    memset(memory, 1, 64);
    for (int k = 0; k < 2; k++) {
        void *const before = event;
        CHECK_OK(c->backend->mark(c->impl, &event));
        ck_assert(k == 0 || event == before); /* made once */
        CHECK_OK(c->backend->wait(c->impl, event, NULL));
        ready = 0;
        CHECK_OK(c->backend->wait(c->impl, event, &ready));
        ck_assert_int_eq(ready, 1);
    }
    c->backend->free(c->impl, SLF_MEMORY_PINNED, memory);
    c->backend->free(c->impl, SLF_MEMORY_PINNED, NULL);
    c->backend->free(c->impl, SLF_EVENT, event);
    c->backend->free(c->impl, SLF_EVENT, NULL);
}

START_TEST(events_are_ready_when_work_is_done) {
    parity_backends(1, 1, check_events);
}
END_TEST

static void check_fill(const parity_case *c) {
    double x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    CHECK_OK(c->backend->fill(c->impl, x + 1, 7, -INFINITY));
    for (int k = 1; k < 8; k++) ck_assert(isinf(x[k]) && x[k] < 0);
    ck_assert(x[0] == 1 && x[8] == 9);
    CHECK_OK(c->backend->fill(c->impl, NULL, 0, 1));
}

START_TEST(fill_sets_the_count_asked_for) {
    parity_backends(1, 1, check_fill);
}
END_TEST

static double length_of(const double *x, int64_t dim) {
    long double square = 0;
    for (int64_t i = 0; i < dim; i++) square += (long double)x[i] * (long double)x[i];
    return (double)sqrtl(square);
}

static void check_norms_without_p(const parity_case *c) {
    uint64_t seed = 3;
    parity_matrix x = parity_normal(&seed, c->rows, c->dim, c->dtype, c->scattered);
    double *norms = parity_zeros(c->rows + 1, sizeof *norms);
    double *out = parity_zeros(c->rows * c->dim + 1, sizeof *out);
    const slf_apply_job job = {.rows = &x.view, .out = out, .norms = norms};
    CHECK_OK(c->backend->apply(c->impl, &job));
    ck_assert_mem_eq(out, x.value, (size_t)(c->rows * c->dim) * sizeof *out);
    free(out);
    for (int64_t r = 0; r < c->rows; r++)
        parity_near(c, "norm", r, norms[r], length_of(x.value + r * c->dim, c->dim), 1e-13 * (double)(c->dim + 1));
    free(norms);
    parity_matrix_free(&x);
}

START_TEST(norms_without_p_are_the_rows_own) {
    parity_each(check_norms_without_p);
}
END_TEST

/* Y in float32. P keeps the even elements of a row and makes the odd ones 2^-10 of what they were, or is not there.
 * Every third row has odd ones alone, so that it is below a noise of 2^-9 and above one of 2^-11. */
static void check_rounded_rows(const parity_case *c, bool with_p, double noise) {
    const int64_t d = c->dim;
    uint64_t seed = 4;
    double *values = parity_doubles(&seed, c->rows * d), *p = parity_zeros(d * d, sizeof *p);
    double *norms = parity_zeros(c->rows + 1, sizeof *norms), *out = parity_zeros(c->rows * d + 1, sizeof *out);
    float *rounded = parity_zeros(c->rows * d + 1, sizeof *rounded);
    for (int64_t i = 0; i < d; i++) p[i * d + i] = i % 2 ? 0x1p-10 : 1;
    for (int64_t r = 2; r < c->rows; r += 3)
        for (int64_t i = 0; i < d; i += 2) values[r * d + i] = 0;
    parity_matrix x = parity_matrix_of(values, c->rows, d, c->dtype, c->scattered);
    rounded[c->rows * d] = 4.25f, norms[c->rows] = 4.25;
    const slf_apply_job job = {
        .p = with_p ? p : NULL, .rows = &x.view, .out = out, .norms = norms, .rounded = rounded, .noise = noise};
    CHECK_OK(c->backend->apply(c->impl, &job));
    for (int64_t r = 0; r < c->rows; r++) {
        const bool zero = with_p && r % 3 == 2 && noise > 0x1p-10;
        long double square = 0;
        for (int64_t i = 0; i < d; i++) {
            const double y = x.value[r * d + i] * (with_p && i % 2 ? 0x1p-10 : 1);
            const float kept = rounded[r * d + i];
            square += (long double)kept * (long double)kept;
            ck_assert_double_eq(out[r * d + i], y);
            ck_assert(kept == (zero ? 0 : (float)y));
        }
        parity_near(c, "norm", r, norms[r], (double)sqrtl(square), 1e-13 * (double)(d + 1));
    }
    ck_assert(rounded[c->rows * d] == 4.25f && norms[c->rows] == 4.25);
    free(values), free(p), free(norms), free(out), free(rounded);
    parity_matrix_free(&x);
}

static void check_rounded(const parity_case *c) {
    check_rounded_rows(c, false, 0x1p-9);
    if (c->dim == 1) return; /* a row of no odd element is 0, and 0 is below every noise */
    check_rounded_rows(c, true, 0x1p-9);
    check_rounded_rows(c, true, 0x1p-11);
}

START_TEST(rounded_rows_and_their_norms) {
    parity_each(check_rounded);
}
END_TEST

/* What float32 cannot hold, and what is no number, shows in the norm. */
static void check_rounded_special(const parity_case *c) {
    const double values[] = {1, (double)NAN, 1, 1e100, 0, 0, 3, 0, 4};
    const salf_tensor rows = slf_tensor_host(values, SALF_F64, 3, 3);
    float rounded[9];
    double norms[3] = {0};
    const slf_apply_job job = {.rows = &rows, .norms = norms, .rounded = rounded, .noise = 1e-3};
    CHECK_OK(c->backend->apply(c->impl, &job));
    ck_assert(isnan(norms[0]) && isinf(norms[1]));
    ck_assert_double_eq(norms[2], 5);
}

START_TEST(rounding_shows_what_is_not_finite) {
    parity_backends(3, 1, check_rounded_special);
}
END_TEST

/* Each row by its own length; NaN says nothing. */
static void check_limit(const parity_case *c) {
    const int64_t d = c->dim;
    uint64_t seed = 5;
    double *values = parity_doubles(&seed, c->rows * d), *z = parity_zeros(c->rows * d + 1, sizeof *z), longest = 0;
    double *p = parity_zeros(d * d, sizeof *p); /* z = 2 h */
    int32_t *needs_f64 = parity_zeros(c->rows + 1, sizeof *needs_f64);
    for (int64_t i = 0; i < d; i++) p[i * d + i] = 2;
    if (c->rows > 0) values[0] = (double)NAN;
    parity_matrix h = parity_matrix_of(values, c->rows, d, c->dtype, c->scattered);
    for (int64_t r = 1; r < c->rows; r++) longest = fmax(longest, length_of(h.value + r * d, d));
    static const double parts[] = {1.000001, 0.999999, 0.8, 0};
    for (size_t k = 0; k < 2 * sizeof parts / sizeof *parts; k++) {
        const bool doubled = k % 2;
        const double limit = longest * parts[k / 2] * (doubled ? 8 : 1);
        for (int64_t r = 0; r <= c->rows; r++) needs_f64[r] = 5;
        const slf_query_job job = {.states = &h.view,
                                   .p = doubled ? p : NULL,
                                   .z = z,
                                   .needs_f64 = needs_f64,
                                   .limit = limit,
                                   .gain = 4}; /* with P, which is 2 I; not without */
        CHECK_OK(c->backend->query(c->impl, &job));
        for (int64_t r = 0; r < c->rows; r++)
            ck_assert_int_eq(needs_f64[r], length_of(h.value + r * d, d) > longest * parts[k / 2]);
        ck_assert_int_eq(needs_f64[c->rows], 5);
    }
    free(values), free(z), free(p), free(needs_f64);
    parity_matrix_free(&h);
}

/* The limit is a length that float32 still serves. */
static void check_limit_itself(const parity_case *c) {
    const double values[] = {3, 4}, limits[] = {5, 4.999};
    parity_matrix h = parity_matrix_of(values, 1, 2, SALF_F32, false);
    for (int k = 0; k < 2; k++) {
        double z[2];
        int32_t needs_f64 = 5;
        const slf_query_job job = {.states = &h.view, .z = z, .needs_f64 = &needs_f64, .limit = limits[k], .gain = 1};
        CHECK_OK(c->backend->query(c->impl, &job));
        ck_assert_int_eq(needs_f64, k);
    }
    parity_matrix_free(&h);
}

START_TEST(needs_f64_by_the_length_of_z) {
    parity_each(check_limit);
    parity_backends(1, 2, check_limit_itself);
}
END_TEST

/* s_l as a logit and as a cosine, how far rounding can carry it, and where float32 has not the range for it. */
static void check_target(const parity_case *c) {
    enum { VOCAB = 9 };
    uint64_t seed = 6;
    parity_matrix w = parity_normal(&seed, VOCAB, c->dim, c->dtype, c->scattered);
    double *z = parity_doubles(&seed, c->rows * c->dim), *target = parity_zeros(c->rows + 1, sizeof *target);
    double *reach = parity_zeros(c->rows + 1, sizeof *reach), inverse[2 * VOCAB];
    int32_t *which = parity_zeros(c->rows + 1, sizeof *which), *place = parity_zeros(c->rows + 1, sizeof *place);
    int32_t *needs_f64 = parity_zeros(c->rows + 1, sizeof *needs_f64);
    float bias[2 * VOCAB];
    for (int64_t i = 0; i < 2 * VOCAB; i++) {
        bias[i] = (float)harness_normal(&seed);
        inverse[i] = 1.5 + fabs(harness_normal(&seed));
    }
    for (int64_t r = 0; r < c->rows; r++) {
        which[r] = (int32_t)((r * 4 + 2) % VOCAB);
        place[r] = (int32_t)((r * 7 + 3) % (2 * VOCAB));
        const double scale = r % 4 == 1 ? 1e-30 : r % 4 == 2 ? 1e38 : 1;
        for (int64_t i = 0; i < c->dim; i++) z[r * c->dim + i] *= scale;
    }
    for (int form = 0; form < 5; form++) {
        const bool logits = form < 4, biased = logits && form & 1, capped = form & 2;
        const slf_score_rule rule = {.logits = logits, .logit_scale = 0.3, .softcap = capped ? 2 : 0, .gain = 1};
        const slf_target_job job = {.z = z,
                                    .rows = c->rows,
                                    .w = &w.view,
                                    .row_of = which,
                                    .place = place,
                                    .inverse_norms = logits ? NULL : inverse,
                                    .bias = biased ? bias : NULL,
                                    .rule = &rule,
                                    .target = target,
                                    .reach = form == 1 ? NULL : reach,
                                    .needs_f64 = form == 2 ? NULL : needs_f64};
        for (int64_t r = 0; r < c->rows; r++) needs_f64[r] = r % 8 == 7;
        CHECK_OK(c->backend->target(c->impl, &job));
        for (int64_t r = 0; r < c->rows; r++) {
            long double q = 0;
            const double *x = w.value + which[r] * c->dim;
            for (int64_t i = 0; i < c->dim; i++) q += (long double)x[i] * (long double)z[r * c->dim + i];
            const long double factor = logits ? 0.3L : (long double)inverse[place[r]];
            const double size = (double)factor * length_of(x, c->dim) * length_of(z + r * c->dim, c->dim);
            long double s = factor * q + (biased ? (long double)bias[place[r]] : 0);
            if (capped) s = 2 * tanhl(s / 2);
            parity_near(c, "target", r, target[r], (double)s, 1e-14 * (double)(c->dim + 1) * (size + 1));
            if (form != 1) parity_near(c, "reach", r, reach[r], size, 1e-13 * size);
            if (form != 2) ck_assert_int_eq(needs_f64[r], r % 8 == 7 || ((r % 4 == 1 || r % 4 == 2) && size > 0));
        }
    }
    free(z), free(target), free(reach), free(which), free(place), free(needs_f64);
    parity_matrix_free(&w);
}

START_TEST(targets_are_scores_of_the_right_tokens) {
    parity_each(check_target);
}
END_TEST

/* similarity is 1 - deviation to the last bit or two, also for rows that are neither. */
static void check_similarity(const parity_case *c) {
    uint64_t seed = 7;
    parity_matrix h = parity_normal(&seed, c->rows, c->dim, c->dtype, c->scattered);
    float *b = parity_zeros(2 * c->dim, sizeof *b);
    int32_t *which = parity_zeros(c->rows + 1, sizeof *which);
    double norms[2] = {0}, *far = parity_zeros(c->rows + 1, sizeof *far),
           *near = parity_zeros(c->rows + 1, sizeof *near);
    for (int64_t i = 0; i < 2 * c->dim; i++) b[i] = (float)harness_normal(&seed);
    for (int k = 0; k < 2; k++) {
        double square = 0;
        for (int64_t i = 0; i < c->dim; i++) square += (double)b[k * c->dim + i] * (double)b[k * c->dim + i];
        norms[k] = sqrt(square);
    }
    for (int64_t r = 0; r < c->rows; r++) which[r] = (int32_t)(r % 2);
    slf_cosine_job job = {.states = &h.view, .own = {b, norms, which}, .out = far, .out_stride = 1};
    CHECK_OK(c->backend->cosine(c->impl, &job));
    job.out = near;
    job.similarity = 1;
    CHECK_OK(c->backend->cosine(c->impl, &job));
    for (int64_t r = 0; r < c->rows; r++) parity_near(c, "similarity", r, 1 - near[r], far[r], 1e-15);
    free(b), free(which), free(far), free(near);
    parity_matrix_free(&h);
}

START_TEST(similarity_is_one_minus_deviation) {
    parity_each(check_similarity);
}
END_TEST

/* A state without a direction has no loss, and pulls nowhere. */
static void check_special_gradients(const parity_case *c) {
    const double states[] = {0, 0, 0, 1, (double)NAN, 0, 1, 0, INFINITY, 3, 0, 4};
    const float rows[] = {3, 0, 4};
    const double norms[] = {5}, z[12] = {0}, target[] = {(double)NAN, (double)NAN, (double)NAN, 1};
    double sum[] = {2, 2, 2, 2}, weighted[] = {1, 1, 1, 1}, vector[12] = {0};
    const int32_t which[] = {0, 0, 0, 0};
    float loss[4], g[12];
    parity_matrix h = parity_matrix_of(states, 4, 3, SALF_F32, false);
    const salf_tensor gradient = slf_tensor_host(g, SALF_F32, 4, 3);
    const slf_query query = {.rows = 4, .dim = 3, .z = z, .target = target};
    const slf_score_rule rule = {.inverse_temperature = 1, .shift = 1, .gain = 1};
    const slf_score_sums sums = {.sum = sum, .weighted = weighted, .vector = vector};
    const slf_own_rows own = {rows, norms, which};
    const slf_loss_out losses = {loss, &gradient, 1};
    const slf_cosine_job cosine = {.states = &h.view, .own = own, .losses = losses};
    const slf_score_loss_job scores = {
        .states = &h.view, .query = &query, .rule = &rule, .sums = &sums, .own = own, .losses = losses};
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 12; i++) g[i] = 5;
        if (kind == 0)
            CHECK_OK(c->backend->cosine(c->impl, &cosine));
        else
            CHECK_OK(c->backend->score_loss(c->impl, &scores));
        for (int r = 0; r < 3; r++) ck_assert(isnan(loss[r]));
        for (int i = 0; i < 9; i++) ck_assert(g[i] == 0);
        ck_assert(!isnan(loss[3]) && fabsf(g[9]) <= 1);
    }
    /* nor has one whose gradient float32 does not hold, where it is asked for one */
    for (int kind = 0; kind < 2; kind++) {
        slf_cosine_job steep_cosine = cosine;
        slf_score_loss_job steep_scores = scores;
        steep_cosine.losses.scale = steep_scores.losses.scale = 1e39;
        for (int wanted = 1; wanted >= 0; wanted--) {
            if (!wanted) steep_cosine.losses.gradient = steep_scores.losses.gradient = NULL;
            if (kind == 0)
                CHECK_OK(c->backend->cosine(c->impl, &steep_cosine));
            else
                CHECK_OK(c->backend->score_loss(c->impl, &steep_scores));
            ck_assert(isnan(loss[3]) == (wanted == 1));
            ck_assert(g[9] == 0 && g[11] == 0);
        }
    }
    parity_matrix_free(&h);
}

START_TEST(losses_of_states_without_direction) {
    parity_backends(3, 4, check_special_gradients);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, events_are_ready_when_work_is_done);
    HARNESS_ADD(suite, fill_sets_the_count_asked_for);
    HARNESS_ADD(suite, norms_without_p_are_the_rows_own);
    HARNESS_ADD(suite, rounded_rows_and_their_norms);
    HARNESS_ADD(suite, rounding_shows_what_is_not_finite);
    HARNESS_ADD(suite, needs_f64_by_the_length_of_z);
    HARNESS_ADD(suite, targets_are_scores_of_the_right_tokens);
    HARNESS_ADD(suite, similarity_is_one_minus_deviation);
    HARNESS_ADD(suite, losses_of_states_without_direction);
}
