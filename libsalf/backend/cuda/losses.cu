/*
 * losses.cu - semantic losses and their gradients with respect to the states, in float64, a block for each row.
 * cosine_loss: rows D; score_loss: 2 rows D^2 for the product of the sums with P, through cuBLAS.
 *
 * A gradient must be right in every bit that the host's optimizer sees, and a batch has few rows here: so there is no
 * float32 path. What is wrong with a state cannot be reported from a stream that nobody waits for; its row says so by
 * a loss that is NaN and a gradient that is zero, so that a step with it moves nothing wrongly.
 */
#include <float.h>

#include "kernels.h"

/* A block for each state, which reads its row twice: for the sums, and for the gradient. */
enum { THREADS = 256 };

/* What the kernels are given of a job, for rows of states at hand. */
struct loss_rows {
    slf_rows states, gradient; /* gradient.data NULL: not wanted */
    slf_own_rows own;
    double scale; /* of the gradient */
    float *loss;
    const double *target, *sum, *weighted; /* score_loss */
    const double *maximum;                 /* NULL: shift */
    const double *vector;                  /* [rows][D], times P already */
    double shift, inverse_temperature;
    double gain; /* of P; 1 without */
};

/* Where the gradient of this block's row goes. */
static __device__ inline float *gradient_out(const loss_rows &job) {
    return const_cast<float *>(static_cast<const float *>(slf_row(job.gradient, blockIdx.x)));
}

/* h . b and |h|^2 */
static __device__ inline slf_two products(const loss_rows &job, const void *row, const float *b) {
    slf_two sum = {0, 0};
    for (int64_t i = threadIdx.x; i < job.states.cols; i += blockDim.x) {
        const double h = slf_element(row, job.states.dtype, i);
        sum.first += h * static_cast<double>(b[i]);
        sum.second += h * h;
    }
    return slf_block_sum(sum);
}

/* See slf_loss_out in backend.h. */
static __device__ inline bool gradient_fits(const loss_rows &job, double inverse_t, double length) {
    return !job.gradient.data || 2 * fabs(job.scale) * inverse_t / length <= static_cast<double>(FLT_MAX);
}

/* d (1 - cos) / d h = -(b / |b| - cos h / |h|) / |h|; zero where the loss is NaN. */
static __global__ void cosine_loss(loss_rows job) {
    const int64_t label = job.own.row_of[blockIdx.x], dim = job.states.cols;
    const void *row = slf_row(job.states, blockIdx.x);
    const float *b = job.own.rows + label * dim;
    /* All threads have both sums: each then makes its elements of the gradient without another pass over memory but
     * its own. */
    const slf_two sum = products(job, row, b);
    const double norm_b = job.own.norms[label], length = sqrt(sum.second);
    const bool good = length > 0 && isfinite(length) && gradient_fits(job, 1, length);
    const double cosine = good ? sum.first / (length * norm_b) : slf_nan();
    /* within 0 ... 2, as the reference has it; NaN stays */
    if (threadIdx.x == 0) job.loss[blockIdx.x] = cosine > 1 ? 0 : cosine < -1 ? 2 : static_cast<float>(1 - cosine);
    if (!job.gradient.data) return;
    float *g = gradient_out(job);
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const double h = slf_element(row, job.states.dtype, i);
        const double towards = static_cast<double>(b[i]) / norm_b - cosine * (h / length);
        g[i] = isnan(cosine) ? 0 : static_cast<float>(-job.scale / length * towards);
    }
}

/* The terms of slf_reference_score_loss, with the vector times P already. A NaN target marks a state without a
 * direction, whose gradient is zero. */
static __global__ void score_loss(loss_rows job) {
    const int64_t r = blockIdx.x, label = job.own.row_of[r], dim = job.states.cols;
    const double target = job.target[r], inverse_t = job.inverse_temperature;
    const void *row = slf_row(job.states, r);
    const float *b = job.own.rows + label * dim;
    const double length = sqrt(products(job, row, b).second);
    const bool good = !isnan(target) && gradient_fits(job, inverse_t, length);
    if (threadIdx.x == 0) {
        const double entropy = ((job.maximum ? job.maximum[r] : job.shift) - target) * inverse_t + log(job.sum[r]);
        job.loss[r] = static_cast<float>(!good ? slf_nan() : entropy < 0 ? 0 : entropy);
    }
    if (!job.gradient.data) return;
    /* E s_i - s_l: how much of the gradient would point along h, where no cosine changes. */
    const double along = job.weighted[r] / job.sum[r] - target;
    float *g = gradient_out(job);
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) {
        const double h = slf_element(row, job.states.dtype, i),
                     mean = job.vector[r * dim + i] * (job.gain / job.sum[r]);
        const double away = mean - static_cast<double>(b[i]) / job.own.norms[label] - along * (h / length);
        g[i] = good ? static_cast<float>(job.scale * inverse_t / length * away) : 0;
    }
}

