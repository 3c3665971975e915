/* device_memory.h - memory of the backend. Not installed. */
#ifndef SALF_DEVICE_MEMORY_H
#define SALF_DEVICE_MEMORY_H

#include "core/carve.h"
#include "core/core.h"

/* What the backend's alloc makes (kind SLF_MEMORY_*), count elements of size bytes, and free gives back, events too.
 * out: the address of a pointer to some type, NULL on failure. NULL may be freed. */
salf_status slf_backend_alloc(const salf_context *context, int32_t kind, uint64_t count, uint64_t size, void *out);
void slf_backend_free(const salf_context *context, int32_t kind, void *memory);
/* Sets a pointer to count elements of what it points to in backend memory, NULL on failure; a status, for SLF_TRY. */
#define SLF_DEVICE_ALLOC(context, pointer, count) \
    slf_device_alloc((context), (uint64_t)(count), sizeof *(pointer), &(pointer))
static inline salf_status slf_device_alloc(const salf_context *context, uint64_t count, uint64_t size, void *out) {
    return slf_backend_alloc(context, SLF_MEMORY_BACKEND, count, size, out);
}
static inline void slf_device_free(const salf_context *context, void *memory) {
    slf_backend_free(context, SLF_MEMORY_BACKEND, memory);
}
/* Zeroes count numbers of 8 bytes, which are 0 as float64 and as int64: counts are cleared with it too. */
static inline salf_status slf_zero_doubles(const salf_context *context, void *memory, uint64_t count) {
    return context->backend->fill(context->impl, memory, (int64_t)count, 0);
}
/* Waits until all that was enqueued is done. */
static inline salf_status slf_sync(const salf_context *context) {
    return context->backend->sync(context->impl);
}
salf_status slf_upload(const salf_context *context, void *to, const void *from, uint64_t bytes);
/* Waits until the bytes are there. */
salf_status slf_download(const salf_context *context, void *to, const void *from, uint64_t bytes);
/* Does not: they are there after slf_sync, or once an event that is marked later is done. */
salf_status slf_download_later(const salf_context *context, void *to, const void *from, uint64_t bytes);
/* Between two places in backend memory. */
salf_status slf_device_copy(const salf_context *context, void *to, const void *from, uint64_t bytes);
/* Sets a pointer to new backend memory with a copy of count elements from the host; a status, for SLF_TRY. */
#define SLF_DEVICE_COPY_OF(context, pointer, from, count) \
    slf_device_copy_of((context), (from), (uint64_t)(count), sizeof *(pointer), &(pointer))
/* out: the address of a pointer to some type, untouched on failure. */
salf_status slf_device_copy_of(const salf_context *context, const void *from, uint64_t count, uint64_t size, void *out);

/* One block of backend memory and one of pinned memory, which is host memory that copies from and to the backend reach
 * without a stall. The arrays of a batch or a call are parts of the two. */
typedef struct slf_block_pair {
    void *device;
    void *host;
    uint64_t device_bytes;
    uint64_t host_bytes;
} slf_block_pair;
/* Carves the arrays that user has from both blocks. */
typedef void (*slf_layout_fn)(void *user, slf_carver *device, slf_carver *host);
/* Runs layout to measure, grows the blocks where they are too small (what they held is gone), and runs it to place.
 * After a failure the arrays are NULL. */
salf_status slf_block_pair_lay_out(slf_block_pair *blocks, const salf_context *context, slf_layout_fn layout,
                                   void *user);
void slf_block_pair_free(slf_block_pair *blocks, const salf_context *context);

/* Rows of any floating type as they are, in float64: device [rows][cols] is scratch, host [rows][cols] receives them.
 */
salf_status slf_rows_to_host(const salf_context *context, const salf_tensor *rows, double *device, double *host);

#endif
