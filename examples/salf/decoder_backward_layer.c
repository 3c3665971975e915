/*
 * decoder_backward_layer.c - the backward of one layer on a block of rows.
 *
 * In the last layer the stream's gradient lies in compact head rows, which are spread over the block's rows once the
 * gradient of the attention has been taken. Queries have gradients at the head rows only, keys and values at all rows,
 * so that the projection that they share is taken in two parts. Inputs of weight gradients are gathered, or computed
 * again in compact form.
 */
#include <string.h>

#include "decoder_backward.h"

#define LARGER(a, b)  ((a) > (b) ? (a) : (b))
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))

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
    for (int i = 0; i < p->n_parts; i++) {
        const projection_part *part = &p->parts[i];
        if (part->d_bias) ops_column_sums(part->d_bias, d_y + part->first, p->y_stride, rows, part->count);
    }
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

/* A norm of layer k, with gradients where the layer trains. */
static ops_norm norm_of(const backward *b, int32_t k, int which) {
    ops_norm norm = b->d->layers[k].norms[which];
    if (!layer_trains(b, k)) norm.d_weight = norm.d_bias = NULL;
    return norm;
}

/* Gradient of what a projection added to the stream at the tail, from the stream's: the same numbers, where nothing
 * came between; else times s, and through the norm that read `unnormed`. */
static const float *branch_backward(backward *b, int32_t k, int which, const float *unnormed, const float *moments) {
    decoder_scratch *s = &b->d->scratch;
    const ops_norm norm = norm_of(b, k, which);
    const float scale = (float)b->d->config.layers.residual_scale;
    const int64_t hidden = b->d->config.hidden, count = b->n_tail * hidden;
    if (!norm.weight && scale == 1.0f) return tail_stream(b);
    memset(s->branch, 0, (size_t)count * sizeof *s->branch);
    ops_add_scaled(s->branch, tail_stream(b), scale, count);
    if (!norm.weight) return s->branch;
    memset(s->d_branch, 0, (size_t)count * sizeof *s->d_branch);
    ops_norm_backward(&norm, kept_tail(b, unnormed, hidden), kept_tail(b, moments, 2), tail_of(b), b->n_tail, s->branch,
                      s->d_branch);
    return s->d_branch;
}

/* What a projection read, once more: x normed, or x itself, at these rows of it. */
static const float *read_again(const backward *b, const ops_norm *norm, const float *x, const float *moments,
                               const int64_t *row, int64_t rows) {
    float *normed = b->d->scratch.normed;
    if (norm->weight) {
        ops_norm_apply(norm, x, moments, row, rows, normed);
    } else if (row) {
        ops_gather(normed, x, row, rows, b->d->config.hidden);
    } else {
        return x;
    }
    return normed;
}

/* d_x += the gradient of what a norm read, or that itself where there is no norm. */
static void norm_backward(const ops_norm *norm, const float *x, const float *moments, const int64_t *row, int64_t rows,
                          int64_t hidden, const float *d_normed, float *d_x) {
    if (norm->weight) {
        ops_norm_backward(norm, x, moments, row, rows, d_normed, d_x);
    } else {
        ops_add(d_x, d_normed, rows * hidden);
    }
}

/* d_stream = gradient of the stream before the feed-forward part, from its gradient behind; with the hidden values h =
 * act(gate) * up, and weights 1 those of down, gate, up and norms:
 *     d_h = d_branch W_down;  d_gate, d_up from d_h;  d_stream += gradient of norm2 for d_gate W_gate + d_up W_up */
static void ffn_backward(backward *b, int32_t k, int32_t weights) {
    decoder *d = b->d;
    decoder_scratch *s = &d->scratch;
    const decoder_layer *layer = &d->layers[k];
    const layer_record *r = &d->records[k];
    const salf_decoder_info *info = &d->config.layers;
    const projection *down = &layer->projections[PROJECT_DOWN], *gate_up = &layer->projections[PROJECT_GATE_UP];
    const int64_t rows = b->n_tail, hidden = d->config.hidden, *tail = tail_of(b);
    const float *middle = kept_tail(b, r->middle, hidden), *moments = kept_tail(b, r->moments2, 2);
    const ops_norm norm = norm_of(b, k, NORM_2);
    const float *d_branch = branch_backward(b, k, NORM_FED, r->fed, r->moments_fed);
    input_backward(b, down, rows, d_branch, s->d_hidden);
    ops_activate_backward(info->activation, info->gated_ffn, kept_tail(b, r->gate_up, d->gate_width), tail, rows,
                          d->config.ffn_hidden, s->d_hidden, s->d_gate_up, s->hidden);
    if (weights) weights_backward(b, down, rows, s->hidden, tail_low(b, down, r->low[PROJECT_DOWN]), d_branch);
    input_backward(b, gate_up, rows, s->d_gate_up, s->d_normed);
    if (weights) {
        const float *x = read_again(b, &norm, middle, moments, tail, rows);
        weights_backward(b, gate_up, rows, x, tail_low(b, gate_up, r->low[PROJECT_GATE_UP]), s->d_gate_up);
    }
    norm_backward(&norm, middle, moments, tail, rows, hidden, s->d_normed, tail_stream(b));
}

