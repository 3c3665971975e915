/*
 * planner.c - budget planner: options, the plan's counts and saving, and the tasks a host works through.
 *
 * OFFLINE and NONE settle all data first (match.c) and hand them out as TRAIN tasks, layer by layer. ONLINE asks with
 * PROBE tasks, in order of id, for the eof of unused data of the layer whose turn it is, until the layer is full, no
 * datum is left or probe_limit is reached; what is missing is drawn from the unused as offline, and given out in TRAIN
 * tasks. A PROBE task is not shortened to what the layer still needs: data that it accepts no more stay unused.
 * STREAM is stream.c.
 *
 * Nothing depends on how many data a task holds. So a run gives the same data however its batches are cut, and after a
 * kill between any two calls, when the planner is loaded as it was saved.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "plan/plan.h"

/* ---- life ---- */

/* Options first, all of them, then memory. What is derived from the sizes stands in the options from here on, so that a
 * save holds what is in force. */
salf_status salf_planner_create(salf_planner **out, salf_context *context, int32_t n_layers, int64_t n_data,
                                const salf_planner_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(context);
    SLF_OPTIONS(salf_planner_options, own, options);
    SLF_TRY(SLF_CHECK_RANGES({"n_layers", n_layers, 1, INT32_MAX}, {"n_data", (double)n_data, 1, INFINITY},
                             SLF_RANGE(&own, probe_limit, SALF_PROBE_ALL, INFINITY),
                             SLF_RANGE(&own, full_batches, 0, 1), SLF_RANGE(&own, one_cut, 0, 1),
                             SLF_RANGE(&own, max_groups, 0, INT32_MAX - 1), SLF_RANGE(&own, reserved, 0, 0)));
    if (n_data >= INT64_MAX / 2) /* the bound of 2^62 leaves room to add two counts */
        return SLF_FAIL(SALF_E_OVERFLOW, "n_data is %" PRId64 "; less than 2^62 can be counted", n_data);
    SLF_TRY(slf_check_word("growth", "SALF_GROWTH", own.growth));
    SLF_TRY(slf_check_word("infill", "SALF_INFILL", own.infill));
    SLF_TRY(slf_check_word("matching", "SALF_MATCH", own.matching));
    if (own.ratio == 0) own.ratio = 2;
    if (!isfinite(own.ratio) || own.ratio <= 1)
        return slf_fail(SALF_E_ARGUMENT, "ratio is %g; it must be finite and above 1", own.ratio);
    /* N div (2m) + 1, half a mean share: a probe that no layer takes is a forward for nothing, and a uniform plan then
     * loses at most one for every two data that it trains. */
    if (own.probe_limit == 0) own.probe_limit = n_data / n_layers / 2 + 1;
    SLF_TRY(slf_stream_check_options(&own));
    if (own.max_groups == 0) own.max_groups = 1024;
    const bool custom = own.growth == SALF_GROWTH_CUSTOM;
    if (custom && !own.weights) return slf_fail(SALF_E_NULL, "CUSTOM growth, but weights is NULL");
    if (custom) {
        double most = 0;
        for (int32_t e = 0; e < n_layers; e++) {
            const double weight = own.weights[e];
            if (!isfinite(weight) || weight < 0)
                return slf_fail(SALF_E_ARGUMENT, "weight %" PRId32 " is %g; finite and not negative", e, weight);
            most = fmax(most, weight);
        }
        if (most <= 0) return slf_fail(SALF_E_ARGUMENT, "all %" PRId32 " weights are 0", n_layers);
    }
    salf_planner *p;
    SLF_TRY(SLF_ALLOC_ZERO(context, p, 1));
    atomic_init(&p->references, 1);
    p->context = SLF_RETAIN(context);
    p->options = own;
    p->options.weights = NULL;
    p->m = n_layers;
    p->n = n_data;
    salf_status status; /* from here on p is whole enough to be destroyed */
    SLF_DO(SLF_ALLOC(context, p->counts, (custom ? 2 : 1) * (int64_t)n_layers)); /* and weights */
    if (custom) p->options.weights = memcpy(p->counts + n_layers, own.weights, (size_t)n_layers * sizeof *own.weights);
    SLF_DO(slf_plan_counts(context, &p->options, n_layers, n_data, p->counts));
    SLF_DO(slf_progress_init(&p->progress, p));
    *out = p;
    return SALF_OK;
done:
    salf_planner_destroy(p);
    return status;
}

/* A policy that follows the plan keeps it alive beyond the owner's destroy; either may go first, in any thread. */
void salf_planner_destroy(salf_planner *planner) {
    if (!planner || !SLF_RELEASED(planner)) return;
    salf_context *context = planner->context;
    slf_progress_free(&planner->progress, planner);
    SLF_FREE(context, planner->counts, planner);
    salf_context_destroy(context);
}

