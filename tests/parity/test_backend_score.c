/*
 * test_backend_score.c - slots of the backends that run over a vocabulary: score and score_loss.
 *
 * Oracles are the definitions, in long double, over all scores at once. Products in float32 err by at most unsure() in
 * a score, which bounds what the sums may be off by and how many scores may fall on the other side of a target.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "parity.h"

/* Rows of a vocabulary, states to score, and what a rule makes of them. */
typedef struct {
    slf_score_rule rule;
    parity_matrix x; /* [vocab][dim] */
    int64_t vocab, rows, dim;
    parity_matrix own; /* [vocab + 1][dim] float32: x, and a row that is none of them */
    int32_t *own_of;   /* [rows] */
    double *reach;     /* [rows] */
    double *inverse_norm;
    float *bias;
    double *z; /* [rows][dim] */
    double *target;
    int64_t *at;        /* [rows] which of the vocabulary rows is the label, or -1 */
    int32_t *needs_f64; /* [rows] products in float64 */
    double largest;     /* of |x_i| |z_r| and their factors: bounds |s| */
} problem;

/* Which rows of a query have float64 products. */
enum { NONE = 0, ALL, SOME };

typedef struct {
    bool logits, capped, biased, sharp; /* sharp: cosines with a running maximum */
    int needs_f64;
    double temperature;
} variant;

static const variant variants[] = {{.temperature = 1},
                                   {.needs_f64 = ALL, .temperature = 0.3},
                                   {.needs_f64 = SOME, .temperature = 0.5},
                                   {.logits = true, .capped = true, .biased = true, .temperature = 2},
                                   {.logits = true, .needs_f64 = ALL, .biased = true, .temperature = 0.7},
                                   {.logits = true, .needs_f64 = SOME, .biased = true, .temperature = 0.7},
                                   {.sharp = true, .temperature = 0.01},
                                   {.sharp = true, .needs_f64 = ALL, .temperature = 1e-4},
                                   {.logits = true, .temperature = 1}};
enum { VARIANTS = sizeof variants / sizeof *variants };

static long double score_of(const problem *p, int64_t r, int64_t i) {
    long double q = 0;
    for (int64_t k = 0; k < p->dim; k++)
        q += (long double)p->x.value[i * p->dim + k] * (long double)p->z[r * p->dim + k];
    if (!p->rule.logits) return q * (long double)p->inverse_norm[i];
    const long double logit = (long double)p->rule.logit_scale * q + (p->bias ? (long double)p->bias[i] : 0);
    const long double cap = (long double)p->rule.softcap;
    return cap > 0 ? cap * tanhl(logit / cap) : logit;
}

static double length_of(const double *x, int64_t dim) {
    double square = 0;
    for (int64_t k = 0; k < dim; k++) square += x[k] * x[k];
    return sqrt(square);
}

static void make_states(problem *p, uint64_t *seed) {
    p->z = parity_doubles(seed, p->rows * p->dim);
    p->target = parity_zeros(p->rows, sizeof *p->target);
    p->reach = parity_zeros(p->rows, sizeof *p->reach);
    p->own_of = parity_zeros(p->rows, sizeof *p->own_of);
    p->at = parity_zeros(p->rows, sizeof *p->at);
    double *own = parity_doubles(seed, (p->vocab + 1) * p->dim);
    memcpy(own, p->x.value, (size_t)(p->vocab * p->dim) * sizeof *own);
    p->own = parity_matrix_of(own, p->vocab + 1, p->dim, SALF_F32, false);
    for (int64_t r = 0; r < p->rows; r++) {
        double *z = p->z + r * p->dim;
        const double length = length_of(z, p->dim);
        for (int64_t k = 0; k < p->dim; k++) z[k] /= p->rule.logits ? 1 : length;
        const int64_t i = (r * 5 + 1) % p->vocab;
        p->at[r] = r % 4 == 3 ? -1 : i; /* labels outside the vocabulary occur */
        p->own_of[r] = (int32_t)(p->at[r] < 0 ? p->vocab : i);
        p->target[r] = (double)score_of(p, r, i) - (p->at[r] < 0 ? 0.01 : 0);
        const double size = length_of(own + p->own_of[r] * p->dim, p->dim) * length_of(z, p->dim);
        p->reach[r] = size * (p->rule.logits ? p->rule.logit_scale : p->at[r] < 0 ? 1 / size : p->inverse_norm[i]);
        for (int64_t v = 0; v < p->vocab; v++) {
            const double of_v = length_of(p->x.value + v * p->dim, p->dim) * length_of(z, p->dim);
            p->largest = fmax(p->largest, of_v * (p->rule.logits ? p->rule.logit_scale : p->inverse_norm[v]));
        }
    }
    free(own);
}

