/*
 * score_panels.c - sums over scores of a query's rows, from register blocks of block rows x query rows.
 *
 * z [rows][D] is packed once a call as float32 panels zt [D][columns]; a tile of rows x_i of the block is read where it
 * is, or made float32 in the cache where it is 16 bits wide. q [tile][columns] = x z^T is summed in float32 over
 * stretches of products, for which a panel fits the first cache. While q is in the cache it becomes scores, and those
 * sums, in float64 (score_collect.c). The block is read from memory once a call.
 *
 * The block is cut in at most SHARES pieces that do not depend on the number of threads; each has its own sums, added
 * in order. rows * block * D multiply-adds, rows rounded up to whole panels, and one exp for each pair.
 */
#include "score_panels.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "block.h"
#include "core/carve.h"
#include "core/core.h"

/* DEPTH: products in a stretch, 256 * 32 columns * 4 bytes = 32 KiB of a panel, a first cache. GROUP: query rows that
 * meet a tile in a stretch, 48 KiB of products. SHARES: of a block, enough for the threads of a large machine to share
 * evenly, few enough that adding their sums costs nothing. PACKED: columns of z that are packed at a time; 64 * 32 * 4
 * bytes of zt stay in the first cache while z is read row by row. */
enum { DEPTH = SLF_PANEL_STRETCH, GROUP = 256, SHARES = 64, PACKED = 64 };

/* ---- a piece of the block: tiles, and for each stretches and panels ---- */

/* Block row i from column k on, as it is stored; the last row for those past it. */
static const char *stored(const salf_tensor *block, int64_t i, int64_t k) {
    const int64_t last = block->rows - 1;
    return (const char *)slf_tensor_row(block, i < last ? i : last) + k * slf_dtype_size(block->dtype);
}

/* q [n][SLF_PANEL_TILE][columns] = products of a tile with n panels from p0, stretch after stretch of its columns.
 * widened [SLF_PANEL_TILE][DEPTH] is for rows that are not float32. */
static void multiply_tile(const slf_panel_job *job, int64_t i0, int64_t tile, int64_t p0, int64_t n, float *widened,
                          float *q) {
    const salf_tensor *block = job->call.job->block;
    const int64_t dim = job->call.job->query->dim, columns = job->columns, height = job->products->rows;
    const void *rows[SLF_PANEL_TILE];
    slf_register_rows r = {.size = slf_dtype_size(block->dtype)};
    for (int64_t k0 = 0; k0 < dim; k0 += DEPTH) {
        const int64_t depth = SLF_MIN(dim - k0, DEPTH);

        /* 1. the tile's rows as float32, where they are or widened. A register block that is not full repeats the last
         * row; nothing reads its products */
        for (int64_t j = 0; j < tile; j++) {
            const char *row = stored(block, i0 + j, k0);
            rows[j] = row;
            if (block->dtype == SALF_F32) continue;
            rows[j] = widened + j * DEPTH;
            job->call.cpu->kernels->widen(row, block->dtype, depth, widened + j * DEPTH);
        }
        for (int64_t j = tile; j % height != 0; j++) rows[j] = rows[tile - 1];

        /* 2. each register block with each panel. Meanwhile it calls into the cache what comes next of its own rows:
         * the next stretch or, after the last, the first one of the rows a tile further. The processor's own read-ahead
         * sees neither, since rows are short and may lie apart. These calls are spread evenly over the panels */
        const bool same_rows = k0 + depth < dim;
        r.more = k0 > 0;
        for (int64_t p = 0; p < n; p++) {
            const float *zt = job->zt + ((p0 + p) * dim + k0) * columns;
            for (int64_t i = 0; i < tile; i += height) {
                const int64_t ahead = i0 + i + (same_rows ? 0 : SLF_PANEL_TILE);
                r.rows = rows + i;
                r.calls = 0;
                for (int64_t j = height * p / n; j < height * (p + 1) / n; j++)
                    r.next[r.calls++] = stored(block, ahead + j, same_rows ? k0 + depth : 0);
                job->products->product(&r, zt, depth, q + (p * SLF_PANEL_TILE + i) * columns);
            }
        }
    }
}

