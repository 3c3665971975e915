/* report_tables.c - the tables of the page: methods, confusions, settings. */
#include <math.h>
#include <string.h>

#include "report_page.h"

/* ---- methods ---- */

/* How a column is shown: with a bar behind the figure, as a percentage, as a time, as mebibytes, as a count; MINOR ones
 * are left out on narrow screens. */
enum { SHARE = 1, PERCENT = 2, SECONDS = 4, MEBI = 8, COUNT = 16, MINOR = 32 };

/* A column of the table: a figure of the log's result events. */
typedef struct column {
    const char *key, *title;
    int kind;
} column;

/* The first ones answer the question; the column of time relative to lora[full] stands behind the scores. */
static const column columns[] = {{"f1", "macro&nbsp;F1", SHARE},
                                 {"accuracy", "accuracy", 0},
                                 {"cpu_s", "processor,&nbsp;s", SECONDS},
                                 {"memory", "memory, MiB", MEBI},
                                 {"saving", "depth saving", PERCENT},
                                 {"forwards", "forwards a datum", MINOR},
                                 {"predicted_saving", "predicted step saving", PERCENT | MINOR},
                                 {"wall_s", "clock,&nbsp;s", SECONDS | MINOR},
                                 {"forward_s", "forward,&nbsp;s", SECONDS | MINOR},
                                 {"probe_s", "probe,&nbsp;s", SECONDS | MINOR},
                                 {"backward_s", "backward,&nbsp;s", SECONDS | MINOR},
                                 {"steps", "updates", COUNT | MINOR}};
enum { N_COLUMNS = sizeof columns / sizeof columns[0], SCORES = 2 };

/* A column's figure of a group. Times have three significant digits of the column's largest, and at most milliseconds,
 * so that the column lines up. A time of 0 was not measured. */
static void write_cell(FILE *out, const report *r, const report_group *g, const column *c) {
    double sd, ignored, most = 0;
    const double factor = c->kind & MEBI ? 1.0 / 1048576 : c->kind & PERCENT ? 100 : 1;
    const double v = factor * report_figure(r, g, c->key, &sd);
    const char *minor = c->kind & MINOR ? " minor" : "";
    for (int i = 0; i < r->n_groups; i++)
        most = fmax(most, factor * report_figure(r, &r->groups[i], c->key, &ignored)); /* passes over NaN */
    if (!isfinite(v) || (v == 0 && c->kind & (SECONDS | MEBI))) {
        fprintf(out, "<td class=\"%s\">&ndash;</td>", minor);
        return;
    }
    int decimals = 3;
    if (c->kind & (PERCENT | MEBI)) decimals = 1;
    if (c->kind & SECONDS) decimals = most >= 100 ? 0 : most >= 10 ? 1 : most >= 1 ? 2 : 3;
    if (c->kind & COUNT) decimals = 0;
    if (c->kind & SHARE && most > 0 && v >= 0)
        fprintf(out, "<td class=\"share\" style=\"--w:%.1f%%\">", 100 * v / most);
    else
        fprintf(out, "<td class=\"%s\">", minor);
    fprintf(out, "%.*f", decimals, v);
    if (sd > 0 && !(c->kind & COUNT)) fprintf(out, "&nbsp;&plusmn;%.*f", decimals, factor * sd);
    fprintf(out, "%s</td>", c->kind & PERCENT ? " %" : "");
}

/* lora[full] of the same log, with which times are compared; NULL where there is none. */
static const report_group *full_group(const report *r, const report_group *g) {
    double sd;
    for (int i = 0; i < r->n_groups; i++) {
        const report_run *run = &r->runs[r->groups[i].first];
        if (run->log == r->runs[g->first].log && !strcmp(run->method, "lora[full]") &&
            report_figure(r, &r->groups[i], "cpu_s", &sd) > 0)
            return &r->groups[i];
    }
    return NULL;
}

