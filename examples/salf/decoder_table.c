/*
 * decoder_table.c - a decoder's parameters: their names, their order in memory, and the pointers that the passes read.
 *
 * All values lie in one block and all gradients in another, in the order of the parameter table. Matrices that are
 * fused (q, k, v; gate, up; the A of their adapters) are neighbours in that order, so that a product over all of them
 * is one call of BLAS; a checkpoint that has them in one tensor has one parameter there, under its name. While the
 * table is built every layer notes the index of each of its parameters. Memory: 4 bytes a parameter, 4 more for each
 * that trains.
 */
#include <stdio.h>
#include <string.h>

#include "decoder_internal.h"
#include "memory.h"

/* A layer has at most 6 norms with 6 biases, 7 matrices with 7 biases and 14 adapter matrices; outside the layers there
 * are the embedding, the final norm with its bias, and a head. */
enum { MOST_OF_A_LAYER = 40, OUTSIDE_LAYERS = 4 };

/* Appends a parameter and returns its index. In layer k its name is prefix, "layers.k." and name; of the head the name
 * alone, of others the prefix and the name. */
static int64_t add_parameter(decoder *d, int32_t group, int32_t role, int64_t rows, int64_t cols, const char *name,
                             const char *suffix) {
    decoder_parameter *p = &d->parameters[d->n_parameters];
    const int in_layer = group >= 0 && group < d->config.n_layers;
    *p = (decoder_parameter){.group = group, .role = role, .rows = rows, .cols = cols, .count = rows * cols};
    if (in_layer) {
        snprintf(p->name, sizeof p->name, "%slayers.%d.%s%s", d->prefix, (int)group, name, suffix);
    } else {
        snprintf(p->name, sizeof p->name, "%s%s%s", strcmp(name, "lm_head") == 0 ? "" : d->prefix, name, suffix);
    }
    p->decays = rows > 1;
    if (in_layer) p->trains = role >= DECODER_LORA_A || d->training.lora_rank == 0;
    if (group == DECODER_EMBEDDING) p->trains = d->training.train_embedding != 0;
    if (group == d->config.n_layers) p->trains = d->training.train_head != 0;
    if (d->inference) p->trains = 0;
    return d->n_parameters++;
}

/* ---- matrices ---- */

enum { MOST_NAMES = 3 };
#define SITES_QKV     (SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V)
#define SITES_GATE_UP (SALF_MATRIX_GATE | SALF_MATRIX_UP)

/* The matrices of a layer and the projections they are fused into, in the order of their outputs there. One of several
 * sites stands for these where the checkpoint has them fused. Names: the usual one, and those of other families. */
static const struct {
    int32_t sites; /* SALF_MATRIX_* mask */
    int32_t projection;
    const char *names[MOST_NAMES];
} matrices[] = {
    {SITES_QKV, PROJECT_QKV, {"self_attn.qkv_proj"}},
    {SALF_MATRIX_Q, PROJECT_QKV, {"self_attn.q_proj"}},
    {SALF_MATRIX_K, PROJECT_QKV, {"self_attn.k_proj"}},
    {SALF_MATRIX_V, PROJECT_QKV, {"self_attn.v_proj"}},
    {SALF_MATRIX_O, PROJECT_O, {"self_attn.o_proj", "self_attn.dense", "self_attn.out_proj"}},
    {SITES_GATE_UP, PROJECT_GATE_UP, {"mlp.gate_up_proj"}},
    {SALF_MATRIX_GATE, PROJECT_GATE_UP, {"mlp.gate_proj"}},
    {SALF_MATRIX_UP, PROJECT_GATE_UP, {"mlp.up_proj", "mlp.c_fc", "mlp.fc1"}},
    {SALF_MATRIX_DOWN, PROJECT_DOWN, {"mlp.down_proj", "mlp.c_proj", "mlp.fc2"}},
};
enum { N_MATRICES = sizeof matrices / sizeof *matrices };

