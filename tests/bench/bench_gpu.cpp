/*
 * bench_gpu.cpp - the GPU backend against what the device can do, in ratios measured in one run: the basis of a head of
 * Llama-3-8B's shape, the cosine probe against copies, ce and rank against cuBLAS's own product, time of the host.
 *
 * Timed by events on the stream, best of several. Prints a line for each row: name, time, ratio. PyTorch's pinv of the
 * same head is timed by peer_torch_gpu.py.
 */
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "salf.h"

namespace {

constexpr int64_t VOCAB = 128256, HIDDEN = 4096, ROWS = 4096;
constexpr int32_t LAYERS = 32;

[[noreturn]] void give_up(const char *what, const char *why) {
    std::fprintf(stderr, "%s: %s\n", what, why);
    std::exit(1);
}

void ok(const char *what, cudaError_t error) {
    if (error != cudaSuccess) give_up(what, cudaGetErrorString(error));
}
void ok(const char *what, salf_status status) {
    if (status != SALF_OK) give_up(what, salf_last_error());
}
void ok(const char *what, cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS) give_up(what, cublasGetStatusString(status));
}

cudaStream_t stream;

/* Best time of some runs, in seconds, from event to event. */
double timed(int runs, const std::function<void()> &body) {
    cudaEvent_t begin, end;
    double best = 1e30;
    ok("event", cudaEventCreate(&begin));
    ok("event", cudaEventCreate(&end));
    body();
    for (int k = 0; k < runs; k++) {
        float milliseconds = 0;
        ok("record", cudaEventRecord(begin, stream));
        body();
        ok("record", cudaEventRecord(end, stream));
        ok("wait", cudaEventSynchronize(end));
        ok("time", cudaEventElapsedTime(&milliseconds, begin, end));
        if (static_cast<double>(milliseconds) * 1e-3 < best) best = static_cast<double>(milliseconds) * 1e-3;
    }
    ok("event", cudaEventDestroy(begin));
    ok("event", cudaEventDestroy(end));
    return best;
}

template <typename T> T *device(size_t count) {
    void *memory = nullptr;
    ok("cudaMalloc", cudaMalloc(&memory, count * sizeof(T)));
    return static_cast<T *>(memory);
}

/* Numbers that look like a head's or a state's, in bfloat16. */
uint16_t *random_bf16(size_t count, uint32_t seed) {
    std::vector<uint16_t> host(count);
    for (uint16_t &h : host) {
        seed = seed * 1664525u + 1013904223u;
        const float x = (static_cast<float>(seed >> 8) / 16777216.0f - 0.5f) * 0.05f;
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        h = static_cast<uint16_t>(bits >> 16);
    }
    uint16_t *memory = device<uint16_t>(count);
    ok("copy", cudaMemcpy(memory, host.data(), count * 2, cudaMemcpyHostToDevice));
    return memory;
}

salf_tensor view(uint16_t *data, int64_t rows) {
    salf_tensor t = {};
    t.data = data;
    t.rows = rows;
    t.cols = HIDDEN;
    t.dtype = SALF_BF16;
    t.memory = SALF_MEMORY_DEVICE;
    return t;
}

struct bench {
    salf_context *context;
    salf_model *model;
    uint16_t *head, *states;
    std::vector<int32_t> labels;
};

void bench_basis(const bench &b) {
    const char *const names[] = {"basis of six labels", "basis, full table"};
    const double floor_flops = static_cast<double>(VOCAB) * HIDDEN * HIDDEN; /* the Gram matrix alone */
    for (int k = 0; k < 2; k++) {
        salf_basis_options options;
        salf_options_init(&options, sizeof options);
        options.prepare = k == 0 ? SALF_PREPARE_LABELS : SALF_PREPARE_TABLE;
        const double seconds = timed(2, [&] {
            salf_basis *basis = nullptr;
            ok("basis", salf_basis_create(&basis, b.model, b.labels.data(), 6, &options));
            salf_basis_destroy(basis);
        });
        std::printf("%-28s %9.3f ms  %8.2f Tflop/s of the Gram matrix's float64 floor\n", names[k], seconds * 1e3,
                    floor_flops / seconds * 1e-12);
    }
}

salf_probe *probe_of(const bench &b, int32_t metric, salf_basis **basis) {
    salf_probe *probe = nullptr;
    salf_probe_options options;
    salf_options_init(&options, sizeof options);
    options.metric = metric;
    options.lens = SALF_LENS_RAW;
    ok("basis", salf_basis_create(basis, b.model, b.labels.data(), static_cast<int64_t>(b.labels.size()), nullptr));
    ok("probe", salf_probe_create(&probe, *basis, &options));
    return probe;
}

