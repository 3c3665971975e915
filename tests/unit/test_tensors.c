/* Tensor files: what is saved comes back; a save that fails leaves the old file and nothing beside it. */
#define _GNU_SOURCE /* unshare */
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "harness.h"
#include "io/io.h"

static const int32_t all_dtypes[] = {SALF_F32, SALF_BF16, SALF_F16, SALF_F64, SALF_I8, SALF_U8, SALF_I32, SALF_I64};
enum { N_DTYPES = sizeof all_dtypes / sizeof *all_dtypes };

enum { ROOM = 512 };

/* ---- helpers ---- */

static salf_named_tensor named(const char *name, const void *data, int32_t dtype, int64_t rows, int64_t cols) {
    return (salf_named_tensor){.name = name, .view = slf_tensor_host(data, dtype, rows, cols)};
}

static int files_in(const char *folder) {
    DIR *open_folder = opendir(folder);
    ck_assert_ptr_nonnull(open_folder);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(open_folder));) n += entry->d_name[0] != '.';
    closedir(open_folder);
    return n;
}

/* ---- files that change while they are in use ---- */

START_TEST(what_was_read_stays) {
    static const float values[3000] = {1.5f, [2999] = -2.5f};
    const salf_context_options options = {.struct_size = sizeof options, .backend = SALF_BACKEND_CPU, .read_files = 1};
    const char *path = harness_path("cut.safetensors");
    const salf_named_tensor saved = named("w", values, SALF_F32, 1000, 3);
    salf_context *context;
    salf_tensors *tensors = NULL;
    CHECK_OK(salf_context_create(&context, &options));
    CHECK_OK(salf_tensors_save(context, path, &saved, 1, NULL, 0));
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    ck_assert_int_eq(truncate(path, 0), 0); /* under a mapping each look at it would end the process by SIGBUS */
    salf_named_tensor found;
    CHECK_OK(salf_tensors_find(tensors, "w", &found));
    ck_assert_int_eq(memcmp(found.view.data, values, sizeof values), 0);
    salf_tensors_destroy(tensors);
    CHECK_FAILS(salf_tensors_open(&tensors, context, path), SALF_E_TRUNCATED, "cut.safetensors");
    salf_context_destroy(context);
}
END_TEST

/* ---- round trips ---- */

START_TEST(every_dtype_comes_back) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("dtypes.safetensors");
    uint8_t data[96];
    char names[N_DTYPES][16];
    salf_named_tensor in[N_DTYPES];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37 + 11);
    for (int i = 0; i < N_DTYPES; i++) {
        snprintf(names[i], sizeof names[i], "t%d", N_DTYPES - i);
        in[i] = named(names[i], data, all_dtypes[i], 3, 4);
    }
    CHECK_OK(salf_tensors_save(context, path, in, N_DTYPES, NULL, 0));
    salf_tensors *tensors;
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    ck_assert_int_eq(salf_tensors_count(tensors), N_DTYPES);
    for (int i = 0; i < N_DTYPES; i++) {
        salf_named_tensor out, at;
        CHECK_OK(salf_tensors_find(tensors, names[i], &out));
        ck_assert(out.view.dtype == all_dtypes[i] && out.n_dims == 2 && out.shape[0] == 3 && out.shape[1] == 4);
        ck_assert(out.view.rows == 3 && out.view.cols == 4);
        const int64_t size = slf_dtype_size(all_dtypes[i]);
        ck_assert_uint_eq((uintptr_t)out.view.data % (uintptr_t)size, 0);
        ck_assert_mem_eq(out.view.data, data, (size_t)(12 * size));
        CHECK_OK(salf_tensors_at(tensors, N_DTYPES - 1 - i, &at)); /* in order of name */
        ck_assert_str_eq(at.name, names[i]);
    }
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

