/*
 * 03_probe.c - probe states you already have: at which layer may the backward pass of each datum stop?
 *
 * The states of 4 data in the 9 latent spaces of an 8-layer model lie in the host's memory; the library borrows them.
 * They are noise here, and layer 2r+1 turns datum r towards its label, so that is the layer the probe has to find.
 *
 *   cc 03_probe.c $(pkg-config --cflags --libs salf) -o probe
 */
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 8, HIDDEN = 16, VOCAB = 50, ROWS = 4 };

static float head[VOCAB][HIDDEN];
static float states[LAYERS + 1][ROWS][HIDDEN];

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

static float noise(void) { /* in (-1, 1) */
    static uint32_t state = 42;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 23) - 1;
}

static void make_states(const int32_t *labels) {
    for (int i = 0; i < VOCAB * HIDDEN; i++) head[i / HIDDEN][i % HIDDEN] = noise();
    for (int k = 0; k <= LAYERS; k++)
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < HIDDEN; j++)
                states[k][r][j] = (k ? states[k - 1][r][j] : noise()) + 0.05f * noise() +
                                  (k == 2 * r + 2 ? 3 * head[labels[r]][j] : 0);
}

int main(void) {
    const int32_t labels[ROWS] = {7, 21, 7, 49};
    make_states(labels);

    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    const salf_model_options description = {
        .struct_size = sizeof description,
        .n_layers = LAYERS,
        .hidden = HIDDEN,
        .vocab = VOCAB,
        .norm_kind = SALF_NORM_RMS,
        .head = {.data = head, .rows = VOCAB, .cols = HIDDEN, .dtype = SALF_F32},
    };
    check(salf_context_create(&context, NULL));
    check(salf_model_create(&model, context, &description));
    check(salf_basis_create(&basis, model, labels, ROWS, NULL));
    check(salf_probe_create(&probe, basis, NULL));

    check(salf_probe_begin(probe, labels, ROWS));
    for (int k = 0; k <= LAYERS; k++) {
        const salf_tensor view = {.data = states[k], .rows = ROWS, .cols = HIDDEN, .dtype = SALF_F32};
        check(salf_probe_observe(probe, k, &view, SALF_STATE_RAW));
    }
    salf_trace trace;
    check(salf_probe_end(probe, &trace));
    for (int r = 0; r < ROWS; r++) {
        printf("datum %d: freeze below layer %d; deviations", r, trace.eof[r]);
        for (int k = 0; k <= LAYERS; k++) printf(" %.2f", trace.deviations[r * (LAYERS + 1) + k]);
        printf("\n");
    }
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return EXIT_SUCCESS;
}
