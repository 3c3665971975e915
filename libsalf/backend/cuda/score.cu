/*
 * score.cu - scores over a block of the vocabulary, taken into running sums tile by tile.
 *
 * A tile of rows x_i is widened to float32 (or read where it lies) and multiplied with the states z_r by cuBLAS; one
 * kernel makes scores of the products and adds them to each state's sums. For the gradient the products become weights
 * u_i / |b_i|, and a second product with the tile gives their sum of rows. 2 rows block D operations, twice with the
 * vector; scratch is the tile, its products and two copies of the states in float32: nothing of size rows * block.
 *
 * What lies so near a target that rounding might decide is looked at again, as backend.h has it: by the thread that
 * meets it as far as the first elements, which differ nearly always, and by the whole block in float64 where they do
 * not.
 *
 * For states whose query->needs_f64, on the device, is not 0 the float32 results are left unused, and kernels that do
 * nothing otherwise make products and sums in float64 (score_f64.cu).
 */
#include "score.h"

namespace {

/* MOST_OPEN: scores of a tile that a block looks at again; where there are more it goes through the tile row by row. */
enum { THREADS = 256, MOST_OPEN = 448 };
enum { SHARED_BYTES = SLF_SUM_BYTES + 8 * (MOST_OPEN + 1) };

/* The score of row i of the tile. */
template <typename T> __device__ inline double score_at(const score_tile &t, const T *products, int64_t i) {
    return slf_score_from(t.rule, static_cast<double>(products[i]), t.inverse_norm ? t.inverse_norm[i] : 0,
                          t.bias ? static_cast<double>(t.bias[i]) : 0);
}

/* ---- what is above ---- */

/* As slf_near in reference.h. cuBLAS may add all D products of a float32 sum in one chain. */
struct near_target {
    double target, low, high, close, tie;
};

template <typename T> __device__ inline near_target find_near(const score_tile &t, int64_t r) {
    const double unit = sizeof(T) == sizeof(float) ? SLF_UNIT_F32 : SLF_UNIT_F64, reach = t.reach[r];
    const double target = t.target[r], last_bits = 8 * SLF_UNIT_F64 * fabs(target);
    const double of_norms = t.rule.logits ? 0 : t.rule.norm_error * fabs(target);
    const int64_t chain = sizeof(T) == sizeof(float) ? t.dim : 2 * t.dim;
    const double wide = SLF_NEAR_STEPS(chain) * unit * reach + of_norms + last_bits;
    const double tie = SLF_TIE_STEPS(t.dim) * SLF_UNIT_F64 * reach + last_bits;
    return near_target{target, target - wide, target + wide, SLF_CLOSE_STEPS * unit * reach + last_bits,
                       tie * SLF_CAP_SLOPE(t.rule.logits ? t.rule.softcap : 0, target)};
}

/* Whether element k of row i of the tile differs from the label's by more than the rounding of equal rows. */
__device__ inline bool differs(const score_tile &t, int64_t r, int64_t i, int64_t k) {
    const double x = slf_element(slf_row(t.x, i), t.x.dtype, k);
    const double own = slf_element(slf_row(t.own, t.own_of[r]), t.own.dtype, k);
    return fabs(x - own) > slf_alike(t.rule, t.inverse_norm ? t.inverse_norm[i] : 0, own);
}

/* Of a row between low and high: whether the thread that meets it can tell, and how. */
enum verdict { BELOW, ABOVE, OPEN };

__device__ inline verdict look(const score_tile &t, int64_t r, int64_t i, double s, const near_target &near) {
    if (fabs(s - near.target) <= near.close) return OPEN;
    for (int64_t k = 0; k < t.dim && k < 4; k++)
        if (differs(t, r, i, k)) return s > near.target ? ABOVE : BELOW;
    return OPEN;
}

/* The rest, by all threads of the block: 1 for a row that is above. */
__device__ inline int64_t judge(const score_tile &t, int64_t r, int64_t i, double s, const near_target &near) {
    const void *row = slf_row(t.x, i);
    slf_two found = {0, 0}; /* the product, in the order of target.cu; elements that differ */
    for (int64_t k = threadIdx.x; k < t.dim; k += blockDim.x) {
        found.first += slf_element(row, t.x.dtype, k) * t.z[r * t.dim + k];
        found.second += differs(t, r, i, k);
    }
    found = slf_block_sum(found);
    const bool equal = !(found.second > 0);
    if (equal && !t.bias) return 0;
    if (!equal && fabs(s - near.target) > near.close) return s > near.target;
    const double exact = slf_score_from(t.rule, found.first, t.inverse_norm ? t.inverse_norm[i] : 0,
                                        t.bias ? static_cast<double>(t.bias[i]) : 0);
    return exact - near.target > near.tie;
}

/* How many rows of the tile are above the target of state r; to thread 0. Rows that a thread cannot tell go to a list,
 * in any order, since what is made of them is a number of rows. */
template <typename T> __device__ inline int64_t count_above(const score_tile &t, const T *products, int64_t r) {
    unsigned long long *open = slf_shared<unsigned long long>() + SLF_SUM_BYTES / 8, *rows = open + 1;
    const near_target near = find_near<T>(t, r);
    slf_two above = {0, 0}; /* float64 ones, exact up to 2^53 */
    if (threadIdx.x == 0) *open = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < t.rows; i += blockDim.x) {
        const double s = score_at(t, products, i);
        if (s > near.high) above.first += 1;
        if (!(s >= near.low && s <= near.high)) continue;
        const verdict seen = look(t, r, i, s, near);
        above.first += seen == ABOVE;
        if (seen != OPEN) continue;
        const unsigned long long place = atomicAdd(open, 1ull);
        if (place < MOST_OPEN) rows[place] = static_cast<unsigned long long>(i);
    }
    above = slf_block_sum(above); /* has barriers: the list is complete */
    const int64_t n = static_cast<int64_t>(*open);
    int64_t count = static_cast<int64_t>(above.first);
    for (int64_t k = 0; k < n && n <= MOST_OPEN; k++) {
        const int64_t i = static_cast<int64_t>(rows[k]);
        count += judge(t, r, i, score_at(t, products, i), near);
    }
    for (int64_t i = 0; i < t.rows && n > MOST_OPEN; i++) {
        const double s = score_at(t, products, i);
        if (s >= near.low && s <= near.high && look(t, r, i, s, near) == OPEN) count += judge(t, r, i, s, near);
    }
    return count;
}

