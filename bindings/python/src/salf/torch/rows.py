"""Rows at their own cut: each decoder layer runs the rows that it trains with a graph, and the others without.

A budget, or a trace, gives every datum of a batch a cut of its own. Where the cuts are known before the forward,
layer k needs a graph for the rows whose cut is at most k alone: the others keep no activations there and their
backward ends above it. The gradients are those of training each datum by itself, and both the time of the backward and
the memory of the activations shrink to the rows' share. RowCuts does this by splitting a batch at each layer.

Where the cuts are known after the forward only (method salf), activations are recomputed instead: recompute.py.
"""

from __future__ import annotations

import gc
import inspect
import warnings
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import torch
from torch import nn

from salf.torch.flow import detached, evaluating, first_state
from salf.torch.hooks import Forward
from salf.torch.streams import moved

# Arguments that layers take besides states and masks, and that have no row of their own.
_SHARED = frozenset(("cache_position",))
# Keys and values of earlier tokens: a training forward has none, and a layer that runs twice would store them twice.
_CACHES = ("past_key_values", "past_key_value", "cache", "layer_past")
# States of parts of a batch and of the whole differ by rounding, in TF32 or in half precision; what was taken for rows
# and is none (a bias of as many heads as there are rows) changes them by a share of their own size.
_ROUNDING = {torch.bfloat16: 2e-2, torch.float16: 2e-2}


class CannotSplit(Exception):
    """Why a layer's arguments cannot be told apart by row."""


def checked_states(layer: nn.Module, args: Any, named: Mapping[str, Any], rows: Optional[int] = None) -> torch.Tensor:
    """The states that a layer is given, of so many rows. Refuses layers whose batch does not come first, and those that
    hand each other things beside their states."""
    states = args[0] if args else named.get("hidden_states")
    if not isinstance(states, torch.Tensor) or states.dim() != 3 or rows not in (None, states.shape[0]):
        shape = tuple(states.shape) if isinstance(states, torch.Tensor) else type(states).__name__
        wanted = "[batch, tokens, D]" if rows is None else f"{rows} rows"
        raise ValueError(f"{wanted} were announced, but {type(layer).__name__} got states {shape}")
    for name, value in named.items():
        if isinstance(value, Mapping) and name not in _CACHES:
            raise ValueError(
                f"layers of class {type(layer).__name__} hand each other what they keep in {name}: rows of one batch "
                "cannot have cuts of their own, nor states be kept. Take one cut a batch"
            )
    return states


def random_state(device: torch.device) -> torch.Tensor:
    """What moves with each random number that a layer on this device draws. One that is run again, or left out, must
    draw none, and its states would not always tell: dropout before an adapter's matrix of zeros changes nothing."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *own])


class _Saved:
    """What a graph keeps of a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def run_alone(layer: nn.Module, inner: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """A layer's output without a graph, as under no_grad. Refuses a layer of which a part of the graph lives on: then
    something in it was recorded for the loss (router logits, attention weights), and its gradient would be lost, or be
    that of rows that do not train. No name tells this: a graph is gone with the output unless somebody holds on to it.
    """
    kept: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def keep(tensor: torch.Tensor) -> _Saved:
        saved = _Saved(tensor.detach())  # an output that is kept as it is would keep itself alive
        kept.add(saved)
        return saved

    states = first_state(args, kwargs)

    def needing(value: Any) -> Any:  # no leaf, into which a layer could not write
        return value.detach().requires_grad_().clone() if value is states else value

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        given, named = [needing(value) for value in args], {name: needing(value) for name, value in kwargs.items()}
        output = detached(inner(*given, **named))
        del given, named
    if len(kept):
        gc.collect()
    if len(kept):
        raise ValueError(
            f"layers of class {type(layer).__name__} leave something behind beside their states, for the loss to look "
            "at (router logits, as by output_router_logits=True; attention weights): rows of one batch cannot have "
            "cuts of their own. Turn it off, or take one cut a batch"
        )
    return output


def check_split(
    layer: nn.Module, inner: Callable[..., Any], args: Any, kwargs: Dict[str, Any], states: Any, division: Division
) -> None:
    """CannotSplit where a layer's states of both parts, each by itself, are not those of the whole batch: an argument
    was taken for one that goes by row and does not, or rows look at each other."""
    tokens = states.shape[1]
    with evaluating(layer):
        given, named = layer_arguments(args, kwargs, states, None, tokens)
        whole = first_state(inner(*given, **named))
        assert whole is not None
        parts: List[torch.Tensor] = []
        for part in (0, 1):
            given, named = layer_arguments(args, kwargs, division.take(states, part), division, tokens, part)
            try:
                found = first_state(inner(*given, **named))
            except torch.cuda.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError) as error:
                raise CannotSplit(f"it fails with some of the rows: {error}") from error
            assert found is not None
            parts.append(found)
        joined = division.join(parts[0], parts[1]).float()
        near = _ROUNDING.get(whole.dtype, 2e-3) * whole.float().norm()
        if joined.shape != whole.shape or (joined - whole.float()).norm() > near:
            raise CannotSplit("its rows have other states by themselves than in the batch; is it random?")


