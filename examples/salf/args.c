/* args.c - command lines from a table. Cost: options times arguments, which is nothing. */
#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "salf.h"

enum { WORD_MAX = 48 }; /* longest word that is compared for nearness, and longest choice */

static void complain(const char *name, const char *format, va_list list) {
    fprintf(stderr, "salf %s: ", name);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
}

int args_fail(const char *name, const char *format, ...) {
    va_list list;
    va_start(list, format);
    complain(name, format, list);
    va_end(list);
    return EXIT_CODE_FAILED;
}

int args_misuse(const char *name, const char *format, ...) {
    va_list list;
    va_start(list, format);
    complain(name, format, list);
    va_end(list);
    return EXIT_CODE_USAGE;
}

int args_say(int code, const char *name, const char *format, ...) {
    va_list list;
    va_start(list, format);
    complain(name, format, list);
    va_end(list);
    return code;
}

int args_fail_salf(const char *name) {
    return args_fail(name, "%s", salf_last_error());
}

/* Levenshtein distance, one row at a time. */
static int edit_distance(const char *a, const char *b) {
    const int n = (int)strlen(b);
    int row[WORD_MAX + 1];
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            const int shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < shift ? change : shift;
        }
    }
    return row[n];
}

const char *args_nearest(const char *typed, const char *const *words, int n) {
    const char *best = NULL;
    const int length = (int)strlen(typed);
    if (length > WORD_MAX) return NULL;
    int least = length / 3 + 2; /* further away is no help */
    for (int i = 0; i < n; i++) {
        if (strlen(words[i]) > WORD_MAX) continue;
        const int distance = edit_distance(typed, words[i]);
        if (distance < least) least = distance, best = words[i];
    }
    return best;
}

/* ---- help ---- */

static int option_label(const args_option *o, char *out, size_t size) {
    const char *value = o->kind == ARGS_FLAG ? "" : o->kind == ARGS_CHOICE ? o->choices : o->metavar;
    const char *space = o->kind == ARGS_FLAG ? "" : " ";
    if (o->letter) return snprintf(out, size, "-%c, --%s%s%s", o->letter, o->name, space, value);
    return snprintf(out, size, "    --%s%s%s", o->name, space, value);
}

enum { HELP_COLUMN = 30, HELP_WIDTH = 100 };

static void print_wrapped(const char *text, int column) {
    while (*text) {
        size_t n = strlen(text);
        if (column + (int)n > HELP_WIDTH) {
            n = (size_t)(HELP_WIDTH - column);
            while (n > 1 && text[n] != ' ') n--;
        }
        printf("%.*s\n", (int)n, text);
        text += n;
        while (*text == ' ') text++;
        column = HELP_COLUMN;
        if (*text) printf("%*s", HELP_COLUMN, "");
    }
}

static void print_option(const args_option *o) {
    char label[256];
    const int n = option_label(o, label, sizeof label);
    printf("  %s", label);
    if (n + 4 > HELP_COLUMN) {
        printf("\n%*s", HELP_COLUMN, "");
    } else {
        printf("%*s", HELP_COLUMN - n - 2, "");
    }
    print_wrapped(o->help, HELP_COLUMN);
}

static const args_option help_option = {.name = "help", .letter = 'h', .help = "print this and end"};
static const args_option version_option = {.name = "version", .help = "print the version and end"};

static void print_help(const args_command *c) {
    printf("Usage: salf %s", c->name);
    for (int i = 0; i < c->n_options; i++) {
        char label[256];
        if (!c->options[i].required) continue;
        option_label(&c->options[i], label, sizeof label);
        printf(" %s", strstr(label, "--"));
    }
    printf(" [OPTION...]%s%s\n\n%s\n\nOptions:\n", c->arguments ? " " : "", c->arguments ? c->arguments : "",
           c->summary);
    for (int i = 0; i < c->n_options; i++) print_option(&c->options[i]);
    print_option(&help_option);
    print_option(&version_option);
    if (c->notes) printf("\n%s\n", c->notes);
}

/* ---- values ---- */

static int outside(const args_option *o, double value) {
    return (o->least != 0 || o->most != 0) && !(value >= o->least && value <= o->most);
}

static int bad_integer(const args_command *c, const args_option *o, const char *text) {
    if (o->least == 1) return args_misuse(c->name, "--%s: '%s' is not a positive integer", o->name, text);
    if (o->least == 0 && o->most > 0 && *text == '-') {
        return args_misuse(c->name, "--%s: '%s' is negative", o->name, text);
    }
    return args_misuse(c->name, "--%s: '%s' is not an integer", o->name, text);
}

static int out_of_range(const args_command *c, const args_option *o, const char *text) {
    return args_misuse(c->name, "--%s: %s is not between %g and %g", o->name, text, o->least, o->most);
}

