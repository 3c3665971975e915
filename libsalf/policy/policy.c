/*
 * policy.c - freezing policies: the table of kinds, options, and the frame around each kind's decision.
 *
 * Nothing that lasts changes before a whole decision has succeeded: a kind writes into policy->next, and the frame lets
 * it take the place of policy->last at the end. Time O(m + rows) beside the kind's own.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/carve.h"
#include "core/random.h"
#include "policy/policy.h"

/* ---- kinds ---- */

/* The shape of most decisions: a prefix is frozen. */
void slf_policy_suffix(salf_policy *p, int32_t cut) {
    for (int32_t k = 0; k < p->m; k++) {
        p->next.trainable[k] = k >= cut;
        p->rate_scale[k] = k >= cut ? 1 : 0;
    }
}

/* The kinds whose cut takes a line. */
static salf_status decide_simply(salf_policy *p, const salf_observation *seen) {
    const uint64_t step = (uint64_t)seen->step, stream = 0x706F6C72616E6420u; /* "polrand " in ASCII */
    int32_t cut = 0;                                                          /* FULL */
    if (p->kind == SALF_POLICY_SUFFIX) cut = p->options.first_layer;
    if (p->kind == SALF_POLICY_HALF) cut = p->m / 2;
    if (p->kind == SALF_POLICY_SCRIPTED) cut = p->options.script[SLF_MIN(seen->step, p->options.n_script - 1)];
    if (p->kind == SALF_POLICY_RANDOM) cut = (int32_t)slf_random_below(p->options.seed, stream, step, (uint64_t)p->m);
    slf_policy_suffix(p, cut);
    return SALF_OK;
}

/* What a kind needs. */
enum {
    NEEDS_TURNS = 1,   /* an interval, or total_steps for m turns in the run */
    NEEDS_TOTAL = 2,   /* total_steps */
    NEEDS_PLANNER = 4, /* of as many layers */
    NEEDS_SCRIPT = 8,  /* at least one cut */
    NEEDS_CALLBACK = 16,
    NEEDS_INPUT = 32,  /* of the step, which it checks before it meets the other ranks (slf_policy_agree) */
    TAKES_PLANNER = 64 /* if there is one, of as many layers */
};

static const struct {
    slf_decide *decide;
    int32_t needs;
} kinds[] = {
    [SALF_POLICY_FULL] = {decide_simply, 0},
    [SALF_POLICY_SUFFIX] = {decide_simply, 0},
    [SALF_POLICY_HALF] = {decide_simply, 0},
    [SALF_POLICY_SALF] = {slf_decide_salf, NEEDS_INPUT},
    [SALF_POLICY_BUDGET] = {slf_decide_budget, NEEDS_PLANNER | NEEDS_INPUT},
    [SALF_POLICY_LIFT] = {slf_decide_lift, NEEDS_TURNS},
    [SALF_POLICY_LIFT_STAR] = {slf_decide_lift_star, NEEDS_TURNS},
    [SALF_POLICY_LISA] = {slf_decide_lisa, NEEDS_TURNS},
    [SALF_POLICY_BLOCK] = {slf_decide_block, NEEDS_TURNS},
    [SALF_POLICY_FREEZEOUT] = {slf_decide_freezeout, NEEDS_TOTAL},
    [SALF_POLICY_LINEAR] = {slf_decide_linear, NEEDS_TOTAL},
    [SALF_POLICY_AUTOFREEZE] = {slf_decide_autofreeze, NEEDS_TURNS | NEEDS_INPUT},
    [SALF_POLICY_RGN] = {slf_decide_rgn, NEEDS_INPUT},
    [SALF_POLICY_RANDOM] = {decide_simply, 0},
    [SALF_POLICY_SCRIPTED] = {decide_simply, NEEDS_SCRIPT},
    [SALF_POLICY_CALLBACK] = {slf_decide_callback, NEEDS_CALLBACK | NEEDS_INPUT},
    [SALF_POLICY_RAMP] = {slf_decide_ramp, TAKES_PLANNER},
};

/* ---- options ---- */

