/* Semantic losses: values against a brute-force reading, gradients against finite differences, and every error. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { V = 40, D = 10, ROWS = 4 };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};
static const int32_t labels[ROWS] = {3, 39, 0, 3};
static const int32_t some[] = {0, 3, 7, 39};

typedef struct {
    float w[V * D];
    double b[V * D];
    float states[ROWS * D];
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
} world;

static world *make_world(int32_t backend, int32_t prepare, double spread) {
    world *x = calloc(1, sizeof *x);
    uint64_t seed = 9;
    oracle_head(x->w, V, D, spread, 21);
    oracle_basis(x->w, V, D, 0, 0, x->b);
    for (int i = 0; i < ROWS * D; i++) x->states[i] = (float)(2 * harness_normal(&seed));
    x->context = harness_context(backend, NULL);
    x->model = oracle_model(x->context, x->w, V, D, 2);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = SALF_BASIS_EXACT;
    options.prepare = prepare;
    CHECK_OK(salf_basis_create(&x->basis, x->model, labels, 1, &options));
    return x;
}

static void drop_world(world *x) {
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    free(x);
}

static salf_loss_options options_of(int32_t kind, double temperature, int candidates) {
    salf_loss_options options;
    salf_options_init(&options, sizeof options);
    options.kind = kind;
    options.temperature = temperature;
    options.candidates = candidates ? some : NULL;
    options.n_candidates = candidates ? 4 : 0;
    return options;
}

/* Loss at h + step e_j in double. */
static double value_at(const world *x, const salf_loss_options *o, int r, int j, double step) {
    double h[D], scores[V], sum = 0;
    for (int i = 0; i < D; i++) h[i] = (double)x->states[r * D + i] + (i == j ? step : 0);
    for (int i = 0; i < V; i++) {
        const double *b = x->b + i * D;
        scores[i] = oracle_dot(h, b, D) / sqrt(oracle_dot(h, h, D) * oracle_dot(b, b, D));
    }
    if (o->kind == SALF_LOSS_COSINE) return 1 - scores[labels[r]];
    const double t = o->temperature > 0 ? o->temperature : 1;
    for (int i = 0; i < (o->candidates ? 4 : V); i++) sum += exp(scores[o->candidates ? some[i] : i] / t);
    return log(sum) - scores[labels[r]] / t;
}

static void check_loss(world *x, const salf_loss_options *options) {
    salf_loss *loss;
    float losses[2 * ROWS], gradient[2 * ROWS * D], again[ROWS];
    const double scale = 0.75;
    const salf_tensor states = oracle_view(x->states, SALF_F32, ROWS, D);
    const int64_t index[ROWS] = {6, 0, 2, 4};
    salf_tensor out = oracle_view(gradient, SALF_F32, ROWS, D);
    const salf_tensor again_view = oracle_view(again, SALF_F32, ROWS, 1);
    salf_tensor losses_view = oracle_view(losses, SALF_F32, ROWS, 1);
    out.row_index = losses_view.row_index = index;
    CHECK_OK(salf_loss_create(&loss, x->basis, options));
    CHECK_OK(salf_loss_compute(loss, labels, &states, scale, &losses_view, &out));
    CHECK_OK(salf_loss_compute(loss, labels, &states, scale, &again_view, NULL));
    for (int r = 0; r < ROWS; r++) {
        ck_assert_msg(fabs((double)again[r] - value_at(x, options, r, 0, 0)) < 1e-5, "row %d: %g", r, (double)again[r]);
        ck_assert(fabs((double)losses[index[r]] - (double)again[r]) < 1e-6);
        for (int j = 0; j < D; j++) {
            const double slope = (value_at(x, options, r, j, 1e-4) - value_at(x, options, r, j, -1e-4)) / 2e-4;
            const double got = (double)gradient[index[r] * D + j];
            ck_assert_msg(fabs(got - scale * slope) < 1e-5, "kind %d row %d, %d: %g, not %g", (int)options->kind, r, j,
                          got, scale * slope);
        }
    }
    salf_loss_destroy(loss);
}

START_TEST(values_and_gradients) {
    const double spreads[] = {2, 200};
    for (size_t k = 0; k < 2; k++)
        for (size_t s = 0; s < 2; s++)
            for (int32_t prepare = SALF_PREPARE_LABELS; prepare <= SALF_PREPARE_TABLE; prepare++) {
                world *x = make_world(backends[k], prepare, spreads[s]);
                const salf_loss_options cases[] = {options_of(SALF_LOSS_COSINE, 0, 0), options_of(SALF_LOSS_CE, 0, 0),
                                                   options_of(SALF_LOSS_CE, 0.2, 0), options_of(SALF_LOSS_CE, 0.5, 1)};
                for (size_t c = 0; c < 4; c++) check_loss(x, &cases[c]);
                drop_world(x);
            }
}
END_TEST

