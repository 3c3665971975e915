/*
 * state.c - what a planner remembers, and its form as bytes.
 *
 * The payload is described in docs/formats.md. A load builds a second state, checks it whole and then takes it over. No
 * size in it is believed: what is allocated follows from the planner's own N and m, after the payload has proved long
 * enough.
 */
#include <string.h>

#include "core/blob.h"
#include "plan/plan.h"

static const char kind[4] = {'P', 'L', 'A', 'N'};

/* ---- memory ---- */

salf_status slf_state_init(slf_planner_state *state, const salf_planner *planner) {
    *state = (slf_planner_state){0};
    state->matched = slf_alloc_zero(planner->context, 3 * (uint64_t)planner->m, sizeof *state->matched);
    if (!state->matched) return SALF_E_NO_MEMORY;
    state->filled = state->matched + planner->m;
    state->probed = state->filled + planner->m;
    return SALF_OK;
}

void slf_state_free(slf_planner_state *state, const salf_planner *planner) {
    const salf_context *context = planner->context;
    slf_free(context, state->task_ids);
    slf_free(context, state->matched);
    slf_free(context, state->labels);
    slf_free(context, state->by_fill);
    slf_free(context, state->data);
    slf_free(context, state->used);
    slf_free(context, state->pending);
    slf_free(context, state->front.ids);
    slf_free(context, state->unused);
    *state = (slf_planner_state){0};
}

/* Room for a task of n ids; the old ones are not kept. */
salf_status slf_state_room(slf_planner_state *state, const salf_planner *planner, int64_t n) {
    if (n <= state->task_room) return SALF_OK;
    uint32_t *ids = slf_alloc(planner->context, (uint64_t)n, sizeof *ids);
    if (!ids) return SALF_E_NO_MEMORY;
    slf_free(planner->context, state->task_ids);
    state->task_ids = ids;
    state->task_room = n;
    return SALF_OK;
}

salf_status slf_state_online(slf_planner_state *state, const salf_planner *planner) {
    if (state->used) return SALF_OK;
    if (planner->n > (int64_t)UINT32_MAX)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner_next: %lld data; at most %lld can be matched",
                        (long long)planner->n, (long long)UINT32_MAX);
    const uint64_t words = (uint64_t)slf_bit_words(planner->n);
    uint64_t *used = slf_alloc_zero(planner->context, words, sizeof *used);
    uint64_t *pending = slf_alloc_zero(planner->context, words, sizeof *pending);
    if (!used || !pending) {
        slf_free(planner->context, used);
        slf_free(planner->context, pending);
        return SALF_E_NO_MEMORY;
    }
    state->used = used;
    state->pending = pending;
    return SALF_OK;
}

/* What fills need, before the first is drawn. */
salf_status slf_state_draws(slf_planner_state *state, const salf_planner *planner) {
    if (state->front.ids) return SALF_OK;
    if (!state->unused) state->unused = slf_alloc(planner->context, planner->order.buckets, sizeof *state->unused);
    if (!state->unused) return SALF_E_NO_MEMORY;
    state->front.ids = slf_alloc(planner->context, (uint64_t)planner->n, sizeof *state->front.ids);
    if (!state->front.ids) return SALF_E_NO_MEMORY;
    slf_front_list(&state->front, &planner->order, false);
    return SALF_OK;
}

/* ---- identity ---- */

#define IDENTITY_FIELDS 8

static void identity_of(const salf_planner *p, slf_field fields[IDENTITY_FIELDS]) {
    const salf_planner_options *o = &p->options;
    const slf_field own[IDENTITY_FIELDS] = {{"n_layers", (uint64_t)p->m},
                                            {"n_data", (uint64_t)p->n},
                                            {"growth", (uint64_t)o->growth},
                                            {"infill", (uint64_t)o->infill},
                                            {"matching", (uint64_t)o->matching},
                                            {"ratio (bits)", slf_bits_of(o->ratio)},
                                            {"seed", o->seed},
                                            {"probe_limit", (uint64_t)o->probe_limit}};
    memcpy(fields, own, sizeof own);
}

static salf_status check_identity(const salf_planner *p, slf_blob *blob) {
    slf_field fields[IDENTITY_FIELDS];
    identity_of(p, fields);
    SLF_TRY(slf_blob_check_fields(blob, fields, IDENTITY_FIELDS, "salf_planner_load", "planner"));
    for (int32_t e = 0; p->weights && e < p->m; e++) {
        const double saved = slf_blob_get_f64(blob);
        if (slf_bits_of(saved) != slf_bits_of(p->weights[e]) && !blob->short_of_room)
            return slf_fail(SALF_E_MISMATCH, "salf_planner_load: weight %d is %g in the state, %g in this planner",
                            (int)e, saved, p->weights[e]);
    }
    return SALF_OK;
}

