/*
 * fuzz_calls.c - any bytes as a sequence of calls: handles of all kinds made, used and destroyed in any order, with
 * options of any size and content, views of any shape, files of their own, memory that fails, calls that are ended on
 * the way, and a link to another rank that breaks. Each call succeeds, or has a status of salf.h and a message and
 * leaves its handle NULL; the sanitizers see what else goes wrong.
 *
 * A byte chooses the call, the bytes behind it what it is given; at their end all bytes are 0. Pointers are right, and
 * arrays as long as the calls say: what C cannot check is not asked for.
 */
#include <stdbool.h>

#include "calls.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 1000;

enum { SLOTS = 3, MOST_CALLS = 120 };

/* An options struct of a size that may be wrong, in room that is longer and zero. */
static union {
    uint32_t struct_size;
    salf_context_options context;
    salf_model_options model;
    salf_basis_options basis;
    salf_probe_options probe;
    salf_loss_options loss;
    salf_signal_options signal;
    salf_planner_options planner;
    salf_policy_options policy;
    salf_cost_options cost;
    char room[1024];
} o;
static void options(size_t size) {
    memset(&o, 0, sizeof o);
    o.struct_size = (uint32_t)size;
}
static void spoil_size(void) {
    const uint8_t b = byte();
    if (b > 240) o.struct_size = (uint32_t)(o.struct_size + b - 248);
}

static salf_context *contexts[SLOTS];
static salf_tensors *files[SLOTS];
static salf_checkpoint *runs[SLOTS];
static salf_model *models[SLOTS];
static salf_basis *bases[SLOTS];
static salf_basis_builder *builders[SLOTS];
static salf_probe *probes[SLOTS];
static salf_loss *losses[SLOTS];
static salf_signal *signals[SLOTS];
static salf_planner *planners[SLOTS];
static salf_policy *policies[SLOTS];

/* A status that salf.h knows, with a message. */
static bool good(salf_status status) {
    MUST(strcmp(salf_status_name(status), "SALF_E_UNKNOWN") != 0 && status != SALF_E_INTERNAL);
    MUST(status == SALF_OK || salf_last_error()[0]);
    return status == SALF_OK;
}
/* Into a slot that is free, or is freed before. */
#define MAKE(slots, destroy, call)                         \
    do {                                                   \
        const int slot = below(SLOTS);                     \
        destroy(slots[slot]);                              \
        slots[slot] = (void *)memory_in;                   \
        if (!good(call(&slots[slot]))) MUST(!slots[slot]); \
    } while (0)

/* ---- what fails, or ends a call ---- */

static int64_t allocations_left = INT64_MAX, reports_left = INT64_MAX, meetings_left = INT64_MAX;
static int32_t hear(void *user, const char *what, int64_t done, int64_t total) {
    (void)user;
    MUST(what[0] && done >= 0 && done <= total);
    return reports_left-- <= 0;
}
/* The other rank has the same numbers in each agreement; then the link is gone, as sums here would be of this rank. */
static int32_t meet(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    (void)user;
    MUST(buffer && count > 0 && (dtype == SALF_F64 || dtype == SALF_I64));
    return operation != SALF_ALL_REDUCE_MIN || meetings_left-- <= 0;
}
static void hush(void *user, int32_t level, const char *message) {
    (void)user;
    MUST(level >= SALF_LOG_ERROR && level <= SALF_LOG_DEBUG && message[0] && !strchr(message, '\n'));
}
static void *take(void *user, size_t size, size_t align) {
    void *block = NULL;
    (void)user;
    if (size > (size_t)1 << 26 || allocations_left-- <= 0) return NULL;
    return posix_memalign(&block, align < sizeof block ? sizeof block : align, size) ? NULL : block;
}
static void give(void *user, void *block, size_t size) {
    (void)user, (void)size;
    free(block);
}

/* ---- calls that make handles ---- */

