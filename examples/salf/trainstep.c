/* trainstep.c - one batch of one method: forward with probe, decision, backward from the cuts up, update.
 *
 * Rows are trained at their own cut by prefix truncation: rows whose cut is m (probed but not taken) get no backward.
 * Gradients of successive batches add up until --batch rows have been trained, also over the end of a planner's stage:
 * so every method makes the same number of updates, each from equally many rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "progress.h"
#include "rng.h"
#include "run.h"
#include "stop.h"

/* ---- forward and decision ---- */

/* A control puts another eof in the place of the probe's, to see what the probe's is worth: one that the class decides,
 * classes spread over the layers, or one that is drawn, by seed and number of the row so that a resumed run draws the
 * same. */
static void control_eof(run *r, salf_trace *trace) {
    const int64_t m = r->s->info.n_layers, from = r->s->settings->eof_from;
    uint64_t sequence = rng_hash(r->s->seed) + (uint64_t)r->tally.v[TALLY_PROBED] * RNG_STRIDE;
    for (int64_t i = 0; i < trace->rows && from != EOF_PROBE; i++)
        r->control[i] = from == EOF_CHANCE ? (int32_t)(rng_uniform(&sequence) * (double)m)
                                           : (int32_t)(r->batch.classes[i] * m / r->s->n_labels);
    if (from != EOF_PROBE) trace->eof = r->control;
}

/* The forward of a batch. With a trace the probe rides along: the decoder's hook hands it every space as it is
 * computed, so that no second forward is needed and nothing is copied. The probe's time is booked apart from the
 * forward's. */
static int run_forward(run *r, salf_trace *trace, int32_t keep) {
    const double start = tally_clock();
    double *v = r->tally.v;
    const int64_t rows = r->batch.batch.n_sequences;
    r->rider.seconds = 0;
    if (trace && salf_probe_begin(r->rider.probe, r->batch.targets, rows) != SALF_OK) return say_salf("probe");
    if (decoder_forward(r->decoder, &r->batch.batch, keep, trace ? probe_rider_hook : NULL, &r->rider) != SALF_OK)
        return say_decoder("forward");
    const double end = tally_clock();
    r->forward = end - start - r->rider.seconds;
    v[TALLY_FORWARD] += r->forward;
    v[TALLY_PASSED] += (double)rows;
    if (!trace) return 0;
    if (salf_probe_end(r->rider.probe, trace) != SALF_OK) return say_salf("probe");
    control_eof(r, trace);
    for (int64_t i = 0; i < rows; i++) r->eof_counts[trace->eof[i]]++;
    if (salf_signal_add(r->signal, trace, r->batch.targets, NULL, NULL) != SALF_OK) return say_salf("probe");
    v[TALLY_PROBED] += (double)rows;
    v[TALLY_PROBE] += r->rider.seconds + tally_clock() - end;
    return 0;
}

/* The policy's decision for this batch. Moments that it wants to start afresh are forgotten at once. */
static int decide(run *r, const salf_trace *trace) {
    const int64_t m = r->s->info.n_layers;
    salf_observation seen;
    salf_options_init(&seen, sizeof seen);
    seen.step = r->tasks;
    seen.trace = trace;
    if (r->tally.v[TALLY_STEPS] > 0) { /* there are norms from the first update on */
        seen.gradient_norm = r->norms + m;
        seen.parameter_norm = r->norms + 2 * m;
    }
    if (r->turn_ends) {
        turn_end(r, r->norms);
        seen.gradient_l1 = r->norms;
    }
    if (salf_policy_decide(r->feed.policy, &seen, &r->decision) != SALF_OK) return say_salf("policy");
    r->turn_ends = r->decision.gradients_wanted;
    for (int32_t i = 0; i < r->decision.n_reset; i++) adamw_reset(r->optimizer, r->decision.reset[i]);
    return 0;
}

/* Cut of every row of the task, m for rows that are not trained now. There are four ways to it:
 *   the planner streams: it has cuts for all rows, and where there is a trace it lets that say which row gets which;
 *   the planner probes: it takes rows whose own eof suits the layer at hand; the others come again at a later one;
 *   salf without a budget: the policy cuts each row of the trace at its own eof, or the batch at one;
 *   all others: the policy's cut for the step holds for every row. */