static problem problem_of(uint64_t *seed, const parity_case *c, int64_t vocab, const variant *v) {
    problem p = {.vocab = vocab, .rows = c->rows, .dim = c->dim};
    p.rule = (slf_score_rule){.inverse_temperature = 1 / v->temperature,
                              .shift = 1,
                              .gain = 1,
                              .logits = v->logits,
                              .logit_scale = 0.25,
                              .softcap = v->capped ? 3 : 0};
    p.x = parity_normal(seed, vocab, c->dim, c->dtype, c->scattered);
    if (v->biased) p.bias = parity_zeros(vocab, sizeof *p.bias);
    if (!v->logits) p.inverse_norm = parity_zeros(vocab, sizeof *p.inverse_norm);
    for (int64_t i = 0; i < vocab; i++) {
        if (p.bias) p.bias[i] = (float)harness_normal(seed);
        if (p.inverse_norm) p.inverse_norm[i] = i % 11 == 5 ? 0 : 1 / length_of(p.x.value + i * c->dim, c->dim);
    }
    p.needs_f64 = parity_zeros(c->rows, sizeof *p.needs_f64);
    for (int64_t r = 0; r < c->rows; r++) p.needs_f64[r] = v->needs_f64 == ALL || (v->needs_f64 == SOME && r % 5 < 2);
    make_states(&p, seed);
    return p;
}

static void problem_free(problem *p) {
    parity_matrix_free(&p->x);
    if (p->own.storage) parity_matrix_free(&p->own);
    free(p->own_of), free(p->reach), free(p->inverse_norm), free(p->bias), free(p->z), free(p->target), free(p->at);
    free(p->needs_f64);
}

static slf_query query_of(const problem *p) {
    return (slf_query){.rows = p->rows,
                       .dim = p->dim,
                       .z = p->z,
                       .target = p->target,
                       .reach = p->reach,
                       .own = &p->own.view,
                       .own_of = p->own_of,
                       .needs_f64 = p->needs_f64};
}

/* Most that a score of a row may be off by. */
static double unsure(const problem *p, int64_t r) {
    return (p->needs_f64[r] ? DBL_EPSILON : FLT_EPSILON) * (double)(p->dim + 8) * p->largest;
}

static slf_score_sums sums_of(int64_t rows, int64_t dim, bool logits, bool maximum) {
    slf_score_sums sums = {.sum = parity_zeros(rows, sizeof(double)),
                           .count = parity_zeros(rows, sizeof(int64_t)),
                           .weighted = parity_zeros(rows, sizeof(double))};
    if (!logits) sums.vector = parity_zeros(rows * dim, sizeof(double));
    if (maximum) sums.maximum = parity_zeros(rows, sizeof(double));
    for (int64_t r = 0; maximum && r < rows; r++) sums.maximum[r] = -INFINITY;
    return sums;
}

static void sums_free(slf_score_sums *sums) {
    free(sums->sum), free(sums->count), free(sums->weighted), free(sums->vector), free(sums->maximum);
}

/* Takes vocabulary rows begin ... end-1 into the sums. */
static salf_status score_part(const parity_case *c, const problem *p, int64_t begin, int64_t end,
                              const slf_score_sums *sums) {
    salf_tensor block = p->x.view;
    block.rows = end - begin;
    if (block.row_index)
        block.row_index += begin;
    else
        block.data = (char *)block.data + begin * p->dim * slf_dtype_size(block.dtype);
    const slf_query query = query_of(p);
    const slf_score_job job = {.query = &query,
                               .block = &block,
                               .inverse_norms = p->inverse_norm ? p->inverse_norm + begin : NULL,
                               .bias = p->bias ? p->bias + begin : NULL,
                               .rule = &p->rule,
                               .sums = sums};
    return c->backend->score(c->impl, &job);
}

static void check_count(const parity_case *c, const problem *p, int64_t r, const long double *s, int64_t count) {
    int64_t least = 0, most = 0;
    for (int64_t i = 0; i < p->vocab; i++) {
        const double above = (double)(s[i] - (long double)p->target[r]);
        least += i != p->at[r] && above > unsure(p, r);
        most += i != p->at[r] && above > -unsure(p, r);
    }
    ck_assert_msg(count >= least && count <= most, "%s: row %lld: count %lld outside %lld ... %lld", c->backend->name,
                  (long long)r, (long long)count, (long long)least, (long long)most);
}

static void check_vector(const parity_case *c, const problem *p, int64_t r, const long double *u, double off,
                         const double *vector) {
    const double rounding = (p->needs_f64[r] ? DBL_EPSILON : FLT_EPSILON) * (double)(p->vocab + 8);
    for (int64_t k = 0; k < p->dim; k++) {
        long double sum = 0, size = 0;
        for (int64_t i = 0; i < p->vocab; i++) {
            const long double term = u[i] * (long double)p->inverse_norm[i] * (long double)p->x.value[i * p->dim + k];
            sum += term;
            size += fabsl(term);
        }
        parity_near(c, "vector", r * p->dim + k, vector[k], (double)sum, (double)size * (off + rounding));
    }
}

