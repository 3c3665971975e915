/*
 * test_compat.c - files of released formats stay readable: what tests/compat holds is loaded and must mean what it
 * meant.
 *
 * The files were written by this program with SALF_WRITE_COMPAT=1, once for each format version; they are never written
 * again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/blob.h"
#include "core/fingerprint.h"
#include "harness.h"

enum { VOCAB = 12, HIDDEN = 4, LAYERS = 4, DATA = 20 };

static const char *const folder = "tests/compat";

static bool writing(void) {
    return getenv("SALF_WRITE_COMPAT") != NULL;
}

static void path_of(char *path, size_t room, const char *name) {
    snprintf(path, room, "%s/%s", folder, name);
}

/* ---- basis ---- */

static void fill_head(float *head) {
    for (int i = 0; i < VOCAB * HIDDEN; i++) head[i] = (float)((i * 7 + i / HIDDEN * 3) % 11 - 5);
}

static salf_model *tiny_model(salf_context *context, float *head) {
    salf_model *model;
    fill_head(head);
    const salf_model_options o = {
        .struct_size = sizeof o,
        .n_layers = LAYERS,
        .hidden = HIDDEN,
        .vocab = VOCAB,
        .head = {.data = head, .rows = VOCAB, .cols = HIDDEN, .dtype = SALF_F32},
    };
    CHECK_OK(salf_model_create(&model, context, &o));
    return model;
}