/* Numbers lie in their ranges, whatever the kind: an option of another kind that makes no sense is a mistake too. */
static salf_status check_policy_options(int32_t kind, const salf_policy_options *o, int32_t m) {
    SLF_TRY(SLF_CHECK_RANGES(
        SLF_RANGE(o, train_embedding, 0, 1), SLF_RANGE(o, train_head, 0, 1), SLF_RANGE(o, reserved, 0, 0),
        SLF_RANGE(o, reserved2, 0, 0), SLF_RANGE(o, total_steps, 0, INFINITY), SLF_RANGE(o, interval, 0, INFINITY),
        SLF_RANGE(o, first_layer, 0, m - 1), SLF_RANGE(o, n_active, 0, m), SLF_RANGE(o, always_on, 0, 1),
        SLF_RANGE(o, keep_moments, 0, 1), SLF_RANGE(o, cubic, 0, 1), SLF_RANGE(o, scale_rate, 0, 1),
        SLF_RANGE(o, start, 0, 1), SLF_RANGE(o, level, 0, 1), SLF_RANGE(o, percentile, 0, 100)));
    SLF_TRY(slf_check_word("order", "SALF_ORDER", o->order));
    SLF_TRY(slf_check_word("reduction", "SALF_REDUCE", o->reduction));
    SLF_TRY(slf_check_word("rates", "SALF_RATES", o->rates));
    /* Then options without which a kind cannot decide. A script is checked whole here, so that a decision never fails
     * for it. */
    const int32_t needs = kinds[kind].needs;
    const char *word = salf_constant_word("SALF_POLICY", kind);
    if (needs & NEEDS_TURNS && o->interval == 0 && o->total_steps == 0)
        return slf_fail(SALF_E_ARGUMENT, "total_steps is 0 and so is interval; '%s' needs one of them", word);
    if (needs & NEEDS_TOTAL && o->total_steps == 0)
        return slf_fail(SALF_E_ARGUMENT, "total_steps is 0; '%s' needs it", word);
    if (kind == SALF_POLICY_LINEAR && o->start == 1)
        return slf_fail(SALF_E_ARGUMENT, "start is %g; 'linear' needs less than 1", o->start);
    /* t0 cubed, and 1 divided by it, stay far from where float64 ends */
    if (kind == SALF_POLICY_FREEZEOUT && o->start > 0 && o->start < 1e-100)
        return slf_fail(SALF_E_ARGUMENT, "start is %g; 'freezeout' needs 0 or at least 1e-100", o->start);
    if (needs & NEEDS_CALLBACK && !o->callback) return slf_fail(SALF_E_NULL, "callback is NULL; '%s' needs one", word);
    if (needs & NEEDS_PLANNER && !o->planner) return slf_fail(SALF_E_NULL, "planner is NULL; '%s' needs one", word);
    if (needs & (NEEDS_PLANNER | TAKES_PLANNER) && o->planner && o->planner->m != m)
        return slf_fail(SALF_E_SHAPE, "planner of %" PRId32 " layers for a policy of %" PRId32, o->planner->m, m);
    if (!(needs & NEEDS_SCRIPT)) return SALF_OK;
    if (o->n_script < 1)
        return slf_fail(SALF_E_ARGUMENT, "n_script is %" PRId64 "; it must be at least 1", o->n_script);
    if (!o->script) return slf_fail(SALF_E_NULL, "script is NULL; '%s' needs one", word);
    for (int64_t i = 0; i < o->n_script; i++)
        if (o->script[i] < 0 || o->script[i] >= m)
            return slf_fail(SALF_E_ARGUMENT, "script[%" PRId64 "] is %" PRId32 ", not in 0 ... %" PRId32, i,
                            o->script[i], m - 1);
    return SALF_OK;
}

/* ---- life ---- */

/* The handle, and behind it everything whose size follows from m and the script. Both records are laid out alike: they
 * change places after each decision. */
static void lay_out_policy(salf_policy *p, slf_carver *block) {
    const int64_t m = p->m;
    slf_policy_record *const records[] = {&p->last, &p->next};
    slf_carve(block, 1, sizeof *p);
    for (int i = 0; i < 2; i++) {
        records[i]->trainable = slf_carve(block, m, sizeof *records[i]->trainable);
        records[i]->previous = slf_carve(block, m, sizeof *records[i]->previous);
    }
    p->rate_scale = slf_carve(block, m, sizeof *p->rate_scale);
    p->scratch = slf_carve(block, m + 1, sizeof *p->scratch);
    p->histogram = slf_carve(block, m + 2, sizeof *p->histogram);
    p->active = slf_carve(block, m, sizeof *p->active);
    p->permuted = slf_carve(block, m, sizeof *p->permuted);
    for (int i = 0; i < 3; i++) p->changes[i] = slf_carve(block, m, sizeof *p->changes[i]);
    p->script = slf_carve(block, kinds[p->kind].needs & NEEDS_SCRIPT ? p->options.n_script : 0, sizeof *p->script);
}

