/*
 * test_json.c - JSON with memory that runs out: jansson takes its memory from malloc, not from a context, so its
 * allocations are made to fail by hooks that only this program sets.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

static int64_t calls, fail_at, alive;

static void *limited_malloc(size_t size) {
    if (calls++ == fail_at) return NULL;
    void *block = malloc(size);
    alive += block != NULL;
    return block;
}

static void limited_free(void *block) {
    alive -= block != NULL;
    free(block);
}

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

typedef salf_status (*body)(salf_context *context, const char *path);

/* The body's n-th JSON allocation fails for n = 0, 1, ...: SALF_E_NO_MEMORY each time, nothing leaks, until it
 * succeeds. Reading, jansson takes some failures for bad JSON, and that is then what the library says. */
static void fail_each(body run, const char *path, bool reading) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    json_set_alloc_funcs(limited_malloc, limited_free);
    salf_status status = SALF_E_NO_MEMORY;
    fail_at = -1;
    do {
        calls = alive = 0;
        fail_at++;
        status = run(context, path);
        ck_assert_msg(status == SALF_OK || status == SALF_E_NO_MEMORY || reading, "allocation %lld: %s: %s",
                      (long long)fail_at, salf_status_name(status), salf_last_error());
        ck_assert_msg(alive == 0, "allocation %lld: %lld blocks leak", (long long)fail_at, (long long)alive);
    } while (calls > fail_at);
    ck_assert_int_eq(status, SALF_OK);
    ck_assert_int_gt(calls, 3);
    json_set_alloc_funcs(malloc, free);
    salf_context_destroy(context);
}

static salf_status save(salf_context *context, const char *path) {
    float values[6] = {1, 2, 3, 4, 5, 6};
    const char *metadata[2] = {"format", "test"};
    const salf_named_tensor tensors[2] = {
        {.name = "a", .view = {.data = values, .rows = 2, .cols = 3, .dtype = SALF_F32}},
        {.name = "b",
         .n_dims = 3,
         .shape = {1, 2, 3},
         .view = {.data = values, .rows = 2, .cols = 3, .dtype = SALF_F32}}};
    return salf_tensors_save(context, path, tensors, 2, metadata, 1);
}

static salf_status open_tensors(salf_context *context, const char *path) {
    salf_tensors *tensors;
    const salf_status status = salf_tensors_open(&tensors, context, path);
    salf_tensors_destroy(tensors);
    return status;
}

static salf_status open_model(salf_context *context, const char *path) {
    salf_model *model;
    const salf_status status = salf_model_open(&model, context, path, NULL);
    salf_model_destroy(model);
    return status;
}

START_TEST(saving_and_opening_tensors) {
    char path[4096];
    snprintf(path, sizeof path, "%s", harness_path("t.safetensors"));
    fail_each(save, path, false);
    fail_each(open_tensors, path, true);
}
END_TEST

START_TEST(opening_shards) {
    char path[4096];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    CHECK_OK(save(context, harness_path("part.safetensors")));
    salf_context_destroy(context);
    snprintf(path, sizeof path, "%s", harness_path("model.safetensors.index.json"));
    write_text(path, "{\"weight_map\": {\"a\": \"part.safetensors\", \"b\": \"part.safetensors\"}}");
    fail_each(open_tensors, path, true);
}
END_TEST

START_TEST(opening_a_model) {
    const char *path = harness_shared("models/stories260k");
    if (path) fail_each(open_model, path, true);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, saving_and_opening_tensors);
    HARNESS_ADD(suite, opening_shards);
    HARNESS_ADD(suite, opening_a_model);
}