static void check_row(const parity_case *c, const problem *p, int64_t r, const slf_score_sums *sums) {
    const long double inverse_t = (long double)p->rule.inverse_temperature;
    long double *s = parity_zeros(2 * p->vocab, sizeof *s), *u = s + p->vocab, sum = 0, weighted = 0, size = 0;
    long double shift = sums->maximum ? -INFINITY : (long double)p->rule.shift;
    for (int64_t i = 0; i < p->vocab; i++) {
        s[i] = score_of(p, r, i);
        if (sums->maximum && s[i] > shift) shift = s[i];
    }
    for (int64_t i = 0; i < p->vocab; i++) {
        u[i] = expl((s[i] - shift) * inverse_t);
        sum += u[i];
        weighted += u[i] * s[i];
        size += u[i] * fabsl(s[i]);
    }
    const double ds = unsure(p, r), off = expm1(2 * ds * p->rule.inverse_temperature) + 1e-14;
    check_count(c, p, r, s, sums->count[r]);
    parity_near(c, "sum", r, sums->sum[r], (double)sum, (double)sum * off);
    parity_near(c, "weighted", r, sums->weighted[r], (double)weighted, (double)size * off + (double)sum * ds);
    if (sums->maximum) parity_near(c, "maximum", r, sums->maximum[r], (double)shift, ds + 1e-15);
    if (sums->vector) check_vector(c, p, r, u, off, sums->vector + r * p->dim);
    free(s);
}

static void check_variant(const parity_case *c, int64_t vocab, const variant *v, uint64_t *seed) {
    problem p = problem_of(seed, c, vocab, v);
    slf_score_sums all = sums_of(p.rows, p.dim, v->logits, v->logits || v->sharp), few = {0};
    few.count = parity_zeros(p.rows, sizeof *few.count);
    const int64_t cut = vocab / 3, second = vocab - vocab / 4;
    CHECK_OK(score_part(c, &p, 0, cut, &all));
    CHECK_OK(score_part(c, &p, cut, second, &all));
    CHECK_OK(score_part(c, &p, second, vocab, &all));
    CHECK_OK(score_part(c, &p, 0, vocab, &few)); /* the count alone, in one go */
    long double *s = parity_zeros(vocab, sizeof *s);
    for (int64_t r = 0; r < p.rows; r++) {
        check_row(c, &p, r, &all);
        for (int64_t i = 0; i < vocab; i++) s[i] = score_of(&p, r, i);
        check_count(c, &p, r, s, few.count[r]);
    }
    free(s), free(few.count);
    sums_free(&all);
    problem_free(&p);
}

/* The sums without the vector, in two parts. */
static void check_sums(const parity_case *c, int64_t vocab, const variant *v, uint64_t *seed) {
    problem p = problem_of(seed, c, vocab, v);
    slf_score_sums sums = sums_of(p.rows, p.dim, v->logits, v->logits || v->sharp);
    sums.vector = (free(sums.vector), NULL);
    CHECK_OK(score_part(c, &p, 0, vocab / 3, &sums));
    CHECK_OK(score_part(c, &p, vocab / 3, vocab, &sums));
    for (int64_t r = 0; r < p.rows; r++) check_row(c, &p, r, &sums);
    sums_free(&sums);
    problem_free(&p);
}

static void check_score(const parity_case *c) {
    uint64_t seed = 21;
    for (int v = 0; v < VARIANTS; v++) {
        check_variant(c, c->dim > 2 ? c->dim / 2 : 1, &variants[v], &seed);
        if (c->dim < 129 || c->rows == 5) check_variant(c, c->dim + 37, &variants[v], &seed);
    }
}

START_TEST(score_is_the_definition) {
    parity_each(check_score);
}
END_TEST

/* More rows of both kinds than one tile has. */
static void check_score_tiles(const parity_case *c) {
    uint64_t seed = 22;
    for (int v = 0; v < VARIANTS; v++) check_variant(c, 700, &variants[v], &seed);
}

START_TEST(score_across_tiles) {
    parity_backends(5, 301, check_score_tiles);
}
END_TEST

/* Every number of states around those that one panel or several hold, and hidden sizes of one stretch and of several.
 */
static void check_score_few(const parity_case *c) {
    static const int64_t dims[] = {1, 37, 449, 905};
    uint64_t seed = 27;
    parity_case one = *c;
    for (one.rows = 1; one.rows <= 70; one.rows++) {
        one.dim = one.rows % 16 == 1 ? dims[one.rows / 16 % 4] : 11;
        one.dtype = one.rows % 3 == 0 ? SALF_F32 : one.rows % 3 == 1 ? SALF_BF16 : SALF_F16;
        one.scattered = one.rows % 5 == 0;
        for (int v = 0; v < VARIANTS; v++)
            if (variants[v].needs_f64 != ALL) check_sums(&one, 41 + one.rows % 9, &variants[v], &seed);
    }
}

/* More states than meet a tile at once, and pieces of more rows than a tile. */
static void check_score_many(const parity_case *c) {
    static const struct {
        int64_t rows, dim, vocab;
    } shapes[] = {{255, 3, 20}, {257, 37, 90}, {520, 5, 50}, {3, 520, 4500}, {17, 257, 3300}};
    uint64_t seed = 29;
    parity_case one = *c;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        one.rows = shapes[k].rows;
        one.dim = shapes[k].dim;
        one.dtype = k % 2 ? SALF_F32 : SALF_BF16;
        check_sums(&one, shapes[k].vocab, &variants[k % 2 ? VARIANTS - 1 : 2], &seed);
    }
}

static void check_score_panels(const parity_case *c) {
    check_score_few(c);
    check_score_many(c);
}

START_TEST(score_without_the_vector) {
    parity_backends(1, 1, check_score_panels);
}
END_TEST