static salf_status make_context(salf_context **out) {
    options(sizeof o.context);
    o.context.backend = byte() < 240 ? 1 + below(2) : below(5);
    o.context.threads = byte() > 250 ? 2 : 0;
    o.context.alloc = take, o.context.free = give;
    o.context.workspace_limit = byte() > 200 ? (uint64_t)number() : 0;
    if (byte() > 250) o.context.ranks = word(), o.context.rank = word();
    if (byte() > 230) o.context.ranks = 2, o.context.rank = below(3), o.context.all_reduce = meet;
    o.context.progress = hear, o.context.progress_interval = below(4) - 1;
    o.context.log = hush, o.context.log_level = below(6);
    o.context.read_files = below(3);
    spoil_size();
    return salf_context_create(out, &o.context);
}

static salf_status make_model(salf_model **out) {
    options(sizeof o.model);
    o.model.n_layers = byte() < 240 ? 4 : word();
    o.model.hidden = byte() < 240 ? 8 : number();
    o.model.vocab = byte() < 240 ? 11 : number();
    o.model.valid_vocab = byte() < 240 ? 0 : number();
    o.model.head = view(memory_in, 11, 8);
    if (byte() > 200) o.model.embedding = view(memory_in, 11, 8);
    if (byte() > 200) o.model.norm_weight = view(memory_in, 1, 8);
    if (byte() > 230) o.model.logit_bias = view(memory_in, 1, 11);
    o.model.tied = below(2);
    o.model.norm_kind = byte() < 240 ? below(4) : word();
    o.model.logit_scale = byte() < 230 ? 0 : real();
    o.model.logit_softcap = byte() < 230 ? 0 : real();
    o.model.head_transposed = byte() > 240;
    spoil_size();
    return salf_model_create(out, contexts[below(SLOTS)], &o.model);
}

