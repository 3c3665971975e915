/*
 * shards.c - opens a path: a safetensors file, an index of shards, a folder that holds either, or a GGUF file with the
 * other parts of its model. An index assigns names to shards, which lie in its folder or in folders there: where a
 * tensor is in two shards, the index says which counts, and what it does not name is not used.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "gguf.h"
#include "io.h"

#define INDEX_NAME  "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

/* Maps a file into the next place of tensors->maps, which the caller has made, and reads it. n_maps counts what is
 * mapped, also while a file is being read: destroy unmaps so many after a failure. */
static salf_status open_file(salf_tensors *tensors, const char *path) {
    slf_map *map = &tensors->maps[tensors->n_maps];
    SLF_TRY(slf_map_open(map, tensors->context, path, SLF_READ_MOST(tensors->context)));
    tensors->n_maps++;
    return slf_safetensors_read(tensors, map->bytes, map->size, path);
}

/* A file by itself: as one shard of one. */
static salf_status open_single(salf_tensors *tensors, const char *path) {
    SLF_TRY(SLF_ALLOC_ZERO(tensors->context, tensors->maps, 1));
    return open_file(tensors, path);
}

/* The shards of an index' map {tensor: shard}, each opened once and checked whole. The path decides where shards lie:
 * its folder, or the current one where it has none. */
static salf_status open_index(salf_tensors *tensors, const char *path) {
    const salf_context *context = tensors->context;
    slf_json *index = NULL, *value;
    /* {shard: the number that slf_entry.file has for its tensors}; a set of the shards as well */
    slf_json *files = slf_json_new(context, SLF_JSON_OBJECT);
    char *folder = slf_strdup(context, path), *shard_path = NULL;
    const char *name;
    salf_status status;
    SLF_DO(folder ? SALF_OK : SALF_E_NO_MEMORY);
    SLF_DO(files ? SALF_OK : SALF_E_NO_MEMORY);
    char *slash = strrchr(folder, '/');
    folder[slash ? slash - folder + 1 : 0] = 0;
    SLF_DO(slf_json_load(&index, context, path));
    slf_json *map = slf_json_get(index, "weight_map");
    SLF_DO(slf_json_is(map, SLF_JSON_OBJECT) ? SALF_OK : slf_fail(SALF_E_CORRUPT, "%s: no weight_map", path));
    /* As many maps as tensors are more than the shards: an index does not say how many those are, and a map takes 16
     * bytes. */
    SLF_DO(SLF_ALLOC_ZERO(context, tensors->maps, slf_json_size(map)));

    /* 1. each shard once */
    SLF_JSON_EACH(map, name, value) {
        const char *shard = slf_json_to_text(value);
        if (!shard || !slf_path_is_inside(shard))
            SLF_DO(slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' is said to be in '%s', which is no file of this folder",
                            path, name, shard ? shard : ""));
        /* The number of a shard is that of its map, from 1 on, which its entries have. */
        if (slf_json_get(files, shard)) continue;
        SLF_DO(slf_json_put(files, shard, slf_json_integer(context, tensors->n_maps + 1)));
        shard_path = slf_path_join(context, *folder ? folder : ".", shard);
        SLF_DO(shard_path ? open_file(tensors, shard_path) : SALF_E_NO_MEMORY);
        slf_free(context, shard_path);
        shard_path = NULL;
    }

    /* 2. of each name the tensor that the index means: checkpoints that change a few tensors of another one bring a
     * shard of their own, and leave the old one as it is. Sorted, so that it can be looked up. */
    int64_t kept = 0;
    for (int64_t i = 0; i < tensors->n; i++) {
        slf_entry *entry = &tensors->entries[i];
        const char *shard = slf_json_to_text(slf_json_get(map, entry->name));
        if (shard && slf_json_to_integer(slf_json_get(files, shard)) == entry->file)
            tensors->entries[kept++] = *entry;
        else
            slf_free(context, entry->name);
    }
    tensors->n = kept;
    SLF_DO(slf_tensors_seal(tensors, path));
    SLF_JSON_EACH(map, name, value)
    if (!slf_tensors_entry(tensors, name))
        SLF_DO(slf_fail(SALF_E_MISMATCH, "%s: tensor '%s' is not in '%s'", path, name, slf_json_to_text(value)));
done:
    SLF_FREE(context, shard_path, folder);
    slf_json_release(files);
    slf_json_release(index);
    return status;
}

/* ---- files of llama.cpp ---- */

static bool ends_in(const char *path, const char *end) {
    const size_t length = strlen(path), n = strlen(end);
    return length >= n && strcmp(path + length - n, end) == 0;
}

/* The first bytes tell, and so does the name: a file that only has the name gets a message about GGUF files. */
bool slf_path_is_gguf(const char *path) {
    slf_map map;
    if (slf_path_is_folder(path)) return false;
    if (ends_in(path, ".gguf")) return true;
    /* A question is no error: a file that is not there leaves the message of the last call as it was. */
    const slf_message kept = slf_message_keep();
    const bool there = slf_map_open(&map, NULL, path, 0) == SALF_OK;
    const bool is_gguf = there && map.size >= 4 && memcmp(map.bytes, "GGUF", 4) == 0;
    if (there) slf_map_close(&map);
    slf_message_restore(&kept);
    return is_gguf;
}

