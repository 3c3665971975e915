/*
 * probe.c - deviation probe (paper 3.1 to 3.3, Algorithms 1 to 3): begin, observe the spaces, end.
 *
 * Memory: a few numbers per row and space, and for ce and rank as many queries z as the workspace holds. The
 * numbers are made in observe.c; the choice of the layer in eof.c. On a device everything up to flush is enqueued
 * on the host's stream; end waits for the event behind the one copy of results, not for what the host enqueued since.
 */
#include <math.h>
#include <string.h>

#include "probe/probe.h"

/* ---- options ---- */

static salf_status check_choice(int32_t value, int32_t last, const char *field) {
    if (value >= 0 && value <= last) return SALF_OK;
    return slf_fail(SALF_E_ARGUMENT, "salf_probe_create: %s %d is unknown", field, (int)value);
}

static salf_status check_layers(salf_probe_options *options, const salf_model *model) {
    if (options->n_layers == 0 && model) options->n_layers = model->info.n_layers;
    if (options->n_layers < 1)
        return slf_fail(SALF_E_ARGUMENT, "salf_probe_create: n_layers is %d%s", (int)options->n_layers,
                        model ? "" : " and the basis has no model at hand");
    if (model && options->n_layers != model->info.n_layers)
        return slf_fail(SALF_E_SHAPE, "salf_probe_create: n_layers is %d, the model's is %d", (int)options->n_layers,
                        (int)model->info.n_layers);
    if (options->n_layers > INT32_MAX / 2)
        return slf_fail(SALF_E_OVERFLOW, "salf_probe_create: %d layers", (int)options->n_layers);
    return SALF_OK;
}

static salf_status read_options(salf_probe_options *own, const salf_probe_options *theirs, const salf_basis *basis) {
    SLF_TRY(slf_options_read(own, sizeof *own, theirs, "salf_probe_options"));
    SLF_TRY(check_choice(own->metric, SALF_METRIC_RANK, "metric"));
    SLF_TRY(check_choice(own->lens, SALF_LENS_RAW, "lens"));
    SLF_TRY(check_choice(own->scores, SALF_SCORE_LOGITS, "scores"));
    SLF_TRY(check_choice(own->eof_rule, SALF_EOF_MOST_DEVIATION, "eof_rule"));
    SLF_TRY(check_choice(own->nonfinite, SALF_NONFINITE_TRAIN_FULLY, "nonfinite"));
    if (own->temperature == 0) own->temperature = 1;
    if (!(own->temperature > 0) || isinf(own->temperature))
        return slf_fail(SALF_E_ARGUMENT, "salf_probe_create: temperature is %g, not a finite number above 0",
                        own->temperature);
    return check_layers(own, basis->model);
}

/* ---- life ---- */

static salf_status upload_vector(const salf_context *context, const float *from, int64_t n, float **out) {
    void *memory;
    if (!from) return SALF_OK;
    SLF_TRY(slf_device_copy_of(context, from, (uint64_t)n, sizeof *from, &memory));
    *out = memory;
    return slf_sync(context);
}

/* RMS1P is folded into the model's norm_weight. */
static salf_status take_norm(salf_probe *probe, const salf_model *model) {
    if (!model || model->info.norm_kind == SALF_NORM_NONE) return SALF_OK;
    SLF_TRY(upload_vector(probe->context, model->norm_weight, model->info.hidden, &probe->norm_weight));
    SLF_TRY(upload_vector(probe->context, model->norm_bias, model->info.hidden, &probe->norm_bias));
    probe->norm = (slf_norm){.kind = model->info.norm_kind == SALF_NORM_LAYER ? SALF_NORM_LAYER : SALF_NORM_RMS,
                             .eps = (float)model->info.norm_eps,
                             .weight = probe->norm_weight,
                             .bias = probe->norm_bias};
    return SALF_OK;
}

static salf_status fill(salf_probe *probe) {
    const salf_probe_options *options = &probe->options;
    SLF_TRY(take_norm(probe, probe->basis->model));
    probe->observed = slf_alloc_zero(probe->context, (uint64_t)options->n_layers + 1, 1);
    if (!probe->observed) return SALF_E_NO_MEMORY;
    if (options->metric == SALF_METRIC_COSINE) return SALF_OK;
    return slf_vocabulary_create(&probe->vocabulary, probe->basis, options->candidates, options->n_candidates,
                                 options->scores, options->temperature, "salf_probe_create");
}

