/* Tensor files that lie are refused with what is wrong with them, alone and as shards; what is merely unknown or lies
 * at an odd place is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "harness.h"
#include "io/io.h"

static salf_status open_status(salf_context *context, const char *path) {
    salf_tensors *tensors;
    const salf_status status = salf_tensors_open(&tensors, context, path);
    ck_assert((status == SALF_OK) == (tensors != NULL));
    salf_tensors_destroy(tensors);
    return status;
}

/* ---- files that lie ---- */

#define ONE(dtype, shape, begin, end) \
    "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}}"
#define TWO(begin_a, end_a, begin_b, end_b)                                                                     \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" begin_a "," end_a "]},\"b\":{\"dtype\":\"U8\"," \
    "\"shape\":[4],\"data_offsets\":[" begin_b "," end_b "]}}"

static const struct {
    const char *header;
    size_t data;
    salf_status status;
    const char *words;
} lies[] = {
    {"", 0, SALF_E_CORRUPT, "'{'"},
    {"[1]", 0, SALF_E_CORRUPT, "'{'"},
    {"  [", 0, SALF_E_CORRUPT, "'{'"},
    {"{\"__metadata__\":null,\"t\":null}", 0, SALF_E_CORRUPT, "'t' is no object"},
    {"{", 0, SALF_E_CORRUPT, "line 1"},
    {"{\"t\":}", 0, SALF_E_CORRUPT, "line 1"},
    {"{} x", 0, SALF_E_CORRUPT, "line 1"},
    {"{\"t\":{},\"t\":{}}", 0, SALF_E_CORRUPT, "stands twice"},
    {"{\"t\\u0000\":{}}", 0, SALF_E_CORRUPT, "no shape"},
    {"{\"t\xff\":{}}", 0, SALF_E_CORRUPT, "a string in UTF-8"},
    {"{\"t\":3}", 0, SALF_E_CORRUPT, "'t' is no object"},
    {"{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, SALF_E_CORRUPT, "without a name"},
    {"{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, SALF_E_CORRUPT, "no shape"},
    {"{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, SALF_E_CORRUPT, "no dtype"},
    {"{\"t\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, SALF_E_CORRUPT, "no dtype"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, SALF_E_CORRUPT, "data_offsets"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, SALF_E_CORRUPT, "data_offsets"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"0\":0}}}", 4, SALF_E_CORRUPT, "data_offsets"},
    {ONE("F32", "3", "0", "4"), 4, SALF_E_CORRUPT, "no shape"},
    {ONE("F32", "[-1]", "0", "4"), 4, SALF_E_CORRUPT, "dimension 0"},
    {ONE("F32", "[1,-1]", "0", "4"), 4, SALF_E_CORRUPT, "dimension 1"},
    {ONE("F32", "[1.0]", "0", "4"), 4, SALF_E_CORRUPT, "dimension 0"},
    {ONE("F32", "[\"1\"]", "0", "4"), 4, SALF_E_CORRUPT, "dimension 0"},
    {ONE("F32", "[9223372036854775808]", "0", "4"), 4, SALF_E_CORRUPT, "is no size"},
    {ONE("F32", "[9223372036854775807]", "0", "4"), 4, SALF_E_CORRUPT, "overflow"},
    {ONE("F32", "[4294967296,4294967296]", "0", "0"), 0, SALF_E_CORRUPT, "overflow"},
    {ONE("U8", "[0,4611686018427387904,4611686018427387904]", "0", "0"), 0, SALF_E_CORRUPT, "overflow"},
    {ONE("F99", "[4611686018427387904,4611686018427387904]", "0", "0"), 0, SALF_E_CORRUPT, "overflow"},
    {ONE("F32", "[1,1,1,1,1,1,1,1,2]", "0", "4"), 4, SALF_E_CORRUPT, "4 bytes of data for a shape of 8"},
    {ONE("F32", "[1,1,1,1,1,1,1,1,-1]", "0", "4"), 4, SALF_E_CORRUPT, "dimension 8 is no size"},
    {ONE("F32", "[9223372036854775807,1,1,1,1,1,1,1,2]", "0", "4"), 4, SALF_E_CORRUPT, "overflow"},
    {ONE("F32", "[2]", "0", "4"), 4, SALF_E_CORRUPT, "4 bytes of data for a shape of 8"},
    {ONE("BOOL", "[5]", "0", "4"), 4, SALF_E_CORRUPT, "4 bytes of data for a shape of 5"},
    {ONE("F32", "[0]", "0", "4"), 4, SALF_E_CORRUPT, "4 bytes of data for a shape of 0"},
    {ONE("F32", "[1]", "4", "0"), 4, SALF_E_CORRUPT, "[4, 0]"},
    {ONE("F32", "[1]", "-4", "0"), 4, SALF_E_CORRUPT, "[-4, 0]"},
    {ONE("F32", "[1]", "0.0", "4"), 4, SALF_E_CORRUPT, "integers"},
    {ONE("F32", "[1]", "0", "4"), 3, SALF_E_TRUNCATED, "ends at 4"},
    {ONE("F32", "[1]", "4", "8"), 8, SALF_E_CORRUPT, "hole"},
    {ONE("F32", "[1]", "9223372036854775803", "9223372036854775807"), 8, SALF_E_CORRUPT, "hole"},
    {ONE("F32", "[1]", "0", "4"), 9, SALF_E_CORRUPT, "5 bytes after"},
    {"{}", 2, SALF_E_CORRUPT, "2 bytes after"},
    {TWO("0", "4", "2", "6"), 6, SALF_E_CORRUPT, "inside the one before"},
    {TWO("0", "4", "0", "4"), 4, SALF_E_CORRUPT, "inside the one before"},
    {TWO("0", "4", "5", "9"), 9, SALF_E_CORRUPT, "hole"},
    {TWO("4", "8", "0", "4"), 7, SALF_E_TRUNCATED, "'a' ends at 8"},
    {"{\"__metadata__\":3}", 0, SALF_E_CORRUPT, "__metadata__"},
    {"{\"__metadata__\":{\"k\":3}}", 0, SALF_E_CORRUPT, "metadata 'k' is no string"},
};

START_TEST(lies_are_refused) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    char *path = files_path("lie.safetensors");
    const int64_t alive = memory.alive;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        files_write_tensors(path, lies[i].header, lies[i].data);
        const salf_status status = open_status(context, path);
        ck_assert_msg(status == lies[i].status && harness_contains(salf_last_error(), lies[i].words) &&
                          harness_contains(salf_last_error(), "lie.safetensors"),
                      "%s: %s: %s", lies[i].header, salf_status_name(status), salf_last_error());
        ck_assert_int_eq(memory.alive, alive);
    }
    salf_context_destroy(context);
    free(path);
}
END_TEST

START_TEST(lengths_that_lie_are_refused) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("length.safetensors");
    uint8_t bytes[256];
    const size_t n = files_build_tensors(bytes, ONE("U8", "[4]", "0", "4"), 4);
    files_write(path, bytes, 0);
    CHECK_FAILS(open_status(context, path), SALF_E_TRUNCATED, "0 bytes");
    files_write(path, bytes, 7);
    CHECK_FAILS(open_status(context, path), SALF_E_TRUNCATED, "7 bytes");
    files_write(path, bytes, 8);
    CHECK_FAILS(open_status(context, path), SALF_E_TRUNCATED, "in a file of 8");
    for (size_t cut = 9; cut < n; cut++) {
        files_write(path, bytes, cut);
        CHECK_FAILS(open_status(context, path), SALF_E_TRUNCATED, "length.safetensors");
    }
    bytes[7] = 0x80;
    files_write(path, bytes, n);
    CHECK_FAILS(open_status(context, path), SALF_E_CORRUPT, "no safetensors file");
    bytes[7] = 0, bytes[4] = 0, bytes[3] = 0x05;
    files_write(path, bytes, n);
    CHECK_FAILS(open_status(context, path), SALF_E_TRUNCATED, "header of 83");
    memset(bytes, 0xff, 8);
    files_write(path, bytes, n);
    CHECK_FAILS(open_status(context, path), SALF_E_CORRUPT, "18446744073709551615");
    salf_context_destroy(context);
    free(path);
}
END_TEST

