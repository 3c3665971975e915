/*
 * decoder_backward.c - gradients, with every sequence's own depth.
 *
 * Sequences are put in order of their eof; gradients of the residual stream lie in compact rows in that order, so that
 * the sequences on which layer k's backward runs (eof <= k) are a prefix that shrinks on the way down. What the forward
 * kept is read through the row of each compact row; only inputs of weight gradients are gathered, or computed again in
 * compact form. When the order is the batch's own nothing is gathered at all.
 *
 * A layer runs block by block (decoder_internal.h), of neighbours in that order; only the stream's gradient is held for
 * all rows. In the last layer the forward went on behind the attention at the head rows only (its tail), and so does
 * the way back: there the stream's gradient lies in compact head rows, which are spread over a block's rows once the
 * gradient of the attention has been taken. Queries have gradients at the head rows only, keys and values at all rows,
 * so that the projection that they share is taken in two parts.
 *
 * Cost of a layer with t active rows: 2 t operations a matrix weight for the activations' gradient, the same again for
 * the weights' (LoRA: rank (in + out) in place of in * out); the lowest layer that trains passes nothing down.
 */
#include <string.h>

#include "decoder_internal.h"
#include "ops.h"

/* One backward: the order of its rows, and of the layer and block at hand which of them take part. */
typedef struct backward {
    decoder *d;
    const decoder_plan *plan;
    int64_t *sequence; /* [n_sequences] by eof, stable */
    int64_t *first;    /* [n_sequences + 1] first compact row of each in that order */
    int64_t *square;   /* [n_sequences] of the batch's order: sum of n^2 over the sequences before */
    int64_t *sparse;   /* [n_sequences] the same of n times head rows */
    int64_t *row;      /* [T] row of the batch of each compact row */
    int64_t *compact;  /* [T] the inverse */
    int64_t *head;     /* [n_head_rows] index in the batch's head rows of each compact head row */
    int64_t *head_row; /* [n_head_rows] compact row of each compact head row, ascending */
    int64_t *head_of;  /* [n_head_rows] row of the batch of each compact head row */
    int64_t *head_end; /* [n_sequences] compact head rows of the sequences of that order up to each */
    int32_t shuffled;  /* 1: row is not the identity */
    int64_t n_active;  /* sequences of the layer at hand */

    /* of the block at hand, in compact rows */
    int64_t begin; /* its sequences of the order: begin ... end - 1 */
    int64_t end;
    int64_t at; /* first row */
    int64_t rows;
    int64_t head_at; /* first head row */
    int64_t heads;
    int32_t heads_only; /* 1: its tail are the head rows */
    int64_t tail_at;    /* its first row among all tails */
    int64_t n_tail;
} backward;

static int32_t eof_of(const backward *b, int64_t sequence) {
    return b->plan->eof ? b->plan->eof[sequence] : 0;
}

/* As the plan has it; whether its weights may train at all, the gradient pointers say. */
static int32_t layer_trains(const backward *b, int32_t k) {
    return !b->plan->trainable || b->plan->trainable[k];
}

/* Rows of the batch for the operations; NULL: they follow each other in what the forward kept, from kept_rows on, which
 * is quicker. */
static const int64_t *rows_of(const backward *b) {
    return b->shuffled ? b->row + b->at : NULL;
}

static const int64_t *tail_of(const backward *b) {
    return b->shuffled ? (b->heads_only ? b->head : b->row) + b->tail_at : NULL;
}

/* What rows_of, or tail_of, count from in x [.][width], an array of a record. */
static const float *kept_rows(const backward *b, const float *x, int64_t width) {
    return b->shuffled ? x : x + b->at * width;
}

static const float *kept_tail(const backward *b, const float *x, int64_t width) {
    return b->shuffled ? x : x + b->tail_at * width;
}

