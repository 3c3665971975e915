/*
 * test_basis_accuracy.c - heads W = U S V^T with chosen singular values, up to condition 1e6: rows against the
 * pseudo-inverse of the float32 values as stored, by a one-sided Jacobi SVD in long double; ce and rank where float32
 * products would give the wrong answer.
 *
 * With condition k = sigma_max / sigma_min the Gram matrix carries an error of up to D 2^-52 sigma_max^2, and b_l =
 * P w_l a relative one of |P| times that: D 2^-52 k^2. That is what is allowed.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/device_memory.h"
#include "backend/spectrum.h"
#include "harness.h"
#include "oracle.h"

enum { MOST_V = 80, MOST_D = 24 };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};

/* ---- heads and their exact bases ---- */

/* Orthonormal columns in q [n][k], k <= n, by Gram-Schmidt done twice. */
static void orthonormal(double *q, int64_t n, int64_t k, uint64_t *seed) {
    for (int64_t i = 0; i < n * k; i++) q[i] = harness_normal(seed);
    for (int64_t c = 0; c < k; c++) {
        for (int64_t b = 0; b < 2 * c; b++) {
            double along = 0;
            for (int64_t i = 0; i < n; i++) along += q[i * k + b % c] * q[i * k + c];
            for (int64_t i = 0; i < n; i++) q[i * k + c] -= along * q[i * k + b % c];
        }
        double square = 0;
        for (int64_t i = 0; i < n; i++) square += q[i * k + c] * q[i * k + c];
        for (int64_t i = 0; i < n; i++) q[i * k + c] /= sqrt(square);
    }
}

/* W [v][d] with singular values from 1 down to 1 / condition in equal ratios, or (clustered) a third of them 1 and the
 * others 1 / condition: then rows of the head hardly show what their basis rows are made of. */
static void make_head(float *w, int64_t v, int64_t d, double condition, bool clustered, uint64_t seed) {
    const int64_t k = v < d ? v : d;
    double left[MOST_V * MOST_D], right[MOST_D * MOST_D], sigma[MOST_D];
    orthonormal(left, v, k, &seed);
    orthonormal(right, d, k, &seed);
    for (int64_t e = 0; e < k; e++) sigma[e] = pow(condition, clustered ? -(3 * e >= k) : -(double)e / (double)(k - 1));
    for (int64_t i = 0; i < v; i++)
        for (int64_t j = 0; j < d; j++) {
            double sum = 0;
            for (int64_t e = 0; e < k; e++) sum += left[i * k + e] * right[j * k + e] * sigma[e];
            w[i * d + j] = (float)sum;
        }
}

/* Makes columns p and q of a [n][d] orthogonal; the columns of r [d][d] follow. False when they were already. */
static bool rotate_columns(long double *a, long double *r, int64_t n, int64_t d, int64_t p, int64_t q) {
    long double pp = 0, qq = 0, pq = 0;
    for (int64_t i = 0; i < n; i++) {
        pp += a[i * d + p] * a[i * d + p];
        qq += a[i * d + q] * a[i * d + q];
        pq += a[i * d + p] * a[i * d + q];
    }
    if (pp <= 0 || qq <= 0 || fabsl(pq) <= 1e-19L * sqrtl(pp) * sqrtl(qq)) return false;
    const long double theta = (qq - pp) / (2 * pq);
    const long double t = (theta >= 0 ? 1 : -1) / (fabsl(theta) + sqrtl(theta * theta + 1));
    const long double c = 1 / sqrtl(t * t + 1), s = t * c;
    for (int64_t i = 0; i < n + d; i++) {
        long double *row = i < n ? a + i * d : r + (i - n) * d;
        const long double x = row[p], y = row[q];
        row[p] = c * x - s * y;
        row[q] = s * x + c * y;
    }
    return true;
}

/* What a mode keeps of the singular values, and what they are. */
typedef struct {
    double sigma_max, sigma_min, sigma_min_kept;
    int64_t rank;
} spectrum;

/* B [v][d] from w by W = (W R) R^T: columns of W R are sigma_e u_e, so that b_l = sum_e (W R)_le / f_e r_e with f_e =
 * sigma_e^2, or that + ridge. */