/* Types that are not known here are passed over until one is asked for. */
START_TEST(other_types_are_tolerated) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("types.safetensors");
    files_write_tensors(path,
                        "{\"a\":{\"dtype\":\"F4_SOMETHING_OF_A_LONG_NAME\",\"shape\":[3],\"data_offsets\":[0,2]},"
                        "\"b\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[2,4]},"
                        "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}",
                        5);
    salf_tensors *tensors;
    salf_named_tensor out = {.n_dims = 77};
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    ck_assert_int_eq(salf_tensors_count(tensors), 3);
    CHECK_FAILS(salf_tensors_find(tensors, "a", &out), SALF_E_DTYPE, "F4_SOMETHING");
    CHECK_FAILS(salf_tensors_at(tensors, 1, &out), SALF_E_DTYPE, "BOOL");
    ck_assert_str_eq(out.name, "b"); /* what is not usable can still be listed */
    ck_assert_int_eq(out.n_dims, 1);
    ck_assert_int_eq(out.shape[0], 2);
    ck_assert_ptr_null(out.view.data);
    out.n_dims = 77;
    CHECK_FAILS(salf_tensors_find(tensors, "d", &out), SALF_E_NOT_FOUND, "'d'");
    ck_assert_int_eq(out.n_dims, 77);
    CHECK_OK(salf_tensors_find(tensors, "c", &out));
    ck_assert_int_eq(*(const uint8_t *)out.view.data, 4);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

