/*
 * test_backend.c - slots of the backends that make a basis: scan, linear algebra, apply, and their memory.
 *
 * Oracles are the definitions, in long double. A head W = U S V^T has G = V S^2 V^T, so its pseudo-inverse is known
 * exactly from the factors: P = V S^-2 V^T over the singular values kept.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/spectrum.h"
#include "core/fingerprint.h"
#include "parity.h"

/* ---- memory ---- */

static void check_memory(const parity_case *c) {
    char bytes[16] = "state of mind", back[sizeof bytes] = {0};
    void *memory = NULL, *empty = NULL;
    CHECK_OK(c->backend->alloc(c->impl, SLF_MEMORY_BACKEND, sizeof bytes, &memory));
    CHECK_OK(c->backend->alloc(c->impl, SLF_MEMORY_BACKEND, 0, &empty));
    CHECK_OK(c->backend->copy(c->impl, memory, SALF_MEMORY_HOST, bytes, SALF_MEMORY_HOST, sizeof bytes));
    CHECK_OK(c->backend->copy(c->impl, back, SALF_MEMORY_HOST, memory, SALF_MEMORY_HOST, sizeof bytes));
    CHECK_OK(c->backend->sync(c->impl));
    ck_assert_str_eq(back, bytes);
    CHECK_OK(c->backend->fill(c->impl, memory, sizeof bytes / 8, 0));
    CHECK_OK(c->backend->copy(c->impl, back, SALF_MEMORY_HOST, memory, SALF_MEMORY_HOST, sizeof bytes));
    for (size_t i = 0; i < sizeof back; i++) ck_assert_int_eq(back[i], 0);
    CHECK_OK(c->backend->copy(c->impl, NULL, SALF_MEMORY_HOST, NULL, SALF_MEMORY_HOST, 0));
    c->backend->free(c->impl, SLF_MEMORY_BACKEND, memory);
    c->backend->free(c->impl, SLF_MEMORY_BACKEND, empty);
    c->backend->free(c->impl, SLF_MEMORY_BACKEND, NULL);
    ck_assert_int_gt((int)strlen(c->context->kernels), 0);
}

START_TEST(memory_is_copied_and_zeroed) {
    parity_backends(1, 1, check_memory);
}
END_TEST

/* ---- scan ---- */

/* A scan of rows from row number `first` on. */
static salf_status scan_of(const parity_case *c, const salf_tensor *rows, int64_t first, double *gram, uint64_t *hash,
                           int64_t *bad) {
    const slf_scan_job job = {.rows = rows, .first_row = first, .gram = gram, .hash = hash, .bad_row = bad};
    return c->backend->scan(c->impl, &job);
}

static void check_scan(const parity_case *c) {
    uint64_t seed = 1, hash = 17, expected = 17, parts = 17;
    int64_t bad = 5;
    parity_matrix x = parity_normal(&seed, c->rows, c->dim, c->dtype, c->scattered);
    float *row = parity_zeros(c->dim, sizeof *row);
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t i = 0; i < c->dim; i++) row[i] = (float)x.value[r * c->dim + i];
        expected += slf_row_hash(row, c->dim, 100 + r);
        salf_tensor one = x.view; /* row by row gives the same sum */
        const int64_t index = c->scattered ? x.index[r] : r;
        one.rows = 1;
        one.row_index = &index;
        CHECK_OK(scan_of(c, &one, 100 + r, NULL, &parts, &bad));
    }
    CHECK_OK(scan_of(c, &x.view, 100, NULL, &hash, &bad));
    ck_assert_uint_eq(hash, expected);
    ck_assert_uint_eq(parts, expected);
    ck_assert_int_eq(bad, -1);
    free(row);
    parity_matrix_free(&x);
}

START_TEST(scan_adds_row_hashes) {
    parity_each(check_scan);
}
END_TEST

static void check_scan_bad(const parity_case *c) {
    static const double bad_values[] = {NAN, INFINITY, -INFINITY};
    uint64_t seed = 2, hash = 0;
    double *values = parity_doubles(&seed, c->rows * c->dim), *gram = parity_zeros(c->dim * c->dim, sizeof *gram);
    for (int64_t r = c->rows - 1; r >= 0; r--) { /* the first of several is named */
        int64_t bad = -7;
        values[r * c->dim + (r * 5) % c->dim] = bad_values[r % 3];
        parity_matrix x = parity_matrix_of(values, c->rows, c->dim, c->dtype, c->scattered);
        CHECK_OK(scan_of(c, &x.view, 0, r % 2 ? gram : NULL, &hash, &bad));
        ck_assert_int_eq(bad, r);
        parity_matrix_free(&x);
    }
    free(values), free(gram);
}

