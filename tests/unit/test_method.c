/* test_method.c - methods by name: what each name of the paper means, metrics behind it, policies, refusals. */
#include <stdio.h>
#include <string.h>

#include "harness.h"

static salf_method find(const char *name) {
    salf_method m = {.struct_size = sizeof m};
    CHECK_OK(salf_method_find(name, &m));
    return m;
}

START_TEST(names_of_the_paper) {
    static const struct {
        const char *name;
        int32_t policy, growth, infill, matching, probes;
    } want[] = {
        {"lora[full]", SALF_POLICY_FULL, 0, 0, SALF_MATCH_NONE, 0},
        {"lora[half]", SALF_POLICY_HALF, 0, 0, SALF_MATCH_NONE, 0},
        {"lift[half]", SALF_POLICY_LIFT, 0, 0, SALF_MATCH_NONE, 0},
        {"lift*[half]", SALF_POLICY_LIFT_STAR, 0, 0, SALF_MATCH_NONE, 0},
        {"lift*[geom][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_BREADTH, SALF_MATCH_NONE, 0},
        {"lift*[geom][df]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_DEPTH, SALF_MATCH_NONE, 0},
        {"lift*[arith][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_BREADTH, SALF_MATCH_NONE, 0},
        {"lift*[arith][df]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_DEPTH, SALF_MATCH_NONE, 0},
        {"salf", SALF_POLICY_SALF, 0, 0, SALF_MATCH_NONE, 1},
        {"salf[half]", SALF_POLICY_BUDGET, SALF_GROWTH_UNIFORM, SALF_INFILL_BREADTH, SALF_MATCH_ONLINE, 1},
        {"salf[geom][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_BREADTH, SALF_MATCH_ONLINE, 1},
        {"salf[geom][df]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_DEPTH, SALF_MATCH_ONLINE, 1},
        {"salf[arith][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_BREADTH, SALF_MATCH_ONLINE, 1},
        {"salf[arith][df]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_DEPTH, SALF_MATCH_ONLINE, 1}};
    const int32_t n = (int32_t)(sizeof want / sizeof *want);
    for (int32_t i = 0; i < n; i++) {
        ck_assert_str_eq(salf_method_name(i), want[i].name);
        const salf_method m = find(want[i].name);
        ck_assert_msg(m.policy == want[i].policy && m.growth == want[i].growth && m.infill == want[i].infill &&
                          m.matching == want[i].matching && m.probes == want[i].probes,
                      "%s", want[i].name);
        ck_assert_int_eq(m.metric, SALF_METRIC_COSINE);
        ck_assert_uint_eq(m.struct_size, sizeof m);
    }
    ck_assert_ptr_null(salf_method_name(n));
    ck_assert_ptr_null(salf_method_name(-1));
}
END_TEST

/* Every metric behind every name that probes, and behind no other. */
START_TEST(metrics_follow_where_data_are_probed) {
    const char *name, *word;
    for (int32_t i = 0; (name = salf_method_name(i)) != NULL; i++)
        for (int32_t metric = 0; (word = salf_constant_word("SALF_METRIC", metric)) != NULL; metric++) {
            char text[64];
            snprintf(text, sizeof text, "%s[%s]", name, word);
            const salf_method plain = find(name);
            salf_method m = {.struct_size = sizeof m};
            if (!plain.probes) {
                CHECK_FAILS(salf_method_find(text, &m), SALF_E_NOT_FOUND, text);
                continue;
            }
            m = find(text);
            ck_assert_int_eq(m.metric, metric);
            m.metric = plain.metric;
            ck_assert_mem_eq(&m, &plain, sizeof m);
        }
}
END_TEST

START_TEST(streams_of_every_budget) {
    static const char *const budgets[] = {"[half]", "[geom][bf]", "[geom][df]", "[arith][bf]", "[arith][df]"};
    static const char *const refused[] = {"salf[stream]",
                                          "lora[half][stream]",
                                          "lift[half][stream]",
                                          "salf[half][stream][x]",
                                          "[half][stream]",
                                          "salf[stream][half]",
                                          "random[half]",
                                          "random[half][stream][ce]",
                                          "salf[half][stream][stream]",
                                          "[stream]"};
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        char text[64];
        snprintf(text, sizeof text, "salf%s", budgets[i]);
        const salf_method plain = find(text);
        salf_method want = plain;
        want.matching = SALF_MATCH_STREAM;
        want.assignment = SALF_ASSIGN_EOF;
        snprintf(text, sizeof text, "salf%s[stream]", budgets[i]);
        salf_method m = find(text);
        ck_assert_mem_eq(&m, &want, sizeof m);
        snprintf(text, sizeof text, "salf%s[stream][rank]", budgets[i]);
        want.metric = SALF_METRIC_RANK;
        m = find(text);
        ck_assert_mem_eq(&m, &want, sizeof m);
        want.metric = 0;
        want.assignment = SALF_ASSIGN_RANDOM;
        want.probes = 0;
        snprintf(text, sizeof text, "lift*%s[stream]", budgets[i]);
        m = find(text);
        ck_assert_mem_eq(&m, &want, sizeof m);
        want.stream_order = SALF_STREAM_MIXED;
        snprintf(text, sizeof text, "random%s[stream]", budgets[i]);
        m = find(text);
        ck_assert_mem_eq(&m, &want, sizeof m);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        salf_method m = {.struct_size = sizeof m};
        CHECK_FAILS(salf_method_find(refused[i], &m), SALF_E_NOT_FOUND, refused[i]);
    }
}
END_TEST

START_TEST(words_of_policies_are_names) {
    const char *word;
    for (int32_t kind = 0; (word = salf_constant_word("SALF_POLICY", kind)) != NULL; kind++) {
        if (kind == SALF_POLICY_BUDGET) continue;
        const salf_method m = find(word);
        ck_assert_int_eq(m.policy, kind);
        ck_assert_int_eq(m.probes, kind == SALF_POLICY_SALF);
        ck_assert_int_eq(m.matching, SALF_MATCH_NONE);
    }
}
END_TEST

START_TEST(other_names_are_refused) {
    static const char *const bad[] = {"",
                                      "budget",
                                      "lora",
                                      "LoRA[full]",
                                      "salf[ce][half]",
                                      "salf[half]]",
                                      "salf[half",
                                      "[ce]",
                                      "lisa[ce]",
                                      "salf[half][ce][ce]",
                                      "salf[quad]",
                                      "lift*[uniform]",
                                      "lift_star[half]",
                                      "salf[half][cosin]",
                                      "salf "};
    salf_method m = {.struct_size = sizeof m, .policy = 77};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_FAILS(salf_method_find(bad[i], &m), SALF_E_NOT_FOUND, "unknown method '");
        ck_assert_ptr_nonnull(strstr(salf_last_error(), bad[i]));
        ck_assert_int_eq(m.policy, 77);
    }
    /* the message lists what there is, each once */
    char known[512] = "known:";
    const char *name;
    for (int32_t i = 0; (name = salf_method_name(i)) != NULL; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), " %s", name);
    for (int32_t kind = 0; (name = salf_constant_word("SALF_POLICY", kind)) != NULL; kind++)
        if (kind != SALF_POLICY_BUDGET) snprintf(known + strlen(known), sizeof known - strlen(known), " %s", name);
    snprintf(known + strlen(known), sizeof known - strlen(known), ", salf[half][stream]");
    ck_assert_str_eq(strstr(salf_last_error(), "known:"), known);
    CHECK_FAILS(salf_method_find(NULL, &m), SALF_E_NULL, "name");
    CHECK_FAILS(salf_method_find("salf", NULL), SALF_E_NULL, "method");
    m.struct_size = 3;
    CHECK_FAILS(salf_method_find("salf", &m), SALF_E_STRUCT, "salf_method");
}
END_TEST

/* An older host's shorter struct gets what it has room for, and nothing behind it is touched. */
START_TEST(shorter_structs_are_filled_as_far_as_they_go) {
    salf_method m = {.struct_size = (uint32_t)((char *)&m.metric - (char *)&m), .metric = 55};
    CHECK_OK(salf_method_find("salf[arith][df]", &m));
    ck_assert_int_eq(m.growth, SALF_GROWTH_ARITHMETIC);
    ck_assert_int_eq(m.matching, SALF_MATCH_ONLINE);
    ck_assert_int_eq(m.probes, 1);
    ck_assert_int_eq(m.metric, 55);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, names_of_the_paper);
    HARNESS_ADD(suite, metrics_follow_where_data_are_probed);
    HARNESS_ADD(suite, streams_of_every_budget);
    HARNESS_ADD(suite, words_of_policies_are_names);
    HARNESS_ADD(suite, other_names_are_refused);
    HARNESS_ADD(suite, shorter_structs_are_filled_as_far_as_they_go);
}
