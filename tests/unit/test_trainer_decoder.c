/*
 * test_trainer_decoder.c - the decoder of the host program against a plain double-precision forward pass, one sequence
 * at a time: values, and gradients by central differences of that forward.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "small_decoder.h"

/* Head rows of all kinds: every row, of one sequence only, the first of each, several and none, one, none at all. */
static const struct {
    int64_t n;
    int64_t rows[18];
} HEAD_CHOICES[] = {
    {18, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}},
    {7, {8, 9, 10, 11, 12, 13, 14}},
    {5, {0, 5, 8, 15, 16}},
    {6, {1, 4, 9, 10, 14, 17}},
    {1, {6}},
    {0, {0}},
};
#define N_HEAD_CHOICES 6

static void set_heads(small_case *c, int choice) {
    c->batch.head_rows = HEAD_CHOICES[choice].rows;
    c->batch.n_head_rows = HEAD_CHOICES[choice].n;
}

/* ---- tests ---- */

typedef struct seen_spaces {
    int32_t next;
    double worst, largest; /* error, and number it is to be seen against */
    const decoder_batch *batch;
    const double *expected; /* [n_sequences] of [m + 1][n][D] */
} seen_spaces;

/* In the last space rows that are not head rows hold zeros. */
static int32_t is_computed(const decoder_batch *batch, int32_t space, int64_t row) {
    if (space < N_LAYERS) return 1;
    for (int64_t i = 0; i < batch->n_head_rows; i++) {
        if (batch->head_rows[i] == row) return 1;
    }
    return 0;
}

static salf_status compare_space(void *user, int32_t space, int64_t rows, const float *states) {
    seen_spaces *seen = user;
    ck_assert_int_eq(space, seen->next++);
    ck_assert_int_eq(rows, OFFSETS[N_SEQUENCES]);
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        const int64_t n = OFFSETS[s + 1] - OFFSETS[s];
        const double *expected = seen->expected + OFFSETS[s] * 12 * (N_LAYERS + 1) + space * n * 12;
        for (int64_t i = 0; i < n * 12; i++) {
            const int32_t computed = is_computed(seen->batch, space, OFFSETS[s] + i / 12);
            const double error = fabs((double)states[OFFSETS[s] * 12 + i] - (computed ? expected[i] : 0.0));
            if (error > seen->worst) seen->worst = error;
            seen->largest = fmax(seen->largest, fabs(expected[i]));
        }
    }
    return SALF_OK;
}

START_TEST(forward_agrees_with_a_plain_one_in_every_space) {
    const decoder_training lora = {.lora_rank = 3, .lora_alpha = 5.0};
    small_case c;
    make_case(&c, 1, 0, &lora);
    static double x[MOST_ROWS][64], expected[18 * 12 * (N_LAYERS + 1)];
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        oracle(c.d, TOKENS + OFFSETS[s], OFFSETS[s + 1] - OFFSETS[s], x, expected + OFFSETS[s] * 12 * (N_LAYERS + 1));
    }
    for (int i = 0; i < 2 * N_HEAD_CHOICES; i++) {
        set_heads(&c, i / 2);
        seen_spaces seen = {.batch = &c.batch, .expected = expected};
        ck_assert_int_eq(decoder_forward(c.d, &c.batch, i % 2, compare_space, &seen), SALF_OK);
        ck_assert_int_eq(seen.next, N_LAYERS + 1);
        /* ten roundings of float32, of the largest number that is summed */
        ck_assert_msg(seen.worst < 10 * 0x1p-24 * seen.largest, "head rows %d, keep %d: %g of %g", i / 2, i % 2,
                      seen.worst, seen.largest);
    }
    decoder_free(c.d);
}
END_TEST

