/*
 * cost.c - floating-point operations of a training step from shapes alone.
 *
 * A product [a][b] x [b][c] counts 2abc. With T tokens a row, D hidden, F inner size of the FFN, H heads and H_kv
 * key-value heads of size d, V tokens in the vocabulary, per layer and row:
 *   forward              2 T P + 2 T A + 4 H d T(T+1)/2
 *   activation gradient  2 T P + 2 T A + 8 H d T(T+1)/2   (with respect to inputs of the matrices, Q, K, V and scores)
 *   weight gradient      2 T P_t, with LoRA 2 T A         (of the matrices that train)
 * P: elements of all matrices, q [D][Hd], k and v [D][H_kv d], o [Hd][D], gate and up [D][F], down [F][D]; P_t of those
 * that train; A = sum over those of r (in + out): both factors of rank r, on every layer, frozen or not. T(T+1)/2 are
 * the pairs of causal attention.
 *   head                 2 D V each for logits, their gradient to the state (where anything below trains), and the
 *                        head's weights (where they train), per position
 *   probe, per row       cosine 4 D (m+1); ce and rank (m+1) (2 D^2 + 2 D V + 2 D): a solve, a product with the head
 *
 * Left out as lower order: norms, rotary embedding, softmax, activations, residual sums, losses, embedding look-ups and
 * their gradient, the optimizer, recomputation. A layer that the backward reaches is counted whole, although nobody
 * needs the gradient to the input of the lowest. Everything is double: no overflow, 53 bits.
 */
#include <math.h>

#include "core/core.h"

typedef struct layer_cost {
    double forward;    /* per row */
    double activation; /* per row */
    double weight;     /* per row */
} layer_cost;

static salf_status bad_field(const char *name, int64_t value, const char *need) {
    return slf_fail(SALF_E_ARGUMENT, "salf_cost_estimate: %s is %lld; %s", name, (long long)value, need);
}

static salf_status check_shape(salf_cost_options *o) {
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"n_layers", o->n_layers}, {"hidden", o->hidden}, {"ffn_hidden", o->ffn_hidden}, {"vocab", o->vocab},
                 {"n_heads", o->n_heads},   {"rows", o->rows},     {"row_tokens", o->row_tokens}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1) return bad_field(sizes[i].name, sizes[i].value, "it must be at least 1");
    if (o->n_kv_heads == 0) o->n_kv_heads = o->n_heads;
    if (o->n_kv_heads < 0 || o->n_heads % o->n_kv_heads != 0)
        return bad_field("n_kv_heads", o->n_kv_heads, "it must divide n_heads");
    if (o->head_dim < 0) return bad_field("head_dim", o->head_dim, "it must not be negative");
    if (o->head_dim == 0) {
        if (o->hidden % o->n_heads != 0)
            return bad_field("hidden", o->hidden, "n_heads must divide it, or give head_dim");
        const int64_t head_dim = o->hidden / o->n_heads;
        if (head_dim > INT32_MAX) return bad_field("hidden", o->hidden, "it is too large for n_heads");
        o->head_dim = (int32_t)head_dim;
    }
    return SALF_OK;
}

static salf_status check_flags(const salf_cost_options *o) {
    const struct {
        const char *name;
        int32_t value;
    } flags[] = {{"gated_ffn", o->gated_ffn},
                 {"probe", o->probe},
                 {"train_embedding", o->train_embedding},
                 {"train_head", o->train_head}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].value != 0 && flags[i].value != 1) return bad_field(flags[i].name, flags[i].value, "0 or 1");
    if (o->reserved != 0) return bad_field("reserved", o->reserved, "it must be 0");
    if (o->lora_rank < 0) return bad_field("lora_rank", o->lora_rank, "it must not be negative");
    if (o->matrices & ~SALF_MATRIX_ALL) return bad_field("matrices", o->matrices, "a mask of SALF_MATRIX_*");
    SLF_TRY(slf_check_word("metric", "SALF_METRIC", o->metric));
    if (o->head_positions < 0 || (double)o->head_positions > (double)o->rows * (double)o->row_tokens)
        return bad_field("head_positions", o->head_positions, "0 ... rows * row_tokens");
    return SALF_OK;
}

static salf_status check_cut(const salf_cost_options *o) {
    const int32_t m = o->n_layers;
    if (o->cut < 0 || o->cut > m) return bad_field("cut", o->cut, "0 ... n_layers");
    for (int64_t r = 0; o->eof && r < o->rows; r++)
        if (o->eof[r] < 0 || o->eof[r] > m)
            return slf_fail(SALF_E_ARGUMENT, "salf_cost_estimate: eof of row %lld is %d, not in 0 ... %d", (long long)r,
                            (int)o->eof[r], (int)m);
    for (int32_t k = 0; o->trainable && !o->eof && k < o->cut; k++)
        if (o->trainable[k])
            return slf_fail(SALF_E_ARGUMENT, "salf_cost_estimate: layer %d trains, but cut is %d", (int)k, (int)o->cut);
    return SALF_OK;
}

