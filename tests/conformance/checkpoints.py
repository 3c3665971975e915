#!/usr/bin/env python3
"""Checkpoints that transformers writes, against what transformers computes with them.

For each family of libsalf/io/families.c, and for variants of how checkpoints are stored, a tiny model with random weights is
saved with save_pretrained and opened with salf_model_open. Compared with the model itself in float64:

- basis rows of the head (numpy's pseudo-inverse) and rows of the embedding;
- deviations of the last space by cosine and by the cross-entropy of logits, from states before the final norm: they
  depend on the norm's kind, eps, weight and bias, and on the logits' scale, soft cap and bias.

Prints a line a case in the form that tests/run.sh counts, and says aloud when transformers is not there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile

TOLERANCE = 2e-6  # heads are float32 and so are states; sums of some hundred terms

try:
    import numpy as np
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as missing:
    print(f"SKIPPED: checkpoints of transformers: {missing}")
    sys.exit(0)

import salf

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

HIDDEN, VOCAB, LAYERS, TOKENS = 64, 96, 2, 12
SIZES = {
    "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "vocab_size": VOCAB, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 128, "head_dim": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "moe_num_experts": 4,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "n_inner": 96, "ffn_dim": 96, "word_embed_proj_dim": HIDDEN,
}  # fmt: skip

# Per family: what its configuration class needs beside the sizes, or (...) must not be given.
FAMILIES = {
    "llama": {}, "mistral": {}, "mixtral": {}, "ministral": {}, "ministral3": {}, "qwen2": {}, "qwen2_moe": {},
    "qwen3": {}, "qwen3_moe": {}, "gemma": {}, "gemma2": {}, "gemma3_text": {}, "phi3": {}, "olmo": {}, "olmo2": {},
    "olmo3": {}, "olmoe": {}, "flex_olmo": {}, "stablelm": {}, "smollm3": {},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "granitemoe": {"logits_scaling": 6.0},
    "granitemoehybrid": {"logits_scaling": 4.0, "layer_types": ["attention", "attention"], "shared_intermediate_size": 32},
    "llama4_text": {"intermediate_size_mlp": 32}, "deepseek_v2": {"head_dim": ...},
    "deepseek_v3": {"head_dim": ..., "num_key_value_heads": 4}, "glm": {}, "glm4": {}, "glm4_moe": {}, "helium": {},
    "seed_oss": {}, "arcee": {}, "ernie4_5": {}, "ernie4_5_moe": {}, "hunyuan_v1_dense": {}, "hunyuan_v1_moe": {},
    "exaone4": {}, "gpt_oss": {}, "bitnet": {}, "apertus": {}, "diffllama": {}, "minimax": {}, "vaultgemma": {},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}, "lfm2": {}, "mamba": {},
    "falcon_mamba": {}, "falcon_h1": {"lm_head_multiplier": 0.5, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "cohere": {}, "cohere2": {}, "nemotron": {}, "phi": {}, "phimoe": {"lm_head_bias": True}, "persimmon": {},
    "starcoder2": {}, "xglm": {"d_model": HIDDEN, "num_layers": LAYERS, "attention_heads": 4}, "biogpt": {}, "opt": {},
    "gpt_neox": {}, "gpt2": {}, "gpt_bigcode": {}, "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8}, "codegen": {"rotary_dim": 8}, "falcon": {}, "bloom": {},
    "mpt": {"d_model": HIDDEN, "n_heads": 4, "n_layers": LAYERS},
}  # fmt: skip


def config_of(family, **more):
    """A tiny configuration, with the names that the family's class has for the sizes."""
    kind = type(AutoConfig.for_model(family))
    names, own = getattr(kind, "attribute_map", {}), AutoConfig.for_model(family).to_dict()
    sizes = {names.get(name, name): value for name, value in SIZES.items() if names.get(name, name) in own}
    given = {**sizes, **more}
    return kind(**{name: value for name, value in given.items() if value is not ...})


