/* tokenizer_regex.h - the regular expressions by which tokenizers split text: what of them occurs in their files. */
#ifndef SALF_EXAMPLE_TOKENIZER_REGEX_H
#define SALF_EXAMPLE_TOKENIZER_REGEX_H

#include <stddef.h>
#include <stdint.h>

/* Understood are alternatives, groups (also (?i: ) ), (?= ), (?! ), characters, ., [ ] with ranges, \s \d \p{L} and
 * their opposites, ? * + {m} {m,n} and possessive forms of the first three. */
typedef struct regex regex;

/* Returns 0, or -1 with *out NULL and a message that says what is not understood ("out of memory" among it). An
 * expression that matches the empty text is refused. */
int regex_compile(regex **out, const char *pattern, size_t n, char *message, size_t message_size);
void regex_destroy(regex *r);

/* First match at or behind `from` of a valid UTF-8 text [n], found as a backtracking matcher does: the first
 * alternative that fits. Returns its begin with *end set, n when there is none, -1 when it takes more than *steps
 * steps, which are counted down. */
int64_t regex_find(const regex *r, const char *text, int64_t n, int64_t from, int64_t *end, int64_t *steps);

#endif
