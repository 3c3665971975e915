"""FreezeController with rows at their own cut: streams before and after the forward, prefix, kept states, resume."""

import pytest
import small_models as small
import torch
from torch import nn

import salf
from salf.methods import parse_method
from salf.torch import BoundaryCache, FreezeController, Rows

N, BATCH = 24, 4
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}


def data(count=N):
    ids, labels = small.make_batch(rows=count)
    return ids, labels


def layer_of(name):
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def loss_of(model, ids, labels):
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum"
    )


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_at_a_time(model, ids, labels, cuts):
    total = {}
    for row, cut in enumerate(cuts):
        model.zero_grad(set_to_none=True)
        loss_of(model, ids[[row]], labels[[row]]).backward()
        for name, gradient in gradients(model).items():
            if layer_of(name) is not None and layer_of(name) >= cut:
                total[name] = total.get(name, 0) + gradient
    return total


def controlled(model, planner=None, method="salf[half]", **more):
    options = {"n_data": N, "matching": "stream", "seed": 3, **(planner or {})}
    controller = FreezeController(model, method, planner=options if method == "salf[half]" else None, **more)
    controller.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    controller.attach(controller.optimizer)
    return controller


def epoch(controller, model, ids, labels, after=lambda *_: None, **more):
    """One pass; calls after(batch, cuts) before each step."""
    for at in range(0, len(ids), BATCH):
        own = slice(at, at + BATCH)
        controller.begin(labels[own], **{k: v(own) for k, v in more.items()})
        controller.backward(loss_of(model, ids[own], labels[own]))
        after(own, controller.decision.eof)
        controller.optimizer.step()
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("order", ["staged", "mixed"])
@pytest.mark.parametrize("assignment", ["random", "eof", "gain"])
@pytest.mark.parametrize("kind", ["dense", "lora"])
def test_gradients_are_those_of_one_datum_at_a_time(kind, assignment, order):
    ids, labels = data()
    model, other = small.make_model("llama"), small.make_model("llama")
    if kind == "lora":
        model, other = small.add_lora(model, "llama"), small.add_lora(other, "llama")
        other.load_state_dict(model.state_dict())
    seen = []

    def check(own, cuts):
        seen.extend(int(cut) for cut in cuts)
        wanted = one_at_a_time(other, ids[own], labels[own], cuts)
        found = gradients(model)
        assert all(not g.any() for n, g in found.items() if n not in wanted)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, **TOLERANCE)

    with controlled(model, {"assignment": assignment, "stream_order": order}) as controller:
        epoch(controller, model, ids, labels, check)
        counts = [int(c) for c in controller.planner.counts]
        if order == "staged" or assignment == "random":
            assert [seen.count(k) for k in range(4)] == counts
        assert controller.saving == pytest.approx(sum(seen) / len(seen) / 4)
        with pytest.raises(RuntimeError, match=f"the plan's {N} data are trained"):
            controller.begin(labels[:BATCH])


def trained_by_a_plan(controller, model, ids, labels, after=lambda *_: None):
    """The tasks of a plan that chooses its data; sizes of those that trained, and their data with their cuts."""
    sizes, trained = [], []
    planner = controller.planner
    while (task := planner.next(BATCH)).kind != "done":
        own = [int(i) for i in task.data]
        if task.kind == "probe":
            with torch.no_grad():
                controller.begin(labels[own], probe=True)
                loss_of(model, ids[own], labels[own])
            assert not planner.report(controller.observe().eof).any()
            controller.drop()
        else:
            controller.begin(labels[own], probe=False)
            controller.backward(loss_of(model, ids[own], labels[own]))
            after(own, task.eof)
            controller.optimizer.step()
            model.zero_grad(set_to_none=True)
            sizes.append(len(own))
            trained += zip(own, (int(cut) for cut in task.eof))
        planner.done()
    return sizes, trained


