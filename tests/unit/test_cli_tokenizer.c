/* Tokenizer of the program: published ids of three models, decoding, hostile files, training. */
#include "tokenizer_train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "unit/harness.h"
#include "unit/token_text.h"

static tokenizer *load(const char *path) {
    char message[512];
    tokenizer *t;
    ck_assert_msg(tokenizer_load(&t, path, message, sizeof message) == 0, "%s", message);
    return t;
}

static void write_bytes(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    fclose(file);
}

/* Every line of tokens.tsv: text, tab, ids. Returns the number of lines. */
static int check_reference(const tokenizer *t, const char *path, int reversible) {
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    char line[16384];
    int lines = 0;
    for (; fgets(line, sizeof line, file); lines++) {
        char *ids = strchr(line, '\t');
        ck_assert_ptr_nonnull(ids);
        *ids++ = 0;
        int64_t n;
        int32_t *got = tokenizer_encode_new(t, line, &n);
        ck_assert_ptr_nonnull(got);
        for (int64_t i = 0; i < n; i++, ids += *ids == ',' || *ids == ' ') {
            ck_assert_msg(strtol(ids, &ids, 10) == got[i], "line %d, id %d", lines + 1, (int)i);
        }
        ck_assert_msg(*ids == '\n' || *ids == 0, "line %d: ids left: %s", lines + 1, ids);
        char *text = token_text(t, got, n);
        if (reversible) ck_assert_str_eq(text, line);
        free(text);
        free(got);
    }
    fclose(file);
    return lines;
}

static void check_model(const char *model, const char *file, int32_t size, int reversible) {
    char name[256];
    snprintf(name, sizeof name, "models/%s/%s", model, file);
    const char *path = harness_shared(name);
    if (!path) return;
    tokenizer *t = load(path);
    ck_assert_int_eq(tokenizer_size(t), size);
    snprintf(name, sizeof name, "models/%s/reference/tokens.tsv", model);
    ck_assert_int_gt(check_reference(t, harness_shared(name), reversible), 100);
    tokenizer_destroy(t);
}

START_TEST(reference_512) {
    check_model("stories260k", "tok512.bin", 512, 1);
}
END_TEST
START_TEST(reference_2048) {
    check_model("stories656k", "tok2048.bin", 2048, 0);
}
END_TEST
START_TEST(reference_4096) {
    check_model("stories3m", "tok4096.bin", 4096, 1);
}
END_TEST

static const char *const texts[] = {"the cat saw the other cat", "the dog saw a cat and another dog", "what is that?"};

static tokenizer *trained(void) {
    char message[256];
    tokenizer *t;
    ck_assert_msg(tokenizer_train(&t, texts, 3, 400, message, sizeof message) == 0, "%s", message);
    return t;
}

static void check_round_trip(const tokenizer *t, const char *text) {
    int64_t n;
    int32_t *ids = tokenizer_encode_new(t, text, &n);
    ck_assert_int_eq(ids[0], TOKEN_START);
    ck_assert_int_le(n, (int64_t)strlen(text) + 2);
    char *back = token_text(t, ids, n);
    ck_assert_str_eq(back, text);
    free(back);
    free(ids);
}

START_TEST(training_and_round_trips) {
    tokenizer *t = trained();
    check_round_trip(t, "");
    check_round_trip(t, "the cat");
    check_round_trip(t, "  two spaces, upper CASE\n\ttab");
    check_round_trip(t, "na\xc3\xafve \xe2\x82\xac \xf0\x9f\x90\x88 \xff\xfe");
    int64_t n;
    int32_t *ids = tokenizer_encode_new(t, "the cat", &n);
    ck_assert_int_eq(n, 3); /* both words became pieces */
    ck_assert_int_eq(tokenizer_first_id(t, "cat"), ids[2]);
    free(ids);
    tokenizer_destroy(t);
}
END_TEST

START_TEST(saved_file_reads_back) {
    char message[256], path[1024];
    tokenizer *t = trained();
    snprintf(path, sizeof path, "%s", harness_path("t.bin"));
    ck_assert_int_eq(tokenizer_save(t, path, message, sizeof message), 0);
    tokenizer *u = load(path);
    ck_assert_int_eq(tokenizer_size(u), tokenizer_size(t));
    for (int32_t i = 0; i < tokenizer_size(t); i++) {
        ck_assert_str_eq(tokenizer_piece(u, i, NULL), tokenizer_piece(t, i, NULL));
    }
    check_round_trip(u, "the dog saw \xc3\xa9");
    ck_assert_ptr_null(tokenizer_piece(u, -1, NULL));
    ck_assert_ptr_null(tokenizer_piece(u, tokenizer_size(u), NULL));
    tokenizer_destroy(u);
    ck_assert_int_eq(tokenizer_save(t, "/nonexistent/x.bin", message, sizeof message), -1);
    ck_assert_msg(strstr(message, "/nonexistent/x.bin") != NULL, "%s", message);
    tokenizer_destroy(t);
}
END_TEST

