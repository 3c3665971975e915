/* What a configuration says of a checkpoint's layers, and that no key of it is passed over in silence. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "harness.h"
#include "io/io.h"

#define SHAPE                                                                                 \
    "\"num_hidden_layers\":4,\"hidden_size\":64,\"vocab_size\":70,\"num_attention_heads\":4," \
    "\"num_key_value_heads\":2,\"intermediate_size\":96,\"max_position_embeddings\":128"

/* Reads {"model_type": type, SHAPE, rest}. You free the configuration. */
static salf_status read_text(salf_context *context, slf_config *config, const char *type, const char *rest,
                             const char *accept) {
    char text[2048];
    snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SHAPE "%s%s}", type, *rest ? "," : "", rest);
    slf_json *json;
    *config = (slf_config){0};
    salf_status status = slf_json_parse(&json, context, text, strlen(text), false, "c.json");
    if (status == SALF_OK) status = slf_config_read(config, context, json, "c.json", accept);
    slf_json_release(json);
    if (status != SALF_OK) slf_config_free(config); /* nothing of it may be used */
    return status;
}

/* ---- keys ---- */

/* Each key is read, neutral, harmless, named as what the description lacks, or refused. */
typedef struct {
    const char *type, *rest;
    salf_status status;
    const char *words; /* in the message, or in what the description lacks; "" there: complete */
} key_case;

