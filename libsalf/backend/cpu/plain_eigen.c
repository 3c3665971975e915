/*
 * plain_eigen.c - eigenvalues and eigenvectors of a symmetric matrix A [D][D] without LAPACK.
 *
 * 1. A = Q T Q^T, T tridiagonal, by Householder reflections, 32 rows at a time: half of 4/3 D^3 operations are products
 *    with a vector, bound by memory, the other half one product of matrices a block (Dongarra, Hammarling, Sorensen).
 * 2. Q^T from the reflections, in blocks I - V^T T V (Schreiber, Van Loan): 4/3 D^3 operations in products.
 * 3. T = S Lambda S^T by implicit QL steps with Wilkinson's shift, some 1.7 an eigenvalue. Each is a chain of rotations
 *    of neighbouring rows of Q^T, some 0.85 D^2 in all and 6 D operations each; they are kept and applied many steps at
 *    a time to a stretch of columns that is in the cache.
 * Errors are those of LAPACK's dsteqr, a few D 2^-52 |A|. 2 D^2 numbers of memory with A.
 */
#include <float.h>
#include <math.h>

#include "block.h"
#include "core/carve.h"
#include "core/core.h"
#include "plain.h"

#ifdef SLF_HAVE_X86
#include <immintrin.h>
#endif

/* BLOCK: reflections of a block. STRETCH: columns that rotations are applied to at a time, D x 16 numbers in the second
 * cache. KEPT: steps of QL of full length for which there is room, so many that the stretch is worth its copies;
 * CHAINS_KEPT: of any length. MOST_STEPS: of QL for one eigenvalue; three are many. */
enum { BLOCK = 32, STRETCH = SLF_ROTATED, KEPT = 32, MOST_STEPS = 60, CHAINS_KEPT = 256 };

/* A rotation of rows k and k+1. */
typedef struct {
    double c, s;
} rotation;

/* A step's rotations, of rows last, last+1, then last-1, last, ... down to first. */
typedef struct {
    int64_t first, last, at; /* at: its first one among those that are kept */
} ql_chain;

typedef struct {
    const slf_cpu *cpu;
    int64_t dim;
    double *a;           /* [D][D] A; row j from j+1 on becomes the reflection of row j */
    double *q;           /* [D][D] Q^T */
    double *diagonal;    /* [D] of T, then lambda */
    double *beside;      /* [D] of T beside its diagonal: T_j,j+1 */
    double *tau;         /* [D] a reflection is I - tau v v^T */
    double *v;           /* [3][BLOCK][D] reflections of a block, V; W with A - V^T W - W^T V; V again */
    double *small;       /* [2][BLOCK][BLOCK] */
    double *stretch;     /* [D][STRETCH] */
    rotation *rotations; /* [KEPT D], where v was, which is not needed any more */
    ql_chain *chains;    /* [CHAINS_KEPT] */
    int64_t n_chains, n_rotations;
} eigen_job;

/* Twice: to measure, then to place. Q^T is the largest part, D^2; the rest is some 115 D. */
static void lay_out(eigen_job *e, slf_carver *block) {
    e->q = slf_carve(block, e->dim * e->dim, sizeof(double));
    e->beside = slf_carve(block, e->dim, sizeof(double));
    e->tau = slf_carve(block, e->dim, sizeof(double));
    e->v = slf_carve(block, 3 * BLOCK * e->dim, sizeof(double));
    e->small = slf_carve(block, 2 * BLOCK * BLOCK, sizeof(double));
    e->stretch = slf_carve(block, e->dim * STRETCH, sizeof(double));
    e->rotations = (rotation *)(void *)e->v;
    e->chains = slf_carve(block, CHAINS_KEPT, sizeof(ql_chain));
}

/* Each of the three steps counts D. */
static salf_status proceed(const eigen_job *e, int64_t done) {
    const slf_services *services = &e->cpu->host.services;
    return services->proceed(services->context, "eigenvectors", done, 3 * e->dim);
}

/* ---- A = Q T Q^T ---- */

/* Reflections of rows first ... last-1, and what they leave of the matrix below. That of a row x beside the diagonal,
 * I - tau v v^T with v = x - b e_1 and b = -sign(x_1) |x|, takes x to b e_1; v is scaled so that v_1 is 1. With
 * p = tau (A - V^T W - W^T V) v, w = p - (tau / 2) (p . v) v makes the next A of this one by A - v w^T - w v^T. */
