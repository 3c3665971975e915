/*
 * test_gpu_errors.c - what goes wrong: no driver, no device, each call of CUDA, cuBLAS and cuSOLVER failing in turn, a
 * full device, a device that breaks. The emulated device fails on demand; on a real one there is only little to ask.
 */
#include "core/core.h"
#include "gpu.h"

static salf_status open_device(salf_context **context, int32_t ordinal, int32_t backend) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = backend;
    options.device = ordinal;
    options.plugin_path = harness_plugin();
    return salf_context_create(context, &options);
}

/* The ordinal past the last, on any machine with a device. */
START_TEST(an_ordinal_that_is_not_there_is_named) {
    if (!gpu_there()) return;
    salf_context *context = NULL;
    CHECK_FAILS(open_device(&context, 99, SALF_BACKEND_CUDA), SALF_E_ARGUMENT, "device is 99");
    ck_assert_ptr_null(context);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
}
END_TEST

/* More than any device holds. */
START_TEST(a_full_device_is_out_of_memory) {
    if (!gpu_there()) return;
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_model_options options;
    CHECK_OK(open_device(&context, 0, SALF_BACKEND_CUDA));
    salf_options_init(&options, sizeof options);
    options.n_layers = 1;
    options.hidden = (int64_t)1 << 20; /* a Gram matrix of 8 TiB */
    options.vocab = (int64_t)1 << 20;
    options.head = gpu_view((const float *)(uintptr_t)4096, options.vocab, options.hidden, SALF_MEMORY_HOST);
    CHECK_OK(salf_model_create(&model, context, &options));
    CHECK_FAILS(salf_basis_create(&basis, model, NULL, 0, NULL), SALF_E_NO_MEMORY, "cudaMalloc");
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess); /* the host does not find it */
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

/* More blocks than a grid has: a device would be asked for the rest of a division by 2^32. */
START_TEST(a_grid_that_is_too_large_is_refused) {
    if (!gpu_there()) return;
    salf_context *context = NULL;
    CHECK_OK(open_device(&context, 0, SALF_BACKEND_CUDA));
    float nothing = 0;
    CHECK_FAILS(context->backend->fill(context->impl, &nothing, (int64_t)1 << 40, 1), SALF_E_OVERFLOW,
                "fill: 4294967296 blocks are more than a grid has");
    salf_context_destroy(context);
}
END_TEST

#ifdef SLF_EMULATED

static const emulator_device good = {2, 13000, 9, 0, 1ull << 30};

static void refused(emulator_device device, int32_t ordinal, salf_status status, const char *words) {
    salf_context *context = NULL;
    salf_context_info info = {.struct_size = sizeof info};
    emulator_set_device(&device);
    CHECK_FAILS(open_device(&context, ordinal, SALF_BACKEND_CUDA), status, words);
    ck_assert_ptr_null(context);
    CHECK_OK(open_device(&context, ordinal, SALF_BACKEND_AUTO));
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_CPU);
    salf_context_destroy(context);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    emulator_set_device(&good);
}

START_TEST(devices_that_do_not_serve_are_refused) {
    emulator_device device = good;
    device.driver = 0;
    refused(device, 0, SALF_E_DEVICE, "no CUDA driver is installed");
    device.driver = 12020;
    refused(device, 0, SALF_E_DEVICE, "the driver is for CUDA 12.2");
    device = good;
    device.count = 0;
    refused(device, 0, SALF_E_DEVICE, "there is no CUDA device");
    refused(good, 2, SALF_E_ARGUMENT, "device is 2, and there are 2");
    device = good;
    device.major = 7;
    device.minor = 0;
    refused(device, 1, SALF_E_DEVICE, "device 1 has compute capability 7.0, and 7.5 is the least");
    device.minor = 5;
    emulator_set_device(&device);
    salf_context *context = NULL;
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(open_device(&context, 1, SALF_BACKEND_AUTO));
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_CUDA);
    ck_assert_str_eq(info.kernels, "sm_75");
    salf_context_destroy(context);
    emulator_set_device(&good);
}
END_TEST

/* ---- each call failing ---- */

/* A context's whole life: basis, a batch of a metric, losses with gradients. */
typedef struct {
    const gpu_model *model;
    cudaStream_t stream;
    int32_t metric, scores, prepare, memory;
} life;

static salf_status batch(salf_basis *basis, const life *l) {
    salf_probe *probe = NULL;
    salf_probe_options options;
    salf_trace trace;
    salf_options_init(&options, sizeof options);
    options.metric = l->metric;
    options.scores = l->scores;
    options.lens = SALF_LENS_RAW;
    salf_status status = salf_probe_create(&probe, basis, &options);
    if (status == SALF_OK) status = salf_probe_begin(probe, gpu_labels, GPU_ROWS);
    if (status == SALF_OK) status = gpu_observe(probe, l->model, l->memory);
    if (status == SALF_OK) status = salf_probe_end(probe, &trace);
    salf_probe_destroy(probe);
    return status;
}