static void basis_options(void) {
    options(sizeof o.basis);
    o.basis.mode = byte() < 200 ? 0 : below(5) - 1;
    o.basis.rtol = byte() < 200 ? 0 : real();
    o.basis.ridge = byte() < 200 ? 0 : real();
    o.basis.side = byte() > 200;
    o.basis.prepare = below(4);
    spoil_size();
}
static salf_status make_basis(salf_basis **out) {
    basis_options();
    return salf_basis_create(out, models[below(SLOTS)], labels + below(4), below(40), &o.basis);
}
static salf_status make_fresh(salf_basis **out) {
    return salf_basis_refresh(out, bases[below(SLOTS)], models[below(SLOTS)]);
}
static salf_status make_finished(salf_basis **out) {
    return salf_basis_builder_finish(out, builders[below(SLOTS)], byte() > 128 ? models[below(SLOTS)] : NULL);
}
static salf_status make_builder(salf_basis_builder **out) {
    const int64_t vocab = byte() < 230 ? 11 : number(), hidden = byte() < 230 ? 8 : number();
    basis_options();
    return salf_basis_builder_create(out, contexts[below(SLOTS)], vocab, hidden, labels, below(20), &o.basis);
}
static salf_status make_probe(salf_probe **out) {
    options(sizeof o.probe);
    o.probe.n_layers = byte() < 240 ? 0 : word();
    o.probe.metric = below(4);
    o.probe.lens = below(4);
    o.probe.scores = byte() > 200;
    o.probe.eof_rule = below(5);
    o.probe.nonfinite = below(2);
    o.probe.temperature = byte() < 200 ? 0 : real();
    if (byte() > 128) o.probe.candidates = labels, o.probe.n_candidates = below(30);
    spoil_size();
    return salf_probe_create(out, bases[below(SLOTS)], &o.probe);
}
static salf_status make_loss(salf_loss **out) {
    options(sizeof o.loss);
    o.loss.kind = below(3);
    o.loss.temperature = byte() < 200 ? 0 : real();
    if (byte() > 128) o.loss.candidates = labels, o.loss.n_candidates = below(30);
    spoil_size();
    return salf_loss_create(out, bases[below(SLOTS)], &o.loss);
}
static salf_status make_signal(salf_signal **out) {
    options(sizeof o.signal);
    o.signal.n_layers = byte() < 240 ? 4 : word();
    o.signal.per_datum = below(2);
    o.signal.max_groups = byte() < 200 ? 0 : word() & 0xFFFF;
    o.signal.max_ids = byte() < 200 ? 8 : word() & 0xFFFF;
    spoil_size();
    return salf_signal_create(out, contexts[below(SLOTS)], &o.signal);
}
static salf_status make_planner(salf_planner **out) {
    static const double weights[4] = {1, 0, 2, 1};
    const int32_t m = byte() < 240 ? 4 : below(5);
    const int64_t n = byte() < 240 ? below(60) : number();
    options(sizeof o.planner);
    o.planner.growth = below(5);
    o.planner.infill = below(2);
    o.planner.matching = below(5);
    o.planner.ratio = byte() < 200 ? 0 : real();
    o.planner.weights = weights;
    o.planner.seed = byte();
    o.planner.probe_limit = byte() < 128 ? 0 : number();
    o.planner.assignment = byte() < 100 ? 0 : below(4);
    o.planner.stream_order = below(2);
    o.planner.one_cut = byte() > 220;
    o.planner.full_batches = o.planner.seed % 4 == 1;
    o.planner.max_groups = byte() < 200 ? 0 : below(4);
    spoil_size();
    return salf_planner_create(out, contexts[below(SLOTS)], m, n, &o.planner);
}
static int32_t any_cut(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)user, (void)trace;
    return (int32_t)(step % (n_layers + 2)) - 1;
}
static salf_status make_policy(salf_policy **out) {
    const int32_t kind = below(19) - 1, m = byte() < 240 ? 4 : word() & 0xFFF;
    options(sizeof o.policy);
    o.policy.total_steps = byte() < 200 ? 20 : number();
    o.policy.interval = byte() < 200 ? 2 : number();
    o.policy.order = below(5);
    o.policy.first_layer = below(6);
    o.policy.reduction = below(6);
    o.policy.n_active = below(6);
    o.policy.always_on = below(2);
    o.policy.train_embedding = below(2);
    o.policy.start = byte() < 200 ? 0 : real();
    o.policy.level = byte() < 200 ? 0 : real();
    o.policy.percentile = byte() < 200 ? 0 : real();
    o.policy.rates = byte() < 200 ? 0 : below(4);
    if (kind == SALF_POLICY_SCRIPTED) o.policy.script = eof, o.policy.n_script = below(10);
    if (kind == SALF_POLICY_CALLBACK) o.policy.callback = any_cut;
    if (kind == SALF_POLICY_BUDGET || byte() > 240) o.policy.planner = planners[below(SLOTS)];
    spoil_size();
    return salf_policy_create(out, contexts[below(SLOTS)], kind, m, &o.policy);
}

/* ---- files ---- */

static const char *const names[] = {
    "saved", "basis", "model", "bytes", "model/model.safetensors", "none", "run0", "run0/checkpoint-1.safetensors"};
static const char *any_path(void) {
    return place_path(names[below(8)]);
}
static salf_status make_file(salf_tensors **out) {
    return salf_tensors_open(out, contexts[below(SLOTS)], any_path());
}
static salf_status make_loaded(salf_basis **out) {
    return salf_basis_load(out, contexts[below(SLOTS)], any_path(), byte() > 128 ? models[below(SLOTS)] : NULL);
}
static salf_status make_opened(salf_model **out) {
    options(sizeof o.model);
    o.model.valid_vocab = byte() < 200 ? 0 : number();
    o.model.logit_scale = byte() < 230 ? 0 : real();
    o.model.accept = byte() < 200 ? NULL : "other,rope_theta";
    spoil_size();
    return salf_model_open(out, contexts[below(SLOTS)], any_path(), byte() > 128 ? &o.model : NULL);
}
static salf_status make_run(salf_checkpoint **out) {
    static const char *const words[] = {"rate", "data", "", NULL};
    salf_identity made_of[2];
    for (int i = 0; i < 2; i++)
        made_of[i] = (salf_identity){words[below(4)], words[below(4)], byte() > 128 ? (uint64_t)number() : 0};
    return salf_checkpoint_open(out, contexts[below(SLOTS)], place_path(below(2) ? "run0" : "run1"), made_of, below(3));
}

