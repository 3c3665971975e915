"""What would go wrong without a word: numbers that are rounded to others, caches and optimizers of two models, parts
that change under a controller, layers that are random where they may not be, defaults of PyTorch set by a host."""

import copy
import dataclasses
import io
import pickle

import numpy
import pytest
import small_models as small
import torch

import salf
from salf.torch import (
    BoundaryCache,
    EofCache,
    FreezeController,
    RowCheckpoint,
    RowPolicy,
    Rows,
    SemanticLoss,
    automatic,
    find_parts,
)


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def sgd(model, rate=0.1):
    return torch.optim.SGD(model.parameters(), lr=rate)


def train(controller, model, steps=1, **given):
    for seed in range(steps):
        ids, labels = small.make_batch(seed=seed)
        controller.begin(labels, **given)
        controller.backward(loss_of(model, ids, labels))
        controller._guard.optimizer.step()
        controller._guard.optimizer.zero_grad()


# ---- numbers ----


def test_rows_are_no_other_numbers():
    """Neither rounded, nor cut to their last 32 bits, nor counted from the end, where the row before would be meant."""
    for wrong, message in (([0.5], "positions holds float64"), ([-1], "positions hold -1; they count from 0")):
        with pytest.raises((TypeError, ValueError), match=message):
            Rows(wrong, [3])
    for wrong, message in (([3.9], "tokens holds float64"), ([2**32 + 5], "tokens holds 4294967301")):
        with pytest.raises((TypeError, OverflowError), match=message):
            Rows([2], wrong)
    with pytest.raises(ValueError, match="data hold -2"):
        Rows([2], [3], [-2])
    with pytest.raises(TypeError, match="units holds float64"):
        Rows([2], [3], [0], [0.5])
    ids, labels = small.make_batch()
    for wrong in (labels.double(), labels.numpy() > 0):
        with pytest.raises(TypeError, match="labels hold (float64|bool), not whole numbers"):
            RowPolicy().rows(wrong)
    masked = numpy.ma.masked_array(labels.numpy(), mask=ids.numpy() % 2)
    with pytest.raises(ValueError, match="masked elements, which have no number"):
        RowPolicy().rows(masked)


def test_ids_are_those_of_the_rows():
    """The id of a row that is another's would be kept with another's states."""
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=sgd(model), cache=EofCache()) as controller:
        with pytest.raises(TypeError, match="ids holds float64"):
            controller.begin(labels, ids=[0.5] * 6)
        for count in (4, 7):  # as of several data in one row
            with pytest.raises(ValueError, match=f"{count} ids for a batch of 6 rows"):
                controller.begin(labels, ids=range(count))
        with pytest.raises(ValueError, match="1 ids for a batch of 3 rows"):
            controller.begin(rows=Rows([1, 2], [3, 4], [0, 2]), ids=[7])
        controller.begin(labels, ids=torch.arange(6))
        controller.backward(loss_of(model, ids, labels))


def test_a_content_is_all_that_the_model_is_given():
    tokens = torch.ones(2, 4, dtype=torch.long)
    first = {"input_ids": tokens, "labels": tokens, "token_type_ids": tokens, "flag": torch.tensor(1)}
    known = automatic._content_ids(first)
    assert known[0] == known[1]
    pictures = automatic._content_ids({**first, "pixel_values": torch.rand(2, 3, 2, 2).bfloat16()})
    assert len({*known, *pictures}) == 3
    patches = automatic._content_ids({**first, "pixel_values": torch.rand(5, 3)})  # go by no row
    assert patches[0] == patches[1] != known[0]
    types = automatic._content_ids({**first, "token_type_ids": tokens * torch.tensor([[0], [1]])})
    assert types[1] == known[1] != types[0]


@pytest.fixture
def loss():
    head = numpy.random.default_rng(4).standard_normal((23, 8)).astype(numpy.float32)
    return SemanticLoss(salf.Basis(salf.Model(salf.Context("cpu"), head=head, n_layers=2), list(range(23))))


