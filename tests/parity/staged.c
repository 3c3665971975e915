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

static void *take(void *self, const void *host, int64_t count, size_t size, void *back) {
    void *device = NULL;
    if (!host) return NULL;
    const uint64_t bytes = (uint64_t)count * size;
    ck_assert_int_lt(n_blocks, MOST_BLOCKS);
    ck_assert_msg(inner->alloc(self, SLF_MEMORY_BACKEND, bytes, &device) == SALF_OK, "%s", salf_last_error());
    blocks[n_blocks].device = device;
    blocks[n_blocks].back = back;
    blocks[n_blocks++].bytes = bytes;
    ck_assert_msg(inner->copy(self, device, SALF_MEMORY_DEVICE, host, SALF_MEMORY_HOST, bytes) == SALF_OK, "%s",
                  salf_last_error());
    return device;
}

static void *in(void *self, const void *host, int64_t count, size_t size) {
    return take(self, host, count, size, NULL);
}

static void *both(void *self, void *host, int64_t count, size_t size) {
    return take(self, host, count, size, host);
}

/* Results to the host, blocks given back. */
static salf_status done(void *self, salf_status status) {
    for (int k = 0; k < n_blocks; k++)
        if (blocks[k].back && status == SALF_OK)
            status = inner->copy(self, blocks[k].back, SALF_MEMORY_HOST, blocks[k].device, SALF_MEMORY_DEVICE,
                                 blocks[k].bytes);
    if (status == SALF_OK) status = inner->sync(self);
    for (int k = 0; k < n_blocks; k++) inner->free(self, SLF_MEMORY_BACKEND, blocks[k].device);
    n_blocks = 0;
    return status;
}

