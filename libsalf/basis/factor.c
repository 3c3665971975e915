/*
 * factor.c - from the Gram matrix to P [D][D], b_l = P w_l.
 *
 * V >= D, or a ridge: P = G^+ or (G + ridge I)^-1 of G = W^T W [D][D]. O(D^3).
 * V < D: G has D - V eigenvalues that are zero but for rounding, at the very level EXACT keeps; so K = W W^T [V][V] is
 * factored instead, B = K^+ W [V][D] and P = B^T B. O(V^2 D + V D^2). (With a ridge G + ridge I is regular anyway;
 * sigma_min is then that of G, which is 0.)
 */
#include <math.h>
#include <string.h>

#include "backend/spectrum.h"
#include "basis/basis.h"

/*
 * Whether what was dropped is 0, or only too small for the Gram matrix. That resolves singular values down to
 * sqrt(D 2^-52) of the largest; one product with the head itself, W v with v in the dropped space, resolves D 2^-50:
 * what eigenvectors are off by. Somebody who asks for more than the former, by EXACT or by an rtol, gets it only where
 * nothing lies between. w: W [n][dim]; NULL: it is not at hand.
 */
static salf_status check_dropped(const salf_context *context, const slf_factor_result *result, double asked,
                                 double resolvable, const slf_matrix *w, int64_t n, int64_t dim) {
    const slf_backend *backend = context->backend;
    const double length = slf_norm2(result->dropped, dim);
    double *v = NULL, *scratch = NULL; /* backend [dim], [dim + 1][rows of a block] */
    double square = 0, part_square;    /* |W v|^2 so far, and of a block */
    slf_matrix_walk walk = {0};
    salf_status status;
    if (!w)
        return slf_fail(SALF_E_NUMERIC,
                        "%lld of %lld singular values are below %g of the largest, and sums alone do not tell whether "
                        "they are 0: give the model, or take SALF_BASIS_RTOL with an rtol of at least that",
                        (long long)(dim - result->rank), (long long)dim, resolvable);
    SLF_DO(SLF_DEVICE_COPY_OF(context, v, result->dropped, dim));
    SLF_DO(slf_matrix_walk_open(&walk, context, w, n, 2 * (dim + 1), "rank"));
    SLF_DO(SLF_DEVICE_ALLOC(context, scratch, walk.rows * (dim + 1)));
    while (walk.next < walk.valid) {
        SLF_DO(slf_matrix_walk_load(&walk));
        /* X v of the block X [rows][dim], which is widened to float64 behind the result. The square is a product of one
         * row with itself; it takes the place of X, which has served. */
        const int64_t rows = walk.block.rows;
        double *x = scratch + rows;
        const slf_apply_job widen = {.rows = &walk.block, .out = x};
        const slf_matvec_job times = {
            .kind = SLF_TIMES_ROWS, .rows = rows, .cols = dim, .a = x, .x = v, .y = scratch, .alpha = 1};
        const slf_matvec_job squared = {
            .kind = SLF_TIMES_ROWS, .rows = 1, .cols = rows, .a = scratch, .x = scratch, .y = x, .alpha = 1};
        SLF_DO(backend->apply(context->impl, &widen));
        SLF_DO(backend->matvec(context->impl, &times));
        SLF_DO(backend->matvec(context->impl, &squared));
        SLF_DO(slf_download(context, &part_square, x, sizeof part_square));
        square += part_square;
    }
    if (sqrt(square) > SLF_MAX(asked, (double)dim * 0x1p-50) * result->sigma_max * length)
        SLF_DO(slf_fail(SALF_E_NUMERIC,
                        "%lld of %lld singular values are below %g of the largest and not 0 (about %g): a Gram matrix "
                        "in float64 does not resolve them. Take SALF_BASIS_RTOL with an rtol of at least %g, which "
                        "drops them, or a ridge of at least %g",
                        (long long)(dim - result->rank), (long long)dim, resolvable,
                        sqrt(square) / (length * result->sigma_max), resolvable,
                        resolvable * resolvable * result->sigma_max * result->sigma_max));
done:
    slf_free(context, walk.buffer);
    slf_device_free(context, scratch);
    slf_device_free(context, v);
    return status;
}

/* The inverse of a Gram matrix [dim][dim] in its place, and what the basis says of it. w, n: as check_dropped has them.
 * Singular values are square roots of eigenvalues of G, which float64 resolves to about dim * 2^-52 of the largest; an
 * rtol below the root of that would keep noise. */
