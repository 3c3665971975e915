/*
 * emulator.h - an NVIDIA device in host memory, for tests of the plugin's logic on machines without one.
 *
 * What it emulates: the calls that include/ declares, from one library that stands for cudart, cuBLAS and cuSOLVER.
 * What a stream is given runs only when somebody waits for it, so that a missing wait or a staging buffer filled too
 * early shows in the results. Device memory holds NaN when new, cannot be touched by the host, and ends in a guard
 * page. Threads of a block are fibers that run in a shuffled order; they must meet at barriers and in shuffles. Not
 * emulated: timing, floating-point contraction, memory that two blocks race for.
 *
 * Misuse that a device would punish with a crash or wrong results prints a line and aborts.
 */
#ifndef EMULATOR_H
#define EMULATOR_H

#include <stdint.h>

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct emulator_device {
    int count;        /* of devices; 0: none */
    int driver;       /* version; 0: no driver */
    int major, minor; /* compute capability */
    uint64_t memory;  /* bytes of each */
} emulator_device;

/* Counters since the last reset. */
typedef struct emulator_counts {
    int64_t calls;         /* that can fail */
    int64_t allocations;   /* cudaMalloc and cudaHostAlloc */
    int64_t waits;         /* calls that waited for a stream or an event, or may have */
    int64_t launches;      /* kernels and library calls enqueued */
    int64_t bytes_to_host; /* copied from the device */
    int64_t bytes_to_device;
    int64_t live_device;  /* bytes allocated now; not reset */
    int64_t live_host;    /* bytes of pinned memory now; not reset */
    int64_t live_handles; /* streams, events, graphs, library handles now; not reset */
    int64_t graph_launches;
    int64_t contexts; /* retained and not released; not reset */
} emulator_counts;

void emulator_set_device(const emulator_device *device);
emulator_counts emulator_get_counts(void);
void emulator_reset_counts(void);
/* The n-th call from now on that can fail does so (0: the next); name of the call that failed in emulator_failed(),
 * NULL when none has yet. -1: none fails. */
void emulator_fail_call(int64_t n);
const char *emulator_failed(void);
/* The next operation that a stream runs breaks the device: every later call fails, as after a bad address. 0 repairs
 * it. */
void emulator_break(int broken);
/* Order in which threads of a block and blocks run. */
void emulator_shuffle(uint64_t seed);
/* Whether a copy of what a device pointer holds may be read: copies bytes out without any call that counts. */
void emulator_peek(void *to, const void *device, uint64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