START_TEST(strides_and_indices_are_followed) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("strides.safetensors");
    int32_t data[20];
    for (int i = 0; i < 20; i++) data[i] = i;
    const int64_t index[] = {3, 0, 3};
    salf_named_tensor in[] = {named("stride", data, SALF_I32, 3, 2), named("index", data, SALF_I32, 3, 4),
                              named("dense", data, SALF_I32, 2, 4)};
    in[0].view.row_stride = 5;
    in[1].view.row_index = index;
    in[2].view.row_stride = 0;
    CHECK_OK(salf_tensors_save(context, path, in, 3, NULL, 0));
    salf_tensors *tensors;
    salf_named_tensor out;
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    CHECK_OK(salf_tensors_find(tensors, "stride", &out));
    ck_assert_mem_eq(out.view.data, ((const int32_t[]){0, 1, 5, 6, 10, 11}), 24);
    CHECK_OK(salf_tensors_find(tensors, "index", &out));
    ck_assert_mem_eq(out.view.data, ((const int32_t[]){12, 13, 14, 15, 0, 1, 2, 3, 12, 13, 14, 15}), 48);
    CHECK_OK(salf_tensors_find(tensors, "dense", &out));
    ck_assert_mem_eq(out.view.data, data, 32);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

/* Shapes of 1 to 8 dimensions, and of none through a file written by hand. */
START_TEST(shapes_come_back) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("shapes.safetensors");
    uint16_t data[256] = {7};
    for (int32_t n = 1; n <= 8; n++) {
        const int64_t cols = n == 1 ? 3 : (int64_t)1 << (n - 1), rows = n == 1 ? 1 : 2;
        salf_named_tensor in = named("x", data, SALF_BF16, rows, cols), out;
        in.n_dims = n;
        for (int32_t d = 0; d < n; d++) in.shape[d] = n == 1 ? 3 : 2;
        CHECK_OK(salf_tensors_save(context, path, &in, 1, NULL, 0));
        salf_tensors *tensors;
        CHECK_OK(salf_tensors_open(&tensors, context, path));
        CHECK_OK(salf_tensors_at(tensors, 0, &out));
        ck_assert_int_eq(out.n_dims, n);
        ck_assert_mem_eq(out.shape, in.shape, sizeof in.shape);
        ck_assert(out.view.rows == rows && out.view.cols == cols && out.view.row_stride == cols);
        salf_tensors_destroy(tensors);
    }
    files_write_tensors(path, "{\"x\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1);
    salf_tensors *tensors;
    salf_named_tensor out;
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    CHECK_OK(salf_tensors_at(tensors, 0, &out));
    ck_assert(out.n_dims == 0 && out.view.rows == 1 && out.view.cols == 1);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

START_TEST(empty_tensors_come_back) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("empty.safetensors");
    float one = 1;
    salf_named_tensor in[] = {named("a", NULL, SALF_F32, 0, 5), named("b", NULL, SALF_F64, 3, 0),
                              named("c", NULL, SALF_I8, 0, 0), named("one", &one, SALF_F32, 1, 1)},
                      out;
    in[2].n_dims = 3;
    in[2].shape[0] = 2, in[2].shape[1] = 0, in[2].shape[2] = 4;
    CHECK_OK(salf_tensors_save(context, path, in, 4, NULL, 0));
    salf_tensors *tensors;
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    CHECK_OK(salf_tensors_find(tensors, "a", &out));
    ck_assert(out.view.rows == 0 && out.view.cols == 5);
    CHECK_OK(salf_tensors_find(tensors, "b", &out));
    ck_assert(out.view.rows == 3 && out.view.cols == 0);
    CHECK_OK(salf_tensors_find(tensors, "c", &out));
    ck_assert(out.n_dims == 3 && out.shape[0] == 2 && out.shape[1] == 0 && out.shape[2] == 4 && out.view.cols == 0);
    salf_tensors_destroy(tensors);
    CHECK_OK(salf_tensors_save(context, path, NULL, 0, NULL, 0));
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    ck_assert_int_eq(salf_tensors_count(tensors), 0);
    CHECK_FAILS(salf_tensors_at(tensors, 0, &out), SALF_E_NOT_FOUND, "index 0 of 0");
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

START_TEST(names_and_metadata_come_back) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("names.safetensors");
    const float data[2] = {1, 2};
    const char *const metadata[] = {"format", "pt", "\"quoted\\\n", "Gr\xc3\xbc\xc3\x9f", "empty", ""};
    const salf_named_tensor in[] = {named("\xe5\xb1\x82.0", data, SALF_F32, 1, 2),
                                    named("a \"b\"\t\\", data, SALF_F32, 2, 1)};
    CHECK_OK(salf_tensors_save(context, path, in, 2, metadata, 3));
    salf_tensors *tensors;
    salf_named_tensor out;
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    for (int i = 0; i < 2; i++) CHECK_OK(salf_tensors_find(tensors, in[i].name, &out));
    for (int i = 0; i < 3; i++) ck_assert_str_eq(salf_tensors_metadata(tensors, metadata[2 * i]), metadata[2 * i + 1]);
    ck_assert_ptr_null(salf_tensors_metadata(tensors, "other"));
    ck_assert_ptr_null(salf_tensors_metadata(NULL, "format"));
    ck_assert_int_eq(salf_tensors_count(NULL), 0);
    CHECK_FAILS(salf_tensors_find(tensors, "missing", &out), SALF_E_NOT_FOUND, "missing");
    CHECK_FAILS(salf_tensors_at(tensors, 2, &out), SALF_E_NOT_FOUND, "index 2 of 2");
    CHECK_FAILS(salf_tensors_at(tensors, -1, &out), SALF_E_NOT_FOUND, "index -1");
    CHECK_FAILS(salf_tensors_at(tensors, 0, NULL), SALF_E_NULL, "out");
    CHECK_FAILS(salf_tensors_at(NULL, 0, &out), SALF_E_NULL, "tensors");
    CHECK_FAILS(salf_tensors_find(tensors, NULL, &out), SALF_E_NULL, "name");
    salf_tensors_destroy(tensors);
    salf_tensors_destroy(NULL);
    salf_context_destroy(context);
    free(path);
}
END_TEST