static int starts_number(const char *text) {
    return isdigit((unsigned char)*text) ||
           ((*text == '-' || *text == '+' || *text == '.') && (isdigit((unsigned char)text[1]) || text[1] == '.'));
}

static int take_integer(const args_command *c, const args_option *o, const char *text) {
    char *end = NULL;
    errno = 0;
    const intmax_t value = strtoimax(text, &end, 10);
    if (!starts_number(text) || *end) return bad_integer(c, o, text);
    if (errno == ERANGE || (o->kind == ARGS_INT32 && (value > INT32_MAX || value < INT32_MIN))) {
        return args_misuse(c->name, "--%s: %s is too large", o->name, text);
    }
    if (outside(o, (double)value)) {
        return o->least == 1 && value < 1 ? bad_integer(c, o, text) : out_of_range(c, o, text);
    }
    if (o->kind == ARGS_INT32) *(int32_t *)o->value = (int32_t)value;
    if (o->kind == ARGS_INT) *(int64_t *)o->value = (int64_t)value;
    return -1;
}

static int take_seed(const args_command *c, const args_option *o, const char *text) {
    char *end = NULL;
    errno = 0;
    const uintmax_t value = strtoumax(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno == ERANGE || value > UINT64_MAX) {
        return args_misuse(c->name, "--%s: '%s' is not an integer of 0 ... 2^64-1", o->name, text);
    }
    *(uint64_t *)o->value = (uint64_t)value;
    return -1;
}

static int take_real(const args_command *c, const args_option *o, const char *text) {
    char *end = NULL;
    const double value = strtod(text, &end);
    if (!starts_number(text) || *end) return args_misuse(c->name, "--%s: '%s' is not a number", o->name, text);
    if (!isfinite(value)) return args_misuse(c->name, "--%s: %s is too large", o->name, text);
    if (outside(o, value)) return out_of_range(c, o, text);
    *(double *)o->value = value;
    return -1;
}

static int take_choice(const args_command *c, const args_option *o, const char *text) {
    int32_t number = 0;
    for (const char *word = o->choices; word; number++) {
        const char *bar = strchr(word, '|');
        const size_t n = bar ? (size_t)(bar - word) : strlen(word);
        if (strlen(text) == n && !strncmp(text, word, n)) {
            *(int32_t *)o->value = number;
            return -1;
        }
        word = bar ? bar + 1 : NULL;
    }
    return args_misuse(c->name, "--%s: '%s' is none of %s", o->name, text, o->choices);
}

static int take_value(const args_command *c, const args_option *o, const char *text) {
    switch (o->kind) {
    case ARGS_FLAG:
        *(int32_t *)o->value = 1;
        return -1;
    case ARGS_TEXT:
        *(const char **)o->value = text;
        return -1;
    case ARGS_REAL:
        return take_real(c, o, text);
    case ARGS_CHOICE:
        return take_choice(c, o, text);
    case ARGS_SEED:
        return take_seed(c, o, text);
    default:
        return take_integer(c, o, text);
    }
}

/* ---- parsing ---- */

static int unknown_option(const args_command *c, const char *name, size_t length) {
    const char *names[64];
    char typed[64];
    int n = 0;
    for (; n < c->n_options && n < 62; n++) names[n] = c->options[n].name;
    names[n++] = "help";
    names[n++] = "version";
    snprintf(typed, sizeof typed, "%.*s", (int)(length < 63 ? length : 63), name);
    const char *near = args_nearest(typed, names, n);
    if (near) return args_misuse(c->name, "unknown option --%s; did you mean --%s?", typed, near);
    return args_misuse(c->name, "unknown option --%s; `salf %s --help` lists them", typed, c->name);
}

static const args_option *find_long(const args_command *c, const char *name, size_t length) {
    for (int i = 0; i < c->n_options; i++) {
        if (strlen(c->options[i].name) == length && !strncmp(c->options[i].name, name, length)) return &c->options[i];
    }
    return NULL;
}

static const args_option *find_letter(const args_command *c, char letter) {
    for (int i = 0; i < c->n_options; i++) {
        if (c->options[i].letter == letter) return &c->options[i];
    }
    return NULL;
}

/* The option at argv[*at], and its value in *value (NULL: none attached). Returns -1 or an exit code. */
static int find_option(const args_command *c, const char *word, const args_option **out, const char **value) {
    *value = NULL;
    if (word[1] != '-') {
        *out = find_letter(c, word[1]);
        if (!*out) return args_misuse(c->name, "unknown option %s; `salf %s --help` lists them", word, c->name);
        if (word[2]) *value = word + 2;
        return -1;
    }
    const char *equals = strchr(word, '=');
    const size_t length = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
    *out = find_long(c, word + 2, length);
    if (!*out) return unknown_option(c, word + 2, length);
    if (equals) *value = equals + 1;
    return -1;
}