/* Without the vector the sums of few states do not depend on the number of threads, to the last bit. */
START_TEST(threads_change_nothing_for_few_states) {
    for (int v = 0; v < VARIANTS; v++) {
        double first[3][40];
        for (int32_t threads = 1; threads <= 4; threads++) {
            uint64_t seed = 28;
            salf_context *context = parity_context(SALF_BACKEND_CPU, threads);
            const parity_case c = {.context = context,
                                   .backend = context->backend,
                                   .impl = context->impl,
                                   .dtype = SALF_F16,
                                   .rows = 40,
                                   .dim = 65};
            problem p = problem_of(&seed, &c, 1500, &variants[v]);
            slf_score_sums sums = sums_of(40, 65, variants[v].logits, variants[v].logits || variants[v].sharp);
            sums.vector = (free(sums.vector), NULL);
            CHECK_OK(score_part(&c, &p, 0, 1500, &sums));
            const double *const now[] = {sums.sum, sums.weighted, sums.maximum ? sums.maximum : sums.sum};
            for (int k = 0; k < 3 && !variants[v].needs_f64; k++) {
                if (threads == 1) memcpy(first[k], now[k], sizeof first[k]);
                ck_assert_mem_eq(first[k], now[k], sizeof first[k]);
            }
            sums_free(&sums);
            problem_free(&p);
            salf_context_destroy(context);
        }
    }
}
END_TEST

/* A state with NaN spoils its own sums only; a state of zeros scores 0 everywhere. */
static void check_score_not_finite(const parity_case *c) {
    for (int v = 0; v < VARIANTS; v++) {
        uint64_t seed = 23;
        problem p = problem_of(&seed, c, 40, &variants[v]);
        p.z[1 * p.dim + 2] = NAN;
        for (int64_t k = 0; k < p.dim; k++) p.z[2 * p.dim + k] = 0;
        p.target[2] = (double)score_of(&p, 2, p.at[2]);
        p.reach[2] = 0;
        slf_score_sums sums = sums_of(p.rows, p.dim, variants[v].logits, variants[v].logits || variants[v].sharp);
        CHECK_OK(score_part(c, &p, 0, 17, &sums));
        CHECK_OK(score_part(c, &p, 17, 40, &sums));
        ck_assert(isnan(sums.sum[1]));
        for (int64_t r = 0; r < p.rows; r++)
            if (r != 1) check_row(c, &p, r, &sums);
        sums.vector = (free(sums.vector), NULL);
        for (int64_t r = 0; r < p.rows; r++) {
            sums.sum[r] = sums.weighted[r] = 0, sums.count[r] = 0;
            if (sums.maximum) sums.maximum[r] = -INFINITY;
        }
        CHECK_OK(score_part(c, &p, 0, 17, &sums)); /* the same without the vector */
        CHECK_OK(score_part(c, &p, 17, 40, &sums));
        ck_assert(isnan(sums.sum[1]));
        for (int64_t r = 0; r < p.rows; r++)
            if (r != 1) check_row(c, &p, r, &sums);
        sums_free(&sums);
        problem_free(&p);
    }
}

START_TEST(score_of_not_finite_states) {
    parity_backends(9, 5, check_score_not_finite);
}
END_TEST

/* Logits far beyond what exp can hold: the running maximum keeps the sum between 1 and the count. */
static void check_score_large_logits(const parity_case *c) {
    const double rows[] = {1, 500, 2000, 1999, -3000}, z[] = {1, 10};
    const int32_t own_of[] = {1, 3};
    const double target[] = {500, 19990}, reach[] = {500, 19990};
    parity_matrix x = parity_matrix_of(rows, 5, 1, SALF_F32, false);
    const int32_t needs_f64[] = {1, 1};
    const slf_query query = {.rows = 2,
                             .dim = 1,
                             .z = z,
                             .target = target,
                             .reach = reach,
                             .own = &x.view,
                             .own_of = own_of,
                             .needs_f64 = needs_f64};
    const slf_score_rule rule = {.inverse_temperature = 1, .logits = 1, .logit_scale = 1, .gain = 1};
    slf_score_sums sums = sums_of(2, 1, true, true);
    const slf_score_job job = {.query = &query, .block = &x.view, .rule = &rule, .sums = &sums};
    CHECK_OK(c->backend->score(c->impl, &job));
    ck_assert_double_eq_tol(sums.sum[0], 1 + exp(-1), 1e-15);
    ck_assert_double_eq_tol(sums.sum[1], 1 + exp(-10), 1e-15);
    ck_assert_double_eq(sums.maximum[1], 20000);
    ck_assert_int_eq(sums.count[0], 2);
    ck_assert_int_eq(sums.count[1], 1);
    sums_free(&sums);
    parity_matrix_free(&x);
}

START_TEST(score_of_large_logits) {
    parity_backends(1, 2, check_score_large_logits);
}
END_TEST

/* Of VOCAB rows every third has the label's score: it is the label's row again or, with double_them, twice that row,
 * whose cosine is the same. */
typedef struct {
    bool logits, all_equal, double_them, constant;
} tie_form;

enum { TIE_VOCAB = 600 };

