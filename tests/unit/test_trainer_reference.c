/*
 * test_trainer_reference.c - the decoder's forward on really trained models against reference outputs in double
 * precision: logits at every position, all logits at last positions, the residual stream in every space. And what
 * decoder_save writes is read back as it was.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder.h"
#include "harness.h"

#define MOST_TOKENS 64
#define TOLERANCE   2e-3

typedef struct trained {
    salf_context *context;
    decoder *d;
    const char *name;
    int64_t n; /* of the prompt at hand */
    int32_t tokens[MOST_TOKENS];
    double nll[MOST_TOKENS];
    float *logits; /* [n][V] */
    float *spaces; /* [m + 1][D] at the last position */
} trained;

static const char *const MODELS[] = {"stories260k", "stories656k", "stories3m"};

static const char *path_of(const char *model, const char *file) {
    char name[128];
    snprintf(name, sizeof name, "models/%s%s%s", model, *file ? "/" : "", file);
    return harness_shared(name);
}

static int open_trained(trained *t, const char *name) {
    memset(t, 0, sizeof *t);
    t->name = name;
    const char *path = path_of(name, "");
    if (!path) return 0;
    salf_model *model;
    t->context = harness_context(SALF_BACKEND_AUTO, NULL);
    CHECK_OK(salf_model_open(&model, t->context, path, NULL));
    ck_assert_msg(decoder_open(&t->d, t->context, model, NULL) == SALF_OK, "%s", decoder_error());
    salf_model_destroy(model);
    const decoder_config *c = decoder_get_config(t->d);
    t->logits = malloc(sizeof(float) * MOST_TOKENS * (size_t)c->vocab);
    t->spaces = malloc(sizeof(float) * (size_t)((c->n_layers + 1) * c->hidden));
    return 1;
}

static void close_trained(trained *t) {
    decoder_free(t->d);
    salf_context_destroy(t->context);
    free(t->logits);
    free(t->spaces);
}

static salf_status keep_last(void *user, int32_t space, int64_t rows, const float *states) {
    trained *t = user;
    const int64_t hidden = decoder_get_config(t->d)->hidden;
    memcpy(t->spaces + space * hidden, states + (rows - 1) * hidden, (size_t)hidden * sizeof *states);
    return SALF_OK;
}

static void run(trained *t) {
    const int64_t offsets[] = {0, t->n};
    int64_t rows[MOST_TOKENS];
    for (int64_t i = 0; i < t->n; i++) rows[i] = i;
    const decoder_batch batch = {
        .tokens = t->tokens, .offsets = offsets, .n_sequences = 1, .head_rows = rows, .n_head_rows = t->n};
    ck_assert_msg(decoder_forward(t->d, &batch, 0, keep_last, t) == SALF_OK, "%s", decoder_error());
    ck_assert_int_eq(decoder_logits(t->d, NULL, decoder_get_config(t->d)->vocab, t->logits), SALF_OK);
}

/* Reads the tokens of a prompt from logits.tsv. */
static void read_prompt(trained *t, int prompt) {
    FILE *file = fopen(path_of(t->name, "reference/logits.tsv"), "r");
    char line[512];
    ck_assert_ptr_nonnull(file);
    t->n = 0;
    while (fgets(line, sizeof line, file)) {
        int number, position, id;
        if (sscanf(line, "%d %d %d", &number, &position, &id) != 3 || number != prompt) continue;
        ck_assert_int_eq(position, t->n);
        t->tokens[t->n++] = id;
    }
    fclose(file);
    if (t->n) run(t);
}

/* One line of logits.tsv: log-sum-exp, five logits by id, and the likelihood of the next token. */
static void check_position(const trained *t, int position, const char *rest) {
    const int64_t vocab = decoder_get_config(t->d)->vocab;
    const float *z = t->logits + position * vocab;
    double sum = 0.0;
    for (int64_t i = 0; i < vocab; i++) sum += exp((double)z[i]);
    char *next;
    ck_assert_double_eq_tol(log(sum), strtod(rest, &next), TOLERANCE);
    for (int i = 0; i < 5; i++) {
        const long id = strtol(next, &next, 10);
        ck_assert_int_eq(*next, ':');
        ck_assert_double_eq_tol((double)z[id], strtod(next + 1, &next), TOLERANCE);
    }
    if (position + 1 < t->n) {
        ck_assert_double_eq_tol(log(sum) - (double)z[t->tokens[position + 1]], strtod(next, NULL), TOLERANCE);
    }
}

static int check_logits(trained *t) {
    char line[512];
    int at = 0, checked = 0, number, position, id, used;
    FILE *file = fopen(path_of(t->name, "reference/logits.tsv"), "r");
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%d %d %d %n", &number, &position, &id, &used) != 3) continue;
        if (number != at) read_prompt(t, at = number);
        check_position(t, position, line + used);
        checked++;
    }
    fclose(file);
    return checked;
}

/* One line of a file "prompt ... values": compares values. */
static void check_values(const char *what, const float *got, int64_t n, char *values) {
    for (int64_t i = 0; i < n; i++) {
        const double expected = strtod(values, &values);
        ck_assert_msg(fabs((double)got[i] - expected) < TOLERANCE, "%s: value %lld is %g, not %g", what, (long long)i,
                      (double)got[i], expected);
    }
}

