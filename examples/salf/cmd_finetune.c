/* cmd_finetune.c - `salf finetune`: options, defaults, the methods one after the other, the table. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "dataset.h"
#include "files.h"
#include "progress.h"
#include "run.h"
#include "stop.h"

/* ---- options ---- */

enum { PATH_SIZE = 4096 };

/* What is not zero by default. Rate, rank and alpha suit the small models that this trainer is for. */
#define DEFAULT_RATE 2e-3
const finetune_settings finetune_defaults = {
    .schedule = SCHEDULE_LINEAR,
    .reduction = SALF_REDUCE_PREFIX,
    .lora_rank = 8,
    .lora_alpha = 16,
    .targets = SALF_MATRIX_ALL,
    .warmup = 0.05,
    .clip = 1,
    .temperature = 1,
    .probe_limit = 0.5,
    .batch = 16,
    .epochs = 1,
    .checkpoint_every = 50,
    .seed = 42,
    .seeds = 1,
};

/* Words of the program's own enumerations; all others are the library's. */
const char *const loss_words[] = {
    [LOSS_LM] = "lm",
    [LOSS_COSINE] = "cosine",
    [LOSS_SEMANTIC_CE] = "semantic-ce",
    NULL,
};
const char *const eof_words[] = {
    [EOF_PROBE] = "probe",
    [EOF_CLASS] = "class",
    [EOF_CHANCE] = "chance",
    NULL,
};
static const char *const schedule_words[] = {
    [SCHEDULE_CONSTANT] = "constant",
    [SCHEDULE_LINEAR] = "linear",
    [SCHEDULE_COSINE] = "cosine",
    NULL,
};

#define AT(field) offsetof(finetune_settings, field)

