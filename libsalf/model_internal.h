/* model_internal.h - steps that a described model and a checkpoint share. */
#ifndef SALF_MODEL_INTERNAL_H
#define SALF_MODEL_INTERNAL_H

#include "internal.h"

salf_status slf_model_new(salf_model **out, salf_context *context);
/* Copies a vector [1][n] as float32; data NULL: leaves *out. SALF_E_NONFINITE names the element. */
salf_status slf_model_copy_vector(const salf_context *context, const salf_tensor *view, int64_t n, const char *name,
                                  float **out);
salf_status slf_model_take_norm(salf_model *model, int32_t kind, const salf_tensor *weight, const salf_tensor *bias);
/* Makes the matrix that is there serve as both when the model is tied. */
void slf_model_tie(salf_model *model);
/* Overrides info by what the options set, after checking it; the last step of making a model. */
salf_status slf_model_take_numbers(salf_model *model, const salf_model_options *options);

#endif
