/*
 * 02_basis.c - the semantic basis: the vector a hidden state should point along for the model to say a given token.
 *
 * With a checkpoint folder as argument its head is used, memory-mapped; without one a small head made here. Only the
 * rows asked for are computed.
 *
 *   cc 02_basis.c $(pkg-config --cflags --libs salf) -o basis && ./basis path/to/checkpoint
 */
#include <inttypes.h>
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

static void describe_small_model(salf_model_options *options) {
    static float head[6][4] = {{2, 1, 0, 0}, {0, 2, 1, 0}, {0, 0, 2, 1}, {1, 0, 0, 2}, {1, 1, 1, 1}, {0, 1, 0, -1}};
    options->n_layers = 2;
    options->hidden = 4;
    options->vocab = 6;
    options->head = (salf_tensor){.data = head, .rows = 6, .cols = 4, .dtype = SALF_F32};
}

int main(int argc, char **argv) {
    salf_context *context;
    salf_model *model;
    salf_model_options description;
    check(salf_context_create(&context, NULL));
    salf_options_init(&description, sizeof description);
    if (argc < 2) describe_small_model(&description);
    check(argc > 1 ? salf_model_open(&model, context, argv[1], NULL)
                   : salf_model_create(&model, context, &description));

    const int32_t labels[] = {1, 3, 4};
    salf_basis *basis;
    salf_basis_info info = {.struct_size = sizeof info};
    check(salf_basis_create(&basis, model, labels, 3, NULL));
    check(salf_basis_get_info(basis, &info));
    printf("rank %" PRId64 " of %" PRId64 ", condition %.4g\n", info.rank, info.hidden, info.condition);

    double *rows = calloc((size_t)(3 * info.hidden), sizeof *rows);
    if (!rows) return EXIT_FAILURE;
    const salf_tensor out = {.data = rows, .rows = 3, .cols = info.hidden, .dtype = SALF_F64};
    check(salf_basis_rows(basis, labels, 3, &out));
    for (int i = 0; i < 3; i++) {
        printf("token %" PRId32 ":", labels[i]);
        for (int64_t j = 0; j < 4; j++) printf(" % .6f", rows[i * info.hidden + j]);
        printf("%s\n", info.hidden > 4 ? " ..." : "");
    }
    free(rows);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return EXIT_SUCCESS;
}
