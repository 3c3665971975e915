/*
 * test_trainer_cuts.c - cuts that are known before the forward, and forwards that begin at a layer: gradients as
 * without them and as of one sequence at a time, over batches of several blocks, in less memory.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "small_decoder.h"

#define MANY 150  /* sequences: some 1,100 rows, so that layers run in several blocks */
#define ALL  2400 /* room for their rows */

typedef struct crowd {
    decoder *d;
    int32_t tokens[ALL];
    int64_t offsets[MANY + 1];
    int64_t head_rows[ALL];
    int32_t cuts[MANY];
    int32_t eof[MANY];
    float d_normed[ALL * 12];
    decoder_batch batch;
    float *states; /* [T][12] what a hook kept */
    int32_t space; /* of this space */
    int32_t shown; /* spaces that the hook has seen */
} crowd;

/* every_row 1: all rows are head rows, so that the last layer runs whole; 0: the last of each sequence, of some two or
 * none. Cuts ascend, and eof is the cut, or deeper for every third. */
static void make_crowd(crowd *c, const decoder_training *training, int32_t every_row, double embedding_scale) {
    decoder_config config = small_config(1, 0);
    uint64_t state = 77;
    memset(c, 0, sizeof *c);
    config.embedding_scale = embedding_scale;
    ck_assert_msg(decoder_create(&c->d, NULL, &config, training, 5) == SALF_OK, "%s", decoder_error());
    scramble(c->d);
    int64_t heads = 0;
    for (int64_t s = 0; s < MANY; s++) {
        const int64_t first = c->offsets[s], n = 1 + (int64_t)(14.0 * harness_uniform(&state));
        c->offsets[s + 1] = first + n;
        for (int64_t r = first; r < first + n; r++) c->tokens[r] = (int32_t)(23.0 * harness_uniform(&state));
        for (int64_t r = first; r < first + n; r++) {
            if (every_row || (r == first + n - 1 && s % 11 != 3) || (r == first && n > 1 && s % 7 == 2))
                c->head_rows[heads++] = r;
        }
        c->cuts[s] = (int32_t)(s * (N_LAYERS + 1) / MANY);
        c->eof[s] = s % 3 == 1 && c->cuts[s] < N_LAYERS ? c->cuts[s] + 1 : c->cuts[s];
    }
    for (int64_t i = 0; i < heads * 12; i++) c->d_normed[i] = (float)harness_normal(&state);
    c->batch = (decoder_batch){.tokens = c->tokens,
                               .offsets = c->offsets,
                               .n_sequences = MANY,
                               .head_rows = c->head_rows,
                               .n_head_rows = heads};
    ck_assert_int_gt(c->offsets[MANY], 2 * BLOCK_ROWS);
}

static void free_crowd(crowd *c) {
    decoder_free(c->d);
    free(c->states);
}

static salf_status keep_space(void *user, int32_t space, int64_t rows, const float *states) {
    crowd *c = user;
    c->shown++;
    if (space != c->space) return SALF_OK;
    c->states = realloc(c->states, (size_t)rows * 12 * sizeof(float));
    memcpy(c->states, states, (size_t)rows * 12 * sizeof(float));
    return SALF_OK;
}

/* Gradients of a batch, all parameters one after the other; zeros where nothing is live. */
static float *gradients_of(crowd *c, const decoder_batch *batch, const float *d_normed, const decoder_plan *plan) {
    decoder_clear_gradients(c->d);
    ck_assert_msg(decoder_forward(c->d, batch, 1, keep_space, c) == SALF_OK, "%s", decoder_error());
    ck_assert_msg(decoder_backward(c->d, d_normed, plan) == SALF_OK, "%s", decoder_error());
    int64_t count = 0;
    for (int64_t i = 0; i < decoder_n_parameters(c->d); i++) count += decoder_parameter_at(c->d, i)->count;
    float *all = calloc((size_t)count, sizeof *all), *at = all;
    for (int64_t i = 0; i < decoder_n_parameters(c->d); i++) {
        const decoder_parameter *p = decoder_parameter_at(c->d, i);
        if (p->trains && decoder_is_live(c->d, p->group)) memcpy(at, p->gradient, (size_t)p->count * sizeof *at);
        at += p->count;
    }
    return all;
}

static void check_same(const crowd *c, const float *got, const float *expected, double tolerance, const char *what) {
    for (int64_t i = 0, at = 0; i < decoder_n_parameters(c->d); i++) {
        const decoder_parameter *p = decoder_parameter_at(c->d, i);
        double largest = 0.0;
        for (int64_t j = 0; j < p->count; j++) largest = fmax(largest, fabs((double)expected[at + j]));
        for (int64_t j = 0; j < p->count; j++, at++) {
            ck_assert_msg(fabs((double)got[at] - (double)expected[at]) <= tolerance * largest,
                          "%s: %s[%lld] %g, not %g", what, p->name, (long long)j, (double)got[at],
                          (double)expected[at]);
        }
    }
}

