/* report_page.c - the page of `salf report`: style, and which tables and charts stand where with what words. The tables
 * are in report_tables.c. */
#include "report_page.h"

#include <math.h>
#include <string.h>

/* No file of its own, no script and no font: the page is to be opened from a disk, sent by mail, printed, and read in
 * ten years. Colours are variables, which dark mode sets anew and print sets back; every one has a contrast of at least
 * 3 with the page, and of text 4.5 (tests/cli/test_report.sh). Styles of groups are 0 to 7, and begin again behind
 * them. */
static const char style[] =
    "<style>:root{color-scheme:light dark;--fg:#1d2330;--soft:#5b6474;--bg:#fff;--line:#dfe3e9;--tint:#dbe7f5;"
    "--plain:#7c8798;--c0:#2f6db5;--c1:#b85c14;--c2:#2a7f52;--c3:#a5468f;--c4:#7d621a;--c5:#137d8c;--c6:#c0392b;"
    "--c7:#5b6474}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e9ef;--soft:#a3abba;--bg:#14171d;--line:#2c323d;--tint:#22364f;"
    "--plain:#7d8798;--c0:#6aa5ea;--c1:#f0a060;--c2:#66c795;--c3:#d986c6;--c4:#d1b25a;--c5:#5cc7d6;--c6:#ee7b70;"
    "--c7:#a3abba}}"
    "@media print{:root{color-scheme:light;--fg:#000;--soft:#444;--bg:#fff;--line:#ccc;--tint:#dbe7f5;--plain:#7c8798;"
    "--c0:#2f6db5;--c1:#b85c14;--c2:#2a7f52;--c3:#a5468f;--c4:#7d621a;--c5:#137d8c;--c6:#c0392b;--c7:#5b6474}"
    "body{font-size:10pt!important;max-width:none!important;margin:0!important;print-color-adjust:exact;"
    "-webkit-print-color-adjust:exact}"
    ".table{overflow:visible!important}table{font-size:7.5pt!important}th,td{padding:.15rem .3rem!important}"
    ".minor{display:table-cell!important}h2{break-after:avoid}figure,tr,.table{break-inside:avoid}"
    ".charts{display:block!important;columns:2;column-gap:1.5rem}figure{margin:0 0 1rem!important}}"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1020px;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.5rem;margin-bottom:.3rem;overflow-wrap:anywhere}"
    "h2{font-size:1.15rem;margin:2.4rem 0 .3rem}h3{font-size:.95rem;margin:1.2rem 0 .3rem;overflow-wrap:anywhere}"
    "p{max-width:46rem;overflow-wrap:anywhere;margin:.4rem 0 .9rem}.note{color:var(--soft);font-size:.9rem}"
    ".table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}"
    "th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "thead th{font-weight:600;vertical-align:bottom;white-space:normal}th:first-child,td:first-child{text-align:left;"
    "position:sticky;left:0;background:var(--bg)}td:first-child{white-space:normal;overflow-wrap:anywhere;min-width:"
    "8rem}"
    ".settings td{text-align:left;white-space:normal;overflow-wrap:anywhere}.differs{font-weight:600}"
    "td.share{background:linear-gradient(90deg,var(--tint) var(--w),transparent 0)}"
    "@media(max-width:700px){.minor{display:none}th,td{padding:.3rem .35rem}}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:1.2rem 1.6rem}"
    "figure{margin:0;max-width:560px}figcaption{font-weight:600;font-size:.95rem;overflow-wrap:anywhere}"
    "svg{display:block;width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--fg)}"
    "svg text.name{font-size:11px}@media(max-width:460px){svg text{font-size:16px}svg text.name{font-size:14px}}"
    ".grid{stroke:var(--line)}.front{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}"
    ".mean{stroke:var(--fg);stroke-width:1.5}polyline{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".plain{fill:var(--plain);background:var(--plain)}.strong{fill:var(--c0);background:var(--c0)}"
    ".legend{font-size:.9rem}.legend span{margin-right:1.1rem;display:inline-block}"
    ".legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px;border:1px solid "
    "var(--fg)}"
    ".legend svg.key{display:inline-block;width:36px;height:14px;margin-right:.4em;vertical-align:middle}";

/* For charts that show two things of each method. */
static void pair_legend(FILE *out, const char *first_colour, const char *first, const char *second_colour,
                        const char *second) {
    fprintf(out, "<p class=\"legend\"><span><i class=\"%s\"></i>%s</span> <span><i class=\"%s\"></i>%s</span></p>\n",
            first_colour, first, second_colour, second);
}

/* ---- sections ---- */

static const curve *pick_loss(const report_run *run) {
    return &run->loss;
}

static const curve *pick_f1(const report_run *run) {
    return &run->f1;
}

/* What is not in any log has no section. */
static void write_training(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n_runs; i++) any |= r->runs[i].loss.n > 1 || r->runs[i].f1.n > 1;
    if (!any) return;
    fputs("<h2>Training</h2>\n<p>The loss on the data of each update, averaged over neighbouring updates (a twentieth "
          "of the run). Methods that match data to layers do not take them in the same order.</p>\n"
          "<p class=\"legend\">",
          out);
    for (int i = 0; i < r->n_groups; i++) {
        fputs("<span>", out);
        chart_key(out, i);
        html_text(out, r->groups[i].name);
        fputs("</span> ", out);
    }
    fputs("</p>\n<div class=\"charts\">\n", out);
    chart_curves(out, r, "Training loss", "data trained", "loss", pick_loss);
    chart_curves(out, r, "Macro F1 on the test data", "update", "macro F1", pick_f1);
    fputs("</div>\n", out);
}

