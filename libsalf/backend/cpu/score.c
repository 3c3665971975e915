/*
 * score.c - scores over the vocabulary by tiles of [query rows][block rows], products by gemm.
 *
 * Float32 products where the rule allows it, float64 where it asks for it. All sums are float64; the weighted vector of
 * a narrow tile is a float32 product that is added to them. rows * block * D multiply-adds (twice with the vector), and
 * one exp for each pair. Float32 blocks whose rows follow each other are read where they are.
 */
#include <cblas.h>
#include <math.h>

#include "../../internal.h"
#include "cpu.h"

/* Query rows in a tile; scores in a tile, so that they stay in the cache; block rows in a tile. */
enum { MOST_ROWS = 256, MOST_SCORES = 1 << 18, MOST_COLUMNS = 4096, LEAST_COLUMNS = 16 };

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
    bool wide;       /* products in float64 */
    bool in_place;   /* the block can be an operand of sgemm as it is */
    int64_t rows;    /* most query rows in a tile */
    int64_t columns; /* most block rows in a tile */
    double *x;       /* [columns][D], float32 or float64; unused when in_place */
    double *z;       /* [rows][D] float32 */
    double *product; /* [rows][columns], float32 or float64; where the vector is wanted, then u_i inverse_norm_i */
    double *part;    /* [rows][D] float32: the vector of a narrow tile */
    double *u;       /* [columns] */
    double *s;       /* [columns] */
} score_job;

static double logit_of(const slf_score_rule *rule, double q, double bias) {
    const double logit = rule->logit_scale * q + bias;
    return rule->softcap > 0 ? rule->softcap * tanh(logit / rule->softcap) : logit;
}

/* Scores s [n] of tile row r. */
static void row_scores(const score_job *job, int64_t r, int64_t i0, int64_t n) {
    const float *narrow = (const float *)job->product + r * n;
    const double *wide = job->product + r * n;
    if (job->wide)
        for (int64_t k = 0; k < n; k++) job->s[k] = wide[k];
    else
        for (int64_t k = 0; k < n; k++) job->s[k] = (double)narrow[k];
    if (!job->rule->logits) {
        for (int64_t k = 0; k < n; k++)
            job->s[k] = job->inverse_norm[i0 + k] > 0 ? job->s[k] * job->inverse_norm[i0 + k] : 0;
        return;
    }
    for (int64_t k = 0; k < n; k++)
        job->s[k] = logit_of(job->rule, job->s[k], job->bias ? (double)job->bias[i0 + k] : 0);
}

/* Scores above the target, the label's own left out. */
static int64_t count_above(const score_job *job, int64_t r, int64_t i0, int64_t n) {
    const double target = job->query->target[r];
    const int64_t label = job->query->label[r], at = label - job->first - i0;
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++) count += job->s[k] > target;
    if (!job->ids) return at >= 0 && at < n && job->s[at] > target ? count - 1 : count;
    for (int64_t k = 0; k < n; k++) count -= (job->ids[i0 + k] == label) & (job->s[k] > target);
    return count;
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

/* u_i inverse_norm_i over the products of tile row r, which have been read. */
static void keep_weights(const score_job *job, int64_t r, int64_t i0, int64_t n) {
    float *narrow = (float *)job->product + r * n;
    double *wide = job->product + r * n;
    if (job->wide)
        for (int64_t k = 0; k < n; k++) wide[k] = job->u[k] * job->inverse_norm[i0 + k];
    else
        for (int64_t k = 0; k < n; k++) narrow[k] = (float)(job->u[k] * job->inverse_norm[i0 + k]);
}

/* Takes the scores of query row r0 + r for block rows i0 ... i0+n-1 into the sums. */
static void add_row(const score_job *job, int64_t r0, int64_t r, int64_t i0, int64_t n) {
    const slf_score_sums *sums = job->sums;
    row_scores(job, r, i0, n);
    if (sums->count) sums->count[r0 + r] += count_above(job, r0 + r, i0, n);
    if (!sums->sum && !sums->weighted && !sums->vector && !sums->maximum) return;
    const double shift = shift_of(job, r0 + r, n);
    for (int64_t k = 0; k < n; k++) job->u[k] = (job->s[k] - shift) * job->rule->inverse_temperature;
    const slf_pair added = job->cpu->kernels->exp_sums(job->u, job->s, n);
    if (sums->sum) sums->sum[r0 + r] += added.first;
    if (sums->weighted) sums->weighted[r0 + r] += added.second;
    if (sums->vector) keep_weights(job, r, i0, n);
}

/* Adds weights [rows][n] times x [n][D] to the vectors. */
static void add_vectors(const score_job *job, const void *x, int stride, int64_t r0, int m, int n) {
    const int64_t dim = job->query->dim;
    const int d = (int)dim;
    double *vector = job->sums->vector + r0 * dim;
    if (job->wide) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, d, n, 1, job->product, n, x, stride, 1, vector, d);
        return;
    }
    float *part = (float *)job->part;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, d, n, 1, (const float *)job->product, n, x, stride, 0,
                part, d);
    for (int64_t i = 0; i < m * dim; i++) vector[i] += (double)part[i];
}

