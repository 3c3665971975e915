/*
 * observe.c - deviations of a space's states (paper 3.1), reduced to a few numbers a row.
 *
 * cosine: d = 1 - cos(h, b_l), rows * D, in observe. ce: d = log sum_i exp(s_i / t) - s_l / t from a running sum of
 * exp((s_i - shift) / t). rank: number of i != l with s_i > s_l. Both make queries of the states in observe, which wait
 * until as many are there as the workspace holds, or the batch ends: then one walk over the vocabulary serves all of
 * them, rows * V * D.
 */
#include <math.h>
#include <string.h>

#include "probe/probe.h"

static int32_t spaces_of(const salf_probe *probe) {
    return probe->options.n_layers + 1;
}

/* Rows first ... of states against the basis rows of their labels. */
static slf_cosine_job cosine_job(const salf_probe *probe, const salf_tensor *states, const slf_norm *norm,
                                 int64_t first) {
    const slf_label_rows *used = probe->set.used;
    return (slf_cosine_job){
        .states = states, .norm = norm, .own = {used->rows, used->norms, probe->device_which + first}};
}

static salf_status reduce_cosine(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm) {
    slf_cosine_job job = cosine_job(probe, states, norm, 0);
    job.out = probe->distances + space;
    job.out_stride = spaces_of(probe);
    return probe->context->backend->cosine(probe->context->impl, &job);
}

/* Scores of the right tokens: s_l from the basis rows with the same products as cosine, or logits from z = h. */
static salf_status make_targets(const salf_probe *probe, const double *z, const salf_tensor *states,
                                const slf_norm *norm, int64_t first, double *target) {
    const slf_backend *backend = probe->context->backend;
    const slf_score_rule *rule = slf_vocabulary_rule(probe->vocabulary);
    if (!rule->logits) {
        slf_cosine_job job = cosine_job(probe, states, norm, first);
        job.out = target;
        job.out_stride = job.similarity = 1;
        return backend->cosine(probe->context->impl, &job);
    }
    const slf_logits_job job = {.z = z,
                                .rows = states->rows,
                                .w = &probe->logit_rows.view,
                                .row_of = probe->device_which + first,
                                .bias = probe->logit_rows.bias,
                                .rule = rule,
                                .target = target};
    return backend->logits(probe->context->impl, &job);
}

/* Sums over the vocabulary start at 0, maxima at -infinity. */
static salf_status clear_sums(const salf_probe *probe, const slf_score_sums *sums, int64_t n) {
    const slf_backend *backend = probe->context->backend;
    void *impl = probe->context->impl;
    if (sums->sum) SLF_TRY(backend->fill(impl, sums->sum, n, 0));
    if (sums->count) SLF_TRY(backend->fill(impl, sums->count, n, 0));
    return sums->maximum ? backend->fill(impl, sums->maximum, n, -INFINITY) : SALF_OK;
}

/* Compares what waits with the vocabulary. After a failure it still waits. */
static salf_status walk(salf_probe *probe) {
    if (probe->waiting == 0) return SALF_OK; /* first may be an entry of a larger batch */
    const int64_t at = probe->first;
    const slf_query query = {.rows = probe->waiting,
                             .dim = probe->basis->info.hidden,
                             .z = probe->z,
                             .label = probe->device_labels + at,
                             .target = probe->target + at,
                             .needs_f64 = slf_vocabulary_projected(probe->vocabulary) ? probe->needs_f64 : NULL};
    const slf_score_sums sums = {.sum = probe->sum ? probe->sum + at : NULL,
                                 .maximum = probe->maximum ? probe->maximum + at : NULL,
                                 .count = probe->count ? probe->count + at : NULL};
    SLF_TRY(clear_sums(probe, &sums, query.rows));
    SLF_TRY(slf_vocabulary_walk(probe->vocabulary, &query, &sums));
    probe->waiting = 0;
    return SALF_OK;
}

/* Queries of rows first ... of a space, which are entries at ... of [S][R], behind those that wait. */
static salf_status add_queries(salf_probe *probe, const salf_tensor *states, const slf_norm *norm, int64_t first,
                               int64_t at) {
    double *z = probe->z + probe->waiting * states->cols;
    SLF_TRY(slf_vocabulary_query(probe->vocabulary, states, norm, z, probe->needs_f64 + probe->waiting));
    SLF_TRY(make_targets(probe, z, states, norm, first, probe->target + at));
    if (probe->waiting == 0) probe->first = at;
    probe->waiting += states->rows;
    return SALF_OK;
}

/* Forgets what waits of a space that is tried again after a failure; walks before a space that leaves one out. */
static salf_status begin_space(salf_probe *probe, int64_t at) {
    if (probe->waiting > 0 && probe->first + probe->waiting > at)
        probe->waiting = probe->first < at ? at - probe->first : 0;
    return probe->first + probe->waiting == at ? SALF_OK : walk(probe);
}

salf_status slf_probe_reduce(salf_probe *probe, int32_t space, const salf_tensor *states, const slf_norm *norm) {
    if (probe->options.metric == SALF_METRIC_COSINE) return reduce_cosine(probe, space, states, norm);
    const int64_t at = space * probe->rows;
    SLF_TRY(begin_space(probe, at));
    for (int64_t first = 0, n; first < probe->rows; first += n) {
        if (probe->waiting == probe->room) SLF_TRY(walk(probe));
        const int64_t left = probe->rows - first, room = probe->room - probe->waiting;
        n = left < probe->chunk ? left : probe->chunk;
        n = n < room ? n : room;
        const salf_tensor chunk = slf_tensor_slice(states, first, n);
        SLF_TRY(add_queries(probe, &chunk, norm, first, at + first));
    }
    return SALF_OK;
}

/* ---- the end of a batch ---- */

static salf_status enqueue(const salf_probe *probe, void *to, const void *from) {
    const uint64_t bytes = (uint64_t)spaces_of(probe) * (uint64_t)probe->rows * sizeof(double);
    if (!from || bytes == 0) return SALF_OK;
    const int32_t memory = slf_device_readable(probe->context) ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
    return probe->context->backend->copy(probe->context->impl, to, SALF_MEMORY_HOST, from, memory, bytes);
}

salf_status slf_probe_collect(salf_probe *probe) {
    if (probe->options.metric == SALF_METRIC_COSINE) return enqueue(probe, probe->deviations, probe->distances);
    SLF_TRY(walk(probe));
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
