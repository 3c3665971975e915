/*
 * save.c - a planner's progress as bytes (docs/formats.md).
 *
 * What follows from the plan, the seed and the eof is not written but found again: OFFLINE keeps the eof and how far
 * the host has come, NONE only the latter, ONLINE the set of used data, STREAM a few numbers a layer and group, and the
 * cuts of a task that is given out, of all ranks. Fills after a load draw from the beginning of
 * the random order again: all that was drawn before is used, and passed over.
 *
 * A load builds a second progress, checks it whole, and then takes it over. It believes no size: what is allocated
 * follows from the planner's own N and m, after the payload has proved long enough.
 */
#include <inttypes.h>
#include <string.h>

#include "core/blob.h"
#include "plan/plan.h"

/* Version 1 (libsalf 0.1) named the data of fills by another random order, which is gone; so it is refused. Version 2
 * knows no streams. */
enum { PLAN_VERSION = 3, PLAN_OLDEST = 2 };
static const char plan_kind[4] = {'P', 'L', 'A', 'N'};

/* What a plan follows from, but for weights. A planner that differs in one of them has other data in other layers. */
enum { PLAN_FIELDS = 11, PLAN_FIELDS_2 = 8 };
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
                                        {"max_groups", (uint64_t)o->max_groups}};
    memcpy(fields, own, sizeof own);
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
    for (int64_t i = 0; progress->phase == SLF_PHASE_TRAIN && i < progress->task_n; i++)
        slf_blob_put_u64(blob, (uint64_t)s->cuts[i]);
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
    } else if (slf_plan_is_online(
                   p)) { /* before the first task there is nothing of a datum, and N may be too large for any */
        slf_blob_put_u64(blob, s->online.used != NULL);
        if (!s->online.used) return;
        slf_blob_put_u64(blob, (uint64_t)s->online.scan);
        for (int64_t i = 0; i < 3 * (int64_t)p->m; i++) slf_blob_put_u64(blob, (uint64_t)s->matched[i]);
        for (int64_t w = 0; w < slf_bit_words(p->n); w++) slf_blob_put_u64(blob, s->online.used[w]);
        for (int64_t i = 0; i < s->task_n; i++) slf_blob_put_u64(blob, s->online.ids[i]);
    } else {
        slf_blob_put_u64(blob, s->offline.data != NULL); /* settled: loads settle again */
        slf_blob_put_u64(blob, (uint64_t)s->offline.position);
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

/* The checksum was right, so that this blob was made by hand, or by a library with a fault. */
static salf_status bad_plan_value(const char *what, int64_t value) {
    return slf_fail(SALF_E_CORRUPT, "the blob's %s is %" PRId64, what, value);
}

/* A value of 0 ... most. Every number of the blob goes through here or is compared with the planner's own. */
static salf_status read_plan_value(slf_blob *blob, const char *what, int64_t most, int64_t *out) {
    *out = (int64_t)slf_blob_get_u64(blob);
    if (blob->short_of_room) return slf_fail(SALF_E_TRUNCATED, "the blob ends before its %s", what);
    return *out < 0 || *out > most ? bad_plan_value(what, *out) : SALF_OK;
}

/* Before memory is taken for what the next bytes hold. */
static salf_status check_plan_bytes(const slf_blob *blob, uint64_t bytes) {
    if (bytes <= blob->room - blob->used) return SALF_OK;
    return slf_fail(SALF_E_TRUNCATED, "the blob ends %" PRIu64 " bytes into a part of %" PRIu64,
                    blob->room - blob->used, bytes);
}

/* Settled data are settled again, from the eof, so that nothing in the blob can place a datum twice. That takes as long
 * as it took at first. */
static salf_status read_offline(const salf_planner *p, slf_blob *blob, slf_progress *s) {
    int64_t settled, has_eof;
    SLF_TRY(read_plan_value(blob, "flag of settled data", 1, &settled));
    SLF_TRY(read_plan_value(blob, "position", s->layer < p->m ? p->counts[s->layer] : 0, &s->offline.position));
    SLF_TRY(read_plan_value(blob, "flag of eof", p->options.matching == SALF_MATCH_OFFLINE, &has_eof));
    /* before anything is settled nothing was given out; after that, TRAIN tasks only, within the layer's data */
    if (!settled && s->layer != 0) return bad_plan_value("layer", s->layer);
    if (!settled && s->offline.position != 0) return bad_plan_value("position", s->offline.position);
    if (s->phase != SLF_PHASE_IDLE && (s->phase != SLF_PHASE_TRAIN || !settled || s->layer == p->m))
        return bad_plan_value("phase", s->phase);
    if (s->phase == SLF_PHASE_TRAIN && s->task_n > p->counts[s->layer] - s->offline.position)
        return bad_plan_value("task size", s->task_n);
    if (has_eof) {
        SLF_TRY(slf_plan_check_size(p));
        SLF_TRY(check_plan_bytes(blob, 2 * (uint64_t)p->n));
        SLF_TRY(SLF_ALLOC(p->context, s->offline.eof, p->n));
        for (int64_t i = 0; i < p->n; i++) {
            uint8_t bytes[2];
            slf_blob_get(blob, bytes, sizeof bytes);
            const uint16_t eof = (uint16_t)(bytes[0] | bytes[1] << 8);
            if (eof >= p->m && (settled || eof != SLF_EOF_UNKNOWN)) return bad_plan_value("eof of a datum", eof);
            s->offline.eof[i] = eof;
        }
    } else if (settled && p->options.matching == SALF_MATCH_OFFLINE) {
        return bad_plan_value("flag of eof", 0);
    }
    return settled ? slf_plan_settle(p, s) : SALF_OK;
}

static salf_status read_online(const salf_planner *p, slf_blob *blob, slf_progress *s) {
    slf_online *o = &s->online;
    const uint64_t words = (uint64_t)slf_bit_words(p->n);
    int64_t begun;
    SLF_TRY(read_plan_value(blob, "flag of used data", 1, &begun));
    if (s->phase != SLF_PHASE_IDLE && (!begun || s->layer == p->m)) return bad_plan_value("phase", s->phase);
    if (!begun) return s->layer == 0 ? SALF_OK : bad_plan_value("layer", s->layer);
    SLF_TRY(slf_plan_check_size(p));
    SLF_TRY(read_plan_value(blob, "scan position", p->n, &o->scan));
    for (int64_t i = 0; i < 3 * (int64_t)p->m; i++)
        SLF_TRY(read_plan_value(blob, "count of a layer", p->n, &s->matched[i]));
    SLF_TRY(check_plan_bytes(blob, 8 * words));
    SLF_TRY(SLF_ALLOC(p->context, o->used, words));
    for (uint64_t w = 0; w < words; w++) o->used[w] = slf_blob_get_u64(blob);
    /* Layers before the turn are full, those after it untouched, and as many data are used as all layers hold: then as
     * many are unused as layers still lack, and no later draw can run out of them. */
    int64_t booked = 0, n_used = 0;
    for (int32_t e = 0; e < p->m; e++) {
        const int64_t count = p->counts[e], matched = s->matched[e], filled = s->filled[e];
        if (matched > count) return bad_plan_value("matched count of a layer", matched);
        if (filled > count - matched) return bad_plan_value("filled count of a layer", filled);
        if (e < s->layer && matched + filled != count) return bad_plan_value("count of a full layer", matched + filled);
        if (s->probed[e] < matched) return bad_plan_value("probed count of a layer", s->probed[e]);
        if (e > s->layer && s->probed[e] + filled != 0) return bad_plan_value("count of a later layer", s->probed[e]);
        booked += matched + filled;
    }
    for (int64_t w = 0; w < slf_bit_words(p->n); w++) n_used += __builtin_popcountll(o->used[w]);
    if (p->n % 64 != 0 && o->used[p->n / 64] >> (p->n % 64)) return bad_plan_value("number of data", p->n);
    if (n_used != booked) return bad_plan_value("number of used data", n_used);
    /* The ids of the task at hand: each once, not used while they are probed, and used from then on. Each one's bit is
     * turned over as it is read, which shows the second of two, and then turned back. */
    const bool used = s->phase != SLF_PHASE_PROBE;
    SLF_TRY(check_plan_bytes(blob, 8 * (uint64_t)s->task_n));
    SLF_TRY(slf_progress_room(s, p, s->task_n));
    for (int64_t i = 0, id; i < s->task_n; i++) {
        SLF_TRY(read_plan_value(blob, "datum of the task", p->n - 1, &id));
        if (slf_bit_get(o->used, id) != used) return bad_plan_value("datum of the task", id);
        slf_bit_flip(o->used, id);
        o->ids[i] = (uint32_t)id;
    }
    for (int64_t i = 0; i < s->task_n; i++) slf_bit_flip(o->used, o->ids[i]);
    return SALF_OK;
}

/* Every number is checked against the others: what each layer and group has had sums to the position and the task, no
 * layer of a plan that ends exactly has more than its count, and none has a count it cannot keep. */
static salf_status read_stream(const salf_planner *p, slf_blob *blob, slf_progress *s) {
    slf_stream *t = &s->stream;
    const bool random = p->options.assignment == SALF_ASSIGN_RANDOM, drawn = s->phase == SLF_PHASE_TRAIN;
    int64_t sized, n_groups, taken = 0, batches = 0, in_groups = 0, value;
    /* 1. numbers of the layers. A task is open or not; only EOF and GAIN have a phase before cuts are known */
    SLF_TRY(slf_plan_check_size(p));
    SLF_TRY(read_plan_value(blob, "position", p->n - s->task_n, &t->position));
    if (s->phase == SLF_PHASE_REPORTED || (s->phase == SLF_PHASE_PROBE && random))
        return bad_plan_value("phase", s->phase);
    for (int64_t i = 0; i < 5 * (int64_t)p->m; i++)
        SLF_TRY(read_plan_value(blob, "count of a layer", p->n, &s->matched[i]));
    /* totals are exact but where groups run MIXED without sizes, or batches have one cut */
    SLF_TRY(read_plan_value(blob, "flag of sizes", !random, &sized));
    const bool exact = !p->options.one_cut && (random || sized || p->options.stream_order == SALF_STREAM_STAGED);
    for (int32_t e = 0; e < p->m; e++) {
        if (s->matched[e] + s->filled[e] != t->taken[e] || (exact && t->taken[e] > p->counts[e]))
            return bad_plan_value("count of a layer", t->taken[e]);
        if (s->probed[e] != (random ? 0 : t->taken[e])) return bad_plan_value("probed count of a layer", s->probed[e]);
        if (!p->options.one_cut && t->batches[e] != 0) return bad_plan_value("batches of a layer", t->batches[e]);
        if (t->batches[e] > t->taken[e]) return bad_plan_value("batches of a layer", t->batches[e]);
        taken += t->taken[e];
        batches += t->batches[e];
    }
    if (taken != t->position + (drawn ? s->task_n : 0)) return bad_plan_value("position", t->position);
    if (p->options.one_cut && (batches == 0) != (taken == 0)) return bad_plan_value("number of batches", batches);
    /* 2. groups. Each takes room only when its numbers have been read */
    SLF_TRY(read_plan_value(blob, "number of groups", random ? 0 : p->options.max_groups + (int64_t)!sized, &n_groups));
    if (sized && n_groups == 0) return bad_plan_value("number of groups", n_groups);
    for (int32_t g = 0, index; g < n_groups; g++) {
        int64_t size, passed, id;
        SLF_TRY(check_plan_bytes(blob, 8 * (3 + (uint64_t)p->m)));
        id = (int64_t)slf_blob_get_u64(blob);
        if (id != (int32_t)id) return bad_plan_value("group", id);
        SLF_TRY(slf_stream_group(s, p, id, &index));
        if (index != g) return bad_plan_value("group", id);
        SLF_TRY(read_plan_value(blob, "size of a group", sized ? p->n : 0, &size));
        SLF_TRY(read_plan_value(blob, "passed rows of a group", p->n, &passed));
        slf_group *group = &t->groups[g];
        for (int32_t e = 0; e < p->m; e++) {
            SLF_TRY(read_plan_value(blob, "count of a group", p->n, &value));
            t->group_taken[(int64_t)g * p->m + e] = value;
            group->rows += value;
        }
        if (passed > group->rows) return bad_plan_value("passed rows of a group", passed);
        if (sized && (size < 1 || group->rows > size)) return bad_plan_value("size of a group", size);
        group->passed = passed;
        group->size = size;
        in_groups += sized ? size : group->rows;
    }
    if (!random && in_groups != (sized ? p->n : taken)) return bad_plan_value("number of data in groups", in_groups);
    t->sized = sized != 0;
    if (sized) SLF_TRY(slf_stream_share(s, p));
    for (int32_t e = 0; e < p->m && !random; e++) {
        int64_t sum = 0;
        for (int64_t g = 0; g < n_groups; g++) {
            sum += t->group_taken[g * p->m + e];
            if (sized && t->group_taken[g * p->m + e] > t->group_counts[g * p->m + e])
                return bad_plan_value("count of a group", t->group_taken[g * p->m + e]);
        }
        if (sum != t->taken[e]) return bad_plan_value("count of a layer", t->taken[e]);
    }
    /* 3. the task's cuts */
    SLF_TRY(check_plan_bytes(blob, drawn ? 8 * (uint64_t)s->task_n : 0));
    if (s->task_n > 0) SLF_TRY(slf_stream_room(s, p, s->task_n));
    int32_t lowest = drawn ? p->m - 1 : t->position == p->n ? p->m : 0;
    for (int64_t i = 0; drawn && i < s->task_n; i++) {
        SLF_TRY(read_plan_value(blob, "cut of a row", p->m - 1, &value));
        if (t->taken[value] == 0 || (p->options.one_cut && i > 0 && value != t->cuts[0]))
            return bad_plan_value("cut of a row", value);
        t->cuts[i] = (int32_t)value;
        lowest = SLF_MIN(lowest, t->cuts[i]);
    }
    /* between tasks the layer is that of the last one, and so of no meaning */
    if (s->phase != SLF_PHASE_IDLE && s->layer != lowest) return bad_plan_value("layer", s->layer);
    return SALF_OK;
}

/* In the order of write_plan: what the plan follows from, the turn, and then either kind of progress. The old progress
 * is freed only when the new one is whole; until then both are there, twice the memory. */
salf_status salf_planner_load(salf_planner *planner, const void *buffer, uint64_t size) {
    SLF_REQUIRE(planner, buffer);
    const salf_planner *p = planner;
    slf_blob blob;
    SLF_TRY(slf_blob_open(plan_kind, slf_plan_is_stream(p) ? PLAN_VERSION : PLAN_OLDEST, PLAN_VERSION, buffer, size,
                          &blob));
    slf_progress read;
    salf_status status = slf_progress_init(&read, p);
    if (status != SALF_OK) return status;
    /* 1. a plan like this one */
    slf_field fields[PLAN_FIELDS];
    list_plan_fields(p, fields);
    SLF_DO(slf_blob_check_fields(&blob, fields, blob.version == 2 ? PLAN_FIELDS_2 : PLAN_FIELDS, "planner"));
    for (int32_t e = 0; p->options.weights && e < p->m; e++) {
        const double saved = slf_blob_get_f64(&blob), own = p->options.weights[e];
        if (slf_bits_of(saved) != slf_bits_of(own) && !blob.short_of_room)
            SLF_DO(
                slf_fail(SALF_E_MISMATCH, "weight %" PRId32 " is %g in the blob, %g in this planner", e, saved, own));
    }
    /* 2. whose turn it is */
    int64_t layer, phase;
    SLF_DO(read_plan_value(&blob, "layer", p->m, &layer));
    SLF_DO(read_plan_value(&blob, "phase", SLF_PHASE_TRAIN, &phase));
    SLF_DO(read_plan_value(&blob, "task size", p->n, &read.task_n));
    const bool may_be_empty = phase == SLF_PHASE_IDLE || phase == SLF_PHASE_REPORTED;
    if (read.task_n == 0 ? !may_be_empty : phase == SLF_PHASE_IDLE) SLF_DO(bad_plan_value("task size", read.task_n));
    read.layer = (int32_t)layer;
    read.phase = (int32_t)phase;
    /* 3. what has been done */
    SLF_DO(slf_plan_is_stream(p)   ? read_stream(p, &blob, &read)
           : slf_plan_is_online(p) ? read_online(p, &blob, &read)
                                   : read_offline(p, &blob, &read));
    /* A longer blob is of another kind or was put together wrongly; its end would be passed over in silence. */
    if (blob.used != blob.room)
        SLF_DO(slf_fail(SALF_E_CORRUPT, "%" PRIu64 " bytes too many in the blob", blob.room - blob.used));
    slf_progress_free(&planner->progress, planner);
    planner->progress = read;
    return SALF_OK;
done:
    slf_progress_free(&read, planner);
    return status;
}
