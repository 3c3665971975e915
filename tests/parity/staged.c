/*
 * staged.c - copies what a slot takes to blocks of device memory of exactly that size, calls the device's slot, and
 * copies back what it gives.
 *
 * Views are handed over in four ways in turns: rows on either side, with their index on the same side or on the other.
 */
#include "staged.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

static const slf_backend *inner;

/* ---- blocks of a call ---- */

enum { MOST_BLOCKS = 24 };

static struct {
    void *device;
    void *back; /* host memory that gets the result; NULL: none does */
    uint64_t bytes;
} blocks[MOST_BLOCKS];
static int n_blocks;
static uint64_t calls;

static void *take(void *state, const void *host, int64_t count, size_t size, void *back) {
    void *device = NULL;
    if (!host) return NULL;
    const uint64_t bytes = (uint64_t)count * size;
    ck_assert_int_lt(n_blocks, MOST_BLOCKS);
    ck_assert_msg(inner->alloc(state, bytes, &device) == SALF_OK, "%s", salf_last_error());
    blocks[n_blocks].device = device;
    blocks[n_blocks].back = back;
    blocks[n_blocks++].bytes = bytes;
    ck_assert_msg(inner->copy(state, device, SALF_MEMORY_DEVICE, host, SALF_MEMORY_HOST, bytes) == SALF_OK, "%s",
                  salf_last_error());
    return device;
}

static void *in(void *state, const void *host, int64_t count, size_t size) {
    return take(state, host, count, size, NULL);
}

static void *both(void *state, void *host, int64_t count, size_t size) {
    return take(state, host, count, size, host);
}

/* Results to the host, blocks given back. */
static salf_status done(void *state, salf_status status) {
    for (int k = 0; k < n_blocks; k++)
        if (blocks[k].back && status == SALF_OK)
            status = inner->copy(state, blocks[k].back, SALF_MEMORY_HOST, blocks[k].device, SALF_MEMORY_DEVICE,
                                 blocks[k].bytes);
    if (status == SALF_OK) status = inner->sync(state);
    for (int k = 0; k < n_blocks; k++) inner->free(state, blocks[k].device);
    n_blocks = 0;
    return status;
}

/* A view in the way whose turn it is. written: its rows come back. */
static salf_tensor view_of(void *state, const salf_tensor *view, bool written) {
    salf_tensor moved = *view;
    const uint64_t turn = calls % 4;
    const int64_t stride = view->row_stride ? view->row_stride : view->cols, size = slf_dtype_size(view->dtype);
    if (view->rows == 0 || turn == 0) return moved;
    if (turn != 1) {
        int64_t last = view->rows - 1;
        for (int64_t r = 0; view->row_index && r < view->rows; r++)
            last = r == 0 || view->row_index[r] > last ? view->row_index[r] : last;
        const int64_t elements = last * stride + view->cols;
        moved.data =
            written ? both(state, view->data, elements, (size_t)size) : in(state, view->data, elements, (size_t)size);
        moved.memory = SALF_MEMORY_DEVICE;
    }
    if (view->row_index && turn != 2) {
        moved.row_index = in(state, view->row_index, view->rows, sizeof *view->row_index);
        moved.index_memory = SALF_MEMORY_DEVICE;
    }
    return moved;
}

static int64_t labels_of(const int32_t *which, int64_t rows) {
    int64_t most = 0;
    for (int64_t r = 0; r < rows; r++) most = which[r] > most ? which[r] : most;
    return rows > 0 ? most + 1 : 0;
}

/* ---- memory ---- */

enum { MOST_MEMORY = 64 };
static void *memory_of[MOST_MEMORY];

static salf_status staged_alloc(void *state, uint64_t bytes, void **memory) {
    const salf_status status = inner->alloc(state, bytes, memory);
    for (int k = 0; k < MOST_MEMORY && status == SALF_OK; k++)
        if (!memory_of[k]) {
            memory_of[k] = *memory;
            break;
        }
    return status;
}

static int32_t side_of(const void *pointer) {
    for (int k = 0; k < MOST_MEMORY; k++)
        if (pointer && memory_of[k] == pointer) return SALF_MEMORY_DEVICE;
    return SALF_MEMORY_HOST;
}

static void staged_free(void *state, void *memory) {
    for (int k = 0; k < MOST_MEMORY; k++)
        if (memory_of[k] == memory) memory_of[k] = NULL;
    inner->free(state, memory);
}

static salf_status staged_copy(void *state, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                               uint64_t bytes) {
    (void)to_memory, (void)from_memory;
    const salf_status status = inner->copy(state, to, side_of(to), from, side_of(from), bytes);
    return status == SALF_OK ? inner->sync(state) : status; /* the tests of host backends look at once */
}

static salf_status staged_fill(void *state, double *memory, int64_t count, double value) {
    calls++;
    return done(state, inner->fill(state, both(state, memory, count, sizeof *memory), count, value));
}