/* The row of the vocabulary in float64, exact in every type: small whole numbers, or (constant) sums that are rounded
 * in the same direction at every step. */
static void tie_rows(const tie_form *form, int64_t dim, double *values, uint64_t *seed) {
    for (int64_t i = 0; i < TIE_VOCAB; i++)
        for (int64_t k = 0; k < dim; k++) {
            double *x = values + i * dim + k;
            if (form->all_equal || i % 3 == 0)
                *x = (i && (form->all_equal || i % 3 == 0)) ? values[k]
                     : form->constant                       ? 0.10009765625 /* in float16, and nearly in bfloat16 */
                                                            : round(harness_normal(seed) * 4) + 0.5;
            else
                *x = round(harness_normal(seed) * 4) + 0.25;
        }
    for (int64_t i = 3; form->double_them && i < TIE_VOCAB; i += 3)
        for (int64_t k = 0; k < dim; k++) values[i * dim + k] *= 2;
}

/* Targets by the slot for them, counts by score: what exceeds s_l in long double by more than rounding, and not one of
 * the ties. */
static void check_tie_form(const parity_case *c, const tie_form *form, int64_t dim, int32_t dtype) {
    enum { ROWS = 5 };
    uint64_t seed = 31 + (uint64_t)dim;
    double *values = parity_zeros(TIE_VOCAB * dim, sizeof *values), inverse[TIE_VOCAB];
    double *z = parity_doubles(&seed, ROWS * dim), target[ROWS], reach[ROWS];
    int32_t row_of[ROWS] = {0, 3, 0, 597, 300}, needs_f64[ROWS];
    tie_rows(form, dim, values, &seed);
    parity_matrix x = parity_matrix_of(values, TIE_VOCAB, dim, dtype, false);
    for (int64_t i = 0; i < TIE_VOCAB; i++) inverse[i] = 1 / length_of(x.value + i * dim, dim);
    for (int64_t i = 0; i < ROWS * dim && form->constant; i++) z[i] = 0.1;
    const slf_score_rule rule = {
        .inverse_temperature = 1, .shift = 1, .logits = form->logits, .logit_scale = 1, .gain = 1, .norm_error = 1e-15};
    const slf_target_job of_labels = {.z = z,
                                      .rows = ROWS,
                                      .w = &x.view,
                                      .row_of = row_of,
                                      .place = row_of,
                                      .inverse_norms = form->logits ? NULL : inverse,
                                      .rule = &rule,
                                      .target = target,
                                      .reach = reach};
    CHECK_OK(c->backend->target(c->impl, &of_labels));
    int64_t expected[ROWS] = {0};
    for (int r = 0; r < ROWS; r++) {
        long double s[TIE_VOCAB];
        for (int64_t i = 0; i < TIE_VOCAB; i++) {
            s[i] = 0;
            for (int64_t k = 0; k < dim; k++) s[i] += (long double)x.value[i * dim + k] * (long double)z[r * dim + k];
            if (!form->logits) s[i] *= (long double)inverse[i];
        }
        for (int64_t i = 0; i < TIE_VOCAB && !form->all_equal; i++)
            expected[r] += i % 3 && s[i] - s[row_of[r]] > 1e-12L * (long double)(1 + reach[r]);
    }
    for (int wide = 0; wide < 3; wide++) {
        int64_t count[ROWS] = {0};
        for (int r = 0; r < ROWS; r++) needs_f64[r] = wide == 1 || (wide == 2 && r % 2);
        const slf_query query = {.rows = ROWS,
                                 .dim = dim,
                                 .z = z,
                                 .target = target,
                                 .reach = reach,
                                 .own = &x.view,
                                 .own_of = row_of,
                                 .needs_f64 = needs_f64};
        const slf_score_sums sums = {.count = count};
        for (int64_t first = 0; first < TIE_VOCAB; first += 193) { /* blocks that cut tiles in another place each */
            salf_tensor block = slf_tensor_slice(&x.view, first, SLF_MIN(193, TIE_VOCAB - first));
            const slf_score_job job = {.query = &query,
                                       .block = &block,
                                       .inverse_norms = form->logits ? NULL : inverse + first,
                                       .rule = &rule,
                                       .sums = &sums};
            CHECK_OK(c->backend->score(c->impl, &job));
        }
        for (int r = 0; r < ROWS; r++)
            ck_assert_msg(count[r] == expected[r], "%s: %lld above, not %lld (dim %lld, dtype %d, row %d, width %d)",
                          c->context->kernels, (long long)count[r], (long long)expected[r], (long long)dim, (int)dtype,
                          r, wide);
    }
    free(values), free(z);
    parity_matrix_free(&x);
}

static void check_score_ties(const parity_case *c) {
    static const tie_form forms[] = {{0},
                                     {.all_equal = true},
                                     {.all_equal = true, .constant = true},
                                     {.constant = true},
                                     {.double_them = true},
                                     {.logits = true},
                                     {.logits = true, .constant = true},
                                     {.logits = true, .all_equal = true},
                                     {.logits = true, .all_equal = true, .constant = true}};
    static const int64_t dims[] = {1, 65, 7, 905};
    static const int32_t dtypes[] = {SALF_F32, SALF_BF16, SALF_F16};
    const size_t n_dims = harness_plugin() ? 2 : 4; /* threads of an emulated device take their time */
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (size_t d = 0; d < n_dims; d++) check_tie_form(c, &forms[f], dims[d], dtypes[(f + d) % 3]);
}

