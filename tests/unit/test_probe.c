/* Deviation probe: every metric, lens, score and candidate list against a brute-force reading; the state machine; eof.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { V = 50, D = 12, M = 3, ROWS = 5 };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};

typedef struct {
    float w[V * D];
    double b[V * D];
    float states[M + 1][ROWS * D];
    int32_t labels[ROWS];
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
} world;

static world *make_world(int32_t backend, double spread, int32_t prepare) {
    world *x = calloc(1, sizeof *x);
    uint64_t seed = 3;
    oracle_head(x->w, V, D, spread, 11);
    oracle_basis(x->w, V, D, 0, 0, x->b);
    for (int k = 0; k <= M; k++)
        for (int i = 0; i < ROWS * D; i++) x->states[k][i] = (float)harness_normal(&seed);
    const int32_t labels[ROWS] = {4, 49, 0, 4, 17};
    memcpy(x->labels, labels, sizeof labels);
    x->context = harness_context(backend, NULL);
    x->model = oracle_model(x->context, x->w, V, D, M);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = SALF_BASIS_EXACT;
    options.prepare = prepare;
    CHECK_OK(salf_basis_create(&x->basis, x->model, labels, 2, &options)); /* the others are solved on demand */
    return x;
}

static void drop_world(world *x) {
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    free(x);
}

static salf_probe_options options_of(int32_t metric, int32_t lens) {
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.metric = metric;
    options.lens = lens;
    return options;
}

static salf_tensor states_of(const world *x, int32_t space) {
    return oracle_view(x->states[space], SALF_F32, ROWS, D);
}

static void run(salf_probe *probe, const world *x, salf_trace *trace) {
    CHECK_OK(salf_probe_begin(probe, x->labels, ROWS));
    for (int32_t k = 0; k <= M; k++) {
        const salf_tensor states = states_of(x, k);
        CHECK_OK(salf_probe_observe(probe, k, &states, SALF_STATE_RAW));
    }
    CHECK_OK(salf_probe_end(probe, trace));
}

/* RMS norm without weights only scales, so that lenses do not show in cosines: all lenses expect the same. */
static void check_trace(const world *x, const salf_trace *trace, int32_t metric, double t, const int32_t *ids,
                        int64_t n, double tolerance) {
    ck_assert_int_eq(trace->rows, ROWS);
    ck_assert_int_eq(trace->n_layers, M);
    for (int r = 0; r < ROWS; r++) {
        for (int k = 0; k <= M; k++) {
            const double expected = oracle_deviation(metric, x->states[k] + r * D, x->b, V, D, x->labels[r], t, ids, n);
            const double got = trace->deviations[r * (M + 1) + k];
            ck_assert_msg(fabs(got - expected) <= tolerance, "row %d space %d metric %d: %.9g, not %.9g", r, k,
                          (int)metric, got, expected);
        }
        double total = 0;
        for (int k = 0; k < M; k++) total += trace->gains[r * M + k];
        const double *d = trace->deviations + r * (M + 1);
        ck_assert(fabs(total - (d[0] - d[M])) < 1e-9);
        for (int k = 0; k < M; k++) ck_assert(trace->gains[r * M + trace->eof[r]] >= trace->gains[r * M + k]);
    }
}

START_TEST(deviations_match_the_oracle) {
    const double spreads[] = {2, 300}; /* the second is too ill-conditioned for float32 products */
    for (size_t k = 0; k < 2; k++)
        for (size_t s = 0; s < 2; s++)
            for (int32_t prepare = SALF_PREPARE_LABELS; prepare <= SALF_PREPARE_TABLE; prepare++) {
                world *x = make_world(backends[k], spreads[s], prepare);
                for (int32_t metric = 0; oracle_is_metric(metric); metric++)
                    for (int32_t lens = 0; lens <= SALF_LENS_RAW; lens++) {
                        salf_probe_options options = options_of(metric, lens);
                        options.temperature = lens == SALF_LENS_RAW ? 0.25 : 0;
                        const double t = lens == SALF_LENS_RAW ? 0.25 : 1;
                        salf_probe *probe;
                        salf_trace trace;
                        CHECK_OK(salf_probe_create(&probe, x->basis, &options));
                        run(probe, x, &trace);
                        check_trace(x, &trace, metric, t, NULL, 0, 1e-5);
                        run(probe, x, &trace); /* the probe may be used again */
                        check_trace(x, &trace, metric, t, NULL, 0, 1e-5);
                        salf_probe_destroy(probe);
                    }
                drop_world(x);
            }
}
END_TEST

