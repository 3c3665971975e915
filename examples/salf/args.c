/* args.c - command lines from a table. Cost: options times arguments, which is nothing. */
#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "salf.h"

/* Longest word that is compared for nearness; names of options and subcommands are shorter. */
enum { WORD_MOST = 48 };

/* What messages and help call the program; set once, by args_main. */
const char *args_program = "salf";

/* One line, whatever stands in the paths and files that it names: control characters would break it up, or tell the
 * terminal what to do. */
int args_say(int code, const char *name, const char *format, ...) {
    char text[4096];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7F) *c = '?';
    fprintf(stderr, "%s %s: %s\n", args_program, name, text);
    return code;
}

int args_fail_salf(const char *name) {
    return args_fail(name, "%s", salf_last_error());
}

/* Number of insertions, deletions and changes of a letter that turn a into b (Levenshtein), one row of the usual table
 * at a time. b has at most WORD_MOST letters. */
static int edit_distance(const char *a, const char *b) {
    const int n = (int)strlen(b);
    int row[WORD_MOST + 1];
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

/* The word among n that is nearest to the one typed, or NULL when none is near: more than a third of the letters and
 * two wrong is another word, not a slip. */
static const char *nearest_word(const char *typed, const char *const *words, int n) {
    const char *best = NULL;
    const int length = (int)strlen(typed);
    if (length > WORD_MOST) return NULL;
    int least = length / 3 + 2;
    for (int i = 0; i < n; i++) {
        if (strlen(words[i]) > WORD_MOST) continue;
        const int distance = edit_distance(typed, words[i]);
        if (distance < least) {
            least = distance;
            best = words[i];
        }
    }
    return best;
}

/* ---- words of options ---- */

/* Word number i of a CHOICE or MASK, and the value it stands for; NULL behind the last. Families begin at 0 or 1; those
 * of a mask double from 1 on, and the word of all bits together comes last. */
const char *args_option_word(const args_option *o, int i, int32_t *value) {
    *value = i;
    if (o->words) return o->words[i];
    if (o->kind == ARGS_CHOICE) {
        *value += salf_constant_word(o->family, 0) == NULL;
        return salf_constant_word(o->family, *value);
    }
    int32_t past = 1;
    int bits = 0;
    for (; salf_constant_word(o->family, past); past *= 2) bits++;
    *value = i < bits ? (int32_t)1 << i : past - 1;
    return i <= bits ? salf_constant_word(o->family, *value) : NULL;
}

/* All words of an option with a mark between them. */
const char *args_option_words(const args_option *o, char mark, char out[ARGS_WORDS_SIZE]) {
    const char *word;
    int32_t value;
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; (word = args_option_word(o, i, &value)) != NULL && used + strlen(word) + 2 < ARGS_WORDS_SIZE; i++) {
        if (i) out[used++] = mark;
        used += (size_t)snprintf(out + used, ARGS_WORDS_SIZE - used, "%s", word);
    }
    return out;
}

