/*
 * factor.cu - P from the Gram matrix through cuSOLVER: Cholesky where nothing is dropped, else eigenvectors.
 *
 * When G - tau^2 I has a Cholesky factor, every eigenvalue exceeds tau^2 (Sylvester's law of inertia), so that nothing
 * is dropped and P = (G + ridge I)^-1 by Cholesky; lambda_max and lambda_min come from Lanczos on G and on that
 * factor's inverse. 11/3 D^3 multiply-adds and a few hundred products of D^2; eigenvectors cost some 9 D^3. Scratch:
 * D*D besides what cuSOLVER asks for, 401 D before that.
 *
 * The upper triangle of a row-major matrix is the lower one of cuBLAS's and cuSOLVER's.
 */
#include <math.h>

#include "../spectrum.h"
#include "kernels.h"
#include "lanczos.h"

namespace {

enum { THREADS = 256 };

/* lambda_min / lambda_max below which the float64 inverse is left to the eigenvectors. */
constexpr double TRUSTED = 1e-8;

/* ---- elementwise: a block for each row, columns from the diagonal on ---- */

__global__ void find_not_finite(const double *gram, int64_t dim, int *found) {
    const int64_t i = blockIdx.x;
    for (int64_t j = i + threadIdx.x; j < dim; j += blockDim.x)
        if (!isfinite(gram[i * dim + j])) atomicExch(found, 1);
}

/* to = sign * G + shift I, upper triangle. */
__global__ void copy_shifted(double *to, const double *gram, int64_t dim, double sign, double shift) {
    const int64_t i = blockIdx.x;
    for (int64_t j = i + threadIdx.x; j < dim; j += blockDim.x)
        to[i * dim + j] = sign * gram[i * dim + j] + (i == j ? shift : 0);
}

__global__ void make_identity(double *p, int64_t dim) {
    const int64_t i = blockIdx.x;
    for (int64_t j = threadIdx.x; j < dim; j += blockDim.x) p[i * dim + j] = i == j;
}

/* Row k, an eigenvector, times the square root of its weight. */
__global__ void scale_rows(double *vectors, const double *weight, int64_t dim) {
    const double by = sqrt(weight[blockIdx.x]);
    double *row = vectors + blockIdx.x * dim;
    for (int64_t j = threadIdx.x; j < dim; j += blockDim.x) row[j] *= by;
}

struct factoring {
    slf_device *device;
    int64_t dim;
    double *gram; /* device, in place */
    double *scratch;
    int *info; /* device */
    const slf_factor_request *request;
    slf_factor_result *result;