START_TEST(candidates_restrict_the_comparison) {
    const int32_t few[] = {17, 0, 4, 49, 30, 30};
    const int32_t few_unique[] = {0, 4, 17, 30, 49};
    int32_t all[V];
    for (int32_t i = 0; i < V; i++) all[i] = i;
    for (size_t k = 0; k < 2; k++)
        for (int32_t prepare = SALF_PREPARE_LABELS; prepare <= SALF_PREPARE_TABLE; prepare += 2)
            for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
                if (!oracle_walks(metric)) continue;
                world *x = make_world(backends[k], 5, prepare);
                salf_probe_options options = options_of(metric, SALF_LENS_RAW);
                salf_probe *probe;
                salf_trace trace;
                options.candidates = few;
                options.n_candidates = 6;
                CHECK_OK(salf_probe_create(&probe, x->basis, &options));
                run(probe, x, &trace);
                check_trace(x, &trace, metric, 1, few_unique, 5, 1e-5);
                const int32_t stranger = 3;
                CHECK_FAILS(salf_probe_begin(probe, &stranger, 1), SALF_E_LABEL, "label 3");
                salf_probe_destroy(probe);
                options.candidates = all;
                options.n_candidates = V;
                CHECK_OK(salf_probe_create(&probe, x->basis, &options));
                run(probe, x, &trace);
                check_trace(x, &trace, metric, 1, NULL, 0, 1e-5);
                salf_probe_destroy(probe);
                drop_world(x);
            }
}
END_TEST

/* Logits with scale, bias and soft cap, by their definition. */
static double logit(const world *x, const float *h, int64_t i, const float *bias, double scale, double cap) {
    double sum = 0;
    for (int j = 0; j < D; j++) sum += (double)x->w[i * D + j] * (double)h[j];
    sum = scale * sum + (double)bias[i];
    return cap * tanh(sum / cap);
}

START_TEST(logits_in_place_of_cosines) {
    float bias[V];
    uint64_t seed = 5;
    for (int i = 0; i < V; i++) bias[i] = (float)harness_normal(&seed);
    const int32_t few[] = {0, 4, 17, 30, 49};
    for (size_t k = 0; k < 2; k++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++)
            for (int restricted = 0; oracle_walks(metric) && restricted < 2; restricted++) {
                world *x = make_world(backends[k], 5, 0);
                salf_model_options shape;
                salf_options_init(&shape, sizeof shape);
                shape.n_layers = M;
                shape.hidden = D;
                shape.vocab = V;
                shape.head = oracle_view(x->w, SALF_F32, V, D);
                shape.logit_bias = oracle_view(bias, SALF_F32, 1, V);
                shape.logit_scale = 3;
                shape.logit_softcap = 20;
                salf_model *model;
                salf_basis *basis;
                salf_probe *probe;
                salf_trace trace;
                CHECK_OK(salf_model_create(&model, x->context, &shape));
                CHECK_OK(salf_basis_create(&basis, model, NULL, 0, NULL));
                salf_probe_options options = options_of(metric, SALF_LENS_RAW);
                options.scores = SALF_SCORE_LOGITS;
                options.temperature = 2;
                options.candidates = restricted ? few : NULL;
                options.n_candidates = restricted ? 5 : 0;
                CHECK_OK(salf_probe_create(&probe, basis, &options));
                run(probe, x, &trace);
                for (int r = 0; r < ROWS; r++)
                    for (int s = 0; s <= M; s++) {
                        const float *h = x->states[s] + r * D;
                        double scores[V];
                        int own = -1;
                        for (int i = 0; i < (restricted ? 5 : V); i++) {
                            const int id = restricted ? few[i] : i;
                            scores[i] = logit(x, h, id, bias, 3, 20);
                            if (id == x->labels[r]) own = i;
                        }
                        const double expected = oracle_metric(metric, scores, restricted ? 5 : V, own, 2);
                        const double got = trace.deviations[r * (M + 1) + s];
                        ck_assert_msg(fabs(got - expected) < 2e-5, "%g, not %g", got, expected);
                    }
                salf_probe_destroy(probe);
                salf_basis_destroy(basis);
                salf_model_destroy(model);
                drop_world(x);
            }
}
END_TEST

START_TEST(scale_of_states_does_not_matter) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
        salf_probe_options options = options_of(metric, SALF_LENS_RAW);
        salf_probe *probe;
        salf_trace trace;
        CHECK_OK(salf_probe_create(&probe, x->basis, &options));
        for (int i = 0; i < ROWS * D; i++) x->states[1][i] *= 1024;
        run(probe, x, &trace);
        check_trace(x, &trace, metric, 1, NULL, 0, 1e-5);
        salf_probe_destroy(probe);
    }
    drop_world(x);
}
END_TEST

