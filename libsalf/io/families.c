/*
 * families.c - the model families of Hugging Face checkpoints: what their configurations leave unsaid and where their
 * tensors lie. The table of names is in docs/formats.md.
 *
 * A checkpoint may leave out a key whose value is the default of its family's configuration class in transformers;
 * those defaults that differ between families stand here, the others in config.c.
 */
#include <stdio.h>
#include <string.h>

#include "io.h"

static const slf_family families[] = {
    {.name = "llama",
     .id = SALF_FAMILY_LLAMA,
     .norm_kind = SALF_NORM_RMS,
     .norm_eps = 1e-6,
     .rope_theta = 10000,
     .prefix = "model.",
     .embedding = "embed_tokens.weight",
     .norm = "norm",
     .layers = "layers."},
    {.name = "qwen2",
     .id = SALF_FAMILY_QWEN2,
     .norm_kind = SALF_NORM_RMS,
     .attention_bias = 1,
     .norm_eps = 1e-6,
     .rope_theta = 10000,
     .prefix = "model.",
     .embedding = "embed_tokens.weight",
     .norm = "norm",
     .layers = "layers."},
    {.name = "gemma2",
     .id = SALF_FAMILY_GEMMA2,
     .norm_kind = SALF_NORM_RMS1P,
     .tied = 1,
     .head_dim = 256,
     .norm_eps = 1e-6,
     .rope_theta = 10000,
     .logit_softcap = 30,
     .scales_embedding = 1,
     .prefix = "model.",
     .embedding = "embed_tokens.weight",
     .norm = "norm",
     .layers = "layers."},
    {.name = "mistral",
     .id = SALF_FAMILY_MISTRAL,
     .norm_kind = SALF_NORM_RMS,
     .norm_eps = 1e-6,
     .rope_theta = 10000,
     .prefix = "model.",
     .embedding = "embed_tokens.weight",
     .norm = "norm",
     .layers = "layers."},
    {.name = "gpt2",
     .id = SALF_FAMILY_GPT2,
     .keys = SLF_KEYS_GPT2,
     .norm_kind = SALF_NORM_LAYER,
     .tied = 1,
     .attention_bias = 1,
     .ffn_factor = 4,
     .norm_eps = 1e-5,
     .prefix = "transformer.",
     .embedding = "wte.weight",
     .norm = "ln_f",
     .layers = "h."},
};
/* Five rows: a search needs no order and no hash. */
enum { N_FAMILIES = sizeof families / sizeof *families };

const slf_family *slf_family_of_name(const char *model_type) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, model_type) == 0) return &families[i];
    return NULL;
}

const slf_family *slf_family_of_id(int32_t id) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (families[i].id == id) return &families[i];
    return NULL;
}

/* Cut where size ends; used may then count beyond it, hence the bound in the loop. */
void slf_family_names(char *text, size_t size) {
    size_t used = 0;
    *text = 0;
    for (size_t i = 0; i < N_FAMILIES && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", families[i].name);
}
