/*
 * test_bounds.c - calls that a host can bound: each can be watched and ended at every point where it asks, and can then
 * be made again; a forked process uses and destroys what it inherited; small stacks suffice.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "harness.h"
#include "oracle.h"

/* ---- progress ---- */

/* Ends the n-th report after asked was set to 0; notes what it is told. */
typedef struct {
    int64_t end_at; /* -1: never */
    int64_t asked;
    char seen[2000]; /* the words that were reported, each once, in [] */
    pthread_t thread;
} watcher;

static int32_t watch(void *user, const char *what, int64_t done, int64_t total) {
    watcher *w = user;
    char word[100];
    ck_assert(done >= 0 && done <= total);
    ck_assert(pthread_equal(pthread_self(), w->thread));
    snprintf(word, sizeof word, "[%s]", what);
    if (!strstr(w->seen, word)) strcat(w->seen, word);
    return w->asked++ == w->end_at;
}

enum { V = 9000, D = 24, ROWS = 40, M = 2, N_DATA = 600000 };

/* What every call below works with, and what it leaves. */
typedef struct {
    watcher watcher;
    harness_memory memory;
    salf_context *context;
    float *w, *states, *gradient;
    salf_model *model, *by_callback;
    salf_basis *basis, *table;
    salf_basis_builder *builder;
    salf_planner *planner;
    int32_t labels[ROWS];
    double result[ROWS * D]; /* of the call, to be compared */
} world;

static int32_t head_rows(void *user, int64_t first, int64_t count, float *out) {
    memcpy(out, (const float *)user + first * D, (size_t)(count * D) * sizeof *out);
    return 0;
}

static void make_world(world *x, int32_t backend, int32_t threads) {
    x->watcher = (watcher){.end_at = -1, .thread = pthread_self()};
    x->memory = (harness_memory){.fail_at = -1};
    const salf_context_options o = {.struct_size = sizeof o,
                                    .backend = backend,
                                    .threads = threads,
                                    .workspace_limit = 256 << 10, /* so that walks have several blocks */
                                    .alloc = harness_alloc,
                                    .free = harness_free,
                                    .alloc_user = &x->memory,
                                    .progress = watch,
                                    .progress_user = &x->watcher,
                                    .progress_interval = -1};
    CHECK_OK(salf_context_create(&x->context, &o));
    x->w = malloc(V * D * sizeof *x->w);
    x->states = malloc(ROWS * D * sizeof *x->states);
    x->gradient = calloc(ROWS * D, sizeof *x->gradient);
    oracle_head(x->w, V, D, 10, 7);
    uint64_t seed = 3;
    for (int i = 0; i < ROWS * D; i++) x->states[i] = (float)harness_normal(&seed);
    for (int i = 0; i < ROWS; i++) x->labels[i] = 11 * i;
    x->model = oracle_model(x->context, x->w, V, D, M);
    const salf_model_options m = {.struct_size = sizeof m,
                                  .n_layers = M,
                                  .hidden = D,
                                  .vocab = V,
                                  .head_rows = head_rows,
                                  .head_rows_user = x->w};
    CHECK_OK(salf_model_create(&x->by_callback, x->context, &m));
    salf_basis_options b = {.struct_size = sizeof b, .prepare = SALF_PREPARE_VOCABULARY};
    CHECK_OK(salf_basis_create(&x->basis, x->by_callback, x->labels, ROWS, &b));
    b.prepare = SALF_PREPARE_TABLE;
    CHECK_OK(salf_basis_create(&x->table, x->model, NULL, 0, &b));
    const salf_basis_options plain = {.struct_size = sizeof plain};
    CHECK_OK(salf_basis_builder_create(&x->builder, x->context, V, D, x->labels, ROWS, &plain));
    const salf_planner_options p = {.struct_size = sizeof p, .matching = SALF_MATCH_OFFLINE};
    CHECK_OK(salf_planner_create(&x->planner, x->context, M, N_DATA, &p));
    int32_t *eof = malloc(N_DATA * sizeof *eof);
    for (int i = 0; i < N_DATA; i++) eof[i] = i % 7 != 0; /* too few for layer 0, which draws */
    CHECK_OK(salf_planner_set_eof(x->planner, 0, N_DATA, eof));
    free(eof);
}

