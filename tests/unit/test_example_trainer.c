/*
 * test_example_trainer.c - gradients of examples/trainer against central differences of its own forward.
 *
 * The trainer's operations and model are compiled here in float64, so that differences are exact to eight digits and a
 * wrong factor anywhere shows. Every adapter weight of every layer is tried, with sequences of several lengths, one of
 * them a single token, and each with a cut of its own.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "salf.h"

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wkeyword-macro" /* it is the point here */
#endif
#define float double
#define expf exp
#include "../../examples/trainer/llama.c"
#include "../../examples/trainer/memory.c"
#include "../../examples/trainer/operations.c"
#undef float

#include "harness.h"

enum { LAYERS = 3, SEQUENCES = 4, VOCAB = 11, HIDDEN = 18, FFN = 21, RANK = 2 };

static double random_real(uint64_t *bits) {
    return (double)(int64_t)mix(*bits += GOLDEN) * 0x1p-63;
}

static double *random_reals(memory **chain, int64_t n, double size, uint64_t *bits) {
    double *values = take(chain, n, sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = size * random_real(bits);
    return values;
}

/* Four heads in two groups, widths that are no multiple of anything, biases on q, k and v, an untied head; A and B both
 * random, since a B of zeros would hide mistakes in the gradient of A. */
static void make_llama(llama *l) {
    uint64_t bits = 7;
    *l = (llama){.n_layers = LAYERS, .hidden = HIDDEN, .vocab = VOCAB, .ffn = FFN, .norm_eps = 1e-3, .rope_theta = 30};
    l->heads = (heads){.n = 4, .groups = 2, .size = 6};
    l->embedding = random_reals(&l->parameters, VOCAB * HIDDEN, 1, &bits);
    l->head = random_reals(&l->parameters, VOCAB * HIDDEN, 0.5, &bits);
    l->final_norm = random_reals(&l->parameters, HIDDEN, 1, &bits);
    l->layers = take(&l->parameters, LAYERS, sizeof *l->layers);
    const int64_t out[LINEARS] = {24, 12, 12, HIDDEN, FFN, FFN, HIDDEN};
    const int64_t in[LINEARS] = {HIDDEN, HIDDEN, HIDDEN, 24, HIDDEN, HIDDEN, FFN};
    for (int k = 0; k < LAYERS; k++) {
        l->layers[k].norm = random_reals(&l->parameters, HIDDEN, 1, &bits);
        l->layers[k].norm2 = random_reals(&l->parameters, HIDDEN, 1, &bits);
        for (int i = 0; i < LINEARS; i++) {
            linear *n = &l->layers[k].linear[i];
            n->in = in[i], n->out = out[i];
            n->w = random_reals(&l->parameters, out[i] * in[i], 0.5, &bits);
            if (i <= V) n->bias = random_reals(&l->parameters, out[i], 0.5, &bits);
        }
    }
    llama_adapters(l, RANK, 3, 1);
    for (int k = 0; k < LAYERS; k++)
        for (int64_t i = 0; i < l->n_adapters; i++) l->layers[k].adapters[i] = 0.3 * random_real(&bits);
    llama_reserve(l, SEQUENCES, 5);
}

static int32_t tokens[] = {1, 4, 2, 9, 10, 3, 3, 7, 0, 5, 5, 6}, labels[] = {2, 0, 10, 5};
static int64_t first[] = {0, 5, 6, 9, 12}, last[] = {4, 5, 8, 11};
static const batch prompts = {.n = SEQUENCES, .tokens = tokens, .first = first, .last = last, .labels = labels};

/* Sum of the losses of the sequences that layer k sees, so of what its gradient is the gradient of. */
static double loss_seen_by(llama *l, int k, const int32_t *cuts) {
    double losses[SEQUENCES], sum = 0;
    llama_forward(l, &prompts);
    llama_losses(l, &prompts, losses);
    for (int s = 0; s < SEQUENCES; s++) sum += cuts[s] <= k ? losses[s] : 0;
    return sum;
}

static void check_gradients(const int32_t *cuts, const uint8_t *trainable) {
    llama l;
    double losses[SEQUENCES], largest = 0;
    make_llama(&l);
    llama_forward(&l, &prompts);
    llama_losses(&l, &prompts, losses);
    llama_backward(&l, &prompts, cuts, trainable);
    for (int k = 0; k < LAYERS; k++) {
        for (int64_t i = 0; i < l.n_adapters; i++) {
            double *w = &l.layers[k].adapters[i];
            const double before = *w, step = 1e-5, got = l.layers[k].gradients[i];
            *w = before + step;
            const double above = loss_seen_by(&l, k, cuts);
            *w = before - step;
            const double below = loss_seen_by(&l, k, cuts);
            *w = before;
            const double expected = trainable[k] ? (above - below) / (2 * step) : 0;
            ck_assert_msg(fabs(got - expected) <= 1e-8 * (1 + fabs(expected)),
                          "layer %d, weight %lld: %.12g, not %.12g", k, (long long)i, got, expected);
            largest = fmax(largest, fabs(got));
        }
    }
    ck_assert_double_gt(largest, 0.01);
    llama_free(&l);
}

static const uint8_t all_train[LAYERS] = {1, 1, 1};

START_TEST(full_depth) {
    check_gradients((int32_t[SEQUENCES]){0, 0, 0, 0}, all_train);
}
END_TEST

START_TEST(every_sequence_at_its_own_cut) {
    check_gradients((int32_t[SEQUENCES]){2, 0, LAYERS, 1}, all_train);
}
END_TEST

START_TEST(one_layer_below_frozen_ones) {
    check_gradients((int32_t[SEQUENCES]){1, 1, 1, 1}, (const uint8_t[LAYERS]){0, 1, 0});
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, full_depth);
    HARNESS_ADD(suite, every_sequence_at_its_own_cut);
    HARNESS_ADD(suite, one_layer_below_frozen_ones);
}
