/* tokenizer_steps.c - from a text to ids as a tokenizer.json says: added tokens are found, what lies between them is
 * normalised and split into words, words become pieces, and the template's ids are put around. The order of the steps
 * and what they do at borders is that of the package tokenizers. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_internal.h"

/* A text on its way. steps: what is left for patterns, whose work is bounded so that no file can make it endless. */
typedef struct {
    const tokenizer *t;
    const tokenizer_json *json;
    bpe_scratch scratch;
    id_list *out;
    int64_t steps;
    bool failed;
} encoding;

/* ---- normalising ---- */

static void replace_all(text_buffer *out, const char *text, size_t n, const char *from, const char *to) {
    const size_t from_n = strlen(from), to_n = strlen(to);
    for (size_t i = 0; i < n;) {
        const bool here = n - i >= from_n && memcmp(text + i, from, from_n) == 0;
        text_append(out, here ? to : text + i, here ? to_n : 1);
        i += here ? from_n : 1;
    }
}

void tokenizer_normalise(const tokenizer_json *json, const char *text, size_t n, text_buffer *out) {
    text_append(out, text, n);
    for (int i = 0; i < json->n_normal && !out->failed; i++) {
        const tokenizer_step *step = &json->normal[i];
        text_buffer made = {0};
        text_append(&made, "", 0);
        if (step->kind == STEP_COMPOSE) unicode_compose(&made, out->bytes, out->n);
        if (step->kind == STEP_REPLACE) replace_all(&made, out->bytes, out->n, step->from, step->to);
        if (step->kind == STEP_PREPEND) { /* nothing stays nothing */
            if (out->n > 0) text_append(&made, step->to, strlen(step->to));
            text_append(&made, out->bytes, out->n);
        }
        free(out->bytes);
        *out = made;
    }
}

/* ---- splitting into words ---- */

static void split_piece(encoding *e, int step, const char *text, size_t n, bool at_start);

/* The 256 bytes as characters that are visible and no space, as GPT-2 has them: those of Latin-1 that are so stand for
 * themselves, the others follow from U+0100 on. */
static uint32_t visible_byte(unsigned char b) {
    if ((b >= 33 && b <= 126) || (b >= 161 && b != 173)) return b;
    return b <= 32 ? 256u + b : b <= 160 ? 256u + 33 + (b - 127u) : 256u + 33 + 34;
}

static void split_bytes(encoding *e, int next, const char *text, size_t n) {
    text_buffer made = {0};
    text_append(&made, "", 0);
    for (size_t i = 0; i < n; i++) text_append_code(&made, visible_byte((unsigned char)text[i]));
    if (made.failed)
        e->failed = true;
    else
        split_piece(e, next, made.bytes, made.n, false);
    free(made.bytes);
}

/* Next match of a step at or behind `from`; n when there is none. */
static int64_t find_match(encoding *e, const tokenizer_step *step, const char *text, int64_t n, int64_t from,
                          int64_t *end) {
    if (step->pattern) {
        const int64_t begin = regex_find(step->pattern, text, n, from, end, &e->steps);
        if (begin < 0) e->failed = true;
        return begin < 0 ? n : begin;
    }
    const char *sign = step->kind == STEP_METASPACE ? step->to : step->from;
    const int64_t length = sign ? (int64_t)strlen(sign) : 0;
    for (int64_t at = from; at < n;) {
        int bytes;
        const uint32_t code = utf8_code(text + at, &bytes);
        if (step->kind == STEP_DIGITS && (unicode_category(code) & unicode_mask("N", 1))) {
            *end = at + bytes;
            return at;
        }
        if (length > 0 && n - at >= length && memcmp(text + at, sign, (size_t)length) == 0) {
            *end = at + length;
            return at;
        }
        at += bytes;
    }
    return n;
}

