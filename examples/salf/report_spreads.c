/* report_spreads.c - violins and bars. A violin is a Gaussian kernel density with Silverman's bandwidth, O(rows * 60) a
 * space. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

enum { CELLS = 60, SAMPLE_MOST = 2000 };

/* ---- violins ---- */

/* What the density of a column of deviations is made of. */
typedef struct spread {
    int n; /* finite values */
    double values[SAMPLE_MOST];
    double median, bandwidth;
} spread;

static int compare_reals(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Values of a space in order. Silverman's bandwidth 1.06 s n^(-1/5), for a density that is near normal; never 0, so
 * that equal values make a spike. */
static void make_spread(spread *s, const json_t *rows, size_t space) {
    double mean = 0, square = 0;
    s->n = 0;
    for (size_t i = 0; i < json_array_size(rows) && s->n < SAMPLE_MOST; i++) {
        const double v = report_number(json_array_get(json_array_get(rows, i), space));
        if (isfinite(v)) s->values[s->n++] = v;
    }
    qsort(s->values, (size_t)s->n, sizeof *s->values, compare_reals);
    for (int i = 0; i < s->n; i++) mean += s->values[i] / s->n;
    for (int i = 0; i < s->n; i++) square += (s->values[i] - mean) * (s->values[i] - mean) / s->n;
    s->median = s->n ? 0.5 * (s->values[(s->n - 1) / 2] + s->values[s->n / 2]) : NAN;
    s->bandwidth = fmax(1.06 * sqrt(square) * pow(s->n ? s->n : 1, -0.2), 1e-6 + 1e-9 * fabs(mean));
}

/* Half a violin around x = center, to the side of the sign of room, at most so wide. */
static void half_violin(FILE *out, const frame *f, const spread *s, double center, double room, const char *style) {
    if (s->n == 0) return;
    const double h = s->bandwidth, low = s->values[0], high = s->values[s->n - 1];
    double density[CELLS + 1] = {0}, top = 0;
    for (int i = 0; i < s->n; i++) {
        for (int c = 0; c <= CELLS; c++) {
            const double y = low + (high - low) * c / CELLS - s->values[i];
            density[c] += exp(-0.5 * y * y / (h * h));
        }
    }
    for (int c = 0; c <= CELLS; c++) top = fmax(top, density[c]);
    fprintf(out, "<path class=\"%s\" d=\"M%.1f %.1f", style, center, pixel_y(f, low));
    for (int c = 0; c <= CELLS; c++) {
        fprintf(out, "L%.1f %.1f", center + room * density[c] / top, pixel_y(f, low + (high - low) * c / CELLS));
    }
    fprintf(out, "L%.1f %.1fZ\"/><line class=\"mean\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", center,
            pixel_y(f, high), center, center + room, pixel_y(f, s->median), pixel_y(f, s->median));
}

static size_t spaces_of(const json_t *rows) {
    const size_t n = json_array_size(json_array_get(rows, 0));
    return n < REPORT_LAYERS_MOST ? n : REPORT_LAYERS_MOST;
}

/* Widens the frame to rows of deviations. */
static void include_rows(frame *f, const json_t *rows) {
    const size_t spaces = spaces_of(rows);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        for (size_t k = 0; k < spaces; k++) {
            const double v = report_number(json_array_get(json_array_get(rows, i), k));
            f->y0 = fmin(f->y0, v); /* both pass over NaN */
            f->y1 = fmax(f->y1, v);
        }
    }
}

/* Older logs do not name it. */
static const char *metric_of(const report_run *m) {
    const char *metric = json_string_value(json_object_get(m->before ? m->before : m->after, "metric"));
    return metric ? metric : "semantic";
}

/* Edges over all runs that measure the same. */
static frame violin_frame(const report *r, const report_run *shown, size_t spaces) {
    frame f = {-0.5, (double)spaces - 0.5, INFINITY, -INFINITY};
    for (int i = 0; i < r->n_runs; i++) {
        const report_run *m = &r->runs[i];
        if (strcmp(metric_of(m), metric_of(shown)) != 0) continue;
        include_rows(&f, json_object_get(m->before, "rows"));
        include_rows(&f, json_object_get(m->after, "rows"));
    }
    return f;
}