/* Some tensors of some names, to be written or to be filled. */
static int64_t some_tensors(salf_named_tensor *list, double *memory) {
    static const char *const words[] = {"a", "b", "salf.c", "", "a"};
    const int64_t n = below(4);
    for (int64_t i = 0; i < n; i++) {
        list[i] = (salf_named_tensor){.name = words[(below(5) + i) % 5], .view = view(memory, 1 + below(3), below(9))};
        if (byte() > 200) list[i].n_dims = below(10) - 1, list[i].shape[0] = number(), list[i].shape[1] = number();
    }
    return n;
}

static void use_files(void) {
    static const char *const pairs[] = {"k", "v", "salf.x", "w", "k", "\xff"};
    salf_named_tensor list[4], at, found;
    uint64_t hash = byte(), before = hash;
    const salf_tensors *t = byte() > 100 ? files[below(SLOTS)] : salf_model_get_tensors(models[below(SLOTS)]);
    const uint64_t size = byte();
    const int64_t n = some_tensors(list, memory_in);
    switch (below(4)) {
    case 0:
        good(salf_tensors_save(contexts[below(SLOTS)], place_path("saved"), list, n, pairs, below(4)));
        break;
    case 1:
        for (int64_t i = -1; i <= salf_tensors_count(t); i++)
            if (good(salf_tensors_at(t, i, &at)))
                MUST(good(salf_tensors_find(t, at.name, &found)) && found.view.data == at.view.data);
        (void)salf_tensors_metadata(t, pairs[below(4)]);
        break;
    case 2:
        if (!good(salf_file_save(place_path("bytes"), memory_in, size))) break;
        MUST(good(salf_hash_file(place_path("bytes"), &hash)) && hash == salf_hash(before, memory_in, size));
        break;
    default:
        good(salf_basis_save(bases[below(SLOTS)], place_path("basis")));
    }
}

static void use_run(salf_checkpoint *run) {
    static const char *const pairs[] = {"k", "v", "l", "w"};
    salf_named_tensor list[4];
    salf_checkpoint_info info = {.struct_size = sizeof info}, after = info;
    const bool saves = byte() > 128;
    salf_checkpoint_content content = {.struct_size = (uint32_t)sizeof content + (byte() > 250 ? 4 : 0)};
    content.tensors = list, content.n_tensors = some_tensors(list, saves ? memory_in : memory_out);
    content.metadata = pairs, content.n_metadata = saves ? below(3) : 0;
    content.policy = byte() > 128 ? policies[below(SLOTS)] : NULL;
    content.planner = byte() > 128 ? planners[below(SLOTS)] : NULL;
    if (!good(salf_checkpoint_get_info(run, &info))) return;
    const bool fine = good(saves ? salf_checkpoint_save(run, &content) : salf_checkpoint_load(run, &content));
    MUST(good(salf_checkpoint_get_info(run, &after)) && after.saves == info.saves + (saves && fine));
}

/* ---- calls on handles ---- */

/* A trace whose arrays are there, for rows <= 16 and m <= 8. */
static salf_trace some_trace(void) {
    static double gains[16 * 9], deviations[16 * 9];
    salf_trace t = {.rows = byte() < 240 ? below(9) : number() & 15, .n_layers = byte() < 240 ? 4 : below(9)};
    for (int i = 0; i < 16 * 9; i++) deviations[i] = gains[i] = i % 7 == 3 ? real() : i % 5 - 2;
    t.deviations = byte() > 20 ? deviations : NULL;
    t.gains = byte() > 20 ? gains : NULL;
    for (int i = 0; i < 16; i++) eof[i] = byte() < 250 ? below(4) : word();
    t.eof = byte() > 20 ? eof : NULL;
    return t;
}

