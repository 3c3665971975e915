/* tensor.c - borrowed matrices: checks, addresses, and conversion of one row at a time. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "core/dtypes.h"

/* ---- element types ---- */

static const struct {
    const char *name;
    int64_t size; /* bytes */
} dtypes[] = {
#define FLOAT_TYPE(type, name, bytes, element) [type] = {name, bytes},
    SLF_FLOAT_TYPES(FLOAT_TYPE)[SALF_F64] = {"float64", 8},
    [SALF_I8] = {"int8", 1},
    [SALF_U8] = {"uint8", 1},
    [SALF_I32] = {"int32", 4},
    [SALF_I64] = {"int64", 8},
};

/* Numbers of types begin at 1, so that a view of zeros has none. */
static bool dtype_known(int32_t dtype) {
    return dtype > 0 && dtype < (int32_t)(sizeof dtypes / sizeof *dtypes);
}

int64_t slf_dtype_size(int32_t dtype) {
    return dtype_known(dtype) ? dtypes[dtype].size : 0;
}

const char *slf_dtype_name(int32_t dtype) {
    return dtype_known(dtype) ? dtypes[dtype].name : "unknown";
}

/* ---- checks ---- */

static bool memory_known(int32_t memory) {
    return memory == SALF_MEMORY_HOST || memory == SALF_MEMORY_DEVICE; /* called for each view: no look at words */
}

/* Called for every view that a host hands in, so that what follows can trust it. What the addresses hold, and whether
 * they may be read, nobody can check. */
salf_status slf_tensor_check(const salf_tensor *tensor, const char *name, int64_t rows, int64_t cols, bool device_ok) {
    /* 1. shape */
    if (!tensor) return slf_fail(SALF_E_NULL, "%s is NULL", name);
    if (tensor->rows < 0 || tensor->cols < 0)
        return slf_fail(SALF_E_SHAPE, "%s: [%" PRId64 "][%" PRId64 "] has a negative size", name, tensor->rows,
                        tensor->cols);
    if (rows >= 0 && tensor->rows != rows)
        return slf_fail(SALF_E_SHAPE, "%s: %" PRId64 " rows where %" PRId64 " are needed", name, tensor->rows, rows);
    if (cols >= 0 && tensor->cols != cols)
        return slf_fail(SALF_E_SHAPE, "%s: %" PRId64 " columns where %" PRId64 " are needed", name, tensor->cols, cols);
    /* An empty batch is usual at the end of an epoch; its other fields may be anything. */
    if (tensor->rows == 0) return SALF_OK; /* nothing will be read */
    /* 2. elements */
    if (slf_float_size(tensor->dtype) == 0)
        return slf_fail(SALF_E_DTYPE, "%s: dtype %d (%s) where float32, bfloat16 or float16 is needed", name,
                        (int)tensor->dtype, slf_dtype_name(tensor->dtype));
    if (!tensor->data) return slf_fail(SALF_E_NULL, "%s: data is NULL with %" PRId64 " rows", name, tensor->rows);
    /* Elements are read where they lie, and an address between two is a fault on some machines and on every device. */
    const bool index_off = (uintptr_t)tensor->row_index % _Alignof(int64_t) != 0;
    if (index_off || (uintptr_t)tensor->data % (uintptr_t)slf_float_size(tensor->dtype) != 0)
        return slf_fail(SALF_E_ARGUMENT, "%s: %s is at address %p, which is not aligned for its type", name,
                        index_off ? "row_index" : "data", index_off ? (const void *)tensor->row_index : tensor->data);
    /* 3. memory */
    if (!memory_known(tensor->memory) || !memory_known(tensor->index_memory))
        return slf_fail(SALF_E_ARGUMENT, "%s: memory %d or index_memory %d is none of SALF_MEMORY_*", name,
                        (int)tensor->memory, (int)tensor->index_memory);
    if (!device_ok && (tensor->memory == SALF_MEMORY_DEVICE || tensor->index_memory == SALF_MEMORY_DEVICE))
        return slf_fail(SALF_E_ARGUMENT, "%s: device memory given to a backend that computes in host memory", name);
    /* 4. places */
    return slf_tensor_check_places(tensor, name);
}

/* Of a view of any type, whose rows and cols are not negative: where its elements lie. */
salf_status slf_tensor_check_places(const salf_tensor *tensor, const char *name) {
    /* 1. every address that the view can form: the distance in bytes between any two elements has to fit 63 bits, so
     * that no place that is computed of it overflows; 16 is more than the size of any element. A row index in device
     * memory cannot be looked at from here. */
    const int64_t limit = INT64_MAX / 16, stride = tensor->row_stride, rows = SLF_MAX(tensor->rows, 1);
    const int64_t magnitude = stride < 0 ? -(stride + 1) : stride; /* of INT64_MIN too */
    const int64_t dense = tensor->row_index ? 0 : tensor->cols;
    if (tensor->cols > limit || magnitude > limit / rows || dense > limit / rows)
        return slf_fail(SALF_E_OVERFLOW,
                        "%s: [%" PRId64 "][%" PRId64 "] with row stride %" PRId64 " does not fit memory", name,
                        tensor->rows, tensor->cols, stride);
    /* 2. rows that overlap: two of them would share numbers, of an output even be written twice. With an index a row
     * number may count anything. */
    if (!tensor->row_index && tensor->rows > 1 && stride != 0 && stride < tensor->cols && -stride < tensor->cols)
        return slf_fail(SALF_E_SHAPE,
                        "%s: row stride %" PRId64 " is less than its %" PRId64 " columns; rows would overlap (or is it "
                        "transposed?)",
                        name, stride, tensor->cols);
    /* 3. the extent. An index in device memory cannot be read from here, so that one promises what is not kept.
     * Without an index the rows are the first of the data, so that their number alone can pass it. */
    const int64_t extent = tensor->extent;
    const bool bounded = extent > 0;
    if (extent < 0) return slf_fail(SALF_E_ARGUMENT, "%s: extent is %" PRId64, name, extent);
    if (!tensor->row_index && bounded && tensor->rows > extent)
        return slf_fail(SALF_E_SHAPE, "%s: %" PRId64 " rows, but its data has an extent of %" PRId64, name,
                        tensor->rows, extent);
    if (!tensor->row_index) return SALF_OK;
    if (tensor->index_memory != SALF_MEMORY_HOST) {
        if (!bounded) return SALF_OK;
        return slf_fail(SALF_E_UNSUPPORTED,
                        "%s: extent is %" PRId64 ", but a row_index in device memory is not checked", name, extent);
    }
    for (int64_t r = 0; r < tensor->rows; r++) {
        const int64_t row = tensor->row_index[r];
        if (row < 0) return slf_fail(SALF_E_ARGUMENT, "%s: row_index[%" PRId64 "] is %" PRId64, name, r, row);
        if (bounded && row >= extent)
            return slf_fail(SALF_E_ARGUMENT,
                            "%s: row_index[%" PRId64 "] is %" PRId64 ", but its data has an extent of %" PRId64 " rows",
                            name, r, row, extent);
    }
    return SALF_OK;
}

