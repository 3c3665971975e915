/*
 * score.c - scores over the vocabulary: rows of a query whose products may be float32, then those that need float64.
 *
 * Two ways to the same sums, and both earn their keep. Panels (score_panels.c) make products in registers and use them
 * while they are in the cache; they are for float32 products without the vector. Tiles, here, go through BLAS: they
 * serve float64 products, the vector (a second product), processors without AVX2, and contexts whose threads are those
 * of BLAS. Where both can serve, panels take .55 to .78 of the time of tiles on one thread (AVX-512, 8 to 512 query
 * rows, D of 1024 and 2048, float32 and bfloat16 heads).
 *
 * All sums are float64; the vector of a float32 tile is a float32 product that is added to them. rows * block * D
 * multiply-adds (twice with the vector), and one exp for each pair. Float32 blocks whose rows follow each other are
 * read where they are.
 */
#include <math.h>
#include <string.h>

#include "core/carve.h"
#include "core/core.h"
#include "cpu.h"

/* A tile has at most 256 query rows, so that a block row is read from memory once for that many; 2^18 scores, which is
 * 1 MiB of float32 products and fits a second cache; and 4096 block rows, 32 KiB of u and of s each. Under a small
 * workspace fewer block rows are taken first, down to 16, below which gemm has nothing to work with. */
enum { MOST_ROWS = 256, MOST_SCORES = 1 << 18, MOST_COLUMNS = 4096, LEAST_COLUMNS = 16 };

/* The numbers of a tile, [..] of float64 where f64 is set and of float32 otherwise. */
typedef struct {
    const slf_score_call *call;
    bool f64;
    bool in_place;   /* the block can be an operand of sgemm as it is */
    int64_t rows;    /* most query rows in a tile */
    int64_t columns; /* most block rows in a tile */
    void *x;         /* [columns][D]: block rows; unused when in_place */
    void *z;         /* [rows][D]: query rows */
    void *product;   /* [rows][columns]; where the vector is wanted, then u_i inverse_norm_i */
    void *part;      /* [rows][D]: the vector of a tile */
    double *u;       /* [columns] float64, exponentials */
    double *s;       /* [columns] float64, scores */
} score_tiles;

static void lay_out_tiles(score_tiles *t, slf_carver *block) {
    const int64_t dim = t->call->job->query->dim;
    const uint64_t size = t->f64 ? sizeof(double) : sizeof(float);
    t->x = slf_carve(block, t->in_place ? 0 : t->columns * dim, size);
    t->z = slf_carve(block, t->rows * dim, size);
    t->product = slf_carve(block, t->rows * t->columns, size);
    t->part = slf_carve(block, t->call->job->sums->vector ? t->rows * dim : 0, size);
    t->u = slf_carve(block, t->columns, sizeof(double));
    t->s = slf_carve(block, t->columns, sizeof(double));
}

static uint64_t bytes_of_tiles(score_tiles *t) {
    slf_carver block = {0};
    lay_out_tiles(t, &block);
    return block.used;
}

/* The tile's products c [m][n] of query rows z with block rows x, or, with vector, of their weights with x. */
static salf_status multiply(const score_tiles *t, bool vector, int64_t m, int64_t n, const void *x, int64_t stride) {
    const int64_t dim = t->call->job->query->dim;
    const salf_product job = {.dtype = t->f64 ? SALF_F64 : SALF_F32,
                              .b_transposed = !vector,
                              .m = m,
                              .n = vector ? dim : n,
                              .k = vector ? n : dim,
                              .a = vector ? t->product : t->z,
                              .a_stride = vector ? n : dim,
                              .b = x,
                              .b_stride = stride,
                              .c = vector ? t->part : t->product,
                              .c_stride = vector ? dim : n,
                              .alpha = 1};
    return slf_cpu_product(t->call->cpu, &job);
}

/* How many of the scores s [n] of block rows i0 ... are above the target of query row `at`. */
static int64_t count_tile_row(const score_tiles *t, int64_t at, int64_t i0, int64_t n) {
    const slf_score_job *job = t->call->job;
    const int64_t dim = job->query->dim;
    const slf_near near = t->f64 ? slf_reference_near(job, at, SLF_UNIT_F64, 2 * dim)
                                 : slf_reference_near(job, at, SLF_UNIT_F32, slf_f32_chain(dim, t->call->cpu->stretch));
    const double *s = t->s;
    int64_t above = 0, between = 0;
    /* Two loops that compilers make vectors of; most tiles have nothing for the third. */
    for (int64_t k = 0; k < n; k++) above += s[k] > near.high;
    for (int64_t k = 0; k < n; k++) between += (s[k] >= near.low) & (s[k] <= near.high);
    for (int64_t k = 0; k < n && between > 0; k++)
        if (s[k] >= near.low && s[k] <= near.high) {
            above += slf_reference_above(job, at, i0 + k, s[k], &near);
            between--;
        }
    return above;
}