class Division:
    """Which rows of a batch a layer trains, and which only pass it.

    Rows that are sorted by cut are slices, so that nothing is copied; others are gathered and brought back into order.
    """

    def __init__(self, cuts: Sequence[int], layer: int, device: torch.device) -> None:
        active = [i for i, cut in enumerate(cuts) if cut <= layer]
        waiting = [i for i, cut in enumerate(cuts) if cut > layer]
        self.size = len(cuts)
        self.n_active = len(active)
        self._sorted = active == list(range(len(active)))
        if self._sorted:
            return
        order = active + waiting
        self._parts = [moved(torch.tensor(part, dtype=torch.long, device="cpu"), device) for part in (active, waiting)]
        places = sorted(range(self.size), key=order.__getitem__)
        self._places = moved(torch.tensor(places, dtype=torch.long, device="cpu"), device)

    def take(self, tensor: torch.Tensor, part: int) -> torch.Tensor:
        """The rows of one part, 0 the active ones, 1 those that wait."""
        if self._sorted:
            return tensor[: self.n_active] if part == 0 else tensor[self.n_active :]
        return tensor.index_select(0, self._parts[part].to(tensor.device))

    def join(self, active: torch.Tensor, waiting: torch.Tensor) -> torch.Tensor:
        """Both parts in the order of the batch."""
        joined = torch.cat((active, waiting))
        return joined if self._sorted else joined.index_select(0, self._places.to(joined.device))


def _part_of(value: Any, name: str, division: Division, tokens: int, part: int) -> Any:
    """An argument of a layer, for one part of the rows. CannotSplit where it is not certain what its rows are."""
    if isinstance(value, (tuple, list)):
        return type(value)(_part_of(item, name, division, tokens, part) for item in value)
    if value is None or isinstance(value, (bool, int, float, str)) or name in _SHARED:
        return value
    if not isinstance(value, torch.Tensor):
        raise CannotSplit(f"argument {name} is a {type(value).__name__}")
    if value.dim() == 0:
        return value
    size, rows = division.size, value.shape[0]
    if rows == 1 and value.dim() > 1:
        return value  # shared by all rows
    if rows != size or value.dim() == 1:
        raise CannotSplit(f"argument {name} has shape {tuple(value.shape)} in a batch of {size} rows")
    if value.dim() == 2 and size == tokens:
        raise CannotSplit(f"argument {name} has shape {tuple(value.shape)}: its first size may be rows or tokens")
    return division.take(value, part)


