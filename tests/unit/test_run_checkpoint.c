/* Checkpoints of a run: two generations, every turned bit found, who holds the lock, and no run that goes on with
 * another's state. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/core.h"
#include "unit/files.h"
#include "unit/harness.h"

enum { LAYERS = 4, DATA = 40 };

static char *folder;
static salf_context *context;

static void begin(const char *name) {
    folder = files_path(name);
    context = harness_context(SALF_BACKEND_REFERENCE, NULL);
}

static void end(void) {
    salf_context_destroy(context);
    free(folder);
}

static const char *in(const char *name) {
    static char paths[4][4096];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int exists(const char *name) {
    struct stat about;
    return stat(in(name), &about) == 0;
}

/* A host's state: a matrix inside a wider one, and counters. */
typedef struct state {
    float weights[3][4];
    int64_t counters[2];
    salf_named_tensor tensors[2];
    salf_planner *planner;
    salf_policy *policy;
    salf_checkpoint_content content;
} state;

static void make_state(state *s, float value) {
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 4; c++) s->weights[r][c] = value + (float)(4 * r + c);
    s->counters[0] = (int64_t)value;
    s->counters[1] = -1;
    s->tensors[0] = (salf_named_tensor){.name = "weights", .view = slf_tensor_host(s->weights, SALF_F32, 3, 2)};
    s->tensors[0].view.row_stride = 4;
    s->tensors[1] = (salf_named_tensor){.name = "counters", .n_dims = 1, .shape = {2}};
    s->tensors[1].view = slf_tensor_host(s->counters, SALF_I64, 1, 2);
    salf_planner_options plan = {.struct_size = sizeof plan, .seed = 7, .matching = SALF_MATCH_ONLINE};
    CHECK_OK(salf_planner_create(&s->planner, context, LAYERS, DATA, &plan));
    salf_policy_options policy = {.struct_size = sizeof policy, .planner = s->planner};
    CHECK_OK(salf_policy_create(&s->policy, context, SALF_POLICY_BUDGET, LAYERS, &policy));
    s->content = (salf_checkpoint_content){.struct_size = sizeof s->content,
                                           .tensors = s->tensors,
                                           .n_tensors = 2,
                                           .policy = s->policy,
                                           .planner = s->planner};
}

static void free_state(state *s) {
    salf_policy_destroy(s->policy);
    salf_planner_destroy(s->planner);
}

static const salf_identity made_of[] = {{"seed", "42", 0}, {"data", "d/train.tsv", 77}};

static salf_checkpoint *opened(void) {
    salf_checkpoint *c;
    CHECK_OK(salf_checkpoint_open(&c, context, folder, made_of, 2));
    return c;
}

static salf_checkpoint_info info_of(const salf_checkpoint *c) {
    salf_checkpoint_info info;
    salf_options_init(&info, sizeof info);
    CHECK_OK(salf_checkpoint_get_info(c, &info));
    return info;
}

#define OPEN_FAILS(identities, n, status, words)                                                  \
    do {                                                                                          \
        salf_checkpoint *open_ = (salf_checkpoint *)&open_;                                       \
        CHECK_FAILS(salf_checkpoint_open(&open_, context, folder, identities, n), status, words); \
        ck_assert_ptr_null(open_);                                                                \
    } while (0)

START_TEST(round_trip) {
    begin("round");
    state a, b;
    make_state(&a, 5);
    salf_checkpoint *c = opened();
    salf_checkpoint_info info = info_of(c);
    ck_assert(info.locked == 1 && info.saves == 0 && !info.tensors && !info.damage);
    CHECK_FAILS(salf_checkpoint_load(c, &a.content), SALF_E_NOT_FOUND, folder);
    salf_task task;
    salf_options_init(&task, sizeof task);
    CHECK_OK(salf_planner_next(a.planner, 3, &task));
    const char *const pairs[] = {"epoch", "3"};
    a.content.metadata = pairs;
    a.content.n_metadata = 1;
    CHECK_OK(salf_checkpoint_save(c, &a.content));
    CHECK_OK(salf_checkpoint_save(c, &a.content));
    info = info_of(c);
    ck_assert(info.saves == 2 && !info.tensors && !info.damage);
    CHECK_FAILS(salf_checkpoint_load(c, &a.content), SALF_E_SEQUENCE, "since it was opened");
    salf_checkpoint_destroy(c);
    ck_assert(exists("checkpoint-0.safetensors") && exists("checkpoint-1.safetensors"));

    make_state(&b, 100);
    c = opened();
    info = info_of(c);
    ck_assert(info.saves == 2 && info.tensors && !info.damage);
    ck_assert_str_eq(salf_tensors_metadata(info.tensors, "epoch"), "3");
    CHECK_OK(salf_checkpoint_load(c, &b.content));
    for (int r = 0; r < 3; r++)
        for (int k = 0; k < 4; k++) /* what lies beside the matrix stays */
            ck_assert_float_eq(b.weights[r][k], (k < 2 ? 5.0f : 100.0f) + (float)(4 * r + k));
    ck_assert(b.counters[0] == 5 && b.counters[1] == -1);
    uint8_t bytes[2][4096];
    uint64_t sizes[2] = {4096, 4096};
    CHECK_OK(salf_planner_save(a.planner, bytes[0], &sizes[0]));
    CHECK_OK(salf_planner_save(b.planner, bytes[1], &sizes[1]));
    ck_assert(sizes[0] == sizes[1] && memcmp(bytes[0], bytes[1], sizes[0]) == 0);
    salf_checkpoint_destroy(c);
    salf_checkpoint_destroy(NULL);
    free_state(&a);
    free_state(&b);
    end();
}
END_TEST

