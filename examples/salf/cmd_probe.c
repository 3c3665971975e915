/* cmd_probe.c - `salf probe`: deviations of prompts in every latent space, and where to stop (paper, 3.1 to 3.3).
 *
 * Prompts run in batches without padding; the decoder's hook hands each latent space to the probe as it is computed,
 * the rows of the last prompt tokens picked by index. Cost: one forward, and what the metric costs per space. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "decoder.h"
#include "files.h"
#include "salf.h"

/* A batch ends at whichever comes first. 8,192 rows fill the matrix products of any processor; more would only take
 * memory, as what an inference holds grows with them. */
enum { BATCH_PROMPTS = 64, BATCH_TOKENS = 8192 };

typedef struct probe_settings {
    const char *model;
    const char *accept;
    int64_t valid_vocab;
    const char *prompts;
    const char *candidates;
    int32_t metric;
    int32_t lens;
    int32_t scores;
    int32_t exact;
    int32_t backend;
    double rtol;
    double temperature;
} probe_settings;

/* The prompts of the file. */
typedef struct prompt_list {
    int64_t n;
    int32_t *labels;  /* [n] */
    int32_t **tokens; /* [n] */
    int64_t *lengths; /* [n] */
} prompt_list;

/* What the command holds, released together. */
typedef struct probe_parts {
    prompt_list prompts;
    int32_t *candidates;
    int64_t n_candidates;
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    decoder *net;
    int64_t hidden; /* D */
} probe_parts;

#define AT(field) offsetof(probe_settings, field)

static const args_option probe_table[] = {
    {"model", 0, ARGS_TEXT, AT(model), "PATH", .required = 1,
     .help = "checkpoint folder whose layers are known, as `salf doctor FOLDER` tells"},
    {"valid-vocab", 0, ARGS_INT, AT(valid_vocab), "N", .least = 1, .most = INT32_MAX, .help = VALID_VOCAB_HELP},
    {"accept", 0, ARGS_TEXT, AT(accept), "KEY,...", .help = ACCEPT_HELP},
    {"prompts", 0, ARGS_TEXT, AT(prompts), "FILE", .required = 1,
     .help = "lines `label_id<TAB>id,id,...`: the right next token, and the prompt's token ids"},
    {"metric", 0, ARGS_CHOICE, AT(metric), .family = "SALF_METRIC",
     .help = "how deviation is measured (default cosine)"},
    {"lens", 0, ARGS_CHOICE, AT(lens), .family = "SALF_LENS",
     .help = "which spaces get the final norm first: the last, all, none (default hf)"},
    {"scores", 0, ARGS_CHOICE, AT(scores), .family = "SALF_SCORE", .help = "what ce and rank compare (default basis)"},
    {"candidates", 0, ARGS_TEXT, AT(candidates), "ID,...",
     .help = "tokens that ce and rank compare with (default: the whole vocabulary)"},
    {"temperature", 0, ARGS_REAL, AT(temperature), "T", .least = 1e-6, .most = 1e6,
     .help = "temperature of ce (default 1)"},
    {"rtol", 0, ARGS_REAL, AT(rtol), "R", .least = 1e-300, .most = 1,
     .help = "drop singular values of the head at or below R times the largest (default max(V, D) * 2^-23)"},
    {"exact", 0, ARGS_FLAG, AT(exact), .help = "keep every singular value that float64 resolves"},
    {"backend", 0, ARGS_CHOICE, AT(backend), .family = "SALF_BACKEND",
     .help = "what computes the probe (default auto)"},
};
#undef AT

static const args_command probe_command = {
    .name = "probe",
    .summary = "Prints, for each prompt, its deviations in latent spaces 0 ... m and its end-of-freezing layer, "
               "tab-separated.",
    .options = probe_table,
    .n_options = sizeof probe_table / sizeof *probe_table,
};

/* ---- prompts ---- */

static int fail_line(const char *path, int64_t line, const char *what) {
    return args_fail("probe", "%s:%" PRId64 ": %s", path, line, what);
}

/* Appends a prompt; the lists have room for it. Returns -1 to go on, or an exit code. */
static int add_prompt(prompt_list *list, const char *path, char *line) {
    char message[256];
    int32_t *label;
    int64_t n;
    char *tab = strchr(line, '\t');
    if (!tab) return fail_line(path, list->n + 1, "there is no tab behind the label's id");
    *tab = 0;
    if (args_int_list(line, INT32_MIN, INT32_MAX, &label, &n, message, sizeof message))
        return fail_line(path, list->n + 1, message);
    list->labels[list->n] = label[0];
    free(label);
    if (n != 1) return fail_line(path, list->n + 1, "there is more than one label");
    /* Tokens that are too large for the model are refused by the decoder, which knows its vocabulary. */
    if (args_int_list(tab + 1, 0, INT32_MAX, &list->tokens[list->n], &list->lengths[list->n], message, sizeof message))
        return fail_line(path, list->n + 1, message);
    list->n++;
    return -1;
}

