/* cmd_doctor.c - `salf doctor`: what libsalf finds on this machine and in a model, and whether its numbers are right.
 *
 * All findings go into one JSON object of sections, which is printed as it is or as text: neither can say more than the
 * other. The self-check compares the probe with a plain reading of the same rows and states:
 *
 *     d[k][r] = 1 - <h, b> / (|h| |b|),   h [D] a random state, b [D] the basis row of label r, in double
 *
 * Cost with a model: that of a basis, 2 V D^2, and of reading the weights once as `salf finetune` would.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "decoder.h"
#include "jsonl.h"
#include "memory.h"
#include "ops.h"
#include "rng.h"
#include "salf.h"
#include "tokenizer.h"
#include "tokenizer_unicode.h"

/* Labels whose rows are looked at; names of a list that text shows; columns of text, and of its names. */
enum { LABELS = 8, NAMES_SHOWN = 8, COLUMNS = 80, NAME_COLUMNS = 24 };

/* Rows and states are float32, so that a cosine is off by some 1e-7, more by the root of D at most where products are
 * summed in float32 too. What differs by more is no rounding. */
static const double TOLERANCE = 1e-5;

typedef struct doctor_settings {
    const char *accept;
    int64_t valid_vocab;
    int32_t backend;
    int32_t threads;
    int32_t json;
} doctor_settings;

/* What the command holds, released together. */
typedef struct patient {
    const doctor_settings *s;
    const char *path; /* of the model, or NULL */
    json_t *all;      /* the object that is printed; sections and lists below are parts of it */
    json_t *log;      /* what the library logged */
    json_t *wrong;    /* a sentence for each fault */
    int no_memory;    /* 1: something is missing in all, which is not printed then */
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_model_info info;
} patient;

#define AT(field) offsetof(doctor_settings, field)

static const args_option doctor_table[] = {
    {"valid-vocab", 0, ARGS_INT, AT(valid_vocab), "N", .least = 1, .most = INT32_MAX, .help = VALID_VOCAB_HELP},
    {"accept", 0, ARGS_TEXT, AT(accept), "KEY,...", .help = ACCEPT_HELP},
    {"backend", 0, ARGS_CHOICE, AT(backend), .family = "SALF_BACKEND", .help = "what computes (default auto)"},
    {"threads", 0, ARGS_INT32, AT(threads), "N", .least = 0, .most = 1024,
     .help = "0: as many as BLAS has (default 0)"},
    {"json", 0, ARGS_FLAG, AT(json), .help = "print one JSON object"},
};
#undef AT

static const args_command doctor_command = {
    .name = "doctor",
    .summary =
        "Prints what libsalf finds on this machine and, of a checkpoint folder or GGUF file, what it reads there; "
        "checks deviations against a plain reading. Ends with 1 when something is wrong.",
    .arguments = "[MODEL]",
    .options = doctor_table,
    .n_options = sizeof doctor_table / sizeof *doctor_table,
};

/* ---- findings ---- */

static void put(patient *p, json_t *section, const char *key, json_t *value) {
    if (json_object_set_new(section, key, value) != 0) p->no_memory = 1;
}

/* Texts may hold bytes of a path or a file that are no UTF-8, which JSON cannot. */
static json_t *text_of(const char *text) {
    text_buffer t = {0};
    utf8_repair(&t, text, strlen(text));
    json_t *value = t.failed ? NULL : json_stringn(t.n ? t.bytes : "", t.n);
    free(t.bytes);
    return value;
}

static void put_text(patient *p, json_t *section, const char *key, const char *text) {
    put(p, section, key, text_of(text));
}

/* A number that JSON does not know is null. */
static void put_real(patient *p, json_t *section, const char *key, double value) {
    put(p, section, key, isfinite(value) ? json_real(value) : json_null());
}

/* The word of a constant, or "unknown" where the library knows none. */
static void put_word(patient *p, json_t *section, const char *key, const char *family, int64_t value) {
    const char *word = salf_constant_word(family, value);
    put_text(p, section, key, word ? word : "unknown");
}

