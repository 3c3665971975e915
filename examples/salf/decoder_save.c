/*
 * decoder_save.c - writes the model as a Hugging Face checkpoint: model.safetensors and config.json.
 *
 * LoRA is merged on the way: W + (alpha / rank) B A. Memory: one copy of the weights in the type written.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decoder_internal.h"
#include "memory.h"
#include "ops.h"

/* Round to nearest even; NaN stays NaN. */
static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* The adapter matrix of a weight, kind 'A' or 'B'; NULL when it has none. */
static const decoder_parameter *adapter_of(const decoder *d, const decoder_parameter *weight, char kind) {
    char name[DECODER_NAME_SIZE + 16];
    const size_t stem = strlen(weight->name) - strlen(".weight");
    snprintf(name, sizeof name, "%.*s.lora_%c.weight", (int)stem, weight->name, kind);
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (strcmp(d->parameters[i].name, name) == 0) return &d->parameters[i];
    }
    return NULL;
}

static void merge(const decoder *d, const decoder_parameter *p, float *out) {
    memcpy(out, p->values, (size_t)p->count * sizeof *out);
    const decoder_parameter *a = p->decays ? adapter_of(d, p, 'A') : NULL, *b = a ? adapter_of(d, p, 'B') : NULL;
    if (!b) return;
    const float scale = (float)(d->training.lora_alpha / d->training.lora_rank);
    ops_gemm_nn(p->rows, p->cols, a->rows, scale, b->values, a->rows, a->values, p->cols, 1.0f, out, p->cols);
}

static void store(const decoder *d, const decoder_parameter *p, int32_t dtype, float *merged, char *out) {
    if (dtype == SALF_F32) {
        merge(d, p, (float *)(void *)out);
        return;
    }
    merge(d, p, merged);
    uint16_t *half = (uint16_t *)(void *)out;
    for (int64_t i = 0; i < p->count; i++) half[i] = to_bfloat16(merged[i]);
}

static salf_named_tensor describe(const decoder_parameter *p, int32_t dtype, void *data) {
    salf_named_tensor t = {.name = p->name, .n_dims = p->decays ? 2 : 1};
    t.shape[0] = p->decays ? p->rows : p->cols;
    t.shape[1] = p->decays ? p->cols : 0;
    t.view = (salf_tensor){.data = data, .rows = p->rows, .cols = p->cols, .dtype = dtype};
    if (!p->decays) t.view.rows = p->cols, t.view.cols = 1;
    return t;
}

static salf_status save_weights(const decoder *d, const char *path, int32_t dtype) {
    const size_t element = dtype == SALF_F32 ? 4 : 2;
    int64_t total = 0, most = 0, n = 0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (strstr(d->parameters[i].name, "lora_")) continue;
        total += d->parameters[i].count;
        if (d->parameters[i].count > most) most = d->parameters[i].count;
    }
    salf_named_tensor *tensors = memory_take(d->n_parameters, sizeof *tensors);
    float *merged = memory_take(most, sizeof *merged);
    char *data = memory_take(total, element), *next = data;
    salf_status status = SALF_OK;
    if (!tensors || !merged || !data) status = decoder_fail(SALF_E_NO_MEMORY, "no memory to save %s", path);
    for (int64_t i = 0; !status && i < d->n_parameters; i++) {
        const decoder_parameter *p = &d->parameters[i];
        if (strstr(p->name, "lora_")) continue;
        store(d, p, dtype, merged, next);
        tensors[n++] = describe(p, dtype, next);
        next += (size_t)p->count * element;
    }
    static const char *const metadata[] = {"format", "pt"};
    if (!status && salf_tensors_save(d->context, path, tensors, n, metadata, 1))
        status = decoder_fail_library(SALF_E_IO);
    free(tensors);
    free(merged);
    free(data);
    return status;
}

static void print_config(FILE *file, const decoder_config *c, int32_t dtype) {
    const char *family = c->attention_bias ? "qwen2" : "llama";
    fprintf(file, "{\n  \"architectures\": [\"%sForCausalLM\"],\n", c->attention_bias ? "Qwen2" : "Llama");
    fprintf(file, "  \"model_type\": \"%s\",\n  \"hidden_act\": \"silu\",\n", family);
    fprintf(file, "  \"hidden_size\": %lld,\n  \"intermediate_size\": %lld,\n", (long long)c->hidden,
            (long long)c->ffn_hidden);
    fprintf(file, "  \"num_hidden_layers\": %d,\n  \"num_attention_heads\": %d,\n", (int)c->n_layers, (int)c->n_heads);
    fprintf(file, "  \"num_key_value_heads\": %d,\n  \"head_dim\": %d,\n", (int)c->n_kv_heads, (int)c->head_dim);
    fprintf(file, "  \"vocab_size\": %lld,\n  \"max_position_embeddings\": %lld,\n", (long long)c->vocab,
            (long long)c->max_positions);
    fprintf(file, "  \"rms_norm_eps\": %.17g,\n  \"rope_theta\": %.17g,\n", c->norm_eps, c->rope_theta);
    if (c->bos_token >= 0) fprintf(file, "  \"bos_token_id\": %d,\n", (int)c->bos_token);
    if (c->eos_token >= 0) fprintf(file, "  \"eos_token_id\": %d,\n", (int)c->eos_token);
    fprintf(file, "  \"attention_bias\": %s,\n  \"mlp_bias\": false,\n", c->attention_bias ? "true" : "false");
    fprintf(file, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\"\n}\n", c->tied ? "true" : "false",
            dtype == SALF_F32 ? "float32" : "bfloat16");
}

/* To a temporary name, synced, then renamed. */
static salf_status save_config(const decoder *d, const char *path, int32_t dtype) {
    char temporary[4096 + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = fopen(temporary, "w");
    if (!file) return decoder_fail(SALF_E_IO, "%s: %s", temporary, strerror(errno));
    print_config(file, &d->config, dtype);
    int failed = fflush(file) != 0 || ferror(file) || fsync(fileno(file)) != 0;
    failed |= fclose(file) != 0;
    if (failed || rename(temporary, path) != 0) {
        const salf_status status = decoder_fail(SALF_E_IO, "%s: %s", path, strerror(errno));
        remove(temporary);
        return status;
    }
    return SALF_OK;
}

salf_status decoder_save(const decoder *d, const char *folder, int32_t dtype) {
    char path[4096];
    if (dtype != SALF_F32 && dtype != SALF_BF16) {
        return decoder_fail(SALF_E_DTYPE, "models are saved as F32 or BF16, not as type %d", (int)dtype);
    }
    if (strlen(folder) + 32 > sizeof path) return decoder_fail(SALF_E_ARGUMENT, "name of folder too long: %s", folder);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return decoder_fail(SALF_E_IO, "%s: %s", folder, strerror(errno));
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    const salf_status status = save_weights(d, path, dtype);
    if (status) return status;
    snprintf(path, sizeof path, "%s/config.json", folder);
    return save_config(d, path, dtype);
}
