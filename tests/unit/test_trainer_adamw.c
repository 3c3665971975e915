/*
 * test_trainer_adamw.c - the optimizer of the host program against its formula in double precision, and what it leaves
 * alone.
 */
#include <math.h>
#include <string.h>

#include "adamw.h"
#include "harness.h"

#define N_LAYERS 3

static const int32_t TOKENS[] = {1, 4, 2, 6, 6, 3};
static const int64_t OFFSETS[] = {0, 4, 6}, HEAD_ROWS[] = {3, 5};
static const decoder_batch BATCH = {
    .tokens = TOKENS, .offsets = OFFSETS, .n_sequences = 2, .head_rows = HEAD_ROWS, .n_head_rows = 2};

static decoder *make_decoder(const decoder_training *training) {
    const decoder_config config = {.n_layers = N_LAYERS,
                                   .n_heads = 2,
                                   .n_kv_heads = 1,
                                   .head_dim = 4,
                                   .hidden = 8,
                                   .ffn_hidden = 12,
                                   .vocab = 9,
                                   .max_positions = 16,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 100.0,
                                   .tied = 1};
    decoder *d;
    ck_assert_msg(decoder_create(&d, NULL, &config, training, 3) == SALF_OK, "%s", decoder_error());
    return d;
}

/* Gradients of the layers that the mask names; different in every call. */
static void run(decoder *d, const uint8_t *trainable, uint64_t *state) {
    float d_normed[16];
    for (int i = 0; i < 16; i++) d_normed[i] = (float)harness_normal(state);
    const decoder_plan plan = {NULL, trainable, 0, 0};
    decoder_clear_gradients(d);
    ck_assert_int_eq(decoder_forward(d, &BATCH, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_backward(d, d_normed, &plan), SALF_OK);
}

START_TEST(steps_follow_the_formula_with_the_layers_own_count) {
    const decoder_training dense = {0};
    const adamw_options options = {.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};
    static const uint8_t masks[][N_LAYERS] = {{1, 1, 1}, {0, 0, 1}, {1, 0, 1}, {0, 0, 1}};
    decoder *d = make_decoder(&dense);
    adamw *a;
    ck_assert_int_eq(adamw_create(&a, d, &options), SALF_OK);
    static double w[64][128], m[64][128], v[64][128];
    int64_t t[N_LAYERS] = {0};
    uint64_t state = 8;
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        for (int64_t j = 0; j < decoder_parameter_at(d, i)->count; j++) w[i][j] = decoder_parameter_at(d, i)->values[j];
    }
    for (int step = 0; step < 4; step++) {
        const double scale[N_LAYERS] = {1.0, 0.5, 2.0};
        run(d, masks[step], &state);
        for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
            const decoder_parameter *p = decoder_parameter_at(d, i);
            if (p->group < 0 || p->group >= N_LAYERS || !masks[step][p->group]) continue;
            const double count = (double)(t[p->group] + 1), lr = 0.01 * scale[p->group];
            for (int64_t j = 0; j < p->count; j++) {
                const double g = p->gradient[j];
                m[i][j] = 0.8 * m[i][j] + 0.2 * g;
                v[i][j] = 0.95 * v[i][j] + 0.05 * g * g;
                const double move =
                    m[i][j] / (1.0 - pow(0.8, count)) / (sqrt(v[i][j] / (1.0 - pow(0.95, count))) + 1e-6);
                w[i][j] -= lr * (move + (p->rows > 1 ? 0.1 * w[i][j] : 0.0));
            }
        }
        for (int k = 0; k < N_LAYERS; k++) t[k] += masks[step][k];
        ck_assert_int_eq(adamw_step(a, 0.01, scale), SALF_OK);
    }
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        const decoder_parameter *p = decoder_parameter_at(d, i);
        for (int64_t j = 0; j < p->count; j++) {
            ck_assert_msg(fabs((double)p->values[j] - w[i][j]) < 2e-5, "%s[%d]: %.8g, not %.8g", p->name, (int)j,
                          (double)p->values[j], w[i][j]);
        }
    }
    for (int k = 0; k < N_LAYERS; k++) ck_assert_int_eq(adamw_steps(a)[k + 1], t[k]);
    adamw_free(a);
    decoder_free(d);
}
END_TEST

START_TEST(frozen_layers_keep_every_bit) {
    const decoder_training dense = {0};
    const adamw_options options = {.weight_decay = 0.5};
    static const uint8_t all[] = {1, 1, 1}, top[] = {0, 0, 1};
    decoder *d = make_decoder(&dense);
    adamw *a;
    uint64_t state = 2;
    static float values[4096], moments[4096];
    ck_assert_int_eq(adamw_create(&a, d, &options), SALF_OK);
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        float *first, *second;
        adamw_moments(a, i, &first, &second);
        ck_assert(!first && !second);
    }
    run(d, all, &state);
    ck_assert_int_eq(adamw_step(a, 0.1, NULL), SALF_OK);
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        const decoder_parameter *p = decoder_parameter_at(d, i);
        float *first, *second;
        adamw_moments(a, i, &first, &second);
        ck_assert_int_eq(first != NULL, p->group >= 0 && p->group < N_LAYERS);
        if (p->group != 0) continue;
        memcpy(values, p->values, (size_t)p->count * 4);
        memcpy(moments, first, (size_t)p->count * 8);
        run(d, top, &state);
        ck_assert_int_eq(adamw_step(a, 0.1, NULL), SALF_OK);
        ck_assert_mem_eq(values, p->values, (size_t)p->count * 4);
        ck_assert_mem_eq(moments, first, (size_t)p->count * 8);
    }
    ck_assert_int_eq(adamw_steps(a)[1], 1);
    adamw_free(a);
    decoder_free(d);
}
END_TEST

START_TEST(a_rate_scale_of_zero_leaves_a_layer_alone_and_reset_forgets) {
    const decoder_training lora = {.lora_rank = 2};
    static const double scale[] = {1.0, 0.0, 1.0};
    decoder *d = make_decoder(&lora);
    adamw *a;
    uint64_t state = 2;
    float *first, *second;
    ck_assert_int_eq(adamw_create(&a, d, NULL), SALF_OK);
    for (int step = 0; step < 2; step++) {
        run(d, NULL, &state);
        ck_assert_int_eq(adamw_step(a, 0.1, scale), SALF_OK);
    }
    ck_assert_int_eq(adamw_steps(a)[1], 2);
    ck_assert_int_eq(adamw_steps(a)[2], 0);
    adamw_reset(a, 0);
    ck_assert_int_eq(adamw_steps(a)[1], 0);
    ck_assert_int_eq(adamw_steps(a)[3], 2);
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        const decoder_parameter *p = decoder_parameter_at(d, i);
        adamw_moments(a, i, &first, &second);
        ck_assert_int_eq(first != NULL, p->trains && p->group == 2);
        ck_assert_int_eq(adamw_make_moments(a, i, &first, &second), p->trains ? SALF_OK : SALF_E_ARGUMENT);
    }
    adamw_free(a);
    const adamw_options bad = {.beta2 = 1.0};
    ck_assert_int_eq(adamw_create(&a, d, &bad), SALF_E_ARGUMENT);
    ck_assert(!a && harness_contains(decoder_error(), "beta2 is 1"));
    decoder_free(d);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, steps_follow_the_formula_with_the_layers_own_count);
    HARNESS_ADD(suite, frozen_layers_keep_every_bit);
    HARNESS_ADD(suite, a_rate_scale_of_zero_leaves_a_layer_alone_and_reset_forgets);
}
