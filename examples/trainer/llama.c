/*
 * llama.c - forward and backward of a Llama decoder over a batch of prompts.
 *
 * Layer k makes latent space k+1 from space k, x being the stream:
 *     attention half:  x += W_o attention(W_q n, W_k n, W_v n)       with n = norm(x)
 *     SwiGLU half:     x += W_down (silu(W_gate n) W_up n)           with n = norm2(x)
 * The forward keeps what the backward reads; nothing is computed twice but the sigmoid.
 *
 * The backward of a sequence ends at its own cut. Sequences do not see each other, so a layer gets the sum of the
 * gradients of those that reach it, as if every sequence had been trained on its own.
 */
#include <math.h>
#include <string.h>

#include "trainer.h"

/* ---- memory ---- */

/* Adapters of all layers: A uniform in +-1 / sqrt(in), B zero, so that training starts from the model as it is. */
void llama_adapters(llama *l, int64_t rank, double alpha, uint64_t seed) {
    l->rank = rank;
    l->n_adapters = 0;
    for (int i = 0; i < LINEARS; i++) l->n_adapters += rank * (l->layers[0].linear[i].in + l->layers[0].linear[i].out);
    float *value = take(&l->parameters, l->n_layers * l->n_adapters, sizeof *value);
    float *gradient = take(&l->parameters, l->n_layers * l->n_adapters, sizeof *gradient);
    for (int32_t k = 0; k < l->n_layers; k++) {
        layer *y = &l->layers[k];
        y->adapters = value;
        y->gradients = gradient;
        for (int i = 0; i < LINEARS; i++) {
            linear *n = &y->linear[i];
            const int64_t count = rank * n->in;
            const double bound = 1 / sqrt((double)n->in);
            n->rank = rank;
            n->scale = (float)(alpha / (double)rank);
            n->a = value;
            n->d_a = gradient;
            n->b = value + count;
            n->d_b = gradient + count;
            value += count + rank * n->out;
            gradient += count + rank * n->out;
            for (int64_t j = 0; j < count; j++) {
                const uint64_t bits = mix(seed += GOLDEN);
                n->a[j] = (float)(bound * (2 * (((double)(bits >> 11) + 0.5) * 0x1p-53) - 1));
            }
        }
    }
}

static void take_activations(llama *l, activations *a, int64_t tokens) {
    const int64_t queries = l->heads.n * l->heads.size, keys = l->heads.groups * l->heads.size;
    const struct {
        float **array;
        int64_t width;
    } all[] = {
        {&a->normed, l->hidden}, {&a->q, queries},         {&a->k, keys},      {&a->v, keys},    {&a->mixed, queries},
        {&a->stream, l->hidden}, {&a->normed2, l->hidden}, {&a->gate, l->ffn}, {&a->up, l->ffn}, {&a->hidden, l->ffn}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        *all[i].array = take(&l->scratch, tokens * all[i].width, sizeof(float));
}

void llama_reserve(llama *l, int64_t sequences, int64_t longest) {
    const int64_t tokens = sequences * longest, half = l->heads.size / 2;
    free_chain(&l->scratch);
    l->spaces = take(&l->scratch, (l->n_layers + 1) * tokens * l->hidden, sizeof(float));
    l->normed = take(&l->scratch, sequences * l->hidden, sizeof(float));
    l->scale = take(&l->scratch, sequences, sizeof(float));
    l->logits = take(&l->scratch, sequences * l->vocab, sizeof(float));
    l->d_weights = take(&l->scratch, longest, sizeof(float));
    take_activations(l, &l->d, tokens);
    float *d_low = take(&l->scratch, tokens * l->rank, sizeof(float));
    for (int32_t k = 0; k < l->n_layers; k++) {
        layer *y = &l->layers[k];
        take_activations(l, &y->kept, tokens);
        y->scale = take(&l->scratch, tokens, sizeof(float));
        y->scale2 = take(&l->scratch, tokens, sizeof(float));
        y->weights = take(&l->scratch, tokens * l->heads.n * longest, sizeof(float));
        for (int i = 0; i < LINEARS; i++) {
            y->linear[i].low = take(&l->scratch, tokens * l->rank, sizeof(float));
            y->linear[i].d_low = d_low;
        }
    }
    /* Dimension i of a head turns by position * theta^(-2 i / E). */
    float *cosines = take(&l->scratch, longest * half, sizeof(float));
    float *sines = take(&l->scratch, longest * half, sizeof(float));
    for (int64_t t = 0; t < longest; t++) {
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)t * pow(l->rope_theta, -2.0 * (double)i / (double)l->heads.size);
            cosines[t * half + i] = (float)cos(angle);
            sines[t * half + i] = (float)sin(angle);
        }
    }
    l->heads.longest = longest;
    l->heads.cosines = cosines;
    l->heads.sines = sines;
}