START_TEST(ties_are_never_above) {
    parity_backends(1, 1, check_score_ties);
}
END_TEST

/* Scores that float32 does not resolve are told apart: rows of the label but for one element, 2^-20 of it above or
 * below. */
static void check_score_near(const parity_case *c) {
    enum { DIM = 300, VOCAB = 41 };
    uint64_t seed = 33;
    double *values = parity_doubles(&seed, VOCAB * DIM), *z = parity_doubles(&seed, DIM), target, reach;
    for (int64_t i = 1; i < VOCAB; i++) memcpy(values + i * DIM, values, DIM * sizeof *values);
    for (int64_t k = 0; k < DIM; k++) values[k] = (double)(float)values[k];
    for (int64_t i = 1; i < VOCAB; i++) {
        memcpy(values + i * DIM, values, DIM * sizeof *values);
        values[i * DIM + i] = (double)(float)(values[i] * (1 + (double)(i % 3 - 1) * 0x1p-20));
    }
    parity_matrix x = parity_matrix_of(values, VOCAB, DIM, SALF_F32, false);
    const int32_t own = 0;
    int64_t count = 0, expected = 0;
    const slf_score_rule rule = {.inverse_temperature = 1, .logits = 1, .logit_scale = 1, .gain = 1};
    const slf_target_job of_label = {.z = z,
                                     .rows = 1,
                                     .w = &x.view,
                                     .row_of = &own,
                                     .place = &own,
                                     .rule = &rule,
                                     .target = &target,
                                     .reach = &reach};
    CHECK_OK(c->backend->target(c->impl, &of_label));
    const slf_query query = {
        .rows = 1, .dim = DIM, .z = z, .target = &target, .reach = &reach, .own = &x.view, .own_of = &own};
    const slf_score_sums sums = {.count = &count};
    const slf_score_job job = {.query = &query, .block = &x.view, .rule = &rule, .sums = &sums};
    CHECK_OK(c->backend->score(c->impl, &job));
    for (int64_t i = 1; i < VOCAB; i++) expected += (x.value[i * DIM + i] - x.value[i]) * z[i] > 0;
    ck_assert_int_eq(count, expected);
    free(values), free(z);
    parity_matrix_free(&x);
}

START_TEST(near_scores_are_told_apart) {
    parity_backends(1, 1, check_score_near);
}
END_TEST

/* Equal rows with unequal biases are no ties. */
static void check_score_biases(const parity_case *c) {
    enum { DIM = 129, VOCAB = 33 };
    uint64_t seed = 34;
    double *values = parity_doubles(&seed, VOCAB * DIM), *z = parity_doubles(&seed, 2 * DIM), target[2], reach[2];
    float bias[VOCAB];
    for (int64_t i = 0; i < VOCAB; i++) {
        memcpy(values + i * DIM, values, DIM * sizeof *values);
        bias[i] = (float)(i % 4) * 0x1p-30f;
    }
    parity_matrix x = parity_matrix_of(values, VOCAB, DIM, SALF_BF16, false);
    const int32_t own[] = {9, 6}, needs_f64[] = {0, 1};
    int64_t count[2] = {0};
    const slf_score_rule rule = {.inverse_temperature = 1, .logits = 1, .logit_scale = 1, .gain = 1};
    const slf_target_job of_labels = {.z = z,
                                      .rows = 2,
                                      .w = &x.view,
                                      .row_of = own,
                                      .place = own,
                                      .bias = bias,
                                      .rule = &rule,
                                      .target = target,
                                      .reach = reach};
    CHECK_OK(c->backend->target(c->impl, &of_labels));
    const slf_query query = {.rows = 2,
                             .dim = DIM,
                             .z = z,
                             .target = target,
                             .reach = reach,
                             .own = &x.view,
                             .own_of = own,
                             .needs_f64 = needs_f64};
    const slf_score_sums sums = {.count = count};
    const slf_score_job job = {.query = &query, .block = &x.view, .bias = bias, .rule = &rule, .sums = &sums};
    CHECK_OK(c->backend->score(c->impl, &job));
    ck_assert_int_eq(count[0], 16); /* bias of 9 is 1 of 0 ... 3 */
    ck_assert_int_eq(count[1], 8);
    free(values), free(z);
    parity_matrix_free(&x);
}

START_TEST(equal_rows_with_other_biases) {
    parity_backends(1, 1, check_score_biases);
}
END_TEST

/* ---- score_loss ---- */

/* Semantic cross-entropy over a basis B = W P: log sum exp(s_i / t) - s_l / t. */
typedef struct {
    int64_t vocab, dim;
    const double *b; /* [vocab][dim] */
    double inverse_t;
} entropy;