/* ---- sums ---- */

/* The running maximum of state r raised to the tile's, and what the old sums are to be multiplied with. */
template <typename T> __device__ inline double raise_maximum(const score_tile &t, const T *products, double *factor) {
    const int64_t r = blockIdx.x;
    const double before = t.sums.maximum[r];
    double most = before;
    for (int64_t i = threadIdx.x; i < t.rows; i += blockDim.x) {
        const double s = score_at(t, products, i);
        if (s > most) most = s;
    }
    most = slf_block_most(most); /* has a barrier: all have read the old maximum */
    *factor = most > before ? exp((before - most) * t.rule.inverse_temperature) : 1;
    if (threadIdx.x == 0) t.sums.maximum[r] = most;
    /* The vector of the rows before shrinks too; that of this tile is added by a later kernel. */
    for (int64_t k = threadIdx.x; t.sums.vector && most > before && k < t.dim; k += blockDim.x)
        t.sums.vector[r * t.dim + k] *= *factor;
    return most;
}

/* One block for each state, which reads its products once for the count, once for the maximum and once for the sums,
 * of those that are wanted. Rows whose other width counts return at once. */
template <typename T> __global__ void add_scores(score_tile t, T *all_products) {
    const int64_t r = blockIdx.x;
    /* Which width counts is known on the device alone, so both kernels run for every state, and one of them ends here:
     * a wait for the flags would cost more than the idle blocks. */
    if (t.needs_f64 && (t.needs_f64[r] != 0) != (sizeof(T) == sizeof(double))) return;
    T *products = all_products + r * t.rows;
    if (t.sums.count) {
        const int64_t count = count_above(t, products, r);
        if (threadIdx.x == 0) t.sums.count[r] += count;
    }
    if (!t.exponents) return;
    double shift = t.rule.shift, factor = 1;
    if (t.sums.maximum) shift = raise_maximum(t, products, &factor);
    slf_two sum = {0, 0};
    for (int64_t i = threadIdx.x; i < t.rows; i += blockDim.x) {
        const double s = score_at(t, products, i), u = exp((s - shift) * t.rule.inverse_temperature);
        sum.first += u;
        sum.second += u * s;
        if (t.sums.vector) products[i] = static_cast<T>(t.inverse_norm[i] > 0 ? u * t.inverse_norm[i] : 0);
    }
    sum = slf_block_sum(sum);
    if (threadIdx.x != 0) return;
    if (t.sums.sum) t.sums.sum[r] = t.sums.sum[r] * factor + sum.first;
    if (t.sums.weighted) t.sums.weighted[r] = t.sums.weighted[r] * factor + sum.second;
}

