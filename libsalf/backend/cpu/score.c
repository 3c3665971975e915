/*
 * score.c - scores over the vocabulary: rows of a query whose products may be float32, then those that need float64.
 *
 * The former go by panels (score_panels.c) where these serve; what is left goes by tiles of [query rows][block rows]
 * through gemm. All sums are float64; the weighted vector of a narrow tile is a float32 product that is added to them.
 * rows * block * D multiply-adds (twice with the vector), and one exp for each pair. Float32 blocks whose rows follow
 * each other are read where they are.
 */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "core/core.h"
#include "cpu.h"

/* Query rows in a tile; scores in a tile, so that they stay in the cache; block rows in a tile. */
enum { MOST_ROWS = 256, MOST_SCORES = 1 << 18, MOST_COLUMNS = 4096, LEAST_COLUMNS = 16 };

typedef struct {
    slf_score_call call;
    bool wide;       /* products in float64 */
    bool in_place;   /* the block can be an operand of sgemm as it is */
    int64_t rows;    /* most query rows in a tile */
    int64_t columns; /* most block rows in a tile */
    double *x;       /* [columns][D], float32 or float64, as those below; unused when in_place */
    double *z;       /* [rows][D] */
    double *product; /* [rows][columns]; where the vector is wanted, then u_i inverse_norm_i */
    double *part;    /* [rows][D]: the vector of a tile */
    double *u;       /* [columns] float64 */
    double *s;       /* [columns] float64 */
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
    if (!job->call.job->rule->logits) {
        for (int64_t k = 0; k < n; k++)
            job->s[k] = job->call.job->inverse_norms[i0 + k] > 0 ? job->s[k] * job->call.job->inverse_norms[i0 + k] : 0;
        return;
    }
    for (int64_t k = 0; k < n; k++)
        job->s[k] =
            logit_of(job->call.job->rule, job->s[k], job->call.job->bias ? (double)job->call.job->bias[i0 + k] : 0);
}

/* Scores above the target, the label's own left out. */
static int64_t count_above(const score_job *job, int64_t r, int64_t i0, int64_t n) {
    const double target = job->call.job->query->target[r];
    const int64_t label = job->call.job->query->label[r], at = label - job->call.job->first - i0;
    int64_t count = 0;
    for (int64_t k = 0; k < n; k++) count += job->s[k] > target;
    if (!job->call.job->ids) return at >= 0 && at < n && job->s[at] > target ? count - 1 : count;
    for (int64_t k = 0; k < n; k++) count -= (job->call.job->ids[i0 + k] == label) & (job->s[k] > target);
    return count;
}

/* The shift of a row: with logits its maximum, raised to what this tile holds. */
static double shift_of(const score_job *job, int64_t r, int64_t n) {
    const slf_score_sums *sums = job->call.job->sums;
    if (!job->call.job->rule->logits || !sums->maximum) return job->call.job->rule->shift;
    double most = sums->maximum[r];
    for (int64_t k = 0; k < n; k++) most = job->s[k] > most ? job->s[k] : most;
    if (most > sums->maximum[r]) {
        const double factor = exp((sums->maximum[r] - most) * job->call.job->rule->inverse_temperature);
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
        for (int64_t k = 0; k < n; k++) wide[k] = job->u[k] * job->call.job->inverse_norms[i0 + k];
    else
        for (int64_t k = 0; k < n; k++) narrow[k] = (float)(job->u[k] * job->call.job->inverse_norms[i0 + k]);
}

/* Takes the scores of tile row r, which is row `at` of the query, for block rows i0 ... i0+n-1 into the sums. */
static void add_row(const score_job *job, int64_t at, int64_t r, int64_t i0, int64_t n) {
    const slf_score_sums *sums = job->call.job->sums;
    row_scores(job, r, i0, n);
    if (sums->count) sums->count[at] += count_above(job, at, i0, n);
    if (!sums->sum && !sums->weighted && !sums->vector && !sums->maximum) return;
    const double shift = shift_of(job, at, n);
    for (int64_t k = 0; k < n; k++) job->u[k] = (job->s[k] - shift) * job->call.job->rule->inverse_temperature;
    const slf_pair added = job->call.cpu->kernels->exp_sums(job->u, job->s, n);
    if (sums->sum) sums->sum[at] += added.first;
    if (sums->weighted) sums->weighted[at] += added.second;
    if (sums->vector) keep_weights(job, r, i0, n);
}

/* Adds weights [m][n] times x [n][D] to the vectors of the rows at. */
static void add_vectors(const score_job *job, const void *x, int stride, const int32_t *at, int m, int n) {
    const int64_t dim = job->call.job->query->dim;
    const int d = (int)dim;
    const float *narrow = (const float *)job->part;
    if (job->wide)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, d, n, 1, job->product, n, x, stride, 0, job->part, d);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, d, n, 1, (const float *)job->product, n, x, stride, 0,
                    (float *)job->part, d);
    for (int64_t r = 0; r < m; r++) {
        double *vector = job->call.job->sums->vector + at[r] * dim;
        for (int64_t i = 0; i < dim; i++) vector[i] += job->wide ? job->part[r * dim + i] : (double)narrow[r * dim + i];
    }
}

