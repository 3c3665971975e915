/*
 * decoder_forward.c - the forward pass over packed sequences, and what it keeps for the backward.
 *
 * Per layer, x [T][D] being the latent space:
 *     qkv = norm1(x) W_qkv^T + b, rotated;  a = attention(qkv);  y = x + a W_o^T
 *     gate, up = norm2(y) W_gu^T;  next x = y + (silu(gate) * up) W_down^T
 * In the last layer a is computed only at the head rows, and so is all that follows.
 *
 * Cost: 2 T operations a matrix weight, and 4 n^2 head_dim for each head and sequence of n rows. Kept: per layer and
 * row 3 D + 2 Q + 2 KV + 2 F floats, and n a head for the attention weights; norms and SwiGLU outputs are computed
 * again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "memory.h"
#include "ops.h"

/* ---- memory ---- */

float *arena_take(arena *a, int64_t count) {
    const int64_t first = a->used;
    a->used += (count + 15) / 16 * 16; /* ranges begin at cache lines: 16 floats are 64 bytes */
    return a->measuring ? NULL : a->memory + first;
}

/* What the layout depends on. */
typedef struct batch_size {
    int64_t rows;    /* T */
    int64_t longest; /* rows of the longest sequence */
    int64_t squares; /* sum of n^2 over the sequences */
} batch_size;

/* The spaces and what each layer keeps. In training every layer has a record of its own. In inference all layers write
 * over one record, and the spaces alternate between two buffers: a layer reads one and writes the other. */
static void lay_out_records(decoder *d, const batch_size *size) {
    arena *a = &d->arena;
    const int64_t rows = size->rows, space = rows * d->config.hidden;
    const int32_t m = d->config.n_layers;
    float *spaces[2] = {arena_take(a, space), arena_take(a, space)};
    for (int32_t k = 0; k < m; k++) {
        layer_record *r = &d->records[k];
        r->input = d->kept && k > 0 ? arena_take(a, space) : spaces[k % 2];
        if (!d->kept && k > 0) {
            float *input = r->input;
            *r = d->records[0];
            r->input = input;
            continue;
        }
        int64_t tail = rows; /* the record that an inference shares has room for any layer */
        if (d->kept) decoder_tail(d, k, &tail);
        r->scale1 = arena_take(a, rows);
        r->qkv = arena_take(a, rows * (d->query_width + 2 * d->kv_width));
        r->weights = arena_take(a, size->squares * d->config.n_heads);
        r->attention = arena_take(a, tail * d->query_width);
        r->middle = arena_take(a, tail * d->config.hidden);
        r->scale2 = arena_take(a, tail);
        r->gate_up = arena_take(a, tail * 2 * d->config.ffn_hidden);
        for (int i = 0; i < N_PROJECTIONS; i++) {
            const projection *p = &d->layers[k].projections[i];
            r->low[i] = arena_take(a, (i == PROJECT_QKV ? rows : tail) * p->n_adapters * p->rank);
        }
    }
    d->last = spaces[d->kept ? 1 : m % 2];
}

#define TILE_FLOATS (1 << 20) /* logits held at a time, 4 MiB: a few rows of a large vocabulary, all of a small one */

