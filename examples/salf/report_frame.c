/* report_frame.c - the parts of every chart: frame, axes, texts.
 *
 * Ticks are counted in integers, and an axis is never narrower than a 10^-9th of the numbers on it: a loop over doubles
 * would stand still where a step is below the last bit of what it is added to. */
#include <math.h>

#include "report.h"

enum { LABEL_ROOM = 26, TICKS_MOST = 40 };

/* Pixels of a value along the axis. */
double pixel_x(const frame *f, double x) {
    return CHART_LEFT + (x - f->x0) / (f->x1 - f->x0) * (CHART_WIDTH - CHART_LEFT - CHART_RIGHT);
}

/* The same upwards: SVG counts from the top. */
double pixel_y(const frame *f, double y) {
    return CHART_HEIGHT - CHART_BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (CHART_HEIGHT - CHART_TOP - CHART_BOTTOM);
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

double report_number(const json_t *value) {
    const double v = json_is_number(value) ? json_number_value(value) : NAN;
    return fabs(v) <= 1e100 ? v : NAN;
}

/* 1 when two numbers are too close for an axis between them. */
static int is_flat(double low, double high) {
    return !(high - low > 1e-9 * fmax(fabs(low), fabs(high)));
}

void frame_margins(frame *f) {
    if (is_flat(f->x0, f->x1)) f->x1 = f->x0 + fmax(1, 0.01 * fabs(f->x0));
    const double margin = is_flat(f->y0, f->y1) ? fmax(0.5, 0.01 * fabs(f->y0)) : 0.04 * (f->y1 - f->y0);
    f->y0 -= margin;
    f->y1 += margin;
}

/* A round step (1, 2 or 5 times a power of ten) that cuts span into about n parts. */
static double round_step(double span, int n) {
    const double raw = span / n, base = pow(10, floor(log10(raw)));
    const double part = raw / base;
    return base * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
}

/* The values of the ticks between two edges, into ticks [TICKS_MOST]; returns their number. */
static int make_ticks(double low, double high, int n, double *ticks) {
    const double step = round_step(high - low, n), first = ceil(low / step), last = floor(high / step);
    int count = 0;
    for (; count < TICKS_MOST && (double)count <= last - first; count++) {
        ticks[count] = (first + count) * step;
        if (fabs(ticks[count]) < 1e-9 * step) ticks[count] = 0;
    }
    return count;
}

/* A number as short as it can be read: 1.5k and 2M for thousands and millions. */
static void print_tick(FILE *out, double v) {
    const double size = fabs(v);
    if (size >= 1e6 && size < 1e9) {
        fprintf(out, "%.4gM", v / 1e6);
    } else if (size >= 1e4 && size < 1e6) {
        fprintf(out, "%.4gk", v / 1e3);
    } else {
        fprintf(out, "%.6g", v);
    }
}

void chart_open(FILE *out, const char *title) {
    fputs("<figure><figcaption>", out);
    html_text(out, title);
    fprintf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", CHART_WIDTH, CHART_HEIGHT);
    html_text(out, title);
    fputs("</title><desc>", out);
}

void chart_described(FILE *out) {
    fputs("</desc>\n", out);
}

void chart_close(FILE *out) {
    fputs("</svg></figure>\n", out);
}

/* Lines and numbers at round values, and the name at the side. */
void y_axis(FILE *out, const frame *f, const char *label) {
    double ticks[TICKS_MOST];
    const int n = make_ticks(f->y0, f->y1, 5, ticks);
    for (int i = 0; i < n; i++) {
        const double at = pixel_y(f, ticks[i]);
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", CHART_LEFT,
                CHART_WIDTH - CHART_RIGHT, at, at);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", CHART_LEFT - 6, at + 4);
        print_tick(out, ticks[i]);
        fputs("</text>\n", out);
    }
    fprintf(out, "<text transform=\"translate(13 %d) rotate(-90)\" text-anchor=\"middle\">",
            (CHART_HEIGHT - CHART_BOTTOM + CHART_TOP) / 2);
    html_text(out, label);
    fputs("</text>\n", out);
}

static void x_label(FILE *out, const char *label) {
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (CHART_WIDTH + CHART_LEFT - CHART_RIGHT) / 2,
            CHART_HEIGHT - 8);
    html_text(out, label);
    fputs("</text>\n", out);
}

/* The last number ends at the edge instead of being cut off by it. */
void x_axis(FILE *out, const frame *f, const char *label) {
    double ticks[TICKS_MOST];
    const int n = make_ticks(f->x0, f->x1, 4, ticks);
    for (int i = 0; i < n; i++) {
        const double at = pixel_x(f, ticks[i]);
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">", at, CHART_HEIGHT - CHART_BOTTOM + 18,
                at > CHART_WIDTH - CHART_RIGHT - 12 ? "end" : "middle");
        print_tick(out, ticks[i]);
        fputs("</text>\n", out);
    }
    x_label(out, label);
}

void count_axis(FILE *out, const frame *f, size_t n, const char *label) {
    const double pitch = pixel_x(f, 1) - pixel_x(f, 0);
    size_t stride = 1;
    while ((double)stride * pitch < LABEL_ROOM)
        stride = stride % 3 == 2 ? stride / 2 * 5 : stride * 2; /* 1 2 5 10 20 */
    for (size_t k = 0; k < n; k += stride) {
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%zu</text>\n", pixel_x(f, (double)k),
                CHART_HEIGHT - CHART_BOTTOM + 18, k);
    }
    x_label(out, label);
}
