/* parity.c - see parity.h. Oracles work in long double, by the definitions. */
#include "parity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "staged.h"

void *parity_zeros(int64_t count, size_t size) {
    void *memory = calloc((size_t)(count > 0 ? count : 1), size);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

double *parity_doubles(uint64_t *seed, int64_t count) {
    double *values = parity_zeros(count, sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = harness_normal(seed);
    return values;
}

static double from_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static double from_f16(uint16_t half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    if (exponent == 31) value = mantissa ? (double)NAN : (double)INFINITY;
    return half & 0x8000 ? -value : value;
}

/* Writes value as element i and returns what is there afterwards. */
static double put(void *storage, int32_t dtype, int64_t i, double value) {
    if (dtype == SALF_F64) return ((double *)storage)[i] = value;
    if (dtype == SALF_F32) return (double)(((float *)storage)[i] = (float)value);
    uint16_t *half = (uint16_t *)storage + i;
    *half = dtype == SALF_BF16 ? harness_to_bf16((float)value) : harness_to_f16((float)value);
    return dtype == SALF_BF16 ? from_bf16(*half) : from_f16(*half);
}

parity_matrix parity_matrix_of(const double *values, int64_t rows, int64_t cols, int32_t dtype, bool scattered) {
    const int64_t stride = scattered ? cols + 3 : cols, stored = scattered ? 2 * rows + 1 : rows;
    parity_matrix m = {.value = parity_zeros(rows * cols, sizeof(double))};
    m.storage = parity_zeros(stored * stride, 8);
    for (int64_t i = 0; i < stored * stride; i++) put(m.storage, dtype, i, (double)NAN);
    if (scattered) m.index = parity_zeros(rows, sizeof *m.index);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t row = scattered ? 2 * (rows - 1 - r) + 1 : r;
        if (scattered) m.index[r] = row;
        for (int64_t i = 0; i < cols; i++)
            m.value[r * cols + i] = put(m.storage, dtype, row * stride + i, values[r * cols + i]);
    }
    m.view = slf_tensor_host(m.storage, dtype, rows, cols);
    m.view.row_stride = scattered ? stride : 0;
    m.view.row_index = m.index;
    return m;
}

parity_matrix parity_normal(uint64_t *seed, int64_t rows, int64_t cols, int32_t dtype, bool scattered) {
    double *values = parity_doubles(seed, rows * cols);
    const parity_matrix m = parity_matrix_of(values, rows, cols, dtype, scattered);
    free(values);
    return m;
}

void parity_matrix_free(parity_matrix *matrix) {
    free(matrix->value);
    free(matrix->storage);
    free(matrix->index);
}

salf_context *parity_context(int32_t backend, int32_t threads) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = backend;
    options.threads = threads;
    salf_context *context = NULL;
    CHECK_OK(salf_context_create(&context, &options));
    return context;
}

/* ---- backends, and the instruction sets of the cpu backend ---- */

static const char *const levels[] = {"c", "avx2", "avx512"};
enum { LEVELS = sizeof levels / sizeof *levels };

/* A context for the next backend, or level of it, in *c; false past the last. at counts from 0: the reference, and the
 * cpu backend at each level that the processor has; or the plugin that the environment names, alone. */
static bool next_backend(int *at, parity_case *c) {
    salf_context *context = NULL;
    int32_t id = SALF_BACKEND_CUDA;
    const int last = harness_plugin() ? 0 : LEVELS;
    do {
        if (*at > last) return false;
        if (!harness_plugin()) id = *at == 0 ? SALF_BACKEND_REFERENCE : SALF_BACKEND_CPU;
        if (id == SALF_BACKEND_CPU) setenv("SALF_KERNELS", levels[*at - 1], 1);
        const salf_status status = harness_context_or_status(&context, id, NULL);
        unsetenv("SALF_KERNELS");
        ck_assert_msg(status == SALF_OK || (id == SALF_BACKEND_CPU && *at > 1), "%s", salf_last_error());
        ++*at;
    } while (!context);
    *c = (parity_case){.context = context,
                       .backend = staged_table(context->backend),
                       .impl = context->impl,
                       .id = id,
                       .dtype = SALF_F32};
    return true;
}

static void each_form(parity_case *c, void (*check)(const parity_case *c)) {
    static const int32_t dtypes[] = {SALF_F32, SALF_BF16, SALF_F16};
    for (size_t t = 0; t < 3; t++)
        for (int scattered = 0; scattered < 2; scattered++) {
            c->dtype = dtypes[t];
            c->scattered = scattered;
            check(c);
        }
}

