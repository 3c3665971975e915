/* evaluate.c - batches of prompts, the probe that rides on a forward, prediction and deviations.
 *
 * A class is predicted as the label word of the largest logit at the medium token, the last of the prompt; on request
 * the largest logit of the whole vocabulary decides, and a token that is no label's counts as wrong. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "finetune.h"
#include "metrics.h"
#include "progress.h"
#include "stop.h"

/* Most prompts of a batch in tests, and test data whose deviations are logged: 200 show the spread of a space, and a
 * log of some methods and spaces stays below a megabyte. */
enum { EVALUATION_ROWS = 32, DEVIATION_SAMPLE = 200 };

/* Prompts of a batch in tests: no more than in training, so that a test does not enlarge what a run holds in memory. */
static int64_t evaluation_rows(const session *s) {
    return s->settings->batch < EVALUATION_ROWS ? s->settings->batch : EVALUATION_ROWS;
}

/* Prompts lie one after the other without padding, so that no row is computed for nothing. The target of a prompt is
 * the first token of its class's word, to be predicted at its last row. */
int prompt_batch_fill(prompt_batch *b, const session *s, const split *from, const uint32_t *rows, int64_t n) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) total += from->offsets[rows[i] + 1] - from->offsets[rows[i]];
    /* 1. room; what the batch held before is gone */
    if (total > b->token_room) {
        free(b->tokens);
        b->token_room = 0;
        if (!(b->tokens = malloc((size_t)total * sizeof *b->tokens))) return say_no_memory();
        b->token_room = total;
    }
    if (n > b->row_room) {
        free(b->offsets);
        free(b->head_rows);
        free(b->targets);
        free(b->classes);
        b->row_room = 0;
        b->offsets = malloc(((size_t)n + 1) * sizeof *b->offsets);
        b->head_rows = malloc((size_t)n * sizeof *b->head_rows);
        b->targets = malloc((size_t)n * sizeof *b->targets);
        b->classes = malloc((size_t)n * sizeof *b->classes);
        if (!b->offsets || !b->head_rows || !b->targets || !b->classes) return say_no_memory();
        b->row_room = n;
    }
    /* 2. prompts */
    b->offsets[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t first = from->offsets[rows[i]], length = from->offsets[rows[i] + 1] - first;
        memcpy(b->tokens + b->offsets[i], from->tokens + first, (size_t)length * sizeof *b->tokens);
        b->offsets[i + 1] = b->offsets[i] + length;
        b->head_rows[i] = b->offsets[i + 1] - 1;
        b->classes[i] = from->classes[rows[i]];
        b->targets[i] = s->label_tokens[b->classes[i]];
    }
    b->batch = (decoder_batch){
        .tokens = b->tokens, .offsets = b->offsets, .n_sequences = n, .head_rows = b->head_rows, .n_head_rows = n};
    return 0;
}

/* The batch can be filled again. */
void prompt_batch_free(prompt_batch *b) {
    free(b->tokens);
    free(b->offsets);
    free(b->head_rows);
    free(b->targets);
    free(b->classes);
    *b = (prompt_batch){0};
}

/* Shows the probe the rows of the medium tokens, where they lie among all rows of the space. */
salf_status probe_rider_hook(void *user, int32_t space, int64_t rows, const float *states) {
    probe_rider *rider = user;
    (void)rows;
    double start = tally_clock();
    const decoder_batch *batch = &rider->batch->batch;
    union { /* a view takes a pointer that is not const; the library only reads it */
        const float *in;
        void *out;
    } borrowed = {.in = states};
    salf_tensor view = {.data = borrowed.out, .row_index = batch->head_rows, .rows = batch->n_head_rows};
    view.cols = rider->width;
    view.dtype = SALF_F32;
    salf_status status = salf_probe_observe(rider->probe, space, &view, SALF_STATE_RAW);
    rider->seconds += tally_clock() - start;
    return status;
}

/* Candidates stay the whole vocabulary, as the paper has it. */
salf_status make_probe(salf_probe **out, const session *s, int32_t metric, int32_t nonfinite) {
    salf_probe_options o;
    salf_options_init(&o, sizeof o);
    o.metric = metric;
    o.lens = s->settings->lens;
    o.temperature = s->settings->temperature;
    o.nonfinite = nonfinite;
    return salf_probe_create(out, s->basis, &o);
}

/* Classes of a batch: the largest logit decides. Over the whole vocabulary a token that is no label's is class -1,
 * which counts as wrong; and so is a row with a logit that is not finite, in which nothing is the largest. Logits
 * [rows][n]: n label words, or the vocabulary. */
static void choose_classes(session *s, const float *logits, int64_t rows, int64_t n, int32_t *predicted) {
    for (int64_t r = 0; r < rows; r++) {
        const float *row = logits + r * n;
        int64_t best = 0, finite = 0;
        for (int64_t i = 0; i < n; i++) {
            if (row[i] > row[best]) best = i;
            finite += isfinite(row[i]) != 0;
        }
        s->n_undefined += finite < n;
        predicted[r] = finite < n ? -1 : (int32_t)best;
        if (finite < n || !s->settings->whole_vocabulary) continue;
        predicted[r] = -1;
        for (int32_t c = 0; c < s->n_labels; c++)
            if (s->label_tokens[c] == best) predicted[r] = c;
    }
}

