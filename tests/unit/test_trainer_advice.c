/* The verdict of a pilot from made-up figures: each kind of verdict, its words, and its JSON. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "advice.h"
#include "unit/harness.h"

enum { N = 6, SEEDS = 2, TESTS = 400 };
static const char *const names[N] = {"lora[full]",         "lora[half]",           "lift*[half]",
                                     "salf[half][stream]", "random[half][stream]", "ramp"};
static const advice_case pilot = {.model = "model",
                                  .data = "data",
                                  .rate = 0.001,
                                  .n_train = 512,
                                  .n_test = TESTS,
                                  .of_train = 5000,
                                  .batch = 16,
                                  .seeds_asked = 3,
                                  .seconds = 120};

/* A method that saves a quarter of the time; F1 and accuracy are alike, seeds differ by a hundredth. */
typedef struct made {
    method methods[N];
    tally runs[SEEDS * N + 1];
    tally_list list;
} made;

static void make_pilot(made *p, double untrained, const double *f1) {
    memset(p, 0, sizeof *p);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(method_parse(&p->methods[i], names[i], strlen(names[i])), 0);
        for (int k = 0; k < SEEDS; k++) {
            double *v = p->runs[k * N + i].v;
            v[TALLY_F1] = v[TALLY_ACCURACY] = f1[i] + (k ? 0.005 : -0.005);
            v[TALLY_TRAINED] = v[TALLY_PASSED] = 512;
            v[TALLY_CPU] = i == 0 || i == 5 ? 100 : i == 1 ? 70 : 75;
            v[TALLY_FORWARD] = 40;
            v[TALLY_MEMORY] = i == 1 ? 50e6 : 100e6;
            v[TALLY_DEPTH] = i == 1 ? 256 : 0;
            if (i == 3) v[TALLY_MATCHED] = 128, v[TALLY_PROBED] = 512, v[TALLY_MODE] = 0.95;
        }
    }
    p->runs[SEEDS * N].v[TALLY_F1] = p->runs[SEEDS * N].v[TALLY_ACCURACY] = untrained;
    p->list = (tally_list){p->methods, N, SEEDS, p->runs, &p->runs[SEEDS * N]};
}

/* Of an accuracy: two right and two wrong answers more than the test has. */
static double chance_of(double accuracy) {
    const double p = (accuracy * TESTS + 2) / (TESTS + 4);
    return p * (1 - p) / (TESTS + 4);
}

/* Half an interval of two seeds, from the variance of their mean and that of the texts: Student's quantile at .975 of
 * (1 + texts / seeds)^2 degrees of freedom, here by the first terms of its series, which are enough above 100. */
static double half_of(double seeds, double texts) {
    const double freedom = (1 + texts / seeds) * (1 + texts / seeds), z = 1.959964;
    ck_assert(freedom > 100);
    return (z + (z * z * z + z) / 4 / freedom + (5 * pow(z, 5) + 16 * z * z * z + 3 * z) / 96 / freedom / freedom) *
           sqrt(seeds + texts);
}

/* What is printed for it. */
static const char *printed(const advice *a, const tally_list *list) {
    static char text[8192];
    FILE *out = fmemopen(text, sizeof text, "w");
    advice_print(out, a, list, &pilot);
    fclose(out);
    const char *line = text; /* but for the command, every line fits a terminal: three-byte signs are not used */
    for (const char *end; strncmp(line, "To go on", 8) != 0 && (end = strchr(line, '\n')) != NULL; line = end + 1)
        ck_assert_msg(end - line <= 90, "%.*s", (int)(end - line), line); /* "±" is two bytes, twice a line */
    return text;
}

START_TEST(what_is_as_good_and_cheaper) {
    const double f1[N] = {0.80, 0.60, 0.795, 0.70, 0.81, 0.84};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_FREEZE);
    ck_assert_int_eq(a.choice, 2); /* as cheap as random, and before it */
    ck_assert_double_eq_tol(a.lines[2].difference, -0.005, 1e-12);
    ck_assert_double_eq_tol(a.lines[2].difference_half, 1.959964 * sqrt(chance_of(0.795) + chance_of(0.8)), 1e-9);
    ck_assert_double_eq_tol(a.lines[2].half, half_of(0.00005 / 2, chance_of(0.795)), 1e-7);
    ck_assert_double_eq_tol(a.lines[1].memory, 0.5, 1e-12);
    ck_assert_double_eq_tol(a.cached, (70 - 40 * 0.5 * 2 / 3) / 100, 1e-12);
    ck_assert(a.lines[5].front && a.lines[4].front && a.lines[1].front && !a.lines[0].front && !a.lines[2].front);
    const char *text = printed(&a, &p.list);
    ck_assert(harness_contains(text, "Freeze: lift*[half] reached macro F1 0.795") &&
              harness_contains(text, "(untrained"));
    ck_assert(harness_contains(text, "2 of 3 seeds") && harness_contains(text, "25.0 %") &&
              harness_contains(text, "95.0 %"));
    ck_assert(harness_contains(text, "0.040"));
    ck_assert(
        harness_contains(text, "salf finetune --model model --data data --method 'lift*[half]' --lr 0.001 --batch 16"));
    ck_assert(harness_contains(text, "SalfTrainer(model=model, args=args, train_dataset=data, salf=\"lift*[half]\")"));
}
END_TEST

