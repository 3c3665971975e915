/*
 * stream.c - streaming budgets: which cuts a batch's rows have, decided as the data come.
 *
 * Every row draws the next layer of a quota (quota.c), and an assignment (assign.c) then says which row of its group
 * gets which of the layers drawn. A quota looks at integers alone, never at eof or gains: so counts do not depend on
 * the data, nor on how batches are cut, and every rank computes them alike. O(m) a datum, and no memory for one.
 */
#include <inttypes.h>
#include <string.h>

#include "core/carve.h"
#include "core/random.h"
#include "plan/plan.h"

/* Draws and books the cuts of the task's rows; group_of says whose each is where rows have groups. Row by row in the
 * order of the data, so that the same data have the same quota however they are cut into batches. The cuts then still
 * have to find their rows: within a group that changes no count. */
static void draw_row_cuts(const salf_planner *p, slf_progress *progress, bool grouped) {
    slf_stream *s = &progress->stream;
    const int64_t done = s->position;
    for (int64_t i = 0; i < progress->task_n; i++) {
        slf_group *g = grouped ? &s->groups[progress->group_of[i]] : NULL;
        const int32_t layer = slf_quota_layer(p, s, g);
        progress->cuts[i] = layer;
        s->taken[layer]++;
        s->position++;
        if (!g) continue;
        s->group_taken[progress->group_of[i] * (int64_t)p->m + layer]++;
        g->rows++;
    }
    s->position = done; /* until they are trained; the chairman of all data looked at it */
}

/* How deep the backward of the task goes, on any rank. */
static void note_lowest_cut(const salf_planner *p, slf_progress *progress) {
    progress->layer = p->m - 1;
    for (int64_t i = 0; i < progress->task_n; i++) progress->layer = SLF_MIN(progress->layer, progress->cuts[i]);
}

/* Sizes make the groups' counts exact, and so must be whole: none empty, no group twice, all data in one. Groups that
 * come later than the first task could not have had their share of it. */
salf_status salf_planner_set_groups(salf_planner *planner, const int32_t *groups, const int64_t *sizes, int64_t n) {
    SLF_REQUIRE(planner, groups, sizes);
    const salf_planner_options *o = &planner->options;
    slf_progress *s = &planner->progress;
    if (!slf_plan_is_stream(planner) || o->assignment == SALF_ASSIGN_RANDOM)
        return SLF_FAIL(SALF_E_SEQUENCE, "matching is %s, assignment %s; groups are of a stream by eof or gain",
                        salf_constant_word("SALF_MATCH", o->matching),
                        salf_constant_word("SALF_ASSIGN", o->assignment));
    if (s->phase != SLF_PHASE_IDLE || s->stream.position > 0 || s->stream.n_groups > 0)
        return SLF_FAIL(SALF_E_SEQUENCE, "the groups are set, or the first task is given out");
    if (n < 1 || n > o->max_groups)
        return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " groups, not 1 ... max_groups, %" PRId32, n, o->max_groups);
    SLF_TRY(slf_plan_check_size(planner));
    /* Into a progress of its own, which takes the place of the one there when all is right. */
    slf_progress next;
    salf_status status;
    int64_t left = planner->n;
    SLF_TRY(slf_progress_init(&next, planner));
    for (int64_t i = 0; i < n; i++) {
        int32_t index;
        if (sizes[i] < 1 || sizes[i] > left)
            SLF_DO(slf_fail(SALF_E_ARGUMENT, "group %" PRId32 " has %" PRId64 " data, not 1 ... the %" PRId64 " left",
                            groups[i], sizes[i], left));
        SLF_DO(slf_stream_group(&next, planner, groups[i], &index));
        if (index != i) SLF_DO(slf_fail(SALF_E_ARGUMENT, "group %" PRId32 " is given twice", groups[i]));
        next.stream.groups[i].size = sizes[i];
        left -= sizes[i];
    }
    if (left > 0)
        SLF_DO(slf_fail(SALF_E_ARGUMENT, "the groups have %" PRId64 " data, the plan %" PRId64, planner->n - left,
                        planner->n));
    next.stream.sized = true;
    SLF_DO(slf_stream_share(&next, planner));
    /* what was there before has seen no datum, and goes */
    const slf_progress before = *s;
    *s = next;
    next = before;
done:
    slf_progress_free(&next, planner);
    return status;
}

