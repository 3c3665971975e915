/* Semantic basis: rows against a brute-force pseudo-inverse, properties, modes, sides, the builder, and every error. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};

typedef struct {
    int64_t v, d;
    float *w;
    double *b; /* exact basis by the oracle */
    salf_context *context;
    salf_model *model;
} world;

static world make_world(int32_t backend, int64_t v, int64_t d, double spread, double rtol, double ridge) {
    world x = {.v = v, .d = d};
    x.w = malloc((size_t)(v * d) * sizeof *x.w);
    x.b = malloc((size_t)(v * d) * sizeof *x.b);
    oracle_head(x.w, v, d, spread, 7);
    oracle_basis(x.w, v, d, rtol, ridge, x.b);
    x.context = harness_context(backend, NULL);
    x.model = oracle_model(x.context, x.w, v, d, 3);
    return x;
}

static void drop_world(world *x) {
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    free(x->w);
    free(x->b);
}

static salf_basis_options options_of(int32_t mode) {
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = mode;
    return options;
}

/* Largest distance of the basis's rows from expected ones, relative to their norms. */
static double rows_error(const salf_basis *basis, const int32_t *labels, int64_t n, const double *b, int64_t d) {
    double *rows = calloc((size_t)(n * d), sizeof *rows), worst = 0;
    const salf_tensor out = oracle_view(rows, SALF_F64, n, d);
    CHECK_OK(salf_basis_rows(basis, labels, n, &out));
    for (int64_t i = 0; i < n; i++) {
        double error = 0;
        const double *expected = b + labels[i] * d;
        for (int64_t j = 0; j < d; j++) error += pow(rows[i * d + j] - expected[j], 2);
        worst = fmax(worst, sqrt(error / oracle_dot(expected, expected, d)));
    }
    free(rows);
    return worst;
}

static const int32_t some_labels[] = {5, 0, 11, 5, 3};

START_TEST(rows_are_the_pseudo_inverse) {
    const struct {
        int64_t v, d;
        int32_t mode;
        double rtol, ridge;
    } cases[] = {
        {40, 12, SALF_BASIS_EXACT, 0, 0},   {40, 12, SALF_BASIS_RTOL, 0, 0},    {40, 12, SALF_BASIS_RTOL, 0.2, 0},
        {40, 12, SALF_BASIS_RIDGE, 0, 0.7}, {12, 12, SALF_BASIS_EXACT, 0, 0},   {13, 40, SALF_BASIS_EXACT, 0, 0},
        {13, 40, SALF_BASIS_RTOL, 0.3, 0},  {13, 40, SALF_BASIS_RIDGE, 0, 0.5}, {100, 1, SALF_BASIS_EXACT, 0, 0}};
    for (size_t k = 0; k < 2; k++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            world x = make_world(backends[k], cases[c].v, cases[c].d, 10, cases[c].rtol, cases[c].ridge);
            salf_basis_options options = options_of(cases[c].mode);
            options.rtol = cases[c].rtol;
            options.ridge = cases[c].ridge;
            salf_basis *basis;
            CHECK_OK(salf_basis_create(&basis, x.model, some_labels, 5, &options));
            const double error = rows_error(basis, some_labels, 5, x.b, x.d);
            ck_assert_msg(error < 1e-9, "backend %d case %zu: %g", (int)backends[k], c, error);
            salf_basis_destroy(basis);
            drop_world(&x);
        }
}
END_TEST

