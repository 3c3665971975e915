/*
 * context.c - what everything else lives in: backend, memory hooks, log, threads, ranks.
 *
 * Backends are tried in order of preference; the first that opens is taken. An explicit choice has no second.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

/* Scratch of a call where the host sets no limit. A device needs larger blocks of rows than a processor to be busy. */
#define HOST_WORKSPACE   ((uint64_t)16 << 20)
#define DEVICE_WORKSPACE ((uint64_t)256 << 20)

/* More is a mistake of the host; each thread costs a stack. */
#define MOST_THREADS 1024

/* Milliseconds between two reports of progress: soon enough for somebody who waits behind Ctrl-C, and for a callback
 * that takes a lock of its interpreter no noticeable price. */
#define PROGRESS_INTERVAL 100

/* ---- what the rest of the library asks of a context ---- */

/* The message is cut at 511 bytes. Nothing is formatted that nobody reads. */
void slf_log(const salf_context *context, int32_t level, const char *format, ...) {
    if (!context->options.log || level > context->options.log_level) return;
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    context->options.log(context->options.log_user, level, message);
}

/* When this thread last reported, in nanoseconds; over all its calls, so that many short ones report no more often than
 * a long one. */
static _Thread_local int64_t last_report;

/* The clock is asked each time, which takes some 30 ns beside milliseconds of work; the host only when it is time. What
 * its callback does is not looked at: like all callbacks it runs in the library's arithmetic, and may take a lock. */
salf_status slf_proceed(const salf_context *context, const char *what, int64_t done, int64_t total) {
    const salf_context_options *o = &context->options;
    if (!o->progress) return SALF_OK;
    const int64_t time = slf_clock();
    if (time - last_report < (int64_t)o->progress_interval * 1000000) return SALF_OK;
    last_report = time;
    if (o->progress(o->progress_user, what, done, total) == 0) return SALF_OK;
    return slf_fail(SALF_E_CANCELLED, "cancelled by the host at %" PRId64 " of %" PRId64 ", %s", done, total, what);
}

void slf_parallel_for(const salf_context *context, int64_t count, int64_t grain, slf_loop_fn body, void *user) {
    if (count <= 0) return;
    if (context->pool && count > grain)
        slf_pool_run(context->pool, count, grain, body, user);
    else
        body(user, 0, count);
}

/* ---- choice of the backend ---- */

/* A failure leaves the context as it was, for the next backend: what a backend has opened counts once it is set. */
static salf_status open_backend(salf_context *context, const slf_backend *backend) {
    const uint64_t asked = context->options.workspace_limit;
    if (asked == 0)
        context->options.workspace_limit = backend->id == SALF_BACKEND_CUDA ? DEVICE_WORKSPACE : HOST_WORKSPACE;
    const slf_services services = {.options = &context->options,
                                   .fail = slf_fail,
                                   .alloc = slf_alloc,
                                   .free = slf_free,
                                   .parallel_for = slf_parallel_for,
                                   .proceed = slf_proceed,
                                   .context = context};
    const salf_status status = backend->open(&context->impl, &services, &context->kernels);
    if (status == SALF_OK)
        context->backend = backend;
    else
        context->options.workspace_limit = asked;
    return status;
}

/* The plugin stays open as long as the context: the table and all code of the backend lie in it. */
static salf_status open_by_id(salf_context *context, int32_t id) {
    if (id == SALF_BACKEND_REFERENCE) return open_backend(context, &slf_backend_reference);
    if (id == SALF_BACKEND_CPU) return open_backend(context, &slf_backend_cpu);
    const slf_backend *backend = NULL;
    SLF_TRY(slf_plugin_open(context->options.plugin_path, &context->plugin, &backend));
    const salf_status status = open_backend(context, backend);
    if (status != SALF_OK) {
        slf_plugin_close(context->plugin);
        context->plugin = NULL;
    }
    return status;
}

/* The options' choice, then the environment's, then cuda where it opens, then cpu. Only a lack of memory is no reason
 * to go on: on the cpu the run would be another, and slower by far, without anybody having asked for it. */
static salf_status choose_backend(salf_context *context) {
    /* 1. by name: a choice has no second */
    int32_t id = context->options.backend;
    const char *wish = slf_environment("SALF_BACKEND"), *word;
    if (id == SALF_BACKEND_AUTO && wish && *wish) {
        char known[128] = "";
        for (; (word = salf_constant_word("SALF_BACKEND", id)) != NULL; id++) {
            if (strcmp(wish, word) == 0) break;
            slf_list_word(known, sizeof known, ", ", word);
        }
        if (!word)
            return slf_fail(SALF_E_BACKEND, "the environment variable SALF_BACKEND is '%s', none of %s", wish, known);
    }
    if (context->options.blas && id == SALF_BACKEND_AUTO) id = SALF_BACKEND_CPU;
    if (context->options.blas && id != SALF_BACKEND_CPU)
        return slf_fail(SALF_E_ARGUMENT, "blas is for the backend cpu, not for %s",
                        salf_constant_word("SALF_BACKEND", id));
    if (id != SALF_BACKEND_AUTO) return open_by_id(context, id);
    /* 2. the best that opens; a call that succeeds leaves the message as it is */
    const slf_message kept = slf_message_keep();
    const bool worth = context->options.plugin_path || slf_plugin_worth_opening();
    const salf_status status =
        worth ? open_by_id(context, SALF_BACKEND_CUDA) : slf_fail(SALF_E_BACKEND, "no sign of a device's driver");
    if (status == SALF_OK || status == SALF_E_NO_MEMORY) return status;
    slf_log(context, SALF_LOG_INFO, "no cuda backend (%s); using cpu", salf_last_error());
    slf_message_restore(&kept);
    return open_by_id(context, SALF_BACKEND_CPU);
}

