/*
 * passes.c - what is made of all rows of the head, block by block: the norms |b_i| = |w_i P| and the table of all basis
 * rows b_i = w_i P, [V][D] in float32. A score over the whole vocabulary needs the one or the other: with the norms it
 * runs on the head as the host stores it, s_i = w_i . (P h) / (|b_i| |h|), and no V D numbers are held twice.
 *
 * Each costs V D^2 multiply-adds, as much as the Gram matrix twice, so that both are made only where they are asked
 * for.
 */
#include <inttypes.h>
#include <math.h>

#include "basis/basis.h"
#include "core/ranks.h"

/* ---- norms ---- */

/* Scores multiply by these for every row and query: a product is cheaper than a quotient, and 0 needs no branch. */
void slf_invert_norms(double *norms, int64_t n) {
    for (int64_t i = 0; i < n; i++) norms[i] = norms[i] > 0 ? 1 / norms[i] : 0;
}

/* An element above 1e154 has a square that overflows: such a row counts as not finite as well. */
static salf_status check_basis_norms(const double *norms, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(norms[i])) return slf_fail(SALF_E_NONFINITE, "basis row %" PRId64 " is not finite", i);
    return SALF_OK;
}

/* Copies inverse norms [vocab] to the backend, into the cache. Waits: the caller's copy may go. */
static salf_status fill_norm_cache(const salf_basis *basis, const double *inverse, double amplification) {
    SLF_TRY(SLF_DEVICE_COPY_OF(basis->context, basis->norm_cache->inverse_norms, inverse, basis->info.vocab));
    basis->norm_cache->amplification = amplification;
    return slf_sync(basis->context);
}

/* |w_i| and |b_i| of the rows that are here, host [2][vocab], 0 for others: made in the backend, block by block, and
 * read once, since waiting for each block would leave a device idle. Both come back, as a row is judged by their
 * quotient: 16 V bytes, where the head has 2 V D or more. */
static salf_status measure_norms(const salf_basis *basis, const slf_matrix *matrix, double *host) {
    const salf_context *context = basis->context;
    const int64_t n = basis->info.vocab;
    double *device = NULL;
    slf_matrix_walk walk = {0};
    salf_status status;
    SLF_DO(SLF_DEVICE_ALLOC(context, device, 2 * n));
    SLF_DO(slf_zero_doubles(context, device, 2 * (uint64_t)n));
    SLF_DO(slf_matrix_walk_open(&walk, context, matrix, n, 0, "norms"));
    while (walk.next < walk.valid) {
        SLF_DO(slf_matrix_walk_load(&walk));
        const slf_apply_job of_w = {.rows = &walk.block, .norms = device + walk.first};
        const slf_apply_job of_b = {.p = basis->p, .rows = &walk.block, .norms = device + n + walk.first};
        SLF_DO(context->backend->apply(context->impl, &of_w));
        SLF_DO(context->backend->apply(context->impl, &of_b));
    }
    SLF_DO(slf_download(context, host, device, 2 * (uint64_t)n * sizeof *host));
done:
    slf_free(context, walk.buffer);
    slf_device_free(context, device);
    return status;
}

/* 1 / |b_i|, 0 for a row that is nothing but noise, and the amplification, on the host. Threads that share a basis wait
 * here for the first of them; after a failure the next one tries again. With a shard every rank gets the norms of all
 * rows, 16 V bytes once: then a right token's score is the same number on each, whoever has its row. */
