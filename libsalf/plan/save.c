/*
 * save.c - a planner's progress as bytes (docs/formats.md).
 *
 * What follows from the plan, the seed and the eof is not written but found again: OFFLINE keeps the eof and how far
 * the host has come, NONE only the latter, ONLINE the set of used data and those that are held. Nothing of a stream is
 * found again, as its cuts depend on how a host's batches were cut and on what probes found: STREAM writes what each
 * layer and group has had, and the cuts of a task that is given out, of all ranks. Fills after a load draw from the
 * beginning of the random order again: all that was drawn before is used, and passed over.
 *
 * A load builds a second progress, checks it whole, and then takes it over. It believes no size: what is allocated
 * follows from the planner's own N and m, after the payload has proved long enough.
 */
#include <inttypes.h>
#include <string.h>

#include "core/blob.h"
#include "plan/plan.h"

/* Version 1 (libsalf 0.1) named the data of fills by another random order, which is gone; so it is refused. Version 2
 * knows no streams, version 3 no full_batches. */
enum { PLAN_VERSION = 4, PLAN_OF_STREAMS = 3, PLAN_OLDEST = 2 };
static const char plan_kind[4] = {'P', 'L', 'A', 'N'};

/* What a plan follows from, but for weights. A planner that differs in one of them has other data in other layers. */
enum { PLAN_FIELDS = 12, PLAN_FIELDS_3 = 11, PLAN_FIELDS_2 = 8 };
static void list_plan_fields(const salf_planner *p, slf_field fields[PLAN_FIELDS]) {
    const salf_planner_options *o = &p->options;
    const slf_field own[PLAN_FIELDS] = {{"n_layers", (uint64_t)p->m},
                                        {"n_data", (uint64_t)p->n},
                                        {"growth", (uint64_t)o->growth},
                                        {"infill", (uint64_t)o->infill},
                                        {"matching", (uint64_t)o->matching},
                                        {"ratio (bits)", slf_bits_of(o->ratio)},
                                        {"seed", o->seed},
                                        {"probe_limit", (uint64_t)o->probe_limit}, /* in force, never 0 */
                                        {"assignment", (uint64_t)o->assignment},
                                        {"stream_order, one_cut", (uint64_t)(o->stream_order * 2 + o->one_cut)},
                                        {"max_groups", (uint64_t)o->max_groups},
                                        {"full_batches", (uint64_t)o->full_batches}};
    memcpy(fields, own, sizeof own);
}

/* Of the task its data and what is held behind them, or in a stream its cuts, where they are known by now. What a group
 * has had of each layer is left out: it shows in the cuts. */
void slf_plan_agree(const salf_planner *p, slf_agreement *a) {
    const slf_progress *s = &p->progress;
    const slf_stream *stream = &s->stream;
    const bool streams = slf_plan_is_stream(p), trains = s->phase == SLF_PHASE_TRAIN;
    list_plan_fields(p, a->fields + a->n);
    a->n += PLAN_FIELDS;
    slf_agreement_add_array(a, "weights (hash)", p->options.weights,
                            p->options.weights ? (uint64_t)p->m * sizeof(double) : 0);
    slf_agreement_add(a, "the planner's ranks", (uint64_t)p->context->options.ranks);
    if (streams) slf_agreement_add(a, "position in the stream", (uint64_t)stream->position);
    slf_agreement_add(a, "the layer of the task", (uint64_t)s->layer);
    slf_agreement_add(a, "whether the task is answered", (uint64_t)s->phase);
    slf_agreement_add(a, "rows of the task, of all ranks", (uint64_t)s->task_n);
    slf_agreement_add(a, "the most that was asked for", (uint64_t)s->asked);
    if (streams) {
        slf_agreement_add_array(a, "cuts of the task (hash)", s->cuts,
                                trains ? (uint64_t)s->task_n * sizeof *s->cuts : 0);
        slf_agreement_add_array(a, "groups (hash)", stream->groups,
                                (uint64_t)stream->n_groups * sizeof *stream->groups);
        return;
    }
    const uint32_t *data = s->ids;
    int64_t n = s->task_n;
    if (slf_plan_is_online(p)) /* with those that are held, before them or, in a TRAIN task, behind */
        n = s->online.held + (s->phase == SLF_PHASE_PROBE ? s->task_n : 0);
    else
        data = n > 0 ? s->offline.data + s->offline.position : NULL;
    slf_agreement_add_array(a, "data of the task (hash)", data, (uint64_t)n * sizeof *data);
}