static void drop_world(world *x) {
    salf_planner_destroy(x->planner);
    salf_basis_builder_destroy(x->builder);
    salf_basis_destroy(x->table);
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->by_callback);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
    ck_assert_int_eq(x->memory.alive, 0);
    free(x->gradient);
    free(x->states);
    free(x->w);
}

/* Rows of a basis as the result, and its end. */
static salf_status taken(world *x, salf_basis *made, salf_status status) {
    ck_assert(status == SALF_OK || made == NULL);
    const salf_tensor out = oracle_view(x->result, SALF_F64, ROWS, D);
    if (status == SALF_OK) CHECK_OK(salf_basis_rows(made, x->labels, ROWS, &out));
    salf_basis_destroy(made);
    return status;
}

static salf_status make_basis(world *x, salf_model *model, int32_t prepare) {
    salf_basis *made = (salf_basis *)1;
    const salf_basis_options o = {.struct_size = sizeof o, .prepare = prepare};
    const salf_status status = salf_basis_create(&made, model, x->labels, ROWS, &o);
    return taken(x, made, status);
}

static salf_status call_basis(world *x) {
    return make_basis(x, x->model, SALF_PREPARE_LABELS);
}

static salf_status call_norms(world *x) {
    return make_basis(x, x->by_callback, SALF_PREPARE_VOCABULARY);
}

static salf_status call_table(world *x) {
    return make_basis(x, x->model, SALF_PREPARE_TABLE);
}

/* Eigenvectors: half of the singular values are dropped. */
static salf_status call_eigen(world *x) {
    salf_basis *made = (salf_basis *)1;
    const salf_basis_options o = {.struct_size = sizeof o, .rtol = 0.3};
    const salf_status status = salf_basis_create(&made, x->model, x->labels, ROWS, &o);
    return taken(x, made, status);
}

static salf_status call_refresh(world *x) {
    salf_basis *made = (salf_basis *)1;
    const salf_status status = salf_basis_refresh(&made, x->basis, x->model);
    return taken(x, made, status);
}

static salf_status call_fingerprint(world *x) {
    uint64_t fingerprint = 7;
    const salf_status status = salf_model_fingerprint(x->model, &fingerprint);
    ck_assert((fingerprint == 7) == (status != SALF_OK));
    x->result[0] = (double)fingerprint;
    return status;
}

static salf_status call_check(world *x) {
    return salf_basis_check(x->basis, x->model);
}

/* All rows in one block; nothing of it counts where it was ended. */
static salf_status call_builder(world *x) {
    const salf_tensor rows = oracle_view(x->w, SALF_F32, V, D);
    salf_status status = salf_basis_builder_add(x->builder, 0, &rows);
    if (status != SALF_OK) return status;
    x->watcher.end_at = -1; /* finish has a row of its own */
    salf_basis *made;
    CHECK_OK(salf_basis_builder_finish(&made, x->builder, NULL));
    CHECK_OK(taken(x, made, SALF_OK));
    salf_basis_builder_destroy(x->builder);
    const salf_basis_options plain = {.struct_size = sizeof plain};
    CHECK_OK(salf_basis_builder_create(&x->builder, x->context, V, D, x->labels, ROWS, &plain));
    return SALF_OK;
}