/* All prompts of a file, a line each. Returns -1 to go on, or an exit code. */
static int read_prompts(prompt_list *list, const char *path) {
    char message[512], *end;
    size_t size;
    char *text = file_read(path, &size, message, sizeof message);
    if (!text) return args_fail("probe", "%s", message);
    int64_t room = 0;
    int code = -1;
    if (memchr(text, 0, size)) code = args_fail("probe", "%s: contains a byte 0, so it is no text", path);
    for (char *line = text; code < 0 && *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = 0;
        const size_t length = strlen(line);
        if (length > 0 && line[length - 1] == '\r') line[length - 1] = 0;
        if (list->n == room) {
            room = room ? 2 * room : 256;
            /* An array that could be enlarged is kept even when the next cannot: the list owns it either way. */
            int32_t *labels = realloc(list->labels, (size_t)room * sizeof *labels);
            if (labels) list->labels = labels;
            int32_t **tokens = realloc(list->tokens, (size_t)room * sizeof *tokens);
            if (tokens) list->tokens = tokens;
            int64_t *lengths = realloc(list->lengths, (size_t)room * sizeof *lengths);
            if (lengths) list->lengths = lengths;
            if (!labels || !tokens || !lengths) code = args_fail("probe", "out of memory");
        }
        if (code < 0) code = add_prompt(list, path, line);
    }
    free(text);
    return code;
}

/* ---- one batch ---- */

/* A batch of prompts as the decoder takes it, one after the other. */
typedef struct batch_room {
    int32_t *tokens;                    /* [sum of lengths] */
    int64_t offsets[BATCH_PROMPTS + 1]; /* of the prompts in tokens */
    int64_t last[BATCH_PROMPTS];        /* rows of the last prompt tokens */
    const probe_parts *parts;
    int64_t n;
} batch_room;

/* The decoder's hook: the probe reads the rows of the last prompt tokens where they lie. */
static salf_status observe_space(void *user, int32_t space, int64_t rows, const float *states) {
    const batch_room *b = user;
    const probe_parts *p = b->parts;
    (void)rows;
    salf_tensor view = {.row_index = b->last, .rows = b->n, .cols = p->hidden, .dtype = SALF_F32};
    memcpy(&view.data, &states, sizeof view.data); /* the library only reads it */
    return salf_probe_observe(p->probe, space, &view, SALF_STATE_RAW);
}

/* Packs prompts from number `first` on, at least one. Returns EXIT_CODE_OK, or EXIT_CODE_FAILED with a message. */
static int pack_batch(const prompt_list *list, int64_t first, batch_room *b) {
    int64_t total = 0;
    for (b->n = 0; first + b->n < list->n && b->n < BATCH_PROMPTS; b->n++) {
        const int64_t length = list->lengths[first + b->n];
        if (b->n > 0 && total + length > BATCH_TOKENS) break;
        b->offsets[b->n] = total;
        total += length;
        b->last[b->n] = total - 1;
    }
    b->offsets[b->n] = total;
    free(b->tokens);
    b->tokens = malloc((size_t)total * sizeof *b->tokens);
    if (!b->tokens) return args_fail("probe", "out of memory");
    for (int64_t i = 0; i < b->n; i++)
        memcpy(b->tokens + b->offsets[i], list->tokens[first + i],
               (size_t)list->lengths[first + i] * sizeof *b->tokens);
    return EXIT_CODE_OK;
}

/* One forward of a packed batch with the probe, and a line for each prompt: m + 1 deviations and the eof. */
static int probe_batch(probe_parts *p, batch_room *b, int64_t first) {
    salf_trace trace;
    const decoder_batch batch = {
        .tokens = b->tokens, .offsets = b->offsets, .n_sequences = b->n, .head_rows = b->last, .n_head_rows = b->n};
    if (salf_probe_begin(p->probe, p->prompts.labels + first, b->n)) return args_fail_salf("probe");
    if (decoder_forward(p->net, &batch, 0, observe_space, b)) {
        const char *message = decoder_error();
        return args_fail("probe", "prompts %" PRId64 " ... %" PRId64 ": %s", first + 1, first + b->n,
                         *message ? message : salf_last_error());
    }
    if (salf_probe_end(p->probe, &trace)) /* whose rows count from the batch's first prompt */
        return args_fail("probe", "prompts %" PRId64 " ... %" PRId64 ": %s", first + 1, first + b->n,
                         salf_last_error());
    const int64_t spaces = trace.n_layers + 1;
    for (int64_t r = 0; r < trace.rows; r++) {
        for (int64_t k = 0; k < spaces; k++) printf("%.9g\t", trace.deviations[r * spaces + k]);
        printf("%" PRId32 "\n", trace.eof[r]);
    }
    return EXIT_CODE_OK;
}

