/*
 * score_collect.c - from products to scores, and from those to sums, for a tile of block rows and four query rows at a
 * time, in float64. One exp for each pair where a sum is wanted.
 */
#include <math.h>

#include "score_panels.h"

#ifdef SLF_HAVE_X86
#include "kernels_avx2.h"

/* Scores s [n] of products q [n][stride]: cosines, 0 for a zero row (by a mask, which NaN products do not survive: the
 * rows of the head are finite). */
INLINE_AVX2 void cosines(const slf_panel_job *job, const float *q, int64_t i0, int64_t n, int64_t stride, __m256d *s) {
    const double *inverse_norm = job->call.job->inverse_norms + i0;
    const __m256d zero = _mm256_setzero_pd();
    for (int64_t k = 0; k < n; k++) {
        const __m256d inverse = _mm256_set1_pd(inverse_norm[k]);
        const __m256d products = _mm256_cvtps_pd(_mm_loadu_ps(q + k * stride));
        s[k] = _mm256_and_pd(_mm256_mul_pd(products, inverse), _mm256_cmp_pd(inverse, zero, _CMP_GT_OQ));
    }
}

/* tanh has no vector form here; models with a soft cap pay for it. */
INLINE_AVX2 __m256d capped(__m256d s, double softcap) {
    double x[QUAD];
    _mm256_storeu_pd(x, s);
    for (int c = 0; c < QUAD; c++) x[c] = softcap * tanh(x[c] / softcap);
    return _mm256_loadu_pd(x);
}

/* Scores s [n] as logits: cap(scale q + bias). */
INLINE_AVX2 void logits(const slf_panel_job *job, const float *q, int64_t i0, int64_t n, int64_t stride, __m256d *s) {
    const slf_score_rule *rule = job->call.job->rule;
    const __m256d scale = _mm256_set1_pd(rule->logit_scale);
    for (int64_t k = 0; k < n; k++) {
        const __m256d bias = _mm256_set1_pd(job->call.job->bias ? (double)job->call.job->bias[i0 + k] : 0);
        const __m256d products = _mm256_cvtps_pd(_mm_loadu_ps(q + k * stride));
        s[k] = _mm256_add_pd(_mm256_mul_pd(scale, products), bias);
        if (rule->softcap > 0) s[k] = capped(s[k], rule->softcap);
    }
}

/* Scores above the target. Those that are not below it for certain are counted beside those that are above it for
 * certain; where the two differ, in few tiles, the ones between are looked at one by one. */
INLINE_AVX2 void count_above(const slf_panel_job *job, int64_t p, const __m256d *s, int64_t i0, int64_t n, int64_t c,
                             int64_t *count) {
    const slf_panel_query *query = &job->query_of[p];
    const __m256d low = _mm256_loadu_pd(query->low + c), high = _mm256_loadu_pd(query->high + c);
    __m256i above = _mm256_setzero_si256(), between = above;
    for (int64_t k = 0; k < n; k++) {
        const __m256d over = _mm256_cmp_pd(s[k], high, _CMP_GT_OQ);
        above = _mm256_sub_epi64(above, _mm256_castpd_si256(over));
        between =
            _mm256_or_si256(between, _mm256_castpd_si256(_mm256_andnot_pd(over, _mm256_cmp_pd(s[k], low, _CMP_GE_OQ))));
    }
    int64_t counted[QUAD], some[QUAD];
    _mm256_storeu_si256((__m256i *)(void *)counted, above);
    _mm256_storeu_si256((__m256i *)(void *)some, between);
    for (int64_t j = 0; j < QUAD; j++) {
        count[c + j] += counted[j];
        for (int64_t k = 0; k < n && some[j]; k++) {
            const double score = ((const double *)(const void *)&s[k])[j];
            if (!(score >= query->low[c + j] && score <= query->high[c + j])) continue;
            const int64_t r = job->call.rows[p * job->columns + c + j];
            count[c + j] += slf_reference_above(job->call.job, r, i0 + k, score, &query->near[c + j]);
        }
    }
}