START_TEST(views_with_stride_index_and_16_bits) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    uint16_t narrow[2 * ROWS * (D + 3)];
    int64_t index[ROWS];
    for (int k = 0; k <= M; k++)
        for (int i = 0; i < ROWS * D; i++) x->states[k][i] = (float)(round((double)x->states[k][i] * 32) / 32);
    for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
        salf_probe_options options = options_of(metric, SALF_LENS_RAW);
        salf_probe *probe;
        salf_trace trace;
        CHECK_OK(salf_probe_create(&probe, x->basis, &options));
        CHECK_OK(salf_probe_begin(probe, x->labels, ROWS));
        for (int32_t k = 0; k <= M; k++) {
            const int32_t dtype = k % 2 ? SALF_BF16 : SALF_F16;
            for (int r = 0; r < ROWS; r++) {
                index[r] = 2 * (ROWS - 1 - r) + 1;
                for (int j = 0; j < D; j++) {
                    const float value = x->states[k][r * D + j];
                    narrow[index[r] * (D + 3) + j] =
                        dtype == SALF_BF16 ? harness_to_bf16(value) : harness_to_f16(value);
                }
            }
            salf_tensor states = oracle_view(narrow, dtype, ROWS, D);
            states.row_stride = D + 3;
            states.row_index = index;
            CHECK_OK(salf_probe_observe(probe, k, &states, SALF_STATE_RAW));
        }
        CHECK_OK(salf_probe_end(probe, &trace));
        check_trace(x, &trace, metric, 1, NULL, 0, 1e-5);
        salf_probe_destroy(probe);
    }
    drop_world(x);
}
END_TEST

/* A workspace too small for the batch makes the probe work in chunks of rows and blocks of the head. */
START_TEST(small_workspace_gives_the_same) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    salf_context_options small;
    salf_options_init(&small, sizeof small);
    small.backend = SALF_BACKEND_CPU;
    small.workspace_limit = 4096;
    salf_context *context;
    CHECK_OK(salf_context_create(&context, &small));
    salf_model *model = oracle_model(context, x->w, V, D, M);
    salf_basis *basis;
    salf_basis_options exact;
    salf_options_init(&exact, sizeof exact);
    exact.mode = SALF_BASIS_EXACT;
    exact.prepare = SALF_PREPARE_VOCABULARY;
    CHECK_OK(salf_basis_create(&basis, model, x->labels, 3, &exact));
    for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
        salf_probe_options options = options_of(metric, SALF_LENS_HF);
        salf_probe *probe;
        salf_trace trace;
        CHECK_OK(salf_probe_create(&probe, basis, &options));
        run(probe, x, &trace);
        check_trace(x, &trace, metric, 1, NULL, 0, 1e-5);
        salf_probe_destroy(probe);
    }
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    drop_world(x);
}
END_TEST

/* On both backends, and for every row: the copies are left out of the expected rank by name, so that one of them above
 * the label shows. */
START_TEST(identical_rows_do_not_outrank_each_other) {
    for (size_t b = 0; b < 2; b++)
        for (int copies = 1; copies < V - 20; copies += 13) {
            world *x = make_world(backends[b], 5, 0);
            for (int i = 0; i < copies; i++) memcpy(x->w + (20 + i) * D, x->w + 4 * D, D * sizeof(float));
            salf_basis *basis;
            CHECK_OK(salf_basis_refresh(&basis, x->basis, x->model));
            salf_probe_options options = options_of(SALF_METRIC_RANK, SALF_LENS_RAW);
            salf_probe *probe;
            salf_trace trace;
            for (int r = 0; r < ROWS; r++) x->labels[r] = r % 2 ? 4 : 20 + r % copies;
            CHECK_OK(salf_probe_create(&probe, basis, &options));
            run(probe, x, &trace);
            oracle_basis(x->w, V, D, 0, 0, x->b);
            for (int r = 0; r < ROWS; r++)
                for (int k = 0; k <= M; k++) {
                    const float *h = x->states[k] + r * D;
                    const double own = oracle_cosine(h, x->b + 4 * D, D);
                    int expected = 0;
                    for (int i = 0; i < V; i++)
                        expected += i != 4 && (i < 20 || i >= 20 + copies) && oracle_cosine(h, x->b + i * D, D) > own;
                    ck_assert_int_eq((int)trace.deviations[r * (M + 1) + k], expected);
                }
            salf_probe_destroy(probe);
            salf_basis_destroy(basis);
            drop_world(x);
        }
}
END_TEST

