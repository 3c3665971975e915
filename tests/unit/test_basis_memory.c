/*
 * test_basis_memory.c - memory of the basis, the probe and the losses: making a basis stays within three D x D matrices
 * and the workspace, and batches after the first allocate nothing but what a backend takes and gives back within a
 * call.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"
#include "core/core.h"
#include "harness.h"
#include "oracle.h"

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};

/* A head [v][d] as a view or behind a callback. */
typedef struct {
    const float *w;
    int64_t v, d;
} head;

static int32_t copy_head_rows(void *user, int64_t first, int64_t count, float *out) {
    const head *h = user;
    memcpy(out, h->w + first * h->d, (size_t)(count * h->d) * sizeof *out);
    return 0;
}

static salf_context *limited_context(int32_t backend, uint64_t limit, harness_memory *memory) {
    *memory = (harness_memory){.fail_at = -1};
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = backend;
    options.workspace_limit = limit;
    options.alloc = harness_alloc;
    options.free = harness_free;
    options.alloc_user = memory;
    salf_context *context;
    CHECK_OK(salf_context_create(&context, &options));
    return context;
}

static salf_model *head_model(salf_context *context, head *h, bool callback) {
    salf_model_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = 2;
    options.hidden = h->d;
    options.vocab = h->v;
    if (callback) {
        options.head_rows = copy_head_rows;
        options.head_rows_user = h;
    } else {
        options.head = oracle_view(h->w, SALF_F32, h->v, h->d);
    }
    options.norm_kind = SALF_NORM_RMS;
    salf_model *model;
    CHECK_OK(salf_model_create(&model, context, &options));
    return model;
}

/* ---- making a basis ---- */

enum { V = 4096, D = 256, N_LABELS = 2500 };
static const uint64_t limits[] = {1, 1 << 20, 64 << 10, 0};

/* Bytes at the peak of salf_basis_create, less those of the basis it leaves. */
static int64_t beyond_result(int32_t backend, head *h, bool callback, uint64_t limit, int32_t mode) {
    harness_memory memory;
    salf_context *context = limited_context(backend, limit, &memory);
    salf_model *model = head_model(context, h, callback);
    int32_t labels[N_LABELS];
    for (int32_t i = 0; i < N_LABELS; i++) labels[i] = i * 19 % V;
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = mode;
    options.rtol = mode == SALF_BASIS_RTOL ? 0.5 : 0; /* drops some: by eigenvectors */
    memory.most = memory.bytes;
    salf_basis *basis;
    CHECK_OK(salf_basis_create(&basis, model, labels, N_LABELS, &options));
    const int64_t beyond = memory.most - memory.bytes;
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
    return beyond;
}

static void check_create(int32_t backend, int32_t mode, size_t n_limits) {
    const int64_t slack = (64 << 10) + N_LABELS * 8;
    float *w = malloc((size_t)(V * D) * sizeof *w);
    oracle_head(w, V, D, 3, 5);
    head h = {w, V, D};
    for (int callback = 0; callback < 2; callback++)
        for (size_t l = 0; l < n_limits; l++) {
            const int64_t limit = limits[l] ? (int64_t)limits[l] : 16 << 20;
            const int64_t beyond = beyond_result(backend, &h, callback, limits[l], mode);
            ck_assert_msg(beyond <= 3 * D * D * 8 + limit + slack,
                          "backend %d mode %d callback %d workspace %lld: %lld bytes beyond the result", (int)backend,
                          (int)mode, callback, (long long)limit, (long long)beyond);
        }
    free(w);
}

START_TEST(reference_basis_stays_within_its_bound) {
    check_create(SALF_BACKEND_REFERENCE, SALF_BASIS_EXACT, 2); /* its Jacobi rotations take a while */
}
END_TEST

START_TEST(cpu_basis_stays_within_its_bound) {
    check_create(SALF_BACKEND_CPU, SALF_BASIS_EXACT, 4);
    check_create(SALF_BACKEND_CPU, SALF_BASIS_RTOL, 4);
}
END_TEST

/* ---- what the library allocates, apart from a backend's scratch ---- */

/* The services of a backend and its table, counting. A backend's own scratch passes through services.alloc
 * only; memory that the library takes of the backend passes through both. */