salf_status salf_probe_create(salf_probe **out, salf_basis *basis, const salf_probe_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(basis);
    salf_probe_options own;
    SLF_TRY(read_options(&own, options, basis));
    salf_probe *probe = slf_alloc_zero(basis->context, 1, sizeof *probe);
    if (!probe) return SALF_E_NO_MEMORY;
    probe->context = basis->context;
    probe->basis = slf_basis_retain(basis);
    probe->options = own;
    const salf_status status = fill(probe);
    probe->options.candidates = NULL; /* the caller's; the vocabulary has a copy */
    if (status != SALF_OK)
        salf_probe_destroy(probe);
    else
        *out = probe;
    return status;
}

void salf_probe_destroy(salf_probe *probe) {
    if (!probe) return;
    salf_context *context = probe->context;
    salf_basis *basis = probe->basis;
    slf_vocabulary_destroy(probe->vocabulary);
    slf_device_free(context, probe->norm_weight);
    slf_device_free(context, probe->norm_bias);
    slf_free(context, probe->observed);
    slf_label_set_free(context, &probe->set);
    slf_logit_rows_free(context, &probe->logit_rows);
    slf_device_free(context, probe->device_block);
    slf_pinned_free(context, probe->host_block);
    slf_event_free(context, probe->done);
    slf_free(context, probe);
    salf_basis_destroy(basis); /* holds the context */
}

/* ---- memory of a batch: one block on each side, grown when a batch needs more ---- */

/* Hands out parts of a block; with base NULL it only measures. */
typedef struct {
    char *base;
    uint64_t used;
} carver;

static void *carve(carver *block, int64_t count, uint64_t size) {
    void *part = block->base ? block->base + block->used : NULL;
    block->used += ((uint64_t)count * size + 63) / 64 * 64;
    return part;
}

static void lay_out_device(salf_probe *probe, carver *block) {
    const int32_t metric = probe->options.metric;
    const bool logits = metric != SALF_METRIC_COSINE && probe->options.scores == SALF_SCORE_LOGITS;
    const int64_t rows = probe->rows, all = rows * (probe->options.n_layers + 1);
    const int64_t dim = probe->basis->info.hidden;
    probe->device_which = carve(block, rows, sizeof(int32_t));
    if (metric == SALF_METRIC_COSINE) {
        probe->distances = carve(block, all, sizeof(double));
        return;
    }
    probe->device_labels = carve(block, all, sizeof(int32_t));
    probe->target = carve(block, all, sizeof(double));
    probe->z = carve(block, probe->room * dim, sizeof(double));
    probe->needs_f64 = carve(block, probe->room, sizeof(int32_t));
    if (metric == SALF_METRIC_CE) probe->sum = carve(block, all, sizeof(double));
    if (metric == SALF_METRIC_CE && logits) probe->maximum = carve(block, all, sizeof(double));
    if (metric == SALF_METRIC_RANK) probe->count = carve(block, all, sizeof(int64_t));
}

/* Labels as rows and spaces have them, or as a batch has them where no vocabulary is walked. */
static int64_t label_count(const salf_probe *probe) {
    return probe->vocabulary ? probe->rows * (probe->options.n_layers + 1) : probe->rows;
}

static void lay_out_host(salf_probe *probe, carver *block) {
    const int64_t rows = probe->rows, all = rows * (probe->options.n_layers + 1);
    probe->labels = carve(block, label_count(probe), sizeof(int32_t));
    probe->which = carve(block, rows, sizeof(int32_t));
    probe->eof = carve(block, rows, sizeof(int32_t));
    probe->deviations = carve(block, all, sizeof(double));
    probe->gains = carve(block, all, sizeof(double));
    if (probe->options.metric == SALF_METRIC_COSINE) return;
    probe->host_target = carve(block, all, sizeof(double));
    probe->host_sum = carve(block, all, sizeof(double));
    probe->host_maximum = carve(block, all, sizeof(double));
    probe->host_count = carve(block, all, sizeof(int64_t));
}

