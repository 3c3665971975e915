/* weights.c - a Hugging Face checkpoint, as the library opens it, becomes the model: shapes, names, float32. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trainer.h"

/* Element i of a tensor: float32, bfloat16 (the upper half of a float32) or IEEE half precision. */
static float element(const salf_tensor *view, int64_t i) {
    if (view->dtype == SALF_F32) return ((const float *)view->data)[i];
    const uint16_t half = ((const uint16_t *)view->data)[i];
    if (view->dtype == SALF_BF16) {
        const uint32_t bits = (uint32_t)half << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double size = exponent == 31  ? (fraction ? NAN : INFINITY)
                        : exponent == 0 ? ldexp(fraction, -24)
                                        : ldexp(fraction + 1024, exponent - 25);
    return (float)(half & 0x8000 ? -size : size);
}

/* Tensor [rows][cols] of a name, with or without "model." in front; NULL where it is optional and not there. */
static float *load(llama *l, const salf_tensors *file, int64_t rows, int64_t cols, int optional, const char *name) {
    salf_named_tensor found;
    salf_status status = salf_tensors_find(file, name, &found);
    if (status == SALF_E_NOT_FOUND && strncmp(name, "model.", 6) == 0)
        status = salf_tensors_find(file, name + 6, &found);
    if (status == SALF_E_NOT_FOUND && optional) return NULL;
    check(status, name);
    if (found.view.rows * found.view.cols != rows * cols || (found.n_dims > 1 && found.view.rows != rows))
        fail("%s is [%lld][%lld], not [%lld][%lld]", name, (long long)found.view.rows, (long long)found.view.cols,
             (long long)rows, (long long)cols);
    if (found.view.dtype != SALF_F32 && found.view.dtype != SALF_BF16 && found.view.dtype != SALF_F16)
        fail("%s has elements of type %d, not F32, BF16 or F16", name, (int)found.view.dtype);
    float *values = take(&l->parameters, rows * cols, sizeof *values);
    for (int64_t i = 0; i < rows * cols; i++) values[i] = element(&found.view, i);
    return values;
}

static float *load_of_layer(llama *l, const salf_tensors *file, int64_t rows, int64_t cols, int optional, int32_t k,
                            const char *what, const char *kind) {
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", (int)k, what, kind);
    return load(l, file, rows, cols, optional, name);
}

void llama_open(llama *l, const salf_model *model, int64_t rank, double alpha, uint64_t seed) {
    salf_model_info info;
    salf_options_init(&info, sizeof info);
    check(salf_model_get_info(model, &info), "model");
    if (info.family != SALF_FAMILY_LLAMA && info.family != SALF_FAMILY_MISTRAL && info.family != SALF_FAMILY_QWEN2)
        fail("only models of the Llama, Mistral and Qwen2 families train here, not family %d", (int)info.family);
    *l = (llama){.n_layers = info.n_layers, .hidden = info.hidden, .vocab = info.vocab, .ffn = info.ffn_hidden};
    l->norm_eps = info.norm_eps;
    l->rope_theta = info.rope_theta;
    l->heads = (heads){.n = info.n_heads, .groups = info.n_kv_heads, .size = info.head_dim};

    const salf_tensors *file = salf_model_get_tensors(model);
    l->embedding = load(l, file, l->vocab, l->hidden, info.tied, "model.embed_tokens.weight");
    l->head = info.tied && l->embedding ? l->embedding : load(l, file, l->vocab, l->hidden, 0, "lm_head.weight");
    if (!l->embedding) l->embedding = l->head; /* tied, and stored under the head's name */
    l->final_norm = load(l, file, 1, l->hidden, 0, "model.norm.weight");
    l->layers = take(&l->parameters, l->n_layers, sizeof *l->layers);
    const int64_t queries = l->heads.n * l->heads.size, keys = l->heads.groups * l->heads.size;
    const struct {
        const char *name;
        int64_t out, in;
    } linears[LINEARS] = {
        [Q] = {"self_attn.q_proj", queries, l->hidden}, [K] = {"self_attn.k_proj", keys, l->hidden},
        [V] = {"self_attn.v_proj", keys, l->hidden},    [O] = {"self_attn.o_proj", l->hidden, queries},
        [GATE] = {"mlp.gate_proj", l->ffn, l->hidden},  [UP] = {"mlp.up_proj", l->ffn, l->hidden},
        [DOWN] = {"mlp.down_proj", l->hidden, l->ffn}};
    for (int32_t k = 0; k < l->n_layers; k++) {
        layer *y = &l->layers[k];
        y->norm = load_of_layer(l, file, 1, l->hidden, 0, k, "input_layernorm", "weight");
        y->norm2 = load_of_layer(l, file, 1, l->hidden, 0, k, "post_attention_layernorm", "weight");
        for (int i = 0; i < LINEARS; i++) {
            linear *n = &y->linear[i];
            n->in = linears[i].in;
            n->out = linears[i].out;
            n->w = load_of_layer(l, file, n->out, n->in, 0, k, linears[i].name, "weight");
            n->bias = load_of_layer(l, file, 1, n->out, 1, k, linears[i].name, "bias");
        }
    }
    llama_adapters(l, rank, alpha, seed);
}
