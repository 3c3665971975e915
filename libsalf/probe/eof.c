/*
 * eof.c - gains g_k = d_k - d_(k+1) and the end-of-freezing layer of each datum (paper 3.2, 3.3, Algorithm 3; Appendix
 * B.3).
 *
 * deviations [rows][m+1] -> gains [rows][m], eof [rows]. Ties go to the shallowest layer; -0 equals 0.
 */
#include <inttypes.h>
#include <math.h>

#include "core/core.h"

/* The number of layer k that the rule makes largest. */
static double layer_merit(const double *d, int32_t k, int32_t rule) {
    const double gain = d[k] - d[k + 1], deviation = d[k + 1];
    if (rule == SALF_EOF_LEAST_DEVIATION) return -deviation;
    if (rule == SALF_EOF_MOST_DEVIATION) return deviation;
    return rule == SALF_EOF_LEAST_GAIN ? -gain : gain;
}

/* First space whose deviation is not finite, or -1. One such space makes two gains meaningless, and with them the
 * choice: the whole datum is set aside. */
static int32_t nonfinite_space(const double *d, int32_t n_layers) {
    for (int32_t k = 0; k <= n_layers; k++)
        if (!isfinite(d[k])) return k;
    return -1;
}

/* Public, since a host may have deviations from elsewhere: of a file, of other ranks, of a probe of its own. */
salf_status salf_eof_from_deviations(int32_t n_layers, int64_t rows, const double *deviations, int32_t eof_rule,
                                     int32_t nonfinite, double *gains, int32_t *eof) {
    SLF_OWN_ARITHMETIC;
    if (n_layers < 1) return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId32 " layers", n_layers);
    if (rows < 0) return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " rows", rows);
    SLF_TRY(slf_check_word("eof_rule", "SALF_EOF", eof_rule));
    SLF_TRY(slf_check_word("nonfinite", "SALF_NONFINITE", nonfinite));
    if (rows == 0) return SALF_OK;
    SLF_REQUIRE(deviations, eof);
    const int64_t spaces = (int64_t)n_layers + 1;
    /* All rows are looked at before anything is written. */
    for (int64_t r = 0; r < rows && nonfinite == SALF_NONFINITE_ERROR; r++) {
        const int32_t space = nonfinite_space(deviations + r * spaces, n_layers);
        if (space >= 0)
            return slf_fail(SALF_E_NONFINITE, "the deviation of row %" PRId64 " in space %" PRId32 " is %g", r, space,
                            deviations[r * spaces + space]);
    }
    for (int64_t r = 0; r < rows; r++) {
        const double *d = deviations + r * spaces;
        const bool known = nonfinite_space(d, n_layers) < 0;
        int32_t best = 0; /* trains all of the model: what is not known is trained fully */
        for (int32_t k = 1; known && k < n_layers; k++)
            if (layer_merit(d, k, eof_rule) > layer_merit(d, best, eof_rule)) best = k;
        eof[r] = best;
        for (int32_t k = 0; gains && k < n_layers; k++) gains[r * n_layers + k] = d[k] - d[k + 1];
    }
    return SALF_OK;
}
