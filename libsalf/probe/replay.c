/*
 * replay.c - batches that nobody waits for: flush enqueues all that end would, poll asks whether it is done, and replay
 * takes the results of a graph that captured observe ... flush, as long as it touches the same memory.
 */
#include <inttypes.h>
#include <string.h>

#include "probe/probe.h"

/* All that a captured batch would touch and that a later one may have moved. The probe cannot see a capture: each flush
 * is taken for one, and replay compares with the last. */
static slf_recording recording_of(const salf_probe *probe) {
    return (slf_recording){.rows = probe->batch.rows,
                           .device_block = probe->blocks.device,
                           .host_block = probe->blocks.host,
                           .target_rows = probe->batch.target_rows,
                           .target_norms = probe->batch.target_norms};
}

/* Enqueues the rest of the batch; a host calls it before the backward, so that the results are there early. */
salf_status salf_probe_flush(salf_probe *probe) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(probe);
    SLF_TRY(slf_probe_check_complete(probe));
    SLF_TRY(slf_probe_collect(probe));
    probe->recording = probe->batch.index ? (slf_recording){0} : recording_of(probe);
    return SALF_OK;
}

/* Stands in the place of observe ... flush: the host launches its graph between begin, which uploads the labels, and
 * this, and then ends the batch as any other. Other labels are fine as long as the same rows hold them. */
salf_status salf_probe_replay(salf_probe *probe) {
    SLF_REQUIRE(probe);
    slf_probe_batch *batch = &probe->batch;
    const slf_recording *was = &probe->recording, is = recording_of(probe);
    if (!slf_device_readable(probe->context))
        return SLF_FAIL(SALF_E_UNSUPPORTED, "the %s backend has no graphs", probe->context->backend->name);
    if (batch->phase != SLF_BATCH_OPEN || batch->last_space >= 0)
        return SLF_FAIL(SALF_E_SEQUENCE, "no batch has just begun");
    if (batch->index) return SLF_FAIL(SALF_E_UNSUPPORTED, "labels to ignore: a graph has the rows that were captured");
    if (was->rows == 0) return SLF_FAIL(SALF_E_SEQUENCE, "no batch has been flushed before");
    if (was->rows != is.rows)
        return SLF_FAIL(SALF_E_SEQUENCE, "%" PRId64 " rows, but %" PRId64 " were captured", is.rows, was->rows);
    if (was->device_block != is.device_block || was->host_block != is.host_block ||
        was->target_rows != is.target_rows || was->target_norms != is.target_norms)
        return SLF_FAIL(SALF_E_SEQUENCE, "a larger batch or new labels moved what was captured; capture again");
    memset(batch->observed, 1, (size_t)slf_probe_spaces(probe));
    batch->last_space = probe->options.n_layers;
    batch->phase = SLF_BATCH_FLUSHED;
    return SALF_OK;
}

/* ready: end would not wait. Never waits itself. */
salf_status salf_probe_poll(salf_probe *probe, int32_t *ready) {
    SLF_REQUIRE(probe, ready);
    if (probe->batch.phase != SLF_BATCH_FLUSHED)
        return SLF_FAIL(SALF_E_SEQUENCE, "salf_probe_flush has not been called for a batch");
    return probe->context->backend->wait(probe->context->impl, probe->done, ready);
}
