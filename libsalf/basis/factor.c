/*
 * factor.c - from the Gram matrix to P [D][D], b_l = P w_l.
 *
 * V >= D, or a ridge: P = G^+ or (G + ridge I)^-1 of G = W^T W [D][D]. O(D^3).
 * V < D: G has D - V eigenvalues that are zero but for rounding, at the very level EXACT keeps; so K = W W^T [V][V] is
 * factored instead, B = K^+ W [V][D] and P = B^T B. O(V^2 D + V D^2). (With a ridge G + ridge I is regular anyway;
 * sigma_min is then that of G, which is 0.)
 */
#include <math.h>

#include "backend/spectrum.h"
#include "basis/basis.h"

/* The inverse of a Gram matrix [dim][dim] in its place, and what the basis says of it.
 * Singular values are square roots of eigenvalues of G, which float64 resolves to about dim * 2^-52 of the largest; an
 * rtol below the root of that would keep noise. */
static salf_status invert_gram(salf_basis *basis, int64_t dim, double *gram) {
    const double asked = basis->options.mode == SALF_BASIS_EXACT ? 0 : basis->info.rtol;
    const double resolvable = sqrt((double)dim * 0x1p-52);
    const slf_factor_request request = {
        .mode = basis->options.mode, .rtol = SLF_MAX(asked, resolvable), .ridge = basis->options.ridge};
    slf_factor_result result = {0};
    SLF_TRY(slf_spectrum_invert(basis->context, dim, gram, &request, &result));
    if (result.rank == 0 || !(result.sigma_max > 0))
        return slf_fail(SALF_E_NUMERIC, "no singular value of the head is kept (the largest is %g)", result.sigma_max);
    basis->info.method = result.method;
    basis->info.rank = result.rank;
    basis->info.rtol = basis->options.mode == SALF_BASIS_RIDGE ? 0 : request.rtol;
    basis->info.sigma_max = result.sigma_max;
    basis->info.sigma_min = result.sigma_min;
    basis->sigma_min_kept = result.sigma_min_kept;
    basis->info.condition = result.sigma_min_kept > 0 ? result.sigma_max / result.sigma_min_kept : INFINITY;
    slf_basis_set_noise(basis);
    return SALF_OK;
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
        return;
    }
    const double largest = basis->info.sigma_max * basis->info.sigma_max + basis->info.ridge;
    const double smallest = basis->sigma_min_kept * basis->sigma_min_kept + basis->info.ridge;
    basis->rounding = (double)basis->info.hidden * 0x1p-52 * largest / smallest;
    basis->noise = fmin(fmax(basis->rounding, 0x1p-22), 0.5) / largest;
}

salf_status slf_basis_factor(salf_basis *basis, double *gram) {
    SLF_TRY(invert_gram(basis, basis->info.hidden, gram));
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
    salf_status status;
    SLF_DO(SLF_ALLOC(context, wt, dim * vocab));
    SLF_DO(SLF_ALLOC(context, bt, dim * vocab));
    SLF_DO(SLF_ALLOC(context, p, dim * dim));
    SLF_DO(SLF_DEVICE_ALLOC(context, k, vocab * vocab));
    SLF_DO(SLF_DEVICE_ALLOC(context, device_bt, dim * vocab));
    /* 1. K = W W^T, the Gram matrix of the columns of W^T. All rows are finite, as an earlier scan has seen. */
    for (int64_t v = 0; v < vocab; v++)
        for (int64_t j = 0; j < dim; j++) wt[j * vocab + v] = w[v * dim + j];
    const salf_tensor columns = slf_tensor_host(wt, SALF_F32, dim, vocab);
    uint64_t hash = 0;
    int64_t bad_row;
    const slf_scan_job scan = {.rows = &columns, .gram = k, .hash = &hash, .bad_row = &bad_row};
    SLF_DO(slf_zero_doubles(context, k, (uint64_t)(vocab * vocab)));
    SLF_DO(backend->scan(context->impl, &scan));
    /* 2. K^+ in its place, and B^T */
    SLF_DO(invert_gram(basis, vocab, k));
    const slf_apply_job apply = {.p = k, .rows = &columns, .out = device_bt};
    SLF_DO(backend->apply(context->impl, &apply));
    SLF_DO(slf_download(context, bt, device_bt, (uint64_t)(dim * vocab) * sizeof *bt));
    /* 3. P = B^T B, of which one half is computed */
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
    slf_free(context, p);
    slf_free(context, bt);
    slf_free(context, wt);
    return status;
}
