/*
 * agree.c - what a policy is, as a list of numbers: a save must share them with the policy it is loaded into, and a
 * rank with the others, at each decision.
 */
#include <string.h>

#include "core/fingerprint.h"
#include "policy/policy.h"

/* All options that a decision depends on, also those of other kinds: a blob belongs to one configuration. Callbacks and
 * planners have no number; the host must give the same ones. A new option is a line here, and with that saves, loads
 * and ranks know of it; its place is for good, as blobs have the values by their places. */
void slf_policy_fields(const salf_policy *p, slf_field fields[SLF_POLICY_FIELDS]) {
    const salf_policy_options *o = &p->options;
    uint64_t script = SLF_FNV_BEGIN; /* FNV-1a, a cut at a time instead of a byte */
    for (int64_t i = 0; o->script && i < o->n_script; i++) script = (script ^ (uint32_t)o->script[i]) * SLF_FNV_PRIME;
    const slf_field own[SLF_POLICY_FIELDS] = {
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
    slf_agreement a = {.meeting = SLF_MEET_salf_policy_decide, .n = SLF_POLICY_FIELDS, .least = least ? *least : 0};
    if (!slf_has_ranks(p->context)) return local; /* hashes cost more than a decision of one rank */
    slf_policy_fields(p, a.fields);
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
