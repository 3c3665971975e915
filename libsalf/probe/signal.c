/*
 * signal.c - what a probe's answers are worth: how often each eof comes, how much of the gains the group explains, how
 * many rows were matched, how many data keep their eof.
 *
 * With x_rk the gain of row r in layer k, m_k its mean and m_gk the mean of group g: total T = sum over r, k of (x_rk -
 * m_k)^2, within W the same about m_gk; the group's share is (T - W) / T. Means and sums are updated row by row (B. P.
 * Welford, 1962), so that a common offset of the gains costs no digits. O(m) a row, memory O(groups m) + O(max_ids).
 */
#include <inttypes.h>
#include <math.h>

#include "core/carve.h"
#include "core/ids.h"

/* From when on a warning may come; and what counts as empty, and as the label. */
enum { SIGNAL_ROWS = 64 };
#define SIGNAL_EMPTY 0.9
#define SIGNAL_LABEL 0.8

struct salf_signal {
    salf_context *context;
    salf_signal_options options; /* with defaults in place */
    int64_t rows, grouped, trained, matched, revisits, same;
    bool warned_empty, warned_label;
    slf_ids groups, data;
    int64_t *of_eof;     /* [m] rows */
    double *mean;        /* [m] of the gains of grouped rows */
    double *total;       /* [m] squares about it */
    double *within;      /* [m] squares about the group's own */
    int64_t *group_rows; /* [max_groups + 1]; the last is for all groups that do not fit */
    double *group_mean;  /* [max_groups + 1][m] */
    int32_t *last_eof;   /* [max_ids] */
};

/* The handle with all its arrays behind it. */
static void lay_out_signal(salf_signal *s, slf_carver *block) {
    const int64_t m = s->options.n_layers, groups = (int64_t)s->options.max_groups + 1;
    slf_carve(block, 1, sizeof *s);
    s->of_eof = slf_carve(block, m, sizeof *s->of_eof);
    s->mean = slf_carve(block, m, sizeof *s->mean);
    s->total = slf_carve(block, m, sizeof *s->total);
    s->within = slf_carve(block, m, sizeof *s->within);
    s->group_rows = slf_carve(block, groups, sizeof *s->group_rows);
    s->group_mean = slf_carve(block, groups, (uint64_t)m * sizeof *s->group_mean);
    s->last_eof = slf_carve(block, s->options.max_ids, sizeof *s->last_eof);
}

/* Everything whose size the options bound is there from the beginning; what grows with what is seen are the two sets of
 * ids, which end at the same bounds. So a run never needs more memory than its first batches. */
salf_status salf_signal_create(salf_signal **out, salf_context *context, const salf_signal_options *options) {
    SLF_OUT(out);
    SLF_REQUIRE(context);
    SLF_OPTIONS(salf_signal_options, own, options);
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(&own, n_layers, 1, INT32_MAX), SLF_RANGE(&own, per_datum, 0, 1),
                             SLF_RANGE(&own, max_groups, 0, INT32_MAX - 1), SLF_RANGE(&own, max_ids, 0, INT32_MAX),
                             SLF_RANGE(&own, reserved, 0, 0)));
    if (own.max_groups == 0) own.max_groups = 1024;
    salf_signal begin = {.options = own, .groups = {.most = own.max_groups}, .data = {.most = own.max_ids}};
    slf_carver block = {0};
    lay_out_signal(&begin, &block);
    salf_signal *s = slf_alloc_zero(context, 1, block.used);
    if (!s) return SALF_E_NO_MEMORY;
    *s = begin;
    block = (slf_carver){.base = (char *)s};
    lay_out_signal(s, &block);
    s->context = SLF_RETAIN(context);
    *out = s;
    return SALF_OK;
}

void salf_signal_destroy(salf_signal *s) {
    if (!s) return;
    salf_context *context = s->context;
    slf_ids_free(&s->groups, context);
    slf_ids_free(&s->data, context);
    slf_free(context, s);
    salf_context_destroy(context);
}

/* Sums over the layers, so that one whose gains are small says little. Groups beyond max_groups are one.
 *
 * Why chance matters: with n rows in G groups that say nothing, the expected share is (G - 1) / (n - 1), as it is for
 * G - 1 regressors of an analysis of variance. A host that looks after 64 rows of 50 classes would else read .78 from
 * noise. The adjusted share is 0 for noise, on average, and 1 where the groups say all. */
