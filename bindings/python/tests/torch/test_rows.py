"""Rows at their own cut: gradients are those of one datum at a time, and time and memory shrink to the rows' share."""

import copy
import warnings

import pytest
import small_models as small
import torch
from torch import nn

from salf.torch import Boundary, BoundaryCache, RowCheckpoint, RowCuts, find_parts

TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}
CUTS = {"sorted": [0, 1, 1, 2, 3, 4], "mixed": [3, 0, 4, 1, 2, 1], "even": [2] * 6, "none": [4] * 6}


def make(family, kind):
    model = small.make_model(family)
    return small.add_lora(model, family) if kind == "lora" else model


def layer_of(name):
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def loss_of(model, ids, labels, **more):
    logits = model(input_ids=ids, **more).logits[:, :-1]
    return nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum"
    )


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and layer_of(n) is not None}


def backward(loss):
    if loss.requires_grad:  # a batch in which no row trains any layer has no graph
        loss.backward()


def one_at_a_time(model, ids, labels, cuts):
    """The sum over the data of their gradients at and above their own cuts."""
    total = {}
    for row, cut in enumerate(cuts):
        model.zero_grad(set_to_none=True)
        loss_of(model, ids[row : row + 1], labels[row : row + 1], use_cache=False).backward()
        for name, gradient in gradients(model).items():
            if layer_of(name) >= cut:
                total[name] = total.get(name, 0) + gradient
    model.zero_grad(set_to_none=True)
    return total


def check(found, wanted):
    # A layer that no row trains has no gradient, or one of zeros.
    assert all(not g.any() for n, g in found.items() if n not in wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, **TOLERANCE)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("order", sorted(CUTS))
