/*
 * blob.c - what handles save as bytes, with a header in front (described in docs/formats.md). The checksum finds
 * damage; it is no defence against an adversary, so readers check every value all the same.
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

/* A short write or read is remembered, not reported: whoever moves many parts checks once, at the end. */
void slf_blob_bytes(slf_blob *blob, void *bytes, uint64_t n) {
    const bool counts = !blob->bytes;
    if (!counts && n > blob->room - blob->used) blob->short_of_room = true;
    if (blob->short_of_room) {
        if (blob->reads && n != 0) memset(bytes, 0, (size_t)n);
        return;
    }
    if (blob->reads && n != 0) memcpy(bytes, blob->bytes + blob->used, (size_t)n);
    if (!blob->reads && !counts && n != 0) memcpy(blob->bytes + blob->used, bytes, (size_t)n);
    blob->used += n;
}

/* Byte order is fixed here, so that a blob moves between machines. What is written is not touched: threads may save one
 * handle at a time. */
void slf_blob_u64(slf_blob *blob, uint64_t *value) {
    uint8_t bytes[8] = {0};
    for (int i = 0; i < 8 && !blob->reads; i++) bytes[i] = (uint8_t)(*value >> 8 * i);
    slf_blob_bytes(blob, bytes, sizeof bytes);
    if (!blob->reads) return;
    *value = 0;
    for (int i = 0; i < 8; i++) *value |= (uint64_t)bytes[i] << 8 * i;
}

/* Through memcpy: the bits of a double, NaN and -0 with the rest, come back as they were saved. */
uint64_t slf_bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void slf_blob_f64(slf_blob *blob, double *value) {
    uint64_t bits = blob->reads ? 0 : slf_bits_of(*value);
    slf_blob_u64(blob, &bits);
    if (blob->reads) memcpy(value, &bits, sizeof bits);
}

/* A blob that ended early has no field to blame: the load reports that. */
salf_status slf_blob_fields(slf_blob *blob, const slf_field *fields, int n, const char *handle) {
    for (int i = 0; i < n; i++) {
        uint64_t value = fields[i].value;
        slf_blob_u64(blob, &value);
        if (value != fields[i].value && !blob->short_of_room)
            return slf_fail(SALF_E_MISMATCH, "%s is %" PRIu64 " in the blob, %" PRIu64 " in this %s", fields[i].name,
                            value, fields[i].value, handle);
    }
    return SALF_OK;
}

/* The checksum was right, so that this blob was made by hand, or by a library with a fault. */
salf_status slf_blob_bad_value(const char *what, int64_t value) {
    return slf_fail(SALF_E_CORRUPT, "the blob's %s is %" PRId64, what, value);
}

salf_status slf_blob_value(slf_blob *blob, const char *what, int64_t most, int64_t *value) {
    uint64_t bits = blob->reads ? 0 : (uint64_t)*value;
    slf_blob_u64(blob, &bits);
    if (!blob->reads) return SALF_OK;
    *value = (int64_t)bits;
    if (blob->short_of_room) return slf_fail(SALF_E_TRUNCATED, "the blob ends before its %s", what);
    return *value < 0 || *value > most ? slf_blob_bad_value(what, *value) : SALF_OK;
}

salf_status slf_blob_value_i32(slf_blob *blob, const char *what, int32_t most, int32_t *value) {
    int64_t wide = blob->reads ? 0 : *value;
    SLF_TRY(slf_blob_value(blob, what, most, &wide));
    if (blob->reads) *value = (int32_t)wide;
    return SALF_OK;
}

salf_status slf_blob_check_bytes(const slf_blob *blob, uint64_t bytes) {
    if (!blob->reads || bytes <= blob->room - blob->used) return SALF_OK;
    return slf_fail(SALF_E_TRUNCATED, "the blob ends %" PRIu64 " bytes into a part of %" PRIu64,
                    blob->room - blob->used, bytes);
}

/* The second run must put what the first one counted; a host that changes the handle from another thread meanwhile is
 * caught by the check, before the buffer is called a blob. */