/* What the package safetensors opens, and what is wrong with a tensor that nobody asks for. */
START_TEST(oddities_of_one_tensor_stop_no_other) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    char *path = files_path("odd.safetensors");
    files_write_tensors(path,
                        " {\"__metadata__\":null,"
                        "\"nine\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]},"
                        "\"nul\\u0000\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]},"
                        "\"plain\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[6,7]}}",
                        7);
    salf_tensors *tensors;
    salf_named_tensor out = {.n_dims = 77};
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    ck_assert_int_eq(salf_tensors_count(tensors), 3);
    CHECK_OK(salf_tensors_find(tensors, "plain", &out));
    ck_assert_int_eq(*(const uint8_t *)out.view.data, 6);
    CHECK_FAILS(salf_tensors_find(tensors, "nine", &out), SALF_E_UNSUPPORTED, "'nine' has 9 dimensions");
    ck_assert_str_eq(out.name, "nine");
    ck_assert(out.n_dims == 0 && !out.view.data);
    CHECK_FAILS(salf_tensors_find(tensors, "nul", &out), SALF_E_NOT_FOUND, "'nul'");
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    ck_assert_int_eq(memory.alive, 0);
    free(path);
}
END_TEST

/* The first bytes of what people take for a safetensors file. */
START_TEST(files_of_other_formats_are_named) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *words;
    } kinds[] = {
        {"PK\003\004\024\0\0\0\010\0", 10, "a zip archive"},
        {"\x80\002}q\0X\012\0\0\0", 10, "a pickle"},
        {"\x80\004\x95\0\0\0\0\0\0\0", 10, "a pickle"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 55, "git lfs pull"},
        {"version", 7, "7 bytes"},
        {"\x93NUMPY\001\0v\0", 10, "a NumPy array"},
        {"\x89HDF\r\n\032\n", 8, "an HDF5 file"},
        {"<!DOCTYPE html><html>", 21, "an HTML page"},
        {"<html lang=x>", 13, "an HTML page"},
    };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *path = files_path("kind.safetensors"), *index = files_path("kind.json");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        files_write(path, kinds[i].bytes, kinds[i].n);
        files_write(index, kinds[i].bytes, kinds[i].n);
        const salf_status status = kinds[i].n < 8 ? SALF_E_TRUNCATED : SALF_E_UNSUPPORTED;
        CHECK_FAILS(open_status(context, path), status, kinds[i].words);
        if (kinds[i].n >= 8) CHECK_FAILS(open_status(context, index), status, kinds[i].words);
    }
    /* a header that is one, but longer than the format allows; the file is sparse */
    char begin[9] = {1, (char)0xE1, (char)0xF5, 5, 0, 0, 0, 0, '{'}; /* 100,000,001, little-endian */
    files_write(path, begin, sizeof begin);
    ck_assert_int_eq(truncate(path, 100000009), 0);
    CHECK_FAILS(open_status(context, path), SALF_E_CORRUPT, "100000001 bytes, above the format's limit of 100000000");
    salf_context_destroy(context);
    free(path);
    free(index);
}
END_TEST