static const key_case key_cases[] = {
    /* harmless */
    {"llama", "\"attention_dropout\":0.1,\"initializer_range\":0.02,\"use_cache\":false,\"torch_dtype\":\"float32\"",
     SALF_OK, ""},
    {"llama", "\"pad_token_id\":0,\"architectures\":[\"x\"],\"pretraining_tp\":2,\"dtype\":null,\"temperature\":0.6",
     SALF_OK, ""},
    {"llama", "\"_attn_implementation_autoset\":true,\"unsloth_fixed\":true,\"transformers_version\":\"4\"", SALF_OK,
     ""},
    /* neutral */
    {"llama", "\"sliding_window\":null,\"clip_qkv\":null,\"mlp_bias\":false,\"layer_types\":null", SALF_OK, ""},
    {"llama", "\"partial_rotary_factor\":1.0,\"rope_scaling\":null,\"logit_scale\":1", SALF_OK, ""},
    {"qwen2", "\"use_sliding_window\":false,\"sliding_window\":32768,\"max_window_layers\":2", SALF_OK, ""},
    {"llama", "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]", SALF_OK,
     ""},
    /* known, and nothing that the description has a place for */
    {"llama", "\"clip_qkv\":8.0", SALF_OK, "clip_qkv = 8.0"},
    {"llama", "\"sliding_window\":4", SALF_OK, "sliding_window = 4"},
    {"mistral", "\"attention_bias\":true", SALF_OK, "attention_bias = true"},
    {"qwen2", "\"attention_bias\":false,\"mlp_bias\":true", SALF_OK, "mlp_bias = true"},
    {"llama", "\"hidden_act\":\"relu2\"", SALF_OK, "hidden_act = \"relu2\""},
    {"llama", "\"num_local_experts\":8,\"num_experts_per_tok\":2", SALF_OK, "num_local_experts = 8"},
    {"llama", "\"quantization_config\":{\"quant_method\":\"fp8\"}", SALF_OK, "quantization_config"},
    {"llama", "\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2}", SALF_OK, "rope_type = \"dynamic\""},
    {"llama", "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[2]}", SALF_OK, "longrope"},
    {"phi3", "\"rope_scaling\":{\"type\":\"su\"}", SALF_OK, "su"},
    {"phi3", "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}", SALF_OK, "yarn"},
    {"llama", "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2,\"warp\":3}", SALF_OK, "rope_scaling.warp = 3"},
    {"llama", "\"partial_rotary_factor\":0.5", SALF_OK, "partial_rotary_factor"},
    {"llama", "\"rope_theta\":500,\"rope_parameters\":{\"rope_theta\":1000}", SALF_OK, "rope_theta = 500"},
    {"llama", "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":false}", SALF_OK,
     "truncate = false"},
    {"llama",
     "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"default\"}",
     SALF_OK, "rope_parameters"},
    {"llama", "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"sliding_attention\"]",
     SALF_OK, "layer_types"},
    {"qwen2", "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"chunked_attention\"]",
     SALF_OK, "chunked_attention"},
    {"gemma2", "\"sliding_window\":null", SALF_OK, "sliding_window"},
    {"gemma3_text", "\"use_bidirectional_attention\":true", SALF_OK, "use_bidirectional_attention"},
    {"gemma3_text",
     "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"},"
     "\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}",
     SALF_OK, "sliding_attention"},
    {"stablelm", "\"use_parallel_residual\":true,\"qk_layernorm\":true", SALF_OK, "use_parallel_residual = true"},
    {"smollm3", "", SALF_OK, "no_rope_layers"},
    /* read by a class of the same kind, and not by this one */
    {"gemma3_text", "\"attn_logit_softcapping\":30.0", SALF_OK, "attn_logit_softcapping = 30.0"},
    {"gemma3_text", "\"attn_logit_softcapping\":null", SALF_OK, ""},
    {"olmo3", "\"rope_local_base_freq\":10000", SALF_OK, "rope_local_base_freq = 10000"},
    {"olmo3", "\"sliding_window_pattern\":2", SALF_OK, "sliding_window_pattern = 2"},
    {"gemma2", "\"sliding_window_pattern\":3", SALF_OK, "sliding_window_pattern = 3"},
    {"gemma2", "\"sliding_window_pattern\":2", SALF_OK, ""},
    {"smollm3", "\"no_rope_layers\":[1,1,1,1]", SALF_OK, ""},
    {"mixtral", "\"num_local_experts\":8", SALF_OK, "model_type = \"mixtral\""},
    {"gpt2", "\"scale_attn_by_inverse_layer_idx\":true", SALF_OK, "model_type"},
    /* texts are neither numbers nor null nor false, and null is false where Python asks */
    {"llama", "\"sliding_window\":\"null\"", SALF_OK, "sliding_window = \"null\""},
    {"stablelm", "\"use_parallel_residual\":\"false\"", SALF_OK, "use_parallel_residual = \"false\""},
    {"llama", "\"scale_emb\":\"1\"", SALF_OK, "scale_emb = \"1\""},
    {"llama", "\"pruned_heads\":\"{}\"", SALF_OK, "pruned_heads"},
    {"llama", "\"logit_scale\":\"1\"", SALF_E_UNSUPPORTED, "logit_scale = \"1\""},
    {"llama", "\"is_causal\":null", SALF_OK, "is_causal = null"},
    {"opt", "\"do_layer_norm_before\":null", SALF_E_UNSUPPORTED, "do_layer_norm_before = null"},
    /* two spellings that disagree */
    {"llama", "\"rope_scaling\":{\"rope_type\":\"default\",\"type\":\"linear\"}", SALF_OK,
     "rope_scaling.type = \"linear\""},
    {"llama", "\"rope_scaling\":{\"rope_type\":\"linear\",\"type\":\"linear\",\"factor\":2}", SALF_OK, ""},
    /* of the head: refused in families that have no such key */
    {"llama", "\"final_logit_softcapping\":30.0", SALF_E_UNSUPPORTED, "final_logit_softcapping = 30.0"},
    {"llama", "\"logit_scale\":0.25", SALF_E_UNSUPPORTED, "logit_scale = 0.25"},
    {"mpt", "\"logit_scale\":\"inv_sqrt_d_model\"", SALF_E_UNSUPPORTED, "logit_scale"},
    {"opt", "\"word_embed_proj_dim\":32", SALF_E_UNSUPPORTED, "word_embed_proj_dim = 32"},
    {"opt", "\"word_embed_proj_dim\":64,\"do_layer_norm_before\":true", SALF_OK, "model_type"},
    {"opt", "\"do_layer_norm_before\":false", SALF_E_UNSUPPORTED, "do_layer_norm_before = false"},
    {"llama", "\"layer_norm_eps\":0.1", SALF_E_UNSUPPORTED, "layer_norm_eps = 0.1"},
    {"stablelm", "\"norm_eps\":1e-5,\"norm_type\":\"layer_norm\"", SALF_OK, ""},
    {"phi3", "\"partial_rotary_factor\":0.5,\"rope_parameters\":{\"partial_rotary_factor\":0.75}", SALF_OK,
     "partial_rotary_factor = 0.5"},
    {"stablelm", "\"rope_pct\":0.25", SALF_OK, ""},
    {"stablelm", "\"rope_pct\":0.5", SALF_OK, "rope_pct = 0.5"},
    {"starcoder2", "\"norm_type\":\"group_norm\"", SALF_E_UNSUPPORTED, "norm_type = \"group_norm\""},
    {"llama", "\"output_multiplier_scale\":2", SALF_E_UNSUPPORTED, "output_multiplier_scale = 2"},
    {"llama", "\"is_encoder_decoder\":true", SALF_E_UNSUPPORTED, "is_encoder_decoder"},
    /* nobody knows */
    {"llama", "\"my_scale\":2.0", SALF_E_UNSUPPORTED, "my_scale = 2.0"},
    {"gpt2", "\"my_scale\":null", SALF_E_UNSUPPORTED, "my_scale = null"},
    /* senseless */
    {"llama", "\"n_layer\":5", SALF_E_CORRUPT, "num_hidden_layers is 4, but n_layer is 5"},
    {"llama", "\"n_layer\":3", SALF_E_CORRUPT, "num_hidden_layers is 4, but n_layer is 3"},
    {"llama", "\"n_layer\":4", SALF_OK, ""},
    {"llama", "\"rope_scaling\":{\"rope_type\":\"linear\"}", SALF_E_CORRUPT, "rope_scaling.factor is 0"},
    {"llama", "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":Infinity}", SALF_E_CORRUPT,
     "rope_scaling.factor is not a number"},
    {"llama", "\"rope_theta\":0", SALF_E_CORRUPT, "rope_theta is 0"},
    {"llama", "\"rope_scaling\":[]", SALF_E_CORRUPT, "rope_scaling is no object"},
    {"llama", "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1}",
     SALF_E_CORRUPT, "high_freq_factor is 1"},
    {"mistral", "\"sliding_window\":0", SALF_E_CORRUPT, "sliding_window is 0"},
    {"qwen2", "\"layer_types\":[\"full_attention\"]", SALF_E_CORRUPT, "layer_types has 1 entries for 4 layers"},
    {"smollm3", "\"no_rope_layers\":[1,1]", SALF_E_CORRUPT, "no_rope_layers has 2 entries for 4 layers"},
    {"qwen2", "\"use_sliding_window\":true,\"max_window_layers\":-1", SALF_E_CORRUPT, "max_window_layers"},
    {"granite", "\"logits_scaling\":0", SALF_E_CORRUPT, "logits_scaling is 0"},
    {"granite", "\"attention_multiplier\":0.0", SALF_E_CORRUPT, "attention_multiplier is 0"},
    {"granite", "\"residual_multiplier\":0.0", SALF_E_CORRUPT, "residual_multiplier is 0"},
    {"granite", "\"embedding_multiplier\":0", SALF_E_CORRUPT, "embedding_multiplier is 0"},
    {"cohere", "\"logit_scale\":0", SALF_E_CORRUPT, "logit_scale is 0"},
    {"gemma2", "\"attn_logit_softcapping\":0.0", SALF_E_CORRUPT, "attn_logit_softcapping is 0"},
    {"gemma2", "\"final_logit_softcapping\":0", SALF_E_CORRUPT, "final_logit_softcapping is 0"},
    {"gemma2", "\"final_logit_softcapping\":null,\"attn_logit_softcapping\":null", SALF_OK, ""},
    {"granite", "\"logits_scaling\":null", SALF_E_CORRUPT, "logits_scaling is null"},
    {"granite", "\"residual_multiplier\":null", SALF_E_CORRUPT, "residual_multiplier is null"},
    {"gemma2", "\"query_pre_attn_scalar\":null", SALF_E_CORRUPT, "query_pre_attn_scalar is null"},
    {"gemma2", "\"query_pre_attn_scalar\":0", SALF_E_CORRUPT, "query_pre_attn_scalar is 0"},
    {"llama", "\"rms_norm_eps\":null", SALF_E_CORRUPT, "rms_norm_eps is null"},
    {"llama", "\"rope_theta\":null", SALF_E_CORRUPT, "rope_theta is null"},
    {"deepseek_v3", "\"num_nextn_predict_layers\":1e300", SALF_E_CORRUPT, "num_nextn_predict_layers is no integer"},
    {"deepseek_v3", "\"num_nextn_predict_layers\":-1", SALF_E_CORRUPT, "num_nextn_predict_layers is no integer"},
    {"deepseek_v3", "\"num_nextn_predict_layers\":65536", SALF_E_CORRUPT, "num_nextn_predict_layers is no integer"},
    {"deepseek_v3", "\"num_nextn_predict_layers\":null", SALF_OK, "model_type"},
    {"llama",
     "\"text_config\":{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":8,\"vocab_size\":9,"
     "\"num_attention_heads\":2,\"intermediate_size\":8},\"tie_word_embeddings\":1",
     SALF_E_CORRUPT, "tie_word_embeddings is neither"},
};

