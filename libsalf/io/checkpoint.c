/*
 * checkpoint.c - a model from a Hugging Face checkpoint folder: config.json says what it is, the tensors must agree.
 *
 * Names are tried with and without the family's prefix ("model.", "transformer."). A tied head may be stored under the
 * embedding's name or the head's, or under both; where both are there the head's is taken as it stands.
 */
#include <stdio.h>
#include <string.h>

#include "io.h"
#include "model/model.h"

/* Where a family keeps things. */
typedef struct {
    const char *prefix;
    const char *embedding;
    const char *norm;   /* its weight and bias */
    const char *layers; /* of layer k: layers k "." ... */
} family_names;

static const family_names llama_names = {"model.", "embed_tokens.weight", "norm", "layers."};
static const family_names gpt2_names = {"transformer.", "wte.weight", "ln_f", "h."};

static const family_names *names_of(int32_t family) {
    return family == SALF_FAMILY_GPT2 ? &gpt2_names : &llama_names;
}

/* The tensor prefix + name, or name alone; NULL when neither is there. */
static const slf_entry *find_entry(const salf_tensors *tensors, const char *prefix, const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const slf_entry *entry = slf_tensors_entry(tensors, full);
    return entry ? entry : slf_tensors_entry(tensors, name);
}

/* ---- head and embedding ---- */

static salf_status take_matrix(const salf_model *model, const slf_entry *entry, const char *path, slf_matrix *matrix) {
    salf_named_tensor named;
    if (!entry) return SALF_OK;
    SLF_TRY(salf_tensors_find(model->tensors, entry->name, &named));
    const int64_t vocab = model->info.vocab, dim = model->info.hidden;
    if (named.n_dims != 2 || named.shape[0] != vocab || named.shape[1] != dim)
        return slf_fail(SALF_E_MISMATCH, "%s: tensor '%s' is [%lld][%lld], the configuration says [%lld][%lld]", path,
                        entry->name, (long long)named.view.rows, (long long)named.view.cols, (long long)vocab,
                        (long long)dim);
    SLF_TRY(slf_tensor_check(&named.view, entry->name, vocab, dim, false));
    *matrix = (slf_matrix){.view = named.view, .n_rows = vocab, .n_cols = dim};
    return SALF_OK;
}

static salf_status take_matrices(salf_model *model, const char *path) {
    const family_names *names = names_of(model->info.family);
    const salf_tensors *tensors = model->tensors;
    SLF_TRY(take_matrix(model, slf_tensors_entry(tensors, "lm_head.weight"), path, &model->head));
    SLF_TRY(take_matrix(model, find_entry(tensors, names->prefix, names->embedding), path, &model->embedding));
    const bool no_head = slf_matrix_is_empty(&model->head), no_embedding = slf_matrix_is_empty(&model->embedding);
    if (no_head && no_embedding)
        return slf_fail(SALF_E_MISMATCH, "%s: neither '%s%s' nor 'lm_head.weight' is there", path, names->prefix,
                        names->embedding);
    if (!model->info.tied && (no_head || no_embedding))
        return slf_fail(SALF_E_MISMATCH, "%s: the head is not tied, but '%s' is missing", path,
                        no_head ? "lm_head.weight" : names->embedding);
    slf_model_tie(model);
    return SALF_OK;
}

/* ---- final norm ---- */

static salf_status norm_vector(const salf_model *model, const char *suffix, bool required, const char *path,
                               salf_tensor *out) {
    const family_names *names = names_of(model->info.family);
    char name[64];
    snprintf(name, sizeof name, "%s.%s", names->norm, suffix);
    const slf_entry *entry = find_entry(model->tensors, names->prefix, name);
    if (!entry && !required) return SALF_OK;
    if (!entry) return slf_fail(SALF_E_MISMATCH, "%s: '%s%s' is missing", path, names->prefix, name);
    salf_named_tensor named;
    SLF_TRY(salf_tensors_find(model->tensors, entry->name, &named));
    if (named.n_dims != 1 || named.shape[0] != model->info.hidden)
        return slf_fail(SALF_E_MISMATCH, "%s: tensor '%s' has %lld elements, the configuration says %lld", path,
                        entry->name, (long long)named.shape[0], (long long)model->info.hidden);
    *out = named.view;
    return SALF_OK;
}

