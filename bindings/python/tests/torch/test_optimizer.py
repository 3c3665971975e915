"""The optimizer around freezing: members, learning rates of layers, moments, skipped steps."""

import copy

import pytest
import small_models as small
import torch

from salf.torch import FreezeController
from salf.torch.optimizer import split_groups


def step(controller, model, optimizer, seed=0):
    ids, labels = small.make_batch(seed=seed)
    controller.begin(labels)
    controller.backward(model(input_ids=ids, labels=labels).loss)
    optimizer.step()
    optimizer.zero_grad()


def test_an_optimizer_without_a_candidate_is_refused():
    model = small.make_model("llama")
    some = [p for n, p in model.named_parameters() if "layers.2" not in n]
    with FreezeController(model, "half") as controller:
        with pytest.raises(ValueError, match=r"lacks 9 parameters.*'model\.layers\.2\.self_attn\.q_proj\.weight'"):
            controller.attach(torch.optim.AdamW(some))
        controller.attach(torch.optim.AdamW(p for n, p in model.named_parameters() if "layers" in n))


def test_what_is_no_optimizer_is_refused():
    with (
        FreezeController(small.make_model("llama"), "half") as controller,
        pytest.raises(TypeError, match="no optimizer"),
    ):
        controller.attach([1, 2])
    with FreezeController(small.make_model("llama"), "half") as controller:
        for nothing in ([], {}):
            with pytest.raises(ValueError, match="no optimizer in what was given"):
                controller.attach(nothing)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_learning_rates_of_layers(kind):
    """FreezeOut's factors: each layer moves as an optimizer with its own rate would move it."""
    options = {"lr": 0.05, "weight_decay": 0.1}
    model = small.make_model("llama")
    optimizer = kind(model.parameters(), **options)
    groups = optimizer.param_groups
    policy = {"total_steps": 10, "start": 0.3}
    with FreezeController(model, "freezeout", optimizer=optimizer, policy=policy) as controller:
        twin = copy.deepcopy(model)
        layers = [list(layer.parameters()) for layer in twin.model.layers]
        reference = kind([{"params": layer} for layer in layers], **options)
        scales = set()
        for seed in range(6):
            step(controller, model, optimizer, seed)
            scales.update(controller.decision.rate_scale)
            ids, labels = small.make_batch(seed=seed)
            twin(input_ids=ids, labels=labels).loss.backward()
            for group, scale, trains in zip(
                reference.param_groups, controller.decision.rate_scale, controller.decision.trainable
            ):
                group["lr"] = 0.05 * scale
                for parameter in group["params"]:
                    parameter.grad = parameter.grad if trains else None
            reference.step()
            twin.zero_grad(set_to_none=True)
            assert optimizer.param_groups is groups
            assert [group["lr"] for group in groups] == [0.05]
        assert len(scales) > 6
        assert 0.0 in scales
        for layer, expected in zip(model.model.layers, twin.model.layers):
            for found, wanted in zip(layer.parameters(), expected.parameters()):
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_split_groups_keep_their_members_and_options():
    a, b, c = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [a, b], "lr": 2.0, "eps": 1}, {"params": [c], "lr": 4.0, "eps": 2}]
    split = split_groups(groups, {id(b): 0.5})
    assert [(g["params"], g["lr"], g["eps"]) for g in split] == [([a], 2.0, 1), ([b], 1.0, 1), ([c], 4.0, 2)]