def test_tokens_of_a_loss(loss):
    states = torch.randn(3, 8, requires_grad=True)
    for wrong in (torch.tensor([1.5, 2, 3]), torch.tensor([2**32 + 1, 2, 3])):
        with pytest.raises((TypeError, OverflowError), match="tokens holds"):
            loss(states, wrong)
    whole = loss(states, torch.tensor([-100, 2, 3]))
    torch.testing.assert_close(whole, loss(states[1:], torch.tensor([2, 3])))
    whole.backward()
    assert not states.grad[0].any()
    assert float(loss(states, torch.full((3,), -100))) == 0
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        torch.autograd.grad(loss(states, torch.tensor([1, 2, 3])), states, create_graph=True)


# ---- what belongs to one model ----


def test_a_cache_is_of_one_model():
    """Data have the same numbers everywhere. With the rate 0 the second model must have its own loss again."""
    kept, deviations = BoundaryCache(1 << 20), EofCache()
    ids, labels = small.make_batch()
    for seed in range(2):
        model = small.make_model("llama", seed)
        with FreezeController(model, "half", optimizer=sgd(model, 0.0), boundary=kept) as controller:
            assert len(kept) == 0
            for _ in range(3):
                controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
                loss = loss_of(model, ids, labels)
                controller.backward(loss)
                controller._guard.optimizer.step()
            with torch.no_grad():
                torch.testing.assert_close(loss_of(model, ids, labels), loss.detach())
            other = small.make_model("llama", 5)
            with pytest.raises(ValueError, match="the BoundaryCache is in use by another controller"):
                FreezeController(other, "half", boundary=kept)
        with FreezeController(model, "salf", optimizer=sgd(model, 0.0), cache=deviations) as controller:
            train(controller, model, ids=range(6))
            assert controller.trace is not None
            with pytest.raises(ValueError, match="the EofCache is in use by another controller"):
                FreezeController(other, "salf", cache=deviations)
    assert kept.hits == 2 * 12
    filled = EofCache()
    filled.load_state_dict(deviations.state_dict())
    with FreezeController(model, "salf", optimizer=sgd(model), cache=filled):
        assert len(filled) == 6  # what a host has put there itself stays
    with pytest.raises(ValueError, match="max_age is -1"):
        EofCache(-1)


def test_an_optimizer_has_one_controller():
    """Each would give the groups of the other back, with rates of one step in them."""
    first, second = small.make_model("llama"), small.make_model("llama", 1)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    controller = FreezeController(first, "half", optimizer=optimizer)
    with pytest.raises(ValueError, match="SGD is guarded by another controller"):
        FreezeController(second, "half", optimizer=optimizer)
    controller.attach(optimizer)
    controller.close()
    with FreezeController(second, "half", optimizer=optimizer) as controller:
        train(controller, second)


@pytest.mark.parametrize("change", ["head", "resized", "embedding", "norm", "layer", "weight"])
def test_parts_are_those_of_the_model(change):
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=sgd(model)) as controller:
        train(controller, model)
        model.extra = torch.nn.Linear(2, 2)  # no business of the controller's
        train(controller, model)
        if change == "head":
            model.lm_head = torch.nn.Linear(small.HIDDEN, small.VOCABULARY, bias=False)
        elif change == "resized":
            model.resize_token_embeddings(small.VOCABULARY + 3)
        elif change == "embedding":
            model.model.embed_tokens = torch.nn.Embedding(small.VOCABULARY, small.HIDDEN)
        elif change == "norm":
            model.model.norm = copy.deepcopy(model.model.norm)
        elif change == "layer":
            model.model.layers[1] = copy.deepcopy(model.model.layers[1])
        else:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"no part of the model any more|no more what they were: close"):
                controller.begin(labels)


