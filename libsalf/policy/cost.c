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
#include <inttypes.h>
#include <math.h>

#include "core/core.h"

/* Also puts defaults in place of 0. */
static salf_status check_cost_options(salf_cost_options *o) {
    if (o->n_kv_heads == 0) o->n_kv_heads = o->n_heads;
    SLF_TRY(SLF_CHECK_RANGES(
        SLF_RANGE(o, n_layers, 1, INT32_MAX), SLF_RANGE(o, hidden, 1, INFINITY), SLF_RANGE(o, ffn_hidden, 1, INFINITY),
        SLF_RANGE(o, vocab, 1, INFINITY), SLF_RANGE(o, n_heads, 1, INT32_MAX), SLF_RANGE(o, n_kv_heads, 1, INT32_MAX),
        SLF_RANGE(o, head_dim, 0, INT32_MAX), SLF_RANGE(o, rows, 1, INFINITY), SLF_RANGE(o, row_tokens, 1, INFINITY),
        SLF_RANGE(o, gated_ffn, 0, 1), SLF_RANGE(o, probe, 0, 1), SLF_RANGE(o, train_embedding, 0, 1),
        SLF_RANGE(o, train_head, 0, 1), SLF_RANGE(o, reserved, 0, 0), SLF_RANGE(o, lora_rank, 0, INT32_MAX),
        SLF_RANGE(o, matrices, 0, SALF_MATRIX_ALL), SLF_RANGE(o, head_positions, 0, INFINITY),
        SLF_RANGE(o, cut, 0, o->n_layers)));
    SLF_TRY(slf_check_word("metric", "SALF_METRIC", o->metric));
    if (o->matrices == SALF_MATRIX_GATE && !o->gated_ffn)
        return slf_fail(SALF_E_ARGUMENT, "matrices is gate alone, but gated_ffn is 0: nothing would train");
    if (o->n_heads % o->n_kv_heads != 0)
        return slf_fail(SALF_E_ARGUMENT, "n_kv_heads is %" PRId32 "; it must divide n_heads", o->n_kv_heads);
    if (o->head_dim == 0) {
        const int64_t head_dim = o->hidden / o->n_heads;
        if (o->hidden % o->n_heads != 0 || head_dim > INT32_MAX)
            return slf_fail(SALF_E_ARGUMENT, "hidden is %" PRId64 "; n_heads must divide it, or give head_dim",
                            o->hidden);
        o->head_dim = (int32_t)head_dim;
    }
    if ((double)o->head_positions > (double)o->rows * (double)o->row_tokens)
        return slf_fail(SALF_E_ARGUMENT, "head_positions is %" PRId64 "; 0 ... rows * row_tokens", o->head_positions);
    /* Each row has its own cut, or all have o->cut, and then no layer below it can train. */
    if (o->eof) {
        for (int64_t r = 0; r < o->rows; r++)
            if (o->eof[r] < 0 || o->eof[r] > o->n_layers)
                return slf_fail(SALF_E_ARGUMENT, "eof of row %" PRId64 " is %" PRId32 ", not in 0 ... %" PRId32, r,
                                o->eof[r], o->n_layers);
    } else if (o->trainable) {
        for (int32_t k = 0; k < o->cut; k++)
            if (o->trainable[k])
                return slf_fail(SALF_E_ARGUMENT, "layer %" PRId32 " trains, but cut is %" PRId32, k, o->cut);
    }
    /* No gradient comes to the embedding past a cut: what trains it is a whole backward, as decisions have it too. */
    if (o->train_embedding && !o->eof && o->cut > 0)
        return slf_fail(SALF_E_ARGUMENT, "the embedding trains, but cut is %" PRId32, o->cut);
    return SALF_OK;
}