/* Every second size is enough for what is slow (SALF_TEST_QUICK). */
void parity_each(void (*check)(const parity_case *c)) {
    static const int64_t dims[] = {1, 3, 7, 8, 17, 64, 129, 200}, rows[] = {0, 1, 2, 5, 33};
    const size_t step = getenv("SALF_TEST_QUICK") ? 2 : 1;
    parity_case c;
    for (int at = 0; next_backend(&at, &c);) {
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d += step)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r += step) {
                c.dim = dims[d];
                c.rows = dims[d] < 100 ? rows[r] : rows[r] / 3;
                each_form(&c, check);
            }
        salf_context_destroy(c.context);
    }
}

void parity_backends(int64_t dim, int64_t rows, void (*check)(const parity_case *c)) {
    parity_case c;
    for (int at = 0; next_backend(&at, &c);) {
        c.dim = dim;
        c.rows = rows;
        check(&c);
        salf_context_destroy(c.context);
    }
}

void parity_near(const parity_case *c, const char *what, int64_t at, double value, double expected, double tolerance) {
    const bool near = isnan(expected) ? isnan(value) : fabs(value - expected) <= tolerance;
    CHECK_EACH(near, "%s[%lld]: %.17g, expected %.17g within %.3g (%s %s, D %lld, rows %lld, %s%s)", what,
               (long long)at, value, expected, tolerance, c->backend->name, c->context->kernels, (long long)c->dim,
               (long long)c->rows, slf_dtype_name(c->dtype), c->scattered ? ", scattered" : "");
}

static void subtract_projection(long double *q, int64_t n, int64_t row) {
    for (int64_t k = 0; k < row; k++) {
        long double dot = 0;
        for (int64_t i = 0; i < n; i++) dot += q[row * n + i] * q[k * n + i];
        for (int64_t i = 0; i < n; i++) q[row * n + i] -= dot * q[k * n + i];
    }
}

long double *parity_orthogonal(uint64_t *seed, int64_t n) {
    long double *q = parity_zeros(n * n, sizeof *q);
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < n; i++) q[row * n + i] = (long double)harness_normal(seed);
        subtract_projection(q, n, row);
        subtract_projection(q, n, row); /* twice is enough for full orthogonality */
        long double square = 0;
        for (int64_t i = 0; i < n; i++) square += q[row * n + i] * q[row * n + i];
        for (int64_t i = 0; i < n; i++) q[row * n + i] /= sqrtl(square);
    }
    return q;
}

void parity_norm_row(const slf_norm *norm, const double *h, int64_t dim, long double *out) {
    long double mean = 0, square = 0;
    const bool layer = norm && norm->kind == SALF_NORM_LAYER;
    for (int64_t i = 0; layer && i < dim; i++) mean += (long double)h[i] / (long double)dim;
    for (int64_t i = 0; i < dim; i++) square += ((long double)h[i] - mean) * ((long double)h[i] - mean);
    const bool none = !norm || norm->kind == SALF_NORM_NONE;
    const long double scale = none ? 1 : 1 / sqrtl(square / (long double)dim + (long double)norm->eps);
    for (int64_t i = 0; i < dim; i++) {
        out[i] = ((long double)h[i] - mean) * scale;
        if (!none && norm->weight) out[i] *= (long double)norm->weight[i];
        if (!none && norm->bias) out[i] += (long double)norm->bias[i];
    }
}

long double parity_deviation(const slf_norm *norm, const double *h, const float *b, double norm_b, int64_t dim) {
    long double *x = parity_zeros(dim, sizeof *x), dot = 0, square = 0;
    bool zero = true;
    for (int64_t i = 0; i < dim; i++) zero = zero && !(h[i] < 0) && !(h[i] > 0);
    parity_norm_row(norm, h, dim, x);
    for (int64_t i = 0; i < dim; i++) {
        dot += x[i] * (long double)b[i];
        square += x[i] * x[i];
    }
    free(x);
    return zero || !(square > 0) || isinf((double)square) ? (long double)NAN
                                                          : 1 - dot / (sqrtl(square) * (long double)norm_b);
}

salf_status parity_cosine(const parity_case *c, const salf_tensor *states, const slf_norm *norm, slf_own_rows own,
                          double *out, int64_t out_stride) {
    const slf_cosine_job job = {.states = states, .norm = norm, .own = own, .out = out, .out_stride = out_stride};
    return c->backend->cosine(c->impl, &job);
}