/* Rows of a matrix of these sites. */
static int64_t outputs_of(const decoder *d, int32_t sites) {
    int64_t rows = 0;
    if (sites & SALF_MATRIX_Q) rows += d->query_width;
    if (sites & SALF_MATRIX_K) rows += d->kv_width;
    if (sites & SALF_MATRIX_V) rows += d->kv_width;
    if (sites & SALF_MATRIX_GATE) rows += d->config.ffn_hidden;
    if (sites & SALF_MATRIX_UP) rows += d->config.ffn_hidden;
    return rows ? rows : d->config.hidden;
}

/* The name of matrix i that the file has in layer k; the usual one when it has none of them. */
static const char *name_of(const decoder *d, const salf_tensors *file, int32_t k, int i) {
    for (int n = 0; file && n < MOST_NAMES && matrices[i].names[n]; n++) {
        char name[2 * DECODER_NAME_SIZE];
        snprintf(name, sizeof name, "%slayers.%d.%s.weight", d->prefix, (int)k, matrices[i].names[n]);
        if (decoder_has_tensor(file, name)) return matrices[i].names[n];
    }
    return matrices[i].names[0];
}

/* Matrix i is a tensor of its own in this decoder. */
static int is_stored(const decoder *d, int i) {
    const int32_t sites = matrices[i].sites, fused = d->config.layers.fused;
    const int many = (sites & (sites - 1)) != 0;
    if (sites == SALF_MATRIX_GATE && !d->config.layers.gated_ffn) return 0;
    return many ? (fused & sites) == sites : !(fused & sites);
}

/* Adds the parameters of a projection of layer k: the weights of its matrices, then their biases, then their A, then
 * their B, so that what is fused are neighbours. */
static void add_projection(decoder *d, const salf_tensors *file, int32_t k, int32_t which) {
    projection *p = &d->layers[k].projections[which];
    const int64_t rank = d->training.lora_rank;
    const int32_t role = which == PROJECT_O || which == PROJECT_DOWN ? DECODER_INTO_STREAM : DECODER_MATRIX;
    const char *names[MOST_PARTS];
    int32_t biased[MOST_PARTS];
    p->in = which == PROJECT_O ? d->query_width : which == PROJECT_DOWN ? d->config.ffn_hidden : d->config.hidden;
    for (int i = 0; i < N_MATRICES; i++) {
        if (matrices[i].projection != which || !is_stored(d, i)) continue;
        projection_part *part = &p->parts[p->n_parts];
        biased[p->n_parts] = (d->config.layers.biases & matrices[i].sites) != 0;
        names[p->n_parts++] = name_of(d, file, k, i);
        part->first = p->out;
        part->count = outputs_of(d, matrices[i].sites);
        part->adapted = rank > 0 && (d->training.lora_targets & matrices[i].sites) != 0;
        p->out += part->count;
    }
    for (int i = 0; i < p->n_parts; i++)
        p->parts[i].weight = add_parameter(d, k, role, p->parts[i].count, p->in, names[i], ".weight");
    for (int i = 0; i < p->n_parts; i++) {
        if (biased[i]) p->parts[i].bias_id = add_parameter(d, k, DECODER_BIAS, 1, p->parts[i].count, names[i], ".bias");
    }
    for (int i = 0; i < p->n_parts; i++) {
        if (p->parts[i].adapted)
            p->parts[i].a = add_parameter(d, k, DECODER_LORA_A, rank, p->in, names[i], ".lora_A.weight");
    }
    for (int i = 0; i < p->n_parts; i++) {
        if (p->parts[i].adapted)
            p->parts[i].b = add_parameter(d, k, DECODER_LORA_B, p->parts[i].count, rank, names[i], ".lora_B.weight");
    }
}

