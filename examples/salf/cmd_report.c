/* cmd_report.c - `salf report`: a self-contained HTML page from the logs of `salf finetune` (docs/formats.md).
 *
 * This file reads the logs and sorts them by log, method and seed; report_page.c writes the page, report_charts.c and
 * report_spreads.c its charts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "commands.h"
#include "files.h"
#include "jsonl.h"
#include "report.h"
#include "salf.h"

enum { RUNS_MOST = 1024, GROUPS_MOST = 64 };

/* ---- reading ---- */

/* Returns -1 when memory is short. */
static int add_point(curve *c, double x, double y) {
    if (!isfinite(x) || !isfinite(y)) return 0;
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

/* Keeps a copy of an object, in place of an earlier one: what a resumed run writes again counts. */
static int keep_object(json_t **slot, const json_t *object) {
    json_decref(*slot);
    *slot = json_deep_copy(object);
    return *slot ? 0 : 1;
}

/* Where a line of a log goes. */
typedef struct reading {
    report *report;
    const char *path;
    int parts;         /* of this log so far */
    const char *wrong; /* why it stopped */
} reading;

/* A log, or the next part of one. */
static int add_log(reading *in) {
    report *r = in->report;
    const size_t room = strlen(in->path) + 16;
    char *name = malloc(room);
    report_log *logs = realloc(r->logs, ((size_t)r->n_logs + 1) * sizeof *logs);
    if (logs) r->logs = logs;
    if (!name || !logs) {
        free(name);
        return 1;
    }
    in->parts++;
    snprintf(name, room, in->parts > 1 ? "%s#%d" : "%s", in->path, in->parts);
    r->logs[r->n_logs++] = (report_log){.name = name};
    return 0;
}

/* The run of a line. Logs of 0.1 give no seed with a method: theirs is the run's. NULL when memory is short. */
static report_run *find_run(reading *in, const json_t *o, const char *method) {
    report *r = in->report;
    const report_log *log = &r->logs[r->n_logs - 1];
    const json_t *given = json_object_get(o, "seed");
    const int64_t seed = json_integer_value(given ? given : json_object_get(log->run, "seed"));
    for (int i = r->n_runs - 1; i >= 0 && r->runs[i].log == r->n_logs - 1; i--)
        if (r->runs[i].seed == seed && !strcmp(r->runs[i].method, method)) return &r->runs[i];
    if (r->n_runs == RUNS_MOST) {
        in->wrong = "more than 1024 runs";
        return NULL;
    }
    char *name = strdup(method);
    report_run *runs = name ? realloc(r->runs, ((size_t)r->n_runs + 1) * sizeof *runs) : NULL;
    if (!runs) {
        free(name);
        return NULL;
    }
    r->runs = runs;
    r->runs[r->n_runs] = (report_run){.log = r->n_logs - 1, .method = name, .seed = seed};
    return &r->runs[r->n_runs++];
}

/* Sorts one line of a log into the report; what it does not know it leaves out, so that newer logs can be read.
 * Returns 1 when memory is short or there are too many runs. */
static int collect_event(void *user, const json_t *o) {
    reading *in = user;
    const char *event = json_string_value(json_object_get(o, "event"));
    const char *name = json_string_value(json_object_get(o, "method"));
    const int begins = event && !strcmp(event, "run");
    if ((begins || in->parts == 0) && add_log(in) != 0) return 1;
    report_log *log = &in->report->logs[in->report->n_logs - 1];
    if (begins) return keep_object(&log->run, o);
    if (event && !strcmp(event, "untrained")) return keep_object(&log->untrained, o);
    if (!event || !name) return 0;
    report_run *m = find_run(in, o, name);
    if (!m) return 1;
    if (!strcmp(event, "step")) {
        const json_t *data = json_object_get(o, "data");
        return add_point(&m->loss, report_number(data ? data : json_object_get(o, "step")),
                         report_number(json_object_get(o, "loss"))) != 0;
    }
    if (!strcmp(event, "eval")) {
        return add_point(&m->f1, report_number(json_object_get(o, "step")), report_number(json_object_get(o, "f1"))) !=
               0;
    }
    if (!strcmp(event, "deviations")) {
        const char *when = json_string_value(json_object_get(o, "when"));
        return keep_object(when && !strcmp(when, "after") ? &m->after : &m->before, o);
    }
    const struct {
        const char *event;
        json_t **slot;
    } parts[] = {{"result", &m->result}, {"plan", &m->plan}, {"eof", &m->eof}, {"signal", &m->signal}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strcmp(event, parts[i].event)) return keep_object(parts[i].slot, o);
    return 0;
}

/* By log, and inside it by the first line of the method; seeds in their order. */
static int compare_runs(const void *a, const void *b) {
    const report_run *x = a, *y = b;
    return x->log != y->log ? x->log - y->log : strcmp(x->method, y->method);
}

/* Puts the runs of a method beside each other, in the order of their first appearance, and names the groups. */
static int make_groups(report *r) {
    report_run *sorted = malloc(((size_t)r->n_runs + 1) * sizeof *sorted);
    r->groups = calloc(GROUPS_MOST, sizeof *r->groups);
    if (!sorted || !r->groups) {
        free(sorted);
        return args_fail("report", "out of memory");
    }
    int n = 0, failed = 0;
    for (int i = 0; i < r->n_runs && !failed; i++) {
        int seen = 0;
        for (int k = 0; k < i; k++) seen |= compare_runs(&r->runs[k], &r->runs[i]) == 0;
        if (seen) continue;
        if (r->n_groups == GROUPS_MOST) failed = args_fail("report", "more than %d methods", GROUPS_MOST);
        if (failed) break;
        report_group *g = &r->groups[r->n_groups++];
        const char *log = r->logs[r->runs[i].log].name;
        const size_t room = strlen(r->runs[i].method) + strlen(log) + 8;
        g->first = n;
        g->name = malloc(room);
        if (!g->name) failed = args_fail("report", "out of memory");
        if (!failed) snprintf(g->name, room, r->n_logs > 1 ? "%s (%s)" : "%s", r->runs[i].method, log);
        for (int k = i; k < r->n_runs; k++)
            if (compare_runs(&r->runs[k], &r->runs[i]) == 0) sorted[n++] = r->runs[k];
        g->n = n - g->first;
    }
    if (!failed) memcpy(r->runs, sorted, (size_t)r->n_runs * sizeof *sorted);
    free(sorted);
    return failed ? failed : -1;
}

/* From the first run's on: where all are equal their mean is that, and no rounding shows as a deviation. */
double report_figure(const report *r, const report_group *g, const char *key, double *sd) {
    const report_run *runs = r->runs + g->first;
    const double first = report_number(json_object_get(runs->result, key));
    double mean = first, square = 0;
    for (int i = 1; i < g->n; i++) mean += (report_number(json_object_get(runs[i].result, key)) - first) / g->n;
    for (int i = 0; i < g->n && g->n > 1; i++) {
        const double off = report_number(json_object_get(runs[i].result, key)) - mean;
        square += off * off / (g->n - 1);
    }
    *sd = sqrt(square);
    return mean;
}

/* json_decref and free take NULL, so that a report may be half read. */
static void free_report(report *r) {
    for (int i = 0; i < r->n_runs; i++) {
        report_run *m = &r->runs[i];
        json_t *parts[] = {m->result, m->before, m->after, m->eof, m->plan, m->signal};
        for (int k = 0; k < 6; k++) json_decref(parts[k]);
        free(m->loss.x);
        free(m->loss.y);
        free(m->f1.x);
        free(m->f1.y);
        free(m->method);
    }
    for (int i = 0; i < r->n_logs; i++) {
        json_decref(r->logs[i].run);
        json_decref(r->logs[i].untrained);
        free(r->logs[i].name);
    }
    for (int i = 0; i < r->n_groups; i++) free(r->groups[i].name);
    free(r->groups);
    free(r->logs);
    free(r->runs);
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

/* The page is made in memory, a page being some 100 KB, and takes its place when it is whole. */
static void print_page(FILE *out, const void *r) {
    report_page(out, r);
}

static int write_report(const report *r, const char *path) {
    size_t size = 0;
    int failed = 0;
    char *page = file_compose(print_page, r, &size);
    if (!page)
        failed = args_fail("report", "out of memory");
    else if (salf_file_save(file_output(path), page, size) != SALF_OK)
        failed = args_fail_salf("report");
    free(page);
    return failed;
}

typedef struct report_settings {
    const char *output;
} report_settings;

static const args_option report_table[] = {
    {"output", 'o', ARGS_TEXT, offsetof(report_settings, output), "FILE", .place = PLACE_FILE,
     .help = "page to write (default report.html)"},
};

static const args_command report_command = {
    .name = "report",
    .summary = "Writes a self-contained HTML page from one or several fine-tuning logs: results, cost, losses, depths.",
    .arguments = "LOG...",
    .options = report_table,
    .n_options = sizeof report_table / sizeof *report_table,
};

int cmd_report(int argc, char **argv) {
    report_settings s = {.output = "report.html"};
    char message[512];
    int n;
    int code = args_parse(&report_command, &s, argc, argv, &n);
    if (code >= 0) return code;
    for (int i = 1; i <= n; i++)
        for (int k = 1; k < i; k++)
            if (!strcmp(argv[i], argv[k])) return args_misuse("report", "%s is given twice", argv[i]);
    for (int i = 1; i <= n; i++)
        if (file_is_same(s.output, strcmp(argv[i], "-") ? argv[i] : "/dev/stdin"))
            return args_misuse("report", "--output: the page would take the place of the log %s", argv[i]);
    report r = {0};
    for (int i = 1; code < 0 && i <= n; i++) {
        reading in = {.report = &r, .path = argv[i], .wrong = "out of memory"};
        const int failed = jsonl_read(argv[i], collect_event, &in, message, sizeof message);
        if (failed) code = args_fail("report", "%s", failed < 0 ? message : in.wrong);
        if (code < 0 && (r.n_runs == 0 || r.runs[r.n_runs - 1].log != r.n_logs - 1))
            code = args_fail("report", "%s: no method in the log", argv[i]);
    }
    for (int i = 0; code < 0 && i < r.n_runs; i++) {
        if (smooth_curve(&r.runs[i].loss)) code = args_fail("report", "out of memory");
    }
    if (code < 0) code = make_groups(&r);
    if (code < 0) code = write_report(&r, s.output);
    free_report(&r);
    return code;
}
