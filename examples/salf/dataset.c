/* dataset.c - reading a classification folder.
 *
 * Files are read whole and cut up in place, so that an example is two pointers into its file's memory; one pass,
 * O(bytes). A folder is taken whole or not at all: what is wrong in any line of any file is reported with its place. */
#include "dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "message.h"
#include "tokenizer_unicode.h"

/* A data set that the paper uses: its folder need not hold words and a prompt. */
typedef struct built_in {
    const char *name; /* of the folder */
    const char *template_text;
    const char *words; /* label=word, in any order */
} built_in;

/* The prompts end where the label word follows. The first tokens of the words differ in small tokenizers
 * too (tests/unit/test_cli_dataset.c tries three of them). */
static const built_in built_ins[] = {
    {"trec", "{text} It is about a", "DESC=why,ENTY=thing,ABBR=letters,HUM=person,LOC=place,NUM=number"},
    {"sst5", "{text} It was", "very negative=terrible,negative=bad,neutral=okay,positive=good,very positive=wonderful"},
    {"mrpc", "{text} {text2} The two are", "not_equivalent=different,equivalent=same"},
    {"webss", "{text} It is about",
     "business=money,computers=computers,culture-arts-entertainment=art,education-science=school,engineering=engines,"
     "health=doctors,politics-society=kings,sports=games"},
    {"carer", "{text} I feel", "sadness=sad,joy=happy,love=love,anger=angry,fear=fear,surprise=surprised"},
};

/* Classes of a set; a file with more is none of classes. */
enum { CLASSES_MOST = 10000 };

/* The file at hand, and where messages about it go. */
typedef struct reader {
    char path[4096];
    char *message;
    size_t message_size;
} reader;

/* "path:line: what 'value'", the value where there is one. Returns -1, as the next one does. */
static int fail_at(const reader *r, int64_t line, const char *what, const char *value) {
    snprintf(r->message, r->message_size, "%s:%" PRId64 ": %s%s%s%s", r->path, line, what, value ? " '" : "",
             value ? value : "", value ? "'" : "");
    return -1;
}

static int fail_file(const reader *r, const char *what) {
    snprintf(r->message, r->message_size, "%s: %s", r->path, what);
    return -1;
}

/* Turns the reader to a file of the folder; dataset_load has checked that the path fits. */
static void set_path(reader *r, const char *folder, const char *file) {
    const size_t n = strlen(folder);
    snprintf(r->path, sizeof r->path, "%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", file);
}

/* The whole file, 0-terminated. A byte 0 inside is refused: it would hide the rest of its line; so are bytes that are
 * no UTF-8, of which each tokenizer would make something else. The byte order mark that spreadsheets put in front would
 * stand in the first label, and in every prompt of a template. */
static char *slurp(const reader *r) {
    size_t size;
    char *data = file_read(r->path, &size, r->message, r->message_size);
    if (!data) return NULL;
    if (memchr(data, 0, size)) {
        free(data);
        fail_file(r, "contains a byte 0, so it is no text");
        return NULL;
    }
    int64_t line = 1;
    for (size_t i = 0; i < size;) {
        const int length = utf8_length(data + i, size - i);
        if (length == 0) {
            snprintf(r->message, r->message_size, "%s:%" PRId64 ": the byte 0x%02X is no UTF-8; `iconv -f` converts it",
                     r->path, line, (unsigned char)data[i]);
            free(data);
            return NULL;
        }
        line += data[i] == '\n';
        i += (size_t)length;
    }
    if (size >= 3 && !memcmp(data, "\xEF\xBB\xBF", 3)) memmove(data, data + 3, size - 3 + 1);
    return data;
}

/* Lines of a text, a last one without its line end too. */
static int64_t count_lines(const char *data) {
    int64_t n = 0;
    for (const char *s = data; *s; n++) {
        s = strchr(s, '\n');
        if (!s) return n + 1;
        s++;
    }
    return n;
}

/* Cuts the line at *at off, without its line end, and moves *at behind it. The last line may lack the end, or half of
 * one. */
static char *next_line(char **at) {
    char *line = *at;
    char *end = line + strcspn(line, "\n");
    *at = *end ? end + 1 : end;
    *end = 0;
    if (end > line && end[-1] == '\r') end[-1] = 0;
    return line;
}

