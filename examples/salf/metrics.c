/* metrics.c - macro F1, accuracy, confusion from a [C][C+1] table of counts: O(n + C^2). */
#include "metrics.h"

#include <stdlib.h>
#include <string.h>

/* Variance of macro F1 by the draw of the texts (delta method), from n_ij texts of class i that were taken for j. With
 * D_c = 2 TP + FP + FN and F_c = 2 n_cc / D_c of the P classes that occur, one more there moves macro F1 by h_ij / P,
 *     h_ij = 2 [i = j] / D_i - F_i / D_i - F_j / D_j,
 * and as the sum of n_ij h_ij is 0 the variance is that of n_ij h_ij^2, over P^2. Each class has half a right and half
 * a wrong answer more, the latter spread over the others: one with a handful of texts is not certain. An accuracy's
 * variance would be far too small where classes are of unequal sizes, as the F1 of a small one counts as much as any.
 * sizes [C]: D_c, which become 1 / (D_c + 2) or, of a class that does not occur, 0; f1 [C]: scratch. */
static double f1_variance(int32_t n_classes, int32_t present, const int64_t *table, double *sizes, double *f1) {
    const int64_t columns = (int64_t)n_classes + 1;
    double sum = 0;
    for (int32_t c = 0; c < n_classes; c++) {
        sizes[c] = sizes[c] > 0 ? 1 / (sizes[c] + 2) : 0;
        f1[c] = (2 * (double)table[c * columns + c] + 1) * sizes[c];
    }
    for (int32_t i = 0; i < n_classes; i++) {
        for (int32_t j = 0; j < columns && sizes[i] > 0; j++) {
            double count = (double)table[i * columns + j], h = -f1[i] * sizes[i];
            if (i == j) h += 2 * sizes[i];
            if (j < n_classes) h -= f1[j] * sizes[j];
            if (j < n_classes && sizes[j] > 0) count += i == j ? 0.5 : 0.5 / (present - 1);
            sum += count * h * h;
        }
    }
    return sum / present / present;
}

/* Predictions outside the classes go to the last column, so that they count against their true class only. */
int metrics_compute(int32_t n_classes, int64_t n, const int32_t *truth, const int32_t *predicted, int64_t *confusion,
                    metrics *out) {
    const int64_t columns = (int64_t)n_classes + 1;
    int64_t *table = calloc((size_t)(n_classes * columns) + 1, sizeof *table);
    double *sizes = calloc((size_t)n_classes * 2 + 1, sizeof *sizes); /* [C], and as much scratch */
    if (!table || !sizes) {
        free(table);
        free(sizes);
        return -1;
    }
    int64_t right = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t p = predicted[i] >= 0 && predicted[i] < n_classes ? predicted[i] : n_classes;
        table[truth[i] * columns + p]++;
        right += p == truth[i];
    }
    double sum = 0;
    int32_t present = 0;
    for (int32_t c = 0; c < n_classes; c++) {
        int64_t truths = 0, predictions = 0; /* TP + FN and TP + FP */
        for (int64_t k = 0; k < columns; k++) truths += table[c * columns + k];
        for (int64_t k = 0; k < n_classes; k++) predictions += table[k * columns + c];
        sizes[c] = (double)(truths + predictions);
        if (truths + predictions == 0) continue; /* a class that does not occur has no F1 */
        sum += 2.0 * (double)table[c * columns + c] / (double)(truths + predictions);
        present++;
    }
    out->f1 = present ? sum / present : 0;
    out->accuracy = n ? (double)right / (double)n : 0;
    out->variance = present ? f1_variance(n_classes, present, table, sizes, sizes + n_classes) : 0;
    if (confusion) memcpy(confusion, table, (size_t)(n_classes * columns) * sizeof *table);
    free(table);
    free(sizes);
    return 0;
}
