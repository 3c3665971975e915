/*
 * loss.c - semantic losses (paper 2.2, Algorithms 1 and 2) and their gradients with respect to the state h.
 *
 * cosine: L = 1 - cos(h, b_l); no head is read. rows * D.
 * ce: L = log sum_i exp(s_i / t) - s_l / t with s_i = cos(h, b_i); the vocabulary is walked once for a chunk of rows
 * that fits the workspace, keeping sum u_i, sum u_i s_i and the vector sum u_i b_i / |b_i| (or, over the head, that of
 * w_i, taken through P at the end). 2 rows * V * D.
 */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "basis/score.h"
#include "core/ranks.h"

/* Uploads of labels that may be under way at once, so that a call need not wait for the one before. A host that runs
 * further ahead of its device than that waits for the oldest; a slot more would cost 8 bytes of pinned memory a row. */
enum { SLOTS = 4 };

struct salf_loss {
    salf_context *context;
    salf_basis *basis;
    salf_loss_options options;  /* defaults filled in; candidates not kept */
    slf_vocabulary *vocabulary; /* NULL with COSINE */
    slf_label_set set;
    void *uploaded[SLOTS]; /* events: the slot can be filled again */
    int32_t slot;          /* the next to fill */

    /* Arrays for calls of up to so many rows, parts of the blocks, kept for the next call. They are not laid out anew
     * for fewer rows: uploads from the slots may be under way. */
    int64_t rows;
    slf_block_pair blocks;
    double *row;             /* host [D] */
    int32_t *staged;         /* host: SLOTS times numbers of rows [3][rows], see below */
    float *host_loss;        /* host [rows] */
    int32_t *device_rows;    /* backend [3][rows]: basis row of each label, and with CE its row and place for a walk */
    float *device_loss;      /* backend [rows] */
    slf_target_rows targets; /* CE; row_of and place in the slot of the call */
    slf_score_run run;       /* for one chunk of rows, whose entries are 0 ... */
};

/* ---- life ---- */

/* Memory of calls is taken at the first one and when a later one has more rows. */
salf_status salf_loss_create(salf_loss **out, salf_basis *basis, const salf_loss_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(basis);
    salf_loss *loss;
    SLF_OPTIONS(salf_loss_options, own, options);
    SLF_TRY(slf_check_word("kind", "SALF_LOSS", own.kind));
    SLF_TRY(slf_temperature_read(&own.temperature));
    SLF_TRY(SLF_ALLOC_ZERO(basis->context, loss, 1));
    loss->context = basis->context;
    loss->basis = SLF_RETAIN(basis);
    loss->options = own;
    loss->options.candidates = NULL; /* the caller's; the vocabulary has a copy */
    salf_status status = SALF_OK;
    if (own.kind == SALF_LOSS_CE)
        SLF_DO(slf_vocabulary_create(&loss->vocabulary, basis, own.candidates, own.n_candidates, SALF_SCORE_BASIS,
                                     own.temperature));
    *out = loss;
    return SALF_OK;
done:
    salf_loss_destroy(loss);
    return status;
}

/* Also of one that is half made; uploads that are under way are waited for where memory is given back. */
void salf_loss_destroy(salf_loss *loss) {
    if (!loss) return;
    salf_context *context = loss->context;
    salf_basis *basis = loss->basis;
    slf_vocabulary_destroy(loss->vocabulary);
    slf_label_rows_free(context, &loss->set.own);
    slf_block_pair_free(&loss->blocks, context);
    for (int k = 0; k < SLOTS; k++) slf_backend_free(context, SLF_EVENT, loss->uploaded[k]);
    slf_free(context, loss);
    salf_basis_destroy(basis); /* holds the context */
}

/* Of the sums only a chunk is there at a time, since the vector takes D doubles a row; labels and losses are of all
 * rows of a call, so that one upload and one download serve it. */
static void lay_out_loss(void *user, slf_carver *device, slf_carver *host) {
    salf_loss *loss = user;
    const int64_t rows = loss->rows, dim = loss->basis->info.hidden;
    loss->row = slf_carve(host, dim, sizeof *loss->row);
    loss->staged = slf_carve(host, SLOTS * 3 * rows, sizeof *loss->staged);
    loss->host_loss = slf_carve(host, rows, sizeof *loss->host_loss);
    loss->device_rows = slf_carve(device, 3 * rows, sizeof *loss->device_rows);
    loss->device_loss = slf_carve(device, rows, sizeof *loss->device_loss);
    if (!loss->vocabulary) return;
    slf_score_run_lay_out(&loss->run, device, loss->run.room, dim, SLF_SUM_EXP | SLF_SUM_GRADIENT,
                          &loss->vocabulary->rule);
    slf_target_rows_lay_out(&loss->targets, loss->vocabulary, rows, device, host);
}