START_TEST(non_finite_and_zero_states) {
    for (size_t k = 0; k < 2; k++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
            world *x = make_world(backends[k], 5, 0);
            salf_probe_options options = options_of(metric, SALF_LENS_RAW);
            salf_probe *probe;
            salf_trace trace = {.rows = 77};
            x->states[2][3 * D + 1] = NAN;
            memset(x->states[1] + 1 * D, 0, D * sizeof(float));
            CHECK_OK(salf_probe_create(&probe, x->basis, &options));
            CHECK_OK(salf_probe_begin(probe, x->labels, ROWS));
            for (int32_t s = 0; s <= M; s++) {
                const salf_tensor states = states_of(x, s);
                CHECK_OK(salf_probe_observe(probe, s, &states, SALF_STATE_RAW));
            }
            CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_NONFINITE, "row 1 in space 1");
            ck_assert_int_eq(trace.rows, 77);
            salf_probe_destroy(probe);
            options.nonfinite = SALF_NONFINITE_TRAIN_FULLY;
            CHECK_OK(salf_probe_create(&probe, x->basis, &options));
            run(probe, x, &trace);
            ck_assert_int_eq(trace.n_nonfinite, 2);
            ck_assert(trace.eof[1] == 0 && trace.eof[3] == 0);
            ck_assert(isnan(trace.deviations[3 * (M + 1) + 2]) && isfinite(trace.deviations[4 * (M + 1) + 2]));
            salf_probe_destroy(probe);
            drop_world(x);
        }
}
END_TEST

/* A state that has overflowed has no rank: no logit is above an infinite one, so that it would be 0, the best. */
START_TEST(infinite_states_by_logits) {
    for (size_t k = 0; k < 2; k++)
        for (int32_t metric = SALF_METRIC_CE; metric <= SALF_METRIC_RANK; metric++)
            for (int sign = -1; sign <= 1; sign += 2) {
                world *x = make_world(backends[k], 5, 0);
                salf_probe_options options = options_of(metric, SALF_LENS_RAW);
                options.scores = SALF_SCORE_LOGITS;
                options.nonfinite = SALF_NONFINITE_TRAIN_FULLY;
                salf_probe *probe;
                salf_trace trace;
                x->states[2][3 * D + 1] = (float)sign * INFINITY;
                CHECK_OK(salf_probe_create(&probe, x->basis, &options));
                run(probe, x, &trace);
                ck_assert_int_eq(trace.n_nonfinite, 1);
                ck_assert(isnan(trace.deviations[3 * (M + 1) + 2]) && isfinite(trace.deviations[4 * (M + 1) + 2]));
                salf_probe_destroy(probe);
                drop_world(x);
            }
}
END_TEST

/* States on the basis rows of their labels, and opposite to them: rounding leaves neither below 0 nor above 2. */
START_TEST(states_on_the_basis) {
    enum { TOKENS = 60, WIDTH = 64, ON = 40 };
    static float head[TOKENS * WIDTH], on[ON * WIDTH], opposite[ON * WIDTH];
    int32_t labels[ON];
    for (int i = 0; i < TOKENS * WIDTH; i++) head[i] = (float)fmod(1e4 * sin(i + 1.0), 1);
    for (int i = 0; i < ON; i++) labels[i] = i;
    for (size_t k = 0; k < 2; k++) {
        salf_context *context = harness_context(backends[k], NULL);
        salf_model_options o = {.struct_size = sizeof o, .n_layers = 1, .hidden = WIDTH, .vocab = TOKENS};
        o.head = oracle_view(head, SALF_F32, TOKENS, WIDTH);
        salf_model *model;
        salf_basis *basis;
        salf_probe *probe;
        salf_loss *loss;
        salf_trace trace;
        float losses[ON];
        CHECK_OK(salf_model_create(&model, context, &o));
        CHECK_OK(salf_basis_create(&basis, model, labels, ON, NULL));
        const salf_tensor rows = oracle_view(on, SALF_F32, ON, WIDTH),
                          others = oracle_view(opposite, SALF_F32, ON, WIDTH);
        CHECK_OK(salf_basis_rows(basis, labels, ON, &rows));
        for (int i = 0; i < ON * WIDTH; i++) opposite[i] = -on[i];
        const salf_probe_options raw = {.struct_size = sizeof raw, .lens = SALF_LENS_RAW};
        CHECK_OK(salf_probe_create(&probe, basis, &raw));
        CHECK_OK(salf_probe_begin(probe, labels, ON));
        CHECK_OK(salf_probe_observe(probe, 0, &rows, SALF_STATE_RAW));
        CHECK_OK(salf_probe_observe(probe, 1, &others, SALF_STATE_RAW));
        CHECK_OK(salf_probe_end(probe, &trace));
        CHECK_OK(salf_loss_create(&loss, basis, NULL));
        for (int sign = 0; sign < 2; sign++) {
            const salf_tensor out = oracle_view(losses, SALF_F32, ON, 1);
            CHECK_OK(salf_loss_compute(loss, labels, sign ? &others : &rows, 1, &out, NULL));
            for (int i = 0; i < ON; i++) {
                const double d = trace.deviations[2 * i + sign], l = (double)losses[i];
                ck_assert_msg(d >= 0 && d <= 2 && fabs(d - 2 * sign) < 1e-6, "deviation %d: %g", i, d);
                ck_assert_msg(l >= 0 && l <= 2 && fabs(l - 2 * sign) < 1e-6, "loss %d: %g", i, l);
            }
        }
        salf_loss_destroy(loss);
        salf_probe_destroy(probe);
        /* no cross-entropy is below 0 either, however sharp */
        const salf_probe_options sharp = {
            .struct_size = sizeof sharp, .lens = SALF_LENS_RAW, .metric = SALF_METRIC_CE, .temperature = 1e-5};
        CHECK_OK(salf_probe_create(&probe, basis, &sharp));
        CHECK_OK(salf_probe_begin(probe, labels, ON));
        for (int space = 0; space < 2; space++) CHECK_OK(salf_probe_observe(probe, space, &rows, SALF_STATE_RAW));
        CHECK_OK(salf_probe_end(probe, &trace));
        for (int i = 0; i < ON; i++)
            ck_assert_msg(trace.deviations[2 * i] >= 0 && trace.deviations[2 * i] < 1e-6, "entropy %d: %g", i,
                          trace.deviations[2 * i]);
        salf_probe_destroy(probe);
        salf_basis_destroy(basis);
        salf_model_destroy(model);
        salf_context_destroy(context);
    }
}
END_TEST

