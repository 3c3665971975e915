/* test_signal.c - what a probe's answers are worth: every number against a plain reading of its definition, warnings,
 * bounds, refusals. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/random.h"
#include "harness.h"

enum { M = 5, ROWS = 300, GROUPS = 7 };

static double gains[ROWS * M];
static int32_t eof[ROWS], groups[ROWS], cuts[ROWS];
static uint32_t ids[ROWS];

static double unit(uint64_t index) {
    return slf_random_unit(3, 4, index);
}

/* Gains of which a share comes from the group, far from 0: their differences are the last digits. */
static void fill(double share, double offset) {
    for (int r = 0; r < ROWS; r++) {
        groups[r] = (int32_t)(unit((uint64_t)r) * GROUPS) * 1000 - 2000;
        ids[r] = (uint32_t)(unit(5000 + (uint64_t)r) * 200);
        cuts[r] = (int32_t)(unit(6000 + (uint64_t)r) * (M + 1));
        eof[r] = 0;
        for (int k = 0; k < M; k++) {
            const double own = unit(10000 + (uint64_t)(r * M + k)),
                         of_group = unit(90000 + (uint64_t)(groups[r] + 3000 + k));
            gains[r * M + k] = offset + sqrt(share) * of_group + sqrt(1 - share) * own;
            if (gains[r * M + k] > gains[r * M + eof[r]]) eof[r] = k;
        }
    }
}

/* In pieces, as batches come. */
static void add_all(salf_signal *s, int64_t rows, int64_t size) {
    for (int64_t at = 0; at < rows; at += size) {
        const int64_t n = rows - at < size ? rows - at : size;
        const salf_trace trace = {.rows = n, .n_layers = M, .gains = gains + at * M, .eof = eof + at};
        CHECK_OK(salf_signal_add(s, &trace, groups + at, ids + at, cuts + at));
    }
}

static salf_signal *make(salf_context *context, int32_t per_datum, int32_t max_groups, int32_t max_ids) {
    const salf_signal_options o = {
        .struct_size = sizeof o, .n_layers = M, .per_datum = per_datum, .max_groups = max_groups, .max_ids = max_ids};
    salf_signal *s = NULL;
    CHECK_OK(salf_signal_create(&s, context, &o));
    return s;
}

/* Sums of squares in two passes, as they are defined. */
static double plain_share(int64_t rows) {
    double total = 0, between = 0;
    for (int k = 0; k < M; k++) {
        double mean = 0;
        for (int64_t r = 0; r < rows; r++) mean += gains[r * M + k] / (double)rows;
        for (int64_t r = 0; r < rows; r++) {
            double own = 0;
            int64_t n = 0;
            for (int64_t q = 0; q < rows; q++)
                if (groups[q] == groups[r]) own += gains[q * M + k], n++;
            total += pow(gains[r * M + k] - mean, 2);
            between += pow(own / (double)n - mean, 2);
        }
    }
    return between / total;
}

START_TEST(numbers_are_those_of_a_plain_reading) {
    static const double shares[] = {0, 0.3, 0.95}, offsets[] = {0, -1e6};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (int i = 0; i < 6; i++) {
        fill(shares[i % 3], offsets[i / 3]);
        int64_t of_eof[M] = {0}, matched = 0, trained = 0, revisits = 0, same = 0;
        int best = 0, n_groups = 0;
        for (int r = 0; r < ROWS; r++) {
            int before = r - 1, first = 1;
            while (before >= 0 && ids[before] != ids[r]) before--;
            revisits += before >= 0;
            same += before >= 0 && eof[before] == eof[r];
            trained += cuts[r] < M;
            matched += cuts[r] < M && eof[r] <= cuts[r];
            of_eof[eof[r]]++;
            for (int q = 0; q < r; q++) first = first && groups[q] != groups[r];
            n_groups += first;
        }
        for (int k = 1; k < M; k++)
            if (of_eof[k] > of_eof[best]) best = k;
        for (int64_t size = 1; size <= ROWS; size *= 17) {
            salf_signal *s = make(context, 0, 0, 1000);
            salf_signal_info info = {.struct_size = sizeof info};
            add_all(s, ROWS, size);
            CHECK_OK(salf_signal_get(s, &info));
            const double chance = (n_groups - 1.0) / (ROWS - 1), share = plain_share(ROWS);
            ck_assert_int_eq(info.rows, ROWS);
            ck_assert_int_eq(info.grouped_rows, ROWS);
            ck_assert_int_eq(info.n_groups, n_groups);
            ck_assert_int_eq(info.single_groups, 0);
            ck_assert_int_eq(info.most_frequent, best);
            ck_assert_double_eq_tol(info.most_frequent_share, (double)of_eof[best] / ROWS, 1e-12);
            ck_assert_double_eq_tol(info.group_share, share, 1e-8);
            ck_assert_double_eq_tol(info.group_chance, chance, 1e-12);
            ck_assert_double_eq_tol(info.group_adjusted, fmax(0, (share - chance) / (1 - chance)), 1e-7);
            ck_assert_int_eq(info.trained, trained);
            ck_assert_double_eq_tol(info.matched_share, (double)matched / (double)trained, 1e-12);
            ck_assert_int_eq(info.revisits, revisits);
            ck_assert_double_eq_tol(info.agreement, (double)same / (double)revisits, 1e-12);
            salf_signal_destroy(s);
        }
    }
    salf_context_destroy(context);
}
END_TEST

