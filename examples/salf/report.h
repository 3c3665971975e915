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

/* Text with the characters that mean something in HTML replaced. */
void html_text(FILE *out, const char *text);

/* Lines of one chart; pick chooses the curve. Nothing is drawn when none has two points. */
void chart_curves(FILE *out, const report *r, const char *title, const char *x_label, const char *y_label,
                  const curve *(*pick)(const report_method *m));
/* Split violins, one per latent space: deviations before on the left, after on the right (either may be NULL). */
void chart_violins(FILE *out, const char *method, const json_t *before, const json_t *after);
/* One bar a layer; with a second list, both are stacked (lower: first). */
void chart_bars(FILE *out, const char *title, const char *y_label, const json_t *first, const json_t *second,
                const char *first_name, const char *second_name);

#endif
