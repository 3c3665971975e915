/* report_page.c - the page of `salf report`: style, table of methods, and which charts stand where with what words. */
#include <math.h>
#include <string.h>

#include "report.h"

/* ---- style ---- */

/* No file of its own, no script and no font: the page is to be opened from a disk, sent by mail, and read in ten years.
 * Colours are variables, which dark mode sets anew. Methods have colours 0 to 7, and begin again behind them. */
static const char style[] =
    "<style>:root{color-scheme:light dark;--fg:#1d2330;--soft:#5b6474;--bg:#fff;--line:#dfe3e9;--tint:#dbe7f5;"
    "--plain:#a9b2bf;--c0:#2f6db5;--c1:#d9772b;--c2:#2f8f5b;--c3:#a5468f;--c4:#8a6d1f;--c5:#1a93a5;--c6:#c0392b;"
    "--c7:#666f80}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e9ef;--soft:#a3abba;--bg:#14171d;--line:#2c323d;--tint:#22364f;"
    "--plain:#6a7485;--c0:#6aa5ea;--c1:#f0a060;--c2:#66c795;--c3:#d986c6;--c4:#d1b25a;--c5:#5cc7d6;--c6:#ee7b70;"
    "--c7:#a3abba}}"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1020px;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.5rem;margin-bottom:.3rem}h2{font-size:1.15rem;margin:2.4rem 0 .3rem}"
    "p{max-width:46rem;overflow-wrap:anywhere;margin:.4rem 0 .9rem}.note{color:var(--soft);font-size:.9rem}"
    ".table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}"
    "th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "thead th{font-weight:600;vertical-align:bottom;white-space:normal}th:first-child,td:first-child{text-align:left;"
    "position:sticky;left:0;background:var(--bg)}"
    "td.share{background:linear-gradient(90deg,var(--tint) var(--w),transparent 0)}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:1.2rem 1.6rem}"
    "figure{margin:0;max-width:560px}figcaption{font-weight:600;font-size:.95rem;overflow-wrap:anywhere}"
    "svg{display:block;width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--fg)}"
    "@media(max-width:460px){svg text{font-size:16px}}.grid{stroke:var(--line)}"
    ".mean{stroke:var(--fg);stroke-width:1.5}polyline{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".plain{fill:var(--plain);background:var(--plain)}.strong{fill:var(--c0);background:var(--c0)}"
    ".legend{font-size:.9rem}.legend span{margin-right:1.1rem;white-space:nowrap}"
    ".legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}";

static void legend_entry(FILE *out, const char *colour, const char *name) {
    fprintf(out, "<span><i class=\"%s\"></i>", colour);
    html_text(out, name);
    fputs("</span> ", out);
}

/* For charts that show two things of each method. */
static void pair_legend(FILE *out, const char *first_colour, const char *first, const char *second_colour,
                        const char *second) {
    fputs("<p class=\"legend\">", out);
    legend_entry(out, first_colour, first);
    legend_entry(out, second_colour, second);
    fputs("</p>\n", out);
}

/* ---- table ---- */

/* How a column is shown: with a bar behind the figure, as a percentage, as a time. */
enum { SHARE = 1, PERCENT = 2, SECONDS = 4 };

/* A column of the table: a figure of the log's result events. */
typedef struct column {
    const char *key, *title;
    int kind;
} column;

static const column columns[] = {{"f1", "macro&nbsp;F1", SHARE},
                                 {"accuracy", "accuracy", 0},
                                 {"saving", "depth saving", PERCENT},
                                 {"predicted_saving", "predicted step saving", PERCENT},
                                 {"forward_s", "forward,&nbsp;s", SECONDS},
                                 {"probe_s", "probe,&nbsp;s", SECONDS},
                                 {"backward_s", "backward,&nbsp;s", SECONDS | SHARE},
                                 {"update_s", "update,&nbsp;s", SECONDS}};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

/* NaN where the log has none. */
static double figure(const report_method *m, const char *key) {
    const json_t *v = json_object_get(m->result, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* A column's figure of a method. Times have three significant digits of the column's largest, and at most milliseconds,
 * so that the column lines up. A time of 0 was not measured. */
static void write_cell(FILE *out, const report *r, const report_method *m, const column *c) {
    const double v = figure(m, c->key);
    double most = 0;
    for (int i = 0; i < r->n; i++) most = fmax(most, figure(&r->methods[i], c->key)); /* passes over NaN */
    if (!isfinite(v) || (v == 0 && c->kind & SECONDS)) {
        fputs("<td>&ndash;</td>", out);
        return;
    }
    int decimals = 3;
    if (c->kind & PERCENT) decimals = 1;
    if (c->kind & SECONDS) decimals = most >= 100 ? 0 : most >= 10 ? 1 : most >= 1 ? 2 : 3;
    if (c->kind & SHARE && most > 0 && v >= 0)
        fprintf(out, "<td class=\"share\" style=\"--w:%.1f%%\">", 100 * v / most);
    else
        fputs("<td>", out);
    fprintf(out, "%.*f%s</td>", decimals, c->kind & PERCENT ? 100 * v : v, c->kind & PERCENT ? " %" : "");
}

/* What backward times are compared with, where the log has it. */
static const report_method *full_method(const report *r) {
    for (int i = 0; i < r->n; i++) {
        if (!strcmp(r->methods[i].name, "lora[full]") && figure(&r->methods[i], "backward_s") > 0)
            return &r->methods[i];
    }
    return NULL;
}

/* One row a method; the last column only where there is something to compare with. */
static void write_table(FILE *out, const report *r) {
    const report_method *full = full_method(r);
    fputs("<h2>Methods</h2>\n<div class=\"table\"><table><thead><tr><th scope=\"col\">method</th>", out);
    for (int k = 0; k < N_COLUMNS; k++) fprintf(out, "<th scope=\"col\">%s</th>", columns[k].title);
    if (full) fputs("<th scope=\"col\">backward&nbsp;/ lora[full]</th>", out);
    fputs("</tr></thead><tbody>\n", out);
    for (int i = 0; i < r->n; i++) {
        fputs("<tr><td>", out);
        html_text(out, r->methods[i].name);
        fputs("</td>", out);
        for (int k = 0; k < N_COLUMNS; k++) write_cell(out, r, &r->methods[i], &columns[k]);
        const double ratio = full ? figure(&r->methods[i], "backward_s") / figure(full, "backward_s") : NAN;
        if (isfinite(ratio)) fprintf(out, "<td>%.2f</td>", ratio);
        if (full && !isfinite(ratio)) fputs("<td>&ndash;</td>", out);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n<p class=\"note\">Depth saving is the mean share of layers that the backward pass "
          "left out. The predicted saving counts the operations of whole steps, forward and probe included. Times are "
          "measured, over the whole training.</p>\n",
          out);
}

/* ---- charts ---- */

static const curve *pick_loss(const report_method *m) {
    return &m->loss;
}

static const curve *pick_f1(const report_method *m) {
    return &m->f1;
}

/* What is not in any log has no section. */
static void write_training(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n; i++) any |= r->methods[i].loss.n > 1 || r->methods[i].f1.n > 1;
    if (!any) return;
    fputs("<h2>Training</h2>\n<p>The loss on the data of each update, averaged over neighbouring updates (a twentieth "
          "of the run). Methods that match data to layers do not take them in the same order.</p>\n"
          "<p class=\"legend\">",
          out);
    for (int i = 0; i < r->n; i++) {
        const char colour[] = {'b', (char)('0' + i % 8), 0};
        legend_entry(out, colour, r->methods[i].name);
    }
    fputs("</p>\n<div class=\"charts\">\n", out);
    chart_curves(out, r, "Training loss", "data trained", "loss", pick_loss);
    chart_curves(out, r, "Macro F1 on the test data", "update", "macro F1", pick_f1);
    chart_points(out, r, "Macro F1 against the time of the backward pass", "seconds", "macro F1", "backward_s", "f1");
    fputs("</div>\n", out);
}

static void write_deviations(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n; i++) any |= r->methods[i].before || r->methods[i].after;
    if (!any) return;
    fputs("<h2>Deviation before and after</h2>\n<p>How far the hidden state of the last prompt token is from the "
          "semantic basis of the right next token, in each latent space: 0 is the embedding's output, <i>k</i> the "
          "output of the <i>k</i>-th layer. Each shape shows the spread over a sample of test texts and is as wide as "
          "its own peak; the short line is the mean. A layer helps where the deviation falls.</p>\n",
          out);
    pair_legend(out, CHART_PLAIN, "before fine-tuning", CHART_STRONG, "after fine-tuning");
    fputs("<div class=\"charts\">\n", out);
    for (int i = 0; i < r->n; i++) chart_violins(out, r, i);
    fputs("</div>\n", out);
}

static void write_plans(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n; i++) any |= r->methods[i].plan != NULL;
    if (!any) return;
    fputs("<h2>Plans</h2>\n<p>How many data trained at each depth under the budget: at layer <i>e</i> the layers below "
          "<i>e</i> are frozen. Data are matched to a layer when their own end-of-freezing layer is not deeper; what "
          "then lacks is filled by a random draw.</p>\n",
          out);
    pair_legend(out, CHART_STRONG, "matched by their own layer", CHART_PLAIN, "filled at random");
    fputs("<div class=\"charts\">\n", out);
    for (int i = 0; i < r->n; i++) {
        const json_t *plan = r->methods[i].plan, *matched = json_object_get(plan, "matched");
        if (json_array_size(matched) > 0)
            chart_bars(out, r->methods[i].name, matched, json_object_get(plan, "filled"));
        else
            chart_bars(out, r->methods[i].name, json_object_get(plan, "counts"), NULL);
    }
    fputs("</div>\n", out);
}

