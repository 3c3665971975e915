/*
 * fill.c - which data fill layers: a uniform sample of the unused at every stage.
 *
 * Each id draws a key of 16 bits; ids with keys in one range are a bucket. Ranges are of up to three widths, each 1/16
 * of the one before; below all of them is the front, whose ids, in order, are shuffled (Fisher-Yates) as far as they
 * are drawn. A stage that lacks data takes whole buckets, those of each width from the last one down, while all that is
 * unused in the next one is not more than it lacks; then the rest one by one from the front, passing over what is used.
 * There are m times 15 buckets of a width below the widest, and keys for m more of them in the front, as each of m
 * stages leaves less than one bucket to the next width. Should the front be used up all the same, all ids become it.
 *
 * Uniform: a stage looks at the unused only through their draws, never at their eof (all with an eof up to e are used
 * when something is missing at e). So what is known of the draws of those that stay unused is the same for each of
 * them, and any that a stage takes could as well have been any others. Nothing of this needs to be remembered: to go
 * through it again from the start, with the same data used, ends at the same place.
 *
 * Online a stage that lacks data walks over all ids. Offline what it takes follows from the number of data of each
 * label in each bucket: a bucket that is taken is no more than a note which layer it fills, until all is settled in one
 * walk. Nothing is moved but the ids of the front. O(N + m^2).
 */
#include <string.h>

#include "core/random.h"
#include "plan/plan.h"

/* Streams of the counter-based generator. */
#define STREAM_BUCKET 0x706C616E6275636Bu
#define STREAM_DRAW   0x706C616E64726177u

enum {
    KEY_BITS = 16,
    WIDEST = 8,   /* bits of a key that number the widest buckets, at least: few, so that most counts stay in cache */
    NARROWER = 4, /* more bits for each next width */
    IDS_PER_CELL = 32, /* at least, so that the cells of all pieces take at most 2 bytes a datum */
    AHEAD = 64         /* ids shuffled before the first of them is needed */
};

/* Bits that number the widest buckets, so that m of them are at most half of all. */
static int32_t widest_bits(int32_t m) {
    int32_t bits = WIDEST;
    while (bits < KEY_BITS && (int64_t)1 << bits < 2 * (int64_t)m) bits++;
    return bits;
}

/* m buckets' keys stay below each width, for the next. */
static slf_fill_order with_widths(int64_t count, int32_t m, uint64_t seed, int32_t widths) {
    slf_fill_order order = {.seed = seed, .count = count, .widths = widths, .buckets = 1};
    uint32_t end = (uint32_t)1 << KEY_BITS;
    for (int32_t i = widths - 1, shift = KEY_BITS - widest_bits(m); i >= 0; i--, shift -= NARROWER) {
        order.width[i] = (slf_width){.shift = shift, .limit = (uint32_t)m << shift};
        order.width[i].end = (end - order.width[i].limit) >> shift; /* how many, as yet */
        end = order.width[i].limit;
    }
    for (int32_t i = 0; i < widths; i++) {
        order.width[i].first = order.buckets;
        order.buckets += order.width[i].end;
        order.width[i].end = order.buckets;
    }
    return order;
}

/* As many widths as the data are worth counting for; without any, all are the front. */
slf_fill_order slf_fill_order_of(int64_t count, int32_t m, uint64_t seed) {
    int32_t widths = 0;
    if (m <= 1 << (KEY_BITS - 1)) widths = (KEY_BITS - widest_bits(m)) / NARROWER + 1;
    for (widths = widths < SLF_WIDTHS ? widths : SLF_WIDTHS; widths > 0; widths--) {
        const slf_fill_order order = with_widths(count, m, seed, widths);
        if (((int64_t)m + 1) * order.buckets <= count / IDS_PER_CELL) return order;
    }
    return with_widths(count, m, seed, 0);
}