/* The sum over sequences, each in a batch of its own. */
static float *one_at_a_time(crowd *c, const decoder_plan *plan) {
    float *sum = NULL;
    int64_t count = 0, head = 0;
    for (int64_t i = 0; i < decoder_n_parameters(c->d); i++) count += decoder_parameter_at(c->d, i)->count;
    for (int64_t s = 0; s < MANY; s++) {
        const int64_t from = c->offsets[s], offsets[] = {0, c->offsets[s + 1] - from}, begin = head;
        int64_t rows[16];
        for (; head < c->batch.n_head_rows && c->head_rows[head] < c->offsets[s + 1]; head++)
            rows[head - begin] = c->head_rows[head] - from;
        const decoder_batch one = {.tokens = c->tokens + from,
                                   .offsets = offsets,
                                   .n_sequences = 1,
                                   .head_rows = rows,
                                   .n_head_rows = head - begin};
        const decoder_plan own = {plan->eof + s, plan->trainable, plan->train_embedding, plan->train_head};
        float *part = gradients_of(c, &one, c->d_normed + begin * 12, &own);
        for (int64_t i = 0; sum && i < count; i++) sum[i] += part[i];
        if (sum) free(part);
        if (!sum) sum = part;
    }
    return sum;
}

START_TEST(gradients_are_those_without_cuts_and_of_one_at_a_time) {
    static const uint8_t some[N_LAYERS] = {0, 1, 0, 1};
    for (int i = 0; i < 8; i++) {
        const decoder_training training = {.lora_rank = i % 2 ? 3 : 0, .train_embedding = 1, .train_head = 1};
        crowd *c = malloc(sizeof *c);
        make_crowd(c, &training, i / 2 % 2, 1);
        const decoder_plan plan = {c->eof, i / 4 ? some : NULL, 1, 1};
        float *single = one_at_a_time(c, &plan), *without = gradients_of(c, &c->batch, c->d_normed, &plan);
        c->batch.cuts = c->cuts;
        float *with = gradients_of(c, &c->batch, c->d_normed, &plan);
        check_same(c, with, without, 2e-6, "with and without cuts");
        check_same(c, with, single, 1e-5, "one at a time");
        free(single), free(with), free(without);
        free_crowd(c);
        free(c);
    }
}
END_TEST

