/*
 * cpu.c - the cpu backend: the reference table with products of matrices and vector kernels over its hot slots.
 *
 * scan, apply and query convert blocks of rows to float64, in threads, and multiply them: X^T X (rows D^2 / 2) and X P
 * (rows D^2). What is not here, in cosine.c, score.c or algebra.c, is bound by memory or rare, and the reference's.
 */
#include "cpu.h"

#include <string.h>

#include "core/core.h"
#include "core/fingerprint.h"

enum { MOST_BLOCK = 32 << 20 }; /* bytes */

salf_status slf_cpu_open(void **self, const slf_services *services, const char **kernels) {
    const slf_kernels *chosen;
    SLF_TRY(slf_blas_check(services));
    SLF_TRY(slf_kernels_choose(services, &chosen));
    /* The services are copied: the library's own struct lives on the stack of the call that opens. */
    slf_cpu *cpu = services->alloc(services->context, 1, sizeof *cpu);
    if (!cpu) return SALF_E_NO_MEMORY;
    cpu->host.services = *services;
    cpu->kernels = chosen;
    const salf_blas *host = services->options->blas;
    cpu->blas_name = host ? host->name : slf_cpu_blas_name();
    /* Others may add all D products one after another, as the reference BLAS does. */
    const bool known = !(host && host->product) && strcmp(slf_cpu_blas_name(), "cblas") != 0;
    cpu->stretch = known ? SLF_BLAS_STRETCH : INT64_MAX;
    *self = cpu;
    *kernels = cpu->kernels->name;
    return SALF_OK;
}

/* Rows of a float64 block, of vectors vectors each, that fit half the workspace (the other half is the caller's): many,
 * since every block passes over all of G or P, but at most 32 MiB, from where on a product gains nothing. */
static int64_t block_rows(const slf_cpu *cpu, int64_t dim, int64_t vectors, int64_t rows) {
    /* 8 bytes a number. What a block takes from memory is a row of the head; what it gives is D^2 operations a row, so
     * that large blocks only help until G or P is read often enough from the last cache. */
    const uint64_t limit = cpu->host.services.options->workspace_limit / 2;
    const int64_t bytes = (int64_t)SLF_MIN(limit, (uint64_t)MOST_BLOCK), fitting = bytes / (8 * dim * vectors);
    return SLF_MAX(SLF_MIN(fitting, rows), 1);
}

/* Rows first ... of a view in float64, x [..][D]; a loop over k of parallel_for. ROW_GRAIN rows at a time are work
 * enough to be worth another thread: some 16 KiB. */
enum { ROW_GRAIN = 16 };
typedef struct {
    const salf_tensor *rows;
    int64_t first;
    double *x;
} row_block;

static void convert_rows(void *user, int64_t begin, int64_t end) {
    const row_block *block = user;
    for (int64_t k = begin; k < end; k++)
        slf_row_to_f64(block->rows, block->first + k, block->x + k * block->rows->cols);
}

/* Y [n][D] = X P. */
static salf_status times_p(const slf_cpu *cpu, const double *x, const double *p, int64_t n, int64_t dim, double *y) {
    salf_product job = {.dtype = SALF_F64, .m = n, .n = dim, .k = dim, .a = x, .b = p, .c = y, .alpha = 1};
    job.a_stride = job.b_stride = job.c_stride = dim;
    return slf_cpu_product(cpu, &job);
}

/* ---- scan ---- */

/* A scan is cut in pieces that do not depend on the number of threads. The sum of hashes has no order, so this only
 * keeps the first bad row of each piece apart. */
enum { SCAN_PIECES = 16 };
typedef struct {
    const slf_cpu *cpu;
    const slf_scan_job *job;
    int64_t pieces;
    float *widened; /* [pieces][D]: a row as float32 */
    uint64_t hash[SCAN_PIECES];
    int64_t bad_row[SCAN_PIECES]; /* -1: none */
} piecewise_scan;

