/*
 * test_trainer_architectures.c - every architecture that salf_decoder_info can say, against the plain double-precision
 * forward pass of small_decoder.h: values in every space, logits, and gradients by central differences.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "small_decoder.h"

#define QKV (SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V)
#define GU  (SALF_MATRIX_GATE | SALF_MATRIX_UP)

static const uint8_t EVERY_OTHER[N_LAYERS] = {1, 0, 1, 0}, ALL[N_LAYERS] = {1, 1, 1, 1}, LAST[N_LAYERS] = {0, 0, 0, 1};

/* Rounding of float32, 6e-8, over sums of some ten terms, which each of the four layers of these random models makes
 * some three times larger; what is computed wrongly is off by a hundredth and more. */
#define TOLERANCE 3e-5

/* What differs from a Llama. Numbers that are 0 are not set. */
typedef struct variant {
    const char *name;
    int32_t ungated;
    int32_t norm_bias;
    int32_t kv_heads;
    int32_t head_dim;
    double embedding_scale;
    double logit_scale;
    double logit_softcap;
    salf_decoder_info layers;
} variant;

static const variant VARIANTS[] = {
    {.name = "Llama 3.1",
     .layers = {.rope = SALF_ROPE_LLAMA3,
                .rope_factor = 8.0,
                .rope_low_factor = 1.0,
                .rope_high_factor = 4.0,
                .rope_original_positions = 24}},
    {.name = "linear", .layers = {.rope = SALF_ROPE_LINEAR, .rope_factor = 4.0}},
    {.name = "yarn",
     .layers = {.rope = SALF_ROPE_YARN,
                .rope_factor = 4.0,
                .rope_original_positions = 40,
                .rope_beta_fast = 3.0,
                .rope_beta_slow = 1.0,
                .rope_attention_factor = 1.14}},
    {.name = "yarn whose ramp has no length",
     .layers = {.rope = SALF_ROPE_YARN,
                .rope_factor = 4.0,
                .rope_original_positions = 2,
                .rope_beta_fast = 32.0,
                .rope_beta_slow = 1.0,
                .rope_attention_factor = 1.1}},
    {.name = "Mistral", .layers = {.sliding_window = 3, .sliding = ALL}},
    {.name = "alternating windows", .layers = {.sliding_window = 2, .sliding = EVERY_OTHER}},
    {.name = "a window in the last layer", .layers = {.sliding_window = 1, .sliding = LAST}},
    {.name = "biases everywhere", .layers = {.biases = SALF_MATRIX_ALL}},
    {.name = "biases of some", .layers = {.biases = SALF_MATRIX_Q | SALF_MATRIX_V | SALF_MATRIX_UP | SALF_MATRIX_DOWN}},
    {.name = "Qwen 3", .head_dim = 6, .layers = {.qk_norm = SALF_QK_NORM_HEAD}},
    {.name = "Gemma",
     .kv_heads = 1,
     .head_dim = 8,
     .embedding_scale = 3.46,
     .layers = {.norm_kind = SALF_NORM_RMS1P, .activation = SALF_ACTIVATION_GELU_TANH}},
    {.name = "Gemma 2",
     .embedding_scale = 3.46,
     .logit_softcap = 3.0,
     .layers = {.norm_kind = SALF_NORM_RMS1P,
                .activation = SALF_ACTIVATION_GELU_TANH,
                .block = SALF_BLOCK_SANDWICH_NORM,
                .sliding_window = 3,
                .sliding = EVERY_OTHER,
                .attention_scale = 0.4,
                .attention_softcap = 2.0}},
    {.name = "Gemma 3",
     .head_dim = 6,
     .embedding_scale = 3.46,
     .layers = {.norm_kind = SALF_NORM_RMS1P,
                .activation = SALF_ACTIVATION_GELU_TANH,
                .block = SALF_BLOCK_SANDWICH_NORM,
                .qk_norm = SALF_QK_NORM_HEAD,
                .sliding_window = 4,
                .sliding = EVERY_OTHER,
                .local_rope_theta = 10.0,
                .rope = SALF_ROPE_LINEAR,
                .rope_factor = 8.0}},
    {.name = "OLMo 2", .layers = {.block = SALF_BLOCK_POST_NORM, .qk_norm = SALF_QK_NORM_ALL}},
    {.name = "Phi 3", .layers = {.fused = QKV | GU, .rotary_dims = 2}},
    {.name = "Granite",
     .embedding_scale = 12.0,
     .logit_scale = 0.125,
     .layers = {.residual_scale = 0.22, .attention_scale = 0.0156}},
    {.name = "StableLM", .norm_bias = 1, .layers = {.norm_kind = SALF_NORM_LAYER, .rotary_dims = 2, .biases = QKV}},
    {.name = "layer norms without bias", .logit_scale = 0.3, .layers = {.norm_kind = SALF_NORM_LAYER}},
    {.name = "StarCoder 2",
     .ungated = 1,
     .norm_bias = 1,
     .layers = {.norm_kind = SALF_NORM_LAYER, .activation = SALF_ACTIVATION_GELU_TANH, .biases = SALF_MATRIX_ALL}},
    {.name = "gelu", .layers = {.activation = SALF_ACTIVATION_GELU}},
    {.name = "relu", .ungated = 1, .layers = {.activation = SALF_ACTIVATION_RELU}},
    {.name = "no positions", .layers = {.rope = -1}},
    {.name = "fused with biases", .layers = {.fused = QKV | GU, .biases = SALF_MATRIX_ALL}},
    {.name = "everything",
     .norm_bias = 1,
     .kv_heads = 1,
     .head_dim = 6,
     .embedding_scale = 2.0,
     .logit_scale = 0.7,
     .logit_softcap = 2.0,
     .layers = {.norm_kind = SALF_NORM_LAYER,
                .activation = SALF_ACTIVATION_GELU,
                .block = SALF_BLOCK_SANDWICH_NORM,
                .qk_norm = SALF_QK_NORM_HEAD,
                .biases = SALF_MATRIX_ALL,
                .fused = QKV,
                .rotary_dims = 4,
                .sliding_window = 2,
                .sliding = EVERY_OTHER,
                .local_rope_theta = 10.0,
                .rope = SALF_ROPE_LINEAR,
                .rope_factor = 2.0,
                .attention_scale = 0.3,
                .attention_softcap = 1.5,
                .residual_scale = 0.8}},
};
#define N_VARIANTS ((int)(sizeof VARIANTS / sizeof *VARIANTS))

