/*
 * decoder_internal.h - what the decoder's files share: weights by layer, kept activations, scratch memory.
 *
 * Projections that read the same input are fused: q, k and v are one matrix [Q + 2 KV][D] and gate and up one
 * [2 F][D] ([F][D] where there is no gate), where Q = heads * head_dim, KV = kv_heads * head_dim and F is the FFN's
 * hidden size. So a layer has four projections, and each may carry LoRA adapters on parts of its outputs. With G we
 * mean the rows of the third, 2 F or F.
 */
#ifndef SALF_EXAMPLE_DECODER_INTERNAL_H
#define SALF_EXAMPLE_DECODER_INTERNAL_H

#include "decoder.h"
#include "ops.h"

/* The fused projections of a layer. */
enum { PROJECT_QKV, PROJECT_O, PROJECT_GATE_UP, PROJECT_DOWN, N_PROJECTIONS };
enum { MOST_PARTS = 3 }; /* matrices that are fused into one: q, k and v */

/* One of the matrices fused into a projection, as the checkpoint has them: its outputs are first ... first + count - 1
 * there. The indices are of the parameter table; 0, the embedding's, means none. */
typedef struct projection_part {
    int64_t first;
    int64_t count;
    int32_t adapted; /* 1: has LoRA */
    int64_t weight;
    int64_t bias_id;
    int64_t a;
    int64_t b;
    const float *bias; /* [count] or NULL */
    float *d_bias;
} projection_part;

/* LoRA on one part of a projection: outputs first ... first + count - 1 of a projection. */
typedef struct adapter {
    int64_t first;
    int64_t count;
    const float *b; /* [count][rank] */
    float *d_b;
} adapter;

/* y = x W^T + biases, and for adapter i with A_i its rows of a: y[first...] += scale (x A_i^T) B_i^T. */
typedef struct projection {
    int64_t in;
    int64_t out;
    const float *weight; /* [out][in] */
    float *d_weight;     /* NULL unless it trains densely */
    int64_t y_stride;    /* floats from row to row of y: out, unless this is a part of another's outputs */
    int64_t low_stride;  /* the same of x A^T: n_adapters * rank, or the other's */
    int64_t low_first;   /* where in a row of x A^T its own begins */
    int32_t n_adapters;
    int32_t rank;
    float scale;
    const float *a; /* [n_adapters * rank][in] */
    float *d_a;
    adapter adapters[MOST_PARTS];
    int32_t n_parts;
    projection_part parts[MOST_PARTS];
} projection;

/* Norms of a layer: before attention, of what attention adds to the stream, before the feed-forward part, of what that
 * adds, and of queries and keys. A layer has some of them. */
enum { NORM_1, NORM_ATTENDED, NORM_2, NORM_FED, NORM_Q, NORM_K, N_NORMS };

/* A layer as the passes read it. */
typedef struct decoder_layer {
    int64_t norm_ids[N_NORMS]; /* indices of their weights in the parameter table, the bias behind; 0: no such norm */
    ops_norm norms[N_NORMS];   /* weight NULL: no such norm */
    projection projections[N_PROJECTIONS];
    ops_heads heads;
    int32_t local; /* which table of rotary positions: 1 of layers with a window that have their own */
} decoder_layer;

/* What a layer's backward reads, of the first sequences of the batch: those whose cut is not above the layer, R rows
 * with H head rows. In the last layer everything behind the attention weights is computed at the head rows only, there
 * being no use for the others: R is H there in what is marked *. */
typedef struct layer_record {
    int64_t sequences;
    int64_t rows;              /* R */
    int64_t tail;              /* R, or H where the layer goes on at the head rows only */
    float *input;              /* [R][D] latent space k */
    float *moments1;           /* [R][2] of input, of NORM_1; as in ops.h */
    float *raw;                /* [R][Q + KV] queries and keys before their norms; NULL: there are none */
    float *qkv;                /* [R][Q + 2 KV], rotated */
    float *weights;            /* attention, by sequence and head: [n or its head rows][n], zero above the diagonal */
    float *attention;          /* * [R][Q] */
    float *attended;           /* * [R][D] what NORM_ATTENDED reads; NULL: there is none */
    float *moments_attended;   /* * [R][2] */
    float *middle;             /* * [R][D] stream after attention */
    float *moments2;           /* * [R][2] of middle, of NORM_2 */
    float *gate_up;            /* * [R][G] */
    float *fed;                /* * [R][D] what NORM_FED reads; NULL */
    float *moments_fed;        /* * [R][2] */
    float *low[N_PROJECTIONS]; /* [R][n_adapters * rank]: x A^T; * but for q, k and v */
} layer_record;

/* A block of floats that grows to the largest need and is then reused. Laid out twice by the same code: first without
 * memory, to measure, then for real. */
typedef struct arena {
    float *memory;
    int64_t capacity;
    int64_t used;
    int32_t measuring;
} arena;

/* Both passes take a layer in blocks of whole sequences, of at most this many rows or one sequence alone. What a pass
 * needs on its way and nobody keeps is so no larger than a block, and stays in the processor's cache. */
