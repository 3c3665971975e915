/*
 * test_backend_stream.c - slots that keep a device's work in its stream: events, fills, page-locked memory, and what
 * would otherwise be worked out on the host between two slots (narrow, judge, logit_targets, similarities).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "parity.h"

static void check_events(const parity_case *c) {
    void *event = NULL, *memory = NULL;
    int32_t ready = 0;
    CHECK_OK(c->backend->event_create(c->state, &event));
    CHECK_OK(c->backend->event_poll(c->state, event, &ready)); /* never recorded */
    ck_assert_int_eq(ready, 1);
    CHECK_OK(c->backend->event_wait(c->state, event));
    CHECK_OK(c->backend->host_alloc(c->state, 64, &memory));
    memset(memory, 1, 64);
    for (int k = 0; k < 2; k++) {
        CHECK_OK(c->backend->event_record(c->state, event));
        CHECK_OK(c->backend->event_wait(c->state, event));
        ready = 0;
        CHECK_OK(c->backend->event_poll(c->state, event, &ready));
        ck_assert_int_eq(ready, 1);
    }
    c->backend->host_free(c->state, memory);
    c->backend->host_free(c->state, NULL);
    c->backend->event_destroy(c->state, event);
}

START_TEST(events_are_ready_when_work_is_done) {
    parity_backends(1, 1, check_events);
}
END_TEST

static void check_fill(const parity_case *c) {
    double x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    CHECK_OK(c->backend->fill(c->state, x + 1, 7, -INFINITY));
    for (int k = 1; k < 8; k++) ck_assert(isinf(x[k]) && x[k] < 0);
    ck_assert(x[0] == 1 && x[8] == 9);
    CHECK_OK(c->backend->fill(c->state, NULL, 0, 1));
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
    CHECK_OK(c->backend->apply_norms(c->state, NULL, &x.view, norms));
    for (int64_t r = 0; r < c->rows; r++)
        parity_near(c, "norm", r, norms[r], length_of(x.value + r * c->dim, c->dim), 1e-13 * (double)(c->dim + 1));
    free(norms);
    parity_matrix_free(&x);
}

START_TEST(norms_without_p_are_the_rows_own) {
    parity_each(check_norms_without_p);
}
END_TEST

/* Every third row is below the noise; the second holds what float32 cannot. */
static void check_narrow(const parity_case *c) {
    const double noise = 1e-3;
    uint64_t seed = 4;
    double *b = parity_doubles(&seed, c->rows * c->dim), *norms = parity_zeros(c->rows + 1, sizeof *norms);
    double *w_norms = parity_zeros(c->rows + 1, sizeof *w_norms);
    float *out = parity_zeros(c->rows * c->dim + 1, sizeof *out);
    for (int64_t r = 0; r < c->rows; r++)
        w_norms[r] = length_of(b + r * c->dim, c->dim) / noise * (r % 3 == 2 ? 1.001 : 0.999);
    if (c->rows > 1) b[c->dim] = 1e200;
    CHECK_OK(c->backend->narrow(c->state, b, c->rows, c->dim, w_norms, noise, out, norms));
    for (int64_t r = 0; r < c->rows; r++) {
        long double square = 0;
        for (int64_t i = 0; i < c->dim; i++) {
            const float x = out[r * c->dim + i];
            square += (long double)x * (long double)x;
            ck_assert(x == (r % 3 == 2 ? 0 : (float)b[r * c->dim + i]));
        }
        if (r == 1)
            ck_assert(isinf(norms[r]));
        else
            parity_near(c, "norm", r, norms[r], (double)sqrtl(square), 1e-13 * (double)(c->dim + 1));
    }
    free(b), free(norms), free(w_norms), free(out);
}

START_TEST(narrow_rows_and_their_norms) {
    parity_each(check_narrow);
}
END_TEST

static void check_narrow_nan(const parity_case *c) {
    const double b[] = {1, (double)NAN, 1}, w_norms[] = {1};
    float out[3];
    double norm = 0;
    CHECK_OK(c->backend->narrow(c->state, b, 1, 3, w_norms, 1e-3, out, &norm));
    ck_assert(isnan(norm));
}

START_TEST(narrow_shows_what_is_not_finite) {
    parity_backends(3, 1, check_narrow_nan);
}
END_TEST