/* A list of words of the SALF_MATRIX_* in a mask, each of one bit. */
static void put_matrices(patient *p, json_t *section, const char *key, int32_t mask) {
    json_t *list = json_array();
    for (int32_t bit = 1; bit < SALF_MATRIX_ALL; bit *= 2) {
        if (mask & bit && json_array_append_new(list, text_of(salf_constant_word("SALF_MATRIX", bit))))
            p->no_memory = 1;
    }
    put(p, section, key, list);
}

/* Of the object, or NULL for want of memory, which takes every put. */
static json_t *add_section(patient *p, const char *name) {
    put(p, p->all, name, json_object());
    return json_object_get(p->all, name);
}

static void add_wrong(patient *p, const char *format, ...) ARGS_PRINTF(2);
static void add_wrong(patient *p, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (json_array_append_new(p->wrong, text_of(text)) != 0) p->no_memory = 1;
}

/* A call of the library failed: a fault of the patient, unless memory is short. Gives the status back. */
static salf_status judge(patient *p, const char *what, salf_status status) {
    if (status == SALF_E_NO_MEMORY)
        p->no_memory = 1;
    else if (status)
        add_wrong(p, "%s: %s", what, salf_last_error());
    return status;
}

/* ---- the machine ---- */

static void keep_log(void *user, int32_t level, const char *message) {
    patient *p = user;
    (void)level;
    if (json_array_append_new(p->log, text_of(message)) != 0) p->no_memory = 1;
}

/* OpenBLAS says what it is through functions of its own. The configuration begins with name and version, "OpenBLAS
 * 0.3.26 NO_LAPACKE ...". */
static void examine_blas(patient *p) {
    json_t *blas = add_section(p, "blas");
    char name[64] = "unknown", version[64] = "unknown";
    if (sscanf(ops_blas(), "%63s %63s", name, version) < 2) strcpy(version, "unknown");
    put_text(p, blas, "name", name);
    put_text(p, blas, "version", version);
    put_text(p, blas, "core", ops_blas_core());
    put(p, blas, "threads", json_integer(ops_use_threads(p->s->threads)));
    put_text(p, blas, "configuration", ops_blas());
}

/* The context in which all else is done, and why it has its backend. Where that is not cuda, a context that insists on
 * it says where the plugin was looked for and what it lacks. */
static salf_status examine_machine(patient *p) {
    salf_context_options o, cuda;
    salf_context_info info;
    json_t *program = add_section(p, "program"), *backend = add_section(p, "backend");
    put_text(p, program, "version", salf_version_string());
    put(p, program, "version_number", json_integer(salf_version_number()));
    put(p, program, "header_version_number",
        json_integer(SALF_VERSION_MAJOR * 10000 + SALF_VERSION_MINOR * 100 + SALF_VERSION_PATCH));
    put(p, program, "abi", json_integer(SALF_SOVERSION));
    salf_options_init(&info, sizeof info);
    salf_options_init(&o, sizeof o);
    o.backend = p->s->backend;
    o.threads = p->s->threads;
    o.log = keep_log;
    o.log_user = p;
    o.log_level = SALF_LOG_INFO;
    salf_status status = salf_context_create(&p->context, &o);
    if (!status) status = salf_context_get_info(p->context, &info);
    if (status) return status;
    const char *wish = getenv("SALF_BACKEND"), *note = json_string_value(json_array_get(p->log, 0));
    put_text(p, backend, "name", info.backend_name);
    put_text(p, backend, "why",
             p->s->backend   ? "--backend names it"
             : wish && *wish ? "the environment variable SALF_BACKEND names it"
             : note          ? note
                             : "its plugin and a device are there");
    put_text(p, backend, "kernels", info.kernels);
    put(p, backend, "threads", info.threads ? json_integer(info.threads) : json_string("as BLAS has them"));
    if (info.backend == SALF_BACKEND_CUDA) {
        put(p, backend, "device", json_integer(info.device));
        return SALF_OK;
    }
    salf_context *other = NULL;
    salf_options_init(&cuda, sizeof cuda);
    cuda.backend = SALF_BACKEND_CUDA;
    status = salf_context_create(&other, &cuda);
    put_text(p, backend, "cuda", status ? salf_last_error() : "it opens when it is asked for");
    salf_context_destroy(other);
    return status == SALF_E_NO_MEMORY ? status : SALF_OK;
}

/* ---- the model ---- */

