/* report_charts.c - curves, violins and bars as inline SVG. Colours are CSS classes, so that one drawing serves light
 * and dark pages. A violin is a Gaussian kernel density with Silverman's bandwidth, O(rows * 60) a space. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

/* Drawn for about 480 pixels of width: two charts beside each other on a screen, one on a phone. */
enum { WIDTH = 480, HEIGHT = 264, LEFT = 58, RIGHT = 10, TOP = 10, BOTTOM = 46, CELLS = 60, LABEL_ROOM = 26 };

/* Plot area and the values at its edges. */
typedef struct frame {
    double x0, x1, y0, y1;
} frame;

/* Pixels of a value along the axis. */
static double pixel_x(const frame *f, double x) {
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

/* The same upwards: SVG counts from the top. */
static double pixel_y(const frame *f, double y) {
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

/* Names come from a log, which anybody may have written. */
void html_text(FILE *out, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

/* A round step (1, 2 or 5 times a power of ten) that cuts span into about n parts. */
static double round_step(double span, int n) {
    const double raw = span / n, base = pow(10, floor(log10(raw)));
    const double part = raw / base;
    return base * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
}

/* Room above and below, so that no curve touches the edge; an axis without extent gets one. */
static void add_margins(frame *f) {
    if (!(f->x1 > f->x0)) f->x1 = f->x0 + 1;
    const double margin = f->y1 > f->y0 ? 0.04 * (f->y1 - f->y0) : 0.5;
    f->y0 -= margin;
    f->y1 += margin;
}

/* title and desc are what a screen reader reads. */
static void open_chart(FILE *out, const char *title, const char *detail) {
    fputs("<figure><figcaption>", out);
    html_text(out, title);
    fprintf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", WIDTH, HEIGHT);
    html_text(out, title);
    fputs("</title><desc>", out);
    html_text(out, detail);
    fputs("</desc>\n", out);
}

static void close_chart(FILE *out) {
    fputs("</svg></figure>\n", out);
}

/* Lines and numbers at round values, and the name at the side. */
static void y_axis(FILE *out, const frame *f, const char *label) {
    const double step = round_step(f->y1 - f->y0, 5);
    for (double y = ceil(f->y0 / step) * step; y <= f->y1; y += step) {
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDTH - RIGHT,
                pixel_y(f, y), pixel_y(f, y));
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 6, pixel_y(f, y) + 4,
                fabs(y) < 1e-9 * step ? 0 : y);
    }
    fprintf(out, "<text transform=\"translate(13 %d) rotate(-90)\" text-anchor=\"middle\">",
            (HEIGHT - BOTTOM + TOP) / 2);
    html_text(out, label);
    fputs("</text>\n", out);
}

static void x_label(FILE *out, const char *label) {
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (WIDTH + LEFT - RIGHT) / 2, HEIGHT - 8);
    html_text(out, label);
    fputs("</text>\n", out);
}

/* Numbers 0 ... n-1 under their places, as many as there is room for. */
static void count_axis(FILE *out, const frame *f, size_t n) {
    const double pitch = pixel_x(f, 1) - pixel_x(f, 0);
    const size_t stride = pitch >= LABEL_ROOM ? 1 : pitch * 2 >= LABEL_ROOM ? 2 : pitch * 5 >= LABEL_ROOM ? 5 : 10;
    for (size_t k = 0; k < n; k += stride) {
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%zu</text>\n", pixel_x(f, (double)k),
                HEIGHT - BOTTOM + 18, k);
    }
}

/* ---- curves ---- */

/* Widens the frame to a curve. Returns 1 when it has two points, that is, when it can be drawn. */
static int include_curve(frame *f, const curve *c) {
    for (int64_t i = 0; i < c->n; i++) {
        f->x0 = fmin(f->x0, c->x[i]);
        f->x1 = fmax(f->x1, c->x[i]);
        f->y0 = fmin(f->y0, c->y[i]);
        f->y1 = fmax(f->y1, c->y[i]);
    }
    return c->n > 1;
}

/* The last number ends at the edge instead of being cut off by it. */
static void x_axis(FILE *out, const frame *f) {
    const double step = round_step(f->x1 - f->x0, 4);
    for (double x = ceil(f->x0 / step) * step; x <= f->x1; x += step) {
        const char *anchor = pixel_x(f, x) > WIDTH - RIGHT - 12 ? "end" : "middle";
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%.6g</text>\n", pixel_x(f, x), HEIGHT - BOTTOM + 18,
                anchor, x);
    }
}

