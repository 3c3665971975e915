/* test_blas.c - linear algebra without a BLAS against plain loops, for every kernel of this processor; the host's own
 * functions in the place of ours. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/plain.h"
#include "core/core.h"
#include "harness.h"

/* A cpu backend of its own with the kernels of a rank, and what the plain functions take of it. */
typedef struct {
    salf_context *context;
    slf_cpu cpu;
} bench;

static bool bench_open(bench *b, int rank, int32_t threads) {
    const salf_context_options options = {
        .struct_size = sizeof options, .backend = SALF_BACKEND_CPU, .threads = threads};
    if (!slf_kernels_at(rank)) return false;
    CHECK_OK(salf_context_create(&b->context, &options));
    b->cpu = *(const slf_cpu *)b->context->impl;
    b->cpu.kernels = slf_kernels_at(rank);
    return true;
}

static void *random_numbers(int64_t n, uint64_t seed, int32_t dtype) {
    void *x = malloc((size_t)n * sizeof(double) + 1);
    for (int64_t i = 0; i < n; i++) {
        const double number = harness_normal(&seed);
        if (dtype == SALF_F64)
            ((double *)x)[i] = number;
        else
            ((float *)x)[i] = (float)number;
    }
    return x;
}

/* ---- products ---- */

static double at(const void *x, int32_t dtype, int64_t i) {
    return dtype == SALF_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

/* One shape in all forms: transposed or not, all of C or its upper triangle, alpha and beta; C outside of what is
 * wanted, and the columns beyond it, stay. */
static void check_product(const slf_cpu *cpu, int32_t dtype, int64_t m, int64_t n, int64_t k, unsigned form) {
    const int64_t a_rows = form & 1 ? k : m, a_cols = form & 1 ? m : k, b_rows = form & 2 ? n : k;
    const int64_t b_cols = form & 2 ? k : n, lda = a_cols + 3, ldb = b_cols + 1, ldc = n + 2;
    const size_t size = dtype == SALF_F64 ? sizeof(double) : sizeof(float);
    void *a = random_numbers(a_rows * lda, 1, dtype), *b = random_numbers(b_rows * ldb, 2, dtype);
    void *c = random_numbers(m * ldc, 3, dtype);
    const double beta = form & 8 ? 1 : form & 16 ? -0.5 : 0;
    if (!(form & 24)) /* C is not read */
        for (int64_t i = 0; i < m; i++) memset((char *)c + i * ldc * (int64_t)size, 0xff, (size_t)n * size);
    char *before = malloc((size_t)(m * ldc) * size + 1);
    memcpy(before, c, (size_t)(m * ldc) * size);
    const salf_product job = {.dtype = dtype,
                              .a_transposed = (int32_t)(form & 1),
                              .b_transposed = (int32_t)((form & 2) / 2),
                              .upper = (int32_t)((form & 4) / 4),
                              .m = m,
                              .n = n,
                              .k = k,
                              .a = a,
                              .b = b,
                              .c = c,
                              .a_stride = lda,
                              .b_stride = ldb,
                              .c_stride = ldc,
                              .alpha = form & 32 ? -2 : 1,
                              .beta = beta};
    CHECK_OK(slf_plain_product(cpu, &job));
    const double unit = dtype == SALF_F64 ? DBL_EPSILON : (double)FLT_EPSILON;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldc; j++) {
            const double old = at(before, dtype, i * ldc + j), got = at(c, dtype, i * ldc + j);
            double sum = 0, size_of = form & 24 ? fabs(beta * old) : 0;
            if (j >= n || (job.upper && j < i)) {
                ck_assert_mem_eq((char *)c + (size_t)(i * ldc + j) * size, before + (size_t)(i * ldc + j) * size, size);
                continue;
            }
            for (int64_t l = 0; l < k; l++) {
                const double term = at(a, dtype, form & 1 ? l * lda + i : i * lda + l) *
                                    at(b, dtype, form & 2 ? j * ldb + l : l * ldb + j);
                sum += term;
                size_of += fabs(term);
            }
            const double wanted = job.alpha * sum + (form & 24 ? beta * old : 0);
            CHECK_EACH(fabs(got - wanted) <= 4 * unit * (1 + 2 * size_of),
                       "form %u, [%d][%d][%d] at %d, %d: %.17g, wanted %.17g", form, (int)m, (int)n, (int)k, (int)i,
                       (int)j, got, wanted);
        }
    free(before);
    free(a);
    free(b);
    free(c);
}