size_t args_value(const args_option *o, const void *settings, char *text, size_t size) {
    const char *at = (const char *)settings + o->at, *word;
    int32_t number = 0, value;
    size_t used = 0;
    if (o->given) memcpy(&number, (const char *)settings + o->given, sizeof number);
    if (o->given && !number) return (size_t)snprintf(text, size, "(default)");
    if (o->kind == ARGS_FLAG || o->kind == ARGS_INT32 || o->kind == ARGS_CHOICE || o->kind == ARGS_MASK)
        memcpy(&number, at, sizeof number);
    switch (o->kind) {
    case ARGS_FLAG:
        return (size_t)snprintf(text, size, "%s", number ? "yes" : "no");
    case ARGS_INT: /* 0 where the least that can be given is 1: nobody has said anything */
        if (*(const int64_t *)at == 0 && o->least > 0) return (size_t)snprintf(text, size, "(default)");
        return (size_t)snprintf(text, size, "%lld", (long long)*(const int64_t *)at);
    case ARGS_INT32:
        return (size_t)snprintf(text, size, "%d", (int)number);
    case ARGS_REAL:
        for (int digits = 1; digits < 17; digits++) { /* as few as it takes to read the same number */
            used = (size_t)snprintf(text, size, "%.*g", digits, *(const double *)at);
            const double back = strtod(text, NULL);
            if (memcmp(&back, at, sizeof back) == 0) return used;
        }
        return (size_t)snprintf(text, size, "%.17g", *(const double *)at);
    case ARGS_SEED:
        return (size_t)snprintf(text, size, "%llu", (unsigned long long)*(const uint64_t *)at);
    case ARGS_TEXT:
        word = *(const char *const *)at;
        return (size_t)snprintf(text, size, "%s", word ? word : "(default)");
    case ARGS_TEXTS:
        for (int32_t i = 0; i < ((const args_texts *)at)->n && used < size; i++)
            used += (size_t)snprintf(text + used, size - used, "%s%s", i ? "," : "", ((const args_texts *)at)->text[i]);
        return used;
    default: /* words: the one, or those of the bits that are set */
        text[0] = 0;
        for (int i = 0; (word = args_option_word(o, i, &value)) != NULL && used < size; i++) {
            const int single = (value & (value - 1)) == 0;
            if (o->kind == ARGS_CHOICE ? value == number : single && (number & value))
                used += (size_t)snprintf(text + used, size - used, "%s%s", used ? "," : "", word);
        }
        return used;
    }
}

/* ---- values: each of these returns -1, or after a message EXIT_CODE_USAGE ---- */

/* strtol and strtod also take blanks, "inf" and "0x1"; a number here begins as one. */
static int starts_number(const char *text) {
    return isdigit((unsigned char)*text) ||
           ((*text == '-' || *text == '+' || *text == '.') && (isdigit((unsigned char)text[1]) || text[1] == '.'));
}

/* Both bounds 0 is no bounds. */
static int check_bounds(const args_command *c, const args_option *o, const char *text, double value) {
    if ((o->least == 0 && o->most == 0) || (value >= o->least && value <= o->most)) return -1;
    return args_misuse(c->name, "--%s: %s is not between %g and %g", o->name, text, o->least, o->most);
}

/* The message says what is wrong with the text, and only then which bound the number breaks. */
static int set_integer(const args_command *c, const args_option *o, const char *text, void *at) {
    char *end = NULL;
    errno = 0;
    const intmax_t value = strtoimax(text, &end, 10);
    const int good = starts_number(text) && !*end;
    if (o->least == 1 && (!good || (value < 1 && !errno)))
        return args_misuse(c->name, "--%s: '%s' is not a positive integer", o->name, text);
    if (!good && o->least == 0 && o->most > 0 && *text == '-')
        return args_misuse(c->name, "--%s: '%s' is negative", o->name, text);
    if (!good) return args_misuse(c->name, "--%s: '%s' is not an integer", o->name, text);
    if (errno == ERANGE || (o->kind == ARGS_INT32 && (value > INT32_MAX || value < INT32_MIN)))
        return args_misuse(c->name, "--%s: %s is too large", o->name, text);
    const int code = check_bounds(c, o, text, (double)value);
    if (code >= 0) return code;
    if (o->kind == ARGS_INT32) *(int32_t *)at = (int32_t)value;
    if (o->kind == ARGS_INT) *(int64_t *)at = (int64_t)value;
    return -1;
}

/* Up to 2^63-1, which logs and reports can hold: readers of JSON have integers of 64 bits with a sign. */
static int set_seed(const args_command *c, const args_option *o, const char *text, uint64_t *at) {
    char *end = NULL;
    errno = 0;
    const uintmax_t value = strtoumax(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno == ERANGE || value > INT64_MAX)
        return args_misuse(c->name, "--%s: '%s' is not an integer of 0 ... 2^63-1", o->name, text);
    *at = (uint64_t)value;
    return -1;
}

