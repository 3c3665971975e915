/*
 * cpu.h - what the files of the cpu backend share: kernels by instruction set, BLAS under the context's thread count,
 * and the two ways to scores.
 *
 * A slot converts rows block by block, hands matrix products to BLAS, and does by hand only what BLAS has no call for:
 * sums over rows of any element type, exponentials, and products that are used while they are still in the cache.
 * Threads change no result: work is cut by shapes alone, and partial sums are added in order.
 */
#ifndef SALF_CPU_H
#define SALF_CPU_H

#include <stdbool.h>

#include "../reference/reference.h"

/* gcc does not align the stack for vectors of 32 bytes on Windows (its bug 54412): plain vectors there. */
#if defined(__GNUC__) && defined(__x86_64__) && !defined(_WIN32)
#define SLF_HAVE_X86 1
#endif

/* 1/13! ... 1/0!, for exp. */
#define SLF_INVERSE_FACTORIALS                                                                               \
    1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, \
        1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0

/* Sums over rows of states run in float32 lanes over this many elements, and in float64 between such pieces. */
#define SLF_PIECE 1024

/* x_i = ((h_i - high) - low) * scale * weight_i + bias_i; the shift is in two parts to keep what float32 would lose. */
typedef struct slf_affine {
    float high, low, scale;
    const float *weight, *bias;
} slf_affine;

typedef struct slf_pair {
    double first, second;
} slf_pair;

/* Products of register blocks (block.h), and what scores by panels are made of (score_panels.h). */
typedef struct slf_block_kernel slf_block_kernel;
typedef struct slf_panel_job slf_panel_job;
typedef struct slf_panel_sums slf_panel_sums;

/* Inner loops for one instruction set. Everything that depends on the processor is in this table, and is chosen with
 * it, once, when a context is created. */
typedef struct slf_kernels {
    const char *name;                  /* as SALF_KERNELS and salf_context_info give it */
    const slf_block_kernel *blocks[2]; /* of float32 and of float64 */
    /* Takes products q [n][columns] of block rows i0 ... i0+n-1, n <= SLF_PANEL_TILE, into the sums of panel p. NULL:
     * scores go through BLAS. */
    void (*collect)(const slf_panel_job *job, const float *q, int64_t i0, int64_t n, int64_t p, slf_panel_sums *sums);
    /* Rotations of neighbouring rows x [n + 1][SLF_ROTATED], from the last pair to the first: with pair i, (c, s) =
     * rotations[2 i ...], rows x_k, x_k+1 become c x_k - s x_k+1 and s x_k + c x_k+1. */
    void (*rotate)(double *x, const double *rotations, int64_t n);
    /* n elements of a dtype (F32, BF16, F16) as float32. */
    void (*widen)(const void *in, int32_t dtype, int64_t n, float *out);
    /* Sums over a row h [n] of the types above. affine NULL: sum h b and sum h^2; basis row b NULL: sum x and sum x^2
     * with x = (h - high) - low; neither NULL: sum x b and sum x^2 with the whole of affine. next: the row that will be
     * asked for after this one, a hint. */
    slf_pair (*reduce)(const void *row, int32_t dtype, int64_t n, const slf_affine *affine, const float *b,
                       const void *next);
    /* x_i = exp(x_i), to 2 ulp for results that are normal numbers. */
    void (*exp)(double *x, int64_t n);
    /* The same, and sum x_i and sum x_i s_i. */
    slf_pair (*exp_sums)(double *x, const double *s, int64_t n);
} slf_kernels;

extern const slf_kernels slf_kernels_plain; /* run everywhere */
enum { SLF_ROTATED = 16 };
void slf_rotate_plain(double *x, const double *rotations, int64_t n);
extern const slf_block_kernel slf_block_plain_f32, slf_block_plain_f64;
#ifdef SLF_HAVE_X86
slf_pair slf_reduce_avx2(const void *row, int32_t dtype, int64_t n, const slf_affine *affine, const float *b,
                         const void *next);
void slf_collect_avx2(const slf_panel_job *job, const float *q, int64_t i0, int64_t n, int64_t p, slf_panel_sums *sums);
void slf_widen_avx2(const void *in, int32_t dtype, int64_t n, float *out);
void slf_exp_avx2(double *x, int64_t n);
slf_pair slf_exp_sums_avx2(double *x, const double *s, int64_t n);
void slf_rotate_avx2(double *x, const double *rotations, int64_t n);
extern const slf_block_kernel slf_block_avx2_f32, slf_block_avx2_f64, slf_block_avx512_f32, slf_block_avx512_f64;
#endif

/* Kernels that this processor can run, the fastest first; NULL past the last. */
const slf_kernels *slf_kernels_at(int rank);
/* The fastest, or those that the environment variable SALF_KERNELS names, so that a machine can give another one's
 * bits. SALF_E_BACKEND, with the names there are, for one that this processor does not have. */
salf_status slf_kernels_choose(const slf_services *services, const slf_kernels **out);

typedef struct slf_cpu {
    slf_host host; /* first: slots of the reference take this self */
    const slf_kernels *kernels;
    const char *blas_name;
    int64_t stretch; /* longest chain of additions in a float32 product of slf_cpu_product */
} slf_cpu;