/* A matrix that holds several sites has a bias for all or none, and is adapted as a whole or not at all. */
static salf_status check_fused(const decoder *d) {
    for (int i = 0; i < N_MATRICES; i++) {
        const int32_t sites = matrices[i].sites;
        if ((sites & (sites - 1)) == 0) continue;
        const int32_t fused = d->config.layers.fused & sites, biases = d->config.layers.biases & sites;
        const int32_t targets = d->training.lora_targets & sites;
        if (fused && fused != sites)
            return decoder_fail(SALF_E_UNSUPPORTED, "only some of the matrices of %s are fused (mask %d)",
                                matrices[i].names[0], (int)fused);
        if (fused && biases && biases != sites)
            return decoder_fail(SALF_E_UNSUPPORTED, "only a part of %s has a bias (mask %d)", matrices[i].names[0],
                                (int)biases);
        if (fused && d->training.lora_rank > 0 && targets && targets != sites)
            return decoder_fail(SALF_E_UNSUPPORTED,
                                "LoRA on a part of %s (mask %d): this checkpoint has it as one matrix, name all of its "
                                "parts or none",
                                matrices[i].names[0], (int)targets);
    }
    return SALF_OK;
}

/* ---- norms ---- */

/* By SALF_BLOCK_*; NULL: no such norm. */
static const char *const norm_names[][NORM_Q] = {
    {"input_layernorm", NULL, "post_attention_layernorm", NULL},
    {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"},
    {NULL, "post_attention_layernorm", NULL, "post_feedforward_layernorm"},
};

/* A norm's weight, and its bias behind where layer norms have one. */
static int64_t add_norm(decoder *d, int32_t group, int64_t width, const char *name) {
    const int64_t id = add_parameter(d, group, DECODER_NORM, 1, width, name, ".weight");
    if (d->config.norm_bias) add_parameter(d, group, DECODER_BIAS, 1, width, name, ".bias");
    return id;
}

/* What a norm computes, from its parameters; id 0: it is not there. */
static ops_norm norm_of(const decoder *d, int64_t id) {
    const decoder_parameter *p = &d->parameters[id];
    if (id == 0) return (ops_norm){.weight = NULL};
    ops_norm norm = {.weight = p->values, .d_weight = p->gradient, .width = p->cols, .eps = d->config.norm_eps};
    norm.plus = d->config.layers.norm_kind == SALF_NORM_RMS1P ? 1.0f : 0.0f;
    norm.centred = d->config.layers.norm_kind == SALF_NORM_LAYER;
    if (d->config.norm_bias) {
        norm.bias = p[1].values;
        norm.d_bias = p[1].gradient;
    }
    return norm;
}

/* ---- table and pointers ---- */

/* The table, in the order in which fused parameters are neighbours. */
static salf_status build_table(decoder *d, const salf_tensors *file) {
    const decoder_config *c = &d->config;
    const int64_t per_head = c->layers.qk_norm == SALF_QK_NORM_HEAD;
    d->parameters = memory_take((int64_t)c->n_layers * MOST_OF_A_LAYER + OUTSIDE_LAYERS, sizeof *d->parameters);
    d->layers = memory_take(c->n_layers, sizeof *d->layers);
    if (!d->parameters || !d->layers)
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for %d layers", (int)c->n_layers);
    add_parameter(d, DECODER_EMBEDDING, DECODER_MATRIX, c->vocab, c->hidden, "embed_tokens", ".weight");
    for (int32_t k = 0; k < c->n_layers; k++) {
        decoder_layer *layer = &d->layers[k];
        for (int i = 0; i < NORM_Q; i++) {
            const char *name = norm_names[c->layers.block][i];
            if (name) layer->norm_ids[i] = add_norm(d, k, c->hidden, name);
        }
        if (c->layers.qk_norm != SALF_QK_NORM_NONE) {
            layer->norm_ids[NORM_Q] = add_norm(d, k, per_head ? c->head_dim : d->query_width, "self_attn.q_norm");
            layer->norm_ids[NORM_K] = add_norm(d, k, per_head ? c->head_dim : d->kv_width, "self_attn.k_norm");
        }
        for (int which = 0; which < N_PROJECTIONS; which++) add_projection(d, file, k, which);
    }
    d->final_norm_id = add_norm(d, c->n_layers, c->hidden, "norm");
    if (!c->tied) add_parameter(d, c->n_layers, DECODER_MATRIX, c->vocab, c->hidden, "lm_head", ".weight");
    return SALF_OK;
}

#define MOST_VALUES (1LL << 56) /* so that no sum of sizes in bytes overflows */

/* One block of values and one of gradients, handed out in the order of the table. */
static salf_status allocate_values(decoder *d) {
    int64_t values = 0, gradients = 0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (d->parameters[i].count > MOST_VALUES - values)
            return decoder_fail(SALF_E_NO_MEMORY, "no memory for a model of more than %lld parameters", MOST_VALUES);
        values += d->parameters[i].count;
        if (d->parameters[i].trains) gradients += d->parameters[i].count;
    }
    d->values = memory_take(values, sizeof *d->values);
    d->gradients = memory_take(gradients, sizeof *d->gradients);
    d->records = memory_take(d->config.n_layers, sizeof *d->records);
    d->live = memory_take((int64_t)d->config.n_layers + 2, 1);
    if (!d->values || !d->gradients || !d->records || !d->live)
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for %lld parameters", (long long)values);
    float *value = d->values, *gradient = d->gradients;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        p->values = value;
        value += p->count;
        if (p->trains) {
            p->gradient = gradient;
            gradient += p->count;
        }
    }
    return SALF_OK;
}

