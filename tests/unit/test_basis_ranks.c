/*
 * test_basis_ranks.c - the basis builder on three ranks (threads) with shards of very different sizes: after the
 * all-reduce each rank has the basis that one process makes of the whole head; a broken link shows.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { RANKS = 3, V = 61, D = 9, N_LABELS = 6, N_ROWS = 5 };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};
static const int32_t labels[N_LABELS] = {60, 0, 7, 31, 7, 58};
static const int32_t distinct[N_ROWS] = {0, 7, 31, 58, 60};

/* ---- collectives ---- */

typedef struct {
    pthread_barrier_t barrier;
    const void *parts[RANKS];
    int32_t broken_link; /* all_reduce fails from this call on, on all ranks; -1: never */
} group;

typedef struct {
    group *all;
    int32_t rank, backend;
    const float *w;
    int64_t vocab, hidden;
    int64_t first, rows; /* the shard */
    int64_t step;        /* rows of a block added */
    salf_basis_options options;
    int32_t seen_dtype, seen_operation, calls;
    /* results */
    salf_status reduced, finished;
    char message[512];
    uint64_t fingerprint;
    int64_t rank_of_head;
    double *out; /* [N_ROWS][hidden] */
} member;

static int32_t all_reduce(void *user, void *buffer, int64_t n, int32_t dtype, int32_t operation) {
    member *me = user;
    union {
        double real;
        int64_t whole;
    } *out = calloc((size_t)n, sizeof *out);
    me->seen_dtype = dtype;
    me->seen_operation = operation;
    me->all->parts[me->rank] = buffer;
    pthread_barrier_wait(&me->all->barrier);
    for (int r = 0; r < RANKS; r++)
        for (int64_t i = 0; i < n; i++) {
            const int64_t *whole = me->all->parts[r]; /* the agreement before the sum */
            const double *real = me->all->parts[r];
            if (dtype == SALF_F64) out[i].real += real[i];
            if (dtype == SALF_I64 && (r == 0 || whole[i] < out[i].whole)) out[i].whole = whole[i];
        }
    pthread_barrier_wait(&me->all->barrier); /* all have read */
    memcpy(buffer, out, (size_t)n * sizeof *out);
    free(out);
    const bool broken = me->all->broken_link >= 0 && me->calls >= me->all->broken_link;
    me->calls++;
    return broken ? 17 : 0;
}

/* ---- a rank ---- */

static salf_status add_shard(const member *me, salf_basis_builder *builder) {
    salf_status status = SALF_OK;
    for (int64_t at = 0; at < me->rows && status == SALF_OK; at += me->step) {
        const int64_t n = me->rows - at < me->step ? me->rows - at : me->step;
        const salf_tensor rows = oracle_view(me->w + (me->first + at) * me->hidden, SALF_F32, n, me->hidden);
        status = salf_basis_builder_add(builder, me->first + at, &rows);
    }
    return status;
}

static void take_results(member *me, const salf_basis *basis) {
    salf_basis_info info = {.struct_size = sizeof info};
    const salf_tensor out = oracle_view(me->out, SALF_F64, N_ROWS, me->hidden);
    me->finished = salf_basis_rows(basis, distinct, N_ROWS, &out);
    if (me->finished == SALF_OK) me->finished = salf_basis_get_info(basis, &info);
    me->fingerprint = info.fingerprint;
    me->rank_of_head = info.rank;
}

static void reduce_and_finish(member *me, salf_basis_builder *builder) {
    salf_basis *basis = NULL;
    me->reduced = salf_basis_builder_all_reduce(builder);
    if (me->reduced != SALF_OK) {
        strncpy(me->message, salf_last_error(), sizeof me->message - 1);
        return;
    }
    me->finished = salf_basis_builder_finish(&basis, builder, NULL);
    if (me->finished == SALF_OK)
        take_results(me, basis);
    else
        strncpy(me->message, salf_last_error(), sizeof me->message - 1);
    salf_basis_destroy(basis);
}

static void *run_rank(void *user) {
    member *me = user;
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = me->backend;
    options.rank = me->rank;
    options.ranks = RANKS;
    options.all_reduce = all_reduce;
    options.communicator_user = me;
    salf_context *context = NULL;
    salf_basis_builder *builder = NULL;
    me->reduced = salf_context_create(&context, &options);
    if (me->reduced == SALF_OK)
        me->reduced =
            salf_basis_builder_create(&builder, context, me->vocab, me->hidden, labels, N_LABELS, &me->options);
    if (me->reduced == SALF_OK) me->reduced = add_shard(me, builder);
    if (me->reduced == SALF_OK) reduce_and_finish(me, builder);
    salf_basis_builder_destroy(builder);
    salf_context_destroy(context);
    return NULL;
}

/* ---- all ranks ---- */

typedef struct {
    float *w;
    group all;
    member members[RANKS];
} world;

static void make_world(world *x, int32_t backend, int64_t vocab, int64_t hidden, const salf_basis_options *options) {
    memset(x, 0, sizeof *x);
    x->w = malloc((size_t)(vocab * hidden) * sizeof *x->w);
    oracle_head(x->w, vocab, hidden, 6, 3);
    x->all.broken_link = -1;
    for (int32_t r = 0; r < RANKS; r++)
        x->members[r] = (member){.all = &x->all,
                                 .rank = r,
                                 .backend = backend,
                                 .w = x->w,
                                 .vocab = vocab,
                                 .hidden = hidden,
                                 .step = 4 + 9 * r,
                                 .options = *options,
                                 .out = calloc((size_t)(N_ROWS * hidden), sizeof(double))};
    /* one row; none; all others */
    x->members[0].rows = 1;
    x->members[2].first = 1;
    x->members[2].rows = vocab - 1;
}