static spectrum exact_basis(const float *w, int64_t v, int64_t d, double rtol, double ridge, double *b) {
    long double a[MOST_V * MOST_D], r[MOST_D * MOST_D], square[MOST_D], most = 0;
    const int64_t k = v < d ? v : d; /* columns beyond are zero but for rounding */
    spectrum found = {.sigma_min = INFINITY, .sigma_min_kept = INFINITY};
    for (int64_t i = 0; i < v * d; i++) a[i] = (long double)w[i];
    for (int64_t i = 0; i < d * d; i++) r[i] = i / d == i % d;
    bool rotated = true;
    for (int sweep = 0; sweep < 40 && rotated; sweep++) {
        rotated = false;
        for (int64_t p = 0; p < d; p++)
            for (int64_t q = p + 1; q < d; q++) rotated = rotate_columns(a, r, v, d, p, q) || rotated;
    }
    for (int64_t e = 0; e < d; e++) {
        square[e] = 0;
        for (int64_t i = 0; i < v; i++) square[e] += a[i * d + e] * a[i * d + e];
        most = fmaxl(most, square[e]);
    }
    memset(b, 0, (size_t)(v * d) * sizeof *b);
    for (int64_t e = 0; e < d; e++) {
        if (k < d && square[e] < 1e-30L * most) continue;
        const double sigma = (double)sqrtl(square[e]);
        found.sigma_min = fmin(found.sigma_min, sigma);
        if (ridge <= 0 && sigma <= rtol * (double)sqrtl(most)) continue;
        found.rank++;
        found.sigma_min_kept = fmin(found.sigma_min_kept, sigma);
        for (int64_t i = 0; i < v; i++)
            for (int64_t j = 0; j < d; j++)
                b[i * d + j] += (double)(a[i * d + e] / (square[e] + (long double)ridge) * r[j * d + e]);
    }
    found.sigma_max = (double)sqrtl(most);
    return found;
}

/* ---- rows ---- */

typedef struct {
    int64_t v, d;
    double condition;
    int32_t mode;
    double rtol, ridge;
} head_case;

static double worst_row(const salf_basis *basis, const double *b, int64_t v, int64_t d) {
    double rows[MOST_V * MOST_D] = {0}, worst = 0;
    int32_t labels[MOST_V];
    for (int32_t i = 0; i < v; i++) labels[i] = i;
    const salf_tensor out = oracle_view(rows, SALF_F64, v, d);
    CHECK_OK(salf_basis_rows(basis, labels, v, &out));
    for (int64_t i = 0; i < v; i++) {
        double error = 0;
        for (int64_t j = 0; j < d; j++) error += pow(rows[i * d + j] - b[i * d + j], 2);
        worst = fmax(worst, sqrt(error / oracle_dot(b + i * d, b + i * d, d)));
    }
    return worst;
}

static void check_info(const salf_basis *basis, const spectrum *exact, const char *name) {
    salf_basis_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_basis_get_info(basis, &info));
    ck_assert_msg(info.rank == exact->rank, "%s: rank %lld, not %lld", name, (long long)info.rank,
                  (long long)exact->rank);
    ck_assert_msg(fabs(info.sigma_max / exact->sigma_max - 1) < 1e-6, "%s: sigma_max %g", name, info.sigma_max);
    if (info.mode == SALF_BASIS_RIDGE && info.vocab < info.hidden) return; /* a ridge keeps the zeros, too */
    const double condition = exact->sigma_max / exact->sigma_min_kept;
    const double tolerance = fmax((double)info.hidden * 0x1p-52 * condition * condition, 1e-5);
    ck_assert_msg(fabs(info.condition / condition - 1) < tolerance, "%s: condition %g, not %g", name, info.condition,
                  condition);
}

