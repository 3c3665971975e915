/* fuzz_index.c - any bytes as an index beside two shards: refused with a message, or exactly the tensors that it
 * names. */
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A shard with a tensor of one byte for each letter. */
static void write_shard(const char *name, const char *letters) {
    char file[512] = {0}, *text = file + 8;
    size_t used = 0;
    for (size_t i = 0; letters[i]; i++)
        used += (size_t)snprintf(text + used, sizeof file - 8 - used,
                                 "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}", i ? "," : "{",
                                 letters[i], i, i + 1);
    used += (size_t)snprintf(text + used, sizeof file - 8 - used, "}");
    file[0] = (char)(used & 0xFF);
    file[1] = (char)(used >> 8);
    place_write(name, file, 8 + used + strlen(letters));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char name[] = "model.safetensors.index.json";
    if (place_make()) {
        write_shard("one", "abc");
        write_shard("two", "cd");
    }
    place_write(name, data, size);
    salf_tensors *tensors;
    const salf_status status = salf_tensors_open(&tensors, place_context(), place_path(name));
    MUST(status == SALF_OK ? salf_tensors_count(tensors) <= 4 : !tensors && salf_last_error()[0]);
    salf_named_tensor tensor;
    for (int64_t i = 0; i < salf_tensors_count(tensors); i++)
        MUST(salf_tensors_at(tensors, i, &tensor) == SALF_OK && tensor.view.cols == 1);
    salf_tensors_destroy(tensors);
    return 0;
}
