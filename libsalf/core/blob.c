/*
 * blob.c - saved state of handles as bytes: written once to measure, once for real, with a header in front (described
 * in docs/formats.md). The checksum finds damage; it is no defence against an adversary, so readers check every value
 * all the same.
 */
#include <string.h>

#include "core/blob.h"

#define STATE_VERSION 1u
#define HEADER_SIZE   32u

static uint64_t checksum_add(uint64_t sum, const uint8_t *bytes, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) sum = (sum ^ bytes[i]) * 0x100000001B3u;
    return sum;
}

/* FNV-1a over the header up to the checksum, and the payload. */
static uint64_t checksum_of(const uint8_t *header, const uint8_t *payload, uint64_t n) {
    return checksum_add(checksum_add(0xCBF29CE484222325u, header, HEADER_SIZE - 8), payload, n);
}

void slf_blob_put(slf_blob *blob, const void *bytes, uint64_t n) {
    if (blob->bytes && !blob->short_of_room) {
        if (n > blob->room - blob->used)
            blob->short_of_room = true;
        else if (n != 0)
            memcpy(blob->bytes + blob->used, bytes, (size_t)n);
    }
    if (!blob->short_of_room) blob->used += n;
}

void slf_blob_put_u64(slf_blob *blob, uint64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(value >> 8 * i);
    slf_blob_put(blob, bytes, sizeof bytes);
}

uint64_t slf_bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void slf_blob_put_f64(slf_blob *blob, double value) {
    slf_blob_put_u64(blob, slf_bits_of(value));
}

void slf_blob_get(slf_blob *blob, void *bytes, uint64_t n) {
    if (blob->short_of_room || n > blob->room - blob->used) {
        blob->short_of_room = true;
        if (n != 0) memset(bytes, 0, (size_t)n);
        return;
    }
    if (n != 0) memcpy(bytes, blob->bytes + blob->used, (size_t)n);
    blob->used += n;
}

uint64_t slf_blob_get_u64(slf_blob *blob) {
    uint8_t bytes[8];
    slf_blob_get(blob, bytes, sizeof bytes);
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

double slf_blob_get_f64(slf_blob *blob) {
    const uint64_t bits = slf_blob_get_u64(blob);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void slf_blob_put_fields(slf_blob *blob, const slf_field *fields, int n) {
    for (int i = 0; i < n; i++) slf_blob_put_u64(blob, fields[i].value);
}

salf_status slf_blob_check_fields(slf_blob *blob, const slf_field *fields, int n, const char *function,
                                  const char *handle) {
    for (int i = 0; i < n; i++) {
        const uint64_t saved = slf_blob_get_u64(blob);
        if (saved != fields[i].value && !blob->short_of_room)
            return slf_fail(SALF_E_MISMATCH, "%s: %s is %llu in the state, %llu in this %s", function, fields[i].name,
                            (unsigned long long)saved, (unsigned long long)fields[i].value, handle);
    }
    return SALF_OK;
}

/* Header without the checksum into bytes [HEADER_SIZE]. */
static void write_header(uint8_t *bytes, const char kind[4], uint64_t length) {
    slf_blob header = {.bytes = bytes, .room = HEADER_SIZE};
    slf_blob_put(&header, "SALF", 4);
    slf_blob_put(&header, kind, 4);
    slf_blob_put_u64(&header, STATE_VERSION);
    slf_blob_put_u64(&header, length);
}

salf_status slf_blob_save(const char kind[4], slf_blob_write_fn write, const void *user, void *buffer, uint64_t *size) {
    slf_blob count = {0};
    write(user, &count);
    const uint64_t whole = HEADER_SIZE + count.used;
    if (!buffer) {
        *size = whole;
        return SALF_OK;
    }
    if (*size < whole)
        return slf_fail(SALF_E_BUFFER, "state needs %llu bytes, but the buffer has %llu", (unsigned long long)whole,
                        (unsigned long long)*size);
    uint8_t *bytes = buffer;
    slf_blob payload = {.bytes = bytes + HEADER_SIZE, .room = count.used};
    write(user, &payload);
    if (payload.short_of_room || payload.used != count.used)
        return slf_fail(SALF_E_INTERNAL, "state of %llu bytes became %llu while it was written",
                        (unsigned long long)count.used, (unsigned long long)payload.used);
    write_header(bytes, kind, count.used);
    slf_blob sum = {.bytes = bytes + HEADER_SIZE - 8, .room = 8};
    slf_blob_put_u64(&sum, checksum_of(bytes, bytes + HEADER_SIZE, count.used));
    *size = whole;
    return SALF_OK;
}

salf_status slf_blob_open(const char kind[4], const void *buffer, uint64_t size, slf_blob *payload) {
    if (size < HEADER_SIZE)
        return slf_fail(SALF_E_TRUNCATED, "state ends after %llu bytes, inside its header of %u",
                        (unsigned long long)size, HEADER_SIZE);
    uint8_t *bytes = (uint8_t *)(uintptr_t)buffer; /* a reader never writes */
    slf_blob header = {.bytes = bytes, .room = HEADER_SIZE, .used = 8};
    if (memcmp(bytes, "SALF", 4) != 0) return slf_fail(SALF_E_CORRUPT, "state does not begin with 'SALF'");
    const uint64_t version = slf_blob_get_u64(&header);
    if (version != STATE_VERSION)
        return slf_fail(SALF_E_VERSION, "state has version %llu; this library reads %u", (unsigned long long)version,
                        STATE_VERSION);
    const uint64_t length = slf_blob_get_u64(&header);
    if (length > size - HEADER_SIZE)
        return slf_fail(SALF_E_TRUNCATED, "state ends after %llu bytes, but its payload has %llu",
                        (unsigned long long)size, (unsigned long long)length);
    if (length < size - HEADER_SIZE)
        return slf_fail(SALF_E_CORRUPT, "state has %llu bytes beyond its payload of %llu",
                        (unsigned long long)(size - HEADER_SIZE - length), (unsigned long long)length);
    const uint64_t sum = slf_blob_get_u64(&header);
    if (sum != checksum_of(bytes, bytes + HEADER_SIZE, length))
        return slf_fail(SALF_E_CORRUPT, "state is damaged: its checksum is not %016llx", (unsigned long long)sum);
    if (memcmp(bytes + 4, kind, 4) != 0)
        return slf_fail(SALF_E_MISMATCH, "state is of kind '%.4s', not '%.4s'", (const char *)bytes + 4, kind);
    *payload = (slf_blob){.bytes = bytes + HEADER_SIZE, .room = length};
    return SALF_OK;
}
