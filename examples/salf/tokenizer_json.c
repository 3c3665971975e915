/* tokenizer_json.c - reads the tokenizer.json of the package tokenizers: byte-pair models over bytes (GPT-2, Llama 3,
 * Qwen, Phi, OLMo, SmolLM) and over characters (Llama 2, Mistral, Gemma). Whatever could change ids and is not
 * understood is refused by name. Left unread, since ids do not depend on it: the decoder, offsets, and truncation and
 * padding, which hosts set by themselves. */
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "message.h"
#include "tokenizer_internal.h"

/* The largest tokenizers in use have some 2^18 ids: a hostile file cannot make the reader ask for much more. */
enum { IDS_MOST = 1 << 22, TEXT_MOST = 1 << 16 };

typedef struct {
    tokenizer *t;
    tokenizer_json *json;
    char *message;
    size_t message_size;
    int64_t next_id; /* that the package gives to an added token which is no piece, whatever the file says */
} json_reader;

static int say(json_reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int say(json_reader *r, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(r->message, r->message_size, format, arguments);
    va_end(arguments);
    return -1;
}

static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* The type of a step, "" where it has none. */
static const char *type_of(const json_t *step) {
    const char *type = json_string_value(member(step, "type"));
    return type ? type : "";
}

/* A copy of a text without a byte 0; *out stays NULL on failure. */
static int copy_text(json_reader *r, const json_t *value, const char *what, char **out) {
    const char *text = json_string_value(value);
    if (!text || strlen(text) != json_string_length(value) || strlen(text) > TEXT_MOST)
        return say(r, "%s is no text", what);
    *out = strdup(text);
    return *out ? 0 : say(r, "out of memory");
}

/* true, false, or what holds where the file says nothing. */
static int read_flag(json_reader *r, const json_t *object, const char *key, bool missing, bool *out) {
    const json_t *value = member(object, key);
    if (value && !json_is_boolean(value)) return say(r, "%s is neither true nor false", key);
    *out = value ? json_is_true(value) : missing;
    return 0;
}

/* ---- normalising and splitting ---- */

typedef int (*step_reader)(json_reader *r, const json_t *json);

/* The members of a "Sequence", or the one step that json is; what names the kind in messages. */
static int read_steps(json_reader *r, const json_t *json, const char *key, step_reader read) {
    const json_t *steps = member(json, key);
    size_t i;
    json_t *step;
    if (!json) return 0;
    if (strcmp(type_of(json), "Sequence") != 0) return read(r, json);
    if (!json_is_array(steps)) return say(r, "a Sequence without %s", key);
    json_array_foreach(steps, i, step) {
        if (strcmp(type_of(step), "Sequence") == 0) return say(r, "a Sequence in a Sequence");
        if (read(r, step)) return -1;
    }
    return 0;
}

static int read_normaliser(json_reader *r, const json_t *json) {
    const char *type = type_of(json);
    if (r->json->n_normal == STEPS_MOST) return say(r, "more than %d normalizers", STEPS_MOST);
    tokenizer_step *step = &r->json->normal[r->json->n_normal++];
    if (strcmp(type, "NFC") == 0) {
        step->kind = STEP_COMPOSE;
        return 0;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = STEP_PREPEND;
        if (copy_text(r, member(json, "prepend"), "prepend of a normalizer", &step->to)) return -1;
        /* the package doubles the first character where there is nothing to put before it */
        return *step->to ? 0 : say(r, "an empty prepend of a normalizer");
    }
    if (strcmp(type, "Replace") == 0 && member(member(json, "pattern"), "String")) {
        step->kind = STEP_REPLACE;
        if (copy_text(r, member(member(json, "pattern"), "String"), "pattern of a normalizer", &step->from) ||
            copy_text(r, member(json, "content"), "content of a normalizer", &step->to))
            return -1;
        return *step->from ? 0 : say(r, "an empty pattern of a normalizer");
    }
    return say(r, "normalizer %s%s is not understood", type, strcmp(type, "Replace") ? "" : " by a Regex");
}

static int compile_pattern(json_reader *r, const char *pattern, size_t n, regex **out) {
    char what[256];
    if (regex_compile(out, pattern, n, what, sizeof what) == 0) return 0;
    return say(r, "a pattern is not understood: %s", what);
}

static int read_split(json_reader *r, const json_t *json, tokenizer_step *step) {
    static const struct {
        const char *name;
        int kept, kept_inverted; /* -1: not understood */
    } behaviours[] = {
        {"Isolated", KEEP_ISOLATED, KEEP_ISOLATED},
        {"Removed", KEEP_NONE, KEEP_ONLY},
        {"Contiguous", KEEP_JOINED, -1},
        {"MergedWithPrevious", KEEP_WITH_BEFORE, -1},
        {"MergedWithNext", KEEP_WITH_NEXT, -1},
    };
    const json_t *pattern = member(json, "pattern"), *expression = member(pattern, "Regex");
    const char *behaviour = json_string_value(member(json, "behavior"));
    bool inverted = false;
    step->kind = STEP_SPLIT;
    step->matches = -1;
    if (read_flag(r, json, "invert", false, &inverted)) return -1;
    for (size_t i = 0; behaviour && i < sizeof behaviours / sizeof *behaviours; i++)
        if (strcmp(behaviours[i].name, behaviour) == 0)
            step->matches = inverted ? behaviours[i].kept_inverted : behaviours[i].kept;
    if (step->matches < 0)
        return say(r, "behavior %s%s of a Split is not understood", behaviour ? behaviour : "",
                   inverted ? ", inverted," : "");
    if (json_is_string(expression))
        return compile_pattern(r, json_string_value(expression), json_string_length(expression), &step->pattern);
    if (copy_text(r, member(pattern, "String"), "pattern of a Split", &step->from)) return -1;
    return *step->from ? 0 : say(r, "an empty pattern of a Split");
}

/* The signs of old files: add_prefix_space is "always" or "never". */
static int read_metaspace(json_reader *r, const json_t *json, tokenizer_step *step) {
    static const char *const schemes[] = {"never", "first", "always"};
    const char *scheme = json_string_value(member(json, "prepend_scheme"));
    bool split = true, prefix = true;
    step->kind = STEP_METASPACE;
    if (read_flag(r, json, "split", true, &split) || read_flag(r, json, "add_prefix_space", true, &prefix)) return -1;
    step->matches = split ? KEEP_WITH_NEXT : KEEP_NONE;
    step->prefix = scheme ? -1 : prefix ? PREFIX_ALWAYS : PREFIX_NEVER;
    for (int i = 0; scheme && i < 3; i++)
        if (strcmp(schemes[i], scheme) == 0) step->prefix = i;
    if (step->prefix < 0) return say(r, "prepend_scheme %s is not understood", scheme);
    /* "first" goes by where a piece began in the text before all steps, which is not known behind these. */
    bool moved = false;
    for (int i = 0; i < r->json->n_normal; i++)
        moved = moved || (r->json->normal[i].kind == STEP_REPLACE && !*r->json->normal[i].to);
    for (const tokenizer_step *before = r->json->split; before < step; before++)
        moved = moved || before->kind == STEP_BYTES;
    if (moved && step->prefix == PREFIX_FIRST)
        return say(r, "prepend_scheme first is not understood behind ByteLevel, or a Replace by nothing");
    if (copy_text(r, member(json, "replacement"), "replacement of Metaspace", &step->to)) return -1;
    return *step->to ? 0 : say(r, "an empty replacement of Metaspace");
}

/* Of GPT-2; what ByteLevel splits by when the file does not say otherwise. */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static int read_pre_tokeniser(json_reader *r, const json_t *json) {
    const char *type = type_of(json);
    bool flag = false, other = false;
    if (r->json->n_split == STEPS_MOST) return say(r, "more than %d pre_tokenizers", STEPS_MOST);
    tokenizer_step *step = &r->json->split[r->json->n_split++];
    if (strcmp(type, "Split") == 0) return read_split(r, json, step);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(r, json, step);
    if (strcmp(type, "Digits") == 0) {
        step->kind = STEP_DIGITS;
        if (read_flag(r, json, "individual_digits", false, &flag)) return -1;
        step->matches = flag ? KEEP_ISOLATED : KEEP_JOINED;
        return 0;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        step->kind = STEP_BYTES;
        if (read_flag(r, json, "add_prefix_space", true, &flag) || read_flag(r, json, "use_regex", true, &other))
            return -1;
        step->prefix = flag ? PREFIX_ALWAYS : PREFIX_NEVER;
        return other ? compile_pattern(r, gpt2_pattern, sizeof gpt2_pattern - 1, &step->pattern) : 0;
    }
    return say(r, "pre_tokenizer %s is not understood", type);
}

/* ---- pieces and merges ---- */

/* Sets a piece whose id may lie beyond those that there are. */
static int set_piece(json_reader *r, int64_t id, const char *bytes, size_t length) {
    tokenizer *t = r->t;
    if (id < 0 || id >= IDS_MOST) return say(r, "'%.40s' has the id %" PRId64, bytes, id);
    if (length > TEXT_MOST) return say(r, "piece %" PRId64 " has %zu bytes", id, length);
    if (id >= t->size) {
        tokenizer_entry *pieces = realloc(t->pieces, ((size_t)id + 1) * sizeof *pieces);
        if (!pieces) return say(r, "out of memory");
        t->pieces = pieces;
        memset(pieces + t->size, 0, ((size_t)id + 1 - (size_t)t->size) * sizeof *pieces);
        t->size = (int32_t)id + 1;
    }
    if (t->pieces[id].bytes)
        return say(r, "'%.40s' and '%.40s' have the same id %" PRId64, t->pieces[id].bytes, bytes, id);
    return tokenizer_set(t, (int32_t)id, 0, bytes, (int32_t)length) ? say(r, "out of memory") : 0;
}

static int read_vocabulary(json_reader *r, const json_t *vocab) {
    const char *piece;
    json_t *id;
    int64_t largest = -1;
    if (!json_is_object(vocab)) return say(r, "model.vocab is no object");
    json_object_foreach((json_t *)(uintptr_t)vocab, piece, id) {
        if (!json_is_integer(id)) return say(r, "the id of '%.40s' is no integer", piece);
        if (json_integer_value(id) > largest) largest = json_integer_value(id);
    }
    if (largest < 0 || largest >= IDS_MOST) return say(r, "the largest id in model.vocab is %" PRId64, largest);
    /* room for all at once, so that ids in any order cost one allocation */
    r->t->pieces = calloc((size_t)largest + 1, sizeof *r->t->pieces);
    if (!r->t->pieces) return say(r, "out of memory");
    r->t->size = (int32_t)largest + 1;
    json_object_foreach((json_t *)(uintptr_t)vocab, piece, id) {
        if (set_piece(r, json_integer_value(id), piece, strlen(piece))) return -1;
    }
    return tokenizer_index(r->t, 0) ? say(r, "out of memory") : 0;
}

/* Merges are "a b" in files of older versions and ["a", "b"] in newer ones; what they make is the piece "ab". */
static int read_merges(json_reader *r, const json_t *merges) {
    size_t rank;
    json_t *merge;
    text_buffer both = {0};
    int failed = 0;
    if (!json_is_array(merges) || json_array_size(merges) > IDS_MOST) return say(r, "model.merges is no list");
    if (bpe_make_room(&r->json->model, (int64_t)json_array_size(merges))) return say(r, "out of memory");
    json_array_foreach(merges, rank, merge) {
        const char *space = json_is_string(merge) ? strchr(json_string_value(merge), ' ') : NULL;
        const char *left = space ? json_string_value(merge) : json_string_value(json_array_get(merge, 0));
        const char *right = space ? space + 1 : json_string_value(json_array_get(merge, 1));
        if (!left || !right || (!space && json_array_size(merge) != 2) || (space && strchr(right, ' '))) {
            failed = say(r, "merge %zu is no pair of pieces", rank);
            break;
        }
        const size_t left_n = space ? (size_t)(space - left) : strlen(left), right_n = strlen(right);
        both.n = 0;
        text_append(&both, left, left_n);
        text_append(&both, right, right_n);
        if (both.failed || both.n > TEXT_MOST) {
            failed = say(r, both.failed ? "out of memory" : "a merge makes a piece that is too long");
            break;
        }
        const int32_t ids[3] = {tokenizer_find(r->t, both.bytes, (int32_t)left_n),
                                tokenizer_find(r->t, both.bytes + left_n, (int32_t)right_n),
                                tokenizer_find(r->t, both.bytes, (int32_t)both.n)};
        if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0) {
            failed = say(r, "merge %zu joins '%.40s' and '%.40s', and not all three are pieces", rank, left, right);
            break;
        }
        bpe_set_merge(&r->json->model, ids[0], ids[1], (int32_t)rank, ids[2]);
    }
    free(both.bytes);
    return failed;
}