static void check_case(int32_t backend, const head_case *c) {
    float w[MOST_V * MOST_D];
    double b[MOST_V * MOST_D];
    char name[160];
    make_head(w, c->v, c->d, c->condition, false, 21);
    const double fallback = (double)(c->v > c->d ? c->v : c->d) * 0x1p-23;
    const double rtol = c->mode == SALF_BASIS_RTOL ? (c->rtol > 0 ? c->rtol : fallback) : 0;
    const spectrum exact = exact_basis(w, c->v, c->d, rtol, c->ridge, b);
    salf_context *context = harness_context(backend, NULL);
    salf_model *model = oracle_model(context, w, c->v, c->d, 2);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = c->mode;
    options.rtol = c->rtol;
    options.ridge = c->ridge;
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, model, NULL, 0, &options));
    const double least = c->ridge > 0 && c->v < c->d ? 0 : pow(exact.sigma_min_kept, 2);
    const double square = (pow(exact.sigma_max, 2) + c->ridge) / (least + c->ridge);
    const double tolerance = (double)c->d * 0x1p-52 * square + 1e-13;
    const double error = worst_row(basis, b, c->v, c->d);
    snprintf(name, sizeof name, "backend %d [%d][%d] condition %g mode %d rtol %g ridge %g", (int)backend, (int)c->v,
             (int)c->d, c->condition, (int)c->mode, c->rtol, c->ridge);
    ck_assert_msg(error <= tolerance, "%s: error %.3g, more than %.3g", name, error, tolerance);
    check_info(basis, &exact, name);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
}

START_TEST(rows_are_as_good_as_the_condition_allows) {
    const struct { int64_t v, d; } shapes[] = {{80, 24}, {24, 24}, {17, 24}, {80, 2}};
    const double conditions[] = {10, 1e3, 1e5, 1e6};
    for (size_t k = 0; k < 2; k++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t n = 0; n < sizeof conditions / sizeof *conditions; n++) {
                head_case c = {shapes[s].v, shapes[s].d, conditions[n], SALF_BASIS_EXACT, 0, 0};
                check_case(backends[k], &c);
                c.mode = SALF_BASIS_RTOL; /* the default drops the smallest at 1e6, and at 1e5 none */
                check_case(backends[k], &c);
                c.rtol = 0.03;
                check_case(backends[k], &c);
                c = (head_case){shapes[s].v, shapes[s].d, conditions[n], SALF_BASIS_RIDGE, 0, 1e-4};
                check_case(backends[k], &c);
            }
}
END_TEST

/* ---- what is said of it, and what is refused ---- */

/* W [v][d] whose columns shrink to 1 / condition of the first, exact in float32 down to 1e-30: the only heads whose
 * condition can exceed 1e8, as the rounding of others fills their small singular values. */
static void shrink_columns(float *w, int64_t v, int64_t d, double condition) {
    make_head(w, v, d, 1, false, 5);
    for (int64_t i = 0; i < v * d; i++)
        w[i] = (float)((double)w[i] * pow(condition, -(double)(i % d) / (double)(d - 1)));
}

static salf_status basis_of(salf_basis **basis, salf_context *context, const float *w, int64_t v, int64_t d,
                            int32_t mode, double rtol, double ridge) {
    salf_model *model = oracle_model(context, w, v, d, 2);
    const salf_basis_options options = {.struct_size = sizeof options, .mode = mode, .rtol = rtol, .ridge = ridge};
    const salf_status status = salf_basis_create(basis, model, NULL, 0, &options);
    salf_model_destroy(model);
    return status;
}

/* Over all conditions: a basis whose rows are as good as it says, or none. */
START_TEST(errors_are_within_their_estimate_or_refused) {
    float w[MOST_V * MOST_D];
    double b[MOST_V * MOST_D];
    int made = 0, refused = 0;
    for (size_t k = 0; k < 2; k++)
        for (int decade = 1; decade <= 12; decade++)
            for (int form = 0; form < 3; form++)
                for (int with_ridge = 0; with_ridge < 8; with_ridge++) {
                    const double ridge = with_ridge ? pow(10, -2 * with_ridge) : 0, condition = pow(10, decade);
                    const int32_t mode = with_ridge ? SALF_BASIS_RIDGE : SALF_BASIS_EXACT;
                    salf_context *context = harness_context(backends[k], NULL);
                    salf_basis *basis;
                    if (form < 2)
                        make_head(w, MOST_V, MOST_D, condition, form == 1, 6);
                    else
                        shrink_columns(w, MOST_V, MOST_D, condition);
                    const spectrum exact = exact_basis(w, MOST_V, MOST_D, 0, ridge, b);
                    const salf_status status = basis_of(&basis, context, w, MOST_V, MOST_D, mode, 0, ridge);
                    const double floor = MOST_D * 0x1p-52, least = pow(exact.sigma_min / exact.sigma_max, 2);
                    const double decides = least + ridge / pow(exact.sigma_max, 2);
                    ck_assert_msg(status == SALF_OK || status == SALF_E_NUMERIC, "%s", salf_last_error());
                    /* between a quarter and four times the floor rounding may decide */
                    if (decides > 4 * floor) ck_assert_msg(status == SALF_OK, "%g: %s", condition, salf_last_error());
                    if (decides < floor / 4) ck_assert_int_eq(status, SALF_E_NUMERIC);
                    if (status == SALF_OK) {
                        salf_basis_info info = {.struct_size = sizeof info};
                        CHECK_OK(salf_basis_get_info(basis, &info));
                        const double error = worst_row(basis, b, MOST_V, MOST_D);
                        ck_assert_msg(error <= info.row_error, "condition %g form %d ridge %g: error %g, estimate %g",
                                      condition, form, ridge, error, info.row_error);
                        made++;
                    } else {
                        refused++;
                    }
                    salf_basis_destroy(basis);
                    salf_context_destroy(context);
                }
    ck_assert_int_gt(made, 100);
    ck_assert_int_gt(refused, 20);
}
END_TEST