START_TEST(info_and_labels) {
    world x = make_world(SALF_BACKEND_REFERENCE, 40, 12, 10, 0.2, 0);
    double *b = malloc((size_t)(x.v * x.d) * sizeof *b);
    salf_basis_options options = options_of(SALF_BASIS_RTOL);
    options.rtol = 0.2;
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, x.model, some_labels, 5, &options));
    salf_basis_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_basis_get_info(basis, &info));
    ck_assert_int_eq(info.rank, oracle_basis(x.w, x.v, x.d, 0.2, 0, b));
    ck_assert_int_eq(info.method, SALF_METHOD_EIGEN);
    ck_assert_int_eq(info.n_labels, 4);
    ck_assert_int_eq(info.has_table, 0);
    ck_assert_int_eq(info.has_norms, 0);
    ck_assert(info.rtol == 0.2 && info.condition >= 1 && info.condition < 5 && info.sigma_min < 0.2 * info.sigma_max);
    uint64_t fingerprint;
    CHECK_OK(salf_model_fingerprint(x.model, &fingerprint));
    ck_assert_uint_eq(info.fingerprint, fingerprint);
    const int32_t *labels;
    int64_t n;
    CHECK_OK(salf_basis_get_labels(basis, &labels, &n));
    ck_assert(n == 4 && labels[0] == 0 && labels[1] == 3 && labels[2] == 5 && labels[3] == 11);
    salf_basis_destroy(basis);
    options.mode = SALF_BASIS_EXACT;
    CHECK_OK(salf_basis_create(&basis, x.model, NULL, 0, &options));
    CHECK_OK(salf_basis_get_info(basis, &info));
    ck_assert(info.method != SALF_METHOD_NONE && info.rank == 12 && info.n_labels == 0);
    salf_basis_destroy(basis);
    free(b);
    drop_world(&x);
}
END_TEST

START_TEST(table_vocabulary_and_on_demand_rows_agree) {
    for (size_t k = 0; k < 2; k++) {
        world x = make_world(backends[k], 40, 12, 10, 0, 0);
        const int32_t others[] = {39, 17, 3};
        for (int32_t prepare = SALF_PREPARE_LABELS; prepare <= SALF_PREPARE_TABLE; prepare++) {
            salf_basis_options options = options_of(SALF_BASIS_EXACT);
            options.prepare = prepare;
            salf_basis *basis;
            CHECK_OK(salf_basis_create(&basis, x.model, some_labels, 5, &options));
            ck_assert(rows_error(basis, others, 3, x.b, x.d) < (prepare == SALF_PREPARE_TABLE ? 1e-6 : 1e-9));
            salf_basis_info info = {.struct_size = sizeof info};
            CHECK_OK(salf_basis_get_info(basis, &info));
            ck_assert_int_eq(info.has_norms, prepare != SALF_PREPARE_LABELS);
            ck_assert_int_eq(info.has_table, prepare == SALF_PREPARE_TABLE);
            salf_basis_destroy(basis);
        }
        drop_world(&x);
    }
}
END_TEST

START_TEST(input_side_gives_embedding_rows) {
    world x = make_world(SALF_BACKEND_CPU, 30, 9, 3, 0, 0);
    salf_basis_options options = options_of(SALF_BASIS_RTOL);
    options.side = SALF_SIDE_INPUT;
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, x.model, some_labels, 5, &options));
    float rows[2][9];
    const int32_t labels[] = {11, 29};
    const salf_tensor out = oracle_view(rows, SALF_F32, 2, 9);
    CHECK_OK(salf_basis_rows(basis, labels, 2, &out));
    ck_assert_mem_eq(rows[0], x.w + 11 * 9, sizeof rows[0]);
    ck_assert_mem_eq(rows[1], x.w + 29 * 9, sizeof rows[1]);
    salf_basis_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_basis_get_info(basis, &info));
    ck_assert(info.method == SALF_METHOD_NONE && info.sigma_max == 0);
    salf_basis_destroy(basis);
    drop_world(&x);
}
END_TEST

