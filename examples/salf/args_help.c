/* args_help.c - what is printed from a table of options: help, the manual page, completions of shells.
 *
 * They come from the table that parses, so that none of them can be out of date. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "args.h"
#include "salf.h"

/* ---- help ---- */

/* Where sentences begin, and the widths between which a terminal is obeyed; what is no terminal gets 80 columns. */
enum { HELP_COLUMN = 30, WIDTH_LEAST = 60, WIDTH_MOST = 100, WIDTH_USUAL = 80 };

static int help_width(void) {
    struct winsize size;
    if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return WIDTH_USUAL;
    return size.ws_col < WIDTH_LEAST ? WIDTH_LEAST : size.ws_col > WIDTH_MOST ? WIDTH_MOST : size.ws_col;
}

void args_print_wrapped(FILE *out, const char *text, int at, int indent, int width) {
    int first = 1;
    while (*text) {
        const int n = (int)strcspn(text, " ");
        if (!first && at + 1 + n > width) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
            first = 1;
        }
        if (!first) {
            fputc(' ', out);
            at++;
        }
        for (int i = 0; i < n; i++) fputc(iscntrl((unsigned char)text[i]) ? '?' : text[i], out);
        at += n;
        first = 0;
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

/* "--layers M", "--metric cosine|ce|rank": what to type. Returns its length. */
static int make_label(const args_option *o, char *out, size_t size) {
    char words[ARGS_WORDS_SIZE];
    const int listed = o->kind == ARGS_CHOICE || o->kind == ARGS_MASK, valued = o->kind != ARGS_FLAG;
    const char *value = listed ? args_option_words(o, o->kind == ARGS_MASK ? ',' : '|', words) : o->metavar;
    return snprintf(out, size, "--%s%s%s", o->name, valued ? " " : "", valued ? value : "");
}

enum { LABEL_SIZE = ARGS_WORDS_SIZE + 64 };

/* The label, and beside it the sentence; a label that is too long has a line to itself. */
static void print_option(const args_option *o, int width) {
    char label[LABEL_SIZE];
    const int n = make_label(o, label, sizeof label) + 6; /* two blanks, and the letter with what follows it */
    if (o->letter) {
        printf("  -%c, %s", o->letter, label);
    } else {
        printf("      %s", label);
    }
    if (n + 2 > HELP_COLUMN) {
        printf("\n%*s", HELP_COLUMN, "");
    } else {
        printf("%*s", HELP_COLUMN - n, "");
    }
    args_print_wrapped(stdout, o->help, HELP_COLUMN, HELP_COLUMN, width);
}

static const args_option always[] = {{.name = "help", .letter = 'h', .help = "print this and end"},
                                     {.name = "version", .help = "print the version and end"}};

/* The subcommand's own options, and behind them those that each has. */
static const args_option *option_at(const args_command *c, int i) {
    return i < c->n_options ? &c->options[i] : &always[i - c->n_options];
}

/* "plan --layers M --data N [OPTION...]": the required options stand there, as nothing works without them. */
static void print_usage(const args_command *c) {
    printf("%s", c->name);
    for (int i = 0; i < c->n_options; i++) {
        char label[LABEL_SIZE];
        if (!c->options[i].required) continue;
        make_label(&c->options[i], label, sizeof label);
        printf(" %s", label);
    }
    printf(" [OPTION...]%s%s", c->arguments ? " " : "", c->arguments ? c->arguments : "");
}

void args_help(const args_command *c) {
    const int width = help_width();
    printf("Usage: %s ", args_program);
    print_usage(c);
    printf("\n\n");
    args_print_wrapped(stdout, c->summary, 0, 0, width);
    printf("\nOptions:\n");
    for (int i = 0; i < c->n_options + 2; i++) print_option(option_at(c, i), width);
    if (!c->notes) return;
    printf("\n");
    args_print_wrapped(stdout, c->notes, 0, 0, width);
}

void args_main_help(const args_program_table *p, FILE *out) {
    fprintf(out, "Usage: %s SUBCOMMAND [OPTION...]\n\n%s\n\nSubcommands:\n", p->program, p->about);
    for (int i = 0; i < p->n; i++) {
        fprintf(out, "  %-10s ", p->subcommands[i].name);
        args_print_wrapped(out, p->subcommands[i].summary, 13, 13, WIDTH_USUAL);
    }
    fprintf(out,
            "  man        print the manual page, for `man -l -`\n"
            "  completion bash|zsh|fish: print the completions of a shell\n\n"
            "`%s SUBCOMMAND --help` lists the options of each; `%s --version` prints the\n"
            "version. Exit codes: 0 done, 1 failed, 2 wrong usage.\n",
            p->program, p->program);
}

/* ---- the manual page ---- */

/* Text in roff: a dash that is typed is a minus, a backslash has a name, and no line begins with a dot or a quote. */
static void print_roff(const char *text) {
    for (const char *c = text; *c; c++) {
        if ((c == text || c[-1] == '\n') && (*c == '.' || *c == '\'')) printf("\\&");
        if (*c == '-') {
            printf("\\-");
        } else if (*c == '\\') {
            printf("\\e");
        } else {
            putchar(*c);
        }
    }
    putchar('\n');
}

static void print_man(const args_command *c) {
    printf(".SS %s %s\n", args_program, c->name);
    print_roff(c->summary);
    for (int i = 0; i < c->n_options + 2; i++) {
        char label[LABEL_SIZE];
        const args_option *o = option_at(c, i);
        make_label(o, label, sizeof label);
        printf(".TP\n.B ");
        if (o->letter) printf("\\-%c, ", o->letter);
        print_roff(label);
        print_roff(o->help);
    }
    if (!c->notes) return;
    printf(".PP\n");
    print_roff(c->notes);
}

/* ---- completions ---- */

/* A case of the bash function: the words of an option behind it, else all options. */
static void print_bash(const args_command *c) {
    char words[ARGS_WORDS_SIZE];
    printf("    %s)\n        case $before in\n", c->name);
    for (int i = 0; i < c->n_options; i++) {
        const args_option *o = &c->options[i];
        if (o->kind == ARGS_CHOICE) printf("        --%s) words='%s' ;;\n", o->name, args_option_words(o, ' ', words));
        if (o->kind == ARGS_TEXT && o->metavar && (strstr(o->metavar, "FOLDER") || strstr(o->metavar, "FILE")))
            printf("        --%s) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", o->name);
    }
    printf("        *) words='");
    for (int i = 0; i < c->n_options; i++) printf("--%s ", c->options[i].name);
    printf("--help --version' ;;\n        esac ;;\n");
}

/* The sentence up to its first colon or bracket, without quotes. */
static void print_short(const char *text) {
    for (; *text && *text != '(' && *text != ':' && *text != ';'; text++)
        if (*text != '\'' && *text != '\\') putchar(*text);
}

static void print_fish(const args_command *c) {
    char words[ARGS_WORDS_SIZE];
    for (int i = 0; i < c->n_options + 2; i++) {
        const args_option *o = option_at(c, i);
        printf("complete -c %s -n '__fish_seen_subcommand_from %s' -l %s", args_program, c->name, o->name);
        if (o->letter) printf(" -s %c", o->letter);
        if (o->kind == ARGS_CHOICE) printf(" -xa '%s'", args_option_words(o, ' ', words));
        if (o->kind != ARGS_FLAG && o->kind != ARGS_CHOICE) printf(" -r");
        printf(" -d '");
        print_short(o->help);
        printf("'\n");
    }
}

int args_page(const args_command *c, const char *form) {
    if (!strcmp(form, "man")) {
        print_man(c);
        return EXIT_CODE_OK;
    }
    if (!strcmp(form, "bash") || !strcmp(form, "zsh")) {
        print_bash(c);
        return EXIT_CODE_OK;
    }
    if (!strcmp(form, "fish")) {
        print_fish(c);
        return EXIT_CODE_OK;
    }
    return args_misuse(c->name, "--help: '%s' is none of man|bash|zsh|fish", form);
}

/* The pages of all subcommands, one after the other. */
static int print_pages(const args_program_table *p, const char *form) {
    int code = EXIT_CODE_OK;
    for (int i = 0; i < p->n && code == EXIT_CODE_OK; i++) {
        char name[64], word[64], *words[] = {name, word, NULL};
        snprintf(name, sizeof name, "%s", p->subcommands[i].name);
        snprintf(word, sizeof word, "--help=%s", form);
        code = p->subcommands[i].run(2, words);
    }
    return code;
}

int args_main_page(const args_program_table *p, const char *page, const char *shell) {
    if (!strcmp(page, "man")) {
        printf(".TH %s 1 \"\" \"%s %s\"\n.SH NAME\n%s \\- %s\n.SH SYNOPSIS\n.B %s\nSUBCOMMAND [OPTION...]\n.SH "
               "SUBCOMMANDS\n",
               p->program, p->program, salf_version_string(), p->program, p->about, p->program);
        const int code = print_pages(p, "man");
        printf(".SH EXIT STATUS\n0: done; 1: failed, for a reason that standard error says; 2: wrong usage.\n"
               ".SH ENVIRONMENT\n.TP\n.B SALF_BACKEND\nthe backend where no option names one: reference, cpu or cuda\n"
               ".TP\n.B SALF_DEMO\nfolder of the demonstration's model and data\n");
        return code;
    }
    const int is_fish = !strcmp(shell, "fish"), is_zsh = !strcmp(shell, "zsh");
    if (!is_fish && !is_zsh && strcmp(shell, "bash") != 0)
        return args_misuse("completion", "'%s' is none of bash|zsh|fish", shell);
    if (is_fish) {
        for (int i = 0; i < p->n; i++) {
            printf("complete -c %s -n __fish_use_subcommand -xa %s -d '", p->program, p->subcommands[i].name);
            print_short(p->subcommands[i].summary);
            printf("'\n");
        }
        return print_pages(p, "fish");
    }
    if (is_zsh) printf("autoload -U +X bashcompinit && bashcompinit\n");
    printf("_%s() {\n    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='",
           p->program);
    for (int i = 0; i < p->n; i++) printf("%s ", p->subcommands[i].name);
    printf("man completion --help --version'\n    else\n    case ${COMP_WORDS[1]} in\n");
    const int code = print_pages(p, "bash");
    printf("    completion) words='bash zsh fish' ;;\n    esac\n    fi\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\ncomplete -o default -F _%s %s\n",
           p->program, p->program);
    return code;
}
