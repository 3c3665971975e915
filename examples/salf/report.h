/* report.h - what the files of `salf report` share: the log sorted by method, and charts as inline SVG. */
#ifndef SALF_EXAMPLE_REPORT_H
#define SALF_EXAMPLE_REPORT_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

enum { REPORT_METHODS = 32 };

/* A list of numbers (x, y). */
typedef struct curve {
    double *x, *y;
    int64_t n, room;
} curve;

/* All of one method; json parts are NULL where the log has none. */
typedef struct report_method {
    char *name;
    json_t *result, *before, *after, *eof, *plan;
    curve loss; /* x: data trained (else step), y: loss */
    curve f1;   /* x: step */
} report_method;

typedef struct report {
    json_t *run;
    report_method methods[REPORT_METHODS];
    int n;
} report;

/* The whole page. */
void report_page(FILE *out, const report *r);

/* Text with the characters that mean something in HTML replaced. */
void html_text(FILE *out, const char *text);

/* The two colours of charts that show a pair. */
#define CHART_PLAIN  "plain"
#define CHART_STRONG "strong"

typedef const curve *(*chart_pick)(const report_method *m);

/* Lines of one chart, method i in colour i; nothing is drawn when no curve has two points. Returns what it drew. */
int chart_curves(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                 chart_pick pick);
/* A point for each method whose result has both figures, in colour i. */
void chart_points(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                  const char *x_key, const char *y_key);
/* Split violins of method number i, one per latent space: deviations before (plain) on the left, after (strong) on the
 * right; either may be missing. Methods with the same metric get the same scale. */
void chart_violins(FILE *out, const report *r, int i);
/* One bar a layer; with a second list, both are stacked: the first below, strong, the second plain. */
void chart_bars(FILE *out, const char *title, const json_t *first, const json_t *second);

#endif
