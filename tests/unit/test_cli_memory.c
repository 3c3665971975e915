/* The programs salf and salf-demo when memory runs out: each allocation of each subcommand that makes any fails in
 * turn, be it the program's own, the library's or Jansson's; every time the subcommand says so, ends with its
 * exit code, and leaks nothing (which the address sanitizer watches). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../examples/salf/files.h" /* not that of this folder */
#include "args.h"
#include "commands.h"
#include "demo.h"
#include "unit/allocations.h"
#include "unit/harness.h"

/* ---- a subcommand with its output in files ---- */

enum { MOST_WORDS = 40 };

typedef int (*subcommand)(int argc, char **argv);

static char said[4096];  /* on standard error by the last run */
static long allocations; /* of the last run */

static int turn(int descriptor, const char *path) { /* to a file; gives back what it was */
    const int before = dup(descriptor), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert(before >= 0 && file >= 0 && dup2(file, descriptor) >= 0);
    close(file);
    return before;
}

static void turn_back(int descriptor, int before) {
    ck_assert_int_ge(dup2(before, descriptor), 0);
    close(before);
}

static void read_said(const char *path) {
    FILE *file = fopen(path, "r");
    ck_assert(file != NULL);
    said[fread(said, 1, sizeof said - 1, file)] = '\0';
    fclose(file);
}

/* A run does not overwrite the log and the checkpoint of the one before. */
static void remove_runs(void) {
    static const char *const names[] = {"log", "checkpoint/checkpoint-0.safetensors",
                                        "checkpoint/checkpoint-1.safetensors"};
    for (int i = 0; i < 3; i++) remove(harness_path(names[i]));
}

/* Runs a line of words with the n-th allocation failing (negative: none). */
static int run(subcommand command, const char *line, long n) {
    char words[2048], path[256], *argv[MOST_WORDS + 1];
    int argc = 0;
    snprintf(words, sizeof words, "%s", line);
    snprintf(path, sizeof path, "%s", harness_path("stderr"));
    for (char *word = strtok(words, " "); word && argc < MOST_WORDS; word = strtok(NULL, " ")) argv[argc++] = word;
    argv[argc] = NULL;
    if (command == cmd_finetune) remove_runs();
    fflush(stdout);
    const int out = turn(STDOUT_FILENO, "/dev/null"), err = turn(STDERR_FILENO, path);
    allocations_made = 0;
    allocations_until = n;
    const int code = command(argc, argv);
    allocations = allocations_made; /* what follows is libcheck's */
    allocations_until = -1;
    fflush(stdout);
    turn_back(STDOUT_FILENO, out);
    turn_back(STDERR_FILENO, err);
    read_said(path);
    return code;
}

/* Fails one allocation after the other, or of a run that writes much every step-th. */
static void fail_each(subcommand command, const char *line, long step) {
    ck_assert_msg(run(command, line, -1) == EXIT_CODE_OK, "%s: %s", line, said);
    const long total = allocations;
    for (long n = 0; n < total; n += step) {
        const int code = run(command, line, n);
        ck_assert_msg(code == EXIT_CODE_FAILED, "%s: allocation %ld of %ld fails, exit code %d: %s", line, n, total,
                      code, said);
        ck_assert_msg(harness_contains(said, "memory"), "%s: allocation %ld of %ld fails: '%s'", line, n, total, said);
    }
}

/* ---- the subcommands ---- */

static char line[2048]; /* a subcommand's, with paths in the scratch folder */
static char at[4][256];

static const char *path_of(int i, const char *name) {
    snprintf(at[i], sizeof at[i], "%s", harness_path(name));
    return at[i];
}

/* A tokenizer, and a model of two layers for it. */
static void make_model(void) {
    snprintf(line, sizeof line, "tokenizer --size 400 --output %s examples/demo/data/test.tsv",
             path_of(0, "tokens.bin"));
    ck_assert_msg(run(cmd_tokenizer, line, -1) == EXIT_CODE_OK, "%s", said);
    snprintf(line, sizeof line,
             "pretrain --text examples/demo/data/test.tsv --tokenizer %s --output %s --layers 2 --hidden 16 --ffn 16 "
             "--heads 2 --steps 1 --batch 2",
             at[0], path_of(1, "model"));
    ck_assert_msg(run(cmd_pretrain, line, -1) == EXIT_CODE_OK, "%s", said);
}

START_TEST(plan) {
    fail_each(cmd_plan, "plan --layers 4 --data 100 --growth custom --weights 1,2,3,4", 1);
}
END_TEST

START_TEST(tokenizer) {
    snprintf(line, sizeof line, "tokenizer --size 360 --output %s examples/demo/data/words.txt", path_of(0, "t.bin"));
    fail_each(cmd_tokenizer, line, 1);
}
END_TEST

START_TEST(pretrain) {
    make_model();
    fail_each(cmd_pretrain, line, 1);
}
END_TEST

START_TEST(basis) {
    make_model();
    snprintf(line, sizeof line, "basis --model %s --tokens 1,7,100 --output %s", at[1], path_of(2, "basis"));
    fail_each(cmd_basis, line, 1);
    snprintf(line, sizeof line, "basis --model %s --tokens 1,7", at[1]);
    fail_each(cmd_basis, line, 1);
}
END_TEST