/* What the cpu backend does in its own way; the rest is the reference's. */
salf_status slf_cpu_open(void **self, const slf_services *services, const char **kernels);
salf_status slf_cpu_scan SLF_JOB_ARGUMENTS(scan);
salf_status slf_cpu_matvec SLF_JOB_ARGUMENTS(matvec);
salf_status slf_cpu_potrf SLF_JOB_ARGUMENTS(potrf);
salf_status slf_cpu_potri SLF_JOB_ARGUMENTS(potri);
salf_status slf_cpu_syevd SLF_JOB_ARGUMENTS(syevd);
salf_status slf_cpu_syrk SLF_JOB_ARGUMENTS(syrk);
salf_status slf_cpu_apply SLF_JOB_ARGUMENTS(apply);
salf_status slf_cpu_query SLF_JOB_ARGUMENTS(query);
salf_status slf_cpu_cosine SLF_JOB_ARGUMENTS(cosine);
salf_status slf_cpu_score SLF_JOB_ARGUMENTS(score);

/* ---- linear algebra: by CBLAS and LAPACK (blas.c), or without (plain.h) ---- */

/* Made twice, as slf_blas_... and slf_plain_...; SLF_BUILT_IN has those that the library is built with. potrf and potri
 * leave their result in the upper triangle of r; scratch [dim][dim]. */
#define SLF_LINEAR_ALGEBRA(prefix)                                                                           \
    salf_status prefix##product(const slf_cpu *cpu, const salf_product *job);                                \
    salf_status prefix##matvec(const slf_cpu *cpu, const slf_matvec_job *job);                               \
    salf_status prefix##potrf(const slf_cpu *cpu, int64_t dim, double *r, int32_t *exists);                  \
    salf_status prefix##potri(const slf_cpu *cpu, int64_t dim, double *r, double *scratch, int32_t *exists); \
    salf_status prefix##syevd(const slf_cpu *cpu, const slf_syevd_job *job);
SLF_LINEAR_ALGEBRA(slf_blas_)
SLF_LINEAR_ALGEBRA(slf_plain_)
#ifdef SALF_PLAIN_BLAS
#define SLF_BUILT_IN(name) slf_plain_##name
#else
#define SLF_BUILT_IN(name) slf_blas_##name
#endif
/* By the host's function where it gave one, else by our own. */
salf_status slf_product(const slf_cpu *cpu, const salf_product *job,
                        salf_status (*own)(const slf_cpu *, const salf_product *));
#define slf_cpu_product(cpu, job) slf_product((cpu), (job), SLF_BUILT_IN(product))
/* out [dim][dim] = beta out + X^T X of rows x [n][dim] in float64; the upper triangle. */
salf_status slf_cpu_square(const slf_cpu *cpu, const double *x, int64_t n, int64_t dim, double beta, double *out);

/* ---- factors and inverses of either, by blocks: factor.c ---- */

/* What they are made of; strides count numbers. */
typedef struct slf_factor_parts {
    int64_t block; /* rows of a block */
    salf_status (*product)(const slf_cpu *cpu, const salf_product *job);
    /* The factor of a block [n][n] in its place; *exists 0 where it has none. */
    salf_status (*diagonal)(const slf_cpu *cpu, int64_t n, double *block, int64_t stride, int32_t *exists);
    /* X [n][cols] := R^-T X for a factor R [n][n], upper, which has X's stride. */
    void (*forward)(const slf_cpu *cpu, const double *r, int64_t n, double *x, int64_t stride, int64_t cols);
} slf_factor_parts;
/* Columns that a step of the inverse takes at a time, to skip the zeros of a triangle. */
enum { SLF_FACTOR_CHUNK = 256 };
/* A = R^T R, of which the upper triangle is read, R in its place, as far as it was made where there is none. */
salf_status slf_potrf_by_blocks(const slf_cpu *cpu, const slf_factor_parts *by, int64_t dim, double *r,
                                int32_t *exists);
/* The upper triangle of (R^T R)^-1 in place of R; scratch [dim][dim]. */
salf_status slf_potri_by_blocks(const slf_cpu *cpu, const slf_factor_parts *by, int64_t dim, double *r, double *scratch,
                                int32_t *exists);

/* How many threads BLAS has, as the host left it; 1 where it does not say. */
#ifndef SALF_PLAIN_BLAS
int slf_blas_threads(void);
/* Whether BLAS takes sizes as this library gives them: SALF_E_BACKEND where not. */
salf_status slf_blas_check(const slf_services *services);
#else
#define slf_blas_threads()       1
#define slf_blas_check(services) SALF_OK
#endif
/* Multiply-adds that one processor does in a millisecond. Threads that OpenBLAS wakes wait for more by spinning, for
 * twenty times as long, so that smaller products cost whole processors and save nothing that could be noticed. */
#define SLF_SMALL_WORK ((int64_t)1 << 24)

/* The longest chain of additions in a float32 product of D elements that is made in stretches, whose sums are added:
 * panels have stretches of 256 elements, OpenBLAS such of at most 1024. */
enum { SLF_PANEL_STRETCH = 256, SLF_BLAS_STRETCH = 1024 };
static inline int64_t slf_f32_chain(int64_t dim, int64_t stretch) {
    return (dim < stretch ? dim : stretch) + dim / SLF_PANEL_STRETCH;
}

/* A job of score for some rows of its query, all float32 products or all float64. */
typedef struct slf_score_call {
    const slf_cpu *cpu;
    const slf_score_job *job;
    const int32_t *rows; /* [n_rows] rows of the query, and of sums */
    int64_t n_rows;
} slf_score_call;

/* Float32 products without BLAS, and no vector: how many of n rows of D elements one call can take with a block of
 * rows; 0 where it does not serve. */
int64_t slf_score_panels_rows(const slf_cpu *cpu, int64_t n, int64_t dim, int64_t block);
salf_status slf_score_panels(const slf_score_call *call);

#endif