static void scan_pieces(void *user, int64_t begin, int64_t end) {
    piecewise_scan *scan = user;
    const salf_tensor *rows = scan->job->rows;
    const int64_t n = rows->rows, cols = rows->cols;
    for (int64_t p = begin; p < end; p++)
        for (int64_t r = n * p / scan->pieces; r < n * (p + 1) / scan->pieces; r++) {
            const float *row = slf_tensor_row(rows, r);
            if (rows->dtype != SALF_F32) {
                scan->cpu->kernels->widen(row, rows->dtype, cols, scan->widened + p * cols);
                row = scan->widened + p * cols;
            }
            scan->hash[p] += slf_row_hash(row, cols, scan->job->first_row + r);
            if (scan->bad_row[p] < 0 && !slf_reference_finite(row, cols)) scan->bad_row[p] = r;
        }
}

/* The rows are read twice where the Gram matrix is wanted, which costs nothing beside its D^2 operations a row; in
 * return the matrix never meets a row that is not finite. */
salf_status slf_cpu_scan(void *self, const slf_scan_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const salf_tensor *rows = job->rows;
    piecewise_scan scan = {.cpu = cpu, .job = job, .pieces = SLF_MIN(rows->rows, SCAN_PIECES)};
    *job->bad_row = -1;
    if (scan.pieces == 0) return SALF_OK;
    scan.widened = services->alloc(services->context, (uint64_t)(scan.pieces * rows->cols), sizeof *scan.widened);
    if (!scan.widened) return SALF_E_NO_MEMORY;
    for (int64_t p = 0; p < scan.pieces; p++) scan.bad_row[p] = -1;
    /* A row takes D steps of the hash, which are integers: no order of threads or pieces changes their sum. */
    services->parallel_for(services->context, scan.pieces, 1, scan_pieces, &scan);
    for (int64_t p = 0; p < scan.pieces; p++) {
        *job->hash += scan.hash[p];
        if (*job->bad_row < 0) *job->bad_row = scan.bad_row[p];
    }
    slf_host_free(&cpu->host, scan.widened);
    if (!job->gram || *job->bad_row >= 0) return SALF_OK;
    /* G += X^T X, block by block, in float64: a sum of V products of float32 numbers is exact enough only so. */
    const int64_t dim = rows->cols, most = block_rows(cpu, dim, 1, rows->rows);
    row_block block = {rows, 0, slf_host_doubles(&cpu->host, most * dim)};
    if (!block.x) return SALF_E_NO_MEMORY;
    salf_status status = SALF_OK;
    for (; block.first < rows->rows && status == SALF_OK; block.first += most) {
        const int64_t n = SLF_MIN(rows->rows - block.first, most), done = job->first_row + block.first + n;
        /* The threads of a BLAS work while ours wait, and the other way round: never both at once. */
        services->parallel_for(services->context, n, ROW_GRAIN, convert_rows, &block);
        status = slf_cpu_square(cpu, block.x, n, dim, 1, job->gram);
        if (status == SALF_OK) status = services->proceed(services->context, "Gram matrix", done, job->total);
    }
    slf_host_free(&cpu->host, block.x);
    return status;
}

/* ---- products with P ---- */

/* A block of an apply: rows x [n][D] and their products y [n][D], which are x itself without P. */
typedef struct {
    row_block x; /* first: what convert_rows takes */
    const slf_apply_job *job;
    double *y;
} apply_block;

static void keep_apply_rows(void *user, int64_t begin, int64_t end) {
    const apply_block *block = user;
    const int64_t dim = block->job->rows->cols;
    for (int64_t k = begin; k < end; k++)
        slf_reference_keep_row(block->job, block->x.first + k, block->x.x + k * dim, block->y + k * dim);
}

