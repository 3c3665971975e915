/* runlog.c - the events of a fine-tuning run, as docs/formats.md describes them. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "finetune.h"
#include "ops.h"

/* The processor's name as the system gives it, or "unknown". */
static void name_processor(char *out, size_t size) {
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[512];
    snprintf(out, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *value = strncmp(line, "model name", 10) ? NULL : strchr(line, ':');
        if (!value) continue;
        value += strspn(value, ": \t");
        snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (file) fclose(file);
}

/* What was trained on what, and where. */
static void log_machine(session *s) {
    char processor[256];
    salf_context_info info;
    salf_options_init(&info, sizeof info);
    name_processor(processor, sizeof processor);
    jsonl_text(&s->log, "processor", processor);
    jsonl_int(&s->log, "processors", sysconf(_SC_NPROCESSORS_ONLN));
    jsonl_text(&s->log, "blas", ops_blas());
    jsonl_int(&s->log, "blas_threads", ops_use_threads(0));
    if (salf_context_get_info(s->context, &info) == SALF_OK) {
        jsonl_text(&s->log, "backend", info.backend_name);
        jsonl_text(&s->log, "kernels", info.kernels);
    }
    jsonl_text(&s->log, "version", salf_version_string());
}

/* Whether the run would put a file of its own in the place of its log. Whoever wants the log beside these files, with a
 * name of its own, has it there. */
static int is_in_the_way(const finetune_settings *o) {
    static const char *const endings[] = {".safetensors", ".json", "lock", "lock.process"};
    const char *slash = strrchr(o->log, '/'), *name = slash ? slash + 1 : o->log;
    int named = 0;
    for (int i = 0; i < 4; i++) {
        const size_t n = strlen(name), end = strlen(endings[i]);
        named |= n >= end && (i < 2 || n == end) && !strcmp(name + n - end, endings[i]);
    }
    return named &&
           ((o->checkpoint && file_is_below(o->log, o->checkpoint)) || (o->output && file_is_below(o->log, o->output)));
}

int log_open(session *s, jsonl_place keep) {
    char message[512];
    if (s->settings->log && is_in_the_way(s->settings)) {
        args_fail(training_command, "--log: %s is a name of the files of --checkpoint or --output", s->settings->log);
        return -1;
    }
    if (!s->settings->log || jsonl_open(&s->log, s->settings->log, keep, message, sizeof message) == 0) return 0;
    args_fail(training_command, "--log: %s", message);
    return -1;
}

/* Where a line could not be written nothing further is done: a run whose log has a hole is worth less than one that
 * ends at once and can be gone on with. */
int log_check(session *s) {
    if (!s->log.error) return 0;
    args_fail(training_command, "--log: %s: %s%s", s->settings->log, strerror(s->log.error),
              s->checkpoint ? "; once that is mended, --resume goes on from the last checkpoint" : "");
    return -1;
}

/* What a reader needs to compare two logs. */
void log_run(session *s) {
    static const char *const schedules[] = {"constant", "linear", "cosine"};
    const finetune_settings *o = s->settings;
    if (!o->log) return;
    const char *names[METHODS_MAX];
    double rates[METHODS_MAX];
    for (int i = 0; i < o->n_methods; i++) {
        names[i] = o->methods[i].name;
        rates[i] = o->rates[i];
    }
    jsonl_writer *w = &s->log;
    jsonl_begin(w, "run");
    jsonl_text(w, "model", o->model);
    jsonl_text(w, "data", o->data);
    jsonl_text(w, "template", s->prompt);
    jsonl_int(w, "layers", s->info.n_layers);
    jsonl_int(w, "train", s->train.n);
    jsonl_int(w, "test", s->test.n);
    jsonl_int(w, "classes", s->n_labels);
    jsonl_texts(w, "labels", (const char *const *)s->label_names, s->n_labels);
    jsonl_int(w, "seed", (int64_t)o->seed);
    jsonl_int(w, "seeds", o->seeds);
    jsonl_text(w, "loss", loss_words[o->loss]);
    jsonl_text(w, "trainable", o->dense ? "dense" : "lora");
    jsonl_int(w, "rank", o->dense ? 0 : o->lora_rank);
    jsonl_real(w, "alpha", o->lora_alpha);
    jsonl_int(w, "batch", o->batch);
    jsonl_int(w, "epochs", o->epochs);
    jsonl_text(w, "schedule", schedules[o->schedule]);
    jsonl_real(w, "warmup", o->warmup);
    jsonl_real(w, "weight_decay", o->weight_decay);
    jsonl_real(w, "clip", o->clip);
    jsonl_text(w, "lens", salf_constant_word("SALF_LENS", o->lens));
    if (o->first_layer_given) jsonl_int(w, "first_layer", o->first_layer);
    jsonl_text(w, "reduction", salf_constant_word("SALF_REDUCE", o->reduction));
    jsonl_text(w, "matching", salf_constant_word("SALF_MATCH", o->matching));
    jsonl_text(w, "assignment", o->assignment_given ? salf_constant_word("SALF_ASSIGN", o->assignment) : "own");
    jsonl_text(w, "stream_order", o->stream_order_given ? salf_constant_word("SALF_STREAM", o->stream_order) : "own");
    jsonl_real(w, "probe_limit", o->probe_limit_given ? o->probe_limit : 0.5);
    jsonl_text(w, "eof_from", eof_words[o->eof_from]);
    jsonl_text(w, "cache", o->cache_text ? o->cache_text : "none");
    jsonl_int(w, "shortened", s->n_shortened);
    jsonl_texts(w, "methods", names, o->n_methods);
    jsonl_real_rows(w, "rates", rates, 1, o->n_methods);
    log_machine(s);
    jsonl_end(w);
}

void log_begin(session *s, const char *event, const method *m) {
    jsonl_begin(&s->log, event);
    jsonl_text(&s->log, "method", m->name);
    jsonl_int(&s->log, "seed", (int64_t)s->seed);
}

void log_signal(session *s, const method *m, const salf_signal *signal) {
    salf_signal_info info;
    salf_options_init(&info, sizeof info);
    if (salf_signal_get(signal, &info) != SALF_OK || info.rows == 0) return;
    log_begin(s, "signal", m);
    jsonl_int(&s->log, "rows", info.rows);
    jsonl_int(&s->log, "most_frequent", info.most_frequent);
    jsonl_real(&s->log, "most_frequent_share", info.most_frequent_share);
    jsonl_real(&s->log, "label_share", info.group_share);
    jsonl_real(&s->log, "label_chance", info.group_chance);
    jsonl_real(&s->log, "label_adjusted", info.group_adjusted);
    jsonl_end(&s->log);
}

void log_untrained(session *s, const tally *t, const int64_t *confusion) {
    jsonl_begin(&s->log, "untrained");
    jsonl_real(&s->log, "f1", t->v[TALLY_F1]);
    jsonl_real(&s->log, "accuracy", t->v[TALLY_ACCURACY]);
    jsonl_int_rows(&s->log, "confusion", confusion, s->n_labels, (int64_t)s->n_labels + 1);
    jsonl_end(&s->log);
}

/* Parts of a step, then all of it. */
static void log_seconds(session *s, const double *seconds) {
    jsonl_real(&s->log, "forward_s", seconds[TALLY_FORWARD]);
    jsonl_real(&s->log, "probe_s", seconds[TALLY_PROBE]);
    jsonl_real(&s->log, "backward_s", seconds[TALLY_BACKWARD]);
    jsonl_real(&s->log, "update_s", seconds[TALLY_UPDATE]);
    jsonl_real(&s->log, "cpu_s", seconds[TALLY_CPU]);
    jsonl_real(&s->log, "wall_s", seconds[TALLY_WALL]);
}

/* An update: what changed in the tally since the one before. */
void log_step(session *s, const method *m, const tally *before, const tally *now, int32_t cut, double rate) {
    tally step;
    if (!s->log.file) return;
    for (int i = 0; i < TALLY_N; i++) step.v[i] = now->v[i] - before->v[i];
    log_begin(s, "step", m);
    jsonl_int(&s->log, "step", (int64_t)now->v[TALLY_STEPS] - 1);
    jsonl_int(&s->log, "data", (int64_t)now->v[TALLY_TRAINED]);
    jsonl_real(&s->log, "loss", step.v[TALLY_LOSS] / step.v[TALLY_TRAINED]);
    jsonl_int(&s->log, "cut", cut);
    jsonl_real(&s->log, "saving", tally_saving(&step));
    jsonl_real(&s->log, "rate", rate);
    log_seconds(s, step.v);
    jsonl_end(&s->log);
}

/* Counts of each layer, and how they came about; known once the method is done. */
int log_plan(session *s, const method *m, const salf_planner *planner, double *matched) {
    const int32_t n = s->info.n_layers;
    int64_t *numbers = calloc((size_t)n * 3, sizeof *numbers); /* [3][m] counts, matched, filled */
    double saving = 0;
    if (!numbers) return say_no_memory();
    salf_status status = salf_planner_saving(planner, &saving);
    *matched = 0;
    for (int32_t e = 0; e < n && status == SALF_OK; e++) {
        salf_stage stage = {0};
        status = salf_planner_get_stage(planner, e, &stage);
        numbers[e] = stage.count;
        numbers[n + e] = stage.matched;
        *matched += (double)stage.matched;
        numbers[2 * n + e] = stage.filled;
    }
    if (status == SALF_OK) {
        log_begin(s, "plan", m);
        jsonl_ints(&s->log, "counts", numbers, n);
        jsonl_ints(&s->log, "matched", numbers + n, n);
        jsonl_ints(&s->log, "filled", numbers + 2 * n, n);
        jsonl_real(&s->log, "saving", saving);
        jsonl_end(&s->log);
    }
    free(numbers);
    return status == SALF_OK ? 0 : say_salf("plan");
}

void log_eval(session *s, const method *m, const tally *t) {
    log_begin(s, "eval", m);
    jsonl_int(&s->log, "step", (int64_t)t->v[TALLY_STEPS]);
    jsonl_real(&s->log, "f1", t->v[TALLY_F1]);
    jsonl_real(&s->log, "accuracy", t->v[TALLY_ACCURACY]);
    jsonl_real(&s->log, "cpu_s", t->v[TALLY_CPU]);
    jsonl_end(&s->log);
}

/* The last lines of a method: own eof of the data probed, figures, and the confusion of the last test. */
void log_result(session *s, const method *m, const tally *t, const int64_t *eof_counts, const int64_t *confusion) {
    if (m->how.probes) {
        log_begin(s, "eof", m);
        jsonl_ints(&s->log, "counts", eof_counts, s->info.n_layers);
        jsonl_end(&s->log);
    }
    log_begin(s, "result", m);
    jsonl_real(&s->log, "f1", t->v[TALLY_F1]);
    jsonl_real(&s->log, "accuracy", t->v[TALLY_ACCURACY]);
    jsonl_real(&s->log, "saving", tally_saving(t));
    jsonl_real(&s->log, "predicted_saving", tally_predicted(t));
    jsonl_real(&s->log, "rate", s->settings->rates[m - s->settings->methods]);
    jsonl_int(&s->log, "steps", (int64_t)t->v[TALLY_STEPS]);
    jsonl_int(&s->log, "trained", (int64_t)t->v[TALLY_TRAINED]);
    jsonl_int(&s->log, "probed", (int64_t)t->v[TALLY_PROBED]);
    jsonl_int(&s->log, "matched", (int64_t)t->v[TALLY_MATCHED]);
    jsonl_real(&s->log, "eof_mode", t->v[TALLY_MODE]);
    jsonl_real(&s->log, "forwards", t->v[TALLY_PASSED] / t->v[TALLY_TRAINED]);
    jsonl_int(&s->log, "memory", (int64_t)t->v[TALLY_MEMORY]);
    log_seconds(s, t->v);
    jsonl_int_rows(&s->log, "confusion", confusion, s->n_labels, (int64_t)s->n_labels + 1);
    jsonl_end(&s->log);
}