START_TEST(scaling_the_head_scales_rows_inversely) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    float *scaled = malloc((size_t)(x.v * x.d) * sizeof *scaled);
    for (int64_t i = 0; i < x.v * x.d; i++) scaled[i] = 4 * x.w[i];
    for (int64_t i = 0; i < x.v * x.d; i++) x.b[i] /= 4;
    salf_model *model = oracle_model(x.context, scaled, x.v, x.d, 3);
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, model, some_labels, 5, NULL));
    ck_assert(rows_error(basis, some_labels, 5, x.b, x.d) < 1e-9);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    free(scaled);
    drop_world(&x);
}
END_TEST

/* A head in another storage gives the basis and fingerprint of its float32 values. */
static void check_storage(int32_t dtype, uint16_t (*narrow)(float)) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 3, 0, 0);
    uint16_t *half = malloc((size_t)(x.v * x.d) * sizeof *half);
    for (int64_t i = 0; i < x.v * x.d; i++) {
        x.w[i] = (float)(round((double)x.w[i] * 64) / 64); /* 7 bits at most below 2: exact in both 16-bit types */
        if (fabs((double)x.w[i]) >= 2) x.w[i] = 1.5f;
        half[i] = narrow(x.w[i]);
    }
    salf_model_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = 3;
    options.hidden = x.d;
    options.vocab = x.v;
    options.head = oracle_view(half, dtype, x.v, x.d);
    salf_model *model;
    CHECK_OK(salf_model_create(&model, x.context, &options));
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, model, some_labels, 5, NULL));
    CHECK_OK(salf_basis_check(basis, x.model));
    oracle_basis(x.w, x.v, x.d, 0, 0, x.b);
    ck_assert(rows_error(basis, some_labels, 5, x.b, x.d) < 1e-9);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    free(half);
    drop_world(&x);
}

START_TEST(storage_of_the_head_does_not_matter) {
    check_storage(SALF_BF16, harness_to_bf16);
    check_storage(SALF_F16, harness_to_f16);
}
END_TEST

typedef struct {
    const world *x;
    int32_t fail;
} rows_user;

static int32_t give_rows(void *user, int64_t first, int64_t count, float *out) {
    const rows_user *u = user;
    if (u->fail) return 17;
    memcpy(out, u->x->w + first * u->x->d, (size_t)(count * u->x->d) * sizeof *out);
    return 0;
}

START_TEST(rows_from_a_callback) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    rows_user user = {.x = &x};
    salf_model_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = 3;
    options.hidden = x.d;
    options.vocab = x.v;
    options.head_rows = give_rows;
    options.head_rows_user = &user;
    salf_model *model;
    salf_basis *basis;
    CHECK_OK(salf_model_create(&model, x.context, &options));
    salf_basis_options prepare = options_of(SALF_BASIS_EXACT);
    prepare.prepare = SALF_PREPARE_VOCABULARY;
    CHECK_OK(salf_basis_create(&basis, model, some_labels, 5, &prepare));
    ck_assert(rows_error(basis, some_labels, 5, x.b, x.d) < 1e-9);
    CHECK_OK(salf_basis_check(basis, x.model));
    salf_basis_destroy(basis);
    user.fail = 1;
    CHECK_FAILS(salf_basis_create(&basis, model, some_labels, 5, NULL), SALF_E_CALLBACK, "17");
    ck_assert_ptr_null(basis);
    salf_model_destroy(model);
    drop_world(&x);
}
END_TEST

