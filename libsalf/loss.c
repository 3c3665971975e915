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

#include "basis_internal.h"

/* Arrays for calls of up to rows rows, c = chunk of them at a time. */
typedef struct {
    int64_t rows;
    int64_t chunk;
    int32_t *which;         /* host [rows] */
    double *host;           /* host [c][D] */
    double *target;         /* host [c] */
    double *device;         /* backend: the doubles below, one block */
    double *scratch;        /* [c][D] */
    double *z;              /* [c][D] */
    double *vector;         /* [c][D] */
    double *sum;            /* [c] */
    double *weighted;       /* [c] */
    double *device_target;  /* [c]; distances before */
    int32_t *device_labels; /* backend [c], an own block with the next two */
    int32_t *device_which;  /* [c] */
    float *device_loss;     /* [c] */
} loss_room;

struct salf_loss {
    salf_context *context;
    salf_basis *basis;
    salf_loss_options options;  /* defaults filled in; candidates not kept */
    slf_vocabulary *vocabulary; /* NULL with COSINE */
    slf_label_set set;
    loss_room room;
};

/* ---- life ---- */

static void room_free(const salf_context *context, loss_room *room) {
    slf_free(context, room->which);
    slf_free(context, room->host);
    slf_free(context, room->target);
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
    salf_status status = SALF_OK;
    if (own.kind == SALF_LOSS_CE)
        status = slf_vocabulary_create(&loss->vocabulary, basis, own.candidates, own.n_candidates, SALF_SCORE_BASIS,
                                       own.temperature, "salf_loss_create");
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
    slf_free(context, loss);
    salf_basis_destroy(basis); /* holds the context */
}

/* ---- memory of a call, kept for the next one ---- */

static salf_status make_chunk_arrays(const salf_context *context, int64_t c, int64_t dim, loss_room *room) {
    void *doubles = NULL, *words = NULL;
    room->host = slf_alloc(context, (uint64_t)(c * dim), sizeof *room->host);
    room->target = slf_alloc(context, (uint64_t)c, sizeof *room->target);
    if (!room->host || !room->target) return SALF_E_NO_MEMORY;
    SLF_TRY(slf_device_alloc(context, (uint64_t)(3 * c * dim + 3 * c), sizeof(double), &doubles));
    room->device = doubles;
    room->scratch = room->device;
    room->z = room->scratch + c * dim;
    room->vector = room->z + c * dim;
    room->sum = room->vector + c * dim;
    room->weighted = room->sum + c;
    room->device_target = room->weighted + c;
    SLF_TRY(slf_device_alloc(context, (uint64_t)(3 * c), sizeof(int32_t), &words));
    room->device_labels = words;
    room->device_which = room->device_labels + c;
    room->device_loss = (float *)(void *)(room->device_which + c);
    return SALF_OK;
}

/* Room for a call of this many rows: what is there, or new arrays where that is too small. */
static salf_status make_room(const salf_loss *loss, int64_t rows, loss_room *room) {
    const salf_context *context = loss->context;
    const int64_t dim = loss->basis->info.hidden, fitting = slf_block_rows(context, 8 * dim);
    const int64_t c = rows < fitting ? rows : fitting;
    if (rows <= room->rows && c <= room->chunk) return SALF_OK;
    room_free(context, room);
    room->which = slf_alloc(context, (uint64_t)rows, sizeof *room->which);
    const salf_status status = room->which ? make_chunk_arrays(context, c, dim, room) : SALF_E_NO_MEMORY;
    if (status != SALF_OK) {
        room_free(context, room);
        return status;
    }
    room->rows = rows;
    room->chunk = c;
    return SALF_OK;
}

/* ---- checks: all rows are good before anything is written ---- */

static salf_status check_state(const double *h, int64_t dim, int64_t r) {
    const double norm = slf_norm2(h, dim);
    if (!isfinite(norm))
        return slf_fail(SALF_E_NONFINITE, "salf_loss_compute: the state of row %lld is not finite", (long long)r);
    if (!(norm > 0)) return slf_fail(SALF_E_NUMERIC, "salf_loss_compute: the state of row %lld is zero", (long long)r);
    return SALF_OK;
}

static salf_status check_states(const salf_loss *loss, const salf_tensor *states, loss_room *room) {
    for (int64_t first = 0; first < states->rows; first += room->chunk) {
        const int64_t left = states->rows - first, count = left < room->chunk ? left : room->chunk;
        const salf_tensor chunk = slf_tensor_slice(states, first, count);
        SLF_TRY(slf_rows_to_host(loss->context, &chunk, room->scratch, room->host));
        for (int64_t r = 0; r < count; r++)
            SLF_TRY(check_state(room->host + r * states->cols, states->cols, first + r));
    }
    return SALF_OK;
}

static salf_status check_arguments(const salf_loss *loss, const int32_t *labels, const salf_tensor *states,
                                   double scale, const float *losses, const salf_tensor *gradient) {
    const bool device_ok = slf_device_readable(loss->context);
    SLF_TRY(slf_tensor_check(states, "salf_loss_compute: states", -1, loss->basis->info.hidden, device_ok));
    if (!isfinite(scale)) return slf_fail(SALF_E_ARGUMENT, "salf_loss_compute: scale is %g", scale);
    if (gradient) {
        SLF_TRY(slf_tensor_check(gradient, "salf_loss_compute: gradient", states->rows, states->cols, device_ok));
        if (states->rows > 0 && gradient->dtype != SALF_F32)
            return slf_fail(SALF_E_DTYPE, "salf_loss_compute: gradient is %s, not float32",
                            slf_dtype_name(gradient->dtype));
    }
    if (states->rows > 0) {
        SLF_REQUIRE(labels);
        SLF_REQUIRE(losses);
    }
    for (int64_t r = 0; r < states->rows && loss->vocabulary; r++)
        SLF_TRY(slf_vocabulary_check(loss->vocabulary, labels[r], "salf_loss_compute"));
    return SALF_OK;
}

