/*
 * shards.c - a vocabulary whose rows lie on several ranks: each walks over its own, and what walks leave adds up.
 *
 * ce: maximum M of all ranks' M_r, sum of e^((M_r - M) / t) sum_r, which is sum_i e^((s_i - M) / t); rank: sum of the
 * counts; the loss's gradient: its two sums like that of ce. The right token's score is made on every rank from its
 * row, which the basis keeps, and its norm: the same number everywhere, before the walk. So n entries cost three
 * messages of 8 n bytes at most (with a gradient 8 n (D + 2) more) where broadcasting the head would cost 4 V D.
 *
 * No slot of a backend knows of it. A walk leaves sums for each block of rows that it is given, in any order, and the
 * sums of several ranks are those of a walk over all their blocks, but for the order of additions in float64.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "basis/score.h"
#include "core/ranks.h"

salf_status slf_shard_label_rows(const salf_basis *basis, const int32_t *labels, int64_t n, float *out) {
    const int64_t dim = basis->info.hidden;
    if (!basis->label_rows)
        return slf_fail(SALF_E_UNSUPPORTED, "a basis from a file with a head in shards; make it by a builder");
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = slf_label_row(&basis->held, labels[i]);
        if (row < 0)
            return slf_fail(SALF_E_LABEL,
                            "label %" PRId32 " has no row in the basis; with a head in shards a builder "
                            "needs all labels",
                            labels[i]);
        memcpy(out + i * dim, basis->label_rows + row * dim, (size_t)dim * sizeof *out);
    }
    return SALF_OK;
}

/* All that the numbers of a walk depend on, and how many there are: two ranks that scored by other temperatures, or
 * with rows in another order, would add up what does not belong together. States are not compared, as their hash would
 * differ where ranks have other kernels. The workspace says how many queries wait for a walk. */
salf_status slf_vocabulary_agree(const slf_vocabulary *v, int32_t meeting, salf_status local, const int32_t *labels,
                                 int64_t n) {
    if (!v || !slf_matrix_is_shard(v->matrix)) return local;
    slf_agreement a = {.meeting = meeting};
    slf_agreement_add(&a, "rows of the batch", (uint64_t)n);
    slf_agreement_add_array(&a, "labels of the batch (hash)", labels,
                            local == SALF_OK ? (uint64_t)n * sizeof *labels : 0);
    slf_agreement_add(&a, "heads of the bases (hash)", v->basis->info.fingerprint);
    slf_agreement_add(&a, "scores of logits", (uint64_t)v->rule.logits);
    slf_agreement_add(&a, "temperature (bits)", slf_bits_of(v->rule.inverse_temperature));
    slf_agreement_add(&a, "logit_scale (bits)", slf_bits_of(v->rule.logit_scale));
    slf_agreement_add(&a, "logit_softcap (bits)", slf_bits_of(v->rule.softcap));
    slf_agreement_add(&a, "workspace_limit", v->context->options.workspace_limit);
    return slf_agree(v->context, local, &a);
}

/* Sums of n entries over the rows of one rank become those over all. With a maximum each rank's u_i are relative to its
 * own: they are moved to the largest of all by exp((own - all) / t), at most 1, before they are added. What a walk
 * leaves is exchanged on the host; on a device this waits. */
salf_status slf_shards_add_up(const slf_vocabulary *v, salf_status local, const slf_score_sums *sums, int64_t n,
                              int64_t dim) {
    const salf_context *context = v->context;
    slf_agreement a = {.meeting = SLF_MEET_slf_score_run_walk};
    double *numbers = NULL, *factor = NULL; /* [n] or [n][D]; [n] */
    slf_agreement_add(&a, "entries of a walk", (uint64_t)n);
    slf_agreement_add(&a, "sums of a walk", (uint64_t)(!!sums->sum + 2 * !!sums->count + 4 * !!sums->vector));
    /* 1. memory first, so that want of it is told like any other failure of this rank's walk */
    if (local == SALF_OK) local = SLF_ALLOC(context, numbers, sums->vector ? n * dim : n);
    if (local == SALF_OK) local = SLF_ALLOC(context, factor, n);
    salf_status status;
    SLF_DO(slf_agree(context, local, &a));
    for (int64_t i = 0; i < n; i++) factor[i] = 1;
    /* 2. the largest score of all, as -min(-M). A rank without a valid row has -infinity and adds nothing; an entry
     * whose state is not finite has NaN, on every rank, and its target says so to whoever reads the result */
    if (sums->maximum) {
        SLF_DO(slf_download(context, factor, sums->maximum, (uint64_t)n * sizeof *factor));
        for (int64_t i = 0; i < n; i++) numbers[i] = -factor[i];
        SLF_DO(slf_all_reduce(context, numbers, n, SALF_F64, SALF_ALL_REDUCE_MIN));
        for (int64_t i = 0; i < n; i++) {
            numbers[i] = -numbers[i];
            factor[i] = isinf(factor[i]) ? 0 : exp((factor[i] - numbers[i]) * v->rule.inverse_temperature);
        }
        SLF_DO(slf_upload(context, sums->maximum, numbers, (uint64_t)n * sizeof *numbers));
        SLF_DO(slf_sync(context));
    }
    /* 3. sum u_i, and for a gradient sum u_i s_i and the vectors sum u_i b_i / |b_i|, all by the same factor; last how
     * many scores are above the target: integers, of the size of doubles */
    const struct {
        void *values; /* [n][width] */
        int64_t width;
        int32_t dtype;
    } added[] = {{sums->sum, 1, SALF_F64},
                 {sums->weighted, 1, SALF_F64},
                 {sums->vector, dim, SALF_F64},
                 {sums->count, 1, SALF_I64}};
    for (size_t k = 0; k < sizeof added / sizeof *added; k++) {
        const int64_t width = added[k].width, count = n * width;
        const uint64_t bytes = (uint64_t)count * sizeof *numbers;
        if (!added[k].values) continue;
        SLF_DO(slf_download(context, numbers, added[k].values, bytes));
        if (added[k].dtype == SALF_F64)
            for (int64_t i = 0; i < count; i++) numbers[i] *= factor[i / width];
        SLF_DO(slf_all_reduce(context, numbers, count, added[k].dtype, SALF_ALL_REDUCE_SUM));
        SLF_DO(slf_upload(context, added[k].values, numbers, bytes));
        SLF_DO(slf_sync(context));
    }
done:
    SLF_FREE(context, factor, numbers);
    return status;
}
