/*
 * operations.c - the operations of a Llama layer, each followed by its backward.
 *
 * Plain loops, in the order in which memory lies; gcc -O3 makes vector instructions of them. Inputs of a backward are
 * what the forward saw. d_y is the gradient of the loss with respect to y; a d_x is added to where its comment says so.
 */
#include <math.h>
#include <string.h>

#include "trainer.h"

/* Sixteen sums side by side: a compiler may not reorder one sum of floats, but it may run these in vectors. */
enum { LANES = 16 };

float dot(int64_t n, const float *x, const float *y) {
    float lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j] * y[i + j];
    for (; i < n; i++) sum += x[i] * y[i];
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* y += factor x */
void add_scaled(int64_t n, float factor, const float *restrict x, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] += factor * x[i];
}

/* ---- RMSNorm: y = x r w, with r = 1 / sqrt(mean(x^2) + eps) ---- */

void norm_forward(span rows, int64_t width, double eps, const float *x, const float *weight, float *y, float *scale) {
    for (int64_t t = rows.from; t < rows.to; t++) {
        const float *x_t = x + t * width;
        scale[t] = (float)(1 / sqrt((double)dot(width, x_t, x_t) / (double)width + eps));
        for (int64_t i = 0; i < width; i++) y[t * width + i] = x_t[i] * scale[t] * weight[i];
    }
}

/* d_x += r (w d_y) - x r^3 / width * sum(w d_y x): the second term is there because r depends on all of x. It is added,
 * since the same x also goes past the norm, along the residual stream. */
void norm_backward(span rows, int64_t width, const float *x, const float *weight, const float *scale, const float *d_y,
                   float *d_x) {
    for (int64_t t = rows.from; t < rows.to; t++) {
        const float *x_t = x + t * width, *d_y_t = d_y + t * width, r = scale[t];
        double along = 0;
        for (int64_t i = 0; i < width; i++) along += (double)(weight[i] * d_y_t[i] * x_t[i]);
        const float share = (float)along * r * r * r / (float)width;
        for (int64_t i = 0; i < width; i++) d_x[t * width + i] += r * weight[i] * d_y_t[i] - share * x_t[i];
    }
}

/* ---- a linear map with its LoRA adapter: y = W x + bias + scale B (A x) ---- */

/* A row of W meets all rows of x while it is in the cache. */
void linear_forward(const linear *l, span rows, const float *x, float *y) {
    for (int64_t t = rows.from; t < rows.to; t++)
        for (int64_t r = 0; r < l->rank; r++) l->low[t * l->rank + r] = dot(l->in, l->a + r * l->in, x + t * l->in);
    for (int64_t o = 0; o < l->out; o++) {
        const float *w = l->w + o * l->in, *b = l->b + o * l->rank, bias = l->bias ? l->bias[o] : 0;
        for (int64_t t = rows.from; t < rows.to; t++)
            y[t * l->out + o] = bias + dot(l->in, w, x + t * l->in) + l->scale * dot(l->rank, b, l->low + t * l->rank);
    }
}

/* d_low = scale B^T d_y and d_x += W^T d_y + A^T d_low; where the layer trains d_B += scale d_y low^T,
 * d_A += d_low x^T. d_x NULL: nothing below needs it. */
void linear_backward(const linear *l, span rows, const float *x, const float *d_y, float *d_x, int trains) {
    const int64_t rank = l->rank;
    memset(l->d_low + rows.from * rank, 0, (size_t)((rows.to - rows.from) * rank) * sizeof *l->d_low);
    for (int64_t o = 0; o < l->out; o++) {
        for (int64_t t = rows.from; t < rows.to; t++) {
            const float g = d_y[t * l->out + o];
            add_scaled(rank, l->scale * g, l->b + o * rank, l->d_low + t * rank);
            if (d_x) add_scaled(l->in, g, l->w + o * l->in, d_x + t * l->in);
            if (trains) add_scaled(rank, l->scale * g, l->low + t * rank, l->d_b + o * rank);
        }
    }
    for (int64_t t = rows.from; t < rows.to; t++) {
        for (int64_t r = 0; r < rank; r++) {
            const float g = l->d_low[t * rank + r];
            if (d_x) add_scaled(l->in, g, l->a + r * l->in, d_x + t * l->in);
            if (trains) add_scaled(l->in, g, x + t * l->in, l->d_a + r * l->in);
        }
    }
}

/* ---- rotary positions: dimension i of a head turns together with dimension i + E/2 by an angle that grows with the
 * position. Its backward is the turn in the other direction. ---- */

