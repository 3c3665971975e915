"""salf.doctor() says what was found, in words and as JSON."""

import json

import small_models as small
import torch
import transformers

import salf


class Words:
    """A tokenizer of so many words."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def test_without_a_model(capsys):
    found = salf.doctor()
    assert found.ok
    assert set(found.to_dict()) == {"library", "backend", "BLAS", "problems", "ok"}
    assert found.to_dict()["library"]["version"] == salf.version()
    assert "OpenBLAS" in found.to_dict()["BLAS"]["config"]
    assert "no problem found" in capsys.readouterr().out
    assert json.loads(found.json()) == json.loads(json.dumps(found.to_dict()))


def test_of_a_model(capsys):
    model = small.make_model("gemma2").train()
    found = salf.doctor(model, Words(90), show=False)
    told = json.loads(found.json())
    assert found.ok, found.problems
    assert capsys.readouterr().out == ""
    assert (told["norm"]["kind"], told["head"]["soft cap"]) == ("rms1p", 30.0)
    assert told["vocabulary"] == {"rows": 97, "tokens": 90, "padding rows": 7, "valid_vocab": 90}
    assert told["basis"]["rank"] == "32 of 32"
    assert told["self-check"]["ok"]
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    hooks = [hook for m in model.modules() for hook in m._forward_hooks.values()]
    assert not any("salf" in getattr(hook, "__module__", "") for hook in hooks)  # transformers leaves its own
    assert "PROBLEM" not in str(found)


def test_of_a_model_that_is_refused():
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=50, num_labels=3
    )
    found = salf.doctor(transformers.LlamaForSequenceClassification(config), show=False)
    assert not found.ok
    assert "classification head" in found.problems[0]
    found = salf.doctor(torch.nn.Linear(3, 3), show=False)
    assert "list of decoder layers is not certain" in found.problems[0]
    assert "PROBLEM: " in str(found)


def test_tokens_without_a_row_are_a_problem():
    found = salf.doctor(small.make_model("llama"), Words(120), show=False)
    assert any("120 tokens and the head 97 rows" in problem for problem in found.problems)