static salf_status invert_gram(salf_basis *basis, int64_t dim, double *gram, const slf_matrix *w, int64_t n) {
    const bool ridge = basis->options.mode == SALF_BASIS_RIDGE;
    const double asked = basis->options.mode == SALF_BASIS_EXACT ? 0 : basis->info.rtol;
    const double resolvable = sqrt((double)dim * 0x1p-52);
    const slf_factor_request request = {
        .mode = basis->options.mode, .rtol = SLF_MAX(asked, resolvable), .ridge = basis->options.ridge};
    slf_factor_result result = {0};
    salf_status status = SALF_OK;
    if (!ridge && asked < resolvable) SLF_DO(SLF_ALLOC(basis->context, result.dropped, dim));
    SLF_DO(slf_spectrum_invert(basis->context, dim, gram, &request, &result));
    if (result.rank == 0 || !(result.sigma_max > 0))
        SLF_DO(slf_fail(SALF_E_NUMERIC, "no singular value of the head is kept (the largest is %g)", result.sigma_max));
    /* A ridge that decides, lambda + ridge, has to be above the rounding of G; and it must leave something of the rows,
     * |b| <= sigma / (sigma^2 + ridge), for float32. */
    const double most = result.sigma_max * result.sigma_max, floor = resolvable * resolvable * most;
    if (ridge && result.sigma_max / (most + request.ridge) < 1e-36)
        SLF_DO(slf_fail(SALF_E_ARGUMENT,
                        "ridge is %g, and the largest squared singular value %g: basis rows would vanish in float32. "
                        "From 1e16 times that on a ridge only scales the head's own rows; take a smaller one",
                        request.ridge, most));
    if (ridge && result.sigma_min * result.sigma_min + request.ridge < floor)
        SLF_DO(slf_fail(SALF_E_NUMERIC,
                        "ridge is %g, and the smallest squared singular value not above the rounding of the Gram "
                        "matrix, %g: take a ridge of at least that, or SALF_BASIS_RTOL",
                        request.ridge, floor));
    /* And the longest rows have to fit float32: 1 / sigma of the smallest that is kept, or half of 1 / sqrt(ridge),
     * which sigma / (sigma^2 + ridge) never exceeds. Only a head of denormal numbers has such. */
    const double shortest = fmax(result.sigma_min_kept, 2 * sqrt(request.ridge));
    if (shortest < 1e-38)
        SLF_DO(slf_fail(SALF_E_NUMERIC,
                        "the head's singular values are %g ... %g: basis rows would leave float32; scale the head",
                        result.sigma_min_kept, result.sigma_max));
    if (result.dropped && result.rank < dim)
        SLF_DO(check_dropped(basis->context, &result, asked, resolvable, w, n, dim));
    basis->info.method = result.method;
    basis->info.rank = result.rank;
    basis->info.rtol = ridge ? 0 : request.rtol;
    basis->info.sigma_max = result.sigma_max;
    basis->info.sigma_min = result.sigma_min;
    basis->sigma_min_kept = result.sigma_min_kept;
    basis->info.condition = result.sigma_min_kept > 0 ? result.sigma_max / result.sigma_min_kept : INFINITY;
    slf_basis_set_noise(basis);
done:
    slf_free(basis->context, result.dropped);
    return status;
}

/*
 * What counts as a zero row. A row w inside the kept space has |P w| >= |w| / sigma_max^2. With k = sigma_max /
 * smallest kept, the product P w carries a rounding error of up to D 2^-52 |w| k^2 / sigma_max^2 (below the former,
 * since the threshold on singular values is at least sqrt(D 2^-52)); and the part of w in the kept space is known to
 * float32 rounding of w at best. So a row is zero when |P w| <= max(D 2^-52 k^2, 2^-22) |w| / sigma_max^2: nothing of
 * it but rounding is left. A ridge adds to both squares; the factor is held below 1 so that a row in the kept space
 * always counts.
 */
void slf_basis_set_noise(salf_basis *basis) {
    if (basis->info.side == SALF_SIDE_INPUT) {
        basis->noise = 0;
        return; /* rows are the embedding's own, and row_error is 0 */
    }
    const double largest = basis->info.sigma_max * basis->info.sigma_max + basis->info.ridge;
    const double smallest = basis->sigma_min_kept * basis->sigma_min_kept + basis->info.ridge;
    basis->rounding = (double)basis->info.hidden * 0x1p-52 * largest / smallest;
    /* What rows B = W P are off by, relative to their length: G and P are rounded by some 2^-52 of their largest
     * elements, in sums of D random terms, which the squared condition magnifies. Against singular values in float64,
     * over heads of 16 to 500 columns and conditions of 10 to 3e6, the error was between a hundredth and a half of
     * this, and less where the columns alone are of unequal lengths. */
    basis->info.row_error = 2 * sqrt((double)basis->info.hidden) * 0x1p-52 * largest / smallest;
    basis->noise = fmin(fmax(basis->rounding, 0x1p-22), 0.5) / largest;
}