START_TEST(what_may_be_chance) {
    const double f1[N] = {0.80, 0.60, 0.77, 0.70, 0.76, 0.79};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_TRADE);
    ck_assert_int_eq(a.choice, 2);
    ck_assert(harness_contains(printed(&a, &p.list), "Freezing saves, and may cost quality: lift*[half]"));
}
END_TEST

START_TEST(what_does_not_pay) {
    const double f1[N] = {0.80, 0.30, 0.35, 0.40, 0.42, 0.79};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_FULL);
    ck_assert_int_eq(a.choice, 0);
    const char *text = printed(&a, &p.list);
    ck_assert(harness_contains(text, "Freezing does not pay here") && harness_contains(text, "--method 'lora[full]'"));
    ck_assert(harness_contains(text, "\nTrainer(model=model"));
}
END_TEST

/* Two seeds that differ by .1, with 400 texts: their deviation has little more than one degree of freedom, and 1.96 of it
 * would hold in three cases of four. */
START_TEST(two_seeds_say_little_of_their_deviation) {
    const double f1[N] = {0.80, 0.60, 0.75, 0.70, 0.76, 0.79};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    for (int k = 0; k < SEEDS; k++) p.runs[k * N + 2].v[TALLY_F1] = k ? 0.80 : 0.70;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    const double seeds = 0.005 / 2, texts = chance_of(0.75);
    ck_assert_double_eq_tol((1 + texts / seeds) * (1 + texts / seeds), 1.40, 0.02); /* quantile 6.4, this series' 5.9 */
    ck_assert(a.lines[2].half > 5.8 * sqrt(seeds + texts) && a.lines[2].half < 6.4 * sqrt(seeds + texts));
}
END_TEST

/* Where classes are of unequal sizes macro F1 varies more than accuracy does. */
START_TEST(chance_is_that_of_macro_f1) {
    const double f1[N] = {0.80, 0.60, 0.75, 0.70, 0.76, 0.79};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    p.list.n_seeds = 1;
    p.runs[0].v[TALLY_VARIANCE] = 0.0025;
    p.runs[2].v[TALLY_VARIANCE] = 0.0075;
    p.runs[1].v[TALLY_VARIANCE] = 1e-9; /* not below an accuracy's */
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_double_eq_tol(a.lines[0].half, 1.959964 * 0.05, 1e-9);
    ck_assert_double_eq_tol(a.lines[2].difference_half, 1.959964 * 0.1, 1e-9);
    ck_assert_double_eq_tol(a.lines[1].half, 1.959964 * sqrt(chance_of(f1[1] - 0.005)), 1e-9);
}
END_TEST

/* What is said is said of the best of those that save: another one, whose seeds differ by .5, may lose by chance. And
 * where nothing saves, none of those that do can lose. */
START_TEST(freezing_does_not_pay_for_a_reason) {
    const double f1[N] = {0.90, 0.40, 0.60, 0.40, 0.70, 0.89};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    for (int k = 0; k < SEEDS; k++) p.runs[k * N + 2].v[TALLY_F1] = k ? 0.85 : 0.35;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_FULL);
    ck_assert(a.lines[2].difference_half > 0.3);
    json_t *all = advice_json(&a, &p.list, &pilot); /* whose words are not broken into lines */
    const char *words = json_string_value(json_object_get(all, "words"));
    ck_assert(harness_contains(words, "random[half][stream], reached 0.200 less, where chance alone makes"));
    json_decref(all);
    make_pilot(&p, 0.2, f1);
    for (int i = 0; i < SEEDS * N; i++) p.runs[i].v[TALLY_CPU] = 100, p.runs[i].v[TALLY_MEMORY] = 1e8;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_FULL);
    all = advice_json(&a, &p.list, &pilot);
    ck_assert(harness_contains(json_string_value(json_object_get(all, "words")), "no method saved a twentieth"));
    json_decref(all);
}
END_TEST

/* Five layers have their cut at the second: what is kept spares two fifths of a forward, not half of it. */
START_TEST(kept_states_of_an_odd_number_of_layers) {
    const double f1[N] = {0.80, 0.60, 0.795, 0.70, 0.81, 0.84};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    for (int k = 0; k < SEEDS; k++) p.runs[k * N + 1].v[TALLY_DEPTH] = 0.4 * 512;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_double_eq_tol(a.cached, (70 - 40 * 0.4 * 2 / 3) / 100, 1e-12);
}
END_TEST

