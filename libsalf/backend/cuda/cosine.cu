/*
 * cosine.cu - deviations 1 - cos(norm(h), b): a block for each row of states, which is read from memory once, in words
 * of 16 bytes where it lies so that this is possible. rows D elements: bound by memory.
 *
 * Products are made in float32 over at most 32 elements a thread and added in float64 from there on. Without a norm one
 * pass gives h . b and |h|^2. RMS norm's scale cancels. Where a bias follows it, and in LayerNorm, one or two passes
 * before give scale and mean, from the cache. A row that float32 cannot hold takes float64 passes by the definition.
 *
 * The basis rows of a batch are few and read by many blocks: they stay in the second cache, and the states alone count
 * against the bandwidth of memory. The kernel is made for each element type, for aligned rows and others, and for each
 * kind of pass, so that no element is asked what it is.
 */
#include "norms.h"

namespace {

/* 128 threads with 4 words of 16 bytes each on the way take 8 KiB of a row at once, a whole row of 4,096 bfloat16:
 * enough to keep memory busy with few blocks a multiprocessor. BATCH: words of a thread on the way at once. */
enum { THREADS = 128, BATCH = 4 };

/* x = ((h - high) - low) * scale * weight + bias; the shift is in two parts to keep what float32 would lose. */
struct affine {
    float high, low, scale;
    const float *weight, *bias;
};

/* What a pass sums: h b and h^2; x and x^2 of the shifted row; x b and x^2 of the whole map. */
enum mode { PLAIN, MOMENTS, WHOLE };

/* A row of states and the basis row it is compared with. */
struct row_sums {
    const void *row;
    const float *b;
    int64_t dim;
    affine map;
};

template <mode M>
__device__ inline void add_element(const row_sums &s, float h, int64_t i, float *first, float *second) {
    float x = h;
    if (M != PLAIN) x = (h - s.map.high) - s.map.low;
    if (M == WHOLE) {
        x *= s.map.scale;
        if (s.map.weight) x *= s.map.weight[i];
        if (s.map.bias) x += s.map.bias[i];
    }
    *first += M == MOMENTS ? x : x * s.b[i];
    *second += x * x;
}

/* Elements of one word of 16 bytes. */
template <int32_t DTYPE> struct word_of {
    enum { LENGTH = DTYPE == SALF_F32 ? 4 : 8, KNOWN = DTYPE == SALF_F32 || DTYPE == SALF_BF16 || DTYPE == SALF_F16 };
    static __device__ inline void open(const uint4 &word, float *x) {
        const unsigned int part[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (DTYPE == SALF_F32) {
                x[k] = __uint_as_float(part[k]);
                continue;
            }
            const uint16_t low = static_cast<uint16_t>(part[k] & 0xffffu), high = static_cast<uint16_t>(part[k] >> 16);
            x[2 * k] = DTYPE == SALF_BF16 ? slf_bf16_to_f32(low) : slf_f16_to_f32(low);
            x[2 * k + 1] = DTYPE == SALF_BF16 ? slf_bf16_to_f32(high) : slf_f16_to_f32(high);
        }
    }
};

/* The elements of word `at`, those that are there, one by one. */
template <int32_t DTYPE, mode M>
__device__ inline void add_elements(const row_sums &s, int64_t at, float *first, float *second) {
    const int64_t begin = at * word_of<DTYPE>::LENGTH, end = begin + word_of<DTYPE>::LENGTH;
    for (int64_t i = begin; i < end && i < s.dim; i++)
        add_element<M>(s, slf_element_f32(s.row, DTYPE, i), i, first, second);
}

/* Sums of a thread. Where rows are aligned, BATCH words are loaded before the first is used; else the same elements are
 * added in the same order, so that a result does not depend on where a row lies. */
template <int32_t DTYPE, bool WORDS, mode M> __device__ inline slf_two thread_sums(const row_sums &s) {
    enum { LENGTH = word_of<DTYPE>::LENGTH };
    const uint4 *words = static_cast<const uint4 *>(s.row);
    const int64_t whole = WORDS ? s.dim / LENGTH : 0, n = (s.dim + LENGTH - 1) / LENGTH;
    /* Thread t takes words t, t + THREADS, ...: neighbours read neighbouring words, so that each load of a warp is
     * four whole lines of 128 bytes. A float32 sum ends with each batch, after at most BATCH * 8 = 32 elements: its
     * rounding error is at most 32 * 2^-24 of the sum of absolute values, whatever D is. */
    slf_two sum = {0, 0};
    for (int64_t begin = threadIdx.x; begin < n; begin += BATCH * THREADS) {
        uint4 word[BATCH] = {};
        float first = 0, second = 0;
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (begin + k * THREADS < whole) word[k] = words[begin + k * THREADS];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const int64_t at = begin + k * THREADS;
            if (at < whole) {
                float x[LENGTH];
                word_of<DTYPE>::open(word[k], x);
#pragma unroll
                for (int e = 0; e < LENGTH; e++) add_element<M>(s, x[e], at * LENGTH + e, &first, &second);
            } else if (at < n) {
                add_elements<DTYPE, M>(s, at, &first, &second);
            }
        }
        sum.first += static_cast<double>(first);
        sum.second += static_cast<double>(second);
    }
    return sum;
}

