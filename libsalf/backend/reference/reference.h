/* reference.h - functions of the reference backend that other host backends keep in their tables. */
#ifndef SALF_REFERENCE_H
#define SALF_REFERENCE_H

#include <stdbool.h>

#include "../backend.h"

/* What a backend in host memory is; slots of the reference accept any self that begins with it. */
typedef struct slf_host {
    slf_services services;
} slf_host;

/* count doubles through the services; NULL with the message set. */
double *slf_host_doubles(const slf_host *host, int64_t count);
void slf_host_free(const slf_host *host, void *memory);
/* The final norm applied in place to one row h [dim]. */
void slf_reference_norm_row(const slf_norm *norm, int64_t dim, double *h);
/* One row of a query, h [dim]: normed, and scaled to length 1 where unit is 1; NaN for a zero state then. */
void slf_reference_query_row(const slf_query_job *job, int64_t r, double *h);
/* y = x P, both [dim]; P is symmetric. */
void slf_reference_times_p(const double *p, const double *x, int64_t dim, double *y);
/* Row y [dim] of a product, of the row x, as job wants it in row r of its results. */
void slf_reference_keep_row(const slf_apply_job *job, int64_t r, const double *x, const double *y);
/* Whether all of x [n] are finite. */
bool slf_reference_finite(const float *x, int64_t n);
/* a . b, in the order that targets are made in. */
double slf_reference_dot(const double *a, const double *b, int64_t dim);
void slf_reference_scale(double *x, int64_t dim, double factor);

/* What rounding might decide for a query row, as slf_score_job has it. A score above high is above and one below low is
 * not; between them slf_reference_above has to be asked. */
typedef struct slf_near {
    double low, high;
    double close; /* distance from the target within which a score is made again in float64 ... */
    double tie;   /* and by how much it then has to exceed the target */
} slf_near;
/* For products whose sums are rounded by unit in chains of so many additions, the target's among them where it has that
 * unit too. NaN, so that nothing counts, for a state without a direction. */
slf_near slf_reference_near(const slf_score_job *job, int64_t r, double unit, int64_t chain);
/* Whether row i of the block, whose score is s but for rounding, is above the target of query row r. */
bool slf_reference_above(const slf_score_job *job, int64_t r, int64_t i, double s, const slf_near *near);

SLF_PROTOTYPES(slf_reference_)

#endif
