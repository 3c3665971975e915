/*
 * decoder_room.c - a batch is checked, and gets its memory.
 *
 * Kept for the backward, for each layer and each row of a sequence whose cut is not above it: 3 D + 2 Q + 2 KV + G
 * floats, and n a head for the attention weights; 2 D more where what a block adds to the stream has norms, Q + KV
 * where queries and keys have. As cuts ascend, these rows are the first of the batch. Everything else is one space or
 * two [T][D], the stream's gradient [T][D], and what a block of rows needs.
 */
#include <stdint.h>
#include <stdlib.h>

#include "decoder_internal.h"
#include "memory.h"
#include "ops.h"

/* What the layout depends on. */
typedef struct batch_size {
    int64_t rows;    /* T */
    int64_t longest; /* rows of the longest sequence */
    int64_t block;   /* rows of the largest block */
} batch_size;

/* ---- checks ---- */

#define MOST_ROWS (1 << 24) /* so that row counts times widths stay far below 2^63, and fit BLAS's integers */

int32_t decoder_cut(const decoder *d, int64_t sequence) {
    return d->batch.cuts ? d->batch.cuts[sequence] : d->batch.first_layer;
}

/* Cuts ascend, so that a layer keeps the first rows; states and the space they are of belong together. */
static salf_status check_start(const decoder *d, const decoder_batch *b) {
    const int32_t m = d->config.n_layers;
    if (b->first_layer < 0 || b->first_layer > m)
        return decoder_fail(SALF_E_ARGUMENT, "first_layer is %d, not 0 ... %d", (int)b->first_layer, (int)m);
    if (!b->states != !b->first_layer)
        return decoder_fail(SALF_E_ARGUMENT, "first_layer is %d, but states are %sgiven", (int)b->first_layer,
                            b->states ? "" : "not ");
    for (int64_t s = 0; b->cuts && s < b->n_sequences; s++) {
        const int32_t low = s ? b->cuts[s - 1] : b->first_layer;
        if (b->cuts[s] < low || b->cuts[s] > m)
            return decoder_fail(SALF_E_ARGUMENT, "the cut of sequence %lld is %d, not %d ... %d: cuts ascend%s",
                                (long long)s, (int)b->cuts[s], (int)low, (int)m, s ? "" : " from first_layer");
    }
    return SALF_OK;
}

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
        size->rows += n;
        if (size->rows > MOST_ROWS) return decoder_fail(SALF_E_ARGUMENT, "the batch has more than %d rows", MOST_ROWS);
    }
    size->block = size->rows < BLOCK_ROWS ? size->rows : BLOCK_ROWS;
    if (size->block < size->longest) size->block = size->longest;
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
    return check_start(d, b);
}

/* ---- layout ---- */

/* A range of a's memory for count floats; NULL while measuring. Ranges begin at cache lines: 16 floats are 64 bytes. */
static float *arena_take(arena *a, int64_t count) {
    const int64_t first = a->used;
    a->used += (count + 15) / 16 * 16;
    return a->measuring ? NULL : a->memory + first;
}

const int64_t *decoder_tail(const decoder *d, int32_t k) {
    const int64_t rows = d->batch.offsets[d->batch.n_sequences];
    return k == d->config.n_layers - 1 && d->batch.n_head_rows < rows ? d->batch.head_rows : NULL;
}

/* Arrays of a record for its rows. weights: floats of attention weights, 0 where nobody keeps them. */
static void lay_out_record(decoder *d, int32_t k, layer_record *r, int64_t weights) {
    arena *a = &d->arena;
    const decoder_layer *layer = &d->layers[k];
    const int64_t hidden = d->config.hidden;
    r->moments1 = arena_take(a, 2 * r->rows);
    r->raw = layer->norms[NORM_Q].weight ? arena_take(a, r->rows * (d->query_width + d->kv_width)) : NULL;
    r->qkv = arena_take(a, r->rows * (d->query_width + 2 * d->kv_width));
    r->weights = weights ? arena_take(a, weights) : NULL;
    r->attention = arena_take(a, r->tail * d->query_width);
    r->attended = layer->norms[NORM_ATTENDED].weight ? arena_take(a, r->tail * hidden) : NULL;
    r->moments_attended = arena_take(a, 2 * r->tail);
    r->middle = arena_take(a, r->tail * hidden);
    r->moments2 = arena_take(a, 2 * r->tail);
    r->gate_up = arena_take(a, r->tail * d->gate_width);
    r->fed = layer->norms[NORM_FED].weight ? arena_take(a, r->tail * hidden) : NULL;
    r->moments_fed = arena_take(a, 2 * r->tail);
    for (int i = 0; i < N_PROJECTIONS; i++) {
        const projection *p = &layer->projections[i];
        r->low[i] = arena_take(a, (i == PROJECT_QKV ? r->rows : r->tail) * p->n_adapters * p->rank);
    }
}

/* What each layer keeps, and the spaces: one that a record holds whole lies there, the others alternate between two
 * buffers, as a layer reads one and writes the other. */
