/* runstate.c - what of a run goes into its checkpoint, and back. The tensors are described in docs/formats.md. Random
 * numbers need nothing: they are functions of seed and position.
 *
 * What a run is made of is every option of the command line but those that are known to change no result, so that a new
 * option is not forgotten; and the contents of model, tokenizer and data, wherever they lie. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "run.h"

/* Places in the tensor "run". */
enum { RUN_FINISHED, RUN_INSIDE, RUN_LOG, RUN_LOG_TAIL, RUN_TASKS, RUN_POSITION, RUN_TURN_ENDS, RUN_N };
enum { IDENTITIES = 64, VALUE_SIZE = 8192 };
static const char runs_on_key[] = "runs-on"; /* in the metadata */

/* ---- what a run is made of ---- */

/* Options of no result: where things are written, and what is done on the side. How much is kept of states is one, what
 * is kept another: it changes roundings. */
static int changes_nothing(const char *name) {
    static const char *const names[] = {"log",          "json",      "quiet",      "eval-every",
                                        "output",       "resume",    "checkpoint", "checkpoint-every",
                                        "cache-folder", "stop-after"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return 1;
    return 0;
}

/* Hash of the model's shape and numbers: config.json, how many tokens there are, which a tokenizer.json beside it may
 * say, then each tensor's name, shape and bytes. Another division into files is the same model. */
static int hash_model(const session *s, uint64_t *hash) {
    char path[4096];
    const salf_tensors *tensors = salf_model_get_tensors(s->model);
    const int n = snprintf(path, sizeof path, "%s/config.json", s->settings->model);
    if (n < 0 || (size_t)n >= sizeof path || salf_hash_file(path, hash) != SALF_OK) return say_salf("--model");
    *hash = salf_hash(*hash, &s->info.valid_vocab, sizeof s->info.valid_vocab);
    for (int64_t i = 0; i < salf_tensors_count(tensors); i++) {
        salf_named_tensor t;
        const salf_status status = salf_tensors_at(tensors, i, &t); /* types that are not used here have no view */
        if (status == SALF_E_NO_MEMORY) return say_salf("--model");
        const uint64_t size = t.view.dtype == SALF_F64 || t.view.dtype == SALF_I64   ? 8
                              : t.view.dtype == SALF_F32 || t.view.dtype == SALF_I32 ? 4
                              : t.view.dtype == SALF_U8 || t.view.dtype == SALF_I8   ? 1
                                                                                     : 2;
        *hash = salf_hash(*hash, t.name, strlen(t.name));
        *hash = salf_hash(*hash, t.shape, sizeof t.shape);
        if (status == SALF_OK) *hash = salf_hash(*hash, t.view.data, (uint64_t)(t.view.rows * t.view.cols) * size);
    }
    return 0;
}

/* Of a part of the data as it is trained on: tokens, where each text begins, classes. */
static uint64_t hash_split(uint64_t hash, const split *d) {
    hash = salf_hash(hash, d->offsets, ((uint64_t)d->n + 1) * sizeof *d->offsets);
    hash = salf_hash(hash, d->tokens, (uint64_t)d->offsets[d->n] * sizeof *d->tokens);
    return salf_hash(hash, d->classes, (uint64_t)d->n * sizeof *d->classes);
}

/* Opens the folder of --checkpoint for this run. 0, or -1 with a message. */
static int open_folder(session *s) {
    static char names[IDENTITIES][40], values[IDENTITIES][VALUE_SIZE];
    const finetune_settings *o = s->settings;
    salf_identity made_of[IDENTITIES];
    uint64_t model = 0, words = 0, data = 0;
    int n = 0;
    if (hash_model(s, &model) != 0) return -1;
    words = salf_hash(words, s->label_tokens, (uint64_t)s->n_labels * sizeof *s->label_tokens);
    for (int32_t c = 0; c < s->n_labels; c++) data = salf_hash(data, s->label_names[c], strlen(s->label_names[c]) + 1);
    data = hash_split(hash_split(data, &s->train), &s->test);
    const struct {
        const char *option;
        uint64_t hash;
    } contents[] = {{"model", model},
                    {"tokenizer", s->tokenizer_hash},
                    {"label-words", words},
                    {"template", salf_hash(0, s->prompt, strlen(s->prompt))},
                    {"data", data}};
    for (int i = 0; i < finetune_n_options; i++) {
        const args_option *option = &finetune_table[i];
        uint64_t hash = 0;
        if (changes_nothing(option->name) || n == IDENTITIES - 1) continue;
        for (size_t k = 0; k < sizeof contents / sizeof *contents; k++)
            if (strcmp(option->name, contents[k].option) == 0) hash = contents[k].hash | (contents[k].hash == 0);
        if (strcmp(option->name, "data") == 0) continue; /* the last: texts and words tell first what is amiss */
        snprintf(names[n], sizeof names[n], "--%s", option->name);
        if (args_value(option, o, values[n], VALUE_SIZE) >= VALUE_SIZE) {
            args_fail(training_command, "--checkpoint: %s is too long to be kept with a run", names[n]);
            return -1;
        }
        const args_option rate = {.kind = ARGS_REAL};
        size_t used = 0;
        for (int k = 0; k < o->n_methods && strcmp(option->name, "lr") == 0; k++) { /* a default may change */
            if (k) values[n][used++] = ',';
            used += args_value(&rate, &o->rates[k], values[n] + used, VALUE_SIZE - used);
        }
        if (strcmp(option->name, "cache") == 0)
            snprintf(values[n], VALUE_SIZE, "%s", !o->cache_bytes ? "none" : o->cache_bf16 ? "bf16" : "float32");
        made_of[n] = (salf_identity){names[n], values[n], hash};
        n++;
    }
    made_of[n++] = (salf_identity){"--data", o->data, data | (data == 0)};
    const salf_status status = salf_checkpoint_open(&s->checkpoint, s->context, o->checkpoint, made_of, n);
    return status == SALF_OK ? 0 : say_salf("--checkpoint");
}

/* ---- what is saved ---- */

/* The tensors of a checkpoint: where they are in memory, to be saved from or loaded to. */
typedef struct state_list {
    salf_named_tensor *tensors;
    char (*names)[DECODER_NAME_SIZE + 16];
    int64_t n, room;
} state_list;

static void add_array(state_list *l, const char *prefix, const char *name, int32_t dtype, int64_t count, void *data) {
    if (l->n == l->room) return; /* open_list has counted */
    salf_named_tensor *t = &l->tensors[l->n];
    snprintf(l->names[l->n], sizeof l->names[l->n], "%s%s", prefix, name);
    *t = (salf_named_tensor){.name = l->names[l->n++], .n_dims = 1, .shape = {count}};
    t->view = (salf_tensor){.data = data, .rows = 1, .cols = count, .dtype = dtype};
}

/* A run between two updates: figures, parameters that train with their moments. Gradients are zero then, and need no
 * place. saved: the file that is to be loaded, whose parameters have moments or not; NULL when saving. */
static int list_run(state_list *l, run *r, const salf_tensors *saved) {
    const int64_t m = r->s->info.n_layers, n = decoder_n_parameters(r->decoder);
    add_array(l, "", "tally", SALF_F64, TALLY_N, r->tally.v);
    add_array(l, "", "eof_counts", SALF_I64, m, r->eof_counts);
    add_array(l, "", "norms", SALF_F64, RUN_NORMS * m, r->norms);
    if (r->turn) add_array(l, "", "turn", SALF_F32, r->turn_size, r->turn);
    add_array(l, "", "optimizer.steps", SALF_I64, m + 2, adamw_steps(r->optimizer));
    for (int64_t i = 0; i < n; i++) {
        const decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        char first_name[DECODER_NAME_SIZE + 16];
        salf_named_tensor found;
        float *first, *second;
        if (!p->trains) continue;
        add_array(l, "value.", p->name, SALF_F32, p->count, p->values);
        snprintf(first_name, sizeof first_name, "first.%s", p->name);
        if (saved && salf_tensors_find(saved, first_name, &found) == SALF_OK &&
            adamw_make_moments(r->optimizer, i, &first, &second) != SALF_OK)
            return say_decoder("--resume");
        adamw_moments(r->optimizer, i, &first, &second);
        if (!first || (saved && salf_tensors_find(saved, first_name, &found) != SALF_OK)) continue;
        add_array(l, "first.", p->name, SALF_F32, p->count, first);
        add_array(l, "second.", p->name, SALF_F32, p->count, second);
    }
    return 0;
}

/* Everything, r NULL: but no run's inside. */
static int open_list(state_list *l, session *s, run *r, int64_t *numbers, tally *tallies, const salf_tensors *saved) {
    const int64_t room = 8 + (r ? 3 * decoder_n_parameters(r->decoder) : 0);
    *l = (state_list){.room = room};
    l->tensors = calloc((size_t)room, sizeof *l->tensors);
    l->names = calloc((size_t)room, sizeof *l->names);
    if (!l->tensors || !l->names) return say_no_memory();
    add_array(l, "", "run", SALF_I64, RUN_N, numbers);
    add_array(l, "", "tallies", SALF_F64, ((int64_t)run_count(s->settings) + 1) * TALLY_N, tallies);
    return r ? list_run(l, r, saved) : 0;
}

static void close_list(state_list *l) {
    free(l->tensors);
    free(l->names);
}

/* The log comes first, whole and on the disk: its length goes into the checkpoint, and a resumed run cuts it there, so
 * that no line is in it twice. Where it cannot be written, the checkpoint stays that of the log as it was. */
int runstate_save(session *s, run *r, int finished, tally *tallies) {
    jsonl_place log = {0};
    state_list l = {0};
    if (jsonl_sync(&s->log, &log) != 0) return log_check(s);
    int64_t numbers[RUN_N] = {[RUN_FINISHED] = finished,
                              [RUN_INSIDE] = r != NULL,
                              [RUN_LOG] = log.bytes,
                              [RUN_LOG_TAIL] = log.tail,
                              [RUN_TASKS] = r ? r->tasks : 0,
                              [RUN_POSITION] = r ? r->feed.position : 0,
                              [RUN_TURN_ENDS] = r ? r->turn_ends : 0};
    int failed = open_list(&l, s, r, numbers, tallies, NULL);
    salf_checkpoint_content content;
    salf_options_init(&content, sizeof content);
    content.tensors = l.tensors;
    content.n_tensors = l.n;
    content.policy = r ? r->feed.policy : NULL;
    content.planner = r ? r->feed.planner : NULL;
    const char *const metadata[] = {runs_on_key, s->runs_on};
    content.metadata = metadata;
    content.n_metadata = 1;
    if (!failed && salf_checkpoint_save(s->checkpoint, &content) != SALF_OK) failed = say_salf("--checkpoint");
    close_list(&l);
    return failed;
}

/* ---- loading ---- */

static int is_damaged(const char *what, double value) {
    args_fail(training_command, "--resume: the checkpoint's %s is %g, which no run has", what, value);
    return -1;
}

/* Counts are whole numbers from 0 to 2^53; losses and gradients of a run that has gone astray may be anything. */
static int check_tally(const tally *t) {
    static const int counts[] = {TALLY_STEPS, TALLY_TRAINED, TALLY_PASSED, TALLY_PROBED, TALLY_MATCHED, TALLY_MEMORY};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const double value = t->v[counts[i]];
        if (!(value >= 0 && value <= 0x1p53)) return is_damaged("tally", value);
    }
    return 0;
}