static salf_status reduce_block(eigen_job *e, int64_t first, int64_t last) {
    const int64_t dim = e->dim, below = dim - last;
    memset(e->v, 0, (size_t)(3 * BLOCK * dim) * sizeof *e->v);
    for (int64_t j = first; j < last; j++) {
        const int64_t t = j - first, at = j + 1, n = dim - at;
        double *v = e->v + t * dim, *w = v + BLOCK * dim, *row = e->a + j * dim + j, *x = row + 1;
        /* 1. row j as the reflections before it leave it, and its own */
        for (int64_t u = 0; u < t; u++) {
            const double *vu = e->v + u * dim, *wu = vu + BLOCK * dim;
            slf_plain_axpy(n + 1, -vu[j], wu + j, row);
            slf_plain_axpy(n + 1, -wu[j], vu + j, row);
        }
        /* What is to become zero. Where it is zero already there is nothing to reflect: tau = 0. The sign of b is that
         * for which x_1 - b adds two numbers of one sign, so that nothing cancels */
        const double rest = slf_plain_dot(x + 1, x + 1, n - 1);
        e->diagonal[j] = row[0];
        e->beside[j] = x[0];
        e->tau[j] = 0;
        if (rest > 0) {
            const double b = -copysign(sqrt(x[0] * x[0] + rest), x[0]), first_of_v = x[0] - b;
            e->tau[j] = -first_of_v / b;
            e->beside[j] = b;
            for (int64_t i = 1; i < n; i++) x[i] /= first_of_v;
        }
        x[0] = 1;
        /* 2. v, twice, and w */
        memcpy(v + at, x, (size_t)n * sizeof *v);
        memcpy(w + BLOCK * dim + at, v + at, (size_t)n * sizeof *v);
        /* A v, with A as it was before the block, less what the block's reflections have changed of it since */
        slf_plain_symv(n, e->a + at * dim + at, dim, v + at, w + at);
        for (int64_t u = 0; u < t; u++) {
            const double *vu = e->v + u * dim + at, *wu = vu + BLOCK * dim;
            const double with_w = slf_plain_dot(wu, v + at, n), with_v = slf_plain_dot(vu, v + at, n);
            slf_plain_axpy(n, -with_w, vu, w + at);
            slf_plain_axpy(n, -with_v, wu, w + at);
        }
        for (int64_t i = at; i < dim; i++) w[i] *= e->tau[j];
        slf_plain_axpy(n, -e->tau[j] / 2 * slf_plain_dot(w + at, v + at, n), v + at, w + at);
    }
    /* 3. A - V^T W - W^T V below the block, as one product of [V; W]^T with [W; V] */
    salf_product left = {.dtype = SALF_F64, .a_transposed = 1, .upper = 1, .alpha = -1, .beta = 1};
    left.m = left.n = below;
    left.k = 2 * BLOCK;
    left.a = e->v + last;               /* V, W */
    left.b = e->v + BLOCK * dim + last; /* W, V */
    left.c = e->a + last * dim + last;
    left.a_stride = left.b_stride = left.c_stride = dim;
    SLF_TRY(slf_plain_multiply(e->cpu, &left));
    return proceed(e, last);
}

/* ---- Q^T ---- */

/* The product of a block's reflections is I - V^T T V with T upper: column i is -tau_i T (V v_i), tau_i below. Q^T,
 * which is I outside of the rows that later blocks made, becomes Q^T (I - V^T T V)^T = Q^T - ((Q^T V^T) T^T) V. */
