/*
 * adamw.h - AdamW over a decoder's live groups.
 *
 *     m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *     w = w - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w)
 *
 * t counts the steps of the parameter's own group. A group that is not live is left alone bit for bit: no decay, no
 * drift of moments, no count. Moments exist only for groups that ever trained.
 */
#ifndef SALF_EXAMPLE_ADAMW_H
#define SALF_EXAMPLE_ADAMW_H

#include <stdint.h>

#include "decoder.h"

typedef struct adamw adamw;

/* 0 in a field means the default in brackets; a negative eps or decay is an error. */
typedef struct adamw_options {
    double beta1;        /* [0.9] */
    double beta2;        /* [0.999] */
    double eps;          /* [1e-8] */
    double weight_decay; /* [0] of matrices, not of norms and biases */
} adamw_options;

/* Over all trainable parameters of d, which must outlive it. options NULL: defaults. */
salf_status adamw_create(adamw **out, decoder *d, const adamw_options *options);
void adamw_free(adamw *optimizer);

/* Updates the live groups with rate lr, times rate_scale [m] for the layers (NULL: 1; a layer with scale 0 is left
 * alone). Errors: SALF_E_NO_MEMORY (moments of a group that trains for the first time; nothing is updated). */
salf_status adamw_step(adamw *optimizer, double lr, const double *rate_scale);
/* Forgets moments and count of a group; it starts afresh when it trains again. */
void adamw_reset(adamw *optimizer, int32_t group);

/* Bytes of all moments. */
int64_t adamw_bytes(const adamw *optimizer);

/* State for a checkpoint. Arrays of steps: [m + 2], group -1 first. */
int64_t *adamw_steps(adamw *optimizer);
/* First and second moments of parameter index (as in decoder_parameter_at), [count] each; NULL when it has none. */
void adamw_moments(adamw *optimizer, int64_t index, float **first, float **second);
/* The same after making them (zero) when they are not there: for loading. SALF_E_ARGUMENT: the parameter never trains.
 */
salf_status adamw_make_moments(adamw *optimizer, int64_t index, float **first, float **second);

#endif