/* A run that is not resumed never takes the place of another. */
int runstate_begin(session *s, runstate_start *start, tally *tallies) {
    const finetune_settings *o = s->settings;
    char older[4096];
    struct stat found;
    state_list l = {0};
    int64_t numbers[RUN_N];
    salf_checkpoint_info info;
    *start = (runstate_start){0};
    salf_options_init(&info, sizeof info);
    if (open_folder(s) != 0) return -1;
    if (salf_checkpoint_get_info(s->checkpoint, &info) != SALF_OK) return say_salf("--checkpoint");
    snprintf(older, sizeof older, "%s/checkpoint.safetensors", o->checkpoint);
    if (!info.tensors && stat(older, &found) == 0) {
        args_fail(training_command, "--checkpoint: %s is that of an older version, which cannot be gone on with",
                  older);
        return -1;
    }
    if (!info.locked)
        args_say(0, training_command, "%s: no locks here; see that no other run uses this folder", o->checkpoint);
    if (info.tensors && !o->resume) {
        args_fail(training_command,
                  "--checkpoint: %s holds a run already: go on with it by --resume, or name another folder",
                  o->checkpoint);
        return -1;
    }
    if (!info.tensors) return 0;
    if (info.damage) args_say(0, training_command, "%s; going on from save %lld", info.damage, (long long)info.saves);
    /* no reason to lose a run, whose weights will differ in their last digits from those of one machine */
    const char *const ran_on = salf_tensors_metadata(info.tensors, runs_on_key);
    if (ran_on && strcmp(ran_on, s->runs_on) != 0)
        args_say(0, training_command, "%s was made on %s; going on with %s, which rounds otherwise", o->checkpoint,
                 ran_on, s->runs_on);
    const int n = run_count(o);
    salf_checkpoint_content content;
    salf_options_init(&content, sizeof content);
    int failed = open_list(&l, s, NULL, numbers, tallies, NULL);
    content.tensors = l.tensors;
    content.n_tensors = l.n;
    if (!failed && salf_checkpoint_load(s->checkpoint, &content) != SALF_OK) failed = say_salf("--resume");
    close_list(&l);
    if (failed) return -1;
    for (int i = 0; i <= n; i++)
        if (check_tally(&tallies[i]) != 0) return -1;
    if (numbers[RUN_FINISHED] < 0 || numbers[RUN_FINISHED] > n)
        return is_damaged("number of runs done", (double)numbers[RUN_FINISHED]);
    if (numbers[RUN_INSIDE] < 0 || numbers[RUN_INSIDE] > (numbers[RUN_FINISHED] < n))
        return is_damaged("run at hand", (double)numbers[RUN_INSIDE]);
    if (numbers[RUN_LOG] < 0 || numbers[RUN_LOG] > INT64_MAX / 2)
        return is_damaged("length of the log", (double)numbers[RUN_LOG]);
    *start = (runstate_start){.found = 1,
                              .finished = (int)numbers[RUN_FINISHED],
                              .inside = (int)numbers[RUN_INSIDE],
                              .log = {numbers[RUN_LOG], numbers[RUN_LOG_TAIL]}};
    return 0;
}

