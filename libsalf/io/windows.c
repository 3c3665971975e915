/*
 * windows.c - sliding windows of a checkpoint's attention: how many positions a token sees, and in which layers.
 *
 * Mistral has one in every layer, Qwen in the upper ones and only where it is switched on, Gemma and OLMo in all but
 * each n-th. Newer files list the layers. A window counts the token itself, as transformers' masks do.
 */
#include <inttypes.h>
#include <string.h>

#include "io.h"

/* Which layers have the window: by the family's rule, then as layer_types lists them. */
salf_status slf_windows_read(slf_config *config) {
    slf_keys *keys = &config->keys;
    const slf_family *family = config->family;
    salf_decoder_info *d = &config->decoder;
    const int32_t m = config->info.n_layers;
    /* 1. the family's rule. Its keys stay unread, and so are found later, in a family that has none. */
    int64_t window = 0, from = 0, every = 1;
    int32_t in_use = family->window != SLF_WINDOW_FROM;
    if (family->window != SLF_WINDOW_NONE) SLF_TRY(slf_keys_integer(keys, "sliding_window", INT64_MAX / 2, &window));
    /* Gemma 2's 9B and 27B have the number twice; a second name that says something else is left for known.c. */
    if (window > 0 && slf_json_to_number(slf_json_get(keys->json, "sliding_window_size")) == (double)window)
        slf_keys_take(keys, "sliding_window_size");
    if (family->window == SLF_WINDOW_FROM) {
        SLF_TRY(slf_keys_flag(keys, "use_sliding_window", &in_use));
        slf_json *first = slf_keys_take(keys, "max_window_layers"); /* 0 is a value */
        if (first && (!slf_json_is(first, SLF_JSON_INTEGER) || slf_json_to_integer(first) < 0))
            return slf_fail(SALF_E_CORRUPT, "%s: max_window_layers is no integer of 0 or more", keys->path);
        /* SmolLM 3 writes the key and does not read it: its windows go with layers without rotary positions. */
        from = first && slf_json_get(keys->defaults, "max_window_layers") ? slf_json_to_integer(first) : m;
    }
    if (family->window == SLF_WINDOW_PATTERN) {
        /* A key of Gemma 3. The other classes have the number in their code: one that agrees changes nothing, and
         * another is left for known.c. */
        every = (int64_t)slf_json_to_number(slf_json_get(keys->defaults, "sliding_window_pattern"));
        const double said = slf_json_to_number(slf_json_get(keys->json, "sliding_window_pattern"));
        if (family->id == SALF_FAMILY_GEMMA3 || said == (double)every)
            SLF_TRY(slf_keys_integer(keys, "sliding_window_pattern", 65535, &every));
        slf_keys_take(keys, "_sliding_window_pattern"); /* transformers writes it beside layer_types, and reads these */
    }
    if (!in_use) window = 0;
    slf_json *types = slf_keys_take(keys, "layer_types");
    if (types && slf_json_size(types) != m)
        return slf_fail(SALF_E_CORRUPT, "%s: layer_types has %zu entries for %d layers", keys->path,
                        slf_json_size(types), (int)m);
    /* 2. layer by layer */
    SLF_TRY(SLF_ALLOC_ZERO(config->context, config->sliding, m));
    bool some = false;
    for (int32_t k = 0; k < m; k++) {
        bool slides = window > 0 && family->window != SLF_WINDOW_NONE;
        if (family->window == SLF_WINDOW_FROM) slides = slides && k >= from;
        if (family->window == SLF_WINDOW_PATTERN) slides = (k + 1) % every != 0;
        const char *type = slf_json_to_text(slf_json_at(types, k));
        const bool listed = type && strcmp(type, "sliding_attention") == 0;
        if (types && !listed && (!type || strcmp(type, "full_attention") != 0))
            slf_decoder_lacks(config, "", "layer_types", slf_json_at(types, k));
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