/* A GGUF file, and the parts 2 ... n of its model where it says that there are n. They lie beside it under the names
 * that llama.cpp gives them, NAME-00001-of-00003.gguf and so on. */
static salf_status open_gguf(salf_tensors *tensors, const char *path) {
    int64_t parts, all, total = -1;
    char number[40];
    char *name = NULL;
    salf_status status;
    SLF_TRY(SLF_ALLOC_ZERO(tensors->context, tensors->maps, 1));
    for (int64_t part = 1, n = 1; part <= n; part++) {
        slf_map *map = &tensors->maps[tensors->n_maps];
        SLF_DO(slf_map_open(map, tensors->context, name ? name : path, SLF_READ_MOST(tensors->context)));
        tensors->n_maps++;
        SLF_DO(slf_gguf_read(tensors, map->bytes, map->size, name ? name : path, &parts));
        if (part == 1 && parts > 1) { /* from here on with room for all maps, and a name that can be counted up */
            slf_map *maps;
            SLF_DO(SLF_ALLOC_ZERO(tensors->context, maps, parts));
            maps[0] = tensors->maps[0];
            slf_free(tensors->context, tensors->maps);
            tensors->maps = maps;
            n = parts;
            snprintf(number, sizeof number, "-%05d-of-%05d.gguf", 1, (int)n);
            if (!ends_in(path, number))
                SLF_DO(slf_fail(SALF_E_MISMATCH, "%s: the first of %" PRId64 " parts, but the name does not end in %s",
                                path, n, number));
            name = slf_strdup(tensors->context, path);
            SLF_DO(name ? SALF_OK : SALF_E_NO_MEMORY);
        }
        /* The first part says how many there are; the others must agree, or they are of another split. */
        if (parts != n)
            SLF_DO(slf_fail(SALF_E_MISMATCH, "%s: one of %" PRId64 " parts, where the first says %" PRId64, name, parts,
                            n));
        if (!name) break;
        snprintf(number, sizeof number, "-%05d-of-%05d.gguf", (int)part + 1, (int)n);
        /* Both names end alike but for the digits, so that the end of one fits the place of the other. */
        strcpy(name + strlen(name) - strlen(number), number);
    }
    /* A part that was cut off at a tensor's end would not be noticed by its own header. */
    all = tensors->n;
    SLF_DO(slf_gguf_integer(tensors, path, "split.tensors.count", false, 0, INT64_MAX, &total));
    if (total >= 0 && total != all)
        SLF_DO(slf_fail(SALF_E_MISMATCH, "%s: %" PRId64 " tensors, split.tensors.count is %" PRId64, path, all, total));
done:
    slf_free(tensors->context, name);
    return status;
}

/* The end of the name tells an index from a tensor file. What a failure has opened goes with the handle. */
salf_status salf_tensors_open(salf_tensors **out, salf_context *context, const char *path) {
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    const uint16_t one = 1; /* its first byte tells the order; elements are read where they lie */
    if (*(const uint8_t *)&one != 1)
        return SLF_FAIL(SALF_E_UNSUPPORTED, "%s: tensor files are little-endian, this machine is not", path);
    salf_tensors *tensors;
    SLF_TRY(slf_tensors_new(&tensors, context));
    salf_status status;
    char *single = NULL, *index = NULL;
    if (slf_path_is_folder(path)) { /* one file, where there is one, before an index */
        status = SALF_E_NO_MEMORY;
        single = slf_path_join(context, path, SINGLE_NAME);
        index = slf_path_join(context, path, INDEX_NAME);
        if (!single || !index) goto done;
        if (slf_path_exists(single))
            status = open_single(tensors, single);
        else if (slf_path_exists(index))
            status = open_index(tensors, index);
        else {
            char others[160];
            slf_folder_weights(path, others, sizeof others);
            const bool shards = strstr(others, "-of-") && strstr(others, ".safetensors");
            status = slf_fail(SALF_E_NOT_FOUND, "%s: neither " SINGLE_NAME " nor " INDEX_NAME " is there%s%s%s", path,
                              *others ? ", only " : "", others,
                              !*others ? ""
                              : shards ? "; the index comes from where these shards do"
                                       : "; save the model as safetensors, under that name");
        }
    } else if (ends_in(path, ".json")) {
        status = open_index(tensors, path);
    } else if (slf_path_is_gguf(path)) {
        status = open_gguf(tensors, path);
    } else {
        status = open_single(tensors, path);
    }
    if (status == SALF_OK) status = slf_tensors_seal(tensors, path);
done:
    SLF_FREE(context, single, index);
    if (status == SALF_OK)
        *out = tensors;
    else
        salf_tensors_destroy(tensors);
    return status;
}
