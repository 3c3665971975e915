/* device_memory.c - backend memory: allocation, copies from and to the host. On the host backends these are plain
 * copies. */
#include "backend/device_memory.h"

#include <string.h>

/* At least 1 byte, so that a backend never has to say what an allocation of 0 is. out is the address of a
 * pointer to some type, which is no void **: so its bytes are set, NULL on failure. */
salf_status slf_backend_alloc(const salf_context *context, int32_t kind, uint64_t count, uint64_t size, void *out) {
    void *memory = NULL;
    salf_status status = SALF_OK;
    if (count > (uint64_t)INT64_MAX / size)
        status = slf_fail(SALF_E_NO_MEMORY, "%llu elements of %llu bytes do not fit memory", (unsigned long long)count,
                          (unsigned long long)size);
    else
        status = context->backend->alloc(context->impl, kind, SLF_MAX(count * size, 1), &memory);
    memcpy(out, &memory, sizeof memory);
    return status;
}

/* NULL is fine, so that what is half made can be freed without questions. What lies on a device belongs to the process
 * that made it: one that was forked from it leaves it there. */
void slf_backend_free(const salf_context *context, int32_t kind, void *memory) {
    if (!memory || (slf_device_readable(context) && !slf_context_at_home(context))) return;
    context->backend->free(context->impl, kind, memory);
}

/* Copies of no bytes are none: a backend never sees an address that a batch of no rows has not got. */
salf_status slf_upload(const salf_context *context, void *to, const void *from, uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    return context->backend->copy(context->impl, to, slf_backend_memory(context), from, SALF_MEMORY_HOST, bytes);
}

/* In stream order, so that to must stay until then. It is to be pinned memory: into other memory a device copies by way
 * of a buffer of its own, and this would wait after all. */
salf_status slf_download_later(const salf_context *context, void *to, const void *from, uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    return context->backend->copy(context->impl, to, SALF_MEMORY_HOST, from, slf_backend_memory(context), bytes);
}

/* The only call here that waits: what comes back is to be read. */
salf_status slf_download(const salf_context *context, void *to, const void *from, uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    SLF_TRY(slf_download_later(context, to, from, bytes));
    return slf_sync(context);
}

salf_status slf_device_copy(const salf_context *context, void *to, const void *from, uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    const int32_t memory = slf_backend_memory(context);
    return context->backend->copy(context->impl, to, memory, from, memory, bytes);
}

/* The copy is enqueued: from must stay until the stream has passed it, or slf_sync has been called. */
salf_status slf_device_copy_of(const salf_context *context, const void *from, uint64_t count, uint64_t size,
                               void *out) {
    void *memory;
    SLF_TRY(slf_device_alloc(context, count, size, &memory));
    const salf_status status = slf_upload(context, memory, from, count * size);
    if (status == SALF_OK)
        memcpy(out, &memory, sizeof memory);
    else
        slf_device_free(context, memory);
    return status;
}

/* What a block held is gone when it grows, and nothing is copied: a batch fills its arrays anew. Memory is given back
 * before more is taken, so that a device never holds both. */
salf_status slf_block_pair_lay_out(slf_block_pair *blocks, const salf_context *context, slf_layout_fn layout,
                                   void *user) {
    slf_carver device = {0}, host = {0};
    layout(user, &device, &host);
    if (device.used > blocks->device_bytes) {
        slf_device_free(context, blocks->device);
        blocks->device_bytes = 0;
        SLF_TRY(slf_device_alloc(context, device.used, 1, &blocks->device)); /* sets NULL on failure */
        blocks->device_bytes = device.used;
    }
    if (host.used > blocks->host_bytes) {
        slf_backend_free(context, SLF_MEMORY_PINNED, blocks->host);
        blocks->host_bytes = 0;
        SLF_TRY(slf_backend_alloc(context, SLF_MEMORY_PINNED, host.used, 1, &blocks->host));
        blocks->host_bytes = host.used;
    }
    device = (slf_carver){.base = blocks->device};
    host = (slf_carver){.base = blocks->host};
    layout(user, &device, &host);
    return SALF_OK;
}

/* The pair is empty afterwards, as at first, and may be laid out again. */
void slf_block_pair_free(slf_block_pair *blocks, const salf_context *context) {
    slf_device_free(context, blocks->device);
    slf_backend_free(context, SLF_MEMORY_PINNED, blocks->host);
    *blocks = (slf_block_pair){0};
}

/* Any type becomes float64 on the way, by a product without P. */
salf_status slf_rows_to_host(const salf_context *context, const salf_tensor *rows, double *device, double *host) {
    const slf_apply_job as_they_are = {.rows = rows, .out = device};
    SLF_TRY(context->backend->apply(context->impl, &as_they_are));
    return slf_download(context, host, device, (uint64_t)(rows->rows * rows->cols) * sizeof(double));
}
