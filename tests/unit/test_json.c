/* test_json.c - JSON: what is read of it and how, what is refused with its line, and memory that runs out at every
 * allocation of reading and writing. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "io/json.h"

static salf_context *context;

static salf_status parse(slf_json **json, const char *text, bool unique) {
    return slf_json_parse(json, context, text, strlen(text), unique, "memory");
}

/* ---- values ---- */

START_TEST(values_are_read_and_written_back) {
    static const struct {
        const char *text, *written;
    } cases[] = {{"{}", "{}"},
                 {" \t\r\n{ \"a\" : [ ] , \"b\":{}}\n", "{\"a\":[],\"b\":{}}"},
                 {"{\"n\":[0,-0,12,-9223372036854775808,9223372036854775807]}",
                  "{\"n\":[0,0,12,-9223372036854775808,9223372036854775807]}"},
                 {"{\"r\":[1.5,-2e3,1E-2,0.1,1e308]}", "{\"r\":[1.5,-2000.0,0.01,0.10000000000000001,1e+308]}"},
                 {"{\"w\":[true,false,null]}", "{\"w\":[true,false,null]}"},
                 {"{\"s\":\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\uD834\\uDD1E\"}",
                  "{\"s\":\"a\\\"\\\\/\\b\\f\\n\\r\\t\xC3\xA4\xF0\x9D\x84\x9E\"}"},
                 {"{\"s\":\"\\u0001\\u000F\\u0010\\u001f \\u007F\"}", "{\"s\":\"\\u0001\\u000F\\u0010\\u001F \x7F\"}"},
                 {"{\"\":1,\"\xC3\xA4\":\"\xE2\x82\xAC\"}", "{\"\":1,\"\xC3\xA4\":\"\xE2\x82\xAC\"}"},
                 /* what Python writes and JSON does not have, and what float64 does not hold */
                 {"{\"x\":[NaN,Infinity,-Infinity,1e309,-1e400]}",
                  "{\"x\":[\"NaN\",\"Infinity\",\"-Infinity\",\"1e309\",\"-1e400\"]}"},
                 {"{\"x\":[9223372036854775808,-9223372036854775809]}",
                  "{\"x\":[9.2233720368547758e+18,-9.2233720368547758e+18]}"},
                 {"{\"x\":[\"\\u0000\",\"\\uD800\",\"\\uDC00\\uD800x\"]}",
                  "{\"x\":[\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\xEF\xBF\xBDx\"]}"},
                 /* the last of equal keys, in the first one's place */
                 {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\":3,\"b\":2}"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        slf_json *json;
        char text[200] = "";
        CHECK_OK(parse(&json, cases[i].text, false));
        ck_assert_uint_eq(slf_json_write(json, text, sizeof text - 1), strlen(cases[i].written));
        ck_assert_str_eq(text, cases[i].written);
        memset(text, 0, sizeof text);
        slf_json_write(json, text, 5); /* no more than there is room for */
        ck_assert_int_eq(strncmp(text, cases[i].written, 5), 0);
        ck_assert_uint_le(strlen(text), 5);
        slf_json_release(json);
    }
}
END_TEST

/* A comma, and a point of two bytes: locales that are made here, where the system has their sources. The C library
 * looks for each once, so that it has to be there before. */
START_TEST(numbers_are_read_in_every_locale) {
    static const char *const locales[] = {"de_DE.UTF-8", "ps_AF.UTF-8", "C"};
    char folder[4096], command[9000];
    snprintf(folder, sizeof folder, "%s", harness_path(""));
    setenv("LOCPATH", folder, 1);
    for (size_t i = 0; i < 3; i++) {
        slf_json *json;
        char text[100] = "";
        snprintf(command, sizeof command, "localedef -c -i %.5s -f UTF-8 %s%s >%ssaid 2>&1", locales[i], folder,
                 locales[i], folder);
        if ((i < 2 && system(command) != 0) || !setlocale(LC_NUMERIC, locales[i]))
            printf("SKIPPED: numbers as in %s, which is no locale here\n", locales[i]);
        CHECK_OK(parse(&json, "{\"x\":1.25,\"y\":-3.5e-7,\"z\":7.0,\"n\":12}", false));
        ck_assert_double_eq(slf_json_to_number(slf_json_get(json, "x")), 1.25);
        ck_assert_double_eq(slf_json_to_number(slf_json_get(json, "y")), -3.5e-7);
        slf_json_write(json, text, sizeof text - 1);
        ck_assert_str_eq(text, "{\"x\":1.25,\"y\":-3.4999999999999998e-07,\"z\":7.0,\"n\":12}");
        slf_json_release(json);
    }
}
END_TEST

START_TEST(what_is_no_json_is_refused_with_its_line) {
    static const struct {
        const char *text, *words;
    } cases[] = {{"", "line 1: a value, but it ends"},
                 {"{", "line 1: a key in quotes, but it ends"},
                 {"x", "line 1: '{', not 'x'"},
                 {"3", "'{'"},
                 {"[]", "not a JSON object"},
                 {"{\"a\"}", "a colon, not '}'"},
                 {"{\"a\":}", "a value, not '}'"},
                 {"{\"a\":1,}", "a key in quotes, not '}'"},
                 {"{\"a\":1 \"b\":2}", "a comma or }, not '\"b\":2}'"},
                 {"{\"a\":[1,]}", "a value, not ']}'"},
                 {"{\"a\":[1;2]}", "a comma or ], not ';2]}'"},
                 {"{\n\"a\":\n tru}", "line 3: a value, not 'tru}'"},
                 {"{} x", "line 1: nothing more, not 'x'"},
                 {"{}{}", "nothing more"},
                 {"{\"a\":01}", "a number"},
                 {"{\"a\":-}", "a number"},
                 {"{\"a\":1.}", "a number"},
                 {"{\"a\":1e}", "a number"},
                 {"{\"a\":1e+}", "a number"},
                 {"{\"a\":+1}", "a value"},
                 {"{\"a\":.5}", "a value"},
                 {"{\"a\":\"x", "a string, but it ends"},
                 {"{\"a\":\"x\\\"}", "a string, but it ends"},
                 {"{\"a\":\"\\x\"}", "a character of a string, not '\\x\"}'"},
                 {"{\"a\":\"\\u12\"}", "a character of a string"},
                 {"{\"a\":\"\n\"}", "a character of a string"},
                 {"{\"a\":\"\xC0\x80\"}", "a string in UTF-8"},
                 {"{\"\xFF\":1}", "a string in UTF-8"},
                 {"{\"a\":'b'}", "a value, not ''b'}'"}};
    slf_json *json;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json = (slf_json *)1;
        CHECK_FAILS(parse(&json, cases[i].text, false), SALF_E_CORRUPT, cases[i].words);
        ck_assert_ptr_null(json);
    }
    CHECK_FAILS(slf_json_parse(&json, context, "{}\0{}", 5, false, "memory"), SALF_E_CORRUPT, "nothing more");
    CHECK_FAILS(slf_json_parse(&json, context, "{\"a\0b\":1}", 9, false, "memory"), SALF_E_CORRUPT, "a character");
    CHECK_FAILS(parse(&json, "{\"a\":{\"b\":1,\"b\":2}}", true), SALF_E_CORRUPT, "the key 'b' stands twice");
}
END_TEST