static void use_probe(salf_probe *p) {
    const int32_t rows = byte() < 230 ? 1 + below(8) : below(13);
    salf_trace trace;
    int32_t ready;
    if (!good(salf_probe_begin(p, labels + below(4), rows))) return;
    const int32_t last = byte() < 200 ? 5 : below(7);
    for (int32_t space = byte() < 230 ? 0 : below(6); space < last; space++) {
        const salf_tensor states = view(memory_in, rows, 8);
        good(salf_probe_observe(p, space, &states, byte() > 240));
        if (byte() > 250) good(salf_probe_flush(p)), good(salf_probe_poll(p, &ready)), good(salf_probe_replay(p));
    }
    if (!good(byte() < 220 ? salf_probe_end(p, &trace) : salf_probe_partial(p, &trace))) return;
    double sum = 0;
    for (int64_t i = 0; i < trace.rows * (trace.n_layers + 1); i++) sum += trace.deviations[i];
    for (int64_t i = 0; trace.eof && i < trace.rows; i++) MUST(trace.eof[i] >= 0 && trace.eof[i] < trace.n_layers);
    (void)sum;
}

static void use_loss(salf_loss *l) {
    const int32_t rows = below(9);
    const salf_tensor states = view(memory_in, rows, 8), out = view(memory_out, rows, 1),
                      d = view(memory_out + 2048, rows, 8);
    good(salf_loss_compute(l, labels + below(4), &states, real(), &out, byte() > 100 ? &d : NULL));
}

static void use_planner(salf_planner *p) {
    int32_t found[64], groups[64];
    uint8_t accepted[64];
    int64_t counts[8], sizes[4];
    double saving;
    salf_task task;
    salf_stage stage;
    for (int i = 0; i < 64; i++) found[i] = byte() < 250 ? below(4) : word(), groups[i] = found[i] ^ 3;
    for (int i = 0; i < 4; i++) sizes[i] = number();
    switch (below(8)) {
    case 0:
        good(salf_planner_set_eof(p, number(), below(64), found));
        break;
    case 1:
        good(salf_planner_match(p));
        break;
    case 2:
        good(salf_planner_get_stage(p, below(6) - 1, &stage));
        good(salf_planner_saving(p, &saving));
        good(salf_planner_counts(p, counts));
        break;
    case 3:
        good(salf_planner_set_groups(p, groups, sizes, below(5)));
        break;
    case 4:
        good(salf_planner_done(p));
        break;
    default:
        if (!good(salf_planner_next(p, byte() < 240 ? 1 + below(16) : number() & 63, &task))) return;
        if (task.kind == SALF_TASK_PROBE && task.n_data <= 16 && byte() > 20) {
            salf_trace trace = some_trace();
            if (byte() < 240) trace.rows = task.n_data;
            if (!good(salf_planner_assign(p, &trace, groups, &task)))
                good(salf_planner_report(p, found, byte() < 240 ? task.n_data : below(64), accepted));
        }
        for (int64_t i = 0; i < task.n_data && task.kind == SALF_TASK_TRAIN; i++) MUST(!task.eof || task.eof[i] >= 0);
        if (byte() > 60) good(salf_planner_done(p));
    }
}

static void use_policy(salf_policy *p) {
    double norms[4096];
    const salf_trace trace = some_trace();
    for (int i = 0; i < 4096; i++) norms[i] = i % 9 == 4 ? real() : i;
    salf_observation seen = {.struct_size = sizeof seen, .step = number()};
    struct { /* room for any size that a byte may claim */
        salf_decision decision;
        char beyond[256];
    } room = {.decision.struct_size = byte() < 250 ? (uint32_t)sizeof room.decision : byte()};
    const salf_decision *decision = &room.decision;
    if (byte() > 100) seen.trace = &trace;
    if (byte() > 200) seen.gradient_l1 = norms;
    if (byte() > 200) seen.gradient_norm = norms;
    if (byte() > 200) seen.parameter_norm = norms;
    if (!good(salf_policy_decide(p, &seen, &room.decision)) || decision->struct_size < sizeof *decision) return;
    MUST(decision->cut >= 0 && decision->cut <= decision->n_layers);
    for (int32_t i = 0; i < decision->n_layers; i++) MUST((decision->rate_scale[i] != 0) <= decision->trainable[i]);
    for (int64_t i = 0; decision->order && i < decision->rows; i++)
        MUST(decision->order[i] >= 0 && decision->order[i] < decision->rows);
}