const args_option finetune_table[] = {
    {"model", 0, ARGS_TEXT, AT(model), "FOLDER",
     .help = "checkpoint folder whose layers are known, as `salf doctor FOLDER` tells (default: the demonstration's)"},
    {"valid-vocab", 0, ARGS_INT, AT(valid_vocab), "N", .least = 1, .most = INT32_MAX, .help = VALID_VOCAB_HELP},
    {"accept", 0, ARGS_TEXT, AT(accept), "KEY,...", .help = ACCEPT_HELP},
    {"tokenizer", 0, ARGS_TEXT, AT(tokenizer), "FILE",
     .help = "tokenizer.json, .bin tokenizer, or a folder with one (default: the model's)"},
    {"data", 0, ARGS_TEXT, AT(data), "FOLDER", .help = "folder with train.tsv, test.tsv and labels.txt"},
    {"method", 0, ARGS_TEXTS, AT(lists), "M[,M...]",
     .help = "methods, also repeated (default: lora[full],lora[half],lift*[half],salf[half][stream])"},
    {"template", 0, ARGS_TEXT, AT(prompt), "TEXT", .help = "prompt with {text} and {text2} (default: the data set's)"},
    {"label-words", 0, ARGS_TEXT, AT(words), "WORDS",
     .help = "LABEL=word,... or a file of label<TAB>word (default: the data set's)"},
    {"loss", 0, ARGS_CHOICE, AT(loss), .words = loss_words,
     .help = "training loss at the last prompt token (default: lm)"},
    {"dense", 0, ARGS_FLAG, AT(dense), .help = "train the layers' own weights, no LoRA"},
    {"rank", 0, ARGS_INT32, AT(lora_rank), "R", .least = 1, .most = 4096, .help = "LoRA rank (default: 8)"},
    {"alpha", 0, ARGS_REAL, AT(lora_alpha), "A", .least = 1e-6, .most = 1e6,
     .help = "LoRA scale times rank (default: 16)"},
    {"targets", 0, ARGS_MASK, AT(targets), .family = "SALF_MATRIX",
     .help = "matrices with LoRA, a list (default: all)"},
    {"lr", 0, ARGS_TEXT, AT(rate_text), "X[,M=X...]",
     .help = "peak learning rate, and those of single methods (default: 0.002)"},
    {"schedule", 0, ARGS_CHOICE, AT(schedule), .words = schedule_words,
     .help = "of the learning rate after the warm-up (default: linear)"},
    {"warmup", 0, ARGS_REAL, AT(warmup), "SHARE", .least = 0, .most = 1,
     .help = "share of the run in which the rate rises (default: 0.05)"},
    {"weight-decay", 0, ARGS_REAL, AT(weight_decay), "X", .least = 0, .most = 10, .help = "of AdamW (default: 0)"},
    {"clip", 0, ARGS_REAL, AT(clip), "NORM", .least = 0, .most = 1e9,
     .help = "largest gradient norm, 0: none (default: 1)"},
    {"batch", 0, ARGS_INT, AT(batch), "N", .least = 1, .most = 65536, .help = "data per update (default: 16)"},
    {"epochs", 0, ARGS_INT, AT(epochs), "N", .least = 1, .most = 10000,
     .help = "passes over the data; a budget is one plan over all of them (default: 1)"},
    {"first-layer", 0, ARGS_INT32, AT(first_layer), "K", .least = 0, .most = INT32_MAX, .given = AT(first_layer_given),
     .help = "method suffix: the lowest layer that trains"},
    {"reduction", 0, ARGS_CHOICE, AT(reduction), .family = "SALF_REDUCE",
     .help = "cut of a batch in method salf (default: prefix, each row at its own)"},
    {"matching", 0, ARGS_CHOICE, AT(matching), .family = "SALF_MATCH",
     .help = "budgets of salf: probe when a layer's turn comes, or all data before, or draw at random, or train every "
             "datum when it comes (default: online)"},
    {"assignment", 0, ARGS_CHOICE, AT(assignment), .family = "SALF_ASSIGN", .given = AT(assignment_given),
     .help = "streams of salf: which row of a batch gets which of its cuts (default: the method's own, eof)"},
    {"stream-order", 0, ARGS_CHOICE, AT(stream_order), .family = "SALF_STREAM", .given = AT(stream_order_given),
     .help = "streams: shallow cuts first, or all cuts at all times (default: the method's own)"},
    {"probe-limit", 0, ARGS_REAL, AT(probe_limit), "X", .least = 0, .most = 1e9, .given = AT(probe_limit_given),
     .help = "online: most data probed for a layer, in multiples of data / layers, 0: no limit, as in Algorithm 4 "
             "(default: 0.5)"},
    {"eof-from", 0, ARGS_CHOICE, AT(eof_from), .words = eof_words,
     .help = "what decides the layer of probed data: the probe, or, as controls, their class or chance (default: "
             "probe)"},
    {"as-published", 0, ARGS_FLAG, AT(as_published), .help = "book arith with bf as the paper's Table 5 does"},
    {"lens", 0, ARGS_CHOICE, AT(lens), .family = "SALF_LENS",
     .help = "spaces that get the final norm before they are compared (default: hf, the last)"},
    {"temperature", 0, ARGS_REAL, AT(temperature), "T", .least = 1e-6, .most = 1e6,
     .help = "of ce and semantic-ce (default: 1)"},
    {"whole-vocabulary", 0, ARGS_FLAG, AT(whole_vocabulary),
     .help = "predict over all tokens, not only the label words"},
    {"limit-train", 0, ARGS_INT, AT(limit_train), "N", .least = 1, .most = 4e9,
     .help = "use N training data, spread evenly"},
    {"limit-test", 0, ARGS_INT, AT(limit_test), "N", .least = 1, .most = 4e9, .help = "use N test data, spread evenly"},
    {"seed", 0, ARGS_SEED, AT(seed), "S", .help = "(default: 42)"},
    {"seeds", 0, ARGS_INT32, AT(seeds), "N", .least = 1, .most = TALLY_SEEDS_MAX,
     .help = "train each method with N seeds, from --seed on, and give mean and deviation (default: 1)"},
    {"threads", 0, ARGS_INT32, AT(threads), "N", .least = 0, .most = 1024,
     .help = "of trainer and library, 0: as many as BLAS has (default: 0)"},
    {"backend", 0, ARGS_CHOICE, AT(backend), .family = "SALF_BACKEND", .help = "of the library (default: auto)"},
    {"cache", 0, ARGS_TEXT, AT(cache_text), "SIZE[,bf16]",
     .help = "with several epochs: keep states of data at the layer below which nothing trains any more, up to SIZE "
             "bytes (K, M, G behind it)"},
    {"cache-folder", 0, ARGS_TEXT, AT(cache_folder), "FOLDER",
     .help = "keep them in a file there (default: in memory)"},
    {"json", 0, ARGS_FLAG, AT(json), .help = "print the results as one JSON object"},
    {"quiet", 'q', ARGS_FLAG, AT(quiet), .help = "draw no progress bar, and do not say what the run runs on"},
    {"log", 0, ARGS_TEXT, AT(log), "FILE", .place = PLACE_LOG, .help = "write the run as JSON lines"},
    {"eval-every", 0, ARGS_INT, AT(eval_every), "N", .least = 0, .most = 1e15,
     .help = "also test after every N updates, for the report (default: 0, at the end only)"},
    {"output", 0, ARGS_TEXT, AT(output), "FOLDER", .place = PLACE_FOLDER,
     .help = "write the fine-tuned model; with several methods or seeds a folder for each"},
    {"checkpoint", 0, ARGS_TEXT, AT(checkpoint), "FOLDER", .place = PLACE_FOLDER,
     .help = "keep the run here, so that a killed one can be gone on with"},
    {"checkpoint-every", 0, ARGS_INT, AT(checkpoint_every), "N", .least = 1, .most = 1e15,
     .help = "updates between checkpoints (default: 50)"},
    {"resume", 0, ARGS_FLAG, AT(resume),
     .help =
         "go on from the checkpoint, or start where there is none; without it nothing that is there is overwritten"},
    {"stop-after", 0, ARGS_INT, AT(stop_after), "N", .least = 1, .most = 1e15,
     .help = "end abruptly after N updates, as if killed (for tests)"},
};
const int finetune_n_options = sizeof finetune_table / sizeof *finetune_table;
#undef AT