/* Rows of a head may be of any lengths, as of tokens that were never trained and decayed: those of a head with fewer
 * rows than columns went through a square too many, and the longest were off by a hundred times the estimate. */
START_TEST(rows_of_unequal_lengths_are_within_the_estimate) {
    float w[MOST_V * MOST_D];
    double b[MOST_V * MOST_D];
    const int64_t sizes[] = {2, 7, 17, 23, 24, MOST_V};
    for (size_t k = 0; k < 2; k++)
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
            for (int decades = 0; decades <= 6; decades++) {
                const int64_t v = sizes[n];
                salf_context *context = harness_context(backends[k], NULL);
                salf_basis *basis;
                salf_basis_info info = {.struct_size = sizeof info};
                make_head(w, v, MOST_D, 3, false, 8 + (uint64_t)decades);
                for (int64_t i = 0; i < v * MOST_D; i++) { /* in no order: solvers like what is graded */
                    const int64_t place = (5 * (i / MOST_D) + 3) % v;
                    w[i] = (float)((double)w[i] * pow(10, -(double)(decades * place) / (double)(v - 1)));
                }
                exact_basis(w, v, MOST_D, 0, 0, b);
                CHECK_OK(basis_of(&basis, context, w, v, MOST_D, SALF_BASIS_EXACT, 0, 0));
                CHECK_OK(salf_basis_get_info(basis, &info));
                const double error = worst_row(basis, b, v, MOST_D);
                ck_assert_msg(error <= info.row_error, "[%d][%d], lengths over %d decades: error %g, estimate %g",
                              (int)v, MOST_D, decades, error, info.row_error);
                salf_basis_destroy(basis);
                salf_context_destroy(context);
            }
}
END_TEST

/* Numbers that float32 holds may have an inverse that it does not hold. */
START_TEST(a_head_of_denormal_numbers_is_refused) {
    float w[MOST_V * MOST_D];
    for (size_t k = 0; k < 2; k++)
        for (int small = 0; small < 2; small++) {
            const int64_t v = small ? 10 : MOST_V;
            salf_context *context = harness_context(backends[k], NULL);
            salf_basis *basis;
            make_head(w, v, MOST_D, 3, false, 9);
            for (int64_t i = 0; i < v * MOST_D; i++) w[i] *= 1e-39f;
            CHECK_FAILS(basis_of(&basis, context, w, v, MOST_D, SALF_BASIS_EXACT, 0, 0), SALF_E_NUMERIC,
                        "would leave float32");
            CHECK_FAILS(basis_of(&basis, context, w, v, MOST_D, SALF_BASIS_RIDGE, 0, 1e-78), SALF_E_NUMERIC,
                        "would leave float32");
            for (int64_t i = 0; i < v * MOST_D; i++) w[i] *= 1e4f;
            CHECK_OK(basis_of(&basis, context, w, v, MOST_D, SALF_BASIS_RTOL, 0, 0));
            salf_basis_destroy(basis);
            salf_context_destroy(context);
        }
}
END_TEST

