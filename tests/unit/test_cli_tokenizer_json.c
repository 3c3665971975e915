/* tokenizer.json: ids of every kind of tokenizer are those of the package tokenizers; what is not understood is refused
 * by name; long texts take their time and no more. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tokenizer.h"
#include "tokenizer_regex.h"
#include "tokenizer_unicode.h"
#include "unit/files.h"
#include "unit/harness.h"

/* ---- ids ---- */

static json_t *cases(void) {
    json_error_t error;
    json_t *json = json_load_file("tests/tokenizers/cases.json", JSON_ALLOW_NUL, &error);
    ck_assert_msg(json != NULL, "%s", error.text);
    return json;
}

/* The tokenizer of a kind: a base, with the changes that the kind makes. */
static tokenizer *tokenizer_of(const json_t *all, const json_t *kind) {
    char message[512];
    tokenizer *t;
    json_t *whole = json_deep_copy(
        json_object_get(json_object_get(all, "bases"), json_string_value(json_object_get(kind, "base"))));
    ck_assert_int_eq(json_object_update(whole, json_object_get(kind, "changes")), 0);
    ck_assert_int_eq(json_object_update(json_object_get(whole, "model"), json_object_get(kind, "model")), 0);
    char *path = files_path("tokenizer.json");
    ck_assert_int_eq(json_dump_file(whole, path, 0), 0);
    ck_assert_msg(tokenizer_load(&t, path, message, sizeof message) == 0, "%s: %s",
                  json_string_value(json_object_get(kind, "name")), message);
    free(path);
    json_decref(whole);
    return t;
}

static const json_t *kind_named(const json_t *all, const char *name) {
    size_t i;
    json_t *kind;
    json_array_foreach(json_object_get(all, "kinds"), i, kind) {
        if (strcmp(json_string_value(json_object_get(kind, "name")), name) == 0) return kind;
    }
    ck_abort_msg("no kind %s", name);
}

START_TEST(ids_are_those_of_the_package) {
    json_t *all = cases(), *kind;
    const json_t *texts = json_object_get(all, "texts");
    size_t k;
    ck_assert_uint_ge(json_array_size(texts), 60);
    ck_assert_uint_eq(json_array_size(json_object_get(all, "kinds")), 17);
    json_array_foreach(json_object_get(all, "kinds"), k, kind) {
        tokenizer *t = tokenizer_of(all, kind);
        ck_assert(tokenizer_is_json(t));
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const char *text = json_string_value(json_array_get(texts, i));
            const json_t *expected = json_array_get(json_object_get(kind, "ids"), i);
            int64_t n;
            int32_t *ids = tokenizer_encode_new(t, text, &n);
            ck_assert_ptr_nonnull(ids);
            CHECK_EACH((size_t)n == json_array_size(expected), "%s: '%s' has %d ids, not %zu",
                       json_string_value(json_object_get(kind, "name")), text, (int)n, json_array_size(expected));
            for (int64_t j = 0; j < n; j++)
                CHECK_EACH(ids[j] == json_integer_value(json_array_get(expected, (size_t)j)), "%s: '%s': id %d is %d",
                           json_string_value(json_object_get(kind, "name")), text, (int)j, (int)ids[j]);
            free(ids);
        }
        tokenizer_destroy(t);
    }
    json_decref(all);
}
END_TEST

/* "cat" inside a text: a piece that begins with the space, or the one behind it, whatever stands in front of texts. */
START_TEST(words_have_the_id_that_they_have_inside_a_text) {
    static const struct {
        const char *kind, *piece;
    } expected[] = {{"gpt2", "\xC4\xA0"
                             "cat"},
                    {"llama3", "\xC4\xA0"
                               "cat"},
                    {"llama2", "\xE2\x96\x81"
                               "cat"},
                    {"gemma", "\xE2\x96\x81"
                              "cat"},
                    {"first", "\xE2\x96\x81"
                              "cat"}};
    json_t *all = cases();
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        tokenizer *t = tokenizer_of(all, kind_named(all, expected[i].kind));
        const int32_t id = tokenizer_first_id(t, "cat");
        ck_assert_int_ge(id, 0);
        ck_assert_int_lt(id, tokenizer_size(t));
        ck_assert_str_eq(tokenizer_piece(t, id, NULL), expected[i].piece);
        tokenizer_destroy(t);
    }
    tokenizer *t = tokenizer_of(all, kind_named(all, "always"));
    ck_assert_int_eq(tokenizer_first_id(t, "\xF0\x9F\xA6\x9C"), TOKEN_NONE); /* a parrot, which is no piece */
    tokenizer_destroy(t);
    json_decref(all);
}
END_TEST

