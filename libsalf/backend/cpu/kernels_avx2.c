/*
 * kernels_avx2.c - sums over rows of states, conversion of 16-bit rows, and exponentials, for AVX2, FMA and F16C.
 *
 * reduce: blocks of 32 elements in four vectors and eight chains of additions; what is left of a row takes the plain
 * loop. While a row is summed the next one is called into the cache: rows are short, and may lie apart, so that the
 * processor's own read-ahead is late for each. exp: as in kernels.c, four at a time.
 */
#include "cpu.h"

#ifdef SLF_HAVE_X86
#include "core/dtypes.h"
#include "kernels_avx2.h"

/* Four vectors, each with a sum of products and one of squares: eight chains, which hide the four cycles of an addition
 * on two units. LINE: bytes of a cache line. */
enum { WIDTH = 8, VECTORS = 4, BLOCK = WIDTH * VECTORS, LINE = 64 };

/* Elements i ... i+7 of a row; dtype is a constant where this is inlined. */
INLINE_AVX2 __m256 elements(const void *row, int32_t dtype, int64_t i) {
    if (dtype == SALF_F32) return _mm256_loadu_ps((const float *)row + i);
    const __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)row + i));
    if (dtype == SALF_F16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* In float64 from here on. */
INLINE_AVX2 double vector_sum(__m256 x) {
    float lanes[WIDTH];
    _mm256_storeu_ps(lanes, x);
    return (((double)lanes[0] + (double)lanes[1]) + ((double)lanes[2] + (double)lanes[3])) +
           (((double)lanes[4] + (double)lanes[5]) + ((double)lanes[6] + (double)lanes[7]));
}

INLINE_AVX2 double vectors_sum(const __m256 x[VECTORS]) {
    return vector_sum(_mm256_add_ps(_mm256_add_ps(x[0], x[1]), _mm256_add_ps(x[2], x[3])));
}

/* One call for each line of the next row that lies where this one is being read. */
INLINE_AVX2 void call_ahead(const void *next, int64_t byte, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += LINE) _mm_prefetch((const char *)next + byte + line, _MM_HINT_T0);
}

/* Elements first ... last-1, whole blocks; a and b as in slf_kernels.reduce. */
INLINE_AVX2 void piece(const void *row, int32_t dtype, int64_t first, int64_t last, const slf_affine *a, const float *b,
                       const void *next, slf_pair *out) {
    const int64_t size = dtype == SALF_F32 ? 4 : 2;
    const __m256 zero = _mm256_setzero_ps();
    const __m256 high = a ? _mm256_set1_ps(a->high) : zero, low = a ? _mm256_set1_ps(a->low) : zero;
    const __m256 scale = a ? _mm256_set1_ps(a->scale) : zero;
    __m256 d[VECTORS] = {zero, zero, zero, zero}, s[VECTORS] = {zero, zero, zero, zero};
    for (int64_t i = first; i < last; i += BLOCK) {
        /* A block of 32 float32 elements is two cache lines, one of 16-bit elements a single one: the calls keep pace
         * with what is read, and never fetch a line twice. */
        call_ahead(next, size * i, size * BLOCK);
        for (int k = 0; k < VECTORS; k++) {
            const int64_t j = i + k * WIDTH;
            __m256 h = elements(row, dtype, j);
            if (a) h = _mm256_sub_ps(_mm256_sub_ps(h, high), low);
            if (a && b)
                h = _mm256_fmadd_ps(_mm256_mul_ps(h, scale), _mm256_loadu_ps(a->weight + j),
                                    _mm256_loadu_ps(a->bias + j));
            d[k] = b ? _mm256_fmadd_ps(h, _mm256_loadu_ps(b + j), d[k]) : _mm256_add_ps(d[k], h);
            s[k] = _mm256_fmadd_ps(h, h, s[k]);
        }
    }
    out->first += vectors_sum(d);
    out->second += vectors_sum(s);
}

/* Pieces of a row, so that float32 sums stay short. dtype, and whether a and b are NULL, are constants in piece: each
 * combination is compiled by itself. */
