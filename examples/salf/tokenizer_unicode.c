/* tokenizer_unicode.c - UTF-8, general categories by bisection over runs of characters, and normalisation form C: take
 * characters apart as far as they go, order combining marks by class, put together what was not taken by something in
 * between (Unicode Standard Annex 15). Hangul is computed. */
#include "tokenizer_unicode.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer_categories.h"
#include "tokenizer_normal.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

void text_append(text_buffer *t, const char *bytes, size_t n) {
    if (t->room - t->n < n + 1) {
        const size_t room = 2 * (t->n + n) + 64;
        char *larger = t->failed ? NULL : realloc(t->bytes, room);
        if (!larger) {
            t->failed = true;
            return;
        }
        t->bytes = larger;
        t->room = room;
    }
    if (n > 0) memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    t->bytes[t->n] = 0;
}

void text_append_code(text_buffer *t, uint32_t code) {
    char s[4];
    if (code < 0x80) {
        s[0] = (char)code;
        text_append(t, s, 1);
        return;
    }
    const int n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, code >>= 6) s[i] = (char)(0x80 | (code & 0x3F));
    s[0] = (char)((0xF0u << (4 - n)) | code); /* the first byte begins with as many ones as there are bytes */
    text_append(t, s, (size_t)n);
}

uint32_t utf8_code(const char *s, int *length) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *length = 1;
        return u[0];
    }
    *length = u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    uint32_t code = u[0] & (0x7Fu >> *length);
    for (int i = 1; i < *length; i++) code = code << 6 | (u[i] & 0x3Fu);
    return code;
}

/* Overlong forms, surrogates and numbers above U+10FFFF are not valid. */
int utf8_length(const char *s, size_t n) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *u = (const unsigned char *)s;
    const int length = u[0] < 0x80 ? 1 : u[0] < 0xC2 ? 0 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : u[0] < 0xF5 ? 4 : 0;
    if ((size_t)length > n) return 0;
    for (int k = 1; k < length; k++)
        if ((u[k] & 0xC0) != 0x80) return 0;
    int same;
    const uint32_t code = length > 1 ? utf8_code(s, &same) : 0;
    return code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : length;
}

void utf8_repair(text_buffer *out, const char *s, size_t n) {
    text_append(out, "", 0);
    for (size_t i = 0; i < n;) {
        const int length = utf8_length(s + i, n - i);
        text_append(out, length ? s + i : "\xEF\xBF\xBD", length ? (size_t)length : 3);
        i += length ? (size_t)length : 1;
    }
}

/* ---- categories ---- */

/* The last run that begins at or before a code; the lowest `shift` bits of a run are its value. */
static uint32_t run_value(const uint32_t *runs, size_t n, uint32_t code, int shift) {
    size_t low = 0, high = n;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (runs[middle] >> shift <= code)
            low = middle;
        else
            high = middle;
    }
    return runs[low] & ((1u << shift) - 1);
}

uint32_t unicode_category(uint32_t code) {
    return 1u << run_value(category_runs, COUNT(category_runs), code, 5);
}

uint32_t unicode_mask(const char *name, size_t length) {
    uint32_t mask = 0;
    for (size_t i = 0; i < COUNT(category_names); i++)
        if (length > 0 && length <= 2 && strncmp(category_names[i], name, length) == 0) mask |= 1u << i;
    return mask;
}

