"""FreezeController: gradients of what trains are those of an unfrozen run, what is frozen does not move."""

import copy

import numpy
import pytest
import small_models as small
import torch

import salf
from salf.torch import EofCache, FreezeController, Rows

TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}


def fixed_cut(cut):
    """Options of a policy that looks at the trace and always answers the same."""
    return {"policy": {"callback": lambda step, n_layers, trace: cut}}


def make(family, kind, seed=0):
    model = small.make_model(family, seed)
    if kind == "lora":
        model = small.add_lora(model, family)
    return model


def checkpointed(model, kind):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if kind == "lora":
        model.enable_input_require_grads()


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def layer_of(name):
    parts = name.split(".")
    return next((int(part) for part in parts if part.isdigit()), None)


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


@pytest.mark.parametrize(("options", "threads"), [({}, 3), ({"threads": 2}, 2), ({"threads": 0}, 0)])
def test_threads_are_those_of_pytorch(options, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with FreezeController(small.make_model("llama"), "salf", context=options) as controller:
            assert controller.context.info.threads == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("when", ["between", "before"])
@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_gradients_are_those_of_an_unfrozen_run(family, kind, when, checkpointing):
    ids, labels = small.make_batch()
    whole = make(family, kind)
    loss_of(whole, ids, labels).backward()
    expected = gradients(whole)
    for cut in range(4):
        model = make(family, kind)
        if checkpointing:
            checkpointed(model, kind)
        options = fixed_cut(cut) if when == "between" else {"policy": {"first_layer": cut}}
        with FreezeController(model, "callback" if when == "between" else "suffix", **options) as controller:
            controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            found = gradients(model)
        wanted = {n: g for n, g in expected.items() if layer_of(n) is not None and layer_of(n) >= cut}
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, **TOLERANCE)


@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_frozen_parameters_are_exactly_untouched(family, kind):
    """Momentum and decay of layers that trained before must not move them later."""
    cuts = [0, 0, 2, 3, 1, 2]
    model = make(family, kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.3)
    answers = iter(cuts)
    policy = {"callback": lambda step, n_layers, trace: next(answers)}
    with FreezeController(model, "callback", optimizer=optimizer, policy=policy) as controller:
        for step, cut in enumerate(cuts):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            ids, labels = small.make_batch(seed=step)
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            optimizer.step()
            optimizer.zero_grad(set_to_none=bool(step % 2))
            moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
            assert {layer_of(n) for n in moved} == set(range(cut, 4))
            assert controller.steps == step + 1


