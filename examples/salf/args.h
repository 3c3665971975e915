/* args.h - command lines from a table: one declaration gives parsing, checks, `--help` and error messages.
 *
 * Forms: --name VALUE, --name=VALUE, -x VALUE, --flag, and `--` before positional arguments. Errors go to standard
 * error as one line "salf plan: --layers: 'x' is not a positive integer". */
#ifndef SALF_EXAMPLE_ARGS_H
#define SALF_EXAMPLE_ARGS_H

#include <stddef.h>
#include <stdint.h>

/* Exit codes of the program. */
enum { EXIT_CODE_OK = 0, EXIT_CODE_FAILED = 1, EXIT_CODE_USAGE = 2 };

/* What an option takes, and what its value points to. */
enum {
    ARGS_FLAG = 0,   /* int32_t, becomes 1 */
    ARGS_TEXT = 1,   /* const char * */
    ARGS_INT = 2,    /* int64_t */
    ARGS_INT32 = 3,  /* int32_t */
    ARGS_REAL = 4,   /* double, finite */
    ARGS_CHOICE = 5, /* int32_t, position of the word in choices */
    ARGS_SEED = 6    /* uint64_t */
};

typedef struct args_option {
    const char *name; /* without the dashes */
    char letter;      /* short form, or 0 */
    int kind;
    void *value;         /* holds the default before parsing; unchanged when the option is not given */
    const char *metavar; /* name of the value in the help, such as "N" */
    const char *help;    /* one sentence; state the default in it */
    const char *choices; /* CHOICE: words, in the order of their numbers, separated by '|' */
    double least, most;  /* INT, INT32, REAL: bounds, both included; no bounds when both are 0 */
    int32_t required;
    int32_t *given; /* becomes 1 when the option is there; may be NULL */
} args_option;

typedef struct args_command {
    const char *name;      /* "plan" */
    const char *summary;   /* one sentence */
    const char *arguments; /* positional ones, such as "LOG..."; NULL: none are taken */
    const char *notes;     /* printed after the options; may be NULL */
    const args_option *options;
    int n_options;
    int least_arguments;
    int most_arguments; /* ignored when arguments is NULL; -1: no limit */
} args_command;

/* Parses argv[1] ... argv[argc-1] (argv[0] is the subcommand's name). Positional arguments are moved to the front of
 * argv[1...] and counted in *n_arguments (may be NULL when none are taken). Returns -1 to go on, otherwise the exit
 * code to end with at once: after --help or --version EXIT_CODE_OK, after an error EXIT_CODE_USAGE. */
int args_parse(const args_command *command, int argc, char **argv, int *n_arguments);

#if defined(__GNUC__)
#define ARGS_PRINTF(format_at) __attribute__((format(printf, format_at, format_at + 1)))
#else
#define ARGS_PRINTF(format_at)
#endif

/* Prints "salf NAME: message" to standard error; returns EXIT_CODE_FAILED and EXIT_CODE_USAGE respectively. */
int args_fail(const char *name, const char *format, ...) ARGS_PRINTF(2);
int args_misuse(const char *name, const char *format, ...) ARGS_PRINTF(2);
/* The same for a code that is known already, which it returns. */
int args_say(int code, const char *name, const char *format, ...) ARGS_PRINTF(3);
/* The same with the library's last message; for what the user asked for wrongly (an argument) the caller decides. */
int args_fail_salf(const char *name);

/* Comma-separated integers "0,7,100" as a malloc'd list, each within least ... most. Returns EXIT_CODE_OK, or with a
 * message EXIT_CODE_USAGE (which names the part at fault) or EXIT_CODE_FAILED (memory is short). */
int args_int_list(const char *text, int64_t least, int64_t most, int32_t **out, int64_t *n, char *message,
                  size_t message_size);
/* The same for reals. */
int args_real_list(const char *text, double **out, int64_t *n, char *message, size_t message_size);

/* The word among n that is nearest to the one typed, by edit distance, or NULL when none is near. */
const char *args_nearest(const char *typed, const char *const *words, int n);

#endif