static salf_status call_finish(world *x) {
    const salf_tensor rows = oracle_view(x->w, SALF_F32, V, D);
    const salf_basis_options plain = {.struct_size = sizeof plain};
    const int64_t end_at = x->watcher.end_at;
    salf_basis_builder *builder;
    x->watcher.end_at = -1;
    CHECK_OK(salf_basis_builder_create(&builder, x->context, V, D, x->labels, ROWS, &plain));
    CHECK_OK(salf_basis_builder_add(builder, 0, &rows));
    x->watcher.asked = 0;
    x->watcher.end_at = end_at;
    salf_basis *made = (salf_basis *)1;
    const salf_status status = salf_basis_builder_finish(&made, builder, x->model);
    salf_basis_builder_destroy(builder);
    return taken(x, made, status);
}

/* A batch, whose call that was ended is made again. */
static salf_status run_probe(world *x, salf_basis *basis, int32_t metric, int32_t scores) {
    salf_probe *probe = (salf_probe *)1;
    const salf_probe_options o = {.struct_size = sizeof o, .metric = metric, .scores = scores, .lens = SALF_LENS_RAW};
    salf_status status, first = salf_probe_create(&probe, basis, &o);
    if (first != SALF_OK) {
        ck_assert_ptr_null(probe);
        return first;
    }
    const salf_tensor states = oracle_view(x->states, SALF_F32, ROWS, D);
    salf_trace trace = {.rows = 77};
#define AGAIN(call)                                  \
    do {                                             \
        if ((status = (call)) == SALF_E_CANCELLED) { \
            ck_assert_int_eq(trace.rows, 77);        \
            first = status;                          \
            status = (call);                         \
        }                                            \
        CHECK_OK(status);                            \
    } while (0)
    AGAIN(salf_probe_begin(probe, x->labels, ROWS));
    for (int32_t space = 0; space <= M; space++) AGAIN(salf_probe_observe(probe, space, &states, SALF_STATE_RAW));
    AGAIN(salf_probe_end(probe, &trace));
    memcpy(x->result, trace.deviations, ROWS * (M + 1) * sizeof *x->result);
    salf_probe_destroy(probe);
    return first;
}

static salf_status call_ce(world *x) {
    return run_probe(x, x->basis, SALF_METRIC_CE, SALF_SCORE_BASIS);
}

static salf_status call_rank(world *x) {
    return run_probe(x, x->table, SALF_METRIC_RANK, SALF_SCORE_BASIS);
}

static salf_status call_logits(world *x) {
    return run_probe(x, x->basis, SALF_METRIC_CE, SALF_SCORE_LOGITS);
}

static salf_status call_loss(world *x) {
    salf_loss *loss;
    const salf_loss_options o = {.struct_size = sizeof o, .kind = SALF_LOSS_CE};
    SLF_TRY(salf_loss_create(&loss, x->basis, &o));
    float losses[ROWS] = {7};
    const salf_tensor states = oracle_view(x->states, SALF_F32, ROWS, D), out = oracle_view(losses, SALF_F32, ROWS, 1),
                      gradient = oracle_view(x->gradient, SALF_F32, ROWS, D);
    const salf_status status = salf_loss_compute(loss, x->labels, &states, 1, &out, &gradient);
    if (status != SALF_OK) ck_assert_float_eq(losses[0], 7);
    for (int i = 0; i < ROWS; i++) x->result[i] = (double)losses[i] + (double)x->gradient[i * D];
    salf_loss_destroy(loss);
    return status;
}

static salf_status call_match(world *x) {
    const salf_status status = salf_planner_match(x->planner);
    salf_stage stage;
    CHECK_OK(salf_planner_get_stage(x->planner, 1, &stage));
    ck_assert((stage.data == NULL) == (status != SALF_OK));
    ck_assert(status == SALF_OK || stage.matched + stage.filled == 0);
    if (status == SALF_OK)
        for (int i = 0; i < ROWS; i++) x->result[i] = stage.data[i];
    return status;
}