salf_status slf_basis_norms(const salf_basis *basis, const double **inverse_norms, double *amplification) {
    const salf_context *context = basis->context;
    const int64_t n = basis->info.vocab;
    const slf_matrix *matrix = basis->shard ? basis->shard : basis->matrix;
    slf_norm_cache *cache = basis->norm_cache;
    slf_agreement agreement = {.meeting = SLF_MEET_slf_basis_norms};
    double *host = NULL; /* [2][vocab]: |w_i|, then |b_i| */
    salf_status status = SALF_OK;
    slf_lock_take(&cache->lock);
    if (cache->inverse_norms) goto done;
    if (!matrix)
        SLF_DO(slf_fail(SALF_E_ARGUMENT,
                        "the whole vocabulary of %" PRId64
                        " tokens is asked for, but the basis has neither its table nor a model at hand",
                        n));
    status = SLF_ALLOC(context, host, 2 * n);
    if (status == SALF_OK) status = measure_norms(basis, matrix, host);
    if (basis->shard) {
        slf_agreement_add(&agreement, "vocab of the bases", (uint64_t)n);
        slf_agreement_add(&agreement, "heads of the bases (hash)", basis->info.fingerprint);
        status = slf_agree(context, status, &agreement);
        if (status == SALF_OK) status = slf_all_reduce(context, host, 2 * n, SALF_F64, SALF_ALL_REDUCE_SUM);
    }
    SLF_DO(status);
    const double *w = host;
    double *b = host + n, most = 0;
    SLF_DO(check_basis_norms(b, n));
    for (int64_t i = 0; i < n; i++) {
        if (b[i] <= basis->noise * w[i]) b[i] = 0;
        if (b[i] > 0) most = fmax(most, w[i] / b[i]);
    }
    /* The largest amplification of all rows is kept, not one a row: a query's products are all made the same way. */
    slf_invert_norms(b, n);
    SLF_DO(fill_norm_cache(basis, b, most));
done:
    *inverse_norms = cache->inverse_norms;
    *amplification = cache->amplification;
    slf_lock_give(&cache->lock);
    slf_free(context, host);
    return status;
}

/* Under the lock too, since another thread may be making them. */
bool slf_basis_has_norms(const salf_basis *basis) {
    slf_lock_take(&basis->norm_cache->lock);
    const bool has = basis->norm_cache->inverse_norms != NULL;
    slf_lock_give(&basis->norm_cache->lock);
    return has;
}

/* ---- table ---- */

/* Products over a table are with the basis rows themselves, so that nothing is amplified. */
salf_status slf_basis_use_table_norms(salf_basis *basis, const slf_label_rows *table) {
    double *inverse;
    SLF_TRY(SLF_ALLOC(basis->context, inverse, table->n));
    for (int64_t i = 0; i < table->n; i++) inverse[i] = table->host_norms[i];
    slf_invert_norms(inverse, table->n);
    const salf_status status = fill_norm_cache(basis, inverse, 1);
    slf_free(basis->context, inverse);
    return status;
}

/* Norms are those of the float32 rows, as a file of them gives: a basis that is saved and loaded scores the same. */
salf_status slf_basis_make_table(salf_basis *basis) {
    const salf_context *context = basis->context;
    const int64_t vocab = basis->info.vocab, dim = basis->info.hidden;
    slf_label_rows table = {0};
    slf_matrix_walk walk = {0};
    salf_status status;
    if (basis->shard)
        SLF_DO(slf_fail(SALF_E_UNSUPPORTED, "a table of a head in shards; it would be whole on every rank"));
    SLF_DO(slf_label_rows_make(&table, context, NULL, vocab, dim));
    SLF_DO(
        slf_matrix_walk_open(&walk, context, basis->matrix, vocab, 3 * dim, "table")); /* w in float32, b in float64 */
    while (walk.next < vocab) {
        SLF_DO(slf_matrix_walk_load(&walk));
        const slf_apply_job job = {.p = basis->p,
                                   .rows = &walk.block,
                                   .norms = table.norms + walk.first,
                                   .rounded = table.rows + walk.first * dim,
                                   .noise = basis->noise};
        SLF_DO(context->backend->apply(context->impl, &job));
    }
    SLF_DO(slf_download(context, table.host_norms, table.norms, (uint64_t)vocab * sizeof(double)));
    SLF_DO(check_basis_norms(table.host_norms, vocab));
    /* Nothing of the basis has changed up to here; what can fail is behind us after this line. */
    SLF_DO(slf_basis_use_table_norms(basis, &table));
    slf_label_rows_free(context, &basis->held);
    basis->held = table;
    table = (slf_label_rows){0};
    slf_device_free(context, basis->p); /* every row is there: nothing needs P any more */
    basis->p = NULL;
done:
    slf_label_rows_free(context, &table);
    slf_free(context, walk.buffer);
    return status;
}
