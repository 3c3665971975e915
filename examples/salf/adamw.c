/*
 * adamw.c - see adamw.h for the formula. Cost: a dozen operations a parameter of a live group. Memory: 8 bytes a
 * parameter of the groups that ever trained.
 */
#include "adamw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decoder_internal.h"
#include "memory.h"
#include "vectorised.h"

/* sqrtf may set errno, which keeps gcc from vectorising it; its arguments here are never negative. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno")
#endif

/* Moments are made when a group first trains: most of a frozen model never has any. */
struct adamw {
    decoder *d;
    adamw_options options;
    int64_t *steps;  /* [m + 2] */
    float **moments; /* [n_parameters]: [2][count], first moments then second; NULL: never trained */
};

/* With beta 1 the bias correction 1 - beta^t would be 0. */
static salf_status check_adamw_options(const adamw_options *o) {
    if (!(o->beta1 >= 0.0 && o->beta1 < 1.0)) return decoder_fail(SALF_E_ARGUMENT, "beta1 is %g", o->beta1);
    if (!(o->beta2 >= 0.0 && o->beta2 < 1.0)) return decoder_fail(SALF_E_ARGUMENT, "beta2 is %g", o->beta2);
    if (!(o->eps > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "eps is %g", o->eps);
    if (!(o->weight_decay >= 0.0)) return decoder_fail(SALF_E_ARGUMENT, "weight_decay is %g", o->weight_decay);
    return SALF_OK;
}

salf_status adamw_create(adamw **out, decoder *d, const adamw_options *options) {
    *out = NULL;
    adamw_options o = options ? *options : (adamw_options){0};
    if (o.beta1 == 0.0) o.beta1 = 0.9;
    if (o.beta2 == 0.0) o.beta2 = 0.999;
    if (o.eps == 0.0) o.eps = 1e-8;
    const salf_status status = check_adamw_options(&o);
    if (status) return status;
    adamw *a = memory_take(1, sizeof *a);
    if (!a) return decoder_fail(SALF_E_NO_MEMORY, "no memory for an optimizer");
    a->d = d;
    a->options = o;
    a->steps = memory_take((int64_t)d->config.n_layers + 2, sizeof *a->steps);
    a->moments = memory_take(d->n_parameters, sizeof *a->moments);
    if (!a->steps || !a->moments) {
        adamw_free(a);
        return decoder_fail(SALF_E_NO_MEMORY, "no memory for an optimizer");
    }
    *out = a;
    return SALF_OK;
}

void adamw_free(adamw *optimizer) {
    if (!optimizer) return;
    for (int64_t i = 0; optimizer->moments && i < optimizer->d->n_parameters; i++) free(optimizer->moments[i]);
    free(optimizer->moments);
    free(optimizer->steps);
    free(optimizer);
}

int64_t adamw_bytes(const adamw *optimizer) {
    int64_t count = 0;
    for (int64_t i = 0; i < optimizer->d->n_parameters; i++)
        if (optimizer->moments[i]) count += 2 * optimizer->d->parameters[i].count;
    return count * (int64_t)sizeof(float);
}

int64_t *adamw_steps(adamw *optimizer) {
    return optimizer->steps;
}

void adamw_moments(adamw *optimizer, int64_t index, float **first, float **second) {
    float *moments = optimizer->moments[index];
    *first = moments;
    *second = moments ? moments + optimizer->d->parameters[index].count : NULL;
}

salf_status adamw_make_moments(adamw *optimizer, int64_t index, float **first, float **second) {
    const decoder_parameter *p = decoder_parameter_at(optimizer->d, index);
    if (!p || !p->trains) return decoder_fail(SALF_E_ARGUMENT, "parameter %lld does not train", (long long)index);
    if (!optimizer->moments[index]) optimizer->moments[index] = memory_take(p->count, 2 * sizeof(float));
    if (!optimizer->moments[index]) return decoder_fail(SALF_E_NO_MEMORY, "no memory for the moments of %s", p->name);
    adamw_moments(optimizer, index, first, second);
    return SALF_OK;
}

/* As if the group had never trained. */
void adamw_reset(adamw *optimizer, int32_t group) {
    optimizer->steps[group + 1] = 0;
    for (int64_t i = 0; i < optimizer->d->n_parameters; i++) {
        if (optimizer->d->parameters[i].group != group) continue;
        free(optimizer->moments[i]);
        optimizer->moments[i] = NULL;
    }
}

/* Factor on the rate of a group; 0 leaves it alone. The embedding and the head have no factor of their own. */
static double group_scale(const decoder *d, int32_t group, const double *rate_scale) {
    if (!decoder_is_live(d, group)) return 0.0;
    return rate_scale && group >= 0 && group < d->config.n_layers ? rate_scale[group] : 1.0;
}

typedef struct coefficients {
    float beta1;
    float beta2;
    float rate;       /* lr / (1 - beta1^t) */
    float correction; /* 1 / (1 - beta2^t) */
    float eps;
    float keep; /* 1 - lr * decay */
} coefficients;

/* The bias corrections of step t are the same for all elements, so that an element costs one division. */
static coefficients coefficients_at(const adamw_options *o, int64_t t, double lr, int32_t decays) {
    return (coefficients){.beta1 = (float)o->beta1,
                          .beta2 = (float)o->beta2,
                          .rate = (float)(lr / (1.0 - pow(o->beta1, (double)t))),
                          .correction = (float)(1.0 / (1.0 - pow(o->beta2, (double)t))),
                          .eps = (float)o->eps,
                          .keep = decays ? (float)(1.0 - lr * o->weight_decay) : 1.0f};
}

VECTORISED static void update_values(const coefficients *c, int64_t n, const float *restrict g, float *restrict first,
                                     float *restrict second, float *restrict w) {
    const coefficients k = *c;
    for (int64_t i = 0; i < n; i++) {
        first[i] = k.beta1 * first[i] + (1.0f - k.beta1) * g[i];
        second[i] = k.beta2 * second[i] + (1.0f - k.beta2) * g[i] * g[i];
        w[i] = k.keep * w[i] - k.rate * first[i] / (sqrtf(second[i] * k.correction) + k.eps);
    }
}

salf_status adamw_step(adamw *optimizer, double lr, const double *rate_scale) {
    decoder *d = optimizer->d;
    float *first, *second;
    /* 1. all memory first, so that a failure leaves every parameter as it was */
    for (int64_t i = 0; i < d->n_parameters; i++) {
        const decoder_parameter *p = &d->parameters[i];
        if (!p->gradient || group_scale(d, p->group, rate_scale) == 0.0) continue;
        const salf_status status = adamw_make_moments(optimizer, i, &first, &second);
        if (status) return status;
    }
    /* 2. a group counts its own steps, frozen ones do not: t is what its moments have seen */
    for (int32_t group = DECODER_EMBEDDING; group <= d->config.n_layers; group++) {
        if (group_scale(d, group, rate_scale) != 0.0) optimizer->steps[group + 1]++;
    }
    /* 3. the formula */
    for (int64_t i = 0; i < d->n_parameters; i++) {
        decoder_parameter *p = &d->parameters[i];
        const double scale = group_scale(d, p->group, rate_scale);
        if (!p->gradient || scale == 0.0) continue;
        adamw_moments(optimizer, i, &first, &second);
        const coefficients c =
            coefficients_at(&optimizer->options, optimizer->steps[p->group + 1], lr * scale, p->decays);
        update_values(&c, p->count, p->gradient, first, second, p->values);
    }
    return SALF_OK;
}
