/* fuzz_config.c - any bytes as a config.json: refused with a message, or every number of the result makes sense. */
#include <math.h>
#include <stdlib.h>

#include "io/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const salf_model_info *info) {
    const int sizes = info->n_layers > 0 && info->hidden > 0 && info->vocab > 0 && info->valid_vocab == info->vocab &&
                      info->ffn_hidden > 0 && info->max_positions > 0;
    const int heads =
        info->n_heads > 0 && info->n_kv_heads > 0 && info->n_heads % info->n_kv_heads == 0 && info->head_dim > 0;
    const int numbers = isfinite(info->norm_eps) && info->norm_eps >= 0 && isfinite(info->rope_theta) &&
                        isfinite(info->logit_softcap) && info->logit_softcap >= 0;
    const int rest = info->family != SALF_FAMILY_OTHER && info->bos_token >= -1 && info->eos_token >= -1;
    if (!sizes || !heads || !numbers || !rest) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *json;
    salf_model_info info;
    salf_status status = slf_json_parse(&json, data, size, "input");
    if (status == SALF_OK) status = slf_config_read(&info, json, "input");
    if (status == SALF_OK)
        check(&info);
    else if (salf_last_error()[0] == '\0')
        abort();
    json_decref(json);
    return 0;
}