/* Takes tile row r, which is row `at` of the query, for block rows i0 ... i0+n-1 into the sums. */
static void add_tile_row(const score_tiles *t, int64_t at, int64_t r, int64_t i0, int64_t n) {
    const slf_score_job *job = t->call->job;
    const slf_score_sums *sums = job->sums;
    /* Rows of a tile are taken one after the other on this thread: the two vectors u and s of a row stay in the first
     * cache between the steps. */
    const int64_t dim = job->query->dim;
    const slf_score_rule *rule = job->rule;
    const double inverse_t = rule->inverse_temperature, *inverse = job->inverse_norms;
    double *s = t->s, *f64 = (double *)t->product + r * n;
    float *f32 = (float *)t->product + r * n;
    /* 1. scores from the products: logits, or cosines, which are 0 for a zero row */
    for (int64_t k = 0; k < n; k++) s[k] = t->f64 ? f64[k] : (double)f32[k];
    if (rule->logits) {
        for (int64_t k = 0; k < n; k++) {
            s[k] = rule->logit_scale * s[k] + (job->bias ? (double)job->bias[i0 + k] : 0);
            if (rule->softcap > 0) s[k] = rule->softcap * tanh(s[k] / rule->softcap);
        }
    } else {
        for (int64_t k = 0; k < n; k++) s[k] = inverse[i0 + k] > 0 ? s[k] * inverse[i0 + k] : 0;
    }
    /* 2. how many are above the target */
    if (sums->count) sums->count[at] += count_tile_row(t, at, i0, n);
    if (!sums->sum && !sums->weighted && !sums->vector && !sums->maximum) return;

    /* 3. the running maximum, raised to what this tile holds; what was summed under the old one shrinks */
    double shift = rule->shift;
    if (sums->maximum) {
        shift = sums->maximum[at];
        for (int64_t k = 0; k < n; k++) shift = s[k] > shift ? s[k] : shift;
        const double factor = exp((sums->maximum[at] - shift) * inverse_t);
        if (shift > sums->maximum[at]) {
            if (sums->sum) sums->sum[at] *= factor;
            if (sums->weighted) sums->weighted[at] *= factor;
            if (sums->vector) slf_reference_scale(sums->vector + at * dim, dim, factor);
            sums->maximum[at] = shift;
        }
    }

    /* 4. sum u_i and sum u_i s_i; u_i inverse_norm_i take the products' place, which have been read */
    for (int64_t k = 0; k < n; k++) t->u[k] = (s[k] - shift) * inverse_t;
    const slf_pair added = t->call->cpu->kernels->exp_sums(t->u, s, n);
    if (sums->sum) sums->sum[at] += added.first;
    if (sums->weighted) sums->weighted[at] += added.second;
    if (!sums->vector) return;
    for (int64_t k = 0; k < n; k++) {
        const double weight = t->u[k] * inverse[i0 + k];
        if (t->f64)
            f64[k] = weight;
        else
            f32[k] = (float)weight;
    }
}

/* The call's rows r0 ... r0+m-1 with block rows i0 ... i0+n-1, which are x. */
static salf_status score_tile_rows(const score_tiles *t, int64_t r0, int64_t m, const void *x, int64_t stride,
                                   int64_t i0, int64_t n) {
    const slf_score_job *job = t->call->job;
    const int64_t dim = job->query->dim;
    const int32_t *at = t->call->rows + r0;
    for (int64_t r = 0; r < m; r++)
        for (int64_t k = 0; k < dim; k++) {
            const double z = job->query->z[at[r] * dim + k];
            if (t->f64)
                ((double *)t->z)[r * dim + k] = z;
            else
                ((float *)t->z)[r * dim + k] = (float)z;
        }
    SLF_TRY(multiply(t, false, m, n, x, stride));
    for (int64_t r = 0; r < m; r++) add_tile_row(t, at[r], r, i0, n);
    if (!job->sums->vector) return SALF_OK;
    SLF_TRY(multiply(t, true, m, n, x, stride));
    for (int64_t r = 0; r < m; r++)
        for (int64_t k = 0; k < dim; k++)
            job->sums->vector[at[r] * dim + k] +=
                t->f64 ? ((double *)t->part)[r * dim + k] : (double)((float *)t->part)[r * dim + k];
    return SALF_OK;
}