START_TEST(padding_rows_are_left_out) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    salf_model_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = 3;
    options.hidden = x.d;
    options.vocab = x.v;
    options.valid_vocab = 33;
    options.head = oracle_view(x.w, SALF_F32, x.v, x.d);
    x.w[35 * 12] = NAN; /* in the padding: never read */
    salf_model *model;
    salf_basis *basis;
    CHECK_OK(salf_model_create(&model, x.context, &options));
    CHECK_OK(salf_basis_create(&basis, model, some_labels, 5, NULL));
    oracle_basis(x.w, 33, x.d, 0, 0, x.b);
    ck_assert(rows_error(basis, some_labels, 5, x.b, x.d) < 1e-9);
    float row[12];
    const salf_tensor out = oracle_view(row, SALF_F32, 1, 12);
    const int32_t padding = 33, outside = 40, negative = -1;
    CHECK_FAILS(salf_basis_rows(basis, &padding, 1, &out), SALF_E_PADDING, "33");
    CHECK_FAILS(salf_basis_rows(basis, &outside, 1, &out), SALF_E_LABEL, "40");
    CHECK_FAILS(salf_basis_rows(basis, &negative, 1, &out), SALF_E_LABEL, "-1");
    float two[24];
    const int64_t same[] = {1, 1};
    salf_tensor both = oracle_view(two, SALF_F32, 2, 12);
    both.row_index = same;
    CHECK_FAILS(salf_basis_rows(basis, some_labels, 2, &both), SALF_E_ARGUMENT, "rows 1 and 1");
    salf_basis_destroy(basis);
    CHECK_FAILS(salf_basis_create(&basis, model, &padding, 1, NULL), SALF_E_PADDING, "33");
    salf_model_destroy(model);
    drop_world(&x);
}
END_TEST

START_TEST(zero_rows_are_named) {
    for (size_t k = 0; k < 2; k++) {
        world x = make_world(backends[k], 40, 12, 1, 0, 0);
        memset(x.w + 5 * 12, 0, 12 * sizeof(float));
        salf_basis *basis;
        const int32_t label = 5, other = 6, truncated = 7;
        CHECK_FAILS(salf_basis_create(&basis, x.model, &label, 1, NULL), SALF_E_ZERO_ROW, "label 5");
        CHECK_OK(salf_basis_create(&basis, x.model, &other, 1, NULL));
        float row[12];
        salf_tensor out = oracle_view(row, SALF_F32, 1, 12);
        CHECK_FAILS(salf_basis_rows(basis, &label, 1, &out), SALF_E_ZERO_ROW, "label 5");
        salf_basis_destroy(basis);
        /* the last direction belongs to row 7 alone and is too small to be kept */
        for (int64_t i = 0; i < 40; i++) x.w[i * 12 + 11] = 0;
        memset(x.w + 7 * 12, 0, 12 * sizeof(float));
        x.w[7 * 12 + 11] = 1e-3f;
        salf_basis_options options = options_of(SALF_BASIS_RTOL);
        options.rtol = 0.01;
        CHECK_FAILS(salf_basis_create(&basis, x.model, &truncated, 1, &options), SALF_E_ZERO_ROW, "label 7");
        options.rtol = 1e-6;
        CHECK_OK(salf_basis_create(&basis, x.model, &truncated, 1, &options));
        CHECK_OK(salf_basis_rows(basis, &truncated, 1, &out));
        ck_assert(fabs((double)row[11] / 1e3 - 1) < 1e-5); /* 1 / 1e-3 */
        salf_basis_destroy(basis);
        drop_world(&x);
    }
}
END_TEST

START_TEST(bad_heads_and_options) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    salf_basis *basis = (salf_basis *)(void *)&x;
    salf_basis_options options = options_of(9);
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "mode is 9");
    ck_assert_ptr_null(basis);
    options = options_of(SALF_BASIS_RIDGE);
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "ridge is 0");
    options.ridge = INFINITY;
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "inf");
    options = options_of(SALF_BASIS_RTOL);
    options.rtol = 1;
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "rtol is 1");
    options.rtol = NAN;
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "nan");
    options = options_of(0);
    options.side = 2;
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "side is 2");
    options = options_of(0);
    options.prepare = -1;
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_ARGUMENT, "prepare is -1");
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 2, NULL), SALF_E_NULL, "labels");
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, -2, NULL), SALF_E_ARGUMENT, "-2");
    CHECK_FAILS(salf_basis_create(&basis, NULL, NULL, 0, NULL), SALF_E_NULL, "model");
    CHECK_FAILS(salf_basis_create(NULL, x.model, NULL, 0, NULL), SALF_E_NULL, "out");
    x.w[23 * 12 + 4] = INFINITY;
    for (size_t k = 0; k < 2; k++) {
        options = options_of(SALF_BASIS_EXACT);
        options.side = (int32_t)k;
        CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, &options), SALF_E_NONFINITE, "row 23");
    }
    memset(x.w, 0, (size_t)(x.v * x.d) * sizeof *x.w);
    CHECK_FAILS(salf_basis_create(&basis, x.model, NULL, 0, NULL), SALF_E_NUMERIC, "");
    drop_world(&x);
}
END_TEST