START_TEST(every_key_is_accounted_for) {
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    const int64_t alive = memory.alive;
    for (size_t i = 0; i < sizeof key_cases / sizeof *key_cases; i++) {
        const key_case *c = &key_cases[i];
        slf_config config;
        const salf_status status = read_text(context, &config, c->type, c->rest, NULL);
        const char *text = status == SALF_OK ? config.unsupported : salf_last_error();
        ck_assert_msg(status == c->status, "%s %s: %s: %s", c->type, c->rest, salf_status_name(status),
                      salf_last_error());
        ck_assert_msg(*c->words ? harness_contains(text, c->words) : !*text, "%s %s: '%s'", c->type, c->rest, text);
        slf_config_free(&config);
        ck_assert_int_eq(memory.alive, alive);
    }
    salf_context_destroy(context);
}
END_TEST

/* Numbers at the ends of their ranges, and a type that is none, whose message lists those that are. */
START_TEST(numbers_and_types_at_the_ends) {
    static const char far[] =
        "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":8,\"vocab_size\":10,"
        "\"num_attention_heads\":2,\"intermediate_size\":8,\"max_position_embeddings\":8589934593}";
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    slf_config config = {0};
    slf_json *json;
    CHECK_OK(read_text(context, &config, "llama", "\"bos_token_id\":0,\"eos_token_id\":[0,2]", NULL));
    ck_assert(config.info.bos_token == 0 && config.info.eos_token == 0);
    slf_config_free(&config);
    CHECK_OK(read_text(context, &config, "llama", "\"bos_token_id\":-1,\"eos_token_id\":2147483648", NULL));
    ck_assert(config.info.bos_token == -1 && config.info.eos_token == -1);
    slf_config_free(&config);
    CHECK_OK(slf_json_parse(&json, context, far, strlen(far), false, "c.json"));
    config = (slf_config){0};
    CHECK_OK(slf_config_read(&config, context, json, "c.json", NULL));
    ck_assert_int_eq(config.info.max_positions, 8589934593);
    ck_assert(config.info.n_heads == 2 && config.info.hidden == 8);
    slf_config_free(&config);
    slf_json_release(json);
    CHECK_FAILS(read_text(context, &config, "nosuch", "", NULL), SALF_E_UNSUPPORTED,
                "'nosuch' is none of llama, mistral, qwen2");
    salf_context_destroy(context);
}
END_TEST

