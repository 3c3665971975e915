"""Adapters of PEFT beside LoRA, and models that change under a controller: what trains is what was decided, or there is
an error."""

import copy
import inspect

import peft
import pytest
import small_models as small
import torch

from salf.torch import FreezeController

MATRICES = ["q_proj", "down_proj"]


def lora(**changes):
    return peft.LoraConfig(**{"r": 4, "target_modules": MATRICES, "task_type": "CAUSAL_LM", **changes})


def other(name, **options):
    """A config of another kind; None where this PEFT has none."""
    kind = getattr(peft, name, None)
    return None if kind is None else kind(**{"target_modules": MATRICES, "task_type": "CAUSAL_LM", **options})


# Each changes what a layer computes, or which layers have something to train, in a way of its own.
KINDS = {
    "dora": lambda: lora(use_dora=True),
    "vera": lambda: other("VeraConfig", r=4, target_modules=["q_proj"]),
    "ia3": lambda: other("IA3Config", feedforward_modules=["down_proj"]),
    "loha": lambda: other("LoHaConfig", r=4),
    "lokr": lambda: other("LoKrConfig", r=4),
    "oft": lambda: other("OFTConfig", **{"oft_block_size" if torch.__version__ >= "2" else "r": 4}),
    "fourier": lambda: other("FourierFTConfig", n_frequency=9, target_modules=["q_proj"]),
    "norms": lambda: other("LNTuningConfig", target_modules=["input_layernorm", "post_attention_layernorm"]),
    "some layers": lambda: lora(layers_to_transform=[1, 3]),
    "repeated layers": lambda: lora(layer_replication=[(0, 3), (1, 4)]),
}


