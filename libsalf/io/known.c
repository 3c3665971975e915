/*
 * known.c - the keys of a configuration that its readers left: each is harmless, has its neutral value, is one that the
 * decoder's description cannot hold, or stops the reading.
 *
 * A key of which nobody knows what it changes may change everything, and the numbers of a wrong model look like those
 * of the right one. So an unknown key is an error that names it, and the host may accept it by name.
 */
#include <stdlib.h>
#include <string.h>

#include "io.h"

/* What no number of the layers or the head depends on: training, generation, bookkeeping, other parts of a model with
 * images or sound; keys that choose between ways to compute the same. * stands for any text. From the configuration
 * classes of transformers 4.57 and 5, and from files on the hub. */
static const char harmless[] =
    "*_token_id *_token_ids *_token_index *dropout* *_pdrop *layerdrop initializer_* architectures auto_map "
    "model_type torch_dtype dtype transformers_version _name_or_path name_or_path use_cache return_dict* problem_type "
    "id2label label2id num_labels finetuning_task task_specific_params tokenizer_* prefix gradient_checkpointing* "
    "router_*loss* aux_loss_* *_aux_loss* seq_aux z_loss_* *_loss_coef* *_loss_alpha* *_loss_factor summary_* "
    "classifier_* _attn_implementation* attn_implementation* *flash_attn* _experts_implementation* "
    "experts_implementation slow_but_exact reorder_and_upcast_attn residual_in_fp32 *_in_fp32 "
    "rescale_prenorm_residual unsloth_* temperature top_k top_p typical_p do_sample max_length min_length num_beams "
    "num_beam_groups repetition_penalty length_penalty diversity_penalty *no_repeat_ngram_size early_stopping "
    "num_return_sequences bad_words_ids remove_invalid_values exponential_decay_* *suppress_tokens forced_* "
    "use_bfloat16 torchscript tf_legacy_loss is_decoder language languages license model_max_length "
    "max_sequence_length max_new_tokens pretraining_tp ep_size n_ctx num_logits_to_keep use_*kernels use_mambapy "
    "*_kernel_impl use_associative_scan input_jitter_noise router_jitter_noise router_dtype train_* training_* seed "
    "eod_token model_name base_model* image_* video_* vision_* audio_* mm_* projector_* multimodal_* "
    "spatial_merge_size temporal_patch_size boi_* eoi_* use_image_newline_parameter select_layer force_image_size "
    "downsample_ratio dynamic_image_size use_thumbnail ps_version template *_dynamic_patch pad2square "
    "*_soft_tokens_per_image num_image_tokens projection_dim bos_token eos_token pad_token unk_token sep_token "
    "cls_token mask_token output_attentions "
    "output_hidden_states output_scores output_router_logits output_past init_std init_device init_method embd_init_* "
    "vision*config audio*config text_config llm_config language_config thinker_config talker_config token2wav_config "
    "generation_config projector_config vq_config perceiver_config processor_config time_series_config "
    "cache_implementation cache_config is_llama_config transformers.js* masked_softmax_fusion bias_dropout_fusion "
    "*flash_attention* *sdpa* *z_loss* init_config verbose use_embedding_sharing use_parallel_embedding "
    "make_vocab_size_divisible_by loss_type use_gradient_checkpointing n_special predict_special_tokens _num_labels "
    "custom_pipelines _commit_hash ignore_index for_llm_compressor add_classification_head class_num pool_type "
    "neftune_noise_alpha pixel_shuffle_factor "
    "use_reentrant_checkpointing mask_init_id pad_id text_start_id text_end_id im_*_id org_vocab_size";

/* What changes the way from the last layer to the logits, or what a model is, with the value that changes nothing. A
 * family that knows better has read its key already. */
static const char head_keys[] =
    "logit_scale=1 logits_scaling=1 lm_head_multiplier=1 final_logit_softcapping logits_soft_cap "
    "output_logit_soft_cap logits_mup_width_multiplier=1 output_multiplier_scale=1 width_multiplier=1 "
    "mup_width_scale=1 dim_model_base lm_head_bias=false head_bias=false use_lm_bias=false do_layer_norm_before=true "
    "_remove_final_layer_norm=false layer_norm_elementwise_affine=true normalize_head=false norm_head=false "
    "add_out_norm=true use_final_norm=true final_norm=true norm_bias rms_norm_plus_one=false is_encoder_decoder=false "
    "add_cross_attention=false tie_encoder_decoder=false output_vocab_size unpadded_vocab_size "
    "vocab_size_per_codebook num_codebooks=1 layernorm_zero_centered_gamma=false apply_layernorm_1p=false "
    "norm_type=low_precision_layernorm|layernorm|layer_norm|rms_norm|rmsnorm|rms|hf_rms normalization_function=rmsnorm";

