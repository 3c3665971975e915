/* Basis files: what is saved comes back, with and without a model; damaged files are refused with a status that says
 * why. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { V = 30, D = 8, M = 2 };

static const int32_t labels[] = {2, 11, 29};

typedef struct {
    float w[V * D];
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
} world;

static world *make_world(int32_t side, int32_t prepare) {
    world *x = calloc(1, sizeof *x);
    oracle_head(x->w, V, D, 5, 31);
    x->context = harness_context(SALF_BACKEND_CPU, NULL);
    x->model = oracle_model(x->context, x->w, V, D, M);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.side = side;
    options.prepare = prepare;
    options.rtol = 0.25;
    CHECK_OK(salf_basis_create(&x->basis, x->model, labels, 3, &options));
    return x;
}

static void drop_world(world *x) {
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    free(x);
}

static void same_rows(const salf_basis *a, const salf_basis *b, const int32_t *which, int64_t n) {
    double rows[2][3 * D] = {{0}};
    const salf_tensor out_a = oracle_view(rows[0], SALF_F64, n, D), out_b = oracle_view(rows[1], SALF_F64, n, D);
    CHECK_OK(salf_basis_rows(a, which, n, &out_a));
    CHECK_OK(salf_basis_rows(b, which, n, &out_b));
    ck_assert_mem_eq(rows[0], rows[1], (size_t)(n * D) * sizeof(double));
}

static void same_info(const salf_basis *a, const salf_basis *b) {
    salf_basis_info x = {.struct_size = sizeof x}, y = {.struct_size = sizeof y};
    CHECK_OK(salf_basis_get_info(a, &x));
    CHECK_OK(salf_basis_get_info(b, &y));
    ck_assert(x.mode == y.mode && x.side == y.side && x.method == y.method && x.hidden == y.hidden &&
              x.vocab == y.vocab);
    ck_assert(x.n_labels == y.n_labels && x.rank == y.rank && x.rtol == y.rtol && x.ridge == y.ridge);
    ck_assert(x.sigma_max == y.sigma_max && x.sigma_min == y.sigma_min && x.condition == y.condition);
    ck_assert(x.fingerprint == y.fingerprint && x.has_norms == y.has_norms && x.has_table == y.has_table);
}

/* Deviations by ce over the whole vocabulary of one state. */
static salf_status deviate(salf_basis *basis, double *out) {
    const float h[D] = {1, 2, -1, 0.5f, 3, 1, -2, 1};
    const salf_tensor states = oracle_view(h, SALF_F32, 1, D);
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = M;
    options.metric = SALF_METRIC_CE;
    options.lens = SALF_LENS_RAW;
    salf_probe *probe;
    salf_trace trace;
    const salf_status status = salf_probe_create(&probe, basis, &options);
    if (status != SALF_OK) return status;
    CHECK_OK(salf_probe_begin(probe, labels, 1));
    for (int32_t k = 0; k <= M; k++) CHECK_OK(salf_probe_observe(probe, k, &states, SALF_STATE_RAW));
    CHECK_OK(salf_probe_end(probe, &trace));
    *out = trace.deviations[1];
    salf_probe_destroy(probe);
    return status;
}

START_TEST(saved_and_loaded_is_the_same) {
    for (int32_t side = 0; side <= SALF_SIDE_INPUT; side++)
        for (int32_t prepare = 0; prepare <= SALF_PREPARE_TABLE; prepare++) {
            world *x = make_world(side, prepare);
            salf_basis *with, *without;
            double direct, loaded;
            const int32_t unheld = 5;
            float row[D];
            const salf_tensor out = oracle_view(row, SALF_F32, 1, D);
            CHECK_OK(salf_basis_save(x->basis, harness_path("basis.safetensors")));
            CHECK_OK(salf_basis_load(&with, x->context, harness_path("basis.safetensors"), x->model));
            CHECK_OK(salf_basis_load(&without, x->context, harness_path("basis.safetensors"), NULL));
            same_info(x->basis, with);
            same_info(x->basis, without);
            same_rows(x->basis, with, labels, 3);
            same_rows(x->basis, without, labels, 3);
            same_rows(x->basis, with, &unheld, 1);
            CHECK_OK(deviate(x->basis, &direct));
            CHECK_OK(deviate(with, &loaded));
            ck_assert(direct == loaded);
            if (prepare == SALF_PREPARE_TABLE) {
                CHECK_OK(deviate(without, &loaded));
                ck_assert(direct == loaded);
            } else {
                CHECK_FAILS(deviate(without, &loaded), SALF_E_ARGUMENT, "whole vocabulary");
                CHECK_FAILS(salf_basis_rows(without, &unheld, 1, &out), SALF_E_LABEL, "label 5");
            }
            salf_basis_destroy(with);
            salf_basis_destroy(without);
            drop_world(x);
        }
    /* a single label, and none */
    for (int64_t n = 0; n < 2; n++) {
        world *x = make_world(0, 0);
        salf_basis *few, *loaded;
        CHECK_OK(salf_basis_create(&few, x->model, labels, n, NULL));
        CHECK_OK(salf_basis_save(few, harness_path("basis.safetensors")));
        CHECK_OK(salf_basis_load(&loaded, x->context, harness_path("basis.safetensors"), NULL));
        same_info(few, loaded);
        same_rows(few, loaded, labels, n);
        salf_basis_destroy(few);
        salf_basis_destroy(loaded);
        drop_world(x);
    }
}
END_TEST

