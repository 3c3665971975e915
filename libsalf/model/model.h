/* model.h - rows of the head and the embedding (matrix.c), and the steps that a described model and a checkpoint share.
 * Not installed. */
#ifndef SALF_MODEL_H
#define SALF_MODEL_H

#include "core/core.h"

/* A matrix [n_rows][n_cols] given as a view or as a callback; neither: it is not there. */
typedef struct slf_matrix {
    salf_tensor view; /* data NULL: through rows */
    salf_rows_fn rows;
    void *user;
    int64_t n_rows;
    int64_t n_cols;
    /* A shard has rows first ... first+held-1 only, and ranks have the others; its view begins with row first, its
     * callback counts from the matrix's. held 0: all of them */
    int64_t first, held;
} slf_matrix;

static inline bool slf_matrix_is_shard(const slf_matrix *matrix) {
    return matrix->held > 0;
}

/* Of valid rows the ones behind those that are here. */
static inline int64_t slf_matrix_end(const slf_matrix *matrix, int64_t valid) {
    return slf_matrix_is_shard(matrix) ? SLF_MIN(valid, matrix->first + matrix->held) : valid;
}

static inline bool slf_matrix_is_empty(const slf_matrix *matrix) {
    return !matrix->view.data && !matrix->rows;
}

/* A matrix whose elements become float32 when its rows are asked for (scaled.c). */
typedef struct slf_scaled {
    const struct slf_entry *entry; /* [n_rows][n_cols] float64, FP8 or int8 */
    float *scales;                 /* one for each block of rows and columns; NULL: none. Owned */
    int64_t n_cols, block_rows, block_cols, scales_per_row;
} slf_scaled;

struct salf_model {
    atomic_int references;
    salf_context *context;
    salf_model_info info;   /* fingerprint stays 0: it is not known until asked for, and the model is immutable */
    slf_matrix head;        /* W_o [V][D]; the embedding when tied */
    slf_matrix embedding;   /* W_i [V][D]; the head when tied */
    float *norm_weight;     /* [D] owned, RMS1P already as 1 + weight; NULL: ones */
    float *norm_bias;       /* [D] owned; NULL: zeros */
    float *logit_bias;      /* [V] owned; NULL: none */
    int64_t version;        /* of the three vectors and the head; salf_model_update raises it */
    salf_tensor columns[2]; /* of the head, of the embedding where these are transposed: views [D][V] */
    salf_tensors *tensors;  /* owned; NULL for a described model */
    /* Of a checkpoint: */
    slf_scaled scaled[2];      /* of the head, of the embedding, where a view of them is not usable */
    salf_decoder_info decoder; /* sliding, unsupported, prefix: those below, or NULL */
    uint8_t *sliding;
    char *unsupported, *prefix;
};

/* How many rows of cols float32 fit the part of the workspace that a block of rows may take; at least 1. */
int64_t slf_block_rows(const salf_context *context, int64_t cols);
/* Rows first ... first+count-1: a view into the matrix where it is one, else made by the callback in buffer
 * [count][cols] float32. */
salf_status slf_matrix_block(const slf_matrix *matrix, int64_t first, int64_t count, float *buffer, salf_tensor *block);
/* Rows to host memory, out [n][D] in float32; labels NULL: rows 0 ... n-1. */
salf_status slf_matrix_fetch(const salf_context *context, const slf_matrix *matrix, const int32_t *labels, int64_t n,
                             float *out);

/* A pass over rows 0 ... valid-1, or those of them that are in a shard. While next < walk.valid, load gives the next
 * block of them, unless the host ends the call; then you free buffer. */
typedef struct slf_matrix_walk {
    const salf_context *context;
    const slf_matrix *matrix;
    const char *what; /* it is for, as the host is told */
    int64_t valid;
    int64_t rows;      /* of a full block */
    int64_t first;     /* row of the matrix that the block at hand begins with */
    int64_t next;      /* and the one behind its last */
    float *buffer;     /* host [rows][D], where a callback puts rows; NULL: the matrix is a view */
    salf_tensor block; /* view of the matrix or of buffer */
} slf_matrix_walk;
/* Blocks of as many rows as fit the workspace with floats_per_row of scratch each. 0: the work on a block needs no
 * scratch, and then a device, which has tiles of its own, gets a view whole. */
salf_status slf_matrix_walk_open(slf_matrix_walk *walk, const salf_context *context, const slf_matrix *matrix,
                                 int64_t valid, int64_t floats_per_row, const char *what);
salf_status slf_matrix_walk_load(slf_matrix_walk *walk);
/* One such pass: fingerprint, and (gram not NULL) the Gram matrix, added to float64 [D][D] in backend memory. bad_row
 * is the first row with NaN or infinity, or -1; NULL: such a row is an error, SALF_E_NONFINITE. Over a shard it is
 * collective, and the fingerprint that of the whole matrix (gram NULL). */
salf_status slf_matrix_scan(const salf_context *context, const slf_matrix *matrix, int64_t valid, double *gram,
                            uint64_t *fingerprint, int64_t *bad_row);

/* Of rows first ... end-1: a random number for each, summed modulo 2^64. As many rows with the sum of all are all of
 * them once, but with probability 2^-64. */
uint64_t slf_rows_checksum(int64_t first, int64_t end);

/* ---- making a model, in this order: new, then info and matrices, tie, norm, numbers ---- */

salf_status slf_model_new(salf_model **out, salf_context *context);
/* Options of salf_model_create, _update and _open as this version has them. */
salf_status slf_model_read_options(salf_model_options *own, const salf_model_options *theirs);
/* Makes the matrix that is there serve as both when the model is tied. */
void slf_model_tie(salf_model *model);
/* The final norm, whose weight and bias [1][D] are copied; data NULL: ones, zeros. */
salf_status slf_model_set_norm(salf_model *model, int32_t kind, const salf_tensor *weight, const salf_tensor *bias);
/* The bias on the logits [1][V], copied; data NULL: none. */
salf_status slf_model_set_logit_bias(salf_model *model, const salf_tensor *bias);
/* Overrides info by what the options set, after checking it. */
salf_status slf_model_set_numbers(salf_model *model, const salf_model_options *options);

/* ---- scaled.c ---- */

/* A head or an embedding [V][D] over an entry of the model's tensors, of any type; entry NULL leaves *matrix. s is one
 * of the model's own: the matrix may need it. block: rows and columns that share a scale, where the configuration says
 * so. path names the checkpoint. SALF_E_DTYPE, SALF_E_MISMATCH, SALF_E_NONFINITE (scales), SALF_E_NO_MEMORY. */
salf_status slf_matrix_open(slf_matrix *matrix, slf_scaled *s, const salf_model *model, const struct slf_entry *entry,
                            const int64_t block[2], const char *path);
/* The final norm's weight, to which plus is added, its bias and the logits' bias, of any real type; NULL: none. */
salf_status slf_model_use_vectors(salf_model *model, int32_t norm_kind, const struct slf_entry *const entries[3],
                                  float plus, const char *path);

/* ---- open_folder.c, open_gguf.c: what is made on the way belongs to the model, whatever the result ---- */

/* A model from a checkpoint folder. */
salf_status slf_model_open_folder(salf_model *model, const char *folder, const salf_model_options *options);
/* A model from a file of llama.cpp. */
salf_status slf_model_open_gguf(salf_model *model, const char *path, const salf_model_options *options);

#endif
