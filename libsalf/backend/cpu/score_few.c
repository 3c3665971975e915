/*
 * score_few.c - sums over scores of few query rows, where a product by gemm would spend its time packing the block.
 *
 * z [rows][D] is packed once a call as float32 panels zt [D][columns]; rows x_i of the block are read as they are
 * stored. q [tile][columns] = x z^T by register blocks of some rows x columns, float32 within a stretch of products,
 * for which all panels fit the first cache, and summed over stretches in float32. While the tile is in the cache it
 * becomes scores, and those sums, in float64 (score_collect.c).
 *
 * The block is cut in at most PIECES pieces that do not depend on the number of threads; each has its own sums, added
 * in order. rows * block * D multiply-adds, rows rounded up to whole panels, and one exp for each pair.
 */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "../../internal.h"
#include "score_few.h"

#ifdef SLF_HAVE_X86
#include <immintrin.h>
#endif

/* ROWS: most block rows of a register block; MOST_DEPTH: most products in a stretch; LINE: elements between two calls
 * for memory; MOST_ROWS: as many query rows as pay; PACKED: see pack; FIRST_CACHE: what all panels of a stretch may
 * take of the first cache, in floats. */
enum {
    ROWS = 8,
    MOST_DEPTH = 256,
    LINE = 16,
    MOST_ROWS = 64,
    MOST_PANELS = 4,
    PIECES = 64,
    PACKED = 64,
    FIRST_CACHE = 4096
};

/* A register block: rows as float32; the rows after it, as they are stored in elements of size bytes, to be called
 * into the cache when call is set. */
typedef struct {
    const float *rows[ROWS];
    const char *next[ROWS];
    int64_t size;
    bool call;
} few_rows;

struct slf_few_kernels {
    int rows, columns;
    /* q [rows][columns] += sum_k rows[j][k] zt[k], k < n. */
    void (*product)(const few_rows *rows, const float *zt, int64_t n, float *q);
};

#ifdef SLF_HAVE_X86

#define UNROLL _Pragma("GCC unroll 8")

/* Two vectors of columns, all rows in registers. */
#define FEW(suffix, attributes, vector, width, height, prefix)                                                 \
    attributes static void product_##suffix(const few_rows *r, const float *zt, int64_t n, float *q) {         \
        vector low[height], high[height];                                                                      \
        UNROLL for (int j = 0; j < height; j++) low[j] = high[j] = prefix##_setzero_ps();                      \
        for (int64_t k = 0; k < n;) {                                                                          \
            const int64_t end = n - k < LINE ? n : k + LINE;                                                   \
            if (r->call) UNROLL for (int j = 0; j < height; j++) __builtin_prefetch(r->next[j] + k * r->size); \
            for (; k < end; k++) {                                                                             \
                const vector z0 = prefix##_loadu_ps(zt + k * 2 * width);                                       \
                const vector z1 = prefix##_loadu_ps(zt + k * 2 * width + width);                               \
                UNROLL for (int j = 0; j < height; j++) {                                                      \
                    const vector x = prefix##_set1_ps(r->rows[j][k]);                                          \
                    low[j] = prefix##_fmadd_ps(x, z0, low[j]);                                                 \
                    high[j] = prefix##_fmadd_ps(x, z1, high[j]);                                               \
                }                                                                                              \
            }                                                                                                  \
        }                                                                                                      \
        UNROLL for (int j = 0; j < height; j++) {                                                              \
            float *out = q + j * 2 * width;                                                                    \
            prefix##_storeu_ps(out, prefix##_add_ps(prefix##_loadu_ps(out), low[j]));                          \
            prefix##_storeu_ps(out + width, prefix##_add_ps(prefix##_loadu_ps(out + width), high[j]));         \
        }                                                                                                      \
    }                                                                                                          \
    static const slf_few_kernels few_##suffix = {height, 2 * width, product_##suffix};

FEW(avx2, __attribute__((target("avx2,fma"))), __m256, 8, 6, _mm256)
FEW(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), __m512, 16, 8, _mm512)

static const slf_few_kernels *few_for(const slf_kernels *kernels) {
    if (strcmp(kernels->name, "avx512") == 0) return &few_avx512;
    return strcmp(kernels->name, "avx2") == 0 ? &few_avx2 : NULL;
}

static void collect(const slf_few_job *job, const float *q, int64_t i0, int64_t n, int64_t p, slf_panel_sums *sums) {
    slf_collect_avx2(job, q, i0, n, p, sums);
}

#else

static const slf_few_kernels *few_for(const slf_kernels *kernels) {
    (void)kernels;
    return NULL;
}