def test_learning_rate_schedulers_go_on_unharmed():
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    policy = {"total_steps": 10, "start": 0.3}
    with FreezeController(model, "freezeout", optimizer=optimizer, policy=policy) as controller:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 1 / (1 + at))
        for seed in range(3):
            step(controller, model, optimizer, seed)
            scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_a_step_that_raises_leaves_the_groups():
    model = small.make_model("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    policy = {"total_steps": 4, "start": 0.3}
    with FreezeController(model, "freezeout", optimizer=optimizer, policy=policy) as controller:
        step(controller, model, optimizer)  # the second step has factors below 1

        def closure():
            raise KeyError("closure")

        ids, labels = small.make_batch()
        controller.begin(labels)
        controller.backward(model(input_ids=ids, labels=labels).loss)
        with pytest.raises(KeyError):
            optimizer.step(closure)
        optimizer.zero_grad()
        controller.skipped()
        step(controller, model, optimizer)
        assert len(optimizer.param_groups) == 1


def moments(optimizer, layer):
    states = [optimizer.state.get(p, {}) for p in layer.parameters()]
    return {int(s["step"]) if s else 0 for s in states}


def test_every_layer_counts_its_own_steps():
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    policy = {"interval": 2, "total_steps": 8}
    with FreezeController(model, "lift_star", optimizer=optimizer, policy=policy) as controller:
        for seed in range(4):
            step(controller, model, optimizer, seed)
    assert [moments(optimizer, layer) for layer in model.model.layers] == [{2}, {4}, {4}, {4}]


def test_a_block_begins_with_fresh_moments():
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    policy = {"interval": 2, "total_steps": 16, "order": "forward"}
    with FreezeController(model, "block", optimizer=optimizer, policy=policy) as controller:
        for seed in range(9):  # four phases and the first step of the next round
            step(controller, model, optimizer, seed)
    assert [moments(optimizer, layer) for layer in model.model.layers] == [{1}, {2}, {2}, {2}]


def test_moments_of_frozen_layers_may_be_dropped():
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    policy = {"interval": 1, "total_steps": 4}
    with FreezeController(model, "lift", optimizer=optimizer, policy=policy, moments="drop") as controller:
        for seed in range(3):
            step(controller, model, optimizer, seed)
    assert [moments(optimizer, layer) for layer in model.model.layers] == [{0}, {0}, {1}, {0}]


def test_a_skipped_step_advances_nothing():
    """A scaler that finds infinities does not call the optimizer's step."""
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    policy = {"interval": 1, "total_steps": 4}
    with FreezeController(model, "lift", optimizer=optimizer, policy=policy) as controller:
        cuts = []
        for skip in (False, True, True, False, False):
            ids, labels = small.make_batch()
            controller.begin(labels)
            controller.backward(model(input_ids=ids, labels=labels).loss)
            cuts.append(controller.cut)
            if skip:
                controller.skipped()
            else:
                optimizer.step()
            optimizer.zero_grad()
        assert cuts == [0, 1, 1, 1, 2]
        assert controller.steps == 3


def test_hooks_of_a_closed_controller_are_gone():
    model = small.make_model("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "half", optimizer=optimizer) as controller:
        step(controller, model, optimizer)
    model.model.layers[0].self_attn.q_proj.weight.grad = torch.ones(32, 32)
    before = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.model.layers[0].self_attn.q_proj.weight)
    assert controller.steps == 1


def test_one_optimizer_after_another():
    model = small.make_model("llama")
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    second = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "half", optimizer=first) as controller:
        controller.attach(second)
        first.step()
        assert controller.steps == 0
        step(controller, model, second)
        assert controller.steps == 1


def test_statistics_of_autofreeze_and_rgn():
    for method, key in (("autofreeze", "gradient_l1"), ("rgn", "gradient_norm")):
        model = small.make_model("llama")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ids, labels = small.make_batch()
        with FreezeController(model, method, optimizer=optimizer, policy={"interval": 5}) as controller:
            controller.begin(labels)
            controller.backward(model(input_ids=ids, labels=labels).loss)
            layer = [p.grad for p in model.model.layers[1].parameters()]
            expected = (
                sum(g.abs().sum() for g in layer) if key == "gradient_l1" else sum((g**2).sum() for g in layer) ** 0.5
            )
            optimizer.step()
            if method == "autofreeze":
                assert controller._statistics.take() == {}
                controller._statistics.turn_ends = True
            found = controller._statistics.take()
            assert found[key][1] == pytest.approx(float(expected), rel=1e-5)
            assert ("parameter_norm" in found) == (method == "rgn")


