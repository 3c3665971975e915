/*
 * rows.cu - rows in other forms: widened to float32 or float64, their fingerprint. Memory-bound: each element is read
 * once.
 */
#include <string.h>

#include "../../core/fingerprint.h"
#include "kernels.h"

enum { THREADS = 256 };

/* A block for each row, element by element: any type, any alignment. */
template <typename T> static __global__ void convert(slf_rows rows, T *out) {
    const void *row = slf_row(rows, blockIdx.x);
    T *to = out + static_cast<int64_t>(blockIdx.x) * rows.cols;
    for (int64_t i = threadIdx.x; i < rows.cols; i += blockDim.x)
        to[i] = static_cast<T>(slf_element(row, rows.dtype, i));
}

/* 16-bit rows in words of 8 elements; cols is a multiple of 8 and rows are aligned. */
static __global__ void convert_words(slf_rows rows, float *out) {
    const uint4 *row = static_cast<const uint4 *>(slf_row(rows, blockIdx.x));
    float4 *to = reinterpret_cast<float4 *>(out + static_cast<int64_t>(blockIdx.x) * rows.cols);
    const bool bf16 = rows.dtype == SALF_BF16;
    for (int64_t i = threadIdx.x; i < rows.cols / 8; i += blockDim.x) {
        const uint4 word = row[i];
        const unsigned int pairs[4] = {word.x, word.y, word.z, word.w};
        float x[8];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint16_t low = static_cast<uint16_t>(pairs[k] & 0xffffu);
            const uint16_t high = static_cast<uint16_t>(pairs[k] >> 16);
            x[2 * k] = bf16 ? slf_bf16_to_f32(low) : slf_f16_to_f32(low);
            x[2 * k + 1] = bf16 ? slf_bf16_to_f32(high) : slf_f16_to_f32(high);
        }
        to[2 * i] = float4{x[0], x[1], x[2], x[3]};
        to[2 * i + 1] = float4{x[4], x[5], x[6], x[7]};
    }
}

/* 16-bit heads are widened tile by tile at every walk over the vocabulary, which is why they have a kernel of their
 * own. */
salf_status slf_convert(slf_device *device, const slf_rows &rows, float *out) {
    const slf_grid grid = {rows.rows, 1, THREADS, 0};
    /* A load of 16 bytes needs an address that is a multiple of 16: of the first row by its pointer, of the others by
     * their stride. */
    const bool words = (rows.dtype == SALF_BF16 || rows.dtype == SALF_F16) && rows.aligned && rows.cols % 8 == 0;
    return words ? slf_launch(device, "convert_words", grid, convert_words, rows, out)
                 : slf_launch(device, "convert", grid, convert<float>, rows, out);
}

salf_status slf_convert(slf_device *device, const slf_rows &rows, double *out) {
    return slf_launch(device, "convert", slf_grid{rows.rows, 1, THREADS, 0}, convert<double>, rows, out);
}

/* A tile as float64 with leading dimension D: where it lies if it is so already, else widened into scratch. */
salf_status slf_widened(slf_device *device, const slf_rows &rows, double *scratch, const double **out, int *leading) {
    if (rows.dtype == SALF_F64 && !rows.index && rows.stride >= rows.cols && rows.stride <= INT32_MAX) {
        *out = static_cast<const double *>(rows.data);
        *leading = static_cast<int>(rows.stride);
        return SALF_OK;
    }
    *out = scratch;
    *leading = static_cast<int>(rows.cols);
    return slf_convert(device, rows, scratch);
}

/* ---- fill, mirror ---- */

static __global__ void fill_numbers(double *memory, int64_t count, double value) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) memory[i] = value;
}

salf_status slf_cuda_fill(void *self, void *memory, int64_t count, double value) {
    if (count == 0) return SALF_OK;
    const slf_entry in(self);
    SLF_TRY(in.status);
    /* 0 is the same in all types, so memset, which needs no kernel, also serves counters of 64-bit integers. */
    if (value == 0) {
        SLF_CUDA(in.device, cudaMemsetAsync(memory, 0, static_cast<uint64_t>(count) * sizeof value, in.device->stream));
        return SALF_OK;
    }
    return slf_launch(in.device, "fill", slf_grid{(count + THREADS - 1) / THREADS, 1, THREADS, 0}, fill_numbers,
                      static_cast<double *>(memory), count, value);
}

/* Row i of the lower triangle is column i of the upper one: strided reads, once a basis. */
static __global__ void mirror(double *p, int64_t dim) {
    const int64_t i = blockIdx.x;
    for (int64_t j = threadIdx.x; j < i; j += blockDim.x) p[i * dim + j] = p[j * dim + i];
}

salf_status slf_mirror(slf_device *device, double *p, int64_t dim) {
    return slf_launch(device, "mirror", slf_grid{dim, 1, THREADS, 0}, mirror, p, dim);
}
