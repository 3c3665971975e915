/*
 * planner_match.c - which data train at which layer, settled for all data at once (paper, Algorithm 4).
 *
 * For e = 0 ... m-1: of the unused data with eof <= e, those with the c_e smallest ids; then, where they are fewer, a
 * uniform sample of all unused. NONE samples only.
 *
 * Matching: ids are sorted by eof once (counting sort). Stage e adds class e to a bitmap of candidates, which then
 * takes the lowest c_e bits: every datum enters and leaves once, and a scan reads N/64 words a stage: O(N + m N / 64),
 * in practice the N part. Memory a datum: label 1 (m > 254: 2), ids 4, permutation 4, two bitmaps 1/4: 9.25 bytes.
 *
 * Filling: one random permutation of all ids for the whole plan; each fill takes the next unused ones. This is a
 * uniform sample at every stage: all that happened so far depends on the eof and on the prefix of the permutation read
 * so far, given which the unread rest is uniformly ordered, and so are the unused among it; and everything in the
 * prefix is used.
 *
 * Permutation: each id draws one of 2^b buckets, and each bucket is shuffled (Fisher-Yates) when it is first read.
 * Uniform: bucket draws are independent and alike for all ids, so that, given the sizes, every way to deal the ids out
 * is equally likely, and within a bucket every order is. Buckets of some 2^16 ids stay in cache, where a shuffle of all
 * would miss it at every step.
 */
#include <string.h>

#include "planner_internal.h"

/* Streams of the counter-based generator. */
#define STREAM_BUCKET 0x706C616E6275636Bu
#define STREAM_DRAW   0x706C616E64726177u
#define MOST_BITS     12

/* ---- permutation ---- */

static uint32_t bucket_of(uint32_t word, int32_t bits) {
    return bits == 0 ? 0 : word >> (32 - bits);
}

/* Calls for ids 4i ... 4i+3 share one block of random bits. */
static void deal(slf_shuffle *s, uint32_t *at, bool place) {
    for (int64_t first = 0; first < s->count; first += 4) {
        uint32_t words[4];
        slf_philox(s->seed, (uint64_t)first / 4, STREAM_BUCKET, words);
        const int64_t end = s->count - first < 4 ? s->count - first : 4;
        for (int64_t i = 0; i < end; i++) {
            const uint32_t position = at[bucket_of(words[i], s->bits)]++;
            if (place) s->ids[position] = (uint32_t)(first + i);
        }
    }
}

static void shuffle_bucket(slf_shuffle *s) {
    const uint32_t first = s->bucket_at[s->bucket], end = s->bucket_at[s->bucket + 1];
    for (uint32_t i = first; i < end; i++) {
        const uint32_t j = i + (uint32_t)slf_random_below(s->seed, STREAM_DRAW, i, end - i);
        const uint32_t id = s->ids[j];
        s->ids[j] = s->ids[i];
        s->ids[i] = id;
    }
}

/* Ids into their buckets, and the first bucket into order. */
static void deal_all(slf_shuffle *s) {
    const uint32_t buckets = (uint32_t)1 << s->bits;
    uint32_t *cursor = s->bucket_at + buckets + 1; /* [buckets] */
    deal(s, s->bucket_at + 1, false);
    for (uint32_t b = 0; b < buckets; b++) {
        cursor[b] = s->bucket_at[b];
        s->bucket_at[b + 1] += s->bucket_at[b];
    }
    deal(s, cursor, true);
    shuffle_bucket(s);
    s->dealt = true;
}

salf_status slf_shuffle_begin(slf_shuffle *s, const salf_context *context, int64_t count, uint64_t seed) {
    int32_t bits = 0;
    while (bits < MOST_BITS && count >> bits > 65536) bits++;
    *s = (slf_shuffle){.count = count, .seed = seed, .bits = bits};
    const uint32_t buckets = (uint32_t)1 << bits;
    s->ids = slf_alloc(context, (uint64_t)count, sizeof *s->ids);
    s->bucket_at = slf_alloc_zero(context, 2 * (uint64_t)buckets + 1, sizeof *s->bucket_at);
    if (!s->ids || !s->bucket_at) {
        slf_shuffle_free(s, context);
        return SALF_E_NO_MEMORY;
    }
    return SALF_OK;
}