/* Nothing of the host's memory changes when something does not fit. */
START_TEST(what_does_not_fit_is_named) {
    begin("misfit");
    state a, b;
    make_state(&a, 5);
    make_state(&b, 9);
    salf_checkpoint *c = opened();
    CHECK_OK(salf_checkpoint_save(c, &a.content));
    salf_checkpoint_destroy(c);
    c = opened();
    state kept = b;
#define MISFIT(change, status, words)                                    \
    do {                                                                 \
        change;                                                          \
        CHECK_FAILS(salf_checkpoint_load(c, &b.content), status, words); \
        ck_assert_mem_eq(b.weights, kept.weights, sizeof b.weights);     \
        memcpy(b.tensors, kept.tensors, sizeof b.tensors);               \
        b.content = kept.content;                                        \
    } while (0)
    MISFIT(b.tensors[1].name = "none", SALF_E_NOT_FOUND, "'none'");
    MISFIT(b.tensors[1].name = NULL, SALF_E_ARGUMENT, "has no name");
    MISFIT(b.tensors[1].shape[0] = 1, SALF_E_SHAPE, "'counters'");
    MISFIT(b.tensors[1].n_dims = 0, SALF_E_SHAPE, "'counters'");
    MISFIT(b.tensors[1].n_dims = -1, SALF_E_SHAPE, "'counters'");
    MISFIT(b.tensors[1].n_dims = 99, SALF_E_SHAPE, "'counters'");
    MISFIT(b.tensors[0].view.rows = 2, SALF_E_SHAPE, "[2][2]");
    MISFIT(b.tensors[0].view.row_stride = 1, SALF_E_SHAPE, "weights: row stride 1");
    MISFIT(b.tensors[0].view.row_stride = INT64_MIN, SALF_E_OVERFLOW, "weights: [3][2]");
    MISFIT(b.tensors[1].view.dtype = SALF_F64, SALF_E_DTYPE, "'counters'");
    MISFIT(b.tensors[1].view.data = NULL, SALF_E_NULL, "'counters'");
    MISFIT(b.tensors[1].view.memory = SALF_MEMORY_DEVICE, SALF_E_ARGUMENT, "host memory");
    MISFIT(b.content.n_tensors = -1, SALF_E_ARGUMENT, "-1 tensors");
    MISFIT(b.content.tensors = NULL, SALF_E_ARGUMENT, "2 tensors");
    MISFIT(b.content.struct_size = 3, SALF_E_STRUCT, "salf_checkpoint_content");
    MISFIT(b.content.reserved = 1, SALF_E_ARGUMENT, "reserved is 1");
    MISFIT(b.tensors[1].reserved = 2, SALF_E_ARGUMENT, "reserved of a tensor is 2");
    salf_planner *other;
    CHECK_OK(salf_planner_create(&other, context, LAYERS, DATA + 1, NULL));
    MISFIT(b.content.planner = other, SALF_E_MISMATCH, "n_data");
    salf_planner_destroy(other);
    /* planner and policy, both or neither: the one that fits is as it was where the other does not */
    uint8_t bytes[4][4096];
    uint64_t sizes[4] = {4096, 4096, 4096, 4096};
    salf_task task;
    salf_policy *other_policy;
    CHECK_OK(salf_policy_create(&other_policy, context, SALF_POLICY_HALF, LAYERS + 1, NULL));
    CHECK_OK(salf_planner_create(&other, context, LAYERS, DATA + 1, NULL));
    CHECK_OK(salf_planner_next(b.planner, 2, &task));
    CHECK_OK(salf_planner_save(b.planner, bytes[0], &sizes[0]));
    CHECK_OK(salf_policy_save(b.policy, bytes[1], &sizes[1]));
    MISFIT(b.content.policy = other_policy, SALF_E_MISMATCH, "kind is 4 in the blob, 2");
    MISFIT(b.content.planner = other, SALF_E_MISMATCH, "n_data");
    CHECK_OK(salf_planner_save(b.planner, bytes[2], &sizes[2]));
    CHECK_OK(salf_policy_save(b.policy, bytes[3], &sizes[3]));
    for (int i = 0; i < 2; i++)
        ck_assert(sizes[i] == sizes[i + 2] && memcmp(bytes[i], bytes[i + 2], (size_t)sizes[i]) == 0);
    salf_policy_destroy(other_policy);
    salf_planner_destroy(other);
    CHECK_FAILS(salf_checkpoint_load(NULL, &b.content), SALF_E_NULL, "c");
    CHECK_FAILS(salf_checkpoint_load(c, NULL), SALF_E_NULL, "content");
    CHECK_OK(salf_checkpoint_load(c, &b.content));
    a.content.policy = NULL;
    a.content.planner = NULL;
    CHECK_OK(salf_checkpoint_save(c, &a.content));
    salf_checkpoint_destroy(c);
    c = opened();
    kept = b;
    MISFIT(b.content.policy = NULL, SALF_E_NOT_FOUND, "salf.planner");
    MISFIT(b.content.planner = NULL, SALF_E_NOT_FOUND, "salf.policy");

    /* what cannot be saved */
    const char *const pairs[] = {"salf.format", "x", NULL, NULL};
#define UNSAVED(change, status, words)                                   \
    do {                                                                 \
        change;                                                          \
        CHECK_FAILS(salf_checkpoint_save(c, &b.content), status, words); \
        memcpy(b.tensors, kept.tensors, sizeof b.tensors);               \
        b.content = kept.content;                                        \
    } while (0)
    UNSAVED(b.tensors[0].name = "salf.policy", SALF_E_ARGUMENT, "'salf.policy'");
    UNSAVED(b.tensors[0].name = NULL, SALF_E_ARGUMENT, "tensor 0");
    UNSAVED((b.content.metadata = pairs, b.content.n_metadata = 1), SALF_E_ARGUMENT, "'salf.format'");
    const char *const second[] = {"x", "y", "salf.mine", "x"};
    UNSAVED((b.content.metadata = second, b.content.n_metadata = 2), SALF_E_ARGUMENT, "'salf.mine'");
    UNSAVED((b.content.metadata = pairs + 2, b.content.n_metadata = 1), SALF_E_ARGUMENT, "metadata");
    UNSAVED(b.content.n_metadata = 1, SALF_E_ARGUMENT, "1 pairs");
    UNSAVED(b.content.n_tensors = -1, SALF_E_ARGUMENT, "-1 tensors");
    UNSAVED(b.content.reserved = -1, SALF_E_ARGUMENT, "reserved is -1");
    CHECK_FAILS(salf_checkpoint_save(NULL, &b.content), SALF_E_NULL, "c");
    CHECK_FAILS(salf_checkpoint_save(c, NULL), SALF_E_NULL, "content");
    ck_assert_int_eq((int)info_of(c).saves, 2);
    CHECK_FAILS(salf_checkpoint_get_info(c, NULL), SALF_E_NULL, "info");
    salf_checkpoint_destroy(c);
    free_state(&a);
    free_state(&b);
    end();
}
END_TEST