/* Keys to buckets. Widths that are not there repeat the narrowest one. */
static inline void number_keys(const slf_fill_order *order, const uint16_t key[SLF_PIECES],
                               uint16_t bucket[SLF_PIECES]) {
    uint16_t limit[SLF_WIDTHS], shift[SLF_WIDTHS], add[SLF_WIDTHS];
    for (int i = 0; i < SLF_WIDTHS; i++) {
        const int missing = SLF_WIDTHS - order->widths;
        const slf_width *w = &order->width[i < missing ? 0 : i - missing];
        limit[i] = (uint16_t)w->limit;
        shift[i] = (uint16_t)w->shift;
        add[i] = (uint16_t)(w->first - (w->limit >> w->shift));
    }
    for (int k = 0; k < SLF_PIECES; k++) {
        uint16_t number = (uint16_t)(key[k] >= limit[0] ? (key[k] >> shift[0]) + add[0] : 0);
        number = (uint16_t)(key[k] >= limit[1] ? (key[k] >> shift[1]) + add[1] : number);
        bucket[k] = (uint16_t)(key[k] >= limit[2] ? (key[k] >> shift[2]) + add[2] : number);
    }
}

SLF_AVX2 static void number_keys_avx2(const slf_fill_order *order, const uint16_t *key, uint16_t *bucket) {
    number_keys(order, key, bucket);
}

/* Buckets of ids first ... first + SLF_PIECES - 1, first a multiple of SLF_PIECES; 0: the front. */
static void draw_buckets(const slf_fill_order *order, int64_t first, uint16_t bucket[SLF_PIECES]) {
    uint16_t key[SLF_PIECES];
    slf_random_pieces(order->seed, STREAM_BUCKET, (uint64_t)first / SLF_PIECES, key);
    if (SLF_HAS_AVX2())
        number_keys_avx2(order, key, bucket);
    else
        number_keys(order, key, bucket);
}

static int block_length(int64_t first, int64_t end) {
    return end - first < SLF_PIECES ? (int)(end - first) : SLF_PIECES;
}

/* ---- the front ---- */

void slf_front_list(slf_front *front, const slf_fill_order *order, bool all) {
    *front = (slf_front){.ids = front->ids, .all = all || order->widths == 0};
    for (int64_t first = 0; first < order->count; first += SLF_PIECES) {
        uint16_t bucket[SLF_PIECES] = {0};
        if (!front->all) draw_buckets(order, first, bucket);
        for (int k = 0; k < block_length(first, order->count); k++)
            if (bucket[k] == 0) front->ids[front->n++] = (uint32_t)(first + k);
    }
}

/* The next few, where all that are shuffled were drawn. */
static void shuffle_on(slf_front *front, const slf_fill_order *order) {
    if (front->drawn == front->n) slf_front_list(front, order, true);
    const int n = front->n - front->drawn < AHEAD ? (int)(front->n - front->drawn) : AHEAD;
    int64_t with[AHEAD];
    for (int k = 0; k < n; k++) {
        const int64_t i = front->drawn + k;
        with[k] = i + (int64_t)slf_random_below(order->seed, STREAM_DRAW, (uint64_t)i, (uint64_t)(front->n - i));
        SLF_PREFETCH(front->ids + with[k]);
    }
    for (int k = 0; k < n; k++) {
        const int64_t i = front->shuffled++;
        const uint32_t id = front->ids[with[k]];
        front->ids[with[k]] = front->ids[i];
        front->ids[i] = id;
    }
}

uint32_t slf_front_next(slf_front *front, const slf_fill_order *order) {
    if (front->drawn == front->shuffled) shuffle_on(front, order);
    return front->ids[front->drawn++];
}

/* ---- online ---- */

static void count_unused(const slf_fill_order *order, const uint64_t *used, uint32_t *unused) {
    memset(unused, 0, order->buckets * sizeof *unused);
    for (int64_t first = 0; first < order->count; first += SLF_PIECES) {
        uint16_t bucket[SLF_PIECES];
        draw_buckets(order, first, bucket);
        for (int k = 0; k < block_length(first, order->count); k++) unused[bucket[k]] += !slf_bit_get(used, first + k);
    }
}

#define TAKEN UINT32_MAX