/* ---- life ---- */

/* The plugin goes after its backend, whose close lies in it. In a forked process a device is left alone: no driver may
 * be called there for what its parent has, and the parent goes on using it. */
static void context_free(salf_context *context) {
    const bool plugin = context->plugin != NULL, ours = !plugin || slf_context_at_home(context);
    if (context->backend && ours) context->backend->close(context->impl);
    if (plugin && ours) slf_plugin_close(context->plugin);
    slf_pool_destroy(context->pool);
    const salf_context_options options = context->options;
    options.free(options.alloc_user, context, sizeof *context);
}

salf_status salf_context_create(salf_context **out, const salf_context_options *options) {
    SLF_OUT(out);
    SLF_OPTIONS(salf_context_options, own, options);
    SLF_TRY(slf_check_word("backend", "SALF_BACKEND", own.backend));
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(&own, threads, 0, MOST_THREADS), SLF_RANGE(&own, device, 0, INT32_MAX),
                             SLF_RANGE(&own, progress_interval, -1, INT32_MAX), SLF_RANGE(&own, read_files, 0, 1),
                             SLF_RANGE(&own, reserved, 0, 0)));
    if (!own.alloc != !own.free)
        return SLF_FAIL(SALF_E_NULL, "alloc and free must be given together; %s is NULL", own.alloc ? "free" : "alloc");
    if (own.log_level != 0) SLF_TRY(slf_check_word("log_level", "SALF_LOG", own.log_level));
    if (own.progress_interval == 0) own.progress_interval = PROGRESS_INTERVAL;
    if (own.ranks < 0 || own.rank < 0 || own.rank >= SLF_MAX(own.ranks, 1))
        return SLF_FAIL(SALF_E_ARGUMENT, "rank %d of %d ranks", (int)own.rank, (int)own.ranks);
    if (own.ranks > 1 && !own.all_reduce)
        return SLF_FAIL(SALF_E_NULL, "%d ranks, but all_reduce is NULL", (int)own.ranks);
    slf_memory_defaults(&own);
    salf_blas blas = {0};
    if (own.blas) {
        SLF_TRY(slf_options_read(&blas, sizeof blas, own.blas, "salf_blas"));
        SLF_TRY(SLF_CHECK_RANGES({"reserved of salf_blas", blas.reserved, 0, 0}));
        if (!blas.product && !blas.potrf) return SLF_FAIL(SALF_E_NULL, "blas has neither product nor potrf");
        if (!blas.name) blas.name = "host";
    }
    if (own.log_level == 0) own.log_level = SALF_LOG_WARNING;
    if (own.ranks == 0) own.ranks = 1;
    /* Straight from the hook: slf_alloc needs a context. */
    salf_context *context = own.alloc(own.alloc_user, sizeof *context, SLF_ALIGNMENT);
    if (!context) return SLF_FAIL(SALF_E_NO_MEMORY, "out of memory: %zu bytes asked for", sizeof *context);
    memset(context, 0, sizeof *context);
    context->options = own;
    context->process = slf_process();
    context->blas = blas;
    if (own.blas) context->options.blas = &context->blas;
    atomic_init(&context->references, 1);
    salf_status status = SALF_OK;
    /* Threads first: a backend may ask for parallel loops as soon as it is opened. */
    if (own.threads > 1) status = slf_pool_create(context, own.threads, &context->pool);
    if (status == SALF_OK) status = choose_backend(context);
    context->options.plugin_path = NULL; /* borrowed for this call only */
    if (status == SALF_OK)
        *out = context;
    else
        context_free(context);
    return status;
}

/* Handles share their context; each holds a reference, so that the host may destroy them in any order. */
void salf_context_destroy(salf_context *context) {
    if (context && SLF_RELEASED(context)) context_free(context);
}

salf_status salf_context_get_info(const salf_context *context, salf_context_info *info) {
    SLF_REQUIRE(context, info);
    salf_context_info own = {.backend = context->backend->id,
                             .backend_name = context->backend->name,
                             .kernels = context->kernels,
                             .device = context->options.device,
                             .threads = context->options.threads,
                             .rank = context->options.rank,
                             .ranks = context->options.ranks,
                             .blas = ""};
    if (own.backend == SALF_BACKEND_CPU) own.blas = context->options.blas ? context->blas.name : slf_cpu_blas_name();
    return slf_info_write(info, &own, sizeof own, "salf_context_info");
}