    slf_grid rows() const { return slf_grid{dim, 1, THREADS, 0}; }
};

salf_status shifted(const factoring &f, double sign, double shift) {
    return slf_launch(f.device, "copy_shifted", f.rows(), copy_shifted, f.scratch, f.gram, f.dim, sign, shift);
}

salf_status read_info(const factoring &f, int *info) {
    return slf_read_back(f.device, info, f.info, sizeof *info);
}

/* ---- Cholesky ---- */

/* Host memory that cuSOLVER asks for. */
struct host_room {
    explicit host_room(slf_device *owner) : device(owner), memory(nullptr) {}
    ~host_room() {
        if (memory) device->services.free(device->services.context, memory);
    }
    salf_status reserve(size_t bytes) {
        memory = device->services.alloc(device->services.context, bytes > 0 ? bytes : 1, 1);
        return memory ? SALF_OK : SALF_E_NO_MEMORY;
    }
    slf_device *device;
    void *memory;
};

/* The Cholesky factor of scratch in place; whether there is one. Waits. */
salf_status cholesky(const factoring &f, bool *exists) {
    slf_device *device = f.device;
    const slf_libraries &lib = device->libraries;
    size_t on_device = 0, on_host = 0;
    slf_temporary work(device);
    host_room host(device);
    int info = 0;
    SLF_SOLVER(device,
               lib.cusolverDnXpotrf_bufferSize(device->solver, device->solver_params, CUBLAS_FILL_MODE_LOWER, f.dim,
                                               CUDA_R_64F, f.scratch, f.dim, CUDA_R_64F, &on_device, &on_host));
    SLF_TRY(work.reserve(on_device));
    SLF_TRY(host.reserve(on_host));
    SLF_SOLVER(device, lib.cusolverDnXpotrf(device->solver, device->solver_params, CUBLAS_FILL_MODE_LOWER, f.dim,
                                            CUDA_R_64F, f.scratch, f.dim, CUDA_R_64F, work.memory, on_device,
                                            host.memory, on_host, f.info));
    SLF_TRY(read_info(f, &info));
    if (info < 0)
        return device->services.fail(SALF_E_INTERNAL, "cusolverDnXpotrf: parameter %d for a matrix of size %lld", -info,
                                     static_cast<long long>(f.dim));
    *exists = info == 0;
    return SALF_OK;
}

/* The inverse of scratch's Cholesky factorisation in place of gram, full. */
salf_status invert(const factoring &f) {
    slf_device *device = f.device;
    SLF_TRY(slf_launch(device, "make_identity", f.rows(), make_identity, f.gram, f.dim));
    SLF_SOLVER(device, device->libraries.cusolverDnXpotrs(device->solver, device->solver_params, CUBLAS_FILL_MODE_LOWER,
                                                          f.dim, f.dim, CUDA_R_64F, f.scratch, f.dim, CUDA_R_64F,
                                                          f.gram, f.dim, f.info));
    return slf_mirror(device, f.gram, f.dim);
}

/* ---- the proof that nothing is dropped ---- */

struct multiply final : slf_operator {
    explicit multiply(const factoring &whole) : f(whole) {}
    salf_status apply(const double *x, double *y) override {
        const double one = 1, zero = 0;
        const int n = static_cast<int>(f.dim);
        SLF_BLAS(f.device, f.device->libraries.cublasDsymv(f.device->blas, CUBLAS_FILL_MODE_LOWER, n, &one, f.gram, n,
                                                           x, 1, &zero, y, 1));
        return SALF_OK;
    }
    const factoring &f;
};

/* y = (L L^T)^-1 x for the Cholesky factor in scratch. */
struct solve final : slf_operator {
    explicit solve(const factoring &whole) : f(whole) {}
    salf_status apply(const double *x, double *y) override {
        const int n = static_cast<int>(f.dim);
        const slf_libraries &lib = f.device->libraries;
        cublasHandle_t blas = f.device->blas;
        SLF_CUDA(f.device, cudaMemcpyAsync(y, x, static_cast<size_t>(f.dim) * sizeof *y, cudaMemcpyDeviceToDevice,
                                           f.device->stream));
        SLF_BLAS(f.device, lib.cublasDtrsv(blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, n,
                                           f.scratch, n, y, 1));
        SLF_BLAS(f.device, lib.cublasDtrsv(blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, n,
                                           f.scratch, n, y, 1));
        return SALF_OK;
    }
    const factoring &f;
};

/* What is proven of G: lambda_max, lambda_min, and whether the latter exceeds the threshold's square. */
struct extremes {
    double most, least;
    bool nothing_dropped;
};

/* lambda_max by Lanczos, and proof that it is: (1 + 1e-6) lambda_max I - G has a Cholesky factor. */
salf_status largest(const factoring &f, extremes *found) {
    multiply product(f);
    bool converged = false;
    SLF_TRY(slf_lanczos(f.device, f.dim, &product, &found->most, &converged));
    if (!converged || !(found->most > 0)) return SALF_OK;
    SLF_TRY(shifted(f, -1, found->most * (1 + 1e-6)));
    return cholesky(f, &found->nothing_dropped);
}

/* Whether G - tau^2 I has a Cholesky factor; lambda_min - tau^2 is then the smallest eigenvalue of its product. */
salf_status smallest(const factoring &f, double rtol, extremes *found) {
    solve product(f);
    const double square = rtol * rtol * found->most * (1 + 1e-6);
    double inverse = 0;
    bool converged = false;
    SLF_TRY(shifted(f, 1, -square));
    SLF_TRY(cholesky(f, &found->nothing_dropped));
    if (!found->nothing_dropped) return SALF_OK;
    SLF_TRY(slf_lanczos(f.device, f.dim, &product, &inverse, &converged));
    found->least = square + 1 / inverse;
    found->nothing_dropped = converged && found->least > TRUSTED * found->most;
    return SALF_OK;
}

/* P by Cholesky in place of G where it is proven that nothing is dropped; else *done is false and G as it was. */
salf_status by_cholesky(const factoring &f, bool *done) {
    const bool ridge = f.request->mode == SALF_BASIS_RIDGE;
    const double rtol = ridge ? sqrt(static_cast<double>(f.dim) * DBL_EPSILON) : f.request->rtol;
    extremes found = {0, 0, false};
    bool exists = false;
    *done = false;
    SLF_TRY(largest(f, &found));
    if (found.nothing_dropped) SLF_TRY(smallest(f, rtol, &found));
    if (!found.nothing_dropped) return SALF_OK;
    SLF_TRY(shifted(f, 1, ridge ? f.request->ridge : 0));
    SLF_TRY(cholesky(f, &exists));
    if (!exists) return SALF_OK;
    SLF_TRY(invert(f));
    *f.result =
        slf_factor_result{SALF_METHOD_CHOLESKY, 0, f.dim, sqrt(found.most), sqrt(found.least), sqrt(found.least)};
    *done = true;
    return SALF_OK;
}

/* ---- eigenvectors ---- */

/* Eigenvalues, ascending, to lambda (device), eigenvectors to the rows of gram. Waits. */
salf_status eigen(const factoring &f, double *lambda) {
    slf_device *device = f.device;
    const slf_libraries &lib = device->libraries;
    size_t on_device = 0, on_host = 0;
    slf_temporary work(device);
    host_room host(device);
    int info = 0;
    SLF_SOLVER(device, lib.cusolverDnXsyevd_bufferSize(device->solver, device->solver_params, CUSOLVER_EIG_MODE_VECTOR,
                                                       CUBLAS_FILL_MODE_LOWER, f.dim, CUDA_R_64F, f.gram, f.dim,
                                                       CUDA_R_64F, lambda, CUDA_R_64F, &on_device, &on_host));
    SLF_TRY(work.reserve(on_device));
    SLF_TRY(host.reserve(on_host));
    SLF_SOLVER(device, lib.cusolverDnXsyevd(device->solver, device->solver_params, CUSOLVER_EIG_MODE_VECTOR,
                                            CUBLAS_FILL_MODE_LOWER, f.dim, CUDA_R_64F, f.gram, f.dim, CUDA_R_64F,
                                            lambda, CUDA_R_64F, work.memory, on_device, host.memory, on_host, f.info));
    SLF_TRY(read_info(f, &info));
    if (info == 0) return SALF_OK;
    return device->services.fail(SALF_E_NUMERIC, "cusolverDnXsyevd: info %d for a Gram matrix of size %lld", info,
                                 static_cast<long long>(f.dim));
}

/* Eigenvalues on the device become their weights; host [dim]. */
salf_status weigh(const factoring &f, double *lambda, double *host) {
    const uint64_t bytes = static_cast<uint64_t>(f.dim) * sizeof *host;
    slf_device *device = f.device;
    SLF_CUDA(device, cudaMemcpyAsync(host, lambda, bytes, cudaMemcpyDeviceToHost, device->stream));
    SLF_TRY(slf_device_wait(device));
    SLF_TRY(slf_spectrum_weights(&device->services, f.dim, host, f.request, f.result));
    SLF_CUDA(device, cudaMemcpyAsync(lambda, host, bytes, cudaMemcpyHostToDevice, device->stream));
    return slf_device_wait(device); /* the host's copy is gone after this */
}

/* P = sum w_k q_k q_k^T through dsyrk of sqrt(w_k) q_k. */
salf_status by_vectors(const factoring &f) {
    slf_device *device = f.device;
    slf_temporary lambda(device);
    host_room host(device);
    const double one = 1, zero = 0;
    const int n = static_cast<int>(f.dim);
    const uint64_t bytes = static_cast<uint64_t>(f.dim) * sizeof one;
    SLF_TRY(lambda.reserve(bytes));
    SLF_TRY(host.reserve(bytes));
    SLF_TRY(eigen(f, lambda.doubles()));
    SLF_TRY(weigh(f, lambda.doubles(), static_cast<double *>(host.memory)));
    SLF_TRY(slf_launch(device, "scale_rows", f.rows(), scale_rows, f.gram, lambda.doubles(), f.dim));
    SLF_BLAS(device, device->libraries.cublasDsyrk(device->blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, n, n, &one,
                                                   f.gram, n, &zero, f.scratch, n));
    SLF_TRY(slf_launch(device, "copy_shifted", f.rows(), copy_shifted, f.gram, f.scratch, f.dim, 1.0, 0.0));
    return slf_mirror(device, f.gram, f.dim);
}

salf_status check_finite(const factoring &f) {
    int found = 0;
    SLF_CUDA(f.device, cudaMemsetAsync(f.info, 0, sizeof *f.info, f.device->stream));
    SLF_TRY(slf_launch(f.device, "find_not_finite", f.rows(), find_not_finite, f.gram, f.dim, f.info));
    SLF_TRY(read_info(f, &found));
    if (!found) return SALF_OK;
    return f.device->services.fail(SALF_E_NUMERIC, "the Gram matrix [%lld][%lld] is not finite",
                                   static_cast<long long>(f.dim), static_cast<long long>(f.dim));
}

} // namespace

salf_status slf_cuda_factor(void *self, const slf_factor_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    const int64_t dim = job->dim;
    if (dim > INT32_MAX)
        return in.device->services.fail(SALF_E_OVERFLOW, "D = %lld is more than cuBLAS's 32-bit sizes allow",
                                        static_cast<long long>(dim));
    slf_temporary scratch(in.device);
    bool done = false;
    factoring f = {in.device,    dim,        job->gram, nullptr, static_cast<int *>(in.device->device_result),
                   job->request, job->result};
    SLF_TRY(check_finite(f));
    SLF_TRY(scratch.reserve(static_cast<uint64_t>(dim) * static_cast<uint64_t>(dim) * sizeof(double)));
    f.scratch = scratch.doubles();
    SLF_TRY(by_cholesky(f, &done));
    if (!done) SLF_TRY(by_vectors(f));
    return slf_device_wait(in.device); /* scratch is given back */
}
