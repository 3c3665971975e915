/*
 * cmd_pretrain.c - `salf-demo pretrain`: trains a small Llama-style model from scratch on the lines of a text file.
 *
 * Each step takes `batch` lines drawn at random, at most `context` tokens of each, and predicts every next token by
 * softmax cross-entropy. Everything trains densely, the tied embedding too, by AdamW with linear warm-up over 5 % of
 * the steps and a cosine down to a tenth of the rate. The same seed gives the same model on the same machine with as
 * many threads. The checkpoint's files appear whole, at the end; a run that is killed leaves an earlier one as it was.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adamw.h"
#include "args.h"
#include "decoder.h"
#include "demo.h"
#include "files.h"
#include "memory.h"
#include "progress.h"
#include "rng.h"
#include "tokenizer.h"

#define NAME      "pretrain"
#define CLIP_NORM 1.0

/* Types the weights may be written in. */
enum { DTYPE_F32, DTYPE_BF16 };
static const char *const dtype_words[] = {[DTYPE_F32] = "f32", [DTYPE_BF16] = "bf16", NULL};

typedef struct pretrain_options {
    const char *text;
    const char *tokenizer;
    const char *output;
    int32_t layers, heads, kv_heads, dtype;
    int64_t hidden, ffn, steps, batch, context, positions;
    double lr, decay;
    uint64_t seed;
} pretrain_options;

/* Examples as ids, one after the other: example i is ids[offsets[i]] ... ids[offsets[i+1]-1]. */
typedef struct corpus {
    int32_t *ids;
    int64_t *offsets; /* [n + 1] */
    int64_t n;
} corpus;

/* A batch with its arrays, each of `batch * context` (offsets: batch + 1). */
typedef struct pretrain_batch {
    int32_t *tokens;
    int32_t *labels;
    int64_t *offsets;
    int64_t *rows;
    float *losses;
    float *d_normed; /* [batch * context][D] */
} pretrain_batch;

/* ---- text ---- */

/* Cuts the text at its line ends and encodes every line that is not empty, with the end token behind it. Returns the
 * number of ids, or -1 when memory is short. */
static int64_t encode_lines(corpus *c, const tokenizer *t, char *text) {
    int64_t used = 0;
    for (char *line = text; line;) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        line[strcspn(line, "\r")] = 0;
        if (*line) {
            int64_t n;
            int32_t *ids = tokenizer_encode_new(t, line, &n);
            if (!ids) return -1;
            memcpy(c->ids + used, ids, (size_t)n * sizeof *ids);
            free(ids);
            used += n;
            c->ids[used++] = TOKEN_END;
            c->offsets[++c->n] = used;
        }
        line = end ? end + 1 : NULL;
    }
    return used;
}

static int load_corpus(corpus *c, const tokenizer *t, const char *path) {
    size_t size = 0;
    char message[512];
    char *text = file_read(path, &size, message, sizeof message);
    *c = (corpus){0};
    if (!text) return args_fail(NAME, "%s", message);
    if (strlen(text) != size) {
        const size_t at = strlen(text);
        free(text);
        return args_fail(NAME, "%s: not text, byte %zu is zero", path, at + 1);
    }
    int64_t lines = 1;
    for (const char *s = text; *s; s++) lines += *s == '\n';
    /* A line of n bytes gives at most n + 2 ids, and one more for its end. */
    c->ids = memory_take((int64_t)size + 3 * lines + 3, sizeof *c->ids);
    c->offsets = memory_take(lines + 1, sizeof *c->offsets);
    const int64_t used = c->ids && c->offsets ? encode_lines(c, t, text) : -1;
    free(text);
    if (used < 0) return args_fail(NAME, "out of memory");
    if (c->n == 0) return args_fail(NAME, "%s: no text in it", path);
    fprintf(stderr, "%lld examples, %lld tokens\n", (long long)c->n, (long long)used);
    return EXIT_CODE_OK;
}

/* ---- batches ---- */

static int64_t random_index(uint64_t *sequence, int64_t n) {
    return (int64_t)(rng_next(sequence) % (uint64_t)n);
}

static void free_batch(pretrain_batch *b) {
    free(b->tokens);
    free(b->labels);
    free(b->offsets);
    free(b->rows);
    free(b->losses);
    free(b->d_normed);
}

/* Arrays for the largest batch there can be. */
static int make_batch(pretrain_batch *b, const pretrain_options *o) {
    const int64_t rows = o->batch * o->context;
    *b = (pretrain_batch){.tokens = memory_take(rows, sizeof *b->tokens),
                          .labels = memory_take(rows, sizeof *b->labels),
                          .offsets = memory_take(o->batch + 1, sizeof *b->offsets),
                          .rows = memory_take(rows, sizeof *b->rows),
                          .losses = memory_take(rows, sizeof *b->losses),
                          .d_normed = memory_take(rows * o->hidden, sizeof *b->d_normed)};
    const int complete = b->tokens && b->labels && b->offsets && b->rows && b->losses && b->d_normed;
    for (int64_t i = 0; complete && i < rows; i++) b->rows[i] = i;
    return complete ? EXIT_CODE_OK : args_fail(NAME, "out of memory");
}

