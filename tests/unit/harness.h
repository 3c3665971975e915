/*
 * harness.h - what all unit tests share: main(), contexts that count and fail allocations, checks of statuses and
 * messages.
 *
 * A test file defines `void harness_suite(Suite *suite)`, which adds its cases; main() is in harness.c.
 */
#ifndef SALF_TEST_HARNESS_H
#define SALF_TEST_HARNESS_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>

#include "salf.h"

void harness_suite(Suite *suite);

/* Adds a case with one test function to a suite. Without libcheck's time limit, a clock on the wall that a busy machine
 * runs out of: tests/run.sh limits the processor time of each process, and libcheck gives each test one. */
#define HARNESS_ADD(suite, function) HARNESS_ADD_BETWEEN(suite, function, NULL, NULL)
/* The same, between a function before it and one after it. */
#define HARNESS_ADD_BETWEEN(suite, function, before, after)          \
    do {                                                             \
        TCase *harness_case_ = tcase_create(#function);              \
        tcase_add_checked_fixture(harness_case_, (before), (after)); \
        tcase_set_timeout(harness_case_, 0);                         \
        tcase_add_test(harness_case_, function);                     \
        suite_add_tcase(suite, harness_case_);                       \
    } while (0)

/* The call succeeds; its message is shown when it does not. */
#define CHECK_OK(call)                                                                                \
    do {                                                                                              \
        const salf_status check_status_ = (call);                                                     \
        ck_assert_msg(check_status_ == SALF_OK, "%s: %s: %s", #call, salf_status_name(check_status_), \
                      salf_last_error());                                                             \
    } while (0)

/* The call fails with this status, and the message contains this text (the offending value). */
#define CHECK_FAILS(call, expected, words)                                                                             \
    do {                                                                                                               \
        const salf_status check_status_ = (call);                                                                      \
        ck_assert_msg(check_status_ == (expected), "%s: %s instead of %s: %s", #call, salf_status_name(check_status_), \
                      #expected, salf_last_error());                                                                   \
        ck_assert_msg(harness_contains(salf_last_error(), words), "message '%s' lacks '%s'", salf_last_error(),        \
                      (const char *)(words));                                                                          \
    } while (0)

/* For comparisons of many elements. libcheck notes every assertion that holds in a file, so that it can say after which
 * one a test crashed: at 3.7 million of them that was two thirds of the time of test_backend. This one notes
 * nothing. */
#define CHECK_EACH(condition, ...)                   \
    do {                                             \
        if (!(condition)) ck_abort_msg(__VA_ARGS__); \
    } while (0)

bool harness_contains(const char *text, const char *words);

/* An allocator that counts what is alive, checks sizes on free, and can fail the n-th allocation (0-based; -1: none).
 */
typedef struct harness_memory {
    int64_t calls;   /* allocations so far */
    int64_t alive;   /* blocks not freed */
    int64_t bytes;   /* in them */
    int64_t most;    /* highest value of bytes */
    int64_t fail_at; /* number of the allocation that fails; all later ones succeed */
} harness_memory;

void *harness_alloc(void *user, size_t size, size_t align);
void harness_free(void *user, void *memory, size_t size);

/* The plugin that SALF_TEST_PLUGIN names, for contexts of SALF_BACKEND_CUDA; NULL without. With SALF_TEST_CPU_IS_PLUGIN
 * set it also takes the place of the cpu backend, so that tests of handles run over it. */
const char *harness_plugin(void);

/* A context of a backend (SALF_BACKEND_*) over such an allocator (NULL: the default one). Fails the test on error. */
salf_context *harness_context(int32_t backend, harness_memory *memory);

/* Runs `body` with the n-th allocation failing for n = 0, 1, ... until it succeeds, and checks each time that it failed
 * with SALF_E_NO_MEMORY and that nothing is alive afterwards. The body makes its context with
 * harness_context_or_status, does the work, destroys all it made in every case, and returns the first status that is
 * not SALF_OK. */
typedef salf_status (*harness_body)(harness_memory *memory, int32_t backend, void *user);
void harness_fail_each_allocation(harness_body body, int32_t backend, void *user);
salf_status harness_context_or_status(salf_context **out, int32_t backend, harness_memory *memory);

/* Folder of the shared material (SALF_SHARED, default ../shared) joined with name into a static buffer, or NULL, after
 * printing that the running test is skipped, when it is not there. */
const char *harness_shared(const char *name);

/* A fresh folder for a test's files, removed with everything in it at the end of the process; joined with name into a
 * static buffer that the next call overwrites. */
const char *harness_path(const char *name);

/* A small deterministic generator for test data: uniform in [0, 1), and standard normal. */
double harness_uniform(uint64_t *state);
double harness_normal(uint64_t *state);

/* float32 to 16-bit formats, rounded to nearest even. */
uint16_t harness_to_bf16(float value);
uint16_t harness_to_f16(float value);

#endif