START_TEST(basis_of_format_1) {
    const int32_t labels[3] = {2, 5, 9};
    float head[VOCAB * HIDDEN];
    double now[3 * HIDDEN], then[3 * HIDDEN];
    char path[256];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_model *model = tiny_model(context, head);
    salf_basis *fresh, *kept;
    path_of(path, sizeof path, "basis-1.safetensors");
    CHECK_OK(salf_basis_create(&fresh, model, labels, 3, NULL));
    if (writing()) CHECK_OK(salf_basis_save(fresh, path));
    CHECK_OK(salf_basis_load(&kept, context, path, model)); /* also: the fingerprint is computed as it was */
    const salf_tensor a = {.data = now, .rows = 3, .cols = HIDDEN, .dtype = SALF_F64};
    const salf_tensor b = {.data = then, .rows = 3, .cols = HIDDEN, .dtype = SALF_F64};
    CHECK_OK(salf_basis_rows(fresh, labels, 3, &a));
    CHECK_OK(salf_basis_rows(kept, labels, 3, &b));
    for (int i = 0; i < 3 * HIDDEN; i++) ck_assert_double_eq_tol(now[i], then[i], 1e-12);
    salf_basis_destroy(kept);
    salf_basis_destroy(fresh);
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

/* ---- blobs of planner and policy ---- */

static void write_bytes(const char *path, const void *bytes, uint64_t size) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, (size_t)size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

static uint64_t read_bytes(const char *path, void *bytes, size_t room) {
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s is missing", path);
    const size_t size = fread(bytes, 1, room, file);
    fclose(file);
    return size;
}

static salf_planner *tiny_planner(salf_context *context) {
    const salf_planner_options o = {.struct_size = sizeof o,
                                    .growth = SALF_GROWTH_ARITHMETIC,
                                    .infill = SALF_INFILL_DEPTH,
                                    .matching = SALF_MATCH_ONLINE,
                                    .seed = 7,
                                    .probe_limit = SALF_PROBE_ALL};
    salf_planner *planner;
    CHECK_OK(salf_planner_create(&planner, context, LAYERS, DATA, &o));
    return planner;
}

/* Datum d has eof m-1 - d mod 2, so that shallow layers are filled. Runs at most `tasks` tasks (-1: to the end), and
 * adds id * (layer + 1) of what is trained. */
static uint64_t run_plan(salf_planner *planner, int tasks) {
    uint64_t trained = 0;
    for (salf_task task; tasks != 0; tasks--) {
        CHECK_OK(salf_planner_next(planner, 3, &task));
        if (task.kind == SALF_TASK_DONE) return trained;
        uint32_t ids[3];
        int32_t eof[3];
        uint8_t accepted[3] = {1, 1, 1};
        for (int64_t i = 0; i < task.n_data; i++) {
            ids[i] = task.data[i];
            eof[i] = LAYERS - 1 - (int32_t)(ids[i] % 2);
        }
        const int64_t n = task.n_data, layer = task.layer;
        if (task.kind == SALF_TASK_PROBE) CHECK_OK(salf_planner_report(planner, eof, n, accepted));
        CHECK_OK(salf_planner_done(planner));
        for (int64_t i = 0; i < n; i++) trained += accepted[i] ? ids[i] * (uint64_t)(layer + 1) : 0;
    }
    return trained;
}

START_TEST(planner_blob_of_version_2) {
    uint8_t bytes[4096];
    char path[256];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    path_of(path, sizeof path, "planner-2.bin");
    salf_planner *planner = tiny_planner(context);
    salf_task task;
    run_plan(planner, 10);
    CHECK_OK(salf_planner_next(planner, 3, &task)); /* the blob holds draws, and a task that is open */
    ck_assert(task.layer == 1 && task.kind == SALF_TASK_PROBE);
    if (writing()) {
        uint64_t size = sizeof bytes;
        CHECK_OK(salf_planner_save(planner, bytes, &size));
        write_bytes(path, bytes, size);
    }
    salf_planner *kept = tiny_planner(context);
    CHECK_OK(salf_planner_load(kept, bytes, read_bytes(path, bytes, sizeof bytes)));
    ck_assert_uint_eq(run_plan(kept, -1), run_plan(planner, -1));
    salf_planner_destroy(kept);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

static salf_planner *tiny_stream(salf_context *context) {
    const salf_planner_options o = {.struct_size = sizeof o,
                                    .growth = SALF_GROWTH_ARITHMETIC,
                                    .infill = SALF_INFILL_DEPTH,
                                    .matching = SALF_MATCH_STREAM,
                                    .assignment = SALF_ASSIGN_EOF,
                                    .stream_order = SALF_STREAM_MIXED,
                                    .seed = 7};
    salf_planner *planner;
    CHECK_OK(salf_planner_create(&planner, context, LAYERS, DATA, &o));
    return planner;
}

/* Runs a stream to its end, or only until the cuts of task number `tasks` are known; a number of ids and cuts. */
static uint64_t run_stream(salf_planner *planner, int tasks) {
    uint64_t seen = 0;
    for (salf_task task;; tasks--) {
        int32_t eof[3], groups[3];
        CHECK_OK(salf_planner_next(planner, 3, &task));
        if (task.kind == SALF_TASK_DONE) return seen;
        for (int64_t i = 0; i < task.n_data; i++) {
            eof[i] = (int32_t)(task.data[i] % LAYERS);
            groups[i] = (int32_t)(task.data[i] % 3);
        }
        const salf_trace trace = {.rows = task.n_data, .n_layers = LAYERS, .eof = eof};
        if (task.kind == SALF_TASK_PROBE) CHECK_OK(salf_planner_assign(planner, &trace, groups, &task));
        if (tasks == 0) return seen;
        for (int64_t i = 0; i < task.n_data; i++) seen = seen * 31 + task.data[i] * 7 + (uint64_t)task.eof[i];
        CHECK_OK(salf_planner_done(planner));
    }
}

START_TEST(stream_blob_of_version_3) {
    uint8_t bytes[4096];
    char path[256];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    path_of(path, sizeof path, "planner-3.bin");
    salf_planner *planner = tiny_stream(context), *kept = tiny_stream(context);
    run_stream(planner, 3); /* the blob holds groups, and a task whose cuts are known */
    if (writing()) {
        uint64_t size = sizeof bytes;
        CHECK_OK(salf_planner_save(planner, bytes, &size));
        write_bytes(path, bytes, size);
    }
    CHECK_OK(salf_planner_load(kept, bytes, read_bytes(path, bytes, sizeof bytes)));
    ck_assert_uint_eq(run_stream(kept, -1), run_stream(planner, -1));
    salf_planner_destroy(kept);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

/* In full batches: data are held, matched and drawn ones, while layer 2 is probed. */
START_TEST(planner_blob_of_version_4) {
    const salf_planner_options o = {.struct_size = sizeof o, .seed = 7, .probe_limit = 4, .full_batches = 1};
    uint8_t bytes[4096];
    char path[256];
    salf_planner *planner, *kept;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    path_of(path, sizeof path, "planner-4.bin");
    CHECK_OK(salf_planner_create(&planner, context, LAYERS, DATA, &o));
    CHECK_OK(salf_planner_create(&kept, context, LAYERS, DATA, &o));
    salf_task task;
    run_plan(planner, 8);
    CHECK_OK(salf_planner_next(planner, 3, &task));
    ck_assert(task.layer == 2 && task.kind == SALF_TASK_PROBE);
    if (writing()) {
        uint64_t size = sizeof bytes;
        CHECK_OK(salf_planner_save(planner, bytes, &size));
        write_bytes(path, bytes, size);
    }
    CHECK_OK(salf_planner_load(kept, bytes, read_bytes(path, bytes, sizeof bytes)));
    ck_assert_uint_eq(run_plan(kept, -1), run_plan(planner, -1));
    salf_planner_destroy(kept);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

/* It stands for another random order of fills, so that going on from it would train other data. */
START_TEST(planner_blob_of_version_1_is_refused) {
    uint8_t bytes[4096];
    char path[256];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    path_of(path, sizeof path, "planner-1.bin");
    salf_planner *planner = tiny_planner(context);
    CHECK_FAILS(salf_planner_load(planner, bytes, read_bytes(path, bytes, sizeof bytes)), SALF_E_VERSION,
                "'PLAN' has version 1; this library reads 2");
    run_plan(planner, -1); /* it serves as before */
    salf_planner_destroy(planner);
    salf_context_destroy(context);
}
END_TEST

static salf_policy *tiny_policy(salf_context *context) {
    const salf_policy_options o = {.struct_size = sizeof o, .interval = 2, .n_active = 2, .seed = 7};
    salf_policy *policy;
    CHECK_OK(salf_policy_create(&policy, context, SALF_POLICY_LISA, LAYERS, &o));
    return policy;
}

/* Decisions of steps first ... last-1 as a number. */
static uint64_t run_policy(salf_policy *policy, int64_t first, int64_t last) {
    uint64_t seen = 0;
    for (int64_t step = first; step < last; step++) {
        const salf_observation observation = {.struct_size = sizeof observation, .step = step};
        salf_decision decision = {.struct_size = sizeof decision};
        CHECK_OK(salf_policy_decide(policy, &observation, &decision));
        for (int k = 0; k < LAYERS; k++) seen = seen * 31 + decision.trainable[k];
        seen = seen * 31 + (uint64_t)decision.n_added * 5 + (uint64_t)decision.n_removed;
    }
    return seen;
}

static void read_policy_of(const char *name) {
    uint8_t bytes[4096];
    char path[256];
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    path_of(path, sizeof path, name);
    salf_policy *policy = tiny_policy(context);
    run_policy(policy, 0, 3);
    if (writing()) {
        uint64_t size = sizeof bytes;
        CHECK_OK(salf_policy_save(policy, bytes, &size));
        write_bytes(path, bytes, size);
    }
    salf_policy *kept = tiny_policy(context);
    CHECK_OK(salf_policy_load(kept, bytes, read_bytes(path, bytes, sizeof bytes)));
    ck_assert_uint_eq(run_policy(kept, 3, 12), run_policy(policy, 3, 12));
    salf_policy_destroy(kept);
    salf_policy_destroy(policy);
    salf_context_destroy(context);
}

START_TEST(policy_blobs_of_versions_1_to_3) {
    read_policy_of("policy-1.bin");
    read_policy_of("policy-2.bin");
    read_policy_of("policy-3.bin");
}
END_TEST

/* What version 1 wrote for a policy: its fields, of which the sixth was the interval in force, and behind the last step
 * the number of a turn. */
typedef struct version_1 {
    uint8_t *payload; /* of version 3 */
    uint64_t size, interval;
} version_1;

static salf_status write_version_1(void *user, slf_blob *blob) {
    version_1 *v = user;
    uint64_t turn = 1, sum = 0;
    slf_blob_bytes(blob, v->payload, 5 * 8);
    slf_blob_u64(blob, &v->interval);
    slf_blob_bytes(blob, v->payload + 6 * 8, 12 * 8); /* the other fields, but for the last, and the step */
    slf_blob_bytes(blob, v->payload + 19 * 8, 8);
    slf_blob_u64(blob, &turn);
    slf_blob_bytes(blob, v->payload + 20 * 8, 4 * 8 + LAYERS); /* flags, and the set */
    for (int k = 0; k < LAYERS; k++) slf_blob_u64(blob, &sum);
    slf_blob_bytes(blob, v->payload + 24 * 8 + LAYERS, LAYERS * 8);
    return SALF_OK;
}

/* Loads what version 1 would have written of a policy without an interval after 3 of total steps. */
static salf_status load_version_1(salf_context *context, int32_t kind, int64_t total, uint64_t interval, bool same) {
    uint8_t now[1024], then[1024];
    uint64_t size = sizeof now, room = sizeof then;
    const salf_policy_options o = {.struct_size = sizeof o, .total_steps = total, .seed = 7};
    salf_policy *policy, *kept;
    CHECK_OK(salf_policy_create(&policy, context, kind, LAYERS, &o));
    CHECK_OK(salf_policy_create(&kept, context, kind, LAYERS, &o));
    run_policy(policy, 0, 3);
    CHECK_OK(salf_policy_save(policy, now, &size));
    version_1 v = {now + 32, size - 32, interval};
    CHECK_OK(slf_blob_save("POLI", 1, write_version_1, &v, then, &room));
    const salf_status status = salf_policy_load(kept, then, room);
    if (same) ck_assert_uint_eq(run_policy(kept, 3, 12), run_policy(policy, 3, 12));
    salf_policy_destroy(policy);
    salf_policy_destroy(kept);
    return status;
}

/* Of version 2 the sums of AUTOFREEZE's norms mean something else. */
static salf_status write_version_2(void *user, slf_blob *blob) {
    version_1 *v = user;
    uint64_t sum = 0;
    slf_blob_bytes(blob, v->payload, 18 * 8);
    slf_blob_bytes(blob, v->payload + 19 * 8, 5 * 8 + LAYERS);
    for (int k = 0; k < LAYERS; k++) slf_blob_u64(blob, &sum);
    slf_blob_bytes(blob, v->payload + 24 * 8 + LAYERS, LAYERS * 8);
    return SALF_OK;
}

START_TEST(autofreeze_of_version_2_is_refused) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const salf_policy_options o = {.struct_size = sizeof o, .total_steps = 100, .seed = 7};
    for (int32_t kind = SALF_POLICY_LINEAR; kind <= SALF_POLICY_AUTOFREEZE; kind++) {
        uint8_t now[1024], then[1024];
        uint64_t size = sizeof now, room = sizeof then;
        salf_policy *policy;
        CHECK_OK(salf_policy_create(&policy, context, kind, LAYERS, &o));
        run_policy(policy, 0, 3);
        CHECK_OK(salf_policy_save(policy, now, &size));
        version_1 v = {now + 32, size - 32, 0};
        CHECK_OK(slf_blob_save("POLI", 2, write_version_2, &v, then, &room));
        if (kind == SALF_POLICY_LINEAR)
            CHECK_OK(salf_policy_load(policy, then, room));
        else
            CHECK_FAILS(salf_policy_load(policy, then, room), SALF_E_VERSION, "version 2 and sums norms");
        salf_policy_destroy(policy);
    }
    salf_context_destroy(context);
}
END_TEST

/* Turns that were rounded to whole numbers of steps: read where they are the exact ones, or where there are none. */
START_TEST(policy_blobs_of_version_1_with_rounded_turns) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    CHECK_OK(load_version_1(context, SALF_POLICY_LISA, 8, 2, true));
    CHECK_OK(load_version_1(context, SALF_POLICY_RANDOM, 0, 1, true));
    CHECK_OK(load_version_1(context, SALF_POLICY_RANDOM, 9, 2, true));
    CHECK_FAILS(load_version_1(context, SALF_POLICY_LISA, 9, 2, false), SALF_E_VERSION, "turns of 2 steps");
    CHECK_FAILS(load_version_1(context, SALF_POLICY_LIFT, 3, 1, false), SALF_E_VERSION, "version 1");
    CHECK_FAILS(load_version_1(context, SALF_POLICY_LIFT, 8, 3, false), SALF_E_MISMATCH, "interval is 3 in the blob");
    salf_context_destroy(context);
}
END_TEST

/* What a handle saves is described once, for both directions, so that a layout that changes passes every round trip.
 * Here the bytes are pinned: of a plan of each matching in the middle of a task. */
START_TEST(layouts_of_blobs_stay) {
    static const struct {
        int32_t matching, assignment, full_batches;
        uint64_t size, hash;
    } pinned[] = {
        {SALF_MATCH_ONLINE, 0, 0, 264, 0x7fd72ddd144744f1},
        {SALF_MATCH_ONLINE, 0, 1, 304, 0xc7ff967155c1b091},
        {SALF_MATCH_OFFLINE, 0, 0, 216, 0x4a58ecde49ae3db6},
        {SALF_MATCH_OFFLINE, 0, 1, 216, 0xfed249d1c815da50},
        {SALF_MATCH_NONE, 0, 0, 176, 0x4231f6137b05ffad},
        {SALF_MATCH_STREAM, SALF_ASSIGN_RANDOM, 0, 320, 0x9af01d870afff4b5},
        {SALF_MATCH_STREAM, SALF_ASSIGN_EOF, 0, 464, 0x26fcf88e7a738c33},
    };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t k = 0; k < sizeof pinned / sizeof *pinned; k++) {
        const salf_planner_options o = {.struct_size = sizeof o,
                                        .matching = pinned[k].matching,
                                        .assignment = pinned[k].assignment,
                                        .full_batches = pinned[k].full_batches,
                                        .seed = 7};
        int32_t eof[20];
        uint8_t bytes[2048], accepted[20];
        uint64_t size = sizeof bytes;
        salf_planner *planner;
        CHECK_OK(salf_planner_create(&planner, context, 3, 20, &o));
        for (int i = 0; i < 20; i++) eof[i] = i % 3;
        if (o.matching == SALF_MATCH_OFFLINE) CHECK_OK(salf_planner_set_eof(planner, 0, 20, eof));
        for (int tasks = 0; tasks < 4; tasks++) {
            salf_task task;
            CHECK_OK(salf_planner_next(planner, 3, &task));
            const salf_trace trace = {.rows = task.n_data, .n_layers = 3, .eof = eof};
            if (task.kind == SALF_TASK_PROBE && o.matching == SALF_MATCH_STREAM)
                CHECK_OK(salf_planner_assign(planner, &trace, eof, &task));
            else if (task.kind == SALF_TASK_PROBE)
                CHECK_OK(salf_planner_report(planner, eof, task.n_data, accepted));
            if (tasks < 3) CHECK_OK(salf_planner_done(planner));
        }
        CHECK_OK(salf_planner_save(planner, bytes, &size));
        const uint64_t hash = slf_fnv1a(SLF_FNV_BEGIN, bytes, size);
        CHECK_EACH(size == pinned[k].size && hash == pinned[k].hash, "plan %zu: %llu bytes with hash %016llx", k,
                   (unsigned long long)size, (unsigned long long)hash);
        salf_planner_destroy(planner);
    }
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, basis_of_format_1);
    HARNESS_ADD(suite, planner_blob_of_version_2);
    HARNESS_ADD(suite, planner_blob_of_version_4);
    HARNESS_ADD(suite, planner_blob_of_version_1_is_refused);
    HARNESS_ADD(suite, stream_blob_of_version_3);
    HARNESS_ADD(suite, policy_blobs_of_versions_1_to_3);
    HARNESS_ADD(suite, autofreeze_of_version_2_is_refused);
    HARNESS_ADD(suite, policy_blobs_of_version_1_with_rounded_turns);
    HARNESS_ADD(suite, layouts_of_blobs_stay);
}