/* A violin is two halves, so that before and after can be compared space by space. */
void chart_violins(FILE *out, const report *r, const report_group *g) {
    const report_run *m = &r->runs[g->first];
    const json_t *sides[] = {json_object_get(m->before, "rows"), json_object_get(m->after, "rows")};
    const size_t left = spaces_of(sides[0]), right = spaces_of(sides[1]), spaces = left > right ? left : right;
    frame f = violin_frame(r, m, spaces);
    char text[512];
    static spread room; /* two thousand numbers are much for a stack */
    spread *s = &room;
    if (spaces == 0 || !(f.y1 >= f.y0)) return;
    frame_margins(&f);
    make_spread(s, sides[left == 0], 0);
    snprintf(text, sizeof text, "%.400s (n = %d)", g->name, s->n);
    chart_open(out, text);
    for (int side = 0; side < 2; side++) {
        if (spaces_of(sides[side]) == 0) continue;
        fputs(side ? "Medians after, by space:" : "Medians before, by space:", out);
        for (size_t k = 0; k < spaces_of(sides[side]); k++) {
            make_spread(s, sides[side], k);
            if (s->n > 0) fprintf(out, " %.3g", s->median);
        }
        fputs(". ", out);
    }
    chart_described(out);
    snprintf(text, sizeof text, "%.60s deviation", metric_of(m));
    y_axis(out, &f, text);
    const double width = 0.42 * (pixel_x(&f, 1) - pixel_x(&f, 0));
    for (size_t k = 0; k < spaces; k++) {
        const double center = pixel_x(&f, (double)k);
        make_spread(s, sides[0], k);
        half_violin(out, &f, s, center - 0.5, -width, CHART_PLAIN);
        make_spread(s, sides[1], k);
        half_violin(out, &f, s, center + 0.5, width, CHART_STRONG);
    }
    count_axis(out, &f, spaces, "latent space");
    chart_close(out);
}

/* ---- bars ---- */

/* Not negative, as counts are. */
static double count_at(const json_t *list, size_t i) {
    const double v = report_number(json_array_get(list, i));
    return v > 0 ? v : 0;
}

/* The figure itself appears under the pointer. */
static void draw_bar(FILE *out, const frame *f, size_t k, double low, double high, const char *style) {
    const double width = 0.7 * (pixel_x(f, 1) - pixel_x(f, 0));
    fprintf(out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%.0f</title></rect>\n",
            style, pixel_x(f, (double)k) - width / 2, pixel_y(f, high), width, pixel_y(f, low) - pixel_y(f, high),
            high - low);
}

void chart_bars(FILE *out, const char *title, const json_t *first, const json_t *second) {
    const size_t all = json_array_size(first), n = all < REPORT_LAYERS_MOST ? all : REPORT_LAYERS_MOST;
    frame f = {-0.5, (double)n - 0.5, 0, 1};
    for (size_t k = 0; k < n; k++) f.y1 = fmax(f.y1, 1.05 * (count_at(first, k) + count_at(second, k)));
    if (n == 0) return;
    chart_open(out, title);
    fputs("Data by layer:", out);
    for (size_t k = 0; k < n; k++) {
        fprintf(out, second ? " %.0f + %.0f" : " %.0f", count_at(first, k), count_at(second, k));
        if (k + 1 < n) fputc(',', out);
    }
    chart_described(out);
    y_axis(out, &f, "data");
    for (size_t k = 0; k < n; k++) {
        const double low = count_at(first, k);
        draw_bar(out, &f, k, 0, low, CHART_STRONG);
        if (second) draw_bar(out, &f, k, low, low + count_at(second, k), CHART_PLAIN);
    }
    count_axis(out, &f, n, "layer");
    chart_close(out);
}