START_TEST(another_run_is_refused_in_words) {
    begin("another");
    state s;
    make_state(&s, 1);
    salf_checkpoint *c = opened();
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    salf_checkpoint_destroy(c);
    const salf_identity moved[] = {{"data", "elsewhere/\xff.tsv", 77}, {"seed", "42", 0}};
    CHECK_OK(salf_checkpoint_open(&c, context, folder, moved, 2)); /* the same data at another place */
    salf_checkpoint_destroy(c);
    const salf_identity seed[] = {{"seed", "43", 0}, made_of[1]}, data[] = {made_of[0], {"data", "d2", 78}};
    const salf_identity more[] = {made_of[0], made_of[1], {"rank", "8", 0}}, empty[] = {{"", "x", 0}};
    const salf_identity words[] = {made_of[0], {"data", "d/train.tsv", 0}}, wrong[] = {{"x", "\xff", 0}};
    const salf_identity hashed[] = {{"seed", "42", 5}, made_of[1]}, nameless[] = {{NULL, "x", 0}};
    OPEN_FAILS(seed, 2, SALF_E_MISMATCH, "was made with seed 42, this run has seed 43");
    OPEN_FAILS(data, 2, SALF_E_MISMATCH, "another data: the content of d2 is not what that of d/train.tsv was");
    OPEN_FAILS(more, 3, SALF_E_MISMATCH, "was made without rank 8, this run is with it");
    OPEN_FAILS(made_of, 1, SALF_E_MISMATCH, "was made with data d/train.tsv, this run is without it");
    OPEN_FAILS(words, 2, SALF_E_MISMATCH, "another data");
    OPEN_FAILS(hashed, 2, SALF_E_MISMATCH, "another seed");
    OPEN_FAILS(empty, 1, SALF_E_ARGUMENT, "identity 0");
    OPEN_FAILS(nameless, 1, SALF_E_ARGUMENT, "identity 0");
    OPEN_FAILS(wrong, 1, SALF_E_ARGUMENT, "'x' is not UTF-8");
    const salf_identity twice[] = {{"data", "a", 0}, {"rate", "1", 0}, {"data", "b", 0}}; /* which would count? */
    OPEN_FAILS(twice, 3, SALF_E_ARGUMENT, "two identities are called 'data'");
    OPEN_FAILS(made_of, -1, SALF_E_ARGUMENT, "-1 identities");
    OPEN_FAILS(NULL, 1, SALF_E_ARGUMENT, "1 identities");
    CHECK_FAILS(salf_checkpoint_open(NULL, context, folder, NULL, 0), SALF_E_NULL, "out");
    CHECK_FAILS(salf_checkpoint_open(&c, NULL, folder, NULL, 0), SALF_E_NULL, "context");
    CHECK_FAILS(salf_checkpoint_open(&c, context, NULL, NULL, 0), SALF_E_NULL, "folder");
    CHECK_FAILS(salf_checkpoint_open(&c, context, "/nonexistent/x", NULL, 0), SALF_E_IO, "/nonexistent/x");
    CHECK_FAILS(salf_checkpoint_open(&c, context, in("lock"), NULL, 0), SALF_E_IO, "Not a directory");
    salf_checkpoint_destroy(opened()); /* and the lock is free again after each */
    free_state(&s);
    end();
}
END_TEST

