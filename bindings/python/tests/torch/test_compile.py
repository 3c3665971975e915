"""torch.compile in all its spellings: the same cuts and, but for rounding, the same weights as without it."""

import pytest
import small_models as small
import torch
from test_trainer import make_trainer

from salf.torch import FreezeController

if not hasattr(torch, "compiler"):
    pytest.skip(f"PyTorch {torch.__version__} compiles nothing", allow_module_level=True)

#: Traces as always, and runs what it traced: nothing but code generation is left out.
BACKEND = "aot_eager"


def compile_layers(model):
    for k, layer in enumerate(model.model.layers):
        model.model.layers[k] = torch.compile(layer, backend=BACKEND)
    return model


def compile_in_place(model):
    for layer in model.model.layers:
        layer.compile(backend=BACKEND)
    return model


def compile_itself(model):
    model.compile(backend=BACKEND)
    return model


def compile_and_run(model):
    """Compiled and run before the controller is made: its graphs do not know the hooks."""
    model.compile(backend=BACKEND)
    ids, labels = small.make_batch(seed=0)
    loss_of(model, ids, labels).backward()
    model.zero_grad()
    return model


SPELLINGS = {
    "eager": lambda model: model,
    "model": lambda model: torch.compile(model, backend=BACKEND),
    "model.compile()": compile_itself,
    "after a run": compile_and_run,
    "layers": compile_layers,
    "layer.compile()": compile_in_place,
}
METHODS = {
    "salf": {},
    "scripted": {"policy": {"script": [2, 0, 3, 1]}},
    "lift*[half][stream]": {"planner": {"n_data": 60}},
    "salf[half][stream]": {"planner": {"n_data": 60}},
}


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def run(spelling, method, late=False):
    """Weights, cuts and saving of four steps. late: the model is compiled when the controller is there already."""
    torch.compiler.reset()
    model = small.make_model("llama")
    compiled = model if late else SPELLINGS[spelling](model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cuts = []
    with FreezeController(compiled, method, optimizer=optimizer, **METHODS[method]) as controller:
        compiled = SPELLINGS[spelling](model) if late else compiled
        for seed in range(3):
            ids, labels = small.make_batch(seed=seed)
            controller.begin(labels)
            loss = loss_of(compiled, ids, labels)
            loss.backward() if seed % 2 else controller.backward(loss)
            cuts.append(controller.cut)
            optimizer.step()
            optimizer.zero_grad()
        saving = controller.saving
    return [p.detach().clone() for p in model.parameters()], cuts, saving


@pytest.mark.parametrize(
    ("method", "spelling"),
    [
        ("salf", "model"),
        ("salf", "after a run"),
        ("salf", "layers"),
        ("salf", "layer.compile()"),
        ("scripted", "model.compile()"),
        ("lift*[half][stream]", "model"),
        ("salf[half][stream]", "layer.compile()"),
    ],
)
def test_a_compiled_model_trains_as_it_does_without(method, spelling):
    expected, cuts, saving = run("eager", method)
    found = run(spelling, method)
    assert found[1:] == (cuts, saving)
    for a, b in zip(expected, found[0]):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_compiled_after_the_controller():
    expected, cuts, _ = run("eager", "salf")
    found = run("model.compile()", "salf", late=True)
    assert found[1] == cuts
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(expected, found[0]))


@pytest.mark.parametrize("method", ["salf", "half"])
def test_the_trainer_compiles(tmp_path, method):
    given = {"torch_compile": True, "torch_compile_backend": BACKEND, "max_steps": 2}
    plain = make_trainer(tmp_path, method, max_steps=2)
    plain.train()
    torch.compiler.reset()
    trainer = make_trainer(tmp_path, method, **given)
    trainer.train()
    assert trainer.controller.saving == plain.controller.saving
    for a, b in zip(plain.model.parameters(), trainer.model.parameters()):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