static void examine_model(patient *p) {
    static const char *const types[] = {"float32 when read", "f32", "bf16", "f16", "f64", "i8", "u8", "i32", "i64"};
    const salf_model_info *i = &p->info;
    const int known = i->head_dtype >= 0 && i->head_dtype < (int32_t)(sizeof types / sizeof *types);
    json_t *model = add_section(p, "model");
    put_text(p, model, "path", p->path);
    put_word(p, model, "family", "SALF_FAMILY", i->family);
    put_text(p, model, "model_type", i->model_type);
    put(p, model, "layers", json_integer(i->n_layers));
    put(p, model, "hidden", json_integer(i->hidden));
    put(p, model, "vocabulary", json_integer(i->vocab));
    put(p, model, "valid_vocabulary", json_integer(i->valid_vocab));
    put_word(p, model, "valid_vocabulary_from", "SALF_VOCAB", i->vocab_from);
    put(p, model, "tied", json_boolean(i->tied));
    put_word(p, model, "final_norm", "SALF_NORM", i->norm_kind);
    put_real(p, model, "norm_eps", i->norm_eps);
    put_text(p, model, "head_type", known ? types[i->head_dtype] : "unknown");
    put_real(p, model, "logit_scale", i->logit_scale);
    put_real(p, model, "logit_softcap", i->logit_softcap);
}

/* What the layers compute. The parts of "key = value; ..." that the library cannot say become a list; where there are
 * any, the fields that describe the layers may be those of another model, and are left out. */
static void examine_decoder(patient *p) {
    salf_decoder_info d;
    salf_options_init(&d, sizeof d);
    if (judge(p, "decoder", salf_model_get_decoder(p->model, &d))) return;
    json_t *section = add_section(p, "decoder"), *list = json_array();
    for (const char *item = d.unsupported; item && *item;) {
        const char *end = strstr(item, "; ");
        char *one = strndup(item, end ? (size_t)(end - item) : strlen(item));
        if (!one || json_array_append_new(list, text_of(one)) != 0) p->no_memory = 1;
        free(one);
        item = end ? end + 2 : NULL;
    }
    put(p, section, "unsupported", list);
    put(p, section, "heads", json_integer(p->info.n_heads));
    put(p, section, "key_value_heads", json_integer(p->info.n_kv_heads));
    put(p, section, "head_size", json_integer(p->info.head_dim));
    put(p, section, "ffn_size", json_integer(p->info.ffn_hidden));
    put(p, section, "positions", json_integer(p->info.max_positions));
    put_real(p, section, "embedding_scale", p->info.embedding_scale);
    if (d.unsupported) return;
    put_word(p, section, "activation", "SALF_ACTIVATION", d.activation);
    put(p, section, "gated_ffn", json_boolean(d.gated_ffn));
    put_word(p, section, "norms", "SALF_NORM", d.norm_kind);
    put_word(p, section, "block", "SALF_BLOCK", d.block);
    put_word(p, section, "query_and_key_norms", "SALF_QK_NORM", d.qk_norm);
    put_matrices(p, section, "biases_of", d.biases);
    put_matrices(p, section, "fused", d.fused);
    put_word(p, section, "rope", "SALF_ROPE", d.rope);
    put_real(p, section, "rope_theta", d.rope_theta);
    put(p, section, "rotary_dims", json_integer(d.rotary_dims));
    if (d.local_rope_theta > 0) put_real(p, section, "local_rope_theta", d.local_rope_theta);
    if (d.rope_factor > 0) put_real(p, section, "rope_factor", d.rope_factor);
    put_real(p, section, "attention_scale", d.attention_scale);
    put_real(p, section, "attention_softcap", d.attention_softcap);
    put_real(p, section, "residual_scale", d.residual_scale);
    put(p, section, "sliding_window", json_integer(d.sliding_window));
    int64_t sliding = 0;
    for (int32_t k = 0; d.sliding && k < p->info.n_layers; k++) sliding += d.sliding[k] != 0;
    put(p, section, "layers_with_window", json_integer(sliding));
}

/* Opens the decoder as `salf finetune` does, which says why not, and lists the tensors that are no parameter of it:
 * tables that are made anew, a second name of a tied head, and what does not belong to the text model. */
