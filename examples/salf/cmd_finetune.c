/* cmd_finetune.c - `salf finetune`: options, defaults, the methods one after the other, the table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "dataset.h"
#include "run.h"

enum { PATH_SIZE = 4096 };

static finetune_settings default_settings(void) {
    return (finetune_settings){.schedule = SCHEDULE_LINEAR,
                               .reduction = SALF_REDUCE_PREFIX,
                               .lora_rank = 8,
                               .lora_alpha = 16,
                               .targets = SALF_MATRIX_ALL,
                               .rate = 2e-3,
                               .warmup = 0.05,
                               .clip = 1,
                               .temperature = 1,
                               .probe_limit = 0.5,
                               .batch = 16,
                               .epochs = 1,
                               .checkpoint_every = 50,
                               .seed = 42};
}

/* ---- the embedded demonstration as default ---- */

/* Its folder: SALF_DEMO, else examples/demo of the tree this program was built in (two folders above build/bin), else
 * ../share/salf/demo beside an installed bin. Returns 0, or -1 when there is none. */
static int demo_folder(char *out, size_t size) {
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

static int demo_part(const char *folder, const char *part, const char **setting, char *room) {
    if (*setting) return 0;
    if (snprintf(room, PATH_SIZE, "%s/%s", folder, part) >= PATH_SIZE) return -1;
    *setting = room;
    return 0;
}

/* Model, tokenizer and data that were not given. */
static int fill_defaults(finetune_settings *o) {
    static char folder[PATH_SIZE - 32], model[PATH_SIZE], tokens[PATH_SIZE], data[PATH_SIZE];
    if (o->model && o->tokenizer && o->data) return 0;
    if (o->model && !o->tokenizer) return args_misuse("finetune", "--model needs --tokenizer");
    if (demo_folder(folder, sizeof folder) != 0 || demo_part(folder, "model", &o->model, model) != 0 ||
        demo_part(folder, "tokenizer.bin", &o->tokenizer, tokens) != 0 ||
        demo_part(folder, "data", &o->data, data) != 0)
        return args_misuse("finetune",
                           "--model, --tokenizer and --data are needed: the demonstration's were not found");
    return 0;
}

/* ---- options ---- */

static int parse_targets(const char *text, int32_t *out) {
    static const char *const names[] = {"q", "k", "v", "o", "gate", "up", "down"};
    *out = 0;
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        int32_t found = 0;
        for (int i = 0; i < 7; i++)
            if (strlen(names[i]) == length && memcmp(names[i], at, length) == 0) found = 1 << i;
        if (length == 3 && memcmp(at, "all", 3) == 0) found = SALF_MATRIX_ALL;
        if (!found)
            return args_misuse("finetune", "--targets: '%.*s' is none of q k v o gate up down all", (int)length, at);
        *out |= found;
        if (!at[length]) return 0;
        at += length + 1;
    }
}

/* Joins several --method options into the list of the first, as the option table keeps only the last. Returns the new
 * argc; *joined is the list, to be freed, or NULL. -1 when memory is short. */
static int join_methods(int argc, char **argv, char **joined) {
    int kept = 1, found = 0;
    size_t used = 0, room = 1;
    for (int i = 1; i < argc; i++) room += strlen(argv[i]) + 1;
    *joined = malloc(room);
    if (!*joined) return -1;
    (*joined)[0] = '\0';
    for (int i = 1; i < argc; i++) {
        const char *value = NULL;
        if (strncmp(argv[i], "--method=", 9) == 0) value = argv[i] + 9;
        if (strcmp(argv[i], "--method") == 0 && i + 1 < argc) value = argv[++i];
        if (!value) {
            argv[kept++] = argv[i];
            continue;
        }
        used += (size_t)sprintf(*joined + used, "%s%s", found++ ? "," : "", value);
    }
    if (!found) {
        free(*joined);
        *joined = NULL;
    }
    return kept;
}

/* What the command line gives; at file scope so that the table below can be constant. */
static finetune_settings given;
static const char *given_targets;
static const char *given_method;

