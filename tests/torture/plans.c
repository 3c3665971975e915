/*
 * plans.c - random plans against a plain reading of Algorithm 4, with up to 10^6 data and 300 layers.
 *
 *   plans [SECONDS [SEED]]     as many plans as fit (10)
 *
 * OFFLINE, NONE and ONLINE: the ids in the order in which they train are exactly those of the plain reading, whatever
 * the batches, and though the planner is saved, destroyed and loaded between calls. STREAM: ids come in order, each
 * once, layers get exactly their counts, and in a MIXED one no layer is ever a datum or more away from its share.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/random.h"
#include "salf.h"

static char setting[256]; /* of the plan at hand, for messages */
#define MUST(condition)                                                                                  \
    do {                                                                                                 \
        if (!(condition)) {                                                                              \
            printf("not ok - %s: line %d, %s (%s)\n", setting, __LINE__, #condition, salf_last_error()); \
            exit(EXIT_FAILURE);                                                                          \
        }                                                                                                \
    } while (0)

static uint64_t random_state;
static int64_t draw(int64_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((random_state >> 33) % (uint64_t)n);
}

typedef struct plan {
    salf_planner_options options;
    int32_t m;
    int64_t n;
    double weights[300];
    int64_t counts[300];
    int32_t *eof;        /* [n] */
    uint32_t *order;     /* [n] the random order of fills */
    uint32_t *data;      /* [n] ids as the plain reading trains them */
    uint8_t *seen;       /* [n] scratch */
    int64_t limit, most; /* probes of a layer; data of a task */
} plan;

/* How eof lie: anywhere, shallow, deep, in runs of ids, or all the same. */
static int32_t shaped(int shape, int64_t id, int64_t n, int32_t m) {
    switch (shape) {
    case 0:
        return (int32_t)draw(m);
    case 1:
        return (int32_t)(draw(m) * draw(m) / m);
    case 2:
        return m - 1 - (int32_t)(draw(m) * draw(m) / m);
    case 3:
        return (int32_t)(id * 7 * m / n % m);
    default:
        return m / 2;
    }
}

/* The whole shuffle of which the planner draws a part (docs/concepts.md), with its stream's name, "plandraw". */
static void shuffle(plan *p) {
    for (int64_t i = 0; i < p->n; i++) p->order[i] = (uint32_t)i;
    for (int64_t i = 0; i < p->n; i++) {
        const uint64_t r = slf_random_below(p->options.seed, 0x706C616E64726177u, (uint64_t)i, (uint64_t)(p->n - i));
        const uint32_t id = p->order[i + (int64_t)r];
        p->order[i + (int64_t)r] = p->order[i];
        p->order[i] = id;
    }
}

/* Algorithm 4 as it stands there: for each layer the unused data in order of id, of which those with an eof up to the
 * layer train there until it is full or the limit of probes is reached; what is missing is the next of the shuffle. */
static void read_plainly(plan *p) {
    int64_t at = 0, drawn = 0;
    shuffle(p);
    memset(p->seen, 0, (size_t)p->n);
    for (int32_t e = 0; e < p->m; e++) {
        int64_t room = p->counts[e], probed = 0;
        for (int64_t i = 0; i < p->n && room > 0 && probed < p->limit; i++) {
            if (p->seen[i]) continue;
            probed++;
            if (p->eof[i] > e) continue;
            p->seen[i] = 1;
            p->data[at++] = (uint32_t)i;
            room--;
        }
        while (room > 0) {
            const uint32_t id = p->order[drawn++];
            if (p->seen[id]) continue;
            p->seen[id] = 1;
            p->data[at++] = id;
            room--;
        }
    }
    MUST(at == p->n);
}

static salf_planner *make(const plan *p, salf_context *context) {
    salf_planner *planner;
    MUST(salf_planner_create(&planner, context, p->m, p->n, &p->options) == SALF_OK);
    return planner;
}

/* The same planner after a kill: from its saved bytes. */
static salf_planner *reborn(const plan *p, salf_context *context, salf_planner *old) {
    uint64_t size = 0;
    MUST(salf_planner_save(old, NULL, &size) == SALF_OK);
    uint8_t *bytes = malloc(size);
    MUST(bytes && salf_planner_save(old, bytes, &size) == SALF_OK);
    salf_planner_destroy(old);
    salf_planner *planner = make(p, context);
    MUST(salf_planner_load(planner, bytes, size) == SALF_OK);
    free(bytes);
    return planner;
}

/* Layers' data so far, against what they are to have; and against their share while a MIXED stream runs. */
static void check_stream(const plan *p, const int64_t *taken, int64_t t) {
    for (int32_t e = 0; e < p->m && !p->options.one_cut; e++) { /* one cut a batch: each layer within a batch of it */
        MUST(taken[e] <= p->counts[e]);
        if (p->options.stream_order == SALF_STREAM_MIXED)
            MUST(fabs((double)taken[e] - (double)p->counts[e] * (double)t / (double)p->n) < 1.0);
    }
}

static void work_through(const plan *p, salf_context *context) {
    const bool stream = p->options.matching == SALF_MATCH_STREAM;
    int32_t *found = malloc((size_t)p->most * sizeof *found), *groups = calloc((size_t)p->most, sizeof *groups);
    uint8_t *accepted = malloc((size_t)p->most);
    double *gains = calloc((size_t)p->most * (size_t)p->m, sizeof *gains);
    int64_t taken[300] = {0}, t = 0;
    MUST(found && groups && accepted && gains);
    salf_planner *planner = make(p, context);
    if (p->options.matching == SALF_MATCH_OFFLINE) MUST(salf_planner_set_eof(planner, 0, p->n, p->eof) == SALF_OK);
    const int64_t kills = p->n / p->most / 3 + 2; /* a save costs as much as N data: some three a plan */
    for (salf_task task;;) {
        if (draw(kills) == 0) planner = reborn(p, context, planner);
        MUST(salf_planner_next(planner, p->most, &task) == SALF_OK);
        if (task.kind == SALF_TASK_DONE) break;
        if (task.kind == SALF_TASK_PROBE) {
            for (int64_t i = 0; i < task.n_data; i++) found[i] = p->eof[task.data[i]];
            if (stream) {
                const salf_trace trace = {.rows = task.n_data, .n_layers = p->m, .gains = gains, .eof = found};
                MUST(salf_planner_assign(planner, &trace, groups, &task) == SALF_OK);
            } else {
                int64_t n = 0;
                MUST(salf_planner_report(planner, found, task.n_data, accepted) == SALF_OK);
                for (int64_t i = 0; i < task.n_data; i++) n += accepted[i];
                if (draw(kills) == 0) planner = reborn(p, context, planner);
                if (n == 0) continue;
                MUST(salf_planner_next(planner, p->most, &task) == SALF_OK && task.n_data == n);
            }
        }
        MUST(task.kind == SALF_TASK_TRAIN && t + task.n_data <= p->n);
        MUST(!p->options.full_batches || task.n_data == p->most || t + task.n_data == p->n);
        for (int64_t i = 0; i < task.n_data; i++, t++) {
            MUST(task.data[i] == (stream ? (uint32_t)t : p->data[t]));
            if (stream) taken[task.eof[i]]++;
        }
        if (stream) check_stream(p, taken, t);
        MUST(salf_planner_done(planner) == SALF_OK);
    }
    MUST(t == p->n);
    for (int32_t e = 0; e < p->m && stream && !p->options.one_cut; e++) MUST(taken[e] == p->counts[e]);
    /* once all are settled, each id stands in one stage, once */
    memset(p->seen, 0, (size_t)p->n);
    for (int32_t e = 0; e < p->m; e++) {
        salf_stage stage;
        MUST(salf_planner_get_stage(planner, e, &stage) == SALF_OK && stage.count == p->counts[e]);
        for (int64_t i = 0; stage.data && i < stage.count; i++) MUST(!p->seen[stage.data[i]]++);
    }
    salf_planner_destroy(planner);
    free(found), free(groups), free(accepted), free(gains);
}

static void one_plan(salf_context *context, uint64_t seed) {
    static const int64_t limits[] = {0, SALF_PROBE_ALL, 1, 50};
    plan p = {.options = {.struct_size = sizeof p.options}};
    random_state = seed;
    for (int i = 0; i < 4; i++) draw(2);
    p.m = (int32_t)(draw(4) ? 1 + draw(40) : 1 + draw(300));
    p.n = 1 + (int64_t)(exp((double)draw(1000) / 1000 * log(1e6)));
    p.most = 1 + draw(p.n < 500 ? p.n : 500 + p.n / 50);
    p.options.growth = (int32_t)draw(4);
    p.options.infill = (int32_t)draw(2);
    p.options.matching = (int32_t)draw(4);
    p.options.seed = (uint64_t)draw(1 << 30);
    p.options.ratio = draw(3) ? 0 : 1.0 + (double)(1 + draw(100)) / 50;
    p.options.weights = p.weights;
    p.options.probe_limit = limits[draw(4)];
    if (p.options.matching == SALF_MATCH_STREAM) {
        p.options.assignment = (int32_t)draw(3);
        p.options.stream_order = (int32_t)draw(2);
        p.options.one_cut = p.options.assignment == SALF_ASSIGN_RANDOM && !draw(3);
        if (p.options.assignment == SALF_ASSIGN_GAIN && p.most > 600) p.most = 600;
    } else {
        p.options.full_batches = !draw(3);
    }
    for (int32_t e = 0; e < p.m; e++) p.weights[e] = e + 1 == p.m || draw(3) ? 1 + (double)draw(9) : 0;
    snprintf(setting, sizeof setting,
             "seed %llu: m %d, N %lld, tasks of %lld, growth %d, infill %d, matching %d, full %d",
             (unsigned long long)seed, (int)p.m, (long long)p.n, (long long)p.most, (int)p.options.growth,
             (int)p.options.infill, (int)p.options.matching, (int)p.options.full_batches);
    p.limit = p.options.matching == SALF_MATCH_NONE ? 0 : p.n;
    if (p.options.matching == SALF_MATCH_ONLINE && p.options.probe_limit >= 0)
        p.limit = p.options.probe_limit ? p.options.probe_limit : p.n / p.m / 2 + 1;
    p.eof = malloc((size_t)p.n * sizeof *p.eof);
    p.order = malloc((size_t)p.n * sizeof *p.order);
    p.data = malloc((size_t)p.n * sizeof *p.data);
    p.seen = malloc((size_t)p.n);
    MUST(p.eof && p.order && p.data && p.seen);
    const int shape = (int)draw(5);
    for (int64_t i = 0; i < p.n; i++) p.eof[i] = shaped(shape, i, p.n, p.m);
    salf_planner *planner = make(&p, context);
    MUST(salf_planner_counts(planner, p.counts) == SALF_OK);
    salf_planner_destroy(planner);
    if (p.options.matching != SALF_MATCH_STREAM) read_plainly(&p);
    work_through(&p, context);
    free(p.eof), free(p.order), free(p.data), free(p.seen);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 10;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    salf_context *context;
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_REFERENCE;
    MUST(salf_context_create(&context, &options) == SALF_OK);
    int64_t n = 0;
    for (const clock_t began = clock(); (double)(clock() - began) / CLOCKS_PER_SEC < seconds; n++)
        one_plan(context, seed++);
    salf_context_destroy(context);
    printf("ok - %lld random plans, seeds up to %llu\n", (long long)n, (unsigned long long)(seed - 1));
    return 0;
}
