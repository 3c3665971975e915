/* Scores at their limits: ties, temperatures near 0 and far above 1, heads and states of any scale float32 holds. On
 * every backend and every set of kernels; expected values in long double from the rows themselves. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { M = 2, SPACES = M + 1, ROWS = 7 };

/* Backends with the kernels of the cpu one; a level that the processor has not is left out. */
static const struct {
    int32_t backend;
    const char *kernels;
} levels[] = {
    {SALF_BACKEND_REFERENCE, NULL}, {SALF_BACKEND_CPU, "c"}, {SALF_BACKEND_CPU, "avx2"}, {SALF_BACKEND_CPU, "avx512"}};
enum { LEVELS = sizeof levels / sizeof *levels };

/* NULL: not on this machine. threads 0: few states go through BLAS in tiles, or in panels where BLAS has one thread. */
static salf_context *open_level(int level, int32_t threads) {
    salf_context *context = NULL;
    if (harness_plugin()) return level ? NULL : harness_context(SALF_BACKEND_CPU, NULL);
    if (levels[level].kernels) setenv("SALF_KERNELS", levels[level].kernels, 1);
    const salf_context_options c = {.struct_size = sizeof c, .backend = levels[level].backend, .threads = threads};
    const salf_status status = salf_context_create(&context, &c);
    unsetenv("SALF_KERNELS");
    ck_assert(status == SALF_OK || status == SALF_E_BACKEND);
    return context;
}

/* How the vocabulary is compared with. */
enum { WHOLE, TABLE, CANDIDATES, LOGITS, LOGIT_CANDIDATES, WAYS };

typedef struct {
    int64_t v, d;
    float *w;              /* [v][d] */
    void *stored;          /* the same in dtype */
    float *states[SPACES]; /* [ROWS][d] */
    int32_t dtype;
    int32_t labels[ROWS];
    salf_model *model;
    salf_basis *basis;
    double *b; /* [v][d]: rows that scores are taken with, as the way rounds them */
} world;

static void store(world *x) {
    uint16_t *halves = x->stored;
    for (int64_t i = 0; i < x->v * x->d; i++) {
        if (x->dtype == SALF_F32) {
            ((float *)x->stored)[i] = x->w[i];
            continue;
        }
        halves[i] = x->dtype == SALF_BF16 ? harness_to_bf16(x->w[i]) : harness_to_f16(x->w[i]);
        if (x->dtype == SALF_BF16) { /* what the library sees */
            const uint32_t bits = (uint32_t)halves[i] << 16;
            memcpy(&x->w[i], &bits, sizeof bits);
        }
    }
}

/* Random rows and states, times their scales; whole numbers of few bits, so that float16 holds them too. */
static world make_world(int64_t v, int64_t d, int32_t dtype, double scale, double state_scale) {
    uint64_t seed = (uint64_t)(v * 1000 + d);
    world x = {.v = v, .d = d, .dtype = dtype};
    x.w = calloc((size_t)(v * d), sizeof *x.w);
    x.b = calloc((size_t)(v * d), sizeof *x.b);
    x.stored = calloc((size_t)(v * d), sizeof(float));
    for (int64_t i = 0; i < v * d; i++) x.w[i] = (float)(scale * round(harness_normal(&seed) * 32) / 32);
    for (int k = 0; k < SPACES; k++) {
        x.states[k] = calloc((size_t)(ROWS * d), sizeof(float));
        for (int64_t i = 0; i < ROWS * d; i++) x.states[k][i] = (float)(state_scale * harness_normal(&seed));
    }
    for (int r = 0; r < ROWS; r++) x.labels[r] = (int32_t)((r * 37 + 5) % v);
    return x;
}

