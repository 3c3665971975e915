/* report_charts.c - lines and points as inline SVG. Colours are CSS classes, so that one drawing serves light and dark
 * pages. Dashes and markers tell the groups apart where colours do not: on paper, and for eyes that see few of them. */
#include <math.h>
#include <string.h>

#include "report.h"

static const char *const dashes[] = {"", "7 3", "2 3", "9 3 2 3", "4 4", "12 3", "1 4", "9 3 2 3 2 3"};

/* A marker of about 9 pixels: circle, square, triangle, diamond, and those four hollow. */
static void draw_marker(FILE *out, int i, double x, double y) {
    const char *hollow = i % REPORT_STYLES < 4 ? "b" : "h";
    const int style = i % REPORT_STYLES;
    fprintf(out, "<path class=\"%s%d\" d=\"", hollow, style);
    switch (style % 4) {
    case 0:
        fprintf(out, "M%.1f %.1fa4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z", x - 4.5, y);
        break;
    case 1:
        fprintf(out, "M%.1f %.1fh8v8h-8Z", x - 4, y - 4);
        break;
    case 2:
        fprintf(out, "M%.1f %.1fl5 9h-10Z", x, y - 5.5);
        break;
    default:
        fprintf(out, "M%.1f %.1fl5.5 5.5l-5.5 5.5l-5.5 -5.5Z", x, y - 5.5);
    }
    fputs("\"/>", out);
}

void chart_key(FILE *out, int i) {
    fprintf(out,
            "<svg class=\"key\" viewBox=\"0 0 36 14\"><polyline class=\"l%d\" stroke-dasharray=\"%s\" points=\"0,7 "
            "36,7\"/>",
            i % REPORT_STYLES, dashes[i % REPORT_STYLES]);
    draw_marker(out, i, 18, 7);
    fputs("</svg>", out);
}

/* Widens the frame to a curve. Returns 1 when it has two points, that is, when it can be drawn. */
static int include_curve(frame *f, const curve *c) {
    for (int64_t i = 0; i < c->n; i++) {
        f->x1 = fmax(f->x1, c->x[i]);
        f->y0 = fmin(f->y0, c->y[i]);
        f->y1 = fmax(f->y1, c->y[i]);
    }
    return c->n > 1;
}

/* A line with five markers, at other places than those of its neighbours. */
static void draw_curve(FILE *out, const frame *f, const curve *c, int i) {
    fprintf(out, "<polyline class=\"l%d\" stroke-dasharray=\"%s\" points=\"", i % REPORT_STYLES,
            dashes[i % REPORT_STYLES]);
    for (int64_t k = 0; k < c->n; k++) fprintf(out, "%.1f,%.1f ", pixel_x(f, c->x[k]), pixel_y(f, c->y[k]));
    fputs("\"/>", out);
    const int64_t stride = c->n / 5 + 1;
    for (int64_t k = i % stride; k < c->n; k += stride) draw_marker(out, i, pixel_x(f, c->x[k]), pixel_y(f, c->y[k]));
    fputc('\n', out);
}

/* One frame for all groups, so that curves can be compared; all begin at 0, where training does. */
void chart_curves(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                  chart_pick pick) {
    frame f = {0, -INFINITY, INFINITY, -INFINITY};
    int drawn = 0;
    for (int i = 0; i < r->n_runs; i++) drawn += include_curve(&f, pick(&r->runs[i]));
    if (!drawn) return;
    frame_margins(&f);
    chart_open(out, title);
    for (int i = 0; i < r->n_groups; i++) {
        const curve *c = pick(&r->runs[r->groups[i].first]);
        if (c->n < 2) continue;
        html_text(out, r->groups[i].name);
        fprintf(out, ": from %.3g to %.3g. ", c->y[0], c->y[c->n - 1]);
    }
    chart_described(out);
    y_axis(out, &f, y_name);
    x_axis(out, &f, x_name);
    for (int i = 0; i < r->n_groups; i++) {
        for (int k = 0; k < r->groups[i].n; k++) {
            const curve *c = pick(&r->runs[r->groups[i].first + k]);
            if (c->n > 1) draw_curve(out, &f, c, i);
        }
    }
    chart_close(out);
}