@pytest.mark.parametrize("cut", [0, 2, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_backward_really_stops(family, cut):
    """No gradient arrives at a hidden state below the cut."""
    model = make(family, "dense")
    reached = set()

    def watch(layer):
        def hook(_module, inputs, _output):
            if inputs[0].requires_grad:
                inputs[0].register_hook(lambda _gradient: reached.add(layer))

        return hook

    with FreezeController(model, "callback", **fixed_cut(cut)) as controller:
        for k, layer in enumerate(controller.parts.layers):
            layer.register_forward_hook(watch(k))
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        ids, labels = small.make_batch()
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
    assert reached == set(range(cut + 1, 4))


def test_before_the_forward_no_graph_is_built_below_the_cut():
    model = make("llama", "lora")
    model.enable_input_require_grads()
    grown = {}
    with FreezeController(model, "suffix", policy={"first_layer": 2}) as controller:
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        for k, layer in enumerate(controller.parts.layers):
            layer.register_forward_hook(lambda _m, i, _o, k=k: grown.update({k: i[0].requires_grad}))
        ids, labels = small.make_batch()
        controller.begin(labels)
        loss_of(model, ids, labels)
    # Layer 0 gets what PEFT made to require a gradient; the output of layer 1, which enters layer 2, is cut off.
    assert grown == {0: True, 1: True, 2: False, 3: True}


@pytest.mark.parametrize("lens", ["hf", "normed", "raw"])
@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_the_trace_is_that_of_the_models_hidden_states(family, kind, lens):
    model = make(family, kind)
    ids, labels = small.make_batch(rows=7)
    with FreezeController(model, "salf", probe={"lens": lens}) as controller:
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        trace = controller.trace
        rows = Rows.from_labels(labels)
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        expected = salf.Probe(controller.basis, lens="hf")
        expected.begin(rows.tokens)
        for space, states in enumerate(hidden):
            picked = states[torch.from_numpy(rows.data), torch.from_numpy(rows.positions)].contiguous()
            expected.observe(space, picked, normed=space == 4)
        reference = expected.end()
        if lens == "hf":
            numpy.testing.assert_allclose(trace.deviations, reference.deviations, rtol=1e-5, atol=1e-6)
            assert list(trace.eof) == list(reference.eof)
        if lens == "normed":  # the last space is the same in both, and the final norm applied by hand gives the others
            norm = controller.parts.norm
            numpy.testing.assert_allclose(trace.deviations[:, 4], reference.deviations[:, 4], rtol=1e-5, atol=1e-6)
            with torch.no_grad():
                states = norm(hidden[2])[torch.from_numpy(rows.data), torch.from_numpy(rows.positions)]
            basis = torch.from_numpy(numpy.asarray(controller.basis.rows(rows.tokens), dtype=numpy.float32))
            by_hand = 1 - torch.nn.functional.cosine_similarity(states, basis, dim=1)
            numpy.testing.assert_allclose(trace.deviations[:, 2], by_hand.numpy(), rtol=1e-4, atol=1e-5)
        if lens == "raw":
            numpy.testing.assert_allclose(trace.deviations[:, :4], reference.deviations[:, :4], rtol=1e-5, atol=1e-6)
            assert not numpy.allclose(trace.deviations[:, 4], reference.deviations[:, 4], atol=1e-3)


def test_salf_takes_the_cut_of_the_trace():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        assert controller.cut == int(numpy.argmax(controller.trace.gains.mean(axis=0)))
        assert controller.saving == controller.cut / 4


def test_accumulated_batches_add_up_layer_by_layer():
    cuts = [3, 1]
    batches = [small.make_batch(seed=s) for s in (1, 2)]
    expected = {}
    for cut, (ids, labels) in zip(cuts, batches):
        model = make("llama", "dense")
        loss_of(model, ids, labels).backward()
        for name, gradient in gradients(model).items():
            if layer_of(name) is not None and layer_of(name) >= cut:
                expected[name] = expected.get(name, 0) + gradient
    model = make("llama", "dense")
    answers = iter(cuts)
    policy = {"callback": lambda step, n_layers, trace: next(answers)}
    with FreezeController(model, "callback", policy=policy) as controller:
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        for ids, labels in batches:
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
        found = gradients(model)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **TOLERANCE)


def test_turns_change_at_optimizer_steps_only():
    model = make("llama", "dense")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with FreezeController(model, "lift", optimizer=optimizer, policy={"interval": 1, "total_steps": 4}) as controller:
        for _ in range(4):
            for _ in range(3):
                ids, labels = small.make_batch()
                controller.begin(labels)
                controller.backward(loss_of(model, ids, labels))
                seen.append(controller.cut)
            optimizer.step()
            optimizer.zero_grad()
    assert seen == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_lift_trains_one_layer_below_frozen_ones():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    whole = copy.deepcopy(model)
    loss_of(whole, ids, labels).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "lift", optimizer=optimizer, policy={"interval": 1, "total_steps": 4}) as controller:
        for layer in range(3):
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            found = gradients(model)
            assert {layer_of(n) for n in found} == {layer}
            if layer == 0:  # later ones differ, because the weights have moved
                for name, gradient in found.items():
                    torch.testing.assert_close(gradient, gradients(whole)[name], **TOLERANCE)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_head_that_trains(family):
    """Also where it is tied: the embedding's path then gives it no gradient, and the backward stops all the same."""
    model = make(family, "dense")
    ids, labels = small.make_batch()
    expected = copy.deepcopy(model)
    expected.get_input_embeddings().register_forward_hook(lambda _m, _i, output: output.detach())
    loss_of(expected, ids, labels).backward()
    with FreezeController(model, "suffix", policy={"first_layer": 2, "train_head": True}) as controller:
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        head = model.get_output_embeddings().weight
        torch.testing.assert_close(head.grad, expected.get_output_embeddings().weight.grad, **TOLERANCE)
        assert {layer_of(n) for n in gradients(model)} == {2, 3, None}


