/*
 * states.cu - states prepared for the vocabulary: normed and scaled to length 1, how long the longest is, the logits of
 * the right tokens. All in float64, a block for each row.
 */
#include "norms.h"

enum { THREADS = 256 };

static __global__ void normalise(slf_rows states, slf_norm norm, int32_t unit, double *out) {
    const slf_normed n = slf_norm_of(slf_row(states, blockIdx.x), states.dtype, states.cols, norm);
    double *to = out + blockIdx.x * states.cols, length = 1;
    if (unit) {
        slf_two square = {0, 0};
        for (int64_t i = threadIdx.x; i < states.cols; i += blockDim.x) {
            const double x = slf_normed_element(n, i);
            square.first += x * x;
        }
        length = sqrt(slf_block_sum(square).first);
    }
    for (int64_t i = threadIdx.x; i < states.cols; i += blockDim.x) {
        const double x = slf_normed_element(n, i);
        to[i] = !unit ? x : length > 0 ? x / length : slf_nan();
    }
}

salf_status slf_cuda_normalise(void *state, const salf_tensor *states, const slf_norm *norm, int32_t unit,
                               double *out) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    const slf_norm none = {SALF_NORM_NONE, 0, nullptr, nullptr};
    slf_rows piece;
    int64_t first = 0;
    bool more = true;
    for (slf_pieces pieces(in.device, states, INT32_MAX);;) {
        SLF_TRY(pieces.next(&piece, &first, &more));
        if (!more) return SALF_OK;
        SLF_TRY(slf_launch(in.device, "normalise", slf_grid{piece.rows, 1, THREADS, SLF_SUM_BYTES}, normalise, piece,
                           norm ? *norm : none, unit, out + first * states->cols));
    }
}

static __global__ void judge(const double *z, int64_t dim, double most, int32_t *wide) {
    const double *row = z + blockIdx.x * dim;
    slf_two square = {0, 0};
    for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) square.first += row[i] * row[i];
    square = slf_block_sum(square);
    if (threadIdx.x == 0) wide[blockIdx.x] = sqrt(square.first) > most;
}

salf_status slf_cuda_judge(void *state, const double *z, int64_t rows, int64_t dim, double most, int32_t *wide) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    return slf_launch(in.device, "judge", slf_grid{rows, 1, THREADS, SLF_SUM_BYTES}, judge, z, dim, most, wide);
}

static __global__ void logit_targets(const double *z, slf_rows w, const int32_t *which, const float *bias,
                                     slf_score_rule rule, double *target) {
    const int64_t label = which[blockIdx.x];
    const void *row = slf_row(w, label);
    slf_two dot = {0, 0};
    for (int64_t i = threadIdx.x; i < w.cols; i += blockDim.x)
        dot.first += slf_element(row, w.dtype, i) * z[blockIdx.x * w.cols + i];
    dot = slf_block_sum(dot);
    const double logit = rule.logit_scale * dot.first + (bias ? static_cast<double>(bias[label]) : 0);
    if (threadIdx.x == 0) target[blockIdx.x] = rule.softcap > 0 ? rule.softcap * tanh(logit / rule.softcap) : logit;
}

/* Which rows are wanted only the device knows, so that rows of the host are staged in one piece. */
salf_status slf_cuda_logit_targets(void *state, const double *z, int64_t rows, const salf_tensor *w,
                                   const int32_t *which, const float *bias, const slf_score_rule *rule,
                                   double *target) {
    const slf_entry in(state);
    SLF_TRY(in.status);
    slf_rows piece;
    int64_t first = 0;
    bool more = true;
    slf_pieces pieces(in.device, w, INT64_MAX);
    SLF_TRY(pieces.next(&piece, &first, &more));
    if (rows == 0 || !more) return SALF_OK;
    if (piece.rows < w->rows)
        return in.device->services.fail(SALF_E_WORKSPACE,
                                        "%lld rows of %lld numbers in host memory do not fit a quarter of the "
                                        "workspace of %llu bytes",
                                        static_cast<long long>(w->rows), static_cast<long long>(w->cols),
                                        static_cast<unsigned long long>(in.device->services.options->workspace_limit));
    return slf_launch(in.device, "logit_targets", slf_grid{rows, 1, THREADS, SLF_SUM_BYTES}, logit_targets, z, piece,
                      which, bias, *rule, target);
}
