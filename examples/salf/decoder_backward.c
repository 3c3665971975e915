/*
 * decoder_backward.c - gradients, with every sequence's own depth: the order of rows, the way down through the layers,
 * and its two ends.
 *
 * A layer runs block by block (decoder_internal.h), of neighbours in the order of eof; only the stream's gradient is
 * held for all rows. In the last layer the forward went on behind the attention at the head rows only (its tail), and
 * so does the way back: there the stream's gradient lies in compact head rows.
 *
 * Cost of a layer with t active rows: 2 t operations a matrix weight for the activations' gradient, the same again for
 * the weights' (LoRA: rank (in + out) in place of in * out); the lowest layer that trains passes nothing down.
 */
#include "decoder_backward.h"

#include <string.h>

static int32_t eof_of(const backward *b, int64_t sequence) {
    return b->plan->eof ? b->plan->eof[sequence] : 0;
}

/* ---- order ---- */

/* Sequences by their eof, the compact rows that follow, and where each sequence's attention weights are. */
static void order_rows(backward *b) {
    const decoder_batch *batch = &b->d->batch;
    const int64_t n = batch->n_sequences, rows = batch->offsets[n];
    /* 1. the index arrays share the decoder's block; decoder_room.c counts them */
    b->sequence = b->d->order;
    b->first = b->sequence + n;
    b->square = b->first + n + 1;
    b->sparse = b->square + n;
    b->row = b->sparse + n;
    b->compact = b->row + rows;
    b->head = b->compact + rows;
    b->head_row = b->head + batch->n_head_rows;
    b->head_of = b->head_row + batch->n_head_rows;
    b->head_end = b->head_of + batch->n_head_rows;
    b->n_active = n;
    /* 2. a stable sort; a counting sort would need memory for m counters, and depths are few */
    int64_t placed = 0;
    for (int32_t depth = 0; depth <= b->d->config.n_layers; depth++) {
        for (int64_t s = 0; s < n; s++)
            if (eof_of(b, s) == depth) b->sequence[placed++] = s;
    }
    /* 3. compact rows */
    int64_t next = 0;
    b->shuffled = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t s = b->sequence[i];
        b->first[i] = next;
        b->shuffled |= s != i;
        for (int64_t r = batch->offsets[s]; r < batch->offsets[s + 1]; r++) {
            b->compact[r] = next;
            b->row[next++] = r;
        }
    }
    b->first[n] = next;
    /* 4. weights lie by sequence of the batch, [heads][queries][n] for each */
    int64_t square = 0, sparse = 0, h = 0;
    for (int64_t s = 0; s < n; s++) {
        const int64_t length = batch->offsets[s + 1] - batch->offsets[s], before = h;
        while (h < batch->n_head_rows && batch->head_rows[h] < batch->offsets[s + 1]) h++;
        b->square[s] = square;
        b->sparse[s] = sparse;
        square += length * length;
        sparse += length * (h - before);
    }
}

/* Compact head rows. Those of a sequence are neighbours in the batch's list, which ascends. */
static void order_heads(backward *b) {
    const decoder_batch *batch = &b->d->batch;
    int64_t *first = b->head_end + batch->n_sequences; /* [n_sequences] of each sequence of the batch, in its list */
    int64_t h = 0, n = 0;
    for (int64_t s = 0; s < batch->n_sequences; s++) {
        first[s] = h;
        while (h < batch->n_head_rows && batch->head_rows[h] < batch->offsets[s + 1]) h++;
    }
    for (int64_t i = 0; i < batch->n_sequences; i++) {
        const int64_t s = b->sequence[i];
        for (h = first[s]; h < batch->n_head_rows && batch->head_rows[h] < batch->offsets[s + 1]; h++) {
            b->head[n] = h;
            b->head_of[n] = batch->head_rows[h];
            b->head_row[n++] = b->compact[batch->head_rows[h]];
        }
        b->head_end[i] = n;
    }
}

/* Takes in hand the sequences with eof <= k, before the first of their blocks. */
static void activate(backward *b, int32_t k) {
    while (b->n_active > 0 && eof_of(b, b->sequence[b->n_active - 1]) > k) b->n_active--;
    b->heads_only = decoder_tail(b->d, k) != NULL;
    b->end = 0;
}