/* Groups of one row explain themselves: share 1, and chance says so. Nothing at all, one row, rows that are alike. */
START_TEST(few_rows_and_lone_groups) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_signal_info info = {.struct_size = sizeof info};
    salf_signal *s = make(context, 1, 0, 0);
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert(info.rows == 0 && info.most_frequent_share == 0 && info.group_share == 0 && info.group_chance == 0);
    ck_assert(info.matched_share == 0 && info.agreement == 0);
    fill(0.5, 0);
    for (int r = 0; r < ROWS; r++) groups[r] = r;
    add_all(s, 1, 1);
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert(info.group_chance == 1 && info.group_share == 0 && info.group_adjusted == 0 && info.single_groups == 1);
    salf_signal_destroy(s);
    s = make(context, 1, 0, 0);
    add_all(s, 200, 16);
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert_double_eq_tol(info.group_share, 1, 1e-12);
    ck_assert_double_eq_tol(info.group_chance, 1, 1e-12);
    ck_assert(info.single_groups == 200 && info.group_adjusted == 0 && info.revisits == 0);
    salf_signal_destroy(s);
    fill(0.5, 0); /* gains may be small: a share has no unit */
    for (int i = 0; i < ROWS * M; i++) gains[i] *= 1e-6;
    s = make(context, 1, 0, 0);
    add_all(s, ROWS, 16);
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert_double_eq_tol(info.group_share, plain_share(ROWS), 1e-8);
    salf_signal_destroy(s);
    fill(0.5, 0);
    for (int r = 0; r < ROWS; r++) groups[r] = r;
    s = make(context, 1, 0, 0); /* no groups, no ids, no cuts; then gains that are no numbers */
    salf_trace trace = {.rows = 3, .n_layers = M, .gains = gains, .eof = eof};
    CHECK_OK(salf_signal_add(s, &trace, NULL, NULL, NULL));
    gains[M + 2] = NAN;
    CHECK_OK(salf_signal_add(s, &trace, groups, NULL, NULL));
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert(info.rows == 6 && info.grouped_rows == 2 && info.n_groups == 2 && info.trained == 0);
    salf_signal_destroy(s);
    salf_context_destroy(context);
}
END_TEST

/* Further groups count as one; further ids are not followed. */
START_TEST(memory_is_bounded) {
    harness_memory memory = {.fail_at = -1};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    salf_signal *s = make(context, 0, 2, 10);
    salf_signal_info info = {.struct_size = sizeof info};
    fill(0.5, 0);
    add_all(s, ROWS, 16);
    const int64_t bytes = memory.bytes;
    add_all(s, ROWS, 16);
    ck_assert_int_eq(memory.bytes, bytes);
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert_int_eq(info.n_groups, 3);
    int64_t visits = 0; /* of the first ten ids */
    uint32_t known[10];
    int n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int r = 0; r < ROWS; r++) {
            int at = 0;
            while (at < n && known[at] != ids[r]) at++;
            if (at < n)
                visits++;
            else if (n < 10)
                known[n++] = ids[r];
        }
    ck_assert_int_eq(info.revisits, visits);
    salf_signal_destroy(s);
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
}
END_TEST

static char heard[2][400];
static int times;

static void hear(void *user, int32_t level, const char *message) {
    (void)user;
    ck_assert_int_eq(level, SALF_LOG_WARNING);
    if (times < 2) snprintf(heard[times], sizeof heard[0], "%s", message);
    times++;
}

