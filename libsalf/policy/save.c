/*
 * save.c - what a policy is, as a list of numbers, which a save must share with the policy it is loaded into, and a
 * rank with the others at each decision; and what its last decision left, as bytes (docs/formats.md).
 */
#include <inttypes.h>
#include <string.h>

#include "core/blob.h"
#include "core/fingerprint.h"
#include "policy/policy.h"

/* ---- what is compared ---- */

enum { POLICY_FIELDS = 19, POLICY_INTERVAL = 5 }; /* the latter: the place of one */

/* All options that a decision depends on, also those of other kinds: a blob belongs to one configuration. Callbacks and
 * planners have no number; the host must give the same ones. A new option is a line here, and with that saves, loads
 * and ranks know of it; its place is for good, as blobs have the values by their places. */
static void list_policy_fields(const salf_policy *p, slf_field fields[POLICY_FIELDS]) {
    const salf_policy_options *o = &p->options;
    uint64_t script = SLF_FNV_BEGIN; /* FNV-1a, a cut at a time instead of a byte */
    for (int64_t i = 0; o->script && i < o->n_script; i++) script = (script ^ (uint32_t)o->script[i]) * SLF_FNV_PRIME;
    const slf_field own[POLICY_FIELDS] = {
        {"kind", (uint64_t)p->kind},
        {"n_layers", (uint64_t)p->m},
        {"reduction", (uint64_t)o->reduction},
        {"first_layer", (uint64_t)o->first_layer},
        {"order", (uint64_t)o->order},
        {"interval", (uint64_t)o->interval},
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
        {"script (hash)", script},
        {"rates", (uint64_t)o->rates},
    };
    memcpy(fields, own, sizeof own);
}

/* What a rank remembers is compared as well: one that was loaded, where another was not, or from an older save, would
 * freeze other layers from here on. Rows and gradients are each rank's own. */
salf_status slf_policy_agree(salf_policy *p, salf_status local, const salf_observation *seen, int64_t *least) {
    const slf_policy_record *last = &p->last;
    slf_agreement a = {.meeting = SLF_MEET_salf_policy_decide, .n = POLICY_FIELDS, .least = least ? *least : 0};
    if (!slf_has_ranks(p->context)) return local; /* hashes cost more than a decision of one rank */
    list_policy_fields(p, a.fields);
    slf_agreement_add(&a, "step", (uint64_t)seen->step);
    slf_agreement_add(&a, "the step of the last decision", (uint64_t)last->step);
    slf_agreement_add(&a, "the frozen depth", (uint64_t)last->frozen);
    slf_agreement_add(&a, "whole turns seen", (uint64_t)last->compared);
    slf_agreement_add_array(&a, "the layers that trained last (hash)", last->trainable, (uint64_t)p->m);
    slf_agreement_add_array(&a, "the gradients of the turn before (hash)", last->previous,
                            (uint64_t)p->m * sizeof *last->previous);
    slf_agreement_add(&a, "gradient norms, given or not", p->kind == SALF_POLICY_RGN && seen->gradient_norm);
    if (p->options.planner) slf_plan_agree(p->options.planner, &a);
    SLF_TRY(slf_agree(p->context, local, &a));
    if (least) *least = a.least;
    return SALF_OK;
}

/* ---- saved bytes ---- */

/* Version 1 held the interval in force where 2 holds the option, and the number of AUTOFREEZE's turn, which follows
 * from the step. Both held sums of AUTOFREEZE's norms; 3 holds the option rates. */
enum { POLICY_VERSION = 3 };
static const char policy_kind[4] = {'P', 'O', 'L', 'I'};

/* Steps of a turn as version 1 rounded them where no interval was given. */
static int64_t rounded_interval(const salf_policy *p) {
    const int64_t interval = p->options.interval, share = p->options.total_steps / p->m;
    return interval > 0 ? interval : SLF_MAX(share, 1);
}

typedef struct policy_save {
    const salf_policy *policy;
    slf_policy_record *record;
} policy_save;

