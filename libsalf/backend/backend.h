/*
 * backend.h - the dispatch table between the handles of libsalf and the code that computes.
 *
 * SLF_SLOTS below is the one list of what a backend can do. The table's members, the prototypes of each backend's
 * functions (slf_<backend>_<slot>) and the tables themselves are made from it. To add a slot you write its job and its
 * line here, a function in reference/, one in the backend that can do it faster, and the call. The cpu backend takes
 * the reference's function wherever it names none of its own; cuda, whose memory the reference cannot read, has all.
 *
 * A plugin is built for one library: abi_version and size must be equal on both sides (plugin.c), so that slots may be
 * added, removed and reordered as long as SLF_BACKEND_ABI is raised.
 *
 * "Backend memory" is what the backend's alloc gives: host memory for reference and cpu, device memory for cuda.
 * Pointers in jobs are to backend memory unless a comment says "host"; salf_tensor arguments say themselves where they
 * lie, and a backend that has SLF_CAN_DEVICE must take both. On a device every slot enqueues on the host's stream and
 * returns. Only these wait: sync, wait, free, slots that give host results, and slots that are given views of host
 * memory. What a job points to must stay until the stream has passed it; the job itself only until the slot returns.
 * Slots check nothing that their callers in libsalf have checked: pointers, shapes, dtypes, labels. They may be called
 * from several threads at once. Errors of BLAS, LAPACK and devices are mapped to a salf_status, with the message set
 * through services->fail.
 */
#ifndef SALF_BACKEND_H
#define SALF_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "salf.h"

/* NaN, infinity and the order of a sum mean something here: a zero state is NaN, a bad row is found by isfinite, and
 * all ranks must get the same bits. That sums may be put in another order (as by -Ofast -fno-finite-math-only) gcc
 * tells from its version 12 on, clang never. */
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__ASSOCIATIVE_MATH__)
#error "libsalf cannot be built with -ffast-math, -Ofast or parts of them: it has to see NaN, and to sum in order"
#endif

#if UINTPTR_MAX < UINT64_MAX
#error "libsalf needs a system of 64 bits: sizes of D * D numbers are counted in 64 bits everywhere"
#endif

#define SLF_BACKEND_ABI 5

/* Capabilities. */
enum { SLF_CAN_DEVICE = 1 /* reads device memory */ };

/* What alloc makes and free gives back. Pinned memory is host memory that copies reach without a stall (page-locked,
 * for a device). Events are made by mark. */
enum { SLF_MEMORY_BACKEND = 0, SLF_MEMORY_PINNED = 1, SLF_EVENT = 2 };

/* What a backend may ask of the library; the plugin links nothing of it. */
typedef struct slf_services {
    const salf_context_options *options; /* defaults filled in; alive as long as the backend is open */
    salf_status (*fail)(salf_status status, const char *format, ...);
    void *(*alloc)(const salf_context *context, uint64_t count,
                   uint64_t size); /* host memory, 64-byte aligned, NULL + message */
    void (*free)(const salf_context *context, void *memory);
    void (*parallel_for)(const salf_context *context, int64_t count, int64_t grain,
                         void (*body)(void *user, int64_t first, int64_t last), void *user);
    salf_status (*proceed)(const salf_context *context, const char *what, int64_t done, int64_t total);
    const salf_context *context; /* first argument of the four above */
} slf_services;

/* The final norm, applied to a state before it is compared. weight and bias [D] in backend memory, NULL: ones, zeros;
 * RMS1P is folded into weight, so kind is SALF_NORM_NONE, LAYER or RMS. */
typedef struct slf_norm {
    int32_t kind;
    float eps;
    const float *weight;
    const float *bias;
} slf_norm;

/* ---- the head: jobs that make a basis ---- */