/* 40 MiB of a vector, and strided rows: the file is as it was, and no other is left behind. */
static salf_status call_save(world *x) {
    static char folder[4096], path[4200], command[9000];
    static float *data;
    snprintf(folder, sizeof folder, "%s", harness_path("saved"));
    snprintf(path, sizeof path, "%s/t.safetensors", folder);
    if (!data) {
        data = calloc(10 << 20, sizeof *data);
        snprintf(command, sizeof command, "mkdir -p '%s'", folder);
        ck_assert_int_eq(system(command), 0);
    }
    snprintf(command, sizeof command, "echo before >'%s'", path);
    ck_assert_int_eq(system(command), 0);
    const salf_named_tensor tensors[] = {
        {.name = "long", .view = oracle_view(data, SALF_F32, 1, 10 << 20)},
        {.name = "rows", .view = {.data = data, .rows = 1000, .cols = 24, .row_stride = 30, .dtype = SALF_F32}}};
    const salf_status status = salf_tensors_save(x->context, path, tensors, 2, NULL, 0);
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    char head[7] = "";
    ck_assert_uint_eq(fread(head, 1, 6, file), 6);
    fclose(file);
    ck_assert((strcmp(head, "before") == 0) == (status != SALF_OK));
    snprintf(command, sizeof command, "test \"$(ls '%s')\" = t.safetensors", folder);
    ck_assert_int_eq(system(command), 0);
    return status;
}

static salf_status call_load(world *x) {
    char path[4096];
    snprintf(path, sizeof path, "%s", harness_path("table.safetensors"));
    const int64_t end_at = x->watcher.end_at;
    x->watcher.end_at = -1;
    if (access(path, F_OK) != 0) CHECK_OK(salf_basis_save(x->table, path));
    x->watcher.end_at = end_at;
    x->watcher.asked = 0;
    salf_basis *made = (salf_basis *)1;
    const salf_status status = salf_basis_load(&made, x->context, path, x->model);
    return taken(x, made, status);
}

/* A folder with two saves, of which the first is the larger. */
static salf_status call_checkpoint(world *x) {
    static const salf_identity none = {.name = "test", .value = ""};
    static float *data;
    char path[4096];
    snprintf(path, sizeof path, "%s", harness_path("run"));
    salf_checkpoint *made = NULL;
    if (!data) { /* 20 MiB, more than is hashed before the host is asked again */
        data = calloc(5 << 20, sizeof *data);
        const salf_named_tensor tensor = {.name = "long", .view = oracle_view(data, SALF_F32, 1, 5 << 20)};
        const salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &tensor, .n_tensors = 1};
        const int64_t end_at = x->watcher.end_at;
        x->watcher.end_at = -1;
        CHECK_OK(salf_checkpoint_open(&made, x->context, path, &none, 1));
        for (int i = 0; i < 2; i++) CHECK_OK(salf_checkpoint_save(made, &content));
        salf_checkpoint_destroy(made);
        x->watcher.end_at = end_at;
        x->watcher.asked = 0;
    }
    made = NULL;
    const salf_status status = salf_checkpoint_open(&made, x->context, path, &none, 1);
    ck_assert((made == NULL) == (status != SALF_OK));
    salf_checkpoint_info info = {.struct_size = sizeof info};
    if (made) CHECK_OK(salf_checkpoint_get_info(made, &info));
    x->result[0] = (double)info.saves;
    salf_checkpoint_destroy(made);
    return status;
}

/* Its file of tensors, by a context that reads files and maps none. */
static salf_status call_read(world *x) {
    char path[4096];
    snprintf(path, sizeof path, "%s", harness_path("run/checkpoint-1.safetensors"));
    salf_context_options o = {.struct_size = sizeof o,
                              .backend = SALF_BACKEND_REFERENCE,
                              .read_files = 1,
                              .progress = watch,
                              .progress_user = &x->watcher,
                              .progress_interval = -1};
    salf_context *context;
    salf_tensors *made = NULL;
    CHECK_OK(salf_context_create(&context, &o));
    const salf_status status = salf_tensors_open(&made, context, path);
    ck_assert((made == NULL) == (status != SALF_OK));
    x->result[0] = (double)salf_tensors_count(made);
    salf_tensors_destroy(made);
    salf_context_destroy(context);
    return status;
}