/* Blocks of at least these sizes; what they held is gone. */
static salf_status grow(salf_probe *probe, uint64_t device_bytes, uint64_t host_bytes) {
    if (device_bytes > probe->device_bytes) {
        slf_device_free(probe->context, probe->device_block);
        probe->device_block = NULL;
        probe->device_bytes = 0;
        SLF_TRY(slf_device_alloc(probe->context, device_bytes, 1, &probe->device_block));
        probe->device_bytes = device_bytes;
    }
    if (host_bytes > probe->host_bytes) {
        slf_pinned_free(probe->context, probe->host_block);
        probe->host_block = NULL;
        probe->host_bytes = 0;
        SLF_TRY(slf_pinned_alloc(probe->context, host_bytes, 1, &probe->host_block));
        probe->host_bytes = host_bytes;
    }
    return SALF_OK;
}

/* Queries that a quarter of the workspace holds: a part of them as states at hand, the others waiting, so many that
 * the walks of a batch are of one size. */
static void choose_room(salf_probe *probe) {
    const int64_t fitting = slf_block_rows(probe->context, 2 * probe->basis->info.hidden);
    const int64_t all = probe->rows * (probe->options.n_layers + 1), most = fitting / 4 > 0 ? fitting / 4 : 1;
    probe->chunk = probe->rows < most ? probe->rows : most;
    const int64_t room = fitting - probe->chunk > 0 ? fitting - probe->chunk : 1, walks = (all + room - 1) / room;
    probe->room = walks > 0 ? (all + walks - 1) / walks : 0;
}

static salf_status make_room(salf_probe *probe, int64_t rows) {
    carver device = {0}, host = {0};
    probe->rows = rows;
    choose_room(probe);
    lay_out_device(probe, &device);
    lay_out_host(probe, &host);
    SLF_TRY(grow(probe, device.used, host.used));
    device = (carver){.base = probe->device_block};
    host = (carver){.base = probe->host_block};
    lay_out_device(probe, &device);
    lay_out_host(probe, &host);
    return SALF_OK;
}

/* ---- begin ---- */

static salf_status check_labels(const salf_probe *probe, const int32_t *labels, int64_t rows) {
    const salf_basis *basis = probe->basis;
    for (int64_t r = 0; r < rows; r++) {
        SLF_TRY(slf_label_check(labels[r], basis->info.vocab, basis->padded_vocab, "salf_probe_begin"));
        if (probe->vocabulary) SLF_TRY(slf_vocabulary_check(probe->vocabulary, labels[r], "salf_probe_begin"));
    }
    return SALF_OK;
}

static salf_status begin(salf_probe *probe, const int32_t *labels, int64_t n_rows) {
    const bool logits = probe->vocabulary && slf_vocabulary_rule(probe->vocabulary)->logits;
    if (probe->state != SLF_BATCH_NONE) /* a batch that is dropped: its copies read the arrays filled here */
        SLF_TRY(slf_sync(probe->context));
    probe->state = SLF_BATCH_NONE;
    probe->waiting = 0;
    SLF_TRY(make_room(probe, n_rows));
    for (int64_t at = 0; at < label_count(probe); at += n_rows)
        memcpy(probe->labels + at, labels, (size_t)n_rows * sizeof *labels);
    if (logits)
        SLF_TRY(slf_probe_logit_rows(probe));
    else
        SLF_TRY(slf_label_set_prepare(&probe->set, probe->basis, labels, n_rows, probe->which, "salf_probe_begin"));
    const uint64_t size = sizeof(int32_t);
    if (probe->vocabulary)
        SLF_TRY(slf_upload(probe->context, probe->device_labels, probe->labels, (uint64_t)label_count(probe) * size));
    return slf_upload(probe->context, probe->device_which, probe->which, (uint64_t)n_rows * size);
}

salf_status salf_probe_begin(salf_probe *probe, const int32_t *labels, int64_t n_rows) {
    SLF_REQUIRE(probe);
    if (n_rows < 0) return slf_fail(SALF_E_ARGUMENT, "salf_probe_begin: %lld rows", (long long)n_rows);
    if (n_rows > 0) SLF_REQUIRE(labels);
    if (n_rows > INT64_MAX / 1024 / (probe->options.n_layers + 1))
        return slf_fail(SALF_E_OVERFLOW, "salf_probe_begin: %lld rows", (long long)n_rows);
    SLF_TRY(check_labels(probe, labels, n_rows));
    SLF_TRY(begin(probe, labels, n_rows));
    memset(probe->observed, 0, (size_t)probe->options.n_layers + 1);
    probe->last_space = -1;
    probe->state = SLF_BATCH_OPEN;
    return SALF_OK;
}

/* ---- observe ---- */

