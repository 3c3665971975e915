/*
 * shards.c - opens a path: a safetensors file, an index of shards, or a folder that holds either. Shards lie in the
 * index's own folder, whatever the index says; every tensor of its map must be in the shard it names.
 */
#include <string.h>

#include "io.h"

#define INDEX_NAME  "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static salf_status add_mapped(salf_tensors *tensors, const char *path) {
    slf_map *map = &tensors->maps[tensors->n_maps];
    SLF_TRY(slf_map_open(map, path));
    tensors->n_maps++;
    return slf_tensors_add_file(tensors, map->bytes, map->size, path);
}

static salf_status open_single(salf_tensors *tensors, const char *path) {
    tensors->maps = slf_alloc_zero(tensors->context, 1, sizeof *tensors->maps);
    return tensors->maps ? add_mapped(tensors, path) : SALF_E_NO_MEMORY;
}

/* ---- shards ---- */

static salf_status check_shard_name(const char *shard, const char *tensor, const char *path) {
    if (shard && *shard && !strchr(shard, '/') && !strchr(shard, '\\') && strcmp(shard, ".") != 0 &&
        strcmp(shard, "..") != 0)
        return SALF_OK;
    return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' is said to be in '%s', which is no file name", path, tensor,
                    shard ? shard : "");
}

/* Opens a shard once; files holds the number that slf_entry.file has for the tensors of each that is open. */
static salf_status open_shard(salf_tensors *tensors, json_t *files, const char *folder, const char *shard) {
    if (json_object_get(files, shard)) return SALF_OK;
    if (json_object_set_new(files, shard, json_integer(tensors->n_maps + 1)) != 0)
        return slf_fail(SALF_E_NO_MEMORY, "out of memory");
    char *path = slf_path_join(tensors->context, folder, shard);
    if (!path) return SALF_E_NO_MEMORY;
    const salf_status status = add_mapped(tensors, path);
    slf_free(tensors->context, path);
    return status;
}

/* Every tensor of the map is in the shard that it names. Shards may hold more than the map says. */
static salf_status check_map(const salf_tensors *tensors, json_t *map, const json_t *files, const char *path) {
    const char *name;
    json_t *shard;
    json_object_foreach(map, name, shard) {
        const slf_entry *entry = slf_tensors_entry(tensors, name);
        const char *file = json_string_value(shard);
        if (!entry || entry->file != json_integer_value(json_object_get(files, file)))
            return slf_fail(SALF_E_MISMATCH, "%s: tensor '%s' is not in '%s'", path, name, file);
    }
    return SALF_OK;
}

static salf_status open_shards(salf_tensors *tensors, json_t *map, json_t *files, const char *folder,
                               const char *path) {
    const char *name;
    json_t *shard;
    tensors->maps = slf_alloc_zero(tensors->context, json_object_size(map), sizeof *tensors->maps);
    if (!tensors->maps) return SALF_E_NO_MEMORY;
    json_object_foreach(map, name, shard) {
        SLF_TRY(check_shard_name(json_string_value(shard), name, path));
        SLF_TRY(open_shard(tensors, files, folder, json_string_value(shard)));
    }
    SLF_TRY(slf_tensors_seal(tensors, path));
    return check_map(tensors, map, files, path);
}

static salf_status open_index(salf_tensors *tensors, const char *path) {
    json_t *index;
    SLF_TRY(slf_json_load(&index, path));
    json_t *map = json_object_get(index, "weight_map"), *files = json_object();
    char *folder = slf_strdup(tensors->context, path);
    salf_status status = folder ? SALF_OK : SALF_E_NO_MEMORY;
    if (status == SALF_OK && !files) status = slf_fail(SALF_E_NO_MEMORY, "out of memory");
    if (status == SALF_OK && !json_is_object(map)) status = slf_fail(SALF_E_CORRUPT, "%s: no weight_map", path);
    if (status == SALF_OK) {
        char *slash = strrchr(folder, '/');
        if (slash)
            slash[1] = 0;
        else
            folder[0] = 0;
        status = open_shards(tensors, map, files, *folder ? folder : ".", path);
    }
    slf_free(tensors->context, folder);
    json_decref(files);
    json_decref(index);
    return status;
}

/* ---- a folder ---- */

static salf_status open_in_folder(salf_tensors *tensors, const char *folder) {
    char *single = slf_path_join(tensors->context, folder, SINGLE_NAME);
    char *index = slf_path_join(tensors->context, folder, INDEX_NAME);
    salf_status status = SALF_E_NO_MEMORY;
    if (single && index) {
        if (slf_path_exists(single))
            status = open_single(tensors, single);
        else if (slf_path_exists(index))
            status = open_index(tensors, index);
        else
            status = slf_fail(SALF_E_NOT_FOUND, "%s: neither " SINGLE_NAME " nor " INDEX_NAME " is there", folder);
    }
    slf_free(tensors->context, single);
    slf_free(tensors->context, index);
    return status;
}

static salf_status open_path(salf_tensors *tensors, const char *path) {
    const uint16_t probe = 1;
    if (*(const uint8_t *)&probe != 1)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: tensor files are little-endian, this machine is not", path);
    if (slf_path_is_folder(path)) return open_in_folder(tensors, path);
    return ends_with(path, ".json") ? open_index(tensors, path) : open_single(tensors, path);
}

salf_status salf_tensors_open(salf_tensors **out, salf_context *context, const char *path) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    SLF_REQUIRE(path);
    salf_tensors *tensors;
    SLF_TRY(slf_tensors_new(&tensors, context));
    salf_status status = open_path(tensors, path);
    if (status == SALF_OK) status = slf_tensors_seal(tensors, path);
    if (status != SALF_OK)
        salf_tensors_destroy(tensors);
    else
        *out = tensors;
    return status;
}
