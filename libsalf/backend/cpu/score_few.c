/*
 * score_few.c - sums over scores of few query rows, where a product by gemm would spend its time packing the block.
 *
 * z [rows][D] is packed once a call as float32 panels zt [D][columns]; rows x_i of the block are read as they are
 * stored. q [tile][columns] = x z^T by a register block of ROWS x columns, float32 within DEPTH products, summed over
 * such stretches in float32. While the tile is in the cache it becomes scores, and those sums, in float64.
 *
 * The block is cut in at most PIECES pieces that do not depend on the number of threads; each has its own sums, added
 * in order. rows * block * D multiply-adds, rows rounded up to whole panels, and one exp for each pair.
 */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "../../internal.h"
#include "cpu.h"

#ifdef SLF_HAVE_X86
#include <immintrin.h>
#endif

/* ROWS: block rows of a register block; DEPTH: products in a stretch; TILE: block rows of a tile; CHUNK: block rows
 * whose scores are in float64 at a time; MOST_COLUMNS: query rows of a panel; MOST_ROWS: as many query rows as pay. */
enum { ROWS = 8, DEPTH = 448, TILE = 128, CHUNK = 16, MOST_COLUMNS = 32, MOST_ROWS = 64, PIECES = 64, PACKED = 64 };
enum { MOST_PANELS = 4 };

/* Sums of a panel over a piece, and what its query rows are compared with. */
typedef struct {
    double sum[MOST_COLUMNS], weighted[MOST_COLUMNS], maximum[MOST_COLUMNS];
    int64_t count[MOST_COLUMNS];
} panel_sums;

typedef struct {
    double target[MOST_COLUMNS];
    int64_t label[MOST_COLUMNS];
} panel_query;

typedef struct few_job few_job;

typedef struct {
    int columns;
    /* q [ROWS][columns] += sum_k rows[j][k] zt[k], k < n. */
    void (*product)(const float *const rows[ROWS], const float *zt, int64_t n, float *q);
    /* Takes q [n][columns], of block rows i0 ..., into the sums of panel p. */
    void (*collect)(const few_job *job, const float *q, int64_t i0, int64_t n, int64_t p, panel_sums *sums);
} few_kernels;

struct few_job {
    const slf_kernels *kernels;
    const few_kernels *few;
    const slf_query *query;
    const salf_tensor *block;
    int64_t first;
    const int32_t *ids;
    const double *inverse_norm;
    const float *bias;
    const slf_score_rule *rule;
    const slf_score_sums *sums;
    int64_t panels, pieces;
    float *zt;             /* [panels][D][columns] */
    panel_query *query_of; /* [panels] */
    panel_sums *part;      /* [pieces][panels] */
};

#ifdef SLF_HAVE_X86

#define INLINE static inline __attribute__((always_inline))

/* Scores s [n][columns] of products q. */
INLINE void scores(const few_job *job, const float *q, int64_t i0, int64_t n, int columns, double *s) {
    const slf_score_rule *rule = job->rule;
    for (int64_t k = 0; k < n; k++) {
        double *row = s + k * columns;
        const float *products = q + k * columns;
        if (!rule->logits) {
            const double inverse = job->inverse_norm[i0 + k];
            for (int c = 0; c < columns; c++) row[c] = inverse > 0 ? (double)products[c] * inverse : 0;
            continue;
        }
        const double bias = job->bias ? (double)job->bias[i0 + k] : 0;
        for (int c = 0; c < columns; c++) row[c] = rule->logit_scale * (double)products[c] + bias;
        for (int c = 0; c < columns && rule->softcap > 0; c++) row[c] = rule->softcap * tanh(row[c] / rule->softcap);
    }
}

/* Scores above the target, the label's own left out. */
INLINE void count_above(const few_job *job, const double *s, int64_t i0, int64_t n, int columns,
                        const panel_query *query, int64_t *count) {
    for (int64_t k = 0; k < n; k++) {
        const int64_t id = job->ids ? job->ids[i0 + k] : job->first + i0 + k;
        for (int c = 0; c < columns; c++) count[c] += (s[k * columns + c] > query->target[c]) & (id != query->label[c]);
    }
}

/* Raises the running maxima to what s holds. */
INLINE void raise_maximum(const few_job *job, const double *s, int64_t n, int columns, panel_sums *sums) {
    double most[MOST_COLUMNS];
    for (int c = 0; c < columns; c++) most[c] = sums->maximum[c];
    for (int64_t k = 0; k < n; k++)
        for (int c = 0; c < columns; c++) most[c] = s[k * columns + c] > most[c] ? s[k * columns + c] : most[c];
    for (int c = 0; c < columns; c++) {
        if (!(most[c] > sums->maximum[c])) continue;
        const double factor = exp((sums->maximum[c] - most[c]) * job->rule->inverse_temperature);
        sums->sum[c] *= factor;
        sums->weighted[c] *= factor;
        sums->maximum[c] = most[c];
    }
}