START_TEST(a_host_accepts_keys_by_name) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    slf_config config;
    const char *rest = "\"my_scale\":2.0,\"your_scale\":3.0,\"logit_scale\":0.5,\"clip_qkv\":8";
    CHECK_FAILS(read_text(context, &config, "llama", rest, "my_scale"), SALF_E_UNSUPPORTED, "your_scale");
    CHECK_FAILS(read_text(context, &config, "llama", rest, "my_scale, your_scale"), SALF_E_UNSUPPORTED, "logit_scale");
    CHECK_FAILS(read_text(context, &config, "llama", rest, "my_scal,your_scale,logit_scale"), SALF_E_UNSUPPORTED,
                "my_scale");
    CHECK_FAILS(read_text(context, &config, "llama", rest, "*"), SALF_E_ARGUMENT, "accept is '*'");
    CHECK_OK(read_text(context, &config, "llama", rest, "logit_scale,my_scale,your_scale"));
    ck_assert_str_eq(config.unsupported, "clip_qkv = 8");
    slf_config_free(&config);
    CHECK_OK(read_text(context, &config, "llama", rest, "clip_qkv,logit_scale,my_scale,your_scale,other"));
    ck_assert_str_eq(config.unsupported, "");
    slf_config_free(&config);
    salf_context_destroy(context);
}
END_TEST

/* ---- decoders ---- */

enum { QKV = SALF_MATRIX_Q | SALF_MATRIX_K | SALF_MATRIX_V, QKVO = QKV | SALF_MATRIX_O };
enum { FFN = SALF_MATRIX_GATE | SALF_MATRIX_UP | SALF_MATRIX_DOWN };

/* The complete description of a configuration; window: bit k is layer k. */
static salf_decoder_info described(salf_context *context, const char *type, const char *rest, uint32_t *window) {
    slf_config config;
    CHECK_OK(read_text(context, &config, type, rest, NULL));
    ck_assert_msg(!*config.unsupported, "%s %s: lacks %s", type, rest, config.unsupported);
    *window = 0;
    for (int32_t k = 0; k < config.info.n_layers; k++)
        if (config.decoder.sliding && config.decoder.sliding[k]) *window |= 1u << k;
    ck_assert(config.decoder.gated_ffn == 1 && config.decoder.struct_size == sizeof config.decoder);
    slf_config_free(&config);
    config.decoder.sliding = NULL;
    return config.decoder;
}

START_TEST(families_differ_as_they_should) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    uint32_t window;
    salf_decoder_info d = described(context, "llama", "\"attention_bias\":true,\"mlp_bias\":true", &window);
    ck_assert(d.biases == (QKVO | FFN) && d.rope == SALF_ROPE_DEFAULT && d.rope_theta == 10000 && d.rotary_dims == 16);
    ck_assert(d.attention_scale == 0.25 && d.residual_scale == 1 && d.block == SALF_BLOCK_PRE_NORM && d.fused == 0);
    ck_assert(d.activation == SALF_ACTIVATION_SILU && d.norm_kind == SALF_NORM_RMS && window == 0);
    d = described(context, "mistral", "\"sliding_window\":6", &window);
    ck_assert(d.sliding_window == 6 && window == 15);
    d = described(context, "mistral", "\"sliding_window\":null", &window);
    ck_assert(d.sliding_window == 0 && window == 0);
    d = described(context, "mistral", "", &window); /* the class's own window */
    ck_assert(d.sliding_window == 4096 && window == 15);
    d = described(context, "qwen2", "\"use_sliding_window\":true,\"sliding_window\":6,\"max_window_layers\":3",
                  &window);
    ck_assert(d.biases == QKV && d.sliding_window == 6 && window == 8);
    d = described(
        context, "smollm3", /* whose class writes the last key and does not read it */
        "\"no_rope_layers\":[1,1,1,1],\"use_sliding_window\":true,\"sliding_window\":6,\"max_window_layers\":2",
        &window);
    ck_assert(d.sliding_window == 0 && window == 0);
    d = described(context, "qwen3", "\"head_dim\":32,\"attention_bias\":true", &window);
    ck_assert(d.biases == QKVO && d.qk_norm == SALF_QK_NORM_HEAD && d.rotary_dims == 32);
    d = described(context, "gemma", "\"head_dim\":16,\"hidden_act\":\"gelu\"", &window);
    ck_assert(d.activation == SALF_ACTIVATION_GELU_TANH && d.norm_kind == SALF_NORM_RMS1P && d.attention_scale == 0.25);
    d = described(context, "gemma2", "\"query_pre_attn_scalar\":64,\"sliding_window\":9", &window);
    ck_assert(d.attention_scale == 0.125 && d.attention_softcap == 50 && window == 5 && d.sliding_window == 9);
    ck_assert(d.block == SALF_BLOCK_SANDWICH_NORM && d.local_rope_theta == 0);
    d = described(context, "gemma3_text",
                  "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8},\"sliding_window_pattern\":2", &window);
    ck_assert(d.rope == SALF_ROPE_LINEAR && d.rope_factor == 8 && d.rope_theta == 1e6 && d.local_rope_theta == 1e4);
    ck_assert(window == 5 && d.qk_norm == SALF_QK_NORM_HEAD && d.attention_softcap == 0);
    d = described(context, "gemma3_text",
                  "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\",\"full_attention\"],"
                  "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4,\"rope_theta\":5e5},"
                  "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":7e3}}",
                  &window);
    ck_assert(window == 2 && d.rope_theta == 5e5 && d.rope_factor == 4 && d.local_rope_theta == 7e3);
    d = described(context, "phi3", "\"partial_rotary_factor\":0.75,\"sliding_window\":9", &window);
    ck_assert(d.rotary_dims == 12 && d.fused == (QKV | SALF_MATRIX_GATE | SALF_MATRIX_UP) && window == 15);
    d = described(context, "olmo2", "", &window);
    ck_assert(d.block == SALF_BLOCK_POST_NORM && d.qk_norm == SALF_QK_NORM_ALL);
    d = described(context, "olmo3", "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"attention_factor\":1.5}",
                  &window);
    ck_assert(d.rope == SALF_ROPE_YARN && d.rope_attention_factor == 1.5 && d.local_rope_theta == 5e5 && window == 7);
    d = described(context, "granite", "\"attention_multiplier\":0.5,\"residual_multiplier\":0.22", &window);
    ck_assert(d.attention_scale == 0.5 && d.residual_scale == 0.22);
    d = described(context, "stablelm", "\"use_qkv_bias\":true", &window);
    ck_assert(d.biases == QKV && d.rotary_dims == 4 && d.norm_kind == SALF_NORM_LAYER);
    salf_context_destroy(context);
}
END_TEST

