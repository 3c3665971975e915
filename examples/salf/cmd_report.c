/* cmd_report.c - `salf report`: a self-contained HTML page from the logs of `salf finetune` (events: jsonl.h). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "args.h"
#include "commands.h"
#include "jsonl.h"
#include "report.h"

/* ---- reading ---- */

static int add_point(curve *c, double x, double y) {
    if (c->n == c->room) {
        const int64_t more = c->room ? 2 * c->room : 256;
        double *xs = realloc(c->x, (size_t)more * sizeof *xs);
        if (xs) c->x = xs;
        double *ys = xs ? realloc(c->y, (size_t)more * sizeof *ys) : NULL;
        if (!ys) return -1;
        c->y = ys;
        c->room = more;
    }
    c->x[c->n] = x;
    c->y[c->n++] = y;
    return 0;
}

static report_method *method_of(report *r, const char *name) {
    for (int i = 0; i < r->n; i++) {
        if (!strcmp(r->methods[i].name, name)) return &r->methods[i];
    }
    if (r->n == REPORT_METHODS) return NULL;
    char *copy = strdup(name);
    if (!copy) return NULL;
    r->methods[r->n].name = copy;
    return &r->methods[r->n++];
}

static int keep(json_t **slot, const json_t *object) {
    json_decref(*slot);
    *slot = json_deep_copy(object);
    return *slot ? 0 : 1;
}

/* Losses are averaged over blocks when drawn; here every step counts. */
static int take_step(report_method *m, const json_t *o) {
    const json_t *data = json_object_get(o, "data"), *loss = json_object_get(o, "loss");
    if (!json_is_number(loss)) return 0;
    const double x = json_number_value(data ? data : json_object_get(o, "step"));
    return add_point(&m->loss, x, json_number_value(loss)) ? 1 : 0;
}

static int take_eval(report_method *m, const json_t *o) {
    const json_t *f1 = json_object_get(o, "f1");
    if (!json_is_number(f1)) return 0;
    return add_point(&m->f1, json_number_value(json_object_get(o, "step")), json_number_value(f1)) ? 1 : 0;
}

static int take(void *user, const json_t *o) {
    report *r = user;
    const char *event = json_string_value(json_object_get(o, "event"));
    const char *name = json_string_value(json_object_get(o, "method"));
    if (event && !strcmp(event, "run")) return keep(&r->run, o);
    if (!event || !name) return 0;
    report_method *m = method_of(r, name);
    if (!m) return 1;
    const char *when = json_string_value(json_object_get(o, "when"));
    if (!strcmp(event, "step")) return take_step(m, o);
    if (!strcmp(event, "eval")) return take_eval(m, o);
    if (!strcmp(event, "result")) return keep(&m->result, o);
    if (!strcmp(event, "plan")) return keep(&m->plan, o);
    if (!strcmp(event, "eof")) return keep(&m->eof, o);
    if (!strcmp(event, "deviations")) return keep(when && !strcmp(when, "after") ? &m->after : &m->before, o);
    return 0;
}

static void release(report *r) {
    for (int i = 0; i < r->n; i++) {
        report_method *m = &r->methods[i];
        json_t *parts[] = {m->result, m->before, m->after, m->eof, m->plan};
        for (int k = 0; k < 5; k++) json_decref(parts[k]);
        free(m->loss.x);
        free(m->loss.y);
        free(m->f1.x);
        free(m->f1.y);
        free(m->name);
    }
    json_decref(r->run);
}

/* At most 80 points a curve, each the mean of a block. */
static void smooth(curve *c) {
    const int64_t block = (c->n + 79) / 80;
    int64_t kept = 0;
    for (int64_t i = 0; block > 1 && i < c->n; i += block, kept++) {
        double x = 0, y = 0;
        const int64_t n = c->n - i < block ? c->n - i : block;
        for (int64_t k = 0; k < n; k++) x += c->x[i + k] / (double)n, y += c->y[i + k] / (double)n;
        c->x[kept] = x;
        c->y[kept] = y;
    }
    if (block > 1) c->n = kept;
}

