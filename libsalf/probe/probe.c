/*
 * probe.c - deviation probe (paper 3.1 to 3.3, Algorithms 1 to 3): options and life.
 *
 * A batch goes begin (batch.c), observe for each space (observe.c), end (batch.c); on a device flush, replay and poll
 * (replay.c) take the waiting out of it. The choice of the layer is in eof.c. Memory: a few numbers a row and space,
 * and for metrics over the vocabulary as many queries z [D] as the workspace holds.
 */
#include <inttypes.h>

#include "probe/probe.h"

/* Everything that can be wrong with the options shows here, also in candidates, which the vocabulary checks. Memory of
 * batches is taken when one begins, since its size is not known before. */
salf_status salf_probe_create(salf_probe **out, salf_basis *basis, const salf_probe_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(basis);
    const salf_model *model = basis->model; /* NULL for a basis from a file or builder alone: no norm, no logits */
    salf_context *context = basis->context;
    salf_probe *probe;
    salf_status status;
    /* 1. options. A model's number of layers serves where they name none; without a model the host has to. */
    SLF_OPTIONS(salf_probe_options, own, options);
    SLF_TRY(slf_check_word("metric", "SALF_METRIC", own.metric));
    SLF_TRY(slf_check_word("lens", "SALF_LENS", own.lens));
    SLF_TRY(slf_check_word("scores", "SALF_SCORE", own.scores));
    SLF_TRY(slf_check_word("eof_rule", "SALF_EOF", own.eof_rule));
    SLF_TRY(slf_check_word("nonfinite", "SALF_NONFINITE", own.nonfinite));
    SLF_TRY(slf_temperature_read(&own.temperature));
    const slf_metric *metric = slf_metric_of(own.metric);
    if (!metric) /* a word of salf.h without a row in observe.c: somebody is adding a metric */
        return slf_fail(SALF_E_UNSUPPORTED, "metric %" PRId32 " has no formula in the probe", own.metric);
    if (own.n_layers == 0 && model) own.n_layers = model->info.n_layers;
    if (own.n_layers < 1)
        return slf_fail(SALF_E_ARGUMENT, "n_layers of the probe is %" PRId32 "%s", own.n_layers,
                        model ? "" : " and the basis has no model at hand");
    if (model && own.n_layers != model->info.n_layers)
        return slf_fail(SALF_E_SHAPE, "n_layers of the probe is %" PRId32 ", the model's is %" PRId32, own.n_layers,
                        model->info.n_layers);
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(&own, rows_per_datum, 0, INT32_MAX)));
    if (own.rows_per_datum == 0) own.rows_per_datum = 1;
    if (own.n_layers > INT32_MAX / 2) return slf_fail(SALF_E_OVERFLOW, "a probe of %" PRId32 " layers", own.n_layers);
    SLF_TRY(SLF_ALLOC_ZERO(context, probe, 1));
    probe->context = context;
    probe->basis = SLF_RETAIN(basis);
    probe->options = own;
    probe->options.candidates = NULL; /* the caller's; the vocabulary has a copy */
    probe->metric = metric;
    SLF_DO(SLF_ALLOC_ZERO(context, probe->batch.observed, slf_probe_spaces(probe)));
    /* 2. a place for the final norm [D] in the backend; its numbers come with the first batch */
    const int32_t kind = model ? model->info.norm_kind : SALF_NORM_NONE;
    if (kind != SALF_NORM_NONE) {
        const int64_t dim = model->info.hidden;
        SLF_DO(SLF_DEVICE_ALLOC(context, probe->norm_vectors, 2 * dim));
        probe->norm = (slf_norm){.kind = kind == SALF_NORM_LAYER ? SALF_NORM_LAYER : SALF_NORM_RMS,
                                 .eps = (float)model->info.norm_eps,
                                 .weight = model->norm_weight ? probe->norm_vectors : NULL,
                                 .bias = model->norm_bias ? probe->norm_vectors + dim : NULL};
    }
    probe->followed = -1;
    /* 3. what the metric compares with, by a vocabulary that the probe owns: candidates and temperature are its own */
    if (probe->metric->vocabulary)
        SLF_DO(slf_vocabulary_create(&probe->vocabulary, basis, own.candidates, own.n_candidates, own.scores,
                                     own.temperature));
    SLF_DO(slf_probe_follow(probe));
    *out = probe;
    return SALF_OK;
done:
    salf_probe_destroy(probe);
    return status;
}

/* Addresses stay, so that a captured graph follows too; it waits, once an update. RMS1P is folded into the model's
 * weight. */
salf_status slf_probe_follow(salf_probe *probe) {
    const salf_model *model = probe->basis->model;
    const salf_context *context = probe->context;
    const int64_t version = model ? model->version : 0;
    if (probe->followed == version) return SALF_OK;
    if (probe->norm.weight || probe->norm.bias) {
        const int64_t dim = model->info.hidden;
        const uint64_t bytes = (uint64_t)dim * sizeof(float);
        if (probe->norm.weight) SLF_TRY(slf_upload(context, probe->norm_vectors, model->norm_weight, bytes));
        if (probe->norm.bias) SLF_TRY(slf_upload(context, probe->norm_vectors + dim, model->norm_bias, bytes));
        SLF_TRY(slf_sync(context));
    }
    if (probe->vocabulary && probe->followed >= 0) SLF_TRY(slf_vocabulary_follow(probe->vocabulary));
    probe->followed = version;
    return SALF_OK;
}

/* A trace that end gave dies with the probe. On a device, what is still enqueued may finish: frees wait where they
 * must. Also of one that is half made. */
void salf_probe_destroy(salf_probe *probe) {
    if (!probe) return;
    salf_context *context = probe->context;
    salf_basis *basis = probe->basis;
    slf_vocabulary_destroy(probe->vocabulary);
    slf_device_free(context, probe->norm_vectors);
    slf_free(context, probe->batch.observed);
    slf_label_rows_free(context, &probe->batch.set.own);
    slf_block_pair_free(&probe->blocks, context);
    slf_backend_free(context, SLF_EVENT, probe->done);
    slf_free(context, probe);
    salf_basis_destroy(basis); /* holds the context */
}