def test_a_norm_may_be_none_of_the_model():
    model = small.make_model("llama")
    parts = dataclasses.replace(find_parts(model), norm=copy.deepcopy(model.model.norm))
    with FreezeController(model, "salf", parts=parts, optimizer=sgd(model), others="train") as controller:
        train(controller, model)
        model.extra = torch.nn.Linear(2, 2)
        train(controller, model)


def test_layers_are_named_in_their_order():
    """A cut would freeze the upper ones."""
    model = small.make_model("llama")
    with pytest.raises(ValueError, match="not in the order in which they run: number 1 ends before number 0"):
        find_parts(model, layers=list(model.model.layers)[::-1])
    assert len(find_parts(model, layers=list(model.model.layers)).layers) == 4


# ---- what is random ----


@pytest.mark.parametrize("name", ["salf", "salf[half][stream]", "half"])
def test_adapters_with_dropout_are_refused_where_layers_must_repeat_themselves(name):
    """LoRA begins as a product with zeros: its dropout changes no state at first, and every one later."""
    model = small.make_model("llama")
    model = small.add_lora(model, "llama", dropout=0.1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.zero_()
    given = {"planner": {"n_data": 60}} if "stream" in name else {}
    given = {"policy": {"reduction": "prefix"}} if name == "salf" else given
    given = {"boundary": BoundaryCache(1 << 20)} if name == "half" else given
    ids, labels = small.make_batch()
    with FreezeController(model, name, optimizer=sgd(model), **given) as controller:
        controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
        with pytest.raises(RuntimeError, match="layer 0 draws random numbers"):
            loss_of(model, ids, labels)
        controller.drop()
        model.eval()
        controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
        controller.backward(loss_of(model, ids, labels))


def test_recomputed_rows_have_no_second_gradient():
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    rows = RowCheckpoint(find_parts(model).layers)
    rows.arm()
    loss = loss_of(model, ids, labels)
    rows.settle([0] * 6)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        loss.backward(create_graph=True)
    rows.close()


def test_noise_on_embeddings_is_no_rounding():
    """A small noise, as NEFTune's, and states that are kept in float32."""
    model = small.make_model("llama")
    with FreezeController(model, "half", optimizer=sgd(model), boundary=BoundaryCache(1 << 20)) as controller:
        model.model.embed_tokens.register_forward_hook(
            lambda _module, _inputs, output: output + 0.03 * output.std() * torch.randn_like(output)
        )
        ids, labels = small.make_batch()
        controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
        controller.backward(loss_of(model, ids, labels))
        controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
        with pytest.raises(RuntimeError, match="noise on embeddings"):
            loss_of(model, ids, labels)


def test_what_is_written_past_autograd_moves_a_boundary():
    """By way of parameter.data, as averages of weights and merged adapters are."""
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "half", optimizer=sgd(model, 0.0), boundary=BoundaryCache(1 << 20)) as controller:

        def step():
            controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
            loss = loss_of(model, ids, labels)
            controller.backward(loss)
            return float(loss)

        before = [step() for _ in range(3)]
        model.model.layers[1].mlp.down_proj.weight.data.mul_(3)
        with pytest.warns(RuntimeWarning, match="layers below the boundary have moved"):
            after = step()
        with torch.no_grad():
            assert after == pytest.approx(float(loss_of(model, ids, labels)), rel=1e-6)
        assert before[0] == pytest.approx(before[2], rel=1e-6) != after


# ---- calls out of their time ----