void llama_free(llama *l) {
    free_chain(&l->parameters);
    free_chain(&l->scratch);
}

/* ---- forward ---- */

float *llama_space(const llama *l, int32_t space) {
    return l->spaces + space * l->n_tokens * l->hidden;
}

static void layer_forward(const llama *l, const layer *y, const batch *b, const float *x, float *next) {
    const span all = {0, l->n_tokens};
    const activations *a = &y->kept;
    /* 1. attention half, from x to the stream in the middle */
    norm_forward(all, l->hidden, l->norm_eps, x, y->norm, a->normed, y->scale);
    linear_forward(&y->linear[Q], all, a->normed, a->q);
    linear_forward(&y->linear[K], all, a->normed, a->k);
    linear_forward(&y->linear[V], all, a->normed, a->v);
    for (int64_t s = 0; s < b->n; s++) {
        const span sequence = {b->first[s], b->first[s + 1]};
        rotate(&l->heads, sequence, l->heads.n, a->q, 1);
        rotate(&l->heads, sequence, l->heads.groups, a->k, 1);
        attention_forward(&l->heads, sequence, a->q, a->k, a->v, y->weights, a->mixed);
    }
    linear_forward(&y->linear[O], all, a->mixed, a->stream);
    add_scaled(l->n_tokens * l->hidden, 1, x, a->stream);
    /* 2. SwiGLU half, from there to the next space */
    norm_forward(all, l->hidden, l->norm_eps, a->stream, y->norm2, a->normed2, y->scale2);
    linear_forward(&y->linear[GATE], all, a->normed2, a->gate);
    linear_forward(&y->linear[UP], all, a->normed2, a->up);
    swiglu_forward(all, l->ffn, a->gate, a->up, a->hidden);
    linear_forward(&y->linear[DOWN], all, a->hidden, next);
    add_scaled(l->n_tokens * l->hidden, 1, a->stream, next);
}

void llama_forward(llama *l, const batch *b) {
    const int64_t hidden = l->hidden;
    l->n_tokens = b->first[b->n];
    for (int64_t t = 0; t < l->n_tokens; t++)
        memcpy(l->spaces + t * hidden, l->embedding + b->tokens[t] * hidden, (size_t)hidden * sizeof(float));
    for (int32_t k = 0; k < l->n_layers; k++)
        layer_forward(l, &l->layers[k], b, llama_space(l, k), llama_space(l, k + 1));
}

/* logits [S][V] = W_o norm(h), h being the state of each sequence's last row. */
void llama_logits(llama *l, const batch *b) {
    const int64_t hidden = l->hidden;
    for (int64_t s = 0; s < b->n; s++) {
        norm_forward((span){0, 1}, hidden, l->norm_eps, llama_space(l, l->n_layers) + b->last[s] * hidden,
                     l->final_norm, l->normed + s * hidden, l->scale + s);
    }
    for (int64_t v = 0; v < l->vocab; v++)
        for (int64_t s = 0; s < b->n; s++)
            l->logits[s * l->vocab + v] = dot(hidden, l->head + v * hidden, l->normed + s * hidden);
}

void llama_losses(llama *l, const batch *b, float *losses) {
    llama_logits(l, b);
    for (int64_t s = 0; s < b->n; s++)
        losses[s] = (float)cross_entropy(l->vocab, l->logits + s * l->vocab, b->labels[s]);
}

