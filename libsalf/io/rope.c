/*
 * rope.c - rotary positions of a checkpoint, in all the places and spellings that versions of transformers had for
 * them: rope_theta and rope_scaling {"type": ...} of 2023, rope_scaling {"rope_type": ...}, rope_parameters of today,
 * and those with an object for each kind of layer.
 */
#include <math.h>
#include <string.h>

#include "io.h"

/* What belongs to a kind of scaling. The positions of the pretraining stand outside of the object in some files, and
 * then count first. */
static salf_status read_scaling(slf_config *config, slf_keys *keys) {
    salf_decoder_info *d = &config->decoder;
    const bool scaled = d->rope > SALF_ROPE_DEFAULT;
    int64_t original = config->info.max_positions;
    SLF_TRY(slf_keys_integer(keys, "original_max_position_embeddings", INT64_MAX / 2, &original));
    SLF_TRY(slf_keys_integer(&config->keys, "original_max_position_embeddings", INT64_MAX / 2, &original));
    if (d->rope == SALF_ROPE_YARN || d->rope == SALF_ROPE_LLAMA3) d->rope_original_positions = original;
    /* YaRN without a factor has the quotient of the longest positions now and in pretraining; other kinds have to
     * have one. */
    if (scaled) {
        d->rope_factor = d->rope == SALF_ROPE_YARN ? (double)config->info.max_positions / (double)original : 0;
        SLF_TRY(slf_keys_positive(keys, "factor", &d->rope_factor));
    }
    if (d->rope == SALF_ROPE_LLAMA3) {
        SLF_TRY(slf_keys_positive(keys, "low_freq_factor", &d->rope_low_factor));
        SLF_TRY(slf_keys_positive(keys, "high_freq_factor", &d->rope_high_factor));
        if (d->rope_high_factor <= d->rope_low_factor)
            return slf_fail(SALF_E_CORRUPT, "%s: %shigh_freq_factor is %g, not above low_freq_factor = %g", keys->path,
                            keys->object, d->rope_high_factor, d->rope_low_factor);
    }
    if (d->rope == SALF_ROPE_YARN) {
        double mscale = 0, mscale_all_dim = 0;
        SLF_TRY(slf_keys_number(keys, "beta_fast", &d->rope_beta_fast));
        SLF_TRY(slf_keys_number(keys, "beta_slow", &d->rope_beta_slow));
        SLF_TRY(slf_keys_number(keys, "mscale", &mscale));
        SLF_TRY(slf_keys_number(keys, "mscale_all_dim", &mscale_all_dim));
        /* YaRN's own bounds, in turns over the pretraining length. */
        if (d->rope_beta_fast == 0) d->rope_beta_fast = 32;
        if (d->rope_beta_slow == 0) d->rope_beta_slow = 1;
        /* Where the file has none: 0.1 s ln(factor) + 1 with s = 1, or the quotient of two such numbers. */
        const double plain = d->rope_factor > 1 ? 0.1 * log(d->rope_factor) : 0;
        d->rope_attention_factor =
            mscale > 0 && mscale_all_dim > 0 ? (plain * mscale + 1) / (plain * mscale_all_dim + 1) : plain + 1;
        SLF_TRY(slf_keys_positive(keys, "attention_factor", &d->rope_attention_factor));
        int32_t truncate = 1;
        SLF_TRY(slf_keys_flag(keys, "truncate", &truncate));
        if (!truncate) slf_decoder_lacks(config, keys->object, "truncate", slf_json_get(keys->json, "truncate"));
    }
    return SALF_OK;
}

/* One object of rotary parameters, NULL where there is none. theta and part are what stands outside of it and holds
 * where it says nothing. */