/* ---- a call ---- */

/* Its arguments. */
typedef struct loss_call {
    const int32_t *labels;
    const salf_tensor *states;
    double scale;
    const salf_tensor *losses;
    const salf_tensor *gradient; /* or NULL */
    const int64_t *kept;         /* the caller's numbers of the rows, where some are left out; else NULL */
} loss_call;

/* Of losses and gradient, which are written in float32 only. */
static salf_status check_loss_out(const salf_context *context, const salf_tensor *out, const char *name, int64_t rows,
                                  int64_t cols) {
    SLF_TRY(slf_tensor_check(out, name, rows, cols, slf_device_readable(context)));
    if (out->rows > 0 && out->dtype != SALF_F32)
        return slf_fail(SALF_E_DTYPE, "%s is %s, not float32", name, slf_dtype_name(out->dtype));
    return slf_tensor_check_apart(context, out, name);
}

/* Everything that can be seen without reading states; the rest is looked at when there is room for a row. */
static salf_status check_loss_call(const salf_loss *loss, const loss_call *call) {
    const salf_tensor *states = call->states, *losses = call->losses;
    SLF_TRY(slf_require("salf_loss_compute", "states", (const void *const[]){states}, 1));
    const bool device_ok = slf_device_readable(loss->context);
    SLF_TRY(slf_tensor_check(states, "states", -1, loss->basis->info.hidden, device_ok));
    if (!isfinite(call->scale)) return slf_fail(SALF_E_ARGUMENT, "scale of the gradient is %g", call->scale);
    /* Overlap of gradient and states is not looked for: with a row index on a device it cannot be seen. */
    if (call->gradient) SLF_TRY(check_loss_out(loss->context, call->gradient, "gradient", states->rows, states->cols));
    if (states->rows == 0) return SALF_OK;
    if (!call->labels) return slf_fail(SALF_E_NULL, "labels is NULL with %" PRId64 " states", states->rows);
    if (!losses) return slf_fail(SALF_E_NULL, "losses is NULL with %" PRId64 " states", states->rows);
    SLF_TRY(check_loss_out(loss->context, losses, "losses", states->rows, 1));
    /* Anywhere on the host, in one piece on a device. */
    if (losses->memory == SALF_MEMORY_DEVICE &&
        (losses->row_index || (losses->row_stride != 0 && losses->row_stride != 1 && states->rows > 1)))
        return slf_fail(SALF_E_ARGUMENT, "losses on a device must be in one piece; row stride %" PRId64,
                        losses->row_stride);
    if (losses->memory == SALF_MEMORY_HOST && losses->row_index && losses->index_memory != SALF_MEMORY_HOST)
        return slf_fail(SALF_E_ARGUMENT, "losses on the host have an index on the device");
    if (!loss->vocabulary) return SALF_OK;
    for (int64_t r = 0; r < states->rows; r++)
        if (call->labels[r] != SALF_LABEL_IGNORE) SLF_TRY(slf_vocabulary_check(loss->vocabulary, call->labels[r]));
    return SALF_OK;
}

/* States have a direction, and their gradients fit float32. Each row is widened into one that the loss has. */
static salf_status check_loss_states(const salf_loss *loss, const loss_call *call) {
    const double t = loss->vocabulary ? loss->options.temperature : 1;
    for (int64_t r = 0; r < call->states->rows; r++) {
        slf_row_to_f64(call->states, r, loss->row);
        const double norm = slf_norm2(loss->row, call->states->cols);
        const int64_t number = call->kept ? call->kept[r] : r; /* as the caller counts */
        if (!isfinite(norm)) return slf_fail(SALF_E_NONFINITE, "the state of row %" PRId64 " is not finite", number);
        if (!(norm > 0)) return slf_fail(SALF_E_NUMERIC, "the state of row %" PRId64 " is zero", number);
        /* No element of a gradient exceeds 2 |scale| / (t |h|): the difference of two unit vectors. */
        const double steepest = 2 * fabs(call->scale) / (t * norm);
        if (call->gradient && !(steepest <= (double)FLT_MAX))
            return slf_fail(SALF_E_OVERFLOW, "row %" PRId64 ": a gradient of %g (length %g, temperature %g, scale %g)",
                            number, steepest, norm, t, call->scale);
    }
    return SALF_OK;
}