static void lay_out_records(decoder *d, const batch_size *size) {
    const decoder_batch *b = &d->batch;
    const int32_t m = d->config.n_layers;
    int needed[2] = {0, 0};
    d->spaces[0] = d->spaces[1] = NULL;
    needed[m % 2] = 1; /* the last space */
    for (int32_t k = b->first_layer; k < m; k++) {
        layer_record *r = &d->records[k];
        const int heads_only = decoder_tail(d, k) != NULL;
        int64_t n = 0, heads = 0, weights = 0;
        while (d->kept && n < b->n_sequences && decoder_cut(d, n) <= k) {
            const int64_t length = b->offsets[n + 1] - b->offsets[n], before = heads;
            n++;
            while (heads < b->n_head_rows && b->head_rows[heads] < b->offsets[n]) heads++;
            weights += d->config.n_heads * length * (heads_only ? heads - before : length);
        }
        *r = (layer_record){.sequences = n, .rows = b->offsets[n]};
        r->tail = heads_only ? heads : r->rows;
        if (n < b->n_sequences) needed[k % 2] = 1;
        if (n == 0) continue;
        r->input = arena_take(&d->arena, r->rows * d->config.hidden);
        lay_out_record(d, k, r, weights);
    }
    for (int i = 0; i < 2; i++) {
        if (needed[i]) d->spaces[i] = arena_take(&d->arena, size->rows * d->config.hidden);
    }
    d->last = d->spaces[m % 2];
}

#define TILE_FLOATS (1 << 20) /* logits held at a time, 4 MiB: a few rows of a large vocabulary, all of a small one */

/* What is used within one pass; the second half only where a backward will follow. */
static void lay_out_scratch(decoder *d, const batch_size *size) {
    decoder_scratch *s = &d->scratch;
    arena *a = &d->arena;
    const int64_t rows = size->block, heads = d->batch.n_head_rows, hidden = d->config.hidden;
    const int64_t ffn = d->config.ffn_hidden, some = heads < rows ? heads : rows;
    const ops_heads *shape = &d->layers[0].heads; /* all layers need the same room, and have the same adapters */
    const int in_one = d->layers[0].norms[NORM_ATTENDED].weight == NULL && d->config.layers.residual_scale == 1.0;
    d->unkept = (layer_record){.rows = rows, .tail = rows};
    lay_out_record(d, 0, &d->unkept, 0);
    s->normed = arena_take(a, rows * hidden);
    s->branch = arena_take(a, in_one ? 0 : rows * hidden);
    s->moments = arena_take(a, 2 * (int64_t)d->config.n_heads);
    s->hidden = arena_take(a, rows * ffn);
    s->tail = arena_take(a, heads * hidden);
    d->final_moments = arena_take(a, 2 * heads);
    d->normed = arena_take(a, heads * hidden);
    s->attention = arena_take(a, ops_attention_scratch(shape, size->longest, d->kept));
    s->query = arena_take(a, some * d->query_width);
    if (d->kept) {
        int64_t low = 0; /* widest x A^T */
        for (int i = 0; i < N_PROJECTIONS; i++) {
            const projection *p = &d->layers[0].projections[i];
            const int64_t width = (int64_t)p->n_adapters * p->rank;
            if (width > low) low = width;
        }
        s->d_stream = arena_take(a, size->rows * hidden);
        s->d_normed = arena_take(a, rows * hidden);
        s->d_branch = arena_take(a, in_one ? 0 : rows * hidden);
        s->raw = arena_take(a, d->query_width + d->kv_width);
        s->d_heads = arena_take(a, some * hidden);
        s->d_qkv = arena_take(a, rows * (d->query_width + 2 * d->kv_width));
        s->d_attention = arena_take(a, rows * d->query_width);
        s->gathered = arena_take(a, rows * d->query_width);
        s->d_query = arena_take(a, some * d->query_width);
        s->d_gate_up = arena_take(a, rows * d->gate_width);
        s->d_hidden = arena_take(a, rows * ffn);
        s->low = arena_take(a, rows * low);
        s->d_low = arena_take(a, rows * low);
    }
    d->tile_rows = TILE_FLOATS / d->config.vocab;
    if (d->tile_rows < 1) d->tile_rows = 1;
    if (d->tile_rows > heads) d->tile_rows = heads;
    d->tile = arena_take(a, d->tile_rows * d->config.vocab);
    d->capped = d->config.logit_softcap > 0.0 ? arena_take(a, d->config.vocab) : NULL;
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
        const int64_t half = d->config.layers.rotary_dims / 2;
        d->rope_positions = 0;
        for (int32_t local = 0; local < (d->config.layers.local_rope_theta > 0.0 ? 2 : 1); local++) {
            double *frequencies = memory_take(half, sizeof *frequencies);
            free(d->rope[local]);
            d->rope[local] = memory_take(size->longest * 2 * half, sizeof *d->rope[local]);
            if (frequencies && d->rope[local]) {
                const double factor = decoder_frequencies(&d->config, local, frequencies);
                ops_rope_table(d->rope[local], size->longest, half, frequencies, factor);
            }
            free(frequencies);
            if (!frequencies || !d->rope[local])
                return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld positions", (long long)size->longest);
        }
        d->rope_positions = size->longest;
    }

    /* 3. the backward's index arrays: 6 for each sequence, 2 for each row and 3 for each head row */
    const int64_t need = 6 * d->batch.n_sequences + 2 * size->rows + 3 * d->batch.n_head_rows + 3;
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

salf_status decoder_prepare(decoder *d, const decoder_batch *batch, int32_t keep) {
    batch_size size;
    const salf_status status = check_batch(d, batch, &size);
    if (status) return status;
    d->batch = *batch;
    d->kept = keep != 0;
    return make_batch_room(d, &size);
}

int64_t decoder_extra_bytes(const decoder *d) {
    const int64_t tables = d->config.layers.local_rope_theta > 0.0 ? 2 : 1;
    int64_t floats = d->arena.capacity + tables * d->rope_positions * d->config.layers.rotary_dims;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        const decoder_parameter *p = &d->parameters[i];
        if (p->gradient && d->live[p->group + 1]) floats += p->count;
    }
    return floats * (int64_t)sizeof(float) + d->order_capacity * (int64_t)sizeof *d->order;
}
