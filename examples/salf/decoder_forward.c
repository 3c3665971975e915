/*
 * decoder_forward.c - the forward pass over packed sequences, and what it keeps for the backward.
 *
 * Per layer, x [T][D] being the latent space:
 *     qkv = norm1(x) W_qkv^T, q and k normed and rotated;  a = attention(qkv);  y = x + s norm_attended(a W_o^T)
 *     gate, up = norm2(y) W_gu^T;  next x = y + s norm_fed((act(gate) * up) W_down^T)
 * where a layer has some of the norms, each projection may have biases and adapters, and s is 1 but in Granite. In the
 * last layer a is computed only at the head rows, and so is all that follows.
 *
 * A layer runs block by block (decoder_internal.h). What it computes of rows that its backward will read goes to its
 * record, of others to a block's room that is written over; outputs of norms and activations are kept of none.
 *
 * Cost: 2 T operations a matrix weight, and 4 n^2 head_dim for each head and sequence of n rows.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "ops.h"

/* Neighbouring sequences that a layer runs at once. */
typedef struct row_block {
    int64_t sequence; /* first */
    int64_t sequences;
    int64_t row; /* first */
    int64_t rows;
    int64_t head; /* first index of its head rows in the batch's list */
    int64_t heads;
    int64_t tail; /* rows, or head rows, on which the layer goes on behind its attention */
} row_block;

/* y [rows][out] = (with beta 1: +=) x W^T and the rest of a projection; low [rows][n_adapters * rank] keeps x A^T. */
static void project(const projection *p, int64_t rows, const float *x, float beta, float *y, float *low) {
    const int64_t low_width = (int64_t)p->n_adapters * p->rank;
    ops_gemm_nt(rows, p->out, p->in, 1.0f, x, p->in, p->weight, p->in, beta, y, p->out);
    for (int i = 0; i < p->n_parts; i++) {
        const projection_part *part = &p->parts[i];
        if (part->bias) ops_add_bias(y + part->first, p->out, part->bias, rows, part->count);
    }
    if (!p->n_adapters) return;
    ops_gemm_nt(rows, low_width, p->in, 1.0f, x, p->in, p->a, p->in, 0.0f, low, low_width);
    for (int i = 0; i < p->n_adapters; i++) {
        const adapter *a = &p->adapters[i];
        ops_gemm_nt(rows, a->count, p->rank, p->scale, low + i * p->rank, low_width, a->b, p->rank, 1.0f, y + a->first,
                    p->out);
    }
}

/* The next block before sequence `end`: as many sequences as fit, at least one. 0 when there is none. */
static int next_block(const decoder *d, int32_t k, int64_t end, row_block *b) {
    const int64_t *offsets = d->batch.offsets, *head_rows = d->batch.head_rows;
    b->sequence += b->sequences;
    b->row += b->rows;
    b->head += b->heads;
    b->sequences = b->rows = b->heads = 0;
    if (b->sequence >= end) return 0;
    do {
        b->sequences++;
        b->rows = offsets[b->sequence + b->sequences] - b->row;
    } while (b->sequence + b->sequences < end && offsets[b->sequence + b->sequences + 1] - b->row <= BLOCK_ROWS);
    while (b->head + b->heads < d->batch.n_head_rows && head_rows[b->head + b->heads] < b->row + b->rows) b->heads++;
    b->tail = decoder_tail(d, k) ? b->heads : b->rows;
    return 1;
}

/* Where a block's part of layer k's record is; weights floats of attention weights lie before it. */
static layer_record record_of(const decoder *d, int32_t k, const row_block *b, int64_t weights) {
    layer_record r = d->records[k];
    if (b->sequence >= r.sequences) return d->unkept;
    const int64_t tail = decoder_tail(d, k) ? b->head : b->row;
    r.moments1 += 2 * b->row;
    if (r.raw) r.raw += b->row * (d->query_width + d->kv_width);
    r.qkv += b->row * (d->query_width + 2 * d->kv_width);
    if (r.weights) r.weights += weights;
    r.attention += tail * d->query_width;
    if (r.attended) r.attended += tail * d->config.hidden;
    r.moments_attended += 2 * tail;
    r.middle += tail * d->config.hidden;
    r.moments2 += 2 * tail;
    r.gate_up += tail * d->gate_width;
    if (r.fed) r.fed += tail * d->config.hidden;
    r.moments_fed += 2 * tail;
    for (int i = 0; i < N_PROJECTIONS; i++) {
        const projection *p = &d->layers[k].projections[i];
        r.low[i] += (i == PROJECT_QKV ? b->row : tail) * p->n_adapters * p->rank;
    }
    return r;
}