static void open_world(world *x, salf_context *context, int way) {
    store(x);
    const salf_model_options m = {.struct_size = sizeof m,
                                  .n_layers = M,
                                  .hidden = x->d,
                                  .vocab = x->v,
                                  .head = oracle_view(x->stored, x->dtype, x->v, x->d)};
    const salf_basis_options o = {.struct_size = sizeof o,
                                  .mode = SALF_BASIS_EXACT,
                                  .prepare = way == TABLE ? SALF_PREPARE_TABLE : SALF_PREPARE_LABELS};
    CHECK_OK(salf_model_create(&x->model, context, &m));
    CHECK_OK(salf_basis_create(&x->basis, x->model, x->labels, 1, &o));
    int32_t *all = calloc((size_t)x->v, sizeof *all);
    for (int32_t i = 0; i < x->v; i++) all[i] = i;
    const salf_tensor rows = oracle_view(x->b, SALF_F64, x->v, x->d);
    CHECK_OK(salf_basis_rows(x->basis, all, x->v, &rows));
    for (int64_t i = 0; i < x->v * x->d; i++) {
        if (way == TABLE || way == CANDIDATES) x->b[i] = (double)(float)x->b[i];
        if (way == LOGITS || way == LOGIT_CANDIDATES) x->b[i] = (double)x->w[i];
    }
    free(all);
}

static void close_world(world *x) {
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
}

static void free_world(world *x) {
    free(x->w), free(x->b), free(x->stored);
    for (int k = 0; k < SPACES; k++) free(x->states[k]);
}

/* Scores s [v] of a state, in long double. */
static void scores_of(const world *x, const float *h, int way, long double *s) {
    long double length = 0;
    for (int64_t k = 0; k < x->d; k++) length += (long double)h[k] * (long double)h[k];
    for (int64_t i = 0; i < x->v; i++) {
        long double dot = 0, square = 0;
        for (int64_t k = 0; k < x->d; k++) {
            dot += (long double)x->b[i * x->d + k] * (long double)h[k];
            square += (long double)x->b[i * x->d + k] * (long double)x->b[i * x->d + k];
        }
        s[i] = way >= LOGITS ? dot : square > 0 ? dot / sqrtl(length * square) : 0;
    }
}

/* Deviations [ROWS][SPACES] of a metric; candidates are all tokens, so that the expectation is the same. */
static void probe(const world *x, int32_t metric, int way, double t, double *deviations) {
    int32_t *all = calloc((size_t)x->v, sizeof *all);
    for (int32_t i = 0; i < x->v; i++) all[i] = i;
    const bool some = way == CANDIDATES || way == LOGIT_CANDIDATES;
    const salf_probe_options p = {.struct_size = sizeof p,
                                  .metric = metric,
                                  .lens = SALF_LENS_RAW,
                                  .scores = way >= LOGITS ? SALF_SCORE_LOGITS : SALF_SCORE_BASIS,
                                  .temperature = t,
                                  .candidates = some ? all : NULL,
                                  .n_candidates = some ? x->v : 0};
    salf_probe *made;
    salf_trace trace;
    CHECK_OK(salf_probe_create(&made, x->basis, &p));
    CHECK_OK(salf_probe_begin(made, x->labels, ROWS));
    for (int32_t k = 0; k < SPACES; k++) {
        const salf_tensor states = oracle_view(x->states[k], SALF_F32, ROWS, x->d);
        CHECK_OK(salf_probe_observe(made, k, &states, SALF_STATE_RAW));
    }
    CHECK_OK(salf_probe_end(made, &trace));
    memcpy(deviations, trace.deviations, ROWS * SPACES * sizeof *deviations);
    salf_probe_destroy(made);
    free(all);
}

/* ---- ties ---- */

/* Rows 0 ... copies are equal; labels are among them and beside them. Every rank has to be the number of rows that are
 * above and not equal: how many stand out from rounding, as float32 rows have it, is counted with a margin that no copy
 * comes near, since the copies are left out by name. */