def test_a_look_at_states_leaves_everything_as_it_was():
    model = small.make_model("llama")
    ids, labels = small.make_batch()
    batch = {"input_ids": ids, "labels": labels}
    controller = FreezeController(model, "salf", optimizer=sgd(model))
    model.model.layers[0].eval()
    controller.measure(labels, lambda: model(input_ids=ids))
    assert [layer.training for layer in model.model.layers] == [False, True, True, True]
    looks = {
        "measure": lambda: controller.measure(labels, lambda: model(input_ids=ids)),
        "verify": lambda: controller.verify(batch),
        "refresh": controller.refresh,
    }
    controller.begin(labels)
    for name, look in looks.items():
        with pytest.raises(RuntimeError, match=f"a batch is announced: {name} before"):
            look()
    controller.backward(loss_of(model, ids, labels))
    for look in looks.values():
        look()
    controller.close()
    looks.update(attach=lambda: controller.attach(sgd(model)), wrapped=lambda: controller.wrapped(model))
    for look in looks.values():
        with pytest.raises(RuntimeError, match="the controller is closed: make another one"):
            look()


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("half", {"probe": {"lens": "normed"}}, "method 'half' has no probe: probe= would change nothing"),
        ("half", {"probe": {"lens": "raw"}, "basis": {"mode": "exact"}}, "probe and basis= would change nothing"),
        ("lisa", {"cache": EofCache()}, "cache= spares the probes of method 'salf'; method 'lisa'"),
        ("salf[half]", {"cache": EofCache(), "planner": {"n_data": 9}}, r"method 'salf\[half\]' decides without"),
    ],
)
def test_options_that_change_nothing_are_refused(method, given, message):
    with pytest.raises(ValueError, match=message):
        FreezeController(small.make_model("llama"), method, **given)


def test_handles_are_of_this_process():
    model = small.make_model("llama")
    with FreezeController(model, "salf") as controller:
        handles = [controller.context, controller.basis, controller.probe, controller.policy, controller]
        for handle in handles:
            for way in (copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="lives in this process: it cannot be copied or pickled"):
                    way(handle)
        with pytest.raises(TypeError, match=r"save\(\) gives its state as bytes"):
            copy.copy(controller.policy)
        with pytest.raises(TypeError, match="a basis of libsalf lives in this process"):
            copy.deepcopy(controller.basis._owner)


# ---- defaults of PyTorch ----


@pytest.mark.skipif(not hasattr(torch, "set_default_device"), reason="PyTorch 1 has no default device")
@pytest.mark.parametrize(
    "name", ["salf", "salf prefix", "salf[ce]", "lift*[half][stream]", "half", "autofreeze", "rgn"]
)
def test_a_default_device_is_not_where_the_librarys_own_numbers_are(name):
    """The device "meta" stands for a GPU: what is made there has no values here."""
    given = {
        "salf prefix": {"policy": {"reduction": "prefix"}}, "salf[ce]": {"probe": {"scores": "logits"}},
        "lift*[half][stream]": {"planner": {"n_data": 60}}, "half": {"boundary": BoundaryCache(1 << 20)},
        "autofreeze": {"policy": {"interval": 1}},
    }.get(name, {})  # fmt: skip
    ids, labels = small.make_batch()
    found = []
    for device in ("cpu", "meta"):
        model = small.make_model("llama")
        optimizer = sgd(model)
        torch.set_default_device(device)
        try:
            if name == "half":
                given = {"boundary": BoundaryCache(1 << 20)}
            with FreezeController(model, name.split(" ")[0], optimizer=optimizer, **given) as controller:
                for _ in range(3):
                    controller.begin(labels, ids=range(6), inputs={"input_ids": ids})
                    controller.backward(loss_of(model, ids, labels))
                    optimizer.step()
                    optimizer.zero_grad()
                file = io.BytesIO()
                torch.save(controller.state_dict(), file)
                file.seek(0)
                controller.load_state_dict(torch.load(file, weights_only=True))
                if name.startswith("salf"):
                    controller.verify({"input_ids": ids, "labels": labels}).check()
        finally:
            torch.set_default_device(None)
        found.append((controller.saving, [p.detach().clone() for p in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_default_type_changes_nothing(dtype):
    found = []
    for default in (torch.float32, dtype):
        model = small.make_model("llama")
        torch.set_default_dtype(default)
        try:
            with FreezeController(model, "salf", optimizer=sgd(model)) as controller:
                train(controller, model, 2)
                found.append(controller.trace.deviations)
        finally:
            torch.set_default_dtype(torch.float32)
    assert (found[0] == found[1]).all()
