/*
 * lanczos.c - the largest eigenvalue of a symmetric operator on [dim], by Lanczos with full reorthogonalisation.
 *
 * After k steps the tridiagonal T [k][k] of alpha (diagonal) and beta (beside it) holds the operator on the Krylov
 * space of its start; T's largest eigenvalue theta, with eigenvector s, is within beta_k |s_k| of one of A's,
 * and quadratically closer where that one stands apart. k products with the operator and 2 k^2 dim multiply-adds; k *
 * dim numbers of backend memory. The vectors stay in the backend; the host reads three numbers a step.
 */
#include <math.h>

#include "backend/spectrum.h"
#include "core/random.h"

/* Steps at most. After k steps theta is off by about exp(-4 k sqrt(gap)) of the spread of the eigenvalues, gap being
 * that between the largest two relative to the spread (Kaniel, Paige): 400 steps find 1e-9 down to gaps of 2e-4. Heads
 * have far larger ones; what has not converged by then takes the way of the eigenvectors, which costs more but always
 * serves. LOOK: steps between two looks at T, whose own cost they hide. */
enum { MOST_STEPS = 400, LOOK = 8 };

/* Residual relative to theta at which the value is taken: a thousandth of the margin of its caller, and theta itself is
 * closer yet. */
#define CONVERGED 1e-9

/* |w| relative to before reorthogonalisation, at which only rounding is left of it: the Krylov space is complete. 45
 * units of 2^-52, what two passes of dot products leave. */
#define COMPLETE 1e-14

typedef struct {
    const salf_context *context;
    slf_matvec_job product;
    int64_t dim, most;
    double *basis;        /* backend [most + 1][dim], orthonormal rows q */
    double *projection;   /* backend [most] */
    double *numbers;      /* backend [3] */
    double *alpha, *beta; /* host [most] */
    double *start;        /* host [dim] */
} lanczos;

static void lay_out_lanczos(void *user, slf_carver *device, slf_carver *host) {
    lanczos *l = user;
    l->basis = slf_carve(device, (l->most + 1) * l->dim, sizeof(double));
    l->projection = slf_carve(device, l->most, sizeof(double));
    l->numbers = slf_carve(device, 3, sizeof(double));
    l->alpha = slf_carve(host, l->most, sizeof(double));
    l->beta = slf_carve(host, l->most, sizeof(double));
    l->start = slf_carve(host, l->dim, sizeof(double));
}

/* The one slot that Lanczos needs: its products, dot products, updates and scalings are all of this form. */
static salf_status times(const lanczos *l, slf_matvec_job job) {
    return l->context->backend->matvec(l->context->impl, &job);
}

/* Step k: alpha_k, beta_k and basis vector q_{k+1}; beta_k is 0 when the Krylov space is complete. */
static salf_status lanczos_step(const lanczos *l, int64_t k) {
    double *q = l->basis + k * l->dim, *w = q + l->dim, number[3];
    slf_matvec_job job = l->product;
    job.x = q;
    job.y = w;
    SLF_TRY(times(l, job)); /* w = A q_k */
    /* q_k . w and w . w, two rows that lie next to each other */
    job = (slf_matvec_job){.kind = SLF_TIMES_ROWS, .rows = 2, .cols = l->dim, .a = q, .x = w, .alpha = 1};
    job.y = l->numbers;
    SLF_TRY(times(l, job));
    for (int pass = 0; pass < 2; pass++) { /* w -= Q^T (Q w); twice is enough */
        job = (slf_matvec_job){.rows = k + 1, .cols = l->dim, .a = l->basis, .x = w, .y = l->projection, .alpha = 1};
        SLF_TRY(times(l, job));
        job.kind = SLF_TIMES_COLUMNS;
        job.x = l->projection;
        job.y = w;
        job.alpha = -1;
        job.beta = 1;
        SLF_TRY(times(l, job));
    }
    job = (slf_matvec_job){.rows = 1, .cols = l->dim, .a = w, .x = w, .y = l->numbers + 2, .alpha = 1};
    SLF_TRY(times(l, job));
    SLF_TRY(slf_download(l->context, number, l->numbers, sizeof number));
    l->alpha[k] = number[0];
    l->beta[k] = sqrt(number[2]);
    if (l->beta[k] <= COMPLETE * sqrt(number[1])) l->beta[k] = 0;
    if (!(l->beta[k] > 0)) return SALF_OK;
    job = (slf_matvec_job){.rows = l->dim, .cols = 1, .a = w, .x = w, .y = w, .beta = 1 / l->beta[k]};
    return times(l, job); /* w / beta_k */
}