static salf_status read_rope_object(slf_config *config, slf_json *json, const char *object, double theta, double part) {
    static const char *const types[] = {[SALF_ROPE_DEFAULT] = "default",
                                        [SALF_ROPE_LINEAR] = "linear",
                                        [SALF_ROPE_LLAMA3] = "llama3",
                                        [SALF_ROPE_YARN] = "yarn"};
    salf_decoder_info *d = &config->decoder;
    slf_keys keys;
    salf_status status;
    SLF_DO(slf_keys_open(&keys, json, NULL, config->keys.path, object));
    /* 1. the kind, in the spelling of today or in that of 2023 */
    slf_json *type = slf_keys_take(&keys, "rope_type"), *old_type = slf_keys_take(&keys, "type");
    /* The older spelling counts where it is alone: versions differ on a file in which it says something else. */
    if (type && old_type && !slf_json_equal(type, old_type)) slf_decoder_lacks(config, object, "type", old_type);
    if (!type) type = old_type;
    const char *word = type ? slf_json_to_text(type) : "default";
    d->rope = SALF_ROPE_NONE;
    for (int32_t k = SALF_ROPE_DEFAULT; word && k <= SALF_ROPE_YARN; k++)
        if (strcmp(types[k], word) == 0) d->rope = k;
    /* Phi-3 means its own kind by "yarn". */
    const bool known = d->rope == SALF_ROPE_DEFAULT || (d->rope && config->family->id != SALF_FAMILY_PHI3);
    if (!known) slf_decoder_lacks(config, object, "rope_type", type);
    /* 2. base, and the share of a head that is rotated */
    d->rope_theta = theta;
    SLF_DO(slf_keys_positive(&keys, "rope_theta", &d->rope_theta));
    SLF_DO(slf_keys_positive(&keys, "partial_rotary_factor", &part));
    /* Pairs of dimensions are rotated, so that their number has to be even. */
    const double dims = floor((double)config->info.head_dim * part);
    if (part > 1 || (part != 1 && !config->family->partial_rotary) || fmod(dims, 2) != 0 || dims < 2) {
        slf_decoder_lacks(config, object, "partial_rotary_factor", slf_json_get(json, "partial_rotary_factor"));
        if (fmod(dims, 2) != 0) slf_decoder_lacks(config, "", "an odd number of rotary dimensions", NULL);
    }
    d->rotary_dims = (int32_t)SLF_MIN(dims, config->info.head_dim);
    /* 3. the scaling */
    SLF_DO(read_scaling(config, &keys));
    /* 4. what is left means something that is not known here. NousResearch's models say besides that they were trained
     * with YaRN, which only a kind of theirs looks at that scales with the length of a text. */
    if (d->rope == SALF_ROPE_YARN) slf_keys_take(&keys, "finetuned");
    const char *name;
    slf_json *value;
    SLF_JSON_EACH(keys.left, name, value)
    if (!slf_json_is(value, SLF_JSON_NULL) && known) slf_decoder_lacks(config, object, name, value);
done:
    slf_keys_close(&keys);
    return status;
}

/* An object of rotary parameters by its key; NULL where it is not there, null or empty. */
static salf_status take_rope(slf_config *config, const char *name, slf_json **out) {
    slf_json *value = slf_keys_take(&config->keys, name);
    if (value && !slf_json_is(value, SLF_JSON_OBJECT))
        return slf_fail(SALF_E_CORRUPT, "%s: %s is no object", config->keys.path, name);
    *out = slf_json_size(value) > 0 ? value : NULL;
    return SALF_OK;
}

/* Layers with a window have rotary positions of their own, never scaled: rope_parameters has an object for each kind of
 * layer. Older files have rope_scaling, rope_theta and rope_local_base_freq, of which the first two are the other
 * layers'. */
