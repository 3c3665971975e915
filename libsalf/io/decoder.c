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
    slf_json *act = slf_keys_take(keys, "hidden_act"), *activation = slf_keys_take(keys, "hidden_activation");
    const bool second = slf_json_get(config->keys.defaults, "hidden_activation") != NULL;
    slf_json *read = second ? activation : act, *other = second ? act : activation;
    int32_t kind = activation_of(slf_json_to_text(read)), kind_of_other = activation_of(slf_json_to_text(other));
    if (gemma && kind == SALF_ACTIVATION_GELU) kind = SALF_ACTIVATION_GELU_TANH;
    if ((gemma || second) && kind_of_other == SALF_ACTIVATION_GELU) /* Gemma 2's old files say so too */
        kind_of_other = SALF_ACTIVATION_GELU_TANH;
    if (kind < 0) slf_decoder_lacks(config, "", second ? "hidden_activation" : "hidden_act", read);
    if (other && kind_of_other != kind)
        slf_decoder_lacks(config, "", second ? "hidden_act" : "hidden_activation", other);
    config->decoder.activation = SLF_MAX(kind, 0);
}

/* ---- all of it ---- */

/* Keys that switch biases on, in the families whose row has the bit, and the matrices that have them then. */
static const struct {
    const char *name;
    int32_t family_bit, matrices;
} bias_keys[] = {{"attention_bias", SLF_ATTENTION_BIAS, SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V | SALF_MATRIX_O},
                 {"mlp_bias", SLF_MLP_BIAS, SALF_MATRIX_GATE | SALF_MATRIX_UP | SALF_MATRIX_DOWN},
                 {"use_qkv_bias", SLF_QKV_BIAS, SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V}};

salf_status slf_decoder_read(slf_config *config) {
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
        slf_decoder_lacks(config, "", "model_type", slf_json_get(keys->json, "model_type"));
        return SALF_OK;
    }
    /* Each of these takes its own keys; what none takes is judged later. */
    read_activation(config);
    SLF_TRY(slf_rope_read(config));
    SLF_TRY(slf_windows_read(config));
    /* Biases: what the family always has, and what its keys switch on. */
    for (size_t i = 0; i < sizeof bias_keys / sizeof *bias_keys; i++) {
        int32_t flag = 0;
        if (!(family->bias_keys & bias_keys[i].family_bit)) continue;
        SLF_TRY(slf_keys_flag(keys, bias_keys[i].name, &flag));
        if (flag) d->biases |= bias_keys[i].matrices;
    }
    /* A Qwen2 has its biases without saying so; that it has them, as salf 0.1.0 wrote, is no news. */
    if (family->biases && !(family->bias_keys & SLF_ATTENTION_BIAS) &&
        slf_json_is(slf_json_get(keys->json, "attention_bias"), SLF_JSON_TRUE))
        slf_keys_take(keys, "attention_bias");
    /* SmolLM 3: layers without rotary positions, which the description has no place for. */
    if (slf_json_get(keys->defaults, "no_rope_layer_interval")) {
        const slf_json *rotates = slf_keys_take(keys, "no_rope_layers"), *flag;
        const slf_json *interval = slf_keys_take(keys, "no_rope_layer_interval");
        if (slf_json_is(rotates, SLF_JSON_ARRAY) && slf_json_size(rotates) != config->info.n_layers)
            return slf_fail(SALF_E_CORRUPT, "%s: no_rope_layers has %" PRId64 " entries for %d layers", keys->path,
                            slf_json_size(rotates), (int)config->info.n_layers);
        bool all =
            rotates ? slf_json_is(rotates, SLF_JSON_ARRAY) : slf_json_to_number(interval) > config->info.n_layers;
        for (int64_t k = 0; (flag = slf_json_at(rotates, k)) != NULL; k++) all = all && slf_json_to_number(flag) == 1;
        if (!all) slf_decoder_lacks(config, "", "no_rope_layers", rotates);
    }
    /* Scores: by 1 / sqrt(head_dim), or by what the file has of either kind. */
    double scalar = config->info.head_dim;
    if (slf_json_get(keys->defaults, "query_pre_attn_scalar"))
        SLF_TRY(slf_keys_factor(keys, "query_pre_attn_scalar", &scalar));
    d->attention_scale = 1 / sqrt(scalar);
    /* Granite has its factor as it is, without the root, and one on what blocks add. */
    if (slf_json_get(keys->defaults, "attention_multiplier")) {
        SLF_TRY(slf_keys_factor(keys, "attention_multiplier", &d->attention_scale));
        SLF_TRY(slf_keys_factor(keys, "residual_multiplier", &d->residual_scale));
    }
    if (slf_json_get(keys->defaults, "attn_logit_softcapping"))
        SLF_TRY(slf_keys_cap(keys, "attn_logit_softcapping", &d->attention_softcap));
    return SALF_OK;
}