/* z of the rows at as an operand. */
static void load_queries(const score_job *job, const int32_t *at, int64_t rows) {
    const int64_t dim = job->call.job->query->dim;
    float *narrow = (float *)job->z;
    for (int64_t r = 0; r < rows; r++) {
        const double *z = job->call.job->query->z + at[r] * dim;
        if (job->wide)
            memcpy(job->z + r * dim, z, (size_t)dim * sizeof *z);
        else
            for (int64_t k = 0; k < dim; k++) narrow[r * dim + k] = (float)z[k];
    }
}

static void tile(const score_job *job, const void *x, int stride, const int32_t *at, int64_t rows, int64_t i0,
                 int64_t n) {
    const int m = (int)rows, w = (int)n, d = (int)job->call.job->query->dim;
    load_queries(job, at, rows);
    if (job->wide)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, w, d, 1, job->z, d, x, stride, 0, job->product, w);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, w, d, 1, (const float *)job->z, d, x, stride, 0,
                    (float *)job->product, w);
    for (int64_t r = 0; r < rows; r++) add_row(job, at[r], r, i0, n);
    if (job->call.job->sums->vector) add_vectors(job, x, stride, at, m, w);
}

/* Block rows i0 ... i0+n-1 as an operand, with its row stride. */
static const void *operand(const score_job *job, int64_t i0, int64_t n, int *stride) {
    const int64_t dim = job->call.job->query->dim;
    const salf_tensor *block = job->call.job->block;
    *stride = (int)dim;
    if (job->in_place) {
        if (block->row_stride) *stride = (int)block->row_stride;
        return slf_tensor_row(block, i0);
    }
    for (int64_t k = 0; k < n; k++) {
        if (job->wide)
            slf_row_to_f64(block, i0 + k, job->x + k * dim);
        else
            job->call.cpu->kernels->widen(slf_tensor_row(block, i0 + k), block->dtype, dim, (float *)job->x + k * dim);
    }
    return job->x;
}

static void walk_tiles(const score_job *job) {
    const int64_t rows = job->call.n_rows, total = job->call.job->block->rows;
    for (int64_t i0 = 0; i0 < total; i0 += job->columns) {
        const int64_t n = total - i0 < job->columns ? total - i0 : job->columns;
        int stride = 0;
        const void *x = operand(job, i0, n, &stride);
        for (int64_t r0 = 0; r0 < rows; r0 += job->rows)
            tile(job, x, stride, job->call.rows + r0, rows - r0 < job->rows ? rows - r0 : job->rows, i0, n);
    }
}

