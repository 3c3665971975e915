/* test_blob.c - saved bytes: as documented, and every damage is told apart. */
#include <string.h>

#include "core/blob.h"
#include "harness.h"

typedef struct two {
    uint64_t whole;
    double real;
    uint32_t version; /* that it was read in */
} two;

static salf_status move_two(void *user, slf_blob *blob) {
    two *t = user;
    slf_blob_u64(blob, &t->whole);
    slf_blob_f64(blob, &t->real);
    t->version = blob->version;
    return SALF_OK;
}

static salf_status load_two(const void *bytes, uint64_t size, two *t) {
    *t = (two){0};
    return slf_blob_load("TEST", 2, 3, move_two, t, bytes, size);
}

/* More than was written, and less. */
static salf_status move_three(void *user, slf_blob *blob) {
    two *t = user;
    CHECK_OK(move_two(user, blob));
    slf_blob_u64(blob, &t->whole);
    ck_assert(blob->short_of_room);
    return SALF_OK;
}

static salf_status move_one(void *user, slf_blob *blob) {
    slf_blob_u64(blob, &((two *)user)->whole);
    return SALF_OK;
}

START_TEST(round_trip_and_damage) {
    two value = {0x0102030405060708, -1.5, 0}, read;
    uint8_t bytes[64];
    uint64_t size = 0;
    CHECK_OK(slf_blob_save("TEST", 3, move_two, &value, NULL, &size));
    ck_assert_uint_eq(size, 48);
    size = 47;
    CHECK_FAILS(slf_blob_save("TEST", 3, move_two, &value, bytes, &size), SALF_E_BUFFER, "47");
    size = sizeof bytes;
    CHECK_OK(slf_blob_save("TEST", 3, move_two, &value, bytes, &size));
    ck_assert_uint_eq(size, 48);
    ck_assert_uint_eq(bytes[32], 8); /* little-endian */
    CHECK_OK(load_two(bytes, size, &read));
    ck_assert_uint_eq(read.whole, value.whole);
    ck_assert_double_eq(read.real, -1.5);
    ck_assert_uint_eq(read.version, 3);
    CHECK_FAILS(slf_blob_load("TEST", 2, 3, move_three, &read, bytes, size), SALF_E_TRUNCATED, "ends after 16 bytes");
    ck_assert_uint_eq(read.whole, 0);
    CHECK_FAILS(slf_blob_load("TEST", 2, 3, move_one, &read, bytes, size), SALF_E_CORRUPT, "8 bytes too many");
    for (uint64_t n = 0; n < size; n++) CHECK_FAILS(load_two(bytes, n, &read), SALF_E_TRUNCATED, "ends after");
    CHECK_FAILS(load_two(bytes, size + 1, &read), SALF_E_CORRUPT, "1 bytes beyond");
    CHECK_FAILS(slf_blob_load("ELSE", 2, 3, move_two, &read, bytes, size), SALF_E_MISMATCH, "TEST");
    for (uint64_t i = 0; i < size; i++) {
        bytes[i] ^= 4;
        ck_assert_int_ne(load_two(bytes, size, &read), SALF_OK);
        if (i == 8) CHECK_FAILS(load_two(bytes, size, &read), SALF_E_VERSION, "version 7; this library reads 2 ... 3");
        bytes[i] ^= 4;
    }
}
END_TEST

static salf_status move_nothing(void *user, slf_blob *blob) {
    (void)user;
    (void)blob;
    return SALF_OK;
}

START_TEST(a_blob_of_nothing_is_its_header) {
    uint8_t bytes[32];
    uint64_t size = sizeof bytes;
    CHECK_OK(slf_blob_save("NONE", 1, move_nothing, NULL, bytes, &size));
    ck_assert_uint_eq(size, 32);
    CHECK_OK(slf_blob_load("NONE", 1, 1, move_nothing, NULL, bytes, size));
    CHECK_FAILS(slf_blob_load("NONE", 1, 1, move_nothing, NULL, bytes, 31), SALF_E_TRUNCATED,
                "inside its header of 32");
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, round_trip_and_damage);
    HARNESS_ADD(suite, a_blob_of_nothing_is_its_header);
}
