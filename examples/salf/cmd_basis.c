/* cmd_basis.c - `salf basis`: rows of the semantic basis of a checkpoint (paper, section 2.1). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "files.h"
#include "salf.h"
#include "tokenizer.h"

typedef struct basis_settings {
    const char *model;
    const char *accept;
    int64_t valid_vocab;
    const char *tokens;
    const char *words;
    const char *tokenizer;
    const char *output;
    double rtol;
    double ridge;
    int32_t rtol_given;
    int32_t ridge_given;
    int32_t exact;
    int32_t input_side;
    int32_t backend;
} basis_settings;

/* What the command holds, released together. */
typedef struct basis_parts {
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    int32_t *tokens; /* [n] */
    int64_t n;
    float *rows; /* [n][D] */
} basis_parts;

#define AT(field) offsetof(basis_settings, field)

static const args_option basis_table[] = {
    {"model", 0, ARGS_TEXT, AT(model), "PATH", .required = 1,
     .help = "checkpoint folder (config.json and model.safetensors) or GGUF file"},
    {"valid-vocab", 0, ARGS_INT, AT(valid_vocab), "N", .least = 1, .most = INT32_MAX, .help = VALID_VOCAB_HELP},
    {"accept", 0, ARGS_TEXT, AT(accept), "KEY,...", .help = ACCEPT_HELP},
    {"tokens", 0, ARGS_TEXT, AT(tokens), "ID,...", .help = "token ids, such as 0,7,100"},
    {"words", 0, ARGS_TEXT, AT(words), "WORD,...", .help = "words instead: the first token of each, inside a text"},
    {"tokenizer", 0, ARGS_TEXT, AT(tokenizer), "FILE",
     .help = "for --words: tokenizer.json, .bin tokenizer, or a folder with one (default: the model's)"},
    {"rtol", 0, ARGS_REAL, AT(rtol), "R", .least = 0, .most = 1, .given = AT(rtol_given),
     .help = "drop singular values at or below R times the largest; 0 is --exact (default max(V, D) * 2^-23)"},
    {"exact", 0, ARGS_FLAG, AT(exact), .help = "keep every singular value that float64 resolves"},
    {"ridge", 0, ARGS_REAL, AT(ridge), "L", .given = AT(ridge_given),
     .help = "regularise with L > 0 instead of dropping"},
    {"input-side", 0, ARGS_FLAG, AT(input_side), .help = "rows of the embedding matrix instead of the head's basis"},
    {"output", 'o', ARGS_TEXT, AT(output), "FILE", .place = PLACE_FILE,
     .help = "write the table as safetensors instead of printing it"},
    {"backend", 0, ARGS_CHOICE, AT(backend), .family = "SALF_BACKEND", .help = "what computes (default auto)"},
};
#undef AT

static const args_command basis_command = {
    .name = "basis",
    .summary = "Prints `token<TAB>values` for each token, with 9 significant digits; rank and condition go to standard "
               "error.",
    .options = basis_table,
    .n_options = sizeof basis_table / sizeof *basis_table,
};

/* The first token of each word of a list. Returns an exit code. */
static int find_words(const basis_settings *s, basis_parts *p) {
    char message[512];
    tokenizer *t;
    if (tokenizer_load(&t, s->tokenizer ? s->tokenizer : s->model, message, sizeof message))
        return args_fail("basis", "%s", message);
    int code = EXIT_CODE_OK;
    char *words = strdup(s->words);
    p->tokens = words ? malloc((strlen(words) + 1) * sizeof *p->tokens) : NULL; /* more than there are words */
    if (!p->tokens) code = args_fail("basis", "out of memory");
    for (char *word = words, *end; !code && word; word = end) {
        end = strchr(word, ',');
        if (end) *end++ = 0;
        const int32_t id = tokenizer_first_id(t, word);
        if (!*word)
            code = args_misuse("basis", "--words: '%s' has an empty word", s->words);
        else if (id == TOKEN_NO_MEMORY)
            code = args_fail("basis", "out of memory");
        else if (id == TOKEN_NONE)
            code = args_fail("basis", "the tokenizer has no token for '%s'", word);
        else
            p->tokens[p->n++] = id;
    }
    free(words);
    tokenizer_destroy(t);
    return code;
}