typedef struct {
    slf_services inner;
    slf_backend table;
    int64_t scratch, taken;
    const harness_memory *memory;
} counter;

static counter count;

static void *count_service(const salf_context *context, uint64_t n, uint64_t size) {
    count.scratch++;
    return count.inner.alloc(context, n, size);
}

static salf_status count_taken(void *self, int32_t kind, uint64_t bytes, void **memory) {
    count.taken++;
    return slf_reference_alloc(self, kind, bytes, memory);
}

static void start_counting(salf_context *context, const harness_memory *memory) {
    slf_host *host = context->impl;
    count = (counter){.inner = host->services, .table = *context->backend, .memory = memory};
    count.table.alloc = count_taken;
    host->services.alloc = count_service;
    context->backend = &count.table;
}

static int64_t library_allocations(void) {
    return count.memory->calls - (count.scratch - count.taken);
}

/* ---- batches ---- */

enum { SMALL_V = 60, SMALL_D = 12, LAYERS = 2, ROWS = 7, BATCHES = 4 };
static const int32_t batch_labels[ROWS] = {3, 9, 3, 59, 0, 21, 9};
static const int32_t same_set[ROWS] = {59, 21, 0, 9, 3, 3, 3};

typedef struct {
    float w[SMALL_V * SMALL_D];
    float states[ROWS * SMALL_D];
    head head;
    harness_memory memory;
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
} world;

static world *make_world(int32_t backend, bool callback, bool held, uint64_t limit) {
    world *x = calloc(1, sizeof *x);
    uint64_t seed = 8;
    oracle_head(x->w, SMALL_V, SMALL_D, 4, 5);
    for (int i = 0; i < ROWS * SMALL_D; i++) x->states[i] = (float)harness_normal(&seed);
    x->head = (head){x->w, SMALL_V, SMALL_D};
    x->context = limited_context(backend, limit, &x->memory);
    x->model = head_model(x->context, &x->head, callback);
    CHECK_OK(salf_basis_create(&x->basis, x->model, batch_labels, held ? ROWS : 1, NULL));
    start_counting(x->context, &x->memory);
    return x;
}

static void drop_world(world *x) {
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    ck_assert_int_eq(x->memory.alive, 0);
    free(x);
}

static void probe_batch(salf_probe *probe, const world *x, const int32_t *labels, int64_t rows) {
    const salf_tensor states = oracle_view(x->states, SALF_F32, rows, SMALL_D);
    salf_trace trace;
    CHECK_OK(salf_probe_begin(probe, labels, rows));
    for (int32_t space = 0; space <= LAYERS; space++)
        CHECK_OK(salf_probe_observe(probe, space, &states, SALF_STATE_RAW));
    CHECK_OK(salf_probe_end(probe, &trace));
}

static void check_probe(const world *x, const salf_probe_options *options, bool held, const char *name) {
    salf_probe *probe;
    CHECK_OK(salf_probe_create(&probe, x->basis, options));
    probe_batch(probe, x, batch_labels, ROWS);
    const int64_t before = library_allocations(), alive = x->memory.alive;
    for (int b = 0; b < BATCHES; b++) probe_batch(probe, x, b % 2 ? same_set : batch_labels, ROWS);
    for (int64_t rows = 0; rows < ROWS && held; rows++) probe_batch(probe, x, batch_labels, rows);
    ck_assert_msg(library_allocations() == before, "%s: %lld allocations after the first batch", name,
                  (long long)(library_allocations() - before));
    ck_assert_int_eq(x->memory.alive, alive);
    salf_probe_destroy(probe);
}

/* Every metric, score and candidate list. */
static void check_probes(const world *x, bool held) {
    const int32_t candidates[] = {0, 3, 9, 21, 30, 59};
    for (int32_t metric = 0; oracle_is_metric(metric); metric++)
        for (int32_t scores = SALF_SCORE_BASIS; scores <= SALF_SCORE_LOGITS; scores++)
            for (int restricted = 0; restricted < 2; restricted++) {
                char name[80];
                salf_probe_options options;
                salf_options_init(&options, sizeof options);
                options.metric = metric;
                options.scores = scores;
                options.candidates = restricted ? candidates : NULL;
                options.n_candidates = restricted ? 6 : 0;
                snprintf(name, sizeof name, "metric %d scores %d candidates %d held %d", (int)metric, (int)scores,
                         restricted, (int)held);
                check_probe(x, &options, held, name);
            }
}

