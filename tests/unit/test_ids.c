/* A set of ids: each has the index of when it came, for good; and the unit draw is made of the bits it says. */
#include "core/ids.h"

#include "core/random.h"
#include "harness.h"

START_TEST(an_id_keeps_its_index) {
    enum { MOST = 100 };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    slf_ids set = {.most = MOST + 1};
    int32_t index;
    ck_assert_int_eq(slf_ids_find(&set, 7), -1);
    for (int round = 0; round < 2; round++)
        for (int64_t i = 0; i < MOST; i++) { /* over several doublings, far apart and below 0 */
            CHECK_OK(slf_ids_add(&set, context, i * 1000003 - 50000000, &index));
            ck_assert_int_eq(index, i);
            ck_assert_int_eq(set.n, round ? MOST : i + 1);
            ck_assert_int_eq(slf_ids_find(&set, -50000000), 0);
            ck_assert_int_eq(slf_ids_find(&set, i * 1000003 - 49999999), -1);
        }
    CHECK_OK(slf_ids_add(&set, context, 5, &index));
    ck_assert_int_eq(index, MOST);
    CHECK_OK(slf_ids_add(&set, context, 6, &index));
    ck_assert_int_eq(index, -1); /* it is full */
    slf_ids_free(&set, context);
    ck_assert_int_eq(set.n, 0);
    salf_context_destroy(context);
}
END_TEST

START_TEST(a_unit_draw_is_the_upper_bits_of_its_own_draw) {
    for (uint64_t i = 0; i < 100; i++)
        ck_assert(slf_random_unit(9, 8, i) == (double)(slf_random_bits(9, 8, i) >> 11) * 0x1p-53);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, an_id_keeps_its_index);
    HARNESS_ADD(suite, a_unit_draw_is_the_upper_bits_of_its_own_draw);
}
