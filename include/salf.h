/*
 * salf.h - Semantic-Aware Layer-Freezing: decide where to fine-tune.
 *
 * For each datum of a fine-tuning run, libsalf finds the layer at which back-propagation may stop. It compares the
 * hidden state after each layer with the semantic basis of the right next token, takes the layer that reduces this
 * deviation most, and freezes everything below it. A planner spreads the data over the depths under a compute budget.
 * Source, called "the paper" below: Gu, Aleti, Chen, Zhang, "A Semantic-Aware Layer-Freezing Approach to
 * Computation-Efficient Fine-Tuning of Language Models", Findings of ACL 2025.
 *
 * Notation: a decoder language model has m layers, hidden size D and vocabulary size V. Layer k (0-based) maps latent
 * space k to latent space k+1, so there are m+1 spaces: h_0 (embedding output) ... h_m (output of the last layer).
 * W_o [V][D] is the LM head (logits = W_o h), W_i [V][D] the embedding matrix. Matrices are row-major.
 *
 * Rules for every call, not repeated below:
 * - A function that can fail returns a salf_status: 0 is success, negative an error. salf_last_error() then holds one
 *   line that names the offending value. A failed call leaves its outputs untouched (handles: NULL) unless its comment
 *   says otherwise, and handles stay usable.
 * - You free "out" handles with the matching destroy function; destroy(NULL) does nothing. A handle keeps what it was
 *   made from alive, so you may destroy in any order. Getters return pointers that belong to their handle; only read.
 * - Options structs grow only at their end. Set struct_size to sizeof the struct and zero the rest
 *   (salf_options_init does both); 0 or NULL in a field means its default; a NULL options pointer means all defaults.
 * - Use a handle from one thread at a time, and not inside a callback of a call that uses it. Different handles may run
 *   in parallel, also when they share a context, a model or a basis: these are safe to share once made. Callbacks must
 *   return: no exception and no longjmp may pass through the library.
 * - Nothing here prints, exits or changes process-wide settings, but for the threads of BLAS, which are fewer while a
 *   call runs that wants fewer.
 * - A forked process may use and destroy what it inherited, but for handles that another thread was using at the fork,
 *   and those of a device, which it may destroy only. Its loops then run on the calling thread alone.
 */
#ifndef SALF_H
#define SALF_H

#ifndef SALF_NO_INCLUDES /* for parsers that know the fixed-width types already */
#include <stddef.h>
#include <stdint.h>
#endif

#define SALF_VERSION_MAJOR 0
#define SALF_VERSION_MINOR 2
#define SALF_VERSION_PATCH 0
#define SALF_SOVERSION     1 /* number in the shared library's soname; raised when the ABI breaks */

#ifndef SALF_API
#define SALF_API
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1. Status -------------------------------------------------------------------------------------------------- */
/* Result of a call: SALF_OK or one of the negative values of SALF_STATUS_LIST. */
typedef int32_t salf_status;

/* Every status: name, value, text. Values never change their meaning; gaps leave room for more of a kind. */
#define SALF_STATUS_LIST(X)                                                              \
    X(SALF_OK, 0, "success")                                                             \
    X(SALF_E_ARGUMENT, -1, "invalid argument")                                           \
    X(SALF_E_NULL, -2, "required pointer is NULL")                                       \
    X(SALF_E_SHAPE, -3, "shapes disagree")                                               \
    X(SALF_E_DTYPE, -4, "data type not usable here")                                     \
    X(SALF_E_SEQUENCE, -5, "call out of order")                                          \
    X(SALF_E_OVERFLOW, -6, "number too large")                                           \
    X(SALF_E_BUFFER, -7, "buffer too small")                                             \
    X(SALF_E_STRUCT, -8, "options struct of an unknown size or with unknown fields set") \
    X(SALF_E_UNSUPPORTED, -9, "not supported")                                           \
    X(SALF_E_LABEL, -20, "label outside the vocabulary or without a basis row")          \
    X(SALF_E_PADDING, -21, "label on a padding row of the vocabulary")                   \
    X(SALF_E_ZERO_ROW, -22, "basis row is zero")                                         \
    X(SALF_E_NONFINITE, -23, "NaN or infinity in the data")                              \
    X(SALF_E_NUMERIC, -24, "numerical method failed")                                    \
    X(SALF_E_STALE, -25, "basis belongs to another head")                                \
    X(SALF_E_IO, -40, "file could not be read or written")                               \
    X(SALF_E_NOT_FOUND, -41, "not found")                                                \
    X(SALF_E_TRUNCATED, -42, "data ends early")                                          \
    X(SALF_E_CORRUPT, -43, "data is damaged or hostile")                                 \
    X(SALF_E_VERSION, -44, "written by another version")                                 \
    X(SALF_E_MISMATCH, -45, "parts that belong together disagree")                       \
    X(SALF_E_NO_SPACE, -46, "no space left on the device")                               \
    X(SALF_E_BUSY, -47, "in use by another process")                                     \
    X(SALF_E_NO_MEMORY, -60, "out of memory")                                            \
    X(SALF_E_WORKSPACE, -61, "workspace limit too small")                                \
    X(SALF_E_BACKEND, -80, "backend not available")                                      \
    X(SALF_E_PLUGIN, -81, "backend plugin not usable")                                   \
    X(SALF_E_DEVICE, -82, "device reported an error")                                    \
    X(SALF_E_CALLBACK, -83, "callback of the host reported an error")                    \
    X(SALF_E_CANCELLED, -84, "cancelled by the host")                                    \
    X(SALF_E_INTERNAL, -99, "internal error")

#define SALF_STATUS_ENUM_(name, value, text) name = value,
enum { SALF_STATUS_LIST(SALF_STATUS_ENUM_) SALF_STATUS_END_ = 1 };

/* Name of a status, such as "SALF_E_SHAPE" ("SALF_E_UNKNOWN" for a number that is none), and its meaning. Static. */
SALF_API const char *salf_status_name(salf_status status);
SALF_API const char *salf_status_text(salf_status status);
/* The message of the last call that failed in this thread: one line, at most 511 bytes, never NULL, "" if none failed;
 * valid until this thread's next failing call. */
SALF_API const char *salf_last_error(void);
/* Version of the library in use: major * 10000 + minor * 100 + patch, and the same as text. Static. */
SALF_API int32_t salf_version_number(void);
SALF_API const char *salf_version_string(void);
/* Value of a public constant by name ("SALF_METRIC_COSINE"; case does not count). SALF_E_NOT_FOUND. */
SALF_API salf_status salf_constant(const char *name, int64_t *value);
/* The word of a constant: "ce" for ("SALF_METRIC", SALF_METRIC_CE), its name behind the family in lower case, so that
 * salf_constant takes family + "_" + word. NULL for a value that is none: a loop up to NULL lists a family. Static. */
SALF_API const char *salf_constant_word(const char *family, int64_t value);
/* Zeroes an options struct of struct_size bytes and sets its first field, struct_size. */
SALF_API void salf_options_init(void *options, uint32_t struct_size);

/* ---- 2. Tensors ------------------------------------------------------------------------------------------------- */
/* Element types. Floating-point inputs may be F32, BF16 or F16; the others occur in tensor files. */
enum { SALF_F32 = 1, SALF_BF16 = 2, SALF_F16 = 3, SALF_F64 = 4, SALF_I8 = 5, SALF_U8 = 6, SALF_I32 = 7, SALF_I64 = 8 };
/* Where memory lies. Device memory is that of the context's device; only the cuda backend takes it. */
enum { SALF_MEMORY_HOST = 0, SALF_MEMORY_DEVICE = 1 };

/* A borrowed matrix [rows][cols]; a vector is one row. Element (r, c) is data[i * row_stride + c] with i =
 * row_index[r], or r when row_index is NULL; both are aligned for their type. Keep the memory alive and unchanged for
 * the call (for descriptors: for the handle's life; on a device: until the stream has passed it). Inputs are never
 * written. This struct keeps its size. */
typedef struct salf_tensor {
    void *data;
    const int64_t *row_index; /* NULL, or [rows] */
    int64_t rows, cols;
    int64_t row_stride;                  /* in elements; 0 = cols */
    int32_t dtype, memory, index_memory; /* memory of data, of row_index */
    int32_t extent; /* rows that data has: a row or an index beyond them is an error. 0: not given, not checked */
} salf_tensor;

/* ---- 3. Context ------------------------------------------------------------------------------------------------- */
/* The resources everything else runs on: backend, device, stream, threads, allocator, log, ranks. */
typedef struct salf_context salf_context;
/* Backends. AUTO takes the one that the environment variable SALF_BACKEND names ("reference", "cpu", "cuda"), else cuda
 * where its plugin and a device are there, else cpu; it opens the plugin only where a driver shows, or plugin_path
 * names it. SALF_KERNELS ("c", "avx2", "avx512") chooses the kernels of cpu, the best by default. A process with more
 * rights than its caller (setuid) reads neither variable and opens no plugin but that of plugin_path. */