/* ---- writing ---- */

static void put_words(slf_blob *blob, const uint64_t *words, int64_t n) {
    for (int64_t i = 0; i < n; i++) slf_blob_put_u64(blob, words[i]);
}

static void put_labels(slf_blob *blob, const salf_planner *p) {
    if (slf_label_is_byte(p->m)) {
        slf_blob_put(blob, p->state.labels, (uint64_t)p->n);
        return;
    }
    for (int64_t i = 0; i < p->n; i++) {
        const uint32_t label = slf_label_read(false, p->state.labels, i);
        const uint8_t bytes[2] = {(uint8_t)label, (uint8_t)(label >> 8)};
        slf_blob_put(blob, bytes, sizeof bytes);
    }
}

static void put_online(slf_blob *blob, const salf_planner *p) {
    const slf_planner_state *s = &p->state;
    put_words(blob, s->used, slf_bit_words(p->n));
    put_words(blob, s->pending, slf_bit_words(p->n));
    /* Draws from all ids are found again from the used ones. */
    slf_blob_put_u64(blob, s->front.all ? 0 : (uint64_t)s->front.drawn);
    for (int64_t i = 0; s->task_state != SLF_TASK_NONE && i < s->task_n; i++) slf_blob_put_u64(blob, s->task_ids[i]);
}

static void write_state(const void *user, slf_blob *blob) {
    const salf_planner *p = user;
    const slf_planner_state *s = &p->state;
    slf_field fields[IDENTITY_FIELDS];
    identity_of(p, fields);
    slf_blob_put_fields(blob, fields, IDENTITY_FIELDS);
    for (int32_t e = 0; p->weights && e < p->m; e++) slf_blob_put_f64(blob, p->weights[e]);
    const int64_t turn[] = {s->layer, s->task_state, s->task_kind,      s->task_n,      s->position,
                            s->scan,  s->settled,    s->labels != NULL, s->used != NULL};
    for (size_t i = 0; i < sizeof turn / sizeof *turn; i++) slf_blob_put_u64(blob, (uint64_t)turn[i]);
    put_words(blob, (const uint64_t *)s->matched, 3 * (int64_t)p->m);
    if (s->labels) put_labels(blob, p);
    if (s->settled) put_words(blob, s->by_fill, slf_bit_words(p->n));
    if (s->used) put_online(blob, p);
}

salf_status salf_planner_save(const salf_planner *planner, void *buffer, uint64_t *size) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(size);
    return slf_blob_save(kind, write_state, planner, buffer, size);
}

/* ---- reading ---- */

static salf_status bad_state(const char *what, int64_t value) {
    return slf_fail(SALF_E_CORRUPT, "salf_planner_load: the state's %s is %lld", what, (long long)value);
}

static salf_status enough(const slf_blob *blob, uint64_t bytes) {
    if (!blob->short_of_room && bytes <= blob->room - blob->used) return SALF_OK;
    return slf_fail(SALF_E_TRUNCATED, "salf_planner_load: the state ends %llu bytes into a part of %llu",
                    (unsigned long long)(blob->room - blob->used), (unsigned long long)bytes);
}

static int64_t get_i64(slf_blob *blob) {
    return (int64_t)slf_blob_get_u64(blob);
}

typedef struct state_flags {
    bool labels;
    bool online;
} state_flags;

static salf_status read_flag(slf_blob *blob, const char *what, bool allowed, bool *flag) {
    const int64_t value = get_i64(blob);
    if (value != 0 && (value != 1 || !allowed)) return bad_state(what, value);
    *flag = value == 1;
    return SALF_OK;
}

static salf_status read_range(slf_blob *blob, const char *what, int64_t most, int64_t *out) {
    *out = get_i64(blob);
    return *out < 0 || *out > most ? bad_state(what, *out) : SALF_OK;
}

