/* trainloop.c - the training of one method with one seed, from its fresh model to its results; trainstep.c has what
 * happens to a batch.
 *
 * The learning rate follows the share of data trained, which is the same measure for every method. The basis of the
 * label words stays valid all along: the head is frozen, only layers train. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "progress.h"
#include "run.h"
#include "stop.h"

enum { PATH_SIZE = 4096 };

/* Groups of a stream are the classes, whose sizes are known: so each gets its share of every depth exactly. */
static int set_groups(run *r) {
    const session *s = r->s;
    int64_t *sizes = calloc((size_t)s->n_labels, sizeof *sizes), n = 0;
    int32_t *groups = malloc((size_t)s->n_labels * sizeof *groups);
    int failed = sizes && groups ? 0 : say_no_memory();
    for (int64_t i = 0; i < s->train.n && !failed; i++) sizes[s->train.classes[i]] += s->settings->epochs;
    for (int32_t c = 0; c < s->n_labels && !failed; c++) {
        if (sizes[c] == 0) continue; /* a class that only the test data have */
        groups[n] = s->label_tokens[c];
        sizes[n++] = sizes[c];
    }
    if (!failed && salf_planner_set_groups(r->feed.planner, groups, sizes, n) != SALF_OK) failed = say_salf("plan");
    free(sizes);
    free(groups);
    return failed;
}

/* The folder of a run's merged model: the output folder itself, or with several runs one below it for each.
 * "salf[geom][df]" is called "salf-geom-df" there, and "lift*[half]" "lift-star-half"; with several seeds "-seed43" and
 * so on follows. */
static int output_path(const finetune_settings *o, int index, char out[PATH_SIZE]) {
    char name[2 * METHOD_NAME_SIZE + 32];
    size_t used = 0;
    for (const char *c = o->methods[index % o->n_methods].name; *c && used + 6 < sizeof name; c++) {
        if (*c == '[') name[used++] = '-';
        if (*c == '*') used += (size_t)snprintf(name + used, sizeof name - used, "-star");
        if (*c != '[' && *c != ']' && *c != '*') name[used++] = *c;
    }
    name[used] = '\0';
    if (o->seeds > 1)
        snprintf(name + used, sizeof name - used, "-seed%llu",
                 (unsigned long long)(o->seed + (uint64_t)(index / o->n_methods)));
    const int n = snprintf(out, PATH_SIZE, run_count(o) > 1 ? "%s/%s" : "%s", o->output, name);
    if (n >= 0 && n < PATH_SIZE) return 0;
    args_fail(training_command, "--output: the path is too long");
    return -1;
}

/* Makes and tries a folder. The files that go there have the names that they have in the model's folder, or
 * model.safetensors: none may be one that the command names, which a link also leads to. */
static int try_output(const run *r, const char *folder) {
    const finetune_settings *o = r->s->settings;
    const char *const named[] = {o->model, o->tokenizer, o->words, o->data, o->log};
    char path[2 * PATH_SIZE];
    const struct dirent *entry = NULL;
    int failed = 0;
    if (decoder_check_source(r->decoder, o->model, folder) != SALF_OK) return say_decoder("--output");
    DIR *listing = opendir(o->model);
    do {
        snprintf(path, sizeof path, "%s/%s", folder, entry ? entry->d_name : "model.safetensors");
        for (size_t k = 0; k < sizeof named / sizeof *named && !failed; k++)
            if (file_is_input(path, named[k]))
                failed = args_fail(training_command, "--output: %s is read by this run, which would replace it", path);
    } while (!failed && listing && (entry = readdir(listing)) != NULL);
    if (listing) closedir(listing);
    return failed ? -1 : 0;
}

/* Of all runs that are to come: behind the first there is something to lose. */
static int try_outputs(const run *r) {
    const finetune_settings *o = r->s->settings;
    char path[PATH_SIZE];
    int failed = try_output(r, o->output);
    if (!failed && decoder_hash_source(o->model, &r->s->beside) != SALF_OK) failed = say_decoder("--model");
    for (int i = r->index; i < run_count(o) && run_count(o) > 1 && !failed; i++)
        failed = output_path(o, i, path) != 0 || try_output(r, path) != 0;
    return failed ? -1 : 0;
}

