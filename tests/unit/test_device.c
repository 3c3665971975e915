/*
 * test_device.c - what libsalf asks of a device backend: everything of a batch stays in the stream, no state is copied
 * to the host, nothing is allocated after the first batch, and each call that fails is reported and cleaned up.
 *
 * The device is the recording plugin of tests/plugin, which computes as the reference backend does.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "oracle.h"
#include "plugin/recording.h"

enum { V = 23, D = 6, M = 3, S = M + 1, R = 5 };

static const int32_t labels[R] = {3, 11, 3, 0, 22}, other_labels[R] = {11, 0, 22, 3, 3},
                     candidates[] = {0, 3, 9, 11, 22};

static const char *plugin_path(void) {
    static char path[4200];
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(length, 0);
    self[length] = 0;
    *strrchr(self, '/') = 0;
    snprintf(path, sizeof path, "%s/../plugin/recording_plugin.so", self);
    return path;
}

/* The plugin's notes; the plugin stays loaded. */
static recording *notes(void) {
    static recording *found;
    if (found) return found;
    void *handle = dlopen(plugin_path(), RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(handle != NULL, "%s", dlerror());
    union {
        void *symbol;
        recording_fn function;
    } entry = {.symbol = dlsym(handle, RECORDING_SYMBOL)};
    ck_assert_ptr_nonnull(entry.symbol);
    found = entry.function();
    return found;
}

/* What a probe is made with. */
typedef struct {
    int32_t metric, scores, prepare, candidates, callback;
} form;

static const form forms[] = {{SALF_METRIC_COSINE, 0, 0, 0, 0},
                             {SALF_METRIC_CE, 0, 0, 0, 0},
                             {SALF_METRIC_RANK, 0, 0, 0, 0},
                             {SALF_METRIC_CE, 0, SALF_PREPARE_TABLE, 0, 0},
                             {SALF_METRIC_RANK, 0, 0, 1, 0},
                             {SALF_METRIC_CE, SALF_SCORE_LOGITS, 0, 0, 0},
                             {SALF_METRIC_RANK, SALF_SCORE_LOGITS, 0, 1, 0},
                             /* a head that only a callback yields: rows of the labels are fetched */
                             {SALF_METRIC_CE, SALF_SCORE_LOGITS, 0, 0, 1}};
enum { FORMS = sizeof forms / sizeof *forms };

typedef struct {
    float head[V * D], states[S * R * D], bias[V], norm[D];
} inputs;

static void make_numbers(inputs *n) {
    uint64_t seed = 5;
    for (int i = 0; i < V * D; i++) n->head[i] = (float)harness_normal(&seed);
    for (int i = 0; i < S * R * D; i++) n->states[i] = (float)harness_normal(&seed);
    for (int i = 0; i < V; i++) n->bias[i] = (float)harness_normal(&seed);
    for (int i = 0; i < D; i++) n->norm[i] = 1 + 0.1f * (float)i;
}

static int32_t yield_rows(void *user, int64_t first, int64_t count, float *out) {
    memcpy(out, (const float *)user + first * D, (size_t)(count * D) * sizeof *out);
    return 0;
}

/* A probe on a device or, as its oracle, on the reference backend. */
typedef struct {
    inputs n;
    bool device;
    float *head, *states; /* on the device, or those of n */
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    salf_loss *loss;
} world;

static float *placed(const world *x, float *numbers, size_t bytes) {
    if (!x->device) return numbers;
    float *memory = notes()->alloc(bytes);
    ck_assert_ptr_nonnull(memory);
    memcpy(memory, numbers, bytes);
    return memory;
}

static salf_tensor view_of(const world *x, float *data, int64_t rows, int64_t cols) {
    salf_tensor view = oracle_view(data, SALF_F32, rows, cols);
    view.memory = x->device ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
    return view;
}

static salf_status make_model(world *x, const form *f) {
    salf_model_options o;
    salf_options_init(&o, sizeof o);
    o.n_layers = M;
    o.hidden = D;
    o.vocab = V;
    if (f->callback)
        o.head_rows = yield_rows, o.head_rows_user = x->n.head;
    else
        o.head = view_of(x, x->head, V, D);
    o.norm_kind = SALF_NORM_RMS;
    o.norm_weight = oracle_view(x->n.norm, SALF_F32, 1, D);
    o.logit_bias = oracle_view(x->n.bias, SALF_F32, 1, V);
    return salf_model_create(&x->model, x->context, &o);
}

static salf_status make_probe(world *x, const form *f) {
    salf_basis_options b;
    salf_probe_options p;
    salf_options_init(&b, sizeof b);
    salf_options_init(&p, sizeof p);
    b.prepare = f->prepare;
    const salf_status status = salf_basis_create(&x->basis, x->model, labels, R, &b);
    if (status != SALF_OK) return status;
    p.metric = f->metric;
    p.scores = f->scores;
    p.candidates = f->candidates ? candidates : NULL;
    p.n_candidates = f->candidates ? 5 : 0;
    return salf_probe_create(&x->probe, x->basis, &p);
}

static salf_status make_loss(world *x, const form *f) {
    salf_loss_options o;
    salf_options_init(&o, sizeof o);
    o.kind = f->metric == SALF_METRIC_COSINE ? SALF_LOSS_COSINE : SALF_LOSS_CE;
    o.candidates = f->candidates ? candidates : NULL;
    o.n_candidates = f->candidates ? 5 : 0;
    return salf_loss_create(&x->loss, x->basis, &o);
}

static salf_status open_world(world *x, const form *f, bool device) {
    memset(x, 0, sizeof *x);
    make_numbers(&x->n);
    x->device = device;
    x->head = placed(x, x->n.head, sizeof x->n.head);
    x->states = placed(x, x->n.states, sizeof x->n.states);
    const salf_context_options o = {.struct_size = sizeof o,
                                    .backend = device ? SALF_BACKEND_CUDA : SALF_BACKEND_REFERENCE,
                                    .plugin_path = plugin_path()};
    salf_status status = salf_context_create(&x->context, &o);
    if (status == SALF_OK) status = make_model(x, f);
    if (status == SALF_OK) status = make_probe(x, f);
    if (status == SALF_OK) status = make_loss(x, f);
    return status;
}

static void close_world(world *x) {
    salf_loss_destroy(x->loss);
    salf_probe_destroy(x->probe);
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    if (!x->device) return;
    notes()->free(x->head);
    notes()->free(x->states);
}

static salf_status observe_all(world *x) {
    salf_status status = SALF_OK;
    for (int32_t space = 0; space < S && status == SALF_OK; space++) {
        const salf_tensor view = view_of(x, x->states + space * R * D, R, D);
        status = salf_probe_observe(x->probe, space, &view, SALF_STATE_RAW);
    }
    return status == SALF_OK ? salf_probe_flush(x->probe) : status;
}

static salf_status run_batch(world *x, const int32_t *batch, salf_trace *trace) {
    salf_status status = salf_probe_begin(x->probe, batch, R);
    if (status == SALF_OK) status = observe_all(x);
    return status == SALF_OK ? salf_probe_end(x->probe, trace) : status;
}

static void check_trace(const salf_trace *trace, const salf_trace *expected) {
    ck_assert_int_eq(trace->rows, R);
    for (int i = 0; i < R * S; i++)
        ck_assert_msg(fabs(trace->deviations[i] - expected->deviations[i]) <= 1e-15, "deviation %d: %.17g, not %.17g",
                      i, trace->deviations[i], expected->deviations[i]);
    for (int i = 0; i < R; i++) ck_assert_int_eq(trace->eof[i], expected->eof[i]);
}

static int64_t count_of(const char *slot) {
    int64_t count = 0;
    for (int64_t k = 0; k < notes()->n_calls && k < RECORDING_MOST; k++)
        count += strcmp(notes()->calls[k].slot, slot) == 0;
    return count;
}

static uint64_t copied(int32_t to, int32_t from) {
    uint64_t bytes = 0;
    for (int64_t k = 0; k < notes()->n_calls && k < RECORDING_MOST; k++)
        if (strcmp(notes()->calls[k].slot, "copy") == 0 && notes()->calls[k].to == to && notes()->calls[k].from == from)
            bytes += notes()->calls[k].bytes;
    return bytes;
}

static void check_no_memory_and_no_wait(void) {
    static const char *const slots[] = {"sync", "wait", "alloc", "free", "first_mark"};
    for (size_t k = 0; k < sizeof slots / sizeof *slots; k++)
        ck_assert_msg(count_of(slots[k]) == 0, "%s was called %lld times", slots[k], (long long)count_of(slots[k]));
}

START_TEST(a_batch_stays_in_the_stream) {
    for (int f = 0; f < FORMS; f++) {
        world x, oracle;
        salf_trace trace, expected;
        int32_t ready = 5;
        notes()->fail_at = -1;
        CHECK_OK(open_world(&x, &forms[f], true));
        CHECK_OK(open_world(&oracle, &forms[f], false));
        for (int batch = 0; batch < 3; batch++) {
            const int32_t *l = batch == 1 ? other_labels : labels;
            CHECK_OK(run_batch(&oracle, l, &expected));
            notes()->n_calls = 0;
            notes()->not_ready = 1;
            CHECK_OK(salf_probe_begin(x.probe, l, R));
            CHECK_OK(observe_all(&x));
            if (batch > 0 && !forms[f].callback) check_no_memory_and_no_wait();
            const uint64_t results = S * R * sizeof(double);
            ck_assert_uint_le(copied(SALF_MEMORY_HOST, SALF_MEMORY_DEVICE), 3 * results);
            const bool cosine = forms[f].metric == SALF_METRIC_COSINE; /* the others ask for rows by space and row */
            if (!forms[f].callback)
                ck_assert_uint_eq(copied(SALF_MEMORY_DEVICE, SALF_MEMORY_HOST), (cosine ? R : S * R) * sizeof(int32_t));
            ck_assert_int_eq(count_of("score"), cosine ? 0 : 1); /* one walk for all spaces */
            CHECK_OK(salf_probe_poll(x.probe, &ready));
            ck_assert_int_eq(ready, 0);
            CHECK_OK(salf_probe_poll(x.probe, &ready));
            ck_assert_int_eq(ready, 1);
            notes()->n_calls = 0;
            CHECK_OK(salf_probe_end(x.probe, &trace));
            ck_assert_int_eq(notes()->n_calls, 1); /* one wait, for this batch's event */
            ck_assert_int_eq(count_of("wait"), 1);
            check_trace(&trace, &expected);
        }
        ck_assert_int_eq(notes()->misplaced, 0);
        close_world(&x);
        close_world(&oracle);
        ck_assert_int_eq(notes()->alive, 0);
    }
}
END_TEST

START_TEST(a_dropped_batch_is_waited_for) {
    world x, oracle;
    salf_trace trace, expected;
    notes()->fail_at = -1;
    CHECK_OK(open_world(&x, &forms[0], true));
    CHECK_OK(open_world(&oracle, &forms[0], false));
    CHECK_OK(salf_probe_begin(x.probe, labels, R));
    notes()->n_calls = 0;
    CHECK_OK(run_batch(&x, other_labels, &trace));
    ck_assert_int_eq(count_of("sync"), 1);
    CHECK_OK(run_batch(&oracle, other_labels, &expected));
    check_trace(&trace, &expected);
    close_world(&x);
    close_world(&oracle);
}
END_TEST

/* States on the host are handed to the backend as what they are. */
/* A head in a device's memory is for contexts of that device: another would read addresses that are none of its own. */
START_TEST(a_model_of_another_device_is_refused) {
    world x;
    salf_context *host = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_basis_builder *builder;
    salf_basis *basis;
    char path[] = "/tmp/salf-device-XXXXXX";
    ck_assert_int_ge(mkstemp(path), 0);
    CHECK_OK(open_world(&x, &forms[0], true));
    CHECK_OK(salf_basis_save(x.basis, path));
    CHECK_FAILS(salf_basis_load(&basis, host, path, x.model), SALF_E_ARGUMENT, "memory of its own context's device");
    CHECK_OK(salf_basis_builder_create(&builder, host, V, D, labels, R, NULL));
    const salf_tensor head = oracle_view(x.n.head, SALF_F32, V, D);
    CHECK_OK(salf_basis_builder_add(builder, 0, &head));
    CHECK_FAILS(salf_basis_builder_finish(&basis, builder, x.model), SALF_E_ARGUMENT, "backend reference");
    CHECK_OK(salf_basis_builder_finish(&basis, builder, NULL));
    salf_basis_destroy(basis);
    salf_basis_builder_destroy(builder);
    CHECK_OK(salf_basis_load(&basis, x.context, path, x.model));
    salf_basis_destroy(basis);
    close_world(&x);
    salf_context_destroy(host);
    unlink(path);
}
END_TEST

START_TEST(host_states_may_be_mixed_in) {
    world x, oracle;
    salf_trace trace, expected;
    notes()->fail_at = -1;
    CHECK_OK(open_world(&x, &forms[1], true));
    CHECK_OK(open_world(&oracle, &forms[1], false));
    CHECK_OK(run_batch(&oracle, labels, &expected));
    CHECK_OK(salf_probe_begin(x.probe, labels, R));
    for (int32_t space = 0; space < S; space++) {
        float *data = (space % 2 ? x.states : x.n.states) + space * R * D;
        salf_tensor view = oracle_view(data, SALF_F32, R, D);
        view.memory = space % 2 ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
        CHECK_OK(salf_probe_observe(x.probe, space, &view, SALF_STATE_RAW));
    }
    CHECK_OK(salf_probe_end(x.probe, &trace));
    check_trace(&trace, &expected);
    ck_assert_int_eq(notes()->misplaced, 0);
    close_world(&x);
    close_world(&oracle);
}
END_TEST

/* ---- failing calls ---- */

static salf_status compute_loss(world *x, float *losses, float *gradient) {
    const salf_tensor states = view_of(x, x->states, R, D), to = view_of(x, losses, R, 1),
                      g = view_of(x, gradient, R, D);
    return salf_loss_compute(x->loss, labels, &states, 0.5, &to, &g);
}

static salf_status whole_life(const form *f) {
    world x;
    salf_trace trace;
    float numbers[R + R * D];
    salf_status status = open_world(&x, f, true);
    float *memory = placed(&x, numbers, sizeof numbers);
    if (status == SALF_OK) status = run_batch(&x, labels, &trace);
    if (status == SALF_OK) status = compute_loss(&x, memory, memory + R);
    close_world(&x);
    notes()->free(memory);
    return status;
}

static bool returns_nothing(const char *slot) {
    return strcmp(slot, "free") == 0;
}

START_TEST(every_call_may_fail) {
    for (int f = 0; f < FORMS; f++) {
        int64_t failed = 0;
        for (int64_t k = 0;; k++) {
            notes()->n_calls = 0;
            notes()->fail_at = k;
            const salf_status status = whole_life(&forms[f]);
            ck_assert_msg(notes()->alive == 0, "form %d, call %lld (%s): %lld leak", f, (long long)k,
                          notes()->calls[k].slot, (long long)notes()->alive);
            if (notes()->n_calls <= k) {
                CHECK_OK(status);
                break;
            }
            if (returns_nothing(notes()->calls[k].slot)) continue;
            ck_assert_msg(status == SALF_E_DEVICE, "form %d, call %lld (%s): %s", f, (long long)k,
                          notes()->calls[k].slot, salf_status_name(status));
            ck_assert_msg(harness_contains(salf_last_error(), "is of paper"), "%s", salf_last_error());
            failed++;
        }
        ck_assert_int_gt(failed, 20);
        ck_assert_int_eq(notes()->misplaced, 0);
    }
    notes()->fail_at = -1;
}
END_TEST

START_TEST(a_probe_serves_on_after_a_failure) {
    for (int f = 0; f < FORMS; f++) {
        world x, oracle;
        salf_trace trace, expected;
        notes()->fail_at = -1;
        CHECK_OK(open_world(&x, &forms[f], true));
        CHECK_OK(open_world(&oracle, &forms[f], false));
        CHECK_OK(run_batch(&oracle, other_labels, &expected));
        for (int64_t k = 0;; k++) {
            notes()->n_calls = 0;
            notes()->fail_at = k;
            const salf_status status = run_batch(&x, labels, &trace);
            const bool reached = notes()->n_calls > k;
            notes()->fail_at = -1;
            CHECK_OK(run_batch(&x, other_labels, &trace));
            check_trace(&trace, &expected);
            if (!reached) break;
            ck_assert_msg(status == SALF_E_DEVICE || returns_nothing(notes()->calls[k].slot), "call %lld",
                          (long long)k);
        }
        close_world(&x);
        close_world(&oracle);
    }
}
END_TEST

/* ---- graphs ---- */

static void capture_batch(world *x) {
    notes()->n_captured = 0;
    notes()->capturing = 1;
    CHECK_OK(salf_probe_begin(x->probe, labels, R));
    notes()->n_captured = 0; /* begin is not part of the graph */
    CHECK_OK(observe_all(x));
    notes()->capturing = 0;
    CHECK_FAILS(salf_probe_replay(x->probe), SALF_E_SEQUENCE, "no batch has just begun");
    salf_trace ignored;
    CHECK_OK(salf_probe_end(x->probe, &ignored));
}

START_TEST(a_captured_batch_is_replayed) {
    world x, oracle;
    salf_trace trace, expected;
    notes()->fail_at = -1;
    CHECK_OK(open_world(&x, &forms[0], true));
    CHECK_OK(open_world(&oracle, &forms[0], false));
    CHECK_FAILS(salf_probe_replay(x.probe), SALF_E_SEQUENCE, "no batch has just begun");
    CHECK_OK(salf_probe_begin(x.probe, labels, R));
    CHECK_FAILS(salf_probe_replay(x.probe), SALF_E_SEQUENCE, "flushed before");
    CHECK_OK(run_batch(&x, labels, &trace));
    capture_batch(&x);
    for (int k = 0; k < 3; k++) { /* new states in the same place, new labels */
        for (int i = 0; i < S * R * D; i++)
            x.states[i] = oracle.n.states[i] = oracle.n.states[i] * 0.5f + (float)(i % 3);
        const int32_t *l = k == 1 ? labels : other_labels;
        CHECK_OK(run_batch(&oracle, l, &expected));
        CHECK_OK(salf_probe_begin(x.probe, l, R));
        notes()->replay();
        CHECK_OK(salf_probe_replay(x.probe));
        CHECK_FAILS(salf_probe_replay(x.probe), SALF_E_SEQUENCE, "just begun");
        CHECK_OK(salf_probe_end(x.probe, &trace));
        check_trace(&trace, &expected);
    }
    close_world(&x);
    close_world(&oracle);
}
END_TEST

START_TEST(a_replay_that_would_miss_is_refused) {
    world x, oracle;
    const int32_t more[2 * R] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 3}, strangers[R] = {7, 8, 7, 8, 7};
    notes()->fail_at = -1;
    CHECK_OK(open_world(&x, &forms[0], true));
    capture_batch(&x);
    CHECK_OK(salf_probe_begin(x.probe, labels, R - 1));
    CHECK_FAILS(salf_probe_replay(x.probe), SALF_E_SEQUENCE, "4 rows, but 5 were captured");
    CHECK_OK(salf_probe_begin(x.probe, strangers, R));
    CHECK_FAILS(salf_probe_replay(x.probe), SALF_E_SEQUENCE, "capture again");
    CHECK_OK(salf_probe_begin(x.probe, more, 2 * R));
    CHECK_OK(salf_probe_begin(x.probe, labels, R));
    CHECK_FAILS(salf_probe_replay(x.probe), SALF_E_SEQUENCE, "capture again");
    close_world(&x);
    CHECK_OK(open_world(&oracle, &forms[0], false));
    CHECK_OK(salf_probe_begin(oracle.probe, labels, R));
    CHECK_FAILS(salf_probe_replay(oracle.probe), SALF_E_UNSUPPORTED, "reference backend has no graphs");
    CHECK_FAILS(salf_probe_replay(NULL), SALF_E_NULL, "probe");
    close_world(&oracle);
}
END_TEST