/* cuBLAS takes both operands in one type. */
__global__ void states_to_f32(const double *z, int64_t count, float *out) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) out[i] = static_cast<float>(z[i]);
}

/* The float32 vector of a tile into the float64 sums, but for states that have a float64 one. */
__global__ void add_vector(const float *part, int64_t count, int64_t dim, const int32_t *needs_f64, double *vector) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count && !(needs_f64 && needs_f64[i / dim])) vector[i] += static_cast<double>(part[i]);
}

slf_grid thread_each(int64_t count) {
    return slf_grid{(count + THREADS - 1) / THREADS, 1, THREADS, 0};
}

/* Scratch of a call: `most` rows a tile. */
struct tile_scratch {
    float *rows;          /* [most][D], where rows have to be widened */
    float *products;      /* [states][most] */
    double *products_f64; /* the same in float64, over both */
    float *states;        /* [states][D] */
    float *part;          /* [states][D], for the vector */
    int64_t most;
    bool widen;
};

/* Float32 rows that cuBLAS can read where they lie, if they are on the device. */
bool readable(const salf_tensor *block) {
    const int64_t stride = block->row_stride ? block->row_stride : block->cols;
    return block->dtype == SALF_F32 && !block->row_index && stride >= block->cols && stride <= INT32_MAX;
}

/* The workspace decides the rows of a tile: their widened copy, and one product for each state (in float64 where a
 * state may need that: both widths share the memory, and float64 comes second). */
salf_status score_scratch(slf_device *device, const slf_query *query, const salf_tensor *block, bool vector,
                          tile_scratch *out) {
    const uint64_t states = static_cast<uint64_t>(query->rows), dim = static_cast<uint64_t>(query->dim);
    void *memory = nullptr;
    out->widen = !readable(block);
    const uint64_t f32 = (out->widen ? 4 * dim : 0) + 4 * states, f64 = query->needs_f64 ? 8 * states : 0;
    const uint64_t row = f32 > f64 ? f32 : f64;
    /* At least one row: a workspace that is too small for it is exceeded rather than refused, since the states' own
     * copies are needed in any case. */
    out->most = slf_fitting_rows(device, block->rows, row);
    const uint64_t most = static_cast<uint64_t>(out->most);
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_ROWS, row * most, &memory));
    out->products_f64 = static_cast<double *>(memory);
    out->rows = static_cast<float *>(memory);
    out->products = out->rows + (out->widen ? most * dim : 0);
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_QUERY, states * dim * 4, &memory));
    out->states = static_cast<float *>(memory);
    if (!vector) return SALF_OK;
    SLF_TRY(slf_scratch(device, SLF_SCRATCH_VECTOR, states * dim * 4, &memory));
    out->part = static_cast<float *>(memory);
    return SALF_OK;
}

/* Products of a tile with all states, and the scores they make. */
salf_status tile_scores(slf_device *device, const tile_scratch &scratch, const score_tile &tile, const float *x,
                        int leading) {
    const float one = 1, zero = 0;
    const int rows = static_cast<int>(tile.rows), states = static_cast<int>(tile.states);
    const int dim = static_cast<int>(tile.dim);
    /* products [states][rows], row-major, is cuBLAS's [rows][states]: the tile's rows come out next to each other for
     * a state, as the kernel reads them. */
    SLF_BLAS(device, device->libraries.cublasSgemm(device->blas, CUBLAS_OP_T, CUBLAS_OP_N, rows, states, dim, &one, x,
                                                   leading, scratch.states, dim, &zero, scratch.products, rows));
    return slf_launch(device, "add_scores", slf_grid{tile.states, 1, THREADS, SHARED_BYTES}, add_scores<float>, tile,
                      scratch.products);
}

