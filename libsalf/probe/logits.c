/*
 * logits.c - where the logits of the right tokens come from: the rows of the head of a batch's labels.
 *
 * A head in the backend's memory is read where it lies, by token. Another one (a callback, host memory under a device)
 * is fetched: the rows [n][D] of the batch's labels and their biases, once a batch; n D numbers.
 */
#include <string.h>

#include "probe/probe.h"

/* Room for n labels on both sides; what was there is gone. */
static salf_status make_room(const salf_context *context, int64_t n, int64_t dim, slf_logit_rows *rows) {
    void *device;
    if (n <= rows->room) return SALF_OK;
    slf_logit_rows_free(context, rows);
    rows->labels = slf_alloc(context, (uint64_t)n, sizeof *rows->labels);
    rows->w = slf_alloc(context, (uint64_t)n * (uint64_t)(dim + 1), sizeof *rows->w);
    if (!rows->labels || !rows->w) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_device_alloc(context, (uint64_t)n * (uint64_t)(dim + 1), sizeof(float), &device));
    rows->device = device;
    rows->room = n;
    return SALF_OK;
}

void slf_logit_rows_free(const salf_context *context, slf_logit_rows *rows) {
    slf_free(context, rows->labels);
    slf_free(context, rows->w);
    slf_device_free(context, rows->device);
    memset(rows, 0, sizeof *rows);
}

/* Rows and, behind them, biases to the backend. Waits: the host's copy is used again. */
static salf_status upload(const salf_context *context, int64_t n, int64_t dim, const slf_logit_rows *rows) {
    SLF_TRY(slf_upload(context, rows->device, rows->w, (uint64_t)(n * (dim + 1)) * sizeof *rows->w));
    return slf_sync(context);
}

static salf_status fetch(salf_probe *probe) {
    const salf_basis *basis = probe->basis;
    const salf_context *context = probe->context;
    const int64_t dim = basis->info.hidden;
    slf_logit_rows *rows = &probe->logit_rows;
    SLF_TRY(make_room(context, probe->rows, dim, rows));
    memcpy(rows->labels, probe->labels, (size_t)probe->rows * sizeof *rows->labels);
    const int64_t n = slf_labels_sort(rows->labels, probe->rows);
    const float *bias = basis->model->logit_bias;
    SLF_TRY(slf_basis_fetch(basis, &basis->model->head, rows->labels, n, rows->w));
    for (int64_t i = 0; i < n; i++) rows->w[n * dim + i] = bias ? bias[rows->labels[i]] : 0;
    for (int64_t r = 0; r < probe->rows; r++)
        probe->which[r] = (int32_t)slf_label_find(rows->labels, n, probe->labels[r]);
    rows->view = slf_tensor_device(context, rows->device, SALF_F32, n, dim);
    rows->bias = rows->device + n * dim;
    return upload(context, n, dim, rows);
}

salf_status slf_probe_logit_rows(salf_probe *probe) {
    if (probe->rows == 0) return SALF_OK;
    if (!slf_vocabulary_rows(probe->vocabulary, &probe->logit_rows.view, &probe->logit_rows.bias)) return fetch(probe);
    for (int64_t r = 0; r < probe->rows; r++)
        probe->which[r] = slf_vocabulary_place(probe->vocabulary, probe->labels[r]);
    return SALF_OK;
}