/* ---- losses ---- */

static void check_loss_calls(const form *f) {
    world x, oracle;
    float expected[R + R * D] = {0}, numbers[R + R * D] = {0};
    notes()->fail_at = -1;
    CHECK_OK(open_world(&x, f, true));
    CHECK_OK(open_world(&oracle, f, false));
    float *memory = placed(&x, numbers, sizeof numbers);
    for (int call = 0; call < 9; call++) { /* more than there are slots for labels */
        memset(memory, 0, sizeof numbers);
        notes()->n_calls = 0;
        CHECK_OK(compute_loss(&x, memory, memory + R));
        CHECK_OK(compute_loss(&oracle, expected, expected + R));
        if (call > 0) {
            ck_assert_int_eq(count_of("wait"), 1); /* for the labels of some calls ago */
            ck_assert_int_eq(count_of("sync") + count_of("alloc") + count_of("free"), 0);
            ck_assert_int_eq(count_of("first_mark"), call < 4); /* as many as there are slots for labels */
        }
        ck_assert_uint_eq(copied(SALF_MEMORY_HOST, SALF_MEMORY_DEVICE), 0);
        for (int i = 0; i < R + R * D; i++) ck_assert(fabsf(memory[i] - expected[i]) <= 1e-6f);
    }
    for (int i = 0; i < D; i++) x.states[2 * D + i] = 0;
    x.states[D] = NAN;
    CHECK_OK(compute_loss(&x, memory, memory + R)); /* no one waits to see them */
    ck_assert(isnan(memory[1]) && isnan(memory[2]) && !isnan(memory[0]));
    for (int i = 0; i < 2 * D; i++) ck_assert(memory[R + D + i] == 0);
    ck_assert_int_eq(notes()->misplaced, 0);
    close_world(&x);
    close_world(&oracle);
    notes()->free(memory);
}