/* ---- saved bytes ---- */

typedef struct plan_save {
    const salf_planner *planner;
    slf_progress *progress; /* saving: a copy of the planner's, whose arrays are read only; loading: a new one */
} plan_save;

/* Settled data are settled again, from the eof, so that nothing in the blob can place a datum twice. That takes as long
 * as it took at first. */
static salf_status move_offline(const salf_planner *p, slf_progress *s, slf_blob *blob) {
    const int64_t below = slf_plan_data_below(p, s->layer), own = s->layer < p->m ? p->counts[s->layer] : 0;
    const int64_t most = p->options.full_batches ? p->n - below : own; /* a task goes on over the layer's end */
    const int64_t task_n = s->task_n;
    slf_offline *o = &s->offline;
    /* 1. how far it has come, from the layer's first datum on, and the eof */
    int64_t settled = o->data != NULL, position = o->position - below, has_eof = o->eof != NULL;
    SLF_TRY(slf_blob_value(blob, "flag of settled data", 1, &settled));
    SLF_TRY(slf_blob_value(blob, "position", most, &position));
    SLF_TRY(slf_blob_value(blob, "flag of eof", p->options.matching == SALF_MATCH_OFFLINE, &has_eof));
    if (has_eof) {
        SLF_TRY(slf_plan_check_size(p));
        SLF_TRY(slf_blob_check_bytes(blob, 2 * (uint64_t)p->n));
        if (blob->reads) SLF_TRY(SLF_ALLOC(p->context, o->eof, p->n));
        for (int64_t i = 0; i < p->n; i++) {
            uint8_t bytes[2] = {0};
            if (!blob->reads) bytes[0] = (uint8_t)o->eof[i];
            if (!blob->reads) bytes[1] = (uint8_t)(o->eof[i] >> 8);
            slf_blob_bytes(blob, bytes, sizeof bytes);
            if (!blob->reads) continue;
            const uint16_t eof = (uint16_t)(bytes[0] | bytes[1] << 8);
            if (eof >= p->m && (settled || eof != SLF_EOF_UNKNOWN)) return slf_blob_bad_value("eof of a datum", eof);
            o->eof[i] = eof;
        }
    }
    if (!blob->reads) return SALF_OK;
    /* 2. before anything is settled nothing was given out; after that, TRAIN tasks only, within the layer's data */
    if (!settled && s->layer != 0) return slf_blob_bad_value("layer", s->layer);
    if (!settled && position != 0) return slf_blob_bad_value("position", position);
    if (settled && !has_eof && p->options.matching == SALF_MATCH_OFFLINE) return slf_blob_bad_value("flag of eof", 0);
    if (s->phase != SLF_PHASE_IDLE && (s->phase != SLF_PHASE_TRAIN || !settled || s->layer == p->m))
        return slf_blob_bad_value("phase", s->phase);
    if (s->phase == SLF_PHASE_TRAIN && (position >= own || task_n > most - position))
        return slf_blob_bad_value("task size", task_n);
    o->position = below + position;
    if (settled) SLF_TRY(slf_plan_settle(p, s));
    return task_n > 0 ? slf_progress_settled(s, p, task_n) : SALF_OK;
}

/* Layers before the turn are full, those after it untouched, and as many data are used as all layers hold: then as many
 * are unused as layers still lack, and no later draw can run out of them. booked: how many these are. */
