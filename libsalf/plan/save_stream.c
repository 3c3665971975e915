/*
 * save_stream.c - progress of a stream as bytes (docs/formats.md).
 *
 * Nothing of it is found again from the plan, as cuts depend on how a host's batches were cut and on what probes found:
 * what each layer and group has had is written, and the cuts of a task that is given out, of all ranks.
 */
#include "core/blob.h"
#include "plan/plan.h"

/* Position, numbers a layer, groups in the order in which they came, and the task's cuts. What the whole has taken is
 * the sum over the groups where there are some, but a plan without groups has only that. */
void slf_stream_write(const salf_planner *p, slf_blob *blob) {
    const slf_progress *progress = &p->progress;
    const slf_stream *s = &progress->stream;
    slf_blob_put_u64(blob, (uint64_t)s->position);
    for (int64_t i = 0; i < 5 * (int64_t)p->m; i++) slf_blob_put_u64(blob, (uint64_t)progress->matched[i]);
    slf_blob_put_u64(blob, s->sized);
    slf_blob_put_u64(blob, (uint64_t)s->n_groups);
    for (int64_t g = 0; g < s->n_groups; g++) {
        const slf_group *group = &s->groups[g];
        slf_blob_put_u64(blob, (uint64_t)group->id);
        slf_blob_put_u64(blob, (uint64_t)group->size);
        slf_blob_put_u64(blob, (uint64_t)group->passed);
        for (int32_t e = 0; e < p->m; e++) slf_blob_put_u64(blob, (uint64_t)s->group_taken[g * p->m + e]);
    }
    /* Drawn already, and booked above: a load gives them again, with the same rows */
    for (int64_t i = 0; progress->phase == SLF_PHASE_TRAIN && i < progress->task_n; i++)
        slf_blob_put_u64(blob, (uint64_t)progress->cuts[i]);
}

/* Groups in the order in which they came: it says who shares the last place. The set of ids is made anew, and refuses
 * an id that comes twice, as its index is then another. Each takes room only when its numbers have been read. taken:
 * data of all. */
static salf_status read_groups(const salf_planner *p, slf_blob *blob, slf_progress *s, bool sized, int64_t taken) {
    slf_stream *t = &s->stream;
    int64_t n_groups, in_groups = 0, value;
    SLF_TRY(slf_blob_value(blob, "number of groups", p->options.max_groups + (int64_t)!sized, &n_groups));
    if (sized && n_groups == 0) return slf_blob_bad_value("number of groups", n_groups);
    for (int32_t g = 0, index; g < n_groups; g++) {
        int64_t size, passed, id;
        SLF_TRY(slf_blob_check_bytes(blob, 8 * (3 + (uint64_t)p->m)));
        id = (int64_t)slf_blob_get_u64(blob);
        if (id != (int32_t)id) return slf_blob_bad_value("group", id);
        SLF_TRY(slf_stream_group(s, p, id, &index));
        if (index != g) return slf_blob_bad_value("group", id);
        SLF_TRY(slf_blob_value(blob, "size of a group", sized ? p->n : 0, &size));
        SLF_TRY(slf_blob_value(blob, "passed rows of a group", p->n, &passed));
        slf_group *group = &t->groups[g];
        for (int32_t e = 0; e < p->m; e++) {
            SLF_TRY(slf_blob_value(blob, "count of a group", p->n, &value));
            t->group_taken[(int64_t)g * p->m + e] = value;
            group->rows += value;
        }
        if (passed > group->rows) return slf_blob_bad_value("passed rows of a group", passed);
        if (sized && (size < 1 || group->rows > size)) return slf_blob_bad_value("size of a group", size);
        group->passed = passed;
        group->size = size;
        in_groups += sized ? size : group->rows;
    }
    if (in_groups != (sized ? p->n : taken)) return slf_blob_bad_value("number of data in groups", in_groups);
    t->sized = sized;
    if (sized) SLF_TRY(slf_stream_share(s, p));
    for (int32_t e = 0; e < p->m; e++) {
        int64_t sum = 0;
        for (int64_t g = 0; g < n_groups; g++) {
            sum += t->group_taken[g * p->m + e];
            if (sized && t->group_taken[g * p->m + e] > t->group_counts[g * p->m + e])
                return slf_blob_bad_value("count of a group", t->group_taken[g * p->m + e]);
        }
        if (sum != t->taken[e]) return slf_blob_bad_value("count of a layer", t->taken[e]);
    }
    return SALF_OK;
}

