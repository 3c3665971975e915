/*
 * trainer.h - what the files of the trainer share: the model, a batch, and one line on each function.
 *
 * Notation, as in salf.h: m layers, hidden size D, vocabulary V, latent spaces 0 ... m. Of a layer: H heads and G key
 * and value heads of E dimensions each, F the width of the SwiGLU. Of a batch: S sequences, T tokens in all.
 *
 * Sequences lie one after the other without padding, so every array of activations is [T][something], and most
 * operations take a span of its rows: all T of them on the way up, those of one sequence on the way down.
 *
 * A function that meets an error says so in one line on standard error and ends the program.
 */
#ifndef TRAINER_H
#define TRAINER_H

#include <stdint.h>

#include "salf.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), which mixes all 64 bits. Counted up by GOLDEN from
 * call to call it is that generator. */
#define GOLDEN 0x9E3779B97F4A7C15u
static inline uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Rows from ... to-1 of an array [T][...]. */
typedef struct span {
    int64_t from, to;
} span;

/* ---- memory and errors (memory.c) ---- */

/* A chain of zeroed blocks, freed together. */
typedef struct memory {
    struct memory *next;
} memory;

void *take(memory **chain, int64_t count, int64_t size); /* [count], each of size bytes, zeroed */
void free_chain(memory **chain);
_Noreturn void fail(const char *format, ...);
void check(salf_status status, const char *what); /* ends the program with the library's message unless SALF_OK */

/* ---- operations, each with its backward (operations.c) ---- */

/* y = W x + bias + scale B (A x). W and bias are frozen; A and B are the LoRA adapter, which trains. */
typedef struct linear {
    int64_t in, out, rank;
    float scale;       /* alpha / rank */
    const float *w;    /* [out][in] */
    const float *bias; /* [out], or NULL */
    float *a, *b;      /* [rank][in], [out][rank] */
    float *d_a, *d_b;  /* their gradients */
    float *low;        /* [T][rank] A x of the last forward */
    float *d_low;      /* [T][rank] scratch */
} linear;

typedef struct heads {
    int64_t n, groups, size;      /* H, G, E */
    int64_t longest;              /* most rows of a sequence */
    const float *cosines, *sines; /* [longest][E / 2] of the rotary angles */
} heads;

void norm_forward(span rows, int64_t width, double eps, const float *x, const float *weight, float *y, float *scale);
void norm_backward(span rows, int64_t width, const float *x, const float *weight, const float *scale, const float *d_y,
                   float *d_x);
void linear_forward(const linear *l, span rows, const float *x, float *y);
void linear_backward(const linear *l, span rows, const float *x, const float *d_y, float *d_x, int trains);
void rotate(const heads *h, span sequence, int64_t n_heads, float *x, float direction);
void attention_forward(const heads *h, span sequence, const float *q, const float *k, const float *v, float *weights,
                       float *mixed);
void attention_backward(const heads *h, span sequence, const float *q, const float *k, const float *v,
                        const float *weights, const float *d_mixed, float *d_weights, float *d_q, float *d_k,
                        float *d_v);
void swiglu_forward(span rows, int64_t width, const float *gate, const float *up, float *hidden);
void swiglu_backward(span rows, int64_t width, const float *gate, const float *up, const float *d_hidden, float *d_gate,
                     float *d_up);
double cross_entropy(int64_t n, float *z, int32_t label);
float dot(int64_t n, const float *x, const float *y);
void add_scaled(int64_t n, float factor, const float *x, float *y);

/* ---- the model (llama.c; its weights and adapters: weights.c) ---- */

enum { Q, K, V, O, GATE, UP, DOWN, LINEARS };

/* Activations of a layer, or their gradients. */
typedef struct activations {
    float *normed;             /* [T][D] input of q, k, v */
    float *q, *k, *v;          /* [T][H E], [T][G E], [T][G E]; q and k rotated */
    float *mixed;              /* [T][H E] values, mixed by the attention */
    float *stream;             /* [T][D] the stream between attention and SwiGLU */
    float *normed2;            /* [T][D] input of gate and up */
    float *gate, *up, *hidden; /* [T][F] */
} activations;