static int check_last(trained *t, const char *name, int hidden) {
    static char line[1 << 20];
    const decoder_config *c = decoder_get_config(t->d);
    FILE *file = fopen(path_of(t->name, name), "r");
    int at = 0, checked = 0;
    while (fgets(line, sizeof line, file)) {
        char *rest;
        const int number = (int)strtol(line, &rest, 10);
        if (number == 0) continue;
        if (number != at) read_prompt(t, at = number);
        if (!hidden) {
            check_values("logits", t->logits + (t->n - 1) * c->vocab, c->vocab, rest);
        } else if (strncmp(++rest, "norm", 4) == 0) {
            check_values("norm", decoder_normed(t->d) + (t->n - 1) * c->hidden, c->hidden, rest + 4);
        } else {
            const long space = strtol(rest, &rest, 10);
            check_values("space", t->spaces + space * c->hidden, c->hidden, rest);
        }
        checked++;
    }
    fclose(file);
    return checked;
}

START_TEST(forward_agrees_with_the_reference_outputs) {
    for (int i = 0; i < 3; i++) {
        trained t;
        if (!open_trained(&t, MODELS[i])) continue;
        ck_assert_int_gt(check_logits(&t), 100);
        ck_assert_int_ge(check_last(&t, "reference/last_logits.tsv", 0), 2);
        ck_assert_int_ge(check_last(&t, "reference/hidden.tsv", 1), 2 * (decoder_get_config(t.d)->n_layers + 2));
        close_trained(&t);
    }
}
END_TEST

static decoder *reopen(salf_context *context, const char *folder) {
    salf_model *model;
    decoder *d;
    CHECK_OK(salf_model_open(&model, context, folder, NULL));
    ck_assert_msg(decoder_open(&d, context, model, NULL) == SALF_OK, "%s", decoder_error());
    salf_model_destroy(model);
    return d;
}

static void logits_of(decoder *d, float *logits) {
    static const int32_t tokens[] = {1, 7, 3, 3, 20};
    static const int64_t offsets[] = {0, 5}, rows[] = {1, 4};
    const decoder_batch batch = {
        .tokens = tokens, .offsets = offsets, .n_sequences = 1, .head_rows = rows, .n_head_rows = 2};
    ck_assert_int_eq(decoder_forward(d, &batch, 0, NULL, NULL), SALF_OK);
    ck_assert_int_eq(decoder_logits(d, NULL, decoder_get_config(d)->vocab, logits), SALF_OK);
}

START_TEST(a_saved_model_is_read_back_with_lora_merged) {
    const decoder_training lora = {.lora_rank = 2, .lora_alpha = 4.0};
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    for (int32_t i = 0; i < 4; i++) {
        const decoder_config config = {.n_layers = 2,
                                       .n_heads = 4,
                                       .n_kv_heads = 2,
                                       .head_dim = 6,
                                       .hidden = 16,
                                       .ffn_hidden = 20,
                                       .vocab = 24,
                                       .max_positions = 9,
                                       .norm_eps = 1e-6,
                                       .tied = i >> 1,
                                       .bos_token = 1,
                                       .eos_token = -1,
                                       .layers = {.struct_size = sizeof(salf_decoder_info),
                                                  .gated_ffn = 1,
                                                  .norm_kind = SALF_NORM_RMS,
                                                  .biases = i & 1 ? SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V : 0,
                                                  .rope = SALF_ROPE_DEFAULT,
                                                  .rope_theta = 5000.0}};
        decoder *d;
        float before[48], after[48];
        uint64_t state = 4;
        ck_assert_int_eq(decoder_create(&d, context, &config, &lora, 9), SALF_OK);
        for (int64_t j = 0; j < decoder_n_parameters(d); j++) {
            decoder_parameter *p = decoder_parameter_at(d, j);
            for (int64_t e = 0; e < p->count; e++) p->values[e] += (float)(0.2 * harness_normal(&state));
        }
        logits_of(d, before);
        for (int32_t dtype = SALF_F32; dtype <= SALF_BF16; dtype++) {
            ck_assert_msg(decoder_save(d, harness_path("saved"), dtype) == SALF_OK, "%s", decoder_error());
            decoder *again = reopen(context, harness_path("saved"));
            ck_assert_int_eq(decoder_get_config(again)->layers.biases, config.layers.biases);
            ck_assert_int_eq(decoder_get_config(again)->tied, config.tied);
            logits_of(again, after);
            const double tolerance = dtype == SALF_F32 ? 1e-4 : 0.3;
            for (int j = 0; j < 48; j++) ck_assert_double_eq_tol(after[j], before[j], tolerance);
            decoder_free(again);
        }
        ck_assert_int_eq(decoder_save(d, harness_path("saved"), SALF_F64), SALF_E_DTYPE);
        decoder_free(d);
    }
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, forward_agrees_with_the_reference_outputs);
    HARNESS_ADD(suite, a_saved_model_is_read_back_with_lora_merged);
}