/* One piece of a split: the bytes step also makes visible what it has split. */
static void pass_on(encoding *e, int step, const char *text, int64_t begin, int64_t end, bool at_start) {
    if (end <= begin || e->failed) return;
    if (e->json->split[step].kind == STEP_BYTES)
        split_bytes(e, step + 1, text + begin, (size_t)(end - begin));
    else
        split_piece(e, step + 1, text + begin, (size_t)(end - begin), at_start && begin == 0);
}

/* Walks over matches and what is between them. held: begin of a piece that is not passed on yet, since the match or gap
 * that follows may belong to it. */
static void split_matches(encoding *e, int step, const char *text, int64_t n, bool at_start) {
    const tokenizer_step *s = &e->json->split[step];
    int64_t gap = 0, held = 0;
    while (gap < n && !e->failed) {
        int64_t end = n;
        const int64_t match = find_match(e, s, text, n, gap, &end);
        const bool found = match < n;
        switch (s->matches) {
        case KEEP_WITH_BEFORE: /* with a gap in front; a match behind a match stands alone */
            pass_on(e, step, text, gap, found ? end : n, at_start);
            break;
        case KEEP_WITH_NEXT: /* a match waits for its gap; another match sends it off alone */
        case KEEP_JOINED:    /* a match waits for matches that touch it */
            if (match > gap && s->matches == KEEP_JOINED) {
                pass_on(e, step, text, held, gap, at_start);
                pass_on(e, step, text, gap, match, at_start);
                held = match;
            } else if (match > gap || s->matches == KEEP_WITH_NEXT) {
                pass_on(e, step, text, held, match, at_start);
                held = match;
            }
            if (!found) held = n;
            break;
        default: /* KEEP_ISOLATED, KEEP_NONE, KEEP_ONLY */
            if (s->matches != KEEP_ONLY) pass_on(e, step, text, gap, match, at_start);
            if (s->matches != KEEP_NONE) pass_on(e, step, text, match, found ? end : match, at_start);
        }
        gap = found ? end : n;
    }
    if (s->matches == KEEP_WITH_NEXT || s->matches == KEEP_JOINED) pass_on(e, step, text, held, n, at_start);
}

/* A piece goes through the steps from `step` on; behind the last one it is a word. at_start: it begins the text. */
static void split_piece(encoding *e, int step, const char *text, size_t n, bool at_start) {
    if (n == 0 || e->failed) return;
    if (step == e->json->n_split) {
        bpe_encode(e->t, &e->json->model, text, n, &e->scratch, e->out);
        return;
    }
    const tokenizer_step *s = &e->json->split[step];
    text_buffer made = {0};
    /* 1. a space, or its sign, in front; signs for spaces */
    if (s->kind == STEP_METASPACE) {
        const size_t length = strlen(s->to);
        const bool there = (n >= length && memcmp(text, s->to, length) == 0) || text[0] == ' ';
        const bool wanted = s->prefix == PREFIX_ALWAYS || (s->prefix == PREFIX_FIRST && at_start);
        if (wanted && !there) text_append(&made, s->to, length);
        replace_all(&made, text, n, " ", s->to);
    } else if (s->kind == STEP_BYTES && s->prefix != PREFIX_NEVER && text[0] != ' ') {
        text_append(&made, " ", 1);
        text_append(&made, text, n);
    }
    if (made.failed) e->failed = true;
    const char *now = made.bytes ? made.bytes : text;
    const size_t now_n = made.bytes ? made.n : n;
    /* 2. the split */
    if (s->kind == STEP_BYTES && !s->pattern)
        split_bytes(e, step + 1, now, now_n);
    else if (s->kind == STEP_METASPACE && s->matches == KEEP_NONE)
        split_piece(e, step + 1, now, now_n, at_start);
    else
        split_matches(e, step, now, (int64_t)now_n, at_start);
    free(made.bytes);
}

/* ---- added tokens ---- */

/* The longest token of a tree at the start of a text, or -1; *length gets its bytes. */
static int32_t find_token(const token_tree *tree, const char *text, size_t n, size_t *length) {
    int32_t node = 0, found = -1;
    for (size_t i = 0; i < n && tree->n > 0; i++) {
        int32_t child = tree->nodes[node].child;
        while (child > 0 && tree->nodes[child].byte != (unsigned char)text[i]) child = tree->nodes[child].sibling;
        if (child <= 0) break;
        node = child;
        if (tree->nodes[node].token >= 0) {
            found = tree->nodes[node].token;
            *length = i + 1;
        }
    }
    return found;
}