static void take_buckets(const slf_fill_order *order, const uint32_t *unused, uint64_t *used, uint64_t *pending) {
    for (int64_t first = 0; first < order->count; first += SLF_PIECES) {
        uint16_t bucket[SLF_PIECES];
        draw_buckets(order, first, bucket);
        for (int k = 0; k < block_length(first, order->count); k++) {
            if (unused[bucket[k]] != TAKEN || slf_bit_get(used, first + k)) continue;
            slf_bit_set(used, first + k);
            slf_bit_set(pending, first + k);
        }
    }
}

void slf_fill_online(slf_front *front, const slf_fill_order *order, uint32_t *unused, uint64_t *used, uint64_t *pending,
                     int64_t missing) {
    if (order->widths > 0) count_unused(order, used, unused);
    for (int32_t i = order->widths - 1; i >= 0; i--)
        for (uint32_t b = order->width[i].end; b > order->width[i].first && unused[b - 1] <= missing; b--) {
            missing -= unused[b - 1];
            unused[b - 1] = TAKEN;
        }
    if (order->widths > 0) take_buckets(order, unused, used, pending);
    while (missing > 0) {
        const uint32_t id = slf_front_next(front, order);
        if (slf_bit_get(used, id)) continue;
        slf_bit_set(used, id);
        slf_bit_set(pending, id);
        missing--;
    }
}

/* ---- offline ---- */

static uint32_t label_of(const slf_fills *f, int64_t id) {
    const uint32_t label = slf_label_read(f->byte, f->labels, id);
    return label < f->m ? label : f->m;
}

static int64_t piece_begin(const slf_fills *f, int64_t piece) {
    const int64_t blocks = (f->order->count - 1) / SLF_PIECES + 1;
    const int64_t at =
        (blocks / SLF_FILL_PIECES * piece + blocks % SLF_FILL_PIECES * piece / SLF_FILL_PIECES) * SLF_PIECES;
    return at < f->order->count ? at : f->order->count;
}

#define UNTAKEN UINT16_MAX /* above every label */

static uint32_t *row_of(const slf_fills *f, size_t label) {
    return f->cells + label * f->order->buckets;
}

static bool has_front(const uint16_t bucket[SLF_PIECES]) {
    uint16_t found = 0;
    for (int k = 0; k < SLF_PIECES; k++) found |= bucket[k] == 0;
    return found;
}

/* Counts a piece's data by label and bucket, and lists those of the front from the place of the piece's first id on. */
static inline void walk_piece(slf_fills *f, int64_t piece, bool byte) {
    const void *labels = f->labels;
    const int64_t end = piece_begin(f, piece + 1);
    const uint32_t m = f->m;
    const size_t row = f->order->buckets;
    uint32_t *cells = row_of(f, (size_t)piece * (m + 1)), *ids = f->front.ids + piece_begin(f, piece);
    memset(cells, 0, (m + 1) * row * sizeof *cells);
    for (int64_t first = piece_begin(f, piece); first < end; first += SLF_PIECES) {
        uint16_t bucket[SLF_PIECES];
        draw_buckets(f->order, first, bucket);
        const int n = block_length(first, end);
        for (int k = 0; k < n; k++) {
            const uint32_t label = slf_label_read(byte, labels, first + k);
            cells[(label < m ? label : m) * row + bucket[k]]++;
        }
        if (!has_front(bucket)) continue;
        for (int k = 0; k < n; k++)
            if (bucket[k] == 0) *ids++ = (uint32_t)(first + k);
    }
    f->listed[piece] = ids - (f->front.ids + piece_begin(f, piece));
}

static void walk_pieces(void *user, int64_t first, int64_t last) {
    slf_fills *f = user;
    for (int64_t piece = first; piece < last; piece++) {
        if (f->byte)
            walk_piece(f, piece, true);
        else
            walk_piece(f, piece, false);
    }
}

