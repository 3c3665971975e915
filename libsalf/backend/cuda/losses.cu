/*
 * losses.cu - semantic losses and their gradients with respect to the states, in float64, a block for each row.
 * cosine_loss: rows D; score_loss: 2 rows D^2 for the product of the sums with P, through cuBLAS.
 */
#include "kernels.h"

enum { THREADS = 256 };

struct loss_job {
    slf_rows states, gradient; /* gradient.data NULL: not wanted */
    const float *basis;
    const double *norms;
    const int32_t *which;
    double scale; /* of the gradient */
    float *loss;
    const double *target, *sum, *weighted; /* score_loss */
    const double *vector;                  /* [rows][D], times P already */
    double shift, inverse_temperature;
};

static __device__ inline float *gradient_row(const loss_job &job) {
    return const_cast<float *>(static_cast<const float *>(slf_row(job.gradient, blockIdx.x)));
}

/* h . b and |h|^2 */
static __device__ inline slf_two products(const loss_job &job, const void *row, const float *b) {
    slf_two sum = {0, 0};
    for (int64_t i = threadIdx.x; i < job.states.cols; i += blockDim.x) {
        const double h = slf_element(row, job.states.dtype, i);
        sum.first += h * static_cast<double>(b[i]);
        sum.second += h * h;
    }
    return slf_block_sum(sum);
}

/* d (1 - cos) / d h = -(b / |b| - cos h / |h|) / |h|; zero where the loss is NaN. */
static __global__ void cosine_loss(loss_job job) {
    const int64_t label = job.which[blockIdx.x], dim = job.states.cols;
    const void *row = slf_row(job.states, blockIdx.x);
    const float *b = job.basis + label * dim;
    const slf_two sum = products(job, row, b);
    const double norm_b = job.norms[label], length = sqrt(sum.second);
    const double cosine = length > 0 && isfinite(length) ? sum.first / (length * norm_b) : slf_nan();
    if (threadIdx.x == 0) job.loss[blockIdx.x] = static_cast<float>(1 - cosine);
    if (!job.gradient.data) return;
    float *g = gradient_row(job);
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const double h = slf_element(row, job.states.dtype, i);
        const double towards = static_cast<double>(b[i]) / norm_b - cosine * (h / length);
        g[i] = isnan(cosine) ? 0 : static_cast<float>(-job.scale / length * towards);
    }
}

static __global__ void score_loss(loss_job job) {
    const int64_t r = blockIdx.x, label = job.which[r], dim = job.states.cols;
    const double target = job.target[r], inverse_t = job.inverse_temperature;
    const bool good = !isnan(target);
    if (threadIdx.x == 0)
        job.loss[r] = good ? static_cast<float>((job.shift - target) * inverse_t + log(job.sum[r]))
                           : static_cast<float>(slf_nan());
    if (!job.gradient.data) return;
    const void *row = slf_row(job.states, r);
    const float *b = job.basis + label * dim;
    const double length = sqrt(products(job, row, b).second);
    const double along = job.weighted[r] / job.sum[r] - target;
    float *g = gradient_row(job);
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const double h = slf_element(row, job.states.dtype, i), mean = job.vector[r * dim + i] / job.sum[r];
        const double away = mean - static_cast<double>(b[i]) / job.norms[label] - along * (h / length);
        g[i] = good ? static_cast<float>(job.scale * inverse_t / length * away) : 0;
    }
}

/* Runs a kernel over the rows, piece by piece, with the job's arrays moved along. */
template <typename Prepare>
static salf_status each_piece(slf_device *device, void (*kernel)(loss_job), const char *name, const salf_tensor *states,
                              const salf_tensor *gradient, int64_t most, const loss_job &whole, Prepare prepare) {
    slf_pieces pieces(device, states, most);
    const salf_tensor none = {};
    slf_target target(device, gradient ? gradient : &none);
    for (;;) {
        loss_job job = whole;
        int64_t first = 0;
        bool more = true;
        SLF_TRY(pieces.next(&job.states, &first, &more));
        if (!more) return SALF_OK;
        const int64_t rows = job.states.rows;
        if (gradient) SLF_TRY(target.begin(first, rows, &job.gradient));
        job.which += first;
        job.loss += first;
        SLF_TRY(prepare(first, rows, &job));
        SLF_TRY(slf_launch(device, name, slf_grid{rows, 1, THREADS, SLF_SUM_BYTES}, kernel, job));
        if (gradient) SLF_TRY(target.finish(first, rows));
    }
}

static int64_t gradient_rows(const slf_device *device, const salf_tensor *states, const salf_tensor *gradient,
                             uint64_t bytes_per_element) {
    if (!gradient) return INT32_MAX;
    return slf_fitting_rows(device, states->rows, static_cast<uint64_t>(states->cols) * bytes_per_element);
}

salf_status slf_cuda_cosine_loss(void *state, const salf_tensor *states, const float *basis, const double *norms,
                                 const int32_t *which, double scale, float *loss, const salf_tensor *gradient) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    loss_job job = {};
    job.basis = basis;
    job.norms = norms;
    job.which = which;
    job.scale = scale;
    job.loss = loss;
    const int64_t most = gradient_rows(in.device, states, gradient, 8);
    return each_piece(in.device, cosine_loss, "cosine_loss", states, gradient, most, job,
                      [](int64_t, int64_t, loss_job *) { return SALF_OK; });
}

/* V P for rows of V [rows][dim]. */
static salf_status times(slf_device *device, const double *v, const double *p, int64_t rows, int64_t dim, double *y) {
    const double one = 1, zero = 0;
    const int d = static_cast<int>(dim);
    SLF_BLAS(device, device->libraries.cublasDgemm(device->blas, CUBLAS_OP_N, CUBLAS_OP_N, d, static_cast<int>(rows), d,
                                                   &one, p, d, v, d, &zero, y, d));
    return SALF_OK;
}

salf_status slf_cuda_score_loss(void *state, const salf_tensor *states, const slf_query *query,
                                const slf_score_rule *rule, const slf_score_sums *sums, const double *p,
                                const float *basis, const double *norms, const int32_t *which, double scale,
                                float *loss, const salf_tensor *gradient) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const int64_t dim = states->cols, most = gradient_rows(device, states, gradient, 12);
    loss_job whole = {};
    whole.basis = basis;
    whole.norms = norms;
    whole.which = which;
    whole.scale = scale;
    whole.loss = loss;
    whole.shift = rule->shift;
    whole.inverse_temperature = rule->inverse_temperature;
    return each_piece(device, score_loss, "score_loss", states, gradient, most, whole,
                      [=](int64_t first, int64_t rows, loss_job *job) -> salf_status {
                          job->target = query->target + first;
                          job->sum = sums->sum + first;
                          if (!gradient) return SALF_OK;
                          job->weighted = sums->weighted + first;
                          job->vector = sums->vector + first * dim;
                          if (!p) return SALF_OK;
                          void *room = nullptr;
                          SLF_TRY(
                              slf_scratch(device, SLF_SCRATCH_VECTOR, static_cast<uint64_t>(rows * dim) * 8, &room));
                          SLF_TRY(times(device, job->vector, p, rows, dim, static_cast<double *>(room)));
                          job->vector = static_cast<const double *>(room);
                          return SALF_OK;
                      });
}
