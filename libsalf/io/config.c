/*
 * config.c - config.json of a Hugging Face checkpoint: sizes, final norm, from states to logits. What the layers
 * compute is read in decoder.c, and known.c judges the keys that both left.
 *
 * Classes of transformers call the same size by several names; every name is known for every family. What a file does
 * not say, its family does (families.c).
 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "io.h"

/* ---- sizes: a table ---- */

enum { NEEDED = -1 };

/* Under any of its names, a key sets a field of salf_model_info to a value in 1 ... most. missing: what the field
 * becomes where none is there, or NEEDED. 0 is replaced in read_shape. */
typedef struct {
    const char *names[SLF_NAMES];
    size_t offset, size;
    int64_t most, missing;
    /* Positions are not used to check a shape, and files are careless with them. */
    int32_t several; /* 1: where two names disagree, the first counts */
} integer_key;

#define FIELD(name) offsetof(salf_model_info, name), sizeof((salf_model_info *)NULL)->name

/* The bounds keep every product that the library makes of them within 64 bits. */
static const integer_key integer_keys[] = {
    {{"num_hidden_layers", "n_layer", "n_layers", "num_layers"}, FIELD(n_layers), 65535, NEEDED, 0},
    {{"hidden_size", "n_embd", "d_model", "n_embed"}, FIELD(hidden), 1 << 24, NEEDED, 0},
    {{"vocab_size"}, FIELD(vocab), INT32_MAX, NEEDED, 0},
    {{"num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"}, FIELD(n_heads), 65535, NEEDED, 0},
    {{"num_key_value_heads", "num_kv_heads"}, FIELD(n_kv_heads), 65535, 0, 0},
    {{"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "dff"}, FIELD(ffn_hidden), INT32_MAX, 0, 0},
    {{"max_position_embeddings", "n_positions", "max_seq_len", "seq_length"},
     FIELD(max_positions),
     INT64_MAX / 2,
     2048,
     1},
    {{"head_dim"}, FIELD(head_dim), 65535, 0, 0},
};

static salf_status read_shape(slf_config *config) {
    salf_model_info *info = &config->info;
    slf_keys *keys = &config->keys;
    /* 1. what the file says */
    for (size_t i = 0; i < sizeof integer_keys / sizeof *integer_keys; i++) {
        const integer_key *key = &integer_keys[i];
        int64_t number = key->missing;
        SLF_TRY(slf_keys_size(keys, key->names, key->most, key->several, &number));
        if (number == NEEDED) return slf_fail(SALF_E_CORRUPT, "%s: %s is missing", keys->path, key->names[0]);
        char *field = (char *)info + key->offset;
        /* The table's bound for a 32-bit field is within 32 bits, so that nothing is cut off here. */
        if (key->size == sizeof(int32_t))
            *(int32_t *)(void *)field = (int32_t)number;
        else
            *(int64_t *)(void *)field = number;
    }
    info->valid_vocab = info->vocab;
    /* 2. what follows from it where the file says nothing. Heads count for nothing but the layers: a family of which
     * only the head is understood may have as many as it likes, of whatever kind. */
    if (info->n_kv_heads == 0) info->n_kv_heads = info->n_heads; /* every head has keys and values of its own */
    /* The class's default is one for its largest model, and holds where it goes into the heads. */
    const bool said = slf_json_get(keys->json, "num_key_value_heads") || slf_json_get(keys->json, "num_kv_heads");
    if (!said && info->n_heads % info->n_kv_heads != 0) info->n_kv_heads = info->n_heads;
    const bool divides = info->n_heads % info->n_kv_heads == 0;
    if (!divides && config->family->described)
        return slf_fail(SALF_E_CORRUPT, "%s: %d heads over %d key-value heads", keys->path, (int)info->n_heads,
                        (int)info->n_kv_heads);
    if (!divides) info->n_kv_heads = info->n_heads;
    if (info->head_dim == 0) info->head_dim = (int32_t)(info->hidden / info->n_heads);
    if (info->head_dim == 0 && config->family->described)
        return slf_fail(SALF_E_CORRUPT, "%s: head_dim is missing, and hidden size %" PRId64 " over %d heads gives none",
                        keys->path, info->hidden, (int)info->n_heads);
    if (info->ffn_hidden == 0 && config->family->described)
        return slf_fail(SALF_E_CORRUPT, "%s: intermediate_size is missing", keys->path);
    if (info->ffn_hidden == 0) info->ffn_hidden = 4 * info->hidden; /* as all of GPT-2's kind have it */
    if (info->head_dim == 0) info->head_dim = 1;
    return SALF_OK;
}

/* ---- from the last state to logits ---- */

/* Whether this family reads a key that others do not have: it then has a default. */
static bool has_key(const slf_config *config, const char *name) {
    return slf_json_get(config->keys.defaults, name) != NULL;
}

/* A family without such keys leaves them unread, and known.c refuses them: they would change what the head computes. */
static salf_status read_logits(slf_config *config) {
    salf_model_info *info = &config->info;
    slf_keys *keys = &config->keys;
    double scale = 1, divisor = 1;
    /* Families that have no eps have the default of torch, 1e-5, in their code. */
    if (config->family->eps) SLF_TRY(slf_keys_given(keys, config->family->eps, &info->norm_eps));
    if (has_key(config, "layer_norm_eps") && !config->family->eps) slf_keys_take(keys, "layer_norm_eps"); /* layers' */
    if (has_key(config, "logit_scale")) SLF_TRY(slf_keys_factor(keys, "logit_scale", &scale));
    if (has_key(config, "lm_head_multiplier")) SLF_TRY(slf_keys_factor(keys, "lm_head_multiplier", &scale));
    if (has_key(config, "logits_scaling")) SLF_TRY(slf_keys_factor(keys, "logits_scaling", &divisor));
    info->logit_scale = scale / divisor;
    if (!isfinite(info->logit_scale))
        return slf_fail(SALF_E_CORRUPT, "%s: logits times %g / %g", keys->path, scale, divisor);
    if (has_key(config, "final_logit_softcapping"))
        SLF_TRY(slf_keys_cap(keys, "final_logit_softcapping", &info->logit_softcap));
    /* Gemma multiplies by a root that no key says; Granite's factor and XGLM's switch are keys. */
    info->embedding_scale = config->family->scales_embedding ? sqrt((double)info->hidden) : 1;
    if (has_key(config, "embedding_multiplier"))
        SLF_TRY(slf_keys_factor(keys, "embedding_multiplier", &info->embedding_scale));
    if (has_key(config, "lm_head_bias")) SLF_TRY(slf_keys_flag(keys, "lm_head_bias", &config->head_bias));
    config->head_bias |= config->family->head_bias;
    int32_t scaled = 0;
    if (has_key(config, "scale_embedding")) SLF_TRY(slf_keys_flag(keys, "scale_embedding", &scaled));
    if (scaled) info->embedding_scale = sqrt((double)info->hidden);
    return slf_keys_flag(keys, "tie_word_embeddings", &info->tied);
}

/* A token id, or the first of a list; -1 where there is none: nothing in the library depends on it. */
static int32_t take_token(slf_keys *keys, const char *name) {
    const slf_json *value = slf_keys_take(keys, name);
    if (slf_json_is(value, SLF_JSON_ARRAY)) value = slf_json_at(value, 0);
    /* Some configurations name several end tokens; the first is the one that generation stops at by default. */
    const int64_t id = slf_json_is(value, SLF_JSON_INTEGER) ? slf_json_to_integer(value) : -1;
    return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
}

/* ---- the whole ---- */

/* config holds nothing usable after a failure, but may be freed. */
salf_status slf_config_read(slf_config *config, const salf_context *context, slf_json *json, const char *path,
                            const char *accept) {
    *config = (slf_config){.context = context};
    static const char *const names[] = {"thinker_config", "text_config", "llm_config", "language_config"};
    slf_json *inner = json, *defaults = NULL;
    salf_status status;
    /* 1. the text model and its family. Models with images and sound have the text model's configuration inside of
     * theirs, and some do not repeat the family there. */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        slf_json *part = slf_json_get(inner, names[i]);
        if (slf_json_is(part, SLF_JSON_OBJECT) && slf_json_size(part) > 0) inner = part;
    }
    const char *type = slf_json_to_text(slf_json_get(inner, "model_type"));
    if (!type) type = slf_json_to_text(slf_json_get(json, "model_type"));
    SLF_DO(type ? SALF_OK : slf_fail(SALF_E_CORRUPT, "%s: no model_type", path));
    const slf_family *family = config->family = slf_family_of_name(type);
    if (!family) {
        char known[160]; /* of the message's 511 bytes */
        slf_family_names(known, sizeof known);
        SLF_DO(slf_fail(SALF_E_UNSUPPORTED,
                        "%s: model_type '%s' is none of %s... (docs/formats.md has all); describe the model instead",
                        path, type, known));
    }
    config->info = (salf_model_info){.struct_size = sizeof config->info,
                                     .family = family->id,
                                     .norm_kind = family->norm_kind,
                                     .norm_eps = 1e-5,
                                     .model_type = family->name};
    /* 2. shape, logits and layers, each by its own keys */
    SLF_DO(slf_json_words(&defaults, context, family->defaults));
    if ((config->composite = inner != json)) SLF_DO(slf_json_words(&defaults, context, family->sizes));
    SLF_DO(slf_keys_open(&config->keys, inner, defaults, path, ""));
    SLF_DO(read_shape(config));
    SLF_DO(read_logits(config));
    slf_keys whole = {.json = json, .path = path, .object = ""}; /* of the model that is loaded, not of its part: */
    SLF_DO(slf_keys_flag(&whole, "tie_word_embeddings", &config->info.tied));
    /* Ids of tokens change nothing here, but hosts ask for them. */
    config->info.bos_token = take_token(&config->keys, "bos_token_id");
    config->info.eos_token = take_token(&config->keys, "eos_token_id");
    SLF_DO(slf_decoder_read(config));
    /* What older hosts read of the layers; the description has it all. */
    const int32_t qkv = SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V;
    config->info.attention_bias = (config->decoder.biases & qkv) == qkv;
    config->info.rope_theta = config->decoder.rope_theta;
    /* 3. what is left. Read beside it: the layers are not described with these, but tensors have to be told apart. */
    const slf_json *extra = slf_json_get(inner, "num_nextn_predict_layers");
    const int64_t n_extra = slf_json_to_integer(extra);
    if ((extra && extra->kind != SLF_JSON_NULL && extra->kind != SLF_JSON_INTEGER) || n_extra < 0 || n_extra > 65535)
        SLF_DO(slf_fail(SALF_E_CORRUPT, "%s: num_nextn_predict_layers is no integer in 0 ... 65535", path));
    config->extra_layers = (int32_t)n_extra;
    const slf_json *quantised = slf_json_get(inner, "quantization_config");
    if (!quantised) quantised = slf_json_get(json, "quantization_config");
    for (int64_t i = 0; i < 2; i++)
        config->scale_block[i] = slf_json_to_integer(slf_json_at(slf_json_get(quantised, "weight_block_size"), i));
    SLF_DO(slf_known_check(config, json, accept));
done:
    slf_keys_close(&config->keys);
    slf_json_release(defaults);
    return status;
}

/* Before a folder is read as a checkpoint: what is not one, and can be told apart. */
salf_status slf_folder_check(const salf_context *context, const char *folder) {
    if (!slf_path_exists(folder)) return SALF_OK; /* the first file that is missed tells it */
    if (!slf_path_is_folder(folder)) {
        slf_map map;
        SLF_TRY(slf_map_open(&map, context, folder, 0));
        const char *kind = slf_file_kind(map.bytes, map.size);
        const salf_status status =
            kind ? slf_fail(SALF_E_UNSUPPORTED, "%s: %s", folder, kind)
                 : slf_fail(SALF_E_ARGUMENT, "%s is a file; give the folder that holds it and config.json", folder);
        slf_map_close(&map);
        return status;
    }
    char *config = slf_path_join(context, folder, "config.json");
    char *adapter = slf_path_join(context, folder, "adapter_config.json");
    salf_status status = SALF_OK;
    slf_json *json = NULL;
    if (!config || !adapter) status = SALF_E_NO_MEMORY;
    /* With the model beside it too: transformers loads that with the adapter on it. */
    if (status == SALF_OK && slf_path_exists(adapter)) {
        status = slf_json_load(&json, context, adapter);
        const char *base = slf_json_to_text(slf_json_get(json, "base_model_name_or_path"));
        if (status == SALF_OK)
            status = slf_fail(SALF_E_UNSUPPORTED,
                              "%s: an adapter of PEFT, %s the model it is for (%.200s); merge it into that, or give a "
                              "folder of the model alone",
                              folder, slf_path_exists(config) ? "beside" : "without", base ? base : "not named");
    }
    slf_json_release(json);
    SLF_FREE(context, config, adapter);
    return status;
}

salf_status slf_config_load(slf_config *config, const salf_context *context, const char *folder, const char *accept) {
    *config = (slf_config){.context = context};
    char *path = slf_path_join(context, folder, "config.json");
    if (!path) return SALF_E_NO_MEMORY;
    slf_json *json;
    salf_status status = slf_json_load(&json, context, path); /* sets json, to NULL on failure */
    if (status == SALF_OK) status = slf_config_read(config, context, json, path, accept);
    slf_json_release(json);
    slf_free(context, path);
    return status;
}

void slf_config_free(slf_config *config) {
    if (config->sliding) slf_free(config->context, config->sliding);
    config->sliding = NULL;
}