/* ---- damage ---- */

static void flip(const char *path, int64_t bit) {
    uint8_t byte;
    const int file = open(path, O_RDWR);
    ck_assert(pread(file, &byte, 1, (off_t)(bit / 8)) == 1);
    byte ^= (uint8_t)(1u << bit % 8);
    ck_assert(pwrite(file, &byte, 1, (off_t)(bit / 8)) == 1);
    close(file);
}

/* In memory where the machine has a folder there: it is some ten thousand writes. */
START_TEST(every_turned_bit_is_found) {
    begin("bits");
    char memory[] = "/dev/shm/salf-bits-XXXXXX", path[4096], command[64] = "";
    if (mkdtemp(memory)) {
        free(folder);
        folder = strdup(memory);
        snprintf(command, sizeof command, "rm -rf %s", memory);
    }
    state s;
    struct stat about;
    make_state(&s, 1);
    s.content.planner = NULL;
    salf_checkpoint *c = opened();
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    salf_checkpoint_destroy(c);
    snprintf(path, sizeof path, "%s", in("checkpoint-1.safetensors"));
    ck_assert_int_eq(stat(path, &about), 0);
    for (int64_t bit = 0; bit < 8 * (int64_t)about.st_size; bit++) {
        flip(path, bit);
        const salf_status status = salf_checkpoint_open(&c, context, folder, made_of, 2);
        CHECK_EACH(status == SALF_E_CORRUPT && strstr(salf_last_error(), "checkpoint-1.safetensors is damaged"),
                   "bit %d: %d, %s", (int)bit, (int)status, salf_last_error());
        flip(path, bit);
    }
    salf_checkpoint_destroy(opened());
    for (int64_t n = (int64_t)about.st_size - 1; n >= 0; n -= n > 64 ? 13 : 1) {
        ck_assert_int_eq(truncate(path, (off_t)n), 0);
        OPEN_FAILS(made_of, 2, SALF_E_CORRUPT, "is damaged");
    }
    if (*command) ck_assert_int_eq(system(command), 0);
    free_state(&s);
    end();
}
END_TEST

