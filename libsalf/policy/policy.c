/*
 * policy.c - freezing policies: options, the frame around each kind's decision, and saved state.
 *
 * A kind fills the trainable set and rate scales [m] (turns.c, gradients.c, rows.c); the frame
 * adds what follows from them: cut, embedding and head, changes since the last decision, and the order of rows. Nothing
 * that lasts changes before all of it has succeeded. Cost O(m + rows) beside the kind's own.
 */
#include <math.h>
#include <string.h>

#include "core/blob.h"
#include "core/random.h"
#include "policy/policy.h"

/* ---- shared by the kinds ---- */

void slf_policy_suffix(salf_policy *p, int32_t cut) {
    for (int32_t k = 0; k < p->m; k++) {
        p->trainable[k] = k >= cut;
        p->rate_scale[k] = k >= cut ? 1 : 0;
    }
}

void slf_policy_draw(salf_policy *p, int64_t round, int32_t count) {
    for (int32_t k = 0; k < p->m; k++) p->turns[k] = k;
    for (int32_t i = 0; i < count; i++) {
        const uint64_t left = (uint64_t)(p->m - i);
        const uint64_t stream = SLF_STREAM_TURNS ^ (uint64_t)round << 1;
        const int32_t j = i + (int32_t)slf_random_below(p->options.seed, stream, (uint64_t)i, left);
        const int32_t layer = p->turns[j];
        p->turns[j] = p->turns[i];
        p->turns[i] = layer;
    }
}

salf_status slf_policy_rows(salf_policy *p, int64_t rows) {
    if (rows <= p->row_room && p->eof) return SALF_OK;
    int32_t *eof = slf_alloc(p->context, (uint64_t)rows, sizeof *eof);
    int64_t *order = slf_alloc(p->context, (uint64_t)rows, sizeof *order);
    if (!eof || !order) {
        slf_free(p->context, eof);
        slf_free(p->context, order);
        return SALF_E_NO_MEMORY;
    }
    slf_free(p->context, p->eof);
    slf_free(p->context, p->order);
    p->eof = eof;
    p->order = order;
    p->row_room = rows;
    return SALF_OK;
}

salf_status slf_policy_sum(salf_policy *p, salf_status local, double *values, int64_t n) {
    values[n] = local != SALF_OK;
    const salf_status joined = slf_all_reduce(p->context, values, n + 1, SALF_F64, SALF_ALL_REDUCE_SUM);
    if (local != SALF_OK) return local;
    SLF_TRY(joined);
    if (values[n] != 0) return slf_fail(SALF_E_MISMATCH, "salf_policy_decide: %g other ranks failed", values[n]);
    return SALF_OK;
}

/* ---- kinds of a line ---- */

static salf_status decide_fixed(salf_policy *p, const salf_observation *seen) {
    (void)seen;
    const int32_t cut = p->kind == SALF_POLICY_SUFFIX ? p->options.first_layer : p->m / 2;
    slf_policy_suffix(p, p->kind == SALF_POLICY_FULL ? 0 : cut);
    return SALF_OK;
}

static salf_status decide_random(salf_policy *p, const salf_observation *seen) {
    const uint64_t step = (uint64_t)seen->step;
    slf_policy_suffix(p, (int32_t)slf_random_below(p->options.seed, SLF_STREAM_RANDOM, step, (uint64_t)p->m));
    return SALF_OK;
}

static salf_status decide_scripted(salf_policy *p, const salf_observation *seen) {
    const int64_t last = p->options.n_script - 1;
    slf_policy_suffix(p, p->script[seen->step < last ? seen->step : last]);
    return SALF_OK;
}

