/* score_few.h - what score_few.c (products) and score_collect.c (sums over them) share. */
#ifndef SALF_SCORE_FEW_H
#define SALF_SCORE_FEW_H

#include "cpu.h"

enum {
    SLF_FEW_TILE = 120,   /* block rows of a tile: whole register blocks of 6 and of 8 */
    SLF_FEW_COLUMNS = 32, /* most query rows of a panel */
};

/* Sums of a panel over a piece, and what its query rows are compared with. */
typedef struct {
    double sum[SLF_FEW_COLUMNS], weighted[SLF_FEW_COLUMNS], maximum[SLF_FEW_COLUMNS];
    int64_t count[SLF_FEW_COLUMNS];
} slf_panel_sums;

typedef struct {
    double target[SLF_FEW_COLUMNS];
    int64_t own[SLF_FEW_COLUMNS]; /* block row of the label; -1: in another block */
} slf_panel_query;

typedef struct slf_few_kernels slf_few_kernels;

typedef struct slf_few_job {
    const slf_kernels *kernels;
    const slf_few_kernels *few;
    const slf_query *query;
    const salf_tensor *block;
    const double *inverse_norm;
    const float *bias;
    const slf_score_rule *rule;
    const slf_score_sums *sums;
    int64_t panels, columns, pieces, depth;
    float *zt;                 /* [panels][D][columns] */
    slf_panel_query *query_of; /* [panels] */
    slf_panel_sums *part;      /* [pieces][panels] */
} slf_few_job;

#ifdef SLF_HAVE_X86
/* Takes products q [n][columns] of block rows i0 ... i0+n-1, n <= SLF_FEW_TILE, into the sums of panel p. */
void slf_collect_avx2(const slf_few_job *job, const float *q, int64_t i0, int64_t n, int64_t p, slf_panel_sums *sums);
#endif

#endif
