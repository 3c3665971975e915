/* internal.h - what the files of the emulator share. */
#ifndef EMULATOR_INTERNAL_H
#define EMULATOR_INTERNAL_H

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <mutex>

#include "cuda_runtime_api.h"
#include "emulator.h"

namespace emulator {

/* One lock for all: a device that one thread uses at a time is a device. */
extern std::recursive_mutex lock;
using guard = std::lock_guard<std::recursive_mutex>;

extern emulator_counts counts;
extern emulator_device current;
extern bool broken;

int current_ordinal(); /* device of the calling thread */
[[noreturn]] void misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* At the head of a call that can fail: counts it; an error when it is to fail, which the call returns. */
cudaError_t enter(const char *call);
/* Remembers an error as cudaGetLastError gives it. */
cudaError_t remember(cudaError_t error);
bool enter_fails(const char *call); /* for the libraries */

/* ---- memory ---- */
enum class kind { none, device, pinned };
kind kind_of(const void *pointer);
/* Aborts unless [pointer, pointer + bytes) is device memory that is allocated. */
void need_device(const char *who, const void *pointer, uint64_t bytes);
void need_pinned(const char *who, const void *pointer, uint64_t bytes);
/* While one lives, device memory can be touched: operations run. */
struct opened {
    opened();
    ~opened();
};

/* ---- streams ---- */
cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation);
/* Runs all that the streams have. */
void run_everything();
bool capturing_anywhere();
/* A call that no capture allows: spoils captures and returns the error. */
cudaError_t unsafe_in_capture();
cudaError_t check_stream(cudaStream_t stream);

} // namespace emulator

#endif