static void check_ties(int level, int way, int64_t v, int64_t d, int64_t copies, int32_t dtype, bool constant) {
    salf_context *context = open_level(level, 1);
    if (!context) return;
    world x = make_world(v, d, dtype, 1, 1);
    for (int64_t k = 0; k < d && constant; k++) x.w[k] = 0.1f;
    for (int64_t i = 1; i < copies; i++) memcpy(x.w + i * d, x.w, (size_t)d * sizeof *x.w);
    for (int r = 0; r < ROWS; r++) x.labels[r] = (int32_t)(r % 3 == 2 ? v - 1 - r : (r * 29) % copies);
    open_world(&x, context, way);
    double got[ROWS * SPACES];
    long double *s = calloc((size_t)v, sizeof *s);
    probe(&x, SALF_METRIC_RANK, way, 1, got);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < SPACES; k++) {
            const int64_t label = x.labels[r];
            int64_t least = 0, most = 0;
            scores_of(&x, x.states[k] + r * d, way, s);
            for (int64_t i = 0; i < v; i++) {
                if (i == label || (i < copies && label < copies)) continue;
                const double over = (double)(s[i] - s[label]);
                least += over > 1e-9, most += over > -1e-9;
            }
            const double rank = got[r * SPACES + k];
            ck_assert_msg(rank >= (double)least && rank <= (double)most,
                          "level %d way %d V %d D %d copies %d dtype %d: rank %g, not %d ... %d", level, way, (int)v,
                          (int)d, (int)copies, (int)dtype, rank, (int)least, (int)most);
        }
    free(s);
    close_world(&x);
    free_world(&x);
    salf_context_destroy(context);
}

START_TEST(equal_rows_are_never_above) {
    static const int32_t dtypes[] = {SALF_F32, SALF_BF16, SALF_F16};
    for (int level = 0; level < LEVELS; level++)
        for (int way = 0; way < WAYS; way++)
            for (int t = 0; t < 3; t++) {
                check_ties(level, way, 301, 24, 2, dtypes[t], false);
                if (!harness_plugin() || t == way % 3) check_ties(level, way, 700, 96, 256, dtypes[t], false);
                check_ties(level, way, 131, 5, 40, dtypes[t], true);
            }
}
END_TEST

/* A scorer that gives all tokens one score: rank 0, whether the rows are equal or only their directions. */
START_TEST(constant_scorers_have_rank_0) {
    for (int level = 0; level < LEVELS; level++)
        for (int way = 0; way < WAYS; way++)
            for (int form = 0; form < 4; form++) {
                salf_context *context = open_level(level, 1);
                if (!context) continue;
                const int64_t v = 257, d = form == 0 ? 1 : form == 3 ? 65 : 300;
                world x = make_world(v, d, SALF_F32, 1, 1);
                for (int64_t i = 0; i < v; i++)
                    for (int64_t k = 0; k < d; k++) {
                        if (form == 0 || form == 3) /* one direction, lengths of their own */
                            x.w[i * d + k] =
                                (form == 0 ? 1 : x.w[k]) * (way < LOGITS ? (float)ldexp(1, (int)i % 5) : 1);
                        else
                            x.w[i * d + k] = form == 1 ? x.w[k] : 0.1f;
                    }
                open_world(&x, context, way);
                double got[ROWS * SPACES];
                probe(&x, SALF_METRIC_RANK, way, 1, got);
                for (int i = 0; i < ROWS * SPACES; i++)
                    ck_assert_msg(got[i] <= 0, "level %d way %d form %d: rank %g", level, way, form, got[i]);
                close_world(&x);
                free_world(&x);
                salf_context_destroy(context);
            }
}
END_TEST

/* ---- temperatures ---- */

static const double temperatures[] = {1e-6, 1e-5, 1e-4, 0.0005, 0.001, 0.01, 0.05, 0.25, 1, 40, 1e30};
enum { TEMPERATURES = sizeof temperatures / sizeof *temperatures };