/* \w: letters, marks, digits, connectors, letters in circles and squares. */
static bool is_word_code(uint32_t code) {
    static const char *const names[] = {"L", "M", "Nd", "Pc", "Nl"};
    uint32_t mask = 0;
    for (int i = 0; i < 5; i++) mask |= unicode_mask(names[i], strlen(names[i]));
    return (unicode_category(code) & mask) != 0 || code == 0x200C || code == 0x200D ||
           (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F189);
}

/* Begin of the last character before at > 0. */
static size_t character_before(const char *text, size_t at) {
    for (at--; at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80;) at--;
    return at;
}

/* Whether a token at [begin, end) counts, and how far it reaches over white space; `from` is where the one before ends,
 * which may have reached over this one: what takes white space then begins there, and has nothing where it is none. */
static bool token_extent(const added_token *token, const char *text, size_t n, size_t from, size_t *begin,
                         size_t *end) {
    int length;
    if (token->single_word) {
        if (*begin > 0 && is_word_code(utf8_code(text + character_before(text, *begin), &length))) return false;
        if (*end < n && is_word_code(utf8_code(text + *end, &length))) return false;
    }
    if (token->takes_left) *begin = *begin < from ? from : *begin;
    while (token->takes_left && *begin > from) {
        const size_t before = character_before(text, *begin);
        if (!unicode_is_space(utf8_code(text + before, &length))) break;
        *begin = before;
    }
    while (token->takes_right && *end < n && unicode_is_space(utf8_code(text + *end, &length))) *end += (size_t)length;
    return *begin < *end;
}

/* Added tokens of the raw text, then (normal) of what lies between them once it is normalised; the rest is split. */
static void encode_part(encoding *e, bool normal, const char *text, size_t n, bool at_start) {
    const token_tree *tree = normal ? &e->json->normalized : &e->json->raw;
    size_t from = 0;
    for (size_t at = 0; at <= n && !e->failed && !e->out->failed;) {
        size_t length = 0, begin = at, end = n;
        const int32_t found = at < n ? find_token(tree, text + at, n - at, &length) : -1;
        if (at < n && found < 0) {
            at++;
            continue;
        }
        if (found >= 0) {
            end = at + length;
            at = end; /* tokens that do not count are passed over as well */
            if (!token_extent(&e->json->added[found], text, n, from, &begin, &end)) continue;
        }
        if (begin > from && normal) {
            split_piece(e, 0, text + from, begin - from, at_start && from == 0);
        } else if (begin > from) {
            text_buffer made = {0};
            tokenizer_normalise(e->json, text + from, begin - from, &made);
            if (made.failed)
                e->failed = true;
            else
                encode_part(e, true, made.bytes, made.n, at_start && from == 0);
            free(made.bytes);
        }
        if (found < 0) break;
        id_list_add(e->out, e->json->added[found].id);
        from = end;
    }
}

int tokenizer_json_encode(const tokenizer *t, const char *text, size_t n, bool bare, id_list *out) {
    const tokenizer_json *json = t->json;
    encoding e = {.t = t, .json = json, .out = out, .steps = 1000000 + 500 * (int64_t)n};
    text_buffer valid = {0};
    utf8_repair(&valid, text, n);
    if (n >= INT32_MAX / 8 || valid.failed) e.failed = true;
    for (int i = 0; i < json->n_before && !bare; i++) id_list_add(out, json->before[i]);
    if (!e.failed) encode_part(&e, false, valid.bytes, valid.n, true);
    for (int i = 0; i < json->n_behind && !bare; i++) id_list_add(out, json->behind[i]);
    free(valid.bytes);
    bpe_free_scratch(&e.scratch);
    return e.failed || out->failed ? -1 : 0;
}