def make(config, family="llama"):
    model = peft.get_peft_model(small.make_model(family), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # many begin with zeros, of which others have no gradient
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.train()


def adamw(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)


def loss_of(model, seed=0):
    ids, labels = small.make_batch(seed=seed)
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def train(controller, model, seed=0):
    controller.begin(small.make_batch(seed=seed)[1])
    loss_of(model, seed).backward()
    controller._guard.optimizer.step()
    controller._guard.optimizer.zero_grad()


@pytest.mark.parametrize("method", ["salf", "lift"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_as_it_would_and_stops(kind, method):
    """Gradients of what trains are plain autograd's; the rest has none and is not moved, by momentum or decay either.
    A host's own backward() works also where a turn's layer has nothing to train."""
    config = KINDS[kind]()
    if config is None:
        pytest.skip(f"PEFT {peft.__version__} has no such adapter")
    model = make(config)
    plain, optimizer = copy.deepcopy(model), adamw(model)
    policy = {"interval": 1, "total_steps": 4} if method == "lift" else {}
    compared = 0
    with FreezeController(model, method, optimizer=optimizer, policy=policy) as controller:
        where = {id(p): k for k, layer in enumerate(controller.parts.layers) for p in layer.parameters()}
        trains = {n for n, p in plain.named_parameters() if p.requires_grad}
        for seed in range(4):
            plain.load_state_dict(model.state_dict())
            plain.zero_grad(set_to_none=True)
            loss_of(plain, seed).backward()
            wanted = {n: p.grad for n, p in plain.named_parameters()}
            controller.begin(small.make_batch(seed=seed)[1])
            loss_of(model, seed).backward()
            frozen = {}
            for name, parameter in model.named_parameters():
                if name in trains and controller.decision.trainable[where[id(parameter)]]:
                    torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)
                    compared += 1
                else:
                    assert parameter.grad is None, name
                    frozen[name] = parameter.detach().clone()
            optimizer.step()
            optimizer.zero_grad()
            assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert compared


def test_what_trains_in_all_layers_at_once_is_refused():
    """AdaLoRA's ranks go from layer to layer; VB-LoRA's vectors are all layers' own; prompts are below them."""
    options = {"init_r": 4, "target_r": 2, "target_modules": MATRICES, "task_type": "CAUSAL_LM"}
    if "total_step" in inspect.signature(peft.AdaLoraConfig).parameters:
        options["total_step"] = 10
    model = peft.get_peft_model(small.make_model("llama"), peft.AdaLoraConfig(**options))
    with pytest.raises(ValueError, match="AdaLoRA moves ranks between all layers"):
        FreezeController(model, "half")
    FreezeController(model, "full").close()
    config = other("VBLoRAConfig", r=2, num_vectors=20, vector_length=4, topk=2, target_modules=["q_proj"])
    if config is not None:
        model = peft.get_peft_model(small.make_model("llama"), config)
        with pytest.raises(ValueError, match=r"layers 0 and 1 share the parameter '.*vblora_vector_bank"):
            FreezeController(model, "half")
    for config in (peft.PromptTuningConfig, peft.PrefixTuningConfig):
        model = peft.get_peft_model(small.make_model("llama"), config(num_virtual_tokens=2, task_type="CAUSAL_LM"))
        with pytest.raises(ValueError, match="no parameter of any decoder layer requires a gradient"):
            FreezeController(model, "half")


@pytest.mark.parametrize("change", ["another adapter", "merged", "thawed", "loaded"])
def test_layers_that_hold_something_else_are_refused(change):
    model = make(lora())
    model.add_adapter("other", lora())
    model.set_adapter("default")
    with FreezeController(model, "half", optimizer=adamw(model)) as controller:
        train(controller, model)
        model.add_adapter("idle", lora())  # trains nothing
        for name, parameter in model.named_parameters():
            if "idle" in name:
                parameter.requires_grad_(False)
        train(controller, model)
        if change == "another adapter":
            model.set_adapter("other")
        elif change == "merged":
            model.merge_and_unload()
        elif change == "thawed":
            controller.parts.layers[0].mlp.up_proj.weight.requires_grad_()
        else:
            projection = controller.parts.layers[0].self_attn.q_proj.lora_A["default"]
            projection.weight = torch.nn.Parameter(projection.weight.detach().clone())
        with pytest.raises(RuntimeError, match=r"layer 0: '.*(when the controller was made) \(another adapter"):
            controller.begin(small.make_batch()[1])


def test_one_controller_a_model():
    """What another one froze would pass for what was never to train."""
    model = make(lora())
    first = FreezeController(model, "suffix", policy={"first_layer": 3}, optimizer=adamw(model))
    train(first, model)
    with pytest.raises(RuntimeError, match=r"under another FreezeController \(method 'suffix'\), whose close\(\)"):
        FreezeController(model, "full")
    FreezeController(copy.deepcopy(model), "full").close()
    first.close()
    with FreezeController(model, "full", optimizer=adamw(model)) as second:
        second.begin(small.make_batch()[1])
        loss_of(model).backward()
        assert all(p.grad is not None for n, p in model.named_parameters() if "lora" in n)


def test_what_feeds_the_layers_is_none_of_the_others():
    """Its gradient comes by way of layers that are frozen: the part that is left is none to train by."""
    model = small.make_model("llama")
    model.gain = torch.nn.Parameter(torch.ones(1))
    model.model.embed_tokens.register_forward_hook(lambda _module, _inputs, output: output * model.gain)
    for method in ("half", "salf", "lift*[half][stream]"):
        planner = {"n_data": 60} if "stream" in method else None
        with FreezeController(model, method, others="train", planner=planner, optimizer=adamw(model)) as controller:
            controller.begin(small.make_batch()[1])
            with torch.no_grad():
                loss_of(model)
            with pytest.raises(ValueError, match="the parameter 'gain' feeds the layers"):
                loss_of(model)


@pytest.mark.parametrize("kind", ["lora", "copy", "tokens"])
def test_a_basis_is_made_of_what_the_head_computes(kind):
    """An adapter on the head, or a copy of it that trains, is nothing at first; once it has moved the stored matrix is
    no more the head's."""
    changes = {
        "lora": {"target_modules": [*MATRICES, "lm_head"]}, "copy": {"modules_to_save": ["lm_head"]},
        "tokens": {"trainable_token_indices": [3, 5]},
    }  # fmt: skip
    if not set(changes[kind]) <= set(inspect.signature(peft.LoraConfig).parameters):
        pytest.skip(f"PEFT {peft.__version__} trains no single tokens")
    model = peft.get_peft_model(small.make_model("qwen2" if kind == "tokens" else "llama"), lora(**changes[kind]))
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", policy={"train_head": True}, optimizer=adamw(model)) as controller:
        batch = {"input_ids": ids, "labels": labels}
        controller.verify(batch).check()
        with torch.no_grad():
            for parameter in model.get_output_embeddings().parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        if kind == "copy":
            with pytest.raises(RuntimeError, match="differ from those of the model"):
                controller.verify(batch).check()
            controller.refresh()
            controller.verify(batch).check()
        else:
            for call in (controller.refresh, lambda: controller.verify(batch)):
                with pytest.raises(ValueError, match="computes something else than a product"):
                    call()