/* What is used within one pass; the second half only where a backward will follow. */
static void lay_out_scratch(decoder *d, const batch_size *size) {
    decoder_scratch *s = &d->scratch;
    arena *a = &d->arena;
    const int64_t rows = size->rows, heads = d->batch.n_head_rows, hidden = d->config.hidden;
    const int64_t ffn = d->config.ffn_hidden;
    const ops_heads shape = {d->config.n_heads, d->config.n_kv_heads, d->config.head_dim};
    s->normed = arena_take(a, rows * hidden);
    s->hidden = arena_take(a, rows * ffn);
    s->out = arena_take(a, heads * hidden);
    d->final_scale = arena_take(a, heads);
    d->normed = arena_take(a, heads * hidden);
    s->attention = arena_take(a, ops_attention_scratch(&shape, size->longest));
    s->query = arena_take(a, heads * d->query_width);
    if (d->kept) {
        int64_t low = 0; /* widest x A^T; all layers have the same adapters */
        for (int i = 0; i < N_PROJECTIONS; i++) {
            const projection *p = &d->layers[0].projections[i];
            const int64_t width = (int64_t)p->n_adapters * p->rank;
            if (width > low) low = width;
        }
        s->d_stream = arena_take(a, rows * hidden);
        s->d_normed = arena_take(a, rows * hidden);
        s->d_qkv = arena_take(a, rows * (d->query_width + 2 * d->kv_width));
        s->d_attention = arena_take(a, rows * d->query_width);
        s->gathered = arena_take(a, rows * d->query_width);
        s->d_query = arena_take(a, heads * d->query_width);
        s->d_gate_up = arena_take(a, rows * 2 * ffn);
        s->d_hidden = arena_take(a, rows * ffn);
        s->low = arena_take(a, rows * low);
        s->d_low = arena_take(a, rows * low);
    }
    d->tile_rows = TILE_FLOATS / d->config.vocab;
    if (d->tile_rows < 1) d->tile_rows = 1;
    if (d->tile_rows > heads) d->tile_rows = heads;
    d->tile = arena_take(a, d->tile_rows * d->config.vocab);
}

/* Memory for a batch of this size. What is there already is used again, so that nothing is allocated once the largest
 * batch has been seen. After a failure there is none, and the next forward begins anew. */
static salf_status make_batch_room(decoder *d, const batch_size *size) {
    /* 1. the arena: measured by a layout without memory, then laid out */
    arena *a = &d->arena;
    a->measuring = 1;
    a->used = 0;
    lay_out_records(d, size);
    lay_out_scratch(d, size);
    if (a->used > a->capacity) {
        free(a->memory);
        a->capacity = 0;
        a->memory = memory_take_floats(a->used);
        if (!a->memory) return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld floats", (long long)a->used);
        a->capacity = a->used;
    }
    a->measuring = 0;
    a->used = 0;
    lay_out_records(d, size);
    lay_out_scratch(d, size);

    /* 2. angles of the rotary positions */
    if (size->longest > d->rope_positions) {
        free(d->rope);
        d->rope_positions = 0;
        d->rope = memory_take(size->longest * d->config.head_dim, sizeof *d->rope);
        if (!d->rope) return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld positions", (long long)size->longest);
        ops_rope_table(d->rope, size->longest, d->config.head_dim, d->config.rope_theta);
        d->rope_positions = size->longest;
    }

    /* 3. the backward's index arrays: 5 for each sequence, 2 for each row and 3 for each head row */
    const int64_t need = 5 * d->batch.n_sequences + 2 * size->rows + 3 * d->batch.n_head_rows + 3;
    if (d->kept && need > d->order_capacity) {
        free(d->order);
        d->order_capacity = 0;
        d->order = memory_take(need, sizeof *d->order);
        if (!d->order)
            return decoder_fail(SALF_E_NO_MEMORY, "no memory for the order of %lld rows", (long long)size->rows);
        d->order_capacity = need;
    }
    return SALF_OK;
}

/* ---- checks ---- */

#define MOST_ROWS (1 << 24) /* so that row counts times widths stay far below 2^63, and fit BLAS's integers */