/* ---- one chunk ---- */

/* Scores of the right tokens, s_l = 1 - (1 - s_l), to room->device_target. */
static salf_status make_targets(const salf_loss *loss, const salf_tensor *states, loss_room *room) {
    const slf_label_rows *used = loss->set.used;
    const uint64_t bytes = (uint64_t)states->rows * sizeof(double);
    SLF_TRY(loss->context->backend->cosine(loss->context->backend_state, states, NULL, used->rows, used->norms,
                                           room->device_which, room->device_target, 1));
    SLF_TRY(slf_download(loss->context, room->target, room->device_target, bytes));
    for (int64_t r = 0; r < states->rows; r++) room->target[r] = 1 - room->target[r];
    return slf_upload(loss->context, room->device_target, room->target, bytes);
}

static salf_status clear_sums(const salf_loss *loss, loss_room *room, int64_t rows, int64_t dim) {
    const slf_backend *backend = loss->context->backend;
    void *state = loss->context->backend_state;
    SLF_TRY(backend->zero(state, room->sum, (uint64_t)rows * sizeof(double)));
    SLF_TRY(backend->zero(state, room->weighted, (uint64_t)rows * sizeof(double)));
    return backend->zero(state, room->vector, (uint64_t)(rows * dim) * sizeof(double));
}

static salf_status ce_chunk(const salf_loss *loss, const salf_tensor *states, double scale, loss_room *room,
                            const salf_tensor *gradient) {
    const slf_label_rows *used = loss->set.used;
    slf_score_rule rule;
    SLF_TRY(slf_vocabulary_query(loss->vocabulary, states, NULL, room->scratch, room->z, room->host, &rule));
    SLF_TRY(make_targets(loss, states, room));
    SLF_TRY(clear_sums(loss, room, states->rows, states->cols));
    const slf_query query = {.rows = states->rows,
                             .dim = states->cols,
                             .z = room->z,
                             .label = room->device_labels,
                             .target = room->device_target};
    const slf_score_sums sums = {
        .sum = room->sum, .weighted = gradient ? room->weighted : NULL, .vector = gradient ? room->vector : NULL};
    SLF_TRY(slf_vocabulary_walk(loss->vocabulary, &query, &rule, &sums));
    const double *p = slf_vocabulary_projected(loss->vocabulary) ? loss->basis->p : NULL;
    return loss->context->backend->score_loss(loss->context->backend_state, states, &query, &rule, &sums, p, used->rows,
                                              used->norms, room->device_which, scale, room->device_loss, gradient);
}

static salf_status compute_chunk(const salf_loss *loss, const int32_t *labels, const int32_t *which,
                                 const salf_tensor *states, double scale, loss_room *room, float *losses,
                                 const salf_tensor *gradient) {
    const slf_label_rows *used = loss->set.used;
    const uint64_t words = (uint64_t)states->rows * sizeof(int32_t);
    SLF_TRY(slf_upload(loss->context, room->device_labels, labels, words));
    SLF_TRY(slf_upload(loss->context, room->device_which, which, words));
    if (loss->vocabulary)
        SLF_TRY(ce_chunk(loss, states, scale, room, gradient));
    else
        SLF_TRY(loss->context->backend->cosine_loss(loss->context->backend_state, states, used->rows, used->norms,
                                                    room->device_which, scale, room->device_loss, gradient));
    return slf_download(loss->context, losses, room->device_loss, words);
}

static salf_status compute(salf_loss *loss, const int32_t *labels, const salf_tensor *states, double scale,
                           loss_room *room, float *losses, const salf_tensor *gradient) {
    SLF_TRY(check_states(loss, states, room));
    SLF_TRY(slf_label_set_prepare(&loss->set, loss->basis, labels, states->rows, room->which, "salf_loss_compute"));
    for (int64_t first = 0; first < states->rows; first += room->chunk) {
        const int64_t left = states->rows - first, count = left < room->chunk ? left : room->chunk;
        const salf_tensor chunk = slf_tensor_slice(states, first, count);
        salf_tensor part = {0};
        if (gradient) part = slf_tensor_slice(gradient, first, count);
        SLF_TRY(compute_chunk(loss, labels + first, room->which + first, &chunk, scale, room, losses + first,
                              gradient ? &part : NULL));
    }
    return SALF_OK;
}

salf_status salf_loss_compute(salf_loss *loss, const int32_t *labels, const salf_tensor *states, double scale,
                              float *losses, const salf_tensor *gradient) {
    SLF_REQUIRE(loss);
    SLF_REQUIRE(states);
    SLF_TRY(check_arguments(loss, labels, states, scale, losses, gradient));
    if (states->rows == 0) return SALF_OK;
    SLF_TRY(make_room(loss, states->rows, &loss->room));
    return compute(loss, labels, states, scale, &loss->room, losses, gradient);
}