salf_status salf_policy_create(salf_policy **out, salf_context *context, int32_t kind, int32_t n_layers,
                               const salf_policy_options *options) {
    SLF_OUT(out);
    SLF_REQUIRE(context);
    SLF_OPTIONS(salf_policy_options, own, options);
    SLF_TRY(slf_check_word("kind", "SALF_POLICY", kind));
    if ((size_t)kind >= sizeof kinds / sizeof *kinds || !kinds[kind].decide) /* a word that came without its row */
        return SLF_FAIL(SALF_E_INTERNAL, "kind %" PRId32 " is not in the table of kinds", kind);
    if (n_layers < 1) return SLF_FAIL(SALF_E_ARGUMENT, "n_layers is %" PRId32 "; it must be at least 1", n_layers);
    SLF_TRY(check_policy_options(kind, &own, n_layers));
    /* A planner shares its tasks out among its own ranks, and a decision is for those of the policy. One of a single
     * rank gives all of each task to every rank: a host may share it out by itself, but for a stream, whose cuts are of
     * all rows. */
    const int planned = kind == SALF_POLICY_BUDGET ? (int)own.planner->context->options.ranks : context->options.ranks;
    if (planned != context->options.ranks && (planned > 1 || slf_plan_is_stream(own.planner)))
        return SLF_FAIL(SALF_E_MISMATCH, "a planner for %d ranks, and a policy for %d", planned,
                        (int)context->options.ranks);
    /* defaults in place, so that a save holds what is in force; LINEAR's start may be 0, FREEZEOUT's may not */
    if (own.n_active == 0) own.n_active = SLF_MIN(n_layers, 2);
    if (own.start == 0 && kind == SALF_POLICY_FREEZEOUT) own.start = 0.5;
    if (own.level == 0) own.level = 0.5;
    if (own.percentile == 0) own.percentile = 50;
    salf_policy begin = {.kind = kind, .m = n_layers, .options = own, .last = {.step = -1}};
    slf_carver block = {0};
    lay_out_policy(&begin, &block);
    salf_policy *p = slf_alloc_zero(context, 1, block.used);
    if (!p) return SALF_E_NO_MEMORY;
    *p = begin;
    block = (slf_carver){.base = (char *)p}; /* now for real; the block was cleared, as last must begin */
    lay_out_policy(p, &block);
    p->context = SLF_RETAIN(context);
    /* The caller's pointers are not kept; what the kind needs of them is copied or retained. */
    const int32_t needs = kinds[kind].needs;
    p->takes_turns = needs & NEEDS_TURNS;
    p->options.planner = needs & (NEEDS_PLANNER | TAKES_PLANNER) && own.planner ? SLF_RETAIN(own.planner) : NULL;
    p->options.script = needs & NEEDS_SCRIPT ? p->script : NULL;
    if (needs & NEEDS_SCRIPT) memcpy(p->script, own.script, (size_t)own.n_script * sizeof *p->script);
    *out = p;
    return SALF_OK;
}

/* The planner goes with the last of those who hold it; the context goes last, as memory is given back through it. */
void salf_policy_destroy(salf_policy *p) {
    if (!p) return;
    salf_context *context = p->context;
    salf_planner_destroy(p->options.planner);
    SLF_FREE(context, p->order, p);
    salf_context_destroy(context);
}

/* One block for both, the wider first, so that one allocation is all that can fail. Room only grows: batches differ in
 * their rows, and one that is smaller uses the part that it needs. */
salf_status slf_policy_rows(salf_policy *p, int64_t rows) {
    if (rows <= p->row_room && p->order) return SALF_OK;
    int64_t *order = slf_alloc(p->context, (uint64_t)rows, sizeof *p->order + sizeof *p->eof);
    if (!order) return SALF_E_NO_MEMORY;
    slf_free(p->context, p->order);
    p->order = order;
    p->eof = (int32_t *)(void *)(order + rows);
    p->row_room = rows;
    return SALF_OK;
}

/* ---- the decision ---- */

/* What follows from the trainable set and the rows: cut, embedding and head, changes since the last decision, and the
 * order in which truncation takes the rows. */
