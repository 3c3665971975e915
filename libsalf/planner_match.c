/*
 * planner_match.c - which data train at which layer, settled for all data at once (paper, Algorithm 4).
 *
 * For e = 0 ... m-1: of the unused data with eof <= e, those with the c_e smallest ids; then, where they are fewer, a
 * uniform sample of all unused. NONE samples only.
 *
 * Matching: in order of id, each datum goes to the first layer from its eof on that is not full. This gives the same:
 * a layer is then offered, in order of id, what no layer below took, and takes the first c_e of it. One pass, with a
 * table of the first layer that is not full: O(N + m^2). How many a layer matches and lacks follows from the number of
 * data of each eof, so that all fills are drawn before this pass (planner_fill.c). Memory a datum: label 1 (m > 254:
 * 2), id 4, a bit; and while something is filled, bucket 2 and label again.
 */
#include <string.h>

#include "planner_internal.h"

/* ---- labels ---- */

salf_status slf_planner_new_labels(const salf_planner *planner, void **labels) {
    if (planner->m >= SLF_MOST_LABELS)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner: %d layers; data can be matched to at most %d", (int)planner->m,
                        SLF_MOST_LABELS - 1);
    if (planner->n > (int64_t)UINT32_MAX)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner: %lld data; at most %lld can be matched", (long long)planner->n,
                        (long long)UINT32_MAX);
    const size_t size = slf_label_is_byte(planner->m) ? 1 : 2;
    *labels = slf_alloc(planner->context, (uint64_t)planner->n, size);
    if (!*labels) return SALF_E_NO_MEMORY;
    memset(*labels, 0xFF, (size_t)planner->n * size);
    return SALF_OK;
}

/* ---- placing ---- */

typedef struct part {
    uint32_t at, end; /* where the next id goes; where the part is full */
} part;

typedef struct placing {
    part *parts;      /* [2m] matched, then filled data of each layer */
    uint32_t *target; /* [m+1] the first layer from e on that takes data; m: none */
} placing;

static salf_status placing_begin(placing *p, const salf_planner *planner) {
    p->parts = slf_alloc(planner->context, 2 * (uint64_t)planner->m, sizeof *p->parts);
    p->target = slf_alloc(planner->context, (uint64_t)planner->m + 1, sizeof *p->target);
    return p->parts && p->target ? SALF_OK : SALF_E_NO_MEMORY;
}

static void placing_free(placing *p, const salf_planner *planner) {
    slf_free(planner->context, p->parts);
    slf_free(planner->context, p->target);
}

static void lay_out(const placing *p, const salf_planner *planner, const slf_planner_state *state) {
    const int32_t m = planner->m;
    uint32_t at = 0;
    for (int32_t e = 0; e < m; e++) {
        const uint32_t filled = at + (uint32_t)state->matched[e];
        p->parts[e] = (part){at, filled};
        p->parts[m + e] = (part){filled, 0}; /* never full */
        at += (uint32_t)planner->counts[e];
    }
    p->target[m] = (uint32_t)m;
    for (int32_t e = m - 1; e >= 0; e--) p->target[e] = state->matched[e] > 0 ? (uint32_t)e : p->target[e + 1];
}

/* A layer is full: what it would take goes on to the next that is not. */
static void close_layer(uint32_t *target, uint32_t e) {
    for (int64_t f = e; f >= 0 && target[f] == e; f--) target[f] = target[e + 1];
}

/* Datum i to the layer of its label when it fills that, else to its target. Without a branch on fill, which nothing
 * could predict. */
static inline void place_one(const placing *p, uint32_t m, const slf_planner_state *state, bool byte, int64_t i,
                             bool fill) {
    const uint32_t label = slf_label_read(byte, state->labels, i), e = fill ? label : p->target[label];
    part *to = p->parts + (fill ? m + e : e);
    const uint32_t at = to->at++;
    slf_label_write(byte, state->labels, i, e);
    state->data[at] = (uint32_t)i;
    if (at + 1 == to->end) close_layer(p->target, e);
}

/* Data in order of id. */
static inline void place_labels(const placing *given, const salf_planner *planner, const slf_planner_state *by,
                                bool byte) {
    const placing p = *given; /* copies, which what is written cannot change */
    const slf_planner_state state = *by;
    const uint32_t m = (uint32_t)planner->m;
    for (int64_t first = 0; first < planner->n; first += 64) {
        const uint64_t fills = state.by_fill[first / 64];
        const int64_t end = planner->n - first < 64 ? planner->n : first + 64;
        if (fills)
            for (int64_t i = first; i < end; i++) place_one(&p, m, &state, byte, i, fills >> (i & 63) & 1);
        else
            for (int64_t i = first; i < end; i++) place_one(&p, m, &state, byte, i, false);
    }
}