static salf_status apply_reflections(eigen_job *e, int64_t first, int64_t last) {
    const int64_t dim = e->dim, at = first + 1, n = dim - at, count = last - first;
    double *v = e->v, *products = v + BLOCK * dim, *t = e->small, *sums = t + BLOCK * BLOCK;
    /* 1. V, with the zeros before each reflection */
    memset(v, 0, (size_t)(BLOCK * dim) * sizeof *v);
    for (int64_t i = 0; i < count; i++) {
        const int64_t from = first + i + 1;
        memcpy(v + i * dim + from, e->a + (first + i) * dim + from, (size_t)(dim - from) * sizeof *v);
    }
    /* 2. T */
    memset(t, 0, BLOCK * BLOCK * sizeof *t);
    for (int64_t i = 0; i < count; i++) {
        const double tau = e->tau[first + i];
        for (int64_t u = 0; u < i; u++) sums[u] = slf_plain_dot(v + u * dim, v + i * dim, dim);
        for (int64_t u = 0; u < i; u++) t[u * BLOCK + i] = -tau * slf_plain_dot(t + u * BLOCK, sums, i);
        t[i * BLOCK + i] = tau;
    }
    /* 3. three products; [n][BLOCK] twice lies where W and the second V were */
    double *qt = e->q + at * dim + at, *by_t = products + BLOCK * dim;
    salf_product job = {.dtype = SALF_F64, .b_transposed = 1, .m = n, .n = BLOCK, .k = n, .alpha = 1};
    job.a = qt, job.a_stride = dim;
    job.b = v + at, job.b_stride = dim;
    job.c = products, job.c_stride = BLOCK;
    SLF_TRY(slf_plain_multiply(e->cpu, &job)); /* Q^T V^T */
    job.k = BLOCK;
    job.a = products, job.a_stride = BLOCK;
    job.b = t, job.b_stride = BLOCK;
    job.c = by_t;
    SLF_TRY(slf_plain_multiply(e->cpu, &job)); /* times T^T */
    job = (salf_product){.dtype = SALF_F64, .m = n, .n = n, .k = BLOCK, .alpha = -1, .beta = 1};
    job.a = by_t, job.a_stride = BLOCK;
    job.b = v + at, job.b_stride = dim;
    job.c = qt, job.c_stride = dim;
    SLF_TRY(slf_plain_multiply(e->cpu, &job)); /* Q^T - that times V */
    return proceed(e, 2 * dim - first);
}

/* ---- T = S Lambda S^T ---- */

/* The lower row of a pair is the upper one of the next: it stays in registers. */
#define ROTATE(name, attributes, vector, width, prefix)                                                                \
    attributes void slf_rotate_##name(double *x, const double *rotations, int64_t n) {                                 \
        vector kept[STRETCH / width];                                                                                  \
        SLF_UNROLL for (int v = 0; v < STRETCH / width; v++) kept[v] = prefix##_loadu_pd(x + n * STRETCH + v * width); \
        for (int64_t k = n - 1; k >= 0; k--, rotations += 2) {                                                         \
            const vector c = prefix##_set1_pd(rotations[0]), s = prefix##_set1_pd(rotations[1]);                       \
            const vector minus_s = prefix##_set1_pd(-rotations[1]);                                                    \
            SLF_UNROLL for (int v = 0; v < STRETCH / width; v++) {                                                     \
                double *row = x + k * STRETCH + v * width;                                                             \
                const vector upper = prefix##_loadu_pd(row);                                                           \
                prefix##_storeu_pd(row + STRETCH, prefix##_fmadd_pd(s, upper, prefix##_mul_pd(c, kept[v])));           \
                kept[v] = prefix##_fmadd_pd(c, upper, prefix##_mul_pd(minus_s, kept[v]));                              \
            }                                                                                                          \
        }                                                                                                              \
        SLF_UNROLL for (int v = 0; v < STRETCH / width; v++) prefix##_storeu_pd(x + v * width, kept[v]);               \
    }
static inline plain_pd plain_mul_pd(plain_pd a, plain_pd b) {
    return a * b;
}
ROTATE(plain, , plain_pd, 2, plain)
#ifdef SLF_HAVE_X86
ROTATE(avx2, __attribute__((target("avx2,fma"))), __m256d, 4, _mm256)
#endif

/* Applies the rotations that are kept to Q^T, stretch after stretch of its columns. */
static void apply_rotations(eigen_job *e) {
    const int64_t dim = e->dim;
    for (int64_t c0 = 0; c0 < dim; c0 += STRETCH) {
        const size_t bytes = (size_t)SLF_MIN(dim - c0, STRETCH) * sizeof(double);
        for (int64_t i = 0; i < dim; i++) memcpy(e->stretch + i * STRETCH, e->q + i * dim + c0, bytes);
        for (int64_t k = 0; k < e->n_chains; k++)
            e->cpu->kernels->rotate(e->stretch + e->chains[k].first * STRETCH,
                                    (const double *)(const void *)(e->rotations + e->chains[k].at),
                                    e->chains[k].last - e->chains[k].first + 1);
        for (int64_t i = 0; i < dim; i++) memcpy(e->q + i * dim + c0, e->stretch + i * STRETCH, bytes);
    }
    e->n_chains = e->n_rotations = 0;
}

/* Eigenvalues one after another from the first row on. An element beside the diagonal is 0 when it is rounding of the
 * reflections that made T, 2^-53 |A| everywhere. */
