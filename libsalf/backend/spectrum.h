/* spectrum.h - what a basis makes of the eigenvalues of a Gram matrix; shared by the backends, also by plugins, which
 * link nothing of the library. */
#ifndef SALF_SPECTRUM_H
#define SALF_SPECTRUM_H

#include <float.h>
#include <math.h>

#include "backend.h"

/* Eigenvalues lambda [dim], in any order, become the weights f(lambda) of P = Q diag(f) Q^T: 1 / lambda of those that
 * are kept, 0 of those that are not, 1 / (lambda + ridge) of all with a ridge. SALF_E_NUMERIC when one is not finite.
 */
static inline salf_status slf_spectrum_weights(const slf_services *services, int64_t dim, double *lambda,
                                               const slf_factor_request *request, slf_factor_result *result) {
    double most = 0, least = HUGE_VAL, least_kept = HUGE_VAL;
    for (int64_t k = 0; k < dim; k++) {
        if (!(fabs(lambda[k]) <= DBL_MAX))
            return services->fail(SALF_E_NUMERIC, "eigenvalue %lld of the Gram matrix is not finite", (long long)k);
        lambda[k] = fmax(lambda[k], 0);
        most = fmax(most, sqrt(lambda[k]));
        least = fmin(least, sqrt(lambda[k]));
    }
    const int ridge = request->mode == SALF_BASIS_RIDGE;
    const double threshold = most * (ridge ? sqrt((double)dim * DBL_EPSILON) : request->rtol);
    result->rank = 0;
    for (int64_t k = 0; k < dim; k++) {
        const double sigma = sqrt(lambda[k]), shifted = lambda[k] + (ridge ? request->ridge : 0);
        const int counted = sigma > threshold;
        result->rank += counted;
        if (counted || ridge) least_kept = fmin(least_kept, sigma);
        lambda[k] = (counted || ridge) && shifted > 0 ? 1 / shifted : 0;
    }
    result->method = SALF_METHOD_EIGEN;
    result->sigma_max = most;
    result->sigma_min = least;
    result->sigma_min_kept = least_kept <= DBL_MAX ? least_kept : 0;
    return SALF_OK;
}

#endif
