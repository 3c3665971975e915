/* fuzz_config.c - any bytes as a config.json: refused with a message, or every number of the result makes sense. */
#include <math.h>

#include "io/io.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const slf_config *config) {
    const salf_model_info *info = &config->info;
    const salf_decoder_info *d = &config->decoder;
    const int sizes = info->n_layers > 0 && info->hidden > 0 && info->vocab > 0 && info->valid_vocab == info->vocab &&
                      info->ffn_hidden > 0 && info->max_positions > 0;
    const int heads =
        info->n_heads > 0 && info->n_kv_heads > 0 && info->n_heads % info->n_kv_heads == 0 && info->head_dim > 0;
    const int numbers = isfinite(info->norm_eps) && info->norm_eps >= 0 && isfinite(info->rope_theta) &&
                        isfinite(info->logit_softcap) && info->logit_softcap >= 0 && info->logit_scale > 0 &&
                        isfinite(info->logit_scale) && isfinite(info->embedding_scale);
    const int rest = info->model_type && info->bos_token >= -1 && info->eos_token >= -1;
    if (!sizes || !heads || !numbers || !rest) abort();
    if (*config->unsupported) {
        if (strlen(config->unsupported) >= sizeof config->unsupported) abort();
        return;
    }
    /* A complete description can be computed with. */
    const int rope = d->rope == SALF_ROPE_NONE || (d->rotary_dims > 0 && d->rotary_dims % 2 == 0 &&
                                                   d->rotary_dims <= info->head_dim && d->rope_theta > 0);
    const int scaled = d->rope <= SALF_ROPE_DEFAULT || (isfinite(d->rope_factor) && d->rope_factor > 0);
    const int scores = isfinite(d->attention_scale) && isfinite(d->attention_softcap) && isfinite(d->residual_scale);
    if (!rope || !scaled || !scores || (d->sliding && d->sliding_window < 1)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    salf_context *context = place_context();
    slf_json *json;
    slf_config config = {0};
    salf_status status = slf_json_parse(&json, context, data, size, false, "input");
    if (status == SALF_OK) status = slf_config_read(&config, context, json, "input", NULL);
    if (status == SALF_OK)
        check(&config);
    else if (salf_last_error()[0] == '\0')
        abort();
    slf_config_free(&config);
    slf_json_release(json);
    return 0;
}