static void describe_decision(salf_policy *p, salf_decision *d) {
    const uint8_t *now = p->next.trainable, *before = p->last.trainable;
    /* Embedding and head that LISA keeps on draw the backward pass to the bottom, whatever layers train. */
    const bool always = p->kind == SALF_POLICY_LISA && p->options.always_on;
    /* The lowest layer that trains; m where none does, and then no backward is needed at all. */
    while (!always && d->cut < p->m && !now[d->cut]) d->cut++;
    d->train_embedding = always || (p->options.train_embedding && d->cut == 0);
    d->train_head = always || p->options.train_head;
    for (int32_t k = 0; k < p->m; k++) {
        if (now[k] && !before[k]) p->changes[0][d->n_added++] = k;
        if (!now[k] && before[k]) p->changes[1][d->n_removed++] = k;
    }
    d->n_reset = p->n_reset;
    d->graph_changed =
        d->n_added > 0 || d->n_removed > 0 || d->train_embedding != p->last.embedding || d->train_head != p->last.head;
    if (p->rows < 0) return;
    /* Counting sort of the rows by eof, stable: order, and active[k] = rows with eof <= k. */
    int64_t *at = p->histogram; /* [m+2] where each eof begins */
    memset(at, 0, ((size_t)p->m + 2) * sizeof *at);
    for (int64_t r = 0; r < p->rows; r++) at[p->eof[r] + 1]++;
    for (int32_t k = 0; k < p->m; k++) {
        at[k + 1] += at[k];
        p->active[k] = at[k + 1];
    }
    for (int64_t r = 0; r < p->rows; r++) p->order[at[p->eof[r]]++] = r;
    d->rows = p->rows;
    d->eof = p->eof;
    d->order = p->order;
    d->active_rows = p->active;
}

/* The decision's arrays stay where they are until the next call: trainable moves with its record from next to last,
 * which that call only reads. */
salf_status salf_policy_decide(salf_policy *policy, const salf_observation *seen, salf_decision *decision) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(policy);
    slf_policy_record *next = &policy->next;
    const slf_policy_record *last = &policy->last;
    const size_t bytes = (size_t)policy->m * sizeof(double);
    /* 1. next begins as last; a decision or load that failed may have left anything there */
    next->frozen = last->frozen;
    next->compared = last->compared;
    memcpy(next->previous, last->previous, bytes);
    policy->n_reset = 0;
    policy->gradients_wanted = 0;
    policy->batch_share = 1;
    policy->rows = -1;
    /* 2. is the call itself in order? Whatever is wrong with it, the other ranks wait for this one, and are told */
    salf_observation o = {0};
    policy->early = slf_require(__func__, "seen, decision", (const void *const[]){seen, decision}, 2);
    if (policy->early == SALF_OK) policy->early = slf_info_check(decision, "salf_decision");
    if (policy->early == SALF_OK) policy->early = slf_options_read(&o, sizeof o, seen, "salf_observation");
    const bool again = policy->loaded && o.step == last->step;
    if (policy->early == SALF_OK && o.step < 0) policy->early = SLF_FAIL(SALF_E_ARGUMENT, "step is %" PRId64, o.step);
    if (policy->early == SALF_OK && o.n_data < 0)
        policy->early = SLF_FAIL(SALF_E_ARGUMENT, "n_data is %" PRId32, o.n_data);
    if (policy->early == SALF_OK && o.step <= last->step && !again)
        policy->early = SLF_FAIL(SALF_E_SEQUENCE, "step %" PRId64 " after step %" PRId64, o.step, last->step);
    if (!(kinds[policy->kind].needs & NEEDS_INPUT)) SLF_TRY(slf_policy_agree(policy, policy->early, &o, NULL));
    /* 3. the kind sets trainable and rate_scale, and the rest follows */
    SLF_TRY(kinds[policy->kind].decide(policy, &o));
    salf_decision own = {.n_layers = policy->m,
                         .step = o.step,
                         .trainable = next->trainable,
                         .rate_scale = policy->rate_scale,
                         .added = policy->changes[0],
                         .removed = policy->changes[1],
                         .reset = policy->changes[2],
                         .batch_share = policy->batch_share,
                         .gradients_wanted = policy->gradients_wanted};
    describe_decision(policy, &own);
    SLF_TRY(slf_info_write(decision, &own, sizeof own, "salf_decision"));
    /* 4. it stands */
    next->step = own.step;
    next->embedding = own.train_embedding;
    next->head = own.train_head;
    /* The two change places: what was last becomes the memory that the next decision is written into. */
    const slf_policy_record stands = *next;
    *next = *last;
    policy->last = stands;
    policy->loaded = false;
    return SALF_OK;
}