INLINE void add_exponentials(const few_job *job, const double *s, int64_t n, int columns, panel_sums *sums) {
    double u[CHUNK * MOST_COLUMNS];
    const bool running = job->rule->logits && job->sums->maximum;
    const double inverse_t = job->rule->inverse_temperature, fixed = job->rule->shift;
    for (int64_t k = 0; k < n; k++)
        for (int c = 0; c < columns; c++)
            u[k * columns + c] = (s[k * columns + c] - (running ? sums->maximum[c] : fixed)) * inverse_t;
    job->kernels->exp(u, n * columns);
    for (int64_t k = 0; k < n; k++)
        for (int c = 0; c < columns; c++) {
            sums->sum[c] += u[k * columns + c];
            sums->weighted[c] += u[k * columns + c] * s[k * columns + c];
        }
}

INLINE void collect_loop(const few_job *job, const float *q, int64_t i0, int64_t n, int64_t p, int columns,
                         panel_sums *sums) {
    double s[CHUNK * MOST_COLUMNS];
    for (int64_t k = 0; k < n; k += CHUNK) {
        const int64_t m = n - k < CHUNK ? n - k : CHUNK;
        scores(job, q + k * columns, i0 + k, m, columns, s);
        if (job->sums->count) count_above(job, s, i0 + k, m, columns, &job->query_of[p], sums->count);
        if (!job->sums->sum && !job->sums->weighted && !job->sums->maximum) continue;
        if (job->rule->logits && job->sums->maximum) raise_maximum(job, s, m, columns, sums);
        add_exponentials(job, s, m, columns, sums);
    }
}

/* Two vectors of columns, ROWS or fewer rows in registers at a time. */
#define FEW(suffix, attributes, vector, width, at_a_time, prefix)                                                  \
    attributes static void product_##suffix(const float *const rows[ROWS], const float *zt, int64_t n, float *q) { \
        for (int first = 0; first < ROWS; first += at_a_time) {                                                    \
            vector low[at_a_time], high[at_a_time];                                                                \
            const float *row[at_a_time];                                                                           \
            for (int j = 0; j < at_a_time; j++) {                                                                  \
                row[j] = rows[first + j];                                                                          \
                low[j] = high[j] = prefix##_setzero_ps();                                                          \
            }                                                                                                      \
            for (int64_t k = 0; k < n; k++) {                                                                      \
                const vector z0 = prefix##_loadu_ps(zt + k * 2 * width);                                           \
                const vector z1 = prefix##_loadu_ps(zt + k * 2 * width + width);                                   \
                for (int j = 0; j < at_a_time; j++) {                                                              \
                    const vector x = prefix##_set1_ps(row[j][k]);                                                  \
                    low[j] = prefix##_fmadd_ps(x, z0, low[j]);                                                     \
                    high[j] = prefix##_fmadd_ps(x, z1, high[j]);                                                   \
                }                                                                                                  \
            }                                                                                                      \
            for (int j = 0; j < at_a_time; j++) {                                                                  \
                float *out = q + (first + j) * 2 * width;                                                          \
                prefix##_storeu_ps(out, prefix##_add_ps(prefix##_loadu_ps(out), low[j]));                          \
                prefix##_storeu_ps(out + width, prefix##_add_ps(prefix##_loadu_ps(out + width), high[j]));         \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    attributes static void collect_##suffix(const few_job *job, const float *q, int64_t i0, int64_t n, int64_t p,  \
                                            panel_sums *sums) {                                                    \
        collect_loop(job, q, i0, n, p, 2 * width, sums);                                                           \
    }                                                                                                              \
    static const few_kernels few_##suffix = {2 * width, product_##suffix, collect_##suffix};

FEW(avx2, __attribute__((target("avx2,fma"))), __m256, 8, 4, _mm256)
FEW(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), __m512, 16, 8, _mm512)

static const few_kernels *few_for(const slf_kernels *kernels) {
    if (strcmp(kernels->name, "avx512") == 0) return &few_avx512;
    return strcmp(kernels->name, "avx2") == 0 ? &few_avx2 : NULL;
}

#else

static const few_kernels *few_for(const slf_kernels *kernels) {
    (void)kernels;
    return NULL;
}

#endif

/* Columns k0 ... k0+n-1 of block row i as float32: where they are, or in buffer [n]. */
static const float *stretch(const few_job *job, int64_t i, int64_t k0, int64_t n, float *buffer) {
    const salf_tensor *block = job->block;
    const char *row = slf_tensor_row(block, i);
    if (block->dtype == SALF_F32) return (const float *)(const void *)row + k0;
    job->kernels->widen(row + 2 * k0, block->dtype, n, buffer);
    return buffer;
}

/* q [panels][TILE][columns] for n block rows from i0. */
static void multiply(const few_job *job, int64_t i0, int64_t n, float *q) {
    float buffer[ROWS * DEPTH];
    const float *rows[ROWS];
    const int64_t dim = job->query->dim, columns = job->few->columns;
    memset(q, 0, (size_t)(job->panels * TILE * columns) * sizeof *q);
    for (int64_t k0 = 0; k0 < dim; k0 += DEPTH) {
        const int64_t depth = dim - k0 < DEPTH ? dim - k0 : DEPTH;
        for (int64_t i = 0; i < n; i += ROWS) {
            for (int64_t j = 0; j < ROWS; j++) /* rows past the last repeat the one before; nothing reads them */
                rows[j] = i + j < n ? stretch(job, i0 + i + j, k0, depth, buffer + j * DEPTH) : rows[j - 1];
            for (int64_t p = 0; p < job->panels; p++)
                job->few->product(rows, job->zt + (p * dim + k0) * columns, depth, q + (p * TILE + i) * columns);
        }
    }
}

