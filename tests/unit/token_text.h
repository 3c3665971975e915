/* token_text.h - the text that ids stand for, for tests that encode: the program itself never needs it. */
#ifndef SALF_TEST_TOKEN_TEXT_H
#define SALF_TEST_TOKEN_TEXT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"
#include "unit/harness.h"

/* Freed by the caller. One leading space after the start token is dropped; start, end and ids out of range print
 * nothing; byte pieces, named <0x00> to <0xFF>, print their byte. */
static char *token_text(const tokenizer *t, const int32_t *ids, int64_t n) {
    size_t room = 1, used = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t length = 0;
        if (tokenizer_piece(t, ids[i], &length)) room += (size_t)length;
    }
    char *text = malloc(room);
    ck_assert_ptr_nonnull(text);
    for (int64_t i = 0; i < n; i++) {
        int32_t length = 0;
        unsigned byte;
        const char *piece = tokenizer_piece(t, ids[i], &length);
        if (!piece || ids[i] == TOKEN_START || ids[i] == TOKEN_END) continue;
        if (length == 6 && sscanf(piece, "<0x%2X>", &byte) == 1) {
            text[used++] = (char)(unsigned char)byte;
            continue;
        }
        const int32_t drop = i > 0 && ids[i - 1] == TOKEN_START && length > 0 && piece[0] == ' ';
        memcpy(text + used, piece + drop, (size_t)(length - drop));
        used += (size_t)(length - drop);
    }
    text[used] = 0;
    return text;
}

#endif
