#!/usr/bin/env python3
"""The trainer's decoder on checkpoints that transformers writes, against transformers.

For each family and variant a tiny model with random weights is saved with save_pretrained. Compared, in float64 there:

- states of every latent space and logits of several sequences, and the deviations that `salf probe` prints;
- gradients of all weights, and of LoRA's A and B on all matrices, by autograd;
- what the trainer saves: config.json key by key, the files beside it, and the logits of the model that transformers
  loads from it, with LoRA merged.

Prints a line a case in the form that tests/run.sh counts, and says aloud when transformers is not there.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    import transformers
    from safetensors.numpy import load_file
    from transformers import AutoConfig, AutoModelForCausalLM
except ImportError as missing:
    print(f"SKIPPED: decoders of transformers: {missing}")
    sys.exit(0)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

PROGRAM = os.environ.get("SALF_PROGRAM", "build/bin/salf")
RUN = os.environ.get("SALF_RUN_DECODER", "build/tests/run_decoder")
VOCAB, LAYERS, RANK = 96, 4, 3
# A padding token would have no gradient in transformers.
SIZES = {"num_hidden_layers": LAYERS, "hidden_size": 64, "vocab_size": VOCAB, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 80, "max_position_embeddings": 256, "head_dim": 16,
         "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
LENGTHS = (37, 5, 12, 1, 24)
SEQUENCES = [[(7 * i + 31 * s + i * i) % VOCAB for i in range(n)] for s, n in enumerate(LENGTHS)]

DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
GEMMA3 = ["sliding_attention", "full_attention"] * 2

# Family, and what its configuration has beside the sizes.
CASES = {
    "llama": ("llama", {}),
    "llama_tied": ("llama", {"tie_word_embeddings": True}),
    "llama_own_head_dim": ("llama", {"head_dim": 24}),
    "llama_one_kv_head": ("llama", {"num_key_value_heads": 1}),
    "llama_all_heads": ("llama", {"num_key_value_heads": 4}),
    "llama_3_1": ("llama", {"rope_parameters": LLAMA3}),
    "llama_3_2": ("llama", {"rope_parameters": {**LLAMA3, "factor": 32.0}, "tie_word_embeddings": True}),
    "llama_linear": ("llama", {"rope_parameters": {**DEFAULT, "rope_type": "linear", "factor": 4.0}}),
    "llama_yarn": ("llama", {"rope_parameters": {**YARN, "factor": 16.0, "beta_fast": 8.0, "beta_slow": 2.0}}),
    "llama_yarn_factor": ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.5}}),
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_gelu": ("llama", {"hidden_act": "gelu"}),
    "llama_relu": ("llama", {"hidden_act": "relu"}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral_window": ("mistral", {"sliding_window": 4}),
    "mistral_window_as_long": ("mistral", {"sliding_window": 37}),
    "qwen2": ("qwen2", {}),
    "qwen2_yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2_windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}),
    "qwen3": ("qwen3", {}),
    "qwen3_biases": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 24, "sliding_window": 5, "attn_logit_softcapping": 5.0,
                          "final_logit_softcapping": 3.0}),
    "gemma2_no_caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("gemma3_text", {"sliding_window": 5, "layer_types": GEMMA3}),
    "gemma3_long": ("gemma3_text", {"sliding_window": 5, "layer_types": GEMMA3, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": DEFAULT}}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3_window": ("phi3", {"sliding_window": 6, "tie_word_embeddings": True}),
    "phi4_mini": ("phi3", {"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 5}),
    "granite": ("granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
                            "attention_multiplier": 0.0156}),
    "stablelm": ("stablelm", {"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.25}}),
    "stablelm_biases": ("stablelm", {"use_qkv_bias": True}),
    "smollm3": ("smollm3", {"no_rope_layers": [1] * LAYERS}),
}  # fmt: skip

# What is not implemented, and the words of the refusal.
REFUSED = {
    "longrope": ("phi3", {"rope_parameters": {**DEFAULT, "rope_type": "longrope", "short_factor": [1.0] * 8,
                                              "long_factor": [2.0] * 8, "original_max_position_embeddings": 64}},
                 "longrope"),
    "dynamic": ("llama", {"rope_parameters": {**DEFAULT, "rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    "no_rope_layers": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
    "parallel_residual": ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual"),
    "mixtral": ("mixtral", {}, "mixtral"),
}  # fmt: skip


def make_model(family, more, folder):
    """A random model, saved with a tokenizer's files beside it."""
    kind = type(AutoConfig.for_model(family))
    names = getattr(kind, "attribute_map", {})
    own = set(AutoConfig.for_model(family).to_dict())
    given = {names.get(name, name): value for name, value in SIZES.items() if names.get(name, name) in own}
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(kind(**{**given, **more}), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            centre = 1.0 if value.dim() == 1 and name.endswith("weight") else 0.0
            value.copy_(centre + (0.2 if value.dim() == 1 else 0.15) * torch.randn_like(value))
    model.save_pretrained(folder)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        file.write('{"model_max_length": 1e30}\n')
    return model


def run(folder, rank, saved=None):
    """Arrays of run_decoder."""
    text = ";".join(",".join(map(str, s)) for s in SEQUENCES)
    out = folder + ".out"
    subprocess.run([RUN, folder, text, str(rank), out] + ([saved] if saved else []), check=True, capture_output=True, text=True)
    return load_file(out)


def close(name, found, expected, tolerance):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    worst = float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-300))
    assert worst < tolerance, f"{name}: off by {worst:.2g} of its largest value"