static void place(const placing *p, const salf_planner *planner, slf_planner_state *state) {
    lay_out(p, planner, state);
    if (slf_label_is_byte(planner->m))
        place_labels(p, planner, state, true);
    else
        place_labels(p, planner, state, false);
}

/* ---- settling ---- */

typedef struct settling {
    salf_planner *planner;
    slf_planner_state *state;
    int64_t *unused; /* [largest label + 1] data by label that no fill took */
    slf_fills fills; /* begun when first something is missing */
    placing placing;
} settling;

/* Four histograms, so that neighbours with the same eof do not wait for each other. */
static void count_bytes(const uint8_t *labels, int64_t n, int64_t *count) {
    uint32_t parts[4][256] = {{0}};
    for (int64_t i = 0; i < n; i++) parts[i & 3][labels[i]]++;
    for (int e = 0; e < 256; e++) count[e] = (int64_t)parts[0][e] + parts[1][e] + parts[2][e] + parts[3][e];
}

static salf_status count_eof(settling *s) {
    const int64_t n = s->planner->n;
    const bool byte = slf_label_is_byte(s->planner->m);
    const uint32_t unknown = slf_label_unknown(byte);
    const void *labels = s->state->labels;
    if (byte)
        count_bytes(labels, n, s->unused);
    else
        for (int64_t i = 0; i < n; i++) s->unused[((const uint16_t *)labels)[i]]++;
    if (s->unused[unknown] == 0) return SALF_OK;
    int64_t i = 0;
    while (slf_label_read(byte, labels, i) != unknown) i++;
    return slf_fail(SALF_E_SEQUENCE, "salf_planner_match: the eof of datum %lld is not set", (long long)i);
}

/* Used are the data with a label of at most e: either that is their eof, and no candidates are left where something is
 * missing, or they filled a layer before. */
static salf_status fill_stage(settling *s, int32_t e, int64_t missing) {
    const salf_planner *p = s->planner;
    if (!s->fills.labels)
        SLF_TRY(
            slf_fills_begin(&s->fills, p->context, s->state->labels, slf_label_is_byte(p->m), p->n, p->options.seed));
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
    const bool byte = slf_label_is_byte(p->m);
    if (!state->labels) SLF_TRY(slf_planner_new_labels(p, &state->labels));
    s->unused = slf_alloc_zero(p->context, (uint64_t)slf_label_unknown(byte) + 1, sizeof *s->unused);
    if (!s->unused) return SALF_E_NO_MEMORY;
    if (p->options.matching == SALF_MATCH_OFFLINE) SLF_TRY(count_eof(s));
    SLF_TRY(placing_begin(&s->placing, p));
    SLF_TRY(fill_stages(s));
    state->by_fill = slf_alloc_zero(p->context, (uint64_t)slf_bit_words(p->n), sizeof *state->by_fill);
    if (!state->by_fill) return SALF_E_NO_MEMORY;
    state->data = slf_alloc(p->context, (uint64_t)p->n, sizeof *state->data);
    if (!state->data) return SALF_E_NO_MEMORY;
    if (s->fills.labels) slf_fills_collect(&s->fills, p->context, state->labels, state->by_fill);
    slf_fills_free(&s->fills, p->context);
    place(&s->placing, p, state);
    return SALF_OK;
}

salf_status slf_planner_settle(salf_planner *planner) {
    settling s = {.planner = planner, .state = &planner->state};
    const salf_status status = settle_with(&s);
    slf_free(planner->context, s.unused);
    slf_fills_free(&s.fills, planner->context);
    placing_free(&s.placing, planner);
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

static salf_status count_stages(const salf_planner *planner, slf_planner_state *state) {
    const uint32_t m = (uint32_t)planner->m;
    const bool byte = slf_label_is_byte(planner->m);
    int64_t *matched = state->matched, *filled = state->filled;
    memset(matched, 0, m * sizeof *matched);
    memset(filled, 0, m * sizeof *filled);
    for (int64_t i = 0; i < planner->n; i++) {
        const uint32_t e = slf_label_read(byte, state->labels, i);
        if (e >= m)
            return slf_fail(SALF_E_CORRUPT, "salf_planner: datum %lld belongs to layer %u of %u", (long long)i, e, m);
        const bool fill = slf_bit_get(state->by_fill, i);
        filled[e] += fill;
        matched[e] += !fill;
    }
    for (uint32_t e = 0; e < m; e++)
        if (matched[e] + filled[e] != planner->counts[e])
            return slf_fail(SALF_E_CORRUPT, "salf_planner: layer %u holds %lld data instead of %lld", e,
                            (long long)(matched[e] + filled[e]), (long long)planner->counts[e]);
    return SALF_OK;
}

salf_status slf_planner_collect(const salf_planner *planner, slf_planner_state *state) {
    SLF_TRY(count_stages(planner, state));
    placing p = {0};
    const salf_status status = placing_begin(&p, planner);
    if (status == SALF_OK) place(&p, planner, state);
    placing_free(&p, planner);
    return status;
}