/* A quarter of a megabyte of one kind after another; the square of that would take hours. */
START_TEST(long_texts_take_no_square_of_time) {
    static const char *const kinds[] = {"llama3", "qwen2", "o200k", "deepseek", "llama2_added", "gemma"};
    static const char *const parts[] = {
        "a", "ab", " ", "\n", "7", "!", "A", "\xE6\xBC\xA2", "\xCC\x81\xCC\xA3", "<|im_start", "  a"};
    enum { LENGTH = 1 << 18 };
    json_t *all = cases();
    char *text = malloc(LENGTH + 1);
    ck_assert_ptr_nonnull(text);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        tokenizer *t = tokenizer_of(all, kind_named(all, kinds[k]));
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            const size_t part = strlen(parts[p]), whole = LENGTH / part * part;
            for (size_t i = 0; i < whole; i += part) memcpy(text + i, parts[p], part);
            text[whole] = 0;
            int64_t n;
            int32_t *ids = tokenizer_encode_new(t, text, &n);
            ck_assert_msg(ids && n > 1000, "%s: %s", kinds[k], parts[p]);
            free(ids);
        }
        tokenizer_destroy(t);
    }
    free(text);
    json_decref(all);
}
END_TEST

START_TEST(bytes_that_are_no_text_become_replacements) {
    json_t *all = cases();
    tokenizer *t = tokenizer_of(all, kind_named(all, "llama2"));
    int64_t n, m;
    int32_t *ids = tokenizer_encode_new(t, "a\xC3(\xFF\xE6\xBC\xED\xA0\x80", &n);
    int32_t *same = tokenizer_encode_new(
        t, "a\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", &m);
    ck_assert(ids && same);
    ck_assert_int_eq(n, m);
    ck_assert_int_eq(memcmp(ids, same, (size_t)n * sizeof *ids), 0);
    free(ids);
    free(same);
    tokenizer_destroy(t);
    json_decref(all);
}
END_TEST

/* ---- what is refused ---- */

#define MODEL                    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define BPE(vocab, merges, more) "{\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges more "}}"
#define NORMAL(step)             "{\"normalizer\":" step "," MODEL "}"
#define SPLIT_BY(step)           "{\"pre_tokenizer\":" step "," MODEL "}"
#define PATTERN(text)            SPLIT_BY("{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"" text "\"}}")
#define FIRST                    "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}"
#define AFTER(step)              "{\"post_processor\":" step "," MODEL "}"
#define TOKEN(text)              "{\"added_tokens\":[" text "]," MODEL "}"
#define TEMPLATE(single, tokens) \
    AFTER("{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" tokens "}}")

