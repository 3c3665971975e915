/* cmd_advise.c - `salf advise`: a pilot of some minutes on your model and data, and what it says about freezing.
 *
 * The pilot trains the methods below on a part of the data, as much as the time allows, with two or more seeds;
 * advice.c turns its figures into words. How much that is follows from two batches of lora[full] and some test texts,
 * which are timed before.
 *
 * A method at a bad learning rate says nothing of the method. Where you name none, lora[full] tries three on the
 * pilot's training data, and all methods take the one with which it learned best: the mean loss of each batch before it
 * is trained on. Those are data it has not seen, so that no test text has a part in the choice. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "advice.h"
#include "commands.h"
#include "dataset.h"
#include "files.h"
#include "progress.h"
#include "run.h"

/* What is compared, and what all of it costs in times of lora[full]: about 1, .75 three times, .8, and 1. */
static const char *const pilot_methods =
    "lora[full],lora[half],lift*[half],salf[half][stream],random[half][stream],ramp";
enum { N_PILOT = 6, TEST_MOST = 400, TEST_LEAST = 40, UPDATES_LEAST = 4 };
static const double PILOT_COST = 5.1;
/* Rates that lora[full] tries where none is given: the optimum of small models lies there, by docs/evidence.md. */
enum { N_RATES = 3 };
static const double rates_tried[N_RATES] = {0.001, 0.002, 0.004};

typedef struct advise_settings {
    finetune_settings training;
    double minutes;
    const char *report;
} advise_settings;

#define AT(field) offsetof(advise_settings, training) + offsetof(finetune_settings, field)

static const args_option advise_table[] = {
    {"model", 0, ARGS_TEXT, AT(model), "FOLDER", .required = 1, .help = "checkpoint folder"},
    {"tokenizer", 0, ARGS_TEXT, AT(tokenizer), "FILE",
     .help = "tokenizer.json, .bin tokenizer, or a folder with one (default: the model's)"},
    {"data", 0, ARGS_TEXT, AT(data), "FOLDER", .required = 1, .help = "folder with train.tsv, test.tsv and labels.txt"},
    {"minutes", 0, ARGS_REAL, offsetof(advise_settings, minutes), "X", .least = 0.01, .most = 1e5,
     .help = "time for the pilot (default: 5)"},
    {"seeds", 0, ARGS_INT32, AT(seeds), "N", .least = 1, .most = TALLY_SEEDS_MAX,
     .help = "of each method (default: 2)"},
    {"template", 0, ARGS_TEXT, AT(prompt), "TEXT", .help = "prompt with {text} and {text2} (default: the data set's)"},
    {"label-words", 0, ARGS_TEXT, AT(words), "WORDS", .help = "LABEL=word,... or a file (default: the data set's)"},
    {"lr", 0, ARGS_TEXT, AT(rate_text), "X[,M=X...]",
     .help = "peak learning rate, and those of single methods (default: the best of 0.001, 0.002 and 0.004 for "
             "lora[full])"},
    {"rank", 0, ARGS_INT32, AT(lora_rank), "R", .least = 1, .most = 4096, .help = "LoRA rank (default: 8)"},
    {"batch", 0, ARGS_INT, AT(batch), "N", .least = 1, .most = 65536, .help = "data per update (default: 16)"},
    {"lens", 0, ARGS_CHOICE, AT(lens), .family = "SALF_LENS",
     .help = "spaces that get the final norm before they are compared (default: hf, the last)"},
    {"seed", 0, ARGS_SEED, AT(seed), "S", .help = "the first (default: 42)"},
    {"threads", 0, ARGS_INT32, AT(threads), "N", .least = 0, .most = 1024,
     .help = "of trainer and library, 0: as many as BLAS has (default: 0)"},
    {"backend", 0, ARGS_CHOICE, AT(backend), .family = "SALF_BACKEND", .help = "of the library (default: auto)"},
    {"log", 0, ARGS_TEXT, AT(log), "FILE", .place = PLACE_LOG, .help = "write the pilot as JSON lines"},
    {"report", 'o', ARGS_TEXT, offsetof(advise_settings, report), "FILE", .place = PLACE_FILE,
     .help = "write the pilot's report (needs --log)"},
    {"json", 0, ARGS_FLAG, AT(json), .help = "print the advice as one JSON object"},
    {"quiet", 'q', ARGS_FLAG, AT(quiet), .help = "draw no progress bar, and do not say what the pilot runs on"},
};
#undef AT

static const args_command advise_command = {
    .name = "advise",
    .summary = "Says whether freezing pays for a model and data, by a pilot of some minutes.",
    .options = advise_table,
    .n_options = sizeof advise_table / sizeof *advise_table,
};

/* A pilot under way. */
typedef struct pilot {
    advise_settings *o;
    tally tallies[N_PILOT * TALLY_SEEDS_MAX + 1]; /* the last one used: the untrained model */
    double started;                               /* by the clock */
    int64_t of_train;                             /* training data there are */
} pilot;

static double clock_now(void) {
    return tally_now().wall;
}

