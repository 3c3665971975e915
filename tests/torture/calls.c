/*
 * calls.c - every public call with every call of the C library below it failing in turn: memory, opening, reading,
 * writing, syncing, closing, renaming, mapping. Each time the scene ends with the status that the fault has, or in
 * success where nothing was lost by it; a message says what; all memory and descriptors are given back; a file that was
 * to be replaced is the old one or the new one, whole, and nothing lies beside it. At the end everything works again.
 *
 *   calls [SECONDS]     0 or none: all faults; else as many as fit, spread evenly
 *
 * A scene is a piece of a host's life. It destroys what it made whatever happens, and returns the first status that is
 * not SALF_OK. Together they call all of salf.h; tests/torture/commands.py sees to that.
 */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "faults.h"
#include "salf.h"

#define DO(call)                                     \
    do {                                             \
        if ((status = (call)) != SALF_OK) goto done; \
    } while (0)

enum { V = 40, D = 8, M = 4, ROWS = 6 };

static char folder[64];
static const char *at(const char *name) { /* a path in the folder, good for the next three calls */
    static char paths[4][256];
    static int turn;
    char *path = paths[turn++ & 3];
    snprintf(path, sizeof *paths, "%s/%s", folder, name);
    return path;
}

/* ---- what scenes share ---- */

static float head[V * D], states[(M + 1) * ROWS * D];
static const int32_t labels[ROWS] = {3, 7, 3, 11, 39, 7};

static salf_tensor view(float *data, int64_t rows, int64_t cols) {
    return (salf_tensor){.data = data, .rows = rows, .cols = cols, .dtype = SALF_F32};
}

static void fill(void) {
    uint64_t state = 12;
    for (int i = 0; i < V * D; i++) head[i] = (float)((state = state * 6364136223846793005u + 1) >> 40) / 8e6f - 1;
    for (int i = 0; i < (M + 1) * ROWS * D; i++)
        states[i] = (float)((state = state * 6364136223846793005u + 1) >> 40) / 8e6f - 1;
}

static salf_status make_context(salf_context **out, int32_t backend, int32_t threads) {
    salf_context_options o;
    salf_options_init(&o, sizeof o);
    o.backend = backend;
    o.threads = threads;
    return salf_context_create(out, &o);
}

static salf_status make_model(salf_model **out, salf_context *context) {
    salf_model_options o;
    salf_options_init(&o, sizeof o);
    o.n_layers = M;
    o.hidden = D;
    o.vocab = V;
    o.head = view(head, V, D);
    o.embedding = view(head, V, D);
    o.norm_kind = SALF_NORM_RMS;
    o.norm_weight = view(states, 1, D);
    return salf_model_create(out, context, &o);
}

/* A batch: begin, all spaces, end. */
static salf_status probe_batch(salf_probe *probe, salf_trace *trace) {
    salf_status status = salf_probe_begin(probe, labels, ROWS);
    for (int32_t k = 0; status == SALF_OK && k <= M; k++) {
        const salf_tensor space = view(states + k * ROWS * D, ROWS, D);
        status = salf_probe_observe(probe, k, &space, SALF_STATE_RAW);
    }
    return status == SALF_OK ? salf_probe_end(probe, trace) : status;
}

/* Saved and loaded again; the same for planner and policy. */
typedef salf_status (*save_fn)(const void *handle, void *buffer, uint64_t *size);
typedef salf_status (*load_fn)(void *handle, const void *buffer, uint64_t size);
static salf_status save_planner(const void *handle, void *buffer, uint64_t *size) {
    return salf_planner_save(handle, buffer, size);
}
static salf_status load_planner(void *handle, const void *buffer, uint64_t size) {
    return salf_planner_load(handle, buffer, size);
}
static salf_status save_policy(const void *handle, void *buffer, uint64_t *size) {
    return salf_policy_save(handle, buffer, size);
}
static salf_status load_policy(void *handle, const void *buffer, uint64_t size) {
    return salf_policy_load(handle, buffer, size);
}
static salf_status reload(void *handle, save_fn save, load_fn load) {
    static char bytes[1 << 14];
    uint64_t size = 0;
    salf_status status = save(handle, NULL, &size);
    if (status == SALF_OK && size > sizeof bytes) return SALF_E_INTERNAL;
    size = sizeof bytes;
    if (status == SALF_OK) status = save(handle, bytes, &size);
    return status == SALF_OK ? load(handle, bytes, size) : status;
}

