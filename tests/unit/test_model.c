/* Described models: what makes no sense is refused field by field; rows and fingerprint are the same however the head
 * is stored. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/fingerprint.h"
#include "harness.h"
#include "model/model.h"
#include "oracle.h"

enum { V = 7, D = 4, M = 2 };

/* ---- descriptions ---- */

/* [V][D], all exact in bfloat16 and float16. */
static void fill_head(float *w) {
    for (int i = 0; i < V * D; i++) w[i] = (float)(i * 5 % 13 - 6) * 0.25f;
}

static salf_model_options description(const float *w) {
    salf_model_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = M;
    options.hidden = D;
    options.vocab = V;
    options.head = oracle_view(w, SALF_F32, V, D);
    options.norm_kind = SALF_NORM_LAYER;
    return options;
}

static int32_t count_rows(void *user, int64_t first, int64_t count, float *out) {
    memcpy(out, (const float *)user + first * D, (size_t)(count * D) * sizeof *out);
    return 0;
}

static int32_t fail_rows(void *user, int64_t first, int64_t count, float *out) {
    (void)user;
    (void)count;
    (void)out;
    return first >= 0 ? 42 : 0;
}

START_TEST(bad_descriptions_are_refused) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_CPU, &memory);
    const int64_t alive = memory.alive;
    float w[V * D], bad[V * D];
    double doubles[V * D] = {0};
    const int64_t index[V] = {0, 1, 2, -3, 4, 5, 6}, fine_index[V] = {0, 4, 8, 12, 16, 20, 24};
    fill_head(w);
    fill_head(bad);
    bad[2] = NAN;
    salf_model *model;
