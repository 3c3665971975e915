/* Classification folders, prompts, label tokens and metrics of the program. */
#include "dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "metrics.h"
#include "tokenizer_train.h"
#include "unit/harness.h"
#include "unit/token_text.h"

static char folder[1024];
static char message[1024];

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(harness_path(name), "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

/* A folder that is right; tests then spoil one file. */
static void good_folder(void) {
    write_file("labels.txt", "up\ndown now\n");
    write_file("train.tsv", "up\ta bird\ndown now\ta stone\tin water\r\n");
    write_file("test.tsv", "down now\train");
    snprintf(folder, sizeof folder, "%s", harness_path(""));
}

START_TEST(reads_a_folder) {
    dataset d;
    good_folder();
    ck_assert_msg(dataset_load(&d, folder, message, sizeof message) == 0, "%s", message);
    ck_assert_int_eq(d.n_classes, 2);
    ck_assert_int_eq(d.n_train, 2);
    ck_assert_int_eq(d.n_test, 1);
    ck_assert_str_eq(d.classes[1], "down now");
    ck_assert_str_eq(d.words[0], "up");
    ck_assert_int_eq(d.train[1].label, 1);
    ck_assert_ptr_null(d.train[0].text2);
    ck_assert_str_eq(d.train[1].text2, "in water");
    ck_assert_str_eq(d.test[0].text, "rain");
    dataset_destroy(&d);
}
END_TEST

/* A last line may lack half of its end. */
START_TEST(half_a_line_end_is_one) {
    dataset d;
    good_folder();
    write_file("labels.txt", "up\r\ndown now\r");
    write_file("test.tsv", "down now\ttwo\rlines\r");
    write_file("words.txt", "up\thigh\r");
    write_file("template.txt", "{text} It is\r");
    ck_assert_msg(dataset_load(&d, folder, message, sizeof message) == 0, "%s", message);
    ck_assert_str_eq(d.classes[1], "down now");
    ck_assert_str_eq(d.words[0], "high");
    ck_assert_str_eq(d.words[1], "down now");
    ck_assert_str_eq(d.template_text, "{text} It is");
    ck_assert_str_eq(d.test[0].text, "two\rlines");
    dataset_destroy(&d);
    remove(harness_path("words.txt"));
    remove(harness_path("template.txt"));
}
END_TEST

/* As spreadsheets save them: a byte order mark in front of each file is no part of the first label or the prompts. */
START_TEST(byte_order_marks_are_left_out) {
    dataset d;
    good_folder();
    write_file("labels.txt", "\xEF\xBB\xBFup\r\ndown now\r\n");
    write_file("train.tsv", "\xEF\xBB\xBFup\ta bird\r\n");
    write_file("words.txt", "\xEF\xBB\xBFup\thigh\n");
    write_file("template.txt", "\xEF\xBB\xBF{text} It is");
    ck_assert_msg(dataset_load(&d, folder, message, sizeof message) == 0, "%s", message);
    ck_assert_str_eq(d.classes[0], "up");
    ck_assert_str_eq(d.words[0], "high");
    ck_assert_str_eq(d.template_text, "{text} It is");
    ck_assert_int_eq(d.train[0].label, 0);
    dataset_destroy(&d);
    remove(harness_path("words.txt"));
    remove(harness_path("template.txt"));
    /* A mark alone is an empty file. */
    write_file("train.tsv", "\xEF\xBB\xBF");
    ck_assert_int_eq(dataset_load(&d, folder, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "holds no examples") != NULL, "%s", message);
}
END_TEST

static void check_spoiled(const char *file, const char *text, const char *words) {
    dataset d;
    good_folder();
    write_file(file, text);
    ck_assert_int_eq(dataset_load(&d, folder, message, sizeof message), -1);
    ck_assert_msg(strstr(message, file) && strstr(message, words), "'%s' lacks '%s' or '%s'", message, file, words);
    ck_assert_ptr_null(d.train);
}

START_TEST(names_file_and_line) {
    check_spoiled("train.tsv", "up\tx\nsideways\ty\n", "train.tsv:2: label 'sideways' is not in labels.txt");
    check_spoiled("train.tsv", "1\tx\n", "label '1' is not in labels.txt; write the class by its name");
    check_spoiled("train.tsv", "up\tx\n\n", ":2: there is no tab");
    check_spoiled("train.tsv", "up\t\n", ":1: the text is empty");
    check_spoiled("test.tsv", "up\ta\tb\tc\n", ":1: there are more than three");
    check_spoiled("test.tsv", "", "holds no examples");
    check_spoiled("labels.txt", "up\n", "has 1 lines; it needs 2 to 10000");
    check_spoiled("labels.txt", "up\nup\n", ":2: the class is there twice: 'up'");
    check_spoiled("words.txt", "up\n", ":1: is not label<TAB>word");
    check_spoiled("words.txt", "up\tup\tdown\n", ":1: is not label<TAB>word");
    check_spoiled("words.txt", "left\tleft\n", ":1: there is no such class: 'left'");
    check_spoiled("words.txt", "up\tleft\nup\tright\n", ":2: a second word for the class 'up'");
    remove(harness_path("words.txt"));
    check_spoiled("template.txt", "It is", "has no {text}");
    check_spoiled("template.txt", "{text}\nmore", ":2: a template is one line");
    check_spoiled("template.txt", "{text} {sentence} is", "has {sentence}; {text} and {text2} are known");
    check_spoiled("template.txt", "{text} {text3}", "has {text3}");
    remove(harness_path("template.txt"));
    /* Latin-1, a sequence that is cut short, a surrogate, an overlong form */
    check_spoiled("train.tsv", "up\tx\nup\tcr\xE8me\n", "train.tsv:2: the byte 0xE8 is no UTF-8");
    check_spoiled("test.tsv", "up\t\xE2\x82", "test.tsv:1: the byte 0xE2 is no UTF-8");
    check_spoiled("test.tsv", "up\t\xED\xA0\x80\n", "the byte 0xED");
    check_spoiled("labels.txt", "up\ndown\xC0\x80\n", "labels.txt:2: the byte 0xC0");
    check_spoiled("train.tsv", "up\t  \n", ":1: the text is empty");
    check_spoiled("train.tsv", "up\ta\t \n", ":1: the text is empty");
    dataset d;
    ck_assert_int_eq(dataset_load(&d, "/nonexistent", message, sizeof message), -1);
    ck_assert_msg(strstr(message, "/nonexistent/labels.txt: No such file") != NULL, "%s", message);
    ck_assert_msg(strstr(message, "write files of other kinds so") != NULL, "%s", message);
    good_folder();
    ck_assert_int_eq(dataset_load(&d, harness_path("train.tsv"), message, sizeof message), -1);
    ck_assert_msg(strstr(message, "Not a directory; data are a folder") != NULL, "%s", message);
}
END_TEST

static void check_prompt(const char *template_text, const dataset_example *e, const char *expected) {
    char *prompt = dataset_prompt(template_text, e);
    ck_assert_str_eq(prompt, expected);
    free(prompt);
}

START_TEST(prompts) {
    const dataset_example one = {.text = "a {text2}"}, two = {.text = "x", .text2 = "y"};
    check_prompt("{text} {text2} It is", &one, "a {text2} It is");
    check_prompt("{text} {text2} It is", &two, "x y It is");
    check_prompt("{text2}-{text}", &two, "y-x");
    check_prompt("<{text2}{text}>", &one, "<a {text2}>");
    check_prompt("{tex {text}", &two, "{tex x");
}
END_TEST

START_TEST(braces_that_are_no_fields) {
    static const char *const right[] = {"{\"a\": \"{text}\"}", "{text} { text } {} {a b}", "{{text}} {text2}{"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        ck_assert_msg(dataset_check_template(right[i], message, sizeof message) == 0, "%s", message);
    ck_assert_int_eq(dataset_check_template("{text} {Text}", message, sizeof message), -1);
    ck_assert_msg(strstr(message, "{Text}") != NULL, "%s", message);
}
END_TEST

/* A folder that has the name of a known data set and other classes, some of them the same, has its own words. */
START_TEST(a_name_alone_is_no_data_set) {
    dataset d;
    good_folder();
    snprintf(folder, sizeof folder, "%s/carer", harness_path(""));
    mkdir(folder, 0777);
    write_file("carer/labels.txt", "sadness\nsurprise\n");
    write_file("carer/train.tsv", "sadness\tx\n");
    write_file("carer/test.tsv", "surprise\tx\n");
    ck_assert_msg(dataset_load(&d, folder, message, sizeof message) == 0, "%s", message);
    ck_assert_str_eq(d.words[0], "sadness");
    ck_assert_str_eq(d.words[1], "surprise");
    ck_assert_str_eq(d.template_text, "{text} {text2} It is about a");
    dataset_destroy(&d);
    write_file("carer/labels.txt", "sadness\njoy\nlove\nanger\nfear\nsurprise\n");
    ck_assert_msg(dataset_load(&d, folder, message, sizeof message) == 0, "%s", message);
    ck_assert_str_eq(d.words[0], "sad");
    ck_assert_str_eq(d.template_text, "{text} I feel");
    dataset_destroy(&d);
}
END_TEST

static tokenizer *small_tokenizer(void) {
    static const char *const texts[] = {"up and up and up", "down down under under it is rain"};
    tokenizer *t;
    ck_assert_msg(tokenizer_train(&t, texts, 2, 400, message, sizeof message) == 0, "%s", message);
    return t;
}

START_TEST(long_prompts_keep_the_template) {
    static char text[4000];
    tokenizer *t = small_tokenizer();
    for (size_t i = 0; i + 2 < sizeof text; i += 2) memcpy(text + i, "\xc3\xa9", 2);
    const dataset_example e = {.text = text, .text2 = "up down"};
    int64_t n, whole;
    int32_t *ids = dataset_prompt_ids(t, "{text} {text2} it is", &e, 64, &n);
    ck_assert_int_le(n, 64);
    ck_assert_int_gt(n, 32);
    char *back = token_text(t, ids, n);
    ck_assert_ptr_nonnull(strstr(back, " it is"));
    ck_assert_int_eq(back[0] & 0xFF, 0xC3);
    free(back);
    free(ids);
    for (int64_t most = 20; most < 64; most += 7) { /* a cut never falls inside a character */
        ids = dataset_prompt_ids(t, "{text} {text2} it is", &e, most, &n);
        back = token_text(t, ids, n);
        for (const char *c = back; *c; c++)
            if ((*c & 0xFF) == 0xC3) ck_assert_int_eq(c[1] & 0xFF, 0xA9);
        free(back);
        free(ids);
    }
    ids = dataset_prompt_ids(t, "{text} {text2} it is", &e, 0, &whole);
    ck_assert_int_gt(whole, 3000);
    free(ids);
    tokenizer_destroy(t);
}
END_TEST

START_TEST(label_tokens) {
    dataset d;
    int32_t tokens[2];
    good_folder();
    ck_assert_int_eq(dataset_load(&d, folder, message, sizeof message), 0);
    tokenizer *t = small_tokenizer();
    ck_assert_msg(dataset_tokens(&d, t, d.template_text, NULL, tokens, message, sizeof message) == 0, "%s", message);
    ck_assert_int_eq(tokens[0], tokenizer_first_id(t, "up"));
    ck_assert_int_eq(tokens[1], tokenizer_first_id(t, "down"));
    ck_assert_int_eq(dataset_tokens(&d, t, d.template_text, "down now=under,up=down", tokens, message, sizeof message),
                     0);
    ck_assert_int_eq(tokens[1], tokenizer_first_id(t, "under"));
    ck_assert_int_eq(dataset_tokens(&d, t, d.template_text, "up=up,down now=up", tokens, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "begin with the same token") != NULL, "%s", message);
    ck_assert_int_eq(dataset_tokens(&d, t, d.template_text, "up=up", tokens, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "'down now' has no word") != NULL, "%s", message);
    ck_assert_int_eq(dataset_tokens(&d, t, d.template_text, "left=up", tokens, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "'left' is not a class") != NULL, "%s", message);
    write_file("w.txt", "up\tdown\ndown now\tup\n");
    ck_assert_int_eq(dataset_tokens(&d, t, d.template_text, harness_path("w.txt"), tokens, message, sizeof message), 0);
    ck_assert_int_eq(tokens[1], tokenizer_first_id(t, "up"));
    /* Behind a space at the template's end the words have other tokens. */
    ck_assert_int_eq(dataset_tokens(&d, t, "{text} is ", NULL, tokens, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "without that space") != NULL, "%s", message);
    ck_assert_int_eq(dataset_tokens(&d, t, "{text} is\n", NULL, tokens, message, sizeof message), 0);
    tokenizer_destroy(t);
    dataset_destroy(&d);
}
END_TEST

/* The words built in have distinct first tokens under each of the models' tokenizers. */
START_TEST(shared_sets) {
    static const char *const sets[] = {"trec", "sst5", "mrpc", "webss", "carer"};
    static const char *const files[] = {"models/stories260k/tok512.bin", "models/stories656k/tok2048.bin",
                                        "models/stories3m/tok4096.bin"};
    static const int64_t train[] = {5452, 8544, 4076, 10060, 16000};
    for (int s = 0; s < 5; s++) {
        char name[64];
        dataset d;
        int32_t tokens[16];
        snprintf(name, sizeof name, "data/%s", sets[s]);
        const char *path = harness_shared(name);
        if (!path) return;
        ck_assert_msg(dataset_load(&d, path, message, sizeof message) == 0, "%s", message);
        ck_assert_int_eq(d.n_train, train[s]);
        for (int k = 0; k < 3; k++) {
            tokenizer *t;
            ck_assert_int_eq(tokenizer_load(&t, harness_shared(files[k]), message, sizeof message), 0);
            /* The second tokenizer joins words across spaces, so that some have no token of their own behind these. */
            const int failed = dataset_tokens(&d, t, d.template_text, NULL, tokens, message, sizeof message);
            ck_assert_msg(!failed || (k == 1 && strstr(message, "has no token of its own") != NULL), "%s %s: %s",
                          sets[s], files[k], message);
            for (int32_t c = 0; c < d.n_classes && !failed; c++)
                ck_assert_int_eq(tokens[c], tokenizer_first_id(t, d.words[c]));
            tokenizer_destroy(t);
        }
        dataset_destroy(&d);
    }
}
END_TEST

/* The data of the demonstration; tests run from the repository root. */
START_TEST(demonstration) {
    dataset d;
    tokenizer *t;
    int32_t tokens[16];
    ck_assert_msg(dataset_load(&d, "examples/demo/data", message, sizeof message) == 0, "%s", message);
    ck_assert_int_eq(d.n_classes, 6);
    ck_assert_str_eq(d.template_text, "{text} It is about");
    ck_assert_int_eq(tokenizer_load(&t, "examples/demo/tokenizer.bin", message, sizeof message), 0);
    ck_assert_msg(dataset_tokens(&d, t, d.template_text, NULL, tokens, message, sizeof message) == 0, "%s", message);
    tokenizer_destroy(t);
    dataset_destroy(&d);
}
END_TEST

START_TEST(macro_f1_by_hand) {
    const int32_t truth[] = {0, 0, 1, 1, 2}, predicted[] = {0, 1, 1, 1, -1};
    int64_t confusion[4 * 5];
    metrics m;
    ck_assert_int_eq(metrics_compute(4, 5, truth, predicted, confusion, &m), 0);
    /* class 0: 2/3, class 1: 4/5, class 2: 0, class 3 does not occur */
    ck_assert_double_eq_tol(m.f1, (2.0 / 3 + 0.8) / 3, 1e-12);
    ck_assert_double_eq_tol(m.accuracy, 0.6, 1e-12);
    /* of a table with half a right and half a wrong answer more in each class, by differences of F1 */
    ck_assert_double_eq_tol(m.variance, 0.032171896372, 1e-9);
    ck_assert_int_eq(confusion[0 * 5 + 1], 1);
    ck_assert_int_eq(confusion[2 * 5 + 4], 1);
    ck_assert_int_eq(metrics_compute(4, 5, truth, truth, NULL, &m), 0);
    ck_assert_double_eq_tol(m.f1, 1, 1e-12);
    ck_assert_int_eq(metrics_compute(4, 0, truth, truth, NULL, &m), 0);
    ck_assert_double_eq_tol(m.f1 + m.accuracy + m.variance, 0, 1e-12);
    ck_assert_int_eq(metrics_compute(1, 2, truth, predicted, NULL, &m), 0); /* one class, and 1 is none of it */
    ck_assert(m.variance > 0 && m.variance < 1);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, reads_a_folder);
    HARNESS_ADD(suite, half_a_line_end_is_one);
    HARNESS_ADD(suite, byte_order_marks_are_left_out);
    HARNESS_ADD(suite, names_file_and_line);
    HARNESS_ADD(suite, prompts);
    HARNESS_ADD(suite, braces_that_are_no_fields);
    HARNESS_ADD(suite, a_name_alone_is_no_data_set);
    HARNESS_ADD(suite, long_prompts_keep_the_template);
    HARNESS_ADD(suite, label_tokens);
    HARNESS_ADD(suite, shared_sets);
    HARNESS_ADD(suite, demonstration);
    HARNESS_ADD(suite, macro_f1_by_hand);
}