START_TEST(dense_gradients_agree_with_differences) {
    const decoder_training dense = {.train_embedding = 1, .train_head = 1};
    for (int32_t bias = 0; bias < 2; bias++) {
        small_case c;
        make_case(&c, bias, bias, &dense);
        check_gradients(&c, NULL);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(lora_gradients_agree_with_differences) {
    const int32_t targets[] = {0, SALF_MATRIX_Q | SALF_MATRIX_V, SALF_MATRIX_K | SALF_MATRIX_UP, SALF_MATRIX_DOWN,
                               SALF_MATRIX_O | SALF_MATRIX_GATE};
    for (int i = 0; i < 5; i++) {
        const decoder_training lora = {.lora_rank = 2, .lora_targets = targets[i], .lora_alpha = 3.0};
        small_case c;
        make_case(&c, 1, 1, &lora);
        check_gradients(&c, NULL);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(every_sequence_is_cut_at_its_own_depth) {
    static const int32_t eof[][N_SEQUENCES] = {{0, 1, 2, 3, 4}, {3, 0, 4, 1, 1}, {2, 2, 2, 2, 2},
                                               {4, 3, 2, 1, 0}, {1, 1, 4, 1, 1}, {0, 0, 0, 0, 3}};
    for (int dense = 0; dense < 2; dense++) {
        const decoder_training training = {.lora_rank = dense ? 0 : 3, .train_embedding = dense, .train_head = 1};
        small_case c;
        make_case(&c, 1, 0, &training);
        for (int i = 0; i < 6; i++) {
            const decoder_plan plan = {eof[i], NULL, 1, 1};
            check_gradients(&c, &plan);
        }
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(gradients_with_head_rows_of_all_kinds) {
    static const int32_t eof[][N_SEQUENCES] = {{0, 0, 0, 0, 0}, {3, 0, 3, 1, 1}, {3, 3, 3, 4, 0}};
    for (int i = 0; i < 3 * N_HEAD_CHOICES; i++) {
        const decoder_training training = {.lora_rank = i % 2 ? 3 : 0, .train_embedding = 1, .train_head = 1};
        const decoder_plan plan = {eof[i % 3], NULL, 1, 1};
        small_case c;
        make_case(&c, 1, 0, &training);
        set_heads(&c, i / 3);
        check_gradients(&c, &plan);
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(only_the_layers_asked_for_get_gradients) {
    static const int32_t eof[] = {1, 0, 3, 0, 2};
    for (int dense = 0; dense < 2; dense++) {
        const decoder_training training = {.lora_rank = dense ? 0 : 2, .train_embedding = 1};
        small_case c;
        make_case(&c, 0, 1, &training);
        for (unsigned mask = 0; mask < 1u << N_LAYERS; mask++) {
            uint8_t trainable[N_LAYERS];
            for (unsigned k = 0; k < N_LAYERS; k++) trainable[k] = mask >> k & 1u;
            const decoder_plan plan = {mask % 3 ? eof : NULL, trainable, mask & 1, 1};
            check_gradients(&c, &plan);
        }
        decoder_free(c.d);
    }
}
END_TEST

START_TEST(nothing_runs_when_no_sequence_trains) {
    static const int32_t eof[] = {4, 4, 4, 4, 4};
    const decoder_training dense = {.train_embedding = 1, .train_head = 1};
    const decoder_plan plan = {eof, NULL, 1, 1};
    small_case c;
    make_case(&c, 0, 1, &dense);
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, &plan), SALF_OK);
    for (int32_t g = -1; g <= N_LAYERS; g++) ck_assert_int_eq(decoder_is_live(c.d, g), 0);
    decoder_free(c.d);
}
END_TEST

START_TEST(cross_entropy_and_its_gradients_are_right) {
    const decoder_training dense = {.train_head = 1};
    const int32_t labels[N_HEADS_ROWS] = {0, 22, 5, 5, 1, 9, 10};
    small_case c;
    make_case(&c, 0, 0, &dense);
    float logits[N_HEADS_ROWS * 23], losses[N_HEADS_ROWS], d_normed[N_HEADS_ROWS * 12];
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_logits(c.d, NULL, 23, logits), SALF_OK);
    decoder_clear_gradients(c.d);
    ck_assert_int_eq(decoder_cross_entropy(c.d, labels, 0.5, 1, losses, d_normed), SALF_OK);
    const decoder_parameter *head = find(c.d, "lm_head.weight");
    double d_head[23 * 12] = {0};
    for (int i = 0; i < N_HEADS_ROWS; i++) {
        double sum = 0.0, expected[12] = {0};
        for (int v = 0; v < 23; v++) sum += exp((double)logits[i * 23 + v]);
        ck_assert_double_eq_tol(losses[i], log(sum) - (double)logits[i * 23 + labels[i]], 1e-5);
        for (int v = 0; v < 23; v++) {
            const double dz = 0.5 * (exp((double)logits[i * 23 + v]) / sum - (v == labels[i]));
            for (int j = 0; j < 12; j++) expected[j] += dz * (double)head->values[v * 12 + j];
            for (int j = 0; j < 12; j++) d_head[v * 12 + j] += dz * (double)decoder_normed(c.d)[i * 12 + j];
        }
        for (int j = 0; j < 12; j++) ck_assert_double_eq_tol(d_normed[i * 12 + j], expected[j], 1e-5);
    }
    for (int i = 0; i < 23 * 12; i++) ck_assert_double_eq_tol(head->gradient[i], d_head[i], 1e-5);
    const int32_t some[] = {22, 0, 3};
    float few[N_HEADS_ROWS * 3];
    ck_assert_int_eq(decoder_logits(c.d, some, 3, few), SALF_OK);
    for (int i = 0; i < N_HEADS_ROWS * 3; i++) {
        ck_assert_double_eq_tol(few[i], logits[i / 3 * 23 + some[i % 3]], 1e-5);
    }
    for (int32_t token = -1; token <= 23; token += 24) /* the first on each side that is none */
        ck_assert_int_eq(decoder_logits(c.d, &token, 1, few), SALF_E_ARGUMENT);
    decoder_free(c.d);
}
END_TEST

START_TEST(gradients_add_up_until_they_are_cleared) {
    const decoder_training lora = {.lora_rank = 2};
    small_case c;
    make_case(&c, 0, 1, &lora);
    double l1[N_LAYERS], once[N_LAYERS], twice[N_LAYERS], parameters[N_LAYERS], squares[N_LAYERS] = {0};
    for (int64_t i = 0; i < decoder_n_parameters(c.d); i++) {
        const decoder_parameter *p = decoder_parameter_at(c.d, i);
        for (int64_t j = 0; p->trains && j < p->count; j++)
            squares[p->group] += (double)p->values[j] * (double)p->values[j];
    }
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 1, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, NULL), SALF_OK);
    decoder_layer_norms(c.d, l1, once, parameters);
    ck_assert_int_eq(decoder_backward(c.d, c.d_normed, NULL), SALF_OK);
    decoder_layer_norms(c.d, l1, twice, parameters);
    double total = 0.0;
    for (int k = 0; k < N_LAYERS; k++) {
        ck_assert_double_eq_tol(twice[k], 2.0 * once[k], 1e-5 * once[k]);
        ck_assert_double_ge(l1[k], twice[k]);
        ck_assert_double_eq_tol(parameters[k] * parameters[k], squares[k], 1e-9 * squares[k]);
        total += twice[k] * twice[k];
    }
    ck_assert_double_eq_tol(decoder_clip_gradients(c.d, 0.25), sqrt(total), 1e-6 * sqrt(total));
    ck_assert_double_eq_tol(decoder_clip_gradients(c.d, 0.0), 0.25, 1e-6); /* 0: no bound */
    ck_assert_double_eq_tol(decoder_clip_gradients(c.d, 9.0), 0.25, 1e-6);
    ck_assert_double_eq_tol(decoder_clip_gradients(c.d, 0.0), 0.25, 1e-6); /* and all of that left them as they were */
    decoder_clear_gradients(c.d);
    decoder_layer_norms(c.d, l1, once, parameters);
    for (int k = 0; k < N_LAYERS; k++) ck_assert(l1[k] == 0.0 && once[k] == 0.0);
    decoder_free(c.d);
}
END_TEST

START_TEST(same_calls_give_the_same_bits) {
    const decoder_training dense = {.train_embedding = 1, .train_head = 1};
    static const int32_t eof[] = {1, 0, 3, 0, 2};
    const decoder_plan plan = {eof, NULL, 1, 1};
    small_case a, b;
    make_case(&a, 1, 1, &dense);
    make_case(&b, 1, 1, &dense);
    const int64_t offsets[] = {0, 18};
    const decoder_batch other = {
        .tokens = TOKENS, .offsets = offsets, .n_sequences = 1, .head_rows = HEAD_ROWS, .n_head_rows = 1};
    ck_assert_int_eq(decoder_forward(b.d, &other, 1, NULL, NULL), SALF_OK);
    for (int i = 0; i < 2; i++) {
        decoder *d = i ? b.d : a.d;
        decoder_clear_gradients(d);
        ck_assert_int_eq(decoder_forward(d, &a.batch, 1, NULL, NULL), SALF_OK);
        ck_assert_int_eq(decoder_backward(d, a.d_normed, &plan), SALF_OK);
    }
    for (int64_t i = 0; i < decoder_n_parameters(a.d); i++) {
        const decoder_parameter *p = decoder_parameter_at(a.d, i), *q = decoder_parameter_at(b.d, i);
        ck_assert_mem_eq(p->gradient, q->gradient, (size_t)p->count * sizeof(float));
    }
    decoder_free(a.d);
    decoder_free(b.d);
}
END_TEST

START_TEST(bad_input_is_named) {
    small_case c;
    make_case(&c, 0, 1, NULL);
    CHECK_REFUSED(decoder_backward(c.d, c.d_normed, NULL), SALF_E_SEQUENCE, "inference");
    const int32_t outside[] = {1, 23};
    const int64_t offsets[] = {0, 2}, empty[] = {0, 2, 2}, rows[] = {1, 1}, far[] = {2};
    const decoder_batch bad[] = {{outside, offsets, 1, rows, 1, NULL, 0, NULL},
                                 {TOKENS, empty, 2, rows, 1, NULL, 0, NULL},
                                 {TOKENS, offsets, 1, rows, 2, NULL, 0, NULL},
                                 {TOKENS, offsets, 1, far, 1, NULL, 0, NULL},
                                 {TOKENS, offsets, 0, rows, 1, NULL, 0, NULL}};
    static const char *const words[] = {"token 23", "sequence 1", "head row 1", "is 2", "n_sequences is 0"};
    for (int i = 0; i < 5; i++) {
        CHECK_REFUSED(decoder_forward(c.d, &bad[i], 0, NULL, NULL), SALF_E_ARGUMENT, words[i]);
    }
    float losses[N_HEADS_ROWS];
    const int32_t labels[N_HEADS_ROWS] = {0, 1, 40};
    CHECK_REFUSED(decoder_cross_entropy(c.d, labels, 1.0, 0, losses, NULL), SALF_E_SEQUENCE, "forward");
    ck_assert_int_eq(decoder_forward(c.d, &c.batch, 0, NULL, NULL), SALF_OK);
    CHECK_REFUSED(decoder_cross_entropy(c.d, labels, 1.0, 0, losses, NULL), SALF_E_LABEL, "40");
    decoder_free(c.d);
    decoder *d;
    decoder_config config = small_config(0, 1);
    config.n_kv_heads = 3;
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_ARGUMENT, "3 kv heads");
    ck_assert_ptr_null(d);
    config = small_config(0, 1);
    config.layers.gated_ffn = 0;
    decoder_training lora = {.lora_rank = 2, .lora_targets = SALF_MATRIX_GATE | SALF_MATRIX_Q};
    CHECK_REFUSED(decoder_create(&d, NULL, &config, &lora, 1), SALF_E_ARGUMENT, "LoRA on gate");
    ck_assert_ptr_null(d);
    lora.lora_targets = SALF_MATRIX_ALL;
    ck_assert_int_eq(decoder_create(&d, NULL, &config, &lora, 1), SALF_OK);
    decoder_free(d);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, forward_agrees_with_a_plain_one_in_every_space);
    HARNESS_ADD(suite, dense_gradients_agree_with_differences);
    HARNESS_ADD(suite, lora_gradients_agree_with_differences);
    HARNESS_ADD(suite, every_sequence_is_cut_at_its_own_depth);
    HARNESS_ADD(suite, gradients_with_head_rows_of_all_kinds);
    HARNESS_ADD(suite, only_the_layers_asked_for_get_gradients);
    HARNESS_ADD(suite, nothing_runs_when_no_sequence_trains);
    HARNESS_ADD(suite, cross_entropy_and_its_gradients_are_right);
    HARNESS_ADD(suite, gradients_add_up_until_they_are_cleared);
    HARNESS_ADD(suite, same_calls_give_the_same_bits);
    HARNESS_ADD(suite, bad_input_is_named);
}
