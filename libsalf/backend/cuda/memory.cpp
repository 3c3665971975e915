/*
 * memory.cpp - device and page-locked memory, copies, events; scratch that only grows.
 *
 * cudaMalloc and cudaFree wait for the device, which is why they stand outside of steps: a step finds its scratch there
 * from the step before, and a graph that captured it keeps what it refers to.
 */
#include <string.h>

#include "device.h"

/* 0 bytes give a valid pointer as well. */
salf_status slf_device_memory(slf_device *device, uint64_t bytes, void **memory) {
    void *made = nullptr;
    SLF_CUDA(device, cudaMalloc(&made, bytes > 0 ? bytes : 1));
    *memory = made;
    return SALF_OK;
}

/* A graph that was captured may be replayed at any time, so that what it used is kept until the end. */
static salf_status outgrow(slf_device *device, slf_buffer *buffer) {
    if (!buffer->memory) return SALF_OK;
    if (!device->captured) {
        SLF_CUDA(device, cudaFree(buffer->memory));
        *buffer = slf_buffer{nullptr, 0};
        return SALF_OK;
    }
    slf_retired *retired =
        static_cast<slf_retired *>(device->services.alloc(device->services.context, 1, sizeof(slf_retired)));
    if (!retired) return SALF_E_NO_MEMORY;
    *retired = slf_retired{device->retired, buffer->memory};
    device->retired = retired;
    *buffer = slf_buffer{nullptr, 0};
    return SALF_OK;
}

/* Growing frees what was there: in stream order nothing reads it any more, since cudaFree waits. Under a capture no
 * memory can be made, and a graph whose scratch is missing would be wrong at replay: refused. */
salf_status slf_scratch(slf_device *device, int kind, uint64_t bytes, void **memory) {
    slf_buffer *buffer = &device->scratch[kind];
    if (buffer->bytes < bytes) {
        if (device->capturing)
            return device->services.fail(SALF_E_SEQUENCE,
                                         "%llu bytes of scratch are needed under a capture, and %llu are there: run a "
                                         "step of this shape once before it is captured",
                                         static_cast<unsigned long long>(bytes),
                                         static_cast<unsigned long long>(buffer->bytes));
        SLF_TRY(outgrow(device, buffer));
        SLF_TRY(slf_device_memory(device, bytes, &buffer->memory));
        buffer->bytes = bytes;
    }
    *memory = buffer->memory;
    return SALF_OK;
}

/* Whole tiles of 64 rows, for which the products are fastest, where there are that many; a workspace below one row's
 * bytes still gives one row. */
int64_t slf_fitting_rows(const slf_device *device, int64_t rows, uint64_t bytes_per_row) {
    const uint64_t limit = device->services.options->workspace_limit / (bytes_per_row ? bytes_per_row : 1);
    /* A grid has at most 2^31 - 1 blocks, and there is one for each row. */
    uint64_t fitting = limit < static_cast<uint64_t>(INT32_MAX) ? limit : INT32_MAX;
    if (fitting > 64) fitting -= fitting % 64; /* whole tiles of the products */
    if (fitting < 1) fitting = 1;
    return static_cast<uint64_t>(rows) < fitting ? rows : static_cast<int64_t>(fitting);
}

/* Errors of kernels that were enqueued before show here. */
salf_status slf_device_wait(slf_device *device) {
    SLF_CUDA(device, cudaStreamSynchronize(device->stream));
    return SALF_OK;
}

/* By way of page-locked memory: a copy to pageable memory would be staged by the driver, and wait in its own way. */
salf_status slf_read_back(slf_device *device, void *to, const void *from, uint64_t bytes) {
    /* A few numbers at most: SLF_RESULT_BYTES were locked for them when the device was opened. */
    SLF_CUDA(device, cudaMemcpyAsync(device->host_result, from, bytes, cudaMemcpyDeviceToHost, device->stream));
    SLF_TRY(slf_device_wait(device));
    memcpy(to, device->host_result, bytes);
    return SALF_OK;
}

