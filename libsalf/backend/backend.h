/*
 * backend.h - the dispatch table between the handles of libsalf and the code that computes.
 *
 * A backend is a const table of functions. A new one copies the reference table and overlays slots, so that none is
 * ever empty. The table is append-only; abi_version is raised when a slot changes its meaning, and a plugin must match
 * it exactly.
 *
 * "Backend memory" is what the backend's alloc gives: host memory for reference and cpu, device memory for cuda.
 * Arguments are in backend memory unless a comment says "host"; salf_tensor arguments say themselves where they lie,
 * and a backend that has SLF_CAN_DEVICE must take both. On a device every slot enqueues on the host's stream and
 * returns; only sync, event_wait, the two kinds of free, slots that give host results, and slots that are given views
 * of host memory wait. What a slot takes must stay until the stream has passed it. Slots check nothing that their
 * callers in libsalf have checked: pointers, shapes, dtypes, labels. They may be called from several threads at once.
 * Errors of BLAS, LAPACK and devices are mapped to a salf_status, with the message set through services->fail.
 */
#ifndef SALF_BACKEND_H
#define SALF_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "salf.h"

#define SLF_BACKEND_ABI 2

/* Capabilities. */
enum { SLF_CAN_DEVICE = 1 /* reads device memory */ };

/* What a backend may ask of the library; the plugin links nothing of it. */
typedef struct slf_services {
    const salf_context_options *options; /* defaults filled in; alive as long as the backend's state */
    salf_status (*fail)(salf_status status, const char *format, ...);
    void *(*alloc)(const void *context, uint64_t count,
                   uint64_t size); /* host memory, 64-byte aligned, NULL + message */
    void (*free)(const void *context, void *memory);
    void (*parallel_for)(const void *context, int64_t count, int64_t grain,
                         void (*body)(void *user, int64_t first, int64_t last), void *user);
    const void *context; /* first argument of the three above */
} slf_services;

/* The final norm, applied to a state before it is compared. weight and bias [D] in backend memory, NULL: ones, zeros;
 * RMS1P is folded into weight, so kind is SALF_NORM_NONE, LAYER or RMS. */
typedef struct slf_norm {
    int32_t kind;
    float eps;
    const float *weight;
    const float *bias;
} slf_norm;

/* How factor turns a Gram matrix into P. */
typedef struct slf_factor_request {
    int32_t mode; /* SALF_BASIS_* */
    int32_t reserved;
    double rtol; /* threshold on singular values relative to sigma_max; for EXACT sqrt(D * 2^-52) */
    double ridge;
} slf_factor_request;

typedef struct slf_factor_result { /* host */
    int32_t method;                /* SALF_METHOD_* */
    int32_t reserved;
    int64_t rank;
    double sigma_max;
    double sigma_min;      /* smallest of all */
    double sigma_min_kept; /* smallest kept */
} slf_factor_result;

/* States to compare with a vocabulary, of one space or of several. */
typedef struct slf_query {
    int64_t rows;
    int64_t dim;          /* D */
    const double *z;      /* [rows][D]: BASIS P h / |h|; a table or candidates' rows h / |h|; LOGITS h */
    const int32_t *label; /* [rows] global token ids */
    const double *target; /* [rows] score of the label, s_l, computed exactly as cosine computes it (or as a logit) */
    const int32_t *wide;  /* NULL, or [rows], made by judge: where it is not 0 a row's products are made in float64 */
} slf_query;

/* How scores come from products q_i = x_i . z of a block's rows x_i. */
typedef struct slf_score_rule {
    double inverse_temperature; /* 1 / t */
    double shift;   /* u_i = exp((s_i - shift) / t); 1 for cosines, which lie in [-1, 1]. Unused with logits, where
                       a running maximum is kept */
    int32_t logits; /* 1: s_i = cap(scale * q_i + bias_i), 0: s_i = q_i * inverse_norm_i */
    int32_t reserved;
    double logit_scale;
    double softcap; /* 0: none */
} slf_score_rule;

/* Running sums over the vocabulary, [rows] each, in backend memory, zeroed by the caller (maximum: -infinity). NULL:
 * not wanted. sum = sum u_i, where with logits u_i = exp((s_i - maximum) / t). */
typedef struct slf_score_sums {
    double *sum;
    double *maximum;  /* logits only */
    int64_t *count;   /* number of i != label with s_i > target */
    double *weighted; /* sum u_i s_i */
    double *vector;   /* [rows][D] sum u_i inverse_norm_i x_i; cosines only */
} slf_score_sums;

