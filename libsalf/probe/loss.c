/*
 * loss.c - semantic losses (paper 2.2, Algorithms 1 and 2) and their gradients with respect to the state h.
 *
 * cosine: L = 1 - cos(h, b_l); no head is read. rows * D.
 * ce: L = log sum_i exp(s_i / t) - s_l / t with s_i = cos(h, b_i); the vocabulary is walked once for a chunk of rows
 * that fits the workspace, keeping sum u_i, sum u_i s_i and the vector sum u_i b_i / |b_i| (or, over the head, that of
 * w_i, taken through P at the end). 2 rows * V * D.
 */
#include <math.h>
#include <string.h>

#include "basis/score.h"

/* Uploads of labels that may be under way at once, so that a call need not wait for the one before. */
enum { SLOTS = 4 };

/* Arrays for calls of up to rows rows, c = chunk of them at a time. */
typedef struct {
    int64_t rows;
    int64_t chunk;
    double *row;            /* host [D] */
    int32_t *staged;        /* host, page-locked: SLOTS times labels [rows], which [rows] */
    float *host_loss;       /* host, page-locked [rows] */
    double *device;         /* backend: the doubles below, one block */
    double *z;              /* [c][D] */
    double *vector;         /* [c][D] */
    double *sum;            /* [c] */
    double *weighted;       /* [c] */
    double *target;         /* [c] */
    int32_t *needs_f64;     /* [c], behind the doubles */
    int32_t *device_labels; /* backend [rows], an own block with the next two */
    int32_t *device_which;  /* [rows] */
    float *device_loss;     /* [rows] */
} loss_room;

struct salf_loss {
    salf_context *context;
    salf_basis *basis;
    salf_loss_options options;  /* defaults filled in; candidates not kept */
    slf_vocabulary *vocabulary; /* NULL with COSINE */
    slf_label_set set;
    loss_room room;
    void *uploaded[SLOTS]; /* events: the slot can be filled again */
    int32_t slot;          /* the next to fill */
};

/* ---- life ---- */

static void room_free(const salf_context *context, loss_room *room) {
    slf_free(context, room->row);
    slf_pinned_free(context, room->staged);
    slf_pinned_free(context, room->host_loss);
    slf_device_free(context, room->device);
    slf_device_free(context, room->device_labels);
    memset(room, 0, sizeof *room);
}

static salf_status read_options(salf_loss_options *own, const salf_loss_options *theirs) {
    SLF_TRY(slf_options_read(own, sizeof *own, theirs, "salf_loss_options"));
    if (own->kind != SALF_LOSS_COSINE && own->kind != SALF_LOSS_CE)
        return slf_fail(SALF_E_ARGUMENT, "salf_loss_create: kind %d is none of SALF_LOSS_*", (int)own->kind);
    if (own->temperature == 0) own->temperature = 1;
    if (!(own->temperature > 0) || isinf(own->temperature))
        return slf_fail(SALF_E_ARGUMENT, "salf_loss_create: temperature is %g, not a finite number above 0",
                        own->temperature);
    return SALF_OK;
}

static salf_status fill(salf_loss *loss, const salf_loss_options *options) {
    if (options->kind != SALF_LOSS_CE) return SALF_OK;
    return slf_vocabulary_create(&loss->vocabulary, loss->basis, options->candidates, options->n_candidates,
                                 SALF_SCORE_BASIS, options->temperature, "salf_loss_create");
}

salf_status salf_loss_create(salf_loss **out, salf_basis *basis, const salf_loss_options *options) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(basis);
    salf_loss_options own;
    SLF_TRY(read_options(&own, options));
    salf_loss *loss = slf_alloc_zero(basis->context, 1, sizeof *loss);
    if (!loss) return SALF_E_NO_MEMORY;
    loss->context = basis->context;
    loss->basis = slf_basis_retain(basis);
    const salf_status status = fill(loss, &own);
    own.candidates = NULL; /* the caller's; the vocabulary has a copy */
    loss->options = own;
    if (status != SALF_OK)
        salf_loss_destroy(loss);
    else
        *out = loss;
    return status;
}

