/*
 * score.c - cosines, scores over the vocabulary, and the losses of the reference backend.
 *
 * cosine and normalise: rows D multiply-adds. score: rows * block * D. score_loss: rows D^2 with P, else rows D.
 */
#include <math.h>

#include "core/core.h"
#include "reference.h"

static double dot(const double *a, const double *b, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += a[i] * b[i];
    return sum;
}

static double dot_f32(const double *a, const float *b, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += a[i] * (double)b[i];
    return sum;
}

void slf_reference_norm_row(const slf_norm *norm, int64_t dim, double *h) {
    if (!norm || norm->kind == SALF_NORM_NONE) return;
    double mean = 0, square = 0;
    if (norm->kind == SALF_NORM_LAYER) {
        for (int64_t i = 0; i < dim; i++) mean += h[i];
        mean /= (double)dim;
    }
    for (int64_t i = 0; i < dim; i++) square += (h[i] - mean) * (h[i] - mean);
    const double inverse = 1 / sqrt(square / (double)dim + (double)norm->eps);
    for (int64_t i = 0; i < dim; i++) {
        h[i] = (h[i] - mean) * inverse;
        if (norm->weight) h[i] *= (double)norm->weight[i];
        if (norm->bias) h[i] += (double)norm->bias[i];
    }
}

static double cosine_of(const double *h, const float *b, double norm_b, int64_t dim) {
    const double length = slf_reference_length(h, dim);
    return length > 0 && isfinite(length) ? dot_f32(h, b, dim) / (length * norm_b) : (double)NAN;
}

salf_status slf_reference_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                                 const double *norms, const int32_t *which, int32_t similarity, double *out,
                                 int64_t out_stride) {
    const int64_t dim = states->cols;
    double *h = slf_host_doubles(state, dim);
    if (!h) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < states->rows; r++) {
        slf_row_to_f64(states, r, h);
        const double length = slf_reference_length(h, dim);
        slf_reference_norm_row(norm, dim, h);
        const double cosine = length > 0 ? cosine_of(h, basis + which[r] * dim, norms[which[r]], dim) : (double)NAN;
        out[r * out_stride] = similarity ? cosine : 1 - cosine;
    }
    slf_host_free(state, h);
    return SALF_OK;
}

salf_status slf_reference_normalise(void *state, const salf_tensor *states, const slf_norm *norm, int32_t unit,
                                    double *out) {
    (void)state;
    const int64_t dim = states->cols;
    for (int64_t r = 0; r < states->rows; r++) {
        double *h = out + r * dim;
        slf_row_to_f64(states, r, h);
        slf_reference_norm_row(norm, dim, h);
        const double length = slf_reference_length(h, dim);
        if (unit)
            for (int64_t i = 0; i < dim; i++) h[i] = length > 0 ? h[i] / length : (double)NAN;
    }
    return SALF_OK;
}

salf_status slf_reference_judge(void *state, const double *z, int64_t rows, int64_t dim, double most, int32_t *wide) {
    (void)state;
    for (int64_t r = 0; r < rows; r++) wide[r] = slf_reference_length(z + r * dim, dim) > most;
    return SALF_OK;
}

static double score_of(const slf_score_rule *rule, double product, double inverse_norm, double bias) {
    if (!rule->logits) return inverse_norm > 0 ? product * inverse_norm : 0;
    const double logit = rule->logit_scale * product + bias;
    return rule->softcap > 0 ? rule->softcap * tanh(logit / rule->softcap) : logit;
}

salf_status slf_reference_logit_targets(void *state, const double *z, int64_t rows, const salf_tensor *w,
                                        const int32_t *which, const float *bias, const slf_score_rule *rule,
                                        double *target) {
    const int64_t dim = w->cols;
    double *x = slf_host_doubles(state, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < rows; r++) {
        slf_row_to_f64(w, which[r], x);
        target[r] = score_of(rule, dot(x, z + r * dim, dim), 0, bias ? (double)bias[which[r]] : 0);
    }
    slf_host_free(state, x);
    return SALF_OK;
}

/* Raises the maximum of row r to s, rescaling what was summed under the old one. */
static void raise_maximum(const slf_score_sums *sums, int64_t r, double s, double inverse_temperature) {
    if (!(s > sums->maximum[r])) return;
    const double factor = exp((sums->maximum[r] - s) * inverse_temperature);
    if (sums->sum) sums->sum[r] *= factor;
    if (sums->weighted) sums->weighted[r] *= factor;
    sums->maximum[r] = s;
}

