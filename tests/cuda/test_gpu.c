/*
 * test_gpu.c - the GPU backend under the handles: decisions as on the cpu, work that stays in the stream, graphs,
 * threads, small workspaces. On the emulated device also: nothing waits, nothing is allocated, no state is copied.
 */
#include "gpu.h"

#include <math.h>
#include <pthread.h>

typedef struct {
    int32_t metric, scores, prepare;
} form;

static const form forms[] = {{SALF_METRIC_COSINE, 0, 0},
                             {SALF_METRIC_CE, 0, 0},
                             {SALF_METRIC_RANK, 0, 0},
                             {SALF_METRIC_CE, 0, SALF_PREPARE_TABLE},
                             {SALF_METRIC_CE, SALF_SCORE_LOGITS, 0},
                             {SALF_METRIC_RANK, SALF_SCORE_LOGITS, 0}};
enum { FORMS = sizeof forms / sizeof *forms, NUMBERS = GPU_ROWS * GPU_S };

static salf_status make_probe(salf_probe **out, salf_basis *basis, const form *f) {
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.metric = f->metric;
    options.scores = f->scores;
    options.lens = SALF_LENS_RAW;
    return salf_probe_create(out, basis, &options);
}

/* A basis and a probe over it. */
typedef struct {
    salf_context *context;
    salf_basis *basis;
    salf_probe *probe;
} world;

static world make_world(cudaStream_t stream, const gpu_model *m, int32_t memory, const form *f) {
    world w = {0};
    CHECK_OK(gpu_context(&w.context, stream, NULL));
    CHECK_OK(gpu_basis(w.context, m, memory, f->prepare, &w.basis));
    CHECK_OK(make_probe(&w.probe, w.basis, f));
    return w;
}

static void drop_world(world *w) {
    salf_probe_destroy(w->probe);
    salf_basis_destroy(w->basis);
    salf_context_destroy(w->context);
}

/* One batch; its deviations and decisions are copied out. */
static void run_batch(salf_probe *probe, const gpu_model *m, int32_t memory, double *deviations, int32_t *eof) {
    salf_trace trace;
    CHECK_OK(salf_probe_begin(probe, gpu_labels, GPU_ROWS));
    CHECK_OK(gpu_observe(probe, m, memory));
    CHECK_OK(salf_probe_end(probe, &trace));
    memcpy(deviations, trace.deviations, NUMBERS * sizeof *deviations);
    if (eof) memcpy(eof, trace.eof, GPU_ROWS * sizeof *eof);
}

/* ---- decisions ---- */

static void cpu_batch(const gpu_model *m, const form *f, double *deviations, int32_t *eof) {
    salf_context *context = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_CPU;
    CHECK_OK(salf_context_create(&context, &options));
    CHECK_OK(gpu_basis(context, m, SALF_MEMORY_HOST, f->prepare, &basis));
    CHECK_OK(make_probe(&probe, basis, f));
    run_batch(probe, m, SALF_MEMORY_HOST, deviations, eof);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_context_destroy(context);
}

/* Decisions are the same except where two gains tie within what float32 products may be off by. */
static void compare(const form *f, const double *expected, const int32_t *eof, const double *deviations,
                    const int32_t *found) {
    const double off = f->metric == SALF_METRIC_RANK ? 0 : 3e-6;
    for (int i = 0; i < NUMBERS; i++)
        ck_assert_msg(fabs(deviations[i] - expected[i]) <= off, "metric %d, scores %d: [%d] %.17g, expected %.17g",
                      (int)f->metric, (int)f->scores, i, deviations[i], expected[i]);
    for (int r = 0; r < GPU_ROWS; r++) {
        const double *d = expected + r * GPU_S;
        const double here = d[found[r]] - d[found[r] + 1], best = d[eof[r]] - d[eof[r] + 1];
        ck_assert_msg(found[r] == eof[r] || fabs(here - best) <= 2 * off, "row %d: layer %d, expected %d", r,
                      (int)found[r], (int)eof[r]);
    }
}

