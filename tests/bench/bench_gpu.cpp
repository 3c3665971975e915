/*
 * bench_gpu.cpp - the GPU backend against what the device can do, in shares of floors measured in the same run:
 *
 *   copy       cosine probes read each state once: bytes of the states / bytes that a copy moves in a second
 *   float64    Gram matrix and basis: V D^2 + D^3 / 3 operations / rate of cuBLAS's DGEMM
 *   float32    ce and rank: 2 rows V D operations / rate of cuBLAS's SGEMM without TF32, the type of those products
 *
 * `bench_gpu PLUGIN [GROUP...]` runs the groups named, all without: host, cosine, score, basis. --small: sizes that the
 * emulated device can do, whose times mean nothing. What PyTorch takes for the same work is timed by peer_torch_gpu.py.
 */
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "gpu_measure.h"

namespace {

struct sizes {
    int32_t layers;
    int64_t hidden, vocab; /* of Llama 3 8B */
    std::vector<int64_t> rows;
    int64_t scored; /* rows of ce and rank */
    struct {
        const char *name;
        int64_t vocab, hidden;
    } heads[3];
};

const sizes real = {32,     4096,
                    128256, {4096, 16384, 65536, 262144},
                    64,     {{"Gemma 3 270M", 262144, 640}, {"Qwen2 0.5B", 151936, 896}, {"Llama 3 8B", 128256, 4096}}};
const sizes small = {2, 64, 300, {3, 40}, 5, {{"a", 200, 16}, {"b", 150, 24}, {"c", 300, 64}}};

struct bench {
    const sizes *size;
    int runs;
    cudaStream_t stream;
    salf_context *context;
    double copy, float64, float32; /* bytes and operations a second */
};

/* ---- floors ---- */

/* What NVIDIA recommends for compute capability 9.0, and the plugin gives cuBLAS there. */
constexpr size_t WORKSPACE = static_cast<size_t>(32) << 20;

/* The two products of cuBLAS that are rates here. The device's library is opened as the plugin opens it, by the name
 * that the headers belong to; the emulated one is linked. */
struct blas {
    void *handle;
    int (*sgemm)(void *, int, int, int, int, int, const float *, const float *, int, const float *, int, const float *,
                 float *, int);
    int (*dgemm)(void *, int, int, int, int, int, const double *, const double *, int, const double *, int,
                 const double *, double *, int);
};

template <typename Function> void find(void *library, const char *name, Function *function) {
    void *address = dlsym(library, name);
    if (!address) give_up(name, "cuBLAS does not have it");
    std::memcpy(function, &address, sizeof address);
}

blas open_blas(cudaStream_t stream, void *workspace) {
    blas b = {};
    int (*create)(void **), (*set_stream)(void *, cudaStream_t), (*set_mode)(void *, int);
    int (*set_workspace)(void *, void *, size_t);
#ifdef SLF_EMULATED
    void *library = RTLD_DEFAULT;
#else
    char name[32];
    std::snprintf(name, sizeof name, "libcublas.so.%d", CUDART_VERSION / 1000);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) give_up("cuBLAS", dlerror());
#endif
    find(library, "cublasCreate_v2", &create);
    find(library, "cublasSetStream_v2", &set_stream);
    find(library, "cublasSetMathMode", &set_mode);
    find(library, "cublasSetWorkspace_v2", &set_workspace);
    find(library, "cublasSgemm_v2", &b.sgemm);
    find(library, "cublasDgemm_v2", &b.dgemm);
    const int pedantic = 2; /* CUBLAS_PEDANTIC_MATH, as the plugin has it: no TF32 */
    if (create(&b.handle) || set_stream(b.handle, stream) || set_workspace(b.handle, workspace, WORKSPACE) ||
        set_mode(b.handle, pedantic))
        give_up("cuBLAS", "a handle could not be made");
    return b;
}

/* Operations a second of C [n][m] = A B, n x k and k x m: 2 m n k of them. */
template <typename T, typename Gemm> double gemm_rate(const bench &b, void *handle, Gemm gemm, int m, int n, int k) {
    device_array<T> x(static_cast<size_t>(m) * static_cast<size_t>(k)),
        y(static_cast<size_t>(n) * static_cast<size_t>(k)), out(static_cast<size_t>(m) * static_cast<size_t>(n));
    const T one = 1, zero = 0;
    /* not zeros: a device draws less power over them, and is faster than over numbers */
    fill_rows<T>(x, static_cast<size_t>(m), static_cast<size_t>(k), 3, [](float v) { return static_cast<T>(v); });
    fill_rows<T>(y, static_cast<size_t>(n), static_cast<size_t>(k), 5, [](float v) { return static_cast<T>(v); });
    const int transposed = 1, plain = 0;
    const double seconds = timed(b.stream, b.runs, [&] {
        if (gemm(handle, transposed, plain, m, n, k, &one, x, k, y, k, &zero, out, m))
            give_up("cuBLAS", "a product failed");
    });
    return 2.0 * m * n * k / seconds;
}

