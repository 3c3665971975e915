/* fuzz_index.c - any bytes as an index beside two shards: refused with a message, or exactly the tensors that it
 * names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "salf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int write_file(const char *where, const char *name, const void *bytes, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", where, name);
    FILE *file = fopen(path, "wb");
    if (!file) return -1;
    const size_t written = fwrite(bytes, 1, n, file);
    return fclose(file) != 0 || written != n ? -1 : 0;
}

/* A shard with a tensor of one byte for each letter. */
static int write_shard(const char *where, const char *name, const char *letters) {
    char file[512] = {0}, *text = file + 8;
    size_t used = 0;
    for (size_t i = 0; letters[i]; i++)
        used += (size_t)snprintf(text + used, sizeof file - 8 - used,
                                 "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}", i ? "," : "{",
                                 letters[i], i, i + 1);
    used += (size_t)snprintf(text + used, sizeof file - 8 - used, "}");
    file[0] = (char)(used & 0xFF);
    file[1] = (char)(used >> 8);
    return write_file(where, name, file, 8 + used + strlen(letters));
}

/* In memory where the system has a place for that: thousands of files are written. */
static char folder[] = "/dev/shm/salf-fuzz-index-XXXXXX", other_folder[] = "/tmp/salf-fuzz-index-XXXXXX";
static const char *place;

static void remove_folder(void) {
    static const char *const names[] = {"one", "two", "model.safetensors.index.json"};
    char path[128];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", place, names[i]);
        unlink(path);
    }
    rmdir(place);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static salf_context *context;
    if (!place) { /* one folder for a run of the program */
        salf_context_options options;
        salf_options_init(&options, sizeof options);
        options.backend = SALF_BACKEND_REFERENCE;
        place = mkdtemp(folder);
        if (!place) place = mkdtemp(other_folder);
        if (!place || atexit(remove_folder) != 0 || write_shard(place, "one", "abc") ||
            write_shard(place, "two", "cd") || salf_context_create(&context, &options) != SALF_OK)
            abort();
    }
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", place);
    if (write_file(place, "model.safetensors.index.json", data, size) != 0) abort();
    salf_tensors *tensors;
    const salf_status status = salf_tensors_open(&tensors, context, path);
    if (status == SALF_OK && salf_tensors_count(tensors) > 4) abort();
    if (status != SALF_OK && salf_last_error()[0] == '\0') abort();
    salf_named_tensor tensor;
    for (int64_t i = 0; i < salf_tensors_count(tensors); i++)
        if (salf_tensors_at(tensors, i, &tensor) != SALF_OK || tensor.view.cols != 1) abort();
    salf_tensors_destroy(tensors);
    return 0;
}
