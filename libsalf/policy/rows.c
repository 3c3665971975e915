/*
 * rows.c - policies that see data: SALF (the batch's trace), CALLBACK and BUDGET (the planner's task).
 *
 * Reductions over the rows of all ranks: MEAN_GAIN argmax of the summed gain curve, ties shallow, rows with a
 * non-finite gain left out (cut 0 where none is left); SMALLEST, PREFIX minimum; MEDIAN the lower one and MODE the most
 * frequent, ties shallow, from a histogram. Time O(rows m) for MEAN_GAIN, else O(rows + m).
 *
 * A rank may have no rows if another has some. What is wrong with this rank's own input (`local` below) is known, and
 * room for its rows made, before the ranks meet; what follows can fail on all of them only.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "policy/policy.h"

/* All rows have the batch's cut, or, for PREFIX, each its own eof but none above the batch's; a row that trains nothing
 * keeps its eof, m. */
static void set_row_cuts(salf_policy *p, const int32_t *eof, int64_t rows, int32_t cut) {
    const bool own = eof && p->options.reduction == SALF_REDUCE_PREFIX;
    p->rows = rows;
    for (int64_t r = 0; r < rows; r++) p->eof[r] = own || (eof && eof[r] == p->m) ? SLF_MAX(eof[r], cut) : cut;
}

/* By default rates scale where rows are truncated, and only there: elsewhere every row trains each layer that trains,
 * and the share is 1. Asked for decisions whose rows have cuts of their own. */
static bool scales_rates(const salf_policy *p) {
    return p->options.rates != SALF_RATES_WHOLE;
}

/* How many of the rows have each cut, [m]; those with m do not count. */
static int64_t *count_cuts(salf_policy *p, const int32_t *cuts, int64_t rows) {
    int64_t *counts = p->histogram; /* [m+2] */
    memset(counts, 0, ((size_t)p->m + 1) * sizeof *counts);
    for (int64_t r = 0; r < rows; r++) counts[cuts[r]]++;
    return counts;
}

/* Scales rates by the share of rows that train each layer: active[k] of those whose cut is at most k. counts [m] of
 * cuts, over all ranks; they become sums. */
static void scale_rates(salf_policy *p, int64_t *counts) {
    for (int32_t k = 1; k < p->m; k++) counts[k] += counts[k - 1];
    const int64_t rows = counts[p->m - 1];
    for (int32_t k = 0; k < p->m && rows > 0; k++) p->rate_scale[k] *= (double)counts[k] / (double)rows;
}

/* PREFIX cuts rows apart, which rows of one datum cannot be: attention couples them. Which rows are one the host alone
 * knows, by rows_per_datum of its probe or by n_data here. */
static salf_status check_trace(const salf_policy *p, const salf_observation *seen, bool gains) {
    const salf_trace *t = seen->trace;
    SLF_TRY(slf_trace_check(t, p->m, gains, p->m, "policy"));
    if (p->options.reduction != SALF_REDUCE_PREFIX || seen->n_data == 0 || t->rows == seen->n_data) return SALF_OK;
    return slf_fail(SALF_E_SHAPE,
                    "reduction prefix: a trace of %" PRId64 " rows for %" PRId32
                    " data; neighbours are one datum by rows_per_datum of the probe",
                    t->rows, seen->n_data);
}

/* Float64 sums of many ranks differ in their last bits with the order of the reduction, but every rank gets the same
 * result from it, and so the same argmax. One rank without rows is usual at the end of an epoch; all without are a
 * mistake of the host's. */
salf_status slf_decide_salf(salf_policy *p, const salf_observation *seen) {
    const bool mean = p->options.reduction == SALF_REDUCE_MEAN_GAIN;
    const salf_trace *t = seen->trace;
    salf_status local = p->early == SALF_OK ? check_trace(p, seen, mean) : p->early;
    if (local == SALF_OK) local = slf_policy_rows(p, t->rows);
    SLF_TRY(slf_policy_agree(p, local, seen, NULL));
    double *sums = p->scratch; /* [m] gains, rows */
    int64_t *counts = NULL;    /* [m] rows of each eof */
    int32_t cut = 0;
    double rows = 0;
    if (mean) {
        /* 1. the layer with the largest gain summed over all rows, which is the mean's: their number cancels out */
        memset(sums, 0, ((size_t)p->m + 1) * sizeof *sums);
        for (int64_t r = 0; r < t->rows; r++) {
            const double *gains = t->gains + r * p->m;
            const bool finite = slf_all_finite(gains, p->m);
            for (int32_t k = 0; finite && k < p->m; k++) sums[k] += gains[k];
            sums[p->m] += t->eof[r] < p->m;
        }
        SLF_TRY(slf_all_reduce(p->context, sums, p->m + (int64_t)1, SALF_F64, SALF_ALL_REDUCE_SUM));
        rows = sums[p->m];
        for (int32_t k = 0; k < p->m; k++) {
            if (!isfinite(sums[k])) /* of numbers that no probe finds; the largest of such sums means nothing */
                return slf_fail(SALF_E_OVERFLOW, "the gains of layer %" PRId32 " sum to %g", k, sums[k]);
            if (sums[k] > sums[cut]) cut = k;
        }
    } else {
        /* 2. smallest, lower median and most frequent eof need only how many rows have each: m numbers, not rows. The
         * lower median is the first with more than half of the others, rounded down, at or below it */
        counts = count_cuts(p, t->eof, t->rows);
        SLF_TRY(slf_all_reduce(p->context, counts, p->m, SALF_I64, SALF_ALL_REDUCE_SUM));
        int64_t total = 0, below = 0;
        int32_t lowest = 0, median = 0, mode = 0;
        for (int32_t k = 0; k < p->m; k++) total += counts[k];
        rows = (double)total;
        while (lowest < p->m - 1 && counts[lowest] == 0) lowest++;
        while (median < p->m - 1 && below + counts[median] <= (total - 1) / 2) {
            below += counts[median];
            median++;
        }
        for (int32_t k = 1; k < p->m; k++)
            if (counts[k] > counts[mode]) mode = k;
        cut = p->options.reduction == SALF_REDUCE_MEDIAN ? median : lowest;
        if (p->options.reduction == SALF_REDUCE_MODE) cut = mode;
    }
    if (rows <= 0) return slf_fail(SALF_E_ARGUMENT, "the trace has 0 rows with a label, on every rank");
    slf_policy_suffix(p, cut);
    set_row_cuts(p, t->eof, t->rows, cut);
    /* 3. the histogram of all ranks' eof; a reduction to one cut trains every layer above it with every row */
    const bool truncated = p->options.reduction == SALF_REDUCE_PREFIX;
    if (truncated && scales_rates(p)) scale_rates(p, counts);
    return SALF_OK;
}

