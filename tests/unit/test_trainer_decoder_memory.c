/*
 * test_trainer_decoder_memory.c - the decoder of the host program when memory or the disk runs out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "adamw.h"
#include "allocations.h"
#include "small_decoder.h"

/* Makes a model, trains a step and saves it, with the status of the first call that fails. *kept stays true when every
 * output of a call that fails is NULL or as it was; libcheck is not called here, as it allocates too. */
static salf_status live_once(const decoder_training *training, const char *folder, salf_context *context, bool *kept) {
    const decoder_config config = small_config(1, 0);
    const decoder_batch batch = {.tokens = TOKENS,
                                 .offsets = OFFSETS,
                                 .n_sequences = N_SEQUENCES,
                                 .head_rows = HEAD_ROWS,
                                 .n_head_rows = N_HEADS_ROWS};
    const int32_t labels[N_HEADS_ROWS] = {0, 22, 5, 5, 1, 9, 10};
    float losses[N_HEADS_ROWS], d_normed[N_HEADS_ROWS * 12];
    decoder *d = NULL;
    adamw *a = NULL;
    salf_status status = decoder_create(&d, context, &config, training, 5);
    *kept = (status == SALF_OK) == (d != NULL);
    if (!status) {
        status = adamw_create(&a, d, NULL);
        *kept = *kept && (status == SALF_OK) == (a != NULL);
    }
    if (!status) status = decoder_forward(d, &batch, 1, NULL, NULL);
    if (!status) status = decoder_cross_entropy(d, labels, 1.0, 1, losses, d_normed);
    if (!status) status = decoder_backward(d, d_normed, NULL);
    if (!status) {
        const decoder_parameter *p = decoder_parameter_at(d, decoder_n_parameters(d) - 1);
        const float was = p->values[0];
        status = adamw_step(a, 0.1, NULL);
        if (status) *kept = *kept && p->values[0] == was && adamw_steps(a)[1] == 0;
    }
    if (!status) status = decoder_save(d, folder, SALF_BF16);
    adamw_free(a);
    decoder_free(d);
    return status;
}

START_TEST(every_allocation_may_fail) {
    char folder[] = "/tmp/salf-decoder-XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    const decoder_training kinds[] = {{.train_embedding = 1, .train_head = 1}, {.lora_rank = 2}};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int kind = 0; kind < 2; kind++) {
        long n = 0;
        for (salf_status status = SALF_E_NO_MEMORY; status; n++) {
            bool kept;
            allocations_until = n;
            status = live_once(&kinds[kind], folder, context, &kept);
            allocations_until = -1;
            ck_assert_msg(kept, "allocation %ld", n);
            if (!status) break;
            ck_assert_int_eq(status, SALF_E_NO_MEMORY);
            ck_assert_msg(harness_contains(decoder_error(), "memory"), "%s", decoder_error());
            snprintf(path, sizeof path, "%s/model.safetensors", folder);
            ck_assert_int_ne(access(path, F_OK), 0);
        }
        ck_assert_int_gt(n, 20); /* 7 of the decoder, 3 of the optimizer, 3 of the forward, moments, 3 to save */
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        ck_assert_int_eq(remove(path), 0);
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    ck_assert_int_eq(remove(path), 0);
    ck_assert_int_eq(rmdir(folder), 0);
    salf_context_destroy(context);
}
END_TEST