static salf_status read_turn(const salf_planner *p, slf_blob *blob, slf_planner_state *s, state_flags *flags) {
    const bool online = p->options.matching == SALF_MATCH_ONLINE;
    int64_t layer, state, task;
    SLF_TRY(enough(blob, 9 * 8 + 24 * (uint64_t)p->m));
    SLF_TRY(read_range(blob, "layer", p->m, &layer));
    SLF_TRY(read_range(blob, "task state", SLF_TASK_REPORTED, &state));
    SLF_TRY(read_range(blob, "task kind", SALF_TASK_TRAIN, &task));
    SLF_TRY(read_range(blob, "task size", p->n, &s->task_n));
    SLF_TRY(read_range(blob, "position", p->n, &s->position));
    SLF_TRY(read_range(blob, "scan position", p->n, &s->scan));
    SLF_TRY(read_flag(blob, "flag of settled data", !online, &s->settled));
    SLF_TRY(read_flag(blob, "flag of labels", !online, &flags->labels));
    SLF_TRY(read_flag(blob, "flag of used data", online, &flags->online));
    s->layer = (int32_t)layer;
    s->task_state = (int32_t)state;
    s->task_kind = (int32_t)task;
    for (int64_t i = 0; i < 3 * (int64_t)p->m; i++)
        SLF_TRY(read_range(blob, "count of a layer", INT64_MAX, &s->matched[i]));
    return SALF_OK;
}

/* What must hold between the numbers of the turn, whatever the data. */
static salf_status check_turn(const salf_planner *p, const slf_planner_state *s, const state_flags *flags) {
    const bool open = s->task_state != SLF_TASK_NONE, started = s->settled || flags->online;
    if (s->settled && !flags->labels) return bad_state("flag of labels", 0);
    if (open && (!started || s->layer == p->m)) return bad_state("task state", s->task_state);
    if (!open && s->task_n != 0) return bad_state("task size", s->task_n);
    if (open && s->task_kind == SALF_TASK_DONE) return bad_state("task kind", s->task_kind);
    if (s->task_state == SLF_TASK_GIVEN && s->task_n == 0) return bad_state("task size", s->task_n);
    if (s->task_state == SLF_TASK_REPORTED && s->task_kind != SALF_TASK_PROBE)
        return bad_state("task kind", s->task_kind);
    if (s->settled) {
        const int64_t count = s->layer < p->m ? p->counts[s->layer] : 0;
        if (s->position > count) return bad_state("position", s->position);
        if (s->task_n > count - s->position) return bad_state("task size", s->task_n);
        if (open && (s->task_kind != SALF_TASK_TRAIN || s->task_state != SLF_TASK_GIVEN))
            return bad_state("task kind", s->task_kind);
    } else if (s->position != 0 || (!flags->online && s->layer != 0)) {
        return bad_state("position", s->position);
    }
    for (int64_t i = 0; !flags->online && i < 3 * (int64_t)p->m; i++)
        if (s->matched[i] != 0 && (!s->settled || i >= 2 * (int64_t)p->m))
            return bad_state("count of a layer", s->matched[i]);
    return SALF_OK;
}

static salf_status get_bits(const salf_planner *p, slf_blob *blob, uint64_t **out) {
    const int64_t words = slf_bit_words(p->n);
    SLF_TRY(enough(blob, (uint64_t)words * 8));
    *out = slf_alloc(p->context, (uint64_t)words, sizeof **out);
    if (!*out) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < words; i++) (*out)[i] = slf_blob_get_u64(blob);
    if (p->n % 64 != 0 && (*out)[words - 1] >> (p->n % 64)) return bad_state("number of data", p->n);
    return SALF_OK;
}

static salf_status read_labels(const salf_planner *p, slf_blob *blob, slf_planner_state *s) {
    const bool byte = slf_label_is_byte(p->m);
    const uint64_t size = byte ? 1 : 2;
    if (p->n > (int64_t)UINT32_MAX) return bad_state("flag of labels", 1);
    SLF_TRY(enough(blob, (uint64_t)p->n * size));
    SLF_TRY(slf_planner_new_labels(p, false, &s->labels));
    for (int64_t i = 0; i < p->n; i++) {
        uint8_t bytes[2] = {0, 0};
        slf_blob_get(blob, bytes, size);
        const uint32_t label = bytes[0] | (uint32_t)bytes[1] << 8;
        if (label >= (uint32_t)p->m && (s->settled || label != slf_label_unknown(byte)))
            return bad_state("layer of a datum", label);
        slf_label_write(byte, s->labels, i, label);
    }
    return SALF_OK;
}

static salf_status read_settled(const salf_planner *p, slf_blob *blob, slf_planner_state *s) {
    SLF_TRY(get_bits(p, blob, &s->by_fill));
    s->data = slf_alloc(p->context, (uint64_t)p->n, sizeof *s->data);
    if (!s->data) return SALF_E_NO_MEMORY;
    return slf_planner_collect(p, s);
}