/* Doubles for the parts of job, in the order of its pointers; hands them out from memory unless that is NULL. */
static int64_t lay_out(score_job *job, double *memory) {
    const int64_t dim = job->call.job->query->dim, wide = job->wide ? 2 : 1;
    const int64_t sizes[] = {job->in_place ? 0 : job->columns * dim * wide,
                             job->rows * dim * wide,
                             job->rows * job->columns * wide,
                             job->call.job->sums->vector ? job->rows * dim * wide : 0,
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
    const int64_t room = (int64_t)(job->call.cpu->host.services.options->workspace_limit / 2 / sizeof(double));
    job->rows = job->call.n_rows < MOST_ROWS ? job->call.n_rows : MOST_ROWS;
    job->columns = MOST_SCORES / job->rows < MOST_COLUMNS ? MOST_SCORES / job->rows : MOST_COLUMNS;
    if (job->columns > job->call.job->block->rows)
        job->columns = job->call.job->block->rows > 0 ? job->call.job->block->rows : 1;
    while (job->columns > LEAST_COLUMNS && lay_out(job, NULL) > room) job->columns /= 2;
    while (job->rows > 1 && lay_out(job, NULL) > room) job->rows /= 2;
    while (job->columns > 1 && lay_out(job, NULL) > room) job->columns /= 2;
}

static salf_status score_tiles(const slf_score_call *call, bool wide) {
    const slf_cpu *cpu = call->cpu;
    const salf_tensor *block = call->job->block;
    score_job job = {.call = *call, .wide = wide};
    job.in_place = block->dtype == SALF_F32 && !block->row_index && !wide && block->row_stride <= INT32_MAX;
    choose_tiles(&job);
    double *memory = slf_host_doubles(&cpu->host, lay_out(&job, NULL));
    if (!memory) return SALF_E_NO_MEMORY;
    lay_out(&job, memory);
    slf_blas_enter(&cpu->host.services);
    walk_tiles(&job);
    slf_blas_leave(&cpu->host.services);
    slf_host_free(&cpu->host, memory);
    return SALF_OK;
}

static salf_status score_narrow(const slf_score_call *all) {
    slf_score_call part = *all;
    const int64_t fitting =
        all->job->sums->vector ? 0 : slf_score_panels_rows(all->cpu, all->n_rows, all->job->query->dim);
    if (fitting == 0) return score_tiles(all, false);
    for (int64_t first = 0; first < all->n_rows; first += fitting) {
        const int64_t left = all->n_rows - first;
        part.rows = all->rows + first;
        part.n_rows = left < fitting ? left : fitting;
        SLF_TRY(slf_score_panels(&part));
    }
    return SALF_OK;
}

/* Rows that may have float32 products, then the others; returns the number of the former. */
static int64_t sort_rows(const slf_query *query, int32_t *rows) {
    int64_t narrow = 0, wide = query->rows;
    for (int64_t r = query->rows - 1; r >= 0 && query->needs_f64; r--)
        if (query->needs_f64[r]) rows[--wide] = (int32_t)r;
    for (int64_t r = 0; r < query->rows; r++)
        if (!query->needs_f64 || !query->needs_f64[r]) rows[narrow++] = (int32_t)r;
    return narrow;
}

salf_status slf_cpu_score(void *self, const slf_score_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const slf_query *query = job->query;
    if (query->rows == 0 || job->block->rows == 0) return SALF_OK;
    int32_t *rows = services->alloc(services->context, (uint64_t)query->rows, sizeof *rows);
    if (!rows) return SALF_E_NO_MEMORY;
    const int64_t narrow = sort_rows(query, rows);
    slf_score_call call = {cpu, job, rows, narrow};
    salf_status status = narrow > 0 ? score_narrow(&call) : SALF_OK;
    call.rows = rows + narrow;
    call.n_rows = query->rows - narrow;
    if (status == SALF_OK && call.n_rows > 0) status = score_tiles(&call, true);
    slf_host_free(&cpu->host, rows);
    return status;
}
