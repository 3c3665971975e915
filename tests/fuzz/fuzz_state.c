/* fuzz_state.c - readers of saved state, on any bytes: the payload is wrapped with a right header, so that it is read.
 */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct payload {
    const uint8_t *data;
    size_t size;
} payload;

static void write_payload(const void *user, slf_blob *blob) {
    const payload *p = user;
    slf_blob_put(blob, p->data, p->size);
}

/* Loads the bytes as they are, and behind a header. */
static void try_planner(salf_planner *planner, const uint8_t *data, size_t size) {
    uint64_t whole = 0;
    const payload p = {data, size};
    salf_planner_load(planner, data, size);
    slf_blob_save("PLAN", write_payload, &p, NULL, &whole);
    uint8_t *bytes = malloc(whole);
    if (bytes && slf_blob_save("PLAN", write_payload, &p, bytes, &whole) == SALF_OK) {
        salf_planner_load(planner, bytes, whole);
        salf_task task;
        salf_planner_next(planner, 3, &task);
    }
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_REFERENCE;
    salf_context *context = NULL;
    if (salf_context_create(&context, &options) != SALF_OK) return 0;
    salf_planner *planner = NULL;
    salf_policy *policy = NULL;
    if (salf_planner_create(&planner, context, 3, 20, NULL) == SALF_OK) try_planner(planner, data, size);
    if (salf_policy_create(&policy, context, SALF_POLICY_FULL, 3, NULL) == SALF_OK) {
        const payload p = {data, size};
        uint64_t whole = 0;
        slf_blob_save("POLI", write_payload, &p, NULL, &whole);
        uint8_t *bytes = malloc(whole);
        if (bytes && slf_blob_save("POLI", write_payload, &p, bytes, &whole) == SALF_OK)
            salf_policy_load(policy, bytes, whole);
        free(bytes);
    }
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    return 0;
}