/* Layers that a row with this cut trains: of those the mask allows, cut ... m-1. */
static double count_trained(const salf_cost_options *o, int32_t cut) {
    if (!o->trainable) return (double)(o->n_layers - cut);
    double count = 0;
    for (int32_t k = cut; k < o->n_layers; k++) count += o->trainable[k] ? 1 : 0;
    return count;
}

salf_status salf_cost_estimate(const salf_cost_options *options, salf_cost *cost) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(options, cost);
    SLF_OPTIONS(salf_cost_options, o, options);
    SLF_TRY(check_cost_options(&o));
    const double hidden = (double)o.hidden, vocab = (double)o.vocab, rows = (double)o.rows, cells = rows * o.n_layers;
    /* 1. sums over rows: of cuts, of layers with a backward, and of layers with weight gradients */
    double cuts = 0, trained = 0;
    if (o.eof) {
        for (int64_t r = 0; r < o.rows; r++) {
            cuts += o.eof[r];
            trained += count_trained(&o, o.eof[r]);
        }
    } else {
        cuts = rows * o.cut;
        trained = rows * count_trained(&o, o.cut);
    }
    /* Pairs of a row and a layer at or above its cut: each has a backward for its inputs. */
    const double reached = cells - cuts;
    /* 2. logits, and their gradient to the state where anything below trains */
    const double positions = (double)(o.head_positions == 0 ? o.rows : o.head_positions);
    const double logits = 2 * hidden * vocab * positions, head_weight = o.train_head ? logits : 0;
    /* 3. the probe, for each row and space */
    const double scores = 2 * hidden * hidden + 2 * hidden * vocab + 2 * hidden;
    const double space = o.metric == SALF_METRIC_COSINE ? 4 * hidden : scores;
    /* 4. one layer for one row. All layers cost alike, so that sums over rows and layers reduce to three counts: cells,
     * those that the backward reaches, and those that train. */
    const double inner = (double)o.ffn_hidden, tokens = (double)o.row_tokens;
    const double query = (double)o.n_heads * o.head_dim, key = (double)o.n_kv_heads * o.head_dim;
    const struct {
        int32_t matrix;
        double in, out;
    } matrices[] = {{SALF_MATRIX_Q, hidden, query},   {SALF_MATRIX_K, hidden, key},
                    {SALF_MATRIX_V, hidden, key},     {SALF_MATRIX_O, query, hidden},
                    {SALF_MATRIX_UP, hidden, inner},  {SALF_MATRIX_DOWN, inner, hidden},
                    {SALF_MATRIX_GATE, hidden, inner}};
    double all = 0, trained_elements = 0, adapters = 0;  /* P, P_t and A */
    for (size_t i = 0; i < (o.gated_ffn ? 7 : 6); i++) { /* the gate stands last */
        all += matrices[i].in * matrices[i].out;
        if (!(matrices[i].matrix & (o.matrices == 0 ? SALF_MATRIX_ALL : o.matrices))) continue;
        trained_elements += matrices[i].in * matrices[i].out;
        adapters += o.lora_rank * (matrices[i].in + matrices[i].out);
    }
    const double products = 2 * tokens * (all + adapters), pairs = tokens * (tokens + 1) / 2;
    const double forward = products + 4 * query * pairs, activation = products + 8 * query * pairs;
    const double weight = 2 * tokens * (o.lora_rank > 0 ? adapters : trained_elements);
    salf_cost own = {.forward = cells * forward,
                     .activation_gradient = reached * activation,
                     .weight_gradient = trained * weight,
                     .head = logits + (reached > 0 ? logits : 0) + head_weight,
                     .probe = o.probe ? rows * (o.n_layers + 1.0) * space : 0};
    own.total = own.forward + own.activation_gradient + own.weight_gradient + own.head + own.probe;
    own.full_total = cells * (forward + activation + weight) + 2 * logits + head_weight;
    own.step_saving = 1 - own.total / own.full_total;
    own.depth_saving = cuts / cells;
    return slf_info_write(cost, &own, sizeof own, "salf_cost");
}
