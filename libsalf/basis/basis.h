/* basis.h - the basis and the rows of its labels, for the basis, the probe and the losses. Not installed. */
#ifndef SALF_BASIS_H
#define SALF_BASIS_H

#include "backend/device_memory.h"
#include "model/model.h"

/* ---- labels.c: rows of some labels ---- */

/* Prepared basis rows. */
typedef struct slf_label_rows {
    int64_t n;
    int32_t *labels;    /* host [n], ascending; NULL: row i is token i (the table) */
    double *exact;      /* host [n][D]; NULL for the table */
    double *host_norms; /* host [n]; 0 marks a zero row */
    float *rows;        /* backend [n][D] */
    double *norms;      /* backend [n] */
} slf_label_rows;

/* Norms of all rows, computed once, when first needed. */
typedef struct slf_norm_cache slf_norm_cache;

struct salf_basis {
    atomic_int references;
    salf_context *context;
    salf_model *model;          /* NULL: only what is held serves */
    salf_basis_options options; /* as asked for; struct_size unused */
    salf_basis_info info;       /* has_norms stays 0; see slf_basis_has_norms */
    int64_t padded_vocab;       /* rows of the head with padding */
    double sigma_min_kept;
    double noise; /* row l is zero when |b_l| <= noise * |w_l| */
    double *p;    /* backend [D][D]; NULL for the input side and beside a table, where nothing needs it */
    slf_label_rows held;
    slf_norm_cache *cache;
};

salf_basis *slf_basis_retain(salf_basis *basis);
/* SALF_E_LABEL or SALF_E_PADDING when a label belongs to no token. */
salf_status slf_label_check(int32_t label, int64_t vocab, int64_t padded_vocab, const char *who);
/* Checked labels in ascending order without repeats. */
salf_status slf_labels_unique(const salf_context *context, const int32_t *labels, int64_t n, int64_t vocab,
                              int64_t padded_vocab, const char *who, int32_t **out, int64_t *n_out);
/* Sorts labels in place, without repeats; how many are left. */
int64_t slf_labels_sort(int32_t *labels, int64_t n);
/* Position of a label in ascending labels [n], or -1. */
int64_t slf_label_find(const int32_t *labels, int64_t n, int32_t label);

void slf_label_rows_free(const salf_context *context, slf_label_rows *rows);
/* Rows of W of labels [n], float32 in host memory [n][D]. */
salf_status slf_basis_fetch(const salf_basis *basis, const slf_matrix *matrix, const int32_t *labels, int64_t n,
                            float *out);
/* Basis rows of ascending labels [n] from their rows of W, w [n][D] in host memory, or (NULL) fetched by blocks from
 * the basis's matrix. zero_ok: zero rows are kept (norm 0) instead of refused. */
salf_status slf_basis_solve(const salf_basis *basis, const int32_t *labels, int64_t n, const float *w, bool zero_ok,
                            slf_label_rows *out);

/* Rows for a batch's labels: those the basis holds, else solved here. */
typedef struct slf_label_set {
    slf_label_rows own;
    const slf_label_rows *used; /* &own or &basis->held */
} slf_label_set;

/* Fills which [n] (host) with the place of each label in set->used. */
salf_status slf_label_set_prepare(slf_label_set *set, const salf_basis *basis, const int32_t *labels, int64_t n,
                                  int32_t *which, const char *who);
void slf_label_set_free(const salf_context *context, slf_label_set *set);

/* ---- passes.c: all rows ---- */

/* The matrix the basis stands on, W_o or W_i; NULL without a model. */
const slf_matrix *slf_basis_matrix(const salf_basis *basis);
/* The model's matrix of a side. */
const slf_matrix *slf_model_side(const salf_model *model, int32_t side);
/* One pass over the valid rows: fingerprint, and (gram not NULL) the Gram matrix, float64 [D][D] in backend memory.
 * SALF_E_NONFINITE names the row. */
salf_status slf_matrix_scan(const salf_context *context, const slf_matrix *matrix, int64_t valid, double *gram,
                            uint64_t *fingerprint);
/* Makes the table of all rows in float32. */
salf_status slf_basis_make_table(salf_basis *basis);
/* 1 / |b_i| of every row in backend memory [vocab] (0 for a zero row) and growth = max |w_i| / |b_i|; computed by the
 * first caller, whichever thread it is. SALF_E_ARGUMENT without a model. */
salf_status slf_basis_norms(const salf_basis *basis, const double **inverse_norms, double *growth);
bool slf_basis_has_norms(const salf_basis *basis);
salf_status slf_norm_cache_create(const salf_context *context, slf_norm_cache **out);
void slf_norm_cache_destroy(const salf_context *context, slf_norm_cache *cache);
/* Takes inverse norms that are known; they belong to the cache from then on. */
void slf_norm_cache_set(slf_norm_cache *cache, double *inverse_norms, double growth);

/* ---- factor.c ---- */

/* Sets P and the spectrum from the Gram matrix in backend memory, which becomes the basis's. */
salf_status slf_basis_factor(salf_basis *basis, double *gram);
/* The same from all rows, w [V][D] float32 in host memory, by way of W W^T; for V < D. */
salf_status slf_basis_factor_small(salf_basis *basis, const float *w);
/* True when slf_basis_factor_small is to be used. */
bool slf_basis_is_small(const salf_basis_options *options, int64_t vocab, int64_t hidden);

/* ---- basis.c ---- */

salf_status slf_basis_read_options(salf_basis_options *own, const salf_basis_options *theirs, int64_t vocab,
                                   int64_t hidden);
/* An empty basis with its context, model (may be NULL) and sizes set. */
salf_status slf_basis_new(salf_basis **out, salf_context *context, salf_model *model, const salf_basis_options *options,
                          int64_t vocab, int64_t padded_vocab, int64_t hidden);
/* Holds the rows of ascending labels (w [n][D] float32, host; NULL: the matrix's) and prepares what the options ask
 * for.
 */
salf_status slf_basis_complete(salf_basis *basis, const int32_t *labels, int64_t n, const float *w);
/* Sets noise from the spectrum. */
void slf_basis_set_noise(salf_basis *basis);

#endif