static int set_real(const args_command *c, const args_option *o, const char *text, double *at) {
    char *end = NULL;
    const double value = strtod(text, &end);
    if (!starts_number(text) || *end) return args_misuse(c->name, "--%s: '%s' is not a number", o->name, text);
    if (!isfinite(value)) return args_misuse(c->name, "--%s: %s is too large", o->name, text);
    const int code = check_bounds(c, o, text, value);
    if (code < 0) *at = value;
    return code;
}

/* A word, or for a mask a list of words. Nothing is set unless all of them are known. */
static int set_words(const args_command *c, const args_option *o, const char *text, int32_t *at) {
    char words[ARGS_WORDS_SIZE];
    int32_t all = 0;
    for (;;) {
        const size_t n = o->kind == ARGS_MASK ? strcspn(text, ",") : strlen(text);
        const char *word;
        int32_t value;
        for (int i = 0; (word = args_option_word(o, i, &value)) != NULL; i++)
            if (strlen(word) == n && memcmp(word, text, n) == 0) break;
        if (!word)
            return args_misuse(c->name, "--%s: '%.*s' is none of %s", o->name, (int)(n % 4096), text,
                               args_option_words(o, '|', words));
        all |= value;
        if (!text[n]) break;
        text += n + 1;
    }
    *at = all;
    return -1;
}

static int set_value(const args_command *c, const args_option *o, void *at, const char *text) {
    args_texts *texts = at;
    switch (o->kind) {
    case ARGS_FLAG:
        *(int32_t *)at = 1;
        return -1;
    case ARGS_TEXT:
        if (!*text) return args_misuse(c->name, "--%s: the text is empty", o->name);
        *(const char **)at = text;
        return -1;
    case ARGS_TEXTS:
        if (texts->n == ARGS_TEXTS_MOST)
            return args_misuse(c->name, "--%s is given more than %d times", o->name, ARGS_TEXTS_MOST);
        texts->text[texts->n++] = text;
        return -1;
    case ARGS_REAL:
        return set_real(c, o, text, at);
    case ARGS_CHOICE:
    case ARGS_MASK:
        return set_words(c, o, text, at);
    case ARGS_SEED:
        return set_seed(c, o, text, at);
    default:
        return set_integer(c, o, text, at);
    }
}

/* ---- parsing ---- */

/* The option that a word begins, its number into *index, and the value behind '=' or the letter into *value (NULL: none
 * is attached). Returns -1, or after a message EXIT_CODE_USAGE. */
static int find_option(const args_command *c, const char *word, int *index, const char **value) {
    const int is_long = word[1] == '-';
    const char *name = word + 2, *names[66] = {"help", "version"};
    const size_t length = is_long ? strcspn(name, "=") : 0;
    for (int i = 0; i < c->n_options; i++) {
        const args_option *o = &c->options[i];
        const int found = is_long ? strlen(o->name) == length && !strncmp(o->name, name, length) : o->letter == word[1];
        names[i + 2] = o->name;
        if (!found) continue;
        *index = i;
        *value = is_long ? (name[length] ? name + length + 1 : NULL) : (word[2] ? name : NULL);
        return -1;
    }
    if (!is_long)
        return args_misuse(c->name, "unknown option %s; `%s %s --help` lists them", word, args_program, c->name);
    char typed[64];
    snprintf(typed, sizeof typed, "%.*s", (int)(length < 63 ? length : 63), name);
    const char *near = nearest_word(typed, names, c->n_options + 2);
    if (near) return args_misuse(c->name, "unknown option --%s; did you mean --%s?", typed, near);
    return args_misuse(c->name, "unknown option --%s; `%s %s --help` lists them", typed, args_program, c->name);
}

/* Where the results go, given or by default. A log may lie in a folder that the command is yet to make. Returns -1, or
 * after a message the exit code. */