void salf_loss_destroy(salf_loss *loss) {
    if (!loss) return;
    salf_context *context = loss->context;
    salf_basis *basis = loss->basis;
    slf_vocabulary_destroy(loss->vocabulary);
    slf_label_set_free(context, &loss->set);
    room_free(context, &loss->room);
    for (int k = 0; k < SLOTS; k++) slf_event_free(context, loss->uploaded[k]);
    slf_free(context, loss);
    salf_basis_destroy(basis); /* holds the context */
}

/* ---- memory of a call, kept for the next one ---- */

static salf_status make_host_arrays(const salf_context *context, int64_t rows, int64_t dim, loss_room *room) {
    void *staged, *losses;
    room->row = slf_alloc(context, (uint64_t)dim, sizeof *room->row);
    if (!room->row) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_pinned_alloc(context, (uint64_t)(SLOTS * 2 * rows), sizeof(int32_t), &staged));
    room->staged = staged;
    SLF_TRY(slf_pinned_alloc(context, (uint64_t)rows, sizeof(float), &losses));
    room->host_loss = losses;
    return SALF_OK;
}

static salf_status make_device_arrays(const salf_context *context, int64_t rows, int64_t c, int64_t dim,
                                      loss_room *room) {
    void *doubles = NULL, *words = NULL;
    SLF_TRY(slf_device_alloc(context, (uint64_t)(2 * c * dim + 4 * c), sizeof(double), &doubles));
    room->device = doubles;
    room->z = room->device;
    room->vector = room->z + c * dim;
    room->sum = room->vector + c * dim;
    room->weighted = room->sum + c;
    room->target = room->weighted + c;
    room->needs_f64 = (int32_t *)(void *)(room->target + c);
    SLF_TRY(slf_device_alloc(context, (uint64_t)(3 * rows), sizeof(int32_t), &words));
    room->device_labels = words;
    room->device_which = room->device_labels + rows;
    room->device_loss = (float *)(void *)(room->device_which + rows);
    return SALF_OK;
}

/* Room for a call of this many rows: what is there, or new arrays where that is too small. */
static salf_status make_room(const salf_loss *loss, int64_t rows, loss_room *room) {
    const salf_context *context = loss->context;
    const int64_t dim = loss->basis->info.hidden, fitting = slf_block_rows(context, 8 * dim);
    const int64_t c = rows < fitting ? rows : fitting;
    if (rows <= room->rows) return SALF_OK;
    room_free(context, room);
    salf_status status = make_host_arrays(context, rows, dim, room);
    if (status == SALF_OK) status = make_device_arrays(context, rows, c, dim, room);
    if (status != SALF_OK) {
        room_free(context, room);
        return status;
    }
    room->rows = rows;
    room->chunk = c;
    return SALF_OK;
}

/* ---- checks: all rows are good before anything is written; on a device bad ones show in their loss ---- */

static salf_status check_state(const double *h, int64_t dim, int64_t r) {
    const double norm = slf_norm2(h, dim);
    if (!isfinite(norm))
        return slf_fail(SALF_E_NONFINITE, "salf_loss_compute: the state of row %lld is not finite", (long long)r);
    if (!(norm > 0)) return slf_fail(SALF_E_NUMERIC, "salf_loss_compute: the state of row %lld is zero", (long long)r);
    return SALF_OK;
}

static salf_status check_states(const salf_tensor *states, double *row) {
    if (states->memory != SALF_MEMORY_HOST || (states->row_index && states->index_memory != SALF_MEMORY_HOST))
        return SALF_OK;
    for (int64_t r = 0; r < states->rows; r++) {
        slf_row_to_f64(states, r, row);
        SLF_TRY(check_state(row, states->cols, r));
    }
    return SALF_OK;
}

static salf_status check_f32(const salf_tensor *out, const char *name) {
    if (out->rows == 0 || out->dtype == SALF_F32) return SALF_OK;
    return slf_fail(SALF_E_DTYPE, "%s is %s, not float32", name, slf_dtype_name(out->dtype));
}