START_TEST(unaligned_data_is_aligned) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    char *path = files_path("unaligned.safetensors");
    files_write_tensors(path,
                        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                        "\"b\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[1,17]},"
                        "\"c\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[17,21]}}",
                        21);
    salf_tensors *tensors;
    salf_named_tensor out;
    uint8_t expected[21];
    for (size_t i = 0; i < sizeof expected; i++) expected[i] = (uint8_t)i;
    CHECK_OK(salf_tensors_open(&tensors, context, path));
    const int64_t opened = memory.alive; /* nothing is copied before it is asked for, and then once */
    CHECK_OK(salf_tensors_find(tensors, "a", &out));
    ck_assert_int_eq(memory.alive, opened);
    CHECK_OK(salf_tensors_find(tensors, "b", &out));
    ck_assert_int_eq(memory.alive, opened + 1);
    const void *data = out.view.data;
    ck_assert_uint_eq((uintptr_t)data % 8, 0);
    ck_assert_mem_eq(data, expected + 1, 16);
    CHECK_OK(salf_tensors_find(tensors, "b", &out));
    ck_assert_ptr_eq(out.view.data, data);
    ck_assert_int_eq(memory.alive, opened + 1);
    CHECK_OK(salf_tensors_find(tensors, "c", &out));
    ck_assert_uint_eq((uintptr_t)out.view.data % 2, 0);
    ck_assert_mem_eq(out.view.data, expected + 17, 4);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(path);
}
END_TEST

/* ---- paths ---- */

START_TEST(paths_that_are_no_files) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_tensors *tensors;
    CHECK_FAILS(open_status(context, "/nonexistent/x.safetensors"), SALF_E_NOT_FOUND, "/nonexistent/x.safetensors");
    CHECK_FAILS(open_status(context, "/nonexistent/x.json"), SALF_E_NOT_FOUND, "/nonexistent/x.json");
    CHECK_FAILS(open_status(context, ""), SALF_E_NOT_FOUND, "");
    char *folder = files_path("folder.json"), *fifo = files_path("fifo"), *beneath = files_path("fifo/x");
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    CHECK_FAILS(open_status(context, folder), SALF_E_NOT_FOUND, "model.safetensors");
    ck_assert_int_eq(mkfifo(fifo, 0666), 0);
    CHECK_FAILS(open_status(context, fifo), SALF_E_IO, "not a regular file");
    CHECK_FAILS(open_status(context, beneath), SALF_E_NOT_FOUND, "fifo/x");
    CHECK_FAILS(open_status(context, "/dev/null"), SALF_E_IO, "not a regular file");
    CHECK_FAILS(salf_tensors_open(NULL, context, fifo), SALF_E_NULL, "out");
    CHECK_FAILS(salf_tensors_open(&tensors, NULL, fifo), SALF_E_NULL, "context");
    CHECK_FAILS(salf_tensors_open(&tensors, context, NULL), SALF_E_NULL, "path");
    salf_context_destroy(context);
    free(folder);
    free(fifo);
    free(beneath);
}
END_TEST

/* ---- shards ---- */

enum { ROOM = 512 };

