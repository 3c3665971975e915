/*
 * config.c - config.json of a Hugging Face checkpoint. Families name the same things in two ways; what a file does not
 * say, its family does (families.c).
 *
 * A key that is null counts as missing, as transformers has it.
 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>

#include "io.h"

/* ---- integers: a table ---- */

enum { NEEDED = -1 };

/* Named in either way, a key sets a field of salf_model_info to a value in 1 ... most. missing: what the field becomes
 * where the key is not there, or NEEDED. 0 is replaced in read_shape. */
typedef struct {
    const char *names[SLF_KEY_SCHEMES];
    size_t offset, size;
    int64_t most, missing;
} integer_key;

#define FIELD(name) offsetof(salf_model_info, name), sizeof((salf_model_info *)NULL)->name

/* The bounds keep every product that the library makes of them within 64 bits. */
static const integer_key integer_keys[] = {
    {{"num_hidden_layers", "n_layer"}, FIELD(n_layers), 65535, NEEDED},
    {{"hidden_size", "n_embd"}, FIELD(hidden), 1 << 24, NEEDED},
    {{"vocab_size", "vocab_size"}, FIELD(vocab), INT32_MAX, NEEDED},
    {{"num_attention_heads", "n_head"}, FIELD(n_heads), 65535, NEEDED},
    {{"num_key_value_heads", "num_key_value_heads"}, FIELD(n_kv_heads), 65535, 0},
    {{"intermediate_size", "n_inner"}, FIELD(ffn_hidden), INT32_MAX, 0},
    {{"max_position_embeddings", "n_positions"}, FIELD(max_positions), INT64_MAX / 2, 2048},
    {{"head_dim", "head_dim"}, FIELD(head_dim), 65535, 0},
};

/* The value of a key, NULL when it is not there or null. Borrowed from json. */
static const json_t *value_of(const json_t *json, const char *name) {
    const json_t *value = json_object_get(json, name);
    return json_is_null(value) ? NULL : value;
}

/* Integers only: 4096.0 is refused, since a float that was rounded somewhere is no size to rely on. */
static salf_status read_shape(salf_model_info *info, const json_t *json, const slf_family *family, const char *path) {
    /* 1. what the file says */
    for (size_t i = 0; i < sizeof integer_keys / sizeof *integer_keys; i++) {
        const integer_key *key = &integer_keys[i];
        const char *name = key->names[family->keys];
        const json_t *value = value_of(json, name);
        int64_t number = key->missing;
        if (!value && number == NEEDED) return slf_fail(SALF_E_CORRUPT, "%s: %s is missing", path, name);
        if (value && !json_is_integer(value)) return slf_fail(SALF_E_CORRUPT, "%s: %s is no integer", path, name);
        if (value) number = json_integer_value(value);
        if (value && (number < 1 || number > key->most))
            return slf_fail(SALF_E_CORRUPT, "%s: %s is %" PRId64 ", not in 1 ... %" PRId64, path, name, number,
                            key->most);
        char *field = (char *)info + key->offset;
        /* The table's bound for a 32-bit field is within 32 bits, so that nothing is cut off here. */
        if (key->size == sizeof(int32_t))
            *(int32_t *)(void *)field = (int32_t)number;
        else
            *(int64_t *)(void *)field = number;
    }
    /* 2. what follows from it where the file says nothing */
    if (info->n_kv_heads == 0) info->n_kv_heads = info->n_heads; /* every head has keys and values of its own */
    if (info->n_heads % info->n_kv_heads != 0)
        return slf_fail(SALF_E_CORRUPT, "%s: %d heads over %d key-value heads", path, (int)info->n_heads,
                        (int)info->n_kv_heads);
    /* In this order: the file, then what the family fixes whatever the hidden size is, then an even share of the
     * hidden size. */
    if (info->head_dim == 0) info->head_dim = family->head_dim;
    if (info->head_dim == 0) info->head_dim = (int32_t)(info->hidden / info->n_heads);
    if (info->head_dim == 0)
        return slf_fail(SALF_E_CORRUPT, "%s: head_dim is missing, and hidden size %" PRId64 " over %d heads gives none",
                        path, info->hidden, (int)info->n_heads);
    if (info->ffn_hidden == 0) info->ffn_hidden = family->ffn_factor * info->hidden;
    if (info->ffn_hidden == 0) return slf_fail(SALF_E_CORRUPT, "%s: intermediate_size is missing", path);
    info->valid_vocab = info->vocab;
    return SALF_OK;
}