START_TEST(products_of_every_form) {
    static const int64_t shapes[][3] = {{1, 1, 1},    {1, 40, 7},   {7, 5, 0},    {8, 32, 256},  {9, 33, 257},
                                        {17, 130, 3}, {3, 270, 40}, {40, 40, 40}, {131, 131, 70}};
    bench b;
    for (int rank = 0; bench_open(&b, rank, rank == 0 ? 3 : 0); rank++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (unsigned form = 0; form < 64; form++)
                for (int type = 0; type < 2; type++)
                    check_product(&b.cpu, type ? SALF_F64 : SALF_F32, shapes[s][0], shapes[s][1], shapes[s][2], form);
        salf_context_destroy(b.context);
    }
}
END_TEST

/* ---- factors, eigenvectors ---- */

/* X^T X / n of rows that shrink by a factor from column to column: condition grows with it. */
static double *gram_matrix(int64_t dim, double shrink) {
    const int64_t n = dim + 10;
    double *x = random_numbers(n * dim, 5, SALF_F64), *g = calloc((size_t)(dim * dim), sizeof *g);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < dim; j++) x[i * dim + j] *= pow(shrink, (double)j / (double)dim) / sqrt((double)n);
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < dim; i++)
            for (int64_t j = i; j < dim; j++) g[i * dim + j] += x[r * dim + i] * x[r * dim + j];
    free(x);
    return g;
}

static const int64_t dims[] = {1, 2, 3, 5, 31, 32, 33, 34, 63, 64, 65, 130, 200, 300};
enum { N_DIMS = sizeof dims / sizeof *dims };

START_TEST(factors_and_inverses) {
    bench b;
    for (int rank = 0; bench_open(&b, rank, rank == 0 ? 2 : 0); rank++) {
        for (int d = 0; d < N_DIMS; d++) {
            const int64_t n = dims[d];
            double *g = gram_matrix(n, 0.1), *r = malloc((size_t)(2 * n * n) * sizeof *r), *scratch = r + n * n;
            int32_t exists = -1;
            memcpy(r, g, (size_t)(n * n) * sizeof *r);
            CHECK_OK(slf_plain_potrf(&b.cpu, n, r, &exists));
            ck_assert_int_eq(exists, 1);
            for (int64_t i = 0; i < n; i++) /* R^T R = G */
                for (int64_t j = i; j < n; j++) {
                    double sum = 0;
                    for (int64_t k = 0; k <= i; k++) sum += r[k * n + i] * r[k * n + j];
                    ck_assert_double_eq_tol(sum, g[i * n + j], 1e-14 * (double)n);
                }
            double *x = random_numbers(n, 7, SALF_F64), *y = calloc((size_t)n, sizeof *y),
                   *z = malloc((size_t)n * sizeof *z);
            const slf_matvec_job times = {
                .kind = SLF_TIMES_SYMMETRIC, .rows = n, .cols = n, .a = g, .x = x, .y = y, .alpha = 1};
            CHECK_OK(slf_plain_matvec(&b.cpu, &times));
            for (int64_t i = 0; i < n; i++) {
                double sum = 0;
                for (int64_t j = 0; j < n; j++) sum += (j < i ? g[j * n + i] : g[i * n + j]) * x[j];
                ck_assert_double_eq_tol(y[i], sum, 1e-13 * (double)n);
            }
            const slf_matvec_job solve = {.kind = SLF_SOLVE, .rows = n, .cols = n, .a = r, .x = y, .y = z, .alpha = 1};
            CHECK_OK(slf_plain_matvec(&b.cpu, &solve));
            for (int64_t i = 0; i < n; i++) ck_assert_double_eq_tol(z[i], x[i], 1e-8);
            CHECK_OK(slf_plain_potri(&b.cpu, n, r, scratch, &exists));
            ck_assert_int_eq(exists, 1);
            for (int64_t i = 0; i < n; i++) /* row i of the inverse times G */
                for (int64_t j = 0; j < n; j++) {
                    double sum = 0;
                    for (int64_t k = 0; k < n; k++)
                        sum += (k < i ? r[k * n + i] : r[i * n + k]) * (j < k ? g[j * n + k] : g[k * n + j]);
                    ck_assert_double_eq_tol(sum, i == j, 1e-8);
                }
            /* without one: the last pivot is negative, not a number, or 0 behind those of I */
            for (int bad = 0; bad < 3; bad++) {
                memcpy(r, g, (size_t)(n * n) * sizeof *r);
                for (int64_t i = 0; bad == 2 && i < n * n; i++) r[i] = i % (n + 1) == 0;
                r[n * n - 1] = bad == 0 ? -1 : bad == 1 ? (double)NAN : 0;
                CHECK_OK(slf_plain_potrf(&b.cpu, n, r, &exists));
                ck_assert_int_eq(exists, 0);
                CHECK_OK(slf_plain_potri(&b.cpu, n, r, scratch, &exists));
                ck_assert_int_eq(exists, 0);
            }
            free(z);
            free(y);
            free(x);
            free(r);
            free(g);
        }
        salf_context_destroy(b.context);
    }
}
END_TEST