/* Settings from a command line; -1 to go on, else the exit code. */
static int read_pilot(advise_settings *o, int argc, char **argv) {
    char message[1024];
    o->training = finetune_defaults;
    o->training.seeds = 2;
    o->minutes = 5;
    const int code = args_parse(&advise_command, o, argc, argv, NULL);
    progress_quiet = o->training.quiet;
    if (code >= 0) return code;
    finetune_settings *t = &o->training;
    if (method_list_parse(t->methods, &t->n_methods, pilot_methods, message, sizeof message) != 0)
        return args_fail("advise", "%s", message);
    int wrong = finetune_read_rates(t);
    if (wrong < 0) wrong = finetune_check_log(t);
    if (wrong >= 0) return wrong;
    if (t->seed > (uint64_t)(INT64_MAX - t->seeds)) return args_misuse("advise", "--seeds: there are no seeds left");
    if (o->report && !t->log) return args_misuse("advise", "--report needs --log");
    if (t->prompt && dataset_check_template(t->prompt, message, sizeof message) != 0)
        return args_misuse("advise", "--template: %s", message);
    if (!t->tokenizer) t->tokenizer = t->model; /* in its folder, where Hugging Face puts it */
    return -1;
}

/* Times two batches of lora[full] and some test texts, and from that chooses how much of the data the pilot takes.
 * Returns -1 to go on, else the exit code. */
static int size_pilot(pilot *p) {
    finetune_settings small = p->o->training;
    finetune_settings *o = &p->o->training;
    session s;
    tally spent[2] = {0};
    small.n_methods = small.seeds = 1; /* lora[full] is the first */
    small.log = NULL;
    small.limit_train = 2 * small.batch;
    small.limit_test = TEST_LEAST;
    if (session_open(&s, &small) != 0) return EXIT_CODE_FAILED;
    const double before = clock_now();
    int failed = evaluate_untrained(&s, &spent[1]);
    const double tested = (clock_now() - before) / (double)s.test.n;
    if (!failed) failed = train_method(&s, 0, 0, spent);
    const double trained = spent[0].v[TALLY_WALL] / (double)s.train.n;
    p->of_train = s.n_train_all;
    const int64_t n_test = s.n_test_all;
    session_close(&s);
    if (failed) return EXIT_CODE_FAILED;

    /* A tenth is left for opening models and for what is slower than now. */
    const int tries = o->rate_text ? 0 : N_RATES;
    const double left = 0.9 * 60 * p->o->minutes - (clock_now() - p->started), seed = left / o->seeds;
    const double cost = PILOT_COST + (double)tries / o->seeds; /* of a datum and a seed */
    int64_t tests = n_test < TEST_MOST ? n_test : TEST_MOST;
    while (tests > TEST_LEAST && N_PILOT * (double)tests * tested > 0.3 * seed) tests = tests * 3 / 4;
    const double data = (seed - N_PILOT * (double)tests * tested) / (cost * trained);
    const int64_t most = data < (double)p->of_train ? (int64_t)(data > 0 ? data : 0) : p->of_train;
    o->limit_test = tests;
    o->limit_train = most / o->batch * o->batch;
    if (o->limit_train >= UPDATES_LEAST * o->batch) return -1;
    if (p->of_train < UPDATES_LEAST * o->batch)
        return args_fail("advise", "%s has %lld training data, fewer than %d updates of %lld", o->data,
                         (long long)p->of_train, UPDATES_LEAST, (long long)o->batch);
    const double need = UPDATES_LEAST * (double)o->batch * cost * trained + N_PILOT * (double)tests * tested;
    return args_fail(
        "advise", "--minutes %g: too short for %d updates of each method with %d seeds; about %.2g are needed",
        p->o->minutes, UPDATES_LEAST, (int)o->seeds, (need * o->seeds + clock_now() - p->started) / (0.9 * 60));
}

/* The rate of all methods, by lora[full] on the data that the pilot will train on; lasts as long as N_RATES of its
 * runs. Returns -1 to go on, else the exit code. */
static int choose_rate(pilot *p) {
    finetune_settings one = p->o->training;
    session s;
    if (one.rate_text) return -1;
    one.n_methods = one.seeds = 1; /* lora[full] is the first */
    one.log = NULL;
    one.limit_test = TEST_LEAST;
    if (session_open(&s, &one) != 0) return EXIT_CODE_FAILED;
    double best = INFINITY;
    int failed = 0;
    for (int i = 0; i < N_RATES && !failed; i++) {
        tally spent[2] = {0};
        one.rates[0] = rates_tried[i];
        failed = train_method(&s, 0, 0, spent);
        const double loss = spent[0].v[TALLY_LOSS] / spent[0].v[TALLY_TRAINED];
        if (!(loss < best)) continue; /* also where it diverged */
        best = loss;
        for (int k = 0; k < N_PILOT; k++) p->o->training.rates[k] = rates_tried[i];
    }
    session_close(&s);
    if (!failed && !isfinite(best))
        return args_fail("advise", "training diverges at each learning rate tried, %g ... %g; give another with --lr",
                         rates_tried[0], rates_tried[N_RATES - 1]);
    return failed ? EXIT_CODE_FAILED : -1;
}

