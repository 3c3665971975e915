/* score.h - a tile of the vocabulary at hand and the states it is scored against; shared by score.cu and
 * score_f64.cu. */
#ifndef SALF_CUDA_SCORE_H
#define SALF_CUDA_SCORE_H

#include "kernels.h"

struct score_tile {
    int64_t rows; /* of the tile */
    int64_t states, dim;
    slf_rows x;
    const double *z;
    const double *target, *reach; /* [states] */
    slf_rows own;                 /* the labels' rows, and which of them each state has */
    const int32_t *own_of;
    const int32_t *needs_f64; /* [states], or NULL: float32 serves */
    const double *inverse_norm;
    const float *bias;
    int32_t exponents; /* more than the count is wanted */
    slf_score_rule rule;
    slf_score_sums sums;
};

/* For states that tile.needs_f64 marks: products [states][rows] = z_r . x_i. */
salf_status slf_products_f64(slf_device *device, const score_tile &tile, const slf_rows &x, double *products);
/* For the same: sums.vector [states][D] += weights [states][rows] X. */
salf_status slf_vector_f64(slf_device *device, const score_tile &tile, const slf_rows &x, const double *weights);

#endif
