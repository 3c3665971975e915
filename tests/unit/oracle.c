#include "oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

void oracle_head(float *w, int64_t v, int64_t d, double spread, uint64_t seed) {
    uint64_t state = seed;
    for (int64_t i = 0; i < v; i++)
        for (int64_t j = 0; j < d; j++) {
            const double scale = pow(spread, d > 1 ? -(double)j / (double)(d - 1) : 0);
            w[i * d + j] = (float)(scale * harness_normal(&state));
        }
}

double oracle_dot(const double *x, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* One Jacobi rotation that zeroes a[p][q] of a symmetric matrix; columns of u follow. */
static void rotate(double *a, double *u, int64_t d, int64_t p, int64_t q) {
    const double apq = a[p * d + q];
    if (apq == 0) return;
    const double theta = (a[q * d + q] - a[p * d + p]) / (2 * apq);
    const double t = (theta >= 0 ? 1 : -1) / (fabs(theta) + sqrt(theta * theta + 1));
    const double c = 1 / sqrt(t * t + 1), s = t * c;
    for (int64_t k = 0; k < d; k++) {
        const double x = a[k * d + p], y = a[k * d + q];
        a[k * d + p] = c * x - s * y;
        a[k * d + q] = s * x + c * y;
    }
    for (int64_t k = 0; k < d; k++) {
        const double x = a[p * d + k], y = a[q * d + k];
        a[p * d + k] = c * x - s * y;
        a[q * d + k] = s * x + c * y;
    }
    for (int64_t k = 0; k < d; k++) {
        const double x = u[k * d + p], y = u[k * d + q];
        u[k * d + p] = c * x - s * y;
        u[k * d + q] = s * x + c * y;
    }
}

static void eigen(double *a, double *u, int64_t d) {
    memset(u, 0, (size_t)(d * d) * sizeof *u);
    for (int64_t i = 0; i < d; i++) u[i * d + i] = 1;
    for (int sweep = 0; sweep < 30; sweep++)
        for (int64_t p = 0; p < d; p++)
            for (int64_t q = p + 1; q < d; q++) rotate(a, u, d, p, q);
}

static double *gram_of(const float *w, int64_t v, int64_t d) {
    double *g = calloc((size_t)(d * d), sizeof *g);
    for (int64_t i = 0; i < v; i++)
        for (int64_t j = 0; j < d; j++)
            for (int64_t k = 0; k < d; k++) g[j * d + k] += (double)w[i * d + j] * (double)w[i * d + k];
    return g;
}

int64_t oracle_basis(const float *w, int64_t v, int64_t d, double rtol, double ridge, double *b) {
    double *g = gram_of(w, v, d), *u = calloc((size_t)(d * d), sizeof *u);
    double largest = 0;
    int64_t rank = 0;
    eigen(g, u, d);
    for (int64_t e = 0; e < d; e++) largest = fmax(largest, g[e * d + e]);
    memset(b, 0, (size_t)(v * d) * sizeof *b);
    for (int64_t e = 0; e < d; e++) {
        const double lambda = g[e * d + e];
        if (ridge <= 0 && lambda <= largest * fmax(rtol * rtol, 1e-14)) continue;
        rank++;
        for (int64_t i = 0; i < v; i++) {
            double along = 0;
            for (int64_t j = 0; j < d; j++) along += (double)w[i * d + j] * u[j * d + e];
            for (int64_t j = 0; j < d; j++) b[i * d + j] += along / (lambda + ridge) * u[j * d + e];
        }
    }
    free(g);
    free(u);
    return rank;
}

double oracle_cosine(const float *h, const double *b, int64_t n) {
    double hb = 0, hh = 0;
    for (int64_t i = 0; i < n; i++) {
        hb += (double)h[i] * b[i];
        hh += (double)h[i] * (double)h[i];
    }
    const double bb = oracle_dot(b, b, n);
    return bb > 0 ? hb / sqrt(hh * bb) : 0;
}

bool oracle_is_metric(int32_t metric) {
    return salf_constant_word("SALF_METRIC", metric) != NULL;
}

bool oracle_walks(int32_t metric) {
    return metric != SALF_METRIC_COSINE;
}

double oracle_metric(int32_t metric, const double *scores, int64_t n, int64_t own, double t) {
    double sum = 0, rank = 0, most = scores[own];
    for (int64_t i = 0; i < n; i++) most = fmax(most, scores[i]);
    for (int64_t i = 0; i < n; i++) {
        sum += exp((scores[i] - most) / t);
        rank += i != own && scores[i] > scores[own];
    }
    switch (metric) {
    case SALF_METRIC_COSINE:
        return 1 - scores[own];
    case SALF_METRIC_CE:
        return (most - scores[own]) / t + log(sum);
    case SALF_METRIC_RANK:
        return rank;
    default:
        return (double)NAN; /* a metric without a reading fails every comparison */
    }
}

double oracle_deviation(int32_t metric, const float *h, const double *b, int64_t v, int64_t d, int32_t label, double t,
                        const int32_t *ids, int64_t n) {
    const int64_t count = ids ? n : v;
    int64_t own = -1;
    double *scores = calloc((size_t)count, sizeof *scores);
    for (int64_t i = 0; i < count; i++) {
        const int64_t id = ids ? ids[i] : i;
        scores[i] = oracle_cosine(h, b + id * d, d);
        if (id == label) own = i;
    }
    const double deviation = oracle_metric(metric, scores, count, own, t);
    free(scores);
    return deviation;
}

salf_tensor oracle_view(const void *data, int32_t dtype, int64_t rows, int64_t cols) {
    salf_tensor view = {.rows = rows, .cols = cols, .dtype = dtype};
    memcpy(&view.data, &data, sizeof data); /* inputs are never written through */
    return view;
}

salf_model *oracle_model(salf_context *context, const float *w, int64_t v, int64_t d, int32_t n_layers) {
    salf_model_options options;
    salf_options_init(&options, sizeof options);
    options.n_layers = n_layers;
    options.hidden = d;
    options.vocab = v;
    options.head = oracle_view(w, SALF_F32, v, d);
    options.tied = 1;
    options.norm_kind = SALF_NORM_RMS;
    salf_model *model;
    CHECK_OK(salf_model_create(&model, context, &options));
    return model;
}
