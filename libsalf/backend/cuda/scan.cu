/*
 * scan.cu - one pass over rows of the head: their fingerprint, whether they are finite, and their Gram matrix. The
 * first two are bound by memory, the last takes rows D^2 operations, through cuBLAS in float64.
 *
 * A row-major matrix [rows][D] is cuBLAS's column-major [D][rows]; the upper triangle of one is the lower of the other.
 */
#include <string.h>

#include "../../core/fingerprint.h"
#include "kernels.h"

enum { THREADS = 256 };

static int64_t gram_rows(const slf_device *device, const salf_tensor *rows) {
    return slf_fitting_rows(device, rows->rows, static_cast<uint64_t>(rows->cols) * sizeof(double));
}

/* dsyrk adds to what is there; only the triangle that the host calls the upper one is written. */
static salf_status gram_tile(slf_device *device, const slf_rows &tile, double *gram) {
    const double one = 1, *x = nullptr;
    const int dim = static_cast<int>(tile.cols);
    void *scratch = nullptr;
    int leading = 0;
    const uint64_t bytes = static_cast<uint64_t>(tile.rows * tile.cols) * sizeof(double);
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_ROWS, bytes, &scratch));
    SLF_TRY(slf_widened(device, tile, static_cast<double *>(scratch), &x, &leading));
    SLF_BLAS(device, device->libraries.cublasDsyrk(device->blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, dim,
                                                   static_cast<int>(tile.rows), &one, x, leading, &one, gram, dim));
    return SALF_OK;
}

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
    /* Within a warp by shuffles, between warps through shared memory: 32 places for sums and 32 for flags, as many as
     * a block can have warps. */
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
    /* Blocks end in any order. A sum of integers modulo 2^64 and a minimum do not mind. */
    atomicAdd(result, static_cast<unsigned long long>(slf_hash_row(sum, first_row + blockIdx.x)));
    if (bad) atomicMin(result + 1, static_cast<unsigned long long>(first_in_view) + blockIdx.x);
}

/* Pieces as large as the Gram matrix can take, or all at once. One pass over the rows, also for the Gram matrix where
 * it is wanted: rows of the host are staged once. */
static salf_status scan_by_pieces(slf_device *device, const slf_scan_job *job, unsigned long long *result) {
    slf_pieces pieces(device, job->rows, job->gram ? gram_rows(device, job->rows) : INT32_MAX);
    slf_rows piece;
    int64_t first = 0;
    bool more = true;
    for (;;) {
        SLF_TRY(pieces.next(&piece, &first, &more));
        if (!more) return SALF_OK;
        SLF_TRY(slf_launch(device, "scan", slf_grid{piece.rows, 1, THREADS, 64 * 8}, scan, piece,
                           job->first_row + first, first, result));
        if (job->gram) SLF_TRY(gram_tile(device, piece, job->gram));
    }
}

/* The two results are read back once, at the end, which is the one wait of a pass. Where a row is not finite the Gram
 * matrix has met it by then and is of no use, as the job says. */
salf_status slf_cuda_scan(void *self, const slf_scan_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    unsigned long long *result = static_cast<unsigned long long *>(in.device->device_result), found[2] = {0, 0};
    SLF_CUDA(in.device, cudaMemsetAsync(result, 0, 8, in.device->stream));
    SLF_CUDA(in.device, cudaMemsetAsync(result + 1, 0xff, 8, in.device->stream));
    SLF_TRY(scan_by_pieces(in.device, job, result));
    SLF_TRY(slf_read_back(in.device, found, result, sizeof found));
    *job->hash += found[0];
    *job->bad_row = found[1] == ~0ull ? -1 : static_cast<int64_t>(found[1]);
    return SALF_OK;
}