static salf_status losses(salf_basis *basis, const life *l) {
    salf_loss *loss = NULL;
    salf_loss_options options;
    float values[GPU_ROWS], gradient[GPU_ROWS * GPU_D];
    const salf_tensor states = gpu_view(l->model->states, GPU_ROWS, GPU_D, SALF_MEMORY_HOST);
    const salf_tensor out = gpu_view(values, GPU_ROWS, 1, SALF_MEMORY_HOST);
    const salf_tensor g = gpu_view(gradient, GPU_ROWS, GPU_D, SALF_MEMORY_HOST);
    salf_options_init(&options, sizeof options);
    options.kind = SALF_LOSS_CE;
    salf_status status = salf_loss_create(&loss, basis, &options);
    if (status == SALF_OK) status = salf_loss_compute(loss, gpu_labels, &states, 1, &out, &g);
    salf_loss_destroy(loss);
    return status;
}

/* Set once everything is done and only has to be given back. */
static const char *failed_before_the_end;

static salf_status live(const life *l) {
    salf_context *context = NULL;
    salf_basis *basis = NULL;
    salf_status status = gpu_context(&context, l->stream, NULL);
    if (status == SALF_OK) status = gpu_basis(context, l->model, l->memory, l->prepare, &basis);
    if (status == SALF_OK) status = batch(basis, l);
    if (status == SALF_OK && l->metric == SALF_METRIC_CE) status = losses(basis, l);
    failed_before_the_end = emulator_failed();
    salf_basis_destroy(basis);
    salf_context_destroy(context);
    return status;
}

static void check_life(const life *l) {
    CHECK_OK(live(l));
    emulator_counts before = emulator_get_counts();
    int64_t n = 0;
    for (;; n += n < 40 ? 1 : 7) { /* all calls of opening; of the hundreds after it, enough to meet each place */
        emulator_fail_call(n);
        const salf_status status = live(l);
        const char *failed = emulator_failed();
        emulator_fail_call(-1);
        const emulator_counts after = emulator_get_counts();
        /* a context that cannot be made current while things are given back takes along what is in it */
        const bool lost = failed && !failed_before_the_end && strcmp(failed, "cuCtxPushCurrent") == 0;
        ck_assert_msg(lost || (after.live_device == before.live_device && after.live_host == before.live_host &&
                               after.live_handles == before.live_handles),
                      "call %lld (%s) failing leaks", (long long)n, failed ? failed : "none");
        ck_assert_int_eq(after.contexts, before.contexts);
        before = after;
        ck_assert_msg(cudaGetLastError() == cudaSuccess, "call %lld (%s) failing leaves an error", (long long)n,
                      failed ? failed : "none");
        if (!failed) {
            CHECK_OK(status);
            break;
        }
        /* what gives back can report nothing */
        if (!failed_before_the_end || (status == SALF_OK && strcmp(failed, "cuCtxPushCurrent") == 0)) continue;
        const bool memory = strstr(failed, "lloc") || strstr(failed, "Create");
        ck_assert_msg(status == SALF_E_DEVICE || (memory && status == SALF_E_NO_MEMORY),
                      "call %lld (%s) failing gives %s: %s", (long long)n, failed, salf_status_name(status),
                      salf_last_error());
        /* events and launches have longer names in the library, kernels their own */
        if (!strstr(failed, "Launch"))
            ck_assert_msg(harness_contains(salf_last_error(), failed), "message '%s' lacks '%s'", salf_last_error(),
                          failed);
    }
    ck_assert_int_gt(n, 50);
}

START_TEST(each_call_failing_is_reported) {
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    const life lives[] = {{m, stream, SALF_METRIC_COSINE, 0, 0, SALF_MEMORY_HOST},
                          {m, stream, SALF_METRIC_CE, 0, 0, SALF_MEMORY_DEVICE},
                          {m, stream, SALF_METRIC_RANK, SALF_SCORE_LOGITS, SALF_PREPARE_TABLE, SALF_MEMORY_DEVICE}};
    for (size_t k = 0; k < sizeof lives / sizeof *lives; k++) check_life(&lives[k]);
    GPU_OK(cudaStreamDestroy(stream));
    gpu_model_free(m);
}
END_TEST

