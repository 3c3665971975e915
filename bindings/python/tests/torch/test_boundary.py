"""States kept at the boundary: the weights are those of a run without, and what is no longer right is not used."""

import warnings

import pytest
import small_models as small
import torch
from torch import nn

from salf.torch import Boundary, BoundaryCache, RowCuts, find_parts

EDGE = 2


def make(family="llama", kind="dense", checkpointing=False):
    model = small.make_model(family)
    if kind == "lora":
        model = small.add_lora(model, family)
    parts = find_parts(model)
    trained = {id(p) for layer in parts.layers[EDGE:] for p in layer.parameters() if p.requires_grad}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, parts


def data(count=24, tokens=9):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, small.VOCABULARY, (count, tokens), generator=generator)
    lengths = torch.randint(4, tokens + 1, (count,), generator=generator)
    mask = (torch.arange(tokens)[None] < lengths[:, None]).long()
    return ids * mask, mask


def loss_of(model, ids, mask):
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    last = mask.sum(1) - 1
    return nn.functional.cross_entropy(logits[torch.arange(len(ids)), last], ids[:, 0])


class Calls:
    """How many rows passed a layer."""

    def __init__(self, layers):
        self.rows = [0] * len(layers)
        for k, layer in enumerate(layers):
            layer.self_attn.register_forward_hook(self._hook(k))

    def _hook(self, k):
        def hook(_module, _inputs, output):
            self.rows[k] += output[0].shape[0]

        return hook


