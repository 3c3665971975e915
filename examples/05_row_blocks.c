/*
 * 05_row_blocks.c - a basis from a head that no rank holds whole.
 *
 * Three ranks (here one after the other) own the rows of the head in blocks that no one else has. Each feeds its own
 * builder; the partial states are summed, as an all-reduce would, and give the basis of the whole head. It is compared
 * with the one made at once.
 *
 *   cc 05_row_blocks.c $(pkg-config --cflags --libs salf) -o row_blocks
 */
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>

enum { RANKS = 3, VOCAB = 300, HIDDEN = 24, BLOCK = 20, LABELS = 4 };

static float head[VOCAB][HIDDEN];
static const int32_t labels[LABELS] = {0, 150, 17, 299};
static salf_context *context;

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

static salf_basis *basis_from_ranks(void) {
    salf_basis_builder *builder[RANKS];
    salf_basis *basis;
    double *sum, *part;
    int64_t count;
    for (int r = 0; r < RANKS; r++) { /* what rank r does with its blocks r, r + 3, r + 6, ... */
        check(salf_basis_builder_create(&builder[r], context, VOCAB, HIDDEN, labels, LABELS, NULL));
        for (int first = r * BLOCK; first < VOCAB; first += RANKS * BLOCK) {
            const salf_tensor block = {.data = head[first], .rows = BLOCK, .cols = HIDDEN, .dtype = SALF_F32};
            check(salf_basis_builder_add(builder[r], first, &block));
        }
    }
    check(salf_basis_builder_partial(builder[0], &sum, &count));
    for (int r = 1; r < RANKS; r++) { /* the all-reduce */
        check(salf_basis_builder_partial(builder[r], &part, &count));
        for (int64_t i = 0; i < count; i++) sum[i] += part[i];
    }
    check(salf_basis_builder_finish(&basis, builder[0], NULL));
    for (int r = 0; r < RANKS; r++) salf_basis_builder_destroy(builder[r]);
    return basis;
}

static salf_basis *basis_at_once(void) {
    const salf_model_options description = {
        .struct_size = sizeof description,
        .n_layers = 1,
        .hidden = HIDDEN,
        .vocab = VOCAB,
        .head = {.data = head, .rows = VOCAB, .cols = HIDDEN, .dtype = SALF_F32},
    };
    salf_model *model;
    salf_basis *basis;
    check(salf_model_create(&model, context, &description));
    check(salf_basis_create(&basis, model, labels, LABELS, NULL));
    salf_model_destroy(model); /* the basis keeps it alive */
    return basis;
}

static void read_rows(salf_basis *basis, double *rows) {
    const salf_tensor out = {.data = rows, .rows = LABELS, .cols = HIDDEN, .dtype = SALF_F64};
    check(salf_basis_rows(basis, labels, LABELS, &out));
    salf_basis_destroy(basis);
}

int main(void) {
    uint32_t state = 1;
    for (int i = 0; i < VOCAB * HIDDEN; i++) {
        state = state * 1664525u + 1013904223u;
        head[i / HIDDEN][i % HIDDEN] = (float)(state >> 8) / (float)(1 << 23) - 1;
    }
    double parts[LABELS * HIDDEN], whole[LABELS * HIDDEN], difference = 0, size = 0; /* squared norms */
    check(salf_context_create(&context, NULL));
    read_rows(basis_from_ranks(), parts);
    read_rows(basis_at_once(), whole);
    salf_context_destroy(context);
    for (int i = 0; i < LABELS * HIDDEN; i++) {
        difference += (parts[i] - whole[i]) * (parts[i] - whole[i]);
        size += whole[i] * whole[i];
    }
    const int equal = difference <= 1e-12 * size; /* a relative difference of 1e-6 */
    printf("%d ranks, %d rows each: the basis is %s\n", RANKS, VOCAB / RANKS, equal ? "the same" : "another");
    return equal ? EXIT_SUCCESS : EXIT_FAILURE;
}
