/*
 * families.c - the model families of Hugging Face checkpoints: what their configurations leave unsaid, where their
 * head, embedding and final norm lie, and what salf_decoder_info has to know beside the configuration. The table of
 * names is in docs/formats.md.
 *
 * Names, kinds of norm and defaults are those of the classes of transformers 5, read there and then measured: the suite
 * test-conformance saves a model of each of these families and compares head and norm with what the model computes.
 */
#include <string.h>

#include "io.h"

/* Where tensors lie, in the order of slf_family: Llama's names, and those of GPT-2. */
#define LLAMA_NAMES     .prefix = "model.", .embedding = "embed_tokens.weight", .norm = "norm", .layers = "layers."
#define LLAMA_LAYERNORM .prefix = "model.", .embedding = "embed_tokens.weight", .layers = "layers."
#define GPT2_NAMES      .prefix = "transformer.", .embedding = "wte.weight", .norm = "ln_f", .layers = "h."
#define MAMBA_NAMES     .prefix = "backbone.", .embedding = "embeddings.weight", .norm = "norm_f", .layers = "layers."
/* The norms that most families end with. */
#define RMS        .norm_kind = SALF_NORM_RMS, .eps = "rms_norm_eps"
#define RMS1P      .norm_kind = SALF_NORM_RMS1P, .eps = "rms_norm_eps"
#define LAYER(key) .norm_kind = SALF_NORM_LAYER, .norm_bias = 1, .eps = key
#define QKV        (SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V)
/* Every row begins so, which keeps clang-format from giving each of its words a line. */
#define NAMED(word) .name = word