def test_a_tied_pair_cannot_train_at_two_depths():
    with pytest.raises(ValueError, match="tied"):
        FreezeController(make("qwen2", "dense"), "full", policy={"train_head": True, "train_embedding": True})


def test_embedding_trains_when_the_backward_reaches_it():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    policy = {"interval": 1, "total_steps": 4, "train_embedding": True}
    with FreezeController(model, "lift_star", optimizer=optimizer, policy=policy) as controller:
        for step in range(2):
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            assert (model.model.embed_tokens.weight.grad is not None) == (step == 0)
            optimizer.step()
            optimizer.zero_grad()


def test_states_in_half_precision():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    eofs = []
    for dtype in (torch.float32, torch.bfloat16):
        with FreezeController(model.to(dtype), "salf") as controller:
            controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            eofs.append(controller.trace)
    numpy.testing.assert_allclose(eofs[0].deviations, eofs[1].deviations, atol=0.03)


class QuantisedHead(torch.nn.Module):
    """A head stored as bytes with a scale for each row."""

    def __init__(self, linear):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        weight = linear.weight.detach()
        self.scales = weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("weight", (weight / self.scales).round().to(torch.int8))

    def rows(self, first, count, out):
        out[...] = (self.weight[first : first + count].float() * self.scales[first : first + count]).numpy()

    def forward(self, states):
        return states @ (self.weight.float() * self.scales).t()


def test_a_quantised_head_needs_rows_or_a_tensor():
    model = make("llama", "lora")
    plain = model.get_base_model().lm_head
    head = QuantisedHead(plain)
    model.get_base_model().lm_head = head
    with pytest.raises(TypeError, match=r"int8.*head_rows"):
        FreezeController(model, "salf")
    ids, labels = small.make_batch()
    traces = []
    for given in ({"head_rows": head.rows}, {"head": head.weight.float() * head.scales}, {"head": plain.weight}):
        with FreezeController(model, "salf", **given) as controller:
            controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            traces.append(controller.trace)
    numpy.testing.assert_allclose(traces[0].deviations, traces[1].deviations, atol=1e-6)
    numpy.testing.assert_allclose(traces[0].deviations, traces[2].deviations, atol=0.05)


def test_an_error_in_the_row_callback_arrives():
    def broken(first, count, out):
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        FreezeController(make("llama", "dense"), "salf", head_rows=broken, labels=[3])


def test_states_that_cannot_be_read_in_place_give_the_same_trace():
    """The way for states on a device without a backend: rows gathered, moved together. Here everything is on the
    host."""
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        traces = []
        for direct in (torch.device("cpu"), None):
            controller._direct = direct
            controller._make_feed()
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            traces.append(controller.trace)
    numpy.testing.assert_array_equal(traces[0].deviations, traces[1].deviations)


def test_hidden_states_are_not_copied():
    """What the probe sees is the memory of the layer's output itself."""
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        outputs, given = [], []
        for layer in controller.parts.layers:
            layer.register_forward_hook(
                lambda _m, _i, o: outputs.append((o[0] if isinstance(o, tuple) else o).data_ptr())
            )
        observe = controller.probe.observe
        controller.probe.observe = lambda space, states, **rest: (
            given.append(states.data_ptr()),
            observe(space, states, **rest),
        )
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
    assert given[1:] == outputs


