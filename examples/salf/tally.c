/* tally.c - figures of a run: savings, clock, table. */
#include "tally.h"

#include <string.h>
#include <time.h>

double tally_saving(const tally *t) {
    return t->v[TALLY_TRAINED] > 0 ? t->v[TALLY_DEPTH] / t->v[TALLY_TRAINED] : 0;
}

double tally_predicted(const tally *t) {
    return t->v[TALLY_FULL_FLOPS] > 0 ? 1 - t->v[TALLY_FLOPS] / t->v[TALLY_FULL_FLOPS] : 0;
}

double tally_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The run that backward times are compared with, where it is among them and took any time. */
static const tally *reference_run(const method *methods, const tally *tallies, int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(methods[i].name, "lora[full]") == 0 && tallies[i].v[TALLY_BACKWARD] > 0) return &tallies[i];
    return NULL;
}

void tally_table(FILE *out, const method *methods, const tally *tallies, int count) {
    const tally *full = reference_run(methods, tallies, count);
    fprintf(out, "%-18s %8s %8s %7s %9s %9s %8s %9s %8s%s\n", "method", "macro F1", "accuracy", "saving", "predicted",
            "forward s", "probe s", "backward s", "update s", full ? "  backward ratio" : "");
    for (int i = 0; i < count; i++) {
        const double *v = tallies[i].v;
        fprintf(out, "%-18s %8.3f %8.3f %7.3f %9.3f %9.2f %8.3f %10.2f %8.3f", methods[i].name, v[TALLY_F1],
                v[TALLY_ACCURACY], tally_saving(&tallies[i]), tally_predicted(&tallies[i]), v[TALLY_FORWARD],
                v[TALLY_PROBE], v[TALLY_BACKWARD], v[TALLY_UPDATE]);
        if (full) fprintf(out, "  %14.3f", v[TALLY_BACKWARD] / full->v[TALLY_BACKWARD]);
        fputc('\n', out);
    }
}

void tally_legend(FILE *out) {
    fputs(
        "saving: mean share of layers that the backward left out, as the paper counts; predicted: share of all "
        "floating-point\noperations of the run that were saved, forward passes of data that were only probed counted; "
        "seconds are measured\n",
        out);
}
