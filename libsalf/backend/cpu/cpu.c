/*
 * cpu.c - the cpu backend: the reference table with OpenBLAS and vector kernels over its hot slots.
 *
 * gram and apply convert blocks of rows to float64, in threads, and call dsyrk (rows D^2 / 2) and dgemm (rows D^2).
 */
#include "cpu.h"

#include <cblas.h>
#include <pthread.h>

#include "core/core.h"
#include "core/random.h"

enum { MOST_BLOCK = 32 << 20 }; /* bytes */

static pthread_mutex_t blas_lock = PTHREAD_MUTEX_INITIALIZER;
static int blas_users, blas_saved;

void slf_blas_enter(const slf_services *services) {
    if (services->options->threads <= 0) return;
    pthread_mutex_lock(&blas_lock);
    if (blas_users++ == 0) blas_saved = openblas_get_num_threads();
    openblas_set_num_threads(services->options->threads);
    pthread_mutex_unlock(&blas_lock);
}

void slf_blas_leave(const slf_services *services) {
    if (services->options->threads <= 0) return;
    pthread_mutex_lock(&blas_lock);
    if (--blas_users == 0) openblas_set_num_threads(blas_saved);
    pthread_mutex_unlock(&blas_lock);
}

static salf_status cpu_open(void **state, const slf_services *services) {
    slf_cpu_state *cpu = services->alloc(services->context, 1, sizeof *cpu);
    if (!cpu) return SALF_E_NO_MEMORY;
    cpu->host.services = *services;
    cpu->kernels = slf_kernels_select();
    *state = cpu;
    return SALF_OK;
}

static const char *cpu_kernels(const void *state) {
    return ((const slf_cpu_state *)state)->kernels->name;
}

/* Rows of a float64 block, of vectors vectors each, that fit half the workspace: many, since every block passes over
 * all of G or P. */
static int64_t block_rows(const slf_cpu_state *cpu, int64_t dim, int64_t vectors, int64_t rows) {
    const uint64_t limit = cpu->host.services.options->workspace_limit / 2;
    const int64_t bytes = limit < MOST_BLOCK ? (int64_t)limit : (int64_t)MOST_BLOCK;
    int64_t n = bytes / (8 * dim * vectors);
    n = n < rows ? n : rows;
    return n > 0 ? n : 1;
}

/* ---- work on rows, in threads ---- */

enum { SCAN_PIECES = 16, ROW_GRAIN = 16 };

/* A scan in pieces that do not depend on the number of threads. */
typedef struct {
    const slf_cpu_state *cpu;
    const salf_tensor *rows;
    int64_t first_row;
    int64_t pieces;
    float *room; /* [pieces][D] */
    uint64_t hash[SCAN_PIECES];
    int64_t bad_row[SCAN_PIECES]; /* -1: none */
} scan_job;

/* Row r as float32: where it is, or in room. */
static const float *float_row(const scan_job *job, int64_t r, float *room) {
    const salf_tensor *rows = job->rows;
    if (rows->dtype == SALF_F32) return slf_tensor_row(rows, r);
    job->cpu->kernels->widen(slf_tensor_row(rows, r), rows->dtype, rows->cols, room);
    return room;
}

static void scan_pieces(void *user, int64_t begin, int64_t end) {
    scan_job *job = user;
    const int64_t n = job->rows->rows, cols = job->rows->cols;
    for (int64_t p = begin; p < end; p++)
        for (int64_t r = n * p / job->pieces; r < n * (p + 1) / job->pieces; r++) {
            const float *row = float_row(job, r, job->room + p * cols);
            job->hash[p] += slf_row_hash(row, cols, job->first_row + r);
            if (job->bad_row[p] < 0 && !slf_reference_finite(row, cols)) job->bad_row[p] = r;
        }
}

static salf_status cpu_scan(void *state, const salf_tensor *rows, int64_t first_row, uint64_t *hash, int64_t *bad_row) {
    const slf_cpu_state *cpu = state;
    const slf_services *services = &cpu->host.services;
    if (rows->dtype != SALF_F32 && rows->dtype != SALF_BF16 && rows->dtype != SALF_F16)
        return slf_reference_scan(state, rows, first_row, hash, bad_row);
    scan_job job = {.cpu = cpu,
                    .rows = rows,
                    .first_row = first_row,
                    .pieces = rows->rows < SCAN_PIECES ? rows->rows : SCAN_PIECES};
    *bad_row = -1;
    if (job.pieces == 0) return SALF_OK;
    job.room = services->alloc(services->context, (uint64_t)(job.pieces * rows->cols), sizeof *job.room);
    if (!job.room) return SALF_E_NO_MEMORY;
    for (int64_t p = 0; p < job.pieces; p++) job.bad_row[p] = -1;
    services->parallel_for(services->context, job.pieces, 1, scan_pieces, &job);
    for (int64_t p = 0; p < job.pieces; p++) {
        *hash += job.hash[p];
        if (*bad_row < 0) *bad_row = job.bad_row[p];
    }
    slf_host_free(&cpu->host, job.room);
    return SALF_OK;
}