static const slf_decide_fn decide_of_kind[] = {
    [SALF_POLICY_FULL] = decide_fixed,         [SALF_POLICY_SUFFIX] = decide_fixed,
    [SALF_POLICY_HALF] = decide_fixed,         [SALF_POLICY_SALF] = slf_decide_salf,
    [SALF_POLICY_BUDGET] = slf_decide_budget,  [SALF_POLICY_LIFT] = slf_decide_lift,
    [SALF_POLICY_LIFT_STAR] = slf_decide_lift, [SALF_POLICY_LISA] = slf_decide_lisa,
    [SALF_POLICY_BLOCK] = slf_decide_lift,     [SALF_POLICY_FREEZEOUT] = slf_decide_freezeout,
    [SALF_POLICY_LINEAR] = slf_decide_linear,  [SALF_POLICY_AUTOFREEZE] = slf_decide_autofreeze,
    [SALF_POLICY_RGN] = slf_decide_rgn,        [SALF_POLICY_RANDOM] = decide_random,
    [SALF_POLICY_SCRIPTED] = decide_scripted,  [SALF_POLICY_CALLBACK] = slf_decide_callback,
};

/* ---- options ---- */

static salf_status bad_option(const char *name, int64_t value, const char *need) {
    return slf_fail(SALF_E_ARGUMENT, "salf_policy_create: %s is %lld; %s", name, (long long)value, need);
}

static salf_status check_fraction(const char *name, double value, double least, double most) {
    if (value >= least && value <= most) return SALF_OK;
    return slf_fail(SALF_E_ARGUMENT, "salf_policy_create: %s is %g, not in %g ... %g", name, value, least, most);
}

static salf_status check_flags(const salf_policy_options *o) {
    const struct {
        const char *name;
        int32_t value;
    } flags[] = {{"always_on", o->always_on},
                 {"keep_moments", o->keep_moments},
                 {"train_embedding", o->train_embedding},
                 {"train_head", o->train_head},
                 {"cubic", o->cubic},
                 {"scale_rate", o->scale_rate}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].value != 0 && flags[i].value != 1) return bad_option(flags[i].name, flags[i].value, "0 or 1");
    return o->reserved == 0 ? SALF_OK : bad_option("reserved", o->reserved, "it must be 0");
}

static salf_status check_numbers(const salf_policy_options *o, int32_t m) {
    if (o->reduction < SALF_REDUCE_MEAN_GAIN || o->reduction > SALF_REDUCE_PREFIX)
        return bad_option("reduction", o->reduction, "MEAN_GAIN ... PREFIX");
    if (o->order < SALF_ORDER_DEFAULT || o->order > SALF_ORDER_RANDOM)
        return bad_option("order", o->order, "one of SALF_ORDER_*");
    if (o->first_layer < 0 || o->first_layer >= m) return bad_option("first_layer", o->first_layer, "0 ... m-1");
    if (o->interval < 0) return bad_option("interval", o->interval, "it must not be negative");
    if (o->total_steps < 0) return bad_option("total_steps", o->total_steps, "it must not be negative");
    if (o->n_active < 0 || o->n_active > m) return bad_option("n_active", o->n_active, "0 ... m");
    SLF_TRY(check_fraction("start", o->start, 0, 1));
    SLF_TRY(check_fraction("level", o->level, 0, 1));
    return check_fraction("percentile", o->percentile, 0, 100);
}

static bool is_one_of(int32_t kind, const int32_t *kinds, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (kinds[i] == kind) return true;
    return false;
}

static salf_status check_length(int32_t kind, const salf_policy_options *o) {
    static const int32_t by_interval[] = {SALF_POLICY_LIFT, SALF_POLICY_LIFT_STAR, SALF_POLICY_LISA, SALF_POLICY_BLOCK,
                                          SALF_POLICY_AUTOFREEZE};
    static const int32_t by_total[] = {SALF_POLICY_FREEZEOUT, SALF_POLICY_LINEAR};
    const bool interval = o->interval == 0 && is_one_of(kind, by_interval, sizeof by_interval / sizeof *by_interval);
    const bool total = is_one_of(kind, by_total, sizeof by_total / sizeof *by_total);
    if (o->total_steps == 0 && (interval || total))
        return bad_option("total_steps", 0, interval ? "give it, or an interval" : "this policy needs it");
    if (kind == SALF_POLICY_LINEAR && o->start == 1)
        return slf_fail(SALF_E_ARGUMENT, "salf_policy_create: start is %g; LINEAR needs less than 1", o->start);
    return SALF_OK;
}

