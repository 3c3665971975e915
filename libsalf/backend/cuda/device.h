/*
 * device.h - what the files of the cuda backend share: the device, errors, entering a slot, scratch, views on the
 * device. C++17 without exceptions and run-time types; no symbol leaves the plugin but its entry.
 *
 * A slot is entered by slf_entry: one thread at a time for a device, with its context current, and left with the
 * thread's own context as it was. Scratch belongs to the device and only grows, so that a step of a known shape
 * allocates nothing; in stream order one call's scratch is free when the next one's kernels run.
 */
#ifndef SALF_CUDA_DEVICE_H
#define SALF_CUDA_DEVICE_H

#include <cuda_runtime.h>
#include <pthread.h>

#include "../backend.h"
#include "libraries.h"

/* Returns early with the status of a failing call. */
#define SLF_TRY(call)                             \
    do {                                          \
        const salf_status slf_try_ = (call);      \
        if (slf_try_ != SALF_OK) return slf_try_; \
    } while (0)

/* A call of the runtime, of cuBLAS or of cuSOLVER: returns early with its error mapped. */
#define SLF_CUDA(device, call)   SLF_TRY(slf_cuda_check(device, call, #call))
#define SLF_BLAS(device, call)   SLF_TRY(slf_blas_check(device, call, #call))
#define SLF_SOLVER(device, call) SLF_TRY(slf_solver_check(device, call, #call))

/* Device memory that only grows. */
enum slf_scratch_kind {
    SLF_SCRATCH_ROWS,   /* rows of a view in float32 or float64, and products with them */
    SLF_SCRATCH_QUERY,  /* states in float32 */
    SLF_SCRATCH_VECTOR, /* sums of rows */
    SLF_SCRATCH_STAGED, /* rows that came from the host */
    SLF_SCRATCH_INDEX,  /* a row index that came from the host */
    SLF_SCRATCH_TARGET, /* rows that go to the host */
    SLF_SCRATCH_TARGET_INDEX,
    SLF_SCRATCH_KINDS
};

typedef struct slf_buffer {
    void *memory;
    uint64_t bytes;
} slf_buffer;

/* Scratch that captured graphs may still use after it was outgrown. */
typedef struct slf_retired {
    struct slf_retired *next;
    void *memory;
} slf_retired;

/* Page-locked memory on the way between host rows and the device. */
enum { SLF_STAGES = 2 };
typedef struct slf_stage {
    void *memory;
    uint64_t bytes;
    cudaEvent_t passed; /* its copy is done */
} slf_stage;

typedef struct slf_device {
    slf_services services;
    pthread_mutex_t lock;
    slf_libraries libraries;
    CUcontext context; /* primary, retained */
    cudaStream_t stream;
    cublasHandle_t blas;
    cusolverDnHandle_t solver;
    cusolverDnParams_t solver_params;
    slf_buffer blas_workspace;
    slf_buffer scratch[SLF_SCRATCH_KINDS];
    slf_stage stages[SLF_STAGES];
    int next_stage;
    void *host_result; /* page-locked, SLF_RESULT_BYTES: what a slot reads back */
    void *device_result;
    slf_retired *retired;
    int ordinal;
    int locked;    /* the lock is made */
    int retained;  /* the context is */
    int capturing; /* now, since the slot was entered */
    int captured;  /* ever */
    char kernels[16];
} slf_device;

enum { SLF_RESULT_BYTES = 64 };

/* ---- errors (errors.cpp) ---- */
/* After an error that is not reported: the host shall not find it either. What the host left there stays. */
void slf_cuda_forget(cudaError_t error);
salf_status slf_cuda_check(const slf_device *device, cudaError_t error, const char *call);
salf_status slf_blas_check(const slf_device *device, cublasStatus_t status, const char *call);
salf_status slf_solver_check(const slf_device *device, cusolverStatus_t status, const char *call);

/* Lock and context for the length of a slot. quiet: of one that can report nothing; it goes on whatever happens. */
class slf_entry {
  public:
    explicit slf_entry(void *self, bool quiet = false);
    ~slf_entry();
    slf_entry(const slf_entry &) = delete;
    slf_entry &operator=(const slf_entry &) = delete;
    slf_device *device;
    salf_status status;

  private:
    bool pushed;
};

/* ---- memory (memory.cpp) ---- */
salf_status slf_device_memory(slf_device *device, uint64_t bytes, void **memory);
/* At least bytes of a kind of scratch; SALF_E_SEQUENCE when it would have to grow under a capture. */
salf_status slf_scratch(slf_device *device, int kind, uint64_t bytes, void **memory);
/* Waits for the stream. */
salf_status slf_device_wait(slf_device *device);
/* Copies up to SLF_RESULT_BYTES to the host, and waits. */
salf_status slf_read_back(slf_device *device, void *to, const void *from, uint64_t bytes);

/* Memory for the length of a slot. */
struct slf_temporary {
    explicit slf_temporary(slf_device *owner) : device(owner), memory(nullptr) {}
    ~slf_temporary() {
        if (memory) slf_cuda_forget(cudaFree(memory));
    }
    slf_temporary(const slf_temporary &) = delete;
    slf_temporary &operator=(const slf_temporary &) = delete;
    salf_status reserve(uint64_t bytes) { return slf_device_memory(device, bytes, &memory); }
    double *doubles() const { return static_cast<double *>(memory); }
    slf_device *device;
    void *memory;
};

