/*
 * batch.c - a batch of the probe: its memory, its beginning and its end.
 *
 * On a device everything up to the end is enqueued on the host's stream; end waits for the event behind the one copy of
 * results, not for what the host enqueued since.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ranks.h"
#include "probe/probe.h"

/* ---- memory: one block on each side, grown when a batch needs more ---- */

/* Which arrays there are follows from the options alone, their sizes from the rows: a graph that captured a batch meets
 * the same addresses in the next one of as many rows. */
static void lay_out_batch(void *user, slf_carver *device, slf_carver *host) {
    salf_probe *probe = user;
    slf_probe_batch *batch = &probe->batch;
    slf_probe_results *results = &probe->results;
    slf_score_run *run = &probe->run;
    const int64_t rows = batch->rows, all = rows * slf_probe_spaces(probe), dim = probe->basis->info.hidden;
    const int64_t given = batch->given, of_given = given * slf_probe_spaces(probe);
    const int32_t sums = probe->metric->sums;
    const int64_t entries = probe->vocabulary ? all : rows;
    batch->labels = slf_carve(host, rows, sizeof *batch->labels);
    batch->kept = slf_carve(host, rows, sizeof *batch->kept);
    batch->index = given == rows ? NULL : slf_carve(host, all, sizeof *batch->index);
    batch->row_of = slf_carve(host, entries, sizeof *batch->row_of);
    batch->device_row_of = slf_carve(device, entries, sizeof *batch->device_row_of);
    if (probe->vocabulary) {
        const slf_score_rule *rule = &probe->vocabulary->rule;
        batch->targets.row_of = batch->row_of;
        batch->targets.place = slf_carve(host, entries, sizeof *batch->targets.place);
        slf_score_run_lay_out(run, device, all, dim, sums, rule);
        if (sums & SLF_SUM_EXP) results->sum = slf_carve(host, all, sizeof *results->sum);
        if (slf_score_run_has_maximum(sums, rule)) results->maximum = slf_carve(host, all, sizeof *results->maximum);
        if (sums & SLF_SUM_COUNT) results->count = slf_carve(host, all, sizeof *results->count);
        if (slf_target_rows_lay_out(&batch->targets, probe->vocabulary, rows, device, host))
            batch->device_place = slf_carve(device, entries, sizeof *batch->device_place);
    } else {
        run->target = slf_carve(device, all, sizeof *run->target);
    }
    results->target = slf_carve(host, all, sizeof *results->target);
    results->deviations = slf_carve(host, of_given, sizeof *results->deviations);
    results->gains = slf_carve(host, of_given, sizeof *results->gains);
    results->eof = slf_carve(host, given, sizeof *results->eof);
}

/* ---- begin ---- */

/* The rows that the targets are scores of, and which of them each label has; all of it in the backend when the stream
 * has passed. */
static salf_status prepare_targets(salf_probe *probe) {
    slf_probe_batch *batch = &probe->batch;
    const salf_context *context = probe->context;
    const int64_t rows = batch->rows;
    const uint64_t bytes = (uint64_t)rows * sizeof(int32_t);
    const bool walk = probe->vocabulary != NULL;
    /* 1. basis rows, solved here where the basis does not hold them: what cosines are taken with. A walk over them has
     * its own; here it only learns whether a label's row is zero. */
    if (!walk || !probe->vocabulary->rule.logits)
        SLF_TRY(slf_label_set_prepare(&batch->set, probe->basis, batch->labels, rows, batch->row_of));
    if (!walk) {
        batch->target_rows = batch->set.used->rows;
        batch->target_norms = batch->set.used->norms;
        return slf_upload(context, batch->device_row_of, batch->row_of, bytes);
    }
    /* 2. for a walk the labels' rows among those that it will meet. A walk reads a query's row by entry, and entries
     * run over spaces: so they are there once for each space. */
    slf_target_rows *targets = &batch->targets;
    const int32_t spaces = slf_probe_spaces(probe);
    SLF_TRY(slf_target_rows_prepare(targets, probe->vocabulary, batch->labels, rows));
    for (int32_t space = 1; space < spaces && rows > 0; space++) {
        memcpy(batch->row_of + space * rows, batch->row_of, bytes);
        memcpy(targets->place + space * rows, targets->place, bytes);
    }
    batch->target_rows = targets->rows.data;
    batch->target_norms = NULL;
    probe->run.own = targets->rows;
    probe->run.row_of = batch->device_row_of;
    /* Rows that were not fetched are numbered by their place. */
    probe->run.place = targets->fetched ? batch->device_place : batch->device_row_of;
    if (targets->fetched) SLF_TRY(slf_upload(context, batch->device_place, targets->place, (uint64_t)spaces * bytes));
    return slf_upload(context, batch->device_row_of, batch->row_of, (uint64_t)spaces * bytes);
}

