/*
 * observe.c - deviations of a space's states (paper 3.1), reduced to a few numbers a row.
 *
 * cosine: d = 1 - s_l with s_l = cos(h, b_l); rows * D, in observe. ce: d = log sum_i exp(s_i / t) - s_l / t from a
 * running sum of exp((s_i - shift) / t). rank: number of i != l with s_i > s_l. The last two make queries of the states
 * in observe, which wait until as many are there as the workspace holds, or the batch ends: then one walk over the
 * vocabulary serves all of them, rows * V * D.
 */
#include <inttypes.h>
#include <math.h>

#include "probe/probe.h"

/* ---- metrics: a deviation from what is known of one state, entry at of [S][R] ---- */

/* In [0, 2], also where float32 makes the cosine of a state on its basis row 1 + 2^-24. */
static double cosine_deviation(const salf_probe *probe, int64_t at) {
    return fmin(fmax(1 - probe->results.target[at], 0), 2);
}

/* log sum_i exp(s_i / t) - s_l / t with sum = sum_i exp((s_i - shift) / t): the shift, which keeps exp in range, is 1,
 * which no cosine exceeds, or with logits and sharp temperatures the largest score of this state. At least 0, where
 * rounding leaves a little less of a token that scores highest; NaN stays. */
static double ce_deviation(const salf_probe *probe, int64_t at) {
    const slf_probe_results *results = &probe->results;
    const slf_score_rule *rule = &probe->vocabulary->rule;
    const double shift = results->maximum ? results->maximum[at] : rule->shift;
    const double entropy = (shift - results->target[at]) * rule->inverse_temperature + log(results->sum[at]);
    return entropy < 0 ? 0 : entropy;
}

/* 0 ... V-1; scores that equal the target's do not count. */
static double rank_deviation(const salf_probe *probe, int64_t at) {
    return (double)probe->results.count[at];
}

static const slf_metric metrics[] = {
    [SALF_METRIC_COSINE] = {.vocabulary = 0, .deviation = cosine_deviation},
    [SALF_METRIC_CE] = {.vocabulary = 1, .sums = SLF_SUM_EXP, .deviation = ce_deviation},
    [SALF_METRIC_RANK] = {.vocabulary = 1, .sums = SLF_SUM_COUNT, .deviation = rank_deviation},
};

const slf_metric *slf_metric_of(int32_t metric) {
    const int32_t known = sizeof metrics / sizeof *metrics;
    return metric >= 0 && metric < known && metrics[metric].deviation ? &metrics[metric] : NULL;
}

/* ---- observe ---- */

/* Which norm a space needs follows from the lens: hf norms the last space only, as output_hidden_states of the common
 * Python library has it. What the host says is normed is never normed again, and the library does not guess: a space
 * that has to be raw and is not is an error.
 *
 * Has read the states when it returns or, on a device, when the stream has passed: nothing of them is kept but a few
 * numbers a row, and D for each query that waits. A call that failed may be made again with the same space. */
