/* blas.cpp - cuBLAS for the emulated device: checks arguments as the real one does and what it could not, enqueues, and
 * computes with the host's BLAS. */
#include <cblas.h>

#include "cublas_v2.h"
#include "internal.h"

struct cublasContext {
    cudaStream_t stream = nullptr;
    void *workspace = nullptr;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
};

using namespace emulator;

namespace {

/* Device memory is open to the thread that runs operations alone. */
[[maybe_unused]] const bool one_thread = (openblas_set_num_threads(1), true);

cublasStatus_t start(const char *call, cublasHandle_t handle) {
    if (!handle) misuse("%s without a handle", call);
    if (broken || enter_fails(call)) return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}

/* Without a workspace of the caller's, cuBLAS allocates one of its own, which no capture allows. */
cublasStatus_t compute(cublasHandle_t handle, std::function<void()> operation) {
    if (!handle->workspace) misuse("cuBLAS computes without a workspace of the caller's");
    counts.launches++;
    return enqueue(handle->stream, std::move(operation)) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                        : CUBLAS_STATUS_EXECUTION_FAILED;
}

/* Columns of a column-major matrix [rows][cols]. */
void need_matrix(const char *who, const void *a, int64_t rows, int64_t cols, int64_t ld, uint64_t size) {
    if (rows > 0 && cols > 0)
        need_device(who, a,
                    (static_cast<uint64_t>(ld) * static_cast<uint64_t>(cols - 1) + static_cast<uint64_t>(rows)) * size);
}

/* A scalar as of now with host pointers, else read when the operation runs. */
template <typename T> std::function<T()> scalar(cublasHandle_t handle, const T *value) {
    if (handle->pointers == CUBLAS_POINTER_MODE_DEVICE) {
        need_device("scalar", value, sizeof *value);
        return [=] { return *value; };
    }
    const T now = *value;
    return [=] { return now; };
}

CBLAS_TRANSPOSE of(cublasOperation_t operation) {
    return operation == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
}
CBLAS_UPLO of(cublasFillMode_t uplo) {
    return uplo == CUBLAS_FILL_MODE_LOWER ? CblasLower : CblasUpper;
}

template <typename T, typename Gemm>
cublasStatus_t gemm(const char *call, Gemm product, cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb,
                    int m, int n, int k, const T *alpha, const T *a, int lda, const T *b, int ldb, const T *beta, T *c,
                    int ldc) {
    const guard held(lock);
    if (const cublasStatus_t status = start(call, handle)) return status;
    if (m < 0 || n < 0 || k < 0 || lda < (ta == CUBLAS_OP_N ? m : k) || ldb < (tb == CUBLAS_OP_N ? k : n) || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    need_matrix(call, a, ta == CUBLAS_OP_N ? m : k, ta == CUBLAS_OP_N ? k : m, lda, sizeof *a);
    need_matrix(call, b, tb == CUBLAS_OP_N ? k : n, tb == CUBLAS_OP_N ? n : k, ldb, sizeof *b);
    need_matrix(call, c, m, n, ldc, sizeof *c);
    const auto first = scalar(handle, alpha), second = scalar(handle, beta);
    return compute(handle,
                   [=] { product(CblasColMajor, of(ta), of(tb), m, n, k, first(), a, lda, b, ldb, second(), c, ldc); });
}

} // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    const guard held(lock);
    if (broken || enter_fails("cublasCreate")) return CUBLAS_STATUS_ALLOC_FAILED;
    *handle = new cublasContext;
    counts.live_handles++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    const guard held(lock);
    counts.live_handles--;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

/* Takes the workspace away, as the real one does. */
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasSetStream", handle)) return status;
    handle->stream = stream;
    handle->workspace = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasSetWorkspace", handle)) return status;
    need_device("cublasSetWorkspace", workspace, bytes);
    if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
    handle->workspace = workspace;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasSetPointerMode", handle)) return status;
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasSetMathMode", handle)) return status;
    if (mode != CUBLAS_PEDANTIC_MATH) misuse("a math mode that lets cuBLAS choose TF32");
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    default:
        return "the GPU program failed to execute";
    }
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const float *alpha, const float *a, int lda, const float *b, int ldb, const float *beta,
                              float *c, int ldc) {
    return gemm("cublasSgemm", cblas_sgemm, handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const double *alpha, const double *a, int lda, const double *b, int ldb,
                              const double *beta, double *c, int ldc) {
    return gemm("cublasDgemm", cblas_dgemm, handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

cublasStatus_t cublasDsyrk_v2(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans, int n, int k,
                              const double *alpha, const double *a, int lda, const double *beta, double *c, int ldc) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasDsyrk", handle)) return status;
    if (n < 0 || k < 0 || lda < (trans == CUBLAS_OP_N ? n : k) || ldc < n) return CUBLAS_STATUS_INVALID_VALUE;
    need_matrix("cublasDsyrk", a, trans == CUBLAS_OP_N ? n : k, trans == CUBLAS_OP_N ? k : n, lda, sizeof *a);
    need_matrix("cublasDsyrk", c, n, n, ldc, sizeof *c);
    const auto first = scalar(handle, alpha), second = scalar(handle, beta);
    return compute(handle,
                   [=] { cblas_dsyrk(CblasColMajor, of(uplo), of(trans), n, k, first(), a, lda, second(), c, ldc); });
}

cublasStatus_t cublasDsymv_v2(cublasHandle_t handle, cublasFillMode_t uplo, int n, const double *alpha, const double *a,
                              int lda, const double *x, int incx, const double *beta, double *y, int incy) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasDsymv", handle)) return status;
    need_matrix("cublasDsymv", a, n, n, lda, sizeof *a);
    need_matrix("cublasDsymv", x, 1, n, incx, sizeof *x);
    need_matrix("cublasDsymv", y, 1, n, incy, sizeof *y);
    const auto first = scalar(handle, alpha), second = scalar(handle, beta);
    return compute(handle,
                   [=] { cblas_dsymv(CblasColMajor, of(uplo), n, first(), a, lda, x, incx, second(), y, incy); });
}

cublasStatus_t cublasDgemv_v2(cublasHandle_t handle, cublasOperation_t trans, int m, int n, const double *alpha,
                              const double *a, int lda, const double *x, int incx, const double *beta, double *y,
                              int incy) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasDgemv", handle)) return status;
    if (lda < m) return CUBLAS_STATUS_INVALID_VALUE;
    need_matrix("cublasDgemv", a, m, n, lda, sizeof *a);
    need_matrix("cublasDgemv", x, 1, trans == CUBLAS_OP_N ? n : m, incx, sizeof *x);
    need_matrix("cublasDgemv", y, 1, trans == CUBLAS_OP_N ? m : n, incy, sizeof *y);
    const auto first = scalar(handle, alpha), second = scalar(handle, beta);
    return compute(handle,
                   [=] { cblas_dgemv(CblasColMajor, of(trans), m, n, first(), a, lda, x, incx, second(), y, incy); });
}

cublasStatus_t cublasDtrsv_v2(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t trans,
                              cublasDiagType_t diag, int n, const double *a, int lda, double *x, int incx) {
    const guard held(lock);
    if (const cublasStatus_t status = start("cublasDtrsv", handle)) return status;
    need_matrix("cublasDtrsv", a, n, n, lda, sizeof *a);
    need_matrix("cublasDtrsv", x, 1, n, incx, sizeof *x);
    return compute(handle, [=] {
        cblas_dtrsv(CblasColMajor, of(uplo), of(trans), diag == CUBLAS_DIAG_UNIT ? CblasUnit : CblasNonUnit, n, a, lda,
                    x, incx);
    });
}

} /* extern "C" */