START_TEST(probe_batches_after_the_first_allocate_nothing) {
    for (size_t k = 0; k < 2; k++)
        for (int variant = 0; variant < 8; variant++) {
            const bool held = variant & 1;
            world *x = make_world(backends[k], variant & 2, held, variant & 4 ? 1 : 0);
            check_probes(x, held);
            drop_world(x);
        }
}
END_TEST

/* Cosine on the cpu backend takes no scratch either. */
START_TEST(cosine_batches_allocate_nothing_at_all) {
    world *x = make_world(SALF_BACKEND_CPU, false, true, 0);
    salf_probe *probe;
    CHECK_OK(salf_probe_create(&probe, x->basis, NULL));
    probe_batch(probe, x, batch_labels, ROWS);
    const int64_t calls = x->memory.calls;
    for (int b = 0; b < BATCHES; b++) probe_batch(probe, x, batch_labels, ROWS);
    ck_assert_int_eq(x->memory.calls, calls);
    salf_probe_destroy(probe);
    drop_world(x);
}
END_TEST

static void loss_call(salf_loss *loss, const world *x, const int32_t *labels, int64_t rows, float *losses) {
    float gradient[ROWS * SMALL_D];
    const salf_tensor states = oracle_view(x->states, SALF_F32, rows, SMALL_D);
    const salf_tensor out = oracle_view(gradient, SALF_F32, rows, SMALL_D);
    const salf_tensor to = oracle_view(losses, SALF_F32, rows, 1);
    CHECK_OK(salf_loss_compute(loss, labels, &states, 1, &to, &out));
}

/* A short call, a long one, and then as many as one likes; short ones in between give the same. */
static void check_loss(const world *x, const salf_loss_options *options, bool held) {
    float first[ROWS], again[ROWS];
    salf_loss *loss;
    CHECK_OK(salf_loss_create(&loss, x->basis, options));
    loss_call(loss, x, batch_labels, 2, first);
    loss_call(loss, x, batch_labels, ROWS, first);
    const int64_t before = library_allocations(), alive = x->memory.alive;
    for (int b = 0; b < BATCHES; b++) {
        const int64_t rows = held ? ROWS - b : ROWS;
        loss_call(loss, x, batch_labels, rows, again);
        for (int64_t r = 0; r < rows; r++) ck_assert(fabsf(again[r] - first[r]) <= 1e-6F);
    }
    ck_assert_msg(library_allocations() == before, "kind %d candidates %d held %d: %lld allocations",
                  (int)options->kind, (int)options->n_candidates, (int)held,
                  (long long)(library_allocations() - before));
    ck_assert_int_eq(x->memory.alive, alive);
    salf_loss_destroy(loss);
}

START_TEST(loss_calls_after_the_first_allocate_nothing) {
    const int32_t candidates[] = {0, 3, 9, 21, 30, 59};
    for (size_t k = 0; k < 2; k++)
        for (int variant = 0; variant < 16; variant++) {
            const bool held = variant & 1;
            world *x = make_world(backends[k], variant & 2, held, variant & 4 ? 1 : 0);
            salf_loss_options options;
            salf_options_init(&options, sizeof options);
            options.candidates = variant & 8 ? candidates : NULL;
            options.n_candidates = variant & 8 ? 6 : 0;
            for (options.kind = SALF_LOSS_COSINE; options.kind <= SALF_LOSS_CE; options.kind++)
                check_loss(x, &options, held);
            drop_world(x);
        }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, reference_basis_stays_within_its_bound);
    HARNESS_ADD(suite, cpu_basis_stays_within_its_bound);
    HARNESS_ADD(suite, probe_batches_after_the_first_allocate_nothing);
    HARNESS_ADD(suite, cosine_batches_allocate_nothing_at_all);
    HARNESS_ADD(suite, loss_calls_after_the_first_allocate_nothing);
}