/* ---- backward ---- */

static void clear(span rows, int64_t width, float *x) {
    memset(x + rows.from * width, 0, (size_t)((rows.to - rows.from) * width) * sizeof *x);
}

/* The backward of one sequence through layer k. d->stream holds the gradient of space k+1 at first and that of space k
 * at the end: each half adds its own part, while the part that passes it by stays in place. trains 0: the layer's
 * adapters get no gradient. lowest 1: nothing further down wants the gradient of space k. */
static void layer_backward(const llama *l, int32_t k, span sequence, int trains, int lowest) {
    const layer *y = &l->layers[k];
    const activations *a = &y->kept, *d = &l->d;
    const int64_t queries = l->heads.n * l->heads.size, keys = l->heads.groups * l->heads.size;
    /* 2. SwiGLU half */
    clear(sequence, l->ffn, d->hidden);
    linear_backward(&y->linear[DOWN], sequence, a->hidden, d->stream, d->hidden, trains);
    swiglu_backward(sequence, l->ffn, a->gate, a->up, d->hidden, d->gate, d->up);
    clear(sequence, l->hidden, d->normed2);
    linear_backward(&y->linear[GATE], sequence, a->normed2, d->gate, d->normed2, trains);
    linear_backward(&y->linear[UP], sequence, a->normed2, d->up, d->normed2, trains);
    norm_backward(sequence, l->hidden, a->stream, y->norm2, y->scale2, d->normed2, d->stream);
    /* 1. attention half */
    clear(sequence, queries, d->mixed);
    linear_backward(&y->linear[O], sequence, a->mixed, d->stream, d->mixed, trains);
    clear(sequence, queries, d->q);
    clear(sequence, keys, d->k);
    clear(sequence, keys, d->v);
    attention_backward(&l->heads, sequence, a->q, a->k, a->v, y->weights, d->mixed, l->d_weights, d->q, d->k, d->v);
    rotate(&l->heads, sequence, l->heads.n, d->q, -1);
    rotate(&l->heads, sequence, l->heads.groups, d->k, -1);
    float *d_normed = lowest ? NULL : d->normed;
    clear(sequence, l->hidden, d->normed);
    linear_backward(&y->linear[Q], sequence, a->normed, d->q, d_normed, trains);
    linear_backward(&y->linear[K], sequence, a->normed, d->k, d_normed, trains);
    linear_backward(&y->linear[V], sequence, a->normed, d->v, d_normed, trains);
    if (!lowest) norm_backward(sequence, l->hidden, llama_space(l, k), y->norm, y->scale, d_normed, d->stream);
}

/* Adds the gradients of the sum of the losses of the last forward.
 * cuts [S]: sequence s runs backward through layers m-1 ... cuts[s]; m: through none.
 * trainable [m]: 1 for the layers whose adapters get gradients. */
void llama_backward(llama *l, const batch *b, const int32_t *cuts, const uint8_t *trainable) {
    const int32_t m = l->n_layers;
    const int64_t hidden = l->hidden;
    /* 1. through head and final norm, to the last row of each sequence in space m; d.normed serves as scratch */
    for (int64_t s = 0; s < b->n; s++) {
        if (cuts[s] >= m) continue;
        clear((span){b->first[s], b->first[s + 1]}, hidden, l->d.stream);
        clear((span){0, 1}, hidden, l->d.normed);
        for (int64_t v = 0; v < l->vocab; v++)
            add_scaled(hidden, l->logits[s * l->vocab + v], l->head + v * hidden, l->d.normed);
        norm_backward((span){0, 1}, hidden, llama_space(l, m) + b->last[s] * hidden, l->final_norm, l->scale + s,
                      l->d.normed, l->d.stream + b->last[s] * hidden);
    }
    /* 2. down the layers, in each with the sequences whose cut is not above it */
    for (int32_t k = m - 1; k >= 0; k--)
        for (int64_t s = 0; s < b->n; s++)
            if (cuts[s] <= k) layer_backward(l, k, (span){b->first[s], b->first[s + 1]}, trainable[k], cuts[s] == k);
}