static int read_model(json_reader *r, const json_t *json) {
    static const char *const none[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    bpe_model *m = &r->json->model;
    const json_t *unknown = member(json, "unk_token");
    if (!json_is_object(json)) return say(r, "there is no model: it is no tokenizer.json");
    if (member(json, "type") ? strcmp(type_of(json), "BPE") != 0 : !member(json, "merges"))
        return say(r, "model %s is not understood; BPE is", type_of(json));
    for (int i = 0; i < 3; i++) {
        const json_t *value = member(json, none[i]);
        const bool neutral = !value || (json_is_string(value) && json_string_length(value) == 0) ||
                             (json_is_number(value) && !(json_number_value(value) > 0));
        if (!neutral) return say(r, "%s of the model is not understood", none[i]);
    }
    if (read_flag(r, json, "byte_fallback", false, &m->byte_fallback) ||
        read_flag(r, json, "fuse_unk", false, &m->fuse_unknown) ||
        read_flag(r, json, "ignore_merges", false, &m->ignore_merges) || read_vocabulary(r, member(json, "vocab")) ||
        read_merges(r, member(json, "merges")))
        return -1;
    m->unknown = -1;
    if (unknown) {
        if (json_is_string(unknown) && json_string_length(unknown) <= TEXT_MOST)
            m->unknown = tokenizer_find(r->t, json_string_value(unknown), (int32_t)json_string_length(unknown));
        if (m->unknown < 0) return say(r, "unk_token is no piece");
    }
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        m->bytes[b] = tokenizer_find(r->t, name, 6);
    }
    return 0;
}

