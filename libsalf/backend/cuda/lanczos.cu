/*
 * lanczos.cu - the largest eigenvalue of a symmetric operator on [dim], by Lanczos with full reorthogonalisation.
 *
 * After k steps the tridiagonal T [k][k] holds the operator on the Krylov space; its largest eigenvalue theta, with
 * eigenvector s, is within beta_k |s_k| of one of the operator's. The steps run on the device and leave alpha and beta
 * there; every few steps the host reads them and looks at T. k products with the operator and 2 k^2 dim multiply-adds.
 */
#include "lanczos.h"

#include <math.h>

#include "../../core/row_hash.h"
#include "kernels.h"

namespace {

/* Steps at most, and between two looks at T. */
enum { MOST_STEPS = 400, LOOK = 8, THREADS = 1024 };

/* Residual relative to theta at which the value is taken; |w| relative to before, at which the space is complete. */
constexpr double CONVERGED = 1e-9, COMPLETE = 1e-14;

__device__ inline double block_length(const double *w, int64_t dim) {
    slf_two square = {0, 0};
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) square.first += w[i] * w[i];
    return sqrt(slf_block_sum(square).first);
}

/* A start with a part in every eigenspace: fixed numbers in [-1/2, 1/2), scaled to length 1. One block. */
__global__ void start(double *q, int64_t dim) {
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x)
        q[i] = static_cast<double>(slf_hash_mix(static_cast<uint64_t>(i) + 1) >> 11) * 0x1p-53 - 0.5;
    __syncthreads();
    const double length = block_length(q, dim);
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) q[i] /= length;
}

__global__ void measure(const double *w, int64_t dim, double *size) {
    const double length = block_length(w, dim);
    if (threadIdx.x == 0) *size = length;
}

/* alpha and beta of a step, and w scaled to length 1; w becomes 0 where nothing is left of it. One block. */
__global__ void finish(double *w, int64_t dim, const double *projection, const double *size, double *alpha,
                       double *beta) {
    const double length = block_length(w, dim);
    const bool left = length > COMPLETE * *size;
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) w[i] = left ? w[i] / length : 0;
    if (threadIdx.x != 0) return;
    *alpha = *projection;
    *beta = left ? length : 0;
}

struct lanczos {
    slf_device *device;
    int64_t dim, most;
    double *basis;          /* device [most + 1][dim] */
    double *alpha, *beta;   /* device [most] each, next to each other */
    double *first, *second; /* device [most]: projections */
    double *size;           /* device */
    double *host_alpha, *host_beta;
};

slf_grid one_block() {
    return slf_grid{1, 1, THREADS, SLF_SUM_BYTES};
}

/* w -= Q (Q^T w) for the first n basis vectors. */
salf_status subtract(const lanczos &l, int n, double *w, double *projection) {
    const double one = 1, minus = -1, zero = 0;
    const int dim = static_cast<int>(l.dim);
    const slf_libraries &lib = l.device->libraries;
    cublasHandle_t blas = l.device->blas;
    SLF_BLAS(l.device, lib.cublasDgemv(blas, CUBLAS_OP_T, dim, n, &one, l.basis, dim, w, 1, &zero, projection, 1));
    SLF_BLAS(l.device, lib.cublasDgemv(blas, CUBLAS_OP_N, dim, n, &minus, l.basis, dim, projection, 1, &one, w, 1));
    return SALF_OK;
}

/* Step k: alpha_k, beta_k and basis vector k + 1. */
salf_status step(const lanczos &l, int64_t k, slf_operator *product) {
    double *w = l.basis + (k + 1) * l.dim;
    SLF_TRY(product->apply(l.basis + k * l.dim, w));
    SLF_TRY(slf_launch(l.device, "measure", one_block(), measure, w, l.dim, l.size));
    SLF_TRY(subtract(l, static_cast<int>(k) + 1, w, l.first));
    SLF_TRY(subtract(l, static_cast<int>(k) + 1, w, l.second)); /* twice is enough */
    return slf_launch(l.device, "finish", one_block(), finish, w, l.dim, l.first + k, l.size, l.alpha + k, l.beta + k);
}

/* Eigenvalues of T [n] below x, by the signs of the pivots of T - x. */
int64_t count_below(const double *alpha, const double *beta, int64_t n, double x) {
    int64_t count = 0;
    double pivot = 1;
    for (int64_t i = 0; i < n; i++) {
        const double coupling = i > 0 ? beta[i - 1] : 0;
        pivot = alpha[i] - x - (i > 0 ? coupling * coupling / pivot : 0);
        if (pivot == 0) pivot = -1e-300;
        count += pivot < 0;
    }
    return count;
}

