/*
 * probe_observe.c - deviations of a space's states (paper 3.1), reduced to a few numbers a row before observe returns.
 *
 * cosine: d = 1 - cos(h, b_l), rows * D. ce: d = log sum_i exp(s_i / t) - s_l / t from a running sum of exp((s_i -
 * shift) / t). rank: number of i != l with s_i > s_l. Both walk the vocabulary once for a chunk of rows: rows * V * D.
 */
#include <math.h>
#include <string.h>

#include "probe_internal.h"

static int32_t spaces_of(const salf_probe *probe) {
    return probe->options.n_layers + 1;
}

static salf_status reduce_cosine(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm) {
    const slf_label_rows *used = probe->set.used;
    return probe->context->backend->cosine(probe->context->backend_state, states, norm, used->rows, used->norms,
                                           probe->device_which, 0, probe->distances + space, spaces_of(probe));
}

/* Scores of the right tokens: s_l from the basis rows with the same products as cosine, or logits from z = h. */
static salf_status make_targets(const salf_probe *probe, const salf_tensor *states, const slf_norm *norm, int64_t first,
                                double *target) {
    const slf_backend *backend = probe->context->backend;
    void *state = probe->context->backend_state;
    const slf_score_rule *rule = slf_vocabulary_rule(probe->vocabulary);
    const int32_t *which = probe->device_which + first;
    if (rule->logits)
        return backend->logit_targets(state, probe->z, states->rows, &probe->logit_rows.view, which,
                                      probe->logit_rows.bias, rule, target);
    const slf_label_rows *used = probe->set.used;
    return backend->cosine(state, states, norm, used->rows, used->norms, which, 1, target, 1);
}

static salf_status reduce_chunk(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm,
                                int64_t first) {
    const int64_t at = space * probe->rows + first;
    slf_query query = {.label = probe->device_labels + first, .target = probe->target + at};
    const slf_score_sums sums = {.sum = probe->sum ? probe->sum + at : NULL,
                                 .maximum = probe->maximum ? probe->maximum + at : NULL,
                                 .count = probe->count ? probe->count + at : NULL};
    SLF_TRY(slf_vocabulary_query(probe->vocabulary, states, norm, probe->scratch, probe->z, &query));
    SLF_TRY(make_targets(probe, states, norm, first, probe->target + at));
    return slf_vocabulary_walk(probe->vocabulary, &query, &sums);
}

/* Sums of a space start at 0 and maxima at -infinity; a space may be tried again after a failure. */
static salf_status clear_space(salf_probe *probe, int32_t space) {
    const slf_backend *backend = probe->context->backend;
    void *state = probe->context->backend_state;
    const int64_t at = space * probe->rows;
    const uint64_t bytes = (uint64_t)probe->rows * sizeof(double);
    if (probe->sum) SLF_TRY(backend->zero(state, probe->sum + at, bytes));
    if (probe->count) SLF_TRY(backend->zero(state, probe->count + at, bytes));
    if (!probe->maximum) return SALF_OK;
    return backend->fill(state, probe->maximum + at, probe->rows, -INFINITY);
}

salf_status slf_probe_reduce(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm) {
    if (probe->options.metric == SALF_METRIC_COSINE) return reduce_cosine(probe, space, states, norm);
    SLF_TRY(clear_space(probe, space));
    for (int64_t first = 0; first < probe->rows; first += probe->chunk) {
        const int64_t left = probe->rows - first;
        const salf_tensor chunk = slf_tensor_slice(states, first, left < probe->chunk ? left : probe->chunk);
        SLF_TRY(reduce_chunk(probe, space, &chunk, norm, first));
    }
    return SALF_OK;
}

/* ---- the end of a batch ---- */

static salf_status enqueue(const salf_probe *probe, void *to, const void *from) {
    const uint64_t bytes = (uint64_t)spaces_of(probe) * (uint64_t)probe->rows * sizeof(double);
    if (!from || bytes == 0) return SALF_OK;
    const int32_t memory = slf_device_readable(probe->context) ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
    return probe->context->backend->copy(probe->context->backend_state, to, SALF_MEMORY_HOST, from, memory, bytes);
}

salf_status slf_probe_collect(salf_probe *probe) {
    if (probe->options.metric == SALF_METRIC_COSINE) return enqueue(probe, probe->deviations, probe->distances);
    SLF_TRY(enqueue(probe, probe->host_target, probe->target));
    SLF_TRY(enqueue(probe, probe->host_sum, probe->sum));
    SLF_TRY(enqueue(probe, probe->host_maximum, probe->maximum));
    return enqueue(probe, probe->host_count, probe->count);
}

static double deviation(const salf_probe *probe, int64_t at) {
    const double target = probe->host_target[at];
    if (isnan(target)) return NAN;
    if (probe->options.metric == SALF_METRIC_RANK) return (double)probe->host_count[at];
    const double shift = probe->maximum ? probe->host_maximum[at] : slf_vocabulary_rule(probe->vocabulary)->shift;
    return (shift - target) * slf_vocabulary_rule(probe->vocabulary)->inverse_temperature + log(probe->host_sum[at]);
}

void slf_probe_deviations(salf_probe *probe) {
    const int32_t spaces = spaces_of(probe);
    for (int32_t space = 0; space < spaces; space++)
        for (int64_t r = 0; r < probe->rows; r++) {
            double *out = probe->deviations + r * spaces + space;
            if (!probe->observed[space])
                *out = NAN;
            else if (probe->options.metric != SALF_METRIC_COSINE)
                *out = deviation(probe, space * probe->rows + r);
        }
}