/* Lists move together, cells are added up. */
static void join_pieces(slf_fills *f) {
    const size_t cells = ((size_t)f->m + 1) * f->order->buckets;
    for (int64_t piece = 0; piece < SLF_FILL_PIECES; piece++) {
        const size_t n = (size_t)f->listed[piece];
        memmove(f->front.ids + f->front.n, f->front.ids + piece_begin(f, piece), n * sizeof *f->front.ids);
        f->front.n += (int64_t)n;
        const uint32_t *own = f->cells + cells * (size_t)piece;
        for (size_t i = 0; piece > 0 && i < cells; i++) f->cells[i] += own[i];
    }
}

salf_status slf_fills_begin(slf_fills *f, const salf_planner *planner, const slf_planner_state *state, uint32_t *room) {
    const slf_fill_order *order = &planner->order;
    const size_t buckets = order->buckets;
    *f = (slf_fills){.order = order, .labels = state->labels, .by_fill = state->by_fill, .m = (uint32_t)planner->m};
    f->byte = slf_label_is_byte(planner->m);
    f->front.ids = room;
    for (int32_t i = 0; i < order->widths; i++) f->back[i] = order->width[i].end;
    f->begun = true;
    if (order->widths == 0) {
        slf_front_list(&f->front, order, false);
        return SALF_OK;
    }
    f->cells = slf_alloc(planner->context, SLF_FILL_PIECES * ((uint64_t)f->m + 1), buckets * sizeof *f->cells);
    f->open = slf_alloc_zero(planner->context, buckets, sizeof *f->open);
    f->stage = slf_alloc(planner->context, buckets, sizeof *f->stage);
    if (!f->cells || !f->open || !f->stage) return SALF_E_NO_MEMORY;
    memset(f->stage, 0xFF, buckets * sizeof *f->stage); /* UNTAKEN */
    slf_parallel_for(planner->context, SLF_FILL_PIECES, 1, walk_pieces, f);
    join_pieces(f);
    for (uint32_t label = 0; label <= f->m; label++)
        for (size_t b = 0; b < buckets; b++) f->open[b] += row_of(f, label)[b];
    return SALF_OK;
}

void slf_fills_free(slf_fills *f, const salf_context *context) {
    slf_free(context, f->cells);
    slf_free(context, f->open);
    slf_free(context, f->stage);
    *f = (slf_fills){0};
}

/* Labels up to the layer's are open no more. */
static void close_labels(slf_fills *f, uint32_t layer) {
    for (; f->closed <= layer; f->closed++)
        for (uint32_t b = 0; b < f->order->buckets; b++) f->open[b] -= row_of(f, f->closed)[b];
}

static int64_t take_bucket(slf_fills *f, uint32_t b, uint32_t layer, int64_t *unused) {
    for (uint32_t label = layer + 1; label <= f->m; label++) unused[label] -= row_of(f, label)[b];
    f->stage[b] = (uint16_t)layer;
    return f->open[b];
}

/* A datum of another bucket than the front's, where all ids are the front: whether that was taken; else it counts there
 * no more. */
static bool leave_bucket(slf_fills *f, uint32_t id, uint32_t label) {
    uint16_t bucket[SLF_PIECES];
    draw_buckets(f->order, (int64_t)id / SLF_PIECES * SLF_PIECES, bucket);
    const uint32_t b = bucket[id % SLF_PIECES];
    if (f->stage[b] != UNTAKEN) return true;
    row_of(f, label)[b]--;
    f->open[b]--;
    return false;
}

/* What belongs to ids that are drawn soon, into the cache: it lies anywhere. */
static void look_ahead(slf_fills *f) {
    if (f->front.drawn < f->front.shuffled) return;
    shuffle_on(&f->front, f->order);
    for (int64_t i = f->front.drawn; i < f->front.shuffled; i++) {
        SLF_PREFETCH((char *)f->labels + f->front.ids[i] * (f->byte ? (size_t)1 : 2));
        SLF_PREFETCH(f->by_fill + f->front.ids[i] / 64);
    }
}

