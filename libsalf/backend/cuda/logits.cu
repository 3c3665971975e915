/* logits.cu - logits of the right tokens, in float64, a block for each state. rows D multiply-adds. */
#include "kernels.h"

/* A block for each state: D multiply-adds are too few for more. */
enum { THREADS = 256 };

/* scale w . z + bias, capped where the model caps its logits. */
static __global__ void logit_targets(const double *z, slf_rows w, const int32_t *row_of, const float *bias,
                                     slf_score_rule rule, double *target) {
    const int64_t label = row_of[blockIdx.x];
    const void *row = slf_row(w, label);
    slf_two dot = {0, 0};
    for (int64_t i = threadIdx.x; i < w.cols; i += blockDim.x)
        dot.first += slf_element(row, w.dtype, i) * z[blockIdx.x * w.cols + i];
    dot = slf_block_sum(dot);
    const double logit = rule.logit_scale * dot.first + (bias ? static_cast<double>(bias[label]) : 0);
    if (threadIdx.x == 0) target[blockIdx.x] = rule.softcap > 0 ? rule.softcap * tanh(logit / rule.softcap) : logit;
}

/* Which rows are wanted only the device knows, so that rows of the host are staged in one piece. */
salf_status slf_cuda_logits(void *self, const slf_logits_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    slf_rows piece;
    int64_t first = 0;
    bool more = true;
    slf_pieces pieces(in.device, job->w, INT64_MAX);
    SLF_TRY(pieces.next(&piece, &first, &more));
    if (job->rows == 0 || !more) return SALF_OK;
    if (piece.rows < job->w->rows)
        return in.device->services.fail(SALF_E_WORKSPACE,
                                        "%lld rows of %lld numbers in host memory do not fit a quarter of the "
                                        "workspace of %llu bytes",
                                        static_cast<long long>(job->w->rows), static_cast<long long>(job->w->cols),
                                        static_cast<unsigned long long>(in.device->services.options->workspace_limit));
    return slf_launch(in.device, "logit_targets", slf_grid{job->rows, 1, THREADS, SLF_SUM_BYTES}, logit_targets, job->z,
                      piece, job->row_of, job->bias, *job->rule, job->target);
}
