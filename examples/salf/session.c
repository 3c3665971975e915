/* session.c - model, data and basis of a fine-tuning run: opened once, shared by all methods. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataset.h"
#include "finetune.h"
#include "ops.h"

const char *training_command = "finetune";

/* Every message of a training names what failed first, then why. */
int say_salf(const char *what) {
    args_fail(training_command, "%s: %s", what, salf_last_error());
    return -1;
}

int say_decoder(const char *what) {
    args_fail(training_command, "%s: %s", what, decoder_error());
    return -1;
}

int say_no_memory(void) {
    args_fail(training_command, "out of memory");
    return -1;
}

/* Words have the tokens that they have behind the template, with a space between them: behind a prompt that ends in a
 * space and one that does not these differ. A template that ends in a field has prompts of both kinds. */
static int check_end(const char *prompt, const dataset_example *example) {
    char *plain = dataset_prompt(prompt, &(dataset_example){.text = "a", .text2 = "a"});
    char *own = dataset_prompt(prompt, example);
    int failed = plain && own ? 0 : say_no_memory();
    if (!failed && (own[strlen(own) - 1] == ' ') != (plain[strlen(plain) - 1] == ' ')) {
        failed = -1;
        args_fail(
            training_command,
            "template '%.80s': the prompt of '%.40s' %s in a space, where words have other tokens; give a template "
            "that goes on behind its last field",
            prompt, example->text, own[strlen(own) - 1] == ' ' ? "ends" : "does not end");
    }
    free(plain);
    free(own);
    return failed;
}

/* The ids of a prompt that is longer than the model's positions, its text shortened. NULL where memory is short, and
 * where the template leaves the text no room at all. */
static int32_t *shortened_ids(session *s, const tokenizer *t, const char *prompt, const dataset_example *example,
                              int64_t *length) {
    const dataset_example bare = {.text = "", .text2 = example->text2 ? "" : NULL};
    int32_t *ids = dataset_prompt_ids(t, prompt, &bare, 0, length);
    const int known = ids != NULL;
    free(ids);
    if (known && *length >= s->info.max_positions) {
        args_fail(training_command,
                  "template '%.80s' has %lld tokens of its own, which leaves no room for a text in the %lld positions "
                  "of the model",
                  prompt, (long long)*length, (long long)s->info.max_positions);
        return NULL;
    }
    s->n_shortened++;
    ids = known ? dataset_prompt_ids(t, prompt, example, s->info.max_positions, length) : NULL;
    if (!ids) say_no_memory();
    return ids;
}

/* Tokenizers may have a few tokens more than their model has rows. */
static int check_row(const session *s, const tokenizer *t, int32_t id) {
    if (id < s->info.vocab) return 0;
    args_fail(training_command, "token '%.40s' is in a text or stands for a class, and the model has no row for it",
              tokenizer_piece(t, id, NULL));
    return -1;
}

/* The prompts of n examples as ids, packed one after the other. A prompt that is longer than the model's positions is
 * shortened and counted. */
static int encode_split(session *s, split *out, const tokenizer *t, const char *prompt, const dataset_example *examples,
                        int64_t n) {
    int64_t room = 0;
    out->offsets = malloc(((size_t)n + 1) * sizeof *out->offsets);
    out->classes = malloc(((size_t)n + 1) * sizeof *out->classes);
    if (!out->offsets || !out->classes) return say_no_memory();
    out->offsets[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t length = 0;
        if (check_end(prompt, &examples[i]) != 0) return -1;
        int32_t *ids = dataset_prompt_ids(t, prompt, &examples[i], 0, &length);
        if (ids && s->info.max_positions > 0 && length > s->info.max_positions) {
            free(ids);
            ids = shortened_ids(s, t, prompt, &examples[i], &length);
            if (!ids) return -1;
        }
        for (int64_t k = 0; ids && k < length; k++)
            if (check_row(s, t, ids[k]) != 0) {
                free(ids);
                return -1;
            }
        if (ids && out->offsets[i] + length > room) { /* twice what is needed, so that few copies are made */
            room = 2 * (out->offsets[i] + length);
            int32_t *larger = realloc(out->tokens, (size_t)room * sizeof *larger);
            if (larger) out->tokens = larger;
            if (!larger) {
                free(ids);
                ids = NULL;
            }
        }
        if (!ids) return say_no_memory();
        memcpy(out->tokens + out->offsets[i], ids, (size_t)length * sizeof *ids);
        free(ids);
        out->offsets[i + 1] = out->offsets[i] + length;
        out->classes[i] = examples[i].label;
        out->n = i + 1;
    }
    return 0;
}

/* How many of n are used when the user limits them; 0 is no limit. */
static int64_t limited_count(int64_t n, int64_t limit) {
    return limit > 0 && limit < n ? limit : n;
}

/* Keeps some of the examples, drawn evenly over the file, as some sets are sorted by class. */
static void thin_out(dataset_example *examples, int64_t n, int64_t kept) {
    for (int64_t i = 0; i < kept; i++) examples[i] = examples[i * n / kept];
}