/* What is 0 may be dropped by EXACT: a column that repeats another, or is empty, or follows from two. */
START_TEST(exact_takes_heads_without_full_rank) {
    float w[MOST_V * MOST_D];
    for (size_t k = 0; k < 2; k++)
        for (int form = 0; form < 4; form++) {
            salf_context *context = harness_context(backends[k], NULL);
            salf_basis *basis;
            salf_basis_info info = {.struct_size = sizeof info};
            const int64_t v = form == 3 ? 17 : MOST_V;
            make_head(w, v, MOST_D, 10, false, 7);
            for (int64_t i = 0; i < v * MOST_D; i++) w[i] = roundf(w[i] * 1024) / 1024; /* so that sums are exact */
            for (int64_t i = 0; i < v; i++) {
                float *row = w + i * MOST_D;
                if (form == 0) row[5] = row[3];
                if (form == 1) row[5] = 0;
                if (form == 2) row[5] = row[3] - row[11];
            }
            if (form == 3) memcpy(w, w + 5 * MOST_D, MOST_D * sizeof *w); /* V < D, and two equal rows */
            CHECK_OK(basis_of(&basis, context, w, v, MOST_D, SALF_BASIS_EXACT, 0, 0));
            CHECK_OK(salf_basis_get_info(basis, &info));
            ck_assert_int_eq(info.rank, form == 3 ? 16 : MOST_D - 1);
            ck_assert_double_lt(info.row_error, 1e-10);
            salf_basis_destroy(basis);
            salf_context_destroy(context);
        }
}
END_TEST

START_TEST(what_a_gram_matrix_does_not_resolve_is_refused) {
    float w[MOST_V * MOST_D];
    for (size_t k = 0; k < 2; k++) {
        salf_context *context = harness_context(backends[k], NULL);
        salf_basis *basis;
        salf_basis_info info = {.struct_size = sizeof info};
        shrink_columns(w, MOST_V, MOST_D, 1e10);
        CHECK_FAILS(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_EXACT, 0, 0), SALF_E_NUMERIC,
                    "not 0 (about");
        CHECK_FAILS(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_RTOL, 1e-9, 0), SALF_E_NUMERIC,
                    "rtol of at least 7.30005e-08");
        CHECK_FAILS(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_RIDGE, 0, 1e-16), SALF_E_NUMERIC,
                    "ridge is 1e-16");
        CHECK_FAILS(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_RIDGE, 0, 1e300), SALF_E_ARGUMENT,
                    "ridge is 1e+300");
        CHECK_OK(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_RTOL, 1e-6, 0));
        salf_basis_destroy(basis);
        CHECK_OK(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_RIDGE, 0, 1e12)); /* rows are w / 1e12 */
        salf_basis_destroy(basis);
        CHECK_OK(basis_of(&basis, context, w, MOST_V, MOST_D, SALF_BASIS_RTOL, 0, 0)); /* the default drops them */
        CHECK_OK(salf_basis_get_info(basis, &info));
        ck_assert(info.row_error > 0 && info.row_error < 1e-5);
        salf_basis_destroy(basis);
        /* V < D: by way of W W^T, whose vectors are of the other side */
        shrink_columns(w, 10, MOST_D, 1);
        for (int64_t j = 0; j < MOST_D; j++) w[j] = w[MOST_D + j] * (1 + (float)(j % 2) * 0x1p-23f);
        CHECK_FAILS(basis_of(&basis, context, w, 10, MOST_D, SALF_BASIS_EXACT, 0, 0), SALF_E_NUMERIC, "1 of 10");
        /* sums alone: a column of zeros cannot be told from one too small */
        salf_basis_builder *builder;
        const salf_basis_options options = {.struct_size = sizeof options, .mode = SALF_BASIS_EXACT};
        make_head(w, MOST_V, MOST_D, 10, false, 7);
        for (int64_t i = 0; i < MOST_V; i++) w[i * MOST_D + 5] = 0;
        const salf_tensor rows = oracle_view(w, SALF_F32, MOST_V, MOST_D);
        salf_model *model = oracle_model(context, w, MOST_V, MOST_D, 2);
        CHECK_OK(salf_basis_builder_create(&builder, context, MOST_V, MOST_D, NULL, 0, &options));
        CHECK_OK(salf_basis_builder_add(builder, 0, &rows));
        CHECK_FAILS(salf_basis_builder_finish(&basis, builder, NULL), SALF_E_NUMERIC, "give the model");
        CHECK_OK(salf_basis_builder_finish(&basis, builder, model));
        salf_basis_destroy(basis);
        salf_model_destroy(model);
        salf_basis_builder_destroy(builder);
        salf_context_destroy(context);
    }
}
END_TEST

