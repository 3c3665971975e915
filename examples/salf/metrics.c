/* metrics.c - macro F1, accuracy, confusion from a [C][C+1] table of counts: O(n + C^2). */
#include "metrics.h"

#include <stdlib.h>
#include <string.h>

/* Predictions outside the classes go to the last column, so that they count against their true class only. */
int metrics_compute(int32_t n_classes, int64_t n, const int32_t *truth, const int32_t *predicted, int64_t *confusion,
                    metrics *out) {
    const int64_t columns = (int64_t)n_classes + 1;
    int64_t *table = calloc((size_t)(n_classes * columns) + 1, sizeof *table);
    if (!table) return -1;
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
        if (truths + predictions == 0) continue; /* a class that does not occur has no F1 */
        sum += 2.0 * (double)table[c * columns + c] / (double)(truths + predictions);
        present++;
    }
    out->f1 = present ? sum / present : 0;
    out->accuracy = n ? (double)right / (double)n : 0;
    if (confusion) memcpy(confusion, table, (size_t)(n_classes * columns) * sizeof *table);
    free(table);
    return 0;
}
