/* internal.h - what the files of libsalf share: errors, memory, options, rows of matrices. Not installed. */
#ifndef SALF_INTERNAL_H
#define SALF_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "backend/backend.h"
#include "salf.h"

#define SLF_PRINTF(text, first) __attribute__((format(printf, text, first)))

/* ---- status.c: errors ---- */

/* Sets this thread's message (printf form, one line) and returns status. Every error of the library starts here. */
salf_status slf_fail(salf_status status, const char *format, ...) SLF_PRINTF(2, 3);

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

/* Checks a required pointer argument by name. */
#define SLF_REQUIRE(pointer)                                                                       \
    do {                                                                                           \
        if ((pointer) == NULL) return slf_fail(SALF_E_NULL, "%s: %s is NULL", __func__, #pointer); \
    } while (0)

/* ---- options.c: versioned structs ---- */

/* Copies a caller's options struct (may be NULL) into ours of own_size bytes: a shorter one is completed with zeros, a
 * longer one accepted when what we do not know of it is zero. type names the struct in messages. */
salf_status slf_options_read(void *own, uint32_t own_size, const void *theirs, const char *type);

/* Copies our filled struct into a caller's output struct, as much as its struct_size says; keeps that struct_size. */
salf_status slf_info_write(void *theirs, const void *own, uint32_t own_size, const char *type);

/* ---- context.c: memory, references, parallel loops ---- */

typedef struct slf_pool slf_pool;

struct salf_context {
    atomic_int references;
    salf_context_options options; /* as given, defaults filled in; plugin_path not kept */
    const slf_backend *backend;
    void *backend_state;
    slf_pool *pool; /* NULL when options.threads < 2 */
    void *plugin;   /* handle of dlopen, or NULL */
};

salf_context *slf_context_retain(salf_context *context);
void slf_context_release(salf_context *context);

/* count * size bytes, aligned to 64; NULL with the message set when there is no memory or the product overflows. count
 * 0 gives a valid pointer. */
void *slf_alloc(const salf_context *context, uint64_t count, uint64_t size);
void *slf_alloc_zero(const salf_context *context, uint64_t count, uint64_t size);
void slf_free(const salf_context *context, void *memory);
char *slf_strdup(const salf_context *context, const char *text);

void slf_log(const salf_context *context, int32_t level, const char *format, ...) SLF_PRINTF(3, 4);

/* Runs body(user, first, last) over pieces of 0 ... count-1, on the context's threads where it has some, and waits.
 * Pieces are at least grain long; how many there are must not change results. */
typedef void (*slf_loop_fn)(void *user, int64_t first, int64_t last);
void slf_parallel_for(const salf_context *context, int64_t count, int64_t grain, slf_loop_fn body, void *user);

/* Collectives; no-ops with one rank. */
salf_status slf_all_reduce(const salf_context *context, void *buffer, int64_t count, int32_t dtype, int32_t operation);

/* ---- tensor.c: views ---- */

int64_t slf_dtype_size(int32_t dtype); /* bytes; 0 for an unknown dtype */
const char *slf_dtype_name(int32_t dtype);
/* Checks a floating-point input view (F32, BF16, F16): pointers, dtype, sizes, strides. rows or cols < 0: any. name is
 * used in messages. device_ok: whether device memory can be read here. */
salf_status slf_tensor_check(const salf_tensor *tensor, const char *name, int64_t rows, int64_t cols, bool device_ok);
/* Address of row r of a host view. */
const void *slf_tensor_row(const salf_tensor *tensor, int64_t r);
/* Row r of a host view as float32 or float64, [cols]; the latter also of a float64 view. */
void slf_row_to_f32(const salf_tensor *tensor, int64_t r, float *out);
void slf_row_to_f64(const salf_tensor *tensor, int64_t r, double *out);
/* A plain contiguous host view. */
salf_tensor slf_tensor_host(const void *data, int32_t dtype, int64_t rows, int64_t cols);

/* Functions that are compiled a second time, for a processor that is asked for at run time. */
#if defined(__x86_64__) && defined(__GNUC__)
#define SLF_AVX2       __attribute__((target("avx2")))
#define SLF_HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define SLF_AVX2
#define SLF_HAS_AVX2() 0
#endif

/* ---- random.c: counter-based random numbers ---- */

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): 128 random bits for a key and
 * a counter; the same on every platform, no state. */
void slf_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]);
/* Numbers SLF_PIECES * index on of a stream of 16-bit pieces, eight to a block of Philox: piece i is bits 16 (i mod 8)
 * ... of block i / 8. */