/* The class of every test datum, predicted [n]. logits is room for a batch of them. */
static int predict_classes(session *s, decoder *d, float *logits, int32_t *predicted) {
    const int32_t *tokens = s->settings->whole_vocabulary ? NULL : s->label_tokens;
    const int64_t n_tokens = tokens ? s->n_labels : s->info.vocab;
    prompt_batch batch = {0};
    uint32_t rows[EVALUATION_ROWS];
    progress bar;
    progress_start(&bar, "evaluating", s->test.n);
    s->n_undefined = 0;
    int result = 0;
    const int64_t step = evaluation_rows(s);
    for (int64_t at = 0; at < s->test.n && result == 0; at += step) {
        const int64_t n = s->test.n - at < step ? s->test.n - at : step;
        for (int64_t i = 0; i < n; i++) rows[i] = (uint32_t)(at + i);
        result = prompt_batch_fill(&batch, s, &s->test, rows, n);
        if (result != 0) break;
        if (decoder_forward(d, &batch.batch, 0, NULL, NULL) != SALF_OK ||
            decoder_logits(d, tokens, n_tokens, logits) != SALF_OK)
            result = say_decoder("evaluation");
        else
            choose_classes(s, logits, n, n_tokens, predicted + at);
        progress_update(&bar, at + n, NULL);
        if (s->may_stop && stop_asked()) result = -1;
    }
    progress_end(&bar);
    prompt_batch_free(&batch);
    return result;
}

/* Figures of the whole test set by the weights as they are. */
int evaluate(session *s, decoder *d, tally *result, int64_t *confusion) {
    const int64_t n_tokens = s->settings->whole_vocabulary ? s->info.vocab : s->n_labels;
    float *logits = malloc((size_t)n_tokens * EVALUATION_ROWS * sizeof *logits);
    int32_t *predicted = malloc((size_t)s->test.n * sizeof *predicted);
    int failed = !logits || !predicted ? say_no_memory() : predict_classes(s, d, logits, predicted);
    metrics found = {0};
    if (!failed && metrics_compute(s->n_labels, s->test.n, s->test.classes, predicted, confusion, &found) != 0)
        failed = say_no_memory();
    result->v[TALLY_F1] = found.f1;
    result->v[TALLY_ACCURACY] = found.accuracy;
    result->v[TALLY_VARIANCE] = found.variance;
    free(logits);
    free(predicted);
    return failed;
}

/* Deviations of a piece of the sample, [n][m+1]. The sample is spread evenly: some sets are sorted by class. */
static int probe_sample(session *s, decoder *d, probe_rider *rider, int64_t first, int64_t n, int64_t sample,
                        double *out) {
    prompt_batch *batch = rider->batch;
    uint32_t rows[EVALUATION_ROWS];
    salf_trace trace;
    for (int64_t i = 0; i < n; i++) rows[i] = (uint32_t)((first + i) * s->test.n / sample);
    if (prompt_batch_fill(batch, s, &s->test, rows, n) != 0) return -1;
    if (salf_probe_begin(rider->probe, batch->targets, n) != SALF_OK) return say_salf("probe");
    if (decoder_forward(d, &batch->batch, 0, probe_rider_hook, rider) != SALF_OK) return say_decoder("probe");
    if (salf_probe_end(rider->probe, &trace) != SALF_OK) return say_salf("probe");
    memcpy(out, trace.deviations, (size_t)n * ((size_t)trace.n_layers + 1) * sizeof *out);
    return 0;
}

/* A probe of its own, so that the run's is left alone; before training and after it, for the report's violins. Where
 * training has left no numbers, none are logged: that ends no comparison. */
int log_deviations(session *s, decoder *d, const method *m, const char *when) {
    if (!s->log.file) return 0;
    const int64_t columns = (int64_t)s->info.n_layers + 1;
    const int64_t n = s->test.n < DEVIATION_SAMPLE ? s->test.n : DEVIATION_SAMPLE;
    double *rows = malloc((size_t)(n * columns) * sizeof *rows);
    if (!rows) return say_no_memory();
    prompt_batch batch = {0};
    probe_rider rider = {.batch = &batch, .width = s->info.hidden};
    const salf_status made = make_probe(&rider.probe, s, m->how.metric, SALF_NONFINITE_TRAIN_FULLY);
    int result = made == SALF_OK ? 0 : say_salf("probe");
    const int64_t step = evaluation_rows(s);
    for (int64_t at = 0; at < n && result == 0; at += step)
        result = probe_sample(s, d, &rider, at, n - at < step ? n - at : step, n, rows + at * columns);
    if (result == 0) {
        log_begin(s, "deviations", m);
        jsonl_text(&s->log, "when", when);
        jsonl_text(&s->log, "metric", salf_constant_word("SALF_METRIC", m->how.metric));
        jsonl_real_rows(&s->log, "rows", rows, n, columns);
        jsonl_end(&s->log);
    }
    salf_probe_destroy(rider.probe);
    prompt_batch_free(&batch);
    free(rows);
    return result;
}
