/*
 * planner.c - budget planner: options, the plan's counts and saving, and the tasks a host works through.
 *
 * OFFLINE and NONE settle all data first (match.c) and hand out TRAIN tasks layer by layer. ONLINE asks with
 * PROBE tasks, in order of id, for the eof of unused data of the layer whose turn it is, until the layer is full, no
 * datum is left or probe_limit is reached; what is missing is drawn at once from the unused, as offline, and given out
 * in order of id. So both give the same data when the eof do not change. A PROBE task is not shortened to what the
 * layer still needs: data that it accepts no more stay unused.
 */
#include <math.h>
#include <string.h>

#include "plan/plan.h"

/* ---- options ---- */

static salf_status bad_option(const char *name, int64_t value, const char *need) {
    return slf_fail(SALF_E_ARGUMENT, "salf_planner_create: %s is %lld; %s", name, (long long)value, need);
}

static salf_status check_weights(const salf_planner_options *o, int32_t m) {
    if (!o->weights) return slf_fail(SALF_E_NULL, "salf_planner_create: CUSTOM growth, but weights is NULL");
    bool any = false;
    for (int32_t e = 0; e < m; e++) {
        if (!isfinite(o->weights[e]) || o->weights[e] < 0)
            return slf_fail(SALF_E_ARGUMENT, "salf_planner_create: weight %d is %g; finite and not negative", (int)e,
                            o->weights[e]);
        any = any || o->weights[e] > 0;
    }
    if (!any) return slf_fail(SALF_E_ARGUMENT, "salf_planner_create: all %d weights are 0", (int)m);
    return SALF_OK;
}

static salf_status check_options(salf_planner_options *o, int32_t m, int64_t n) {
    if (o->growth < SALF_GROWTH_UNIFORM || o->growth > SALF_GROWTH_CUSTOM)
        return bad_option("growth", o->growth, "one of SALF_GROWTH_*");
    if (o->infill < SALF_INFILL_BREADTH || o->infill > SALF_INFILL_DEPTH)
        return bad_option("infill", o->infill, "one of SALF_INFILL_*");
    if (o->matching < SALF_MATCH_ONLINE || o->matching > SALF_MATCH_NONE)
        return bad_option("matching", o->matching, "one of SALF_MATCH_*");
    if (o->ratio == 0) o->ratio = 2;
    if (!isfinite(o->ratio) || o->ratio <= 1)
        return slf_fail(SALF_E_ARGUMENT, "salf_planner_create: ratio is %g; it must be finite and above 1", o->ratio);
    if (o->probe_limit < SALF_PROBE_ALL)
        return bad_option("probe_limit", o->probe_limit, "it must not be negative, or SALF_PROBE_ALL");
    if (o->probe_limit == 0) o->probe_limit = n / m / 2 + 1;
    return o->growth == SALF_GROWTH_CUSTOM ? check_weights(o, m) : SALF_OK;
}

/* ---- life ---- */

static salf_status fill_planner(salf_planner *p, const double *weights) {
    p->counts = slf_alloc(p->context, (uint64_t)p->m, sizeof *p->counts);
    if (!p->counts) return SALF_E_NO_MEMORY;
    p->options.weights = NULL;
    if (p->options.growth == SALF_GROWTH_CUSTOM) {
        p->weights = slf_alloc(p->context, (uint64_t)p->m, sizeof *p->weights);
        if (!p->weights) return SALF_E_NO_MEMORY;
        memcpy(p->weights, weights, (size_t)p->m * sizeof *weights);
        p->options.weights = p->weights;
    }
    SLF_TRY(slf_planner_count(p->context, &p->options, p->m, p->n, p->counts));
    return slf_state_init(&p->state, p);
}

salf_status salf_planner_create(salf_planner **out, salf_context *context, int32_t n_layers, int64_t n_data,
                                const salf_planner_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    salf_planner_options own;
    SLF_TRY(slf_options_read(&own, sizeof own, options, "salf_planner_options"));
    if (n_layers < 1) return bad_option("n_layers", n_layers, "it must be at least 1");
    if (n_data < 1) return bad_option("n_data", n_data, "it must be at least 1");
    if (n_data >= INT64_MAX / 2)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner_create: n_data is %lld; less than 2^62 can be counted",
                        (long long)n_data);
    SLF_TRY(check_options(&own, n_layers, n_data));
    salf_planner *planner = slf_alloc_zero(context, 1, sizeof *planner);
    if (!planner) return SALF_E_NO_MEMORY;
    atomic_init(&planner->references, 1);
    planner->context = slf_context_retain(context);
    planner->options = own;
    planner->m = n_layers;
    planner->n = n_data;
    planner->order = slf_fill_order_of(n_data, n_layers, own.seed);
    const salf_status status = fill_planner(planner, own.weights);
    if (status != SALF_OK) {
        salf_planner_destroy(planner);
        return status;
    }
    *out = planner;
    return SALF_OK;
}

