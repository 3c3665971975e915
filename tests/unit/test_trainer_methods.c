/* Method names of the fine-tuning program: every published name, suffixes, lists, and what must not parse. */
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

START_TEST(published_names) {
    ck_assert_int_eq(parsed("lora[full]").policy, SALF_POLICY_FULL);
    ck_assert_int_eq(parsed("lora[half]").policy, SALF_POLICY_HALF);
    ck_assert_int_eq(parsed("lift[half]").policy, SALF_POLICY_LIFT);
    ck_assert_int_eq(parsed("lift*[half]").policy, SALF_POLICY_LIFT_STAR);
    ck_assert_int_eq(parsed("salf").policy, SALF_POLICY_SALF);
    ck_assert_int_eq(parsed("salf[half]").growth, SALF_GROWTH_UNIFORM);
    const char *plain[] = {"lora[full]", "lora[half]", "lift[half]", "lift*[half]"};
    for (int i = 0; i < 4; i++) ck_assert_int_eq(parsed(plain[i]).probes, 0);
    ck_assert_int_eq(parsed("salf").probes, 1);
}
END_TEST

START_TEST(budgets) {
    const char *bases[] = {"salf", "lift*"};
    for (int b = 0; b < 2; b++) {
        for (int growth = 0; growth < 2; growth++) {
            for (int infill = 0; infill < 2; infill++) {
                char name[64];
                snprintf(name, sizeof name, "%s[%s][%s]", bases[b], growth ? "arith" : "geom", infill ? "df" : "bf");
                method m = parsed(name);
                ck_assert_int_eq(m.policy, SALF_POLICY_BUDGET);
                ck_assert_int_eq(m.growth, growth ? SALF_GROWTH_ARITHMETIC : SALF_GROWTH_GEOMETRIC);
                ck_assert_int_eq(m.infill, infill ? SALF_INFILL_DEPTH : SALF_INFILL_BREADTH);
                ck_assert_int_eq(m.probes, b == 0);
            }
        }
    }
}
END_TEST

START_TEST(metrics) {
    ck_assert_int_eq(parsed("salf").metric, SALF_METRIC_COSINE);
    ck_assert_int_eq(parsed("salf[ce]").metric, SALF_METRIC_CE);
    ck_assert_int_eq(parsed("salf[half][rank]").metric, SALF_METRIC_RANK);
    ck_assert_int_eq(parsed("salf[arith][df][ce]").infill, SALF_INFILL_DEPTH);
    ck_assert_int_eq(parsed("salf[half][cosine]").metric, SALF_METRIC_COSINE);
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
        method m = {.policy = -7};
        ck_assert_msg(method_parse(&m, wrong[i], strlen(wrong[i])) == -1, "'%s' parsed", wrong[i]);
        ck_assert_int_eq(m.policy, -7);
    }
}
END_TEST

START_TEST(known_names_parse) {
    char names[512];
    int n = 0;
    method_known_names(names, sizeof names);
    for (char *name = strtok(names, " "); name; name = strtok(NULL, " ")) {
        parsed(name);
        n++;
    }
    ck_assert_int_eq(n, 14);
    char small[8];
    method_known_names(small, sizeof small);
    ck_assert_int_lt((int)strlen(small), 8);
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

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, published_names);
    HARNESS_ADD(suite, budgets);
    HARNESS_ADD(suite, metrics);
    HARNESS_ADD(suite, not_methods);
    HARNESS_ADD(suite, known_names_parse);
    HARNESS_ADD(suite, lists);
}
