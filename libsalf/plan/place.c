/*
 * place.c - data to their places: ids by layer, matched before filled, in order of id within both.
 *
 * Fills have their layer; every other datum, in order of id, goes to the first layer from its eof on that is not full.
 * One walk, with a table of the first layer that is not full. It is split into pieces, which threads may share: chunks
 * of data are counted by label, and the counts tell where the walk stands at the start of each piece, as a chunk in
 * which no layer becomes full moves it by its counts alone. Only the at most m others are walked for that.
 * O(N + m^2 + m N / chunk).
 */
#include <string.h>

#include "plan/plan.h"

enum {
    PIECES = 16,          /* of the walk, at most */
    BLOCK = 256,          /* data ranked before they are written */
    BYTE_CHUNK = 1 << 14, /* data counted together, so many that their counts are small beside them */
    WIDE_CHUNK = 1 << 20
};

/* ---- counts of labels by chunk ---- */

static uint32_t *chunk_counts(const slf_placing *p, int64_t chunk) {
    return p->counts + 2 * p->kinds * (size_t)chunk;
}

static int64_t chunk_begin(const slf_placing *p, int64_t chunk) {
    const int64_t at = chunk * p->chunk;
    return at < p->planner->n ? at : p->planner->n;
}

static int64_t piece_chunk(const slf_placing *p, int64_t piece) {
    return p->chunks * piece / p->pieces;
}

salf_status slf_placing_begin(slf_placing *p, const salf_planner *planner, slf_planner_state *state) {
    const salf_context *context = planner->context;
    const uint64_t m = (uint64_t)planner->m;
    *p = (slf_placing){.planner = planner, .state = state, .byte = slf_label_is_byte(planner->m)};
    p->kinds = (size_t)slf_label_unknown(p->byte) + 1;
    p->chunk = p->byte ? BYTE_CHUNK : WIDE_CHUNK;
    p->chunks = (planner->n - 1) / p->chunk + 1;
    p->pieces = p->chunks < PIECES ? p->chunks : PIECES;
    p->counts = slf_alloc(context, (uint64_t)p->chunks, 2 * p->kinds * sizeof *p->counts);
    p->parts = slf_alloc(context, (uint64_t)p->pieces, 2 * m * sizeof *p->parts);
    p->target = slf_alloc(context, (uint64_t)p->pieces, (2 * m + 1) * sizeof *p->target);
    return p->counts && p->parts && p->target ? SALF_OK : SALF_E_NO_MEMORY;
}

void slf_placing_free(slf_placing *p, const salf_context *context) {
    slf_free(context, p->counts);
    slf_free(context, p->parts);
    slf_free(context, p->target);
    *p = (slf_placing){0};
}

static inline void count_labels(const slf_placing *p, int64_t first, int64_t end, uint32_t *count, bool byte) {
    const void *labels = p->state->labels;
    const uint64_t *by_fill = p->state->by_fill;
    const uint32_t fill = (uint32_t)p->kinds;
    for (; first < end; first += 64) {
        const uint64_t fills = by_fill[first / 64];
        const int64_t n = end - first < 64 ? end - first : 64;
        if (fills)
            for (int64_t k = 0; k < n; k++)
                count[slf_label_read(byte, labels, first + k) + (fill & (0 - (uint32_t)(fills >> k & 1)))]++;
        else
            for (int64_t k = 0; k < n; k++) count[slf_label_read(byte, labels, first + k)]++;
    }
}

static void count_chunks(void *user, int64_t first, int64_t last) {
    const slf_placing *p = user;
    for (int64_t chunk = first; chunk < last; chunk++) {
        const int64_t begin = chunk_begin(p, chunk), end = chunk_begin(p, chunk + 1);
        uint32_t *count = chunk_counts(p, chunk);
        memset(count, 0, 2 * p->kinds * sizeof *count);
        if (p->fills) slf_fills_settle(p->fills, begin, end);
        if (p->byte)
            count_labels(p, begin, end, count, true);
        else
            count_labels(p, begin, end, count, false);
    }
}

void slf_placing_count(slf_placing *p, const slf_fills *fills) {
    p->fills = fills;
    slf_parallel_for(p->planner->context, p->chunks, 1, count_chunks, p);
}

int64_t slf_placing_sum(const slf_placing *p, uint32_t label, bool fill) {
    int64_t sum = 0;
    for (int64_t chunk = 0; chunk < p->chunks; chunk++) sum += chunk_counts(p, chunk)[label + (fill ? p->kinds : 0)];
    return sum;
}

/* ---- the walk ---- */

typedef struct walk {
    slf_part *parts; /* [2m] matched, then filled data of each layer */
    uint32_t
        *target; /* [m+1] the first layer from e on that takes data, m: none; [m] the part of what fills e, m + e */
    uint32_t m;
} walk;

static walk piece_walk(const slf_placing *p, int64_t piece) {
    const size_t m = (size_t)p->planner->m, at = (size_t)piece;
    return (walk){p->parts + 2 * m * at, p->target + (2 * m + 1) * at, (uint32_t)m};
}

