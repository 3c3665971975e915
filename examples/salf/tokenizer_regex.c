/* tokenizer_regex.c - see tokenizer_regex.h. An expression becomes a tree: alternatives of sequences of nodes. A node
 * is a set of characters that is repeated, a group, or a look at what follows. Matching tries alternatives in order and
 * gives back repeated characters one by one; the depth of calls is that of the tree, not that of the text. */
#include "tokenizer_regex.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer_unicode.h"

enum { DEEPEST = 16, PARTS_MOST = 80 };

/* Part of a set: characters of some categories or none of them, white space or none, a range. */
enum { PART_CATEGORIES, PART_OTHER_CATEGORIES, PART_SPACE, PART_NO_SPACE, PART_RANGE };
typedef struct {
    int kind;
    uint32_t low, high; /* the mask of categories in low */
} set_part;

enum { NODE_SET, NODE_GROUP, NODE_AHEAD, NODE_NOT_AHEAD };
typedef struct regex_node {
    int kind, n_parts;
    set_part parts[PARTS_MOST];
    bool negated, possessive;
    int32_t least, most; /* repetitions; most INT32_MAX: any number */
    struct regex *inner; /* of a group, or looked at */
} regex_node;

typedef struct {
    regex_node *nodes;
    int n;
} regex_sequence;

struct regex {
    regex_sequence *alternatives;
    int n;
};

void regex_destroy(regex *r) {
    for (int a = 0; r && a < r->n; a++) {
        for (int i = 0; i < r->alternatives[a].n; i++) regex_destroy(r->alternatives[a].nodes[i].inner);
        free(r->alternatives[a].nodes);
    }
    if (r) free(r->alternatives);
    free(r);
}

/* ---- compiling ---- */

typedef struct {
    const char *pattern, *at, *end;
    char *message;
    size_t message_size;
    int depth;
    uint32_t letter; /* the letter before, where any case of it is meant; 0: something else stands there */
} regex_parser;

static int refuse(regex_parser *p, const char *what) {
    snprintf(p->message, p->message_size, "%s at character %d of the pattern %.*s", what, (int)(p->at - p->pattern),
             (int)(p->end - p->pattern), p->pattern);
    return -1;
}

static bool next_is(const regex_parser *p, const char *text) {
    const size_t n = strlen(text);
    return (size_t)(p->end - p->at) >= n && memcmp(p->at, text, n) == 0;
}

static int add_part(regex_parser *p, regex_node *node, int kind, uint32_t low, uint32_t high) {
    if (node->n_parts == PARTS_MOST) return refuse(p, "too large a set");
    node->parts[node->n_parts++] = (set_part){kind, low, high};
    return 0;
}

/* A letter, and what is the same letter in another case: of those that occur after (?i: only s and k have one beyond
 * ASCII, the long s and the sign for kelvin. */
static int add_letter(regex_parser *p, regex_node *node, uint32_t code, bool any_case) {
    const uint32_t lower = code | 32;
    if (!any_case || lower < 'a' || lower > 'z' || code > 'z') {
        if (any_case && code > 127) return refuse(p, "a letter beyond ASCII in any case");
        return add_part(p, node, PART_RANGE, code, code);
    }
    if (add_part(p, node, PART_RANGE, lower, lower) || add_part(p, node, PART_RANGE, lower - 32, lower - 32)) return -1;
    if (lower == 's') return add_part(p, node, PART_RANGE, 0x17F, 0x17F);
    if (lower == 'k') return add_part(p, node, PART_RANGE, 0x212A, 0x212A);
    return 0;
}

/* A letter that stands by itself. In any case, the two of ss, st, ff, fi and fl are one character as well (U+00DF,
 * U+FB06, ...), for which the package's engine has rules of its own. */
static int add_literal(regex_parser *p, regex_node *node, uint32_t code, bool any_case) {
    static const char pairs[] = "ss st ff fi fl";
    const uint32_t letter = any_case ? code | 32 : 0;
    for (size_t i = 0; i < sizeof pairs; i += 3)
        if (p->letter == (uint32_t)pairs[i] && letter == (uint32_t)pairs[i + 1])
            return refuse(p, "two letters that in another case may be one");
    p->letter = letter;
    return add_letter(p, node, code, any_case);
}