# ---- cache and lag ----


def test_cached_data_have_their_decision_without_a_probe():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with FreezeController(model, "salf", optimizer=optimizer, cache=EofCache()) as controller:
        cuts = []
        for epoch in range(2):
            controller.begin(labels, ids=range(10, 16))
            assert controller._feed.armed == (epoch == 0)
            controller.backward(loss_of(model, ids, labels))
            cuts.append((controller.cut, gradients(model).keys()))
            optimizer.step()
            optimizer.zero_grad()
        assert cuts[0] == cuts[1]
        controller.begin(labels, ids=range(11, 17))
        assert controller._feed.armed  # datum 16 is new


def test_cached_entries_grow_old():
    cache = EofCache(max_age=2)
    trace = salf.Trace.from_deviations(numpy.linspace(1, 0, 10).reshape(2, 5))
    cache.put([4, 5], trace, step=3)
    assert cache.holds([4, 5], 5)
    assert not cache.holds([4, 5], 6)
    assert not cache.holds([4, 6], 3)
    again = EofCache(max_age=2)
    again.load_state_dict(cache.state_dict())
    numpy.testing.assert_array_equal(again.trace([5], "most_gain", "error").deviations, trace.deviations[1:])


def test_before_takes_the_last_batchs_decision():
    model = make("llama", "dense")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    answers = iter([3, 1, 2])
    policy = {"callback": lambda step, n_layers, trace: next(answers)}
    trained = []
    with FreezeController(model, "callback", optimizer=optimizer, policy=policy, when="before") as controller:
        for step in range(3):
            ids, labels = small.make_batch(seed=step)
            controller.begin(labels)
            controller.backward(loss_of(model, ids, labels))
            trained.append(min(layer_of(n) for n in gradients(model)))
            optimizer.step()
            optimizer.zero_grad()
    assert trained == [0, 3, 1]


# ---- state ----


def run_steps(controller, model, optimizer, steps):
    for step in steps:
        ids, labels = small.make_batch(seed=step)
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("method", ["salf", "lisa", "block", "autofreeze", "rgn", "random"])
def test_a_resumed_run_ends_with_the_same_bits(method, tmp_path):
    policy = {"interval": 2, "total_steps": 8, "seed": 5}

    def start():
        model = make("llama", "dense")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, FreezeController(model, method, optimizer=optimizer, policy=policy)

    model, optimizer, controller = start()
    run_steps(controller, model, optimizer, range(8))
    half, half_optimizer, first = start()
    run_steps(first, half, half_optimizer, range(4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed, resumed_optimizer, second = start()
    resumed.load_state_dict(half.state_dict())
    resumed_optimizer.load_state_dict(copy.deepcopy(half_optimizer.state_dict()))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run_steps(second, resumed, resumed_optimizer, range(4, 8))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
    assert controller.saving == second.saving
    assert controller.policy.save() == second.policy.save()


def test_state_of_another_run_is_refused():
    with (
        FreezeController(make("llama", "dense"), "salf") as one,
        FreezeController(make("llama", "dense"), "half") as other,
    ):
        state = one.state_dict()
        with pytest.raises(ValueError, match="method 'salf' for method 'half'"):
            other.load_state_dict(state)
        with pytest.raises(ValueError, match="version 7"):
            one.load_state_dict({**state, "version": 7})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"probe": {"lens": "raw"}}, "lens 'hf', this controller has 'raw'"),
        ({"rows": "last"}, "rows 'auto', this controller has 'last'"),
        ({"valid_vocab": 20}, "vocab"),
        ({"moments": "drop"}, "moments 'keep', this controller has 'drop'"),
        ({"probe": {"nonfinite": "train_fully"}}, "nonfinite"),
        ({"basis": {"rtol": 0.5}}, "rtol"),
        ({"cache": EofCache(3)}, "cache 'none', this controller has 'of max_age 3'"),
    ],
)
def test_a_state_of_other_options_is_refused(given, words):
    with (
        FreezeController(make("llama", "dense"), "salf") as one,
        FreezeController(make("llama", "dense"), "salf", **given) as other,
    ):
        with pytest.raises(ValueError, match=words):
            other.load_state_dict(one.state_dict())
        assert other.steps == 0
        one.load_state_dict({name: part for name, part in one.state_dict().items() if name != "options"})


