/*
 * stream.c - streaming budgets: which cuts a batch's rows have, decided as the data come.
 *
 * Every row draws the next layer of a quota (below), and an assignment (assign.c) then says which row of its group gets
 * which of the layers drawn. A quota looks at integers alone, never at eof or gains: so counts do not depend on the
 * data, nor on how batches are cut, and every rank computes them alike.
 *
 * MIXED (R. Tijdeman, The chairman assignment problem, 1980): after t data, a_e of them at layer e, let D_e =
 * c_e (t+1) - N a_e. Of the m' layers with c_e > 0 and (2m'-2) D_e >= N the next is that of the smallest
 * ((2m'-3) N - (2m'-2) D_e) / c_e, ties shallow. Then |a_e - c_e t / N| <= 1 - 1/(2m'-2) at every t. There always is
 * such a layer: the D_e sum to N.
 * STAGED: the shallowest layer with room. Where rows have eof or gains, every group also passes the share
 * L m / (N + L m) of its rows, L = probe_limit, to the shallowest deeper layer with room: about L in a stage of N / m.
 * One cut a batch: the chairman in units of batches; staged, the layer that the middle of the batch falls to.
 *
 * Groups: of known size, each follows its own counts c_ge; otherwise each has its own t_g and a_ge and the plan's
 * shares (MIXED), or its own share of rows that are passed (STAGED). O(m) a datum, and no memory for one.
 */
#include <inttypes.h>
#include <string.h>

#include "plan/plan.h"

/* ---- the quota ---- */

/* Numbers of a valid state are below 2^17 * 2^34: |D_e| < 2 N. What a hostile blob makes of D_e is bounded by that too,
 * and then some layer is taken all the same. */
static int32_t next_of_chairman(const int64_t *counts, int64_t n, int32_t m, int64_t t, const int64_t *taken) {
    int32_t best = -1, any = 0;
    int64_t layers = 0, least = 0;
    for (int32_t e = 0; e < m; e++) {
        if (counts[e] > 0) any = e;
        layers += counts[e] > 0;
    }
    const int64_t scale = 2 * layers - 2;
    for (int32_t e = 0; e < m && layers > 1; e++) {
        if (counts[e] == 0) continue;
        const int64_t exact = (int64_t)((uint64_t)counts[e] * (uint64_t)(t + 1) - (uint64_t)n * (uint64_t)taken[e]);
        const int64_t behind = SLF_MAX(SLF_MIN(exact, 2 * n), -2 * n), wait = (scale - 1) * n - scale * behind;
        if (scale * behind < n) continue;
        if (best >= 0 && slf_compare_products(wait, counts[best], least, counts[e]) >= 0) continue;
        best = e;
        least = wait;
    }
    return best >= 0 ? best : any;
}

/* The shallowest layer from `from` on that has room; m where none has. */
static int32_t next_with_room(const int64_t *counts, const int64_t *taken, int32_t m, int32_t from) {
    while (from < m && taken[from] >= counts[from]) from++;
    return from;
}

/* The layer of the next row of a group; NULL for all data as one group, without a choice. */
static int32_t draw_layer(const salf_planner *p, slf_stream *s, slf_group *g) {
    const int64_t index = g ? g - s->groups : 0;
    const bool own =
        g && (s->sized || p->options.stream_order == SALF_STREAM_MIXED); /* its own numbers, or those of all */
    const int64_t *taken = own ? s->group_taken + index * p->m : s->taken;
    const int64_t *counts = g && s->sized ? s->group_counts + index * p->m : p->counts;
    const int64_t n = g && s->sized ? g->size : p->n, t = g ? g->rows : s->position;
    if (p->options.stream_order == SALF_STREAM_MIXED) return next_of_chairman(counts, n, p->m, t, taken);
    /* a hostile blob may leave no room: 0 then, which every plan has */
    const int32_t stage = next_with_room(counts, taken, p->m, 0) % p->m;
    if (!g) return stage;
    const int32_t deeper = next_with_room(counts, taken, p->m, stage + 1);
    const int64_t limit = p->options.probe_limit == SALF_PROBE_ALL ? p->n : p->options.probe_limit, L = limit * p->m;
    /* (passed + 1) / (rows + 1) <= L m / (N + L m) */
    if (deeper == p->m || slf_compare_products(g->passed + 1, p->n + L, g->rows + 1, L) > 0) return stage;
    g->passed++;
    return deeper;
}

