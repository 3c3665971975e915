/*
 * decoder.c - what the layers of a checkpoint compute, from its configuration (salf_decoder_info).
 *
 * Keys and defaults are those of transformers 5, which also reads the spellings of its older versions. A value that the
 * description cannot hold is named in it (slf_decoder_lacks), so that no host runs layers which are not the
 * checkpoint's; the model opens all the same, since basis and probe need its head and final norm alone.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io.h"

/* The text ends where the buffer does: what counts is that it is not empty, and its beginning. */
void slf_decoder_lacks(slf_config *config, const char *object, const char *name, const json_t *value) {
    char *text = config->unsupported;
    const size_t size = sizeof config->unsupported, used = strlen(text);
    char shown[96] = "";
    const size_t length =
        value ? json_dumpb(value, shown, sizeof shown - 1, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS) : 0;
    shown[SLF_MIN(length, sizeof shown - 1)] = 0;
    if (length >= sizeof shown) memcpy(shown + sizeof shown - 4, "...", 4);
    snprintf(text + used, size - used, "%s%s%s%s%s", used ? "; " : "", object, name, *shown ? " = " : "", shown);
}

/* Values that are not negative, of keys that must not be 0 either. */
static salf_status read_positive(slf_keys *keys, const char *name, double *out) {
    SLF_TRY(slf_keys_number(keys, name, out));
    if (*out <= 0) return slf_fail(SALF_E_CORRUPT, "%s: %s%s is %g", keys->path, keys->object, name, *out);
    return SALF_OK;
}

/* ---- activations ---- */

/* The names of transformers' table, as far as they stand for one of these functions. gelu_fast has the constant of the
 * tanh formula with ten digits, which is 1e-11 away. */