/* 1 when no other group has more of y for less of x. */
static int is_best(const report *r, int i, const char *x_key, const char *y_key) {
    double sd;
    const double x = report_figure(r, &r->groups[i], x_key, &sd), y = report_figure(r, &r->groups[i], y_key, &sd);
    for (int k = 0; k < r->n_groups; k++) {
        const double other_x = report_figure(r, &r->groups[k], x_key, &sd);
        const double other_y = report_figure(r, &r->groups[k], y_key, &sd);
        if (other_x <= x && other_y >= y && (other_x < x || other_y > y)) return 0;
    }
    return isfinite(x) && isfinite(y);
}

/* The best groups by x, joined by steps: what a budget buys. */
static void draw_front(FILE *out, const report *r, const frame *f, const char *x_key, const char *y_key) {
    double at = -INFINITY, height = NAN, sd;
    fputs("<polyline class=\"front\" points=\"", out);
    for (int n = 0; n < r->n_groups; n++) {
        int next = -1;
        double next_x = INFINITY;
        for (int i = 0; i < r->n_groups; i++) {
            const double x = report_figure(r, &r->groups[i], x_key, &sd);
            if (x > at && x < next_x && is_best(r, i, x_key, y_key)) {
                next = i;
                next_x = x;
            }
        }
        if (next < 0) break;
        if (isfinite(height)) fprintf(out, "%.1f,%.1f ", pixel_x(f, next_x), pixel_y(f, height));
        at = next_x;
        height = report_figure(r, &r->groups[next], y_key, &sd);
        fprintf(out, "%.1f,%.1f ", pixel_x(f, at), pixel_y(f, height));
    }
    fputs("\"/>\n", out);
}

/* The x axis begins at 0, as a time does; y is cut to where the groups differ, with room around. */
void chart_points(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                  const char *x_key, const char *y_key) {
    frame f = {0, 0, INFINITY, -INFINITY};
    double sd;
    for (int i = 0; i < r->n_groups; i++) {
        const double y = report_figure(r, &r->groups[i], y_key, &sd);
        f.y0 = fmin(f.y0, y - sd); /* both pass over NaN */
        f.y1 = fmax(f.y1, y + sd);
        f.x1 = fmax(f.x1, 1.06 * report_figure(r, &r->groups[i], x_key, &sd));
    }
    if (!(f.x1 > 0 && f.y1 >= f.y0)) return;
    const double margin = fmax(0.2 * (f.y1 - f.y0), 0.02);
    f.y0 = fmax(f.y0 - margin, 0);
    f.y1 += margin;
    chart_open(out, title);
    for (int i = 0; i < r->n_groups; i++) {
        const double x = report_figure(r, &r->groups[i], x_key, &sd), y = report_figure(r, &r->groups[i], y_key, &sd);
        if (!isfinite(x) || !isfinite(y)) continue;
        html_text(out, r->groups[i].name);
        fprintf(out, ": %.3g %s, %s %.3f. ", x, x_name, y_name, y);
    }
    chart_described(out);
    y_axis(out, &f, y_name);
    x_axis(out, &f, x_name);
    draw_front(out, r, &f, x_key, y_key);
    for (int i = 0; i < r->n_groups; i++) {
        const double x = report_figure(r, &r->groups[i], x_key, &sd), y = report_figure(r, &r->groups[i], y_key, &sd);
        if (!isfinite(x) || !isfinite(y)) continue;
        const double px = pixel_x(&f, x), py = pixel_y(&f, y);
        if (sd > 0) {
            fprintf(out, "<line class=\"l%d\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", i % REPORT_STYLES, px,
                    px, pixel_y(&f, y - sd), pixel_y(&f, y + sd));
        }
        draw_marker(out, i, px, py);
        const int left = px > (CHART_WIDTH + CHART_LEFT) / 2; /* the name on the side that has room, above or below */
        fprintf(out, "<text class=\"name\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", px + (left ? -8 : 8),
                py + (i % 2 ? 14 : -5), left ? "end" : "start");
        html_text(out, r->groups[i].name);
        fputs("</text>\n", out);
    }
    chart_close(out);
}
