/*
 * score.cu - scores over a block of the vocabulary, taken into running sums tile by tile.
 *
 * A tile of rows x_i is widened to float32 (or read where it lies) and multiplied with the states z_r by cuBLAS; one
 * kernel makes scores of the products and adds them to each state's sums. For the gradient the products become weights
 * u_i / |b_i|, and a second product with the tile gives their sum of rows. 2 rows block D operations, twice with the
 * vector; scratch is the tile, its products and two copies of the states in float32: nothing of size rows * block.
 *
 * For states whose query->needs_f64, on the device, is not 0 the float32 results are left unused, and kernels that do
 * nothing otherwise make products and sums in float64 (score_f64.cu).
 */
#include "score.h"

namespace {

enum { THREADS = 256 };

/* As reference/score.c has it: a cosine, 0 for a zero row, or a logit. */
__device__ inline double score_from(const slf_score_rule &rule, double product, double inverse_norm, double bias) {
    if (!rule.logits) return inverse_norm > 0 ? product * inverse_norm : 0;
    const double logit = rule.logit_scale * product + bias;
    return rule.softcap > 0 ? rule.softcap * tanh(logit / rule.softcap) : logit;
}

/* The score of row i of the tile. */
template <typename T> __device__ inline double score_at(const score_tile &t, const T *products, int64_t i) {
    return score_from(t.rule, static_cast<double>(products[i]), t.inverse_norm ? t.inverse_norm[i] : 0,
                      t.bias ? static_cast<double>(t.bias[i]) : 0);
}

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
    return most;
}

/* One block for each state, which reads its products once for the maximum and once for the sums. Rows whose other width
 * counts return at once. count is a sum of float64 ones, exact up to 2^53. */
template <typename T> __global__ void add_scores(score_tile t, T *all_products) {
    const int64_t r = blockIdx.x;
    /* Which width counts is known on the device alone, so both kernels run for every state, and one of them ends here:
     * a wait for the flags would cost more than the idle blocks. */
    if (t.needs_f64 && (t.needs_f64[r] != 0) != (sizeof(T) == sizeof(double))) return;
    T *products = all_products + r * t.rows;
    double shift = t.rule.shift, factor = 1;
    if (t.rule.logits && t.sums.maximum) shift = raise_maximum(t, products, &factor);
    const double target = t.target[r];
    const int32_t label = t.label[r];
    slf_two sum = {0, 0};
    slf_two count = {0, 0};
    for (int64_t i = threadIdx.x; i < t.rows; i += blockDim.x) {
        const double s = score_at(t, products, i);
        const int64_t id = t.ids ? t.ids[i] : t.first + i;
        /* The label's own score may differ from its target in the last bit, since the two are made by different sums.
         * It is left out by its id, never by comparing scores. */
        count.first += id != label && s > target;
        if (!t.exponents) continue;
        const double u = exp((s - shift) * t.rule.inverse_temperature);
        sum.first += u;
        sum.second += u * s;
        if (t.sums.vector) products[i] = static_cast<T>(t.inverse_norm[i] > 0 ? u * t.inverse_norm[i] : 0);
    }
    sum = slf_block_sum(sum);
    count = slf_block_sum(count);
    if (threadIdx.x != 0) return;
    if (t.sums.sum) t.sums.sum[r] = t.sums.sum[r] * factor + sum.first;
    if (t.sums.weighted) t.sums.weighted[r] = t.sums.weighted[r] * factor + sum.second;
    if (t.sums.count) t.sums.count[r] += static_cast<int64_t>(count.first);
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
    return slf_launch(device, "add_scores", slf_grid{tile.states, 1, THREADS, SLF_SUM_BYTES}, add_scores<float>, tile,
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
    SLF_TRY(slf_launch(device, "add_scores", slf_grid{tile.states, 1, THREADS, SLF_SUM_BYTES}, add_scores<double>, tile,
                       scratch.products_f64));
    return tile.sums.vector ? slf_vector_f64(device, tile, x, scratch.products_f64) : SALF_OK;
}

/* Float32 first, then the states that need float64, which overwrite the scratch. */
salf_status add_tile(slf_device *device, const tile_scratch &scratch, const score_tile &tile, const slf_rows &rows) {
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
                                 job->first + at,
                                 query->z,
                                 query->label,
                                 query->target,
                                 query->needs_f64,
                                 job->ids ? job->ids + at : nullptr,
                                 job->inverse_norms ? job->inverse_norms + at : nullptr,
                                 job->bias ? job->bias + at : nullptr,
                                 sums.sum || sums.weighted || sums.vector,
                                 *job->rule,
                                 sums};
        SLF_TRY(add_tile(in.device, scratch, tile, rows));
    }
}