/* ---- ce and rank where float32 products lose the answer ---- */

enum { STATES = 120 };
static const double steep = 1e5;

typedef struct {
    float w[MOST_V * MOST_D];
    double b[MOST_V * MOST_D];
    float states[STATES * MOST_D];
    int32_t labels[STATES];
} steep_head;

static steep_head *make_steep_head(void) {
    steep_head *x = calloc(1, sizeof *x);
    uint64_t seed = 77;
    make_head(x->w, MOST_V, MOST_D, steep, true, 4);
    exact_basis(x->w, MOST_V, MOST_D, 0, 0, x->b);
    for (int i = 0; i < STATES * MOST_D; i++) x->states[i] = (float)harness_normal(&seed);
    for (int32_t r = 0; r < STATES; r++) x->labels[r] = r * 7 % MOST_V;
    return x;
}

/* How many rows beat the label's by more than margin (which may be negative). */
static int64_t rank_by(const steep_head *x, int r, double margin) {
    const float *h = x->states + r * MOST_D;
    const double target = oracle_cosine(h, x->b + x->labels[r] * MOST_D, MOST_D);
    int64_t rank = 0;
    for (int32_t i = 0; i < MOST_V; i++)
        rank += i != x->labels[r] && oracle_cosine(h, x->b + i * MOST_D, MOST_D) > target + margin;
    return rank;
}

/* The rank by w_i . z / |b_i| with z and the sums in float32. */
static int64_t narrow_rank(const steep_head *x, int r) {
    const float *h = x->states + r * MOST_D;
    long double z[MOST_D] = {0};
    double length = 0;
    /* P = B^T B, since B = W P and W^T W P = I */
    for (int64_t i = 0; i < MOST_V; i++) {
        const double *b = x->b + i * MOST_D;
        long double along = 0;
        for (int64_t j = 0; j < MOST_D; j++) along += (long double)b[j] * (long double)h[j];
        for (int64_t j = 0; j < MOST_D; j++) z[j] += along * (long double)b[j];
    }
    for (int64_t j = 0; j < MOST_D; j++) length += (double)h[j] * (double)h[j];
    const double target = oracle_cosine(h, x->b + x->labels[r] * MOST_D, MOST_D);
    int64_t rank = 0;
    for (int32_t i = 0; i < MOST_V; i++) {
        const double *b = x->b + i * MOST_D;
        float product = 0;
        for (int64_t j = 0; j < MOST_D; j++)
            product += x->w[i * MOST_D + j] * (float)(z[j] / (long double)sqrt(length));
        rank += i != x->labels[r] && (double)product / sqrt(oracle_dot(b, b, MOST_D)) > target;
    }
    return rank;
}

static const double margin = 2e-5; /* P is good for 4 D 2^-52 steep^2 */

START_TEST(the_steep_head_defeats_float32) {
    steep_head *x = make_steep_head();
    int wrong = 0;
    for (int r = 0; r < STATES; r++) {
        const int64_t rank = narrow_rank(x, r);
        wrong += rank > rank_by(x, r, -margin) || rank < rank_by(x, r, margin);
    }
    ck_assert_msg(wrong >= 3, "float32 products give %d of %d ranks wrong", wrong, (int)STATES);
    free(x);
}
END_TEST

static salf_basis *steep_basis(const steep_head *x, int32_t backend, uint64_t limit, int32_t prepare) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = backend;
    options.workspace_limit = limit;
    salf_context *context;
    CHECK_OK(salf_context_create(&context, &options));
    salf_model *model = oracle_model(context, x->w, MOST_V, MOST_D, 1);
    salf_basis_options how;
    salf_options_init(&how, sizeof how);
    how.mode = SALF_BASIS_EXACT;
    how.prepare = prepare;
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, model, x->labels, 9, &how));
    salf_model_destroy(model); /* the basis holds what it needs */
    salf_context_destroy(context);
    return basis;
}