START_TEST(scan_names_the_first_bad_row) {
    parity_each(check_scan_bad);
}
END_TEST

/* ---- gram ---- */

static void check_gram(const parity_case *c) {
    const int64_t d = c->dim;
    uint64_t seed = 3, hash = 5, alone = 5;
    int64_t bad = 5;
    parity_matrix x = parity_normal(&seed, c->rows, d, c->dtype, c->scattered);
    double *gram = parity_doubles(&seed, d * d), *before = parity_zeros(d * d, sizeof *before);
    memcpy(before, gram, (size_t)(d * d) * sizeof *gram);
    CHECK_OK(scan_of(c, &x.view, 7, gram, &hash, &bad));
    CHECK_OK(scan_of(c, &x.view, 7, NULL, &alone, &bad));
    ck_assert_uint_eq(hash, alone);
    ck_assert_int_eq(bad, -1);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++) {
            long double sum = (long double)before[i * d + j], size = fabsl(sum);
            for (int64_t r = 0; j >= i && r < c->rows; r++) {
                const long double term = (long double)x.value[r * d + i] * (long double)x.value[r * d + j];
                sum += term;
                size += fabsl(term);
            }
            const double tolerance = j < i ? 0 : (double)size * (double)(c->rows + 2) * DBL_EPSILON;
            parity_near(c, "gram", i * d + j, gram[i * d + j], (double)sum, tolerance);
        }
    free(gram), free(before);
    parity_matrix_free(&x);
}

START_TEST(gram_adds_to_the_upper_triangle) {
    parity_each(check_gram);
}
END_TEST

/* ---- factor ---- */

typedef struct {
    int64_t dim;
    double *sigma; /* [dim] */
    long double *v;
} head;

/* Singular values from 1 down to 1 / kappa, in geometric steps, times scale; the last `zeros` are 0. */
static head head_of(uint64_t *seed, int64_t dim, double kappa, int64_t zeros, double scale) {
    head w = {dim, parity_zeros(dim, sizeof(double)), parity_orthogonal(seed, dim)};
    const int64_t kept = dim - zeros;
    for (int64_t k = 0; k < kept; k++)
        w.sigma[k] = scale * (kept > 1 ? pow(kappa, -(double)k / (double)(kept - 1)) : 1);
    return w;
}

static void head_free(head *w) {
    free(w->sigma);
    free(w->v);
}

/* out [dim][dim] = V diag(weight) V^T, upper triangle only when upper. */
static void assemble(const head *w, const long double *weight, bool upper, double *out) {
    for (int64_t i = 0; i < w->dim; i++)
        for (int64_t j = 0; j < w->dim; j++) {
            long double sum = 0;
            for (int64_t k = 0; k < w->dim; k++) sum += weight[k] * w->v[k * w->dim + i] * w->v[k * w->dim + j];
            out[i * w->dim + j] = upper && j < i ? -1e30 : (double)sum;
        }
}

typedef struct {
    int64_t rank;
    double largest;  /* |P| */
    double kappa;    /* sigma_max / smallest kept */
    double smallest; /* kept */
} expectation;

/* The exact P for a request, and what is to be said of it. */
static expectation exact_inverse(const head *w, const slf_factor_request *request, double *p) {
    const bool ridge = request->mode == SALF_BASIS_RIDGE;
    const double threshold = (ridge ? sqrt((double)w->dim * DBL_EPSILON) : request->rtol) * w->sigma[0];
    expectation e = {.smallest = INFINITY};
    long double *weight = parity_zeros(w->dim, sizeof *weight);
    for (int64_t k = 0; k < w->dim; k++) {
        const long double square = (long double)w->sigma[k] * (long double)w->sigma[k];
        const bool kept = w->sigma[k] > threshold;
        e.rank += kept;
        if (kept || ridge) e.smallest = fmin(e.smallest, w->sigma[k]);
        if (kept || ridge) weight[k] = 1 / (square + (ridge ? (long double)request->ridge : 0));
        e.largest = fmax(e.largest, (double)weight[k]);
    }
    const double add = ridge ? request->ridge : 0;
    e.kappa = sqrt((w->sigma[0] * w->sigma[0] + add) * e.largest);
    assemble(w, weight, false, p);
    free(weight);
    return e;
}

