/* test_core.c - status, options, constants, context, allocator, worker pool, tensors, random numbers, plugin loader. */
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/carve.h"
#include "core/core.h"
#include "core/dtypes.h"
#include "core/fingerprint.h"
#include "core/ids.h"
#include "core/random.h"
#include "core/ranks.h"
#include "harness.h"

/* ---- status ---- */

START_TEST(every_status_has_a_name_and_a_text) {
#define ENTRY(name, value, text)                      \
    ck_assert_int_eq(name, value);                    \
    ck_assert_str_eq(salf_status_name(value), #name); \
    ck_assert_str_eq(salf_status_text(value), text);
    SALF_STATUS_LIST(ENTRY)
    ck_assert_str_eq(salf_status_name(7), "SALF_E_UNKNOWN");
    ck_assert_str_eq(salf_status_text(-12345), "unknown status");
}
END_TEST

static void *message_of_another_thread(void *unused) {
    (void)unused;
    static char seen[512];
    snprintf(seen, sizeof seen, "%s", salf_last_error());
    return seen;
}

START_TEST(messages_are_per_thread_one_line_and_bounded) {
    slf_fail(SALF_E_IO, "a\nb\t%s", "c");
    ck_assert_str_eq(salf_last_error(), "a?b?c");
    pthread_t thread;
    void *seen;
    pthread_create(&thread, NULL, message_of_another_thread, NULL);
    pthread_join(thread, &seen);
    ck_assert_str_eq(seen, "");
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    slf_fail(SALF_E_IO, "%s", text);
    ck_assert_uint_eq(strlen(salf_last_error()), 511);
    slf_fail(SALF_E_IO, "again: %.10s", salf_last_error());
    ck_assert_str_eq(salf_last_error(), "again: xxxxxxxxxx");
    ck_assert_int_eq(slf_fail_in("salf_x_y", SALF_E_SHAPE, "%s", text), SALF_E_SHAPE);
    ck_assert_uint_eq(strlen(salf_last_error()), 511);
    ck_assert(harness_contains(salf_last_error(), "salf_x_y: xxx"));
}
END_TEST

/* ---- words ---- */

START_TEST(values_that_are_no_word_of_a_family_are_refused_with_the_words) {
    CHECK_OK(slf_check_word("metric", "SALF_METRIC", SALF_METRIC_RANK));
    CHECK_FAILS(slf_check_word("metric", "SALF_METRIC", 17), SALF_E_ARGUMENT,
                "metric is 17, which is none of SALF_METRIC_... (COSINE, CE, RANK");
}
END_TEST

START_TEST(version_is_that_of_the_header) {
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", SALF_VERSION_MAJOR, SALF_VERSION_MINOR, SALF_VERSION_PATCH);
    ck_assert_str_eq(salf_version_string(), text);
    ck_assert_int_eq(salf_version_number(), SALF_VERSION_MAJOR * 10000 + SALF_VERSION_MINOR * 100 + SALF_VERSION_PATCH);
}
END_TEST

START_TEST(constants_are_found_by_name) {
    int64_t value = 5;
    CHECK_OK(salf_constant("SALF_MATRIX_ALL", &value));
    ck_assert_int_eq(value, 127);
    CHECK_OK(salf_constant("SALF_E_NONFINITE", &value));
    ck_assert_int_eq(value, SALF_E_NONFINITE);
    CHECK_FAILS(salf_constant("SALF_NOTHING", &value), SALF_E_NOT_FOUND, "SALF_NOTHING");
    ck_assert_int_eq(value, SALF_E_NONFINITE);
    CHECK_FAILS(salf_constant(NULL, &value), SALF_E_NULL, "name");
    CHECK_FAILS(salf_constant("SALF_OK", NULL), SALF_E_NULL, "value");
}
END_TEST

/* ---- structs that grow ---- */

typedef struct {
    uint32_t struct_size;
    int32_t a;
} older;
typedef struct {
    uint32_t struct_size;
    int32_t a;
    int64_t b;
} current;
typedef struct {
    uint32_t struct_size;
    int32_t a;
    int64_t b;
    int64_t c;
} newer;

START_TEST(options_of_an_older_caller_are_completed) {
    current own;
    memset(&own, 0xff, sizeof own);
    const older theirs = {sizeof theirs, 7};
    CHECK_OK(slf_options_read(&own, sizeof own, &theirs, "current"));
    ck_assert_int_eq(own.a, 7);
    ck_assert_int_eq(own.b, 0);
    ck_assert_uint_eq(own.struct_size, sizeof own);
}
END_TEST

START_TEST(options_of_a_newer_caller_pass_when_the_tail_is_zero) {
    current own;
    newer theirs = {sizeof theirs, 7, 8, 0};
    CHECK_OK(slf_options_read(&own, sizeof own, &theirs, "current"));
    ck_assert_int_eq(own.b, 8);
    theirs.c = 1;
    CHECK_FAILS(slf_options_read(&own, sizeof own, &theirs, "current"), SALF_E_STRUCT, "byte 16 of 24");
}
END_TEST

START_TEST(options_without_a_size_are_refused) {
    current own;
    const current theirs = {0, 1, 2};
    CHECK_FAILS(slf_options_read(&own, sizeof own, &theirs, "current"), SALF_E_STRUCT, "struct_size is 0");
    const current wild = {0xdeadbeef, 1, 2};
    CHECK_FAILS(slf_options_read(&own, sizeof own, &wild, "current"), SALF_E_STRUCT, "struct_size is 3735928559");
    CHECK_OK(slf_options_read(&own, sizeof own, NULL, "current"));
    ck_assert_int_eq(own.a, 0);
}
END_TEST

/* Half a pointer or half a view would be used, or a written result end in half a number. */
START_TEST(sizes_that_cut_a_field_in_two_are_refused) {
    current own = {0};
    for (uint32_t size = 4; size < sizeof own; size++) {
        current theirs = {size, 1, 2};
        if (size % 8 == 0) continue;
        CHECK_FAILS(slf_options_read(&own, sizeof own, &theirs, "current"), SALF_E_STRUCT, "set it to sizeof(current)");
        CHECK_FAILS(slf_info_write(&theirs, &own, sizeof own, "current"), SALF_E_STRUCT, "set it to sizeof(current)");
        ck_assert_int_eq(theirs.a, 1);
    }
    salf_context *context;
    salf_context_options c = {.backend = SALF_BACKEND_CUDA, .plugin_path = "./nope.so"};
    c.struct_size = (uint32_t)(offsetof(salf_context_options, plugin_path) + 4);
    CHECK_FAILS(salf_context_create(&context, &c), SALF_E_STRUCT, "salf_context_options");
    ck_assert_ptr_null(context);
    context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_policy *policy;
    salf_policy_options p = {.struct_size = (uint32_t)(offsetof(salf_policy_options, planner) + 4)};
    CHECK_FAILS(salf_policy_create(&policy, context, SALF_POLICY_BUDGET, 2, &p), SALF_E_STRUCT, "salf_policy_options");
    /* views are fields, too */
    salf_model *model;
    const float head[2] = {1, 2};
    salf_model_options m = {.n_layers = 1, .hidden = 2, .vocab = 1, .head = slf_tensor_host(head, SALF_F32, 1, 2)};
    const size_t views[] = {offsetof(salf_model_options, head), offsetof(salf_model_options, embedding),
                            offsetof(salf_model_options, norm_weight), offsetof(salf_model_options, norm_bias),
                            offsetof(salf_model_options, logit_bias)};
    for (size_t i = 0; i < 5; i++)
        for (uint32_t cut = 8; cut < sizeof(salf_tensor); cut += 8) {
            m.struct_size = (uint32_t)views[i] + cut;
            CHECK_FAILS(salf_model_create(&model, context, &m), SALF_E_STRUCT, "salf_model_options");
            CHECK_FAILS(salf_model_open(&model, context, "nowhere", &m), SALF_E_STRUCT, "salf_model_options");
        }
    m.struct_size = (uint32_t)offsetof(salf_model_options, norm_weight);
    CHECK_OK(salf_model_create(&model, context, &m));
    m.struct_size = (uint32_t)offsetof(salf_model_options, norm_bias) + 8;
    CHECK_FAILS(salf_model_update(model, &m), SALF_E_STRUCT, "salf_model_options");
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

START_TEST(results_fit_older_and_newer_callers) {
    const current own = {sizeof own, 7, 8};
    older small = {sizeof small, 0};
    CHECK_OK(slf_info_write(&small, &own, sizeof own, "current"));
    ck_assert_int_eq(small.a, 7);
    ck_assert_uint_eq(small.struct_size, sizeof small);
    newer large = {sizeof large, 0, 0, 9};
    CHECK_OK(slf_info_write(&large, &own, sizeof own, "current"));
    ck_assert_int_eq(large.b, 8);
    ck_assert_int_eq(large.c, 0);
    ck_assert_uint_eq(large.struct_size, sizeof large);
    salf_options_init(NULL, 8);
    salf_options_init(&large, 2);
    ck_assert_int_eq(large.b, 8);
}
END_TEST

/* ---- context ---- */

static salf_status context_only(harness_memory *memory, int32_t backend, void *user) {
    (void)user;
    salf_context *context;
    salf_context_options options = {.struct_size = sizeof options,
                                    .backend = backend,
                                    .threads = 3,
                                    .alloc = harness_alloc,
                                    .free = harness_free,
                                    .alloc_user = memory};
    const salf_status status = salf_context_create(&context, &options);
    ck_assert(status == SALF_OK || context == NULL);
    salf_context_destroy(context);
    return status;
}

START_TEST(context_survives_every_failing_allocation) {
    harness_fail_each_allocation(context_only, SALF_BACKEND_REFERENCE, NULL);
    harness_fail_each_allocation(context_only, SALF_BACKEND_CPU, NULL);
}
END_TEST

START_TEST(context_says_what_it_uses) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_REFERENCE);
    ck_assert_str_eq(info.backend_name, "reference");
    ck_assert_str_eq(info.kernels, "c");
    ck_assert_int_eq(info.ranks, 1);
    salf_context_destroy(context);
    salf_context_destroy(NULL);
}
END_TEST