/* Every number is checked against the others: what each layer and group has had sums to the position and the task, no
 * layer of a plan that ends exactly has more than its count, and none has a count it cannot keep. */
salf_status slf_stream_read(const salf_planner *p, slf_blob *blob, slf_progress *s) {
    slf_stream *t = &s->stream;
    const bool random = p->options.assignment == SALF_ASSIGN_RANDOM, drawn = s->phase == SLF_PHASE_TRAIN;
    int64_t sized, taken = 0, batches = 0, value;
    /* 1. numbers of the layers. A task is open or not; only EOF and GAIN have a phase before cuts are known */
    SLF_TRY(slf_plan_check_size(p));
    SLF_TRY(slf_blob_value(blob, "position", p->n - s->task_n, &t->position));
    if (s->phase == SLF_PHASE_REPORTED || (s->phase == SLF_PHASE_PROBE && random))
        return slf_blob_bad_value("phase", s->phase);
    for (int64_t i = 0; i < 5 * (int64_t)p->m; i++)
        SLF_TRY(slf_blob_value(blob, "count of a layer", p->n, &s->matched[i]));
    /* totals are exact but where groups run MIXED without sizes, or batches have one cut */
    SLF_TRY(slf_blob_value(blob, "flag of sizes", !random, &sized));
    const bool exact = !p->options.one_cut && (random || sized || p->options.stream_order == SALF_STREAM_STAGED);
    for (int32_t e = 0; e < p->m; e++) {
        if (s->matched[e] + s->filled[e] != t->taken[e] || (exact && t->taken[e] > p->counts[e]))
            return slf_blob_bad_value("count of a layer", t->taken[e]);
        if (s->probed[e] != (random ? 0 : t->taken[e]))
            return slf_blob_bad_value("probed count of a layer", s->probed[e]);
        if (!p->options.one_cut && t->batches[e] != 0) return slf_blob_bad_value("batches of a layer", t->batches[e]);
        if (t->batches[e] > t->taken[e]) return slf_blob_bad_value("batches of a layer", t->batches[e]);
        taken += t->taken[e];
        batches += t->batches[e];
    }
    if (taken != t->position + (drawn ? s->task_n : 0)) return slf_blob_bad_value("position", t->position);
    if (p->options.one_cut && (batches == 0) != (taken == 0)) return slf_blob_bad_value("number of batches", batches);
    /* 2. groups */
    if (random)
        SLF_TRY(slf_blob_value(blob, "number of groups", 0, &value));
    else
        SLF_TRY(read_groups(p, blob, s, sized != 0, taken));
    /* 3. the task's cuts */
    SLF_TRY(slf_blob_check_bytes(blob, drawn ? 8 * (uint64_t)s->task_n : 0));
    SLF_TRY(slf_progress_room(s, p, s->task_n));
    for (int64_t i = 0; i < s->task_n; i++) s->ids[i] = (uint32_t)(t->position + i);
    int32_t lowest = drawn ? p->m - 1 : t->position == p->n ? p->m : 0;
    for (int64_t i = 0; drawn && i < s->task_n; i++) {
        SLF_TRY(slf_blob_value(blob, "cut of a row", p->m - 1, &value));
        if (t->taken[value] == 0 || (p->options.one_cut && i > 0 && value != s->cuts[0]))
            return slf_blob_bad_value("cut of a row", value);
        s->cuts[i] = (int32_t)value;
        lowest = SLF_MIN(lowest, s->cuts[i]);
    }
    /* between tasks the layer is that of the last one, and so of no meaning */
    if (s->phase != SLF_PHASE_IDLE && s->layer != lowest) return slf_blob_bad_value("layer", s->layer);
    return SALF_OK;
}
