/* norms.h - the final norm inside kernels, in float64: x_i = (h_i - mean) * inverse * weight_i + bias_i. */
#ifndef SALF_CUDA_NORMS_H
#define SALF_CUDA_NORMS_H

#include "kernels.h"

/* What the norm of one row is, once its moments are known. */
struct slf_normed {
    const void *row;
    int32_t dtype;
    double mean, inverse;
    const float *weight, *bias;
};

/* Weight and bias are optional each, as models have them. */
static __device__ inline double slf_normed_element(const slf_normed &n, int64_t i) {
    double x = (slf_element(n.row, n.dtype, i) - n.mean) * n.inverse;
    if (n.weight) x *= static_cast<double>(n.weight[i]);
    if (n.bias) x += static_cast<double>(n.bias[i]);
    return x;
}

/* Mean and variance in two passes, as the reference makes them: one pass of sums and squares would lose what a large
 * mean takes. Called by a whole block, which needs SLF_SUM_BYTES of shared memory. */
static __device__ inline slf_normed slf_norm_of(const void *row, int32_t dtype, int64_t dim, const slf_norm &norm) {
    slf_normed n = {row, dtype, 0, 1, nullptr, nullptr};
    if (norm.kind == SALF_NORM_NONE) return n;
    n.weight = norm.weight;
    n.bias = norm.bias;
    if (norm.kind == SALF_NORM_LAYER) {
        slf_two sum = {0, 0};
        for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) sum.first += slf_element(row, dtype, i);
        n.mean = slf_block_sum(sum).first / static_cast<double>(dim);
    }
    slf_two square = {0, 0};
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const double x = slf_element(row, dtype, i) - n.mean;
        square.first += x * x;
    }
    square = slf_block_sum(square);
    n.inverse = 1 / sqrt(square.first / static_cast<double>(dim) + static_cast<double>(norm.eps));
    return n;
}

#endif