/* What list_run names, into a fresh run; every number that something is counted or indexed by is looked at. */
int runstate_load(session *s, run *r) {
    const int64_t m = s->info.n_layers;
    state_list l = {0};
    int64_t numbers[RUN_N];
    tally *others = calloc((size_t)run_count(s->settings) + 1, sizeof *others);
    salf_checkpoint_info info;
    salf_checkpoint_content content;
    salf_options_init(&info, sizeof info);
    salf_options_init(&content, sizeof content);
    int failed = others ? 0 : say_no_memory();
    if (!failed && salf_checkpoint_get_info(s->checkpoint, &info) != SALF_OK) failed = say_salf("--resume");
    if (!failed) failed = open_list(&l, s, r, numbers, others, info.tensors);
    content.tensors = l.tensors;
    content.n_tensors = l.n;
    content.policy = r->feed.policy;
    content.planner = r->feed.planner;
    if (!failed && salf_checkpoint_load(s->checkpoint, &content) != SALF_OK) failed = say_salf("--resume");
    close_list(&l);
    free(others);
    if (failed) return -1;
    r->tasks = numbers[RUN_TASKS];
    r->feed.position = numbers[RUN_POSITION];
    r->turn_ends = numbers[RUN_TURN_ENDS];
    if (r->tasks < 0 || r->tasks > INT64_MAX / 2) return is_damaged("number of batches", (double)r->tasks);
    if (r->feed.position < 0 || r->feed.position > r->feed.total)
        return is_damaged("position in the data", (double)r->feed.position);
    if (r->turn_ends < 0 || r->turn_ends > 1) return is_damaged("end of a turn", (double)r->turn_ends);
    for (int64_t k = 0; k < m; k++)
        if (r->eof_counts[k] < 0 || r->eof_counts[k] > INT64_MAX / 2 / m)
            return is_damaged("count of an eof", (double)r->eof_counts[k]);
    for (int64_t k = 0; k < m + 2; k++)
        if (adamw_steps(r->optimizer)[k] < 0 || adamw_steps(r->optimizer)[k] > INT64_MAX / 2)
            return is_damaged("count of updates", (double)adamw_steps(r->optimizer)[k]);
    return check_tally(&r->tally);
}
