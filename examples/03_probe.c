/*
 * 03_probe.c - probe states you already have: at which layer may the backward pass of each datum stop?
 *
 * The states of 4 data in the 9 latent spaces of an 8-layer model lie in the host's memory; the library borrows them.
 * Token l has unit vector l in the head, and layer 2r+1 turns datum r towards its label: that is what the probe finds.
 *
 *   cc 03_probe.c $(pkg-config --cflags --libs salf) -o probe
 */
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 8, HIDDEN = 8, VOCAB = 8, ROWS = 4 };

static float head[VOCAB][HIDDEN];
static float states[LAYERS + 1][ROWS][HIDDEN];
static const int32_t labels[ROWS] = {7, 2, 7, 5};

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

int main(void) {
    for (int i = 0; i < VOCAB; i++) head[i][i] = 1;
    for (int k = 0; k <= LAYERS; k++)
        for (int r = 0; r < ROWS; r++) {
            states[k][r][0] = 1;
            if (k >= 2 * r + 2) states[k][r][labels[r]] = 3;
        }

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
