/* finetune.h - what the files of `salf finetune` share: settings, the session, batches, training and evaluation.
 *
 * Functions return 0, or -1 after printing one line on standard error. */
#ifndef SALF_EXAMPLE_FINETUNE_H
#define SALF_EXAMPLE_FINETUNE_H

#include <stdint.h>

#include "args.h"
#include "decoder.h"
#include "jsonl.h"
#include "methods.h"
#include "salf.h"
#include "tally.h"

/* Training losses and learning-rate schedules; their words stand in cmd_finetune.c. */
enum { LOSS_LM = 0, LOSS_COSINE = 1, LOSS_SEMANTIC_CE = 2 };
/* Where the eof of probed data comes from: the probe, or, as controls of what it is worth, the class or chance. */
enum { EOF_PROBE = 0, EOF_CLASS = 1, EOF_CHANCE = 2 };
enum { SCHEDULE_CONSTANT = 0, SCHEDULE_LINEAR = 1, SCHEDULE_COSINE = 2 };
extern const char *const loss_words[];
extern const char *const eof_words[];
/* The subcommand that trains, as messages name it: finetune, or advise, which sets it. */
extern const char *training_command;

/* What the command line says. Strings are borrowed from argv. */
typedef struct finetune_settings {
    const char *model;      /* checkpoint folder */
    const char *accept;     /* keys of config.json that may stay unread; NULL: none */
    int64_t valid_vocab;    /* tokens there are; 0: as the checkpoint says */
    const char *tokenizer;  /* .bin file */
    const char *data;       /* folder with train.tsv, test.tsv, labels.txt */
    const char *prompt;     /* template; NULL: the default of dataset.h */
    const char *words;      /* label words; NULL: those of dataset.h */
    const char *log;        /* JSON lines; NULL: none */
    const char *checkpoint; /* folder; NULL: none */
    const char *output;     /* folder; NULL: none */
    args_texts lists;       /* of methods, as given */
    method methods[METHODS_MAX];
    int n_methods;
    int32_t backend;
    int32_t threads;
    int32_t loss;
    int32_t dense;
    int32_t lora_rank;
    int32_t targets; /* SALF_MATRIX_* that LoRA sits on */
    int32_t schedule;
    int32_t reduction;    /* SALF_REDUCE_* */
    int32_t matching;     /* SALF_MATCH_* */
    int32_t assignment;   /* SALF_ASSIGN_* */
    int32_t stream_order; /* SALF_STREAM_* */
    int32_t assignment_given;
    int32_t stream_order_given;
    int32_t eof_from; /* EOF_* */
    int32_t lens;
    int32_t as_published;
    int32_t whole_vocabulary; /* prediction over all tokens */
    int32_t resume;
    double lora_alpha;
    const char *rate_text;     /* as given; NULL: the default */
    double rates[METHODS_MAX]; /* peak learning rate of each method */
    double warmup;             /* share of the run */
    double weight_decay;
    double clip;
    double temperature; /* of ce and semantic-ce */
    double probe_limit; /* multiple of the mean count of a layer; 0: none. What it is when not given is the library's
                           default, as a checkpoint writes it */
    int32_t probe_limit_given;
    int32_t first_layer, first_layer_given; /* of method suffix */
    int64_t batch;
    int64_t epochs;
    int64_t limit_train; /* 0: all */
    int64_t limit_test;
    int64_t checkpoint_every; /* updates */
    int64_t eval_every;       /* updates between tests on the way; 0: at the end only */
    int64_t stop_after;       /* updates after which the process ends at once, as if killed; 0: never */
    uint64_t seed;            /* of the first run of a method; the others count on from it */
    int32_t seeds;            /* runs of each method */
    int32_t json;             /* 1: the table as JSON */
    int32_t quiet;            /* 1: no progress bars */
    const char *cache_text;   /* SIZE[,bf16] of states kept from epoch to epoch; NULL: none */
    const char *cache_folder; /* of a file for them; NULL: in memory */
    int64_t cache_bytes;      /* what cache_text says */
    int32_t cache_bf16;
} finetune_settings;

/* What is not said on a command line. */
extern const finetune_settings finetune_defaults;
/* All options of the command line. */
extern const args_option finetune_table[];
extern const int finetune_n_options;
/* Fills in the rates from their text, for the methods that are listed. Returns -1 to go on, else the exit code. */
int finetune_read_rates(finetune_settings *o);
/* Whether the log may go where it is to: lines of JSON are not mixed with a table. -1 to go on, else the exit code. */
int finetune_check_log(const finetune_settings *settings);

/* A part of the data as tokens, packed; in the order of the file. */
typedef struct split {
    int64_t n;
    int32_t *tokens;  /* [offsets[n]] */
    int64_t *offsets; /* [n + 1] */
    int32_t *classes; /* [n] */
} split;