enum { SALF_BACKEND_AUTO = 0, SALF_BACKEND_REFERENCE = 1, SALF_BACKEND_CPU = 2, SALF_BACKEND_CUDA = 3 };
/* Levels of log messages, the gravest first. */
enum { SALF_LOG_ERROR = 1, SALF_LOG_WARNING = 2, SALF_LOG_INFO = 3, SALF_LOG_DEBUG = 4 };
/* Operations of all_reduce. */
enum { SALF_ALL_REDUCE_SUM = 0, SALF_ALL_REDUCE_MIN = 1 };
/* Memory hooks for host memory. alloc returns size bytes aligned to align (a power of two, at most 4096) or NULL; free
 * gets the size back. Called from any thread that uses the context. */
typedef void *(*salf_alloc_fn)(void *user, size_t size, size_t align);
typedef void (*salf_free_fn)(void *user, void *memory, size_t size);
/* Receives one line without a line end. Called from the thread that called the library. */
typedef void (*salf_log_fn)(void *user, int32_t level, const char *message);
/* Told how far a call has come that may last: done of total pieces of what, a few words such as "Gram matrix". A number
 * other than 0 ends the call with SALF_E_CANCELLED: its outputs are untouched (of salf_loss_compute, rows of the
 * gradient may be written), its handles as before, and the same call can be made again. On the calling thread, and on a
 * device between blocks of work that is enqueued. Not asked: where salf_checkpoint_load copies, a planner is saved (0.1
 * s for 10^7 data), a singular Gram matrix is solved (dstedc, 2 s at D = 4096), and in calls without a handle. */
typedef int32_t (*salf_progress_fn)(void *user, const char *what, int64_t done, int64_t total);
/* The one collective over the ranks, in place: count elements in host memory, dtype SALF_F64 or SALF_I64, operation
 * SALF_ALL_REDUCE_*, called in the same order on every rank, and all must get the same bits. Returns 0, or another
 * number for failure (SALF_E_CALLBACK), then on all ranks: one that loses its link alone leaves the others waiting.
 * Collective calls say so, and begin with an agreement, a minimum of 107 numbers: ranks that differ in options, step,
 * labels or state get SALF_E_MISMATCH naming what, and where a rank's call fails the others get it with its number. */
typedef int32_t (*salf_all_reduce_fn)(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation);

/* C [m][n] = alpha A B + beta C: the one product of matrices that libsalf asks for. A is [m][k], and stored as [k][m]
 * where a_transposed is 1; B [k][n], or stored as [n][k]. Rows lie stride elements apart. With beta 0, C is not read. */
typedef struct salf_product {
    int32_t dtype; /* of all three: SALF_F32 or SALF_F64 */
    int32_t a_transposed, b_transposed;
    int32_t
        upper; /* 1: only elements j >= i of C count, those below may be written or not; B may be A, which is syrk */
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t a_stride, b_stride, c_stride;
    double alpha, beta;
} salf_product;

/* The host's own linear algebra, in place of what libsalf was built with; of the cpu backend. Each function may be NULL,
 * and returns 0, or another number for failure (SALF_E_CALLBACK). Called from the thread that called the library. AUTO
 * means cpu then, and another backend is SALF_E_ARGUMENT. */
typedef struct salf_blas {
    uint32_t struct_size;
    int32_t reserved;
    void *user;       /* first argument of both */
    const char *name; /* for salf_context_info; NULL: "host". Alive as long as the context */
    int32_t (*product)(void *user, const salf_product *product);
    /* A [n][n] = R^T R, float64: of both only elements j >= i, in place. *exists becomes 1, or 0 where A has no factor */
    int32_t (*potrf)(void *user, int64_t n, double *a, int32_t *exists);
} salf_blas;

typedef struct salf_context_options {
    uint32_t struct_size;
    int32_t backend;          /* SALF_BACKEND_* */
    int32_t device;           /* ordinal of the device, for device backends */
    int32_t threads;          /* own kernels: n, or 0: the caller. BLAS: the host's, at most n; 1 for small products */
    void *stream;             /* the host's stream (cudaStream_t), or NULL for the default stream */
    uint64_t workspace_limit; /* scratch bytes of a call beyond results and D*D matrices; 0 = 16 MiB (device: 256) */
    salf_alloc_fn alloc;      /* NULL, and free NULL: the C library's */
    salf_free_fn free;
    void *alloc_user;
    salf_log_fn log; /* NULL: silent */
    void *log_user;
    int32_t log_level;             /* most verbose level passed on; 0 = SALF_LOG_WARNING */
    int32_t rank, ranks;           /* of this process, and how many; ranks 0 or 1: alone, callbacks unused */
    int32_t progress_interval;     /* least milliseconds between two reports of a thread; 0 = 100, -1: none */
    salf_all_reduce_fn all_reduce; /* required when ranks > 1 */
    void *communicator_user;
    const char *plugin_path;   /* of libsalf-cuda.so, absolute; NULL: beside the file of libsalf, links followed */
    salf_progress_fn progress; /* NULL: nobody listens */
    void *progress_user;
    const salf_blas *blas;        /* NULL: libsalf's own. Copied */
    int32_t read_files, reserved; /* 1: files of tensors are read into memory; 0: mapped, so that one which is cut short
                              while in use ends the process (SIGBUS) and one that is written over changes values */
} salf_context_options;

typedef struct salf_context_info {
    uint32_t struct_size;
    int32_t backend;          /* SALF_BACKEND_* in use, never AUTO */
    const char *backend_name; /* "reference", "cpu", "cuda" */
    const char *kernels;      /* instruction set of the kernels, such as "avx2"; "c" for plain C */
    int32_t device, threads, rank, ranks;
    const char
        *blas; /* of the cpu backend: "openblas", "cblas", "plain" (libsalf's own), or the host's name; else "" */
} salf_context_info;

/* Makes the context in which everything else lives. Errors: SALF_E_BACKEND (not there, or its BLAS has 64-bit sizes),
 * SALF_E_PLUGIN, SALF_E_DEVICE, SALF_E_ARGUMENT, SALF_E_NO_MEMORY. get_info fills info up to its struct_size. */
SALF_API salf_status salf_context_create(salf_context **out, const salf_context_options *options);
SALF_API void salf_context_destroy(salf_context *context);
SALF_API salf_status salf_context_get_info(const salf_context *context, salf_context_info *info);
/* Collective: SALF_OK where every rank passes SALF_OK. A rank that cannot take part in the others' next collective,
 * whatever it is, calls this with its error, which it gets back: the others fail where they would wait for ever. */
SALF_API salf_status salf_context_agree(salf_context *context, salf_status status);

/* ---- 4. Tensor files -------------------------------------------------------------------------------------------- */
/* A safetensors file, or several behind an index, mapped into memory (read, where the context's read_files says so) and
 * fully checked when opened. Immutable. */
typedef struct salf_tensors salf_tensors;

/* A named tensor of a file. view is [shape[0]][product of the rest], a vector one row, borrowed from the handle. */
typedef struct salf_named_tensor {
    const char *name;
    int64_t shape[8];
    int32_t n_dims, reserved; /* n_dims 0 for a scalar, at most 8 */
    salf_tensor view;
} salf_named_tensor;

/* Opens a .safetensors file, an index file, a folder that holds model.safetensors or model.safetensors.index.json, or a
 * GGUF file of llama.cpp (the first part of a split one); quantised tensors then have a name and a shape, no view. An
 * index says for each name which shard's tensor counts, and names all that count. Errors: SALF_E_NOT_FOUND, SALF_E_IO,
 * SALF_E_TRUNCATED, SALF_E_CORRUPT (bad JSON; offsets out of range, overlapping or disagreeing with shapes; a shard
 * outside the folder), SALF_E_MISMATCH (an index and its shards; parts of a GGUF model), SALF_E_UNSUPPORTED (a file of
 * another format, which the message names; a version of GGUF). */
SALF_API salf_status salf_tensors_open(salf_tensors **out, salf_context *context, const char *path);
SALF_API void salf_tensors_destroy(salf_tensors *tensors);
SALF_API int64_t salf_tensors_count(const salf_tensors *tensors);
/* Tensor number index (0-based, in order of name) or of a name. SALF_E_NOT_FOUND; SALF_E_DTYPE for an element type that
 * SALF_F32... does not cover: name and shape are then set, and view is empty; SALF_E_UNSUPPORTED for more than 8
 * dimensions: name is set. SALF_E_NO_MEMORY: data that lie unaligned in the file are copied when they are asked for. */
SALF_API salf_status salf_tensors_at(const salf_tensors *tensors, int64_t index, salf_named_tensor *out);
SALF_API salf_status salf_tensors_find(const salf_tensors *tensors, const char *name, salf_named_tensor *out);
/* Value of a metadata key of the file (the first shard's), or NULL. Borrowed. */
SALF_API const char *salf_tensors_metadata(const salf_tensors *tensors, const char *key);
/* Writes tensors (host memory, any dtype, names unique) and pairs of metadata strings (key, value, ...; keys unique) as
 * one safetensors file, in the way of salf_file_save. n_dims 0 means the shape [view.rows][view.cols]. Errors: those of
 * salf_file_save, SALF_E_ARGUMENT, SALF_E_SHAPE, SALF_E_DTYPE. */
SALF_API salf_status salf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                                       int64_t n_tensors, const char *const *metadata, int64_t n_metadata);
/* Makes n bytes the content of a file: under a temporary name in its folder, synced, then renamed, so that there is the
 * old file or the new one, whole. A link is followed, access rights are kept, and what may not be written to is not
 * replaced; a device, a pipe or "/dev/stdout" is written to. Errors: SALF_E_IO, SALF_E_NO_SPACE, with the system's
 * reason (path is as before, unless the message says that only the folder could not be synced). */