/* One pass over rows X [n][D] of a matrix: their fingerprint, whether they are finite, and their Gram matrix. */
typedef struct slf_scan_job {
    const salf_tensor *rows;
    int64_t first_row; /* number of rows' first one in its matrix; the hash of a row depends on its number */
    double *gram;      /* NULL, or float64 [D][D]: G += X^T X, upper triangle (j >= i) only; useless after a bad row */
    uint64_t *hash;    /* host: the rows' hashes are added to it. See core/fingerprint.h */
    int64_t *bad_row;  /* host: the first row with NaN or infinity, counted in rows; -1: none */
    int64_t total;     /* rows of the matrix, of which the host is told how far it has come */
} slf_scan_job;

/* Y [n][D] = X P, in float64, and what is wanted of it. */
typedef struct slf_apply_job {
    const double *p;         /* [D][D] symmetric; NULL: Y = X */
    const salf_tensor *rows; /* X, also SALF_F64 */
    double *out;             /* NULL, or Y; does not overlap rows */
    double *norms;           /* NULL, or [n]: |y_i|, or that of the rounded row where rounded is wanted */
    float *rounded;          /* NULL, or Y in float32, with 0 for rows of |y_i| <= noise |x_i| */
    double noise;            /* for rounded. A row that is not finite gives a norm that is not */
} slf_apply_job;

/* ---- linear algebra: what a Gram matrix is inverted with (spectrum.c) ---- */

/* Matrices are row-major and float64. Of symmetric matrices and of Cholesky factors R, A = R^T R, only the upper
 * triangle (j >= i) is read and made, unless a comment says full. */

enum {
    SLF_TIMES_ROWS = 0,      /* y [rows] = alpha A x + beta y */
    SLF_TIMES_COLUMNS = 1,   /* y [cols] = alpha A^T x + beta y */
    SLF_TIMES_SYMMETRIC = 2, /* y = alpha A x + beta y, A symmetric [rows][rows] */
    SLF_SOLVE = 3            /* y = (R^T R)^-1 x, a = R [rows][rows]; alpha is 1, beta 0 */
};

/* x and y do not overlap. With alpha 0 a and x are not read, with beta 0 y is not. */
typedef struct slf_matvec_job {
    int32_t kind;
    int32_t reserved;
    int64_t rows, cols; /* of a */
    const double *a;
    const double *x;
    double *y;
    double alpha, beta;
} slf_matvec_job;

/* The Cholesky factor of sign * A + shift * I, where there is one: that is so exactly (but for rounding) where all its
 * eigenvalues are positive. */
typedef struct slf_potrf_job {
    int64_t dim;
    const double *a; /* [dim][dim] */
    double sign, shift;
    double *factor;  /* [dim][dim] */
    int32_t *exists; /* host: 0 or 1 */
} slf_potrf_job;

/* The inverse of R^T R. */
typedef struct slf_potri_job {
    int64_t dim;
    double *factor;  /* R, of no use afterwards */
    double *inverse; /* [dim][dim] full; as it was where there is none */
    int32_t *exists; /* host: 0 or 1 */
} slf_potri_job;

/* Eigenvalues, in any order, and eigenvectors. SALF_E_NUMERIC where they are not found. */
typedef struct slf_syevd_job {
    int64_t dim;
    double *a;      /* [dim][dim]; becomes the eigenvectors, as rows */
    double *lambda; /* [dim] */
} slf_syevd_job;

/* sum w_k v_k v_k^T over vectors that are rows. */
typedef struct slf_syrk_job {
    int64_t dim;
    double *vectors;       /* [dim][dim], of no use afterwards */
    const double *weights; /* [dim], 0 or more */
    double *out;           /* [dim][dim] full */
} slf_syrk_job;

/* ---- states against the vocabulary ---- */

/* How scores come from products q_i = x_i . z of a vocabulary's rows x_i. */
typedef struct slf_score_rule {
    double inverse_temperature; /* 1 / t */
    double shift;   /* u_i = exp((s_i - shift) / t) where no maximum is kept: 1, as cosines lie in [-1, 1] */
    int32_t logits; /* 1: s_i = cap(scale * q_i + bias_i), 0: s_i = q_i * inverse_norm_i */
    int32_t reserved;
    double logit_scale;
    double softcap; /* 0: none */
    double gain;  /* a power of two on P, which is undone in inverse_norms: float32 holds z whatever the head's scale */
    double alike; /* rows no element of which differs by more than this times their length are one row: 0, or the
                       rounding of rows that were made in float64 and kept in float32 */
    double norm_error; /* relative, of inverse_norms of such rows, which come out of different tiles of a product */
} slf_score_rule;