/* A prompt's ids as one number, and its class. */
typedef struct fingerprint {
    uint64_t hash;
    int32_t class;
} fingerprint;

static int compare_fingerprints(const void *a, const void *b) {
    const uint64_t x = ((const fingerprint *)a)->hash, y = ((const fingerprint *)b)->hash;
    return (x > y) - (x < y);
}

static fingerprint fingerprint_of(const split *part, int64_t i) {
    const int64_t first = part->offsets[i], n = part->offsets[i + 1] - first;
    return (fingerprint){salf_hash(0, part->tokens + first, (uint64_t)n * sizeof *part->tokens), part->classes[i]};
}

/* Data from which no F1 means what it seems to mean are trained all the same, and said once in a run: classes that a
 * file lacks, unless only part of it is used; a twentieth of the test that training has seen, or of the training under
 * two classes. */
static int say_what_is_odd(const session *s) {
    static int said;
    fingerprint *seen = malloc((size_t)s->train.n * sizeof *seen);
    int64_t *counts = calloc((size_t)s->n_labels * 2, sizeof *counts), shared = 0, torn = 0;
    if (seen && counts && !said++) {
        for (int64_t i = 0; i < s->train.n; i++) {
            seen[i] = fingerprint_of(&s->train, i);
            counts[2 * s->train.classes[i]]++;
        }
        qsort(seen, (size_t)s->train.n, sizeof *seen, compare_fingerprints);
        for (int64_t i = 1; i < s->train.n; i++)
            torn += seen[i].hash == seen[i - 1].hash && seen[i].class != seen[i - 1].class;
        for (int64_t i = 0; i < s->test.n; i++) {
            const fingerprint one = fingerprint_of(&s->test, i);
            shared += bsearch(&one, seen, (size_t)s->train.n, sizeof *seen, compare_fingerprints) != NULL;
            counts[2 * s->test.classes[i] + 1]++;
        }
        for (int part = 0; part < 2; part++) {
            int32_t missing = 0, first = -1;
            for (int32_t c = s->n_labels; c-- > 0;)
                if (counts[2 * c + part] == 0) {
                    missing++;
                    first = c;
                }
            if (missing > 0 && (part ? s->test.n == s->n_test_all : s->train.n == s->n_train_all))
                args_say(0, training_command, "%d of %d classes have no %s data, '%.60s' among them", (int)missing,
                         (int)s->n_labels, part ? "test" : "training", s->label_names[first]);
        }
        if (20 * shared > s->test.n)
            fprintf(stderr,
                    "salf %s: %lld of %lld test texts are training texts as well, so that F1 is not of new ones\n",
                    training_command, (long long)shared, (long long)s->test.n);
        if (20 * torn > s->train.n)
            fprintf(stderr, "salf %s: %lld of %lld training texts are there under two classes\n", training_command,
                    (long long)torn, (long long)s->train.n);
    }
    const int failed = seen && counts ? 0 : say_no_memory();
    free(seen);
    free(counts);
    return failed;
}

/* Label words to tokens, and both parts of the data to ids. */
static int encode_data(session *s, dataset *data, const tokenizer *t) {
    const finetune_settings *o = s->settings;
    char message[512];
    const char *prompt = o->prompt ? o->prompt : data->template_text;
    if (dataset_check_template(prompt, message, sizeof message) != 0) {
        args_fail(training_command, "%s", message);
        return -1;
    }
    s->n_labels = data->n_classes;
    s->prompt = strdup(prompt);
    if (!s->prompt) return say_no_memory();
    s->label_tokens = malloc((size_t)data->n_classes * sizeof *s->label_tokens);
    s->label_names = calloc((size_t)data->n_classes, sizeof *s->label_names);
    if (!s->label_tokens || !s->label_names) return say_no_memory();
    for (int32_t c = 0; c < data->n_classes; c++)
        if (!(s->label_names[c] = strdup(data->classes[c]))) return say_no_memory();
    if (dataset_tokens(data, t, prompt, o->words, s->label_tokens, message, sizeof message) != 0) {
        args_fail(training_command, "%s", message);
        return -1;
    }
    for (int32_t c = 0; c < data->n_classes; c++)
        if (check_row(s, t, s->label_tokens[c]) != 0) return -1;
    int64_t doubled = 0; /* data with a second text */
    for (int64_t i = 0; i < data->n_train; i++) doubled += data->train[i].text2 != NULL;
    for (int64_t i = 0; i < data->n_test; i++) doubled += data->test[i].text2 != NULL;
    if (doubled > 0 && !strstr(prompt, "{text2}")) {
        args_fail(training_command, "template '%.80s' has no {text2}, but %lld of the data have a second text", prompt,
                  (long long)doubled);
        return -1;
    }
    int64_t n_train = limited_count(data->n_train, o->limit_train), n_test = limited_count(data->n_test, o->limit_test);
    s->n_train_all = data->n_train;
    s->n_test_all = data->n_test;
    thin_out(data->train, data->n_train, n_train);
    thin_out(data->test, data->n_test, n_test);
    if (encode_split(s, &s->train, t, prompt, data->train, n_train) != 0) return -1;
    if (encode_split(s, &s->test, t, prompt, data->test, n_test) != 0) return -1;
    if (s->train.n == 0 || s->test.n == 0) {
        args_fail(training_command, "%s holds %lld training and %lld test data; both are needed", o->data,
                  (long long)s->train.n, (long long)s->test.n);
        return -1;
    }
    return say_what_is_odd(s);
}