static const struct {
    const char *text, *words;
} refused[] = {
    {"{", "line 1"},
    {"{}", "there is no model"},
    {"{\"model\":{}}", "model  is not understood"},
    {"{\"model\":{\"type\":\"Unigram\"}}", "model Unigram"},
    {"{\"model\":{\"type\":\"WordPiece\"}}", "model WordPiece"},
    {BPE("[]", "[]", ""), "model.vocab is no object"},
    {BPE("{}", "[]", ""), "largest id in model.vocab is -1"},
    {BPE("{\"a\":1.5}", "[]", ""), "the id of 'a' is no integer"},
    {BPE("{\"a\":-1}", "[]", ""), "largest id in model.vocab is -1"},
    {BPE("{\"a\":0,\"b\":-1}", "[]", ""), "'b' has the id -1"},
    {BPE("{\"a\":4000000000}", "[]", ""), "largest id in model.vocab is 4000000000"},
    {BPE("{\"a\":0,\"b\":0}", "[]", ""), "have the same id 0"},
    {BPE("{\"a\":0}", "{}", ""), "model.merges is no list"},
    {BPE("{\"a\":0}", "[7]", ""), "merge 0 is no pair"},
    {BPE("{\"a\":0}", "[\"a\"]", ""), "merge 0 is no pair"},
    {BPE("{\"a\":0}", "[\"a a a\"]", ""), "merge 0 is no pair"},
    {BPE("{\"a\":0}", "[[\"a\"]]", ""), "merge 0 is no pair"},
    {BPE("{\"a\":0}", "[[\"a\",\"a\",\"a\"]]", ""), "merge 0 is no pair"},
    {BPE("{\"a\":0}", "[\"a a\"]", ""), "not all three are pieces"},
    {BPE("{\"a\":0}", "[]", ",\"dropout\":0.1"), "dropout"},
    {BPE("{\"a\":0}", "[]", ",\"continuing_subword_prefix\":\"##\""), "continuing_subword_prefix"},
    {BPE("{\"a\":0}", "[]", ",\"end_of_word_suffix\":\"</w>\""), "end_of_word_suffix"},
    {BPE("{\"a\":0}", "[]", ",\"unk_token\":\"?\""), "unk_token is no piece"},
    {BPE("{\"a\":0}", "[]", ",\"byte_fallback\":1"), "byte_fallback is neither"},
    {NORMAL("{\"type\":\"NFKC\"}"), "normalizer NFKC"},
    {NORMAL("{\"type\":\"Lowercase\"}"), "normalizer Lowercase"},
    {NORMAL("{\"type\":\"Precompiled\"}"), "normalizer Precompiled"},
    {NORMAL("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"b\"}"), "Replace by a Regex"},
    {NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"b\"}"), "empty pattern"},
    {NORMAL("{\"type\":\"Prepend\"}"), "prepend of a normalizer is no text"},
    {NORMAL("{\"type\":\"Prepend\",\"prepend\":\"\"}"), "an empty prepend"},
    {NORMAL("{\"type\":\"Sequence\"}"), "a Sequence without normalizers"},
    {NORMAL("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\"}]}"), "a Sequence in a Sequence"},
    {SPLIT_BY("{\"type\":\"Whitespace\"}"), "pre_tokenizer Whitespace"},
    {SPLIT_BY("{\"type\":\"Punctuation\"}"), "pre_tokenizer Punctuation"},
    {SPLIT_BY("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}"), "prepend_scheme last"},
    {SPLIT_BY("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"}," FIRST "]}"), "behind ByteLevel"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"\"},\"pre_tokenizer\":" FIRST
     "," MODEL "}",
     "a Replace by nothing"},
    {SPLIT_BY("{\"type\":\"Metaspace\"}"), "replacement of Metaspace"},
    {SPLIT_BY("{\"type\":\"Split\",\"behavior\":\"Kept\"}"), "behavior Kept"},
    {SPLIT_BY("{\"type\":\"Split\",\"behavior\":\"Contiguous\",\"invert\":true}"), "behavior Contiguous, inverted"},
    {SPLIT_BY("{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{}}"), "pattern of a Split is no text"},
    {PATTERN(""), "nothing that has to be there"},
    {PATTERN("a*|b"), "nothing that has to be there"},
    {PATTERN("(?=a)"), "nothing that has to be there"},
    {PATTERN("a)"), "a closing bracket"},
    {PATTERN("(a"), "a group without an end"},
    {PATTERN("[a"), "a set without an end"},
    {PATTERN("[]"), "an empty set"},
    {PATTERN("[[a]]"), "a set in a set"},
    {PATTERN("[b-a]"), "a range that is none"},
    {PATTERN("a**"), "a repetition of a repetition"},
    {PATTERN("a+?"), "takes the least"},
    {PATTERN("(ab)+"), "a repeated group"},
    {PATTERN("a{2,1}"), "a repetition that is none"},
    {PATTERN("a{x}"), "an unknown repetition"},
    {PATTERN("a{1, 3}"), "an unknown repetition"},
    {PATTERN("a{ 2}"), "an unknown repetition"},
    {PATTERN("a{+2,3}"), "an unknown repetition"},
    {PATTERN("(?<=a)b"), "an unknown group"},
    {PATTERN("^a"), "an unknown sign"},
    {PATTERN("\\\\w"), "an unknown escape"},
    {PATTERN("\\\\p{Greek}"), "an unknown \\p"},
    {PATTERN("(?i:\xC3\xA9)"), "beyond ASCII"},
    {PATTERN("(?i:less)"), "two letters that in another case may be one"},
    {PATTERN("(?i:a|S(?:t))"), "two letters that in another case may be one"},
    {PATTERN("(?i:of\\\\p{L}|f(i|x))"), "two letters that in another case may be one"},
    {PATTERN("(?i:[\\\\p{Lu}]a)"), "categories of a set in any case"},
    {PATTERN("(?i:[^a\\\\P{L}])"), "categories of a set in any case"},
    {PATTERN("((((((((((((((((((a))))))))))))))))))"), "too many groups"},
    {AFTER("{\"type\":\"BertProcessing\"}"), "post_processor BertProcessing"},
    {TEMPLATE("", ""), "the text 0 times"},
    {TEMPLATE("{\"Sequence\":{\"id\":\"A\"}},{\"Sequence\":{\"id\":\"A\"}}", ""), "the text 2 times"},
    {TEMPLATE("{\"SpecialToken\":{\"id\":\"s\"}}", ""), "'s' of the template has no ids"},
    {TEMPLATE("{\"SpecialToken\":{\"id\":\"s\"}}", "\"s\":{\"ids\":[9]}"), "'s' of the template is no token"},
    {TEMPLATE("7", ""), "part 0 of the template"},
    {TEMPLATE("{\"Sequence\":{\"id\":\"B\"}}", ""), "part 0 of the template"},
    {"{\"version\":\"2.0\"," MODEL "}", "the version is not"},
    {"{\"version\":1.0," MODEL "}", "the version is not"},
    {TOKEN("{\"content\":\"x\"}"), "added token 0 has no id"},
    {TOKEN("{\"content\":\"\",\"id\":3}"), "no content"},
    {TOKEN("{\"content\":\"a\",\"id\":3}"), "'a' has the id 3, and 0"},
    {TOKEN("{\"content\":\"x\",\"id\":0}"), "the same id 0"},
    {TOKEN("{\"content\":\"x\",\"id\":-1}"), "'x' has the id -1"},
    {TOKEN("{\"content\":\"x\",\"id\":3,\"lstrip\":1}"), "lstrip is neither"},
    {TOKEN("{\"content\":\"x\",\"id\":7}"), "'x' has the id 7, where the package would give it "},
    {TOKEN("{\"content\":\"a\",\"id\":0},{\"content\":\"x\",\"id\":3},{\"content\":\"y\",\"id\":5}"),
     "'y' has the id 5, where the package would give it 4"},
    {TOKEN("{\"content\":\"x\",\"id\":3},{\"content\":\"x\",\"id\":4,\"normalized\":false}"), "'x' is there twice"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"},"
     "\"added_tokens\":[{\"content\":\"x y\",\"id\":3},{\"content\":\"x_y\",\"id\":4}]," MODEL "}",
     "'x y' and 'x_y' are one text"},
    {"{\"added_tokens\":{}," MODEL "}", "added_tokens is no list"},
};