static int32_t reduce_nothing(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    (void)user, (void)buffer, (void)count, (void)dtype, (void)operation;
    return 3;
}

START_TEST(context_refuses_bad_options) {
    salf_context *context = NULL;
    salf_context_options o = {.struct_size = sizeof o};
#define REFUSED(change, status, words)                                 \
    do {                                                               \
        salf_options_init(&o, sizeof o);                               \
        change;                                                        \
        context = (salf_context *)&o;                                  \
        CHECK_FAILS(salf_context_create(&context, &o), status, words); \
        ck_assert_ptr_null(context);                                   \
    } while (0)
    REFUSED(o.backend = 17, SALF_E_ARGUMENT, "backend is 17");
    REFUSED(o.threads = -2, SALF_E_ARGUMENT, "threads is -2");
    REFUSED(o.device = -1, SALF_E_ARGUMENT, "device is -1");
    REFUSED(o.reserved = 1, SALF_E_ARGUMENT, "reserved is 1");
    REFUSED(o.alloc = harness_alloc, SALF_E_NULL, "free is NULL");
    REFUSED(o.free = harness_free, SALF_E_NULL, "alloc is NULL");
    REFUSED(o.log_level = 9, SALF_E_ARGUMENT, "log_level is 9");
    REFUSED((o.rank = 2, o.ranks = 2), SALF_E_ARGUMENT, "rank 2 of 2");
    REFUSED(o.rank = 1, SALF_E_ARGUMENT, "rank 1 of 0");
    REFUSED(o.ranks = 2, SALF_E_NULL, "all_reduce is NULL");
    REFUSED((o.backend = SALF_BACKEND_CUDA, o.plugin_path = "libsalf-cuda.so"), SALF_E_PLUGIN, "not absolute");
    REFUSED((o.backend = SALF_BACKEND_CUDA, o.plugin_path = "/nonexistent/p.so"), SALF_E_PLUGIN, "/nonexistent/p.so");
    REFUSED(o.struct_size = 0, SALF_E_STRUCT, "struct_size is 0");
    CHECK_FAILS(salf_context_create(NULL, NULL), SALF_E_NULL, "out");
}
END_TEST