/* Bytes that a copy from device memory to device memory reads and writes in a second. */
double copy_rate(const bench &b, size_t bytes) {
    device_array<char> from(bytes), to(bytes);
    ok("memset", cudaMemset(from, 1, bytes));
    const double seconds = timed(b.stream, 2 * b.runs, [&] {
        ok("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, b.stream));
    });
    return 2 * static_cast<double>(bytes) / seconds;
}

void measure_floors(bench *b) {
    const bool is_small = b->size == &small;
    const int hidden = static_cast<int>(b->size->hidden);
    const int rows = static_cast<int>(b->size->scored) * (b->size->layers + 1);
    device_array<char> workspace(WORKSPACE);
    const blas library = open_blas(b->stream, workspace);
    b->copy = copy_rate(*b, is_small ? 1 << 16 : static_cast<size_t>(1) << 31);
    b->float64 = gemm_rate<double>(*b, library.handle, library.dgemm, hidden, hidden, is_small ? 32 : 8192);
    b->float32 = gemm_rate<float>(*b, library.handle, library.sgemm, is_small ? 64 : 8192, rows, hidden);
    std::printf("floors: copy %.0f GB/s, DGEMM %.1f Tflop/s, SGEMM %.1f Tflop/s (pedantic)\n", b->copy * 1e-9,
                b->float64 * 1e-12, b->float32 * 1e-12);
}

/* ---- handles of a row ---- */

/* A head of random numbers on the device, with what is made of it. */
class world {
  public:
    world(const bench &b, int64_t vocab_rows, int64_t cols, int32_t dtype)
        : vocab(vocab_rows), hidden(cols),
          memory(static_cast<size_t>(vocab_rows * cols) * (dtype == SALF_F32 ? 4 : 2)) {
        const size_t rows = static_cast<size_t>(vocab), width = static_cast<size_t>(hidden);
        if (dtype == SALF_F32)
            fill_rows<float>(reinterpret_cast<float *>(static_cast<char *>(memory)), rows, width, 1,
                             [](float x) { return x; });
        else
            fill_rows<uint16_t>(reinterpret_cast<uint16_t *>(static_cast<char *>(memory)), rows, width, 1, to_bf16);
        salf_model_options options;
        salf_options_init(&options, sizeof options);
        options.n_layers = b.size->layers;
        options.hidden = hidden;
        options.vocab = vocab;
        options.head = device_view(memory, vocab, hidden, dtype);
        ok("model", salf_model_create(&model, b.context, &options));
    }
    ~world() {
        salf_probe_destroy(probe);
        salf_basis_destroy(basis);
        salf_model_destroy(model);
    }
    world(const world &) = delete;
    world &operator=(const world &) = delete;

    /* Labels spread over the vocabulary, then basis and probe for them. */
    void make_probe(int32_t metric, int64_t rows) {
        salf_probe_options options;
        salf_options_init(&options, sizeof options);
        options.metric = metric;
        options.lens = SALF_LENS_RAW;
        for (int64_t r = 0; r < rows; r++) labels.push_back(static_cast<int32_t>(r % 997 * 131 % vocab));
        ok("basis", salf_basis_create(&basis, model, labels.data(), rows, nullptr));
        ok("probe", salf_probe_create(&probe, basis, &options));
    }

    int64_t vocab, hidden;
    device_array<char> memory;
    std::vector<int32_t> labels;
    salf_model *model = nullptr;
    salf_basis *basis = nullptr;
    salf_probe *probe = nullptr;
};

/* bf16 states of all spaces, rows scattered by an index on the device. Spaces that do not fit the memory that is free
 * share what fits: each is far larger than the device's cache then, so that none is found there. */
class all_states {
  public:
    all_states(const bench &b, int64_t count) : rows(count), hidden(b.size->hidden), spaces(b.size->layers + 1) {
        const size_t bytes = static_cast<size_t>(rows * hidden) * 2;
        size_t left = 0, whole = 0;
        ok("memory", cudaMemGetInfo(&left, &whole));
        held =
            static_cast<int32_t>(std::min<size_t>(static_cast<size_t>(spaces), std::max<size_t>(1, left / 2 / bytes)));
        memory = std::make_unique<device_array<uint16_t>>(static_cast<size_t>(held) * bytes / 2);
        fill_rows<uint16_t>(*memory, static_cast<size_t>(held * rows), static_cast<size_t>(hidden), 2, to_bf16);
        std::vector<int64_t> order(static_cast<size_t>(rows));
        for (size_t r = 0; r < order.size(); r++) order[r] = static_cast<int64_t>(r);
        uint32_t seed = 9;
        for (size_t r = order.size(); r > 1; r--) {
            seed = seed * 1664525u + 1013904223u;
            std::swap(order[r - 1], order[(static_cast<uint64_t>(seed) * r) >> 32]);
        }
        index = std::make_unique<device_array<int64_t>>(order.size());
        send<int64_t>(*index, order);
    }
    void observe(salf_probe *probe) const {
        for (int32_t s = 0; s < spaces; s++) {
            salf_tensor view = device_view(*memory + static_cast<size_t>(s % held) * static_cast<size_t>(rows * hidden),
                                           rows, hidden, SALF_BF16);
            view.row_index = *index;
            ok("observe", salf_probe_observe(probe, s, &view, SALF_STATE_RAW));
        }
    }
    int64_t rows, hidden;
    int32_t spaces, held;

  private:
    std::unique_ptr<device_array<uint16_t>> memory;
    std::unique_ptr<device_array<int64_t>> index;
};

void finish(salf_probe *probe) {
    salf_trace trace;
    ok("end", salf_probe_end(probe, &trace));
}

/* A batch from the first space to the copy of its result, enqueued; the wait for it is not timed. */
double time_batch(const bench &b, const world &w, const all_states &states) {
    bool begun = false;
    const double seconds = timed(b.stream, b.runs, [&] {
        if (begun) finish(w.probe);
        ok("begin", salf_probe_begin(w.probe, w.labels.data(), states.rows));
        begun = true;
        states.observe(w.probe);
        ok("flush", salf_probe_flush(w.probe));
    });
    finish(w.probe);
    return seconds;
}

/* ---- rows ---- */

std::string text_of(const char *format, int64_t a, int64_t b) {
    char text[96];
    std::snprintf(text, sizeof text, format, static_cast<long long>(a), static_cast<long long>(b));
    return text;
}

/* A batch of few rows is bound by launches: 33 of them and a copy, or one replay of a graph. */
void bench_host(const bench &b) {
    world w(b, 2 * b.size->hidden, b.size->hidden, SALF_BF16);
    const all_states states(b, b.size->scored);
    w.make_probe(SALF_METRIC_COSINE, states.rows);
    const std::string what = text_of("cosine, %lld rows x %lld spaces", states.rows, states.spaces);
    const double launched = time_batch(b, w, states);
    print_row(what + ", launched", launched, 0, "", 0);
    double held = 1e30;
    for (int k = 0; k < b.runs; k++) {
        ok("begin", salf_probe_begin(w.probe, w.labels.data(), states.rows));
        const auto start = std::chrono::steady_clock::now();
        states.observe(w.probe);
        ok("flush", salf_probe_flush(w.probe));
        held = std::min(held, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        finish(w.probe);
    }
    print_row(what + ", time of the host", held, 0, "", 0);

    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ok("begin", salf_probe_begin(w.probe, w.labels.data(), states.rows));
    ok("capture", cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal));
    states.observe(w.probe);
    ok("flush", salf_probe_flush(w.probe));
    ok("capture", cudaStreamEndCapture(b.stream, &graph));
    ok("graph", cudaGraphInstantiate(&exec, graph, 0));
    const double replayed = timed(b.stream, b.runs, [&] { ok("graph", cudaGraphLaunch(exec, b.stream)); });
    print_row(what + ", one replay", replayed, launched, "the time launched", 1);
    ok("graph", cudaGraphExecDestroy(exec));
    ok("graph", cudaGraphDestroy(graph));
    salf_probe_destroy(w.probe); /* in the midst of a batch that was only captured */
    w.probe = nullptr;
}

void bench_cosine(const bench &b) {
    for (const int64_t rows : b.size->rows) {
        world w(b, 2 * b.size->hidden, b.size->hidden, SALF_BF16);
        const all_states states(b, rows);
        w.make_probe(SALF_METRIC_COSINE, rows);
        const double bytes = static_cast<double>(states.spaces) * static_cast<double>(rows * b.size->hidden) * 2;
        print_row(text_of("cosine bf16, scattered, %lld rows x %lld spaces", rows, states.spaces),
                  time_batch(b, w, states), bytes / b.copy, "the copy bandwidth", 0.8);
    }
}

void bench_score(const bench &b) {
    world w(b, b.size->vocab, b.size->hidden, SALF_BF16);
    const all_states states(b, b.size->scored);
    const double products = static_cast<double>(states.rows) * states.spaces;
    const double floor = 2 * products * static_cast<double>(w.vocab * w.hidden) / b.float32;
    for (const int32_t metric : {SALF_METRIC_CE, SALF_METRIC_RANK}) {
        size_t before = 0, after = 0, whole = 0;
        const char *name = metric == SALF_METRIC_CE ? "ce" : "rank";
        w.make_probe(metric, states.rows);
        ok("memory", cudaMemGetInfo(&before, &whole));
        const double seconds = time_batch(b, w, states);
        ok("memory", cudaMemGetInfo(&after, &whole));
        print_row(text_of("%lld rows x %lld spaces, ", states.rows, states.spaces) + name + " over " +
                      std::to_string(w.vocab) + " tokens",
                  seconds, floor, "cuBLAS's float32 rate", 0.7);
        /* A [rows, V] matrix of float32, which is never made, would be the floor of the memory. */
        const double taken = before > after ? static_cast<double>(before - after) : 0;
        const double matrix = products * static_cast<double>(w.vocab) * 4;
        if (b.size != &small)
            std::printf("%s - %s takes %.0f MiB of memory for a batch; a [rows, V] matrix would be %.0f MiB\n",
                        taken < matrix / 2 ? "ok" : "not ok", name, taken / (1 << 20), matrix / (1 << 20));
        salf_probe_destroy(w.probe);
        salf_basis_destroy(w.basis);
        w.probe = nullptr;
        w.basis = nullptr;
        w.labels.clear();
    }
}

/* The Gram matrix is V D^2 operations by its symmetry, its factor D^3 / 3; a row of a label 2 D^2 more. */
void bench_basis(const bench &b) {
    for (const auto &head : b.size->heads)
        for (const int32_t dtype : {SALF_BF16, SALF_F32}) {
            const world w(b, head.vocab, head.hidden, dtype);
            const double d = static_cast<double>(w.hidden);
            const double operations = static_cast<double>(w.vocab) * d * d + d * d * d / 3;
            const std::vector<int32_t> labels = {7, 11, 2, 5, 1, 3};
            const double seconds = timed(b.stream, 2, [&] {
                salf_basis *basis = nullptr;
                ok("basis", salf_basis_create(&basis, w.model, labels.data(), 6, nullptr));
                salf_basis_destroy(basis);
            });
            print_row(text_of("basis of 6 labels, %lld x %lld ", w.vocab, w.hidden) +
                          (dtype == SALF_F32 ? "float32" : "bf16"),
                      seconds, operations / b.float64, "cuBLAS's float64 rate", 0.7);
        }
}

} // namespace