#define REFUSED(change, status, words)                                      \
    do {                                                                    \
        salf_model_options o = description(w);                              \
        change;                                                             \
        CHECK_FAILS(salf_model_create(&model, context, &o), status, words); \
        ck_assert_ptr_null(model);                                          \
        ck_assert_int_eq(memory.alive, alive);                              \
    } while (0)
    REFUSED(o.n_layers = 0, SALF_E_ARGUMENT, "n_layers is 0");
    REFUSED(o.n_layers = -1, SALF_E_ARGUMENT, "n_layers is -1");
    REFUSED(o.n_layers = 65536, SALF_E_ARGUMENT, "n_layers is 65536");
    REFUSED(o.hidden = 0, SALF_E_ARGUMENT, "hidden is 0");
    REFUSED(o.hidden = (int64_t)1 << 40, SALF_E_ARGUMENT, "hidden is 1099511627776");
    REFUSED(o.vocab = 0, SALF_E_ARGUMENT, "vocab is 0");
    REFUSED(o.vocab = (int64_t)1 << 31, SALF_E_ARGUMENT, "vocab is 2147483648");
    REFUSED(o.valid_vocab = V + 1, SALF_E_ARGUMENT, "valid_vocab is 8");
    REFUSED(o.valid_vocab = -1, SALF_E_ARGUMENT, "valid_vocab is -1");
    REFUSED(o.head.data = NULL, SALF_E_NULL, "neither head nor embedding");
    REFUSED(o.head.rows = V - 1, SALF_E_SHAPE, "head: 6 rows");
    REFUSED(o.head.cols = D + 1, SALF_E_SHAPE, "head: 5 columns");
    REFUSED(o.head = oracle_view(doubles, SALF_F64, V, D), SALF_E_DTYPE, "head");
    REFUSED(o.head.dtype = 0, SALF_E_DTYPE, "head: dtype 0");
    REFUSED(o.head.memory = SALF_MEMORY_DEVICE, SALF_E_ARGUMENT, "head: device memory");
    REFUSED(o.head.memory = 9, SALF_E_ARGUMENT, "head: memory 9");
    REFUSED(o.head.extent = 1, SALF_E_SHAPE, "extent of 1");
    REFUSED(o.head.row_stride = INT64_MAX, SALF_E_OVERFLOW, "row stride 9223372036854775807");
    REFUSED(o.head.row_stride = D - 1, SALF_E_SHAPE, "head: row stride 3 is less than its 4 columns");
    REFUSED(o.head.row_stride = 1 - D, SALF_E_SHAPE, "head: row stride -3");
    REFUSED((o.head.row_stride = 1, o.head.row_index = fine_index), SALF_E_SHAPE, "head: row stride 1 is less");
    REFUSED(o.head_transposed = 2, SALF_E_ARGUMENT, "head_transposed is 2");
    REFUSED(o.embedding_transposed = -1, SALF_E_ARGUMENT, "embedding_transposed is -1");
    REFUSED(o.embedding_transposed = 1, SALF_E_ARGUMENT, "embedding_transposed is 1, but embedding is no view");
    REFUSED(o.head_transposed = 1, SALF_E_SHAPE, "head: 7 rows where 4 are needed");
    REFUSED((o.head_transposed = 1, o.head.memory = SALF_MEMORY_DEVICE), SALF_E_UNSUPPORTED, "head is transposed");
    REFUSED(o.head.row_index = index, SALF_E_ARGUMENT, "row_index[3] is -3");
    REFUSED(o.head_rows = fail_rows, SALF_E_ARGUMENT, "head is given as a view and as a callback");
    REFUSED(o.embedding = oracle_view(w, SALF_F32, V - 2, D), SALF_E_SHAPE, "embedding: 5 rows");
    REFUSED((o.embedding = o.head, o.embedding_rows = fail_rows), SALF_E_ARGUMENT, "embedding is given as a view");
    REFUSED(o.tied = 2, SALF_E_ARGUMENT, "tied is 2");
    REFUSED(o.norm_kind = 4, SALF_E_ARGUMENT, "norm_kind is 4");
    REFUSED(o.norm_kind = -1, SALF_E_ARGUMENT, "norm_kind is -1");
    REFUSED(o.norm_eps = -1e-5, SALF_E_ARGUMENT, "norm_eps is -1e-05");
    REFUSED(o.norm_eps = NAN, SALF_E_ARGUMENT, "norm_eps is");
    REFUSED(o.norm_eps = 1e-50, SALF_E_ARGUMENT, "norm_eps is 1e-50"); /* 0 in float32 */
    REFUSED(o.norm_eps = 1e300, SALF_E_ARGUMENT, "norm_eps is 1e+300");
    REFUSED(o.norm_weight = oracle_view(w, SALF_F32, 1, D - 1), SALF_E_SHAPE, "norm_weight: 3 columns");
    REFUSED(o.norm_weight = oracle_view(w, SALF_F32, 2, D), SALF_E_SHAPE, "norm_weight: 2 rows");
    REFUSED(o.norm_weight = oracle_view(bad, SALF_F32, 1, D), SALF_E_NONFINITE, "norm_weight: element 2");
    REFUSED((o.norm_weight = oracle_view(w, SALF_F32, 1, D), o.norm_weight.memory = SALF_MEMORY_DEVICE),
            SALF_E_ARGUMENT, "norm_weight: device memory");
    REFUSED((o.norm_weight = oracle_view(w, SALF_F32, 1, D), o.norm_kind = SALF_NORM_NONE), SALF_E_ARGUMENT,
            "norm_weight is given");
    REFUSED((o.norm_weight = oracle_view(w, SALF_F32, 1, D), o.norm_bias = oracle_view(bad, SALF_F32, 1, D)),
            SALF_E_NONFINITE, "norm_bias: element 2");
    REFUSED((o.norm_bias = oracle_view(w, SALF_F32, 1, D), o.norm_kind = SALF_NORM_RMS), SALF_E_ARGUMENT,
            "norm_bias is given, but norm_kind is 2");
    REFUSED(o.logit_bias = oracle_view(w, SALF_F32, 1, D), SALF_E_SHAPE, "logit_bias: 4 columns");
    REFUSED(o.logit_bias = oracle_view(bad, SALF_F32, 1, V), SALF_E_NONFINITE, "logit_bias: element 2");
    REFUSED(o.logit_scale = INFINITY, SALF_E_ARGUMENT, "logit_scale is inf");
    REFUSED(o.logit_scale = -1e308, SALF_E_ARGUMENT, "logit_scale is -1e+308"); /* ranks of infinities were all 0 */
    REFUSED(o.logit_scale = 5e-324, SALF_E_ARGUMENT, "in 1e-100 ... 1e100");
    REFUSED(o.logit_softcap = -1, SALF_E_ARGUMENT, "logit_softcap is -1");
    REFUSED(o.logit_softcap = NAN, SALF_E_ARGUMENT, "logit_softcap is");
    REFUSED(o.struct_size = 0, SALF_E_STRUCT, "struct_size is 0");