/* What follows a backslash: a set, or one character, which *code gets (else it stays what it is). */
static int read_escape(regex_parser *p, regex_node *node, uint32_t *code) {
    static const char plain[] = "rntfv";
    static const char meant[] = "\r\n\t\f\v";
    if (p->at == p->end) return refuse(p, "a backslash");
    const char c = *p->at++;
    if (c == 's') return add_part(p, node, PART_SPACE, 0, 0);
    if (c == 'S') return add_part(p, node, PART_NO_SPACE, 0, 0);
    if (c == 'd' || c == 'D')
        return add_part(p, node, c == 'd' ? PART_CATEGORIES : PART_OTHER_CATEGORIES, unicode_mask("Nd", 2), 0);
    if (c == 'p' || c == 'P') {
        const char *close = p->at < p->end && *p->at == '{' ? memchr(p->at, '}', (size_t)(p->end - p->at)) : NULL;
        const bool opposite = close && p->at[1] == '^';
        const char *name = p->at + 1 + opposite;
        const uint32_t mask = close ? unicode_mask(name, (size_t)(close - name)) : 0;
        if (!mask) return refuse(p, "an unknown \\p");
        p->at = close + 1;
        return add_part(p, node, (c == 'P') != opposite ? PART_OTHER_CATEGORIES : PART_CATEGORIES, mask, 0);
    }
    if (strchr(plain, c)) {
        *code = (uint32_t)(unsigned char)meant[strchr(plain, c) - plain];
        return 0;
    }
    if ((unsigned char)c >= 128 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'))
        return refuse(p, "an unknown escape");
    *code = (uint32_t)c;
    return 0;
}

static uint32_t read_code(regex_parser *p) {
    int length;
    const uint32_t code = utf8_code(p->at, &length);
    p->at += length;
    return code;
}

/* [ ... ], behind the first bracket. */
static int read_set(regex_parser *p, regex_node *node, bool any_case) {
    if (next_is(p, "^")) {
        p->at++;
        node->negated = true;
    }
    for (bool first = true; p->at < p->end && (first || *p->at != ']'); first = false) {
        uint32_t low = UINT32_MAX, high;
        if (next_is(p, "[") || next_is(p, "&&")) return refuse(p, "a set in a set");
        if (next_is(p, "]")) return refuse(p, "an empty set");
        /* Those of letters in one case gain the others, and so does the mark U+0345, which is a letter in capitals. */
        if (any_case && (next_is(p, "\\p") || next_is(p, "\\P"))) return refuse(p, "categories of a set in any case");
        if (next_is(p, "\\")) {
            p->at++;
            if (read_escape(p, node, &low)) return -1;
            if (low == UINT32_MAX) continue;
        } else {
            low = read_code(p);
        }
        if (!next_is(p, "-") || next_is(p, "-]")) {
            if (add_letter(p, node, low, any_case)) return -1;
            continue;
        }
        p->at++;
        high = UINT32_MAX;
        if (p->at == p->end) break;
        if (next_is(p, "\\")) {
            p->at++;
            if (read_escape(p, node, &high)) return -1;
        } else {
            high = read_code(p);
        }
        if (high == UINT32_MAX || high < low) return refuse(p, "a range that is none");
        if (any_case) return refuse(p, "a range in any case");
        if (add_part(p, node, PART_RANGE, low, high)) return -1;
    }
    if (p->at == p->end) return refuse(p, "a set without an end");
    p->at++;
    return 0;
}

/* How often: none of these is once. */
static int read_repetition(regex_parser *p, regex_node *node) {
    node->least = node->most = 1;
    if (p->at == p->end || !strchr("?*+{", *p->at)) return 0;
    const bool counted = *p->at == '{';
    if (node->kind == NODE_AHEAD || node->kind == NODE_NOT_AHEAD) return refuse(p, "a repeated look ahead");
    if (counted) {
        int used = 0;
        int least, most;
        char text[32];
        snprintf(text, sizeof text, "%.*s", (int)(p->end - p->at < 31 ? p->end - p->at : 31), p->at);
        /* with anything else inside, these brackets stand for themselves */
        if (text[1 + strspn(text + 1, "0123456789,")] != '}') return refuse(p, "an unknown repetition");
        if (sscanf(text, "{%4d}%n", &least, &used) == 1 && used > 0)
            most = least;
        else if (!(sscanf(text, "{%4d,%4d}%n", &least, &most, &used) == 2 && used > 0)) {
            most = INT32_MAX;
            if (!(sscanf(text, "{%4d,}%n", &least, &used) == 1 && used > 0)) return refuse(p, "an unknown repetition");
        }
        if (least < 0 || most < least || most == 0) return refuse(p, "a repetition that is none");
        node->least = least;
        node->most = most;
        p->at += used;
    } else {
        node->least = *p->at == '+';
        node->most = *p->at == '?' ? 1 : INT32_MAX;
        p->at++;
    }
    if (node->kind == NODE_GROUP && node->most > 1) return refuse(p, "a repeated group");
    if (next_is(p, "?")) return refuse(p, "a repetition that takes the least");
    if (p->at < p->end && strchr("*{", *p->at)) return refuse(p, "a repetition of a repetition");
    if (next_is(p, "+")) {
        if (counted) return refuse(p, "a repetition of a repetition");
        p->at++;
        node->possessive = true;
    }
    p->letter = 0;
    return 0;
}

static int read_alternatives(regex_parser *p, regex **out, bool any_case);

/* One node, at p->at; it belongs to the tree at once, half made or not. */
static int read_node(regex_parser *p, regex_node *node, bool any_case) {
    node->kind = NODE_SET;
    if (*p->at == '(') {
        node->kind = NODE_GROUP;
        if (next_is(p, "(?:")) {
            p->at += 3;
        } else if (next_is(p, "(?i:")) {
            p->at += 4;
            any_case = true;
        } else if (next_is(p, "(?=")) {
            p->at += 3;
            node->kind = NODE_AHEAD;
        } else if (next_is(p, "(?!")) {
            p->at += 3;
            node->kind = NODE_NOT_AHEAD;
        } else if (next_is(p, "(?")) {
            return refuse(p, "an unknown group");
        } else {
            p->at++;
        }
        if (read_alternatives(p, &node->inner, any_case)) return -1;
        if (!next_is(p, ")")) return refuse(p, "a group without an end");
        p->at++;
    } else if (*p->at == '[') {
        p->at++;
        p->letter = 0;
        if (read_set(p, node, any_case)) return -1;
    } else if (*p->at == '\\') {
        uint32_t code = UINT32_MAX;
        p->at++;
        if (read_escape(p, node, &code)) return -1;
        if (code == UINT32_MAX) p->letter = 0;
        if (code != UINT32_MAX && add_literal(p, node, code, any_case)) return -1;
    } else if (*p->at == '.') {
        p->at++;
        p->letter = 0;
        node->negated = true;
        if (add_part(p, node, PART_RANGE, '\n', '\n')) return -1;
    } else if (strchr("?*+{^$", *p->at)) {
        return refuse(p, "an unknown sign");
    } else if (add_literal(p, node, read_code(p), any_case)) {
        return -1;
    }
    return read_repetition(p, node);
}

/* Up to the end or a closing bracket. */
static int read_alternatives(regex_parser *p, regex **out, bool any_case) {
    regex *r = *out = calloc(1, sizeof *r);
    if (!r) return refuse(p, "out of memory");
    if (++p->depth > DEEPEST) return refuse(p, "too many groups in groups");
    for (;;) {
        regex_sequence *more = realloc(r->alternatives, (size_t)(r->n + 1) * sizeof *more);
        if (!more) return refuse(p, "out of memory");
        r->alternatives = more;
        regex_sequence *sequence = &more[r->n++];
        *sequence = (regex_sequence){0};
        if (r->n > 1) p->letter = 0; /* the first of a group goes on where the group stands */
        while (p->at < p->end && *p->at != '|' && *p->at != ')') {
            regex_node *nodes = realloc(sequence->nodes, (size_t)(sequence->n + 1) * sizeof *nodes);
            if (!nodes) return refuse(p, "out of memory");
            sequence->nodes = nodes;
            memset(&nodes[sequence->n], 0, sizeof *nodes);
            if (read_node(p, &nodes[sequence->n++], any_case)) return -1;
        }
        if (!next_is(p, "|")) break;
        p->at++;
    }
    p->depth--;
    return 0;
}

/* Whether some alternative can match nothing. */
static bool can_be_empty(const regex *r) {
    for (int a = 0; a < r->n; a++) {
        bool empty = true;
        for (int i = 0; i < r->alternatives[a].n; i++) {
            const regex_node *node = &r->alternatives[a].nodes[i];
            if (node->least > 0 && (node->kind == NODE_SET || (node->kind == NODE_GROUP && !can_be_empty(node->inner))))
                empty = false;
        }
        if (empty) return true;
    }
    return false;
}

int regex_compile(regex **out, const char *pattern, size_t n, char *message, size_t message_size) {
    regex_parser p = {pattern, pattern, pattern + n, message, message_size, 0, 0};
    int failed = read_alternatives(&p, out, false);
    if (!failed && p.at < p.end) failed = refuse(&p, "a closing bracket");
    if (!failed && can_be_empty(*out)) failed = refuse(&p, "nothing that has to be there");
    if (!failed) return 0;
    regex_destroy(*out);
    *out = NULL;
    return -1;
}

/* ---- matching ---- */

/* What has to match behind a group: the rest of the sequence that it stands in. */
typedef struct regex_rest {
    const regex_sequence *sequence;
    int next;
    const struct regex_rest *after;
} regex_rest;

typedef struct {
    const char *text;
    int64_t n;
    int64_t *steps;
} regex_run;

static bool set_has(const regex_node *node, uint32_t code) {
    bool found = false;
    for (int i = 0; i < node->n_parts && !found; i++) {
        const set_part *part = &node->parts[i];
        if (part->kind == PART_RANGE)
            found = code >= part->low && code <= part->high;
        else if (part->kind == PART_SPACE || part->kind == PART_NO_SPACE)
            found = unicode_is_space(code) == (part->kind == PART_SPACE);
        else
            found = !!(unicode_category(code) & part->low) == (part->kind == PART_CATEGORIES);
    }
    return found != node->negated;
}

static int64_t match_any(const regex_run *run, const regex *r, int64_t at, const regex_rest *after);

/* Nodes from i on at `at`, then what is after. Returns the end of the match, or -1. */
static int64_t match_sequence(const regex_run *run, const regex_sequence *sequence, int i, int64_t at,
                              const regex_rest *after) {
    for (; i < sequence->n; i++) {
        const regex_node *node = &sequence->nodes[i];
        const regex_rest rest = {sequence, i + 1, after};
        if (--*run->steps < 0) return -1;
        if (node->kind == NODE_AHEAD || node->kind == NODE_NOT_AHEAD) {
            if ((match_any(run, node->inner, at, NULL) >= 0) != (node->kind == NODE_AHEAD)) return -1;
            continue;
        }
        if (node->kind == NODE_GROUP) { /* at most once; possessive: as it matched first */
            const int64_t end = match_any(run, node->inner, at, node->possessive ? NULL : &rest);
            if (end >= 0 && !node->possessive) return end;
            if (end < 0 && node->least > 0) return -1;
            if (end >= 0) at = end;
            continue;
        }
        /* a set: as many as there are, then fewer until the rest fits */
        const int64_t first = at;
        int32_t count = 0;
        int64_t least_end = node->least == 0 ? at : -1;
        while (count < node->most && at < run->n) {
            int length;
            if (!set_has(node, utf8_code(run->text + at, &length))) break;
            at += length;
            if (++count == node->least) least_end = at;
            --*run->steps;
        }
        if (least_end < 0) return -1;
        if (node->possessive || at == least_end) continue;
        for (; at > least_end && *run->steps >= 0; --*run->steps) {
            const int64_t end = match_sequence(run, sequence, i + 1, at, after);
            if (end >= 0) return end;
            for (at--; at > first && ((unsigned char)run->text[at] & 0xC0) == 0x80;) at--;
        }
    }
    return after ? match_sequence(run, after->sequence, after->next, at, after->after) : at;
}

static int64_t match_any(const regex_run *run, const regex *r, int64_t at, const regex_rest *after) {
    int64_t end = -1;
    for (int a = 0; a < r->n && end < 0 && *run->steps >= 0; a++)
        end = match_sequence(run, &r->alternatives[a], 0, at, after);
    return end;
}

int64_t regex_find(const regex *r, const char *text, int64_t n, int64_t from, int64_t *end, int64_t *steps) {
    const regex_run run = {text, n, steps};
    for (int64_t at = from; at < n;) {
        int length;
        *end = match_any(&run, r, at, NULL);
        if (*steps < 0) return -1;
        if (*end > at) return at;
        utf8_code(text + at, &length);
        at += length;
    }
    return n;
}
