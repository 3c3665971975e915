/*
 * gpu.h - what the tests of the GPU backend share: a context on the plugin that SALF_TEST_PLUGIN names, device memory
 * through the CUDA runtime, a small model.
 *
 * The same files are tests of the emulated device, with the emulator's controls, and of a real one (make check-gpu),
 * where what needs those controls is left out and everything is skipped, aloud, without a device.
 */
#ifndef SALF_TEST_GPU_H
#define SALF_TEST_GPU_H

#include <check.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "salf.h"
#include "unit/harness.h"
#ifdef SLF_EMULATED
#include "emulator.h"
#endif

#define GPU_OK(call)                                                                               \
    do {                                                                                           \
        const cudaError_t gpu_error_ = (call);                                                     \
        ck_assert_msg(gpu_error_ == cudaSuccess, "%s: %s", #call, cudaGetErrorString(gpu_error_)); \
    } while (0)

/* Whether there is a device; says that the test is skipped where there is none. */
static inline int gpu_there(void) {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return 1;
    cudaGetLastError();
    printf("SKIPPED: there is no CUDA device\n");
    fflush(stdout);
    return 0;
}

static inline salf_status gpu_context(salf_context **out, cudaStream_t stream, harness_memory *memory) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_CUDA;
    options.plugin_path = harness_plugin();
    options.stream = stream;
    if (memory) {
        options.alloc = harness_alloc;
        options.free = harness_free;
        options.alloc_user = memory;
    }
    return salf_context_create(out, &options);
}

static inline cudaStream_t gpu_stream(void) {
    cudaStream_t stream = NULL;
    GPU_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

/* A copy in device memory. */
static inline void *gpu_copy(const void *from, size_t bytes) {
    void *memory = NULL;
    GPU_OK(cudaMalloc(&memory, bytes));
    GPU_OK(cudaMemcpy(memory, from, bytes, cudaMemcpyHostToDevice));
    GPU_OK(cudaDeviceSynchronize());
    return memory;
}

/* A head [V][D] and states [spaces][rows][D], float32, on both sides. */
enum { GPU_V = 61, GPU_D = 24, GPU_M = 3, GPU_S = GPU_M + 1, GPU_ROWS = 7 };

typedef struct gpu_model {
    float head[GPU_V * GPU_D], states[GPU_S * GPU_ROWS * GPU_D];
    float *device_head, *device_states;
} gpu_model;

static const int32_t gpu_labels[GPU_ROWS] = {3, 11, 3, 0, 22, 60, 11};

static inline gpu_model *gpu_model_make(void) {
    gpu_model *m = malloc(sizeof *m);
    uint64_t seed = 77;
    ck_assert_ptr_nonnull(m);
    for (int i = 0; i < GPU_V * GPU_D; i++) m->head[i] = (float)harness_normal(&seed);
    for (int i = 0; i < GPU_S * GPU_ROWS * GPU_D; i++) m->states[i] = (float)harness_normal(&seed);
    m->device_head = gpu_copy(m->head, sizeof m->head);
    m->device_states = gpu_copy(m->states, sizeof m->states);
    return m;
}

static inline void gpu_model_free(gpu_model *m) {
    cudaFree(m->device_head);
    cudaFree(m->device_states);
    free(m);
}

/* A view of float32 rows. */
static inline salf_tensor gpu_view(const float *data, int64_t rows, int64_t cols, int32_t memory) {
    union {
        const float *in;
        void *out;
    } pointer = {.in = data};
    return (salf_tensor){
        .data = pointer.out, .rows = rows, .cols = cols, .dtype = SALF_F32, .memory = memory, .index_memory = memory};
}

/* Basis of the model's head for its labels; the head lies in memory (SALF_MEMORY_*). */
static inline salf_status gpu_basis(salf_context *context, const gpu_model *m, int32_t memory, int32_t prepare,
                                    salf_basis **out) {
    salf_model_options options;
    salf_basis_options make;
    salf_model *model = NULL;
    *out = NULL;
    salf_options_init(&options, sizeof options);
    salf_options_init(&make, sizeof make);
    options.n_layers = GPU_M;
    options.hidden = GPU_D;
    options.vocab = GPU_V;
    options.head = gpu_view(memory == SALF_MEMORY_DEVICE ? m->device_head : m->head, GPU_V, GPU_D, memory);
    make.prepare = prepare;
    salf_status status = salf_model_create(&model, context, &options);
    if (status == SALF_OK) status = salf_basis_create(out, model, gpu_labels, GPU_ROWS, &make);
    salf_model_destroy(model);
    return status;
}

static inline salf_status gpu_observe(salf_probe *probe, const gpu_model *m, int32_t memory) {
    salf_status status = SALF_OK;
    for (int32_t s = 0; s < GPU_S && status == SALF_OK; s++) {
        const float *from = (memory == SALF_MEMORY_DEVICE ? m->device_states : m->states) + s * GPU_ROWS * GPU_D;
        const salf_tensor states = gpu_view(from, GPU_ROWS, GPU_D, memory);
        status = salf_probe_observe(probe, s, &states, SALF_STATE_RAW);
    }
    return status;
}

#endif