static salf_status check_online(const salf_planner *p, const slf_progress *s, int64_t *booked) {
    const uint64_t *used = s->online.used;
    int64_t n_used = 0;
    *booked = 0;
    for (int32_t e = 0; e < p->m; e++) {
        const int64_t count = p->counts[e], matched = s->matched[e], filled = s->filled[e];
        if (matched > count) return slf_blob_bad_value("matched count of a layer", matched);
        if (filled > count - matched) return slf_blob_bad_value("filled count of a layer", filled);
        if (e < s->layer && matched + filled != count)
            return slf_blob_bad_value("count of a full layer", matched + filled);
        if (s->probed[e] < matched) return slf_blob_bad_value("probed count of a layer", s->probed[e]);
        if (e > s->layer && s->probed[e] + filled != 0)
            return slf_blob_bad_value("count of a later layer", s->probed[e]);
        *booked += matched + filled;
    }
    for (int64_t w = 0; w < slf_bit_words(p->n); w++) n_used += __builtin_popcountll(used[w]);
    if (p->n % 64 != 0 && used[p->n / 64] >> (p->n % 64)) return slf_blob_bad_value("number of data", p->n);
    return n_used == *booked ? SALF_OK : slf_blob_bad_value("number of used data", n_used);
}

/* Ids first ... end-1 of those at hand: each once, and each of them used or none. Each one's bit is turned over, which
 * shows the second of two, and then turned back. */
static salf_status check_ids(const slf_progress *s, int64_t first, int64_t end, bool used) {
    uint64_t *bits = s->online.used;
    int64_t i = first;
    while (i < end && slf_bit_get(bits, s->ids[i]) == used) slf_bit_flip(bits, s->ids[i++]);
    const int64_t good = i;
    while (i > first) slf_bit_flip(bits, s->ids[--i]);
    return good == end ? SALF_OK : slf_blob_bad_value("datum of the task", s->ids[good]);
}

static salf_status move_online(const salf_planner *p, slf_progress *s, slf_blob *blob) {
    const bool full = p->options.full_batches, probe = s->phase == SLF_PHASE_PROBE;
    const bool ahead = full && s->phase == SLF_PHASE_TRAIN; /* the layer whose turn it is, of the data that train */
    const uint64_t words = (uint64_t)slf_bit_words(p->n);
    slf_online *o = &s->online;
    int64_t booked = p->n;
    /* 1. before the first task there is nothing of a datum, and N may be too large for any */
    int64_t begun = o->used != NULL;
    SLF_TRY(slf_blob_value(blob, "flag of used data", 1, &begun));
    if (blob->reads && s->phase != SLF_PHASE_IDLE && (!begun || (s->layer == p->m && !ahead)))
        return slf_blob_bad_value("phase", s->phase);
    if (!begun) return s->layer == 0 ? SALF_OK : slf_blob_bad_value("layer", s->layer);
    SLF_TRY(slf_plan_check_size(p));
    /* 2. what the layers have */
    SLF_TRY(slf_blob_value(blob, "scan position", p->n, &o->scan));
    for (int64_t i = 0; i < 3 * (int64_t)p->m; i++)
        SLF_TRY(slf_blob_value(blob, "count of a layer", p->n, &s->matched[i]));
    SLF_TRY(slf_blob_check_bytes(blob, 8 * words));
    if (blob->reads) SLF_TRY(SLF_ALLOC(p->context, o->used, words));
    for (uint64_t w = 0; w < words; w++) slf_blob_u64(blob, &o->used[w]);
    if (blob->reads) SLF_TRY(check_online(p, s, &booked));
    /* 3. the data that are held: without full_batches they are the task's. Those of a probe stand behind them */
    int64_t held = o->held;
    if (blob->reads && !probe) held = s->task_n;
    if (full) SLF_TRY(slf_blob_value(blob, "number of data held", booked, &held));
    if (full && s->phase == SLF_PHASE_REPORTED && s->task_n > 0) return slf_blob_bad_value("task size", s->task_n);
    if (!probe && s->task_n > held) return slf_blob_bad_value("task size", s->task_n);
    const int64_t ids = held + (probe ? s->task_n : 0);
    SLF_TRY(slf_blob_check_bytes(blob, 8 * (uint64_t)(ids + (full ? held : 0))));
    if (blob->reads) SLF_TRY(slf_progress_room(s, p, ids));
    if (blob->reads) o->held = held; /* they have a place now */
    for (int64_t i = 0; i < ids; i++) {
        int64_t id = blob->reads ? 0 : s->ids[i];
        SLF_TRY(slf_blob_value(blob, "datum of the task", p->n - 1, &id));
        if (blob->reads) s->ids[i] = (uint32_t)id;
    }
    if (blob->reads) {
        SLF_TRY(check_ids(s, 0, held, true));
        SLF_TRY(check_ids(s, held, ids, false)); /* of a probe */
    }
    /* 4. their cuts. They ascend, as layers have their turns in order, and none is above the layer whose turn it is. A
     * layer with more cuts than data is no harm: each datum trains once. */
    for (int64_t i = 0; i < o->held; i++) {
        if (blob->reads) s->cuts[i] = s->layer;
        if (full) SLF_TRY(slf_blob_value_i32(blob, "cut of a datum", SLF_MIN(s->layer, p->m - 1), &s->cuts[i]));
        if (i > 0 && s->cuts[i] < s->cuts[i - 1]) return slf_blob_bad_value("cut of a datum", s->cuts[i]);
    }
    return SALF_OK;
}

