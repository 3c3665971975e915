/*
 * bench_trainer.c - rows of the host trainer: a LoRA step against PyTorch eager, truncated backward passes against
 * their ideal share of the full one, and the probe's share of a step.
 *
 *   bench_trainer [--quick] [--row NAME]     --quick leaves out PyTorch
 *
 * Shape of a 3-million-parameter model: 6 layers, D 192, FFN 512, 6 heads over 2 key-value heads, vocabulary 4,096;
 * LoRA of rank 8 on all matrices; batches of 16 sequences of 22 tokens, the loss at the last position.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adamw.h"
#include "bench.h"
#include "decoder.h"
#include "salf.h"

enum { LAYERS = 6, HIDDEN = 192, FFN = 512, HEADS = 6, KV_HEADS = 2, VOCAB = 4096, BATCH = 16, TOKENS = 22, RANK = 8 };

typedef struct {
    salf_context *context;
    decoder *model;
    adamw *optimizer;
    salf_probe *probe; /* NULL: none in the step */
    decoder_batch batch;
    decoder_plan plan;
    int32_t eof[BATCH];
    int32_t labels[BATCH];
    int64_t offsets[BATCH + 1];
    int64_t last[BATCH];
    int32_t tokens[BATCH * TOKENS];
    float gradient[BATCH * HIDDEN];
    float losses[BATCH];
    double probe_seconds;
} trainer;

static salf_status observe(void *user, int32_t space, int64_t rows, const float *states) {
    (void)rows;
    trainer *t = user;
    union { /* views take a pointer that is not const; inputs are never written through */
        const float *in;
        void *out;
    } data = {.in = states};
    const salf_tensor view = {
        .data = data.out, .row_index = t->last, .rows = BATCH, .cols = HIDDEN, .row_stride = HIDDEN, .dtype = SALF_F32};
    const double start = bench_now();
    const salf_status status = salf_probe_observe(t->probe, space, &view, SALF_STATE_RAW);
    t->probe_seconds += bench_now() - start;
    return status;
}

static void forward(trainer *t) {
    if (!t->probe) {
        BENCH_OK(decoder_forward(t->model, &t->batch, 1, NULL, NULL));
        return;
    }
    salf_trace trace;
    double start = bench_now();
    BENCH_OK(salf_probe_begin(t->probe, t->labels, BATCH));
    t->probe_seconds = bench_now() - start;
    BENCH_OK(decoder_forward(t->model, &t->batch, 1, observe, t));
    start = bench_now();
    BENCH_OK(salf_probe_end(t->probe, &trace));
    t->probe_seconds += bench_now() - start;
}

static void run_step(void *user) {
    trainer *t = user;
    decoder_clear_gradients(t->model);
    forward(t);
    BENCH_OK(decoder_cross_entropy(t->model, t->labels, 1.0 / BATCH, 0, t->losses, t->gradient));
    BENCH_OK(decoder_backward(t->model, t->gradient, &t->plan));
    BENCH_OK(adamw_step(t->optimizer, 1e-4, NULL));
}

static void run_backward(void *user) {
    trainer *t = user;
    decoder_clear_gradients(t->model);
    BENCH_OK(decoder_backward(t->model, t->gradient, &t->plan));
}

static void make_trainer(trainer *t) {
    memset(t, 0, sizeof *t);
    const salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_CPU, .threads = bench_threads()};
    const decoder_config config = {.n_layers = LAYERS,
                                   .n_heads = HEADS,
                                   .n_kv_heads = KV_HEADS,
                                   .head_dim = HIDDEN / HEADS,
                                   .hidden = HIDDEN,
                                   .ffn_hidden = FFN,
                                   .vocab = VOCAB,
                                   .max_positions = 512,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 10000,
                                   .tied = 1,
                                   .bos_token = 1,
                                   .eos_token = 2};
    const decoder_training training = {.lora_rank = RANK, .lora_alpha = 2 * RANK, .seed = 1};
    BENCH_OK(salf_context_create(&t->context, &o));
    BENCH_OK(decoder_create(&t->model, t->context, &config, &training, 1));
    BENCH_OK(adamw_create(&t->optimizer, t->model, NULL));
    for (int32_t i = 0; i < BATCH * TOKENS; i++) t->tokens[i] = (i * 2654435 + 11) % VOCAB;
    for (int32_t s = 0; s < BATCH; s++) {
        t->labels[s] = 100 + s;
        t->offsets[s + 1] = (int64_t)(s + 1) * TOKENS;
        t->last[s] = t->offsets[s + 1] - 1;
    }
    t->batch = (decoder_batch){
        .tokens = t->tokens, .offsets = t->offsets, .n_sequences = BATCH, .head_rows = t->last, .n_head_rows = BATCH};
    t->plan = (decoder_plan){.eof = t->eof};
}