START_TEST(calls_out_of_order) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    salf_probe *probe;
    salf_trace trace;
    int32_t ready = 5;
    const salf_tensor states = states_of(x, 0);
    salf_tensor wrong = states;
    CHECK_OK(salf_probe_create(&probe, x->basis, NULL));
    CHECK_FAILS(salf_probe_observe(probe, 0, &states, SALF_STATE_RAW), SALF_E_SEQUENCE, "no batch");
    CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_SEQUENCE, "no batch");
    CHECK_FAILS(salf_probe_partial(probe, &trace), SALF_E_SEQUENCE, "no batch");
    CHECK_FAILS(salf_probe_poll(probe, &ready), SALF_E_SEQUENCE, "flush");
    CHECK_OK(salf_probe_begin(probe, x->labels, ROWS));
    CHECK_FAILS(salf_probe_observe(probe, M + 1, &states, SALF_STATE_RAW), SALF_E_ARGUMENT, "space 4");
    CHECK_FAILS(salf_probe_observe(probe, 0, &states, SALF_STATE_NORMED), SALF_E_ARGUMENT, "space 0");
    CHECK_FAILS(salf_probe_observe(probe, 0, &states, 2), SALF_E_ARGUMENT, "kind is 2");
    wrong.rows = ROWS - 1;
    CHECK_FAILS(salf_probe_observe(probe, 0, &wrong, SALF_STATE_RAW), SALF_E_SHAPE, "4 rows");
    wrong = states;
    wrong.dtype = SALF_I32;
    CHECK_FAILS(salf_probe_observe(probe, 0, &wrong, SALF_STATE_RAW), SALF_E_DTYPE, "int32");
    wrong = states;
    wrong.memory = SALF_MEMORY_DEVICE;
    if (!harness_plugin()) CHECK_FAILS(salf_probe_observe(probe, 0, &wrong, SALF_STATE_RAW), SALF_E_ARGUMENT, "device");
    CHECK_OK(salf_probe_observe(probe, 0, &states, SALF_STATE_RAW));
    CHECK_FAILS(salf_probe_observe(probe, 0, &states, SALF_STATE_RAW), SALF_E_SEQUENCE, "space 0 after space 0");
    CHECK_OK(salf_probe_observe(probe, 2, &states, SALF_STATE_RAW));
    CHECK_FAILS(salf_probe_observe(probe, 1, &states, SALF_STATE_RAW), SALF_E_SEQUENCE, "space 1 after space 2");
    CHECK_OK(salf_probe_observe(probe, 3, &states, SALF_STATE_NORMED));
    CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_SEQUENCE, "space 1 ");
    CHECK_FAILS(salf_probe_flush(probe), SALF_E_SEQUENCE, "space 1 ");
    CHECK_OK(salf_probe_partial(probe, &trace));
    ck_assert(trace.gains == NULL && trace.eof == NULL && isnan(trace.deviations[1]) && isfinite(trace.deviations[2]));
    CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_SEQUENCE, "no batch");
    CHECK_OK(salf_probe_begin(probe, x->labels, ROWS));
    for (int32_t k = 0; k <= M; k++) CHECK_OK(salf_probe_observe(probe, k, &states, SALF_STATE_RAW));
    CHECK_OK(salf_probe_flush(probe));
    CHECK_FAILS(salf_probe_observe(probe, M, &states, SALF_STATE_RAW), SALF_E_SEQUENCE, "flush");
    ready = 0;
    for (int looks = 0; !ready && looks < 100000; looks++) CHECK_OK(salf_probe_poll(probe, &ready));
    ck_assert_int_eq(ready, 1); /* at once but on a device */
    CHECK_OK(salf_probe_end(probe, &trace));
    ck_assert(trace.deviations[0] == trace.deviations[1]);
    ck_assert_int_eq(trace.eof[0], 0); /* all gains are 0: the shallowest */
    salf_probe_destroy(probe);
    drop_world(x);
}
END_TEST