/* The pointers of a projection, from the indices of its parts. The first of the fused parameters stands for all. */
static void link_projection(decoder *d, projection *p) {
    const decoder_parameter *table = d->parameters;
    p->weight = table[p->parts[0].weight].values;
    p->d_weight = table[p->parts[0].weight].gradient;
    p->y_stride = p->out;
    for (int i = 0; i < p->n_parts; i++) {
        projection_part *part = &p->parts[i];
        if (part->bias_id) {
            part->bias = table[part->bias_id].values;
            part->d_bias = table[part->bias_id].gradient;
        }
        if (!part->adapted) continue;
        if (p->n_adapters == 0) {
            p->a = table[part->a].values;
            p->d_a = table[part->a].gradient;
        }
        p->adapters[p->n_adapters++] =
            (adapter){part->first, part->count, table[part->b].values, table[part->b].gradient};
    }
    if (p->n_adapters == 0) return;
    p->rank = d->training.lora_rank;
    p->scale = (float)(d->training.lora_alpha / d->training.lora_rank);
    p->low_stride = (int64_t)p->n_adapters * p->rank;
}

/* The pointers and numbers that the passes read. */
static void link_layers(decoder *d) {
    const decoder_parameter *table = d->parameters;
    const salf_decoder_info *info = &d->config.layers;
    for (int32_t k = 0; k < d->config.n_layers; k++) {
        decoder_layer *layer = &d->layers[k];
        const int slides = d->sliding && d->sliding[k];
        for (int i = 0; i < N_NORMS; i++) layer->norms[i] = norm_of(d, layer->norm_ids[i]);
        for (int which = 0; which < N_PROJECTIONS; which++) link_projection(d, &layer->projections[which]);
        layer->heads = (ops_heads){.n_heads = d->config.n_heads,
                                   .n_kv_heads = d->config.n_kv_heads,
                                   .head_dim = d->config.head_dim,
                                   .scale = info->attention_scale,
                                   .softcap = info->attention_softcap,
                                   .window = slides ? info->sliding_window : 0};
        layer->local = slides && info->local_rope_theta > 0.0;
    }
    const decoder_parameter *head = &table[d->config.tied ? 0 : d->n_parameters - 1];
    d->embedding = table[0].values;
    d->d_embedding = table[0].gradient;
    d->final_norm = norm_of(d, d->final_norm_id);
    d->head = head->values;
    d->d_head = head->gradient;
}

salf_status decoder_build(decoder *d, const salf_tensors *file) {
    salf_status status = check_fused(d);
    if (!status) status = build_table(d, file);
    if (!status) status = allocate_values(d);
    if (!status) link_layers(d);
    return status;
}
