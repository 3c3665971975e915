/*
 * groups.c - the groups of a stream: who is who, what each has had, and counts of its own where sizes are known.
 *
 * A group is made when its first row comes, up to max_groups; further ones share one more place. So a stream needs
 * memory by groups, and never by data.
 */
#include <inttypes.h>
#include <string.h>

#include "plan/plan.h"

/* The last place is for all groups that do not fit, and its id is not in the set of those known. */
salf_status slf_stream_group(slf_progress *progress, const salf_planner *p, int64_t id, int32_t *index) {
    slf_stream *s = &progress->stream;
    const salf_context *context = p->context;
    const int32_t most = p->options.max_groups;
    const int64_t had = s->n_groups, m = p->m;
    *index = slf_ids_find(&s->known, id);
    if (*index >= 0) return SALF_OK;
    if (s->sized)
        return slf_fail(SALF_E_ARGUMENT, "group %" PRId64 " is not among the %" PRId32 " set", id, s->n_groups);
    *index = SLF_MIN(s->n_groups, most);
    if (had > most) return SALF_OK;
    /* 1. room for it, twice as much as there was; what is there moves */
    if (had == s->group_room) {
        const int64_t room = SLF_MIN(SLF_MAX(16, 2 * had), (int64_t)most + 1);
        int64_t *taken;
        slf_group *groups = slf_alloc_zero(context, (uint64_t)room, sizeof *groups + 2 * (uint64_t)m * sizeof *taken);
        if (!groups) return SALF_E_NO_MEMORY;
        taken = (int64_t *)(groups + room);
        if (had > 0) {
            memcpy(groups, s->groups, (size_t)had * sizeof *groups);
            memcpy(taken, s->group_taken, (size_t)(had * m) * sizeof *taken);
        }
        slf_free(context, s->groups);
        s->groups = groups;
        s->group_taken = taken;
        s->group_counts = taken + room * m; /* written once all groups are there */
        s->group_room = (int32_t)room;
    }
    /* 2. its place: ids that are known are found by hashing, the shared place by its index alone. The message comes
     * once, as the shared place is made once */
    if (*index < most) {
        s->known.most = most;
        SLF_TRY(slf_ids_add(&s->known, context, id, index));
    } else {
        slf_log(context, SALF_LOG_WARNING,
                "group %" PRId64 " is beyond max_groups, %" PRId32 ": it and further ones share one group", id, most);
    }
    s->groups[s->n_groups++] = (slf_group){.id = id};
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
        /* fewer than m are missing; each goes to the largest remainder that has not had one. O(m^2) a group, once */
        for (; missing > 0; missing--) {
            int32_t best = 0;
            uint64_t most = 0;
            for (int32_t e = 0; e < m; e++) {
                const uint64_t product = (uint64_t)left[e] * (uint64_t)size, rest = product % (uint64_t)n;
                if (counts[e] > (int64_t)(product / (uint64_t)n) || rest <= most) continue;
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

/* A counting sort. Nothing is booked before all groups have been checked. */
salf_status slf_stream_sort(slf_progress *progress, const salf_planner *p, const int64_t *found, int64_t *ordered) {
    slf_stream *s = &progress->stream;
    const int64_t n = progress->task_n;
    int64_t begin = 0;
    salf_status status = SALF_OK;
    /* 1. how many rows each group gets */
    for (int64_t i = 0; i < n; i++) {
        SLF_DO(slf_stream_group(progress, p, found[2 * i], &progress->group_of[i]));
        slf_group *group = &s->groups[progress->group_of[i]];
        group->fresh++;
        if (s->sized && group->rows + group->fresh > group->size)
            SLF_DO(slf_fail(SALF_E_ARGUMENT, "group %" PRId64 " has more data than its size, %" PRId64, group->id,
                            group->size));
    }
    /* 2. where its rows begin, which moves to where they end */
    for (int32_t k = 0; k < s->n_groups; k++) {
        const int64_t fresh = s->groups[k].fresh;
        s->groups[k].fresh = begin;
        begin += fresh;
    }
    for (int64_t i = 0; i < n; i++) ordered[s->groups[progress->group_of[i]].fresh++] = i;
    return SALF_OK;
done:
    for (int32_t k = 0; k < s->n_groups; k++) s->groups[k].fresh = 0;
    return status;
}
