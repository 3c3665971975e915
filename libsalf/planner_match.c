/*
 * planner_match.c - which data train at which layer, settled for all data at once (paper, Algorithm 4).
 *
 * For e = 0 ... m-1: of the unused data with eof <= e, those with the c_e smallest ids; then, where they are fewer, a
 * uniform sample of all unused. NONE samples only.
 *
 * Matching: in order of id, each datum goes to the first layer from its eof on that is not full. This gives the same:
 * a layer is then offered, in order of id, what no layer below took, and takes the first c_e of it. One pass, with a
 * table of the first layer that is not full: O(N + m^2). How many a layer matches and lacks follows from the number of
 * data of each eof, so that all fills are drawn before this pass. Memory a datum: label 1 (m > 254: 2), id 4, a bit;
 * and a permutation, 4, which is not touched where nothing is filled.
 *
 * Filling: one random permutation of all ids for the whole plan; each fill takes the next unused ones. This is a
 * uniform sample at every stage: all that happened so far depends on the eof and on the prefix of the permutation read
 * so far, given which the unread rest is uniformly ordered, and so are the unused among it; and everything in the
 * prefix is used.
 *
 * Permutation: each id draws one of 2^b buckets, and each bucket is shuffled (Fisher-Yates) when a part of it is read;
 * the order within buckets that are read whole does not matter. Uniform: bucket draws are independent and alike for all
 * ids, so that, given the sizes, every way to deal the ids out is equally likely, and within a bucket every order is.
 * Buckets of some 2^16 ids stay in cache, where a shuffle of all would miss it at every step.
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
    s->ordered = true;
}

/* Ids into their buckets. */
static void deal_all(slf_shuffle *s) {
    const uint32_t buckets = (uint32_t)1 << s->bits;
    uint32_t *cursor = s->bucket_at + buckets + 1; /* [buckets] */
    deal(s, s->bucket_at + 1, false);
    for (uint32_t b = 0; b < buckets; b++) {
        cursor[b] = s->bucket_at[b];
        s->bucket_at[b + 1] += s->bucket_at[b];
    }
    deal(s, cursor, true);
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

int64_t slf_shuffle_take(slf_shuffle *s, int64_t most, const uint32_t **ids) {
    if (!s->dealt) deal_all(s);
    while ((uint64_t)s->drawn >= s->bucket_at[s->bucket + 1]) {
        s->bucket++;
        s->ordered = false;
    }
    const int64_t left = (int64_t)s->bucket_at[s->bucket + 1] - s->drawn;
    if (most < left && !s->ordered) shuffle_bucket(s);
    const int64_t n = most < left ? most : left;
    *ids = s->ids + s->drawn;
    s->drawn += n;
    return n;
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

/* Data in order of id: those that fill stay at the layer of their label, all others go to their target. */
static inline void place_labels(const placing *p, const salf_planner *planner, slf_planner_state *state, bool byte) {
    const int64_t n = planner->n;
    void *labels = state->labels;
    uint32_t *data = state->data, *target = p->target;
    part *matched = p->parts, *filled = p->parts + planner->m;
    for (int64_t first = 0; first < n; first += 64) {
        const uint64_t fills = state->by_fill[first / 64];
        const int64_t end = n - first < 64 ? n : first + 64;
        for (int64_t i = first; i < end; i++) {
            const uint32_t label = slf_label_read(byte, labels, i);
            const bool fill = fills >> (i & 63) & 1;
            const uint32_t e = fill ? label : target[label];
            part *to = (fill ? filled : matched) + e;
            const uint32_t at = to->at++;
            slf_label_write(byte, labels, i, e);
            data[at] = (uint32_t)i;
            if (at + 1 == to->end) close_layer(target, e);
        }
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
    slf_shuffle shuffle;
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
static void fill_stage(settling *s, int32_t e, int64_t missing) {
    const bool byte = slf_label_is_byte(s->planner->m);
    void *labels = s->state->labels;
    uint64_t *by_fill = s->state->by_fill;
    int64_t *unused = s->unused;
    while (missing > 0) {
        const uint32_t *ids;
        const int64_t n = slf_shuffle_take(&s->shuffle, missing, &ids);
        for (int64_t i = 0; i < n; i++) {
            const uint32_t id = ids[i], label = slf_label_read(byte, labels, id);
            if (label <= (uint32_t)e) continue;
            unused[label]--;
            slf_label_write(byte, labels, id, (uint32_t)e);
            slf_bit_set(by_fill, id);
            missing--;
        }
    }
}

static void fill_stages(settling *s) {
    int64_t candidates = 0;
    for (int32_t e = 0; e < s->planner->m; e++) {
        const int64_t count = s->planner->counts[e];
        candidates += s->unused[e];
        const int64_t matched = candidates < count ? candidates : count;
        candidates -= matched;
        fill_stage(s, e, count - matched);
        s->state->matched[e] = matched;
        s->state->filled[e] = count - matched;
    }
}

static salf_status settle_with(settling *s) {
    const salf_planner *p = s->planner;
    slf_planner_state *state = s->state;
    const bool byte = slf_label_is_byte(p->m);
    if (!state->labels) SLF_TRY(slf_planner_new_labels(p, &state->labels));
    s->unused = slf_alloc_zero(p->context, (uint64_t)slf_label_unknown(byte) + 1, sizeof *s->unused);
    state->by_fill = slf_alloc_zero(p->context, (uint64_t)slf_bit_words(p->n), sizeof *state->by_fill);
    state->data = slf_alloc(p->context, (uint64_t)p->n, sizeof *state->data);
    if (!s->unused || !state->by_fill || !state->data) return SALF_E_NO_MEMORY;
    SLF_TRY(placing_begin(&s->placing, p));
    if (p->options.matching == SALF_MATCH_OFFLINE) SLF_TRY(count_eof(s));
    /* Nothing can fail once data are booked: labels are still eof when there is no memory. */
    SLF_TRY(slf_shuffle_begin(&s->shuffle, p->context, p->n, p->options.seed));
    fill_stages(s);
    place(&s->placing, p, state);
    return SALF_OK;
}

salf_status slf_planner_settle(salf_planner *planner) {
    settling s = {.planner = planner, .state = &planner->state};
    const salf_status status = settle_with(&s);
    slf_free(planner->context, s.unused);
    slf_shuffle_free(&s.shuffle, planner->context);
    placing_free(&s.placing, planner);
    if (status != SALF_OK) {
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