START_TEST(environment_chooses_where_the_host_does_not) {
    salf_context *context;
    setenv("SALF_BACKEND", "reference", 1);
    CHECK_OK(salf_context_create(&context, NULL));
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_REFERENCE);
    salf_context_destroy(context);
    context = harness_context(SALF_BACKEND_CPU, NULL);
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_CPU);
    salf_context_destroy(context);
    setenv("SALF_BACKEND", "abacus", 1);
    CHECK_FAILS(salf_context_create(&context, NULL), SALF_E_BACKEND, "abacus");
    unsetenv("SALF_BACKEND");
}
END_TEST

static void keep_line(void *user, int32_t level, const char *message) {
    snprintf(user, 512, "%d:%s", (int)level, message);
}

START_TEST(auto_falls_back_to_the_cpu_and_says_so) {
    char line[512] = "";
    salf_context *context;
    salf_context_options o = {.struct_size = sizeof o,
                              .plugin_path = "/nonexistent/p.so",
                              .log = keep_line,
                              .log_user = line,
                              .log_level = SALF_LOG_INFO};
    slf_fail(SALF_E_IO, "the message before");
    CHECK_OK(salf_context_create(&context, &o));
    ck_assert_str_eq(salf_last_error(), "the message before"); /* a call that succeeds leaves it as it is */
    ck_assert(harness_contains(line, "3:no cuda backend"));
    ck_assert(harness_contains(line, "/nonexistent/p.so"));
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_CPU);
    line[0] = 0;
    slf_log(context, SALF_LOG_DEBUG, "too much");
    ck_assert_str_eq(line, "");
    slf_log(context, SALF_LOG_ERROR, "n=%d", 4);
    ck_assert_str_eq(line, "1:n=4");
    salf_context_destroy(context);
}
END_TEST

