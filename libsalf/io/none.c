/*
 * none.c - what stands for this room in a library that is built without files (make IO=0, the amalgamation): every
 * function of the API is there, and those that would read or write a file say why they cannot.
 */
#include "core/core.h"

#define REFUSED(path) SLF_FAIL(SALF_E_UNSUPPORTED, "%s: this libsalf was built without files (IO=0)", (path))

salf_status salf_tensors_open(salf_tensors **out, salf_context *context, const char *path) {
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    return REFUSED(path);
}

salf_status salf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                              int64_t n_tensors, const char *const *metadata, int64_t n_metadata) {
    (void)tensors, (void)n_tensors, (void)metadata, (void)n_metadata;
    SLF_REQUIRE(context, path);
    return REFUSED(path);
}

salf_status salf_model_open(salf_model **out, salf_context *context, const char *path,
                            const salf_model_options *options) {
    (void)options;
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    return REFUSED(path);
}

/* No handle of these exists: what is left are calls with NULL. */
void salf_tensors_destroy(salf_tensors *tensors) {
    (void)tensors;
}

int64_t salf_tensors_count(const salf_tensors *tensors) {
    (void)tensors;
    return 0;
}

salf_status salf_tensors_at(const salf_tensors *tensors, int64_t index, salf_named_tensor *out) {
    (void)index;
    SLF_REQUIRE(tensors, out);
    return REFUSED("a tensor");
}

salf_status salf_tensors_find(const salf_tensors *tensors, const char *name, salf_named_tensor *out) {
    SLF_REQUIRE(tensors, name, out);
    return REFUSED(name);
}

const char *salf_tensors_metadata(const salf_tensors *tensors, const char *key) {
    (void)tensors, (void)key;
    return NULL;
}