def random_model(config, seed=0):
    """Random numbers in every parameter, vectors of norms around 1 among them."""
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").float().eval()
    except (TypeError, ValueError):  # no mixture, or an older version: there is one way only
        model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 and name.endswith("weight"):
                value.copy_(1 + 0.2 * torch.randn_like(value))
            else:
                value.copy_(0.15 * torch.randn_like(value))
    return model


def truth_of(model):
    """In float64: states before the final norm and behind it, and logits, of the positions of one text."""
    wide = model.config.model_type != "xglm"  # whose mask holds the smallest float32, which float64 refuses
    model = model.double() if wide else model
    seen = []
    head = model.get_output_embeddings()
    hooks = [head.register_forward_hook(lambda module, given, made: seen.append((module, given[0], made)))]
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower() or name.split(".")[-1] in ("ln_f", "norm_f"):
            hooks.append(module.register_forward_hook(lambda module, given, made: seen.append((module, given[0], made))))
    ids = torch.arange(5, 5 + TOKENS)[None]
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    at = max(i for i, (module, _, _) in enumerate(seen) if module is head)
    normed = seen[at][1].reshape(-1, HIDDEN)
    raw = next(s[1] for s in reversed(seen[:at]) if torch.equal(s[2].reshape(-1, HIDDEN)[-1:], normed[-1:]))
    weights = [matrix.weight.detach().numpy() for matrix in (head, model.get_input_embeddings())]
    model.float()
    return tuple(np.asarray(made, np.float64) for made in (raw.reshape(-1, HIDDEN), normed, logits, *weights))


def close(name, found, expected, tolerance):
    worst = float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-300))
    assert worst < tolerance, f"{name}: off by {worst:.2g} of its largest value"


def compare(folder, truth, tolerance=TOLERANCE, valid=VOCAB, **options):
    """Opens the folder and compares all that its head, norm and embedding decide. Returns the model's info."""
    raw, normed, logits, head, embedding = truth
    with salf.Context("cpu") as context, salf.Model.open(context, folder, **options) as model:
        info = model.info
        assert (info.vocab, info.valid_vocab, info.hidden, info.n_layers) == (VOCAB, valid, HIDDEN, LAYERS), info
        labels = np.arange(len(raw), dtype=np.int32) * 7 % valid
        rows = np.linalg.pinv(head[:valid]).T[labels]
        with salf.Basis(model, labels, mode="exact") as basis:
            close("basis rows", basis.rows(labels), rows, 1e-9 + 30 * tolerance)
            for metric, scores in (("cosine", "basis"), ("ce", "logits")):
                with salf.Probe(basis, metric=metric, scores=scores, lens="hf") as probe:
                    probe.begin(labels)
                    probe.observe(LAYERS, raw.astype(np.float32))
                    found = probe.partial().deviations[:, LAYERS]
                if metric == "cosine":
                    lengths = np.linalg.norm(normed, axis=1) * np.linalg.norm(rows, axis=1)
                    expected = 1 - np.sum(normed * rows, axis=1) / lengths
                else:
                    here = logits[:, :valid]
                    top = here.max(axis=1)
                    expected = top + np.log(np.exp(here - top[:, None]).sum(axis=1)) - here[np.arange(len(raw)), labels]
                close(metric, found, expected, 10 * tolerance)
        with salf.Basis(model, labels, side="input") as basis:
            close("embedding", basis.rows(labels), embedding[labels], tolerance)
        return info, model.decoder


