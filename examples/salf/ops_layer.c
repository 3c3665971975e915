/*
 * ops_layer.c - norms, activations, rotary positions and soft caps, and their gradients. Cost: a few operations an
 * element; a pass of a norm reads its rows twice.
 */
#include <math.h>
#include <string.h>

#include "ops.h"
#include "ops_inline.h"

/* ---- norms ---- */

/* Sums over a row are sums of floats in lanes, the rest of a moment is in double: it is one number a row. The second
 * pass of a centred norm takes the mean off first, so that a large one does not cancel. */
VECTORISED void ops_norm_moments(const ops_norm *norm, const float *x, const int64_t *row, int64_t rows,
                                 float *moments) {
    const int64_t width = norm->width;
    for (int64_t i = 0; i < rows; i++) {
        const float *in = x + (row ? row[i] : i) * width;
        float mean = 0.0f, lane[LANES] = {0};
        int64_t j = 0;
        if (norm->centred) {
            double sum = 0.0;
            for (j = 0; j < width; j++) sum += (double)in[j];
            mean = (float)(sum / (double)width);
        }
        for (j = 0; j + LANES <= width; j += LANES) {
            for (int l = 0; l < LANES; l++) lane[l] += (in[j + l] - mean) * (in[j + l] - mean);
        }
        float rest = 0.0f;
        for (; j < width; j++) rest += (in[j] - mean) * (in[j] - mean);
        moments[2 * i] = mean;
        moments[2 * i + 1] = (float)(1.0 / sqrt((double)(sum_lanes(lane) + rest) / (double)width + norm->eps));
    }
}

VECTORISED void ops_norm_apply(const ops_norm *norm, const float *x, const float *moments, const int64_t *row,
                               int64_t rows, float *y) {
    const int64_t width = norm->width;
    const float *weight = norm->weight, *bias = norm->bias, plus = norm->plus;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t from = row ? row[i] : i;
        const float *in = x + from * width, mean = moments[2 * from], r = moments[2 * from + 1];
        float *restrict out = y + i * width;
        for (int64_t j = 0; j < width; j++) out[j] = (in[j] - mean) * r * (weight[j] + plus);
        for (int64_t j = 0; bias && j < width; j++) out[j] += bias[j];
    }
}

VECTORISED void ops_norm_weight_backward(const ops_norm *norm, const float *x, const float *moments, const int64_t *row,
                                         int64_t rows, const float *d_y) {
    const int64_t width = norm->width;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t from = row ? row[i] : i;
        const float *in = x + from * width, *dy = d_y + i * width, mean = moments[2 * from], r = moments[2 * from + 1];
        float *restrict dw = norm->d_weight, *restrict db = norm->d_bias;
        for (int64_t j = 0; dw && j < width; j++) dw[j] += dy[j] * (in[j] - mean) * r;
        for (int64_t j = 0; db && j < width; j++) db[j] += dy[j];
    }
}

/* With n the normalised row, g = (w + plus) d_y and <> a row's mean: d_x = r (g - n <n g>), centred also - r <g>. */
VECTORISED void ops_norm_backward(const ops_norm *norm, const float *x, const float *moments, const int64_t *row,
                                  int64_t rows, const float *d_y, float *d_x) {
    const int64_t width = norm->width;
    const float *weight = norm->weight, plus = norm->plus;
    ops_norm_weight_backward(norm, x, moments, row, rows, d_y);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t from = row ? row[i] : i;
        const float *in = x + from * width, *dy = d_y + i * width, mean = moments[2 * from], r = moments[2 * from + 1];
        float *restrict dx = d_x + i * width;
        float lane[LANES] = {0}, plain[LANES] = {0}, rest = 0.0f, plain_rest = 0.0f;
        int64_t j = 0;
        for (; j + LANES <= width; j += LANES) {
            for (int l = 0; l < LANES; l++) {
                const float g = (weight[j + l] + plus) * dy[j + l];
                lane[l] += g * (in[j + l] - mean);
                plain[l] += g;
            }
        }
        for (; j < width; j++) {
            rest += (weight[j] + plus) * dy[j] * (in[j] - mean);
            plain_rest += (weight[j] + plus) * dy[j];
        }
        const float along = (rest + sum_lanes(lane)) * r * r * r / (float)width;
        const float shift = norm->centred ? (plain_rest + sum_lanes(plain)) * r / (float)width : 0.0f;
        for (j = 0; j < width; j++) dx[j] += r * (weight[j] + plus) * dy[j] - along * (in[j] - mean) - shift;
    }
}

/* ---- activations ---- */

#define SQRT_HALF 0.70710678f
#define GELU_RATE 0.79788456f /* sqrt(2 / pi) */

/* act(x), and its derivative in *slope. silu = x s with s = 1 / (1 + exp(-x)): slope s + x s (1 - s). gelu = x Phi(x):
 * slope Phi + x phi, with Phi from erf; or x (1 + t) / 2 with t = tanh(rate (x + .044715 x^3)). kind is a constant
 * where this is called. */
VECTORISED_PART float activate(int32_t kind, float x, float *slope) {
    if (kind == OPS_SILU) {
        const float s = 1.0f / (1.0f + exp_float(-x)), y = x * s;
        *slope = s + y * (1.0f - s);
        return y;
    }
    if (kind == OPS_GELU) {
        const float below = 0.5f * (1.0f + erff(x * SQRT_HALF));
        *slope = below + x * (0.5f * GELU_RATE * exp_float(-0.5f * x * x));
        return x * below;
    }
    if (kind == OPS_GELU_TANH) {
        const float t = tanh_float(GELU_RATE * (x + 0.044715f * x * x * x));
        *slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * GELU_RATE * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * x * (1.0f + t);
    }
    *slope = x > 0.0f ? 1.0f : 0.0f;
    return x > 0.0f ? x : 0.0f;
}

