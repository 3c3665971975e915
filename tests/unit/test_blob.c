/* test_blob.c - saved bytes: as documented, and every damage is told apart. */
#include <string.h>

#include "core/blob.h"
#include "harness.h"

static void write_two(const void *user, slf_blob *blob) {
    slf_blob_put_u64(blob, *(const uint64_t *)user);
    slf_blob_put_f64(blob, -1.5);
}

START_TEST(round_trip_and_damage) {
    const uint64_t value = 0x0102030405060708;
    uint8_t bytes[64];
    uint64_t size = 0;
    CHECK_OK(slf_blob_save("TEST", 3, write_two, &value, NULL, &size));
    ck_assert_uint_eq(size, 48);
    size = 47;
    CHECK_FAILS(slf_blob_save("TEST", 3, write_two, &value, bytes, &size), SALF_E_BUFFER, "47");
    size = sizeof bytes;
    CHECK_OK(slf_blob_save("TEST", 3, write_two, &value, bytes, &size));
    ck_assert_uint_eq(size, 48);
    ck_assert_uint_eq(bytes[32], 8); /* little-endian */
    slf_blob blob;
    CHECK_OK(slf_blob_open("TEST", 2, 3, bytes, size, &blob));
    ck_assert_uint_eq(slf_blob_get_u64(&blob), value);
    ck_assert_double_eq(slf_blob_get_f64(&blob), -1.5);
    ck_assert(!blob.short_of_room);
    ck_assert_uint_eq(blob.version, 3);
    ck_assert_uint_eq(slf_blob_get_u64(&blob), 0);
    ck_assert(blob.short_of_room);
    for (uint64_t n = 0; n < size; n++)
        CHECK_FAILS(slf_blob_open("TEST", 2, 3, bytes, n, &blob), SALF_E_TRUNCATED, "ends after");
    CHECK_FAILS(slf_blob_open("TEST", 2, 3, bytes, size + 1, &blob), SALF_E_CORRUPT, "1 bytes beyond");
    CHECK_FAILS(slf_blob_open("ELSE", 2, 3, bytes, size, &blob), SALF_E_MISMATCH, "TEST");
    for (uint64_t i = 0; i < size; i++) {
        bytes[i] ^= 4;
        ck_assert_int_ne(slf_blob_open("TEST", 2, 3, bytes, size, &blob), SALF_OK);
        if (i == 8)
            CHECK_FAILS(slf_blob_open("TEST", 2, 3, bytes, size, &blob), SALF_E_VERSION,
                        "version 7; this library reads 2 ... 3");
        bytes[i] ^= 4;
    }
}
END_TEST

static void write_nothing(const void *user, slf_blob *blob) {
    (void)user;
    (void)blob;
}

START_TEST(a_blob_of_nothing_is_its_header) {
    uint8_t bytes[32];
    uint64_t size = sizeof bytes;
    slf_blob blob;
    CHECK_OK(slf_blob_save("NONE", 1, write_nothing, NULL, bytes, &size));
    ck_assert_uint_eq(size, 32);
    CHECK_OK(slf_blob_open("NONE", 1, 1, bytes, size, &blob));
    ck_assert_uint_eq(blob.room, 0);
    CHECK_FAILS(slf_blob_open("NONE", 1, 1, bytes, 31, &blob), SALF_E_TRUNCATED, "inside its header of 32");
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, round_trip_and_damage);
    HARNESS_ADD(suite, a_blob_of_nothing_is_its_header);
}