/* What all methods of a run share. */
typedef struct session {
    const finetune_settings *settings;
    salf_context *context;
    salf_model *model;
    salf_model_info info;
    salf_basis *basis; /* rows of the label tokens */
    split train;
    split test;
    int32_t n_labels;
    int32_t *label_tokens; /* [n_labels] first token of each label's word */
    char **label_names;    /* [n_labels] the classes */
    char *prompt;          /* the template in use */
    int64_t n_train_all;   /* data there are, before --limit-train and --limit-test */
    int64_t n_test_all;
    int64_t n_undefined;         /* texts of the last test that have a logit which is no number */
    int64_t n_shortened;         /* prompts longer than the model's positions, cut at the left */
    uint64_t seed;               /* of the run at hand */
    int outputs_tried;           /* 1: the folders of --output have been */
    uint64_t beside;             /* decoder_hash_source of the model, for --output */
    int cache_said;              /* 1: it has been said that not all states are kept */
    int may_stop;                /* 1: tests end when a signal asks for it, for they can be made again */
    char runs_on[512];           /* what may change the last digits: backend, kernels, threads, BLAS */
    uint64_t tokenizer_hash;     /* of the file's content */
    salf_checkpoint *checkpoint; /* NULL: none is kept */
    jsonl_writer log;
} session;

int session_open(session *out, const finetune_settings *settings);
void session_close(session *s);

/* A batch of prompts, ready for the decoder; grows as needed. */
typedef struct prompt_batch {
    decoder_batch batch;
    int32_t *tokens;
    int64_t *offsets;
    int64_t *head_rows; /* the medium token of each prompt: its last */
    int32_t *targets;   /* label token of each prompt */
    int32_t *classes;
    int64_t token_room;
    int64_t row_room;
} prompt_batch;

int prompt_batch_fill(prompt_batch *b, const session *s, const split *from, const uint32_t *rows, int64_t n);
void prompt_batch_free(prompt_batch *b);

/* Joins a probe to a forward: the decoder's hook. seconds grows by the time the probe takes. */
typedef struct probe_rider {
    salf_probe *probe;
    prompt_batch *batch;
    int64_t width; /* D */
    double seconds;
} probe_rider;

salf_status probe_rider_hook(void *user, int32_t space, int64_t rows, const float *states);

/* Runs of a session: all methods with the first seed, then all with the next. */
static inline int run_count(const finetune_settings *o) {
    return o->n_methods * o->seeds;
}

/* Trains and evaluates: run number index, that is, method index mod n_methods; resume: from the middle, as the
 * checkpoint has it. tallies [runs + 1]: those before index are done, and the last is of the model as it came. */
int train_method(session *s, int index, int resume, tally *tallies);
/* Says which models of the first runs, which are done, are not at --output: it was not given then, or they were
 * removed. -1 when nothing else is to come. */
int check_done_outputs(const finetune_settings *o, int finished);
/* Scores of the model before any training, into result and the log. */
int evaluate_untrained(session *s, tally *result);

/* Macro F1 and accuracy on the test data into result; confusion [n_labels][n_labels + 1]. */
int evaluate(session *s, decoder *d, tally *result, int64_t *confusion);
/* Logs the deviations of the first data of the test set; when is "before" or "after". Nothing without a log. */
int log_deviations(session *s, decoder *d, const method *m, const char *when);
/* A probe for the metric of a method, riding on forwards. */
salf_status make_probe(salf_probe **out, const session *s, int32_t metric, int32_t nonfinite);

/* Opens the log, of which the lines before a place stay. */
int log_open(session *s, jsonl_place keep);
/* 0, or -1 after saying why a line could not be written. */
int log_check(session *s);
/* The run event, the first line of a log. */
void log_run(session *s);
/* Begins an event of a method, with the seed at hand. */
void log_begin(session *s, const char *event, const method *m);
void log_step(session *s, const method *m, const tally *before, const tally *now, int32_t cut, double rate);
/* *matched becomes the data that trained at a layer that suits their own eof. */
int log_plan(session *s, const method *m, const salf_planner *planner, double *matched);
/* What the probe's answers were worth, of the rows since the run began or went on. */
void log_signal(session *s, const method *m, const salf_signal *signal);
void log_untrained(session *s, const tally *t, const int64_t *confusion);
/* Macro F1 and accuracy after some updates, for the report's curve. */
void log_eval(session *s, const method *m, const tally *t);
void log_result(session *s, const method *m, const tally *t, const int64_t *eof_counts, const int64_t *confusion);

/* Says on standard error what failed, with the library's or the decoder's message; returns -1. */
int say_salf(const char *what);
int say_decoder(const char *what);
int say_no_memory(void);

#endif