static long double entropy(const long double *s, int64_t v, int64_t label, double t) {
    long double most = s[0], sum = 0;
    for (int64_t i = 1; i < v; i++) most = fmaxl(most, s[i]);
    for (int64_t i = 0; i < v; i++) sum += expl((s[i] - most) / (long double)t);
    return (most - s[label]) / (long double)t + logl(sum);
}

/* Scores are good to some 1e-13 of their size where t asks for it, and deviations to that over t. The first rows'
 * labels are made the best scorers of their states: there a deviation is near 0, and every error of a maximum shows. */
static void check_temperatures(int level, int way) {
    salf_context *context = open_level(level, 1);
    if (!context) return;
    const int64_t v = 400, d = 48;
    world x = make_world(v, d, SALF_F32, 1, 1);
    open_world(&x, context, way);
    long double *s = calloc((size_t)v, sizeof *s);
    for (int r = 0; r < 3; r++)
        for (int64_t k = 0; k < d; k++) x.states[0][r * d + k] = (float)x.b[x.labels[r] * d + k];
    for (int i = 0; i < TEMPERATURES; i++) {
        const double t = temperatures[i];
        double got[ROWS * SPACES];
        probe(&x, SALF_METRIC_CE, way, t, got);
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < SPACES; k++) {
                scores_of(&x, x.states[k] + r * d, way, s);
                double largest = 0;
                for (int64_t j = 0; j < v; j++) largest = fmax(largest, (double)fabsl(s[j]));
                const double expected = (double)entropy(s, v, x.labels[r], t);
                const double tolerance = 1e-5 + 1e-6 * fabs(expected) + (t < 0.06 ? 1e-13 : 1e-7) * largest / t;
                ck_assert_msg(fabs(got[r * SPACES + k] - expected) <= tolerance, "level %d way %d t %g: %.9g, not %.9g",
                              level, way, t, got[r * SPACES + k], expected);
            }
    }
    free(s);
    close_world(&x);
    free_world(&x);
    salf_context_destroy(context);
}

START_TEST(every_temperature_is_right) {
    for (int level = 0; level < LEVELS; level++)
        for (int way = 0; way < WAYS; way++) check_temperatures(level, way);
}
END_TEST

/* d L / d h = (sum p_i e_i - e_l - (sum p_i s_i - s_l) h / |h|) / (t |h|), e_i = b_i / |b_i|. */
static void check_loss(const world *x, int level, int way, double t, long double *s) {
    const int64_t v = x->v, d = x->d;
    int32_t *all = calloc((size_t)v, sizeof *all);
    for (int32_t i = 0; i < v; i++) all[i] = i;
    const bool some = way == CANDIDATES;
    const salf_loss_options l = {.struct_size = sizeof l,
                                 .kind = SALF_LOSS_CE,
                                 .temperature = t,
                                 .candidates = some ? all : NULL,
                                 .n_candidates = some ? v : 0};
    float loss[ROWS], *gradient = calloc((size_t)(ROWS * d), sizeof *gradient);
    const salf_tensor states = oracle_view(x->states[0], SALF_F32, ROWS, d),
                      losses = oracle_view(loss, SALF_F32, ROWS, 1);
    const salf_tensor g = oracle_view(gradient, SALF_F32, ROWS, d);
    salf_loss *made;
    CHECK_OK(salf_loss_create(&made, x->basis, &l));
    CHECK_OK(salf_loss_compute(made, x->labels, &states, 1, &losses, &g));
    for (int r = 0; r < ROWS; r++) {
        const float *h = x->states[0] + r * d;
        const int64_t label = x->labels[r];
        long double most = -2, sum = 0, along = 0, length = 0;
        scores_of(x, h, way, s);
        for (int64_t k = 0; k < d; k++) length += (long double)h[k] * (long double)h[k];
        for (int64_t i = 0; i < v; i++) most = fmaxl(most, s[i]);
        for (int64_t i = 0; i < v; i++) sum += expl((s[i] - most) / (long double)t);
        for (int64_t i = 0; i < v; i++) along += expl((s[i] - most) / (long double)t) / sum * s[i];
        const double expected = (double)entropy(s, v, label, t), unit = 1 / (t * (double)sqrtl(length));
        ck_assert_msg(fabs((double)loss[r] - expected) <= 1e-5 + 1e-6 * fabs(expected) + 1e-13 / t,
                      "level %d way %d t %g: loss %.9g, not %.9g", level, way, t, (double)loss[r], expected);
        for (int64_t k = 0; k < d; k += 7) {
            long double mean = 0, own = 0;
            for (int64_t i = 0; i < v; i++) {
                const double norm = sqrt(oracle_dot(x->b + i * d, x->b + i * d, d));
                const long double e = (long double)(x->b[i * d + k] / norm);
                mean += expl((s[i] - most) / (long double)t) / sum * e;
                if (i == label) own = e;
            }
            const double right = unit * (double)(mean - own - (along - s[label]) * (long double)h[k] / sqrtl(length));
            ck_assert_msg(fabs((double)gradient[r * d + k] - right) <= unit * (2e-6 + 1e-13 / t * 1e-3),
                          "level %d way %d t %g: gradient %.9g, not %.9g", level, way, t, (double)gradient[r * d + k],
                          right);
        }
    }
    salf_loss_destroy(made);
    free(gradient), free(all);
}