/* Queries of the n rows from `first` of the batch, of which qkv are the queries, keys and values: all, or the head rows
 * among them, which are gathered. *at is the index of the first of these in the batch's list, and moves on. */
static ops_queries collect_queries(const decoder *d, const float *qkv, const int64_t *tail, int64_t *at, int64_t first,
                                   int64_t n) {
    const int64_t width = d->query_width + 2 * d->kv_width;
    if (!tail) return (ops_queries){n, qkv, width, NULL, 0};
    ops_queries q = {0, d->scratch.query, d->query_width, tail + *at, first};
    for (; *at < d->batch.n_head_rows && tail[*at] < first + n; ++*at, q.n++) {
        memcpy(d->scratch.query + q.n * d->query_width, qkv + (tail[*at] - first) * width,
               (size_t)d->query_width * sizeof *qkv);
    }
    return q;
}

/* Norms of queries and keys, of each head or of all together, in place; what they read goes to raw. */
static void norm_heads(const decoder *d, const decoder_layer *layer, int64_t rows, float *qkv, float *raw) {
    const int64_t queries = d->query_width, keys = d->kv_width;
    for (int64_t i = 0; i < rows; i++) {
        float *row = qkv + i * (queries + 2 * keys);
        memcpy(raw, row, (size_t)(queries + keys) * sizeof *raw);
        for (int which = NORM_Q; which <= NORM_K; which++) {
            const ops_norm *norm = &layer->norms[which];
            const int64_t n = (which == NORM_Q ? queries : keys) / norm->width;
            float *from = raw + (which == NORM_Q ? 0 : queries), *to = row + (which == NORM_Q ? 0 : queries);
            ops_norm_moments(norm, from, NULL, n, d->scratch.moments);
            ops_norm_apply(norm, from, d->scratch.moments, NULL, n, to);
        }
        raw += queries + keys;
    }
}

/* Norms and rotates q and k of a block, and attends: weights and outputs are those of the tail's rows. Returns the
 * floats of weights that were kept. */
static int64_t attend(const decoder *d, int32_t k, const row_block *b, const layer_record *r) {
    const decoder_layer *layer = &d->layers[k];
    const ops_heads *shape = &layer->heads;
    const int64_t width = d->query_width + 2 * d->kv_width, *tail = decoder_tail(d, k);
    int64_t done = 0, weights = 0, head = b->head;
    if (r->raw) norm_heads(d, layer, b->rows, r->qkv, r->raw);
    for (int64_t s = b->sequence; s < b->sequence + b->sequences; s++) {
        const int64_t first = d->batch.offsets[s], n = d->batch.offsets[s + 1] - first;
        float *qkv = r->qkv + (first - b->row) * width;
        ops_rope(qkv, n, width, shape->n_heads + shape->n_kv_heads, shape->head_dim, d->config.layers.rotary_dims / 2,
                 d->rope[layer->local], 1.0f);
        const ops_queries q = collect_queries(d, qkv, tail, &head, first, n);
        ops_attention(shape, n, qkv, &q, r->weights ? r->weights + weights : NULL, r->attention + done * d->query_width,
                      d->scratch.attention);
        done += q.n;
        if (r->weights) weights += shape->n_heads * q.n * n;
    }
    return weights;
}

/* x normed into scratch, or x itself where there is no such norm. */
static const float *enter(const decoder *d, const ops_norm *norm, const float *x, int64_t rows, float *moments) {
    if (!norm->weight) return x;
    ops_norm_moments(norm, x, NULL, rows, moments);
    ops_norm_apply(norm, x, moments, NULL, rows, d->scratch.normed);
    return d->scratch.normed;
}

/* stream += s norm(x W^T): at once by the product, where s is 1 and there is no norm, which reads unnormed. */
static void add_branch(const decoder *d, const projection *p, const ops_norm *norm, int64_t rows, const float *x,
                       float *low, float *unnormed, float *moments, float *stream) {
    const float scale = (float)d->config.layers.residual_scale;
    if (!norm->weight && scale == 1.0f) {
        project(p, rows, x, 1.0f, stream, low);
        return;
    }
    float *y = norm->weight ? unnormed : d->scratch.branch;
    project(p, rows, x, 0.0f, y, low);
    ops_add_scaled(stream, enter(d, norm, y, rows, moments), scale, rows * p->out);
}

/* One block of a layer, from the space [T][D] to out [T][D], or of a tail to its own rows. Steps as in the formula on
 * top of this file. Returns what attend does. */