/* The second of two files that is damaged or lost costs one save and is told; a third save takes its place. */
START_TEST(the_older_is_used_where_the_newer_is_damaged) {
    begin("generations");
    state s, back;
    make_state(&s, 1);
    make_state(&back, 0);
    for (int lost = 0; lost < 3; lost++) {
        salf_checkpoint *c = opened();
        const int64_t before = info_of(c).saves;
        for (int i = 1; i <= 2; i++) {
            s.counters[0] = before + i;
            CHECK_OK(salf_checkpoint_save(c, &s.content));
        }
        salf_checkpoint_destroy(c);
        const char *newer = (before + 2) & 1 ? "checkpoint-1.safetensors" : "checkpoint-0.safetensors";
        if (lost == 0) flip(in(newer), 900);
        if (lost == 1) ck_assert_int_eq(truncate(in(newer), 100), 0);
        if (lost == 2) ck_assert_int_eq(unlink(in(newer)), 0);
        c = opened();
        const salf_checkpoint_info info = info_of(c);
        ck_assert_int_eq((int)info.saves, (int)before + 1);
        ck_assert_ptr_nonnull(info.damage);
        ck_assert_msg(strstr(info.damage, newer) != NULL, "%s", info.damage);
        CHECK_OK(salf_checkpoint_load(c, &back.content));
        ck_assert_int_eq((int)back.counters[0], (int)before + 1);
        CHECK_OK(salf_checkpoint_save(c, &s.content));
        ck_assert_ptr_null(info_of(c).damage);
        salf_checkpoint_destroy(c);
        salf_checkpoint_destroy(opened());
    }
    flip(in("checkpoint-0.safetensors"), 100);
    flip(in("checkpoint-1.safetensors"), 100);
    OPEN_FAILS(made_of, 2, SALF_E_CORRUPT, "holds no other");
    free_state(&s);
    free_state(&back);
    end();
}
END_TEST

/* A disk that cannot give back what was written: its read fails, where a mapping would end the process. Not static, as
 * the system's headers may have the function as an inline one. */
int unreadable; /* error of the reads of one file, told by its size */
off_t unreadable_size;

ssize_t pread(int descriptor, void *bytes, size_t n, off_t at) {
    struct stat about;
    if (unreadable && fstat(descriptor, &about) == 0 && about.st_size == unreadable_size) {
        errno = unreadable;
        return -1;
    }
    return syscall(SYS_pread64, descriptor, bytes, n, at);
}

START_TEST(what_a_disk_cannot_give_back_is_damage) {
    begin("unreadable");
    state s;
    char more[100] = "";
    const char *const pairs[] = {"note", more};
    make_state(&s, 0);
    salf_checkpoint *c = opened();
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    memset(more, 'x', sizeof more - 1); /* the newer is larger */
    s.content.metadata = pairs;
    s.content.n_metadata = 1;
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    salf_checkpoint_destroy(c);
    struct stat about;
    ck_assert_int_eq(stat(in("checkpoint-0.safetensors"), &about), 0);
    unreadable_size = about.st_size;
    unreadable = EIO;
    c = opened();
    ck_assert_int_eq(info_of(c).saves, 1);
    ck_assert_msg(strstr(info_of(c).damage, "its bytes cannot be read back") != NULL, "%s", info_of(c).damage);
    salf_checkpoint_destroy(c);
    unreadable = ENOMEM; /* of the system's, not of the file's: the newer save is there */
    CHECK_FAILS(salf_checkpoint_open(&c, context, folder, made_of, 2), SALF_E_NO_MEMORY, "cannot read");
    unreadable = 0;
    c = opened();
    ck_assert_int_eq(info_of(c).saves, 2);
    salf_checkpoint_destroy(c);
    free_state(&s);
    end();
}
END_TEST

/* A file whose hash is right and that is no checkpoint, of another version, or laid under the other's name. */
START_TEST(files_that_do_not_belong) {
    begin("foreign");
    state s;
    make_state(&s, 1);
    salf_checkpoint *c = opened();
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    salf_checkpoint_destroy(c);
    char path[4096];
    uint8_t bytes[16384];
    snprintf(path, sizeof path, "%s", in("checkpoint-1.safetensors"));
    const size_t n = files_read(path, bytes, sizeof bytes);
    const struct {
        const char *from, *to, *words;
        salf_status status;
    } changes[] = {{"\"salf.version\":\"1\"", "\"salf.version\":\"2\"", "has version 2", SALF_E_VERSION},
                   {"salf-checkpoint", "salf-checkpainx", "no checkpoint of a run", SALF_E_CORRUPT},
                   {"\"salf.saves\":\"1\"", "\"salf.saves\":\"2\"", "save '2'", SALF_E_CORRUPT},
                   {"\"salf.saves\":\"1\"", "\"salf.saves\":\"x\"", "save 'x'", SALF_E_CORRUPT},
                   {"\"salf.saves\":\"1\"", "\"salf.savex\":\"1\"", "save ''", SALF_E_CORRUPT}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        uint8_t changed[16384];
        memcpy(changed, bytes, n);
        const size_t length = strlen(changes[i].from);
        size_t at = 0;
        while (at + length < n && memcmp(changed + at, changes[i].from, length) != 0) at++;
        ck_assert_uint_lt(at + length, n);
        memcpy(changed + at, changes[i].to, length);
        const uint64_t hash = salf_hash(0, changed, n - 8);
        memcpy(changed + n - 8, &hash, 8);
        files_write(path, changed, n);
        OPEN_FAILS(made_of, 2, changes[i].status, changes[i].words);
    }
    files_write(path, bytes, n);
    ck_assert_int_eq(rename(path, in("checkpoint-0.safetensors")), 0);
    OPEN_FAILS(made_of, 2, SALF_E_CORRUPT, "belongs elsewhere");
    free_state(&s);
    end();
}
END_TEST

