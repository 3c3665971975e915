/* main.c - the program `salf`: the table of its subcommands. */
#include "args.h"
#include "commands.h"

static const args_subcommand subcommands[] = {
    {"plan", cmd_plan, "spread data over freezing depths under a budget"},
    {"basis", cmd_basis, "semantic-basis rows of a model's tokens"},
    {"tokens", cmd_tokens, "token ids of texts"},
    {"probe", cmd_probe, "deviations and end-of-freezing layers of prompts"},
    {"finetune", cmd_finetune, "fine-tune a model on a classification task with one or more methods"},
    {"advise", cmd_advise, "say whether freezing pays for a model and data, by a pilot of some minutes"},
    {"doctor", cmd_doctor, "say what is found on this machine and in a model, and check the numbers"},
    {"report", cmd_report, "turn a fine-tuning log into an HTML report"},
};

int main(int argc, char **argv) {
    return args_main("salf", "Semantic-aware layer freezing: decide where to fine-tune a language model.", subcommands,
                     sizeof subcommands / sizeof *subcommands, argc, argv);
}