salf_status slf_cpu_apply(void *self, const slf_apply_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const int64_t dim = job->rows->cols, rows = job->rows->rows, most = block_rows(cpu, dim, 2, rows);
    double *memory = slf_host_doubles(&cpu->host, 2 * most * dim);
    if (!memory) return SALF_E_NO_MEMORY;
    apply_block block = {.x = {job->rows, 0, memory}, .job = job};
    salf_status status = SALF_OK;
    for (; block.x.first < rows && status == SALF_OK; block.x.first += most) {
        const int64_t n = SLF_MIN(rows - block.x.first, most);
        services->parallel_for(services->context, n, ROW_GRAIN, convert_rows, &block);
        block.y = memory; /* without P */
        if (job->p) {
            /* products go straight to where they are wanted; else to scratch, for the norms and the rounded rows */
            block.y = job->out ? job->out + block.x.first * dim : memory + most * dim;
            status = times_p(cpu, memory, job->p, n, dim, block.y);
        }
        if (status == SALF_OK) services->parallel_for(services->context, n, ROW_GRAIN, keep_apply_rows, &block);
    }
    slf_host_free(&cpu->host, memory);
    return status;
}

/* ---- queries ---- */

/* A block of a query: states h [n][D], which are z without P. */
typedef struct {
    const slf_query_job *job;
    int64_t first;
    double *h;
} query_block;

static void load_query_rows(void *user, int64_t begin, int64_t end) {
    const query_block *block = user;
    for (int64_t k = begin; k < end; k++)
        slf_reference_query_row(block->job, block->first + k, block->h + k * block->job->states->cols);
}

static void compare_query_rows(void *user, int64_t begin, int64_t end) {
    const slf_query_job *job = ((const query_block *)user)->job;
    const int64_t dim = job->states->cols;
    for (int64_t r = begin; r < end; r++) job->needs_f64[r] = slf_norm2(job->z + r * dim, dim) > job->limit;
}

salf_status slf_cpu_query(void *self, const slf_query_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const int64_t dim = job->states->cols, rows = job->states->rows;
    /* Rows of z that share a block: with P a block is read by every row of P, and large ones pay; without P each row
     * is done when it is loaded, so that one block holds all. */
    const int64_t most = job->p ? block_rows(cpu, dim, 2, rows) : SLF_MAX(rows, 1);
    query_block block = {.job = job, .h = job->z}; /* without P states are normed where z is wanted, at once */
    double *memory = NULL;
    if (job->p) {
        block.h = memory = slf_host_doubles(&cpu->host, most * dim);
        if (!memory) return SALF_E_NO_MEMORY;
    }
    salf_status status = SALF_OK;
    for (; block.first < rows && status == SALF_OK; block.first += most) {
        const int64_t n = SLF_MIN(rows - block.first, most);
        services->parallel_for(services->context, n, ROW_GRAIN, load_query_rows, &block);
        if (job->p) status = times_p(cpu, block.h, job->p, n, dim, job->z + block.first * dim);
        if (job->p) slf_reference_scale(job->z + block.first * dim, n * dim, job->gain);
    }
    slf_host_free(&cpu->host, memory);
    /* After all blocks: |z| is known only then, and P may have made it as long as 1 / sigma_min. */
    if (job->needs_f64 && status == SALF_OK)
        services->parallel_for(services->context, rows, ROW_GRAIN, compare_query_rows, &block);
    return status;
}

/* ---- the table ---- */

/* The reference's slots, and over them those that are faster here: the language lets a later initialiser replace an
 * earlier one, which compilers otherwise warn of. */
#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides"
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Woverride-init"
#endif
/* clang-format off */
const slf_backend slf_backend_cpu = {
    SLF_BACKEND_ABI,
    sizeof(slf_backend),
    SALF_BACKEND_CPU,
    0,
    "cpu",
    SLF_ROWS(slf_reference_)
    .open = slf_cpu_open,
    .scan = slf_cpu_scan,
    .matvec = slf_cpu_matvec,
    .potrf = slf_cpu_potrf,
    .potri = slf_cpu_potri,
    .syevd = slf_cpu_syevd,
    .syrk = slf_cpu_syrk,
    .apply = slf_cpu_apply,
    .query = slf_cpu_query,
    .cosine = slf_cpu_cosine,
    .score = slf_cpu_score,
};
/* clang-format on */
