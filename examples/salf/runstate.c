/* runstate.c - what of a run goes into its checkpoint, and back. The tensors of the file are described in
 * docs/formats.md. Random numbers need nothing: they are functions of seed and position. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint.h"
#include "run.h"

/* Places in the tensor "run". */
enum { RUN_FINISHED, RUN_INSIDE, RUN_LOG, RUN_TASKS, RUN_POSITION, RUN_N };
enum { N_OPTIONS = 40, VALUE_SIZE = 1024 };

/* The options that results depend on, as text. */
typedef struct option_texts {
    const char *pairs[2 * N_OPTIONS];
    char values[N_OPTIONS][VALUE_SIZE];
    int n;
} option_texts;

/* Values are cut to VALUE_SIZE: two paths that agree that far count as the same. */
static void record_text(option_texts *t, const char *key, const char *value) {
    char *kept = t->values[t->n];
    snprintf(kept, VALUE_SIZE, "%s", value ? value : "(default)");
    t->pairs[2 * t->n] = key;
    t->pairs[2 * t->n + 1] = kept;
    t->n++;
}

static void record_int(option_texts *t, const char *key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    record_text(t, key, text);
}

static void record_real(option_texts *t, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    record_text(t, key, text);
}

/* Enumerations are recorded by their numbers, so that a word may change. What a run only does on the side (logs, tests
 * on the way, when it stops) is left out. */
static void list_options(option_texts *t, const finetune_settings *o) {
    char names[VALUE_SIZE] = "";
    for (int i = 0; i < o->n_methods; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? "," : "", o->methods[i].name);
    }
    t->n = 0;
    record_text(t, "method", names);
    record_text(t, "model", o->model);
    record_text(t, "accept", o->accept);
    record_int(t, "valid-vocab", o->valid_vocab);
    record_text(t, "tokenizer", o->tokenizer);
    record_text(t, "data", o->data);
    record_text(t, "template", o->prompt);
    record_text(t, "label-words", o->words);
    record_int(t, "seed", (int64_t)o->seed);
    record_int(t, "batch", o->batch);
    record_int(t, "epochs", o->epochs);
    record_int(t, "limit-train", o->limit_train);
    record_int(t, "limit-test", o->limit_test);
    record_int(t, "loss", o->loss);
    record_int(t, "dense", o->dense);
    record_int(t, "rank", o->lora_rank);
    record_real(t, "alpha", o->lora_alpha);
    record_int(t, "targets", o->targets);
    record_int(t, "schedule", o->schedule);
    record_text(t, "lr", o->rate_text);
    record_int(t, "seeds", o->seeds);
    record_int(t, "cache",
               o->cache_bytes ? 1 + o->cache_bf16 : 0); /* what is kept changes roundings, how much does not */
    record_real(t, "warmup", o->warmup);
    record_real(t, "weight-decay", o->weight_decay);
    record_real(t, "clip", o->clip);
    record_int(t, "reduction", o->reduction);
    record_int(t, "matching", o->matching);
    record_int(t, "assignment", o->assignment_given ? o->assignment : -1);
    record_int(t, "stream-order", o->stream_order_given ? o->stream_order : -1);
    record_real(t, "probe-limit", o->probe_limit);
    record_int(t, "eof-from", o->eof_from);
    record_int(t, "lens", o->lens);
    record_real(t, "temperature", o->temperature);
    record_int(t, "as-published", o->as_published);
    record_int(t, "whole-vocabulary", o->whole_vocabulary);
    record_int(t, "backend", o->backend);
    record_int(t, "threads", o->threads);
}

/* Where the checkpoint lies. */
static int checkpoint_path(const session *s, char *path, size_t size) {
    int n = snprintf(path, size, "%s/checkpoint.safetensors", s->settings->checkpoint);
    if (n > 0 && (size_t)n < size) return 0;
    args_fail(training_command, "--checkpoint: the path is too long");
    return -1;
}

/* ---- saving ---- */

/* The library's two save functions behind one form. */
typedef salf_status (*save_fn)(const void *handle, void *buffer, uint64_t *size);

static salf_status save_policy(const void *handle, void *buffer, uint64_t *size) {
    return salf_policy_save(handle, buffer, size);
}

static salf_status save_planner(const void *handle, void *buffer, uint64_t *size) {
    return salf_planner_save(handle, buffer, size);
}