/* ---- scenes ---- */

static salf_status scene_tables(void) {
    salf_context *context = NULL;
    salf_context_info info = {.struct_size = sizeof info};
    salf_method method = {.struct_size = sizeof method};
    salf_cost_options o = {.struct_size = sizeof o, .n_layers = M, .hidden = D, .ffn_hidden = D, .vocab = V};
    salf_cost cost = {.struct_size = sizeof cost};
    int64_t value;
    salf_status status;
    o.n_heads = 2;
    o.rows = o.row_tokens = 2;
    DO(make_context(&context, SALF_BACKEND_CPU, 2));
    DO(salf_context_get_info(context, &info));
    DO(salf_context_agree(context, SALF_OK));
    DO(salf_constant("SALF_METRIC_CE", &value));
    DO(salf_method_find(salf_method_name(3), &method));
    DO(salf_cost_estimate(&o, &cost));
    if (!salf_constant_word("SALF_METRIC", value) || !salf_version_string() || !salf_version_number() ||
        !salf_status_name(SALF_OK) || !salf_status_text(SALF_OK))
        status = SALF_E_INTERNAL;
done:
    salf_context_destroy(context);
    return status;
}

/* A file replaced, and read: alone, and as a model's with an index. */
static salf_status scene_tensors(void) {
    const char *const metadata[] = {"made", "now"};
    const salf_named_tensor both[] = {{.name = "a", .view = view(head, V, D)},
                                      {.name = "b", .view = view(states, 1, D)}};
    salf_context *context = NULL;
    salf_tensors *file = NULL;
    salf_named_tensor found;
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_REFERENCE, 0));
    DO(salf_tensors_save(context, at("file.safetensors"), both, 2, metadata, 1));
    DO(salf_file_save(at("table"), labels, sizeof labels));
    DO(salf_tensors_open(&file, context, at("file.safetensors")));
    for (int64_t i = 0; i < salf_tensors_count(file); i++) DO(salf_tensors_at(file, i, &found));
    DO(salf_tensors_find(file, "b", &found));
    if (!salf_tensors_metadata(file, "made")) status = SALF_E_INTERNAL;
done:
    salf_tensors_destroy(file);
    salf_context_destroy(context);
    return status;
}

static salf_status scene_checkpoint(void) {
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_model_info info = {.struct_size = sizeof info};
    salf_decoder_info decoder = {.struct_size = sizeof decoder};
    uint64_t fingerprint;
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_CPU, 0));
    DO(salf_model_open(&model, context, at("model"), NULL));
    DO(salf_model_get_info(model, &info));
    DO(salf_model_get_decoder(model, &decoder));
    DO(salf_model_fingerprint(model, &fingerprint));
    DO(salf_basis_create(&basis, model, labels, ROWS, NULL));
    if (!salf_model_get_tensors(model)) status = SALF_E_INTERNAL;
done:
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}

static salf_status scene_basis(int32_t backend, int32_t prepare) {
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL, *fresh = NULL, *loaded = NULL;
    salf_basis_options o = {.struct_size = sizeof o, .prepare = prepare};
    salf_basis_info info = {.struct_size = sizeof info};
    float rows[ROWS * D];
    const salf_tensor out = view(rows, ROWS, D);
    const int32_t *held;
    int64_t n;
    salf_model_options norm;
    salf_status status;
    salf_options_init(&norm, sizeof norm);
    norm.norm_weight = view(states + D, 1, D);
    DO(make_context(&context, backend, 0));
    DO(make_model(&model, context));
    DO(salf_model_update(model, &norm));
    DO(salf_basis_create(&basis, model, labels, ROWS, &o));
    DO(salf_basis_get_info(basis, &info));
    DO(salf_basis_get_labels(basis, &held, &n));
    DO(salf_basis_rows(basis, labels, ROWS, &out));
    DO(salf_basis_check(basis, model));
    DO(salf_basis_refresh(&fresh, basis, model));
    DO(salf_basis_save(basis, at("basis.safetensors")));
    DO(salf_basis_load(&loaded, context, at("basis.safetensors"), model));
done:
    salf_context_destroy(context); /* what lives of it keeps it alive */
    salf_model_destroy(model);
    salf_basis_destroy(loaded);
    salf_basis_destroy(fresh);
    salf_basis_destroy(basis);
    return status;
}
static salf_status scene_basis_labels(void) {
    return scene_basis(SALF_BACKEND_CPU, SALF_PREPARE_LABELS);
}
static salf_status scene_basis_table(void) {
    return scene_basis(SALF_BACKEND_REFERENCE, SALF_PREPARE_TABLE);
}

