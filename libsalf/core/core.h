/* core.h - what the files of libsalf share: errors, options, memory, parallel loops, views of tensors. Not installed.
 */
#ifndef SALF_CORE_H
#define SALF_CORE_H

#include <fenv.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "backend/backend.h"
#include "core/numbers.h"
#include "core/system.h"
#include "salf.h"

#ifdef __MINGW32__ /* built with __USE_MINGW_ANSI_STDIO: C's own formats, not those of Microsoft's library */
#define SLF_PRINTF(text, first) __attribute__((format(gnu_printf, text, first)))
#else
#define SLF_PRINTF(text, first) __attribute__((format(printf, text, first)))
#endif

/* ---- status.c: errors ---- */

/* Sets this thread's message (printf form, one line) and returns status. Every error of the library starts here. */
salf_status slf_fail(salf_status status, const char *format, ...) SLF_PRINTF(2, 3);

/* The same in a public function: the message begins with the function's name. A helper has no name to pass on: its
 * message says which argument or field has which value, and that is enough to find it. */
#define SLF_FAIL(status, ...) slf_fail_in(__func__, (status), __VA_ARGS__)
salf_status slf_fail_in(const char *function, salf_status status, const char *format, ...) SLF_PRINTF(3, 4);

/* Puts one more word behind those of a list for a message, as far as whole words fit; "" is a list of none. */
void slf_list_word(char *list, size_t size, const char *separator, const char *word);

/* The message as it stands, for a call that tries something, fails at it and succeeds all the same. */
typedef struct slf_message {
    char text[512];
} slf_message;
slf_message slf_message_keep(void);
void slf_message_restore(const slf_message *kept);

/* Returns early with the status of a failing call; for places that hold nothing to free. */
#define SLF_TRY(call)                             \
    do {                                          \
        salf_status slf_try_ = (call);            \
        if (slf_try_ != SALF_OK) return slf_try_; \
    } while (0)

/* The same where something has to be given back: needs a variable `status`, and a label `done` behind which it is. */
#define SLF_DO(call)                                 \
    do {                                             \
        if ((status = (call)) != SALF_OK) goto done; \
    } while (0)

/* Checks required pointer arguments of a public function, in their order: SLF_REQUIRE(basis, labels, n_labels). */
#define SLF_REQUIRE(...)                                                            \
    SLF_TRY(slf_require(__func__, #__VA_ARGS__, (const void *const[]){__VA_ARGS__}, \
                        sizeof((const void *const[]){__VA_ARGS__}) / sizeof(void *)))
/* names: as the macro's caller wrote them, "basis, labels, n_labels"; the message has the first that is NULL. */
salf_status slf_require(const char *function, const char *names, const void *const *pointers, size_t n);

/* The start of a function that makes something: it needs an address for it, which holds NULL when it fails later. */
#define SLF_OUT(out)      \
    do {                  \
        SLF_REQUIRE(out); \
        *(out) = NULL;    \
    } while (0)

/*
 * What a number is must not depend on how the host's thread computes: a program may have denormal numbers flushed
 * (torch.set_flush_denormal, a library built with -ffast-math), rounds elsewhere or traps NaN. So each public function
 * that computes says SLF_OWN_ARITHMETIC first: IEEE 754 as a program starts with it until the function returns, then
 * the host's mode again, flags and all. Some 100 cycles. Callbacks of the host run in that mode too. Threads of a pool
 * have it from their start. Nor may flags of the compiler change it, that constants such as 1e-100 are of float32.
 */
_Static_assert(sizeof 1.0 == sizeof(double), "libsalf cannot be built with -fsingle-precision-constant");
#define SLF_OWN_ARITHMETIC                                                       \
    __attribute__((cleanup(slf_arithmetic_restore))) fenv_t slf_host_arithmetic; \
    slf_arithmetic_own(&slf_host_arithmetic)
static inline void slf_arithmetic_own(fenv_t *host) {
    fegetenv(host);
    fesetenv(FE_DFL_ENV); /* glibc clears FTZ and DAZ with it, on x86-64; FZ on ARM */
}
static inline void slf_arithmetic_restore(fenv_t *host) {
    fesetenv(host);
}

/* ---- options.c: versioned structs, ranges, traces ---- */

/* Copies a caller's options struct (may be NULL) into ours of own_size bytes: a shorter one is completed with zeros, a
 * longer one accepted when what we do not know of it is zero. type names the struct in messages. */
