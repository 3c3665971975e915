/*
 * 04_host_loop.c - the ten lines that a training loop gains.
 *
 * The model is a toy: layer k of 6 turns one of the 4 rows towards its label, and a backward only counts the rows it
 * runs on. The loop is real: the states are probed as the forward makes them, and the decision says, before the
 * backward starts, how far down it must go and on which rows (those whose own depth reaches the layer, in front).
 *
 *   cc 04_host_loop.c $(pkg-config --cflags --libs salf) -o host_loop
 */
#include <inttypes.h>
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 6, HIDDEN = 8, VOCAB = 8, ROWS = 4, STEPS = 3 };

static float state[ROWS][HIDDEN];
static int64_t backward_rows;

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

static void forward_embedding(void) {
    for (int i = 0; i < ROWS * HIDDEN; i++) state[i / HIDDEN][i % HIDDEN] = i % HIDDEN == 0;
}

static void forward_layer(int k, int step, const int32_t *labels) {
    const int row = (k + step) % LAYERS; /* rows 4 and 5 are not in the batch: these layers do nothing */
    if (row < ROWS) state[row][labels[row]] += 2;
}

static void backward_layer(int k, const int64_t *order, int64_t rows) {
    printf("  backward of layer %d on rows", k);
    for (int64_t i = 0; i < rows; i++) printf(" %" PRId64, order[i]);
    printf("\n");
    backward_rows += rows;
}

static void train(salf_probe *probe, salf_policy *policy, const int32_t *labels) {
    const salf_tensor view = {.data = state, .rows = ROWS, .cols = HIDDEN, .dtype = SALF_F32};
    salf_trace trace;
    salf_decision decision = {.struct_size = sizeof decision};
    salf_observation observation = {.struct_size = sizeof observation, .trace = &trace};
    for (int step = 0; step < STEPS; step++) {
        check(salf_probe_begin(probe, labels, ROWS));
        forward_embedding();
        check(salf_probe_observe(probe, 0, &view, SALF_STATE_RAW));
        for (int k = 0; k < LAYERS; k++) {
            forward_layer(k, step, labels);
            check(salf_probe_observe(probe, k + 1, &view, SALF_STATE_RAW));
        }
        check(salf_probe_end(probe, &trace));
        observation.step = step;
        check(salf_policy_decide(policy, &observation, &decision));
        printf("step %d: cut %d\n", step, decision.cut);
        for (int k = LAYERS - 1; k >= decision.cut; k--) backward_layer(k, decision.order, decision.active_rows[k]);
    }
    printf("%" PRId64 " layer backwards instead of %d\n", backward_rows, STEPS * LAYERS * ROWS);
}

int main(void) {
    static float head[VOCAB][HIDDEN];
    for (int i = 0; i < VOCAB; i++) head[i][i] = 1;
    const int32_t labels[ROWS] = {1, 2, 3, 4};
    const salf_model_options description = {
        .struct_size = sizeof description,
        .n_layers = LAYERS,
        .hidden = HIDDEN,
        .vocab = VOCAB,
        .norm_kind = SALF_NORM_RMS,
        .head = {.data = head, .rows = VOCAB, .cols = HIDDEN, .dtype = SALF_F32},
    };
    const salf_policy_options options = {.struct_size = sizeof options, .reduction = SALF_REDUCE_PREFIX};
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    salf_policy *policy;
    check(salf_context_create(&context, NULL));
    check(salf_model_create(&model, context, &description));
    check(salf_basis_create(&basis, model, labels, ROWS, NULL));
    check(salf_probe_create(&probe, basis, NULL));
    check(salf_policy_create(&policy, context, SALF_POLICY_SALF, LAYERS, &options));
    train(probe, policy, labels);
    salf_policy_destroy(policy);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return EXIT_SUCCESS;
}