/* Never called: no kernel serves. */
static void collect(const slf_few_job *job, const float *q, int64_t i0, int64_t n, int64_t p, slf_panel_sums *sums) {
    (void)job, (void)q, (void)i0, (void)n, (void)p, (void)sums;
}

#endif

/* Block row i from column k0 on, as it is stored. */
static const char *stored(const slf_few_job *job, int64_t i, int64_t k0) {
    return (const char *)slf_tensor_row(job->block, i) + k0 * (job->block->dtype == SALF_F32 ? 4 : 2);
}

/* Columns k0 ... k0+n-1 of the register block at row i of n_rows, as float32: where they are, or in buffer [ROWS][n].
 * Rows past the last repeat the one before; nothing reads their products. */
static void point_at(const slf_few_job *job, int64_t i, int64_t n_rows, int64_t k0, int64_t n, float *buffer,
                     few_rows *r) {
    const int64_t last = job->block->rows - 1;
    for (int64_t j = 0; j < job->few->rows; j++) {
        const int64_t after = i + j + job->few->rows;
        r->next[j] = stored(job, after < last ? after : last, k0);
        if (j >= n_rows) {
            r->rows[j] = r->rows[j - 1];
        } else if (job->block->dtype == SALF_F32) {
            r->rows[j] = (const float *)(const void *)stored(job, i + j, k0);
        } else {
            r->rows[j] = buffer + j * n;
            job->kernels->widen(stored(job, i + j, k0), job->block->dtype, n, buffer + j * n);
        }
    }
}

/* q [panels][SLF_FEW_TILE][columns] for n block rows from i0. */
static void multiply(const slf_few_job *job, int64_t i0, int64_t n, float *q) {
    float buffer[ROWS * MOST_DEPTH];
    const int64_t dim = job->query->dim, columns = job->columns, height = job->few->rows;
    few_rows rows = {.size = job->block->dtype == SALF_F32 ? 4 : 2};
    memset(q, 0, (size_t)(job->panels * SLF_FEW_TILE * columns) * sizeof *q);
    for (int64_t k0 = 0; k0 < dim; k0 += job->depth) {
        const int64_t depth = dim - k0 < job->depth ? dim - k0 : job->depth;
        for (int64_t i = 0; i < n; i += height) {
            point_at(job, i0 + i, n - i, k0, depth, buffer, &rows);
            for (int64_t p = 0; p < job->panels; p++) {
                rows.call = p == 0;
                job->few->product(&rows, job->zt + (p * dim + k0) * columns, depth,
                                  q + (p * SLF_FEW_TILE + i) * columns);
            }
        }
    }
}

/* Block row at which piece w begins: whole register blocks. */
static int64_t piece_begin(const slf_few_job *job, int64_t w) {
    const int64_t n = job->block->rows, height = job->few->rows, blocks = (n + height - 1) / height;
    const int64_t at = blocks * w / job->pieces * height;
    return at < n ? at : n;
}

static void score_pieces(void *user, int64_t begin, int64_t end) {
    const slf_few_job *job = user;
    float q[MOST_ROWS * SLF_FEW_TILE];
    for (int64_t w = begin; w < end; w++) {
        const int64_t last = piece_begin(job, w + 1);
        for (int64_t i0 = piece_begin(job, w); i0 < last; i0 += SLF_FEW_TILE) {
            const int64_t n = last - i0 < SLF_FEW_TILE ? last - i0 : SLF_FEW_TILE;
            multiply(job, i0, n, q);
            for (int64_t p = 0; p < job->panels; p++)
                collect(job, q + p * SLF_FEW_TILE * job->columns, i0, n, p, &job->part[w * job->panels + p]);
        }
    }
}

/* Stretches of PACKED columns of z, whose part of zt stays in the first cache, into zt; columns past the last are 0. */
static void pack(void *user, int64_t begin, int64_t end) {
    const slf_few_job *job = user;
    const int64_t dim = job->query->dim, columns = job->columns;
    for (int64_t k0 = begin * PACKED; k0 < dim && k0 < end * PACKED; k0 += PACKED) {
        const int64_t n = dim - k0 < PACKED ? dim - k0 : PACKED;
        for (int64_t r = 0; r < job->panels * columns; r++) {
            const double *z = job->query->z + r * dim + k0;
            float *zt = job->zt + (r / columns * dim + k0) * columns + r % columns;
            if (r < job->query->rows)
                for (int64_t k = 0; k < n; k++) zt[k * columns] = (float)z[k];
            else
                for (int64_t k = 0; k < n; k++) zt[k * columns] = 0;
        }
    }
}

/* Block row of a token, or -1. */
static int64_t own_row(const salf_tensor *block, int64_t first, const int32_t *ids, int32_t label) {
    if (!ids) return label >= first && label - first < block->rows ? label - first : -1;
    for (int64_t i = 0; i < block->rows; i++)
        if (ids[i] == label) return i;
    return -1;
}