/* ---- T ---- */

/* The largest eigenvalue of T [n] by bisection, between the largest element of the diagonal, below which it cannot be,
 * and Gershgorin's bound. All n eigenvalues lie below x exactly where all pivots of T - x are negative (Sylvester). */
static double largest_of_t(const lanczos *l, int64_t n) {
    double low = l->alpha[0], high = l->alpha[0];
    for (int64_t i = 0; i < n; i++) {
        const double reach = (i > 0 ? l->beta[i - 1] : 0) + (i < n - 1 ? l->beta[i] : 0);
        low = fmax(low, l->alpha[i]);
        high = fmax(high, l->alpha[i] + reach);
    }
    for (int halvings = 0; halvings < 200; halvings++) { /* float64 ends it after some 60 */
        const double x = low + (high - low) / 2;
        bool all_below = true;
        double pivot = 1;
        if (!(x > low && x < high)) break;
        for (int64_t i = 0; i < n && all_below; i++) {
            const double coupling = i > 0 ? l->beta[i - 1] : 0;
            pivot = l->alpha[i] - x - coupling * coupling / pivot;
            all_below = pivot < 0;
        }
        if (all_below)
            high = x;
        else
            low = x;
    }
    return high;
}

salf_status slf_lanczos_largest(const salf_context *context, const slf_matvec_job *product, double *largest,
                                int32_t *converged) {
    lanczos l = {
        .context = context, .product = *product, .dim = product->rows, .most = SLF_MIN(product->rows, MOST_STEPS)};
    slf_block_pair blocks = {0};
    salf_status status;
    *converged = 0;
    SLF_DO(slf_block_pair_lay_out(&blocks, context, lay_out_lanczos, &l));
    /* 1. q_0: a unit vector with a part in every eigenspace, fixed random numbers */
    double square = 0;
    for (int64_t i = 0; i < l.dim; i++) {
        l.start[i] = slf_random_unit(1, 0, (uint64_t)i) - 0.5;
        square += l.start[i] * l.start[i];
    }
    for (int64_t i = 0; i < l.dim; i++) l.start[i] /= sqrt(square);
    SLF_DO(slf_upload(context, l.basis, l.start, (uint64_t)l.dim * sizeof *l.start));
    /* 2. steps, and every LOOK of them a look at T, until its largest eigenvalue can be taken */
    for (int64_t k = 1; k <= l.most && !*converged; k++) {
        SLF_DO(lanczos_step(&l, k - 1));
        if (!isfinite(l.alpha[k - 1]) || !isfinite(l.beta[k - 1])) break;
        const bool complete = !(l.beta[k - 1] > 0) || k == l.dim;
        if (!complete && k % LOOK != 0 && k < l.most) continue;
        const double theta = largest_of_t(&l, k);
        if (!isfinite(theta)) break;
        /* |s_k| of the eigenvector s of theta, |s| = 1: from the last component backwards, the direction it grows in */
        double next = 0, now = 1, norm = 1;
        for (int64_t i = k - 1; i > 0; i--) {
            const double before = ((theta - l.alpha[i]) * now - (i < k - 1 ? l.beta[i] : 0) * next) / l.beta[i - 1];
            next = now;
            now = before;
            norm += now * now;
        }
        if (!complete && !(l.beta[k - 1] / sqrt(norm) <= CONVERGED * fabs(theta))) continue;
        *largest = theta;
        *converged = 1;
    }
done:
    slf_block_pair_free(&blocks, context);
    return status;
}