void observe_all(const bench &b, salf_probe *probe, int32_t spaces) {
    for (int32_t s = 0; s < spaces; s++) {
        const salf_tensor states = view(b.states, ROWS);
        ok("observe", salf_probe_observe(probe, s, &states, SALF_STATE_RAW));
    }
}

void bench_cosine(const bench &b) {
    const int32_t spaces = LAYERS + 1;
    const size_t bytes = static_cast<size_t>(spaces) * ROWS * HIDDEN * 2;
    salf_basis *basis = nullptr;
    salf_probe *probe = probe_of(b, SALF_METRIC_COSINE, &basis);
    uint16_t *from = device<uint16_t>(bytes / 2), *to = device<uint16_t>(bytes / 2);
    const double copy =
        timed(10, [&] { ok("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream)); });
    double held = 0;
    const double seconds = timed(10, [&] {
        ok("begin", salf_probe_begin(probe, b.labels.data(), ROWS));
        const auto start = std::chrono::steady_clock::now();
        observe_all(b, probe, spaces);
        ok("flush", salf_probe_flush(probe));
        held = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
    std::printf("%-28s %9.3f ms  %8.2f of the copy bandwidth (%.0f GB/s)\n", "cosine, 33 spaces", seconds * 1e3,
                static_cast<double>(bytes) / seconds / (2 * static_cast<double>(bytes) / copy),
                2 * static_cast<double>(bytes) / copy * 1e-9);
    std::printf("%-28s %9.3f us\n", "host held, observe to flush", held * 1e6);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    ok("free", cudaFree(from));
    ok("free", cudaFree(to));
}

/* cuBLAS's float32 product of the same shape, without what makes scores of it, by tiles of 8,192 rows. */
double bare_product() {
    constexpr int TILE = 8192;
    cublasHandle_t blas;
    const float one = 1, zero = 0;
    float *x = device<float>(static_cast<size_t>(TILE) * HIDDEN),
          *z = device<float>(static_cast<size_t>(ROWS) * HIDDEN);
    float *c = device<float>(static_cast<size_t>(TILE) * ROWS);
    ok("cublasCreate", cublasCreate(&blas));
    ok("stream", cublasSetStream(blas, stream));
    ok("mode", cublasSetMathMode(blas, CUBLAS_PEDANTIC_MATH));
    const double seconds = timed(5, [&] {
        ok("gemm", cublasSgemm(blas, CUBLAS_OP_T, CUBLAS_OP_N, TILE, static_cast<int>(ROWS), static_cast<int>(HIDDEN),
                               &one, x, static_cast<int>(HIDDEN), z, static_cast<int>(HIDDEN), &zero, c, TILE));
    });
    ok("cublasDestroy", cublasDestroy(blas));
    for (float *memory : {x, z, c}) ok("free", cudaFree(memory));
    return seconds * static_cast<double>(VOCAB) / TILE;
}

void bench_scores(const bench &b) {
    const double product = bare_product();
    for (int32_t metric : {SALF_METRIC_CE, SALF_METRIC_RANK}) {
        salf_basis *basis = nullptr;
        salf_probe *probe = probe_of(b, metric, &basis);
        const double seconds = timed(2, [&] {
            ok("begin", salf_probe_begin(probe, b.labels.data(), ROWS));
            observe_all(b, probe, 1);
        });
        std::printf("%-28s %9.3f ms  %8.2f of cuBLAS's rate for the same product\n",
                    metric == SALF_METRIC_CE ? "ce, one space" : "rank, one space", seconds * 1e3, product / seconds);
        salf_probe_destroy(probe);
        salf_basis_destroy(basis);
    }
}

} // namespace

int main(int argc, char **argv) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        std::printf("SKIPPED: there is no CUDA device\n");
        return 0;
    }
    bench b = {};
    salf_context_options options;
    salf_model_options shape;
    salf_options_init(&options, sizeof options);
    salf_options_init(&shape, sizeof shape);
    ok("stream", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    options.backend = SALF_BACKEND_CUDA;
    options.plugin_path = argc > 1 ? argv[1] : nullptr;
    options.stream = stream;
    ok("context", salf_context_create(&b.context, &options));
    b.head = random_bf16(static_cast<size_t>(VOCAB) * HIDDEN, 1);
    b.states = random_bf16(static_cast<size_t>(ROWS) * HIDDEN, 2);
    for (int64_t r = 0; r < ROWS; r++) b.labels.push_back(static_cast<int32_t>(r % 6 * 1000 + 7));
    shape.n_layers = LAYERS;
    shape.hidden = HIDDEN;
    shape.vocab = VOCAB;
    shape.head = view(b.head, VOCAB);
    ok("model", salf_model_create(&b.model, b.context, &shape));
    bench_basis(b);
    bench_cosine(b);
    bench_scores(b);
    salf_model_destroy(b.model);
    salf_context_destroy(b.context);
    return 0;
}