/* ---- basis ---- */

static salf_status staged_scan(void *state, const salf_tensor *rows, int64_t first_row, uint64_t *hash,
                               int64_t *bad_row) {
    calls++;
    const salf_tensor x = view_of(state, rows, false);
    return done(state, inner->scan(state, &x, first_row, hash, bad_row));
}

static salf_status staged_gram(void *state, const salf_tensor *rows, double *gram) {
    calls++;
    const salf_tensor x = view_of(state, rows, false);
    double *device = both(state, gram, rows->cols * rows->cols, sizeof *gram);
    return done(state, inner->gram(state, &x, device));
}

static salf_status staged_factor(void *state, int64_t dim, double *gram, const slf_factor_request *request,
                                 slf_factor_result *result) {
    calls++;
    double *device = both(state, gram, dim * dim, sizeof *gram);
    return done(state, inner->factor(state, dim, device, request, result));
}

static salf_status staged_apply(void *state, const double *p, const salf_tensor *rows, double *out) {
    calls++;
    const salf_tensor x = view_of(state, rows, false);
    const double *device_p = in(state, p, rows->cols * rows->cols, sizeof *p);
    double *device_out = both(state, out, rows->rows * rows->cols, sizeof *out);
    return done(state, inner->apply(state, device_p, &x, device_out));
}

static salf_status staged_apply_norms(void *state, const double *p, const salf_tensor *rows, double *norms) {
    calls++;
    const salf_tensor x = view_of(state, rows, false);
    const double *device_p = in(state, p, rows->cols * rows->cols, sizeof *p);
    double *device_norms = both(state, norms, rows->rows, sizeof *norms);
    return done(state, inner->apply_norms(state, device_p, &x, device_norms));
}

static salf_status staged_narrow(void *state, const double *b, int64_t rows, int64_t dim, const double *w_norms,
                                 double noise, float *out, double *norms) {
    calls++;
    const double *device_b = in(state, b, rows * dim, sizeof *b), *device_w = in(state, w_norms, rows, sizeof *w_norms);
    float *device_out = both(state, out, rows * dim, sizeof *out);
    double *device_norms = both(state, norms, rows, sizeof *norms);
    return done(state, inner->narrow(state, device_b, rows, dim, device_w, noise, device_out, device_norms));
}

/* ---- probe ---- */

static slf_norm norm_of(void *state, const slf_norm *norm, int64_t dim) {
    slf_norm moved = *norm;
    moved.weight = in(state, norm->weight, dim, sizeof *norm->weight);
    moved.bias = in(state, norm->bias, dim, sizeof *norm->bias);
    return moved;
}

static salf_status staged_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                                 const double *norms, const int32_t *which, int32_t similarity, double *out,
                                 int64_t out_stride) {
    calls++;
    const int64_t n = labels_of(which, states->rows),
                  outputs = states->rows > 0 ? (states->rows - 1) * out_stride + 1 : 0;
    const salf_tensor h = view_of(state, states, false);
    const slf_norm none = {.kind = SALF_NORM_NONE}, moved = norm_of(state, norm ? norm : &none, states->cols);
    const float *device_basis = in(state, basis, n * states->cols, sizeof *basis);
    const double *device_norms = in(state, norms, n, sizeof *norms);
    const int32_t *device_which = in(state, which, states->rows, sizeof *which);
    double *device_out = both(state, out, outputs, sizeof *out);
    return done(state, inner->cosine(state, &h, norm ? &moved : NULL, device_basis, device_norms, device_which,
                                     similarity, device_out, out_stride));
}

static salf_status staged_normalise(void *state, const salf_tensor *states, const slf_norm *norm, int32_t unit,
                                    double *out) {
    calls++;
    const salf_tensor h = view_of(state, states, false);
    const slf_norm none = {.kind = SALF_NORM_NONE}, moved = norm_of(state, norm ? norm : &none, states->cols);
    double *device_out = both(state, out, states->rows * states->cols, sizeof *out);
    return done(state, inner->normalise(state, &h, norm ? &moved : NULL, unit, device_out));
}

static salf_status staged_judge(void *state, const double *z, int64_t rows, int64_t dim, double most, int32_t *wide) {
    calls++;
    const double *device_z = in(state, z, rows * dim, sizeof *z);
    int32_t *device_wide = both(state, wide, rows, sizeof *wide);
    return done(state, inner->judge(state, device_z, rows, dim, most, device_wide));
}

static salf_status staged_logit_targets(void *state, const double *z, int64_t rows, const salf_tensor *w,
                                        const int32_t *which, const float *bias, const slf_score_rule *rule,
                                        double *target) {
    calls++;
    const salf_tensor x = view_of(state, w, false);
    const double *device_z = in(state, z, rows * w->cols, sizeof *z);
    const int32_t *device_which = in(state, which, rows, sizeof *which);
    const float *device_bias = in(state, bias, w->rows, sizeof *bias);
    double *device_target = both(state, target, rows, sizeof *target);
    return done(state, inner->logit_targets(state, device_z, rows, &x, device_which, device_bias, rule, device_target));
}