static int32_t activation_of(const char *word) {
    static const struct {
        const char *word;
        int32_t activation;
    } words[] = {{"silu", SALF_ACTIVATION_SILU},          {"swish", SALF_ACTIVATION_SILU},
                 {"gelu", SALF_ACTIVATION_GELU},          {"gelu_python", SALF_ACTIVATION_GELU},
                 {"gelu_new", SALF_ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", SALF_ACTIVATION_GELU_TANH},
                 {"relu", SALF_ACTIVATION_RELU},          {"gelu_fast", SALF_ACTIVATION_GELU_TANH}};
    for (size_t i = 0; word && i < sizeof words / sizeof *words; i++)
        if (strcmp(words[i].word, word) == 0) return words[i].activation;
    return -1;
}

/* Gemma has two keys for it. Version 1 reads hidden_act, and by "gelu" means the tanh formula; versions 2 and 3 read
 * hidden_activation. Where a file has both, the one that is not read must say the same. */
static void read_activation(slf_config *config) {
    slf_keys *keys = &config->keys;
    const bool gemma = config->family->id == SALF_FAMILY_GEMMA;
    json_t *act = slf_keys_take(keys, "hidden_act"), *activation = slf_keys_take(keys, "hidden_activation");
    const bool second = json_object_get(config->keys.defaults, "hidden_activation") != NULL;
    json_t *read = second ? activation : act, *other = second ? act : activation;
    int32_t kind = activation_of(json_string_value(read)), kind_of_other = activation_of(json_string_value(other));
    if (gemma && kind == SALF_ACTIVATION_GELU) kind = SALF_ACTIVATION_GELU_TANH;
    if ((gemma || second) && kind_of_other == SALF_ACTIVATION_GELU) /* Gemma 2's old files say so too */
        kind_of_other = SALF_ACTIVATION_GELU_TANH;
    if (kind < 0) slf_decoder_lacks(config, "", second ? "hidden_activation" : "hidden_act", read);
    if (other && kind_of_other != kind)
        slf_decoder_lacks(config, "", second ? "hidden_act" : "hidden_activation", other);
    config->decoder.activation = SLF_MAX(kind, 0);
}

/* ---- rotary positions ---- */

/* YARN's factor on cosines and sines where the file has none: 0.1 s ln(factor) + 1 with s = 1, or the quotient of two
 * such numbers with s = mscale and mscale_all_dim. */
static double yarn_attention_factor(double factor, double mscale, double mscale_all_dim) {
    if (factor <= 1) return 1;
    const double plain = 0.1 * log(factor);
    if (mscale > 0 && mscale_all_dim > 0) return (plain * mscale + 1) / (plain * mscale_all_dim + 1);
    return plain + 1;
}

/* One object of rotary parameters. theta and part are what stands outside of it and holds where it says nothing. */
static salf_status read_rope_object(slf_config *config, json_t *json, const char *object, double theta, double part) {
    static const char *const types[] = {[SALF_ROPE_DEFAULT] = "default",
                                        [SALF_ROPE_LINEAR] = "linear",
                                        [SALF_ROPE_LLAMA3] = "llama3",
                                        [SALF_ROPE_YARN] = "yarn"};
    salf_decoder_info *d = &config->decoder;
    slf_keys keys;
    salf_status status;
    SLF_DO(slf_keys_open(&keys, json, NULL, config->keys.path, object));
    /* 1. the kind, in the spelling of today or in that of 2023 */
    json_t *type = slf_keys_take(&keys, "rope_type"), *old_type = slf_keys_take(&keys, "type");
    if (!type) type = old_type;
    const char *word = type ? json_string_value(type) : "default";
    d->rope = SALF_ROPE_NONE;
    for (int32_t k = SALF_ROPE_DEFAULT; word && k <= SALF_ROPE_YARN; k++)
        if (strcmp(types[k], word) == 0) d->rope = k;
    /* Phi-3 means its own kind by "yarn". */
    const bool known = d->rope == SALF_ROPE_DEFAULT || (d->rope && config->family->id != SALF_FAMILY_PHI3);
    if (!known) slf_decoder_lacks(config, object, "rope_type", type);
    /* 2. base, and the share of a head that is rotated */
    d->rope_theta = theta;
    SLF_DO(read_positive(&keys, "rope_theta", &d->rope_theta));
    SLF_DO(read_positive(&keys, "partial_rotary_factor", &part));
    const double dims = floor((double)config->info.head_dim * part);
    if (part > 1 || (part != 1 && !config->family->partial_rotary) || fmod(dims, 2) != 0 || dims < 2) {
        slf_decoder_lacks(config, object, "partial_rotary_factor", json_object_get(json, "partial_rotary_factor"));
        if (fmod(dims, 2) != 0) slf_decoder_lacks(config, "", "an odd number of rotary dimensions", NULL);
    }
    d->rotary_dims = (int32_t)SLF_MIN(dims, config->info.head_dim);
    /* 3. the scaling. The positions of the pretraining stand outside in some files, and then count first. */
    const bool scaled = d->rope > SALF_ROPE_DEFAULT;
    int64_t original = config->info.max_positions;
    SLF_DO(slf_keys_integer(&keys, "original_max_position_embeddings", INT64_MAX / 2, &original));
    SLF_DO(slf_keys_integer(&config->keys, "original_max_position_embeddings", INT64_MAX / 2, &original));
    if (d->rope == SALF_ROPE_YARN || d->rope == SALF_ROPE_LLAMA3) d->rope_original_positions = original;
    if (scaled) {
        d->rope_factor = d->rope == SALF_ROPE_YARN ? (double)config->info.max_positions / (double)original : 0;
        SLF_DO(read_positive(&keys, "factor", &d->rope_factor));
    }
    if (d->rope == SALF_ROPE_LLAMA3) {
        SLF_DO(read_positive(&keys, "low_freq_factor", &d->rope_low_factor));
        SLF_DO(read_positive(&keys, "high_freq_factor", &d->rope_high_factor));
        if (d->rope_high_factor <= d->rope_low_factor)
            SLF_DO(slf_fail(SALF_E_CORRUPT, "%s: %shigh_freq_factor is %g, not above low_freq_factor = %g", keys.path,
                            object, d->rope_high_factor, d->rope_low_factor));
    }
    if (d->rope == SALF_ROPE_YARN) {
        double mscale = 0, mscale_all_dim = 0;
        SLF_DO(slf_keys_number(&keys, "beta_fast", &d->rope_beta_fast));
        SLF_DO(slf_keys_number(&keys, "beta_slow", &d->rope_beta_slow));
        SLF_DO(slf_keys_number(&keys, "mscale", &mscale));
        SLF_DO(slf_keys_number(&keys, "mscale_all_dim", &mscale_all_dim));
        if (d->rope_beta_fast == 0) d->rope_beta_fast = 32;
        if (d->rope_beta_slow == 0) d->rope_beta_slow = 1;
        d->rope_attention_factor = yarn_attention_factor(d->rope_factor, mscale, mscale_all_dim);
        SLF_DO(read_positive(&keys, "attention_factor", &d->rope_attention_factor));
        int32_t truncate = 1;
        SLF_DO(slf_keys_flag(&keys, "truncate", &truncate));
        if (!truncate) slf_decoder_lacks(config, object, "truncate", json_false());
    }
    /* 4. what is left means something that is not known here */
    const char *name;
    json_t *value;
    json_object_foreach(keys.left, name, value) if (!json_is_null(value) && known)
        slf_decoder_lacks(config, object, name, value);
done:
    slf_keys_close(&keys);
    return status;
}

/* An object of rotary parameters by its key; NULL where it is not there, null or empty. */
static salf_status take_rope(slf_config *config, const char *name, json_t **out) {
    json_t *value = slf_keys_take(&config->keys, name);
    if (value && !json_is_object(value))
        return slf_fail(SALF_E_CORRUPT, "%s: %s is no object", config->keys.path, name);
    *out = json_object_size(value) > 0 ? value : NULL;
    return SALF_OK;
}

/* Layers with a window have rotary positions of their own, never scaled: rope_parameters has an object for each kind of
 * layer. Older files have rope_scaling, rope_theta and rope_local_base_freq, of which the first two are the other
 * layers'. */
static salf_status read_rope_of_kinds(slf_config *config, json_t *scaling, json_t *parameters) {
    salf_decoder_info *d = &config->decoder;
    json_t *full = json_object_get(parameters, "full_attention");
    json_t *local = json_object_get(parameters, "sliding_attention");
    const json_t *outside = json_object_get(config->keys.json, "rope_theta");
    double theta = 0, local_theta = 0;
    salf_status status;
    json_t *none = json_object(), *merged = json_object();
    SLF_DO(none && merged ? SALF_OK : slf_fail(SALF_E_NO_MEMORY, "%s: out of memory", config->keys.path));
    SLF_DO(read_positive(&config->keys, "rope_theta", &theta));
    local_theta = theta;
    SLF_DO(slf_keys_number(&config->keys, "rope_local_base_freq", &local_theta));
    /* OLMo 3: one version takes rope_theta for both kinds of layers, another one its default for those with a window. */
    if (outside && !local && !json_object_get(config->keys.defaults, "rope_local_base_freq") &&
        json_number_value(outside) != json_number_value(json_object_get(config->keys.defaults, "rope_theta")))
        slf_decoder_lacks(config, "", "rope_theta", outside);
    if (parameters && !full && !local) slf_decoder_lacks(config, "", "rope_parameters", parameters);
    SLF_DO(read_rope_object(config, json_is_object(local) ? local : none, "rope_parameters.sliding_attention.",
                            local_theta, 1));
    local_theta = d->rope_theta;
    if (d->rope > SALF_ROPE_DEFAULT) slf_decoder_lacks(config, "", "rope_parameters.sliding_attention", local);
    if (json_is_object(full)) json_object_update(merged, full);
    if (scaling) json_object_update(merged, scaling);
    SLF_DO(read_rope_object(config, merged, "rope_parameters.full_attention.", theta, 1));
    d->local_rope_theta = local_theta;
done:
    json_decref(none);
    json_decref(merged);
    return status;
}

/* rope_scaling is the older name of rope_parameters and counts where both are there; rope_theta stood outside of it. A
 * file whose two places disagree is read in two ways by two versions of transformers. */
static salf_status read_rope(slf_config *config) {
    json_t *scaling, *parameters;
    SLF_TRY(take_rope(config, "rope_scaling", &scaling));
    SLF_TRY(take_rope(config, "rope_parameters", &parameters));
    if (config->family->local_rope) return read_rope_of_kinds(config, scaling, parameters);
    double theta = 0, part = 1;
    json_t *outside = json_object_get(config->keys.json, "rope_theta");
    SLF_TRY(read_positive(&config->keys, "rope_theta", &theta));
    SLF_TRY(read_positive(&config->keys, "partial_rotary_factor", &part));
    json_t *rope = scaling ? scaling : parameters;
    if (scaling && parameters && !json_equal(scaling, parameters))
        slf_decoder_lacks(config, "", "rope_scaling and another rope_parameters", parameters);
    json_t *none = json_object();
    if (!none) return slf_fail(SALF_E_NO_MEMORY, "%s: out of memory", config->keys.path);
    const salf_status status =
        read_rope_object(config, rope ? rope : none, scaling ? "rope_scaling." : "rope_parameters.", theta, part);
    json_decref(none);
    json_t *inside = json_object_get(rope, "rope_theta");
    if (json_is_number(inside) && json_is_number(outside) && json_number_value(inside) != json_number_value(outside))
        slf_decoder_lacks(config, "", "rope_theta", outside);
    return status;
}

/* ---- sliding windows ---- */

/* Which layers have the window: by the family's rule, then as layer_types lists them. */
static salf_status read_windows(slf_config *config) {
    slf_keys *keys = &config->keys;
    const slf_family *family = config->family;
    salf_decoder_info *d = &config->decoder;
    const int32_t m = config->info.n_layers;
    /* 1. the family's rule. Its keys stay unread, and so are found later, in a family that has none. */
    int64_t window = 0, from = 0, every = 1;
    int32_t in_use = family->window != SLF_WINDOW_FROM;
    if (family->window != SLF_WINDOW_NONE) SLF_TRY(slf_keys_integer(keys, "sliding_window", INT64_MAX / 2, &window));
    if (family->window == SLF_WINDOW_FROM) {
        SLF_TRY(slf_keys_flag(keys, "use_sliding_window", &in_use));
        json_t *first = slf_keys_take(keys, "max_window_layers"); /* 0 is a value */
        if (first && (!json_is_integer(first) || json_integer_value(first) < 0))
            return slf_fail(SALF_E_CORRUPT, "%s: max_window_layers is no integer of 0 or more", keys->path);
        from = first ? json_integer_value(first) : m;
    }
    if (family->window == SLF_WINDOW_PATTERN) {
        SLF_TRY(slf_keys_integer(keys, "sliding_window_pattern", 65535, &every));
        slf_keys_take(keys, "_sliding_window_pattern"); /* transformers writes it beside layer_types, and reads these */
    }
    if (!in_use) window = 0;
    json_t *types = slf_keys_take(keys, "layer_types");
    if (types && json_array_size(types) != (size_t)m)
        return slf_fail(SALF_E_CORRUPT, "%s: layer_types has %zu entries for %d layers", keys->path,
                        json_array_size(types), (int)m);
    /* 2. layer by layer */
    SLF_TRY(SLF_ALLOC_ZERO(config->context, config->sliding, m));
    bool some = false;
    for (int32_t k = 0; k < m; k++) {
        bool slides = window > 0 && family->window != SLF_WINDOW_NONE;
        if (family->window == SLF_WINDOW_FROM) slides = slides && k >= from;
        if (family->window == SLF_WINDOW_PATTERN) slides = (k + 1) % every != 0;
        const char *type = json_string_value(json_array_get(types, (size_t)k));
        const bool listed = type && strcmp(type, "sliding_attention") == 0;
        if (types && !listed && (!type || strcmp(type, "full_attention") != 0))
            slf_decoder_lacks(config, "", "layer_types", json_array_get(types, (size_t)k));
        /* These families do not read the list: one that says something else belongs to another class. */
        const bool unread = family->window == SLF_WINDOW_NONE || family->window == SLF_WINDOW_ALL;
        if (types && unread && listed != slides) {
            slf_decoder_lacks(config, "", "layer_types", types);
            break;
        }
        if (types) slides = listed;
        config->sliding[k] = slides;
        some = some || slides;
    }
    if (some && window == 0) slf_decoder_lacks(config, "", "sliding layers without sliding_window", NULL);
    d->sliding_window = some ? window : 0;
    d->sliding = some && window > 0 ? config->sliding : NULL;
    return SALF_OK;
}

/* ---- all of it ---- */

salf_status slf_decoder_read(slf_config *config) {
    static const struct {
        const char *name;
        int32_t family_bit, matrices;
    } bias_keys[] = {
        {"attention_bias", SLF_ATTENTION_BIAS, SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V | SALF_MATRIX_O},
        {"mlp_bias", SLF_MLP_BIAS, SALF_MATRIX_GATE | SALF_MATRIX_UP | SALF_MATRIX_DOWN},
        {"use_qkv_bias", SLF_QKV_BIAS, SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V}};
    const slf_family *family = config->family;
    slf_keys *keys = &config->keys;
    salf_decoder_info *d = &config->decoder;
    *d = (salf_decoder_info){.struct_size = sizeof *d,
                             .gated_ffn = 1,
                             .block = family->block,
                             .qk_norm = family->qk_norm,
                             .norm_kind = family->norm_kind,
                             .biases = family->biases,
                             .fused = family->fused,
                             .residual_scale = 1};
    if (!family->described) {
        slf_decoder_lacks(config, "", "model_type", json_object_get(keys->json, "model_type"));
        return SALF_OK;
    }
    read_activation(config);
    SLF_TRY(read_rope(config));
    SLF_TRY(read_windows(config));
    for (size_t i = 0; i < sizeof bias_keys / sizeof *bias_keys; i++) {
        int32_t flag = 0;
        if (!(family->bias_keys & bias_keys[i].family_bit)) continue;
        SLF_TRY(slf_keys_flag(keys, bias_keys[i].name, &flag));
        if (flag) d->biases |= bias_keys[i].matrices;
    }
    /* SmolLM 3: layers without rotary positions, which the description has no place for. */
    if (json_object_get(keys->defaults, "no_rope_layer_interval")) {
        const json_t *rotates = slf_keys_take(keys, "no_rope_layers"), *flag;
        const json_t *interval = slf_keys_take(keys, "no_rope_layer_interval");
        bool all = rotates ? json_is_array(rotates) : json_number_value(interval) > config->info.n_layers;
        size_t k;
        json_array_foreach(rotates, k, flag) all = all && json_number_value(flag) == 1;
        if (!all) slf_decoder_lacks(config, "", "no_rope_layers", rotates);
    }
    /* Scores: by 1 / sqrt(head_dim), or by what the file has of either kind. */
    double scalar = config->info.head_dim;
    if (json_object_get(keys->defaults, "query_pre_attn_scalar"))
        SLF_TRY(read_positive(keys, "query_pre_attn_scalar", &scalar));
    d->attention_scale = 1 / sqrt(scalar);
    if (json_object_get(keys->defaults, "attention_multiplier")) {
        SLF_TRY(slf_keys_number(keys, "attention_multiplier", &d->attention_scale));
        SLF_TRY(slf_keys_number(keys, "residual_multiplier", &d->residual_scale));
    }
    if (json_object_get(keys->defaults, "attn_logit_softcapping"))
        SLF_TRY(slf_keys_number(keys, "attn_logit_softcapping", &d->attention_softcap));
    return SALF_OK;
}