static salf_status scene_builder(void) {
    salf_context *context = NULL;
    salf_basis_builder *one = NULL, *other = NULL;
    salf_basis *basis = NULL;
    const salf_tensor first = view(head, V / 2, D), second = view(head + V / 2 * D, V / 2, D);
    double *sums;
    int64_t n;
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_CPU, 2));
    DO(salf_basis_builder_create(&one, context, V, D, labels, ROWS, NULL));
    DO(salf_basis_builder_create(&other, context, V, D, labels, ROWS, NULL));
    DO(salf_basis_builder_add(one, 0, &first));
    DO(salf_basis_builder_add(other, V / 2, &second));
    DO(salf_basis_builder_merge(one, other));
    DO(salf_basis_builder_all_reduce(one));
    DO(salf_basis_builder_partial(one, &sums, &n));
    DO(salf_basis_builder_finish(&basis, one, NULL));
done:
    salf_basis_builder_destroy(one);
    salf_basis_builder_destroy(other);
    salf_basis_destroy(basis);
    salf_context_destroy(context);
    return status;
}

static salf_status scene_probe(int32_t metric, int32_t scores) {
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_signal *signal = NULL;
    salf_signal_options so = {.struct_size = sizeof so, .n_layers = M, .max_ids = 16};
    salf_signal_info info = {.struct_size = sizeof info};
    salf_probe_options o = {.struct_size = sizeof o, .metric = metric, .scores = scores};
    const salf_tensor space = view(states, ROWS, D);
    const uint32_t ids[ROWS] = {0, 1, 2, 3, 4, 5};
    double gains[ROWS * M];
    int32_t eof[ROWS], ready;
    salf_trace trace;
    salf_status status;
    if (scores == SALF_SCORE_LOGITS) o.candidates = labels, o.n_candidates = ROWS;
    DO(make_context(&context, SALF_BACKEND_CPU, 0));
    DO(make_model(&model, context));
    DO(salf_basis_create(&basis, model, labels, ROWS, NULL));
    DO(salf_probe_create(&probe, basis, &o));
    DO(probe_batch(probe, &trace));
    DO(salf_eof_from_deviations(M, ROWS, trace.deviations, SALF_EOF_MOST_GAIN, SALF_NONFINITE_ERROR, gains, eof));
    DO(salf_signal_create(&signal, context, &so));
    DO(salf_signal_add(signal, &trace, labels, ids, eof));
    DO(salf_signal_get(signal, &info));
    DO(salf_probe_begin(probe, labels, ROWS));
    DO(salf_probe_observe(probe, 0, &space, SALF_STATE_RAW));
    DO(salf_probe_partial(probe, &trace));
    DO(probe_batch(probe, &trace));
    /* for devices only: each says so, and whatever fails before they say it is no fault here */
    (void)salf_probe_flush(probe), (void)salf_probe_poll(probe, &ready), (void)salf_probe_replay(probe);
done:
    salf_signal_destroy(signal);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}
static salf_status scene_probe_cosine(void) {
    return scene_probe(SALF_METRIC_COSINE, SALF_SCORE_BASIS);
}
static salf_status scene_probe_ce(void) {
    return scene_probe(SALF_METRIC_CE, SALF_SCORE_LOGITS);
}
static salf_status scene_probe_rank(void) {
    return scene_probe(SALF_METRIC_RANK, SALF_SCORE_BASIS);
}

static salf_status scene_loss(void) {
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_loss *loss = NULL;
    salf_loss_options o = {.struct_size = sizeof o, .kind = SALF_LOSS_CE};
    float values[ROWS], gradients[ROWS * D];
    const salf_tensor in = view(states, ROWS, D), out = view(values, ROWS, 1), gradient = view(gradients, ROWS, D);
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_CPU, 0));
    DO(make_model(&model, context));
    DO(salf_basis_create(&basis, model, labels, ROWS, NULL));
    DO(salf_loss_create(&loss, basis, &o));
    DO(salf_loss_compute(loss, labels, &in, 1, &out, &gradient));