/* Words through both kinds of tokenizer: the model's pieces 0 ... 2 are a word and what it is made of. */
START_TEST(basis_of_words) {
    static const char json[] =
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\",\"pattern\":"
        "{\"String\":\"x\"},\"content\":\"b\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
        "\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"[ab]+|\\\\s\"}},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":true}]},\"added_tokens\":[{\"id\":4,\"content\":\"<s>\"}],\"model\":{\"type\":\"BPE\","
        "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\u0120\":3},\"merges\":[\"a b\"]}}";
    make_model();
    FILE *file = fopen(path_of(2, "tokenizer.json"), "w");
    ck_assert(file && fputs(json, file) >= 0 && fclose(file) == 0);
    snprintf(line, sizeof line, "basis --model %s --words a,ab --tokenizer %s", at[1], at[2]);
    fail_each(cmd_basis, line, 1);
    snprintf(line, sizeof line, "basis --model %s --words it,is --tokenizer %s", at[1], at[0]);
    fail_each(cmd_basis, line, 1);
}
END_TEST

START_TEST(probe) {
    make_model();
    FILE *prompts = fopen(path_of(2, "prompts"), "w");
    ck_assert(prompts && fputs("7\t1,2,3\n9\t4,5\n", prompts) >= 0 && fclose(prompts) == 0);
    snprintf(line, sizeof line, "probe --model %s --prompts %s", at[1], at[2]);
    fail_each(cmd_probe, line, 1);
    snprintf(line, sizeof line, "probe --model %s --prompts %s --metric rank --candidates 7,9", at[1], at[2]);
    fail_each(cmd_probe, line, 1);
}
END_TEST

/* A line that fine-tunes on little data. */
static void finetune_line(const char *more) {
    snprintf(line, sizeof line,
             "finetune --model %s --tokenizer %s --data examples/demo/data --limit-train 8 --limit-test 4 --batch 4 "
             "--log %s %s",
             at[1], at[0], path_of(2, "log"), more);
}

START_TEST(finetune) {
    make_model();
    finetune_line("--method salf[half] --json");
    fail_each(cmd_finetune, line, 1);
}
END_TEST

/* What states are kept in may be lacking: training then goes on without them. Anything else that is lacking ends it. */
START_TEST(finetune_with_states_kept) {
    long without = 0;
    make_model();
    finetune_line("--method lift*[half] --epochs 2 --cache 1M");
    ck_assert_msg(run(cmd_finetune, line, -1) == EXIT_CODE_OK, "%s", said);
    const long total = allocations;
    for (long n = 0; n < total; n++) {
        const int code = run(cmd_finetune, line, n);
        const bool goes_on = harness_contains(said, "--cache: out of memory; the others are run from the start");
        ck_assert_msg(code == (goes_on ? EXIT_CODE_OK : EXIT_CODE_FAILED) && harness_contains(said, "memory"),
                      "allocation %ld of %ld fails, exit code %d: '%s'", n, total, code, said);
        without += goes_on;
    }
    ck_assert_int_eq(without, 3); /* the cache, its table and its room */
}
END_TEST

START_TEST(finetune_with_files) {
    char more[1024];
    make_model();
    snprintf(more, sizeof more,
             "--method salf[geom][df][ce],lift*[half] --matching offline --loss semantic-ce --dense --checkpoint %s "
             "--checkpoint-every 1",
             path_of(3, "checkpoint"));
    finetune_line(more);
    fail_each(cmd_finetune, line, 61);
}
END_TEST

/* A head of 400 rows for 16 columns, and a tokenizer that the folder lacks: all that doctor finds. */
START_TEST(doctor) {
    make_model();
    snprintf(line, sizeof line, "doctor --json %s", at[1]);
    fail_each(cmd_doctor, line, 1);
    fail_each(cmd_doctor, "doctor", 1);
}
END_TEST

START_TEST(report) {
    make_model();
    finetune_line("--method salf[half],lora[half]");
    ck_assert_msg(run(cmd_finetune, line, -1) == EXIT_CODE_OK, "%s", said);
    snprintf(line, sizeof line, "report %s --output %s", at[2], path_of(3, "page.html"));
    fail_each(cmd_report, line, 1);
}
END_TEST

/* n numbers, each of eight bytes. */
static void print_numbers(FILE *file, const void *n) {
    for (int i = 0; i < *(const int *)n; i++) fprintf(file, "%07d\n", i);
}

/* What is printed is there whole, whatever the size, or there is no memory for it. */
START_TEST(composed) {
    static const int counts[] = {0, 1, 8191, 8192, 8193, 32768, 200000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        size_t size = 7;
        allocations_made = 0;
        char *text = file_compose(print_numbers, &counts[i], &size);
        const long total = allocations_made;
        ck_assert(text != NULL && size == 8 * (size_t)counts[i]);
        for (int k = 0; k < counts[i]; k++) ck_assert_int_eq(atoi(text + 8 * k), k);
        free(text);
        for (long n = 0; n < total; n++) {
            allocations_made = 0;
            allocations_until = n;
            text = file_compose(print_numbers, &counts[i], &size);
            allocations_until = -1;
            ck_assert(text == NULL && total >= 1);
        }
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, composed);
    HARNESS_ADD(suite, plan);
    HARNESS_ADD(suite, tokenizer);
    HARNESS_ADD(suite, pretrain);
    HARNESS_ADD(suite, basis);
    HARNESS_ADD(suite, basis_of_words);
    HARNESS_ADD(suite, probe);
    HARNESS_ADD(suite, finetune);
    HARNESS_ADD(suite, finetune_with_states_kept);
    HARNESS_ADD(suite, finetune_with_files);
    HARNESS_ADD(suite, doctor);
    HARNESS_ADD(suite, report);
}
