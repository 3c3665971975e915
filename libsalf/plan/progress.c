/*
 * progress.c - how far a plan has come: its memory, and the task at hand.
 *
 * One struct for all matchings, of which a load makes a second one and lets it take the first one's place when all of
 * it is right. What a matching does not need is not there: counts cost nothing by the datum, and a stream never does.
 */
#include <string.h>

#include "plan/plan.h"

/* Before the first call all is 0: layer 0 has its turn, nothing is open, nothing is known of any datum. */
salf_status slf_progress_init(slf_progress *s, const salf_planner *planner) {
    *s = (slf_progress){0};
    SLF_TRY(SLF_ALLOC_ZERO(planner->context, s->matched, 5 * (int64_t)planner->m));
    s->filled = s->matched + planner->m;
    s->probed = s->filled + planner->m;
    if (slf_plan_is_stream(planner)) {
        s->stream.taken = s->probed + planner->m;
        s->stream.batches = s->stream.taken + planner->m;
    }
    return SALF_OK;
}

/* Which part of the union is in use follows from the planner, not from what is in it: a load may stop half-way. */
void slf_progress_free(slf_progress *s, const salf_planner *planner) {
    const salf_context *context = planner->context;
    SLF_FREE(context, s->matched, s->cuts);
    if (slf_plan_is_online(planner)) {
        SLF_FREE(context, s->online.used, s->online.draws.ids);
    } else if (slf_plan_is_stream(planner)) {
        slf_free(context, s->stream.groups);
        slf_ids_free(&s->stream.known, context);
    } else {
        SLF_FREE(context, s->offline.eof, s->offline.data);
    }
    *s = (slf_progress){0};
}

/* Tasks are as large as the host asks for, so that room only grows with the largest of them. What ONLINE holds was
 * matched or drawn for good: it moves with the rest, and a failure leaves it where it is. */
salf_status slf_progress_room(slf_progress *s, const salf_planner *planner, int64_t n) {
    if (n <= s->room) return SALF_OK;
    const size_t held = slf_plan_is_online(planner) ? (size_t)s->online.held : 0;
    int32_t *block = slf_alloc(planner->context, (uint64_t)n, 3 * sizeof *block);
    if (!block) return SALF_E_NO_MEMORY;
    uint32_t *ids = (uint32_t *)(block + 2 * n);
    if (held > 0) {
        memcpy(block, s->cuts, held * sizeof *block);
        memcpy(ids, s->ids, held * sizeof *ids);
    }
    slf_free(planner->context, s->cuts);
    s->cuts = block;
    s->group_of = block + n;
    s->ids = ids;
    s->room = n;
    return SALF_OK;
}

/* Settled data stand by layer, so that a cut follows from the place. */
salf_status slf_progress_settled(slf_progress *s, const salf_planner *p, int64_t n) {
    if (p->options.full_batches) {
        int32_t layer = s->layer;
        int64_t end = slf_plan_data_below(p, layer + 1);
        SLF_TRY(slf_progress_room(s, p, n));
        for (int64_t i = 0; i < n; i++) {
            while (s->offline.position + i >= end) {
                layer++;
                end += p->counts[layer];
            }
            s->cuts[i] = layer;
        }
    }
    s->phase = SLF_PHASE_TRAIN;
    s->task_n = n;
    return SALF_OK;
}

/* With one rank all of it. Two ranks that asked for b each share 2 b as b and b; tasks that are smaller are uneven,
 * and the last ranks may be without a datum. Contiguous parts keep the order of the data, so that what the ranks find
 * can be put together again by places alone. */
void slf_progress_share(slf_progress *s, const salf_planner *p) {
    const int64_t ranks = p->context->options.ranks, rank = p->context->options.rank;
    s->first = rank * (s->task_n / ranks) + SLF_MIN(rank, s->task_n % ranks);
    s->own = s->task_n / ranks + (rank < s->task_n % ranks);
}

/* Summed anew at each call, as a layer is cheap beside the data of a task. */
int64_t slf_plan_data_below(const salf_planner *p, int32_t layer) {
    int64_t sum = 0;
    for (int32_t e = 0; e < layer; e++) sum += p->counts[e];
    return sum;
}

/* What a policy that follows the plan sees, too. After a report the task holds the accepted data only, whose training
 * the decision is for. */
void slf_planner_task(const salf_planner *planner, salf_task *task) {
    const slf_progress *s = &planner->progress;
    const bool trains = s->phase == SLF_PHASE_TRAIN, online = slf_plan_is_online(planner);
    *task = (salf_task){.kind = SALF_TASK_DONE, .layer = s->layer};
    if (s->phase == SLF_PHASE_IDLE) return;
    task->kind = trains ? SALF_TASK_TRAIN : SALF_TASK_PROBE;
    task->n_data = s->own;
    const uint32_t *data = s->ids;
    if (slf_plan_settles(planner)) data = s->offline.data + s->offline.position;
    if (online && s->phase == SLF_PHASE_PROBE) data += s->online.held;
    task->data = data + s->first;
    if (!trains || !slf_plan_has_cuts(planner)) return;
    task->eof = s->cuts + s->first;
    if (online) task->layer = s->cuts[0]; /* the layer whose turn it is may be a deeper one */
}
