"""Rows at their own cut: each decoder layer runs the rows that it trains with a graph, and the others without.

A budget, or a trace, gives every datum of a batch a cut of its own. Where the cuts are known before the forward,
layer k needs a graph for the rows whose cut is at most k alone: the others keep no activations there and their
backward ends above it. The gradients are those of training each datum by itself, and both the time of the backward and
the memory of the activations shrink to the rows' share. RowCuts does this by splitting a batch at each layer.

Where the cuts are known after the forward only (method salf), activations are recomputed instead: recompute.py.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import nn

from salf.torch.hooks import Forward
from salf.torch.streams import moved

# Arguments that layers take besides states and masks, and that have no row of their own.
_SHARED = frozenset(("cache_position",))
# Keys and values of earlier tokens: a training forward has none, and a layer that runs twice would store them twice.
_CACHES = ("past_key_values", "past_key_value", "cache", "layer_past")


class CannotSplit(Exception):
    """Why a layer's arguments cannot be told apart by row."""


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
        self._parts = [moved(torch.tensor(part, dtype=torch.long), device) for part in (active, waiting)]
        places = sorted(range(self.size), key=order.__getitem__)
        self._places = moved(torch.tensor(places, dtype=torch.long), device)

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
        states = args[0] if args else kwargs.get("hidden_states")
        assert self._cuts is not None
        if not isinstance(states, torch.Tensor) or states.shape[0] != len(self._cuts):
            shape = tuple(states.shape) if isinstance(states, torch.Tensor) else type(states).__name__
            raise ValueError(f"{len(self._cuts)} rows were announced, but layer {k} got states {shape}")
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
        try:
            parts = [layer_arguments(args, kwargs, states_of[p], division, states.shape[1], p) for p in (0, 1)]
        except CannotSplit as reason:
            self._warn(layer, reason)
            return _detached_outside(inner(*args, **self._plain(kwargs)), division)
        # Active rows first: a checkpointed layer that is recomputed stops once it has what they need.
        active = inner(*parts[0][0], **parts[0][1])
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
