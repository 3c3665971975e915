/*
 * plain.c - products of matrices without a BLAS: C (+)= A B by register blocks (block.h).
 *
 * B is packed once a block of 192 x 1 KiB, column panels in the order they are read in, and stays in the second cache;
 * rows of A pass it in register blocks, read where they lie or, where A is transposed, from a copy of 8 x 192 numbers.
 * Sums run over stretches of 192 products and are added to C in order, whatever the number of threads: these share the
 * rows. m n k multiply-adds, half of them where only the upper triangle of C is wanted (X^T X, as syrk).
 */
#include "plain.h"

#include "block.h"
#include "core/core.h"

#ifdef SLF_HAVE_X86
#include <immintrin.h>
#endif

/* 4 x 4 (float32 4 x 8) numbers take 8 of the 16 registers that SSE2 has and of NEON's 32. 6 rows of two vectors take
 * 12 of AVX2's 16, 8 of them 16 of AVX-512's 32, beside the two of zt and one element. */
SLF_BLOCK_PRODUCT(plain_f32, , float, plain_ps, 4, 4, plain, ps)
SLF_BLOCK_PRODUCT(plain_f64, , double, plain_pd, 2, 4, plain, pd)
#ifdef SLF_HAVE_X86
#define FOR_AVX2   __attribute__((target("avx2,fma")))
#define FOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
SLF_BLOCK_PRODUCT(avx2_f32, FOR_AVX2, float, __m256, 8, 6, _mm256, ps)
SLF_BLOCK_PRODUCT(avx2_f64, FOR_AVX2, double, __m256d, 4, 6, _mm256, pd)
SLF_BLOCK_PRODUCT(avx512_f32, FOR_AVX512, float, __m512, 16, 8, _mm512, ps)
SLF_BLOCK_PRODUCT(avx512_f64, FOR_AVX512, double, __m512d, 8, 8, _mm512, pd)
#endif

/* DEPTH: products in a stretch, whose sums stay in registers; 8 rows of it, a transposed A's, take 12 KiB of the stack,
 * which is all that a thread needs. HEIGHT: as many as any register block has. */
enum { DEPTH = SLF_PACK_DEPTH, HEIGHT = SLF_BLOCK_HEIGHT };

/* A block of B, rows k0 ... and columns n0 ... of it, against all rows of A. */
typedef struct {
    const salf_product *job;
    const slf_block_kernel *kernel;
    int64_t size; /* bytes of a number */
    int64_t n0, columns, k0, depth;
    char *packed; /* [panels][depth][kernel->columns] */
} product_block;

/* A copy of one number; size is 4 or 8, and a constant where this is inlined. */
static inline void copy_number(char *to, const char *from, int64_t size) {
    if (size == 4)
        memcpy(to, from, 4);
    else
        memcpy(to, from, 8);
}

/* Panels of columns, each with its columns side by side for each k; those past the last are 0. */
static void pack_panels(void *user, int64_t begin, int64_t end) {
    const product_block *block = user;
    const salf_product *job = block->job;
    const int64_t size = block->size, width = block->kernel->columns;
    for (int64_t p = begin; p < end; p++) {
        const int64_t first = block->n0 + p * width, there = SLF_MIN(block->columns - p * width, width);
        char *panel = block->packed + p * block->depth * width * size;
        if (there < width) memset(panel, 0, (size_t)(block->depth * width * size));
        if (job->b_transposed) {
            for (int64_t c = 0; c < there; c++) {
                const char *row = (const char *)job->b + ((first + c) * job->b_stride + block->k0) * size;
                for (int64_t k = 0; k < block->depth; k++)
                    copy_number(panel + (k * width + c) * size, row + k * size, size);
            }
        } else {
            for (int64_t k = 0; k < block->depth; k++)
                memcpy(panel + k * width * size,
                       (const char *)job->b + ((block->k0 + k) * job->b_stride + first) * size, (size_t)(there * size));
        }
    }
}

/* Adds sums q [..][width] of a register block to row i of C, columns first ... last-1. beta counts where the first
 * stretch of k comes; C is not read where it is 0. */