START_TEST(decisions_are_those_of_the_cpu) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    for (int k = 0; k < FORMS; k++) {
        double expected[NUMBERS], deviations[NUMBERS];
        int32_t eof[GPU_ROWS], found[GPU_ROWS];
        cpu_batch(m, &forms[k], expected, eof);
        for (int side = 0; side < 4; side++) {
            world w = make_world(side & 1 ? stream : NULL, m, side & 1, &forms[k]);
            run_batch(w.probe, m, side >> 1, deviations, found);
            compare(&forms[k], expected, eof, deviations, found);
            drop_world(&w);
        }
    }
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* Bit for bit the same again, also where blocks and threads run in another order. */
START_TEST(results_repeat) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    for (int k = 0; k < FORMS; k++) {
        double first[NUMBERS], again[NUMBERS];
        for (uint64_t turn = 0; turn < 4; turn++) {
#ifdef SLF_EMULATED
            emulator_shuffle(turn * 99 + 1);
#endif
            world w = make_world(NULL, m, SALF_MEMORY_DEVICE, &forms[k]);
            run_batch(w.probe, m, SALF_MEMORY_DEVICE, turn == 0 ? first : again, NULL);
            if (turn > 0) ck_assert_mem_eq(first, again, sizeof first);
            drop_world(&w);
        }
    }
    gpu_model_free(m);
}
END_TEST

/* ---- the stream ---- */

/* After the first batch observe ... flush allocates nothing, waits for nothing and copies nothing but results. */
START_TEST(a_batch_stays_in_the_stream) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    for (int k = 0; k < FORMS; k++) {
        double first[NUMBERS];
        world w = make_world(stream, m, SALF_MEMORY_DEVICE, &forms[k]);
        run_batch(w.probe, m, SALF_MEMORY_DEVICE, first, NULL);
        CHECK_OK(salf_probe_begin(w.probe, gpu_labels, GPU_ROWS));
#ifdef SLF_EMULATED
        emulator_reset_counts();
#endif
        CHECK_OK(gpu_observe(w.probe, m, SALF_MEMORY_DEVICE));
        CHECK_OK(salf_probe_flush(w.probe));
#ifdef SLF_EMULATED
        const emulator_counts counts = emulator_get_counts();
        ck_assert_int_eq(counts.allocations, 0);
        ck_assert_int_eq(counts.waits, 0);
        ck_assert_int_eq(counts.bytes_to_device, 0);
        ck_assert_int_le(counts.bytes_to_host, 4 * NUMBERS * (int64_t)sizeof(double));
        ck_assert_int_gt(counts.launches, 0);
#endif
        int32_t ready = 0;
        int looks = 0;
        for (; !ready && looks < 1000000; looks++) CHECK_OK(salf_probe_poll(w.probe, &ready));
        ck_assert_int_eq(ready, 1);
#ifdef SLF_EMULATED
        ck_assert_int_gt(looks, 1); /* it was not done at once */
#endif
        salf_trace trace;
        CHECK_OK(salf_probe_end(w.probe, &trace));
        ck_assert_mem_eq(first, trace.deviations, sizeof first);
        drop_world(&w);
    }
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* The host may change its states once the stream has passed the batch, not before the batch is done with them. */
START_TEST(states_are_read_in_stream_order) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    double first[NUMBERS], again[NUMBERS];
    world w = make_world(stream, m, SALF_MEMORY_DEVICE, &forms[1]);
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, first, NULL);
    salf_trace trace;
    CHECK_OK(salf_probe_begin(w.probe, gpu_labels, GPU_ROWS));
    CHECK_OK(gpu_observe(w.probe, m, SALF_MEMORY_DEVICE));
    GPU_OK(cudaMemsetAsync(m->device_states, 0, sizeof m->states, stream));
    CHECK_OK(salf_probe_end(w.probe, &trace));
    memcpy(again, trace.deviations, sizeof again);
    ck_assert_mem_eq(first, again, sizeof first);
    drop_world(&w);
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* ---- graphs ---- */

