/* Parts of the fine-tuning program: order of the data, budgets over it, checkpoint files, figures. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "decoder.h"
#include "feed.h"
#include "jsonl.h"
#include "tally.h"
#include "tokenizer_train.h"
#include "unit/harness.h"

static method named(const char *name) {
    method m;
    ck_assert_int_eq(method_parse(&m, name, strlen(name)), 0);
    return m;
}

static feed_options sizes(int32_t m, int64_t n, int64_t epochs, int64_t batch) {
    return (feed_options){.n_layers = m, .n_data = n, .epochs = epochs, .batch = batch, .seed = 42};
}

/* Runs a feed to its end without training, PROBE tasks being answered with eof = datum mod m; counts uses of each datum
 * and the data of each layer (-1 goes to 0). Returns the number of tasks. */
static int64_t drain(feed *f, int64_t *uses, int64_t *layers) {
    int64_t tasks = 0;
    for (;;) {
        feed_task task;
        uint8_t accepted[64];
        int32_t eof[64];
        CHECK_OK(feed_next(f, f->options.batch, &task));
        if (task.kind == SALF_TASK_DONE) return tasks;
        tasks++;
        ck_assert_int_gt(task.n, 0);
        ck_assert_int_le(task.n, f->options.batch);
        memset(accepted, 1, sizeof accepted);
        for (int64_t i = 0; i < task.n; i++) eof[i] = (int32_t)(task.data[i] % (uint32_t)f->options.n_layers);
        if (task.kind == SALF_TASK_PROBE) CHECK_OK(salf_planner_report(f->planner, eof, task.n, accepted));
        for (int64_t i = 0; i < task.n; i++) {
            if (!accepted[i]) continue;
            uses[task.data[i]]++;
            layers[task.layer < 0 ? 0 : task.layer]++;
        }
        CHECK_OK(feed_done(f));
    }
}

START_TEST(every_epoch_is_a_shuffle) {
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    method m = named("lora[full]");
    feed_options o = sizes(4, 101, 3, 8);
    feed a, b;
    CHECK_OK(feed_create(&a, context, &m, &o));
    CHECK_OK(feed_create(&b, context, &m, &o));
    ck_assert_mem_eq(a.order, b.order, 303 * sizeof *a.order);
    for (int e = 0; e < 3; e++) {
        int seen[101] = {0};
        for (int i = 0; i < 101; i++) seen[a.order[101 * e + i]]++;
        for (int i = 0; i < 101; i++) ck_assert_int_eq(seen[i], 1);
    }
    ck_assert(memcmp(a.order, a.order + 101, 101 * sizeof *a.order) != 0);
    feed_destroy(&b);
    o.seed = 43;
    CHECK_OK(feed_create(&b, context, &m, &o));
    ck_assert(memcmp(a.order, b.order, 101 * sizeof *a.order) != 0);
    feed_destroy(&b);
    feed_destroy(&a);
    salf_context_destroy(context);
}
END_TEST