/* All methods, seed after seed; a seed that would not end in time is not begun. Returns the seeds done, or -1. */
static int run_pilot(pilot *p, session *s) {
    const int n = run_count(&p->o->training);
    double longest = 0;
    int done = 0, failed = evaluate_untrained(s, &p->tallies[n]);
    while (!failed && done < p->o->training.seeds) {
        const double before = clock_now();
        if (done > 0 && before - p->started + longest > 60 * p->o->minutes) break;
        for (int i = 0; i < N_PILOT && !failed; i++) failed = train_method(s, done * N_PILOT + i, 0, p->tallies);
        if (clock_now() - before > longest) longest = clock_now() - before;
        done++;
    }
    return failed ? -1 : done;
}

/* The advice on standard output. */
static int print_advice(const pilot *p, const session *s, int seeds) {
    const finetune_settings *o = &p->o->training;
    const tally_list list = {o->methods, N_PILOT, seeds, p->tallies, &p->tallies[run_count(o)]};
    static advice a;
    if (advice_make(&a, &list, s->test.n) != 0) return args_fail("advise", "lora[full] is not among the methods");
    const advice_case c = {.model = o->model,
                           .tokenizer = o->tokenizer == o->model ? NULL : o->tokenizer,
                           .data = o->data,
                           .rate = o->rates[a.choice],
                           .rate_chosen = !o->rate_text,
                           .n_train = s->train.n,
                           .n_test = s->test.n,
                           .of_train = p->of_train,
                           .batch = o->batch,
                           .prompt = o->prompt,
                           .label_words = o->words,
                           .lens = o->lens != finetune_defaults.lens ? salf_constant_word("SALF_LENS", o->lens) : NULL,
                           .rank = o->lora_rank != finetune_defaults.lora_rank ? o->lora_rank : 0,
                           .seeds_asked = o->seeds,
                           .seconds = clock_now() - p->started};
    if (!o->json) {
        advice_print(stdout, &a, &list, &c);
        return EXIT_CODE_OK;
    }
    const char *wrong = jsonl_print(advice_json(&a, &list, &c));
    return wrong ? args_fail("advise", "%s", wrong) : EXIT_CODE_OK;
}

/* The pilot and its advice, with the log that is open already. Returns an exit code. */
static int advise(pilot *p, jsonl_writer *log) {
    session s;
    int code = size_pilot(p), seeds = -1;
    if (code < 0) code = choose_rate(p);
    if (code >= 0 || session_open(&s, &p->o->training) != 0) return code >= 0 ? code : EXIT_CODE_FAILED;
    s.log = *log;
    log_run(&s);
    seeds = run_pilot(p, &s);
    const int error = jsonl_close(&s.log);
    *log = s.log;
    if (error && seeds >= 0) args_fail("advise", "--log: %s: %s", p->o->training.log, strerror(error));
    code = seeds > 0 && !error ? print_advice(p, &s, seeds) : EXIT_CODE_FAILED;
    session_close(&s);
    return code;
}

int cmd_advise(int argc, char **argv) {
    static advise_settings settings; /* the pilot borrows it */
    training_command = "advise";
    int code = read_pilot(&settings, argc, argv);
    pilot *p = code < 0 ? calloc(1, sizeof *p) : NULL;
    if (code < 0 && !p) code = args_fail("advise", "out of memory");
    if (code < 0) {
        /* The log is opened, and nobody else's from here on, before the minutes that it takes to fill it. */
        session first = {.settings = &settings.training};
        *p = (pilot){.o = &settings, .started = clock_now()};
        code = log_open(&first, (jsonl_place){0}) == 0 ? EXIT_CODE_OK : EXIT_CODE_FAILED;
        if (!code && settings.report && !file_is_same(settings.training.log, settings.training.log))
            code = args_misuse("advise", "--report: --log %s is no file that a report can be made from",
                               settings.training.log);
        if (!code && settings.report && file_is_same(settings.report, settings.training.log))
            code = args_misuse("advise", "--report: the page would take the place of the log");
        const finetune_settings *o = &settings.training;
        const char *const inputs[][2] = {
            {o->model, "model"}, {o->tokenizer, "tokenizer"}, {o->data, "data"}, {o->words, "label words"}};
        for (size_t i = 0; !code && settings.report && i < sizeof inputs / sizeof *inputs; i++)
            if (file_is_input(settings.report, inputs[i][0]))
                code = args_misuse("advise", "--report: %s is a file of the %s", settings.report, inputs[i][1]);
        if (!code) code = advise(p, &first.log);
        jsonl_close(&first.log);
    }
    free(p);
    training_command = "finetune";
    if (code != EXIT_CODE_OK || !settings.report) return code;
    /* The report has the chart of whole costs. */
    char output[] = "--output", *words[] = {argv[0], NULL, output, NULL};
    char *log = strdup(settings.training.log), *file = strdup(settings.report);
    words[1] = log;
    words[3] = file;
    code = log && file ? cmd_report(4, words) : args_fail("advise", "out of memory");
    free(log);
    free(file);
    return code;
}