/* ---- other processes ---- */

START_TEST(one_process_at_a_time) {
    begin("lock");
    salf_checkpoint *c = opened();
    char words[64];
    snprintf(words, sizeof words, "is in use by process %ld on host ", (long)getpid());
    OPEN_FAILS(made_of, 2, SALF_E_BUSY, words);
    salf_checkpoint_destroy(c);
    /* A process that is killed leaves what it was writing, and no lock. */
    int pipes[2];
    ck_assert_int_eq(pipe(pipes), 0);
    const pid_t child = fork();
    if (child == 0) {
        salf_checkpoint *held;
        const int failed = salf_checkpoint_open(&held, context, folder, made_of, 2) != SALF_OK;
        files_write(in("checkpoint-1.safetensors.tmp.0123456789ab"), "part", 4);
        if (write(pipes[1], failed ? "-" : "+", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char said = 0;
    ck_assert(read(pipes[0], &said, 1) == 1 && said == '+');
    snprintf(words, sizeof words, "process %ld on", (long)child);
    OPEN_FAILS(made_of, 2, SALF_E_BUSY, words);
    ck_assert(exists("checkpoint-1.safetensors.tmp.0123456789ab")); /* it may still be writing */
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    files_write(in("lock"), "\xff\n", 2);
    files_write(in("mine.safetensors.tmp.0123456789ab"), "x", 1);
    c = opened();
    ck_assert(!exists("checkpoint-1.safetensors.tmp.0123456789ab") && exists("mine.safetensors.tmp.0123456789ab"));
    /* What stands in the lock is shown only as far as it is plain letters. */
    files_write(in("lock"), "\xff\n", 2);
    OPEN_FAILS(made_of, 2, SALF_E_BUSY, "in use by another process");
    salf_checkpoint_destroy(c);
    ck_assert_int_eq(unlink(in("lock")), 0);
    ck_assert_int_eq(symlink("/nonexistent", in("lock")), 0);
    OPEN_FAILS(made_of, 2, SALF_E_IO, "symbolic links");
    /* Without the second lock the folder is not had. */
    ck_assert_int_eq(unlink(in("lock")), 0);
    ck_assert_int_eq(unlink(in("lock.process")), 0);
    ck_assert_int_eq(mkdir(in("lock.process"), 0777), 0);
    OPEN_FAILS(made_of, 2, SALF_E_IO, "lock.process: Is a directory");
    ck_assert_int_eq(rmdir(in("lock.process")), 0);
    salf_checkpoint_destroy(opened());
    end();
}
END_TEST

/* Saves whenever it is asked to, and answers with the status. */
static void save_when_asked(salf_checkpoint *c, int asked, int answers) {
    const salf_checkpoint_content nothing = {.struct_size = sizeof nothing};
    char ask;
    while (read(asked, &ask, 1) == 1) {
        const salf_status status = salf_checkpoint_save(c, &nothing);
        if (write(answers, &status, sizeof status) != sizeof status) break;
    }
    salf_checkpoint_destroy(c);
    _exit(0);
}

static salf_status ask_to_save(int ask, int answers) {
    salf_status status = 1;
    ck_assert(write(ask, "?", 1) == 1 && read(answers, &status, sizeof status) == sizeof status);
    return status;
}

/* What a process has forked outlives it, and holds its descriptors. */
START_TEST(forked_processes_keep_nobody_out) {
    begin("forked");
    int ask[2], answers[2];
    ck_assert(pipe(ask) == 0 && pipe(answers) == 0);
    const pid_t child = fork();
    if (child == 0) {
        salf_checkpoint *held;
        if (salf_checkpoint_open(&held, context, folder, made_of, 2) != SALF_OK) _exit(1);
        const pid_t grandchild = fork();
        if (grandchild == 0) {
            close(ask[1]);
            save_when_asked(held, ask[0], answers[1]);
        }
        if (write(answers[1], &grandchild, sizeof grandchild) != sizeof grandchild) _exit(1);
        for (;;) pause();
    }
    char words[64];
    pid_t grandchild = 0;
    ck_assert(read(answers[0], &grandchild, sizeof grandchild) == sizeof grandchild && grandchild > 0);
    ck_assert_int_eq(ask_to_save(ask[1], answers[0]), SALF_E_BUSY); /* its parent is still there */
    snprintf(words, sizeof words, "process %ld on", (long)child);
    OPEN_FAILS(made_of, 2, SALF_E_BUSY, words);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    salf_checkpoint *c = opened();
    salf_checkpoint_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_checkpoint_get_info(c, &info));
    ck_assert_int_eq(info.locked, 1);
    snprintf(words, sizeof words, "process %ld on", (long)getpid());
    for (int i = 0; i < 2; i++) OPEN_FAILS(made_of, 2, SALF_E_BUSY, words); /* one that fails loses no lock */
    ck_assert_int_eq(ask_to_save(ask[1], answers[0]), SALF_E_BUSY);
    salf_checkpoint_destroy(c);
    ck_assert_int_eq(ask_to_save(ask[1], answers[0]), SALF_OK);
    snprintf(words, sizeof words, "process %ld on", (long)grandchild);
    OPEN_FAILS(made_of, 2, SALF_E_BUSY, words);
    /* The name alone opens nothing: nobody has that number, but its process may be another container's. */
    char name[200], host[100] = "";
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "process %ld on host %s\n", (long)child, host);
    files_write(in("lock"), name, strlen(name));
    snprintf(words, sizeof words, "process %ld on", (long)child);
    OPEN_FAILS(made_of, 2, SALF_E_BUSY, words);
    close(ask[1]); /* the grandchild ends */
    char end_of_file;
    close(answers[1]);
    ck_assert_int_eq(read(answers[0], &end_of_file, 1), 0);
    salf_checkpoint_destroy(opened());
    end();
}
END_TEST

/* A folder that is moved away, another one of its name, a lock that somebody has removed, a host in another place: each
 * might be another run's by now. */
START_TEST(a_folder_that_is_another_is_not_saved_to) {
    begin("moved");
    state s;
    salf_checkpoint *second;
    char *aside = files_path("aside"), here[4096];
    make_state(&s, 0);
    salf_checkpoint *c = opened();
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    /* 1. moved, and another run in its place */
    ck_assert_int_eq(rename(folder, aside), 0);
    CHECK_FAILS(salf_checkpoint_save(c, &s.content), SALF_E_IO, "is not the folder that was opened");
    second = opened();
    CHECK_FAILS(salf_checkpoint_save(c, &s.content), SALF_E_IO, "moved, removed or replaced");
    CHECK_OK(salf_checkpoint_save(second, &s.content));
    ck_assert(exists("checkpoint-1.safetensors") && !exists("checkpoint-0.safetensors"));
    /* 2. moved back: as if nothing had been */
    char *other = files_path("other");
    ck_assert_int_eq(rename(folder, other), 0);
    ck_assert_int_eq(rename(aside, folder), 0);
    CHECK_OK(salf_checkpoint_save(c, &s.content));
    ck_assert_int_eq(info_of(c).saves, 2);
    salf_checkpoint_destroy(second);
    /* 3. without the lock's file a second run comes in, and the first does not go on beside it */
    ck_assert_int_eq(unlink(in("lock")), 0);
    CHECK_FAILS(salf_checkpoint_save(c, &s.content), SALF_E_IO, "the file lock in it");
    second = opened();
    CHECK_FAILS(salf_checkpoint_save(c, &s.content), SALF_E_IO, "the file lock in it");
    salf_checkpoint_destroy(second);
    salf_checkpoint_destroy(c);
    /* 4. a host that changes its folder, with a name that is relative to it */
    char *whole = folder, *slash = strrchr(folder, '/');
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    *slash = 0;
    ck_assert_int_eq(chdir(whole), 0);
    folder = slash + 1;
    c = opened();
    ck_assert_int_eq(chdir(here), 0);
    CHECK_FAILS(salf_checkpoint_save(c, &s.content), SALF_E_IO, "is not the folder that was opened");
    ck_assert_int_ne(access(folder, F_OK), 0);
    salf_checkpoint_destroy(c);
    folder = whole;
    free(aside);
    free(other);
    free_state(&s);
    end();
}
END_TEST

START_TEST(a_save_that_fails_loses_nothing) {
    begin("fails");
    state s;
    make_state(&s, 1);
    static float large[65536];
    const salf_named_tensor big = {.name = "big", .view = slf_tensor_host(large, SALF_F32, 256, 256)};
    salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &big, .n_tensors = 1};
    salf_checkpoint *c = opened();
    for (int i = 0; i < 2; i++) CHECK_OK(salf_checkpoint_save(c, &s.content));
    struct rlimit old;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    const struct rlimit small = {.rlim_cur = 100000, .rlim_max = old.rlim_max};
    ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_FAILS(salf_checkpoint_save(c, &content), SALF_E_IO, "File too large");
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    ck_assert_int_eq((int)info_of(c).saves, 2);
    salf_checkpoint_destroy(c);
    c = opened();
    ck_assert(info_of(c).saves == 2 && !info_of(c).damage);
    CHECK_OK(salf_checkpoint_save(c, &content));
    ck_assert_int_eq((int)info_of(c).saves, 3);
    salf_checkpoint_destroy(c);
    free_state(&s);
    end();
}
END_TEST