/* ---- everything ---- */

/* Prompts, model, basis, probe and decoder. Returns -1 to go on, or an exit code. */
static int open_parts(const probe_settings *s, probe_parts *p) {
    char message[256];
    if (s->candidates) {
        const int code = args_int_list(s->candidates, INT32_MIN, INT32_MAX, &p->candidates, &p->n_candidates, message,
                                       sizeof message);
        if (code != EXIT_CODE_OK) return args_say(code, "probe", "--candidates: %s", message);
    }
    const int code = read_prompts(&p->prompts, s->prompts);
    if (code >= 0) return code;

    salf_context_options context;
    salf_options_init(&context, sizeof context);
    context.backend = s->backend;
    salf_model_options model;
    salf_options_init(&model, sizeof model);
    model.valid_vocab = s->valid_vocab;
    model.accept = s->accept;
    salf_basis_options basis;
    salf_options_init(&basis, sizeof basis);
    basis.mode = s->exact ? SALF_BASIS_EXACT : SALF_BASIS_RTOL;
    basis.rtol = s->rtol;
    /* ce and rank compare with the whole vocabulary: its norms once, and not in every batch */
    if (s->metric != SALF_METRIC_COSINE && !p->candidates) basis.prepare = SALF_PREPARE_VOCABULARY;
    salf_probe_options probe;
    salf_options_init(&probe, sizeof probe);
    probe.metric = s->metric;
    probe.lens = s->lens;
    probe.scores = s->scores;
    probe.temperature = s->temperature;
    probe.candidates = p->candidates;
    probe.n_candidates = p->n_candidates;
    salf_status status = salf_context_create(&p->context, &context);
    if (!status) status = salf_model_open(&p->model, p->context, s->model, &model);
    if (!status && decoder_check(p->model)) return args_fail("probe", "%s", decoder_error());
    if (!status) status = salf_basis_create(&p->basis, p->model, p->prompts.labels, p->prompts.n, &basis);
    if (!status) status = salf_probe_create(&p->probe, p->basis, &probe);
    if (status) return args_fail_salf("probe");
    if (decoder_open(&p->net, p->context, p->model, NULL)) return args_fail("probe", "%s", decoder_error());
    p->hidden = decoder_get_config(p->net)->hidden;
    return -1;
}

static void close_parts(probe_parts *p) {
    for (int64_t i = 0; i < p->prompts.n; i++) free(p->prompts.tokens[i]);
    free(p->prompts.tokens);
    free(p->prompts.labels);
    free(p->prompts.lengths);
    free(p->candidates);
    decoder_free(p->net);
    salf_probe_destroy(p->probe);
    salf_basis_destroy(p->basis);
    salf_model_destroy(p->model);
    salf_context_destroy(p->context);
}

int cmd_probe(int argc, char **argv) {
    probe_settings s = {0};
    probe_parts p = {0};
    batch_room b = {.parts = &p};
    int code = args_parse(&probe_command, &s, argc, argv, NULL);
    if (code >= 0) return code;
    /* What changes nothing here is refused: whoever gives it believes that it does. */
    const int compares = s.metric != SALF_METRIC_COSINE, logits = s.scores == SALF_SCORE_LOGITS;
    const char *idle = s.exact && s.rtol > 0                             ? "exact: --rtol says otherwise"
                       : s.temperature > 0 && s.metric != SALF_METRIC_CE ? "temperature: --metric is not ce"
                       : logits && compares && s.exact                   ? "exact: --scores logits is not of the basis"
                       : logits && compares && s.rtol > 0                ? "rtol: --scores logits is not of the basis"
                       : s.candidates && !compares                 ? "candidates: --metric cosine compares with none"
                       : s.scores != SALF_SCORE_BASIS && !compares ? "scores: --metric cosine is of the basis"
                                                                   : NULL;
    if (idle) return args_misuse("probe", "--%s", idle);
    if (s.rtol >= 1) return args_misuse("probe", "--rtol: %g is not below 1", s.rtol);
    code = open_parts(&s, &p);
    if (code < 0 && p.prompts.n == 0) code = args_fail("probe", "%s holds no prompt", s.prompts);
    for (int64_t first = 0; code <= 0 && first < p.prompts.n; first += b.n) {
        code = pack_batch(&p.prompts, first, &b);
        if (code == EXIT_CODE_OK) code = probe_batch(&p, &b, first);
    }
    free(b.tokens);
    close_parts(&p);
    return code < 0 ? EXIT_CODE_OK : code;
}