static const struct {
    const char *name, *words; /* what is reported, at least */
    salf_status (*call)(world *x);
} calls[] = {{"basis", "[Gram matrix][basis rows]", call_basis},
             {"norms", "[norms]", call_norms},
             {"table", "[table]", call_table},
             {"eigenvectors", "[Gram matrix]", call_eigen},
             {"refresh", "[Gram matrix]", call_refresh},
             {"fingerprint", "[fingerprint]", call_fingerprint},
             {"check", "[fingerprint]", call_check},
             {"builder", "[Gram matrix]", call_builder},
             {"finish", "[fingerprint]", call_finish},
             {"ce", "[scores]", call_ce},
             {"rank", "[scores]", call_rank},
             {"logits", "[scores]", call_logits},
             {"loss", "[scores]", call_loss},
             {"save", "[bytes]", call_save},
             {"load", "[table]", call_load},
             {"checkpoint", "[checksum]", call_checkpoint},
             {"read", "[reading]", call_read},
             {"match", "[eof][order by eof][matching][drawing]", call_match}};

/* Every call, ended at its first report, its second, and so on, until it is not asked so often: SALF_E_CANCELLED, nothing
 * written, nothing leaks; made again it gives what it gives when nobody ends it. */
static void end_everywhere(int32_t backend, int32_t threads) {
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        static world x;
        double expected[ROWS * D];
        make_world(&x, backend, threads);
        for (int64_t n = 0;; n++) {
            const int64_t alive = x.memory.alive;
            x.watcher.end_at = n;
            x.watcher.asked = 0;
            memset(x.result, 0, sizeof x.result);
            const salf_status status = calls[c].call(&x);
            if (status == SALF_OK) {
                CHECK_EACH(n > 0, "%s never asks", calls[c].name);
                break;
            }
            CHECK_EACH(status == SALF_E_CANCELLED, "%s: %s", calls[c].name, salf_last_error());
            CHECK_EACH(strstr(salf_last_error(), "cancelled by the host at"), "%s", salf_last_error());
            CHECK_EACH(x.memory.alive == alive || calls[c].call == call_match, "%s leaks %lld", calls[c].name,
                       (long long)(x.memory.alive - alive));
        }
        memcpy(expected, x.result, sizeof expected);
        for (const char *word = calls[c].words; *word; word += strcspn(word, "]") + 1) {
            char one[100];
            snprintf(one, sizeof one, "%.*s", (int)strcspn(word, "]") + 1, word);
            CHECK_EACH(strstr(x.watcher.seen, one), "%s: %s lacks %s", calls[c].name, x.watcher.seen, one);
        }
        drop_world(&x);
        /* the same by a host that listens to nothing */
        make_world(&x, backend, threads);
        memset(x.result, 0, sizeof x.result);
        CHECK_OK(calls[c].call(&x));
        CHECK_EACH(memcmp(expected, x.result, sizeof expected) == 0, "%s: another result after it was ended",
                   calls[c].name);
        drop_world(&x);
    }
}

START_TEST(calls_end_where_the_host_wants_and_can_be_made_again) {
    end_everywhere(SALF_BACKEND_CPU, 0);
    end_everywhere(SALF_BACKEND_CPU, 2);
}
END_TEST