static bool lens_norms(const salf_probe *probe, int32_t space) {
    if (probe->options.lens == SALF_LENS_NORMED) return true;
    return probe->options.lens == SALF_LENS_HF && space == probe->options.n_layers;
}

/* The norm to apply here, or NULL for none. */
static salf_status choose_norm(const salf_probe *probe, int32_t space, int32_t state_kind, const slf_norm **norm) {
    const bool wanted = lens_norms(probe, space);
    *norm = NULL;
    if (state_kind != SALF_STATE_RAW && state_kind != SALF_STATE_NORMED)
        return slf_fail(SALF_E_ARGUMENT, "salf_probe_observe: state_kind %d is none of SALF_STATE_*", (int)state_kind);
    if (state_kind == SALF_STATE_NORMED && !wanted)
        return slf_fail(SALF_E_ARGUMENT, "salf_probe_observe: space %d is given normed, but lens %d needs it raw",
                        (int)space, (int)probe->options.lens);
    if (state_kind == SALF_STATE_NORMED || !wanted) return SALF_OK;
    if (probe->norm.kind == SALF_NORM_NONE)
        return slf_fail(
            SALF_E_ARGUMENT,
            "salf_probe_observe: lens %d norms space %d, but %s; give the state normed or take the raw lens",
            (int)probe->options.lens, (int)space,
            probe->basis->model ? "the model was described without a final norm" : "there is no model at hand");
    *norm = &probe->norm;
    return SALF_OK;
}

static salf_status check_space(const salf_probe *probe, int32_t space) {
    if (probe->state == SLF_BATCH_NONE) return slf_fail(SALF_E_SEQUENCE, "salf_probe_observe: no batch has begun");
    if (probe->state == SLF_BATCH_FLUSHED)
        return slf_fail(SALF_E_SEQUENCE, "salf_probe_observe: space %d after salf_probe_flush", (int)space);
    if (space < 0 || space > probe->options.n_layers)
        return slf_fail(SALF_E_ARGUMENT, "salf_probe_observe: space %d is outside 0 ... %d", (int)space,
                        (int)probe->options.n_layers);
    if (space <= probe->last_space)
        return slf_fail(SALF_E_SEQUENCE, "salf_probe_observe: space %d after space %d", (int)space,
                        (int)probe->last_space);
    return SALF_OK;
}

salf_status salf_probe_observe(salf_probe *probe, int32_t space, const salf_tensor *states, int32_t state_kind) {
    SLF_REQUIRE(probe);
    SLF_REQUIRE(states);
    const slf_norm *norm;
    SLF_TRY(check_space(probe, space));
    SLF_TRY(slf_tensor_check(states, "salf_probe_observe: states", probe->rows, probe->basis->info.hidden,
                             slf_device_readable(probe->context)));
    SLF_TRY(choose_norm(probe, space, state_kind, &norm));
    if (probe->rows > 0) SLF_TRY(slf_probe_reduce(probe, space, states, norm));
    probe->observed[space] = 1;
    probe->last_space = space;
    return SALF_OK;
}

/* ---- end ---- */

static salf_status check_complete(const salf_probe *probe, const char *who) {
    if (probe->state == SLF_BATCH_NONE) return slf_fail(SALF_E_SEQUENCE, "%s: no batch has begun", who);
    for (int32_t space = 0; space <= probe->options.n_layers; space++)
        if (!probe->observed[space])
            return slf_fail(SALF_E_SEQUENCE, "%s: space %d of %d was not observed", who, (int)space,
                            (int)probe->options.n_layers + 1);
    return SALF_OK;
}

static salf_status flush(salf_probe *probe) {
    if (probe->state == SLF_BATCH_FLUSHED) return SALF_OK;
    SLF_TRY(slf_probe_collect(probe));
    SLF_TRY(probe->context->backend->mark(probe->context->impl, &probe->done));
    probe->state = SLF_BATCH_FLUSHED;
    return SALF_OK;
}

static salf_status collect_and_wait(salf_probe *probe) {
    SLF_TRY(flush(probe));
    SLF_TRY(probe->context->backend->wait(probe->context->impl, probe->done, NULL));
    slf_probe_deviations(probe);
    probe->state = SLF_BATCH_NONE;
    return SALF_OK;
}

static int32_t count_nonfinite(const salf_probe *probe) {
    const int32_t spaces = probe->options.n_layers + 1;
    int32_t count = 0;
    for (int64_t r = 0; r < probe->rows; r++) {
        bool finite = true;
        for (int32_t space = 0; space < spaces; space++)
            finite = finite && isfinite(probe->deviations[r * spaces + space]);
        if (!finite && count < INT32_MAX) count++;
    }
    return count;
}