static decoder_config config_of(const variant *v, int32_t tied) {
    decoder_config c = small_config(0, tied);
    if (v->kv_heads) c.n_kv_heads = v->kv_heads;
    if (v->head_dim) c.head_dim = v->head_dim;
    c.embedding_scale = v->embedding_scale;
    c.logit_scale = v->logit_scale;
    c.logit_softcap = v->logit_softcap;
    c.norm_bias = v->norm_bias;
    c.layers = v->layers;
    c.layers.struct_size = sizeof c.layers;
    c.layers.gated_ffn = !v->ungated;
    c.layers.rope_theta = 100.0;
    if (c.layers.norm_kind == 0) c.layers.norm_kind = SALF_NORM_RMS;
    c.layers.rope = v->layers.rope < 0 ? SALF_ROPE_NONE : v->layers.rope ? v->layers.rope : SALF_ROPE_DEFAULT;
    return c;
}

typedef struct seen_spaces {
    const char *name;
    const double *expected; /* [n_sequences] of [m + 1][n][D] */
} seen_spaces;

/* Errors are measured by the largest number of a space: what rounding does to that, the next products mix into all. */
static salf_status compare_space(void *user, int32_t space, int64_t rows, const float *states) {
    const seen_spaces *seen = user;
    double largest = 0.0, worst = 0.0;
    (void)rows;
    for (int64_t s = 0; s < N_SEQUENCES && space < N_LAYERS; s++) {
        const int64_t n = OFFSETS[s + 1] - OFFSETS[s];
        const double *expected = seen->expected + OFFSETS[s] * 12 * (N_LAYERS + 1) + space * n * 12;
        for (int64_t i = 0; i < n * 12; i++) {
            largest = fmax(largest, fabs(expected[i]));
            worst = fmax(worst, fabs((double)states[OFFSETS[s] * 12 + i] - expected[i]));
        }
    }
    ck_assert_msg(worst <= TOLERANCE * largest, "%s, space %d: off by %g, the largest being %g", seen->name, (int)space,
                  worst, largest);
    return SALF_OK;
}

