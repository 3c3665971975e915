/* advice.c - see advice.h. */
#include "advice.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"

/* F1 that is given up without a word; a time that counts as saved; memory that does. */
static const double SAME_F1 = 0.01, SAVED_TIME = 0.95, SAVED_MEMORY = 0.75;

/* Variance of macro F1 by the draw of the test texts, at least that of an accuracy as Agresti and Coull (1998) have it:
 * with two right and two wrong answers more, so that 60 of 60 right are no certainty. */
static double chance(double variance, double accuracy, int64_t n_test) {
    const double n = (double)n_test + 4, p = (accuracy * (double)n_test + 2) / n;
    return fmax(variance, p * (1 - p) / n);
}

/* Half of the interval of a sum of two variances: of a mean over seeds, known with seeds - 1 degrees of freedom, and of
 * the texts, taken as known. Student's quantile at .975 by its series around the normal one's z (Fisher and Cornish,
 * 1960): 3 % too small at two degrees of freedom, less above, a quarter at one, which texts alone add to. */
static double half_interval(double of_seeds, double of_texts, int seeds) {
    const double z = 1.959964, z2 = z * z, sum = of_seeds + of_texts;
    const double u = of_seeds > 0 ? of_seeds * of_seeds / (sum * sum) / (seeds - 1) : 0; /* 1 / degrees of freedom */
    const double t =
        z * (1 + u / 4 *
                     (z2 + 1 +
                      u / 24 * (5 * z2 * z2 + 16 * z2 + 3 + u / 4 * (3 * z2 * z2 * z2 + 19 * z2 * z2 + 17 * z2 - 15))));
    return t * sqrt(sum);
}

/* Index of a method, or -1. */
static int method_index(const tally_list *list, const char *name) {
    for (int i = 0; i < list->n_methods; i++)
        if (!strcmp(list->methods[i].name, name)) return i;
    return -1;
}

/* One method beside lora[full]. Differences are taken within a seed, as both saw the same data in the same order. */
static advice_line make_line(const tally_list *list, int i, int full, int64_t n_test) {
    const double seeds = list->n_seeds;
    const double texts =
        chance(tally_figure(list, i, TALLY_VARIANCE).mean, tally_figure(list, i, TALLY_ACCURACY).mean, n_test);
    advice_line l = {.f1 = tally_figure(list, i, TALLY_F1), .time = tally_time_ratio(list, i).mean};
    double square = 0;
    l.half = half_interval(l.f1.sd * l.f1.sd / seeds, texts, list->n_seeds);
    l.difference = l.f1.mean - tally_figure(list, full, TALLY_F1).mean;
    for (int k = 0; k < list->n_seeds && list->n_seeds > 1; k++) {
        const tally *runs = list->runs + k * list->n_methods;
        const double off = runs[i].v[TALLY_F1] - runs[full].v[TALLY_F1] - l.difference;
        square += off * off / (seeds - 1);
    }
    const double other =
        chance(tally_figure(list, full, TALLY_VARIANCE).mean, tally_figure(list, full, TALLY_ACCURACY).mean, n_test);
    l.difference_half = half_interval(square / seeds, texts + other, list->n_seeds);
    l.memory = tally_figure(list, i, TALLY_MEMORY).mean / tally_figure(list, full, TALLY_MEMORY).mean;
    l.saves = i != full && (l.time <= SAVED_TIME || l.memory <= SAVED_MEMORY);
    return l;
}