salf_status salf_signal_get(const salf_signal *signal, salf_signal_info *info) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(signal, info);
    const salf_signal *s = signal;
    salf_signal_info own = {
        .rows = s->rows, .grouped_rows = s->grouped, .trained = s->trained, .revisits = s->revisits};
    /* 1. the most frequent eof, ties shallow, and the squares */
    double total = 0, within = 0;
    for (int32_t k = 0; k < s->options.n_layers; k++) {
        if (s->of_eof[k] > s->of_eof[own.most_frequent]) own.most_frequent = k;
        total += s->total[k];
        within += s->within[k];
    }
    /* 2. groups that have rows: a set of ids may know some whose gains were no numbers */
    for (int64_t g = 0; g <= s->options.max_groups; g++) {
        own.n_groups += s->group_rows[g] > 0;
        own.single_groups += s->group_rows[g] == 1;
    }
    /* 3. shares; of nothing they are 0, which no caller has to look out for */
    if (s->rows > 0) own.most_frequent_share = (double)s->of_eof[own.most_frequent] / (double)s->rows;
    /* rounding may leave a little more within the groups than there is in all */
    if (total > 0) own.group_share = fmax(1 - within / total, 0);
    /* one row, or as many groups as rows: chance explains all of it */
    if (s->grouped > 0) own.group_chance = s->grouped == 1 ? 1 : (own.n_groups - 1.0) / (double)(s->grouped - 1);
    if (own.group_share > own.group_chance)
        own.group_adjusted = (own.group_share - own.group_chance) / (1 - own.group_chance);
    if (s->trained > 0) own.matched_share = (double)s->matched / (double)s->trained;
    if (s->revisits > 0) own.agreement = (double)s->same / (double)s->revisits;
    return slf_info_write(info, &own, sizeof own, "salf_signal_info");
}

/* What a host should hear even if it never asks. Once each: a log that repeats itself is not read. */
static salf_status warn_of_signal(salf_signal *s) {
    if (s->rows < SIGNAL_ROWS) return SALF_OK;
    salf_signal_info now = {.struct_size = sizeof now};
    SLF_TRY(salf_signal_get(s, &now));
    if (!s->warned_empty && now.most_frequent_share > SIGNAL_EMPTY) {
        s->warned_empty = true;
        slf_log(s->context, SALF_LOG_WARNING,
                "the probe's signal is empty: %" PRId64 " of %" PRId64 " data have eof %" PRId32
                "; another lens or metric may tell them apart",
                s->of_eof[now.most_frequent], now.rows, now.most_frequent);
    }
    if (!s->warned_label && s->options.per_datum && now.group_adjusted > SIGNAL_LABEL) {
        s->warned_label = true;
        slf_log(s->context, SALF_LOG_WARNING,
                "the probe's signal is the label: %d groups explain %.1f %% of the gains, and cuts that follow them "
                "train shallow layers on some groups only; balance over groups (matching stream)",
                (int)now.n_groups, 100 * now.group_share);
    }
    return SALF_OK;
}

/* Nothing is counted before all that may fail is over: checks, and room for new groups and ids. */
salf_status salf_signal_add(salf_signal *signal, const salf_trace *trace, const int32_t *groups, const uint32_t *ids,
                            const int32_t *cuts) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(signal, trace);
    salf_signal *s = signal;
    const int32_t m = s->options.n_layers;
    int32_t index;
    SLF_TRY(slf_trace_check(trace, m, groups != NULL, m, "signal"));
    for (int64_t r = 0; cuts && r < trace->rows; r++)
        if (cuts[r] < 0 || cuts[r] > m)
            return SLF_FAIL(SALF_E_ARGUMENT, "cut of row %" PRId64 " is %" PRId32 ", not in 0 ... %" PRId32, r, cuts[r],
                            m);
    /* 1. groups that are new get their place; one that does not fit goes with the others that do not */
    for (int64_t r = 0; groups && r < trace->rows; r++) SLF_TRY(slf_ids_add(&s->groups, s->context, groups[r], &index));
    for (int64_t r = 0; ids && r < trace->rows; r++) { /* a new id has no eof yet, one that does not fit never has */
        const int32_t before = s->data.n;
        SLF_TRY(slf_ids_add(&s->data, s->context, ids[r], &index));
        if (s->data.n > before) s->last_eof[index] = -1;
    }
    /* 2. the figures, row by row: the same for any batches */
    for (int64_t r = 0; r < trace->rows; r++) {
        const int32_t eof = trace->eof[r];
        if (eof == m) continue; /* nothing was probed of it */
        const double *gains = groups ? trace->gains + r * m : NULL;
        s->rows++;
        s->of_eof[eof]++;
        if (gains && slf_all_finite(gains, m)) {
            /* the means of all rows and of the group move, and squares are taken about both. The product of the
             * distances to a mean before and after it moves is what the row adds to the sum of squares about the last
             * mean: exact, and never the difference of two large numbers */
            index = slf_ids_find(&s->groups, groups[r]);
            const int64_t group = index >= 0 ? index : s->options.max_groups;
            double *own = s->group_mean + group * m;
            s->grouped++;
            s->group_rows[group]++;
            for (int32_t k = 0; k < m; k++) {
                const double away = gains[k] - s->mean[k], apart = gains[k] - own[k];
                s->mean[k] += away / (double)s->grouped;
                own[k] += apart / (double)s->group_rows[group];
                s->total[k] += away * (gains[k] - s->mean[k]);
                s->within[k] += apart * (gains[k] - own[k]);
            }
        }
        if (cuts && cuts[r] < m) {
            s->trained++;
            s->matched += eof <= cuts[r];
        }
        index = ids ? slf_ids_find(&s->data, ids[r]) : -1;
        if (index < 0) continue;
        s->revisits += s->last_eof[index] >= 0;
        s->same += s->last_eof[index] == eof;
        s->last_eof[index] = eof;
    }
    return warn_of_signal(s);
}