template <int32_t DTYPE, bool WORDS, mode M> __device__ inline slf_two sums(const row_sums &s) {
    return slf_block_sum(thread_sums<DTYPE, WORDS, M>(s));
}

/* Whether float32 can be trusted with a sum of squares: above 1e-25 squares that were lost below float32's 1.2e-38 are
 * less than 2^-24 of it for any D up to 10^5 (see cpu/cosine.c); below 1e38 no partial sum has overflowed. */
__device__ inline bool usable(double square) {
    return square > 1e-25 && square < 1e38;
}

/* And with products of two vectors, by the product of their lengths. */
__device__ inline bool in_range(double product) {
    return product > 1e-25 && product < 1e37;
}

__device__ inline void set_shift(affine *map, double mean) {
    map->high = static_cast<float>(mean);
    map->low = static_cast<float>(mean - static_cast<double>(map->high));
}

/* Shift and scale of a row's norm; false when they need float64. The same for all threads. */
template <int32_t DTYPE, bool WORDS> __device__ inline bool find_affine(row_sums *s, const slf_norm &norm) {
    if (norm.kind == SALF_NORM_RMS && !norm.bias) return true;
    const double dim = static_cast<double>(s->dim);
    slf_two moments = sums<DTYPE, WORDS, MOMENTS>(*s);
    if (!usable(moments.second)) return false;
    if (norm.kind == SALF_NORM_LAYER) {
        set_shift(&s->map, moments.first / dim);
        moments = sums<DTYPE, WORDS, MOMENTS>(*s);
        if (!usable(moments.second)) return false;
        /* what is left of the mean: float32 sums of large elements lose that much */
        set_shift(&s->map, static_cast<double>(s->map.high) + static_cast<double>(s->map.low) + moments.first / dim);
    }
    s->map.scale = static_cast<float>(1 / sqrt(moments.second / dim + static_cast<double>(norm.eps)));
    return true;
}

/* By the definition, in float64; NaN for a zero row and for one that is not finite. */
__device__ inline double exact_cosine(const row_sums &s, int32_t dtype, const slf_norm &norm, double norm_b) {
    slf_two raw = {0, 0}, sum = {0, 0};
    for (int64_t i = threadIdx.x; i < s.dim; i += blockDim.x) {
        const double h = slf_element(s.row, dtype, i);
        raw.first += h * h;
    }
    /* The raw length decides whether the state has a direction: a norm with a bias makes something of nothing. */
    raw = slf_block_sum(raw);
    const slf_normed n = slf_norm_of(s.row, dtype, s.dim, norm);
    for (int64_t i = threadIdx.x; i < s.dim; i += blockDim.x) {
        const double x = slf_normed_element(n, i);
        sum.first += x * static_cast<double>(s.b[i]);
        sum.second += x * x;
    }
    sum = slf_block_sum(sum);
    const double length = sqrt(sum.second);
    return raw.first > 0 && length > 0 && isfinite(length) ? sum.first / (length * norm_b) : slf_nan();
}