/* Groups in the order in which they came: it says who shares the last place. The set of ids is made anew, and refuses
 * an id that comes twice, as its index is then another. Each takes room only when its numbers have been read. What they
 * have had sums to what the layers have had, and where sizes are known no group has more than its own. */
static salf_status move_groups(const salf_planner *p, slf_progress *s, slf_blob *blob) {
    slf_stream *t = &s->stream;
    const bool groups = p->options.assignment != SALF_ASSIGN_RANDOM;
    int64_t sized = t->sized, n_groups = t->n_groups, in_groups = 0;
    SLF_TRY(slf_blob_value(blob, "flag of sizes", groups, &sized));
    SLF_TRY(slf_blob_value(blob, "number of groups", groups ? p->options.max_groups + (int64_t)!sized : 0, &n_groups));
    if (sized && n_groups == 0) return slf_blob_bad_value("number of groups", n_groups);
    for (int32_t g = 0, index; g < n_groups; g++) {
        uint64_t id = blob->reads ? 0 : (uint64_t)t->groups[g].id;
        SLF_TRY(slf_blob_check_bytes(blob, 8 * (3 + (uint64_t)p->m)));
        slf_blob_u64(blob, &id);
        if ((int64_t)id != (int32_t)id) return slf_blob_bad_value("group", (int64_t)id);
        if (blob->reads) {
            SLF_TRY(slf_stream_group(s, p, (int64_t)id, &index));
            if (index != g) return slf_blob_bad_value("group", (int64_t)id);
        }
        slf_group *group = &t->groups[g];
        SLF_TRY(slf_blob_value(blob, "size of a group", sized ? p->n : 0, &group->size));
        SLF_TRY(slf_blob_value(blob, "passed rows of a group", p->n, &group->passed));
        for (int32_t e = 0; e < p->m; e++)
            SLF_TRY(slf_blob_value(blob, "count of a group", p->n, &t->group_taken[(int64_t)g * p->m + e]));
        if (!blob->reads) continue;
        for (int32_t e = 0; e < p->m; e++) group->rows += t->group_taken[(int64_t)g * p->m + e];
        if (group->passed > group->rows) return slf_blob_bad_value("passed rows of a group", group->passed);
        if (sized && (group->size < 1 || group->rows > group->size))
            return slf_blob_bad_value("size of a group", group->size);
        in_groups += group->size;
    }
    if (!blob->reads || !groups) return SALF_OK;
    if (sized && in_groups != p->n) return slf_blob_bad_value("number of data in groups", in_groups);
    t->sized = sized != 0;
    if (sized) SLF_TRY(slf_stream_share(s, p));
    for (int32_t e = 0; e < p->m; e++) {
        int64_t sum = 0;
        for (int64_t g = 0; g < n_groups; g++) {
            const int64_t had = t->group_taken[g * p->m + e];
            if (sized && had > t->group_counts[g * p->m + e]) return slf_blob_bad_value("count of a group", had);
            sum += had;
        }
        if (sum != t->taken[e]) return slf_blob_bad_value("count of a layer", t->taken[e]);
    }
    return SALF_OK;
}