static const args_option options[] = {
    {.name = "model",
     .kind = ARGS_TEXT,
     .value = &given.model,
     .metavar = "FOLDER",
     .help = "checkpoint folder of a Llama-family model (default: the demonstration's)"},
    {.name = "tokenizer",
     .kind = ARGS_TEXT,
     .value = &given.tokenizer,
     .metavar = "FILE",
     .help = "its .bin tokenizer"},
    {.name = "data",
     .kind = ARGS_TEXT,
     .value = &given.data,
     .metavar = "FOLDER",
     .help = "folder with train.tsv, test.tsv and labels.txt"},
    {.name = "method",
     .kind = ARGS_TEXT,
     .value = &given_method,
     .metavar = "M[,M...]",
     .help = "methods, also repeated (default: salf[half])"},
    {.name = "template",
     .kind = ARGS_TEXT,
     .value = &given.prompt,
     .metavar = "TEXT",
     .help = "prompt with {text} and {text2} (default: the data set's)"},
    {.name = "label-words",
     .kind = ARGS_TEXT,
     .value = &given.words,
     .metavar = "WORDS",
     .help = "LABEL=word,... or a file of label<TAB>word (default: the data set's)"},
    {.name = "loss",
     .kind = ARGS_CHOICE,
     .value = &given.loss,
     .choices = "lm|cosine|semantic-ce",
     .help = "training loss at the last prompt token (default: lm)"},
    {.name = "dense", .kind = ARGS_FLAG, .value = &given.dense, .help = "train the layers' own weights, no LoRA"},
    {.name = "rank",
     .kind = ARGS_INT32,
     .value = &given.lora_rank,
     .metavar = "R",
     .least = 1,
     .most = 4096,
     .help = "LoRA rank (default: 8)"},
    {.name = "alpha",
     .kind = ARGS_REAL,
     .value = &given.lora_alpha,
     .metavar = "A",
     .least = 1e-6,
     .most = 1e6,
     .help = "LoRA scale times rank (default: 16)"},
    {.name = "targets",
     .kind = ARGS_TEXT,
     .value = &given_targets,
     .metavar = "LIST",
     .help = "matrices with LoRA, of q,k,v,o,gate,up,down,all (default: all)"},
    {.name = "lr",
     .kind = ARGS_REAL,
     .value = &given.rate,
     .metavar = "X",
     .least = 1e-12,
     .most = 10,
     .help = "peak learning rate (default: 0.002)"},
    {.name = "schedule",
     .kind = ARGS_CHOICE,
     .value = &given.schedule,
     .choices = "constant|linear|cosine",
     .help = "of the learning rate after the warm-up (default: linear)"},
    {.name = "warmup",
     .kind = ARGS_REAL,
     .value = &given.warmup,
     .metavar = "SHARE",
     .least = 0,
     .most = 1,
     .help = "share of the run in which the rate rises (default: 0.05)"},
    {.name = "weight-decay",
     .kind = ARGS_REAL,
     .value = &given.weight_decay,
     .metavar = "X",
     .least = 0,
     .most = 10,
     .help = "of AdamW (default: 0)"},
    {.name = "clip",
     .kind = ARGS_REAL,
     .value = &given.clip,
     .metavar = "NORM",
     .least = 0,
     .most = 1e9,
     .help = "largest gradient norm, 0: none (default: 1)"},
    {.name = "batch",
     .kind = ARGS_INT,
     .value = &given.batch,
     .metavar = "N",
     .least = 1,
     .most = 65536,
     .help = "data per update (default: 16)"},
    {.name = "epochs",
     .kind = ARGS_INT,
     .value = &given.epochs,
     .metavar = "N",
     .least = 1,
     .most = 10000,
     .help = "passes over the data; a budget is one plan over all of them (default: 1)"},
    {.name = "reduction",
     .kind = ARGS_CHOICE,
     .value = &given.reduction,
     .choices = "mean|min|median|mode|prefix",
     .help = "cut of a batch in method salf (default: prefix, each row at its own)"},
    {.name = "matching",
     .kind = ARGS_CHOICE,
     .value = &given.matching,
     .choices = "online|offline",
     .help = "budgets of salf: probe when a layer's turn comes, or all data before (default: online)"},
    {.name = "probe-limit",
     .kind = ARGS_REAL,
     .value = &given.probe_limit,
     .metavar = "X",
     .least = 0,
     .most = 1e9,
     .help = "online: most data probed for a layer, in multiples of data / layers, 0: no limit, as in Algorithm 4 "
             "(default: 0.5)"},
    {.name = "as-published",
     .kind = ARGS_FLAG,
     .value = &given.as_published,
     .help = "book arith with bf as the paper's Table 5 does"},
    {.name = "lens",
     .kind = ARGS_CHOICE,
     .value = &given.lens,
     .choices = "hf|normed|raw",
     .help = "spaces that get the final norm before they are compared (default: hf, the last)"},
    {.name = "temperature",
     .kind = ARGS_REAL,
     .value = &given.temperature,
     .metavar = "T",
     .least = 1e-6,
     .most = 1e6,
     .help = "of ce and semantic-ce (default: 1)"},
    {.name = "whole-vocabulary",
     .kind = ARGS_FLAG,
     .value = &given.whole_vocabulary,
     .help = "predict over all tokens, not only the label words"},
    {.name = "limit-train",
     .kind = ARGS_INT,
     .value = &given.limit_train,
     .metavar = "N",
     .least = 1,
     .most = 4e9,
     .help = "use N training data, spread evenly"},
    {.name = "limit-test",
     .kind = ARGS_INT,
     .value = &given.limit_test,
     .metavar = "N",
     .least = 1,
     .most = 4e9,
     .help = "use N test data, spread evenly"},
    {.name = "seed", .kind = ARGS_SEED, .value = &given.seed, .metavar = "S", .help = "(default: 42)"},
    {.name = "threads",
     .kind = ARGS_INT32,
     .value = &given.threads,
     .metavar = "N",
     .least = 0,
     .most = 1024,
     .help = "of the library, 0: BLAS as it is (default: 0)"},
    {.name = "backend",
     .kind = ARGS_CHOICE,
     .value = &given.backend,
     .choices = "auto|reference|cpu",
     .help = "of the library (default: auto)"},
    {.name = "log", .kind = ARGS_TEXT, .value = &given.log, .metavar = "FILE", .help = "write the run as JSON lines"},
    {.name = "eval-every",
     .kind = ARGS_INT,
     .value = &given.eval_every,
     .metavar = "N",
     .least = 0,
     .most = 1e15,
     .help = "also test after every N updates, for the report (default: 0, at the end only)"},
    {.name = "output",
     .kind = ARGS_TEXT,
     .value = &given.output,
     .metavar = "FOLDER",
     .help = "write the fine-tuned model; with several methods a folder for each"},
    {.name = "checkpoint",
     .kind = ARGS_TEXT,
     .value = &given.checkpoint,
     .metavar = "FOLDER",
     .help = "keep a checkpoint here"},
    {.name = "checkpoint-every",
     .kind = ARGS_INT,
     .value = &given.checkpoint_every,
     .metavar = "N",
     .least = 1,
     .most = 1e15,
     .help = "updates between checkpoints (default: 50)"},
    {.name = "resume",
     .kind = ARGS_FLAG,
     .value = &given.resume,
     .help = "go on from the checkpoint, or start where there is none"},
    {.name = "stop-after",
     .kind = ARGS_INT,
     .value = &given.stop_after,
     .metavar = "N",
     .least = 1,
     .most = 1e15,
     .help = "end abruptly after N updates, as if killed (for tests)"},
};