/* The same content, given in another order, makes the same bytes; the handle outlives the context's owner. */
START_TEST(same_content_same_bytes) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *a = files_path("a.safetensors"), *b = files_path("b.safetensors");
    const double data[3] = {1, 2, 3};
    const salf_named_tensor in[] = {named("u8", data, SALF_U8, 1, 3), named("f64", data, SALF_F64, 1, 3),
                                    named("bf", data, SALF_BF16, 1, 3), named("f64b", data, SALF_F64, 1, 3),
                                    named("i8", data, SALF_I8, 1, 3)};
    enum { N = sizeof in / sizeof *in };
    const salf_named_tensor other[N] = {in[4], in[3], in[2], in[0], in[1]};
    CHECK_OK(salf_tensors_save(context, a, in, N, NULL, 0));
    CHECK_OK(salf_tensors_save(context, b, other, N, NULL, 0));
    uint8_t bytes_a[1024], bytes_b[1024];
    const size_t n = files_read(a, bytes_a, sizeof bytes_a);
    ck_assert_uint_eq(files_read(b, bytes_b, sizeof bytes_b), n);
    ck_assert_mem_eq(bytes_a, bytes_b, n);
    salf_tensors *tensors;
    salf_named_tensor out;
    CHECK_OK(salf_tensors_open(&tensors, context, a));
    salf_context_destroy(context);
    CHECK_OK(salf_tensors_find(tensors, "f64", &out));
    ck_assert_mem_eq(out.view.data, data, sizeof data);
    ck_assert_uint_eq(bytes_a[0] % 8, 0); /* all data are aligned in the file, none has to be copied */
    for (int i = 0; i < N; i++) ck_assert_ptr_null(slf_tensors_entry(tensors, in[i].name)->copy);
    salf_tensors_destroy(tensors);
    free(a);
    free(b);
}
END_TEST

/* ---- saves that fail ---- */

START_TEST(bad_tensors_are_not_saved) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *folder = files_path("refused"), path[ROOM];
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    snprintf(path, sizeof path, "%s/x", folder);
    const float data[6] = {0};
    const salf_named_tensor good = named("x", data, SALF_F32, 2, 3);