/* z [n][D] of a query, from states h: norm(h), scaled to length 1 where unit is 1 (NaN for a zero state), times
 * gain P. */
typedef struct slf_query_job {
    const salf_tensor *states;
    const slf_norm *norm; /* NULL: none */
    const double *p;      /* NULL: without P */
    double *z;
    int32_t *needs_f64; /* NULL, or [n]: 1 where |z_r| > limit (NaN is not), else 0 */
    double limit;
    double gain; /* of P: a power of two; not read without */
    int32_t unit;
    int32_t reserved;
} slf_query_job;

/* The scores of the right tokens, in float64, by the rows, norms and biases that a walk compares the others with:
 * s_l of a query z_r with x_l = row row_of[r] of w, whose place in the vocabulary is place[r]. */
typedef struct slf_target_job {
    const double *z; /* [rows][D] */
    int64_t rows;
    const salf_tensor *w;
    const int32_t *row_of;       /* [rows] */
    const int32_t *place;        /* [rows] */
    const double *inverse_norms; /* of the vocabulary; NULL with logits */
    const float *bias;           /* of the vocabulary, or NULL */
    const slf_score_rule *rule;
    double *target; /* [rows] */
    double *reach;  /* NULL, or [rows]: |x_l| |z_r| in units of a score; a sum of D products that is rounded at every
                           step is off by at most D times the unit of rounding times this */
    int32_t *needs_f64; /* NULL, or [rows]: becomes 1 where float32 has not the range for these products */
} slf_target_job;

/* States to compare with a vocabulary, of one space or of several. */
typedef struct slf_query {
    int64_t rows;
    int64_t dim;              /* D */
    const double *z;          /* [rows][D]: BASIS gain P h / |h|; a table or candidates' rows h / |h|; LOGITS h */
    const double *target;     /* [rows] s_l; with the next four NULL where nothing is counted */
    const double *reach;      /* [rows] of the target job */
    const salf_tensor *own;   /* the right tokens' rows x_l ... */
    const int32_t *own_of;    /* [rows] and which of them */
    const int32_t *needs_f64; /* NULL, or [rows]: where it is not 0 a row's products are made in float64 */
} slf_query;

/* Running sums over the vocabulary, [rows] each, in backend memory, zeroed by the caller (maximum: -infinity). NULL:
 * not wanted. sum = sum u_i; with a maximum u_i = exp((s_i - maximum) / t), so that the largest is 1 and no temperature
 * makes all of them vanish. */
typedef struct slf_score_sums {
    double *sum;
    double *maximum;
    int64_t *count;   /* number of i with s_i > s_l; see below */
    double *weighted; /* sum u_i s_i */
    double *vector;   /* [rows][D] sum u_i inverse_norm_i x_i; cosines only */
} slf_score_sums;

/*
 * A block of rows x_i of the vocabulary, to be taken into the sums by tiles: nothing of size rows * block is kept.
 *
 * What counts as above. Rounding must not decide between equals: a row that is the label's own or equals it is never
 * above, nor is one whose score float64 cannot tell from the label's. Products are rounded in float32, in the order
 * that a kernel or a BLAS likes, and need not be equal for equal rows. So every backend looks again at what lies
 * within SLF_NEAR_STEPS roundings of the target: a row equal to x_l is out, and one within SLF_CLOSE_STEPS is
 * multiplied once more, in float64, and has to exceed the target by more than SLF_TIE_STEPS roundings of that. Both
 * bounds are in units of reach; beyond the first no rounding brings equal rows. The few rows between cost a comparison
 * that ends at their first element, those in the second D multiply-adds.
 */