def pass_of(model):
    """Spaces [m+1][T][D], logits [T][V] and the loss with gradients, of the sequences one by one."""
    spaces, logits, loss, last = [], [], 0, []
    norm = model.get_decoder().norm
    hook = norm.register_forward_pre_hook(lambda module, given: last.append(given[0]))
    total = sum(LENGTHS)
    for s in SEQUENCES:
        made = model(torch.tensor([s]), use_cache=False, output_hidden_states=True)
        spaces.append([x[0].detach().numpy() for x in made.hidden_states[:-1]] + [last[-1][0].detach().numpy()])
        logits.append(made.logits[0])
        loss = loss + torch.nn.functional.cross_entropy(made.logits[0], torch.tensor(s[1:] + [0]), reduction="sum") / total
    hook.remove()
    return [np.concatenate([x[k] for x in spaces]) for k in range(LAYERS + 1)], torch.cat(logits), loss


def gradients_of(model):
    model.zero_grad()
    spaces, logits, loss = pass_of(model)
    loss.backward()
    return spaces, logits.detach().numpy(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def check_dense(model, folder):
    """Values and gradients of a model as it is."""
    spaces, logits, gradients = gradients_of(model)
    found = run(folder, 0)
    got = found["spaces"].reshape(LAYERS + 1, sum(LENGTHS), -1)
    for k in range(LAYERS + 1):
        close(f"space {k}", got[k], spaces[k], 1e-5)
    close("logits", found["logits"], logits, 1e-5)
    seen = 0
    for name, expected in gradients.items():
        close("gradient of " + name, found["gradient." + name].reshape(expected.shape), expected, 1e-4)
        seen += 1
    names = [name for name in found if name.startswith("gradient.")]
    assert seen == len(names), f"{seen} gradients there, {len(names)} here"


def check_probe(model, folder):
    """What `salf probe` prints: 1 - cos of each space's last state and the label's row of the head's pseudo-inverse."""
    prompts = folder + ".prompts"
    labels = [11 * s + 3 for s in range(len(SEQUENCES))]
    with open(prompts, "w") as file:
        file.writelines(f"{label}\t{','.join(map(str, s))}\n" for label, s in zip(labels, SEQUENCES, strict=True))
    made = subprocess.run([PROGRAM, "probe", "--model", folder, "--prompts", prompts, "--exact"], check=True,
                          capture_output=True, text=True)  # fmt: skip
    lines = [line.split("\t") for line in made.stdout.splitlines() if line and line[0] in "0123456789"]
    rows = np.linalg.pinv(model.get_output_embeddings().weight.detach().numpy()).T[labels]
    with torch.no_grad():
        spaces = pass_of(model)[0]
        spaces[-1] = model.get_decoder().norm(torch.tensor(spaces[-1])).numpy()
    last = np.cumsum(LENGTHS) - 1
    cosines = [np.sum(x[last] * rows, 1) / np.linalg.norm(x[last], axis=1) / np.linalg.norm(rows, axis=1) for x in spaces]
    found = np.array([[float(value) for value in line[-LAYERS - 2 : -1]] for line in lines])
    close("deviations", found, 1 - np.array(cosines).T, 1e-5)


def check_lora(model, folder):
    """With W + 2 B A for every matrix: dA = 2 B^T dW, dB = 2 dW A^T. What is saved has them merged."""
    saved = folder + ".saved"
    found = run(folder, RANK, saved)
    matrices = [name[len("value."):-len(".lora_A.weight")] for name in found
                if name.startswith("value.") and name.endswith(".lora_A.weight")]
    parameters = dict(model.named_parameters())
    assert len(matrices) >= 4 * LAYERS
    with torch.no_grad():
        for name in matrices:
            a, b = (torch.tensor(found[f"value.{name}.lora_{x}.weight"]).double() for x in "AB")
            parameters[name + ".weight"] += 2 * b @ a
    _, logits, gradients = gradients_of(model)
    close("logits with LoRA", found["logits"], logits, 1e-5)
    for name in matrices:
        a, b = (found[f"value.{name}.lora_{x}.weight"] for x in "AB")
        whole = gradients[name + ".weight"]
        close(f"gradient of A of {name}", found[f"gradient.{name}.lora_A.weight"], 2 * b.T @ whole, 1e-4)
        close(f"gradient of B of {name}", found[f"gradient.{name}.lora_B.weight"], 2 * whole @ a.T, 1e-4)
    check_saved(folder, saved, logits)


def check_saved(folder, saved, logits):
    """A round trip: the files, and what transformers computes from them."""
    before, after = (json.load(open(os.path.join(f, "config.json"))) for f in (folder, saved))
    assert list(before) == list(after) and {**before, **after} == after
    changed = [key for key in before if before[key] != after[key]]
    assert set(changed) <= {"dtype", "torch_dtype"}, changed
    kept = set(os.listdir(folder)) - {"model.safetensors"}
    assert kept == set(os.listdir(saved)) - {"model.safetensors"}, os.listdir(saved)
    for name in kept - {"config.json"}:
        with open(os.path.join(folder, name), "rb") as a, open(os.path.join(saved, name), "rb") as b:
            assert a.read() == b.read(), name
    old, new = (load_file(os.path.join(f, "model.safetensors")) for f in (folder, saved))
    assert {n: v.shape for n, v in old.items()} == {n: v.shape for n, v in new.items()}
    model = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager").double().eval()
    with torch.no_grad():
        close("logits of the saved model", pass_of(model)[1].numpy(), logits, 2e-6)


def check_case(name, folder):
    family, more = CASES[name]
    model = make_model(family, more, folder).double()
    check_dense(model, folder)
    check_probe(model, folder)
    check_lora(model, folder)


def check_refused(name, folder):
    family, more, words = REFUSED[name]
    make_model(family, more, folder)
    try:
        run(folder, 0)
    except subprocess.CalledProcessError as caught:
        assert words in caught.stderr, f"the message lacks '{words}': {caught.stderr}"
        return
    raise AssertionError("it ran")


def check_unknown_tensor(name, folder):
    """A tensor under a layer that nobody takes is named."""
    from safetensors.numpy import save_file

    make_model("llama", {}, folder)
    path = os.path.join(folder, "model.safetensors")
    save_file({**load_file(path), f"model.layers.1.{name}.weight": np.ones(4, np.float32)}, path, {"format": "pt"})
    try:
        run(folder, 0)
    except subprocess.CalledProcessError as caught:
        assert f"model.layers.1.{name}.weight" in caught.stderr, caught.stderr
        return
    raise AssertionError("it ran")


def check_quantised(name, folder):
    """Weights that are not floats are refused for training by name."""
    make_model("llama", {}, folder)
    path = os.path.join(folder, "config.json")
    config = json.load(open(path))
    with open(path, "w") as file:
        json.dump({**config, "quantization_config": {"quant_method": name}}, file)
    try:
        run(folder, RANK)
    except subprocess.CalledProcessError as caught:
        assert "quantization_config" in caught.stderr, caught.stderr
        return
    raise AssertionError("it ran")


def check_dtype(name, folder):
    """A checkpoint in half precision: widened, trained and written in float32, which its configuration then says."""
    model = make_model("llama", {}, folder).to(getattr(torch, name))
    model.save_pretrained(folder)
    close("logits", run(folder, RANK, folder + ".saved")["logits"], run(folder + ".saved", 0)["logits"], 1e-5)
    after = json.load(open(os.path.join(folder + ".saved", "config.json")))
    assert after.get("dtype", after.get("torch_dtype")) == "float32", after
    assert all(v.dtype == np.float32 for v in load_file(os.path.join(folder + ".saved", "model.safetensors")).values())


ALL = {**{name: check_case for name in CASES}, **{name: check_refused for name in REFUSED},
       "self_attn.sinks": check_unknown_tensor, "mlp.experts": check_unknown_tensor,
       "fp8": check_quantised, "gptq": check_quantised, "bfloat16": check_dtype, "float16": check_dtype}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", help="run the cases whose name this regular expression finds")
    options = parser.parse_args()
    failed = 0
    for name, check in ALL.items():
        if options.case and not re.search(options.case, name):
            continue
        work = tempfile.mkdtemp(prefix="salf-decoder-")
        try:
            check(name, os.path.join(work, "model"))
            print(f"ok decoder of {name}")
        except Exception as caught:
            failed += 1
            details = caught.stderr if isinstance(caught, subprocess.CalledProcessError) else caught
            print(f"not ok decoder of {name}: {type(caught).__name__}: {details}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