START_TEST(every_allocation_of_a_source_written_again_may_fail) {
    char from[] = "/tmp/salf-decoder-XXXXXX", to[] = "/tmp/salf-decoder-XXXXXX", path[64];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const decoder_config config = small_config(1, 0);
    salf_model *model;
    decoder *d = NULL;
    ck_assert(mkdtemp(from) && mkdtemp(to));
    ck_assert_int_eq(decoder_create(&d, context, &config, NULL, 5), SALF_OK);
    ck_assert_int_eq(decoder_save(d, from, SALF_F32), SALF_OK);
    decoder_free(d);
    CHECK_OK(salf_model_open(&model, context, from, NULL));
    const decoder_training lora = {.lora_rank = 2};
    long n = 0;
    for (salf_status status = SALF_E_NO_MEMORY; status; n++) { /* opened, then written */
        allocations_until = n;
        status = decoder_open(&d, context, model, &lora);
        allocations_until = -1;
        if (status) ck_assert_ptr_null(d);
        if (status) CHECK_REFUSED(status, SALF_E_NO_MEMORY, "memory");
    }
    ck_assert_int_gt(n, 5);
    n = 0;
    for (salf_status status = SALF_E_NO_MEMORY; status; n++) {
        allocations_until = n;
        status = decoder_save_like(d, from, to, SALF_BF16);
        allocations_until = -1;
        ck_assert_msg(!status || status == SALF_E_NO_MEMORY || status == SALF_E_IO, "%s", decoder_error());
    }
    ck_assert_int_gt(n, 10);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", i / 2 ? from : to, i % 2 ? "config.json" : "model.safetensors");
        ck_assert_int_eq(remove(path), 0);
    }
    ck_assert(rmdir(from) == 0 && rmdir(to) == 0);
    decoder_free(d);
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

/* A forward that found no memory is as if it had not been: the next one is right, and so is its backward. */
START_TEST(a_forward_without_memory_can_be_repeated) {
    const decoder_training lora = {.lora_rank = 2};
    const int64_t offsets[] = {0, 2};
    const decoder_batch little = {
        .tokens = TOKENS, .offsets = offsets, .n_sequences = 1, .head_rows = offsets, .n_head_rows = 1};
    small_case c;
    make_case(&c, 1, 1, &lora);
    for (long n = 0; n < 3; n++) {
        decoder_clear_gradients(c.d);
        if (n == 0) ck_assert_int_eq(decoder_forward(c.d, &little, 1, NULL, NULL), SALF_OK);
        allocations_until = n;
        const salf_status status = decoder_forward(c.d, &c.batch, 1, NULL, NULL);
        allocations_until = -1;
        CHECK_REFUSED(status, SALF_E_NO_MEMORY, "no memory");
        float logit[N_HEADS_ROWS];
        CHECK_REFUSED(decoder_logits(c.d, TOKENS, 1, logit), SALF_E_SEQUENCE, "no forward");
        check_gradients(&c, NULL);
        decoder_free(c.d);
        make_case(&c, 1, 1, &lora);
    }
    decoder_free(c.d);
}
END_TEST

START_TEST(sizes_that_cannot_be_held_are_refused) {
    decoder *d;
    decoder_config config = small_config(0, 1);
    config.n_layers = 4096, config.hidden = 1 << 24, config.ffn_hidden = 1 << 26;
    CHECK_REFUSED(decoder_create(&d, NULL, &config, NULL, 1), SALF_E_NO_MEMORY, "parameters");
    ck_assert_ptr_null(d);
}
END_TEST

START_TEST(a_model_is_not_saved_where_it_cannot_be) {
    small_case c;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const decoder_config config = small_config(0, 1);
    ck_assert_int_eq(decoder_create(&c.d, context, &config, NULL, 1), SALF_OK);
    CHECK_REFUSED(decoder_save(c.d, "/nonexistent/folder", SALF_F32), SALF_E_IO, "/nonexistent/folder");
    CHECK_REFUSED(decoder_save(c.d, "/dev/null", SALF_F32), SALF_E_IO, "/dev/null");
    CHECK_REFUSED(decoder_save(c.d, "/tmp", SALF_I32), SALF_E_DTYPE, "type");
    decoder_free(c.d);
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, every_allocation_may_fail);
    HARNESS_ADD(suite, every_allocation_of_a_source_written_again_may_fail);
    HARNESS_ADD(suite, a_forward_without_memory_can_be_repeated);
    HARNESS_ADD(suite, sizes_that_cannot_be_held_are_refused);
    HARNESS_ADD(suite, a_model_is_not_saved_where_it_cannot_be);
}