/* As the table of `salf finetune` has it: ratios within a seed, of the seeds that both have, then their mean. */
static void write_ratio(FILE *out, const report *r, const report_group *g) {
    const report_group *full = full_group(r, g);
    double sum = 0, sd;
    int n = 0;
    for (int i = 0; full && i < g->n * full->n; i++) {
        const report_group own = {.first = g->first + i / full->n, .n = 1};
        const report_group other = {.first = full->first + i % full->n, .n = 1};
        if (r->runs[own.first].seed != r->runs[other.first].seed) continue;
        sum += report_figure(r, &own, "cpu_s", &sd) / report_figure(r, &other, "cpu_s", &sd);
        n++;
    }
    if (n > 0 && isfinite(sum)) {
        fprintf(out, "<td>%.2f</td>", sum / n);
    } else {
        fputs("<td>&ndash;</td>", out);
    }
}

/* The scores of a log's model before any training. */
static void write_untrained(FILE *out, const report *r, const report_log *log, int timed) {
    fputs("<tr><td>untrained", out);
    if (r->n_logs > 1) {
        fputs(" (", out);
        html_text(out, log->name);
        fputs(")", out);
    }
    fputs("</td>", out);
    for (int k = 0; k < SCORES; k++) {
        const double v = report_number(json_object_get(log->untrained, columns[k].key));
        if (isfinite(v)) {
            fprintf(out, "<td>%.3f</td>", v);
        } else {
            fputs("<td>&ndash;</td>", out);
        }
    }
    for (int k = SCORES; k < N_COLUMNS + timed; k++)
        fprintf(out, "<td class=\"%s\">&ndash;</td>", k >= timed && columns[k - timed].kind & MINOR ? "minor" : "");
    fputs("</tr>\n", out);
}

