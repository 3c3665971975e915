/*
 * parts.c - where head, embedding and final norm of a checkpoint lie, and whether all its other tensors have a place.
 *
 * Names begin with a prefix that depends on who saved the model: "model.", nothing, "model.language_model.",
 * "language_model.model.", "module.model." ... So it is looked for: it is what stands before the layers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

enum { WIDEST_NAME = 256, MOST_PREFIXES = 16 };

/* The tensor prefix + name + end; NULL when there is none. */
static const slf_entry *entry_of(const salf_tensors *tensors, const char *prefix, const char *name, const char *end) {
    char full[WIDEST_NAME];
    const int length = snprintf(full, sizeof full, "%s%s%s", prefix, name, end);
    return length < (int)sizeof full ? slf_tensors_entry(tensors, full) : NULL;
}

/* What follows a beginning; NULL where the name does not begin so. */
static const char *behind(const char *name, const char *beginning) {
    const size_t length = strlen(beginning);
    return strncmp(name, beginning, length) == 0 ? name + length : NULL;
}

/* ---- the prefix ---- */

/* Which of the prefixes that layers have is the text model's. Towers for images have layers too, but no such norm and
 * embedding beside them. The family's own prefix wins, then none at all, then the only other one. */
static salf_status find_prefix(slf_parts *parts, const salf_tensors *tensors, const slf_family *family,
                               const char *path) {
    char found[MOST_PREFIXES][sizeof parts->prefix], first[64];
    /* A file with more prefixes than there is room for holds no model that could be told apart anyway. */
    int n = 0, whole = 0, best = -1;
    snprintf(first, sizeof first, "%s0.", family->layers);
    /* 1. all prefixes of a layer 0 */
    for (int64_t i = 0; i < tensors->n; i++) {
        const char *name = tensors->entries[i].name;
        for (const char *at = strstr(name, first); at; at = strstr(at + 1, first)) {
            const size_t length = (size_t)(at - name);
            if ((length > 0 && at[-1] != '.') || length >= sizeof parts->prefix) continue;
            int k = 0;
            while (k < n && (strlen(found[k]) != length || memcmp(found[k], name, length) != 0)) k++;
            if (k < n || n == MOST_PREFIXES) continue;
            memcpy(found[n], name, length);
            found[n++][length] = 0;
        }
    }
    if (n == 0)
        return slf_fail(SALF_E_MISMATCH, "%s: layer 0 is missing: no tensor is called '%s%s...', '%s...' or '*.%s...'",
                        path, family->prefix, first, first, first);
    /* 2. the one with the rest beside it */
    int rank_of_best = -1;
    for (int k = 0; k < n; k++) {
        /* A family whose final norm has no weights cannot be told by it. */
        const bool norm = !family->norm || entry_of(tensors, found[k], family->norm, ".weight");
        const bool embedding = entry_of(tensors, found[k], family->embedding, "") != NULL;
        const int own = strcmp(found[k], family->prefix) == 0 ? 2 : *found[k] == 0;
        whole += norm && embedding && own == 0;
        /* Both parts count more than whose prefix it is: the family's may be that of an empty shell. */
        const int rank = 4 * (norm + embedding) + own;
        if (rank > rank_of_best) best = k;
        rank_of_best = SLF_MAX(rank, rank_of_best);
    }
    /* Two whole models under foreign names: whichever was taken, it might be the wrong one. */
    if (rank_of_best % 4 == 0 && rank_of_best >= 8 && whole > 1)
        return slf_fail(SALF_E_MISMATCH, "%s: %d models are in there, '%s%s...' and others; which is meant?", path,
                        whole, found[best], first);
    memcpy(parts->prefix, found[best], sizeof found[best]);
    return SALF_OK;
}

/* ---- all others ---- */

/* What a layer of a described family has, by what the description says of it. Buffers that old versions saved hold
 * nothing that is not computed anew. */