START_TEST(what_is_not_understood_is_refused) {
    char *path = files_path("refused.json");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char message[512] = "";
        tokenizer *t;
        files_write(path, refused[i].text, strlen(refused[i].text));
        ck_assert_msg(tokenizer_load(&t, path, message, sizeof message) == -1, "%s", refused[i].text);
        ck_assert_ptr_null(t);
        ck_assert_msg(strncmp(message, path, strlen(path)) == 0, "%s", message);
        ck_assert_msg(strstr(message, refused[i].words) != NULL, "'%s' lacks '%s'", message, refused[i].words);
    }
    char message[512];
    tokenizer *t;
    files_write(path, "GGUF\3\0\0\0", 8);
    ck_assert_int_eq(tokenizer_load(&t, path, message, sizeof message), -1);
    ck_assert_msg(strstr(message, "a GGUF file") != NULL, "%s", message);
    free(path);
}
END_TEST

/* transformers takes what its own file says; ids that would differ are no tokenizer's of this folder. */
START_TEST(the_file_beside_agrees_on_tokens_around_a_text) {
    static const char json[] =
        "{\"added_tokens\":[{\"content\":\"<s>\",\"id\":1}],"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"<s>\":1},\"merges\":[]},\"post_processor\":"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}"
        "],"
        "\"special_tokens\":{\"<s>\":{\"ids\":[1]}}}}";
    static const struct {
        const char *beside, *words;
    } cases[] = {
        {"{}", NULL},
        {"{\"add_bos_token\": true, \"add_eos_token\": false}", NULL},
        {"{\"add_bos_token\": null, \"model_max_length\": 1000000000000000019884624838656}", NULL},
        {"{\"add_bos_token\": false}", "add_bos_token is false, but tokenizer.json puts a token in front of a text"},
        {"{\"add_eos_token\": true}", "add_eos_token is true, but tokenizer.json puts no token behind a text"},
        {"{\"add_eos_token\": \"no\"}", "add_eos_token is no flag"},
        {"{\"add_prefix_space\": false, \"split_special_tokens\": false}", NULL},
        {"{\"add_prefix_space\": true}", "add_prefix_space is true, but tokenizer.json puts no space in front of a"},
        {"{\"split_special_tokens\": true}", "split_special_tokens is true"},
        {"{\"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\", \"lstrip\": false, \"normalized\": true}}}", NULL},
        {"{\"added_tokens_decoder\": {\"2\": {\"content\": \"<s>\"}}}",
         "token '<s>' is none that tokenizer.json adds, by"},
        {"{\"added_tokens_decoder\": {\"0\": {\"content\": \"<s>\"}}}", "by that id"},
        {"{\"added_tokens_decoder\": {\"0\": {\"content\": \"a\"}}}", "token 'a' is none that tokenizer.json adds;"},
        {"{\"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\", \"rstrip\": true}}}",
         "rstrip of token '<s>' is true, but false in tokenizer.json"},
        {"{\"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\", \"normalized\": false}}}", "normalized of token"},
        {"{\"added_tokens_decoder\": {\"1\": 3}}", "token '' is none"},
        {"{\"additional_special_tokens\": [\"<s>\"], \"extra_special_tokens\": {\"image_token\": \"<s>\"}}", NULL},
        {"{\"extra_special_tokens\": {\"image_token\": \"x\"}}", "token 'x' is none"},
        {"{\"additional_special_tokens\": [\"<|im_start|>\"]}", "token '<|im_start|>' is none"},
        {"{\"extra_special_tokens\": [{\"content\": \"<|im_end|>\"}]}", "token '<|im_end|>' is none"},
        {"{", "tokenizer_config.json: line 1"},
    };
    char *folder = files_path("beside"), *path = files_path("beside/tokenizer.json"), message[512];
    char *config = files_path("beside/tokenizer_config.json");
    tokenizer *t;
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    files_write(path, json, sizeof json - 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        files_write(config, cases[i].beside, strlen(cases[i].beside));
        const int failed = tokenizer_load(&t, folder, message, sizeof message);
        ck_assert_msg(failed == (cases[i].words ? -1 : 0), "%s", cases[i].beside);
        ck_assert_msg(!failed || strstr(message, cases[i].words), "'%s' lacks '%s'", message, cases[i].words);
        tokenizer_destroy(t);
        ck_assert_int_eq(tokenizer_load(&t, path, message, sizeof message), 0); /* the file itself */
        tokenizer_destroy(t);
    }
    free(folder), free(path), free(config);
}
END_TEST