int advice_make(advice *out, const tally_list *list, int64_t n_test) {
    const int full = method_index(list, "lora[full]"), half = method_index(list, "lora[half]");
    if (full < 0 || !list->untrained) return -1;
    *out = (advice){.full = full, .choice = full, .untrained = list->untrained->v[TALLY_F1]};
    for (int i = 0; i < list->n_methods; i++) out->lines[i] = make_line(list, i, full, n_test);
    for (int i = 0; i < list->n_methods; i++) {
        out->lines[i].front = 1;
        for (int k = 0; k < list->n_methods; k++) {
            const advice_line *a = &out->lines[i], *b = &out->lines[k];
            if (b->time <= a->time && b->f1.mean >= a->f1.mean && (b->time < a->time || b->f1.mean > a->f1.mean))
                out->lines[i].front = 0;
        }
    }
    /* Over three epochs two of three forwards of lora[half] begin at its cut: half way up or, of an odd number of
     * layers, below that. */
    if (half >= 0) {
        const double forward = tally_figure(list, half, TALLY_FORWARD).mean,
                     all = tally_figure(list, half, TALLY_CPU).mean,
                     below = tally_figure(list, half, TALLY_SAVING).mean;
        out->cached = (all - forward * below * 2 / 3) / tally_figure(list, full, TALLY_CPU).mean;
    }
    /* 1. where no time was measured or training taught nothing, nothing can be said of how to train */
    const advice_line *whole = &out->lines[full];
    out->verdict = ADVICE_UNTIMED;
    if (!isfinite(whole->time)) return 0;
    const double *v = list->untrained->v,
                 before = half_interval(0, chance(v[TALLY_VARIANCE], v[TALLY_ACCURACY], n_test), 1);
    out->verdict = ADVICE_UNTAUGHT;
    if (whole->f1.mean - out->untrained <= hypot(whole->half, before)) return 0;
    /* 2. the cheapest method that is as good; else the best of those that save, where chance may have made it worse */
    int cheapest = -1, best = -1;
    for (int i = 0; i < list->n_methods; i++) {
        const advice_line *l = &out->lines[i];
        if (!l->saves) continue;
        if (l->difference >= -SAME_F1 && (cheapest < 0 || l->time < out->lines[cheapest].time)) cheapest = i;
        if (best < 0 || l->difference > out->lines[best].difference) best = i;
    }
    out->verdict = ADVICE_FULL;
    if (cheapest >= 0) {
        out->verdict = ADVICE_FREEZE;
        out->choice = cheapest;
    } else if (best >= 0 && -out->lines[best].difference <= out->lines[best].difference_half) {
        out->verdict = ADVICE_TRADE;
        out->choice = best;
    }
    return 0;
}

/* ---- words ---- */

/* Text into a buffer that keeps its length. */
typedef struct words {
    char text[16384];
    size_t n;
} words;

static void say(words *w, const char *format, ...) {
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(w->text + w->n, sizeof w->text - w->n, format, list);
    va_end(list);
    if (n > 0) w->n += (size_t)n < sizeof w->text - w->n ? (size_t)n : sizeof w->text - w->n - 1;
}

/* What saving a method offers: "0.74 of the time and 0.51 of the memory of lora[full]". */
static void say_cost(words *w, const advice_line *l) {
    say(w, "%.2f of the time and %.2f of the memory of lora[full]", l->time, l->memory);
}

static void say_verdict(words *w, const advice *a, const tally_list *list) {
    const advice_line *l = &a->lines[a->choice], *full = &a->lines[a->full];
    const char *name = list->methods[a->choice].name;
    switch (a->verdict) {
    case ADVICE_UNTIMED:
        say(w, "The pilot cannot say: training took less time than this machine's clock can tell. Give it more "
               "--minutes or more data.");
        break;
    case ADVICE_UNTAUGHT:
        say(w,
            "The pilot cannot say: training everything took macro F1 from %.3f (untrained) to %.3f +-%.3f, which may "
            "be "
            "chance. Give it more --minutes, another --lr, or more data.",
            a->untrained, full->f1.mean, full->half);
        break;
    case ADVICE_FREEZE:
        say(w, "Freeze: %s reached macro F1 %.3f +-%.3f, lora[full] %.3f +-%.3f (untrained %.3f), with ", name,
            l->f1.mean, l->half, full->f1.mean, full->half, a->untrained);
        say_cost(w, l);
        say(w, ".");
        break;
    case ADVICE_TRADE:
        say(w, "Freezing saves, and may cost quality: %s needs ", name);
        say_cost(w, l);
        say(w,
            ", and reached macro F1 %.3f +-%.3f against %.3f +-%.3f (untrained %.3f): %.3f less, where chance alone "
            "makes "
            "+-%.3f.",
            l->f1.mean, l->half, full->f1.mean, full->half, a->untrained, -l->difference, l->difference_half);
        break;
    default: {
        int best = -1; /* of those that save */
        for (int i = 0; i < list->n_methods; i++)
            if (a->lines[i].saves && (best < 0 || a->lines[i].difference > a->lines[best].difference)) best = i;
        say(w, "Freezing does not pay here: lora[full] reached macro F1 %.3f +-%.3f (untrained %.3f), and ",
            full->f1.mean, full->half, a->untrained);
        if (best < 0) {
            say(w, "no method saved a twentieth of its time or a quarter of its memory.");
        } else {
            say(w, "the best of those that save, %s, reached %.3f less, where chance alone makes +-%.3f.",
                list->methods[best].name, -a->lines[best].difference, a->lines[best].difference_half);
        }
    }
    }
}