/* Rows first ... of the call, as many as a chunk has. The gradient of ce with respect to h, by way of e = h / |h|, is
 * (1 / (t |h|)) (g - (g . e) e) with g = sum u_i b_i / |b_i| / sum u_i - b_l / |b_l|: so besides sum u_i a walk has to
 * leave that vector and, for g . e, the sum of u_i s_i; no second walk is needed. */
static salf_status compute_chunk(const salf_loss *loss, const loss_call *call, int64_t first) {
    const salf_context *context = loss->context;
    const int64_t left = call->states->rows - first, n = SLF_MIN(left, loss->run.chunk), dim = call->states->cols;
    const salf_tensor h = slf_tensor_slice(call->states, first, n);
    salf_tensor g = {0};
    if (call->gradient) g = slf_tensor_slice(call->gradient, first, n);
    const slf_label_rows *used = loss->set.used;
    const slf_own_rows own = {used->rows, used->norms, loss->device_rows + first};
    const slf_loss_out out = {loss->device_loss + first, call->gradient ? &g : NULL, call->scale};
    if (!loss->vocabulary) {
        const slf_cosine_job job = {.states = &h, .own = own, .losses = out};
        return context->backend->cosine(context->impl, &job);
    }
    slf_score_run run = loss->run;
    run.row_of = loss->device_rows + loss->rows + first;
    run.place = run.row_of + loss->rows;
    if (!call->gradient) run.sums.weighted = run.sums.vector = NULL;
    /* The run is a copy: chunks take turns in the same arrays, in stream order, and none is ever waiting between
     * calls. */
    SLF_TRY(slf_score_run_add(&run, loss->vocabulary, &h, NULL, 0));
    SLF_TRY(slf_score_run_walk(&run, loss->vocabulary));
    const slf_query query = {.rows = n, .dim = dim, .z = run.z, .target = run.target};
    const slf_score_loss_job job = {.states = &h,
                                    .query = &query,
                                    .rule = &loss->vocabulary->rule,
                                    .sums = &run.sums,
                                    .p = loss->vocabulary->p,
                                    .own = own,
                                    .losses = out};
    return context->backend->score_loss(context->impl, &job);
}

/* On a device everything is enqueued, and only losses that go to the host wait. After a failure losses and gradient may
 * hold the rows of chunks that went well, but nothing was written for a wrong argument, label or state on the host. */
static salf_status compute_loss(salf_loss *loss, const loss_call *call) {
    const salf_tensor *states = call->states, *losses = call->losses;
    const int32_t *labels = call->labels;
    const salf_context *context = loss->context;
    const int64_t rows = states->rows, dim = states->cols;
    /* 1. memory. A row of a chunk takes z, the sums' vector and a state widened to float64, and some numbers: 8 D
     * floats. */
    if (rows > loss->rows) {
        const int64_t fitting = slf_block_rows(context, 8 * dim), chunk = SLF_MIN(rows, fitting);
        loss->rows = rows;
        loss->run = (slf_score_run){.chunk = chunk, .room = chunk};
        const salf_status status = slf_block_pair_lay_out(&loss->blocks, context, lay_out_loss, loss);
        if (status != SALF_OK) loss->rows = 0;
        SLF_TRY(status);
    }
    /* 2. states in host memory are all good before anything is written; on a device bad ones show in their loss */
    if (slf_tensor_is_in(states, SALF_MEMORY_HOST)) SLF_TRY(check_loss_states(loss, call));
    /* 3. which rows the labels have, in the basis and for a walk, to the backend, by way of the next slot once its last
     * upload is done. Rows that have to be fetched have one place: the last upload from there has to be over. */
    int32_t *staged = loss->staged + loss->slot * 3 * loss->rows;
    void **uploaded = &loss->uploaded[loss->slot];
    SLF_TRY(context->backend->wait(context->impl, *uploaded, NULL));
    SLF_TRY(slf_label_set_prepare(&loss->set, loss->basis, labels, rows, staged));
    if (loss->vocabulary) {
        loss->targets.row_of = staged + loss->rows;
        loss->targets.place = staged + 2 * loss->rows;
        if (loss->targets.fetched) SLF_TRY(slf_sync(context));
        SLF_TRY(slf_target_rows_prepare(&loss->targets, loss->vocabulary, labels, rows));
        loss->run.own = loss->targets.rows;
    }
    const int64_t numbers = (loss->vocabulary ? 2 * loss->rows : 0) + rows; /* up to the last that is used */
    SLF_TRY(slf_upload(context, loss->device_rows, staged, (uint64_t)numbers * sizeof *staged));
    loss->slot = (loss->slot + 1) % SLOTS;
    SLF_TRY(context->backend->mark(context->impl, uploaded));
    /* 4. chunk by chunk, each with a walk of its own over the vocabulary where there is one */
    for (int64_t first = 0; first < rows; first += loss->run.chunk) SLF_TRY(compute_chunk(loss, call, first));
    /* 5. losses to where the caller wants them; waits where that is the host */
    const uint64_t loss_bytes = (uint64_t)rows * sizeof(float);
    if (losses->memory == SALF_MEMORY_DEVICE)
        return slf_device_copy(context, losses->data, loss->device_loss, loss_bytes);
    SLF_TRY(slf_download(context, loss->host_loss, loss->device_loss, loss_bytes));
    for (int64_t r = 0; r < rows; r++) ((float *)losses->data)[slf_tensor_offset(losses, r)] = loss->host_loss[r];
    return SALF_OK;
}

