/* fuzz_tokens.c - any bytes as a tokenizer.json: refused with a message, or a number of tokens that makes sense. */
#include <stdlib.h>

#include "io/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int64_t tokens = -7;
    const salf_status status = slf_tokens_count_in(&tokens, data, size, "input");
    if (status == SALF_OK && (tokens < 1 || tokens > (int64_t)INT32_MAX + 1)) abort();
    if (status != SALF_OK && (tokens != -7 || salf_last_error()[0] == '\0')) abort();
    return 0;
}
