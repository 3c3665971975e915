/* commands.h - the subcommands of salf: argv[0] is the subcommand's own name; each returns an exit code of args.h. */
#ifndef SALF_EXAMPLE_COMMANDS_H
#define SALF_EXAMPLE_COMMANDS_H

/* Help of the options that every command has that opens a model. */
#define VALID_VOCAB_HELP \
    "tokens there are; rows of the head beyond are padding (default: as many as tokenizer.json has)"
#define ACCEPT_HELP "keys of config.json that may stay unread because they change nothing"

int cmd_plan(int argc, char **argv);
int cmd_basis(int argc, char **argv);
int cmd_tokens(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_finetune(int argc, char **argv);
int cmd_advise(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_report(int argc, char **argv);

#endif
