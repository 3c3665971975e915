/* payload.h - a payload of a test's own, to be saved behind a right header and checksum: bytes that lie. */
#ifndef SALF_TEST_PAYLOAD_H
#define SALF_TEST_PAYLOAD_H

#include "core/blob.h"

typedef struct payload {
    uint8_t bytes[4096];
    uint64_t size;
} payload;

static inline salf_status write_payload(void *user, slf_blob *blob) {
    payload *p = user;
    slf_blob_bytes(blob, p->bytes, p->size);
    return SALF_OK;
}

#endif
