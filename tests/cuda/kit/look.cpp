/*
 * look.cpp - the first thing that the GPU kit does on a machine: is there a device, which one, which versions, and does
 * one probe of each metric give there what the cpu gives?
 *
 * Ends with status 3 where there is no device, after a line that begins with "NO DEVICE"; --device asks for no more
 * than that. Everything goes through the public API and the plugin that the argument names. */
#include <cmath>

#include "gpu_measure.h"

namespace {

/* Sizes of Qwen2-0.5B's hidden states, with a small vocabulary: a second on the cpu. The emulated device takes less. */
#ifdef SLF_EMULATED
enum { VOCAB = 512, HIDDEN = 96, LAYERS = 6, ROWS = 32, SPACES = LAYERS + 1 };
#else
enum { VOCAB = 4096, HIDDEN = 896, LAYERS = 24, ROWS = 32, SPACES = LAYERS + 1 };
#endif

/* What float32 products may be off by (docs/gpu.md): two gains closer than twice this may change places. */
constexpr double OFF = 3e-6;

void tell_device() {
    int count = 0, driver = 0, runtime = 0, processors = 0, major = 0, minor = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (error != cudaSuccess || count == 0) {
        std::printf("NO DEVICE: %s\n", error == cudaSuccess ? "there is none" : cudaGetErrorString(error));
        std::exit(3);
    }
    cudaDeviceProp properties;
    size_t left = 0, whole = 0;
    ok("driver", cudaDriverGetVersion(&driver));
    ok("runtime", cudaRuntimeGetVersion(&runtime));
    ok("properties", cudaGetDeviceProperties(&properties, 0));
    ok("processors", cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    ok("capability", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    ok("capability", cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
    ok("memory", cudaMemGetInfo(&left, &whole));
    std::printf("DEVICE %s, %.1f GiB (%.1f free), %d multiprocessors, compute capability %d.%d, driver for CUDA %d.%d, "
                "runtime %d.%d, devices: %d\n",
                properties.name, static_cast<double>(whole) / (1 << 30), static_cast<double>(left) / (1 << 30),
                processors, major, minor, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
                count);
}

/* Head and states, the same on both sides: rows of a direction that the label's head row turns towards with depth, so
 * that decisions differ from row to row. */
struct model_data {
    std::vector<float> head, states;
    std::vector<int32_t> labels;
};

model_data make_data() {
    model_data data;
    uint32_t seed = 11;
    for (int i = 0; i < VOCAB * HIDDEN; i++) data.head.push_back(next_number(&seed, 0.03f));
    for (int r = 0; r < ROWS; r++) data.labels.push_back(r * 97 % VOCAB);
    for (int s = 0; s < SPACES; s++)
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < HIDDEN; i++) {
                const float towards = data.head[static_cast<size_t>(data.labels[static_cast<size_t>(r)]) * HIDDEN +
                                                static_cast<size_t>(i)];
                const float share = static_cast<float>((s * (r % 5 + 3)) % SPACES) / SPACES;
                data.states.push_back(share * towards + next_number(&seed, 0.03f));
            }
    return data;
}

struct found {
    std::vector<double> deviations;
    std::vector<int32_t> eof;
};

/* One batch of a metric on a context; head and states lie where `head` and `states` do. */
found probe(salf_context *context, salf_tensor head, const std::vector<salf_tensor> &states,
            const std::vector<int32_t> &labels, int32_t metric) {
    salf_model_options shape;
    salf_probe_options options;
    salf_model *model = nullptr;
    salf_basis *basis = nullptr;
    salf_probe *probe = nullptr;
    salf_trace trace;
    salf_options_init(&shape, sizeof shape);
    salf_options_init(&options, sizeof options);
    shape.n_layers = LAYERS;
    shape.hidden = HIDDEN;
    shape.vocab = VOCAB;
    shape.head = head;
    options.metric = metric;
    options.lens = SALF_LENS_RAW;
    ok("model", salf_model_create(&model, context, &shape));
    ok("basis", salf_basis_create(&basis, model, labels.data(), ROWS, nullptr));
    ok("probe", salf_probe_create(&probe, basis, &options));
    ok("begin", salf_probe_begin(probe, labels.data(), ROWS));
    for (int32_t s = 0; s < SPACES; s++)
        ok("observe", salf_probe_observe(probe, s, &states[static_cast<size_t>(s)], SALF_STATE_RAW));
    ok("end", salf_probe_end(probe, &trace));
    const found result = {{trace.deviations, trace.deviations + ROWS * SPACES}, {trace.eof, trace.eof + ROWS}};
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    return result;
}

/* Deviations near each other, decisions equal but for ties; says how near. */
bool agree(const char *metric, const found &cpu, const found &gpu, double off) {
    double most = 0;
    int other = 0, wrong = 0;
    for (size_t i = 0; i < cpu.deviations.size(); i++)
        most = std::fmax(most, std::fabs(cpu.deviations[i] - gpu.deviations[i]));
    for (size_t r = 0; r < ROWS; r++) {
        const double *d = cpu.deviations.data() + r * SPACES;
        const int32_t here = gpu.eof[r], best = cpu.eof[r];
        other += here != best;
        wrong += here != best && std::fabs((d[here] - d[here + 1]) - (d[best] - d[best + 1])) > 2 * off;
    }
    const bool good = most <= off && wrong == 0;
    std::printf("%s - %s as on the cpu: deviations at most %.2g apart, %d of %d decisions other (%d beyond a tie)\n",
                good ? "ok" : "not ok", metric, most, other, static_cast<int>(ROWS), wrong);
    return good;
}

salf_context *context_of(int32_t backend, const char *plugin, cudaStream_t stream) {
    salf_context_options options;
    salf_context *context = nullptr;
    salf_options_init(&options, sizeof options);
    options.backend = backend;
    options.plugin_path = plugin;
    options.stream = backend == SALF_BACKEND_CUDA ? stream : nullptr;
    ok("context", salf_context_create(&context, &options));
    return context;
}

} // namespace

int main(int argc, char **argv) {
    tell_device();
    if (argc > 1 && std::strcmp(argv[1], "--device") == 0) return 0;
    cudaStream_t stream = nullptr;
    const model_data data = make_data();
    ok("stream", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    salf_context *cpu = context_of(SALF_BACKEND_CPU, nullptr, nullptr);
    salf_context *gpu = context_of(SALF_BACKEND_CUDA, argc > 1 ? argv[1] : nullptr, stream);
    std::printf("ok - a context on the device (libsalf %s)\n", salf_version_string());
    device_array<float> head(data.head.size()), states(data.states.size());
    send<float>(head, data.head);
    send<float>(states, data.states);
    std::vector<salf_tensor> there, here;
    for (size_t s = 0; s < SPACES; s++) {
        there.push_back(device_view(states + s * ROWS * HIDDEN, ROWS, HIDDEN, SALF_F32));
        here.push_back(
            device_view(const_cast<float *>(data.states.data()) + s * ROWS * HIDDEN, ROWS, HIDDEN, SALF_F32));
        here.back().memory = here.back().index_memory = SALF_MEMORY_HOST;
    }
    salf_tensor host_head = device_view(const_cast<float *>(data.head.data()), VOCAB, HIDDEN, SALF_F32);
    host_head.memory = host_head.index_memory = SALF_MEMORY_HOST;
    const struct {
        const char *name;
        int32_t metric;
        double off; /* a rank is a count: float32 products may swap neighbours, of VOCAB places */
    } metrics[] = {
        {"cosine", SALF_METRIC_COSINE, OFF}, {"ce", SALF_METRIC_CE, OFF}, {"rank", SALF_METRIC_RANK, 1.5 / VOCAB}};
    int bad = 0;
    for (const auto &m : metrics) {
        const found expected = probe(cpu, host_head, here, data.labels, m.metric);
        const found result = probe(gpu, device_view(head, VOCAB, HIDDEN, SALF_F32), there, data.labels, m.metric);
        bad += !agree(m.name, expected, result, m.off);
    }
    salf_context_destroy(gpu);
    salf_context_destroy(cpu);
    return bad > 0;
}