/* Each row by its own length; NaN says nothing. */
static void check_judge(const parity_case *c) {
    uint64_t seed = 5;
    double *z = parity_doubles(&seed, c->rows * c->dim), longest = 0;
    int32_t *wide = parity_zeros(c->rows + 1, sizeof *wide);
    for (int64_t r = 0; r < c->rows; r++) longest = fmax(longest, length_of(z + r * c->dim, c->dim));
    static const double parts[] = {1.000001, 0.999999, 0.8, 0};
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        const double most = longest * parts[k];
        for (int64_t r = 0; r <= c->rows; r++) wide[r] = 5;
        CHECK_OK(c->backend->judge(c->state, z, c->rows, c->dim, most, wide));
        for (int64_t r = 0; r < c->rows; r++) ck_assert_int_eq(wide[r], length_of(z + r * c->dim, c->dim) > most);
        ck_assert_int_eq(wide[c->rows], 5);
    }
    if (c->rows > 0) z[0] = (double)NAN;
    CHECK_OK(c->backend->judge(c->state, z, c->rows, c->dim, 0, wide));
    for (int64_t r = 0; r < c->rows; r++) ck_assert_int_eq(wide[r], r > 0);
    free(z), free(wide);
}

START_TEST(judge_finds_the_longest_row) {
    parity_each(check_judge);
}
END_TEST

static void check_logit_targets(const parity_case *c) {
    enum { VOCAB = 9 };
    uint64_t seed = 6;
    parity_matrix w = parity_normal(&seed, VOCAB, c->dim, c->dtype, c->scattered);
    double *z = parity_doubles(&seed, c->rows * c->dim), *target = parity_zeros(c->rows + 1, sizeof *target);
    int32_t *which = parity_zeros(c->rows + 1, sizeof *which);
    float bias[VOCAB];
    for (int64_t i = 0; i < VOCAB; i++) bias[i] = (float)harness_normal(&seed);
    for (int64_t r = 0; r < c->rows; r++) which[r] = (int32_t)((r * 4 + 2) % VOCAB);
    for (int form = 0; form < 4; form++) {
        const bool biased = form & 1, capped = form & 2;
        const slf_score_rule rule = {.logits = 1, .logit_scale = 0.3, .softcap = capped ? 2 : 0};
        CHECK_OK(c->backend->logit_targets(c->state, z, c->rows, &w.view, which, biased ? bias : NULL, &rule, target));
        for (int64_t r = 0; r < c->rows; r++) {
            long double q = 0;
            for (int64_t i = 0; i < c->dim; i++)
                q += (long double)w.value[which[r] * c->dim + i] * (long double)z[r * c->dim + i];
            long double logit = 0.3L * q + (biased ? (long double)bias[which[r]] : 0);
            if (capped) logit = 2 * tanhl(logit / 2);
            parity_near(c, "logit", r, target[r], (double)logit, 1e-13 * (double)(c->dim + 1));
        }
    }
    free(z), free(target), free(which);
    parity_matrix_free(&w);
}

START_TEST(logits_of_the_right_tokens) {
    parity_each(check_logit_targets);
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
    CHECK_OK(c->backend->cosine(c->state, &h.view, NULL, b, norms, which, 0, far, 1));
    CHECK_OK(c->backend->cosine(c->state, &h.view, NULL, b, norms, which, 1, near, 1));
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
    const slf_query query = {.rows = 4, .dim = 3, .z = z, .label = which, .target = target};
    const slf_score_rule rule = {.inverse_temperature = 1, .shift = 1};
    const slf_score_sums sums = {.sum = sum, .weighted = weighted, .vector = vector};
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 12; i++) g[i] = 5;
        if (kind == 0)
            CHECK_OK(c->backend->cosine_loss(c->state, &h.view, rows, norms, which, 1, loss, &gradient));
        else
            CHECK_OK(c->backend->score_loss(c->state, &h.view, &query, &rule, &sums, NULL, rows, norms, which, 1, loss,
                                            &gradient));
        for (int r = 0; r < 3; r++) ck_assert(isnan(loss[r]));
        for (int i = 0; i < 9; i++) ck_assert(g[i] == 0);
        ck_assert(!isnan(loss[3]) && fabsf(g[9]) <= 1);
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
    HARNESS_ADD(suite, narrow_rows_and_their_norms);
    HARNESS_ADD(suite, narrow_shows_what_is_not_finite);
    HARNESS_ADD(suite, judge_finds_the_longest_row);
    HARNESS_ADD(suite, logits_of_the_right_tokens);
    HARNESS_ADD(suite, similarity_is_one_minus_deviation);
    HARNESS_ADD(suite, losses_of_states_without_direction);
}