/* The stream's gradient at the block's tail. */
static float *tail_stream(const backward *b) {
    const decoder_scratch *s = &b->d->scratch;
    return (b->heads_only ? s->tail : s->d_stream) + b->tail_at * b->d->config.hidden;
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

/* Head rows of the first `sequences` of the order. */
static int64_t heads_before(const backward *b, int64_t sequences) {
    return sequences > 0 ? b->head_end[sequences - 1] : 0;
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

/* ---- one layer ---- */

/* Gradient of a projection's input, d_x [rows][in], overwritten; NULL: not needed. Leaves d_low [rows][n_adapters *
 * rank], the gradient of x A^T, in its scratch. */
static void input_backward(backward *b, const projection *p, int64_t rows, const float *d_y, float *d_x) {
    const int64_t low_width = (int64_t)p->n_adapters * p->rank;
    float *d_low = b->d->scratch.d_low;
    if (d_x) ops_gemm_nn(rows, p->in, p->out, 1.0f, d_y, p->y_stride, p->weight, p->in, 0.0f, d_x, p->in);
    for (int i = 0; i < p->n_adapters; i++) {
        const adapter *a = &p->adapters[i];
        ops_gemm_nn(rows, p->rank, a->count, p->scale, d_y + a->first, p->y_stride, a->b, p->rank, 0.0f,
                    d_low + i * p->rank, low_width);
    }
    if (d_x && p->n_adapters) {
        ops_gemm_nn(rows, p->in, low_width, 1.0f, d_low, low_width, p->a, p->in, 1.0f, d_x, p->in);
    }
}

/* Gradients of its weights, after input_backward: x [rows][in] its input and low = x A^T, in rows of low_stride. */
static void weights_backward(backward *b, const projection *p, int64_t rows, const float *x, const float *low,
                             const float *d_y) {
    const int64_t low_width = (int64_t)p->n_adapters * p->rank;
    if (p->d_weight) ops_gemm_tn(p->out, p->in, rows, 1.0f, d_y, p->y_stride, x, p->in, 1.0f, p->d_weight, p->in);
    if (p->d_bias) ops_column_sums(p->d_bias, d_y, p->y_stride, rows, p->out);
    for (int i = 0; i < p->n_adapters; i++) {
        const adapter *a = &p->adapters[i];
        ops_gemm_tn(a->count, p->rank, rows, p->scale, d_y + a->first, p->y_stride, low + p->low_first + i * p->rank,
                    p->low_stride, 1.0f, a->d_b, p->rank);
    }
    if (!p->n_adapters) return;
    ops_gemm_tn(low_width, p->in, rows, 1.0f, b->d->scratch.d_low, low_width, x, p->in, 1.0f, p->d_a, p->in);
}

/* The kept x A^T of the rows of a projection, `low` being where these count from (kept_rows, kept_tail). */
static const float *kept_low(backward *b, const projection *p, const float *low, const int64_t *row, int64_t rows) {
    if (!row || !p->n_adapters) return low;
    ops_gather(b->d->scratch.low, low, row, rows, p->low_stride);
    return b->d->scratch.low;
}

static const float *tail_low(backward *b, const projection *p, const float *low) {
    return kept_low(b, p, kept_tail(b, low, p->low_stride), tail_of(b), b->n_tail);
}

/* d_stream = gradient of the stream before the feed-forward part, from its gradient behind; with the hidden values h =
 * silu(gate) * up, and weights 1 those of down, gate, up and norm2:
 *     d_h = d_stream W_down;  d_gate, d_up from d_h;  d_stream += gradient of norm2 for d_gate W_gate + d_up W_up */
static void ffn_backward(backward *b, int32_t k, int32_t weights) {
    decoder *d = b->d;
    decoder_scratch *s = &d->scratch;
    const decoder_layer *layer = &d->layers[k];
    const layer_record *r = &d->records[k];
    const projection *down = &layer->projections[PROJECT_DOWN], *gate_up = &layer->projections[PROJECT_GATE_UP];
    const int64_t rows = b->n_tail, hidden = d->config.hidden, ffn = d->config.ffn_hidden, *tail = tail_of(b);
    const float *middle = kept_tail(b, r->middle, hidden), *scale2 = kept_tail(b, r->scale2, 1);
    float *d_stream = tail_stream(b);
    input_backward(b, down, rows, d_stream, s->d_hidden);
    ops_swiglu_backward(kept_tail(b, r->gate_up, 2 * ffn), tail, rows, ffn, s->d_hidden, s->d_gate_up, s->hidden);
    if (weights) weights_backward(b, down, rows, s->hidden, tail_low(b, down, r->low[PROJECT_DOWN]), d_stream);
    input_backward(b, gate_up, rows, s->d_gate_up, s->d_normed);
    if (weights) {
        ops_norm_apply(middle, scale2, tail, rows, hidden, layer->norm2, s->normed);
        weights_backward(b, gate_up, rows, s->normed, tail_low(b, gate_up, r->low[PROJECT_GATE_UP]), s->d_gate_up);
    }
    ops_norm_backward(middle, scale2, tail, rows, hidden, layer->norm2, s->d_normed, d_stream,
                      weights ? layer->d_norm2 : NULL);
}

/* Attention of the last layer over the n rows from `from` on, whose queries are the head rows of the order's sequence
 * i. Gradients of these go to d_query, those of keys and values to their places in d_qkv. */
static void sparse_attention_backward(backward *b, const ops_heads *shape, const layer_record *r, int64_t i,
                                      int64_t from, int64_t n, float *d_qkv) {
    decoder *d = b->d;
    const int64_t width = d->query_width + 2 * d->kv_width, queries = d->query_width;
    const int64_t first = heads_before(b, i), at = first - b->head_at;
    float *values = d->scratch.query + at * queries, *d_q = d->scratch.d_query + at * queries;
    const int64_t *position = d->batch.head_rows + (b->head_end[i] > first ? b->head[first] : 0);
    const ops_queries q = {b->head_end[i] - first, values, queries, position, from};
    for (int64_t j = 0; j < q.n; j++) {
        memcpy(values + j * queries, r->qkv + position[j] * width, (size_t)queries * sizeof *values);
    }
    ops_attention_backward(shape, n, r->qkv + from * width, &q, r->weights + b->sparse[b->sequence[i]] * shape->n_heads,
                           d->scratch.d_attention + at * queries, d_qkv, d_q, d->scratch.attention);
    for (int64_t j = 0; j < q.n; j++) {
        ops_rope(d_q + j * queries, 1, queries, shape->n_heads, shape->head_dim,
                 d->rope + (position[j] - from) * shape->head_dim, -1.0f);
    }
    ops_rope(d_qkv + queries, n, width, shape->n_kv_heads, shape->head_dim, d->rope, -1.0f);
}

/* d_qkv (in the last layer also d_query) from d_attention, every sequence of the block on its own; rotated back. */
static void heads_backward(backward *b, int32_t k) {
    decoder *d = b->d;
    const layer_record *r = &d->records[k];
    const ops_heads shape = {d->config.n_heads, d->config.n_kv_heads, d->config.head_dim};
    const int64_t width = d->query_width + 2 * d->kv_width;
    for (int64_t i = b->begin; i < b->end; i++) {
        const int64_t s = b->sequence[i], from = d->batch.offsets[s], n = d->batch.offsets[s + 1] - from;
        float *d_qkv = d->scratch.d_qkv + (b->first[i] - b->at) * width;
        const ops_queries q = {n, r->qkv + from * width, width, NULL, 0};
        if (b->heads_only) {
            sparse_attention_backward(b, &shape, r, i, from, n, d_qkv);
        } else {
            ops_attention_backward(&shape, n, q.values, &q, r->weights + b->square[s] * shape.n_heads,
                                   d->scratch.d_attention + (b->first[i] - b->at) * d->query_width, d_qkv, d_qkv,
                                   d->scratch.attention);
            ops_rope(d_qkv, n, width, shape.n_heads + shape.n_kv_heads, shape.head_dim, d->rope, -1.0f);
        }
    }
}

/* Outputs first ... first + count - 1 of a projection as one of its own. */
static projection part_of(const projection *p, int64_t first, int64_t count) {
    projection part = *p;
    int32_t before = 0;
    part.out = count;
    part.weight += first * p->in;
    if (p->d_weight) part.d_weight += first * p->in;
    if (p->d_bias) part.d_bias += first;
    part.n_adapters = 0;
    for (int i = 0; i < p->n_adapters; i++) {
        adapter a = p->adapters[i];
        before += a.first < first;
        if (a.first < first || a.first >= first + count) continue;
        a.first -= first;
        part.adapters[part.n_adapters++] = a;
    }
    if (!part.n_adapters) return part;
    part.low_first = (int64_t)before * p->rank;
    part.a += part.low_first * p->in;
    part.d_a += part.low_first * p->in;
    return part;
}

/* Backward of a projection p of q, k and v, or of a part of it, at some rows of the batch (NULL: those of the block). */
static void stream_projection_backward(backward *b, int32_t k, const projection *p, const int64_t *row, int64_t rows,
                                       const float *d_y, float *d_x) {
    decoder *d = b->d;
    const int64_t hidden = d->config.hidden, skip = row ? 0 : b->at;
    const layer_record *r = &d->records[k];
    input_backward(b, p, rows, d_y, d_x);
    if (!layer_trains(b, k)) return;
    ops_norm_apply(r->input + skip * hidden, r->scale1 + skip, row, rows, hidden, d->layers[k].norm1,
                   d->scratch.normed);
    const float *low = r->low[PROJECT_QKV] + skip * p->low_stride;
    weights_backward(b, p, rows, d->scratch.normed, kept_low(b, p, low, row, rows), d_y);
}

/* d_x [rows][D] = gradient of q's, k's and v's input; NULL: not needed. In the last layer queries have gradients at
 * the head rows only, keys and values at all: the fused projection is taken in two parts, and d_x is their sum. */
static void qkv_backward(backward *b, int32_t k, float *d_x) {
    const decoder *d = b->d;
    const decoder_scratch *s = &d->scratch;
    const int64_t hidden = d->config.hidden;
    const projection *qkv = &d->layers[k].projections[PROJECT_QKV];
    if (!b->heads_only) {
        stream_projection_backward(b, k, qkv, rows_of(b), b->rows, s->d_qkv, d_x);
        return;
    }
    projection q = part_of(qkv, 0, d->query_width);
    const projection kv = part_of(qkv, d->query_width, 2 * d->kv_width);
    q.y_stride = d->query_width;
    stream_projection_backward(b, k, &q, b->head_of + b->head_at, b->heads, s->d_query, d_x ? s->d_heads : NULL);
    stream_projection_backward(b, k, &kv, rows_of(b), b->rows, s->d_qkv + d->query_width, d_x);
    for (int64_t j = 0; d_x && j < b->heads; j++)
        ops_add(d_x + (b->head_row[b->head_at + j] - b->at) * hidden, s->d_heads + j * hidden, hidden);
}

/* The same for the attention part. lowest 1: nothing below needs the stream's gradient, so that it is left out. */
static void attention_backward(backward *b, int32_t k, int32_t weights, int32_t lowest) {
    decoder *d = b->d;
    decoder_scratch *s = &d->scratch;
    const decoder_layer *layer = &d->layers[k];
    const layer_record *r = &d->records[k];
    const projection *o = &layer->projections[PROJECT_O];
    const int64_t hidden = d->config.hidden, *tail = tail_of(b);
    float *d_tail = tail_stream(b), *d_stream = s->d_stream + b->at * hidden;
    input_backward(b, o, b->n_tail, d_tail, s->d_attention);
    if (weights) {
        const float *attention = kept_tail(b, r->attention, d->query_width);
        if (tail) {
            ops_gather(s->gathered, attention, tail, b->n_tail, d->query_width);
            attention = s->gathered;
        }
        weights_backward(b, o, b->n_tail, attention, tail_low(b, o, r->low[PROJECT_O]), d_tail);
    }
    heads_backward(b, k);
    float *norm_gradient = weights ? layer->d_norm1 : NULL;
    const float *input = kept_rows(b, r->input, hidden), *scale1 = kept_rows(b, r->scale1, 1);
    qkv_backward(b, k, lowest && !norm_gradient ? NULL : s->d_normed);
    if (lowest) {
        if (norm_gradient)
            ops_norm_weight_backward(input, scale1, rows_of(b), b->rows, hidden, s->d_normed, norm_gradient);
        return;
    }
    if (b->heads_only) {
        memset(d_stream, 0, (size_t)(b->rows * hidden) * sizeof *d_stream);
        for (int64_t j = 0; j < b->heads; j++)
            ops_add(s->d_stream + b->head_row[b->head_at + j] * hidden, d_tail + j * hidden, hidden);
    }
    ops_norm_backward(input, scale1, rows_of(b), b->rows, hidden, layer->norm1, s->d_normed, d_stream, norm_gradient);
}

/* ---- ends ---- */

/* Through the final norm, into the tail of the active sequences. */
static void final_norm_backward(backward *b, const float *d_normed) {
    decoder *d = b->d;
    const int64_t hidden = d->config.hidden, heads = heads_before(b, b->n_active);
    float *d_weight = b->plan->train_head ? d->d_final_norm : NULL;
    float *d_tail = b->heads_only ? d->scratch.tail : d->scratch.d_stream;
    if (d_weight) decoder_touch(d, d->config.n_layers);
    memset(d_tail, 0, (size_t)((b->heads_only ? heads : b->first[b->n_active]) * hidden) * sizeof *d_tail);
    for (int64_t j = 0; j < heads; j++) {
        const int64_t i = b->head[j], to = b->heads_only ? j : b->head_row[j];
        ops_norm_backward(d->last + d->batch.head_rows[i] * hidden, d->final_scale + i, NULL, 1, hidden, d->final_norm,
                          d_normed + i * hidden, d_tail + to * hidden, d_weight);
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
        const int32_t weights = layer_trains(&b, k);
        if (weights) decoder_touch(d, k);
        while (next_block(&b)) {
            ffn_backward(&b, k, weights);
            attention_backward(&b, k, weights, k == lowest && !into_embedding);
        }
    }
    if (!into_embedding) return SALF_OK;
    activate(&b, 0);
    decoder_touch(d, DECODER_EMBEDDING);
    for (int64_t i = 0; i < b.first[b.n_active]; i++)
        ops_add(d->d_embedding + d->batch.tokens[b.row[i]] * hidden, d->scratch.d_stream + i * hidden, hidden);
    return SALF_OK;
}