/* Draws and books the cuts of the task's rows; group_of says whose each is where rows have groups. */
static void draw_cuts(const salf_planner *p, slf_progress *progress, bool grouped) {
    slf_stream *s = &progress->stream;
    const int64_t n = progress->task_n, done = s->position;
    for (int64_t i = 0; i < n && !p->options.one_cut; i++, s->position++) {
        slf_group *g = grouped ? &s->groups[s->group_of[i]] : NULL;
        const int32_t layer = draw_layer(p, s, g);
        s->cuts[i] = layer;
        s->taken[layer]++;
        if (!g) continue;
        s->group_taken[s->group_of[i] * (int64_t)p->m + layer]++;
        g->rows++;
    }
    s->position = done; /* until they are trained; the chairman of all data looked at it */
    if (p->options.one_cut) {
        int64_t batches = 0, below = p->counts[0];
        int32_t layer = 0;
        for (int32_t e = 0; e < p->m; e++) batches += s->batches[e];
        while (layer < p->m - 1 && below <= done + n / 2) below += p->counts[++layer];
        if (p->options.stream_order == SALF_STREAM_MIXED)
            layer = next_of_chairman(p->counts, p->n, p->m, batches, s->batches);
        for (int64_t i = 0; i < n; i++) s->cuts[i] = layer;
        s->batches[layer]++;
        s->taken[layer] += n;
    }
    progress->layer = p->m - 1;
    for (int64_t i = 0; i < n; i++) progress->layer = SLF_MIN(progress->layer, s->cuts[i]);
}

/* ---- groups ---- */

void slf_stream_free(slf_stream *s, const salf_context *context) {
    slf_free(context, s->cuts);
    slf_free(context, s->groups);
    slf_free(context, s->group_taken);
    slf_free(context, s->group_counts);
    slf_free(context, s->slots);
}

/* Doubles the room for groups; what is there moves. */
static salf_status grow_groups(slf_stream *s, const salf_planner *p) {
    const salf_context *context = p->context;
    const int32_t most = p->options.max_groups + 1,
                  room = s->group_room > most / 2 ? most : SLF_MAX(16, 2 * s->group_room);
    const int64_t had = s->n_groups, m = p->m;
    slf_group *groups = slf_alloc_zero(context, (uint64_t)room, sizeof *groups);
    int64_t *taken = slf_alloc_zero(context, (uint64_t)room, (uint64_t)m * sizeof *taken);
    int64_t *counts = slf_alloc_zero(context, (uint64_t)room, (uint64_t)m * sizeof *counts);
    if (!groups || !taken || !counts) {
        slf_free(context, groups);
        slf_free(context, taken);
        slf_free(context, counts);
        return SALF_E_NO_MEMORY;
    }
    if (had > 0) {
        memcpy(groups, s->groups, (size_t)had * sizeof *groups);
        memcpy(taken, s->group_taken, (size_t)(had * m) * sizeof *taken);
        memcpy(counts, s->group_counts, (size_t)(had * m) * sizeof *counts);
    }
    slf_free(context, s->groups);
    slf_free(context, s->group_taken);
    slf_free(context, s->group_counts);
    s->groups = groups;
    s->group_taken = taken;
    s->group_counts = counts;
    s->group_room = room;
    return SALF_OK;
}