static int try_places(const args_command *c, const void *settings) {
    char message[1024];
    for (int pass = 0, makes = 0; pass < 2; pass++) {
        for (int i = 0; i < c->n_options; i++) {
            const args_option *o = &c->options[i];
            const char *path = o->place ? *(const char *const *)((const char *)settings + o->at) : NULL;
            if (!path || (pass == 0) != (o->place == PLACE_FOLDER)) continue; /* folders first */
            makes |= pass == 0 && access(path, F_OK) != 0;
            if (file_try(path, o->place, message, sizeof message) == 0 || (makes && pass && errno == ENOENT)) continue;
            return args_fail(c->name, "--%s: %s", o->name, message);
        }
    }
    return -1;
}

int args_parse(const args_command *c, void *settings, int argc, char **argv, int *n_arguments) {
    /* 1. help and version count wherever they stand, also beside what would be an error */
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            args_help(c);
            return EXIT_CODE_OK;
        }
        if (!strncmp(argv[i], "--help=", 7)) return args_page(c, argv[i] + 7);
        if (!strcmp(argv[i], "--version")) {
            printf("%s %s\n", args_program, salf_version_string());
            return EXIT_CODE_OK;
        }
    }
    /* 2. options, and arguments between them */
    uint64_t seen = 0; /* bit i: option i was there */
    int n = 0, only_arguments = 0;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (only_arguments || word[0] != '-' || !word[1]) {
            if (!c->arguments) return args_misuse(c->name, "unexpected argument '%s'", word);
            argv[1 + n++] = word;
            continue;
        }
        if (!strcmp(word, "--")) {
            only_arguments = 1;
            continue;
        }
        int index = 0;
        const char *value = NULL;
        int code = find_option(c, word, &index, &value);
        if (code >= 0) return code;
        const args_option *o = &c->options[index];
        if (o->kind == ARGS_FLAG && value)
            return args_misuse(c->name, "--%s takes no value, but has '%s'", o->name, value);
        if (o->kind != ARGS_FLAG && !value) {
            if (i + 1 >= argc) return args_misuse(c->name, "--%s needs a value", o->name);
            value = argv[++i];
        }
        code = set_value(c, o, (char *)settings + o->at, value);
        if (code >= 0) return code;
        void *given = (char *)settings + o->given;
        if (o->given) *(int32_t *)given = 1;
        seen |= (uint64_t)1 << index;
    }
    /* 3. what is missing */
    for (int i = 0; i < c->n_options; i++) {
        if (c->options[i].required && !(seen >> i & 1))
            return args_misuse(c->name, "--%s is missing", c->options[i].name);
    }
    if (c->arguments && c->arguments[0] != '[' && n == 0) return args_misuse(c->name, "%s is missing", c->arguments);
    if (n_arguments) *n_arguments = n;
    return try_places(c, settings);
}

/* ---- a program of subcommands ---- */

/* Words that are no subcommand's: help, version, pages. Returns an exit code, or -1 for another word. */
static int run_word(const args_program_table *p, int argc, char **argv) {
    const char *word = argv[1], *next = argc > 2 ? argv[2] : NULL;
    const int is_help = !strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help");
    const int is_page = !strcmp(word, "man") || !strcmp(word, "completion"), is_completion = *word == 'c';
    if (!is_help && !is_page && strcmp(word, "--version") != 0) return -1;
    if (!is_help && next && (!strcmp(next, "--help") || !strcmp(next, "-h"))) {
        args_main_help(p, stdout);
        return EXIT_CODE_OK;
    }
    const int most = is_help || is_completion ? 3 : 2;
    if (argc > most) return args_misuse(word, "unexpected argument '%s'", argv[most]);
    if (is_page) return args_main_page(p, word, next ? next : "bash");
    if (!is_help) {
        printf("%s %s\n", p->program, salf_version_string());
        return EXIT_CODE_OK;
    }
    if (!next) {
        args_main_help(p, stdout);
        return EXIT_CODE_OK;
    }
    char option[] = "--help", *words[] = {argv[2], option, NULL};
    for (int i = 0; i < p->n; i++)
        if (!strcmp(next, p->subcommands[i].name)) return p->subcommands[i].run(2, words);
    return args_misuse(word, "'%s' is not a subcommand", next);
}