/* losses [rows][1]: anywhere on the host, in one piece on a device. */
static salf_status check_losses(const salf_tensor *losses, int64_t rows, bool device_ok) {
    SLF_TRY(slf_tensor_check(losses, "salf_loss_compute: losses", rows, 1, device_ok));
    SLF_TRY(check_f32(losses, "salf_loss_compute: losses"));
    if (losses->memory == SALF_MEMORY_DEVICE && (losses->row_index || (losses->row_stride > 1 && rows > 1)))
        return slf_fail(SALF_E_ARGUMENT, "salf_loss_compute: losses on a device must be in one piece; row stride %lld",
                        (long long)losses->row_stride);
    if (losses->memory == SALF_MEMORY_HOST && losses->row_index && losses->index_memory != SALF_MEMORY_HOST)
        return slf_fail(SALF_E_ARGUMENT, "salf_loss_compute: losses on the host have an index on the device");
    return SALF_OK;
}

static salf_status check_arguments(const salf_loss *loss, const int32_t *labels, const salf_tensor *states,
                                   double scale, const salf_tensor *losses, const salf_tensor *gradient) {
    const bool device_ok = slf_device_readable(loss->context);
    SLF_TRY(slf_tensor_check(states, "salf_loss_compute: states", -1, loss->basis->info.hidden, device_ok));
    if (!isfinite(scale)) return slf_fail(SALF_E_ARGUMENT, "salf_loss_compute: scale is %g", scale);
    if (gradient) {
        SLF_TRY(slf_tensor_check(gradient, "salf_loss_compute: gradient", states->rows, states->cols, device_ok));
        SLF_TRY(check_f32(gradient, "salf_loss_compute: gradient"));
    }
    if (states->rows == 0) return SALF_OK;
    SLF_REQUIRE(labels);
    SLF_REQUIRE(losses);
    SLF_TRY(check_losses(losses, states->rows, device_ok));
    for (int64_t r = 0; r < states->rows && loss->vocabulary; r++)
        SLF_TRY(slf_vocabulary_check(loss->vocabulary, labels[r], "salf_loss_compute"));
    return SALF_OK;
}

/* ---- one chunk: rows first ... of the call ---- */

static salf_status clear_sums(const salf_loss *loss, const loss_room *room, int64_t rows, int64_t dim) {
    SLF_TRY(slf_zero_doubles(loss->context, room->sum, (uint64_t)rows));
    SLF_TRY(slf_zero_doubles(loss->context, room->weighted, (uint64_t)rows));
    return slf_zero_doubles(loss->context, room->vector, (uint64_t)(rows * dim));
}

/* The basis rows of the labels first ... of the call. */
static slf_own_rows own_rows(const salf_loss *loss, int64_t first) {
    const slf_label_rows *used = loss->set.used;
    return (slf_own_rows){used->rows, used->norms, loss->room.device_which + first};
}

static salf_status ce_chunk(const salf_loss *loss, const salf_tensor *states, int64_t first, double scale,
                            const salf_tensor *gradient) {
    const slf_backend *backend = loss->context->backend;
    void *impl = loss->context->impl;
    const loss_room *room = &loss->room;
    const slf_own_rows own = own_rows(loss, first);
    const slf_query query = {.rows = states->rows,
                             .dim = states->cols,
                             .z = room->z,
                             .label = room->device_labels + first,
                             .target = room->target,
                             .needs_f64 = slf_vocabulary_projected(loss->vocabulary) ? room->needs_f64 : NULL};
    const slf_score_sums sums = {
        .sum = room->sum, .weighted = gradient ? room->weighted : NULL, .vector = gradient ? room->vector : NULL};
    SLF_TRY(slf_vocabulary_query(loss->vocabulary, states, NULL, room->z, room->needs_f64));
    const slf_cosine_job targets = {
        .states = states, .own = own, .out = room->target, .out_stride = 1, .similarity = 1};
    SLF_TRY(backend->cosine(impl, &targets));
    SLF_TRY(clear_sums(loss, room, states->rows, states->cols));
    SLF_TRY(slf_vocabulary_walk(loss->vocabulary, &query, &sums));
    const slf_score_loss_job job = {.states = states,
                                    .query = &query,
                                    .rule = slf_vocabulary_rule(loss->vocabulary),
                                    .sums = &sums,
                                    .p = slf_vocabulary_projected(loss->vocabulary) ? loss->basis->p : NULL,
                                    .own = own,
                                    .losses = {room->device_loss + first, gradient, scale}};
    return backend->score_loss(impl, &job);
}

