/* io.h - what the files of this folder share: whole files, JSON, tensor files, checkpoints. Nothing else of the library
 * knows JSON. Not installed. */
#ifndef SALF_IO_H
#define SALF_IO_H

#include <errno.h>

#include "core/core.h"
#include "core/dtypes.h"
#include "io/json.h"

/* ---- map.c: files to read, and paths ---- */

/* A file's bytes, mapped or read; size 0: there are none. */
typedef struct slf_map {
    const uint8_t *bytes;
    uint64_t size;
} slf_map;

/* Opens a file to read; size may be NULL. SALF_E_NOT_FOUND, SALF_E_IO (also for what is no regular file). */
salf_status slf_file_open(int *descriptor, const char *path, uint64_t *size);
/* The same, and reads a file of at most read_most bytes, or maps it: then another process that shortens it while it is
 * mapped ends this one with SIGBUS. Configurations and indexes are always read; tensors as the context says, whose host
 * is asked meanwhile. */
salf_status slf_map_open(slf_map *map, const salf_context *context, const char *path, uint64_t read_most);
#define SLF_SMALL_FILE            ((uint64_t)64 << 20)
#define SLF_PATIENCE              ((uint64_t)16 << 20) /* bytes before the host is asked: about 10 ms */
#define SLF_READ_MOST(of_context) ((of_context)->options.read_files ? UINT64_MAX : 0)
void slf_map_close(slf_map *map);
/* folder + "/" + name, freed by slf_free; NULL without memory. */
char *slf_path_join(const salf_context *context, const char *folder, const char *name);
bool slf_path_is_folder(const char *path);
bool slf_path_exists(const char *path);
/* Whether a relative path leads to something below the folder that it starts from, whatever is there. */
bool slf_path_is_inside(const char *path);

/* ---- hash.c ---- */

/* A hash of bytes that come in pieces: salf_hash of them all. Begins as zeros, or with hash set. */
typedef struct slf_sum {
    uint64_t hash, n; /* n: bytes so far */
    uint8_t part[8];
} slf_sum;
void slf_sum_add(slf_sum *sum, const void *bytes, uint64_t n);
uint64_t slf_sum_end(const slf_sum *sum);

/* ---- file.c: files to write ---- */

#define SLF_PATH_SIZE 4096
/* Between a file's name and the letters that make its temporary name, so that leftovers of a killed process are
 * known. */
#define SLF_TEMPORARY ".tmp."

/* A file on its way to path, under a temporary name in the same folder: readers see the old file or the new one, whole,
 * whatever happens to this process or the machine. Where path is a device, a pipe or a stream of this process, what is
 * written goes there at once, and temporary is "". */
typedef struct slf_file {
    const salf_context *context; /* of the call; NULL: none */
    const char *path;            /* borrowed, for messages */
    int descriptor;
    char target[SLF_PATH_SIZE]; /* path behind its links */
    char temporary[SLF_PATH_SIZE + 32];
    slf_sum *sum; /* of what is written, where somebody asks; NULL */
} slf_file;

/* On failure no temporary file is left behind. */
salf_status slf_file_create(slf_file *file, const salf_context *context, const char *path);
/* After a failed write you call slf_file_abandon. */
salf_status slf_file_write(slf_file *file, const void *bytes, size_t n);
/* Syncs, renames over the target, syncs the folder; ends the file whatever the result. */
salf_status slf_file_commit(slf_file *file);
void slf_file_abandon(slf_file *file);
/* Makes names in the folder that path lies in survive a crash of the machine. */
salf_status slf_folder_sync(const char *path);
/* N of "/dev/fd/N", 1 of "/dev/stdout" and the like: a stream that the process has open. -1 for other paths. */
int slf_path_descriptor(const char *path);

/* A call of the system that a signal of the host's has interrupted is made again: in Python, handlers do not restart
 * calls by themselves. Not for close(), which has closed by then. */
#define SLF_UNINTERRUPTED(result, call) \
    do {                                \
        (result) = (call);              \
    } while ((result) < 0 && errno == EINTR)

/* An error of the system, in its words: SALF_E_NO_SPACE where that is the reason, else SALF_E_IO. */
salf_status slf_fail_errno(const char *action, const char *path, int error);

/* ---- tensors.c: the tensors of one or more files ---- */