done:
    salf_loss_destroy(loss);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}

/* A plan worked through, with a policy that follows it, both saved and loaded before each task. */
static salf_status scene_plan(int32_t matching) {
    enum { N = 30 };
    salf_context *context = NULL;
    salf_planner *planner = NULL;
    salf_policy *policy = NULL;
    salf_planner_options o = {.struct_size = sizeof o, .matching = matching, .assignment = SALF_ASSIGN_GAIN, .seed = 4};
    salf_policy_options po = {.struct_size = sizeof po};
    salf_observation seen = {.struct_size = sizeof seen};
    salf_decision decision = {.struct_size = sizeof decision};
    const int32_t groups[] = {3, 7, 11};
    const int64_t sizes[] = {10, 10, 10};
    double gains[ROWS * M] = {1, 0, 2}, saving;
    int32_t eof[N];
    int64_t counts[M];
    uint8_t accepted[N];
    salf_stage stage;
    salf_status status;
    if (matching != SALF_MATCH_STREAM) o.assignment = 0;
    for (int i = 0; i < N; i++) eof[i] = i * 7 % M;
    DO(make_context(&context, SALF_BACKEND_REFERENCE, 0));
    DO(salf_planner_create(&planner, context, M, N, &o));
    DO(salf_planner_counts(planner, counts));
    DO(salf_planner_saving(planner, &saving));
    if (matching == SALF_MATCH_OFFLINE) DO(salf_planner_set_eof(planner, 0, N, eof));
    if (matching == SALF_MATCH_OFFLINE) DO(salf_planner_match(planner));
    if (matching == SALF_MATCH_STREAM) DO(salf_planner_set_groups(planner, groups, sizes, 3));
    po.planner = planner;
    DO(salf_policy_create(&policy, context, SALF_POLICY_BUDGET, M, &po));
    for (salf_task task;;) {
        DO(reload(planner, save_planner, load_planner));
        DO(salf_planner_next(planner, ROWS, &task));
        if (task.kind == SALF_TASK_DONE) break;
        if (task.kind == SALF_TASK_PROBE && matching == SALF_MATCH_STREAM) {
            int32_t group[ROWS];
            const salf_trace trace = {.rows = task.n_data, .n_layers = M, .gains = gains, .eof = eof};
            for (int i = 0; i < task.n_data; i++) group[i] = groups[task.data[i] % 3];
            DO(salf_planner_assign(planner, &trace, group, &task));
        } else if (task.kind == SALF_TASK_PROBE) {
            bool any = false;
            const int64_t n = task.n_data;
            DO(salf_planner_report(planner, eof, n, accepted));
            for (int64_t i = 0; i < n; i++) any = any || accepted[i];
            if (!any) continue;
        }
        DO(salf_policy_decide(policy, &seen, &decision));
        DO(reload(policy, save_policy, load_policy));
        DO(salf_planner_done(planner));
        seen.step++;
    }
    DO(salf_planner_get_stage(planner, 1, &stage));
done:
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    return status;
}
static salf_status scene_plan_online(void) {
    return scene_plan(SALF_MATCH_ONLINE);
}
static salf_status scene_plan_offline(void) {
    return scene_plan(SALF_MATCH_OFFLINE);
}
static salf_status scene_plan_stream(void) {
    return scene_plan(SALF_MATCH_STREAM);
}

/* A run's folder: saved twice, loaded, with the files that a killed process left behind. */
static salf_status scene_run(void) {
    static float weights[4] = {1, 2, 3, 4}, back[4];
    const salf_identity identities[] = {
        {.name = "data", .value = "here", .content = salf_hash(0, labels, sizeof labels)}};
    const salf_named_tensor saved = {.name = "weights", .view = view(weights, 1, 4)},
                            loaded = {.name = "weights", .view = view(back, 1, 4)};
    salf_context *context = NULL;
    salf_checkpoint *run = NULL;
    salf_planner *planner = NULL;
    salf_checkpoint_info info = {.struct_size = sizeof info};
    salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &saved, .n_tensors = 1};
    uint64_t hash = 0;
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_REFERENCE, 0));
    DO(salf_planner_create(&planner, context, M, 30, NULL));
    DO(salf_hash_file(at("model/config.json"), &hash));
    DO(salf_checkpoint_open(&run, context, at("run"), identities, 1));
    DO(salf_checkpoint_get_info(run, &info));
    content.planner = planner;
    content.tensors = &loaded;
    if (info.saves > 0) DO(salf_checkpoint_load(run, &content));
    /* what a fault may cost is the newest save, never the one before, and no number that was saved is another */
    if (info.saves > 0 && memcmp(weights, back, sizeof back) != 0) status = SALF_E_INTERNAL;
    if (info.damage && !faults_struck()) status = SALF_E_INTERNAL; /* no fault of an earlier run damages a save */
    content.tensors = &saved;
    for (int i = 0; status == SALF_OK && i < 2; i++) DO(salf_checkpoint_save(run, &content));