def frequencies(decoder, head_dim, theta, kind):
    """Inverse frequencies and the factor on cosines and sines, by the formulas that salf_decoder_info stands for."""
    dims = decoder.rotary_dims
    plain = theta ** -(np.arange(0, dims, 2) / dims)
    if kind == "default":
        return plain, 1.0
    scaled = plain / decoder.rope_factor
    if kind == "linear":
        return scaled, 1.0
    if kind == "llama3":
        turns = decoder.rope_original_positions * plain / (2 * np.pi)
        low, high = decoder.rope_low_factor, decoder.rope_high_factor
        share = np.clip((turns - low) / (high - low), 0, 1)
        return share * plain + (1 - share) * scaled, 1.0
    place = [dims * np.log(decoder.rope_original_positions / (beta * 2 * np.pi)) / (2 * np.log(theta))
             for beta in (decoder.rope_beta_fast, decoder.rope_beta_slow)]  # fmt: skip
    low, high = max(np.floor(place[0]), 0), min(np.ceil(place[1]), dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / max(high - low, 1e-3), 0, 1)
    return ramp * scaled + (1 - ramp) * plain, decoder.rope_attention_factor


def same_layers(folder, info, decoder):
    """The description of the layers, against the modules that transformers makes of the folder's config.json."""
    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "text_config", config)
    model = AutoModelForCausalLM.from_config(config)
    rotary, layers = model.model.rotary_emb, model.model.layers
    kinds = [("inv_freq", decoder.rope_theta, decoder.rope, "attention_scaling")]
    if hasattr(rotary, "full_attention_inv_freq"):
        kinds = [("full_attention_inv_freq", decoder.rope_theta, decoder.rope, "full_attention_attention_scaling")]
        kinds += [("sliding_attention_inv_freq", decoder.local_rope_theta, "default",
                   "sliding_attention_attention_scaling")]  # fmt: skip
    for name, theta, kind, scaling in kinds:
        if hasattr(rotary, name):
            expected, factor = frequencies(decoder, info.head_dim, theta, kind)
            close(name, expected, getattr(rotary, name).double().numpy(), 1e-5)
            close(scaling, np.array(factor), np.array(getattr(rotary, scaling)), 1e-9)
    for k, layer in enumerate(layers):
        attention = layer.self_attn
        assert abs(attention.scaling - decoder.attention_scale) < 1e-12, (attention.scaling, decoder)
        window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
        if type(config).__name__ == "LlamaConfig":
            window = None
        slides = bool(decoder.sliding) and decoder.sliding[k]
        assert (decoder.sliding_window if slides else None) == window, (k, window, decoder)
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
        for short, long in names.items():
            if hasattr(attention, long):
                assert (getattr(attention, long).bias is not None) == (short in decoder.biases), (long, decoder)
        for short in ("gate", "up", "down"):
            if hasattr(layer.mlp, short + "_proj"):
                assert (getattr(layer.mlp, short + "_proj").bias is not None) == (short in decoder.biases), decoder
        act = getattr(layer.mlp, "act_fn", getattr(layer.mlp, "activation_fn", None))
        ours = {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu, "relu": torch.relu,
                "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh")}  # fmt: skip
        x = torch.linspace(-3, 3, 50)
        assert torch.allclose(act(x), ours[decoder.activation](x), atol=1e-6), (act, decoder)


def edit_config(folder, **changes):
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    for name, value in changes.items():
        if value is ...:
            config.pop(name, None)
        else:
            config[name] = value
    with open(path, "w") as file:
        json.dump(config, file)


def edit_tensors(folder, change):
    path = os.path.join(folder, "model.safetensors")
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refused(folder, *words, error=salf.errors.UnsupportedError, **options):
    with salf.Context("cpu") as context:
        try:
            salf.Model.open(context, folder, **options)
        except error as caught:
            for word in words:
                assert word in str(caught), f"the message lacks '{word}': {caught}"
            return
    raise AssertionError(f"opened, where {error.__name__} was expected")


# ---- the cases: functions of a folder ----

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def family_case(name, more):
    def run(folder):
        model = random_model(config_of(name, **more))
        model.save_pretrained(folder)
        info, decoder = compare(folder, truth_of(model))
        assert info.model_type == name
        assert decoder.unsupported is None or "model_type" in decoder.unsupported or name == "smollm3", decoder.unsupported
        if decoder.unsupported is None:
            same_layers(folder, info, decoder)

    CASES[f"family_{name}"] = run


