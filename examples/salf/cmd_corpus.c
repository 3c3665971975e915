/* cmd_corpus.c - `salf corpus` writes the demonstration's text and data set, `salf tokenizer` trains a tokenizer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "grammar.h"
#include "tokenizer.h"

typedef struct corpus_settings {
    int64_t lines;
    int32_t examples;
    uint64_t seed;
} corpus_settings;

static void print_example(uint64_t seed, uint64_t index) {
    char text[GRAMMAR_TEXT_SIZE];
    int32_t topic;
    grammar_example(seed, index, &topic, text, sizeof text);
    printf("%s\t%s\n", grammar_topic(topic), text);
}

static void print_story(uint64_t seed, uint64_t index) {
    char text[GRAMMAR_TEXT_SIZE];
    grammar_story(seed, index, text, sizeof text);
    puts(text);
}

int cmd_corpus(int argc, char **argv) {
    corpus_settings s = {.lines = 30000, .seed = 42};
    const args_option options[] = {
        {.name = "lines",
         .kind = ARGS_INT,
         .value = &s.lines,
         .metavar = "N",
         .help = "lines to write (default 30000)",
         .least = 1,
         .most = 1e9},
        {.name = "examples",
         .kind = ARGS_FLAG,
         .value = &s.examples,
         .help = "write `topic<TAB>text` examples instead of stories"},
        {.name = "seed",
         .kind = ARGS_SEED,
         .value = &s.seed,
         .metavar = "S",
         .help = "another text for another number (default 42)"},
    };
    const args_command command = {
        .name = "corpus",
        .summary = "Writes short texts in simple English about six topics, the same ones for the same seed.",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    const int code = args_parse(&command, argc, argv, NULL);
    if (code >= 0) return code;
    for (int64_t i = 0; i < s.lines && !ferror(stdout); i++) {
        if (s.examples) {
            print_example(s.seed, (uint64_t)i);
        } else {
            print_story(s.seed, (uint64_t)i);
        }
    }
    return ferror(stdout) ? args_fail("corpus", "cannot write to standard output") : EXIT_CODE_OK;
}

typedef struct line_list {
    char **lines;
    int64_t n;
    int64_t room;
} line_list;

/* Returns 0, or -1 when memory is short. */
static int add_line(line_list *list, const char *line, size_t n) {
    if (list->n == list->room) {
        const int64_t more = list->room ? 2 * list->room : 4096;
        char **lines = realloc(list->lines, (size_t)more * sizeof *lines);
        if (!lines) return -1;
        list->lines = lines;
        list->room = more;
    }
    char *copy = malloc(n + 1);
    if (!copy) return -1;
    memcpy(copy, line, n);
    copy[n] = 0;
    list->lines[list->n++] = copy;
    return 0;
}

static int read_lines(line_list *list, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return args_fail("tokenizer", "%s: cannot be opened", path);
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int code = -1;
    while (code < 0 && (n = getline(&line, &room, file)) > 0) {
        if (add_line(list, line, strcspn(line, "\r\n"))) code = args_fail("tokenizer", "out of memory");
    }
    if (code < 0 && ferror(file)) code = args_fail("tokenizer", "%s: cannot be read", path);
    free(line);
    fclose(file);
    return code;
}

static int train(const line_list *list, int32_t size, const char *output) {
    char message[512];
    tokenizer *t = NULL;
    const int failed = tokenizer_train(&t, (const char *const *)list->lines, list->n, size, message, sizeof message) ||
                       tokenizer_save(t, output, message, sizeof message);
    tokenizer_destroy(t);
    return failed ? args_fail("tokenizer", "%s", message) : EXIT_CODE_OK;
}

int cmd_tokenizer(int argc, char **argv) {
    int32_t size = 1024;
    const char *output = NULL;
    int n;
    const args_option options[] = {
        {.name = "size",
         .kind = ARGS_INT32,
         .value = &size,
         .metavar = "N",
         .help = "number of pieces, the 256 bytes among them (default 1024)",
         .least = 360,
         .most = 8192},
        {.name = "output",
         .letter = 'o',
         .kind = ARGS_TEXT,
         .value = &output,
         .metavar = "FILE",
         .help = "tokenizer file to write",
         .required = 1},
    };
    const args_command command = {.name = "tokenizer",
                                  .summary = "Trains a byte-pair tokenizer with byte pieces on the lines of a text.",
                                  .arguments = "TEXT...",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0],
                                  .least_arguments = 1,
                                  .most_arguments = -1};
    int code = args_parse(&command, argc, argv, &n);
    line_list list = {0};
    for (int i = 1; code < 0 && i <= n; i++) code = read_lines(&list, argv[i]);
    if (code < 0) code = train(&list, size, output);
    for (int64_t i = 0; i < list.n; i++) free(list.lines[i]);
    free(list.lines);
    return code;
}
