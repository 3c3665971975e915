/* feed.c - order of the training data.
 *
 * Every epoch is a Fisher-Yates shuffle driven by a counter-based generator (seed, epoch, index), so that the order is
 * the same on every machine and needs no saved state. Budgets index the concatenated epochs: id i is order[i]. */
#include "feed.h"

#include <stdlib.h>
#include <string.h>

#include "published.h"
#include "rng.h"

/* Uniform in 0 ... bound-1 by rejection of the incomplete last interval. */
static uint64_t random_below(uint64_t key, uint64_t index, uint64_t bound) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t bits = rng_mix(key + index * RNG_STRIDE);
    while (bits >= limit) bits = rng_hash(bits);
    return bits % bound;
}

/* Fisher and Yates: position i gets one of the i + 1 that are left. */
static void shuffle_epoch(uint32_t *order, int64_t n, uint64_t seed, int64_t epoch) {
    const uint64_t key = rng_mix(rng_hash(seed) + (uint64_t)epoch);
    for (int64_t i = 0; i < n; i++) order[i] = (uint32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        const uint64_t j = random_below(key, (uint64_t)i, (uint64_t)i + 1);
        const uint32_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

/* The planner of a budget, over the ids 0 ... total - 1 of the concatenated epochs. */
static salf_status make_planner(feed *f, salf_context *context, const method *m) {
    const feed_options *own = &f->options;
    salf_planner_options o;
    salf_options_init(&o, sizeof o);
    o.growth = m->how.growth;
    o.infill = m->how.infill;
    const int named = m->how.matching == SALF_MATCH_STREAM; /* else a paper's budget, which the options may stream */
    o.matching = named || !m->how.probes ? m->how.matching : own->matching;
    if (o.matching == SALF_MATCH_STREAM) {
        o.assignment = named ? m->how.assignment : SALF_ASSIGN_EOF;
        o.stream_order = named ? m->how.stream_order : SALF_STREAM_STAGED;
        if (m->how.probes && own->assignment >= 0) o.assignment = own->assignment;
        if (own->stream_order >= 0) o.stream_order = own->stream_order;
        o.max_groups = own->n_groups;
        f->grouped = o.assignment != SALF_ASSIGN_RANDOM;
        f->mixed = o.stream_order == SALF_STREAM_MIXED;
    }
    f->matching = o.matching;
    o.seed = own->seed;
    const double limit = own->probe_limit * (double)f->total / own->n_layers;
    if (own->probe_limit == 0 || limit >= (double)f->total) o.probe_limit = SALF_PROBE_ALL;
    if (own->probe_limit > 0 && limit < (double)f->total) o.probe_limit = (int64_t)limit + 1;
    double *weights = malloc((size_t)own->n_layers * sizeof *weights);
    if (!weights) return SALF_E_NO_MEMORY;
    salf_status status = SALF_OK;
    if (own->as_published) status = published_plan(context, own->n_layers, f->total, &o, weights);
    if (!status) status = salf_planner_create(&f->planner, context, own->n_layers, f->total, &o);
    free(weights);
    return status;
}

salf_status feed_create(feed *out, salf_context *context, const method *m, const feed_options *options) {
    *out = (feed){.options = *options, .total = options->n_data * options->epochs};
    out->order = malloc((size_t)out->total * sizeof *out->order);
    out->rows = malloc((size_t)options->batch * sizeof *out->rows);
    salf_status status = out->order && out->rows ? SALF_OK : SALF_E_NO_MEMORY;
    for (int64_t e = 0; e < options->epochs && !status; e++)
        shuffle_epoch(out->order + e * options->n_data, options->n_data, options->seed, e);
    if (!status && m->how.policy == SALF_POLICY_BUDGET) status = make_planner(out, context, m);
    salf_policy_options o;
    salf_options_init(&o, sizeof o);
    o.first_layer = options->first_layer;
    o.reduction = options->reduction;
    o.total_steps = (out->total + options->batch - 1) / options->batch;
    o.seed = options->seed;
    o.planner = out->planner;
    o.rates =
        SALF_RATES_WHOLE; /* an update may hold rows of several decisions, so that rates follow its rows: book_batch */
    if (!status) status = salf_policy_create(&out->policy, context, m->how.policy, options->n_layers, &o);
    if (status) feed_destroy(out);
    return status;
}

void feed_destroy(feed *f) {
    salf_policy_destroy(f->policy);
    salf_planner_destroy(f->planner);
    free(f->order);
    free(f->rows);
    *f = (feed){0};
}

/* A task of the planner, its ids turned into rows of the training set; or the next batch of the shuffle. */
salf_status feed_next(feed *f, int64_t most, feed_task *task) {
    salf_task planned = {.kind = SALF_TASK_TRAIN, .layer = -1};
    if (f->planner) {
        salf_status status = salf_planner_next(f->planner, most, &planned);
        if (status != SALF_OK) return status;
        for (int64_t i = 0; i < planned.n_data; i++) f->rows[i] = f->order[planned.data[i]];
    } else {
        int64_t left = f->total - f->position;
        planned.n_data = left < most ? left : most;
        if (left == 0) planned.kind = SALF_TASK_DONE;
        if (left > 0) memcpy(f->rows, f->order + f->position, (size_t)planned.n_data * sizeof *f->rows);
        f->pending = planned.n_data;
    }
    *task = (feed_task){.kind = planned.kind, .layer = planned.layer, .eof = planned.eof, .n = planned.n_data};
    task->data = f->rows;
    return SALF_OK;
}

salf_status feed_done(feed *f) {
    if (f->planner) return salf_planner_done(f->planner);
    f->position += f->pending;
    f->pending = 0;
    return SALF_OK;
}