static bool layer_has(const slf_config *config, const char *name) {
    static const struct {
        const char *name;
        int32_t matrix;
    } matrices[] = {{"self_attn.q_proj.", SALF_MATRIX_Q},
                    {"self_attn.k_proj.", SALF_MATRIX_K},
                    {"self_attn.v_proj.", SALF_MATRIX_V},
                    {"self_attn.o_proj.", SALF_MATRIX_O},
                    {"mlp.gate_proj.", SALF_MATRIX_GATE},
                    {"mlp.up_proj.", SALF_MATRIX_UP},
                    {"mlp.down_proj.", SALF_MATRIX_DOWN},
                    {"self_attn.qkv_proj.", 0},
                    {"mlp.gate_up_proj.", 0}};
    const salf_decoder_info *d = &config->decoder;
    const char *end;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        if (!(end = behind(name, matrices[i].name))) continue;
        /* A fused tensor stands for several matrices, none of which may be there by itself as well. */
        const bool fused = matrices[i].matrix == 0;
        if (strcmp(end, "weight") == 0) return fused ? d->fused != 0 : !(d->fused & matrices[i].matrix);
        return strcmp(end, "bias") == 0 && (d->biases & matrices[i].matrix) != 0;
    }
    if (strcmp(name, "self_attn.rotary_emb.inv_freq") == 0) return true;
    if (strcmp(name, "self_attn.q_norm.weight") == 0 || strcmp(name, "self_attn.k_norm.weight") == 0)
        return d->qk_norm != SALF_QK_NORM_NONE;
    const bool pre = d->block != SALF_BLOCK_POST_NORM, post = d->block != SALF_BLOCK_PRE_NORM;
    end = behind(name, "post_attention_layernorm.");
    if (!end && pre) end = behind(name, "input_layernorm.");
    if (!end && d->block == SALF_BLOCK_SANDWICH_NORM) end = behind(name, "pre_feedforward_layernorm.");
    if (!end && post) end = behind(name, "post_feedforward_layernorm.");
    return end && (strcmp(end, "weight") == 0 || (strcmp(end, "bias") == 0 && d->norm_kind == SALF_NORM_LAYER));
}

/* One tensor that is none of the parts. */
static salf_status judge_tensor(const slf_parts *parts, const slf_entry *entry, slf_config *config, const char *path) {
    /* Beside the layers of some family, and no part of head or norm: positions, a norm behind the embedding. Families
     * that are described have none of them but the last, a buffer. */
    static const char *const beside[] = {"wpe.weight",
                                         "embed_positions.weight",
                                         "embed_positions.weights",
                                         "word_embeddings_layernorm.weight",
                                         "word_embeddings_layernorm.bias",
                                         "rotary_emb.inv_freq"};
    const slf_family *family = config->family;
    const char *name = entry->name, *rest = behind(name, parts->prefix), *end;
    const bool described = family->described;
    /* 1. of the head, the norm or the embedding, and of unknown meaning */
    /* By the stem of the name: "lm_head.lora_A.weight" and "lm_head.qweight" are of the head, too. */
    const char *last = strrchr(name, '.');
    const size_t stem = last ? (size_t)(last - name) + 1 : 0; /* "lm_head." */
    const slf_entry *const owners[] = {parts->head, parts->embedding, parts->norm_weight};
    bool touches = strstr(name, "lm_head.") != NULL || (family->head && strstr(name, family->head) != NULL) ||
                   (rest && strncmp(rest, "project_out", 11) == 0);
    for (int i = 0; i < 3; i++) {
        if (!owners[i]) continue;
        const char *dot = strrchr(owners[i]->name, '.');
        const size_t length = dot ? (size_t)(dot - owners[i]->name) + 1 : 0;
        if (length == 0 || strncmp(owners[i]->name, name, length) != 0) continue;
        /* Scales beside numbers that are whole by themselves would be passed over. */
        const bool scale = strcmp(name + stem, "weight_scale") == 0 || strcmp(name + stem, "weight_scale_inv") == 0 ||
                           strcmp(name + stem, "SCB") == 0; /* model/scaled.c takes them */
        if (stem == length && i < 2 && !slf_entry_is_real(owners[i]) && scale) return SALF_OK;
        touches = true;
    }
    /* 2. of a layer */
    if (rest && (end = behind(rest, family->layers)) && *end >= '0' && *end <= '9') {
        char *after;
        const long k = strtol(end, &after, 10);
        /* Whatever is behind the last layer was left out by somebody, as is one more layer (slf_parts_find). */
        if (k >= config->info.n_layers && config->extra_layers == 0)
            return slf_fail(SALF_E_MISMATCH, "%s: the configuration says %d layers, but tensor '%s' is there", path,
                            (int)config->info.n_layers, name);
        const bool plain = *after == '.' && (*end != '0' || after == end + 1); /* "layers.00." is no layer's name */
        if (described && k < config->info.n_layers &&
            (!plain || !slf_entry_is_real(entry) || !layer_has(config, after + 1)))
            slf_decoder_lacks(config, "tensor ", name, NULL);
        return SALF_OK;
    }
    /* 3. beside the layers: a norm that is not known may be one more that states go through before the head */
    const size_t n_beside = sizeof beside / sizeof *beside;
    for (size_t i = described ? n_beside - 1 : 0; rest && i < n_beside; i++)
        if (strcmp(beside[i], rest) == 0) return SALF_OK;
    if (rest && !*parts->prefix && config->composite) rest = NULL; /* the other parts have no prefix of their own */
    if (rest && strstr(rest, "norm") && !strstr(rest, "embed")) touches = true;
    if (touches)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: tensor '%s' (%s) is not known, and may change what the head computes",
                        path, name, entry->type_name);
    if (described && (rest || !config->composite)) slf_decoder_lacks(config, "tensor ", name, NULL);
    return SALF_OK;
}