/* ---- the demonstration as default ---- */

/* Its folder: SALF_DEMO, else examples/demo of the tree this program was built in (two folders above build/bin), else
 * ../share/salf/demo beside an installed bin. Returns 0, or -1 when there is none. */
static int demo_folder(char *out, size_t size) {
    /* The folder of the program is asked of the kernel: argv[0] may be a bare name found in PATH. */
    static const char *const below[] = {"/../../examples/demo", "/../share/salf/demo"};
    char program[PATH_SIZE];
    const char *given = getenv("SALF_DEMO");
    if (given) return snprintf(out, size, "%s", given) < (int)size ? 0 : -1;
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) return -1;
    program[n] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
        struct stat found;
        int used = snprintf(out, size, "%s%s", program, below[i]);
        if (used > 0 && used < (int)size && stat(out, &found) == 0) return 0;
    }
    return -1;
}

/* Model, tokenizer and data that were not given. Returns -1 to go on, else the exit code. */
static int find_demonstration(finetune_settings *o) {
    static const char *const parts[] = {"model", "tokenizer.bin", "data"};
    static char folder[PATH_SIZE - 32], paths[3][PATH_SIZE]; /* borrowed by the settings until the program ends */
    const char **const settings[] = {&o->model, &o->tokenizer, &o->data};
    if (o->model && o->tokenizer && o->data) return -1;
    if (o->model && !o->tokenizer) o->tokenizer = o->model; /* in its folder, where Hugging Face puts it */
    if (o->model && o->data) return -1;
    if (demo_folder(folder, sizeof folder) != 0)
        return args_misuse("finetune",
                           "--model, --tokenizer and --data are needed: the demonstration's were not found");
    for (int i = 0; i < 3; i++) {
        if (*settings[i]) continue;
        snprintf(paths[i], sizeof paths[i], "%s/%s", folder, parts[i]);
        *settings[i] = paths[i];
    }
    return -1;
}

/* Learning rates from "X,method=X,...", in any order: a number alone is for all methods that are not named. Returns -1
 * to go on, else the exit code. */