#undef REFUSED
    salf_model_options o = description(w);
    CHECK_FAILS(salf_model_create(NULL, context, &o), SALF_E_NULL, "out");
    CHECK_FAILS(salf_model_create(&model, NULL, &o), SALF_E_NULL, "context");
    CHECK_FAILS(salf_model_create(&model, context, NULL), SALF_E_NULL, "options");
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
}
END_TEST

START_TEST(options_of_other_versions) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    float w[V * D];
    fill_head(w);
    struct {
        salf_model_options options;
        uint64_t more[2];
    } longer = {.options = description(w)};
    salf_model *model;
    longer.options.struct_size = sizeof longer;
    CHECK_OK(salf_model_create(&model, context, &longer.options));
    salf_model_destroy(model);
    longer.more[1] = 1;
    CHECK_FAILS(salf_model_create(&model, context, &longer.options), SALF_E_STRUCT, "salf_model_options");
    salf_model_options shorter = description(w);
    shorter.struct_size = offsetof(salf_model_options, logit_scale);
    shorter.logit_scale = NAN; /* not looked at */
    CHECK_OK(salf_model_create(&model, context, &shorter));
    struct {
        salf_model_info info;
        uint64_t more;
    } longer_info = {.info.struct_size = sizeof longer_info, .more = 5};
    CHECK_OK(salf_model_get_info(model, &longer_info.info));
    ck_assert(longer_info.more == 0 && longer_info.info.struct_size == sizeof longer_info);
    salf_model_info info = {.struct_size = offsetof(salf_model_info, hidden), .hidden = 99};
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert(info.n_layers == M && info.hidden == 99);
    CHECK_FAILS(salf_model_get_info(model, NULL), SALF_E_NULL, "info");
    CHECK_FAILS(salf_model_get_info(NULL, &info), SALF_E_NULL, "model");
    info.struct_size = 2;
    CHECK_FAILS(salf_model_get_info(model, &info), SALF_E_STRUCT, "struct_size is 2");
    salf_model_destroy(model);
    salf_model_destroy(NULL);
    salf_context_destroy(context);
}
END_TEST

START_TEST(description_is_told_back) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    float w[V * D];
    uint16_t half[V * D];
    fill_head(w);
    for (int i = 0; i < V * D; i++) half[i] = harness_to_bf16(w[i]);
    salf_model_options o = description(w);
    salf_model *model;
    salf_model_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_model_create(&model, context, &o));
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert(info.family == SALF_FAMILY_OTHER && info.n_layers == M && info.hidden == D && info.vocab == V);
    ck_assert(info.valid_vocab == V && info.tied == 0 && info.head_dtype == SALF_F32 && info.fingerprint == 0);
    ck_assert(info.norm_kind == SALF_NORM_LAYER && info.norm_eps == 1e-5 && info.logit_scale == 1);
    ck_assert(info.logit_softcap == 0 && info.embedding_scale == 1 && info.bos_token == -1 && info.eos_token == -1);
    ck_assert(info.n_heads == 0 && info.ffn_hidden == 0 && info.rope_theta == 0);
    ck_assert_ptr_null(salf_model_get_tensors(model));
    ck_assert_ptr_null(salf_model_get_tensors(NULL));
    ck_assert(slf_matrix_is_empty(&model->embedding)); /* not tied, not given */
    salf_model_destroy(model);
    o.head = oracle_view(half, SALF_BF16, V, D);
    o.tied = 1;
    o.valid_vocab = V - 2;
    o.norm_eps = 1e-3;
    o.logit_scale = -2;
    o.logit_softcap = 30;
    o.norm_kind = SALF_NORM_RMS1P;
    o.norm_weight = oracle_view(half, SALF_BF16, 1, D);
    o.logit_bias = oracle_view(w, SALF_F32, 1, V);
    CHECK_OK(salf_model_create(&model, context, &o));
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert(info.valid_vocab == V - 2 && info.tied == 1 && info.head_dtype == SALF_BF16 && info.norm_eps == 1e-3);
    ck_assert(info.logit_scale == -2 && info.logit_softcap == 30 && info.norm_kind == SALF_NORM_RMS1P);
    for (int i = 0; i < D; i++) ck_assert(model->norm_weight[i] == w[i] + 1);
    for (int i = 0; i < V; i++) ck_assert(model->logit_bias[i] == w[i]);
    ck_assert_ptr_eq(model->embedding.view.data, half);
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

