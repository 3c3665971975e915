/* progress.h - a progress bar on standard error, when that is a terminal that can redraw a line; nothing
 * otherwise. A line is cut at the width of the terminal. */
#ifndef SALF_EXAMPLE_PROGRESS_H
#define SALF_EXAMPLE_PROGRESS_H

#include <stdint.h>

typedef struct progress {
    const char *label;
    int64_t total;
    double started; /* monotonic seconds */
    double drawn;   /* when the bar was last drawn */
    int enabled;
} progress;

/* 1: nothing is drawn (--quiet). */
extern int progress_quiet;

/* label stays borrowed. */
void progress_start(progress *p, const char *label, int64_t total);
/* Draws at most ten times a second, so it may be called at every step. note: a few words behind the bar, or NULL. */
void progress_update(progress *p, int64_t done, const char *note);
/* Clears the line. */
void progress_end(progress *p);

#endif