/* A hash table of indices, made once at its full size, with linear probing: never more than half full. */
salf_status slf_stream_group(slf_progress *progress, const salf_planner *p, int64_t id, int32_t *index) {
    slf_stream *s = &progress->stream;
    const int32_t most = p->options.max_groups;
    if (!s->slots) {
        int64_t n = 2;
        while (n < 2 * (int64_t)most) n *= 2;
        SLF_TRY(SLF_ALLOC(p->context, s->slots, n));
        s->n_slots = n;
        for (int64_t i = 0; i < n; i++) s->slots[i] = -1;
    }
    const uint64_t hash = (uint64_t)id * 0x9E3779B97F4A7C15u;
    int64_t slot = (int64_t)((hash ^ hash >> 32) & (uint64_t)(s->n_slots - 1));
    while (s->slots[slot] >= 0 && s->groups[s->slots[slot]].id != id) slot = (slot + 1) & (s->n_slots - 1);
    *index = s->slots[slot];
    if (*index >= 0) return SALF_OK;
    /* a new one; the last place is for all that do not fit, and has no slot */
    if (s->sized)
        return slf_fail(SALF_E_ARGUMENT, "group %" PRId64 " is not among the %" PRId32 " set", id, s->n_groups);
    *index = SLF_MIN(s->n_groups, most);
    if (s->n_groups > most) return SALF_OK;
    if (s->n_groups == s->group_room) SLF_TRY(grow_groups(s, p));
    s->groups[s->n_groups++] = (slf_group){.id = id};
    if (*index < most)
        s->slots[slot] = *index;
    else
        slf_log(p->context, SALF_LOG_WARNING,
                "group %" PRId64 " is beyond max_groups, %" PRId32 ": it and further ones share one group", id, most);
    return SALF_OK;
}

/* Counts of the groups, one after the other: of what the groups before have left of each layer, r_e, a group of size
 * N_g of the n that are left gets r_e N_g / n, rounded down, and then one more each in the order of what rounding took,
 * ties shallow. That is never more than r_e, so that both the groups' sizes and the layers' counts come out exact. */
salf_status slf_stream_share(slf_progress *progress, const salf_planner *p) {
    slf_stream *s = &progress->stream;
    const int32_t m = p->m;
    int64_t *left, n = p->n;
    SLF_TRY(SLF_ALLOC(p->context, left, m));
    memcpy(left, p->counts, (size_t)m * sizeof *left);
    for (int64_t g = 0; g < s->n_groups; g++) {
        const int64_t size = s->groups[g].size;
        int64_t *counts = s->group_counts + g * m, missing = size;
        /* products are below 2^64: both are at most N < 2^32 */
        for (int32_t e = 0; e < m; e++) {
            counts[e] = (int64_t)((uint64_t)left[e] * (uint64_t)size / (uint64_t)n);
            missing -= counts[e];
        }
        /* fewer than m are missing; each goes to the largest remainder that has not had one, which -1 marks */
        for (; missing > 0; missing--) {
            int32_t best = 0;
            uint64_t most = 0;
            for (int32_t e = 0; e < m; e++) {
                const uint64_t whole = (uint64_t)left[e] * (uint64_t)size / (uint64_t)n;
                const uint64_t rest = (uint64_t)left[e] * (uint64_t)size % (uint64_t)n;
                if (counts[e] > (int64_t)whole || rest <= most) continue;
                best = e;
                most = rest;
            }
            counts[best]++;
        }
        for (int32_t e = 0; e < m; e++) left[e] -= counts[e];
        n -= size;
    }
    slf_free(p->context, left);
    return SALF_OK;
}

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
    salf_status status = slf_progress_init(&next, planner);
    int64_t left = planner->n;
    for (int64_t i = 0; status == SALF_OK && i < n; i++) {
        int32_t index;
        if (sizes[i] < 1 || sizes[i] > left)
            SLF_DO(slf_fail(SALF_E_ARGUMENT, "group %" PRId32 " has %" PRId64 " data, not 1 ... the %" PRId64 " left",
                            groups[i], sizes[i], left));
        SLF_DO(slf_stream_group(&next, planner, groups[i], &index));
        if (index != i) SLF_DO(slf_fail(SALF_E_ARGUMENT, "group %" PRId32 " is given twice", groups[i]));
        next.stream.groups[i].size = sizes[i];
        left -= sizes[i];
    }
    if (status == SALF_OK && left > 0)
        SLF_DO(slf_fail(SALF_E_ARGUMENT, "the groups have %" PRId64 " data, the plan %" PRId64, planner->n - left,
                        planner->n));
    next.stream.sized = true;
    if (status == SALF_OK) SLF_DO(slf_stream_share(&next, planner));