int finetune_read_rates(finetune_settings *o) {
    double common = DEFAULT_RATE;
    int named[METHODS_MAX] = {0};
    for (const char *at = o->rate_text; at && *at;) {
        const int length = (int)strcspn(at, ",");
        const char *equals = memchr(at, '=', (size_t)length), *number = equals ? equals + 1 : at;
        char *end;
        const double rate = strtod(number, &end);
        if (end != at + length || end == number || !(rate >= 1e-12 && rate <= 10))
            return args_misuse(training_command, "--lr: '%.*s' is not a rate of 1e-12 ... 10", length, at);
        int found = -1;
        for (int i = 0; equals && i < o->n_methods; i++) {
            const char *name = o->methods[i].name;
            if (strlen(name) == (size_t)(equals - at) && !strncmp(name, at, strlen(name))) found = i;
        }
        if (equals && found < 0)
            return args_misuse(training_command, "--lr: '%.*s' is not among the methods", (int)(equals - at), at);
        if (found >= 0 && named[found]++)
            return args_misuse(training_command, "--lr: '%s' is there twice", o->methods[found].name);
        *(found < 0 ? &common : &o->rates[found]) = rate;
        at += length + (at[length] == ',');
    }
    for (int i = 0; i < o->n_methods; i++)
        if (!named[i]) o->rates[i] = common;
    return -1;
}

int finetune_check_log(const finetune_settings *o) {
    if (!o->log || o->json || (strcmp(o->log, "-") != 0 && strcmp(o->log, "/dev/stdout") != 0)) return -1;
    return args_misuse(training_command, "--log: %s is where the table goes; with --json all of it is lines of JSON",
                       o->log);
}

/* The room that --cache names, "512M" or "2G,bf16". Returns -1 to go on, else the exit code. */
static int read_cache(finetune_settings *o) {
    static const char units[] = "KMGT";
    const char *text = o->cache_text;
    char *end;
    if (!text && o->cache_folder) return args_misuse("finetune", "--cache-folder needs --cache");
    if (!text) return -1;
    double size = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        size *= pow(1024, (double)(unit - units + 1));
        end++;
    }
    o->cache_bf16 = strcmp(end, ",bf16") == 0;
    if (end == text || (*end && !o->cache_bf16) || !(size >= 1 && size <= 0x1p60))
        return args_misuse("finetune", "--cache: '%s' is not a size such as 512M, 2G or 2G,bf16", text);
    o->cache_bytes = (int64_t)size;
    return -1;
}

/* An option that would change nothing in this run is refused: whoever gives it believes that it does. Returns -1 to go
 * on, else the exit code. */