salf_planner *slf_planner_retain(salf_planner *planner) {
    atomic_fetch_add_explicit(&planner->references, 1, memory_order_relaxed);
    return planner;
}

void salf_planner_destroy(salf_planner *planner) {
    if (!planner || atomic_fetch_sub_explicit(&planner->references, 1, memory_order_acq_rel) != 1) return;
    salf_context *context = planner->context;
    slf_state_free(&planner->state, planner);
    slf_free(context, planner->weights);
    slf_free(context, planner->counts);
    slf_free(context, planner);
    slf_context_release(context);
}

/* ---- the plan ---- */

salf_status salf_planner_counts(const salf_planner *planner, int64_t *counts) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(counts);
    memcpy(counts, planner->counts, (size_t)planner->m * sizeof *counts);
    return SALF_OK;
}

salf_status salf_planner_saving(const salf_planner *planner, double *saving) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(saving);
    double sum = 0;
    for (int32_t e = 0; e < planner->m; e++)
        sum += (double)e / planner->m * ((double)planner->counts[e] / (double)planner->n);
    *saving = sum;
    return SALF_OK;
}

salf_status salf_planner_get_stage(const salf_planner *planner, int32_t layer, salf_stage *stage) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(stage);
    if (layer < 0 || layer >= planner->m)
        return slf_fail(SALF_E_ARGUMENT, "salf_planner_get_stage: layer %d of %d", (int)layer, (int)planner->m);
    const slf_planner_state *s = &planner->state;
    int64_t first = 0;
    for (int32_t e = 0; e < layer; e++) first += planner->counts[e];
    *stage = (salf_stage){.layer = layer,
                          .count = planner->counts[layer],
                          .matched = s->matched[layer],
                          .filled = s->filled[layer],
                          .probed = s->probed[layer],
                          .data = s->settled ? s->data + first : NULL};
    return SALF_OK;
}

/* ---- eof ---- */

typedef struct eof_job {
    const salf_planner *planner;
    const int32_t *eof;
    void *labels;  /* NULL: eof are checked only */
    int64_t first; /* datum of eof[0] */
    atomic_bool bad;
} eof_job;

/* Whether an eof is not in 0 ... m-1, by the signs of all eof and of m-1 minus them: a loop without exits is
 * vectorised. */
static uint32_t check_eof(const int32_t *eof, int64_t n, uint32_t most) {
    uint32_t signs = 0;
    for (int64_t i = 0; i < n; i++) signs |= (uint32_t)eof[i] | (most - (uint32_t)eof[i]);
    return signs >> 31;
}

static void write_eof(void *labels, bool byte, int64_t first, int64_t n, const int32_t *eof) {
    if (byte)
        for (int64_t i = 0; i < n; i++) slf_label_write(true, labels, first + i, (uint32_t)eof[i]);
    else
        for (int64_t i = 0; i < n; i++) slf_label_write(false, labels, first + i, (uint32_t)eof[i]);
}

/* In pieces that are in the cache still when they are written. */
static void take_eof(void *user, int64_t first, int64_t last) {
    eof_job *job = user;
    const int32_t m = job->planner->m;
    uint32_t bad = 0;
    for (int64_t i = first; i < last; i += 4096) {
        const int64_t n = last - i < 4096 ? last - i : 4096;
        bad |= check_eof(job->eof + i, n, (uint32_t)m - 1);
        if (job->labels) write_eof(job->labels, slf_label_is_byte(m), job->first + i, n, job->eof + i);
    }
    if (bad) atomic_store(&job->bad, true);
}

static salf_status take_all_eof(eof_job *job, int64_t n) {
    const salf_planner *p = job->planner;
    slf_parallel_for(p->context, n, 1 << 16, take_eof, job);
    if (!atomic_load(&job->bad)) return SALF_OK;
    int64_t i = 0;
    while (job->eof[i] >= 0 && job->eof[i] < p->m) i++;
    return slf_fail(SALF_E_ARGUMENT, "salf_planner_set_eof: eof of datum %lld is %d, not in 0 ... %d",
                    (long long)(job->first + i), (int)job->eof[i], (int)p->m - 1);
}

/* Nothing is written where one is bad: eof set before are kept by a walk that checks only, the first ones by memory of
 * their own. */
static salf_status set_eof(salf_planner *p, int64_t first, int64_t n, const int32_t *eof) {
    eof_job job = {.planner = p, .eof = eof, .first = first};
    if (p->state.labels) {
        SLF_TRY(take_all_eof(&job, n));
        job.labels = p->state.labels;
        return take_all_eof(&job, n);
    }
    SLF_TRY(slf_planner_new_labels(p, n < p->n, &job.labels));
    const salf_status status = take_all_eof(&job, n);
    if (status == SALF_OK)
        p->state.labels = job.labels;
    else
        slf_free(p->context, job.labels);
    return status;
}