SALF_API salf_status salf_file_save(const char *path, const void *bytes, uint64_t n);
/* A hash of n bytes, and of a file's content, behind what has the hash before (*hash; 0: nothing): the same for the same
 * bytes on every machine, and but for a chance of 2^-64 another for others. No defence against forgery. */
SALF_API uint64_t salf_hash(uint64_t before, const void *bytes, uint64_t n);
SALF_API salf_status salf_hash_file(const char *path, uint64_t *hash);

/* ---- 5. Model --------------------------------------------------------------------------------------------------- */
/* What the library must know of a language model: shape, head, embedding, final norm. Immutable once made, but for
 * salf_model_update. */
typedef struct salf_model salf_model;
/* Kinds of the final norm. RMS1P is RMSNorm with (1 + weight), as in Gemma. */
enum { SALF_NORM_NONE = 0, SALF_NORM_LAYER = 1, SALF_NORM_RMS = 2, SALF_NORM_RMS1P = 3 };
/* Families of checkpoints. OTHER: one of which only head, norm and embedding are understood; model_type names it. */
enum { SALF_FAMILY_OTHER = 0, SALF_FAMILY_LLAMA = 1, SALF_FAMILY_QWEN2 = 2, SALF_FAMILY_GEMMA2 = 3 };
enum { SALF_FAMILY_MISTRAL = 4, SALF_FAMILY_GPT2 = 5, SALF_FAMILY_QWEN3 = 6, SALF_FAMILY_GEMMA = 7 };
enum { SALF_FAMILY_GEMMA3 = 8, SALF_FAMILY_PHI3 = 9, SALF_FAMILY_OLMO2 = 10, SALF_FAMILY_GRANITE = 11 };
enum { SALF_FAMILY_STABLELM = 12, SALF_FAMILY_SMOLLM3 = 13, SALF_FAMILY_OLMO3 = 14 };
/* Where valid_vocab comes from: the rows of the head, the host's option, or the tokenizer beside the checkpoint. */
enum { SALF_VOCAB_ROWS = 0, SALF_VOCAB_OPTION = 1, SALF_VOCAB_TOKENIZER = 2 };
/* Yields rows first ... first+count-1 of a matrix as float32 [count][D], for heads that are quantised or not in memory.
 * Returns 0, or any other number for failure. Called from the thread that called the library, any number of times. */
typedef int32_t (*salf_rows_fn)(void *user, int64_t first, int64_t count, float *out);

typedef struct salf_model_options {
    uint32_t struct_size;
    int32_t n_layers;      /* m; required by salf_model_create, as hidden and vocab */
    int64_t hidden;        /* D */
    int64_t vocab;         /* V, rows of the head with padding */
    int64_t valid_vocab;   /* rows beyond it are padding and belong to no token; 0 = vocab */
    salf_tensor head;      /* W_o [V][D], borrowed; data NULL: head_rows or none */
    salf_tensor embedding; /* W_i [V][D], borrowed; data NULL: embedding_rows or none */
    salf_rows_fn head_rows, embedding_rows;
    void *head_rows_user, *embedding_rows_user;
    int32_t tied;            /* 1: one matrix serves as both; give it as either */
    int32_t norm_kind;       /* SALF_NORM_* of the final norm */
    double norm_eps;         /* 0 = 1e-5; 1e-37 ... 1e30 */
    salf_tensor norm_weight; /* [1][D], copied; data NULL: ones (RMS1P: zeros) */
    salf_tensor norm_bias;   /* [1][D], copied; LAYER only; data NULL: zeros */
    salf_tensor logit_bias;  /* [1][V], copied; data NULL: none */
    double logit_scale;      /* logits = scale * W_o h; 0 = 1; 1e-100 ... 1e100 in size */
    double logit_softcap;    /* then cap * tanh(logits / cap); 0 = none */
    const char *accept;      /* salf_model_open: keys of config.json, comma-separated, that it may leave unread */
    int32_t head_transposed, embedding_transposed; /* 1: the view is [D][V], in host memory; rows are gathered */
    /* A head sharded over the context's ranks (tensor parallel): head is rows shard_first ... of V, [shard_rows][D];
     * head_rows counts from 0 of V. 0: whole. Its basis comes from a builder, for all labels there will be. Then
     * fingerprints, checks, and probes and losses over the vocabulary are collective: all ranks give the same states,
     * and exchange some numbers a row (docs/embedding.md). */
    int64_t shard_first, shard_rows;
} salf_model_options;

/* Shape and settings. The fields from rope_theta on describe the decoder and are 0 unless opened from a checkpoint. */
typedef struct salf_model_info {
    uint32_t struct_size;
    int32_t family; /* SALF_FAMILY_* */
    int32_t n_layers, tied;
    int64_t hidden, vocab, valid_vocab;
    uint64_t fingerprint; /* of the head's valid rows (of the embedding if there is no head); 0 until first needed */
    int32_t head_dtype;   /* 0: rows come from a callback, or there is no head */
    int32_t norm_kind;
    double norm_eps, logit_scale, logit_softcap, rope_theta;
    double embedding_scale; /* factor on the embedding's output: sqrt(D) in Gemma, else 1 */
    int64_t ffn_hidden, max_positions;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t attention_bias;       /* 1: q, k and v projections have biases */
    int32_t bos_token, eos_token; /* -1: unknown */
    const char *model_type;       /* as the checkpoint has it; "" for a described model. Borrowed */
    int32_t vocab_from, reserved; /* SALF_VOCAB_* of valid_vocab */
} salf_model_info;

/* Activation of a feed-forward block: GELU by erf, or by the tanh formula. */
enum { SALF_ACTIVATION_SILU = 0, SALF_ACTIVATION_GELU = 1, SALF_ACTIVATION_GELU_TANH = 2, SALF_ACTIVATION_RELU = 3 };
/* How rotary frequencies are scaled: the kinds of transformers' rope_type. NONE: no rotary positions. */
enum { SALF_ROPE_NONE = 0, SALF_ROPE_DEFAULT = 1, SALF_ROPE_LINEAR = 2, SALF_ROPE_LLAMA3 = 3, SALF_ROPE_YARN = 4 };
/* Where a block's norms stand: before attention and feed-forward; before and after (Gemma 2, 3); after (OLMo 2). */
enum { SALF_BLOCK_PRE_NORM = 0, SALF_BLOCK_SANDWICH_NORM = 1, SALF_BLOCK_POST_NORM = 2 };
/* Norms of queries and keys: of each head, or of all heads' numbers together (OLMo 2). */
enum { SALF_QK_NORM_NONE = 0, SALF_QK_NORM_HEAD = 1, SALF_QK_NORM_ALL = 2 };

/* What the layers of a checkpoint compute, for hosts that run them: all that its configuration says, or unsupported
 * names what this cannot say, and then the layers must not be run by it. */
typedef struct salf_decoder_info {
    uint32_t struct_size;
    int32_t activation, gated_ffn, block, qk_norm; /* SALF_ACTIVATION_*, 0 or 1, SALF_BLOCK_*, SALF_QK_NORM_* */
    int32_t norm_kind;                             /* SALF_NORM_* of all norms; their eps is the model's norm_eps */
    int32_t biases;                                /* SALF_MATRIX_* of the projections that have one */
    int32_t fused;       /* SALF_MATRIX_* stored in one tensor: Q K V in qkv_proj, GATE UP in gate_up_proj */
    int32_t rope;        /* SALF_ROPE_* */
    int32_t rotary_dims; /* of head_dim, the first ones; the others are not rotated */
    double rope_theta, local_rope_theta;      /* local: of layers with the window, never scaled; 0 = as the others */
    double rope_factor;                       /* LINEAR, LLAMA3, YARN */
    double rope_low_factor, rope_high_factor; /* LLAMA3 */
    double rope_beta_fast, rope_beta_slow, rope_attention_factor; /* YARN; the last: on cosines and sines */
    int64_t rope_original_positions;                              /* LLAMA3, YARN */
    double attention_scale, attention_softcap;                    /* on scores; cap 0 = none */
    double residual_scale;   /* on what a block adds to the stream: 1 but for Granite */
    int64_t sliding_window;  /* positions that a token sees, itself included; 0 = all */
    const uint8_t *sliding;  /* [m] 1: the layer has the window; NULL: none has */
    const char *unsupported; /* "key = value; ..." that this struct cannot say; NULL: nothing. All borrowed */
    const char *prefix; /* of tensors' names: prefix + "layers.3. ..."; the head's may be shorter. NULL: a GGUF file */
} salf_decoder_info;

/* Model from a description. head and embedding stay borrowed; norm and logit bias are copied: salf_model_update when
 * they change. Errors: SALF_E_ARGUMENT, SALF_E_NULL, SALF_E_SHAPE (rows of a head must not overlap), SALF_E_DTYPE,
 * SALF_E_UNSUPPORTED (a transposed head on a device), SALF_E_NONFINITE (a norm or bias). */