static int find_idle_option(const finetune_settings *o) {
    const finetune_settings *d = &finetune_defaults;
    int per_batch = 0, matched = 0, streams = 0, assigned = 0, limited = 0, suffix = 0, published = 0, looks = 0,
        decides = 0, keeps = 0, stays;
    int entropy = o->loss == LOSS_SEMANTIC_CE;
    /* 1. what the methods of the run look at (methods.c, feed.c) */
    for (int i = 0; i < o->n_methods; i++) {
        const salf_method *how = &o->methods[i].how;
        const int budget = how->policy == SALF_POLICY_BUDGET, named = how->matching == SALF_MATCH_STREAM;
        const int matching = named || !how->probes ? how->matching : o->matching;
        const int stream = budget && matching == SALF_MATCH_STREAM;
        const int assignment = o->assignment_given ? o->assignment : named ? how->assignment : SALF_ASSIGN_EOF;
        const int order = o->stream_order_given ? o->stream_order : named ? how->stream_order : SALF_STREAM_STAGED;
        const int chosen = how->probes && (stream ? assignment != SALF_ASSIGN_RANDOM : matching != SALF_MATCH_NONE);
        per_batch |= how->policy == SALF_POLICY_SALF;
        matched |= budget && how->probes && !named;
        streams |= stream;
        assigned |= stream && how->probes;
        limited |= budget && chosen && (stream ? order == SALF_STREAM_STAGED : matching == SALF_MATCH_ONLINE);
        /* a rule by gains looks at deviations alone, one by eof at what --eof-from puts in their place */
        const int each = how->policy == SALF_POLICY_SALF;
        const int by_gain = each ? o->reduction == SALF_REDUCE_MEAN_GAIN : stream && assignment == SALF_ASSIGN_GAIN;
        const int looked = (chosen || each) && (by_gain || o->eof_from == EOF_PROBE);
        decides |= (chosen || each) && !by_gain;
        looks |= looked;
        keeps |= boundary_rises(&o->methods[i], stream && order == SALF_STREAM_MIXED, &stays);
        suffix |= how->policy == SALF_POLICY_SUFFIX;
        published |= budget && how->growth == SALF_GROWTH_ARITHMETIC && how->infill == SALF_INFILL_BREADTH;
        entropy |= (looked || (how->probes && o->log)) && how->metric == SALF_METRIC_CE;
    }
    /* 2. what was asked for; an option with its default asks for nothing */
    const struct {
        const char *name;
        int asked, used;
        const char *why;
    } options[] = {
        {"reduction", o->reduction != d->reduction, per_batch, "no method is salf"},
        {"matching", o->matching != d->matching, matched, "no method is a budget of salf without [stream]"},
        {"assignment", o->assignment_given, assigned, "no method is a stream of salf"},
        {"stream-order", o->stream_order_given, streams, "no method is a stream"},
        {"probe-limit", o->probe_limit_given, limited, "no method is a budget that probes for a layer"},
        {"first-layer", o->first_layer_given, suffix, "no method is suffix"},
        {"as-published", o->as_published, published, "no method is a budget [arith][bf]"},
        {"eof-from", o->eof_from != d->eof_from, decides, "no method decides by the eof of its probes"},
        {"lens", o->lens != d->lens, looks || o->log,
         "no method looks at deviations, and there is no --log of deviations"},
        {"temperature", o->temperature < 1 || o->temperature > 1, entropy, "neither loss nor a method has ce"},
        {"rank", o->lora_rank != d->lora_rank, !o->dense, "--dense trains without LoRA"},
        {"alpha", o->lora_alpha < d->lora_alpha || o->lora_alpha > d->lora_alpha, !o->dense,
         "--dense trains without LoRA"},
        {"targets", o->targets != d->targets, !o->dense, "--dense trains all matrices"},
        {"cache", o->cache_text != NULL, o->epochs > 1, "states are kept for further --epochs, and there is one"},
        {"cache", o->cache_text != NULL, keeps, "no method comes to layers below which nothing trains any more"},
        {"eval-every", o->eval_every != 0, o->log != NULL, "its results go to the --log, and there is none"},
        {"checkpoint-every", o->checkpoint_every != d->checkpoint_every, o->checkpoint != NULL,
         "there is no --checkpoint"},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].asked && !options[i].used)
            return args_misuse("finetune", "--%s: %s", options[i].name, options[i].why);
    return suffix && !o->first_layer_given ? args_misuse("finetune", "method suffix needs --first-layer") : -1;
}

/* Settings from a command line; -1 to go on, else the exit code. */
static int read_settings(finetune_settings *o, int argc, char **argv) {
    char notes[1024], message[1024];
    method_describe_names(notes, sizeof notes);
    const args_command command = {.name = "finetune",
                                  .summary = "Fine-tune a model on a classification task, with one or more methods.",
                                  .notes = notes,
                                  .options = finetune_table,
                                  .n_options = finetune_n_options};
    *o = finetune_defaults;
    const int code = args_parse(&command, o, argc, argv, NULL);
    progress_quiet = o->quiet;
    if (code >= 0) return code;
    if (o->lists.n == 0) o->lists = (args_texts){1, {"lora[full],lora[half],lift*[half],salf[half][stream]"}};
    for (int32_t i = 0; i < o->lists.n; i++) {
        if (method_list_parse(o->methods, &o->n_methods, o->lists.text[i], message, sizeof message) != 0)
            return args_misuse("finetune", "--method: %s", message);
    }
    for (int i = 0; i < o->n_methods; i++) {
        const int32_t policy = o->methods[i].how.policy;
        if (policy == SALF_POLICY_SCRIPTED || policy == SALF_POLICY_CALLBACK)
            return args_misuse("finetune", "--method: '%s' takes its cuts from a host's own code", o->methods[i].name);
    }
    int wrong = finetune_read_rates(o);
    if (wrong < 0) wrong = finetune_check_log(o);
    if (wrong < 0) wrong = read_cache(o);
    if (wrong < 0) wrong = find_idle_option(o);
    if (wrong >= 0) return wrong;
    if (o->seed > (uint64_t)(INT64_MAX - o->seeds)) return args_misuse("finetune", "--seeds: there are no seeds left");
    const char *const folders[] = {o->output, o->checkpoint};
    for (int i = 0; i < 2; i++)
        if (folders[i] && !strcmp(folders[i], "-"))
            return args_misuse("finetune", "--%s: '-' is standard output, and a folder is needed",
                               i ? "checkpoint" : "output");
    if (o->resume && !o->checkpoint) return args_misuse("finetune", "--resume needs --checkpoint");
    if (o->log && !o->checkpoint && jsonl_is_begun(o->log)) /* with a run in the folder, --resume is the answer */
        return args_fail("finetune", "--log: %s: %s", o->log, jsonl_begun);
    if (o->prompt && dataset_check_template(o->prompt, message, sizeof message) != 0)
        return args_misuse("finetune", "--template: %s", message);
    return find_demonstration(o);
}

