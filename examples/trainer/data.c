/*
 * data.c - a folder of classification data becomes prompts.
 *
 *     labels.txt     the classes, one a line
 *     words.txt      class<TAB>word that stands for it in the text; without this file the class names are the words
 *     template.txt   the prompt, with {text} and {text2} in it; without this file "{text} {text2} It is about a"
 *     train.tsv, test.tsv   class<TAB>text, or class<TAB>text<TAB>second text
 *
 * The model is to say the word of the class as the next token of the prompt, so a class is a token: its word's first.
 */
#include <stdio.h>
#include <string.h>

#include "trainer.h"

/* ---- files ---- */

/* A whole file of a folder (NULL: name is the path), with a 0 behind it; NULL where it is optional and not there. */
char *read_file(memory **chain, const char *folder, const char *name, int optional, int64_t *size) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s%s", folder ? folder : "", folder ? "/" : "", name);
    FILE *file = fopen(path, "rb");
    if (!file && optional) return NULL;
    if (!file) fail("%s cannot be opened", path);
    *size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (*size < 0) fail("%s cannot be read", path);
    rewind(file);
    char *bytes = take(chain, *size + 1, 1);
    if (fread(bytes, 1, (size_t)*size, file) != (size_t)*size) fail("%s cannot be read", path);
    fclose(file);
    return bytes;
}

/* Cuts off what stands before the mark, and moves *at behind it; NULL at the end of the text. */
static char *cut_at(char **at, char mark) {
    char *piece = *at, *end = strchr(piece, mark);
    if (!*piece) return NULL;
    *at = end ? end + 1 : piece + strlen(piece);
    if (end) *end = '\0';
    return piece;
}

static char *next_line(char **at) {
    char *line = cut_at(at, '\n');
    if (line && *line && line[strlen(line) - 1] == '\r') line[strlen(line) - 1] = '\0';
    return line;
}

static int64_t count_lines(const char *text) {
    int64_t n = 0;
    for (; *text; text++) n += *text == '\n' || !text[1];
    return n;
}

/* ---- prompts ---- */

typedef struct example {
    int32_t class;
    const char *text, *text2; /* text2 NULL: the line has none */
} example;

/* A space, and the template with the texts in place; without a second text the space before {text2} goes too. */
static void write_prompt(char *out, const char *template_text, const example *e) {
    *out++ = ' ';
    for (const char *s = template_text; *s;) {
        const char *put = NULL;
        if (strncmp(s, "{text}", 6) == 0) {
            put = e->text;
            s += 6;
        } else if (strncmp(s, "{text2}", 7) == 0) {
            put = e->text2 ? e->text2 : "";
            s += 7;
        } else if (!e->text2 && strncmp(s, " {text2}", 8) == 0) {
            put = "";
            s += 8;
        }
        if (put)
            out += sprintf(out, "%s", put);
        else
            *out++ = *s++;
    }
    *out = '\0';
}

static int32_t class_of(char *const *classes, int32_t n, const char *name) {
    for (int32_t c = 0; c < n; c++)
        if (strcmp(classes[c], name) == 0) return c;
    fail("class '%s' is not in labels.txt", name);
}

/* A file of examples as prompts; limit: how many of them are used, spread evenly over the file (0: all). */
static void read_prompts(dataset *d, batch *out, const char *folder, const char *name, char *const *classes,
                         const char *template_text, const tokenizer *t, int64_t limit) {
    memory *scratch = NULL;
    int64_t size, tokens = 0;
    char *text = read_file(&scratch, folder, name, 0, &size);
    const int64_t lines = count_lines(text), n = limit > 0 && limit < lines ? limit : lines;
    if (lines == 0) fail("%s/%s holds no examples", folder, name);
    /* 1. the lines */
    example *examples = take(&scratch, lines, sizeof *examples);
    for (int64_t i = 0; i < lines; i++) {
        char *line = next_line(&text), *label = cut_at(&line, '\t'), *first = label ? cut_at(&line, '\t') : NULL;
        if (!first || strchr(line, '\t'))
            fail("%s/%s:%lld is not label<TAB>text or label<TAB>text<TAB>text2", folder, name, (long long)i + 1);
        if (*line && !strstr(template_text, "{text2}"))
            fail("%s/%s:%lld has a second text, the template '%s' no {text2}", folder, name, (long long)i + 1,
                 template_text);
        examples[i] = (example){class_of(classes, d->n_classes, label), first, *line ? line : NULL};
    }
    for (int64_t i = 0; i < n; i++) examples[i] = examples[i * lines / n];
    /* 2. their prompts; a token has at least one byte, so bytes bound the room */
    const int64_t longest = size + (int64_t)strlen(template_text) + 2;
    char *prompt = take(&scratch, 2 * longest, 1);
    int32_t *ids = take(&scratch, 2 * longest, sizeof *ids);
    batch_open(out, &d->memory, n, size + n * (int64_t)(strlen(template_text) + 2));
    for (int64_t i = 0; i < n; i++) {
        write_prompt(prompt, template_text, &examples[i]);
        const int64_t length = tokenizer_encode(t, prompt, ids);
        memcpy(out->tokens + tokens, ids, (size_t)length * sizeof *ids);
        tokens += length;
        out->first[i + 1] = tokens;
        out->last[i] = tokens - 1;
        out->classes[i] = examples[i].class;
        out->labels[i] = d->words[examples[i].class];
        if (length > d->longest) d->longest = length;
    }
    out->n = n;
    free_chain(&scratch);
}