/* Logit of a token for a normed state, in double. */
static double logit(small_case *c, const double *y, int64_t token) {
    const decoder_config *config = decoder_get_config(c->d);
    const decoder_parameter *head = find(c->d, config->tied ? "model.embed_tokens.weight" : "lm_head.weight");
    double z = 0.0;
    for (int j = 0; j < 12; j++) z += (double)head->values[token * 12 + j] * y[j];
    z *= config->logit_scale;
    return config->logit_softcap > 0.0 ? config->logit_softcap * tanh(z / config->logit_softcap) : z;
}

START_TEST(spaces_and_logits_of_every_architecture) {
    static double x[MOST_ROWS][64], expected[18 * 12 * (N_LAYERS + 1)];
    for (int i = 0; i < N_VARIANTS; i++) {
        const decoder_training lora = {.lora_rank = 3, .lora_alpha = 5.0};
        const decoder_config config = config_of(&VARIANTS[i], i % 2);
        small_case c;
        make_case_of(&c, &config, &lora);
        double normed[N_HEADS_ROWS][12];
        for (int64_t s = 0, h = 0; s < N_SEQUENCES; s++) {
            oracle(c.d, TOKENS + OFFSETS[s], OFFSETS[s + 1] - OFFSETS[s], x,
                   expected + OFFSETS[s] * 12 * (N_LAYERS + 1));
            for (; h < N_HEADS_ROWS && HEAD_ROWS[h] < OFFSETS[s + 1]; h++)
                final_norm(c.d, x[HEAD_ROWS[h] - OFFSETS[s]], normed[h]);
        }
        seen_spaces seen = {VARIANTS[i].name, expected};
        for (int keep = 0; keep < 2; keep++) {
            float logits[N_HEADS_ROWS * 23], some[N_HEADS_ROWS * 2];
            static const int32_t two[] = {20, 3};
            ck_assert_int_eq(decoder_forward(c.d, &c.batch, keep, compare_space, &seen), SALF_OK);
            ck_assert_int_eq(decoder_logits(c.d, NULL, 23, logits), SALF_OK);
            ck_assert_int_eq(decoder_logits(c.d, two, 2, some), SALF_OK);
            double largest = 0.0, worst = 0.0;
            for (int h = 0; h < N_HEADS_ROWS; h++) {
                for (int64_t t = 0; t < 23; t++) {
                    const double z = logit(&c, normed[h], t);
                    largest = fmax(largest, fabs(z));
                    worst = fmax(worst, fabs((double)logits[h * 23 + t] - z));
                }
                for (int t = 0; t < 2; t++) ck_assert_double_eq_tol(some[h * 2 + t], logits[h * 23 + two[t]], 1e-5);
            }
            ck_assert_msg(worst <= TOLERANCE * largest, "%s: logits off by %g, the largest being %g", VARIANTS[i].name,
                          worst, largest);
        }
        decoder_free(c.d);
    }
}
END_TEST

/* Dense and LoRA, whole and with a depth for each sequence, last layer at the head rows and whole. */
START_TEST(gradients_of_every_architecture) {
    static const int32_t eof[N_SEQUENCES] = {1, 0, 3, 0, 2};
    static const int64_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    for (int i = 0; i < 4 * N_VARIANTS; i++) {
        const variant *v = &VARIANTS[i / 4];
        const int kind = i % 4;
        const decoder_training training = {
            .lora_rank = kind % 2 ? 3 : 0, .train_embedding = 1, .train_head = 1, .lora_alpha = 2.0};
        const decoder_plan plan = {eof, NULL, 1, 1};
        const decoder_config config = config_of(v, i / 4 % 2);
        small_case c;
        make_case_of(&c, &config, &training);
        if (kind / 2) c.batch.head_rows = all, c.batch.n_head_rows = 18;
        check_gradients(&c, i / 4 % 3 ? &plan : NULL);
        decoder_free(c.d);
    }
}
END_TEST