static int choose_cuts(run *r, const feed_task *task, const salf_trace *trace) {
    if (r->feed.matching == SALF_MATCH_STREAM && r->feed.planner) {
        salf_task assigned = {.eof = task->eof};
        if (task->kind == SALF_TASK_PROBE &&
            salf_planner_assign(r->feed.planner, trace, r->batch.targets, &assigned) != SALF_OK)
            return say_salf("plan");
        memcpy(r->cuts, assigned.eof, (size_t)task->n * sizeof *r->cuts);
        return decide(r, NULL);
    }
    if (task->kind == SALF_TASK_PROBE) {
        if (salf_planner_report(r->feed.planner, trace->eof, task->n, r->accepted) != SALF_OK) return say_salf("plan");
        int64_t taken = 0;
        for (int64_t i = 0; i < task->n; i++) {
            r->cuts[i] = r->accepted[i] ? task->layer : r->s->info.n_layers;
            taken += r->accepted[i];
        }
        return taken ? decide(r, NULL) : 0;
    }
    if (decide(r, r->m->how.policy == SALF_POLICY_SALF ? trace : NULL) != 0) return -1;
    const int truncated = r->m->how.policy == SALF_POLICY_SALF && r->decision.eof;
    for (int64_t i = 0; i < task->n; i++) r->cuts[i] = truncated ? r->decision.eof[i] : r->decision.cut;
    return 0;
}

/* ---- loss, backward, update ---- */

/* Losses of the rows, and the backward of their gradient over 1 / batch; the update corrects for the number of rows. */
static int run_backward(run *r) {
    const double start = tally_clock(), scale = 1.0 / (double)r->s->settings->batch;
    const int64_t rows = r->batch.batch.n_sequences, width = r->s->info.hidden;
    if (!r->loss) {
        if (decoder_cross_entropy(r->decoder, r->batch.targets, scale, 0, r->losses, r->gradient) != SALF_OK)
            return say_decoder("loss");
    } else {
        union { /* a view takes a pointer that is not const; the library does not write through it */
            const float *in;
            void *out;
        } borrowed = {.in = decoder_normed(r->decoder)};
        const salf_tensor normed = {.data = borrowed.out, .rows = rows, .cols = width, .dtype = SALF_F32};
        const salf_tensor gradient = {.data = r->gradient, .rows = rows, .cols = width, .dtype = SALF_F32};
        const salf_tensor losses = {.data = r->losses, .rows = rows, .cols = 1, .dtype = SALF_F32};
        if (salf_loss_compute(r->loss, r->batch.targets, &normed, scale, &losses, &gradient) != SALF_OK)
            return say_salf("loss");
    }
    const double middle = tally_clock();
    const decoder_plan plan = {.eof = r->cuts, .trainable = r->decision.trainable};
    if (decoder_backward(r->decoder, r->gradient, &plan) != SALF_OK) return say_decoder("backward");
    r->tally.v[TALLY_FORWARD] += middle - start;
    r->tally.v[TALLY_BACKWARD] += tally_clock() - middle;
    for (int64_t i = 0; i < rows; i++)
        if (r->cuts[i] < r->s->info.n_layers) r->tally.v[TALLY_LOSS] += (double)r->losses[i];
    return 0;
}

/* Share of the peak learning rate when this share of the data has been trained: up from 0 during the warm-up, then
 * level, or down to 0 in a line or a half cosine. */
static double scheduled_share(const finetune_settings *o, double share) {
    if (share < o->warmup) return share / o->warmup;
    double left = o->warmup < 1 ? (1 - share) / (1 - o->warmup) : 0;
    if (left < 0) left = 0;
    if (o->schedule == SCHEDULE_LINEAR) return left;
    return o->schedule == SCHEDULE_COSINE ? 0.5 - 0.5 * cos(3.14159265358979323846 * left) : 1;
}

int update_weights(run *r) {
    const double start = tally_clock();
    const finetune_settings *o = r->s->settings;
    const int32_t m = r->s->info.n_layers;

    /* 1. gradients carry 1 / batch: make them the mean over the rows that were trained */
    const float factor = (float)((double)o->batch / (double)r->pending);
    for (int64_t i = 0; i < decoder_n_parameters(r->decoder) && r->pending != o->batch; i++) {
        decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        if (!p->trains || !decoder_is_live(r->decoder, p->group)) continue;
        for (int64_t j = 0; j < p->count; j++) p->gradient[j] *= factor;
    }

    /* 2. what the next decision may ask about them */
    decoder_layer_norms(r->decoder, r->norms, r->norms + m, r->norms + 2 * m);
    turn_add(r);
    decoder_clip_gradients(r->decoder, o->clip);

    /* 3. the rate, at the middle of the update's rows: above 0 also at both ends of a run */
    const double middle = r->tally.v[TALLY_TRAINED] - 0.5 * (double)r->pending;
    r->rate = o->rates[r->m - o->methods] * scheduled_share(o, middle / (double)r->feed.total);

    /* 4. rate factors of the layers: the mean of the decisions' over the update's rows, 0 for a row that does not train
     * the layer. So a layer that only few rows train moves by their share: AdamW, which divides by the gradient's size,
     * would otherwise take a full step from one row, where training datum by datum takes one of many */
    for (int32_t k = 0; k < m; k++) r->reach[k] /= (double)r->pending;
    if (adamw_step(r->optimizer, r->rate, r->reach) != SALF_OK) return say_decoder("optimizer");
    const int64_t turn = r->turn_size * (int64_t)sizeof *r->turn; /* AUTOFREEZE's */
    const double held =
        (double)(decoder_extra_bytes(r->decoder) + adamw_bytes(r->optimizer) + boundary_bytes(r) + turn);
    if (held > r->tally.v[TALLY_MEMORY]) r->tally.v[TALLY_MEMORY] = held;
    decoder_clear_gradients(r->decoder);
    memset(r->reach, 0, (size_t)m * sizeof *r->reach);
    r->pending = 0;
    r->lowest = m;
    r->tally.v[TALLY_STEPS] += 1;
    r->tally.v[TALLY_UPDATE] += tally_clock() - start;
    return 0;
}