int check_done_outputs(const finetune_settings *o, int finished) {
    char path[PATH_SIZE], file[PATH_SIZE + 32];
    int missing = 0;
    for (int i = 0; i < finished && o->output; i++) {
        if (output_path(o, i, path) != 0) return -1;
        snprintf(file, sizeof file, "%s/model.safetensors", path);
        if (access(file, F_OK) == 0) continue;
        missing++;
        args_say(0, training_command, "--output: %s is not there, and its run is done: no weights are kept of it",
                 file);
    }
    return missing > 0 && finished == run_count(o) ? -1 : 0;
}

/* Everything that training by one method needs. After a failure run_close releases what there is. */
static int run_open(run *r, session *s, int index) {
    const finetune_settings *o = s->settings;
    const int32_t m = s->info.n_layers;
    const size_t layers = (size_t)m, rows = (size_t)o->batch, width = (size_t)s->info.hidden;
    *r = (run){.s = s, .index = index, .m = &o->methods[index % o->n_methods], .lowest = m};
    r->rider = (probe_rider){.batch = &r->batch, .width = s->info.hidden};
    salf_options_init(&r->decision, sizeof r->decision);

    /* 1. the model, fresh from its checkpoint for every method, and the optimizer */
    const decoder_training training = {.lora_rank = o->dense ? 0 : o->lora_rank,
                                       .lora_targets = o->targets,
                                       .lora_alpha = o->lora_alpha,
                                       .seed = s->seed};
    const adamw_options adam = {.weight_decay = o->weight_decay};
    if (decoder_open(&r->decoder, s->context, s->model, &training) != SALF_OK) return say_decoder("--model");
    if (o->output && !s->outputs_tried++ && try_outputs(r) != 0) return -1;
    if (adamw_create(&r->optimizer, r->decoder, &adam) != SALF_OK) return say_decoder("optimizer");

    /* 2. the order of the data, with policy and planner */
    const feed_options order = {.n_layers = m,
                                .reduction = o->reduction,
                                .first_layer = o->first_layer,
                                .matching = o->matching,
                                .assignment = o->assignment_given ? o->assignment : -1,
                                .stream_order = o->stream_order_given ? o->stream_order : -1,
                                .n_groups = s->n_labels,
                                .as_published = o->as_published,
                                .n_data = s->train.n,
                                .epochs = o->epochs,
                                .batch = o->batch,
                                .probe_limit = o->probe_limit_given ? o->probe_limit : -1,
                                .seed = s->seed};
    const salf_status status = feed_create(&r->feed, s->context, r->m, &order);
    if (status == SALF_E_NO_MEMORY) return say_no_memory(); /* its own arrays leave no message with the library */
    if (status != SALF_OK) return say_salf("plan");

    if (r->feed.grouped && set_groups(r) != 0) return -1;

    /* 3. a semantic loss, where it is not the language model's, and a probe, where the method asks for one */
    salf_loss_options loss;
    salf_options_init(&loss, sizeof loss);
    loss.kind = o->loss == LOSS_COSINE ? SALF_LOSS_COSINE : SALF_LOSS_CE;
    loss.temperature = o->temperature;
    if (o->loss != LOSS_LM && salf_loss_create(&r->loss, s->basis, &loss) != SALF_OK) return say_salf("loss");
    if (r->m->how.probes && make_probe(&r->rider.probe, s, r->m->how.metric, SALF_NONFINITE_ERROR) != SALF_OK)
        return say_salf("probe");
    salf_signal_options signal;
    salf_options_init(&signal, sizeof signal);
    signal.n_layers = m;
    signal.max_groups = s->n_labels;
    if (r->m->how.probes && salf_signal_create(&r->signal, s->context, &signal) != SALF_OK) return say_salf("probe");

    /* 4. states kept from epoch to epoch */
    boundary_open(r);

    /* 5. arrays */
    if (turn_open(r) != 0) return -1;
    r->eof_counts = calloc(layers, sizeof *r->eof_counts);
    r->norms = calloc(layers, RUN_NORMS * sizeof *r->norms);
    r->reach = calloc(layers, sizeof *r->reach);
    r->cuts = malloc(rows * sizeof *r->cuts);
    r->rows = malloc(rows * sizeof *r->rows);
    r->compact = malloc(rows * sizeof *r->compact);
    r->accepted = malloc(rows);
    r->control = malloc(rows * sizeof *r->control);
    r->losses = malloc(rows * sizeof *r->losses);
    r->gradient = malloc(rows * width * sizeof *r->gradient);
    const int whole = r->eof_counts && r->norms && r->reach && r->cuts && r->rows && r->compact && r->accepted &&
                      r->control && r->losses && r->gradient;
    return whole ? 0 : say_no_memory();
}

