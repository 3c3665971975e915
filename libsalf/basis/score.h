/* score.h - scores of states against the rows of a vocabulary. Not installed. */
#ifndef SALF_SCORE_H
#define SALF_SCORE_H

#include "basis/basis.h"

/* Rows to compare states with: the head as the host stores it, the table, or candidates. */
typedef struct slf_vocabulary slf_vocabulary;

salf_status slf_vocabulary_create(slf_vocabulary **out, salf_basis *basis, const int32_t *candidates,
                                  int64_t n_candidates, int32_t scores, double temperature, const char *who);
void slf_vocabulary_destroy(slf_vocabulary *vocabulary);
/* SALF_E_LABEL when candidates are given and label is none of them. */
salf_status slf_vocabulary_check(const slf_vocabulary *vocabulary, int32_t label, const char *who);
const slf_score_rule *slf_vocabulary_rule(const slf_vocabulary *vocabulary);
/* True when z = P h / |h|: then the sums' vector is to be taken through P, and needs_f64 of a query is set. */
bool slf_vocabulary_projected(const slf_vocabulary *vocabulary);
/* z [rows][D] of a query from states and, with projected scores, needs_f64 [rows]; both are backend memory. Which rows
 * need float64 products is decided in the backend, in stream order. */
salf_status slf_vocabulary_query(const slf_vocabulary *vocabulary, const salf_tensor *states, const slf_norm *norm,
                                 double *z, int32_t *needs_f64);
/* Adds every row of the vocabulary to sums. */
salf_status slf_vocabulary_walk(const slf_vocabulary *vocabulary, const slf_query *query, const slf_score_sums *sums);
/* The rows as one view with their biases (NULL: none), where they are in the backend's memory; false where they have to
 * be fetched. */
bool slf_vocabulary_rows(const slf_vocabulary *vocabulary, salf_tensor *rows, const float **bias);
/* Row of a label among them; the label is known to be there. */
int32_t slf_vocabulary_place(const slf_vocabulary *vocabulary, int32_t label);

#endif