/* The next block of the active sequences: as many as fit, at least one. 0 when there is none. */
static int next_block(backward *b) {
    b->begin = b->end;
    if (b->begin >= b->n_active) return 0;
    b->at = b->first[b->begin];
    do {
        b->end++;
    } while (b->end < b->n_active && b->first[b->end + 1] - b->at <= BLOCK_ROWS);
    b->rows = b->first[b->end] - b->at;
    b->head_at = heads_before(b, b->begin);
    b->heads = heads_before(b, b->end) - b->head_at;
    b->tail_at = b->heads_only ? b->head_at : b->at;
    b->n_tail = b->heads_only ? b->heads : b->rows;
    return 1;
}

/* ---- ends ---- */

/* Through the final norm, into the tail of the active sequences. */
static void final_norm_backward(backward *b, const float *d_normed) {
    decoder *d = b->d;
    const int64_t hidden = d->config.hidden, heads = heads_before(b, b->n_active);
    ops_norm norm = d->final_norm;
    float *d_tail = b->heads_only ? d->scratch.tail : d->scratch.d_stream;
    if (!b->plan->train_head) norm.d_weight = norm.d_bias = NULL;
    if (norm.d_weight) decoder_touch(d, d->config.n_layers);
    memset(d_tail, 0, (size_t)((b->heads_only ? heads : b->first[b->n_active]) * hidden) * sizeof *d_tail);
    for (int64_t j = 0; j < heads; j++) {
        const int64_t i = b->head[j], to = b->heads_only ? j : b->head_row[j];
        ops_norm_backward(&norm, d->last + d->batch.head_rows[i] * hidden, d->final_moments + 2 * i, NULL, 1,
                          d_normed + i * hidden, d_tail + to * hidden);
    }
}

/* No eof may lie below what the forward kept. */
static salf_status check_plan(const backward *b) {
    const decoder *d = b->d;
    const int32_t m = d->config.n_layers;
    for (int64_t s = 0; s < d->batch.n_sequences; s++) {
        const int32_t eof = eof_of(b, s), cut = decoder_cut(d, s);
        if (eof < 0 || eof > m)
            return decoder_fail(SALF_E_ARGUMENT, "eof of sequence %lld is %d, not 0 ... %d", (long long)s, (int)eof,
                                (int)m);
        if (eof < cut)
            return decoder_fail(SALF_E_SEQUENCE, "eof of sequence %lld is %d, below its cut %d in the forward",
                                (long long)s, (int)eof, (int)cut);
    }
    return SALF_OK;
}

salf_status decoder_backward(decoder *d, const float *d_normed, const decoder_plan *plan) {
    static const decoder_plan everything = {NULL, NULL, 1, 1};
    const int32_t m = d->config.n_layers;
    const int64_t hidden = d->config.hidden;
    backward b = {.d = d, .plan = plan ? plan : &everything};
    if (d->inference) return decoder_fail(SALF_E_SEQUENCE, "the decoder was made for inference");
    if (!d->ready || !d->kept) return decoder_fail(SALF_E_SEQUENCE, "no forward pass was kept for this backward");
    const salf_status status = check_plan(&b);
    if (status) return status;
    order_rows(&b);
    order_heads(&b);
    activate(&b, m - 1);
    if (b.n_active == 0) return SALF_OK;
    /* The way ends below the lowest layer whose weights get a gradient from an active sequence, or at the embedding. */
    const int32_t shallowest = eof_of(&b, b.sequence[0]);
    const int into_embedding = b.plan->train_embedding && d->d_embedding && shallowest == 0;
    int32_t lowest = into_embedding ? 0 : shallowest;
    while (!into_embedding && lowest < m && !layer_trains(&b, lowest)) lowest++;
    final_norm_backward(&b, d_normed);
    for (int32_t k = m - 1; k >= lowest; k--) {
        activate(&b, k);
        if (layer_trains(&b, k)) decoder_touch(d, k);
        while (next_block(&b)) {
            backward_block(&b, k, k == lowest && !into_embedding);
        }
    }
    if (!into_embedding) return SALF_OK;
    activate(&b, 0);
    decoder_touch(d, DECODER_EMBEDDING);
    for (int64_t i = 0; i < b.first[b.n_active]; i++)
        ops_add_scaled(d->d_embedding + d->batch.tokens[b.row[i]] * hidden, d->scratch.d_stream + i * hidden,
                       (float)d->config.embedding_scale, hidden);
    return SALF_OK;
}