int main(int argc, char **argv) {
    const struct {
        const char *name;
        void (*run)(const bench &);
    } groups[] = {{"host", bench_host}, {"cosine", bench_cosine}, {"score", bench_score}, {"basis", bench_basis}};
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        std::printf("SKIPPED: there is no CUDA device\n");
        return 0;
    }
    bench b = {&real, 7, nullptr, nullptr, 0, 0, 0};
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    std::vector<std::string> wanted;
    for (int k = 2; k < argc; k++) {
        if (std::strcmp(argv[k], "--small") == 0) {
            b.size = &small;
            b.runs = 2;
            continue;
        }
        wanted.push_back(argv[k]);
        if (std::none_of(std::begin(groups), std::end(groups), [&](const auto &g) { return wanted.back() == g.name; }))
            give_up(argv[k], "no group of rows; there are host, cosine, score and basis");
    }
    ok("stream", cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking));
    options.backend = SALF_BACKEND_CUDA;
    options.plugin_path = argc > 1 ? argv[1] : nullptr;
    options.stream = b.stream;
    ok("context", salf_context_create(&b.context, &options));
    measure_floors(&b);
    for (const auto &group : groups)
        if (wanted.empty() || std::find(wanted.begin(), wanted.end(), group.name) != wanted.end()) group.run(b);
    salf_context_destroy(b.context);
    std::printf("ok - all rows of the benchmark were measured\n");
    return 0;
}