/* Sum over head rows of the cross-entropy in double, from states of the decoder itself. */
static double cross_entropy(small_case *c, const float *normed, const int32_t *labels) {
    double loss = 0.0;
    for (int h = 0; h < N_HEADS_ROWS; h++) {
        double y[12], sum = 0.0;
        for (int j = 0; j < 12; j++) y[j] = (double)normed[h * 12 + j];
        for (int64_t t = 0; t < 23; t++) sum += exp(logit(c, y, t));
        loss += log(sum) - logit(c, y, labels[h]);
    }
    return loss;
}

START_TEST(cross_entropy_through_scale_and_cap) {
    const int32_t labels[N_HEADS_ROWS] = {0, 22, 5, 5, 1, 9, 10};
    for (int i = 0; i < 4; i++) {
        const variant v = {.name = "", .logit_scale = i % 2 ? 0.25 : 0.0, .logit_softcap = i / 2 ? 1.5 : 0.0};
        const decoder_training dense = {.train_head = 1};
        const decoder_config config = config_of(&v, 0);
        small_case c;
        make_case_of(&c, &config, &dense);
        float losses[N_HEADS_ROWS], d_normed[N_HEADS_ROWS * 12], normed[N_HEADS_ROWS * 12];
        ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
        decoder_clear_gradients(c.d);
        ck_assert_int_eq(decoder_cross_entropy(c.d, labels, 1.0, 1, losses, d_normed), SALF_OK);
        memcpy(normed, decoder_normed(c.d), sizeof normed);
        double sum = 0.0;
        for (int h = 0; h < N_HEADS_ROWS; h++) sum += (double)losses[h];
        ck_assert_double_eq_tol(sum, cross_entropy(&c, normed, labels), 1e-4);
        const decoder_parameter *head = find(c.d, "lm_head.weight");
        for (int n = 0; n < N_HEADS_ROWS * 12 + 40; n++) {
            float *x = n < N_HEADS_ROWS * 12 ? normed + n : head->values + (n - N_HEADS_ROWS * 12) * 6;
            const float was = *x, got = n < N_HEADS_ROWS * 12 ? d_normed[n] : head->gradient[x - head->values];
            *x = was + 1e-3f;
            const double up = (double)*x, above = cross_entropy(&c, normed, labels);
            *x = was - 1e-3f;
            const double expected = (above - cross_entropy(&c, normed, labels)) / (up - (double)*x);
            *x = was;
            ck_assert_msg(fabs((double)got - expected) < 3e-5, "case %d, %d: %g, not %g", i, n, (double)got, expected);
        }
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(without_a_description_layers_are_a_llamas) {
    small_case described, assumed;
    make_case(&described, 0, 1, NULL);
    decoder_config config = small_config(0, 1);
    config.layers = (salf_decoder_info){.struct_size = 0};
    config.rope_theta = 100.0;
    make_case_of(&assumed, &config, NULL);
    ck_assert_int_eq(decoder_forward(described.d, &described.batch, 0, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_forward(assumed.d, &assumed.batch, 0, NULL, NULL), SALF_OK);
    ck_assert_mem_eq(decoder_normed(described.d), decoder_normed(assumed.d), N_HEADS_ROWS * 12 * sizeof(float));
    decoder_free(described.d);
    decoder_free(assumed.d);
}
END_TEST

START_TEST(descriptions_that_make_no_sense_are_named) {
    static const struct {
        salf_decoder_info layers;
        const char *words;
    } bad[] = {
        {{.activation = 4}, "activation is 4"},
        {{.block = 3}, "block is 3"},
        {{.qk_norm = -1}, "qk_norm is -1"},
        {{.biases = 128}, "biases is 128"},
        {{.rope = 9}, "rope is 9"},
        {{.rotary_dims = 6}, "rotary_dims is 6"},
        {{.rotary_dims = 3}, "rotary_dims 3 is odd"},
        {{.attention_scale = -1.0}, "attention_scale is -1"},
        {{.attention_softcap = -2.0}, "attention_softcap -2"},
        {{.sliding_window = -4, .sliding = ALL}, "sliding_window is -4"},
        {{.rope = SALF_ROPE_LINEAR}, "rope_factor is 0"},
        {{.rope = SALF_ROPE_LLAMA3, .rope_factor = 2.0}, "rope_original_positions is 0"},
        {{.rope = SALF_ROPE_LLAMA3, .rope_factor = 2.0, .rope_original_positions = 8}, "rope_low_factor is 0"},
        {{.rope = SALF_ROPE_YARN, .rope_factor = 2.0, .rope_original_positions = 8}, "rope_beta_fast is 0"},
        {{.fused = SALF_MATRIX_Q | SALF_MATRIX_K}, "self_attn.qkv_proj are fused"},
        {{.fused = QKV, .biases = SALF_MATRIX_Q}, "only a part of self_attn.qkv_proj has a bias"},
    };
    decoder *d;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const variant v = {.layers = bad[i].layers};
        const decoder_config config = config_of(&v, 1);
        const int32_t status = bad[i].layers.fused ? SALF_E_UNSUPPORTED : SALF_E_ARGUMENT;
        CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), status, bad[i].words);
        ck_assert_ptr_null(d);
    }
    const variant fused = {.layers = {.fused = QKV | GU}};
    const decoder_training part = {.lora_rank = 2, .lora_targets = SALF_MATRIX_Q | SALF_MATRIX_V};
    decoder_config config = config_of(&fused, 1);
    CHECK_REFUSED(decoder_create(&d, NULL, &config, &part, 1), SALF_E_UNSUPPORTED,
                  "LoRA on a part of self_attn.qkv_proj");
    config = small_config(0, 1);
    config.logit_scale = -1.0;
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_ARGUMENT, "logit_scale -1");
    config = small_config(0, 1);
    config.layers.rope_theta = 0.0;
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_ARGUMENT, "rope_theta is 0");
    config = small_config(0, 1);
    config.prefix = "model.language_model.of_a_name_that_is_far_too_long_to_be_one.";
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_ARGUMENT, "too long");
}
END_TEST