/* All spellings of one thing. */
START_TEST(rope_in_every_spelling) {
    static const char *const places[] = {
        "\"rope_theta\":5e4,\"rope_scaling\":{\"%s\":%s}",
        "\"rope_parameters\":{\"rope_theta\":5e4,\"%s\":%s}",
        "\"rope_theta\":5e4,\"rope_parameters\":{\"%s\":%s}",
        "\"rope_scaling\":{\"rope_theta\":5e4,\"%s\":%s}",
    };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (int old = 0; old < 2; old++) {
            char rest[512];
            uint32_t window;
            const char *key = old ? "type" : "rope_type";
            snprintf(rest, sizeof rest, places[i], key, "\"linear\",\"factor\":4");
            salf_decoder_info d = described(context, "llama", rest, &window);
            ck_assert(d.rope == SALF_ROPE_LINEAR && d.rope_factor == 4 && d.rope_theta == 5e4);
            snprintf(rest, sizeof rest, places[i], key,
                     "\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4.0,"
                     "\"original_max_position_embeddings\":32");
            d = described(context, "llama", rest, &window);
            ck_assert(d.rope == SALF_ROPE_LLAMA3 && d.rope_factor == 8 && d.rope_low_factor == 1 &&
                      d.rope_high_factor == 4 && d.rope_original_positions == 32 && d.rope_theta == 5e4);
            snprintf(rest, sizeof rest, places[i], key, "\"yarn\",\"factor\":4");
            d = described(context, "qwen2", rest, &window);
            ck_assert(d.rope == SALF_ROPE_YARN && d.rope_factor == 4 && d.rope_original_positions == 128 &&
                      d.rope_beta_fast == 32 && d.rope_beta_slow == 1);
            ck_assert_double_eq_tol(d.rope_attention_factor, 0.1 * log(4) + 1, 1e-15);
            snprintf(rest, sizeof rest, places[i], key,
                     "\"yarn\",\"factor\":null,\"original_max_position_embeddings\":64,\"mscale\":1,"
                     "\"mscale_all_dim\":0.5,\"beta_fast\":16,\"beta_slow\":2");
            d = described(context, "qwen2", rest, &window);
            ck_assert(d.rope_factor == 2 && d.rope_beta_fast == 16 && d.rope_beta_slow == 2);
            ck_assert_double_eq_tol(d.rope_attention_factor, (0.1 * log(2) + 1) / (0.05 * log(2) + 1), 1e-15);
        }
    salf_context_destroy(context);
}
END_TEST

/* ---- from states to logits, and where the text model is ---- */