/* A view in the way whose turn it is. written: its rows come back. */
static salf_tensor view_of(void *self, const salf_tensor *view, bool written) {
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
            written ? both(self, view->data, elements, (size_t)size) : in(self, view->data, elements, (size_t)size);
        moved.memory = SALF_MEMORY_DEVICE;
    }
    if (view->row_index && turn != 2) {
        moved.row_index = in(self, view->row_index, view->rows, sizeof *view->row_index);
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

static salf_status staged_alloc(void *self, int32_t kind, uint64_t bytes, void **memory) {
    const salf_status status = inner->alloc(self, kind, bytes, memory);
    for (int k = 0; k < MOST_MEMORY && status == SALF_OK && kind == SLF_MEMORY_BACKEND; k++)
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

static void staged_free(void *self, int32_t kind, void *memory) {
    for (int k = 0; k < MOST_MEMORY; k++)
        if (memory_of[k] == memory) memory_of[k] = NULL;
    inner->free(self, kind, memory);
}

static salf_status staged_copy(void *self, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                               uint64_t bytes) {
    (void)to_memory, (void)from_memory;
    const salf_status status = inner->copy(self, to, side_of(to), from, side_of(from), bytes);
    return status == SALF_OK ? inner->sync(self) : status; /* the tests of host backends look at once */
}

static salf_status staged_fill(void *self, void *memory, int64_t count, double value) {
    calls++;
    if (side_of(memory) == SALF_MEMORY_DEVICE) return inner->fill(self, memory, count, value);
    return done(self, inner->fill(self, both(self, memory, count, sizeof(double)), count, value));
}

/* ---- jobs: each with its arrays moved ---- */

static salf_status staged_scan(void *self, const slf_scan_job *job) {
    slf_scan_job moved = *job;
    const salf_tensor x = view_of(self, job->rows, false);
    moved.rows = &x;
    moved.gram = both(self, job->gram, x.cols * x.cols, sizeof(double));
    return inner->scan(self, &moved);
}

static salf_status staged_matvec(void *self, const slf_matvec_job *job) {
    slf_matvec_job moved = *job;
    const bool columns = job->kind == SLF_TIMES_COLUMNS;
    moved.a = in(self, job->a, job->rows * job->cols, sizeof(double));
    moved.x = in(self, job->x, columns ? job->rows : job->cols, sizeof(double));
    moved.y = both(self, job->y, columns ? job->cols : job->rows, sizeof(double));
    return inner->matvec(self, &moved);
}

static salf_status staged_potrf(void *self, const slf_potrf_job *job) {
    slf_potrf_job moved = *job;
    moved.a = in(self, job->a, job->dim * job->dim, sizeof(double));
    moved.factor = both(self, job->factor, job->dim * job->dim, sizeof(double));
    return inner->potrf(self, &moved);
}

static salf_status staged_potri(void *self, const slf_potri_job *job) {
    slf_potri_job moved = *job;
    moved.factor = both(self, job->factor, job->dim * job->dim, sizeof(double));
    moved.inverse = both(self, job->inverse, job->dim * job->dim, sizeof(double));
    return inner->potri(self, &moved);
}

static salf_status staged_syevd(void *self, const slf_syevd_job *job) {
    slf_syevd_job moved = *job;
    moved.a = both(self, job->a, job->dim * job->dim, sizeof(double));
    moved.lambda = both(self, job->lambda, job->dim, sizeof(double));
    return inner->syevd(self, &moved);
}

static salf_status staged_syrk(void *self, const slf_syrk_job *job) {
    slf_syrk_job moved = *job;
    moved.vectors = both(self, job->vectors, job->dim * job->dim, sizeof(double));
    moved.weights = in(self, job->weights, job->dim, sizeof(double));
    moved.out = both(self, job->out, job->dim * job->dim, sizeof(double));
    return inner->syrk(self, &moved);
}

static salf_status staged_apply(void *self, const slf_apply_job *job) {
    slf_apply_job moved = *job;
    const salf_tensor x = view_of(self, job->rows, false);
    moved.rows = &x;
    moved.p = in(self, job->p, x.cols * x.cols, sizeof(double));
    moved.out = both(self, job->out, x.rows * x.cols, sizeof(double));
    moved.norms = both(self, job->norms, x.rows, sizeof(double));
    moved.rounded = both(self, job->rounded, x.rows * x.cols, sizeof(float));
    return inner->apply(self, &moved);
}

static slf_norm norm_of(void *self, const slf_norm *norm, int64_t dim) {
    slf_norm moved = {.kind = SALF_NORM_NONE};
    if (!norm) return moved;
    moved = *norm;
    moved.weight = in(self, norm->weight, dim, sizeof(float));
    moved.bias = in(self, norm->bias, dim, sizeof(float));
    return moved;
}

static salf_status staged_query(void *self, const slf_query_job *job) {
    slf_query_job moved = *job;
    const salf_tensor h = view_of(self, job->states, false);
    const slf_norm norm = norm_of(self, job->norm, h.cols);
    moved.states = &h;
    moved.norm = job->norm ? &norm : NULL;
    moved.p = in(self, job->p, h.cols * h.cols, sizeof(double));
    moved.z = both(self, job->z, h.rows * h.cols, sizeof(double));
    moved.needs_f64 = both(self, job->needs_f64, h.rows, sizeof(int32_t));
    return inner->query(self, &moved);
}

static slf_own_rows own_of(void *self, const slf_own_rows *own, int64_t rows, int64_t dim) {
    const int64_t n = labels_of(own->row_of, rows);
    return (slf_own_rows){in(self, own->rows, n * dim, sizeof(float)), in(self, own->norms, n, sizeof(double)),
                          in(self, own->row_of, rows, sizeof(int32_t))};
}

/* gradient: where the moved view is kept for the length of the call. */
static slf_loss_out losses_of(void *self, const slf_loss_out *losses, int64_t rows, salf_tensor *gradient) {
    slf_loss_out moved = *losses;
    moved.loss = both(self, losses->loss, rows, sizeof(float));
    if (losses->gradient) *gradient = view_of(self, losses->gradient, true);
    moved.gradient = losses->gradient ? gradient : NULL;
    return moved;
}

static salf_status staged_cosine(void *self, const slf_cosine_job *job) {
    slf_cosine_job moved = *job;
    const salf_tensor h = view_of(self, job->states, false);
    const slf_norm norm = norm_of(self, job->norm, h.cols);
    salf_tensor gradient;
    moved.states = &h;
    moved.norm = job->norm ? &norm : NULL;
    moved.own = own_of(self, &job->own, h.rows, h.cols);
    moved.out = both(self, job->out, h.rows > 0 ? (h.rows - 1) * job->out_stride + 1 : 0, sizeof(double));
    moved.losses = losses_of(self, &job->losses, h.rows, &gradient);
    return inner->cosine(self, &moved);
}

static salf_status staged_target(void *self, const slf_target_job *job) {
    slf_target_job moved = *job;
    const salf_tensor w = view_of(self, job->w, false);
    const int64_t places = labels_of(job->place, job->rows);
    moved.z = in(self, job->z, job->rows * w.cols, sizeof(double));
    moved.w = &w;
    moved.row_of = in(self, job->row_of, job->rows, sizeof(int32_t));
    moved.place = in(self, job->place, job->rows, sizeof(int32_t));
    moved.inverse_norms = in(self, job->inverse_norms, places, sizeof(double));
    moved.bias = in(self, job->bias, places, sizeof(float));
    moved.target = both(self, job->target, job->rows, sizeof(double));
    moved.reach = both(self, job->reach, job->rows, sizeof(double));
    moved.needs_f64 = both(self, job->needs_f64, job->rows, sizeof(int32_t));
    return inner->target(self, &moved);
}

/* own: where the moved view of the labels' rows is kept. A device's walk finds them in its own memory. */
static slf_query query_of(void *self, const slf_query *query, salf_tensor *own) {
    slf_query moved = *query;
    moved.z = own ? in(self, query->z, query->rows * query->dim, sizeof(double)) : NULL;
    moved.target = in(self, query->target, query->rows, sizeof(double));
    moved.needs_f64 = in(self, query->needs_f64, query->rows, sizeof(int32_t));
    if (!own || !query->own) return moved;
    *own = *query->own;
    const int64_t stride = own->row_stride ? own->row_stride : own->cols;
    own->data = in(self, own->data, (own->rows - 1) * stride + own->cols, (size_t)slf_dtype_size(own->dtype));
    own->memory = SALF_MEMORY_DEVICE;
    moved.own = own;
    moved.own_of = in(self, query->own_of, query->rows, sizeof(int32_t));
    moved.reach = in(self, query->reach, query->rows, sizeof(double));
    return moved;
}

static slf_score_sums sums_of(void *self, const slf_score_sums *sums, int64_t rows, int64_t dim) {
    return (slf_score_sums){.sum = both(self, sums->sum, rows, sizeof(double)),
                            .maximum = both(self, sums->maximum, rows, sizeof(double)),
                            .count = both(self, sums->count, rows, sizeof(int64_t)),
                            .weighted = both(self, sums->weighted, rows, sizeof(double)),
                            .vector = both(self, sums->vector, rows * dim, sizeof(double))};
}

static salf_status staged_score(void *self, const slf_score_job *job) {
    slf_score_job moved = *job;
    salf_tensor own;
    const slf_query query = query_of(self, job->query, &own);
    const salf_tensor block = view_of(self, job->block, false);
    const slf_score_sums sums = sums_of(self, job->sums, query.rows, query.dim);
    moved.query = &query;
    moved.block = &block;
    moved.inverse_norms = in(self, job->inverse_norms, block.rows, sizeof(double));
    moved.bias = in(self, job->bias, block.rows, sizeof(float));
    moved.sums = &sums;
    return inner->score(self, &moved);
}

static salf_status staged_score_loss(void *self, const slf_score_loss_job *job) {
    slf_score_loss_job moved = *job;
    const salf_tensor h = view_of(self, job->states, false);
    const slf_query query = query_of(self, job->query, NULL);
    const slf_score_sums sums = sums_of(self, job->sums, h.rows, h.cols);
    salf_tensor gradient;
    moved.states = &h;
    moved.query = &query;
    moved.sums = &sums;
    moved.p = in(self, job->p, h.cols * h.cols, sizeof(double));
    moved.own = own_of(self, &job->own, h.rows, h.cols);
    moved.losses = losses_of(self, &job->losses, h.rows, &gradient);
    return inner->score_loss(self, &moved);
}

/* Each call with the next of the four ways, its results brought back and its blocks given up. */
#define STAGED(prefix, slot)                                                   \
    static salf_status whole_##slot(void *self, const slf_##slot##_job *job) { \
        calls++;                                                               \
        return done(self, staged_##slot(self, job));                           \
    }
SLF_JOB_SLOTS(STAGED, )

const slf_backend *staged_table(const slf_backend *backend) {
    static slf_backend table;
    if (!(backend->capabilities & SLF_CAN_DEVICE)) return backend;
    inner = backend;
    table = *backend;
    table.alloc = staged_alloc;
    table.free = staged_free;
    table.copy = staged_copy;
    table.fill = staged_fill;
#define WHOLE(prefix, slot) table.slot = whole_##slot;
    SLF_JOB_SLOTS(WHOLE, )
    return &table;
}