static void gram_of(const head *w, double *gram) {
    long double *squares = parity_zeros(w->dim, sizeof *squares);
    for (int64_t k = 0; k < w->dim; k++) squares[k] = (long double)w->sigma[k] * (long double)w->sigma[k];
    assemble(w, squares, true, gram);
    free(squares);
}

/* The inverse of a matrix in host memory, by way of the backend's. */
static salf_status factor_of(const salf_context *context, int64_t dim, double *gram, const slf_factor_request *request,
                             slf_factor_result *result) {
    void *device = NULL;
    SLF_TRY(slf_device_copy_of(context, gram, (uint64_t)(dim * dim), sizeof *gram, &device));
    salf_status status = slf_spectrum_invert(context, dim, device, request, result);
    if (status == SALF_OK) status = slf_download(context, gram, device, (uint64_t)(dim * dim) * sizeof *gram);
    slf_device_free(context, device);
    return status;
}

/* Rounding of G to float64 is a perturbation of up to eps |G|, which moves P by eps kappa^2 |P|; algorithms add a
 * small multiple of D of that. */
static void check_factor(const parity_case *base, const head *w, const slf_factor_request *request) {
    parity_case c = *base;
    const int64_t d = c.dim = w->dim;
    double *gram = parity_zeros(d * d, sizeof *gram), *exact = parity_zeros(d * d, sizeof *exact);
    slf_factor_result result = {0};
    const expectation e = exact_inverse(w, request, exact);
    gram_of(w, gram);
    CHECK_OK(factor_of(c.context, d, gram, request, &result));
    const double noise = 4 * (double)(d + 4) * DBL_EPSILON;
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++) {
            parity_near(&c, "P", i * d + j, gram[i * d + j], exact[i * d + j], noise * e.kappa * e.kappa * e.largest);
            CHECK_EACH(gram[i * d + j] == gram[j * d + i], "P[%d][%d] is not symmetric", (int)i, (int)j);
        }
    ck_assert_msg(result.rank == e.rank, "%s: rank %lld, expected %lld (D %lld, mode %d)", c.backend->name,
                  (long long)result.rank, (long long)e.rank, (long long)d, (int)request->mode);
    /* eigenvalues are known to noise * sigma_max^2 */
    const double unsure = noise * w->sigma[0] * w->sigma[0], least = w->sigma[d - 1];
    parity_near(&c, "sigma_max^2", 0, result.sigma_max * result.sigma_max, w->sigma[0] * w->sigma[0], unsure);
    parity_near(&c, "sigma_min^2", 0, result.sigma_min * result.sigma_min, least * least, unsure);
    parity_near(&c, "kept^2", 0, result.sigma_min_kept * result.sigma_min_kept, e.smallest * e.smallest, unsure);
    ck_assert(result.method == SALF_METHOD_EIGEN || result.method == SALF_METHOD_CHOLESKY);
    free(gram), free(exact);
}

static slf_factor_request exact_request(int64_t dim) {
    return (slf_factor_request){.mode = SALF_BASIS_EXACT, .rtol = sqrt((double)dim * DBL_EPSILON)};
}