#define REFUSED(change, status, words)                                                \
    do {                                                                              \
        salf_named_tensor t = good;                                                   \
        change;                                                                       \
        CHECK_FAILS(salf_tensors_save(context, path, &t, 1, NULL, 0), status, words); \
    } while (0)
    REFUSED(t.name = NULL, SALF_E_ARGUMENT, "tensor 0");
    REFUSED(t.name = "", SALF_E_ARGUMENT, "tensor 0");
    REFUSED(t.name = "__metadata__", SALF_E_ARGUMENT, "tensor 0");
    REFUSED(t.name = "\xc3(", SALF_E_ARGUMENT, "UTF-8");
    REFUSED(t.view.dtype = 0, SALF_E_DTYPE, "dtype 0");
    REFUSED(t.view.dtype = 99, SALF_E_DTYPE, "dtype 99");
    REFUSED(t.view.rows = -1, SALF_E_SHAPE, "[-1][3]");
    REFUSED(t.view.cols = INT64_MAX, SALF_E_SHAPE, "[2]");
    REFUSED(t.view.data = NULL, SALF_E_NULL, "'x'");
    REFUSED(t.view.memory = SALF_MEMORY_DEVICE, SALF_E_ARGUMENT, "host memory");
    REFUSED(t.view.index_memory = SALF_MEMORY_DEVICE, SALF_E_ARGUMENT, "host memory");
    REFUSED(t.n_dims = -1, SALF_E_ARGUMENT, "-1 dimensions");
    REFUSED(t.n_dims = 9, SALF_E_ARGUMENT, "9 dimensions");
    REFUSED(t.reserved = 3, SALF_E_ARGUMENT, "reserved of a tensor is 3");
    REFUSED((t.n_dims = 2, t.shape[0] = 2, t.shape[1] = 4), SALF_E_SHAPE, "disagree");
    REFUSED((t.n_dims = 2, t.shape[0] = -2, t.shape[1] = -3), SALF_E_SHAPE, "disagree");
    REFUSED((t.n_dims = 1, t.shape[0] = 0), SALF_E_SHAPE, "disagree");
    REFUSED((t.view.rows = 0, t.n_dims = 3, t.shape[1] = t.shape[2] = INT64_MAX / 2), SALF_E_SHAPE, "disagree");
#undef REFUSED
    const salf_named_tensor twice[] = {good, good};
    CHECK_FAILS(salf_tensors_save(context, path, twice, 2, NULL, 0), SALF_E_ARGUMENT, "two tensors are called 'x'");
    CHECK_FAILS(salf_tensors_save(context, path, &good, -1, NULL, 0), SALF_E_ARGUMENT, "-1");
    CHECK_FAILS(salf_tensors_save(context, path, NULL, 1, NULL, 0), SALF_E_ARGUMENT, "1 tensors");
    CHECK_FAILS(salf_tensors_save(context, path, &good, 1, NULL, 1), SALF_E_ARGUMENT, "1 pairs");
    CHECK_FAILS(salf_tensors_save(context, NULL, &good, 1, NULL, 0), SALF_E_NULL, "path");
    CHECK_FAILS(salf_tensors_save(NULL, path, &good, 1, NULL, 0), SALF_E_NULL, "context");
    const char *const again[] = {"key", "a", "key", "b"};
    CHECK_FAILS(salf_tensors_save(context, path, &good, 1, again, 2), SALF_E_ARGUMENT, "the key 'key'");
    const char *const pairs[][2] = {{"key", NULL}, {NULL, "value"}, {"key", "\xff"}, {"\xff", "value"}};
    for (int i = 0; i < 4; i++)
        CHECK_FAILS(salf_tensors_save(context, path, &good, 1, pairs[i], 1), SALF_E_ARGUMENT, "metadata");
    ck_assert_int_eq(files_in(folder), 0);
    salf_context_destroy(context);
    free(folder);
}
END_TEST

