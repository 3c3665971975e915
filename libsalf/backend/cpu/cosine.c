/*
 * cosine.c - one pass over the states: dot product with the basis row and squared length, in pieces of 1024 elements.
 *
 * Float32 lanes within a piece, float64 between pieces. RMS norm needs no pass of its own: its scale cancels. Rows that
 * float32 cannot hold (squares that overflow or vanish), LayerNorm and biases take the float64 path.
 */
#include <math.h>

#include "../../internal.h"
#include "cpu.h"

enum { PIECE = 1024 };

typedef struct {
    const slf_cpu_state *cpu;
    const salf_tensor *states;
    const slf_norm *norm;
    const float *basis;
    const double *norms;
    const int32_t *which;
    double *out;
    int64_t out_stride;
} cosine_job;

/* Elements first ... first+n-1 of a row as float32, in place where they are that already. */
static const float *piece_of(const cosine_job *job, const void *row, int64_t first, int64_t n, float *buffer) {
    const int32_t dtype = job->states->dtype;
    if (dtype == SALF_F32) return (const float *)row + first;
    job->cpu->kernels->widen((const char *)row + first * slf_dtype_size(dtype), dtype, n, buffer);
    return buffer;
}

/* NaN where float32 lanes are not to be trusted. */
static void cosine_rows(void *user, int64_t begin, int64_t end) {
    const cosine_job *job = user;
    const int64_t dim = job->states->cols;
    const float *weight = job->norm && job->norm->kind != SALF_NORM_NONE ? job->norm->weight : NULL;
    float buffer[PIECE], scaled[PIECE];
    for (int64_t r = begin; r < end; r++) {
        const void *row = slf_tensor_row(job->states, r);
        const float *b = job->basis + job->which[r] * dim;
        double dot = 0, square = 0;
        for (int64_t first = 0; first < dim; first += PIECE) {
            const int64_t n = dim - first < PIECE ? dim - first : PIECE;
            const float *h = piece_of(job, row, first, n, buffer);
            if (weight) {
                for (int64_t i = 0; i < n; i++) scaled[i] = h[i] * weight[first + i];
                h = scaled;
            }
            job->cpu->kernels->dot_square(h, b + first, n, &dot, &square);
        }
        const bool usable = square > 1e-25 && isfinite(square) && isfinite(dot);
        job->out[r * job->out_stride] = usable ? 1 - dot / (sqrt(square) * job->norms[job->which[r]]) : (double)NAN;
    }
}

salf_status slf_cpu_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                           const double *norms, const int32_t *which, double *out, int64_t out_stride) {
    const slf_cpu_state *cpu = state;
    if (norm && norm->kind != SALF_NORM_NONE && (norm->kind == SALF_NORM_LAYER || norm->bias))
        return slf_reference_cosine(state, states, norm, basis, norms, which, out, out_stride);
    cosine_job job = {cpu, states, norm, basis, norms, which, out, out_stride};
    const slf_services *services = &cpu->host.services;
    services->parallel_for(services->context, states->rows, 8, cosine_rows, &job);
    for (int64_t r = 0; r < states->rows; r++) {
        if (!isnan(out[r * out_stride])) continue;
        salf_tensor row = *states;
        row.row_index = row.row_index ? row.row_index + r : NULL;
        row.rows = 1;
        if (!row.row_index)
            row.data = (char *)row.data + r * (row.row_stride ? row.row_stride : row.cols) * slf_dtype_size(row.dtype);
        SLF_TRY(slf_reference_cosine(state, &row, norm, basis, norms, which + r, out + r * out_stride, 1));
    }
    return SALF_OK;
}