/* The eps of norms, under all names that classes have for it. A family reads one of them. */
static const char eps_keys[] =
    "rms_norm_eps layer_norm_eps layer_norm_epsilon norm_epsilon norm_eps layernorm_epsilon layernorm_eps ln_eps";

/* What the layers compute, with the value that changes nothing in a family that salf_decoder_info describes. */
static const char decoder_keys[] =
    "quantization_config quantization compression_config attention_bias=false mlp_bias=false use_qkv_bias=false "
    "qkv_bias=false "
    "use_bias=false bias=false enable_bias=true no_bias=false attention_out_bias=false add_bias_linear=false "
    "add_qkv_bias=false mamba_conv_bias mamba_proj_bias conv_bias use_conv_bias projectors_bias=false clip_qkv "
    "qk_layernorm=false use_qk_norm=false qk_norm=false use_parallel_residual=false parallel_attn=false "
    "parallel_attention=false alibi=false multi_query=false new_decoder_architecture=false num_ln_in_parallel_attn "
    "apply_residual_connection_post_layernorm=false use_bidirectional_attention=false is_causal=true sliding_window "
    "layer_types use_sliding_window=false max_window_layers sliding_window_pattern sliding_window_size "
    "attention_window_size _sliding_window_pattern rope_theta rope_scaling rope_parameters rope_local_base_freq "
    "partial_rotary_factor=1 rotary_dim rotary_pct rope_pct rotary_emb_base rotary_value rotary_emb_fraction "
    "rotary_percentage=1 rope_interleave=false rope_interleaved=false rotary_interleaved=false rope_ratio=1 "
    "use_rope=true position_embedding_type use_dynamic_ntk=false use_logn_attn=false rope_type rope_base "
    "original_max_position_embeddings no_rope_layers no_rope_layer_interval use_mem_rope mrope_section "
    "position_embedding learned_pos_emb learned_position_embeddings nope_layer_interval layer_rope_theta "
    "local_rope_theta global_rope_theta hidden_act hidden_activation activation=swiglu activation_function afn "
    "mlp_hidden_act ff_activation gelu_activation attn_logit_softcapping attn_softcap attention_logit_cap "
    "query_pre_attn_scalar attention_multiplier=1 residual_multiplier=1 embedding_multiplier=1 scale_embedding=false "
    "scale_emb=1 scale_depth embedding_scale=1 mup_enabled=false scale_attn_weights=true "
    "scale_attn_by_inverse_layer_idx=false attention_value_scale=1 attention_scale attn_scale "
    "attn_temperature_tuning=false floor_scale attention_chunk_size use_cache_quantization attention_in_multiplier=1 "
    "attention_out_multiplier=1 key_multiplier=1 mlp_multipliers ssm_multipliers ssm_in_multiplier ssm_out_multiplier "
    "normalize_embedding=false embed_scale pruned_heads={} chunk_size_feed_forward=0 cross_attention_hidden_size "
    "attention_types attention_layers window_size attn_config attn_type embedding_fraction=1 expansion_ratio "
    "word_embed_proj_dim head_dim kv_channels use_mrope=false full_attn_mod=1 interpolate_factor=1 rotary=true "
    "rotary_scaling_factor=1 mlp_type=default skip_bias_add=true skip_bias_add_qkv=false offset_alibi "
    "ff_factor post_norm=false attention_head_dim use_rotary_pos_emb=true use_pos_enc=true "
    "qk_layer_norms=false use_resampler=false";