/* Also after run_open has failed in the middle: what is not there is NULL. */
static void run_close(run *r) {
    free(r->eof_counts);
    free(r->norms);
    free(r->turn);
    free(r->reach);
    free(r->cuts);
    free(r->rows);
    free(r->compact);
    free(r->accepted);
    free(r->control);
    free(r->losses);
    free(r->gradient);
    boundary_close(r);
    prompt_batch_free(&r->batch);
    salf_signal_destroy(r->signal);
    salf_probe_destroy(r->rider.probe);
    salf_loss_destroy(r->loss);
    feed_destroy(&r->feed);
    adamw_free(r->optimizer);
    decoder_free(r->decoder);
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
    if (log_check(r->s) != 0) return -1;
    *logged = r->tally;
    if (o->eval_every > 0 && steps % o->eval_every == 0) {
        tally seen = r->tally; /* the run's own figures stay as they are */
        int64_t *confusion = new_confusion(r->s);
        const int failed = !confusion || evaluate(r->s, r->decoder, &seen, confusion) != 0;
        free(confusion);
        if (failed) return -1;
        log_eval(r->s, r->m, &seen);
    }
    const int due = steps % o->checkpoint_every == 0 || stop_asked();
    if (o->checkpoint && due && runstate_save(r->s, r, r->index, tallies) != 0) return -1;
    if (stop_asked()) return -1;
    if (o->stop_after > 0 && ++*updates >= o->stop_after) _exit(137); /* 128 + SIGKILL, as a shell reports a kill */
    return 0;
}

/* Trains to the end of the feed. An update comes when a batch of rows has been trained, and at the end of the run: a
 * task is never larger than what the batch at hand lacks, so that stages of a plan end without one. */
static int train_to_end(run *r, tally *tallies) {
    static int64_t updates; /* of all runs, as --stop-after counts them */
    const int64_t batch = r->s->settings->batch;
    tally logged = r->tally;
    tally_mark mark = tally_now();
    progress bar;
    progress_start(&bar, r->m->name, r->feed.total);
    r->s->may_stop = 0; /* of a test on the way nothing is to be missing in the log */
    int failed = 0, ended = 0;
    while (!failed && !ended) {
        feed_task task;
        if (feed_next(&r->feed, batch - r->pending, &task) != SALF_OK) failed = say_salf("plan");
        if (failed) break;
        ended = task.kind == SALF_TASK_DONE;
        if (!ended) failed = run_task(r, &task);
        if (!failed && r->pending > 0 && (ended || r->pending == batch)) {
            failed = update_weights(r);
            tally_lap(&r->tally, &mark); /* what follows is no training */
            failed = failed || after_update(r, &logged, tallies, &updates);
            mark = tally_now();
        }
        progress_update(&bar, (int64_t)r->tally.v[TALLY_TRAINED], NULL);
    }
    progress_end(&bar);
    r->s->may_stop = 1;
    return failed;
}

/* ---- one method from start to end ---- */

/* What lies beside the weights is taken from the model's folder. Where that is another by now, its configuration may
 * say something else: no model is written, and the weights alone where no checkpoint has them. */