/* With a space in front, as SentencePiece's files have it. */
START_TEST(the_file_beside_agrees_on_a_space_in_front) {
    static const struct {
        const char *step, *beside, *words;
    } cases[] = {
        {"\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"}", "{\"add_prefix_space\":false}", "puts a space"},
        {"\"pre_tokenizer\":{\"type\":\"ByteLevel\"}", "{\"add_prefix_space\":false}", "puts a space"},
        {"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "{\"add_prefix_space\":false}",
         "puts a space"},
        {"\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "{\"add_prefix_space\":true}", NULL},
    };
    char *folder = files_path("space"), *path = files_path("space/tokenizer.json"), message[512], json[512];
    char *config = files_path("space/tokenizer_config.json");
    tokenizer *t;
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(json, sizeof json, "{%s,\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"_\":1},\"merges\":[]}}",
                 cases[i].step);
        files_write(path, json, strlen(json));
        files_write(config, cases[i].beside, strlen(cases[i].beside));
        const int failed = tokenizer_load(&t, folder, message, sizeof message);
        ck_assert_msg(failed == (cases[i].words ? -1 : 0), "%s: %s", cases[i].step, failed ? message : "loaded");
        ck_assert_msg(!failed || strstr(message, cases[i].words), "'%s' lacks '%s'", message, cases[i].words);
        tokenizer_destroy(t);
    }
    free(folder), free(path), free(config);
}
END_TEST

START_TEST(a_token_takes_the_white_space_before_it) {
    static const char json[] = "{\"added_tokens\":[{\"content\":\"<s>\",\"id\":2,\"lstrip\":true}],"
                               "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\" \":1},\"merges\":[]}}";
    static const struct {
        const char *text;
        int n, ids[4];
    } taken[] = {{" <s>", 1, {2}}, {"a  <s> a", 4, {0, 2, 1, 0}}, {"<s> <s>", 2, {2, 2}}};
    char *path = files_path("strip.json"), message[512];
    tokenizer *t;
    files_write(path, json, sizeof json - 1);
    ck_assert_msg(tokenizer_load(&t, path, message, sizeof message) == 0, "%s", message);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        int64_t n = 0;
        int32_t *ids = tokenizer_encode_new(t, taken[i].text, &n);
        ck_assert_msg(ids && n == taken[i].n && memcmp(ids, taken[i].ids, (size_t)n * sizeof *ids) == 0, "'%s'",
                      taken[i].text);
        free(ids);
    }
    tokenizer_destroy(t);
    free(path);
}
END_TEST