/* One of the front, to the layer, where it is unused; how many. */
static int64_t take_next(slf_fills *f, uint32_t layer, int64_t *unused) {
    look_ahead(f);
    const uint32_t id = slf_front_next(&f->front, f->order), label = label_of(f, id);
    if (label <= layer || (f->front.all && f->cells && leave_bucket(f, id, label))) return 0;
    slf_label_write(f->byte, f->labels, id, layer);
    slf_bit_set(f->by_fill, id);
    unused[label]--;
    return 1;
}

void slf_fills_take(slf_fills *f, uint32_t layer, int64_t missing, int64_t *unused) {
    if (f->cells) close_labels(f, layer);
    for (int32_t i = f->order->widths - 1; i >= 0; i--)
        for (uint32_t *b = &f->back[i]; *b > f->order->width[i].first && f->open[*b - 1] <= missing;)
            missing -= take_bucket(f, --*b, layer, unused);
    while (missing > 0) missing -= take_next(f, layer, unused);
}

/* Which of 64 stages are below their labels, as bits: eight flags, one to a byte, are multiplied into the top byte. */
static inline uint64_t below(const uint16_t *stage, const uint16_t *label) {
    uint8_t flag[64];
    uint64_t all = 0;
    for (int k = 0; k < 64; k++) flag[k] = stage[k] < label[k];
    for (int k = 0; k < 64; k += 8) {
        uint64_t bytes = 0;
        for (int j = 0; j < 8; j++) bytes |= (uint64_t)flag[k + j] << 8 * j;
        all |= bytes * 0x0102040810204080u >> 56 << k;
    }
    return all;
}

/* SLF_PIECES data from labels on: those whose bucket fills a layer below their label get it. Without a branch on that,
 * which nothing could predict. */
static inline void settle_block(const uint16_t *stage, void *labels, uint64_t *by_fill, bool byte) {
    uint16_t label[SLF_PIECES];
    for (int k = 0; k < SLF_PIECES; k++) label[k] = (uint16_t)slf_label_read(byte, labels, k);
    for (int k = 0; k < SLF_PIECES; k += 64) by_fill[k / 64] |= below(stage + k, label + k);
    for (int k = 0; k < SLF_PIECES; k++) slf_label_write(byte, labels, k, stage[k] < label[k] ? stage[k] : label[k]);
}

SLF_AVX2 static void settle_bytes_avx2(const uint16_t *stage, void *labels, uint64_t *by_fill) {
    settle_block(stage, labels, by_fill, true);
}

static void settle_whole(const slf_fills *f, const uint16_t *stage, void *labels, uint64_t *by_fill) {
    if (!f->byte)
        settle_block(stage, labels, by_fill, false);
    else if (SLF_HAS_AVX2())
        settle_bytes_avx2(stage, labels, by_fill);
    else
        settle_block(stage, labels, by_fill, true);
}

/* The last block may be a part of one. */
static void settle_part(const slf_fills *f, const uint16_t *stage, void *labels, uint64_t *by_fill, int n) {
    uint16_t whole[SLF_PIECES] = {0}; /* room for labels of both widths */
    uint64_t bits[SLF_PIECES / 64] = {0};
    const size_t size = f->byte ? 1 : 2;
    memcpy(whole, labels, (size_t)n * size);
    settle_whole(f, stage, whole, bits);
    memcpy(labels, whole, (size_t)n * size);
    for (int k = 0; k < n; k += 64) by_fill[k / 64] |= bits[k / 64];
}

void slf_fills_settle(const slf_fills *f, int64_t first, int64_t end) {
    if (!f->cells) return;
    const uint16_t *stage_of = f->stage;
    for (; first < end; first += SLF_PIECES) {
        uint16_t stage[SLF_PIECES];
        draw_buckets(f->order, first, stage);
        for (int k = 0; k < SLF_PIECES; k++) stage[k] = stage_of[stage[k]];
        void *labels = (char *)f->labels + (size_t)first * (f->byte ? 1 : 2);
        const int n = block_length(first, end);
        if (n == SLF_PIECES)
            settle_whole(f, stage, labels, f->by_fill + first / 64);
        else
            settle_part(f, stage, labels, f->by_fill + first / 64, n);
    }
}
