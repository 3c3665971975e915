/* args.h - command lines from a table: one declaration gives parsing, checks, `--help` and error messages.
 *
 * Forms: --name VALUE, --name=VALUE, -x VALUE, --flag, and `--` before positional arguments. Errors go to standard
 * error as one line "salf plan: --layers: 'x' is not a positive integer".
 *
 * A table is constant: an option says at which offset of the command's settings its value lies, so that the settings
 * themselves are a local variable of the command. Words of the library are not typed here or in a table: an option
 * names their family ("SALF_METRIC"), and what the library knows is what the option takes and the help lists. */
#ifndef SALF_EXAMPLE_ARGS_H
#define SALF_EXAMPLE_ARGS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes of the program. */
enum { EXIT_CODE_OK = 0, EXIT_CODE_FAILED = 1, EXIT_CODE_USAGE = 2 };

/* Times that an option of the kind ARGS_TEXTS may be given. */
enum { ARGS_TEXTS_MOST = 32 };

typedef struct args_texts {
    int32_t n;
    const char *text[ARGS_TEXTS_MOST];
} args_texts;

/* What an option takes, and what lies at its offset. */
enum {
    ARGS_FLAG = 0,   /* int32_t, becomes 1 */
    ARGS_TEXT = 1,   /* const char *, borrowed from argv; the last one counts */
    ARGS_TEXTS = 2,  /* args_texts: the option may be repeated */
    ARGS_INT = 3,    /* int64_t */
    ARGS_INT32 = 4,  /* int32_t */
    ARGS_REAL = 5,   /* double, finite */
    ARGS_CHOICE = 6, /* int32_t, a constant of the family or an index of words */
    ARGS_MASK = 7,   /* int32_t, constants of the family or'ed: a comma-separated list of their words */
    ARGS_SEED = 8    /* uint64_t */
};

typedef struct args_option {
    const char *name; /* without the dashes */
    char letter;      /* short form, or 0 */
    int kind;
    size_t at;           /* offset of the value in the settings, which hold the default; unchanged when not given */
    const char *metavar; /* name of the value in the help, such as "N"; of a CHOICE or MASK its words stand there */
    const char *help;    /* one sentence; state the default in it */
    const char *family;  /* CHOICE, MASK: of salf.h's constants, such as "SALF_METRIC" */
    const char *const *words; /* CHOICE of the program's own: words by their number, NULL behind the last */
    double least, most;       /* INT, INT32, REAL: bounds, both included; no bounds when both are 0 */
    int32_t required;
    size_t given;  /* offset of an int32_t that becomes 1 when the option is there; 0: nobody asks */
    int32_t place; /* TEXT: what is written there, PLACE_FILE and so on (files.h); 0: nothing */
} args_option;

typedef struct args_command {
    const char *name;      /* "plan" */
    const char *summary;   /* one sentence */
    const char *arguments; /* positional ones, such as "LOG...", at least one; "[MODEL]": none will do; NULL: none are
                              taken */
    const char *notes;     /* printed after the options; may be NULL */
    const args_option *options;
    int n_options; /* at most 64 */
} args_command;

/* Parses argv[1] ... argv[argc-1] (argv[0] is the subcommand's name) into settings. Positional arguments are moved to
 * the front of argv[1...] and counted in *n_arguments (may be NULL when none are taken). Returns -1 to go on, otherwise
 * the exit code to end with at once: after --help or --version EXIT_CODE_OK, after an error EXIT_CODE_USAGE, and
 * EXIT_CODE_FAILED where something could not be written at the end: each place is tried before any work is done. */
int args_parse(const args_command *command, void *settings, int argc, char **argv, int *n_arguments);

/* A subcommand: argv[0] is its name; returns an exit code. */
typedef struct args_subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} args_subcommand;

/* A whole program of subcommands: runs the one that argv[1] names, or prints the help. about: one sentence. */
int args_main(const char *program, const char *about, const args_subcommand *subcommands, int n, int argc, char **argv);

/* ---- what args.c and args_help.c share ---- */

/* What messages and help call the program; set once, by args_main. */
extern const char *args_program;
/* Room for all words of a family; the longest, SALF_POLICY, takes 130 bytes. */
enum { ARGS_WORDS_SIZE = 400 };
/* Word number i of a CHOICE or MASK, and the value it stands for; NULL behind the last. */
const char *args_option_word(const args_option *o, int i, int32_t *value);
/* All words of an option with a mark between them. */
const char *args_option_words(const args_option *o, char mark, char out[ARGS_WORDS_SIZE]);

typedef struct args_program_table {
    const char *program, *about;
    const args_subcommand *subcommands;
    int n;
} args_program_table;

/* `salf plan --help`, as wide as the terminal, and `salf --help`. */
void args_help(const args_command *c);
void args_main_help(const args_program_table *p, FILE *out);
/* `salf man` and `salf completion bash|zsh|fish`: pages of the whole program. Each asks the subcommands for theirs, by
 * `salf plan --help=man` and so on, as their tables are their own. Return an exit code. */
int args_main_page(const args_program_table *p, const char *page, const char *shell);
int args_page(const args_command *c, const char *form);

/* What an option has in the settings, as its user would write it; "(default)" where nobody has said anything. Returns
 * the length that it needs, as snprintf does. */
size_t args_value(const args_option *option, const void *settings, char *text, size_t size);

/* Words of a text from column at on, in lines of at most width columns, of which the later ones begin at indent; a
 * longer word stays whole. Characters that would move the cursor are shown as '?'. */
void args_print_wrapped(FILE *out, const char *text, int at, int indent, int width);

#if defined(__GNUC__)
#define ARGS_PRINTF(format_at) __attribute__((format(printf, format_at, format_at + 1)))
#else
#define ARGS_PRINTF(format_at)
#endif

/* Prints "salf NAME: message" to standard error and returns code. */
int args_say(int code, const char *name, const char *format, ...) ARGS_PRINTF(3);
/* The same for what went wrong, and for what the user asked for wrongly. */
#define args_fail(...)   args_say(EXIT_CODE_FAILED, __VA_ARGS__)
#define args_misuse(...) args_say(EXIT_CODE_USAGE, __VA_ARGS__)
/* args_fail with the library's last message; whether that was the user's mistake the caller decides. */
int args_fail_salf(const char *name);

/* Comma-separated integers "0,7,100" as a malloc'd list, each within least ... most. Returns EXIT_CODE_OK, or with a
 * message EXIT_CODE_USAGE (which names the part at fault) or EXIT_CODE_FAILED (memory is short). */
int args_int_list(const char *text, int64_t least, int64_t most, int32_t **out, int64_t *n, char *message,
                  size_t message_size);
/* The same for reals. */
int args_real_list(const char *text, double **out, int64_t *n, char *message, size_t message_size);

#endif