INLINE_AVX2 void pieces(const void *row, int32_t dtype, int64_t n, const slf_affine *a, const float *b,
                        const void *next, slf_pair *out) {
    for (int64_t first = 0; first < n; first += SLF_PIECE) {
        const int64_t last = n - first < SLF_PIECE ? n : first + SLF_PIECE;
        if (!a)
            piece(row, dtype, first, last, NULL, b, next, out);
        else if (!b)
            piece(row, dtype, first, last, a, NULL, next, out);
        else
            piece(row, dtype, first, last, a, b, next, out);
    }
}

/* Whole blocks here, by a copy of the loops for each type and kind of sum; what is left by the plain loop. */
AVX2 slf_pair slf_reduce_avx2(const void *row, int32_t dtype, int64_t n, const slf_affine *a, const float *b,
                              const void *next) {
    slf_pair out = {0, 0};
    int64_t whole = n / BLOCK * BLOCK;
    if (dtype == SALF_F32)
        pieces(row, SALF_F32, whole, a, b, next, &out);
    else if (dtype == SALF_BF16)
        pieces(row, SALF_BF16, whole, a, b, next, &out);
    else if (dtype == SALF_F16)
        pieces(row, SALF_F16, whole, a, b, next, &out);
    else
        whole = 0; /* a type without vectors of its own */
    if (whole == n) return out;
    slf_affine shifted = {0};
    if (a) shifted = (slf_affine){a->high, a->low, a->scale, a->weight + whole, a->bias + whole};
    const char *from = (const char *)row + whole * slf_float_size(dtype);
    const slf_pair added =
        slf_kernels_plain.reduce(from, dtype, n - whole, a ? &shifted : NULL, b ? b + whole : NULL, from);
    out.first += added.first;
    out.second += added.second;
    return out;
}

/* float32 rows and types without vectors of their own take the plain loop. */
AVX2 void slf_widen_avx2(const void *in, int32_t dtype, int64_t n, float *out) {
    int64_t i = 0;
    if (dtype == SALF_BF16)
        for (; i + WIDTH <= n; i += WIDTH) _mm256_storeu_ps(out + i, elements(in, SALF_BF16, i));
    else if (dtype == SALF_F16)
        for (; i + WIDTH <= n; i += WIDTH) _mm256_storeu_ps(out + i, elements(in, SALF_F16, i));
    if (i < n) slf_kernels_plain.widen((const char *)in + i * slf_float_size(dtype), dtype, n - i, out + i);
}

/* Exponentials under way at once: each is a chain of some 20 multiply-adds that wait for each other. */
enum { CHAINS = 4 };

/* Clamped as in kernels.c; what does not fill a vector takes the plain loop. */
AVX2 void slf_exp_avx2(double *x, int64_t n) {
    int64_t i = 0;
    for (; i + QUAD <= n; i += QUAD) _mm256_storeu_pd(x + i, exp_quad(_mm256_loadu_pd(x + i), 0));
    slf_kernels_plain.exp(x + i, n - i);
}

INLINE_AVX2 double quad_sum(const __m256d x[CHAINS]) {
    double lanes[QUAD];
    _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_add_pd(x[0], x[1]), _mm256_add_pd(x[2], x[3])));
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

/* The sums of CHAINS vectors apart, added at the end in a fixed order. */
AVX2 slf_pair slf_exp_sums_avx2(double *x, const double *s, int64_t n) {
    const __m256d zero = _mm256_setzero_pd();
    __m256d sum[CHAINS] = {zero, zero, zero, zero}, weighted[CHAINS] = {zero, zero, zero, zero};
    int64_t i = 0;
    for (; i + QUAD * CHAINS <= n; i += QUAD * CHAINS)
        for (int k = 0; k < CHAINS; k++) {
            const __m256d u = exp_quad(_mm256_loadu_pd(x + i + k * QUAD), 0);
            _mm256_storeu_pd(x + i + k * QUAD, u);
            sum[k] = _mm256_add_pd(sum[k], u);
            weighted[k] = _mm256_fmadd_pd(u, _mm256_loadu_pd(s + i + k * QUAD), weighted[k]);
        }
    const slf_pair rest_of = slf_kernels_plain.exp_sums(x + i, s + i, n - i);
    return (slf_pair){quad_sum(sum) + rest_of.first, quad_sum(weighted) + rest_of.second};
}

#else

typedef int slf_kernels_avx2_unused; /* C wants a declaration in every file */

#endif