void rotate(const heads *h, span sequence, int64_t n_heads, float *x, float direction) {
    const int64_t half = h->size / 2;
    for (int64_t t = sequence.from; t < sequence.to; t++) {
        const float *cosine = h->cosines + (t - sequence.from) * half, *sine = h->sines + (t - sequence.from) * half;
        for (int64_t n = 0; n < n_heads; n++) {
            float *low = x + (t * n_heads + n) * h->size, *high = low + half;
            for (int64_t i = 0; i < half; i++) {
                const float a = low[i], b = high[i], s = direction * sine[i];
                low[i] = a * cosine[i] - b * s;
                high[i] = b * cosine[i] + a * s;
            }
        }
    }
}

/* ---- causal attention, heads in groups that share keys and values ----
 * Of one head: weights_t = softmax over u <= t of q_t . k_u / sqrt(E), mixed_t = sum_u weights_tu v_u. */

void attention_forward(const heads *h, span sequence, const float *q, const float *k, const float *v, float *weights,
                       float *mixed) {
    const int64_t size = h->size, kv = h->groups * size;
    const float scale = (float)(1 / sqrt((double)size));
    for (int64_t t = sequence.from; t < sequence.to; t++) {
        for (int64_t n = 0; n < h->n; n++) {
            const int64_t group = n / (h->n / h->groups) * size;
            const float *q_t = q + (t * h->n + n) * size;
            float *w = weights + (t * h->n + n) * h->longest, *out = mixed + (t * h->n + n) * size;
            float most = -INFINITY, sum = 0;
            for (int64_t u = sequence.from, i = 0; u <= t; u++, i++) {
                w[i] = scale * dot(size, q_t, k + u * kv + group);
                most = w[i] > most ? w[i] : most;
            }
            for (int64_t i = 0; i <= t - sequence.from; i++) sum += w[i] = expf(w[i] - most);
            memset(out, 0, (size_t)size * sizeof *out);
            for (int64_t u = sequence.from, i = 0; u <= t; u++, i++) {
                w[i] /= sum;
                add_scaled(size, w[i], v + u * kv + group, out);
            }
        }
    }
}

/* d_weights_u = d_mixed . v_u; through the softmax d_score_u = weights_u (d_weights_u - sum_i weights_i d_weights_i).
 * d_q, d_k and d_v are added to, since every query sends gradients to all keys and values before it. */
void attention_backward(const heads *h, span sequence, const float *q, const float *k, const float *v,
                        const float *weights, const float *d_mixed, float *d_weights, float *d_q, float *d_k,
                        float *d_v) {
    const int64_t size = h->size, kv = h->groups * size;
    const float scale = (float)(1 / sqrt((double)size));
    for (int64_t t = sequence.from; t < sequence.to; t++) {
        for (int64_t n = 0; n < h->n; n++) {
            const int64_t group = n / (h->n / h->groups) * size, at = (t * h->n + n) * size;
            const float *w = weights + (t * h->n + n) * h->longest, *d_out = d_mixed + at;
            float mean = 0;
            for (int64_t u = sequence.from, i = 0; u <= t; u++, i++) {
                d_weights[i] = dot(size, d_out, v + u * kv + group);
                mean += w[i] * d_weights[i];
            }
            for (int64_t u = sequence.from, i = 0; u <= t; u++, i++) {
                const float d_score = scale * w[i] * (d_weights[i] - mean);
                add_scaled(size, w[i], d_out, d_v + u * kv + group);
                add_scaled(size, d_score, k + u * kv + group, d_q + at);
                add_scaled(size, d_score, q + at, d_k + u * kv + group);
            }
        }
    }
}

/* ---- SwiGLU: hidden = silu(gate) up, with silu(x) = x sigmoid(x) ---- */

void swiglu_forward(span rows, int64_t width, const float *gate, const float *up, float *hidden) {
    for (int64_t i = rows.from * width; i < rows.to * width; i++) hidden[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

void swiglu_backward(span rows, int64_t width, const float *gate, const float *up, const float *d_hidden, float *d_gate,
                     float *d_up) {
    for (int64_t i = rows.from * width; i < rows.to * width; i++) {
        const float sigmoid = 1 / (1 + expf(-gate[i])), silu = gate[i] * sigmoid;
        d_gate[i] = d_hidden[i] * up[i] * (sigmoid + silu * (1 - sigmoid));
        d_up[i] = d_hidden[i] * silu;
    }
}

/* ---- cross-entropy of logits z [n]: log sum exp(z) - z_label, whose gradient is softmax(z) - onehot(label) ---- */

/* Returns the loss; z becomes the gradient. */
double cross_entropy(int64_t n, float *z, int32_t label) {
    float most = z[0];
    for (int64_t i = 1; i < n; i++) most = z[i] > most ? z[i] : most;
    const double at_label = (double)(z[label] - most);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)(z[i] = expf(z[i] - most));
    for (int64_t i = 0; i < n; i++) z[i] = (float)((double)z[i] / sum);
    z[label] -= 1;
    return log(sum) - at_label;
}