START_TEST(unwritable_places) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const float data[1] = {1};
    const salf_named_tensor t = named("x", data, SALF_F32, 1, 1);
    char *folder = files_path("target"), path[ROOM];
    CHECK_FAILS(salf_tensors_save(context, "/nonexistent/x", &t, 1, NULL, 0), SALF_E_IO, "/nonexistent/x");
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    snprintf(path, sizeof path, "%s/inner", folder);
    ck_assert_int_eq(mkdir(path, 0777), 0);
    CHECK_FAILS(salf_tensors_save(context, path, &t, 1, NULL, 0), SALF_E_IO, path); /* a folder stands there */
    ck_assert_int_eq(files_in(folder), 1);
    ck_assert_int_eq(chmod(folder, 0555), 0);
    ck_assert_int_eq(chmod(harness_path("."), 0755), 0);
    snprintf(path, sizeof path, "%s/x", folder);
    if (geteuid() != 0 || seteuid(65534) == 0) { /* root may write to every folder */
        CHECK_FAILS(salf_tensors_save(context, path, &t, 1, NULL, 0), SALF_E_IO, "cannot create");
        ck_assert_int_eq(seteuid(getuid()), 0);
    }
    ck_assert_int_eq(chmod(folder, 0777), 0);
    ck_assert_int_eq(files_in(folder), 1);
    ck_assert_int_eq(chmod(folder, 0333), 0);
    if (geteuid() != 0 || seteuid(65534) == 0) { /* a folder that may be written to, but not read */
        CHECK_OK(salf_tensors_save(context, path, &t, 1, NULL, 0));
        ck_assert_int_eq(seteuid(getuid()), 0);
    }
    ck_assert_int_eq(chmod(folder, 0777), 0);
    ck_assert_int_eq(files_in(folder), 2);
    salf_context_destroy(context);
    free(folder);
}
END_TEST

/* Writing fails in the middle, by a limit on the size of files: the old file stays, and nothing lies beside it. */
START_TEST(failed_save_keeps_the_old_file) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *folder = files_path("kept"), path[ROOM];
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    snprintf(path, sizeof path, "%s/x", folder);
    float *data = calloc(65536, sizeof *data);
    salf_named_tensor t = named("x", data, SALF_F32, 1, 4);
    uint8_t before[1024], after[1024];
    CHECK_OK(salf_tensors_save(context, path, &t, 1, NULL, 0));
    const size_t n = files_read(path, before, sizeof before);
    struct rlimit old;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    const struct rlimit small = {.rlim_cur = 100000, .rlim_max = old.rlim_max};
    ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    t.view = slf_tensor_host(data, SALF_F32, 256, 256);
    CHECK_FAILS(salf_tensors_save(context, path, &t, 1, NULL, 0), SALF_E_IO, "cannot write");
    t.view = slf_tensor_host(data, SALF_F32, 255, 128);
    t.view.row_stride = 256;
    CHECK_FAILS(salf_tensors_save(context, path, &t, 1, NULL, 0), SALF_E_IO, path);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    ck_assert_uint_eq(files_read(path, after, sizeof after), n);
    ck_assert_mem_eq(before, after, n);
    ck_assert_int_eq(files_in(folder), 1);
    CHECK_OK(salf_tensors_save(context, path, &t, 1, NULL, 0)); /* and works again */
    salf_context_destroy(context);
    free(data);
    free(folder);
}
END_TEST

/* A mounted file that is open keeps its contents when another is saved over it. */
START_TEST(open_handle_survives_a_save) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("replaced.safetensors");
    const float first[2] = {1, 2}, second[2] = {3, 4};
    const salf_named_tensor a = named("x", first, SALF_F32, 1, 2), b = named("x", second, SALF_F32, 1, 2);
    salf_named_tensor out;
    salf_tensors *tensors;
    CHECK_OK(salf_tensors_save(context, path, &a, 1, NULL, 0));
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    CHECK_OK(salf_tensors_save(context, path, &b, 1, NULL, 0));
    CHECK_OK(salf_tensors_at(tensors, 0, &out));
    ck_assert_mem_eq(out.view.data, first, sizeof first);
    salf_tensors_destroy(tensors);
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    CHECK_OK(salf_tensors_at(tensors, 0, &out));
    ck_assert_mem_eq(out.view.data, second, sizeof second);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