static void check_factors(const parity_case *c) {
    static const int64_t dims[] = {1, 2, 3, 8, 17, 40, 64};
    static const double kappas[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
    uint64_t seed = 4;
    for (size_t n = 0; n < sizeof dims / sizeof *dims; n++)
        for (size_t k = 0; k < sizeof kappas / sizeof *kappas; k += dims[n] < 20 ? 1 : 3)
            for (int64_t zeros = 0; zeros < 2 && zeros * 2 < dims[n]; zeros++) {
                head w = head_of(&seed, dims[n], kappas[k], zeros * dims[n] / 3, 3.5);
                slf_factor_request request = exact_request(dims[n]);
                check_factor(c, &w, &request);
                request = (slf_factor_request){.mode = SALF_BASIS_RTOL, .rtol = 3.3e-4};
                check_factor(c, &w, &request);
                request = (slf_factor_request){.mode = SALF_BASIS_RIDGE, .ridge = 1e-3};
                check_factor(c, &w, &request);
                head_free(&w);
            }
}

/* ---- the primitives, by their definitions ---- */

static void check_matvec(const parity_case *c) {
    enum { ROWS = 7, COLS = 5, N = 6 };
    uint64_t seed = 41;
    double *a = parity_doubles(&seed, ROWS * COLS), *x = parity_doubles(&seed, ROWS), *s = parity_doubles(&seed, N * N);
    for (int kind = SLF_TIMES_ROWS; kind <= SLF_TIMES_SYMMETRIC; kind++)
        for (int form = 0; form < 4; form++) {
            const double alpha = form & 1 ? -1.5 : 0, beta = form & 2 ? 0.5 : 0;
            const int rows = kind == SLF_TIMES_SYMMETRIC ? N : ROWS, cols = kind == SLF_TIMES_SYMMETRIC ? N : COLS;
            const int n = kind == SLF_TIMES_COLUMNS ? cols : rows, terms = kind == SLF_TIMES_COLUMNS ? rows : cols;
            const double *matrix = kind == SLF_TIMES_SYMMETRIC ? s : a;
            double y[ROWS + 1] = {1, 2, 3, 4, 5, 6, 7, 8}, before[ROWS + 1];
            memcpy(before, y, sizeof y);
            const slf_matvec_job job = {
                .kind = kind, .rows = rows, .cols = cols, .a = matrix, .x = x, .y = y, .alpha = alpha, .beta = beta};
            CHECK_OK(c->backend->matvec(c->impl, &job));
            for (int i = 0; i < n; i++) {
                double sum = beta * before[i];
                for (int j = 0; j < terms; j++) {
                    const int row = kind == SLF_TIMES_COLUMNS || (kind == SLF_TIMES_SYMMETRIC && i > j) ? j : i;
                    sum += alpha * matrix[row * cols + (row == i ? j : i)] * x[j];
                }
                parity_near(c, "matvec", i, y[i], sum, 1e-13);
            }
            for (int i = n; i <= ROWS; i++) ck_assert_double_eq(y[i], before[i]);
        }
    free(a), free(x), free(s);
}

START_TEST(matvec_by_the_definition) {
    parity_backends(1, 1, check_matvec);
}
END_TEST

/* A = B^T B + I, its factor, solution and inverse; -A has none; eigenvectors put A together again. */
static void check_decompositions(const parity_case *c) {
    enum { N = 9 };
    uint64_t seed = 42;
    double *b = parity_doubles(&seed, N * N), a[N * N], r[N * N], inverse[N * N], y[N], x[N], lambda[N];
    int32_t exists = 5;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i * N + j] = i == j;
            for (int k = 0; k < N; k++) a[i * N + j] += b[k * N + i] * b[k * N + j];
        }
    slf_potrf_job factor = {.dim = N, .a = a, .sign = -1, .shift = 0.5, .factor = r, .exists = &exists};
    CHECK_OK(c->backend->potrf(c->impl, &factor));
    ck_assert_int_eq(exists, 0);
    double flat[N * N]; /* of one direction less: the last pivot is 0, behind which no NaN would show it */
    for (int i = 0; i < N * N; i++) flat[i] = i % (N + 1) == 0 && i < N * N - 1;
    const slf_potrf_job singular = {.dim = N, .a = flat, .sign = 1, .factor = r, .exists = &exists};
    exists = 5;
    CHECK_OK(c->backend->potrf(c->impl, &singular));
    ck_assert_int_eq(exists, 0);
    factor.sign = 2; /* of 2 A + I / 2 */
    CHECK_OK(c->backend->potrf(c->impl, &factor));
    ck_assert_int_eq(exists, 1);
    for (int i = 0; i < N; i++)
        for (int j = i; j < N; j++) {
            double sum = 0;
            for (int k = 0; k <= i; k++) sum += r[k * N + i] * r[k * N + j];
            parity_near(c, "R^T R", i * N + j, sum, 2 * a[i * N + j] + (i == j ? 0.5 : 0), 1e-12);
        }
    for (int i = 0; i < N; i++) x[i] = i + 1;
    const slf_matvec_job solve = {.kind = SLF_SOLVE, .rows = N, .cols = N, .a = r, .x = x, .y = y, .alpha = 1};
    CHECK_OK(c->backend->matvec(c->impl, &solve));
    const slf_potri_job invert = {.dim = N, .factor = r, .inverse = inverse, .exists = &exists};
    CHECK_OK(c->backend->potri(c->impl, &invert));
    ck_assert_int_eq(exists, 1);
    for (int i = 0; i < N; i++) {
        double back = 0.5 * y[i], solution = 0;
        for (int j = 0; j < N; j++) {
            back += 2 * a[i * N + j] * y[j];
            solution += inverse[i * N + j] * x[j];
            ck_assert_double_eq(inverse[i * N + j], inverse[j * N + i]);
        }
        parity_near(c, "solved", i, back, x[i], 1e-11);
        parity_near(c, "inverse", i, solution, y[i], 1e-11);
    }
    double vectors[N * N], out[N * N];
    memcpy(vectors, a, sizeof a);
    const slf_syevd_job eigen = {.dim = N, .a = vectors, .lambda = lambda};
    CHECK_OK(c->backend->syevd(c->impl, &eigen));
    const slf_syrk_job assemble = {.dim = N, .vectors = vectors, .weights = lambda, .out = out};
    CHECK_OK(c->backend->syrk(c->impl, &assemble));
    for (int i = 0; i < N * N; i++) parity_near(c, "Q Lambda Q^T", i, out[i], a[i], 1e-12);
    free(b);
}

