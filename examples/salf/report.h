/* report.h - what the files of `salf report` share: logs, their runs by log, method and seed, and charts as inline SVG.
 *
 * Logs may come from anywhere: numbers are read by report_number, texts are written by html_text, and lists are cut to
 * what can be drawn, so that no log makes a page without end. */
#ifndef SALF_EXAMPLE_REPORT_H
#define SALF_EXAMPLE_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "json.h"

enum { REPORT_STYLES = 8, REPORT_LAYERS_MOST = 1024, REPORT_CLASSES_MOST = 32 };

/* A list of numbers (x, y). */
typedef struct curve {
    double *x, *y;
    int64_t n, room;
} curve;

/* A log, or a part of one that begins with a run event. json parts are NULL where it has none, here and below. */
typedef struct report_log {
    char *name; /* its path, and "#2" and so on for later parts */
    json_t *run, *untrained;
} report_log;

/* One method with one seed. */
typedef struct report_run {
    int log;
    char *method;
    int64_t seed;
    json_t *result, *before, *after, *eof, *plan, *signal;
    curve loss; /* x: data trained (else step), y: loss */
    curve f1;   /* x: step */
} report_run;

/* The runs of one method in one log: runs first ... first + n - 1. The first stands for all in charts of single runs.
 * */
typedef struct report_group {
    char *name; /* the method's, with the log's where there are several */
    int first, n;
} report_group;

typedef struct report {
    report_log *logs;
    report_run *runs;
    report_group *groups;
    int n_logs, n_runs, n_groups;
} report;

/* The whole page. */
void report_page(FILE *out, const report *r);

/* A number of a log; NaN for anything else, and for what is too large to be drawn. */
double report_number(const json_t *value);
/* Mean of a figure over the runs of a group, its deviation (0 for one run) into *sd; NaN where a run lacks it. */
double report_figure(const report *r, const report_group *g, const char *key, double *sd);

/* Text with the characters that mean something in HTML replaced. */
void html_text(FILE *out, const char *text);

/* The two colours of charts that show a pair. */
#define CHART_PLAIN  "plain"
#define CHART_STRONG "strong"

typedef const curve *(*chart_pick)(const report_run *run);

/* The line and marker of group i, for a legend. */
void chart_key(FILE *out, int i);
/* Lines of one chart, each group in its own colour, dashes and marker; nothing is drawn when no curve has two points.
 * */
void chart_curves(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                  chart_pick pick);
/* A named point for each group that has both figures, with the line of those that no other beats in both. */
void chart_points(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                  const char *x_key, const char *y_key);
/* Split violins of a group's first run, one per latent space: deviations before (plain) on the left, after (strong) on
 * the right; either may be missing. Runs with the same metric get the same scale. */
void chart_violins(FILE *out, const report *r, const report_group *g);
/* One bar a layer; with a second list, both are stacked: the first below, strong, the second plain. */
void chart_bars(FILE *out, const char *title, const json_t *first, const json_t *second);

/* ---- parts of a chart ---- */

/* Drawn for about 480 pixels of width: two charts beside each other on a screen, one on a phone. */
enum { CHART_WIDTH = 480, CHART_HEIGHT = 264, CHART_LEFT = 58, CHART_RIGHT = 10, CHART_TOP = 10, CHART_BOTTOM = 46 };

/* Values at the edges of the plot area. */
typedef struct frame {
    double x0, x1, y0, y1;
} frame;

double pixel_x(const frame *f, double x);
double pixel_y(const frame *f, double y);
/* Room above and below, so that no curve touches the edge; an axis without extent gets one. */
void frame_margins(frame *f);
/* What follows is the description for those who do not see the chart, up to chart_described. */
void chart_open(FILE *out, const char *title);
void chart_described(FILE *out);
void chart_close(FILE *out);
void y_axis(FILE *out, const frame *f, const char *label);
void x_axis(FILE *out, const frame *f, const char *label);
/* Numbers 0 ... n-1 under their places, as many as there is room for. */
void count_axis(FILE *out, const frame *f, size_t n, const char *label);

#endif