/* Every row but 7 has elements that add up to 0, and row 7 is constant: what truncation leaves of it is rounding alone.
 */
START_TEST(rounding_is_no_basis_row) {
    for (size_t k = 0; k < 2; k++) {
        world x = make_world(backends[k], 40, 12, 1, 0, 0);
        for (int64_t i = 0; i < 40; i++) {
            float sum = 0;
            for (int64_t j = 0; j < 11; j++) sum += x.w[i * 12 + j] = (float)round(20 * (double)x.w[i * 12 + j]);
            x.w[i * 12 + 11] = -sum;
        }
        for (int64_t j = 0; j < 12; j++) x.w[7 * 12 + j] = 0.0117f;
        salf_basis_options options = options_of(SALF_BASIS_RTOL);
        options.rtol = 0.01;
        salf_basis *basis;
        const int32_t label = 7;
        CHECK_FAILS(salf_basis_create(&basis, x.model, &label, 1, &options), SALF_E_ZERO_ROW, "label 7");
        options.prepare = SALF_PREPARE_TABLE;
        CHECK_OK(salf_basis_create(&basis, x.model, NULL, 0, &options));
        float row[12];
        const salf_tensor out = oracle_view(row, SALF_F32, 1, 12);
        CHECK_FAILS(salf_basis_rows(basis, &label, 1, &out), SALF_E_ZERO_ROW, "label 7");
        salf_basis_destroy(basis);
        options.rtol = 1e-6;
        options.prepare = 0;
        CHECK_OK(salf_basis_create(&basis, x.model, &label, 1, &options));
        CHECK_OK(salf_basis_rows(basis, &label, 1, &out)); /* w / |w|^2 */
        for (int j = 0; j < 12; j++) ck_assert(fabs((double)row[j] * 12 * 0.0117 - 1) < 1e-4);
        salf_basis_destroy(basis);
        drop_world(&x);
    }
}
END_TEST

/* With a small workspace the head is read in many blocks; results and the rows named stay the same. */
START_TEST(blocks_do_not_show) {
    for (size_t k = 0; k < 2; k++) {
        world x = make_world(backends[k], 40, 12, 10, 0, 0);
        salf_context_options small;
        salf_options_init(&small, sizeof small);
        small.backend = backends[k];
        small.workspace_limit = 1024;
        salf_context *context;
        CHECK_OK(salf_context_create(&context, &small));
        salf_model *model = oracle_model(context, x.w, x.v, x.d, 3);
        salf_basis *basis;
        for (int32_t prepare = 0; prepare <= SALF_PREPARE_TABLE; prepare++) {
            salf_basis_options options = options_of(SALF_BASIS_EXACT);
            options.prepare = prepare;
            CHECK_OK(salf_basis_create(&basis, model, some_labels, 5, &options));
            ck_assert(rows_error(basis, some_labels, 5, x.b, x.d) < 1e-6);
            CHECK_OK(salf_basis_check(basis, x.model));
            salf_basis_destroy(basis);
        }
        x.w[35 * 12 + 1] = NAN;
        CHECK_FAILS(salf_basis_create(&basis, model, NULL, 0, NULL), SALF_E_NONFINITE, "row 35 ");
        salf_model_destroy(model);
        salf_context_destroy(context);
        drop_world(&x);
    }
}
END_TEST