def _without_cache(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments of a layer that keeps no keys and values. CannotSplit where there are some from earlier tokens."""
    found = dict(arguments)
    for name in _CACHES:
        cache = found.get(name)
        length = getattr(cache, "get_seq_length", None)
        if cache is not None and (length is None or length() > 0):
            raise CannotSplit(f"{name} holds keys and values of earlier tokens")
        if name in found:
            found[name] = None
    return found


def _joined(active: Any, waiting: Any, division: Division, module: nn.Module) -> Any:
    """A layer's output, from those of both parts."""
    if isinstance(active, torch.Tensor):
        if active.shape[:1] != (division.n_active,) or waiting.shape[:1] != (division.size - division.n_active,):
            raise ValueError(
                f"layers of class {type(module).__name__} give a tensor of shape {tuple(active.shape)} for "
                f"{division.n_active} rows, which cannot be put together by row: take one cut a batch"
            )
        return division.join(active, waiting.detach())
    if isinstance(active, (tuple, list)):
        return type(active)(_joined(a, w, division, module) for a, w in zip(active, waiting))
    if active is None and waiting is None:
        return None
    raise TypeError(f"{type(module).__name__} gave a {type(active).__name__} that cannot be put together by row")


def _detached_outside(output: Any, division: Division) -> Any:
    """The output of a layer that ran whole, with no gradient into the rows that wait."""
    if isinstance(output, torch.Tensor) and output.dim() > 0 and output.shape[0] == division.size:
        return division.join(division.take(output, 0), division.take(output, 1).detach())
    if isinstance(output, (tuple, list)):
        return type(output)(_detached_outside(item, division) for item in output)
    return output


def replace_forward(layer: nn.Module, instead: Callable[..., Any]) -> Any:
    """Puts instead(inner, args, kwargs) in the place of a layer's forward(); what was in its instance, for restore."""
    own = layer.__dict__.get("forward")
    inner = layer.forward
    names = [n for n, p in inspect.signature(inner).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]

    def forward(*args: Any, **kwargs: Any) -> Any:
        # By name, all but the states: what an argument is can be told from that.
        named = dict(zip(names[1:], args[1:]))
        return instead(inner, (*args[:1], *args[1 + len(named) :]), {**named, **kwargs})

    layer.forward = Forward(layer, own, forward)
    return own


def restore_forward(layer: nn.Module, own: Any) -> None:
    """Takes away what replace_forward put there."""
    if own is None:
        layer.__dict__.pop("forward", None)
    else:
        layer.forward = own


def layer_arguments(
    args: Any, kwargs: Dict[str, Any], states: torch.Tensor, division: Optional[Division], tokens: int, part: int = 0
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """A layer's arguments with other states, those of one part of the rows (division None: of all of them)."""
    rest = _without_cache(kwargs)
    others = list(args[1:])
    if division is not None:
        rest = {n: v if n == "hidden_states" else _part_of(v, n, division, tokens, part) for n, v in rest.items()}
        others = [_part_of(value, f"number {i + 1}", division, tokens, part) for i, value in enumerate(others)]
    if args:
        return (states, *others), rest
    return (), {**rest, "hidden_states": states}


class RowCuts:
    """Takes the place of the layers' forward(), and runs a batch's rows by the cuts that set() was given.

    A layer below every cut runs whole and without a graph. A layer whose arguments cannot be told apart by row (states
    that go across rows, packed sequences with a batch of their own shape) runs whole with a graph, and rows below their
    cut are detached behind it: gradients are right, nothing is saved there, and a warning says so once.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = tuple(layers)
        self._cuts: Optional[List[int]] = None
        self._divisions: Dict[int, Division] = {}
        self._warned = False
        # Shapes of batches that were tried: of how many rows, and whether of as many tokens.
        self._tried: List[Set[Any]] = [set() for _ in self._layers]
        self._own = [replace_forward(layer, self._instead_of(k)) for k, layer in enumerate(self._layers)]

    def close(self) -> None:
        """Gives the layers their own forward() back."""
        for layer, own in zip(self._layers, self._own):
            restore_forward(layer, own)
        self._own = []

    def set(self, cuts: Optional[Sequence[int]]) -> None:
        """The cut of each row, 0 to the number of layers, of the forwards to come; None: batches run as they are."""
        if cuts is not None:
            wrong = [int(cut) for cut in cuts if not 0 <= int(cut) <= len(self._layers)]
            if wrong:
                raise ValueError(f"cut {wrong[0]} of a row is not in 0 ... {len(self._layers)}")
        self._cuts = None if cuts is None else [int(cut) for cut in cuts]
        self._divisions = {}

    @property
    def split_everywhere(self) -> bool:
        """Whether no layer had to be run whole so far."""
        return not self._warned

    def _instead_of(self, k: int) -> Callable[..., Any]:
        def forward(inner: Callable[..., Any], args: Any, kwargs: Dict[str, Any]) -> Any:
            if self._cuts is None or not torch.is_grad_enabled():
                return inner(*args, **kwargs)
            return self._run(k, inner, args, kwargs)

        return forward

    def _run(self, k: int, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        layer = self._layers[k]
        assert self._cuts is not None
        states = checked_states(layer, args, kwargs, len(self._cuts))
        division = self._divisions.get(k)
        if division is None:
            division = self._divisions[k] = Division(self._cuts, k, states.device)
        if division.n_active == division.size:
            return inner(*args, **self._plain(kwargs))
        if division.n_active == 0:
            with torch.no_grad():
                return inner(*args, **self._plain(kwargs))
        # A view would keep the whole batch's states alive for as long as the graph does.
        states_of = [division.take(states, 0).clone(), division.take(states, 1)]
        shape = division.size, states.shape[1] == division.size
        new = shape not in self._tried[k]
        self._tried[k].add(shape)
        try:
            parts = [layer_arguments(args, kwargs, states_of[p], division, states.shape[1], p) for p in (0, 1)]
            if new:
                check_split(layer, inner, args, kwargs, states, division)
                waiting = run_alone(layer, inner, *parts[1])
        except CannotSplit as reason:
            self._warn(layer, reason)
            if new:
                run_alone(layer, inner, args, self._plain(kwargs))
            return _detached_outside(inner(*args, **self._plain(kwargs)), division)
        # Active rows first: a checkpointed layer that is recomputed stops once it has what they need.
        active = inner(*parts[0][0], **parts[0][1])
        if not new:
            with torch.no_grad():
                waiting = inner(*parts[1][0], **parts[1][1])
        return _joined(active, waiting, division, layer)

    @staticmethod
    def _plain(kwargs: Dict[str, Any]) -> Dict[str, Any]:
        """Layers that run whole keep no cache either, as those above them will not have it."""
        try:
            return _without_cache(kwargs)
        except CannotSplit:
            return kwargs

    def _warn(self, layer: nn.Module, reason: CannotSplit) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(layer).__name__} cannot run a part of the batch ({reason}): rows keep their own cuts, but "
                "nothing is saved where rows of one batch differ",
                RuntimeWarning,
                stacklevel=2,
            )
