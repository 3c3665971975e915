/*
 * planner_match.c - which data train at which layer, settled for all data at once (paper, Algorithm 4).
 *
 * For e = 0 ... m-1: of the unused data with eof <= e, those with the c_e smallest ids; then, where they are fewer, a
 * uniform sample of all unused. NONE samples only.
 *
 * Matching: ids are sorted by eof once (counting sort). Stage e adds class e to a bitmap of candidates, which then
 * takes the lowest c_e bits: every datum enters and leaves once, and a scan reads N/64 words a stage: O(N + m N / 64),
 * in practice the N part. Memory a datum: label 1 (m > 254: 2), ids 4, permutation 4, three bitmaps 3/8: 9.4 bytes, of
 * which the permutation is not touched where nothing is filled.
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
    const int32_t m = s->planner->m;
    const int64_t n = s->planner->n;
    const void *labels = s->state->labels;
    const bool byte = slf_label_is_byte(m);
    int64_t *at = s->at;
    uint32_t *sorted = s->sorted;
    memset(at, 0, ((size_t)m + 2) * sizeof *at);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t eof = slf_label_read(byte, labels, i);
        if (eof >= (uint32_t)m)
            return slf_fail(SALF_E_SEQUENCE, "salf_planner_match: the eof of datum %lld is not set", (long long)i);
        at[eof + 2]++;
    }
    for (int32_t e = 0; e < m; e++) at[e + 2] += at[e + 1];
    for (int64_t i = 0; i < n; i++) sorted[at[slf_label_read(byte, labels, i) + 1]++] = (uint32_t)i;
    return SALF_OK;
}

static void add_candidates(settling *s, int32_t e) {
    const uint32_t *sorted = s->sorted;
    const uint64_t *used = s->used;
    uint64_t *candidates = s->candidates;
    const int64_t end = s->at[e + 1];
    for (int64_t i = s->at[e]; i < end; i++) {
        const uint32_t id = sorted[i];
        candidates[id >> 6] |= ((uint64_t)1 << (id & 63)) & ~used[id >> 6];
    }
}

/* The lowest n set bits of a word. */
static uint64_t lowest_bits(uint64_t word, int64_t n) {
    uint64_t rest = word;
    for (; n > 0 && rest != 0; n--) rest &= rest - 1;
    return word ^ rest;
}

static int64_t match_stage(settling *s, int32_t e) {
    add_candidates(s, e);
    const int64_t words = slf_bit_words(s->planner->n), wanted = s->planner->counts[e];
    const bool byte = slf_label_is_byte(s->planner->m);
    uint64_t *candidates = s->candidates, *used = s->used;
    void *labels = s->state->labels;
    int64_t taken = 0;
    for (int64_t w = 0; w < words && taken < wanted; w++) {
        if (candidates[w] == 0) continue;
        uint64_t word = wanted - taken >= 64 ? candidates[w] : lowest_bits(candidates[w], wanted - taken);
        candidates[w] ^= word;
        used[w] |= word;
        for (; word != 0; word &= word - 1, taken++)
            slf_label_write(byte, labels, w * 64 + slf_lowest_bit(word), (uint32_t)e);
    }
    return taken;
}

/* No candidates are left where something is missing. */
static void fill_stage(settling *s, int32_t e, int64_t missing) {
    const bool byte = slf_label_is_byte(s->planner->m);
    while (missing > 0) {
        const uint32_t id = slf_shuffle_next(&s->shuffle);
        if (slf_bit_get(s->used, id)) continue;
        slf_bit_set(s->used, id);
        slf_bit_set(s->state->by_fill, id);
        slf_label_write(byte, s->state->labels, id, (uint32_t)e);
        missing--;
    }
}

/* matched and filled serve as cursors while data are placed: matched from the stage's start, filled after them. */
static void place_ids(const salf_planner *planner, slf_planner_state *state) {
    const int32_t m = planner->m;
    const bool byte = slf_label_is_byte(m);
    int64_t *matched = state->matched, *filled = state->filled, first = 0;
    uint32_t *data = state->data;
    for (int32_t e = 0; e < m; e++) {
        filled[e] = first + matched[e];
        matched[e] = first;
        first += planner->counts[e];
    }
    for (int64_t i = 0; i < planner->n; i++) {
        const uint32_t e = slf_label_read(byte, state->labels, i);
        int64_t *cursor = slf_bit_get(state->by_fill, i) ? filled : matched;
        data[cursor[e]++] = (uint32_t)i;
    }
    first = 0;
    for (int32_t e = 0; e < m; e++) {
        matched[e] -= first;
        first += planner->counts[e];
        filled[e] = planner->counts[e] - matched[e];
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
        s->state->matched[e] = matched;
        s->state->filled[e] = p->counts[e] - matched;
    }
    s->state->data = s->sorted;
    s->sorted = NULL;
    place_ids(p, s->state);
    return SALF_OK;
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
    place_ids(planner, state);
    return SALF_OK;
}
