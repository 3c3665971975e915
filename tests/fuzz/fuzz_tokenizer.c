/* fuzz_tokenizer.c - any bytes as a tokenizer.json, and as a text: refused with a message, or every text has ids that
 * the tokenizer has. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const tokenizer *t, const char *text, size_t n) {
    id_list list = {0};
    (void)tokenizer_json_encode(t, text, n, false, &list); /* a pattern may take too long */
    for (int64_t i = 0; i < list.n; i++)
        if (list.ids[i] < 0 || list.ids[i] >= t->size || !t->pieces[list.ids[i]].bytes) abort();
    free(list.ids);
}

/* The text behind a byte 0 is encoded, where there is one, and taken for the file beside; else some that reach into
 * every step. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char sample[] = "It's 123 caf\xC3\xA9 e\xCC\x81\n\n  <s> \xF0\x9F\x98\x80\xFF b";
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    const size_t n = end ? (size_t)(end - data) : size;
    char message[256] = "";
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) abort();
    if (tokenizer_json_read(t, (const char *)data, n, message, sizeof message) == 0) {
        encode(t, sample, sizeof sample - 1);
        if (end) encode(t, (const char *)end + 1, size - n - 1);
        const char *beside = end ? (const char *)end + 1 : (const char *)data; /* tokenizer_config.json */
        if (tokenizer_json_check_config(t, beside, end ? size - n - 1 : n, message, sizeof message) && !message[0])
            abort();
    } else if (message[0] == '\0') {
        abort();
    }
    tokenizer_destroy(t);
    return 0;
}
