/*
 * system.h - what libsalf asks of the system beside memory and files: a clock, the process, locks. Not installed.
 *
 * With SALF_NO_THREADS there are no worker threads and no library of threads; handles may be shared by threads of the
 * host all the same, so that a lock is a flag then, which is asked for until it is free.
 */
#ifndef SALF_SYSTEM_H
#define SALF_SYSTEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* On Windows the clock counts in some 16 ms, which is enough for progress that is told ten times a second, and both
 * come from the library that every program has. Its own headers are left out: they define min, max and more. */

/* Nanoseconds that only grow, and the number of this process. */
#ifdef _WIN32
__declspec(dllimport) unsigned long long __stdcall GetTickCount64(void); /* as windows.h has them */
__declspec(dllimport) unsigned long __stdcall GetCurrentProcessId(void);
static inline int64_t slf_clock(void) {
    return (int64_t)GetTickCount64() * 1000000;
}
static inline int32_t slf_process(void) {
    return (int32_t)GetCurrentProcessId();
}
#else
#include <unistd.h>
static inline int64_t slf_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
static inline int32_t slf_process(void) {
    return (int32_t)getpid();
}
#endif

#ifndef SALF_NO_THREADS
#include <pthread.h>
typedef pthread_mutex_t slf_lock;
static inline bool slf_lock_make(slf_lock *lock) {
    return pthread_mutex_init(lock, NULL) == 0;
}
static inline void slf_lock_take(slf_lock *lock) {
    pthread_mutex_lock(lock);
}
static inline void slf_lock_give(slf_lock *lock) {
    pthread_mutex_unlock(lock);
}
static inline void slf_lock_end(slf_lock *lock) {
    pthread_mutex_destroy(lock);
}
#else
typedef atomic_flag slf_lock;
static inline bool slf_lock_make(slf_lock *lock) {
    atomic_flag_clear(lock);
    return true;
}
static inline void slf_lock_take(slf_lock *lock) {
    while (atomic_flag_test_and_set(lock)) {
    }
}
static inline void slf_lock_give(slf_lock *lock) {
    atomic_flag_clear(lock);
}
static inline void slf_lock_end(slf_lock *lock) {
    (void)lock;
}
#endif

#endif