START_TEST(every_datum_is_used_once_an_epoch) {
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    const char *names[] = {"lora[full]", "lift[half]", "salf", "salf[half]", "salf[geom][df]", "lift*[arith][bf]"};
    for (int i = 0; i < 6; i++) {
        method m = named(names[i]);
        feed_options o = sizes(5, 67, 2, 16);
        feed f;
        int64_t uses[67] = {0}, layers[5] = {0}, counts[5];
        CHECK_OK(feed_create(&f, context, &m, &o));
        int64_t tasks = drain(&f, uses, layers);
        for (int d = 0; d < 67; d++)
            ck_assert_msg(uses[d] == 2, "%s: datum %d used %d times", names[i], d, (int)uses[d]);
        if (!f.planner) ck_assert_int_eq(tasks, 9);
        if (f.planner) {
            CHECK_OK(salf_planner_counts(f.planner, counts));
            for (int e = 0; e < 5; e++) ck_assert_int_eq(layers[e], counts[e]);
        }
        feed_destroy(&f);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(a_task_stays_until_it_is_done) {
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    const char *names[] = {"lora[half]", "lift*[geom][bf]"};
    for (int i = 0; i < 2; i++) {
        method m = named(names[i]);
        feed_options o = sizes(3, 20, 1, 4);
        feed f;
        feed_task task;
        uint32_t first[4];
        CHECK_OK(feed_create(&f, context, &m, &o));
        CHECK_OK(feed_next(&f, 4, &task));
        int64_t n = task.n;
        memcpy(first, task.data, (size_t)n * sizeof *first);
        CHECK_OK(feed_next(&f, 4, &task));
        ck_assert_int_eq(task.n, n);
        ck_assert_mem_eq(first, task.data, (size_t)n * sizeof *first);
        CHECK_OK(feed_done(&f));
        CHECK_OK(feed_next(&f, 4, &task));
        ck_assert(memcmp(first, task.data, sizeof *first) != 0);
        feed_destroy(&f);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(probe_limit_bounds_each_stage) {
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    method m = named("salf[half]");
    feed_options o = sizes(5, 500, 1, 16);
    o.probe_limit = 1.5;
    feed f;
    int64_t uses[500] = {0}, layers[5] = {0};
    CHECK_OK(feed_create(&f, context, &m, &o));
    drain(&f, uses, layers);
    for (int32_t e = 0; e < 5; e++) {
        salf_stage stage;
        CHECK_OK(salf_planner_get_stage(f.planner, e, &stage));
        ck_assert_int_le(stage.probed, 151);
        ck_assert_int_eq(stage.matched + stage.filled, stage.count);
    }
    feed_destroy(&f);
    salf_context_destroy(context);
}
END_TEST

/* Two methods and two seeds; the figures of the second method. */
static tally_list made_list(method *m, tally *t) {
    m[0] = named("lora[full]");
    m[1] = named("salf[half]");
    for (int i = 0; i < 5; i++) t[i] = (tally){{0}};
    for (int i = 0; i < 4; i++) t[i].v[TALLY_TRAINED] = t[i].v[TALLY_PASSED] = 10;
    for (int i = 1; i < 4; i += 2) {
        t[i].v[TALLY_DEPTH] = 4;
        t[i].v[TALLY_FLOPS] = 30;
        t[i].v[TALLY_FULL_FLOPS] = 40;
        t[i].v[TALLY_PASSED] = 12;
        t[i].v[TALLY_F1] = i == 1 ? 0.5 : 0.7;
    }
    t[0].v[TALLY_CPU] = 8; /* the second seed met a slower machine */
    t[1].v[TALLY_CPU] = 4;
    t[2].v[TALLY_CPU] = 16;
    t[3].v[TALLY_CPU] = 12;
    t[4].v[TALLY_F1] = 0.125;
    return (tally_list){m, 2, 2, t, &t[4]};
}

START_TEST(figures_over_seeds) {
    method m[2];
    tally t[5];
    const tally_list list = made_list(m, t);
    ck_assert_double_eq(tally_saving(&t[1]), 0.4);
    ck_assert_double_eq(tally_predicted(&t[1]), 0.25);
    ck_assert_double_eq(tally_predicted(&t[0]), 0);
    ck_assert_double_eq(tally_figure(&list, 1, TALLY_SAVING).mean, 0.4);
    ck_assert_double_eq(tally_figure(&list, 1, TALLY_PREDICTED).mean, 0.25);
    ck_assert_double_eq(tally_figure(&list, 1, TALLY_FORWARDS).mean, 1.2);
    const tally_spread f1 = tally_figure(&list, 1, TALLY_F1), time = tally_time_ratio(&list, 1);
    ck_assert_double_eq_tol(f1.mean, 0.6, 1e-12);
    ck_assert_double_eq_tol(f1.sd, 0.1 * sqrt(2), 1e-12);
    ck_assert_double_eq_tol(time.mean, (0.5 + 0.75) / 2, 1e-12);
    const tally_list alone = {m + 1, 1, 1, t + 1, NULL};
    ck_assert(isnan(tally_time_ratio(&alone, 0).mean));
    ck_assert_double_eq(tally_figure(&alone, 0, TALLY_F1).sd, 0);
    /* a third of .102, three times, is more than .102: no rounding is a deviation */
    const tally_list equal = {m, 1, 3, t, NULL};
    for (int i = 0; i < 3; i++) t[i].v[TALLY_F1] = 0.102;
    ck_assert_double_eq(tally_figure(&equal, 0, TALLY_F1).mean, 0.102);
    ck_assert_double_eq(tally_figure(&equal, 0, TALLY_F1).sd, 0);
}
END_TEST

START_TEST(table_of_figures) {
    method m[2];
    tally t[5];
    char text[2048] = "";
    tally_list list = made_list(m, t);
    FILE *out = fmemopen(text, sizeof text, "w");
    tally_table(out, &list);
    fclose(out);
    ck_assert(harness_contains(text, "0.600 \302\261.141") && harness_contains(text, "untrained  0.125"));
    ck_assert_msg(harness_contains(text, "   0.62 ") && harness_contains(text, "0.400     1.20\n"), "%s", text);
    list = (tally_list){m + 1, 1, 1, t + 1, NULL};
    out = fmemopen(text, sizeof text, "w");
    tally_table(out, &list);
    fclose(out);
    ck_assert(!harness_contains(text, "untrained") && harness_contains(text, "   cpu "));
    /* A full run shorter than a tick of the processor's clock gives no ratio. */
    list = made_list(m, t);
    t[2].v[TALLY_CPU] = 0;
    out = fmemopen(text, sizeof text, "w");
    tally_table(out, &list);
    fclose(out);
    ck_assert_msg(harness_contains(text, "      - ") && !harness_contains(text, "nan"), "%s", text);
    /* The longest names there are fit 80 columns. */
    snprintf(m[0].name, sizeof m[0].name, "salf[arith][df][stream]");
    list = (tally_list){m, 1, 2, t, &t[4]};
    out = fmemopen(text, sizeof text, "w");
    tally_table(out, &list);
    fclose(out);
    ck_assert_int_le((int)strcspn(text, "\n"), 80);
}
END_TEST

/* Both clocks run while the processor works, however coarse they are. */
START_TEST(laps_of_the_clocks) {
    tally t = {.v = {0}};
    const tally_mark start = tally_now();
    while (t.v[TALLY_CPU] <= 0) t = (tally){.v = {0}}, tally_lap(&t, &start);
    ck_assert(t.v[TALLY_WALL] > 0);
}
END_TEST

/* ---- a whole run on a task that a random model can learn ---- */

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

/* n examples: the class is the colour, the other words are noise. */
static void write_examples(const char *path, int n, uint64_t seed) {
    static const char *const colours[] = {"red", "blue"};
    static const char *const noise[] = {"house", "tree", "car", "boat", "stone"};
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    for (int i = 0; i < n; i++) {
        int class = harness_uniform(&seed) < 0.5;
        fprintf(file, "%s\tthe %s %s", class ? "cold" : "warm", colours[class],
                noise[(int)(5 * harness_uniform(&seed))]);
        fprintf(file, " and %s\n", noise[(int)(5 * harness_uniform(&seed))]);
    }
    fclose(file);
}

typedef struct toy {
    char model[512], tokenizer[512], data[512], log[512];
} toy;

static toy make_toy(int32_t n_layers) {
    toy t;
    char path[600], message[256];
    snprintf(t.model, sizeof t.model, "%s", harness_path("model"));
    snprintf(t.tokenizer, sizeof t.tokenizer, "%s", harness_path("tokenizer.bin"));
    snprintf(t.log, sizeof t.log, "%s", harness_path("log.jsonl"));
    snprintf(t.data, sizeof t.data, "%s", harness_path("labels.txt"));
    write_text(t.data, "warm\ncold\n");
    *strrchr(t.data, '/') = '\0';
    snprintf(path, sizeof path, "%s/train.tsv", t.data);
    write_examples(path, 120, 1);
    snprintf(path, sizeof path, "%s/test.tsv", t.data);
    write_examples(path, 30, 2);
    const char *texts[] = {"the red house and tree", "the blue car and boat", "a stone is warm or cold, warm or cold"};
    tokenizer *words;
    ck_assert_msg(tokenizer_train(&words, texts, 3, 360, message, sizeof message) == 0, "%s", message);
    ck_assert_msg(tokenizer_save(words, t.tokenizer, message, sizeof message) == 0, "%s", message);
    decoder_config c = {
        .n_layers = n_layers, .n_heads = 2, .n_kv_heads = 1, .head_dim = 8, .hidden = 16, .ffn_hidden = 32};
    c.vocab = tokenizer_size(words);
    c.max_positions = 64;
    c.norm_eps = 1e-5;
    c.rope_theta = 10000;
    c.tied = 1;
    c.bos_token = 1;
    c.eos_token = 2;
    decoder *d;
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    ck_assert_msg(decoder_create(&d, context, &c, NULL, 7) == SALF_OK, "%s", decoder_error());
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) { /* states of a size that a random model can tell apart */
        decoder_parameter *p = decoder_parameter_at(d, i);
        for (int64_t j = 0; p->decays && j < p->count; j++) p->values[j] *= 10;
    }
    ck_assert_msg(decoder_save(d, t.model, SALF_F32) == SALF_OK, "%s", decoder_error());
    decoder_free(d);
    tokenizer_destroy(words);
    salf_context_destroy(context);
    return t;
}

typedef struct results {
    int n;
    double f1[8], saving[8], cpu[8];
    int64_t trained[8];
} results;

static int take_result(void *user, const json_t *object) {
    results *r = user;
    if (strcmp(json_string_value(json_object_get(object, "event")), "result") != 0) return 0;
    r->f1[r->n] = json_number_value(json_object_get(object, "f1"));
    r->saving[r->n] = json_number_value(json_object_get(object, "saving"));
    r->cpu[r->n] = json_number_value(json_object_get(object, "cpu_s"));
    r->trained[r->n++] = json_integer_value(json_object_get(object, "trained"));
    return 0;
}

/* Fine-tunes the toy model; more: n further words of the command line. */
static void finetune_toy(const toy *t, const char *const *more, int n) {
    const char *words[] = {"finetune", "--model", t->model,     "--tokenizer", t->tokenizer,    "--data",
                           t->data,    "--log",   t->log,       "--lr",        "0.02",          "--epochs",
                           "2",        "--dense", "--template", "{text} is",   "--label-words", "warm=warm,cold=cold"};
    char *argv[32] = {0}, *kept[32];
    int argc = sizeof words / sizeof words[0];
    for (int i = 0; i < argc + n; i++) {
        const char *word = i < argc ? words[i] : more[i - argc];
        argv[i] = malloc(strlen(word) + 1);
        ck_assert_ptr_nonnull(argv[i]);
        strcpy(argv[i], word);
    }
    argc += n;
    memcpy(kept, argv, sizeof argv);
    ck_assert_int_eq(cmd_finetune(argc, argv), 0);
    for (int i = 0; i < argc; i++) free(kept[i]);
}

START_TEST(a_whole_run_learns) {
    toy t = make_toy(3);
    char message[256];
    results r = {0};
    finetune_toy(&t, (const char *[]){"--method", "lora[full]", "--method=salf[half],lift*[half]"}, 3);
    ck_assert_msg(jsonl_read(t.log, take_result, &r, message, sizeof message) == 0, "%s", message);
    ck_assert_int_eq(r.n, 3);
    ck_assert_double_eq(r.saving[0], 0);
    ck_assert_double_eq_tol(r.saving[1], 1.0 / 3, 1e-9);
    ck_assert_double_eq_tol(r.saving[2], 1.0 / 3, 1e-9);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(r.trained[i], 240);
    for (int i = 0; i < 3; i++) ck_assert(r.cpu[i] >= 0 && r.cpu[i] < 60); /* may be less than a tick of the clock */
    ck_assert_msg(r.f1[0] > 0.95, "macro F1 of lora[full] is %g", r.f1[0]);
    ck_assert_msg(r.f1[1] > 0.8 && r.f1[2] > 0.8, "macro F1 is %g and %g", r.f1[1], r.f1[2]);
}
END_TEST

typedef struct losses {
    const char *second; /* the name of the second method */
    int n[2];
    double of[2][64], sum[2], rows[2]; /* [method][update]; over all rows, and how many there were */
    double forwards;                   /* for each row of the second method */
} losses;

static int take_loss(void *user, const json_t *object) {
    losses *l = user;
    const char *event = json_string_value(json_object_get(object, "event"));
    if (strcmp(event, "result") == 0) l->forwards = json_number_value(json_object_get(object, "forwards"));
    if (strcmp(event, "step") != 0) return 0;
    const int k = strcmp(json_string_value(json_object_get(object, "method")), l->second) == 0;
    const double loss = json_number_value(json_object_get(object, "loss"));
    const double rows = json_number_value(json_object_get(object, "data"));
    ck_assert_int_lt(l->n[k], 64);
    l->of[k][l->n[k]++] = loss;
    l->sum[k] += loss * (rows - l->rows[k]);
    l->rows[k] = rows;
    return 0;
}

/* With one layer block trains the same as the whole: but for moments that begin anew with a turn, and there is one. */
START_TEST(moments_begin_anew_with_a_turn_alone) {
    toy t = make_toy(1);
    char message[256];
    losses l = {.second = "block"};
    finetune_toy(&t, (const char *[]){"--method", "lora[full],block"}, 2);
    ck_assert_msg(jsonl_read(t.log, take_loss, &l, message, sizeof message) == 0, "%s", message);
    ck_assert_int_gt(l.n[0], 8);
    ck_assert_int_eq(l.n[0], l.n[1]);
    for (int i = 0; i < l.n[0]; i++) ck_assert_double_eq(l.of[0][i], l.of[1][i]);
}
END_TEST

/* At a rate that changes no weight the rows' losses add up to the same, in whichever order they come: those of rows that
 * a stage has probed and passed over do not count. */
START_TEST(losses_are_those_of_the_rows_that_train) {
    toy t = make_toy(3);
    char message[256];
    losses l = {.second = "salf[half]"};
    finetune_toy(&t, (const char *[]){"--method", "lora[full],salf[half]", "--lr", "1e-12"}, 4);
    ck_assert_msg(jsonl_read(t.log, take_loss, &l, message, sizeof message) == 0, "%s", message);
    ck_assert_double_eq(l.rows[0], 240);
    ck_assert_double_eq(l.rows[1], 240);
    ck_assert_msg(l.forwards > 1.05, "%g forwards a row: none is passed over", l.forwards);
    ck_assert_double_eq_tol(l.sum[0], l.sum[1], 1e-4 * l.sum[0]);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, a_whole_run_learns);
    HARNESS_ADD(suite, moments_begin_anew_with_a_turn_alone);
    HARNESS_ADD(suite, losses_are_those_of_the_rows_that_train);
    HARNESS_ADD(suite, every_epoch_is_a_shuffle);
    HARNESS_ADD(suite, every_datum_is_used_once_an_epoch);
    HARNESS_ADD(suite, a_task_stays_until_it_is_done);
    HARNESS_ADD(suite, probe_limit_bounds_each_stage);
    HARNESS_ADD(suite, figures_over_seeds);
    HARNESS_ADD(suite, table_of_figures);
    HARNESS_ADD(suite, laps_of_the_clocks);
}