START_TEST(depth_and_length_are_bounded) {
    slf_json *json;
    char *text = malloc(3000000);
    for (int depth = 60; depth < 70; depth++) { /* the object around is one more */
        char *at = text + sprintf(text, "{\"a\":");
        memset(at, '[', (size_t)depth);
        memset(at + depth, ']', (size_t)depth);
        strcpy(at + 2 * depth, "}");
        if (depth < 64) {
            CHECK_OK(parse(&json, text, false));
            slf_json_release(json);
        } else {
            CHECK_FAILS(parse(&json, text, false), SALF_E_CORRUPT, "nested less than 64 deep");
        }
    }
    char *at = text + sprintf(text, "{\"a\":");
    memset(at, '[', 2000000);
    at[2000000] = 0;
    CHECK_FAILS(parse(&json, text, false), SALF_E_CORRUPT, "nested less than 64 deep");
    memset(at, '1', 1001);
    strcpy(at + 1001, "}");
    CHECK_FAILS(parse(&json, text, false), SALF_E_CORRUPT, "at most 1000 digits");
    strcpy(at + 1000, "}");
    CHECK_OK(parse(&json, text, false)); /* beyond float64 */
    ck_assert_ptr_nonnull(slf_json_to_text(slf_json_get(json, "a")));
    slf_json_release(json);
    free(text);
}
END_TEST

