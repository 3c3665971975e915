"""Small models of every class that transformers knows as a causal language model.

Sizes are shrunk by the names of the settings, in nested configurations too; what that cannot do stands in OVERRIDES,
by model type. Weights are transformers' own first values, with noise on all vectors, so that a norm whose weight is left
out is seen.
"""

import inspect

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

HIDDEN, LAYERS, VOCABULARY = 64, 4, 131

#: Value of a setting, by its name; settings that a configuration does not have are left out.
SIZES = {
    "hidden_size": HIDDEN, "d_model": HIDDEN, "n_embd": HIDDEN, "dim": HIDDEN, "emb_dim": HIDDEN, "model_dim": HIDDEN,
    "embedding_size": HIDDEN, "word_embed_proj_dim": HIDDEN, "lru_width": HIDDEN, "attention_hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_layers": 2, "num_decoder_layers": LAYERS, "num_encoder_layers": 2, "num_blocks": LAYERS, "depth": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "num_decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4, "head_dim": 16, "attention_head_dim": 16, "dim_head": 16, "d_kv": 16,
    "intermediate_size": 96, "ffn_dim": 96, "ffn_hidden_size": 96, "n_inner": 96, "dim_ff": 96, "d_inner": 96, "dff": 96,
    "decoder_ffn_dim": 96, "encoder_ffn_dim": 96, "feed_forward_size": 96, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32, "expert_ffn_hidden_size": 32,
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "moe_num_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "num_experts_per_token": 2, "top_k_experts": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1, "moe_layer_start_index": 1,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 24, "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "text_vocab_size": VOCABULARY,
    "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64, "seq_length": 64, "n_ctx": 64,
    "max_source_positions": 64, "max_target_positions": 64, "sliding_window": 32, "attention_window_size": 32,
    "state_size": 16, "conv_kernel": 4, "mamba_d_state": 16, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1,
    "mamba_num_heads": 4, "mamba_head_dim": 32, "n_mamba_heads": 2, "time_step_rank": 8, "mamba_dt_rank": 8,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "rotary_dim": 8, "qk_dim": 16, "hidden_size_per_layer_input": 16, "laurel_rank": 8, "image_size": 32, "patch_size": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "is_decoder": True, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "dropout": 0.0, "attention_dropout": 0.0,
    "hidden_dropout": 0.0, "activation_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "layerdrop": 0.0, "decoder_layerdrop": 0.0, "resid_dropout": 0.0, "embd_dropout": 0.0, "router_jitter_noise": 0.0,
}  # fmt: skip

#: Settings of one model type beyond that.
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ALTERNATING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
OVERRIDES = {
    "bailing_hybrid": {"num_expert_group": 1, "linear_head_dim": 16, "linear_num_heads": 4, "layer_group_size": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8}, "ffn_config": {"ffn_hidden_size": 96}},
    "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "layer_types": ALTERNATING, "intermediate_size": [96] * LAYERS,
        "activation_sparsity_pattern": [0.0] * LAYERS,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (LAYERS // 2)},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "mamba2": {"head_dim": 32, "n_groups": 1},
    "mpt": {"attn_config": {"attn_pdrop": 0}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "nemotron_h": {"n_groups": 1},
    "qwen4_exp": {"text_config": {"indexer_budget": 16, "indexer_compress_ratio": 4}},
    "qwen4_exp_text": {"indexer_budget": 16, "indexer_compress_ratio": 4},
    "reformer": {"axial_pos_embds_dim": (16, 48), "axial_pos_shape": (8, 8), "attn_layers": ["local"] * LAYERS},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layer_types": ["mamba", "hybrid"] * (LAYERS // 2)},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * (LAYERS // 2), "hybrid_layer_ids": [1, 3], "mamba_headdim": 64},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def types():
    """(model type, name of the class) of the whole table, in its order."""
    return [(k, v if isinstance(v, str) else v[0]) for k, v in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()]


def shrunk(config, overrides):
    """The settings of a configuration that make it small; nested ones as dictionaries."""
    found = {}
    for name, value in vars(config).items():
        if isinstance(value, transformers.PretrainedConfig):
            found[name] = {**shrunk(value, {}), "model_type": value.model_type}
    known = set(vars(config)) | set(getattr(config, "attribute_map", {}))
    known |= set(inspect.signature(type(config).__init__).parameters)
    mapped = getattr(config, "attribute_map", {})
    for name, size in SIZES.items():
        if name in known and name not in mapped:
            found[name] = size
    if "qk_rope_head_dim" in found:  # latent attention: what rotates is a part of each head
        found["head_dim"] = found["qk_rope_head_dim"]
        found["num_key_value_heads"] = found.get("num_attention_heads", 4)
    for name, value in overrides.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            found[name] = {**found[name], **value}
        else:
            found[name] = value
    return {name: value for name, value in found.items() if value is not DROP}


#: What salf asks to be told of models whose head reads a transform of the last space.
NAMED = {
    "inkling2_loop_text": {"norm": "model.norm"},
    "inkling2_text": {"norm": "model.norm"},
    "megatron-bert": {"norm": "bert.encoder.ln"},
    "modernbert-decoder": {"norm": "model.final_norm"},
    "roberta-prelayernorm": {"norm": "roberta_prelayernorm.LayerNorm"},
    "xlm-roberta-xl": {"norm": "roberta.encoder.LayerNorm"},
}


class DROP:
    """In OVERRIDES: this setting is not shrunk."""


def config_of(model_type, class_name):
    """A small configuration of a model type; the part of it that the class is made from."""
    kind = transformers.models.auto.configuration_auto.CONFIG_MAPPING[model_type]
    config = kind(**shrunk(kind(), OVERRIDES.get(model_type, {})))
    wanted = getattr(getattr(transformers, class_name), "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return config
    inner = [value for value in vars(config).values() if isinstance(value, wanted)]
    return inner[0] if inner else wanted(**shrunk(wanted(), OVERRIDES.get(wanted.model_type, {})))


def make(model_type, class_name, seed=0):
    """A small model with noise on its vectors, in evaluation mode."""
    config = config_of(model_type, class_name)
    torch.manual_seed(seed)
    model = getattr(transformers, class_name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.float().eval()


def batch_of(rows=5, tokens=9, seed=1):
    """Tokens, and labels with one target in each row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 20, (rows, tokens), generator=generator)
    labels = torch.full_like(ids, -100)
    for row in range(rows):
        at = 3 + row % (tokens - 3)
        labels[row, at] = ids[row, at]
    return ids, labels