/* The chart that decides: what a method cost in all, and what it reached. */
static void write_costs(FILE *out, const report *r) {
    double sd;
    int any = 0;
    for (int i = 0; i < r->n_groups; i++) any |= report_figure(r, &r->groups[i], "cpu_s", &sd) > 0;
    if (!any) return;
    fputs(
        "<h2>Cost and quality</h2>\n<p>All of the training in processor seconds, the forward passes of probes with it. "
        "The broken line joins the methods that no other beats in both; bars are one standard deviation over the "
        "seeds. The vertical axis is cut to where the methods differ.</p>\n<div class=\"charts\">\n",
        out);
    chart_points(out, r, "Macro F1 against the whole cost", "processor seconds", "macro F1", "cpu_s", "f1");
    chart_points(out, r, "Macro F1 against memory above the weights", "bytes", "macro F1", "memory", "f1");
    fputs("</div>\n", out);
}

static void write_deviations(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n_runs; i++) any |= r->runs[i].before || r->runs[i].after;
    if (!any) return;
    fputs("<h2>Deviation before and after</h2>\n<p>How far the hidden state of the last prompt token is from the "
          "semantic basis of the right next token, in each latent space: 0 is the embedding's output, <i>k</i> the "
          "output of the <i>k</i>-th layer. Each shape shows the spread over a sample of <i>n</i> test texts and is as "
          "wide as its own peak, so that widths of two shapes do not compare; the short line is the median. A layer "
          "helps where the deviation falls.</p>\n",
          out);
    pair_legend(out, CHART_PLAIN, "before fine-tuning (left)", CHART_STRONG, "after fine-tuning (right)");
    fputs("<div class=\"charts\">\n", out);
    for (int i = 0; i < r->n_groups; i++) chart_violins(out, r, &r->groups[i]);
    fputs("</div>\n", out);
}

static double sum_of(const json_t *list) {
    double sum = 0;
    for (size_t i = 0; i < json_array_size(list); i++) sum += report_number(json_array_get(list, i));
    return sum;
}