START_TEST(warnings_come_once_and_only_where_they_hold) {
    salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_REFERENCE, .log = hear};
    salf_context *context;
    CHECK_OK(salf_context_create(&context, &o));
    const struct {
        double share;
        int32_t per_datum, rows, one_eof, want;
    } cases[] = {{.99, 1, ROWS, 0, 1}, {.99, 0, ROWS, 0, 0}, /* balanced: said nothing */
                 {.5, 1, ROWS, 0, 0},  {.99, 1, 63, 0, 0},   /* too few rows */
                 {.5, 0, ROWS, 1, 1},  {.99, 1, ROWS, 1, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fill(cases[i].share, 0);
        for (int r = 0; r < ROWS && cases[i].one_eof; r++) eof[r] = r % 20 ? 4 : 1;
        times = 0;
        salf_signal *s = make(context, cases[i].per_datum, 0, 0);
        add_all(s, cases[i].rows, 8);
        ck_assert_msg(times == cases[i].want, "case %d: %d warnings", (int)i, times);
        if (cases[i].one_eof)
            ck_assert_msg(strstr(heard[0], "empty: 60 of 64") && strstr(heard[0], "eof 4"), "%s", heard[0]);
        if (cases[i].share > .9 && cases[i].want)
            ck_assert_msg(strstr(heard[times - 1], "signal is the label: 7 groups"), "%s", heard[times - 1]);
        salf_signal_destroy(s);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(bad_values_are_named_and_count_nothing) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_signal *s = NULL;
    salf_signal_options o = {.struct_size = sizeof o};
    CHECK_FAILS(salf_signal_create(&s, context, &o), SALF_E_ARGUMENT, "n_layers is 0");
    o.n_layers = 3;
    o.per_datum = 2;
    CHECK_FAILS(salf_signal_create(&s, context, &o), SALF_E_ARGUMENT, "per_datum is 2");
    o.per_datum = 0;
    o.max_groups = -1;
    CHECK_FAILS(salf_signal_create(&s, context, &o), SALF_E_ARGUMENT, "max_groups is -1");
    o.max_groups = 0;
    o.max_ids = -5;
    CHECK_FAILS(salf_signal_create(&s, context, &o), SALF_E_ARGUMENT, "max_ids is -5");
    CHECK_FAILS(salf_signal_create(&s, NULL, &o), SALF_E_NULL, "context");
    CHECK_FAILS(salf_signal_create(NULL, context, &o), SALF_E_NULL, "out");
    s = make(context, 0, 0, 0);
    fill(0.5, 0);
    salf_signal_info info = {.struct_size = sizeof info};
    salf_trace trace = {.rows = 4, .n_layers = M, .eof = eof};
    CHECK_FAILS(salf_signal_add(s, NULL, NULL, NULL, NULL), SALF_E_NULL, "trace");
    CHECK_FAILS(salf_signal_add(s, &trace, groups, NULL, NULL), SALF_E_NULL, "gains of the trace");
    trace.gains = gains;
    cuts[2] = M + 1;
    CHECK_FAILS(salf_signal_add(s, &trace, groups, ids, cuts), SALF_E_ARGUMENT, "cut of row 2 is 6");
    eof[3] = M;
    CHECK_FAILS(salf_signal_add(s, &trace, groups, ids, NULL), SALF_E_ARGUMENT, "eof of row 3 is 5");
    trace.n_layers = 2;
    CHECK_FAILS(salf_signal_add(s, &trace, groups, ids, NULL), SALF_E_SHAPE, "trace of 2 layers for a signal of 5");
    CHECK_FAILS(salf_signal_get(s, NULL), SALF_E_NULL, "info");
    CHECK_OK(salf_signal_get(s, &info));
    ck_assert(info.rows == 0 && info.revisits == 0 && info.n_groups == 0);
    salf_signal_destroy(s);
    salf_context_destroy(context);
}
END_TEST

static salf_status one_run(harness_memory *memory, int32_t backend, void *user) {
    (void)user;
    salf_context *context = NULL;
    salf_signal *s = NULL;
    const salf_signal_options o = {.struct_size = sizeof o, .n_layers = M, .max_ids = 100};
    const salf_trace trace = {.rows = 100, .n_layers = M, .gains = gains, .eof = eof};
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (!status) status = salf_signal_create(&s, context, &o);
    if (!status) status = salf_signal_add(s, &trace, groups, ids, NULL);
    salf_signal_destroy(s);
    salf_context_destroy(context);
    return status;
}

START_TEST(every_allocation_may_fail) {
    fill(0.5, 0);
    for (int r = 0; r < ROWS; r++) groups[r] = r;
    harness_fail_each_allocation(one_run, SALF_BACKEND_REFERENCE, NULL);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, numbers_are_those_of_a_plain_reading);
    HARNESS_ADD(suite, few_rows_and_lone_groups);
    HARNESS_ADD(suite, memory_is_bounded);
    HARNESS_ADD(suite, warnings_come_once_and_only_where_they_hold);
    HARNESS_ADD(suite, bad_values_are_named_and_count_nothing);
    HARNESS_ADD(suite, every_allocation_may_fail);
}