SALF_API salf_status salf_model_create(salf_model **out, salf_context *context, const salf_model_options *options);
/* For a host that trains them: norm_weight, norm_bias and logit_bias of the options, where given, replace the copies;
 * no other field may be set, and a vector that the model was made without cannot be added. Probes follow at their next
 * begin; those with logits over candidates then read the candidates' rows of the head again, so call this, with nothing
 * given, when the head has changed. Other logits read the head where it lies. A basis is of the head it was made from:
 * salf_basis_check tells whether it is still that, whatever the norm. Nothing may use the model meanwhile. Errors:
 * those of create; the model is as it was then. */
SALF_API salf_status salf_model_update(salf_model *model, const salf_model_options *options);
/* Model from a Hugging Face checkpoint folder: config.json and model.safetensors, single or sharded, memory-mapped. Or
 * from a GGUF file. Rows of heads in float64, FP8, int8 or a quantised type become float32 when they are needed
 * (head_dtype is 0 then). Tied heads may be stored under either name; tokenizer.json in the folder says where padding
 * begins. Every key of config.json and every tensor has a meaning here, or none for basis and probe
 * (salf_decoder_info.unsupported), or the call fails with SALF_E_UNSUPPORTED and names it. options may override what
 * the config says (valid_vocab, logit_*, norm_eps) and accept keys; tensors in it must be empty. Errors: those of
 * salf_tensors_open; SALF_E_MISMATCH (config and tensors disagree), SALF_E_UNSUPPORTED (also a family or an
 * architecture that is not known, an adapter), SALF_E_DTYPE (of the head). */
SALF_API salf_status salf_model_open(salf_model **out, salf_context *context, const char *path,
                                     const salf_model_options *options);
SALF_API void salf_model_destroy(salf_model *model);
SALF_API salf_status salf_model_get_info(const salf_model *model, salf_model_info *info);
/* What the checkpoint's layers compute. SALF_E_UNSUPPORTED for a described model, whose layers are not known. */
SALF_API salf_status salf_model_get_decoder(const salf_model *model, salf_decoder_info *info);
/* All tensors of the checkpoint a model was opened from; NULL for a described model. Borrowed. */
SALF_API const salf_tensors *salf_model_get_tensors(const salf_model *model);
/* Reads the whole head and gives a fingerprint of its valid rows that does not depend on dtype or blocks; cost V*D. */
SALF_API salf_status salf_model_fingerprint(const salf_model *model, uint64_t *fingerprint);

/* ---- 6. Semantic basis (paper 2.1) ------------------------------------------------------------------------------ */
/* Semantic-basis table: row l stands for token l. Output side: row l of (W_o^+)^T, that is P w_l with P = (W_o^T W_o)^+
 * [D][D]; input side: row l of W_i. Gram matrix and factor are float64 whatever the head's type. Immutable: when the
 * head has been trained, make a new one (salf_basis_refresh). */
typedef struct salf_basis salf_basis;
/* Which singular values of the head count. RTOL drops those at or below rtol * sigma_max; EXACT keeps all but 0; RIDGE
 * takes P = (W_o^T W_o + ridge I)^-1. A Gram matrix in float64 resolves sigma > sigma_max * sqrt(D * 2^-52), and ridges
 * above the square of that: where EXACT, an rtol or a ridge needs more, there is no basis (SALF_E_NUMERIC). */
enum { SALF_BASIS_RTOL = 0, SALF_BASIS_EXACT = 1, SALF_BASIS_RIDGE = 2 };
/* Which matrix the rows come from: the LM head or the embedding. */
enum { SALF_SIDE_OUTPUT = 0, SALF_SIDE_INPUT = 1 };
/* What to prepare. LABELS: rows of the labels given (others are solved when asked for, while the model is at hand).
 * VOCABULARY: also the norm of every row, which ce and rank over the whole vocabulary need (done when first needed
 * otherwise); cost 2 V D^2. TABLE: all V rows in float32, V*D*4 bytes. */
enum { SALF_PREPARE_LABELS = 0, SALF_PREPARE_VOCABULARY = 1, SALF_PREPARE_TABLE = 2 };
/* How P was found: CHOLESKY once it is proven that no singular value is dropped (Gram - threshold > 0), else EIGEN. */
enum { SALF_METHOD_NONE = 0, SALF_METHOD_CHOLESKY = 1, SALF_METHOD_EIGEN = 2 };

typedef struct salf_basis_options {
    uint32_t struct_size;
    int32_t mode; /* SALF_BASIS_* */
    double rtol;  /* RTOL: 0 = max(V, D) * 2^-23 */
    double ridge; /* RIDGE: > 0 */
    int32_t side, prepare;
} salf_basis_options;

typedef struct salf_basis_info {
    uint32_t struct_size;
    int32_t mode, side;
    int32_t method;              /* SALF_METHOD_*; NONE for the input side */
    int64_t hidden, vocab;       /* D, valid rows */
    int64_t n_labels;            /* rows held ready; vocab when the table is */
    int64_t rank;                /* singular values kept */
    double rtol, ridge;          /* in force */
    double sigma_max, sigma_min; /* of the head, kept or not; 0 for the input side */
    double condition;            /* sigma_max / smallest kept */
    uint64_t fingerprint;
    int32_t has_norms, has_table;
    double row_error; /* estimate of what rounding leaves in a row, relative to its length; 0 for the input side */
} salf_basis_info;

/* Basis of a model for n_labels labels (any order, repeats allowed; may be 0). Give the right next tokens of your data:
 * the words of the classes, or all labels that occur. Cost in floating-point operations: V D^2 for the Gram matrix,
 * O(D^3) for the factor, 2 D^2 a label; memory beyond the result at most 3 D*D*8 bytes plus the workspace. Errors:
 * SALF_E_LABEL, SALF_E_PADDING, SALF_E_ZERO_ROW (also when truncation leaves nothing of a label's row),
 * SALF_E_NONFINITE (names the row), SALF_E_NUMERIC, SALF_E_CALLBACK. refresh takes the same labels and options for
 * another or a changed head; for the same model with an unchanged head, found out by one reading of it, the new handle
 * is of the old basis. */
SALF_API salf_status salf_basis_create(salf_basis **out, salf_model *model, const int32_t *labels, int64_t n_labels,
                                       const salf_basis_options *options);
SALF_API salf_status salf_basis_refresh(salf_basis **out, const salf_basis *old, salf_model *model);
SALF_API void salf_basis_destroy(salf_basis *basis);
SALF_API salf_status salf_basis_get_info(const salf_basis *basis, salf_basis_info *info);
/* The labels whose rows are held, ascending, without repeats; *labels is NULL when the table is held. Borrowed. */
SALF_API salf_status salf_basis_get_labels(const salf_basis *basis, const int32_t **labels, int64_t *n_labels);
/* Copies rows of n labels to out [n][D], F32 or F64 in host memory. */
SALF_API salf_status salf_basis_rows(const salf_basis *basis, const int32_t *labels, int64_t n, const salf_tensor *out);
/* SALF_OK when the model's head (input side: embedding) is the one this basis was made from, SALF_E_STALE when not.
 * That is all a basis depends on: a norm or a bias may change. Cost V*D. */
SALF_API salf_status salf_basis_check(const salf_basis *basis, const salf_model *model);
/* Saves rows, labels, norms, P and metadata as safetensors, atomically; loads them again. Without a model (NULL) only
 * the held rows serve, and ce and rank need the table; with one the fingerprint must match (SALF_E_STALE). */
SALF_API salf_status salf_basis_save(const salf_basis *basis, const char *path);
SALF_API salf_status salf_basis_load(salf_basis **out, salf_context *context, const char *path, salf_model *model);

/* Builder: an output-side basis from row blocks of the head in any order, for when no rank holds the whole head. Its
 * partial sums are one vector of doubles; the vectors of several builders add up to that of all their rows together. */
typedef struct salf_basis_builder salf_basis_builder;

/* Picks out the rows of the labels as they pass. vocab counts valid rows over all ranks, which give the same labels. */
SALF_API salf_status salf_basis_builder_create(salf_basis_builder **out, salf_context *context, int64_t vocab,
                                               int64_t hidden, const int32_t *labels, int64_t n_labels,
                                               const salf_basis_options *options);
SALF_API void salf_basis_builder_destroy(salf_basis_builder *builder);
/* Adds rows first ... first+rows-1 of the head. SALF_E_NONFINITE and SALF_E_SHAPE leave the sums as they were. */
SALF_API salf_status salf_basis_builder_add(salf_basis_builder *builder, int64_t first, const salf_tensor *rows);
/* The partial sums, for summing over ranks by the host: count doubles, writable, valid for the builder's life. Sums of
 * builders that were made for other labels or with other options are SALF_E_MISMATCH when they are finished. */
SALF_API salf_status salf_basis_builder_partial(salf_basis_builder *builder, double **values, int64_t *count);
/* Adds another builder's partial sums (same vocab, hidden, labels); or, collective, sums over the ranks, in place:
 * D^2 + n D + 14 doubles, n the labels or for V < D the tokens. After a failed add call it all the same. */
SALF_API salf_status salf_basis_builder_merge(salf_basis_builder *builder, const salf_basis_builder *other);
SALF_API salf_status salf_basis_builder_all_reduce(salf_basis_builder *builder);
/* Makes the basis. Every row must have been added exactly once (SALF_E_SEQUENCE names how many were). model (may be
 * NULL) serves later whole-vocabulary needs. The builder stays as it was. */