START_TEST(gradient_is_orthogonal_to_the_state) {
    world *x = make_world(SALF_BACKEND_CPU, 0, 5);
    for (int32_t kind = 0; kind <= SALF_LOSS_CE; kind++) {
        const salf_loss_options options = options_of(kind, 0.1, 0);
        float losses[ROWS], gradient[ROWS * D];
        salf_loss *loss;
        const salf_tensor states = oracle_view(x->states, SALF_F32, ROWS, D),
                          losses_view = oracle_view(losses, SALF_F32, ROWS, 1),
                          out = oracle_view(gradient, SALF_F32, ROWS, D);
        CHECK_OK(salf_loss_create(&loss, x->basis, &options));
        CHECK_OK(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out));
        for (int r = 0; r < ROWS; r++) {
            double product = 0;
            for (int j = 0; j < D; j++) product += (double)gradient[r * D + j] * (double)x->states[r * D + j];
            ck_assert(fabs(product) < 1e-5);
        }
        salf_loss_destroy(loss);
    }
    drop_world(x);
}
END_TEST

START_TEST(sixteen_bit_states) {
    world *x = make_world(SALF_BACKEND_CPU, 0, 5);
    uint16_t half[2][ROWS * D];
    for (int i = 0; i < ROWS * D; i++) {
        x->states[i] = (float)(round((double)x->states[i] * 16) / 16);
        half[0][i] = harness_to_bf16(x->states[i]);
        half[1][i] = harness_to_f16(x->states[i]);
    }
    for (int32_t kind = 0; kind <= SALF_LOSS_CE; kind++)
        for (int n = 0; n < 2; n++) {
            const salf_loss_options options = options_of(kind, 0, 0);
            float losses[ROWS];
            salf_loss *loss;
            const salf_tensor states = oracle_view(half[n], n ? SALF_F16 : SALF_BF16, ROWS, D);
            const salf_tensor losses_view = oracle_view(losses, SALF_F32, ROWS, 1);
            CHECK_OK(salf_loss_create(&loss, x->basis, &options));
            CHECK_OK(salf_loss_compute(loss, labels, &states, 1, &losses_view, NULL));
            for (int r = 0; r < ROWS; r++) ck_assert(fabs((double)losses[r] - value_at(x, &options, r, 0, 0)) < 1e-5);
            salf_loss_destroy(loss);
        }
    drop_world(x);
}
END_TEST

START_TEST(bad_states_and_arguments) {
    for (int32_t kind = 0; kind <= SALF_LOSS_CE; kind++) {
        world *x = make_world(SALF_BACKEND_CPU, 0, 5);
        const salf_loss_options options = options_of(kind, 0, kind);
        float losses[ROWS] = {5, 5, 5, 5}, gradient[ROWS * D] = {5};
        salf_loss *loss;
        salf_tensor states = oracle_view(x->states, SALF_F32, ROWS, D), out = oracle_view(gradient, SALF_F32, ROWS, D),
                    losses_view = oracle_view(losses, SALF_F32, ROWS, 1);
        CHECK_OK(salf_loss_create(&loss, x->basis, &options));
        memset(x->states + 2 * D, 0, D * sizeof(float));
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_NUMERIC, "row 2");
        x->states[1 * D + 3] = NAN;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_NONFINITE, "row 1");
        ck_assert(losses[0] == 5 && gradient[0] == 5);
        const int32_t outside[ROWS] = {3, 40, 0, 3}, stranger[ROWS] = {3, 8, 0, 3};
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &out, &out), SALF_E_SHAPE, "losses: 10 columns");
        losses_view.rows = 3;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_SHAPE, "losses: 3 rows");
        losses_view.rows = ROWS;
        /* two rows in one place: one gradient would be lost. Whatever the numbers count, rows may not meet. */
        const int64_t twice[ROWS] = {2, 0, 3, 2}, near[ROWS] = {0, 27, 9, 18};
        out.row_index = twice;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_ARGUMENT, "rows 2 and 2");
        out.row_index = near;
        out.row_stride = 1;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_ARGUMENT, "rows 0 and 9");
        out.row_index = NULL;
        out.row_stride = 0;
        losses_view.row_index = twice;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_ARGUMENT, "rows 2 and 2");
        losses_view.row_index = NULL;
        ck_assert(losses[0] == 5 && gradient[0] == 5);
        states.rows = out.rows = losses_view.rows = 1;
        losses_view.dtype = SALF_F16;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_DTYPE, "losses is float16");
        losses_view.dtype = SALF_F32;
        losses_view.memory = SALF_MEMORY_DEVICE;
        if (!harness_plugin())
            CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_ARGUMENT,
                        "device memory");
        losses_view.memory = SALF_MEMORY_HOST;
        CHECK_FAILS(salf_loss_compute(loss, outside + 1, &states, 1, &losses_view, &out), SALF_E_LABEL, "40");
        if (kind == SALF_LOSS_CE)
            CHECK_FAILS(salf_loss_compute(loss, stranger + 1, &states, 1, &losses_view, &out), SALF_E_LABEL, "label 8");
        CHECK_FAILS(salf_loss_compute(loss, NULL, &states, 1, &losses_view, &out), SALF_E_NULL, "labels");
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, NULL, &out), SALF_E_NULL, "losses");
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, INFINITY, &losses_view, &out), SALF_E_ARGUMENT, "inf");
        out.dtype = SALF_BF16;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_DTYPE, "bfloat16");
        out.dtype = SALF_F32;
        out.rows = 2;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, &out), SALF_E_SHAPE, "2 rows");
        states.cols = D - 1;
        CHECK_FAILS(salf_loss_compute(loss, labels, &states, 1, &losses_view, NULL), SALF_E_SHAPE, "9 columns");
        states.cols = D;
        states.rows = 0;
        CHECK_OK(salf_loss_compute(loss, NULL, &states, 1, NULL, NULL));
        salf_loss_destroy(loss);
        drop_world(x);
    }
}
END_TEST