def train(model, ids, mask, epochs=3, batch=4, boundary=None, rows=None, cuts=None):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for epoch in range(epochs):
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(epoch))
        for picked in order.split(batch):
            if boundary is not None:
                boundary.begin(picked.tolist(), ids[picked], mask[picked])
            if rows is not None:
                rows.set(cuts)
            loss_of(model, ids[picked], mask[picked]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def check(found, wanted, tolerance=2e-4):
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_weights_are_those_of_a_run_without(family, kind, checkpointing):
    ids, mask = data()
    wanted = train(make(family, kind, checkpointing)[0], ids, mask)
    model, parts = make(family, kind, checkpointing)
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        check(train(model, ids, mask, boundary=boundary), wanted)
    assert len(boundary.cache) == len(ids)
    assert boundary.cache.hits == 2 * len(ids)
    boundary.close()
    assert all("forward" not in layer.__dict__ for layer in parts.layers)


def test_layers_below_run_once_a_datum():
    ids, mask = data()
    model, parts = make()
    calls = Calls(parts.layers)
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    train(model, ids, mask, boundary=boundary)
    # One batch of four is run again and compared, the first whose data were there.
    assert calls.rows[:EDGE] == [len(ids) + 4] * EDGE
    assert calls.rows[EDGE:] == [3 * len(ids)] * (len(parts.layers) - EDGE)


def test_rows_at_their_own_cut_above_it():
    ids, mask = data()
    cuts = [3, 2, 4, 2]
    model, parts = make()
    rows = RowCuts(parts.layers)
    wanted = train(model, ids, mask, rows=rows, cuts=cuts)
    model, parts = make()
    rows = RowCuts(parts.layers)
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    check(train(model, ids, mask, boundary=boundary, rows=rows, cuts=cuts), wanted)
    assert boundary.cache.hits == 2 * len(ids)
    boundary.close()
    rows.close()
    assert all("forward" not in layer.__dict__ for layer in parts.layers)


def test_a_boundary_that_rises_starts_at_what_is_kept():
    ids, mask = data(8)
    model, parts = make()
    for layer in parts.layers:
        layer.requires_grad_(False)
    parts.layers[3].requires_grad_(True)
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    calls = Calls(parts.layers)
    seen = []
    for edge in (1, 1, 2, 3, 3):  # the second comes again for the first time, and is compared
        boundary.set(edge)
        before = list(calls.rows)
        boundary.begin(range(8), ids, mask)
        seen.append(loss_of(model, ids, mask).item())
        passed = [now - then for now, then in zip(calls.rows, before, strict=True)]
        assert passed == {0: [8] * 4, 1: [8] * 4, 2: [0, 8, 8, 8], 3: [0, 0, 8, 8], 4: [0, 0, 0, 8]}[len(seen) - 1]
    assert max(seen) - min(seen) < 1e-5
    boundary.set(1)
    assert len(boundary.cache) == 0


def test_changed_content_is_computed_anew():
    ids, mask = data(4)
    model, parts = make()
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    for _ in range(2):
        boundary.begin(range(4), ids, mask)
        loss_of(model, ids, mask)
    other = ids.clone()
    other[1, 0] = ids[1, 0] % 90 + 1
    seen = mask.clone()
    seen[2, 3:] = 0
    boundary.begin(range(4), other, seen)
    found = loss_of(model, other, seen)
    assert (boundary.cache.hits, boundary.cache.misses) == (4 + 2, 4 + 2)
    boundary.close()
    torch.testing.assert_close(found, loss_of(model, other, seen))


def test_whatever_else_the_model_is_given_belongs_to_the_content():
    """Positions are a row's up to its last token; images that do not go by row are all rows'."""
    ids, mask = data(4)
    model, parts = make()
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    positions = torch.arange(ids.shape[1]).expand(4, -1).clone()
    images = torch.rand(7, 3)

    def misses(positions, images, count=9):
        before = boundary.cache.misses
        others = {"position_ids": positions, "pixel_values": images, "num_items": torch.tensor(count)}
        boundary.begin(range(4), ids, mask, {**others, "use_cache": False})
        model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return boundary.cache.misses - before

    assert misses(positions, images) == 4
    assert misses(positions, images, count=5) == 0
    moved = positions.clone()
    moved[1, :3] += 2
    moved[2, mask[2].sum() :] += 5  # padding
    assert misses(moved, images) == 1
    assert misses(moved, images + 1) == 4


def test_parameters_that_moved_drop_what_was_kept():
    ids, mask = data(4)
    model, parts = make()
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    for moved in (next(parts.layers[0].parameters()), parts.embedding.weight):
        for _ in range(2):
            boundary.begin(range(4), ids, mask)
            loss_of(model, ids, mask)
        with torch.no_grad():
            moved.mul_(1.5)
        with pytest.warns(RuntimeWarning, match="layers below the boundary have moved"):
            boundary.begin(range(4), ids, mask)
        found = loss_of(model, ids, mask)
        boundary.drop()
        torch.testing.assert_close(found, loss_of(model, ids, mask))


def test_what_is_random_is_refused():
    ids, mask = data(4)
    model, parts = make()
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    boundary.set(EDGE)
    hook = parts.embedding.register_forward_hook(lambda _m, _i, output: nn.functional.dropout(output, 0.5))
    boundary.begin(range(4), ids, mask)
    loss_of(model, ids, mask)
    boundary.begin(range(4), ids, mask)
    with pytest.raises(RuntimeError, match="something in the forward is random"):
        loss_of(model, ids, mask)
    hook.remove()
    parts.layers[0].mlp.register_forward_hook(lambda _m, _i, output: nn.functional.dropout(output, 0.01))
    boundary.begin(range(4), ids, mask)
    with pytest.raises(RuntimeError, match="layer 0 draws random numbers"):
        loss_of(model, ids, mask)


@pytest.mark.parametrize("where", ["memory", "file", "full", "small", "unwritable"])
def test_places_and_their_ends(where, tmp_path):
    ids, mask = data()
    wanted = train(make()[0], ids, mask)
    model, parts = make()
    one = 4 * small.HIDDEN * int(mask.sum()) // len(ids)
    size = 10 * one if where == "small" else 1 << 20
    folder = {"memory": None, "small": None, "file": tmp_path, "full": "/dev/shm", "unwritable": tmp_path / "none"}[
        where
    ]
    if where == "unwritable":
        with pytest.warns(RuntimeWarning, match="no file can be made in .*none: No such file.*goes on without"):
            cache = BoundaryCache(size, folder=folder)
    else:
        cache = BoundaryCache(size, folder=folder)
    boundary = Boundary(parts.layers, cache, parts.embedding)
    boundary.set(EDGE)
    if where == "full":
        cache._file.close()
        cache._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - lives as long as the cache
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        check(train(model, ids, mask, boundary=boundary), wanted)
    said = [w for w in said if "boundary cache" in str(w.message)]
    assert len(said) == (1 if where in ("full", "small") else 0)
    expected = {"memory": 24, "file": 24, "full": 0, "unwritable": 0}.get(where)
    assert len(cache) == expected if expected is not None else 5 < len(cache) < 15
    assert cache.used <= cache.size


def test_bfloat16_takes_half_the_room():
    ids, mask = data()
    used = []
    for dtype in ("float32", "bfloat16"):
        model, parts = make()
        boundary = Boundary(parts.layers, BoundaryCache(1 << 20, dtype), parts.embedding)
        boundary.set(EDGE)
        train(model, ids, mask, boundary=boundary, epochs=2)
        used.append(boundary.cache.used)
    assert used[0] == 2 * used[1] == 4 * small.HIDDEN * int(mask.sum())


def test_bad_values():
    with pytest.raises(ValueError, match="dtype is 'float16'"):
        BoundaryCache(10, "float16")
    with pytest.raises(ValueError, match="size is 0"):
        BoundaryCache(0)
    ids, mask = data(4)
    model, parts = make()
    boundary = Boundary(parts.layers, BoundaryCache(1 << 20), parts.embedding)
    with pytest.raises(ValueError, match="layer 5 is not in 0 ... 4"):
        boundary.set(5)
    boundary.set(EDGE)
    with pytest.raises(ValueError, match="3 ids for 4 rows"):
        boundary.begin(range(3), ids)
    with pytest.raises(ValueError, match="attention_mask has shape"):
        boundary.begin(range(4), ids, mask[:, :2])
    boundary.begin(range(4), ids, mask)
    loss_of(model, ids, mask)
    with pytest.raises(RuntimeError, match="a second forward of one batch"):
        loss_of(model, ids, mask)
    with pytest.raises(ValueError, match="4 rows were announced"):
        loss_of(model, ids[:2], mask[:2])