def test_norms_of_gradients_that_a_scaler_leaves_to_a_fused_optimizer():
    """It is handed scaled gradients with their factor, and those of an overflow too."""
    for method in ("autofreeze", "rgn"):
        found = []
        for fused in (False, True):
            model = small.make_model("llama")
            optimizer = Counting(model.parameters(), lr=0.1)
            with FreezeController(model, method, optimizer=optimizer, policy={"interval": 5}) as controller:
                for factor, overflow in ((2.0, 0.0), (4.0, 0.0), (8.0, 1.0)):
                    ids, labels = small.make_batch(seed=int(factor))
                    controller.begin(labels)
                    loss = model(input_ids=ids, labels=labels).loss
                    controller.backward(loss * factor if fused else loss)
                    if fused:
                        optimizer.grad_scale, optimizer.found_inf = torch.tensor(factor), torch.tensor(overflow)
                        optimizer.param_groups[0]["lr"] = 0.1 / factor
                    if fused or not overflow:
                        optimizer.step()
                    optimizer.zero_grad()
                optimizer.grad_scale = optimizer.found_inf = None
                controller._statistics.turn_ends = True
                found.append(controller._statistics.take())
        for name, norms in found[0].items():
            assert found[1][name] == pytest.approx(norms, rel=1e-3), (method, name)