done:
    salf_checkpoint_destroy(run);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    return status;
}

/* Every kind of policy for a few steps. */
static salf_status scene_policies(void) {
    static const int32_t script[] = {1, 2}, eof[ROWS] = {0, 3, 1, 2, 2, 3};
    double gains[ROWS * M] = {0}, norms[M] = {1, 2, 3, 4};
    const salf_trace trace = {.rows = ROWS, .n_layers = M, .gains = gains, .eof = eof};
    salf_context *context = NULL;
    salf_policy *policy = NULL;
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_REFERENCE, 0));
    for (int32_t kind = SALF_POLICY_FULL; kind <= SALF_POLICY_RAMP; kind++) {
        if (kind == SALF_POLICY_BUDGET || kind == SALF_POLICY_CALLBACK) continue;
        salf_policy_options o = {.struct_size = sizeof o, .total_steps = 8, .script = script, .n_script = 2};
        if (kind != SALF_POLICY_SCRIPTED) o.script = NULL, o.n_script = 0;
        if (kind == SALF_POLICY_AUTOFREEZE) o.interval = 2;
        int32_t wanted = 0;
        DO(salf_policy_create(&policy, context, kind, M, &o));
        for (int64_t step = 0; step < 5; step++) {
            salf_observation seen = {.struct_size = sizeof seen, .step = step};
            salf_decision decision = {.struct_size = sizeof decision};
            seen.trace = kind == SALF_POLICY_SALF ? &trace : NULL;
            seen.gradient_l1 = seen.gradient_norm = seen.parameter_norm = norms;
            if (kind != SALF_POLICY_AUTOFREEZE || !wanted) seen.gradient_l1 = NULL;
            if (kind != SALF_POLICY_RGN) seen.gradient_norm = seen.parameter_norm = NULL;
            DO(salf_policy_decide(policy, &seen, &decision));
            DO(reload(policy, save_policy, load_policy));
            wanted = decision.gradients_wanted;
        }
        salf_policy_destroy(policy);
        policy = NULL;
    }
done:
    salf_policy_destroy(policy);
    salf_context_destroy(context);
    return status;
}

static const struct {
    const char *name;
    salf_status (*play)(void);
} scenes[] = {
    {"tables", scene_tables},
    {"tensors", scene_tensors},
    {"checkpoint", scene_checkpoint},
    {"basis", scene_basis_labels},
    {"table", scene_basis_table},
    {"builder", scene_builder},
    {"probe cosine", scene_probe_cosine},
    {"probe ce", scene_probe_ce},
    {"probe rank", scene_probe_rank},
    {"loss", scene_loss},
    {"plan online", scene_plan_online},
    {"plan offline", scene_plan_offline},
    {"plan stream", scene_plan_stream},
    {"policies", scene_policies},
    {"run", scene_run},
};

/* ---- the stage ---- */

static int failed;
static void check(bool good, const char *scene, int kind, int64_t n, const char *what) {
    if (good) return;
    failed++;
    printf("not ok - %s, %s %lld fails: %s: %s\n", scene, faults_name(kind), (long long)n, what, salf_last_error());
}

/* The scene's file is there and whole: what was there before, or what was to be written. */
static bool file_is_whole(const char *name) {
    salf_context *context = NULL;
    salf_tensors *file = NULL;
    bool good = make_context(&context, SALF_BACKEND_REFERENCE, 0) == SALF_OK &&
                salf_tensors_open(&file, context, at(name)) == SALF_OK;
    salf_tensors_destroy(file);
    salf_context_destroy(context);
    return good;
}