START_TEST(failing_collectives_are_reported) {
    salf_context *context;
    salf_context_options o = {.struct_size = sizeof o,
                              .backend = SALF_BACKEND_REFERENCE,
                              .ranks = 2,
                              .rank = 1,
                              .all_reduce = reduce_nothing};
    CHECK_OK(salf_context_create(&context, &o));
    double x = 0;
    CHECK_FAILS(slf_all_reduce(context, &x, 1, SALF_F64, SALF_ALL_REDUCE_SUM), SALF_E_CALLBACK, "returned 3 on rank 1");
    CHECK_OK(slf_all_reduce(context, &x, 0, SALF_F64, SALF_ALL_REDUCE_SUM));
    salf_context_destroy(context);
}
END_TEST

START_TEST(allocations_are_aligned_and_overflow_safe) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    for (uint64_t n = 0; n < 200; n++) {
        unsigned char *block = slf_alloc_zero(context, n, 3);
        ck_assert_ptr_nonnull(block);
        ck_assert_uint_eq((uintptr_t)block % 64, 0);
        for (uint64_t i = 0; i < 3 * n; i++) ck_assert_int_eq(block[i], 0);
        slf_free(context, block);
    }
    ck_assert_ptr_null(slf_alloc(context, UINT64_MAX / 2, 4));
    ck_assert(harness_contains(salf_last_error(), "exceed the address space"));
    slf_free(context, NULL);
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
}
END_TEST

START_TEST(pointers_are_allocated_by_what_they_point_to) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    int64_t *numbers = NULL;
    CHECK_OK(SLF_ALLOC_ZERO(context, numbers, 5));
    for (int i = 0; i < 5; i++) ck_assert_int_eq(numbers[i], 0);
    slf_free(context, numbers);
    memory.fail_at = memory.calls;
    CHECK_FAILS(SLF_ALLOC(context, numbers, 5), SALF_E_NO_MEMORY, "104 bytes");
    ck_assert_ptr_null(numbers);
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
}
END_TEST