START_TEST(decompositions_by_the_definition) {
    parity_backends(1, 1, check_decompositions);
}
END_TEST

START_TEST(factor_is_the_pseudo_inverse) {
    parity_backends(0, 0, check_factors);
}
END_TEST

static void check_factor_large(const parity_case *c) {
    static const int64_t dims[] = {129, 200};
    uint64_t seed = 5;
    for (size_t n = 0; n < 2; n++) {
        head w = head_of(&seed, dims[n], 1e6, 0, 1e-4);
        const slf_factor_request exact = exact_request(dims[n]);
        check_factor(c, &w, &exact);
        head_free(&w);
    }
}

START_TEST(factor_of_large_ill_conditioned_heads) {
    parity_backends(0, 0, check_factor_large);
}
END_TEST

/* All singular values equal, or in two groups: eigenvectors are not unique, P is. */
static void check_factor_duplicates(const parity_case *c) {
    uint64_t seed = 6;
    head w = head_of(&seed, 24, 1, 0, 2);
    const slf_factor_request exact = exact_request(24), rtol = {.mode = SALF_BASIS_RTOL, .rtol = 0.1};
    check_factor(c, &w, &exact);
    for (int64_t k = 10; k < 24; k++) w.sigma[k] = 1e-3;
    check_factor(c, &w, &exact);
    check_factor(c, &w, &rtol);
    head_free(&w);
}

START_TEST(factor_with_equal_singular_values) {
    parity_backends(0, 0, check_factor_duplicates);
}
END_TEST

/* A graded matrix D A D with well-conditioned A: its small eigenvalues are determined to high relative accuracy, far
 * below eps * lambda_max, and Jacobi must find them. Diagonal of 10^-2k; the oracle is the reciprocal condition of A.
 */
START_TEST(jacobi_keeps_small_eigenvalues) {
    enum { N = 6 };
    double gram[N * N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) gram[i * N + j] = (i == j ? 1 : 0.1) * pow(10, -2 * (i + j));
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    const slf_factor_request request = {.mode = SALF_BASIS_EXACT, .rtol = 1e-30};
    slf_factor_result result = {0};
    CHECK_OK(factor_of(context, N, gram, &request, &result));
    ck_assert_int_eq(result.rank, N);
    /* The smallest eigenvalue of D A D is, to first order, the last pivot: 1 - r^T A'^-1 r with all off-diagonals 0.1,
     * which for n - 1 = 5 others is 1 - 5 * 0.01 / (0.9 + 5 * 0.1). */
    const double pivot = (1 - 0.05 / 1.4) * pow(10, -4 * (N - 1));
    ck_assert_double_eq_tol(result.sigma_min * result.sigma_min / pivot, 1, 1e-3);
    salf_context_destroy(context);
}
END_TEST

static void check_factor_not_finite(const parity_case *c) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++)
        for (int at = 0; at < 3; at++) {
            double gram[] = {2, 0.5, -1e30, 3};
            const slf_factor_request request = exact_request(2);
            slf_factor_result result = {0};
            gram[at == 2 ? 3 : at] = bad[k];
            CHECK_FAILS(factor_of(c->context, 2, gram, &request, &result), SALF_E_NUMERIC, "finite");
        }
}