/* Draws examples, with replacement; of one longer than the context, a random stretch. A row's label is the next token.
 * Returns the number of rows. */
static int64_t draw_batch(pretrain_batch *b, const pretrain_options *o, const corpus *c, uint64_t *sequence) {
    int64_t rows = 0;
    for (int64_t s = 0; s < o->batch; s++) {
        const int64_t example = random_index(sequence, c->n);
        const int32_t *ids = c->ids + c->offsets[example];
        const int64_t pairs = c->offsets[example + 1] - c->offsets[example] - 1;
        const int64_t n = pairs < o->context ? pairs : o->context, first = random_index(sequence, pairs - n + 1);
        for (int64_t i = 0; i < n; i++, rows++) {
            b->tokens[rows] = ids[first + i];
            b->labels[rows] = ids[first + i + 1];
        }
        b->offsets[s + 1] = rows;
    }
    return rows;
}

/* ---- training ---- */

/* The learning rate of a step: up over the first 5 %, then a half cosine down to a tenth. */
static double rate_at(const pretrain_options *o, int64_t step) {
    const double warm_up = fmax(1.0, 0.05 * (double)o->steps), at = (double)step + 1.0;
    if (at < warm_up) return o->lr * at / warm_up;
    const double done = (at - warm_up) / fmax(1.0, (double)o->steps - warm_up);
    return o->lr * (0.1 + 0.9 * 0.5 * (1.0 + cos(3.141592653589793 * done)));
}

/* One step; *loss is the mean over its tokens, in nats. Nothing is updated when it or the gradients are not finite. */
static salf_status train_step(decoder *d, adamw *optimizer, const pretrain_options *o, pretrain_batch *b, int64_t rows,
                              int64_t step, double *loss) {
    const decoder_batch batch = {
        .tokens = b->tokens, .offsets = b->offsets, .n_sequences = o->batch, .head_rows = b->rows, .n_head_rows = rows};
    decoder_clear_gradients(d);
    salf_status status = decoder_forward(d, &batch, 1, NULL, NULL);
    if (!status) status = decoder_cross_entropy(d, b->labels, 1.0 / (double)rows, 1, b->losses, b->d_normed);
    if (!status) status = decoder_backward(d, b->d_normed, NULL);
    if (status) return status;
    *loss = 0.0;
    for (int64_t i = 0; i < rows; i++) *loss += (double)b->losses[i] / (double)rows;
    if (!isfinite(decoder_clip_gradients(d, CLIP_NORM))) *loss = NAN;
    if (!isfinite(*loss)) return SALF_OK;
    return adamw_step(optimizer, rate_at(o, step), NULL);
}

#define REPORTS 20 /* lines of progress in a run */

/* All steps. Each line of progress is the mean loss since the one before. */
static int train_steps(decoder *d, adamw *optimizer, const pretrain_options *o, const corpus *c, pretrain_batch *b) {
    progress bar;
    uint64_t sequence = o->seed ^ 0x5851F42D4C957F2Du; /* any constant: batches shall not repeat the weights' numbers */
    double sum = 0.0, loss = 0.0;
    int64_t n = 0, step = 0;
    salf_status status = SALF_OK;
    progress_start(&bar, "pretraining", o->steps);
    for (; !status && isfinite(loss) && step < o->steps; step++) {
        char note[32];
        status = train_step(d, optimizer, o, b, draw_batch(b, o, c, &sequence), step, &loss);
        sum += loss;
        n++;
        snprintf(note, sizeof note, "loss %.3f", sum / (double)n);
        progress_update(&bar, step + 1, note);
        if (status || (step + 1) * REPORTS / o->steps == step * REPORTS / o->steps) continue;
        fprintf(stderr, "step %lld\tloss %.4f\n", (long long)step + 1, sum / (double)n);
        sum = 0.0;
        n = 0;
    }
    progress_end(&bar);
    if (status) return args_fail(NAME, "%s", decoder_error());
    if (!isfinite(loss))
        return args_fail(NAME, "training diverged at step %lld; a lower --lr than %g may help", (long long)step, o->lr);
    return EXIT_CODE_OK;
}

/* Makes the model, trains it and writes it. */
static int run_training(const pretrain_options *o, salf_context *context, const tokenizer *t, const corpus *c) {
    const decoder_training everything = {.train_embedding = 1, .train_head = 1};
    const adamw_options optimizer_options = {.beta2 = 0.95, .weight_decay = o->decay};
    const decoder_config config = {.n_layers = o->layers,
                                   .n_heads = o->heads,
                                   .n_kv_heads = o->kv_heads ? o->kv_heads : o->heads,
                                   .head_dim = (int32_t)(o->hidden / o->heads),
                                   .hidden = o->hidden,
                                   .ffn_hidden = o->ffn,
                                   .vocab = tokenizer_size(t),
                                   .max_positions = o->positions > o->context ? o->positions : o->context,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 10000.0,
                                   .tied = 1,
                                   .bos_token = TOKEN_START,
                                   .eos_token = TOKEN_END};
    decoder *d = NULL;
    adamw *optimizer = NULL;
    pretrain_batch b = {0};
    int code = make_batch(&b, o);
    salf_status status = code ? SALF_OK : decoder_create(&d, context, &config, &everything, o->seed);
    if (!code && !status) status = adamw_create(&optimizer, d, &optimizer_options);
    if (!code && !status) code = train_steps(d, optimizer, o, c, &b);
    if (!code && !status) status = decoder_save(d, o->output, o->dtype == DTYPE_F32 ? SALF_F32 : SALF_BF16);
    if (status) code = args_fail(NAME, "%s", decoder_error());
    adamw_free(optimizer);
    decoder_free(d);
    free_batch(&b);
    return code;
}