/* What the kernel is given of a job, for rows of states at hand. */
struct cosine_rows {
    slf_rows states;
    slf_norm norm;
    slf_own_rows own;
    double *out;
    int64_t out_stride;
    int32_t similarity;
    int32_t plain; /* nothing of the norm changes a cosine */
};

template <int32_t DTYPE, bool WORDS> __global__ void __launch_bounds__(THREADS) cosine(cosine_rows job) {
    const int64_t r = blockIdx.x, dim = job.states.cols, own = job.own.row_of[r];
    const double norm_b = job.own.norms[own];
    row_sums s = {slf_row(job.states, r), job.own.rows + own * dim, dim, {0, 0, 1, job.norm.weight, job.norm.bias}};
    slf_two sum = {0, 0};
    if (job.plain)
        sum = sums<DTYPE, WORDS, PLAIN>(s);
    else if (find_affine<DTYPE, WORDS>(&s, job.norm))
        sum = sums<DTYPE, WORDS, WHOLE>(s);
    double value = 0;
    const double lengths = sqrt(sum.second) * norm_b;
    if (usable(sum.second) && in_range(lengths))
        value = sum.first / lengths;
    else
        value = exact_cosine(s, DTYPE, job.norm, norm_b);
    if (threadIdx.x == 0) job.out[r * job.out_stride] = job.similarity ? value : 1 - value;
}

/* Aligned rows by words, others element by element: the sums are the same. */
template <int32_t DTYPE> salf_status launch_cosine(slf_device *device, const cosine_rows &job, bool words) {
    /* One block a row, and no more rows than a grid has blocks: slf_pieces sees to that. */
    const slf_grid grid = {job.states.rows, 1, THREADS, SLF_SUM_BYTES};
    return words ? slf_launch(device, "cosine", grid, cosine<DTYPE, true>, job)
                 : slf_launch(device, "cosine", grid, cosine<DTYPE, false>, job);
}

/* A kernel for each type; one whose words are not known here is read element by element. */
salf_status launch_by_dtype(slf_device *device, const cosine_rows &job) {
    switch (job.states.dtype) {
#define LAUNCH(type, name, bytes, element) \
    case type:                             \
        return launch_cosine<type>(device, job, job.states.aligned && word_of<type>::KNOWN);
        SLF_FLOAT_TYPES(LAUNCH)
#undef LAUNCH
    default:
        return device->services.fail(SALF_E_DTYPE, "states of dtype %d", static_cast<int>(job.states.dtype));
    }
}

} // namespace

salf_status slf_cuda_cosine(void *self, const slf_cosine_job *job) {
    const slf_entry in(self);
    SLF_TRY(in.status);
    if (!job->out) return slf_cosine_losses(in.device, job);
    const slf_norm none = {SALF_NORM_NONE, 0, nullptr, nullptr};
    const bool without = !job->norm || job->norm->kind == SALF_NORM_NONE;
    cosine_rows rows = {{}, without ? none : *job->norm, job->own, nullptr, job->out_stride, job->similarity, 0};
    rows.plain = without || (rows.norm.kind == SALF_NORM_RMS && !rows.norm.weight && !rows.norm.bias);
    /* A view of device memory is one piece; rows of host memory come staged, a piece after the other. */
    int64_t first = 0;
    bool more = true;
    for (slf_pieces pieces(in.device, job->states, INT32_MAX);;) {
        SLF_TRY(pieces.next(&rows.states, &first, &more));
        if (!more) return SALF_OK;
        rows.own.row_of = job->own.row_of + first;
        rows.out = job->out + first * job->out_stride;
        SLF_TRY(launch_by_dtype(in.device, rows));
    }
}