START_TEST(refresh_of_a_loaded_basis_keeps_its_options) {
    world *x = make_world(0, SALF_PREPARE_VOCABULARY);
    salf_basis *loaded, *fresh;
    CHECK_OK(salf_basis_save(x->basis, harness_path("basis.safetensors")));
    CHECK_OK(salf_basis_load(&loaded, x->context, harness_path("basis.safetensors"), NULL));
    CHECK_OK(salf_basis_refresh(&fresh, loaded, x->model));
    same_info(x->basis, fresh);
    same_rows(x->basis, fresh, labels, 3);
    salf_basis_destroy(loaded);
    salf_basis_destroy(fresh);
    drop_world(x);
}
END_TEST

START_TEST(another_head_is_stale) {
    world *x = make_world(0, 0);
    salf_basis *loaded;
    CHECK_OK(salf_basis_save(x->basis, harness_path("basis.safetensors")));
    x->w[17] += 1;
    CHECK_FAILS(salf_basis_load(&loaded, x->context, harness_path("basis.safetensors"), x->model), SALF_E_STALE,
                "fingerprint");
    ck_assert_ptr_null(loaded);
    salf_basis_destroy(loaded);
    drop_world(x);
}
END_TEST

START_TEST(paths_that_fail) {
    world *x = make_world(0, 0);
    salf_basis *loaded;
    CHECK_FAILS(salf_basis_load(&loaded, x->context, harness_path("absent"), NULL), SALF_E_NOT_FOUND, "absent");
    CHECK_FAILS(salf_basis_save(x->basis, harness_path("no/such/folder")), SALF_E_IO, "folder");
    CHECK_FAILS(salf_basis_save(x->basis, NULL), SALF_E_NULL, "path");
    CHECK_FAILS(salf_basis_save(NULL, "x"), SALF_E_NULL, "basis");
    drop_world(x);
}
END_TEST

/* ---- damaged files: a good file written anew with one thing changed ---- */

typedef struct {
    salf_named_tensor tensors[8];
    int64_t n;
    const char *pairs[22];
    salf_tensors *source;
} parts;

static const char *const keys[] = {"format", "version", "mode",         "side", "prepare",    "method",
                                   "hidden", "vocab",   "padded_vocab", "rank", "fingerprint"};

static void take_apart(world *x, parts *p) {
    CHECK_OK(salf_basis_save(x->basis, harness_path("good.safetensors")));
    CHECK_OK(salf_tensors_open(&p->source, x->context, harness_path("good.safetensors")));
    p->n = salf_tensors_count(p->source);
    for (int64_t i = 0; i < p->n; i++) CHECK_OK(salf_tensors_at(p->source, i, &p->tensors[i]));
    for (int i = 0; i < 11; i++) {
        p->pairs[2 * i] = keys[i];
        p->pairs[2 * i + 1] = salf_tensors_metadata(p->source, keys[i]);
        ck_assert_ptr_nonnull(p->pairs[2 * i + 1]);
    }
}

static salf_named_tensor *part(parts *p, const char *name) {
    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->tensors[i].name, name) == 0) return &p->tensors[i];
    ck_abort_msg("no tensor %s", name);
    return NULL;
}

static salf_status load_parts(world *x, parts *p) {
    salf_basis *loaded = NULL;
    CHECK_OK(salf_tensors_save(x->context, harness_path("bad.safetensors"), p->tensors, p->n, p->pairs, 11));
    const salf_status status = salf_basis_load(&loaded, x->context, harness_path("bad.safetensors"), NULL);
    ck_assert((loaded != NULL) == (status == SALF_OK));
    salf_basis_destroy(loaded);
    return status;
}

START_TEST(damaged_metadata) {
    static const struct {
        int key;
        const char *value;
        salf_status status;
        const char *words;
    } cases[] = {{0, "gguf", SALF_E_CORRUPT, "gguf"},
                 {1, "2", SALF_E_VERSION, "2"},
                 {1, "x", SALF_E_CORRUPT, "x"},
                 {2, "7", SALF_E_CORRUPT, "mode"},
                 {3, "-1", SALF_E_CORRUPT, "side"},
                 {6, "9", SALF_E_MISMATCH, "rows"},
                 {6, "0", SALF_E_CORRUPT, "hidden"},
                 {7, "11", SALF_E_LABEL, "label 11"},
                 {8, "3", SALF_E_CORRUPT, "padded_vocab"},
                 {9, "9", SALF_E_CORRUPT, "rank"},
                 {10, "123", SALF_E_CORRUPT, "123"},
                 {7, "99999999999999999999", SALF_E_CORRUPT, "vocab"}};
    world *x = make_world(0, 0);
    parts p;
    take_apart(x, &p);
    CHECK_OK(load_parts(x, &p));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *kept = p.pairs[2 * cases[i].key + 1];
        p.pairs[2 * cases[i].key + 1] = cases[i].value;
        CHECK_FAILS(load_parts(x, &p), cases[i].status, cases[i].words);
        p.pairs[2 * cases[i].key + 1] = kept;
    }
    p.pairs[2 * 9] = "renamed";
    CHECK_FAILS(load_parts(x, &p), SALF_E_NOT_FOUND, "rank");
    salf_tensors_destroy(p.source);
    drop_world(x);
}
END_TEST