/* ---- writing ---- */

static const char style[] =
    "<style>:root{color-scheme:light dark;--fg:#1d2330;--bg:#fff;--line:#d5d9e0;--c0:#2f6db5;--c1:#d9772b;--c2:#2f8f5b;"
    "--c3:#a5468f;--c4:#8a6d1f;--c5:#1a93a5;--c6:#c0392b;--c7:#666f80}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e9ef;--bg:#14171d;--line:#39404d;--c0:#6aa5ea;--c1:#f0a060;"
    "--c2:#66c795;--c3:#d986c6;--c4:#d1b25a;--c5:#5cc7d6;--c6:#ee7b70;--c7:#a3abba}}"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:860px;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}div.wide{overflow-x:auto}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}"
    "th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line)}"
    "th:first-child,td:first-child{text-align:left}figure{margin:1.2rem 0 .2rem}figcaption{font-weight:600}"
    "svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--fg)}.grid{stroke:var(--line)}"
    ".mean{stroke:var(--fg);stroke-width:1.5}polyline{fill:none;stroke-width:2;stroke-linejoin:round}.v{opacity:.85}"
    ".legend{font-size:.85rem;margin:.1rem 0 1rem}.legend span{margin-right:1rem}"
    ".legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}";

static void write_style(FILE *out) {
    fputs(style, out);
    for (int i = 0; i < 8; i++)
        fprintf(out, ".b%d{fill:var(--c%d);background:var(--c%d)}.l%d{stroke:var(--c%d)}", i, i, i, i, i);
    fputs("</style>\n", out);
}

static void number_cell(FILE *out, const json_t *o, const char *key, const char *format_kind) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v)) {
        fputs("<td>&ndash;</td>", out);
    } else if (*format_kind == '%') {
        fprintf(out, "<td>%.1f %%</td>", 100 * json_number_value(v));
    } else if (*format_kind == 's') {
        fprintf(out, "<td>%.2f</td>", json_number_value(v));
    } else {
        fprintf(out, "<td>%.3f</td>", json_number_value(v));
    }
}

static void write_table(FILE *out, const report *r) {
    static const char *const columns[][3] = {{"f1", "macro F1", "."},
                                             {"accuracy", "accuracy", "."},
                                             {"saving", "depth saving", "%"},
                                             {"predicted_saving", "predicted step saving", "%"},
                                             {"forward_s", "forward, s", "s"},
                                             {"probe_s", "probe, s", "s"},
                                             {"backward_s", "backward, s", "s"},
                                             {"update_s", "update, s", "s"}};
    enum { N = sizeof columns / sizeof columns[0] };
    fputs("<h2>Methods</h2><div class=\"wide\"><table><thead><tr><th scope=\"col\">method</th>", out);
    for (int k = 0; k < N; k++) fprintf(out, "<th scope=\"col\">%s</th>", columns[k][1]);
    fputs("</tr></thead><tbody>\n", out);
    for (int i = 0; i < r->n; i++) {
        fputs("<tr><td>", out);
        html_text(out, r->methods[i].name);
        fputs("</td>", out);
        for (int k = 0; k < N; k++) number_cell(out, r->methods[i].result, columns[k][0], columns[k][2]);
        fputs("</tr>\n", out);
    }
    fputs(
        "</tbody></table></div>\n<p>Depth saving is the mean share of layers the backward pass left out; the predicted "
        "saving counts all operations of a step, the probe's included.</p>\n",
        out);
}

static const curve *pick_loss(const report_method *m) {
    return &m->loss;
}

static const curve *pick_f1(const report_method *m) {
    return &m->f1;
}

