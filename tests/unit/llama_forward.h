/* llama_forward.h - a plain double-precision forward pass of a Llama checkpoint, for tests. */
#ifndef SALF_TEST_LLAMA_FORWARD_H
#define SALF_TEST_LLAMA_FORWARD_H

#include <stdint.h>

#include "salf.h"

/* The residual stream at the last of n tokens in every latent space, before the final norm: states [m+1][D]. */
void llama_last_states(const salf_model *model, const int32_t *tokens, int n, float *states);

#endif