/* Reads what there is to read; that the model can be written args_parse has tried. */
static int prepare_and_train(const pretrain_options *o) {
    char message[512];
    tokenizer *t = NULL;
    salf_context *context = NULL;
    corpus c = {0};
    if (tokenizer_load(&t, o->tokenizer, message, sizeof message)) return args_fail(NAME, "%s", message);
    if (tokenizer_is_json(t)) { /* its start and end tokens could have any ids */
        tokenizer_destroy(t);
        return args_fail(NAME, "%s: a model is pretrained with a tokenizer in the .bin form", o->tokenizer);
    }
    int code = salf_context_create(&context, NULL) ? args_fail_salf(NAME) : EXIT_CODE_OK;
    if (!code) code = load_corpus(&c, t, o->text);
    if (!code) code = run_training(o, context, t, &c);
    free(c.ids);
    free(c.offsets);
    salf_context_destroy(context);
    tokenizer_destroy(t);
    return code;
}

#define AT(field) offsetof(pretrain_options, field)

static const args_option pretrain_table[] = {
    {"text", 't', ARGS_TEXT, AT(text), "FILE", .required = 1, .help = "Text to learn, one example a line."},
    {"tokenizer", 0, ARGS_TEXT, AT(tokenizer), "FILE", .required = 1, .help = "Tokenizer in the .bin form."},
    {"output", 'o', ARGS_TEXT, AT(output), "FOLDER", .required = 1, .place = PLACE_FOLDER,
     .help = "Where the checkpoint is written."},
    {"layers", 0, ARGS_INT32, AT(layers), "N", .least = 1, .most = 4096, .help = "Layers (6)."},
    {"hidden", 0, ARGS_INT, AT(hidden), "N", .least = 2, .most = 65536, .help = "Hidden size (128)."},
    {"ffn", 0, ARGS_INT, AT(ffn), "N", .least = 1, .most = 262144,
     .help = "Hidden size of the feed-forward part (352)."},
    {"heads", 0, ARGS_INT32, AT(heads), "N", .least = 1, .most = 4096, .help = "Query heads (4)."},
    {"kv-heads", 0, ARGS_INT32, AT(kv_heads), "N", .least = 1, .most = 4096, .help = "Key and value heads (as many)."},
    {"steps", 0, ARGS_INT, AT(steps), "N", .least = 1, .most = 1e12, .help = "Optimizer steps (2000)."},
    {"batch", 0, ARGS_INT, AT(batch), "N", .least = 1, .most = 65536, .help = "Examples in a step (16)."},
    {"context", 0, ARGS_INT, AT(context), "N", .least = 1, .most = 65536, .help = "Most tokens of an example (128)."},
    {"positions", 0, ARGS_INT, AT(positions), "N", .least = 1, .most = 1e6,
     .help = "Most positions the model claims (512)."},
    {"lr", 0, ARGS_REAL, AT(lr), "X", .least = 1e-12, .most = 1e3, .help = "Peak learning rate (0.003)."},
    {"weight-decay", 0, ARGS_REAL, AT(decay), "X", .least = 0, .most = 1e3, .help = "Weight decay (0.1)."},
    {"seed", 0, ARGS_SEED, AT(seed), "N", .help = "Seed of weights and batches (42)."},
    {"dtype", 0, ARGS_CHOICE, AT(dtype), .words = dtype_words, .help = "Type the weights are written in (bf16)."},
};
#undef AT

static const args_command pretrain_command = {
    .name = NAME,
    .summary = "Trains a small Llama-style model from scratch on a text file.",
    .options = pretrain_table,
    .n_options = sizeof pretrain_table / sizeof *pretrain_table,
};

int cmd_pretrain(int argc, char **argv) {
    pretrain_options o = {.layers = 6,
                          .heads = 4,
                          .hidden = 128,
                          .ffn = 352,
                          .steps = 2000,
                          .batch = 16,
                          .context = 128,
                          .positions = 512,
                          .lr = 3e-3,
                          .decay = 0.1,
                          .seed = 42,
                          .dtype = DTYPE_BF16};
    const int code = args_parse(&pretrain_command, &o, argc, argv, NULL);
    if (code >= 0) return code;
    if (o.hidden % (2 * (int64_t)o.heads))
        return args_misuse(NAME, "--hidden: %lld is not an even multiple of %d heads", (long long)o.hidden,
                           (int)o.heads);
    return prepare_and_train(&o);
}
