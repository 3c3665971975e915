/*
 * labels.c - lists of tokens: checked, sorted, searched. A label is a token's id, which is also its row in the head
 * [V][D]; rows from the valid vocabulary on are padding and belong to no token.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "basis/basis.h"

/* Padding has a status of its own: it is what a tokenizer larger than its model gives, and easy to take for a token. */
salf_status slf_label_check(int32_t label, int64_t vocab, int64_t padded_vocab) {
    if (label >= 0 && label < vocab) return SALF_OK;
    if (label >= 0 && label < padded_vocab)
        return slf_fail(SALF_E_PADDING, "label %" PRId32 " is on a padding row; the vocabulary ends at %" PRId64, label,
                        vocab - 1);
    return slf_fail(SALF_E_LABEL, "label %" PRId32 " is outside the vocabulary of %" PRId64 " tokens", label, vocab);
}

/* Removes repeats in the same pass over the sorted list, since each distinct label costs a D x D product. */
int64_t slf_labels_sort(int32_t *labels, int64_t n) {
    int64_t unique = 0;
    if (n > 0) qsort(labels, (size_t)n, sizeof *labels, slf_order_i32);
    for (int64_t i = 0; i < n; i++)
        if (unique == 0 || labels[i] != labels[unique - 1]) labels[unique++] = labels[i];
    return unique;
}

/* A list may be empty, but it is a list: a host that means all tokens asks for a table. */
salf_status slf_labels_unique(const salf_context *context, const int32_t *labels, int64_t n, int64_t vocab,
                              int64_t padded_vocab, int32_t **out, int64_t *n_out) {
    if (n < 0) return slf_fail(SALF_E_ARGUMENT, "a list of %" PRId64 " labels", n);
    if (n > 0 && !labels) return slf_fail(SALF_E_NULL, "labels is NULL with %" PRId64 " labels", n);
    for (int64_t i = 0; i < n; i++) SLF_TRY(slf_label_check(labels[i], vocab, padded_vocab));
    int32_t *sorted;
    SLF_TRY(SLF_ALLOC(context, sorted, n));
    if (n > 0) memcpy(sorted, labels, (size_t)n * sizeof *sorted);
    *out = sorted;
    *n_out = slf_labels_sort(sorted, n);
    return SALF_OK;
}

/* By halves. A batch's labels are looked up once each, and there may be as many as tokens. */
int64_t slf_label_find(const int32_t *labels, int64_t n, int32_t label) {
    int64_t low = 0, high = n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (labels[middle] < label)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && labels[low] == label ? low : -1;
}