bool unicode_is_space(uint32_t c) {
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

/* ---- composed form ---- */

/* Hangul syllables are made of a leading consonant, a vowel and perhaps a trailing consonant, by a formula. */
enum { HANGUL = 0xAC00, LEADING = 0x1100, VOWEL = 0x1161, TRAILING = 0x11A7, VOWELS = 21, TRAILINGS = 28 };
enum { SYLLABLES = 19 * VOWELS * TRAILINGS };

typedef struct {
    uint32_t *codes;
    size_t n, room;
    bool failed;
} code_list;

static void add_code(code_list *list, uint32_t code) {
    if (list->n == list->room) {
        const size_t room = 2 * list->room + 64;
        uint32_t *larger = list->failed ? NULL : realloc(list->codes, room * sizeof *larger);
        if (!larger) {
            list->failed = true;
            return;
        }
        list->codes = larger;
        list->room = room;
    }
    list->codes[list->n++] = code;
}

static uint32_t combining_class(uint32_t code) {
    return code < 0x300 ? 0 : run_value(class_runs, COUNT(class_runs), code, 8);
}

/* Adds what a character stands for, taken apart as far as it goes. The depth is that of the longest chain, 3. */
static void decompose(code_list *list, uint32_t code) {
    if (code >= HANGUL && code < HANGUL + SYLLABLES) {
        const uint32_t i = code - HANGUL;
        add_code(list, LEADING + i / (VOWELS * TRAILINGS));
        add_code(list, VOWEL + i % (VOWELS * TRAILINGS) / TRAILINGS);
        if (i % TRAILINGS) add_code(list, TRAILING + i % TRAILINGS);
        return;
    }
    size_t low = 0, high = COUNT(decomposed);
    while (code >= 0xC0 && high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (decomposed[middle] >> 1 <= code)
            low = middle;
        else
            high = middle;
    }
    if (code < 0xC0 || decomposed[low] >> 1 != code) {
        add_code(list, code);
        return;
    }
    decompose(list, decomposed_parts[2 * low]);
    if (decomposed_parts[2 * low + 1]) decompose(list, decomposed_parts[2 * low + 1]);
}

/* The character that two make together; 0: none. The table is not sorted by pairs: a walk over all of it, which only
 * characters that combine with one before pay for. */
static uint32_t compose_pair(uint32_t a, uint32_t b) {
    if (a >= LEADING && a < LEADING + 19 && b >= VOWEL && b < VOWEL + VOWELS)
        return HANGUL + ((a - LEADING) * VOWELS + (b - VOWEL)) * TRAILINGS;
    if (a >= HANGUL && a < HANGUL + SYLLABLES && (a - HANGUL) % TRAILINGS == 0 && b > TRAILING &&
        b < TRAILING + TRAILINGS)
        return a + (b - TRAILING);
    /* Of class 0, only vowel signs of Indic scripts are second ones: the walk is for those and for marks. */
    if (combining_class(b) == 0 && (b < 0x9BE || (b > 0x1B35 && b < 0x11127))) return 0;
    for (size_t i = 0; i < COUNT(decomposed); i++)
        if (decomposed_parts[2 * i] == a && decomposed_parts[2 * i + 1] == b && !(decomposed[i] & 1))
            return decomposed[i] >> 1;
    return 0;
}

/* Marks behind a character of class 0 are sorted by class, equal ones left in their order: by insertion up to a length
 * that text has, by merging beyond, so that a text of marks only does not take the square of its length. */
static void sort_marks(uint32_t *codes, uint32_t *scratch, size_t n) {
    if (n > 16) {
        sort_marks(codes, scratch, n / 2);
        sort_marks(codes + n / 2, scratch, n - n / 2);
        memcpy(scratch, codes, n * sizeof *codes);
        for (size_t i = 0, a = 0, b = n / 2; i < n; i++) {
            const bool left = b == n || (a < n / 2 && combining_class(scratch[a]) <= combining_class(scratch[b]));
            codes[i] = scratch[left ? a++ : b++];
        }
        return;
    }
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k > 0 && combining_class(codes[k - 1]) > combining_class(codes[k]); k--) {
            const uint32_t code = codes[k];
            codes[k] = codes[k - 1];
            codes[k - 1] = code;
        }
}

void unicode_compose(text_buffer *out, const char *s, size_t n) {
    size_t plain = 0;
    code_list list = {0};
    /* 1. Latin letters with marks composed already, and all before them, are what they are */
    while (plain < n && ((unsigned char)s[plain] < 0xCC)) plain++;
    if (plain == n) {
        text_append(out, s, n);
        return;
    }
    /* 2. apart, and marks in order */
    for (size_t i = 0; i < n;) {
        int length;
        decompose(&list, utf8_code(s + i, &length));
        i += (size_t)length;
    }
    uint32_t *scratch = malloc((list.n + 1) * sizeof *scratch);
    if (list.failed || !scratch) {
        out->failed = true;
        list.n = 0;
    }
    for (size_t i = 0, end; i < list.n; i = end) {
        for (end = i; end < list.n && combining_class(list.codes[end]) != 0;) end++;
        if (end > i + 1) sort_marks(list.codes + i, scratch, end - i);
        if (end == i) end++;
    }
    /* 3. together: a character joins the last one of class 0 unless one in between has its class, or one of class 0 */
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < list.n; i++) {
        const uint32_t code = list.codes[i], rank = combining_class(code);
        const uint32_t before = kept > 0 ? combining_class(list.codes[kept - 1]) : 0;
        const bool next = starter != SIZE_MAX && starter + 1 == kept; /* nothing in between */
        const bool free_way = starter != SIZE_MAX && (next || (before < rank && before != 0));
        const uint32_t made = free_way ? compose_pair(list.codes[starter], code) : 0;
        if (made) {
            list.codes[starter] = made;
            continue;
        }
        if (rank == 0) starter = kept;
        list.codes[kept++] = code;
    }
    for (size_t i = 0; i < kept; i++) text_append_code(out, list.codes[i]);
    free(scratch);
    free(list.codes);
}