/* ---- views (views.cpp) ---- */

/* A view whose rows and index lie on the device; what kernels are given. */
typedef struct slf_rows {
    void *data;
    const int64_t *index; /* NULL: row r is at r */
    int64_t rows, cols, stride;
    int32_t dtype;
    int32_t aligned; /* rows begin at multiples of 16 bytes */
} slf_rows;

uint64_t slf_dtype_bytes(int32_t dtype);
slf_rows slf_rows_of(void *data, int32_t dtype, int64_t rows, int64_t cols, int64_t stride);
bool slf_in_one_piece(const slf_rows &rows);
bool slf_on_host(const salf_tensor *view);

/* The row index of a view, where its rows are: on the device with those of the device, on the host with those of the
 * host. */
class slf_index {
  public:
    slf_index(slf_device *owner, const salf_tensor *tensor, int scratch_kind);
    ~slf_index();
    slf_index(const slf_index &) = delete;
    slf_index &operator=(const slf_index &) = delete;
    salf_status place();
    const int64_t *from(int64_t row) const { return values ? values + row : nullptr; }

  private:
    slf_device *device;
    const salf_tensor *view;
    int kind;
    bool placed;
    const int64_t *values;
    int64_t *copy; /* host memory of its own */
};

/* A view in pieces of at most `most` rows: of device memory as they lie, of host memory staged one after the other. */
class slf_pieces {
  public:
    slf_pieces(slf_device *owner, const salf_tensor *tensor, int64_t most_rows)
        : device(owner), view(tensor), index(owner, tensor, SLF_SCRATCH_INDEX), most(most_rows), at(0) {}
    /* The next piece and the number of its first row; *more is false past the last. */
    salf_status next(slf_rows *piece, int64_t *first, bool *more);

  private:
    salf_status stage(int64_t rows, slf_rows *piece);
    slf_device *device;
    const salf_tensor *view;
    slf_index index;
    int64_t most, at;
};

/* Rows to write: on the device as they lie, or scratch on the device that finish copies to the host, waiting for it. */
class slf_target {
  public:
    slf_target(slf_device *owner, const salf_tensor *tensor)
        : device(owner), view(tensor), index(owner, tensor, SLF_SCRATCH_TARGET_INDEX), scratch(nullptr) {}
    salf_status begin(int64_t first, int64_t rows, slf_rows *out);
    salf_status finish(int64_t first, int64_t rows);

  private:
    slf_device *device;
    const salf_tensor *view;
    slf_index index;
    void *scratch;
};

/* How many rows of bytes each fit the workspace; at least 1, at most rows. */
int64_t slf_fitting_rows(const slf_device *device, int64_t rows, uint64_t bytes_per_row);

/* ---- kernels that several files use (rows.cu) ---- */
/* out [rows][cols] in float32 or float64, contiguous. */
salf_status slf_convert(slf_device *device, const slf_rows &rows, float *out);
salf_status slf_convert(slf_device *device, const slf_rows &rows, double *out);
/* A tile as float64: where it lies if it is so already, else widened into scratch [rows][cols]; *leading is the number
 * of elements from one row to the next. */
salf_status slf_widened(slf_device *device, const slf_rows &rows, double *scratch, const double **out, int *leading);
/* P [dim][dim]: the lower triangle from the upper one. */
salf_status slf_mirror(slf_device *device, double *p, int64_t dim);

/* ---- products that several files use (products.cu) ---- */
/* Y [rows][dim] = X P; leading: elements from one row of X to the next. */
salf_status slf_times_p(slf_device *device, const double *x, int leading, const double *p, int64_t rows, int64_t dim,
                        double *y);

/* ---- the cosine slot, where it is asked for losses (losses.cu) ---- */
salf_status slf_cosine_losses(slf_device *device, const slf_cosine_job *job);

/* ---- launching ---- */

typedef struct slf_grid {
    int64_t x, y;    /* blocks */
    int threads;     /* of a block, whole warps */
    uint64_t shared; /* bytes */
} slf_grid;

/* Enqueues a kernel; none when there are no blocks. More than 2^31 - 1, which a grid has at most, are an error. */
template <typename... Parameters, typename... Arguments>
salf_status slf_launch(slf_device *device, const char *name, const slf_grid &grid, void (*kernel)(Parameters...),
                       Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0) return SALF_OK;
    if (grid.x > INT32_MAX)
        return device->services.fail(SALF_E_OVERFLOW, "%s: %lld blocks are more than a grid has", name,
                                     static_cast<long long>(grid.x));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), 1);
    config.blockDim = dim3(static_cast<unsigned>(grid.threads), 1, 1);
    config.dynamicSmemBytes = grid.shared;
    config.stream = device->stream;
    return slf_cuda_check(device, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

/* ---- slots ---- */
extern "C" {
SLF_PROTOTYPES(slf_cuda_)
}

#endif