int args_main(const char *program, const char *about, const args_subcommand *subcommands, int n, int argc,
              char **argv) {
    const char *names[32];
    const args_program_table all = {program, about, subcommands, n};
    args_program = program;
#ifdef SIGXFSZ
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write, with a message */
#endif
    /* A stream that is closed is taken by something that fails as it would: else the next file that is opened has its
     * number, and tables or messages are written into a log or a model. */
    for (int i = 0; i < 3; i++)
        if (fcntl(i, F_GETFD) < 0 && open("/dev/null", i == 0 ? O_WRONLY : O_RDONLY) != i) return EXIT_CODE_FAILED;
    if (argc < 2) {
        args_main_help(&all, stderr);
        return EXIT_CODE_USAGE;
    }
    int code = run_word(&all, argc, argv);
    for (int i = 0; i < n && code < 0; i++) {
        names[i] = subcommands[i].name;
        if (!strcmp(argv[1], names[i])) code = subcommands[i].run(argc - 1, argv + 1);
    }
    if (code >= 0) { /* what is printed may have failed long ago, and a disk have room again */
        if (fflush(stdout) == 0 && !ferror(stdout)) return code;
        fprintf(stderr, "%s %s: cannot write to standard output\n", program, argv[1]);
        return code == EXIT_CODE_OK ? EXIT_CODE_FAILED : code;
    }
    const char *near = nearest_word(argv[1], names, n);
    fprintf(stderr, "%s: '%s' is not a subcommand; ", program, argv[1]);
    if (near) {
        fprintf(stderr, "did you mean '%s'?\n", near);
    } else {
        fprintf(stderr, "`%s --help` lists them\n", program);
    }
    return EXIT_CODE_USAGE;
}

/* ---- lists ---- */

/* Parts of a comma-separated list: one more than it has commas. */
static int64_t count_parts(const char *text) {
    int64_t n = 1;
    for (; *text; text++) n += *text == ',';
    return n;
}

/* Says what the part at the front of a list is not. */
static int bad_part(const char *part, const char *what, char *message, size_t message_size) {
    snprintf(message, message_size, "'%.*s' is not %s", (int)(strcspn(part, ",") % 200), part, what);
    return EXIT_CODE_USAGE;
}

int args_int_list(const char *text, int64_t least, int64_t most, int32_t **out, int64_t *n, char *message,
                  size_t message_size) {
    const int64_t count = count_parts(text);
    int32_t *list = malloc((size_t)count * sizeof *list);
    *out = NULL;
    *n = 0;
    if (!list) {
        snprintf(message, message_size, "out of memory");
        return EXIT_CODE_FAILED;
    }
    for (int64_t i = 0; i < count; i++) {
        char *end = NULL;
        errno = 0;
        const intmax_t value = strtoimax(text, &end, 10);
        const int good = starts_number(text) && (*end == ',' || !*end);
        if (!good || errno || value < least || value > most || value > INT32_MAX || value < INT32_MIN) {
            char what[80];
            snprintf(what, sizeof what, "an integer of %" PRId64 " ... %" PRId64, least, most);
            free(list);
            return bad_part(text, what, message, message_size);
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
    if (!list) {
        snprintf(message, message_size, "out of memory");
        return EXIT_CODE_FAILED;
    }
    for (int64_t i = 0; i < count; i++) {
        char *end = NULL;
        list[i] = strtod(text, &end);
        if (!starts_number(text) || (*end != ',' && *end) || !isfinite(list[i])) {
            free(list);
            return bad_part(text, "a number", message, message_size);
        }
        text = *end ? end + 1 : end;
    }
    *out = list;
    *n = count;
    return EXIT_CODE_OK;
}
