/*
 * decoder_save.c - writes the model as a Hugging Face checkpoint: model.safetensors, with names, shapes and order of
 * the checkpoint that it came from, or for a decoder that was created model.safetensors and config.json.
 *
 * LoRA is merged on the way: W + (alpha / rank) B A. Tensors that are not the decoder's (a vision tower, tables that
 * follow from the configuration) are written as they are. Memory: one copy of the weights in the type written.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decoder_internal.h"
#include "files.h"
#include "memory.h"
#include "ops.h"

#define MOST_PATH 4096

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

/* The parameter that a tensor of the source holds; -1: none. A tied head may be stored under both of its names. */
static int64_t parameter_of(const decoder *d, const char *name) {
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (d->parameters[i].role < DECODER_LORA_A && strcmp(d->parameters[i].name, name) == 0) return i;
    }
    const size_t n = strlen(name), m = strlen("lm_head.weight");
    return d->config.tied && n >= m && strcmp(name + n - m, "lm_head.weight") == 0 ? 0 : -1;
}

/* Entries of the file to be written, parameters[i] being the one behind entry i or -1: as in the source, or of all
 * parameters. Bytes of all parameters and count of the largest on the way. */
typedef struct save_list {
    salf_named_tensor *tensors;
    int64_t *parameters;
    int64_t n;
    int64_t total;
    int64_t largest;
} save_list;

static salf_status list_source(const decoder *d, const salf_tensors *source, save_list *l) {
    for (int64_t i = 0; i < salf_tensors_count(source); i++) {
        salf_named_tensor *t = &l->tensors[l->n];
        const salf_status status = salf_tensors_at(source, i, t);
        if (status) return decoder_fail_library(status);
        const int64_t id = parameter_of(d, t->name);
        if (id >= 0 && t->view.rows * t->view.cols != d->parameters[id].count)
            return decoder_fail(SALF_E_MISMATCH, "tensor %s of the source has %lld values, not %lld", t->name,
                                (long long)(t->view.rows * t->view.cols), (long long)d->parameters[id].count);
        l->parameters[l->n++] = id;
    }
    for (int64_t i = 0; i < d->n_parameters; i++) {
        salf_named_tensor found;
        if (d->parameters[i].role < DECODER_LORA_A && salf_tensors_find(source, d->parameters[i].name, &found))
            return decoder_fail(SALF_E_NOT_FOUND, "the source lacks tensor %s", d->parameters[i].name);
    }
    return SALF_OK;
}

static void list_parameters(const decoder *d, save_list *l) {
    for (int64_t i = 0; i < d->n_parameters; i++) {
        const decoder_parameter *p = &d->parameters[i];
        const int is_vector = p->role == DECODER_NORM || p->role == DECODER_BIAS; /* of one dimension in the file */
        if (p->role >= DECODER_LORA_A) continue;
        l->parameters[l->n] = i;
        l->tensors[l->n++] =
            (salf_named_tensor){.name = p->name,
                                .shape = {is_vector ? p->cols : p->rows, is_vector ? 0 : p->cols},
                                .n_dims = is_vector ? 1 : 2,
                                .view = {.rows = is_vector ? p->cols : p->rows, .cols = is_vector ? 1 : p->cols}};
    }
}

/* The list, as in the source or, where that is NULL, of all parameters. The caller frees its arrays, on failure too. */
static salf_status make_list(const decoder *d, const salf_tensors *source, save_list *l) {
    const int64_t room = source ? salf_tensors_count(source) : d->n_parameters;
    *l = (save_list){.tensors = memory_take(room, sizeof *l->tensors),
                     .parameters = memory_take(room, sizeof *l->parameters)};
    if (!l->tensors || !l->parameters)
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld names", (long long)room);
    const salf_status status = source ? list_source(d, source, l) : SALF_OK;
    if (!source) list_parameters(d, l);
    for (int64_t i = 0; i < l->n; i++) {
        const int64_t count = l->parameters[i] < 0 ? 0 : d->parameters[l->parameters[i]].count;
        l->total += count;
        if (count > l->largest) l->largest = count;
    }
    return status;
}

