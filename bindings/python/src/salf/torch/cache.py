"""Deviations of data by their id, so that a datum probed in one epoch need not be probed in the next.

What is cached are the m+1 deviations of a datum, from which gains and eof follow; a batch of cached data has its
decision before the forward. Entries older than max_age optimizer steps are probed again.
"""

from __future__ import annotations

import weakref
from typing import Any, Dict, Optional, Sequence

import numpy
import torch

import salf

# Whose each cache is.
_OWNERS: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def claim(cache: Any, owner: Any) -> None:
    """Makes a cache its owner's. ValueError while it is another's that is not closed: data have the same numbers
    everywhere, and other states in every model. What is left of an owner before is forgotten."""
    other = _OWNERS[cache]() if cache in _OWNERS else None
    if other is not None and not other.closed:
        raise ValueError(f"the {type(cache).__name__} is in use by another controller: each needs one of its own")
    if cache in _OWNERS:
        cache.clear()
    _OWNERS[cache] = weakref.ref(owner)


class EofCache:
    """Deviations by datum id; 8 (m+1) bytes a datum and the dictionary's own. max_age: optimizer steps after which a
    datum is probed again, None for never. Deviations are of one model: a cache serves one controller at a time, and
    forgets what it has of the one before."""

    def __init__(self, max_age: Optional[int] = None) -> None:
        if max_age is not None and not max_age >= 0:
            raise ValueError(f"max_age is {max_age}; it counts optimizer steps, None for no end")
        self.max_age = max_age
        self._entries: Dict[int, Any] = {}
        self._steps: Dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets all entries."""
        self._entries, self._steps = {}, {}

    def put(self, ids: Sequence[int], trace: salf.Trace, step: int) -> None:
        """Takes the deviations of data that were probed at an optimizer step."""
        for datum, deviations in zip(ids, numpy.asarray(trace.deviations)):
            self._entries[int(datum)] = numpy.array(deviations, dtype=numpy.float64)
            self._steps[int(datum)] = step

    def holds(self, ids: Sequence[int], step: int) -> bool:
        """Whether all of these data are there and young enough."""
        oldest = -1 if self.max_age is None else step - self.max_age
        return all(int(datum) in self._entries and self._steps[int(datum)] >= oldest for datum in ids)

    def trace(self, ids: Sequence[int], rule: str, nonfinite: str) -> salf.Trace:
        """The trace that a probe of these data gave."""
        deviations = numpy.stack([self._entries[int(datum)] for datum in ids])
        return salf.Trace.from_deviations(deviations, rule, nonfinite)

    def state_dict(self) -> Dict[str, Any]:
        """For a checkpoint."""
        ids = sorted(self._entries)
        deviations = [self._entries[i] for i in ids]
        return {
            "ids": ids,
            "steps": [self._steps[i] for i in ids],
            "deviations": torch.from_numpy(numpy.stack(deviations)) if ids else torch.empty(0, device="cpu"),
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """From a checkpoint."""
        self._entries = dict(zip(state["ids"], state["deviations"].numpy()))
        self._steps = dict(zip(state["ids"], state["steps"]))