/* Gradients of a row's queries (which NORM_Q) or keys, d [width], back through their norms; raw is what these read. */
static void heads_norm_backward(backward *b, int32_t k, int which, const float *raw, float *d) {
    decoder_scratch *s = &b->d->scratch;
    const ops_norm norm = norm_of(b, k, which);
    const int64_t width = which == NORM_Q ? b->d->query_width : b->d->kv_width, n = width / norm.width;
    ops_norm_moments(&norm, raw, NULL, n, s->moments);
    memcpy(s->raw, d, (size_t)width * sizeof *d);
    memset(d, 0, (size_t)width * sizeof *d);
    ops_norm_backward(&norm, raw, s->moments, NULL, n, s->raw, d);
}

/* Attention of the last layer over the n rows from `from` on, whose queries are the head rows of the order's sequence
 * i. Gradients of these go to d_query, those of keys and values to their places in d_qkv. */
static void sparse_attention_backward(backward *b, int32_t k, int64_t i, int64_t from, int64_t n, float *d_qkv) {
    decoder *d = b->d;
    const layer_record *r = &d->records[k];
    const decoder_layer *layer = &d->layers[k];
    const ops_heads *shape = &layer->heads;
    const int64_t width = d->query_width + 2 * d->kv_width, queries = d->query_width;
    const int64_t first = heads_before(b, i), at = first - b->head_at, rotary = d->config.layers.rotary_dims;
    float *values = d->scratch.query + at * queries, *d_q = d->scratch.d_query + at * queries;
    const int64_t *position = d->batch.head_rows + (b->head_end[i] > first ? b->head[first] : 0);
    const ops_queries q = {b->head_end[i] - first, values, queries, position, from};
    for (int64_t j = 0; j < q.n; j++) {
        memcpy(values + j * queries, r->qkv + position[j] * width, (size_t)queries * sizeof *values);
    }
    ops_attention_backward(shape, n, r->qkv + from * width, &q, r->weights + b->sparse[b->sequence[i]] * shape->n_heads,
                           d->scratch.d_attention + at * queries, d_qkv, d_q, d->scratch.attention);
    for (int64_t j = 0; j < q.n; j++) {
        ops_rope(d_q + j * queries, 1, queries, shape->n_heads, shape->head_dim, rotary / 2,
                 d->rope[layer->local] + (position[j] - from) * rotary, -1.0f);
        if (r->raw)
            heads_norm_backward(b, k, NORM_Q, r->raw + position[j] * (queries + d->kv_width), d_q + j * queries);
    }
}

/* d_qkv (in the last layer also d_query) from d_attention, every sequence of the block on its own; rotated back, and
 * through the norms of queries and keys. */
static void heads_backward(backward *b, int32_t k) {
    decoder *d = b->d;
    const layer_record *r = &d->records[k];
    const decoder_layer *layer = &d->layers[k];
    const ops_heads *shape = &layer->heads;
    const int64_t queries = d->query_width, width = queries + 2 * d->kv_width;
    for (int64_t i = b->begin; i < b->end; i++) {
        const int64_t s = b->sequence[i], from = d->batch.offsets[s], n = d->batch.offsets[s + 1] - from;
        float *d_qkv = d->scratch.d_qkv + (b->first[i] - b->at) * width;
        const ops_queries q = {n, r->qkv + from * width, width, NULL, 0};
        if (b->heads_only) {
            sparse_attention_backward(b, k, i, from, n, d_qkv);
        } else {
            ops_attention_backward(shape, n, q.values, &q, r->weights + b->square[s] * shape->n_heads,
                                   d->scratch.d_attention + (b->first[i] - b->at) * queries, d_qkv, d_qkv,
                                   d->scratch.attention);
        }
        const int64_t skip = b->heads_only ? shape->n_heads : 0; /* the queries, which are done */
        ops_rope(d_qkv + skip * shape->head_dim, n, width, shape->n_heads + shape->n_kv_heads - skip, shape->head_dim,
                 d->config.layers.rotary_dims / 2, d->rope[layer->local], -1.0f);
        for (int64_t j = 0; r->raw && j < n; j++) {
            const float *raw = r->raw + (from + j) * (queries + d->kv_width);
            if (!b->heads_only) heads_norm_backward(b, k, NORM_Q, raw, d_qkv + j * width);
            heads_norm_backward(b, k, NORM_K, raw + queries, d_qkv + j * width + queries);
        }
    }
}