/* A row: hidden = act(gate) * up, or with up NULL act(gate); with d_gate also the gradients. Parameters may be restrict
 * where gcc heeds it. */
VECTORISED_PART void activate_row(int32_t kind, int64_t width, const float *restrict gate, const float *restrict up,
                                  float *restrict hidden) {
    float slope;
    if (up) {
        for (int64_t j = 0; j < width; j++) hidden[j] = activate(kind, gate[j], &slope) * up[j];
    } else {
        for (int64_t j = 0; j < width; j++) hidden[j] = activate(kind, gate[j], &slope);
    }
}

VECTORISED_PART void activate_row_backward(int32_t kind, int64_t width, const float *restrict gate,
                                           const float *restrict up, const float *restrict dh, float *restrict d_gate,
                                           float *restrict d_up, float *restrict hidden) {
    for (int64_t j = 0; up && j < width; j++) {
        float slope;
        const float y = activate(kind, gate[j], &slope);
        d_gate[j] = dh[j] * up[j] * slope;
        d_up[j] = dh[j] * y;
        hidden[j] = y * up[j];
    }
    for (int64_t j = 0; !up && j < width; j++) {
        float slope;
        hidden[j] = activate(kind, gate[j], &slope);
        d_gate[j] = dh[j] * slope;
    }
}

/* Calls f with the kind as a constant, so that each kind has a loop of its own. */
#define FOR_KIND(kind, f, ...)         \
    switch (kind) {                    \
    case OPS_SILU:                     \
        f(OPS_SILU, __VA_ARGS__);      \
        break;                         \
    case OPS_GELU:                     \
        f(OPS_GELU, __VA_ARGS__);      \
        break;                         \
    case OPS_GELU_TANH:                \
        f(OPS_GELU_TANH, __VA_ARGS__); \
        break;                         \
    default:                           \
        f(OPS_RELU, __VA_ARGS__);      \
        break;                         \
    }

VECTORISED void ops_activate(int32_t kind, int32_t gated, const float *gate_up, int64_t rows, int64_t width,
                             float *hidden) {
    const int64_t step = gated ? 2 * width : width;
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = gate_up + i * step, *up = gated ? gate + width : NULL;
        FOR_KIND(kind, activate_row, width, gate, up, hidden + i * width)
    }
}

VECTORISED void ops_activate_backward(int32_t kind, int32_t gated, const float *gate_up, const int64_t *row,
                                      int64_t rows, int64_t width, const float *d_hidden, float *d_gate_up,
                                      float *hidden) {
    const int64_t step = gated ? 2 * width : width;
    for (int64_t i = 0; i < rows; i++) {
        const float *gate = gate_up + (row ? row[i] : i) * step, *up = gated ? gate + width : NULL;
        const float *dh = d_hidden + i * width;
        float *d_gate = d_gate_up + i * step, *d_up = d_gate + width, *h = hidden + i * width;
        FOR_KIND(kind, activate_row_backward, width, gate, up, dh, d_gate, d_up, h)
    }
}

/* ---- rotary positions ---- */

void ops_rope_table(float *table, int64_t positions, int64_t half, const double *frequencies, double factor) {
    for (int64_t p = 0; p < positions; p++) {
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)p * frequencies[i];
            table[2 * p * half + i] = (float)(factor * cos(angle));
            table[(2 * p + 1) * half + i] = (float)(factor * sin(angle));
        }
    }
}

/* (a, b) becomes (a cos - b sin, b cos + a sin), the pairs being the halves of what is rotated. The gradient turns
 * back. */
VECTORISED void ops_rope(float *x, int64_t n, int64_t stride, int64_t n_heads, int64_t head_dim, int64_t half,
                         const float *table, float direction) {
    for (int64_t p = 0; p < n; p++) {
        const float *cosine = table + 2 * p * half, *sine = cosine + half;
        for (int64_t h = 0; h < n_heads; h++) {
            float *restrict low = x + p * stride + h * head_dim, *restrict high = low + half;
            for (int64_t i = 0; i < half; i++) {
                const float a = low[i], b = high[i], s = direction * sine[i];
                low[i] = a * cosine[i] - b * s;
                high[i] = b * cosine[i] + a * s;
            }
        }
    }
}

/* ---- soft caps ---- */

VECTORISED void ops_softcap(float *x, int64_t n, float scale, float cap) {
    if (cap > 0.0f) {
        for (int64_t i = 0; i < n; i++) x[i] = cap * tanh_float(x[i] * (scale / cap));
    } else if (scale != 1.0f) {
        for (int64_t i = 0; i < n; i++) x[i] *= scale;
    }
}

/* tanh' = 1 - tanh^2. */
VECTORISED void ops_softcap_backward(float *d_x, const float *y, int64_t n, float scale, float cap) {
    if (cap > 0.0f) {
        for (int64_t i = 0; i < n; i++) d_x[i] *= scale * (1.0f - y[i] * y[i] / (cap * cap));
    } else if (scale != 1.0f) {
        for (int64_t i = 0; i < n; i++) d_x[i] *= scale;
    }
}