@pytest.mark.parametrize("matching", ["online", "offline", "none"])
def test_full_batches_of_a_plan(matching):
    """Every batch is full, each datum of it trains with the cut that its stage has, and gradients are those of one
    datum at a time."""
    ids, labels = data()
    model, other = small.make_model("llama"), small.make_model("llama")
    plan = {"matching": matching, "full_batches": True, "growth": "custom", "weights": [5.0, 7.0, 1.0, 11.0]}
    mixed = []

    def check(own, cuts):
        mixed.append(len({int(cut) for cut in cuts}) > 1)
        wanted = one_at_a_time(other, ids[own], labels[own], cuts)
        found = gradients(model)
        assert all(not g.any() for n, g in found.items() if n not in wanted)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, **TOLERANCE)
        scales = [sum(int(cut) <= k for cut in cuts) / len(own) for k in range(4)]
        assert list(controller.decision.rate_scale) == scales

    with controlled(model, plan) as controller:
        if matching == "offline":
            controller.planner.set_eof(0, [i % 4 for i in range(N)])
        sizes, trained = trained_by_a_plan(controller, model, ids, labels, check)
        assert sizes == [BATCH] * (N // BATCH)
        assert any(mixed)
        assert sorted(datum for datum, _ in trained) == list(range(N))
        counts = [int(c) for c in controller.planner.counts]
        assert [sum(cut == k for _, cut in trained) for k in range(4)] == counts == [5, 7, 1, 11]
        assert controller.saving == pytest.approx(controller.planner.saving)


def test_known_cuts_build_no_graph_below_them():
    ids, labels = data()
    model = small.make_model("llama")
    kept = []
    with controlled(model, {"assignment": "random"}) as controller:
        for at in range(0, N, BATCH):
            own = slice(at, at + BATCH)
            controller.begin(labels[own])
            total = 0

            def note(tensor):
                nonlocal total
                total += tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = loss_of(model, ids[own], labels[own])
            kept.append(total)
            controller.backward(loss)
            controller.optimizer.step()
    assert kept == sorted(kept, reverse=True)  # from shallow to deep
    assert kept[-1] < 0.6 * kept[0]


def test_prefix_gives_rows_the_cut_of_their_trace():
    ids, labels = data(8)
    model, other = small.make_model("llama"), small.make_model("llama")
    labels[5] = -100  # a row without a target trains nowhere
    options = {"policy": {"reduction": "prefix"}}
    with controlled(model, method="salf", **options) as controller:
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        cuts = [int(e) for e in controller.decision.eof]
        assert cuts == [int(e) for e in controller.trace.eof]
        rows = [row for row in range(8) if row != 5]
        wanted = one_at_a_time(other, ids[rows], labels[rows], cuts)
        found = gradients(model)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, **TOLERANCE)


def test_rates_follow_the_rows_that_train_a_layer():
    ids, labels = data()
    model = small.make_model("llama")
    with controlled(model, {"assignment": "random", "stream_order": "mixed"}) as controller:
        controller.begin(labels[:BATCH])
        cuts = controller.decision.eof
        scales = [float(s) for s in controller.decision.rate_scale]
        assert scales == [sum(int(c) <= k for c in cuts) / BATCH for k in range(4)]


def test_rates_of_a_window_are_the_mean_over_its_batches():
    """A layer that half of a window's rows train moves at half the rate, however they lie in its batches."""
    ids, labels = data()
    model = small.make_model("llama")
    with controlled(model, {"assignment": "random", "stream_order": "mixed"}) as controller:
        cuts = []
        for own in (slice(0, 4), slice(4, 8), slice(8, 10)):
            controller.begin(labels[own])
            controller.backward(loss_of(model, ids[own], labels[own]))
            cuts += [int(cut) for cut in controller.decision.eof]
        scales = controller._window_scales()
        for k, layer in enumerate(model.model.layers):
            share = sum(cut <= k for cut in cuts) / len(cuts)
            assert all(scales.get(id(p), 1.0) == pytest.approx(share) for p in layer.parameters())


def test_a_resumed_stream_goes_on_with_the_same_cuts():
    ids, labels = data()
    whole, parts = [], []
    model = small.make_model("llama")
    with controlled(model, {"assignment": "eof"}) as controller:
        epoch(controller, model, ids, labels, lambda _, cuts: whole.extend(cuts.tolist()))
    with controlled(model, {"assignment": "eof"}) as controller:
        epoch(controller, model, ids[:12], labels[:12], lambda _, cuts: parts.extend(cuts.tolist()))
        state = controller.state_dict()
    with controlled(model, {"assignment": "eof"}) as controller:
        controller.load_state_dict(state)
        epoch(controller, model, ids[12:], labels[12:], lambda _, cuts: parts.extend(cuts.tolist()))
        assert controller.saving == pytest.approx(sum(whole) / N / 4)
    assert parts == whole


@pytest.mark.parametrize("method", ["half", "salf[half]"])
def test_kept_states_spare_the_forward_below(method):
    ids, labels = data()
    found = []
    for kept in (None, BoundaryCache(1 << 20)):
        torch.manual_seed(0)
        model = small.make_model("llama")
        planner = {"n_data": 3 * N, "assignment": "random"}
        controller = controlled(model, planner, method, boundary=kept)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        controller.attach(optimizer)
        with controller:
            for _ in range(3):
                for at in range(0, N, BATCH):
                    own = slice(at, at + BATCH)
                    given = {"input_ids": ids[own]}
                    controller.begin(labels[own], ids=range(at, at + BATCH), inputs=given)
                    controller.backward(loss_of(model, ids[own], labels[own]))
                    optimizer.step()
                    optimizer.zero_grad()
        found.append({n: p.detach().clone() for n, p in model.named_parameters()})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)
    assert kept.hits > N


