/* progress.c - the bar: label, 24 cells, share done, time left, a note; redrawn in place at most ten times a second. */
#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

int progress_quiet;

/* Of a clock that is never set back. */
static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A dumb terminal, such as an editor's, can neither go back to the start of a line nor clear it. */
static int can_draw(void) {
    const char *kind = getenv("TERM");
    return !progress_quiet && isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0;
}

/* Columns of the terminal; asked anew for each line, as windows change. */
static int columns(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

void progress_start(progress *p, const char *label, int64_t total) {
    *p = (progress){.label = label, .total = total, .started = seconds(), .enabled = can_draw()};
    progress_update(p, 0, NULL);
}

/* Time left is what was used, times what is left, over what is done: steps of equal length are assumed. */
void progress_update(progress *p, int64_t done, const char *note) {
    if (!p->enabled || p->total <= 0) return;
    const double now = seconds();
    if (done < p->total && now - p->drawn < 0.1) return; /* the last one is always drawn */
    enum { CELLS = 24 };
    const double share = done >= p->total ? 1.0 : (double)done / (double)p->total;
    char bar[CELLS + 1], left[32] = "", line[256];
    for (int i = 0; i < CELLS; i++) bar[i] = (double)i < share * CELLS ? '#' : '.';
    bar[CELLS] = 0;
    if (done > 0 && done < p->total)
        snprintf(left, sizeof left, " %.0f s left", (now - p->started) * (1 - share) / share);
    snprintf(line, sizeof line, "%s [%s] %3.0f%%%s%s%s", p->label, bar, 100 * share, left, note ? "  " : "",
             note ? note : "");
    fprintf(stderr, "\r\033[K%.*s", columns() - 1, line); /* a line that wraps could not be taken back */
    fflush(stderr);
    p->drawn = now;
}

void progress_end(progress *p) {
    if (p->enabled) fputs("\r\033[K", stderr);
    p->enabled = 0;
}
