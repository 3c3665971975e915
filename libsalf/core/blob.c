/*
 * blob.c - what handles save as bytes: written once to measure, once for real, with a header in front (described in
 * docs/formats.md). The checksum finds damage; it is no defence against an adversary, so readers check every value all
 * the same.
 */
#include <inttypes.h>
#include <string.h>

#include "core/blob.h"
#include "core/fingerprint.h"

#define HEADER_SIZE 32u /* "SALF", kind, version, length of the payload, checksum */

/* FNV-1a over the header up to the checksum, and the payload. */
static uint64_t checksum_of(const uint8_t *header, const uint8_t *payload, uint64_t n) {
    return slf_fnv1a(slf_fnv1a(SLF_FNV_BEGIN, header, HEADER_SIZE - 8), payload, n);
}

/* A short write or read is remembered, not reported: a writer or reader of many fields checks once, at its end. Byte
 * order is fixed here, so that a blob moves between machines. */
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

/* Through memcpy: the bits of a double, NaN and -0 with the rest, come back as they were saved. */
uint64_t slf_bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void slf_blob_put_f64(slf_blob *blob, double value) {
    slf_blob_put_u64(blob, slf_bits_of(value));
}

/* What is read past the end is 0, so that a reader of many fields works with defined numbers until it checks. */
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

/* A blob that ended early has no field to blame: its reader reports that. */
salf_status slf_blob_check_fields(slf_blob *blob, const slf_field *fields, int n, const char *handle) {
    for (int i = 0; i < n; i++) {
        const uint64_t saved = slf_blob_get_u64(blob);
        if (saved != fields[i].value && !blob->short_of_room)
            return slf_fail(SALF_E_MISMATCH, "%s is %" PRIu64 " in the blob, %" PRIu64 " in this %s", fields[i].name,
                            saved, fields[i].value, handle);
    }
    return SALF_OK;
}

/* The checksum was right, so that this blob was made by hand, or by a library with a fault. */
salf_status slf_blob_bad_value(const char *what, int64_t value) {
    return slf_fail(SALF_E_CORRUPT, "the blob's %s is %" PRId64, what, value);
}

salf_status slf_blob_value(slf_blob *blob, const char *what, int64_t most, int64_t *out) {
    *out = (int64_t)slf_blob_get_u64(blob);
    if (blob->short_of_room) return slf_fail(SALF_E_TRUNCATED, "the blob ends before its %s", what);
    return *out < 0 || *out > most ? slf_blob_bad_value(what, *out) : SALF_OK;
}

salf_status slf_blob_check_bytes(const slf_blob *blob, uint64_t bytes) {
    if (bytes <= blob->room - blob->used) return SALF_OK;
    return slf_fail(SALF_E_TRUNCATED, "the blob ends %" PRIu64 " bytes into a part of %" PRIu64,
                    blob->room - blob->used, bytes);
}

/* The second run must put what the first one counted; a host that changes the handle from another thread meanwhile is
 * caught by the check, before the buffer is called a blob. */
salf_status slf_blob_save(const char kind[4], uint32_t version, slf_blob_write_fn write, const void *user, void *buffer,
                          uint64_t *size) {
    slf_blob count = {0};
    write(user, &count);
    const uint64_t whole = HEADER_SIZE + count.used;
    if (!buffer) {
        *size = whole;
        return SALF_OK;
    }
    if (*size < whole)
        return slf_fail(SALF_E_BUFFER, "the blob needs %" PRIu64 " bytes, but the buffer has %" PRIu64, whole, *size);
    uint8_t *bytes = buffer;
    slf_blob payload = {.bytes = bytes + HEADER_SIZE, .room = count.used};
    write(user, &payload);
    if (payload.short_of_room || payload.used != count.used)
        return slf_fail(SALF_E_INTERNAL, "a blob of %" PRIu64 " bytes became %" PRIu64 " while it was written",
                        count.used, payload.used);
    slf_blob header = {.bytes = bytes, .room = HEADER_SIZE};
    slf_blob_put(&header, "SALF", 4);
    slf_blob_put(&header, kind, 4);
    slf_blob_put_u64(&header, version);
    slf_blob_put_u64(&header, count.used);
    slf_blob_put_u64(&header, checksum_of(bytes, bytes + HEADER_SIZE, count.used)); /* over what is there by now */
    *size = whole;
    return SALF_OK;
}

/* Kind and version come first: of another kind or version nothing else is known, not even that the checksum is one. */
salf_status slf_blob_open(const char kind[4], uint32_t oldest, uint32_t newest, const void *buffer, uint64_t size,
                          slf_blob *payload) {
    if (size < HEADER_SIZE)
        return slf_fail(SALF_E_TRUNCATED, "the blob ends after %" PRIu64 " bytes, inside its header of %u", size,
                        HEADER_SIZE);
    uint8_t *bytes = (uint8_t *)(uintptr_t)buffer; /* a reader never writes */
    slf_blob header = {.bytes = bytes, .room = HEADER_SIZE, .used = 8};
    if (memcmp(bytes, "SALF", 4) != 0) return slf_fail(SALF_E_CORRUPT, "the blob does not begin with 'SALF'");
    if (memcmp(bytes + 4, kind, 4) != 0)
        return slf_fail(SALF_E_MISMATCH, "the blob is of kind '%.4s', not '%.4s'", (const char *)bytes + 4, kind);
    const uint64_t version = slf_blob_get_u64(&header);
    if (version < oldest || version > newest)
        return slf_fail(SALF_E_VERSION, "the blob of kind '%.4s' has version %" PRIu64 "; this library reads %u ... %u",
                        kind, version, oldest, newest);
    const uint64_t length = slf_blob_get_u64(&header);
    if (length > size - HEADER_SIZE)
        return slf_fail(SALF_E_TRUNCATED, "the blob ends after %" PRIu64 " bytes, but its payload has %" PRIu64, size,
                        length);
    /* Bytes behind the payload are an error as well: of two blobs in one buffer the second would be lost unseen. */
    if (length < size - HEADER_SIZE)
        return slf_fail(SALF_E_CORRUPT, "the blob has %" PRIu64 " bytes beyond its payload of %" PRIu64,
                        size - HEADER_SIZE - length, length);
    const uint64_t sum = slf_blob_get_u64(&header);
    if (sum != checksum_of(bytes, bytes + HEADER_SIZE, length))
        return slf_fail(SALF_E_CORRUPT, "the blob is damaged: its checksum is not %016" PRIx64, sum);
    *payload = (slf_blob){.bytes = bytes + HEADER_SIZE, .room = length, .version = (uint32_t)version};
    return SALF_OK;
}
