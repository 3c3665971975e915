/*
 * decoder.h - a decoder language model that trains: forward, hand-written backward, LoRA or dense.
 *
 * Architecture: what salf_decoder_info can say, that is Llama and its relatives: norms before, behind or around
 * attention and feed-forward part, rotary positions (half-split, as Hugging Face stores them) of several scalings,
 * grouped-query attention, sliding windows, gated or plain feed-forward parts, soft caps, tied or untied head.
 * Everything is float32. A batch is sequences packed one
 * after the other without padding: tokens [T], sequence s being rows offsets[s] ... offsets[s+1]-1; every matrix
 * product runs over all T rows. Notation as in salf.h: m layers, hidden size D, vocabulary V, latent spaces 0 ... m.
 *
 * A training step:
 *     decoder_clear_gradients(d);
 *     decoder_forward(d, &batch, 1, hook, user);               hands over every latent space as it is computed
 *     decoder_cross_entropy(d, labels, 1.0 / n, 0, losses, d_normed);      or any loss on decoder_normed(d)
 *     decoder_backward(d, d_normed, &plan);                    plan: depth of each sequence, layers that train
 *     norm = decoder_clip_gradients(d, 1.0);
 *     adamw_step(optimizer, lr, rate_scale);
 *
 * Parameters belong to groups: DECODER_EMBEDDING (-1) the token embedding, 0 ... m-1 the layers, m the final norm and
 * an untied head. A group is live when a backward has written its gradients since decoder_clear_gradients; norms,
 * clipping and optimizer look at live groups only, and gradients are zeroed when a group first becomes live, so that a
 * frozen layer costs nothing.
 *
 * Nothing is allocated in a step once the largest batch has been seen. The same calls on the same data give the same
 * bits. One thread at a time per decoder.
 */
#ifndef SALF_EXAMPLE_DECODER_H
#define SALF_EXAMPLE_DECODER_H

#include <stdint.h>

#include "salf.h"

#define DECODER_EMBEDDING (-1) /* group of the token embedding */
#define DECODER_NAME_SIZE 128

typedef struct decoder_config {
    int32_t n_layers; /* m */
    int32_t n_heads;
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;   /* even */
    int64_t hidden;     /* D */
    int64_t ffn_hidden;
    int64_t vocab; /* V */
    int64_t max_positions;
    double norm_eps;
    double rope_theta;        /* with layers.struct_size 0 only */
    int32_t tied;             /* 1: the head is the embedding */
    int32_t bos_token;        /* -1: unknown */
    int32_t eos_token;        /* -1: unknown */
    double embedding_scale;   /* on the embedding's output; 0 = 1 */
    double logit_scale;       /* logits = scale * head * normed state; 0 = 1 */
    double logit_softcap;     /* then cap * tanh(logits / cap); 0: none */
    int32_t norm_bias;        /* 1: layer norms have one */
    const char *prefix;       /* before names of parameters, at most 48 characters; NULL: "model." */
    salf_decoder_info layers; /* what they compute. struct_size 0: as in a Llama with rope_theta. Numbers that are 0
                                  have their neutral value: rotary_dims head_dim, attention_scale 1 / sqrt(head_dim),
                                  residual_scale 1. sliding is copied, unsupported not looked at */
} decoder_config;

/* What can train. Zeroed: dense training of all layers, embedding and head frozen. */
typedef struct decoder_training {
    int32_t lora_rank;    /* 0: dense (matrices, biases and norms of the layers); else the layers' weights stay as they
                             are and only A and B train */
    int32_t lora_targets; /* SALF_MATRIX_* mask; 0 = all seven */
    double lora_alpha;    /* W + (alpha / rank) B A; 0 = rank */
    uint64_t seed;        /* of A: uniform in +-1/sqrt(inputs); B is zero, so training starts from the model as it is */
    int32_t train_embedding; /* 1: the embedding may train (with a tied head: from both of its uses) */
    int32_t train_head;      /* 1: final norm, and an untied head, may train */
} decoder_training;

typedef struct decoder decoder;

/* What a parameter is. The two of LoRA come last. INTO_STREAM: a matrix whose outputs are added to the residual stream
 * (o and down). */
enum { DECODER_MATRIX, DECODER_INTO_STREAM, DECODER_NORM, DECODER_BIAS, DECODER_LORA_A, DECODER_LORA_B };

