/* score.h - a tile of the vocabulary at hand and the states it is scored against; shared by score.cu and
 * score_f64.cu. */
#ifndef SALF_CUDA_SCORE_H
#define SALF_CUDA_SCORE_H

#include "kernels.h"

struct score_tile {
    int64_t rows; /* of the tile */
    int64_t states, dim;
    int64_t first; /* token of row 0 where ids is NULL */
    const double *z;
    const int32_t *label;
    const double *target;
    const int32_t *needs_f64; /* [states], or NULL: float32 serves */
    const int32_t *ids;
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
