/*
 * decoder_rope.c - how fast each pair of a head turns with the position, by the kinds of transformers' rope_type.
 *
 * With base b and R rotated numbers pair i turns by f_i = b^(-2 i / R) a position. LINEAR: f / factor. LLAMA3 (Llama
 * 3.1): pairs that turn less than low_factor times within the original length get f / factor, those that turn more
 * than high_factor times keep f, those between a mean of both, by the number of their turns. YARN (Peng et al. 2023,
 * "YaRN"): the same with a ramp over the pair's index between those of beta_fast and beta_slow turns.
 */
#include <math.h>

#include "decoder_internal.h"

#define TWO_PI 6.28318530717958647692

salf_status decoder_check_rope(const decoder_config *c) {
    const salf_decoder_info *l = &c->layers;
    const int scaled = l->rope >= SALF_ROPE_LINEAR, stretched = l->rope >= SALF_ROPE_LLAMA3;
    if (l->rope == SALF_ROPE_NONE) return SALF_OK;
    if (!(l->rope_theta > 0.0 && l->local_rope_theta >= 0.0))
        return decoder_fail(SALF_E_ARGUMENT, "rope_theta is %g, local_rope_theta %g", l->rope_theta,
                            l->local_rope_theta);
    if (scaled && !(l->rope_factor > 0.0)) return decoder_fail(SALF_E_ARGUMENT, "rope_factor is %g", l->rope_factor);
    if (stretched && l->rope_original_positions < 1)
        return decoder_fail(SALF_E_ARGUMENT, "rope_original_positions is %lld", (long long)l->rope_original_positions);
    if (l->rope == SALF_ROPE_LLAMA3 && !(l->rope_low_factor > 0.0 && l->rope_high_factor > l->rope_low_factor))
        return decoder_fail(SALF_E_ARGUMENT, "rope_low_factor is %g, rope_high_factor %g", l->rope_low_factor,
                            l->rope_high_factor);
    if (l->rope == SALF_ROPE_YARN &&
        !(l->rope_beta_fast > 0.0 && l->rope_beta_slow > 0.0 && l->rope_attention_factor > 0.0 && l->rope_theta > 1.0))
        return decoder_fail(SALF_E_ARGUMENT, "rope_beta_fast is %g, rope_beta_slow %g, rope_attention_factor %g",
                            l->rope_beta_fast, l->rope_beta_slow, l->rope_attention_factor);
    return SALF_OK;
}

/* The index, not whole, of the pair that turns this often within the original length. */
static double pair_of_turns(const salf_decoder_info *l, double turns) {
    return l->rotary_dims * log((double)l->rope_original_positions / (turns * TWO_PI)) / (2.0 * log(l->rope_theta));
}

/* Share of the frequency that stays as it is, the rest being divided by the factor. */
static double kept_share(const salf_decoder_info *l, int32_t pair, double frequency) {
    if (l->rope == SALF_ROPE_LINEAR) return 0.0;
    double share;
    if (l->rope == SALF_ROPE_LLAMA3) {
        const double turns = (double)l->rope_original_positions * frequency / TWO_PI;
        share = (turns - l->rope_low_factor) / (l->rope_high_factor - l->rope_low_factor);
    } else {
        const double low = fmax(floor(pair_of_turns(l, l->rope_beta_fast)), 0.0);
        double high = fmin(ceil(pair_of_turns(l, l->rope_beta_slow)), l->rotary_dims - 1.0);
        if (high == low) high += 0.001; /* as transformers does, against a division by zero */
        share = 1.0 - (pair - low) / (high - low);
    }
    return share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
}

double decoder_frequencies(const decoder_config *config, int32_t local, double *frequencies) {
    const salf_decoder_info *l = &config->layers;
    const double theta = local ? l->local_rope_theta : l->rope_theta;
    const int scaled = !local && l->rope >= SALF_ROPE_LINEAR;
    for (int32_t i = 0; i < l->rotary_dims / 2; i++) {
        const double f = pow(theta, -2.0 * i / l->rotary_dims);
        const double share = scaled ? kept_share(l, i, f) : 1.0;
        frequencies[i] = share * f + (share < 1.0 ? (1.0 - share) * f / l->rope_factor : 0.0);
    }
    return scaled && l->rope == SALF_ROPE_YARN ? l->rope_attention_factor : 1.0;
}