/* Position, numbers a layer, groups, and the task's cuts where they are drawn: these are booked, and a load gives them
 * again, with the same rows. What the whole has taken is the sum over the groups where there are some, but a plan
 * without groups has only that. */
static salf_status move_stream(const salf_planner *p, slf_progress *s, slf_blob *blob) {
    slf_stream *t = &s->stream;
    const bool random = p->options.assignment == SALF_ASSIGN_RANDOM, one_cut = p->options.one_cut;
    const bool drawn = s->phase == SLF_PHASE_TRAIN;
    const int64_t n_cuts = drawn ? s->task_n : 0;
    int64_t taken = 0, batches = 0;
    if (blob->reads) SLF_TRY(slf_plan_check_size(p)); /* what is too large to be run can be saved all the same */
    SLF_TRY(slf_blob_value(blob, "position", p->n - s->task_n, &t->position));
    /* A task is open or not; only EOF and GAIN have a phase before cuts are known */
    if (s->phase == SLF_PHASE_REPORTED || (s->phase == SLF_PHASE_PROBE && random))
        return slf_blob_bad_value("phase", s->phase);
    for (int64_t i = 0; i < 5 * (int64_t)p->m; i++)
        SLF_TRY(slf_blob_value(blob, "count of a layer", p->n, &s->matched[i]));
    SLF_TRY(move_groups(p, s, blob));
    /* Every number is checked against the others: what each layer has had sums to the position and the task, no layer
     * of a plan that ends exactly has more than its count, and none has a count it cannot keep. Totals are exact but
     * where groups run MIXED without sizes, or batches have one cut. */
    const bool exact = !one_cut && (random || t->sized || p->options.stream_order == SALF_STREAM_STAGED);
    for (int32_t e = 0; e < p->m && blob->reads; e++) {
        if (s->matched[e] + s->filled[e] != t->taken[e] || (exact && t->taken[e] > p->counts[e]))
            return slf_blob_bad_value("count of a layer", t->taken[e]);
        if (s->probed[e] != (random ? 0 : t->taken[e]))
            return slf_blob_bad_value("probed count of a layer", s->probed[e]);
        if (t->batches[e] > (one_cut ? t->taken[e] : 0)) return slf_blob_bad_value("batches of a layer", t->batches[e]);
        taken += t->taken[e];
        batches += t->batches[e];
    }
    if (blob->reads && taken != t->position + n_cuts) return slf_blob_bad_value("position", t->position);
    if (one_cut && (batches == 0) != (taken == 0)) return slf_blob_bad_value("number of batches", batches);
    SLF_TRY(slf_blob_check_bytes(blob, 8 * (uint64_t)n_cuts));
    if (blob->reads) SLF_TRY(slf_progress_room(s, p, s->task_n));
    for (int64_t i = 0; i < n_cuts; i++) SLF_TRY(slf_blob_value_i32(blob, "cut of a row", p->m - 1, &s->cuts[i]));
    if (!blob->reads) return SALF_OK;
    /* What follows from these: the task's data, and how deep it goes */
    for (int64_t i = 0; i < s->task_n; i++) s->ids[i] = (uint32_t)(t->position + i);
    int32_t lowest = t->position == p->n ? p->m : 0; /* without cuts */
    if (drawn) lowest = p->m - 1;
    for (int64_t i = 0; i < n_cuts; i++) {
        const int32_t cut = s->cuts[i];
        if (t->taken[cut] == 0 || (one_cut && cut != s->cuts[0])) return slf_blob_bad_value("cut of a row", cut);
        lowest = SLF_MIN(lowest, cut);
    }
    /* between tasks the layer is that of the last one, and so of no meaning */
    return s->phase == SLF_PHASE_IDLE || s->layer == lowest ? SALF_OK : slf_blob_bad_value("layer", s->layer);
}