START_TEST(reports_come_at_a_bounded_rate) {
    watcher w = {.end_at = -1, .thread = pthread_self()};
    salf_context_options o = {.struct_size = sizeof o,
                              .backend = SALF_BACKEND_REFERENCE,
                              .progress = watch,
                              .progress_user = &w,
                              .progress_interval = 3600000};
    salf_context *context;
    CHECK_OK(salf_context_create(&context, &o));
    CHECK_OK(slf_proceed(context, "first", 0, 1)); /* of a thread: nothing was reported yet */
    for (int i = 0; i < 1000; i++) CHECK_OK(slf_proceed(context, "more", i, 1000));
    ck_assert_int_eq(w.asked, 1);
    ck_assert_str_eq(w.seen, "[first]");
    salf_context_destroy(context);
    o.progress_interval = -2;
    CHECK_FAILS(salf_context_create(&context, &o), SALF_E_ARGUMENT, "progress_interval is -2");
    o.read_files = 2;
    o.progress_interval = 0;
    CHECK_FAILS(salf_context_create(&context, &o), SALF_E_ARGUMENT, "read_files is 2");
    o.read_files = 0;
    /* 0 is some tenth of a second: a call of many blocks does not ask for each */
    w.asked = 0;
    o.progress_interval = 0;
    CHECK_OK(salf_context_create(&context, &o));
    for (int i = 0; i < 100000; i++) CHECK_OK(slf_proceed(context, "more", i, 100000));
    ck_assert_int_lt(w.asked, 1000);
    salf_context_destroy(context);
}
END_TEST

/* ---- threads of BLAS ---- */

/* Large enough for threads: a block of the Gram matrix is 2^27 multiply-adds. */
enum { LARGE_V = 4096, LARGE_D = 256 };
static float large_head[LARGE_V * LARGE_D];

/* A thread that makes bases, and what it sees of BLAS inside of its calls. */
typedef struct {
    int32_t asked;
    int64_t d;
    int least, most; /* threads while its calls run */
    int set;         /* by the host in the middle of a call; 0: not */
} user_of_blas;

__attribute__((weak)) int openblas_get_num_threads(void); /* NULL where another BLAS serves */
__attribute__((weak)) void openblas_set_num_threads(int n);

static _Thread_local user_of_blas *inside;

/* In place of that of BLAS, which it calls: this is how the test looks into a product of the library. */
void cblas_dsyrk(int order, int uplo, int trans, int n, int k, double alpha, const double *a, int lda, double beta,
                 double *c, int ldc);
void cblas_dsyrk(int order, int uplo, int trans, int n, int k, double alpha, const double *a, int lda, double beta,
                 double *c, int ldc) {
    union {
        void *symbol;
        void (*call)(int, int, int, int, int, double, const double *, int, double, double *, int);
    } real = {.symbol = dlsym(RTLD_NEXT, "cblas_dsyrk")};
    if (inside) {
        const int now = openblas_get_num_threads();
        inside->least = SLF_MIN(inside->least, now);
        inside->most = SLF_MAX(inside->most, now);
        if (inside->set) openblas_set_num_threads(inside->set);
    }
    real.call(order, uplo, trans, n, k, alpha, a, lda, beta, c, ldc);
}

static void *make_bases(void *user) {
    user_of_blas *u = user;
    const salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_CPU, .threads = u->asked};
    salf_context *context;
    inside = u;
    CHECK_OK(salf_context_create(&context, &o));
    salf_model *model = oracle_model(context, large_head, LARGE_V, u->d, 2);
    u->least = 1000;
    u->most = 0;
    for (int i = 0; i < 3; i++) {
        salf_basis_builder *builder;
        CHECK_OK(salf_basis_builder_create(&builder, context, LARGE_V, u->d, NULL, 0, NULL));
        const salf_tensor rows = oracle_view(large_head, SALF_F32, LARGE_V, u->d);
        CHECK_OK(salf_basis_builder_add(builder, 0, &rows));
        salf_basis_builder_destroy(builder);
    }
    salf_model_destroy(model);
    salf_context_destroy(context);
    inside = NULL;
    return NULL;
}

