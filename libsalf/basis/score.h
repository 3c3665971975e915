/* score.h - scores of states against the rows of a vocabulary. Not installed. */
#ifndef SALF_SCORE_H
#define SALF_SCORE_H

#include "basis/basis.h"
#include "core/carve.h"

/* Rows to compare states with, in three forms. The whole vocabulary over a head: matrix, as the host stores it, and
 * inverse_norms with basis scores. Over a table: rows and inverse_norms of the basis. Candidates: rows of their own,
 * and ids that say which tokens they are. Fixed when it is made. */
typedef struct slf_vocabulary {
    const salf_basis *basis; /* kept alive by the owner */
    salf_context *context;
    int64_t n;
    const slf_matrix *matrix;    /* rows as the host stores them; NULL: rows */
    const float *rows;           /* backend [n][D], the table's or own.rows */
    const double *inverse_norms; /* backend [n]; NULL: logits */
    const double *p;             /* backend [D][D], P where z = P h / |h|, so that the rows are w_i; else NULL */
    int32_t *candidates;         /* host [n], ascending; NULL: the whole vocabulary */
    int32_t *ids;                /* backend [n]; NULL with candidates NULL */
    float *bias;                 /* backend [n]; NULL: none */
    slf_label_rows own;          /* of candidates; its norms are inverse, its host arrays are gone */
    float *block;                /* host [block_rows][D], for rows of a callback; NULL where the matrix is a view */
    int64_t block_rows;          /* of a walk's step */
    double amplification;        /* max |x_i| inverse_norm_i */
    slf_score_rule rule;         /* how scores come from products */
} slf_vocabulary;

/* Checks a temperature option and puts 1 in the place of 0. */
salf_status slf_temperature_read(double *temperature);

salf_status slf_vocabulary_create(slf_vocabulary **out, salf_basis *basis, const int32_t *candidates,
                                  int64_t n_candidates, int32_t scores, double temperature);
void slf_vocabulary_destroy(slf_vocabulary *vocabulary);
/* SALF_E_LABEL when candidates are given and label is none of them. */
salf_status slf_vocabulary_check(const slf_vocabulary *vocabulary, int32_t label);
/* The rows as one view with their biases (NULL: none), where they are in the backend's memory; false where they have to
 * be fetched. */
bool slf_vocabulary_rows(const slf_vocabulary *vocabulary, salf_tensor *rows, const float **bias);

/* The rows of the right tokens of a batch [R], all in backend memory. Their scores are the queries' targets. */
typedef struct slf_target_rows {
    salf_tensor rows;      /* [n][D]: basis rows in float32, or with logits rows of the head */
    const double *norms;   /* [n]: of basis rows; NULL with logits */
    const float *bias;     /* [n], logits only; NULL: none */
    const int32_t *row_of; /* [R]: which of rows each datum has */
} slf_target_rows;

/* What a walk leaves for each query, besides its target. */
enum {
    SLF_SUM_EXP = 1,     /* sum u_i, and with logits the maximum */
    SLF_SUM_COUNT = 2,   /* how many scores are above the target */
    SLF_SUM_GRADIENT = 4 /* what the gradient of log sum u_i is made from */
};

/*
 * Queries, and the walks over the vocabulary that answer them. A walk reads the whole vocabulary however few queries it
 * serves, so that queries wait until as many are there as the workspace holds.
 *
 * Results are by entry, whose meaning is the caller's: a probe has [S][R], spaces by rows. Those that wait are entries
 * first ... first+waiting-1. All arrays are backend memory, parts of the caller's block.
 */
typedef struct slf_score_run {
    int64_t chunk; /* states that become queries at once */
    int64_t room;  /* most queries that wait */
    int64_t first;
    int64_t waiting;
    double *z;           /* [room][D] */
    int32_t *needs_f64;  /* [room] */
    int32_t *labels;     /* by entry; the caller's */
    double *target;      /* by entry, as the sums */
    slf_score_sums sums; /* NULL where not wanted */
} slf_score_run;

/* Takes the arrays for so many entries of dim numbers from a block; sums: a mask of SLF_SUM_*. */
void slf_score_run_lay_out(slf_score_run *run, slf_carver *device, int64_t entries, int64_t dim, int32_t sums,
                           const slf_score_rule *rule);
/* Makes queries of states, entries entry ... of them, and walks when there is no more room. Entries of one walk are
 * neighbours: what waits is answered first where these do not follow it. After a failure the same call may be made
 * again, and nothing is counted twice. norm NULL: none. */
salf_status slf_score_run_add(slf_score_run *run, const slf_vocabulary *vocabulary, const salf_tensor *states,
                              const slf_norm *norm, const slf_target_rows *targets, int64_t entry);
/* Answers what waits. After a failure it still waits. */
salf_status slf_score_run_walk(slf_score_run *run, const slf_vocabulary *vocabulary);

#endif
