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

/* Also a basis's way to disk (basis/file.c), so that salf_basis_save and salf_basis_load refuse with these words. */
salf_status salf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                              int64_t n_tensors, const char *const *metadata, int64_t n_metadata) {
    (void)tensors, (void)n_tensors, (void)metadata, (void)n_metadata;
    SLF_REQUIRE(context, path);
    return REFUSED(path);
}

/* salf_hash, which knows no files, stays as it is (hash.c). */
salf_status salf_file_save(const char *path, const void *bytes, uint64_t n) {
    (void)bytes, (void)n;
    SLF_REQUIRE(path);
    return REFUSED(path);
}

salf_status salf_hash_file(const char *path, uint64_t *hash) {
    SLF_REQUIRE(path, hash);
    return REFUSED(path);
}

/* Planner and policy are saved to memory without any of this (salf_planner_save, salf_policy_save): a host without
 * files keeps those bytes in a checkpoint of its own. */
salf_status salf_checkpoint_open(salf_checkpoint **out, salf_context *context, const char *folder,
                                 const salf_identity *identities, int64_t n_identities) {
    (void)identities, (void)n_identities;
    SLF_OUT(out);
    SLF_REQUIRE(context, folder);
    return REFUSED(folder);
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
    *out = (salf_named_tensor){0};
    return REFUSED("a tensor");
}

salf_status salf_tensors_find(const salf_tensors *tensors, const char *name, salf_named_tensor *out) {
    SLF_REQUIRE(tensors, name, out);
    *out = (salf_named_tensor){0};
    return REFUSED(name);
}

const char *salf_tensors_metadata(const salf_tensors *tensors, const char *key) {
    (void)tensors, (void)key;
    return "";
}

void salf_checkpoint_destroy(salf_checkpoint *checkpoint) {
    (void)checkpoint;
}

salf_status salf_checkpoint_get_info(const salf_checkpoint *checkpoint, salf_checkpoint_info *info) {
    SLF_REQUIRE(checkpoint, info);
    return REFUSED("a checkpoint");
}

salf_status salf_checkpoint_save(salf_checkpoint *checkpoint, const salf_checkpoint_content *content) {
    SLF_REQUIRE(checkpoint, content);
    return REFUSED("a checkpoint");
}

salf_status salf_checkpoint_load(salf_checkpoint *checkpoint, const salf_checkpoint_content *content) {
    SLF_REQUIRE(checkpoint, content);
    return REFUSED("a checkpoint");
}
