/* tally.c - figures of runs: savings, clocks, mean and deviation over the seeds, table and JSON. */
#include "tally.h"

#include <math.h>
#include <string.h>
#include <time.h>

double tally_saving(const tally *t) {
    return t->v[TALLY_TRAINED] > 0 ? t->v[TALLY_DEPTH] / t->v[TALLY_TRAINED] : 0;
}

double tally_predicted(const tally *t) {
    return t->v[TALLY_FULL_FLOPS] > 0 ? 1 - t->v[TALLY_FLOPS] / t->v[TALLY_FULL_FLOPS] : 0;
}

/* ---- clocks ---- */

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double tally_clock(void) {
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

tally_mark tally_now(void) {
    return (tally_mark){seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
}

void tally_lap(tally *t, const tally_mark *since) {
    const tally_mark now = tally_now();
    t->v[TALLY_WALL] += now.wall - since->wall;
    t->v[TALLY_CPU] += now.cpu - since->cpu;
}

/* ---- over the seeds ---- */

static double figure_of(const tally *t, int figure) {
    if (figure < TALLY_N) return t->v[figure];
    if (figure == TALLY_SAVING) return tally_saving(t);
    if (figure == TALLY_PREDICTED) return tally_predicted(t);
    return t->v[TALLY_TRAINED] > 0 ? t->v[TALLY_PASSED] / t->v[TALLY_TRAINED] : 0; /* TALLY_FORWARDS */
}

/* Mean and deviation of n values, by two passes. The mean is taken from the first value on: exact where all are equal,
 * as what follows from a schedule is, so that no rounding shows as a deviation. */
static tally_spread spread_of(const double *values, int n) {
    tally_spread s = {0, 0};
    for (int i = 0; i < n; i++) s.mean += i == 0 ? values[0] : (values[i] - values[0]) / n;
    for (int i = 0; i < n && n > 1; i++) s.sd += (values[i] - s.mean) * (values[i] - s.mean) / (n - 1);
    s.sd = sqrt(s.sd);
    return s;
}

tally_spread tally_figure(const tally_list *list, int i, int figure) {
    double values[TALLY_SEEDS_MAX];
    for (int k = 0; k < list->n_seeds; k++) values[k] = figure_of(&list->runs[k * list->n_methods + i], figure);
    return spread_of(values, list->n_seeds);
}

/* The method that times are compared with, or -1. */
static int full_method(const tally_list *list) {
    for (int i = 0; i < list->n_methods; i++)
        if (strcmp(list->methods[i].name, "lora[full]") == 0) return i;
    return -1;
}

/* Ratios within a seed, then their mean: both runs of a pair met the same machine at about the same time. */
tally_spread tally_time_ratio(const tally_list *list, int i) {
    const int full = full_method(list);
    double values[TALLY_SEEDS_MAX];
    for (int k = 0; k < list->n_seeds; k++) {
        const tally *runs = list->runs + k * list->n_methods;
        values[k] = full >= 0 && runs[full].v[TALLY_CPU] > 0 ? runs[i].v[TALLY_CPU] / runs[full].v[TALLY_CPU] : NAN;
    }
    return spread_of(values, list->n_seeds);
}

/* ---- table ---- */

/* Columns of a score: with several seeds "0.765 ±.021", whose sign has two bytes; a score that no seed changes is
 * alone. */
static void print_score(FILE *out, const tally_list *list, tally_spread score, int varies) {
    if (list->n_seeds == 1) {
        fprintf(out, " %8.3f", score.mean);
    } else if (varies) {
        char sd[16];
        snprintf(sd, sizeof sd, "%.3f", score.sd); /* below 1, as scores are: its 0 is left out */
        fprintf(out, " %.3f \302\261%s", score.mean, sd + 1);
    } else {
        fprintf(out, " %.3f      ", score.mean);
    }
}

/* Names come first, as wide as the longest; "untrained" has nine letters. The first heading stands over the second. */
void tally_table(FILE *out, const tally_list *list) {
    const int width = list->n_seeds > 1 ? 12 : 9, timed = full_method(list) >= 0;
    int names = 9;
    for (int i = 0; i < list->n_methods; i++) {
        const int length = (int)strlen(list->methods[i].name);
        if (length > names) names = length;
    }
    fprintf(out, "%-*s%*s%*s %6s %7s %6s %8s\n", names, "", width, "", width, "", timed ? "time /" : "cpu", "memory",
            "depth", "forwards");
    fprintf(out, "%-*s%*s%*s %6s %7s %6s %8s\n", names, "method", width, "macro F1", width, "accuracy",
            timed ? "full" : "s", "MiB", "saving", "a datum");
    if (list->untrained) {
        const double *v = list->untrained->v;
        fprintf(out, "%-*s", names, "untrained");
        print_score(out, list, (tally_spread){v[TALLY_F1], 0}, 0);
        print_score(out, list, (tally_spread){v[TALLY_ACCURACY], 0}, 0);
        fprintf(out, " %6s %7s %6s %8s\n", "-", "-", "-", "-");
    }
    for (int i = 0; i < list->n_methods; i++) {
        fprintf(out, "%-*s", names, list->methods[i].name);
        print_score(out, list, tally_figure(list, i, TALLY_F1), 1);
        print_score(out, list, tally_figure(list, i, TALLY_ACCURACY), 1);
        const double time = timed ? tally_time_ratio(list, i).mean : tally_figure(list, i, TALLY_CPU).mean;
        if (isfinite(time)) {
            fprintf(out, " %6.*f", timed ? 2 : 1, time);
        } else {
            fprintf(out, " %6s", "-"); /* a run shorter than a tick of the processor's clock */
        }
        fprintf(out, " %7.1f %6.3f %8.2f\n", tally_figure(list, i, TALLY_MEMORY).mean / 1048576,
                tally_figure(list, i, TALLY_SAVING).mean, tally_figure(list, i, TALLY_FORWARDS).mean);
    }
}

void tally_legend(FILE *out) {
    fputs("time: processor time of the whole training, relative to lora[full]'s. memory: what\n"
          "training holds above weights and adapters (activations, gradients, moments, kept\n"
          "states). depth saving: mean share of layers that the backward left out; about half\n"
          "of it is saved of a step's operations. forwards: passes for each datum trained.\n"
          "With several seeds: mean and standard deviation.\n",
          out);
}

/* ---- JSON ---- */

/* Keys of the object of a method: means, and for scores and times the deviation too. */
json_t *tally_json(const tally_list *list) {
    static const struct {
        const char *key;
        int figure;
    } figures[] = {{"f1", TALLY_F1},
                   {"accuracy", TALLY_ACCURACY},
                   {"wall_s", TALLY_WALL},
                   {"cpu_s", TALLY_CPU},
                   {"memory", TALLY_MEMORY},
                   {"saving", TALLY_SAVING},
                   {"predicted_saving", TALLY_PREDICTED},
                   {"forwards", TALLY_FORWARDS},
                   {"updates", TALLY_STEPS},
                   {"trained", TALLY_TRAINED},
                   {"probed", TALLY_PROBED},
                   {"matched", TALLY_MATCHED},
                   {"eof_mode", TALLY_MODE}};
    json_t *all = json_object(), *methods = json_array();
    int failed = !all || json_object_set_new(all, "seeds", json_integer(list->n_seeds));
    if (list->untrained && !failed) {
        const double *v = list->untrained->v;
        failed = json_object_set_new(all, "untrained",
                                     json_pack("{s:f,s:f}", "f1", v[TALLY_F1], "accuracy", v[TALLY_ACCURACY]));
    }
    failed = failed || !methods;
    for (int i = 0; i < list->n_methods && !failed; i++) {
        json_t *one = json_pack("{s:s}", "method", list->methods[i].name);
        for (size_t k = 0; k < sizeof figures / sizeof *figures && one && !failed; k++) {
            char key[32];
            const tally_spread s = tally_figure(list, i, figures[k].figure);
            failed = json_object_set_new(one, figures[k].key, json_real(s.mean));
            snprintf(key, sizeof key, "%s_sd", figures[k].key);
            if (list->n_seeds > 1 && !failed) failed = json_object_set_new(one, key, json_real(s.sd));
        }
        const tally_spread time = tally_time_ratio(list, i);
        if (one && !failed && isfinite(time.mean)) failed = json_object_set_new(one, "time", json_real(time.mean));
        failed = json_array_append_new(methods, one) || failed;
    }
    if (failed || json_object_set(all, "methods", methods)) {
        json_decref(all);
        all = NULL;
    }
    json_decref(methods);
    return all;
}