/* A pilot shorter than a tick of the processor's clock: no cost is compared, nothing is drawn as long as "not a number". */
START_TEST(what_took_no_time) {
    const double f1[N] = {0.80, 0.60, 0.795, 0.70, 0.81, 0.84};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    for (int i = 0; i < N; i++) p.runs[i].v[TALLY_CPU] = 0;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_UNTIMED);
    ck_assert_int_eq(a.choice, 0);
    const char *text = printed(&a, &p.list);
    ck_assert_msg(harness_contains(text, "training took less time than this machine's clock"), "%s", text);
    ck_assert_msg(!harness_contains(text, "nan") && !harness_contains(text, "##"), "%s", text);
    json_t *json = advice_json(&a, &p.list, &pilot);
    ck_assert_ptr_nonnull(json);
    ck_assert_str_eq(json_string_value(json_object_get(json, "verdict")), "cannot_say");
    json_decref(json);
}
END_TEST

START_TEST(what_taught_nothing) {
    const double f1[N] = {0.22, 0.21, 0.20, 0.22, 0.21, 0.22};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_int_eq(a.verdict, ADVICE_UNTAUGHT);
    ck_assert(harness_contains(printed(&a, &p.list), "The pilot cannot say"));
}
END_TEST

START_TEST(one_seed_and_what_is_missing) {
    const double f1[N] = {0.80, 0.60, 0.795, 0.70, 0.81, 0.84};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    p.list.n_seeds = 1;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_double_eq_tol(a.lines[0].half, 1.959964 * sqrt(chance_of(0.795)), 1e-9);
    p.runs[0].v[TALLY_F1] = p.runs[0].v[TALLY_ACCURACY] = 1; /* all right: not certain for that */
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    ck_assert_double_eq_tol(a.lines[0].half, 1.959964 * sqrt(chance_of(1)), 1e-9);
    ck_assert(a.lines[0].half > 1.0 / TESTS);
    ck_assert(harness_contains(printed(&a, &p.list), "one seed does not tell by how much seeds differ"));
    p.list.methods = p.methods + 1;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), -1);
    make_pilot(&p, 0.2, f1);
    p.list.untrained = NULL;
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), -1);
}
END_TEST

START_TEST(as_json) {
    const double f1[N] = {0.80, 0.60, 0.795, 0.70, 0.81, 0.84};
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    json_t *all = advice_json(&a, &p.list, &pilot);
    ck_assert_ptr_nonnull(all);
    ck_assert_str_eq(json_string_value(json_object_get(all, "verdict")), "freeze");
    ck_assert_str_eq(json_string_value(json_object_get(all, "method")), "lift*[half]");
    ck_assert(harness_contains(json_string_value(json_object_get(all, "words")), "Freeze: lift*[half]"));
    ck_assert_int_eq(json_integer_value(json_object_get(all, "test")), TESTS);
    const json_t *one = json_array_get(json_object_get(all, "methods"), 2);
    ck_assert_double_eq_tol(json_real_value(json_object_get(one, "difference")), -0.005, 1e-12);
    ck_assert_double_eq_tol(json_real_value(json_object_get(one, "time")), 0.75, 1e-12);
    ck_assert(json_is_false(json_object_get(one, "front")));
    json_decref(all);
}
END_TEST

/* The command trains as the pilot did, and a shell reads in it what the user wrote; a path may have any bytes. */
START_TEST(the_command_repeats_what_was_given) {
    const double f1[N] = {0.80, 0.60, 0.60, 0.81, 0.60, 0.60};
    advice_case c = pilot;
    made p;
    advice a;
    make_pilot(&p, 0.2, f1);
    ck_assert_int_eq(advice_make(&a, &p.list, TESTS), 0);
    c.model = "my \xff model";
    c.prompt = "{text} It's:";
    c.label_words = "words.txt";
    c.lens = "normed";
    c.rank = 4;
    json_t *all = advice_json(&a, &p.list, &c);
    ck_assert_ptr_nonnull(all);
    ck_assert_str_eq(
        json_string_value(json_object_get(all, "command")),
        "salf finetune --model 'my \xff model' --data data --template '{text} It'\\''s:' "
        "--label-words words.txt --method 'salf[half][stream]' --lr 0.001 --batch 16 --rank 4 --lens normed");
    json_decref(all);
    a.choice = a.full; /* which looks through no lens */
    all = advice_json(&a, &p.list, &c);
    ck_assert(!harness_contains(json_string_value(json_object_get(all, "command")), "--lens"));
    json_decref(all);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, what_is_as_good_and_cheaper);
    HARNESS_ADD(suite, what_may_be_chance);
    HARNESS_ADD(suite, what_does_not_pay);
    HARNESS_ADD(suite, what_taught_nothing);
    HARNESS_ADD(suite, two_seeds_say_little_of_their_deviation);
    HARNESS_ADD(suite, chance_is_that_of_macro_f1);
    HARNESS_ADD(suite, freezing_does_not_pay_for_a_reason);
    HARNESS_ADD(suite, kept_states_of_an_odd_number_of_layers);
    HARNESS_ADD(suite, what_took_no_time);
    HARNESS_ADD(suite, one_seed_and_what_is_missing);
    HARNESS_ADD(suite, as_json);
    HARNESS_ADD(suite, the_command_repeats_what_was_given);
}