/* What would change the answer, and what the probes found. */
static void say_reasons(words *w, const advice *a, const tally_list *list) {
    const int half = method_index(list, "lora[half]"), salf = method_index(list, "salf[half][stream]");
    const int ramp = method_index(list, "ramp");
    const double wide = a->lines[a->choice].difference_half;
    say(w, "What would change this: ");
    if (list->n_seeds == 1) say(w, "one seed does not tell by how much seeds differ, which no interval here counts. ");
    if (wide > 0.05) say(w, "the interval of a difference is +-%.3f; more --seeds and --minutes narrow it. ", wide);
    if (half >= 0 && a->verdict != ADVICE_UNTIMED)
        say(w,
            "Over three epochs, with --cache, lora[half] would need about %.2f of the time of lora[full], and %.2f of "
            "the memory beside the states that are kept. ",
            a->cached, a->lines[half].memory);
    if (ramp >= 0 && a->lines[ramp].difference > SAME_F1)
        say(w, "ramp, which saves nothing, gained %.3f: part of what freezing does is its learning rates. ",
            a->lines[ramp].difference);
    if (salf < 0) return;
    const double mode = tally_figure(list, salf, TALLY_MODE).mean,
                 trained = tally_figure(list, salf, TALLY_TRAINED).mean;
    say(w, "SALF's probes matched %.1f %% of the data to their layer; ",
        100 * tally_figure(list, salf, TALLY_MATCHED).mean / trained);
    if (mode > 0.9) {
        say(w,
            "%.1f %% of the data chose the same layer, so that there is no signal here: --lens normed may show more.",
            100 * mode);
    } else {
        say(w, "at most %.1f %% of the data chose the same layer.", 100 * mode);
    }
}