/* Outputs first ... first + count - 1 of a projection as one of its own. Biases and adapters of a fused matrix may lie
 * on both sides of the border: each side gets its part of them. */
static projection part_of(const projection *p, int64_t first, int64_t count) {
    projection part = *p;
    int32_t before = 0;
    part.out = count;
    part.weight += first * p->in;
    if (p->d_weight) part.d_weight += first * p->in;
    part.n_parts = part.n_adapters = 0;
    for (int i = 0; i < p->n_parts; i++) { /* of these only the gradients of biases are looked at */
        projection_part to = p->parts[i];
        const int64_t from = LARGER(to.first, first), end = SMALLER(to.first + to.count, first + count);
        if (!to.d_bias || from >= end) continue;
        to.d_bias += from - to.first;
        to.first = from - first;
        to.count = end - from;
        part.parts[part.n_parts++] = to;
    }
    for (int i = 0; i < p->n_adapters; i++) {
        adapter a = p->adapters[i];
        const int64_t from = LARGER(a.first, first), end = SMALLER(a.first + a.count, first + count);
        before += a.first + a.count <= first;
        if (from >= end) continue;
        a.b += (from - a.first) * p->rank;
        if (a.d_b) a.d_b += (from - a.first) * p->rank;
        a.first = from - first;
        a.count = end - from;
        part.adapters[part.n_adapters++] = a;
    }
    if (!part.n_adapters) return part;
    part.low_first = (int64_t)before * p->rank;
    part.a += part.low_first * p->in;
    if (part.d_a) part.d_a += part.low_first * p->in;
    return part;
}

/* Backward of a projection p of q, k and v, or of a part of it, at some rows of the batch (NULL: of the block). */
static void stream_projection_backward(backward *b, int32_t k, const projection *p, const int64_t *row, int64_t rows,
                                       const float *d_y, float *d_x) {
    decoder *d = b->d;
    const int64_t hidden = d->config.hidden, skip = row || b->shuffled ? 0 : b->at;
    const layer_record *r = &d->records[k];
    input_backward(b, p, rows, d_y, d_x);
    if (!layer_trains(b, k)) return;
    const ops_norm *norm = &d->layers[k].norms[NORM_1];
    const float *x = read_again(b, norm, r->input + skip * hidden, r->moments1 + 2 * skip, row, rows);
    const float *low = r->low[PROJECT_QKV] + skip * p->low_stride;
    weights_backward(b, p, rows, x, kept_low(b, p, low, row, rows), d_y);
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
    const ops_norm norm = norm_of(b, k, NORM_1);
    const float *d_branch = branch_backward(b, k, NORM_ATTENDED, r->attended, r->moments_attended);
    input_backward(b, o, b->n_tail, d_branch, s->d_attention);
    if (weights) {
        const float *attention = kept_tail(b, r->attention, d->query_width);
        if (tail) {
            ops_gather(s->gathered, attention, tail, b->n_tail, d->query_width);
            attention = s->gathered;
        }
        weights_backward(b, o, b->n_tail, attention, tail_low(b, o, r->low[PROJECT_O]), d_branch);
    }
    heads_backward(b, k);
    const int norm_trains = norm.d_weight != NULL;
    const float *input = kept_rows(b, r->input, hidden), *moments = kept_rows(b, r->moments1, 2);
    qkv_backward(b, k, lowest && !norm_trains ? NULL : s->d_normed);
    if (lowest) {
        if (norm_trains) ops_norm_weight_backward(&norm, input, moments, rows_of(b), b->rows, s->d_normed);
        return;
    }
    float *d_stream = s->d_stream + b->at * hidden;
    if (b->heads_only) {
        memset(d_stream, 0, (size_t)(b->rows * hidden) * sizeof *d_stream);
        for (int64_t j = 0; j < b->heads; j++)
            ops_add(s->d_stream + b->head_row[b->head_at + j] * hidden, tail_stream(b) + j * hidden, hidden);
    }
    norm_backward(&norm, input, moments, rows_of(b), b->rows, hidden, s->d_normed, d_stream);
}

void backward_block(backward *b, int32_t k, int32_t lowest) {
    const int32_t weights = layer_trains(b, k);
    ffn_backward(b, k, weights);
    attention_backward(b, k, weights, lowest);
}