/* An option of a stream for another matching would be ignored, and a batch of one cut has nothing to assign. */
salf_status slf_stream_check_options(const salf_planner_options *o) {
    SLF_TRY(slf_check_word("assignment", "SALF_ASSIGN", o->assignment));
    SLF_TRY(slf_check_word("stream_order", "SALF_STREAM", o->stream_order));
    const char *assignment = salf_constant_word("SALF_ASSIGN", o->assignment);
    if (o->matching != SALF_MATCH_STREAM && (o->assignment || o->stream_order || o->one_cut || o->max_groups))
        return slf_fail(SALF_E_ARGUMENT,
                        "assignment %s, stream_order %s, one_cut %" PRId32 ", max_groups %" PRId32
                        "; these are for matching stream, not %s",
                        assignment, salf_constant_word("SALF_STREAM", o->stream_order), o->one_cut, o->max_groups,
                        salf_constant_word("SALF_MATCH", o->matching));
    if (o->one_cut && o->assignment != SALF_ASSIGN_RANDOM)
        return slf_fail(SALF_E_ARGUMENT, "one_cut with assignment %s; one cut a batch leaves nothing to assign",
                        assignment);
    return SALF_OK;
}

/* ---- tasks ---- */

/* The next data in order. Nothing that a host does between two tasks can change the cuts of a random stream: they
 * follow from the position, the size of the task and the seed. */
salf_status slf_stream_next(salf_planner *p, int64_t most) {
    slf_progress *progress = &p->progress;
    slf_stream *s = &progress->stream;
    const int64_t left = p->n - s->position, n = SLF_MIN(left, most);
    SLF_TRY(slf_plan_check_size(p));
    progress->layer = left > 0 ? 0 : p->m;
    if (left == 0) return SALF_OK;
    SLF_TRY(slf_progress_room(progress, p, n));
    for (int64_t i = 0; i < n; i++) progress->ids[i] = (uint32_t)(s->position + i);
    progress->task_n = n;
    progress->phase = SLF_PHASE_PROBE;
    /* eof and gains come with the forward; cuts are drawn when they are here, as a row's group decides its quota */
    if (p->options.assignment != SALF_ASSIGN_RANDOM) return SALF_OK;
    if (!p->options.one_cut) {
        draw_row_cuts(p, progress, false);
        slf_shuffle(progress->cuts, n, n, p->options.seed, SLF_STREAM_ROWS, (uint64_t)s->position);
    } else {
        /* One for all of them. A quota of rows would be missed by up to a batch each time: batches are what is counted,
         * and a batch that is shorter than the others, as the last one is, counts as one. */
        int32_t layer = 0;
        if (p->options.stream_order == SALF_STREAM_MIXED) {
            int64_t batches = 0;
            for (int32_t e = 0; e < p->m; e++) batches += s->batches[e];
            layer = slf_quota_chairman(p->counts, p->n, p->m, batches, s->batches);
        } else {
            int64_t end = p->counts[0]; /* of the layer's data */
            while (layer < p->m - 1 && end <= s->position + n / 2) end += p->counts[++layer];
        }
        for (int64_t i = 0; i < n; i++) progress->cuts[i] = layer;
        s->batches[layer]++;
        s->taken[layer] += n;
    }
    note_lowest_cut(p, progress);
    /* nobody looked at an eof, so that none is matched */
    for (int64_t i = 0; i < n; i++) progress->filled[progress->cuts[i]]++;
    progress->phase = SLF_PHASE_TRAIN;
    return SALF_OK;
}

/* ---- the answer to a PROBE task ---- */

/* What all ranks found of the task's rows, each row's at its place, and what the assignment takes; one block. */
typedef struct gathered {
    int64_t n;
    int64_t *found;     /* [2 n] group and eof of each row; the first part of the block */
    double *lost;       /* [n][m] GAIN: gains, and then the positive ones below each layer; else NULL */
    int64_t *ordered;   /* [n] rows by group, each group's in order */
    int32_t *eof;       /* [n] */
    slf_assignment job; /* reads these; its scratch is in the block too */
} gathered;

static void lay_out_gathered(gathered *g, const salf_planner *p, slf_carver *block) {
    const bool by_gain = p->options.assignment == SALF_ASSIGN_GAIN;
    g->found = slf_carve(block, 2 * g->n, sizeof *g->found);
    g->job.lost = g->lost = by_gain ? slf_carve(block, g->n, (uint64_t)p->m * sizeof *g->lost) : NULL;
    g->ordered = slf_carve(block, g->n, sizeof *g->ordered);
    g->job.eof = g->eof = slf_carve(block, g->n, sizeof *g->eof);
    g->job.ranked = slf_carve(block, g->n, sizeof *g->job.ranked);
    g->job.quota = slf_carve(block, p->m, sizeof *g->job.quota);
}