static int files_in(const char *path) {
    DIR *opened = opendir(path);
    int n = 0;
    while (opened && readdir(opened)) n++;
    if (opened) closedir(opened);
    return n;
}
static int files_there(void) {
    return files_in(folder) + files_in(at("run"));
}

/* error: what every kind fails with, or 0. A signal that interrupts a call is no failure; a disk or quota that is full
 * is told as that wherever it shows, in a close or a sync as in a write. */
static bool right_status(int kind, int error, salf_status status) {
    if (error == EINTR) return status == SALF_OK;
    if (error) return status == SALF_E_NO_SPACE || status == SALF_OK;
    switch (kind) {
    case FAULT_MALLOC:
        return status == SALF_E_NO_MEMORY;
    case FAULT_WRITE: /* what a lock says of its owner may be lost; files are looked at */
        return status == SALF_E_NO_SPACE || status == SALF_OK;
    case FAULT_CLOSE: /* nothing is lost where a file was only read */
        return status == SALF_E_NO_SPACE || status == SALF_OK;
    case FAULT_MMAP:
        return status == SALF_E_NO_MEMORY || status == SALF_OK; /* a file may be read instead */
    case FAULT_STAT: /* a file that could not be looked at, and then is not there */
        return status == SALF_E_IO || status == SALF_E_NOT_FOUND || status == SALF_OK;
    default:
        return status == SALF_E_IO || status == SALF_OK; /* as where a tokenizer's size could not be looked up */
    }
}

/* Plays a scene with one fault, and looks at what it leaves behind. */
static void torment(int s, int kind, int error, int64_t n) {
    const int64_t blocks = faults_blocks(), descriptors = faults_descriptors();
    const int files = files_there();
    faults_set_error(error);
    faults_begin(kind, n);
    const salf_status status = scenes[s].play();
    faults_end();
    const char *const name = scenes[s].name;
    char text[64];
    snprintf(text, sizeof text, "status %s", salf_status_name(status));
    check(faults_struck(), name, kind, n, "the call never came");
    check(right_status(kind, error, status), name, kind, n, text);
    check(status == SALF_OK || salf_last_error()[0] != '\0', name, kind, n, "no message");
    const int64_t kept = faults_blocks() - blocks;
    if (kept) { /* the C library may keep something for good on a way that was not gone before: once */
        faults_begin(kind, n);
        (void)scenes[s].play();
        faults_end();
    }
    check(faults_blocks() == blocks + kept, name, kind, n, "memory leaks");
    check(faults_descriptors() == descriptors, name, kind, n, "descriptors leak");
    check(files_there() == files, name, kind, n, "files are left over, or gone");
    faults_set_error(0);
    check(file_is_whole("file.safetensors") && file_is_whole("basis.safetensors"), name, kind, n, "a damaged file");
}

/* What a save must not leave out: the file is synced, then its folder, and each failure of these and of close is told;
 * a signal that comes while it writes is no failure. */
static void check_save(void) {
    static const struct {
        int kind, number, error;
        salf_status status;
    } cases[] = {{FAULT_SYNC, 0, 0, SALF_E_IO},
                 {FAULT_SYNC, 1, 0, SALF_E_IO},
                 {FAULT_CLOSE, 0, 0, SALF_E_NO_SPACE},
                 {FAULT_WRITE, 0, EINTR, SALF_OK},
                 {FAULT_SYNC, 0, ENOSPC, SALF_E_NO_SPACE},
                 {FAULT_RENAME, 0, EDQUOT, SALF_E_NO_SPACE},
                 {FAULT_WRITE, 0, EIO, SALF_E_IO}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        faults_set_error(cases[i].error);
        faults_begin(cases[i].kind, cases[i].number);
        const salf_status status = salf_file_save(at("table"), labels, sizeof labels);
        faults_end();
        faults_set_error(0);
        check(faults_struck() && status == cases[i].status, "save", cases[i].kind, cases[i].number,
              salf_status_name(status));
    }
}

static int64_t tormented;

