/*
 * batch.c - a batch of the probe: its memory, its beginning and its end.
 *
 * On a device everything up to the end is enqueued on the host's stream; end waits for the event behind the one copy of
 * results, not for what the host enqueued since.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

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
    const int32_t sums = probe->metric->sums;
    batch->labels = slf_carve(host, probe->vocabulary ? all : rows, sizeof *batch->labels);
    batch->row_of = slf_carve(host, rows, sizeof *batch->row_of);
    batch->device_row_of = slf_carve(device, rows, sizeof *batch->device_row_of);
    if (probe->vocabulary) {
        const slf_score_rule *rule = &probe->vocabulary->rule;
        run->labels = slf_carve(device, all, sizeof *run->labels);
        slf_score_run_lay_out(run, device, all, dim, sums, rule);
        if (sums & SLF_SUM_EXP) results->sum = slf_carve(host, all, sizeof *results->sum);
        if (sums & SLF_SUM_EXP && rule->logits) results->maximum = slf_carve(host, all, sizeof *results->maximum);
        if (sums & SLF_SUM_COUNT) results->count = slf_carve(host, all, sizeof *results->count);
        salf_tensor view;
        const float *bias;
        /* rows of the head for the labels' logits: a callback's, or host memory under a device */
        if (rule->logits && !slf_vocabulary_rows(probe->vocabulary, &view, &bias)) {
            batch->fetched_labels = slf_carve(host, rows, sizeof *batch->fetched_labels);
            batch->fetched = slf_carve(host, rows * (dim + 1), sizeof *batch->fetched);
            batch->device_fetched = slf_carve(device, rows * (dim + 1), sizeof *batch->device_fetched);
        }
    } else {
        run->target = slf_carve(device, all, sizeof *run->target);
    }
    results->target = slf_carve(host, all, sizeof *results->target);
    results->deviations = slf_carve(host, all, sizeof *results->deviations);
    results->gains = slf_carve(host, all, sizeof *results->gains);
    results->eof = slf_carve(host, rows, sizeof *results->eof);
}

/* ---- begin ---- */

