/*
 * fuzz_state.c - readers of saved bytes: what is accepted must serve, and can be saved and read again.
 *
 * The first byte chooses planner or policy and its kind, the second the options; the rest is read as a whole state, and
 * as the payload of one behind a right header, so that the checksum does not hide the reader. Compiled with
 * -DWRITE_SEEDS it writes seeds instead, states of handles at work: fuzz_state FOLDER.
 */
#include "core/blob.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define M         3
#define N         20
#define MOST_ROOM 4096

typedef struct payload {
    uint8_t *data;
    size_t size;
} payload;

static salf_status write_payload(void *user, slf_blob *blob) {
    payload *p = user;
    slf_blob_bytes(blob, p->data, p->size);
    return SALF_OK;
}

/* ---- planner ---- */

static salf_planner *make_planner(salf_context *context, uint8_t kind, uint8_t choice) {
    static const double weights[M] = {1, 0, 2};
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.matching = (kind & 0x7F) % 4;
    if (o.matching == SALF_MATCH_STREAM) {
        o.assignment = (choice >> 4 & 3) % 3;
        o.stream_order = choice >> 6 & 1;
        o.one_cut = o.assignment == SALF_ASSIGN_RANDOM && choice >> 7;
        o.max_groups = choice >> 7 ? 2 : 0;
    } else {
        o.full_batches = choice >> 4 & 1;
    }
    o.growth = choice % 4;
    o.infill = choice >> 2 & 1;
    o.probe_limit = choice >> 3 & 1 ? 4 : SALF_PROBE_ALL;
    o.weights = weights;
    salf_planner *planner = NULL;
    MUST(salf_planner_create(&planner, context, M, N, &o) == SALF_OK);
    return planner;
}

/* One call on the planner and its answer; false when the plan is done or cannot go on. */
static bool step_planner(salf_planner *planner, bool stream, int64_t *trained) {
    salf_task task;
    int32_t eof[3];
    uint8_t accepted[3];
    if (salf_planner_next(planner, 3, &task) != SALF_OK || task.kind == SALF_TASK_DONE) return false;
    MUST(task.n_data > 0 && task.n_data <= N && task.layer >= 0 && task.layer < M);
    for (int64_t i = 0; i < task.n_data; i++) MUST(task.data[i] < N);
    for (int64_t i = 0; task.eof && i < task.n_data; i++) MUST(task.eof[i] >= task.layer && task.eof[i] < M);
    if (task.kind == SALF_TASK_TRAIN) {
        *trained += task.n_data;
        return salf_planner_done(planner) == SALF_OK;
    }
    if (task.n_data > 3) return false; /* a state may hold a longer task */
    for (int64_t i = 0; i < task.n_data; i++) eof[i] = (int32_t)(task.data[i] % M);
    static const double gains[3 * M] = {1, 0, 2, 0, 3, 0, 0, 0, 1};
    const salf_trace trace = {.rows = task.n_data, .n_layers = M, .gains = gains, .eof = eof};
    const int32_t groups[3] = {(int32_t)task.data[0] % 5, 0, 1};
    if (stream) { /* sizes in the state may not be those of these groups */
        const salf_status status = salf_planner_assign(planner, &trace, groups, &task);
        MUST(status == SALF_OK ? task.kind == SALF_TASK_TRAIN : status == SALF_E_ARGUMENT);
        return status == SALF_OK;
    }
    MUST(salf_planner_report(planner, eof, task.n_data, accepted) == SALF_OK);
    return true;
}

static void use_planner(salf_planner *planner, bool stream) {
    uint8_t bytes[MOST_ROOM];
    uint64_t size = sizeof bytes;
    int64_t trained = 0, calls = 0;
    MUST(salf_planner_save(planner, bytes, &size) == SALF_OK);
    MUST(salf_planner_load(planner, bytes, size) == SALF_OK);
    while (step_planner(planner, stream, &trained)) MUST(++calls < 20 * N);
    MUST(trained <= N);
    for (int32_t e = 0; e < M; e++) {
        salf_stage stage;
        MUST(salf_planner_get_stage(planner, e, &stage) == SALF_OK);
        MUST(stage.matched >= 0 && stage.filled >= 0 && stage.matched + stage.filled <= (stream ? N : stage.count));
    }
}

/* ---- policy ---- */

static int32_t cut_of(void *user, int64_t step, int32_t n_layers, const salf_trace *trace) {
    (void)user, (void)step, (void)trace;
    return n_layers - 1;
}

static salf_policy *make_policy(salf_context *context, salf_planner *planner, uint8_t kind, uint8_t choice) {
    static const int32_t script[2] = {1, 2};
    salf_policy_options o;
    salf_options_init(&o, sizeof o);
    o.reduction = choice % 5;
    o.interval = 1 + (choice >> 3 & 1);
    o.total_steps = 9;
    o.always_on = choice >> 4 & 1;
    o.cubic = choice >> 5 & 1;
    o.script = script;
    o.n_script = 2;
    o.callback = cut_of;
    o.planner = planner;
    static int32_t n_kinds;
    for (int32_t k = n_kinds; salf_constant_word("SALF_POLICY", k); k++) n_kinds = k + 1;
    salf_policy *policy = NULL;
    MUST(salf_policy_create(&policy, context, kind % n_kinds, M, &o) == SALF_OK);
    return policy;
}