/* A folder of the scratch folder with shards one ("a", "b"; metadata) and two ("c"; metadata) and an index. */
static char *shard_folder(const char *name, const char *index) {
    char path[ROOM];
    char *folder = files_path(name);
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/one.safetensors", folder);
    files_write_tensors(
        path,
        "{\"__metadata__\":{\"which\":\"one\"},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
        3);
    snprintf(path, sizeof path, "%s/two.safetensors", folder);
    files_write_tensors(path,
                        "{\"__metadata__\":{\"which\":\"two\",\"more\":\"x\"},"
                        "\"c\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                        4);
    snprintf(path, sizeof path, "%s/again.safetensors", folder);
    files_write_tensors(path, "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    files_write(path, index, strlen(index));
    return folder;
}

START_TEST(shards_are_one) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *folder = shard_folder("shards", "{\"metadata\":{\"total_size\":7},\"weight_map\":{\"b\":\"one.safetensors\","
                                          "\"c\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    char index[ROOM];
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder);
    const char *const paths[] = {folder, index};
    for (int i = 0; i < 2; i++) {
        salf_tensors *tensors;
        salf_named_tensor out;
        CHECK_OK(salf_tensors_open(&tensors, context, paths[i]));
        ck_assert_int_eq(salf_tensors_count(tensors), 3);
        ck_assert_int_eq(tensors->n_maps, 2); /* each shard once */
        CHECK_OK(salf_tensors_at(tensors, 2, &out));
        ck_assert_str_eq(out.name, "c");
        ck_assert_int_eq(((const uint8_t *)out.view.data)[3], 3);
        ck_assert_str_eq(salf_tensors_metadata(tensors, "which"), "one");
        ck_assert_ptr_null(salf_tensors_metadata(tensors, "more"));
        salf_tensors_destroy(tensors);
    }
    /* the index by its bare name, from its own folder */
    char before[4096];
    salf_tensors *tensors;
    ck_assert_ptr_nonnull(getcwd(before, sizeof before));
    ck_assert_int_eq(chdir(folder), 0);
    CHECK_OK(salf_tensors_open(&tensors, context, "model.safetensors.index.json"));
    salf_tensors_destroy(tensors);
    CHECK_OK(salf_tensors_open(&tensors, context, "."));
    salf_tensors_destroy(tensors);
    ck_assert_int_eq(chdir(before), 0);
    /* a single file in the folder comes first */
    char single[ROOM];
    snprintf(single, sizeof single, "%s/model.safetensors", folder);
    files_write_tensors(single, "{}", 0);
    CHECK_OK(salf_tensors_open(&tensors, context, folder));
    ck_assert_int_eq(salf_tensors_count(tensors), 0);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(folder);
}
END_TEST

/* A shard that supersedes another one's tensors, and tensors that the index does not name: by the index, in either
 * order. Shards may lie in folders below. */
START_TEST(an_index_assigns_names) {
    static const struct {
        const char *index;
        int64_t count, elements_of_a;
    } cases[] = {
        {"{\"weight_map\":{\"b\":\"one.safetensors\",\"a\":\"again.safetensors\"}}", 2, 4},
        {"{\"weight_map\":{\"a\":\"again.safetensors\",\"b\":\"one.safetensors\"}}", 2, 4},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}", 2, 2},
        {"{\"weight_map\":{\"a\":\"below/a.b/again.safetensors\",\"c\":\"two.safetensors\"}}", 2, 4},
    };
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    const int64_t alive = memory.alive;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = shard_folder("assigned", cases[i].index), path[ROOM];
        snprintf(path, sizeof path, "%s/below", folder);
        mkdir(path, 0777);
        strcat(path, "/a.b");
        mkdir(path, 0777);
        strcat(path, "/again.safetensors");
        files_write_tensors(path, "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
        salf_tensors *tensors;
        salf_named_tensor out;
        CHECK_OK(salf_tensors_open(&tensors, context, folder));
        ck_assert_int_eq(salf_tensors_count(tensors), cases[i].count);
        CHECK_OK(salf_tensors_find(tensors, "a", &out));
        ck_assert_int_eq(out.shape[0], cases[i].elements_of_a);
        salf_tensors_destroy(tensors);
        ck_assert_int_eq(memory.alive, alive);
        free(folder);
    }
    salf_context_destroy(context);
}
END_TEST

/* Metadata are the first shard's also when it has none. */
START_TEST(metadata_of_the_first_shard) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    char *folder = shard_folder("first", "{\"weight_map\":{\"a\":\"again.safetensors\",\"c\":\"two.safetensors\"}}");
    salf_tensors *tensors;
    CHECK_OK(salf_tensors_open(&tensors, context, folder));
    ck_assert_ptr_null(salf_tensors_metadata(tensors, "which"));
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    free(folder);
}
END_TEST