typedef struct {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
} recorded;

static recorded capture_batch(const world *w, const gpu_model *m, cudaStream_t stream) {
    recorded r = {0};
    CHECK_OK(salf_probe_begin(w->probe, gpu_labels, GPU_ROWS));
    GPU_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK_OK(gpu_observe(w->probe, m, SALF_MEMORY_DEVICE));
    CHECK_OK(salf_probe_flush(w->probe));
    GPU_OK(cudaStreamEndCapture(stream, &r.graph));
    GPU_OK(cudaGraphInstantiate(&r.exec, r.graph, 0));
    return r;
}

static void replay(const world *w, const recorded *r, cudaStream_t stream, double *deviations) {
    salf_trace trace;
    CHECK_OK(salf_probe_begin(w->probe, gpu_labels, GPU_ROWS));
    GPU_OK(cudaGraphLaunch(r->exec, stream));
    CHECK_OK(salf_probe_replay(w->probe));
    CHECK_OK(salf_probe_end(w->probe, &trace));
    memcpy(deviations, trace.deviations, NUMBERS * sizeof *deviations);
}

static void check_graph(const gpu_model *m, cudaStream_t stream, const form *f) {
    double first[NUMBERS], again[NUMBERS], other[NUMBERS];
    world w = make_world(stream, m, SALF_MEMORY_DEVICE, f);
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, first, NULL);
    const recorded r = capture_batch(&w, m, stream);
    for (int k = 0; k < 2; k++) {
        memset(again, 0, sizeof again);
        replay(&w, &r, stream, again);
        ck_assert_mem_eq(first, again, sizeof first);
    }
    /* the graph reads the states that are there when it runs */
    GPU_OK(cudaMemcpy(m->device_states, m->states + GPU_ROWS * GPU_D, sizeof(float) * GPU_ROWS * GPU_D,
                      cudaMemcpyHostToDevice));
    GPU_OK(cudaDeviceSynchronize());
    replay(&w, &r, stream, again);
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, other, NULL);
    ck_assert_mem_eq(other, again, sizeof other);
    ck_assert(memcmp(first, again, sizeof first) != 0);
    GPU_OK(cudaMemcpy(m->device_states, m->states, sizeof(float) * GPU_ROWS * GPU_D, cudaMemcpyHostToDevice));
    GPU_OK(cudaDeviceSynchronize());
    GPU_OK(cudaGraphExecDestroy(r.exec));
    GPU_OK(cudaGraphDestroy(r.graph));
    drop_world(&w);
}

START_TEST(a_batch_can_be_captured) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    for (int k = 0; k < FORMS; k++) check_graph(m, stream, &forms[k]);
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* A loss of a larger shape makes the context's scratch grow; the graph keeps what it was captured with. */
START_TEST(a_graph_outlives_larger_scratch) {
    if (!gpu_there()) return;
    enum { MORE = 500 };
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    double first[NUMBERS], again[NUMBERS];
    world w = make_world(stream, m, SALF_MEMORY_DEVICE, &forms[1]);
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, first, NULL);
    const recorded r = capture_batch(&w, m, stream);
    salf_loss *loss = NULL;
    salf_loss_options options;
    salf_options_init(&options, sizeof options);
    options.kind = SALF_LOSS_CE;
    CHECK_OK(salf_loss_create(&loss, w.basis, &options));
    float *h = calloc(MORE * GPU_D, sizeof *h), *losses = calloc(MORE, sizeof *losses);
    int32_t *labels = calloc(MORE, sizeof *labels);
    for (int i = 0; i < MORE * GPU_D; i++) h[i] = (float)(i % 7 - 3) + 0.5f;
    const salf_tensor states = gpu_view(h, MORE, GPU_D, SALF_MEMORY_HOST);
    const salf_tensor out = gpu_view(losses, MORE, 1, SALF_MEMORY_HOST);
    CHECK_OK(salf_loss_compute(loss, labels, &states, 1, &out, NULL));
    replay(&w, &r, stream, again);
    ck_assert_mem_eq(first, again, sizeof first);
    free(h), free(losses), free(labels);
    GPU_OK(cudaGraphExecDestroy(r.exec));
    GPU_OK(cudaGraphDestroy(r.graph));
    salf_loss_destroy(loss);
    drop_world(&w);
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* Memory of the host, and shapes that have not run before, are refused with a word on what to do. */
START_TEST(what_cannot_be_captured_is_refused) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    world w = make_world(stream, m, SALF_MEMORY_DEVICE, &forms[1]);
    cudaGraph_t graph = NULL;
    const salf_tensor host = gpu_view(m->states, GPU_ROWS, GPU_D, SALF_MEMORY_HOST);
    const salf_tensor device = gpu_view(m->device_states, GPU_ROWS, GPU_D, SALF_MEMORY_DEVICE);
    CHECK_OK(salf_probe_begin(w.probe, gpu_labels, GPU_ROWS));
    GPU_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK_FAILS(salf_probe_observe(w.probe, 0, &host, SALF_STATE_RAW), SALF_E_UNSUPPORTED, "rows in host memory");
    for (int32_t space = 0; space < GPU_S; space++)
        CHECK_OK(salf_probe_observe(w.probe, space, &device, SALF_STATE_RAW));
    CHECK_FAILS(salf_probe_flush(w.probe), SALF_E_SEQUENCE, "before it is captured");
    cudaStreamEndCapture(stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    double deviations[NUMBERS];
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, deviations, NULL); /* the probe lives on */
    drop_world(&w);
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* ---- losses ---- */