/* Rows to ignore are left out, by views over the others, and get their zeros once these have gone well. With all in
 * host memory only: where a device is to read the views later, a host leaves such rows out of its own. */
salf_status salf_loss_compute(salf_loss *loss, const int32_t *labels, const salf_tensor *states, double scale,
                              const salf_tensor *losses, const salf_tensor *gradient) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(loss);
    loss_call call = {.labels = labels, .states = states, .scale = scale, .losses = losses, .gradient = gradient};
    const salf_status own = check_loss_call(loss, &call);
    SLF_TRY(slf_vocabulary_agree(loss->vocabulary, SLF_MEET_salf_loss_compute, own, labels,
                                 own == SALF_OK ? states->rows : 0));
    const salf_context *context = loss->context;
    const int64_t rows = states->rows, dim = states->cols;
    int64_t n = 0;
    for (int64_t r = 0; r < rows; r++) n += labels[r] != SALF_LABEL_IGNORE;
    if (n == rows) return rows == 0 ? SALF_OK : compute_loss(loss, &call);
    /* 1. which rows are left */
    const salf_tensor *const views[] = {states, losses, gradient};
    for (int i = 0; i < 3; i++)
        if (views[i] && !slf_tensor_is_in(views[i], SALF_MEMORY_HOST))
            return SLF_FAIL(SALF_E_UNSUPPORTED, "labels to ignore with device memory; leave the rows out by an index");
    int64_t *kept;   /* [4][n]: numbers of the rows that are left, and indices of the views over them */
    int32_t *tokens; /* [n] their labels */
    salf_status status;
    SLF_TRY(SLF_ALLOC(context, kept, 4 * n));
    SLF_DO(SLF_ALLOC(context, tokens, n));
    for (int64_t r = 0, at = 0; r < rows; r++) {
        if (labels[r] == SALF_LABEL_IGNORE) continue;
        tokens[at] = labels[r];
        kept[at++] = r;
    }
    /* 2. these alone */
    const salf_tensor own_states = slf_tensor_rows(states, kept, n, kept + n);
    const salf_tensor own_losses = slf_tensor_rows(losses, kept, n, kept + 2 * n);
    const salf_tensor own_gradient = gradient ? slf_tensor_rows(gradient, kept, n, kept + 3 * n) : (salf_tensor){0};
    call = (loss_call){.labels = tokens,
                       .states = &own_states,
                       .scale = scale,
                       .losses = &own_losses,
                       .gradient = gradient ? &own_gradient : NULL,
                       .kept = kept};
    if (n > 0) SLF_DO(compute_loss(loss, &call));
    /* 3. the others have lost nothing */
    for (int64_t r = 0; r < rows; r++) {
        if (labels[r] != SALF_LABEL_IGNORE) continue;
        ((float *)losses->data)[slf_tensor_offset(losses, r)] = 0;
        for (int64_t j = 0; gradient && j < dim; j++) ((float *)gradient->data)[slf_tensor_offset(gradient, r) + j] = 0;
    }
    status = SALF_OK;
done:
    SLF_FREE(context, tokens, kept);
    return status;
}