/* ---- slots ---- */

/* Outside of steps: cudaMalloc and cudaHostAlloc may wait for the device. */
salf_status slf_cuda_alloc(void *self, int32_t kind, uint64_t bytes, void **memory) {
    const slf_entry in(self);
    void *made = nullptr;
    SLF_TRY(in.status);
    if (kind == SLF_MEMORY_BACKEND) return slf_device_memory(in.device, bytes, memory);
    SLF_CUDA(in.device, cudaHostAlloc(&made, bytes > 0 ? bytes : 1, cudaHostAllocDefault));
    *memory = made;
    return SALF_OK;
}

/* What fails here cannot be reported, and is not left for the host to find. */
void slf_cuda_free(void *self, int32_t kind, void *memory) {
    if (!memory) return;
    const slf_entry in(self, true);
    slf_cuda_forget(kind == SLF_MEMORY_BACKEND  ? cudaFree(memory)
                    : kind == SLF_MEMORY_PINNED ? cudaFreeHost(memory)
                                                : cudaEventDestroy(static_cast<cudaEvent_t>(memory)));
}

/* Enqueued, also to pageable host memory, where the runtime may wait by itself. Between two places of the host nothing
 * is pending that the copy could overtake: it is done at once. */
salf_status slf_cuda_copy(void *self, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                          uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    const bool to_host = to_memory == SALF_MEMORY_HOST, from_host = from_memory == SALF_MEMORY_HOST;
    if (to_host && from_host) {
        memmove(to, from, bytes);
        return SALF_OK;
    }
    const slf_entry in(self);
    SLF_TRY(in.status);
    const cudaMemcpyKind kind = to_host     ? cudaMemcpyDeviceToHost
                                : from_host ? cudaMemcpyHostToDevice
                                            : cudaMemcpyDeviceToDevice;
    SLF_CUDA(in.device, cudaMemcpyAsync(to, from, bytes, kind, in.device->stream));
    return SALF_OK;
}

salf_status slf_cuda_sync(void *self) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    return slf_device_wait(in.device);
}

/* ---- events ---- */

/* Under a capture the record becomes a node of the graph, which marks the event for the host at each replay. */
salf_status slf_cuda_mark(void *self, void **event) {
    const slf_entry in(self);
    cudaEvent_t made = static_cast<cudaEvent_t>(*event);
    SLF_TRY(in.status);
    if (!made) {
        SLF_CUDA(in.device, cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
        *event = made; /* the caller's, whatever becomes of the record */
    }
    /* An event recorded in a capture without the flag belongs to the graph alone: the host could never wait for it. */
    const unsigned flags = in.device->capturing ? cudaEventRecordExternal : cudaEventRecordDefault;
    SLF_CUDA(in.device, cudaEventRecordWithFlags(made, in.device->stream, flags));
    return SALF_OK;
}

/* Waits without the lock, which others may need to enqueue what the host waits for. */
static salf_status wait_for(slf_device *device, cudaEvent_t event) {
    CUcontext popped;
    if (device->libraries.push_context(device->context) != CUDA_SUCCESS)
        return device->services.fail(SALF_E_DEVICE, "cuCtxPushCurrent failed (device %d)", device->ordinal);
    const salf_status status = slf_cuda_check(device, cudaEventSynchronize(event), "cudaEventSynchronize");
    device->libraries.pop_context(&popped);
    return status;
}

/* cudaEventQuery says "not ready" by an error code that is none. */
salf_status slf_cuda_wait(void *self, void *event, int32_t *ready) {
    if (ready) *ready = 1;
    if (!event) return SALF_OK;
    if (!ready) return wait_for(static_cast<slf_device *>(self), static_cast<cudaEvent_t>(event));
    const slf_entry in(self);
    SLF_TRY(in.status);
    const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(event));
    *ready = error == cudaSuccess;
    return error == cudaErrorNotReady ? SALF_OK : slf_cuda_check(in.device, error, "cudaEventQuery");
}