static void check_loss_on_device(const gpu_model *m, salf_context *context, salf_basis *basis, int32_t kind) {
    (void)context;
    salf_loss *loss = NULL;
    salf_loss_options options;
    float losses[GPU_ROWS], gradient[GPU_ROWS * GPU_D], back[GPU_ROWS], gradient_back[GPU_ROWS * GPU_D];
    salf_options_init(&options, sizeof options);
    options.kind = kind;
    CHECK_OK(salf_loss_create(&loss, basis, &options));
    const salf_tensor states = gpu_view(m->states, GPU_ROWS, GPU_D, SALF_MEMORY_HOST);
    const salf_tensor out = gpu_view(losses, GPU_ROWS, 1, SALF_MEMORY_HOST);
    const salf_tensor g = gpu_view(gradient, GPU_ROWS, GPU_D, SALF_MEMORY_HOST);
    CHECK_OK(salf_loss_compute(loss, gpu_labels, &states, 0.5, &out, &g));
    float *device_losses = gpu_copy(losses, sizeof losses), *device_gradient = gpu_copy(gradient, sizeof gradient);
    const salf_tensor there = gpu_view(m->device_states, GPU_ROWS, GPU_D, SALF_MEMORY_DEVICE);
    const salf_tensor out_there = gpu_view(device_losses, GPU_ROWS, 1, SALF_MEMORY_DEVICE);
    const salf_tensor g_there = gpu_view(device_gradient, GPU_ROWS, GPU_D, SALF_MEMORY_DEVICE);
    for (int turn = 0; turn < 3; turn++) {
        GPU_OK(cudaMemset(device_losses, 0xff, sizeof losses));
        GPU_OK(cudaMemset(device_gradient, 0xff, sizeof gradient));
        GPU_OK(cudaDeviceSynchronize());
#ifdef SLF_EMULATED
        emulator_reset_counts();
#endif
        CHECK_OK(salf_loss_compute(loss, gpu_labels, &there, 0.5, &out_there, &g_there));
#ifdef SLF_EMULATED
        const emulator_counts counts = emulator_get_counts();
        if (turn > 0) ck_assert_int_eq(counts.allocations, 0);
        if (turn > 0) ck_assert_int_eq(counts.waits, 0);
        ck_assert_int_eq(counts.bytes_to_host, 0);
#endif
        GPU_OK(cudaDeviceSynchronize());
        GPU_OK(cudaMemcpy(back, device_losses, sizeof back, cudaMemcpyDeviceToHost));
        GPU_OK(cudaMemcpy(gradient_back, device_gradient, sizeof gradient_back, cudaMemcpyDeviceToHost));
        ck_assert_mem_eq(losses, back, sizeof losses);
        ck_assert_mem_eq(gradient, gradient_back, sizeof gradient);
    }
    GPU_OK(cudaFree(device_losses));
    GPU_OK(cudaFree(device_gradient));
    salf_loss_destroy(loss);
}

