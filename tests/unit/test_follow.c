/* Models that a host trains: a norm, a bias and candidates' rows that were replaced are followed, as a model made anew
 * has them; a basis tells whether it is still its head's; rows that overlap are refused wherever they are handed in. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { V = 40, D = 12, M = 2, ROWS = 4, SPACES = M + 1 };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};
static const int32_t labels[ROWS] = {3, 17, 39, 0};
static const int32_t candidates[] = {0, 3, 9, 17, 20, 39};

typedef struct {
    float w[V * D], weight[D], norm_bias[D], bias[V], states[ROWS * D];
} host;

static void train(host *x, uint64_t seed, bool head) {
    for (int i = 0; i < V * D && head; i++) x->w[i] = (float)harness_normal(&seed);
    for (int i = 0; i < D; i++) {
        x->weight[i] = (float)(1 + 0.3 * harness_normal(&seed));
        x->norm_bias[i] = (float)harness_normal(&seed);
    }
    for (int i = 0; i < V; i++) x->bias[i] = (float)harness_normal(&seed);
}

static salf_model_options vectors_of(const host *x, int32_t kind) {
    salf_model_options o;
    salf_options_init(&o, sizeof o);
    if (kind != SALF_NORM_NONE) o.norm_weight = oracle_view(x->weight, SALF_F32, 1, D);
    if (kind == SALF_NORM_LAYER) o.norm_bias = oracle_view(x->norm_bias, SALF_F32, 1, D);
    o.logit_bias = oracle_view(x->bias, SALF_F32, 1, V);
    return o;
}

static salf_model *describe(const host *x, salf_context *context, int32_t kind) {
    salf_model_options o = vectors_of(x, kind);
    salf_model *model;
    o.n_layers = M;
    o.hidden = D;
    o.vocab = V;
    o.norm_kind = kind;
    o.head = oracle_view(x->w, SALF_F32, V, D);
    CHECK_OK(salf_model_create(&model, context, &o));
    return model;
}

static salf_probe *probe_of(salf_basis *basis, int32_t metric, int32_t scores, bool some) {
    const salf_probe_options p = {.struct_size = sizeof p,
                                  .metric = metric,
                                  .lens = SALF_LENS_NORMED,
                                  .scores = scores,
                                  .candidates = some ? candidates : NULL,
                                  .n_candidates = some ? 6 : 0};
    salf_probe *probe;
    CHECK_OK(salf_probe_create(&probe, basis, &p));
    return probe;
}

static void deviations(salf_probe *probe, const host *x, double *out) {
    salf_trace trace;
    const salf_tensor states = oracle_view(x->states, SALF_F32, ROWS, D);
    CHECK_OK(salf_probe_begin(probe, labels, ROWS));
    for (int32_t k = 0; k < SPACES; k++) CHECK_OK(salf_probe_observe(probe, k, &states, SALF_STATE_RAW));
    CHECK_OK(salf_probe_end(probe, &trace));
    memcpy(out, trace.deviations, ROWS * SPACES * sizeof *out);
}

/* A probe that lives through training gives what one of a model made anew gives, to the last bit. */
static void check_following(int32_t backend, int32_t kind, int32_t metric, int32_t scores, bool some) {
    host x;
    uint64_t seed = 8;
    train(&x, 5, true);
    for (int i = 0; i < ROWS * D; i++) x.states[i] = (float)harness_normal(&seed);
    salf_context *context = harness_context(backend, NULL);
    salf_model *model = describe(&x, context, kind);
    salf_basis *basis;
    double before[ROWS * SPACES], after[ROWS * SPACES], expected[ROWS * SPACES];
    CHECK_OK(salf_basis_create(&basis, model, labels, ROWS, NULL));
    salf_probe *probe = probe_of(basis, metric, scores, some);
    deviations(probe, &x, before);
    for (int step = 0; step < 2; step++) {
        const bool head = step == 1 && scores == SALF_SCORE_LOGITS; /* a basis is of the head it was made from */
        train(&x, 60 + (uint64_t)step, head);
        const salf_model_options o = vectors_of(&x, kind);
        CHECK_OK(salf_model_update(model, &o));
        deviations(probe, &x, after);
        salf_model *anew = describe(&x, context, kind);
        salf_basis *other;
        CHECK_OK(salf_basis_create(&other, anew, labels, ROWS, NULL));
        salf_probe *fresh = probe_of(other, metric, scores, some);
        deviations(fresh, &x, expected);
        ck_assert_mem_eq(after, expected, sizeof after);
        ck_assert(memcmp(before, after, sizeof after) != 0);
        salf_probe_destroy(fresh);
        salf_basis_destroy(other);
        salf_model_destroy(anew);
    }
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
}