/* Bytes of one handle into another. */
static void reload(void) {
    static char bytes[1 << 16];
    uint64_t size = byte() < 230 ? sizeof bytes : byte();
    const bool planner = below(2);
    const int from = below(SLOTS), to = below(SLOTS);
    if (!good(planner ? salf_planner_save(planners[from], bytes, &size)
                      : salf_policy_save(policies[from], bytes, &size)))
        return;
    if (byte() > 200 && size > 0) bytes[(uint64_t)number() % size] ^= 1;
    good(planner ? salf_planner_load(planners[to], bytes, size) : salf_policy_load(policies[to], bytes, size));
}

static void look(void) {
    salf_context_info context = {.struct_size = sizeof context};
    salf_model_info model = {.struct_size = sizeof model};
    salf_decoder_info decoder = {.struct_size = sizeof decoder};
    struct {
        salf_basis_info info;
        char beyond[256];
    } basis = {.info.struct_size = byte() < 250 ? (uint32_t)sizeof basis.info : byte()};
    salf_signal_info signal = {.struct_size = sizeof signal};
    const int32_t *held;
    int64_t n;
    uint64_t fingerprint;
    const int s = below(SLOTS);
    const salf_tensor rows = view(memory_out, below(13), 8);
    const salf_trace trace = some_trace();
    const uint32_t ids[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7};
    good(salf_context_get_info(contexts[s], &context));
    good(salf_model_get_info(models[s], &model));
    good(salf_model_get_decoder(models[s], &decoder));
    good(salf_model_fingerprint(models[s], &fingerprint));
    good(salf_basis_get_info(bases[s], &basis.info));
    good(salf_basis_get_labels(bases[s], &held, &n));
    good(salf_basis_rows(bases[s], labels, below(13), &rows));
    good(salf_basis_check(bases[s], models[below(SLOTS)]));
    good(salf_signal_add(signals[s], &trace, byte() > 100 ? labels : NULL, byte() > 100 ? ids : NULL,
                         byte() > 100 ? eof : NULL));
    good(salf_signal_get(signals[s], &signal));
}

static void use_builder(salf_basis_builder *b) {
    double *sums;
    int64_t n;
    const int64_t first = byte() < 200 ? below(12) : number();
    const salf_tensor rows = view(memory_in + 4 * below(12), byte() < 200 ? 11 : below(12), 8);
    good(salf_basis_builder_add(b, first, &rows));
    if (byte() > 200) good(salf_basis_builder_merge(b, builders[below(SLOTS)]));
    if (byte() > 240) good(salf_basis_builder_all_reduce(b));
    if (good(salf_basis_builder_partial(b, &sums, &n)) && byte() > 250 && n > 0)
        sums[(uint64_t)number() % (uint64_t)n] = real();
}

static void other_calls(void) {
    const salf_trace t = some_trace();
    double gains[16 * 9];
    int32_t cuts[16];
    salf_cost cost = {.struct_size = sizeof cost};
    options(sizeof o.cost);
    o.cost.n_layers = 1 + below(4), o.cost.hidden = number(), o.cost.ffn_hidden = number(), o.cost.vocab = number();
    o.cost.n_heads = word(), o.cost.rows = below(17), o.cost.row_tokens = number(), o.cost.cut = word();
    o.cost.eof = byte() > 128 ? eof : NULL;
    spoil_size();
    good(salf_cost_estimate(&o.cost, &cost));
    if (t.deviations) good(salf_eof_from_deviations(t.n_layers, t.rows, t.deviations, below(5), below(3), gains, cuts));
    options(sizeof o.model);
    if (byte() > 128) o.model.norm_weight = view(memory_in, 1, 8);
    spoil_size();
    good(salf_model_update(models[below(SLOTS)], &o.model));
    char text[24] = "";
    salf_method method = {0};
    int64_t value = 0;
    for (int i = below(24); i > 0; i--) text[i - 1] = (char)byte();
    const char *name = byte() > 128 ? salf_method_name(word()) : text;
    if (name && good(salf_method_find(name, &method))) MUST(salf_constant_word("SALF_POLICY", method.policy));
    if (good(salf_constant(text, &value))) MUST(!salf_constant_word(text, number()));
    good(salf_context_agree(contexts[below(SLOTS)], below(5)));
}

