/* pool.h - worker threads of one context, for the library's own loops. */
#ifndef SALF_POOL_H
#define SALF_POOL_H

#include "core/core.h"

/* Starts threads - 1 workers; the calling thread is the last one. Signals are blocked in the workers. */
salf_status slf_pool_create(const salf_context *context, int32_t threads, slf_pool **out);
void slf_pool_destroy(slf_pool *pool); /* NULL is fine */
/* Runs body over 0 ... count-1 in equal pieces of at least grain, and waits. When another thread of the host is using
 * the pool, the loop runs on the calling thread alone. */
void slf_pool_run(slf_pool *pool, int64_t count, int64_t grain, slf_loop_fn body, void *user);

#endif