/* ---- tasks ---- */

/* Where the cuts are known before the forward, it runs the rows by cut, shallow ones first: then what it keeps of a
 * layer is the records of the rows that will come back to it, a prefix, and below the lowest cut nothing. Stable, by
 * counting as Algorithm 4 does: cut after cut. */
static void sort_by_cut(run *r, const feed_task *task) {
    int64_t n = 0;
    for (int32_t e = 0; e <= r->s->info.n_layers; e++)
        for (int64_t i = 0; i < task->n; i++)
            if (r->cuts[i] == e) {
                r->compact[n] = e;
                r->rows[n++] = task->data[i];
            }
    memcpy(r->cuts, r->compact, (size_t)n * sizeof *r->cuts);
}

int run_task(run *r, const feed_task *task) {
    const int probing = r->m->how.policy == SALF_POLICY_SALF || task->kind == SALF_TASK_PROBE;
    const uint32_t *data = probing ? task->data : r->rows;
    salf_trace trace = {0};
    if (!probing) {
        if (choose_cuts(r, task, NULL) != 0) return -1;
        sort_by_cut(r, task);
    }
    if (prompt_batch_fill(&r->batch, r->s, &r->s->train, data, task->n) != 0) return -1;
    if (!probing) {
        r->batch.batch.cuts = r->cuts;
        if (boundary_begin(r, data) != 0) return -1;
    }
    if (run_forward(r, probing ? &trace : NULL, 1) != 0) return -1;
    if (probing) {
        const double start = tally_clock();
        if (choose_cuts(r, task, &trace) != 0) return -1;
        r->tally.v[TALLY_PROBE] += tally_clock() - start;
    }
    const int64_t n = book_batch(r, probing);
    if (n < 0) return -1;
    /* The forward of a row that is not trained now was made for its probe alone. */
    const double lost = r->forward * (double)(task->n - n) / (double)task->n;
    r->tally.v[TALLY_FORWARD] -= lost;
    r->tally.v[TALLY_PROBE] += lost;
    if (n > 0 && run_backward(r) != 0) return -1;
    r->pending += n;
    r->tasks++;
    return feed_done(&r->feed) == SALF_OK ? 0 : say_salf("plan");
}

/* The weights stay as they are meanwhile, so that each datum is probed once: in later epochs it has the same eof. */
int probe_all(run *r) {
    const int64_t n_data = r->s->train.n, step = r->s->settings->batch;
    const tally_mark start = tally_now();
    const double forward_before = r->tally.v[TALLY_FORWARD], probe_before = r->tally.v[TALLY_PROBE];
    int32_t *eof = malloc((size_t)n_data * sizeof *eof);
    progress bar;
    progress_start(&bar, "probing", n_data);
    int failed = eof ? 0 : say_no_memory();
    for (int64_t at = 0; at < n_data && !failed; at += step) {
        const int64_t n = n_data - at < step ? n_data - at : step;
        salf_trace trace;
        for (int64_t i = 0; i < n; i++) {
            r->feed.rows[i] = (uint32_t)(at + i);
            r->cuts[i] = r->s->info.n_layers;
        }
        failed = prompt_batch_fill(&r->batch, r->s, &r->s->train, r->feed.rows, n) || run_forward(r, &trace, 0) ||
                 book_rows(r, r->cuts, n, 1, 0);
        for (int64_t i = 0; i < n && !failed; i++) eof[at + i] = trace.eof[i];
        progress_update(&bar, at + n, NULL);
        if (stop_asked()) failed = -1; /* the checkpoint is the one before: all are probed again */
    }
    progress_end(&bar);
    for (int64_t id = 0; id < r->feed.total && !failed; id++) {
        if (salf_planner_set_eof(r->feed.planner, id, 1, &eof[r->feed.order[id]]) != SALF_OK) failed = say_salf("plan");
    }
    free(eof);
    tally_lap(&r->tally, &start);
    r->tally.v[TALLY_FORWARD] = forward_before;
    r->tally.v[TALLY_PROBE] = probe_before + r->tally.v[TALLY_CPU];
    return failed ? -1 : 0;
}
