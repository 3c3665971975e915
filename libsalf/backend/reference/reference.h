/* reference.h - functions of the reference backend that other host backends keep in their tables. */
#ifndef SALF_REFERENCE_H
#define SALF_REFERENCE_H

#include <stdbool.h>

#include "../backend.h"

/* State of a backend in host memory; slot functions of the reference accept any state that begins with it. */
typedef struct slf_host_state {
    slf_services services;
} slf_host_state;

/* count doubles through the services; NULL with the message set. */
double *slf_host_doubles(const slf_host_state *host, int64_t count);
void slf_host_free(const slf_host_state *host, void *memory);
/* The final norm applied in place to one row h [dim]. */
void slf_reference_norm_row(const slf_norm *norm, int64_t dim, double *h);
/* Whether all of x [n] are finite. */
bool slf_reference_finite(const float *x, int64_t n);
double slf_reference_length(const double *x, int64_t dim);

salf_status slf_reference_open(void **state, const slf_services *services);
void slf_reference_close(void *state);
salf_status slf_reference_alloc(void *state, uint64_t bytes, void **memory);
void slf_reference_free(void *state, void *memory);
salf_status slf_reference_copy(void *state, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                               uint64_t bytes);
salf_status slf_reference_zero(void *state, void *memory, uint64_t bytes);
salf_status slf_reference_fill(void *state, double *memory, int64_t count, double value);
salf_status slf_reference_sync(void *state);
salf_status slf_reference_event_create(void *state, void **event);
void slf_reference_event_destroy(void *state, void *event);
salf_status slf_reference_event(void *state, void *event); /* record and wait */
salf_status slf_reference_event_poll(void *state, void *event, int32_t *ready);
salf_status slf_reference_scan(void *state, const salf_tensor *rows, int64_t first_row, uint64_t *hash,
                               int64_t *bad_row);
salf_status slf_reference_gram(void *state, const salf_tensor *rows, double *gram);
salf_status slf_reference_factor(void *state, int64_t dim, double *gram, const slf_factor_request *request,
                                 slf_factor_result *result);
salf_status slf_reference_apply(void *state, const double *p, const salf_tensor *rows, double *out);
salf_status slf_reference_apply_norms(void *state, const double *p, const salf_tensor *rows, double *norms);
salf_status slf_reference_narrow(void *state, const double *b, int64_t rows, int64_t dim, const double *w_norms,
                                 double noise, float *out, double *norms);
salf_status slf_reference_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                                 const double *norms, const int32_t *which, int32_t similarity, double *out,
                                 int64_t out_stride);
salf_status slf_reference_normalise(void *state, const salf_tensor *states, const slf_norm *norm, int32_t unit,
                                    double *out);
salf_status slf_reference_judge(void *state, const double *z, int64_t rows, int64_t dim, double most, int32_t *wide);
salf_status slf_reference_logit_targets(void *state, const double *z, int64_t rows, const salf_tensor *w,
                                        const int32_t *which, const float *bias, const slf_score_rule *rule,
                                        double *target);
salf_status slf_reference_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                                const int32_t *ids, const double *inverse_norm, const float *bias,
                                const slf_score_rule *rule, const slf_score_sums *sums);
salf_status slf_reference_cosine_loss(void *state, const salf_tensor *states, const float *basis, const double *norms,
                                      const int32_t *which, double scale, float *loss, const salf_tensor *gradient);
salf_status slf_reference_score_loss(void *state, const salf_tensor *states, const slf_query *query,
                                     const slf_score_rule *rule, const slf_score_sums *sums, const double *p,
                                     const float *basis, const double *norms, const int32_t *which, double scale,
                                     float *loss, const salf_tensor *gradient);

#endif
