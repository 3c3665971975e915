"""States at the boundary below which nothing trains, kept from epoch to epoch, so that their forward starts there.

Where layers below e never train again (LoRA[half], a suffix, turns and plans that go from shallow to deep), a datum's
state at space e is the same in every epoch. BoundaryCache keeps it, and the next forward of that datum skips layers
0 ... e-1: over three epochs of LoRA[half] the operations fall from .74 of full training's to .58.

A kept state is used only while it is right: the datum's tokens and mask must be those it was made from, and the
parameters below it must not have moved since. What is random in the forward (dropout) makes states that cannot be
kept, and is refused: the first datum that comes again is run once more and compared.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy
import torch
from torch import nn

from salf.torch.cache import claim
from salf.torch.optimizer import sample
from salf.torch.rows import (
    CannotSplit,
    Division,
    checked_states,
    layer_arguments,
    random_state,
    replace_forward,
    restore_forward,
    run_alone,
)

_TYPES = {"float32": (torch.float32, 4), "bfloat16": (torch.bfloat16, 2)}
# Rounding depends on the shape of the batch, and bfloat16 keeps 8 bits. What is random (dropout, noise on embeddings)
# changes a state by a share of its size.
_SAME, _SAME_FLOAT = 0.05, 0.005


@dataclass
class _Entry:
    """A datum's states [tokens, D] before a layer. place: in the file, or None where states are held here."""

    content: bytes
    layer: int
    shape: Tuple[int, int]
    states: Optional[torch.Tensor]
    place: int
    room: int


class BoundaryCache:
    """Keeps states of data by id, up to a size in bytes, in memory or in a file of a folder. They are of one model: a
    cache serves one controller at a time, and forgets what it has of the one before.

    size: bytes; what does not fit is computed each time, and a warning says so once. dtype: "float32", which gives the
    weights of a run without cache but for rounding, or "bfloat16", half the size. folder: where the file lies, which
    has no name and is gone with the process; None: memory of the host.
    """

    def __init__(self, size: int, dtype: str = "float32", folder: Union[str, os.PathLike[str], None] = None) -> None:
        if dtype not in _TYPES:
            raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(_TYPES)}")
        if size <= 0:
            raise ValueError(f"size is {size}: a cache has room for some bytes")
        self.size, self.used = int(size), 0
        self.hits = self.misses = 0
        self.type, self._bytes = _TYPES[dtype]
        self._entries: Dict[int, _Entry] = {}
        self._said: List[str] = []
        self._file: Any = None
        if folder is not None:
            try:
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives with the cache
            except OSError as error:
                self._give_up(f"no file can be made in {os.fspath(folder)}: {error.strerror}")
                self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets all states."""
        self._entries = {}
        self.used = 0

    def find(self, datum: int, content: bytes, deepest: int) -> Optional[_Entry]:
        """The states of a datum at a layer that is not above deepest, if they are of this content."""
        entry = self._entries.get(datum)
        return entry if entry is not None and entry.content == content and entry.layer <= deepest else None

    def read(self, entry: _Entry) -> torch.Tensor:
        """The states of an entry, in the cache's type, on the host."""
        if entry.states is not None:
            return entry.states
        size = entry.shape[0] * entry.shape[1] * self._bytes
        data = bytearray(os.pread(self._file.fileno(), size, entry.place))
        if len(data) != size:
            raise OSError(f"the boundary cache's file gave {len(data)} of {size} bytes")
        return torch.frombuffer(data, dtype=self.type).view(entry.shape)

    def put(self, datum: int, content: bytes, layer: int, states: torch.Tensor) -> None:
        """Keeps states [tokens, D] of a datum before a layer, where there is room."""
        kept = states.detach().to("cpu", self.type).contiguous()
        need = kept.numel() * kept.element_size()
        old = self._entries.pop(datum, None)
        room, place = (old.room, old.place) if old is not None else (0, self.used)
        if need > room:  # the room of an entry that grew is lost in the file; texts seldom do
            if self._file is None:
                self.used -= room
            room, place = need, self.used
            if self.used + need > self.size:
                self._give_up(f"{self.size} bytes are full with {len(self._entries)} data")
                return
            self.used += need
        if self._file is not None:
            try:
                written = os.pwrite(self._file.fileno(), kept.view(torch.int16).numpy().tobytes(), place)
            except OSError as error:
                self._give_up(str(error.strerror))
                return
            if written != need:
                self._give_up("the file took a part of a datum's states only")
                return
        held = kept.clone() if self._file is None else None
        self._entries[datum] = _Entry(content, layer, (kept.shape[0], kept.shape[1]), held, place, room)

    def _give_up(self, reason: str) -> None:
        if not self._said:
            self._said.append(reason)
            warnings.warn(
                f"the boundary cache keeps no more states ({reason}): training goes on without",
                RuntimeWarning,
                stacklevel=3,
            )