static void lay_out(const walk *w, const salf_planner *planner, const slf_planner_state *state) {
    const uint32_t m = w->m;
    uint32_t at = 0;
    for (uint32_t e = 0; e < m; e++) {
        const uint32_t filled = at + (uint32_t)state->matched[e];
        w->parts[e] = (slf_part){at, filled};
        w->parts[m + e] = (slf_part){filled, 0}; /* never full */
        w->target[m + 1 + e] = m + e;
        at += (uint32_t)planner->counts[e];
    }
    w->target[m] = m;
    for (uint32_t e = m; e-- > 0;) w->target[e] = state->matched[e] > 0 ? e : w->target[e + 1];
}

/* A layer is full: what it would take goes on to the next that is not. */
static void close_layer(uint32_t *target, uint32_t e) {
    for (int64_t f = e; f >= 0 && target[f] == e; f--) target[f] = target[e + 1];
}

/* The layer of the next datum, that of its label when it fills, else its target, and its place. fill has all bits set
 * or none: without a branch on it, which nothing could predict. */
static inline uint32_t place_next(const walk *w, uint32_t label, uint32_t fill, uint32_t *place) {
    const uint32_t part = w->target[label + ((w->m + 1) & fill)];
    slf_part *to = w->parts + part;
    *place = to->at++;
    if (to->at == to->end) close_layer(w->target, part);
    return part - (w->m & fill);
}

/* Up to BLOCK data: first all places, then all writes. A write to a place that is not known yet would hold up the reads
 * behind it. */
static inline void place_block(const walk *given, const slf_planner_state *given_state, bool byte, int64_t first,
                               int n) {
    const walk w = *given; /* copies, which what is written cannot change */
    const slf_planner_state state = *given_state;
    uint32_t place[BLOCK];
    uint16_t layer[BLOCK];
    for (int k0 = 0; k0 < n; k0 += 64) {
        uint64_t fills = state.by_fill[(first + k0) / 64];
        const int end = n - k0 < 64 ? n : k0 + 64;
        for (int k = k0; k < end; k++) {
            const uint32_t label = slf_label_read(byte, state.labels, first + k);
            layer[k] = (uint16_t)place_next(&w, label, 0 - (uint32_t)(fills & 1), &place[k]);
            fills >>= 1;
            SLF_PREFETCH(state.data + place[k]);
        }
    }
    for (int k = 0; k < n; k++) slf_label_write(byte, state.labels, first + k, layer[k]);
    for (int k = 0; k < n; k++) state.data[place[k]] = (uint32_t)(first + k);
}

static void place_pieces(void *user, int64_t first, int64_t last) {
    const slf_placing *p = user;
    const int64_t end = chunk_begin(p, piece_chunk(p, last));
    for (int64_t piece = first; piece < last; piece++) {
        const walk w = piece_walk(p, piece);
        const int64_t stop = chunk_begin(p, piece_chunk(p, piece + 1));
        for (int64_t i = chunk_begin(p, piece_chunk(p, piece)); i < stop; i += BLOCK) {
            const int n = end - i < BLOCK ? (int)(end - i) : BLOCK;
            if (p->byte)
                place_block(&w, p->state, true, i, n);
            else
                place_block(&w, p->state, false, i, n);
        }
    }
}

/* ---- where it stands at the start of each piece ---- */

/* Moves the walk by a chunk's counts; false where a layer becomes full by them. */
static bool move_by_counts(const walk *w, const uint32_t *count, uint32_t kinds) {
    bool open = true;
    for (uint32_t e = 0; e < w->m; e++) {
        if (count[e] == 0) continue;
        slf_part *to = w->parts + w->target[e];
        to->at += count[e];
        open = open && to->at < to->end;
    }
    for (uint32_t e = 0; open && e < w->m; e++) w->parts[w->m + e].at += count[kinds + e];
    return open;
}

/* Moves it datum by datum, as it stood before the counts. */
static void move_by_data(const slf_placing *p, const walk *w, int64_t chunk) {
    const uint32_t *count = chunk_counts(p, chunk);
    const slf_planner_state *s = p->state;
    const int64_t end = chunk_begin(p, chunk + 1);
    for (uint32_t e = 0; e < w->m; e++)
        if (count[e] > 0) w->parts[w->target[e]].at -= count[e];
    for (int64_t i = chunk_begin(p, chunk); i < end; i++) {
        uint32_t place;
        place_next(w, slf_label_read(p->byte, s->labels, i), 0 - (uint32_t)slf_bit_get(s->by_fill, i), &place);
    }
}

static void start_pieces(const slf_placing *p) {
    const size_t m = (size_t)p->planner->m;
    lay_out(&(walk){p->parts, p->target, (uint32_t)m}, p->planner, p->state);
    for (int64_t piece = 1; piece < p->pieces; piece++) {
        const walk w = piece_walk(p, piece);
        memcpy(w.parts, w.parts - 2 * m, 2 * m * sizeof *w.parts);
        memcpy(w.target, w.target - (2 * m + 1), (2 * m + 1) * sizeof *w.target);
        for (int64_t chunk = piece_chunk(p, piece - 1); chunk < piece_chunk(p, piece); chunk++)
            if (!move_by_counts(&w, chunk_counts(p, chunk), (uint32_t)p->kinds)) move_by_data(p, &w, chunk);
    }
}

void slf_placing_run(slf_placing *p) {
    start_pieces(p);
    slf_parallel_for(p->planner->context, p->pieces, 1, place_pieces, p);
}