for family_name, family_more in FAMILIES.items():
    family_case(family_name, family_more)


def variant(name, family, expected, **more):
    """A configuration whose decoder is described completely, with these fields."""

    def run(folder):
        model = random_model(config_of(family, **more))
        model.save_pretrained(folder)
        info, decoder = compare(folder, truth_of(model))
        assert decoder.unsupported is None, decoder.unsupported
        same_layers(folder, info, decoder)
        for field, value in expected.items():
            assert getattr(decoder, field) == value, (field, getattr(decoder, field), value)

    CASES[f"variant_{name}"] = run


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
variant("llama3", "llama", {"rope": "llama3", "rope_factor": 8, "rope_theta": 5e5, "rope_original_positions": 32},
        rope_parameters=LLAMA3)  # fmt: skip
variant("linear", "llama", {"rope": "linear", "rope_factor": 4},
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})  # fmt: skip
variant("yarn", "qwen2", {"rope": "yarn", "rope_factor": 4, "rope_original_positions": 32, "biases": ("q", "k", "v")},
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                         "original_max_position_embeddings": 32})  # fmt: skip
variant("window", "mistral", {"sliding_window": 4, "sliding": (True, True)}, sliding_window=4)
variant("no_window", "mistral", {"sliding_window": 0, "sliding": ()}, sliding_window=None)
variant("qwen_window", "qwen2", {"sliding_window": 4, "sliding": (False, True)}, use_sliding_window=True,
        sliding_window=4, max_window_layers=1)  # fmt: skip
variant("attention_bias", "llama", {"biases": ("q", "k", "v", "o")}, attention_bias=True)
variant("mlp_bias", "llama", {"biases": ("gate", "up", "down")}, mlp_bias=True)
variant("gelu", "llama", {"activation": "gelu"}, hidden_act="gelu")
variant("partial_rotary", "phi3", {"rotary_dims": 8}, rope_parameters={"rope_type": "default", "rope_theta": 1e4,
                                                                       "partial_rotary_factor": 0.5})  # fmt: skip
variant("gemma3_windows", "gemma3_text", {"sliding": (True, False), "local_rope_theta": 1e4, "rope_theta": 1e6},
        layer_types=["sliding_attention", "full_attention"])  # fmt: skip
variant("tied", "llama", {}, tie_word_embeddings=True)
variant("own_head_dim", "llama", {"rotary_dims": 32}, head_dim=32)
variant("no_soft_cap", "gemma2", {"attention_softcap": 0}, final_logit_softcapping=None, attn_logit_softcapping=None)


def plain(folder, **more):
    """A saved Llama and its truth."""
    model = random_model(config_of("llama", **more))
    model.save_pretrained(folder)
    return truth_of(model)


def stored_as(name, dtype, tolerance):
    @case
    def run(folder):
        model = random_model(config_of("llama", tie_word_embeddings=False)).to(dtype)
        truth = truth_of(model.double())
        model.to(dtype).save_pretrained(folder)
        compare(folder, truth, tolerance)

    CASES[f"stored_as_{name}"] = CASES.pop("run")


stored_as("float64", torch.float64, TOLERANCE)
stored_as("bfloat16", torch.bfloat16, TOLERANCE)
stored_as("float16", torch.float16, TOLERANCE)


@case
def older_spellings(folder):
    truth = plain(folder, rope_parameters=LLAMA3)
    scaling = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    edit_config(folder, rope_parameters=..., rope_scaling=scaling, rope_theta=5e5, torch_dtype="float32")
    _, decoder = compare(folder, truth)
    assert (decoder.rope, decoder.rope_theta, decoder.rope_factor) == ("llama3", 5e5, 8), decoder
    edit_config(folder, rope_scaling={"type": "linear", "factor": 2.0})
    _, decoder = compare(folder, truth)
    assert (decoder.rope, decoder.rope_factor) == ("linear", 2), decoder


