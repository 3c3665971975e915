/* io.h - what the files of the io folder share: files written whole or not at all, mapped files, JSON, tensor files. */
#ifndef SALF_IO_H
#define SALF_IO_H

#include <jansson.h>

#include "core/core.h"

/* ---- file.c: atomic replacement ---- */

/* A file on its way to path, under a temporary name in the same folder. */
typedef struct slf_file {
    const salf_context *context;
    char *path;
    char *temporary;
    int descriptor;
} slf_file;

/* On failure nothing is left behind, neither memory nor a temporary file. */
salf_status slf_file_begin(slf_file *file, const salf_context *context, const char *path);
/* After a failed write the caller calls slf_file_abandon. */
salf_status slf_file_write(slf_file *file, const void *bytes, size_t n);
/* Syncs, renames over path, syncs the folder; ends the file whatever the result. */
salf_status slf_file_commit(slf_file *file);
void slf_file_abandon(slf_file *file);

/* ---- map.c: files in memory ---- */

/* A file mapped for reading; size 0: nothing is mapped. */
typedef struct slf_map {
    const uint8_t *bytes;
    uint64_t size;
} slf_map;

/* SALF_E_NOT_FOUND, SALF_E_IO (also for what is no regular file). */
salf_status slf_map_open(slf_map *map, const char *path);
void slf_map_close(slf_map *map);
/* folder + "/" + name, freed by slf_free; NULL without memory. */
char *slf_path_join(const salf_context *context, const char *folder, const char *name);
bool slf_path_is_folder(const char *path);
bool slf_path_exists(const char *path);

/* ---- json.c ---- */

/* Parses one JSON object; path names the source in messages. SALF_E_CORRUPT, SALF_E_NO_MEMORY. The caller
 * json_decref()s. */
salf_status slf_json_parse(json_t **out, const void *bytes, uint64_t size, const char *path);
/* The same from a file of at most 64 MB. */
salf_status slf_json_load(json_t **out, const char *path);
/* Whether JSON can hold the text as a string. */
bool slf_is_utf8(const char *text);

/* ---- tensors.c, shards.c ---- */

typedef struct slf_entry {
    char *name;
    const uint8_t *data;
    void *copy;     /* owned copy when the file's bytes are not aligned for the type; else NULL */
    uint64_t begin; /* offsets in the data part of its file */
    uint64_t end;
    int64_t shape[8];
    int64_t file; /* how many mapped files the handle had when this one was added, itself included */
    int32_t n_dims;
    int32_t dtype;      /* SALF_F32 ...; 0: another type */
    char type_name[16]; /* as the file has it */
} slf_entry;

struct salf_tensors {
    salf_context *context;
    slf_entry *entries; /* [n] by name */
    int64_t n;
    int64_t room;
    char **metadata; /* [n_metadata] key, value, key, value, ... of the first file */
    int64_t n_metadata;
    slf_map *maps; /* [n_maps] */
    int64_t n_maps;
};

salf_status slf_tensors_new(salf_tensors **out, salf_context *context);
/* Checks a safetensors file in memory and adds its tensors; bytes stay borrowed. */
salf_status slf_tensors_add_file(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path);
/* After the last file: sorts by name. SALF_E_CORRUPT when a name occurs twice. */
salf_status slf_tensors_seal(salf_tensors *tensors, const char *path);
/* NULL when there is none of that name. */
const slf_entry *slf_tensors_entry(const salf_tensors *tensors, const char *name);
/* A file in memory as a handle of its own; bytes stay borrowed. */
salf_status slf_tensors_from_memory(salf_tensors **out, salf_context *context, const void *bytes, uint64_t size);

/* ---- config.c: config.json of a Hugging Face checkpoint ---- */

/* What the configuration says; where the tensors lie follows from the family. */
typedef struct slf_config {
    salf_model_info info; /* valid_vocab = vocab; tied as the file says, or the family's default */
} slf_config;

/* SALF_E_CORRUPT (wrong types, senseless values), SALF_E_UNSUPPORTED (model_type). */
salf_status slf_config_read(slf_config *config, const json_t *json, const char *path);

#endif