SALF_API salf_status salf_basis_builder_finish(salf_basis **out, salf_basis_builder *builder, salf_model *model);

/* ---- 7. Deviation probe (paper 3.1 to 3.3, Algorithms 1 to 3) ---------------------------------------------------- */
/* Says for each datum where to stop, from the states of the training forward itself: you hand them over space by space
 * as the forward makes them. observe has read a view when it returns (on a device: in stream order). COSINE keeps one
 * number a row; CE and RANK keep a query a row, [D] float64, and walk the vocabulary once for as many as a quarter of
 * the workspace holds, in an observe or in what ends the batch. */
typedef struct salf_probe salf_probe;
/* Deviation of state h from the basis b_l of the right token l, with s_i = cos(h, b_i): COSINE 1 - s_l; CE log sum_i
 * exp(s_i / t) - s_l / t; RANK the number of i with s_i > s_l. A token whose row equals the label's is never above it,
 * nor is one whose score float64 cannot tell from the label's. */
enum { SALF_METRIC_COSINE = 0, SALF_METRIC_CE = 1, SALF_METRIC_RANK = 2 };
/* Which spaces get the final norm first: HF only space m, NORMED all, RAW none. */
enum { SALF_LENS_HF = 0, SALF_LENS_NORMED = 1, SALF_LENS_RAW = 2 };
/* What CE and RANK compare: cosines with the basis, or ordinary logits W_o h. */
enum { SALF_SCORE_BASIS = 0, SALF_SCORE_LOGITS = 1 };
/* What a view handed over holds: states before or after the final norm. */
enum { SALF_STATE_RAW = 0, SALF_STATE_NORMED = 1 };
/* End-of-freezing layer from gains g_k = d_k - d_(k+1): MOST_GAIN is the paper's; the others are the heuristics of its
 * Appendix B.3, by gain or by the deviation d_(k+1) after layer k. Ties go to the shallowest layer. */
enum { SALF_EOF_MOST_GAIN = 0, SALF_EOF_LEAST_GAIN = 1, SALF_EOF_LEAST_DEVIATION = 2, SALF_EOF_MOST_DEVIATION = 3 };
/* A non-finite deviation: an error that names datum and space, or full training (eof 0) for that datum. */
enum { SALF_NONFINITE_ERROR = 0, SALF_NONFINITE_TRAIN_FULLY = 1 };

typedef struct salf_probe_options {
    uint32_t struct_size;
    int32_t n_layers; /* 0 = the model's */
    int32_t metric, lens, scores, eof_rule, nonfinite;
    int32_t rows_per_datum;    /* neighbours that are one datum, by their mean deviation, as all tokens of a sequence;
                                  the trace is of data. 0 = 1 */
    double temperature;        /* t of CE, 1e-6 ... 1e30; 0 = 1 */
    const int32_t *candidates; /* CE, RANK: compare with these tokens only; NULL: the whole vocabulary. Copied */
    int64_t n_candidates;      /* labels must be among them */
} salf_probe_options;

/* The label of a row that has no right next token, as a prompt's or padding: it is left out of probes (of a datum's
 * mean; a datum without any other row has NaN, and eof m, and trains nothing) and its loss and gradient are 0. */
enum { SALF_LABEL_IGNORE = -100 };

/* What a probe found; borrowed from it, valid until its next begin. rows: data, where a datum has several rows. */
typedef struct salf_trace {
    int64_t rows;
    int32_t n_layers;
    int32_t n_nonfinite;              /* rows that fell back to full training */
    const double *deviations, *gains; /* [rows][m+1], [rows][m] */
    const int32_t *eof;               /* [rows], 0 ... m-1; m for a row without a label */
} salf_trace;

/* A probe for a basis, for any number of batches. SALF_E_ARGUMENT (an option, or no n_layers where the basis knows no
 * model), SALF_E_LABEL and SALF_E_PADDING (a candidate). */
SALF_API salf_status salf_probe_create(salf_probe **out, salf_basis *basis, const salf_probe_options *options);
SALF_API void salf_probe_destroy(salf_probe *probe);
/* Starts a batch with the right next token of each row, or SALF_LABEL_IGNORE; drops an unfinished one. SALF_E_LABEL,
 * _PADDING, _ZERO_ROW, _SHAPE (rows_per_datum). */
SALF_API salf_status salf_probe_begin(salf_probe *probe, const int32_t *labels, int64_t n_rows);
/* States of one space for the batch's rows [n_rows][D]; kind is SALF_STATE_*. Spaces come in ascending order, each
 * once; a pipeline stage may leave out the others' and ask for its part with salf_probe_partial. Errors:
 * SALF_E_SEQUENCE, _SHAPE, _DTYPE, _ARGUMENT (normed states where the lens needs raw ones), and those of a head's
 * callback. */
SALF_API salf_status salf_probe_observe(salf_probe *probe, int32_t space, const salf_tensor *states, int32_t kind);
/* Ends the batch and waits for its result. SALF_E_SEQUENCE when a space is missing, SALF_E_NONFINITE. */
SALF_API salf_status salf_probe_end(salf_probe *probe, salf_trace *trace);
/* For devices: flush enqueues the end of the batch; ready becomes 1 once salf_probe_end would not wait for it. */
SALF_API salf_status salf_probe_flush(salf_probe *probe);
SALF_API salf_status salf_probe_poll(salf_probe *probe, int32_t *ready);
/* For CUDA graphs: capture observe ... flush, with views of device memory, from the context's stream after a batch
 * of the same rows has run once. For a later batch call begin, launch the graph, call this, then salf_probe_end.
 * SALF_E_SEQUENCE when rows differ, or a larger batch or labels that the basis does not hold moved what was
 * captured. */
SALF_API salf_status salf_probe_replay(salf_probe *probe);
/* Ends the batch with the spaces observed so far: deviations only, of each row, NaN where a space was not observed;
 * gains and eof are NULL. Gather them and call salf_eof_from_deviations. */
SALF_API salf_status salf_probe_partial(salf_probe *probe, salf_trace *trace);
/* Gains [rows][m] (may be NULL) and eof [rows] from deviations [rows][m+1] by a rule SALF_EOF_*. nonfinite as above. */
SALF_API salf_status salf_eof_from_deviations(int32_t n_layers, int64_t rows, const double *deviations,
                                              int32_t eof_rule, int32_t nonfinite, double *gains, int32_t *eof);

/* What a probe's answers are worth, over a run: do eof differ at all, and do they say more than the label does? With
 * few classes and one template a datum's gains are mostly its label's, and a rule that gives each datum its own cut
 * then trains shallow layers on some classes only. Memory is by groups, never by data; numbers are of this rank's rows.
 */
typedef struct salf_signal salf_signal;

typedef struct salf_signal_options {
    uint32_t struct_size;
    int32_t n_layers;
    int32_t per_datum;  /* 1: cuts follow each datum's own eof or gains, not balanced over groups (SALF with PREFIX,
                           OFFLINE and ONLINE matching): a warning says so when the signal is the label */
    int32_t max_groups; /* groups told apart; further ones count as one. 0 = 1024 */
    int32_t max_ids;    /* data whose last eof is kept, for agreement; 0: none */
    int32_t reserved;
} salf_signal_options;

typedef struct salf_signal_info {
    uint32_t struct_size;
    int32_t most_frequent;      /* the eof that most rows have, ties shallow */
    int64_t rows;               /* seen so far */
    double most_frequent_share; /* of them, with that eof; above .9 the signal is empty */
    /* Of rows with a group and finite gains: sum of squares between groups / total, summed over layers (R^2). A group
     * of one row explains itself, and so chance alone gives about (groups - 1) / (rows - 1); adjusted is what goes
     * beyond that, (share - chance) / (1 - chance), 0 where there is no more. Above .8 the signal is the label. */
    int64_t grouped_rows;
    int32_t n_groups, single_groups; /* groups, and those of one row */
    double group_share, group_chance, group_adjusted;
    int64_t trained;      /* rows with a cut below m */
    double matched_share; /* of them, with eof <= cut; 0 for none */
    int64_t revisits;     /* rows whose id was seen before */
    double agreement;     /* of them, with the eof of that time; 0 for none */
} salf_signal_info;

/* SALF_E_ARGUMENT: no layers, an option out of its range. */
SALF_API salf_status salf_signal_create(salf_signal **out, salf_context *context, const salf_signal_options *options);
SALF_API void salf_signal_destroy(salf_signal *signal);
/* Counts a batch. groups, ids, cuts [rows] may be NULL: what needs them leaves the rows out. groups: target tokens, or
 * whatever may explain the gains; cuts: the decision's eof, m for rows that do not train. From 64 rows on it warns in
 * the context's log, once each, when the signal is empty, and when it is the label under a rule that is per_datum. */
SALF_API salf_status salf_signal_add(salf_signal *signal, const salf_trace *trace, const int32_t *groups,
                                     const uint32_t *ids, const int32_t *cuts);
SALF_API salf_status salf_signal_get(const salf_signal *signal, salf_signal_info *info);

/* ---- 8. Semantic losses (paper 2.2, Algorithms 1 and 2) --------------------------------------------------------- */
/* A training objective to use instead of the host's own. */
typedef struct salf_loss salf_loss;
/* COSINE: 1 - cos(h, b_l), no head needed. CE: cross-entropy over softmax(cos(h, b_i) / t). */
enum { SALF_LOSS_COSINE = 0, SALF_LOSS_CE = 1 };

