/* Llama decoder: RMSNorm, rotary positions (half-split), grouped-query attention, SwiGLU; all positions, one layer at a
 * time. */
#include "llama_forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

typedef struct {
    const salf_tensors *tensors;
    salf_model_info shape;
    int n;
    double *x, *normed, *q, *k, *v, *mixed, *gate, *up;
} decoder;

static const float *weights(const decoder *m, const char *name) {
    salf_named_tensor tensor;
    CHECK_OK(salf_tensors_find(m->tensors, name, &tensor));
    ck_assert_int_eq(tensor.view.dtype, SALF_F32);
    return tensor.view.data;
}

static const float *layer_weights(const decoder *m, int layer, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return weights(m, full);
}

/* y [n][out] = x [n][in] W^T. */
static void linear(const double *x, const float *w, int64_t n, int64_t in, int64_t out, double *y) {
    for (int64_t r = 0; r < n; r++)
        for (int64_t o = 0; o < out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < in; i++) sum += x[r * in + i] * (double)w[o * in + i];
            y[r * out + o] = sum;
        }
}

static void rms_norm(const decoder *m, const float *weight) {
    const int64_t d = m->shape.hidden;
    for (int64_t r = 0; r < m->n; r++) {
        double square = 0;
        for (int64_t i = 0; i < d; i++) square += m->x[r * d + i] * m->x[r * d + i];
        const double scale = 1 / sqrt(square / (double)d + m->shape.norm_eps);
        for (int64_t i = 0; i < d; i++) m->normed[r * d + i] = m->x[r * d + i] * scale * (double)weight[i];
    }
}

static void rotate(const decoder *m, double *heads, int n_heads) {
    const int half = m->shape.head_dim / 2;
    for (int r = 0; r < m->n; r++)
        for (int h = 0; h < n_heads; h++)
            for (int i = 0; i < half; i++) {
                double *x = heads + ((int64_t)r * n_heads + h) * m->shape.head_dim + i;
                const double angle = r * pow(m->shape.rope_theta, -2.0 * i / m->shape.head_dim);
                const double a = x[0], b = x[half];
                x[0] = a * cos(angle) - b * sin(angle);
                x[half] = b * cos(angle) + a * sin(angle);
            }
}

static void attend(const decoder *m) {
    const int dim = m->shape.head_dim, heads = m->shape.n_heads, kv = m->shape.n_kv_heads;
    double score[512];
    for (int r = 0; r < m->n; r++)
        for (int h = 0; h < heads; h++) {
            const int g = h / (heads / kv);
            const double *q = m->q + ((int64_t)r * heads + h) * dim;
            double *out = m->mixed + ((int64_t)r * heads + h) * dim, total = 0;
            for (int s = 0; s <= r; s++) {
                double sum = 0;
                for (int i = 0; i < dim; i++) sum += q[i] * m->k[((int64_t)s * kv + g) * dim + i];
                score[s] = exp(sum / sqrt(dim));
                total += score[s];
            }
            memset(out, 0, (size_t)dim * sizeof *out);
            for (int s = 0; s <= r; s++)
                for (int i = 0; i < dim; i++) out[i] += score[s] / total * m->v[((int64_t)s * kv + g) * dim + i];
        }
}

static void add_to_stream(const decoder *m, const double *y) {
    for (int64_t i = 0; i < m->n * m->shape.hidden; i++) m->x[i] += y[i];
}

static void run_layer(const decoder *m, int layer) {
    const int64_t d = m->shape.hidden, ffn = m->shape.ffn_hidden;
    const int64_t qd = (int64_t)m->shape.n_heads * m->shape.head_dim,
                  kd = (int64_t)m->shape.n_kv_heads * m->shape.head_dim;
    rms_norm(m, layer_weights(m, layer, "input_layernorm"));
    linear(m->normed, layer_weights(m, layer, "self_attn.q_proj"), m->n, d, qd, m->q);
    linear(m->normed, layer_weights(m, layer, "self_attn.k_proj"), m->n, d, kd, m->k);
    linear(m->normed, layer_weights(m, layer, "self_attn.v_proj"), m->n, d, kd, m->v);
    rotate(m, m->q, m->shape.n_heads);
    rotate(m, m->k, m->shape.n_kv_heads);
    attend(m);
    linear(m->mixed, layer_weights(m, layer, "self_attn.o_proj"), m->n, qd, d, m->normed);
    add_to_stream(m, m->normed);
    rms_norm(m, layer_weights(m, layer, "post_attention_layernorm"));
    linear(m->normed, layer_weights(m, layer, "mlp.gate_proj"), m->n, d, ffn, m->gate);
    linear(m->normed, layer_weights(m, layer, "mlp.up_proj"), m->n, d, ffn, m->up);
    for (int64_t i = 0; i < m->n * ffn; i++) m->gate[i] *= m->up[i] / (1 + exp(-m->gate[i]));
    linear(m->gate, layer_weights(m, layer, "mlp.down_proj"), m->n, ffn, d, m->normed);
    add_to_stream(m, m->normed);
}

static double *room(int64_t n) {
    double *memory = calloc((size_t)n, sizeof *memory);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static void embed(const decoder *m, const int32_t *tokens) {
    salf_named_tensor tensor;
    const int64_t d = m->shape.hidden;
    const char *name = "model.embed_tokens.weight";
    if (salf_tensors_find(m->tensors, name, &tensor) != SALF_OK) name = "lm_head.weight"; /* tied, stored as the head */
    const float *table = weights(m, name);
    for (int r = 0; r < m->n; r++)
        for (int64_t i = 0; i < d; i++) m->x[r * d + i] = (double)table[tokens[r] * d + i];
}

void llama_last_states(const salf_model *model, const int32_t *tokens, int n, float *states) {
    decoder m = {.tensors = salf_model_get_tensors(model), .n = n};
    m.shape.struct_size = sizeof m.shape;
    CHECK_OK(salf_model_get_info(model, &m.shape));
    ck_assert_int_le(n, 512);
    const int64_t d = m.shape.hidden, ffn = m.shape.ffn_hidden, width = (int64_t)m.shape.n_heads * m.shape.head_dim;
    double **parts[] = {&m.x, &m.normed, &m.q, &m.k, &m.v, &m.mixed, &m.gate, &m.up};
    for (int i = 0; i < 8; i++) *parts[i] = room(n * (i < 2 ? d : i < 6 ? width : ffn));
    embed(&m, tokens);
    for (int layer = 0; layer <= m.shape.n_layers; layer++) {
        if (layer > 0) run_layer(&m, layer - 1);
        for (int64_t i = 0; i < d; i++) states[layer * d + i] = (float)m.x[(n - 1) * d + i];
    }
    for (int i = 0; i < 8; i++) free(*parts[i]);
}