/* ---- objects ---- */

START_TEST(many_keys_are_found) {
    enum { N = 20000 };
    slf_json *json = slf_json_new(context, SLF_JSON_OBJECT);
    char key[40];
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "model.layers.%d.weight", i);
        CHECK_OK(slf_json_put(json, key, slf_json_integer(context, i)));
    }
    for (int i = 0; i < N; i += 7) {
        snprintf(key, sizeof key, "model.layers.%d.weight", i);
        CHECK_EACH(slf_json_to_integer(slf_json_get(json, key)) == i, "%s", key);
    }
    ck_assert_ptr_null(slf_json_get(json, "model.layers.20000.weight"));
    ck_assert_int_eq(slf_json_size(json), N);
    slf_json_remove(json, "model.layers.5.weight");
    slf_json_remove(json, "model.layers.5.weight");
    ck_assert_ptr_null(slf_json_get(json, "model.layers.5.weight"));
    ck_assert_int_eq(slf_json_to_integer(slf_json_get(json, "model.layers.6.weight")), 6);
    slf_json *copy = slf_json_copy(json);
    ck_assert(slf_json_equal(copy, json));
    CHECK_OK(slf_json_put(copy, "model.layers.6.weight", slf_json_integer(context, 7)));
    ck_assert(!slf_json_equal(copy, json));
    ck_assert_int_eq(slf_json_to_integer(slf_json_get(json, "model.layers.6.weight")), 6);
    CHECK_OK(slf_json_update(copy, json));
    ck_assert(slf_json_equal(copy, json));
    slf_json_release(copy);
    slf_json_release(json);
}
END_TEST

/* The hash of the library, so that keys can be chosen which all belong at one place of a table of 2^13. */
static uint64_t place(const char *key) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char *c = key; *c; c++) hash = (hash ^ (unsigned char)*c) * 0x100000001B3u;
    return (hash ^ hash >> 32) & 0x1FFF;
}

START_TEST(keys_that_are_made_to_fall_together_are_refused) {
    slf_json *json = slf_json_new(context, SLF_JSON_OBJECT);
    char key[40];
    salf_status status = SALF_OK;
    int n = 0;
    for (long i = 0; status == SALF_OK && n < 4000; i++) {
        snprintf(key, sizeof key, "%ld", i);
        if (place(key) != 5) continue;
        status = slf_json_put(json, key, slf_json_new(context, SLF_JSON_NULL));
        n++;
    }
    CHECK_FAILS(status, SALF_E_CORRUPT, "chosen so that looking them up takes long");
    slf_json_release(json);
}
END_TEST

START_TEST(values_of_other_kinds_are_none) {
    slf_json *json;
    CHECK_OK(parse(&json, "{\"a\":[1,2.5,\"x\",true]}", true));
    const slf_json *a = slf_json_get(json, "a");
    ck_assert_ptr_null(slf_json_get(a, "a"));
    ck_assert_ptr_null(slf_json_at(json, 0));
    ck_assert_ptr_null(slf_json_at(a, 4));
    ck_assert_ptr_null(slf_json_at(a, -1));
    ck_assert_ptr_null(slf_json_get(NULL, "a"));
    ck_assert_int_eq(slf_json_size(NULL), 0);
    ck_assert_int_eq(slf_json_to_integer(slf_json_at(a, 1)), 0);
    ck_assert_double_eq(slf_json_to_number(slf_json_at(a, 2)), 0);
    ck_assert_ptr_null(slf_json_to_text(slf_json_at(a, 0)));
    ck_assert(slf_json_is_flag(slf_json_at(a, 3)) && !slf_json_is_flag(slf_json_at(a, 2)) && !slf_json_is_flag(NULL));
    ck_assert(!slf_json_equal(slf_json_at(a, 0), NULL) && !slf_json_equal(slf_json_at(a, 0), slf_json_at(a, 1)));
    slf_json_release(json);
    CHECK_OK(
        parse(&json, "{\"a\":[null,true,false,[],{},[1],[1,2],\"\",0]}", true)); /* of each kind, and of two lengths */
    a = slf_json_get(json, "a");
    for (int64_t i = 0; i < slf_json_size(a); i++)
        for (int64_t k = 0; k < slf_json_size(a); k++)
            ck_assert_int_eq(slf_json_equal(slf_json_at(a, i), slf_json_at(a, k)), i == k);
    slf_json_release(json);
}
END_TEST

