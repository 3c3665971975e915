/*
 * score.c - states of the reference backend: queries, cosines, scores over the vocabulary, losses.
 *
 * cosine: rows D multiply-adds. score: rows * block * D. score_loss: rows D^2 with P, else rows D.
 */
#include <math.h>

#include "core/core.h"
#include "reference.h"

/* In order: the oracle's sums are the definition's. */
static double dot(const double *a, const double *b, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += a[i] * b[i];
    return sum;
}

/* x = (h - mean) / sqrt(var + eps) * weight + bias; RMS norm is the same with mean 0. Variance about the mean, in two
 * passes, which loses nothing where the mean is large. */
void slf_reference_norm_row(const slf_norm *norm, int64_t dim, double *h) {
    if (!norm || norm->kind == SALF_NORM_NONE) return;
    double mean = 0, square = 0;
    if (norm->kind == SALF_NORM_LAYER) {
        for (int64_t i = 0; i < dim; i++) mean += h[i];
        mean /= (double)dim;
    }
    /* The biased variance, as all these models use it: divided by D, not D - 1. */
    for (int64_t i = 0; i < dim; i++) square += (h[i] - mean) * (h[i] - mean);
    const double inverse = 1 / sqrt(square / (double)dim + (double)norm->eps);
    for (int64_t i = 0; i < dim; i++) {
        h[i] = (h[i] - mean) * inverse;
        if (norm->weight) h[i] *= (double)norm->weight[i];
        if (norm->bias) h[i] += (double)norm->bias[i];
    }
}

/* ---- queries ---- */

/* A zero state has no direction: its z is NaN, and everything that is made of it. */
void slf_reference_query_row(const slf_query_job *job, int64_t r, double *h) {
    const int64_t dim = job->states->cols;
    slf_row_to_f64(job->states, r, h);
    slf_reference_norm_row(job->norm, dim, h);
    if (!job->unit) return;
    const double length = slf_reference_length(h, dim);
    for (int64_t i = 0; i < dim; i++) h[i] = length > 0 ? h[i] / length : (double)NAN;
}

/* z = norm(h), or P norm(h) by way of scratch for one row. */
salf_status slf_reference_query(void *self, const slf_query_job *job) {
    const int64_t dim = job->states->cols;
    double *h = job->p ? slf_host_doubles(self, dim) : NULL;
    if (job->p && !h) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < job->states->rows; r++) {
        double *z = job->z + r * dim;
        slf_reference_query_row(job, r, job->p ? h : z);
        if (job->p) slf_reference_times_p(job->p, h, dim, z);
        if (job->needs_f64) job->needs_f64[r] = slf_reference_length(z, dim) > job->limit;
    }
    slf_host_free(self, h);
    return SALF_OK;
}

/* ---- scores ---- */

/* s = q / |b|, 0 for a zero row; or a logit, capped as the model caps its own. */
static double score_of(const slf_score_rule *rule, double product, double inverse_norm, double bias) {
    if (!rule->logits) return inverse_norm > 0 ? product * inverse_norm : 0;
    const double logit = rule->logit_scale * product + bias;
    return rule->softcap > 0 ? rule->softcap * tanh(logit / rule->softcap) : logit;
}

/* The logits of the right tokens, in float64: the scores of a float32 walk are compared with them. */
salf_status slf_reference_logits(void *self, const slf_logits_job *job) {
    const int64_t dim = job->w->cols;
    double *x = slf_host_doubles(self, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < job->rows; r++) {
        const int32_t row = job->row_of[r];
        slf_row_to_f64(job->w, row, x);
        job->target[r] = score_of(job->rule, dot(x, job->z + r * dim, dim), 0, job->bias ? (double)job->bias[row] : 0);
    }
    slf_host_free(self, x);
    return SALF_OK;
}

/* Vocabulary rows outside, query rows inside: each x is widened once. */
salf_status slf_reference_score(void *self, const slf_score_job *job) {
    const slf_query *query = job->query;
    const int64_t dim = query->dim;
    double *x = slf_host_doubles(self, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < job->block->rows; i++) {
        slf_row_to_f64(job->block, i, x);
        const int64_t id = job->ids ? job->ids[i] : job->first + i;
        const double inverse = job->inverse_norms ? job->inverse_norms[i] : 0;
        for (int64_t r = 0; r < query->rows; r++) {
            /* In float64, as everything here: this is what the other backends are compared with. */
            const double q = dot(x, query->z + r * dim, dim);
            const double s = score_of(job->rule, q, inverse, job->bias ? (double)job->bias[i] : 0);
            /* Strictly above: a tie does not push the label down, and its own row is left out by id. */
            if (job->sums->count && id != query->label[r] && s > query->target[r]) job->sums->count[r]++;
            const slf_score_sums *sums = job->sums; /* those that are wanted */
            const bool running = job->rule->logits && sums->maximum;
            if (running && s > sums->maximum[r]) { /* what was summed under the old maximum shrinks */
                const double factor = exp((sums->maximum[r] - s) * job->rule->inverse_temperature);
                if (sums->sum) sums->sum[r] *= factor;
                if (sums->weighted) sums->weighted[r] *= factor;
                sums->maximum[r] = s;
            }
            /* Cosines need no running maximum: none exceeds 1, so that 1 as the shift keeps every exponential at most
             * 1. */
            const double shift = running ? sums->maximum[r] : job->rule->shift;
            const double u = exp((s - shift) * job->rule->inverse_temperature);
            if (sums->sum) sums->sum[r] += u;
            if (sums->weighted) sums->weighted[r] += u * s;
            if (sums->vector && inverse > 0)
                for (int64_t k = 0; k < dim; k++) sums->vector[r * dim + k] += u * inverse * x[k];
        }
    }
    slf_host_free(self, x);
    return SALF_OK;
}