/* One parameter tensor, [rows][cols]; a vector is one row. */
typedef struct decoder_parameter {
    char name[DECODER_NAME_SIZE]; /* as in the checkpoint, which may hold q, k and v in one matrix, and gate and up;
                                     "...q_proj.lora_A.weight" [rank][in] and "...lora_B.weight" [out][rank] for LoRA */
    int32_t group;                /* DECODER_EMBEDDING, 0 ... m-1, or m */
    int32_t role;                 /* DECODER_MATRIX ... DECODER_LORA_B */
    int32_t trains;               /* 1: has a gradient */
    int32_t decays;               /* 1: a matrix, to which weight decay applies; 0: norm weight or bias */
    int64_t rows;
    int64_t cols;
    int64_t count;   /* rows * cols */
    float *values;   /* [count] */
    float *gradient; /* [count]; NULL unless trains */
} decoder_parameter;

/* A batch of packed sequences; all arrays are kept by the caller until the backward is done. */
typedef struct decoder_batch {
    const int32_t *tokens;  /* [T] */
    const int64_t *offsets; /* [n_sequences + 1], offsets[0] = 0, T = offsets[n_sequences]; no sequence is empty */
    int64_t n_sequences;
    const int64_t *head_rows; /* [n_head_rows] rows (0 ... T-1) whose last state goes through the final norm; distinct,
                                 ascending */
    int64_t n_head_rows;
    /* What is known before the forward saves memory, and layers: */
    const int32_t *cuts; /* [n_sequences] 0 ... m, ascending: no backward will go below this layer for the sequence, so
                            that the layers below it keep nothing of its rows. NULL: 0 for all */
    int32_t first_layer; /* the forward begins at this latent space, 0 ... m, from states; hooks see it and those
                            behind it. Layers below it have no backward: cuts are first_layer or more, or NULL */
    const float *states; /* [T][D] the raw states of space first_layer, as a hook saw them (of space m the head rows
                            alone are real); NULL when first_layer is 0: then tokens are looked up */
} decoder_batch;

/* Receives latent space 0 ... m, in order: states [T][D] float32, contiguous, raw (no final norm; see decoder_normed
 * for the normed last states). In space m only the batch's head rows hold states, the others zeros: the last layer is
 * not computed where nothing reads it. Who needs all its rows makes all of them head rows. Valid during the call.
 * Returns SALF_OK or the status that the forward shall fail with.
 */
typedef salf_status (*decoder_hook)(void *user, int32_t space, int64_t rows, const float *states);

/* How deep each sequence trains, and which layers. NULL fields: eof 0 for all, every layer trains. */
typedef struct decoder_plan {
    const int32_t *eof;       /* [n_sequences] 0 ... m: layers eof ... m-1 run backward for it; m: none */
    const uint8_t *trainable; /* [m] 0: activation gradients pass, weights get none */
    int32_t train_embedding;  /* 1: embedding gradient from sequences with eof 0, where it may train */
    int32_t train_head;       /* 1: final norm's gradient, where it may train (from sequences with eof < m) */
} decoder_plan;

/* The message of the last call here (or in adamw.h) that failed in this thread; "" if none did. */
const char *decoder_error(void);

/* Whether decoder_open can run the model's layers, of which nothing is read: for hosts with work to do before. */
salf_status decoder_check(const salf_model *model);
/* Weights of a model opened from a checkpoint folder by salf_model_open, converted to float32, under the checkpoint's
 * names. The model may be destroyed afterwards. context: kept for reading and writing files, and must outlive the
 * decoder. training NULL: inference only. Errors: SALF_E_UNSUPPORTED (what its layers compute, a tensor of them that is
 * not understood, or LoRA on a part of a fused matrix), SALF_E_NOT_FOUND, SALF_E_MISMATCH and SALF_E_DTYPE (a tensor),
 * SALF_E_NO_MEMORY, SALF_E_ARGUMENT. */
salf_status decoder_open(decoder **out, salf_context *context, const salf_model *model,
                         const decoder_training *training);
/* Fresh weights: normal with deviation 0.02 (projections back into the stream: 0.02 / sqrt(2 m)), norms 1, biases 0. */
salf_status decoder_create(decoder **out, salf_context *context, const decoder_config *config,
                           const decoder_training *training, uint64_t seed);
void decoder_free(decoder *d);

const decoder_config *decoder_get_config(const decoder *d);
/* Parameters in a fixed order: embedding, layers, final norm, head. Pointers live as long as the decoder. After writing
 * values (a resumed run) nothing else is to be done. */