done:;
    const slf_progress unused = status == SALF_OK ? *s : next;
    if (status == SALF_OK) *s = next;
    next = unused;
    slf_progress_free(&next, planner);
    return status;
}

/* ---- tasks ---- */

int64_t slf_stream_part(const salf_planner *p, int64_t n, int64_t *first) {
    const int64_t ranks = SLF_MAX(p->context->options.ranks, 1), rank = ranks > 1 ? p->context->options.rank : 0;
    *first = rank * (n / ranks) + SLF_MIN(rank, n % ranks);
    return n / ranks + (rank < n % ranks);
}

salf_status slf_stream_room(slf_progress *progress, const salf_planner *p, int64_t n) {
    slf_stream *s = &progress->stream;
    if (n > s->room) {
        int32_t *block = slf_alloc(p->context, (uint64_t)n, 3 * sizeof *block);
        if (!block) return SALF_E_NO_MEMORY;
        slf_free(p->context, s->cuts);
        s->cuts = block;
        s->group_of = block + n;
        s->ids = (uint32_t *)(block + 2 * n);
        s->room = n;
    }
    int64_t first;
    const int64_t own = slf_stream_part(p, n, &first);
    for (int64_t i = 0; i < own; i++) s->ids[i] = (uint32_t)(s->position + first + i);
    return SALF_OK;
}

salf_status slf_stream_next(salf_planner *p, int64_t max_data) {
    slf_progress *progress = &p->progress;
    slf_stream *s = &progress->stream;
    const int64_t left = p->n - s->position, ranks = SLF_MAX(p->context->options.ranks, 1);
    SLF_TRY(slf_plan_check_size(p));
    progress->layer = left > 0 ? 0 : p->m;
    if (left == 0) return SALF_OK;
    const int64_t n = max_data > left / ranks ? left : max_data * ranks;
    SLF_TRY(slf_stream_room(progress, p, n));
    progress->task_n = n;
    progress->phase = SLF_PHASE_PROBE;
    if (p->options.assignment != SALF_ASSIGN_RANDOM) return SALF_OK;
    draw_cuts(p, progress, false);
    if (!p->options.one_cut) slf_stream_shuffle(p->options.seed, s->position, s->cuts, n);
    for (int64_t i = 0; i < n; i++) progress->filled[s->cuts[i]]++;
    progress->phase = SLF_PHASE_TRAIN;
    return SALF_OK;
}

/* ---- the answer to a PROBE task ---- */

/* What all ranks found of the task's rows, each row's at its place. */
typedef struct gathered {
    int64_t *found;     /* [2 n + 1] group and eof of each row; how many ranks failed */
    double *lost;       /* [n][m] GAIN: gains, and then the positive ones below each layer */
    int64_t *ordered;   /* [n] rows by group, each group's in order */
    int32_t *eof;       /* [n] */
    slf_ranked *ranked; /* [n] and [m]: scratch of the assignment */
    int64_t *quota;
} gathered;

/* A trace may come from the host's own code, so nothing in it is believed. Gains that are no numbers are those of rows
 * that are to train fully. */