static void add_sums(const product_block *block, const void *q, int64_t i, int64_t at, int64_t first, int64_t last) {
    const salf_product *job = block->job;
    const double beta = block->k0 == 0 ? job->beta : 1;
    const bool read = beta < 0 || beta > 0;
    if (block->size == sizeof(float)) {
        float *c = (float *)job->c + i * job->c_stride;
        const float *sum = q;
        for (int64_t j = first; j < last; j++) c[j] = (float)job->alpha * sum[j - at] + (read ? (float)beta * c[j] : 0);
    } else {
        double *c = (double *)job->c + i * job->c_stride;
        const double *sum = q;
        for (int64_t j = first; j < last; j++) c[j] = job->alpha * sum[j - at] + (read ? beta * c[j] : 0);
    }
}

/* Register blocks begin ... end-1 of the rows of A. */
static void multiply_rows(void *user, int64_t begin, int64_t end) {
    const product_block *block = user;
    const salf_product *job = block->job;
    const int64_t size = block->size, height = block->kernel->rows, width = block->kernel->columns;
    const char *a = job->a;
    char turned[HEIGHT * DEPTH * sizeof(double)]; /* rows of a transposed A */
    double q[HEIGHT * 2 * 16 / 2];                /* the widest block: 8 x 32 float32 */
    const void *place[HEIGHT];
    const slf_register_rows r = {.rows = place, .size = size};
    for (int64_t i = begin * height; i < end * height && i < job->m; i += height) {
        const int64_t rows = SLF_MIN(job->m - i, height);
        /* 1. where the rows are; a block that is not full repeats the last one */
        for (int64_t k = 0; k < block->depth && job->a_transposed; k++)
            for (int64_t j = 0; j < rows; j++)
                copy_number(turned + (j * DEPTH + k) * size, a + ((block->k0 + k) * job->a_stride + i + j) * size,
                            size);
        for (int64_t j = 0; j < height; j++) {
            const int64_t row = SLF_MIN(j, rows - 1);
            place[j] =
                job->a_transposed ? turned + row * DEPTH * size : a + ((i + row) * job->a_stride + block->k0) * size;
        }
        /* 2. each panel that has anything to give: of the upper triangle, columns from the diagonal on */
        for (int64_t at = 0; at < block->columns; at += width) {
            const int64_t first = block->n0 + at, last = block->n0 + SLF_MIN(at + width, block->columns);
            if (job->upper && last <= i) continue;
            block->kernel->product(&r, block->packed + at * block->depth * size, block->depth, q);
            for (int64_t j = 0; j < rows; j++) {
                const int64_t from = job->upper ? SLF_MAX(first, i + j) : first;
                add_sums(block, (const char *)q + j * width * size, i + j, first, from, last);
            }
        }
    }
}

/* Blocks of B, k by k within the same columns, so that C is in the cache for the next stretch. */
salf_status slf_plain_product(const slf_cpu *cpu, const salf_product *job) {
    const slf_services *services = &cpu->host.services;
    product_block block = {.job = job, .size = job->dtype == SALF_F64 ? sizeof(double) : sizeof(float)};
    /* The packed block is the only scratch: it counts beside the workspace, as the buffers of a BLAS do. */
    block.kernel = cpu->kernels->blocks[job->dtype == SALF_F64];
    const int64_t most = SLF_PACK_BYTES / block.size, width = block.kernel->columns, height = block.kernel->rows;
    const int64_t padded = (SLF_MIN(most, job->n) + width - 1) / width * width;
    block.packed =
        services->alloc(services->context, (uint64_t)(padded * SLF_MIN(job->k, DEPTH)), (uint64_t)block.size);
    if (!block.packed) return SALF_E_NO_MEMORY;
    for (block.n0 = 0; block.n0 < job->n; block.n0 += most) {
        block.columns = SLF_MIN(job->n - block.n0, most);
        block.k0 = 0;
        do { /* once for k = 0, which leaves beta C */
            block.depth = SLF_MIN(job->k - block.k0, DEPTH);
            const int64_t panels = (block.columns + width - 1) / width, last = block.n0 + block.columns;
            const int64_t rows = job->upper ? SLF_MIN(job->m, last) : job->m;
            services->parallel_for(services->context, panels, 2, pack_panels, &block);
            services->parallel_for(services->context, (rows + height - 1) / height, 4, multiply_rows, &block);
            block.k0 += block.depth;
        } while (block.k0 < job->k);
    }
    services->free(services->context, block.packed);
    return SALF_OK;
}
