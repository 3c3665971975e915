/* fuzz_bin.c - any bytes as a tokenizer.bin, and then a text behind the last byte 0xFE, where there is one: refused with
 * a message that names the file, or the text has ids that the tokenizer has, and they spell it. */
#include "place.h"
#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char text[256] = "It's 123 caf\xC3\xA9\n", message[512] = "";
    size_t n = size;
    while (n > 0 && data[n - 1] != 0xFE) n--;
    if (n > 0) {
        const size_t length = size - n < sizeof text - 1 ? size - n : sizeof text - 1;
        memcpy(text, data + n, length);
        text[length] = '\0';
        size = n - 1;
    }
    place_make();
    place_write("tokenizer.bin", data, size);
    tokenizer *t;
    if (tokenizer_load(&t, place_path("tokenizer.bin"), message, sizeof message) != 0) {
        MUST(!t && strstr(message, "tokenizer.bin"));
        return 0;
    }
    int64_t count = 0;
    int32_t *ids = tokenizer_encode_new(t, text, &count);
    for (int64_t i = 0; ids && i < count; i++) MUST(ids[i] >= 0 && ids[i] < tokenizer_size(t));
    for (int32_t id = -1; id <= tokenizer_size(t); id++) {
        int32_t length = -1;
        const char *piece = tokenizer_piece(t, id, &length);
        MUST(!piece || (length >= 0 && piece[length] == '\0'));
    }
    free(ids);
    (void)tokenizer_first_id(t, text);
    tokenizer_destroy(t);
    return 0;
}