static const slf_family families[] = {
    /* ---- decoders that salf_decoder_info describes ---- */
    /* Llama 1 to 3.3, and with it Yi, Vicuna, TinyLlama, SmolLM 1 and 2, DeepSeek 1 and many others. */
    {NAMED("llama"), .id = SALF_FAMILY_LLAMA, RMS, LLAMA_NAMES, .described = 1,
     .bias_keys = SLF_ATTENTION_BIAS | SLF_MLP_BIAS, .defaults = "rms_norm_eps=1e-6 hidden_act=silu rope_theta=10000",
     .sizes = "num_hidden_layers=32 hidden_size=4096 num_attention_heads=32 intermediate_size=11008 vocab_size=32000"},
    /* A window in every layer, which version 0.1 has, and later ones write as null. */
    {NAMED("mistral"), .id = SALF_FAMILY_MISTRAL, RMS, LLAMA_NAMES, .described = 1, .window = SLF_WINDOW_ALL,
     .defaults = "rms_norm_eps=1e-6 hidden_act=silu rope_theta=10000 sliding_window=4096 num_key_value_heads=8 "
                 "max_position_embeddings=131072",
     .sizes = "num_hidden_layers=32 hidden_size=4096 num_attention_heads=32 intermediate_size=14336 vocab_size=32000"},
    /* Qwen 2 and 2.5: biases that no key says. Its windows are off but for a few. */
    {NAMED("qwen2"), .id = SALF_FAMILY_QWEN2, RMS, LLAMA_NAMES, .described = 1, .biases = QKV,
     .window = SLF_WINDOW_FROM,
     .defaults = "rms_norm_eps=1e-6 hidden_act=silu rope_theta=10000 sliding_window=4096 max_window_layers=28 "
                 "num_key_value_heads=32 max_position_embeddings=32768",
     .sizes = "num_hidden_layers=32 hidden_size=4096 num_attention_heads=32 intermediate_size=22016 vocab_size=151936"},
    /* Norms of queries and keys for Qwen 2's biases; heads are 128 wide whatever the hidden size is. */
    {NAMED("qwen3"), .id = SALF_FAMILY_QWEN3, RMS, LLAMA_NAMES, .described = 1, .qk_norm = SALF_QK_NORM_HEAD,
     .bias_keys = SLF_ATTENTION_BIAS, .window = SLF_WINDOW_FROM,
     .defaults = "rms_norm_eps=1e-6 hidden_act=silu rope_theta=10000 sliding_window=4096 max_window_layers=28 "
                 "num_key_value_heads=32 max_position_embeddings=32768 head_dim=128"},
    /* Norm weights stored less 1, a scaled embedding, GELU in gated blocks. */
    {NAMED("gemma"), .id = SALF_FAMILY_GEMMA, RMS1P, LLAMA_NAMES, .described = 1, .bias_keys = SLF_ATTENTION_BIAS,
     .scales_embedding = 1,
     .defaults =
         "rms_norm_eps=1e-6 hidden_act=gelu_pytorch_tanh rope_theta=10000 tie_word_embeddings=true head_dim=256 "
         "num_key_value_heads=16 max_position_embeddings=8192"},
    /* Norms behind the blocks as well, soft caps, a window in every other layer. */
    {NAMED("gemma2"), .id = SALF_FAMILY_GEMMA2, RMS1P, LLAMA_NAMES, .described = 1, .block = SALF_BLOCK_SANDWICH_NORM,
     .bias_keys = SLF_ATTENTION_BIAS, .window = SLF_WINDOW_PATTERN, .scales_embedding = 1,
     .defaults = "rms_norm_eps=1e-6 hidden_activation=gelu_pytorch_tanh rope_theta=10000 tie_word_embeddings=true "
                 "head_dim=256 num_key_value_heads=4 max_position_embeddings=8192 query_pre_attn_scalar=256 "
                 "sliding_window=4096 sliding_window_pattern=2 final_logit_softcapping=30 attn_logit_softcapping=50"},
    /* Norms of queries and keys for the soft caps; five layers with a window and rotary positions of their own, then
     * one without. */
    {NAMED("gemma3_text"), .id = SALF_FAMILY_GEMMA3, RMS1P, LLAMA_NAMES, .described = 1,
     .block = SALF_BLOCK_SANDWICH_NORM, .qk_norm = SALF_QK_NORM_HEAD, .bias_keys = SLF_ATTENTION_BIAS,
     .window = SLF_WINDOW_PATTERN, .local_rope = 1, .scales_embedding = 1,
     /* The configuration of a model with images may leave out all that is the class's own, the sizes as well. */
     .defaults = "rms_norm_eps=1e-6 hidden_activation=gelu_pytorch_tanh rope_theta=1000000 rope_local_base_freq=10000 "
                 "tie_word_embeddings=true vocab_size=262208 num_attention_heads=8 num_key_value_heads=4 head_dim=256 "
                 "max_position_embeddings=131072 query_pre_attn_scalar=256 sliding_window=4096 "
                 "sliding_window_pattern=6 final_logit_softcapping",
     .sizes = "num_hidden_layers=26 hidden_size=2304 intermediate_size=9216"},
    /* Phi-3, 3.5 and 4: queries, keys and values in one tensor, gate and up in another. */
    {NAMED("phi3"), .id = SALF_FAMILY_PHI3, RMS, LLAMA_NAMES, .described = 1,
     .fused = QKV | SALF_MATRIX_GATE | SALF_MATRIX_UP, .window = SLF_WINDOW_ALL, .partial_rotary = 1,
     .defaults = "rms_norm_eps=1e-5 hidden_act=silu rope_theta=10000 max_position_embeddings=4096"},
    /* Norms behind the blocks only, and of all heads' queries and keys together. */
    {NAMED("olmo2"), .id = SALF_FAMILY_OLMO2, RMS, LLAMA_NAMES, .described = 1, .block = SALF_BLOCK_POST_NORM,
     .qk_norm = SALF_QK_NORM_ALL, .bias_keys = SLF_ATTENTION_BIAS,
     .defaults = "rms_norm_eps=1e-5 hidden_act=silu rope_theta=10000"},
    /* OLMo 2 with windows in three of four layers, whose rotary positions are never scaled. */
    {NAMED("olmo3"), .id = SALF_FAMILY_OLMO3, RMS, LLAMA_NAMES, .described = 1, .block = SALF_BLOCK_POST_NORM,
     .qk_norm = SALF_QK_NORM_ALL, .bias_keys = SLF_ATTENTION_BIAS, .window = SLF_WINDOW_PATTERN, .local_rope = 1,
     .defaults = "rms_norm_eps=1e-5 hidden_act=silu rope_theta=500000 sliding_window=4096 sliding_window_pattern=4"},
    /* Llama with four factors: on embedding, scores, residuals and logits. */
    {NAMED("granite"), .id = SALF_FAMILY_GRANITE, RMS, LLAMA_NAMES, .described = 1,
     .bias_keys = SLF_ATTENTION_BIAS | SLF_MLP_BIAS,
     .defaults = "rms_norm_eps=1e-6 hidden_act=silu rope_theta=10000 embedding_multiplier=1 logits_scaling=1 "
                 "residual_multiplier=1 attention_multiplier=1"},
    /* LayerNorm, and a quarter of each head rotated. */
    {NAMED("stablelm"), .id = SALF_FAMILY_STABLELM, LAYER("layer_norm_eps"), LLAMA_NAMES, .described = 1,
     .bias_keys = SLF_QKV_BIAS, .partial_rotary = 1,
     .defaults = "layer_norm_eps=1e-5 hidden_act=silu rope_theta=10000 partial_rotary_factor=0.25 "
                 "num_key_value_heads=32 max_position_embeddings=4096"},
    /* Every fourth layer without rotary positions, unless the file says that all have them. */
    {NAMED("smollm3"), .id = SALF_FAMILY_SMOLLM3, RMS, LLAMA_NAMES, .described = 1,
     .bias_keys = SLF_ATTENTION_BIAS | SLF_MLP_BIAS, .window = SLF_WINDOW_FROM,
     .defaults = "rms_norm_eps=1e-6 hidden_act=silu rope_theta=2000000 tie_word_embeddings=true num_key_value_heads=4 "
                 "max_position_embeddings=32768 no_rope_layer_interval=4"},

    /* ---- head, norm and embedding alone: RMSNorm under Llama's names ---- */
    {NAMED("mixtral"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5 num_key_value_heads=8"},
    {NAMED("ministral"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6"},
    {NAMED("ministral3"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("qwen2_moe"), RMS, LLAMA_NAMES, .biases = QKV, .defaults = "rms_norm_eps=1e-6"},
    {NAMED("qwen3_moe"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6"},
    {NAMED("qwen3_next"), RMS1P, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6 head_dim=256"},
    {NAMED("qwen3_5_text"), RMS1P, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6 head_dim=256"},
    {NAMED("qwen2_vl_text"), RMS, LLAMA_NAMES, .biases = QKV, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("qwen2_5_vl_text"), RMS, LLAMA_NAMES, .biases = QKV, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("qwen3_vl_text"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6 head_dim=128"},
    {NAMED("olmoe"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("flex_olmo"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6"},
    {NAMED("granitemoe"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6 logits_scaling=1 embedding_multiplier=1"},
    {NAMED("granitemoehybrid"), RMS, LLAMA_NAMES,
     .defaults = "rms_norm_eps=1e-6 logits_scaling=1 embedding_multiplier=1"},
    {NAMED("llama4_text"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5 head_dim=128"},
    {NAMED("deepseek_v2"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6"},
    {NAMED("deepseek_v3"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6"},
    {NAMED("glm"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1.5625e-7 head_dim=128"},
    {NAMED("glm4"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1.5625e-7 head_dim=128"},
    {NAMED("glm4_moe"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("helium"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-8 head_dim=128"},
    {NAMED("seed_oss"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-6 head_dim=128"},
    {NAMED("arcee"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("ernie4_5"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5 tie_word_embeddings=true head_dim=128"},
    {NAMED("ernie4_5_moe"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5 tie_word_embeddings=true"},
    {NAMED("hunyuan_v1_dense"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("hunyuan_v1_moe"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("exaone4"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("gpt_oss"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5 head_dim=64"},
    {NAMED("bitnet"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("apertus"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("diffllama"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("minimax"), RMS, LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5"},
    {NAMED("vaultgemma"), RMS1P, LLAMA_NAMES, .scales_embedding = 1,
     .defaults = "rms_norm_eps=1e-6 tie_word_embeddings=true head_dim=256 final_logit_softcapping=30"},
    {NAMED("jamba"), RMS, LLAMA_LAYERNORM, .norm = "final_layernorm", .defaults = "rms_norm_eps=1e-6"},
    {NAMED("falcon_h1"), RMS, LLAMA_LAYERNORM, .norm = "final_layernorm",
     .defaults = "rms_norm_eps=1e-5 lm_head_multiplier=1 embedding_multiplier=1"},
    {NAMED("lfm2"), .norm_kind = SALF_NORM_RMS, .eps = "norm_eps", LLAMA_LAYERNORM, .norm = "embedding_norm",
     .defaults = "norm_eps=1e-5 tie_word_embeddings=true"},
    {NAMED("mamba"), .norm_kind = SALF_NORM_RMS, .eps = "layer_norm_epsilon", MAMBA_NAMES,
     .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true num_attention_heads=1"},
    {NAMED("falcon_mamba"), .norm_kind = SALF_NORM_RMS, .eps = "layer_norm_epsilon", MAMBA_NAMES,
     .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true num_attention_heads=1"},

    /* ---- head, norm and embedding alone: LayerNorm. Cohere's has no bias, OLMo's neither bias nor weight, Nemotron's
     * weight is stored less 1. ---- */
    {NAMED("olmo"), .norm_kind = SALF_NORM_LAYER, LLAMA_LAYERNORM, .defaults = ""},
    {NAMED("cohere"), .norm_kind = SALF_NORM_LAYER, .eps = "layer_norm_eps", LLAMA_NAMES,
     .defaults = "layer_norm_eps=1e-5 tie_word_embeddings=true logit_scale=0.0625"},
    {NAMED("cohere2"), .norm_kind = SALF_NORM_LAYER, .eps = "layer_norm_eps", LLAMA_NAMES,
     .defaults = "layer_norm_eps=1e-5 tie_word_embeddings=true logit_scale=0.0625"},
    {NAMED("nemotron"), LAYER("norm_eps"), LLAMA_NAMES, .norm_plus_one = 1, .defaults = "norm_eps=1e-5 head_dim=128"},
    {NAMED("phi"), LAYER("layer_norm_eps"), LLAMA_LAYERNORM, .norm = "final_layernorm", .head_bias = 1,
     .defaults = "layer_norm_eps=1e-5"},
    {NAMED("phimoe"), LAYER("rms_norm_eps"), LLAMA_NAMES, .defaults = "rms_norm_eps=1e-5 lm_head_bias=false"},
    {NAMED("persimmon"), LAYER("layer_norm_eps"), LLAMA_LAYERNORM, .norm = "final_layernorm",
     .defaults = "layer_norm_eps=1e-5"},
    {NAMED("starcoder2"), LAYER("norm_epsilon"), LLAMA_NAMES, .defaults = "norm_epsilon=1e-5 tie_word_embeddings=true"},
    {NAMED("xglm"), LAYER(NULL), LLAMA_LAYERNORM, .norm = "layer_norm",
     .defaults = "tie_word_embeddings=true scale_embedding=true"},
    {NAMED("biogpt"), LAYER(NULL), .prefix = "biogpt.", .embedding = "embed_tokens.weight", .norm = "layer_norm",
     .layers = "layers.", .head = "output_projection",
     .defaults = "tie_word_embeddings=true scale_embedding=true layer_norm_eps=1e-12"},
    {NAMED("opt"), LAYER(NULL), .prefix = "model.decoder.", .embedding = "embed_tokens.weight",
     .norm = "final_layer_norm", .layers = "layers.", .defaults = "tie_word_embeddings=true"},
    {NAMED("gpt_neox"), LAYER("layer_norm_eps"), .prefix = "gpt_neox.", .embedding = "embed_in.weight",
     .norm = "final_layer_norm", .layers = "layers.", .head = "embed_out", .defaults = "layer_norm_eps=1e-5"},
    {NAMED("gpt2"), .id = SALF_FAMILY_GPT2, LAYER("layer_norm_epsilon"), GPT2_NAMES, .biases = SALF_MATRIX_ALL,
     .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true"},
    {NAMED("gpt_bigcode"), LAYER("layer_norm_epsilon"), GPT2_NAMES, .biases = SALF_MATRIX_ALL,
     .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true"},
    {NAMED("gpt_neo"), LAYER("layer_norm_epsilon"), GPT2_NAMES,
     .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true"},
    {NAMED("gptj"), LAYER("layer_norm_epsilon"), GPT2_NAMES, .head_bias = 1, .defaults = "layer_norm_epsilon=1e-5"},
    {NAMED("codegen"), LAYER("layer_norm_epsilon"), GPT2_NAMES, .head_bias = 1, .defaults = "layer_norm_epsilon=1e-5"},
    {NAMED("falcon"), LAYER("layer_norm_epsilon"), .prefix = "transformer.", .embedding = "word_embeddings.weight",
     .norm = "ln_f", .layers = "h.", .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true"},
    {NAMED("bloom"), LAYER("layer_norm_epsilon"), .prefix = "transformer.", .embedding = "word_embeddings.weight",
     .norm = "ln_f", .layers = "h.", .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true"},
    {NAMED("mpt"), .norm_kind = SALF_NORM_LAYER, .eps = "layer_norm_epsilon", .prefix = "transformer.",
     .embedding = "wte.weight", .norm = "norm_f", .layers = "blocks.",
     .defaults = "layer_norm_epsilon=1e-5 tie_word_embeddings=true"},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* Composite models name their text model's family once more, inside; old files leave that out. */
static const char *const same[][2] = {{"gemma3", "gemma3_text"},         {"qwen2_vl", "qwen2_vl_text"},
                                      {"qwen2_5_vl", "qwen2_5_vl_text"}, {"qwen3_vl", "qwen3_vl_text"},
                                      {"qwen3_5", "qwen3_5_text"},       {"mistral3", "mistral"},
                                      {"llama4", "llama4_text"},         {"llava", "llama"},
                                      {"llava_next", "llama"},           {"paligemma", "gemma"}};

/* Some seventy rows, looked at once for a model: a search needs no order and no hash. */
const slf_family *slf_family_of_name(const char *model_type) {
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (strcmp(same[i][0], model_type) == 0) model_type = same[i][1];
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, model_type) == 0) return &families[i];
    return NULL;
}

void slf_family_names(char *text, size_t size) {
    *text = 0;
    for (size_t i = 0; i < N_FAMILIES; i++) slf_list_word(text, size, ", ", families[i].name);
}