/* A prompt goes on, so that an end token has no place behind it; and what follows it is asked of the tokenizer, which
 * here joins a space to the letter in front of it. */
START_TEST(what_follows_a_prompt) {
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\" \":1,\"a "
        "\":2,\"b\":3,\"</s>\":4,\"<s>\":5},\"merges\":[[\"a\",\" \"]]},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"</s>\"}}],"
        "\"special_tokens\":{\"<s>\":{\"ids\":[5]},\"</s>\":{\"ids\":[4]}}}}";
    char *path = files_path("behind.json"), message[512];
    tokenizer *t;
    files_write(path, json, sizeof json - 1);
    ck_assert_msg(tokenizer_load(&t, path, message, sizeof message) == 0, "%s", message);
    int64_t n;
    int32_t *whole = tokenizer_encode_new(t, "ab", &n);
    ck_assert(n == 4 && whole[0] == 5 && whole[1] == 0 && whole[2] == 3 && whole[3] == 4);
    int32_t *prompt = tokenizer_prompt_new(t, "ab", &n);
    ck_assert(n == 3 && memcmp(whole, prompt, 3 * sizeof *prompt) == 0);
    free(whole);
    free(prompt);
    ck_assert_int_eq(tokenizer_id_behind(t, "b", "a"), 0);          /* the space is a token, and the word is the next */
    ck_assert_int_eq(tokenizer_id_behind(t, "a", "b"), TOKEN_NONE); /* "a " is one token */
    ck_assert_int_eq(tokenizer_id_behind(t, "a ", "b"), 3);
    ck_assert_int_eq(tokenizer_first_id(t, "b"), 3);
    ck_assert_int_eq(tokenizer_id_behind(t, "b", ""), 1);
    tokenizer_destroy(t);
    free(path);
}
END_TEST

/* The bound is there so that sums of lengths stay small; what lies on it is read. */
START_TEST(texts_have_65536_bytes_at_most) {
    enum { MOST = 1 << 16 };
    static const char *const forms[] = {
        NORMAL("{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":\"%s\"}"),
        TOKEN("{\"content\":\"%s\",\"id\":3}"), BPE("{\"a\":0,\"%s\":1}", "[]", "")};
    char *path = files_path("long.json"), *text = malloc(MOST + 2), *json = malloc(MOST + 1024), message[512];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (size_t n = MOST; n <= MOST + 1; n++) {
            tokenizer *t = NULL;
            memset(text, 'c', n);
            text[n] = 0;
            files_write(path, json, (size_t)snprintf(json, MOST + 1024, forms[i], text));
            ck_assert_msg(tokenizer_load(&t, path, message, sizeof message) == (n == MOST ? 0 : -1), "%zu: %s", i,
                          message);
            ck_assert(!t == (n > MOST));
            tokenizer_destroy(t);
        }
    free(path), free(text), free(json);
}
END_TEST

/* ---- patterns ---- */