static void write_method_charts(FILE *out, const report_method *m) {
    char title[160];
    const json_t *matched = json_object_get(m->plan, "matched"), *filled = json_object_get(m->plan, "filled");
    if (m->plan) {
        snprintf(title, sizeof title, "%s: plan, data per freezing depth", m->name);
        if (json_array_size(matched) > 0) {
            chart_bars(out, title, "data", matched, filled, "matched by their own depth", "filled at random");
        } else {
            chart_bars(out, title, "data", json_object_get(m->plan, "counts"), NULL, "", "");
        }
    }
    if (m->eof) {
        snprintf(title, sizeof title, "%s: end-of-freezing layers found by the probe", m->name);
        chart_bars(out, title, "data", json_object_get(m->eof, "counts"), NULL, "", "");
    }
}

static void write_run(FILE *out, const json_t *run) {
    const char *model = json_string_value(json_object_get(run, "model"));
    const char *data = json_string_value(json_object_get(run, "data"));
    fputs("<p>Model ", out);
    html_text(out, model ? model : "unknown");
    fputs(", data ", out);
    html_text(out, data ? data : "unknown");
    fprintf(out, ": %.0f layers, %.0f training and %.0f test texts, seed %.0f.</p>\n",
            json_number_value(json_object_get(run, "layers")), json_number_value(json_object_get(run, "train")),
            json_number_value(json_object_get(run, "test")), json_number_value(json_object_get(run, "seed")));
}

static void write_page(FILE *out, const report *r) {
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Fine-tuning report</title>\n",
          out);
    write_style(out);
    fputs("</head><body><h1>Fine-tuning report</h1>\n", out);
    if (r->run) write_run(out, r->run);
    write_table(out, r);
    fputs("<h2>Training</h2>\n", out);
    chart_curves(out, r, "Training loss", "data trained", "loss", pick_loss);
    chart_curves(out, r, "Macro F1 on the test data", "step", "macro F1", pick_f1);
    fputs("<h2>Deviation before and after</h2>\n", out);
    for (int i = 0; i < r->n; i++) chart_violins(out, r->methods[i].name, r->methods[i].before, r->methods[i].after);
    fputs("<h2>Depths</h2>\n", out);
    for (int i = 0; i < r->n; i++) write_method_charts(out, &r->methods[i]);
    fputs("</body></html>\n", out);
}

static int write_report(const report *r, const char *path) {
    const size_t room = strlen(path) + 8;
    char *temporary = malloc(room);
    if (!temporary) return args_fail("report", "out of memory");
    snprintf(temporary, room, "%s.tmp", path);
    FILE *out = fopen(temporary, "wb");
    int failed = !out;
    if (out) {
        write_page(out, r);
        failed = ferror(out) || fflush(out) || fsync(fileno(out));
        failed |= fclose(out) != 0;
        failed = failed || rename(temporary, path);
        if (failed) unlink(temporary);
    }
    free(temporary);
    return failed ? args_fail("report", "%s: cannot be written", path) : EXIT_CODE_OK;
}

int cmd_report(int argc, char **argv) {
    const char *output = "report.html";
    char message[512] = "out of memory, or more than 32 methods";
    int n;
    const args_option options[] = {
        {.name = "output",
         .letter = 'o',
         .kind = ARGS_TEXT,
         .value = &output,
         .metavar = "FILE",
         .help = "page to write (default report.html)"},
    };
    const args_command command = {
        .name = "report",
        .summary = "Writes a self-contained HTML page from fine-tuning logs: results, losses, deviations, depths.",
        .arguments = "LOG...",
        .options = options,
        .n_options = 1,
        .least_arguments = 1,
        .most_arguments = -1};
    int code = args_parse(&command, argc, argv, &n);
    if (code >= 0) return code;
    report r = {0};
    for (int i = 1; code < 0 && i <= n; i++) {
        if (jsonl_read(argv[i], take, &r, message, sizeof message)) code = args_fail("report", "%s", message);
    }
    if (code < 0 && r.n == 0) code = args_fail("report", "%s: no method in the log", argv[1]);
    for (int i = 0; i < r.n; i++) smooth(&r.methods[i].loss);
    if (code < 0) code = write_report(&r, output);
    release(&r);
    return code;
}