static void examine_training(patient *p) {
    const salf_tensors *file = salf_model_get_tensors(p->model);
    const decoder_training lora = {.lora_rank = 8}; /* the default of finetune */
    decoder *net = NULL;
    json_t *training = add_section(p, "finetune"), *tensors = add_section(p, "tensors");
    const salf_status status = decoder_open(&net, p->context, p->model, &lora);
    put(p, training, "would_train", json_boolean(status == SALF_OK));
    if (status) put_text(p, training, "why_not", *decoder_error() ? decoder_error() : salf_last_error());
    put(p, tensors, "count", json_integer(salf_tensors_count(file)));
    if (status == SALF_E_NO_MEMORY) p->no_memory = 1;
    if (!net) return;
    json_t *others = json_array();
    for (int64_t i = 0; i < salf_tensors_count(file); i++) {
        salf_named_tensor t;
        const salf_status at = salf_tensors_at(file, i, &t);
        if (at && at != SALF_E_DTYPE && judge(p, "tensors", at)) break;
        int known = 0;
        for (int64_t j = 0; !known && j < decoder_n_parameters(net); j++)
            known = strcmp(decoder_parameter_at(net, j)->name, t.name) == 0;
        if (!known && json_array_append_new(others, text_of(t.name)) != 0) p->no_memory = 1;
    }
    put(p, tensors, "no_parameter", others);
    decoder_free(net);
}

/* A missing tokenizer is no fault: basis and probe take ids. One with many more ids than the head has rows is. */
static void examine_tokenizer(patient *p) {
    char message[512];
    tokenizer *t = NULL;
    json_t *section = add_section(p, "tokenizer");
    const int found = tokenizer_load(&t, p->path, message, sizeof message) == 0;
    put(p, section, "found", json_boolean(found));
    if (!found) {
        if (strstr(message, "out of memory")) p->no_memory = 1;
        put_text(p, section, "why_not", message);
        return;
    }
    const int32_t size = tokenizer_size(t);
    put(p, section, "form", json_string(tokenizer_is_json(t) ? "tokenizer.json" : ".bin"));
    put(p, section, "size", json_integer(size));
    put(p, section, "rows_without_token", json_integer(p->info.vocab > size ? p->info.vocab - size : 0));
    put(p, section, "tokens_without_row", json_integer(size > p->info.vocab ? size - p->info.vocab : 0));
    if (size - p->info.vocab > TOKENS_BEYOND_MOST)
        add_wrong(p, "the tokenizer has %" PRId32 " ids, the head only %" PRId64 " rows", size, p->info.vocab);
    tokenizer_destroy(t);
}

/* ---- the numbers ---- */

/* States of a space, [n][D] from a seed of its own, so that both readings see the same. */
static void make_states(float *states, int64_t count, int32_t space) {
    uint64_t sequence = rng_hash((uint64_t)space);
    for (int64_t i = 0; i < count; i++) states[i] = (float)rng_normal(&sequence);
}

static double plain_deviation(const float *h, const double *b, int64_t hidden) {
    double hb = 0, hh = 0, bb = 0;
    for (int64_t c = 0; c < hidden; c++) {
        hb += (double)h[c] * b[c];
        hh += (double)h[c] * (double)h[c];
        bb += b[c] * b[c];
    }
    return 1 - hb / sqrt(hh) / sqrt(bb);
}

/* Deviations of n labels in all spaces by the probe, without the final norm, whose weights only the library has; then
 * the largest difference to the plain reading. rows [n][D], states [n][D]. */
static salf_status compare(patient *p, const int32_t *labels, int64_t n, const double *rows, float *states,
                           double *worst) {
    const int64_t hidden = p->info.hidden, spaces = p->info.n_layers + 1;
    salf_probe *probe = NULL;
    salf_trace trace;
    salf_probe_options o;
    salf_options_init(&o, sizeof o);
    o.lens = SALF_LENS_RAW;
    salf_status status = salf_probe_create(&probe, p->basis, &o);
    if (!status) status = salf_probe_begin(probe, labels, n);
    for (int32_t k = 0; !status && k < spaces; k++) {
        const salf_tensor view = {.data = states, .rows = n, .cols = hidden, .dtype = SALF_F32};
        make_states(states, n * hidden, k);
        status = salf_probe_observe(probe, k, &view, SALF_STATE_RAW);
    }
    if (!status) status = salf_probe_end(probe, &trace);
    *worst = 0;
    for (int32_t k = 0; !status && k < spaces; k++) {
        make_states(states, n * hidden, k);
        for (int64_t r = 0; r < n; r++) {
            const double plain = plain_deviation(states + r * hidden, rows + r * hidden, hidden);
            const double difference = fabs(trace.deviations[r * spaces + k] - plain);
            if (!(difference <= *worst)) *worst = difference; /* NaN stays */
        }
    }
    salf_probe_destroy(probe);
    return status;
}