def test_autofreeze_takes_the_norm_of_the_sum_also_after_a_resume():
    """Gradients that cancel over a turn have no norm; a controller that is loaded in the middle of a turn goes on with
    the sums."""
    model = small.make_model("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    ids, labels = small.make_batch()
    policy = {"interval": 3}
    with FreezeController(model, "autofreeze", optimizer=optimizer, policy=policy) as controller:
        sums, state = None, None
        for turn_step, sign in enumerate((1.0, 2.0, -3.0)):
            optimizer.zero_grad()
            controller.begin(labels)
            controller.backward(sign * model(input_ids=ids, labels=labels).loss)
            assert controller.decision.gradients_wanted == (turn_step == 2)
            gradients = [p.grad.clone() for p in model.model.layers[1].parameters()]
            sums = gradients if sums is None else [a + b for a, b in zip(sums, gradients)]
            optimizer.step()
            state = controller.state_dict() if turn_step == 1 else state
        largest = max(float(g.abs().sum()) for g in gradients)
        found = controller._statistics.take()["gradient_l1"][1]
        assert found == pytest.approx(sum(float(g.abs().sum()) for g in sums), abs=1e-3 * largest)
        assert found < 1e-3 * largest
    with FreezeController(model, "autofreeze", optimizer=optimizer, policy=policy) as controller:
        controller.load_state_dict(state)
        optimizer.zero_grad()
        controller.begin(labels)
        controller.backward(-3.0 * model(input_ids=ids, labels=labels).loss)
        optimizer.step()
        assert controller._statistics.take()["gradient_l1"][1] < 1e-3 * largest


# ---- several optimizers, and those that do not fit ----


def split_in_two(model, make):
    """One optimizer for matrices and one for the rest, as PyTorch's Muon forces it."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    chosen = {id(p) for p in matrices}
    return [make(matrices), torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], lr=0.01)]


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


@pytest.mark.parametrize("method", ["salf", "freezeout", "lift", "autofreeze"])
def test_two_optimizers_are_one_step(method):
    """Weights are those of one optimizer over all parameters, whichever of the two steps first; gradients may be gone
    when the second one steps."""
    policy = {} if method == "salf" else {"interval": 1, "total_steps": 6}
    found = []
    for several in (False, True):
        model = small.make_model("llama")
        optimizers = split_in_two(model, adam) if several else [adam(model.parameters())]
        given = {"matrices": optimizers[0], "rest": optimizers[1]} if several else optimizers[0]
        with FreezeController(model, method, optimizer=given, policy=policy) as controller:
            cuts = []
            for seed in range(4):
                ids, labels = small.make_batch(seed=seed)
                controller.begin(labels)
                controller.backward(model(input_ids=ids, labels=labels).loss)
                for one in optimizers[:: 1 - 2 * (seed % 2)]:
                    one.step()
                    one.zero_grad()
                cuts.append(controller.cut)
            assert controller.steps == 4
            assert controller.state_dict()["numbers"][0] == 4
        found.append((cuts, model.state_dict()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name


def test_muon_beside_adamw():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip(f"PyTorch {torch.__version__} has no Muon")
    model = small.make_model("llama")
    with FreezeController(model, "half") as controller:
        with pytest.raises(ValueError, match="lacks"):
            controller.attach(split_in_two(model, torch.optim.Muon)[0])
        optimizers = split_in_two(model, torch.optim.Muon)
        controller.attach(optimizers)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        ids, labels = small.make_batch()
        controller.begin(labels)
        model(input_ids=ids, labels=labels).loss.backward()
        for one in optimizers:
            one.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {int(n.split(".")[2]) for n in moved} == {2, 3}


@pytest.mark.parametrize("own", [False, True])
def test_optimizers_within_the_backward(own):
    """One optimizer for each parameter, which steps as soon as the gradient is there: as one for all, behind it."""
    if not hasattr(torch.Tensor, "register_post_accumulate_grad_hook"):
        pytest.skip(f"PyTorch {torch.__version__} has no hook behind the accumulation of a gradient")
    found = []
    for within in (False, True):
        model = small.make_model("llama")
        each = {p: adam([p]) for p in model.parameters()} if within else {}
        optimizer = None if within else adam(model.parameters())

        def step_now(parameter, each=each):
            each[parameter].step()
            each[parameter].zero_grad()

        handles = [p.register_post_accumulate_grad_hook(step_now) for p in each]
        with FreezeController(model, "salf", optimizer=each if within else optimizer) as controller:
            cuts = []
            for seed in range(4):
                ids, labels = small.make_batch(seed=seed)
                controller.begin(labels)
                loss = model(input_ids=ids, labels=labels).loss
                loss.backward() if own else controller.backward(loss)
                cuts.append(controller.cut)
                if optimizer is not None:
                    optimizer.step()
                    optimizer.zero_grad()
            controller.state_dict()
            assert controller.steps == 4
        for handle in handles:
            handle.remove()
        found.append((cuts, model.state_dict()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name


def test_norms_of_gradients_need_all_of_them():
    if not hasattr(torch.Tensor, "register_post_accumulate_grad_hook"):
        pytest.skip(f"PyTorch {torch.__version__} has no hook behind the accumulation of a gradient")
    model = small.make_model("llama")
    each = {p: adam([p]) for p in model.parameters()}
    for parameter in each:
        parameter.register_post_accumulate_grad_hook(lambda p: each[p].step())
    ids, labels = small.make_batch()
    with FreezeController(model, "rgn", optimizer=each) as controller:
        controller.begin(labels)
        with pytest.raises(ValueError, match="steps within the backward"):
            controller.backward(model(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("positional", [False, True])
def test_a_step_with_a_closure(positional):
    """Forward and backward within the step, as Lightning runs them: rates of layers are those of a step behind them."""
    policy = {"total_steps": 10, "start": 0.3}
    found = []
    for given in (False, True):
        model = small.make_model("llama")
        optimizer = adam(model.parameters())
        with FreezeController(model, "freezeout", optimizer=optimizer, policy=policy) as controller:
            for seed in range(4):
                ids, labels = small.make_batch(seed=seed)

                def closure(ids=ids, labels=labels, model=model, controller=controller, optimizer=optimizer):
                    optimizer.zero_grad()
                    controller.begin(labels)
                    loss = model(input_ids=ids, labels=labels).loss
                    controller.backward(loss)
                    return loss

                if not given:
                    closure()
                    optimizer.step()
                elif positional:
                    optimizer.step(closure)
                else:
                    optimizer.step(closure=closure)
            assert controller.steps == 4
            assert min(controller.decision.rate_scale) < 1
        found.append(model.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_optimizers_that_move_frozen_layers_are_refused():
    model = small.make_model("llama")
    with FreezeController(model, "half") as controller, pytest.raises(ValueError, match="LBFGS moves all"):
        controller.attach(torch.optim.LBFGS(model.parameters()))

    class Pulling(torch.optim.SGD):
        """Slow weights, towards which all parameters go, with a gradient or without."""

        @torch.no_grad()
        def step(self, closure=None):
            result = super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.mul_(0.9)
            return result

    class Calling(torch.optim.SGD):
        """A step that calls another class's, within its own: one step all the same."""

        def step(self, closure=None):
            return super().step(closure)

    optimizer = Calling(model.parameters(), lr=0.1)
    with FreezeController(model, "half", optimizer=optimizer) as controller:
        step(controller, model, optimizer)
        step(controller, model, optimizer)
        assert controller.steps == 2
    optimizer = Pulling(model.parameters(), lr=0.1)
    with (
        FreezeController(model, "half", optimizer=optimizer) as controller,
        pytest.raises(RuntimeError, match="Pulling moved a parameter of shape .* that is frozen"),
    ):
        step(controller, model, optimizer)


def test_lisa_as_published_on_a_tied_model():
    """Embedding and head are one parameter and train at every step, with the gradient of a full backward."""
    model = small.make_model("qwen2")
    policy = {"n_active": 1, "interval": 1, "always_on": True}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "lisa", optimizer=optimizer, policy=policy) as controller:
        for seed in range(3):
            twin = copy.deepcopy(model).requires_grad_(True)
            ids, labels = small.make_batch(seed=seed)
            twin(input_ids=ids, labels=labels).loss.backward()
            controller.begin(labels)
            controller.backward(model(input_ids=ids, labels=labels).loss)
            expected = twin.get_input_embeddings().weight.grad
            assert torch.allclose(model.get_input_embeddings().weight.grad, expected, rtol=1e-5, atol=1e-7)
            trained = {n for n, p in model.named_parameters() if p.grad is not None and "layers" in n}
            assert len({n.split(".")[2] for n in trained}) == 1
            optimizer.step()
            optimizer.zero_grad()
        assert controller.saving == 0.0
    policy = {"train_head": True, "train_embedding": True}
    with pytest.raises(ValueError, match="not both at cuts of their own"):
        FreezeController(model, "half", policy=policy)