/* Appends the saved bytes of a handle; asked for their size first. */
static int put_blob(checkpoint_writer *w, const char *name, save_fn save, const void *handle) {
    uint64_t size = 0;
    if (save(handle, NULL, &size) != SALF_OK) return say_salf(name);
    void *bytes = malloc(size ? (size_t)size : 1);
    if (!bytes) return say_no_memory();
    int failed = save(handle, bytes, &size) != SALF_OK ? say_salf(name) : 0;
    if (!failed) checkpoint_put_bytes(w, name, bytes, size);
    free(bytes);
    return failed;
}

/* A run between two updates: figures, parameters that train with their moments, and the blobs of policy and planner.
 * Gradients are zero then, and need no place. */
static int put_run(checkpoint_writer *w, run *r) {
    const int64_t m = r->s->info.n_layers;
    char name[DECODER_NAME_SIZE + 16];
    checkpoint_put(w, "tally", SALF_F64, TALLY_N, r->tally.v);
    checkpoint_put(w, "eof_counts", SALF_I64, m, r->eof_counts);
    checkpoint_put(w, "norms", SALF_F64, RUN_NORMS * m, r->norms);
    if (r->turn) checkpoint_put(w, "turn", SALF_F32, r->turn_size, r->turn);
    if (r->turn) checkpoint_put(w, "turn_ends", SALF_I64, 1, &r->turn_ends);
    checkpoint_put(w, "optimizer.steps", SALF_I64, m + 2, adamw_steps(r->optimizer));
    for (int64_t i = 0; i < decoder_n_parameters(r->decoder); i++) {
        const decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        float *first, *second;
        if (!p->trains) continue;
        snprintf(name, sizeof name, "value.%s", p->name);
        checkpoint_put(w, name, SALF_F32, p->count, p->values);
        adamw_moments(r->optimizer, i, &first, &second);
        if (!first) continue;
        snprintf(name, sizeof name, "first.%s", p->name);
        checkpoint_put(w, name, SALF_F32, p->count, first);
        snprintf(name, sizeof name, "second.%s", p->name);
        checkpoint_put(w, name, SALF_F32, p->count, second);
    }
    if (put_blob(w, "policy", save_policy, r->feed.policy) != 0) return -1;
    return r->feed.planner ? put_blob(w, "planner", save_planner, r->feed.planner) : 0;
}

/* The log is flushed first, and its length goes into the file: a resumed run cuts the log there, so that no line is
 * in it twice. The file replaces the one before in one step. */
int runstate_save(session *s, run *r, int finished, const tally *tallies) {
    static option_texts texts;
    char path[4096];
    checkpoint_writer w = {0};
    int64_t numbers[RUN_N] = {finished, r != NULL, jsonl_sync(&s->log), r ? r->tasks : 0, r ? r->feed.position : 0};
    if (checkpoint_path(s, path, sizeof path) != 0) return -1;
    list_options(&texts, s->settings);
    for (int i = 0; i < texts.n; i++) checkpoint_put_text(&w, texts.pairs[2 * i], texts.pairs[2 * i + 1]);
    checkpoint_put(&w, "run", SALF_I64, RUN_N, numbers);
    checkpoint_put(&w, "tallies", SALF_F64, ((int64_t)run_count(s->settings) + 1) * TALLY_N, tallies);
    if (r && put_run(&w, r) != 0) w.failed = 1;
    if (checkpoint_write(&w, s->context, path) != SALF_OK) return say_salf("--checkpoint");
    return 0;
}

/* ---- loading ---- */

/* The checkpoint, or *out NULL when there is none. */
static int open_checkpoint_file(session *s, salf_tensors **out) {
    char path[4096];
    struct stat found;
    *out = NULL;
    if (checkpoint_path(s, path, sizeof path) != 0) return -1;
    if (stat(path, &found) != 0 && errno == ENOENT) return 0;
    return salf_tensors_open(out, s->context, path) == SALF_OK ? 0 : say_salf("--resume");
}