static layer_cost price_layer(const salf_cost_options *o) {
    const double hidden = (double)o->hidden, inner = (double)o->ffn_hidden, tokens = (double)o->row_tokens;
    const double query = (double)o->n_heads * o->head_dim, key = (double)o->n_kv_heads * o->head_dim;
    const struct {
        int32_t matrix;
        double in, out;
    } matrices[] = {{SALF_MATRIX_Q, hidden, query},   {SALF_MATRIX_K, hidden, key},
                    {SALF_MATRIX_V, hidden, key},     {SALF_MATRIX_O, query, hidden},
                    {SALF_MATRIX_UP, hidden, inner},  {SALF_MATRIX_DOWN, inner, hidden},
                    {SALF_MATRIX_GATE, hidden, inner}};
    const int32_t mask = o->matrices == 0 ? SALF_MATRIX_ALL : o->matrices;
    const size_t count = o->gated_ffn ? 7 : 6; /* the gate stands last */
    double all = 0, trained = 0, adapters = 0;
    for (size_t i = 0; i < count; i++) {
        all += matrices[i].in * matrices[i].out;
        if (!(matrices[i].matrix & mask)) continue;
        trained += matrices[i].in * matrices[i].out;
        adapters += o->lora_rank * (matrices[i].in + matrices[i].out);
    }
    const double products = 2 * tokens * (all + adapters), pairs = tokens * (tokens + 1) / 2;
    return (layer_cost){.forward = products + 4 * query * pairs,
                        .activation = products + 8 * query * pairs,
                        .weight = 2 * tokens * (o->lora_rank > 0 ? adapters : trained)};
}

/* Layers that a row with this cut trains: of those the mask allows, cut ... m-1. */
static double count_trained(const salf_cost_options *o, int32_t cut) {
    if (!o->trainable) return (double)(o->n_layers - cut);
    double count = 0;
    for (int32_t k = cut; k < o->n_layers; k++) count += o->trainable[k] ? 1 : 0;
    return count;
}

typedef struct depth_sum {
    double eof;     /* sum over rows */
    double reached; /* layers with a backward, over rows */
    double trained; /* layers with weight gradients, over rows */
} depth_sum;

static depth_sum sum_depths(const salf_cost_options *o) {
    const double rows = (double)o->rows;
    if (!o->eof) return (depth_sum){rows * o->cut, rows * (o->n_layers - o->cut), rows * count_trained(o, o->cut)};
    depth_sum sum = {0};
    for (int64_t r = 0; r < o->rows; r++) {
        sum.eof += o->eof[r];
        sum.reached += o->n_layers - o->eof[r];
        if (!o->trainable) sum.trained += o->n_layers - o->eof[r];
    }
    if (!o->trainable) return sum;
    for (int64_t r = 0; r < o->rows; r++) sum.trained += count_trained(o, o->eof[r]);
    return sum;
}

static double price_probe(const salf_cost_options *o) {
    const double hidden = (double)o->hidden, states = (double)o->rows * (o->n_layers + 1.0);
    if (!o->probe) return 0;
    if (o->metric == SALF_METRIC_COSINE) return states * 4 * hidden;
    return states * (2 * hidden * hidden + 2 * hidden * (double)o->vocab + 2 * hidden);
}

salf_status salf_cost_estimate(const salf_cost_options *options, salf_cost *cost) {
    SLF_REQUIRE(options);
    SLF_REQUIRE(cost);
    salf_cost_options o;
    SLF_TRY(slf_options_read(&o, sizeof o, options, "salf_cost_options"));
    SLF_TRY(check_shape(&o));
    SLF_TRY(check_flags(&o));
    SLF_TRY(check_cut(&o));
    const layer_cost layer = price_layer(&o);
    const depth_sum depth = sum_depths(&o);
    const double cells = (double)o.rows * o.n_layers;
    const double positions = (double)(o.head_positions == 0 ? o.rows : o.head_positions);
    const double logits = 2 * (double)o.hidden * (double)o.vocab * positions;
    const double head_weight = o.train_head ? logits : 0;
    salf_cost own = {.forward = cells * layer.forward,
                     .activation_gradient = depth.reached * layer.activation,
                     .weight_gradient = depth.trained * layer.weight,
                     .head = logits + (depth.reached > 0 ? logits : 0) + head_weight,
                     .probe = price_probe(&o)};
    own.total = own.forward + own.activation_gradient + own.weight_gradient + own.head + own.probe;
    own.full_total = cells * (layer.forward + layer.activation + layer.weight) + 2 * logits + head_weight;
    own.step_saving = 1 - own.total / own.full_total;
    own.depth_saving = depth.eof / cells;
    return slf_info_write(cost, &own, sizeof own, "salf_cost");
}