# Changes of config.json after transformers wrote it, in spellings of all its versions: what is described is what
# transformers reads from them, and what cannot be described is named.
SPELLINGS = {
    "llama": [
        {}, {"rope_parameters": ..., "rope_theta": 5e5}, {"rope_parameters": ..., "rope_scaling": None},
        {"rope_parameters": ..., "rope_scaling": {"type": "linear", "factor": 3.0}},
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 3}, "rope_theta": 7e3},
        {"rope_parameters": {"rope_theta": 7e3}},
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                                                  "high_freq_factor": 4.0}},
        {"rope_parameters": ..., "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.707,
                                                  "mscale_all_dim": 1.0, "original_max_position_embeddings": 64}},
        {"rope_parameters": ..., "rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 16, "beta_slow": 2,
                                                  "attention_factor": 1.3}},
        {"rope_parameters": ..., "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32, "type": "yarn",
                                                  "finetuned": True}},
        {"num_key_value_heads": None}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"attention_bias": True},
    ],
    "mistral": [{"sliding_window": ...}, {"sliding_window": None}, {"sliding_window": 7}],
    "qwen2": [{"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0, "layer_types": ...},
              {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": ...},
              {"use_sliding_window": False, "sliding_window": 5, "max_window_layers": 1, "layer_types": ...},
              {"use_sliding_window": True, "sliding_window": 5,
               "layer_types": ["sliding_attention", "full_attention"]}],
    "qwen3": [{"attention_bias": True, "head_dim": 32}],
    "gemma": [{"hidden_act": "gelu"}],
    "gemma2": [{"layer_types": ..., "sliding_window": 6}, {"sliding_window": 6, "sliding_window_size": 6}, {"query_pre_attn_scalar": 100}],
    "gemma3_text": [
        {"rope_parameters": ..., "layer_types": ...},
        {"rope_parameters": ..., "layer_types": ..., "sliding_window_pattern": 2, "rope_theta": 5e5,
         "rope_local_base_freq": 3e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 9e3}},
         "layer_types": ["full_attention", "sliding_attention"]},
    ],
    "phi3": [{"rope_parameters": ..., "rope_theta": 5e3, "partial_rotary_factor": 0.5}, {"sliding_window": 9}],
    "olmo3": [{"rope_parameters": ..., "layer_types": ...},
              {"rope_parameters": ..., "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}],
    "granite": [{"attention_multiplier": 0.3, "mlp_bias": True}],
    "stablelm": [{"rope_parameters": ..., "partial_rotary_factor": ...}, {"use_qkv_bias": True},
                 {"rope_parameters": ..., "partial_rotary_factor": 0.5, "rope_theta": 5e3}],
    "smollm3": [{"no_rope_layers": [1, 1]}],
}  # fmt: skip


def spelling_case(family, changes):
    def run(folder):
        for change in changes:
            config_of(family).save_pretrained(folder)
            edit_config(folder, **change)
            config = AutoConfig.from_pretrained(folder)
            AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
            config_of(family).save_pretrained(folder)
            edit_config(folder, **change)
            with salf.Context("cpu") as context, salf.Model.open(context, folder) as model:
                assert model.decoder.unsupported is None, (change, model.decoder.unsupported)
                same_layers(folder, model.info, model.decoder)

    CASES[f"spellings_{family}"] = run


for spelling_family, spelling_changes in SPELLINGS.items():
    spelling_case(spelling_family, spelling_changes)


@case
def keys_that_nobody_knows(folder):
    truth = plain(folder)
    edit_config(folder, my_scale=2.0)
    refused(folder, "my_scale = 2.0")
    compare(folder, truth, accept="my_scale")
    edit_config(folder, my_scale=..., final_logit_softcapping=30.0)
    refused(folder, "final_logit_softcapping = 30.0")


@case
def python_numbers(folder):
    truth = plain(folder)
    edit_config(folder, router_aux_loss_coef=float("inf"), temperature=float("nan"), max_length=10**30)
    compare(folder, truth)
    with open(os.path.join(folder, "config.json"), "r+b") as file:
        text = file.read()
        file.seek(0)
        file.write(b"\xef\xbb\xbf" + text.replace(b'"hidden_size": 64', b'"hidden_size": 9, "hidden_size": 64.0'))
    compare(folder, truth)


def renamed(name, prefix, head_prefix):
    def run(folder):
        truth = plain(folder)

        def change(tensors):
            def new_name(old):
                return prefix + old[len("model.") :] if old.startswith("model.") else head_prefix + old

            return {new_name(old): value for old, value in tensors.items()}

        edit_tensors(folder, change)
        compare(folder, truth)

    CASES[f"prefix_{name}"] = run


renamed("inner", "model.language_model.", "")
renamed("outer", "language_model.model.", "language_model.")
renamed("module", "module.model.", "module.")
renamed("nothing", "", "")
renamed("odd", "student.net.model.", "student.net.")


@case
def two_models_in_one_file(folder):
    truth = plain(folder)
    edit_tensors(folder, lambda old: {**old, **{"teacher." + name: value * 2 for name, value in old.items()}})
    refused(folder, "teacher.lm_head.weight")
    edit_tensors(folder, lambda old: {name: v for name, v in old.items() if name != "teacher.lm_head.weight"})
    _, decoder = compare(folder, truth)
    assert "teacher" in decoder.unsupported


@case
def tensors_that_nobody_knows(folder):
    truth = plain(folder)
    extra = torch.ones(4)
    for name, touches in (("model.layers.0.self_attn.sinks", False), ("model.embed_positions.weight", False),
                          ("model.layers.1.mlp.gate_proj.bias", False),
                          ("v_head.summary.weight", False), ("lm_head.lora_A.weight", True),
                          ("model.norm.bias", True), ("model.embed_tokens.scale", True),
                          ("model.second_norm.weight", True)):  # fmt: skip
        other = os.path.join(folder, "other")
        shutil.copytree(folder, other, ignore=shutil.ignore_patterns("other"))
        edit_tensors(other, lambda old, new=name: {**old, new: extra})
        if touches:
            refused(other, name)
        else:
            _, decoder = compare(other, truth)
            assert name in decoder.unsupported
        shutil.rmtree(other)
    edit_tensors(folder, lambda old: {**old, "model.layers.0.self_attn.rotary_emb.inv_freq": extra})
    assert compare(folder, truth)[1].unsupported is None


@case
def the_heads_bias_counts(folder):
    raw, normed, logits, head, embedding = plain(folder)
    bias = np.random.default_rng(3).standard_normal(VOCAB).astype(np.float32)
    edit_tensors(folder, lambda old: {**old, "lm_head.bias": torch.from_numpy(bias)})
    compare(folder, (raw, normed, logits + bias, head, embedding))


@case
def a_tied_head_with_a_bias(folder):
    model = random_model(config_of("phi", tie_word_embeddings=True))
    model.save_pretrained(folder)
    truth = truth_of(model)
    edit_tensors(folder, lambda old: {name: v for name, v in old.items() if name != "lm_head.weight"})
    assert compare(folder, truth)[0].tied


@case
def tied_but_both_are_stored(folder):
    raw, normed, logits, head, embedding = plain(folder, tie_word_embeddings=True)
    edit_tensors(folder, lambda old: {**old, "lm_head.weight": old["model.embed_tokens.weight"].clone()})
    assert compare(folder, (raw, normed, logits, head, embedding))[0].tied
    edit_tensors(folder, lambda old: {**old, "lm_head.weight": old["model.embed_tokens.weight"].flip(0)})
    info, _ = compare(folder, (raw, normed, logits[:, ::-1], head[::-1], embedding))
    assert not info.tied


@case
def shards(folder):
    model = random_model(config_of("llama", tie_word_embeddings=False))
    model.save_pretrained(folder, max_shard_size="20KB")
    assert sum(name.endswith(".safetensors") for name in os.listdir(folder)) > 3
    compare(folder, truth_of(model))


def quantised(name, change):
    def run(folder):
        raw, normed, _, head, embedding = plain(folder, tie_word_embeddings=False)
        made = {}

        def edit(tensors):
            new, wide = change(tensors["lm_head.weight"])
            made["head"] = wide.double().numpy()
            return {**{k: v for k, v in tensors.items() if k != "lm_head.weight"},
                    **{"lm_head." + k: v for k, v in new.items()}}  # fmt: skip

        edit_tensors(folder, edit)
        edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [32, 16]})
        head = made["head"]
        _, decoder = compare(folder, (raw, normed, normed @ head.T, head, embedding))
        assert "quantization_config" in decoder.unsupported

    CASES[f"head_{name}"] = run