typedef struct salf_loss_options {
    uint32_t struct_size;
    int32_t kind;
    double temperature;        /* t of CE, 1e-6 ... 1e30; 0 = 1 */
    const int32_t *candidates; /* CE: over these tokens only; NULL: the whole vocabulary. Copied */
    int64_t n_candidates;
} salf_loss_options;

/* A loss over a basis, for any number of calls. Errors: SALF_E_ARGUMENT, SALF_E_LABEL, SALF_E_PADDING (a candidate). */
SALF_API salf_status salf_loss_create(salf_loss **out, salf_basis *basis, const salf_loss_options *options);
SALF_API void salf_loss_destroy(salf_loss *loss);
/* Loss of each row to losses [rows][1], F32, and scale * its gradient with respect to the state to gradient [rows][D]
 * (F32, rows through row_index allowed, no two to one place; may be states; NULL: not wanted). states as they enter the
 * head, after the final norm. A zero state is SALF_E_NUMERIC, a non-finite one SALF_E_NONFINITE, and one so short, for
 * this temperature and scale, that a gradient could leave float32 SALF_E_OVERFLOW, all naming the row. With all three
 * on a device the work is enqueued, so such a row has a NaN loss and a zero gradient instead; losses in one piece. */
SALF_API salf_status salf_loss_compute(salf_loss *loss, const int32_t *labels, const salf_tensor *states, double scale,
                                       const salf_tensor *losses, const salf_tensor *gradient);

/* ---- 9. Budget planner (paper 3.4, Appendix A.3, Algorithm 4) --------------------------------------------------- */
/* How many data train at which depth, and which. Plain integers: no tensors, no backend. A host's loop:
 *   salf_planner_next gives a task; where the matching knows the cut of each row by now (STREAM with RANDOM or one_cut,
 *   NONE, OFFLINE), salf_policy_decide (BUDGET) can follow at once: then the forward need keep nothing of a row below
 *   its cut. Else the forward runs with a probe, salf_planner_assign (ONLINE: salf_planner_report) takes what it found,
 *   and the decision follows that. Backward by the decision's eof, order, active_rows and rate_scale; then
 *   salf_planner_done. A run that was killed before done gets the same task again. */
typedef struct salf_planner salf_planner;
/* Capacity of layer e: UNIFORM N div m (the first N mod m one more); GEOMETRIC ratio^e rounded down; ARITHMETIC e+1; of
 * these two whole rounds first where N exceeds their sum; CUSTOM shares of N by weights, by largest remainder. */
enum { SALF_GROWTH_UNIFORM = 0, SALF_GROWTH_GEOMETRIC = 1, SALF_GROWTH_ARITHMETIC = 2, SALF_GROWTH_CUSTOM = 3 };
/* How what is left fills layers that are not full: one layer after the other, or one datum each in turns. */
enum { SALF_INFILL_BREADTH = 0, SALF_INFILL_DEPTH = 1 };
/* Which data go to a layer: ONLINE by an eof probed when the layer's turn comes, OFFLINE by an eof known for all data
 * before, NONE by a seeded uniform draw (budgets for lift*). STREAM trains every datum when it comes, ids 0 ... N-1 in
 * order, and never runs a forward in vain: a quota of integers says which cuts a batch's rows have, and an assignment
 * which row gets which. Counts are exact at the end, whatever the batches.
 * With several ranks n_data and counts are those of all ranks together, and so is a task: of at most max_data data for
 * each rank, equal on all, which it shares out evenly. All take as many steps, a rank may have a task of no data, and
 * the plan is that of one process with their batches joined. OFFLINE needs the eof of all data on each rank. ONLINE
 * trains batches as small as what a probe accepts, unless full_batches are asked for. */
enum { SALF_MATCH_ONLINE = 0, SALF_MATCH_OFFLINE = 1, SALF_MATCH_NONE = 2, SALF_MATCH_STREAM = 3 };
/* STREAM, who gets which of a batch's cuts. RANDOM: a seeded shuffle, known before the forward. EOF: for each cut from
 * shallow to deep, rows in order with eof <= cut, else at random (Algorithm 4 inside the batch). GAIN: the least sum of
 * positive gains below the cuts; exact for 64 rows of a group, beyond that the deepest cuts go first, each to the row
 * that loses least. EOF and GAIN need a probe, and choose among rows of one group only (salf_planner_assign). */
enum { SALF_ASSIGN_RANDOM = 0, SALF_ASSIGN_EOF = 1, SALF_ASSIGN_GAIN = 2 };
/* STREAM, when a layer gets its data. STAGED: shallow to deep, as in Algorithm 4; under EOF and GAIN a stage passes
 * about probe_limit rows on to the shallowest deeper layer that has room, so that there is a choice. MIXED: all layers
 * at all times; after t data layer e has c_e t / N but for less than one (Tijdeman's chairman assignment), so that a
 * run may end early. For STAGED make n_data what will really be trained. */
enum { SALF_STREAM_STAGED = 0, SALF_STREAM_MIXED = 1 };
/* As probe_limit: all that are unused, which is Algorithm 4 to the letter and costs 2 to 4 forwards a datum. */
enum { SALF_PROBE_ALL = -1 };

typedef struct salf_planner_options {
    uint32_t struct_size;
    int32_t growth, infill, matching;
    double ratio;          /* GEOMETRIC: > 1; 0 = 2 */
    const double *weights; /* CUSTOM: [m], >= 0, not all 0. Copied */
    uint64_t seed;
    int64_t probe_limit; /* ONLINE: most data probed for a layer; 0 = N div (2 m) + 1, half a mean share */
    /* -- STREAM -- */
    int32_t assignment, stream_order; /* SALF_ASSIGN_*, SALF_STREAM_* */
    int32_t one_cut;    /* 1: one cut a batch, for hosts that cannot cut each row; only with RANDOM. Counts are then of
                           whole batches, each layer within one batch of its share */
    int32_t max_groups; /* groups told apart; further ones share one, and a warning says so. 0 = 1024 */
    /* -- ONLINE, OFFLINE, NONE (STREAM's always are) -- */
    int32_t full_batches; /* 1: every TRAIN task but the last is of max_data data: one goes on over the end of a layer,
                             and has the cut of each datum. ONLINE: what a probe accepts waits for a full batch, with
                             a forward of its own */
    int32_t reserved;
} salf_planner_options;

/* One layer of the plan. data: after salf_planner_match, matched ones first, then filled; ONLINE, STREAM: NULL.
 * Borrowed. */
typedef struct salf_stage {
    int32_t layer;
    int32_t reserved;
    int64_t count;           /* data to train with this eof */
    int64_t matched, filled; /* of them: by their own eof, drawn to fill the shortfall; STREAM: so far, eof <= layer or
                                not */
    int64_t probed;          /* ONLINE, STREAM: data probed so far */
    const uint32_t *data;    /* [count] datum ids */
} salf_stage;

/* PROBE: run the training forward with a probe on these data and report their eof. TRAIN: train each with its cut. */
enum { SALF_TASK_DONE = 0, SALF_TASK_PROBE = 1, SALF_TASK_TRAIN = 2 };

/* Arrays are borrowed, valid until the next call on the planner. */
typedef struct salf_task {
    int32_t kind;
    int32_t layer; /* the cut of all rows; STREAM, full_batches: the lowest of them, over all ranks */
    int64_t n_data;
    const uint32_t *data; /* [n_data] datum ids */
    const int32_t *eof;   /* TRAIN of STREAM and full_batches: [n_data] the cut of each; else NULL */
} salf_task;

/* A plan for n_data data (ids 0 ... n_data-1) over n_layers layers. Counts need no memory per datum. Errors:
 * SALF_E_ARGUMENT (m = 0, N = 0, bad option), SALF_E_OVERFLOW. */
SALF_API salf_status salf_planner_create(salf_planner **out, salf_context *context, int32_t n_layers, int64_t n_data,
                                         const salf_planner_options *options);
SALF_API void salf_planner_destroy(salf_planner *planner);
/* Counts c_e [m], which sum to n_data; and the saving as the paper defines it, sum e c_e / (m N), in [0, 1). */
SALF_API salf_status salf_planner_counts(const salf_planner *planner, int64_t *counts);
SALF_API salf_status salf_planner_saving(const salf_planner *planner, double *saving);
/* OFFLINE: eof of data first ... first+n-1, in any pieces, before salf_planner_match. */
SALF_API salf_status salf_planner_set_eof(salf_planner *planner, int64_t first, int64_t n, const int32_t *eof);
/* OFFLINE and NONE: settles which data train at which layer, at most 16 bytes a datum and 2^32-1 data. Done by the
 * first salf_planner_next if not before. SALF_E_SEQUENCE when an eof is missing (names the datum). */
SALF_API salf_status salf_planner_match(salf_planner *planner);
SALF_API salf_status salf_planner_get_stage(const salf_planner *planner, int32_t layer, salf_stage *stage);
/* The next task, of at most max_data data, your batch, of one layer (STREAM: of any layers, in the order of ids): where
 * a layer ends inside one it is shorter, and batch_share says by how much. The same again until it is answered (PROBE:
 * report or assign, and done; TRAIN: done), also after a load; fewer ranks then get more than max_data each. */