START_TEST(blas_never_has_more_threads_than_asked_for) {
    uint64_t seed = 5;
    for (int i = 0; i < LARGE_V * LARGE_D; i++) large_head[i] = (float)harness_normal(&seed);
    if (!openblas_set_num_threads) return; /* no count to be had */
    openblas_set_num_threads(4);
    if (openblas_get_num_threads() != 4) return; /* a BLAS that was built for fewer */
    const struct {
        int32_t asked;
        int64_t d;
        int host, expected;
    } cases[] = {{0, LARGE_D, 4, 4}, {2, LARGE_D, 4, 2}, {4, LARGE_D, 1, 1}, {9, LARGE_D, 4, 4},
                 {0, 8, 4, 1},       {3, 8, 4, 1},       {1, LARGE_D, 4, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        user_of_blas u = {.asked = cases[c].asked, .d = cases[c].d};
        openblas_set_num_threads(cases[c].host);
        make_bases(&u);
        ck_assert_int_eq(u.least, cases[c].expected);
        ck_assert_int_eq(u.most, cases[c].expected);
        ck_assert_int_eq(openblas_get_num_threads(), cases[c].host);
    }
    /* contexts with other numbers at the same time: none has more than its own, and the host's number comes back */
    openblas_set_num_threads(4);
    user_of_blas users[3] = {{.asked = 3, .d = LARGE_D}, {.asked = 2, .d = LARGE_D}, {.asked = 0, .d = LARGE_D}};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, make_bases, &users[i]);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    ck_assert_int_le(users[0].most, 3);
    ck_assert_int_le(users[1].most, 2);
    ck_assert_int_eq(openblas_get_num_threads(), 4);
    /* what the host sets while a call runs is its wish */
    user_of_blas setting = {.asked = 2, .d = LARGE_D, .set = 3};
    make_bases(&setting);
    ck_assert_int_eq(openblas_get_num_threads(), 3);
}
END_TEST

/* ---- small stacks ---- */

/* The calls above, and those of a model that is opened, of plans, policies and costs. */
static void *call_everything(void *user) {
    world *x = user;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) CHECK_OK(calls[c].call(x));
    const char *folder = harness_shared("models/stories260k");
    salf_model *model = NULL;
    if (folder) CHECK_OK(salf_model_open(&model, x->context, folder, NULL));
    salf_model_destroy(model);
    salf_tensors *tensors;
    CHECK_OK(salf_tensors_open(&tensors, x->context, "tests/gguf/types.gguf"));
    salf_tensors_destroy(tensors);
    /* JSON as deep as is read, and deeper */
    FILE *file = fopen(harness_path("deep.safetensors.index.json"), "w");
    ck_assert_ptr_nonnull(file);
    fputs("{\"weight_map\":", file);
    for (int i = 0; i < 100000; i++) fputs("[{\"a\":", file);
    fclose(file);
    CHECK_FAILS(salf_tensors_open(&tensors, x->context, harness_path("deep.safetensors.index.json")), SALF_E_CORRUPT,
                "nested");
    salf_planner *planner;
    salf_policy *policy;
    salf_task task;
    const salf_planner_options p = {.struct_size = sizeof p, .matching = SALF_MATCH_STREAM};
    CHECK_OK(salf_planner_create(&planner, x->context, M, 1000, &p));
    CHECK_OK(salf_planner_next(planner, 500, &task));
    const salf_policy_options o = {.struct_size = sizeof o, .planner = planner};
    CHECK_OK(salf_policy_create(&policy, x->context, SALF_POLICY_BUDGET, M, &o));
    salf_decision decision = {.struct_size = sizeof decision};
    const salf_observation seen = {.struct_size = sizeof seen};
    CHECK_OK(salf_policy_decide(policy, &seen, &decision));
    static uint8_t bytes[100000];
    uint64_t size = sizeof bytes;
    CHECK_OK(salf_planner_save(planner, bytes, &size));
    CHECK_OK(salf_planner_load(planner, bytes, size));
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_cost cost = {.struct_size = sizeof cost};
    const salf_cost_options c = {.struct_size = sizeof c,
                                 .n_layers = M,
                                 .hidden = 8,
                                 .ffn_hidden = 8,
                                 .vocab = 8,
                                 .n_heads = 2,
                                 .rows = 1,
                                 .row_tokens = 1};
    CHECK_OK(salf_cost_estimate(&c, &cost));
    return NULL;
}