static long double entropy_of(const entropy *e, const double *h, int64_t l) {
    long double sum = 0, own = 0;
    const long double length = (long double)length_of(h, e->dim);
    for (int64_t i = 0; i < e->vocab; i++) {
        long double dot = 0, square = 0;
        for (int64_t k = 0; k < e->dim; k++) {
            const long double b = (long double)e->b[i * e->dim + k];
            dot += b * (long double)h[k];
            square += b * b;
        }
        const long double s = square > 0 ? dot / (length * sqrtl(square)) : 0;
        if (i == l) own = s;
        sum += expl((s - 1) * (long double)e->inverse_t);
    }
    return logl(sum) + (1 - own) * (long double)e->inverse_t;
}

/* A symmetric positive P, or the identity. */
static double *inverse_of(uint64_t *seed, int64_t dim, bool identity) {
    double *a = parity_doubles(seed, dim * dim), *p = parity_zeros(dim * dim, sizeof *p);
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++) {
            for (int64_t k = 0; k < dim && !identity; k++) p[i * dim + j] += a[i * dim + k] * a[j * dim + k];
            p[i * dim + j] += i == j;
        }
    free(a);
    return p;
}

static void times(const double *p, const double *x, int64_t dim, double *y) {
    for (int64_t i = 0; i < dim; i++) {
        y[i] = 0;
        for (int64_t k = 0; k < dim; k++) y[i] += p[i * dim + k] * x[k];
    }
}

static void check_entropy_gradient(const parity_case *c, const entropy *e, const double *h, int64_t l, double scale,
                                   const float *gradient) {
    double *moved = parity_zeros(e->dim, sizeof *moved);
    const double length = length_of(h, e->dim), step = 1e-5 * length;
    memcpy(moved, h, (size_t)e->dim * sizeof *moved);
    for (int64_t k = 0; k < e->dim; k += 1 + e->dim / 4) {
        moved[k] = h[k] + step;
        const long double above = entropy_of(e, moved, l);
        moved[k] = h[k] - step;
        const long double below = entropy_of(e, moved, l);
        moved[k] = h[k];
        const double expected = scale * (double)((above - below) / (2 * (long double)step));
        parity_near(c, "gradient", k, (double)gradient[k], expected, 3e-5 * fabs(scale) * e->inverse_t / length);
    }
    free(moved);
}

static void check_loss(const parity_case *c, bool identity, int32_t needs_f64) {
    enum { VOCAB = 30 };
    const int64_t d = c->dim;
    const double scale = 1.5, inverse_t = 1 / 0.4;
    uint64_t seed = 24;
    double *p = inverse_of(&seed, d, identity), *b = parity_zeros(VOCAB * d, sizeof *b);
    parity_matrix w = parity_normal(&seed, VOCAB, d, c->dtype, c->scattered);
    parity_matrix h = parity_normal(&seed, c->rows, d, c->dtype, c->scattered);
    parity_matrix g = parity_normal(&seed, c->rows, d, SALF_F32, c->scattered);
    problem q = {.x = w, .vocab = VOCAB, .rows = c->rows, .dim = d};
    q.needs_f64 = parity_zeros(c->rows, sizeof *q.needs_f64);
    for (int64_t r = 0; r < c->rows; r++) q.needs_f64[r] = needs_f64;
    q.rule = (slf_score_rule){.inverse_temperature = inverse_t, .shift = 1, .gain = 1};
    q.inverse_norm = parity_zeros(VOCAB, sizeof *q.inverse_norm);
    q.z = parity_zeros(c->rows * d, sizeof *q.z);
    q.own_of = parity_zeros(c->rows, sizeof *q.own_of);
    q.target = parity_zeros(c->rows, sizeof *q.target);
    float *rows = parity_zeros(VOCAB * d, sizeof *rows), *loss = parity_zeros(c->rows + 1, sizeof *loss);
    double *norms = parity_zeros(VOCAB, sizeof *norms);
    for (int64_t i = 0; i < VOCAB; i++) {
        if (i != 4) times(p, w.value + i * d, d, b + i * d); /* row 4 counts as a zero row */
        norms[i] = length_of(b + i * d, d);
        q.inverse_norm[i] = norms[i] > 0 ? 1 / norms[i] : 0;
        for (int64_t k = 0; k < d; k++) rows[i * d + k] = (float)b[i * d + k];
    }
    for (int64_t r = 0; r < c->rows; r++) {
        const double length = length_of(h.value + r * d, d);
        times(p, h.value + r * d, d, q.z + r * d);
        for (int64_t k = 0; k < d; k++) q.z[r * d + k] /= length;
        q.own_of[r] = (int32_t)(5 + r % 20);
        for (int64_t k = 0; k < d; k++)
            q.target[r] += w.value[q.own_of[r] * d + k] * q.z[r * d + k] * q.inverse_norm[q.own_of[r]];
    }
    slf_score_sums sums = sums_of(c->rows, d, false, needs_f64 != 0);
    sums.count = (free(sums.count), NULL);
    CHECK_OK(score_part(c, &q, 0, 11, &sums));
    CHECK_OK(score_part(c, &q, 11, VOCAB, &sums));
    const slf_query query = query_of(&q);
    const entropy e = {VOCAB, d, b, inverse_t};
    slf_score_loss_job job = {.states = &h.view,
                              .query = &query,
                              .rule = &q.rule,
                              .sums = &sums,
                              .p = identity ? NULL : p,
                              .own = {rows, norms, q.own_of},
                              .losses = {loss, &g.view, scale}};
    CHECK_OK(c->backend->score_loss(c->impl, &job));
    for (int64_t r = 0; r < c->rows; r++) {
        const double expected = (double)entropy_of(&e, h.value + r * d, q.own_of[r]);
        parity_near(c, "loss", r, (double)loss[r], expected, 1e-5 * (1 + fabs(expected)));
        if (d < 129) check_entropy_gradient(c, &e, h.value + r * d, q.own_of[r], scale, slf_tensor_row(&g.view, r));
    }
    sums.vector = (free(sums.vector), NULL); /* the loss alone needs neither vector nor weighted sum */
    float *alone = parity_zeros(c->rows + 1, sizeof *alone);
    job.losses = (slf_loss_out){alone, NULL, scale};
    CHECK_OK(c->backend->score_loss(c->impl, &job));
    ck_assert_mem_eq(loss, alone, (size_t)c->rows * sizeof *loss);
    sums_free(&sums);
    parity_matrix_free(&h), parity_matrix_free(&g);
    problem_free(&q);
    free(p), free(b), free(rows), free(norms), free(loss), free(alone);
}

