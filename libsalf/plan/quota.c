/*
 * quota.c - the layer of the next row of a stream.
 *
 * MIXED (R. Tijdeman, The chairman assignment problem, 1980): after t data, a_e of them at layer e, let D_e =
 * c_e (t+1) - N a_e. Of the m' layers with c_e > 0 and (2m'-2) D_e >= N the next is that of the smallest
 * ((2m'-3) N - (2m'-2) D_e) / c_e, ties shallow. Then |a_e - c_e t / N| <= 1 - 1/(2m'-2) at every t. There always is
 * such a layer: the D_e sum to N.
 * STAGED: the shallowest layer with room. Where rows have eof or gains, every group also passes the share
 * L m / (N + L m) of its rows, L = probe_limit, to the shallowest deeper layer with room: about L in a stage of N / m.
 * One cut a batch: the chairman in units of batches; staged, the layer that the middle of the batch falls to.
 *
 * Groups: of known size, each follows its own counts c_ge; otherwise each has its own t_g and a_ge and the plan's
 * shares (MIXED), or its own share of rows that are passed (STAGED). O(m) a datum, and no memory for one.
 */
#include "plan/plan.h"

/* Numbers of a valid state are below 2^17 * 2^34: |D_e| < 2 N. What a hostile blob makes of D_e is bounded by that too,
 * and then some layer is taken all the same. */
int32_t slf_quota_chairman(const int64_t *counts, int64_t n, int32_t m, int64_t t, const int64_t *taken) {
    int32_t best = -1, any = 0;
    int64_t layers = 0, least = 0;
    for (int32_t e = 0; e < m; e++) {
        if (counts[e] > 0) any = e;
        layers += counts[e] > 0;
    }
    const int64_t scale = 2 * layers - 2;
    if (layers < 2) return any;
    for (int32_t e = 0; e < m; e++) {
        if (counts[e] == 0) continue;
        const int64_t exact = (int64_t)((uint64_t)counts[e] * (uint64_t)(t + 1) - (uint64_t)n * (uint64_t)taken[e]);
        const int64_t behind = SLF_MAX(SLF_MIN(exact, 2 * n), -2 * n), wait = (scale - 1) * n - scale * behind;
        if (scale * behind < n) continue;
        if (best >= 0 && slf_compare_products(wait, counts[best], least, counts[e]) >= 0) continue;
        best = e;
        least = wait;
    }
    return best >= 0 ? best : any;
}

/* The shallowest layer from `from` on that has room; m where none has. */
static int32_t next_with_room(const int64_t *counts, const int64_t *taken, int32_t m, int32_t from) {
    while (from < m && taken[from] >= counts[from]) from++;
    return from;
}

int32_t slf_quota_layer(const salf_planner *p, slf_stream *s, slf_group *g) {
    const bool mixed = p->options.stream_order == SALF_STREAM_MIXED, sized = g && s->sized;
    /* the group's own numbers, or those of all */
    const int64_t at = g ? (g - s->groups) * p->m : 0;
    const int64_t *taken = sized || (g && mixed) ? s->group_taken + at : s->taken;
    const int64_t *counts = sized ? s->group_counts + at : p->counts;
    const int64_t n = sized ? g->size : p->n, t = g ? g->rows : s->position;
    if (mixed) return slf_quota_chairman(counts, n, p->m, t, taken);
    /* a hostile blob may leave no room: 0 then, which every plan has */
    const int32_t stage = next_with_room(counts, taken, p->m, 0) % p->m;
    if (!g) return stage;
    const int32_t deeper = next_with_room(counts, taken, p->m, stage + 1);
    /* no more than all data: then L < 2^32 * 2^16 */
    const bool all = p->options.probe_limit == SALF_PROBE_ALL || p->options.probe_limit > p->n;
    const int64_t L = (all ? p->n : p->options.probe_limit) * p->m;
    /* (passed + 1) / (rows + 1) <= L m / (N + L m) */
    if (deeper == p->m || slf_compare_products(g->passed + 1, p->n + L, g->rows + 1, L) > 0) return stage;
    g->passed++;
    return deeper;
}