/* The C library takes the thread-local memory of all libraries from a thread's stack, and OpenBLAS 0.3.21 has 60 KiB of
 * it: with it no thread of 64 KiB can be made at all, and one of 128 KiB has as much for calls as this needs. */
START_TEST(stacks_of_64_KiB_suffice) {
    const struct {
        int32_t backend, threads;
    } cases[] = {{SALF_BACKEND_CPU, 0}, {SALF_BACKEND_CPU, 2}, {SALF_BACKEND_REFERENCE, 0}};
    for (size_t i = 0; i < 3; i++) {
        static world x;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        ck_assert_int_eq(pthread_attr_setstacksize(&attributes, 128 << 10), 0);
        make_world(&x, cases[i].backend, cases[i].threads);
        ck_assert_int_eq(pthread_create(&x.watcher.thread, &attributes, call_everything, &x), 0);
        pthread_join(x.watcher.thread, NULL);
        pthread_attr_destroy(&attributes);
        drop_world(&x);
    }
}
END_TEST

/* ---- fork ---- */

static void count_up(void *user, int64_t first, int64_t last) {
    int64_t *sum = user;
    for (int64_t i = first; i < last; i++) __atomic_fetch_add(sum, i, __ATOMIC_RELAXED);
}

/* In the child: loops are whole, a basis is that of the parent, and everything can be destroyed. */
static int in_child(world *x, const double *expected) {
    alarm(60); /* of the clock, as a process that waits for ever uses no other time */
    int64_t sum = 0;
    slf_parallel_for(x->context, 1000, 1, count_up, &sum);
    if (sum != 499500) return 1;
    memset(x->result, 0, sizeof x->result);
    if (call_basis(x) != SALF_OK || memcmp(expected, x->result, sizeof x->result) != 0) return 2;
    if (call_ce(x) != SALF_OK) return 3;
    drop_world(x);
    return 0;
}

static atomic_int loops_run;

static void *run_loops(void *context) {
    int64_t sum = 0;
    for (int i = 0; i < 200000 && loops_run; i++) slf_parallel_for(context, 1000, 1, count_up, &sum);
    return NULL;
}

START_TEST(a_forked_process_uses_and_destroys_what_it_inherited) {
    for (int32_t threads = 0; threads <= 3; threads++)
        for (int busy = 0; busy < 2; busy++) { /* another thread keeps the workers at work while the process forks */
            static world x;
            make_world(&x, SALF_BACKEND_CPU, threads);
            CHECK_OK(call_basis(&x));
            double expected[ROWS * D];
            memcpy(expected, x.result, sizeof expected);
            pthread_t other;
            loops_run = busy;
            if (busy) pthread_create(&other, NULL, run_loops, x.context);
            for (int again = 0; again < (busy ? 10 : 1); again++) {
                nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
                const pid_t child = fork();
                if (child == 0) _exit(in_child(&x, expected));
                int status;
                ck_assert_int_eq(waitpid(child, &status, 0), child);
                ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "threads %d: the child ended with %x",
                              (int)threads, (unsigned)status);
            }
            loops_run = 0;
            if (busy) pthread_join(other, NULL);
            /* and the parent goes on */
            CHECK_OK(call_basis(&x));
            ck_assert(memcmp(expected, x.result, sizeof expected) == 0);
            drop_world(&x);
        }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, calls_end_where_the_host_wants_and_can_be_made_again);
    HARNESS_ADD(suite, reports_come_at_a_bounded_rate);
    HARNESS_ADD(suite, blas_never_has_more_threads_than_asked_for);
    HARNESS_ADD(suite, stacks_of_64_KiB_suffice);
    HARNESS_ADD(suite, a_forked_process_uses_and_destroys_what_it_inherited);
}
