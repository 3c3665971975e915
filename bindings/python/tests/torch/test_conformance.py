"""A dozen of the models of `make conformance`: parts, norm, deviations and gradients are right, each by itself."""

import pathlib
import sys

import pytest
import transformers

FOLDER = pathlib.Path(__file__).resolve().parents[4] / "tests" / "conformance"
FAMILIES = {
    "bloom": "BloomForCausalLM", "cohere": "CohereForCausalLM", "falcon": "FalconForCausalLM",
    "gemma": "GemmaForCausalLM", "gpt_neo": "GPTNeoForCausalLM", "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM", "mpt": "MptForCausalLM", "olmo": "OlmoForCausalLM", "opt": "OPTForCausalLM",
    "phi3": "Phi3ForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM", "stablelm": "StableLmForCausalLM",
    "xglm": "XGLMForCausalLM",
}  # fmt: skip


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_right(model_type, monkeypatch):
    if not FOLDER.is_dir():
        pytest.skip(f"no {FOLDER}: the package's tests run outside of their repository")
    if not hasattr(transformers, FAMILIES[model_type]):
        pytest.skip(f"transformers {transformers.__version__} has no {FAMILIES[model_type]}")
    monkeypatch.syspath_prepend(str(FOLDER))
    import check

    row = check.check(model_type, FAMILIES[model_type])
    assert row["verdict"] == "right", row
    assert "told" not in row


def teardown_module():
    for name in ("check", "tiny"):
        sys.modules.pop(name, None)