def fp8(weight, scale, wide_scale):
    small = (weight / wide_scale).to(torch.float8_e4m3fn)
    return {"weight": small, **scale}, small.float() * wide_scale


def fp8_blocks(weight):
    scale = torch.rand(3, 4) * 0.01 + 0.001
    return fp8(weight, {"weight_scale_inv": scale}, scale.repeat_interleave(32, 0).repeat_interleave(16, 1))


def fp8_rows(weight):
    scale = torch.rand(VOCAB, 1) * 0.01 + 0.001
    return fp8(weight, {"weight_scale": scale}, scale)


def fp8_whole(weight):
    scale = torch.tensor(0.0025)
    return fp8(weight, {"weight_scale": scale}, scale)


def int8_rows(weight):
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    small = torch.round(weight / scale.float()).clamp(-127, 127).to(torch.int8)
    return {"weight": small, "weight_scale": scale}, small.float() * scale.float()


def int8_scb(weight):
    most = weight.abs().amax(1)
    small = torch.round(weight / most[:, None] * 127).to(torch.int8)
    return {"weight": small, "SCB": most}, small.float() * (most[:, None] / 127)


for quantised_change in (fp8_blocks, fp8_rows, fp8_whole, int8_rows, int8_scb):
    quantised(quantised_change.__name__, quantised_change)