static void free_trainer(trainer *t) {
    adamw_free(t->optimizer);
    decoder_free(t->model);
    salf_context_destroy(t->context);
}

static void bench_step(trainer *t, bool quick) {
    char arguments[96];
    snprintf(arguments, sizeof arguments, "train %d %d %d %d %d %d %d %d %d", LAYERS, HIDDEN, FFN, HEADS, KV_HEADS,
             VOCAB, BATCH, TOKENS, RANK);
    bench_row("LoRA step, 6 x 192, batch 16 x 22", bench_median(run_step, t, 31), 0, "",
              quick ? 0 : bench_torch(arguments), "torch eager, padded batch");
}

/* A backward with the depths of t->eof against its share of the full one, which is measured again beside it: the
 * machine's speed drifts. The share counts layers, all alike; the last one, computed at one row of 22, costs less. */
static void bench_share(trainer *t, const char *what, double share) {
    t->plan.eof = NULL;
    const double full = bench_median(run_backward, t, 31);
    t->plan.eof = t->eof;
    bench_row(what, bench_median(run_backward, t, 31), full * share, "share of the full one", 0, "");
}

/* Backward passes with every sequence cut at e, and with eof mixed evenly. */
static void bench_truncation(trainer *t) {
    char what[64];
    forward(t);
    BENCH_OK(decoder_cross_entropy(t->model, t->labels, 1.0 / BATCH, 0, t->losses, t->gradient));
    for (int32_t e = 0; e < LAYERS; e++) {
        for (int s = 0; s < BATCH; s++) t->eof[s] = e;
        snprintf(what, sizeof what, "backward, cut %d of %d", e, LAYERS);
        bench_share(t, what, (LAYERS - e) / (double)LAYERS);
    }
    int32_t skipped = 0;
    for (int s = 0; s < BATCH; s++) skipped += t->eof[s] = s % LAYERS;
    bench_share(t, "backward, prefix truncation of mixed eof", 1 - skipped / (double)(BATCH * LAYERS));
    memset(t->eof, 0, sizeof t->eof);
}

static salf_tensor embedding_of(trainer *t) {
    const decoder_parameter *p = decoder_parameter_at(t->model, 0);
    return (salf_tensor){.data = p->values, .rows = p->rows, .cols = p->cols, .row_stride = p->cols, .dtype = SALF_F32};
}

static void bench_probe(trainer *t) {
    const salf_model_options o = {.struct_size = sizeof o,
                                  .n_layers = LAYERS,
                                  .hidden = HIDDEN,
                                  .vocab = VOCAB,
                                  .tied = 1,
                                  .head = embedding_of(t),
                                  .norm_kind = SALF_NORM_RMS};
    salf_model *model;
    salf_basis *basis;
    BENCH_OK(salf_model_create(&model, t->context, &o));
    BENCH_OK(salf_basis_create(&basis, model, t->labels, BATCH, NULL));
    BENCH_OK(salf_probe_create(&t->probe, basis, NULL));
    const double step = bench_median(run_step, t, 31);
    printf("\ncosine probe inside the step: %.2f %% of %.3f ms\n", 100 * t->probe_seconds / step, step * 1e3);
    salf_probe_destroy(t->probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
}

int main(int argc, char **argv) {
    const bench_options options = bench_read_options(argc, argv, "step truncation probe");
    trainer t;
    make_trainer(&t);
    bench_header();
    if (bench_wants(&options, "step")) bench_step(&t, options.quick);
    if (bench_wants(&options, "truncation")) bench_truncation(&t);
    if (bench_wants(&options, "probe")) bench_probe(&t);
    free_trainer(&t);
    return 0;
}