/* Runs a kernel over the rows, piece by piece, with the job's arrays moved along. bytes_per_element: of scratch that a
 * row with a gradient takes. */
template <typename Prepare>
static salf_status each_piece(slf_device *device, void (*kernel)(loss_rows), const char *name,
                              const salf_tensor *states, const slf_loss_out &out, uint64_t bytes_per_element,
                              const loss_rows &whole, Prepare prepare) {
    /* Without a gradient nothing of size D is written, and a piece is as long as a grid allows. */
    const uint64_t bytes_per_row = static_cast<uint64_t>(states->cols) * bytes_per_element;
    slf_pieces pieces(device, states, out.gradient ? slf_fitting_rows(device, states->rows, bytes_per_row) : INT32_MAX);
    const salf_tensor none = {};
    slf_target target(device, out.gradient ? out.gradient : &none);
    for (;;) {
        loss_rows rows = whole;
        int64_t first = 0;
        bool more = true;
        SLF_TRY(pieces.next(&rows.states, &first, &more));
        if (!more) return SALF_OK;
        const int64_t n = rows.states.rows;
        if (out.gradient) SLF_TRY(target.begin(first, n, &rows.gradient));
        /* Arrays with a number for each row of the call move along; basis rows and their norms are found by row_of and
         * stay. */
        rows.own.row_of += first;
        rows.loss = out.loss + first;
        rows.scale = out.scale;
        SLF_TRY(prepare(first, n, &rows));
        SLF_TRY(slf_launch(device, name, slf_grid{n, 1, THREADS, SLF_SUM_BYTES}, kernel, rows));
        if (out.gradient) SLF_TRY(target.finish(first, n));
    }
}

/* 8 bytes of scratch for an element with a gradient: 4 for the gradient, 4 for a state that is staged. */
salf_status slf_cosine_losses(slf_device *device, const slf_cosine_job *job) {
    loss_rows whole = {};
    whole.own = job->own;
    return each_piece(device, cosine_loss, "cosine_loss", job->states, job->losses, 8, whole,
                      [](int64_t, int64_t, loss_rows *) { return SALF_OK; });
}

/* Before each piece its vectors go through P, into scratch: the sums stay as they are. 12 bytes of scratch for an
 * element with a gradient: 4 for the gradient, 8 for the vector times P. */
salf_status slf_cuda_score_loss(void *self, const slf_score_loss_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_device *device = in.device;
    const int64_t dim = job->states->cols;
    loss_rows whole = {};
    whole.own = job->own;
    whole.shift = job->rule->shift;
    whole.inverse_temperature = job->rule->inverse_temperature;
    whole.gain = job->p ? job->rule->gain : 1;
    return each_piece(device, score_loss, "score_loss", job->states, job->losses, 12, whole,
                      [=](int64_t first, int64_t n, loss_rows *rows) -> salf_status {
                          void *scratch = nullptr;
                          rows->target = job->query->target + first;
                          rows->sum = job->sums->sum + first;
                          rows->maximum = job->sums->maximum ? job->sums->maximum + first : nullptr;
                          if (!job->losses.gradient) return SALF_OK;
                          rows->weighted = job->sums->weighted + first;
                          rows->vector = job->sums->vector + first * dim;
                          if (!job->p) return SALF_OK;
                          SLF_TRY(
                              slf_scratch(device, SLF_SCRATCH_VECTOR, static_cast<uint64_t>(n * dim) * 8, &scratch));
                          SLF_TRY(slf_times_p(device, rows->vector, static_cast<int>(dim), job->p, n, dim,
                                              static_cast<double *>(scratch)));
                          rows->vector = static_cast<const double *>(scratch);
                          return SALF_OK;
                      });
}