START_TEST(patterns_match_as_a_backtracking_matcher_does) {
    static const struct {
        const char *pattern, *text;
        int begin, end;
    } finds[] = {
        {"a|ab", "xab", 1, 2},       {"ab|a", "xab", 1, 3},          {"a+b", "aaab", 0, 4},
        {"a*ab", "aaab", 0, 4},      {"a++ab", "aaab", 4, 4},        {"(?:a|ab)c", "abc", 0, 3},
        {"(?i:'s)", "'S", 0, 2},     {"(?i:'s)", "'\xC5\xBF", 0, 3}, {"\\s+(?!\\S)", "   a", 0, 2},
        {"\\s+(?=a)", "b  a", 1, 3}, {"[^a-c]", "abcd", 3, 4},       {"\\p{Lu}\\P{Lu}", "aBc", 1, 3},
        {"\\d{2,3}", "12345", 0, 3}, {"\\d{4,}", "12345", 0, 5},     {"[\\]\\-]", "a-", 1, 2},
        {"(?:b)?c", "abc", 1, 3},    {"\\p{^L}", "ab1", 2, 3},       {".", "\nx", 1, 2},
        {"\\.", "x.", 1, 2},         {"[a\\s]b", "x b", 1, 3},       {"(a|b)(?:c|d)", "bd", 0, 2},
    };
    for (size_t i = 0; i < sizeof finds / sizeof *finds; i++) {
        char message[256];
        regex *r;
        int64_t end = -1, steps = 1000;
        const int64_t n = (int64_t)strlen(finds[i].text);
        ck_assert_msg(regex_compile(&r, finds[i].pattern, strlen(finds[i].pattern), message, sizeof message) == 0, "%s",
                      message);
        const int64_t begin = regex_find(r, finds[i].text, n, 0, &end, &steps);
        ck_assert_msg(begin == finds[i].begin && (begin == n || end == finds[i].end), "%s in %s: %d ... %d",
                      finds[i].pattern, finds[i].text, (int)begin, (int)end);
        regex_destroy(r);
    }
    /* what would take the cube of the length is given up */
    char text[4001], message[256];
    regex *r;
    int64_t end, steps = 100000;
    memset(text, 'a', 4000);
    text[4000] = 0;
    ck_assert_int_eq(regex_compile(&r, "a*a*a*b", 7, message, sizeof message), 0);
    ck_assert_int_eq(regex_find(r, text, 4000, 0, &end, &steps), -1);
    regex_destroy(r);
}
END_TEST

START_TEST(composing_is_that_of_the_standard) {
    static const char *const pairs[][2] = {
        {"e\xCC\x81", "\xC3\xA9"},                                /* e, acute */
        {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},               /* marks in order */
        {"\xE1\xBA\x9B\xCC\xA3", "\xE1\xBA\x9B\xCC\xA3"},         /* stays */
        {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"}, /* Hangul */
        {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},             /* never composed */
        {"\xE2\x84\xAB", "\xC3\x85"},                             /* angstrom */
        {"a\xCC\xA8\xCC\x81", "\xC4\x85\xCC\x81"},
        {"a\xCC\x85\xCC\x80", "a\xCC\x85\xCC\x80"}, /* a mark of the same class is in the way */
        {"plain", "plain"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        text_buffer out = {0};
        unicode_compose(&out, pairs[i][0], strlen(pairs[i][0]));
        ck_assert_msg(!out.failed && strcmp(out.bytes, pairs[i][1]) == 0, "%s", pairs[i][1]);
        free(out.bytes);
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, ids_are_those_of_the_package);
    HARNESS_ADD(suite, words_have_the_id_that_they_have_inside_a_text);
    HARNESS_ADD(suite, long_texts_take_no_square_of_time);
    HARNESS_ADD(suite, bytes_that_are_no_text_become_replacements);
    HARNESS_ADD(suite, what_is_not_understood_is_refused);
    HARNESS_ADD(suite, the_file_beside_agrees_on_tokens_around_a_text);
    HARNESS_ADD(suite, the_file_beside_agrees_on_a_space_in_front);
    HARNESS_ADD(suite, a_token_takes_the_white_space_before_it);
    HARNESS_ADD(suite, what_follows_a_prompt);
    HARNESS_ADD(suite, texts_have_65536_bytes_at_most);
    HARNESS_ADD(suite, patterns_match_as_a_backtracking_matcher_does);
    HARNESS_ADD(suite, composing_is_that_of_the_standard);
}