salf_status slf_basis_factor(salf_basis *basis, double *gram) {
    SLF_TRY(invert_gram(basis, basis->info.hidden, gram, basis->matrix, basis->info.vocab));
    basis->p = gram;
    return SALF_OK;
}

/* ---- V < D ---- */

/* K^+ W is made as B^T = W^T K^+ [D][V], since apply multiplies rows by a symmetric matrix from the right. The last
 * product runs on the host, once for a basis; vocabularies below D are small. */
salf_status slf_basis_factor_small(salf_basis *basis, const float *w) {
    const salf_context *context = basis->context;
    const slf_backend *backend = context->backend;
    const int64_t dim = basis->info.hidden, vocab = basis->info.vocab;
    float *wt = NULL;                    /* host [D][V] */
    double *k = NULL, *device_bt = NULL; /* backend [V][V], [D][V] */
    double *bt = NULL, *p = NULL;        /* host [D][V], [D][D] */
    double *wb = NULL, *before;          /* host W B^T [V][V], and behind it a row of B^T */
    salf_status status;
    SLF_DO(SLF_ALLOC(context, wt, dim * vocab));
    SLF_DO(SLF_ALLOC(context, bt, dim * vocab));
    SLF_DO(SLF_ALLOC(context, p, dim * dim));
    SLF_DO(SLF_ALLOC_ZERO(context, wb, (vocab + 1) * vocab));
    SLF_DO(SLF_DEVICE_ALLOC(context, k, vocab * vocab));
    SLF_DO(SLF_DEVICE_ALLOC(context, device_bt, dim * vocab));
    /* 1. K = W W^T, the Gram matrix of the columns of W^T. All rows are finite, as an earlier scan has seen. */
    for (int64_t v = 0; v < vocab; v++)
        for (int64_t j = 0; j < dim; j++) wt[j * vocab + v] = w[v * dim + j];
    const salf_tensor columns = slf_tensor_host(wt, SALF_F32, dim, vocab);
    const slf_matrix transposed = {.view = columns, .n_rows = dim, .n_cols = vocab};
    uint64_t hash = 0;
    int64_t bad_row;
    const slf_scan_job scan = {.rows = &columns, .gram = k, .hash = &hash, .bad_row = &bad_row, .total = dim};
    SLF_DO(slf_zero_doubles(context, k, (uint64_t)(vocab * vocab)));
    SLF_DO(backend->scan(context->impl, &scan));
    /* 2. K^+ in its place, and B^T */
    SLF_DO(invert_gram(basis, vocab, k, &transposed, dim));
    const slf_apply_job apply = {.p = k, .rows = &columns, .out = device_bt};
    SLF_DO(backend->apply(context->impl, &apply));
    SLF_DO(slf_download(context, bt, device_bt, (uint64_t)(dim * vocab) * sizeof *bt));
    /* 3. Newton's step for a pseudo-inverse, X <- 2 X - X W X with X = B^T. K has the squared condition, and so has the
     * error of X; what is left after the step has that of W alone. Rows of the basis are W P, where an error of the
     * longest row of B meets the longest row of W: with lengths 10^4 apart they were off by 5e-5 of their own. */
    for (int64_t v = 0; v < vocab; v++)
        for (int64_t j = 0; j < dim; j++)
            for (int64_t u = 0; u < vocab; u++) wb[v * vocab + u] += (double)w[v * dim + j] * bt[j * vocab + u];
    before = wb + vocab * vocab;
    for (int64_t j = 0; j < dim; j++) {
        double *row = bt + j * vocab;
        memcpy(before, row, (size_t)vocab * sizeof *row);
        for (int64_t u = 0; u < vocab; u++) row[u] *= 2;
        for (int64_t v = 0; v < vocab; v++)
            for (int64_t u = 0; u < vocab; u++) row[u] -= before[v] * wb[v * vocab + u];
    }
    /* 4. P = B^T B, of which one half is computed */
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t v = 0; v < vocab; v++) sum += bt[i * vocab + v] * bt[j * vocab + v];
            p[i * dim + j] = p[j * dim + i] = sum;
        }
    SLF_DO(SLF_DEVICE_COPY_OF(context, basis->p, p, dim * dim));
    SLF_DO(slf_sync(context)); /* the host's copy goes */
done:
    slf_device_free(context, device_bt);
    slf_device_free(context, k);
    SLF_FREE(context, wb, p, bt, wt);
    return status;
}