void slf_shuffle_free(slf_shuffle *s, const salf_context *context) {
    slf_free(context, s->ids);
    slf_free(context, s->bucket_at);
    *s = (slf_shuffle){0};
}

uint32_t slf_shuffle_next(slf_shuffle *s) {
    if (!s->dealt) deal_all(s);
    while ((uint64_t)s->drawn >= s->bucket_at[s->bucket + 1]) {
        s->bucket++;
        shuffle_bucket(s);
    }
    return s->ids[s->drawn++];
}

/* ---- labels ---- */

int32_t slf_label_size(int32_t m) {
    return m < UINT8_MAX ? 1 : 2;
}

uint32_t slf_label_get(const salf_planner *planner, const void *labels, int64_t i) {
    return slf_label_size(planner->m) == 1 ? ((const uint8_t *)labels)[i] : ((const uint16_t *)labels)[i];
}

void slf_label_set(const salf_planner *planner, void *labels, int64_t i, uint32_t value) {
    if (slf_label_size(planner->m) == 1)
        ((uint8_t *)labels)[i] = (uint8_t)value;
    else
        ((uint16_t *)labels)[i] = (uint16_t)value;
}

uint32_t slf_label_unknown(const salf_planner *planner) {
    return slf_label_size(planner->m) == 1 ? UINT8_MAX : UINT16_MAX;
}

salf_status slf_planner_new_labels(const salf_planner *planner, void **labels) {
    if (planner->m >= SLF_MOST_LABELS)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner: %d layers; data can be matched to at most %d", (int)planner->m,
                        SLF_MOST_LABELS - 1);
    if (planner->n > (int64_t)UINT32_MAX)
        return slf_fail(SALF_E_OVERFLOW, "salf_planner: %lld data; at most %lld can be matched", (long long)planner->n,
                        (long long)UINT32_MAX);
    const size_t size = (size_t)slf_label_size(planner->m);
    *labels = slf_alloc(planner->context, (uint64_t)planner->n, size);
    if (!*labels) return SALF_E_NO_MEMORY;
    memset(*labels, 0xFF, (size_t)planner->n * size);
    return SALF_OK;
}

/* ---- settling ---- */

typedef struct settling {
    salf_planner *planner;
    slf_planner_state *state;
    int64_t *at;          /* [m+1] where each class begins in sorted */
    uint32_t *sorted;     /* [N] ids by eof */
    uint64_t *candidates; /* [N bits] unused, eof <= e */
    uint64_t *used;       /* [N bits] */
    slf_shuffle shuffle;
} settling;

static salf_status sort_by_eof(settling *s) {
    const salf_planner *p = s->planner;
    const void *labels = s->state->labels;
    memset(s->at, 0, ((size_t)p->m + 2) * sizeof *s->at);
    for (int64_t i = 0; i < p->n; i++) {
        const uint32_t eof = slf_label_get(p, labels, i);
        if (eof >= (uint32_t)p->m)
            return slf_fail(SALF_E_SEQUENCE, "salf_planner_match: the eof of datum %lld is not set", (long long)i);
        s->at[eof + 2]++;
    }
    for (int32_t e = 0; e < p->m; e++) s->at[e + 2] += s->at[e + 1];
    for (int64_t i = 0; i < p->n; i++) s->sorted[s->at[slf_label_get(p, labels, i) + 1]++] = (uint32_t)i;
    return SALF_OK;
}

static int64_t match_stage(settling *s, int32_t e) {
    for (int64_t i = s->at[e]; i < s->at[e + 1]; i++)
        if (!slf_bit_get(s->used, s->sorted[i])) slf_bit_set(s->candidates, s->sorted[i]);
    const int64_t words = slf_bit_words(s->planner->n), wanted = s->planner->counts[e];
    int64_t taken = 0;
    for (int64_t w = 0; w < words; w++)
        while (s->candidates[w]) {
            if (taken == wanted) return taken;
            const int64_t i = w * 64 + slf_lowest_bit(s->candidates[w]);
            slf_bit_clear(s->candidates, i);
            slf_bit_set(s->used, i);
            slf_label_set(s->planner, s->state->labels, i, (uint32_t)e);
            taken++;
        }
    return taken;
}