static int take_option(const args_command *c, int argc, char **argv, int *at) {
    const args_option *o;
    const char *value;
    int code = find_option(c, argv[*at], &o, &value);
    if (code >= 0) return code;
    if (o->kind == ARGS_FLAG && value) return args_misuse(c->name, "--%s takes no value, but has '%s'", o->name, value);
    if (o->kind != ARGS_FLAG && !value) {
        if (*at + 1 >= argc) return args_misuse(c->name, "--%s needs a value", o->name);
        value = argv[++*at];
    }
    if (o->given) *o->given = 1;
    return take_value(c, o, value);
}

static int is_given(const args_option *o, int argc, char **argv) {
    const size_t length = strlen(o->name);
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        const char *word = argv[i];
        if (word[0] != '-') continue;
        if (o->letter && word[1] == o->letter) return 1;
        if (word[1] == '-' && !strncmp(word + 2, o->name, length) && (!word[2 + length] || word[2 + length] == '=')) {
            return 1;
        }
    }
    return 0;
}

static int check_complete(const args_command *c, int argc, char **argv, int n) {
    if (n < c->least_arguments) return args_misuse(c->name, "%s is missing", c->arguments);
    if (c->arguments && c->most_arguments >= 0 && n > c->most_arguments) {
        return args_misuse(c->name, "unexpected argument '%s'", argv[1 + c->most_arguments]);
    }
    (void)argc;
    return -1;
}

static int check_required(const args_command *c, int argc, char **argv) {
    for (int i = 0; i < c->n_options; i++) {
        if (c->options[i].required && !is_given(&c->options[i], argc, argv)) {
            return args_misuse(c->name, "--%s is missing", c->options[i].name);
        }
    }
    return -1;
}

int args_parse(const args_command *command, int argc, char **argv, int *n_arguments) {
    int n = 0;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return print_help(command), EXIT_CODE_OK;
        if (!strcmp(argv[i], "--version")) return printf("salf %s\n", salf_version_string()), EXIT_CODE_OK;
    }
    int code = -1;
    const int required = check_required(command, argc, argv); /* before arguments are moved */
    for (int i = 1, options = 1; i < argc && code < 0; i++) {
        char *word = argv[i];
        if (options && !strcmp(word, "--")) {
            options = 0;
        } else if (options && word[0] == '-' && word[1]) {
            code = take_option(command, argc, argv, &i);
        } else if (command->arguments) {
            argv[1 + n++] = word;
        } else {
            code = args_misuse(command->name, "unexpected argument '%s'", word);
        }
    }
    if (code < 0 && required < 0) code = check_complete(command, argc, argv, n);
    if (n_arguments) *n_arguments = n;
    return code >= 0 ? code : required;
}

/* ---- lists ---- */

static int64_t count_parts(const char *text) {
    int64_t n = 1;
    for (; *text; text++) n += *text == ',';
    return n;
}

static void name_part(const char *part, const char *what, char *message, size_t message_size) {
    snprintf(message, message_size, "'%.*s' is not %s", (int)(strcspn(part, ",") % 200), part, what);
}

int args_int_list(const char *text, int64_t least, int64_t most, int32_t **out, int64_t *n, char *message,
                  size_t message_size) {
    const int64_t count = count_parts(text);
    int32_t *list = malloc((size_t)count * sizeof *list);
    *out = NULL;
    *n = 0;
    if (!list) return snprintf(message, message_size, "out of memory"), EXIT_CODE_FAILED;
    for (int64_t i = 0; i < count; i++) {
        char *end = NULL;
        errno = 0;
        const intmax_t value = strtoimax(text, &end, 10);
        const int good = starts_number(text) && (*end == ',' || !*end);
        if (!good || errno || value < least || value > most || value > INT32_MAX || value < INT32_MIN) {
            char what[80];
            snprintf(what, sizeof what, "an integer of %" PRId64 " ... %" PRId64, least, most);
            name_part(text, what, message, message_size);
            free(list);
            return EXIT_CODE_USAGE;
        }
        list[i] = (int32_t)value;
        text = *end ? end + 1 : end;
    }
    *out = list;
    *n = count;
    return EXIT_CODE_OK;
}

int args_real_list(const char *text, double **out, int64_t *n, char *message, size_t message_size) {
    const int64_t count = count_parts(text);
    double *list = malloc((size_t)count * sizeof *list);
    *out = NULL;
    *n = 0;
    if (!list) return snprintf(message, message_size, "out of memory"), EXIT_CODE_FAILED;
    for (int64_t i = 0; i < count; i++) {
        char *end = NULL;
        list[i] = strtod(text, &end);
        if (!starts_number(text) || (*end != ',' && *end) || !isfinite(list[i])) {
            name_part(text, "a number", message, message_size);
            free(list);
            return EXIT_CODE_USAGE;
        }
        text = *end ? end + 1 : end;
    }
    *out = list;
    *n = count;
    return EXIT_CODE_OK;
}
