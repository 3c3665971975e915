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
    slf_free(context, s->matched);
    if (slf_plan_is_online(planner)) {
        slf_free(context, s->online.used);
        slf_free(context, s->online.draws.ids);
        slf_free(context, s->online.ids);
    } else if (slf_plan_is_stream(planner)) {
        slf_free(context, s->stream.cuts);
        slf_free(context, s->stream.groups);
        slf_free(context, s->stream.group_taken);
        slf_ids_free(&s->stream.known, context);
    } else {
        slf_free(context, s->offline.eof);
        slf_free(context, s->offline.data);
    }
    *s = (slf_progress){0};
}

/* Tasks are as large as the host asks for, so that room only grows with the largest of them. The ids are lost: there is
 * no task at hand when room is made for one. */
salf_status slf_progress_room(slf_progress *s, const salf_planner *planner, int64_t n) {
    if (n <= s->online.room) return SALF_OK;
    uint32_t *ids;
    SLF_TRY(SLF_ALLOC(planner->context, ids, n));
    slf_free(planner->context, s->online.ids);
    s->online.ids = ids;
    s->online.room = n;
    return SALF_OK;
}

/* Ids need not be kept: a stream hands data out in order, so that they follow from where it stands. They are written
 * out for the host, which gets them in the same form from every matching. */
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

/* With one rank all of it. Two ranks that asked for b each share 2 b as b and b; only the last task is uneven. */
int64_t slf_stream_part(const salf_planner *p, int64_t n, int64_t *first) {
    const int64_t ranks = SLF_MAX(p->context->options.ranks, 1), rank = ranks > 1 ? p->context->options.rank : 0;
    *first = rank * (n / ranks) + SLF_MIN(rank, n % ranks);
    return n / ranks + (rank < n % ranks);
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
    *task = (salf_task){.kind = SALF_TASK_DONE, .layer = s->layer};
    if (s->phase == SLF_PHASE_IDLE) return;
    task->kind = s->phase == SLF_PHASE_TRAIN ? SALF_TASK_TRAIN : SALF_TASK_PROBE;
    if (slf_plan_is_stream(planner)) { /* this rank's part */
        int64_t first;
        task->n_data = slf_stream_part(planner, s->task_n, &first);
        task->data = s->stream.ids;
        if (s->phase == SLF_PHASE_TRAIN) task->eof = s->stream.cuts + first;
        return;
    }
    task->n_data = s->task_n;
    task->data = slf_plan_is_online(planner)
                     ? s->online.ids
                     : s->offline.data + slf_plan_data_below(planner, s->layer) + s->offline.position;
}