START_TEST(heads_of_families) {
    static const struct {
        const char *type, *rest;
        double eps, scale, cap, embedding;
        int32_t tied, norm_kind;
    } cases[] = {
        {"granite", "\"logits_scaling\":8,\"embedding_multiplier\":12", 1e-6, 0.125, 0, 12, 0, SALF_NORM_RMS},
        {"cohere", "", 1e-5, 0.0625, 0, 1, 1, SALF_NORM_LAYER},
        {"cohere2", "\"logit_scale\":0.5,\"layer_norm_eps\":0.25", 0.25, 0.5, 0, 1, 1, SALF_NORM_LAYER},
        {"gemma3_text", "\"final_logit_softcapping\":20", 1e-6, 1, 20, 8, 1, SALF_NORM_RMS1P},
        {"gemma2", "", 1e-6, 1, 30, 8, 1, SALF_NORM_RMS1P},
        {"olmo", "", 1e-5, 1, 0, 1, 0, SALF_NORM_LAYER},
        {"glm4", "", 1.5625e-7, 1, 0, 1, 0, SALF_NORM_RMS},
        {"falcon_h1", "\"lm_head_multiplier\":0.5", 1e-5, 0.5, 0, 1, 0, SALF_NORM_RMS},
        {"xglm", "", 1e-5, 1, 0, 8, 1, SALF_NORM_LAYER},
        {"xglm", "\"scale_embedding\":false", 1e-5, 1, 0, 1, 1, SALF_NORM_LAYER},
    };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        slf_config config;
        CHECK_OK(read_text(context, &config, cases[i].type, cases[i].rest, NULL));
        const salf_model_info *info = &config.info;
        ck_assert_msg(info->norm_eps == cases[i].eps && info->logit_scale == cases[i].scale &&
                          info->logit_softcap == cases[i].cap && info->embedding_scale == cases[i].embedding &&
                          info->tied == cases[i].tied && info->norm_kind == cases[i].norm_kind,
                      "%s %s: eps %g scale %g cap %g embedding %g tied %d", cases[i].type, cases[i].rest,
                      info->norm_eps, info->logit_scale, info->logit_softcap, info->embedding_scale, (int)info->tied);
        slf_config_free(&config);
    }
    salf_context_destroy(context);
}
END_TEST

static salf_status read_whole(salf_context *context, slf_config *config, const char *text) {
    slf_json *json;
    *config = (slf_config){0};
    salf_status status = slf_json_parse(&json, context, text, strlen(text), false, "c.json");
    if (status == SALF_OK) status = slf_config_read(config, context, json, "c.json", NULL);
    slf_json_release(json);
    if (status != SALF_OK) slf_config_free(config);
    return status;
}

START_TEST(text_models_inside_of_others) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    slf_config config;
    /* Gemma 3 with images as it is published: most sizes are the class's own. */
    CHECK_OK(read_whole(context, &config,
                        "{\"model_type\":\"gemma3\",\"image_token_index\":262144,\"mm_tokens_per_image\":256,"
                        "\"boi_token_index\":255999,\"initializer_range\":0.02,\"text_config\":{\"hidden_size\":2560,"
                        "\"intermediate_size\":10240,\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,"
                        "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},\"sliding_window\":1024},"
                        "\"vision_config\":{\"hidden_size\":1152,\"model_type\":\"siglip_vision_model\"}}"));
    ck_assert(config.info.vocab == 262208 && config.info.n_heads == 8 && config.info.n_kv_heads == 4 &&
              config.info.head_dim == 256 && config.info.tied == 1 && config.composite == 1);
    ck_assert(config.decoder.sliding_window == 1024 && config.decoder.rope_factor == 8 && !*config.unsupported);
    ck_assert(config.decoder.sliding[4] == 1 && config.decoder.sliding[5] == 0);
    slf_config_free(&config);
    /* the inner type is left out; the outer object says what is tied, and its unknown keys count as well */
    CHECK_OK(read_whole(context, &config,
                        "{\"model_type\":\"llava\",\"tie_word_embeddings\":true,\"text_config\":{" SHAPE "}}"));
    ck_assert(config.info.family == SALF_FAMILY_LLAMA && config.info.tied == 1);
    slf_config_free(&config);
    /* PaliGemma's prompts see themselves in both directions */
    CHECK_OK(read_whole(context, &config,
                        "{\"model_type\":\"paligemma\",\"text_config\":{" SHAPE ",\"model_type\":\"gemma\"}}"));
    ck_assert_str_eq(config.unsupported, "model_type = \"paligemma\"");
    slf_config_free(&config);
    CHECK_FAILS(read_whole(context, &config, "{\"model_type\":\"llava\",\"my_scale\":2,\"text_config\":{" SHAPE "}}"),
                SALF_E_UNSUPPORTED, "my_scale = 2");
    CHECK_FAILS(read_whole(context, &config,
                           "{\"model_type\":\"llava\",\"final_logit_softcapping\":2,\"text_config\":{" SHAPE "}}"),
                SALF_E_UNSUPPORTED, "final_logit_softcapping = 2");
    CHECK_FAILS(read_whole(context, &config, "{\"model_type\":\"bert\"," SHAPE "}"), SALF_E_UNSUPPORTED, "'bert'");
    /* the text model's factor or cap on logits, which most models around it leave out */
    static const struct {
        const char *outer, *inner, *key;
        double scale, cap; /* where the outer model keeps them */
    } wrapped[] = {{"llava_next", "\"granite\",\"logits_scaling\":8", "logits_scaling", 0, 0},
                   {"granite4_vision", "\"granite\",\"logits_scaling\":8", NULL, 0.125, 0},
                   {"aya_vision", "\"cohere2\"", "logit_scale", 0, 0},
                   {"llava", "\"gemma2\"", "final_logit_softcapping", 0, 0},
                   {"paligemma", "\"gemma2\"", NULL, 1, 30},
                   {"llava", "\"gemma2\",\"final_logit_softcapping\":null", NULL, 1, 0},
                   {"llava", "\"granite\",\"logits_scaling\":1", NULL, 1, 0}};
    for (size_t i = 0; i < sizeof wrapped / sizeof *wrapped; i++) {
        char text[1024];
        slf_json *json;
        snprintf(text, sizeof text, "{\"model_type\":\"%s\",\"text_config\":{" SHAPE ",\"model_type\":%s}}",
                 wrapped[i].outer, wrapped[i].inner);
        CHECK_OK(slf_json_parse(&json, context, text, strlen(text), false, "c.json"));
        const char *key = wrapped[i].key;
        if (key) CHECK_FAILS(slf_config_read(&config, context, json, "c.json", NULL), SALF_E_UNSUPPORTED, key);
        slf_config_free(&config);
        CHECK_OK(slf_config_read(&config, context, json, "c.json", key));
        ck_assert(config.info.logit_scale == (key ? 1 : wrapped[i].scale) &&
                  config.info.logit_softcap == wrapped[i].cap);
        slf_config_free(&config);
        slf_json_release(json);
    }
    CHECK_OK(read_whole(context, &config,
                        "{\"model_type\":\"llava\",\"quantization_config\":{\"a\":1},"
                        "\"text_config\":{" SHAPE "}}"));
    ck_assert(harness_contains(config.unsupported, "quantization_config"));
    slf_config_free(&config);
    salf_context_destroy(context);
}
END_TEST

