/* States kept from epoch to epoch: what comes back, what is refused, and what happens when room runs out. */
#include <dirent.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"
#include "unit/harness.h"

enum { WIDTH = 3, DATA = 4 };
static const int32_t text[] = {7, 8, 9, 10};
static char said[300];

static state_cache *opened(int64_t bytes, int32_t bf16, const char *folder) {
    state_cache *c;
    const cache_options o = {bytes, bf16, folder, DATA, WIDTH};
    ck_assert_msg(cache_open(&c, &o, said, sizeof said) == 0, "%s", said);
    return c;
}

/* States [n][WIDTH] that differ by datum and space. */
static void made_states(float *states, int64_t n, double seed) {
    for (int64_t i = 0; i < n * WIDTH; i++) states[i] = (float)sin(seed + (double)i);
}

START_TEST(what_is_kept_comes_back) {
    const char *folders[] = {NULL, harness_path("here")};
    float states[12], back[12];
    int64_t table_in_memory = 0; /* what a cache takes beside the states; in a folder it takes the same */
    mkdir(folders[1], 0700);
    for (int k = 0; k < 2; k++) {
        state_cache *c = opened(1000, 0, folders[k]);
        ck_assert_int_eq(cache_space(c, 2, text, 4), 0);
        for (int32_t space = 3; space < 6; space += 2) { /* a deeper space takes the place of the one before */
            made_states(states, 4, space);
            ck_assert_int_eq(cache_put(c, 2, space, text, 4, states), 1);
            ck_assert_int_eq(cache_space(c, 2, text, 4), space);
            cache_get(c, 2, 4, back);
            ck_assert_mem_eq(states, back, sizeof back);
        }
        made_states(states, 2, 50);
        ck_assert_int_eq(cache_put(c, 0, 1, text, 2, states), 1);
        cache_get(c, 0, 2, back);
        ck_assert_mem_eq(states, back, 6 * sizeof *back);
        ck_assert_int_eq(cache_space(c, 1, text, 4), 0);
        const int64_t kept = (4 + 2) * WIDTH * 4, table = cache_bytes(c) - (folders[k] ? 0 : kept);
        ck_assert_msg(table > 0 && table < 1000, "%d bytes beside the states", (int)table);
        if (k == 0) table_in_memory = table;
        ck_assert_int_eq(table, table_in_memory);
        cache_close(c);
    }
    DIR *folder = opendir(folders[1]);
    int files = 0;
    while (readdir(folder)) files++;
    closedir(folder);
    ck_assert_int_eq(files, 2); /* "." and ".." */
}
END_TEST

START_TEST(a_changed_text_has_nothing) {
    const int32_t other[] = {7, 8, 9, 11};
    float states[12];
    state_cache *c = opened(12 * 4, 0, NULL);
    made_states(states, 4, 1);
    ck_assert_int_eq(cache_put(c, 1, 2, text, 4, states), 1);
    ck_assert_int_eq(cache_space(c, 1, other, 4), 0);
    ck_assert_int_eq(cache_space(c, 1, text, 3), 0);
    ck_assert_int_eq(cache_put(c, 1, 2, other, 4, states), 1); /* in the same room, of which there is no more */
    ck_assert_int_eq(cache_space(c, 1, text, 4), 0);
    ck_assert_int_eq(cache_space(c, 1, other, 4), 2);
    ck_assert_int_eq(cache_put(c, 1, 3, other, 1, states), 1); /* a shorter one, and a long one again */
    ck_assert_int_eq(cache_put(c, 1, 3, text, 4, states), 1);
    ck_assert_int_eq(cache_space(c, 1, text, 4), 3);
    cache_close(c);
}
END_TEST

START_TEST(room_runs_out) {
    float states[12], back[12];
    state_cache *c = opened(12 * 4 + 10, 0, NULL);
    made_states(states, 4, 1);
    ck_assert_int_eq(cache_put(c, 0, 2, text, 4, states), 1);
    ck_assert_int_eq(cache_put(c, 3, 2, text, 4, states), 0);
    ck_assert_int_eq(cache_space(c, 3, text, 4), 0);
    made_states(states, 4, 9); /* what has room keeps it */
    ck_assert_int_eq(cache_put(c, 0, 4, text, 4, states), 1);
    cache_get(c, 0, 4, back);
    ck_assert_mem_eq(states, back, sizeof back);
    cache_close(c);
    c = opened(1, 0, NULL);
    ck_assert_int_eq(cache_put(c, 0, 2, text, 4, states), 0);
    cache_close(c);
}
END_TEST

START_TEST(bfloat16_rounds_what_it_keeps) {
    const float cases[] = {1.0f, 1.00390625f, 1.01171875f, -3.14159274f, 0.0f, -0.0f, 1e-40f, 3.0e38f, NAN};
    /* Ties go to even: 1 + 2^-8 down to 1, 1 + 3 * 2^-8 up to 1 + 2^-6. */
    const float rounded[] = {1.0f, 1.0f, 1.015625f, -3.140625f, 0.0f, -0.0f, 9.18354962e-41f, 3.00405527e38f, NAN};
    float states[9], back[9];
    for (int64_t room = 18; room > 0; room -= 17) { /* with room, and without: the rounding is the same */
        state_cache *c = opened(room, 1, NULL);
        memcpy(states, cases, sizeof cases);
        ck_assert_int_eq(cache_put(c, 0, 1, text, 3, states), room == 18);
        for (int i = 0; i < 8; i++)
            ck_assert_msg(fabsf(states[i] - rounded[i]) <= 1e-6f * fabsf(rounded[i]) + 1e-43f, "%d: %.9g", i,
                          (double)states[i]);
        ck_assert(isnan(states[8]));
        if (room == 18) {
            cache_get(c, 0, 3, back);
            ck_assert_mem_eq(states, back, sizeof back);
        }
        cache_close(c);
    }
}
END_TEST

START_TEST(folders_that_cannot_hold_it) {
    state_cache *c;
    cache_options o = {1000, 0, "/nonexistent/folder", DATA, WIDTH};
    ck_assert_int_eq(cache_open(&c, &o, said, sizeof said), -1);
    ck_assert(!c && harness_contains(said, "/nonexistent/folder: No such file"));
    char longer[5000];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    o.folder = longer;
    ck_assert_int_eq(cache_open(&c, &o, said, sizeof said), -1);
    ck_assert(!c && harness_contains(said, "too long"));
    o = (cache_options){INT64_MAX / 4, 0, harness_path("full"), DATA, WIDTH};
    mkdir(o.folder, 0700);
    ck_assert_int_eq(cache_open(&c, &o, said, sizeof said), -1); /* no disk is that large */
    ck_assert(!c && harness_contains(said, "full: "));
    cache_close(NULL);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, what_is_kept_comes_back);
    HARNESS_ADD(suite, a_changed_text_has_nothing);
    HARNESS_ADD(suite, room_runs_out);
    HARNESS_ADD(suite, bfloat16_rounds_what_it_keeps);
    HARNESS_ADD(suite, folders_that_cannot_hold_it);
}
