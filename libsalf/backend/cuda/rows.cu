/*
 * rows.cu - rows in other forms: widened to float32 or float64, their fingerprint. Memory-bound: each element is read once.
 */
#include <string.h>

#include "../../core/row_hash.h"
#include "kernels.h"

enum { THREADS = 256 };

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
            x[2 * k] = bf16 ? slf_from_bf16(low) : slf_from_f16(low);
            x[2 * k + 1] = bf16 ? slf_from_bf16(high) : slf_from_f16(high);
        }
        to[2 * i] = float4{x[0], x[1], x[2], x[3]};
        to[2 * i + 1] = float4{x[4], x[5], x[6], x[7]};
    }
}

salf_status slf_convert(slf_device *device, const slf_rows &rows, float *out) {
    const slf_grid grid = {rows.rows, 1, THREADS, 0};
    const bool words = (rows.dtype == SALF_BF16 || rows.dtype == SALF_F16) && rows.aligned && rows.cols % 8 == 0;
    return words ? slf_launch(device, "convert_words", grid, convert_words, rows, out)
                 : slf_launch(device, "convert", grid, convert<float>, rows, out);
}

salf_status slf_convert(slf_device *device, const slf_rows &rows, double *out) {
    return slf_launch(device, "convert", slf_grid{rows.rows, 1, THREADS, 0}, convert<double>, rows, out);
}

/* ---- scan ---- */

/* result[0]: sum of the hashes of rows, result[1]: the first row that is not finite. Both are exact in any order. */
static __global__ void scan(slf_rows rows, int64_t first_row, int64_t first_in_view, unsigned long long *result) {
    const void *row = slf_row(rows, blockIdx.x);
    unsigned long long *partial = slf_shared<unsigned long long>();
    unsigned long long sum = 0, bad = 0;
    for (int64_t i = threadIdx.x; i < rows.cols; i += blockDim.x) {
        const float x = slf_element_f32(row, rows.dtype, i);
        sum += slf_hash_element(__float_as_uint(x), i);
        bad |= !isfinite(x);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        bad |= __shfl_xor_sync(0xffffffffu, bad, distance);
    }
    if (threadIdx.x % 32 == 0) {
        partial[threadIdx.x / 32] = sum;
        partial[32 + threadIdx.x / 32] = bad;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (unsigned w = 1; w < blockDim.x / 32; w++) {
        sum += partial[w];
        bad |= partial[32 + w];
    }
    atomicAdd(result, static_cast<unsigned long long>(slf_hash_row(sum, first_row + blockIdx.x)));
    if (bad) atomicMin(result + 1, static_cast<unsigned long long>(first_in_view) + blockIdx.x);
}

/* One pass over the rows, also for the Gram matrix where it is wanted: rows of the host are staged once. */
static salf_status scan_pieces(slf_device *device, const slf_scan_job *job, unsigned long long *result) {
    slf_pieces pieces(device, job->rows, job->gram ? slf_gram_rows(device, job->rows) : INT32_MAX);
    slf_rows piece;
    int64_t first = 0;
    bool more = true;
    for (;;) {
        SLF_TRY(pieces.next(&piece, &first, &more));
        if (!more) return SALF_OK;
        SLF_TRY(slf_launch(device, "scan", slf_grid{piece.rows, 1, THREADS, 64 * 8}, scan, piece,
                           job->first_row + first, first, result));
        if (job->gram) SLF_TRY(slf_add_gram(device, piece, job->gram));
    }
}

salf_status slf_cuda_scan(void *self, const slf_scan_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    unsigned long long *result = static_cast<unsigned long long *>(in.device->device_result), found[2] = {0, 0};
    SLF_CUDA(in.device, cudaMemsetAsync(result, 0, 8, in.device->stream));
    SLF_CUDA(in.device, cudaMemsetAsync(result + 1, 0xff, 8, in.device->stream));
    SLF_TRY(scan_pieces(in.device, job, result));
    SLF_TRY(slf_read_back(in.device, found, result, sizeof found));
    *job->hash += found[0];
    *job->bad_row = found[1] == ~0ull ? -1 : static_cast<int64_t>(found[1]);
    return SALF_OK;
}

/* ---- fill, mirror ---- */

static __global__ void fill(double *memory, int64_t count, double value) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) memory[i] = value;
}

salf_status slf_cuda_fill(void *self, void *memory, int64_t count, double value) {
    if (count == 0) return SALF_OK;
    const slf_entry in(self);
    SLF_TRY(in.status);
    if (value == 0) {
        SLF_CUDA(in.device, cudaMemsetAsync(memory, 0, static_cast<uint64_t>(count) * sizeof value, in.device->stream));
        return SALF_OK;
    }
    return slf_launch(in.device, "fill", slf_grid{(count + THREADS - 1) / THREADS, 1, THREADS, 0}, fill,
                      static_cast<double *>(memory), count, value);
}

static __global__ void mirror(double *p, int64_t dim) {
    const int64_t i = blockIdx.x;
    for (int64_t j = threadIdx.x; j < i; j += blockDim.x) p[i * dim + j] = p[j * dim + i];
}

salf_status slf_mirror(slf_device *device, double *p, int64_t dim) {
    return slf_launch(device, "mirror", slf_grid{dim, 1, THREADS, 0}, mirror, p, dim);
}