typedef struct slf_entry {
    char *name; /* first: slf_order_names */
    const uint8_t *data;
    _Atomic(void *)
        copy;       /* owned, of data that do not lie aligned for their type, once somebody asked for them; or NULL */
    uint64_t begin; /* offsets in the data part of its file */
    uint64_t end;
    int64_t shape[8];
    int64_t file;       /* how many mapped files the handle had when this one was added, itself included */
    int32_t n_dims;     /* of the file; those beyond 8 are not in shape */
    int32_t dtype;      /* SALF_F32 ...; 0: another type */
    char type_name[16]; /* as the file has it */
    int32_t packed;     /* of a GGUF file: quantised type that slf_unpack_row knows; 0: none */
} slf_entry;

/* Elements are floating-point numbers that can be read: float32, bfloat16, float16 or float64. */
static inline bool slf_entry_is_real(const slf_entry *entry) {
    return slf_float_size(entry->dtype) > 0 || entry->dtype == SALF_F64;
}

/* A key of a GGUF file; the value stays where the file is mapped, little-endian and unaligned. */
typedef struct slf_file_field {
    char *key;           /* first: slf_order_names */
    const uint8_t *data; /* number, bytes of a text, elements of a list */
    uint64_t count;      /* bytes of a text, elements of a list, 1 */
    uint32_t type, item; /* numbers of the format; item: of a list's elements */
} slf_file_field;

struct salf_tensors {
    salf_context *context;
    slf_entry *entries; /* [n] of capacity; by name once sealed */
    int64_t n;
    int64_t capacity;
    char **metadata; /* [n_metadata] key, value, key, value, ... of the first file */
    int64_t n_metadata;
    slf_file_field *fields; /* [n_fields] of a GGUF file, by key; NULL for others */
    int64_t n_fields;
    slf_map *maps; /* [n_maps] */
    int64_t n_maps;
};

/* A handle without tensors. A reader adds entries and metadata; slf_tensors_seal is the last step. */
salf_status slf_tensors_new(salf_tensors **out, salf_context *context);
/* One more entry, zeroed but for its name and file. The handle owns it at once, finished or not. */
salf_status slf_tensors_add(salf_tensors *tensors, const char *name, slf_entry **out);
/* Gives the entries from `first` on, those of one file, their data [n], once none of them reaches into the next one or
 * beyond the end. holes: whether bytes may lie between them, and behind the last. */
salf_status slf_tensors_put_data(salf_tensors *tensors, int64_t first, const uint8_t *data, uint64_t n, bool holes,
                                 const char *path);
/* After the last file: sorts by name. SALF_E_CORRUPT when a name occurs twice. */
salf_status slf_tensors_seal(salf_tensors *tensors, const char *path);
/* NULL when there is none of that name. Sealed handles only. */
const slf_entry *slf_tensors_entry(const salf_tensors *tensors, const char *name);
/* Place of the first entry whose name is not before this one; n when all are. Sealed handles only. */
int64_t slf_tensors_place(const salf_tensors *tensors, const char *name);
/* Whether some tensor's name begins so. Sealed handles only. */
bool slf_tensors_begin(const salf_tensors *tensors, const char *beginning);
/* Product of n dimensions, at most INT64_MAX / 16. -1 when one is negative or the product of those that are not 0 is
 * larger, so that the product of any of them fits too. */
int64_t slf_shape_elements(const int64_t *shape, int32_t n_dims);

/* ---- safetensors.c, shards.c: readers ---- */

/* Checks a safetensors file in memory and adds its tensors; bytes stay borrowed. */
salf_status slf_safetensors_read(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path);
/* The name that safetensors has for SALF_F32 ...; NULL for a number that is none. */
const char *slf_safetensors_type(int32_t dtype);

/* ---- kinds.c: what people have instead ---- */

/* What a file of another format is and what to do about it; NULL where its first bytes do not say. Static. */
const char *slf_file_kind(const void *bytes, uint64_t size);
/* Names of files in a folder that may hold weights, at most four, "a.bin, b.pth"; "" where there are none. */
void slf_folder_weights(const char *folder, char *text, size_t size);

/* ---- save.c ---- */

/* salf_tensors_save, and where seal is not NULL the 8 bytes there are the data of the last tensor, whose data then end
 * the file: they become the hash of all that stands before them. */
