/* device_memory.c - backend memory: allocation, copies from and to the host. On the host backends these are plain
 * copies. */
#include "backend/device_memory.h"

static int32_t backend_memory(const salf_context *context) {
    return slf_device_readable(context) ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
}

/* At least 1 byte. */
static salf_status bytes_of(uint64_t count, uint64_t size, uint64_t *bytes) {
    if (count > (uint64_t)INT64_MAX / size)
        return slf_fail(SALF_E_NO_MEMORY, "%llu elements of %llu bytes do not fit memory", (unsigned long long)count,
                        (unsigned long long)size);
    *bytes = count > 0 ? count * size : 1;
    return SALF_OK;
}

salf_status slf_device_alloc(const salf_context *context, uint64_t count, uint64_t size, void **out) {
    uint64_t bytes = 0;
    *out = NULL;
    SLF_TRY(bytes_of(count, size, &bytes));
    return context->backend->alloc(context->impl, SLF_MEMORY_BACKEND, bytes, out);
}

void slf_device_free(const salf_context *context, void *memory) {
    if (memory) context->backend->free(context->impl, SLF_MEMORY_BACKEND, memory);
}

salf_status slf_pinned_alloc(const salf_context *context, uint64_t count, uint64_t size, void **out) {
    uint64_t bytes = 0;
    *out = NULL;
    SLF_TRY(bytes_of(count, size, &bytes));
    return context->backend->alloc(context->impl, SLF_MEMORY_PINNED, bytes, out);
}

void slf_event_free(const salf_context *context, void *event) {
    if (event) context->backend->free(context->impl, SLF_EVENT, event);
}

salf_status slf_zero_doubles(const salf_context *context, void *memory, uint64_t count) {
    return context->backend->fill(context->impl, memory, (int64_t)count, 0);
}

salf_status slf_sync(const salf_context *context) {
    return context->backend->sync(context->impl);
}

void slf_pinned_free(const salf_context *context, void *memory) {
    if (memory) context->backend->free(context->impl, SLF_MEMORY_PINNED, memory);
}

salf_status slf_upload(const salf_context *context, void *to, const void *from, uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    return context->backend->copy(context->impl, to, backend_memory(context), from, SALF_MEMORY_HOST, bytes);
}

salf_status slf_download(const salf_context *context, void *to, const void *from, uint64_t bytes) {
    if (bytes == 0) return SALF_OK;
    SLF_TRY(context->backend->copy(context->impl, to, SALF_MEMORY_HOST, from, backend_memory(context), bytes));
    return context->backend->sync(context->impl);
}

salf_status slf_device_copy_of(const salf_context *context, const void *from, uint64_t count, uint64_t size,
                               void **out) {
    void *memory;
    SLF_TRY(slf_device_alloc(context, count, size, &memory));
    const salf_status status = slf_upload(context, memory, from, count * size);
    if (status != SALF_OK) {
        slf_device_free(context, memory);
        return status;
    }
    *out = memory;
    return SALF_OK;
}

salf_status slf_rows_to_host(const salf_context *context, const salf_tensor *rows, double *device, double *host) {
    const slf_apply_job as_they_are = {.rows = rows, .out = device};
    SLF_TRY(context->backend->apply(context->impl, &as_they_are));
    return slf_download(context, host, device, (uint64_t)(rows->rows * rows->cols) * sizeof(double));
}