/* Everything that would read or write outside an array is refused, and the sizes are taken on the way. */
static salf_status check_batch(const decoder *d, const decoder_batch *b, batch_size *size) {
    if (b->n_sequences < 1 || b->n_sequences > MOST_ROWS)
        return decoder_fail(SALF_E_ARGUMENT, "n_sequences is %lld", (long long)b->n_sequences);
    if (b->offsets[0] != 0) return decoder_fail(SALF_E_ARGUMENT, "offsets[0] is %lld", (long long)b->offsets[0]);
    *size = (batch_size){0, 0, 0};
    for (int64_t s = 0; s < b->n_sequences; s++) {
        const int64_t n = b->offsets[s + 1] - b->offsets[s];
        if (n < 1 || n > d->config.max_positions)
            return decoder_fail(SALF_E_ARGUMENT, "sequence %lld has %lld tokens, not 1 ... %lld", (long long)s,
                                (long long)n, (long long)d->config.max_positions);
        if (n > size->longest) size->longest = n;
        size->squares += n * n;
        size->rows += n;
        if (size->rows > MOST_ROWS) return decoder_fail(SALF_E_ARGUMENT, "the batch has more than %d rows", MOST_ROWS);
    }
    for (int64_t i = 0; i < size->rows; i++) {
        if (b->tokens[i] < 0 || b->tokens[i] >= d->config.vocab)
            return decoder_fail(SALF_E_ARGUMENT, "token %d at row %lld is outside the vocabulary of %lld",
                                (int)b->tokens[i], (long long)i, (long long)d->config.vocab);
    }
    for (int64_t i = 0; i < b->n_head_rows; i++) {
        const int64_t row = b->head_rows[i], low = i ? b->head_rows[i - 1] + 1 : 0;
        if (row < low || row >= size->rows)
            return decoder_fail(SALF_E_ARGUMENT, "head row %lld is %lld, not %lld ... %lld", (long long)i,
                                (long long)row, (long long)low, (long long)size->rows - 1);
    }
    return SALF_OK;
}

/* ---- the pass ---- */

/* y [rows][out] = (with beta 1: +=) x W^T and the rest of a projection; low [rows][n_adapters * rank] keeps x A^T. */
static void project(const projection *p, int64_t rows, const float *x, float beta, float *y, float *low) {
    const int64_t low_width = (int64_t)p->n_adapters * p->rank;
    ops_gemm_nt(rows, p->out, p->in, 1.0f, x, p->in, p->weight, p->in, beta, y, p->out);
    if (p->bias) ops_add_bias(y, p->bias, rows, p->out);
    if (!p->n_adapters) return;
    ops_gemm_nt(rows, low_width, p->in, 1.0f, x, p->in, p->a, p->in, 0.0f, low, low_width);
    for (int i = 0; i < p->n_adapters; i++) {
        const adapter *a = &p->adapters[i];
        ops_gemm_nt(rows, a->count, p->rank, p->scale, low + i * p->rank, low_width, a->b, p->rank, 1.0f, y + a->first,
                    p->out);
    }
}

const int64_t *decoder_tail(const decoder *d, int32_t k, int64_t *n) {
    const int64_t rows = d->batch.offsets[d->batch.n_sequences];
    const int some = k == d->config.n_layers - 1 && d->batch.n_head_rows < rows;
    *n = some ? d->batch.n_head_rows : rows;
    return some ? d->batch.head_rows : NULL;
}

/* Queries of the sequence that begins at a row: its part of the tail, from index `at` on. */
static ops_queries collect_queries(const decoder *d, const layer_record *r, const int64_t *tail, int64_t at,
                                   int64_t first, int64_t n) {
    const int64_t width = d->query_width + 2 * d->kv_width;
    if (!tail) return (ops_queries){n, r->qkv + first * width, width, NULL, 0};
    float *query = d->scratch.query + at * d->query_width;
    ops_queries q = {0, query, d->query_width, tail + at, first};
    for (; at < d->batch.n_head_rows && tail[at] < first + n; at++, q.n++) {
        memcpy(query + q.n * d->query_width, r->qkv + tail[at] * width, (size_t)d->query_width * sizeof *query);
    }
    return q;
}

/* Rotates q and k of layer k, and attends: its weights and outputs are those of the tail's rows. */
static void attend(const decoder *d, int32_t k, layer_record *r) {
    const ops_heads shape = {d->config.n_heads, d->config.n_kv_heads, d->config.head_dim};
    const int64_t width = d->query_width + 2 * d->kv_width;
    float *weights = r->weights, *out = r->attention;
    int64_t done = 0, n_tail;
    const int64_t *tail = decoder_tail(d, k, &n_tail);
    for (int64_t s = 0; s < d->batch.n_sequences; s++) {
        const int64_t first = d->batch.offsets[s], n = d->batch.offsets[s + 1] - first;
        float *qkv = r->qkv + first * width;
        ops_rope(qkv, n, width, shape.n_heads + shape.n_kv_heads, shape.head_dim, d->rope, 1.0f);
        const ops_queries q = collect_queries(d, r, tail, done, first, n);
        ops_attention(&shape, n, qkv, &q, weights, out + done * d->query_width, d->scratch.attention);
        done += q.n;
        weights += shape.n_heads * n * n;
    }
}