/* Context, model, and the basis with the rows of the tokens. */
static salf_status make_basis(const basis_settings *s, basis_parts *p) {
    salf_context_options context;
    salf_basis_options basis;
    salf_options_init(&context, sizeof context);
    salf_options_init(&basis, sizeof basis);
    salf_model_options model;
    salf_options_init(&model, sizeof model);
    model.valid_vocab = s->valid_vocab;
    model.accept = s->accept;
    context.backend = s->backend;
    basis.mode = s->ridge_given ? SALF_BASIS_RIDGE : SALF_BASIS_RTOL;
    if (s->exact || (s->rtol_given && s->rtol <= 0)) basis.mode = SALF_BASIS_EXACT; /* 0 would mean the default */
    basis.rtol = s->rtol;
    basis.ridge = s->ridge;
    basis.side = s->input_side ? SALF_SIDE_INPUT : SALF_SIDE_OUTPUT;
    salf_status status = salf_context_create(&p->context, &context);
    if (!status) status = salf_model_open(&p->model, p->context, s->model, &model);
    if (!status) status = salf_basis_create(&p->basis, p->model, p->tokens, p->n, &basis);
    return status;
}

/* Rows as text. 9 significant digits give back the same float32. */
static int print_rows(basis_parts *p, int64_t hidden) {
    p->rows = malloc((size_t)p->n * (size_t)hidden * sizeof *p->rows);
    if (!p->rows) return args_fail("basis", "out of memory");
    const salf_tensor out = {.data = p->rows, .rows = p->n, .cols = hidden, .dtype = SALF_F32};
    if (salf_basis_rows(p->basis, p->tokens, p->n, &out)) return args_fail_salf("basis");
    for (int64_t i = 0; i < p->n; i++) {
        printf("%" PRId32, p->tokens[i]);
        for (int64_t c = 0; c < hidden; c++) printf("\t%.9g", (double)p->rows[i * hidden + c]);
        putchar('\n');
    }
    return EXIT_CODE_OK;
}

int cmd_basis(int argc, char **argv) {
    basis_settings s = {0};
    basis_parts p = {0};
    char message[256];
    salf_basis_info info;
    salf_options_init(&info, sizeof info);
    int code = args_parse(&basis_command, &s, argc, argv, NULL);
    if (code >= 0) return code;
    if (s.exact + s.rtol_given + s.ridge_given > 1)
        return args_misuse("basis", "--rtol, --exact and --ridge exclude each other");
    if (s.rtol >= 1) return args_misuse("basis", "--rtol: %g is not below 1", s.rtol);
    if (s.ridge_given && !(s.ridge > 0)) return args_misuse("basis", "--ridge: %g is not positive", s.ridge);
    if (s.output && file_is_input(s.output, s.model))
        return args_misuse("basis", "--output: %s is a file of the model", s.output);
    if (s.output && file_is_input(s.output, s.tokenizer))
        return args_misuse("basis", "--output: %s is a file of the tokenizer", s.output);
    if (s.input_side && (s.exact || s.rtol_given || s.ridge_given))
        return args_misuse("basis", "--input-side: its rows are the embedding's, without --rtol, --exact or --ridge");
    if (s.tokenizer && !s.words) return args_misuse("basis", "--tokenizer is for --words");
    if (!s.tokens == !s.words) return args_misuse("basis", "either --tokens or --words is needed");
    if (s.words) {
        code = find_words(&s, &p);
        if (code != EXIT_CODE_OK) {
            free(p.tokens);
            return code;
        }
    }
    if (s.tokens) code = args_int_list(s.tokens, INT32_MIN, INT32_MAX, &p.tokens, &p.n, message, sizeof message);
    if (s.tokens && code != EXIT_CODE_OK) return args_say(code, "basis", "--tokens: %s", message);
    if (make_basis(&s, &p) || salf_basis_get_info(p.basis, &info)) {
        code = args_fail_salf("basis");
    } else {
        if (info.side == SALF_SIDE_INPUT)
            fprintf(stderr, "input side: %" PRId64 " rows of %" PRId64 "\n", info.vocab, info.hidden);
        else
            fprintf(stderr,
                    "rank %" PRId64 " of %" PRId64 ", sigma_max %.6g, sigma_min %.6g, condition %.6g, row error %.2g\n",
                    info.rank, info.hidden, info.sigma_max, info.sigma_min, info.condition, info.row_error);
        if (!s.output) code = print_rows(&p, info.hidden);
        if (s.output && salf_basis_save(p.basis, file_output(s.output))) code = args_fail_salf("basis");
    }
    free(p.rows);
    free(p.tokens);
    salf_basis_destroy(p.basis);
    salf_model_destroy(p.model);
    salf_context_destroy(p.context);
    return code;
}