static void check_deviations(const steep_head *x, salf_basis *basis, int32_t metric, const char *name) {
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.metric = metric;
    options.lens = SALF_LENS_RAW;
    options.n_layers = 1;
    options.temperature = 0.02;
    salf_probe *probe;
    salf_trace trace;
    const salf_tensor states = oracle_view(x->states, SALF_F32, STATES, MOST_D);
    CHECK_OK(salf_probe_create(&probe, basis, &options));
    CHECK_OK(salf_probe_begin(probe, x->labels, STATES));
    for (int32_t space = 0; space < 2; space++) CHECK_OK(salf_probe_observe(probe, space, &states, SALF_STATE_RAW));
    CHECK_OK(salf_probe_end(probe, &trace));
    for (int r = 0; r < STATES; r++) {
        const double got = trace.deviations[2 * r], least = (double)rank_by(x, r, margin);
        const double exact = oracle_deviation(metric, x->states + r * MOST_D, x->b, MOST_V, MOST_D, x->labels[r],
                                              options.temperature, NULL, 0);
        if (metric == SALF_METRIC_RANK)
            ck_assert_msg(got >= least && got <= (double)rank_by(x, r, -margin), "%s row %d: rank %g, not %g", name, r,
                          got, exact);
        else
            ck_assert_msg(fabs(got - exact) < 2 * margin / options.temperature, "%s row %d: ce %.9g, not %.9g", name, r,
                          got, exact);
    }
    salf_probe_destroy(probe);
}

START_TEST(ce_and_rank_on_a_steep_head) {
    steep_head *x = make_steep_head();
    const uint64_t limits[] = {1, 0};
    for (size_t k = 0; k < 2; k++)
        for (size_t l = 0; l < 2; l++)
            for (int32_t prepare = SALF_PREPARE_LABELS; prepare <= SALF_PREPARE_TABLE; prepare++) {
                char name[80];
                salf_basis *basis = steep_basis(x, backends[k], limits[l], prepare);
                snprintf(name, sizeof name, "backend %d workspace %d prepare %d", (int)backends[k], (int)limits[l],
                         (int)prepare);
                check_deviations(x, basis, SALF_METRIC_CE, name);
                check_deviations(x, basis, SALF_METRIC_RANK, name);
                salf_basis_destroy(basis);
            }
    free(x);
}
END_TEST

/* Lanczos has seen all there is when its next vector is zero: after one step on a multiple of I, after two with two
 * eigenvalues. */
START_TEST(few_eigenvalues_take_few_steps) {
    enum { N = 40 };
    static double a[N * N];
    for (size_t b = 0; b < sizeof backends / sizeof *backends; b++)
        for (int kinds = 1; kinds <= 2; kinds++) {
            salf_context *context = harness_context(backends[b], NULL);
            double largest = 0;
            int32_t converged = 0;
            for (int i = 0; i < N; i++) a[i * N + i] = i % kinds ? 5 : 3;
            double *matrix = NULL;
            CHECK_OK(slf_device_copy_of(context, a, N * N, sizeof *a, &matrix));
            const slf_matvec_job product = {.kind = SLF_TIMES_SYMMETRIC, .rows = N, .cols = N, .a = matrix, .alpha = 1};
            CHECK_OK(slf_lanczos_largest(context, &product, &largest, &converged));
            ck_assert_msg(converged && fabs(largest - (kinds == 1 ? 3 : 5)) < 1e-8, "%d kinds: %g, %d", kinds, largest,
                          (int)converged);
            slf_device_free(context, matrix);
            salf_context_destroy(context);
        }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, few_eigenvalues_take_few_steps);
    HARNESS_ADD(suite, rows_are_as_good_as_the_condition_allows);
    HARNESS_ADD(suite, errors_are_within_their_estimate_or_refused);
    HARNESS_ADD(suite, rows_of_unequal_lengths_are_within_the_estimate);
    HARNESS_ADD(suite, a_head_of_denormal_numbers_is_refused);
    HARNESS_ADD(suite, exact_takes_heads_without_full_rank);
    HARNESS_ADD(suite, what_a_gram_matrix_does_not_resolve_is_refused);
    HARNESS_ADD(suite, the_steep_head_defeats_float32);
    HARNESS_ADD(suite, ce_and_rank_on_a_steep_head);
}