class Counting(torch.optim.Optimizer):
    """Keeps numbers in its groups, as optimizers without a schedule do."""

    def __init__(self, parameters, **options):
        super().__init__(parameters, {"lr": 0.01, "steps": 0, "shown": 0.0, "kept": 0.0, "keeps": False, **options})

    def step(self):
        for group in self.param_groups:
            group["steps"] += 1
            group["shown"] = 3 * group["lr"]
            if group["keeps"]:
                group["kept"] += group["lr"] ** 2
            for p in group["params"]:
                if p.grad is not None:
                    p.data.sub_(group["lr"] * p.grad)


def test_numbers_in_groups_go_on_when_layers_have_rates_of_their_own():
    """A rate and its multiples are those of the group; a sum that depends on it cannot be both layers'."""
    model = small.make_model("llama")
    optimizer = Counting([{"params": list(layer.parameters())} for layer in model.model.layers])
    optimizer.param_groups[0]["params"] += optimizer.param_groups.pop(1)["params"]
    policy = {"total_steps": 30, "start": 0.3}
    with FreezeController(model, "freezeout", optimizer=optimizer, policy=policy) as controller:
        for seed in range(3):
            step(controller, model, optimizer, seed)
        assert controller.decision.rate_scale[0] != controller.decision.rate_scale[1]
        assert [group["steps"] for group in optimizer.param_groups] == [3, 3, 3]
        assert optimizer.param_groups[0]["shown"] == pytest.approx(0.03)
        optimizer.param_groups[0]["keeps"] = True
        with pytest.raises(RuntimeError, match="Counting keeps 'kept' in its parameter groups, which depends on the l"):
            step(controller, model, optimizer)
        assert [len(group["params"]) for group in optimizer.param_groups] == [18, 9, 9]


def test_a_step_that_a_fused_optimizer_skips_is_none():
    """A scaler calls it all the same, and hands it the overflow that it found."""
    model = small.make_model("llama")
    optimizer = Counting(model.parameters())
    with FreezeController(model, "lift", optimizer=optimizer, policy={"interval": 1, "total_steps": 4}) as controller:
        cuts = []
        for overflow in (0.0, 1.0, 0.0, 0.0):
            optimizer.found_inf = torch.tensor(overflow)
            step(controller, model, optimizer)
            del optimizer.found_inf
            cuts.append(controller.cut)
        assert cuts == [0, 1, 1, 2]
        assert controller.steps == 3


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_were_thrown_away_count_for_nothing(to_none):
    """A loop whose scaler skipped the step, and that says so by zero_grad() alone: the next window has its own share
    and its own layers, and decay moves no other."""
    model = small.make_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    cuts = iter([0, 3, 3])
    policy = {"callback": lambda step, n_layers, trace: next(cuts)}
    with FreezeController(model, "callback", optimizer=optimizer, policy=policy) as controller:
        for _ in range(2):
            ids, labels = small.make_batch()
            controller.begin(labels)
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.zero_grad(set_to_none=to_none)
        before = [p.detach().clone() for p in model.model.layers[:3].parameters()]
        step(controller, model, optimizer)
        assert controller._share == 0.0
        assert controller.steps == 1
        assert all(torch.equal(p, q) for p, q in zip(model.model.layers[:3].parameters(), before))