enum { BLOCK_ROWS = 512 };

/* What a pass needs on its way: for B rows of a block, or all T where it says so. */
typedef struct decoder_scratch {
    float *normed;      /* [B][D] */
    float *branch;      /* [B][D] what attention or feed-forward part adds to the stream, where it is not added at once;
                           on the way back its gradient */
    float *d_branch;    /* [B][D] the same before its norm */
    float *moments;     /* [heads or head rows][2] of norms that nobody keeps */
    float *raw;         /* [Q + KV] gradient of queries and keys behind their norms */
    float *hidden;      /* [B][F] */
    float *tail;        /* [n_head_rows][D] last space at the head rows; on the way back the gradient there */
    float *d_stream;    /* [T][D] gradient of the residual stream, compact rows */
    float *d_normed;    /* [B][D] */
    float *d_heads;     /* [head rows of B][D] d_normed of their queries */
    float *d_qkv;       /* [B][Q + 2 KV] */
    float *d_attention; /* [B][Q] */
    float *gathered;    /* [B][Q] attention outputs of the active rows */
    float *query;       /* [head rows of B][Q] queries of the last layer */
    float *d_query;     /* the same */
    float *d_gate_up;   /* [B][G] */
    float *d_hidden;    /* [B][F] */
    float *attention;   /* of the attention over the longest sequence */
    float *low;         /* [B][widest n_adapters * rank] */
    float *d_low;       /* the same */
} decoder_scratch;

struct decoder {
    decoder_config config;
    char prefix[64];  /* config.prefix points here */
    uint8_t *sliding; /* [m], config.layers.sliding; NULL: no layer has a window */
    decoder_training training;
    int32_t inference; /* 1: nothing trains */
    salf_context *context;
    int64_t query_width; /* Q */
    int64_t kv_width;    /* KV */
    int64_t gate_width;  /* G */
    decoder_parameter *parameters;
    int64_t n_parameters;
    int64_t final_norm_id; /* index in parameters; the embedding's is 0, an untied head's the last */
    float *values;         /* all parameters */
    float *gradients;      /* of those that train */
    decoder_layer *layers;
    uint8_t *live;          /* [m + 2], group -1 first: 1 live, 2 was live before, 0 never */
    const float *embedding; /* [V][D] */
    float *d_embedding;
    ops_norm final_norm;
    const float *head; /* [V][D] */
    float *d_head;

    /* the last forward */
    decoder_batch batch;
    int32_t ready; /* 1: it succeeded */
    int32_t kept;
    layer_record *records; /* [m] */
    layer_record unkept;   /* of a block whose rows a layer keeps nothing of */
    float *spaces[2];      /* [T][D] spaces that no record holds whole: of even and of odd number */
    float *last;           /* [T][D] space m */
    float *final_moments;  /* [n_head_rows][2] of last at the head rows, compact */
    float *normed;         /* [n_head_rows][D] */
    decoder_scratch scratch;
    arena arena;
    float *tile; /* logits of a tile of rows */
    int64_t tile_rows;
    float *capped; /* [V] logits of a row, where there is a soft cap */
    float
        *rope[2]; /* [rope_positions][rotary_dims]: cosines, then sines; the second where some layers have their own */
    int64_t rope_positions;
    int64_t *order; /* index arrays of the backward */
    int64_t order_capacity;
};

/* Sets the message of decoder_error and gives status back. */
salf_status decoder_fail(salf_status status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* The same with the library's message. */
salf_status decoder_fail_library(salf_status status);

/* Builds the parameter table, with names as in `file` (NULL: those of a Llama), values zero, and layers' pointers. */
salf_status decoder_build(decoder *d, const salf_tensors *file);
/* 1: the file has a tensor of this name. */
int decoder_has_tensor(const salf_tensors *file, const char *name);
/* Fills the values from a checkpoint, and accounts for every tensor in it. */
salf_status decoder_load(decoder *d, const salf_tensors *file);
/* Numbers of rotary positions that make no sense are named. */
salf_status decoder_check_rope(const decoder_config *config);
/* Frequencies of the rotary positions, [rotary_dims / 2]; local 1: of layers that have their own. Returns the factor on
 * cosines and sines. */
double decoder_frequencies(const decoder_config *config, int32_t local, double *frequencies);
/* Copies what a checkpoint folder holds beside its weights, config.json with this element type ("float32"); type
 * NULL: only tries whether it can be read, and written there. */
salf_status decoder_copy_files(const char *source, const char *folder, const char *type);
/* Checks a batch, takes it over and makes room for its passes. */
salf_status decoder_prepare(decoder *d, const decoder_batch *batch, int32_t keep);
/* Rows of the batch on which layer k goes on behind its attention: the head rows in the last layer, unless these are
 * all. NULL: all. */
const int64_t *decoder_tail(const decoder *d, int32_t k);
/* The lowest layer whose backward the last forward allows for a sequence. */
int32_t decoder_cut(const decoder *d, int64_t sequence);

/* Marks a group live; zeroes its gradients when it was not. */
void decoder_touch(decoder *d, int32_t group);

#endif