START_TEST(losses_and_gradients_at_every_temperature) {
    for (int level = 0; level < LEVELS; level++)
        for (int way = WHOLE; way <= CANDIDATES; way++) {
            salf_context *context = open_level(level, 1);
            if (!context) continue;
            world x = make_world(300, 29, SALF_F32, 1, 1);
            open_world(&x, context, way);
            long double *s = calloc((size_t)x.v, sizeof *s);
            for (int64_t k = 0; k < x.d; k++) x.states[0][k] = (float)x.b[x.labels[0] * x.d + k];
            for (int i = 0; i < TEMPERATURES; i++) check_loss(&x, level, way, temperatures[i], s);
            free(s);
            close_world(&x);
            free_world(&x);
            salf_context_destroy(context);
        }
}
END_TEST

START_TEST(other_temperatures_are_refused) {
    static const double wrong[] = {9e-7, 1e-12, 5e-324, 1e31, -1, INFINITY, NAN, DBL_MAX};
    salf_context *context = open_level(0, 0);
    world x = make_world(30, 6, SALF_F32, 1, 1);
    open_world(&x, context, WHOLE);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const salf_probe_options p = {.struct_size = sizeof p, .metric = SALF_METRIC_CE, .temperature = wrong[i]};
        const salf_loss_options l = {.struct_size = sizeof l, .kind = SALF_LOSS_CE, .temperature = wrong[i]};
        salf_probe *probe_made;
        salf_loss *loss_made;
        char value[64];
        snprintf(value, sizeof value, "temperature is %.16g, not in 1e-06 ... 1e+30", wrong[i]);
        CHECK_FAILS(salf_probe_create(&probe_made, x.basis, &p), SALF_E_ARGUMENT, value);
        CHECK_FAILS(salf_loss_create(&loss_made, x.basis, &l), SALF_E_ARGUMENT, value);
    }
    /* a gradient that float32 does not hold is refused, and nothing is written */
    const salf_loss_options l = {.struct_size = sizeof l, .kind = SALF_LOSS_CE, .temperature = 1e-6};
    float loss[ROWS] = {7}, gradient[ROWS * 6] = {7};
    const salf_tensor states = oracle_view(x.states[0], SALF_F32, ROWS, 6),
                      losses = oracle_view(loss, SALF_F32, ROWS, 1);
    const salf_tensor g = oracle_view(gradient, SALF_F32, ROWS, 6);
    salf_loss *made;
    CHECK_OK(salf_loss_create(&made, x.basis, &l));
    CHECK_FAILS(salf_loss_compute(made, x.labels, &states, 1e35, &losses, &g), SALF_E_OVERFLOW, "scale 1e+35");
    ck_assert(loss[0] == 7 && gradient[0] == 7);
    CHECK_OK(salf_loss_compute(made, x.labels, &states, 1e35, &losses, NULL));
    salf_loss_destroy(made);
    close_world(&x);
    free_world(&x);
    salf_context_destroy(context);
}
END_TEST