START_TEST(products_with_vectors) {
    bench b;
    ck_assert(bench_open(&b, 0, 0));
    double *a = random_numbers(7 * 19, 1, SALF_F64), *x = random_numbers(19, 2, SALF_F64), y[19], before[19];
    for (int columns = 0; columns < 2; columns++)
        for (int form = 0; form < 4; form++) {
            const double alpha = form & 1 ? -2 : 0, beta = form & 2 ? 0.5 : 0;
            const int64_t n = columns ? 19 : 7, terms = columns ? 7 : 19;
            for (int64_t i = 0; i < n; i++) y[i] = before[i] = beta > 0 ? (double)i : (double)NAN;
            const slf_matvec_job job = {.kind = columns ? SLF_TIMES_COLUMNS : SLF_TIMES_ROWS,
                                        .rows = 7,
                                        .cols = 19,
                                        .a = form & 1 ? a : NULL,
                                        .x = form & 1 ? x : NULL,
                                        .y = y,
                                        .alpha = alpha,
                                        .beta = beta};
            CHECK_OK(slf_plain_matvec(&b.cpu, &job));
            for (int64_t i = 0; i < n; i++) {
                double sum = beta > 0 ? beta * before[i] : 0;
                for (int64_t j = 0; j < terms && form & 1; j++)
                    sum += alpha * (columns ? a[j * 19 + i] : a[i * 19 + j]) * x[j];
                ck_assert_double_eq_tol(y[i], sum, 1e-13);
            }
        }
    free(x);
    free(a);
    salf_context_destroy(b.context);
}
END_TEST

/* A V^T = V^T Lambda and V V^T = I, both to a few D 2^-52 |A|. */
static void check_eigen(const slf_cpu *cpu, int64_t n, const double *a) {
    double *v = malloc((size_t)(n * n) * sizeof *v), *lambda = malloc((size_t)n * sizeof *lambda), size = 0, off = 0;
    memcpy(v, a, (size_t)(n * n) * sizeof *v);
    CHECK_OK(slf_plain_syevd(cpu, &(slf_syevd_job){.dim = n, .a = v, .lambda = lambda}));
    for (int64_t i = 0; i < n; i++) size = fmax(size, fabs(lambda[i]));
    for (int64_t k = 0; k < n; k++)
        for (int64_t i = 0; i < n; i++) {
            double sum = -lambda[k] * v[k * n + i], product = i == k ? -1 : 0;
            for (int64_t j = 0; j < n; j++) sum += (j < i ? a[j * n + i] : a[i * n + j]) * v[k * n + j];
            for (int64_t j = 0; j < n; j++) product += v[k * n + j] * v[i * n + j];
            off = fmax(off, fabs(sum));
            CHECK_EACH(fabs(product) <= 4 * DBL_EPSILON * (double)n + 1e-14, "%d vectors: %d . %d is off by %g", (int)n,
                       (int)k, (int)i, product);
        }
    CHECK_EACH(off <= (4 * DBL_EPSILON * (double)n + 1e-14) * size, "%d: |A v - lambda v| is %g of %g", (int)n, off,
               size);
    free(lambda);
    free(v);
}