START_TEST(a_block_is_measured_and_carved_alike) {
    static _Alignas(64) char block[512];
    const int64_t counts[] = {3, 0, 16, 65, 1};
    const uint64_t places[] = {0, 64, 64, 128, 448};
    slf_carver measure = {0}, carve = {.base = block};
    for (int i = 0; i < 5; i++) {
        ck_assert_ptr_null(slf_carve(&measure, counts[i], i == 3 ? 4 : 2));
        ck_assert_ptr_eq(slf_carve(&carve, counts[i], i == 3 ? 4 : 2), block + places[i]);
    }
    ck_assert_uint_eq(measure.used, 512);
    ck_assert_uint_eq(carve.used, 512);
    for (int i = 0; i < 3; i++) { /* too large stays too large */
        slf_carver large = {0};
        slf_carve(&large, 2, 32);
        slf_carve(&large, i == 0 ? INT64_MAX : i == 1 ? -1 : 1, i == 2 ? UINT64_MAX - 64 : 8);
        slf_carve(&large, 1, 1);
        ck_assert_uint_eq(large.used, UINT64_MAX);
    }
    ck_assert_uint_eq(slf_mul_add(UINT64_MAX / 3, 3, 0), UINT64_MAX);
    ck_assert_uint_eq(slf_mul_add(1 << 20, 1 << 20, 7), ((uint64_t)1 << 40) + 7);
    ck_assert_uint_eq(slf_mul_add((uint64_t)1 << 32, (uint64_t)1 << 32, 0), UINT64_MAX);
    ck_assert_uint_eq(slf_mul_add(1, UINT64_MAX, 1), UINT64_MAX);
}
END_TEST

/* ---- parallel loops ---- */

enum { LOOP = 1000 };

static void count_visits(void *user, int64_t first, int64_t last) {
    int *visits = user;
    for (int64_t i = first; i < last; i++) visits[i]++;
}

typedef struct {
    salf_context *context;
    int visits[LOOP];
} loop_of_a_thread;

static void *run_loops(void *argument) {
    loop_of_a_thread *mine = argument;
    for (int repeat = 0; repeat < 200; repeat++) slf_parallel_for(mine->context, LOOP, 10, count_visits, mine->visits);
    return NULL;
}

START_TEST(loops_visit_everything_once_also_from_several_threads) {
    for (int threads = 0; threads <= 4; threads++) {
        salf_context *context;
        salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_REFERENCE, .threads = threads};
        CHECK_OK(salf_context_create(&context, &o));
        static loop_of_a_thread mine[2];
        pthread_t other;
        for (int t = 0; t < 2; t++) mine[t] = (loop_of_a_thread){.context = context};
        pthread_create(&other, NULL, run_loops, &mine[1]);
        run_loops(&mine[0]);
        pthread_join(other, NULL);
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < LOOP; i++) ck_assert_int_eq(mine[t].visits[i], 200);
        slf_parallel_for(context, 0, 1, count_visits, mine[0].visits);
        ck_assert_int_eq(mine[0].visits[0], 200);
        salf_context_destroy(context);
    }
}
END_TEST

/* ---- tensors ---- */

START_TEST(half_precision_is_exact) {
    for (uint32_t h = 0; h < 0x10000; h++) {
        const uint16_t half = (uint16_t)h;
        const int exponent = half >> 10 & 31, fraction = half & 1023;
        const double magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
        const double value = half & 0x8000 ? -magnitude : magnitude;
        const float got = slf_f16_to_f32(half);
        if (exponent == 31)
            ck_assert(fraction ? isnan(got) : isinf(got) && !signbit(got) == !(half >> 15));
        else
            ck_assert_msg((double)got == value && !signbit(got) == !(half >> 15), "%#x: %g", h, (double)got);
        if (!isnan(got)) ck_assert_uint_eq(harness_to_f16(got), half);
        const float wide = slf_bf16_to_f32(half);
        if (!isnan(wide)) ck_assert_uint_eq(harness_to_bf16(wide), half);
    }
}
END_TEST