/* Draws again as many as were drawn one by one; all of them must be used. */
static salf_status redraw(const salf_planner *p, slf_planner_state *s, int64_t drawn) {
    if (drawn == 0) return SALF_OK;
    SLF_TRY(slf_state_draws(s, p));
    if (drawn > s->front.n) return bad_state("length of the draw", drawn);
    while (s->front.drawn < drawn)
        if (!slf_bit_get(s->used, slf_front_next(&s->front, &p->order))) return bad_state("length of the draw", drawn);
    return SALF_OK;
}

static salf_status read_task(const salf_planner *p, slf_blob *blob, slf_planner_state *s) {
    SLF_TRY(enough(blob, (uint64_t)s->task_n * 8));
    SLF_TRY(slf_state_room(s, p, s->task_n));
    const bool probe = s->task_kind == SALF_TASK_PROBE && s->task_state == SLF_TASK_GIVEN;
    for (int64_t i = 0; i < s->task_n; i++) {
        const int64_t id = get_i64(blob);
        if (id < 0 || id >= p->n || (i > 0 && id <= (int64_t)s->task_ids[i - 1]) || slf_bit_get(s->used, id) == probe)
            return bad_state("datum of the task", id);
        s->task_ids[i] = (uint32_t)id;
    }
    return SALF_OK;
}

/* Every layer before the turn is full, those after are empty, and the used data are as many as all have. */
static salf_status check_online(const salf_planner *p, const slf_planner_state *s) {
    int64_t booked = 0, used = 0, pending = 0;
    for (int32_t e = 0; e < p->m; e++) {
        const int64_t count = p->counts[e], matched = s->matched[e], filled = s->filled[e];
        if (matched > count || filled > count - matched) return bad_state("count of a layer", matched);
        if (e < s->layer && matched + filled != count) return bad_state("count of a layer", matched + filled);
        if (e > s->layer && (matched != 0 || filled != 0 || s->probed[e] != 0))
            return bad_state("count of a layer", matched + filled);
        if (s->probed[e] < matched || s->probed[e] > p->n) return bad_state("probed count of a layer", s->probed[e]);
        if (filled > 0 && matched + filled != count) return bad_state("filled count of a layer", filled);
        booked += matched + filled;
    }
    for (int64_t w = 0; w < slf_bit_words(p->n); w++) {
        if (s->pending[w] & ~s->used[w]) return bad_state("word of data to fill", w);
        for (uint64_t word = s->used[w]; word; word &= word - 1) used++;
        for (uint64_t word = s->pending[w]; word; word &= word - 1) pending++;
    }
    if (pending > (s->layer < p->m ? s->filled[s->layer] : 0)) return bad_state("number of data to fill", pending);
    return used == booked ? SALF_OK : bad_state("number of used data", used);
}

static salf_status read_online(const salf_planner *p, slf_blob *blob, slf_planner_state *s) {
    int64_t drawn;
    if (p->n > (int64_t)UINT32_MAX) return bad_state("flag of used data", 1);
    SLF_TRY(get_bits(p, blob, &s->used));
    SLF_TRY(get_bits(p, blob, &s->pending));
    SLF_TRY(check_online(p, s));
    SLF_TRY(enough(blob, 8));
    SLF_TRY(read_range(blob, "length of the draw", p->n, &drawn));
    SLF_TRY(redraw(p, s, drawn));
    return s->task_state == SLF_TASK_NONE ? SALF_OK : read_task(p, blob, s);
}

static salf_status read_state(const salf_planner *p, slf_blob *blob, slf_planner_state *s) {
    state_flags flags = {false, false};
    SLF_TRY(slf_state_init(s, p));
    SLF_TRY(check_identity(p, blob));
    SLF_TRY(read_turn(p, blob, s, &flags));
    SLF_TRY(check_turn(p, s, &flags));
    if (flags.labels) SLF_TRY(read_labels(p, blob, s));
    if (s->settled) SLF_TRY(read_settled(p, blob, s));
    if (flags.online) SLF_TRY(read_online(p, blob, s));
    if (blob->used != blob->room)
        return slf_fail(SALF_E_CORRUPT, "salf_planner_load: %llu bytes too many in the state",
                        (unsigned long long)(blob->room - blob->used));
    return SALF_OK;
}

salf_status salf_planner_load(salf_planner *planner, const void *buffer, uint64_t size) {
    SLF_REQUIRE(planner);
    SLF_REQUIRE(buffer);
    slf_blob blob;
    SLF_TRY(slf_blob_open(kind, buffer, size, &blob));
    slf_planner_state state = {0};
    const salf_status status = read_state(planner, &blob, &state);
    if (status != SALF_OK) {
        slf_state_free(&state, planner);
        return status;
    }
    slf_state_free(&planner->state, planner);
    planner->state = state;
    return SALF_OK;
}
