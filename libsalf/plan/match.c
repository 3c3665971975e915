/*
 * match.c - which data train at which layer (paper, Algorithm 4).
 *
 * For e = 0 ... m-1: of the unused data with eof <= e, in order of id, the first c_e are matched; where they are fewer,
 * a uniform sample of all unused data fills the layer. NONE only fills.
 *
 * The sample is what comes next, used data passed over, in one random order of all ids. That is uniform: what is unused
 * stands in the part of the order that is not drawn yet, and matching looks at eof and ids alone, so that whatever is
 * matched, every order of the rest stays equally likely. Offline and online draw from the same order, and what they
 * have drawn before a layer depends on the layers below only: they give the same data when the eof do not change.
 *
 * Time O(N + m N / 64): a counting sort by eof, one walk over a set of bits for each layer, N draws at most. Memory a
 * datum, while it lasts: eof 2 bytes, ids by eof 4, the random order 4, the result 4, and two bits.
 */
#include <inttypes.h>
#include <string.h>

#include "core/random.h"
#include "plan/plan.h"

/* Stream of the counter-based generator: "plandraw" in ASCII. */
#define STREAM_DRAW 0x706C616E64726177u

/* ---- sets and the random order ---- */

int64_t slf_bits_absent(const uint64_t *bits, int64_t n, int64_t most, int64_t *from, uint32_t *ids) {
    int64_t found = 0, i = *from;
    while (i < n && found < most) {
        const uint64_t absent = ~bits[i >> 6] >> (i & 63);
        if (absent == 0) {
            i = (i | 63) + 1; /* nothing more in this word */
            continue;
        }
        i += __builtin_ctzll(absent);
        if (i < n) ids[found++] = (uint32_t)i++;
    }
    *from = i < n ? i : n;
    return found;
}

salf_status slf_draws_prepare(slf_draws *draws, const salf_planner *p) {
    if (draws->ids) return SALF_OK;
    SLF_TRY(SLF_ALLOC(p->context, draws->ids, p->n));
    for (int64_t i = 0; i < p->n; i++) draws->ids[i] = (uint32_t)i;
    return SALF_OK;
}

/* Draw i swaps with a place in i ... N-1. What came to stand at i is never looked at again, and so is not written. The
 * places of the next draws are looked up together: nearly each is a cache miss, and these then overlap. At 10^7 data
 * this takes a quarter of the time. */
void slf_draws_unused(slf_draws *draws, const salf_planner *p, uint64_t *used, int64_t n, uint32_t *ids) {
    /* Ends: the caller asks for no more than are unused, and every id stands in the order once. */
    for (int64_t found = 0; found < n;) {
        const int64_t i = draws->count++;
        if (i % SLF_DRAWS_AHEAD == 0) {
            for (int64_t k = i; k < i + SLF_DRAWS_AHEAD && k < p->n; k++) {
                const uint64_t left = (uint64_t)(p->n - k);
                const uint64_t r = slf_random_below(p->options.seed, STREAM_DRAW, (uint64_t)k, left);
                draws->place[k - i] = (uint32_t)k + (uint32_t)r;
                __builtin_prefetch(draws->ids + draws->place[k - i], 1);
            }
        }
        uint32_t *place = draws->ids + draws->place[i % SLF_DRAWS_AHEAD];
        const uint32_t id = *place;
        *place = draws->ids[i];
        if (slf_bit_get(used, id)) continue;
        slf_bit_flip(used, id);
        ids[found++] = id;
    }
}

/* ---- settling all data at once ---- */

/* Data between two questions whether to go on: some milliseconds, most of them for cache misses. */
#define PATIENCE ((int64_t)1 << 18)

salf_status slf_plan_check_size(const salf_planner *p) {
    if (p->m > SLF_EOF_UNKNOWN)
        return slf_fail(SALF_E_OVERFLOW, "%" PRId32 " layers; data can be matched to at most %d", p->m,
                        SLF_EOF_UNKNOWN);
    if (p->n > (int64_t)UINT32_MAX)
        return slf_fail(SALF_E_OVERFLOW, "%" PRId64 " data; at most %" PRIu32 " can be matched", p->n, UINT32_MAX);
    return SALF_OK;
}