/* ---- rows ---- */

static void check_rows(const slf_matrix *matrix, const float *w) {
    float buffer[V * D], row[D];
    for (int64_t first = 0; first < V; first++) {
        CHECK_OK(slf_matrix_fetch(NULL, matrix, &(int32_t){(int32_t)first}, 1, row));
        ck_assert_mem_eq(row, w + first * D, sizeof row);
        for (int64_t count = 1; count <= V - first; count++) {
            salf_tensor block;
            CHECK_OK(slf_matrix_block(matrix, first, count, buffer, &block));
            ck_assert(block.rows == count && block.cols == D);
            for (int64_t r = 0; r < count; r++) {
                slf_row_to_f32(&block, r, row);
                ck_assert_mem_eq(row, w + (first + r) * D, sizeof row);
            }
        }
    }
}

/* One head in many forms: form 0 dense, 1 strided, 2 indexed, 3 bfloat16, 4 float16, 5 callback, 6 as the embedding of
 * a tied model, 7 as the embedding of a model without head, 8 with rows of padding, 9 transposed, 10 transposed in
 * bfloat16 as the embedding of a tied model. */
enum { FORMS = 11, STRIDE = D + 3, STRIDE_T = V + 2 };

typedef struct {
    float w[V * D];
    float wide[V * STRIDE];
    float padded[(V + 3) * D];
    uint16_t bf16[V * D], f16[V * D];
    float turned[D * STRIDE_T];
    uint16_t turned_bf16[D * V];
    int64_t index[V];
} forms;

static void fill_forms(forms *f, const float *w) {
    memset(f, 0, sizeof *f);
    memcpy(f->w, w, sizeof f->w);
    for (int r = 0; r < V; r++) {
        f->index[r] = V - 1 - r;
        memcpy(f->wide + (V - 1 - r) * STRIDE, w + r * D, D * sizeof *w);
    }
    memcpy(f->padded, w, sizeof f->w);
    for (int i = V * D; i < (V + 3) * D; i++) f->padded[i] = NAN; /* never looked at */
    for (int r = 0; r < V; r++)
        for (int k = 0; k < D; k++) {
            f->turned[k * STRIDE_T + r] = w[r * D + k];
            f->turned_bf16[k * V + r] = harness_to_bf16(w[r * D + k]);
        }
    for (int i = 0; i < V * D; i++) {
        f->bf16[i] = harness_to_bf16(w[i]);
        f->f16[i] = harness_to_f16(w[i]);
    }
}

