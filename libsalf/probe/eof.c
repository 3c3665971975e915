/*
 * eof.c - gains g_k = d_k - d_(k+1) and the end-of-freezing layer of each datum (paper 3.2, 3.3, Algorithm 3; Appendix
 * B.3).
 *
 * deviations [rows][m+1] -> gains [rows][m], eof [rows]. Ties go to the shallowest layer; -0 equals 0.
 */
#include <math.h>

#include "basis/basis.h"

/* The number that the rule makes largest. */
static double merit(const double *d, int32_t k, int32_t rule) {
    switch (rule) {
    case SALF_EOF_LEAST_GAIN:
        return d[k + 1] - d[k];
    case SALF_EOF_LEAST_DEVIATION:
        return -d[k + 1];
    case SALF_EOF_MOST_DEVIATION:
        return d[k + 1];
    default:
        return d[k] - d[k + 1];
    }
}

static int32_t choose(const double *d, int32_t n_layers, int32_t rule) {
    int32_t best = 0;
    for (int32_t k = 1; k < n_layers; k++)
        if (merit(d, k, rule) > merit(d, best, rule)) best = k;
    return best;
}

/* First space whose deviation is not finite, or -1. */
static int32_t bad_space(const double *d, int32_t n_layers) {
    for (int32_t k = 0; k <= n_layers; k++)
        if (!isfinite(d[k])) return k;
    return -1;
}

static salf_status check_finite(int32_t n_layers, int64_t rows, const double *deviations) {
    for (int64_t r = 0; r < rows; r++) {
        const double *d = deviations + r * (n_layers + 1);
        const int32_t space = bad_space(d, n_layers);
        if (space >= 0)
            return slf_fail(SALF_E_NONFINITE, "the deviation of row %lld in space %d is %g", (long long)r, (int)space,
                            d[space]);
    }
    return SALF_OK;
}

salf_status salf_eof_from_deviations(int32_t n_layers, int64_t rows, const double *deviations, int32_t eof_rule,
                                     int32_t nonfinite, double *gains, int32_t *eof) {
    if (n_layers < 1) return slf_fail(SALF_E_ARGUMENT, "salf_eof_from_deviations: %d layers", (int)n_layers);
    if (rows < 0) return slf_fail(SALF_E_ARGUMENT, "salf_eof_from_deviations: %lld rows", (long long)rows);
    if (eof_rule < SALF_EOF_MOST_GAIN || eof_rule > SALF_EOF_MOST_DEVIATION)
        return slf_fail(SALF_E_ARGUMENT, "salf_eof_from_deviations: rule %d is none of SALF_EOF_*", (int)eof_rule);
    if (nonfinite != SALF_NONFINITE_ERROR && nonfinite != SALF_NONFINITE_TRAIN_FULLY)
        return slf_fail(SALF_E_ARGUMENT, "salf_eof_from_deviations: nonfinite %d is none of SALF_NONFINITE_*",
                        (int)nonfinite);
    if (rows == 0) return SALF_OK;
    SLF_REQUIRE(deviations);
    SLF_REQUIRE(eof);
    if (nonfinite == SALF_NONFINITE_ERROR) SLF_TRY(check_finite(n_layers, rows, deviations));
    for (int64_t r = 0; r < rows; r++) {
        const double *d = deviations + r * (n_layers + 1);
        eof[r] = bad_space(d, n_layers) >= 0 ? 0 : choose(d, n_layers, eof_rule);
        for (int32_t k = 0; gains && k < n_layers; k++) gains[r * n_layers + k] = d[k] - d[k + 1];
    }
    return SALF_OK;
}