class Boundary:
    """Takes the place of the layers' forward() and lets a batch begin where the cache has its data.

    set(layer) says below which layer nothing trains; it may only rise. begin() announces a batch, with the ids of its
    data and what the model is given of them. embedding: what makes the states that enter the first layer. Made after
    RowCuts, where both are used.
    """

    def __init__(
        self, layers: Sequence[nn.Module], cache: BoundaryCache, embedding: Optional[nn.Module] = None
    ) -> None:
        self.cache = cache
        self._embedding = embedding
        self._layers = tuple(layers)
        self._layer = 0
        self._fingerprints: List[Tuple[int, ...]] = []
        self._batch: Optional[_Batch] = None
        self._compared = False
        # How many things a layer gives beside its states, None where it gives states alone.
        self._beside: List[Optional[int]] = [None] * len(self._layers)
        self._tried = [False] * len(self._layers)
        self.closed = False
        claim(cache, self)
        self._own = [replace_forward(layer, self._instead_of(k)) for k, layer in enumerate(self._layers)]

    def close(self) -> None:
        """Gives the layers their own forward() back."""
        for layer, own in zip(self._layers, self._own):
            restore_forward(layer, own)
        self._own = []
        self.closed = True

    def set(self, layer: int) -> None:
        """Nothing below this layer trains any more. A smaller one than before empties the cache."""
        if not 0 <= layer <= len(self._layers):
            raise ValueError(f"layer {layer} is not in 0 ... {len(self._layers)}")
        if layer < self._layer:
            self.cache.clear()
        self._layer = layer

    def begin(
        self,
        ids: Sequence[int],
        input_ids: torch.Tensor,
        attention_mask: Optional[torch.Tensor] = None,
        others: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """The next forward is of these data: their ids, tokens [batch, tokens] and mask; others: what else the model is
        given that states may depend on, by name (positions, images)."""
        if len(ids) != len(input_ids):
            raise ValueError(f"{len(ids)} ids for {len(input_ids)} rows of input_ids")
        self._check_parameters()
        batch = _Batch(ids, input_ids, attention_mask, others or {})
        if self._layer > 0:
            batch.find(self.cache, self._layer)
            if not self._compared and any(batch.starts):
                batch.compared = batch.starts
                batch.starts = [0] * len(batch.starts)
        self._batch = batch

    def drop(self) -> None:
        """The batch announced is not run after all."""
        self._batch = None

    def _check_parameters(self) -> None:
        """Whether what lies below the kept states is as it was: their memory, how often they were written to, and a few
        of their numbers, as what is written by way of parameter.data is not counted."""
        below = (
            [] if self._embedding is None else [self._embedding],
            *([layer] for layer in self._layers[: self._layer]),
        )
        now = [tuple(x for m in part for p in m.parameters() for x in _mark(p)) for part in below]
        if self._fingerprints[: len(now)] != now[: len(self._fingerprints)]:
            if len(self.cache):
                warnings.warn(
                    "layers below the boundary have moved: the states kept are dropped", RuntimeWarning, stacklevel=3
                )
            self.cache.clear()
        self._fingerprints = now

    def _instead_of(self, k: int) -> Callable[..., Any]:
        def forward(inner: Callable[..., Any], args: Any, kwargs: Dict[str, Any]) -> Any:
            batch = self._batch
            if batch is None or k > self._layer or self._layer == 0 or not torch.is_grad_enabled():
                return inner(*args, **kwargs)
            states = checked_states(self._layers[k], args, kwargs, len(batch.starts))
            if batch.done and k == 0:
                raise RuntimeError("a second forward of one batch: call begin() before each")
            states = batch.enter(self.cache, k, states.detach())
            if k < self._layer:
                before = random_state(states.device)
                with torch.no_grad():
                    output = self._below(k, inner, args, kwargs, states, batch)
                if not torch.equal(before, random_state(states.device)):
                    raise RuntimeError(
                        f"layer {k} draws random numbers (dropout?), and its states cannot be kept: set dropout to 0 "
                        "(lora_dropout too)"
                    )
                return output
            if not batch.done:  # checkpointing runs the layer once more in the backward
                self._compare(batch, states)
                batch.keep(self.cache, k, states)
                batch.done = True
            given, named = layer_arguments(args, kwargs, states, None, states.shape[1])
            return inner(*given, **named)

        return forward

    def _below(self, k: int, inner: Callable[..., Any], args: Any, kwargs: Any, states: Any, batch: _Batch) -> Any:
        """A layer under the boundary, for the rows that have to pass it."""
        division = Division(batch.starts, k, states.device)
        if division.n_active == 0:
            beside = self._beside[k]
            return states if beside is None else (states, *[None] * beside)
        if division.n_active < division.size:
            try:
                part = division.take(states, 0)
                given, named = layer_arguments(args, kwargs, part, division, states.shape[1])
                output = inner(*given, **named)
                active = output[0] if isinstance(output, tuple) else output
                joined = division.join(active, division.take(states, 1))
                return (joined, *output[1:]) if isinstance(output, tuple) else joined
            except CannotSplit as reason:
                raise ValueError(f"the boundary cache cannot run a part of a batch: {reason}") from None
        given, named = layer_arguments(args, kwargs, states, None, states.shape[1])
        new, self._tried[k] = not self._tried[k], True
        output = run_alone(self._layers[k], inner, given, named) if new else inner(*given, **named)
        self._beside[k] = len(output) - 1 if isinstance(output, tuple) else None
        return output

    def _compare(self, batch: _Batch, states: torch.Tensor) -> None:
        """The first data that come again are run as if they were new, and must give the states that were kept."""
        for row, start in enumerate(batch.compared or ()):
            entry = batch.entries[row]
            if start != self._layer or entry is None:
                continue
            kept = self.cache.read(entry).to(states.device, torch.float32)
            found = states[row, : entry.shape[0]].float()
            exact = self.cache.type == states.dtype == torch.float32
            if (kept - found).norm() > (_SAME_FLOAT if exact else _SAME) * found.norm():
                raise RuntimeError(
                    "a datum that came again had other states at the boundary: something in the forward is random "
                    "(dropout or noise on embeddings?), and states cannot be kept"
                )
            self._compared = True


def _mark(parameter: nn.Parameter) -> Tuple[Any, ...]:
    plain = type(parameter) is nn.Parameter  # numbers of another kind cannot always be picked
    return (parameter.data_ptr(), parameter._version, *(sample(parameter).tolist() if plain else ()))


class _Batch:
    """The data of a forward, and the layer at which each of them starts."""

    def __init__(
        self, ids: Sequence[int], input_ids: torch.Tensor, mask: Optional[torch.Tensor], others: Mapping[str, Any]
    ) -> None:
        self.ids = [int(i) for i in ids]
        tokens = input_ids.detach().cpu().numpy()
        masks = numpy.ones_like(tokens) if mask is None else mask.detach().cpu().numpy()
        if masks.shape != tokens.shape:
            raise ValueError(f"attention_mask has shape {masks.shape}, input_ids {tokens.shape}")
        # Tokens behind the last one that counts are padding, of which a causal model's states do not depend.
        self.lengths = [int(numpy.flatnonzero(row)[-1]) + 1 if row.any() else 0 for row in masks]
        self.content = [
            hashlib.blake2b(b"|".join((row[:n].tobytes(), seen[:n].tobytes(), *rest)), digest_size=16).digest()
            for row, seen, n, rest in zip(tokens, masks, self.lengths, _rest_by_row(others, tokens.shape, self.lengths))
        ]
        self.starts = [0] * len(self.ids)
        self.entries: List[Optional[_Entry]] = [None] * len(self.ids)
        self.compared: Optional[List[int]] = None
        self.done = False

    def find(self, cache: BoundaryCache, deepest: int) -> None:
        """Where each datum starts."""
        self.entries = [cache.find(i, content, deepest) for i, content in zip(self.ids, self.content)]
        self.starts = [0 if entry is None else entry.layer for entry in self.entries]
        cache.hits += sum(entry is not None for entry in self.entries)
        cache.misses += sum(entry is None for entry in self.entries)

    def enter(self, cache: BoundaryCache, k: int, states: torch.Tensor) -> torch.Tensor:
        """States before layer k, those of the data that start here put in."""
        here = [row for row, start in enumerate(self.starts) if start == k and k > 0]
        if here:
            states = states.clone()
        for row in here:
            entry = self.entries[row]
            assert entry is not None
            states[row] = 0
            states[row, : entry.shape[0]] = cache.read(entry).to(states.device, states.dtype)
        return states

    def keep(self, cache: BoundaryCache, layer: int, states: torch.Tensor) -> None:
        """Keeps what was computed up to this layer and is not there yet."""
        for row, n in enumerate(self.lengths):
            entry = self.entries[row]
            if n > 0 and (entry is None or entry.layer < layer):
                cache.put(self.ids[row], self.content[row], layer, states[row, :n])


def _rest_by_row(others: Mapping[str, Any], shape: Tuple[int, ...], lengths: Sequence[int]) -> List[List[bytes]]:
    """For each row, the bytes of what belongs to it; of what does not go by row, such as several images of a datum, all
    of them: a state is then used again only where the whole of it comes again. Single numbers and switches (how many
    items the loss counts, whether there is a cache) are not the data's."""
    rest: List[List[bytes]] = [[] for _ in lengths]
    for name, value in sorted(others.items()):
        if value is None or isinstance(value, (bool, int, float)) or (torch.is_tensor(value) and value.dim() == 0):
            continue
        if isinstance(value, torch.Tensor):
            held = value.detach().cpu().contiguous()
            raw = held.view(torch.uint8).numpy()
            by_row, by_token = held.shape[:1] == shape[:1], held.shape[:2] == shape
            for row, n in enumerate(lengths):
                own = raw[row] if by_row else raw
                rest[row] += [name.encode(), (own[: n * len(own) // shape[1]] if by_token else own).tobytes()]
        else:
            for parts in rest:
                parts.extend((name.encode(), repr(value).encode()))
    return rest