/* Labels spread over the vocabulary; those whose row is zero have no basis row, are counted, and are left out. */
static void examine_deviations(patient *p) {
    const int64_t hidden = p->info.hidden, valid = p->info.valid_vocab;
    int32_t labels[LABELS];
    int64_t n = 0, zero = 0;
    double worst = 0, *rows = memory_take(LABELS * hidden, sizeof *rows);
    float *states = memory_take(LABELS * hidden, sizeof *states);
    salf_status status = rows && states ? SALF_OK : SALF_E_NO_MEMORY;
    for (int64_t i = 0; !status && i < LABELS; i++) {
        const salf_tensor out = {.data = rows + n * hidden, .rows = 1, .cols = hidden, .dtype = SALF_F64};
        labels[n] = (int32_t)(valid * (2 * i + 1) / (2 * LABELS));
        status = salf_basis_rows(p->basis, labels + n, 1, &out);
        n += status == SALF_OK;
        zero += status == SALF_E_ZERO_ROW;
        if (status == SALF_E_ZERO_ROW) status = SALF_OK;
    }
    if (!status && n > 0) status = compare(p, labels, n, rows, states, &worst);
    free(rows);
    free(states);
    if (judge(p, "self-check", status)) return;
    json_t *check = add_section(p, "self_check");
    const int passed = n > 0 && worst <= TOLERANCE;
    put(p, check, "labels", json_integer(n));
    put(p, check, "zero_rows", json_integer(zero));
    put(p, check, "deviations", json_integer(n * (p->info.n_layers + 1)));
    put_real(p, check, "largest_difference", worst);
    put_real(p, check, "tolerance", TOLERANCE);
    put(p, check, "passed", json_boolean(passed));
    if (n == 0)
        add_wrong(p, "self-check: none of %d labels has a basis row", LABELS);
    else if (!passed)
        add_wrong(p, "self-check: deviations differ by %.3g from a plain reading", worst);
}

static void examine_basis(patient *p) {
    salf_basis_info b;
    salf_options_init(&b, sizeof b);
    salf_status status = salf_basis_create(&p->basis, p->model, NULL, 0, NULL);
    if (!status) status = salf_basis_get_info(p->basis, &b);
    if (judge(p, "basis", status)) return;
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, b.fingerprint);
    json_t *basis = add_section(p, "basis");
    put(p, basis, "rank", json_integer(b.rank));
    put(p, basis, "of", json_integer(b.hidden));
    put_real(p, basis, "condition", b.condition);
    put_real(p, basis, "sigma_max", b.sigma_max);
    put_real(p, basis, "sigma_min", b.sigma_min);
    put_real(p, basis, "row_error", b.row_error);
    put_word(p, basis, "method", "SALF_METHOD", b.method);
    put_text(p, basis, "head_fingerprint", fingerprint);
    examine_deviations(p);
}

/* ---- printing ---- */

static void print_value(const char *key, const json_t *value) {
    char number[64];
    printf("  ");
    for (const char *c = key; *c; c++) putchar(*c == '_' ? ' ' : *c);
    printf("%*s", (int)strlen(key) < NAME_COLUMNS - 2 ? NAME_COLUMNS - 2 - (int)strlen(key) : 1, "");
    if (json_is_array(value)) {
        const size_t n = json_array_size(value);
        if (n == 0) puts("none");
        for (size_t i = 0; i < n && i < NAMES_SHOWN; i++) {
            if (i > 0) printf("%*s", NAME_COLUMNS, "");
            args_print_wrapped(stdout, json_string_value(json_array_get(value, i)), NAME_COLUMNS, NAME_COLUMNS,
                               COLUMNS);
        }
        if (n > NAMES_SHOWN) printf("%*sand %zu more (--json has them)\n", NAME_COLUMNS, "", n - NAMES_SHOWN);
        return;
    }
    if (json_is_integer(value)) snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    if (json_is_real(value)) snprintf(number, sizeof number, "%.6g", json_real_value(value));
    if (json_is_boolean(value)) strcpy(number, json_is_true(value) ? "yes" : "no");
    if (json_is_null(value)) strcpy(number, "not a finite number");
    args_print_wrapped(stdout, json_is_string(value) ? json_string_value(value) : number, NAME_COLUMNS, NAME_COLUMNS,
                       COLUMNS);
}