typedef struct layer {
    const float *norm, *norm2; /* [D] weights of both norms, frozen */
    linear linear[LINEARS];
    float *adapters,
        *gradients; /* [n_adapters] A and B of all seven, and their gradients; layers one behind the other */
    /* what the last forward kept for the backward */
    activations kept;
    float *scale, *scale2; /* [T] 1 / root mean square of the rows that the norms saw */
    float *weights;        /* [T][H][longest] of the attention */
} layer;

typedef struct llama {
    int32_t n_layers;           /* m */
    int64_t hidden, vocab, ffn; /* D, V, F */
    int64_t rank, n_adapters;   /* LoRA's rank, and parameters that train in a layer */
    double norm_eps, rope_theta;
    heads heads;
    const float *embedding, *head; /* [V][D], frozen; one and the same where they are tied */
    const float *final_norm;       /* [D], frozen */
    layer *layers;                 /* [m] */
    float *spaces;                 /* [m + 1][T][D] latent spaces of the last forward: what salf_probe_observe sees */
    int64_t n_tokens;              /* T of the last forward */
    float *normed, *scale;         /* [S][D], [S] the last states behind the final norm */
    float *logits;                 /* [S][V]; after llama_losses: their gradient */
    float *d_weights;              /* [longest] */
    activations d;                 /* gradients, of the layer at hand; d.stream passes from layer to layer */
    memory *parameters, *scratch;
} llama;

/* Prompts, one behind the other. */
typedef struct batch {
    int64_t n;                 /* S */
    int32_t *tokens;           /* [T] */
    int64_t *first;            /* [S + 1] sequence s is rows first[s] ... first[s + 1] - 1 */
    int64_t *last;             /* [S] the row whose next token is to be right: the prompt's last */
    int32_t *labels, *classes; /* [S] that token, and the class it stands for */
} batch;

void llama_open(llama *l, const salf_model *model, int64_t rank, double alpha, uint64_t seed);
void llama_adapters(llama *l, int64_t rank, double alpha, uint64_t seed); /* makes them, for sizes and weights set */
void llama_reserve(llama *l, int64_t sequences, int64_t longest);         /* room for the largest batch */
void llama_free(llama *l);
void llama_forward(llama *l, const batch *b);
float *llama_space(const llama *l, int32_t space); /* [T][D] of the last forward */
void llama_logits(llama *l, const batch *b);
void llama_losses(llama *l, const batch *b, float *losses);
void llama_backward(llama *l, const batch *b, const int32_t *cuts, const uint8_t *trainable);

/* ---- the optimizer (adamw.c) ---- */

typedef struct adamw {
    float **first, **second; /* [m] moments of each layer's adapters, one behind the other */
    int64_t *steps;          /* [m] updates that the layer has seen */
    memory *memory;
} adamw;

void adamw_open(adamw *a, const llama *l);
void adamw_step(adamw *a, llama *l, int32_t k, double rate);
void adamw_reset(adamw *a, const llama *l, int32_t k);
void scale_gradients(llama *l, double factor, double most);

/* ---- the data (data.c, with the tokenizer: tokenizer.c) ---- */

typedef struct tokenizer tokenizer;

tokenizer *tokenizer_open(const char *path, int64_t vocab);
void tokenizer_free(tokenizer *t);
/* Ids of a text, behind the start token; ids: room for strlen(text) + 1. These tokenizers want a space in front of the
 * text, which is part of the first word's piece. */
int64_t tokenizer_encode(const tokenizer *t, const char *text, int32_t *ids);
int64_t tokenizer_length(const tokenizer *t, int32_t id); /* bytes of a piece */

/* The prompts of train.tsv or test.tsv, as a batch of all of them. */
typedef struct dataset {
    batch train, test;
    int32_t n_classes;
    int32_t *words;  /* [n_classes] the token that stands for each class */
    int64_t longest; /* most tokens of a prompt */
    memory *memory;
} dataset;

char *read_file(memory **chain, const char *folder, const char *name, int optional, int64_t *size);
void dataset_open(dataset *d, const char *folder, const tokenizer *t, int64_t limit_train, int64_t limit_test);
void batch_open(batch *b, memory **chain, int64_t sequences, int64_t tokens);
void batch_gather(batch *b, const batch *from, const uint32_t *rows, int64_t n);
uint32_t *shuffled_epochs(memory **chain, int64_t n, int64_t epochs, uint64_t seed);

#endif
