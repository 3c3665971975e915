/* ops.h - the operations of the decoder and their gradients, on float32 rows. Matrices are row-major. */
#ifndef SALF_EXAMPLE_OPS_H
#define SALF_EXAMPLE_OPS_H

#include <stdint.h>

/* Threads that BLAS has for the products below, and for the library's: n, or 0 for as many as it has. How many it has
 * then. Small products have one all the same. */
int ops_use_threads(int32_t n);
/* Which BLAS serves: OpenBLAS's name, version and how it was built, or "CBLAS" for another library, which does not say;
 * and the processor whose kernels it has, or "unknown". */
const char *ops_blas(void);
const char *ops_blas_core(void);

/* c [m][n] = beta c + alpha a b, with a [m][k] and b [k][n], or either transposed (t): b of ops_gemm_nt is [n][k], a of
 * ops_gemm_tn is [k][m]. Leading dimensions in elements. Sizes below 2^31. */
void ops_gemm_nn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc);
void ops_gemm_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc);
void ops_gemm_tn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                 float beta, float *c, int64_t ldc);

/* Sum of x_i y_i, in sixteen partial sums. */
float ops_dot(const float *x, const float *y, int64_t n);
/* x = exp(x - shift), and the sum of the results. Relative error of each below 2e-7; below -87 it is exp(-87). */
float ops_exp_sum(float *x, float shift, int64_t n);
float ops_max(const float *x, int64_t n);

/* Rows of x that an operation reads: row[i] for its i-th, or i itself when row is NULL. */

/* A norm over rows of `width`: y = (x - mean) r (weight + plus) + bias with r = 1 / sqrt(mean((x - mean)^2) + eps),
 * where the mean is 0 unless it is centred. RMSNorm: no plus, no bias; Gemma's has plus 1; LayerNorm is centred. */
typedef struct ops_norm {
    const float *weight; /* [width] */
    const float *bias;   /* [width] or NULL */
    float *d_weight;     /* NULL: no gradient */
    float *d_bias;
    int64_t width;
    double eps;
    float plus;
    int32_t centred;
} ops_norm;

/* moments [rows][2]: mean and r of each row. */
void ops_norm_moments(const ops_norm *norm, const float *x, const int64_t *row, int64_t rows, float *moments);
/* y [rows][width] from moments that are indexed like x, as in all that follow. */
void ops_norm_apply(const ops_norm *norm, const float *x, const float *moments, const int64_t *row, int64_t rows,
                    float *y);
/* d_x_i += gradient through the norm of d_y_i; d_weight and d_bias +=. d_x and d_y compact. */
void ops_norm_backward(const ops_norm *norm, const float *x, const float *moments, const int64_t *row, int64_t rows,
                       const float *d_y, float *d_x);
/* Only what d_weight and d_bias get of the above. */
void ops_norm_weight_backward(const ops_norm *norm, const float *x, const float *moments, const int64_t *row,
                              int64_t rows, const float *d_y);

enum { OPS_SILU = 0, OPS_GELU = 1, OPS_GELU_TANH = 2, OPS_RELU = 3 }; /* numbered as SALF_ACTIVATION_* */
/* hidden = act(gate) * up, gate_up [rows][2 width] holding gate then up in a row; gated 0: act(up), rows of width. */
void ops_activate(int32_t kind, int32_t gated, const float *gate_up, int64_t rows, int64_t width, float *hidden);
/* d_gate_up for d_hidden, and hidden once more; gate_up by row, the others compact. */
void ops_activate_backward(int32_t kind, int32_t gated, const float *gate_up, const int64_t *row, int64_t rows,
                           int64_t width, const float *d_hidden, float *d_gate_up, float *hidden);

/* Rotates the first 2 half numbers of n_heads vectors of head_dim at x, rows apart by stride, rows being positions
 * 0 ... n-1 of a sequence. table [n][2 half]: cosines, then sines. direction 1, or -1 for the gradient. */
void ops_rope(float *x, int64_t n, int64_t stride, int64_t n_heads, int64_t head_dim, int64_t half, const float *table,
              float direction);
/* Pair i turns by position * frequencies[i]; factor on cosines and sines. */
void ops_rope_table(float *table, int64_t positions, int64_t half, const double *frequencies, double factor);

/* x = cap tanh(scale x / cap), or scale x where cap is 0. */
void ops_softcap(float *x, int64_t n, float scale, float cap);
/* d_x = its gradient for itself; y is what ops_softcap gave. */
void ops_softcap_backward(float *d_x, const float *y, int64_t n, float scale, float cap);

/* Shape of attention over one sequence of n rows; qkv [n][width] = q heads, k heads, v heads, width = (n_heads +
 * 2 n_kv_heads) * head_dim. */
typedef struct ops_heads {
    int64_t n_heads;
    int64_t n_kv_heads;
    int64_t head_dim;
    double scale;   /* on scores; 0: 1 / sqrt(head_dim) */
    double softcap; /* then cap tanh(score / cap); 0: none */
    int64_t window; /* rows that a query sees, its own included; 0: all up to its own */
} ops_heads;
/* The queries: all n rows of qkv, or some of them copied together. */
typedef struct ops_queries {
    int64_t n;
    const float *values; /* [n][stride], of each row the first n_heads * head_dim */
    int64_t stride;
    const int64_t *position; /* position[i] - first is query i's in the sequence, ascending; NULL: i */
    int64_t first;
} ops_queries;
/* Floats of scratch that attention over n rows needs: its forward, or with backward 1 both. */
int64_t ops_attention_scratch(const ops_heads *shape, int64_t n, int32_t backward);
/* Causal softmax attention: weights [n_heads][q->n][n] (NULL: nobody keeps them), and out [q->n][n_heads * head_dim].
 * Of qkv only k and v are read. */
void ops_attention(const ops_heads *shape, int64_t n, const float *qkv, const ops_queries *q, float *weights,
                   float *out, float *scratch);
/* Gradients for d_out, overwriting k and v of d_qkv [n][width] and d_q, laid out like the queries. */
void ops_attention_backward(const ops_heads *shape, int64_t n, const float *qkv, const ops_queries *q,
                            const float *weights, const float *d_out, float *d_qkv, float *d_q, float *scratch);

/* y [rows][width] = x_i in row[i], zero in the others; row ascending, and y may be x. */
void ops_scatter(float *y, const float *x, const int64_t *row, int64_t n, int64_t rows, int64_t width);
/* y += factor x. */
void ops_add_scaled(float *y, const float *x, float factor, int64_t n);
/* y += x; y_i = x_row(i); y_j += sum of column j of x [rows][stride], j < width; y = y + bias for every row,
 * apart by stride. */
void ops_add(float *y, const float *x, int64_t n);
void ops_gather(float *y, const float *x, const int64_t *row, int64_t rows, int64_t width);
void ops_column_sums(float *y, const float *x, int64_t stride, int64_t rows, int64_t width);
void ops_add_bias(float *y, int64_t stride, const float *bias, int64_t rows, int64_t width);

/* Sums of |x| and of x^2 in float64, in sixteen partial sums. */
double ops_sum_abs(const float *x, int64_t n);
double ops_sum_squares(const float *x, int64_t n);
/* x = factor x. */
void ops_scale(float *x, float factor, int64_t n);

#endif
