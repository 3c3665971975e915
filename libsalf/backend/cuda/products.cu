/*
 * products.cu - products with P, norms and rounding of rows, queries, in float64 through cuBLAS: tiles of rows are
 * widened into scratch, as many as fit the workspace. 2 rows D^2 operations.
 *
 * Float64 although the heads are of 16 bits: P has the squared condition number of the head in it, and float32 products
 * would lose what the Gram matrix was made in float64 for. Devices for training have units for float64 matrices.
 *
 * A row-major matrix [rows][D] is cuBLAS's column-major [D][rows].
 */
#include "norms.h"

enum { THREADS = 256 };

/* P is symmetric, so that row-major and column-major are one. */
salf_status slf_times_p(slf_device *device, const double *x, int leading, const double *p, int64_t rows, int64_t dim,
                        double *y) {
    const double one = 1, zero = 0;
    const int d = static_cast<int>(dim);
    SLF_BLAS(device, device->libraries.cublasDgemm(device->blas, CUBLAS_OP_N, CUBLAS_OP_N, d, static_cast<int>(rows), d,
                                                   &one, p, d, x, leading, &zero, y, d));
    return SALF_OK;
}

/* Scratch is asked for once a call, before the first tile: within a step it does not grow again. Room for `parts` tiles
 * of rows next to each other, and how many rows each has. */
static salf_status tile_scratch(slf_device *device, const salf_tensor *rows, int parts, int64_t *most,
                                double **scratch) {
    void *memory = nullptr;
    const uint64_t row = static_cast<uint64_t>(rows->cols) * sizeof(double) * static_cast<uint64_t>(parts);
    *most = slf_fitting_rows(device, rows->rows, row);
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_ROWS, static_cast<uint64_t>(*most) * row, &memory));
    *scratch = static_cast<double *>(memory);
    return SALF_OK;
}

/* ---- apply ---- */

/* |x|^2 of this block's row, in float64, to all threads. */
static __device__ inline double square_sum(const slf_rows &rows) {
    const void *row = slf_row(rows, blockIdx.x);
    slf_two sum = {0, 0};
    for (int64_t i = threadIdx.x; i < rows.cols; i += blockDim.x) {
        const double x = slf_element(row, rows.dtype, i);
        sum.first += x * x;
    }
    return slf_block_sum(sum).first;
}

/* A block for each row. */
static __global__ void lengths(slf_rows rows, double *norms) {
    const double square = square_sum(rows);
    if (threadIdx.x == 0) norms[blockIdx.x] = sqrt(square);
}

/* Rows y in float32, 0 where |y| <= noise |x|, and their norms where these are wanted. */
static __global__ void round_rows(slf_rows x, slf_rows y, double noise, float *rounded, double *norms) {
    const void *row = slf_row(y, blockIdx.x);
    float *to = rounded + static_cast<int64_t>(blockIdx.x) * y.cols;
    const double length = sqrt(square_sum(x));
    slf_two sum = {0, 0};
    for (int64_t i = threadIdx.x; i < y.cols; i += blockDim.x) {
        const double exact = slf_element(row, y.dtype, i), kept = static_cast<double>(static_cast<float>(exact));
        sum.first += exact * exact;
        sum.second += kept * kept;
    }
    sum = slf_block_sum(sum);
    /* The decision is made on the float64 row: what truncation left of a row is rounding of the size of noise, and
     * float32 would round it to something else again. */
    const bool zero = sqrt(sum.first) <= noise * length;
    for (int64_t i = threadIdx.x; i < y.cols; i += blockDim.x)
        to[i] = zero ? 0 : static_cast<float>(slf_element(row, y.dtype, i));
    if (threadIdx.x == 0 && norms) norms[blockIdx.x] = zero ? 0 : sqrt(sum.second);
}

/* What job wants of a tile x of its rows, the first of which is number first. y [tile][D] is scratch, for products that
 * are not wanted themselves; scratch [tile][D] for rows that have to be widened. */
static salf_status apply_tile(slf_device *device, const slf_apply_job *job, const slf_rows &x, int64_t first,
                              double *scratch, double *y) {
    const slf_grid grid = {x.rows, 1, THREADS, SLF_SUM_BYTES};
    double *norms = job->norms ? job->norms + first : nullptr;
    slf_rows products = x;
    if (job->p) {
        const double *x_f64 = nullptr;
        int leading = 0;
        if (job->out) y = job->out + first * x.cols;
        SLF_TRY(slf_widened(device, x, scratch, &x_f64, &leading));
        SLF_TRY(slf_times_p(device, x_f64, leading, job->p, x.rows, x.cols, y));
        products = slf_rows_of(y, SALF_F64, x.rows, x.cols, x.cols);
    } else if (job->out) {
        SLF_TRY(slf_convert(device, x, job->out + first * x.cols));
    }
    if (job->rounded)
        return slf_launch(device, "round_rows", grid, round_rows, x, products, job->noise,
                          job->rounded + first * x.cols, norms);
    return norms ? slf_launch(device, "lengths", grid, lengths, products, norms) : SALF_OK;
}

