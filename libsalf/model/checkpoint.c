/*
 * checkpoint.c - a model from a Hugging Face checkpoint folder: config.json says what it is, the tensors must agree.
 *
 * Names are tried with and without the family's prefix ("model.", "transformer."). A tied head may be stored under the
 * embedding's name or the head's, or under both; where both are there the head's is taken as it stands.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "io/gguf.h"
#include "io/io.h"
#include "model/model.h"

#define HEAD_NAME "lm_head.weight" /* of every family; it has no prefix */

/* The tensor prefix + name, or name alone; NULL when neither is there. A checkpoint that was saved from the bare model,
 * without its head, has no prefix. The longest name of a family has some 40 bytes. */
static const slf_entry *find_entry(const salf_tensors *tensors, const char *prefix, const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const slf_entry *entry = slf_tensors_entry(tensors, full);
    return entry ? entry : slf_tensors_entry(tensors, name);
}

/* A head or an embedding [V][D]; entry NULL leaves *matrix. Its type is checked as that of any view, so that a
 * quantised checkpoint ends here with SALF_E_DTYPE. */
static salf_status use_matrix(const salf_model *model, const slf_entry *entry, const char *path, slf_matrix *matrix) {
    salf_named_tensor named;
    if (!entry) return SALF_OK;
    SLF_TRY(salf_tensors_find(model->tensors, entry->name, &named));
    const int64_t vocab = model->info.vocab, dim = model->info.hidden;
    if (named.n_dims != 2 || named.shape[0] != vocab || named.shape[1] != dim)
        return slf_fail(SALF_E_MISMATCH,
                        "%s: tensor '%s' is [%" PRId64 "][%" PRId64 "], the configuration says [%" PRId64 "][%" PRId64
                        "]",
                        path, entry->name, named.view.rows, named.view.cols, vocab, dim);
    SLF_TRY(slf_tensor_check(&named.view, entry->name, vocab, dim, false));
    *matrix = (slf_matrix){.view = named.view, .n_rows = vocab, .n_cols = dim};
    return SALF_OK;
}

/* Weight or bias [D] of the final norm. It must be there: families without a weight are not known to families.c. */
static salf_status find_norm(const salf_model *model, const slf_family *family, const char *suffix, const char *path,
                             salf_tensor *out) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", family->norm, suffix);
    const slf_entry *entry = find_entry(model->tensors, family->prefix, name);
    if (!entry) return slf_fail(SALF_E_MISMATCH, "%s: '%s%s' is missing", path, family->prefix, name);
    salf_named_tensor named;
    SLF_TRY(salf_tensors_find(model->tensors, entry->name, &named));
    if (named.n_dims != 1 || named.shape[0] != model->info.hidden)
        return slf_fail(SALF_E_MISMATCH, "%s: tensor '%s' has %" PRId64 " elements, the configuration says %" PRId64,
                        path, entry->name, named.shape[0], model->info.hidden);
    *out = named.view;
    return SALF_OK;
}

/* Whether some tensor belongs to layer k. Entries are sorted, so those with a common beginning are neighbours. */
static bool has_layer(const salf_tensors *tensors, const char *prefix, const char *layers, int32_t k) {
    char begin[96];
    const int length = snprintf(begin, sizeof begin, "%s%s%d.", prefix, layers, (int)k);
    const int64_t place = slf_tensors_place(tensors, begin);
    return place < tensors->n && strncmp(tensors->entries[place].name, begin, (size_t)length) == 0;
}

/* What is made on the way belongs to the model, which the caller destroys on failure. Matrices stay in the mapped file;
 * that the configuration and the tensors agree is checked here once, so that nothing later has to doubt a shape. */
static salf_status open_folder(salf_model *model, const char *folder, const salf_model_options *o) {
    /* 1. what the configuration says */
    const slf_family *family;
    SLF_TRY(slf_config_load(&model->info, &family, model->context, folder));
    /* 2. as many layers as it says, and no more */
    const int32_t m = model->info.n_layers;
    SLF_TRY(salf_tensors_open(&model->tensors, model->context, folder));
    /* Layers are looked for with the family's prefix and without it: files saved from the inner model have none. One
     * layer more than the configuration says would be silently left out, which is as wrong as one that is missing. */
    for (int32_t k = 0; k <= m; k++) {
        const bool there = has_layer(model->tensors, family->prefix, family->layers, k) ||
                           has_layer(model->tensors, "", family->layers, k);
        if (there != (k < m))
            return slf_fail(SALF_E_MISMATCH, "%s: the configuration says %d layers, but layer %d %s", folder, (int)m,
                            (int)k, there ? "is there" : "is missing");
    }
    /* 3. head, embedding and final norm */
    const slf_entry *embedding = find_entry(model->tensors, family->prefix, family->embedding);
    SLF_TRY(use_matrix(model, slf_tensors_entry(model->tensors, HEAD_NAME), folder, &model->head));
    SLF_TRY(use_matrix(model, embedding, folder, &model->embedding));
    const bool no_head = slf_matrix_is_empty(&model->head), no_embedding = slf_matrix_is_empty(&model->embedding);
    if (no_head && no_embedding)
        return slf_fail(SALF_E_MISMATCH, "%s: neither '%s%s' nor '" HEAD_NAME "' is there", folder, family->prefix,
                        family->embedding);
    if (!model->info.tied && (no_head || no_embedding))
        return slf_fail(SALF_E_MISMATCH, "%s: the head is not tied, but '%s' is missing", folder,
                        no_head ? HEAD_NAME : family->embedding);
    /* Many tied checkpoints store one matrix under one of the two names: whichever is there then serves as both. */
    slf_model_tie(model);
    salf_tensor weight = {0}, bias = {0};
    SLF_TRY(find_norm(model, family, "weight", folder, &weight));
    if (model->info.norm_kind == SALF_NORM_LAYER) SLF_TRY(find_norm(model, family, "bias", folder, &bias));
    SLF_TRY(slf_model_set_norm(model, model->info.norm_kind, &weight, &bias));
    return slf_model_set_numbers(model, o);
}

/* A field that the checkpoint decides is refused, not ignored: a host that sets it believes that it counts. */
salf_status salf_model_open(salf_model **out, salf_context *context, const char *path,
                            const salf_model_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    salf_model_options o;
    SLF_TRY(slf_options_read(&o, sizeof o, options, "salf_model_options"));
    if (o.n_layers || o.hidden || o.vocab || o.tied || o.norm_kind || o.head_rows || o.embedding_rows || o.head.data ||
        o.embedding.data || o.norm_weight.data || o.norm_bias.data || o.logit_bias.data)
        return SLF_FAIL(SALF_E_ARGUMENT, "only valid_vocab, norm_eps, logit_scale and logit_softcap may be set; the "
                                         "checkpoint says everything else");
    salf_model *model;
    SLF_TRY(slf_model_new(&model, context));
    const salf_status status =
        slf_path_is_gguf(path) ? slf_model_open_gguf(model, path, &o) : open_folder(model, path, &o);
    if (status == SALF_OK)
        *out = model;
    else
        salf_model_destroy(model);
    return status;
}