/* The keys of published checkpoints, of which many are no class's own: with sizes made small, in tests/unit/configs.
 * Where the layers can be described they are, completely. */
START_TEST(published_configurations_are_understood) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    DIR *folder = opendir("tests/unit/configs");
    ck_assert_ptr_nonnull(folder);
    int n = 0;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char path[512];
        slf_json *json;
        slf_config config;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "tests/unit/configs/%s", entry->d_name);
        CHECK_OK(slf_json_load(&json, context, path));
        CHECK_OK(slf_config_read(&config, context, json, path, NULL));
        const char *lacks = strcmp(entry->d_name, "phi_4_mini.json") == 0 ? "longrope"
                            : config.family->described                    ? ""
                                                                          : "model_type";
        ck_assert_msg(*lacks ? harness_contains(config.unsupported, lacks) : !*config.unsupported, "%s: '%s'", path,
                      config.unsupported);
        slf_config_free(&config);
        slf_json_release(json);
        n++;
    }
    closedir(folder);
    ck_assert_int_ge(n, 47);
    salf_context_destroy(context);
}
END_TEST

/* ---- JSON as Python reads it ---- */

START_TEST(json_as_python_reads_it) {
    static const struct {
        const char *text;
        const char *value; /* of "k", as JSON; NULL: refused */
    } cases[] = {
        {"{\"k\":Infinity}", "\"Infinity\""},
        {"{\"k\":-Infinity}", "\"-Infinity\""},
        {"{\"k\":[NaN,1]}", "[\"NaN\",1]"},
        {"{\"k\":1e999}", "\"1e999\""},
        {"{\"k\":-1.5e+400}", "\"-1.5e+400\""},
        {"{\"k\":1.797e308}", "1.797e308"},
        {"{\"k\":0.000001e313}", "1e307"},
        {"{\"k\":0.00}", "0.0"},
        {"{\"k\":18446744073709551616}", "18446744073709551616.0"},
        {"{\"k\":1000000000000000019884624838656}", "1000000000000000019884624838656.0"},
        {"{\"k\":9223372036854775807}", "9223372036854775807"},
        {"{\"k\":-9223372036854775809}", "-9223372036854775808.0"},
        {"{\"k\":1,\"k\":2}", "2"},
        {"{\"k\":\"a\\u0000b\"}", "\"a\\ufffdb\""},
        {"{\"k\":\"\\ud800\"}", "\"\\ufffd\""},
        {"{\"k\":\"\\ud83d\\ude00\\udc00\"}", "\"\\ud83d\\ude00\\ufffd\""},
        {"{\"k\":\"\\\"Infinity\\\\\"}", "\"\\\"Infinity\\\\\""},
        {"{\"k\":\"NaN 1e999\"}", "\"NaN 1e999\""},
        {" {\"k\" : 64.0 } ", "64.0"},
        {"{\"k\":Nan}", NULL},
        {"{\"k\":-NaN}", NULL},
        {"{\"k\":01}", NULL},
        {"{\"k\":1.}", NULL},
        {"{\"k\":1e999x}", NULL},
        {"{\"k\":\"\\u00\"}", NULL},
        {"{\"k\":\"\\u12", NULL},
        {"{\"k\":\"\\", NULL},
        {"{\"k\":1", NULL},
        {"{\"k\":1}}", NULL},
        {"[1]", NULL},
    };
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        slf_json *json;
        const salf_status status = slf_json_parse(&json, context, cases[i].text, strlen(cases[i].text), false, "j");
        ck_assert_msg((status == SALF_OK) == (cases[i].value != NULL), "%s: %s", cases[i].text, salf_last_error());
        if (!cases[i].value) continue;
        char same[100];
        slf_json *expected;
        snprintf(same, sizeof same, "{\"k\":%s}", cases[i].value);
        CHECK_OK(slf_json_parse(&expected, context, same, strlen(same), true, "same"));
        ck_assert_msg(slf_json_equal(json, expected), "%s", cases[i].text);
        slf_json_release(expected);
        slf_json_release(json);
    }
    /* a long one */
    enum { LONG = 40000 };
    static char text[LONG + 64];
    size_t used = (size_t)snprintf(text, sizeof text, "{\"k\":[");
    while (used < LONG) used += (size_t)snprintf(text + used, sizeof text - used, "1e999,Infinity,\"\\u0000\",7,");
    snprintf(text + used, sizeof text - used, "8]}");
    slf_json *json;
    CHECK_OK(slf_json_parse(&json, context, text, strlen(text), true, "j"));
    slf_json *list = slf_json_get(json, "k");
    ck_assert_int_eq(slf_json_size(list) % 4, 1);
    for (int64_t i = 0; i + 4 < slf_json_size(list); i += 4) {
        ck_assert_str_eq(slf_json_to_text(slf_json_at(list, i)), "1e999");
        ck_assert_str_eq(slf_json_to_text(slf_json_at(list, i + 1)), "Infinity");
        ck_assert_int_eq(slf_json_to_integer(slf_json_at(list, i + 3)), 7);
    }
    slf_json_release(json);
    CHECK_FAILS(slf_json_parse(&json, context, "{\"k\":1,\"k\":2}", 13, true, "j"), SALF_E_CORRUPT, "stands twice");
    salf_context_destroy(context);
}
END_TEST

