/* tensors_types.h - element types as safetensors files name them. */
#ifndef SALF_TENSORS_TYPES_H
#define SALF_TENSORS_TYPES_H

#include "core/core.h"

typedef struct slf_file_type {
    const char *name;
    int32_t dtype; /* SALF_F32 ...; 0: passed over */
    int64_t bytes; /* of an element */
} slf_file_type;

/* NULL for a name that is not known. */
const slf_file_type *slf_file_type_by_name(const char *name);
const slf_file_type *slf_file_type_by_dtype(int32_t dtype);

/* Product of n dimensions, at most INT64_MAX / 16. -1 when one is negative or the product of those that are not 0 is
 * larger, so that the product of any of them fits too. */
int64_t slf_shape_elements(const int64_t *shape, int32_t n_dims);

#endif
