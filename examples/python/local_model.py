"""A causal language model from a local folder."""

import json
import pathlib

import transformers


def load_model(folder):
    """The model in float32. Some folders keep a tied matrix under the head's name only, which from_pretrained does not
    look for."""
    import torch
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    config = json.loads(folder.joinpath("config.json").read_text(encoding="utf-8"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    single = folder / "model.safetensors"
    if config.get("tie_word_embeddings") and single.exists():
        tensors = load_file(single)
        if "lm_head.weight" in tensors and "model.embed_tokens.weight" not in tensors:
            with torch.no_grad():
                model.get_input_embeddings().weight.copy_(tensors["lm_head.weight"])
            model.tie_weights()
    return model.float()