static int64_t run_block(decoder *d, int32_t k, const row_block *b, const layer_record *r, const float *space,
                         float *out) {
    const decoder_layer *layer = &d->layers[k];
    const projection *projections = layer->projections;
    const salf_decoder_info *info = &d->config.layers;
    const int64_t hidden = d->config.hidden, *tail = decoder_tail(d, k);
    const float *x = space + b->row * hidden;
    const size_t bytes = (size_t)(b->tail * hidden) * sizeof *x;
    float *next = tail ? d->scratch.tail + b->head * hidden : out + b->row * hidden;

    project(&projections[PROJECT_QKV], b->rows, enter(d, &layer->norms[NORM_1], x, b->rows, r->moments1), 0.0f, r->qkv,
            r->low[PROJECT_QKV]);
    const int64_t weights = attend(d, k, b, r);
    if (tail) {
        ops_gather(r->middle, space, tail + b->head, b->tail, hidden);
    } else {
        memcpy(r->middle, x, bytes);
    }
    add_branch(d, &projections[PROJECT_O], &layer->norms[NORM_ATTENDED], b->tail, r->attention, r->low[PROJECT_O],
               r->attended, r->moments_attended, r->middle);
    project(&projections[PROJECT_GATE_UP], b->tail, enter(d, &layer->norms[NORM_2], r->middle, b->tail, r->moments2),
            0.0f, r->gate_up, r->low[PROJECT_GATE_UP]);
    ops_activate(info->activation, info->gated_ffn, r->gate_up, b->tail, d->config.ffn_hidden, d->scratch.hidden);
    memcpy(next, r->middle, bytes);
    add_branch(d, &projections[PROJECT_DOWN], &layer->norms[NORM_FED], b->tail, d->scratch.hidden, r->low[PROJECT_DOWN],
               r->fed, r->moments_fed, next);
    return weights;
}

/* Where space k lies whole. */
static float *space_at(const decoder *d, int32_t k) {
    const int32_t m = d->config.n_layers;
    return k < m && d->records[k].sequences == d->batch.n_sequences ? d->records[k].input : d->spaces[k % 2];
}

/* All blocks of a layer; none lies on both sides of where its record ends. */
static void run_layer(decoder *d, int32_t k) {
    const layer_record *record = &d->records[k];
    const int64_t hidden = d->config.hidden, n = d->batch.n_sequences, *tail = decoder_tail(d, k);
    float *space = space_at(d, k), *out = space_at(d, k + 1);
    int64_t weights = 0;
    row_block b = {0};
    if (record->rows && record->input != space) {
        memcpy(record->input, space, (size_t)(record->rows * hidden) * sizeof *space);
    }
    while (next_block(d, k, b.sequence + b.sequences < record->sequences ? record->sequences : n, &b)) {
        const layer_record r = record_of(d, k, &b, weights);
        weights += run_block(d, k, &b, &r, space, out);
    }
    if (tail) ops_scatter(out, d->scratch.tail, tail, d->batch.n_head_rows, d->batch.offsets[n], hidden);
}

/* The hook's look at a space; what fails in a hook is the library. */
static salf_status show_space(decoder_hook hook, void *user, int32_t space, int64_t rows, const float *states) {
    const salf_status status = hook ? hook(user, space, rows, states) : SALF_OK;
    return status ? decoder_fail_library(status) : SALF_OK;
}

salf_status decoder_forward(decoder *d, const decoder_batch *batch, int32_t keep, decoder_hook hook, void *user) {
    const int64_t hidden = d->config.hidden;
    const int32_t m = d->config.n_layers, start = batch->first_layer;
    d->ready = 0;
    salf_status status = decoder_prepare(d, batch, keep);
    if (status) return status;
    const int64_t rows = batch->offsets[batch->n_sequences];
    float *first = space_at(d, start);
    for (int64_t i = 0; i < rows; i++)
        memcpy(first + i * hidden, start ? batch->states + i * hidden : d->embedding + batch->tokens[i] * hidden,
               (size_t)hidden * sizeof *first);
    if (!start && d->config.embedding_scale != 1.0) ops_scale(first, (float)d->config.embedding_scale, rows * hidden);
    for (int32_t k = start; k < m; k++) {
        status = show_space(hook, user, k, rows, space_at(d, k));
        if (status) return status;
        run_layer(d, k);
    }
    /* Before the last space is shown: a hook may read decoder_normed there. */
    for (int64_t i = 0; i < batch->n_head_rows; i++) {
        const float *x = d->last + batch->head_rows[i] * hidden;
        ops_norm_moments(&d->final_norm, x, NULL, 1, d->final_moments + 2 * i);
        ops_norm_apply(&d->final_norm, x, d->final_moments + 2 * i, NULL, 1, d->normed + i * hidden);
    }
    status = show_space(hook, user, m, rows, d->last);
    if (!status) d->ready = 1;
    return status;
}

const float *decoder_normed(const decoder *d) {
    return d->normed;
}