static salf_status read_rope_of_kinds(slf_config *config, slf_json *scaling, slf_json *parameters) {
    salf_decoder_info *d = &config->decoder;
    slf_json *full = slf_json_get(parameters, "full_attention");
    slf_json *local = slf_json_get(parameters, "sliding_attention");
    const slf_json *outside = slf_json_get(config->keys.json, "rope_theta");
    double theta = 0, local_theta = 0;
    salf_status status;
    slf_json *merged = NULL;
    SLF_DO(slf_keys_positive(&config->keys, "rope_theta", &theta));
    local_theta = theta;
    /* Gemma's key; another class does not read it, and known.c judges it there. */
    if (slf_json_get(config->keys.defaults, "rope_local_base_freq"))
        SLF_DO(slf_keys_number(&config->keys, "rope_local_base_freq", &local_theta));
    /* OLMo 3: one version takes rope_theta for both kinds of layers, another one its default for those with a
     * window. */
    if (outside && !local && !slf_json_get(config->keys.defaults, "rope_local_base_freq") &&
        slf_json_to_number(outside) != slf_json_to_number(slf_json_get(config->keys.defaults, "rope_theta")))
        slf_decoder_lacks(config, "", "rope_theta", outside);
    if (parameters && !full && !local) slf_decoder_lacks(config, "", "rope_parameters", parameters);
    SLF_DO(read_rope_object(config, slf_json_is(local, SLF_JSON_OBJECT) ? local : NULL,
                            "rope_parameters.sliding_attention.", local_theta, 1));
    local_theta = d->rope_theta;
    if (d->rope > SALF_ROPE_DEFAULT) slf_decoder_lacks(config, "", "rope_parameters.sliding_attention", local);
    /* What the older key says counts where both are there, as for files with one object (slf_rope_read). */
    const slf_json *base = slf_json_is(full, SLF_JSON_OBJECT) ? full : scaling;
    if (base) SLF_DO((merged = slf_json_copy(base)) ? SALF_OK : SALF_E_NO_MEMORY);
    if (scaling && base != scaling) SLF_DO(slf_json_update(merged, scaling));
    SLF_DO(read_rope_object(config, merged, "rope_parameters.full_attention.", theta, 1));
    d->local_rope_theta = local_theta;
done:
    slf_json_release(merged);
    return status;
}

/* rope_scaling is the older name of rope_parameters and counts where both are there; rope_theta stood outside of it. A
 * file whose two places disagree is read in two ways by two versions of transformers. */
salf_status slf_rope_read(slf_config *config) {
    slf_json *scaling = NULL, *parameters = NULL;
    SLF_TRY(take_rope(config, "rope_scaling", &scaling));
    SLF_TRY(take_rope(config, "rope_parameters", &parameters));
    if (config->family->local_rope) return read_rope_of_kinds(config, scaling, parameters);
    double theta = 0, part = 1;
    SLF_TRY(slf_keys_positive(&config->keys, "rope_theta", &theta));
    SLF_TRY(slf_keys_positive(&config->keys, "partial_rotary_factor", &part));
    slf_json *rope = scaling ? scaling : parameters;
    if (scaling && parameters && !slf_json_equal(scaling, parameters))
        slf_decoder_lacks(config, "", "rope_scaling and another rope_parameters", parameters);
    const salf_status status =
        read_rope_object(config, rope, scaling ? "rope_scaling." : "rope_parameters.", theta, part);
    /* StableLM's older names for the share of a head: they are not read any more, but may say the same. */
    static const char *const shares[] = {"rope_pct", "rotary_pct"};
    for (size_t i = 0; i < 2; i++) {
        const double share = slf_json_to_number(slf_json_get(config->keys.json, shares[i]));
        /* Taken only where they agree; one that disagrees is left, and known.c judges it. */
        if (floor(config->info.head_dim * share) == config->decoder.rotary_dims)
            slf_keys_take(&config->keys, shares[i]);
    }
    /* What stands in two places counts inside today, and outside in older versions. */
    static const char *const twice[] = {"rope_theta", "partial_rotary_factor"};
    for (size_t i = 0; i < 2; i++) {
        const slf_json *inside = slf_json_get(rope, twice[i]), *outside = slf_json_get(config->keys.json, twice[i]);
        if (slf_json_is_number(inside) && slf_json_is_number(outside) &&
            slf_json_to_number(inside) != slf_json_to_number(outside))
            slf_decoder_lacks(config, "", twice[i], outside);
    }
    return status;
}