/* ---- scales ---- */

/* Cosines know no scale, so that powers of two on head and states change no deviation, but for the width that products
 * are made in. */
static void check_scales(int level, int way, int32_t dtype) {
    static const int exponents[] = {0, -100, 100, -60, 60};
    const size_t n = harness_plugin() ? 3 : 5;
    double expected[3][ROWS * SPACES], expected_loss[ROWS];
    for (size_t h = 0; h < n; h++)
        for (size_t s = 0; s < n; s++) {
            salf_context *context = open_level(level, 1);
            if (!context) return;
            world x = make_world(150, 31, dtype, ldexp(1, exponents[h]), ldexp(1, exponents[s]));
            open_world(&x, context, way);
            for (int32_t metric = SALF_METRIC_COSINE; metric <= SALF_METRIC_RANK; metric++) {
                double got[ROWS * SPACES];
                if (metric == SALF_METRIC_CE && way >= LOGITS) continue;
                probe(&x, metric, way, 0.5, got);
                for (int i = 0; i < ROWS * SPACES; i++) {
                    if (h == 0 && s == 0) expected[metric][i] = got[i];
                    ck_assert_msg(fabs(got[i] - expected[metric][i]) <= (metric == SALF_METRIC_RANK ? 0 : 2e-6),
                                  "level %d way %d dtype %d metric %d head 2^%d states 2^%d: %.9g, not %.9g", level,
                                  way, (int)dtype, (int)metric, exponents[h], exponents[s], got[i],
                                  expected[metric][i]);
                }
            }
            if (way < LOGITS) {
                const salf_loss_options l = {.struct_size = sizeof l, .kind = SALF_LOSS_CE, .temperature = 0.1};
                float loss[ROWS], gradient[ROWS * 31];
                const salf_tensor states = oracle_view(x.states[0], SALF_F32, ROWS, 31);
                const salf_tensor losses = oracle_view(loss, SALF_F32, ROWS, 1);
                const salf_tensor g = oracle_view(gradient, SALF_F32, ROWS, 31);
                salf_loss *made;
                CHECK_OK(salf_loss_create(&made, x.basis, &l));
                CHECK_OK(salf_loss_compute(made, x.labels, &states, 1, &losses, &g));
                for (int r = 0; r < ROWS; r++) {
                    if (h == 0 && s == 0) expected_loss[r] = (double)loss[r];
                    ck_assert(fabs((double)loss[r] - expected_loss[r]) < 1e-5);
                    for (int k = 0; k < 31; k++) ck_assert(isfinite(gradient[r * 31 + k]));
                }
                salf_loss_destroy(made);
            }
            close_world(&x);
            free_world(&x);
            salf_context_destroy(context);
        }
}

START_TEST(scales_of_heads_and_states_do_not_matter) {
    for (int level = 0; level < LEVELS; level++)
        for (int way = 0; way < WAYS; way++) {
            check_scales(level, way, SALF_F32);
            check_scales(level, way, SALF_BF16);
        }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, equal_rows_are_never_above);
    HARNESS_ADD(suite, constant_scorers_have_rank_0);
    HARNESS_ADD(suite, every_temperature_is_right);
    HARNESS_ADD(suite, losses_and_gradients_at_every_temperature);
    HARNESS_ADD(suite, other_temperatures_are_refused);
    HARNESS_ADD(suite, scales_of_heads_and_states_do_not_matter);
}
