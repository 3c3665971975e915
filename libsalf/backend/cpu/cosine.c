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

/* A job with what all its rows share. */
typedef struct {
    const slf_cpu *cpu;
    const slf_cosine_job *job;
    const slf_norm *norm; /* NULL: nothing that changes a cosine */
    float *weight, *bias; /* [D], completed with ones and zeros; NULL without norm */
} lane_cosine;

/* Whether float32 lanes can be trusted with a sum of squares. A square below float32's smallest normal number, 1.2e-38,
 * loses bits or vanishes; D of them are below 1e-33 for any D up to 10^5. Where the sum exceeds 1e-25, what was lost is
 * less than 2^-24 of it, and of its root less than the 1e-7 that float32 rows have to begin with. */
static bool usable(double square) {
    return square > 1e-25 && isfinite(square);
}

/* The mean in two parts, so that h - mean keeps what one float32 subtraction would lose of it. */
static void set_shift(slf_affine *affine, double mean) {
    affine->high = (float)mean;
    affine->low = (float)(mean - (double)affine->high);
}

/* Each row by float32 lanes; NaN where these are not to be trusted. Passes over a row before that of the products: none
 * without a norm, and none for RMS without a bias, whose 1 / rms is a positive factor on the whole row, which a cosine
 * does not see; one for RMS with a bias; two for LayerNorm, whose variance is taken about the mean. The row is in the
 * cache after the first. */
static void cosine_rows(void *user, int64_t begin, int64_t end) {
    const lane_cosine *lanes = user;
    const slf_cosine_job *job = lanes->job;
    const salf_tensor *states = job->states;
    const slf_norm *norm = lanes->norm;
    const double dim = (double)states->cols;
    for (int64_t r = begin; r < end; r++) {
        const void *row = slf_tensor_row(states, r), *next = slf_tensor_row(states, r + 1 < end ? r + 1 : r);
        const int64_t own = job->own.row_of[r];
        slf_affine affine = {.scale = 1, .weight = lanes->weight, .bias = lanes->bias};
        double cosine = (double)NAN;
        bool serves = true; /* float32 lanes, so far */
        /* 1. shift and scale of the row's norm */
        if (norm && (norm->kind != SALF_NORM_RMS || norm->bias)) {
            slf_pair sums = lanes->cpu->kernels->reduce(row, states->dtype, states->cols, &affine, NULL, next);
            serves = usable(sums.second);
            if (serves && norm->kind == SALF_NORM_LAYER) {
                set_shift(&affine, sums.first / dim);
                sums = lanes->cpu->kernels->reduce(row, states->dtype, states->cols, &affine, NULL, next);
                serves = usable(sums.second);
                /* what is left of the mean: float32 sums of large elements lose that much */
                set_shift(&affine, (double)affine.high + (double)affine.low + sums.first / dim);
            }
            affine.scale = (float)(1 / sqrt(sums.second / dim + (double)norm->eps));
        }
        /* 2. its length and its product with the label's row */
        if (serves) {
            const slf_pair sums = lanes->cpu->kernels->reduce(row, states->dtype, states->cols, norm ? &affine : NULL,
                                                              job->own.rows + own * states->cols, next);
            const double lengths = sqrt(sums.second) * job->own.norms[own];
            /* Lanes also serve for the product of both: terms that vanish below 1.2e-38 are too small to be missed, and
             * no partial sum comes near 3e38. */
            const bool in_range = lengths > 1e-25 && lengths < 1e37;
            if (usable(sums.second) && in_range) cosine = sums.first / lengths;
        }
        job->out[r * job->out_stride] = job->similarity ? cosine : 1 - cosine;
    }
}

salf_status slf_cpu_cosine(void *self, const slf_cosine_job *job) {
    const slf_cpu *cpu = self;
    const slf_services *services = &cpu->host.services;
    const slf_norm *norm = job->norm;
    const bool plain_rms = norm && norm->kind == SALF_NORM_RMS && !norm->weight && !norm->bias;
    if (!job->out) return slf_reference_cosine(self, job); /* losses are made in float64 */
    lane_cosine lanes = {.cpu = cpu, .job = job, .norm = norm};
    if (!norm || norm->kind == SALF_NORM_NONE || plain_rms) lanes.norm = NULL;
    if (lanes.norm) { /* copies of weight and bias with what is absent filled in, so that lanes need not ask */
        const int64_t dim = job->states->cols;
        lanes.weight = services->alloc(services->context, 2 * (uint64_t)dim, sizeof(float));
        if (!lanes.weight) return SALF_E_NO_MEMORY;
        lanes.bias = lanes.weight + dim;
        for (int64_t i = 0; i < dim; i++) {
            lanes.weight[i] = norm->weight ? norm->weight[i] : 1;
            lanes.bias[i] = norm->bias ? norm->bias[i] : 0;
        }
    }
    /* 8 rows are a few microseconds of work at D = 4,096, which is what waking a thread costs. Each row stands alone,
     * so that how rows are shared out changes no bit. */
    services->parallel_for(services->context, job->states->rows, 8, cosine_rows, &lanes);
    slf_host_free(&cpu->host, lanes.weight);
    /* Rows that are NaN now, by the reference: in float64 some of them have a cosine. */
    for (int64_t r = 0; r < job->states->rows; r++) {
        slf_cosine_job one = *job;
        one.out += r * job->out_stride;
        if (!isnan(*one.out)) continue;
        const salf_tensor row = slf_tensor_slice(job->states, r, 1);
        one.states = &row;
        one.own.row_of += r;
        SLF_TRY(slf_reference_cosine(self, &one));
    }
    return SALF_OK;
}