/* The rows that the targets are scores of, and which of them each label has. */
static salf_status prepare_targets(salf_probe *probe) {
    slf_probe_batch *batch = &probe->batch;
    slf_target_rows *targets = &batch->targets;
    const salf_context *context = probe->context;
    const int64_t rows = batch->rows, dim = probe->basis->info.hidden;
    *targets = (slf_target_rows){.row_of = batch->device_row_of};
    /* 1. basis rows, solved here where the basis does not hold them */
    if (!probe->vocabulary || !probe->vocabulary->rule.logits) {
        SLF_TRY(slf_label_set_prepare(&batch->set, probe->basis, batch->labels, rows, batch->row_of));
        const slf_label_rows *used = batch->set.used;
        targets->norms = used->norms;
        targets->rows = slf_tensor_device(context, used->rows, SALF_F32, used->n, dim);
        return SALF_OK;
    }
    /* 2. with logits rows of the head, by token or among the candidates, where they lie in the backend's memory. All
     * labels are there, as begin has checked. */
    if (rows == 0) return SALF_OK;
    const int32_t *candidates = probe->vocabulary->candidates;
    if (slf_vocabulary_rows(probe->vocabulary, &targets->rows, &targets->bias)) {
        for (int64_t r = 0; r < rows; r++) {
            const int32_t label = batch->labels[r];
            batch->row_of[r] = candidates ? (int32_t)slf_label_find(candidates, probe->vocabulary->n, label) : label;
        }
        return SALF_OK;
    }
    /* 3. or fetched, n D numbers once a batch, and biases behind them. Their copy on the host is left alone until the
     * batch has ended or is dropped, which waits for the upload. */
    const salf_model *model = probe->basis->model;
    memcpy(batch->fetched_labels, batch->labels, (size_t)rows * sizeof *batch->labels);
    const int64_t n = slf_labels_sort(batch->fetched_labels, rows);
    float *bias = batch->fetched + n * dim;
    SLF_TRY(slf_matrix_fetch(context, &model->head, batch->fetched_labels, n, batch->fetched));
    for (int64_t i = 0; i < n; i++) bias[i] = model->logit_bias ? model->logit_bias[batch->fetched_labels[i]] : 0;
    for (int64_t r = 0; r < rows; r++)
        batch->row_of[r] = (int32_t)slf_label_find(batch->fetched_labels, n, batch->labels[r]);
    targets->rows = slf_tensor_device(context, batch->device_fetched, SALF_F32, n, dim);
    targets->bias = batch->device_fetched + n * dim;
    return slf_upload(context, batch->device_fetched, batch->fetched,
                      (uint64_t)(n * (dim + 1)) * sizeof *batch->fetched);
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
    if (n_rows < 0) return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " rows", n_rows);
    if (n_rows > 0) SLF_REQUIRE(labels);
    if (n_rows > INT64_MAX / 1024 / slf_probe_spaces(probe)) /* products of rows, spaces and bytes fit 63 bits */
        return SLF_FAIL(SALF_E_OVERFLOW, "%" PRId64 " rows", n_rows);
    /* All labels are looked at before the batch that may be open is touched. */
    for (int64_t r = 0; r < n_rows; r++) {
        SLF_TRY(slf_label_check(labels[r], basis->info.vocab, basis->padded_vocab));
        if (probe->vocabulary) SLF_TRY(slf_vocabulary_check(probe->vocabulary, labels[r]));
    }
    /* A batch that is dropped: its copies read the arrays that are filled here. */
    if (batch->phase != SLF_BATCH_NONE) SLF_TRY(slf_sync(context));
    batch->phase = SLF_BATCH_NONE;
    batch->rows = n_rows;
    probe->run.waiting = 0;
    /* 1. memory. Of the queries that the workspace holds, 2 D floats each, a quarter is for states at hand, which the
     * backend widens; the others wait for a walk, so many that the walks of a batch are of one size. */
    const int64_t all = n_rows * slf_probe_spaces(probe), fitting = slf_block_rows(context, 2 * basis->info.hidden);
    const int64_t quarter = SLF_MAX(fitting / 4, 1), chunk = SLF_MIN(n_rows, quarter);
    const int64_t room = SLF_MAX(fitting - chunk, 1), walks = (all + room - 1) / room;
    probe->run.chunk = chunk;
    probe->run.room = walks > 0 ? (all + walks - 1) / walks : 0;
    SLF_TRY(slf_block_pair_lay_out(&probe->blocks, context, lay_out_batch, probe));
    /* 2. labels and the rows of their targets; on a device all that follows is enqueued */
    /* A walk reads a query's label by entry, and entries run over spaces: so labels are there once for each space. */
    const uint64_t bytes = (uint64_t)n_rows * sizeof *labels;
    const int32_t copies = probe->vocabulary ? slf_probe_spaces(probe) : 1;
    for (int32_t space = 0; space < copies && n_rows > 0; space++)
        memcpy(batch->labels + space * n_rows, labels, bytes);
    SLF_TRY(prepare_targets(probe));
    SLF_TRY(slf_upload(context, batch->device_row_of, batch->row_of, bytes));
    if (probe->vocabulary) SLF_TRY(slf_upload(context, probe->run.labels, batch->labels, (uint64_t)copies * bytes));
    memset(batch->observed, 0, (size_t)slf_probe_spaces(probe));
    batch->last_space = -1;
    batch->phase = SLF_BATCH_OPEN;
    return SALF_OK;
}

/* ---- end ---- */

/* The batch is over whatever the deviations are: with SALF_NONFINITE_ERROR a bad one fails the call, the trace is not
 * touched, and only a new begin can follow. */
salf_status salf_probe_end(salf_probe *probe, salf_trace *trace) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(probe, trace);
    const int64_t rows = probe->batch.rows;
    const int32_t spaces = slf_probe_spaces(probe);
    slf_probe_results *results = &probe->results;
    SLF_TRY(slf_probe_check_complete(probe));
    SLF_TRY(slf_probe_await(probe));
    SLF_TRY(salf_eof_from_deviations(spaces - 1, rows, results->deviations, probe->options.eof_rule,
                                     probe->options.nonfinite, results->gains, results->eof));
    /* How many rows the choice was not made for; 0 unless the option says that they train fully. */
    int32_t nonfinite = 0;
    for (int64_t r = 0; r < rows; r++) {
        bool finite = true;
        for (int32_t space = 0; space < spaces; space++)
            finite = finite && isfinite(results->deviations[r * spaces + space]);
        if (!finite && nonfinite < INT32_MAX) nonfinite++;
    }
    *trace = (salf_trace){.rows = rows,
                          .n_layers = spaces - 1,
                          .n_nonfinite = nonfinite,
                          .deviations = results->deviations,
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
        .rows = probe->batch.rows, .n_layers = probe->options.n_layers, .deviations = probe->results.deviations};
    return SALF_OK;
}