/* Without P nothing has to be widened but where it is wanted, and the view is taken whole. */
salf_status slf_cuda_apply(void *self, const slf_apply_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    double *scratch = nullptr;
    slf_rows tile;
    int64_t most = INT32_MAX, first = 0;
    bool more = true;
    /* One part for rows as float64, and one for products that nobody wants to keep, of which only norms or rounded
     * rows are made. */
    if (job->p) SLF_TRY(tile_scratch(in.device, job->rows, job->out ? 1 : 2, &most, &scratch));
    for (slf_pieces pieces(in.device, job->rows, most);;) {
        SLF_TRY(pieces.next(&tile, &first, &more));
        if (!more) return SALF_OK;
        double *y = job->p && !job->out ? scratch + most * job->rows->cols : nullptr;
        SLF_TRY(apply_tile(in.device, job, tile, first, scratch, y));
    }
}

/* ---- queries ---- */

/* norm(h), scaled to length 1 where unit is 1, times gain: two or three passes over a row, which stays in the cache. What
 * is infinite becomes NaN, as the reference has it. */
static __global__ void norm_states(slf_rows states, slf_norm norm, int32_t unit, double gain, double *out) {
    /* The norm's mean and scale are the same for all threads of the block; its elements are made again in each pass,
     * which costs less than keeping them. */
    const slf_normed n = slf_norm_of(slf_row(states, blockIdx.x), states.dtype, states.cols, norm);
    double *to = out + blockIdx.x * states.cols, length = 1;
    /* The raw state decides whether there is a direction, as for cosines: a norm with a bias would give a zero state
     * one. */
    const bool zero = unit && n.bias && !(square_sum(states) > 0);
    if (unit) {
        slf_two square = {0, 0};
        for (int64_t i = threadIdx.x; i < states.cols; i += blockDim.x) {
            const double x = slf_normed_element(n, i);
            square.first += x * x;
        }
        length = sqrt(slf_block_sum(square).first);
    }
    for (int64_t i = threadIdx.x; i < states.cols; i += blockDim.x) {
        const double x = slf_normed_element(n, i);
        to[i] = !unit ? (isfinite(x) ? x * gain : slf_nan()) : length > 0 && !zero ? x / length * gain : slf_nan();
    }
}

/* A comparison with NaN is false: such a row needs no better products. */
static __global__ void compare_lengths(slf_rows z, double limit, int32_t *needs_f64) {
    const double square = square_sum(z);
    if (threadIdx.x == 0) needs_f64[blockIdx.x] = sqrt(square) > limit;
}

/* Which rows need float64 products only the device knows, and no one else asks: the score kernels read it there. */
salf_status slf_cuda_query(void *self, const slf_query_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    const slf_norm none = {SALF_NORM_NONE, 0, nullptr, nullptr};
    const int64_t dim = job->states->cols;
    double *scratch = nullptr;
    slf_rows piece;
    int64_t most = INT32_MAX, first = 0;
    bool more = true;
    if (job->p) SLF_TRY(tile_scratch(in.device, job->states, 1, &most, &scratch));
    for (slf_pieces pieces(in.device, job->states, most);;) {
        SLF_TRY(pieces.next(&piece, &first, &more));
        if (!more) return SALF_OK;
        const slf_grid grid = {piece.rows, 1, THREADS, SLF_SUM_BYTES};
        double *z = job->z + first * dim;
        SLF_TRY(slf_launch(in.device, "norm_states", grid, norm_states, piece, job->norm ? *job->norm : none, job->unit,
                           job->p ? job->gain : 1, job->p ? scratch : z));
        if (job->p) SLF_TRY(slf_times_p(in.device, scratch, static_cast<int>(dim), job->p, piece.rows, dim, z));
        if (job->needs_f64)
            SLF_TRY(slf_launch(in.device, "compare_lengths", grid, compare_lengths,
                               slf_rows_of(z, SALF_F64, piece.rows, dim, dim), job->limit, job->needs_f64 + first));
    }
}