/* All parameters of the file in one block, so that they are written in one call. */
static salf_status save_tensors(const decoder *d, const salf_tensors *source, const char *path, int32_t dtype) {
    const size_t element = dtype == SALF_F32 ? 4 : 2;
    float *merged = NULL;
    char *data = NULL;
    save_list l;
    salf_status status = make_list(d, source, &l);
    if (!status) {
        merged = memory_take(l.largest, sizeof *merged);
        data = memory_take(l.total, element);
        if (!merged || !data) status = decoder_fail(SALF_E_NO_MEMORY, "no memory to save %s", path);
    }
    char *next = data;
    for (int64_t i = 0; !status && i < l.n; i++) {
        if (l.parameters[i] < 0) continue;
        store_merged(d, l.parameters[i], dtype, merged, next);
        l.tensors[i].view =
            (salf_tensor){.data = next, .rows = l.tensors[i].view.rows, .cols = l.tensors[i].view.cols, .dtype = dtype};
        next += (size_t)d->parameters[l.parameters[i]].count * element;
    }
    static const char *const metadata[] = {"format", "pt"};
    if (!status) {
        status = salf_tensors_save(d->context, path, l.tensors, l.n, metadata, 1);
        if (status) decoder_fail_library(status);
    }
    free(l.tensors);
    free(l.parameters);
    free(merged);
    free(data);
    return status;
}

salf_status decoder_save_weights(const decoder *d, const char *path, int32_t dtype) {
    return save_tensors(d, NULL, path, dtype);
}

/* ---- decoders that were created ---- */

/* What salf_model_open and Hugging Face transformers read. Biases on q, k and v make it a Qwen2. 17 digits give back
 * the same double. */
typedef struct printed_config {
    const decoder_config *config;
    int32_t dtype;
} printed_config;

static void print_config(FILE *file, const void *what) {
    const decoder_config *c = ((const printed_config *)what)->config;
    const int biased = c->layers.biases != 0;
    const char *family = biased ? "qwen2" : "llama";
    fprintf(file, "{\n  \"architectures\": [\"%sForCausalLM\"],\n", biased ? "Qwen2" : "Llama");
    fprintf(file, "  \"model_type\": \"%s\",\n  \"hidden_act\": \"silu\",\n", family);
    fprintf(file, "  \"hidden_size\": %lld,\n  \"intermediate_size\": %lld,\n", (long long)c->hidden,
            (long long)c->ffn_hidden);
    fprintf(file, "  \"num_hidden_layers\": %d,\n  \"num_attention_heads\": %d,\n", (int)c->n_layers, (int)c->n_heads);
    fprintf(file, "  \"num_key_value_heads\": %d,\n  \"head_dim\": %d,\n", (int)c->n_kv_heads, (int)c->head_dim);
    fprintf(file, "  \"vocab_size\": %lld,\n  \"max_position_embeddings\": %lld,\n", (long long)c->vocab,
            (long long)c->max_positions);
    fprintf(file, "  \"rms_norm_eps\": %.17g,\n  \"rope_theta\": %.17g,\n", c->norm_eps, c->layers.rope_theta);
    if (c->bos_token >= 0) fprintf(file, "  \"bos_token_id\": %d,\n", (int)c->bos_token);
    if (c->eos_token >= 0) fprintf(file, "  \"eos_token_id\": %d,\n", (int)c->eos_token);
    fprintf(file, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\"\n}\n", c->tied ? "true" : "false",
            ((const printed_config *)what)->dtype == SALF_F32 ? "float32" : "bfloat16");
}

