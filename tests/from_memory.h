/* from_memory.h - tensor files in memory, by the readers of files; for tests and fuzz targets. */
#ifndef FROM_MEMORY_H
#define FROM_MEMORY_H

#include "io/gguf.h"

/* A handle of its own; bytes stay borrowed, NULL on failure. */
static inline salf_status tensors_from_memory(salf_tensors **out, salf_context *context, bool gguf, const void *bytes,
                                              uint64_t size) {
    salf_tensors *tensors;
    int64_t parts;
    *out = NULL;
    SLF_TRY(slf_tensors_new(&tensors, context));
    salf_status status = gguf ? slf_gguf_read(tensors, bytes, size, "memory", &parts)
                              : slf_safetensors_read(tensors, bytes, size, "memory");
    if (status == SALF_OK) status = slf_tensors_seal(tensors, "memory");
    if (status == SALF_OK)
        *out = tensors;
    else
        salf_tensors_destroy(tensors);
    return status;
}

#endif