/* The tile's part of the vectors, from the weights that the products have become: a second product with the same tile,
 * which is in the cache of the device by then, if it fits there. */
salf_status tile_vector(slf_device *device, const tile_scratch &scratch, const score_tile &tile, const float *x,
                        int leading) {
    const float one = 1, zero = 0;
    const int rows = static_cast<int>(tile.rows), states = static_cast<int>(tile.states);
    const int dim = static_cast<int>(tile.dim);
    const int64_t count = tile.states * tile.dim;
    SLF_BLAS(device, device->libraries.cublasSgemm(device->blas, CUBLAS_OP_N, CUBLAS_OP_N, dim, states, rows, &one, x,
                                                   leading, scratch.products, rows, &zero, scratch.part, dim));
    return slf_launch(device, "add_vector", thread_each(count), add_vector, scratch.part, count, tile.dim,
                      tile.needs_f64, tile.sums.vector);
}

/* The same tile for the states that need float64. */
salf_status add_tile_f64(slf_device *device, const tile_scratch &scratch, const score_tile &tile, const slf_rows &x) {
    SLF_TRY(slf_products_f64(device, tile, x, scratch.products_f64));
    SLF_TRY(slf_launch(device, "add_scores", slf_grid{tile.states, 1, THREADS, SHARED_BYTES}, add_scores<double>, tile,
                       scratch.products_f64));
    return tile.sums.vector ? slf_vector_f64(device, tile, x, scratch.products_f64) : SALF_OK;
}

/* Float32 first, then the states that need float64, which overwrite the scratch. */
salf_status add_tile(slf_device *device, const tile_scratch &scratch, const score_tile &tile) {
    const slf_rows &rows = tile.x;
    const float *x = scratch.rows;
    int leading = static_cast<int>(rows.cols);
    if (scratch.widen) {
        SLF_TRY(slf_convert(device, rows, scratch.rows));
    } else {
        x = static_cast<const float *>(rows.data);
        leading = static_cast<int>(rows.stride);
    }
    SLF_TRY(tile_scores(device, scratch, tile, x, leading));
    if (tile.sums.vector) SLF_TRY(tile_vector(device, scratch, tile, x, leading));
    return tile.needs_f64 ? add_tile_f64(device, scratch, tile, rows) : SALF_OK;
}

} // namespace

salf_status slf_cuda_score(void *self, const slf_score_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    const slf_query *query = job->query;
    const slf_score_sums &sums = *job->sums;
    if (query->rows == 0 || job->block->rows == 0) return SALF_OK;
    tile_scratch scratch = {};
    SLF_TRY(score_scratch(in.device, query, job->block, sums.vector != nullptr, &scratch));
    const int64_t count = query->rows * query->dim;
    SLF_TRY(slf_launch(in.device, "states_to_f32", thread_each(count), states_to_f32, query->z, count, scratch.states));
    slf_rows own = {};
    if (sums.count) { /* on the device, as all of a query */
        own = slf_rows_of(query->own->data, query->own->dtype, query->own->rows, query->dim,
                          query->own->row_stride ? query->own->row_stride : query->dim);
        own.index = query->own->row_index;
    }
    for (slf_pieces pieces(in.device, job->block, scratch.most);;) {
        slf_rows rows;
        int64_t at = 0;
        bool more = true;
        SLF_TRY(pieces.next(&rows, &at, &more));
        if (!more) return SALF_OK;
        /* A tile's arrays of the vocabulary begin at its first row, those of the states at their own: the states are
         * never cut. */
        const score_tile tile = {rows.rows,
                                 query->rows,
                                 query->dim,
                                 rows,
                                 query->z,
                                 query->target,
                                 query->reach,
                                 own,
                                 query->own_of,
                                 query->needs_f64,
                                 job->inverse_norms ? job->inverse_norms + at : nullptr,
                                 job->bias ? job->bias + at : nullptr,
                                 sums.sum || sums.weighted || sums.vector,
                                 *job->rule,
                                 sums};
        SLF_TRY(add_tile(in.device, scratch, tile));
    }
}