/* What query rows are compared with; sums of all pieces begin at the maximum so far, so that few have to be raised. */
static void prepare(const slf_few_job *job, int64_t first, const int32_t *ids) {
    for (int64_t r = 0; r < job->query->rows; r++) {
        const int64_t p = r / job->columns, c = r % job->columns;
        job->query_of[p].target[c] = job->query->target ? job->query->target[r] : 0;
        job->query_of[p].own[c] = own_row(job->block, first, ids, job->query->label ? job->query->label[r] : -1);
        for (int64_t w = 0; w < job->pieces && job->sums->maximum; w++)
            job->part[w * job->panels + p].maximum[c] = job->sums->maximum[r];
    }
}

/* Adds the sums of a piece for query row r, column c of the panel. */
static void add_part(const slf_few_job *job, const slf_panel_sums *part, int64_t r, int64_t c) {
    const slf_score_sums *sums = job->sums;
    double before = 1, here = 1;
    if (job->rule->logits && sums->maximum && part->maximum[c] > sums->maximum[r]) {
        before = exp((sums->maximum[r] - part->maximum[c]) * job->rule->inverse_temperature);
        sums->maximum[r] = part->maximum[c];
    } else if (job->rule->logits && sums->maximum && part->maximum[c] < sums->maximum[r]) {
        here = exp((part->maximum[c] - sums->maximum[r]) * job->rule->inverse_temperature);
    }
    if (sums->count) sums->count[r] += part->count[c];
    if (sums->sum) sums->sum[r] = sums->sum[r] * before + part->sum[c] * here;
    if (sums->weighted) sums->weighted[r] = sums->weighted[r] * before + part->weighted[c] * here;
}

bool slf_score_few_serves(const slf_cpu_state *cpu, const slf_query *query, const slf_score_sums *sums) {
    const slf_few_kernels *few = few_for(cpu->kernels);
    if (query->wide && *query->wide) return false;
    if (!few || sums->vector || query->rows < 1 || query->rows > MOST_ROWS) return false;
    /* Without threads of its own the context has those of BLAS. */
    if (cpu->host.services.options->threads == 0 && openblas_get_num_threads() > 1) return false;
    const uint64_t bytes =
        (uint64_t)(query->dim * MOST_ROWS) * sizeof(float) + PIECES * MOST_PANELS * sizeof(slf_panel_sums);
    return bytes <= cpu->host.services.options->workspace_limit / 2;
}

salf_status slf_score_few(const slf_cpu_state *cpu, const slf_query *query, const salf_tensor *block, int64_t first,
                          const int32_t *ids, const double *inverse_norm, const float *bias, const slf_score_rule *rule,
                          const slf_score_sums *sums) {
    const slf_services *services = &cpu->host.services;
    const slf_few_kernels *few = few_for(cpu->kernels);
    const int64_t blocks = (block->rows + few->rows - 1) / few->rows,
                  panels = (query->rows + few->columns - 1) / few->columns;
    slf_few_job job = {.kernels = cpu->kernels,
                       .few = few,
                       .query = query,
                       .block = block,
                       .inverse_norm = inverse_norm,
                       .bias = bias,
                       .rule = rule,
                       .sums = sums,
                       .panels = panels,
                       .pieces = blocks < PIECES ? blocks : PIECES};
    job.columns = few->columns;
    job.depth = FIRST_CACHE / (panels * few->columns);
    const int64_t parts = job.pieces * panels * (int64_t)(sizeof(slf_panel_sums) / sizeof(double));
    const int64_t queries = panels * (int64_t)(sizeof(slf_panel_query) / sizeof(double));
    double *memory = slf_host_doubles(&cpu->host, parts + queries + panels * query->dim * few->columns / 2);
    if (!memory) return SALF_E_NO_MEMORY;
    job.part = (slf_panel_sums *)memory;
    job.query_of = (slf_panel_query *)(memory + parts);
    job.zt = (float *)(memory + parts + queries);
    memset(memory, 0, (size_t)(parts + queries) * sizeof *memory);
    prepare(&job, first, ids);
    services->parallel_for(services->context, (query->dim + PACKED - 1) / PACKED, 1, pack, &job);
    services->parallel_for(services->context, job.pieces, 1, score_pieces, &job);
    for (int64_t r = 0; r < query->rows; r++)
        for (int64_t w = 0; w < job.pieces; w++)
            add_part(&job, &job.part[w * panels + r / few->columns], r, r % few->columns);
    slf_host_free(&cpu->host, memory);
    return SALF_OK;
}