salf_status salf_probe_end(salf_probe *probe, salf_trace *trace) {
    SLF_REQUIRE(probe);
    SLF_REQUIRE(trace);
    SLF_TRY(check_complete(probe, "salf_probe_end"));
    SLF_TRY(collect_and_wait(probe));
    SLF_TRY(salf_eof_from_deviations(probe->options.n_layers, probe->rows, probe->deviations, probe->options.eof_rule,
                                     probe->options.nonfinite, probe->gains, probe->eof));
    *trace = (salf_trace){.rows = probe->rows,
                          .n_layers = probe->options.n_layers,
                          .n_nonfinite = count_nonfinite(probe),
                          .deviations = probe->deviations,
                          .gains = probe->gains,
                          .eof = probe->eof};
    return SALF_OK;
}

/* ---- graphs: what is flushed may be replayed as long as it would touch the same memory ---- */

static slf_recording recording_of(const salf_probe *probe) {
    const bool logits = probe->vocabulary && slf_vocabulary_rule(probe->vocabulary)->logits;
    slf_recording recording = {
        .rows = probe->rows, .device_block = probe->device_block, .host_block = probe->host_block};
    recording.label_rows = logits ? probe->logit_rows.view.data : (const void *)probe->set.used->rows;
    recording.label_numbers = logits ? (const void *)probe->logit_rows.bias : (const void *)probe->set.used->norms;
    return recording;
}

static salf_status check_recording(const salf_probe *probe) {
    const slf_recording *was = &probe->recording, is = recording_of(probe);
    if (was->rows == 0) return slf_fail(SALF_E_SEQUENCE, "salf_probe_replay: no batch has been flushed before");
    if (was->rows != is.rows)
        return slf_fail(SALF_E_SEQUENCE, "salf_probe_replay: %lld rows, but %lld were captured", (long long)is.rows,
                        (long long)was->rows);
    if (was->device_block != is.device_block || was->host_block != is.host_block || was->label_rows != is.label_rows ||
        was->label_numbers != is.label_numbers)
        return slf_fail(SALF_E_SEQUENCE, "salf_probe_replay: a larger batch or new labels moved what was captured; "
                                         "capture again");
    return SALF_OK;
}

salf_status salf_probe_flush(salf_probe *probe) {
    SLF_REQUIRE(probe);
    SLF_TRY(check_complete(probe, "salf_probe_flush"));
    SLF_TRY(flush(probe));
    probe->recording = recording_of(probe);
    return SALF_OK;
}

salf_status salf_probe_replay(salf_probe *probe) {
    SLF_REQUIRE(probe);
    if (!slf_device_readable(probe->context))
        return slf_fail(SALF_E_UNSUPPORTED, "salf_probe_replay: the %s backend has no graphs",
                        probe->context->backend->name);
    if (probe->state != SLF_BATCH_OPEN || probe->last_space >= 0)
        return slf_fail(SALF_E_SEQUENCE, "salf_probe_replay: no batch has just begun");
    SLF_TRY(check_recording(probe));
    memset(probe->observed, 1, (size_t)probe->options.n_layers + 1);
    probe->last_space = probe->options.n_layers;
    probe->state = SLF_BATCH_FLUSHED;
    return SALF_OK;
}

salf_status salf_probe_poll(salf_probe *probe, int32_t *ready) {
    SLF_REQUIRE(probe);
    SLF_REQUIRE(ready);
    if (probe->state != SLF_BATCH_FLUSHED)
        return slf_fail(SALF_E_SEQUENCE, "salf_probe_poll: salf_probe_flush has not been called for a batch");
    return probe->context->backend->wait(probe->context->impl, probe->done, ready);
}

salf_status salf_probe_partial(salf_probe *probe, salf_trace *trace) {
    SLF_REQUIRE(probe);
    SLF_REQUIRE(trace);
    if (probe->state == SLF_BATCH_NONE) return slf_fail(SALF_E_SEQUENCE, "salf_probe_partial: no batch has begun");
    SLF_TRY(collect_and_wait(probe));
    *trace = (salf_trace){.rows = probe->rows, .n_layers = probe->options.n_layers, .deviations = probe->deviations};
    return SALF_OK;
}