/* Labels come first, since a host knows them before the forward: rows that the basis does not hold are solved here,
 * once, and not among the layers. A batch that was not ended is dropped; labels that belong to no token, or are not
 * among the candidates, leave it open. */
salf_status salf_probe_begin(salf_probe *probe, const int32_t *labels, int64_t n_rows) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(probe);
    const salf_basis *basis = probe->basis;
    const salf_context *context = probe->context;
    slf_probe_batch *batch = &probe->batch;
    const int64_t per_datum = probe->options.rows_per_datum;
    salf_status own = SALF_OK; /* what is wrong with this call, for the ranks that share a vocabulary */
    int64_t rows = 0;
    if (n_rows < 0) own = SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " rows", n_rows);
    if (n_rows > 0 && !labels) own = SLF_FAIL(SALF_E_NULL, "labels is NULL");
    if (n_rows > INT64_MAX / 1024 / slf_probe_spaces(probe)) /* products of rows, spaces and bytes fit 63 bits */
        own = SLF_FAIL(SALF_E_OVERFLOW, "%" PRId64 " rows", n_rows);
    if (own == SALF_OK && n_rows % per_datum != 0)
        own = SLF_FAIL(SALF_E_SHAPE, "%" PRId64 " rows; rows_per_datum is %" PRId64, n_rows, per_datum);
    /* All labels are looked at before the batch that may be open is touched. */
    for (int64_t r = 0; r < n_rows && own == SALF_OK; r++) {
        if (labels[r] == SALF_LABEL_IGNORE) continue;
        rows++;
        own = slf_label_check(labels[r], basis->info.vocab, basis->padded_vocab);
        if (own == SALF_OK && probe->vocabulary) own = slf_vocabulary_check(probe->vocabulary, labels[r]);
    }
    SLF_TRY(slf_vocabulary_agree(probe->vocabulary, SLF_MEET_salf_probe_begin, own, labels, n_rows));
    /* A batch that is dropped: its copies read the arrays that are filled here. */
    if (batch->phase != SLF_BATCH_NONE) SLF_TRY(slf_sync(context));
    batch->phase = SLF_BATCH_NONE;
    SLF_TRY(slf_probe_follow(probe));
    batch->given = n_rows;
    batch->rows = rows;
    probe->run.waiting = 0;
    /* 1. memory. Of the queries that the workspace holds, 2 D floats each, a quarter is for states at hand, which the
     * backend widens; the others wait for a walk, so many that the walks of a batch are of one size. */
    const int64_t all = rows * slf_probe_spaces(probe), fitting = slf_block_rows(context, 2 * basis->info.hidden);
    const int64_t quarter = SLF_MAX(fitting / 4, 1), chunk = SLF_MIN(rows, quarter);
    const int64_t room = SLF_MAX(fitting - chunk, 1), walks = (all + room - 1) / room;
    probe->run.chunk = chunk;
    probe->run.room = walks > 0 ? (all + walks - 1) / walks : 0;
    SLF_TRY(slf_block_pair_lay_out(&probe->blocks, context, lay_out_batch, probe));
    /* 2. labels and the rows of their targets; on a device all that follows is enqueued */
    for (int64_t r = 0, at = 0; r < n_rows; r++) {
        if (labels[r] == SALF_LABEL_IGNORE) continue;
        batch->labels[at] = labels[r];
        batch->kept[at++] = r;
    }
    SLF_TRY(prepare_targets(probe));
    memset(batch->observed, 0, (size_t)slf_probe_spaces(probe));
    batch->last_space = -1;
    batch->phase = SLF_BATCH_OPEN;
    return SALF_OK;
}