/* The first token of a word, that of a lone space aside. */
static int32_t token_of_word(const tokenizer *t, const char *word) {
    char text[256];
    int32_t ids[257];
    snprintf(text, sizeof text, " %s", word);
    const int64_t n = tokenizer_encode(t, text, ids);
    const int32_t id = n > 2 && tokenizer_length(t, ids[1]) == 1 ? ids[2] : ids[1];
    if (id == 0) fail("the tokenizer does not know the word '%s'", word);
    return id;
}

void dataset_open(dataset *d, const char *folder, const tokenizer *t, int64_t limit_train, int64_t limit_test) {
    memory *scratch = NULL;
    int64_t size;
    *d = (dataset){0};
    char *labels = read_file(&scratch, folder, "labels.txt", 0, &size);
    char *words = read_file(&scratch, folder, "words.txt", 1, &size), *line;
    char *prompt = read_file(&scratch, folder, "template.txt", 1, &size);
    const char *template_text = prompt && *prompt ? next_line(&prompt) : "{text} {text2} It is about a";
    const int64_t n = count_lines(labels);
    char **classes = take(&scratch, n, sizeof *classes);
    d->words = take(&d->memory, n, sizeof *d->words);
    while ((line = next_line(&labels)) != NULL) classes[d->n_classes++] = line;
    for (int32_t c = 0; c < d->n_classes && !words; c++) d->words[c] = token_of_word(t, classes[c]);
    while (words && (line = next_line(&words)) != NULL) {
        const char *class = cut_at(&line, '\t');
        if (!class || !*line) fail("%s/words.txt has a line that is not class<TAB>word", folder);
        d->words[class_of(classes, d->n_classes, class)] = token_of_word(t, line);
    }
    for (int32_t c = 0; c < d->n_classes; c++) {
        if (d->words[c] == 0) fail("%s/words.txt has no word for class '%s'", folder, classes[c]);
        for (int32_t other = 0; other < c; other++)
            if (d->words[c] == d->words[other])
                fail("the words of classes '%s' and '%s' begin with the same token", classes[other], classes[c]);
    }
    const char *text = strstr(template_text, "{text}"), *text2 = strstr(template_text, "{text2}");
    if (!text || strstr(text + 1, "{text}") || (text2 && strstr(text2 + 1, "{text2}")))
        fail("the template '%s' needs {text} once, and {text2} at most once", template_text);
    if (template_text[strlen(template_text) - 1] == ' ') /* the word's token begins with it */
        fail("the template '%s' ends in a space, which belongs to the word behind it", template_text);
    read_prompts(d, &d->train, folder, "train.tsv", classes, template_text, t, limit_train);
    read_prompts(d, &d->test, folder, "test.tsv", classes, template_text, t, limit_test);
    free_chain(&scratch);
}

/* ---- batches, and the order of the data ---- */

void batch_open(batch *b, memory **chain, int64_t sequences, int64_t tokens) {
    *b = (batch){.tokens = take(chain, tokens, sizeof *b->tokens),
                 .first = take(chain, sequences + 1, sizeof *b->first)};
    b->last = take(chain, sequences, sizeof *b->last);
    b->labels = take(chain, sequences, sizeof *b->labels);
    b->classes = take(chain, sequences, sizeof *b->classes);
}

/* b = sequences rows [n] of another. */
void batch_gather(batch *b, const batch *from, const uint32_t *rows, int64_t n) {
    b->n = n;
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = from->first[rows[i]], length = from->first[rows[i] + 1] - first;
        memcpy(b->tokens + b->first[i], from->tokens + first, (size_t)length * sizeof *b->tokens);
        b->first[i + 1] = b->first[i] + length;
        b->last[i] = b->first[i + 1] - 1;
        b->labels[i] = from->labels[rows[i]];
        b->classes[i] = from->classes[rows[i]];
    }
}

/* For each epoch the rows 0 ... n-1 in an order of its own (Fisher and Yates), which follows from seed and epoch alone.
 * A draw below i + 1 is repeated where its bits lie behind the last whole multiple of i + 1: small numbers would else
 * come up more often. */
uint32_t *shuffled_epochs(memory **chain, int64_t n, int64_t epochs, uint64_t seed) {
    uint32_t *order = take(chain, n * epochs, sizeof *order);
    for (int64_t e = 0; e < epochs; e++) {
        uint32_t *rows = order + e * n;
        const uint64_t key = mix(mix(seed + GOLDEN) + (uint64_t)e);
        for (int64_t i = 0; i < n; i++) rows[i] = (uint32_t)i;
        for (uint64_t i = (uint64_t)n - 1; i > 0; i--) {
            uint64_t bits = mix(key + i * GOLDEN);
            while (bits >= UINT64_MAX - UINT64_MAX % (i + 1)) bits = mix(bits + GOLDEN);
            const uint64_t j = bits % (i + 1);
            const uint32_t row = rows[i];
            rows[i] = rows[j];
            rows[j] = row;
        }
    }
    return order;
}
