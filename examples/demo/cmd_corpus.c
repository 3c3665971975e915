/* cmd_corpus.c - `salf-demo corpus` writes the demonstration's text and data set, `salf-demo tokenizer` trains a
 * tokenizer on a text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "demo.h"
#include "files.h"
#include "grammar.h"
#include "tokenizer_train.h"

typedef struct corpus_settings {
    int64_t lines;
    int32_t examples;
    uint64_t seed;
} corpus_settings;

static const args_option corpus_table[] = {
    {"lines", 0, ARGS_INT, offsetof(corpus_settings, lines), "N", .least = 1, .most = 1e9,
     .help = "lines to write (default 30000)"},
    {"examples", 0, ARGS_FLAG, offsetof(corpus_settings, examples),
     .help = "write `topic<TAB>text` examples instead of stories"},
    {"seed", 0, ARGS_SEED, offsetof(corpus_settings, seed), "S",
     .help = "another text for another number (default 42)"},
};

static const args_command corpus_command = {
    .name = "corpus",
    .summary = "Writes short texts in simple English about six topics, the same ones for the same seed.",
    .options = corpus_table,
    .n_options = sizeof corpus_table / sizeof *corpus_table,
};

int cmd_corpus(int argc, char **argv) {
    corpus_settings s = {.lines = 30000, .seed = 42};
    const int code = args_parse(&corpus_command, &s, argc, argv, NULL);
    if (code >= 0) return code;
    for (int64_t i = 0; i < s.lines && !ferror(stdout); i++) {
        char text[GRAMMAR_TEXT_SIZE];
        int32_t topic;
        if (s.examples) {
            grammar_example(s.seed, (uint64_t)i, &topic, text, sizeof text);
            printf("%s\t%s\n", grammar_topic(topic), text);
        } else {
            grammar_story(s.seed, (uint64_t)i, text, sizeof text);
            puts(text);
        }
    }
    return ferror(stdout) ? args_fail("corpus", "cannot write to standard output") : EXIT_CODE_OK;
}

/* Lines without their ends, each malloc'd. */
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

/* Appends the lines of a file. Returns -1 to go on, or an exit code. */
static int read_lines(line_list *list, const char *path) {
    char message[512];
    size_t size, n;
    char *text = file_read(path, &size, message, sizeof message);
    if (!text) return args_fail("tokenizer", "%s", message);
    int code = -1;
    for (char *line = text; code < 0 && line < text + size; line += n + 1) {
        const char *end = memchr(line, '\n', (size_t)(text + size - line));
        n = end ? (size_t)(end - line) : (size_t)(text + size - line);
        line[n] = 0;
        if (add_line(list, line, strcspn(line, "\r"))) code = args_fail("tokenizer", "out of memory");
    }
    free(text);
    return code;
}

typedef struct tokenizer_settings {
    int32_t size;
    const char *output;
} tokenizer_settings;

static const args_option tokenizer_table[] = {
    {"size", 0, ARGS_INT32, offsetof(tokenizer_settings, size), "N", .least = 360, .most = 8192,
     .help = "number of pieces, the 256 bytes among them (default 1024)"},
    {"output", 'o', ARGS_TEXT, offsetof(tokenizer_settings, output), "FILE", .required = 1, .place = PLACE_FILE,
     .help = "tokenizer file to write"},
};

static const args_command tokenizer_command = {
    .name = "tokenizer",
    .summary = "Trains a byte-pair tokenizer with byte pieces on the lines of a text.",
    .arguments = "TEXT...",
    .options = tokenizer_table,
    .n_options = sizeof tokenizer_table / sizeof *tokenizer_table,
};

int cmd_tokenizer(int argc, char **argv) {
    tokenizer_settings s = {.size = 1024};
    char message[512];
    tokenizer *t = NULL;
    line_list list = {0};
    int n;
    int code = args_parse(&tokenizer_command, &s, argc, argv, &n);
    for (int i = 1; code < 0 && i <= n; i++)
        code = file_is_same(s.output, argv[i]) ? args_misuse("tokenizer", "--output: %s is a text to be read", s.output)
                                               : read_lines(&list, argv[i]);
    if (code < 0) {
        code = EXIT_CODE_OK;
        if (tokenizer_train(&t, (const char *const *)list.lines, list.n, s.size, message, sizeof message) ||
            tokenizer_save(t, s.output, message, sizeof message))
            code = args_fail("tokenizer", "%s", message);
    }
    tokenizer_destroy(t);
    for (int64_t i = 0; i < list.n; i++) free(list.lines[i]);
    free(list.lines);
    return code;
}
