/*
 * cosine.c - deviations 1 - cos(norm(h), b), one row of states at a time.
 *
 * Without a norm one pass over a row gives h . b and |h|^2. RMS norm needs no pass of its own: its scale cancels. Where
 * a bias is added to it, and in LayerNorm, one or two passes before give the scale and the mean; the row is in the
 * cache by then. Rows that float32 cannot hold (squares that overflow or vanish) take the float64 path of the
 * reference. rows * D multiply-adds.
 */
#include <math.h>

#include "core/core.h"
#include "cpu.h"

typedef struct {
    const slf_cpu_state *cpu;
    void *state; /* the same, as the reference takes it */
    const salf_tensor *states;
    const slf_norm *norm; /* NULL: nothing that changes a cosine */
    float *weight, *bias; /* [D], completed with ones and zeros; NULL without norm */
    const float *basis;
    const double *norms;
    const int32_t *which;
    bool similarity;
    double *out;
    int64_t out_stride;
} cosine_job;

/* Whether float32 lanes can be trusted with a sum of squares. */
static bool usable(double square) {
    return square > 1e-25 && isfinite(square);
}

static void set_shift(slf_affine *affine, double mean) {
    affine->high = (float)mean;
    affine->low = (float)(mean - (double)affine->high);
}

/* The shift and scale of a row's norm; false when they need float64. */
static bool row_affine(const cosine_job *job, const void *row, const void *next, slf_affine *affine) {
    const int64_t dim = job->states->cols;
    *affine = (slf_affine){.scale = 1, .weight = job->weight, .bias = job->bias};
    if (job->norm->kind == SALF_NORM_RMS && !job->norm->bias) return true;
    slf_pair sums = job->cpu->kernels->reduce(row, job->states->dtype, dim, affine, NULL, next);
    if (!usable(sums.second)) return false;
    if (job->norm->kind == SALF_NORM_LAYER) {
        set_shift(affine, sums.first / (double)dim);
        sums = job->cpu->kernels->reduce(row, job->states->dtype, dim, affine, NULL, next);
        if (!usable(sums.second)) return false;
        /* what is left of the mean: float32 sums of large elements lose that much */
        set_shift(affine, (double)affine->high + (double)affine->low + sums.first / (double)dim);
    }
    affine->scale = (float)(1 / sqrt(sums.second / (double)dim + (double)job->norm->eps));
    return true;
}

/* NaN where float32 lanes are not to be trusted. */
static void cosine_rows(void *user, int64_t begin, int64_t end) {
    const cosine_job *job = user;
    const int64_t dim = job->states->cols;
    for (int64_t r = begin; r < end; r++) {
        const void *row = slf_tensor_row(job->states, r), *next = slf_tensor_row(job->states, r + 1 < end ? r + 1 : r);
        const float *b = job->basis + job->which[r] * dim;
        slf_affine affine;
        double cosine = (double)NAN;
        if (!job->norm || row_affine(job, row, next, &affine)) {
            const slf_pair sums =
                job->cpu->kernels->reduce(row, job->states->dtype, dim, job->norm ? &affine : NULL, b, next);
            if (usable(sums.second) && isfinite(sums.first))
                cosine = sums.first / (sqrt(sums.second) * job->norms[job->which[r]]);
        }
        job->out[r * job->out_stride] = job->similarity ? cosine : 1 - cosine;
    }
}

/* Rows that are NaN after cosine_rows, by the reference. */
static salf_status special_rows(const cosine_job *job, const slf_norm *norm) {
    for (int64_t r = 0; r < job->states->rows; r++) {
        double *out = job->out + r * job->out_stride;
        if (!isnan(*out)) continue;
        salf_tensor row = *job->states;
        const int64_t index = row.row_index ? row.row_index[r] : r;
        row.row_index = &index;
        row.rows = 1;
        SLF_TRY(slf_reference_cosine(job->state, &row, norm, job->basis, job->norms, job->which + r, job->similarity,
                                     out, 1));
    }
    return SALF_OK;
}

/* Copies of weight and bias [2][D] with what is absent filled in. */
static salf_status complete_norm(cosine_job *job) {
    const slf_services *services = &job->cpu->host.services;
    const int64_t dim = job->states->cols;
    job->weight = services->alloc(services->context, 2 * (uint64_t)dim, sizeof(float));
    if (!job->weight) return SALF_E_NO_MEMORY;
    job->bias = job->weight + dim;
    for (int64_t i = 0; i < dim; i++) {
        job->weight[i] = job->norm->weight ? job->norm->weight[i] : 1;
        job->bias[i] = job->norm->bias ? job->norm->bias[i] : 0;
    }
    return SALF_OK;
}

salf_status slf_cpu_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                           const double *norms, const int32_t *which, int32_t similarity, double *out,
                           int64_t out_stride) {
    const slf_cpu_state *cpu = state;
    cosine_job job = {.cpu = cpu,
                      .state = state,
                      .states = states,
                      .norm = norm,
                      .basis = basis,
                      .norms = norms,
                      .which = which,
                      .similarity = similarity != 0,
                      .out = out,
                      .out_stride = out_stride};
    const bool plain_rms = norm && norm->kind == SALF_NORM_RMS && !norm->weight && !norm->bias;
    if (!norm || norm->kind == SALF_NORM_NONE || plain_rms) job.norm = NULL;
    if (job.norm) SLF_TRY(complete_norm(&job));
    const slf_services *services = &cpu->host.services;
    services->parallel_for(services->context, states->rows, 8, cosine_rows, &job);
    const salf_status status = special_rows(&job, norm);
    slf_host_free(&cpu->host, job.weight);
    return status;
}