static salf_status take_norm(salf_model *model, const char *path) {
    const bool layer_norm = model->info.norm_kind == SALF_NORM_LAYER;
    salf_tensor weight = {0}, bias = {0};
    SLF_TRY(norm_vector(model, "weight", true, path, &weight));
    if (layer_norm) SLF_TRY(norm_vector(model, "bias", true, path, &bias));
    return slf_model_take_norm(model, model->info.norm_kind, &weight, &bias);
}

/* ---- layers ---- */

/* Whether some tensor belongs to layer k. Entries are sorted, so those with a common beginning are neighbours. */
static bool has_layer(const salf_tensors *tensors, const char *prefix, const char *layers, int32_t k) {
    char begin[96];
    const int length = snprintf(begin, sizeof begin, "%s%s%d.", prefix, layers, (int)k);
    int64_t low = 0, high = tensors->n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (strcmp(tensors->entries[middle].name, begin) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < tensors->n && strncmp(tensors->entries[low].name, begin, (size_t)length) == 0;
}

static salf_status check_layers(const salf_model *model, const char *path) {
    const family_names *names = names_of(model->info.family);
    const int32_t m = model->info.n_layers;
    for (int32_t k = 0; k <= m; k++) {
        const bool there = has_layer(model->tensors, names->prefix, names->layers, k) ||
                           has_layer(model->tensors, "", names->layers, k);
        if (there == (k < m)) continue;
        return slf_fail(SALF_E_MISMATCH, "%s: the configuration says %d layers, but layer %d %s", path, (int)m, (int)k,
                        there ? "is there" : "is missing");
    }
    return SALF_OK;
}

/* ---- opening ---- */

static salf_status read_config(salf_model *model, const char *folder) {
    char *path = slf_path_join(model->context, folder, "config.json");
    if (!path) return SALF_E_NO_MEMORY;
    json_t *json = NULL;
    slf_config config;
    salf_status status = slf_json_load(&json, path);
    if (status == SALF_OK) status = slf_config_read(&config, json, path);
    if (status == SALF_OK) model->info = config.info;
    json_decref(json);
    slf_free(model->context, path);
    return status;
}

static salf_status open_folder(salf_model *model, const char *path, const salf_model_options *o) {
    SLF_TRY(read_config(model, path));
    SLF_TRY(salf_tensors_open(&model->tensors, model->context, path));
    SLF_TRY(check_layers(model, path));
    SLF_TRY(take_matrices(model, path));
    SLF_TRY(take_norm(model, path));
    return slf_model_take_numbers(model, o);
}

/* Options may override numbers; anything else would contradict the checkpoint. */
static salf_status check_overrides(const salf_model_options *o) {
    const salf_tensor *views[] = {&o->head, &o->embedding, &o->norm_weight, &o->norm_bias, &o->logit_bias};
    bool other = o->n_layers || o->hidden || o->vocab || o->tied || o->norm_kind || o->head_rows || o->embedding_rows;
    for (size_t i = 0; i < sizeof views / sizeof *views; i++) other = other || views[i]->data;
    if (!other) return SALF_OK;
    return slf_fail(SALF_E_ARGUMENT,
                    "salf_model_open: only valid_vocab, norm_eps, logit_scale and logit_softcap may be set");
}

salf_status salf_model_open(salf_model **out, salf_context *context, const char *path,
                            const salf_model_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    SLF_REQUIRE(path);
    salf_model_options own;
    SLF_TRY(slf_options_read(&own, sizeof own, options, "salf_model_options"));
    SLF_TRY(check_overrides(&own));
    salf_model *model;
    SLF_TRY(slf_model_new(&model, context));
    const salf_status status = open_folder(model, path, &own);
    if (status != SALF_OK)
        salf_model_destroy(model);
    else
        *out = model;
    return status;
}