/* ---- states against their own basis rows ---- */

/* NaN where h has no direction, also when its length overflows. */
static double cosine_of(const double *h, const float *b, double norm_b, int64_t dim) {
    const double length = slf_reference_length(h, dim);
    double product = 0;
    if (!(length > 0 && isfinite(length))) return NAN;
    for (int64_t i = 0; i < dim; i++) product += h[i] * (double)b[i];
    return product / (length * norm_b);
}

/* Where a view wants the gradient of row r. */
static float *gradient_row(const salf_tensor *gradient, int64_t r) {
    const int64_t row = gradient->row_index ? gradient->row_index[r] : r;
    return (float *)gradient->data + row * (gradient->row_stride ? gradient->row_stride : gradient->cols);
}

/* A deviation, a similarity or a loss of each row, in float64. The length of the raw state decides whether it has a
 * direction: a norm with a bias would give a zero state one. */
salf_status slf_reference_cosine(void *self, const slf_cosine_job *job) {
    const int64_t dim = job->states->cols;
    double *h = slf_host_doubles(self, dim);
    if (!h) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < job->states->rows; r++) {
        const int64_t row = job->own.row_of[r];
        const float *b = job->own.rows + row * dim;
        slf_row_to_f64(job->states, r, h);
        /* Before the norm: a state of zeros has no direction, whatever a bias makes of it. */
        const double length = slf_reference_length(h, dim), norm_b = job->own.norms[row];
        if (!job->out) { /* the loss and d (1 - cos) / d h = -(b / |b| - cos h / |h|) / |h| */
            const double cosine = cosine_of(h, b, norm_b, dim);
            job->losses.loss[r] = (float)(1 - cosine);
            float *g = job->losses.gradient ? gradient_row(job->losses.gradient, r) : NULL;
            for (int64_t i = 0; g && i < dim; i++) {
                const double towards = (double)b[i] / norm_b - cosine * (h[i] / length);
                g[i] = isnan(cosine) ? 0 : (float)(-job->losses.scale / length * towards);
            }
            continue;
        }
        slf_reference_norm_row(job->norm, dim, h); /* of zero it may make something else */
        const double cosine = length > 0 ? cosine_of(h, b, norm_b, dim) : (double)NAN;
        job->out[r * job->out_stride] = job->similarity ? cosine : 1 - cosine;
    }
    slf_host_free(self, h);
    return SALF_OK;
}

/* d L / d h = (1 / (t |h|)) (E b_i / |b_i| - b_l / |b_l| - (E s_i - s_l) h / |h|), with the expectation E over the
 * softmax: the first term is the vector over the sum, the last removes the part along h, on which no cosine depends. */
salf_status slf_reference_score_loss(void *self, const slf_score_loss_job *job) {
    const int64_t dim = job->states->cols;
    const double inverse_t = job->rule->inverse_temperature, *target = job->query->target;
    const slf_score_sums *sums = job->sums;
    const slf_loss_out *out = &job->losses;
    double *h = slf_host_doubles(self, 2 * dim);
    if (!h) return SALF_E_NO_MEMORY;
    double *y = h + dim;
    for (int64_t r = 0; r < job->states->rows; r++) {
        const bool usable = !isnan(target[r]); /* not a zero or non-finite state */
        out->loss[r] = usable ? (float)((job->rule->shift - target[r]) * inverse_t + log(sums->sum[r])) : NAN;
        if (!out->gradient) continue;
        slf_row_to_f64(job->states, r, h);
        const double length = slf_reference_length(h, dim);
        const double along = sums->weighted[r] / sums->sum[r] - target[r];
        const int64_t row = job->own.row_of[r];
        const float *b = job->own.rows + row * dim;
        float *g = gradient_row(out->gradient, r);
        const double *v = sums->vector + r * dim; /* the expectation is V P / sum, or V / sum without P */
        for (int64_t i = 0; i < dim; i++) y[i] = (job->p ? dot(job->p + i * dim, v, dim) : v[i]) / sums->sum[r];
        for (int64_t i = 0; i < dim; i++) {
            const double away = y[i] - (double)b[i] / job->own.norms[row] - along * (h[i] / length);
            g[i] = usable ? (float)(out->scale * inverse_t / length * away) : 0;
        }
    }
    slf_host_free(self, h);
    return SALF_OK;
}