START_TEST(factor_refuses_what_is_not_finite) {
    parity_backends(0, 0, check_factor_not_finite);
}
END_TEST

static void check_factor_zero(const parity_case *c) {
    double gram[9] = {0};
    const slf_factor_request request = exact_request(3);
    slf_factor_result result = {.rank = 7};
    CHECK_OK(factor_of(c->context, 3, gram, &request, &result));
    ck_assert_int_eq(result.rank, 0);
    ck_assert_double_eq(result.sigma_max, 0);
    ck_assert_double_eq(result.sigma_min_kept, 0);
    for (int i = 0; i < 9; i++) ck_assert_double_eq(gram[i], 0);
}

START_TEST(factor_of_zero) {
    parity_backends(0, 0, check_factor_zero);
}
END_TEST

/* Scratch beyond gram and (here) its copy in backend memory, and which method: Cholesky exactly where nothing is
 * dropped and float64 can be trusted. */
START_TEST(factor_scratch_and_method) {
    enum { D = 96 };
    uint64_t seed = 7;
    for (int dropped = 0; dropped < 2; dropped++) {
        harness_memory memory;
        salf_context *context = harness_context(SALF_BACKEND_CPU, &memory);
        head w = head_of(&seed, D, 100, dropped ? 5 : 0, 1);
        double *gram = parity_zeros(D * D, sizeof *gram);
        const slf_factor_request request = exact_request(D);
        slf_factor_result result = {0};
        gram_of(&w, gram);
        memory.most = memory.bytes;
        const int64_t before = memory.bytes;
        CHECK_OK(factor_of(context, D, gram, &request, &result));
        ck_assert_int_eq(result.method, dropped ? SALF_METHOD_EIGEN : SALF_METHOD_CHOLESKY);
        const int64_t scratch = memory.most - before, vectors = 64 * D * (int64_t)sizeof(double);
        ck_assert_msg(scratch <= 3 * D * D * (int64_t)sizeof(double) + vectors, "%lld bytes of scratch",
                      (long long)scratch);
        free(gram);
        head_free(&w);
        salf_context_destroy(context);
    }
}
END_TEST

/* ---- apply ---- */

static salf_status apply_of(const parity_case *c, slf_apply_job job) {
    return c->backend->apply(c->impl, &job);
}

static void check_apply_view(const parity_case *c, const parity_matrix *x, const double *p) {
    const int64_t d = c->dim;
    double *out = parity_zeros(c->rows * d + 1, sizeof *out), *norms = parity_zeros(c->rows + 1, sizeof *norms);
    out[c->rows * d] = norms[c->rows] = 4.25;
    double *again = parity_zeros(c->rows * d + 1, sizeof *again), *both = parity_zeros(c->rows + 1, sizeof *both);
    CHECK_OK(apply_of(c, (slf_apply_job){.p = p, .rows = &x->view, .out = out}));
    CHECK_OK(apply_of(c, (slf_apply_job){.p = p, .rows = &x->view, .norms = norms}));
    CHECK_OK(apply_of(c, (slf_apply_job){.p = p, .rows = &x->view, .out = again, .norms = both}));
    ck_assert_mem_eq(out, again, (size_t)(c->rows * d) * sizeof *out);
    ck_assert_mem_eq(norms, both, (size_t)c->rows * sizeof *norms);
    free(again), free(both);
    for (int64_t r = 0; r < c->rows; r++) {
        long double square = 0;
        double unsure = 0;
        for (int64_t j = 0; j < d; j++) {
            long double sum = 0, size = 0;
            for (int64_t i = 0; i < d; i++) {
                const long double term = (long double)x->value[r * d + i] * (long double)p[i * d + j];
                sum += term;
                size += fabsl(term);
            }
            const double tolerance = (double)(d + 2) * DBL_EPSILON * (double)size;
            parity_near(c, "apply", r * d + j, out[r * d + j], (double)sum, tolerance);
            square += sum * sum;
            unsure += tolerance;
        }
        parity_near(c, "norm", r, norms[r], (double)sqrtl(square), unsure + (double)(d + 2) * DBL_EPSILON);
    }
    ck_assert_double_eq(out[c->rows * d], 4.25);
    ck_assert_double_eq(norms[c->rows], 4.25);
    free(out), free(norms);
}