/* Counting sort: the ids of eof e are by_eof[first[e]] ... by_eof[first[e+1] - 1], ascending. first [m+1] begins as 0.
 */
static salf_status sort_by_eof(const salf_planner *p, const uint16_t *eof, int64_t *first, uint32_t *by_eof) {
    for (int64_t i = 0; i < p->n; i++) {
        if (i % PATIENCE == 0) SLF_TRY(slf_proceed(p->context, "eof", i, p->n));
        if (!eof || eof[i] == SLF_EOF_UNKNOWN)
            return slf_fail(SALF_E_SEQUENCE, "the eof of datum %" PRId64 " is not set", i);
        first[eof[i]]++;
    }
    int64_t below = 0;
    for (int32_t e = 0; e <= p->m; e++) {
        const int64_t count = first[e];
        first[e] = below;
        below += count;
    }
    for (int64_t i = 0; i < p->n; i++) {
        if (i % PATIENCE == 0) SLF_TRY(slf_proceed(p->context, "order by eof", i, p->n));
        by_eof[first[eof[i]]++] = (uint32_t)i;
    }
    memmove(first + 1, first, (size_t)p->m * sizeof *first); /* each now stands where the next one begins */
    first[0] = 0;
    return SALF_OK;
}

salf_status slf_plan_settle(const salf_planner *p, slf_progress *progress) {
    const bool matches = p->options.matching == SALF_MATCH_OFFLINE;
    const uint64_t n = (uint64_t)p->n, words = (uint64_t)slf_bit_words(p->n);
    SLF_TRY(slf_plan_check_size(p));
    salf_status status = SALF_E_NO_MEMORY;
    slf_draws draws = {0};
    int64_t *first = slf_alloc_zero(p->context, (uint64_t)p->m + 1, sizeof *first); /* without eof no id has any */
    uint32_t *by_eof = matches ? slf_alloc(p->context, n, sizeof *by_eof) : NULL;
    uint32_t *data = slf_alloc(p->context, n, sizeof *data);
    uint64_t *used = slf_alloc_zero(p->context, words, sizeof *used);
    uint64_t *barred = slf_alloc(p->context, words, sizeof *barred); /* used, or with an eof above the layer at hand */
    if (!first || (matches && !by_eof) || !data || !used || !barred) goto done;
    /* Bits past N stay set: no walk takes them for candidates. */
    memset(barred, 0xFF, words * sizeof *barred);
    if (matches) SLF_DO(sort_by_eof(p, progress->offline.eof, first, by_eof));

    uint32_t *next = data;
    for (int32_t e = 0; e < p->m; e++) {
        /* 1. data of this eof become candidates, but for those that filled a layer below */
        for (int64_t i = first[e]; i < first[e + 1]; i++)
            if (!slf_bit_get(used, by_eof[i])) slf_bit_flip(barred, by_eof[i]);
        /* 2. the first c_e candidates in order of id are matched */
        uint32_t *const end = next + p->counts[e];
        int64_t from = 0, found = 1;
        while (found > 0) {
            SLF_DO(slf_proceed(p->context, "matching", next - data, p->n));
            found = slf_bits_absent(barred, p->n, SLF_MIN(end - next, PATIENCE), &from, next);
            for (int64_t i = 0; i < found; i++) {
                slf_bit_flip(barred, next[i]);
                slf_bit_flip(used, next[i]);
            }
            next += found;
        }
        progress->filled[e] = end - next;
        progress->matched[e] = p->counts[e] - progress->filled[e];
        /* 3. what is missing is drawn. Then no candidate was left, and so none is drawn here that is not barred */
        if (next < end) SLF_DO(slf_draws_prepare(&draws, p));
        for (int64_t n_drawn; next < end; next += n_drawn) {
            SLF_DO(slf_proceed(p->context, "drawing", next - data, p->n));
            n_drawn = SLF_MIN(end - next, PATIENCE);
            slf_draws_unused(&draws, p, used, n_drawn, next);
        }
    }
    progress->offline.data = data;
    data = NULL;
    status = SALF_OK;
done:
    if (status != SALF_OK) memset(progress->matched, 0, 2 * (size_t)p->m * sizeof *progress->matched); /* and filled */
    SLF_FREE(p->context, draws.ids, barred, used, data, by_eof, first);
    return status;
}
