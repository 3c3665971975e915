/*
 * algebra.cu - the linear algebra of the cuda backend, through cuBLAS and cuSOLVER: what a Gram matrix is inverted
 * with.
 *
 * The upper triangle of a row-major matrix is the lower one of cuBLAS's and cuSOLVER's. Calls that give a status of
 * their own on the device (info) are waited for: spectrum.c decides by it what to do next, so that making a basis is
 * no part of a step and cannot be captured.
 */
#include "kernels.h"

namespace {

enum { THREADS = 256 };

/* ---- elementwise: a block for each row, columns from the diagonal on ---- */

/* to = sign * A + shift I, upper triangle. */
__global__ void copy_shifted(double *to, const double *a, int64_t dim, double sign, double shift) {
    const int64_t i = blockIdx.x;
    for (int64_t j = i + threadIdx.x; j < dim; j += blockDim.x)
        to[i * dim + j] = sign * a[i * dim + j] + (i == j ? shift : 0);
}

/* The right-hand sides of potri. */
__global__ void make_identity(double *p, int64_t dim) {
    const int64_t i = blockIdx.x;
    for (int64_t j = threadIdx.x; j < dim; j += blockDim.x) p[i * dim + j] = i == j;
}

/* Weights are 0 or more. Row k, an eigenvector, times the square root of its weight. */
__global__ void scale_rows(double *vectors, const double *weight, int64_t dim) {
    const double by = sqrt(weight[blockIdx.x]);
    double *row = vectors + blockIdx.x * dim;
    for (int64_t j = threadIdx.x; j < dim; j += blockDim.x) row[j] *= by;
}

/* A block for each row. */
slf_grid block_each_row(int64_t dim) {
    return slf_grid{dim, 1, THREADS, 0};
}

/* cuBLAS counts in 32 bits, and a grid too. */
salf_status check_blas_dim(const slf_device *device, int64_t dim) {
    if (dim <= INT32_MAX) return SALF_OK;
    return device->services.fail(SALF_E_OVERFLOW, "D = %lld is more than cuBLAS's 32-bit sizes allow",
                                 static_cast<long long>(dim));
}

/* Host memory that cuSOLVER asks for, for the length of a slot. */
struct host_memory {
    explicit host_memory(slf_device *owner) : device(owner), memory(nullptr) {}
    ~host_memory() {
        if (memory) device->services.free(device->services.context, memory);
    }
    host_memory(const host_memory &) = delete;
    host_memory &operator=(const host_memory &) = delete;
    salf_status reserve(size_t bytes) {
        memory = device->services.alloc(device->services.context, bytes > 0 ? bytes : 1, 1);
        return memory ? SALF_OK : SALF_E_NO_MEMORY;
    }
    slf_device *device;
    void *memory;
};

/* Where cuSOLVER leaves its status on the device: shared with scan, under the lock of the slot. */
int *info_of(slf_device *device) {
    return static_cast<int *>(device->device_result);
}

} // namespace

/* Scalars are read when the call is made, results stay on the device. A row-major [rows][cols] is cuBLAS's
 * [cols][rows], so that A x is its transposed product. */
salf_status slf_cuda_matvec(void *self, const slf_matvec_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const slf_libraries &lib = device->libraries;
    cublasHandle_t blas = device->blas;
    SLF_TRY(check_blas_dim(device, job->rows > job->cols ? job->rows : job->cols));
    const int rows = static_cast<int>(job->rows), cols = static_cast<int>(job->cols);
    /* In cuBLAS's terms a row-major A [rows][cols] is A^T, with cols as its leading dimension. A x is therefore a
     * product with what cuBLAS calls the transposed, and A^T x one with the matrix as cuBLAS sees it; a symmetric
     * matrix is the same to both. */
    switch (job->kind) {
    case SLF_TIMES_SYMMETRIC:
        SLF_BLAS(device, lib.cublasDsymv(blas, CUBLAS_FILL_MODE_LOWER, rows, &job->alpha, job->a, rows, job->x, 1,
                                         &job->beta, job->y, 1));
        return SALF_OK;
    case SLF_SOLVE:
        SLF_CUDA(device, cudaMemcpyAsync(job->y, job->x, static_cast<size_t>(rows) * sizeof(double),
                                         cudaMemcpyDeviceToDevice, device->stream));
        SLF_BLAS(device, lib.cublasDtrsv(blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, rows, job->a,
                                         rows, job->y, 1));
        SLF_BLAS(device, lib.cublasDtrsv(blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_T, CUBLAS_DIAG_NON_UNIT, rows, job->a,
                                         rows, job->y, 1));
        return SALF_OK;
    default:
        SLF_BLAS(device, lib.cublasDgemv(blas, job->kind == SLF_TIMES_COLUMNS ? CUBLAS_OP_N : CUBLAS_OP_T, cols, rows,
                                         &job->alpha, job->a, cols, job->x, 1, &job->beta, job->y, 1));
        return SALF_OK;
    }
}