salf_status salf_planner_set_eof(salf_planner *planner, int64_t first, int64_t n, const int32_t *eof) {
    SLF_REQUIRE(planner);
    if (planner->options.matching != SALF_MATCH_OFFLINE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_set_eof: matching is %d, not OFFLINE",
                        (int)planner->options.matching);
    if (planner->state.settled)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_set_eof: datum %lld comes after the plan was matched",
                        (long long)first);
    if (first < 0 || n < 0 || first > planner->n || n > planner->n - first)
        return slf_fail(SALF_E_ARGUMENT, "salf_planner_set_eof: data %lld and the next %lld, of %lld", (long long)first,
                        (long long)n, (long long)planner->n);
    if (n > 0) SLF_REQUIRE(eof);
    return set_eof(planner, first, n, eof);
}

salf_status salf_planner_match(salf_planner *planner) {
    SLF_REQUIRE(planner);
    if (planner->options.matching == SALF_MATCH_ONLINE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_match: matching is ONLINE (%d); it happens task by task",
                        (int)planner->options.matching);
    return planner->state.settled ? SALF_OK : slf_planner_settle(planner);
}

/* ---- tasks ---- */

static const uint32_t *task_data(const salf_planner *p) {
    const slf_planner_state *s = &p->state;
    if (p->options.matching == SALF_MATCH_ONLINE) return s->task_ids;
    int64_t first = s->position;
    for (int32_t e = 0; e < s->layer; e++) first += p->counts[e];
    return s->data + first;
}

void slf_planner_task(const salf_planner *planner, salf_task *task) {
    const slf_planner_state *s = &planner->state;
    *task = (salf_task){.kind = SALF_TASK_DONE, .layer = s->layer};
    if (s->task_state == SLF_TASK_NONE) return;
    *task = (salf_task){.kind = s->task_kind, .layer = s->layer, .n_data = s->task_n, .data = task_data(planner)};
}

int32_t slf_planner_layers(const salf_planner *planner) {
    return planner->m;
}

static void give(slf_planner_state *s, int32_t kind, int64_t n) {
    s->task_state = SLF_TASK_GIVEN;
    s->task_kind = kind;
    s->task_n = n;
}

static salf_status next_settled(salf_planner *p, int64_t max_data) {
    slf_planner_state *s = &p->state;
    while (s->layer < p->m && s->position == p->counts[s->layer]) {
        s->layer++;
        s->position = 0;
    }
    if (s->layer == p->m) return SALF_OK;
    const int64_t left = p->counts[s->layer] - s->position;
    give(s, SALF_TASK_TRAIN, left < max_data ? left : max_data);
    return SALF_OK;
}

/* Ids of up to most set (or clear) bits from *from on, of n; *from moves behind the last one read. */
static int64_t pick_ids(const uint64_t *bits, bool set, int64_t n, int64_t most, int64_t *from, uint32_t *ids) {
    int64_t found = 0, i = *from;
    while (i < n && found < most) {
        const uint64_t word = (set ? bits[i >> 6] : ~bits[i >> 6]) >> (i & 63);
        i = word ? i + slf_lowest_bit(word) : (i | 63) + 1;
        if (word && i < n) ids[found++] = (uint32_t)i++;
    }
    *from = i < n ? i : n;
    return found;
}

/* Draws all that the layer lacks. */
static salf_status draw_fill(salf_planner *p) {
    slf_planner_state *s = &p->state;
    const int64_t missing = p->counts[s->layer] - s->matched[s->layer] - s->filled[s->layer];
    if (missing == 0) return SALF_OK;
    SLF_TRY(slf_state_draws(s, p));
    s->filled[s->layer] += missing;
    slf_fill_online(&s->front, &p->order, s->unused, s->used, s->pending, missing);
    return SALF_OK;
}

static int64_t count_bits(const uint64_t *bits, int64_t n) {
    int64_t count = 0;
    for (int64_t w = 0; w < slf_bit_words(n); w++)
        for (uint64_t word = bits[w]; word; word &= word - 1) count++;
    return count;
}

/* A PROBE task for the layer, if it is to have one more. */
static salf_status next_probe(salf_planner *p, int64_t max_data) {
    slf_planner_state *s = &p->state;
    const int64_t limit = p->options.probe_limit, left = p->n - s->scan;
    int64_t most = left < max_data ? left : max_data;
    if (limit != SALF_PROBE_ALL && limit - s->probed[s->layer] < most) most = limit - s->probed[s->layer];
    if (most <= 0) return SALF_OK;
    SLF_TRY(slf_state_room(s, p, most));
    const int64_t n = pick_ids(s->used, false, p->n, most, &s->scan, s->task_ids);
    if (n > 0) give(s, SALF_TASK_PROBE, n);
    return SALF_OK;
}

