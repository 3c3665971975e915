/* trainloop.c - the host loop around libsalf: forward with probe, decision, backward from the cut up, update.
 *
 * Rows are trained at their own cut by prefix truncation: rows whose cut is m (probed but not taken) get no backward.
 * Gradients of successive batches of one stage add up until --batch rows have been trained, so that every method
 * updates on equally many rows; the sum is then divided by their number. The learning rate follows the share of data
 * trained, which is the same measure for every method.
 *
 * The basis of the label words stays valid all along: the head is frozen, only layers train. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "progress.h"
#include "run.h"

/* Everything that training by one method needs. After a failure run_close releases what there is. */
static int run_open(run *r, session *s, int index) {
    const finetune_settings *o = s->settings;
    const int32_t m = s->info.n_layers;
    const size_t layers = (size_t)m, rows = (size_t)o->batch, width = (size_t)s->info.hidden;
    *r = (run){.s = s, .index = index, .m = &o->methods[index], .stage = -1};
    r->rider = (probe_rider){.batch = &r->batch, .width = s->info.hidden};
    salf_options_init(&r->decision, sizeof r->decision);

    /* 1. the model, fresh from its checkpoint for every method, and the optimizer */
    const decoder_training training = {.lora_rank = o->dense ? 0 : o->lora_rank,
                                       .lora_targets = o->targets,
                                       .lora_alpha = o->lora_alpha,
                                       .seed = o->seed};
    const adamw_options adam = {.weight_decay = o->weight_decay};
    if (decoder_open(&r->decoder, s->context, s->model, &training) != SALF_OK) return say_decoder("--model");
    if (adamw_create(&r->optimizer, r->decoder, &adam) != SALF_OK) return say_decoder("optimizer");

    /* 2. the order of the data, with policy and planner */
    const feed_options order = {.n_layers = m,
                                .reduction = o->reduction,
                                .matching = o->matching,
                                .as_published = o->as_published,
                                .n_data = s->train.n,
                                .epochs = o->epochs,
                                .batch = o->batch,
                                .probe_limit = o->probe_limit_given ? o->probe_limit : -1,
                                .seed = o->seed};
    if (feed_create(&r->feed, s->context, r->m, &order) != SALF_OK) return say_salf("plan");

    /* 3. a semantic loss, where it is not the language model's, and a probe, where the method asks for one */
    salf_loss_options loss;
    salf_options_init(&loss, sizeof loss);
    loss.kind = o->loss == LOSS_COSINE ? SALF_LOSS_COSINE : SALF_LOSS_CE;
    loss.temperature = o->temperature;
    if (o->loss != LOSS_LM && salf_loss_create(&r->loss, s->basis, &loss) != SALF_OK) return say_salf("loss");
    if (r->m->how.probes && make_probe(&r->rider.probe, s, r->m->how.metric) != SALF_OK) return say_salf("probe");

    /* 4. arrays */
    r->eof_counts = calloc(layers, sizeof *r->eof_counts);
    r->norms = calloc(layers, RUN_NORMS * sizeof *r->norms);
    r->rates = malloc(layers * sizeof *r->rates);
    r->cuts = malloc(rows * sizeof *r->cuts);
    r->compact = malloc(rows * sizeof *r->compact);
    r->accepted = malloc(rows);
    r->losses = malloc(rows * sizeof *r->losses);
    r->gradient = malloc(rows * width * sizeof *r->gradient);
    const int whole =
        r->eof_counts && r->norms && r->rates && r->cuts && r->compact && r->accepted && r->losses && r->gradient;
    return whole ? 0 : say_no_memory();
}

/* Also after run_open has failed in the middle: what is not there is NULL. */
static void run_close(run *r) {
    free(r->eof_counts);
    free(r->norms);
    free(r->rates);
    free(r->cuts);
    free(r->compact);
    free(r->accepted);
    free(r->losses);
    free(r->gradient);
    prompt_batch_free(&r->batch);
    salf_probe_destroy(r->rider.probe);
    salf_loss_destroy(r->loss);
    feed_destroy(&r->feed);
    adamw_free(r->optimizer);
    decoder_free(r->decoder);
}