typedef struct {
    const salf_tensor *rows;
    int64_t first;
    double *x, *norms;
} row_job;

static void convert_rows(void *user, int64_t begin, int64_t end) {
    const row_job *job = user;
    for (int64_t k = begin; k < end; k++) slf_row_to_f64(job->rows, job->first + k, job->x + k * job->rows->cols);
}

static void measure_rows(void *user, int64_t begin, int64_t end) {
    const row_job *job = user;
    const int64_t dim = job->rows->cols;
    for (int64_t k = begin; k < end; k++) job->norms[job->first + k] = slf_reference_length(job->x + k * dim, dim);
}

/* Rows first ... first+n-1 in float64 in x [n][D]. */
static void convert(const slf_cpu_state *cpu, const salf_tensor *rows, int64_t first, int64_t n, double *x) {
    const slf_services *services = &cpu->host.services;
    row_job job = {rows, first, x, NULL};
    services->parallel_for(services->context, n, ROW_GRAIN, convert_rows, &job);
}

/* Lengths of rows y [n][D] in norms first ... first+n-1. */
static void measure(const slf_cpu_state *cpu, const salf_tensor *rows, int64_t first, int64_t n, double *y,
                    double *norms) {
    const slf_services *services = &cpu->host.services;
    row_job job = {rows, first, y, norms};
    services->parallel_for(services->context, n, ROW_GRAIN, measure_rows, &job);
}

/* ---- slots ---- */

static salf_status cpu_gram(void *state, const salf_tensor *rows, double *gram) {
    const slf_cpu_state *cpu = state;
    const int64_t dim = rows->cols, most = block_rows(cpu, dim, 1, rows->rows);
    double *x = slf_host_doubles(&cpu->host, most * dim);
    if (!x) return SALF_E_NO_MEMORY;
    slf_blas_enter(&cpu->host.services);
    for (int64_t r = 0; r < rows->rows; r += most) {
        const int64_t n = rows->rows - r < most ? rows->rows - r : most;
        convert(cpu, rows, r, n, x);
        cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)dim, (int)n, 1, x, (int)dim, 1, gram, (int)dim);
    }
    slf_blas_leave(&cpu->host.services);
    slf_host_free(&cpu->host, x);
    return SALF_OK;
}

/* out [rows][D] = X P, or with norms the lengths of its rows. */
static salf_status product(const slf_cpu_state *cpu, const double *p, const salf_tensor *rows, double *out,
                           double *norms) {
    const int64_t dim = rows->cols, most = block_rows(cpu, dim, 2, rows->rows);
    const int d = (int)dim;
    double *x = slf_host_doubles(&cpu->host, 2 * most * dim);
    if (!x) return SALF_E_NO_MEMORY;
    slf_blas_enter(&cpu->host.services);
    for (int64_t r = 0; r < rows->rows; r += most) {
        const int64_t n = rows->rows - r < most ? rows->rows - r : most;
        double *y = norms ? x + most * dim : out + r * dim;
        convert(cpu, rows, r, n, x);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, d, d, 1, x, d, p, d, 0, y, d);
        if (norms) measure(cpu, rows, r, n, y, norms);
    }
    slf_blas_leave(&cpu->host.services);
    slf_host_free(&cpu->host, x);
    return SALF_OK;
}

static salf_status cpu_apply(void *state, const double *p, const salf_tensor *rows, double *out) {
    return product(state, p, rows, out, NULL);
}

static salf_status cpu_apply_norms(void *state, const double *p, const salf_tensor *rows, double *norms) {
    return p ? product(state, p, rows, NULL, norms) : slf_reference_apply_norms(state, NULL, rows, norms);
}

const slf_backend slf_backend_cpu = {
    .abi_version = SLF_BACKEND_ABI,
    .size = sizeof(slf_backend),
    .id = SALF_BACKEND_CPU,
    .name = "cpu",
    .open = cpu_open,
    .close = slf_reference_close,
    .kernels = cpu_kernels,
    .alloc = slf_reference_alloc,
    .free = slf_reference_free,
    .host_alloc = slf_reference_alloc,
    .host_free = slf_reference_free,
    .copy = slf_reference_copy,
    .zero = slf_reference_zero,
    .fill = slf_reference_fill,
    .sync = slf_reference_sync,
    .event_create = slf_reference_event_create,
    .event_destroy = slf_reference_event_destroy,
    .event_record = slf_reference_event,
    .event_wait = slf_reference_event,
    .event_poll = slf_reference_event_poll,
    .scan = cpu_scan,
    .gram = cpu_gram,
    .factor = slf_cpu_factor,
    .apply = cpu_apply,
    .apply_norms = cpu_apply_norms,
    .narrow = slf_reference_narrow,
    .cosine = slf_cpu_cosine,
    .normalise = slf_reference_normalise,
    .judge = slf_reference_judge,
    .logit_targets = slf_reference_logit_targets,
    .score = slf_cpu_score,
    .cosine_loss = slf_reference_cosine_loss,
    .score_loss = slf_reference_score_loss,
};