/* The 64-bit interface of cuSOLVER, which asks for workspace on both sides. Workspace is made and given back here: a
 * factor is taken a few times in the life of a basis. */
salf_status slf_cuda_potrf(void *self, const slf_potrf_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const slf_libraries &lib = device->libraries;
    const int64_t n = job->dim;
    size_t on_device = 0, on_host = 0;
    slf_temporary work(device);
    host_memory host(device);
    int info = 0;
    SLF_TRY(check_blas_dim(device, n));
    /* The factor is made in place, so the shifted copy is where it will stand; the Gram matrix itself has to survive,
     * since a proof that fails is followed by eigenvectors of the same G. */
    SLF_TRY(slf_launch(device, "copy_shifted", block_each_row(n), copy_shifted, job->factor, job->a, n, job->sign,
                       job->shift));
    SLF_SOLVER(device, lib.cusolverDnXpotrf_bufferSize(device->solver, device->solver_params, CUBLAS_FILL_MODE_LOWER, n,
                                                       CUDA_R_64F, job->factor, n, CUDA_R_64F, &on_device, &on_host));
    SLF_TRY(work.reserve(on_device));
    SLF_TRY(host.reserve(on_host));
    SLF_SOLVER(device, lib.cusolverDnXpotrf(device->solver, device->solver_params, CUBLAS_FILL_MODE_LOWER, n,
                                            CUDA_R_64F, job->factor, n, CUDA_R_64F, work.memory, on_device, host.memory,
                                            on_host, info_of(device)));
    SLF_TRY(slf_read_back(device, &info, info_of(device), sizeof info));
    if (info < 0)
        return device->services.fail(SALF_E_INTERNAL, "cusolverDnXpotrf: parameter %d for a matrix of size %lld", -info,
                                     static_cast<long long>(n));
    *job->exists = info == 0;
    return SALF_OK;
}

/* As the solution for the identity; its upper triangle counts for both, so that the result is symmetric. */
salf_status slf_cuda_potri(void *self, const slf_potri_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const int64_t n = job->dim;
    /* cuSOLVER has no potri in its 64-bit interface. n right-hand sides at once are matrix products for the device,
     * which is why 2 D^3 operations here are no slower than the 2/3 D^3 of an inverse by parts. */
    SLF_TRY(slf_launch(device, "make_identity", block_each_row(n), make_identity, job->inverse, n));
    SLF_SOLVER(device, device->libraries.cusolverDnXpotrs(device->solver, device->solver_params, CUBLAS_FILL_MODE_LOWER,
                                                          n, n, CUDA_R_64F, job->factor, n, CUDA_R_64F, job->inverse, n,
                                                          info_of(device)));
    *job->exists = 1;
    return slf_mirror(device, job->inverse, n);
}

/* About 9 D^3 multiply-adds; workspace as for potrf, of some 2 D^2 numbers. */
salf_status slf_cuda_syevd(void *self, const slf_syevd_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const slf_libraries &lib = device->libraries;
    const int64_t n = job->dim;
    size_t on_device = 0, on_host = 0;
    slf_temporary work(device);
    host_memory host(device);
    int info = 0;
    SLF_TRY(check_blas_dim(device, n));
    SLF_SOLVER(device, lib.cusolverDnXsyevd_bufferSize(device->solver, device->solver_params, CUSOLVER_EIG_MODE_VECTOR,
                                                       CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, job->a, n, CUDA_R_64F,
                                                       job->lambda, CUDA_R_64F, &on_device, &on_host));
    SLF_TRY(work.reserve(on_device));
    SLF_TRY(host.reserve(on_host));
    SLF_SOLVER(device, lib.cusolverDnXsyevd(device->solver, device->solver_params, CUSOLVER_EIG_MODE_VECTOR,
                                            CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, job->a, n, CUDA_R_64F, job->lambda,
                                            CUDA_R_64F, work.memory, on_device, host.memory, on_host, info_of(device)));
    SLF_TRY(slf_read_back(device, &info, info_of(device), sizeof info));
    if (info == 0) return SALF_OK;
    return device->services.fail(SALF_E_NUMERIC, "cusolverDnXsyevd: info %d for a Gram matrix of size %lld", info,
                                 static_cast<long long>(n));
}

/* As V^T V of the rows sqrt(w_k) v_k. */
salf_status slf_cuda_syrk(void *self, const slf_syrk_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const double one = 1, zero = 0;
    const int n = static_cast<int>(job->dim);
    /* A weight is 0 for an eigenvalue that is dropped: its row vanishes, and the product needs no gathering of the
     * rows that are kept. The eigenvectors are spoilt by this; nobody needs them afterwards. */
    SLF_TRY(slf_launch(device, "scale_rows", block_each_row(n), scale_rows, job->vectors, job->weights, job->dim));
    SLF_BLAS(device, device->libraries.cublasDsyrk(device->blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, n, n, &one,
                                                   job->vectors, n, &zero, job->out, n));
    return slf_mirror(device, job->out, job->dim);
}