/* ---- the run ---- */

/* The runs one after the other, those that a checkpoint has left out. */
static int run_all(session *s, tally *tallies) {
    const finetune_settings *o = s->settings;
    runstate_start start = {0};
    if ((double)s->train.n * (double)o->epochs > 4294967295.0) { /* a planner's ids have 32 bits */
        args_fail("finetune", "--epochs: %lld passes over %lld data are more than 2^32-1 data", (long long)o->epochs,
                  (long long)s->train.n);
        return -1;
    }
    if (s->n_shortened)
        fprintf(stderr, "salf finetune: %lld prompts were shortened to the model's %lld positions\n",
                (long long)s->n_shortened, (long long)s->info.max_positions);
    /* A first save, before the first line of the log: whenever the run is killed, it is known whose log that is. */
    if (o->checkpoint && runstate_begin(s, &start, tallies) != 0) return -1;
    if (check_done_outputs(o, start.finished) != 0) return -1;
    if (log_open(s, start.log) != 0) return -1;
    if (s->log.file && s->log.file != stdout && !start.log.bytes && (start.inside || start.finished))
        args_say(0, "finetune", "--log: %s begins where the checkpoint was made: there was no log of what came before",
                 o->log);
    int failed = o->checkpoint && !start.found ? runstate_save(s, NULL, 0, tallies) : 0;
    if (!failed && !start.log.bytes) log_run(s);
    stop_watch();
    s->may_stop = 1;
    if (!failed && !start.inside && !start.finished) failed = evaluate_untrained(s, &tallies[run_count(o)]);
    for (int i = start.finished; i < run_count(o) && !failed; i++)
        failed = train_method(s, i, i == start.finished && start.inside, tallies);
    if (!failed) failed = log_check(s);
    const int error = jsonl_close(&s->log);
    if (error && !failed) {
        args_fail("finetune", "--log: %s: %s", o->log, strerror(error));
        failed = -1;
    }
    if (failed && stop_asked()) { /* the last save is of the moment of the signal */
        if (o->checkpoint)
            args_fail("finetune", "ended by %s; the same command with --resume goes on from the checkpoint in %s",
                      stop_name(), o->checkpoint);
        else
            args_fail("finetune", "ended by %s; without --checkpoint nothing is kept of the run", stop_name());
    }
    return failed;
}

/* The results on standard output. */
static int print_results(const finetune_settings *o, const tally *tallies) {
    const tally_list list = {o->methods, o->n_methods, o->seeds, tallies, &tallies[run_count(o)]};
    if (!o->json) {
        tally_table(stdout, &list);
        if (isatty(STDOUT_FILENO)) tally_legend(stdout);
        return EXIT_CODE_OK;
    }
    const char *wrong = jsonl_print(tally_json(&list));
    return wrong ? args_fail("finetune", "%s", wrong) : EXIT_CODE_OK;
}

int cmd_finetune(int argc, char **argv) {
    finetune_settings settings;
    session s;
    int code = read_settings(&settings, argc, argv);
    if (code != -1) return code;
    tally *tallies = calloc((size_t)run_count(&settings) + 1, sizeof *tallies);
    if (!tallies) return args_fail("finetune", "out of memory");
    code = EXIT_CODE_FAILED;
    if (session_open(&s, &settings) == 0) {
        const int failed = run_all(&s, tallies);
        if (!failed) code = print_results(&settings, tallies);
        session_close(&s);
        if (failed && stop_asked()) stop_now();
    }
    free(tallies);
    return code;
}