START_TEST(options_are_checked) {
    world *x = make_world(SALF_BACKEND_CPU, 0, 5);
    salf_loss *loss;
    salf_loss_options options = options_of(2, 0, 0);
    CHECK_FAILS(salf_loss_create(&loss, x->basis, &options), SALF_E_ARGUMENT, "kind is 2");
    options = options_of(1, -1, 0);
    CHECK_FAILS(salf_loss_create(&loss, x->basis, &options), SALF_E_ARGUMENT, "-1");
    CHECK_FAILS(salf_loss_create(&loss, NULL, NULL), SALF_E_NULL, "basis");
    salf_loss_destroy(NULL);
    drop_world(x);
}
END_TEST

typedef struct {
    int32_t kind, prepare, candidates;
} body_case;

static salf_status loss_body(harness_memory *memory, int32_t backend, void *user) {
    static const float head[8 * 3] = {1, 0, 2, 0, 3, 1, 1, 1, 1, 2, 0, 1, 4, 1, 0, 0, 1, 5, 1, 3, 2, 2, 2, 1};
    static const int32_t ids[] = {1, 2, 5};
    const body_case *c = user;
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_loss *loss = NULL;
    float losses[2], gradient[6];
    salf_model_options shape;
    salf_basis_options make;
    salf_options_init(&shape, sizeof shape);
    salf_options_init(&make, sizeof make);
    shape.n_layers = 1;
    shape.hidden = 3;
    shape.vocab = 8;
    shape.head = oracle_view(head, SALF_F32, 8, 3);
    make.prepare = c->prepare;
    salf_loss_options options = options_of(c->kind, 0, 0);
    options.candidates = c->candidates ? ids : NULL;
    options.n_candidates = c->candidates ? 3 : 0;
    const salf_tensor states = oracle_view(head, SALF_F32, 2, 3), out = oracle_view(gradient, SALF_F32, 2, 3),
                      losses_view = oracle_view(losses, SALF_F32, 2, 1);
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_model_create(&model, context, &shape);
    if (status == SALF_OK) status = salf_basis_create(&basis, model, ids, 1, &make);
    if (status == SALF_OK) status = salf_loss_create(&loss, basis, &options);
    if (status == SALF_OK) status = salf_loss_compute(loss, ids, &states, 1, &losses_view, &out);
    salf_context_destroy(context);
    salf_model_destroy(model);
    salf_basis_destroy(basis);
    salf_loss_destroy(loss);
    return status;
}

START_TEST(every_allocation_may_fail) {
    body_case cases[] = {{0, 0, 0}, {1, 0, 0}, {1, 2, 0}, {1, 0, 1}};
    for (size_t k = 0; k < 2; k++)
        for (size_t c = 0; c < 4; c++) harness_fail_each_allocation(loss_body, backends[k], &cases[c]);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, values_and_gradients);
    HARNESS_ADD(suite, gradient_is_orthogonal_to_the_state);
    HARNESS_ADD(suite, sixteen_bit_states);
    HARNESS_ADD(suite, bad_states_and_arguments);
    HARNESS_ADD(suite, options_are_checked);
    HARNESS_ADD(suite, every_allocation_may_fail);
}
