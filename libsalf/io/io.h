/* io.h - what the files of this folder share: whole files, JSON, tensor files, checkpoints. Nothing else of the library
 * knows JSON. Not installed. */
#ifndef SALF_IO_H
#define SALF_IO_H

#include <jansson.h>

#include "core/core.h"

/* ---- map.c: files to read, and paths ---- */

/* A file mapped for reading; size 0: nothing is mapped. */
typedef struct slf_map {
    const uint8_t *bytes;
    uint64_t size;
} slf_map;

/* SALF_E_NOT_FOUND, SALF_E_IO (also for what is no regular file). Another process that shortens the file while it is
 * mapped ends this one with SIGBUS: files are replaced, not written over (see slf_file). */
salf_status slf_map_open(slf_map *map, const char *path);
void slf_map_close(slf_map *map);
/* folder + "/" + name, freed by slf_free; NULL without memory. */
char *slf_path_join(const salf_context *context, const char *folder, const char *name);
bool slf_path_is_folder(const char *path);
bool slf_path_exists(const char *path);

/* ---- file.c: files to write ---- */

/* A file on its way to path, under a temporary name in the same folder: readers see the old file or the new one, whole,
 * whatever happens to this process or the machine. */
typedef struct slf_file {
    const salf_context *context;
    char *path;
    char *temporary;
    int descriptor;
} slf_file;

/* On failure nothing is left behind, neither memory nor a temporary file. */
salf_status slf_file_create(slf_file *file, const salf_context *context, const char *path);
/* After a failed write you call slf_file_abandon. */
salf_status slf_file_write(slf_file *file, const void *bytes, size_t n);
/* Syncs, renames over path, syncs the folder; ends the file whatever the result. */
salf_status slf_file_commit(slf_file *file);
void slf_file_abandon(slf_file *file);

/* An error of the system, in its words: SALF_E_NO_SPACE where that is the reason, else SALF_E_IO. */
salf_status slf_fail_errno(const char *action, const char *path, int error);

/* ---- json.c ---- */

/* Parses one JSON object; path names the source in messages. SALF_E_CORRUPT, SALF_E_NO_MEMORY. You json_decref() it. */
salf_status slf_json_parse(json_t **out, const void *bytes, uint64_t size, const char *path);
/* The same from a file of at most 64 MiB. */
salf_status slf_json_load(json_t **out, const char *path);
/* Whether JSON can hold the text as a string. */
bool slf_is_utf8(const char *text);

/* ---- tensors.c: the tensors of one or more files ---- */

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
    int32_t packed;     /* of a GGUF file: quantised type that slf_unpack_row knows; 0: none */
} slf_entry;

/* A key of a GGUF file; the value stays where the file is mapped, little-endian and unaligned. */
typedef struct slf_field {
    char *key;
    const uint8_t *data; /* number, bytes of a text, elements of a list */
    uint64_t count;      /* bytes of a text, elements of a list, 1 */
    uint32_t type, item; /* numbers of the format; item: of a list's elements */
} slf_field;

struct salf_tensors {
    salf_context *context;
    slf_entry *entries; /* [n] of capacity; by name once sealed */
    int64_t n;
    int64_t capacity;
    char **metadata; /* [n_metadata] key, value, key, value, ... of the first file */
    int64_t n_metadata;
    slf_field *fields; /* [n_fields] of a GGUF file, by key; NULL for others */
    int64_t n_fields;
    slf_map *maps; /* [n_maps] */
    int64_t n_maps;
};

/* A handle without tensors. A reader adds entries and metadata; slf_tensors_seal is the last step. */
salf_status slf_tensors_new(salf_tensors **out, salf_context *context);
/* One more entry, zeroed but for its name and file. The handle owns it at once, finished or not. */
salf_status slf_tensors_add(salf_tensors *tensors, const char *name, slf_entry **out);
/* After the last file: sorts by name. SALF_E_CORRUPT when a name occurs twice. */
salf_status slf_tensors_seal(salf_tensors *tensors, const char *path);
/* NULL when there is none of that name. Sealed handles only. */
const slf_entry *slf_tensors_entry(const salf_tensors *tensors, const char *name);
/* Place of the first entry whose name is not before this one; n when all are. Sealed handles only. */
int64_t slf_tensors_place(const salf_tensors *tensors, const char *name);
/* Product of n dimensions, at most INT64_MAX / 16. -1 when one is negative or the product of those that are not 0 is
 * larger, so that the product of any of them fits too. */
int64_t slf_shape_elements(const int64_t *shape, int32_t n_dims);

/* ---- safetensors.c, shards.c: readers ---- */

/* Checks a safetensors file in memory and adds its tensors; bytes stay borrowed. */
salf_status slf_safetensors_read(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path);
/* A file in memory as a handle of its own; bytes stay borrowed. */
salf_status slf_tensors_from_memory(salf_tensors **out, salf_context *context, const void *bytes, uint64_t size);
/* The name that safetensors has for SALF_F32 ...; NULL for a number that is none. */
const char *slf_safetensors_type(int32_t dtype);

/* ---- families.c, config.c: what a Hugging Face checkpoint says of a model ---- */

/* The two ways in which configurations name their keys. */
enum { SLF_KEYS_LLAMA = 0, SLF_KEYS_GPT2 = 1, SLF_KEY_SCHEMES };

/* All that is particular to a family. A new one is a row in families.c and a constant in salf.h. */
typedef struct slf_family {
    const char *name; /* model_type */
    int32_t id;       /* SALF_FAMILY_* */
    int32_t keys;     /* SLF_KEYS_* */
    int32_t norm_kind;
    /* What holds where the configuration does not say. */
    int32_t tied, attention_bias;
    int32_t head_dim;   /* 0: hidden / heads */
    int32_t ffn_factor; /* times hidden; 0: the configuration has to say */
    double norm_eps, rope_theta, logit_softcap;
    int32_t scales_embedding; /* 1: by sqrt(D) */
    /* Where the tensors lie: prefix + embedding; prefix + norm + ".weight", ".bias"; prefix + layers + k + "." ... */
    const char *prefix, *embedding, *norm, *layers;
} slf_family;

/* NULL for a name or an id that is none. */
const slf_family *slf_family_of_name(const char *model_type);
const slf_family *slf_family_of_id(int32_t id);
/* The names that slf_family_of_name knows, "llama, qwen2, ...". */
void slf_family_names(char *text, size_t size);

/* Reads a configuration: valid_vocab = vocab; tied as the file says, or the family's default. info is untouched on
 * failure. SALF_E_CORRUPT (wrong types, senseless values), SALF_E_UNSUPPORTED (model_type). */
salf_status slf_config_read(salf_model_info *info, const json_t *json, const char *path);
/* The same from config.json in a folder; family receives the row of the family that it names. */
salf_status slf_config_load(salf_model_info *info, const slf_family **family, const salf_context *context,
                            const char *folder);

#endif
