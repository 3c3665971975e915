/* score_panels.h - what score_panels.c (products) and score_collect.c (sums over them) share. */
#ifndef SALF_SCORE_PANELS_H
#define SALF_SCORE_PANELS_H

#include "cpu.h"

enum {
    SLF_PANEL_TILE = 48,    /* block rows of a tile: whole register blocks of 6 and of 8 */
    SLF_PANEL_COLUMNS = 32, /* most query rows of a panel */
};

/* Sums of a panel over a piece, and what its query rows are compared with. */
struct slf_panel_sums {
    double sum[SLF_PANEL_COLUMNS], weighted[SLF_PANEL_COLUMNS], maximum[SLF_PANEL_COLUMNS];
    int64_t count[SLF_PANEL_COLUMNS];
};

/* Between low and high rounding might decide, and a score is looked at again. */
typedef struct {
    double low[SLF_PANEL_COLUMNS], high[SLF_PANEL_COLUMNS];
    slf_near near[SLF_PANEL_COLUMNS];
} slf_panel_query;

typedef struct slf_panel_thread slf_panel_thread;

struct slf_panel_job {
    slf_score_call call;
    const slf_block_kernel *products;
    int64_t panels, columns, pieces, n_threads;
    float *zt;                 /* [panels][D][columns] */
    slf_panel_query *query_of; /* [panels] */
    slf_panel_sums *part;      /* [pieces][panels] */
    slf_panel_thread *threads; /* [n_threads] */
};

#endif