/* ---- where the vocabulary ends ---- */

START_TEST(tokenizers_are_counted) {
    static const struct {
        const char *text;
        int64_t tokens; /* 0: refused */
    } cases[] = {
        {"{\"model\":{\"vocab\":{\"a\":0,\"b\":1}}}", 2},
        {"{\"added_tokens\":[{\"id\":9,\"content\":\"x\"},{\"content\":\"y\",\"id\":4}],\"model\":{\"vocab\":{\"a\":0}}"
         "}",
         10},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[\"a b\"],\"vocab\":{\"{\\\"\":3,\"[\":12,\"]}\":5}}}", 13},
        {"{\"model\":{\"vocab\":[[\"a\",-1.5],[\"b\",-20],[\"c]\",0.0]]},\"other\":{\"vocab\":{\"z\":99}}}", 3},
        {"{\"vocab\":{\"z\":99},\"model\":{\"x\":{\"vocab\":{\"z\":77}},\"vocab\":{\"z\":1}}}", 2},
        {"{\"model\":{\"vocab\":{\"model\":1,\"vocab\":2,\"id\":3}},\"id\":88}", 4},
        {"{ \"model\" : { \"vocab\" : { \"a\" : 6 } } }", 7},
        {"{\"model\":{\"vocab\":{\"a\":2147483647}}}", 2147483648},
        {"{}", 0},
        {"{\"model\":{\"vocab\":{}}}", 0},
        {"{\"model\":{\"vocab\":{\"a\":0}}", 0},
        {"{\"model\":{\"vocab\":{\"a\":0}}]", 0},
        {"{\"model\":{\"vocab\":{\"a\":9999999999}}}", 0},
        {"{\"model\":{\"vocab\":{\"a\":1.5}}}", 0},
        {"{\"model\":{\"vocab\":{\"a", 0},
        {"", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t tokens = 0;
        const salf_status status = slf_tokens_count_in(&tokens, cases[i].text, strlen(cases[i].text), "t.json");
        ck_assert_msg(status == (cases[i].tokens ? SALF_OK : SALF_E_CORRUPT) && tokens == cases[i].tokens, "%s: %lld",
                      cases[i].text, (long long)tokens);
    }
    char deep[200];
    memset(deep, '[', sizeof deep);
    int64_t tokens;
    CHECK_FAILS(slf_tokens_count_in(&tokens, deep, sizeof deep, "t.json"), SALF_E_CORRUPT, "t.json: no ids");
}
END_TEST

static salf_status read_body(harness_memory *memory, int32_t backend, void *user) {
    salf_context *context;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    slf_config config;
    status = read_text(context, &config, user, "", NULL);
    slf_config_free(&config);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_allocation_can_fail) {
    char type[] = "gemma3_text";
    harness_fail_each_allocation(read_body, SALF_BACKEND_REFERENCE, type);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, every_key_is_accounted_for);
    HARNESS_ADD(suite, numbers_and_types_at_the_ends);
    HARNESS_ADD(suite, a_host_accepts_keys_by_name);
    HARNESS_ADD(suite, families_differ_as_they_should);
    HARNESS_ADD(suite, rope_in_every_spelling);
    HARNESS_ADD(suite, heads_of_families);
    HARNESS_ADD(suite, text_models_inside_of_others);
    HARNESS_ADD(suite, published_configurations_are_understood);
    HARNESS_ADD(suite, json_as_python_reads_it);
    HARNESS_ADD(suite, tokenizers_are_counted);
    HARNESS_ADD(suite, each_allocation_can_fail);
}