/* Neither the texts nor the tokenizer are needed once there are ids. */
static int open_data(session *s) {
    char message[512];
    tokenizer *t = NULL;
    dataset data;
    if (tokenizer_load(&t, s->settings->tokenizer, message, sizeof message) != 0) {
        args_fail(training_command, "%s", message);
        return -1;
    }
    int result = -1;
    s->tokenizer_hash = tokenizer_content(t);
    /* Vocabularies are padded, to a multiple of 64 or by some hundreds of free tokens (Phi-2 has 905); a gap that is
     * wider, or many tokens beyond the vocabulary, mean the tokenizer of another model. */
    const int64_t gap = s->info.vocab - tokenizer_size(t);
    int64_t widest = 64; /* of a small one */
    if (s->info.vocab >= 1024) widest = s->info.vocab / 10 > 1024 ? s->info.vocab / 10 : 1024;
    if (gap < -TOKENS_BEYOND_MOST || (gap > widest && s->settings->valid_vocab == 0)) {
        args_fail(training_command, "%s has %d pieces, the model's vocabulary %lld: it is another model's%s",
                  s->settings->tokenizer, (int)tokenizer_size(t), (long long)s->info.vocab,
                  gap < 0 ? "" : "; if it is not, name the tokens that there are with --valid-vocab");
    } else if (dataset_load(&data, s->settings->data, message, sizeof message) != 0) {
        args_fail(training_command, "%s", message);
    } else {
        result = encode_data(s, &data, t);
        dataset_destroy(&data);
    }
    tokenizer_destroy(t);
    return result;
}

/* What is opened once. On failure session_close releases what there is. */
static int open_session_parts(session *s) {
    const finetune_settings *settings = s->settings;
    /* 1. the context, and the model of which every method loads its own copy */
    salf_context_options context;
    salf_options_init(&context, sizeof context);
    context.backend = settings->backend;
    context.threads = settings->threads;
    const int threads = ops_use_threads(settings->threads); /* the trainer's products, and the library's */
    if (salf_context_create(&s->context, &context) != SALF_OK) return say_salf("backend");
    salf_context_info used;
    salf_options_init(&used, sizeof used);
    if (salf_context_get_info(s->context, &used) != SALF_OK) return say_salf("backend");
    static int said; /* once in a run, which may open several sessions */
    snprintf(s->runs_on, sizeof s->runs_on, "backend %s (%s), %d thread%s, 1 for small products; %s", used.backend_name,
             used.kernels, threads, threads == 1 ? "" : "s", ops_blas());
    if (!settings->quiet && !said++) args_say(0, training_command, "%s", s->runs_on);
    salf_model_options model;
    salf_options_init(&model, sizeof model);
    model.valid_vocab = settings->valid_vocab;
    model.accept = settings->accept;
    if (salf_model_open(&s->model, s->context, settings->model, &model) != SALF_OK) return say_salf("--model");
    salf_options_init(&s->info, sizeof s->info);
    if (salf_model_get_info(s->model, &s->info) != SALF_OK) return say_salf("--model");
    if (decoder_check(s->model) != SALF_OK) return say_decoder("--model");

    /* 2. the data */
    if (open_data(s) != 0) return -1;

    /* 3. the basis: rows of the label tokens; where something compares with the whole vocabulary also the norms of all
     * rows, so that no probe pays for them */
    salf_basis_options basis;
    salf_options_init(&basis, sizeof basis);
    if (settings->loss == LOSS_SEMANTIC_CE) basis.prepare = SALF_PREPARE_VOCABULARY;
    for (int i = 0; i < settings->n_methods; i++)
        if (settings->methods[i].how.metric != SALF_METRIC_COSINE) basis.prepare = SALF_PREPARE_VOCABULARY;
    if (salf_basis_create(&s->basis, s->model, s->label_tokens, s->n_labels, &basis) != SALF_OK)
        return say_salf("semantic basis of the label words");
    return 0;
}

int session_open(session *out, const finetune_settings *settings) {
    *out = (session){.settings = settings};
    const int failed = open_session_parts(out);
    if (failed) session_close(out);
    return failed;
}

/* Also of a part that was never filled. */
static void split_free(split *data) {
    free(data->tokens);
    free(data->offsets);
    free(data->classes);
}

void session_close(session *s) {
    split_free(&s->train);
    split_free(&s->test);
    free(s->prompt);
    free(s->label_tokens);
    for (int32_t c = 0; c < s->n_labels && s->label_names; c++) free(s->label_names[c]);
    free(s->label_names);
    salf_checkpoint_destroy(s->checkpoint);
    salf_basis_destroy(s->basis);
    salf_model_destroy(s->model);
    salf_context_destroy(s->context);
    *s = (session){0};
}
