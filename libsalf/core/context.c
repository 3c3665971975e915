/*
 * context.c - what everything else lives in: backend, memory hooks, log, threads, ranks.
 *
 * Backends are tried in order of preference; the first that opens is taken. An explicit choice has no second.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/plugin.h"
#include "core/core.h"
#include "core/pool.h"

#define HOST_WORKSPACE   ((uint64_t)16 << 20)
#define DEVICE_WORKSPACE ((uint64_t)256 << 20)
#define MOST_THREADS     1024

/* ---- log ---- */

void slf_log(const salf_context *context, int32_t level, const char *format, ...) {
    if (!context->options.log || level > context->options.log_level) return;
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    context->options.log(context->options.log_user, level, message);
}

/* ---- collectives ---- */

salf_status slf_all_reduce(const salf_context *context, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    if (context->options.ranks < 2 || count == 0) return SALF_OK;
    const int32_t result =
        context->options.all_reduce(context->options.communicator_user, buffer, count, dtype, operation);
    if (result == 0) return SALF_OK;
    return slf_fail(SALF_E_CALLBACK, "all_reduce of %lld elements returned %d on rank %d", (long long)count,
                    (int)result, (int)context->options.rank);
}

/* ---- parallel loops ---- */

void slf_parallel_for(const salf_context *context, int64_t count, int64_t grain, slf_loop_fn body, void *user) {
    if (count <= 0) return;
    if (context->pool && count > grain)
        slf_pool_run(context->pool, count, grain, body, user);
    else
        body(user, 0, count);
}

/* ---- options ---- */

static salf_status check_ranks(const salf_context_options *o) {
    if (o->ranks < 0 || o->rank < 0 || (o->ranks >= 1 && o->rank >= o->ranks) || (o->ranks == 0 && o->rank != 0))
        return slf_fail(SALF_E_ARGUMENT, "salf_context_create: rank %d of %d ranks", (int)o->rank, (int)o->ranks);
    if (o->ranks > 1 && !o->all_reduce)
        return slf_fail(SALF_E_NULL, "salf_context_create: %d ranks, but all_reduce is NULL", (int)o->ranks);
    return SALF_OK;
}

static salf_status check_options(const salf_context_options *o) {
    if (o->backend < SALF_BACKEND_AUTO || o->backend > SALF_BACKEND_CUDA)
        return slf_fail(SALF_E_ARGUMENT, "salf_context_create: backend is %d, none of SALF_BACKEND_*", (int)o->backend);
    if (o->threads < 0 || o->threads > MOST_THREADS)
        return slf_fail(SALF_E_ARGUMENT, "salf_context_create: threads is %d, not in 0 ... %d", (int)o->threads,
                        MOST_THREADS);
    if (o->device < 0) return slf_fail(SALF_E_ARGUMENT, "salf_context_create: device is %d", (int)o->device);
    if (!o->alloc != !o->free)
        return slf_fail(SALF_E_NULL, "salf_context_create: alloc and free must be given together; %s is NULL",
                        o->alloc ? "free" : "alloc");
    if (o->log_level < 0 || o->log_level > SALF_LOG_DEBUG)
        return slf_fail(SALF_E_ARGUMENT, "salf_context_create: log_level is %d, none of SALF_LOG_*", (int)o->log_level);
    if (o->reserved != 0)
        return slf_fail(SALF_E_ARGUMENT, "salf_context_create: reserved is %d, not 0", (int)o->reserved);
    return check_ranks(o);
}

static void fill_defaults(salf_context_options *o) {
    slf_memory_defaults(o);
    if (o->log_level == 0) o->log_level = SALF_LOG_WARNING;
    if (o->ranks == 0) o->ranks = 1;
}

/* ---- choice of the backend ---- */

static void *service_alloc(const void *context, uint64_t count, uint64_t size) {
    return slf_alloc(context, count, size);
}

static void service_free(const void *context, void *memory) {
    slf_free(context, memory);
}

static void service_parallel_for(const void *context, int64_t count, int64_t grain, slf_loop_fn body, void *user) {
    slf_parallel_for(context, count, grain, body, user);
}

/* The workspace, where the host sets no limit, depends on the backend; a failure leaves it unset for the next one. */
static salf_status open_backend(salf_context *context, const slf_backend *backend) {
    const uint64_t asked = context->options.workspace_limit;
    if (asked == 0)
        context->options.workspace_limit = backend->id == SALF_BACKEND_CUDA ? DEVICE_WORKSPACE : HOST_WORKSPACE;
    const slf_services services = {.options = &context->options,
                                   .fail = slf_fail,
                                   .alloc = service_alloc,
                                   .free = service_free,
                                   .parallel_for = service_parallel_for,
                                   .context = context};
    void *impl = NULL;
    const char *kernels = NULL;
    const salf_status status = backend->open(&impl, &services, &kernels);
    if (status != SALF_OK) {
        context->options.workspace_limit = asked;
        return status;
    }
    context->backend = backend;
    context->impl = impl;
    context->kernels = kernels;
    return SALF_OK;
}