static void call_one(void) {
    switch (below(26)) {
    case 0:
        MAKE(contexts, salf_context_destroy, make_context);
        break;
    case 1:
        MAKE(models, salf_model_destroy, make_model);
        break;
    case 2:
        MAKE(bases, salf_basis_destroy, make_basis);
        break;
    case 3:
        MAKE(bases, salf_basis_destroy, make_fresh);
        break;
    case 4:
        MAKE(builders, salf_basis_builder_destroy, make_builder);
        break;
    case 5:
        MAKE(bases, salf_basis_destroy, make_finished);
        break;
    case 6:
        MAKE(probes, salf_probe_destroy, make_probe);
        break;
    case 7:
        MAKE(losses, salf_loss_destroy, make_loss);
        break;
    case 8:
        MAKE(signals, salf_signal_destroy, make_signal);
        break;
    case 9:
        MAKE(planners, salf_planner_destroy, make_planner);
        break;
    case 10:
        MAKE(policies, salf_policy_destroy, make_policy);
        break;
    case 11:
        use_builder(builders[below(SLOTS)]);
        break;
    case 12:
        use_probe(probes[below(SLOTS)]);
        break;
    case 13:
        use_loss(losses[below(SLOTS)]);
        break;
    case 14:
        use_planner(planners[below(SLOTS)]);
        break;
    case 15:
        use_policy(policies[below(SLOTS)]);
        break;
    case 16:
        reload();
        break;
    case 17:
        look();
        break;
    case 18:
        other_calls();
        break;
    case 19:
        MAKE(files, salf_tensors_destroy, make_file);
        break;
    case 20:
        MAKE(bases, salf_basis_destroy, make_loaded);
        break;
    case 21:
        MAKE(models, salf_model_destroy, make_opened);
        break;
    case 22:
        MAKE(runs, salf_checkpoint_destroy, make_run);
        break;
    case 23:
        use_files();
        break;
    case 24:
        use_run(runs[below(SLOTS)]);
        break;
    default:
        allocations_left = byte() < 128 ? INT64_MAX : below(40);
        reports_left = byte() < 128 ? INT64_MAX : below(5);
        meetings_left = byte() < 128 ? INT64_MAX : below(5);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (place_make()) fill(), place_model(2);
    next_byte = data, end_byte = data + size;
    allocations_left = reports_left = meetings_left = INT64_MAX;
    for (int i = 0; i < MOST_CALLS && next_byte < end_byte; i++) call_one();
    for (int s = 0; s < SLOTS; s++) { /* contexts first: what was made of them keeps them */
        salf_context_destroy(contexts[s]), salf_model_destroy(models[s]), salf_planner_destroy(planners[s]);
        salf_basis_destroy(bases[s]), salf_basis_builder_destroy(builders[s]), salf_probe_destroy(probes[s]);
        salf_loss_destroy(losses[s]), salf_signal_destroy(signals[s]), salf_policy_destroy(policies[s]);
        salf_tensors_destroy(files[s]), salf_checkpoint_destroy(runs[s]);
        files[s] = NULL, runs[s] = NULL;
        contexts[s] = NULL, models[s] = NULL, planners[s] = NULL, bases[s] = NULL, builders[s] = NULL;
        probes[s] = NULL, losses[s] = NULL, signals[s] = NULL, policies[s] = NULL;
    }
    /* the same input does the same whatever came before */
    remove(place_path("saved")), remove(place_path("basis")), remove(place_path("bytes"));
    place_clear(place_path("run0")), place_clear(place_path("run1"));
    return 0;
}