SALF_API salf_status salf_planner_next(salf_planner *planner, int64_t max_data, salf_task *task);
/* Answers a PROBE task of ONLINE: the eof of its n data, in its order. accepted [n] becomes 1 for those that the layer
 * takes, 0 for all with full_batches: train them now, then call done. (After a kill in between they come again as a
 * TRAIN task.) Collective, also for a rank whose n is 0: each learns the eof of all the task's data. */
SALF_API salf_status salf_planner_report(salf_planner *planner, const int32_t *eof, int64_t n, uint8_t *accepted);
/* STREAM, before the first task: how many data (sizes [n], >= 1, sum N) each group will have. Then each group has its
 * own exact counts, and totals are exact for MIXED too; without it every group has the plan's shares, and a MIXED
 * total may miss its count by less than the number of groups. SALF_E_ARGUMENT (a group twice, more than max_groups). */
SALF_API salf_status salf_planner_set_groups(salf_planner *planner, const int32_t *groups, const int64_t *sizes,
                                             int64_t n);
/* Answers a PROBE task of STREAM by the trace of its rows; task becomes a TRAIN task of the same rows with their cuts,
 * all to be trained now. groups [n_data]: rows of different groups never compete for a cut, and so no group ends up
 * with the shallow ones only; pass the target tokens unless you know better. Collective: each rank learns what the
 * others found (2 numbers a row of the task, m more for GAIN), and all book the same. With sizes set, a group not among
 * them, or one with more rows than its size, is SALF_E_ARGUMENT. */
SALF_API salf_status salf_planner_assign(salf_planner *planner, const salf_trace *trace, const int32_t *groups,
                                         salf_task *task);
/* The data of the task at hand have been trained. */
SALF_API salf_status salf_planner_done(salf_planner *planner);
/* Progress as bytes. With buffer NULL only *size is set; else *size is the room there (SALF_E_BUFFER when too small)
 * and becomes what was used. Load into a planner made with the same sizes and options (SALF_E_MISMATCH names what
 * differs), and ask salf_planner_next before you decide; SALF_E_VERSION, _TRUNCATED, _CORRUPT leave it as it was. */
SALF_API salf_status salf_planner_save(const salf_planner *planner, void *buffer, uint64_t *size);
SALF_API salf_status salf_planner_load(salf_planner *planner, const void *buffer, uint64_t size);

/* ---- 10. Freezing policy ---------------------------------------------------------------------------------------- */
/* Says at every step which layers train: SALF, its budgets, and its peers. */
typedef struct salf_policy salf_policy;

enum {
    SALF_POLICY_FULL = 0,        /* every layer, always */
    SALF_POLICY_SUFFIX = 1,      /* layers first_layer ... m-1 */
    SALF_POLICY_HALF = 2,        /* SUFFIX with floor(m/2): LoRA[half] of the paper */
    SALF_POLICY_SALF = 3,        /* by the trace of each batch (paper, Algorithm 3) */
    SALF_POLICY_BUDGET = 4,      /* by the planner's task at hand (paper, Algorithm 4) */
    SALF_POLICY_LIFT = 5,        /* one layer at a time, in turns of interval steps */
    SALF_POLICY_LIFT_STAR = 6,   /* the same turns; that layer and all deeper ones (paper 4.1) */
    SALF_POLICY_LISA = 7,        /* n_active layers drawn every interval steps */
    SALF_POLICY_BLOCK = 8,       /* block coordinate descent: one layer a phase, order redrawn each round */
    SALF_POLICY_FREEZEOUT = 9,   /* half-cosine annealing of each layer's rate, frozen at 0 */
    SALF_POLICY_LINEAR = 10,     /* frozen depth grows linearly from start to level */
    SALF_POLICY_AUTOFREEZE = 11, /* freeze the prefix whose gradients change least */
    SALF_POLICY_RGN = 12,        /* learning-rate scales from gradient norm / parameter norm */
    SALF_POLICY_RANDOM = 13,     /* a random suffix each step */
    SALF_POLICY_SCRIPTED = 14,   /* cuts from a table */
    SALF_POLICY_CALLBACK = 15,   /* cuts from the host */
    SALF_POLICY_RAMP = 16        /* every layer; layer k at the share of a plan's data with a cut up to k */
};
/* Orders of LIFT and BLOCK. DEFAULT: front to end for LIFT, random for BLOCK. */
enum { SALF_ORDER_DEFAULT = 0, SALF_ORDER_FORWARD = 1, SALF_ORDER_BACKWARD = 2, SALF_ORDER_RANDOM = 3 };
/* One cut from many eof: argmax of the mean gain curve, smallest, (lower) median, most frequent (ties shallow). PREFIX
 * cuts the batch at the smallest and each row at its own (rows sorted by eof: active_rows). */
enum { SALF_REDUCE_MEAN_GAIN = 0, SALF_REDUCE_SMALLEST = 1, SALF_REDUCE_MEDIAN = 2, SALF_REDUCE_MODE = 3 };
enum { SALF_REDUCE_PREFIX = 4 };
/* Whether a layer's rate is scaled by the share of the batch's rows, over all ranks, that train it: an optimizer that
 * divides by the gradient's size would else step as far from one row as from all. DEFAULT: BY_ROWS where rows have cuts
 * of their own (STREAM, PREFIX), else WHOLE. */
enum { SALF_RATES_DEFAULT = 0, SALF_RATES_WHOLE = 1, SALF_RATES_BY_ROWS = 2 };
/* Cut for a step, 0 ... m-1, or a negative number for failure. */
typedef int32_t (*salf_cut_fn)(void *user, int64_t step, int32_t n_layers, const salf_trace *trace);

typedef struct salf_policy_options {
    uint32_t struct_size;
    /* -- every kind -- */
    int32_t train_embedding; /* embedding trains whenever the backward reaches it (cut 0) */
    int32_t train_head;      /* head trains at every step */
    int32_t reserved;
    int64_t total_steps; /* of the run; needed where interval is 0, by FREEZEOUT and by LINEAR */
    uint64_t seed;
    /* -- LIFT, LIFT_STAR, BLOCK, LISA, AUTOFREEZE -- */
    int64_t interval; /* steps of a turn; 0: m turns in the run, step s of S lies in turn floor(s m / S) */
    int32_t order;    /* LIFT, LIFT_STAR, BLOCK: SALF_ORDER_* */
    /* -- SUFFIX; SALF; LISA; BLOCK -- */
    int32_t first_layer; /* SUFFIX */
    int32_t reduction; /* SALF: SALF_REDUCE_*. CALLBACK: PREFIX truncates each row at its own eof or the cut, whichever
                             is deeper; the others give all rows the cut */
    int32_t n_active;  /* LISA: 0 = 2 */
    int32_t always_on; /* LISA: embedding and head train at every step */
    int32_t keep_moments; /* BLOCK: 1 = do not reset a layer's optimizer state when its phase begins */
    /* -- FREEZEOUT; LINEAR; AUTOFREEZE -- */
    int32_t cubic;      /* FREEZEOUT: cube the freezing times */
    int32_t scale_rate; /* FREEZEOUT: initial rate of layer i times 1 / t_i */
    double start;       /* FREEZEOUT: t0 of layer 0, >= 1e-100, 0 = 0.5; LINEAR: share of the run before it freezes */
    double level;       /* LINEAR: fraction of the layers frozen at the end; 0 = 0.5 */
    double percentile;  /* AUTOFREEZE: 0 ... 100; 0 = 50 */
    /* -- SCRIPTED; CALLBACK; BUDGET -- */
    const int32_t *script; /* SCRIPTED: [n_script] cuts; the last one holds on. Copied */
    int64_t n_script;
    salf_cut_fn callback; /* CALLBACK */
    void *callback_user;
    salf_planner *planner;    /* BUDGET; RAMP, for its counts (NULL: UNIFORM). Kept alive */
    int32_t rates, reserved2; /* every kind: SALF_RATES_*; 0 */
} salf_policy_options;

/* What the host knows at a step. trace: SALF (required), CALLBACK. gradient_l1 [m]: AUTOFREEZE, only where the decision
 * before had gradients_wanted: of each layer the L1 norm of the sum of its gradients over the steps since it was last
 * wanted, or since the first; 0 for what did not train. gradient_norm, parameter_norm [m]: RGN; NULL at the first
 * decision only. */
typedef struct salf_observation {
    uint32_t struct_size;
    int32_t n_data; /* data of the batch, 0: not said. Rows of a trace that are no data, as tokens, cannot have cuts of
                       their own: for PREFIX a trace of other rows is SALF_E_SHAPE */
    int64_t step;   /* 0-based; never decreases */
    const salf_trace *trace;
    const double *gradient_l1, *gradient_norm, *parameter_norm;
} salf_observation;