static salf_status open_cuda(salf_context *context) {
    const slf_backend *backend = NULL;
    SLF_TRY(slf_plugin_open(context, context->options.plugin_path, &context->plugin, &backend));
    const salf_status status = open_backend(context, backend);
    if (status != SALF_OK) {
        slf_plugin_close(context->plugin);
        context->plugin = NULL;
    }
    return status;
}

static salf_status open_by_id(salf_context *context, int32_t id) {
    switch (id) {
    case SALF_BACKEND_REFERENCE:
        return open_backend(context, &slf_backend_reference);
    case SALF_BACKEND_CPU:
        return open_backend(context, &slf_backend_cpu);
    default:
        return open_cuda(context);
    }
}

/* The backend that the environment asks for, AUTO where it does not. */
static salf_status backend_of_environment(int32_t *id) {
    static const char *const names[] = {"auto", "reference", "cpu", "cuda"};
    *id = SALF_BACKEND_AUTO;
    const char *wish = getenv("SALF_BACKEND");
    if (!wish || !*wish) return SALF_OK;
    for (int32_t i = 0; i < 4; i++)
        if (strcmp(wish, names[i]) == 0) {
            *id = i;
            return SALF_OK;
        }
    return slf_fail(SALF_E_BACKEND, "the environment variable SALF_BACKEND is '%s', none of auto, reference, cpu, cuda",
                    wish);
}

static salf_status choose_backend(salf_context *context) {
    int32_t id = context->options.backend;
    if (id == SALF_BACKEND_AUTO) SLF_TRY(backend_of_environment(&id));
    if (id != SALF_BACKEND_AUTO) return open_by_id(context, id);
    const slf_message kept = slf_message_keep();
    const salf_status status = open_cuda(context);
    if (status == SALF_OK || status == SALF_E_NO_MEMORY) return status;
    slf_log(context, SALF_LOG_INFO, "no cuda backend (%s); using cpu", salf_last_error());
    slf_message_restore(&kept);
    return open_by_id(context, SALF_BACKEND_CPU);
}

/* ---- life ---- */

static void context_free(salf_context *context) {
    if (context->backend) context->backend->close(context->impl);
    if (context->plugin) slf_plugin_close(context->plugin);
    slf_pool_destroy(context->pool);
    const salf_context_options options = context->options;
    options.free(options.alloc_user, context, sizeof *context);
}

salf_status salf_context_create(salf_context **out, const salf_context_options *options) {
    SLF_OUT(out);
    salf_context_options own;
    SLF_TRY(slf_options_read(&own, sizeof own, options, "salf_context_options"));
    SLF_TRY(check_options(&own));
    fill_defaults(&own);
    salf_context *context = own.alloc(own.alloc_user, sizeof *context, SLF_ALIGNMENT);
    if (!context)
        return slf_fail(SALF_E_NO_MEMORY, "out of memory: %llu bytes asked for", (unsigned long long)sizeof *context);
    memset(context, 0, sizeof *context);
    context->options = own;
    atomic_init(&context->references, 1);
    salf_status status = SALF_OK;
    if (own.threads > 1) status = slf_pool_create(context, own.threads, &context->pool);
    if (status == SALF_OK) status = choose_backend(context);
    context->options.plugin_path = NULL; /* borrowed for this call only */
    if (status != SALF_OK) {
        context_free(context);
        return status;
    }
    *out = context;
    return SALF_OK;
}

salf_context *slf_context_retain(salf_context *context) {
    atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
    return context;
}

void slf_context_release(salf_context *context) {
    if (context && atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) == 1) context_free(context);
}

void salf_context_destroy(salf_context *context) {
    slf_context_release(context);
}

salf_status salf_context_get_info(const salf_context *context, salf_context_info *info) {
    SLF_REQUIRE(context, info);
    const salf_context_info own = {.backend = context->backend->id,
                                   .backend_name = context->backend->name,
                                   .kernels = context->kernels,
                                   .device = context->options.device,
                                   .threads = context->options.threads,
                                   .rank = context->options.rank,
                                   .ranks = context->options.ranks};
    return slf_info_write(info, &own, sizeof own, "salf_context_info");
}