/* ---- memory that runs out ---- */

static const char *path;

static salf_status save(harness_memory *memory, int32_t backend, void *user) {
    (void)user;
    float values[6] = {1, 2, 3, 4, 5, 6};
    const char *metadata[2] = {"format", "test"};
    const salf_named_tensor tensors[2] = {
        {.name = "a", .view = {.data = values, .rows = 2, .cols = 3, .dtype = SALF_F32}},
        {.name = "b",
         .n_dims = 3,
         .shape = {1, 2, 3},
         .view = {.data = values, .rows = 2, .cols = 3, .dtype = SALF_F32}}};
    salf_context *own;
    salf_status status = harness_context_or_status(&own, backend, memory);
    if (status == SALF_OK) status = salf_tensors_save(own, path, tensors, 2, metadata, 1);
    salf_context_destroy(own);
    return status;
}

static salf_status open_tensors(harness_memory *memory, int32_t backend, void *user) {
    (void)user;
    salf_context *own;
    salf_tensors *tensors = NULL;
    salf_status status = harness_context_or_status(&own, backend, memory);
    if (status == SALF_OK) status = salf_tensors_open(&tensors, own, path);
    salf_tensors_destroy(tensors);
    salf_context_destroy(own);
    return status;
}

static salf_status open_model(harness_memory *memory, int32_t backend, void *user) {
    (void)user;
    salf_context *own;
    salf_model *model = NULL;
    salf_status status = harness_context_or_status(&own, backend, memory);
    if (status == SALF_OK) status = salf_model_open(&model, own, path, NULL);
    salf_model_destroy(model);
    salf_context_destroy(own);
    return status;
}

START_TEST(a_lack_of_memory_is_one) {
    char file[4096];
    snprintf(file, sizeof file, "%s", harness_path("part.safetensors"));
    path = file;
    harness_fail_each_allocation(save, SALF_BACKEND_REFERENCE, NULL);
    harness_fail_each_allocation(open_tensors, SALF_BACKEND_REFERENCE, NULL);
    snprintf(file, sizeof file, "%s", harness_path("model.safetensors.index.json"));
    FILE *index = fopen(file, "w");
    ck_assert_ptr_nonnull(index);
    fputs("{\"weight_map\": {\"a\": \"part.safetensors\", \"b\": \"part.safetensors\"}}", index);
    ck_assert_int_eq(fclose(index), 0);
    harness_fail_each_allocation(open_tensors, SALF_BACKEND_REFERENCE, NULL);
    path = harness_shared("models/stories260k");
    if (path) harness_fail_each_allocation(open_model, SALF_BACKEND_REFERENCE, NULL);
}
END_TEST

void harness_suite(Suite *suite) {
    if (harness_context_or_status(&context, SALF_BACKEND_REFERENCE, NULL) != SALF_OK) exit(1); /* in no test yet */
    HARNESS_ADD(suite, values_are_read_and_written_back);
    HARNESS_ADD(suite, numbers_are_read_in_every_locale);
    HARNESS_ADD(suite, what_is_no_json_is_refused_with_its_line);
    HARNESS_ADD(suite, depth_and_length_are_bounded);
    HARNESS_ADD(suite, many_keys_are_found);
    HARNESS_ADD(suite, keys_that_are_made_to_fall_together_are_refused);
    HARNESS_ADD(suite, values_of_other_kinds_are_none);
    HARNESS_ADD(suite, a_lack_of_memory_is_one);
}