static void check_refused(const void *data, size_t size, const char *words) {
    char message[512];
    const char *path = harness_path("bad.bin");
    write_bytes(path, data, size);
    tokenizer *t = (tokenizer *)&message;
    ck_assert_int_eq(tokenizer_load(&t, path, message, sizeof message), -1);
    ck_assert_ptr_null(t);
    ck_assert_msg(strstr(message, words) != NULL, "'%s' lacks '%s'", message, words);
}

START_TEST(hostile_files) {
    unsigned char data[64] = {4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 'a', 'b', 'c'};
    check_refused("", 0, "header");
    check_refused(data, 3, "header");
    check_refused(data, 9, "ends inside piece 0");
    check_refused(data, 14, "ends inside piece 0");
    check_refused(data, 15, "only 1 pieces");
    data[8] = 5;
    check_refused(data, 60, "length of 5");
    memset(data + 8, 255, 4);
    check_refused(data, 60, "length of 4294967295");
    data[8] = 3;
    memset(data + 9, 0, 3);
    data[6] = 0xC0, data[7] = 0x7F; /* NaN */
    check_refused(data, 60, "score of nan");
    memset(data, 255, 4);
    check_refused(data, 60, "4294967295 bytes");
    memset(data, 0, 4);
    check_refused(data, 60, "said to have 0");
}
END_TEST

START_TEST(a_folder_without_a_tokenizer) {
    const char *folder = harness_path("empty");
    char message[512] = "";
    tokenizer *t;
    mkdir(folder, 0700);
    ck_assert_int_eq(tokenizer_load(&t, folder, message, sizeof message), -1);
    ck_assert_ptr_null(t);
    ck_assert_msg(strstr(message, "neither tokenizer.json nor tokenizer.bin") != NULL, "%s", message);
    ck_assert_msg(strstr(message, "transformers makes a tokenizer.json") != NULL, "%s", message);
}
END_TEST

/* Cut at every byte: loads as fewer pieces or fails, never worse. */
START_TEST(every_truncation) {
    char message[512], path[1024];
    tokenizer *t = trained();
    snprintf(path, sizeof path, "%s", harness_path("whole.bin"));
    ck_assert_int_eq(tokenizer_save(t, path, message, sizeof message), 0);
    tokenizer_destroy(t);
    static char data[16384];
    FILE *file = fopen(path, "rb");
    const size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    for (size_t n = 0; n < size; n += 1 + n / 16) {
        write_bytes(path, data, n);
        if (tokenizer_load(&t, path, message, sizeof message) == 0) {
            int64_t ids;
            free(tokenizer_encode_new(t, "the cat \xc3\xa9", &ids));
            tokenizer_destroy(t);
        }
    }
}
END_TEST

/* Without byte pieces a run of unknown characters is one id 0. */
START_TEST(unknown_runs) {
    unsigned char data[128];
    size_t n = 0;
    const char *pieces[] = {"?", "?", "?", " ", "a", "b", " a"};
    memcpy(data, "\2\0\0\0", 4);
    n = 4;
    for (int i = 0; i < 7; i++) {
        memset(data + n, 0, 8);
        data[n + 4] = (unsigned char)strlen(pieces[i]);
        memcpy(data + n + 8, pieces[i], strlen(pieces[i]));
        n += 8 + strlen(pieces[i]);
    }
    write_bytes(harness_path("small.bin"), data, n);
    tokenizer *t = load(harness_path("small.bin"));
    int64_t count;
    int32_t *ids = tokenizer_encode_new(t, "axyzb\xc3\xa9", &count);
    const int32_t expected[] = {1, 6, 0, 5, 0};
    ck_assert_int_eq(count, 5);
    for (int i = 0; i < 5; i++) ck_assert_int_eq(ids[i], expected[i]);
    ck_assert_int_eq(tokenizer_first_id(t, "ab"), 6);
    ck_assert_int_eq(tokenizer_first_id(t, "b"), 5); /* not the space in front of it */
    ck_assert_int_eq(tokenizer_first_id(t, "zebra"), TOKEN_NONE);
    free(ids);
    tokenizer_destroy(t);
}
END_TEST

START_TEST(training_is_refused) {
    char message[256];
    tokenizer *t;
    ck_assert_int_eq(tokenizer_train(&t, texts, 3, 100, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "100") != NULL, "%s", message);
    ck_assert_int_eq(tokenizer_train(&t, texts, 0, 400, message, sizeof message), -1);
    ck_assert_ptr_null(t);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, reference_512);
    HARNESS_ADD(suite, reference_2048);
    HARNESS_ADD(suite, reference_4096);
    HARNESS_ADD(suite, training_and_round_trips);
    HARNESS_ADD(suite, saved_file_reads_back);
    HARNESS_ADD(suite, hostile_files);
    HARNESS_ADD(suite, a_folder_without_a_tokenizer);
    HARNESS_ADD(suite, every_truncation);
    HARNESS_ADD(suite, unknown_runs);
    HARNESS_ADD(suite, training_is_refused);
}
