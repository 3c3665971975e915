/* main.c - `salf SUBCOMMAND ...`: the table of subcommands. */
#include <stdio.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "salf.h"

typedef struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} subcommand;

static const subcommand subcommands[] = {
    {"plan", cmd_plan, "spread data over freezing depths under a budget"},
    {"basis", cmd_basis, "semantic-basis rows of a model's tokens"},
    {"probe", cmd_probe, "deviations and end-of-freezing layers of prompts"},
    {"finetune", cmd_finetune, "fine-tune a model on a classification task with one or more methods"},
    {"report", cmd_report, "turn a fine-tuning log into an HTML report"},
    {"pretrain", cmd_pretrain, "train a small model from scratch on a text"},
    {"tokenizer", cmd_tokenizer, "train a byte-pair tokenizer on a text"},
    {"corpus", cmd_corpus, "write the text and the data set of the demonstration"},
};
enum { N_SUBCOMMANDS = sizeof subcommands / sizeof subcommands[0] };

static void print_help(FILE *out) {
    fputs("Usage: salf SUBCOMMAND [OPTION...]\n\n"
          "Semantic-aware layer freezing: decide where to fine-tune a language model.\n\n"
          "Subcommands:\n",
          out);
    for (int i = 0; i < N_SUBCOMMANDS; i++) fprintf(out, "  %-10s %s\n", subcommands[i].name, subcommands[i].summary);
    fputs("\n`salf SUBCOMMAND --help` lists the options of each; `salf --version` prints the version.\n", out);
}

static int unknown(const char *name) {
    const char *names[N_SUBCOMMANDS];
    for (int i = 0; i < N_SUBCOMMANDS; i++) names[i] = subcommands[i].name;
    const char *near = args_nearest(name, names, N_SUBCOMMANDS);
    if (near) {
        fprintf(stderr, "salf: '%s' is not a subcommand; did you mean '%s'?\n", name, near);
    } else {
        fprintf(stderr, "salf: '%s' is not a subcommand; `salf --help` lists them\n", name);
    }
    return EXIT_CODE_USAGE;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return EXIT_CODE_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return EXIT_CODE_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("salf %s\n", salf_version_string());
        return EXIT_CODE_OK;
    }
    for (int i = 0; i < N_SUBCOMMANDS; i++) {
        if (strcmp(argv[1], subcommands[i].name)) continue;
        const int code = subcommands[i].run(argc - 1, argv + 1);
        if (fflush(stdout) == 0) return code;
        fprintf(stderr, "salf %s: cannot write to standard output\n", argv[1]);
        return code == EXIT_CODE_OK ? EXIT_CODE_FAILED : code;
    }
    return unknown(argv[1]);
}
