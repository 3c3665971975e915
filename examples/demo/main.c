/* main.c - the program `salf-demo`: what made the demonstration's text, tokenizer and model. It is built beside salf
 * from the same parts, and not installed. */
#include "args.h"
#include "demo.h"

static const args_subcommand subcommands[] = {
    {"corpus", cmd_corpus, "write the text and the data set of the demonstration"},
    {"tokenizer", cmd_tokenizer, "train a byte-pair tokenizer on a text"},
    {"pretrain", cmd_pretrain, "train a small model from scratch on a text"},
};

int main(int argc, char **argv) {
    return args_main("salf-demo", "What the demonstration of salf was made with.", subcommands,
                     sizeof subcommands / sizeof *subcommands, argc, argv);
}