def test_policy_and_plan_are_loaded_both_or_neither():
    def start(seed):
        return FreezeController(make("llama", "dense"), "random[half][stream]", planner={"n_data": 40, "seed": seed})

    with start(1) as one, start(2) as other:
        one.planner.next(4)
        one.policy.decide(0)
        assert one.policy.save() != other.policy.save()
        before = other.policy.save()
        with pytest.raises(salf.errors.Error):
            other.load_state_dict(one.state_dict())
        assert other.policy.save() == before


def test_state_in_the_middle_of_a_step_is_refused():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        with pytest.raises(RuntimeError, match="step's end"):
            controller.state_dict()


def test_close_leaves_the_model_as_it_was():
    model = make("llama", "lora")
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "half", optimizer=optimizer) as controller:
        run_steps(controller, model, optimizer, range(1))
        assert {n: p.requires_grad for n, p in model.named_parameters()} != flags
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_scalars_of_a_window():
    model = make("llama", "dense")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    answers = iter([3, 1, 2])
    policy = {"callback": lambda step, n_layers, trace: next(answers)}
    with FreezeController(model, "callback", optimizer=optimizer, policy=policy) as controller:
        assert controller.scalars() == {}
        run_steps(controller, model, optimizer, range(2))
        found = controller.scalars()
        assert (found["salf/cut"], found["salf/saving"]) == (1, pytest.approx(0.5))
        assert len([key for key in found if key.startswith("salf/deviation/")]) == 5
        run_steps(controller, model, optimizer, range(1))
        assert controller.scalars()["salf/saving"] == pytest.approx(0.5)
        assert controller.saving == pytest.approx(0.5)


def test_a_trained_head_makes_a_new_basis():
    model = make("llama", "dense")
    with FreezeController(model, "salf", labels=[1, 2, 3]) as controller:
        before = numpy.array(controller.basis.rows([1, 2, 3]))
        controller.basis.check(controller.model)
        with torch.no_grad():
            model.lm_head.weight.mul_(2)
        with pytest.raises(salf.errors.StaleError):
            controller.basis.check(controller.model)
        controller.refresh()
        numpy.testing.assert_allclose(controller.basis.rows([1, 2, 3]), before / 2, rtol=1e-5)
        ids, labels = small.make_batch()
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))


# ---- what is refused ----