/* ---- the plan ---- */

/* counts [m]: c_0 ... c_{m-1}, whose sum is N. */
salf_status salf_planner_counts(const salf_planner *planner, int64_t *counts) {
    SLF_REQUIRE(planner, counts);
    memcpy(counts, planner->counts, (size_t)planner->m * sizeof *counts);
    return SALF_OK;
}

/* A datum of layer e leaves out e of m layers. In floating point, as e c_e summed in integers overflows from 2^62 data
 * on. */
salf_status salf_planner_saving(const salf_planner *planner, double *saving) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(planner, saving);
    double sum = 0;
    for (int32_t e = 0; e < planner->m; e++)
        sum += (double)e / planner->m * ((double)planner->counts[e] / (double)planner->n);
    *saving = sum;
    return SALF_OK;
}

/* data is NULL while a plan is not settled, and for those that settle nothing beforehand (ONLINE, STREAM). */
salf_status salf_planner_get_stage(const salf_planner *planner, int32_t layer, salf_stage *stage) {
    SLF_REQUIRE(planner, stage);
    if (layer < 0 || layer >= planner->m)
        return SLF_FAIL(SALF_E_ARGUMENT, "layer %" PRId32 " of %" PRId32, layer, planner->m);
    const slf_progress *s = &planner->progress;
    const uint32_t *data = slf_plan_settles(planner) ? s->offline.data : NULL;
    *stage = (salf_stage){.layer = layer,
                          .count = planner->counts[layer],
                          .matched = s->matched[layer],
                          .filled = s->filled[layer],
                          .probed = s->probed[layer],
                          .data = data ? data + slf_plan_data_below(planner, layer) : NULL};
    return SALF_OK;
}

/* ---- matching beforehand ---- */

/* eof [n], of the data ids or, where that is NULL, first and those behind it. */
static salf_status check_eof(const salf_planner *p, const int32_t *eof, int64_t n, int64_t first, const uint32_t *ids) {
    for (int64_t i = 0; i < n; i++)
        if (eof[i] < 0 || eof[i] >= p->m)
            return slf_fail(SALF_E_ARGUMENT, "eof of datum %" PRId64 " is %" PRId32 ", not in 0 ... %" PRId32,
                            ids ? ids[i] : first + i, eof[i], p->m - 1);
    return SALF_OK;
}

/* All eof are checked before the first is kept, so that a call that fails changes nothing. */
salf_status salf_planner_set_eof(salf_planner *planner, int64_t first, int64_t n, const int32_t *eof) {
    SLF_REQUIRE(planner);
    if (planner->options.matching != SALF_MATCH_OFFLINE)
        return SLF_FAIL(SALF_E_SEQUENCE, "matching is %s, not offline",
                        salf_constant_word("SALF_MATCH", planner->options.matching));
    slf_offline *s = &planner->progress.offline; /* the half that OFFLINE uses */
    if (s->data) return SLF_FAIL(SALF_E_SEQUENCE, "datum %" PRId64 " comes after the plan was matched", first);
    if (first < 0 || n < 0 || first > planner->n || n > planner->n - first)
        return SLF_FAIL(SALF_E_ARGUMENT, "data %" PRId64 " and the next %" PRId64 ", of %" PRId64, first, n,
                        planner->n);
    if (n > 0) SLF_REQUIRE(eof);
    SLF_TRY(slf_plan_check_size(planner));
    SLF_TRY(check_eof(planner, eof, n, first, NULL));
    if (!s->eof) { /* memory for all at the first piece, so that later ones cannot fail for want of it */
        SLF_TRY(SLF_ALLOC(planner->context, s->eof, planner->n));
        for (int64_t i = 0; i < planner->n; i++) s->eof[i] = SLF_EOF_UNKNOWN;
    }
    for (int64_t i = 0; i < n; i++) s->eof[first + i] = (uint16_t)eof[i];
    return SALF_OK;
}

/* A second call finds the data settled and does nothing. One that failed for want of memory can be made again. */
salf_status salf_planner_match(salf_planner *planner) {
    SLF_REQUIRE(planner);
    if (!slf_plan_settles(planner))
        return SLF_FAIL(SALF_E_SEQUENCE, "matching is %s; it happens task by task",
                        salf_constant_word("SALF_MATCH", planner->options.matching));
    return planner->progress.offline.data ? SALF_OK : slf_plan_settle(planner, &planner->progress);
}

/* ---- tasks ---- */