START_TEST(damaged_tensors) {
    world *x = make_world(0, 0);
    parts p;
    double rows[3 * D], projection[D * D], spectrum[7];
    take_apart(x, &p);
    salf_named_tensor *t = part(&p, "labels"), kept = *t;
    const int32_t unsorted[] = {2, 29, 11}, repeated[] = {2, 2, 11}, negative[] = {-1, 2, 11};
    t->view = oracle_view(unsorted, SALF_I32, 3, 1);
    CHECK_FAILS(load_parts(x, &p), SALF_E_CORRUPT, "29 and 11");
    t->view = oracle_view(repeated, SALF_I32, 3, 1);
    CHECK_FAILS(load_parts(x, &p), SALF_E_CORRUPT, "2 and 2");
    t->view = oracle_view(negative, SALF_I32, 3, 1);
    CHECK_FAILS(load_parts(x, &p), SALF_E_LABEL, "-1");
    *t = kept;
    t->name = "other";
    CHECK_FAILS(load_parts(x, &p), SALF_E_NOT_FOUND, "labels");
    *t = kept;
    t = part(&p, "rows");
    kept = *t;
    memcpy(rows, t->view.data, sizeof rows);
    t->view = oracle_view(rows, SALF_F64, 3, D);
    rows[D + 2] = NAN;
    CHECK_FAILS(load_parts(x, &p), SALF_E_NONFINITE, "row 1");
    memset(rows + D, 0, D * sizeof *rows);
    CHECK_FAILS(load_parts(x, &p), SALF_E_ZERO_ROW, "label 11");
    *t = kept;
    t->view.rows = t->shape[0] = 2;
    CHECK_FAILS(load_parts(x, &p), SALF_E_MISMATCH, "rows");
    *t = kept;
    t = part(&p, "projection");
    kept = *t;
    memcpy(projection, t->view.data, sizeof projection);
    projection[9] = INFINITY;
    t->view = oracle_view(projection, SALF_F64, D, D);
    CHECK_FAILS(load_parts(x, &p), SALF_E_NONFINITE, "projection");
    *t = kept;
    t->name = "proj";
    CHECK_FAILS(load_parts(x, &p), SALF_E_NOT_FOUND, "projection");
    *t = kept;
    t = part(&p, "spectrum");
    memcpy(spectrum, t->view.data, sizeof spectrum);
    spectrum[5] = 2 * spectrum[3];
    t->view = oracle_view(spectrum, SALF_F64, 7, 1);
    CHECK_FAILS(load_parts(x, &p), SALF_E_CORRUPT, "singular");
    salf_tensors_destroy(p.source);
    drop_world(x);
}
END_TEST

static salf_status file_body(harness_memory *memory, int32_t backend, void *user) {
    static const float head[8 * 3] = {1, 0, 2, 0, 3, 1, 1, 1, 1, 2, 0, 1, 4, 1, 0, 0, 1, 5, 1, 3, 2, 2, 2, 1};
    const int32_t *prepare = user, label = 1;
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL, *loaded = NULL;
    salf_model_options shape;
    salf_basis_options options;
    salf_options_init(&shape, sizeof shape);
    salf_options_init(&options, sizeof options);
    shape.n_layers = 1;
    shape.hidden = 3;
    shape.vocab = 8;
    shape.head = oracle_view(head, SALF_F32, 8, 3);
    options.prepare = *prepare;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_model_create(&model, context, &shape);
    if (status == SALF_OK) status = salf_basis_create(&basis, model, &label, 1, &options);
    if (status == SALF_OK) status = salf_basis_save(basis, harness_path("small.safetensors"));
    if (status == SALF_OK) status = salf_basis_load(&loaded, context, harness_path("small.safetensors"), model);
    salf_context_destroy(context);
    salf_model_destroy(model);
    salf_basis_destroy(basis);
    salf_basis_destroy(loaded);
    return status;
}

START_TEST(every_allocation_may_fail) {
    for (int32_t prepare = 0; prepare <= SALF_PREPARE_TABLE; prepare++)
        harness_fail_each_allocation(file_body, SALF_BACKEND_CPU, &prepare);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, saved_and_loaded_is_the_same);
    HARNESS_ADD(suite, refresh_of_a_loaded_basis_keeps_its_options);
    HARNESS_ADD(suite, another_head_is_stale);
    HARNESS_ADD(suite, paths_that_fail);
    HARNESS_ADD(suite, damaged_metadata);
    HARNESS_ADD(suite, damaged_tensors);
    HARNESS_ADD(suite, every_allocation_may_fail);
}