START_TEST(gradients_with_cuts_agree_with_differences) {
    static const int32_t cuts[][N_SEQUENCES] = {{0, 1, 2, 3, 4}, {1, 1, 2, 2, 2}, {0, 0, 0, 0, 4}};
    for (int i = 0; i < 6; i++) {
        const decoder_training training = {.lora_rank = i % 2 ? 3 : 0, .train_embedding = 1, .train_head = 1};
        const decoder_plan plan = {cuts[i / 2], NULL, 1, 1};
        small_case c;
        make_case(&c, 1, 0, &training);
        c.batch.cuts = cuts[i / 2];
        check_gradients(&c, &plan);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(a_forward_that_begins_at_given_states_ends_as_the_whole_one) {
    const decoder_training lora = {.lora_rank = 3, .train_head = 1};
    for (int32_t start = 1; start <= N_LAYERS; start++) {
        for (int32_t cuts = 0; cuts < 2; cuts++) {
            crowd *c = malloc(sizeof *c);
            make_crowd(c, &lora, cuts, cuts ? 1 : 3); /* states that are given are scaled already */
            for (int64_t s = 0; s < MANY; s++) {
                if (c->cuts[s] < start) c->cuts[s] = start;
                if (c->eof[s] < start) c->eof[s] = start;
            }
            const decoder_plan plan = {c->eof, NULL, 0, 1};
            c->space = start;
            float *whole = gradients_of(c, &c->batch, c->d_normed, &plan);
            ck_assert_int_eq(c->shown, N_LAYERS + 1);
            const size_t bytes = (size_t)c->batch.n_head_rows * 12 * sizeof(float);
            float *normed = malloc(bytes), *states = c->states;
            memcpy(normed, decoder_normed(c->d), bytes);
            c->states = NULL;
            c->shown = 0;
            c->batch.first_layer = start;
            c->batch.states = states;
            if (cuts) c->batch.cuts = c->cuts;
            float *rest = gradients_of(c, &c->batch, c->d_normed, &plan);
            ck_assert_int_eq(c->shown, N_LAYERS + 1 - start);
            ck_assert_mem_eq(states, c->states, (size_t)c->offsets[MANY] * 12 * sizeof(float));
            ck_assert_mem_eq(normed, decoder_normed(c->d), bytes);
            check_same(c, rest, whole, 2e-6, "from states");
            free(whole), free(rest), free(normed), free(states);
            free_crowd(c);
            free(c);
        }
    }
}
END_TEST

/* Six layers as a model of 3 million parameters has them, 64 sequences of 40 tokens, LoRA on all matrices. */
START_TEST(half_the_depth_needs_little_more_than_half_the_memory) {
    const decoder_config config = {.n_layers = 6,
                                   .n_heads = 6,
                                   .n_kv_heads = 2,
                                   .head_dim = 32,
                                   .hidden = 192,
                                   .ffn_hidden = 512,
                                   .vocab = 4096,
                                   .max_positions = 512,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 1e4,
                                   .tied = 1,
                                   .bos_token = -1,
                                   .eos_token = -1};
    const decoder_training lora = {.lora_rank = 8};
    static int32_t tokens[64 * 40], labels[64], cuts[64];
    static int64_t offsets[65], last[64];
    int64_t bytes[2];
    for (int s = 0; s < 64; s++) {
        offsets[s + 1] = (s + 1) * 40;
        last[s] = offsets[s + 1] - 1;
        cuts[s] = 3;
    }
    for (int half = 0; half < 2; half++) {
        const decoder_batch batch = {.tokens = tokens,
                                     .offsets = offsets,
                                     .n_sequences = 64,
                                     .head_rows = last,
                                     .n_head_rows = 64,
                                     .cuts = half ? cuts : NULL};
        const decoder_plan plan = {.eof = half ? cuts : NULL};
        float losses[64], *d_normed = malloc(64 * 192 * sizeof *d_normed);
        decoder *d;
        ck_assert_int_eq(decoder_create(&d, NULL, &config, &lora, 1), SALF_OK);
        ck_assert_int_eq(decoder_extra_bytes(d), 0);
        ck_assert_int_eq(decoder_forward(d, &batch, 1, NULL, NULL), SALF_OK);
        ck_assert_int_eq(decoder_cross_entropy(d, labels, 1.0, 0, losses, d_normed), SALF_OK);
        ck_assert_int_eq(decoder_backward(d, d_normed, &plan), SALF_OK);
        bytes[half] = decoder_extra_bytes(d);
        decoder_free(d);
        free(d_normed);
    }
    ck_assert_msg((double)bytes[1] <= 0.6 * (double)bytes[0], "%lld of %lld bytes", (long long)bytes[1],
                  (long long)bytes[0]);
}
END_TEST

START_TEST(what_contradicts_itself_is_named) {
    const decoder_training lora = {.lora_rank = 2};
    static const float states[18 * 12];
    static const int32_t falling[] = {0, 2, 1, 3, 3}, deep[] = {0, 1, 2, 3, 5}, below[] = {0, 1, 2, 3, 4};
    static const int32_t eof[] = {0, 1, 1, 4, 4}, low[] = {1, 1, 2, 3, 3}, negative[] = {-1, 0, 0, 0, 0};
    small_case c;
    make_case(&c, 0, 1, &lora);
    c.batch.cuts = falling;
    CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "sequence 2 is 1");
    c.batch.cuts = deep;
    CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "sequence 4 is 5");
    c.batch.cuts = negative;
    CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "sequence 0 is -1");
    c.batch.cuts = below;
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    decoder_plan plan = {.eof = eof};
    CHECK_REFUSED(decoder_backward(c.d, c.d_normed, &plan), SALF_E_SEQUENCE, "sequence 2 is 1, below its cut 2");
    CHECK_REFUSED(decoder_backward(c.d, c.d_normed, NULL), SALF_E_SEQUENCE, "sequence 1 is 0");
    c.batch.first_layer = 1;
    CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "not given");
    c.batch.states = states;
    CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "sequence 0 is 0");
    c.batch.cuts = NULL;
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    plan.eof = low;
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, &plan), SALF_OK);
    plan.eof = below;
    CHECK_REFUSED(decoder_backward(c.d, c.d_normed, &plan), SALF_E_SEQUENCE, "sequence 0 is 0, below its cut 1");
    c.batch.first_layer = 0;
    CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "states are given");
    for (int32_t wrong = -1; wrong <= N_LAYERS + 1; wrong += N_LAYERS + 2) {
        c.batch.first_layer = wrong;
        CHECK_REFUSED(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_E_ARGUMENT, "first_layer is");
    }
    decoder_free(c.d);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, gradients_are_those_without_cuts_and_of_one_at_a_time);
    HARNESS_ADD(suite, gradients_with_cuts_agree_with_differences);
    HARNESS_ADD(suite, a_forward_that_begins_at_given_states_ends_as_the_whole_one);
    HARNESS_ADD(suite, half_the_depth_needs_little_more_than_half_the_memory);
    HARNESS_ADD(suite, what_contradicts_itself_is_named);
}