static salf_model *model_of_form(salf_context *context, forms *f, int form) {
    salf_model_options o = description(f->w);
    switch (form) {
    case 1:
        for (int r = 0; r < V; r++) f->index[r] = V - 1 - r;
        o.head = oracle_view(f->wide + (V - 1) * STRIDE, SALF_F32, V, D);
        o.head.row_stride = -STRIDE;
        break;
    case 2:
        o.head = oracle_view(f->wide, SALF_F32, V, D);
        o.head.row_stride = STRIDE;
        o.head.row_index = f->index;
        break;
    case 3:
        o.head = oracle_view(f->bf16, SALF_BF16, V, D);
        break;
    case 4:
        o.head = oracle_view(f->f16, SALF_F16, V, D);
        break;
    case 5:
        o.head = (salf_tensor){0};
        o.head_rows = count_rows;
        o.head_rows_user = f->w;
        break;
    case 6:
    case 7:
        o.embedding = o.head;
        o.head = (salf_tensor){0};
        o.tied = form == 6;
        break;
    case 8:
        o.head = oracle_view(f->padded, SALF_F32, V + 3, D);
        o.vocab = V + 3;
        o.valid_vocab = V;
        break;
    case 9:
        o.head = oracle_view(f->turned, SALF_F32, D, V);
        o.head.row_stride = STRIDE_T;
        o.head_transposed = 1;
        break;
    case 10:
        o.head = (salf_tensor){0};
        o.embedding = oracle_view(f->turned_bf16, SALF_BF16, D, V);
        o.embedding_transposed = o.tied = 1;
        break;
    default:
        break;
    }
    salf_model *model;
    CHECK_OK(salf_model_create(&model, context, &o));
    return model;
}

START_TEST(rows_are_the_same_in_every_form) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    float w[V * D];
    forms f;
    fill_head(w);
    fill_forms(&f, w);
    for (int form = 0; form < FORMS; form++) {
        salf_model *model = model_of_form(context, &f, form);
        check_rows(form == 7 ? &model->embedding : &model->head, w);
        if (form == 6 || form == 10) check_rows(&model->embedding, w);
        ck_assert_int_eq(model->info.head_dtype, form == 3 || form == 10  ? SALF_BF16
                                                 : form == 4              ? SALF_F16
                                                 : form == 5 || form == 7 ? 0
                                                                          : SALF_F32);
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

static uint64_t fingerprint_of(const salf_model *model) {
    uint64_t fingerprint = 0;
    CHECK_OK(salf_model_fingerprint(model, &fingerprint));
    return fingerprint;
}

/* In every form, on both backends, in blocks of one row and of all. */
START_TEST(fingerprint_depends_on_values_alone) {
    float w[V * D];
    forms f;
    fill_head(w);
    uint64_t expected = 0;
    for (int r = 0; r < V; r++) expected += slf_row_hash(w + r * D, D, r);
    fill_forms(&f, w);
    for (int small = 0; small < 2; small++)
        for (int32_t backend = SALF_BACKEND_REFERENCE; backend <= SALF_BACKEND_CPU; backend++) {
            salf_context_options options;
            salf_options_init(&options, sizeof options);
            options.backend = backend;
            options.workspace_limit = small ? 1 : 0;
            salf_context *context;
            CHECK_OK(salf_context_create(&context, &options));
            for (int form = 0; form < FORMS; form++) {
                salf_model *model = model_of_form(context, &f, form);
                ck_assert_msg(fingerprint_of(model) == expected, "form %d, backend %d", form, (int)backend);
                salf_model_destroy(model);
            }
            salf_context_destroy(context);
        }
}
END_TEST

/* A fingerprint only tells heads apart: whether one is of use is for the basis to say. */
START_TEST(fingerprint_of_a_head_that_is_not_finite) {
    float w[2][2 * 3] = {{1, 2, 3, 4, 5, 6}, {1, 2, NAN, 4, 5, 6}};
    uint64_t found[2];
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (int k = 0; k < 2; k++) {
        const salf_model_options o = {.struct_size = sizeof o,
                                      .n_layers = 1,
                                      .hidden = 3,
                                      .vocab = 2,
                                      .head = {.data = w[k], .rows = 2, .cols = 3, .dtype = SALF_F32}};
        salf_model *model;
        salf_basis *basis;
        CHECK_OK(salf_model_create(&model, context, &o));
        found[k] = fingerprint_of(model);
        if (k == 1) CHECK_FAILS(salf_basis_create(&basis, model, NULL, 0, NULL), SALF_E_NONFINITE, "row 0");
        salf_model_destroy(model);
    }
    ck_assert(found[0] != found[1]);
    salf_context_destroy(context);
}
END_TEST

START_TEST(fingerprint_sees_every_change) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    float w[V * D];
    fill_head(w);
    const salf_model_options o = description(w);
    salf_model *model;
    CHECK_OK(salf_model_create(&model, context, &o));
    const uint64_t before = fingerprint_of(model);
    for (int i = 0; i < V * D; i++) {
        const float old = w[i];
        w[i] = nextafterf(old, 100);
        ck_assert_uint_ne(fingerprint_of(model), before);
        w[i] = old;
    }
    for (int c = 0; c < D; c++) { /* two rows change places */
        const float old = w[c];
        w[c] = w[D + c];
        w[D + c] = old;
    }
    ck_assert_uint_ne(fingerprint_of(model), before);
    uint64_t out;
    CHECK_FAILS(salf_model_fingerprint(NULL, &out), SALF_E_NULL, "model");
    CHECK_FAILS(salf_model_fingerprint(model, NULL), SALF_E_NULL, "fingerprint");
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

START_TEST(failing_callback) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_CPU, &memory);
    float w[V * D] = {0}, row[D];
    salf_model_options o = description(w);
    o.head = (salf_tensor){0};
    o.head_rows = fail_rows;
    salf_model *model;
    CHECK_OK(salf_model_create(&model, context, &o));
    const int64_t alive = memory.alive;
    uint64_t fingerprint = 77;
    salf_tensor block;
    CHECK_FAILS(salf_model_fingerprint(model, &fingerprint), SALF_E_CALLBACK, "rows 0 ... 6 returned 42");
    ck_assert_uint_eq(fingerprint, 77);
    ck_assert_int_eq(memory.alive, alive);
    CHECK_FAILS(slf_matrix_fetch(NULL, &model->head, &(int32_t){3}, 1, row), SALF_E_CALLBACK,
                "rows 3 ... 3 returned 42");
    CHECK_FAILS(slf_matrix_block(&model->head, 2, 1, row, &block), SALF_E_CALLBACK, "rows 2 ... 2");
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

