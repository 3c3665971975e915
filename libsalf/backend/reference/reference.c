/*
 * reference.c - the reference backend: life, host memory, Gram matrix, products with P.
 *
 * Plain C in float64 throughout; the oracle of the other backends. gram: rows D^2 / 2 multiply-adds; apply: rows D^2.
 */
#include "reference.h"

#include <math.h>
#include <string.h>

#include "core/core.h"
#include "core/random.h"

double *slf_host_doubles(const slf_host_state *host, int64_t count) {
    return host->services.alloc(host->services.context, (uint64_t)count, sizeof(double));
}

void slf_host_free(const slf_host_state *host, void *memory) {
    if (memory) host->services.free(host->services.context, memory);
}

salf_status slf_reference_open(void **state, const slf_services *services) {
    slf_host_state *host = services->alloc(services->context, 1, sizeof *host);
    if (!host) return SALF_E_NO_MEMORY;
    host->services = *services;
    *state = host;
    return SALF_OK;
}

void slf_reference_close(void *state) {
    if (!state) return;
    const slf_services services = ((slf_host_state *)state)->services;
    services.free(services.context, state);
}

static const char *kernels(const void *state) {
    (void)state;
    return "c";
}

salf_status slf_reference_alloc(void *state, uint64_t bytes, void **memory) {
    const slf_host_state *host = state;
    void *made = host->services.alloc(host->services.context, bytes, 1);
    if (!made) return SALF_E_NO_MEMORY;
    *memory = made;
    return SALF_OK;
}

void slf_reference_free(void *state, void *memory) {
    slf_host_free(state, memory);
}

salf_status slf_reference_copy(void *state, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                               uint64_t bytes) {
    (void)state, (void)to_memory, (void)from_memory;
    if (bytes) memmove(to, from, (size_t)bytes);
    return SALF_OK;
}

salf_status slf_reference_zero(void *state, void *memory, uint64_t bytes) {
    (void)state;
    if (bytes) memset(memory, 0, (size_t)bytes);
    return SALF_OK;
}

salf_status slf_reference_fill(void *state, double *memory, int64_t count, double value) {
    (void)state;
    for (int64_t i = 0; i < count; i++) memory[i] = value;
    return SALF_OK;
}

salf_status slf_reference_sync(void *state) {
    (void)state;
    return SALF_OK;
}

/* Nothing is ever pending here: an event is a NULL that is always ready. */

salf_status slf_reference_event_create(void *state, void **event) {
    (void)state;
    *event = NULL;
    return SALF_OK;
}

void slf_reference_event_destroy(void *state, void *event) {
    (void)state, (void)event;
}

salf_status slf_reference_event(void *state, void *event) {
    (void)state, (void)event;
    return SALF_OK;
}

salf_status slf_reference_event_poll(void *state, void *event, int32_t *ready) {
    (void)state, (void)event;
    *ready = 1;
    return SALF_OK;
}

bool slf_reference_finite(const float *row, int64_t cols) {
    for (int64_t i = 0; i < cols; i++)
        if (!isfinite(row[i])) return false;
    return true;
}

salf_status slf_reference_scan(void *state, const salf_tensor *rows, int64_t first_row, uint64_t *hash,
                               int64_t *bad_row) {
    const slf_host_state *host = state;
    float *row = host->services.alloc(host->services.context, (uint64_t)rows->cols, sizeof *row);
    if (!row) return SALF_E_NO_MEMORY;
    *bad_row = -1;
    for (int64_t r = 0; r < rows->rows; r++) {
        slf_row_to_f32(rows, r, row);
        *hash += slf_row_hash(row, rows->cols, first_row + r);
        if (*bad_row < 0 && !slf_reference_finite(row, rows->cols)) *bad_row = r;
    }
    slf_host_free(host, row);
    return SALF_OK;
}

salf_status slf_reference_gram(void *state, const salf_tensor *rows, double *gram) {
    const int64_t dim = rows->cols;
    double *x = slf_host_doubles(state, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < rows->rows; r++) {
        slf_row_to_f64(rows, r, x);
        for (int64_t i = 0; i < dim; i++)
            for (int64_t j = i; j < dim; j++) gram[i * dim + j] += x[i] * x[j];
    }
    slf_host_free(state, x);
    return SALF_OK;
}

/* y = x P; P is symmetric. */
static void row_times(const double *p, const double *x, int64_t dim, double *y) {
    for (int64_t j = 0; j < dim; j++) y[j] = 0;
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j < dim; j++) y[j] += x[i] * p[i * dim + j];
}

salf_status slf_reference_apply(void *state, const double *p, const salf_tensor *rows, double *out) {
    const int64_t dim = rows->cols;
    double *x = slf_host_doubles(state, dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < rows->rows; r++) {
        slf_row_to_f64(rows, r, x);
        row_times(p, x, dim, out + r * dim);
    }
    slf_host_free(state, x);
    return SALF_OK;
}

double slf_reference_length(const double *x, int64_t dim) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

salf_status slf_reference_apply_norms(void *state, const double *p, const salf_tensor *rows, double *norms) {
    const int64_t dim = rows->cols;
    double *x = slf_host_doubles(state, 2 * dim);
    if (!x) return SALF_E_NO_MEMORY;
    for (int64_t r = 0; r < rows->rows; r++) {
        slf_row_to_f64(rows, r, x);
        if (p) row_times(p, x, dim, x + dim);
        norms[r] = slf_reference_length(p ? x + dim : x, dim);
    }
    slf_host_free(state, x);
    return SALF_OK;
}

salf_status slf_reference_narrow(void *state, const double *b, int64_t rows, int64_t dim, const double *w_norms,
                                 double noise, float *out, double *norms) {
    (void)state;
    for (int64_t r = 0; r < rows; r++) {
        const double length = slf_reference_length(b + r * dim, dim);
        const bool zero = length <= noise * w_norms[r];
        double square = 0;
        for (int64_t i = 0; i < dim; i++) {
            const float x = zero ? 0 : (float)b[r * dim + i];
            out[r * dim + i] = x;
            square += (double)x * (double)x;
        }
        norms[r] = sqrt(square);
    }
    return SALF_OK;
}

const slf_backend slf_backend_reference = {
    .abi_version = SLF_BACKEND_ABI,
    .size = sizeof(slf_backend),
    .id = SALF_BACKEND_REFERENCE,
    .name = "reference",
    .open = slf_reference_open,
    .close = slf_reference_close,
    .kernels = kernels,
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
    .scan = slf_reference_scan,
    .gram = slf_reference_gram,
    .factor = slf_reference_factor,
    .apply = slf_reference_apply,
    .apply_norms = slf_reference_apply_norms,
    .narrow = slf_reference_narrow,
    .cosine = slf_reference_cosine,
    .normalise = slf_reference_normalise,
    .judge = slf_reference_judge,
    .logit_targets = slf_reference_logit_targets,
    .score = slf_reference_score,
    .cosine_loss = slf_reference_cosine_loss,
    .score_loss = slf_reference_score_loss,
};