static int write_output(run *r) {
    const finetune_settings *o = r->s->settings;
    char path[PATH_SIZE], file[PATH_SIZE + 32];
    uint64_t beside;
    if (!o->output) return 0;
    if (output_path(o, r->index, path) != 0) return -1;
    if (decoder_hash_source(o->model, &beside) != SALF_OK || beside != r->s->beside) {
        args_fail(training_command, "--output: %s is not what it was when this run began%s", o->model,
                  o->checkpoint ? "; once it is that again, --resume makes the model" : "");
        if (o->checkpoint) return -1;
        snprintf(file, sizeof file, "%s/weights-alone.safetensors", path);
        if (decoder_save_weights(r->decoder, file, SALF_F32) != SALF_OK) return say_decoder("--output");
        args_fail(training_command, "the weights are in %s, without configuration", file);
        return -1;
    }
    return decoder_save_like(r->decoder, o->model, path, SALF_F32) == SALF_OK ? 0 : say_decoder("--output");
}

/* The last test, its results in the log, the model, and a checkpoint that says the run is done. */
static int finish_method(run *r, tally *tallies) {
    session *s = r->s;
    int64_t *confusion = new_confusion(s);
    if (!confusion) return -1;
    int64_t probed = 0, most = 0;
    for (int32_t k = 0; k < s->info.n_layers; k++) {
        probed += r->eof_counts[k];
        if (r->eof_counts[k] > most) most = r->eof_counts[k];
    }
    r->tally.v[TALLY_MODE] = probed ? (double)most / (double)probed : 0;
    tally ended = r->tally; /* what a run that is stopped in its last test goes on with */
    int failed = evaluate(s, r->decoder, &r->tally, confusion);
    if (failed && stop_asked() && s->checkpoint) {
        r->tally = ended;
        runstate_save(s, r, r->index, tallies);
    }
    if (!failed && s->n_undefined > 0)
        args_say(0, training_command,
                 "%s: %lld of %lld test texts have logits that are not finite, and count as wrong; try another --lr",
                 r->m->name, (long long)s->n_undefined, (long long)s->test.n);
    failed = failed || log_deviations(s, r->decoder, r->m, "after");
    if (!failed && r->feed.planner) failed = log_plan(s, r->m, r->feed.planner, &r->tally.v[TALLY_MATCHED]);
    if (!failed) {
        if (r->signal) log_signal(s, r->m, r->signal);
        log_result(s, r->m, &r->tally, r->eof_counts, confusion);
        failed = log_check(s) || write_output(r);
    }
    free(confusion);
    tallies[r->index] = r->tally;
    if (!failed && s->settings->checkpoint) failed = runstate_save(s, NULL, r->index + 1, tallies);
    return failed;
}

int evaluate_untrained(session *s, tally *result) {
    decoder *d = NULL;
    int64_t *confusion = new_confusion(s);
    int failed = confusion ? 0 : -1;
    if (!failed && decoder_open(&d, s->context, s->model, NULL) != SALF_OK) failed = say_decoder("--model");
    if (!failed) failed = evaluate(s, d, result, confusion);
    if (!failed && s->n_undefined > 0) /* nothing can be learned from there */
        failed = args_fail(training_command, "--model: %lld of %lld test texts have logits that are not finite",
                           (long long)s->n_undefined, (long long)s->test.n);
    if (!failed) log_untrained(s, result, confusion);
    decoder_free(d);
    free(confusion);
    return failed;
}

/* Opens, trains, tests; a resumed method goes on where its checkpoint was written. */
int train_method(session *s, int index, int resume, tally *tallies) {
    run r;
    s->seed = s->settings->seed + (uint64_t)(index / s->settings->n_methods);
    int failed = run_open(&r, s, index);
    if (!failed && resume) failed = runstate_load(s, &r);
    if (!failed && !resume) {
        failed = log_deviations(s, r.decoder, r.m, "before");
        const int offline = r.feed.planner && r.feed.matching == SALF_MATCH_OFFLINE;
        if (!failed && offline) failed = probe_all(&r);
    }
    if (!failed) failed = train_to_end(&r, tallies) || finish_method(&r, tallies);
    run_close(&r);
    return failed ? -1 : 0;
}