START_TEST(empty_batches_and_labels) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
        salf_probe_options options = options_of(metric, SALF_LENS_HF);
        salf_probe *probe;
        salf_trace trace;
        const salf_tensor none = oracle_view(NULL, SALF_F32, 0, D);
        const int32_t outside = V;
        CHECK_OK(salf_probe_create(&probe, x->basis, &options));
        CHECK_OK(salf_probe_begin(probe, NULL, 0));
        for (int32_t k = 0; k <= M; k++) CHECK_OK(salf_probe_observe(probe, k, &none, SALF_STATE_RAW));
        CHECK_OK(salf_probe_end(probe, &trace));
        ck_assert_int_eq(trace.rows, 0);
        CHECK_FAILS(salf_probe_begin(probe, &outside, 1), SALF_E_LABEL, "50");
        CHECK_FAILS(salf_probe_begin(probe, NULL, 1), SALF_E_NULL, "labels");
        CHECK_FAILS(salf_probe_begin(probe, NULL, -1), SALF_E_ARGUMENT, "-1");
        salf_probe_destroy(probe);
    }
    drop_world(x);
}
END_TEST

START_TEST(options_are_checked) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    salf_probe *probe;
    salf_probe_options options = options_of(99, 0);
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_ARGUMENT, "metric is 99");
    options = options_of(0, -1);
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_ARGUMENT, "lens is -1");
    options = options_of(1, 0);
    options.temperature = -2;
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_ARGUMENT, "-2");
    options.temperature = NAN;
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_ARGUMENT, "nan");
    options = options_of(1, 0);
    options.n_layers = 9;
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_SHAPE, "9");
    const int32_t outside[] = {1, 99};
    options = options_of(1, 0);
    options.candidates = outside;
    options.n_candidates = 2;
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_LABEL, "99");
    options.n_candidates = 0;
    CHECK_FAILS(salf_probe_create(&probe, x->basis, &options), SALF_E_ARGUMENT, "0 tokens");
    CHECK_FAILS(salf_probe_create(&probe, NULL, NULL), SALF_E_NULL, "basis");
    salf_probe_destroy(NULL);
    drop_world(x);
}
END_TEST

START_TEST(a_model_without_norm_says_so) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    salf_model_options shape;
    salf_options_init(&shape, sizeof shape);
    shape.n_layers = M;
    shape.hidden = D;
    shape.vocab = V;
    shape.head = oracle_view(x->w, SALF_F32, V, D);
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    CHECK_OK(salf_model_create(&model, x->context, &shape));
    CHECK_OK(salf_basis_create(&basis, model, x->labels, ROWS, NULL));
    CHECK_OK(salf_probe_create(&probe, basis, NULL));
    CHECK_OK(salf_probe_begin(probe, x->labels, ROWS));
    const salf_tensor states = states_of(x, M);
    CHECK_FAILS(salf_probe_observe(probe, M, &states, SALF_STATE_RAW), SALF_E_ARGUMENT, "without a final norm");
    CHECK_OK(salf_probe_observe(probe, M, &states, SALF_STATE_NORMED));
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    drop_world(x);
}
END_TEST

