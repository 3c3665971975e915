/*
 * adamw.c - the optimizer, one layer at a time, since a frozen layer must not move at all: a step with zero gradients
 * would still move it by its momentum and its weight decay. For the same reason every layer counts its own steps t:
 *     first  = b1 first  + (1 - b1) g
 *     second = b2 second + (1 - b2) g^2
 *     w     -= rate (first / (1 - b1^t)) / (sqrt(second / (1 - b2^t)) + eps)
 * The weight decay of AdamW, w -= rate decay w, is left out: `salf finetune` has none by default either.
 */
#include <math.h>
#include <string.h>

#include "trainer.h"

static const double BETA1 = 0.9, BETA2 = 0.999; /* as proposed by Kingma and Ba (ICLR 2015), and eps below */

void adamw_open(adamw *a, const llama *l) {
    *a = (adamw){0};
    a->first = take(&a->memory, l->n_layers, sizeof *a->first);
    a->second = take(&a->memory, l->n_layers, sizeof *a->second);
    a->steps = take(&a->memory, l->n_layers, sizeof *a->steps);
    float *first = take(&a->memory, l->n_layers * l->n_adapters, sizeof *first);
    float *second = take(&a->memory, l->n_layers * l->n_adapters, sizeof *second);
    for (int32_t k = 0; k < l->n_layers; k++) {
        a->first[k] = first + k * l->n_adapters;
        a->second[k] = second + k * l->n_adapters;
    }
}

void adamw_reset(adamw *a, const llama *l, int32_t k) {
    memset(a->first[k], 0, (size_t)l->n_adapters * sizeof(float));
    memset(a->second[k], 0, (size_t)l->n_adapters * sizeof(float));
    a->steps[k] = 0;
}

void adamw_step(adamw *a, llama *l, int32_t k, double rate) {
    const double t = (double)++a->steps[k];
    const float step = (float)(rate / (1 - pow(BETA1, t))), correction = (float)(1 / (1 - pow(BETA2, t)));
    const float beta1 = (float)BETA1, beta2 = (float)BETA2, eps = 1e-8f;
    float *first = a->first[k], *second = a->second[k], *w = l->layers[k].adapters;
    const float *g = l->layers[k].gradients;
    for (int64_t i = 0; i < l->n_adapters; i++) {
        first[i] = beta1 * first[i] + (1 - beta1) * g[i];
        second[i] = beta2 * second[i] + (1 - beta2) * g[i] * g[i];
        w[i] -= step * first[i] / (sqrtf(second[i] * correction) + eps);
    }
}

/* Multiplies all gradients by factor, and by less where their norm would be above `most` (0: no limit). */
void scale_gradients(llama *l, double factor, double most) {
    double sum = 0;
    for (int32_t k = 0; k < l->n_layers; k++)
        for (int64_t i = 0; i < l->n_adapters; i++)
            sum += (double)l->layers[k].gradients[i] * (double)l->layers[k].gradients[i];
    const double norm = factor * sqrt(sum);
    if (most > 0 && norm > most) factor *= most / norm;
    for (int32_t k = 0; k < l->n_layers; k++)
        for (int64_t i = 0; i < l->n_adapters; i++)
            l->layers[k].gradients[i] = (float)(factor * (double)l->layers[k].gradients[i]);
}