static void decide(salf_policy *policy, int64_t step) {
    static const double gains[2 * M] = {0, 1, 0, 0, 0, 2}, norms[M] = {1, 3, 2};
    static const int32_t eof[2] = {1, 2};
    const salf_trace trace = {.rows = 2, .n_layers = M, .gains = gains, .eof = eof};
    const salf_observation seen = {.struct_size = sizeof seen,
                                   .step = step,
                                   .trace = &trace,
                                   .gradient_l1 = norms,
                                   .gradient_norm = norms,
                                   .parameter_norm = norms};
    salf_decision d = {.struct_size = sizeof d};
    salf_observation without = seen; /* AUTOFREEZE takes norms where a turn ends, and nowhere else */
    without.gradient_l1 = NULL;
    if (salf_policy_decide(policy, &seen, &d) != SALF_OK && salf_policy_decide(policy, &without, &d) != SALF_OK)
        return; /* the state's step may be later */
    MUST(d.cut >= 0 && d.cut <= M && d.n_added >= 0 && d.n_added <= M && d.n_removed >= 0 && d.n_removed <= M);
    for (int32_t k = 0; k < d.cut; k++) MUST(!d.trainable[k]);
}

static void use_policy(salf_policy *policy) {
    uint8_t bytes[MOST_ROOM];
    uint64_t size = sizeof bytes;
    MUST(salf_policy_save(policy, bytes, &size) == SALF_OK);
    MUST(salf_policy_load(policy, bytes, size) == SALF_OK);
    for (int64_t step = 0; step < 12; step++) decide(policy, step);
    decide(policy, INT64_MAX);
    MUST(salf_policy_save(policy, bytes, &size) == SALF_OK);
    MUST(salf_policy_load(policy, bytes, size) == SALF_OK);
}

/* ---- the target ---- */

static void read_both(salf_context *context, uint8_t kind, uint8_t choice, const void *bytes, uint64_t size) {
    salf_planner *planner = make_planner(context, kind, choice);
    salf_task task;
    if (kind & 0x80) {
        if (salf_planner_load(planner, bytes, size) == SALF_OK)
            use_planner(planner, (kind & 0x7F) % 4 == SALF_MATCH_STREAM);
    } else {
        salf_planner_next(planner, 2, &task);
        salf_policy *policy = make_policy(context, planner, kind, choice);
        if (salf_policy_load(policy, bytes, size) == SALF_OK) use_policy(policy);
        salf_policy_destroy(policy);
    }
    salf_planner_destroy(planner);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > MOST_ROOM) return 0;
    salf_context *context = place_context();
    payload p = {(uint8_t *)(uintptr_t)(data + 2), size - 2}; /* only read */
    uint64_t whole = size + 30;
    uint8_t *bytes = malloc(whole);
    const bool planner = data[0] & 0x80;
    MUST(bytes);
    read_both(context, data[0], data[1], data + 2, size - 2);
    for (uint32_t version = 1; version <= 4; version++) { /* each has been written once */
        MUST(slf_blob_save(planner ? "PLAN" : "POLI", version, write_payload, &p, bytes, &whole) == SALF_OK);
        read_both(context, data[0], data[1], bytes, whole);
    }
    free(bytes);
    return 0;
}

#ifdef WRITE_SEEDS
static void write_seed(const char *folder, const char *name, uint8_t kind, uint8_t choice, const uint8_t *state,
                       uint64_t size) {
    static int number = 0;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s_%d_%d_%d", folder, name, kind & 0x7F, choice, number++);
    FILE *file = fopen(path, "wb");
    MUST(file && fputc(kind, file) == kind && fputc(choice, file) == choice);
    MUST(fwrite(state + 32, 1, size - 32, file) == size - 32 && fclose(file) == 0); /* the payload alone */
}

int main(int argc, char **argv) {
    static const uint8_t planners[][3] = {{0, 1, 0},    {0, 9, 5},    {0, 9, 9},    {0, 6, 12},   {1, 2, 0},
                                          {1, 7, 4},    {2, 5, 3},    {3, 1, 3},    {3, 0x40, 4}, {3, 0x80, 3},
                                          {3, 0x10, 5}, {3, 0xD0, 8}, {3, 0x60, 7}, {0, 0x11, 6}, {0, 0x19, 9},
                                          {1, 0x17, 2}, {2, 0x15, 1}};
    static const uint8_t policies[][2] = {{3, 4}, {7, 16}, {8, 8}, {11, 0}, {14, 0}};
    MUST(argc == 2);
    salf_context *context = place_context();
    uint8_t bytes[MOST_ROOM];
    for (size_t i = 0; i < sizeof planners / sizeof *planners; i++) {
        const uint8_t kind = planners[i][0] | 0x80, choice = planners[i][1];
        salf_planner *planner = make_planner(context, kind, choice);
        int64_t trained = 0;
        for (int32_t id = 0; planners[i][0] == SALF_MATCH_OFFLINE && id < N; id++) {
            const int32_t eof = id % M;
            salf_planner_set_eof(planner, id, 1, &eof);
        }
        for (uint8_t step = 0; step < planners[i][2]; step++)
            step_planner(planner, planners[i][0] == SALF_MATCH_STREAM, &trained);
        uint64_t size = sizeof bytes;
        MUST(salf_planner_save(planner, bytes, &size) == SALF_OK);
        write_seed(argv[1], "planner", kind, choice, bytes, size);
        salf_planner_destroy(planner);
    }
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        salf_policy *policy = make_policy(context, NULL, policies[i][0], policies[i][1]);
        for (int64_t step = 0; step < 5; step++) decide(policy, step);
        uint64_t size = sizeof bytes;
        MUST(salf_policy_save(policy, bytes, &size) == SALF_OK);
        write_seed(argv[1], "policy", policies[i][0], policies[i][1], bytes, size);
        salf_policy_destroy(policy);
    }
    return 0;
}
#endif