typedef struct slf_score_job {
    const slf_query *query;
    const salf_tensor *block;
    const double *inverse_norms; /* [block], 0 for a zero row, whose similarity is 0; NULL with logits */
    const float *bias;           /* NULL, or [block] */
    const slf_score_rule *rule;
    const slf_score_sums *sums;
} slf_score_job;

/* Rounding of one step relative to what is rounded. */
#define SLF_UNIT_F32 0x1p-24
#define SLF_UNIT_F64 0x1p-53
/* A chain of `length` additions is rounded so many times, all in the same direction at worst, as for rows of equal
 * numbers. In float64 so is the target, which in float32 counts as exact: twice the length then. Inverse norms are
 * apart: rule->norm_error of the target. */
#define SLF_NEAR_STEPS(length) ((double)(length) + 16)
/* Roundings of random sign, as they are but for such rows, add up to a few units of |x| |z| at most. */
#define SLF_CLOSE_STEPS    16.0
#define SLF_TIE_STEPS(dim) (4 * sqrt((double)(dim)) + 16)
/* A soft cap makes differences of logits smaller, by d cap tanh(x / cap) / dx where x has been capped to s, and what
 * rounding may be of them with it: near the cap nothing but equality is a tie. */
#define SLF_CAP_SLOPE(cap, s) ((cap) > 0 ? 1 - ((s) / (cap)) * ((s) / (cap)) : 1)
/* Where float32 has the range for |x| |z|, and for |z|: D products of which the largest decide, none above 2^127. */
#define SLF_F32_LEAST 1e-25
#define SLF_F32_MOST  1e35

/* ---- states against their own basis rows ---- */

/* The basis row of each state: b_r = rows + row_of[r] * D, |b_r| = norms[row_of[r]]. */
typedef struct slf_own_rows {
    const float *rows;
    const double *norms;
    const int32_t *row_of;
} slf_own_rows;

/* Where a loss goes. A zero or non-finite state gives a NaN loss and a zero gradient, and so does one whose gradient
 * float32 might not hold: no element exceeds 2 |scale| / (t |h|), the difference of two unit vectors. */
typedef struct slf_loss_out {
    float *loss;                 /* [rows] */
    const salf_tensor *gradient; /* NULL, or float32 rows: scale * d loss / d h */
    double scale;
} slf_loss_out;

/* cos(norm(h_r), b_r) as a deviation or a similarity in out, or as a loss. NaN when h_r is zero or not finite. */
typedef struct slf_cosine_job {
    const salf_tensor *states;
    const slf_norm *norm; /* NULL: none; none with a loss */
    slf_own_rows own;
    double *out; /* out[r * out_stride]; NULL: the loss is wanted instead */
    int64_t out_stride;
    int32_t similarity; /* out is 1: the cosine, 0: 1 - cosine */
    int32_t reserved;
    slf_loss_out losses; /* loss[r] = 1 - cos(h_r, b_r) */
} slf_cosine_job;

/* From complete sums: loss[r] = (maximum - target) / t + log sum (shift for a maximum that is not kept), and gradient
 * rows = scale / (t |h|) * (gain V_r P / sum - b_r / |b_r| - (weighted / sum - target) h / |h|), V_r = sums->vector. */
typedef struct slf_score_loss_job {
    const salf_tensor *states;
    const slf_query *query; /* its targets */
    const slf_score_rule *rule;
    const slf_score_sums *sums;
    const double *p; /* NULL: identity */
    slf_own_rows own;
    slf_loss_out losses;
} slf_score_loss_job;

/* ---- the slots ---- */

/*
 * Life and memory, X(type, slot, arguments). Of them:
 * open     gives self, which every other slot gets, and the name of the instruction set in use, alive as long as self;
 *          services is copied.
 * free     work that was enqueued before may still use the memory. NULL is fine.
 * copy     each side's memory is SALF_MEMORY_HOST or, for backend memory of a device backend, SALF_MEMORY_DEVICE.
 *          Copies to the host are complete only after sync.
 * fill     count float64 numbers, or (0) any numbers of 8 bytes.
 * mark     an event is a point in the stream: mark sets it (again), and makes it where *event is NULL. A mark that a
 *          graph captures is part of each replay. On a host backend nothing is ever pending, and *event stays NULL.
 * wait     returns once all before the event is done; with ready, which becomes 1 if so, at once. NULL is done.
 */