/* ---- added tokens ---- */

/* The place in a tree for the token that a text is, -1 where it is none yet. NULL when memory is short. */
static int32_t *grow_tree(token_tree *tree, const char *text, size_t n) {
    int32_t node = 0;
    for (size_t i = 0; i <= n; i++) { /* one round more: the root */
        if (tree->n == tree->room) {
            const int32_t room = 2 * tree->room + 64;
            struct token_node *larger = realloc(tree->nodes, (size_t)room * sizeof *larger);
            if (!larger) return NULL;
            tree->nodes = larger;
            tree->room = room;
        }
        if (tree->n == 0) tree->nodes[tree->n++] = (struct token_node){.token = -1};
        if (i == n) break;
        int32_t child = tree->nodes[node].child;
        while (child > 0 && tree->nodes[child].byte != (unsigned char)text[i]) child = tree->nodes[child].sibling;
        if (child <= 0) {
            child = tree->n++;
            tree->nodes[child] = (struct token_node){0, tree->nodes[node].child, -1, (unsigned char)text[i]};
            tree->nodes[node].child = child;
        }
        node = child;
    }
    return &tree->nodes[node].token;
}

/* One token; a text that is a piece of the model must have its id, another one the id behind those that there are: the
 * package numbers them so, and passes over what the file has. The flag "special" changes nothing here: special tokens
 * in a text are found like the others. Which of two tokens with one text is found is an accident there. */
