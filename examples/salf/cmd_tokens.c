/* cmd_tokens.c - `salf tokens`: texts as token ids, in the form of the prompts that `salf probe` reads. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "tokenizer.h"

typedef struct tokens_settings {
    const char *tokenizer;
    int32_t words;
    int32_t null;
} tokens_settings;

#define AT(field) offsetof(tokens_settings, field)

static const args_option tokens_table[] = {
    {"tokenizer", 0, ARGS_TEXT, AT(tokenizer), "FILE", .required = 1,
     .help = "tokenizer.json, .bin tokenizer, or a folder with one"},
    {"words", 0, ARGS_FLAG, AT(words),
     .help = "lines are `word<TAB>prompt`; prints the id that follows the prompt where the word stands behind it, a "
             "tab, and the "
             "prompt's ids"},
    {"null", '0', ARGS_FLAG, AT(null), .help = "texts end with a byte 0 instead of a line end"},
};
#undef AT

static const args_command tokens_command = {
    .name = "tokens",
    .summary = "Reads a text a line from standard input and prints its ids with commas between them, as prompts of "
               "`salf probe` have them.",
    .options = tokens_table,
    .n_options = sizeof tokens_table / sizeof *tokens_table,
};

/* One text, without its end. Returns an exit code. */
static int print_ids(const tokens_settings *s, const tokenizer *t, char *text, int64_t line) {
    char *prompt = text;
    if (s->words) {
        prompt = strchr(text, '\t');
        if (!prompt) return args_fail("tokens", "line %" PRId64 ": there is no tab", line);
        *prompt++ = 0;
        const int32_t id = tokenizer_id_behind(t, prompt, text);
        if (id == TOKEN_NO_MEMORY) return args_fail("tokens", "out of memory");
        if (id == TOKEN_NONE)
            return args_fail("tokens", "line %" PRId64 ": '%s' has no token of its own behind the prompt", line, text);
        printf("%" PRId32 "\t", id);
    }
    int64_t n;
    int32_t *ids = s->words ? tokenizer_prompt_new(t, prompt, &n) : tokenizer_encode_new(t, prompt, &n);
    if (!ids) return args_fail("tokens", "line %" PRId64 ": out of memory, or a pattern takes too long", line);
    for (int64_t i = 0; i < n; i++) printf("%s%" PRId32, i ? "," : "", ids[i]);
    putchar('\n');
    free(ids);
    return EXIT_CODE_OK;
}

int cmd_tokens(int argc, char **argv) {
    tokens_settings s = {0};
    char message[512], *text = NULL;
    size_t room = 0;
    ssize_t n;
    tokenizer *t;
    int code = args_parse(&tokens_command, &s, argc, argv, NULL);
    if (code >= 0) return code;
    if (tokenizer_load(&t, s.tokenizer, message, sizeof message)) return args_fail("tokens", "%s", message);
    const int end = s.null ? 0 : '\n';
    code = EXIT_CODE_OK;
    for (int64_t line = 1; !code && (n = getdelim(&text, &room, end, stdin)) >= 0; line++) {
        if (n > 0 && text[n - 1] == end) text[--n] = 0;
        if (strlen(text) != (size_t)n)
            code = args_fail("tokens", "line %" PRId64 ": a byte is zero", line);
        else
            code = print_ids(&s, t, text, line);
    }
    /* a line that memory lacks for ends the loop, and is no error of the file */
    if (!code && !feof(stdin)) code = args_fail("tokens", "standard input cannot be read: %s", strerror(errno));
    free(text);
    tokenizer_destroy(t);
    return code;
}
