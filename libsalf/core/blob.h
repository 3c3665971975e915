/* blob.h - saved bytes: versioned, little-endian, with a checksum; for policy and planner. Not installed. */
#ifndef SALF_BLOB_H
#define SALF_BLOB_H

#include "core/core.h"

typedef struct slf_blob {
    uint8_t *bytes; /* NULL while only counting */
    uint64_t used;
    uint64_t room;
    uint32_t version;   /* reading: the one it was written in */
    bool short_of_room; /* writing: more was put than fits; reading: more was asked for than is there */
} slf_blob;

void slf_blob_put(slf_blob *blob, const void *bytes, uint64_t n);
void slf_blob_put_u64(slf_blob *blob, uint64_t value);
void slf_blob_put_f64(slf_blob *blob, double value);
void slf_blob_get(slf_blob *blob, void *bytes, uint64_t n); /* zeros when it ends early */
uint64_t slf_blob_get_u64(slf_blob *blob);
double slf_blob_get_f64(slf_blob *blob);
/* Every number of a blob is either compared with the handle's own or goes through this: a value of 0 ... most. what
 * names it: "the blob's position is -1", SALF_E_CORRUPT. */
salf_status slf_blob_value(slf_blob *blob, const char *what, int64_t most, int64_t *out);
salf_status slf_blob_bad_value(const char *what, int64_t value);
/* Before memory is taken for what the next bytes hold: are there so many? */
salf_status slf_blob_check_bytes(const slf_blob *blob, uint64_t bytes);
/* What a blob must share with the handle it is loaded into: named numbers, reals as their bits. The check names the
 * first that differs (SALF_E_MISMATCH), for the kind of handle given. */
typedef struct slf_field {
    const char *name;
    uint64_t value;
} slf_field;
uint64_t slf_bits_of(double value);
void slf_blob_put_fields(slf_blob *blob, const slf_field *fields, int n);
salf_status slf_blob_check_fields(slf_blob *blob, const slf_field *fields, int n, const char *handle);
/* Runs write(user, blob) to measure, and again to fill the caller's buffer, with header and checksum around it; the
 * buffer and size rules are those of salf_planner_save. kind is four letters that tell blobs of different handles
 * apart; each kind counts its versions by itself. */
typedef void (*slf_blob_write_fn)(const void *user, slf_blob *blob);
salf_status slf_blob_save(const char kind[4], uint32_t version, slf_blob_write_fn write, const void *user, void *buffer,
                          uint64_t *size);
/* Checks header, kind, version (oldest ... newest can be read), length and checksum, and gives a reader over the
 * payload. */
salf_status slf_blob_open(const char kind[4], uint32_t oldest, uint32_t newest, const void *buffer, uint64_t size,
                          slf_blob *payload);

#endif