int64_t decoder_n_parameters(const decoder *d);
decoder_parameter *decoder_parameter_at(decoder *d, int64_t index);
/* 1 when the group has gradients since the last decoder_clear_gradients. */
int32_t decoder_is_live(const decoder *d, int32_t group);

/* Runs the batch. keep 1: what the backward needs is kept until the next forward; 0: inference. hook may be NULL.
 * Errors: SALF_E_ARGUMENT (token outside the vocabulary, sequence beyond max_positions, row out of range, cuts not
 * ascending), SALF_E_NO_MEMORY, or the hook's. */
salf_status decoder_forward(decoder *d, const decoder_batch *batch, int32_t keep, decoder_hook hook, void *user);
/* States at the head rows of the last forward after the final norm, [n_head_rows][D]; valid until the next
 * forward, and in its hook from space m on. */
const float *decoder_normed(const decoder *d);
/* Logits of these tokens at every head row, [n_head_rows][n_tokens]; tokens NULL: of all, n_tokens = V. */
salf_status decoder_logits(decoder *d, const int32_t *tokens, int64_t n_tokens, float *logits);
/* Softmax cross-entropy over the vocabulary at every head row: losses [n_head_rows], and scale * its gradient with
 * respect to the normed states, d_normed [n_head_rows][D] (may be NULL). head_gradient 1: adds scale * the gradient of
 * the head's matrix, where it may train (tied: into the embedding's gradient). Logits are made in tiles of rows. */
salf_status decoder_cross_entropy(decoder *d, const int32_t *labels, double scale, int32_t head_gradient, float *losses,
                                  float *d_normed);

/* No group is live any more. */
void decoder_clear_gradients(decoder *d);
/* Adds gradients of the last forward (keep 1) for the gradient d_normed [n_head_rows][D] of its normed states. The
 * backward of layer k runs on the sequences with eof <= k only, and stops below the lowest layer that trains; this
 * equals training every sequence on its own. plan NULL: everything. SALF_E_SEQUENCE without such a forward, or when an
 * eof is below the cut that its sequence had there; SALF_E_ARGUMENT. */
salf_status decoder_backward(decoder *d, const float *d_normed, const decoder_plan *plan);

/* Of each layer, [m] each: L1 and L2 norm of its gradients, 0 where it is not live, and L2 norm of its parameters that
 * train. What policies that look at gradients ask for. */
void decoder_layer_norms(const decoder *d, double *gradient_l1, double *gradient_l2, double *parameter_l2);
/* Bytes that the decoder holds above its weights: activations and scratch of the largest batch so far, and gradients of
 * groups that have been live (others are never written, so that the system gives them no pages). */
int64_t decoder_extra_bytes(const decoder *d);
/* Norm of all live gradients; when it is above max_norm (> 0) they are scaled down to it. */
double decoder_clip_gradients(decoder *d, double max_norm);

/* Writes model.safetensors and config.json into a folder (made when missing), LoRA merged; dtype SALF_F32 or SALF_BF16.
 * For decoders that were created: SALF_E_UNSUPPORTED when their layers are not a Llama's or a Qwen2's. Other errors:
 * those of salf_tensors_save, SALF_E_IO, SALF_E_DTYPE. */
salf_status decoder_save(const decoder *d, const char *folder, int32_t dtype);
/* Writes the checkpoint folder `source`, from which the decoder was opened, with the weights as they are now: the same
 * tensors under the same names, config.json with every key as it was but for the element type, and the tokenizer and
 * generation files as they are. Errors also: those of decoder_check_source. */
salf_status decoder_save_like(const decoder *d, const char *source, const char *folder, int32_t dtype);
/* What decoder_save_like would refuse, for a start before hours of training: SALF_E_NOT_FOUND or SALF_E_MISMATCH (the
 * source lacks a parameter, or has it in another shape), SALF_E_IO, SALF_E_ARGUMENT (the folder is the source). Makes
 * the folder. */
salf_status decoder_check_source(const decoder *d, const char *source, const char *folder);
/* A hash of what decoder_save_like takes from the source: contents of config.json and of the files that go along; of
 * tensor files which they are, their sizes and times. SALF_E_IO, SALF_E_NOT_FOUND. */
salf_status decoder_hash_source(const char *source, uint64_t *hash);
/* Writes all parameters, LoRA merged, to a file: where the source has become another. */
salf_status decoder_save_weights(const decoder *d, const char *path, int32_t dtype);

#endif
