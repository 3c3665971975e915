/*
 * reference.c - the reference backend: life, host memory, Gram matrix, products with P.
 *
 * Plain C in float64 throughout; the oracle of the other backends. Of rows [n][D], a Gram matrix takes n D^2 / 2
 * multiply-adds, a product with P n D^2.
 */
#include "reference.h"

#include <math.h>
#include <string.h>

#include "core/core.h"
#include "core/fingerprint.h"

/* Scratch of the host backends goes through the context's hooks, so that a host sees and bounds it. */
double *slf_host_doubles(const slf_host *host, int64_t count) {
    return host->services.alloc(host->services.context, (uint64_t)count, sizeof(double));
}

void slf_host_free(const slf_host *host, void *memory) {
    if (memory) host->services.free(host->services.context, memory);
}

/* ---- life and memory: all of it is host memory, and nothing is ever pending ---- */

/* kernels are plain C whatever SALF_KERNELS says: this is the oracle. */
salf_status slf_reference_open(void **self, const slf_services *services, const char **kernels) {
    slf_host *host = services->alloc(services->context, 1, sizeof *host);
    if (!host) return SALF_E_NO_MEMORY;
    host->services = *services;
    *self = host;
    *kernels = "c";
    return SALF_OK;
}

void slf_reference_close(void *self) {
    if (!self) return;
    const slf_services services = ((slf_host *)self)->services;
    services.free(services.context, self);
}

/* Both kinds are host memory of the context's hooks. */
salf_status slf_reference_alloc(void *self, int32_t kind, uint64_t bytes, void **memory) {
    const slf_host *host = self;
    (void)kind;
    void *made = host->services.alloc(host->services.context, bytes, 1);
    if (!made) return SALF_E_NO_MEMORY;
    *memory = made;
    return SALF_OK;
}

void slf_reference_free(void *self, int32_t kind, void *memory) {
    if (kind != SLF_EVENT) slf_host_free(self, memory);
}

salf_status slf_reference_copy(void *self, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                               uint64_t bytes) {
    (void)self, (void)to_memory, (void)from_memory;
    if (bytes) memmove(to, from, (size_t)bytes);
    return SALF_OK;
}

salf_status slf_reference_fill(void *self, void *memory, int64_t count, double value) {
    (void)self;
    double *numbers = memory;
    for (int64_t i = 0; i < count; i++) numbers[i] = value;
    return SALF_OK;
}

salf_status slf_reference_sync(void *self) {
    (void)self;
    return SALF_OK;
}

/* No event is made: NULL is done, as the slot says. */
salf_status slf_reference_mark(void *self, void **event) {
    (void)self, (void)event;
    return SALF_OK;
}

salf_status slf_reference_wait(void *self, void *event, int32_t *ready) {
    (void)self, (void)event;
    if (ready) *ready = 1;
    return SALF_OK;
}

/* ---- the head ---- */

/* In a loop of its own: the row is in the cache. */
bool slf_reference_finite(const float *row, int64_t cols) {
    for (int64_t i = 0; i < cols; i++)
        if (!isfinite(row[i])) return false;
    return true;
}

/* The Gram matrix is summed in float64, as everywhere: its eigenvalues decide what is kept at 2^-52 of the largest. */
salf_status slf_reference_scan(void *self, const slf_scan_job *job) {
    const slf_host *host = self;
    const int64_t dim = job->rows->cols;
    float *row = host->services.alloc(host->services.context, (uint64_t)dim, sizeof *row);
    if (!row) return SALF_E_NO_MEMORY;
    *job->bad_row = -1;
    salf_status status = SALF_OK;
    for (int64_t r = 0; r < job->rows->rows && status == SALF_OK; r++) {
        if (job->gram)
            status = host->services.proceed(host->services.context, "Gram matrix", job->first_row + r, job->total);
        slf_row_to_f32(job->rows, r, row);
        *job->hash += slf_row_hash(row, dim, job->first_row + r);
        if (*job->bad_row < 0 && !slf_reference_finite(row, dim)) *job->bad_row = r;
        for (int64_t i = 0; job->gram && i < dim; i++)
            for (int64_t j = i; j < dim; j++) job->gram[i * dim + j] += (double)row[i] * (double)row[j];
    }
    slf_host_free(host, row);
    return status;
}

/* y may be where out wants it already. The norm of a rounded row is that of its float32 elements, as a file that holds
 * them would give it. |y| <= noise |x| says that nothing but rounding is left of x (see basis/factor.c); a comparison
 * with NaN is false, so that a row that is not finite stays, and shows. */
void slf_reference_keep_row(const slf_apply_job *job, int64_t r, const double *x, const double *y) {
    const int64_t dim = job->rows->cols;
    if (job->out && job->out + r * dim != y) memcpy(job->out + r * dim, y, (size_t)dim * sizeof *y);
    if (!job->norms && !job->rounded) return;
    const double length = slf_norm2(y, dim);
    if (!job->rounded) {
        job->norms[r] = length;
        return;
    }
    const bool zero = length <= job->noise * slf_norm2(x, dim);
    double square = 0;
    for (int64_t i = 0; i < dim; i++) {
        const float rounded = zero ? 0 : (float)y[i];
        job->rounded[r * dim + i] = rounded;
        square += (double)rounded * (double)rounded;
    }
    if (job->norms) job->norms[r] = sqrt(square);
}

/* y = x P; P is symmetric. */
void slf_reference_times_p(const double *p, const double *x, int64_t dim, double *y) {
    for (int64_t j = 0; j < dim; j++) y[j] = 0;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++) y[j] += x[i] * p[i * dim + j];
}

/* Row by row: nothing of size n * D is kept. */
salf_status slf_reference_apply(void *self, const slf_apply_job *job) {
    const int64_t dim = job->rows->cols;
    double *x = slf_host_doubles(self, 2 * dim);
    if (!x) return SALF_E_NO_MEMORY;
    double *y = x + dim;
    for (int64_t r = 0; r < job->rows->rows; r++) {
        slf_row_to_f64(job->rows, r, x);
        if (job->p) slf_reference_times_p(job->p, x, dim, y);
        slf_reference_keep_row(job, r, x, job->p ? y : x);
    }
    slf_host_free(self, x);
    return SALF_OK;
}

const slf_backend slf_backend_reference = {SLF_BACKEND_ABI, sizeof(slf_backend),     SALF_BACKEND_REFERENCE, 0,
                                           "reference",     SLF_ROWS(slf_reference_)};