/* One frame for all methods, so that curves can be compared. */
int chart_curves(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                 chart_pick pick) {
    frame f = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    int drawn = 0;
    for (int i = 0; i < r->n; i++) drawn += include_curve(&f, pick(&r->methods[i]));
    if (!drawn) return 0;
    add_margins(&f);
    open_chart(out, title, "One line for each method.");
    y_axis(out, &f, y_name);
    x_axis(out, &f);
    for (int i = 0; i < r->n; i++) {
        const curve *c = pick(&r->methods[i]);
        if (c->n < 2) continue;
        fprintf(out, "<polyline class=\"l%d\" points=\"", i % 8);
        for (int64_t k = 0; k < c->n; k++) fprintf(out, "%.1f,%.1f ", pixel_x(&f, c->x[k]), pixel_y(&f, c->y[k]));
        fputs("\"/>\n", out);
    }
    x_label(out, x_name);
    close_chart(out);
    return 1;
}

/* ---- points ---- */

/* NaN where the log has none; fmin and fmax pass over it. */
static double result_of(const report_method *m, const char *key) {
    const json_t *v = json_object_get(m->result, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The x axis begins at 0, as a time does; y is cut to where the methods differ, with room around. */
void chart_points(FILE *out, const report *r, const char *title, const char *x_name, const char *y_name,
                  const char *x_key, const char *y_key) {
    frame f = {0, 0, INFINITY, -INFINITY};
    for (int i = 0; i < r->n; i++) {
        const double y = result_of(&r->methods[i], y_key);
        f.x1 = fmax(f.x1, 1.06 * result_of(&r->methods[i], x_key));
        f.y0 = fmin(f.y0, y);
        f.y1 = fmax(f.y1, y);
    }
    if (!(f.x1 > 0 && f.y1 >= f.y0)) return;
    const double margin = fmax(0.4 * (f.y1 - f.y0), 0.02);
    f.y0 = fmax(f.y0 - margin, 0);
    f.y1 += margin;
    open_chart(out, title, "One point for each method.");
    y_axis(out, &f, y_name);
    x_axis(out, &f);
    for (int i = 0; i < r->n; i++) {
        const double x = result_of(&r->methods[i], x_key), y = result_of(&r->methods[i], y_key);
        if (!isfinite(x) || !isfinite(y)) continue;
        fprintf(out, "<circle class=\"b%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"><title>", i % 8, pixel_x(&f, x),
                pixel_y(&f, y));
        html_text(out, r->methods[i].name);
        fputs("</title></circle>\n", out);
    }
    x_label(out, x_name);
    close_chart(out);
}

/* ---- violins ---- */

/* NaN for null, which stands for a deviation that was not finite. */
static double deviation_at(const json_t *rows, size_t row, size_t space) {
    const json_t *v = json_array_get(json_array_get(rows, row), space);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* What the density of a column of deviations is made of. */
typedef struct spread {
    size_t n; /* finite values */
    double low, high, mean, bandwidth;
} spread;

/* Silverman's bandwidth 1.06 s n^(-1/5), for a density that is near normal; never 0, so that equal values make a
 * spike. */
static spread spread_of(const json_t *rows, size_t space) {
    spread s = {0, INFINITY, -INFINITY, 0, 0};
    double sum = 0, square = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const double v = deviation_at(rows, i, space);
        if (!isfinite(v)) continue;
        s.n++, sum += v, s.low = fmin(s.low, v), s.high = fmax(s.high, v);
    }
    s.mean = sum / (double)s.n;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const double v = deviation_at(rows, i, space);
        if (isfinite(v)) square += (v - s.mean) * (v - s.mean) / (double)s.n;
    }
    s.bandwidth = fmax(1.06 * sqrt(square) * pow((double)s.n, -0.2), 1e-6);
    return s;
}

/* Half a violin around x = center, to the side of sign, at most `room` wide. */
static void half_violin(FILE *out, const frame *f, const json_t *rows, size_t space, double center, double room,
                        const char *style) {
    const spread s = spread_of(rows, space);
    const double h = s.bandwidth, low = s.low, high = s.high, mean = s.mean;
    double density[CELLS + 1] = {0}, top = 0;
    if (s.n == 0) return;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const double v = deviation_at(rows, i, space);
        if (!isfinite(v)) continue;
        for (int c = 0; c <= CELLS; c++) {
            const double y = low + (high - low) * c / CELLS;
            density[c] += exp(-0.5 * (y - v) * (y - v) / (h * h));
        }
    }
    for (int c = 0; c <= CELLS; c++) top = fmax(top, density[c]);
    fprintf(out, "<path class=\"%s\" d=\"M%.1f %.1f", style, center, pixel_y(f, low));
    for (int c = 0; c <= CELLS; c++) {
        fprintf(out, "L%.1f %.1f", center + room * density[c] / top, pixel_y(f, low + (high - low) * c / CELLS));
    }
    fprintf(out, "L%.1f %.1fZ\"/><line class=\"mean\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", center,
            pixel_y(f, high), center, center + room, pixel_y(f, mean), pixel_y(f, mean));
}

