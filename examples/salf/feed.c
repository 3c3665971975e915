/* feed.c - order of the training data.
 *
 * Every epoch is a Fisher-Yates shuffle driven by a counter-based generator (seed, epoch, index), so that the order is
 * the same on every machine and needs no saved state. Budgets index the concatenated epochs: id i is order[i]. */
#include "feed.h"

#include <stdlib.h>
#include <string.h>

/* The finaliser of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): a
 * bijection that mixes all bits. */
static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in 0 ... bound-1 by rejection of the incomplete last interval. */
static uint64_t below(uint64_t key, uint64_t index, uint64_t bound) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t bits = mix(key + index * 0x9e3779b97f4a7c15u);
    while (bits >= limit) bits = mix(bits + 0x9e3779b97f4a7c15u);
    return bits % bound;
}

static void shuffle(uint32_t *order, int64_t n, uint64_t seed, int64_t epoch) {
    uint64_t key = mix(mix(seed + 0x9e3779b97f4a7c15u) + (uint64_t)epoch);
    for (int64_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint64_t j = below(key, (uint64_t)i, (uint64_t)i + 1);
        uint32_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

static salf_status make_planner(feed *f, salf_context *context, const method *m) {
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.growth = m->growth;
    o.infill = m->infill;
    o.matching = m->probes ? f->options.matching : SALF_MATCH_NONE;
    o.seed = f->options.seed;
    double limit = f->options.probe_limit * (double)f->total / f->options.n_layers;
    if (o.matching == SALF_MATCH_ONLINE && limit > 0 && limit < (double)f->total) o.probe_limit = (int64_t)limit + 1;
    return salf_planner_create(&f->planner, context, f->options.n_layers, f->total, &o);
}

static salf_status make_policy(feed *f, salf_context *context, const method *m) {
    salf_policy_options o;
    salf_options_init(&o, sizeof o);
    o.reduction = f->options.reduction;
    o.total_steps = (f->total + f->options.batch - 1) / f->options.batch;
    o.interval = m->policy == SALF_POLICY_LIFT || m->policy == SALF_POLICY_LIFT_STAR
                     ? (o.total_steps + f->options.n_layers - 1) / f->options.n_layers
                     : 0; /* rounded up: with the remainder of steps / m the turns would start again at layer 0 */
    o.seed = f->options.seed;
    o.planner = f->planner;
    return salf_policy_create(&f->policy, context, m->policy, f->options.n_layers, &o);
}

salf_status feed_create(feed *out, salf_context *context, const method *m, const feed_options *options) {
    *out = (feed){.options = *options, .total = options->n_data * options->epochs};
    out->order = malloc((size_t)out->total * sizeof *out->order);
    out->rows = malloc((size_t)options->batch * sizeof *out->rows);
    salf_status status = out->order && out->rows ? SALF_OK : SALF_E_NO_MEMORY;
    if (status == SALF_OK) {
        for (int64_t e = 0; e < options->epochs; e++)
            shuffle(out->order + e * options->n_data, options->n_data, options->seed, e);
        if (m->policy == SALF_POLICY_BUDGET) status = make_planner(out, context, m);
    }
    if (status == SALF_OK) status = make_policy(out, context, m);
    if (status != SALF_OK) feed_destroy(out);
    return status;
}

void feed_destroy(feed *f) {
    salf_policy_destroy(f->policy);
    salf_planner_destroy(f->planner);
    free(f->order);
    free(f->rows);
    *f = (feed){0};
}

salf_status feed_next(feed *f, feed_task *task) {
    salf_task planned = {.kind = SALF_TASK_TRAIN, .layer = -1};
    if (f->planner) {
        salf_status status = salf_planner_next(f->planner, f->options.batch, &planned);
        if (status != SALF_OK) return status;
        for (int64_t i = 0; i < planned.n_data; i++) f->rows[i] = f->order[planned.data[i]];
    } else {
        int64_t left = f->total - f->position;
        planned.n_data = left < f->options.batch ? left : f->options.batch;
        if (left == 0) planned.kind = SALF_TASK_DONE;
        if (left > 0) memcpy(f->rows, f->order + f->position, (size_t)planned.n_data * sizeof *f->rows);
        f->pending = planned.n_data;
    }
    *task = (feed_task){.kind = planned.kind, .layer = planned.layer, .n = planned.n_data, .data = f->rows};
    return SALF_OK;
}

salf_status feed_done(feed *f) {
    if (f->planner) return salf_planner_done(f->planner);
    f->position += f->pending;
    f->pending = 0;
    return SALF_OK;
}