static void print_text(const patient *p) {
    const char *name, *key;
    const json_t *value;
    json_t *section;
    json_object_foreach(p->all, name, section) {
        if (!json_is_object(section)) continue;
        for (const char *c = name; *c; c++) putchar(*c == '_' ? ' ' : *c);
        putchar('\n');
        json_object_foreach(section, key, value) print_value(key, value);
        putchar('\n');
    }
    /* Why there is no cuda stands above. */
    for (size_t i = 0; i < json_array_size(p->log); i++) {
        const char *note = json_string_value(json_array_get(p->log, i));
        if (strncmp(note, "no cuda backend", 15) == 0) continue;
        printf("Note: ");
        args_print_wrapped(stdout, note, 6, 6, COLUMNS);
    }
    const size_t n = json_array_size(p->wrong);
    if (n == 0) printf("Nothing is wrong%s.\n", p->path ? "" : "; name a model to have it examined");
    for (size_t i = 0; i < n; i++) {
        printf("Wrong: ");
        args_print_wrapped(stdout, json_string_value(json_array_get(p->wrong, i)), 7, 7, COLUMNS);
    }
}

/* ---- everything ---- */

/* All findings. Returns SALF_OK, or the status of a context or model that does not open, with the library's message. */
static salf_status examine(patient *p) {
    salf_model_options o;
    salf_options_init(&o, sizeof o);
    salf_options_init(&p->info, sizeof p->info);
    o.valid_vocab = p->s->valid_vocab;
    o.accept = p->s->accept;
    salf_status status = examine_machine(p);
    if (status) return status;
    examine_blas(p);
    if (!p->path) return SALF_OK;
    status = salf_model_open(&p->model, p->context, p->path, &o);
    if (!status) status = salf_model_get_info(p->model, &p->info);
    if (status) return status;
    examine_model(p);
    examine_decoder(p);
    examine_training(p);
    examine_tokenizer(p);
    if (!p->no_memory) examine_basis(p);
    return SALF_OK;
}

int cmd_doctor(int argc, char **argv) {
    doctor_settings s = {0};
    patient p = {.s = &s};
    int n_arguments = 0;
    int code = args_parse(&doctor_command, &s, argc, argv, &n_arguments);
    if (code >= 0) return code;
    if (n_arguments > 1) return args_misuse("doctor", "'%s' is a second model; one is examined at a time", argv[2]);
    if (!n_arguments && (s.valid_vocab || s.accept))
        return args_misuse("doctor", "--%s is for a MODEL, and none is named", s.accept ? "accept" : "valid-vocab");
    p.path = n_arguments ? argv[1] : NULL;
    p.all = json_object();
    p.log = json_array();
    p.wrong = json_array();
    /* The lists are parts of the object, in which they come first when its members keep their order. */
    put(&p, p.all, "wrong", p.wrong);
    put(&p, p.all, "log", p.log);
    if (p.no_memory) {
        code = args_fail("doctor", "out of memory");
    } else if (examine(&p)) {
        code = args_fail_salf("doctor");
    } else if (p.no_memory) {
        code = args_fail("doctor", "out of memory");
    } else {
        code = json_array_size(p.wrong) ? EXIT_CODE_FAILED : EXIT_CODE_OK;
        const char *wrong = s.json ? jsonl_print(json_incref(p.all)) : NULL;
        if (!s.json) print_text(&p);
        if (wrong) code = args_fail("doctor", "%s", wrong);
    }
    salf_basis_destroy(p.basis);
    salf_model_destroy(p.model);
    salf_context_destroy(p.context);
    json_decref(p.all);
    return code;
}
