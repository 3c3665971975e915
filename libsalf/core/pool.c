/*
 * pool.c - worker threads of one context: started with it, asleep between loops, joined with it.
 *
 * A loop is handed out in pieces, under one lock: whoever is free takes the next. There are few pieces and each is long
 * (the caller's grain), so that the lock costs nothing that could be measured.
 *
 * A fork copies the pool, but neither its workers nor what they were about to do: locks may be held for ever there, and
 * who waits for a worker waits for ever. So in a child the pool is memory and nothing else: loops run on the calling
 * thread, and the end joins nobody.
 */
#include "core/core.h"

#ifdef SALF_NO_THREADS
salf_status slf_pool_create(const salf_context *context, int32_t threads, slf_pool **out) {
    (void)context;
    *out = NULL;
    return slf_fail(SALF_E_UNSUPPORTED, "threads is %d, but this libsalf was built without threads (SALF_NO_THREADS)",
                    (int)threads);
}

/* There is no pool that these could be called with. */
void slf_pool_run(slf_pool *pool, int64_t count, int64_t grain, slf_loop_fn body, void *user) {
    (void)pool, (void)grain;
    body(user, 0, count);
}

void slf_pool_destroy(slf_pool *pool) {
    (void)pool;
}
#else
#include <signal.h>

/* Pieces of a loop for each thread. With one each, a thread that wakes late, or whose processor is taken away, would be
 * waited for; with eight the others take over, and the last piece is at most an eighth of a share. */
enum { PIECES = 8 };

typedef struct {
    slf_loop_fn body;
    void *user;
    int64_t count;
    int64_t piece; /* length of all pieces but the last */
} loop;

struct slf_pool {
    const salf_context *context;
    pthread_mutex_t busy; /* held by the thread whose loop is running */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;  /* a loop has begun, or the end */
    pthread_cond_t done;  /* the last piece is finished */
    loop current;
    int64_t next;     /* first index that is not handed out */
    int64_t finished; /* indices done */
    uint64_t round;   /* number of the loop */
    bool stop;
    int32_t n_workers;
    pthread_t workers[];
};

/* Runs pieces until none is left; called and returns with the lock held. */
static void run_pieces(slf_pool *pool) {
    while (pool->next < pool->current.count) {
        const loop work = pool->current;
        const int64_t first = pool->next;
        const int64_t last = SLF_MIN(work.count - first, work.piece) + first;
        pool->next = last;
        pthread_mutex_unlock(&pool->lock);
        work.body(work.user, first, last);
        pthread_mutex_lock(&pool->lock);
        pool->finished += last - first;
        if (pool->finished == work.count) pthread_cond_signal(&pool->done);
    }
}

static void *worker_main(void *argument) {
    slf_pool *pool = argument;
    fesetenv(FE_DFL_ENV); /* a thread starts with its creator's arithmetic, which is the host's; see core.h */
    uint64_t seen = 0;    /* a worker that slept through a loop has nothing to make up for: its pieces are done */
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop) {
        if (pool->round == seen) {
            pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        seen = pool->round;
        run_pieces(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* busy is never waited for: a host thread that finds the workers taken is faster alone than idle, and a body that calls
 * back into its own context cannot deadlock. */
void slf_pool_run(slf_pool *pool, int64_t count, int64_t grain, slf_loop_fn body, void *user) {
    /* Threads of the host share a context: one has the workers. */
    if (!slf_context_at_home(pool->context) || pthread_mutex_trylock(&pool->busy) != 0) {
        body(user, 0, count);
        return;
    }
    const int64_t pieces = PIECES * ((int64_t)pool->n_workers + 1);
    const int64_t share = (count + pieces - 1) / pieces;
    pthread_mutex_lock(&pool->lock);
    pool->current = (loop){.body = body, .user = user, .count = count, .piece = SLF_MAX(share, grain)};
    pool->next = 0;
    pool->finished = 0;
    /* A worker compares the round with the last one it saw, so that it neither misses a loop nor enters one twice. */
    pool->round++;
    pthread_cond_broadcast(&pool->work);
    run_pieces(pool);
    /* No piece is left to take, but others may still run theirs: user lies on this stack until the last is done. */
    while (pool->finished < count) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&pool->busy);
}

/* threads counts the caller, who works along: so one fewer are started, and with 1 there is no pool at all. */
salf_status slf_pool_create(const salf_context *context, int32_t threads, slf_pool **out) {
    *out = NULL;
    const int32_t n_workers = threads - 1;
    slf_pool *pool = slf_alloc_zero(context, 1, sizeof *pool + (uint64_t)n_workers * sizeof(pthread_t));
    if (!pool) return SALF_E_NO_MEMORY;
    pool->context = context;
    pthread_mutex_init(&pool->busy, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);

    int error = 0;
#ifndef _WIN32 /* which has no such signals */
    /* A thread starts with its creator's mask. The host's signals are the host's business: workers must not be the
     * ones to receive them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
    for (; pool->n_workers < n_workers && error == 0; pool->n_workers += error == 0)
        error = pthread_create(&pool->workers[pool->n_workers], NULL, worker_main, pool);
#ifndef _WIN32
    pthread_sigmask(SIG_SETMASK, &before, NULL);
#endif
    if (error == 0) {
        *out = pool;
        return SALF_OK;
    }
    /* The workers that were started have to be joined before their pool is freed. */
    const salf_status status = slf_fail(SALF_E_NO_MEMORY, "thread %d of %d could not be started (error %d)",
                                        (int)pool->n_workers + 1, (int)n_workers, error);
    slf_pool_destroy(pool);
    return status;
}

/* No loop may be running; whoever destroys a context has finished with it. */
void slf_pool_destroy(slf_pool *pool) {
    if (!pool) return;
    if (slf_context_at_home(pool->context)) {
        pthread_mutex_lock(&pool->lock);
        pool->stop = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (int32_t i = 0; i < pool->n_workers; i++) pthread_join(pool->workers[i], NULL);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->work);
        pthread_mutex_destroy(&pool->lock);
        pthread_mutex_destroy(&pool->busy);
    }
    slf_free(pool->context, pool);
}
#endif