START_TEST(eigenvectors) {
    bench b;
    for (int rank = 0; bench_open(&b, rank, rank == 0 ? 2 : 0); rank++) {
        for (int d = 0; d < N_DIMS; d++) {
            const int64_t n = dims[d];
            double *a = random_numbers(n * n, 9, SALF_F64);
            check_eigen(&b.cpu, n, a); /* of both signs */
            double *g = gram_matrix(n, 1e-9);
            check_eigen(&b.cpu, n, g); /* over eighteen orders */
            for (int64_t i = 0; i < n * n; i++) g[i] *= 1e-60;
            check_eigen(&b.cpu, n, g);
            memset(g, 0, (size_t)(n * n) * sizeof *g);
            check_eigen(&b.cpu, n, g); /* zero */
            for (int64_t i = 0; i < n; i++) g[i * n + i] = (double)(i % 3);
            check_eigen(&b.cpu, n, g); /* diagonal, three values many times */
            for (int64_t i = 0; i < n * n; i++) g[i] = 1;
            check_eigen(&b.cpu, n, g); /* rank one */
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++) g[i * n + j] = j == i ? 2 : j == i + 1 ? -1 : 0;
            check_eigen(&b.cpu, n, g); /* tridiagonal as it is */
            free(g);
            free(a);
        }
        salf_context_destroy(b.context);
    }
}
END_TEST

START_TEST(no_eigenvectors_of_what_is_not_a_number) {
    bench b;
    ck_assert(bench_open(&b, 0, 0));
    double a[9] = {1, NAN, 3, 0, 2, 5, 0, 0, 1}, lambda[3];
    const slf_syevd_job job = {.dim = 3, .a = a, .lambda = lambda};
    const salf_status status = slf_plain_syevd(&b.cpu, &job);
    /* An error, or numbers that are none: never a plausible spectrum. */
    ck_assert(status == SALF_E_NUMERIC || isnan(lambda[0] + lambda[1] + lambda[2]));
    salf_context_destroy(b.context);
}
END_TEST

/* ---- the host's own ---- */

typedef struct {
    int64_t products, factors, fail_product, fail_factor; /* fail_...: the call that fails, from 1; 0: none */
    int64_t uppers, transposed, f32;
} host_calls;

/* As slow as can be, and rounded at every step: what a host may bring along. */
static int32_t host_product(void *user, const salf_product *p) {
    host_calls *calls = user;
    if (++calls->products == calls->fail_product) return 17;
    calls->uppers += p->upper;
    calls->transposed += p->b_transposed;
    calls->f32 += p->dtype == SALF_F32;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double sum = 0;
            float rounded = 0;
            for (int64_t k = 0; k < p->k; k++) {
                const double a = at(p->a, p->dtype, p->a_transposed ? k * p->a_stride + i : i * p->a_stride + k);
                const double x = at(p->b, p->dtype, p->b_transposed ? j * p->b_stride + k : k * p->b_stride + j);
                sum += a * x;
                rounded += (float)(a * x);
            }
            const int64_t c = i * p->c_stride + j;
            if (p->dtype == SALF_F64)
                ((double *)p->c)[c] = p->alpha * sum + (p->beta > 0 ? p->beta * ((double *)p->c)[c] : 0);
            else
                ((float *)p->c)[c] = rounded;
        }
    return 0;
}

static int32_t host_potrf(void *user, int64_t n, double *a, int32_t *exists) {
    host_calls *calls = user;
    if (++calls->factors == calls->fail_factor) return -3;
    *exists = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(a[i * n + i] > 0)) return 0;
        const double root = sqrt(a[i * n + i]);
        for (int64_t j = i; j < n; j++) a[i * n + j] /= root;
        for (int64_t p = i + 1; p < n; p++)
            for (int64_t j = p; j < n; j++) a[p * n + j] -= a[i * n + p] * a[i * n + j];
    }
    *exists = 1;
    return 0;
}