static int read_added(json_reader *r, const json_t *json) {
    added_token *token = &r->json->added[r->json->n_added];
    const json_t *id = member(json, "id"), *content = member(json, "content");
    const char *text = json_string_value(content);
    const size_t n = json_string_length(content);
    if (!text || n == 0 || strlen(text) != n || n > TEXT_MOST || !json_is_integer(id))
        return say(r, "added token %" PRId32 " has no id, or no content", r->json->n_added);
    const json_int_t number = json_integer_value(id);
    const int32_t known = tokenizer_find(r->t, text, (int32_t)n);
    if (known >= 0 && known != number)
        return say(r, "added token '%.40s' has the id %" PRId64 ", and %" PRId32 " in the vocabulary", text,
                   (int64_t)number, known);
    int32_t *place = grow_tree(&r->json->contents, text, n);
    if (!place) return say(r, "out of memory");
    if (*place >= 0) return say(r, "added token '%.40s' is there twice", text);
    *place = r->json->n_added;
    if (known < 0 && set_piece(r, number, text, n)) return -1;
    if (known < 0 && number != r->next_id)
        return say(r, "added token '%.40s' has the id %" PRId64 ", where the package would give it %" PRId64, text,
                   (int64_t)number, r->next_id);
    if (number >= r->next_id) r->next_id = number + 1;
    token->id = (int32_t)number;
    if (read_flag(r, json, "single_word", false, &token->single_word) ||
        read_flag(r, json, "lstrip", false, &token->takes_left) ||
        read_flag(r, json, "rstrip", false, &token->takes_right) ||
        read_flag(r, json, "normalized", true, &token->normalized))
        return -1;
    text_buffer normal = {0};
    if (token->normalized)
        tokenizer_normalise(r->json, text, n, &normal);
    else
        text_append(&normal, text, n);
    place = normal.failed ? NULL
                          : grow_tree(token->normalized ? &r->json->normalized : &r->json->raw, normal.bytes, normal.n);
    const bool found = normal.n > 0; /* of nothing, nothing is found */
    free(normal.bytes);
    if (!place) return say(r, "out of memory");
    if (found && *place >= 0)
        return say(r, "added tokens '%.40s' and '%.40s' are one text when they are normalized",
                   r->t->pieces[r->json->added[*place].id].bytes, text);
    if (found) *place = r->json->n_added;
    r->json->n_added++;
    return 0;
}