#define SLF_PIECES 128
void slf_random_pieces(uint64_t seed, uint64_t stream, uint64_t index, uint16_t out[SLF_PIECES]);
/* 64 random bits for (seed, stream, index). */
uint64_t slf_random_bits(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in 0 ... bound-1 (bound > 0), exactly uniform by rejection. */
uint64_t slf_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);
/* Uniform in [0, 1), 53 bits. */
double slf_random_unit(uint64_t seed, uint64_t stream, uint64_t index);

/* Hash of row row_id from its float32 bits (-0 as 0); a matrix' fingerprint is the sum over its rows modulo 2^64, so
 * that it depends neither on blocks and ranks nor on the dtype the rows are stored in. Not meant against an adversary.
 */
uint64_t slf_row_hash(const float *row, int64_t cols, int64_t row_id);

/* ---- model.c: rows of the head and the embedding ---- */

/* A matrix [rows][cols] given as a view or as a callback. */
typedef struct slf_matrix {
    salf_tensor view; /* data NULL: through rows */
    salf_rows_fn rows;
    void *user;
    int64_t n_rows;
    int64_t n_cols;
} slf_matrix;

static inline bool slf_matrix_is_empty(const slf_matrix *matrix) {
    return !matrix->view.data && !matrix->rows;
}

struct salf_model {
    atomic_int references;
    salf_context *context;
    salf_model_info info;  /* fingerprint stays 0: it is not known until asked for, and the model is immutable */
    slf_matrix head;       /* W_o; the embedding when tied */
    slf_matrix embedding;  /* W_i; the head when tied */
    float *norm_weight;    /* [D] owned, RMS1P already as 1 + weight; NULL: ones */
    float *norm_bias;      /* [D] owned; NULL: zeros */
    float *logit_bias;     /* [V] owned; NULL: none */
    salf_tensors *tensors; /* owned; NULL for a described model */
};

salf_model *slf_model_retain(salf_model *model);

/* How many rows of cols float32 fit the part of the workspace that a block of rows may take; at least 1. */
int64_t slf_block_rows(const salf_context *context, int64_t cols);
/* Rows first ... first+count-1: a view into the matrix where it is one, else filled through the callback into buffer
 * [count][cols] float32. */
salf_status slf_matrix_block(const slf_matrix *matrix, int64_t first, int64_t count, float *buffer, salf_tensor *block);
/* One row as float32. */
salf_status slf_matrix_row(const slf_matrix *matrix, int64_t row, float *out);

/* ---- state.c: versioned blobs with a checksum, little-endian, for policy and planner ---- */

typedef struct slf_blob {
    uint8_t *bytes; /* NULL while only counting */
    uint64_t used;
    uint64_t room;
    bool short_of_room; /* writing: more was put than fits; reading: more was asked for than is there */
} slf_blob;

void slf_blob_put(slf_blob *blob, const void *bytes, uint64_t n);
void slf_blob_put_u64(slf_blob *blob, uint64_t value);
void slf_blob_put_f64(slf_blob *blob, double value);
void slf_blob_get(slf_blob *blob, void *bytes, uint64_t n); /* zeros when it ends early */
uint64_t slf_blob_get_u64(slf_blob *blob);
double slf_blob_get_f64(slf_blob *blob);
/* What a state must share with the handle it is loaded into: named numbers, reals as their bits. The check names the
 * first that differs (SALF_E_MISMATCH), for the function and kind of handle given. */
typedef struct slf_field {
    const char *name;
    uint64_t value;
} slf_field;
uint64_t slf_bits_of(double value);
void slf_blob_put_fields(slf_blob *blob, const slf_field *fields, int n);
salf_status slf_blob_check_fields(slf_blob *blob, const slf_field *fields, int n, const char *function,
                                  const char *handle);
/* Runs write(user, blob) to measure, and again to fill the caller's buffer, with header and checksum around it; the
 * buffer and size rules are those of salf_planner_save. kind is four letters that tell blobs of different handles
 * apart. */
typedef void (*slf_blob_write_fn)(const void *user, slf_blob *blob);
salf_status slf_blob_save(const char kind[4], slf_blob_write_fn write, const void *user, void *buffer, uint64_t *size);
/* Checks header, version, length and checksum, and gives a reader over the payload. */
salf_status slf_blob_open(const char kind[4], const void *buffer, uint64_t size, slf_blob *payload);

#endif
