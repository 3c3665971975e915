/*
 * config.c - config.json of a Hugging Face checkpoint: families, their names for the same things, their defaults. The
 * table of names is in docs/formats.md.
 */
#include <math.h>
#include <string.h>

#include "io.h"

typedef struct {
    const char *name; /* model_type */
    int32_t family;
    int32_t norm_kind;
    int32_t tied;           /* when the file does not say */
    int32_t attention_bias; /* likewise */
} family_defaults;

static const family_defaults families[] = {
    {"llama", SALF_FAMILY_LLAMA, SALF_NORM_RMS, 0, 0},     {"qwen2", SALF_FAMILY_QWEN2, SALF_NORM_RMS, 0, 1},
    {"gemma2", SALF_FAMILY_GEMMA2, SALF_NORM_RMS1P, 1, 0}, {"mistral", SALF_FAMILY_MISTRAL, SALF_NORM_RMS, 0, 0},
    {"gpt2", SALF_FAMILY_GPT2, SALF_NORM_LAYER, 1, 1},
};

static const family_defaults *find_family(const char *name) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].name, name) == 0) return &families[i];
    return NULL;
}

/* ---- fields; the first error of a reader stays ---- */

typedef struct {
    const json_t *json;
    const char *path;
    salf_status status;
} reader;

static const json_t *field(const reader *r, const char *name) {
    const json_t *value = json_object_get(r->json, name);
    return value && !json_is_null(value) ? value : NULL;
}

/* An integer in least ... most; fallback where it is missing (fallback below least: it must be there). */
static int64_t integer(reader *r, const char *name, int64_t least, int64_t most, int64_t fallback) {
    const json_t *value = field(r, name);
    if (r->status != SALF_OK) return least;
    if (!value && fallback >= least) return fallback;
    if (value && json_is_integer(value) && json_integer_value(value) >= least && json_integer_value(value) <= most)
        return json_integer_value(value);
    if (!value)
        r->status = slf_fail(SALF_E_CORRUPT, "%s: %s is missing", r->path, name);
    else if (!json_is_integer(value))
        r->status = slf_fail(SALF_E_CORRUPT, "%s: %s is no integer", r->path, name);
    else
        r->status = slf_fail(SALF_E_CORRUPT, "%s: %s is %lld, not in %lld ... %lld", r->path, name,
                             (long long)json_integer_value(value), (long long)least, (long long)most);
    return least;
}

/* A finite number that is not negative. */
static double number(reader *r, const json_t *value, const char *name, double fallback) {
    if (r->status != SALF_OK || !value) return fallback;
    const double x = json_number_value(value);
    if (json_is_number(value) && isfinite(x) && x >= 0) return x;
    r->status = slf_fail(SALF_E_CORRUPT, "%s: %s is not a number of 0 or more", r->path, name);
    return fallback;
}

static int32_t flag(reader *r, const char *name, int32_t fallback) {
    const json_t *value = field(r, name);
    if (r->status != SALF_OK || !value) return fallback;
    if (json_is_boolean(value)) return json_is_true(value);
    r->status = slf_fail(SALF_E_CORRUPT, "%s: %s is neither true nor false", r->path, name);
    return fallback;
}

/* A token id, or the first of a list; -1 where there is none. */
static int32_t token(const reader *r, const char *name) {
    const json_t *value = field(r, name);
    if (json_is_array(value)) value = json_array_get(value, 0);
    const json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
}

/* ---- families ---- */

static void read_shape(reader *r, salf_model_info *info, bool gpt2) {
    const int64_t large = INT32_MAX;
    info->n_layers = (int32_t)integer(r, gpt2 ? "n_layer" : "num_hidden_layers", 1, 65535, 0);
    info->hidden = integer(r, gpt2 ? "n_embd" : "hidden_size", 1, 1 << 24, 0);
    info->vocab = integer(r, "vocab_size", 1, large, 0);
    info->n_heads = (int32_t)integer(r, gpt2 ? "n_head" : "num_attention_heads", 1, 65535, 0);
    info->n_kv_heads = (int32_t)integer(r, "num_key_value_heads", 1, 65535, info->n_heads);
    info->ffn_hidden = integer(r, gpt2 ? "n_inner" : "intermediate_size", 1, large, gpt2 ? 4 * info->hidden : 0);
    info->max_positions = integer(r, gpt2 ? "n_positions" : "max_position_embeddings", 1, INT64_MAX / 2, 2048);
    if (r->status != SALF_OK) return;
    if (info->n_heads % info->n_kv_heads != 0)
        r->status = slf_fail(SALF_E_CORRUPT, "%s: %d heads over %d key-value heads", r->path, (int)info->n_heads,
                             (int)info->n_kv_heads);
    const int64_t head_dim = info->family == SALF_FAMILY_GEMMA2 ? 256 : info->hidden / info->n_heads;
    info->head_dim = (int32_t)integer(r, "head_dim", 1, 65535, head_dim);
    info->valid_vocab = info->vocab;
}

static void read_numbers(reader *r, salf_model_info *info, bool gpt2) {
    const char *eps = gpt2 ? "layer_norm_epsilon" : "rms_norm_eps";
    const json_t *rope = field(r, "rope_parameters"); /* where newer files keep it */
    const json_t *theta = field(r, "rope_theta");
    if (!theta && json_is_object(rope)) theta = json_object_get(rope, "rope_theta");
    if (json_is_null(theta)) theta = NULL;
    info->norm_eps = number(r, field(r, eps), eps, gpt2 ? 1e-5 : 1e-6);
    info->rope_theta = gpt2 ? 0 : number(r, theta, "rope_theta", 10000);
    info->logit_scale = 1;
    info->embedding_scale = 1;
    if (info->family == SALF_FAMILY_GEMMA2) {
        info->embedding_scale = sqrt((double)info->hidden);
        const char *cap = "final_logit_softcapping"; /* null: none */
        info->logit_softcap = number(r, field(r, cap), cap, json_object_get(r->json, cap) ? 0 : 30);
    }
}

salf_status slf_config_read(slf_config *config, const json_t *json, const char *path) {
    reader r = {.json = json, .path = path, .status = SALF_OK};
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (!type) return slf_fail(SALF_E_CORRUPT, "%s: no model_type", path);
    const family_defaults *family = find_family(type);
    if (!family)
        return slf_fail(
            SALF_E_UNSUPPORTED,
            "%s: model_type '%s' is none of llama, qwen2, gemma2, mistral, gpt2; describe the model instead", path,
            type);
    const bool gpt2 = family->family == SALF_FAMILY_GPT2;
    salf_model_info info = {.struct_size = sizeof info, .family = family->family, .norm_kind = family->norm_kind};
    read_shape(&r, &info, gpt2);
    read_numbers(&r, &info, gpt2);
    info.tied = flag(&r, "tie_word_embeddings", family->tied);
    info.attention_bias = flag(&r, "attention_bias", family->attention_bias);
    info.bos_token = token(&r, "bos_token_id");
    info.eos_token = token(&r, "eos_token_id");
    if (r.status == SALF_OK) config->info = info;
    return r.status;
}