/* A file system of 64 KiB at this folder, seen by this process alone; where the system does not let a test have one:
 * false.
 */
static bool mount_small(const char *folder) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    return mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", folder, "tmpfs", 0, "size=64k") == 0;
}

START_TEST(full_device) {
    char *folder = files_path("full"), path[ROOM];
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    if (!mount_small(folder)) {
        fprintf(stderr, "SKIPPED: no small file system can be mounted here\n");
        free(folder);
        return;
    }
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    snprintf(path, sizeof path, "%s/x", folder);
    float *data = calloc(65536, sizeof *data);
    uint8_t before[1024], after[1024];
    salf_named_tensor t = named("x", data, SALF_F32, 1, 4);
    CHECK_OK(salf_tensors_save(context, path, &t, 1, NULL, 0));
    const size_t n = files_read(path, before, sizeof before);
    t.view = slf_tensor_host(data, SALF_F32, 256, 256);
    CHECK_FAILS(salf_tensors_save(context, path, &t, 1, NULL, 0), SALF_E_NO_SPACE, path);
    ck_assert_uint_eq(files_read(path, after, sizeof after), n);
    ck_assert_mem_eq(before, after, n);
    ck_assert_int_eq(files_in(folder), 1);
    salf_context_destroy(context);
    umount(folder);
    free(data);
    free(folder);
}
END_TEST

/* ---- memory ---- */

static salf_status save_body(harness_memory *memory, int32_t backend, void *user) {
    salf_context *context;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    const float data[2] = {1, 2};
    const salf_named_tensor t[] = {named("x", data, SALF_F32, 1, 2), named("y", data, SALF_F32, 2, 1)};
    const char *const metadata[] = {"key", "value"};
    status = salf_tensors_save(context, user, t, 2, metadata, 1);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_allocation_of_save_can_fail) {
    char *folder = files_path("save"), path[ROOM];
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    snprintf(path, sizeof path, "%s/x", folder);
    harness_fail_each_allocation(save_body, SALF_BACKEND_REFERENCE, path);
    ck_assert_int_eq(files_in(folder), 1);
    free(folder);
}
END_TEST

/* More tensors than one step of growth holds, found by name. */
START_TEST(many_tensors) {
    enum { N = 500 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("many.safetensors");
    char(*names)[16] = malloc(N * sizeof *names);
    int32_t *values = malloc(N * sizeof *values);
    salf_named_tensor *in = malloc(N * sizeof *in);
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t.%d", i * 7919 % N);
        values[i] = i;
        in[i] = named(names[i], &values[i], SALF_I32, 1, 1);
    }
    CHECK_OK(salf_tensors_save(context, path, in, N, NULL, 0));
    salf_tensors *tensors;
    salf_named_tensor out, before = {.name = ""};
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    ck_assert_int_eq(salf_tensors_count(tensors), N);
    for (int i = 0; i < N; i++) {
        CHECK_OK(salf_tensors_find(tensors, names[i], &out));
        ck_assert_int_eq(*(const int32_t *)out.view.data, i);
        CHECK_OK(salf_tensors_at(tensors, i, &out));
        ck_assert_int_lt(strcmp(before.name, out.name), 0);
        before = out;
    }
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(in);
    free(values);
    free(names);
    free(path);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, what_was_read_stays);
    HARNESS_ADD(suite, every_dtype_comes_back);
    HARNESS_ADD(suite, strides_and_indices_are_followed);
    HARNESS_ADD(suite, shapes_come_back);
    HARNESS_ADD(suite, empty_tensors_come_back);
    HARNESS_ADD(suite, names_and_metadata_come_back);
    HARNESS_ADD(suite, same_content_same_bytes);
    HARNESS_ADD(suite, bad_tensors_are_not_saved);
    HARNESS_ADD(suite, unwritable_places);
    HARNESS_ADD(suite, failed_save_keeps_the_old_file);
    HARNESS_ADD(suite, open_handle_survives_a_save);
    HARNESS_ADD(suite, full_device);
    HARNESS_ADD(suite, each_allocation_of_save_can_fail);
    HARNESS_ADD(suite, many_tensors);
}