static size_t spaces_of(const json_t *rows) {
    return json_array_size(json_array_get(rows, 0));
}

/* Widens the frame to rows of deviations. */
static void include_rows(frame *f, const json_t *rows) {
    for (size_t i = 0; i < json_array_size(rows); i++) {
        for (size_t k = 0; k < spaces_of(rows); k++) {
            const double v = deviation_at(rows, i, k);
            if (!isfinite(v)) continue;
            f->y0 = fmin(f->y0, v);
            f->y1 = fmax(f->y1, v);
        }
    }
}

/* Older logs do not name it. */
static const char *metric_of(const report_method *m) {
    const char *metric = json_string_value(json_object_get(m->before ? m->before : m->after, "metric"));
    return metric ? metric : "semantic";
}

/* Edges over all methods that measure the same. */
static frame violin_frame(const report *r, const report_method *shown, size_t spaces) {
    frame f = {-0.5, (double)spaces - 0.5, INFINITY, -INFINITY};
    for (int i = 0; i < r->n; i++) {
        const report_method *m = &r->methods[i];
        if (strcmp(metric_of(m), metric_of(shown)) != 0) continue;
        include_rows(&f, json_object_get(m->before, "rows"));
        include_rows(&f, json_object_get(m->after, "rows"));
    }
    return f;
}

/* A violin is two halves, so that before and after can be compared space by space. */
void chart_violins(FILE *out, const report *r, int i) {
    const report_method *m = &r->methods[i];
    const json_t *left = json_object_get(m->before, "rows"), *right = json_object_get(m->after, "rows");
    const size_t spaces = spaces_of(left) > spaces_of(right) ? spaces_of(left) : spaces_of(right);
    frame f = violin_frame(r, m, spaces);
    char label[64];
    if (spaces == 0 || !(f.y1 >= f.y0)) return;
    add_margins(&f);
    snprintf(label, sizeof label, "%s deviation", metric_of(m));
    open_chart(out, m->name, "Split violins: left before fine-tuning, right after; the short line is the mean.");
    y_axis(out, &f, label);
    const double room = 0.42 * (pixel_x(&f, 1) - pixel_x(&f, 0));
    for (size_t k = 0; k < spaces; k++) {
        const double center = pixel_x(&f, (double)k);
        half_violin(out, &f, left, k, center - 0.5, -room, CHART_PLAIN);
        half_violin(out, &f, right, k, center + 0.5, room, CHART_STRONG);
    }
    count_axis(out, &f, spaces);
    x_label(out, "latent space");
    close_chart(out);
}

/* ---- bars ---- */

static double value_at(const json_t *list, size_t i) {
    return json_number_value(json_array_get(list, i));
}

/* The figure itself appears under the pointer. */
static void draw_bar(FILE *out, const frame *f, size_t k, double low, double high, const char *style) {
    const double width = 0.7 * (pixel_x(f, 1) - pixel_x(f, 0));
    fprintf(out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>%.0f</title></rect>\n",
            style, pixel_x(f, (double)k) - width / 2, pixel_y(f, high), width, pixel_y(f, low) - pixel_y(f, high),
            high - low);
}

void chart_bars(FILE *out, const char *title, const json_t *first, const json_t *second) {
    const size_t n = json_array_size(first);
    frame f = {-0.5, (double)n - 0.5, 0, 1};
    for (size_t k = 0; k < n; k++) f.y1 = fmax(f.y1, 1.05 * (value_at(first, k) + value_at(second, k)));
    if (n == 0) return;
    open_chart(out, title, "One bar for each layer.");
    y_axis(out, &f, "data");
    for (size_t k = 0; k < n; k++) {
        const double low = value_at(first, k);
        draw_bar(out, &f, k, 0, low, CHART_STRONG);
        if (second) draw_bar(out, &f, k, low, low + value_at(second, k), CHART_PLAIN);
    }
    count_axis(out, &f, n);
    x_label(out, "layer");
    close_chart(out);
}
