"""Loops of a researcher's own, against the same loop with requires_grad set by hand: the same bits, or an error that
names what is not followed."""

import collections
import copy

import pytest
import small_models as small
import torch
import transformers

from salf.torch import FreezeController
from salf.torch.flow import first_state

TURNS = {"total_steps": 8, "interval": 1}


def sgd(model, lr=0.1):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def train(controller, model, steps):
    """A batch for each of the calls that make, or should make, a step of it."""
    ids, labels = small.make_batch()
    for step in steps:
        controller.begin(labels)
        loss_of(model, ids, labels).backward()
        step()
        model.zero_grad(set_to_none=False)


def by_hand(model, layers, trainable):
    """Sets requires_grad as a loop without salf would."""
    for name, parameter in model.named_parameters():
        trains = any(f".layers.{k}." in name for k, flag in enumerate(layers) if flag)
        parameter.requires_grad_(name in trainable and trains)


def with_gradient(model):
    return {name for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("method", ["lisa", "half", "lift", "random", "salf"])
def test_the_same_weights(method, kind):
    """Momentum, decay, clipping, accumulation, gradients of zero: nothing moves a frozen layer, or another's rate."""
    model = small.make_model("llama")
    model = small.add_lora(model, "llama") if kind == "lora" else model
    other = copy.deepcopy(model)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    ours, theirs = (torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (model, other))
    policy = {"total_steps": 8} if method in ("half", "salf", "random") else TURNS
    with FreezeController(model, method, optimizer=ours, policy=policy) as controller:
        for step in range(5):
            for part in range(2):
                ids, labels = small.make_batch(seed=10 * step + part)
                controller.begin(labels)
                if kind == "lora":  # a reference model's log-probabilities: PEFT then sets the flags of all adapters
                    with torch.no_grad(), model.disable_adapter():
                        loss_of(model, ids, labels)
                loss_of(model, ids, labels).backward()
                by_hand(other, controller._active.layers, trainable)
                loss_of(other, ids, labels).backward()
                assert with_gradient(model) == with_gradient(other)
            norms = [torch.nn.utils.clip_grad_norm_(m.parameters(), 0.1) for m in (model, other)]
            assert torch.equal(*norms)
            ours.step()
            theirs.step()
            ours.zero_grad(set_to_none=False)
            theirs.zero_grad(set_to_none=True)
        assert controller.steps == 5
    for (name, a), b in zip(model.named_parameters(), other.parameters()):
        assert torch.equal(a, b), name


def make_experts():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=small.VOCABULARY, num_local_experts=4, output_router_logits=True, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).train()


@pytest.mark.parametrize("first", ["text", "router"])
def test_two_backwards_through_one_graph(first):
    """The loss of the text and that of the routers, each with a backward of its own."""
    model = make_experts()
    ids, labels = small.make_batch()
    policy = {"callback": lambda step, n_layers, trace: 2}
    with FreezeController(model, "callback", optimizer=sgd(model), policy=policy) as controller:
        controller.begin(labels)
        output = model(input_ids=ids, use_cache=False)
        text = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        losses = [text, output.aux_loss] if first == "text" else [output.aux_loss, text]
        losses[0].backward(retain_graph=True)
        losses[1].backward()
        frozen = {n for n, p in model.named_parameters() if id(p) not in controller._trained}
        assert not with_gradient(model) & frozen
        assert any(".layers.2." in name for name in with_gradient(model))


def test_each_forward_that_trains_is_begun():
    """begin() once a window, for several batches of which each would be cut elsewhere."""
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=sgd(model)) as controller:
        controller.begin(labels)
        loss_of(model, ids, labels).backward()
        with pytest.raises(RuntimeError, match=r"not announced, beside one that was: call begin\(\)"):
            loss_of(model, ids, labels).backward()
        controller.drop()
        model.eval()  # a look at gradients is none of the run's business
        states = model.model.embed_tokens(ids).detach().requires_grad_()
        score = model(inputs_embeds=states, use_cache=False).logits[..., 0].sum()
        assert torch.autograd.grad(score, states)[0].abs().sum() > 0


