/* target.cu - scores of the right tokens, in float64, a block for each state, and how far rounding can carry a product
 * as long as theirs. rows D multiply-adds. */
#include "kernels.h"

/* A block for each state: D multiply-adds are too few for more. score.cu makes products in the same order, so that a
 * row equal to the label's has the same score. */
enum { THREADS = 256 };

/* What the kernel is given of a job. */
struct target_rows {
    const double *z;
    slf_rows w;
    const int32_t *row_of, *place;
    const double *inverse_norms;
    const float *bias;
    slf_score_rule rule;
    double *target, *reach;
    int32_t *needs_f64;
};

static __global__ void find_targets(target_rows t) {
    const int64_t r = blockIdx.x, place = t.place[r];
    const void *row = slf_row(t.w, t.row_of[r]);
    const double *z = t.z + r * t.w.cols;
    slf_two dot = {0, 0}, squares = {0, 0};
    for (int64_t i = threadIdx.x; i < t.w.cols; i += blockDim.x) {
        const double x = slf_element(row, t.w.dtype, i);
        dot.first += x * z[i];
        squares.first += x * x;
        squares.second += z[i] * z[i];
    }
    dot = slf_block_sum(dot);
    squares = slf_block_sum(squares);
    if (threadIdx.x != 0) return;
    const double inverse = t.rule.logits ? 0 : t.inverse_norms[place];
    const double length = sqrt(squares.second), product = sqrt(squares.first) * length;
    t.target[r] = slf_score_from(t.rule, dot.first, inverse, t.bias ? static_cast<double>(t.bias[place]) : 0);
    if (t.reach) t.reach[r] = product * (t.rule.logits ? fabs(t.rule.logit_scale) : inverse);
    const bool outside =
        product < SLF_F32_LEAST || product > SLF_F32_MOST || length < SLF_F32_LEAST || length > SLF_F32_MOST;
    if (t.needs_f64 && product > 0 && outside) t.needs_f64[r] = 1;
}

/* Which rows are wanted only the device knows, so that rows of the host are staged in one piece. */
salf_status slf_cuda_target(void *self, const slf_target_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    target_rows rows = {job->z,    {},         job->row_of, job->place, job->inverse_norms,
                        job->bias, *job->rule, job->target, job->reach, job->needs_f64};
    int64_t first = 0;
    bool more = true;
    slf_pieces pieces(in.device, job->w, INT64_MAX);
    SLF_TRY(pieces.next(&rows.w, &first, &more));
    if (job->rows == 0 || !more) return SALF_OK;
    if (rows.w.rows < job->w->rows)
        return in.device->services.fail(SALF_E_WORKSPACE,
                                        "%lld rows of %lld numbers in host memory do not fit a quarter of the "
                                        "workspace of %llu bytes",
                                        static_cast<long long>(job->w->rows), static_cast<long long>(job->w->cols),
                                        static_cast<unsigned long long>(in.device->services.options->workspace_limit));
    return slf_launch(in.device, "find_targets", slf_grid{job->rows, 1, THREADS, SLF_SUM_BYTES}, find_targets, rows);
}
