/* blob.h - saved bytes: versioned, little-endian, with a checksum; for policy and planner. Not installed.
 *
 * What a handle saves is described once: by a function that moves its parts in their order. It runs to count them, to
 * write them, and to read them into another handle, so that saves and loads cannot disagree on the layout. */
#ifndef SALF_BLOB_H
#define SALF_BLOB_H

#include "core/core.h"

typedef struct slf_blob {
    uint8_t *bytes; /* NULL while only counting */
    uint64_t used;
    uint64_t room;
    uint32_t version;   /* that it has, or is written in */
    bool reads;         /* parts go from the blob to where they are given; else the other way */
    bool short_of_room; /* writing: more was put than fits; reading: more was asked for than is there */
} slf_blob;

/* One part of a payload, in either direction. What is read past the end is 0, so that a reader of many parts works with
 * defined numbers until the load reports it. */
void slf_blob_bytes(slf_blob *blob, void *bytes, uint64_t n);
void slf_blob_u64(slf_blob *blob, uint64_t *value);
void slf_blob_f64(slf_blob *blob, double *value);
/* Every number of a blob is either compared with the handle's own or goes through one of these: when it is read it has
 * to be a value of 0 ... most. what names it: "the blob's position is -1", SALF_E_CORRUPT. */
salf_status slf_blob_value(slf_blob *blob, const char *what, int64_t most, int64_t *value);
salf_status slf_blob_value_i32(slf_blob *blob, const char *what, int32_t most, int32_t *value);
salf_status slf_blob_bad_value(const char *what, int64_t value);
/* Before memory is taken for what the next bytes hold: are there so many? */
salf_status slf_blob_check_bytes(const slf_blob *blob, uint64_t bytes);
/* What a blob must share with the handle it is loaded into: named numbers, reals as their bits. When they are read, the
 * first that differs is named (SALF_E_MISMATCH), for the kind of handle given. */
typedef struct slf_field {
    const char *name;
    uint64_t value;
} slf_field;
uint64_t slf_bits_of(double value);
salf_status slf_blob_fields(slf_blob *blob, const slf_field *fields, int n, const char *handle);

/* Moves the parts of a payload. It fails only where it reads. */
typedef salf_status (*slf_blob_fn)(void *user, slf_blob *blob);
/* Fills the caller's buffer, with header and checksum around the payload; the buffer and size rules are those of
 * salf_planner_save. kind is four letters that tell blobs of different handles apart; each kind counts its versions by
 * itself. */
salf_status slf_blob_save(const char kind[4], uint32_t version, slf_blob_fn payload, void *user, void *buffer,
                          uint64_t *size);
/* Checks header, kind, version (oldest ... newest can be read), length and checksum, and reads the payload, which has
 * to take all of the bytes. */
salf_status slf_blob_load(const char kind[4], uint32_t oldest, uint32_t newest, slf_blob_fn payload, void *user,
                          const void *buffer, uint64_t size);

#endif