@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_gradients_are_those_of_one_datum_at_a_time(family, kind, order, checkpointing, cache):
    model, cuts = make(family, kind), CUTS[order]
    ids, labels = small.make_batch()
    wanted = one_at_a_time(model, ids, labels, cuts)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = RowCuts(find_parts(model).layers)
    rows.set(cuts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        backward(loss_of(model, ids, labels, use_cache=cache))
    check(gradients(model), wanted)
    assert rows.split_everywhere
    rows.close()


@pytest.mark.parametrize("order", sorted(CUTS))
@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_recomputed_rows_give_the_same_gradients(family, kind, order):
    model, cuts = make(family, kind), CUTS[order]
    ids, labels = small.make_batch()
    wanted = one_at_a_time(model, ids, labels, cuts)
    rows = RowCheckpoint(find_parts(model).layers)
    rows.arm()
    loss = loss_of(model, ids, labels, use_cache=True)
    rows.settle(cuts)
    loss.backward()
    check(gradients(model), wanted)
    rows.close()


@pytest.mark.parametrize("padding", ["right", "left"])
def test_padded_rows_and_masks_go_with_their_rows(padding):
    model, cuts = make("llama", "dense"), CUTS["mixed"]
    ids, labels = small.make_batch()
    mask = torch.ones_like(ids)
    for row in range(3):
        gap = slice(7, None) if padding == "right" else slice(0, 2)
        mask[row, gap], labels[row, gap] = 0, -100
    labels[:, 5] = ids[:, 5]
    total = {}
    for row, cut in enumerate(cuts):
        model.zero_grad(set_to_none=True)
        loss_of(model, ids[[row]], labels[[row]], attention_mask=mask[[row]], use_cache=False).backward()
        for name, gradient in gradients(model).items():
            if layer_of(name) >= cut:
                total[name] = total.get(name, 0) + gradient
    model.zero_grad(set_to_none=True)
    rows = RowCuts(find_parts(model).layers)
    rows.set(cuts)
    loss_of(model, ids, labels, attention_mask=mask).backward()
    check(gradients(model), total)


def test_a_batch_of_as_many_rows_as_tokens_is_not_mistaken():
    model = make("gpt2", "dense")
    ids, labels = small.make_batch(rows=9, tokens=9)
    cuts = [0, 4, 1, 3, 2, 2, 0, 1, 3]
    wanted = one_at_a_time(model, ids, labels, cuts)
    rows = RowCuts(find_parts(model).layers)
    rows.set(cuts)
    loss_of(model, ids, labels).backward()
    check(gradients(model), wanted)


def test_layers_that_cannot_be_split_keep_their_gradients_right_and_say_so():
    class Across(nn.Module):
        """Takes a vector of which nobody knows whether it goes by row."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 5)

        def forward(self, hidden_states, lengths):
            return hidden_states + self.inner(hidden_states) * lengths.sum()

    torch.manual_seed(0)
    layers = nn.ModuleList([Across(), Across()])
    states, lengths = torch.randn(3, 4, 5), torch.tensor([1.0, 2.0, 3.0])

    def run():
        x = states
        for layer in layers:
            x = layer(x, lengths=lengths)
        return x

    run()[0].square().sum().backward()
    wanted = [p.grad.clone() for p in layers[0].parameters()]
    layers.zero_grad()
    run()[:2].square().sum().backward()
    wanted += [p.grad.clone() for p in layers[1].parameters()]
    layers.zero_grad()
    rows = RowCuts(layers)
    rows.set([0, 1, 2])
    with pytest.warns(
        RuntimeWarning, match=r"Across cannot run a part of the batch \(argument lengths has shape \(3,\)"
    ):
        run().square().sum().backward()
    for found, gradient in zip([p.grad for p in layers.parameters()], wanted, strict=True):
        torch.testing.assert_close(found, gradient)
    assert not rows.split_everywhere


class Recording(nn.Module):
    """A layer that leaves a tensor in a list, as router logits are recorded for a loss."""

    def __init__(self, left, graph=True):
        super().__init__()
        self.inner, self.left, self.graph = nn.Linear(5, 5), left, graph

    def forward(self, hidden_states):
        inside = self.inner(hidden_states).exp()
        self.left.append(inside if self.graph else inside.detach())
        return hidden_states + inside


class Sharing(nn.Module):
    """A layer that adds what the first one put into a store."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, hidden_states, store):
        store.setdefault("values", self.inner(hidden_states))
        return hidden_states + self.inner(hidden_states) + store["values"]


class Biased(nn.Module):
    """A layer with a bias for each head, of which there may be as many as rows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, hidden_states, bias):
        heads = self.inner(hidden_states).unflatten(-1, (3, 2)).transpose(1, 2)
        return hidden_states + (heads * bias.exp()).transpose(1, 2).flatten(2)


class Turned(nn.Module):
    """A layer that takes [streams, batch, tokens, D]."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, hidden_states):
        return hidden_states + self.inner(hidden_states)


def forward_of(kind, layers, cuts):
    """The layers under RowCuts, RowCheckpoint or Boundary, a batch of these cuts begun."""
    if kind == "cuts":
        rows = RowCuts(layers)
        rows.set(cuts)
    elif kind == "checkpoint":
        rows = RowCheckpoint(layers)
        rows.arm()
    else:
        rows = Boundary(layers, BoundaryCache(1 << 20))
        rows.set(1)
        rows.begin(range(len(cuts)), torch.zeros(len(cuts), 4, dtype=torch.long))
    return rows


@pytest.mark.parametrize("kind", ["cuts", "checkpoint", "boundary"])
def test_what_layers_leave_for_the_loss_is_refused(kind):
    """Its gradient would be lost, or be that of rows that do not train. What has no graph may be left."""
    for graph in (True, False):
        left = []
        layers = nn.ModuleList([Recording(left, graph), Recording(left, graph)])
        rows, states = forward_of(kind, layers, [0, 1, 2]), torch.randn(3, 4, 5)
        if graph:
            with pytest.raises(ValueError, match="class Recording leave something behind beside their states"):
                layers[1](layers[0](states))
        else:
            layers[1](layers[0](states))
        rows.close()


@pytest.mark.parametrize("kind", ["cuts", "checkpoint", "boundary"])
def test_stores_and_other_axes_are_refused(kind):
    layers = nn.ModuleList([Sharing(), Sharing()])
    rows = forward_of(kind, layers, [0, 1, 2])
    with pytest.raises(ValueError, match="class Sharing hand each other what they keep in store"):
        layers[0](torch.randn(3, 4, 5), store={})
    rows.close()
    layers = nn.ModuleList([Turned(), Turned()])
    rows = forward_of(kind, layers, [0, 1, 2])
    with pytest.raises(ValueError, match=r"were announced, but Turned got states \(3, 2, 4, 5\)"):
        layers[0](torch.randn(3, 2, 4, 5))
    rows.close()


def test_a_bias_of_as_many_heads_as_rows_is_none_of_rows():
    """The layer runs whole, with right gradients, or is refused where it would have to run again."""
    torch.manual_seed(0)
    layers, states, bias = nn.ModuleList([Biased(), Biased()]), torch.randn(3, 4, 6), torch.randn(3, 1, 1)

    def run():
        return layers[1](layers[0](states, bias=bias), bias=bias)

    run()[0].square().sum().backward()
    wanted = [p.grad.clone() for p in layers[0].parameters()]
    layers.zero_grad()
    rows = forward_of("cuts", layers, [0, 1, 2])
    with pytest.warns(RuntimeWarning, match="Biased cannot run a part of the batch"):
        run().square().sum().backward()
    rows.close()
    for found, gradient in zip(layers[0].parameters(), wanted):
        torch.testing.assert_close(found.grad, gradient)
    rows = forward_of("checkpoint", layers, [0, 1, 2])
    with pytest.raises(ValueError, match="Biased cannot run a part of the batch"):
        run()
    rows.close()


def memory_of(tensor):
    """Address and bytes of the memory behind a tensor."""
    if hasattr(tensor, "untyped_storage"):
        return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
    return tensor.storage().data_ptr(), len(tensor.storage()) * tensor.element_size()


def bytes_saved(model, ids, **more):
    """Bytes that the graph of a forward keeps, parameters left out, each memory once."""
    seen, own = {}, {memory_of(p)[0] for p in model.parameters()}

    def note(tensor):
        place, size = memory_of(tensor)
        if place not in own:
            seen[place] = size
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(input_ids=ids, **more).logits
    del logits
    return sum(seen.values())


@pytest.mark.parametrize("kind", ["dense", "lora"])
def test_activations_shrink_to_the_share_of_the_rows(kind):
    model = make("llama", kind)
    for parameter in model.get_output_embeddings().parameters():
        parameter.requires_grad_(False)
    for parameter in model.get_input_embeddings().parameters():
        parameter.requires_grad_(False)
    ids, labels = small.make_batch(rows=16, tokens=24)
    parts = find_parts(model)
    rows = RowCuts(parts.layers)
    whole = bytes_saved(model, ids, use_cache=False)
    rows.set([4] * 16)
    outside = bytes_saved(model, ids, use_cache=False)
    rows.set(sorted(row % 4 for row in range(16)))  # every layer trains four rows more than the one below it
    shared = bytes_saved(model, ids, use_cache=False)
    share = (shared - outside) / (whole - outside)
    assert 0.55 < share < 0.625 * 1.1  # (4 + 8 + 12 + 16) / 64 of the rows


def test_the_backward_shrinks_to_the_share_of_the_rows():
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    model = make("llama", "dense")
    for module in (model.get_output_embeddings(), model.get_input_embeddings()):
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    ids, labels = small.make_batch(rows=16, tokens=24)
    rows = RowCuts(find_parts(model).layers)

    def operations(cuts):
        rows.set(cuts)
        loss = loss_of(model, ids, labels, use_cache=False)
        with flop_counter.FlopCounterMode(display=False) as counter:
            if loss.requires_grad:
                loss.backward()
        return counter.get_total_flops()

    whole, shared = operations([0] * 16), operations(sorted(row % 4 for row in range(16)))
    head = 2 * 16 * 24 * small.HIDDEN * small.VOCABULARY
    assert 0.55 < (shared - head) / (whole - head) < 0.625 * 1.1


def test_the_layers_get_their_own_forward_back():
    model = make("llama", "dense")
    layers = find_parts(model).layers
    before = [layer.forward.__func__ for layer in layers]
    rows = RowCuts(layers)
    again = RowCheckpoint(layers)
    again.close()
    rows.close()
    assert [layer.forward.__func__ for layer in layers] == before
    assert all("forward" not in layer.__dict__ for layer in layers)
    copy.deepcopy(model)


def test_inference_is_left_alone():
    model = make("llama", "dense").eval()
    ids, _ = small.make_batch()
    expected = model(input_ids=ids).logits
    rows = RowCuts(find_parts(model).layers)
    rows.set([0, 1, 2])  # a batch of another size
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
    with pytest.raises(ValueError, match="3 rows were announced, but LlamaDecoderLayer got states"):
        model(input_ids=ids)


@pytest.mark.parametrize("cuts", [[-1], [5]])
def test_cuts_that_are_none(cuts):
    rows = RowCuts(find_parts(make("llama", "dense")).layers)
    with pytest.raises(ValueError, match=f"cut {cuts[0]} of a row is not in 0 ... 4"):
        rows.set(cuts)


def test_recomputation_refuses_what_it_cannot_repeat():
    model = make("llama", "dense")
    ids, labels = small.make_batch()
    layers = find_parts(model).layers
    rows = RowCheckpoint(layers)
    rows.arm()
    loss = loss_of(model, ids, labels)
    with pytest.raises(RuntimeError, match="the backward came before the cuts of its rows"):
        loss.backward()
    rows.close()
    scale = [1.0]
    hook = layers[2].mlp.register_forward_hook(lambda _m, _i, output: output * scale[0])
    rows = RowCheckpoint(layers)
    rows.arm()
    loss = loss_of(model, ids, labels)
    rows.settle([0, 1, 1, 2, 3, 4])
    scale[0] = 1.5
    with pytest.raises(RuntimeError, match="layer 2 gave other states when it was run again"):
        loss.backward()
    hook.remove()
    layers[2].mlp.register_forward_hook(lambda m, _i, output: nn.functional.dropout(output, 0.01, m.training))
    rows.arm()
    with pytest.raises(RuntimeError, match="layer 2 draws random numbers"):
        loss_of(model, ids, labels)