salf_status slf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                             int64_t n_tensors, const char *const *metadata, int64_t n_metadata, uint64_t *seal);

/* ---- keys.c: a JSON object of which every key is accounted for ---- */

/* An object that is read key by key. What nothing has taken is left over at the end, and then has to be explained. */
typedef struct slf_keys {
    slf_json *json;     /* borrowed */
    slf_json *defaults; /* what holds where json has no such key; NULL: nothing does. Borrowed */
    slf_json *left;     /* the keys of json that nobody has taken; owned */
    const char *path;   /* of the file, for messages */
    const char *object; /* before a key's name in messages, such as "rope_scaling." or "" */
} slf_keys;

/* SALF_E_NO_MEMORY. You close it in every case. */
salf_status slf_keys_open(slf_keys *keys, slf_json *json, slf_json *defaults, const char *path, const char *object);
void slf_keys_close(slf_keys *keys);
/* The value of a key, which is then accounted for: the file's, else the default; NULL when there is neither, or when
 * the file says null. Borrowed. */
slf_json *slf_keys_take(slf_keys *keys, const char *name);
/* The same as a finite number of 0 or more, as true or false, as an integer in 1 ... most (64.0 is one); out keeps what
 * it is where there is no value. SALF_E_CORRUPT. */
salf_status slf_keys_number(slf_keys *keys, const char *name, double *out);
salf_status slf_keys_positive(slf_keys *keys, const char *name, double *out); /* and not 0, wherever it is from */
salf_status slf_keys_given(slf_keys *keys, const char *name, double *out);    /* a number whose null is an error */
salf_status slf_keys_factor(slf_keys *keys, const char *name, double *out);   /* the same, above 0 */
salf_status slf_keys_cap(slf_keys *keys, const char *name, double *out);      /* above 0, or null for none */
salf_status slf_keys_flag(slf_keys *keys, const char *name, int32_t *out);
salf_status slf_keys_integer(slf_keys *keys, const char *name, int64_t most, int64_t *out);

/* An integer that goes by one of several names (NULL behind the last): they have to agree, unless several is set and
 * the first one counts. */
enum { SLF_NAMES = 5 };
salf_status slf_keys_size(slf_keys *keys, const char *const *names, int64_t most, bool several, int64_t *out);

/* ---- families.c, config.c, decoder.c, known.c: what a Hugging Face checkpoint says of a model ---- */

/* Which layers have the sliding window where the configuration does not list them. */
enum {
    SLF_WINDOW_NONE = 0, /* none, and the keys are not this family's */
    SLF_WINDOW_ALL,      /* all, where a window is set (Mistral, Phi-3) */
    SLF_WINDOW_FROM,     /* those from max_window_layers up, where use_sliding_window is set (Qwen) */
    SLF_WINDOW_PATTERN   /* all but each n-th, n being sliding_window_pattern (Gemma 2 and 3, OLMo 3) */
};
/* Keys that say which projections have biases; a family reads those of its mask. */
enum { SLF_ATTENTION_BIAS = 1, SLF_MLP_BIAS = 2, SLF_QKV_BIAS = 4 };

/* All that is particular to a family. A new one is a row in families.c. */
typedef struct slf_family {
    const char *name; /* model_type */
    int32_t id;       /* SALF_FAMILY_* */
    int32_t norm_kind;
    int32_t norm_bias;     /* 1: the final norm has a bias (LAYER) */
    int32_t norm_plus_one; /* 1: its weight is stored less 1 (LAYER; with RMS1P the kind says so) */
    int32_t head_bias;     /* 1: the head always has a bias */
    const char *eps;       /* the key of the norms' epsilon; NULL: 1e-5, in the code */
    /* The names of its parts: prefix + embedding, prefix + norm + ".weight", prefix + layers + number + "."; head +
     * ".weight" without prefix, NULL: lm_head. norm NULL: the final norm has no weight. */
    const char *prefix, *embedding, *norm, *layers, *head;
    /* "key=value key=value ...": what holds where a configuration has no such key, as its class in transformers has it;
     * and for keys that not every family reads, that this one does (slf_json_words). */
    const char *defaults;
    const char *sizes; /* the same of the class's sizes, which a model around this one may leave out */
    /* -- of the decoder; described 0: salf_decoder_info cannot say what its layers compute, whatever the keys are -- */
    int32_t described, block, qk_norm;
    int32_t biases;    /* SALF_MATRIX_* that always have one */
    int32_t bias_keys; /* SLF_*_BIAS */
    int32_t fused, window;
    int32_t partial_rotary;   /* 1: reads partial_rotary_factor */
    int32_t local_rope;       /* 1: layers with the window have rotary positions of their own */
    int32_t scales_embedding; /* 1: by sqrt(D) */
} slf_family;