/* The largest eigenvalue of T [n] by bisection between Gershgorin's bounds. */
double largest_of(const double *alpha, const double *beta, int64_t n) {
    double low = alpha[0], high = alpha[0];
    for (int64_t i = 0; i < n; i++) {
        const double reach = (i > 0 ? beta[i - 1] : 0) + (i < n - 1 ? beta[i] : 0);
        low = fmax(low, alpha[i]); /* no eigenvalue bound is lower than an element of the diagonal */
        high = fmax(high, alpha[i] + reach);
    }
    for (int k = 0; k < 200; k++) {
        const double middle = low + (high - low) / 2;
        if (!(middle > low && middle < high)) break;
        if (count_below(alpha, beta, n, middle) == n)
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* |s_n| of the eigenvector s of theta, |s| = 1: from the last component backwards, in which direction it grows. */
double last_component(const double *alpha, const double *beta, int64_t n, double theta) {
    double next = 0, now = 1, square = 1;
    for (int64_t i = n - 1; i > 0; i--) {
        const double before = ((theta - alpha[i]) * now - (i < n - 1 ? beta[i] : 0) * next) / beta[i - 1];
        next = now;
        now = before;
        square += now * now;
    }
    return 1 / sqrt(square);
}

/* Looks at T after n steps; *done when its largest eigenvalue can be taken. false: it is not finite. */
bool look(const lanczos &l, int64_t n, double *theta, bool *done) {
    const double *alpha = l.host_alpha, *beta = l.host_beta;
    int64_t used = n;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(alpha[i]) || !isfinite(beta[i])) return false;
        if (used == n && beta[i] == 0) used = i + 1; /* the Krylov space was complete there */
    }
    *theta = largest_of(alpha, beta, used);
    const bool complete = used < n || beta[n - 1] == 0 || n == l.dim;
    *done = complete || beta[n - 1] * last_component(alpha, beta, n, *theta) <= CONVERGED * fabs(*theta);
    return isfinite(*theta);
}

salf_status read_steps(const lanczos &l) {
    const uint64_t bytes = 2 * static_cast<uint64_t>(l.most) * sizeof(double);
    SLF_CUDA(l.device, cudaMemcpyAsync(l.host_alpha, l.alpha, bytes, cudaMemcpyDeviceToHost, l.device->stream));
    return slf_device_wait(l.device);
}

salf_status iterate(const lanczos &l, slf_operator *product, double *largest, bool *converged) {
    SLF_TRY(slf_launch(l.device, "start", one_block(), start, l.basis, l.dim));
    for (int64_t k = 1; k <= l.most; k++) {
        SLF_TRY(step(l, k - 1, product));
        if (k < l.most && k % LOOK != 0) continue;
        double theta = 0;
        bool done = false;
        SLF_TRY(read_steps(l));
        if (!look(l, k, &theta, &done)) return SALF_OK;
        if (!done) continue;
        *largest = theta;
        *converged = true;
        return SALF_OK;
    }
    return SALF_OK;
}

} // namespace

salf_status slf_lanczos(slf_device *device, int64_t dim, slf_operator *product, double *largest, bool *converged) {
    const int64_t limit = MOST_STEPS, most = dim < limit ? dim : limit;
    lanczos l = {};
    slf_temporary memory(device);
    void *host = nullptr;
    *converged = false;
    SLF_TRY(memory.reserve(static_cast<uint64_t>((most + 1) * dim + 4 * most + 1) * sizeof(double)));
    SLF_CUDA(device, cudaHostAlloc(&host, 2 * static_cast<uint64_t>(most) * sizeof(double), cudaHostAllocDefault));
    l.device = device;
    l.dim = dim;
    l.most = most;
    l.basis = memory.doubles();
    l.alpha = l.basis + (most + 1) * dim;
    l.beta = l.alpha + most;
    l.first = l.beta + most;
    l.second = l.first + most;
    l.size = l.second + most;
    l.host_alpha = static_cast<double *>(host);
    l.host_beta = l.host_alpha + most;
    const salf_status status = iterate(l, product, largest, converged);
    slf_cuda_forget(cudaFreeHost(host));
    return status;
}