START_TEST(probes_follow_a_norm_and_a_bias) {
    for (size_t k = 0; k < 2; k++)
        for (int32_t kind = SALF_NORM_LAYER; kind <= SALF_NORM_RMS1P; kind++) {
            check_following(backends[k], kind, SALF_METRIC_COSINE, SALF_SCORE_BASIS, false);
            check_following(backends[k], kind, SALF_METRIC_CE, SALF_SCORE_BASIS, true);
            check_following(backends[k], kind, SALF_METRIC_CE, SALF_SCORE_LOGITS, false);
            check_following(backends[k], kind, SALF_METRIC_CE, SALF_SCORE_LOGITS, true);
        }
}
END_TEST

START_TEST(a_bad_update_changes_nothing) {
    host x, y;
    float bad[V] = {0};
    bad[7] = NAN;
    memset(&x, 0, sizeof x);
    train(&x, 5, true);
    uint64_t seed = 8;
    for (int i = 0; i < ROWS * D; i++) x.states[i] = (float)harness_normal(&seed);
    y = x;
    train(&y, 6, false);
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    salf_model *model = describe(&x, context, SALF_NORM_RMS);
    salf_basis *basis;
    double before[ROWS * SPACES], after[ROWS * SPACES];
    CHECK_OK(salf_basis_create(&basis, model, labels, ROWS, NULL));
    salf_probe *probe = probe_of(basis, SALF_METRIC_CE, SALF_SCORE_LOGITS, false);
    deviations(probe, &x, before);
#define REFUSED(change, status, words)                            \
    do {                                                          \
        salf_model_options o = vectors_of(&y, SALF_NORM_RMS);     \
        change;                                                   \
        CHECK_FAILS(salf_model_update(model, &o), status, words); \
    } while (0)
    REFUSED(o.logit_bias = oracle_view(bad, SALF_F32, 1, V), SALF_E_NONFINITE, "logit_bias: element 7");
    REFUSED(o.logit_bias.cols = V - 1, SALF_E_SHAPE, "logit_bias: 39 columns");
    REFUSED(o.norm_weight.dtype = SALF_F64, SALF_E_DTYPE, "norm_weight");
    REFUSED(o.norm_bias = oracle_view(y.norm_bias, SALF_F32, 1, D), SALF_E_ARGUMENT,
            "norm_bias is given, but the model was made without one");
    REFUSED(o.head = oracle_view(x.w, SALF_F32, V, D), SALF_E_ARGUMENT, "head is set");
    REFUSED(o.hidden = D, SALF_E_ARGUMENT, "hidden is set");
    REFUSED(o.norm_eps = 1e-6, SALF_E_ARGUMENT, "norm_eps is set");
    REFUSED(o.norm_kind = SALF_NORM_RMS, SALF_E_ARGUMENT, "norm_kind is set");
    REFUSED(o.logit_scale = 2, SALF_E_ARGUMENT, "logit_scale is set");
    REFUSED(o.accept = "x", SALF_E_ARGUMENT, "accept is set");
    REFUSED(o.struct_size = 3, SALF_E_STRUCT, "struct_size");
#undef REFUSED
    CHECK_FAILS(salf_model_update(NULL, NULL), SALF_E_NULL, "model");
    CHECK_FAILS(salf_model_update(model, NULL), SALF_E_NULL, "options");
    deviations(probe, &x, after);
    ck_assert_mem_eq(before, after, sizeof after);
    const salf_model_options nothing = {.struct_size = sizeof nothing};
    CHECK_OK(salf_model_update(model, &nothing));
    deviations(probe, &x, after);
    ck_assert_mem_eq(before, after, sizeof after);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

static salf_status update_body(harness_memory *memory, int32_t backend, void *user) {
    host *x = user;
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_model_options o = vectors_of(x, SALF_NORM_LAYER), all = o;
    const salf_probe_options p = {.struct_size = sizeof p,
                                  .metric = SALF_METRIC_RANK,
                                  .lens = SALF_LENS_NORMED,
                                  .scores = SALF_SCORE_LOGITS,
                                  .candidates = candidates,
                                  .n_candidates = 6};
    all.n_layers = M;
    all.hidden = D;
    all.vocab = V;
    all.norm_kind = SALF_NORM_LAYER;
    all.head = oracle_view(x->w, SALF_F32, V, D);
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_model_create(&model, context, &all);
    if (status == SALF_OK) status = salf_basis_create(&basis, model, NULL, 0, NULL);
    if (status == SALF_OK) status = salf_probe_create(&probe, basis, &p);
    if (status == SALF_OK) status = salf_model_update(model, &o);
    if (status == SALF_OK) status = salf_probe_begin(probe, labels, ROWS);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_allocation_of_an_update_may_fail) {
    host x;
    train(&x, 5, true);
    for (size_t k = 0; k < 2; k++) harness_fail_each_allocation(update_body, backends[k], &x);
}
END_TEST

/* A basis depends on its head alone, and a refresh of one that did not change is the same basis. */
START_TEST(a_basis_is_stale_by_its_head_alone) {
    for (size_t k = 0; k < 2; k++) {
        host x;
        train(&x, 5, true);
        salf_context *context = harness_context(backends[k], NULL);
        salf_model *model = describe(&x, context, SALF_NORM_RMS), *twin = describe(&x, context, SALF_NORM_RMS);
        salf_basis *basis, *again;
        CHECK_OK(salf_basis_create(&basis, model, labels, ROWS, NULL));
        train(&x, 6, false);
        const salf_model_options o = vectors_of(&x, SALF_NORM_RMS);
        CHECK_OK(salf_model_update(model, &o));
        CHECK_OK(salf_basis_check(basis, model));
        CHECK_OK(salf_basis_refresh(&again, basis, model));
        ck_assert_ptr_eq(again, basis);
        salf_basis_destroy(again); /* of two handles to one basis */
        CHECK_OK(salf_basis_check(basis, model));
        CHECK_OK(salf_basis_refresh(&again, basis, twin)); /* another model: a basis that reads there */
        ck_assert_ptr_ne(again, basis);
        salf_basis_destroy(again);
        x.w[5] += 0.5f;
        CHECK_FAILS(salf_basis_check(basis, model), SALF_E_STALE, "fingerprint");
        CHECK_OK(salf_basis_refresh(&again, basis, model));
        ck_assert_ptr_ne(again, basis);
        CHECK_OK(salf_basis_check(again, model));
        x.w[5] = NAN;
        salf_basis *none;
        CHECK_FAILS(salf_basis_refresh(&none, again, model), SALF_E_NONFINITE, "row 0");
        ck_assert_ptr_null(none);
        salf_basis_destroy(again);
        salf_basis_destroy(basis);
        salf_model_destroy(model);
        salf_model_destroy(twin);
        salf_context_destroy(context);
    }
}
END_TEST

/* A transposed head gives the basis of the other, whatever is asked of it. */
START_TEST(a_transposed_head_is_a_head) {
    host x;
    float turned[D * V];
    uint64_t seed = 8;
    train(&x, 5, true);
    for (int i = 0; i < ROWS * D; i++) x.states[i] = (float)harness_normal(&seed);
    for (int r = 0; r < V; r++)
        for (int k = 0; k < D; k++) turned[k * V + r] = x.w[r * D + k];
    for (size_t b = 0; b < 2; b++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++)
            for (int32_t scores = SALF_SCORE_BASIS; scores <= SALF_SCORE_LOGITS; scores++) {
                salf_context *context = harness_context(backends[b], NULL);
                salf_model_options o = vectors_of(&x, SALF_NORM_RMS);
                salf_model *model = describe(&x, context, SALF_NORM_RMS), *other;
                salf_basis *basis[2];
                double got[2][ROWS * SPACES];
                o.n_layers = M;
                o.hidden = D;
                o.vocab = V;
                o.norm_kind = SALF_NORM_RMS;
                o.head = oracle_view(turned, SALF_F32, D, V);
                CHECK_FAILS(salf_model_create(&other, context, &o), SALF_E_SHAPE, "head: 12 rows where 40");
                o.head_transposed = 1;
                CHECK_OK(salf_model_create(&other, context, &o));
                CHECK_OK(salf_basis_create(&basis[0], model, labels, ROWS, NULL));
                CHECK_OK(salf_basis_create(&basis[1], other, labels, ROWS, NULL));
                CHECK_OK(salf_basis_check(basis[0], other));
                for (int k = 0; k < 2; k++) {
                    salf_probe *probe = probe_of(basis[k], metric, scores, false);
                    deviations(probe, &x, got[k]);
                    salf_probe_destroy(probe);
                    salf_basis_destroy(basis[k]);
                }
                for (int i = 0; i < ROWS * SPACES; i++) ck_assert(fabs(got[0][i] - got[1][i]) < 1e-6);
                salf_model_destroy(model);
                salf_model_destroy(other);
                salf_context_destroy(context);
            }
}
END_TEST

/* Of states, gradients and rows that a call writes, too. */
START_TEST(rows_that_overlap_are_refused) {
    host x;
    float out[ROWS * D] = {0}, loss[ROWS];
    train(&x, 5, true);
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    salf_model *model = describe(&x, context, SALF_NORM_RMS);
    salf_basis *basis;
    salf_loss *made;
    CHECK_OK(salf_basis_create(&basis, model, labels, ROWS, NULL));
    salf_tensor view = oracle_view(out, SALF_F32, ROWS, D), states = oracle_view(x.w, SALF_F32, ROWS, D);
    const salf_tensor losses = oracle_view(loss, SALF_F32, ROWS, 1);
    salf_probe *probe = probe_of(basis, SALF_METRIC_COSINE, 0, false);
    view.row_stride = 1;
    CHECK_FAILS(salf_basis_rows(basis, labels, ROWS, &view), SALF_E_SHAPE, "out: row stride 1 is less than its 12");
    CHECK_OK(salf_loss_create(&made, basis, NULL));
    CHECK_FAILS(salf_loss_compute(made, labels, &states, 1, &losses, &view), SALF_E_SHAPE, "gradient: row stride 1");
    states.row_stride = D - 1;
    CHECK_OK(salf_probe_begin(probe, labels, ROWS));
    CHECK_FAILS(salf_probe_observe(probe, 0, &states, SALF_STATE_RAW), SALF_E_SHAPE, "states: row stride 11");
    view.row_stride = 0; /* dense */
    CHECK_OK(salf_basis_rows(basis, labels, ROWS, &view));
    salf_probe_destroy(probe);
    salf_loss_destroy(made);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, probes_follow_a_norm_and_a_bias);
    HARNESS_ADD(suite, a_bad_update_changes_nothing);
    HARNESS_ADD(suite, each_allocation_of_an_update_may_fail);
    HARNESS_ADD(suite, a_basis_is_stale_by_its_head_alone);
    HARNESS_ADD(suite, a_transposed_head_is_a_head);
    HARNESS_ADD(suite, rows_that_overlap_are_refused);
}