class _Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation, as it is mostly written: two halves, and a step() that nobody calls."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr)

    @torch.no_grad()
    def first_half(self):
        self.held = [(p, p.grad.clone()) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p, gradient in self.held:
            p.add_(gradient, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_half(self):
        for p, gradient in self.held:
            p.sub_(gradient, alpha=0.05)
        self.base.step()
        self.zero_grad()


@pytest.mark.parametrize("which", ["another", "sam"])
def test_steps_that_nobody_told_of(which):
    """An optimizer that was made anew, or that has no step(): turns would never change."""
    model = small.make_model("llama")
    attached = sgd(model) if which == "another" else _Sam(model.parameters(), 0.1)
    steps = [sgd(model).step] * 4 if which == "another" else [attached.first_half, attached.second_half] * 2
    with (
        FreezeController(model, "block", optimizer=attached, policy=TURNS) as controller,
        pytest.raises(RuntimeError, match="moved twice, and no optimizer that is attached has stepped"),
    ):
        train(controller, model, steps)
    assert controller.steps == 0


def test_a_single_write_is_no_step():
    """Weights that are clipped behind a step that a scaler skipped."""
    model = small.make_model("llama")
    optimizer = sgd(model)
    ids, labels = small.make_batch()
    with FreezeController(model, "block", optimizer=optimizer, policy=TURNS) as controller:
        for step in range(4):
            controller.begin(labels)
            loss_of(model, ids, labels).backward()
            if step != 1:
                optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.clamp_(-1, 1)
        assert controller.steps == 3


def test_an_optimizer_keeps_the_parameters():
    """Master weights, or the flat partitions of DeepSpeed, put in the place of what was attached."""
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters())
    ids, labels = small.make_batch()
    with FreezeController(model, "block", optimizer=optimizer, policy=TURNS) as controller:
        copies = [p.detach().clone().requires_grad_() for p in model.parameters()]
        optimizer.param_groups[0]["params"] = copies
        controller.begin(labels)
        loss_of(model, ids, labels).backward()
        with pytest.raises(RuntimeError, match=r"does not hold 'model.layers.\d.* any more"):
            optimizer.step()

    class DeepSpeedEngine(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    with pytest.raises(ValueError, match="DeepSpeed steps flat copies"):
        FreezeController(DeepSpeedEngine(model), "half")


def test_rates_that_an_optimizer_finds_itself():
    model = small.make_model("llama")
    optimizer = transformers.Adafactor(model.parameters())
    with (
        FreezeController(model, "freezeout", optimizer=optimizer, policy={"total_steps": 8}) as controller,
        pytest.raises(ValueError, match="finds its rates by itself"),
    ):
        train(controller, model, [optimizer.step] * 3)


class _Body(torch.nn.Module):
    """Layers in the order that a forward is told."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
        self.order = range(4)
        self.unwrapped = lambda given: given

    def forward(self, input_ids):
        states = self.embedding(input_ids)
        for k in self.order:
            states = states + torch.tanh(self.unwrapped(self.layers[k](states)))
        return states


class _Wrapping(torch.nn.Linear):
    """A layer that gives its states in a container."""

    kind = "tensor"

    def forward(self, states):
        states = super().forward(states)
        return {
            "list": [states],
            "dict": {"states": states},
            "named": collections.namedtuple("Given", "states extra")(states, None),
            "output": transformers.modeling_outputs.BaseModelOutput(last_hidden_state=states),
        }.get(self.kind, states)


@pytest.mark.parametrize("kind", ["list", "dict", "named", "output"])
def test_what_layers_give_their_states_in(kind):
    model = _Shuffled()
    model.body.embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    for k in range(4):
        model.body.layers[k] = _Wrapping(8, 8)
        model.body.layers[k].kind = kind
    model.body.unwrapped = lambda given: given if isinstance(given, torch.Tensor) else first_state(given)
    with FreezeController(model, "suffix", optimizer=sgd(model), policy={"first_layer": 2}) as controller:
        controller.begin(size=3)
        model(torch.arange(12).view(3, 4)).square().sum().backward()
        found = with_gradient(model)
    assert found == {f"body.layers.{k}.{name}" for k in (2, 3) for name in ("weight", "bias")}


class _Shuffled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = _Body(), torch.nn.Linear(8, 20, bias=False)

    def forward(self, input_ids):
        return self.head(self.body(input_ids))


@pytest.mark.parametrize("order", [(0, 2, 3), (2,), (2, 3, 0, 1), (0, 1, 1, 2, 3)])
def test_layers_that_are_left_out_or_take_another_order(order):
    """Layers dropped at random train as by hand; another order has no depth."""
    torch.manual_seed(0)
    model = _Shuffled()
    other = copy.deepcopy(model)
    model.body.order = range(4)
    ids = torch.arange(12).view(3, 4)
    with FreezeController(model, "suffix", optimizer=sgd(model), policy={"first_layer": 2}) as controller:
        model.body.order = other.body.order = order
        controller.begin(size=3)
        if sorted(set(order)) != list(order):
            with pytest.raises(RuntimeError, match="ran behind layer .: layers that run in another order"):
                model(ids)
            return
        model(ids).square().sum().backward()
        by_hand(other, (False, False, True, True), {n for n, _ in other.named_parameters()})
        other(ids).square().sum().backward()
        assert with_gradient(model) == with_gradient(other)
        for a, b in zip(model.parameters(), other.parameters()):
            assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)