/* YaRN, written out where neither end of the ramp is the first or the last pair: pairs that turn more than 32 times in
 * 1,024 positions are 0 ... 2 (16 ln(1024 / (32 2 pi)) / (2 ln 100) = 2.8), and from pair 9 (8.8) on less than once. */
START_TEST(yarn_stretches_the_pairs_in_between_in_part) {
    const decoder_config c = {.layers = {.rope = SALF_ROPE_YARN,
                                         .rotary_dims = 16,
                                         .rope_theta = 100,
                                         .rope_factor = 4,
                                         .rope_original_positions = 1024,
                                         .rope_beta_fast = 32,
                                         .rope_beta_slow = 1,
                                         .rope_attention_factor = 1.2}};
    double got[8];
    ck_assert_double_eq(decoder_frequencies(&c, 0, got), 1.2);
    for (int i = 0; i < 8; i++) {
        const double f = pow(100, -i / 8.0), stretched = fmax(i - 2, 0) / (9.0 - 2.0);
        ck_assert_double_eq_tol(got[i], f * (1 - stretched) + f / 4 * stretched, 1e-12);
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, yarn_stretches_the_pairs_in_between_in_part);
    HARNESS_ADD(suite, spaces_and_logits_of_every_architecture);
    HARNESS_ADD(suite, gradients_of_every_architecture);
    HARNESS_ADD(suite, cross_entropy_through_scale_and_cap);
    HARNESS_ADD(suite, without_a_description_layers_are_a_llamas);
    HARNESS_ADD(suite, descriptions_that_make_no_sense_are_named);
}