static salf_status compute_chunk(const salf_loss *loss, const salf_tensor *states, int64_t first, double scale,
                                 const salf_tensor *gradient) {
    if (loss->vocabulary) return ce_chunk(loss, states, first, scale, gradient);
    const slf_cosine_job job = {
        .states = states, .own = own_rows(loss, first), .losses = {loss->room.device_loss + first, gradient, scale}};
    return loss->context->backend->cosine(loss->context->impl, &job);
}

/* ---- a call ---- */

/* Labels and their places to the backend, by way of the next slot. */
static salf_status upload_labels(salf_loss *loss, const int32_t *labels, int64_t rows) {
    const slf_backend *backend = loss->context->backend;
    void *impl = loss->context->impl, **uploaded = &loss->uploaded[loss->slot];
    int32_t *staged = loss->room.staged + loss->slot * 2 * loss->room.rows;
    const uint64_t bytes = (uint64_t)rows * sizeof *labels;
    SLF_TRY(backend->wait(impl, *uploaded, NULL));
    memcpy(staged, labels, bytes);
    SLF_TRY(slf_label_set_prepare(&loss->set, loss->basis, labels, rows, staged + rows, "salf_loss_compute"));
    SLF_TRY(slf_upload(loss->context, loss->room.device_labels, staged, bytes));
    SLF_TRY(slf_upload(loss->context, loss->room.device_which, staged + rows, bytes));
    loss->slot = (loss->slot + 1) % SLOTS;
    return backend->mark(impl, uploaded);
}

/* Losses to where the caller wants them; waits where that is the host. */
static salf_status deliver(const salf_loss *loss, const salf_tensor *losses) {
    const loss_room *room = &loss->room;
    const uint64_t bytes = (uint64_t)losses->rows * sizeof(float);
    if (losses->memory == SALF_MEMORY_DEVICE)
        return loss->context->backend->copy(loss->context->impl, losses->data, SALF_MEMORY_DEVICE, room->device_loss,
                                            SALF_MEMORY_DEVICE, bytes);
    SLF_TRY(slf_download(loss->context, room->host_loss, room->device_loss, bytes));
    const int64_t stride = losses->row_stride ? losses->row_stride : 1;
    for (int64_t r = 0; r < losses->rows; r++)
        ((float *)losses->data)[(losses->row_index ? losses->row_index[r] : r) * stride] = room->host_loss[r];
    return SALF_OK;
}

static salf_status compute(salf_loss *loss, const int32_t *labels, const salf_tensor *states, double scale,
                           const salf_tensor *losses, const salf_tensor *gradient) {
    SLF_TRY(check_states(states, loss->room.row));
    SLF_TRY(upload_labels(loss, labels, states->rows));
    for (int64_t first = 0; first < states->rows; first += loss->room.chunk) {
        const int64_t left = states->rows - first, count = left < loss->room.chunk ? left : loss->room.chunk;
        const salf_tensor chunk = slf_tensor_slice(states, first, count);
        salf_tensor part = {0};
        if (gradient) part = slf_tensor_slice(gradient, first, count);
        SLF_TRY(compute_chunk(loss, &chunk, first, scale, gradient ? &part : NULL));
    }
    return deliver(loss, losses);
}

salf_status salf_loss_compute(salf_loss *loss, const int32_t *labels, const salf_tensor *states, double scale,
                              const salf_tensor *losses, const salf_tensor *gradient) {
    SLF_REQUIRE(loss);
    SLF_REQUIRE(states);
    SLF_TRY(check_arguments(loss, labels, states, scale, losses, gradient));
    if (states->rows == 0) return SALF_OK;
    SLF_TRY(make_room(loss, states->rows, &loss->room));
    return compute(loss, labels, states, scale, losses, gradient);
}