START_TEST(rows_checks_its_output) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, x.model, some_labels, 5, NULL));
    float rows[5 * 20];
    for (int i = 0; i < 100; i++) rows[i] = 7;
    salf_tensor out = oracle_view(rows, SALF_BF16, 5, 12);
    CHECK_FAILS(salf_basis_rows(basis, some_labels, 5, &out), SALF_E_DTYPE, "bfloat16");
    out = oracle_view(rows, SALF_F32, 4, 12);
    CHECK_FAILS(salf_basis_rows(basis, some_labels, 5, &out), SALF_E_SHAPE, "4 rows");
    out = oracle_view(rows, SALF_F32, 5, 11);
    CHECK_FAILS(salf_basis_rows(basis, some_labels, 5, &out), SALF_E_SHAPE, "11 columns");
    const int32_t bad[] = {1, 40};
    out = oracle_view(rows, SALF_F32, 2, 12);
    CHECK_FAILS(salf_basis_rows(basis, bad, 2, &out), SALF_E_LABEL, "40");
    for (int i = 0; i < 100; i++) ck_assert(rows[i] == 7);
    const int64_t index[] = {4, 0};
    out.row_stride = 20;
    out.row_index = index;
    CHECK_OK(salf_basis_rows(basis, some_labels, 2, &out)); /* labels 5, 0 to rows 4, 0 */
    for (int j = 0; j < 12; j++) {
        ck_assert(fabs((double)rows[80 + j] - x.b[5 * 12 + j]) < 1e-5);
        ck_assert(fabs((double)rows[j] - x.b[j]) < 1e-5);
    }
    ck_assert(rows[12] == 7 && rows[20] == 7);
    salf_basis_destroy(basis);
    drop_world(&x);
}
END_TEST

START_TEST(check_and_refresh_follow_the_head) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    salf_basis_options options = options_of(SALF_BASIS_EXACT);
    salf_basis *basis, *fresh;
    CHECK_OK(salf_basis_create(&basis, x.model, some_labels, 5, &options));
    CHECK_OK(salf_basis_check(basis, x.model));
    x.w[3] += 1;
    CHECK_FAILS(salf_basis_check(basis, x.model), SALF_E_STALE, "fingerprint");
    CHECK_OK(salf_basis_refresh(&fresh, basis, x.model));
    CHECK_OK(salf_basis_check(fresh, x.model));
    oracle_basis(x.w, x.v, x.d, 0, 0, x.b);
    ck_assert(rows_error(fresh, some_labels, 5, x.b, x.d) < 1e-9);
    salf_model *other = oracle_model(x.context, x.w, 30, 12, 3);
    CHECK_FAILS(salf_basis_check(basis, other), SALF_E_STALE, "30");
    salf_model_destroy(other);
    salf_basis_destroy(basis);
    salf_basis_destroy(fresh);
    drop_world(&x);
}
END_TEST

/* ---- builder ---- */

static void add_rows(salf_basis_builder *builder, const world *x, int64_t first, int64_t count) {
    const salf_tensor rows = oracle_view(x->w + first * x->d, SALF_F32, count, x->d);
    CHECK_OK(salf_basis_builder_add(builder, first, &rows));
}