static salf_status check_sources(int32_t kind, const salf_policy_options *o, int32_t m) {
    if (kind == SALF_POLICY_CALLBACK && !o->callback)
        return slf_fail(SALF_E_NULL, "salf_policy_create: CALLBACK, but callback is NULL");
    if (kind == SALF_POLICY_BUDGET) {
        if (!o->planner) return slf_fail(SALF_E_NULL, "salf_policy_create: BUDGET, but planner is NULL");
        if (o->planner->m != m)
            return slf_fail(SALF_E_SHAPE, "salf_policy_create: planner of %d layers for a policy of %d",
                            (int)o->planner->m, (int)m);
    }
    if (kind != SALF_POLICY_SCRIPTED) return SALF_OK;
    if (o->n_script < 1) return bad_option("n_script", o->n_script, "it must be at least 1");
    if (!o->script) return slf_fail(SALF_E_NULL, "salf_policy_create: SCRIPTED, but script is NULL");
    for (int64_t i = 0; i < o->n_script; i++)
        if (o->script[i] < 0 || o->script[i] >= m)
            return slf_fail(SALF_E_ARGUMENT, "salf_policy_create: script[%lld] is %d, not in 0 ... %d", (long long)i,
                            (int)o->script[i], (int)m - 1);
    return SALF_OK;
}

static void fill_defaults(int32_t kind, salf_policy_options *o, int32_t m) {
    if (o->n_active == 0) o->n_active = m < 2 ? m : 2;
    if (o->start == 0 && kind == SALF_POLICY_FREEZEOUT) o->start = 0.5;
    if (o->level == 0) o->level = 0.5;
    if (o->percentile == 0) o->percentile = 50;
}

/* ---- life ---- */

static salf_status allocate(salf_policy *p) {
    const salf_context *c = p->context;
    const uint64_t m = (uint64_t)p->m;
    p->trained = slf_alloc_zero(c, m, 1);
    p->trainable = slf_alloc_zero(c, m, 1);
    p->summed = slf_alloc_zero(c, m, sizeof *p->summed);
    p->previous = slf_alloc_zero(c, m, sizeof *p->previous);
    p->next_summed = slf_alloc_zero(c, m, sizeof *p->next_summed);
    p->next_previous = slf_alloc_zero(c, m, sizeof *p->next_previous);
    p->rate_scale = slf_alloc_zero(c, m, sizeof *p->rate_scale);
    p->scratch = slf_alloc_zero(c, m + 2, sizeof *p->scratch);
    p->histogram = slf_alloc_zero(c, m + 2, sizeof *p->histogram);
    p->active = slf_alloc_zero(c, m, sizeof *p->active);
    p->turns = slf_alloc_zero(c, m, sizeof *p->turns);
    p->added = slf_alloc_zero(c, 3 * m, sizeof *p->added);
    const bool whole = p->trained && p->trainable && p->summed && p->previous && p->next_summed && p->next_previous &&
                       p->rate_scale && p->scratch && p->histogram && p->active && p->turns && p->added;
    return whole ? SALF_OK : SALF_E_NO_MEMORY;
}

static salf_status fill_policy(salf_policy *p, const salf_policy_options *own) {
    p->options = *own;
    p->options.script = NULL;
    p->memory.last_step = -1;
    p->turn_steps = own->interval > 0 ? own->interval : own->total_steps / p->m;
    if (p->turn_steps < 1) p->turn_steps = 1;
    SLF_TRY(allocate(p));
    if (p->kind == SALF_POLICY_BUDGET) p->planner = slf_planner_retain(own->planner);
    if (p->kind != SALF_POLICY_SCRIPTED) return SALF_OK;
    p->script = slf_alloc(p->context, (uint64_t)own->n_script, sizeof *p->script);
    if (!p->script) return SALF_E_NO_MEMORY;
    memcpy(p->script, own->script, (size_t)own->n_script * sizeof *p->script);
    return SALF_OK;
}

