/*
 * decoder_head.c - logits, cross-entropy over the vocabulary, and what is measured on gradients.
 *
 * With z = W_o h, scaled and capped where the model does so: loss = log sum_i exp(z_i) - z_label, d_z = softmax(z) -
 * onehot(label), d_h = W_o^T d_z, d_W_o += d_z h^T. Cost 2 V D a row for each of the three products; logits are held
 * for a tile of rows only.
 */
#include <math.h>
#include <string.h>

#include "decoder_internal.h"
#include "ops.h"

static void cap_logits(const decoder *d, float *z, int64_t n) {
    ops_softcap(z, n, (float)d->config.logit_scale, (float)d->config.logit_softcap);
}

/* A few tokens are dot products, V of them a matrix product. */
salf_status decoder_logits(decoder *d, const int32_t *tokens, int64_t n_tokens, float *logits) {
    const int64_t hidden = d->config.hidden, rows = d->batch.n_head_rows;
    if (!d->ready) return decoder_fail(SALF_E_SEQUENCE, "no forward pass to take logits from");
    if (!tokens) {
        ops_gemm_nt(rows, d->config.vocab, hidden, 1.0f, d->normed, hidden, d->head, hidden, 0.0f, logits,
                    d->config.vocab);
        cap_logits(d, logits, rows * d->config.vocab);
        return SALF_OK;
    }
    for (int64_t j = 0; j < n_tokens; j++) {
        if (tokens[j] < 0 || tokens[j] >= d->config.vocab) {
            return decoder_fail(SALF_E_ARGUMENT, "token %d is outside the vocabulary of %lld", (int)tokens[j],
                                (long long)d->config.vocab);
        }
        for (int64_t i = 0; i < rows; i++) {
            logits[i * n_tokens + j] = ops_dot(d->normed + i * hidden, d->head + tokens[j] * hidden, hidden);
        }
    }
    cap_logits(d, logits, rows * n_tokens);
    return SALF_OK;
}

/* The largest logit is taken out first, so that no exponential overflows. Loss of a row of products z [V] with the
 * head, which becomes scale times its gradient. */
static float row_loss(const decoder *d, float *z, int32_t label, float scale) {
    const int64_t vocab = d->config.vocab;
    cap_logits(d, z, vocab);
    if (d->capped) memcpy(d->capped, z, (size_t)vocab * sizeof *z);
    const float most = ops_max(z, vocab), at_label = z[label];
    const float sum = ops_exp_sum(z, most, vocab);
    ops_scale(z, scale / sum, vocab);
    z[label] -= scale;
    ops_softcap_backward(z, d->capped, vocab, (float)d->config.logit_scale, (float)d->config.logit_softcap);
    return (float)(log((double)sum) + (double)most - (double)at_label);
}

/* Rows first ... first + rows - 1 of the head rows: logits into the tile, which becomes their gradient, and from it
 * those of the states and the head. */
static void tile_loss(decoder *d, int64_t first, int64_t rows, const int32_t *labels, float scale, float *losses,
                      float *d_normed, float *d_head) {
    const int64_t hidden = d->config.hidden, vocab = d->config.vocab;
    const float *x = d->normed + first * hidden;
    ops_gemm_nt(rows, vocab, hidden, 1.0f, x, hidden, d->head, hidden, 0.0f, d->tile, vocab);
    for (int64_t i = 0; i < rows; i++) losses[first + i] = row_loss(d, d->tile + i * vocab, labels[first + i], scale);
    if (d_normed) {
        ops_gemm_nn(rows, hidden, vocab, 1.0f, d->tile, vocab, d->head, hidden, 0.0f, d_normed + first * hidden,
                    hidden);
    }
    if (d_head) ops_gemm_tn(vocab, hidden, rows, 1.0f, d->tile, vocab, x, hidden, 1.0f, d_head, hidden);
}

salf_status decoder_cross_entropy(decoder *d, const int32_t *labels, double scale, int32_t head_gradient, float *losses,
                                  float *d_normed) {
    if (!d->ready) return decoder_fail(SALF_E_SEQUENCE, "no forward pass to take a loss of");
    for (int64_t i = 0; i < d->batch.n_head_rows; i++) {
        if (labels[i] < 0 || labels[i] >= d->config.vocab) {
            return decoder_fail(SALF_E_LABEL, "label %d of head row %lld is outside the vocabulary of %lld",
                                (int)labels[i], (long long)i, (long long)d->config.vocab);
        }
    }
    float *d_head = head_gradient ? d->d_head : NULL;
    if (d_head) decoder_touch(d, d->config.tied ? DECODER_EMBEDDING : d->config.n_layers);
    for (int64_t i = 0; i < d->batch.n_head_rows; i += d->tile_rows) {
        const int64_t left = d->batch.n_head_rows - i, rows = left < d->tile_rows ? left : d->tile_rows;
        tile_loss(d, i, rows, labels, (float)scale, losses, d_normed, d_head);
    }
    return SALF_OK;
}

/* ---- groups and norms ---- */

int32_t decoder_is_live(const decoder *d, int32_t group) {
    return d->live[group + 1] == 1;
}

void decoder_clear_gradients(decoder *d) {
    for (int32_t i = 0; i < d->config.n_layers + 2; i++) d->live[i] = d->live[i] ? 2 : 0;
}

/* Gradients are zeroed when a group first gets some: what stays frozen costs nothing. */
void decoder_touch(decoder *d, int32_t group) {
    if (decoder_is_live(d, group)) return;
    d->live[group + 1] = 1;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        const decoder_parameter *p = &d->parameters[i];
        if (p->group == group && p->gradient) memset(p->gradient, 0, (size_t)p->count * sizeof *p->gradient);
    }
}

static int32_t has_gradient(const decoder *d, const decoder_parameter *p) {
    return p->gradient && decoder_is_live(d, p->group);
}

void decoder_layer_norms(const decoder *d, double *gradient_l1, double *gradient_l2, double *parameter_l2) {
    const int32_t m = d->config.n_layers;
    for (int32_t k = 0; k < m; k++) gradient_l1[k] = gradient_l2[k] = parameter_l2[k] = 0.0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        const decoder_parameter *p = &d->parameters[i];
        if (p->group < 0 || p->group >= m || !p->trains) continue;
        parameter_l2[p->group] += ops_sum_squares(p->values, p->count);
        if (!has_gradient(d, p)) continue;
        gradient_l1[p->group] += ops_sum_abs(p->gradient, p->count);
        gradient_l2[p->group] += ops_sum_squares(p->gradient, p->count);
    }
    for (int32_t k = 0; k < m; k++) {
        gradient_l2[k] = sqrt(gradient_l2[k]);
        parameter_l2[k] = sqrt(parameter_l2[k]);
    }
}

double decoder_clip_gradients(decoder *d, double max_norm) {
    double sum = 0.0;
    for (int64_t i = 0; i < d->n_parameters; i++) {
        if (has_gradient(d, &d->parameters[i])) {
            sum += ops_sum_squares(d->parameters[i].gradient, d->parameters[i].count);
        }
    }
    const double norm = sqrt(sum);
    if (!(max_norm > 0.0) || !(norm > max_norm)) return norm;
    const float factor = (float)(max_norm / norm);
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        if (has_gradient(d, p)) ops_scale(p->gradient, factor, p->count);
    }
    return norm;
}
