/*
 * open_folder.c - a model from a Hugging Face checkpoint folder: config.json says what it is, the tensors must agree,
 * and the tokenizer beside them says where the vocabulary ends.
 *
 * io/parts.c finds the tensors under the names that they really have. A tied head may be stored under the embedding's
 * name or the head's, or under both.
 */
#include <inttypes.h>
#include <string.h>

#include "io/io.h"
#include "model/model.h"

/* Head and embedding, of which one may serve as both, the final norm and the logits' bias. Where head and embedding are
 * stored and differ, the model is not tied whatever its configuration says: transformers loads them so, too. */
static salf_status use_parts(salf_model *model, const slf_parts *parts, const slf_config *config, const char *path) {
    const slf_entry *head = parts->head, *embedding = parts->embedding;
    const slf_family *family = config->family;
    /* 1. the matrices */
    const char *name = family->head ? family->head : "lm_head";
    if (!head && !embedding)
        return slf_fail(SALF_E_MISMATCH, "%s: neither '%s%s' nor '%s.weight' is there", path, parts->prefix,
                        family->embedding, name);
    if (!model->info.tied && (!head || !embedding))
        return slf_fail(SALF_E_MISMATCH, "%s: the head is not tied, but '%s%s' is missing", path,
                        head ? family->embedding : name, head ? "" : ".weight");
    SLF_TRY(slf_matrix_open(&model->head, &model->scaled[0], model, head, config->scale_block, path));
    SLF_TRY(slf_matrix_open(&model->embedding, &model->scaled[1], model, embedding, config->scale_block, path));
    if (model->info.tied && head && embedding) {
        /* Costs a look at both only where both are there, and stops at the first difference. */
        const uint64_t bytes = head->end - head->begin;
        model->info.tied = head->dtype == embedding->dtype && bytes == embedding->end - embedding->begin &&
                           memcmp(head->data, embedding->data, (size_t)bytes) == 0;
    }
    slf_model_tie(model);
    /* 2. the vectors */
    if (config->head_bias && !parts->head_bias)
        return slf_fail(SALF_E_MISMATCH, "%s: '%s.bias' is missing, which model_type '%s' needs", path, name,
                        family->name);
    const slf_entry *const vectors[3] = {parts->norm_weight, parts->norm_bias, parts->head_bias};
    return slf_model_use_vectors(model, model->info.norm_kind, vectors, (float)family->norm_plus_one, path);
}

/* What is made on the way belongs to the model, which the caller destroys on failure. Matrices stay in the mapped file;
 * that the configuration and the tensors agree is checked here once, so that nothing later has to doubt a shape. */
salf_status slf_model_open_folder(salf_model *model, const char *folder, const salf_model_options *o) {
    slf_config config = {.context = model->context};
    slf_parts parts;
    salf_status status;
    /* 1. what the configuration says */
    SLF_DO(slf_folder_check(model->context, folder));
    SLF_DO(slf_config_load(&config, model->context, folder, o->accept));
    model->info = config.info;
    /* 2. the tensors */
    SLF_DO(salf_tensors_open(&model->tensors, model->context, folder));
    SLF_DO(slf_parts_find(&parts, model->tensors, &config, folder));
    SLF_DO(use_parts(model, &parts, &config, folder));
    /* 3. where the vocabulary ends */
    if (o->valid_vocab == 0) {
        int64_t tokens;
        SLF_DO(slf_tokens_count(&tokens, model->context, folder));
        /* A tokenizer with more tokens than the head has rows says nothing of padding. */
        if (tokens > 0 && tokens <= model->info.vocab) {
            model->info.valid_vocab = tokens;
            model->info.vocab_from = SALF_VOCAB_TOKENIZER;
        }
    }
    SLF_DO(slf_model_set_numbers(model, o));
    /* 4. what the layers compute. Texts move into memory of the model, whose life its readers share. */
    model->decoder = config.decoder;
    model->prefix = slf_strdup(model->context, parts.prefix);
    SLF_DO(model->prefix ? SALF_OK : SALF_E_NO_MEMORY);
    model->decoder.prefix = model->prefix;
    model->sliding = config.sliding;
    config.sliding = NULL;
    if (*config.unsupported) {
        model->unsupported = slf_strdup(model->context, config.unsupported);
        SLF_DO(model->unsupported ? SALF_OK : SALF_E_NO_MEMORY);
        model->decoder.unsupported = model->unsupported;
    }
done:
    slf_config_free(&config);
    return status;
}