/* Deviations of 8 states by ce, and a loss with its gradient, by the context's linear algebra: every product there is. */
enum { V = 90, D = 24, ROWS = 8 };
typedef struct {
    double deviations[2 * ROWS];
    float losses[ROWS], gradient[ROWS * D];
} results;

static salf_status run(salf_context *context, float *head, double rtol, results *out) {
    static const int32_t labels[ROWS] = {1, 2, 3, 50, 51, 52, 88, 89};
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_loss *loss = NULL;
    salf_trace trace;
    const salf_tensor states = slf_tensor_host(head + D / 2, SALF_F32, ROWS, D);
    const salf_tensor losses = slf_tensor_host(out->losses, SALF_F32, ROWS, 1);
    const salf_tensor gradient = slf_tensor_host(out->gradient, SALF_F32, ROWS, D);
    const salf_model_options model_options = {.struct_size = sizeof model_options,
                                              .n_layers = 1,
                                              .hidden = D,
                                              .vocab = V,
                                              .head = slf_tensor_host(head, SALF_F32, V, D)};
    const salf_basis_options basis_options = {.struct_size = sizeof basis_options, .rtol = rtol};
    const salf_probe_options probe_options = {.struct_size = sizeof probe_options, .metric = SALF_METRIC_CE};
    const salf_loss_options loss_options = {.struct_size = sizeof loss_options, .kind = SALF_LOSS_CE};
    salf_status status;
    SLF_DO(salf_model_create(&model, context, &model_options));
    SLF_DO(salf_basis_create(&basis, model, labels, ROWS, &basis_options));
    SLF_DO(salf_probe_create(&probe, basis, &probe_options));
    SLF_DO(salf_probe_begin(probe, labels, ROWS));
    SLF_DO(salf_probe_observe(probe, 0, &states, SALF_STATE_RAW));
    SLF_DO(salf_probe_observe(probe, 1, &states, SALF_STATE_NORMED));
    SLF_DO(salf_probe_end(probe, &trace));
    memcpy(out->deviations, trace.deviations, sizeof out->deviations);
    SLF_DO(salf_loss_create(&loss, basis, &loss_options));
    SLF_DO(salf_loss_compute(loss, labels, &states, 1, &losses, &gradient));
done:
    salf_loss_destroy(loss);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    return status;
}

START_TEST(functions_of_the_host) {
    host_calls calls = {0};
    salf_blas blas = {
        .struct_size = sizeof blas, .user = &calls, .name = "slow", .product = host_product, .potrf = host_potrf};
    salf_context_options options = {.struct_size = sizeof options, .backend = SALF_BACKEND_CPU};
    salf_context *own = NULL, *with = NULL;
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_context_create(&own, &options));
    CHECK_OK(salf_context_get_info(own, &info));
    ck_assert_str_eq(info.blas, slf_cpu_blas_name());
    options.blas = &blas;
    CHECK_OK(salf_context_create(&with, &options));
    CHECK_OK(salf_context_get_info(with, &info));
    ck_assert_str_eq(info.blas, "slow");
    float head[V * D];
    uint64_t seed = 3;
    for (int i = 0; i < V * D; i++) head[i] = (float)harness_normal(&seed);
    for (int eigen = 0; eigen < 2; eigen++) { /* a tolerance that drops something needs eigenvectors */
        results a, b;
        const host_calls before = calls;
        CHECK_OK(run(own, head, eigen ? 0.5 : 0, &a));
        CHECK_OK(run(with, head, eigen ? 0.5 : 0, &b));
        ck_assert_int_gt(calls.products, before.products);
        ck_assert_int_gt(calls.factors, before.factors);
        ck_assert_int_gt(calls.uppers, before.uppers);
        ck_assert_int_gt(calls.f32, before.f32);
        for (int i = 0; i < 2 * ROWS; i++) ck_assert_double_eq_tol(a.deviations[i], b.deviations[i], 1e-5);
        for (int i = 0; i < ROWS; i++) ck_assert_float_eq_tol(a.losses[i], b.losses[i], 1e-4f);
        for (int i = 0; i < ROWS * D; i++) ck_assert_float_eq_tol(a.gradient[i], b.gradient[i], 1e-4f);
    }
    /* each call that fails is told, whichever it is; the next run succeeds */
    calls = (host_calls){0};
    results out;
    CHECK_OK(run(with, head, 0.5, &out));
    const host_calls all = calls;
    for (int64_t i = 1; i <= all.products; i++) {
        calls = (host_calls){.fail_product = i};
        CHECK_FAILS(run(with, head, 0.5, &out), SALF_E_CALLBACK, "product of 'slow' returned 17");
    }
    for (int64_t i = 1; i <= all.factors; i++) {
        calls = (host_calls){.fail_factor = i};
        CHECK_FAILS(run(with, head, 0.5, &out), SALF_E_CALLBACK, "potrf of 'slow' returned -3");
    }
    calls = (host_calls){0};
    CHECK_OK(run(with, head, 0.5, &out));
    salf_context_destroy(with);
    salf_context_destroy(own);
}
END_TEST