/* Block row at which piece w begins: whole register blocks, so that none is computed twice. */
static int64_t piece_begin(const slf_panel_job *job, int64_t w) {
    /* The borders depend on the block and the instruction set alone, so that any number of threads makes the same
     * sums. */
    const int64_t n = job->call.job->block->rows, height = job->products->rows, blocks = (n + height - 1) / height;
    const int64_t at = blocks * w / job->pieces * height;
    return at < n ? at : n;
}

/* What a thread works in: a stretch of a tile as float32, and products with a group of query rows. Both stay in its
 * second cache. */
struct slf_panel_thread {
    float widened[SLF_PANEL_TILE * DEPTH];
    float products[SLF_PANEL_TILE * GROUP];
    atomic_flag taken;
};

/* Pieces of the block, tile by tile, against all panels. Takes one of the threads' places: there are as many as
 * threads, so that one is free. */
static void score_pieces(void *user, int64_t begin, int64_t end) {
    const slf_panel_job *job = user;
    const int64_t group = GROUP / job->columns; /* panels */
    slf_panel_thread *own = job->threads;
    /* A place is free, but not always the next one: the loop passes over those that other threads are in, without a
     * lock. */
    while (atomic_flag_test_and_set(&own->taken))
        own = own + 1 < job->threads + job->n_threads ? own + 1 : job->threads;
    for (int64_t w = begin; w < end; w++) {
        const int64_t last = piece_begin(job, w + 1);
        for (int64_t i0 = piece_begin(job, w); i0 < last; i0 += SLF_PANEL_TILE) {
            const int64_t tile = SLF_MIN(last - i0, SLF_PANEL_TILE);
            for (int64_t p0 = 0; p0 < job->panels; p0 += group) {
                const int64_t panels = SLF_MIN(job->panels - p0, group);
                multiply_tile(job, i0, tile, p0, panels, own->widened, own->products);
                for (int64_t p = 0; p < panels; p++)
                    job->call.cpu->kernels->collect(job, own->products + p * SLF_PANEL_TILE * job->columns, i0, tile,
                                                    p0 + p, &job->part[w * job->panels + p0 + p]);
            }
        }
    }
    atomic_flag_clear(&own->taken);
}

/* ---- a call ---- */

/* Stretches of PACKED columns of z, whose part of zt stays in the first cache, into zt; columns past the last are 0. */
static void pack_queries(void *user, int64_t begin, int64_t end) {
    const slf_panel_job *job = user;
    const int64_t dim = job->call.job->query->dim, columns = job->columns;
    /* A panel has its columns next to each other for each k: the product kernel then loads two whole vectors of zt and
     * never gathers. */
    for (int64_t k0 = begin * PACKED; k0 < dim && k0 < end * PACKED; k0 += PACKED) {
        const int64_t n = dim - k0 < PACKED ? dim - k0 : PACKED;
        for (int64_t r = 0; r < job->panels * columns; r++) {
            float *zt = job->zt + (r / columns * dim + k0) * columns + r % columns;
            const double *z = r < job->call.n_rows ? job->call.job->query->z + job->call.rows[r] * dim + k0 : NULL;
            for (int64_t k = 0; k < n; k++) zt[k * columns] = z ? (float)z[k] : 0;
        }
    }
}

/* The job's arrays for n query rows of D elements, which all count as workspace; those of the threads come last, and
 * do not, as they would not on their stacks. */
static uint64_t lay_out_panels(slf_panel_job *job, int64_t n, int64_t dim, slf_carver *block) {
    job->panels = (n + job->columns - 1) / job->columns;
    job->query_of = slf_carve(block, job->panels, sizeof *job->query_of);
    job->part = slf_carve(block, SHARES * job->panels, sizeof *job->part);
    job->zt = slf_carve(block, job->panels * dim * job->columns, sizeof *job->zt);
    const uint64_t workspace = block->used;
    job->threads = slf_carve(block, job->n_threads, sizeof *job->threads);
    return workspace;
}

