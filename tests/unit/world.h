/*
 * world.h - ranks as threads of one process, over a communicator that finds what a real one dies of: ranks that
 * exchange different numbers of elements, and ranks that wait for one that has gone home.
 */
#ifndef SALF_TEST_WORLD_H
#define SALF_TEST_WORLD_H

#include "harness.h"

enum { WORLD_RANKS = 3, WORLD_MOST = 4 };

typedef struct world_rank {
    int32_t rank;
    salf_context *context; /* made and destroyed by world_run */
    const void *user;      /* the same on all ranks */
    salf_status status;    /* the body's; the message with it, "" after SALF_OK */
    char message[512];
    int64_t bytes; /* that this rank put into collectives */
    int32_t calls; /* how many they were */
} world_rank;

/* What a rank does; no libcheck here, which is not for threads. Returns the first status that is not SALF_OK. */
typedef salf_status (*world_body)(world_rank *me);
/* May change a rank's context before it is made. */
typedef void (*world_tweak)(salf_context_options *options, const void *user);

/* Runs the body on all ranks; fails the test where a collective was not the same on all, or one was waited for. */
void world_run(world_body body, const void *user, world_tweak tweak, world_rank ranks[WORLD_RANKS]);
/* The same on n ranks, at most WORLD_MOST. What is said of all below is of the ranks of the last run. */
void world_run_of(int32_t n, world_body body, const void *user, world_tweak tweak, world_rank *ranks);
/* All ranks have this status, and all messages these words. */
void world_all(const world_rank *ranks, salf_status status, const char *words);
/* This rank has failed with a status of its own, and the others name it. */
void world_one(const world_rank *ranks, int32_t bad, salf_status status, const char *words);

#endif