/* ---- forward and decision ---- */

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
    double end = tally_clock();
    v[TALLY_FORWARD] += end - start - r->rider.seconds;
    v[TALLY_PASSED] += (double)rows;
    if (!trace) return 0;
    if (salf_probe_end(r->rider.probe, trace) != SALF_OK) return say_salf("probe");
    for (int64_t i = 0; i < rows; i++) r->eof_counts[trace->eof[i]]++;
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
        seen.gradient_l1 = r->norms;
        seen.gradient_norm = r->norms + m;
        seen.parameter_norm = r->norms + 2 * m;
    }
    if (salf_policy_decide(r->feed.policy, &seen, &r->decision) != SALF_OK) return say_salf("policy");
    for (int32_t i = 0; i < r->decision.n_reset; i++) adamw_reset(r->optimizer, r->decision.reset[i]);
    return 0;
}

/* Cut of every row of the task, m for rows that are not trained now. There are three ways to it:
 *   the planner probes: it takes rows whose own eof suits the layer at hand; the others come again at a later one;
 *   salf without a budget: the policy cuts each row of the trace at its own eof, or the batch at one;
 *   all others: the policy's cut for the step holds for every row. */
static int choose_cuts(run *r, const feed_task *task, const salf_trace *trace) {
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

/* Applies the gradients that have added up. */
static int update_weights(run *r) {
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
    decoder_clip_gradients(r->decoder, o->clip);

    /* 3. the rate, at the middle of the update's rows: above 0 also at both ends of a run */
    const double middle = r->tally.v[TALLY_TRAINED] - 0.5 * (double)r->pending;
    r->rate = o->rate * scheduled_share(o, middle / (double)r->feed.total);

    /* 4. rate factors of the layers. Under prefix truncation a layer that only few rows of the batch train moves by
     * their share: AdamW would otherwise take a full step from one row's gradient, where training datum by datum takes
     * one of many */
    const double *rates = r->decision.rate_scale;
    if (r->m->how.policy == SALF_POLICY_SALF && r->decision.active_rows) {
        for (int32_t k = 0; k < m; k++)
            r->rates[k] = rates[k] * (double)r->decision.active_rows[k] / (double)r->decision.rows;
        rates = r->rates;
    }
    if (adamw_step(r->optimizer, r->rate, rates) != SALF_OK) return say_decoder("optimizer");
    decoder_clear_gradients(r->decoder);
    r->pending = 0;
    r->tally.v[TALLY_STEPS] += 1;
    r->tally.v[TALLY_UPDATE] += tally_clock() - start;
    return 0;
}

/* ---- accounts ---- */

/* Adds the predicted operations of rows with these cuts; rows that are not trained (cut m) cost their forward and
 * probe, and belong to no step of a run that trains everything. */
static int price_rows(run *r, const int32_t *cuts, int64_t rows, int probed, int trained) {
    const salf_model_info *info = &r->s->info;
    const finetune_settings *o = r->s->settings;
    salf_cost_options c;
    salf_cost cost;
    salf_options_init(&c, sizeof c);
    salf_options_init(&cost, sizeof cost);
    c.n_layers = info->n_layers;
    c.hidden = info->hidden;
    c.ffn_hidden = info->ffn_hidden;
    c.vocab = info->vocab;
    c.n_heads = info->n_heads;
    c.n_kv_heads = info->n_kv_heads;
    c.head_dim = info->head_dim;
    c.gated_ffn = 1;
    c.lora_rank = o->dense ? 0 : o->lora_rank;
    c.matrices = o->dense ? 0 : o->targets;
    c.rows = rows;
    c.row_tokens = r->batch.offsets[r->batch.batch.n_sequences] / r->batch.batch.n_sequences;
    c.probe = probed;
    c.metric = r->m->how.metric;
    c.eof = cuts;
    c.trainable = trained ? r->decision.trainable : NULL;
    if (salf_cost_estimate(&c, &cost) != SALF_OK) return say_salf("cost model");
    r->tally.v[TALLY_FLOPS] += trained ? cost.total : cost.forward + cost.probe;
    if (trained) r->tally.v[TALLY_FULL_FLOPS] += cost.full_total;
    return 0;
}

/* Books the batch: depth, rows and predicted operations. Rows that train and rows that were only probed are priced
 * apart, as the cost model takes one kind of step at a time. Returns the rows that train, or -1. */
static int64_t book_batch(run *r, int probed) {
    const int32_t m = r->s->info.n_layers;
    const int64_t rows = r->batch.batch.n_sequences;
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (r->cuts[i] >= m) continue;
        r->tally.v[TALLY_DEPTH] += (double)r->cuts[i] / m; /* the share of the layers below the cut */
        r->compact[n++] = r->cuts[i];
    }
    r->tally.v[TALLY_TRAINED] += (double)n;
    if (n > 0 && price_rows(r, r->compact, n, probed, 1) != 0) return -1;
    for (int64_t i = n; i < rows; i++) r->compact[i] = m;
    if (n < rows && price_rows(r, r->compact + n, rows - n, probed, 0) != 0) return -1;
    return n;
}

