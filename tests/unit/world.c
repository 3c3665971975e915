/* world.c - the communicator and its threads. */
#include "world.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int32_t ranks;
    int64_t generation;
    int arrived, gone;
    const void *parts[WORLD_MOST];
    int64_t count[WORLD_MOST];
    int32_t dtype[WORLD_MOST], operation[WORLD_MOST];
    bool differed, alone;
    world_body body;
    world_tweak tweak;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

/* Ends a round once all ranks that are left have come; where one has gone home the others would wait for ever. */
static void end_round(void) {
    if (all.arrived == 0 || all.arrived + all.gone < all.ranks) return;
    if (all.gone > 0) all.alone = true;
    all.arrived = 0;
    all.generation++;
    pthread_cond_broadcast(&all.moved);
}

static void meet(void) {
    pthread_mutex_lock(&all.lock);
    const int64_t round = all.generation;
    all.arrived++;
    end_round();
    while (all.generation == round) pthread_cond_wait(&all.moved, &all.lock);
    pthread_mutex_unlock(&all.lock);
}

static void combine(void *out, int64_t i, int32_t dtype, int32_t operation) {
    const bool sum = operation == SALF_ALL_REDUCE_SUM;
    double real = 0;
    int64_t whole = 0;
    for (int r = 0; r < all.ranks; r++) {
        const double x = dtype == SALF_F64 ? ((const double *)all.parts[r])[i] : 0;
        const int64_t n = dtype == SALF_I64 ? ((const int64_t *)all.parts[r])[i] : 0;
        real = sum ? real + x : r == 0 || x < real ? x : real;
        whole = sum ? whole + n : r == 0 || n < whole ? n : whole;
    }
    memcpy((char *)out + 8 * i, dtype == SALF_F64 ? (void *)&real : (void *)&whole, 8);
}

static int32_t all_reduce(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    world_rank *me = user;
    void *mine = malloc((size_t)count * 8);
    memcpy(mine, buffer, (size_t)count * 8);
    all.parts[me->rank] = mine;
    all.count[me->rank] = count;
    all.dtype[me->rank] = dtype;
    all.operation[me->rank] = operation;
    me->bytes += 8 * count;
    me->calls++;
    meet();
    bool same = !all.alone;
    for (int r = 0; r < all.ranks && !all.alone; r++)
        same = same && all.count[r] == count && all.dtype[r] == dtype && all.operation[r] == operation;
    if (!same && !all.alone) all.differed = true;
    for (int64_t i = 0; i < count && same; i++) combine(buffer, i, dtype, operation);
    meet(); /* all have read */
    free(mine);
    return !same;
}

static void *run_rank(void *user) {
    world_rank *me = user;
    salf_context_options o;
    salf_options_init(&o, sizeof o);
    o.backend = SALF_BACKEND_CPU;
    o.rank = me->rank;
    o.ranks = all.ranks;
    o.all_reduce = all_reduce;
    o.communicator_user = me;
    if (all.tweak) all.tweak(&o, me->user);
    me->status = salf_context_create(&me->context, &o);
    if (me->status == SALF_OK) me->status = all.body(me);
    if (me->status != SALF_OK) strncpy(me->message, salf_last_error(), sizeof me->message - 1);
    salf_context_destroy(me->context);
    pthread_mutex_lock(&all.lock);
    all.gone++;
    end_round();
    pthread_mutex_unlock(&all.lock);
    return NULL;
}

void world_run(world_body body, const void *user, world_tweak tweak, world_rank ranks[WORLD_RANKS]) {
    world_run_of(WORLD_RANKS, body, user, tweak, ranks);
}

void world_run_of(int32_t n, world_body body, const void *user, world_tweak tweak, world_rank *ranks) {
    pthread_t threads[WORLD_MOST];
    all.ranks = n;
    all.gone = 0;
    all.differed = all.alone = false;
    all.body = body;
    all.tweak = tweak;
    for (int r = 0; r < all.ranks; r++) {
        ranks[r] = (world_rank){.rank = r, .user = user};
        ck_assert_int_eq(pthread_create(&threads[r], NULL, run_rank, &ranks[r]), 0);
    }
    for (int r = 0; r < all.ranks; r++) pthread_join(threads[r], NULL);
    ck_assert_msg(!all.differed, "the ranks gave different collectives: %s", ranks[0].message);
    ck_assert_msg(!all.alone, "a rank waited for one that had gone: %s", ranks[0].message);
}

void world_all(const world_rank *ranks, salf_status status, const char *words) {
    for (int r = 0; r < all.ranks; r++) {
        ck_assert_msg(ranks[r].status == status, "rank %d: %s: %s", r, salf_status_name(ranks[r].status),
                      ranks[r].message);
        ck_assert_msg(harness_contains(ranks[r].message, words), "rank %d: '%s' lacks '%s'", r, ranks[r].message,
                      words);
    }
}

void world_one(const world_rank *ranks, int32_t bad, salf_status status, const char *words) {
    char named[96];
    snprintf(named, sizeof named, "rank %d failed with %s", (int)bad, salf_status_name(status));
    for (int r = 0; r < all.ranks; r++) {
        const char *wanted = r == bad ? words : named;
        ck_assert_msg(ranks[r].status == (r == bad ? status : SALF_E_MISMATCH), "rank %d: %s: %s", r,
                      salf_status_name(ranks[r].status), ranks[r].message);
        ck_assert_msg(harness_contains(ranks[r].message, wanted), "rank %d: '%s' lacks '%s'", r, ranks[r].message,
                      wanted);
    }
}