static void check_apply(const parity_case *c) {
    const int64_t d = c->dim;
    uint64_t seed = 8;
    double *p = parity_doubles(&seed, d * d);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < i; j++) p[i * d + j] = p[j * d + i];
    /* float64 rows take the turn of float16 ones that are scattered, which leave the other float16 case */
    const int32_t dtype = c->dtype == SALF_F16 && c->scattered ? SALF_F64 : c->dtype;
    parity_matrix x = parity_normal(&seed, c->rows, d, dtype, c->scattered);
    check_apply_view(c, &x, p);
    parity_matrix_free(&x);
    free(p);
}

START_TEST(apply_is_the_product) {
    parity_each(check_apply);
}
END_TEST

/* A workspace of 2 KiB: rows go through scan and apply in blocks of a few. */
START_TEST(blocks_join) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_CPU;
    options.workspace_limit = 2048;
    salf_context *context = NULL;
    CHECK_OK(salf_context_create(&context, &options));
    const parity_case c = {.context = context,
                           .backend = context->backend,
                           .impl = context->impl,
                           .dtype = SALF_F32,
                           .rows = 33,
                           .dim = 17};
    check_gram(&c);
    check_apply(&c);
    salf_context_destroy(context);
}
END_TEST

/* ---- allocation ---- */

typedef struct {
    int slot;
} failing;

static salf_status body(harness_memory *memory, int32_t backend, void *user) {
    enum { D = 12, ROWS = 5 };
    salf_context *context = NULL;
    uint64_t seed = 9, hash = 0;
    int64_t bad;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    const slf_backend *b = context->backend;
    void *impl = context->impl, *block = NULL;
    head w = head_of(&seed, D, 10, ((failing *)user)->slot == 3 ? 4 : 0, 1);
    parity_matrix x = parity_normal(&seed, ROWS, D, SALF_BF16, true);
    double p[D * D], out[ROWS * D];
    slf_factor_result result = {0};
    const slf_factor_request request = exact_request(D);
    gram_of(&w, p);
    switch (((failing *)user)->slot) {
    case 0:
        status = b->scan(impl, &(slf_scan_job){.rows = &x.view, .hash = &hash, .bad_row = &bad});
        break;
    case 1:
        status = b->scan(impl, &(slf_scan_job){.rows = &x.view, .gram = p, .hash = &hash, .bad_row = &bad});
        break;
    case 2: /* nothing dropped */
    case 3:
        status = factor_of(context, D, p, &request, &result);
        break;
    case 4:
        status = b->apply(impl, &(slf_apply_job){.p = p, .rows = &x.view, .out = out});
        break;
    case 5:
        status = b->apply(impl, &(slf_apply_job){.p = p, .rows = &x.view, .norms = out});
        break;
    default:
        status = b->alloc(impl, SLF_MEMORY_BACKEND, 64, &block);
    }
    b->free(impl, SLF_MEMORY_BACKEND, block);
    parity_matrix_free(&x);
    head_free(&w);
    salf_context_destroy(context);
    return status;
}

START_TEST(failing_allocations_leak_nothing) {
    for (int32_t id = SALF_BACKEND_REFERENCE; id <= SALF_BACKEND_CPU; id++)
        for (int slot = 0; slot <= 6; slot++) harness_fail_each_allocation(body, id, &(failing){slot});
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, memory_is_copied_and_zeroed);
    HARNESS_ADD(suite, scan_adds_row_hashes);
    HARNESS_ADD(suite, scan_names_the_first_bad_row);
    HARNESS_ADD(suite, gram_adds_to_the_upper_triangle);
    HARNESS_ADD(suite, matvec_by_the_definition);
    HARNESS_ADD(suite, decompositions_by_the_definition);
    HARNESS_ADD(suite, factor_is_the_pseudo_inverse);
    HARNESS_ADD(suite, factor_of_large_ill_conditioned_heads);
    HARNESS_ADD(suite, factor_with_equal_singular_values);
    HARNESS_ADD(suite, factor_refuses_what_is_not_finite);
    HARNESS_ADD(suite, factor_of_zero);
    HARNESS_ADD(suite, apply_is_the_product);
    if (harness_plugin()) return; /* what follows is about the backends that are built in */
    HARNESS_ADD(suite, jacobi_keeps_small_eigenvalues);
    HARNESS_ADD(suite, factor_scratch_and_method);
    HARNESS_ADD(suite, blocks_join);
    HARNESS_ADD(suite, failing_allocations_leak_nothing);
}
