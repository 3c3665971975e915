/* Lists of methods of the fine-tuning program. What a name means is the library's, and tested there; here: every name
 * that the help lists parses, those that must not do not, and lists of them. */
#include "methods.h"

#include <stdio.h>
#include <string.h>

#include "unit/harness.h"

static method parsed(const char *name) {
    method m;
    ck_assert_msg(method_parse(&m, name, strlen(name)) == 0, "'%s' is not known", name);
    ck_assert_str_eq(m.name, name);
    return m;
}

START_TEST(names_of_the_library) {
    const char *name;
    int n = 0;
    for (; (name = salf_method_name(n)) != NULL; n++) parsed(name);
    ck_assert_int_eq(n, 14);
    ck_assert_int_eq(parsed("lift*[arith][df]").how.growth, SALF_GROWTH_ARITHMETIC);
    ck_assert_int_eq(parsed("salf[half][rank]").how.metric, SALF_METRIC_RANK);
    ck_assert_int_eq(parsed("lisa").how.policy, SALF_POLICY_LISA);
}
END_TEST

START_TEST(not_methods) {
    const char *wrong[] = {"",
                           "sal",
                           "salf ",
                           "salf[]",
                           "salf[half",
                           "SALF",
                           "lora",
                           "lora[ce]",
                           "lift*[half][ce]",
                           "lift[geom][bf]",
                           "salf[ce][half]",
                           "[ce]",
                           "salf[geom]",
                           "salf[half][ce][ce]",
                           "lora[full][rank]"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        method m = {.how.policy = -7};
        ck_assert_msg(method_parse(&m, wrong[i], strlen(wrong[i])) == -1, "'%s' parsed", wrong[i]);
        ck_assert_int_eq(m.how.policy, -7);
    }
}
END_TEST

START_TEST(the_help_lists_them) {
    char text[1024], small[8];
    method_describe_names(text, sizeof text);
    for (int i = 0; salf_method_name(i); i++) ck_assert(harness_contains(text, salf_method_name(i)));
    ck_assert(harness_contains(text, "[rank]") && harness_contains(text, " lisa"));
    ck_assert_int_lt((int)strlen(text), 1000); /* it fits */
    method_describe_names(small, sizeof small);
    ck_assert_int_lt((int)strlen(small), 8);
}
END_TEST

START_TEST(a_name_that_is_too_long) {
    char name[200];
    method m;
    memset(name, 'x', sizeof name);
    memcpy(name, "salf[half]", 10);
    ck_assert_int_eq(method_parse(&m, name, sizeof name), -1);
    ck_assert(harness_contains(salf_last_error(), "salf[half]xxx"));
}
END_TEST

START_TEST(lists) {
    method m[METHODS_MAX];
    char message[700];
    int count = 0;
    ck_assert_int_eq(method_list_parse(m, &count, "lora[full],salf[geom][df]", message, sizeof message), 0);
    ck_assert_int_eq(method_list_parse(m, &count, "lift*[half]", message, sizeof message), 0);
    ck_assert_int_eq(count, 3);
    ck_assert_str_eq(m[1].name, "salf[geom][df]");
    ck_assert_str_eq(m[2].name, "lift*[half]");
    ck_assert_int_eq(method_list_parse(m, &count, "salf,lora[none]", message, sizeof message), -1);
    ck_assert(harness_contains(message, "'lora[none]'") && harness_contains(message, "lift*[arith][df]"));
    ck_assert_int_eq(method_list_parse(m, &count, "salf[ce],salf[ce]", message, sizeof message), -1);
    ck_assert(harness_contains(message, "'salf[ce]' is given twice"));
    ck_assert_int_eq(method_list_parse(m, &count, "salf[half],", message, sizeof message), -1);
}
END_TEST

/* Runs have room for so many, and no more. */
START_TEST(a_list_of_more_than_there_is_room_for) {
    static const char *const ends[] = {"", "[ce]", "[rank]", "[stream]"};
    method m[METHODS_MAX], one;
    char message[700], name[64];
    const char *word;
    int count = 0, refused = 0;
    for (int i = 0; (word = i < 60 ? salf_method_name(i / 4) : salf_constant_word("SALF_POLICY", i / 4 - 15)) || i < 60;
         i++) {
        snprintf(name, sizeof name, "%s%s", word ? word : "", ends[i % 4]);
        if (method_parse(&one, name, strlen(name)) != 0) continue; /* not all of them are methods */
        const int before = count, failed = method_list_parse(m, &count, name, message, sizeof message);
        ck_assert_int_eq(failed, before < METHODS_MAX ? 0 : -1);
        ck_assert_int_eq(count, before + 1 + failed);
        refused += failed && harness_contains(message, "more than 32 methods");
    }
    ck_assert_int_eq(count, METHODS_MAX);
    ck_assert_int_gt(refused, 0);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, names_of_the_library);
    HARNESS_ADD(suite, not_methods);
    HARNESS_ADD(suite, the_help_lists_them);
    HARNESS_ADD(suite, a_name_that_is_too_long);
    HARNESS_ADD(suite, lists);
    HARNESS_ADD(suite, a_list_of_more_than_there_is_room_for);
}