static salf_status check_found(const salf_planner *p, const salf_trace *t, const int32_t *groups, int64_t rows) {
    if (rows == 0 && !t) return SALF_OK;
    if (!t || (rows > 0 && !groups)) return slf_fail(SALF_E_NULL, "%s is NULL", t ? "groups" : "trace");
    if (t->rows != rows)
        return slf_fail(SALF_E_SHAPE, "trace of %" PRId64 " rows for a task of %" PRId64, t->rows, rows);
    if (t->n_layers != p->m)
        return slf_fail(SALF_E_SHAPE, "trace of %" PRId32 " layers for a plan of %" PRId32, t->n_layers, p->m);
    if (rows > 0 && (!t->eof || (p->options.assignment == SALF_ASSIGN_GAIN && !t->gains)))
        return slf_fail(SALF_E_NULL, "%s of the trace is NULL", t->eof ? "gains" : "eof");
    for (int64_t r = 0; r < rows; r++)
        if (t->eof[r] < 0 || t->eof[r] >= p->m)
            return slf_fail(SALF_E_ARGUMENT, "eof of row %" PRId64 " is %" PRId32 ", not in 0 ... %" PRId32, r,
                            t->eof[r], p->m - 1);
    return SALF_OK;
}

/* So that sums over 64 rows and 65,534 layers stay finite. */
#define LOST_MOST 1e300

/* Positive gains below each layer, in place. A row whose gains are no numbers is to train fully: every layer that it
 * loses counts more than all gains of any other row. */
static void sum_lost(double *gains, int64_t n, int32_t m) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double *row = gains + i * m, sum = 0;
        for (int32_t e = 0; e < m; e++) {
            const double gain = row[e];
            row[e] = sum > LOST_MOST ? LOST_MOST : sum; /* NaN stays */
            sum += isfinite(gain) ? fmax(gain, 0) : NAN;
        }
        row[0] = isnan(sum) ? NAN : 0; /* marks the row; nothing is lost at layer 0 */
        if (row[m - 1] > most) most = row[m - 1];
    }
    for (int64_t i = 0; i < n; i++)
        for (int32_t e = 0; isnan(gains[i * m]) && e < m; e++) gains[i * m + m - 1 - e] = (m - 1 - e) * (most + 1);
}

/* Rows by group, a counting sort; fails, and takes nothing, where a group gets more rows than it may. */
static salf_status sort_by_group(slf_progress *progress, const salf_planner *p, gathered *g) {
    slf_stream *s = &progress->stream;
    const int64_t n = progress->task_n;
    salf_status status = SALF_OK;
    for (int64_t i = 0; i < n && status == SALF_OK; i++) {
        status = slf_stream_group(progress, p, g->found[2 * i], &s->group_of[i]);
        if (status != SALF_OK) break;
        slf_group *group = &s->groups[s->group_of[i]];
        group->fresh++;
        if (s->sized && group->rows + group->fresh > group->size)
            status = slf_fail(SALF_E_ARGUMENT, "group %" PRId64 " has more data than its size, %" PRId64, group->id,
                              group->size);
    }
    int64_t at = 0;
    for (int32_t k = 0; k < s->n_groups; k++) {
        const int64_t fresh = s->groups[k].fresh;
        s->groups[k].fresh = status == SALF_OK ? at : 0;
        at += fresh;
    }
    for (int64_t i = 0; i < n && status == SALF_OK; i++) g->ordered[s->groups[s->group_of[i]].fresh++] = i;
    return status;
}

/* All that may fail comes before the first row is booked. On several ranks each joins the others whatever is wrong with
 * its own input, and tells them; what they then know, and do, is the same on all. */