/* Only a Llama's or a Qwen2's configuration is written here; others keep the file that they came with. */
static int is_plain(const decoder_config *c) {
    const salf_decoder_info *l = &c->layers;
    const int32_t qkv = SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V;
    return l->activation == SALF_ACTIVATION_SILU && l->gated_ffn && l->block == SALF_BLOCK_PRE_NORM && !l->qk_norm &&
           l->norm_kind == SALF_NORM_RMS && (l->biases == 0 || l->biases == qkv) && !l->fused &&
           l->rope == SALF_ROPE_DEFAULT && l->rotary_dims == c->head_dim && l->attention_softcap == 0.0 &&
           l->attention_scale == 1.0 / sqrt((double)c->head_dim) && l->residual_scale == 1.0 && !l->sliding &&
           c->embedding_scale == 1.0 && c->logit_scale == 1.0 && c->logit_softcap == 0.0 &&
           strcmp(c->prefix, "model.") == 0;
}

/* What both ways of saving check, and the folder. */
static salf_status prepare_folder(const char *folder, int32_t dtype) {
    if (dtype != SALF_F32 && dtype != SALF_BF16)
        return decoder_fail(SALF_E_DTYPE, "models are saved as F32 or BF16, not as type %d", (int)dtype);
    if (strlen(folder) + 300 > MOST_PATH) return decoder_fail(SALF_E_ARGUMENT, "name of folder too long: %s", folder);
    struct stat about;
    int error = mkdir(folder, 0777) != 0 && errno != EEXIST ? errno : 0;
    if (!error && stat(folder, &about) != 0) error = errno; /* a link that leads nowhere */
    if (!error && !S_ISDIR(about.st_mode)) error = ENOTDIR;
    if (error) return decoder_fail(SALF_E_IO, "%s: %s", folder, strerror(error));
    return SALF_OK;
}

salf_status decoder_save(const decoder *d, const char *folder, int32_t dtype) {
    char path[MOST_PATH];
    if (!is_plain(&d->config))
        return decoder_fail(SALF_E_UNSUPPORTED, "no configuration is known for these layers: save like a checkpoint");
    salf_status status = prepare_folder(folder, dtype);
    if (status) return status;
    /* The configuration is made first: where memory lacks for it, no weights are saved beside another one's. */
    const printed_config what = {&d->config, dtype};
    size_t size = 0;
    char *text = file_compose(print_config, &what, &size);
    if (!text) return decoder_fail(SALF_E_NO_MEMORY, "no memory for the configuration of %s", folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    status = save_tensors(d, NULL, path, dtype);
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (!status && (status = salf_file_save(path, text, size)) != SALF_OK) decoder_fail_library(status);
    free(text);
    return status;
}

/* ---- decoders of a checkpoint ---- */

salf_status decoder_check_source(const decoder *d, const char *source, const char *folder) {
    char path[MOST_PATH], message[MOST_PATH + 128];
    struct stat a, b;
    salf_tensors *tensors = NULL;
    salf_status status = prepare_folder(folder, SALF_F32);
    if (status) return status;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    if (stat(folder, &a) == 0 && stat(source, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return decoder_fail(SALF_E_ARGUMENT, "%s is the folder that the model came from", folder);
    if (access(path, F_OK) == 0)
        return decoder_fail(SALF_E_ARGUMENT, "%s belongs to another checkpoint there: remove it first", path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (file_try(path, PLACE_FILE, message, sizeof message) != 0) return decoder_fail(SALF_E_IO, "%s", message);
    status = salf_tensors_open(&tensors, d->context, source);
    if (status) return decoder_fail_library(status);
    save_list l;
    status = make_list(d, tensors, &l);
    free(l.tensors);
    free(l.parameters);
    salf_tensors_destroy(tensors);
    return status ? status : decoder_copy_files(source, folder, NULL);
}

salf_status decoder_save_like(const decoder *d, const char *source, const char *folder, int32_t dtype) {
    char path[MOST_PATH];
    salf_tensors *tensors = NULL;
    salf_status status = prepare_folder(folder, dtype);
    if (!status) status = decoder_check_source(d, source, folder);
    if (status) return status;
    status = salf_tensors_open(&tensors, d->context, source);
    if (status) return decoder_fail_library(status);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    status = save_tensors(d, tensors, path, dtype);
    salf_tensors_destroy(tensors);
    return status ? status : decoder_copy_files(source, folder, dtype == SALF_F32 ? "float32" : "bfloat16");
}
