/* progress.c - the bar: label, 24 cells, share done, time left, a note; redrawn in place at most ten times a second. */
#include "progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Of a clock that is never set back. */
static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_start(progress *p, const char *label, int64_t total) {
    *p = (progress){.label = label, .total = total, .started = seconds(), .enabled = isatty(STDERR_FILENO)};
    progress_update(p, 0, NULL);
}

/* Time left is what was used, times what is left, over what is done: steps of equal length are assumed. */
void progress_update(progress *p, int64_t done, const char *note) {
    if (!p->enabled || p->total <= 0) return;
    const double now = seconds();
    if (done < p->total && now - p->drawn < 0.1) return; /* the last one is always drawn */
    enum { CELLS = 24 };
    const double share = done >= p->total ? 1.0 : (double)done / (double)p->total;
    char bar[CELLS + 1];
    for (int i = 0; i < CELLS; i++) bar[i] = (double)i < share * CELLS ? '#' : '.';
    bar[CELLS] = 0;
    fprintf(stderr, "\r\033[K%s [%s] %3.0f%%", p->label, bar, 100 * share);
    if (done > 0 && done < p->total) fprintf(stderr, " %.0f s left", (now - p->started) * (1 - share) / share);
    if (note) fprintf(stderr, "  %s", note);
    fflush(stderr);
    p->drawn = now;
}

void progress_end(progress *p) {
    if (p->enabled) fputs("\r\033[K", stderr);
    p->enabled = 0;
}