START_TEST(rows_are_found_through_stride_and_index) {
    const float data[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const int64_t index[3] = {2, 0, 2};
    salf_tensor view = slf_tensor_host(data, SALF_F32, 3, 3);
    view.row_stride = 4;
    view.row_index = index;
    CHECK_OK(slf_tensor_check(&view, "view", 3, 3, false));
    float row[3];
    double wide[3];
    slf_row_to_f32(&view, 0, row);
    ck_assert_float_eq(row[2], 10);
    slf_row_to_f64(&view, 1, wide);
    ck_assert_double_eq(wide[1], 1);
    view.row_index = NULL;
    view.row_stride = 0;
    slf_row_to_f32(&view, 2, row);
    ck_assert_float_eq(row[0], 6);
}
END_TEST

START_TEST(bad_views_are_refused) {
    float data[6] = {0};
    const int64_t index[2] = {0, -4};
    const salf_tensor good = slf_tensor_host(data, SALF_F32, 2, 3);
    salf_tensor t;
#define VIEW_REFUSED(change, status, words)                                         \
    do {                                                                            \
        t = good;                                                                   \
        change;                                                                     \
        CHECK_FAILS(slf_tensor_check(&t, "states", 2, 3, false), status, "states"); \
        CHECK_FAILS(slf_tensor_check(&t, "states", 2, 3, false), status, words);    \
    } while (0)
    VIEW_REFUSED(t.rows = 5, SALF_E_SHAPE, "5 rows where 2");
    VIEW_REFUSED(t.cols = 4, SALF_E_SHAPE, "4 columns where 3");
    VIEW_REFUSED(t.rows = -1, SALF_E_SHAPE, "[-1][3]");
    VIEW_REFUSED(t.dtype = SALF_I32, SALF_E_DTYPE, "int32");
    VIEW_REFUSED(t.dtype = 99, SALF_E_DTYPE, "99");
    VIEW_REFUSED(t.data = NULL, SALF_E_NULL, "data is NULL");
    VIEW_REFUSED(t.data = (char *)data + 2, SALF_E_ARGUMENT, "data is at address");
    VIEW_REFUSED((t.data = (char *)data + 1, t.dtype = SALF_BF16), SALF_E_ARGUMENT, "not aligned");
    VIEW_REFUSED(t.row_index = (const int64_t *)(const void *)((const char *)index + 4), SALF_E_ARGUMENT,
                 "row_index is at address");
    VIEW_REFUSED(t.row_stride = INT64_MAX, SALF_E_OVERFLOW, "9223372036854775807");
    VIEW_REFUSED(t.row_stride = INT64_MIN, SALF_E_OVERFLOW, "-9223372036854775808");
    VIEW_REFUSED(t.memory = SALF_MEMORY_DEVICE, SALF_E_ARGUMENT, "device memory");
    VIEW_REFUSED(t.memory = 7, SALF_E_ARGUMENT, "memory 7");
    VIEW_REFUSED(t.row_index = index, SALF_E_ARGUMENT, "row_index[1] is -4");
    /* what data has, where the host says so */
    const int64_t beyond[2] = {1, 2}, last[2] = {1, 1};
    VIEW_REFUSED(t.extent = -1, SALF_E_ARGUMENT, "extent is -1");
    VIEW_REFUSED(t.extent = 1, SALF_E_SHAPE, "2 rows, but its data has an extent of 1");
    VIEW_REFUSED((t.row_index = beyond, t.extent = 2), SALF_E_ARGUMENT,
                 "row_index[1] is 2, but its data has an extent of 2");
    t = good;
    t.row_index = last;
    t.extent = 2;
    CHECK_OK(slf_tensor_check(&t, "states", 2, 3, false));
    t.index_memory = SALF_MEMORY_DEVICE;
    CHECK_FAILS(slf_tensor_check(&t, "states", 2, 3, true), SALF_E_UNSUPPORTED, "extent is 2");
    CHECK_FAILS(slf_tensor_check(NULL, "states", 2, 3, false), SALF_E_NULL, "states");
    t = (salf_tensor){.rows = 0, .cols = 3};
    CHECK_OK(slf_tensor_check(&t, "states", 0, 3, false));
}
END_TEST

/* ---- random numbers ---- */

/* Known answers published with the generator (Random123, kat_vectors). */
START_TEST(philox_gives_the_published_numbers) {
    uint32_t out[4];
    slf_philox(0, 0, 0, out);
    const uint32_t zeros[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    ck_assert_mem_eq(out, zeros, sizeof out);
    slf_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, out);
    const uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    ck_assert_mem_eq(out, ones, sizeof out);
    slf_philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, out);
    const uint32_t pi[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    ck_assert_mem_eq(out, pi, sizeof out);
}
END_TEST

/* Against 128-bit integers of the compiler, where it has them: corners, and numbers of all lengths. */
START_TEST(products_compare_exactly) {
    static const int64_t corners[] = {
        0, 1, 2, 3, INT32_MAX, (int64_t)UINT32_MAX, (int64_t)1 << 32, INT64_MAX - 1, INT64_MAX};
    enum { N = sizeof corners / sizeof *corners };
    for (int i = 0; i < 200000; i++) {
        int64_t x[4];
        for (int j = 0; j < 4; j++) {
            const uint64_t at = (uint64_t)(4 * i + j);
            x[j] = (int64_t)(slf_random_bits(1, 2, at) >> (1 + slf_random_below(1, 3, at, 62)));
            if (slf_random_below(1, 4, at, 3) == 0) x[j] = corners[slf_random_below(1, 5, at, N)];
            if (j % 2 == 0 && slf_random_below(1, 6, at, 2)) x[j] = -x[j];
        }
        if (i % 7 == 0) x[2] = x[0], x[3] = x[1]; /* equal ones */
        __extension__ const __int128 left = (__int128)x[0] * x[1], right = (__int128)x[2] * x[3];
        const int want = left < right ? -1 : left > right;
        CHECK_EACH(slf_compare_products(x[0], x[1], x[2], x[3]) == want, "%lld * %lld against %lld * %lld",
                   (long long)x[0], (long long)x[1], (long long)x[2], (long long)x[3]);
    }
    ck_assert_int_eq(slf_compare_products(INT64_MIN, 1, INT64_MAX, 1), -1);
    ck_assert_int_eq(slf_compare_products(INT64_MIN, INT64_MAX, INT64_MIN, INT64_MAX), 0);
}
END_TEST

START_TEST(ids_keep_their_index) {
    harness_memory memory = {.fail_at = -1};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    slf_ids set = {.most = 3000};
    int32_t index;
    ck_assert_int_eq(slf_ids_find(&set, 0), -1);
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < 3000; i++) { /* neighbours, far apart, negative */
            const int64_t id = i % 3 == 0 ? i : i % 3 == 1 ? i << 40 : -i;
            CHECK_OK(slf_ids_add(&set, context, id, &index));
            ck_assert_int_eq(index, i);
            ck_assert_int_eq(slf_ids_find(&set, id), i);
        }
    CHECK_OK(slf_ids_add(&set, context, 1, &index)); /* full, and this one is not there */
    ck_assert_int_eq(index, -1);
    ck_assert_int_eq(slf_ids_find(&set, 1), -1);
    ck_assert_int_eq(set.n, 3000);
    slf_ids_free(&set, context);
    const int64_t alive = memory.alive;
    memory.fail_at = memory.calls + 1; /* the second of two allocations */
    set.most = 5;
    CHECK_FAILS(slf_ids_add(&set, context, 9, &index), SALF_E_NO_MEMORY, "");
    ck_assert_int_eq(memory.alive, alive);
    ck_assert_int_eq(set.n, 0);
    salf_context_destroy(context);
}
END_TEST