/* What to do at a step; arrays are borrowed from the policy, valid until its next call. */
typedef struct salf_decision {
    uint32_t struct_size;
    int32_t n_layers;
    int64_t step;
    int32_t cut;           /* lowest layer the backward must reach; m when it need not reach any */
    int32_t graph_changed; /* 1: the trainable set differs from the last decision's (recompile, re-wrap, re-capture) */
    int32_t train_embedding, train_head;
    const uint8_t *trainable; /* [m] */
    const double *rate_scale; /* [m] factor on the learning rate; 0 where not trainable */
    const int32_t *added;     /* [n_added] layers that train now and did not before */
    const int32_t *removed;   /* [n_removed] layers that trained before and do not now: clear their gradients */
    const int32_t *reset;     /* [n_reset] layers whose optimizer moments and step count start afresh */
    int32_t n_added, n_removed, n_reset, reserved;
    int64_t rows;
    const int32_t *eof;         /* [rows] cut of each row, m: none trains; NULL unless a trace or a task was seen */
    const int64_t *order;       /* [rows] rows by eof ascending, stable; NULL with eof */
    const int64_t *active_rows; /* [m] layer k's backward runs on the first active_rows[k] of order; NULL with eof */
    double batch_share; /* BUDGET: rows that train now / max_data of all ranks; else 1. An update takes its rate times
                           the sum of this over the decisions whose gradients it applies, at most 1: a batch that a
                           stage cuts short must not move the weights as far as a whole one. (Or carry gradients over
                           the end of a stage: ask for what your batch lacks.) */
    int32_t gradients_wanted; /* AUTOFREEZE: 1: the next step ends the turn; pass gradient_l1 with it */
    int32_t reserved2;
} salf_decision;

/* A policy for n_layers layers. The first decision reports every trainable layer as added. */
SALF_API salf_status salf_policy_create(salf_policy **out, salf_context *context, int32_t kind, int32_t n_layers,
                                        const salf_policy_options *options);
SALF_API void salf_policy_destroy(salf_policy *policy);
/* The decision for a step. The same step may be asked again only by a loaded policy; a smaller one is SALF_E_SEQUENCE.
 * Collective, for every kind: all ranks get the same cut and trainable set, from the rows of all (at most m + 1 numbers
 * are summed), or all fail. A rank whose probe failed calls salf_context_agree instead. */
SALF_API salf_status salf_policy_decide(salf_policy *policy, const salf_observation *seen, salf_decision *decision);
/* Progress as bytes, as for the planner; loadable before any optimizer exists. */
SALF_API salf_status salf_policy_save(const salf_policy *policy, void *buffer, uint64_t *size);
SALF_API salf_status salf_policy_load(salf_policy *policy, const void *buffer, uint64_t size);

/* A fine-tuning method as the paper names it (4.1, Appendix A.3), in the constants of this header. Names: "lora[full]",
 * "lora[half]", "lift[half]", "lift*[half]", "salf", "salf[half]", and both "lift*" and "salf" with a budget
 * "[geom][bf]", "[geom][df]", "[arith][bf]" or "[arith][df]"; where data are probed a metric may follow:
 * "salf[half][ce]". A policy's word, such as "lisa" or "ramp", is a name too.
 * "[stream]" behind a budget makes it a stream: "salf[half][stream]" cuts by eof inside groups, staged;
 * "lift*[half][stream]" takes rows as they come, staged; "random[half][stream]" is random and mixed. Without "[stream]"
 * salf's budgets are the paper's Algorithm 4. */
typedef struct salf_method {
    uint32_t struct_size;
    int32_t policy;                   /* SALF_POLICY_*: the kind to make */
    int32_t growth, infill, matching; /* BUDGET: of its planner; matching NONE where nothing is probed */
    int32_t probes;                   /* 1: decides by deviations, so that a probe is needed */
    int32_t metric;                   /* SALF_METRIC_* of that probe */
    int32_t reserved;
    int32_t assignment, stream_order; /* BUDGET, matching STREAM: of its planner */
} salf_method;

/* Fills method from its name; SALF_E_NOT_FOUND lists the names there are. salf_method_name gives the paper's names
 * without metrics, in the order of its tables, by index; NULL behind the last. Static. */
SALF_API salf_status salf_method_find(const char *name, salf_method *method);
SALF_API const char *salf_method_name(int32_t index);

/* ---- 11. Cost model --------------------------------------------------------------------------------------------- */
/* Matrices LoRA sits on, or that train densely: a mask. */
enum { SALF_MATRIX_Q = 1, SALF_MATRIX_K = 2, SALF_MATRIX_V = 4, SALF_MATRIX_O = 8 };
enum { SALF_MATRIX_GATE = 16, SALF_MATRIX_UP = 32, SALF_MATRIX_DOWN = 64, SALF_MATRIX_ALL = 127 };

typedef struct salf_cost_options {
    uint32_t struct_size;
    int32_t n_layers;
    int64_t hidden, ffn_hidden, vocab;
    int32_t n_heads;
    int32_t n_kv_heads, head_dim; /* 0 = n_heads, 0 = hidden / n_heads */
    int32_t gated_ffn;            /* 1: three matrices, 0: two */
    int32_t lora_rank, matrices;  /* rank 0: dense training; SALF_MATRIX_* that train, 0 = all */
    int64_t rows, row_tokens;     /* sequences in the step, tokens of each */
    int64_t head_positions;       /* positions at which logits are computed; 0 = rows */
    int32_t probe, metric;        /* 1: a probe runs; its SALF_METRIC_*, over the whole vocabulary */
    int32_t train_embedding, train_head; /* the embedding asks for cut 0, and its gradient is left out: it is small */
    const int32_t *eof;       /* [rows] cut of each row (prefix truncation); NULL: cut for all */
    const uint8_t *trainable; /* [m]; NULL: all layers from cut up */
    int32_t cut, reserved;
} salf_cost_options;

/* Floating-point operations (a multiply-add counts 2) of a training step, and of the same step with nothing frozen. */
typedef struct salf_cost {
    uint32_t struct_size;
    int32_t reserved;
    double forward, activation_gradient, weight_gradient;
    double head, probe, total; /* head: forward and backward of the LM head */
    double full_total;         /* cut 0, all layers trainable, no probe */
    double step_saving;        /* 1 - total / full_total */
    double depth_saving;       /* the paper's: mean eof / m */
} salf_cost;

/* Prices a step from shapes alone. SALF_E_ARGUMENT names a field that makes no sense. */
SALF_API salf_status salf_cost_estimate(const salf_cost_options *options, salf_cost *cost);

/* ---- 12. Checkpoints of a run ----------------------------------------------------------------------------------- */
/* A folder with the state of a run, which goes on after a kill as if nothing had been: two generations, each whole or
 * found out (a hash of every byte), a lock that dies with its process, and what the run is made of, so that none goes on
 * with another's state. One process at a time: of several ranks one saves, or each has its own folder. */
typedef struct salf_checkpoint salf_checkpoint;

/* A part of what a run is made of; name is what messages call it ("data", "learning rate"). With content 0 the run is
 * another one when value differs; else when content does (salf_hash), and value, such as a path, is information. */
typedef struct salf_identity {
    const char *name, *value;
    uint64_t content;
} salf_identity;

typedef struct salf_checkpoint_info {
    uint32_t struct_size;
    int32_t locked;              /* 0: the file system has no locks; see yourself that nobody else writes here */
    int64_t saves;               /* number of the save in use; 0: the folder holds none */
    const salf_tensors *tensors; /* of it, to be read until the next save or destroy; NULL: none, or saved since */
    const char *damage;          /* NULL, or which of the two files was passed over and why: tell the user */
} salf_checkpoint_info;

/* What is saved, or where it is loaded to. */
typedef struct salf_checkpoint_content {
    uint32_t struct_size;
    int32_t reserved;
    const salf_named_tensor *tensors; /* in host memory: parameters, moments, counters, your own bytes as U8 */
    int64_t n_tensors;
    const char *const *metadata; /* pairs of strings; not loaded: salf_tensors_metadata reads them */
    int64_t n_metadata;
    salf_policy *policy; /* NULL: none */
    salf_planner *planner;
} salf_checkpoint_content;

/* Makes the folder where it is not there, locks it, removes what a killed process was writing, and finds the newest
 * save that is whole; look at info.saves before you save over it. Errors: SALF_E_BUSY (names process and host),
 * SALF_E_MISMATCH (names in your words what the run differs in), SALF_E_CORRUPT (every save is damaged),
 * SALF_E_VERSION, SALF_E_IO. A forked process may save once this one has ended, and keeps nobody out. */
SALF_API salf_status salf_checkpoint_open(salf_checkpoint **out, salf_context *context, const char *folder,
                                          const salf_identity *identities, int64_t n_identities);
SALF_API void salf_checkpoint_destroy(salf_checkpoint *checkpoint);
SALF_API salf_status salf_checkpoint_get_info(const salf_checkpoint *checkpoint, salf_checkpoint_info *info);
/* Names and keys must not begin with "salf.". The save before stays whole until this one is on the disk. Errors: those
 * of salf_tensors_save; SALF_E_IO also where the folder or its lock was moved, removed or replaced meanwhile. */
SALF_API salf_status salf_checkpoint_save(salf_checkpoint *checkpoint, const salf_checkpoint_content *content);
/* Copies the tensors that you name into your memory, which must have their shapes and types (SALF_E_SHAPE,
 * SALF_E_DTYPE, SALF_E_NOT_FOUND), and loads planner and policy: all or nothing. Whether your numbers make sense is
 * yours to check: a hash finds no state that was wrong when it was saved. */
SALF_API salf_status salf_checkpoint_load(salf_checkpoint *checkpoint, const salf_checkpoint_content *content);

#ifdef __cplusplus
}
#endif
#endif