START_TEST(losses_stay_in_the_stream) {
    check_loss_calls(&forms[0]);
    check_loss_calls(&forms[1]);
    check_loss_calls(&forms[3]);
    check_loss_calls(&forms[4]);
}
END_TEST

/* Losses wanted on the host are waited for; a device vector has to be in one piece. */
START_TEST(losses_may_go_to_the_host) {
    world x;
    float losses[R] = {0};
    notes()->fail_at = -1;
    CHECK_OK(open_world(&x, &forms[0], true));
    const salf_tensor states = view_of(&x, x.states, R, D), here = oracle_view(losses, SALF_F32, R, 1);
    notes()->n_calls = 0;
    CHECK_OK(salf_loss_compute(x.loss, labels, &states, 1, &here, NULL));
    ck_assert_int_eq(count_of("sync"), 1);
    for (int r = 0; r < R; r++) ck_assert(losses[r] > 0 && losses[r] < 2);
    salf_tensor apart = view_of(&x, x.states, R, 1);
    apart.row_stride = 2;
    CHECK_FAILS(salf_loss_compute(x.loss, labels, &states, 1, &apart, NULL), SALF_E_ARGUMENT, "one piece");
    apart.row_stride = -1; /* in one piece, and the other way round */
    CHECK_FAILS(salf_loss_compute(x.loss, labels, &states, 1, &apart, NULL), SALF_E_ARGUMENT, "one piece");
    const int64_t index[R] = {0, 1, 2, 3, 4};
    apart.row_stride = 0;
    apart.row_index = index;
    CHECK_FAILS(salf_loss_compute(x.loss, labels, &states, 1, &apart, NULL), SALF_E_ARGUMENT, "one piece");
    close_world(&x);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, a_batch_stays_in_the_stream);
    HARNESS_ADD(suite, a_dropped_batch_is_waited_for);
    HARNESS_ADD(suite, a_model_of_another_device_is_refused);
    HARNESS_ADD(suite, host_states_may_be_mixed_in);
    HARNESS_ADD(suite, every_call_may_fail);
    HARNESS_ADD(suite, a_probe_serves_on_after_a_failure);
    HARNESS_ADD(suite, a_captured_batch_is_replayed);
    HARNESS_ADD(suite, a_replay_that_would_miss_is_refused);
    HARNESS_ADD(suite, losses_stay_in_the_stream);
    HARNESS_ADD(suite, losses_may_go_to_the_host);
}