salf_status salf_planner_assign(salf_planner *planner, const salf_trace *trace, const int32_t *groups,
                                salf_task *task) {
    SLF_REQUIRE(planner, task);
    const salf_planner *p = planner;
    slf_progress *progress = &planner->progress;
    slf_stream *s = &progress->stream;
    if (!slf_plan_is_stream(p) || progress->phase != SLF_PHASE_PROBE)
        return SLF_FAIL(SALF_E_SEQUENCE, "no PROBE task of a stream is open");
    const int64_t n = progress->task_n, m = p->m;
    const bool by_gain = p->options.assignment == SALF_ASSIGN_GAIN;
    int64_t first;
    const int64_t rows = slf_stream_part(p, n, &first);
    gathered g = {0};
    salf_status status = SALF_E_NO_MEMORY;
    g.found = slf_alloc_zero(p->context, 2 * (uint64_t)n + 1, sizeof *g.found);
    g.lost = by_gain ? slf_alloc_zero(p->context, (uint64_t)n, (uint64_t)m * sizeof *g.lost) : NULL;
    g.ordered = slf_alloc(p->context, (uint64_t)n, sizeof *g.ordered);
    g.eof = slf_alloc(p->context, (uint64_t)n, sizeof *g.eof);
    g.ranked = slf_alloc(p->context, (uint64_t)n, sizeof *g.ranked);
    g.quota = slf_alloc(p->context, (uint64_t)m, sizeof *g.quota);
    if (!g.found || (by_gain && !g.lost) || !g.ordered || !g.eof || !g.ranked || !g.quota) goto done;
    /* 1. what this rank found, then what all did: where one writes, the others add 0 */
    status = check_found(p, trace, groups, rows);
    g.found[2 * n] = status != SALF_OK;
    for (int64_t i = 0; i < rows && status == SALF_OK; i++) {
        g.found[2 * (first + i)] = groups[i];
        g.found[2 * (first + i) + 1] = trace->eof[i];
    }
    if (by_gain && rows > 0 && status == SALF_OK)
        memcpy(g.lost + first * m, trace->gains, (size_t)(rows * m) * sizeof *g.lost);
    const salf_status joined = slf_all_reduce(p->context, g.found, 2 * n + 1, SALF_I64, SALF_ALL_REDUCE_SUM);
    if (status == SALF_OK) status = joined;
    if (status == SALF_OK && g.found[2 * n] != 0)
        status = slf_fail(SALF_E_MISMATCH, "%" PRId64 " other ranks failed", g.found[2 * n]);
    if (status == SALF_OK && by_gain) status = slf_all_reduce(p->context, g.lost, n * m, SALF_F64, SALF_ALL_REDUCE_SUM);
    if (status != SALF_OK) goto done;
    for (int64_t i = 0; i < n; i++) g.eof[i] = (int32_t)g.found[2 * i + 1];
    if (by_gain) sum_lost(g.lost, n, p->m);
    /* 2. cuts by quota, then among the rows of each group */
    SLF_DO(sort_by_group(progress, p, &g));
    draw_cuts(p, progress, true);
    slf_assignment job = {.m = p->m,
                          .cuts = s->cuts,
                          .eof = g.eof,
                          .lost = g.lost,
                          .ranked = g.ranked,
                          .quota = g.quota,
                          .seed = p->options.seed,
                          .position = s->position};
    for (int64_t at = 0; at < n; at += job.n) {
        job.rows = g.ordered + at;
        job.n = s->groups[s->group_of[g.ordered[at]]].fresh - at;
        slf_stream_assign(&job);
    }
    for (int32_t k = 0; k < s->n_groups; k++) s->groups[k].fresh = 0;
    /* 3. the books */
    for (int64_t i = 0; i < n; i++) {
        progress->probed[s->cuts[i]]++;
        (g.eof[i] <= s->cuts[i] ? progress->matched : progress->filled)[s->cuts[i]]++;
    }
    progress->phase = SLF_PHASE_TRAIN;
    slf_planner_task(p, task);
done:
    slf_free(p->context, g.found);
    slf_free(p->context, g.lost);
    slf_free(p->context, g.ordered);
    slf_free(p->context, g.eof);
    slf_free(p->context, g.ranked);
    slf_free(p->context, g.quota);
    return status;
}
