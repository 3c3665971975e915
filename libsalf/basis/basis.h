/* basis.h - the basis and the rows of its labels, for the basis, the probe and the losses. Not installed. */
#ifndef SALF_BASIS_H
#define SALF_BASIS_H

#include "backend/device_memory.h"
#include "model/model.h"

/* Basis rows of some labels, or (labels NULL) of all tokens: the table. */
typedef struct slf_label_rows {
    int64_t n;
    int32_t *labels;    /* host [n], ascending; NULL: row i is token i */
    double *exact;      /* host [n][D]; NULL for the table */
    double *host_norms; /* host [n]; 0 marks a zero row */
    float *rows;        /* backend [n][D] */
    double *norms;      /* backend [n] */
    void *host_block;   /* the arrays above are parts of these two */
    void *device_block;
} slf_label_rows;

/* What the scores over the whole vocabulary need, made by the first that asks, under the lock, and never changed after:
 * a basis is immutable to all that can be seen of it. */
typedef struct slf_norm_cache {
    slf_lock lock;
    double *inverse_norms; /* backend [vocab]: 1 / |b_i|, 0 for a zero row; NULL: not made yet */
    double amplification;  /* max |w_i| / |b_i|: how much larger products w_i . z are than the scores they make */
} slf_norm_cache;

struct salf_basis {
    atomic_int references;
    salf_context *context;
    salf_model *model;          /* NULL: only what is held serves */
    const slf_matrix *matrix;   /* the model's W_o or W_i, which the basis stands on; NULL without a model ... */
    const slf_matrix *shard;    /* or where the model has a part of W_o, which is here */
    float *label_rows;          /* host [n][D]: rows w_l of the held labels, for a shard; else NULL */
    salf_basis_options options; /* as asked for; struct_size unused */
    salf_basis_info info;       /* n_labels, has_table and has_norms stay 0: salf_basis_get_info sets them */
    int64_t padded_vocab;       /* rows of the head with padding */
    double sigma_min_kept;
    double rounding; /* relative, of basis rows: D 2^-52 times the squared condition; 0 on the input side */
    double noise;    /* row l is zero when |b_l| <= noise * |w_l|; see factor.c */
    double *p;       /* backend [D][D]; NULL for the input side and beside a table, where nothing needs it */
    slf_label_rows held;
    slf_norm_cache *norm_cache;
};

/* ---- basis.c: life ---- */

salf_status slf_basis_read_options(salf_basis_options *own, const salf_basis_options *theirs, int64_t vocab,
                                   int64_t hidden);
/* An empty basis with its context, model (may be NULL) and sizes set. */
salf_status slf_basis_new(salf_basis **out, salf_context *context, salf_model *model, const salf_basis_options *options,
                          int64_t vocab, int64_t padded_vocab, int64_t hidden);
/* The last step of making one: holds the rows of ascending labels (w [n][D] float32, host; NULL: the matrix's) and
 * prepares what the options ask for. */
salf_status slf_basis_complete(salf_basis *basis, const int32_t *labels, int64_t n, const float *w);

/* ---- labels.c: lists of tokens ---- */

/* SALF_E_LABEL or SALF_E_PADDING when a label belongs to no token. */
salf_status slf_label_check(int32_t label, int64_t vocab, int64_t padded_vocab);
/* Checked labels in ascending order without repeats; *out is the caller's. */
salf_status slf_labels_unique(const salf_context *context, const int32_t *labels, int64_t n, int64_t vocab,
                              int64_t padded_vocab, int32_t **out, int64_t *n_out);
/* Sorts labels in place, without repeats; how many are left. */
int64_t slf_labels_sort(int32_t *labels, int64_t n);
/* Position of a label in ascending labels [n], or -1. */
int64_t slf_label_find(const int32_t *labels, int64_t n, int32_t label);

/* ---- rows.c: basis rows of labels ---- */

/* Empty rows of labels (copied) with their float64 form, or of a table (labels NULL) without. */
salf_status slf_label_rows_make(slf_label_rows *rows, const salf_context *context, const int32_t *labels, int64_t n,
                                int64_t dim);
void slf_label_rows_free(const salf_context *context, slf_label_rows *rows);
/* The backend's rows and norms from the host's. */
salf_status slf_label_rows_upload(const slf_label_rows *rows, const salf_context *context, int64_t dim);
/* Row of a label, or -1. */
int64_t slf_label_row(const slf_label_rows *rows, int32_t label);
/* Basis rows of ascending labels [n] from their rows of W, w [n][D] in host memory, or (NULL) fetched by blocks from
 * the basis's matrix. zero_ok: zero rows are kept (norm 0) instead of refused. *out is replaced on success. */
salf_status slf_basis_solve(const salf_basis *basis, const int32_t *labels, int64_t n, const float *w, bool zero_ok,
                            slf_label_rows *out);

/* Rows for a batch's labels: those the basis holds, else solved here. */
typedef struct slf_label_set {
    slf_label_rows own;         /* kept for the next batch, which often has the same labels */
    const slf_label_rows *used; /* &own or &basis->held */
} slf_label_set;

/* Fills row_of [n] (host) with the row of each label in set->used. */
salf_status slf_label_set_prepare(slf_label_set *set, const salf_basis *basis, const int32_t *labels, int64_t n,
                                  int32_t *row_of);

/* ---- passes.c: all rows ---- */

/* Makes the table of all rows in float32, which replaces what is held. */
salf_status slf_basis_make_table(salf_basis *basis);
/* Takes the norms of a table as those of the vocabulary. */
salf_status slf_basis_use_table_norms(salf_basis *basis, const slf_label_rows *table);
/* The norm cache's content. SALF_E_ARGUMENT where it has to be made and there is no model. */
salf_status slf_basis_norms(const salf_basis *basis, const double **inverse_norms, double *amplification);
bool slf_basis_has_norms(const salf_basis *basis);
/* 1 / norm in place, and 0 for a zero row, so that its similarity to everything is 0. */
void slf_invert_norms(double *norms, int64_t n);

/* ---- factor.c ---- */

/* Sets P and the spectrum from the Gram matrix in backend memory, which becomes the basis's. */
salf_status slf_basis_factor(salf_basis *basis, double *gram);
/* The same from all rows, w [V][D] float32 in host memory, by way of W W^T; for V < D. */
salf_status slf_basis_factor_small(salf_basis *basis, const float *w);
/* True when slf_basis_factor_small is to be used: the Gram matrix alone would resolve less. See factor.c. */
static inline bool slf_basis_is_small(const salf_basis_options *options, int64_t vocab, int64_t hidden) {
    return vocab < hidden && options->mode != SALF_BASIS_RIDGE;
}
/* Sets noise from the spectrum. */
void slf_basis_set_noise(salf_basis *basis);

#endif