/* NULL for a name that is none. */
const slf_family *slf_family_of_name(const char *model_type);
/* The names that slf_family_of_name knows, "llama, qwen2, ...". */
void slf_family_names(char *text, size_t size);

/* A configuration as it was understood. */
typedef struct slf_config {
    const salf_context *context;
    const slf_family *family;
    salf_model_info info;
    salf_decoder_info decoder; /* with the two below set */
    uint8_t *sliding;          /* [m], or NULL; owned */
    char unsupported[512];     /* "" when the decoder's description is complete */
    int32_t head_bias;         /* 1: the head has a bias */
    int32_t composite;         /* 1: the text model is a part of a larger one */
    int32_t extra_layers;      /* stored behind the model's, for predicting several tokens; no part of it */
    int64_t scale_block[2];    /* rows and columns of a matrix that share a scale (FP8) */
    slf_keys keys;             /* while it is read */
} slf_config;

/* Reads a configuration. accept: comma-separated keys that may stay unread; NULL: none. You call slf_config_free in
 * every case. SALF_E_CORRUPT (wrong types, senseless values), SALF_E_UNSUPPORTED (a model_type or a key that is not
 * known, or one that changes the head's arithmetic), SALF_E_NO_MEMORY. */
salf_status slf_config_read(slf_config *config, const salf_context *context, slf_json *json, const char *path,
                            const char *accept);
/* The same from config.json in a folder. */
salf_status slf_config_load(slf_config *config, const salf_context *context, const char *folder, const char *accept);
void slf_config_free(slf_config *config);
/* Whether a path can be a checkpoint folder at all: SALF_E_ARGUMENT for a file, SALF_E_UNSUPPORTED for an adapter or a
 * file of another format. One that is not there passes: what is missed first tells it better. */
salf_status slf_folder_check(const salf_context *context, const char *folder);

/* keys.c: notes that the decoder's description cannot say a key's value (NULL: none is printed). */
void slf_decoder_lacks(slf_config *config, const char *object, const char *name, const slf_json *value);
/* decoder.c: fills config->decoder, once the shape is known. */
salf_status slf_decoder_read(slf_config *config);
/* rope.c: the rotary positions in it. */
salf_status slf_rope_read(slf_config *config);
/* windows.c: the sliding windows. */
salf_status slf_windows_read(slf_config *config);
/* known.c: judges the keys that are left over; outer: the whole file's object, which may be more than the text
 * model's. */
salf_status slf_known_check(slf_config *config, slf_json *outer, const char *accept);

/* ---- parts.c: where the tensors of a checkpoint lie ---- */

/* What the library uses of a checkpoint's tensors; NULL: not there. Borrowed from the tensors. */
typedef struct slf_parts {
    const slf_entry *embedding, *norm_weight, *norm_bias, *head, *head_bias;
    char prefix[128]; /* of the layers, the norm and the embedding */
} slf_parts;

/* Finds them, and accounts for all others: a tensor below a layer that the decoder's description has no place for is
 * noted there, one that would change head, norm or embedding is SALF_E_UNSUPPORTED. SALF_E_MISMATCH: a part is missing,
 * or more than one could be meant; the message has the names that were looked for. */
salf_status slf_parts_find(slf_parts *parts, const salf_tensors *tensors, slf_config *config, const char *path);

/* ---- tokens.c ---- */

/* How many tokens tokenizer.json in a folder has, padding not counted; 0 when there is no such file. SALF_E_CORRUPT. */
salf_status slf_tokens_count(int64_t *out, const salf_context *context, const char *folder);
/* The same from such a file in memory. */
salf_status slf_tokens_count_in(int64_t *out, const void *bytes, uint64_t size, const char *path);

#endif