/* All rows of a call by tiles. Half the workspace is for them, the other half being the caller's. */
static salf_status score_by_tiles(const slf_score_call *call, bool f64) {
    const salf_tensor *block = call->job->block;
    const slf_services *services = &call->cpu->host.services;
    const uint64_t workspace = services->options->workspace_limit / 2;
    score_tiles t = {.call = call, .f64 = f64, .rows = SLF_MIN(call->n_rows, MOST_ROWS)};
    t.in_place = block->dtype == SALF_F32 && !block->row_index && !f64 && block->row_stride <= INT32_MAX;
    t.columns = SLF_MIN(MOST_SCORES / t.rows, MOST_COLUMNS);
    t.columns = SLF_MIN(t.columns, block->rows);
    /* Columns first, since a narrower tile only means more of them; fewer query rows mean that the block is read
     * again. A tile of one by one is made even where the workspace does not hold it. */
    while (t.columns > LEAST_COLUMNS && bytes_of_tiles(&t) > workspace) t.columns /= 2;
    while (t.rows > 1 && bytes_of_tiles(&t) > workspace) t.rows /= 2;
    while (t.columns > 1 && bytes_of_tiles(&t) > workspace) t.columns /= 2;

    slf_carver memory = {.base = services->alloc(services->context, bytes_of_tiles(&t), 1)};
    if (!memory.base) return SALF_E_NO_MEMORY;
    void *const first = memory.base;
    lay_out_tiles(&t, &memory);
    salf_status status = SALF_OK;
    /* The vocabulary outside, query rows inside: a tile of block rows is converted once and then serves every query
     * row. */
    for (int64_t i0 = 0; i0 < block->rows && status == SALF_OK; i0 += t.columns) {
        const int64_t n = SLF_MIN(block->rows - i0, t.columns);
        /* block rows as an operand of gemm: where they are, or converted */
        const int64_t dim = call->job->query->dim, stride = t.in_place && block->row_stride ? block->row_stride : dim;
        const void *x = t.in_place ? slf_tensor_row(block, i0) : t.x;
        for (int64_t k = 0; k < n && !t.in_place; k++) {
            if (f64)
                slf_row_to_f64(block, i0 + k, (double *)t.x + k * dim);
            else
                call->cpu->kernels->widen(slf_tensor_row(block, i0 + k), block->dtype, dim, (float *)t.x + k * dim);
        }
        for (int64_t r0 = 0; r0 < call->n_rows && status == SALF_OK; r0 += t.rows)
            status = score_tile_rows(&t, r0, SLF_MIN(call->n_rows - r0, t.rows), x, stride, i0, n);
    }
    slf_host_free(&call->cpu->host, first);
    return status;
}

salf_status slf_cpu_score(void *self, const slf_score_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const slf_query *query = job->query;
    if (query->rows == 0 || job->block->rows == 0) return SALF_OK;
    int32_t *rows = services->alloc(services->context, (uint64_t)query->rows, sizeof *rows);
    if (!rows) return SALF_E_NO_MEMORY;
    /* rows that may have float32 products, then the others, each in order */
    int64_t n_f32 = 0, at = 0;
    for (int64_t r = 0; r < query->rows; r++)
        if (!query->needs_f64 || !query->needs_f64[r]) rows[n_f32++] = (int32_t)r;
    at = n_f32;
    for (int64_t r = 0; r < query->rows; r++)
        if (query->needs_f64 && query->needs_f64[r]) rows[at++] = (int32_t)r;
    /* Two calls over the same sums: each row of the query is in one of them, so neither sees what the other adds. */
    const slf_score_call f32 = {cpu, job, rows, n_f32}, f64 = {cpu, job, rows + n_f32, query->rows - n_f32};
    /* float32 by panels, as many rows at a time as their workspace holds, where these serve; else by tiles */
    const int64_t fitting = job->sums->vector ? 0 : slf_score_panels_rows(cpu, n_f32, query->dim, job->block->rows);
    salf_status status = SALF_OK;
    if (fitting == 0 && n_f32 > 0) status = score_by_tiles(&f32, false);
    for (int64_t first = 0; fitting > 0 && first < n_f32 && status == SALF_OK; first += fitting) {
        const slf_score_call part = {cpu, job, rows + first, SLF_MIN(n_f32 - first, fitting)};
        status = slf_score_panels(&part);
    }
    if (status == SALF_OK && f64.n_rows > 0) status = score_by_tiles(&f64, true);
    slf_host_free(&cpu->host, rows);
    return status;
}