salf_status salf_policy_create(salf_policy **out, salf_context *context, int32_t kind, int32_t n_layers,
                               const salf_policy_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    salf_policy_options own;
    SLF_TRY(slf_options_read(&own, sizeof own, options, "salf_policy_options"));
    SLF_TRY(slf_check_word("kind", "SALF_POLICY", kind));
    if (n_layers < 1) return bad_option("n_layers", n_layers, "it must be at least 1");
    SLF_TRY(check_flags(&own));
    SLF_TRY(check_numbers(&own, n_layers));
    SLF_TRY(check_length(kind, &own));
    SLF_TRY(check_sources(kind, &own, n_layers));
    fill_defaults(kind, &own, n_layers);
    salf_policy *policy = slf_alloc_zero(context, 1, sizeof *policy);
    if (!policy) return SALF_E_NO_MEMORY;
    policy->context = slf_context_retain(context);
    policy->kind = kind;
    policy->m = n_layers;
    const salf_status status = fill_policy(policy, &own);
    if (status != SALF_OK) {
        salf_policy_destroy(policy);
        return status;
    }
    *out = policy;
    return SALF_OK;
}

void salf_policy_destroy(salf_policy *p) {
    if (!p) return;
    salf_context *context = p->context;
    void *const blocks[] = {p->script,      p->trained,       p->trainable,  p->summed,  p->previous,
                            p->next_summed, p->next_previous, p->rate_scale, p->scratch, p->histogram,
                            p->active,      p->turns,         p->added,      p->eof,     p->order};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) slf_free(context, blocks[i]);
    salf_planner_destroy(p->planner);
    slf_free(context, p);
    slf_context_release(context);
}

/* ---- the decision ---- */

/* Rows by eof, stable: active[k] becomes the number of rows with eof <= k. */
static void sort_rows(salf_policy *p) {
    int64_t *at = p->histogram; /* [m+1] where each eof begins */
    memset(at, 0, ((size_t)p->m + 1) * sizeof *at);
    for (int64_t r = 0; r < p->rows; r++) at[p->eof[r] + 1]++;
    for (int32_t k = 0; k < p->m; k++) {
        at[k + 1] += at[k];
        p->active[k] = at[k + 1];
    }
    for (int64_t r = 0; r < p->rows; r++) p->order[at[p->eof[r]]++] = r;
}

static void set_parts(salf_policy *p, salf_decision *d) {
    const bool always = p->kind == SALF_POLICY_LISA && p->options.always_on;
    d->cut = 0;
    while (d->cut < p->m && !p->trainable[d->cut]) d->cut++;
    if (always) d->cut = 0;
    d->train_embedding = always || (p->options.train_embedding && d->cut == 0);
    d->train_head = always || p->options.train_head;
}

static void set_changes(salf_policy *p, salf_decision *d) {
    int32_t *added = p->added, *removed = added + p->m;
    for (int32_t k = 0; k < p->m; k++) {
        if (p->trainable[k] && !p->trained[k]) added[d->n_added++] = k;
        if (!p->trainable[k] && p->trained[k]) removed[d->n_removed++] = k;
    }
    d->added = added;
    d->removed = removed;
    d->reset = removed + p->m;
    d->n_reset = p->n_reset;
    d->graph_changed = d->n_added > 0 || d->n_removed > 0 || d->train_embedding != p->memory.embedding ||
                       d->train_head != p->memory.head;
}

static void keep(salf_policy *p, const salf_decision *d) {
    p->memory = p->next;
    p->memory.last_step = d->step;
    p->memory.embedding = d->train_embedding;
    p->memory.head = d->train_head;
    memcpy(p->trained, p->trainable, (size_t)p->m);
    memcpy(p->summed, p->next_summed, (size_t)p->m * sizeof *p->summed);
    memcpy(p->previous, p->next_previous, (size_t)p->m * sizeof *p->previous);
    p->loaded = false;
}

static bool is_collective(int32_t kind) {
    static const int32_t kinds[] = {SALF_POLICY_SALF, SALF_POLICY_CALLBACK, SALF_POLICY_BUDGET, SALF_POLICY_AUTOFREEZE,
                                    SALF_POLICY_RGN};
    return is_one_of(kind, kinds, sizeof kinds / sizeof *kinds);
}