/* ---- hashes, memory ---- */

START_TEST(hashes) {
    begin("hashes");
    const uint8_t bytes[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    uint64_t seen[21], hash;
    for (size_t n = 0; n <= 20; n++) {
        seen[n] = salf_hash(0, bytes, n);
        for (size_t k = 0; k < n; k++) ck_assert(seen[k] != seen[n]);
        files_write(in("f"), bytes, n);
        hash = 0;
        CHECK_OK(salf_hash_file(in("f"), &hash));
        ck_assert(hash == seen[n]);
    }
    ck_assert(salf_hash(1, bytes, 20) != seen[20]);
    ck_assert(salf_hash(0, "\0", 1) != seen[0]);
    ck_assert(salf_hash(0, NULL, 0) == seen[0] && salf_hash(0, NULL, 3) == seen[0]);
    ck_assert_msg(seen[20] == UINT64_C(0x79541aae28529201), "%llx: files hold this hash", (unsigned long long)seen[20]);
    hash = 5;
    ck_assert_int_eq(mkfifo(in("pipe"), 0600), 0);
    CHECK_FAILS(salf_hash_file(in("pipe"), &hash), SALF_E_IO, "not a regular file");
    CHECK_FAILS(salf_hash_file(folder, &hash), SALF_E_IO, "not a regular file");
    CHECK_FAILS(salf_hash_file(in("none"), &hash), SALF_E_NOT_FOUND, "none");
    CHECK_FAILS(salf_hash_file(NULL, &hash), SALF_E_NULL, "path");
    CHECK_FAILS(salf_hash_file(in("f"), NULL), SALF_E_NULL, "hash");
    ck_assert(hash == 5);
    end();
}
END_TEST

static salf_status life(harness_memory *memory, int32_t backend, void *user) {
    salf_context *own;
    salf_checkpoint *c = NULL;
    int64_t counters[2] = {1, 2};
    const salf_named_tensor t = {.name = "counters", .view = slf_tensor_host(counters, SALF_I64, 1, 2)};
    salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &t, .n_tensors = 1};
    salf_status status = harness_context_or_status(&own, backend, memory);
    if (status != SALF_OK) return status;
    salf_planner *planner = NULL;
    status = salf_planner_create(&planner, own, LAYERS, DATA, NULL);
    content.planner = planner;
    if (!status) status = salf_checkpoint_open(&c, own, user, made_of, 2);
    for (int i = 0; i < 2 && !status; i++) status = salf_checkpoint_save(c, &content);
    salf_checkpoint_destroy(c);
    c = NULL;
    if (!status) status = salf_checkpoint_open(&c, own, user, made_of, 2);
    if (!status) status = salf_checkpoint_load(c, &content);
    salf_checkpoint_destroy(c);
    salf_planner_destroy(planner);
    salf_context_destroy(own);
    return status;
}

START_TEST(memory_runs_out) {
    begin("memory");
    harness_fail_each_allocation(life, SALF_BACKEND_REFERENCE, folder);
    end();
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, round_trip);
    HARNESS_ADD(suite, what_does_not_fit_is_named);
    HARNESS_ADD(suite, another_run_is_refused_in_words);
    HARNESS_ADD(suite, every_turned_bit_is_found);
    HARNESS_ADD(suite, the_older_is_used_where_the_newer_is_damaged);
    HARNESS_ADD(suite, what_a_disk_cannot_give_back_is_damage);
    HARNESS_ADD(suite, files_that_do_not_belong);
    HARNESS_ADD(suite, one_process_at_a_time);
    HARNESS_ADD(suite, forked_processes_keep_nobody_out);
    HARNESS_ADD(suite, a_folder_that_is_another_is_not_saved_to);
    HARNESS_ADD(suite, a_save_that_fails_loses_nothing);
    HARNESS_ADD(suite, hashes);
    HARNESS_ADD(suite, memory_runs_out);
}