def test_what_is_missing_is_named():
    ids, labels = data()
    model = small.make_model("llama")
    controller = controlled(model, method="half", boundary=BoundaryCache(1 << 20))
    with controller, pytest.raises(ValueError, match="pass ids= and inputs="):
        controller.begin(labels[:BATCH])
    labels[1] = -100
    controller = controlled(model, {"assignment": "eof"})
    with controller, pytest.raises(ValueError, match="some labels are all -100"):
        controller.begin(labels[:BATCH], size=BATCH)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    controller = controlled(model, {"assignment": "eof"})
    with controller, pytest.raises(ValueError, match="turn gradient checkpointing off"):
        controller.begin(labels[4:8])
    with controlled(model, {"assignment": "random"}) as controller:
        controller.begin(labels[4:8])
        controller.backward(loss_of(model, ids[4:8], labels[4:8]))


def test_one_cut_a_batch_needs_no_rows():
    ids, labels = data()
    model = small.make_model("llama")
    cuts = []
    with controlled(model, {"assignment": "random", "one_cut": True}) as controller:
        epoch(controller, model, ids, labels, lambda _, eof: cuts.append(set(eof.tolist())))
        assert controller._own is None
    assert all(len(own) == 1 for own in cuts)


def test_groups_are_the_hosts_where_it_names_them():
    ids, labels = data()
    model = small.make_model("llama")
    with controlled(model, {"assignment": "eof", "stream_order": "mixed"}) as controller:
        controller.planner.set_groups([0, 1], [12, 12])
        controller.begin(labels[:BATCH], groups=[0, 1, 0, 1])
        controller.backward(loss_of(model, ids[:BATCH], labels[:BATCH]))
        controller.begin(labels[:BATCH], groups=[0, 1, 0, 7])
        with pytest.raises(salf.Error, match="7"):
            controller.backward(loss_of(model, ids[:BATCH], labels[:BATCH]))


def test_rows_by_hand():
    ids, labels = data()
    model = small.make_model("llama")
    with controlled(model, {"assignment": "eof"}) as controller:
        controller.begin(rows=Rows([3] * BATCH, [5] * BATCH))
        controller.backward(loss_of(model, ids[:BATCH], labels[:BATCH]))
        assert len(controller.decision.eof) == BATCH


@pytest.mark.parametrize(
    ("name", "assignment"),
    [("salf[half][stream]", "eof"), ("lift*[arith][df][stream]", "random"), ("random[geom][bf][stream]", "random")],
)
def test_a_name_says_what_its_plan_is(name, assignment):
    model = small.make_model("llama")
    with FreezeController(model, name, planner={"n_data": N}) as controller:
        plan = controller.planner
        assert (plan.matching, plan.assignment) == ("stream", assignment)
        named = parse_method(name)
        same = salf.Planner(controller.context, 4, N, growth=named.growth, infill=named.infill)
        assert list(plan.counts) == list(same.counts)
    with pytest.raises(ValueError, match="is a stream, and the planner matches 'online'"):
        FreezeController(model, name, planner=same)


def test_a_budget_by_options_has_the_growth_of_its_name():
    model = small.make_model("llama")
    with FreezeController(model, "lift*[arith][df]", planner={"n_data": 100}) as controller:
        same = salf.Planner(controller.context, 4, 100, growth="arithmetic", infill="depth")
        assert list(controller.planner.counts) == list(same.counts)
        assert controller.planner.matching == "none"


@pytest.mark.parametrize(("method", "options", "warned"), [
    ("salf", {"policy": {"reduction": "prefix"}}, True),
    ("salf", {}, False),
    ("salf[half][stream]", {"planner": {"n_data": 96}}, False),
])  # fmt: skip
def test_a_signal_that_is_the_label_is_said_where_it_does_harm(method, options, warned, caplog):
    """Prompts of one text with two labels: all that differs between gains is the label."""
    model = small.make_model("llama")
    ids = torch.arange(1, 10).repeat(96, 1)
    labels = torch.full_like(ids, -100)
    labels[:, -1] = torch.arange(96) % 2 * 7 + 3
    with FreezeController(model, method, **options) as controller:
        controller.attach(torch.optim.SGD(model.parameters(), lr=0.0))
        for at in range(0, 96, 24):
            own = slice(at, at + 24)
            controller.begin(labels[own])
            controller.backward(loss_of(model, ids[own], labels[own]))
        assert controller.signal.info.group_adjusted > 0.99
        assert controller.signal.info.n_groups == 2
        assert controller.scalars()["salf/signal/group_adjusted"] > 0.99
    assert any("label" in record.message or "group" in record.message for record in caplog.records) == warned