static salf_status diagonalise(eigen_job *e) {
    const int64_t dim = e->dim;
    double *d = e->diagonal, *b = e->beside;
    double most = 0;
    b[dim - 1] = 0;
    for (int64_t i = 0; i < dim; i++) most = fmax(most, fabs(d[i]) + fabs(b[i]));
    const double rounding = DBL_EPSILON / 2 * most;
    for (int64_t low = 0; low < dim; low++)
        for (int steps = 0;; steps++) {
            int64_t high = low; /* 1. rows low ... high stand apart */
            while (high < dim - 1 && fabs(b[high]) > rounding) high++;
            if (high == low) break;
            b[high] = 0;
            if (steps == MOST_STEPS || !isfinite(d[low]) || !isfinite(b[low]))
                return e->cpu->host.services.fail(SALF_E_NUMERIC,
                                                  "eigenvalue %lld of %lld was not found in %d steps of QL",
                                                  (long long)low, (long long)dim, steps);
            if (e->n_rotations + high - low > KEPT * dim || e->n_chains == CHAINS_KEPT) {
                apply_rotations(e);
                SLF_TRY(proceed(e, 2 * dim + low));
            }
            /* 2. a step; the shift is the eigenvalue of the first 2 x 2 block that is nearer to its first element */
            ql_chain *kept = &e->chains[e->n_chains++];
            *kept = (ql_chain){.first = low, .last = high - 1, .at = e->n_rotations};
            const double slope = (d[low + 1] - d[low]) / (2 * b[low]);
            double g = d[high] - d[low] + b[low] / (slope + copysign(hypot(slope, 1), slope));
            /* The shifted T is Q L; what makes it L Q + shift, without being formed, is a bulge that rotations chase
             * from the last row to the first. moved is what a row owes to the one before it */
            double c = 1, s = 1, moved = 0;
            int64_t i = high - 1;
            for (; i >= low; i--) {
                const double bulge = s * b[i], left = c * b[i], length = hypot(bulge, g);
                b[i + 1] = length;
                if (!(length > 0)) break; /* T falls apart here: what is above comes in a later step */
                s = bulge / length;
                c = g / length;
                g = d[i + 1] - moved;
                const double r = (d[i] - g) * s + 2 * c * left;
                moved = s * r;
                d[i + 1] = g + moved;
                g = c * r - left;
                e->rotations[e->n_rotations++] = (rotation){c, s};
            }
            kept->first = i + 1;
            d[i + 1] -= moved;
            if (i < low) b[low] = g;
            b[high] = 0;
        }
    apply_rotations(e);
    return SALF_OK;
}

salf_status slf_plain_syevd(const slf_cpu *cpu, const slf_syevd_job *job) {
    const slf_services *services = &cpu->host.services;
    const int64_t dim = job->dim;
    eigen_job e = {.cpu = cpu, .dim = dim, .a = job->a, .diagonal = job->lambda};
    slf_carver block = {0};
    lay_out(&e, &block);
    void *memory = services->alloc(services->context, block.used, 1);
    if (!memory) return SALF_E_NO_MEMORY;
    block = (slf_carver){.base = memory};
    lay_out(&e, &block);
    salf_status status = SALF_OK;
    /* 1. the last two rows are tridiagonal as they are */
    const int64_t reflections = SLF_MAX(dim - 2, 0);
    for (int64_t first = 0; first < reflections && status == SALF_OK; first += BLOCK)
        status = reduce_block(&e, first, SLF_MIN(first + BLOCK, reflections));
    for (int64_t i = reflections; i < dim; i++) {
        e.diagonal[i] = e.a[i * dim + i];
        if (i + 1 < dim) e.beside[i] = e.a[i * dim + i + 1];
    }
    /* 2. from the last block, so that the part of Q^T which is not yet that of I grows from one corner */
    memset(e.q, 0, (size_t)(dim * dim) * sizeof *e.q);
    for (int64_t i = 0; i < dim; i++) e.q[i * dim + i] = 1;
    for (int64_t first = (reflections - 1) / BLOCK * BLOCK; first >= 0 && reflections > 0 && status == SALF_OK;
         first -= BLOCK)
        status = apply_reflections(&e, first, SLF_MIN(first + BLOCK, reflections));
    /* 3. rows of Q^T become those of S^T Q^T: the eigenvectors */
    if (status == SALF_OK) status = diagonalise(&e);
    if (status == SALF_OK) memcpy(job->a, e.q, (size_t)(dim * dim) * sizeof *e.q);
    services->free(services->context, memory);
    return status;
}