/* An option with a value as a shell takes it: in quotes where a letter of it means something there. */
static void say_option(words *w, const char *name, const char *value) {
    const int plain =
        value[strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%")] == 0;
    say(w, " --%s %s", name, plain ? value : "'");
    for (const char *c = value; !plain && *c; c++) {
        if (*c == '\'')
            say(w, "'\\''");
        else
            say(w, "%c", *c);
    }
    if (!plain) say(w, "'");
}

/* The command that trains as advised, and as the pilot did. */
static void say_command(words *w, const advice *a, const tally_list *list, const advice_case *c) {
    const method *m = &list->methods[a->choice];
    say(w, "salf finetune");
    say_option(w, "model", c->model);
    if (c->tokenizer) say_option(w, "tokenizer", c->tokenizer);
    say_option(w, "data", c->data);
    if (c->prompt) say_option(w, "template", c->prompt);
    if (c->label_words) say_option(w, "label-words", c->label_words);
    say_option(w, "method", m->name);
    say(w, " --lr %.6g --batch %lld", c->rate, (long long)c->batch);
    if (c->rank) say(w, " --rank %d", (int)c->rank);
    if (c->lens && m->how.probes) say_option(w, "lens", c->lens);
}

/* In Python everything but full training is a name for the trainer. */
static void say_python(words *w, const advice *a, const tally_list *list) {
    if (a->choice == a->full) {
        say(w, "Trainer(model=model, args=args, train_dataset=data)");
    } else {
        say(w, "SalfTrainer(model=model, args=args, train_dataset=data, salf=\"%s\")", list->methods[a->choice].name);
    }
}

/* F1 over cost as bars: the longer the first, the dearer. Methods on the front have a star. */
static void print_front(FILE *out, const advice *a, const tally_list *list) {
    enum { CELLS = 30 };
    double most = 1;
    for (int i = 0; i < list->n_methods; i++) most = fmax(most, a->lines[i].time);
    fputs("Whole cost relative to lora[full], and macro F1; * no other is better in both:\n", out);
    for (int i = 0; i < list->n_methods; i++) {
        const advice_line *l = &a->lines[i];
        char bar[CELLS + 1] = "";
        const int n = (int)lround(CELLS * l->time / most);
        memset(bar, '#', (size_t)n);
        fprintf(out, "%c %-24s %.2f %-30s %.3f +-%.3f\n", l->front ? '*' : ' ', list->methods[i].name, l->time, bar,
                l->f1.mean, l->half);
    }
}

void advice_print(FILE *out, const advice *a, const tally_list *list, const advice_case *c) {
    words w = {.n = 0};
    say(&w, "A pilot of %.0f s: %lld of %lld training data, %lld test texts, ", c->seconds, (long long)c->n_train,
        (long long)c->of_train, (long long)c->n_test);
    if (list->n_seeds < c->seeds_asked) say(&w, "%d of %d seeds (time was up)", list->n_seeds, c->seeds_asked);
    if (list->n_seeds >= c->seeds_asked) say(&w, "%d seed%s", list->n_seeds, list->n_seeds > 1 ? "s" : "");
    if (c->rate_chosen) say(&w, ", all at the learning rate %g, the best of those tried with lora[full]", c->rate);
    say(&w, ".");
    args_print_wrapped(out, w.text, 0, 0, 80);
    fputc('\n', out);
    w = (words){.n = 0};
    tally_table(out, list);
    fputc('\n', out);
    if (a->verdict != ADVICE_UNTIMED) {
        print_front(out, a, list);
        fputc('\n', out);
    }
    say_verdict(&w, a, list);
    args_print_wrapped(out, w.text, 0, 0, 80);
    fputc('\n', out);
    w = (words){.n = 0};
    say_reasons(&w, a, list);
    args_print_wrapped(out, w.text, 0, 0, 80);
    w = (words){.n = 0};
    say_command(&w, a, list, c);
    say(&w, "\n");
    say_python(&w, a, list);
    fprintf(out, "\nTo go on:\n%s\n", w.text);
}

/* ---- JSON ---- */

json_t *advice_json(const advice *a, const tally_list *list, const advice_case *c) {
    static const char *const verdicts[] = {"cannot_say", "freeze", "trade", "full", "cannot_say"};
    words verdict = {.n = 0}, reasons = {.n = 0}, command = {.n = 0}, python = {.n = 0};
    say_verdict(&verdict, a, list);
    say_reasons(&reasons, a, list);
    say_command(&command, a, list, c);
    say_python(&python, a, list);
    json_t *all = tally_json(list), *methods = json_object_get(all, "methods");
    /* its paths need not be UTF-8; the writer replaces what is not */
    json_t *paths = json_string_nocheck(command.text);
    json_t *says =
        json_pack("{s:s,s:s,s:s,s:s,s:o,s:s,s:I,s:I,s:f,s:f,s:b}", "verdict", verdicts[a->verdict], "method",
                  list->methods[a->choice].name, "words", verdict.text, "reasons", reasons.text, "command", paths,
                  "python", python.text, "train", (json_int_t)c->n_train, "test", (json_int_t)c->n_test, "seconds",
                  c->seconds, "rate", c->rate, "rate_chosen", c->rate_chosen);
    int failed = !all || !says || json_object_update(all, says);
    json_decref(says);
    for (int i = 0; i < list->n_methods && !failed; i++) {
        const advice_line *l = &a->lines[i];
        json_t *more = json_pack("{s:f,s:f,s:f,s:f,s:b}", "f1_half", l->half, "difference", l->difference,
                                 "difference_half", l->difference_half, "memory_ratio", l->memory, "front", l->front);
        failed = !more || json_object_update(json_array_get(methods, (size_t)i), more);
        json_decref(more);
    }
    if (!failed) return all;
    json_decref(all);
    return NULL;
}