salf_status slf_blob_save(const char kind[4], uint32_t version, slf_blob_fn payload, void *user, void *buffer,
                          uint64_t *size) {
    slf_blob count = {.version = version};
    SLF_TRY(payload(user, &count));
    const uint64_t whole = HEADER_SIZE + count.used;
    if (!buffer) {
        *size = whole;
        return SALF_OK;
    }
    if (*size < whole)
        return slf_fail(SALF_E_BUFFER, "the blob needs %" PRIu64 " bytes, but the buffer has %" PRIu64, whole, *size);
    uint8_t *bytes = buffer;
    slf_blob written = {.bytes = bytes + HEADER_SIZE, .room = count.used, .version = version};
    SLF_TRY(payload(user, &written));
    if (written.short_of_room || written.used != count.used)
        return slf_fail(SALF_E_INTERNAL, "a blob of %" PRIu64 " bytes became %" PRIu64 " while it was written",
                        count.used, written.used);
    memcpy(bytes, "SALF", 4);
    memcpy(bytes + 4, kind, 4);
    slf_blob header = {.bytes = bytes, .room = HEADER_SIZE, .used = 8};
    uint64_t wide = version;
    slf_blob_u64(&header, &wide);
    slf_blob_u64(&header, &count.used);
    uint64_t sum = checksum_of(bytes, bytes + HEADER_SIZE, count.used); /* over what is there by now */
    slf_blob_u64(&header, &sum);
    *size = whole;
    return SALF_OK;
}

/* Kind and version come first: of another kind or version nothing else is known, not even that the checksum is one. */
salf_status slf_blob_load(const char kind[4], uint32_t oldest, uint32_t newest, slf_blob_fn payload, void *user,
                          const void *buffer, uint64_t size) {
    if (size < HEADER_SIZE)
        return slf_fail(SALF_E_TRUNCATED, "the blob ends after %" PRIu64 " bytes, inside its header of %u", size,
                        HEADER_SIZE);
    uint8_t *bytes = (uint8_t *)(uintptr_t)buffer; /* a reader never writes */
    slf_blob header = {.bytes = bytes, .room = HEADER_SIZE, .used = 8, .reads = true};
    uint64_t version = 0, length = 0, sum = 0; /* compilers do not see that a reader sets them */
    if (memcmp(bytes, "SALF", 4) != 0) return slf_fail(SALF_E_CORRUPT, "the blob does not begin with 'SALF'");
    if (memcmp(bytes + 4, kind, 4) != 0)
        return slf_fail(SALF_E_MISMATCH, "the blob is of kind '%.4s', not '%.4s'", (const char *)bytes + 4, kind);
    slf_blob_u64(&header, &version);
    if (version < oldest || version > newest)
        return slf_fail(SALF_E_VERSION, "the blob of kind '%.4s' has version %" PRIu64 "; this library reads %u ... %u",
                        kind, version, oldest, newest);
    slf_blob_u64(&header, &length);
    if (length > size - HEADER_SIZE)
        return slf_fail(SALF_E_TRUNCATED, "the blob ends after %" PRIu64 " bytes, but its payload has %" PRIu64, size,
                        length);
    /* Bytes behind the payload are an error as well: of two blobs in one buffer the second would be lost unseen. */
    if (length < size - HEADER_SIZE)
        return slf_fail(SALF_E_CORRUPT, "the blob has %" PRIu64 " bytes beyond its payload of %" PRIu64,
                        size - HEADER_SIZE - length, length);
    slf_blob_u64(&header, &sum);
    if (sum != checksum_of(bytes, bytes + HEADER_SIZE, length))
        return slf_fail(SALF_E_CORRUPT, "the blob is damaged: its checksum is not %016" PRIx64, sum);
    slf_blob read = {.bytes = bytes + HEADER_SIZE, .room = length, .version = (uint32_t)version, .reads = true};
    SLF_TRY(payload(user, &read));
    /* A blob that is longer is of another kind or was put together wrongly; its end would be passed over in silence. */
    if (read.short_of_room)
        return slf_fail(SALF_E_TRUNCATED, "the blob's payload ends after %" PRIu64 " bytes", length);
    if (read.used != length)
        return slf_fail(SALF_E_CORRUPT, "%" PRIu64 " bytes too many in the blob", length - read.used);
    return SALF_OK;
}
