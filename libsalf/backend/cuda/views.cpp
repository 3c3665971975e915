/*
 * views.cpp - rows as kernels see them. A view of device memory is taken as it lies; rows of host memory are gathered
 * into page-locked memory, two pieces in turns, and copied to scratch on the device, so that gathering goes on while
 * the copy before it is under way.
 */
#include <string.h>

#include "../../core/dtypes.h"
#include "device.h"

uint64_t slf_dtype_bytes(int32_t dtype) {
    return dtype == SALF_F64 ? 8 : static_cast<uint64_t>(slf_float_size(dtype));
}

slf_rows slf_rows_of(void *data, int32_t dtype, int64_t rows, int64_t cols, int64_t stride) {
    const uint64_t bytes = static_cast<uint64_t>(stride < 0 ? -stride : stride) * slf_dtype_bytes(dtype);
    const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && bytes % 16 == 0;
    return slf_rows{data, nullptr, rows, cols, stride, dtype, aligned};
}

/* Rows follow each other without gaps. */
bool slf_in_one_piece(const slf_rows &rows) {
    return !rows.index && (rows.stride == rows.cols || rows.rows == 1);
}

/* A view without rows lies nowhere. */
bool slf_on_host(const salf_tensor *view) {
    return view->rows > 0 && view->memory == SALF_MEMORY_HOST;
}

static int64_t stride_of(const salf_tensor *view) {
    return view->row_stride ? view->row_stride : view->cols;
}

/* A graph would replay the copy from a stage that holds other rows by then. */
static salf_status refuse_capture(const slf_device *device, const char *what) {
    if (!device->capturing) return SALF_OK;
    return device->services.fail(SALF_E_UNSUPPORTED, "%s in host memory cannot be captured in a graph", what);
}

/* A stage of at least this size whose last copy is done. Two of them in turns: while one is on its way the other is
 * filled. Their memory only grows, as scratch does. */
static salf_status next_stage(slf_device *device, uint64_t bytes, slf_stage **out) {
    slf_stage *stage = &device->stages[device->next_stage];
    device->next_stage = (device->next_stage + 1) % SLF_STAGES;
    if (!stage->passed) SLF_CUDA(device, cudaEventCreateWithFlags(&stage->passed, cudaEventDisableTiming));
    SLF_CUDA(device, cudaEventSynchronize(stage->passed));
    if (stage->bytes < bytes) {
        if (stage->memory) SLF_CUDA(device, cudaFreeHost(stage->memory));
        *stage = slf_stage{nullptr, 0, stage->passed};
        SLF_CUDA(device, cudaHostAlloc(&stage->memory, bytes, cudaHostAllocDefault));
        stage->bytes = bytes;
    }
    *out = stage;
    return SALF_OK;
}

/* Enqueues the copy of a stage to the device. */
static salf_status send_stage(slf_device *device, slf_stage *stage, void *to, uint64_t bytes) {
    SLF_CUDA(device, cudaMemcpyAsync(to, stage->memory, bytes, cudaMemcpyHostToDevice, device->stream));
    SLF_CUDA(device, cudaEventRecord(stage->passed, device->stream));
    return SALF_OK;
}

/* ---- the row index ---- */

slf_index::slf_index(slf_device *owner, const salf_tensor *tensor, int scratch_kind)
    : device(owner), view(tensor), kind(scratch_kind), placed(false), values(tensor->row_index), copy(nullptr) {}

slf_index::~slf_index() {
    if (copy) device->services.free(device->services.context, copy);
}

/* Called by the first piece, which may be the only one; later ones find the index where it was put. An index of the
 * host for rows of the device goes to the device. One of the device for rows of the host has to be waited for, since
 * the host is to gather by it; no handle of libsalf makes such views, but a host may. */
salf_status slf_index::place() {
    if (placed) return SALF_OK;
    placed = true;
    if (slf_on_host(view)) SLF_TRY(refuse_capture(device, "rows"));
    if (!values || view->rows == 0 || view->index_memory == view->memory) return SALF_OK;
    SLF_TRY(refuse_capture(device, "a row index"));
    const uint64_t bytes = static_cast<uint64_t>(view->rows) * sizeof(int64_t);
    slf_stage *stage = nullptr;
    SLF_TRY(next_stage(device, bytes, &stage));
    /* By way of a stage, as rows are: the host may change its index as soon as the slot returns. */
    if (view->index_memory == SALF_MEMORY_HOST) {
        void *moved = nullptr;
        memcpy(stage->memory, values, bytes);
        SLF_TRY(slf_scratch(device, kind, bytes, &moved));
        SLF_TRY(send_stage(device, stage, moved, bytes));
        values = static_cast<const int64_t *>(moved);
        return SALF_OK;
    }
    SLF_CUDA(device, cudaMemcpyAsync(stage->memory, values, bytes, cudaMemcpyDeviceToHost, device->stream));
    SLF_TRY(slf_device_wait(device));
    copy = static_cast<int64_t *>(device->services.alloc(device->services.context, bytes, 1));
    if (!copy) return SALF_E_NO_MEMORY;
    memcpy(copy, stage->memory, bytes);
    values = copy;
    return SALF_OK;
}

/* ---- rows of the host ---- */

/* Rows of host memory and their places in a stage; the loops below run on the host's threads. */
typedef struct {
    char *data;           /* of the view */
    const int64_t *index; /* of the piece, or NULL */
    int64_t first;        /* row of the piece where index is NULL */
    int64_t stride;       /* of the view, in bytes */
    char *staged;
    uint64_t bytes; /* of a row */
    uint64_t pitch; /* of a row that is staged */
} gathering;