static void add_score(const slf_score_rule *rule, const slf_score_sums *sums, const double *x, int64_t dim, int64_t r,
                      double s, double inverse_norm) {
    if (rule->logits && sums->maximum) raise_maximum(sums, r, s, rule->inverse_temperature);
    const double shift = rule->logits && sums->maximum ? sums->maximum[r] : rule->shift;
    const double u = exp((s - shift) * rule->inverse_temperature);
    if (sums->sum) sums->sum[r] += u;
    if (sums->weighted) sums->weighted[r] += u * s;
    if (sums->vector && inverse_norm > 0)
        for (int64_t i = 0; i < dim; i++) sums->vector[r * dim + i] += u * inverse_norm * x[i];
}

salf_status slf_reference_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                                const int32_t *ids, const double *inverse_norm, const float *bias,
                                const slf_score_rule *rule, const slf_score_sums *sums) {
    const int64_t dim = query->dim;
    double *x = slf_host_doubles(state, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < block->rows; i++) {
        slf_row_to_f64(block, i, x);
        const int64_t id = ids ? ids[i] : first + i;
        const double inverse = inverse_norm ? inverse_norm[i] : 0;
        for (int64_t r = 0; r < query->rows; r++) {
            const double q = dot(x, query->z + r * dim, dim);
            const double s = score_of(rule, q, inverse, bias ? (double)bias[i] : 0);
            if (sums->count && id != query->label[r] && s > query->target[r]) sums->count[r]++;
            add_score(rule, sums, x, dim, r, s, inverse);
        }
    }
    slf_host_free(state, x);
    return SALF_OK;
}

static float *gradient_row(const salf_tensor *gradient, int64_t r) {
    const int64_t row = gradient->row_index ? gradient->row_index[r] : r;
    return (float *)gradient->data + row * (gradient->row_stride ? gradient->row_stride : gradient->cols);
}

/* d (1 - cos) / d h = -(b / |b| - cos h / |h|) / |h|. */
salf_status slf_reference_cosine_loss(void *state, const salf_tensor *states, const float *basis, const double *norms,
                                      const int32_t *which, double scale, float *loss, const salf_tensor *gradient) {
    const int64_t dim = states->cols;
    double *h = slf_host_doubles(state, dim);
    if (!h) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < states->rows; r++) {
        slf_row_to_f64(states, r, h);
        const float *b = basis + which[r] * dim;
        const double norm_b = norms[which[r]], length = slf_reference_length(h, dim);
        const double cosine = cosine_of(h, b, norm_b, dim);
        loss[r] = (float)(1 - cosine);
        if (!gradient) continue;
        float *g = gradient_row(gradient, r);
        for (int64_t i = 0; i < dim; i++) {
            const double towards = (double)b[i] / norm_b - cosine * (h[i] / length);
            g[i] = isnan(cosine) ? 0 : (float)(-scale / length * towards);
        }
    }
    slf_host_free(state, h);
    return SALF_OK;
}

/* V_r P / sum into y [dim], or V_r / sum without P. */
static void mean_vector(const double *v, const double *p, double sum, int64_t dim, double *y) {
    for (int64_t i = 0; i < dim; i++) y[i] = (p ? dot(p + i * dim, v, dim) : v[i]) / sum;
}

salf_status slf_reference_score_loss(void *state, const salf_tensor *states, const slf_query *query,
                                     const slf_score_rule *rule, const slf_score_sums *sums, const double *p,
                                     const float *basis, const double *norms, const int32_t *which, double scale,
                                     float *loss, const salf_tensor *gradient) {
    const int64_t dim = states->cols;
    const double inverse_t = rule->inverse_temperature;
    double *h = slf_host_doubles(state, 2 * dim);
    if (!h) return SALF_E_NO_MEMORY;
    double *y = h + dim;
    for (int64_t r = 0; r < states->rows; r++) {
        const bool usable = !isnan(query->target[r]); /* not a zero or non-finite state */
        loss[r] = usable ? (float)((rule->shift - query->target[r]) * inverse_t + log(sums->sum[r])) : NAN;
        if (!gradient) continue;
        slf_row_to_f64(states, r, h);
        const double length = slf_reference_length(h, dim);
        const double along = sums->weighted[r] / sums->sum[r] - query->target[r];
        const float *b = basis + which[r] * dim;
        float *g = gradient_row(gradient, r);
        mean_vector(sums->vector + r * dim, p, sums->sum[r], dim, y);
        for (int64_t i = 0; i < dim; i++) {
            const double away = y[i] - (double)b[i] / norms[which[r]] - along * (h[i] / length);
            g[i] = usable ? (float)(scale * inverse_t / length * away) : 0;
        }
    }
    slf_host_free(state, h);
    return SALF_OK;
}