/* A weighted RMS and a LayerNorm are applied where the lens says, and only there. */
START_TEST(lenses_apply_the_final_norm) {
    world *x = make_world(SALF_BACKEND_CPU, 5, 0);
    float weight[D], bias[D];
    for (int j = 0; j < D; j++) {
        weight[j] = 0.5f + 0.25f * (float)j;
        bias[j] = 0.1f * (float)(j - 4);
    }
    for (int32_t kind = SALF_NORM_LAYER; kind <= SALF_NORM_RMS1P; kind++) {
        salf_model_options shape;
        salf_options_init(&shape, sizeof shape);
        shape.n_layers = M;
        shape.hidden = D;
        shape.vocab = V;
        shape.head = oracle_view(x->w, SALF_F32, V, D);
        shape.norm_kind = kind;
        shape.norm_eps = 1e-3;
        shape.norm_weight = oracle_view(weight, SALF_F32, 1, D);
        if (kind == SALF_NORM_LAYER) shape.norm_bias = oracle_view(bias, SALF_F32, 1, D);
        salf_model *model;
        salf_basis *basis;
        CHECK_OK(salf_model_create(&model, x->context, &shape));
        CHECK_OK(salf_basis_create(&basis, model, x->labels, ROWS, NULL));
        for (int32_t lens = 0; lens <= SALF_LENS_RAW; lens++) {
            salf_probe_options options = options_of(SALF_METRIC_COSINE, lens);
            salf_probe *probe;
            salf_trace trace;
            CHECK_OK(salf_probe_create(&probe, basis, &options));
            run(probe, x, &trace);
            for (int r = 0; r < ROWS; r++)
                for (int s = 0; s <= M; s++) {
                    const float *h = x->states[s] + r * D;
                    double mean = 0, square = 0;
                    float normed[D];
                    for (int j = 0; j < D; j++) mean += kind == SALF_NORM_LAYER ? (double)h[j] / D : 0;
                    for (int j = 0; j < D; j++) square += pow((double)h[j] - mean, 2) / D;
                    for (int j = 0; j < D; j++) {
                        const double g = (double)weight[j] + (kind == SALF_NORM_RMS1P ? 1 : 0);
                        const double n = ((double)h[j] - mean) / sqrt(square + 1e-3) * g;
                        normed[j] = (float)(n + (kind == SALF_NORM_LAYER ? (double)bias[j] : 0));
                    }
                    const int apply = lens == SALF_LENS_NORMED || (lens == SALF_LENS_HF && s == M);
                    const double expected = 1 - oracle_cosine(apply ? normed : h, x->b + x->labels[r] * D, D);
                    ck_assert(fabs(trace.deviations[r * (M + 1) + s] - expected) < 1e-5);
                }
            salf_probe_destroy(probe);
        }
        salf_basis_destroy(basis);
        salf_model_destroy(model);
    }
    drop_world(x);
}
END_TEST

START_TEST(input_side_compares_with_embedding_rows) {
    for (size_t k = 0; k < 2; k++) {
        world *x = make_world(backends[k], 5, 0);
        for (int i = 0; i < V * D; i++) x->b[i] = (double)x->w[i];
        salf_basis_options side;
        salf_options_init(&side, sizeof side);
        side.side = SALF_SIDE_INPUT;
        salf_basis *basis;
        CHECK_OK(salf_basis_create(&basis, x->model, x->labels, 2, &side));
        for (int32_t metric = 0; oracle_is_metric(metric); metric++) {
            salf_probe_options options = options_of(metric, SALF_LENS_RAW);
            salf_probe *probe;
            salf_trace trace;
            CHECK_OK(salf_probe_create(&probe, basis, &options));
            run(probe, x, &trace);
            check_trace(x, &trace, metric, 1, NULL, 0, 1e-5);
            salf_probe_destroy(probe);
        }
        salf_basis_destroy(basis);
        drop_world(x);
    }
}
END_TEST

/* ---- eof from deviations ---- */

START_TEST(eof_rules_and_ties) {
    const double d[2 * 5] = {5, 3, 3,   1,    2, /* gains 2 0 2 -1 */
                             1, 1, 0.0, -0.0, 0};
    double gains[8];
    int32_t eof[2];
    CHECK_OK(salf_eof_from_deviations(4, 2, d, SALF_EOF_MOST_GAIN, 0, gains, eof));
    ck_assert(eof[0] == 0 && eof[1] == 1);
    ck_assert(gains[0] == 2 && gains[1] == 0 && gains[2] == 2 && gains[3] == -1);
    CHECK_OK(salf_eof_from_deviations(4, 2, d, SALF_EOF_LEAST_GAIN, 0, NULL, eof));
    ck_assert(eof[0] == 3 && eof[1] == 0);
    CHECK_OK(salf_eof_from_deviations(4, 2, d, SALF_EOF_LEAST_DEVIATION, 0, NULL, eof));
    ck_assert(eof[0] == 2 && eof[1] == 1); /* 0, -0 and 0 tie */
    CHECK_OK(salf_eof_from_deviations(4, 2, d, SALF_EOF_MOST_DEVIATION, 0, NULL, eof));
    ck_assert(eof[0] == 0 && eof[1] == 0);
    CHECK_FAILS(salf_eof_from_deviations(0, 2, d, 0, 0, NULL, eof), SALF_E_ARGUMENT, "0 layers");
    CHECK_FAILS(salf_eof_from_deviations(4, -1, d, 0, 0, NULL, eof), SALF_E_ARGUMENT, "-1");
    CHECK_FAILS(salf_eof_from_deviations(4, 2, d, 4, 0, NULL, eof), SALF_E_ARGUMENT, "eof_rule is 4");
    CHECK_FAILS(salf_eof_from_deviations(4, 2, d, 0, 2, NULL, eof), SALF_E_ARGUMENT, "nonfinite is 2");
    CHECK_FAILS(salf_eof_from_deviations(4, 2, NULL, 0, 0, NULL, eof), SALF_E_NULL, "deviations");
    CHECK_OK(salf_eof_from_deviations(4, 0, NULL, 0, 0, NULL, NULL));
}
END_TEST