START_TEST(losses_stay_in_the_stream) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    world w = make_world(stream, m, SALF_MEMORY_DEVICE, &forms[0]);
    for (int32_t kind = SALF_LOSS_COSINE; kind <= SALF_LOSS_CE; kind++)
        check_loss_on_device(m, w.context, w.basis, kind);
    drop_world(&w);
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* ---- workspace ---- */

/* A workspace of a few rows: everything goes through in many tiles and pieces. */
START_TEST(small_workspaces_serve) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    for (uint64_t limit = 256; limit <= 16384; limit *= 8)
        for (int k = 0; k < FORMS; k++)
            for (int32_t memory = 0; memory < 2; memory++) {
                double expected[NUMBERS], deviations[NUMBERS];
                int32_t eof[GPU_ROWS], found[GPU_ROWS];
                salf_context_options options;
                world w = {0};
                cpu_batch(m, &forms[k], expected, eof);
                salf_options_init(&options, sizeof options);
                options.backend = SALF_BACKEND_CUDA;
                options.plugin_path = harness_plugin();
                options.workspace_limit = limit;
                CHECK_OK(salf_context_create(&w.context, &options));
                CHECK_OK(gpu_basis(w.context, m, memory, forms[k].prepare, &w.basis));
                CHECK_OK(make_probe(&w.probe, w.basis, &forms[k]));
                run_batch(w.probe, m, memory, deviations, found);
                compare(&forms[k], expected, eof, deviations, found);
                drop_world(&w);
            }
    gpu_model_free(m);
}
END_TEST

/* ---- threads ---- */

typedef struct {
    const gpu_model *model;
    const double *expected;
    int failed;
} thread_job;

static void *batches(void *user) {
    thread_job *job = user;
    cudaStream_t stream = NULL;
    world w = {0};
    salf_trace trace;
    job->failed = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
                  gpu_context(&w.context, stream, NULL) != SALF_OK ||
                  gpu_basis(w.context, job->model, SALF_MEMORY_DEVICE, 0, &w.basis) != SALF_OK ||
                  make_probe(&w.probe, w.basis, &forms[1]) != SALF_OK;
    for (int turn = 0; turn < 20 && !job->failed; turn++) {
        job->failed = salf_probe_begin(w.probe, gpu_labels, GPU_ROWS) != SALF_OK ||
                      gpu_observe(w.probe, job->model, SALF_MEMORY_DEVICE) != SALF_OK ||
                      salf_probe_end(w.probe, &trace) != SALF_OK ||
                      memcmp(trace.deviations, job->expected, NUMBERS * sizeof(double)) != 0;
    }
    drop_world(&w);
    cudaStreamDestroy(stream);
    return NULL;
}

START_TEST(two_contexts_on_two_threads) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    double expected[NUMBERS];
    world w = make_world(NULL, m, SALF_MEMORY_DEVICE, &forms[1]);
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, expected, NULL);
    drop_world(&w);
    pthread_t threads[2];
    thread_job jobs[2] = {{m, expected, 0}, {m, expected, 0}};
    for (int k = 0; k < 2; k++) ck_assert_int_eq(pthread_create(&threads[k], NULL, batches, &jobs[k]), 0);
    for (int k = 0; k < 2; k++) ck_assert_int_eq(pthread_join(threads[k], NULL), 0);
    for (int k = 0; k < 2; k++) ck_assert_int_eq(jobs[k].failed, 0);
    gpu_model_free(m);
}
END_TEST