START_TEST(builder_equals_create) {
    const int64_t shapes[][2] = {{40, 12}, {13, 40}};
    for (size_t k = 0; k < 2; k++)
        for (size_t s = 0; s < 2; s++) {
            world x = make_world(backends[k], shapes[s][0], shapes[s][1], 10, 0, 0);
            salf_basis_options options = options_of(SALF_BASIS_EXACT);
            salf_basis_builder *one, *two;
            CHECK_OK(salf_basis_builder_create(&one, x.context, x.v, x.d, some_labels, 5, &options));
            CHECK_OK(salf_basis_builder_create(&two, x.context, x.v, x.d, some_labels, 5, &options));
            add_rows(one, &x, 10, x.v - 10);
            add_rows(two, &x, 4, 6);
            add_rows(two, &x, 0, 4);
            salf_basis *basis, *direct;
            CHECK_FAILS(salf_basis_builder_finish(&basis, two, NULL), SALF_E_SEQUENCE, "10 rows of");
            ck_assert_ptr_null(basis);
            CHECK_OK(salf_basis_builder_merge(one, two));
            CHECK_OK(salf_basis_builder_all_reduce(one));
            CHECK_OK(salf_basis_builder_finish(&basis, one, NULL));
            CHECK_OK(salf_basis_create(&direct, x.model, some_labels, 5, &options));
            ck_assert(rows_error(basis, some_labels, 5, x.b, x.d) < 1e-9);
            CHECK_OK(salf_basis_check(basis, x.model));
            salf_basis_info a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
            CHECK_OK(salf_basis_get_info(basis, &a));
            CHECK_OK(salf_basis_get_info(direct, &b));
            ck_assert(a.rank == b.rank && a.fingerprint == b.fingerprint && a.method == b.method);
            ck_assert(fabs(a.sigma_max / b.sigma_max - 1) < 1e-12);
            float row[40];
            const int32_t unheld = 1;
            const salf_tensor out = oracle_view(row, SALF_F32, 1, x.d);
            CHECK_FAILS(salf_basis_rows(basis, &unheld, 1, &out), SALF_E_LABEL, "label 1");
            salf_basis_destroy(basis);
            CHECK_OK(salf_basis_builder_finish(&basis, one, x.model)); /* again, with a model */
            ck_assert(rows_error(basis, &unheld, 1, x.b, x.d) < 1e-9);
            salf_basis_destroy(basis);
            salf_basis_destroy(direct);
            salf_basis_builder_destroy(one);
            salf_basis_builder_destroy(two);
            drop_world(&x);
        }
}
END_TEST

START_TEST(builder_notices_rows_doubled_and_missing) {
    world x = make_world(SALF_BACKEND_CPU, 40, 12, 10, 0, 0);
    salf_basis_builder *builder, *other;
    salf_basis *basis;
    CHECK_OK(salf_basis_builder_create(&builder, x.context, x.v, x.d, some_labels, 5, NULL));
    add_rows(builder, &x, 0, 39);
    add_rows(builder, &x, 3, 1);
    CHECK_FAILS(salf_basis_builder_finish(&basis, builder, NULL), SALF_E_SEQUENCE, "twice");
    salf_tensor rows = oracle_view(x.w, SALF_F32, 4, 12);
    CHECK_FAILS(salf_basis_builder_add(builder, 37, &rows), SALF_E_SHAPE, "37");
    CHECK_FAILS(salf_basis_builder_add(builder, INT64_MAX, &rows), SALF_E_SHAPE, "from 9223372036854775807 on");
    rows.cols = 11;
    CHECK_FAILS(salf_basis_builder_add(builder, 0, &rows), SALF_E_SHAPE, "11");
    double *values, before[12 * 12];
    int64_t count;
    CHECK_OK(salf_basis_builder_partial(builder, &values, &count));
    memcpy(before, values, sizeof before);
    x.w[2 * 12] = NAN;
    rows.cols = 12;
    CHECK_FAILS(salf_basis_builder_add(builder, 8, &rows), SALF_E_NONFINITE, "row 10");
    ck_assert_mem_eq(before, values, sizeof before);
    CHECK_OK(salf_basis_builder_create(&other, x.context, x.v, x.d, some_labels, 2, NULL));
    CHECK_FAILS(salf_basis_builder_merge(builder, other), SALF_E_MISMATCH, "labels");
    CHECK_FAILS(salf_basis_builder_merge(builder, builder), SALF_E_ARGUMENT, "itself");
    salf_basis_builder_destroy(other);
    salf_basis_options options = options_of(0);
    options.side = SALF_SIDE_INPUT;
    CHECK_FAILS(salf_basis_builder_create(&other, x.context, x.v, x.d, NULL, 0, &options), SALF_E_ARGUMENT, "input");
    CHECK_FAILS(salf_basis_builder_create(&other, x.context, 0, x.d, NULL, 0, NULL), SALF_E_SHAPE, "[0]");
    const int64_t most = INT32_MAX; /* rows: a token's number has 32 bits */
    CHECK_FAILS(salf_basis_builder_create(&other, x.context, most + 1, 1, NULL, 0, NULL), SALF_E_SHAPE, "[2147483648]");
    CHECK_OK(salf_basis_builder_create(&other, x.context, most, 1, NULL, 0, NULL));
    salf_basis_builder_destroy(other);
    salf_basis_builder_destroy(builder);
    drop_world(&x);
}
END_TEST