START_TEST(bounded_draws_are_uniform) {
    enum { BINS = 7, DRAWS = 70000 };
    int64_t counts[BINS] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) counts[slf_random_below(42, 1, i, BINS)]++;
    double chi2 = 0;
    for (int b = 0; b < BINS; b++) chi2 += pow((double)counts[b] - DRAWS / BINS, 2) / (DRAWS / BINS);
    ck_assert_double_lt(chi2, 22.5); /* 6 degrees of freedom: p = 0.001 */
    /* A bound just above 2^63 rejects almost half of all draws: the path with several tries. */
    const uint64_t bound = ((uint64_t)1 << 63) + 1;
    int64_t low = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        const uint64_t draw = slf_random_below(42, 2, i, bound);
        ck_assert_uint_lt(draw, bound);
        low += draw < bound / 2;
    }
    ck_assert_int_gt(low, 4800);
    ck_assert_int_lt(low, 5200);
    ck_assert_uint_eq(slf_random_below(1, 2, 3, 1), 0);
    double sum = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        const double unit = slf_random_unit(9, 9, i);
        ck_assert(unit >= 0 && unit < 1);
        sum += unit;
    }
    ck_assert_double_eq_tol(sum / 10000, 0.5, 0.01);
}
END_TEST

START_TEST(row_hashes_see_every_change) {
    float row[5] = {1, 2, 3, 4, 5};
    const uint64_t hash = slf_row_hash(row, 5, 3);
    ck_assert_uint_ne(hash, slf_row_hash(row, 5, 4));
    ck_assert_uint_ne(hash, slf_row_hash(row, 4, 3));
    for (int i = 0; i < 5; i++) {
        const float before = row[i];
        row[i] = nextafterf(before, 9);
        ck_assert_uint_ne(hash, slf_row_hash(row, 5, 3));
        row[i] = before;
    }
    const float swapped[5] = {1, 3, 2, 4, 5};
    ck_assert_uint_ne(hash, slf_row_hash(swapped, 5, 3));
    const float zero[1] = {0.0f}, minus[1] = {-0.0f};
    ck_assert_uint_eq(slf_row_hash(zero, 1, 0), slf_row_hash(minus, 1, 0));
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, every_status_has_a_name_and_a_text);
    HARNESS_ADD(suite, messages_are_per_thread_one_line_and_bounded);
    HARNESS_ADD(suite, values_that_are_no_word_of_a_family_are_refused_with_the_words);
    HARNESS_ADD(suite, version_is_that_of_the_header);
    HARNESS_ADD(suite, constants_are_found_by_name);
    HARNESS_ADD(suite, options_of_an_older_caller_are_completed);
    HARNESS_ADD(suite, options_of_a_newer_caller_pass_when_the_tail_is_zero);
    HARNESS_ADD(suite, options_without_a_size_are_refused);
    HARNESS_ADD(suite, sizes_that_cut_a_field_in_two_are_refused);
    HARNESS_ADD(suite, results_fit_older_and_newer_callers);
    HARNESS_ADD(suite, context_survives_every_failing_allocation);
    HARNESS_ADD(suite, context_says_what_it_uses);
    HARNESS_ADD(suite, context_refuses_bad_options);
    HARNESS_ADD(suite, environment_chooses_where_the_host_does_not);
    HARNESS_ADD(suite, auto_falls_back_to_the_cpu_and_says_so);
    HARNESS_ADD(suite, failing_collectives_are_reported);
    HARNESS_ADD(suite, allocations_are_aligned_and_overflow_safe);
    HARNESS_ADD(suite, pointers_are_allocated_by_what_they_point_to);
    HARNESS_ADD(suite, a_block_is_measured_and_carved_alike);
    HARNESS_ADD(suite, loops_visit_everything_once_also_from_several_threads);
    HARNESS_ADD(suite, half_precision_is_exact);
    HARNESS_ADD(suite, rows_are_found_through_stride_and_index);
    HARNESS_ADD(suite, bad_views_are_refused);
    HARNESS_ADD(suite, philox_gives_the_published_numbers);
    HARNESS_ADD(suite, products_compare_exactly);
    HARNESS_ADD(suite, ids_keep_their_index);
    HARNESS_ADD(suite, bounded_draws_are_uniform);
    HARNESS_ADD(suite, row_hashes_see_every_change);
}