def test_reentrant_checkpointing_is_refused():
    model = make("llama", "dense")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with FreezeController(model, "half") as controller, pytest.raises(ValueError, match="use_reentrant"):
        controller.begin()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "salf[warm]"}, "unknown method"),
        ({"method": "salf[half]"}, "follows a plan"),
        ({"method": "suffix"}, "needs policy={.first_layer"),
        ({"when": "later"}, "when is 'later'"),
        ({"moments": "sell"}, "moments is 'sell'"),
        ({"method": "half", "when": "between"}, "fall before the forward"),
        ({"policy": {"reduction": "prefix"}, "when": "before"}, "decide after the forward"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    model = make("llama", "dense")
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    with pytest.raises(ValueError, match=message):
        FreezeController(model, **arguments)
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks


def test_data_parallel_is_refused():
    with pytest.raises(ValueError, match="DistributedDataParallel"):
        FreezeController(torch.nn.DataParallel(make("llama", "dense")), "half")


def test_a_frozen_model_has_nothing_to_train():
    with pytest.raises(ValueError, match="nothing could be trained"):
        FreezeController(make("llama", "dense").requires_grad_(False), "half")


def test_trainable_parameters_of_no_part_are_named():
    model = make("llama", "dense")
    model.register_parameter("prompt", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(ValueError, match="'prompt'"):
        FreezeController(model, "half")
    with FreezeController(model, "half", others="train"):
        pass


def test_steps_out_of_order():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf") as controller:
        with pytest.raises(ValueError, match="pass labels or rows"):
            controller.begin()
        controller.begin(labels)
        with pytest.raises(RuntimeError, match="0 of 5 latent spaces"):
            controller.decide()
        controller.drop()
        controller.begin(labels)
        loss = loss_of(model, ids, labels)
        with pytest.raises(RuntimeError, match="no optimizer is attached"):
            controller.backward(loss)
        controller.drop()
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        with pytest.raises(RuntimeError, match="without begin"):
            controller.backward(loss_of(model, ids, labels))


def test_a_backward_of_the_hosts_own_is_expected_once_its_decision_is_known():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        controller.begin(labels)
        assert controller.cut is None
        with pytest.raises(RuntimeError, match="no batch is announced whose decision is known"):
            controller.expect_backward()
        loss_of(model, ids, labels)
        decided = controller.decide()
        assert controller.decide() is decided  # asked again, the same
        assert controller.cut == decided.cut
        controller.expect_backward()
        with pytest.raises(RuntimeError, match="no batch is announced"):
            controller.expect_backward()
        controller.drop()
        controller.begin(labels)
        controller.drop()
        with pytest.raises(RuntimeError, match="without begin"):
            controller.decide()


def test_a_batch_that_is_not_the_one_announced():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        controller.begin(labels)
        with pytest.raises(ValueError, match=r"hidden states are \[2, 9, D\]"):
            model(input_ids=ids[:2])


def test_evaluation_between_steps_is_not_observed():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with FreezeController(model, "salf", optimizer=optimizer) as controller:
        run_steps(controller, model, optimizer, range(1))
        seen = controller.trace
        with torch.no_grad():
            model(input_ids=ids[:3])
        assert controller.trace is seen
        run_steps(controller, model, optimizer, range(1))


def test_rows_of_labels():
    labels = torch.full((3, 6), -100)
    labels[0, 3:] = torch.tensor([7, 8, 9])
    labels[2, 1] = 5
    rows = Rows.from_labels(labels)
    assert list(rows.positions) == [2, 0]
    assert list(rows.tokens) == [7, 5]
    assert list(rows.data) == [0, 2]
    with pytest.raises(ValueError, match=r"expected \[batch, tokens\]"):
        Rows.from_labels(labels[0])
    with pytest.raises(ValueError, match="vectors of one length"):
        Rows([1, 2], [3])


def test_a_batch_without_targets_is_an_error():
    model = make("llama", "dense")
    with FreezeController(model, "salf") as controller, pytest.raises(ValueError, match="no datum of the batch"):
        controller.begin(torch.full((2, 5), -100))


def test_signs_that_are_kept_beside_the_memory_are_refused():
    """A conjugate is a view whose signs PyTorch turns when it reads: the memory has the others."""
    model = make("llama", "dense")
    states = torch.view_as_complex(torch.randn(4, 16, 2)).conj()
    negative = torch.cat([states.imag, states.imag], 1)[:, :32].neg()
    with FreezeController(model, "salf") as controller:
        probe = controller.probe
        probe.begin([1, 2, 3, 4])
        assert states.imag.is_neg()
        with pytest.raises(salf.Error, match=r"states of space 0: .* other signs .*resolve_neg"):
            probe.observe(0, states.imag)
        with pytest.raises(salf.Error, match=r"other signs .*resolve_conj"):
            probe.observe(0, states)
        probe.observe(0, negative)


def test_a_wrong_option_is_said_once():
    model = make("llama", "dense")
    with pytest.raises(ValueError, match="nonfinite is 'full'") as raised:
        FreezeController(model, "salf", probe={"nonfinite": "full"})
    assert str(raised.value).count("nonfinite is") == 1
    assert "train_fully" in str(raised.value)
