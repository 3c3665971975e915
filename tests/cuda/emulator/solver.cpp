/* solver.cpp - cuSOLVER for the emulated device, through the host's LAPACK. Workspaces must be as large as asked for.
 */
#include <vector>

#include "cusolverDn.h"
#include "internal.h"

extern "C" {
void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotrs_(const char *uplo, const int *n, const int *nrhs, const double *a, const int *lda, double *b,
             const int *ldb, int *info);
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);
}

struct cusolverDnContext {
    cudaStream_t stream = nullptr;
};
struct cusolverDnParams {
    int unused = 0;
};

using namespace emulator;

namespace {

constexpr size_t host_bytes = 40;

cusolverStatus_t start(const char *call, cusolverDnHandle_t handle) {
    if (!handle) misuse("%s without a handle", call);
    return broken || enter_fails(call) ? CUSOLVER_STATUS_EXECUTION_FAILED : CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t compute(cusolverDnHandle_t handle, std::function<void()> operation) {
    counts.launches++;
    return enqueue(handle->stream, std::move(operation)) == cudaSuccess ? CUSOLVER_STATUS_SUCCESS
                                                                        : CUSOLVER_STATUS_INTERNAL_ERROR;
}

size_t bytes_of(int64_t n) {
    return static_cast<size_t>(n) * 16 + 256;
}

void need_square(const char *who, const void *a, int64_t n, int64_t lda) {
    if (lda < n)
        misuse("%s: leading dimension %lld of %lld", who, static_cast<long long>(lda), static_cast<long long>(n));
    need_device(who, a, static_cast<uint64_t>(lda * (n - 1) + n) * sizeof(double));
}

void need_workspace(const char *who, const void *memory, size_t bytes, int64_t n, const void *host, size_t there) {
    need_device(who, memory, bytes_of(n));
    if (bytes < bytes_of(n) || there < host_bytes || !host) misuse("%s: workspace too small", who);
}

const char *of(cublasFillMode_t uplo) {
    return uplo == CUBLAS_FILL_MODE_LOWER ? "L" : "U";
}

} // namespace

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
    const guard held(lock);
    if (broken || enter_fails("cusolverDnCreate")) return CUSOLVER_STATUS_ALLOC_FAILED;
    *handle = new cusolverDnContext;
    counts.live_handles++;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
    const guard held(lock);
    counts.live_handles--;
    delete handle;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
    const guard held(lock);
    if (const cusolverStatus_t status = start("cusolverDnSetStream", handle)) return status;
    handle->stream = stream;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params) {
    const guard held(lock);
    if (broken || enter_fails("cusolverDnCreateParams")) return CUSOLVER_STATUS_ALLOC_FAILED;
    *params = new cusolverDnParams;
    counts.live_handles++;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
    const guard held(lock);
    counts.live_handles--;
    delete params;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t, int64_t n,
                                             cudaDataType, const void *, int64_t, cudaDataType, size_t *on_device,
                                             size_t *on_host) {
    const guard held(lock);
    if (const cusolverStatus_t status = start("cusolverDnXpotrf_bufferSize", handle)) return status;
    *on_device = bytes_of(n);
    *on_host = host_bytes;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t uplo, int64_t n,
                                  cudaDataType type, void *a, int64_t lda, cudaDataType, void *on_device,
                                  size_t device_bytes, void *on_host, size_t there, int *info) {
    const guard held(lock);
    if (const cusolverStatus_t status = start("cusolverDnXpotrf", handle)) return status;
    if (type != CUDA_R_64F) return CUSOLVER_STATUS_INVALID_VALUE;
    need_square("cusolverDnXpotrf", a, n, lda);
    need_device("cusolverDnXpotrf", info, sizeof *info);
    need_workspace("cusolverDnXpotrf", on_device, device_bytes, n, on_host, there);
    return compute(handle, [=] {
        const int size = static_cast<int>(n), leading = static_cast<int>(lda);
        dpotrf_(of(uplo), &size, static_cast<double *>(a), &leading, info);
    });
}

cusolverStatus_t cusolverDnXpotrs(cusolverDnHandle_t handle, cusolverDnParams_t, cublasFillMode_t uplo, int64_t n,
                                  int64_t nrhs, cudaDataType, const void *a, int64_t lda, cudaDataType, void *b,
                                  int64_t ldb, int *info) {
    const guard held(lock);
    if (const cusolverStatus_t status = start("cusolverDnXpotrs", handle)) return status;
    need_square("cusolverDnXpotrs", a, n, lda);
    need_device("cusolverDnXpotrs", b, static_cast<uint64_t>(ldb * (nrhs - 1) + n) * sizeof(double));
    need_device("cusolverDnXpotrs", info, sizeof *info);
    return compute(handle, [=] {
        const int size = static_cast<int>(n), columns = static_cast<int>(nrhs);
        const int leading = static_cast<int>(lda), other = static_cast<int>(ldb);
        dpotrs_(of(uplo), &size, &columns, static_cast<const double *>(a), &leading, static_cast<double *>(b), &other,
                info);
    });
}

cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t, cusolverEigMode_t,
                                             cublasFillMode_t, int64_t n, cudaDataType, const void *, int64_t,
                                             cudaDataType, const void *, cudaDataType, size_t *on_device,
                                             size_t *on_host) {
    const guard held(lock);
    if (const cusolverStatus_t status = start("cusolverDnXsyevd_bufferSize", handle)) return status;
    *on_device = bytes_of(n);
    *on_host = host_bytes;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t, cusolverEigMode_t jobz,
                                  cublasFillMode_t uplo, int64_t n, cudaDataType, void *a, int64_t lda, cudaDataType,
                                  void *w, cudaDataType, void *on_device, size_t device_bytes, void *on_host,
                                  size_t there, int *info) {
    const guard held(lock);
    if (const cusolverStatus_t status = start("cusolverDnXsyevd", handle)) return status;
    need_square("cusolverDnXsyevd", a, n, lda);
    need_device("cusolverDnXsyevd", w, static_cast<uint64_t>(n) * sizeof(double));
    need_device("cusolverDnXsyevd", info, sizeof *info);
    need_workspace("cusolverDnXsyevd", on_device, device_bytes, n, on_host, there);
    return compute(handle, [=] {
        const int size = static_cast<int>(n), leading = static_cast<int>(lda);
        const int lwork = 1 + 6 * size + 2 * size * size, liwork = 3 + 5 * size;
        std::vector<double> work(static_cast<size_t>(lwork));
        std::vector<int> iwork(static_cast<size_t>(liwork));
        dsyevd_(jobz == CUSOLVER_EIG_MODE_VECTOR ? "V" : "N", of(uplo), &size, static_cast<double *>(a), &leading,
                static_cast<double *>(w), work.data(), &lwork, iwork.data(), &liwork, info);
    });
}

} /* extern "C" */
