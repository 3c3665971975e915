/* recording.h - what the recording plugin notes down, for the test that opens it. */
#ifndef SALF_TEST_RECORDING_H
#define SALF_TEST_RECORDING_H

#include <stdint.h>

#define RECORDING_SYMBOL "recording_plugin_state"

enum { RECORDING_MOST = 4096 };

/* One call of a slot. */
typedef struct recorded_call {
    const char *slot;
    int32_t to; /* copy: SALF_MEMORY_* of each side */
    int32_t from;
    uint64_t bytes;
} recorded_call;

typedef struct recording {
    int64_t n_calls; /* since the test set it to 0 */
    recorded_call calls[RECORDING_MOST];
    int64_t fail_at;   /* number of the call that fails with SALF_E_DEVICE; -1: none */
    int64_t alive;     /* allocations of either kind and events not given back */
    int64_t misplaced; /* pointers that were not where the table says they are */
    int32_t not_ready; /* polls that are still to find the event not ready */
    int32_t capturing; /* 1: cosine, copy and mark are kept instead of run */
    int32_t n_captured;
    void (*replay)(void);           /* runs what was kept */
    void *(*alloc)(uint64_t bytes); /* "device" memory of the test's */
    void (*free)(void *memory);
} recording;

/* The plugin exports a function of this type under RECORDING_SYMBOL. */
typedef recording *(*recording_fn)(void);

#endif