START_TEST(block_rows_fit_the_workspace) {
    for (uint64_t limit = 1; limit < (uint64_t)1 << 40; limit = limit * 3 + 1) {
        salf_context_options options;
        salf_options_init(&options, sizeof options);
        options.backend = SALF_BACKEND_REFERENCE;
        options.workspace_limit = limit;
        salf_context *context;
        CHECK_OK(salf_context_create(&context, &options));
        for (int64_t cols = 1; cols < 100000; cols *= 7) {
            const int64_t rows = slf_block_rows(context, cols);
            ck_assert(rows >= 1 && rows <= INT32_MAX);
            ck_assert(rows == 1 || (uint64_t)rows * (uint64_t)cols * 4 <= limit);
        }
        salf_context_destroy(context);
    }
}
END_TEST

/* ---- memory ---- */

static salf_status create_body(harness_memory *memory, int32_t backend, void *user) {
    salf_context *context;
    salf_model *model = NULL;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    salf_model_options o = description(user);
    o.head = (salf_tensor){0};
    o.head_rows = count_rows;
    o.head_rows_user = user;
    o.norm_weight = o.norm_bias = oracle_view(user, SALF_F32, 1, D);
    o.logit_bias = oracle_view(user, SALF_F32, 1, V);
    status = salf_model_create(&model, context, &o);
    uint64_t fingerprint;
    if (status == SALF_OK) status = salf_model_fingerprint(model, &fingerprint);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_allocation_can_fail) {
    float w[V * D];
    fill_head(w);
    harness_fail_each_allocation(create_body, SALF_BACKEND_CPU, w);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, bad_descriptions_are_refused);
    HARNESS_ADD(suite, options_of_other_versions);
    HARNESS_ADD(suite, description_is_told_back);
    HARNESS_ADD(suite, rows_are_the_same_in_every_form);
    HARNESS_ADD(suite, fingerprint_depends_on_values_alone);
    HARNESS_ADD(suite, fingerprint_of_a_head_that_is_not_finite);
    HARNESS_ADD(suite, fingerprint_sees_every_change);
    HARNESS_ADD(suite, failing_callback);
    HARNESS_ADD(suite, block_rows_fit_the_workspace);
    HARNESS_ADD(suite, each_allocation_can_fail);
}