static char *row_of(const gathering *g, int64_t r) {
    return g->data + (g->index ? g->index[r] : g->first + r) * g->stride;
}

static void gather_rows(void *user, int64_t begin, int64_t end) {
    const gathering *g = static_cast<const gathering *>(user);
    for (int64_t r = begin; r < end; r++)
        memcpy(g->staged + static_cast<uint64_t>(r) * g->pitch, row_of(g, r), g->bytes);
}

static void scatter_rows(void *user, int64_t begin, int64_t end) {
    const gathering *g = static_cast<const gathering *>(user);
    for (int64_t r = begin; r < end; r++)
        memcpy(row_of(g, r), g->staged + static_cast<uint64_t>(r) * g->pitch, g->bytes);
}

/* Rows are staged at multiples of 16 bytes, so that kernels read them in wide words. */
salf_status slf_pieces::stage(int64_t rows, slf_rows *piece) {
    const uint64_t size = slf_dtype_bytes(view->dtype), bytes = static_cast<uint64_t>(view->cols) * size;
    const uint64_t pitch = (bytes + 15) / 16 * 16, whole = pitch * static_cast<uint64_t>(rows);
    slf_stage *stage = nullptr;
    void *staged = nullptr;
    SLF_TRY(next_stage(device, whole, &stage));
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_STAGED, whole, &staged));
    /* A row of the host may lie anywhere; the copy to the device wants one piece. Gathering is bound by memory, and a
     * megabyte is work enough for another thread. */
    gathering g = {
        static_cast<char *>(view->data),    index.from(at), at,   stride_of(view) * static_cast<int64_t>(size),
        static_cast<char *>(stage->memory), bytes,          pitch};
    const int64_t grain = 1 + static_cast<int64_t>((1u << 20) / pitch);
    device->services.parallel_for(device->services.context, rows, grain, gather_rows, &g);
    SLF_TRY(send_stage(device, stage, staged, whole));
    *piece = slf_rows_of(staged, view->dtype, rows, view->cols, static_cast<int64_t>(pitch / size));
    return SALF_OK;
}

/* A piece of a host view is smaller where it has to be staged: stage and device copy take a quarter of the workspace,
 * the caller's own scratch has the rest. */
salf_status slf_pieces::next(slf_rows *piece, int64_t *first, bool *more) {
    SLF_TRY(index.place());
    *more = at < view->rows;
    if (!*more) return SALF_OK;
    int64_t rows = view->rows - at < most ? view->rows - at : most;
    *first = at;
    if (slf_on_host(view)) {
        /* a quarter of the workspace is for what is staged */
        const int64_t fitting =
            slf_fitting_rows(device, rows, 4 * (static_cast<uint64_t>(view->cols) * slf_dtype_bytes(view->dtype) + 16));
        rows = fitting;
        SLF_TRY(stage(rows, piece));
    } else {
        const int64_t stride = stride_of(view);
        char *data = static_cast<char *>(view->data);
        /* With an index the view's rows stay and the index moves on; without one the view itself does. */
        if (!index.from(at)) data += at * stride * static_cast<int64_t>(slf_dtype_bytes(view->dtype));
        *piece = slf_rows_of(data, view->dtype, rows, view->cols, stride);
        piece->index = index.from(at);
    }
    at += rows;
    return SALF_OK;
}

/* ---- rows to write ---- */

/* Rows of the device are written where they lie; for rows of the host there is scratch, copied by finish. */
salf_status slf_target::begin(int64_t first, int64_t rows, slf_rows *out) {
    const int64_t size = static_cast<int64_t>(slf_dtype_bytes(view->dtype));
    SLF_TRY(index.place());
    if (slf_on_host(view)) {
        SLF_TRY(slf_scratch(device, SLF_SCRATCH_TARGET, static_cast<uint64_t>(rows * view->cols * size), &scratch));
        *out = slf_rows_of(scratch, view->dtype, rows, view->cols, view->cols);
        return SALF_OK;
    }
    char *data = static_cast<char *>(view->data);
    if (!index.from(first)) data += first * stride_of(view) * size;
    *out = slf_rows_of(data, view->dtype, rows, view->cols, stride_of(view));
    out->index = index.from(first);
    return SALF_OK;
}

/* Waits: the host may read its rows when the slot returns. */
salf_status slf_target::finish(int64_t first, int64_t rows) {
    if (!slf_on_host(view) || rows == 0) return SALF_OK;
    const uint64_t size = slf_dtype_bytes(view->dtype), pitch = static_cast<uint64_t>(view->cols) * size;
    slf_stage *stage = nullptr;
    SLF_TRY(next_stage(device, pitch * static_cast<uint64_t>(rows), &stage));
    SLF_CUDA(device, cudaMemcpyAsync(stage->memory, scratch, pitch * static_cast<uint64_t>(rows),
                                     cudaMemcpyDeviceToHost, device->stream));
    SLF_TRY(slf_device_wait(device));
    gathering g = {static_cast<char *>(view->data),
                   index.from(first),
                   first,
                   stride_of(view) * static_cast<int64_t>(size),
                   static_cast<char *>(stage->memory),
                   pitch,
                   pitch};
    device->services.parallel_for(device->services.context, rows, 1 + static_cast<int64_t>((1u << 20) / pitch),
                                  scatter_rows, &g);
    return SALF_OK;
}