/* A TRAIN task of data drawn to fill, if some are left. */
static salf_status next_fill(salf_planner *p, int64_t max_data) {
    slf_planner_state *s = &p->state;
    const int64_t left = count_bits(s->pending, p->n), most = left < max_data ? left : max_data;
    if (most == 0) return SALF_OK;
    SLF_TRY(slf_state_room(s, p, most));
    int64_t from = 0;
    const int64_t n = pick_ids(s->pending, true, p->n, most, &from, s->task_ids);
    for (int64_t i = 0; i < n; i++) slf_bit_clear(s->pending, s->task_ids[i]);
    give(s, SALF_TASK_TRAIN, n);
    return SALF_OK;
}

static salf_status next_online(salf_planner *p, int64_t max_data) {
    slf_planner_state *s = &p->state;
    SLF_TRY(slf_state_online(s, p));
    while (s->layer < p->m) {
        if (s->matched[s->layer] + s->filled[s->layer] < p->counts[s->layer]) {
            SLF_TRY(next_probe(p, max_data));
            if (s->task_state != SLF_TASK_NONE) return SALF_OK;
            SLF_TRY(draw_fill(p));
        }
        if (s->filled[s->layer] > 0) SLF_TRY(next_fill(p, max_data));
        if (s->task_state != SLF_TASK_NONE) return SALF_OK;
        s->layer++;
        s->scan = 0;
    }
    return SALF_OK;
}

/* The data that a report accepted, when their training was not confirmed, become a task of their own. */
static void reissue(slf_planner_state *s) {
    if (s->task_state != SLF_TASK_REPORTED) return;
    if (s->task_n > 0)
        give(s, SALF_TASK_TRAIN, s->task_n);
    else
        s->task_state = SLF_TASK_NONE;
}

salf_status salf_planner_next(salf_planner *planner, int64_t max_data, salf_task *task) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(task);
    if (max_data < 1)
        return slf_fail(SALF_E_ARGUMENT, "salf_planner_next: max_data is %lld; it must be at least 1",
                        (long long)max_data);
    const bool online = planner->options.matching == SALF_MATCH_ONLINE;
    if (!online) SLF_TRY(salf_planner_match(planner));
    reissue(&planner->state);
    if (planner->state.task_state == SLF_TASK_NONE)
        SLF_TRY(online ? next_online(planner, max_data) : next_settled(planner, max_data));
    slf_planner_task(planner, task);
    return SALF_OK;
}

salf_status salf_planner_report(salf_planner *planner, const int32_t *eof, int64_t n, uint8_t *accepted) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(eof);
    SLF_REQUIRE(accepted);
    slf_planner_state *s = &planner->state;
    if (s->task_state != SLF_TASK_GIVEN || s->task_kind != SALF_TASK_PROBE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_report: no PROBE task is open at layer %d", (int)s->layer);
    if (n != s->task_n)
        return slf_fail(SALF_E_SHAPE, "salf_planner_report: %lld eof for a task of %lld data", (long long)n,
                        (long long)s->task_n);
    for (int64_t i = 0; i < n; i++)
        if (eof[i] < 0 || eof[i] >= planner->m)
            return slf_fail(SALF_E_ARGUMENT, "salf_planner_report: eof of datum %u is %d, not in 0 ... %d",
                            (unsigned)s->task_ids[i], (int)eof[i], (int)planner->m - 1);
    int64_t taken = 0;
    for (int64_t i = 0; i < n; i++) {
        accepted[i] = eof[i] <= s->layer && s->matched[s->layer] < planner->counts[s->layer];
        if (!accepted[i]) continue;
        slf_bit_set(s->used, s->task_ids[i]);
        s->matched[s->layer]++;
        s->task_ids[taken++] = s->task_ids[i];
    }
    s->probed[s->layer] += n;
    s->task_state = SLF_TASK_REPORTED;
    s->task_n = taken;
    return SALF_OK;
}

salf_status salf_planner_done(salf_planner *planner) {
    SLF_REQUIRE(planner);
    slf_planner_state *s = &planner->state;
    if (s->task_state == SLF_TASK_NONE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_done: no task is open (layer %d of %d)", (int)s->layer,
                        (int)planner->m);
    if (s->task_state == SLF_TASK_GIVEN && s->task_kind == SALF_TASK_PROBE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_done: the PROBE task of %lld data at layer %d has no report",
                        (long long)s->task_n, (int)s->layer);
    if (planner->options.matching != SALF_MATCH_ONLINE) s->position += s->task_n;
    s->task_state = SLF_TASK_NONE;
    s->task_n = 0;
    return SALF_OK;
}