START_TEST(what_is_no_blas) {
    salf_blas blas = {.struct_size = sizeof blas, .potrf = host_potrf};
    salf_context_options options = {.struct_size = sizeof options, .blas = &blas};
    salf_context *context = NULL;
    salf_context_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_context_create(&context, &options)); /* AUTO is cpu, and one of the two is enough */
    CHECK_OK(salf_context_get_info(context, &info));
    ck_assert_int_eq(info.backend, SALF_BACKEND_CPU);
    ck_assert_str_eq(info.blas, "host");
    salf_context_destroy(context);
    context = NULL;
    options.backend = SALF_BACKEND_REFERENCE;
    CHECK_FAILS(salf_context_create(&context, &options), SALF_E_ARGUMENT, "not for reference");
    options.backend = SALF_BACKEND_CPU;
    blas.reserved = 5;
    CHECK_FAILS(salf_context_create(&context, &options), SALF_E_ARGUMENT, "reserved of salf_blas is 5");
    blas = (salf_blas){.struct_size = sizeof blas};
    CHECK_FAILS(salf_context_create(&context, &options), SALF_E_NULL, "neither product nor potrf");
    blas = (salf_blas){.struct_size = 3};
    CHECK_FAILS(salf_context_create(&context, &options), SALF_E_STRUCT, "salf_blas: struct_size is 3");
    ck_assert_ptr_null(context);
}
END_TEST

/* In the place of BLAS's own, for this program: the number of the largest element, from 1, in sizes of 32 or 64 bits. */
static bool wide_sizes;
int idamax_(const int *n, const double *x, const int *step);
int idamax_(const int *n, const double *x, const int *step) {
    int64_t count = *n;
    int largest = 0;
    if (wide_sizes) memcpy(&count, n, sizeof count);
    for (int i = 0; i < count; i++)
        if (largest == 0 || fabs(x[i * *step]) > fabs(x[(largest - 1) * *step])) largest = i + 1;
    return largest;
}

START_TEST(sizes_of_64_bits) {
    const salf_context_options options = {.struct_size = sizeof options, .backend = SALF_BACKEND_CPU};
    salf_context *context = NULL;
    wide_sizes = true;
    if (strcmp(slf_cpu_blas_name(), "plain") != 0) {
        CHECK_FAILS(salf_context_create(&context, &options), SALF_E_BACKEND, "does not take sizes of 32 bits");
        CHECK_FAILS(salf_context_create(&context, NULL), SALF_E_BACKEND, "ILP64");
        ck_assert_ptr_null(context);
    }
    wide_sizes = false;
    CHECK_OK(salf_context_create(&context, &options));
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, products_of_every_form);
    HARNESS_ADD(suite, factors_and_inverses);
    HARNESS_ADD(suite, products_with_vectors);
    HARNESS_ADD(suite, eigenvectors);
    HARNESS_ADD(suite, no_eigenvectors_of_what_is_not_a_number);
    HARNESS_ADD(suite, functions_of_the_host);
    HARNESS_ADD(suite, what_is_no_blas);
    HARNESS_ADD(suite, sizes_of_64_bits);
}