START_TEST(eof_of_non_finite_rows) {
    const double d[3 * 3] = {1, 3, 2, 1, NAN, 2, 1, 2, INFINITY};
    int32_t eof[3] = {8, 8, 8};
    CHECK_FAILS(salf_eof_from_deviations(2, 3, d, 0, SALF_NONFINITE_ERROR, NULL, eof), SALF_E_NONFINITE,
                "row 1 in space 1");
    ck_assert(eof[0] == 8);
    CHECK_OK(salf_eof_from_deviations(2, 3, d, 0, SALF_NONFINITE_TRAIN_FULLY, NULL, eof));
    ck_assert(eof[0] == 1 && eof[1] == 0 && eof[2] == 0);
    const double first[3] = {NAN, 1, 2};
    CHECK_FAILS(salf_eof_from_deviations(2, 1, first, 0, SALF_NONFINITE_ERROR, NULL, eof), SALF_E_NONFINITE,
                "row 0 in space 0");
}
END_TEST

/* ---- memory ---- */

typedef struct {
    int32_t metric, scores, prepare, candidates;
} body_case;

static salf_status probe_body(harness_memory *memory, int32_t backend, void *user) {
    static const float head[8 * 3] = {1, 0, 2, 0, 3, 1, 1, 1, 1, 2, 0, 1, 4, 1, 0, 0, 1, 5, 1, 3, 2, 2, 2, 1};
    static const float weight[3] = {1, 2, 1};
    const body_case *c = user;
    const int32_t labels[] = {1, 2}, held = 1;
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_trace trace;
    salf_model_options shape;
    salf_basis_options make;
    salf_options_init(&shape, sizeof shape);
    salf_options_init(&make, sizeof make);
    shape.n_layers = 1;
    shape.hidden = 3;
    shape.vocab = 8;
    shape.head = oracle_view(head, SALF_F32, 8, 3);
    shape.norm_kind = SALF_NORM_RMS;
    shape.norm_weight = oracle_view(weight, SALF_F32, 1, 3);
    make.prepare = c->prepare;
    salf_probe_options options = options_of(c->metric, SALF_LENS_HF);
    options.scores = c->scores;
    options.candidates = c->candidates ? labels : NULL;
    options.n_candidates = c->candidates ? 2 : 0;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_model_create(&model, context, &shape);
    if (status == SALF_OK) status = salf_basis_create(&basis, model, &held, 1, &make);
    if (status == SALF_OK) status = salf_probe_create(&probe, basis, &options);
    salf_context_destroy(context); /* kept alive by the others */
    salf_model_destroy(model);
    salf_basis_destroy(basis);
    for (int64_t rows = 1; rows <= 2 && status == SALF_OK; rows++) { /* the second needs more room */
        const salf_tensor states = oracle_view(head, SALF_F32, rows, 3);
        status = salf_probe_begin(probe, labels, rows);
        for (int32_t k = 0; k < 2 && status == SALF_OK; k++)
            status = salf_probe_observe(probe, k, &states, SALF_STATE_RAW);
        if (status == SALF_OK) status = salf_probe_end(probe, &trace);
    }
    salf_probe_destroy(probe);
    return status;
}

START_TEST(every_allocation_may_fail) {
    body_case cases[] = {{0, 0, 0, 0}, {1, 0, 0, 0}, {2, 0, 2, 0}, {1, 0, 0, 1},
                         {1, 0, 2, 1}, {2, 1, 0, 0}, {1, 1, 0, 1}};
    for (size_t k = 0; k < 2; k++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
            harness_fail_each_allocation(probe_body, backends[k], &cases[c]);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, deviations_match_the_oracle);
    HARNESS_ADD(suite, candidates_restrict_the_comparison);
    HARNESS_ADD(suite, logits_in_place_of_cosines);
    HARNESS_ADD(suite, scale_of_states_does_not_matter);
    HARNESS_ADD(suite, views_with_stride_index_and_16_bits);
    HARNESS_ADD(suite, small_workspace_gives_the_same);
    HARNESS_ADD(suite, identical_rows_do_not_outrank_each_other);
    HARNESS_ADD(suite, non_finite_and_zero_states);
    HARNESS_ADD(suite, infinite_states_by_logits);
    HARNESS_ADD(suite, states_on_the_basis);
    HARNESS_ADD(suite, calls_out_of_order);
    HARNESS_ADD(suite, empty_batches_and_labels);
    HARNESS_ADD(suite, options_are_checked);
    HARNESS_ADD(suite, a_model_without_norm_says_so);
    HARNESS_ADD(suite, lenses_apply_the_final_norm);
    HARNESS_ADD(suite, input_side_compares_with_embedding_rows);
    HARNESS_ADD(suite, eof_rules_and_ties);
    HARNESS_ADD(suite, eof_of_non_finite_rows);
    HARNESS_ADD(suite, every_allocation_may_fail);
}