/* ---- all of it ---- */

salf_status slf_parts_find(slf_parts *parts, const salf_tensors *tensors, slf_config *config, const char *path) {
    const slf_family *family = config->family;
    *parts = (slf_parts){0};
    SLF_TRY(find_prefix(parts, tensors, family, path));
    /* One layer more than the configuration says would be silently left out, which is as wrong as one that is
     * missing. */
    const int32_t m = config->info.n_layers;
    for (int32_t k = 0; k <= m; k++) {
        char begin[WIDEST_NAME];
        snprintf(begin, sizeof begin, "%s%s%d.", parts->prefix, family->layers, (int)k);
        const bool there = slf_tensors_begin(tensors, begin);
        if (there != (k < m) && !(k == m && config->extra_layers > 0))
            return slf_fail(SALF_E_MISMATCH, "%s: the configuration says %d layers, but layer %d %s ('%s...')", path,
                            (int)m, (int)k, there ? "is there" : "is missing", begin);
    }
    /* The head stands beside the inner model, or beside what that is in: "a.b." is tried with "a.b.", "a." and "". */
    const char *const names[] = {"lm_head", family->head};
    char prefix[sizeof parts->prefix];
    memcpy(prefix, parts->prefix, sizeof prefix);
    for (bool last = false; !last;) {
        last = !*prefix;
        for (int i = 0; i < (family->head ? 2 : 1); i++) {
            const slf_entry *const found[2] = {entry_of(tensors, prefix, names[i], ".weight"),
                                               entry_of(tensors, prefix, names[i], ".bias")};
            const slf_entry **const places[2] = {&parts->head,
                                                 &parts->head_bias}; /* a tied head may have a bias alone */
            for (int j = 0; j < 2; j++) {
                if (found[j] && *places[j])
                    return slf_fail(SALF_E_MISMATCH, "%s: '%s' and '%s' are there; which is the head?", path,
                                    (*places[j])->name, found[j]->name);
                if (found[j]) *places[j] = found[j];
            }
        }
        if (*prefix) prefix[strlen(prefix) - 1] = 0; /* the dot at its end, then the last part */
        char *dot = strrchr(prefix, '.');
        prefix[dot ? dot - prefix + 1 : 0] = 0;
    }
    parts->embedding = entry_of(tensors, parts->prefix, family->embedding, "");
    /* A bias where the family has none is found below, as a tensor that changes the norm. */
    if (family->norm) {
        parts->norm_weight = entry_of(tensors, parts->prefix, family->norm, ".weight");
        parts->norm_bias = entry_of(tensors, parts->prefix, family->norm, ".bias");
        if (!parts->norm_weight || (family->norm_bias && !parts->norm_bias))
            return slf_fail(SALF_E_MISMATCH, "%s: '%s%s.%s' is missing", path, parts->prefix, family->norm,
                            parts->norm_weight ? "bias" : "weight");
    }
    for (int64_t i = 0; i < tensors->n; i++) {
        const slf_entry *entry = &tensors->entries[i];
        const bool bias = (entry == parts->norm_bias && family->norm_bias) || entry == parts->head_bias;
        if (bias || entry == parts->embedding || entry == parts->norm_weight || entry == parts->head) continue;
        SLF_TRY(judge_tensor(parts, entry, config, path));
    }
    return SALF_OK;
}
