/*
 * score.c - scores over the vocabulary by tiles of [query rows][block rows], products by gemm.
 *
 * Float32 products where the rule allows it, float64 where it asks for it or the weighted vector is wanted. The sums
 * are float64. rows * block * D multiply-adds, and one exp for each pair.
 */
#include <cblas.h>
#include <math.h>

#include "../../internal.h"
#include "cpu.h"

enum { TILE = 256 };

typedef struct {
    const slf_cpu_state *cpu;
    const slf_query *query;
    const salf_tensor *block;
    int64_t first;
    const int32_t *ids;
    const double *inverse_norm;
    const float *bias;
    const slf_score_rule *rule;
    const slf_score_sums *sums;
    int64_t side;    /* most rows of either kind in a tile */
    double *x;       /* [side][D], float32 or float64 */
    double *z32;     /* [side][D] float32 */
    double *product; /* [side][side], float32 or float64 */
    double *u;       /* [side][side] */
    double *s;       /* [side] */
} score_job;

static bool is_wide(const slf_score_rule *rule, const slf_score_sums *sums) {
    return rule->wide || sums->vector;
}

static double score_of(const score_job *job, double q, int64_t i) {
    const slf_score_rule *rule = job->rule;
    if (!rule->logits) return job->inverse_norm[i] > 0 ? q * job->inverse_norm[i] : 0;
    const double logit = rule->logit_scale * q + (job->bias ? (double)job->bias[i] : 0);
    return rule->softcap > 0 ? rule->softcap * tanh(logit / rule->softcap) : logit;
}

/* The shift of a row: with logits its maximum, raised to what this tile holds. */
static double shift_of(const score_job *job, int64_t r, int64_t n) {
    const slf_score_sums *sums = job->sums;
    if (!job->rule->logits || !sums->maximum) return job->rule->shift;
    double most = sums->maximum[r];
    for (int64_t k = 0; k < n; k++) most = job->s[k] > most ? job->s[k] : most;
    if (most > sums->maximum[r]) {
        const double factor = exp((sums->maximum[r] - most) * job->rule->inverse_temperature);
        if (sums->sum) sums->sum[r] *= factor;
        if (sums->weighted) sums->weighted[r] *= factor;
        sums->maximum[r] = most;
    }
    return most;
}

/* Takes the scores s [n] of row r for block rows i0 ... into the sums; u [n] becomes u_i, then u_i inverse_norm_i. */
static void add_row(const score_job *job, int64_t r, int64_t i0, int64_t n, double *u) {
    const slf_score_sums *sums = job->sums;
    if (sums->count)
        for (int64_t k = 0; k < n; k++) {
            const int64_t id = job->ids ? job->ids[i0 + k] : job->first + i0 + k;
            sums->count[r] += id != job->query->label[r] && job->s[k] > job->query->target[r];
        }
    if (!sums->sum && !sums->weighted && !sums->vector && !sums->maximum) return;
    const double shift = shift_of(job, r, n);
    for (int64_t k = 0; k < n; k++) u[k] = (job->s[k] - shift) * job->rule->inverse_temperature;
    job->cpu->kernels->exp(u, n);
    double sum = 0, weighted = 0;
    for (int64_t k = 0; k < n; k++) {
        sum += u[k];
        weighted += u[k] * job->s[k];
        if (sums->vector) u[k] *= job->inverse_norm[i0 + k];
    }
    if (sums->sum) sums->sum[r] += sum;
    if (sums->weighted) sums->weighted[r] += weighted;
}

static void tile(const score_job *job, int64_t r0, int64_t rows, int64_t i0, int64_t n) {
    const int64_t dim = job->query->dim;
    const int m = (int)rows, w = (int)n, d = (int)dim;
    const double *z = job->query->z + r0 * dim;
    const bool wide = is_wide(job->rule, job->sums);
    float *z32 = (float *)job->z32, *product32 = (float *)job->product;
    if (wide) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, w, d, 1, z, d, job->x, d, 0, job->product, w);
    } else {
        for (int64_t i = 0; i < rows * dim; i++) z32[i] = (float)z[i];
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, w, d, 1, z32, d, (const float *)job->x, d, 0, product32,
                    w);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < n; k++)
            job->s[k] = score_of(job, wide ? job->product[r * n + k] : (double)product32[r * n + k], i0 + k);
        add_row(job, r0 + r, i0, n, job->u + r * n);
    }
    if (job->sums->vector)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, d, w, 1, job->u, w, job->x, d, 1,
                    job->sums->vector + r0 * dim, d);
}

static void score_tiles(const score_job *job) {
    const int64_t dim = job->query->dim, side = job->side;
    const bool wide = is_wide(job->rule, job->sums);
    for (int64_t i0 = 0; i0 < job->block->rows; i0 += side) {
        const int64_t n = job->block->rows - i0 < side ? job->block->rows - i0 : side;
        for (int64_t k = 0; k < n; k++) {
            if (wide)
                slf_row_to_f64(job->block, i0 + k, job->x + k * dim);
            else
                job->cpu->kernels->widen(slf_tensor_row(job->block, i0 + k), job->block->dtype, dim,
                                         (float *)job->x + k * dim);
        }
        for (int64_t r0 = 0; r0 < job->query->rows; r0 += side)
            tile(job, r0, job->query->rows - r0 < side ? job->query->rows - r0 : side, i0, n);
    }
}

salf_status slf_cpu_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                          const int32_t *ids, const double *inverse_norm, const float *bias, const slf_score_rule *rule,
                          const slf_score_sums *sums) {
    const slf_cpu_state *cpu = state;
    const uint64_t limit = cpu->host.services.options->workspace_limit;
    const int64_t dim = query->dim;
    int64_t side = TILE;
    while (side > 1 && (uint64_t)(2 * side * (dim + side) + side) * sizeof(double) > limit) side /= 2;
    double *memory = slf_host_doubles(&cpu->host, 2 * side * (dim + side) + side);
    if (!memory) return SALF_E_NO_MEMORY;
    double *z32 = memory + side * dim, *product = z32 + side * dim, *u = product + side * side;
    const score_job job = {cpu,  query,  block, first,   ids, inverse_norm,   bias, rule, sums,
                           side, memory, z32,   product, u,   u + side * side};
    slf_blas_enter(&cpu->host.services);
    score_tiles(&job);
    slf_blas_leave(&cpu->host.services);
    slf_host_free(&cpu->host, memory);
    return SALF_OK;
}