static salf_status check_step(const salf_policy *p, int64_t step) {
    if (step < 0) return slf_fail(SALF_E_ARGUMENT, "salf_policy_decide: step is %lld", (long long)step);
    if (step > p->memory.last_step || (p->loaded && step == p->memory.last_step)) return SALF_OK;
    return slf_fail(SALF_E_SEQUENCE, "salf_policy_decide: step %lld after step %lld", (long long)step,
                    (long long)p->memory.last_step);
}

/* The next memory starts as the last one; a load that failed may have left anything there. */
static void begin(salf_policy *p) {
    p->next = p->memory;
    memcpy(p->next_summed, p->summed, (size_t)p->m * sizeof *p->summed);
    memcpy(p->next_previous, p->previous, (size_t)p->m * sizeof *p->previous);
    p->n_reset = 0;
    p->rows = -1;
}

salf_status salf_policy_decide(salf_policy *policy, const salf_observation *observation, salf_decision *decision) {
    SLF_REQUIRE(policy);
    SLF_REQUIRE(observation);
    SLF_REQUIRE(decision);
    salf_observation seen = {0};
    begin(policy);
    policy->early = slf_options_read(&seen, sizeof seen, observation, "salf_observation");
    if (policy->early == SALF_OK) policy->early = check_step(policy, seen.step);
    if (!is_collective(policy->kind)) SLF_TRY(policy->early);
    SLF_TRY(decide_of_kind[policy->kind](policy, &seen));
    salf_decision own = {
        .n_layers = policy->m, .step = seen.step, .trainable = policy->trainable, .rate_scale = policy->rate_scale};
    set_parts(policy, &own);
    set_changes(policy, &own);
    if (policy->rows >= 0) {
        sort_rows(policy);
        own.rows = policy->rows;
        own.eof = policy->eof;
        own.order = policy->order;
        own.active_rows = policy->active;
    }
    SLF_TRY(slf_info_write(decision, &own, sizeof own, "salf_decision"));
    keep(policy, &own);
    return SALF_OK;
}

/* ---- state ---- */

static const char state_kind[4] = {'P', 'O', 'L', 'I'};

#define OPTION_FIELDS 18

static uint64_t script_hash(const salf_policy *p) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (int64_t i = 0; p->script && i < p->options.n_script; i++)
        hash = (hash ^ (uint32_t)p->script[i]) * 0x100000001B3u;
    return hash;
}

static void fields_of(const salf_policy *p, slf_field fields[OPTION_FIELDS]) {
    const salf_policy_options *o = &p->options;
    const slf_field own[OPTION_FIELDS] = {{"kind", (uint64_t)p->kind},
                                          {"n_layers", (uint64_t)p->m},
                                          {"reduction", (uint64_t)o->reduction},
                                          {"first_layer", (uint64_t)o->first_layer},
                                          {"order", (uint64_t)o->order},
                                          {"interval", (uint64_t)p->turn_steps},
                                          {"total_steps", (uint64_t)o->total_steps},
                                          {"seed", o->seed},
                                          {"n_active", (uint64_t)o->n_active},
                                          {"always_on", (uint64_t)o->always_on},
                                          {"keep_moments", (uint64_t)o->keep_moments},
                                          {"train_embedding", (uint64_t)o->train_embedding},
                                          {"train_head", (uint64_t)o->train_head},
                                          {"cubic, scale_rate", (uint64_t)(o->cubic * 2 + o->scale_rate)},
                                          {"start (bits)", slf_bits_of(o->start)},
                                          {"level (bits)", slf_bits_of(o->level)},
                                          {"percentile (bits)", slf_bits_of(o->percentile)},
                                          {"script (hash)", script_hash(p)}};
    memcpy(fields, own, sizeof own);
}