int runstate_begin(session *s, runstate_start *start, tally *tallies) {
    static option_texts texts;
    const int64_t n = run_count(s->settings);
    salf_tensors *file;
    int64_t numbers[RUN_N];
    char message[2 * VALUE_SIZE + 256];
    *start = (runstate_start){0};
    if (open_checkpoint_file(s, &file) != 0) return -1;
    if (!file) return 0;
    list_options(&texts, s->settings);
    int failed = checkpoint_check_text(file, texts.pairs, texts.n, message, sizeof message) != 0 ||
                 checkpoint_get(file, "run", SALF_I64, RUN_N, numbers, message, sizeof message) != 0 ||
                 checkpoint_get(file, "tallies", SALF_F64, (n + 1) * TALLY_N, tallies, message, sizeof message) != 0;
    if (!failed && (numbers[RUN_FINISHED] < 0 || numbers[RUN_FINISHED] > n || numbers[RUN_LOG] < 0)) {
        snprintf(message, sizeof message, "the checkpoint is damaged: %lld runs done",
                 (long long)numbers[RUN_FINISHED]);
        failed = 1;
    }
    if (failed) args_fail(training_command, "--resume: %s", message);
    if (!failed) *start = (runstate_start){(int)numbers[RUN_FINISHED], numbers[RUN_INSIDE] == 1, numbers[RUN_LOG]};
    salf_tensors_destroy(file);
    return failed ? -1 : 0;
}

/* Parameters that train, and the moments of those that have been updated. */
static int get_parameters(const salf_tensors *file, run *r, char *message, size_t size) {
    char name[DECODER_NAME_SIZE + 16];
    for (int64_t i = 0; i < decoder_n_parameters(r->decoder); i++) {
        const decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        salf_named_tensor there;
        float *first, *second;
        if (!p->trains) continue;
        snprintf(name, sizeof name, "value.%s", p->name);
        if (checkpoint_get(file, name, SALF_F32, p->count, p->values, message, size) != 0) return -1;
        snprintf(name, sizeof name, "first.%s", p->name);
        if (salf_tensors_find(file, name, &there) != SALF_OK) continue;
        if (adamw_make_moments(r->optimizer, i, &first, &second) != SALF_OK) {
            snprintf(message, size, "%s", decoder_error());
            return -1;
        }
        if (checkpoint_get(file, name, SALF_F32, p->count, first, message, size) != 0) return -1;
        snprintf(name, sizeof name, "second.%s", p->name);
        if (checkpoint_get(file, name, SALF_F32, p->count, second, message, size) != 0) return -1;
    }
    return 0;
}

/* What put_run wrote, into a fresh run. */
static int get_run(const salf_tensors *file, run *r, char *message, size_t size) {
    const int64_t m = r->s->info.n_layers;
    int64_t numbers[RUN_N];
    const void *bytes;
    uint64_t n;
    if (checkpoint_get(file, "run", SALF_I64, RUN_N, numbers, message, size) != 0) return -1;
    r->tasks = numbers[RUN_TASKS];
    r->feed.position = numbers[RUN_POSITION];
    if (checkpoint_get(file, "tally", SALF_F64, TALLY_N, r->tally.v, message, size) != 0) return -1;
    if (checkpoint_get(file, "eof_counts", SALF_I64, m, r->eof_counts, message, size) != 0) return -1;
    if (checkpoint_get(file, "norms", SALF_F64, RUN_NORMS * m, r->norms, message, size) != 0) return -1;
    if (r->turn && checkpoint_get(file, "turn", SALF_F32, r->turn_size, r->turn, message, size) != 0) return -1;
    if (r->turn && checkpoint_get(file, "turn_ends", SALF_I64, 1, &r->turn_ends, message, size) != 0) return -1;
    if (get_parameters(file, r, message, size) != 0) return -1;
    if (checkpoint_get(file, "optimizer.steps", SALF_I64, m + 2, adamw_steps(r->optimizer), message, size) != 0)
        return -1;
    if (checkpoint_get_bytes(file, "policy", &bytes, &n, message, size) != 0) return -1;
    salf_status status = salf_policy_load(r->feed.policy, bytes, n);
    if (status == SALF_OK && r->feed.planner) {
        if (checkpoint_get_bytes(file, "planner", &bytes, &n, message, size) != 0) return -1;
        status = salf_planner_load(r->feed.planner, bytes, n);
    }
    if (status != SALF_OK) snprintf(message, size, "%s", salf_last_error());
    return status == SALF_OK ? 0 : -1;
}

int runstate_load(session *s, run *r) {
    salf_tensors *file;
    char message[1024] = "the checkpoint is gone";
    if (open_checkpoint_file(s, &file) != 0) return -1;
    const int failed = !file || get_run(file, r, message, sizeof message) != 0;
    if (failed) args_fail(training_command, "--resume: %s", message);
    salf_tensors_destroy(file);
    return failed ? -1 : 0;
}