/* ---- other values: out keeps what it is where value is NULL ---- */

/* A finite number that is not negative. */
static salf_status read_number(double *out, const json_t *value, const char *name, const char *path) {
    if (!value) return SALF_OK;
    const double x = json_number_value(value);
    if (!json_is_number(value) || !isfinite(x) || x < 0)
        return slf_fail(SALF_E_CORRUPT, "%s: %s is not a number of 0 or more", path, name);
    *out = x;
    return SALF_OK;
}

/* 0 and 1 are refused: a file that says so was not written by transformers. */
static salf_status read_flag(int32_t *out, const json_t *value, const char *name, const char *path) {
    if (!value) return SALF_OK;
    if (!json_is_boolean(value)) return slf_fail(SALF_E_CORRUPT, "%s: %s is neither true nor false", path, name);
    *out = json_is_true(value);
    return SALF_OK;
}

/* A token id, or the first of a list; -1 where there is none: nothing in the library depends on it. */
static int32_t token_of(const json_t *value) {
    if (json_is_array(value)) value = json_array_get(value, 0);
    /* Some configurations name several end tokens; the first is the one that generation stops at by default. */
    const json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
}

/* Put together in own, so that info is untouched on failure. Unknown keys are passed over: there are dozens, and new
 * ones with every version. */
salf_status slf_config_read(salf_model_info *info, const json_t *json, const char *path) {
    /* 1. the family, and what it says */
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (!type) return slf_fail(SALF_E_CORRUPT, "%s: no model_type", path);
    const slf_family *family = slf_family_of_name(type);
    if (!family) {
        char known[256];
        slf_family_names(known, sizeof known);
        return slf_fail(SALF_E_UNSUPPORTED, "%s: model_type '%s' is none of %s; describe the model instead", path, type,
                        known);
    }
    salf_model_info own = {.struct_size = sizeof own,
                           .family = family->id,
                           .norm_kind = family->norm_kind,
                           .tied = family->tied,
                           .attention_bias = family->attention_bias,
                           .norm_eps = family->norm_eps,
                           .rope_theta = family->rope_theta,
                           .logit_scale = 1,
                           .embedding_scale = 1};

    /* 2. the shape */
    SLF_TRY(read_shape(&own, json, family, path));
    if (family->scales_embedding) own.embedding_scale = sqrt((double)own.hidden);

    /* 3. what the file says otherwise */
    const char *eps = family->keys == SLF_KEYS_GPT2 ? "layer_norm_epsilon" : "rms_norm_eps";
    SLF_TRY(read_number(&own.norm_eps, value_of(json, eps), eps, path));
    /* Versions of transformers moved it: at the top level first, later among rope_parameters. Where both are there,
     * the top level was the one that older readers took, and it counts. */
    const json_t *theta = value_of(json, "rope_theta");
    if (!theta)
        theta = value_of(json_object_get(json, "rope_parameters"), "rope_theta"); /* where newer files keep it */
    if (family->rope_theta > 0) SLF_TRY(read_number(&own.rope_theta, theta, "rope_theta", path));
    const char *cap = "final_logit_softcapping";
    if (family->logit_softcap > 0) {
        if (!json_object_get(json, cap)) own.logit_softcap = family->logit_softcap; /* null means none */
        SLF_TRY(read_number(&own.logit_softcap, value_of(json, cap), cap, path));
    }
    /* What the family left as its default stays where the file is silent: transformers writes only what differs from
     * its own default, which is the family's. */
    SLF_TRY(read_flag(&own.tied, value_of(json, "tie_word_embeddings"), "tie_word_embeddings", path));
    SLF_TRY(read_flag(&own.attention_bias, value_of(json, "attention_bias"), "attention_bias", path));
    own.bos_token = token_of(value_of(json, "bos_token_id"));
    own.eos_token = token_of(value_of(json, "eos_token_id"));
    *info = own;
    return SALF_OK;
}

salf_status slf_config_load(salf_model_info *info, const slf_family **family, const salf_context *context,
                            const char *folder) {
    char *path = slf_path_join(context, folder, "config.json");
    if (!path) return SALF_E_NO_MEMORY;
    json_t *json;
    salf_status status = slf_json_load(&json, path); /* sets json, to NULL on failure */
    if (status == SALF_OK) status = slf_config_read(info, json, path);
    if (status == SALF_OK) *family = slf_family_of_id(info->family);
    json_decref(json);
    slf_free(context, path);
    return status;
}
