/* runlog.c - the events of a fine-tuning run, as docs/formats.md describes them. */
#include <stdlib.h>

#include "finetune.h"

/* The first line of a new log says what the run is: what a reader needs to compare two logs. With keep its first lines
 * are those that the checkpoint saw. */
int log_open(session *s, int64_t keep) {
    const finetune_settings *o = s->settings;
    char message[512];
    if (!o->log) return 0;
    if (jsonl_open(&s->log, o->log, keep, message, sizeof message) != 0) {
        args_fail("finetune", "%s", message);
        return -1;
    }
    if (keep > 0) return 0;
    const char *names[METHODS_MAX];
    for (int i = 0; i < o->n_methods; i++) names[i] = o->methods[i].name;
    jsonl_begin(&s->log, "run");
    jsonl_text(&s->log, "model", o->model);
    jsonl_text(&s->log, "data", o->data);
    jsonl_int(&s->log, "layers", s->info.n_layers);
    jsonl_int(&s->log, "train", s->train.n);
    jsonl_int(&s->log, "test", s->test.n);
    jsonl_int(&s->log, "classes", s->n_labels);
    jsonl_int(&s->log, "seed", (int64_t)o->seed);
    jsonl_int(&s->log, "seeds", o->seeds);
    jsonl_text(&s->log, "loss", loss_words[o->loss]);
    jsonl_text(&s->log, "trainable", o->dense ? "dense" : "lora");
    jsonl_int(&s->log, "batch", o->batch);
    jsonl_int(&s->log, "epochs", o->epochs);
    jsonl_text(&s->log, "matching", salf_constant_word("SALF_MATCH", o->matching));
    jsonl_text(&s->log, "assignment", salf_constant_word("SALF_ASSIGN", o->assignment));
    jsonl_text(&s->log, "stream_order", salf_constant_word("SALF_STREAM", o->stream_order));
    jsonl_int(&s->log, "shortened", s->n_shortened);
    jsonl_texts(&s->log, "methods", names, o->n_methods);
    jsonl_end(&s->log);
    return 0;
}

void log_begin(session *s, const char *event, const method *m) {
    jsonl_begin(&s->log, event);
    jsonl_text(&s->log, "method", m->name);
    jsonl_int(&s->log, "seed", (int64_t)s->seed);
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
    jsonl_real(&s->log, "forwards", t->v[TALLY_PASSED] / t->v[TALLY_TRAINED]);
    jsonl_int(&s->log, "memory", (int64_t)t->v[TALLY_MEMORY]);
    log_seconds(s, t->v);
    jsonl_int_rows(&s->log, "confusion", confusion, s->n_labels, (int64_t)s->n_labels + 1);
    jsonl_end(&s->log);
}
