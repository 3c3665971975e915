/*
 * score.c - states of the reference backend: queries, cosines, scores over the vocabulary, losses.
 *
 * cosine: rows D multiply-adds. score: rows * block * D. score_loss: rows D^2 with P, else rows D.
 */
#include <float.h>
#include <math.h>

#include "core/core.h"
#include "reference.h"

/* Adds a . b to four chains, since an addition takes four cycles and the next one waits for it. A row that comes in
 * parts, all but the last of a multiple of four, has the sum of the whole, bit for bit. */
static void add_products(const double *a, const double *b, int64_t n, double sum[4]) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) sum[k] += a[i + k] * b[i + k];
    for (; i < n; i++) sum[0] += a[i] * b[i];
}

/* The pairs at the end in a fixed order: every backend that asks for this sum gets the same bits. */
double slf_reference_dot(const double *a, const double *b, int64_t dim) {
    double sum[4] = {0};
    add_products(a, b, dim, sum);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void slf_reference_scale(double *x, int64_t dim, double factor) {
    for (int64_t i = 0; i < dim && factor != 1; i++) x[i] *= factor;
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

/* A zero state has no direction: its z is NaN, and everything that is made of it. The raw state decides, as for
 * cosines: a norm with a bias would give it one. What is infinite becomes NaN: no logit is above an infinite one, so
 * that the rank of a state that has overflowed would be 0. */
void slf_reference_query_row(const slf_query_job *job, int64_t r, double *h) {
    const int64_t dim = job->states->cols;
    slf_row_to_f64(job->states, r, h);
    const double raw = job->norm && job->unit ? slf_norm2(h, dim) : 1;
    slf_reference_norm_row(job->norm, dim, h);
    for (int64_t i = 0; i < dim && !job->unit; i++)
        if (isinf(h[i])) h[i] = (double)NAN;
    if (!job->unit) return;
    /* All queries have length 1: what follows compares directions alone. */
    const double length = raw > 0 ? slf_norm2(h, dim) : 0;
    for (int64_t i = 0; i < dim; i++) h[i] = length > 0 ? h[i] / length : (double)NAN;
}

/* z = norm(h), or gain P norm(h) by way of scratch for one row. */
salf_status slf_reference_query(void *self, const slf_query_job *job) {
    const int64_t dim = job->states->cols;
    double *h = job->p ? slf_host_doubles(self, dim) : NULL;
    if (job->p && !h) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < job->states->rows; r++) {
        double *z = job->z + r * dim;
        slf_reference_query_row(job, r, job->p ? h : z);
        if (job->p) slf_reference_times_p(job->p, h, dim, z);
        /* gain: a power of two that brings z into the range of float32 (basis/score.c); it loses no bit. */
        if (job->p) slf_reference_scale(z, dim, job->gain);
        if (job->needs_f64) job->needs_f64[r] = slf_norm2(z, dim) > job->limit;
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

/* Of label rows in float64: scores of a float32 walk are compared with them, and those that come near are made again
 * by the same sum. */
salf_status slf_reference_target(void *self, const slf_target_job *job) {
    const int64_t dim = job->w->cols;
    const bool logits = job->rule->logits;
    double *x = slf_host_doubles(self, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < job->rows; r++) {
        const double *z = job->z + r * dim;
        const int32_t place = job->place[r];
        slf_row_to_f64(job->w, job->row_of[r], x);
        const double inverse = logits ? 0 : job->inverse_norms[place], bias = job->bias ? (double)job->bias[place] : 0;
        const double length = sqrt(slf_reference_dot(z, z, dim));
        const double product = sqrt(slf_reference_dot(x, x, dim)) * length;
        job->target[r] = score_of(job->rule, slf_reference_dot(x, z, dim), inverse, bias);
        if (job->reach) job->reach[r] = product * (logits ? fabs(job->rule->logit_scale) : inverse);
        /* Of zero, and of NaN, float32 knows all there is to know. */
        const bool outside =
            product < SLF_F32_LEAST || product > SLF_F32_MOST || length < SLF_F32_LEAST || length > SLF_F32_MOST;
        if (job->needs_f64 && product > 0 && outside) job->needs_f64[r] = 1;
    }
    slf_host_free(self, x);
    return SALF_OK;
}

/* How far a score of a faster walk may be from what float64 makes of the same rows, and with that which scores cannot
 * be told from the target: low ... high are looked at again, and within tie they count as equal. reach bounds the size
 * of the terms of the product, chain the additions behind each other. */
slf_near slf_reference_near(const slf_score_job *job, int64_t r, double unit, int64_t chain) {
    const slf_score_rule *rule = job->rule;
    const double target = job->query->target[r], reach = job->query->reach[r];
    const double last_bits = 8 * SLF_UNIT_F64 * fabs(target); /* of what follows the product: norm, scale, bias */
    const double of_norms = rule->logits ? 0 : rule->norm_error * fabs(target);
    const double wide = SLF_NEAR_STEPS(chain) * unit * reach + of_norms + last_bits;
    const double tie = SLF_TIE_STEPS(job->query->dim) * SLF_UNIT_F64 * reach + last_bits;
    return (slf_near){.low = target - wide,
                      .high = target + wide,
                      .close = SLF_CLOSE_STEPS * unit * reach + last_bits,
                      .tie = tie * SLF_CAP_SLOPE(rule->logits ? rule->softcap : 0, target)};
}

/* Elements of a row from k on, as float64. */
static void widen_part(const salf_tensor *rows, int64_t row, int64_t k, int64_t n, double *out) {
    salf_tensor part = *rows;
    part.row_stride = rows->row_stride ? rows->row_stride : rows->cols;
    part.data = (char *)rows->data + k * slf_dtype_size(rows->dtype);
    part.cols = n;
    slf_row_to_f64(&part, row, out);
}

/* Most rows that are asked about end in the first part, where they differ from the label's: it is short. Equal rows
 * have equal products here, the target's own, so that only a bias of the model can tell them apart. */
bool slf_reference_above(const slf_score_job *job, int64_t r, int64_t i, double s, const slf_near *near) {
    enum { FIRST = 8, PART = 256 };
    const slf_query *query = job->query;
    const int64_t dim = query->dim;
    const double inverse = job->inverse_norms ? job->inverse_norms[i] : 0, target = query->target[r];
    /* What rows that were rounded to float32 may differ by: the bits of the products they come from, and an element's
     * last one. */
    const bool rounded = job->rule->alike > 0 && inverse > 0;
    const double alike = rounded ? job->rule->alike / inverse : 0, last_bit = rounded ? 0x1p-23 : 0;
    const bool close = fabs(s - target) <= near->close, biased = job->bias != NULL;
    double x[PART], own[PART], sum[4] = {0};
    bool equal = true;
    for (int64_t k = 0, n; k < dim && (equal || close); k += n) {
        n = SLF_MIN(dim - k, k == 0 ? FIRST : PART);
        widen_part(job->block, i, k, n, x);
        if (equal) widen_part(query->own, query->own_of[r], k, n, own);
        for (int64_t j = 0; j < n && equal; j++) equal = fabs(x[j] - own[j]) <= alike + last_bit * fabs(own[j]);
        if (close || biased) add_products(x, query->z + r * dim + k, n, sum);
    }
    /* Equal rows tie, and a tie is no rank lost. Rows that differ by more than rounding are told apart by s itself,
     * unless it is too close to be trusted. */
    if (equal && !biased) return false;
    if (!equal && !close) return s > target;
    const double product = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    return score_of(job->rule, product, inverse, biased ? (double)job->bias[i] : 0) - target > near->tie;
}

/* Vocabulary rows outside, query rows inside: each x is widened once. */
salf_status slf_reference_score(void *self, const slf_score_job *job) {
    const slf_query *query = job->query;
    const slf_score_sums *sums = job->sums; /* those that are wanted */
    const int64_t dim = query->dim;
    const double inverse_t = job->rule->inverse_temperature;
    double *x = slf_host_doubles(self, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < job->block->rows; i++) {
        slf_row_to_f64(job->block, i, x);
        const double inverse = job->inverse_norms ? job->inverse_norms[i] : 0;
        for (int64_t r = 0; r < query->rows; r++) {
            /* In float64, as everything here: this is what the other backends are compared with. */
            const double q = slf_reference_dot(x, query->z + r * dim, dim);
            const double s = score_of(job->rule, q, inverse, job->bias ? (double)job->bias[i] : 0);
            if (sums->count) {
                const slf_near near = slf_reference_near(job, r, SLF_UNIT_F64, 2 * dim);
                sums->count[r] += s > near.high || (s >= near.low && slf_reference_above(job, r, i, s, &near));
            }
            /* u = exp((s - shift) / t), with the fixed shift or the running maximum in its place: sum u, sum u s and
             * sum u x / |b|, each where it is wanted. */
            if (!sums->sum && !sums->weighted && !sums->vector) continue;
            if (sums->maximum && s > sums->maximum[r]) { /* what was summed under the old maximum shrinks */
                const double factor = exp((sums->maximum[r] - s) * inverse_t);
                if (sums->sum) sums->sum[r] *= factor;
                if (sums->weighted) sums->weighted[r] *= factor;
                if (sums->vector) slf_reference_scale(sums->vector + r * dim, dim, factor);
                sums->maximum[r] = s;
            }
            const double u = exp((s - (sums->maximum ? sums->maximum[r] : job->rule->shift)) * inverse_t);
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
    const double length = slf_norm2(h, dim);
    double product = 0;
    if (!(length > 0 && isfinite(length))) return NAN;
    for (int64_t i = 0; i < dim; i++) product += h[i] * (double)b[i];
    return product / (length * norm_b);
}

/* See slf_loss_out. */
static bool gradient_fits(const slf_loss_out *losses, double inverse_t, double length) {
    return !losses->gradient || 2 * fabs(losses->scale) * inverse_t / length <= (double)FLT_MAX;
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
        const double length = slf_norm2(h, dim), norm_b = job->own.norms[row];
        if (!job->out) { /* the loss and d (1 - cos) / d h = -(b / |b| - cos h / |h|) / |h| */
            const double cosine = gradient_fits(&job->losses, 1, length) ? cosine_of(h, b, norm_b, dim) : (double)NAN;
            job->losses.loss[r] = (float)(1 - cosine);
            if (fabs(cosine) > 1) job->losses.loss[r] = cosine > 0 ? 0 : 2; /* by rounding alone; NaN stays */
            const salf_tensor *gradient = job->losses.gradient;
            float *g = gradient ? (float *)gradient->data + slf_tensor_offset(gradient, r) : NULL;
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
        slf_row_to_f64(job->states, r, h);
        const double length = slf_norm2(h, dim);
        const bool usable =
            !isnan(target[r]) && gradient_fits(out, inverse_t, length); /* no zero or non-finite state */
        const double shift = sums->maximum ? sums->maximum[r] : job->rule->shift;
        const double entropy = (shift - target[r]) * inverse_t + log(sums->sum[r]);
        out->loss[r] = usable ? (float)(entropy < 0 ? 0 : entropy) : NAN; /* below 0 by rounding alone; NaN stays */
        if (!out->gradient) continue;
        /* E s_i - s_l: how much of the direction of h itself is in the difference of the two rows. */
        const double along = sums->weighted[r] / sums->sum[r] - target[r];
        const int64_t row = job->own.row_of[r];
        const float *b = job->own.rows + row * dim;
        float *g = (float *)out->gradient->data + slf_tensor_offset(out->gradient, r);
        const double *v = sums->vector + r * dim; /* the expectation is gain V P / sum, or V / sum without P */
        const double scale = job->p ? job->rule->gain / sums->sum[r] : 1 / sums->sum[r];
        for (int64_t i = 0; i < dim; i++) y[i] = (job->p ? slf_reference_dot(job->p + i * dim, v, dim) : v[i]) * scale;
        for (int64_t i = 0; i < dim; i++) {
            const double away = y[i] - (double)b[i] / job->own.norms[row] - along * (h[i] / length);
            g[i] = usable ? (float)(out->scale * inverse_t / length * away) : 0;
        }
    }
    slf_host_free(self, h);
    return SALF_OK;
}
