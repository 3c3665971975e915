/* score.h - scores of states against the rows of a vocabulary. Not installed. */
#ifndef SALF_SCORE_H
#define SALF_SCORE_H

#include "basis/basis.h"
#include "core/carve.h"

/* Rows to compare states with, in three forms. The whole vocabulary over a head: as the host stores it, and
 * inverse_norms with basis scores. Over a table: rows and inverse_norms of the basis. Candidates: rows of their own, by
 * ascending token. Fixed when it is made. */
typedef struct slf_vocabulary {
    const salf_basis *basis; /* kept alive by the owner */
    salf_context *context;
    int64_t n;
    const slf_matrix *matrix;    /* [n][D]: rows as the host stores them, of a shard those that are here; or: */
    slf_matrix kept;             /* a view of rows in the backend, the table's or own.rows */
    const double *inverse_norms; /* backend [n]; NULL: logits */
    const double *p;             /* backend [D][D], P where z = P h / |h|, so that the rows are w_i; else NULL */
    int32_t *candidates;         /* host [n], ascending; NULL: the whole vocabulary */
    float *bias;                 /* backend [n]; NULL: none */
    slf_label_rows own;          /* of candidates; its norms are inverse, its host arrays are gone */
    float *block;                /* host [block_rows][D], for rows of a callback; NULL where the matrix is a view */
    int64_t block_rows;          /* of a walk's step */
    double amplification;        /* max |x_i| inverse_norm_i */
    double *scaled_norms;        /* backend [n]: inverse_norms where the head's scale needs a gain; else NULL */
    slf_score_rule rule;         /* how scores come from products */
} slf_vocabulary;

/* Checks a temperature option and puts 1 in the place of 0. */
salf_status slf_temperature_read(double *temperature);

salf_status slf_vocabulary_create(slf_vocabulary **out, salf_basis *basis, const int32_t *candidates,
                                  int64_t n_candidates, int32_t scores, double temperature);
void slf_vocabulary_destroy(slf_vocabulary *vocabulary);
/* Reads again what logits copied of the model: biases, and the rows of candidates. Waits. */
salf_status slf_vocabulary_follow(slf_vocabulary *vocabulary);
/* SALF_E_LABEL when candidates are given and label is none of them. */
salf_status slf_vocabulary_check(const slf_vocabulary *vocabulary, int32_t label);
/* The rows of the right tokens of a batch among those of the vocabulary, as they stand there: their scores are the
 * queries' targets. */
typedef struct slf_target_rows {
    salf_tensor rows; /* backend memory: the vocabulary where it lies there, else fetched */
    int32_t *row_of;  /* host [n], the caller's: of each datum its token's row among these, and ... */
    int32_t *place;   /* its place in the vocabulary, which its norm and bias have */
    /* Where the vocabulary does not lie in the backend's memory, what is fetched of it for labels; else NULL: */
    int32_t *fetched_labels; /* host [n], ascending */
    float *fetched;          /* host [n][D] */
    float *device_fetched;   /* the same in backend memory */
} slf_target_rows;

/* Takes memory to fetch n rows, where they have to be; whether that is so. */
bool slf_target_rows_lay_out(slf_target_rows *targets, const slf_vocabulary *vocabulary, int64_t n, slf_carver *device,
                             slf_carver *host);
/* Fills row_of and place [n] for labels that slf_vocabulary_check has passed, and rows. The upload reads what was
 * fetched until the stream has passed. */
salf_status slf_target_rows_prepare(slf_target_rows *targets, const slf_vocabulary *vocabulary, const int32_t *labels,
                                    int64_t n);

/* What a walk leaves for each query, besides its target. */
enum {
    SLF_SUM_EXP = 1,     /* sum u_i, and the maximum where exp needs one */
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
    double *z;          /* [room][D] */
    int32_t *needs_f64; /* [room] */
    int32_t *row_of;    /* by entry; the caller's, of the target rows, as place */
    int32_t *place;
    salf_tensor own;     /* the target rows, as they were when queries were added */
    double *target;      /* by entry, as the sums */
    double *reach;       /* by entry; NULL without a count */
    slf_score_sums sums; /* NULL where not wanted */
} slf_score_run;

/* Whether sums (a mask of SLF_SUM_*) come with a running maximum. */
bool slf_score_run_has_maximum(int32_t sums, const slf_score_rule *rule);
/* Takes the arrays for so many entries of dim numbers from a block; sums: a mask of SLF_SUM_*. */
void slf_score_run_lay_out(slf_score_run *run, slf_carver *device, int64_t entries, int64_t dim, int32_t sums,
                           const slf_score_rule *rule);
/* Makes queries of states, entries entry ... of them, and walks when there is no more room. Entries of one walk are
 * neighbours: what waits is answered first where these do not follow it. After a failure the same call may be made
 * again, and nothing is counted twice. norm NULL: none. row_of, place and own are set before. */
salf_status slf_score_run_add(slf_score_run *run, const slf_vocabulary *vocabulary, const salf_tensor *states,
                              const slf_norm *norm, int64_t entry);
/* Answers what waits. After a failure it still waits. */
salf_status slf_score_run_walk(slf_score_run *run, const slf_vocabulary *vocabulary);

/* ---- shards.c ---- */

/* Rows w_l of labels that a builder kept for a shard, since any rank may have the rows themselves: out [n][D]. */
salf_status slf_shard_label_rows(const salf_basis *basis, const int32_t *labels, int64_t n, float *out);
/* The beginning of a batch over a vocabulary that ranks share, with what is wrong with this rank's call (local); else
 * returns local. labels [n]. */
salf_status slf_vocabulary_agree(const slf_vocabulary *vocabulary, int32_t meeting, salf_status local,
                                 const int32_t *labels, int64_t n);
/* Sums of n entries over the rows that are here become those over all ranks' rows; local: what went wrong here. */
salf_status slf_shards_add_up(const slf_vocabulary *vocabulary, salf_status local, const slf_score_sums *sums,
                              int64_t n, int64_t dim);

#endif