/* What the plan follows from, whose turn it is, and what its kind of progress has. */
static salf_status move_plan(void *user, slf_blob *blob) {
    const plan_save *save = user;
    const salf_planner *p = save->planner;
    slf_progress *s = save->progress;
    /* 1. a plan like this one */
    static const int n_fields[] = {
        [2] = PLAN_FIELDS_2, [PLAN_OF_STREAMS] = PLAN_FIELDS_3, [PLAN_VERSION] = PLAN_FIELDS};
    slf_field fields[PLAN_FIELDS];
    list_plan_fields(p, fields);
    if (blob->version <= PLAN_OF_STREAMS && p->options.full_batches)
        return slf_fail(SALF_E_MISMATCH, "full_batches is 0 in the blob, 1 in this planner");
    SLF_TRY(slf_blob_fields(blob, fields, n_fields[blob->version], "planner"));
    if (p->options.weights) {
        for (int32_t e = 0; e < p->m; e++) {
            const double own = p->options.weights[e];
            double saved = own;
            slf_blob_f64(blob, &saved);
            if (slf_bits_of(saved) != slf_bits_of(own) && !blob->short_of_room)
                return slf_fail(SALF_E_MISMATCH, "weight %" PRId32 " is %.17g in the blob, %.17g in this one", e, saved,
                                own);
        }
    }
    /* 2. whose turn it is */
    SLF_TRY(slf_blob_value_i32(blob, "layer", p->m, &s->layer));
    SLF_TRY(slf_blob_value_i32(blob, "phase", SLF_PHASE_TRAIN, &s->phase));
    SLF_TRY(slf_blob_value(blob, "task size", p->n, &s->task_n));
    const bool may_be_empty = s->phase == SLF_PHASE_IDLE || s->phase == SLF_PHASE_REPORTED;
    if (s->task_n == 0 ? !may_be_empty : s->phase == SLF_PHASE_IDLE) return slf_blob_bad_value("task size", s->task_n);
    /* 3. what has been done */
    if (slf_plan_is_stream(p)) return move_stream(p, s, blob);
    return slf_plan_is_online(p) ? move_online(p, s, blob) : move_offline(p, s, blob);
}

salf_status salf_planner_save(const salf_planner *planner, void *buffer, uint64_t *size) {
    SLF_REQUIRE(planner, size);
    slf_progress progress = planner->progress;
    plan_save save = {planner, &progress};
    return slf_blob_save(plan_kind, PLAN_VERSION, move_plan, &save, buffer, size);
}

/* The old progress is freed only when the new one is whole; until then both are there, twice the memory. */
salf_status salf_planner_load(salf_planner *planner, const void *buffer, uint64_t size) {
    SLF_REQUIRE(planner, buffer);
    const uint32_t oldest = slf_plan_is_stream(planner) ? PLAN_OF_STREAMS : PLAN_OLDEST;
    slf_progress next;
    SLF_TRY(slf_progress_init(&next, planner));
    plan_save save = {planner, &next};
    const salf_status status = slf_blob_load(plan_kind, oldest, PLAN_VERSION, move_plan, &save, buffer, size);
    if (status == SALF_OK) {
        slf_progress_share(&next, planner);
        const slf_progress before = planner->progress;
        planner->progress = next;
        next = before;
    }
    slf_progress_free(&next, planner);
    return status;
}