/* The smallest cut over the ranks. The callback runs before the ranks meet, and on each of them: it may decide by what
 * it alone sees. */
salf_status slf_decide_callback(salf_policy *p, const salf_observation *seen) {
    const salf_trace *t = seen->trace;
    int64_t smallest = -1;
    salf_status local = p->early;
    if (local == SALF_OK && t) local = check_trace(p, seen, false);
    if (local == SALF_OK && t) local = slf_policy_rows(p, t->rows);
    if (local == SALF_OK) smallest = p->options.callback(p->options.callback_user, seen->step, p->m, t);
    if (local == SALF_OK && (smallest < 0 || smallest >= p->m))
        local = slf_fail(SALF_E_CALLBACK, "the callback returned %" PRId64 " at step %" PRId64 ", not 0 ... %" PRId32,
                         smallest, seen->step, p->m - 1);
    SLF_TRY(slf_policy_agree(p, local, seen, &smallest));
    slf_policy_suffix(p, (int32_t)smallest);
    if (t) set_row_cuts(p, t->eof, t->rows, (int32_t)smallest);
    /* Rows of all ranks, once the cut is known. Every rank joins; one without a trace has no rows. */
    if (p->options.reduction != SALF_REDUCE_PREFIX || !scales_rates(p)) return SALF_OK;
    int64_t *counts = count_cuts(p, p->eof, p->rows);
    SLF_TRY(slf_all_reduce(p->context, counts, p->m, SALF_I64, SALF_ALL_REDUCE_SUM));
    scale_rates(p, counts);
    return SALF_OK;
}

/* The task says all: its data train at its layer or, in a stream, each with its cut; what was matched or filled makes
 * no difference. All ranks have the same plan, and stand at the same task of it. */
salf_status slf_decide_budget(salf_policy *p, const salf_observation *seen) {
    const salf_planner *planner = p->options.planner;
    const slf_progress *s = &planner->progress;
    salf_task task;
    slf_planner_task(planner, &task);
    salf_status local = p->early;
    if (local == SALF_OK && task.kind == SALF_TASK_DONE)
        local = slf_fail(SALF_E_SEQUENCE, "no task of the planner is open at step %" PRId64, seen->step);
    if (local == SALF_OK && slf_plan_is_stream(planner) && task.kind == SALF_TASK_PROBE)
        local = slf_fail(SALF_E_SEQUENCE,
                         "the PROBE task at step %" PRId64 " has no cuts; call salf_planner_assign first", seen->step);
    /* a load knows the task, but not of how many data a whole one would be, which batch_share divides by */
    if (local == SALF_OK && s->asked == 0)
        local = slf_fail(SALF_E_SEQUENCE,
                         "the planner was loaded before step %" PRId64 "; call salf_planner_next first", seen->step);
    if (local == SALF_OK) local = slf_policy_rows(p, task.n_data);
    SLF_TRY(slf_policy_agree(p, local, seen, NULL));
    slf_policy_suffix(p, task.layer);
    set_row_cuts(p, NULL, task.n_data, task.layer);
    /* of the whole task: ranks step together, by the mean over the rows of all */
    p->batch_share = (double)s->task_n / ((double)s->asked * planner->context->options.ranks);
    if (s->phase != SLF_PHASE_TRAIN || !slf_plan_has_cuts(planner)) return SALF_OK;
    if (task.n_data > 0) memcpy(p->eof, task.eof, (size_t)task.n_data * sizeof *p->eof);
    if (scales_rates(p)) scale_rates(p, count_cuts(p, s->cuts, s->task_n));
    return SALF_OK;
}