/* Gives the next task, or none when every layer is full. What a layer does follows from its counts alone: candidates
 * first, then fills, then the next layer. So no step of it needs to be remembered, and a kill finds the same place.
 *
 * What is booked is held until it trains: without full_batches what one task books is the next one, and with it data
 * are held, and layers go on, until they make a whole batch. */
static salf_status next_online(salf_planner *p, int64_t most) {
    slf_progress *s = &p->progress;
    slf_online *o = &s->online;
    if (!o->used) {
        SLF_TRY(slf_plan_check_size(p));
        SLF_TRY(SLF_ALLOC_ZERO(p->context, o->used, slf_bit_words(p->n)));
    }
    while (s->layer < p->m && o->held < (p->options.full_batches ? most : 1)) {
        const int64_t missing = p->counts[s->layer] - s->matched[s->layer] - s->filled[s->layer];
        if (missing == 0) {
            s->layer++;
            o->scan = 0;
            continue;
        }
        /* 1. more candidates, while there are some and the limit allows it: unused ids above those offered before */
        /* The limit counts data probed for this layer, accepted or not: it bounds the forward passes that the host
         * makes in vain. */
        const int64_t limit = p->options.probe_limit == SALF_PROBE_ALL ? p->n : p->options.probe_limit;
        const int64_t allowed = limit - s->probed[s->layer], ahead = p->n - o->scan;
        const int64_t wanted = SLF_MIN(SLF_MIN(allowed, ahead), most);
        if (wanted > 0) {
            SLF_TRY(slf_progress_room(s, p, o->held + wanted));
            s->task_n = slf_bits_absent(o->used, p->n, wanted, &o->scan, s->ids + o->held);
            if (s->task_n > 0) {
                s->phase = SLF_PHASE_PROBE;
                return SALF_OK;
            }
        }
        /* 2. then as many of the random order as are missing. They count as filled at once, and a save keeps them */
        const int64_t n = SLF_MIN(missing, most - o->held);
        SLF_TRY(slf_progress_room(s, p, o->held + n));
        SLF_TRY(slf_draws_prepare(&o->draws, p));
        slf_draws_unused(&o->draws, p, o->used, n, s->ids + o->held);
        for (int64_t i = 0; i < n; i++) s->cuts[o->held++] = s->layer;
        s->filled[s->layer] += n;
    }
    if (o->held == 0) return SALF_OK;
    s->phase = SLF_PHASE_TRAIN;
    s->task_n = SLF_MIN(o->held, most);
    return SALF_OK;
}

/* max_data bounds a new task only; one that is open is given again as it was, so that both sides agree on its data. All
 * ranks ask for as many, and know by that what the task of all of them is; a rank may be without a datum at its end. */
salf_status salf_planner_next(salf_planner *planner, int64_t max_data, salf_task *task) {
    SLF_REQUIRE(planner, task);
    if (max_data < 1) return SLF_FAIL(SALF_E_ARGUMENT, "max_data is %" PRId64 "; it must be at least 1", max_data);
    if (slf_plan_settles(planner)) SLF_TRY(salf_planner_match(planner));
    slf_progress *s = &planner->progress;
    slf_offline *o = &s->offline;
    const int64_t ranks = planner->context->options.ranks;
    const int64_t most = max_data > planner->n / ranks ? planner->n : max_data * ranks;
    /* The data that a report accepted become a task of their own while nothing confirms their training. */
    if (s->phase == SLF_PHASE_REPORTED) s->phase = s->task_n > 0 ? SLF_PHASE_TRAIN : SLF_PHASE_IDLE;
    if (s->phase == SLF_PHASE_IDLE && slf_plan_is_online(planner)) SLF_TRY(next_online(planner, most));
    if (s->phase == SLF_PHASE_IDLE && slf_plan_is_stream(planner)) SLF_TRY(slf_stream_next(planner, most));
    if (s->phase == SLF_PHASE_IDLE && slf_plan_settles(planner)) {
        int64_t end = slf_plan_data_below(planner, s->layer); /* of the layer's data */
        for (; s->layer < planner->m; s->layer++) {
            end += planner->counts[s->layer];
            if (end > o->position) break;
        }
        if (planner->options.full_batches) end = planner->n; /* a task goes on over it */
        if (s->layer < planner->m) SLF_TRY(slf_progress_settled(s, planner, SLF_MIN(end - o->position, most)));
    }
    slf_progress_share(s, planner);
    s->asked = max_data;
    slf_planner_task(planner, task);
    return SALF_OK;
}

/* What can be wrong on this rank alone, memory included: known before the ranks meet. found [task_n]: the eof of this
 * rank's data at their places, 0 at the others'. */