typedef struct slf_backend {
    uint32_t abi_version; /* SLF_BACKEND_ABI */
    uint32_t size;        /* sizeof(slf_backend) */
    int32_t id;           /* SALF_BACKEND_* */
    uint32_t capabilities;
    const char *name;

    /* -- life and memory -- */
    salf_status (*open)(void **state, const slf_services *services); /* services is copied */
    void (*close)(void *state);
    const char *(*kernels)(const void *state); /* instruction set in use */
    salf_status (*alloc)(void *state, uint64_t bytes, void **memory);
    /* Work that was enqueued before may still use the memory. */
    void (*free)(void *state, void *memory);
    /* Host memory that copies reach without a stall (page-locked, for a device). free as above. */
    salf_status (*host_alloc)(void *state, uint64_t bytes, void **memory);
    void (*host_free)(void *state, void *memory);
    /* Each side's memory is SALF_MEMORY_HOST or, for backend memory of a device backend, SALF_MEMORY_DEVICE. Copies to
     * the host are complete only after sync. */
    salf_status (*copy)(void *state, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                        uint64_t bytes);
    salf_status (*zero)(void *state, void *memory, uint64_t bytes);
    salf_status (*fill)(void *state, double *memory, int64_t count, double value);
    salf_status (*sync)(void *state);
    /* A point in the stream: record marks it (again), wait returns once all before it is done, ready becomes 1 when
     * wait would not wait. An event that was never recorded is ready. A record that a graph captures is part of each
     * replay. */
    salf_status (*event_create)(void *state, void **event);
    void (*event_destroy)(void *state, void *event);
    salf_status (*event_record)(void *state, void *event);
    salf_status (*event_wait)(void *state, void *event);
    salf_status (*event_poll)(void *state, void *event, int32_t *ready);

    /* -- basis -- */
    /* One pass over rows: adds the fingerprint of rows first_row + r to *hash (host) and gives the first row r that
     * holds NaN or infinity (counted from 0 in rows), or -1 (host). Row hash: see random.c. */
    salf_status (*scan)(void *state, const salf_tensor *rows, int64_t first_row, uint64_t *hash, int64_t *bad_row);
    /* G += X^T X, float64 [D][D], upper triangle (j >= i) only. rows D^2 floating-point operations. */
    salf_status (*gram)(void *state, const salf_tensor *rows, double *gram);
    /* P [D][D] in place of the upper triangle of G: full and symmetric. Scratch at most 2 D*D*8 bytes. */
    salf_status (*factor)(void *state, int64_t dim, double *gram, const slf_factor_request *request,
                          slf_factor_result *result);
    /* Y [rows][D] = X P, float64. rows may also be SALF_F64 (states that normalise made). out does not overlap rows. */
    salf_status (*apply)(void *state, const double *p, const salf_tensor *rows, double *out);
    /* |x_i P| for each row, float64; p NULL: |x_i|. */
    salf_status (*apply_norms)(void *state, const double *p, const salf_tensor *rows, double *norms);
    /* out [rows][dim] = b in float32, 0 for a row with |b| <= noise * w_norms[i], and norms[i] = |out_i|. A row that is
     * not finite gives a norm that is not. */
    salf_status (*narrow)(void *state, const double *b, int64_t rows, int64_t dim, const double *w_norms, double noise,
                          float *out, double *norms);

    /* -- probe -- */
    /* out[r * out_stride] = 1 - cos(norm(h_r), b_r), with b_r = basis + which[r] * D in float32 and |b_r| =
     * norms[which[r]]; with similarity 1 the cosine itself. NaN when h_r is zero or not finite. norm may be NULL. */
    salf_status (*cosine)(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                          const double *norms, const int32_t *which, int32_t similarity, double *out,
                          int64_t out_stride);
    /* h = norm(states) in float64 [rows][D] and, when unit is 1, h / |h| (NaN for a zero row). */
    salf_status (*normalise)(void *state, const salf_tensor *states, const slf_norm *norm, int32_t unit, double *out);
    /* wide[r] = 1 when |z_r| > most (NaN is not), else 0. z [rows][dim]. */
    salf_status (*judge)(void *state, const double *z, int64_t rows, int64_t dim, double most, int32_t *wide);
    /* target[r] = cap(scale * w_l . z_r + bias[l]) with l = which[r], in float64; bias may be NULL. */
    salf_status (*logit_targets)(void *state, const double *z, int64_t rows, const salf_tensor *w, const int32_t *which,
                                 const float *bias, const slf_score_rule *rule, double *target);
    /* Takes a block of rows x_i of the vocabulary (ids first ... or, when ids is not NULL, ids[i]) into the sums, by
     * tiles: nothing of size rows * block is kept. inverse_norm [block] (0 for a zero row, whose similarity is 0) or
     * NULL with logits; bias [block] or NULL. */
    salf_status (*score)(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                         const int32_t *ids, const double *inverse_norm, const float *bias, const slf_score_rule *rule,
                         const slf_score_sums *sums);

    /* -- losses -- */
    /* loss[r] = 1 - cos(h_r, b_r) and gradient rows = scale * d loss / d h (NULL: not wanted). A zero or non-finite
     * state gives a NaN loss and a zero gradient, here and below. */
    salf_status (*cosine_loss)(void *state, const salf_tensor *states, const float *basis, const double *norms,
                               const int32_t *which, double scale, float *loss, const salf_tensor *gradient);
    /* From complete sums: loss[r] = shift / t + log sum - target / t, and gradient rows = scale / (t |h|) *
     * (V_r P / sum - b_r / |b_r| - (weighted / sum - target) h / |h|), V_r = sums->vector; p NULL: identity. */
    salf_status (*score_loss)(void *state, const salf_tensor *states, const slf_query *query,
                              const slf_score_rule *rule, const slf_score_sums *sums, const double *p,
                              const float *basis, const double *norms, const int32_t *which, double scale, float *loss,
                              const salf_tensor *gradient);
} slf_backend;

extern const slf_backend slf_backend_reference;
extern const slf_backend slf_backend_cpu;

/* The one symbol of a plugin: its table when abi_version is one it implements, else NULL. */
typedef const slf_backend *(*slf_plugin_entry)(uint32_t abi_version);
#define SLF_PLUGIN_SYMBOL "salf_backend_plugin"

#endif
