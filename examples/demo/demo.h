/* demo.h - the subcommands of salf-demo: argv[0] is the subcommand's own name; each returns an exit code of args.h. */
#ifndef SALF_DEMO_H
#define SALF_DEMO_H

int cmd_corpus(int argc, char **argv);
int cmd_tokenizer(int argc, char **argv);
int cmd_pretrain(int argc, char **argv);

#endif