void write_methods(FILE *out, const report *r) {
    int timed = 0;
    for (int i = 0; i < r->n_groups; i++) timed |= full_group(r, &r->groups[i]) != NULL;
    fputs("<h2>Methods</h2>\n<div class=\"table\"><table><thead><tr><th scope=\"col\">method</th>", out);
    for (int k = 0; k < N_COLUMNS; k++) {
        if (k == SCORES && timed) fputs("<th scope=\"col\">time&nbsp;/ lora[full]</th>", out);
        fprintf(out, "<th scope=\"col\"%s>%s</th>", columns[k].kind & MINOR ? " class=\"minor\"" : "",
                columns[k].title);
    }
    fputs("</tr></thead><tbody>\n", out);
    for (int i = 0; i < r->n_logs; i++)
        if (r->logs[i].untrained) write_untrained(out, r, &r->logs[i], timed);
    for (int i = 0; i < r->n_groups; i++) {
        const report_group *g = &r->groups[i];
        fputs("<tr><td>", out);
        html_text(out, g->name);
        if (g->n > 1) fprintf(out, ", %d seeds", g->n);
        fputs("</td>", out);
        for (int k = 0; k < N_COLUMNS; k++) {
            if (k == SCORES && timed) write_ratio(out, r, g);
            write_cell(out, r, g, &columns[k]);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n<p class=\"note\">Depth saving is the mean share of layers that the backward pass "
          "left out; a step's operations fall by about half of it. The predicted saving counts the operations of whole "
          "steps, lost forward passes and probe included. Times are of the whole training, without tests; those of its "
          "parts are processor seconds. Memory is what training holds above the weights. Figures of several seeds are "
          "means and standard deviations.</p>\n",
          out);
}

/* ---- confusions ---- */

/* Rows are true classes, columns predicted ones; a cell is as dark as its share of the row. */
static void write_confusion(FILE *out, const json_t *table, const json_t *names) {
    const size_t n = json_array_size(table);
    fputs("<div class=\"table\"><table><thead><tr><th scope=\"col\">true class</th>", out);
    for (size_t c = 0; c <= n; c++) {
        const char *name = json_string_value(json_array_get(names, c));
        fputs("<th scope=\"col\">", out);
        if (c == n) {
            fputs("none", out);
        } else if (name) {
            html_text(out, name);
        } else {
            fprintf(out, "%zu", c);
        }
        fputs("</th>", out);
    }
    fputs("</tr></thead><tbody>\n", out);
    for (size_t row = 0; row < n; row++) {
        const json_t *cells = json_array_get(table, row);
        const char *name = json_string_value(json_array_get(names, row));
        double sum = 0;
        for (size_t c = 0; c <= n; c++) sum += fmax(0, report_number(json_array_get(cells, c)));
        fputs("<tr><td>", out);
        if (name) html_text(out, name);
        if (!name) fprintf(out, "%zu", row);
        fputs("</td>", out);
        for (size_t c = 0; c <= n; c++) {
            const double v = fmax(0, report_number(json_array_get(cells, c)));
            fprintf(out, "<td class=\"share\" style=\"--w:%.0f%%\">%.0f</td>", sum > 0 ? 100 * v / sum : 0, v);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

void write_confusions(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n_groups; i++) {
        const report_run *run = &r->runs[r->groups[i].first];
        const json_t *table = json_object_get(run->result, "confusion");
        const size_t n = json_array_size(table);
        if (n == 0 || n > REPORT_CLASSES_MOST) continue;
        if (!any++)
            fputs("<h2>Which class was taken for which</h2>\n<p>Test texts by true class (rows) and predicted class "
                  "(columns); \"none\" is a token that is no class's word. Bars are shares of the row.</p>\n",
                  out);
        fputs("<h3>", out);
        html_text(out, r->groups[i].name);
        if (r->groups[i].n > 1) fprintf(out, ", seed %lld", (long long)run->seed);
        fputs("</h3>\n", out);
        write_confusion(out, table, json_object_get(r->logs[run->log].run, "labels"));
    }
}

/* ---- settings ---- */

/* A value of any kind as text; lists are cut. */
static void write_value(FILE *out, const json_t *v) {
    if (json_is_string(v)) {
        html_text(out, json_string_value(v));
    } else if (json_is_number(v)) {
        fprintf(out, "%.10g", json_number_value(v));
    } else if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v) && i < 40; i++) {
            if (i) fputs(", ", out);
            write_value(out, json_array_get(v, i));
        }
    } else {
        fputs(json_is_true(v) ? "yes" : "&ndash;", out);
    }
}

/* 1 when a setting is not the same in all logs. */
static int setting_differs(const report *r, const char *key) {
    for (int i = 1; i < r->n_logs; i++) {
        const json_t *a = json_object_get(r->logs[0].run, key), *b = json_object_get(r->logs[i].run, key);
        if (!a != !b || (a && !json_equal(a, b))) return 1;
    }
    return 0;
}

/* Keys of the first log that has any, in its order: all logs of a version have the same. */
void write_settings(FILE *out, const report *r) {
    json_t *run = NULL;
    for (int i = 0; i < r->n_logs && !run; i++) run = r->logs[i].run;
    if (!run) return;
    fputs("<h2>Settings and machine</h2>\n<div class=\"table\"><table class=\"settings\"><thead><tr><th "
          "scope=\"col\">setting</th>",
          out);
    for (int i = 0; i < r->n_logs; i++) {
        fputs("<th scope=\"col\">", out);
        html_text(out, r->logs[i].name);
        fputs("</th>", out);
    }
    fputs("</tr></thead><tbody>\n", out);
    const char *key;
    json_t *ignored;
    json_object_foreach(run, key, ignored) {
        if (!strcmp(key, "event")) continue;
        const int differs = setting_differs(r, key);
        fprintf(out, "<tr%s><td>", differs ? " class=\"differs\"" : "");
        html_text(out, key);
        fputs(differs ? " (differs)</td>" : "</td>", out);
        for (int i = 0; i < r->n_logs; i++) {
            fputs("<td>", out);
            write_value(out, json_object_get(r->logs[i].run, key));
            fputs("</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}