START_TEST(indices_that_lie_are_refused) {
    static const struct {
        const char *index;
        salf_status status;
        const char *words;
    } bad[] = {
        {"", SALF_E_TRUNCATED, "empty"},
        {"[]", SALF_E_CORRUPT, "not a JSON object"},
        {"{}", SALF_E_CORRUPT, "no weight_map"},
        {"{\"weight_map\":[]}", SALF_E_CORRUPT, "no weight_map"},
        {"{\"weight_map\":{\"a\":1}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"\"}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"..\"}}", SALF_E_CORRUPT, "'..'"},
        {"{\"weight_map\":{\"a\":\"../bad/one.safetensors\"}}", SALF_E_CORRUPT, "../bad"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", SALF_E_CORRUPT, "/etc/passwd"},
        {"{\"weight_map\":{\"a\":\"..\\\\x\"}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", SALF_E_NOT_FOUND, "three.safetensors"},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", SALF_E_CORRUPT, "index.json"},
        {"{\"weight_map\":{\"x\":\"one.safetensors\"}}", SALF_E_MISMATCH, "'x' is not in 'one.safetensors'"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", SALF_E_MISMATCH,
         "'b' is not in 'two.safetensors'"},
        {"{\"weight_map\":{\"c\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", SALF_E_MISMATCH, "is not in"},
        {"{\"weight_map\":{\"a\":\"one.safetensors/\"}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"x//one.safetensors\"}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"./one.safetensors\"}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"x/../../one.safetensors\"}}", SALF_E_CORRUPT, "'a'"},
        {"{\"weight_map\":{\"a\":\"x/..\"}}", SALF_E_CORRUPT, "'a'"},
    };
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    const int64_t alive = memory.alive;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *folder = shard_folder("bad", bad[i].index);
        const salf_status status = open_status(context, folder);
        ck_assert_msg(status == bad[i].status && harness_contains(salf_last_error(), bad[i].words), "%s: %s: %s",
                      bad[i].index, salf_status_name(status), salf_last_error());
        ck_assert_int_eq(memory.alive, alive);
        free(folder);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- memory ---- */

static salf_status open_body(harness_memory *memory, int32_t backend, void *user) {
    salf_context *context;
    salf_tensors *tensors = NULL;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    status = salf_tensors_open(&tensors, context, user);
    ck_assert((status == SALF_OK) == (tensors != NULL));
    salf_named_tensor out; /* of data that are not aligned: the copy may fail as well */
    if (status == SALF_OK) status = salf_tensors_find(tensors, "b", &out);
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_allocation_of_open_can_fail) {
    char *folder = shard_folder("memory", "{\"weight_map\":{\"b\":\"one.safetensors\",\"c\":\"two.safetensors\"}}");
    char *unaligned = files_path("memory.safetensors");
    files_write_tensors(unaligned,
                        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}}",
                        9);
    harness_fail_each_allocation(open_body, SALF_BACKEND_REFERENCE, folder);
    harness_fail_each_allocation(open_body, SALF_BACKEND_REFERENCE, unaligned);
    free(folder);
    free(unaligned);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, lies_are_refused);
    HARNESS_ADD(suite, lengths_that_lie_are_refused);
    HARNESS_ADD(suite, other_types_are_tolerated);
    HARNESS_ADD(suite, oddities_of_one_tensor_stop_no_other);
    HARNESS_ADD(suite, files_of_other_formats_are_named);
    HARNESS_ADD(suite, unaligned_data_is_aligned);
    HARNESS_ADD(suite, paths_that_are_no_files);
    HARNESS_ADD(suite, shards_are_one);
    HARNESS_ADD(suite, an_index_assigns_names);
    HARNESS_ADD(suite, metadata_of_the_first_shard);
    HARNESS_ADD(suite, indices_that_lie_are_refused);
    HARNESS_ADD(suite, each_allocation_of_open_can_fail);
}