@case
def heads_without_scales(folder):
    plain(folder, tie_word_embeddings=False)
    edit_tensors(folder, lambda old: {**old, "lm_head.weight": old["lm_head.weight"].to(torch.float8_e4m3fn)})
    refused(folder, "lm_head.weight", "F8_E4M3", error=salf.errors.DtypeError)
    edit_tensors(folder, lambda old: {**old, "lm_head.weight": torch.ones(VOCAB, HIDDEN, dtype=torch.uint8)})
    refused(folder, "lm_head.weight", "U8", error=salf.errors.DtypeError)


@case
def padding_ends_where_the_tokenizer_does(folder):
    truth = plain(folder)
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(vocab={f"t{i}": i for i in range(60)}, merges=[]))
    tokenizer.add_special_tokens([f"<{i}>" for i in range(10)])
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    info, _ = compare(folder, truth, valid=70)
    assert info.vocab_from == "tokenizer"
    info, _ = compare(folder, truth, valid=65, valid_vocab=65)
    assert info.vocab_from == "option"


@case
def gemma3_with_images(folder):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = config_of("gemma3_text", layer_types=["sliding_attention", "full_attention"]).to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=90,
                          boi_token_index=91, eoi_token_index=92)  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.15 * torch.randn_like(value))
    model.save_pretrained(folder)
    info, decoder = compare(folder, truth_of(model))
    assert decoder.unsupported is None, decoder.unsupported
    same_layers(folder, info, decoder)
    assert decoder.sliding == (True, False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", help="all without")
    wanted = parser.parse_args().cases or list(CASES)
    failed = 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            try:
                CASES[name](folder)
                print(f"ok {name}")
            except Exception as error:  # noqa: BLE001
                failed += 1
                print(f"not ok {name}: {type(error).__name__}: {str(error)[:500]}")
        sys.stdout.flush()
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
