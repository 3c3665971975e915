/*
 * run_decoder.c - what the trainer's decoder computes for a checkpoint, for decoders.py to compare:
 *
 *   run_decoder MODEL SEQUENCES RANK OUT.safetensors [FOLDER]
 *
 * SEQUENCES: ids separated by commas, sequences by semicolons. The loss is the mean cross-entropy of the next id, or of
 * id 0 at a sequence's end. OUT gets "spaces" [m + 1][T][D], "logits" [T][V], "losses" [T] and, by the names of the
 * parameters, "gradient.NAME" and "value.NAME". RANK 0 trains densely, with embedding and head; else LoRA of this rank,
 * with B random, so that A has gradients. FOLDER: the model is saved there, before any training.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder.h"
#include "rng.h"

#define MOST 4096

typedef struct outputs {
    salf_named_tensor *tensors;
    int64_t n;
    int64_t hidden;
    float *spaces;
} outputs;

static int complain(const char *what, const char *message) {
    fprintf(stderr, "%s: %s\n", what, message);
    return 1;
}

static salf_status keep_space(void *user, int32_t space, int64_t rows, const float *states) {
    outputs *o = user;
    memcpy(o->spaces + space * rows * o->hidden, states, (size_t)(rows * o->hidden) * sizeof *states);
    return SALF_OK;
}

static void put(outputs *o, const char *prefix, const char *name, float *values, int64_t rows, int64_t cols) {
    char *full = malloc(strlen(prefix) + strlen(name) + 1);
    sprintf(full, "%s%s", prefix, name);
    salf_named_tensor *t = &o->tensors[o->n++];
    *t = (salf_named_tensor){.name = full, .shape = {rows, cols}, .n_dims = 2};
    t->view = (salf_tensor){.data = values, .rows = rows, .cols = cols, .dtype = SALF_F32};
}

/* Tokens, offsets and labels of the argument; the number of sequences. */
static int64_t parse(const char *text, int32_t *tokens, int64_t *offsets, int32_t *labels) {
    int64_t n = 0, rows = 0;
    offsets[0] = 0;
    for (char *end; *text && rows < MOST; text = end + 1) {
        tokens[rows++] = (int32_t)strtol(text, &end, 10);
        if (*end != ',') offsets[++n] = rows;
        if (!*end) break;
    }
    for (int64_t s = 0; s < n; s++)
        for (int64_t r = offsets[s]; r < offsets[s + 1]; r++) labels[r] = r + 1 < offsets[s + 1] ? tokens[r + 1] : 0;
    return n;
}

/* Everything after the model has been opened. */
static int run(decoder *d, salf_context *context, char **argv) {
    static int32_t tokens[MOST], labels[MOST];
    static int64_t offsets[MOST + 1], rows[MOST];
    const decoder_config *c = decoder_get_config(d);
    const int64_t n = parse(argv[2], tokens, offsets, labels), t = offsets[n], parameters = decoder_n_parameters(d);
    uint64_t state = 3;
    outputs o = {.hidden = c->hidden};
    for (int64_t r = 0; r < t; r++) rows[r] = r;
    for (int64_t i = 0; i < parameters; i++) {
        decoder_parameter *p = decoder_parameter_at(d, i);
        for (int64_t j = 0; p->role == DECODER_LORA_B && j < p->count; j++)
            p->values[j] = (float)(0.1 * rng_normal(&state));
    }
    o.tensors = calloc((size_t)(2 * parameters + 3), sizeof *o.tensors);
    o.spaces = malloc((size_t)((c->n_layers + 1) * t * c->hidden) * sizeof *o.spaces);
    float *logits = malloc((size_t)(t * c->vocab) * sizeof *logits), *losses = malloc((size_t)t * sizeof *losses);
    float *d_normed = malloc((size_t)(t * c->hidden) * sizeof *d_normed);
    const decoder_batch batch = {
        .tokens = tokens, .offsets = offsets, .n_sequences = n, .head_rows = rows, .n_head_rows = t};
    if (decoder_forward(d, &batch, 1, keep_space, &o) || decoder_logits(d, NULL, c->vocab, logits) ||
        decoder_cross_entropy(d, labels, 1.0 / (double)t, 1, losses, d_normed) || decoder_backward(d, d_normed, NULL))
        return complain("run", decoder_error());
    put(&o, "", "spaces", o.spaces, (c->n_layers + 1) * t, c->hidden);
    put(&o, "", "logits", logits, t, c->vocab);
    put(&o, "", "losses", losses, t, 1);
    for (int64_t i = 0; i < parameters; i++) {
        decoder_parameter *p = decoder_parameter_at(d, i);
        put(&o, "value.", p->name, p->values, p->rows, p->cols);
        if (p->trains && decoder_is_live(d, p->group)) put(&o, "gradient.", p->name, p->gradient, p->rows, p->cols);
    }
    if (salf_tensors_save(context, argv[4], o.tensors, o.n, NULL, 0)) return complain(argv[4], salf_last_error());
    if (argv[5] && decoder_save_like(d, argv[1], argv[5], SALF_F32)) return complain(argv[5], decoder_error());
    return 0;
}

int main(int argc, char **argv) {
    salf_context *context;
    salf_model *model;
    decoder *d;
    if (argc < 5) return complain("usage", "run_decoder MODEL SEQUENCES RANK OUT.safetensors [FOLDER]");
    const int rank = atoi(argv[3]);
    const decoder_training training = {
        .lora_rank = rank, .lora_alpha = 2.0 * rank, .seed = 1, .train_embedding = rank == 0, .train_head = rank == 0};
    if (salf_context_create(&context, NULL)) return complain("context", salf_last_error());
    if (salf_model_open(&model, context, argv[1], NULL)) return complain(argv[1], salf_last_error());
    if (decoder_open(&d, context, model, &training)) return complain(argv[1], decoder_error());
    salf_model_destroy(model);
    const int failed = run(d, context, argv);
    decoder_free(d);
    salf_context_destroy(context);
    return failed;
}
