/*
 * match.c - which data train at which layer, settled for all data at once (paper, Algorithm 4).
 *
 * For e = 0 ... m-1: of the unused data with eof <= e, those with the c_e smallest ids; then, where they are fewer, a
 * uniform sample of all unused. NONE samples only.
 *
 * Matching: in order of id, each datum goes to the first layer from its eof on that is not full (place.c). This
 * gives the same: a layer is then offered, in order of id, what no layer below took, and takes the first c_e of it. How
 * many a layer matches and lacks follows from the number of data of each eof, so that all fills are drawn before
 * (fill.c). Memory a datum: label 1 (m > 254: 2), id 4, a bit; counts of chunks and buckets besides.
 */
#include <string.h>

#include "plan/plan.h"

/* ---- labels ---- */

salf_status slf_planner_new_labels(const salf_planner *planner, bool unknown, void **labels) {
    if (planner->m >= SLF_MOST_LABELS)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner: %d layers; data can be matched to at most %d", (int)planner->m,
                        SLF_MOST_LABELS - 1);
    if (planner->n > (int64_t)UINT32_MAX)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner: %lld data; at most %lld can be matched", (long long)planner->n,
                        (long long)UINT32_MAX);
    const size_t size = slf_label_is_byte(planner->m) ? 1 : 2;
    *labels = slf_alloc(planner->context, (uint64_t)planner->n, size);
    if (!*labels) return SALF_E_NO_MEMORY;
    if (unknown) memset(*labels, 0xFF, (size_t)planner->n * size);
    return SALF_OK;
}

/* ---- settling ---- */

typedef struct settling {
    salf_planner *planner;
    slf_planner_state *state;
    int64_t *unused; /* [m+1] data by label that no fill took; m: unknown */
    slf_fills fills; /* begun when first something is missing */
    slf_placing placing;
} settling;

static salf_status count_eof(settling *s) {
    const bool byte = slf_label_is_byte(s->planner->m);
    const uint32_t unknown = slf_label_unknown(byte);
    slf_placing_count(&s->placing, NULL);
    for (int32_t e = 0; e < s->planner->m; e++) s->unused[e] = slf_placing_sum(&s->placing, (uint32_t)e, false);
    if (slf_placing_sum(&s->placing, unknown, false) == 0) return SALF_OK;
    int64_t i = 0;
    while (slf_label_read(byte, s->state->labels, i) != unknown) i++;
    return slf_fail(SALF_E_SEQUENCE, "salf_planner_match: the eof of datum %lld is not set", (long long)i);
}

/* Used are the data with a label of at most e: either that is their eof, and no candidates are left where something is
 * missing, or they filled a layer before. */
static salf_status fill_stage(settling *s, int32_t e, int64_t missing) {
    if (!s->fills.begun) SLF_TRY(slf_fills_begin(&s->fills, s->planner, s->state, s->state->data));
    slf_fills_take(&s->fills, (uint32_t)e, missing, s->unused);
    return SALF_OK;
}

static salf_status fill_stages(settling *s) {
    int64_t candidates = 0;
    for (int32_t e = 0; e < s->planner->m; e++) {
        const int64_t count = s->planner->counts[e];
        candidates += s->unused[e];
        const int64_t matched = candidates < count ? candidates : count;
        candidates -= matched;
        if (matched < count) SLF_TRY(fill_stage(s, e, count - matched));
        s->state->matched[e] = matched;
        s->state->filled[e] = count - matched;
    }
    return SALF_OK;
}

/* Labels are still eof until all memory is there. */
static salf_status settle_with(settling *s) {
    const salf_planner *p = s->planner;
    slf_planner_state *state = s->state;
    if (!state->labels) SLF_TRY(slf_planner_new_labels(p, true, &state->labels));
    s->unused = slf_alloc_zero(p->context, (uint64_t)p->m + 1, sizeof *s->unused);
    state->by_fill = slf_alloc_zero(p->context, (uint64_t)slf_bit_words(p->n), sizeof *state->by_fill);
    state->data = slf_alloc(p->context, (uint64_t)p->n, sizeof *state->data);
    if (!s->unused || !state->by_fill || !state->data) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_placing_begin(&s->placing, p, state));
    if (p->options.matching == SALF_MATCH_OFFLINE) SLF_TRY(count_eof(s));
    SLF_TRY(fill_stages(s));
    if (s->fills.begun) slf_placing_count(&s->placing, &s->fills);
    slf_placing_run(&s->placing);
    return SALF_OK;
}

salf_status slf_planner_settle(salf_planner *planner) {
    settling s = {.planner = planner, .state = &planner->state};
    const salf_status status = settle_with(&s);
    slf_free(planner->context, s.unused);
    slf_fills_free(&s.fills, planner->context);
    slf_placing_free(&s.placing, planner->context);
    if (status != SALF_OK) {
        memset(planner->state.matched, 0, 2 * (size_t)planner->m * sizeof *planner->state.matched); /* and filled */
        slf_free(planner->context, planner->state.by_fill);
        slf_free(planner->context, planner->state.data);
        planner->state.by_fill = NULL;
        planner->state.data = NULL;
    }
    planner->state.settled = status == SALF_OK;
    return status;
}

/* What was read is whole: every label is a layer. */
static salf_status count_stages(const slf_placing *placing, const salf_planner *planner, slf_planner_state *state) {
    for (int32_t e = 0; e < planner->m; e++) {
        state->matched[e] = slf_placing_sum(placing, (uint32_t)e, false);
        state->filled[e] = slf_placing_sum(placing, (uint32_t)e, true);
        if (state->matched[e] + state->filled[e] != planner->counts[e])
            return slf_fail(SALF_E_CORRUPT, "salf_planner: layer %d holds %lld data instead of %lld", (int)e,
                            (long long)(state->matched[e] + state->filled[e]), (long long)planner->counts[e]);
    }
    return SALF_OK;
}

salf_status slf_planner_collect(const salf_planner *planner, slf_planner_state *state) {
    slf_placing placing;
    salf_status status = slf_placing_begin(&placing, planner, state);
    if (status == SALF_OK) {
        slf_placing_count(&placing, NULL);
        status = count_stages(&placing, planner, state);
    }
    if (status == SALF_OK) slf_placing_run(&placing);
    slf_placing_free(&placing, planner->context);
    return status;
}