salf_status slf_options_read(void *own, uint32_t own_size, const void *theirs, const char *type);
/* The first line of a public function's options: declares own, of this type, and reads it. */
#define SLF_OPTIONS(type, own, theirs) \
    type own;                          \
    SLF_TRY(slf_options_read(&own, sizeof own, theirs, #type))

/* Whether the next can be done, for calls that must know before they do anything. */
salf_status slf_info_check(const void *theirs, const char *type);
/* Copies our filled struct into a caller's output struct, as much as its struct_size says; keeps that struct_size. */
salf_status slf_info_write(void *theirs, const void *own, uint32_t own_size, const char *type);

/* A number that has to be in least ... most (INFINITY: no bound), else SALF_E_ARGUMENT, naming it and its range; NaN is
 * in none. As doubles, which keep the sign and the order of 64-bit numbers, so that one table serves for all types. */
typedef struct slf_range {
    const char *name;
    double value, least, most;
} slf_range;
#define SLF_RANGE(options, field, least, most) \
    { #field, (double)(options)->field, (double)(least), (double)(most) }
#define SLF_CHECK_RANGES(...) \
    slf_check_ranges((const slf_range[]){__VA_ARGS__}, sizeof((const slf_range[]){__VA_ARGS__}) / sizeof(slf_range))
salf_status slf_check_ranges(const slf_range *ranges, size_t n);
/* A trace of m layers with eof and, if asked for, gains; owner ("policy") is who needs it, for messages. most: m where
 * data that train nothing are fine, whose labels were all to be ignored; else m - 1. */
salf_status slf_trace_check(const salf_trace *trace, int32_t m, bool gains, int32_t most, const char *owner);

/* ---- constants.c ---- */

/* SALF_E_ARGUMENT, with the words there are, unless value is one of a family ("SALF_METRIC"). field names it in the
 * message. A new constant of the family is accepted everywhere without a further line. */
salf_status slf_check_word(const char *field, const char *family, int64_t value);

/* ---- context.c: references, parallel loops ---- */

typedef struct slf_pool slf_pool;

struct salf_context {
    atomic_int references;
    int32_t process;              /* that made it */
    salf_context_options options; /* as given, defaults filled in; plugin_path not kept; blas is the next */
    salf_blas blas;
    const slf_backend *backend;
    void *impl;          /* what the backend's open made, the first argument of its slots */
    const char *kernels; /* instruction set in use; the backend's */
    slf_pool *pool;      /* NULL when options.threads < 2 */
    void *plugin;        /* handle of dlopen, or NULL */
};

/* One more reference to a handle that counts them. Relaxed: whoever asks for it holds one, so that nothing can be freed
 * meanwhile. */
#define SLF_RETAIN(handle) (atomic_fetch_add_explicit(&(handle)->references, 1, memory_order_relaxed), (handle))
/* One less; whether it was the last. acq_rel: whoever frees then has seen what the others did to the handle. */
#define SLF_RELEASED(handle) (atomic_fetch_sub_explicit(&(handle)->references, 1, memory_order_acq_rel) == 1)

/* Whether this is the process that made the context, and not one that was forked from it: the threads of a context, and
 * what it has on a device, are not there in a child. */
static inline bool slf_context_at_home(const salf_context *context) {
    return context->process == slf_process();
}

/* Whether the backend reads views in device memory; and the memory that it computes in, SALF_MEMORY_DEVICE or _HOST. */
static inline bool slf_device_readable(const salf_context *context) {
    return (context->backend->capabilities & SLF_CAN_DEVICE) != 0;
}
static inline int32_t slf_backend_memory(const salf_context *context) {
    return slf_device_readable(context) ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
}

/* Tells the host how far a call has come: done of total pieces of what, a few words. Every loop that may take longer
 * than a tenth of a second calls this between pieces of work that take less. SALF_E_CANCELLED when the host wants the
 * call to end: it ends as on any other error. Never called by another thread than the one that called the library. */
salf_status slf_proceed(const salf_context *context, const char *what, int64_t done, int64_t total);

void slf_log(const salf_context *context, int32_t level, const char *format, ...) SLF_PRINTF(3, 4);

/* Runs body(user, first, last) over pieces of 0 ... count-1, on the context's threads where it has some, and waits.
 * Pieces are at least grain long; how many there are must not change results. */
typedef void (*slf_loop_fn)(void *user, int64_t first, int64_t last);
void slf_parallel_for(const salf_context *context, int64_t count, int64_t grain, slf_loop_fn body, void *user);

/* ---- pool.c: worker threads of one context, for the library's own loops ---- */

/* Starts threads - 1 workers; the calling thread is the last one. Signals are blocked in the workers. */
salf_status slf_pool_create(const salf_context *context, int32_t threads, slf_pool **out);
void slf_pool_destroy(slf_pool *pool); /* NULL is fine */
/* Runs body over 0 ... count-1 in equal pieces of at least grain, and waits. When another thread of the host is using
 * the pool, the loop runs on the calling thread alone. */
void slf_pool_run(slf_pool *pool, int64_t count, int64_t grain, slf_loop_fn body, void *user);

/* ---- plugin.c: the device backend, opened at run time ---- */

/* Opens the plugin at an absolute path, or libsalf-cuda.so beside the file that holds this code when path is NULL, and
 * asks it for its table. SALF_E_PLUGIN: no such place, missing, not loadable (a library it needs is), without its
 * entry, of another version. */
salf_status slf_plugin_open(const char *path, void **handle, const slf_backend **backend);
void slf_plugin_close(void *handle);
/* Whether there is any sign of a device's driver, so that a plugin is worth opening for a host that did not ask for it:
 * the driver's library in the process, or one of its device files. Opens nothing. */
bool slf_plugin_worth_opening(void);
/* A variable of the environment; NULL in a process with more rights than its caller. */
const char *slf_environment(const char *name);

/* ---- memory.c: host memory, through the context's hooks ---- */

/* Of every block: a cache line. */
#define SLF_ALIGNMENT 64u

/* Puts the C library's functions where a context's options name none. */
void slf_memory_defaults(salf_context_options *options);
/* count * size bytes, aligned to SLF_ALIGNMENT; NULL with the message set when there is no memory or the product
 * overflows. count 0 gives a valid pointer. */
void *slf_alloc(const salf_context *context, uint64_t count, uint64_t size);
void *slf_alloc_zero(const salf_context *context, uint64_t count, uint64_t size);
void slf_free(const salf_context *context, void *memory);
void slf_free_all(const salf_context *context, void *const *blocks, size_t n);
/* Several, whose addresses are all read before the first goes: SLF_FREE(context, rows->labels, rows). */
#define SLF_FREE(context, ...) \
    slf_free_all((context), (void *const[]){__VA_ARGS__}, sizeof((void *const[]){__VA_ARGS__}) / sizeof(void *))
char *slf_strdup(const salf_context *context, const char *text);

/* Sets a pointer to count elements of what it points to, NULL on failure; the value is a status, for SLF_TRY. */
#define SLF_ALLOC(context, pointer, count)      SLF_ALLOC_BY_(slf_alloc, context, pointer, count)
#define SLF_ALLOC_ZERO(context, pointer, count) SLF_ALLOC_BY_(slf_alloc_zero, context, pointer, count)
#define SLF_ALLOC_BY_(alloc, context, pointer, count) \
    (((pointer) = alloc((context), (uint64_t)(count), sizeof *(pointer))) ? SALF_OK : SALF_E_NO_MEMORY)

/* ---- tensor.c: views ---- */

int64_t slf_dtype_size(int32_t dtype); /* bytes; 0 for an unknown dtype */
const char *slf_dtype_name(int32_t dtype);
/* Checks a floating-point input view (F32, BF16, F16): pointers, dtype, sizes, strides. rows or cols < 0: any. name is
 * used in messages. device_ok: whether device memory can be read here. */
salf_status slf_tensor_check(const salf_tensor *tensor, const char *name, int64_t rows, int64_t cols, bool device_ok);
/* The part of it for strides, extent and row_index, of a view of any type. */
salf_status slf_tensor_check_places(const salf_tensor *tensor, const char *name);
/* Whether rows that are written through an index are all others: SALF_E_ARGUMENT for one that would be written twice.
 * An index in device memory is not read. */
salf_status slf_tensor_check_apart(const salf_context *context, const salf_tensor *out, const char *name);
/* Elements from data to row r. */
int64_t slf_tensor_offset(const salf_tensor *tensor, int64_t r);
/* Address of row r of a host view. */
const void *slf_tensor_row(const salf_tensor *tensor, int64_t r);
/* Row r of a host view as float32 or float64, [cols]; the latter also of a float64 view. */
void slf_row_to_f32(const salf_tensor *tensor, int64_t r, float *out);
void slf_row_to_f64(const salf_tensor *tensor, int64_t r, double *out);
/* A contiguous view of host memory, of backend memory. */
salf_tensor slf_tensor_host(const void *data, int32_t dtype, int64_t rows, int64_t cols);
salf_tensor slf_tensor_device(const salf_context *context, const void *data, int32_t dtype, int64_t rows, int64_t cols);
/* Rows first ... first+count-1 of a view. */
salf_tensor slf_tensor_slice(const salf_tensor *tensor, int64_t first, int64_t count);
/* The rows kept [n] of a view: through an index [n], of the host's like the view's own. */
salf_tensor slf_tensor_rows(const salf_tensor *tensor, const int64_t *kept, int64_t n, int64_t *index);
/* Whether a view lies in a memory, index and all. */
bool slf_tensor_is_in(const salf_tensor *tensor, int32_t memory);

#endif
