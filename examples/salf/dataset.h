/* dataset.h - classification data in a folder (its files: docs/formats.md), prompts from a template, and one word per
 * class. */
#ifndef SALF_EXAMPLE_DATASET_H
#define SALF_EXAMPLE_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "tokenizer.h"

typedef struct dataset_example {
    int32_t label; /* class */
    const char *text;
    const char *text2; /* NULL where the line has none */
} dataset_example;

typedef struct dataset {
    char *name; /* last part of the folder's path */
    int32_t n_classes;
    char **classes;      /* [n_classes] names */
    char **words;        /* [n_classes] the data set's own: words.txt, else built in by name, else the class names */
    char *template_text; /* the data set's own: template.txt, else built in by name, else "{text} {text2} It is about a"
                          */
    int64_t n_train;
    int64_t n_test;
    dataset_example *train; /* [n_train] */
    dataset_example *test;  /* [n_test] */
    char *memory[2];        /* what the texts lie in */
} dataset;

/* Reads a folder. Returns 0, or -1 with an empty dataset and a message such as "data/train.tsv:17: label 'X' is not in
 * labels.txt". */
int dataset_load(dataset *out, const char *folder, char *message, size_t message_size);
void dataset_destroy(dataset *data);

/* The prompt of an example, freed by the caller; NULL when memory is short. {text} and {text2} are replaced; without a
 * second text {text2} and one space in front of it vanish. */
char *dataset_prompt(const char *template_text, const dataset_example *example);
/* A template needs {text}, and has no other field but {text2}. Returns 0, or -1 with a message. */
int dataset_check_template(const char *template_text, char *message, size_t message_size);
/* The prompt as ids with the start token, freed by the caller; at most most_tokens ids (0: no limit), the text being
 * shortened at its end, never the words of the template that follow: where these alone are more, there are more. NULL
 * when memory is short. */
int32_t *dataset_prompt_ids(const tokenizer *t, const char *template_text, const dataset_example *example,
                            int64_t most_tokens, int64_t *n);

/* The token of each class, tokens [n_classes]: first id of its word. words: NULL for the data set's own, a list
 * "DESC=why,ENTY=thing", or the path of a file in the form of words.txt. Every class needs a word, and their tokens
 * must be distinct, known to the tokenizer, and what follows a prompt of the template. Returns 0, or -1 with a
 * message. */
int dataset_tokens(const dataset *data, const tokenizer *t, const char *template_text, const char *words,
                   int32_t *tokens, char *message, size_t message_size);

#endif