/* Raises the running maxima to what s holds. */
INLINE_AVX2 void raise_maximum(const slf_panel_job *job, const __m256d *s, int64_t n, int64_t c, slf_panel_sums *sums) {
    __m256d vector = _mm256_loadu_pd(sums->maximum + c);
    for (int64_t k = 0; k < n; k++) vector = _mm256_max_pd(s[k], vector); /* NaN leaves the maximum */
    double most[QUAD];
    _mm256_storeu_pd(most, vector);
    for (int64_t j = 0; j < QUAD; j++) {
        if (!(most[j] > sums->maximum[c + j])) continue;
        const double factor = exp((sums->maximum[c + j] - most[j]) * job->call.job->rule->inverse_temperature);
        sums->sum[c + j] *= factor;
        sums->weighted[c + j] *= factor;
        sums->maximum[c + j] = most[j];
    }
}

typedef struct {
    __m256d sum, weighted;
} quad_sums;

/* The score itself is good for 2^-24 only, so that an exponential to 3e-13 does. The shift is taken off before 1 / t
 * comes in: a difference of two products would not be 0 for the largest score. */
INLINE_AVX2 void add_one(__m256d s, __m256d shift, __m256d inverse_t, bool weighted, quad_sums *sums) {
    const __m256d u = exp_quad(_mm256_mul_pd(_mm256_sub_pd(s, shift), inverse_t), 3);
    sums->sum = _mm256_add_pd(sums->sum, u);
    if (weighted) sums->weighted = _mm256_fmadd_pd(u, s, sums->weighted);
}

/* weighted is a constant where this is inlined. Two chains: an exponential waits for its own steps. */
INLINE_AVX2 void add_exponentials(const slf_panel_job *job, const __m256d *s, int64_t n, int64_t c, bool weighted,
                                  slf_panel_sums *sums) {
    const bool running = job->call.job->sums->maximum != NULL;
    const __m256d inverse_t = _mm256_set1_pd(job->call.job->rule->inverse_temperature), zero = _mm256_setzero_pd();
    const __m256d shift = running ? _mm256_loadu_pd(sums->maximum + c) : _mm256_set1_pd(job->call.job->rule->shift);
    quad_sums even = {_mm256_loadu_pd(sums->sum + c), _mm256_loadu_pd(sums->weighted + c)}, odd = {zero, zero};
    int64_t k = 0;
    for (; k + 2 <= n; k += 2) {
        add_one(s[k], shift, inverse_t, weighted, &even);
        add_one(s[k + 1], shift, inverse_t, weighted, &odd);
    }
    if (k < n) add_one(s[k], shift, inverse_t, weighted, &even);
    _mm256_storeu_pd(sums->sum + c, _mm256_add_pd(even.sum, odd.sum));
    _mm256_storeu_pd(sums->weighted + c, _mm256_add_pd(even.weighted, odd.weighted));
}

/* Four query rows at a time, so that one vector holds a score of each and no sum has to be gathered from lanes. */
AVX2 void slf_collect_avx2(const slf_panel_job *job, const float *q, int64_t i0, int64_t n, int64_t p,
                           slf_panel_sums *sums) {
    const slf_score_sums *wanted = job->call.job->sums;
    __m256d s[SLF_PANEL_TILE];
    for (int64_t c = 0; c < job->columns; c += QUAD) {
        if (job->call.job->rule->logits)
            logits(job, q + c, i0, n, job->columns, s);
        else
            cosines(job, q + c, i0, n, job->columns, s);
        if (wanted->count) count_above(job, p, s, i0, n, c, sums->count);
        if (wanted->maximum) raise_maximum(job, s, n, c, sums);
        if (wanted->weighted)
            add_exponentials(job, s, n, c, true, sums);
        else if (wanted->sum)
            add_exponentials(job, s, n, c, false, sums);
    }
}

#endif