/* What can be wrong on this rank alone, memory included: known before the ranks meet, as after that nothing may fail on
 * one of them. Each writes what it found at the places of its rows, [n] of all ranks, and leaves 0 at the others'. */
static salf_status prepare_gathered(const salf_planner *p, const salf_trace *trace, const int32_t *groups,
                                    const salf_task *task, gathered *g) {
    if (!slf_plan_is_stream(p) || p->progress.phase != SLF_PHASE_PROBE)
        return slf_fail(SALF_E_SEQUENCE, "salf_planner_assign: no PROBE task of a stream is open");
    const int64_t first = p->progress.first, rows = p->progress.own, m = p->m;
    const bool by_gain = p->options.assignment == SALF_ASSIGN_GAIN;
    if (rows > 0 || trace) SLF_TRY(slf_trace_check(trace, p->m, by_gain, p->m - 1, "plan"));
    if (trace && trace->rows != rows)
        return slf_fail(SALF_E_SHAPE, "trace of %" PRId64 " rows for a task of %" PRId64, trace->rows, rows);
    if (rows > 0 && !groups) return slf_fail(SALF_E_NULL, "groups is NULL");
    if (!task) return slf_fail(SALF_E_NULL, "salf_planner_assign: task is NULL");
    slf_carver block = {0};
    lay_out_gathered(g, p, &block);
    block = (slf_carver){.base = slf_alloc_zero(p->context, 1, block.used)};
    if (!block.base) return SALF_E_NO_MEMORY;
    lay_out_gathered(g, p, &block);
    for (int64_t i = 0; i < rows; i++) {
        g->found[2 * (first + i)] = groups[i];
        g->found[2 * (first + i) + 1] = trace->eof[i];
    }
    if (by_gain && rows > 0) memcpy(g->lost + first * m, trace->gains, (size_t)(rows * m) * sizeof *g->lost);
    return SALF_OK;
}

/* All that may fail comes before the first row is booked. Where one rank writes what it found, the others add 0; then
 * each does the work of all of them: that is less than telling each other the results, and a planner that one of them
 * saves is everybody's. */
salf_status salf_planner_assign(salf_planner *planner, const salf_trace *trace, const int32_t *groups,
                                salf_task *task) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(planner);
    const salf_planner *p = planner;
    slf_progress *progress = &planner->progress;
    slf_stream *s = &progress->stream;
    gathered g = {.n = progress->task_n, .job = {.m = p->m, .seed = p->options.seed}};
    slf_agreement agreement = {.meeting = SLF_MEET_salf_planner_assign};
    salf_status status = prepare_gathered(p, trace, groups, task, &g);
    if (slf_has_ranks(p->context)) slf_plan_agree(p, &agreement);
    SLF_DO(slf_agree(p->context, status, &agreement));
    SLF_DO(slf_all_reduce(p->context, g.found, 2 * g.n, SALF_I64, SALF_ALL_REDUCE_SUM));
    for (int64_t i = 0; i < g.n; i++) g.eof[i] = (int32_t)g.found[2 * i + 1];
    if (g.lost) {
        SLF_DO(slf_all_reduce(p->context, g.lost, g.n * p->m, SALF_F64, SALF_ALL_REDUCE_SUM));
        slf_stream_sum_lost(g.lost, g.n, p->m);
    }
    SLF_DO(slf_stream_sort(progress, p, g.found, g.ordered));
    /* 1. cuts by quota, then among the rows of each group */
    draw_row_cuts(p, progress, true); /* one_cut has no assignment */
    note_lowest_cut(p, progress);
    g.job.cuts = progress->cuts;
    g.job.position = s->position;
    for (int64_t at = 0; at < g.n; at += g.job.n) {
        g.job.rows = g.ordered + at;
        g.job.n = s->groups[progress->group_of[g.ordered[at]]].fresh - at;
        slf_stream_assign(&g.job);
    }
    for (int32_t k = 0; k < s->n_groups; k++) s->groups[k].fresh = 0;
    /* 2. the books */
    for (int64_t i = 0; i < g.n; i++) {
        const int32_t cut = progress->cuts[i];
        progress->probed[cut]++;
        (g.eof[i] <= cut ? progress->matched : progress->filled)[cut]++;
    }
    progress->phase = SLF_PHASE_TRAIN;
    slf_planner_task(p, task);
done:
    slf_free(p->context, g.found);
    return status;
}