/* Every fault of a scene, or every stride-th. */
static void torment_all(int s, int64_t stride) {
    faults_begin(-1, 0);
    (void)scenes[s].play();
    faults_end();
    int64_t counts[FAULT_N_KINDS];
    for (int kind = 0; kind < FAULT_N_KINDS; kind++) counts[kind] = faults_count(kind);
    for (int kind = 0; kind < FAULT_N_KINDS; kind++)
        for (int64_t n = s % stride; n < counts[kind]; n += kind == FAULT_MALLOC ? stride : 1, tormented++)
            torment(s, kind, 0, n);
    static const int errors[] = {EINTR, EDQUOT}, of[] = {FAULT_OPEN, FAULT_READ, FAULT_WRITE, FAULT_SYNC, FAULT_CLOSE};
    for (int e = 0; e < 2; e++)
        for (size_t k = 0; k < sizeof of / sizeof *of; k++)
            for (int64_t n = 0; n < counts[of[k]]; n++, tormented++) torment(s, of[k], errors[e], n);
}

static int write_config(const char *path) {
    FILE *file = fopen(path, "w");
    return !file ||
           fputs("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":8,"
                 "\"intermediate_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
                 "\"num_key_value_heads\":2,\"vocab_size\":40,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\","
                 "\"max_position_embeddings\":16,\"tie_word_embeddings\":true}",
                 file) < 0 ||
           fclose(file) != 0;
}

/* A checkpoint of one layer. */
static salf_status write_model(void) {
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    static const char *const norms[] = {"model.layers.0.input_layernorm.weight",
                                        "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"};
    char text[7][64];
    salf_named_tensor all[11] = {{.name = "model.embed_tokens.weight", .view = view(head, V, D)}};
    for (int i = 0; i < 7; i++) {
        snprintf(text[i], sizeof text[i], "model.layers.0.%s.weight", names[i]);
        all[1 + i] = (salf_named_tensor){.name = text[i], .view = view(head, D, D)};
    }
    for (int i = 0; i < 3; i++)
        all[8 + i] = (salf_named_tensor){.name = norms[i], .shape = {D}, .n_dims = 1, .view = view(states, 1, D)};
    salf_context *context = NULL;
    salf_status status;
    DO(make_context(&context, SALF_BACKEND_REFERENCE, 0));
    DO(mkdir(at("model"), 0700) == 0 && write_config(at("model/config.json")) == 0 ? SALF_OK : SALF_E_IO);
    DO(salf_tensors_save(context, at("model/model.safetensors"), all, 11, NULL, 0));
done:
    salf_context_destroy(context);
    return status;
}

static void remove_all(void) {
    DIR *run = opendir(at("run"));
    for (struct dirent *each; run && (each = readdir(run));) {
        char name[128];
        snprintf(name, sizeof name, "run/%.100s", each->d_name);
        remove(at(name));
    }
    if (run) closedir(run);
    static const char *const names[] = {
        "model/config.json", "model/model.safetensors", "model", "file.safetensors", "run", "table",
        "basis.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) remove(at(names[i]));
    rmdir(folder);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 0;
    const int n_scenes = (int)(sizeof scenes / sizeof *scenes);
    snprintf(folder, sizeof folder, "%s/salf-torture-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    fill();
    if (!mkdtemp(folder) || write_model() != SALF_OK) {
        printf("not ok - the scenes' files cannot be written: %s\n", salf_last_error());
        return 1;
    }
    /* Twice without a fault: what the libraries below keep for good is kept by then, and it tells the time of a scene. */
    int64_t total = 0;
    clock_t began = 0;
    for (int round = 0; round < 2; round++) {
        began = clock();
        for (int s = 0; s < n_scenes; s++) {
            faults_begin(-1, 0);
            if (scenes[s].play() != SALF_OK) {
                printf("not ok - %s without a fault: %s\n", scenes[s].name, salf_last_error());
                return 1;
            }
            faults_end();
            for (int kind = 0; round && kind < FAULT_N_KINDS; kind++) total += faults_count(kind);
        }
    }
    const double each = (double)(clock() - began) / CLOCKS_PER_SEC / n_scenes;
    const int64_t stride = seconds > 0 ? 1 + (int64_t)((double)total * each / seconds) : 1;
    for (int s = 0; s < n_scenes; s++) torment_all(s, stride);
    check_save();
    for (int s = 0; s < n_scenes; s++)
        if (scenes[s].play() != SALF_OK)
            failed++, printf("not ok - %s after all: %s\n", scenes[s].name, salf_last_error());
    remove_all();
    if (!failed) printf("ok - %lld faults below %d scenes\n", (long long)tormented, n_scenes);
    return failed != 0;
}