/* Two probes of one context on two threads: its scratch and staging are shared, results are not. */
typedef struct {
    const gpu_model *model;
    salf_probe *probe;
    int32_t memory;
    double expected[NUMBERS];
    int failed;
} probe_job;

static void *probe_batches(void *user) {
    probe_job *job = user;
    salf_trace trace;
    for (int turn = 0; turn < 20 && !job->failed; turn++)
        job->failed = salf_probe_begin(job->probe, gpu_labels, GPU_ROWS) != SALF_OK ||
                      gpu_observe(job->probe, job->model, job->memory) != SALF_OK ||
                      salf_probe_end(job->probe, &trace) != SALF_OK ||
                      memcmp(trace.deviations, job->expected, sizeof job->expected) != 0;
    return NULL;
}

START_TEST(two_probes_of_a_context_on_two_threads) {
    if (!gpu_there()) return;
    gpu_model *m = gpu_model_make();
    world w = make_world(NULL, m, SALF_MEMORY_DEVICE, &forms[1]);
    salf_probe *other = NULL;
    CHECK_OK(make_probe(&other, w.basis, &forms[4]));
    pthread_t threads[2];
    probe_job jobs[2] = {{.model = m, .probe = w.probe, .memory = SALF_MEMORY_HOST},
                         {.model = m, .probe = other, .memory = SALF_MEMORY_HOST}};
    for (int k = 0; k < 2; k++) run_batch(jobs[k].probe, m, jobs[k].memory, jobs[k].expected, NULL);
    for (int k = 0; k < 2; k++) ck_assert_int_eq(pthread_create(&threads[k], NULL, probe_batches, &jobs[k]), 0);
    for (int k = 0; k < 2; k++) ck_assert_int_eq(pthread_join(threads[k], NULL), 0);
    for (int k = 0; k < 2; k++) ck_assert_int_eq(jobs[k].failed, 0);
    salf_probe_destroy(other);
    drop_world(&w);
    gpu_model_free(m);
}
END_TEST

/* ---- devices ---- */

START_TEST(the_hosts_device_stays_current) {
    if (!gpu_there()) return;
    int count = 0, current = -1;
    GPU_OK(cudaGetDeviceCount(&count));
    if (count < 2) {
        printf("SKIPPED: there is one CUDA device only\n");
        return;
    }
    GPU_OK(cudaSetDevice(1));
    cudaStream_t stream = gpu_stream();
    gpu_model *m = gpu_model_make();
    GPU_OK(cudaSetDevice(0));
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_CUDA;
    options.plugin_path = harness_plugin();
    options.device = 1;
    options.stream = stream;
    world w = {0};
    double deviations[NUMBERS];
    CHECK_OK(salf_context_create(&w.context, &options));
    CHECK_OK(gpu_basis(w.context, m, SALF_MEMORY_DEVICE, 0, &w.basis));
    CHECK_OK(make_probe(&w.probe, w.basis, &forms[1]));
    run_batch(w.probe, m, SALF_MEMORY_DEVICE, deviations, NULL);
    drop_world(&w);
    GPU_OK(cudaGetDevice(&current));
    ck_assert_int_eq(current, 0);
    GPU_OK(cudaSetDevice(1));
    gpu_model_free(m);
    GPU_OK(cudaStreamDestroy(stream));
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, decisions_are_those_of_the_cpu);
    HARNESS_ADD(suite, results_repeat);
    HARNESS_ADD(suite, a_batch_stays_in_the_stream);
    HARNESS_ADD(suite, states_are_read_in_stream_order);
    HARNESS_ADD(suite, a_batch_can_be_captured);
    HARNESS_ADD(suite, a_graph_outlives_larger_scratch);
    HARNESS_ADD(suite, what_cannot_be_captured_is_refused);
    HARNESS_ADD(suite, losses_stay_in_the_stream);
    HARNESS_ADD(suite, small_workspaces_serve);
    HARNESS_ADD(suite, two_contexts_on_two_threads);
    HARNESS_ADD(suite, two_probes_of_a_context_on_two_threads);
    HARNESS_ADD(suite, the_hosts_device_stays_current);
}