/* ---- what is put around ---- */

/* The ids of a special token of a template. */
static int add_template_ids(json_reader *r, const json_t *tokens, const char *name, bool behind) {
    const json_t *ids = member(member(tokens, name), "ids");
    size_t i;
    json_t *id;
    int32_t *to = behind ? r->json->behind : r->json->before;
    int *n = behind ? &r->json->n_behind : &r->json->n_before;
    if (!json_is_array(ids)) return say(r, "special token '%.40s' of the template has no ids", name);
    json_array_foreach(ids, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= r->t->size)
            return say(r, "special token '%.40s' of the template is no token", name);
        if (*n == TEMPLATE_MOST) return say(r, "more than %d ids in a template", TEMPLATE_MOST);
        to[(*n)++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int read_processor(json_reader *r, const json_t *json) {
    const char *type = type_of(json);
    if (strcmp(type, "ByteLevel") == 0) return 0; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") != 0) return say(r, "post_processor %s is not understood", type);
    if (r->json->n_before + r->json->n_behind > 0) return say(r, "two templates");
    const json_t *single = member(json, "single");
    size_t i;
    json_t *part;
    int texts = 0;
    json_array_foreach(single, i, part) {
        const char *name = json_string_value(member(member(part, "SpecialToken"), "id"));
        const char *text = json_string_value(member(member(part, "Sequence"), "id"));
        if (text && strcmp(text, "A") == 0)
            texts++;
        else if (!name)
            return say(r, "part %zu of the template is not understood", i);
        else if (add_template_ids(r, member(json, "special_tokens"), name, texts > 0))
            return -1;
    }
    return texts == 1 ? 0 : say(r, "the template has the text %d times", texts);
}

/* ---- what transformers reads beside the file ---- */

/* An added token that tokenizer_config.json has: by its text, and where that says it with the number and the flags of
 * the file (id < 0: by its text alone). transformers adds it, or its other flags, to what the file has. */
static int check_added(const tokenizer *t, int64_t id, const json_t *token, char *message, size_t message_size) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
    const char *text = json_string_value(json_is_object(token) ? member(token, "content") : token);
    const struct token_node *nodes = t->json->contents.nodes;
    int32_t node = text && nodes ? 0 : -1;
    for (const char *at = text; node >= 0 && *at; at++) {
        node = nodes[node].child; /* none is the root's number, and ends the list */
        while (node > 0 && nodes[node].byte != (unsigned char)*at) node = nodes[node].sibling;
        if (node == 0) node = -1;
    }
    const int32_t known = node < 0 ? -1 : nodes[node].token;
    if (known < 0 || (id >= 0 && t->json->added[known].id != id))
        return message_fail(message, message_size,
                            "token '%.40s' is none that tokenizer.json adds%s; name tokenizer.json itself to do "
                            "without it",
                            text ? text : "", known < 0 ? "" : ", by that id");
    const added_token *own = &t->json->added[known];
    const bool has[] = {own->single_word, own->takes_left, own->takes_right, own->normalized};
    for (int i = 0; i < 4; i++) {
        const json_t *flag = json_is_object(token) ? member(token, flags[i]) : NULL;
        if (flag && json_is_true(flag) != has[i])
            return message_fail(message, message_size,
                                "%s of token '%.40s' is %s, but %s in tokenizer.json; name that itself to take its ids",
                                flags[i], text, has[i] ? "false" : "true", has[i] ? "true" : "false");
    }
    return 0;
}

/* Flags that say how a text is encoded, with what tokenizer.json does. transformers follows them, in one version or
 * another: the template is made anew (update_post_processor), the tokenizer is made anew with or without a space in
 * front, special tokens in a text are not looked for. */
static int check_flags(const tokenizer *t, const json_t *json, char *message, size_t message_size) {
    bool space = false;
    for (int i = 0; i < t->json->n_split; i++) space = space || t->json->split[i].prefix != PREFIX_NEVER;
    for (int i = 0; i < t->json->n_normal; i++) space = space || t->json->normal[i].kind == STEP_PREPEND;
    const struct {
        const char *key, *what, *where;
        bool does;
    } flags[] = {
        {"add_bos_token", "token", "in front of", t->json->n_before > 0},
        {"add_eos_token", "token", "behind", t->json->n_behind > 0},
        {"add_prefix_space", "space", "in front of", space},
        {"split_special_tokens", NULL, NULL, false},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const json_t *flag = member(json, flags[i].key);
        const bool said = json_is_true(flag);
        if (flag && !json_is_boolean(flag)) return message_fail(message, message_size, "%s is no flag", flags[i].key);
        if (!flag || said == flags[i].does) continue;
        if (!flags[i].what) return message_fail(message, message_size, "%s is true, which is not done", flags[i].key);
        return message_fail(message, message_size,
                            "%s is %s, but tokenizer.json puts %s %s %s a text; name tokenizer.json itself to take its "
                            "ids",
                            flags[i].key, said ? "true" : "false", flags[i].does ? "a" : "no", flags[i].what,
                            flags[i].where);
    }
    return 0;
}

int tokenizer_json_check_config(const tokenizer *t, const char *text, size_t n, char *message, size_t message_size) {
    json_error_t error; /* its model_max_length is often 10^30, which no integer holds */
    json_t *json = json_read(text, n, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error), *token;
    if (!json)
        return error.line < 0 ? message_fail(message, message_size, "out of memory")
                              : message_fail(message, message_size, "line %d: %s", error.line, error.text);
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    const char *id;
    size_t k;
    int failed = check_flags(t, json, message, message_size);
    json_object_foreach(json_object_get(json, "added_tokens_decoder"), id, token) {
        if (!failed) failed = check_added(t, strtol(id, NULL, 10), token, message, message_size);
    }
    for (int i = 0; i < 2; i++) { /* a list of tokens, or an object {name of an attribute: token} */
        json_t *tokens = json_object_get(json, lists[i]);
        json_array_foreach(tokens, k, token) {
            if (!failed) failed = check_added(t, -1, token, message, message_size);
        }
        json_object_foreach(tokens, id, token) {
            if (!failed) failed = check_added(t, -1, token, message, message_size);
        }
    }
    json_decref(json);
    return failed;
}

/* ---- the file ---- */

void tokenizer_json_destroy(tokenizer_json *json) {
    if (!json) return;
    for (int i = 0; i < STEPS_MOST; i++) {
        free(json->normal[i].from);
        free(json->normal[i].to);
        free(json->split[i].from);
        free(json->split[i].to);
        regex_destroy(json->split[i].pattern);
    }
    free(json->added);
    free(json->contents.nodes);
    free(json->raw.nodes);
    free(json->normalized.nodes);
    free(json->model.merges);
    free(json);
}

int tokenizer_json_read(tokenizer *t, const char *text, size_t n, char *message, size_t message_size) {
    json_error_t error;
    json_reader r = {.t = t, .message = message, .message_size = message_size};
    size_t i;
    json_t *token;
    json_t *json = json_read(text, n, JSON_ALLOW_NUL, &error);
    if (!json) return error.line < 0 ? say(&r, "out of memory") : say(&r, "line %d: %s", error.line, error.text);
    const json_t *added = member(json, "added_tokens"), *version = member(json, "version");
    int failed = -1;
    t->json = r.json = calloc(1, sizeof *r.json);
    if (!t->json) {
        say(&r, "out of memory");
    } else if (!json_is_object(json)) {
        say(&r, "no JSON object");
    } else if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0)) {
        say(&r, "the version is not \"1.0\"");
    } else if (read_steps(&r, member(json, "normalizer"), "normalizers", read_normaliser) == 0 &&
               read_steps(&r, member(json, "pre_tokenizer"), "pretokenizers", read_pre_tokeniser) == 0 &&
               read_model(&r, member(json, "model")) == 0) {
        failed = 0;
        t->json->added = calloc(json_array_size(added) + 1, sizeof *t->json->added);
        r.next_id = (int64_t)json_object_size(member(member(json, "model"), "vocab"));
        if (!t->json->added || json_array_size(added) > IDS_MOST) failed = say(&r, "out of memory");
        if (added && !json_is_array(added)) failed = say(&r, "added_tokens is no list");
        if (!failed) json_array_foreach(added, i, token) {
                failed = read_added(&r, token);
                if (failed) break;
            }
        if (!failed) failed = read_steps(&r, member(json, "post_processor"), "processors", read_processor);
    }
    json_decref(json);
    return failed;
}