/* A context without threads of its own has those of BLAS, whose gemm then does better, where there is work for them. */
int64_t slf_score_panels_rows(const slf_cpu *cpu, int64_t n, int64_t dim, int64_t block) {
    const slf_block_kernel *products = cpu->kernels->blocks[0];
    const uint64_t workspace = cpu->host.services.options->workspace_limit / 2;
    const bool threads_of_blas = cpu->host.services.options->threads == 0 && slf_blas_threads() > 1;
    if (!cpu->kernels->collect || (threads_of_blas && n * dim * block >= SLF_SMALL_WORK)) return 0;
    slf_panel_job job = {.columns = products->columns};
    while (n > 0 && lay_out_panels(&job, n, dim, &(slf_carver){0}) > workspace) n /= 2;
    return n;
}

salf_status slf_score_panels(const slf_score_call *call) {
    const slf_services *services = &call->cpu->host.services;
    const slf_block_kernel *products = call->cpu->kernels->blocks[0];
    const int64_t height = products->rows, blocks = (call->job->block->rows + height - 1) / height;
    const int64_t dim = call->job->query->dim;
    slf_panel_job job = {.call = *call,
                         .products = products,
                         .columns = products->columns,
                         .pieces = SLF_MIN(blocks, SHARES),
                         .n_threads = SLF_MAX(services->options->threads, 1)};
    slf_carver block = {0};
    lay_out_panels(&job, call->n_rows, dim, &block);
    block = (slf_carver){.base = services->alloc(services->context, block.used, 1)};
    if (!block.base) return SALF_E_NO_MEMORY;
    lay_out_panels(&job, call->n_rows, dim, &block);
    /* Columns past the last query row of the last panel are computed along with the others. With zeros for a query
     * they make harmless numbers, which nobody adds up, and which lie on no side of NaN. */
    memset(job.query_of, 0xff, (size_t)job.panels * sizeof *job.query_of);
    memset(job.part, 0, (size_t)(job.pieces * job.panels) * sizeof *job.part);
    for (int64_t t = 0; t < job.n_threads; t++) atomic_flag_clear(&job.threads[t].taken);
    /* What query rows are compared with. With a maximum the sums of all pieces begin at the one so far, so that few
     * have to be raised. */
    for (int64_t at = 0; at < call->n_rows; at++) {
        const int64_t p = at / job.columns, c = at % job.columns, r = call->rows[at];
        if (call->job->sums->count) {
            const slf_near near = slf_reference_near(call->job, r, SLF_UNIT_F32, slf_f32_chain(dim, SLF_PANEL_STRETCH));
            job.query_of[p].near[c] = near;
            job.query_of[p].low[c] = near.low;
            job.query_of[p].high[c] = near.high;
        }
        for (int64_t w = 0; w < job.pieces && call->job->sums->maximum; w++)
            job.part[w * job.panels + p].maximum[c] = call->job->sums->maximum[r];
    }
    services->parallel_for(services->context, (dim + PACKED - 1) / PACKED, 1, pack_queries, &job);
    services->parallel_for(services->context, job.pieces, 1, score_pieces, &job);
    /* In order of the pieces, whichever thread finished first: the sums are the same for any number of threads. Either
     * side may have the larger maximum; the sums of the other shrink to it. */
    const slf_score_sums *sums = call->job->sums;
    const double inverse_t = call->job->rule->inverse_temperature;
    for (int64_t i = 0; i < call->n_rows * job.pieces; i++) {
        const int64_t at = i / job.pieces, c = at % job.columns, r = call->rows[at];
        const slf_panel_sums *part = &job.part[i % job.pieces * job.panels + at / job.columns];
        double before = 1, here = 1;
        if (sums->maximum && part->maximum[c] > sums->maximum[r]) {
            before = exp((sums->maximum[r] - part->maximum[c]) * inverse_t);
            sums->maximum[r] = part->maximum[c];
        } else if (sums->maximum && part->maximum[c] < sums->maximum[r]) {
            here = exp((part->maximum[c] - sums->maximum[r]) * inverse_t);
        }
        if (sums->count) sums->count[r] += part->count[c];
        if (sums->sum) sums->sum[r] = sums->sum[r] * before + part->sum[c] * here;
        if (sums->weighted) sums->weighted[r] = sums->weighted[r] * before + part->weighted[c] * here;
    }
    slf_host_free(&call->cpu->host, block.base);
    return SALF_OK;
}
