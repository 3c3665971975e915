/*
 * oracle.h - plain double-precision readings of what the library computes, for small matrices; and models made of them.
 */
#ifndef SALF_TEST_ORACLE_H
#define SALF_TEST_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "salf.h"

/* A random head [v][d] whose columns shrink to 1 / spread of the first. */
void oracle_head(float *w, int64_t v, int64_t d, double spread, uint64_t seed);

/* B [v][d], rows of the transposed pseudo-inverse of w; singular values <= rtol * largest are dropped; a ridge is added
 * to the squares of all when ridge > 0. By Jacobi rotations on W^T W. Returns the rank. */
int64_t oracle_basis(const float *w, int64_t v, int64_t d, double rtol, double ridge, double *b);

double oracle_dot(const double *x, const double *y, int64_t n);
/* cos(h, b); 0 for b = 0. */
double oracle_cosine(const float *h, const double *b, int64_t n);
/* Loops over metrics run from 0 while this is true, so that they meet one that is added to salf.h. */
bool oracle_is_metric(int32_t metric);
/* Whether a metric needs the scores of the whole vocabulary. */
bool oracle_walks(int32_t metric);
/* The deviation of a metric from scores [n], of which number own is the right token's: 1 - s, log sum exp(s / t) - s_l
 * / t, or the rank. A new metric has its plain reading here. */
double oracle_metric(int32_t metric, const double *scores, int64_t n, int64_t own, double t);
/* The same from cosines with the rows b of the tokens ids [n] (NULL: all v). */
double oracle_deviation(int32_t metric, const float *h, const double *b, int64_t v, int64_t d, int32_t label, double t,
                        const int32_t *ids, int64_t n);

/* Model of n_layers with this float32 head (also its embedding) and an RMS norm without weights. */
salf_model *oracle_model(salf_context *context, const float *w, int64_t v, int64_t d, int32_t n_layers);
salf_tensor oracle_view(const void *data, int32_t dtype, int64_t rows, int64_t cols);

#endif