/* ---- end ---- */

/* Behind the last row of a datum, from its first, both as places in kept. A datum has fewer rows than it was given
 * where some are left out, and it may have none. */
static int64_t end_of_datum(const salf_probe *probe, int64_t datum, int64_t first) {
    const slf_probe_batch *batch = &probe->batch;
    const int64_t end = (datum + 1) * probe->options.rows_per_datum;
    while (first < batch->rows && batch->kept[first] < end) first++;
    return first;
}

/* The batch is over whatever the deviations are: with SALF_NONFINITE_ERROR a bad one fails the call, the trace is not
 * touched, and only a new begin can follow. */
salf_status salf_probe_end(salf_probe *probe, salf_trace *trace) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(probe, trace);
    const int64_t data = probe->batch.given / probe->options.rows_per_datum;
    const int32_t spaces = slf_probe_spaces(probe), m = spaces - 1;
    const slf_probe_results *results = &probe->results;
    double *deviations = results->deviations;
    SLF_TRY(slf_probe_check_complete(probe));
    SLF_TRY(slf_probe_await(probe));
    /* 1. the mean of each datum's rows, in place: row r is read for datum d <= r, and then never again. Gains are
     * differences of deviations, and so a datum's are the mean of its rows'. One without rows has 0 meanwhile. */
    for (int64_t d = 0, first = 0, end; d < data; d++, first = end) {
        end = end_of_datum(probe, d, first);
        for (int32_t space = 0; space < spaces; space++) {
            double sum = 0;
            for (int64_t i = first; i < end; i++) sum += deviations[probe->batch.kept[i] * spaces + space];
            deviations[d * spaces + space] = sum / (double)SLF_MAX(end - first, 1);
        }
    }
    SLF_TRY(salf_eof_from_deviations(m, data, deviations, probe->options.eof_rule, probe->options.nonfinite,
                                     results->gains, results->eof));
    /* 2. for how many the choice was not made: 0 unless the option says that they train fully. And those without rows,
     * which have no eof: they train nothing */
    int32_t nonfinite = 0;
    for (int64_t d = 0, first = 0, end; d < data; d++, first = end) {
        end = end_of_datum(probe, d, first);
        if (!slf_all_finite(deviations + d * spaces, spaces) && nonfinite < INT32_MAX) nonfinite++;
        if (end > first) continue;
        results->eof[d] = m;
        for (int32_t space = 0; space < spaces; space++) deviations[d * spaces + space] = (double)NAN;
        for (int32_t k = 0; k < m; k++) results->gains[d * m + k] = (double)NAN;
    }
    *trace = (salf_trace){.rows = data,
                          .n_layers = m,
                          .n_nonfinite = nonfinite,
                          .deviations = deviations,
                          .gains = results->gains,
                          .eof = results->eof};
    return SALF_OK;
}

/* For a look in between: spaces that were not observed are NaN, and there is no choice of a layer. Ends the batch
 * too. */
salf_status salf_probe_partial(salf_probe *probe, salf_trace *trace) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(probe, trace);
    if (probe->batch.phase == SLF_BATCH_NONE) return SLF_FAIL(SALF_E_SEQUENCE, "no batch has begun");
    SLF_TRY(slf_probe_await(probe));
    *trace = (salf_trace){
        .rows = probe->batch.given, .n_layers = probe->options.n_layers, .deviations = probe->results.deviations};
    return SALF_OK;
}