static void write_plans(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n_groups; i++) any |= r->runs[r->groups[i].first].plan != NULL;
    if (!any) return;
    fputs("<h2>Plans</h2>\n<p>How many data trained at each depth under the budget: at layer <i>e</i> the layers below "
          "<i>e</i> are frozen. A datum is matched where its own end-of-freezing layer is not deeper than the layer it "
          "trained at; the others were put there at random, to fill the plan.</p>\n",
          out);
    for (int i = 0; i < r->n_groups; i++) {
        const json_t *plan = r->runs[r->groups[i].first].plan;
        const double matched = sum_of(json_object_get(plan, "matched")), all = sum_of(json_object_get(plan, "counts"));
        if (!(matched > 0 && all >= matched)) continue;
        fputs("<p><b>", out);
        html_text(out, r->groups[i].name);
        fprintf(out, "</b>: %.0f of %.0f data (%.0f %%) were matched, %.0f were filled at random.</p>\n", matched, all,
                100 * matched / all, all - matched);
    }
    pair_legend(out, CHART_STRONG, "matched by their own layer", CHART_PLAIN, "filled at random");
    fputs("<div class=\"charts\">\n", out);
    for (int i = 0; i < r->n_groups; i++) {
        const json_t *plan = r->runs[r->groups[i].first].plan, *matched = json_object_get(plan, "matched");
        if (json_array_size(matched) > 0)
            chart_bars(out, r->groups[i].name, matched, json_object_get(plan, "filled"));
        else
            chart_bars(out, r->groups[i].name, json_object_get(plan, "counts"), NULL);
    }
    fputs("</div>\n", out);
}

static void write_eofs(FILE *out, const report *r) {
    int any = 0;
    for (int i = 0; i < r->n_groups; i++) any |= r->runs[r->groups[i].first].eof != NULL;
    if (!any) return;
    fputs("<h2>End-of-freezing layers</h2>\n<p>The layer that lowers the deviation of a datum most, as the probe found "
          "it during training: the backward pass of this datum may stop there. Where nearly all data have the same "
          "one, or "
          "where the class explains nearly all of the gains, a choice by datum says nothing of the datum.</p>\n",
          out);
    for (int i = 0; i < r->n_groups; i++) {
        const json_t *signal = r->runs[r->groups[i].first].signal;
        const double mode = report_number(json_object_get(signal, "most_frequent_share"));
        const double label = report_number(json_object_get(signal, "label_share"));
        if (!isfinite(mode) || !isfinite(label)) continue;
        fputs("<p><b>", out);
        html_text(out, r->groups[i].name);
        fprintf(out,
                "</b>: %.1f %% of the data probed have the most frequent layer; the class explains %.1f %% of the "
                "variance of their gains.</p>\n",
                100 * mode, 100 * label);
    }
    fputs("<div class=\"charts\">\n", out);
    for (int i = 0; i < r->n_groups; i++)
        chart_bars(out, r->groups[i].name, json_object_get(r->runs[r->groups[i].first].eof, "counts"), NULL);
    fputs("</div>\n", out);
}

/* ---- page ---- */

/* The last part of a path. */
static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* "Fine-tuning of MODEL on DATA", of the first log: ten open pages are told apart by their titles. */
static void write_title(FILE *out, const report *r) {
    const json_t *run = r->logs[0].run;
    const char *model = json_string_value(json_object_get(run, "model"));
    const char *data = json_string_value(json_object_get(run, "data"));
    fputs("Fine-tuning", out);
    if (model) {
        fputs(" of ", out);
        html_text(out, last_part(model));
    }
    if (data) {
        fputs(" on ", out);
        html_text(out, last_part(data));
    }
    if (r->n_logs > 1) fprintf(out, ", %d logs", r->n_logs);
}

/* Sections in the order in which a reader asks: which method won and at what cost, how it learned, why, what it was
 * given, and with what settings. */
void report_page(FILE *out, const report *r) {
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>",
          out);
    write_title(out, r);
    fputs("</title>\n", out);
    fputs(style, out);
    for (int i = 0; i < REPORT_STYLES; i++) {
        fprintf(out, ".b%d{fill:var(--c%d);stroke:var(--bg)}.h%d{fill:var(--bg);stroke:var(--c%d);stroke-width:2}", i,
                i, i, i);
        fprintf(out, ".l%d{stroke:var(--c%d)}", i, i);
    }
    fputs("</style>\n</head><body><h1>", out);
    write_title(out, r);
    fputs("</h1>\n", out);
    write_methods(out, r);
    write_costs(out, r);
    write_training(out, r);
    write_confusions(out, r);
    write_deviations(out, r);
    write_plans(out, r);
    write_eofs(out, r);
    write_settings(out, r);
    fputs("</body></html>\n", out);
}
