/*
 * score_f64.cu - products of states and tiles in float64, by kernels that look at the states' numbers on the device
 * first and do nothing where they are 0: which states need them is known there alone, and cuBLAS has no such calls.
 *
 * Classic tiles of shared memory: a block makes SIDE x SIDE results in steps of DEPTH, a thread 4 x 4 of them.
 */
#include "score.h"

namespace {

/* 256 threads with 4 x 4 results each make 64 x 64; two tiles of 16 x 65 float64 take 16.6 KB of shared memory, so that
 * several blocks fit a multiprocessor. PITCH is odd, in 8-byte words, against bank conflicts of transposed writes. */
enum { SIDE = 64, DEPTH = 16, THREADS = 256, EACH = 4, PITCH = SIDE + 1 };
enum { SHARED_BYTES = 2 * DEPTH * PITCH * 8 };

/* out [m][n] (+)= A [m][k] B, with B(k, n) = x[n][k], or x[k][n] where ALONG is true. */
struct f64_product {
    const int32_t *needs_f64; /* [m] */
    const double *a;
    slf_rows x;
    double *out;
    int64_t m, n, k;
};

/* 0 outside of the matrix, which adds nothing. */
template <bool ALONG> __device__ inline double element_of(const f64_product &job, int64_t k, int64_t n) {
    if (k >= job.k || n >= job.n) return 0;
    return ALONG ? slf_element(slf_row(job.x, k), job.x.dtype, n) : slf_element(slf_row(job.x, n), job.x.dtype, k);
}

/* Both tiles of a step, transposed to [DEPTH][SIDE]; what is outside the matrices is 0. */
template <bool ALONG>
__device__ inline void load_tiles(const f64_product &job, int64_t m0, int64_t n0, int64_t k0, double *a, double *b) {
    for (int e = static_cast<int>(threadIdx.x); e < SIDE * DEPTH; e += THREADS) {
        const int k = e % DEPTH, row = e / DEPTH;
        const bool inside = m0 + row < job.m && k0 + k < job.k;
        a[k * PITCH + row] = inside ? job.a[(m0 + row) * job.k + k0 + k] : 0;
        const int along_k = ALONG ? e / SIDE : k, along_n = ALONG ? e % SIDE : row;
        b[along_k * PITCH + along_n] = element_of<ALONG>(job, k0 + along_k, n0 + along_n);
    }
}

/* A step of the products of a thread, from shared memory. */
__device__ inline void multiply_step(const double *a, const double *b, int mt, int nt, double sum[EACH][EACH]) {
    for (int k = 0; k < DEPTH; k++)
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++) sum[i][j] += a[k * PITCH + mt + 16 * i] * b[k * PITCH + nt + 16 * j];
}

/* Blocks along one dimension of a matrix. */
__host__ __device__ inline int64_t blocks_of(int64_t size) {
    return (size + SIDE - 1) / SIDE;
}

/* Whether a block has anything to do: most states need no float64, and then this is all it costs. */
__device__ inline bool any_needs_f64(const f64_product &job, int64_t m0) {
    for (int64_t m = m0; m < m0 + SIDE && m < job.m; m++)
        if (job.needs_f64[m] != 0) return true;
    return false;
}

/* A block returns before the first barrier or takes part in all of them. Results of states that need no float64 are
 * computed with their neighbours and not written. */
template <bool ALONG> __global__ void __launch_bounds__(THREADS) multiply_f64(f64_product job) {
    double *a = slf_shared<double>(), *b = a + DEPTH * PITCH;
    const int64_t across = blocks_of(job.n), m0 = blockIdx.x / across * SIDE, n0 = blockIdx.x % across * SIDE;
    if (!any_needs_f64(job, m0)) return;
    const int nt = static_cast<int>(threadIdx.x % 16), mt = static_cast<int>(threadIdx.x / 16);
    double sum[EACH][EACH] = {};
    for (int64_t k0 = 0; k0 < job.k; k0 += DEPTH) {
        load_tiles<ALONG>(job, m0, n0, k0, a, b);
        __syncthreads();
        multiply_step(a, b, mt, nt, sum);
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            const int64_t m = m0 + mt + 16 * i, n = n0 + nt + 16 * j;
            if (m >= job.m || n >= job.n || job.needs_f64[m] == 0) continue;
            double *to = job.out + m * job.n + n;
            *to = ALONG ? *to + sum[i][j] : sum[i][j];
        }
}

/* In one dimension: the second of a grid has 65,535 blocks, and 4.2 million states of a small D fit a workspace. */
slf_grid grid_of(const f64_product &job) {
    return slf_grid{blocks_of(job.n) * blocks_of(job.m), 1, THREADS, SHARED_BYTES};
}

} // namespace

salf_status slf_products_f64(slf_device *device, const score_tile &tile, const slf_rows &x, double *products) {
    const f64_product job = {tile.needs_f64, tile.z, x, products, tile.states, tile.rows, tile.dim};
    return slf_launch(device, "multiply_f64", grid_of(job), multiply_f64<false>, job);
}

salf_status slf_vector_f64(slf_device *device, const score_tile &tile, const slf_rows &x, const double *weights) {
    const f64_product job = {tile.needs_f64, weights, x, tile.sums.vector, tile.states, tile.dim, tile.rows};
    return slf_launch(device, "multiply_f64", grid_of(job), multiply_f64<true>, job);
}