typedef struct {
    salf_basis *basis;
    double deviation;
    salf_status status;
} thread_task;

static void *probe_in_thread(void *argument) {
    thread_task *task = argument;
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.metric = SALF_METRIC_CE;
    options.lens = SALF_LENS_RAW;
    const float h[12] = {1, -2, 3, 0.5f, 1, 1, 0, 2, -1, 1, 1, 4};
    const int32_t label = 3;
    salf_probe *probe;
    salf_trace trace = {0};
    task->status = salf_probe_create(&probe, task->basis, &options);
    if (task->status != SALF_OK) return NULL;
    task->status = salf_probe_begin(probe, &label, 1);
    const salf_tensor states = oracle_view(h, SALF_F32, 1, 12);
    for (int32_t k = 0; k <= 3 && task->status == SALF_OK; k++)
        task->status = salf_probe_observe(probe, k, &states, SALF_STATE_RAW);
    if (task->status == SALF_OK) task->status = salf_probe_end(probe, &trace);
    if (task->status == SALF_OK) task->deviation = trace.deviations[2];
    salf_probe_destroy(probe);
    return NULL;
}

START_TEST(threads_share_a_basis) {
    world x = make_world(SALF_BACKEND_CPU, 400, 12, 10, 0, 0);
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, x.model, NULL, 0, NULL));
    thread_task tasks[2] = {{.basis = basis}, {.basis = basis}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, probe_in_thread, &tasks[i]), 0);
    for (int i = 0; i < 2; i++) ck_assert(pthread_join(threads[i], NULL) == 0 && tasks[i].status == SALF_OK);
    ck_assert(tasks[0].deviation == tasks[1].deviation && tasks[0].deviation > 0);
    salf_basis_destroy(basis);
    drop_world(&x);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, rows_are_the_pseudo_inverse);
    HARNESS_ADD(suite, info_and_labels);
    HARNESS_ADD(suite, table_vocabulary_and_on_demand_rows_agree);
    HARNESS_ADD(suite, input_side_gives_embedding_rows);
    HARNESS_ADD(suite, scaling_the_head_scales_rows_inversely);
    HARNESS_ADD(suite, storage_of_the_head_does_not_matter);
    HARNESS_ADD(suite, rows_from_a_callback);
    HARNESS_ADD(suite, padding_rows_are_left_out);
    HARNESS_ADD(suite, zero_rows_are_named);
    HARNESS_ADD(suite, bad_heads_and_options);
    HARNESS_ADD(suite, rounding_is_no_basis_row);
    HARNESS_ADD(suite, blocks_do_not_show);
    HARNESS_ADD(suite, rows_checks_its_output);
    HARNESS_ADD(suite, check_and_refresh_follow_the_head);
    HARNESS_ADD(suite, builder_equals_create);
    HARNESS_ADD(suite, builder_notices_rows_doubled_and_missing);
    HARNESS_ADD(suite, threads_share_a_basis);
}