/* y [rows][width] = rows row[i] of x, or with NULL all of them. */
static void copy_rows(float *y, const float *x, const int64_t *row, int64_t rows, int64_t width) {
    if (row) {
        ops_gather(y, x, row, rows, width);
    } else {
        memcpy(y, x, (size_t)(rows * width) * sizeof *y);
    }
}

/* One layer, from its record's input to out [rows][D]. Steps as in the formula on top of this file. */
static void run_layer(decoder *d, int32_t k, int64_t rows, float *out) {
    const decoder_layer *layer = &d->layers[k];
    layer_record *r = &d->records[k];
    const int64_t hidden = d->config.hidden;
    int64_t n_tail;
    const int64_t *tail = decoder_tail(d, k, &n_tail);
    float *next = tail ? d->scratch.out : out;
    ops_norm(r->input, NULL, rows, hidden, layer->norm1, d->config.norm_eps, d->scratch.normed, r->scale1);
    project(&layer->projections[PROJECT_QKV], rows, d->scratch.normed, 0.0f, r->qkv, r->low[PROJECT_QKV]);
    attend(d, k, r);
    copy_rows(r->middle, r->input, tail, n_tail, hidden);
    project(&layer->projections[PROJECT_O], n_tail, r->attention, 1.0f, r->middle, r->low[PROJECT_O]);
    ops_norm(r->middle, NULL, n_tail, hidden, layer->norm2, d->config.norm_eps, d->scratch.normed, r->scale2);
    project(&layer->projections[PROJECT_GATE_UP], n_tail, d->scratch.normed, 0.0f, r->gate_up, r->low[PROJECT_GATE_UP]);
    ops_swiglu(r->gate_up, NULL, n_tail, d->config.ffn_hidden, d->scratch.hidden);
    copy_rows(next, r->middle, NULL, n_tail, hidden);
    project(&layer->projections[PROJECT_DOWN], n_tail, d->scratch.hidden, 1.0f, next, r->low[PROJECT_DOWN]);
    if (tail) ops_scatter(out, next, tail, n_tail, rows, hidden);
}

/* The hook's look at a space; what fails in a hook is the library. */
static salf_status show_space(decoder_hook hook, void *user, int32_t space, int64_t rows, const float *states) {
    const salf_status status = hook ? hook(user, space, rows, states) : SALF_OK;
    return status ? decoder_fail_library(status) : SALF_OK;
}

salf_status decoder_forward(decoder *d, const decoder_batch *batch, int32_t keep, decoder_hook hook, void *user) {
    const int64_t hidden = d->config.hidden;
    const int32_t m = d->config.n_layers;
    batch_size size = {0, 0, 0};
    d->ready = 0;
    salf_status status = check_batch(d, batch, &size);
    if (status) return status;
    d->batch = *batch;
    d->kept = keep != 0;
    status = make_batch_room(d, &size);
    if (status) return status;
    for (int64_t i = 0; i < size.rows; i++)
        memcpy(d->records[0].input + i * hidden, d->embedding + batch->tokens[i] * hidden,
               (size_t)hidden * sizeof *d->embedding);
    for (int32_t k = 0; k < m; k++) {
        status = show_space(hook, user, k, size.rows, d->records[k].input);
        if (status) return status;
        run_layer(d, k, size.rows, k + 1 < m ? d->records[k + 1].input : d->last);
    }
    /* Before the last space is shown: a hook may read decoder_normed there. */
    ops_norm(d->last, batch->head_rows, batch->n_head_rows, hidden, d->final_norm, d->config.norm_eps, d->normed,
             d->final_scale);
    status = show_space(hook, user, m, size.rows, d->last);
    if (!status) d->ready = 1;
    return status;
}

const float *decoder_normed(const decoder *d) {
    return d->normed;
}