static char *copy_text(const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

/* The class of a name of n bytes, or -1. Classes are few, so that they are gone through. */
static int32_t find_class(const dataset *data, const char *label, size_t n) {
    for (int32_t c = 0; c < data->n_classes; c++) {
        if (strlen(data->classes[c]) == n && !strncmp(data->classes[c], label, n)) return c;
    }
    return -1;
}

/* ---- labels.txt ---- */

/* One class a line; each gets room for its word, which comes later. */
static int read_labels(dataset *data, reader *r, const char *folder) {
    set_path(r, folder, "labels.txt");
    if (access(r->path, F_OK)) /* people have JSON lines, CSV and parquet files */
        return message_fail(r->message, r->message_size,
                            "%s: %s; data are a folder with labels.txt (a class a line), train.tsv and test.tsv (lines "
                            "of class<TAB>text); write files of other kinds so, see docs/formats.md",
                            r->path, strerror(errno));
    char *text = slurp(r), *at = text;
    if (!text) return -1;
    int failed = 0;
    const int64_t lines = count_lines(text);
    if (lines < 2 || lines > CLASSES_MOST) {
        snprintf(r->message, r->message_size, "%s: has %" PRId64 " lines; it needs 2 to %d, one a class", r->path,
                 lines, CLASSES_MOST);
        failed = -1;
    }
    if (!failed) {
        data->classes = calloc((size_t)lines, sizeof *data->classes);
        data->words = calloc((size_t)lines, sizeof *data->words);
        if (!data->classes || !data->words) failed = fail_file(r, "out of memory");
    }
    for (int64_t number = 1; !failed && *at; number++) {
        const char *line = next_line(&at);
        if (!*line) {
            failed = fail_at(r, number, "the line is empty", NULL);
        } else if (find_class(data, line, strlen(line)) >= 0) {
            failed = fail_at(r, number, "the class is there twice:", line);
        } else {
            data->classes[data->n_classes] = copy_text(line, strlen(line));
            if (!data->classes[data->n_classes++]) failed = fail_file(r, "out of memory");
        }
    }
    free(text);
    return failed;
}

/* ---- train.tsv, test.tsv ---- */

/* A line "label<TAB>text" or "label<TAB>text<TAB>second text". */
static int cut_example(const dataset *data, const reader *r, int64_t number, char *line, dataset_example *out) {
    char *text = strchr(line, '\t');
    if (!text) return fail_at(r, number, "there is no tab behind the label", NULL);
    *text++ = 0;
    out->label = find_class(data, line, strlen(line));
    if (out->label < 0) {
        char *end;
        const long c = strtol(line, &end, 10); /* most other forms have numbers, which may count from 0 or from 1 */
        const bool counts = end > line && !*end && c >= 0 && c <= data->n_classes;
        snprintf(r->message, r->message_size, "%s:%" PRId64 ": label '%s' is not in labels.txt%s", r->path, number,
                 line, counts ? "; write the class by its name" : "");
        return -1;
    }
    char *text2 = strchr(text, '\t');
    if (text2) *text2++ = 0;
    if (!text[strspn(text, " ")] || (text2 && !text2[strspn(text2, " ")]))
        return fail_at(r, number, "the text is empty", NULL);
    if (text2 && strchr(text2, '\t')) return fail_at(r, number, "there are more than three columns", NULL);
    out->text = text;
    out->text2 = text2;
    return 0;
}

/* All examples of a file, [*n] into *out; their texts lie in *memory. */
static int read_examples(dataset *data, reader *r, const char *folder, const char *file, char **memory,
                         dataset_example **out, int64_t *n) {
    set_path(r, folder, file);
    *memory = slurp(r);
    if (!*memory) return -1;
    const int64_t lines = count_lines(*memory);
    if (lines == 0) return fail_file(r, "holds no examples");
    *out = malloc((size_t)lines * sizeof **out);
    if (!*out) return fail_file(r, "out of memory");
    char *at = *memory;
    for (*n = 0; *n < lines; (*n)++) {
        char *line = next_line(&at);
        if (cut_example(data, r, *n + 1, line, &(*out)[*n])) return -1;
    }
    return 0;
}

/* ---- words and templates ---- */

/* Puts a word in place of the one that a class has, if any. Returns -1 when memory is short. */
static int set_word(char **words, int32_t c, const char *word, size_t n) {
    char *copy = copy_text(word, n);
    if (!copy) return -1;
    free(words[c]);
    words[c] = copy;
    return 0;
}

/* Words of a list "label=word,...". Classes that are not named keep theirs; none may be named twice, as one of the two
 * words would not count. Returns 0, or -1 with a message. */
static int set_listed_words(const dataset *data, char **words, const char *list, char *message, size_t message_size) {
    char named[CLASSES_MOST] = {0};
    while (*list) {
        const size_t n = strcspn(list, ",");
        const char *equals = memchr(list, '=', n);
        const size_t label = equals ? (size_t)(equals - list) : n;
        const int32_t c = find_class(data, list, label);
        if (!equals || label + 1 == n) {
            return message_fail(message, message_size, "'%.*s' is not LABEL=WORD", (int)(n % 4096), list);
        }
        if (c < 0) {
            return message_fail(message, message_size, "'%.*s' is not a class of %s", (int)(label % 4096), list,
                                data->name);
        }
        if (named[c]++) return message_fail(message, message_size, "class '%s' has two words", data->classes[c]);
        if (set_word(words, c, equals + 1, n - label - 1)) return message_fail(message, message_size, "out of memory");
        list += n + (list[n] == ',');
    }
    return 0;
}

/* The same of the reader's file, one "label<TAB>word" a line. */
static int set_filed_words(const dataset *data, char **words, const reader *r) {
    char *text = slurp(r);
    if (!text) return -1;
    char *at = text, named[CLASSES_MOST] = {0};
    int failed = 0;
    for (int64_t number = 1; *at && !failed; number++) {
        char *line = next_line(&at);
        char *word = strchr(line, '\t');
        if (!word || !word[1] || strchr(word + 1, '\t')) {
            failed = fail_at(r, number, "is not label<TAB>word", NULL);
            break;
        }
        const int32_t c = find_class(data, line, (size_t)(word - line));
        *word++ = 0;
        if (c < 0) {
            failed = fail_at(r, number, "there is no such class:", line);
        } else if (named[c]++) {
            failed = fail_at(r, number, "a second word for the class", line);
        } else if (set_word(words, c, word, strlen(word))) {
            failed = fail_file(r, "out of memory");
        }
    }
    free(text);
    return failed;
}

/* What is built in for a folder of this name, or NULL. Another data set of the same name has other classes: its words
 * and its prompt are not these, not even in part. */
static const built_in *find_built_in(const dataset *data) {
    for (size_t i = 0; i < sizeof built_ins / sizeof built_ins[0]; i++) {
        if (strcmp(built_ins[i].name, data->name) != 0) continue;
        int32_t named = 0;
        bool same = true;
        for (const char *at = built_ins[i].words; *at; named++) {
            same = same && find_class(data, at, strcspn(at, "=")) >= 0;
            at += strcspn(at, ",");
            at += *at == ',';
        }
        if (same && named == data->n_classes) return &built_ins[i];
    }
    return NULL;
}

/* The class names themselves, then over them words.txt, or without that file what is built in. */
static int read_words(dataset *data, reader *r, const char *folder) {
    const built_in *b = find_built_in(data);
    for (int32_t c = 0; c < data->n_classes; c++) {
        if (set_word(data->words, c, data->classes[c], strlen(data->classes[c]))) return fail_file(r, "out of memory");
    }
    set_path(r, folder, "words.txt");
    if (access(r->path, F_OK) == 0) return set_filed_words(data, data->words, r);
    return b ? set_listed_words(data, data->words, b->words, r->message, r->message_size) : 0;
}

/* template.txt, else what is built in, else a prompt that suits most sets. */
static int read_template(dataset *data, reader *r, const char *folder) {
    const built_in *b = find_built_in(data);
    set_path(r, folder, "template.txt");
    if (access(r->path, F_OK)) {
        const char *text = b ? b->template_text : "{text} {text2} It is about a";
        data->template_text = copy_text(text, strlen(text));
    } else {
        data->template_text = slurp(r);
        if (!data->template_text) return -1;
        char *at = data->template_text;
        next_line(&at);
        if (*at) return fail_at(r, 2, "a template is one line", NULL);
    }
    if (!data->template_text) return fail_file(r, "out of memory");
    char what[128];
    if (dataset_check_template(data->template_text, what, sizeof what)) return fail_file(r, what);
    return 0;
}

/* labels.txt first: it says what the labels in the other files may be. */
int dataset_load(dataset *out, const char *folder, char *message, size_t message_size) {
    reader r = {.message = message, .message_size = message_size};
    /* The name is the last part of the path: "data/trec/" is "trec". */
    size_t end = strlen(folder);
    while (end > 1 && folder[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && folder[start - 1] != '/') start--;
    *out = (dataset){.name = copy_text(folder + start, end - start)};
    if (!out->name) {
        snprintf(message, message_size, "%.200s: out of memory", folder);
    } else if (strlen(folder) + 16 > sizeof r.path) {
        snprintf(message, message_size, "%.200s...: path is too long", folder);
    } else if (!read_labels(out, &r, folder) && !read_words(out, &r, folder) && !read_template(out, &r, folder) &&
               !read_examples(out, &r, folder, "train.tsv", &out->memory[0], &out->train, &out->n_train) &&
               !read_examples(out, &r, folder, "test.tsv", &out->memory[1], &out->test, &out->n_test)) {
        return 0;
    }
    dataset_destroy(out);
    return -1;
}

/* Also of one that was half read. */
void dataset_destroy(dataset *data) {
    for (int32_t c = 0; c < data->n_classes; c++) {
        free(data->classes[c]);
        free(data->words[c]);
    }
    free(data->classes);
    free(data->words);
    free(data->name);
    free(data->template_text);
    free(data->train);
    free(data->test);
    free(data->memory[0]);
    free(data->memory[1]);
    *data = (dataset){0};
}

/* ---- label tokens ---- */

/* The token of each class: of its word the one that follows a prompt of this template, since that is what is trained.
 * Two classes with the same one could not be told apart by it, so that is refused, naming both; and so is a template
 * whose end the tokenizer joins with the word. */
static int pick_tokens(const dataset *data, const tokenizer *t, const char *template_text, char **words,
                       int32_t *tokens, char *message, size_t message_size) {
    char *prompt = dataset_prompt(template_text, &(dataset_example){.text = "a", .text2 = "a"});
    int failed = prompt ? 0 : snprintf(message, message_size, "out of memory");
    for (int32_t c = 0; c < data->n_classes && !failed; c++) {
        tokens[c] = tokenizer_id_behind(t, prompt, words[c]);
        const int32_t alone = tokens[c] == TOKEN_NONE ? tokenizer_first_id(t, words[c]) : tokens[c];
        if (alone == TOKEN_NO_MEMORY) {
            failed = snprintf(message, message_size, "out of memory");
        } else if (alone == TOKEN_NONE) {
            failed = snprintf(message, message_size, "word '%s' of class '%s' is not known to the tokenizer", words[c],
                              data->classes[c]);
        } else if (tokens[c] == TOKEN_NONE) {
            const size_t n = strlen(prompt);
            failed = snprintf(message, message_size,
                              "template '%.80s': behind it the word '%.40s' has no token of its own, as the tokenizer "
                              "joins the space between them to what is beside it; try a template %s, or another word",
                              template_text, words[c],
                              n && prompt[n - 1] == ' ' ? "without that space" : "that ends in a space");
        }
        for (int32_t other = 0; other < c && !failed; other++) {
            if (tokens[other] != tokens[c]) continue;
            failed = snprintf(message, message_size,
                              "words '%s' and '%s' of classes '%s' and '%s' begin with the same token %" PRId32
                              " ('%s'); choose others with label words",
                              words[other], words[c], data->classes[other], data->classes[c], tokens[c],
                              tokenizer_piece(t, tokens[c], NULL));
        }
    }
    free(prompt);
    return failed ? -1 : 0;
}

/* Words that the caller brings replace the data set's own, all of them. */
int dataset_tokens(const dataset *data, const tokenizer *t, const char *template_text, const char *words,
                   int32_t *tokens, char *message, size_t message_size) {
    if (!words) return pick_tokens(data, t, template_text, data->words, tokens, message, message_size);
    char **own = calloc((size_t)data->n_classes, sizeof *own);
    reader r = {.message = message, .message_size = message_size};
    int failed = own ? 0 : -1;
    if (!own) {
        snprintf(message, message_size, "out of memory");
    } else if (strchr(words, '=')) {
        failed = set_listed_words(data, own, words, message, message_size);
    } else {
        snprintf(r.path, sizeof r.path, "%s", words);
        failed = set_filed_words(data, own, &r);
    }
    for (int32_t c = 0; c < data->n_classes && !failed; c++) {
        if (own[c]) continue;
        snprintf(message, message_size, "class '%s' has no word", data->classes[c]);
        failed = -1;
    }
    if (!failed) failed = pick_tokens(data, t, template_text, own, tokens, message, message_size);
    for (int32_t c = 0; own && c < data->n_classes; c++) free(own[c]);
    free(own);
    return failed ? -1 : 0;
}
