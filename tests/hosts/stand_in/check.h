/*
 * check.h - a stand-in for libcheck, for processors and C libraries that it is not installed for: what the unit tests
 * use of it. Tests run one after another in one process, and the first assertion that fails ends it with a message.
 */
#ifndef SALF_STAND_IN_CHECK_H
#define SALF_STAND_IN_CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct TCase {
    const char *name;
    void (*test)(int);
    void (*before)(void), (*after)(void); /* or NULL */
} TCase;
typedef struct Suite {
    TCase tests[100];
    int n;
} Suite, SRunner;

enum { CK_NORMAL };

#define START_TEST(name)       \
    static void name(int _i) { \
        (void)_i;
#define END_TEST }

static inline TCase *tcase_create(const char *name) {
    static TCase made;
    made = (TCase){.name = name};
    return &made;
}
static inline void tcase_set_timeout(TCase *test, double seconds) {
    (void)test, (void)seconds;
}
static inline void tcase_add_checked_fixture(TCase *test, void (*before)(void), void (*after)(void)) {
    test->before = before;
    test->after = after;
}
static inline void tcase_add_test(TCase *test, void (*function)(int)) {
    test->test = function;
}
static inline Suite *suite_create(const char *name) {
    static Suite made;
    (void)name;
    return &made;
}
static inline void suite_add_tcase(Suite *suite, TCase *test) {
    suite->tests[suite->n++] = *test;
}
static inline SRunner *srunner_create(Suite *suite) {
    return suite;
}
static inline void srunner_run_all(SRunner *runner, int mode) {
    (void)mode;
    for (int i = 0; i < runner->n; i++) {
        const TCase *test = &runner->tests[i];
        printf("%s\n", test->name);
        fflush(stdout);
        if (test->before) test->before();
        test->test(0);
        if (test->after) test->after();
    }
}
static inline int srunner_ntests_failed(SRunner *runner) {
    (void)runner;
    return 0;
}
static inline void srunner_free(SRunner *runner) {
    (void)runner;
}

#define ck_abort_msg(...)             (printf("%s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), puts(""), exit(1))
#define ck_assert_msg(condition, ...) ((condition) ? (void)0 : ck_abort_msg(__VA_ARGS__))
#define ck_assert(condition)          ck_assert_msg(condition, "%s", #condition)
#define STAND_IN_INT_(a, op, b)       ck_assert_msg((intmax_t)(a)op(intmax_t)(b), "%s " #op " %s", #a, #b)
#define STAND_IN_UINT_(a, op, b)      ck_assert_msg((uintmax_t)(a)op(uintmax_t)(b), "%s " #op " %s", #a, #b)
#define STAND_IN_REAL_(a, op, b)      ck_assert_msg((double)(a)op(double)(b), "%s " #op " %s", #a, #b)
#define ck_assert_int_eq(a, b)        STAND_IN_INT_(a, ==, b)
#define ck_assert_int_ne(a, b)        STAND_IN_INT_(a, !=, b)
#define ck_assert_int_lt(a, b)        STAND_IN_INT_(a, <, b)
#define ck_assert_int_le(a, b)        STAND_IN_INT_(a, <=, b)
#define ck_assert_int_gt(a, b)        STAND_IN_INT_(a, >, b)
#define ck_assert_int_ge(a, b)        STAND_IN_INT_(a, >=, b)
#define ck_assert_uint_eq(a, b)       STAND_IN_UINT_(a, ==, b)
#define ck_assert_uint_ne(a, b)       STAND_IN_UINT_(a, !=, b)
#define ck_assert_uint_lt(a, b)       STAND_IN_UINT_(a, <, b)
#define ck_assert_uint_le(a, b)       STAND_IN_UINT_(a, <=, b)
#define ck_assert_uint_gt(a, b)       STAND_IN_UINT_(a, >, b)
#define ck_assert_uint_ge(a, b)       STAND_IN_UINT_(a, >=, b)
#define ck_assert_double_eq(a, b)     STAND_IN_REAL_(a, ==, b)
#define ck_assert_double_ne(a, b)     STAND_IN_REAL_(a, !=, b)
#define ck_assert_double_lt(a, b)     STAND_IN_REAL_(a, <, b)
#define ck_assert_double_le(a, b)     STAND_IN_REAL_(a, <=, b)
#define ck_assert_double_gt(a, b)     STAND_IN_REAL_(a, >, b)
#define ck_assert_double_ge(a, b)     STAND_IN_REAL_(a, >=, b)
#define ck_assert_double_nan(a)       ck_assert_msg(isnan(a), "%s is a number", #a)
#define ck_assert_float_eq(a, b)      STAND_IN_REAL_(a, ==, b)
#define ck_assert_double_eq_tol(a, b, tolerance) \
    ck_assert_msg(fabs((double)(a) - (double)(b)) <= (double)(tolerance), "%s is not %s within %s", #a, #b, #tolerance)
#define ck_assert_float_eq_tol(a, b, tolerance) ck_assert_double_eq_tol(a, b, tolerance)
#define ck_assert_str_eq(a, b)                  ck_assert_msg(strcmp(a, b) == 0, "%s is '%s', %s is '%s'", #a, a, #b, b)
#define ck_assert_mem_eq(a, b, size)            ck_assert_msg(memcmp(a, b, size) == 0, "%s differs from %s", #a, #b)
#define ck_assert_ptr_null(a)                   ck_assert_msg((a) == NULL, "%s is not NULL", #a)
#define ck_assert_ptr_nonnull(a)                ck_assert_msg((a) != NULL, "%s is NULL", #a)
#define ck_assert_ptr_eq(a, b)                  ck_assert_msg((const void *)(a) == (const void *)(b), "%s is not %s", #a, #b)
#define ck_assert_ptr_ne(a, b)                  ck_assert_msg((const void *)(a) != (const void *)(b), "%s is %s", #a, #b)

#endif