static void fill_stage(settling *s, int32_t e, int64_t missing) {
    while (missing > 0) {
        const uint32_t id = slf_shuffle_next(&s->shuffle);
        if (slf_bit_get(s->used, id)) continue;
        slf_bit_set(s->used, id);
        slf_bit_clear(s->candidates, id);
        slf_bit_set(s->state->by_fill, id);
        slf_label_set(s->planner, s->state->labels, id, (uint32_t)e);
        missing--;
    }
}

static salf_status settle_with(settling *s) {
    const salf_planner *p = s->planner;
    const uint64_t words = (uint64_t)slf_bit_words(p->n);
    const bool offline = p->options.matching == SALF_MATCH_OFFLINE;
    if (!s->state->labels) SLF_TRY(slf_planner_new_labels(p, &s->state->labels));
    s->at = slf_alloc(p->context, (uint64_t)p->m + 2, sizeof *s->at);
    s->sorted = slf_alloc(p->context, (uint64_t)p->n, sizeof *s->sorted);
    s->candidates = slf_alloc_zero(p->context, words, sizeof *s->candidates);
    s->used = slf_alloc_zero(p->context, words, sizeof *s->used);
    s->state->by_fill = slf_alloc_zero(p->context, words, sizeof *s->used);
    if (!s->at || !s->sorted || !s->candidates || !s->used || !s->state->by_fill) return SALF_E_NO_MEMORY;
    if (offline) SLF_TRY(sort_by_eof(s));
    /* Nothing can fail once data are booked: labels are still eof when there is no memory. */
    SLF_TRY(slf_shuffle_begin(&s->shuffle, p->context, p->n, p->options.seed));
    for (int32_t e = 0; e < p->m; e++) {
        const int64_t matched = offline ? match_stage(s, e) : 0;
        fill_stage(s, e, p->counts[e] - matched);
    }
    s->state->data = s->sorted;
    s->sorted = NULL;
    return slf_planner_collect(p, s->state);
}

salf_status slf_planner_settle(salf_planner *planner) {
    settling s = {.planner = planner, .state = &planner->state};
    const salf_status status = settle_with(&s);
    slf_free(planner->context, s.at);
    slf_free(planner->context, s.sorted);
    slf_free(planner->context, s.candidates);
    slf_free(planner->context, s.used);
    slf_shuffle_free(&s.shuffle, planner->context);
    if (status != SALF_OK) {
        slf_free(planner->context, planner->state.by_fill);
        planner->state.by_fill = NULL;
    }
    planner->state.settled = status == SALF_OK;
    return status;
}

/* matched and filled serve as cursors while data are placed: matched from the stage's start, filled after them. */
salf_status slf_planner_collect(const salf_planner *planner, slf_planner_state *state) {
    const int32_t m = planner->m;
    memset(state->matched, 0, (size_t)m * sizeof *state->matched);
    memset(state->filled, 0, (size_t)m * sizeof *state->filled);
    for (int64_t i = 0; i < planner->n; i++) {
        const uint32_t e = slf_label_get(planner, state->labels, i);
        if (e >= (uint32_t)m)
            return slf_fail(SALF_E_CORRUPT, "salf_planner: datum %lld belongs to layer %u of %d", (long long)i, e,
                            (int)m);
        if (slf_bit_get(state->by_fill, i))
            state->filled[e]++;
        else
            state->matched[e]++;
    }
    int64_t first = 0;
    for (int32_t e = 0; e < m; e++) {
        const int64_t matched = state->matched[e], filled = state->filled[e];
        if (matched + filled != planner->counts[e])
            return slf_fail(SALF_E_CORRUPT, "salf_planner: layer %d holds %lld data instead of %lld", (int)e,
                            (long long)(matched + filled), (long long)planner->counts[e]);
        state->matched[e] = first;
        state->filled[e] = first + matched;
        first += planner->counts[e];
    }
    for (int64_t i = 0; i < planner->n; i++) {
        const uint32_t e = slf_label_get(planner, state->labels, i);
        int64_t *cursor = slf_bit_get(state->by_fill, i) ? state->filled : state->matched;
        state->data[cursor[e]++] = (uint32_t)i;
    }
    first = 0;
    for (int32_t e = 0; e < m; e++) {
        state->matched[e] -= first;
        first += planner->counts[e];
        state->filled[e] = planner->counts[e] - state->matched[e];
    }
    return SALF_OK;
}
