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

/* The upper half of a float, rounded to nearest, ties to even: half of the last place is added, one less where the
 * last bit kept is 0. NaN stays NaN, with a bit set that the cut might have lost. */
static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* Writes a parameter's values to out, [count] of dtype, with what LoRA adds to them: the part of the layer whose weight
 * it is knows the adapter. merged [count] is scratch. */
static void store_merged(const decoder *d, int64_t index, int32_t dtype, float *merged, void *out) {
    const decoder_parameter *p = &d->parameters[index];
    float *values = dtype == SALF_F32 ? out : merged;
    memcpy(values, p->values, (size_t)p->count * sizeof *values);
    const int in_layer = p->group >= 0 && p->group < d->config.n_layers;
    for (int i = 0; in_layer && i < N_PROJECTIONS * MOST_PARTS; i++) {
        const projection *of = &d->layers[p->group].projections[i / MOST_PARTS];
        const projection_part *part = &of->parts[i % MOST_PARTS];
        if (i % MOST_PARTS >= of->n_parts || part->weight != index || !part->adapted) continue;
        const decoder_parameter *a = &d->parameters[part->a], *b = &d->parameters[part->b];
        ops_gemm_nn(p->rows, p->cols, a->rows, of->scale, b->values, a->rows, a->values, p->cols, 1.0f, values,
                    p->cols);
    }
    uint16_t *half = out;
    for (int64_t i = 0; dtype == SALF_BF16 && i < p->count; i++) half[i] = to_bfloat16(merged[i]);
}

/* All weights of the file in one block, so that they are written in one call. */
static salf_status save_weights(const decoder *d, const char *path, int32_t dtype) {
    const size_t element = dtype == SALF_F32 ? 4 : 2;
    int64_t total = 0, most = 0, n = 0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (d->parameters[i].role >= DECODER_LORA_A) continue;
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
        if (p->role >= DECODER_LORA_A) continue;
        store_merged(d, i, dtype, merged, next);
        const int is_vector = p->role == DECODER_NORM || p->role == DECODER_BIAS; /* of one dimension in the file */
        const int64_t rows = is_vector ? p->cols : p->rows, cols = is_vector ? 1 : p->cols;
        salf_named_tensor *t = &tensors[n++];
        *t = (salf_named_tensor){.name = p->name, .shape = {rows, is_vector ? 0 : cols}, .n_dims = is_vector ? 1 : 2};
        t->view = (salf_tensor){.data = next, .rows = rows, .cols = cols, .dtype = dtype};
        next += (size_t)p->count * element;
    }
    static const char *const metadata[] = {"format", "pt"};
    if (!status) {
        status = salf_tensors_save(d->context, path, tensors, n, metadata, 1);
        if (status) decoder_fail_library(status);
    }
    free(tensors);
    free(merged);
    free(data);
    return status;
}

/* What salf_model_open and Hugging Face transformers read. Biases on q, k and v make it a Qwen2. 17 digits give back
 * the same double. */
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