static void write_policy(const void *user, slf_blob *blob) {
    const salf_policy *p = user;
    slf_field fields[OPTION_FIELDS];
    fields_of(p, fields);
    slf_blob_put_fields(blob, fields, OPTION_FIELDS);
    const slf_policy_memory *y = &p->memory;
    const int64_t numbers[] = {y->last_step, y->interval, y->embedding, y->head, y->frozen, y->compared};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) slf_blob_put_u64(blob, (uint64_t)numbers[i]);
    slf_blob_put(blob, p->trained, (uint64_t)p->m);
    for (int32_t k = 0; k < p->m; k++) slf_blob_put_f64(blob, p->summed[k]);
    for (int32_t k = 0; k < p->m; k++) slf_blob_put_f64(blob, p->previous[k]);
}

salf_status salf_policy_save(const salf_policy *policy, void *buffer, uint64_t *size) {
    SLF_REQUIRE(policy);
    SLF_REQUIRE(size);
    return slf_blob_save(state_kind, 1, write_policy, policy, buffer, size);
}

static salf_status check_fields(const salf_policy *p, slf_blob *blob) {
    slf_field fields[OPTION_FIELDS];
    fields_of(p, fields);
    return slf_blob_check_fields(blob, fields, OPTION_FIELDS, "policy");
}

static salf_status read_number(slf_blob *blob, const char *name, int64_t least, int64_t most, int64_t *out) {
    *out = (int64_t)slf_blob_get_u64(blob);
    if (*out >= least && *out <= most) return SALF_OK;
    return slf_fail(SALF_E_CORRUPT, "salf_policy_load: the state's %s is %lld", name, (long long)*out);
}

/* Reads into what the next decision sets anew anyway, so that a bad state changes nothing. */
static salf_status read_policy(salf_policy *p, slf_blob *blob, slf_policy_memory *memory) {
    int64_t embedding, head, frozen, compared;
    SLF_TRY(read_number(blob, "last step", -1, INT64_MAX, &memory->last_step));
    SLF_TRY(read_number(blob, "interval number", 0, INT64_MAX, &memory->interval));
    SLF_TRY(read_number(blob, "embedding flag", 0, 1, &embedding));
    SLF_TRY(read_number(blob, "head flag", 0, 1, &head));
    SLF_TRY(read_number(blob, "frozen depth", 0, p->m - 1, &frozen));
    SLF_TRY(read_number(blob, "comparison flag", 0, 1, &compared));
    memory->embedding = (int32_t)embedding;
    memory->head = (int32_t)head;
    memory->frozen = (int32_t)frozen;
    memory->compared = (int32_t)compared;
    slf_blob_get(blob, p->trainable, (uint64_t)p->m);
    for (int32_t k = 0; k < p->m; k++) p->next_summed[k] = slf_blob_get_f64(blob);
    for (int32_t k = 0; k < p->m; k++) p->next_previous[k] = slf_blob_get_f64(blob);
    for (int32_t k = 0; k < p->m; k++)
        if (p->trainable[k] > 1 || !(p->next_summed[k] >= 0) || !(p->next_previous[k] >= 0))
            return slf_fail(SALF_E_CORRUPT, "salf_policy_load: layer %d of the state is damaged", (int)k);
    return SALF_OK;
}

salf_status salf_policy_load(salf_policy *policy, const void *buffer, uint64_t size) {
    SLF_REQUIRE(policy);
    SLF_REQUIRE(buffer);
    slf_blob blob;
    slf_policy_memory memory = {0};
    SLF_TRY(slf_blob_open(state_kind, 1, 1, buffer, size, &blob));
    SLF_TRY(check_fields(policy, &blob));
    SLF_TRY(read_policy(policy, &blob, &memory));
    if (blob.short_of_room || blob.used != blob.room)
        return slf_fail(SALF_E_CORRUPT, "salf_policy_load: payload of %llu bytes", (unsigned long long)blob.room);
    policy->memory = memory;
    memcpy(policy->trained, policy->trainable, (size_t)policy->m);
    memcpy(policy->summed, policy->next_summed, (size_t)policy->m * sizeof *policy->summed);
    memcpy(policy->previous, policy->next_previous, (size_t)policy->m * sizeof *policy->previous);
    policy->loaded = true;
    return SALF_OK;
}