static void check_losses(const parity_case *c) {
    if (c->rows > 5) return;
    check_loss(c, true, 0);
    check_loss(c, false, 1);
}

START_TEST(score_loss_and_gradient) {
    parity_each(check_losses);
}
END_TEST

/* ---- threads, allocation ---- */

/* The library's own loops give the same bits for every count; OpenBLAS may split a product elsewhere, so its results
 * are held to the bound on rounding. */
START_TEST(threads_change_rounding_at_most) {
    uint64_t seed = 25;
    for (int v = 0; v < VARIANTS; v++)
        for (int32_t threads = 0; threads <= 3; threads++) {
            salf_context *context = parity_context(SALF_BACKEND_CPU, threads);
            const parity_case c = {.context = context,
                                   .backend = context->backend,
                                   .impl = context->impl,
                                   .id = SALF_BACKEND_CPU,
                                   .dtype = SALF_BF16,
                                   .rows = 70,
                                   .dim = 65};
            check_variant(&c, 600, &variants[v], &seed);
            salf_context_destroy(context);
        }
}
END_TEST

static salf_status body(harness_memory *memory, int32_t backend, void *user) {
    salf_context *context = NULL;
    uint64_t seed = 26;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    const parity_case c = {.backend = context->backend, .impl = context->impl, .rows = 3, .dim = 6, .dtype = SALF_F16};
    const variant *v = user ? user : &variants[0];
    problem p = problem_of(&seed, &c, 8, v);
    slf_score_sums sums = sums_of(3, 6, v->logits, v->logits || v->sharp);
    status = score_part(&c, &p, 0, 8, &sums);
    if (status == SALF_OK && !user) { /* and the loss of these states */
        const slf_query query = query_of(&p);
        const salf_tensor states = slf_tensor_host(p.z, SALF_F64, 3, 6);
        static const float rows[6] = {1};
        static const double norms[] = {1};
        static const int32_t which[3] = {0};
        float loss[3], gradient[18];
        const salf_tensor g = slf_tensor_host(gradient, SALF_F32, 3, 6);
        const slf_score_loss_job job = {.states = &states,
                                        .query = &query,
                                        .rule = &p.rule,
                                        .sums = &sums,
                                        .own = {rows, norms, which},
                                        .losses = {loss, &g, 1}};
        status = c.backend->score_loss(c.impl, &job);
    }
    sums_free(&sums);
    problem_free(&p);
    salf_context_destroy(context);
    return status;
}

START_TEST(failing_allocations_leak_nothing) {
    for (int32_t id = SALF_BACKEND_REFERENCE; id <= SALF_BACKEND_CPU; id++) {
        harness_fail_each_allocation(body, id, NULL);
        for (int v = 1; v < VARIANTS; v++) {
            variant copy = variants[v];
            harness_fail_each_allocation(body, id, &copy);
        }
    }
}
END_TEST

/* Where OpenBLAS serves. */
__attribute__((weak)) void openblas_set_num_threads(int n);

void harness_suite(Suite *suite) {
    /* A context without threads then has no more in BLAS: few states go without gemm. */
    if (openblas_set_num_threads) openblas_set_num_threads(1);
    HARNESS_ADD(suite, score_is_the_definition);
    HARNESS_ADD(suite, score_across_tiles);
    HARNESS_ADD(suite, score_without_the_vector);
    HARNESS_ADD(suite, score_of_not_finite_states);
    HARNESS_ADD(suite, score_of_large_logits);
    HARNESS_ADD(suite, ties_are_never_above);
    HARNESS_ADD(suite, near_scores_are_told_apart);
    HARNESS_ADD(suite, equal_rows_with_other_biases);
    HARNESS_ADD(suite, score_loss_and_gradient);
    if (harness_plugin()) return; /* what follows is about the backends that are built in */
    HARNESS_ADD(suite, threads_change_nothing_for_few_states);
    HARNESS_ADD(suite, threads_change_rounding_at_most);
    HARNESS_ADD(suite, failing_allocations_leak_nothing);
}