/* Block row at which piece w begins: whole register blocks. */
static int64_t piece_begin(const few_job *job, int64_t w) {
    const int64_t n = job->block->rows, blocks = (n + ROWS - 1) / ROWS, at = blocks * w / job->pieces * ROWS;
    return at < n ? at : n;
}

static void score_pieces(void *user, int64_t begin, int64_t end) {
    const few_job *job = user;
    float q[MOST_ROWS * TILE];
    for (int64_t w = begin; w < end; w++) {
        const int64_t last = piece_begin(job, w + 1);
        for (int64_t i0 = piece_begin(job, w); i0 < last; i0 += TILE) {
            const int64_t n = last - i0 < TILE ? last - i0 : TILE;
            multiply(job, i0, n, q);
            for (int64_t p = 0; p < job->panels; p++)
                job->few->collect(job, q + p * TILE * job->few->columns, i0, n, p, &job->part[w * job->panels + p]);
        }
    }
}

/* Stretches of PACKED columns of z, whose part of zt stays in the first cache, into zt; columns past the last are 0. */
static void pack(void *user, int64_t begin, int64_t end) {
    const few_job *job = user;
    const int64_t dim = job->query->dim, columns = job->few->columns;
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

/* What query rows are compared with; sums of all pieces begin at the maximum so far, so that few have to be raised. */
static void prepare(const few_job *job) {
    for (int64_t r = 0; r < job->query->rows; r++) {
        const int64_t p = r / job->few->columns, c = r % job->few->columns;
        job->query_of[p].target[c] = job->query->target ? job->query->target[r] : 0;
        job->query_of[p].label[c] = job->query->label ? job->query->label[r] : -1;
        for (int64_t w = 0; w < job->pieces && job->sums->maximum; w++)
            job->part[w * job->panels + p].maximum[c] = job->sums->maximum[r];
    }
}

/* Adds the sums of a piece for query row r, column c of the panel. */
static void add_part(const few_job *job, const panel_sums *part, int64_t r, int64_t c) {
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
    const few_kernels *few = few_for(cpu->kernels);
    if (query->wide && *query->wide) return false;
    if (!few || sums->vector || query->rows < 1 || query->rows > MOST_ROWS) return false;
    /* Without threads of its own the context has those of BLAS. */
    if (cpu->host.services.options->threads == 0 && openblas_get_num_threads() > 1) return false;
    const uint64_t bytes =
        (uint64_t)(query->dim * MOST_ROWS) * sizeof(float) + PIECES * MOST_PANELS * sizeof(panel_sums);
    return bytes <= cpu->host.services.options->workspace_limit / 2;
}

salf_status slf_score_few(const slf_cpu_state *cpu, const slf_query *query, const salf_tensor *block, int64_t first,
                          const int32_t *ids, const double *inverse_norm, const float *bias, const slf_score_rule *rule,
                          const slf_score_sums *sums) {
    const slf_services *services = &cpu->host.services;
    const few_kernels *few = few_for(cpu->kernels);
    const int64_t blocks = (block->rows + ROWS - 1) / ROWS, panels = (query->rows + few->columns - 1) / few->columns;
    few_job job = {.kernels = cpu->kernels,
                   .few = few,
                   .query = query,
                   .block = block,
                   .first = first,
                   .ids = ids,
                   .inverse_norm = inverse_norm,
                   .bias = bias,
                   .rule = rule,
                   .sums = sums,
                   .panels = panels,
                   .pieces = blocks < PIECES ? blocks : PIECES};
    const int64_t parts = job.pieces * panels * (int64_t)(sizeof(panel_sums) / sizeof(double));
    const int64_t queries = panels * (int64_t)(sizeof(panel_query) / sizeof(double));
    double *memory = slf_host_doubles(&cpu->host, parts + queries + panels * query->dim * few->columns / 2);
    if (!memory) return SALF_E_NO_MEMORY;
    job.part = (panel_sums *)memory;
    job.query_of = (panel_query *)(memory + parts);
    job.zt = (float *)(memory + parts + queries);
    memset(memory, 0, (size_t)(parts + queries) * sizeof *memory);
    prepare(&job);
    services->parallel_for(services->context, (query->dim + PACKED - 1) / PACKED, 1, pack, &job);
    services->parallel_for(services->context, job.pieces, 1, score_pieces, &job);
    for (int64_t r = 0; r < query->rows; r++)
        for (int64_t w = 0; w < job.pieces; w++)
            add_part(&job, &job.part[w * panels + r / few->columns], r, r % few->columns);
    slf_host_free(&cpu->host, memory);
    return SALF_OK;
}