/* ---- the loop ---- */

/* One batch: forward, decision, and a backward of the rows that train. The update comes when enough rows have. */
static int run_task(run *r, const feed_task *task) {
    const int probing = r->m->how.policy == SALF_POLICY_SALF || task->kind == SALF_TASK_PROBE;
    salf_trace trace = {0};
    if (prompt_batch_fill(&r->batch, r->s, &r->s->train, task->data, task->n) != 0) return -1;
    if (run_forward(r, probing ? &trace : NULL, 1) != 0) return -1;
    const double start = tally_clock();
    if (choose_cuts(r, task, &trace) != 0) return -1;
    if (probing) r->tally.v[TALLY_PROBE] += tally_clock() - start;
    const int64_t n = book_batch(r, probing);
    if (n < 0 || (n > 0 && run_backward(r) != 0)) return -1;
    r->pending += n;
    r->stage = task->layer;
    r->tasks++;
    return feed_done(&r->feed) == SALF_OK ? 0 : say_salf("plan");
}

/* OFFLINE: the eof of all data, by the weights before training, in one pass of inference; its time is the probe's. */
static int probe_all(run *r) {
    const double start = tally_clock(), forward_before = r->tally.v[TALLY_FORWARD],
                 probe_before = r->tally.v[TALLY_PROBE];
    const int64_t step = r->s->settings->batch;
    progress bar;
    progress_start(&bar, "probing", r->feed.total);
    int result = 0;
    for (int64_t at = 0; at < r->feed.total && result == 0; at += step) {
        int64_t n = r->feed.total - at < step ? r->feed.total - at : step;
        salf_trace trace;
        result = prompt_batch_fill(&r->batch, r->s, &r->s->train, r->feed.order + at, n);
        if (result == 0) result = run_forward(r, &trace, 0);
        if (result == 0 && salf_planner_set_eof(r->feed.planner, at, n, trace.eof) != SALF_OK)
            result = say_salf("plan");
        for (int64_t i = 0; i < n && result == 0; i++) r->cuts[i] = r->s->info.n_layers;
        if (result == 0) result = price_rows(r, r->cuts, n, 1, 0);
        progress_update(&bar, at + n, NULL);
    }
    progress_end(&bar);
    r->tally.v[TALLY_FORWARD] = forward_before;
    r->tally.v[TALLY_PROBE] = probe_before + tally_clock() - start;
    return result;
}

/* [n_labels][n_labels + 1], zeroed, freed by the caller; NULL with a message. */
static int64_t *new_confusion(const session *s) {
    int64_t *confusion = calloc((size_t)s->n_labels * ((size_t)s->n_labels + 1), sizeof *confusion);
    if (!confusion) say_no_memory();
    return confusion;
}

/* After an update: the log, a test on the way, the checkpoint, and the end that --stop-after asks for. */
static int after_update(run *r, tally *logged, tally *tallies, int64_t *updates) {
    const finetune_settings *o = r->s->settings;
    const int64_t steps = (int64_t)r->tally.v[TALLY_STEPS];
    log_step(r->s, r->m, logged, &r->tally, r->decision.cut, r->rate);
    *logged = r->tally;
    if (o->eval_every > 0 && steps % o->eval_every == 0) {
        tally seen = r->tally; /* the run's own figures stay as they are */
        int64_t *confusion = new_confusion(r->s);
        const int failed = !confusion || evaluate(r->s, r->decoder, &seen, confusion) != 0;
        free(confusion);
        if (failed) return -1;
        log_eval(r->s, r->m, &seen);
    }
    if (o->checkpoint && steps % o->checkpoint_every == 0 && runstate_save(r->s, r, r->index, tallies) != 0) return -1;
    if (o->stop_after > 0 && ++*updates >= o->stop_after) _exit(137); /* 128 + SIGKILL, as a shell reports a kill */
    return 0;
}