/* Nothing of the decision at hand is saved: what is made again from the same observation is the same. What was damaged
 * by hand, with a right checksum, at least stays in range: layers are on or off, norms are not negative. */
static salf_status move_policy(void *user, slf_blob *blob) {
    const policy_save *save = user;
    const salf_policy *p = save->policy;
    const int64_t total = p->options.total_steps;
    slf_policy_record *r = save->record;
    /* 1. the same configuration? Rounded turns of a whole number of steps are what they were; others are not: their
     * layers would change in the middle of a run */
    slf_field fields[POLICY_FIELDS];
    list_policy_fields(p, fields);
    if (blob->version == 1) fields[POLICY_INTERVAL].value = (uint64_t)rounded_interval(p);
    /* rates, the last, came with version 3 */
    SLF_TRY(slf_blob_fields(blob, fields, blob->version < 3 ? POLICY_FIELDS - 1 : POLICY_FIELDS, "policy"));
    if (blob->version < 3 && p->kind == SALF_POLICY_AUTOFREEZE)
        return slf_fail(SALF_E_VERSION,
                        "the blob has version %" PRIu32 " and sums norms of gradients; this library (version %d) takes "
                        "the norm of their sum",
                        blob->version, POLICY_VERSION);
    if (blob->version == 1 && p->takes_turns && p->options.interval == 0 && total % p->m != 0)
        return slf_fail(SALF_E_VERSION,
                        "the blob has version 1, with turns of %" PRId64
                        " steps; this library (version %d) has %" PRId32 " turns in %" PRId64
                        " steps: give interval %" PRId64 " to go on as before",
                        rounded_interval(p), POLICY_VERSION, p->m, total, rounded_interval(p));
    /* 2. the record; what older versions had beside it no kind reads */
    uint64_t step = (uint64_t)r->step, unused = 0;
    int64_t turn = 0;
    slf_blob_u64(blob, &step);
    r->step = (int64_t)step;
    if (r->step < -1) return slf_blob_bad_value("last step", r->step);
    if (blob->version == 1) SLF_TRY(slf_blob_value(blob, "turn", INT64_MAX, &turn));
    SLF_TRY(slf_blob_value_i32(blob, "embedding flag", 1, &r->embedding));
    SLF_TRY(slf_blob_value_i32(blob, "head flag", 1, &r->head));
    SLF_TRY(slf_blob_value_i32(blob, "frozen depth", p->m - 1, &r->frozen));
    SLF_TRY(slf_blob_value_i32(blob, "comparison flag", 1, &r->compared));
    slf_blob_bytes(blob, r->trainable, (uint64_t)p->m);
    for (int32_t k = 0; k < p->m && blob->version < 3; k++) slf_blob_u64(blob, &unused); /* sums */
    for (int32_t k = 0; k < p->m; k++) slf_blob_f64(blob, &r->previous[k]);
    for (int32_t k = 0; k < p->m; k++)
        if (r->trainable[k] > 1 || !(r->previous[k] >= 0))
            return slf_fail(SALF_E_CORRUPT, "layer %" PRId32 " of the blob is damaged", k);
    return SALF_OK;
}

salf_status salf_policy_save(const salf_policy *policy, void *buffer, uint64_t *size) {
    SLF_REQUIRE(policy, size);
    slf_policy_record record = policy->last; /* whose arrays are read only */
    policy_save save = {policy, &record};
    return slf_blob_save(policy_kind, POLICY_VERSION, move_policy, &save, buffer, size);
}

/* Into the record that is not in use, and that the next decision begins anew anyway; it takes the place of the last
 * when all of it is right. */
salf_status salf_policy_load(salf_policy *policy, const void *buffer, uint64_t size) {
    SLF_REQUIRE(policy, buffer);
    policy_save save = {policy, &policy->next};
    SLF_TRY(slf_blob_load(policy_kind, 1, POLICY_VERSION, move_policy, &save, buffer, size));
    const slf_policy_record read = policy->next;
    policy->next = policy->last;
    policy->last = read;
    policy->loaded = true; /* its step may be asked again: a host that was killed after its save may not have made it */
    return SALF_OK;
}