/* Device memory running out at every size. */
START_TEST(each_allocation_failing_is_reported) {
    gpu_model *m = gpu_model_make();
    const life l = {m, NULL, SALF_METRIC_CE, 0, SALF_PREPARE_TABLE, SALF_MEMORY_DEVICE};
    CHECK_OK(live(&l));
    const emulator_counts before = emulator_get_counts();
    bool enough = false;
    for (uint64_t more = 0; !enough; more = more ? more * 5 / 4 : 1024) {
        emulator_device device = good;
        device.memory = (uint64_t)before.live_device + more;
        emulator_set_device(&device);
        const salf_status status = live(&l);
        enough = status == SALF_OK;
        if (!enough) {
            ck_assert_msg(status == SALF_E_NO_MEMORY, "%llu bytes more: %s: %s", (unsigned long long)more,
                          salf_status_name(status), salf_last_error());
            ck_assert(harness_contains(salf_last_error(), "cudaMalloc: out of memory"));
        }
        ck_assert_int_eq(emulator_get_counts().live_device, before.live_device);
        ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    }
    emulator_set_device(&good);
    gpu_model_free(m);
}
END_TEST

/* Host memory through the context's hooks. */
static salf_status hooked(harness_memory *memory, int32_t backend, void *user) {
    (void)backend;
    const life *l = user;
    salf_context *context = NULL;
    salf_basis *basis = NULL;
    salf_status status = gpu_context(&context, l->stream, memory);
    if (status == SALF_OK) status = gpu_basis(context, l->model, l->memory, l->prepare, &basis);
    if (status == SALF_OK) status = batch(basis, l);
    salf_basis_destroy(basis);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_host_allocation_failing_is_reported) {
    gpu_model *m = gpu_model_make();
    life l = {m, NULL, SALF_METRIC_CE, 0, 0, SALF_MEMORY_DEVICE};
    harness_fail_each_allocation(hooked, SALF_BACKEND_CUDA, &l);
    gpu_model_free(m);
}
END_TEST

/* ---- a device that breaks ---- */

START_TEST(a_broken_device_is_an_error_and_no_more) {
    gpu_model *m = gpu_model_make();
    cudaStream_t stream = gpu_stream();
    salf_context *context = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_trace trace = {.rows = -5};
    CHECK_OK(gpu_context(&context, stream, NULL));
    CHECK_OK(gpu_basis(context, m, SALF_MEMORY_DEVICE, 0, &basis));
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.lens = SALF_LENS_RAW;
    CHECK_OK(salf_probe_create(&probe, basis, &options));
    CHECK_OK(salf_probe_begin(probe, gpu_labels, GPU_ROWS));
    CHECK_OK(gpu_observe(probe, m, SALF_MEMORY_DEVICE));
    emulator_break(1);
    CHECK_FAILS(salf_probe_end(probe, &trace), SALF_E_DEVICE, "illegal memory access");
    ck_assert_int_eq(trace.rows, -5);
    CHECK_FAILS(salf_probe_begin(probe, gpu_labels, GPU_ROWS), SALF_E_DEVICE, "illegal memory access");
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_context_destroy(context);
    emulator_break(0);
}
END_TEST

/* An error that the host left before is the host's: calls of libsalf neither report nor take it. */
START_TEST(the_hosts_error_stays_the_hosts) {
    gpu_model *m = gpu_model_make();
    const life l = {m, NULL, SALF_METRIC_CE, 0, 0, SALF_MEMORY_DEVICE};
    salf_context *context = NULL;
    salf_basis *basis = NULL;
    CHECK_OK(gpu_context(&context, NULL, NULL));
    CHECK_OK(gpu_basis(context, m, SALF_MEMORY_DEVICE, 0, &basis));
    ck_assert_int_eq(cudaSetDevice(77), cudaErrorInvalidDevice);
    CHECK_OK(batch(basis, &l));
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidDevice);
    salf_basis_destroy(basis);
    ck_assert_int_eq(cudaSetDevice(77), cudaErrorInvalidDevice);
    salf_context_destroy(context);
    CHECK_OK(gpu_context(&context, NULL, NULL));
    salf_context_destroy(context);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidDevice);
    gpu_model_free(m);
}
END_TEST

#endif

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, an_ordinal_that_is_not_there_is_named);
    HARNESS_ADD(suite, a_full_device_is_out_of_memory);
    HARNESS_ADD(suite, a_grid_that_is_too_large_is_refused);
#ifdef SLF_EMULATED
    HARNESS_ADD(suite, devices_that_do_not_serve_are_refused);
    HARNESS_ADD(suite, each_call_failing_is_reported);
    HARNESS_ADD(suite, each_allocation_failing_is_reported);
    HARNESS_ADD(suite, each_host_allocation_failing_is_reported);
    HARNESS_ADD(suite, a_broken_device_is_an_error_and_no_more);
    HARNESS_ADD(suite, the_hosts_error_stays_the_hosts);
#endif
}