/* The same of mixtures of experts, and of layers that are no attention. */
static const char mixture_keys[] =
    "num_experts num_local_experts n_routed_experts num_experts_per_tok moe_intermediate_size "
    "shared_expert_intermediate_size n_shared_experts num_shared_experts norm_topk_prob decoder_sparse_step "
    "mlp_only_layers mlp_layer_types first_k_dense_replace routed_scaling_factor topk_group n_group topk_method "
    "scoring_func moe_layer_freq num_nextn_predict_layers num_mtp_layers moe_k moe_topk moe_num_experts "
    "moe_num_shared_experts moe_layer_start_index moe_layer_end_index moe_layer_interval moe_norm_min moe_capacity "
    "num_experts_per_token use_mixed_mlp_moe use_cla cla_share_factor dense_list interleave_moe_layer_step moe_layers "
    "use_expert_bias swiglu_limit swiglu_alpha expert_layer_period expert_layer_offset intermediate_size_mlp "
    "shared_intermediate_size num_dense_layers q_lora_rank kv_lora_rank qk_rope_head_dim qk_nope_head_dim qk_head_dim "
    "v_head_dim index_head_dim index_n_heads index_topk linear_conv_kernel_dim linear_key_head_dim "
    "linear_value_head_dim linear_num_key_heads linear_num_value_heads full_attention_interval attn_output_gate "
    "output_gate_type full_attn_idxs full_attn_alpha_factor full_attn_beta_factor linear_attn_alpha_factor "
    "linear_attn_beta_factor mlp_alpha_factor mlp_beta_factor block_size lambda_std_dev conv_L_cache "
    "block_multiple_of block_ffn_dim_multiplier block_auto_adjust_ff_dim block_dim block_ff_dim block_mlp_init_scale "
    "block_norm_eps block_out_init_scale block_use_swiglu block_use_xavier_init conv_dim conv_dim_out "
    "conv_use_xavier_init mamba_* ssm_* "
    "conv_kernel state_size expand time_step_* n_groups attn_layer_period attn_layer_offset layers_block_type "
    "mixer_rms_eps use_mixer_rms_norm use_nope use_cope hidden_size_per_layer_input vocab_size_per_layer_input "
    "num_kv_shared_layers global_head_dim num_global_key_value_heads attention_k_eq_v use_double_wide_mlp "
    "enable_moe_block llama_4_scaling_beta num_attention_head_groups use_gated_attention experts_per_token "
    "initial_context_length order_of_interleaved_layers use_gated_activation=true use_parallel_block=false "
    "layer_switch=0 num_key_value_groups";

/* Whether a name fits a pattern with any number of *. Tries every place for what follows a *: exponential in their
 * number, of which a pattern here has two at most. */
static bool fits(const char *pattern, size_t length, const char *name) {
    if (length == 0) return *name == 0;
    if (*pattern != '*') return *name == *pattern && fits(pattern + 1, length - 1, name + 1);
    for (;; name++) {
        if (fits(pattern + 1, length - 1, name)) return true;
        if (!*name) return false;
    }
}

/* The value after "name=" in a list of words, "null" for a name alone; NULL where no word fits. */
static const char *find_word(const char *words, char separator, const char *name) {
    for (const char *at = words; *at;) {
        const size_t length = strcspn(at, separator == ',' ? ", " : "= ");
        if (length > 0 && fits(at, length, name)) return at[length] == '=' ? at + length + 1 : "null";
        at += length;
        at += strcspn(at, separator == ',' ? "," : " ");
        at += strspn(at, ", ");
    }
    return NULL;
}

/* The word of the list is JSON, or words with | between them. Where Python asks whether something is so, null is false;
 * elsewhere it is nothing. A text is neither number nor null, whatever it reads like: "false" is true there. */
static bool is_neutral(const char *word, const slf_json *value) {
    char text[96];
    const size_t length = strcspn(word, " ");
    if (length >= sizeof text) return false;
    memcpy(text, word, length);
    text[length] = 0;
    if (slf_json_is(value, SLF_JSON_NULL)) return strcmp(text, "true") != 0;
    const bool json = strchr("-0123456789{", *text) || strcmp(text, "null") == 0 || strcmp(text, "true") == 0 ||
                      strcmp(text, "false") == 0;
    /* A string is compared as it stands, with each of the words; anything else as JSON. */
    for (char *at = json ? NULL : text; slf_json_is(value, SLF_JSON_STRING) && at;) {
        char *end = strchr(at, '|');
        if (end) *end = 0;
        if (strcmp(slf_json_to_text(value), at) == 0) return true;
        at = end ? end + 1 : NULL;
    }
    if (slf_json_is(value, SLF_JSON_STRING)) return false;
    if (slf_json_is_number(value)) { /* 1 and 1.0 are one */
        char *end;
        const double neutral = strtod(text, &end); /* the lists have no fractions, which locales write differently */
        return *end == 0 && end > text && !(neutral < slf_json_to_number(value) || neutral > slf_json_to_number(value));
    }
    if (slf_json_is_flag(value)) return strcmp(text, slf_json_is(value, SLF_JSON_TRUE) ? "true" : "false") == 0;
    return slf_json_is(value, SLF_JSON_OBJECT) && slf_json_size(value) == 0 && strcmp(text, "{}") == 0;
}

/* How a value looks in a message.: at most size - 1 bytes of JSON. */
static const char *show_value(const slf_json *value, char *text, size_t size) {
    const size_t length = slf_json_write(value, text, size - 1);
    text[SLF_MIN(length, size - 1)] = 0;
    return text;
}