static void write_eofs(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n; i++) any |= r->methods[i].eof != NULL;
    if (!any) return;
    fputs("<h2>End-of-freezing layers</h2>\n<p>The layer that lowers the deviation of a datum most, as the probe found "
          "it during training: the backward pass of this datum may stop there.</p>\n<div class=\"charts\">\n",
          out);
    for (int i = 0; i < r->n; i++)
        chart_bars(out, r->methods[i].name, json_object_get(r->methods[i].eof, "counts"), NULL);
    fputs("</div>\n", out);
}

/* ---- page ---- */

/* A text of the log, escaped, behind some words of the page's own. */
static void write_text(FILE *out, const char *before, const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    fputs(before, out);
    html_text(out, text ? text : "unknown");
}

static double run_number(const json_t *run, const char *key) {
    return json_number_value(json_object_get(run, key));
}

/* What was trained on what; older logs lack some of it. */
static void write_run(FILE *out, const json_t *run) {
    write_text(out, "<p>Model ", run, "model");
    fprintf(out, " (%.0f layers)", run_number(run, "layers"));
    write_text(out, ", data ", run, "data");
    fprintf(out, ": %.0f training and %.0f test texts", run_number(run, "train"), run_number(run, "test"));
    if (run_number(run, "classes") > 0) fprintf(out, " of %.0f classes", run_number(run, "classes"));
    if (run_number(run, "batch") > 0) {
        fprintf(out, ", updates of %.0f, %.0f pass%s over the data", run_number(run, "batch"),
                run_number(run, "epochs"), run_number(run, "epochs") > 1 ? "es" : "");
    }
    fprintf(out, "; seed %.0f.</p>\n", run_number(run, "seed"));
}

/* Sections in the order in which a reader asks: which method won, how it learned, why, and what it was given. */
void report_page(FILE *out, const report *r) {
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Fine-tuning report</title>\n",
          out);
    fputs(style, out);
    for (int i = 0; i < 8; i++)
        fprintf(out, ".b%d{background:var(--c%d);fill:var(--c%d)}.l%d{stroke:var(--c%d)}", i, i, i, i, i);
    fputs("</style>\n", out);
    fputs("</head><body><h1>Fine-tuning report</h1>\n", out);
    if (r->run) write_run(out, r->run);
    write_table(out, r);
    write_training(out, r);
    write_deviations(out, r);
    write_plans(out, r);
    write_eofs(out, r);
    fputs("</body></html>\n", out);
}
