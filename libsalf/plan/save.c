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

/* Data of the task at hand; ONLINE: with those that are held, before them or, in a TRAIN task, behind. */
static const uint32_t *ids_at_hand(const salf_planner *p, int64_t *n) {
    const slf_progress *s = &p->progress;
    *n = s->task_n;
    if (slf_plan_settles(p)) return s->task_n > 0 ? s->offline.data + s->offline.position : NULL;
    *n = s->online.held + (s->phase == SLF_PHASE_PROBE ? s->task_n : 0);
    return s->ids;
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
    int64_t n = 0;
    const uint32_t *data = ids_at_hand(p, &n);
    slf_agreement_add_array(a, "data of the task (hash)", data, (uint64_t)n * sizeof *data);
}

/* ---- writing ---- */

/* Position, numbers a layer, groups in the order in which they came, and the task's cuts. What the whole has taken is
 * the sum over the groups where there are some, but a plan without groups has only that. */
static void write_stream(const salf_planner *p, slf_blob *blob) {
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

/* Called twice, to measure and to write: it must put the same both times. */
static void write_plan(const void *user, slf_blob *blob) {
    const salf_planner *p = user;
    const slf_progress *s = &p->progress;
    slf_field fields[PLAN_FIELDS];
    list_plan_fields(p, fields);
    slf_blob_put_fields(blob, fields, PLAN_FIELDS);
    for (int32_t e = 0; p->options.weights && e < p->m; e++) slf_blob_put_f64(blob, p->options.weights[e]);
    slf_blob_put_u64(blob, (uint64_t)s->layer);
    slf_blob_put_u64(blob, (uint64_t)s->phase);
    slf_blob_put_u64(blob, (uint64_t)s->task_n);
    if (slf_plan_is_stream(p)) {
        write_stream(p, blob);
    } else if (slf_plan_is_online(p)) {
        /* before the first task there is nothing of a datum, and N may be too large for any */
        slf_blob_put_u64(blob, s->online.used != NULL);
        if (!s->online.used) return;
        slf_blob_put_u64(blob, (uint64_t)s->online.scan);
        for (int64_t i = 0; i < 3 * (int64_t)p->m; i++) slf_blob_put_u64(blob, (uint64_t)s->matched[i]);
        for (int64_t w = 0; w < slf_bit_words(p->n); w++) slf_blob_put_u64(blob, s->online.used[w]);
        int64_t n;
        const uint32_t *ids = ids_at_hand(p, &n);
        if (p->options.full_batches) slf_blob_put_u64(blob, (uint64_t)s->online.held);
        for (int64_t i = 0; i < n; i++) slf_blob_put_u64(blob, ids[i]);
        for (int64_t i = 0; p->options.full_batches && i < s->online.held; i++)
            slf_blob_put_u64(blob, (uint64_t)s->cuts[i]);
    } else {
        slf_blob_put_u64(blob, s->offline.data != NULL); /* settled: loads settle again */
        slf_blob_put_u64(blob, (uint64_t)(s->offline.position - slf_plan_data_below(p, s->layer)));
        slf_blob_put_u64(blob, s->offline.eof != NULL);
        for (int64_t i = 0; s->offline.eof && i < p->n; i++) {
            const uint8_t bytes[2] = {(uint8_t)s->offline.eof[i], (uint8_t)(s->offline.eof[i] >> 8)};
            slf_blob_put(blob, bytes, sizeof bytes);
        }
    }
}

salf_status salf_planner_save(const salf_planner *planner, void *buffer, uint64_t *size) {
    SLF_REQUIRE(planner, size);
    return slf_blob_save(plan_kind, PLAN_VERSION, write_plan, planner, buffer, size);
}

/* ---- reading ---- */

/* Settled data are settled again, from the eof, so that nothing in the blob can place a datum twice. That takes as long
 * as it took at first. */
static salf_status read_offline(const salf_planner *p, slf_blob *blob, slf_progress *s) {
    const int64_t below = slf_plan_data_below(p, s->layer), own = s->layer < p->m ? p->counts[s->layer] : 0;
    const int64_t task_n = s->task_n, most = p->options.full_batches ? p->n - below : own; /* a task goes on there */
    int64_t settled, has_eof, position;
    SLF_TRY(slf_blob_value(blob, "flag of settled data", 1, &settled));
    SLF_TRY(slf_blob_value(blob, "position", most, &position));
    SLF_TRY(slf_blob_value(blob, "flag of eof", p->options.matching == SALF_MATCH_OFFLINE, &has_eof));
    /* before anything is settled nothing was given out; after that, TRAIN tasks only, within the layer's data */
    if (!settled && s->layer != 0) return slf_blob_bad_value("layer", s->layer);
    if (!settled && position != 0) return slf_blob_bad_value("position", position);
    if (s->phase != SLF_PHASE_IDLE && (s->phase != SLF_PHASE_TRAIN || !settled || s->layer == p->m))
        return slf_blob_bad_value("phase", s->phase);
    if (s->phase == SLF_PHASE_TRAIN && (position >= own || task_n > most - position))
        return slf_blob_bad_value("task size", task_n);
    s->offline.position = below + position;
    if (has_eof) {
        SLF_TRY(slf_plan_check_size(p));
        SLF_TRY(slf_blob_check_bytes(blob, 2 * (uint64_t)p->n));
        SLF_TRY(SLF_ALLOC(p->context, s->offline.eof, p->n));
        for (int64_t i = 0; i < p->n; i++) {
            uint8_t bytes[2];
            slf_blob_get(blob, bytes, sizeof bytes);
            const uint16_t eof = (uint16_t)(bytes[0] | bytes[1] << 8);
            if (eof >= p->m && (settled || eof != SLF_EOF_UNKNOWN)) return slf_blob_bad_value("eof of a datum", eof);
            s->offline.eof[i] = eof;
        }
    } else if (settled && p->options.matching == SALF_MATCH_OFFLINE) {
        return slf_blob_bad_value("flag of eof", 0);
    }
    if (settled) SLF_TRY(slf_plan_settle(p, s));
    return task_n > 0 ? slf_progress_settled(s, p, task_n) : SALF_OK;
}

/* The ids at hand: each once, those that are held used, those that are probed not. Each one's bit is turned over as it
 * is read, which shows the second of two, and then turned back. booked: data that are used. */
static salf_status read_ids(const salf_planner *p, slf_blob *blob, slf_progress *s, int64_t booked) {
    slf_online *o = &s->online;
    const bool full = p->options.full_batches, probe = s->phase == SLF_PHASE_PROBE;
    int64_t held = probe ? 0 : s->task_n;
    if (full) SLF_TRY(slf_blob_value(blob, "number of data held", booked, &held));
    if (full && s->phase == SLF_PHASE_REPORTED && s->task_n > 0) return slf_blob_bad_value("task size", s->task_n);
    if (!probe && s->task_n > held) return slf_blob_bad_value("task size", s->task_n);
    const int64_t ids = held + (probe ? s->task_n : 0);
    SLF_TRY(slf_blob_check_bytes(blob, 8 * (uint64_t)(ids + (full ? held : 0))));
    SLF_TRY(slf_progress_room(s, p, ids));
    for (int64_t i = 0, id, begin = 0; begin < ids; begin = i) {
        const bool used = begin < held;
        for (const int64_t end = used ? held : ids; i < end; i++) {
            SLF_TRY(slf_blob_value(blob, "datum of the task", p->n - 1, &id));
            if (slf_bit_get(o->used, id) != used) return slf_blob_bad_value("datum of the task", id);
            slf_bit_flip(o->used, id);
            s->ids[i] = (uint32_t)id;
        }
        for (int64_t k = begin; k < i; k++) slf_bit_flip(o->used, s->ids[k]);
    }
    o->held = held;
    /* Cuts ascend, as layers have their turns in order, and none is above the layer whose turn it is. A layer with more
     * cuts than data is no harm: each datum trains once. */
    for (int64_t i = 0, cut = s->layer; i < held; i++) {
        if (full) SLF_TRY(slf_blob_value(blob, "cut of a datum", SLF_MIN(s->layer, p->m - 1), &cut));
        if (i > 0 && cut < s->cuts[i - 1]) return slf_blob_bad_value("cut of a datum", cut);
        s->cuts[i] = (int32_t)cut;
    }
    return SALF_OK;
}

static salf_status read_online(const salf_planner *p, slf_blob *blob, slf_progress *s) {
    slf_online *o = &s->online;
    const uint64_t words = (uint64_t)slf_bit_words(p->n);
    int64_t begun;
    SLF_TRY(slf_blob_value(blob, "flag of used data", 1, &begun));
    const bool ahead = p->options.full_batches && s->phase == SLF_PHASE_TRAIN; /* of the data that train */
    if (s->phase != SLF_PHASE_IDLE && (!begun || (s->layer == p->m && !ahead)))
        return slf_blob_bad_value("phase", s->phase);
    if (!begun) return s->layer == 0 ? SALF_OK : slf_blob_bad_value("layer", s->layer);
    SLF_TRY(slf_plan_check_size(p));
    SLF_TRY(slf_blob_value(blob, "scan position", p->n, &o->scan));
    for (int64_t i = 0; i < 3 * (int64_t)p->m; i++)
        SLF_TRY(slf_blob_value(blob, "count of a layer", p->n, &s->matched[i]));
    SLF_TRY(slf_blob_check_bytes(blob, 8 * words));
    SLF_TRY(SLF_ALLOC(p->context, o->used, words));
    for (uint64_t w = 0; w < words; w++) o->used[w] = slf_blob_get_u64(blob);
    /* Layers before the turn are full, those after it untouched, and as many data are used as all layers hold: then as
     * many are unused as layers still lack, and no later draw can run out of them. */
    int64_t booked = 0, n_used = 0;
    for (int32_t e = 0; e < p->m; e++) {
        const int64_t count = p->counts[e], matched = s->matched[e], filled = s->filled[e];
        if (matched > count) return slf_blob_bad_value("matched count of a layer", matched);
        if (filled > count - matched) return slf_blob_bad_value("filled count of a layer", filled);
        if (e < s->layer && matched + filled != count)
            return slf_blob_bad_value("count of a full layer", matched + filled);
        if (s->probed[e] < matched) return slf_blob_bad_value("probed count of a layer", s->probed[e]);
        if (e > s->layer && s->probed[e] + filled != 0)
            return slf_blob_bad_value("count of a later layer", s->probed[e]);
        booked += matched + filled;
    }
    for (int64_t w = 0; w < slf_bit_words(p->n); w++) n_used += __builtin_popcountll(o->used[w]);
    if (p->n % 64 != 0 && o->used[p->n / 64] >> (p->n % 64)) return slf_blob_bad_value("number of data", p->n);
    if (n_used != booked) return slf_blob_bad_value("number of used data", n_used);
    return read_ids(p, blob, s, booked);
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
static salf_status read_stream(const salf_planner *p, slf_blob *blob, slf_progress *s) {
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

/* In the order of write_plan: what the plan follows from, the turn, and then either kind of progress. The old progress
 * is freed only when the new one is whole; until then both are there, twice the memory. */
salf_status salf_planner_load(salf_planner *planner, const void *buffer, uint64_t size) {
    SLF_REQUIRE(planner, buffer);
    const salf_planner *p = planner;
    slf_blob blob;
    SLF_TRY(slf_blob_open(plan_kind, slf_plan_is_stream(p) ? PLAN_OF_STREAMS : PLAN_OLDEST, PLAN_VERSION, buffer, size,
                          &blob));
    if (blob.version <= PLAN_OF_STREAMS && p->options.full_batches)
        return slf_fail(SALF_E_MISMATCH, "full_batches is 0 in the blob, 1 in this planner");
    slf_progress read;
    salf_status status;
    SLF_TRY(slf_progress_init(&read, p));
    /* 1. a plan like this one */
    slf_field fields[PLAN_FIELDS];
    list_plan_fields(p, fields);
    const int n_fields[] = {[2] = PLAN_FIELDS_2, [PLAN_OF_STREAMS] = PLAN_FIELDS_3, [PLAN_VERSION] = PLAN_FIELDS};
    SLF_DO(slf_blob_check_fields(&blob, fields, n_fields[blob.version], "planner"));
    for (int32_t e = 0; p->options.weights && e < p->m; e++) {
        const double saved = slf_blob_get_f64(&blob), own = p->options.weights[e];
        if (slf_bits_of(saved) != slf_bits_of(own) && !blob.short_of_room)
            SLF_DO(slf_fail(SALF_E_MISMATCH, "weight %" PRId32 " is %g in the blob, %g in this one", e, saved, own));
    }
    /* 2. whose turn it is */
    int64_t layer, phase;
    SLF_DO(slf_blob_value(&blob, "layer", p->m, &layer));
    SLF_DO(slf_blob_value(&blob, "phase", SLF_PHASE_TRAIN, &phase));
    SLF_DO(slf_blob_value(&blob, "task size", p->n, &read.task_n));
    const bool may_be_empty = phase == SLF_PHASE_IDLE || phase == SLF_PHASE_REPORTED;
    if (read.task_n == 0 ? !may_be_empty : phase == SLF_PHASE_IDLE)
        SLF_DO(slf_blob_bad_value("task size", read.task_n));
    read.layer = (int32_t)layer;
    read.phase = (int32_t)phase;
    /* 3. what has been done */
    SLF_DO(slf_plan_is_stream(p)   ? read_stream(p, &blob, &read)
           : slf_plan_is_online(p) ? read_online(p, &blob, &read)
                                   : read_offline(p, &blob, &read));
    /* A longer blob is of another kind or was put together wrongly; its end would be passed over in silence. */
    if (blob.used != blob.room)
        SLF_DO(slf_fail(SALF_E_CORRUPT, "%" PRIu64 " bytes too many in the blob", blob.room - blob.used));
    slf_progress_share(&read, p);
    slf_progress_free(&planner->progress, planner);
    planner->progress = read;
    return SALF_OK;
done:
    slf_progress_free(&read, planner);
    return status;
}
