/*
 * bench_trainer.c - rows of the host trainer: a LoRA step against PyTorch eager, truncated backward passes against
 * their ideal share of the full one by operations, and the probe's share of a step.
 *
 *   bench_trainer [--quick] [--row NAME]     --quick leaves out PyTorch
 *
 * Shape of a 3-million-parameter model: 6 layers, D 192, FFN 512, 6 heads over 2 key-value heads, vocabulary 4,096;
 * LoRA of rank 8 on all matrices; batches of 16 sequences of 22 tokens, the loss at the last position.
 */
#include <math.h>
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

/* Seconds of a backward after its forward, as in a step: what that touched last is still in the cache. */
static double time_backward(trainer *t) {
    forward(t);
    BENCH_OK(decoder_cross_entropy(t->model, t->labels, 1.0 / BATCH, 0, t->losses, t->gradient));
    const double start = bench_now();
    decoder_clear_gradients(t->model);
    BENCH_OK(decoder_backward(t->model, t->gradient, &t->plan));
    return bench_now() - start;
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
    bench_header();
    snprintf(arguments, sizeof arguments, "train %d %d %d %d %d %d %d %d %d", LAYERS, HIDDEN, FFN, HEADS, KV_HEADS,
             VOCAB, BATCH, TOKENS, RANK);
    bench_row("LoRA step, 6 x 192, batch 16 x 22", bench_median(run_step, t, 31), 0, "",
              quick ? 0 : bench_torch(arguments), "torch eager, padded batch");
}

/* Multiply-adds, twice, of a projection [out][in] with n_adapters over `rows` rows: its input's gradient when it is
 * wanted, and the adapters' part of it and gradients. */
static double projection_flops(double rows, double in, double out, double n_adapters, bool input) {
    const double adapter = 2 * rows * RANK * (out + n_adapters * in);
    return (input ? 2 * rows * in * out + 2 * rows * RANK * n_adapters * in : 0) + adapter + 2 * rows * RANK * out;
}

/* Of layer k's backward over `sequences` sequences: in the last layer only one row of each has a query, and goes on
 * behind the attention. The lowest layer passes nothing down. */
static double layer_flops(int32_t k, double sequences, bool lowest) {
    const double kv = (double)KV_HEADS * HIDDEN / HEADS, rows = sequences * TOKENS;
    const double tail = k == LAYERS - 1 ? sequences : rows;
    const double pairs = sequences * (k == LAYERS - 1 ? TOKENS : TOKENS * (TOKENS + 1) / 2);
    return projection_flops(tail, HIDDEN, HIDDEN, 1, !lowest) + projection_flops(rows, HIDDEN, 2 * kv, 2, !lowest) +
           projection_flops(tail, HIDDEN, HIDDEN, 1, true) + projection_flops(tail, HIDDEN, 2 * FFN, 2, true) +
           projection_flops(tail, FFN, HIDDEN, 1, true) + 4 * 2 * pairs * HIDDEN;
}

/* Of the whole backward with the depths eof; NULL: the full one. */
static double backward_flops(const int32_t *eof) {
    double sum = 0;
    int32_t lowest = LAYERS;
    for (int s = 0; s < BATCH; s++) lowest = !eof ? 0 : eof[s] < lowest ? eof[s] : lowest;
    for (int32_t k = lowest; k < LAYERS; k++) {
        int active = 0;
        for (int s = 0; s < BATCH; s++) active += !eof || eof[s] <= k;
        sum += layer_flops(k, active, k == lowest);
    }
    return sum;
}

/* A backward with the depths of t->eof against its share of the full one by operations. The two take turns: the
 * machine's speed drifts. */
static void bench_share(trainer *t, const char *what) {
    enum { ROUNDS = 41 };
    double ratios[ROUNDS], least = INFINITY;
    for (int i = -1; i < ROUNDS; i++) {
        t->plan.eof = NULL;
        const double full = time_backward(t);
        t->plan.eof = t->eof;
        const double part = time_backward(t);
        if (part < least) least = part;
        ratios[i < 0 ? 0 : i] = part / full;
    }
    const double ratio = bench_middle(ratios, ROUNDS), share = backward_flops(t->eof) / backward_flops(NULL);
    printf("| %-46s | %8.3f ms | %8.3f | %8.3f | %8.2f |\n", what, least * 1e3, ratio, share, ratio / share);
}

/* Backward passes with every sequence cut at e, and with eof mixed evenly. */
static void bench_truncation(trainer *t) {
    char what[64];
    printf("\n| %-46s | %11s | %8s | %8s | %8s |\n", "what", "time", "of full", "ideal", "ratio");
    printf("|%.48s|%.13s|%.10s|%.10s|%.10s|\n", "------------------------------------------------",
           "------------:", "---------:", "---------:", "---------:");
    for (int32_t e = 1; e < LAYERS; e++) {
        for (int s = 0; s < BATCH; s++) t->eof[s] = e;
        snprintf(what, sizeof what, "backward, cut %d of %d", e, LAYERS);
        bench_share(t, what);
    }
    for (int s = 0; s < BATCH; s++) t->eof[s] = s % LAYERS;
    bench_share(t, "backward, prefix truncation of mixed eof");
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
    if (bench_wants(&options, "step")) bench_step(&t, options.quick);
    if (bench_wants(&options, "truncation")) bench_truncation(&t);
    if (bench_wants(&options, "probe")) bench_probe(&t);
    free_trainer(&t);
    return 0;
}