static salf_status prepare_report(const salf_planner *p, const int32_t *eof, int64_t n, const uint8_t *accepted,
                                  int64_t **found) {
    const slf_progress *s = &p->progress;
    if (slf_plan_is_stream(p))
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_report: matching is stream; answer with salf_planner_assign");
    if (s->phase != SLF_PHASE_PROBE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_report: no PROBE task is open at layer %" PRId32, s->layer);
    if (n != s->own) return slf_fail(SALF_E_SHAPE, "%" PRId64 " eof for a task of %" PRId64 " data", n, s->own);
    if (n > 0) SLF_TRY(slf_require("salf_planner_report", "eof, accepted", (const void *const[]){eof, accepted}, 2));
    SLF_TRY(check_eof(p, eof, n, 0, s->ids + s->online.held + s->first));
    SLF_TRY(SLF_ALLOC_ZERO(p->context, *found, s->task_n));
    for (int64_t i = 0; i < n; i++) (*found)[s->first + i] = eof[i];
    return SALF_OK;
}

/* Candidates come in order of id, so the layer takes the first that fit, as Algorithm 4 does. The others stay unused;
 * deeper layers, or a fill, may take them. With full_batches those that are taken are held, and none trains now. */
salf_status salf_planner_report(salf_planner *planner, const int32_t *eof, int64_t n, uint8_t *accepted) {
    SLF_REQUIRE(planner);
    slf_progress *s = &planner->progress;
    slf_online *o = &s->online;
    const bool now = !planner->options.full_batches;
    slf_agreement agreement = {.meeting = SLF_MEET_salf_planner_report};
    int64_t *found = NULL;
    salf_status status = prepare_report(planner, eof, n, accepted, &found);
    if (slf_has_ranks(planner->context)) slf_plan_agree(planner, &agreement);
    SLF_DO(slf_agree(planner->context, status, &agreement));
    SLF_DO(slf_all_reduce(planner->context, found, s->task_n, SALF_I64, SALF_ALL_REDUCE_SUM));
    /* 1. of all ranks alike: booked, and moved together behind those that are held. A place in the task is never behind
     * the one it moves to, so that this is done in place */
    const int64_t room = planner->counts[s->layer] - s->filled[s->layer]; /* filled: 0, whatever a blob says of it */
    const int64_t begin = s->first, end = s->first + s->own, held = o->held;
    int64_t own = 0, before = 0; /* accepted, of this rank and of those before it */
    for (int64_t i = 0; i < s->task_n; i++) {
        const bool takes = found[i] <= s->layer && s->matched[s->layer] < room;
        if (i >= begin && i < end) accepted[i - begin] = takes && now;
        if (!takes) continue;
        const uint32_t id = s->ids[held + i];
        slf_bit_flip(o->used, id);
        s->matched[s->layer]++;
        s->cuts[o->held] = s->layer;
        s->ids[o->held++] = id;
        before += i < begin;
        own += i >= begin && i < end;
    }
    /* Data that were not accepted count too: their forward passes were spent. */
    s->probed[s->layer] += s->task_n;
    /* 2. each rank trains what was accepted of its own data, whose forward it has run */
    s->phase = SLF_PHASE_REPORTED;
    s->task_n = now ? o->held : 0;
    s->first = now ? before : 0;
    s->own = now ? own : 0;
done:
    slf_free(planner->context, found);
    return status;
}

/* What was trained is known from here on; until then the same task is given again. */
salf_status salf_planner_done(salf_planner *planner) {
    SLF_REQUIRE(planner);
    slf_progress *s = &planner->progress;
    if (s->phase == SLF_PHASE_IDLE)
        return SLF_FAIL(SALF_E_SEQUENCE, "no task is open (layer %" PRId32 " of %" PRId32 ")", s->layer, planner->m);
    if (s->phase == SLF_PHASE_PROBE)
        return SLF_FAIL(SALF_E_SEQUENCE, "the PROBE task of %" PRId64 " data at layer %" PRId32 " has no report",
                        s->task_n, s->layer);
    if (slf_plan_is_stream(planner)) s->stream.position += s->task_n;
    if (slf_plan_settles(planner)) s->offline.position += s->task_n;
    /* what is held still moves to the front; after a report of full_batches nothing was trained, and all stays */
    if (slf_plan_is_online(planner) && s->task_n > 0) {
        const int64_t left = s->online.held -= s->task_n;
        memmove(s->ids, s->ids + s->task_n, (size_t)left * sizeof *s->ids);
        memmove(s->cuts, s->cuts + s->task_n, (size_t)left * sizeof *s->cuts);
    }
    s->phase = SLF_PHASE_IDLE;
    s->task_n = 0;
    return SALF_OK;
}