static slf_query query_of(void *state, const slf_query *query, bool whole) {
    slf_query moved = *query;
    moved.z = whole ? in(state, query->z, query->rows * query->dim, sizeof *query->z) : NULL;
    moved.label = whole ? in(state, query->label, query->rows, sizeof *query->label) : NULL;
    moved.target = in(state, query->target, query->rows, sizeof *query->target);
    moved.wide = in(state, query->wide, query->rows, sizeof *query->wide);
    return moved;
}

static slf_score_sums sums_of(void *state, const slf_score_sums *sums, int64_t rows, int64_t dim) {
    return (slf_score_sums){.sum = both(state, sums->sum, rows, sizeof *sums->sum),
                            .maximum = both(state, sums->maximum, rows, sizeof *sums->maximum),
                            .count = both(state, sums->count, rows, sizeof *sums->count),
                            .weighted = both(state, sums->weighted, rows, sizeof *sums->weighted),
                            .vector = both(state, sums->vector, rows * dim, sizeof *sums->vector)};
}

static salf_status staged_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                                const int32_t *ids, const double *inverse_norm, const float *bias,
                                const slf_score_rule *rule, const slf_score_sums *sums) {
    calls++;
    const slf_query moved = query_of(state, query, true);
    const salf_tensor x = view_of(state, block, false);
    const int32_t *device_ids = in(state, ids, block->rows, sizeof *ids);
    const double *inverse = in(state, inverse_norm, block->rows, sizeof *inverse_norm);
    const float *device_bias = in(state, bias, block->rows, sizeof *bias);
    const slf_score_sums device_sums = sums_of(state, sums, query->rows, query->dim);
    return done(state, inner->score(state, &moved, &x, first, device_ids, inverse, device_bias, rule, &device_sums));
}

/* ---- losses ---- */

static salf_status staged_cosine_loss(void *state, const salf_tensor *states, const float *basis, const double *norms,
                                      const int32_t *which, double scale, float *loss, const salf_tensor *gradient) {
    calls++;
    const int64_t n = labels_of(which, states->rows);
    const salf_tensor h = view_of(state, states, false), none = {0};
    const salf_tensor g = gradient ? view_of(state, gradient, true) : none;
    const float *device_basis = in(state, basis, n * states->cols, sizeof *basis);
    const double *device_norms = in(state, norms, n, sizeof *norms);
    const int32_t *device_which = in(state, which, states->rows, sizeof *which);
    float *device_loss = both(state, loss, states->rows, sizeof *loss);
    return done(state, inner->cosine_loss(state, &h, device_basis, device_norms, device_which, scale, device_loss,
                                          gradient ? &g : NULL));
}

static salf_status staged_score_loss(void *state, const salf_tensor *states, const slf_query *query,
                                     const slf_score_rule *rule, const slf_score_sums *sums, const double *p,
                                     const float *basis, const double *norms, const int32_t *which, double scale,
                                     float *loss, const salf_tensor *gradient) {
    calls++;
    const int64_t n = labels_of(which, states->rows), dim = states->cols;
    const salf_tensor h = view_of(state, states, false), none = {0};
    const salf_tensor g = gradient ? view_of(state, gradient, true) : none;
    const slf_query moved = query_of(state, query, false);
    const slf_score_sums device_sums = sums_of(state, sums, states->rows, dim);
    const double *device_p = in(state, p, dim * dim, sizeof *p), *device_norms = in(state, norms, n, sizeof *norms);
    const float *device_basis = in(state, basis, n * dim, sizeof *basis);
    const int32_t *device_which = in(state, which, states->rows, sizeof *which);
    float *device_loss = both(state, loss, states->rows, sizeof *loss);
    return done(state, inner->score_loss(state, &h, &moved, rule, &device_sums, device_p, device_basis, device_norms,
                                         device_which, scale, device_loss, gradient ? &g : NULL));
}

const slf_backend *staged_table(const slf_backend *backend) {
    static slf_backend table;
    if (!(backend->capabilities & SLF_CAN_DEVICE)) return backend;
    inner = backend;
    table = *backend;
    table.alloc = staged_alloc;
    table.free = staged_free;
    table.copy = staged_copy;
    table.fill = staged_fill;
    table.scan = staged_scan;
    table.gram = staged_gram;
    table.factor = staged_factor;
    table.apply = staged_apply;
    table.apply_norms = staged_apply_norms;
    table.narrow = staged_narrow;
    table.cosine = staged_cosine;
    table.normalise = staged_normalise;
    table.judge = staged_judge;
    table.logit_targets = staged_logit_targets;
    table.score = staged_score;
    table.cosine_loss = staged_cosine_loss;
    table.score_loss = staged_score_loss;
    return &table;
}