/* Trains to the end of the feed. Gradients are applied when a batch of rows has been trained, and where a stage or the
 * run ends. */
static int train_to_end(run *r, tally *tallies) {
    static int64_t updates; /* of all methods, as --stop-after counts them */
    tally logged = r->tally;
    progress bar;
    progress_start(&bar, r->m->name, r->feed.total);
    int result = 0;
    while (result == 0) {
        feed_task task;
        if (feed_next(&r->feed, &task) != SALF_OK) {
            result = say_salf("plan");
            break;
        }
        const int ends = task.kind == SALF_TASK_DONE;
        if (r->pending > 0 && (ends || task.layer != r->stage || r->pending >= r->s->settings->batch)) {
            result = update_weights(r);
            if (result == 0) result = after_update(r, &logged, tallies, &updates);
        }
        if (ends || result != 0) break;
        result = run_task(r, &task);
        progress_update(&bar, (int64_t)r->tally.v[TALLY_TRAINED], NULL);
    }
    progress_end(&bar);
    return result;
}

/* ---- one method from start to end ---- */

/* The merged model: into the output folder itself, or with several methods into one below it for each. "salf[geom][df]"
 * is called "salf-geom-df" there, and "lift*[half]" "lift-star-half". */
static int write_output(run *r) {
    const finetune_settings *o = r->s->settings;
    char path[4096], name[2 * METHOD_NAME_SIZE];
    if (!o->output) return 0;
    size_t used = 0;
    for (const char *c = r->m->name; *c && used + 6 < sizeof name; c++) {
        if (*c == '[') name[used++] = '-';
        if (*c == '*') used += (size_t)snprintf(name + used, sizeof name - used, "-star");
        if (*c != '[' && *c != ']' && *c != '*') name[used++] = *c;
    }
    name[used] = '\0';
    const int n = snprintf(path, sizeof path, o->n_methods > 1 ? "%s/%s" : "%s", o->output, name);
    if (n < 0 || (size_t)n >= sizeof path) {
        args_fail("finetune", "--output: the path is too long");
        return -1;
    }
    mkdir(o->output, 0777); /* where it cannot be made, decoder_save says why */
    return decoder_save(r->decoder, path, SALF_F32) == SALF_OK ? 0 : say_decoder("--output");
}

/* The last test, its results in the log, the model, and a checkpoint that says the method is done. */
static int finish_method(run *r, tally *tallies) {
    session *s = r->s;
    int64_t *confusion = new_confusion(s);
    if (!confusion) return -1;
    int failed = evaluate(s, r->decoder, &r->tally, confusion) || log_deviations(s, r->decoder, r->m, "after");
    if (!failed && r->feed.planner) failed = log_plan(s, r->m, r->feed.planner);
    if (!failed) {
        log_result(s, r->m, &r->tally, r->eof_counts, confusion);
        failed = write_output(r);
    }
    free(confusion);
    tallies[r->index] = r->tally;
    if (!failed && s->settings->checkpoint) failed = runstate_save(s, NULL, r->index + 1, tallies);
    return failed;
}

/* Opens, trains, tests; a resumed method goes on where its checkpoint was written. */
int train_method(session *s, int index, int resume, tally *tallies) {
    run r;
    int failed = run_open(&r, s, index);
    if (!failed && resume) failed = runstate_load(s, &r);
    if (!failed && !resume) {
        failed = log_deviations(s, r.decoder, r.m, "before");
        const int offline = r.feed.planner && r.m->how.probes && s->settings->matching == SALF_MATCH_OFFLINE;
        if (!failed && offline) failed = probe_all(&r);
    }
    if (!failed) failed = train_to_end(&r, tallies) || finish_method(&r, tallies);
    run_close(&r);
    return failed ? -1 : 0;
}
