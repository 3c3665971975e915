/* cmd_report.c - `salf report`: a self-contained HTML page from the logs of `salf finetune` (docs/formats.md).
 *
 * This file reads the log and sorts it by method; report_page.c writes the page, report_charts.c its charts. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "args.h"
#include "commands.h"
#include "jsonl.h"
#include "report.h"

/* ---- reading ---- */

/* Returns -1 when memory is short. */
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

/* Keeps a copy of an object, in place of an earlier one: of several runs in one log the last counts. */
static int keep_object(json_t **slot, const json_t *object) {
    json_decref(*slot);
    *slot = json_deep_copy(object);
    return *slot ? 0 : 1;
}

/* Sorts one line of a log into the report; what it does not know it leaves out, so that newer logs can be read.
 * Returns 1 when memory is short or there are too many methods. */
static int collect_event(void *user, const json_t *o) {
    report *r = user;
    const char *event = json_string_value(json_object_get(o, "event"));
    const char *name = json_string_value(json_object_get(o, "method"));
    if (event && !strcmp(event, "run")) return keep_object(&r->run, o);
    if (!event || !name) return 0;

    report_method *m = NULL;
    for (int i = 0; i < r->n && !m; i++)
        if (!strcmp(r->methods[i].name, name)) m = &r->methods[i];
    if (!m) {
        if (r->n == REPORT_METHODS) return 1;
        m = &r->methods[r->n];
        m->name = strdup(name);
        if (!m->name) return 1;
        r->n++;
    }

    if (!strcmp(event, "step")) {
        const json_t *data = json_object_get(o, "data"), *loss = json_object_get(o, "loss");
        const double x = json_number_value(data ? data : json_object_get(o, "step"));
        return json_is_number(loss) && add_point(&m->loss, x, json_number_value(loss)) ? 1 : 0;
    }
    if (!strcmp(event, "eval")) {
        const json_t *f1 = json_object_get(o, "f1");
        const double x = json_number_value(json_object_get(o, "step"));
        return json_is_number(f1) && add_point(&m->f1, x, json_number_value(f1)) ? 1 : 0;
    }
    if (!strcmp(event, "result")) return keep_object(&m->result, o);
    if (!strcmp(event, "plan")) return keep_object(&m->plan, o);
    if (!strcmp(event, "eof")) return keep_object(&m->eof, o);
    if (!strcmp(event, "deviations")) {
        const char *when = json_string_value(json_object_get(o, "when"));
        return keep_object(when && !strcmp(when, "after") ? &m->after : &m->before, o);
    }
    return 0;
}

/* json_decref and free take NULL, so that a report may be half read. */
static void free_report(report *r) {
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

/* Losses of single batches jump: each point becomes the mean of its neighbours, a twentieth of the curve in all, and
 * at most about 100 points stay. */
static int smooth_curve(curve *c) {
    const int64_t reach = c->n / 40, stride = (c->n + 99) / 100;
    double *means = c->n ? malloc((size_t)c->n * sizeof *means) : NULL;
    int64_t kept = 0;
    if (c->n && !means) return -1;
    for (int64_t i = 0; i < c->n; i++) {
        const int64_t first = i > reach ? i - reach : 0, last = i + reach < c->n ? i + reach : c->n - 1;
        means[i] = 0;
        for (int64_t k = first; k <= last; k++) means[i] += c->y[k] / (double)(last - first + 1);
    }
    for (int64_t i = 0; i < c->n; i++) {
        if (i % stride != 0 && i != c->n - 1) continue;
        c->x[kept] = c->x[i];
        c->y[kept++] = means[i];
    }
    c->n = kept;
    free(means);
    return 0;
}

/* ---- the command ---- */

/* Through a temporary name, so that the page is there whole or not at all. */
static int write_report(const report *r, const char *path) {
    const size_t room = strlen(path) + 8;
    char *temporary = malloc(room);
    if (!temporary) return args_fail("report", "out of memory");
    snprintf(temporary, room, "%s.tmp", path);
    FILE *out = fopen(temporary, "wb");
    int failed = !out;
    if (out) {
        report_page(out, r);
        failed = ferror(out) || fflush(out) || fsync(fileno(out));
        failed |= fclose(out) != 0;
        failed = failed || rename(temporary, path);
        if (failed) unlink(temporary);
    }
    free(temporary);
    return failed ? args_fail("report", "%s: cannot be written", path) : EXIT_CODE_OK;
}

typedef struct report_settings {
    const char *output;
} report_settings;

static const args_option report_table[] = {
    {"output", 'o', ARGS_TEXT, offsetof(report_settings, output), "FILE",
     .help = "page to write (default report.html)"},
};

static const args_command report_command = {
    .name = "report",
    .summary = "Writes a self-contained HTML page from fine-tuning logs: results, losses, deviations, depths.",
    .arguments = "LOG...",
    .options = report_table,
    .n_options = sizeof report_table / sizeof *report_table,
};

int cmd_report(int argc, char **argv) {
    report_settings s = {.output = "report.html"};
    char message[512] = "out of memory, or more than 32 methods";
    int n;
    int code = args_parse(&report_command, &s, argc, argv, &n);
    if (code >= 0) return code;
    report r = {0};
    for (int i = 1; code < 0 && i <= n; i++) {
        if (jsonl_read(argv[i], collect_event, &r, message, sizeof message)) code = args_fail("report", "%s", message);
    }
    if (code < 0 && r.n == 0) code = args_fail("report", "%s: no method in the log", argv[1]);
    for (int i = 0; code < 0 && i < r.n; i++) {
        if (smooth_curve(&r.methods[i].loss)) code = args_fail("report", "out of memory");
    }
    if (code < 0) code = write_report(&r, s.output);
    free_report(&r);
    return code;
}