static void run_ranks(world *x) {
    pthread_t threads[RANKS];
    ck_assert_int_eq(pthread_barrier_init(&x->all.barrier, NULL, RANKS), 0);
    for (int r = 0; r < RANKS; r++) ck_assert_int_eq(pthread_create(threads + r, NULL, run_rank, x->members + r), 0);
    for (int r = 0; r < RANKS; r++) pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&x->all.barrier);
}

static void drop_world(world *x) {
    for (int r = 0; r < RANKS; r++) free(x->members[r].out);
    free(x->w);
}

static salf_basis_options options_of(int32_t mode, double rtol, double ridge) {
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.mode = mode;
    options.rtol = rtol;
    options.ridge = ridge;
    return options;
}

/* Largest difference of a rank's rows from one process's, relative to the rows' norms. */
static void check_against_one_process(const world *x, const member *me) {
    const int64_t d = me->hidden;
    double *expected = calloc((size_t)(N_ROWS * d), sizeof *expected);
    salf_context *context = harness_context(me->backend, NULL);
    salf_model *model = oracle_model(context, x->w, me->vocab, d, 2);
    salf_basis *basis;
    salf_basis_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_basis_create(&basis, model, labels, N_LABELS, &me->options));
    const salf_tensor out = oracle_view(expected, SALF_F64, N_ROWS, d);
    CHECK_OK(salf_basis_rows(basis, distinct, N_ROWS, &out));
    CHECK_OK(salf_basis_get_info(basis, &info));
    ck_assert_int_eq(me->rank_of_head, info.rank);
    ck_assert_uint_eq(me->fingerprint, info.fingerprint);
    for (int64_t i = 0; i < N_ROWS; i++) {
        double error = 0;
        for (int64_t j = 0; j < d; j++) error += pow(me->out[i * d + j] - expected[i * d + j], 2);
        ck_assert_msg(sqrt(error / oracle_dot(expected + i * d, expected + i * d, d)) < 1e-11, "rank %d row %d: %g",
                      (int)me->rank, (int)i, sqrt(error));
    }
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    free(expected);
}

START_TEST(ranks_make_the_basis_of_the_whole_head) {
    const salf_basis_options modes[] = {options_of(SALF_BASIS_EXACT, 0, 0), options_of(SALF_BASIS_RTOL, 0.3, 0),
                                        options_of(SALF_BASIS_RIDGE, 0, 0.4)};
    for (size_t k = 0; k < 2; k++)
        for (int wide = 0; wide < 2; wide++) /* also with fewer rows than columns */
            for (size_t m = 0; m < 3; m++) {
                world x;
                make_world(&x, backends[k], V, wide ? V + 12 : D, modes + m);
                run_ranks(&x);
                for (int r = 0; r < RANKS; r++) {
                    const member *me = x.members + r;
                    ck_assert_msg(me->reduced == SALF_OK && me->finished == SALF_OK, "rank %d: %s", r, me->message);
                    ck_assert_int_eq(me->seen_dtype, SALF_F64);
                    ck_assert_int_eq(me->seen_operation, SALF_ALL_REDUCE_SUM);
                    check_against_one_process(&x, me);
                    ck_assert(memcmp(me->out, x.members[0].out, (size_t)(N_ROWS * me->hidden) * sizeof(double)) == 0);
                }
                drop_world(&x);
            }
}
END_TEST

/* In the agreement, and in the sum. */
START_TEST(a_broken_link_is_an_error) {
    const salf_basis_options options = options_of(SALF_BASIS_EXACT, 0, 0);
    for (int32_t broken = 0; broken < 2; broken++) {
        world x;
        make_world(&x, SALF_BACKEND_CPU, V, D, &options);
        x.all.broken_link = broken;
        run_ranks(&x);
        for (int32_t r = 0; r < RANKS; r++) {
            const member *me = x.members + r;
            ck_assert_int_eq(me->reduced, SALF_E_CALLBACK);
            ck_assert_msg(harness_contains(me->message, "17"), "'%s'", me->message);
        }
        drop_world(&x);
    }
}
END_TEST

/* Two ranks with the same shard and one row lost: every rank refuses, and says how many rows it saw. */
START_TEST(overlapping_shards_are_refused_by_all) {
    const salf_basis_options options = options_of(SALF_BASIS_EXACT, 0, 0);
    for (int lost = 0; lost < 2; lost++) {
        world x;
        make_world(&x, SALF_BACKEND_CPU, V, D, &options);
        x.members[1].first = 20;
        x.members[1].rows = 1;         /* row 20 comes twice */
        if (lost) x.members[2].rows--; /* and the last never: the count is right */
        run_ranks(&x);
        for (int r = 0; r < RANKS; r++) {
            const member *me = x.members + r;
            ck_assert_int_eq(me->reduced, SALF_OK);
            ck_assert_int_eq(me->finished, SALF_E_SEQUENCE);
            ck_assert_msg(harness_contains(me->message, lost ? "twice" : "62 rows of 61"), "'%s'", me->message);
        }
        drop_world(&x);
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, ranks_make_the_basis_of_the_whole_head);
    HARNESS_ADD(suite, a_broken_link_is_an_error);
    HARNESS_ADD(suite, overlapping_shards_are_refused_by_all);
}
