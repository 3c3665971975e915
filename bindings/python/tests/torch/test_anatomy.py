"""Parts of the model families, found by themselves, under wrappers and by name."""

import pytest
import small_models as small
import torch
from torch import nn

from salf.torch import find_parts, unwrap
from salf.torch.groups import Groups

NORMS = {"llama": "rms", "qwen2": "rms", "mistral": "rms", "gemma2": "rms1p", "gpt2": "layer"}


@pytest.mark.parametrize("family", small.FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
def test_parts_are_found(family, lora):
    model = small.make_model(family)
    wrapped = small.add_lora(model, family) if lora else model
    parts = find_parts(wrapped)
    assert len(parts.layers) == 4
    assert parts.norm_kind == NORMS[family]
    assert 0 < parts.norm_eps < 1e-3
    assert parts.head_weight.shape == (small.VOCABULARY, small.HIDDEN)
    assert parts.tied == (family in ("qwen2", "gemma2", "gpt2"))
    assert parts.logit_softcap == (30.0 if family == "gemma2" else 0.0)
    assert unwrap(wrapped) is model


@pytest.mark.parametrize("family", small.FAMILIES)
def test_every_parameter_belongs_to_one_group(family):
    model = small.make_model(family)
    groups = Groups(find_parts(model), model)
    ids = [id(p) for p in groups.managed()]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))
    assert groups.other == []


def test_gpt2_position_embedding_is_embedding():
    model = small.make_model("gpt2")
    groups = Groups(find_parts(model), model)
    assert [id(p) for p in groups.embedding] == [id(model.transformer.wpe.weight)]  # wte is the tied head


class Odd(nn.Module):
    """A decoder of no known build."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Module()
        self.tower.cells = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.scale = nn.LayerNorm(8)
        self.out = nn.Linear(8, 20)


def test_names_given_explicitly():
    model = Odd()
    parts = find_parts(model, layers="tower.cells", head="out", norm="scale")
    assert parts.layers == tuple(model.tower.cells)
    assert parts.head is model.out
    assert (parts.norm_kind, parts.norm_eps) == ("layer", 1e-5)
    assert find_parts(model, layers=model.tower.cells, head=model.out, norm=model.scale).layers == parts.layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "found: none"),
        ({"layers": "tower.rows"}, "no part named 'tower.rows'"),
        ({"layers": "tower.cells", "norm": "out"}, "norm of class Linear"),
        ({"layers": "tower.cells", "norm_kind": "rms"}, "final norm was not found"),
    ],
)
def test_what_is_not_certain_is_an_error(given, message):
    with pytest.raises(ValueError, match=message):
        find_parts(Odd(), **given)


def test_two_lists_of_layers_are_not_guessed():
    model = Odd()
    model.a, model.b = nn.Module(), nn.Module()
    model.a.layers, model.b.layers = (nn.ModuleList([nn.Linear(8, 8)]) for _ in range(2))
    with pytest.raises(ValueError, match=r"a\.layers.*b\.layers"):
        find_parts(model)


def test_lora_on_the_head_shows_the_heads_own_weight():
    import peft

    model = small.make_model("llama")
    head = model.lm_head.weight
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    assert find_parts(wrapped).head_weight.data_ptr() == head.data_ptr()


def test_dtype_of_the_parts_does_not_matter():
    parts = find_parts(small.make_model("llama").to(torch.bfloat16))
    assert parts.head_weight.dtype == torch.bfloat16