/* Without an index slf_tensor_check_places has seen it. Rows in order: then only neighbours can meet. A stride below
 * the columns is a host's way to number something else than rows, and so a distance in rows is taken times it. */
salf_status slf_tensor_check_apart(const salf_context *context, const salf_tensor *out, const char *name) {
    const int64_t n = out->rows, stride = out->row_stride ? out->row_stride : out->cols;
    salf_status status = SALF_OK;
    int64_t *sorted;
    if (!out->row_index || out->index_memory != SALF_MEMORY_HOST || n < 2) return SALF_OK;
    SLF_TRY(SLF_ALLOC(context, sorted, n));
    memcpy(sorted, out->row_index, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, slf_order_i64);
    for (int64_t r = 1; r < n && status == SALF_OK; r++) {
        const double apart = ((double)sorted[r] - (double)sorted[r - 1]) * (double)stride;
        if (apart < (double)out->cols && -apart < (double)out->cols)
            status = slf_fail(SALF_E_ARGUMENT,
                              "%s: row_index leads to rows %" PRId64 " and %" PRId64
                              ", which share elements; each would be written over by the other",
                              name, sorted[r - 1], sorted[r]);
    }
    slf_free(context, sorted);
    return status;
}

/* ---- addresses, rows ---- */

/* A stride of 0 means dense. Also for device memory: nothing is read but the index, which must be the host's. */
int64_t slf_tensor_offset(const salf_tensor *tensor, int64_t r) {
    const int64_t row = tensor->row_index ? tensor->row_index[r] : r;
    return row * (tensor->row_stride ? tensor->row_stride : tensor->cols);
}

const void *slf_tensor_row(const salf_tensor *tensor, int64_t r) {
    return (const char *)tensor->data + slf_tensor_offset(tensor, r) * slf_dtype_size(tensor->dtype);
}

void slf_row_to_f32(const salf_tensor *tensor, int64_t r, float *out) {
    slf_floats_widen(slf_tensor_row(tensor, r), tensor->dtype, tensor->cols, out);
}

/* Every float32 is a float64: nothing is rounded. */
void slf_row_to_f64(const salf_tensor *tensor, int64_t r, double *out) {
    const void *row = slf_tensor_row(tensor, r);
    const int64_t n = tensor->cols;
    switch (tensor->dtype) {
        SLF_FLOAT_TYPES(SLF_FLOAT_LOOP)
    case SALF_F64:
        memcpy(out, row, (size_t)n * sizeof(double));
    }
}

/* ---- views of whole blocks ---- */

salf_tensor slf_tensor_host(const void *data, int32_t dtype, int64_t rows, int64_t cols) {
    void *input = (void *)(uintptr_t)data; /* which is never written through */
    return (salf_tensor){.data = input, .rows = rows, .cols = cols, .row_stride = cols, .dtype = dtype};
}

/* A backend that computes on the host has its memory there: the view says so. */
salf_tensor slf_tensor_device(const salf_context *context, const void *data, int32_t dtype, int64_t rows,
                              int64_t cols) {
    salf_tensor tensor = slf_tensor_host(data, dtype, rows, cols);
    tensor.memory = slf_backend_memory(context);
    return tensor;
}

/* With an index only the index moves: the rows stay where they are. */
salf_tensor slf_tensor_slice(const salf_tensor *tensor, int64_t first, int64_t count) {
    salf_tensor slice = *tensor;
    const int64_t stride = tensor->row_stride ? tensor->row_stride : tensor->cols;
    slice.rows = count;
    if (tensor->row_index)
        slice.row_index = tensor->row_index + first;
    else
        slice.data = (char *)tensor->data + first * stride * slf_dtype_size(tensor->dtype);
    return slice;
}

/* Row numbers are those of the data: an index of the view's own is looked through. */
salf_tensor slf_tensor_rows(const salf_tensor *tensor, const int64_t *kept, int64_t n, int64_t *index) {
    salf_tensor rows = *tensor;
    for (int64_t i = 0; i < n; i++) index[i] = tensor->row_index ? tensor->row_index[kept[i]] : kept[i];
    rows.row_index = index;
    rows.index_memory = SALF_MEMORY_HOST;
    rows.rows = n;
    return rows;
}

bool slf_tensor_is_in(const salf_tensor *tensor, int32_t memory) {
    return tensor->memory == memory && (!tensor->row_index || tensor->index_memory == memory);
}