static void tile(const score_job *job, const void *x, int stride, int64_t r0, int64_t rows, int64_t i0, int64_t n) {
    const int64_t dim = job->query->dim;
    const int m = (int)rows, w = (int)n, d = (int)dim;
    const double *z = job->query->z + r0 * dim;
    float *z32 = (float *)job->z;
    if (job->wide) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, w, d, 1, z, d, x, stride, 0, job->product, w);
    } else {
        for (int64_t i = 0; i < rows * dim; i++) z32[i] = (float)z[i];
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, w, d, 1, z32, d, x, stride, 0, (float *)job->product,
                    w);
    }
    for (int64_t r = 0; r < rows; r++) add_row(job, r0, r, i0, n);
    if (job->sums->vector) add_vectors(job, x, stride, r0, m, w);
}

/* Block rows i0 ... i0+n-1 as an operand, with its row stride. */
static const void *operand(const score_job *job, int64_t i0, int64_t n, int *stride) {
    const int64_t dim = job->query->dim;
    const salf_tensor *block = job->block;
    *stride = (int)dim;
    if (job->in_place) {
        if (block->row_stride) *stride = (int)block->row_stride;
        return slf_tensor_row(block, i0);
    }
    for (int64_t k = 0; k < n; k++) {
        if (job->wide)
            slf_row_to_f64(block, i0 + k, job->x + k * dim);
        else
            job->cpu->kernels->widen(slf_tensor_row(block, i0 + k), block->dtype, dim, (float *)job->x + k * dim);
    }
    return job->x;
}

static void score_tiles(const score_job *job) {
    const int64_t rows = job->query->rows, total = job->block->rows;
    for (int64_t i0 = 0; i0 < total; i0 += job->columns) {
        const int64_t n = total - i0 < job->columns ? total - i0 : job->columns;
        int stride = 0;
        const void *x = operand(job, i0, n, &stride);
        for (int64_t r0 = 0; r0 < rows; r0 += job->rows)
            tile(job, x, stride, r0, rows - r0 < job->rows ? rows - r0 : job->rows, i0, n);
    }
}

/* Doubles for the parts of job, in the order of its pointers; hands them out from memory unless that is NULL. */
static int64_t lay_out(score_job *job, double *memory) {
    const int64_t dim = job->query->dim, wide = job->wide ? 2 : 1;
    const bool vector = job->sums->vector && !job->wide;
    const int64_t sizes[] = {job->in_place ? 0 : job->columns * dim * wide,
                             job->wide ? 0 : job->rows * dim,
                             job->rows * job->columns * wide,
                             vector ? job->rows * dim : 0,
                             2 * job->columns,
                             2 * job->columns};
    double **const parts[] = {&job->x, &job->z, &job->product, &job->part, &job->u, &job->s};
    int64_t used = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        if (memory) *parts[k] = memory + used;
        used += (sizes[k] + 15) / 16 * 8; /* sizes count float32; parts begin at cache lines */
    }
    return used;
}

/* Tiles that fit half the workspace, the other half being the caller's. */
static void choose_tiles(score_job *job) {
    const int64_t room = (int64_t)(job->cpu->host.services.options->workspace_limit / 2 / sizeof(double));
    job->rows = job->query->rows < MOST_ROWS ? job->query->rows : MOST_ROWS;
    if (job->rows < 1) job->rows = 1;
    job->columns = MOST_SCORES / job->rows < MOST_COLUMNS ? MOST_SCORES / job->rows : MOST_COLUMNS;
    if (job->columns > job->block->rows) job->columns = job->block->rows > 0 ? job->block->rows : 1;
    while (job->columns > LEAST_COLUMNS && lay_out(job, NULL) > room) job->columns /= 2;
    while (job->rows > 1 && lay_out(job, NULL) > room) job->rows /= 2;
    while (job->columns > 1 && lay_out(job, NULL) > room) job->columns /= 2;
}

salf_status slf_cpu_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                          const int32_t *ids, const double *inverse_norm, const float *bias, const slf_score_rule *rule,
                          const slf_score_sums *sums) {
    const slf_cpu_state *cpu = state;
    if (slf_score_few_serves(cpu, query, sums))
        return slf_score_few(cpu, query, block, first, ids, inverse_norm, bias, rule, sums);
    score_job job = {.cpu = cpu,
                     .query = query,
                     .block = block,
                     .first = first,
                     .ids = ids,
                     .inverse_norm = inverse_norm,
                     .bias = bias,
                     .rule = rule,
                     .sums = sums,
                     .wide = query->wide && *query->wide};
    job.in_place = block->dtype == SALF_F32 && !block->row_index && !job.wide && block->row_stride <= INT32_MAX;
    choose_tiles(&job);
    double *memory = slf_host_doubles(&cpu->host, lay_out(&job, NULL));
    if (!memory) return SALF_E_NO_MEMORY;
    lay_out(&job, memory);
    slf_blas_enter(&cpu->host.services);
    score_tiles(&job);
    slf_blas_leave(&cpu->host.services);
    slf_host_free(&cpu->host, memory);
    return SALF_OK;
}
