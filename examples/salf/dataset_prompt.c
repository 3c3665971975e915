/* dataset_prompt.c - prompts: the template with the texts put in, as text and as ids of bounded number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataset.h"
#include "message.h"

int dataset_check_template(const char *template_text, char *message, size_t message_size) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    if (!strstr(template_text, "{text}"))
        return message_fail(message, message_size, "template '%.80s' has no {text}", template_text);
    /* What looks like a field would stand in every prompt as it is; other braces are the user's. */
    for (const char *s = template_text; (s = strchr(s, '{')); s++) {
        const size_t n = strspn(s + 1, letters);
        if (n == 0 || s[n + 1] != '}' || (n == 4 && !strncmp(s, "{text}", 6)) || (n == 5 && !strncmp(s, "{text2}", 7)))
            continue;
        snprintf(message, message_size, "template '%.80s' has {%.*s}; {text} and {text2} are known", template_text,
                 n < 40 ? (int)n : 40, s + 1);
        return -1;
    }
    return 0;
}

/* Appends n bytes when out is there; gives the new length in every case. */
static size_t append_bytes(char *out, size_t at, const char *text, size_t n) {
    if (out) memcpy(out + at, text, n);
    return at + n;
}

/* Fills the template; texts are cut after limit and limit2 bytes. out NULL: only the length. */
static size_t fill_template(char *out, const char *template_text, const dataset_example *e, size_t limit,
                            size_t limit2) {
    size_t at = 0;
    for (const char *s = template_text; *s;) {
        if (!strncmp(s, "{text}", 6)) {
            at = append_bytes(out, at, e->text, limit);
            s += 6;
        } else if (!strncmp(s, "{text2}", 7)) {
            if (e->text2) at = append_bytes(out, at, e->text2, limit2);
            s += 7;
        } else if (!e->text2 && !strncmp(s, " {text2}", 8)) {
            s += 8;
        } else {
            at = append_bytes(out, at, s++, 1);
        }
    }
    return at;
}

/* The filled template as a text of its own, malloc'd: measured first, then written. */
static char *filled_template(const char *template_text, const dataset_example *e, size_t limit, size_t limit2) {
    const size_t n = fill_template(NULL, template_text, e, limit, limit2);
    char *out = malloc(n + 1);
    if (!out) return NULL;
    fill_template(out, template_text, e, limit, limit2);
    out[n] = 0;
    return out;
}

char *dataset_prompt(const char *template_text, const dataset_example *example) {
    return filled_template(template_text, example, strlen(example->text), example->text2 ? strlen(example->text2) : 0);
}

/* A cut must not fall inside a character. */
static size_t whole_characters(const char *text, size_t n) {
    while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    return n;
}

/* How many tokens a text has is known only after encoding it, so that the text is shortened until it fits. */
int32_t *dataset_prompt_ids(const tokenizer *t, const char *template_text, const dataset_example *example,
                            int64_t most_tokens, int64_t *n) {
    const size_t whole = strlen(example->text), whole2 = example->text2 ? strlen(example->text2) : 0;
    size_t limit = whole, limit2 = whole2;
    for (;;) {
        char *prompt = filled_template(template_text, example, limit, limit2);
        int32_t *ids = prompt ? tokenizer_prompt_new(t, prompt, n) : NULL;
        free(prompt);
        if (!ids || most_tokens <= 0 || *n <= most_tokens || limit + limit2 == 0) return ids;
        /* Each round takes a tenth of what is left, so that the end is reached in O(log length) encodings. */
        limit = whole_characters(example->text, limit - (limit + 9) / 10);
        if (limit2) limit2 = whole_characters(example->text2, limit2 - (limit2 + 9) / 10);
        free(ids);
    }
}
