/* metrics.h - how good predicted classes are: macro F1, accuracy, confusion.
 *
 * F1 of a class is 2 TP / (2 TP + FP + FN); macro F1 is its mean over the classes that occur among the true or the
 * predicted ones. */
#ifndef SALF_EXAMPLE_METRICS_H
#define SALF_EXAMPLE_METRICS_H

#include <stdint.h>

typedef struct metrics {
    double f1;
    double accuracy;
    double variance; /* of f1, by the draw of the texts; 0 with n = 0 */
} metrics;

/* truth [n] in 0 ... n_classes-1; predicted [n], where any number outside that range is "none of them" and counts as
 * wrong. confusion [n_classes][n_classes+1] (rows: true class; last column: none of them) may be NULL. Returns 0, or -1
 * when memory is short. With n = 0 all figures are 0. */
int metrics_compute(int32_t n_classes, int64_t n, const int32_t *truth, const int32_t *predicted, int64_t *confusion,
                    metrics *out);

#endif
