/*
 * products.cu - Gram matrix, products with P, norms of rows, in float64 through cuBLAS: tiles of rows are widened into
 * scratch, as many as fit the workspace. gram: rows D^2 operations, apply: 2 rows D^2.
 *
 * A row-major matrix [rows][D] is cuBLAS's column-major [D][rows]; the upper triangle of one is the lower of the other.
 */
#include "kernels.h"

/* A tile as float64 with leading dimension D: where it lies if it is so already, else widened into room. */
static salf_status widened(slf_device *device, const slf_rows &rows, double *room, const double **out, int *leading) {
    if (rows.dtype == SALF_F64 && !rows.index && rows.stride >= rows.cols && rows.stride <= INT32_MAX) {
        *out = static_cast<const double *>(rows.data);
        *leading = static_cast<int>(rows.stride);
        return SALF_OK;
    }
    *out = room;
    *leading = static_cast<int>(rows.cols);
    return slf_convert(device, rows, room);
}

/* Room for `parts` tiles of rows next to each other, and how many rows each has. */
static salf_status tile_room(slf_device *device, const salf_tensor *rows, int parts, int64_t *most, double **room) {
    void *memory = nullptr;
    const uint64_t row = static_cast<uint64_t>(rows->cols) * sizeof(double) * static_cast<uint64_t>(parts);
    *most = slf_fitting_rows(device, rows->rows, row);
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_ROWS, static_cast<uint64_t>(*most) * row, &memory));
    *room = static_cast<double *>(memory);
    return SALF_OK;
}

static salf_status gram_tile(slf_device *device, const slf_rows &tile, double *room, double *gram) {
    const double one = 1, *x = nullptr;
    const int dim = static_cast<int>(tile.cols);
    int leading = 0;
    SLF_TRY(widened(device, tile, room, &x, &leading));
    SLF_BLAS(device, device->libraries.cublasDsyrk(device->blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, dim,
                                                   static_cast<int>(tile.rows), &one, x, leading, &one, gram, dim));
    return SALF_OK;
}

salf_status slf_cuda_gram(void *state, const salf_tensor *rows, double *gram) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    double *room = nullptr;
    slf_rows tile;
    int64_t most = 0, first = 0;
    bool more = true;
    SLF_TRY(tile_room(in.device, rows, 1, &most, &room));
    for (slf_pieces pieces(in.device, rows, most);;) {
        SLF_TRY(pieces.next(&tile, &first, &more));
        if (!more) return SALF_OK;
        SLF_TRY(gram_tile(in.device, tile, room, gram));
    }
}

/* Y [rows][D] = X P. */
static salf_status times(slf_device *device, const double *p, const slf_rows &tile, double *room, double *y) {
    const double one = 1, zero = 0, *x = nullptr;
    const int dim = static_cast<int>(tile.cols);
    int leading = 0;
    SLF_TRY(widened(device, tile, room, &x, &leading));
    SLF_BLAS(device,
             device->libraries.cublasDgemm(device->blas, CUBLAS_OP_N, CUBLAS_OP_N, dim, static_cast<int>(tile.rows),
                                           dim, &one, p, dim, x, leading, &zero, y, dim));
    return SALF_OK;
}

salf_status slf_cuda_apply(void *state, const double *p, const salf_tensor *rows, double *out) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    double *room = nullptr;
    slf_rows tile;
    int64_t most = 0, first = 0;
    bool more = true;
    SLF_TRY(tile_room(in.device, rows, 1, &most, &room));
    for (slf_pieces pieces(in.device, rows, most);;) {
        SLF_TRY(pieces.next(&tile, &first, &more));
        if (!more) return SALF_OK;
        SLF_TRY(times(in.device, p, tile, room, out + first * rows->cols));
    }
}

/* ---- norms ---- */

static __global__ void lengths(slf_rows rows, double *norms) {
    const void *row = slf_row(rows, blockIdx.x);
    slf_two sum = {0, 0};
    for (int64_t i = threadIdx.x; i < rows.cols; i += blockDim.x) {
        const double x = slf_element(row, rows.dtype, i);
        sum.first += x * x;
    }
    sum = slf_block_sum(sum);
    if (threadIdx.x == 0) norms[blockIdx.x] = sqrt(sum.first);
}

salf_status slf_cuda_apply_norms(void *state, const double *p, const salf_tensor *rows, double *norms) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    double *room = nullptr;
    slf_rows tile;
    int64_t most = INT32_MAX, first = 0;
    bool more = true;
    if (p) SLF_TRY(tile_room(in.device, rows, 2, &most, &room));
    for (slf_pieces pieces(in.device, rows, most);;) {
        SLF_TRY(pieces.next(&tile, &first, &more));
        if (!more) return SALF_OK;
        if (p) {
            double *y = room + most * rows->cols;
            SLF_TRY(times(in.device, p, tile, room, y));
            tile = slf_rows_of(y, SALF_F64, tile.rows, tile.cols, tile.cols);
        }
        SLF_TRY(
            slf_launch(in.device, "lengths", slf_grid{tile.rows, 1, 256, SLF_SUM_BYTES}, lengths, tile, norms + first));
    }
}