static int parse(int argc, char **argv) {
    char notes[700] = "Methods: ";
    method_known_names(notes + strlen(notes), sizeof notes - strlen(notes));
    strcat(notes, "; those of salf also with [ce] or [rank] at the end.");
    const args_command command = {.name = "finetune",
                                  .summary = "Fine-tune a model on a classification task, with one or more methods.",
                                  .notes = notes,
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0]};
    return args_parse(&command, argc, argv, NULL);
}

/* Settings from a command line; -1 to go on, else the exit code. */
static int read_settings(int argc, char **argv) {
    finetune_settings *o = &given;
    char *list = NULL, message[1024];
    given = default_settings();
    given_targets = NULL;
    argc = join_methods(argc, argv, &list);
    if (argc < 0) return args_fail("finetune", "out of memory");
    int code = parse(argc, argv);
    if (code == -1 &&
        method_list_parse(o->methods, &o->n_methods, list ? list : "salf[half]", message, sizeof message) != 0)
        code = args_misuse("finetune", "--method: %s", message);
    free(list);
    if (code != -1) return code;
    if (given_targets && (code = parse_targets(given_targets, &o->targets)) != 0) return code;
    if (o->resume && !o->checkpoint) return args_misuse("finetune", "--resume needs --checkpoint");
    if (o->prompt && dataset_check_template(o->prompt, message, sizeof message) != 0)
        return args_misuse("finetune", "--template: %s", message);
    code = fill_defaults(o);
    return code ? code : -1;
}

/* ---- the run ---- */

static int open_checkpoint(session *s, runstate_start *start, tally *tallies) {
    const finetune_settings *o = s->settings;
    *start = (runstate_start){0};
    if (o->checkpoint && mkdir(o->checkpoint, 0777) != 0 && errno != EEXIST) {
        args_fail("finetune", "--checkpoint: %s: %s", o->checkpoint, strerror(errno));
        return -1;
    }
    return o->resume ? runstate_begin(s, start, tallies) : 0;
}

static int run_all(session *s, tally *tallies) {
    const finetune_settings *o = s->settings;
    runstate_start start;
    if ((double)s->train.n * (double)o->epochs > 4294967295.0) {
        args_fail("finetune", "--epochs: %lld passes over %lld data are more than 2^32-1 data", (long long)o->epochs,
                  (long long)s->train.n);
        return -1;
    }
    if (s->n_shortened)
        fprintf(stderr, "salf finetune: %lld prompts were shortened to the model's %lld positions\n",
                (long long)s->n_shortened, (long long)s->info.max_positions);
    if (open_checkpoint(s, &start, tallies) != 0 || log_open(s, start.log_length) != 0) return -1;
    int failed = 0;
    for (int i = start.finished; i < o->n_methods && !failed; i++)
        failed = train_method(s, i, i == start.finished && start.inside, tallies);
    if (jsonl_close(&s->log) != 0 && !failed) {
        args_fail("finetune", "--log: %s could not be written", o->log);
        failed = -1;
    }
    return failed;
}

int cmd_finetune(int argc, char **argv) {
    tally tallies[METHODS_MAX] = {0};
    session s;
    int code = read_settings(argc, argv);
    if (code != -1) return code;
    if (session_open(&s, &given) != 0) return EXIT_CODE_FAILED;
    code = run_all(&s, tallies) == 0 ? EXIT_CODE_OK : EXIT_CODE_FAILED;
    if (code == EXIT_CODE_OK) tally_table(stdout, given.methods, tallies, given.n_methods);
    if (code == EXIT_CODE_OK && isatty(STDOUT_FILENO)) tally_legend(stdout);
    session_close(&s);
    return code;
}
