/*
 * gpu_measure.h - what the measuring programs of the GPU share: calls that must succeed, device memory, time between
 * events, and rows of a table that stand beside a floor of the same run.
 *
 * A row is printed twice: as a line to read, and as a line "ROW {...}" of JSON that the kit's run.sh collects. Its
 * share is floor / seconds: how near the work comes to what the device can do, measured in this run; `reach` is what it
 * should come to. Times of different cards must not be compared; shares may be. */
#ifndef SALF_GPU_MEASURE_H
#define SALF_GPU_MEASURE_H

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "salf.h"

[[noreturn]] inline void give_up(const char *what, const char *why) {
    std::printf("not ok - %s: %s\n", what, why);
    std::exit(1);
}

inline void ok(const char *what, cudaError_t error) {
    if (error != cudaSuccess) give_up(what, cudaGetErrorString(error));
}
inline void ok(const char *what, salf_status status) {
    if (status != SALF_OK) give_up(what, salf_last_error());
}

/* ---- device memory ---- */

/* Of one type, given back at the end of the scope. */
template <typename T> class device_array {
  public:
    explicit device_array(size_t count) : memory(nullptr) {
        void *made = nullptr;
        ok("cudaMalloc", cudaMalloc(&made, count * sizeof(T)));
        memory = static_cast<T *>(made);
    }
    ~device_array() { cudaFree(memory); }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;
    operator T *() const { return memory; }

  private:
    T *memory;
};

/* Copies an array of the host to the device. */
template <typename T> void send(T *to, const std::vector<T> &from) {
    ok("copy", cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
}

/* Numbers that look like those of a head or a state: uniform in +-scale. */
inline float next_number(uint32_t *seed, float scale) {
    *seed = *seed * 1664525u + 1013904223u;
    return (static_cast<float>(*seed >> 8) / 16777216.0f - 0.5f) * 2 * scale;
}
inline uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
}

/* Fills device memory with `rows` rows of such numbers. The generator of the host would take longer than what is to be
 * measured, so that it makes some rows, which are then repeated, each time from another offset: no two rows are equal,
 * and the matrix has full rank as long as there are more rows made than columns. */
template <typename T> void fill_rows(T *to, size_t rows, size_t cols, uint32_t seed, T (*make)(float)) {
    const size_t made = rows < 2 * cols ? rows : 2 * cols;
    std::vector<T> block((made + 1) * cols);
    for (T &x : block) x = make(next_number(&seed, 0.03f));
    for (size_t first = 0, turn = 0; first < rows; first += made, turn++) {
        const size_t count = rows - first < made ? rows - first : made, from = turn * 17 % cols;
        ok("copy",
           cudaMemcpy(to + first * cols, block.data() + from, count * cols * sizeof(T), cudaMemcpyHostToDevice));
    }
}

inline salf_tensor device_view(void *data, int64_t rows, int64_t cols, int32_t dtype) {
    salf_tensor view = {};
    view.data = data;
    view.rows = rows;
    view.cols = cols;
    view.dtype = dtype;
    view.memory = view.index_memory = SALF_MEMORY_DEVICE;
    return view;
}

/* ---- time ---- */

/* Median seconds of `runs` runs, from event to event on the stream, after one that is not counted. */
inline double timed(cudaStream_t stream, int runs, const std::function<void()> &body) {
    cudaEvent_t begin, end;
    std::vector<double> times;
    ok("event", cudaEventCreateWithFlags(&begin, 0));
    ok("event", cudaEventCreateWithFlags(&end, 0));
    body();
    for (int k = 0; k < runs; k++) {
        float milliseconds = 0;
        ok("record", cudaEventRecord(begin, stream));
        body();
        ok("record", cudaEventRecord(end, stream));
        ok("wait", cudaEventSynchronize(end));
        ok("time", cudaEventElapsedTime(&milliseconds, begin, end));
        times.push_back(static_cast<double>(milliseconds) * 1e-3);
    }
    ok("event", cudaEventDestroy(begin));
    ok("event", cudaEventDestroy(end));
    for (size_t k = 1; k < times.size(); k++)
        for (size_t i = k; i > 0 && times[i] < times[i - 1]; i--) std::swap(times[i], times[i - 1]);
    return times[times.size() / 2];
}

/* ---- rows ---- */

/* floor: seconds that the device would need at least; 0: there is none. reach: the share wanted; 0: none is. */
inline void print_row(const std::string &what, double seconds, double floor, const std::string &floor_text,
                      double reach) {
    const double share = floor > 0 && seconds > 0 ? floor / seconds : 0;
    std::printf("%-52s %10.3f ms", what.c_str(), seconds * 1e3);
    if (floor > 0) std::printf("  %5.2f of %s", share, floor_text.c_str());
    if (reach > 0) std::printf("  (reach %.2f: %s)", reach, share >= reach ? "yes" : "no");
    std::printf("\nROW {\"what\": \"%s\", \"seconds\": %.9g", what.c_str(), seconds);
    if (floor > 0) std::printf(", \"share\": %.4f, \"of\": \"%s\"", share, floor_text.c_str());
    if (reach > 0) std::printf(", \"reach\": %.2f, \"met\": %s", reach, share >= reach ? "true" : "false");
    std::printf("}\n");
    std::fflush(stdout);
}

#endif
