/* fingerprint.c - the fingerprint of a row in host memory. */
#include "core/fingerprint.h"

#include <string.h>

uint64_t slf_row_hash(const float *row, int64_t cols, int64_t row_id) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < cols; i++) {
        uint32_t bits;
        memcpy(&bits, row + i, sizeof bits);
        sum += slf_hash_element(bits, i);
    }
    return slf_hash_row(sum, row_id);
}