#define SLF_MEMORY_SLOTS(X, prefix)                                                                     \
    X(prefix, salf_status, open, (void **self, const slf_services *services, const char **kernels))     \
    X(prefix, void, close, (void *self))                                                                \
    X(prefix, salf_status, alloc, (void *self, int32_t kind, uint64_t bytes, void **memory))            \
    X(prefix, void, free, (void *self, int32_t kind, void *memory))                                     \
    X(prefix, salf_status, copy,                                                                        \
      (void *self, void *to, int32_t to_memory, const void *from, int32_t from_memory, uint64_t bytes)) \
    X(prefix, salf_status, fill, (void *self, void *memory, int64_t count, double value))               \
    X(prefix, salf_status, sync, (void *self))                                                          \
    X(prefix, salf_status, mark, (void *self, void **event))                                            \
    X(prefix, salf_status, wait, (void *self, void *event, int32_t *ready))

/* What computes, X(prefix, slot): salf_status slot(void *self, const slf_<slot>_job *job). */
#define SLF_JOB_SLOTS(X, prefix) \
    X(prefix, scan)              \
    X(prefix, matvec)            \
    X(prefix, potrf)             \
    X(prefix, potri)             \
    X(prefix, syevd)             \
    X(prefix, syrk)              \
    X(prefix, apply)             \
    X(prefix, query)             \
    X(prefix, cosine)            \
    X(prefix, target)            \
    X(prefix, score)             \
    X(prefix, score_loss)

#define SLF_JOB_ARGUMENTS(slot) (void *self, const slf_##slot##_job *job)

/* What is made from the lists: members of the table, prototypes of functions <prefix><slot>, and the rows of a table
 * whose functions are these, in the order of its members. */
#define SLF_MEMBER(prefix, type, slot, arguments)    type(*slot) arguments;
#define SLF_JOB_MEMBER(prefix, slot)                 salf_status(*slot) SLF_JOB_ARGUMENTS(slot);
#define SLF_PROTOTYPE(prefix, type, slot, arguments) type prefix##slot arguments;
#define SLF_JOB_PROTOTYPE(prefix, slot)              salf_status prefix##slot SLF_JOB_ARGUMENTS(slot);
#define SLF_ROW(prefix, type, slot, arguments)       prefix##slot,
#define SLF_JOB_ROW(prefix, slot)                    prefix##slot,
#define SLF_PROTOTYPES(prefix)              \
    SLF_MEMORY_SLOTS(SLF_PROTOTYPE, prefix) \
    SLF_JOB_SLOTS(SLF_JOB_PROTOTYPE, prefix)
#define SLF_ROWS(prefix)              \
    SLF_MEMORY_SLOTS(SLF_ROW, prefix) \
    SLF_JOB_SLOTS(SLF_JOB_ROW, prefix)

typedef struct slf_backend {
    uint32_t abi_version; /* SLF_BACKEND_ABI */
    uint32_t size;        /* sizeof(slf_backend) */
    int32_t id;           /* SALF_BACKEND_* */
    uint32_t capabilities;
    const char *name;
    SLF_MEMORY_SLOTS(SLF_MEMBER, ) SLF_JOB_SLOTS(SLF_JOB_MEMBER, )
} slf_backend;

extern const slf_backend slf_backend_reference;
extern const slf_backend slf_backend_cpu;
const char *slf_cpu_blas_name(void); /* "openblas", "cblas" (another library) or "plain" */

/* The one symbol of a plugin: its table when abi_version is one it implements, else NULL. */
typedef const slf_backend *(*slf_plugin_entry)(uint32_t abi_version);
#define SLF_PLUGIN_SYMBOL "salf_backend_plugin"

#endif