salf_status salf_probe_observe(salf_probe *probe, int32_t space, const salf_tensor *states, int32_t kind) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(probe, states);
    const salf_context *context = probe->context;
    slf_probe_batch *batch = &probe->batch;
    const int32_t lens = probe->options.lens, n_layers = probe->options.n_layers;
    /* 1. whether it is this space's turn, and its states are of the batch */
    if (batch->phase == SLF_BATCH_NONE) return SLF_FAIL(SALF_E_SEQUENCE, "no batch has begun");
    if (batch->phase == SLF_BATCH_FLUSHED)
        return SLF_FAIL(SALF_E_SEQUENCE, "space %" PRId32 " after salf_probe_flush", space);
    if (space < 0 || space > n_layers)
        return SLF_FAIL(SALF_E_ARGUMENT, "space %" PRId32 " is outside 0 ... %" PRId32, space, n_layers);
    if (space <= batch->last_space)
        return SLF_FAIL(SALF_E_SEQUENCE, "space %" PRId32 " after space %" PRId32, space, batch->last_space);
    SLF_TRY(slf_tensor_check(states, "states", batch->given, probe->basis->info.hidden, slf_device_readable(context)));
    /* 2. its norm, NULL for none */
    const bool normed = lens == SALF_LENS_NORMED || (lens == SALF_LENS_HF && space == n_layers);
    SLF_TRY(slf_check_word("kind", "SALF_STATE", kind));
    if (kind == SALF_STATE_NORMED && !normed)
        return slf_fail(SALF_E_ARGUMENT, "space %" PRId32 " is given normed, but lens %s needs it raw", space,
                        salf_constant_word("SALF_LENS", lens));
    const slf_norm *norm = normed && kind != SALF_STATE_NORMED ? &probe->norm : NULL;
    if (norm && norm->kind == SALF_NORM_NONE)
        return slf_fail(
            SALF_E_ARGUMENT, "lens %s norms space %" PRId32 ", but %s; give the state normed or take the raw lens",
            salf_constant_word("SALF_LENS", lens), space,
            probe->basis->model ? "the model was described without a final norm" : "there is no model at hand");
    /* 3. without the rows that are left out: by an index, composed with the caller's. Each space has its own, since a
     * device may read it later */
    salf_tensor view = *states;
    if (batch->index) {
        if (states->row_index && states->index_memory != SALF_MEMORY_HOST)
            return slf_fail(SALF_E_UNSUPPORTED,
                            "labels to ignore with a row index in device memory; leave the rows out "
                            "of both");
        view = slf_tensor_rows(states, batch->kept, batch->rows, batch->index + space * batch->rows);
    }
    /* 4. similarities to the labels' rows at once, or queries that wait for a walk. A batch of no rows is a batch: a
     * rank without data in a step makes the same calls as the others. */
    const int64_t at = space * batch->rows; /* the first entry */
    if (batch->rows > 0 && probe->vocabulary) {
        SLF_TRY(slf_score_run_add(&probe->run, probe->vocabulary, &view, norm, at));
    } else if (batch->rows > 0) {
        const slf_cosine_job job = {.states = &view,
                                    .norm = norm,
                                    .own = {batch->target_rows, batch->target_norms, batch->device_row_of},
                                    .out = probe->run.target + at,
                                    .out_stride = 1,
                                    .similarity = 1};
        SLF_TRY(context->backend->cosine(context->impl, &job));
    }
    batch->observed[space] = 1;
    batch->last_space = space;
    return SALF_OK;
}

/* ---- the results of a batch ---- */

salf_status slf_probe_check_complete(const salf_probe *probe) {
    if (probe->batch.phase == SLF_BATCH_NONE) return slf_fail(SALF_E_SEQUENCE, "no batch has begun");
    for (int32_t space = 0; space < slf_probe_spaces(probe); space++)
        if (!probe->batch.observed[space])
            return slf_fail(SALF_E_SEQUENCE, "space %" PRId32 " of %" PRId32 " was not observed", space,
                            slf_probe_spaces(probe));
    return SALF_OK;
}

/* One copy for each kind of number, of the whole batch, however many spaces were observed: the others are not read. */
salf_status slf_probe_collect(salf_probe *probe) {
    const salf_context *context = probe->context;
    const slf_probe_results *results = &probe->results;
    const slf_score_sums *sums = &probe->run.sums;
    if (probe->batch.phase == SLF_BATCH_FLUSHED) return SALF_OK;
    if (probe->vocabulary) SLF_TRY(slf_score_run_walk(&probe->run, probe->vocabulary));
    const uint64_t bytes = (uint64_t)slf_probe_spaces(probe) * (uint64_t)probe->batch.rows * sizeof(double);
    SLF_TRY(slf_download_later(context, results->target, probe->run.target, bytes));
    if (sums->sum) SLF_TRY(slf_download_later(context, results->sum, sums->sum, bytes));
    if (sums->maximum) SLF_TRY(slf_download_later(context, results->maximum, sums->maximum, bytes));
    if (sums->count) SLF_TRY(slf_download_later(context, results->count, sums->count, bytes));
    SLF_TRY(context->backend->mark(context->impl, &probe->done));
    probe->batch.phase = SLF_BATCH_FLUSHED;
    return SALF_OK;
}

/* The batch's deviations on the host; then it is over. Waits for the results only, not for what the host enqueued after
 * them, such as a backward. [S][R], as spaces arrive, becomes [R][S], as the choice of the layer reads it. NaN: a space
 * that was not observed, a row that was left out, and a state that is zero or not finite, which has no target. */
salf_status slf_probe_await(salf_probe *probe) {
    const int32_t spaces = slf_probe_spaces(probe);
    const int64_t rows = probe->batch.rows;
    const slf_probe_results *results = &probe->results;
    SLF_TRY(slf_probe_collect(probe));
    SLF_TRY(probe->context->backend->wait(probe->context->impl, probe->done, NULL));
    for (int64_t at = 0; at < probe->batch.given * spaces; at++) results->deviations[at] = (double)NAN;
    for (int32_t space = 0; space < spaces; space++)
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = space * rows + r;
            const bool known = probe->batch.observed[space] && !isnan(results->target[at]);
            results->deviations[probe->batch.kept[r] * spaces + space] =
                known ? probe->metric->deviation(probe, at) : (double)NAN;
        }
    probe->batch.phase = SLF_BATCH_NONE;
    return SALF_OK;
}