/* One object's keys. described: its decoder has to be described completely. */
static salf_status check_object(slf_config *config, slf_json *object, bool described, const char *accept) {
    const char *name;
    slf_json *value;
    char shown[96];
    SLF_JSON_EACH(object, name, value) {
        if (find_word(accept, ',', name)) continue;
        const char *word = find_word(head_keys, ' ', name);
        /* The eps of norms under another name than the family's: no other one, or it would be that of other norms. */
        const bool eps = find_word(eps_keys, ' ', name) != NULL;
        if (eps && slf_json_is_number(value) && slf_json_to_number(value) == config->info.norm_eps) continue;
        if (eps) word = "null";
        /* OPT's smallest sizes project states before the head. */
        const bool projects = strcmp(name, "word_embed_proj_dim") == 0 && slf_json_is_number(value) &&
                              slf_json_to_number(value) != (double)config->info.hidden;
        if (projects || (word && !is_neutral(word, value)))
            return slf_fail(SALF_E_UNSUPPORTED,
                            "%s: %s = %s changes how logits are made, in a way that is not known for model_type '%s'",
                            config->keys.path, name, show_value(value, shown, sizeof shown), config->family->name);
        if (word) continue;
        word = find_word(decoder_keys, ' ', name);
        if (!word) word = find_word(mixture_keys, ' ', name);
        if (!word && find_word(harmless, ' ', name)) continue; /* last, since its patterns are wide */
        if (!word)
            return slf_fail(SALF_E_UNSUPPORTED,
                            "%s: the key %s = %s is not known; if it changes nothing here, accept it by its name",
                            config->keys.path, name, show_value(value, shown, sizeof shown));
        if (described && !is_neutral(word, value)) slf_decoder_lacks(config, "", name, value);
    }
    return SALF_OK;
}

/* A model around a text model makes logits by itself: those named below with the text model's factor or cap, others
 * without it, which older versions of transformers applied in all. The object around the text model's has keys of the
 * other parts, too. They are checked for what touches the head; sizes may stand there once more. */
salf_status slf_known_check(slf_config *config, slf_json *outer, const char *accept) {
    if (!accept) accept = "";
    if (strchr(accept, '*'))
        return slf_fail(SALF_E_ARGUMENT, "accept is '%s'; name the keys one by one, without *", accept);
    SLF_TRY(check_object(config, config->keys.left, config->family->described, accept));
    if (outer == config->keys.json) return SALF_OK;
    /* 1. a factor or a cap, which is left out where it is accepted by its name */
    static const char *const keys[] = {"logit_scale", "logits_scaling", "lm_head_multiplier",
                                       "final_logit_softcapping"};
    const char *type = slf_json_to_text(slf_json_get(outer, "model_type"));
    if (!type) type = config->family->name;
    /* PaliGemma lets a prompt's tokens see each other in both directions, which no key says. */
    if (strcmp(type, "paligemma") == 0) slf_decoder_lacks(config, "", "model_type", slf_json_get(outer, "model_type"));
    const bool applies = find_word("gemma3 paligemma granite4_vision granite_docling", ' ', type);
    for (size_t i = 0; i < 4 && !applies; i++) {
        double *number = i < 3 ? &config->info.logit_scale : &config->info.logit_softcap;
        const double neutral = i < 3 ? 1 : 0;
        if (!slf_json_get(config->keys.defaults, keys[i]) || !(*number < neutral || *number > neutral)) continue;
        if (!find_word(accept, ',', keys[i]))
            return slf_fail(SALF_E_UNSUPPORTED,
                            "%s: model_type '%s' around '%s': whether %s counts differs between versions of "
                            "transformers; those of today leave it out, as accepting it by its name does",
                            config->keys.path, type, config->family->name, keys[i]);
        *number = neutral;
    }
    /* 2. what is left over */
    slf_json *others = slf_json_copy(outer);
    if (!others) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < slf_json_size(config->keys.json); i++) slf_json_remove(others, config->keys.json->keys[i]);
    static const char *const sizes[] = {
        "hidden_size",         "vocab_size",          "tie_word_embeddings", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "intermediate_size",   "max_position_embeddings",
        "quantization_config", "scale_factor" /* of an image's pixels */};
    const slf_json *quantised = slf_json_get(others, "quantization_config");
    if (quantised && !slf_json_is(quantised, SLF_JSON_NULL))
        slf_decoder_lacks(config, "", "quantization_config", quantised);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) slf_json_remove(others, sizes[i]);
    const salf_status status = check_object(config, others, false, accept);
    slf_json_release(others);
    return status;
}
